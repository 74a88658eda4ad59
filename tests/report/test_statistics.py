"""Each statistic against a case worked by hand, or against scipy."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from active_learning.report.statistics import (
    acquired_to_reach,
    balance,
    bootstrap_interval,
    class_shares,
    geometric_rounds,
    holm,
    mean_along_curve,
    paired_permutation_p,
    penalty_matrix,
    quartiles,
    repetitions_needed,
    smallest_permutation_p,
)

Array = npt.NDArray[np.float64]
values = arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1000))


def test_level_counts_as_reached_when_equal_and_stays_reached_when_the_error_rises_again() -> None:
    curves_er = np.array([[0.5, 0.05, 0.4, 0.01], [0.5, 0.5, 0.5, 0.051]])
    reached = acquired_to_reach(curves_er, np.array([0, 10, 20, 30]), 0.05)
    np.testing.assert_array_equal(reached, [10, np.inf])


def test_level_reached_before_the_first_acquisition_takes_no_image() -> None:
    assert acquired_to_reach(np.array([[0.01, 0.2]]), np.array([0, 7]), 0.05) == [0]


def test_unfinished_repetition_has_not_reached_what_it_has_not_come_to() -> None:
    curves_er = np.array([[0.5, np.nan, np.nan], [0.5, 0.3, 0.1]])
    np.testing.assert_array_equal(acquired_to_reach(curves_er, np.array([0, 10, 20]), 0.1), [np.inf, 20])


@given(values)
def test_quartiles_of_finite_values_are_numpys(values_e: Array) -> None:
    np.testing.assert_allclose(quartiles(values_e), np.quantile(values_e, [0.25, 0.5, 0.75]), atol=1e-9)


def test_quartiles_count_what_was_not_reached_as_infinite() -> None:
    assert quartiles(np.array([np.inf, 10, 20])) == (15, 20, np.inf)
    assert quartiles(np.array([np.inf, 10, np.inf])) == (np.inf, np.inf, np.inf)
    assert quartiles(np.array([np.inf, np.inf, 10, 20, 30])) == (20, 30, np.inf)


def test_bootstrap_of_three_repetitions_is_lowest_to_highest() -> None:
    low, high = bootstrap_interval(np.array([[0.1, 5.0], [0.4, 1.0], [0.2, 3.0]]))
    np.testing.assert_allclose(low, [0.1, 1.0])
    np.testing.assert_allclose(high, [0.4, 5.0])


def test_bootstrap_is_near_the_exact_distribution_over_all_resamples() -> None:
    values_e = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    means = [np.mean(resample) for resample in itertools.product(values_e, repeat=5)]
    low, high = bootstrap_interval(values_e)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), rtol=0.08)


def test_bootstrap_needs_two_repetitions_and_survives_equal_ones() -> None:
    assert np.isnan(bootstrap_interval(np.array([0.5]))).all()
    np.testing.assert_array_equal(bootstrap_interval(np.array([0.5, 0.5, 0.5])), (0.5, 0.5))


def test_mean_along_a_curve_weighs_uneven_steps() -> None:
    # (0.6 + 0.2) / 2 over 10 images and 0.2 over 30: (4 + 6) / 40
    assert mean_along_curve(np.array([[0.6, 0.2, 0.2]]), np.array([0, 10, 40])) == pytest.approx([0.25])


def test_mean_along_a_curve_of_an_unfinished_repetition_is_unknown() -> None:
    assert np.isnan(mean_along_curve(np.array([[0.6, np.nan]]), np.array([0, 10]))).all()


@settings(max_examples=25, deadline=None)
@given(arrays(np.int64, (2, 6), elements=st.integers(0, 20)))
def test_permutation_test_equals_counting_all_sign_patterns(values_2e: npt.NDArray[np.int64]) -> None:
    difference_e = values_2e[0] - values_2e[1]
    sums = np.array([np.dot(signs, difference_e) for signs in itertools.product((1, -1), repeat=6)])
    expected = min(1.0, 2 * min(np.mean(sums >= difference_e.sum()), np.mean(sums <= difference_e.sum())))
    assert paired_permutation_p(*values_2e.astype(float)) == pytest.approx(expected)


def test_permutation_test_of_three_repetitions_cannot_go_below_a_quarter() -> None:
    assert paired_permutation_p(np.array([1.0, 2.0, 3.0]), np.array([101.0, 102.0, 103.5])) == 0.25
    assert smallest_permutation_p(3) == 0.25
    assert smallest_permutation_p(0) == 1


def test_repetitions_needed_is_the_first_number_that_can_be_significant() -> None:
    assert repetitions_needed(1) == 6  # 2 / 64 = 0.031, 2 / 32 = 0.063
    assert repetitions_needed(10) == 9  # 10 x 2 / 512 = 0.039


def test_holm_worked_by_hand() -> None:
    # sorted 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04 -> 0.06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_geometric_rounds_double_and_stop_at_the_last() -> None:
    assert geometric_rounds(100) == [1, 2, 4, 8, 16, 32, 64]
    assert geometric_rounds(4) == [1, 2, 4]
    assert geometric_rounds(0) == []


def test_penalty_matrix_equals_scipys_paired_t_tests() -> None:
    rng = np.random.default_rng(4)
    curves_aer = rng.normal(size=(4, 5, 9)) + np.array([0, 1, 2, 3])[:, None, None]
    expected = np.zeros((4, 4))
    for first, second in itertools.permutations(range(4), 2):
        for round_ in (1, 2, 4, 8):
            test = stats.ttest_rel(curves_aer[first, :, round_], curves_aer[second, :, round_])
            expected[first, second] += (test.pvalue < 0.05 and test.statistic < 0) / 4
    assert 0 < expected.sum() < 6
    np.testing.assert_allclose(penalty_matrix(curves_aer, [1, 2, 4, 8]), expected)


def test_penalty_matrix_worked_by_hand() -> None:
    # Round 1: always 0.1 lower, a win without spread. Round 2: equal, no win for either.
    curves_aer = np.array([[[0.5, 0.1, 0.3], [0.5, 0.2, 0.4]], [[0.5, 0.2, 0.3], [0.5, 0.3, 0.4]]])
    np.testing.assert_array_equal(penalty_matrix(curves_aer, [1, 2]), [[0, 0.5], [0, 0]])


def test_class_shares_and_balance() -> None:
    np.testing.assert_allclose(class_shares([3, 3, 1, 0], 5), [0.25, 0.25, 0, 0.5, 0])
    np.testing.assert_array_equal(class_shares([], 2), [0, 0])
    assert balance(np.full(10, 0.1)) == pytest.approx(1)
    # H = 0.25 log 4 x 2 + 0.5 log 2 = 1.5 log 2, over log 4
    assert balance(np.array([0.25, 0.25, 0.5, 0.0])) == pytest.approx(0.75)
