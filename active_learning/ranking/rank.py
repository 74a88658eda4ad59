"""One round: train on what is labelled, score the pool, choose what to ask for."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acquisition_functions import ACQUISITION_FUNCTIONS, AcquisitionFunction, Evidence
from active_learning.images.library import Label, Library, Picture, mean_and_std
from active_learning.interruption import Watch
from active_learning.models.hardware import choose_device, choose_precision, computing_threads
from active_learning.models.network import NetworkLearner, bayesian
from active_learning.ranking.config import RankConfig
from active_learning.ranking.cover import cover
from active_learning.ranking.estimate import Estimate, estimate
from active_learning.ranking.journal import Choice, ChosenBy
from active_learning.settings.learners import Index, Timed, Weights
from active_learning.streams import Purpose, stream
from cnn_model import Device, Precision
from load_data import ImageData, Splits

Inputs = npt.NDArray[Any]

DECIDES_NOTHING = frozenset({
    "images", "labels", "relabel", "add_classes", "result_dir", "export", "image_url", "quiet", "flat", "val_share",
    "weights", "precision", "device",
})  # fmt: skip
"""Settings that no choice follows from; of the weights it is their content, of the last two what they come to."""


@dataclass(frozen=True)
class Ranked:
    """What is known of an image of the pool: as in `Choice`."""

    picture: Picture
    score: float | None
    predicted: str
    confidence: float | None


@dataclass(frozen=True)
class Ranking:
    """What a round comes to.

    Attributes:
        round_: its number; the first is 1.
        choices: the images to ask for, in the order of choice.
        rest: the other images of the pool, most useful first.
        classes: those that the network tells apart; none where it was not trained.
        function: the acquisition function.
        looked_at: among how many images it picked.
        labels: how many images the network was trained on.
        estimate: how often it errs.
        clusters: sizes of the clusters of a cover, of each choice that stands for one.
    """

    round_: int
    choices: tuple[Choice, ...]
    rest: tuple[Ranked, ...]
    classes: tuple[str, ...]
    function: AcquisitionFunction
    looked_at: int
    labels: int
    estimate: Estimate
    clusters: Mapping[str, int]

    @property
    def cold(self) -> bool:
        """Whether there were too few classes to train, and the pool was covered."""
        return not self.classes


def machine(config: RankConfig) -> tuple[Precision, Device]:
    """Return what computes here: the precision and the device.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    device = choose_device(config.device)
    return choose_precision(config.precision, device), device


class Round:
    """One round of a ranking.

    Args:
        config: what the user wants.
        library: all images.
        inputs: what the network takes of each row of the library: its pixels, or features (rows, F, 1, 1) in float32.
        labels: by the content's sha256, in the order in which they came.
        before: by whom each content was chosen in earlier rounds.
        chosen: those that this acquisition function chose in them, in the order of choice.
        round_: its number.
        timed: times a phase.
        progress: shows how many folds of the estimate are through.
        watch: who looks at it.
        pretrained: the weights that every fit starts from; None for fresh ones.
    """

    def __init__(
        self,
        config: RankConfig,
        library: Library,
        inputs: Inputs,
        labels: Mapping[str, Label],
        before: Mapping[str, ChosenBy],
        chosen: Sequence[str],
        round_: int,
        *,
        timed: Timed,
        progress: Callable[[Sequence[int]], Iterator[int]],
        watch: Watch,
        pretrained: Weights | None = None,
    ) -> None:
        self._pretrained = pretrained
        self._config, self._library, self._before, self._round = config, library, before, round_
        self._inputs = inputs
        self._timed, self._progress, self._watch = timed, progress, watch
        self._function = ACQUISITION_FUNCTIONS[config.acquisition]
        by_digest = {picture.sha256: picture for picture in library.pictures}
        known = [(by_digest[sha256], label.name) for sha256, label in labels.items() if sha256 in by_digest]
        self.classes = tuple(sorted({name for _, name in known}))
        self._labelled = np.array([picture.row for picture, _ in known], np.int64)
        self._labels = np.array([self.classes.index(name) for _, name in known], np.int64)
        self._at_random = np.array([before.get(picture.sha256) == "random" for picture, _ in known], bool)
        position = {picture.sha256: number for number, (picture, _) in enumerate(known)}
        self._chosen = np.array([position[sha256] for sha256 in chosen if sha256 in position], np.int64)
        self._pictures = {picture.row: picture for picture in library.pictures}
        self._pool = np.array([p.row for p in library.pictures if p.sha256 not in labels], np.int64)

    def result(self) -> Ranking:
        """Return what to ask for, and the rest of the pool.

        Raises:
            NonFiniteLossError, FloatingPointError: when the network's numbers are not finite.
        """
        count = min(self._config.query, len(self._pool))
        drawn = self._drawn(count)
        left = self._pool[~np.isin(self._pool, drawn)]
        if len(self.classes) < 2:
            return self._covered(left, count - len(drawn), drawn)
        with computing_threads(self._config.threads):
            return self._ranked(left, count - len(drawn), drawn)

    def _drawn(self, count: int) -> Index:
        """Return the images that a lot decides on: their share, rounded so that it is right over all batches."""
        asked = len(self._before) + count
        drawn_before = sum(by == "random" for by in self._before.values())
        share = self._config.random_share
        least, most = math.floor(share * count), math.ceil(share * count)
        wanted = min(max(round(share * asked) - drawn_before, least), most)
        rng = stream(self._config.seed, 0, self._round, Purpose.POOL_ORDER)
        return rng.permutation(self._pool)[:wanted]

    def _covered(self, left: Index, count: int, drawn: Index) -> Ranking:
        rng = stream(self._config.seed, 0, self._round, Purpose.TIES)
        with self._timed("cover"):
            typical = cover(self._library.pixels, left, self._labelled, count, rng)
        choices = [Choice(self._pictures[one.row], "cover", one.typicality) for one in typical]
        choices += [Choice(self._pictures[row], "random") for row in drawn.tolist()]
        taken = {choice.picture.row for choice in choices}
        rest = [Ranked(self._pictures[row], None, "", None) for row in self._pool.tolist() if row not in taken]
        sizes = {self._pictures[one.row].sha256: one.cluster_size for one in typical}
        return self._made(choices, rest, (), len(left), Estimate(len(self._labels)), sizes)

    def _ranked(self, left: Index, count: int, drawn: Index) -> Ranking:
        with self._timed("estimate"):
            held_out = self._estimate(self._learner(lambda _: nullcontext()))
        learner = self._learner(self._timed)
        learner.fit(self._labelled, self._labels, round_=self._round)
        with self._timed("score"):
            scores_n, probs_nc = learner.opinion(self._pool, self._function, round_=self._round)
            if not self._function.needs:
                scores_n = None
            place = {row: position for position, row in enumerate(self._pool.tolist())}
            picked, values, looked_at = self._pick(learner, left, count, scores_n, place)

        def known(row: int) -> tuple[str, float]:
            probs_c = probs_nc[place[row]]
            return self.classes[int(probs_c.argmax())], float(probs_c.max())

        by: ChosenBy = "function" if self._function.needs else "random"
        scores = values if self._function.needs else [None] * len(picked)
        found = zip(picked, scores, strict=True)
        choices = [Choice(self._pictures[row], by, score, *known(row)) for row, score in found]
        choices += [Choice(self._pictures[row], "random", None, *known(row)) for row in drawn.tolist()]
        taken = {choice.picture.row for choice in choices}
        rest = [
            Ranked(self._pictures[row], None if scores_n is None else float(scores_n[place[row]]), *known(row))
            for row in self._pool.tolist()
            if row not in taken
        ]
        rest.sort(key=lambda one: (one.confidence if one.score is None else -one.score, one.picture.file_name))
        return self._made(choices, rest, self.classes, looked_at, held_out, {})

    def _pick(
        self,
        learner: NetworkLearner,
        left: Index,
        count: int,
        scores_n: npt.NDArray[np.float64] | None,
        place: Mapping[int, int],
    ) -> tuple[list[int], list[float], int]:
        """Return the rows picked, what each was picked for, and among how many."""
        ties = stream(self._config.seed, 0, self._round, Purpose.TIES)
        candidates = left
        if self._function.score is not None:
            of_left = [0.0 if scores_n is None else scores_n[place[row]] for row in left.tolist()]
            evidence = Evidence(count=len(left), scores_n=np.array(of_left))
        else:
            some = np.sort(ties.permutation(len(left))[: self._config.pool_subset or None])
            candidates = left[some]
            evidence = learner.evidence(candidates, self._labelled, self._function, round_=self._round)
        settings = {name: getattr(self._config, name) for name in self._function.settings}
        picks = self._function.select(evidence, count, ties, **settings)
        return candidates[picks.positions_k].tolist(), picks.values_k.tolist(), len(candidates)

    def _learner(self, timed: Timed) -> NetworkLearner:
        run = self._config.run(*machine(self._config))
        inputs = np.asarray(self._inputs)
        labels = np.zeros(len(inputs), np.int64)
        labels[self._labelled] = self._labels
        mean, std = mean_and_std(inputs, np.array(list(self._pictures)))
        nothing = np.zeros(0, np.int64)
        data = ImageData(inputs, labels, inputs[:0], nothing, len(self.classes), mean, std)
        splits = Splits(self._labelled, nothing, self._pool)
        return bayesian(run, data, splits, self._function, timed=timed, watch=self._watch, pretrained=self._pretrained)

    def _estimate(self, learner: NetworkLearner) -> Estimate:
        return estimate(
            learner, self._inputs, self._labelled, self._labels, self._at_random, self._chosen,
            val_share=self._config.val_share, seed=self._config.seed, round_=self._round, progress=self._progress,
        )  # fmt: skip

    def _made(
        self,
        choices: Sequence[Choice],
        rest: Sequence[Ranked],
        classes: tuple[str, ...],
        looked_at: int,
        held_out: Estimate,
        clusters: Mapping[str, int],
    ) -> Ranking:
        return Ranking(
            self._round, tuple(choices), tuple(rest), classes, self._function, looked_at, len(self._labels), held_out,
            clusters,
        )  # fmt: skip

    @property
    def precision(self) -> Precision:
        """The precision that is computed in here."""
        return machine(self._config)[0]

    @property
    def state(self) -> dict[str, Any]:
        """What decides the round, but for its number: labels, pool and settings."""
        names = {row: picture.sha256 for row, picture in self._pictures.items()}
        labelled = zip(self._labelled.tolist(), self._labels.tolist(), strict=True)
        settings = {name: value for name, value in vars(self._config).items() if name not in DECIDES_NOTHING}
        if not self._config.fine_tune:  # which the first journals do not know
            del settings["fine_tune"]
        settings |= {"acq_func": self._config.acquisition, "machine": machine(self._config)}
        return {
            "labelled": [[names[row], self.classes[label]] for row, label in labelled],
            "pool": [names[row] for row in self._pool.tolist()],
            "size": self._library.size,
            "settings": settings,
        }
