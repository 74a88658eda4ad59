"""Runs an experiment: skips finished runs, resumes started ones, spreads the rest over processes or a cluster."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from active_learning.disk.files import locked
from active_learning.disk.record import read_record
from active_learning.disk.renumber import renumber
from active_learning.disk.store import RunFolder, check_result_dir, write_curves, write_images_folder
from active_learning.images.dataset import ImageFolder, open_for
from active_learning.interruption import Check
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ExperimentConfig, RunConfig
from active_learning.work.progress import Progress
from active_learning.work.scheduler import await_scheduler
from load_data import DATASETS

if TYPE_CHECKING:
    from distributed import Client

    from active_learning.work.execution import Advance
    from cnn_model import Device, Precision

SCRATCH = ".workers"
"""Folder in the result folder for what Dask's workers write of their own accord, while they work."""


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment: all its runs, and the reasons of those that failed."""

    runs: tuple[RunConfig, ...]
    failures: dict[RunConfig, str]


def run_experiment(config: ExperimentConfig, check: Check) -> Outcome:
    """Run what is not finished of an experiment; every finished round is on disk when this returns or raises.

    Args:
        config: the experiment.
        check: called at each batch; what it raises, such as `Interrupted`, ends the experiment.

    Raises:
        ConfigError: for settings that this machine or the result folder refuses.
        DataError: when the data set cannot be had.
        StoreError: when another process holds the result folder.
        OSError: when the disk is full or no longer writable, or the cluster cannot be reached.
    """
    images = open_images(config, check)
    with locked(config.result_dir) as holder:
        shutil.rmtree(config.result_dir / SCRATCH, ignore_errors=True)  # a driver that was killed left it
        with _workers(config, check) as client:
            ask = _asking(None if config.scheduler else client, check)
            precision, device = ask(_hardware, config)
            runs = planned_runs(config, precision, device, images)
            check_result_dir(config.result_dir, runs, asked=config)
            write_images_folder(config.result_dir, runs[0].folder)
            folders = [_opened(config, run, check) for run in runs]
            unfinished = [folder for folder in folders if not folder.finished]
            failures = {}
            if unfinished:
                _prepare(config, unfinished, ask)
                failures = _execute_all(config, runs, unfinished, client, holder, check)
        for name in dict.fromkeys(run.name for run in runs):
            write_curves(config.result_dir, name, config.rounds)
    return Outcome(tuple(runs), failures)


def open_images(config: ExperimentConfig, check: Check) -> Mapping[str, Any]:
    """Return what tells runs which images they have, nothing of a data set with a name; remarks go to stderr.

    Raises:
        ConfigError, DataError: for images, or settings, with which nothing can be run.
    """
    named = DATASETS.get(config.dataset)
    if config.data_dir is not None and named and named.download is None and not config.quiet:
        print(
            f"--data_dir {config.data_dir} is not looked into: {config.dataset} comes with a package.", file=sys.stderr
        )
    quiet = config.quiet or None  # None: a bar only in a terminal
    folder = open_for(config, lambda items, phase, count: iter(tqdm(items, phase, count, disable=quiet)), check)
    if folder is None:
        return {}
    for remark in () if config.quiet else _remarks(config, folder):
        print(f"{folder.path}: {remark}.", file=sys.stderr)
    return folder.fields


def _remarks(config: ExperimentConfig, folder: ImageFolder) -> Iterator[str]:
    library, names = folder.library, folder.spec.class_names
    channels = "grey" if library.pixels.shape[1] == 1 else "in colour"
    yield (
        f"{len(folder.data.train_labels)} training and {len(folder.data.test_labels)} test images, {library.size} x "
        f"{library.size} pixels, {channels}"
    )
    if config.classes:
        yield f"--classes {' '.join(map(str, config.classes))}: {', '.join(names[label] for label in config.classes)}"
    if folder.copies:
        yield f"{folder.copies} images are another one pixel by pixel, and are left out"
    if library.extreme[0]:
        yield f"far from a square, and pressed into one: {library.extreme[0]} (the first: {library.extreme[1]})"
    if library.skipped:
        name, reason = next(iter(library.skipped.items()))
        yield f"files that are left out: {len(library.skipped)} (the first: {name}: {reason})"


@contextmanager
def _workers(config: ExperimentConfig, check: Check) -> Iterator["Client | None"]:
    """Give the cluster that executes the runs, or None where this process does.

    With workers on this machine this process does not import torch: that takes as long as their start, and half a
    gigabyte for as long as the runs take.
    """
    if config.scheduler is None:
        paths = [RunFolder(config.result_dir, run).path for run in planned_runs(config, "float32", "cpu")]
        jobs = job_count(config, sum(len(read_record(path).rounds) <= config.rounds for path in paths))
        if jobs <= 1:
            yield None
            return
        from active_learning.work.cluster import embedded_cluster

        with embedded_cluster(jobs, config.result_dir / SCRATCH, check) as client:
            yield client
    else:
        await_scheduler(config.scheduler, check)
        from active_learning.work.cluster import existing_cluster

        with existing_cluster(config.scheduler) as client:
            yield client


def job_count(config: ExperimentConfig, runs: int) -> int:
    """Return how many of so many runs go on side by side on this machine."""
    cores = joblib.cpu_count(only_physical_cores=True)
    return min(config.jobs or max(1, cores // config.threads), runs)


def _opened(config: ExperimentConfig, run: RunConfig, check: Check) -> RunFolder:
    """Return a run's folder, loaded; its files are mended if it is finished. What is damaged of its record is told."""
    folder = RunFolder(config.result_dir, run)
    folder.load()
    if folder.complaint:
        print(f"{folder.path}: {folder.complaint}; the damaged file is kept as *.damaged.", file=sys.stderr)
    if folder.finished:
        with folder.locked(check):
            folder.mend()
    return folder


Ask = Callable[..., Any]
"""Calls a function with arguments and a check, here or in a worker of this machine."""


def _asking(client: "Client | None", check: Check) -> Ask:
    if client is None:
        return lambda function, *arguments: function(*arguments, check)
    from active_learning.work.cluster import ask

    return partial(ask, client, check)


def _hardware(config: ExperimentConfig, check: Check) -> "tuple[Precision, Device]":
    from active_learning.work.execution import choose_hardware

    check()
    return choose_hardware(config)


def _checked_labels(
    config: ExperimentConfig, runs: Sequence[RunConfig], side_by_side: int, check: Check
) -> NDArray[np.int64]:
    from active_learning.work.execution import checked_data

    return checked_data(config, runs, side_by_side, check).train_labels


def _prepare(config: ExperimentConfig, folders: Sequence[RunFolder], ask: Ask) -> None:
    """Load the data once, so that what it refuses is refused before any run; bring old records up to date."""
    runs = [folder.config for folder in folders]
    train_labels = ask(_checked_labels, config, runs, job_count(config, len(runs)))
    for folder in folders if config.classes else ():
        renumber(folder, train_labels)


def _execute_all(
    config: ExperimentConfig,
    runs: Sequence[RunConfig],
    unfinished: Sequence[RunFolder],
    client: "Client | None",
    holder: str,
    check: Check,
) -> dict[RunConfig, str]:
    """Execute runs in their folders; return the reasons of those that failed."""
    failures: dict[RunConfig, str] = {}
    side_by_side = 0 if config.scheduler else job_count(config, len(unfinished))
    check()
    with Progress(config.result_dir, runs, unfinished, side_by_side=side_by_side, quiet=config.quiet) as progress:
        for run, reason in _outcomes(config, unfinished, client, holder, progress.advance, check):
            progress.run_done(run, reason)
            if reason is None:
                write_curves(config.result_dir, run.name, config.rounds)
            else:
                failures[run] = reason
    return failures


def _outcomes(
    config: ExperimentConfig,
    folders: Sequence[RunFolder],
    client: "Client | None",
    holder: str,
    advance: "Advance",
    check: Check,
) -> Iterator[tuple[RunConfig, str | None]]:
    """Give the runs, each when it ended and with the reason if it failed, from wherever they are executed."""
    if client is not None:
        from active_learning.work.cluster import execute_on_cluster, telling_of_workers

        if config.scheduler is not None:
            check = telling_of_workers(client, config.scheduler, check)
        yield from execute_on_cluster(client, folders, config.result_dir, holder, config.data_dir, advance, check)
        return
    from active_learning.work.execution import execute_in_folder

    for folder in folders:
        yield folder.config, execute_in_folder(folder, config.data_dir, advance, check)
