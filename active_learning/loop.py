"""One run as a generator: fit, test, score, select, label, yield. Knows no files.

The state of a run is the list of images it has acquired: weights are drawn afresh each round and every random stream
is derived from (seed, repetition, round, purpose), so a run continues from its finished rounds as if never stopped.
modAL's ActiveLearner holds the labelled set, asks the query strategy once a round and refits the estimator.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from modAL.models import ActiveLearner

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.disk.record import Round
from active_learning.interruption import NOBODY, Watch
from active_learning.metrics import error_rate, expected_calibration_error, negative_log_likelihood
from active_learning.settings.config import RunConfig
from active_learning.settings.learners import LEARNERS, Index, Weights
from active_learning.streams import Purpose, stream
from load_data import ImageData, Splits, imbalanced, noisy_labels, split_training_set


class PoolLearner(ActiveLearner):  # type: ignore[misc]
    """modAL's ActiveLearner without its input check, which passes an argument that scikit-learn has removed.

    Its X are training-set indices: the learner knows the images.
    """

    X_training: Index
    y_training: Index

    def _add_training_data(self, X: Index, y: Index) -> None:  # noqa: N803
        self.X_training = np.concatenate([self.X_training, X])
        self.y_training = np.concatenate([self.y_training, y])


def active_learning_rounds(
    config: RunConfig,
    data: ImageData,
    finished: Sequence[Round] = (),
    weights: Weights | None = None,
    watch: Watch = NOBODY,
) -> Iterator[Round]:
    """Yield the results of the rounds after the finished ones, up to round `config.rounds`.

    Args:
        config: the run.
        data: the data set that `config.dataset` names, reduced to `config.classes`.
        finished: results of rounds 0, 1, ... of the same run; only acquired images and weight decay are read.
        weights: the weights after the last finished round, needed with `warm_start` only.
        watch: who looks at it.

    Raises:
        NonFiniteLossError: when a fit's loss becomes NaN or infinite, or that of every fit on the validation set is.
        FloatingPointError: when the fitted model's probabilities are not finite.
        LengthScaleError: when the graph of Minimum Bayes Risk says nothing of most images.
    """
    run = RunState(config, data, finished, watch)
    if not finished:
        run.begin(round_=0)
        yield run.result(0)
    elif len(finished) <= config.rounds:
        run.begin(round_=len(finished) - 1, weights=weights)
    for round_ in range(max(len(finished), 1), config.rounds + 1):
        run.acquire(round_)
        yield run.result(round_)


def split_and_labelled(config: RunConfig, data: ImageData) -> tuple[Splits, ImageData]:
    """Return the splits of a run, and its data set with the training labels that the run is given when it asks."""

    def rng(purpose: Purpose) -> np.random.Generator:
        return stream(config.seed, config.repetition, 0, purpose)

    labels = data.train_labels
    splits = split_training_set(
        labels,
        config.val_size,
        rng(Purpose.SPLIT),
        initial_per_class=config.initial_per_class,
        initial_images=config.initial_images,
    )
    if config.imbalance:
        splits = imbalanced(splits, labels, config.imbalance, rng(Purpose.IMBALANCE))
    if config.label_noise:
        labels = noisy_labels(labels, data.class_count, config.label_noise, rng(Purpose.LABEL_NOISE))
        data = dataclasses.replace(data, train_labels=labels)
    return splits, data


class RunState:
    """The working state of one run between two rounds."""

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        finished: Sequence[Round],
        watch: Watch,
    ) -> None:
        self.config = config
        self.function = ACQUISITION_FUNCTIONS[config.acquisition]
        self.splits, self.data = split_and_labelled(config, data)
        data = self.data
        acquired = np.array([index for result in finished for index in result.acquired_train_index], dtype=np.int64)
        self.labelled_train_index = np.concatenate([self.splits.initial, acquired])
        self.in_pool = np.zeros(len(data.train_labels), dtype=bool)
        self.in_pool[self.splits.pool] = True
        self.in_pool[acquired] = False
        self.acquired_train_index, self.acquired_scores = np.zeros(0, np.int64), np.zeros(0)
        self.seconds: dict[str, float] = {}
        arguments = config, data, self.splits, self.function
        self.learner = LEARNERS[config.learner].make(*arguments, timed=self._timed, watch=watch)
        if finished:
            tuned = [result.labelled for result in finished if result.weight_decay_tuned]
            self.learner.resume(finished[-1].weight_decay, tuned_at=max(tuned, default=0))

    def begin(self, round_: int, weights: Weights | None = None) -> None:
        """Fit the labelled images as round `round_` does, or take the weights that it ended with."""
        index = self.labelled_train_index
        labels = self.data.train_labels[index]
        if weights is None:
            self.pool_learner = PoolLearner(self.learner, self.query, index, labels, round_=round_)  # fits
        else:
            self.learner.take(weights)
            self.pool_learner = PoolLearner(self.learner, self.query)
            self.pool_learner.X_training, self.pool_learner.y_training = index, labels

    def acquire(self, round_: int) -> None:
        """Query the model of the round before, label what it asks for, and fit anew."""
        self.seconds = {}
        candidates = self.candidates(round_)
        _, train_index = self.pool_learner.query(candidates, round_)
        self.in_pool[train_index] = False
        self.labelled_train_index = np.concatenate([self.labelled_train_index, train_index])
        self.acquired_train_index = train_index
        self.pool_learner.teach(train_index, self.data.train_labels[train_index], round_=round_)

    def result(self, round_: int) -> Round:
        """Evaluate the fitted model on the test and validation sets."""
        validation = self.splits.validation
        with self._timed("test"):
            probs_nc = self.learner.probabilities(self.data.test_images, round_=round_, purpose=Purpose.TEST_PASSES)
            validation_error = None
            if len(validation):
                images, purpose = self.data.train_images[validation], Purpose.VALIDATION_PASSES
                val_probs_nc = self.learner.probabilities(images, round_=round_, purpose=purpose)
                validation_error = error_rate(val_probs_nc, self.data.train_labels[validation])
        labels = self.data.test_labels
        return Round(
            round=round_,
            labelled=len(self.labelled_train_index),
            acquired_train_index=tuple(self.acquired_train_index.tolist()),
            acquired_scores=tuple(self.acquired_scores.tolist()),
            acquired_labels=tuple(self.data.train_labels[self.acquired_train_index].tolist()),
            test_error=error_rate(probs_nc, labels),
            test_nll=negative_log_likelihood(probs_nc, labels),
            test_ece=expected_calibration_error(probs_nc, labels),
            validation_error=validation_error,
            weight_decay=self.learner.weight_decay,
            weight_decay_tuned=self.learner.weight_decay_tuned,
            seconds=dict(self.seconds),
            weights=self.learner.weights() if self.config.warm_start else None,
        )

    def query(self, _: PoolLearner, candidates: Index, round_: int) -> Index:
        """The query strategy that modAL calls: positions among the candidates."""
        ties = stream(self.config.seed, self.config.repetition, round_, Purpose.TIES)
        with self._timed("score"):
            evidence = self.learner.evidence(candidates, self.labelled_train_index, self.function, round_=round_)
            settings = {name: getattr(self.config, name) for name in self.function.settings}
            picks = self.function.select(evidence, self.config.query, ties, **settings)
        self.acquired_scores = picks.values_k
        return picks.positions_k

    def candidates(self, round_: int) -> Index:
        """Return the training-set indices of the pool images that this round looks at.

        One random order of the whole training set, cut down to the pool, keeps the subsets of different acquisition
        functions as alike as their pools are.
        """
        if self.function.whole_pool or not self.config.pool_subset:
            return np.flatnonzero(self.in_pool)
        order = stream(self.config.seed, self.config.repetition, round_, Purpose.POOL_ORDER).permutation(
            len(self.in_pool)
        )
        return order[self.in_pool[order]][: self.config.pool_subset]

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
