"""Error, likelihood and calibration against hand-worked cases."""

import numpy as np
import pytest

from active_learning.metrics import error_rate, expected_calibration_error, negative_log_likelihood

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.65, 0.35, 0.0]])
LABELS = np.array([0, 2, 2, 1])


def test_error_rate_counts_wrong_predictions() -> None:
    assert error_rate(PROBS, LABELS) == 0.5


def test_negative_log_likelihood_is_the_mean_over_images() -> None:
    expected = -(np.log(0.7) + np.log(0.3) + np.log(0.4) + np.log(0.35)) / 4
    assert negative_log_likelihood(PROBS, LABELS) == pytest.approx(expected)


def test_a_probability_that_rounded_to_zero_stays_finite() -> None:
    loss = negative_log_likelihood(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))
    assert loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # Bins of 1/15: 0.7 -> (10/15, 11/15], 0.6 -> (8/15, 9/15], 0.4 -> (5/15, 6/15], 0.65 -> (9/15, 10/15].
    expected = (abs(1 - 0.7) + abs(0 - 0.6) + abs(1 - 0.4) + abs(0 - 0.65)) / 4
    assert expected_calibration_error(PROBS, LABELS) == pytest.approx(expected)


def test_images_of_one_bin_are_averaged_before_the_gap_is_taken() -> None:
    probs = np.array([[0.75, 0.25]] * 4)
    assert expected_calibration_error(probs, np.array([0, 0, 0, 1])) == pytest.approx(0)
    assert expected_calibration_error(probs, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


@pytest.mark.parametrize("confidence", [1.0, 1 / 15 + 0.5])
def test_certain_predictions_fall_into_a_bin(confidence: float) -> None:
    probs = np.array([[confidence, 1 - confidence]])
    assert expected_calibration_error(probs, np.array([0])) == pytest.approx(1 - confidence)
