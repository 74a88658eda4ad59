"""Spreads runs over the workers of a Dask cluster: an embedded one on this machine, or one that exists.

A run is one task. A worker that sees the result folder writes each round there itself, so that a run whose worker
dies is taken up again from its last round. How it knows: the driver passes on what it wrote in the folder's
`.lock_holder`, which names machine, process and time. A worker that does not find it there keeps its rounds in memory
and returns them, and the driver writes them.
"""

import hashlib
import logging
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from active_learning.config import RunConfig
from active_learning.execution import Advance, append, describe, execute, execute_in_folder, session
from active_learning.interruption import Interrupted
from active_learning.loop import RoundResult
from active_learning.store import Row, RunFolder, Weights

PROGRESS_TOPIC = "deep-bayesian-active-learning-rounds"
TASK = "deep-bayesian-active-learning-run"
"""The kind of task a run is to Dask, which learns from the first how long the others may take."""
CONNECT_SECONDS = 15
PROGRAM_DIR = Path(__file__).resolve().parent.parent
RUN_SOURCES = (
    *("load_data.py", "cnn_model.py", "acquisition_functions.py"),
    *(
        f"active_learning/{name}.py"
        for name in ("config", "streams", "loop", "metrics", "mbr", "run_field", "store", "execution", "cluster")
    ),
)


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of one run."""

    run: RunConfig
    result_dir: Path
    holder: str
    data_dir: Path | None
    code: str
    finished: list[Row]
    weights: Weights | None


@dataclass(frozen=True)
class Returned:
    """What a worker sends back; `results` and `session` only where it does not see the result folder."""

    failure: str | None
    details: str = ""
    results: list[RoundResult] = field(default_factory=list)
    session: Row | None = None


@contextmanager
def embedded_cluster(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine that listen on 127.0.0.1 only and end with this process."""
    # A worker takes one run at a time, in the order of the list; an idle one must not be given a second in advance.
    settings = {
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.http.routes": [],
        # Dask assigns tasks early, and an idle worker takes over only those whose time is known to be worth it.
        "distributed.scheduler.default-task-durations": {TASK: "1h"},
        # In place of Dask's own, which has the allocator give every large block back at once: a fit then spends a third
        # of its time on page faults. A run sets its threads itself.
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1},
    }
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(settings):
        with _children_without_sigint():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def existing_cluster(address: str) -> Iterator[Client]:
    """Connect to the scheduler of a cluster; TLS is set as for any Dask client, in Dask's configuration.

    Raises:
        ConnectionError: when no scheduler answers there.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConnectionError(
            f"--scheduler {address} does not answer as a Dask scheduler ({describe(error)}): start one with "
            "`dask scheduler`, or leave the flag out to run on this machine"
        ) from error
    with client:
        yield client


def execute_on_cluster(
    client: Client,
    runs: Sequence[RunConfig],
    result_dir: Path,
    holder: str,
    data_dir: Path | None,
    advance: Advance,
    check: Callable[[], None],
) -> Iterator[tuple[RunConfig, str | None]]:
    """Execute runs on a cluster's workers; yield each that ended, with the reason if it failed.

    Args:
        client: of the cluster.
        runs: unfinished runs, in the order in which they are to be begun.
        result_dir: the result folder, held by this process.
        holder: what `.lock_holder` says there.
        data_dir: where the data set is on the workers' machines.
        advance: told of each finished round.
        check: called twice a second; when it raises, the workers stop at their next batch.

    Raises:
        ConnectionError: when the scheduler is lost.
    """
    by_name = {(run.name, run.repetition): run for run in runs}

    def on_event(event: tuple[float, tuple[str, int, int, float]]) -> None:
        name, repetition, round_, test_error = event[1]
        if (name, repetition) in by_name:  # a stopped experiment's last rounds may still come in
            advance(by_name[name, repetition], round_, test_error)

    client.subscribe_topic(PROGRESS_TOPIC, on_event)
    futures = {
        client.submit(
            execute_job,
            _job(run, result_dir, holder, data_dir),
            pure=False,
            key=(TASK, run.name, run.repetition, holder),
            priority=-position,
        ): run
        for position, run in enumerate(runs)
    }
    try:
        for future in _as_completed(list(futures), check):
            run = futures[future]
            yield run, _settle(RunFolder(result_dir, run), future, check)
    finally:
        client.cancel(list(futures))


def _job(run: RunConfig, result_dir: Path, holder: str, data_dir: Path | None) -> Job:
    folder = RunFolder(result_dir, run)
    finished = folder.load()
    return Job(
        run=run,
        result_dir=result_dir.resolve(),
        holder=holder,
        data_dir=data_dir and data_dir.expanduser().resolve(),
        code=code_digest(),
        finished=finished,
        weights=folder.weights() if run.warm_start and finished else None,
    )


def _as_completed(futures: Sequence[Future[Returned]], check: Callable[[], None]) -> Iterator[Future[Returned]]:
    waiting = set(futures)
    while waiting:
        check()
        try:
            done, waiting = wait(waiting, timeout=0.5, return_when="FIRST_COMPLETED")
        except TimeoutError:
            continue
        yield from done


def _settle(folder: RunFolder, future: Future[Returned], check: Callable[[], None]) -> str | None:
    """Write what has not been written by the worker; return the reason if the run failed."""
    if future.cancelled():
        raise ConnectionError("the Dask scheduler was lost")
    error = future.exception()
    if error is None:
        returned: Returned = future.result()
        if returned.session is None:
            return returned.failure
    else:
        returned = Returned(_reason(error))
    with folder.locked(check):
        folder.load()
        folder.mend()
        if returned.session is not None:
            folder.begin_session(returned.session)
        for result in returned.results:
            append(folder, result)
        if returned.failure is not None:
            folder.fail(returned.failure, returned.details)
    return returned.failure


def _reason(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return f"its worker process died, {error.allowed_failures + 1} times in a row"
    if isinstance(error, ModuleNotFoundError):
        return f"a worker cannot import it ({error}): start the workers with PYTHONPATH={PROGRAM_DIR}"
    return describe(error)


def execute_job(job: Job) -> Returned:
    """Execute one run in a worker."""
    worker = get_worker()
    key = worker.get_current_task()

    def check() -> None:
        # The scheduler takes back the tasks of a driver that stopped or died, but it cannot end one that works.
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Interrupted

    def advance(run: RunConfig, round_: int, test_error: float) -> None:
        worker.log_event(PROGRESS_TOPIC, (run.name, run.repetition, round_, test_error))

    if job.code != code_digest():
        return Returned("its worker has another version of this program", session={})
    try:
        if _is_shared(job):
            return Returned(execute_in_folder(job.run, job.result_dir, job.data_dir, advance, check))
        return _execute_in_memory(job, advance, check)
    except Interrupted:
        return Returned("it is no longer wanted")


def _is_shared(job: Job) -> bool:
    try:
        return (job.result_dir / ".lock_holder").read_text() == job.holder
    except OSError:
        return False


def _execute_in_memory(job: Job, advance: Advance, check: Callable[[], None]) -> Returned:
    results: list[RoundResult] = []
    events: list[Row] = []

    def note(event: str) -> None:
        events.append({"round": len(job.finished) + len(results), "event": event})

    def save(result: RoundResult) -> None:
        results.append(result)
        advance(job.run, result.round, result.test_error)

    failure, details = None, ""
    try:
        execute(job.run, job.finished, job.weights, job.data_dir, save, check, note)
    except Exception as error:
        failure, details = describe(error), traceback.format_exc()
    here = session(job.run)
    return Returned(failure, details, results, {**here, "events": events} if events else here)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the sha256 of the source files that take part in a run: only the same code gives the same bytes."""
    return hashlib.sha256(b"".join((PROGRAM_DIR / name).read_bytes() for name in RUN_SOURCES)).hexdigest()


@contextmanager
def _children_without_sigint() -> Iterator[None]:
    """Let processes started within never see SIGINT.

    Ctrl-C in a terminal goes to every process of the program. The driver ends its workers itself; they would print a
    traceback each and be started again. Threads inherit the mask and so does every worker that they start, also in
    place of a dead one; this thread gets its own back once the embedded cluster's threads are there.
    """
    resource_tracker.ensure_running()  # it unblocks SIGINT in the thread that first needs it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
