"""Runs an experiment: skips finished runs, resumes started ones, spreads the rest over processes or a cluster."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from tqdm import tqdm

from active_learning.disk.files import locked
from active_learning.disk.store import RunFolder, check_result_dir, write_curves, write_images_folder
from active_learning.images.dataset import open_for
from active_learning.interruption import Check
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ConfigError, ExperimentConfig, RunConfig, has_field
from active_learning.settings.networks import NETWORKS
from active_learning.work.progress import Progress
from active_learning.work.scheduler import await_scheduler
from load_data import DATASETS

if TYPE_CHECKING:
    from active_learning.work.execution import Advance

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
        if config.scheduler is not None:
            await_scheduler(config.scheduler, check)
        # torch takes seconds to import: only once the folder is known to be ours
        from active_learning.work.execution import choose_hardware

        check()
        shutil.rmtree(config.result_dir / SCRATCH, ignore_errors=True)  # a driver that was killed left it
        runs = planned_runs(config, *choose_hardware(config), images)
        check_result_dir(config.result_dir, runs)
        write_images_folder(config.result_dir, runs[0].folder)
        folders = [_opened(config, run, check) for run in runs]
        unfinished = [folder for folder in folders if not folder.finished]
        failures = _execute_all(config, runs, unfinished, holder, check) if unfinished else {}
        for name in dict.fromkeys(run.name for run in runs):
            write_curves(config.result_dir, name, config.rounds)
    return Outcome(tuple(runs), failures)


def open_images(config: ExperimentConfig, check: Check) -> Mapping[str, Any]:
    """Return what tells runs which images they have, with remarks on stderr; nothing for a data set with a name.

    Raises:
        ConfigError, DataError: for images, or settings, with which nothing can be run.
    """
    quiet = config.quiet or None  # None: a bar only in a terminal
    folder = open_for(config, lambda items, phase, count: iter(tqdm(items, phase, count, disable=quiet)), check)
    if folder is None:
        return {}
    if (skipped := folder.library.skipped) and not config.quiet:
        name, reason = next(iter(skipped.items()))
        print(f"{folder.path}: files that are left out: {len(skipped)} (the first: {name}: {reason}).", file=sys.stderr)
    return folder.fields


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


def _execute_all(
    config: ExperimentConfig, runs: Sequence[RunConfig], unfinished: Sequence[RunFolder], holder: str, check: Check
) -> dict[RunConfig, str]:
    """Execute runs in their folders; return the reasons of those that failed."""
    failures: dict[RunConfig, str] = {}
    side_by_side = 0 if config.scheduler else job_count(config, len(unfinished))
    progress = Progress(config.result_dir, runs, unfinished, side_by_side=side_by_side, quiet=config.quiet)
    with progress, _outcomes(config, unfinished, holder, progress.advance, check) as outcomes:
        for run, reason in outcomes:
            progress.run_done(run, reason)
            if reason is None:
                write_curves(config.result_dir, run.name, config.rounds)
            else:
                failures[run] = reason
    return failures


@contextmanager
def _outcomes(
    config: ExperimentConfig, folders: Sequence[RunFolder], holder: str, advance: "Advance", check: Check
) -> Iterator[Iterator[tuple[RunConfig, str | None]]]:
    """Give the runs, each when it ended and with the reason if it failed, from wherever they are executed."""
    jobs = job_count(config, len(folders))
    _prepare(config, folders, check)
    check()
    if config.scheduler is None and jobs == 1:
        yield _execute_here(config, folders, advance, check)
        return
    from active_learning.work.cluster import embedded_cluster, execute_on_cluster, existing_cluster

    scratch = config.result_dir / SCRATCH
    with embedded_cluster(jobs, scratch) if config.scheduler is None else existing_cluster(config.scheduler) as client:
        yield execute_on_cluster(client, folders, config.result_dir, holder, config.data_dir, advance, check)


def _prepare(config: ExperimentConfig, folders: Sequence[RunFolder], check: Check) -> None:
    """Load the data once and here, so that what it refuses is refused before any run; bring old records up to date."""
    from active_learning.disk.renumber import renumber
    from active_learning.models.field import check_length_scale
    from active_learning.work.execution import check_memory, load_cached

    runs = [folder.config for folder in folders]
    named = DATASETS.get(config.dataset)
    if config.data_dir is not None and named and named.download is None and not config.quiet:
        print(
            f"--data_dir {config.data_dir} is not looked into: {config.dataset} comes with a package.", file=sys.stderr
        )
    data = load_cached(runs[0], config.data_dir, check)  # without copies, for which there may be no memory
    smallest, side = NETWORKS[config.network].smallest, min(data.train_images.shape[2:])
    if side < smallest:
        raise ConfigError(
            f"--network {config.network} takes images of at least {smallest} pixels a side, and these have {side}: "
            "take another network or data set."
        )
    if config.scheduler is None:  # the memory of other machines only they know
        check_memory(config, runs, data, job_count(config, len(runs)))
    with_field = any(has_field(run.acquisition, run.learner) for run in runs)
    if with_field and isinstance(config.mbr_sigma, float) and config.copies == 1:  # copies lie near each other
        kept = np.isin(data.train_labels, config.classes or range(data.class_count))
        check_length_scale(config.mbr_sigma, data.train_images[kept])
    for folder in folders if config.classes else ():
        renumber(folder, data.train_labels)


def _execute_here(
    config: ExperimentConfig, folders: Sequence[RunFolder], advance: "Advance", check: Check
) -> Iterator[tuple[RunConfig, str | None]]:
    from active_learning.work.execution import execute_in_folder

    for folder in folders:
        yield folder.config, execute_in_folder(folder, config.data_dir, advance, check)
