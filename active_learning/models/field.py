"""The Gaussian random field of one run of Minimum Bayes Risk: a graph over its initial and its pool images.

It stands between the run, which counts images as the training set does, and the field, which counts its own nodes.
Validation and test images are no nodes: they are classified by the harmonic extension. The labels of the pool are not
read before they are acquired.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from acquisition_functions import AcquisitionFunction, Evidence
from active_learning.interruption import Watch
from active_learning.models.mbr import ZHU_SIGMA, GaussianRandomField, LengthScaleError, choose_sigma
from active_learning.settings.config import ConfigError, RunConfig
from active_learning.settings.learners import Images, Index, Timed, Weights
from load_data import ImageData, Splits

FloatArray = npt.NDArray[np.float64]

SIGMA_GRID = tuple(ZHU_SIGMA * 2.0**step for step in range(-2, 5))
"""Length scales that `--mbr_sigma tune` chooses from: Zhu's, and factors of two to either side of it."""


class RunField:
    """The field of a run, told the labels that the run has paid for and no others.

    Args:
        config: the run.
        data: its data set, of two classes.
        splits: its initial, validation and pool images. Of the training labels those of the first two are read.
        watch: who looks at the run; told of images that no label can reach.

    Raises:
        LengthScaleError: when the graph says nothing of most images.
    """

    def __init__(self, config: RunConfig, data: ImageData, splits: Splits, watch: Watch) -> None:
        self._check = watch.check
        self._train_index = np.sort(np.concatenate([splits.initial, splits.pool]))
        images = data.train_images[self._train_index]
        try:
            self._field = self._made(config, data, splits, images)
        except LengthScaleError as error:
            raise LengthScaleError(f"{error} ({_ADVICE})") from error
        unlabelled = len(self._train_index) - len(splits.initial)
        told = f"{self._field.unreached} of {unlabelled} unlabelled images have no path to a label in the graph"
        if 2 * self._field.unreached > unlabelled:
            raise LengthScaleError(f"{told}, and the field knows nothing of them ({_ADVICE})")
        if self._field.unreached:
            watch.note(f"{told}: their probability is 0.5 until one of their part of the graph is labelled ({_ADVICE})")
        self._told = len(splits.initial)

    def _made(
        self, config: RunConfig, data: ImageData, splits: Splits, images: npt.NDArray[np.uint8]
    ) -> GaussianRandomField:
        initial = self._nodes(splits.initial)
        initial_labels = data.train_labels[splits.initial]
        neighbours = config.mbr_neighbours or None
        sigma, check = config.mbr_sigma, self._check
        if sigma == "tune":
            val_images, val_labels = data.train_images[splits.validation], data.train_labels[splits.validation]
            sigma, _ = choose_sigma(
                images, initial, initial_labels, val_images, val_labels, SIGMA_GRID, neighbours=neighbours, check=check
            )
        return GaussianRandomField.from_images(
            images, initial, initial_labels, sigma=sigma, neighbours=neighbours, threads=config.threads, check=check
        )

    def tell(self, train_index: Index, labels: Index) -> None:
        """Tell the field all labels so far, in order: those that it has not been told change it.

        Told at once or round by round, it becomes the same, byte for byte.
        """
        new = slice(self._told, None)
        for node, label in zip(self._nodes(train_index[new]), labels[new], strict=True):
            self._check()
            self._field.label(node, label)
        self._told = len(labels)

    def over(self, candidates: Index) -> "CandidateField":
        """Return the field as an acquisition function sees it: over all images without a label, and no others."""
        assert np.array_equal(np.sort(candidates), self._train_index[self._field.unlabelled])
        return CandidateField(self, candidates)

    def query(self, count: int) -> tuple[Index, FloatArray]:
        """Return the train_index (K,) of a greedy batch, and the expected risk (K,) each was chosen for."""
        self._check()
        nodes, risks = self._field.query_with_risks(count)
        return self._train_index[nodes], risks

    def probabilities(self, images: Images) -> FloatArray:
        """Return the probabilities (N, 2) of both classes for images outside the graph."""
        self._check()
        probs_n = self._field.predict_probabilities(images)
        return np.column_stack([1 - probs_n, probs_n])

    def _nodes(self, train_index: Index) -> Index:
        return np.searchsorted(self._train_index, train_index)


class CandidateField:
    """A run's field over candidates; see `acquisition_functions.RiskField`."""

    def __init__(self, field: RunField, candidates: Index) -> None:
        self._field, self._candidates = field, candidates

    def least_expected_risk(self, count: int) -> tuple[Index, FloatArray]:
        """Return positions among the candidates (K,), and the expected risk (K,) that each was chosen for."""
        train_index, risks_k = self._field.query(count)
        order = np.argsort(self._candidates)
        return order[np.searchsorted(self._candidates, train_index, sorter=order)], risks_k


class FieldLearner:
    """The field as a learner: it classifies by itself, and has no weights; see `Learner`."""

    weight_decay, weight_decay_tuned = 0.0, False

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        splits: Splits,
        _function: AcquisitionFunction,
        *,
        timed: Timed,
        watch: Watch,
    ) -> None:
        self._timed = timed
        with timed("score"):
            self._field = RunField(config, data, splits, watch)

    def fit(self, train_index: Index, labels: Index, **_: Any) -> Self:
        """Tell the field the labels."""
        with self._timed("score"):
            self._field.tell(train_index, labels)
        return self

    def probabilities(self, images: Images, **_: Any) -> FloatArray:
        """Return the probabilities (N, 2) of the harmonic extension."""
        return self._field.probabilities(images)

    def evidence(self, candidates: Index, _labelled: Index, function: AcquisitionFunction, **_: Any) -> Evidence:
        """Return the field over the candidates, for a function that asks for it."""
        if not function.needs:
            return Evidence(count=len(candidates), scores_n=np.zeros(len(candidates)))
        return Evidence(count=len(candidates), field=self._field.over(candidates))

    def resume(self, weight_decay: float, tuned_at: int) -> None:
        """Do nothing."""

    def take(self, weights: Weights) -> None:
        """Do nothing."""

    def weights(self) -> Weights:
        """Return nothing."""
        return {}


def check_length_scale(sigma: float, images: npt.NDArray[np.uint8]) -> None:
    """Refuse, before any run, a sigma so small that most images have no neighbour whose weight is above 0.

    Args:
        sigma: of `--mbr_sigma`.
        images: all images that a graph can have; some of them are looked at.

    Raises:
        ConfigError: saying which to try.
    """
    images_nd = images.reshape(len(images), -1).astype(np.float64)
    square_n = np.einsum("nd,nd->n", images_nd, images_nd)
    few_k = np.arange(0, len(images_nd), max(1, len(images_nd) // LOOKED_AT))
    square_kn = square_n[few_k, None] + square_n - 2 * images_nd[few_k] @ images_nd.T
    square_kn[np.arange(len(few_k)), few_k] = np.inf
    nearest = float(np.median(np.sqrt(square_kn.min(axis=1).clip(0))))
    if np.exp(-((nearest / sigma) ** 2)) == 0:
        raise ConfigError(
            f"--mbr_sigma {sigma:g} is too small for these images, which are {nearest:.4g} from their nearest (median, "
            f"pixels of 0 to 255): most weights would be 0; try {max(ZHU_SIGMA, nearest / 5):.4g}, or tune."
        )


LOOKED_AT = 200
"""Images whose nearest is looked for before a run."""

_ADVICE = "try a larger --mbr_sigma or more --mbr_neighbours"
