"""One run as a generator: fit, test, score, select, label, yield. Knows no files.

The state of a run is the list of images it has acquired: weights are drawn afresh each round and every random stream
is derived from (seed, repetition, round, purpose), so a run continues from its finished rounds as if never stopped.
modAL's ActiveLearner holds the labelled set, asks the query strategy once a round and refits the estimator.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from modAL.models import ActiveLearner

from acquisition_functions import ACQUISITION_FUNCTIONS, select_top
from active_learning.config import RunConfig
from active_learning.metrics import error_rate, expected_calibration_error, negative_log_likelihood
from active_learning.run_field import FieldClassifier, RunField
from active_learning.streams import Purpose, stream, stream_seed
from cnn_model import BayesianCNNClassifier, Weights
from load_data import ImageData, split_training_set

WEIGHT_DECAY_GRID = (0.0, 1.0, 3.5, 10.0)
"""The constants c that `--weight_decay tune` chooses from: none, the authors' 3.5, and one step to either side."""

Images = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What one round acquired and how good the model fitted after it is.

    `acquired_*` are in the order of the scores, highest first, and empty in round 0, which fits the initial images. For
    Minimum Bayes Risk they are in the order of its greedy choices, and a score is minus the expected risk, in images,
    that the image was chosen for.
    Errors and calibration are fractions, likelihoods nats an image; all with MC dropout (or without it, in a
    deterministic run), `test_*` on the whole test set, `validation_error` on the validation set (None if empty).
    """

    round: int
    labelled: int
    acquired_train_index: tuple[int, ...]
    acquired_scores: tuple[float, ...]
    acquired_labels: tuple[int, ...]
    test_error: float
    test_nll: float
    test_ece: float
    validation_error: float | None
    weight_decay: float
    weight_decay_tuned: bool
    seconds: dict[str, float] = field(compare=False)
    weights: Weights | None = field(default=None, compare=False, repr=False)


class PoolLearner(ActiveLearner):  # type: ignore[misc]
    """modAL's ActiveLearner without its input check, which passes an argument that scikit-learn has removed."""

    X_training: Images
    y_training: Index

    def _add_training_data(self, X: Images, y: Index) -> None:  # noqa: N803
        self.X_training = np.concatenate([self.X_training, X])
        self.y_training = np.concatenate([self.y_training, y])


def active_learning_rounds(
    config: RunConfig,
    data: ImageData,
    finished: Sequence[RoundResult] = (),
    weights: Weights | None = None,
    check: Callable[[], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[RoundResult]:
    """Yield the results of the rounds after the finished ones, up to round `config.rounds`.

    Args:
        config: the run.
        data: the data set that `config.dataset` names, reduced to `config.classes`.
        finished: results of rounds 0, 1, ... of the same run; only acquired images and weight decay are read.
        weights: the weights after the last finished round, needed with `warm_start` only.
        check: called before each training step, inference block and question to a field; what it raises ends the run.
        note: told in a sentence of what happened to the run and left its numbers alone, such as a lack of memory.

    Raises:
        NonFiniteLossError: when a fit's loss becomes NaN or infinite.
        FloatingPointError: when the fitted model's probabilities are not finite.
        LengthScaleError: when the graph of Minimum Bayes Risk says nothing of most images.
    """
    run = _Run(config, data, finished, _estimator(config, data, check, note), check or (lambda: None), note)
    if not finished:
        run.begin(round_=0)
        yield run.result(0)
    elif len(finished) <= config.rounds:
        run.begin(round_=len(finished) - 1, weights=weights)
    for round_ in range(max(len(finished), 1), config.rounds + 1):
        run.acquire(round_)
        yield run.result(round_)


class _Run:
    """The working state of one run between two rounds."""

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        finished: Sequence[RoundResult],
        estimator: BayesianCNNClassifier,
        check: Callable[[], None],
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.data = config, data
        self.splits = split_training_set(
            data.train_labels,
            config.val_size,
            stream(config.seed, config.repetition, 0, Purpose.SPLIT),
            initial_per_class=config.initial_per_class,
        )
        acquired = np.array([index for result in finished for index in result.acquired_train_index], dtype=np.int64)
        self.labelled_train_index = np.concatenate([self.splits.initial, acquired])
        self.in_pool = np.zeros(len(data.train_labels), dtype=bool)
        self.in_pool[self.splits.pool] = True
        self.in_pool[acquired] = False
        tuned = [result for result in finished if result.weight_decay_tuned]
        self.tuned_at = tuned[-1].labelled if tuned else 0
        self.weight_decay_tuned = False
        self.weight_decay = finished[-1].weight_decay if finished else 0.0
        self.acquired_train_index, self.acquired_scores = np.zeros(0, np.int64), np.zeros(0)
        self.seconds: dict[str, float] = {}
        self.estimator = estimator
        self.field: RunField | None = None
        if config.acquisition == "mbr":
            with self._timed("score"):
                self.field = RunField(config, data, self.splits, acquired, check, note)

    def begin(self, round_: int, weights: Weights | None = None) -> None:
        """Fit the labelled images as round `round_` does, or take the weights that it ended with."""
        index = self.labelled_train_index
        images, labels = self.data.train_images[index], self.data.train_labels[index]
        if weights is None:
            if round_ == 0:
                self._set_weight_decay(round_)
            self._prepare_fit(round_)
            with self._timed("fit"):
                model = self.estimator if self.config.classifier == "cnn" else FieldClassifier()
                self.learner = PoolLearner(model, self._query, images, labels)  # fits
            self._keep_weights()
        else:
            self.estimator.set_params(module__initial_weights=weights).initialize()
            self.learner = PoolLearner(self.estimator, self._query)
            self.learner.X_training, self.learner.y_training = images, labels

    def acquire(self, round_: int) -> None:
        """Query the model of the round before, label what it asks for, and fit anew."""
        self.seconds = {}
        train_index, images = self.learner.query(self.data.train_images, round_)
        labels = self.data.train_labels[train_index]
        self.in_pool[train_index] = False
        self.labelled_train_index = np.concatenate([self.labelled_train_index, train_index])
        self.acquired_train_index = train_index
        if self.field is not None:
            with self._timed("score"):
                self.field.label(train_index)
        self._set_weight_decay(round_)
        self._prepare_fit(round_)
        with self._timed("fit"):
            self.learner.teach(images, labels)
        self._keep_weights()

    def result(self, round_: int) -> RoundResult:
        """Evaluate the fitted model on the test and validation sets."""
        with self._timed("test"):
            test_probs_nc = self._mean_probabilities(self.data.test_images, None, round_, Purpose.TEST_PASSES)
            validation_error = self._validation_metric(error_rate, round_) if self.config.val_size else None
        labels = self.data.test_labels
        return RoundResult(
            round=round_,
            labelled=len(self.labelled_train_index),
            acquired_train_index=tuple(self.acquired_train_index.tolist()),
            acquired_scores=tuple(self.acquired_scores.tolist()),
            acquired_labels=tuple(self.data.train_labels[self.acquired_train_index].tolist()),
            test_error=error_rate(test_probs_nc, labels),
            test_nll=negative_log_likelihood(test_probs_nc, labels),
            test_ece=expected_calibration_error(test_probs_nc, labels),
            validation_error=validation_error,
            weight_decay=self.weight_decay,
            weight_decay_tuned=self.weight_decay_tuned,
            seconds=dict(self.seconds),
            weights=self.estimator.weights() if self.config.warm_start else None,
        )

    def _query(self, learner: PoolLearner, images: Images, round_: int) -> Index:
        """The query strategy that modAL calls: the training-set indices of the images with the highest scores."""
        if self.field is not None:
            with self._timed("score"):
                train_index, self.acquired_scores = self.field.query(self.config.query)
            return train_index
        candidates = self._candidates(round_)
        with self._timed("score"):
            scores_n = self._scores(images, candidates, round_)
        ties = stream(self.config.seed, self.config.repetition, round_, Purpose.TIES)
        pool_position = select_top(scores_n, self.config.query, ties)
        self.acquired_scores = scores_n[pool_position]
        return candidates[pool_position]

    def _candidates(self, round_: int) -> Index:
        """Return the training-set indices of the pool images that this round scores.

        One random order of the whole training set, cut down to the pool, keeps the subsets of different acquisition
        functions as alike as their pools are.
        """
        if not self.config.pool_subset:
            return np.flatnonzero(self.in_pool)
        order = stream(self.config.seed, self.config.repetition, round_, Purpose.POOL_ORDER).permutation(
            len(self.in_pool)
        )
        return order[self.in_pool[order]][: self.config.pool_subset]

    def _scores(self, images: Images, candidates: Index, round_: int) -> npt.NDArray[np.float64]:
        function = ACQUISITION_FUNCTIONS[self.config.acquisition]
        if not function.needs_probabilities:
            return np.zeros(len(candidates))
        score = function.score if self.config.mc_dropout else function.deterministic_score
        blocks = self._probability_blocks(images, candidates, round_, Purpose.SCORING_PASSES)
        return _finite(_filled(np.empty(len(candidates)), (score(probs_tbc) for probs_tbc in blocks)))

    def _probability_blocks(
        self, images: Images, train_index: Index | None, round_: int, purpose: Purpose
    ) -> Iterator[torch.Tensor]:
        if self.config.classifier == "field":
            assert self.field is not None
            chosen = images if train_index is None else images[train_index]
            return iter([torch.from_numpy(self.field.probabilities(chosen)[np.newaxis])])
        if not self.config.mc_dropout:
            return self.estimator.deterministic_blocks(images, train_index)
        seed = stream_seed(self.config.seed, self.config.repetition, round_, purpose)
        return self.estimator.mc_dropout_blocks(images, train_index, passes=self.config.dropout_iter, seed=seed)

    def _mean_probabilities(
        self, images: Images, train_index: Index | None, round_: int, purpose: Purpose
    ) -> npt.NDArray[np.float64]:
        """Return the predictive probabilities (N, C): the mean over the passes."""
        blocks = self._probability_blocks(images, train_index, round_, purpose)
        probs_nc = np.empty((len(images if train_index is None else train_index), self.data.class_count))
        return _finite(_filled(probs_nc, (probs_tbc.double().mean(dim=0) for probs_tbc in blocks)))

    def _validation_metric(self, metric: Callable[..., float], round_: int) -> float:
        train_index = self.splits.validation
        probs_nc = self._mean_probabilities(self.data.train_images, train_index, round_, Purpose.VALIDATION_PASSES)
        return metric(probs_nc, self.data.train_labels[train_index])

    def _set_weight_decay(self, round_: int) -> None:
        """Take the given constant, or choose one when the labelled set has doubled since the last choice."""
        if self.config.classifier == "field":  # which has no weights
            return
        labelled = len(self.labelled_train_index)
        if self.config.weight_decay != "tune":
            self.weight_decay = self.config.weight_decay
            return
        self.weight_decay_tuned = labelled >= 2 * self.tuned_at
        if self.weight_decay_tuned:
            with self._timed("tune"):
                self.weight_decay = min(WEIGHT_DECAY_GRID, key=lambda value: self._validation_loss(value, round_))
            self.tuned_at = labelled

    def _validation_loss(self, weight_decay: float, round_: int) -> float:
        """Return the validation set's negative log likelihood after a fit with this weight decay, in nats."""
        self.weight_decay = weight_decay
        self._prepare_fit(round_)
        index = self.labelled_train_index
        self.estimator.fit(self.data.train_images[index], self.data.train_labels[index])
        return self._validation_metric(negative_log_likelihood, round_)

    def _prepare_fit(self, round_: int) -> None:
        fit_seed = stream_seed(self.config.seed, self.config.repetition, round_, Purpose.FIT)
        self.estimator.set_params(fit_seed=fit_seed, weight_decay=self.weight_decay)

    def _keep_weights(self) -> None:
        """With `warm_start`, let the next fit begin where this one ended (its optimiser is new)."""
        if self.config.warm_start:
            self.estimator.module__initial_weights = self.estimator.weights()

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def _filled(array_n: npt.NDArray[np.float64], blocks: Iterable[torch.Tensor]) -> npt.NDArray[np.float64]:
    """Put blocks one after the other into an array made before them.

    Blocks kept one by one would lie between the inference's large ones and cost a megabyte of unusable memory each.
    """
    start = 0
    for block in blocks:
        array_n[start : start + len(block)] = block.cpu().numpy()
        start += len(block)
    assert start == len(array_n), (start, array_n.shape)
    return array_n


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return values that are finite; of others every metric would make a number, and argmax a class."""
    if not np.isfinite(values).all():
        raise FloatingPointError("the model's probabilities are not finite")
    return values


def _estimator(
    config: RunConfig,
    data: ImageData,
    check: Callable[[], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> BayesianCNNClassifier:
    return BayesianCNNClassifier(
        module__image_shape=data.train_images.shape[1:],
        module__class_count=data.class_count,
        module__pixel_mean=data.pixel_mean,
        module__pixel_std=data.pixel_std,
        classes=list(range(data.class_count)),
        max_epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        device=config.device,
        weight_decay=0.0,
        precision=config.precision,
        check=check,
        note=note,
    )
