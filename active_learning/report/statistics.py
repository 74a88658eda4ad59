"""Numbers from curves: pure functions of arrays. Dimensions: E repetitions, R rounds + 1, A arms, M comparisons."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
FEWEST_FOR_INTERVAL = 5
"""Below so many repetitions no interval is called one of 95 %: even the range of four values, which no interval within
it exceeds, holds the middle of the distribution in 1 - 2 / 2 ** 4 = 87.5 % of cases."""
BOOTSTRAP_RESAMPLES = 2000
PERMUTATION_RESAMPLES = 9999  # beyond 13 repetitions; up to there all 2 ** E sign patterns are gone through
RESAMPLING_SEED = 0  # the same curves give the same intervals


def acquired_to_reach(curves_er: Array, acquired_r: npt.NDArray[np.int64], level: float) -> Array:
    """Return how many images each repetition acquired until its test error was first at most `level`.

    Args:
        curves_er: test errors (E, R), fractions; NaN after a repetition's last round.
        acquired_r: acquired images (R,) after each round, the initial ones not counted.
        level: the error to reach, a fraction.

    Returns:
        (E,) acquired images; infinity where the level was not reached.

    >>> acquired_to_reach(np.array([[0.5, 0.1, 0.2], [0.5, 0.4, 0.3]]), np.array([0, 10, 20]), 0.1)
    array([10., inf])
    """
    reached_er = curves_er <= level
    return np.where(reached_er.any(axis=1), acquired_r[reached_er.argmax(axis=1)], np.inf)


def quartiles(values_e: Array) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile; infinite values are as large as can be.

    Linear between neighbours, as numpy's default. A quartile between a number and infinity is infinite.

    >>> quartiles(np.array([10.0, 30.0, np.inf]))
    (20.0, 30.0, inf)
    """
    ordered_e = np.sort(values_e)
    found = []
    for position in (len(values_e) - 1) * np.array([0.25, 0.5, 0.75]):
        lower, upper = ordered_e[math.floor(position)], ordered_e[math.ceil(position)]
        # numpy's own linear rule multiplies infinity by 0 and gives NaN.
        found.append(float(upper if np.isinf(upper) else lower + (position % 1) * (upper - lower)))
    return found[0], found[1], found[2]


def bootstrap_interval(values_e: Array) -> tuple[Array, Array]:
    """Return the ends of the 95 % percentile-bootstrap interval of the mean over repetitions.

    Source: Efron 1979, as `scipy.stats.bootstrap` has it. It is asked for from `FEWEST_FOR_INTERVAL` values on.

    Args:
        values_e: (E,) or (E, R).

    Returns:
        Both ends, scalars or (R,); NaN with fewer than two repetitions.
    """
    if len(values_e) < 2:
        nothing = np.full(values_e.shape[1:], np.nan)
        return nothing, nothing
    result = stats.bootstrap(
        (values_e,),
        np.mean,
        axis=0,
        confidence_level=CONFIDENCE,
        n_resamples=BOOTSTRAP_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(RESAMPLING_SEED),
    )
    return np.asarray(result.confidence_interval.low), np.asarray(result.confidence_interval.high)


def mean_along_curve(curves_er: Array, acquired_r: npt.NDArray[np.int64]) -> Array:
    """Return the area under each error curve by the trapezoidal rule, divided by the images acquired: a mean error.

    Returns:
        (E,) fractions; NaN for a repetition that has not come to the last round.

    >>> mean_along_curve(np.array([[0.4, 0.2, 0.2]]), np.array([0, 10, 20]))
    array([0.25])
    """
    if acquired_r[-1] == 0:
        return curves_er[:, -1]
    return np.asarray(np.trapezoid(curves_er, acquired_r, axis=1) / acquired_r[-1])


def paired_permutation_p(first_e: Array, second_e: Array) -> float:
    """Return the two-sided p-value of the paired permutation test on the mean difference over repetitions.

    Under the null hypothesis each difference is as likely to have either sign; all 2 ** E patterns are counted.
    Source: Fisher 1935, `scipy.stats.permutation_test` with `permutation_type="samples"`.

    >>> paired_permutation_p(np.array([3.0, 4.0, 5.0]), np.array([1.0, 1.0, 1.0]))
    0.25
    """
    if np.array_equal(first_e, second_e):
        return 1.0
    result = stats.permutation_test(
        (first_e, second_e),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATION_RESAMPLES,
        rng=np.random.default_rng(RESAMPLING_SEED),
    )
    return min(1.0, float(result.pvalue))


def smallest_permutation_p(repetitions: int) -> float:
    """Return the smallest two-sided p-value that the paired permutation test can give: 2 / 2 ** E.

    >>> smallest_permutation_p(3)
    0.25
    """
    return min(1.0, 2.0 * 0.5**repetitions)


def repetitions_needed(comparisons: int) -> int:
    """Return how many repetitions it takes until Holm's first step over M comparisons can be significant at 5 %.

    >>> repetitions_needed(10)
    9
    """
    repetitions = 1
    while smallest_permutation_p(repetitions) * comparisons > SIGNIFICANCE:
        repetitions += 1
    return repetitions


def holm(p_m: Sequence[float]) -> Array:
    """Return p-values corrected by Holm's step-down method, in the order given.

    Source: Holm 1979. The i-th smallest of M is multiplied by M - i + 1, made monotone, and cut at 1.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_m, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def geometric_rounds(rounds: int) -> list[int]:
    """Return the rounds 1, 2, 4, ... up to `rounds`, at which Ash et al. 2020 compare methods (appendix E).

    >>> geometric_rounds(10)
    [1, 2, 4, 8]
    """
    return [2**power for power in range(rounds.bit_length()) if 2**power <= rounds]


def penalty_matrix(curves_aer: Array, rounds: Sequence[int]) -> Array:
    """Return the pairwise penalty matrix: how often row i was significantly better than column j.

    At each of the L given rounds, arm i beats arm j if a two-sided paired t-test over repetitions finds its error
    lower at the 5 % level; each win adds 1 / L to P[i, j]. Source: Ash et al. 2020 (BADGE), section 5.

    Args:
        curves_aer: test errors (A, E, R), the repetitions of all arms paired.
        rounds: the L rounds to compare at.

    Returns:
        P (A, A), 0 to 1, zeros on the diagonal. A column's mean says how often that arm is beaten: lower is better.
    """
    arms, repetitions, _ = curves_aer.shape
    assert repetitions > 1, "a t-test takes two repetitions"
    points_ael = curves_aer[:, :, list(rounds)]
    differences_aael = points_ael[:, None] - points_ael[None]
    means_aal = differences_aael.mean(axis=2)
    errors_aal = differences_aael.std(axis=2, ddof=1) / np.sqrt(repetitions)
    critical = stats.t.ppf(1 - SIGNIFICANCE / 2, repetitions - 1)
    # Written as a product, so that equal differences in all repetitions (a standard error of 0) need no division.
    beats_aal = means_aal < -critical * errors_aal
    return np.asarray(beats_aal.sum(axis=2) / len(rounds)).reshape(arms, arms)


def class_shares(labels: Sequence[int], class_count: int) -> Array:
    """Return each class's share of the labels (C,), which add up to 1.

    >>> class_shares([0, 0, 2, 1], 3)
    array([0.5 , 0.25, 0.25])
    """
    return np.bincount(np.asarray(labels, dtype=np.int64), minlength=class_count) / max(len(labels), 1)


def balance(shares_c: Array) -> float:
    """Return the entropy of class shares divided by log C: 1 if all classes are equally frequent, 0 if only one is.

    >>> balance(np.array([0.5, 0.5])), balance(np.array([1.0, 0.0]))
    (1.0, 0.0)
    """
    return float(stats.entropy(shares_c) / np.log(len(shares_c))) if len(shares_c) > 1 else 1.0


def _mean_difference(first: Array, second: Array, axis: int) -> Array:
    return np.asarray(np.mean(first - second, axis=axis))
