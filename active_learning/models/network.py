"""A network as a learner: fits with a weight decay, MC dropout or one deterministic pass, evidence for acquisition.

Knows the skorch classifier, and not who computes the network.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from acquisition_functions import AcquisitionFunction, Evidence
from active_learning.interruption import NOBODY, Watch
from active_learning.metrics import negative_log_likelihood
from active_learning.models.augmentation import augmentation
from active_learning.models.engines import training_settings
from active_learning.models.field import RunField
from active_learning.models.inference import (
    deterministic_blocks,
    embedding_blocks,
    mc_dropout_blocks,
    mc_dropout_blocks_of_own_masks,
)
from active_learning.settings.config import RunConfig
from active_learning.settings.learners import Images, Index, Timed, Weights
from active_learning.settings.networks import NETWORKS
from active_learning.streams import Purpose, stream, stream_seed
from cnn_model import BayesianCNNClassifier, FineTunedResNet18, NonFiniteLossError
from load_data import ImageData, Splits

WEIGHT_DECAY_GRID = (0.0, 1.0, 3.5, 10.0)
"""The constants c that `--weight_decay tune` chooses from: none, the authors' 3.5, and one step to either side."""


TARGETS = 200
"""Images, drawn from the pool as it is at the start, whose labels EPIG wants to know more of."""


def weight_decays_to_try(last: float | None) -> tuple[float, ...]:
    """Return the constants of a choice: at first all, later the last one and its neighbours in the grid.

    >>> weight_decays_to_try(None), weight_decays_to_try(10.0)
    ((0.0, 1.0, 3.5, 10.0), (3.5, 10.0))
    """
    if last is None:
        return WEIGHT_DECAY_GRID
    place = WEIGHT_DECAY_GRID.index(last)
    return WEIGHT_DECAY_GRID[max(0, place - 1) : place + 2]


def bayesian(*arguments: Any, **others: Any) -> "NetworkLearner":
    """Return the network with MC dropout: its passes are posterior samples, their mean classifies."""
    return NetworkLearner(*arguments, **others, dropout=True)


def deterministic(*arguments: Any, **others: Any) -> "NetworkLearner":
    """Return the network that is trained with dropout and then used without, in one pass."""
    return NetworkLearner(*arguments, **others, dropout=False)


class NetworkLearner:
    """A network of one run; see `Learner`.

    Args:
        config: the run.
        data: its data set.
        splits: its initial, validation and pool images. Of the training labels only those of the first two are read.
        function: the run's acquisition function; one that needs a field gets that of the same images.
        dropout: whether dropout stays on when the network is used.
        timed: times a phase.
        watch: who looks at the run.
        pretrained: weights of ImageNet's residual network, from which every fit starts in place of the run's network.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        splits: Splits,
        function: AcquisitionFunction,
        *,
        dropout: bool,
        timed: Timed,
        watch: Watch = NOBODY,
        pretrained: Weights | None = None,
    ) -> None:
        self.weight_decay, self.weight_decay_tuned = 0.0, False
        self._tuned_at = 0
        self._config, self._dropout, self._timed = config, dropout, timed
        self._train_images, self._class_count, self._pool = data.train_images, data.class_count, splits.pool
        self.validation = data.train_images[splits.validation], data.train_labels[splits.validation]
        self.network = make_network(config, data, watch, pretrained)
        self.network.validation = self.validation
        self._field: RunField | None = None
        if "field" in function.needs:
            with timed("score"):
                self._field = RunField(config, data, splits, watch)

    def fit(self, train_index: Index, labels: Index, *, round_: int) -> Self:
        """Fit the labelled images, with a weight decay that is chosen anew where their number has doubled.

        Raises:
            NonFiniteLossError: when the loss becomes NaN or infinite, or that of every fit on the validation set is.
        """
        images = self._train_images[train_index]
        if self._field is not None:
            with self._timed("score"):
                self._field.tell(train_index, labels)
        if self._config.weight_decay != "tune":
            self.weight_decay = self._config.weight_decay
        else:
            self.weight_decay_tuned = len(labels) >= 2 * self._tuned_at
            if self.weight_decay_tuned:
                with self._timed("tune"):
                    self.tune(images, labels, round_)
                self._tuned_at = len(labels)
        with self._timed("fit"):
            self._fit(images, labels, self.weight_decay, round_)
        if self._config.warm_start:  # the next fit begins where this one ended, with a new optimiser
            self.network.module__initial_weights = self.network.weights()
        return self

    def _fit(self, images: Images, labels: Index, weight_decay: float, round_: int) -> None:
        fit_seed = self._seed(round_, Purpose.FIT)
        self.network.set_params(fit_seed=fit_seed, weight_decay=weight_decay).fit(images, labels)

    def tune(self, images: Images, labels: Index, round_: int) -> None:
        """Take the constant whose fit has the lowest negative log likelihood on the validation set, and that fit."""
        val_images, val_labels = self.validation
        lowest = math.inf
        for weight_decay in weight_decays_to_try(self.weight_decay if self._tuned_at else None):
            self._fit(images, labels, weight_decay, round_)
            with suppress(FloatingPointError):  # another constant may do better
                probs_nc = self.probabilities(val_images, round_=round_, purpose=Purpose.VALIDATION_PASSES)
                loss = negative_log_likelihood(probs_nc, val_labels)
                if loss < lowest:
                    lowest, self.weight_decay, trained = loss, weight_decay, self.network.weights()
        if lowest == math.inf:
            raise NonFiniteLossError("the validation loss is not a number after any fit that was to tune weight decay")
        self.network.trained = trained  # the round's own fit would come to the same

    def probabilities(self, images: Images, *, round_: int, purpose: Purpose) -> npt.NDArray[np.float64]:
        """Return the mean over the passes (N, C)."""
        probs_nc = np.empty((len(images), self._class_count))
        blocks = self._blocks(images, None, self._seed(round_, purpose))
        return _finite(_filled(probs_nc, (probs_tbc.double().mean(dim=0) for probs_tbc in blocks)))

    def evidence(self, candidates: Index, labelled: Index, function: AcquisitionFunction, *, round_: int) -> Evidence:
        """Return scores block by block where the function has a score, else what it needs."""
        count = len(candidates)
        if not function.needs:
            return Evidence(count=count, scores_n=np.zeros(count))
        found: dict[str, Any] = {}
        seed = self._seed(round_, Purpose.SCORING_PASSES)
        if self._field is not None:
            found["field"] = self._field.over(candidates)
        if "probabilities" in function.needs:
            score = function.score if self._dropout else function.deterministic_score
            blocks = self._scoring_blocks(candidates, seed)
            if score is not None:
                found["scores_n"] = _finite(_filled(np.empty(count), map(score, blocks)))
            elif "samples" in function.needs:
                found["probs_tnc"] = self._all_passes(blocks, count)
            else:  # all passes would take T / 2 times the memory of their mean
                means = (torch.from_numpy(block.cpu().numpy().mean(axis=0, dtype=np.float64)) for block in blocks)
                found["probs_tnc"] = _finite(_filled(np.empty((count, self._class_count)), means))[np.newaxis]
        if "targets" in function.needs:
            rng = stream(self._config.seed, self._config.repetition, round_, Purpose.TARGETS)
            targets = rng.choice(self._pool, min(TARGETS, len(self._pool)), replace=False)
            found["target_tmc"] = self._all_passes(self._blocks(self._train_images, targets, seed), len(targets))
        if "embeddings" in function.needs:
            for name, rows in {"embeddings_nd": candidates, "labelled_ld": labelled}.items():
                blocks = embedding_blocks(self.network, self._train_images, rows)
                found[name] = _finite(torch.cat(list(blocks)).cpu().numpy())
        return Evidence(count=count, **found)

    def opinion(
        self, candidates: Index, function: AcquisitionFunction, *, round_: int
    ) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64]]:
        """Return what the same passes say of each image: its score (N,), if the function has one, and its class (N, C).

        The class probabilities are the mean over the passes, and the scores those of `evidence`.
        """
        score = function.score if self._dropout else function.deterministic_score
        scores_n, probs_nc = np.zeros(len(candidates)), np.empty((len(candidates), self._class_count))
        start = 0
        for probs_tbc in self._scoring_blocks(candidates, self._seed(round_, Purpose.SCORING_PASSES)):
            block = slice(start, start + probs_tbc.shape[1])
            probs_nc[block] = probs_tbc.double().mean(dim=0).cpu().numpy()
            if score is not None:
                scores_n[block] = score(probs_tbc).cpu().numpy()
            start = block.stop
        return (None if score is None else _finite(scores_n)), _finite(probs_nc)

    def resume(self, weight_decay: float, tuned_at: int) -> None:
        """Know what the last finished round came to."""
        self.weight_decay, self._tuned_at = weight_decay, tuned_at

    def take(self, weights: Weights) -> None:
        """Take weights in place of a fit; the next one begins with them."""
        self.network.set_params(module__initial_weights=weights).initialize()

    def weights(self) -> Weights:
        """Return a copy of the fitted weights by name."""
        return self.network.weights()

    def _scoring_blocks(self, candidates: Index, seed: int) -> Iterator[torch.Tensor]:
        if self._dropout and self._config.masks == "image":
            passes = self._config.dropout_iter
            return mc_dropout_blocks_of_own_masks(
                self.network, self._train_images, candidates, passes=passes, seed=seed
            )
        return self._blocks(self._train_images, candidates, seed)

    def _blocks(self, images: Images, rows: Index | None, seed: int) -> Iterator[torch.Tensor]:
        """Yield class probabilities (T, B, C)."""
        if not self._dropout:
            return deterministic_blocks(self.network, images, rows)
        return mc_dropout_blocks(self.network, images, rows, passes=self._config.dropout_iter, seed=seed)

    def _all_passes(self, blocks: Iterator[torch.Tensor], count: int) -> npt.NDArray[np.float32]:
        """Return the class probabilities (T, N, C) of all blocks."""
        probs_tnc = np.empty((self._config.dropout_iter, count, self._class_count), dtype=np.float32)
        _filled(probs_tnc.swapaxes(0, 1), (block.transpose(0, 1) for block in blocks))
        return np.asarray(_finite(probs_tnc))

    def _seed(self, round_: int, purpose: Purpose) -> int:
        return stream_seed(self._config.seed, self._config.repetition, round_, purpose)


def make_network(
    config: RunConfig, data: ImageData, watch: Watch = NOBODY, pretrained: Weights | None = None
) -> BayesianCNNClassifier:
    """Return the skorch classifier of a run, not fitted yet; `pretrained` as for `NetworkLearner`."""
    module = NETWORKS[config.network].module if pretrained is None else FineTunedResNet18
    own: dict[str, Any] = {} if pretrained is None else {"module__pretrained": pretrained}
    return BayesianCNNClassifier(
        module,
        **training_settings(module),
        **own,
        module__image_shape=data.train_images.shape[1:],
        module__class_count=data.class_count,
        module__pixel_mean=data.pixel_mean,
        module__pixel_std=data.pixel_std,
        classes=list(range(data.class_count)),
        module__initialisation=config.initialisation,
        iterator_train__augment=augmentation(config.augment, config.augment_strength),
        max_epochs=config.epochs,
        min_steps=config.min_steps,
        epoch_images=config.epoch_images,
        lr_schedule=config.lr_schedule,
        stopping=config.stopping,
        batch_size=config.batch_size,
        lr=config.lr,
        device=config.device,
        weight_decay=0.0,
        precision=config.precision,
        **watch._asdict(),
    )


def _filled(array_n: npt.NDArray[Any], blocks: Iterable[torch.Tensor]) -> npt.NDArray[Any]:
    """Put blocks one after the other into an array made before them.

    Blocks kept one by one would lie between the inference's large ones and cost a megabyte of unusable memory each; to
    join them in the end takes the memory of all twice.
    """
    start = 0
    for block in blocks:
        array_n[start : start + len(block)] = block.cpu().numpy()
        start += len(block)
    assert start == len(array_n), (start, array_n.shape)
    return array_n


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values that are finite; of others every metric would make a number, and argmax a class."""
    if not np.isfinite(values).all():
        raise FloatingPointError("the model's probabilities are not finite")
    return values
