"""The state of a result folder, read without a lock and without writing anything."""

import math
from collections import Counter
from datetime import timedelta

import numpy as np
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
    """Estimate from the seconds so far, as a straight line over the rounds: a fit takes longer the more is labelled."""
    measured = [
        (row["round"], sum(row.values()) - row["round"])
        for folder in folders
        for row in folder.seconds
        if "round" in row
    ]
    left = [round_ for folder in folders for round_ in range(len(folder.rounds), folder.config.rounds + 1)]
    if not left:
        return "Nothing is left to do."
    if len({round_ for round_, _ in measured}) < 2:
        return "Time left: not known before two rounds are finished."
    rounds, seconds = np.array(measured).T
    slope, start = np.polyfit(rounds, seconds, deg=1)
    total = sum(max(0.0, start + slope * round_) for round_ in left) / side_by_side
    return f"Time left: about {timedelta(seconds=math.ceil(total))}, with {side_by_side} run(s) side by side."
