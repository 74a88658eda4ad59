"""Runs of a study compared repetition by repetition, and the words that its page says of them.

Repetition k of two functions, or of two arms, shares the split of the data, the first labelled images and the seeds;
every difference is taken within such a pair. Only finished repetitions count.

Dimensions: E repetitions, R rounds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.report.formats import NOTHING
from active_learning.report.records import Run
from active_learning.report.results import NoResultsError, read_results
from active_learning.report.statistics import CONFIDENCE, acquired_to_reach, mean_along_curve, quartiles
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ExperimentConfig

Array = npt.NDArray[np.float64]
Flags = Mapping[str, Any]

SETTLED = 4  # the round from which on the calibration error is told


class PageError(Exception):
    """The page cannot be written: one sentence that says why."""


@dataclass(frozen=True)
class Row:
    """A function in an arm: a row of a table and a mark of the figure.

    Attributes:
        arm: its name.
        acquisition: the function's name in the registry.
        planned: how many repetitions the study asks for.
        runs: the finished repetitions, of an arm only those that are finished in the base too.
        base: the base's runs of the same repetitions; none in the base's own row.
    """

    arm: str
    acquisition: str
    planned: int
    runs: tuple[Run, ...]
    base: tuple[Run, ...] = ()

    @property
    def label(self) -> str:
        """What tables and figures call the function."""
        return ACQUISITION_FUNCTIONS[self.acquisition].label


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences; half the length of its 95 % t-interval, NaN of fewer than two repetitions."""

    mean: float
    half: float


def of_function(runs: Sequence[Run], acquisition: str) -> tuple[Run, ...]:
    """Return the runs of one acquisition function."""
    return tuple(run for run in runs if run.configuration["acquisition"] == acquisition)


def finished_runs(config: ExperimentConfig) -> list[Run]:
    """Return the finished repetitions in an arm's folder, cut after its last round; none if there is no run yet.

    Raises:
        PageError: for files that cannot be read and for runs of other settings.
    """
    try:
        results = read_results(config.result_dir)
    except NoResultsError as error:
        if any(config.result_dir.glob("runs/*/repetition_*/metrics.jsonl")):
            raise PageError(str(error)) from error
        return []
    others = [run for run in results.runs if not _is_planned(run, config)]
    faults = [*results.unreadable, *(f"{run.path} is a run of other settings than the study's." for run in others)]
    if faults:
        raise PageError(f"{config.result_dir} cannot be used: {' '.join(faults)}")
    wanted = [(run.name, run.repetition) for run in results.runs if run.rounds >= config.rounds]
    return list(results.select(wanted, config.rounds).runs)


def _is_planned(run: Run, config: ExperimentConfig) -> bool:
    machine = run.configuration["precision"], run.configuration["device"]
    return any(run.configuration == planned.identity() for planned in planned_runs(config, *machine))


def curves(runs: Sequence[Run]) -> Array:
    """Return test errors (E, R), fractions."""
    return np.array([[round_.test_error for round_ in run.rows] for run in runs])


def images_to(runs: Sequence[Run], level: float) -> Array:
    """Return the images acquired until the error is at most `level` (E,); infinite where it never is."""
    return acquired_to_reach(curves(runs), runs[0].acquired_r, level)


def mean_errors(runs: Sequence[Run]) -> Array:
    """Return the mean error along each curve (E,), per cent."""
    return 100 * mean_along_curve(curves(runs), runs[0].acquired_r)


def errors_at(runs: Sequence[Run], acquired: int) -> Array:
    """Return the errors (E,) after so many acquired images, per cent; empty if no round ends there."""
    found = np.flatnonzero(runs[0].acquired_r == acquired)
    return 100 * curves(runs)[:, found[0]] if found.size else np.zeros(0)


def largest_calibration_errors(runs: Sequence[Run]) -> Array:
    """Return each repetition's largest expected calibration error from round `SETTLED` on (E,), per cent.

    Empty if there is no such round, or one of them was not measured.
    """
    values = [[round_.test_ece for round_ in run.rows[SETTLED:]] for run in runs]
    if any(not row or None in row for row in values):
        return np.zeros(0)
    return np.asarray(100 * np.array(values, dtype=np.float64).max(axis=1))


def training_seconds(runs: Sequence[Run]) -> Array:
    """Return the seconds of fits and of choosing the weight decay of each curve (E,); empty if not all are known."""
    if any(len(run.seconds) < len(run.rows) or not all("fit" in row for row in run.seconds) for run in runs):
        return np.zeros(0)
    return np.array([sum(row["fit"] + row.get("tune", 0.0) for row in run.seconds) for run in runs])


def paired_difference(ours_e: Array, theirs_e: Array) -> Difference:
    """Return the mean of ours minus theirs with its 95 % t-interval (Student 1908).

    >>> paired_difference(np.array([3.0, 5.0]), np.array([2.0, 2.0])).mean
    2.0
    """
    difference_e = ours_e - theirs_e
    count = len(difference_e)
    if count < 2:
        return Difference(float(difference_e.mean()), np.nan)
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return Difference(float(difference_e.mean()), float(critical * difference_e.std(ddof=1) / np.sqrt(count)))


def error_difference(row: Row) -> Difference:
    """Return an arm's mean error along the curve minus the base's, percentage points."""
    return paired_difference(mean_errors(row.runs), mean_errors(row.base))


def images_difference(row: Row, level: float) -> Difference | None:
    """Return an arm's images to a level minus the base's; None unless all of both reached it."""
    ours_e, theirs_e = images_to(row.runs, level), images_to(row.base, level)
    if not np.isfinite([ours_e, theirs_e]).all():
        return None
    return paired_difference(ours_e, theirs_e)


def flag_words(flags: Flags) -> str:
    """Return flags as the command line takes them.

    >>> flag_words({"acq_func": ["bald", "uniform"], "warm_start": True, "epochs": 1})
    '--acq_func bald uniform --warm_start --epochs 1'
    """
    words = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in flags.items()}
    return " ".join(f"--{key}" if value is True else f"--{key} {value}" for key, value in words.items())


def listed(words: Sequence[str]) -> str:
    """Return words with commas and an "and".

    >>> listed(["one", "two", "three"])
    'one, two and three'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def repetition_words(row: Row) -> str:
    """Return how many repetitions there are, and of how many if some are not finished."""
    return f"{len(row.runs)}" + (f" of {row.planned}" if len(row.runs) < row.planned else "")


def reach_words(images_e: Array) -> str:
    """Return the mean of the images to a level, or how many repetitions reached it and the median."""
    reached = int(np.isfinite(images_e).sum())
    if reached == len(images_e):
        return mean_words(images_e, 0)
    median = quartiles(images_e)[1]
    return f"{reached} of {len(images_e)}, median {'∞' if np.isinf(median) else format(median, ',.0f')}"


def mean_words(values_e: Array, digits: int) -> str:
    """Return a mean; a dash if there is none."""
    return f"{values_e.mean():,.{digits}f}" if len(values_e) else NOTHING


def difference_words(difference: Difference | None, digits: int) -> str:
    """Return a difference and its interval; a dash if there is none."""
    if difference is None:
        return NOTHING
    interval = ", ".join(signed(end, digits) for end in ends(difference))
    interval = "" if np.isnan(difference.half) else f" [{interval}]"
    return signed(difference.mean, digits) + interval


def signed(value: float, digits: int) -> str:
    """Return a number with its sign; what rounds to 0 has none."""
    return f"{value:+,.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def origins(rows: Iterable[Row]) -> list[str]:
    """Say how many curves come from each commit, processor and precision, and of which arms if not of all."""
    unique = {(row.arm, row.acquisition, run.repetition): _origin(run) for row in rows for run in row.runs}
    counted = Counter(unique.values())
    lines = []
    for origin, count in counted.items():
        arms = dict.fromkeys(arm for (arm, *_), place in unique.items() if place == origin)
        names = f" ({', '.join(arms)})" if len(counted) > 1 else ""
        lines.append(f"- {origin}: {count} curve{'s' * (count > 1)}{names}")
    changed = any("+" in origin.partition(";")[0] for origin in counted)
    return ["\n".join(lines), *(["A + after a commit: the checkout had changes."] if changed else [])]


def _origin(run: Run) -> str:
    commits, processors = (
        ", then ".join(dict.fromkeys(str(session.get(key) or "not known") for session in run.sessions)) or "not known"
        for key in ("commit", "processor")
    )
    return f"commit {commits}; {processors}; {run.configuration['precision']} on {run.configuration['device']}"


def ends(difference: Difference) -> tuple[float, float]:
    """Return the ends of the interval; both are the mean if there is none."""
    half = 0.0 if np.isnan(difference.half) else difference.half
    return difference.mean - half, difference.mean + half
