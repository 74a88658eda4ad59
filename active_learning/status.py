"""The state of a result folder, read without a lock and without writing anything."""

import math
from collections import Counter
from datetime import timedelta
from statistics import median

from tabulate import tabulate

from active_learning.config import ExperimentConfig
from active_learning.experiments import planned_runs
from active_learning.runner import job_count
from active_learning.store import RunFolder, is_held

STATES = ("done", "going", "failed", "to do")


def status(config: ExperimentConfig) -> str:
    """Return a table of the runs that a configuration asks for, and about how long the unfinished ones will take."""
    folders = []
    for run in planned_runs(config, "float32", "cpu"):  # neither is part of a run's name
        folder = RunFolder(config.result_dir, run)
        folder.load(any_configuration=True)
        folders.append(folder)
    states = [state(folder) for folder in folders]
    rows = [
        [
            folder.config.name,
            folder.config.repetition,
            word,
            f"{len(folder.rounds)} of {config.rounds + 1}",
            _remark(folder),
        ]
        for folder, word in zip(folders, states, strict=True)
    ]
    counts = Counter(states)
    unfinished = counts["going"] + counts["failed"] + counts["to do"]
    # how many workers a cluster has, only the cluster knows
    side_by_side = counts["going"] or (job_count(config, unfinished) if config.scheduler is None else 1)
    held = "a program works on it" if is_held(config.result_dir / ".lock") else "no program works on it"
    summary = ", ".join(f"{counts[word]} {word}" for word in STATES)
    return (
        tabulate(rows, ["curve", "repetition", "state", "rounds", ""], disable_numparse=True)
        + f"\n{config.result_dir}: {summary}; {held}.\n{_time_left(folders, max(1, side_by_side))}"
    )


def state(folder: RunFolder) -> str:
    """Return one of `STATES` for a loaded folder."""
    if folder.finished:
        return "done"
    if folder.going:
        return "going"
    return "to do" if folder.failure() is None else "failed"


def _remark(folder: RunFolder) -> str:
    failure = None if folder.finished else folder.failure()
    if failure is not None:
        return failure
    return f"test error {folder.rounds[-1]['test_error']:.2%}" if folder.rounds else ""


def _time_left(folders: list[RunFolder], side_by_side: int) -> str:
    """Estimate from the seconds so far: a round takes what the same round took in other runs (see `_expected`)."""
    left = [(folder, round_) for folder in folders for round_ in range(len(folder.rounds), folder.config.rounds + 1)]
    if not left:
        return "Nothing is left to do."
    measured = [
        (folder.config.name, row["round"], sum(row.values()) - row["round"])
        for folder in folders
        for row in folder.seconds
        if "round" in row
    ]
    if len({round_ for _, round_, _ in measured}) < 2:
        return "Time left: not known before two rounds are finished."
    total = sum(_expected(measured, folder.config.name, round_) for folder, round_ in left) / side_by_side
    return f"Time left: about {timedelta(seconds=math.ceil(total))}, with {side_by_side} run(s) side by side."


def _expected(measured: list[tuple[str, int, float]], name: str, round_: int) -> float:
    """Return the median seconds of the measured rounds nearest to this one, of the same curve where there are some.

    Rounds that tune the weight decay take several times as long as their neighbours, so no line goes through them.
    """
    alike = [(abs(at - round_), seconds) for curve, at, seconds in measured if curve == name] or [
        (abs(at - round_), seconds) for _, at, seconds in measured
    ]
    nearest = min(distance for distance, _ in alike)
    return median(seconds for distance, seconds in alike if distance == nearest)
