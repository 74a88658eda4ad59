"""Runs an experiment: skips finished runs, resumes started ones, spreads the rest over processes."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import joblib
import torch
from tqdm import tqdm

from active_learning.config import ConfigError, ExperimentConfig, RunConfig
from active_learning.experiments import planned_runs
from active_learning.loop import RoundResult, active_learning_rounds
from active_learning.store import RunFolder, check_result_dir, locked, write_curves
from cnn_model import NonFiniteLossError, choose_device, choose_precision
from load_data import ImageData, load_data

PROGRESS_TOPIC = "rounds"


class Interrupted(Exception):
    """The user asked the program to stop; `signal_number` says how."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment: all its runs, and the reasons of those that failed."""

    runs: tuple[RunConfig, ...]
    failures: dict[RunConfig, str]


def run_experiment(config: ExperimentConfig) -> Outcome:
    """Run what is not finished of an experiment; every finished round is on disk when this returns or raises.

    Raises:
        ConfigError: for settings that this machine or the result folder refuses.
        DataError: when the data set cannot be had.
        StoreError: when another process holds the result folder.
        Interrupted: after SIGINT or SIGTERM.
    """
    try:
        device = choose_device(config.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    runs = planned_runs(config, choose_precision(config.precision, device), device)
    check_result_dir(config.result_dir, runs)
    with _stoppable() as check, locked(config.result_dir):
        unfinished = [run for run in runs if not _is_finished(config.result_dir, run)]
        failures: dict[RunConfig, str] = {}
        if unfinished:
            load_data(config.dataset, config.data_dir)  # once and here: its download and errors come before any run
            failures = _execute_all(config, unfinished, check)
        for name in dict.fromkeys(run.name for run in runs):
            write_curves(config.result_dir, name, config.rounds)
    return Outcome(tuple(runs), failures)


def execute_run(
    run: RunConfig,
    result_dir: Path,
    data_dir: Path | None,
    report: Callable[[RunConfig, RoundResult], None],
    check: Callable[[], None] | None = None,
) -> str | None:
    """Take a run from its last whole round to its end.

    Returns:
        None, or the reason why the run failed (recorded in its folder too).
    """
    folder = RunFolder(result_dir, run)
    finished = [_round_result(row) for row in folder.load()]
    folder.begin_session(run.threads)
    data = _load_cached(run.dataset, data_dir)
    weights = folder.weights() if run.warm_start and finished else None
    try:
        with _torch_threads(run.threads):
            for result in active_learning_rounds(run, data, finished, weights, check):
                folder.append(_row(result), result.seconds, result.weights)
                report(run, result)
    except (NonFiniteLossError, MemoryError, RuntimeError, ValueError, ArithmeticError) as error:
        reason = str(error) or type(error).__name__
        folder.fail(reason)
        return reason
    return None


def _execute_all(
    config: ExperimentConfig, unfinished: Sequence[RunConfig], check: Callable[[], None]
) -> dict[RunConfig, str]:
    """Execute runs in this process or on a local cluster; return the reasons of those that failed."""
    jobs = config.jobs or max(1, joblib.cpu_count(only_physical_cores=True) // config.threads)
    failures: dict[RunConfig, str] = {}
    with _Progress(config, unfinished) as progress:
        if min(jobs, len(unfinished)) == 1:
            outcomes: Iterator[tuple[RunConfig, str | None]] = (
                (run, execute_run(run, config.result_dir, config.data_dir, progress.round_done, check))
                for run in unfinished
            )
        else:
            outcomes = _execute_on_cluster(config, unfinished, min(jobs, len(unfinished)), progress, check)
        for run, reason in outcomes:
            progress.run_done(run, reason)
            if reason is None:
                write_curves(config.result_dir, run.name, config.rounds)
            else:
                failures[run] = reason
    return failures


def _execute_on_cluster(
    config: ExperimentConfig, runs: Sequence[RunConfig], jobs: int, progress: "_Progress", check: Callable[[], None]
) -> Iterator[tuple[RunConfig, str | None]]:
    """Execute runs in `jobs` worker processes of an embedded Dask cluster that listens on 127.0.0.1 only."""
    import dask
    from distributed import Client, LocalCluster, wait

    # A worker takes one run at a time, in the order of the list; an idle one must not be given a second in advance.
    settings = {"distributed.scheduler.worker-saturation": 1.0}
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=jobs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        by_name = {(run.name, run.repetition): run for run in runs}
        client.subscribe_topic(
            PROGRESS_TOPIC, lambda event: progress.advance(by_name[event[1]["name"], event[1]["repetition"]], event[1])
        )
        futures = {
            client.submit(_execute_on_worker, run, config.result_dir.resolve(), config.data_dir, pure=False): run
            for run in runs
        }
        waiting = set(futures)
        while waiting:
            check()
            try:
                done, waiting = wait(waiting, timeout=0.5, return_when="FIRST_COMPLETED")
            except TimeoutError:
                continue
            for future in done:
                error = future.exception()
                yield futures[future], future.result() if error is None else str(error)


def _execute_on_worker(run: RunConfig, result_dir: Path, data_dir: Path | None) -> str | None:
    """Execute one run in a worker process and tell the driver of each round."""
    from distributed import get_worker

    def report(run: RunConfig, result: RoundResult) -> None:
        event = {"name": run.name, "repetition": run.repetition, "test_error": result.test_error}
        get_worker().log_event(PROGRESS_TOPIC, event)

    return execute_run(run, result_dir, data_dir, report)


class _Progress:
    """One bar over the rounds of all runs, on stderr; without a terminal, one line a finished run."""

    def __init__(self, config: ExperimentConfig, runs: Sequence[RunConfig]) -> None:
        total = sum(config.rounds + 1 - _rounds_on_disk(config.result_dir, run) for run in runs)
        self.bar = tqdm(total=total, unit="round", file=sys.stderr, disable=None, dynamic_ncols=True)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def round_done(self, run: RunConfig, result: RoundResult) -> None:
        self.advance(run, {"test_error": result.test_error})

    def advance(self, run: RunConfig, event: dict[str, Any]) -> None:
        self.bar.set_postfix_str(f"{run.name} #{run.repetition}: test error {event['test_error']:.2%}", refresh=False)
        self.bar.update()

    def run_done(self, run: RunConfig, reason: str | None) -> None:
        word = "finished" if reason is None else f"failed: {reason}"
        self.bar.write(f"{run.name}, repetition {run.repetition}: {word}", file=sys.stderr)


def _is_finished(result_dir: Path, run: RunConfig) -> bool:
    folder = RunFolder(result_dir, run)
    folder.load()
    return folder.finished


def _rounds_on_disk(result_dir: Path, run: RunConfig) -> int:
    return len(RunFolder(result_dir, run).load())


def _row(result: RoundResult) -> dict[str, Any]:
    """Return the result as it is recorded: without seconds, which differ from run to run, and weights."""
    return {key: value for key, value in asdict(result).items() if key not in ("seconds", "weights")}


def _round_result(row: dict[str, Any]) -> RoundResult:
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    fields.pop("weights_sha256", None)
    return RoundResult(**fields, seconds={})


@lru_cache(maxsize=1)
def _load_cached(dataset: str, data_dir: Path | None) -> ImageData:
    return load_data(dataset, data_dir)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT or SIGTERM into an `Interrupted` at the next call of the yielded check.

    skorch swallows KeyboardInterrupt, so the signal must not raise it. The second signal ends the process at once;
    every finished round is on disk.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
