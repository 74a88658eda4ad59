"""All numbers of a report, computed once from a result folder: every table, figure and file takes them from here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from active_learning.report import statistics
from active_learning.report.results import METRICS, Arm, Results

ERROR_LEVELS = (0.10, 0.05, 0.03, 0.02)
EXTRA_LEVEL = 0.01  # shown when a repetition reached it: two digits are told apart better than ten
ACQUIRED_POINTS = (100, 200, 500, 1000)

REACH, MEAN_ERROR, SECONDS, SHARE, BALANCE = (
    "acquired_to_reach",
    "mean_test_error",
    "seconds",
    "class_share",
    "class_balance",
)

UNITS = {
    REACH: "acquired images",
    "test_error": "fraction",
    "test_nll": "nats an image",
    "test_ece": "fraction",
    MEAN_ERROR: "fraction",
    SECONDS: "seconds",
    SHARE: "fraction",
    BALANCE: "entropy / log(classes)",
}


@dataclass(frozen=True)
class Estimate:
    """One statistic of one arm, with its value in each repetition.

    Attributes:
        arm: the arm's label.
        statistic: a key of `UNITS`.
        at: what it was taken at: an error level, acquired images, a phase or a class; None for a whole curve.
        values: by repetition; infinite where a level was not reached. A repetition that has not come so far has none.
        unfinished: of a level, the repetitions that stopped before their end and have not reached it yet, with the
            images that they have acquired: their values are larger than that, and not known.
    """

    arm: str
    statistic: str
    at: float | str | None
    values: dict[int, float]
    unfinished: dict[int, float] = field(default_factory=dict)

    @cached_property
    def _values_e(self) -> npt.NDArray[np.float64]:
        return np.array(list(self.values.values()))

    @property
    def repetitions(self) -> int:
        """Repetitions behind the number."""
        return len(self.values)

    @property
    def reached(self) -> int:
        """Repetitions with a finite value."""
        return int(np.isfinite(self._values_e).sum())

    @cached_property
    def mean(self) -> float | None:
        """Mean over repetitions; None if one of them is infinite or unfinished: leaving it out would flatter."""
        known = 0 < self.reached == self.repetitions and not self.unfinished
        return float(self._values_e.mean()) if known else None

    @cached_property
    def std(self) -> float | None:
        """Sample standard deviation (divided by E - 1); None without a mean or of one repetition."""
        return float(self._values_e.std(ddof=1)) if self.mean is not None and self.repetitions > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of the mean; None without a mean, or of too few repetitions."""
        if self.mean is None or self.repetitions < statistics.FEWEST_FOR_INTERVAL:
            return None
        low, high = statistics.bootstrap_interval(self._values_e)
        return float(low), float(high)

    @property
    def brackets(self) -> tuple[float, float] | None:
        """What stands in brackets behind a mean: its interval or, of too few repetitions, their lowest and highest."""
        if self.interval is not None or self.std is None:
            return self.interval
        return min(self.values.values()), max(self.values.values())

    @cached_property
    def quartiles(self) -> tuple[float, float, float] | None:
        """Lower quartile, median, upper quartile, with "not reached" as infinity; None without a repetition.

        NaN stands where unfinished repetitions decide: where it matters whether they reach the level soon or never.
        """
        if not self.repetitions and not self.unfinished:
            return None
        soonest, latest = (
            statistics.quartiles(np.array([*self.values.values(), *unfinished]))
            for unfinished in (self.unfinished.values(), [math.inf] * len(self.unfinished))
        )
        lower, median, upper = (a if a == b else math.nan for a, b in zip(soonest, latest, strict=True))
        return lower, median, upper

    @property
    def median(self) -> float | None:
        """The median; None if it is not known."""
        return None if self.quartiles is None or math.isnan(self.quartiles[1]) else self.quartiles[1]


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two arms at one point.

    Attributes:
        family: which comparisons are corrected together: `functions`, or `dropout` (experiment 2); with a number in a
            folder of several configurations.
        statistic: `test_error` or `mean_test_error`.
        at: acquired images, or None for the whole curve.
        first: an arm's label.
        second: another's.
        difference: mean over repetitions of first minus second, a fraction.
        repetitions: how many pairs.
        p: two-sided, of the paired permutation test.
        p_holm: corrected over all pairs of the family at this point.
    """

    family: str
    statistic: str
    at: float | None
    first: str
    second: str
    difference: float
    repetitions: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Penalty:
    """The pairwise penalty matrix of Ash et al. 2020.

    Attributes:
        arms: labels of rows and columns.
        matrix_aa: how often the row beat the column, 0 to 1.
        acquired: acquired images at the compared rounds.
        repetitions: how many pairs stand behind each test.
    """

    arms: tuple[str, ...]
    matrix_aa: npt.NDArray[np.float64]
    acquired: tuple[int, ...]
    repetitions: int


@dataclass(frozen=True)
class Summary:
    """Everything a report says in numbers."""

    results: Results
    estimates: tuple[Estimate, ...]
    comparisons: tuple[Comparison, ...]
    penalty: Penalty | None
    levels: tuple[float, ...]
    points: tuple[int, ...]

    def get(self, arm: str, statistic: str, at: float | str | None = None) -> Estimate:
        """Return the estimate of an arm; one without values if there is none."""
        return self._by_key.get((arm, statistic, at), Estimate(arm, statistic, at, {}))

    def keys(self, statistic: str) -> list[float | str]:
        """Return what a statistic was taken at, in order of appearance."""
        return list(dict.fromkeys(e.at for e in self.estimates if e.statistic == statistic and e.at is not None))

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, float | str | None], Estimate]:
        found = {(estimate.arm, estimate.statistic, estimate.at): estimate for estimate in self.estimates}
        assert len(found) == len(self.estimates), "two arms have the same label"
        return found

    @property
    def end(self) -> int:
        """Images acquired at the end of the longest run."""
        return max(int(arm.acquired_r[-1]) for arm in self.results.arms)


def summarise(results: Results) -> Summary:
    """Compute every number of a report."""
    arms = results.arms
    ends: dict[int, int] = {}
    for arm in arms:
        ends[arm.variant] = max(ends.get(arm.variant, 0), int(arm.acquired_r[-1]))
    end = max(ends.values())
    points = tuple(dict.fromkeys([*(point for point in ACQUIRED_POINTS if point < end), end]))
    levels = _levels(arms)
    estimates = [
        estimate
        for arm in arms
        for estimate in (
            *_reach_estimates(arm, levels),
            *_curve_estimates(arm, points, ends[arm.variant]),
            *_class_estimates(arm, max(run.class_count for run in arm.runs)),
            *_seconds_estimates(arm),
        )
    ]
    summary = Summary(results, tuple(estimates), (), None, levels, points)
    comparisons = tuple(_comparisons(summary))
    return Summary(results, summary.estimates, comparisons, _penalty(arms), levels, points)


def _levels(arms: Sequence[Arm]) -> tuple[float, ...]:
    """Return the error levels that runs have to work for: those at which every run begins say nothing."""
    lowest = min(float(np.nanmin(arm.curves())) for arm in arms)
    highest_start = max(float(arm.curves()[:, 0].max()) for arm in arms)
    levels = ERROR_LEVELS + ((EXTRA_LEVEL,) if lowest <= EXTRA_LEVEL else ())
    return tuple(level for level in levels if level < highest_start) or levels[-1:]


def _reach_estimates(arm: Arm, levels: Sequence[float]) -> Iterator[Estimate]:
    so_far = {run.repetition: float(run.acquired_r[-1]) for run in arm.runs if run not in arm.whole}
    for level in levels:
        values = _by_repetition(arm, statistics.acquired_to_reach(arm.curves(), arm.acquired_r, level))
        unfinished = {number: acquired for number, acquired in so_far.items() if math.isinf(values[number])}
        known = {number: value for number, value in values.items() if number not in unfinished}
        yield Estimate(arm.label, REACH, level, known, unfinished)


def _curve_estimates(arm: Arm, points: Sequence[int], end: int) -> Iterator[Estimate]:
    for metric in METRICS:
        curves_er = arm.curves(metric)
        for point in points:
            at_point = np.flatnonzero(arm.acquired_r == point)
            if at_point.size:
                yield Estimate(arm.label, metric, point, _by_repetition(arm, curves_er[:, at_point[0]]))
    if arm.acquired_r[-1] == end:  # the mean along a shorter curve is higher for that alone
        means_e = statistics.mean_along_curve(arm.curves(), arm.acquired_r)
        yield Estimate(arm.label, MEAN_ERROR, None, _by_repetition(arm, means_e))


def _class_estimates(arm: Arm, classes: int) -> Iterator[Estimate]:
    runs = [run for run in arm.whole if run.labels]  # what is acquired early and late differs
    shares_ec = np.array([statistics.class_shares(run.labels, classes) for run in runs])
    for class_ in range(classes if runs else 0):
        values = {run.repetition: float(share) for run, share in zip(runs, shares_ec[:, class_], strict=True)}
        yield Estimate(arm.label, SHARE, runs[0].class_name(class_), values)
    if runs:
        values = {run.repetition: statistics.balance(row) for run, row in zip(runs, shares_ec, strict=True)}
        yield Estimate(arm.label, BALANCE, None, values)


def _seconds_estimates(arm: Arm) -> Iterator[Estimate]:
    phases = dict.fromkeys(phase for run in arm.whole for row in run.seconds for phase in row if phase != "round")
    sums = {
        run.repetition: {phase: sum(row.get(phase, 0.0) for row in run.seconds) for phase in phases}
        for run in arm.whole
        if len(run.seconds) == len(run.rows) and all(len(row) > 1 for row in run.seconds)
    }
    for phase in phases if sums else ():
        yield Estimate(arm.label, SECONDS, phase, {number: row[phase] for number, row in sums.items()})
    if sums:
        yield Estimate(arm.label, SECONDS, "all", {number: sum(row.values()) for number, row in sums.items()})


def _by_repetition(arm: Arm, values_e: npt.NDArray[np.float64]) -> dict[int, float]:
    """Return the values by repetition, without those of repetitions that have not come so far."""
    return {
        run.repetition: float(value) for run, value in zip(arm.runs, values_e, strict=True) if not math.isnan(value)
    }


def _comparisons(summary: Summary) -> Iterator[Comparison]:
    """Compare all functions of a configuration, and each function with its deterministic arm, point by point."""
    variants = dict.fromkeys(arm.variant for arm in summary.results.arms)
    places: list[tuple[str, float | None]] = [("test_error", point) for point in summary.points]
    for variant in variants:
        arms = [arm for arm in summary.results.arms if arm.variant == variant]
        others = [arm for arm in arms if not arm.deterministic]
        by_acquisition = {arm.acquisition: arm for arm in others}
        families = {
            "functions": list(combinations(others, 2)),
            "dropout": [
                (by_acquisition[arm.acquisition], arm)
                for arm in arms
                if arm.deterministic and arm.acquisition in by_acquisition
            ],
        }
        for family, pairs in families.items():
            for statistic, at in [*places, (MEAN_ERROR, None)]:
                yield from _family(summary, family + f" {variant}" * (variant > 0), pairs, statistic, at)


def _family(
    summary: Summary, family: str, pairs: Sequence[tuple[Arm, Arm]], statistic: str, at: float | None
) -> Iterator[Comparison]:
    found = []
    for first, second in pairs:
        ours, theirs = (summary.get(arm.label, statistic, at).values for arm in (first, second))
        paired = sorted(ours.keys() & theirs.keys())  # repetitions share splits and initial weights
        if len(paired) > 1:
            first_e, second_e = (np.array([values[number] for number in paired]) for values in (ours, theirs))
            p = statistics.paired_permutation_p(first_e, second_e)
            found.append((first.label, second.label, float((first_e - second_e).mean()), len(paired), p))
    corrected = statistics.holm([entry[-1] for entry in found])
    for (first_label, second_label, difference, repetitions, p), p_holm in zip(found, corrected, strict=True):
        yield Comparison(family, statistic, at, first_label, second_label, difference, repetitions, p, float(p_holm))


def _penalty(arms: Sequence[Arm]) -> Penalty | None:
    """Return the matrix over the first configuration's arms, as far as all of them have come; None if it cannot be.

    It cannot be of fewer repetitions than an interval: its t-tests are not corrected, and would find differences in
    next to nothing. Taken are the repetitions that every arm has, up to the last round that all of those have come to.
    """
    compared = [arm for arm in arms if arm.variant == 0]
    shared = set.intersection(*({run.repetition for run in arm.runs} for arm in compared))
    runs = [[run for run in arm.runs if run.repetition in shared] for arm in compared]
    rounds = statistics.geometric_rounds(min((run.rounds for row in runs for run in row), default=0))
    if len(compared) < 2 or len(shared) < statistics.FEWEST_FOR_INTERVAL or not rounds:
        return None
    curves_aer = np.array([[[row.test_error for row in run.rows[: rounds[-1] + 1]] for run in row] for row in runs])
    return Penalty(
        arms=tuple(arm.label for arm in compared),
        matrix_aa=statistics.penalty_matrix(curves_aer, rounds),
        acquired=tuple(int(runs[0][0].acquired_r[round_]) for round_ in rounds),
        repetitions=len(shared),
    )
