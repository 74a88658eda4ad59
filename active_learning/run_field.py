"""The Gaussian random field of one run of Minimum Bayes Risk: a graph over its initial and its pool images.

It stands between the run, which counts images as the training set does, and the field, which counts its own nodes.
Validation and test images are no nodes: they are classified by the harmonic extension. The labels of the pool are not
read before they are acquired.
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from active_learning.config import RunConfig
from active_learning.mbr import ZHU_SIGMA, GaussianRandomField, choose_sigma
from load_data import ImageData, Splits

Index = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SIGMA_GRID = tuple(ZHU_SIGMA * 2.0**step for step in range(-2, 5))
"""Length scales that `--mbr_sigma tune` chooses from: Zhu's, and factors of two to either side of it."""


class RunField:
    """The field of a run, told the labels that the run has paid for and no others.

    Args:
        config: the run.
        data: its data set, of two classes.
        splits: its initial, validation and pool images.
        acquired: train_index of the images acquired so far, in order: the field becomes the same as if it had been told
            of them round by round, byte for byte.
        check: called between two steps; what it raises ends the run.
    """

    def __init__(
        self, config: RunConfig, data: ImageData, splits: Splits, acquired: Index, check: Callable[[], None]
    ) -> None:
        self._check = check
        self._train_labels = data.train_labels
        self._train_index = np.sort(np.concatenate([splits.initial, splits.pool]))
        images = data.train_images[self._train_index]
        initial = self._nodes(splits.initial)
        initial_labels = data.train_labels[splits.initial]
        neighbours = config.mbr_neighbours or None
        sigma = config.mbr_sigma
        if sigma == "tune":
            val_images, val_labels = data.train_images[splits.validation], data.train_labels[splits.validation]
            sigma, _ = choose_sigma(
                images, initial, initial_labels, val_images, val_labels, SIGMA_GRID, neighbours=neighbours, check=check
            )
        self._field = GaussianRandomField.from_images(
            images, initial, initial_labels, sigma=sigma, neighbours=neighbours, threads=config.threads, check=check
        )
        self.label(acquired)

    def query(self, count: int) -> tuple[Index, FloatArray]:
        """Return the train_index (K,) of a greedy batch, and minus the expected risk (K,) each was chosen for."""
        self._check()
        nodes, risks = self._field.query_with_risks(count)
        return self._train_index[nodes], -risks

    def label(self, train_index: Index) -> None:
        """Tell the field the labels of images that have been acquired."""
        for node, label in zip(self._nodes(train_index), self._train_labels[train_index], strict=True):
            self._check()
            self._field.label(node, label)

    def probabilities(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        """Return the probabilities (N, 2) of both classes for images outside the graph."""
        self._check()
        probs_n = self._field.predict_probabilities(images)
        return np.column_stack([1 - probs_n, probs_n])

    def _nodes(self, train_index: Index) -> Index:
        return np.searchsorted(self._train_index, train_index)


class FieldClassifier:
    """What modAL fits where the field itself is the classifier: it was told the labels when they were acquired."""

    def fit(self, images: npt.NDArray[np.uint8], labels: Index, **_: Any) -> Self:
        """Do nothing."""
        return self
