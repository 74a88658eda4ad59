"""The state of a result folder, read without a lock and without writing anything."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from tabulate import tabulate

from active_learning.disk.files import StoreError, is_held
from active_learning.disk.record import read_record
from active_learning.disk.store import RunFolder, check_result_dir, recorded_run, result_folders, run_folders
from active_learning.interruption import Check
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ConfigError, ExperimentConfig, RunConfig
from active_learning.work.estimate import time_left
from active_learning.work.runner import job_count, open_images
from load_data import DataError

STATES = ("done", "going", "stopped", "failed", "to do")
OTHER = "not asked for"


def status(config: ExperimentConfig, show: Callable[[str], None], check: Check = lambda: None) -> None:
    """Show a table of the runs that a configuration asks for and of all others that the folder holds.

    Beside it, about how long the unfinished ones of those asked for will take.

    Raises:
        ConfigError: when the result folder is a file; after the table, when it refuses these settings.
        DataError: after the table, when the images of a folder cannot be had.
        StoreError: after the table, when it holds what no settings are run beside.
        OSError: when something in it cannot be read.
    """
    there = [path for path in (config.result_dir, *config.result_dir.parents) if os.path.exists(path)]  # noqa: PTH110
    if there and not there[0].is_dir():
        raise ConfigError(f"--result_dir {config.result_dir} is not a folder: name another.")
    # precision and device are no part of a run's name
    refusal: ConfigError | StoreError | DataError | None
    try:
        planned = planned_runs(config, "float32", "cpu", open_images(config, check))
        refusal = _refusal(config, planned)
    except (ConfigError, DataError) as error:  # images that are gone, say
        refusal = error
    asked_for = [] if refusal else [_loaded(config, run) for run in planned]
    names = {folder.path for folder in asked_for}
    others = [folder for folder in _held(config) if folder.path not in names]
    rows = [_row(folder, state(folder), f"{len(folder.rounds)} of {config.rounds + 1}") for folder in asked_for]
    rows += [_row(folder, "going" if folder.going else OTHER, str(len(folder.rounds))) for folder in others]
    held = "a program works on it" if is_held(config.result_dir / ".lock") else "no program works on it"
    counts = Counter(map(state, asked_for))
    summary = ", ".join(f"{counts[word]} {word}" for word in STATES)
    table = tabulate(rows, ["curve", "repetition", "state", "rounds", ""], disable_numparse=True)
    show(f"{table}\n{config.result_dir}: {summary}; {held}.")
    if config.result_dir not in there and (beside := result_folders(config.result_dir.parent)):
        show(f"{config.result_dir} is not there: there are {' and '.join(map(str, beside))} (--result_dir).")
    if refusal:
        raise refusal
    show(_time_left(asked_for, _side_by_side(config, counts)))


def _refusal(config: ExperimentConfig, planned: list[RunConfig]) -> ConfigError | StoreError | None:
    """Return why these settings cannot be run in this folder, if they cannot."""
    # what `auto` comes to is only known where a run is executed
    but = [name for name in ("precision", "device") if getattr(config, name) == "auto"]
    planned = [replace(run, **{name: getattr(config, name) for name in ("precision", "device")}) for run in planned]
    try:
        check_result_dir(config.result_dir, planned, but, config)
    except (ConfigError, StoreError) as error:
        return error
    return None


def _loaded(config: ExperimentConfig, run: RunConfig) -> RunFolder:
    folder = RunFolder(config.result_dir, run)
    folder.load(any_configuration=True)
    return folder


def _held(config: ExperimentConfig) -> list[RunFolder]:
    """Return all runs that have a record in the folder."""
    runs = [recorded_run(read_record(path).configuration, config.rounds) for path in run_folders(config.result_dir)]
    return [_loaded(config, run) for run in dict.fromkeys(runs) if run is not None]


def _row(folder: RunFolder, word: str, rounds: str) -> list[object]:
    return [folder.config.name, folder.config.repetition, word, rounds, _remark(folder)]


def _side_by_side(config: ExperimentConfig, counts: "Counter[str]") -> int:
    unfinished = sum(counts.values()) - counts["done"]
    # how many workers a cluster has, only the cluster knows
    return max(1, counts["going"] or (job_count(config, unfinished) if config.scheduler is None else 1))


def state(folder: RunFolder) -> str:
    """Return one of `STATES` for a loaded folder."""
    if folder.finished:
        return "done"
    if folder.going:
        return "going"
    if folder.failure() is not None:
        return "failed"
    return "stopped" if folder.rounds else "to do"


def _remark(folder: RunFolder) -> str:
    failure = None if folder.finished else folder.failure()
    error = f"test error {folder.rounds[-1].test_error:.2%}" if folder.rounds else None
    return "; ".join(filter(None, [folder.complaint, failure or error]))


def _time_left(folders: list[RunFolder], side_by_side: int) -> str:
    if all(folder.finished for folder in folders):
        return "Nothing is left to do."
    left = time_left(folders, side_by_side)
    if left is None:
        return "Time left: not known before two rounds are finished."
    return f"Time left: about {left}, with {side_by_side} run(s) side by side."
