"""How well class probabilities fit the labels. Dimensions: N images, C classes."""

import numpy as np
import numpy.typing as npt

CALIBRATION_BINS = 15
"""Bins of equal width for the expected calibration error (Guo et al. 2017 use 15)."""


def error_rate(probs_nc: npt.NDArray[np.floating], labels_n: npt.NDArray[np.int64]) -> float:
    """Return the fraction of images whose most probable class is not their label.

    >>> error_rate(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    0.5
    """
    return float(np.mean(probs_nc.argmax(axis=1) != labels_n))


def negative_log_likelihood(probs_nc: npt.NDArray[np.floating], labels_n: npt.NDArray[np.int64]) -> float:
    """Return the mean of -log p(label) in nats; a probability that rounded to 0 counts as the smallest float32.

    >>> round(negative_log_likelihood(np.array([[0.5, 0.5]]), np.array([1])), 4)
    0.6931
    """
    label_probs_n = probs_nc[np.arange(len(labels_n)), labels_n].astype(np.float64)
    return float(-np.log(np.maximum(label_probs_n, np.finfo(np.float32).tiny)).mean())


def expected_calibration_error(probs_nc: npt.NDArray[np.floating], labels_n: npt.NDArray[np.int64]) -> float:
    """Return sum_b (n_b / N) |accuracy_b - confidence_b| over bins b of the predicted class's probability.

    Source: Guo et al. 2017, equation 3; bins (b/15, (b+1)/15]. Range 0 to 1.

    >>> round(expected_calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])), 4)
    0.3
    """
    confidence_n = probs_nc.max(axis=1).astype(np.float64)
    correct_n = probs_nc.argmax(axis=1) == labels_n
    bins_n = np.clip(np.ceil(confidence_n * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps_b = np.bincount(bins_n, weights=correct_n - confidence_n, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps_b).sum() / len(labels_n))
