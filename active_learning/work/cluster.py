"""Spreads runs over the workers of a Dask cluster: an embedded one on this machine, or one that exists.

A run is one task. A worker that sees the result folder writes each round there itself, so that a run whose worker
dies is taken up again from its last round. How it knows: the driver passes on what it wrote in the folder's
`.lock_holder`, which names machine, process and time. A worker that does not find it there sends each round to the
driver, which writes it when it comes in, and all of them once more at the end, in case one was lost on the way.
"""

import hashlib
import json
import logging
import math
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask
import safetensors.numpy
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from active_learning.disk.files import refusal
from active_learning.disk.provenance import VERSIONED
from active_learning.disk.record import Round, Row
from active_learning.disk.store import RunFolder
from active_learning.interruption import Check, Interrupted, Watch
from active_learning.settings.config import RunConfig
from active_learning.settings.learners import Weights
from active_learning.work.reasons import describe
from active_learning.work.scheduler import PROGRAM_DIR, no_scheduler, python_path, tls_flags
from load_data import at_home

if TYPE_CHECKING:
    from active_learning.work.execution import Advance

PROGRESS_TOPIC = "deep-bayesian-active-learning-rounds"
TASK = "deep-bayesian-active-learning-run"
"""The kind of task a run is to Dask, which learns from the first how long the others may take."""
CONNECT_SECONDS = 15
SECONDS_BETWEEN_LOOKS = 5.0
"""A look for workers asks the scheduler, which takes a while where it is far away."""
RUN_SOURCES = sorted(
    [
        *(PROGRAM_DIR / f"{name}.py" for name in ("acquisition_functions", "cnn_model", "load_data")),
        *PROGRAM_DIR.glob("active_learning/*.py"),
        *(
            path
            for name in ("settings", "models", "disk", "images")
            for path in PROGRAM_DIR.glob(f"active_learning/{name}/*.py")
        ),
        *(
            Path(__file__).resolve().with_name(f"{name}.py")
            for name in ("__init__", "cluster", "execution", "reasons", "scheduler")
        ),
    ]
)
"""All code that a run's numbers can follow from."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of one run."""

    run: RunConfig
    result_dir: Path
    holder: str
    data_dir: Path | None
    code: str
    finished: list[Round]
    weights: Weights | None


@dataclass(frozen=True)
class Returned:
    """What a worker sends back; all but `failure` only where it does not see the result folder."""

    failure: str | None
    details: str = ""
    packets: list[Row] = field(default_factory=list)
    session: Row | None = None
    events: list[Row] = field(default_factory=list)


@contextmanager
def embedded_cluster(workers: int, scratch: Path, check: Check) -> Iterator[Client]:
    """Start worker processes on this machine that listen on 127.0.0.1 only and end with this process.

    Args:
        workers: how many.
        scratch: a folder for what Dask itself has to write; it is removed at the end.
        check: called once they have started, or have not.

    Raises:
        ConnectionError: when they do not start.
    """
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
    _silence_dask()
    with dask.config.set(settings):
        try:
            with _started(workers, scratch, check) as cluster, SelfClosingClient(cluster) as client:
                check()
                yield client
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _started(workers: int, scratch: Path, check: Check) -> LocalCluster:
    try:
        with _children_without_sigint():
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                preload="active_learning.work.execution",  # all workers at once, and not each with its first run
                local_directory=str(scratch.resolve()),
            )
    except (RuntimeError, OSError) as error:
        check()  # a signal to all processes of the program ended them, too
        why = f" ({refusal(error)})" if isinstance(error, OSError) else ""  # Dask's own words help nobody
        raise ConnectionError(f"the {workers} worker processes did not start{why}; --jobs 1 needs none") from error


class SelfClosingClient(Client):
    """A client that closes itself where it finds no scheduler.

    Dask leaves that to garbage collection. When this falls into the start of the next client, it waits for a lock that
    the start holds, for ever.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        try:
            super().__init__(*arguments, **settings)  # type: ignore[no-untyped-call]
        except BaseException:
            self.__del__()  # type: ignore[no-untyped-call]  # closes what there is of it
            raise


@contextmanager
def existing_cluster(address: str) -> Iterator[Client]:
    """Connect to the scheduler of a cluster; TLS is set as for any Dask client, in Dask's configuration.

    Raises:
        ConnectionError: when no scheduler answers there.
    """
    _silence_dask()
    try:
        client = SelfClosingClient(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise no_scheduler(address, describe(error)) from error
    except MemoryError as error:  # the length of a first message that is none
        raise no_scheduler(address, "it speaks another protocol") from error
    with client:
        yield client


def telling_of_workers(client: Client, address: str, check: Check) -> Check:
    """Return a check that, besides, says once each time that a cluster has no worker (any more)."""
    missing, looked = False, -math.inf

    def look() -> None:
        nonlocal missing, looked
        check()
        if time.monotonic() - looked < SECONDS_BETWEEN_LOOKS:
            return
        was_missing = missing
        with suppress(OSError, TimeoutError):  # of a scheduler that is lost the runs themselves tell
            missing = not client.nthreads()
        looked = time.monotonic()
        if missing and not was_missing:
            print(
                f"--scheduler {address} has no worker, and the runs wait for one: start it with `{python_path()} dask "
                f"worker {address} --nthreads 1{tls_flags(address)}` (without PYTHONPATH it ends at once).",
                file=sys.stderr,
            )

    return look


def ask(client: Client, check: Check, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a worker, called with arguments and a check of whether it is still wanted.

    Raises:
        ConnectionError: when the worker or the scheduler is lost.
        Exception: whatever the function or `check` raises.
    """
    future = client.submit(_answer, function, arguments, pure=False)
    try:
        (done,) = _as_completed([future], check)
        return done.result()
    except (KilledWorker, CancelledError) as error:
        why = _died(error) if isinstance(error, KilledWorker) else reason_of(error)
        raise ConnectionError(
            f"{why}, before any run: there may be too little memory, of which --jobs 1 takes less"
        ) from error
    finally:
        with suppress(Exception):
            client.cancel([future])


def _answer(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    with suppress(Interrupted):  # by then nobody reads what it returns
        return function(*arguments, _task_check())


def execute_on_cluster(
    client: Client,
    folders: Sequence[RunFolder],
    result_dir: Path,
    holder: str,
    data_dir: Path | None,
    advance: "Advance",
    check: Check,
) -> Iterator[tuple[RunConfig, str | None]]:
    """Execute runs on a cluster's workers; yield each that ended, with the reason if it failed.

    Args:
        client: of the cluster.
        folders: those of unfinished runs, loaded, in the order in which the runs are to be begun.
        result_dir: the result folder, held by this process.
        holder: what `.lock_holder` says there.
        data_dir: where the data set is on the workers' machines.
        advance: told of each finished round, once it is on disk.
        check: called twice a second; when it raises, the workers stop at their next batch.

    Raises:
        ConnectionError: when the scheduler is lost.
    """
    inbox: SimpleQueue[Row] = SimpleQueue()
    client.subscribe_topic(PROGRESS_TOPIC, lambda event: inbox.put(event[1]))
    by_name = {(folder.config.name, folder.config.repetition): folder for folder in folders}

    def look() -> None:
        receive(inbox, by_name, holder, advance)
        check()

    futures = {
        client.submit(
            execute_job,
            _job(folder, result_dir, holder, data_dir),
            pure=False,
            key=(TASK, *name, holder),
            priority=-position,
        ): folder
        for position, (name, folder) in enumerate(by_name.items())
    }
    try:
        for future in _as_completed(list(futures), look):
            folder = futures[future]
            yield folder.config, _settle(folder, future, check)
    except CancelledError as error:  # nobody here cancels them before the end
        raise ConnectionError("the Dask scheduler was lost") from error
    finally:
        with suppress(Exception):  # a lost scheduler has none left
            client.cancel(list(futures))


def _job(folder: RunFolder, result_dir: Path, holder: str, data_dir: Path | None) -> Job:
    return Job(
        run=folder.config,
        result_dir=result_dir.resolve(),
        holder=holder,
        data_dir=data_dir and at_home(data_dir).resolve(),
        code=code_digest(),
        finished=list(folder.rounds),
        weights=folder.weights() if folder.config.warm_start and folder.rounds else None,
    )


def _as_completed(futures: Sequence[Future[Any]], look: Check) -> Iterator[Future[Any]]:
    waiting = set(futures)
    while waiting:
        look()
        try:
            done, waiting = wait(waiting, timeout=0.5, return_when="FIRST_COMPLETED")
        except TimeoutError:
            continue
        look()
        yield from done


def receive(
    inbox: "SimpleQueue[Row]",
    folders: Mapping[tuple[str, int], RunFolder],
    holder: str,
    advance: "Advance",
) -> None:
    """Write the rounds that came in and tell of them; those that an experiment before this one asked for are not."""
    with suppress(Empty):
        while True:
            message = inbox.get_nowait()
            folder = folders.get((message["name"], message["repetition"]))
            if folder is None or message["holder"] != holder:
                continue
            if message["packet"] is not None:
                _write_early(folder, message)
            advance(folder.config, message["round"], message["test_error"])


def _write_early(folder: RunFolder, message: Row) -> None:
    if folder.going:  # by another worker, which sees the folder: what it lacks comes once more at the end
        return
    with folder.locked():
        folder.load()
        folder.mend()
        folder.continue_session(message["session"])
        _append_next(folder, message["packet"])


def _append_next(folder: RunFolder, packet: Row) -> None:
    """Put a round on disk if it is the next one, and if its worker came to it by the rounds that are there.

    A run whose worker was lost is begun anew elsewhere, from what was known at its submission: its first rounds may be
    on disk already, and another processor may even have come to others.
    """
    weights = packet["weights"] and safetensors.numpy.load(packet["weights"])
    round_ = Round(**packet["round"], seconds=packet["seconds"], weights=weights)
    if round_.round == len(folder.rounds) and packet["history"] == _history(folder.rounds):
        folder.append(round_)


def _packet(round_: Round, history: str) -> Row:
    """Return a round as plain data, with the history that led to it."""
    weights = round_.weights and safetensors.numpy.save(round_.weights)
    return {"round": round_.row(), "seconds": round_.seconds, "weights": weights, "history": history}


def _history(rounds: Sequence[Round]) -> str:
    """Return the sha256 of the images acquired so far."""
    acquired = [round_.acquired_train_index for round_ in rounds]
    return hashlib.sha256(json.dumps(acquired).encode()).hexdigest()


def _settle(folder: RunFolder, future: Future[Returned], check: Check) -> str | None:
    """Write what has not been written by the worker; return the reason if the run failed."""
    if future.cancelled():
        raise ConnectionError("the Dask scheduler was lost")
    error = future.exception()
    if error is None:
        returned: Returned = future.result()
        if returned.session is None:
            return returned.failure
    else:
        returned = Returned(reason_of(error, folder.config))
    with folder.locked(check):
        folder.load()
        folder.mend()
        if returned.session is not None:
            folder.continue_session(returned.session)
        for packet in returned.packets:
            _append_next(folder, packet)
        for row in returned.events:
            folder.note(row["event"], row["round"])
        failure = returned.failure
        if failure is None and not folder.finished:
            failure = f"a second worker came to other images than the first, whose {len(folder.rounds)} rounds are kept"
        if failure is not None:
            folder.fail(failure, returned.details)
    return failure


def _died(error: KilledWorker) -> str:
    return f"its worker process died, {error.allowed_failures + 1} times in a row"


def reason_of(error: BaseException, run: RunConfig | None = None) -> str:
    """Return why a task ended, of a run if one is named, in the words of this program."""
    if isinstance(error, KilledWorker):
        return f"{_died(error)} (try fewer workers at a time: there may be too little memory)"
    if isinstance(error, ModuleNotFoundError):
        ours = (PROGRAM_DIR / f"{(error.name or '').partition('.')[0]}.py").exists() or "active_learning" in str(error)
        way = f"start the workers with {python_path()}" if ours else "install it there"
        return f"a worker cannot import it ({error}): {way}"
    if "deserialization of the task graph" in str(error):
        return f"the scheduler cannot import it: start scheduler and workers with {python_path()}"
    return describe(error, run)


def execute_job(job: Job) -> Returned:
    """Execute one run in a worker."""
    # not at the top: the driver needs no torch
    from active_learning.work.execution import execute_in_folder

    worker, check = get_worker(), _task_check()

    def tell(round_: int, test_error: float, packet: Row | None = None, session: Row | None = None) -> None:
        message = {"holder": job.holder, "name": job.run.name, "repetition": job.run.repetition, "round": round_}
        worker.log_event(PROGRESS_TOPIC, {**message, "test_error": test_error, "packet": packet, "session": session})

    if refused := _refusal(job, worker.state.nthreads):
        return Returned(refused, session={})
    try:
        if is_shared(job):
            folder = RunFolder(job.result_dir, job.run)
            return Returned(execute_in_folder(folder, job.data_dir, lambda _, *told: tell(*told), check))
        return _execute_in_memory(job, tell, check)
    except Interrupted:
        return Returned("it is no longer wanted")


def _task_check() -> Check:
    """Return what ends the worker's current task once it is no longer wanted."""
    worker = get_worker()
    key = worker.get_current_task()

    def check() -> None:
        # The scheduler takes back the tasks of a driver that stopped or died, but it cannot end one that works.
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Interrupted

    return check


def _refusal(job: Job, threads: int) -> str | None:
    """Say why this worker's numbers could be others than the driver's, if they could."""
    if job.code != code_digest():
        return (
            "its worker has another version of this program, of Python or of a package that it computes with (try it "
            f"again with workers that were started anew from {PROGRAM_DIR} and this Python)"
        )
    if threads != 1:  # the limit on a run's threads is one of the whole process
        return f"its worker takes {threads} tasks at once, and runs must be alone in it: start it with --nthreads 1"
    return None


def is_shared(job: Job) -> bool:
    """Return whether this worker sees the result folder of the program that holds it."""
    try:
        return (job.result_dir / ".lock_holder").read_text("utf-8") == job.holder
    except (OSError, UnicodeDecodeError):
        return False


def _execute_in_memory(job: Job, tell: Callable[..., None], check: Check) -> Returned:
    from active_learning.work.execution import execute, session

    here = session(job.run)
    rounds = list(job.finished)
    packets: list[Row] = []
    events: list[Row] = []

    def note(event: str) -> None:
        events.append({"round": len(rounds), "event": event})

    def save(round_: Round) -> None:
        packets.append(_packet(round_, _history(rounds)))
        rounds.append(round_)
        tell(round_.round, round_.test_error, packets[-1], here)

    failure, details = None, ""
    try:
        execute(job.run, job.finished, job.weights, job.data_dir, save, Watch(check, note))
    except Exception as error:
        failure, details = describe(error, job.run), traceback.format_exc()
    return Returned(failure, details, packets, here, events)


def _silence_dask() -> None:
    """Keep Dask's own log, with its tracebacks, off stderr: what a user has to know is told in this program's words."""
    for name in ("distributed", "distributed.client", "asyncio", "tornado"):  # the second has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the sha256 of all that decides a run's bytes: its source files, Python, the packages it computes with."""
    versions = [platform.python_version(), *(f"{name} {version(name)}" for name in VERSIONED)]
    sources = b"".join((PROGRAM_DIR / name).read_bytes() for name in RUN_SOURCES)
    return hashlib.sha256(sources + json.dumps(versions).encode()).hexdigest()


@contextmanager
def _children_without_sigint() -> Iterator[None]:
    """Let processes started within never see SIGINT.

    Ctrl-C in a terminal goes to every process of the program. The driver ends its workers itself; they would print a
    traceback each and be started again. Threads inherit the mask and so does every worker that they start, also in
    place of a dead one; this thread gets its own back once the embedded cluster's threads are there.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it unblocks SIGINT in the thread that first needs it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
