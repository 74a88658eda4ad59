"""How often the network errs, as far as the labels can tell, whether more of them pay, and whether choosing does.

Images that were asked for at random stand for the pool, so each of their labels is held out once, and the network
trained on all others. The other images were chosen because they are hard, or given by the user: an error measured on
them is another one, and is measured only while there are few of the first kind. Of many labels one share is held out.

Images asked for at random show what a random choice would have given, too: a network that learned some of them is set
against one that learned as many that the function chose in their place.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from active_learning.settings.learners import Index
from active_learning.streams import Purpose, stream

LEAST_LABELS = 10
"""Fewer labels give no estimate."""

LEAST_RANDOM = 5
"""Fewer labels of images asked for at random give none for the pool."""

LEAST_HELD_OUT = 30
"""Fewer held-out labels say nothing on whether more of them pay, or whether choosing them does."""

MOST_CROSS_VALIDATED = 1000
"""Of more labels than these one share is held out, in place of each once."""

LEVEL = 0.95

Progress = Callable[[Sequence[int]], Iterable[int]]


class Classifier(Protocol):
    """What is estimated."""

    def fit(self, train_index: Index, labels: Index, *, round_: int) -> Self:
        """Fit to labelled rows."""
        ...

    def probabilities(self, images: npt.NDArray[Any], *, round_: int, purpose: Purpose) -> npt.NDArray[np.float64]:
        """Return class probabilities (N, C)."""
        ...


@dataclass(frozen=True)
class Share:
    """Errors on held-out images, with the Wilson interval that 95 % of such samples' intervals hold the error in."""

    errors: int
    images: int

    @property
    def value(self) -> float:
        """The errors as a fraction of the images."""
        return self.errors / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Its lower and its upper end, fractions.

        >>> tuple(round(end, 3) for end in Share(errors=2, images=20).interval)
        (0.028, 0.301)
        """
        from scipy.stats import binomtest

        low, high = binomtest(self.errors, self.images).proportion_ci(LEVEL, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """The same held-out images, by two networks.

    Attributes:
        first: errors of the first network.
        second: errors of the second.
        gained: images that only the second network has right.
        lost: images that only the first has right.
    """

    first: Share
    second: Share
    gained: int
    lost: int

    @property
    def p_value(self) -> float:
        """Of the exact sign test (McNemar's) that as many images are lost as are gained."""
        from scipy.stats import binomtest

        both = self.gained + self.lost
        return float(binomtest(self.gained, both, 0.5).pvalue) if both else 1.0

    @property
    def told_apart(self) -> bool:
        """Whether the sign test rejects, at a level of 5 %, that these two networks err equally often."""
        return self.p_value < 1 - LEVEL

    @property
    def difference(self) -> tuple[float, float, float]:
        """By how much the second network errs less, and the 95 % interval that belongs to the sign test; fractions.

        The interval is of the share of gained ones among those that the networks disagree on (Clopper and Pearson's).

        >>> tuple(round(float(value), 3) for value in Paired(Share(9, 60), Share(6, 60), gained=6, lost=3).difference)
        (0.05, -0.06, 0.128)
        """
        from scipy.stats import binomtest

        both, count = self.gained + self.lost, self.second.images
        if not both:
            return 0.0, 0.0, 0.0
        low, high = binomtest(self.gained, both, 0.5).proportion_ci(LEVEL, method="exact")
        gain, least, most = ((2 * float(share) - 1) * both / count for share in (self.gained / both, low, high))
        return gain, least, most


@dataclass(frozen=True)
class Halves:
    """Networks that learned from a random half of the labels (the first), and from all of them.

    Half of each class, not the first half: labels often come class by class.

    Attributes:
        labels: how many labels there are now; a fold's network had all but the held-out share of them.
        paired: their errors.
        random: whether the held-out images were asked for at random.
    """

    labels: int
    paired: Paired
    random: bool = False

    @property
    def expected(self) -> float | None:
        """The error after as many labels again, if it falls by the same factor as in the last half; a fraction."""
        if not self.paired.told_apart or self.paired.gained <= self.paired.lost:
            return None
        return self.paired.second.value**2 / self.paired.first.value


@dataclass(frozen=True)
class Choosing:
    """Networks that learned from equally many labels: drawn at random (the first), and chosen by the function.

    The function chose with networks that had learned from earlier random images, some of which are tested here, so it
    had no reason to choose their like: that is to the disadvantage of choosing.

    Attributes:
        others: labels that both learned from: given by the user, of a cover, or chosen by another function.
        labels: further labels of each.
        paired: their errors on images that were asked for at random.
    """

    others: int
    labels: int
    paired: Paired


@dataclass(frozen=True)
class Estimate:
    """What held-out labels say.

    Attributes:
        labels: how many labels there are.
        random: errors on images that were asked for at random, by networks that learned from all other labels; None
            where these are too few, or no estimate is wanted.
        every: errors on all labelled images; None too where those asked for at random are enough.
        halves: what all labels have brought over half of them; None where too few were held out.
        at_random: how many labels are of images that were asked for at random.
        chosen: how many are of images that the present acquisition function chose.
        choosing: what choosing has brought; None where these are too few.
    """

    labels: int
    random: Share | None = None
    every: Share | None = None
    halves: Halves | None = None
    at_random: int = 0
    chosen: int = 0
    choosing: Choosing | None = None


def estimate(
    classifier: Classifier,
    pixels: npt.NDArray[Any],
    rows: Index,
    labels: Index,
    at_random: npt.NDArray[np.bool_],
    chosen: Index,
    *,
    val_share: float,
    seed: int,
    round_: int,
    progress: Progress = lambda folds: folds,
) -> Estimate:
    """Return what held-out labels say of a network that is trained as this one.

    Args:
        classifier: is fitted anew for each fold.
        pixels: all images, as the classifier takes them.
        rows: of the labelled ones, in the order in which they were labelled.
        labels: their classes.
        at_random: which of them were asked for at random.
        chosen: the positions of those that the acquisition function chose, in the order in which it did.
        val_share: share of the labels that may be held out in a fold; 0 = no estimate.
        seed: draws the folds.
        round_: names the streams.
        progress: shows how many folds are through.
    """
    count = len(rows)
    found = Estimate(count, at_random=int(at_random.sum()), chosen=len(chosen))
    if count < LEAST_LABELS or not val_share:
        return found

    rng = stream(seed, 0, round_, Purpose.SPLIT)
    half_n = folds(labels, 2, rng) == 0
    shares = max(2, round(1 / val_share))
    labelled = _Labelled(classifier, pixels, rows, labels, shares, round_, progress)
    if found.at_random >= LEAST_RANDOM:
        share, halves = labelled.held_out(at_random, half_n, rng)
        found = replace(found, random=share, halves=halves and replace(halves, random=True))
    if found.halves is None:
        every, halves = labelled.held_out(np.ones(count, bool), half_n, rng)
        found = replace(found, every=every, halves=halves)
    if min(found.at_random, found.chosen) >= LEAST_HELD_OUT:
        found = replace(found, choosing=labelled.choosing(at_random, chosen, rng))
    return found


class _Labelled(NamedTuple):
    """The arguments of `estimate`, and in how many shares labels are held out."""

    classifier: Classifier
    pixels: npt.NDArray[Any]
    rows: Index
    labels: Index
    shares: int
    round_: int
    progress: Progress

    def held_out(
        self, may_n: npt.NDArray[np.bool_], half_n: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Share, Halves | None]:
        """Hold out share after share of those that may be; compare with half of the labels where that says anything."""
        fold_n, held = self._folds(may_n, rng)
        out_n = np.isin(fold_n, held)
        wrong_n, half_wrong_n = np.zeros(len(self.rows), bool), np.zeros(len(self.rows), bool)
        compared = int(out_n.sum()) >= LEAST_HELD_OUT
        for fold in self.progress(held):
            test_n = fold_n == fold
            for kept_n, train_n in [(wrong_n, ~test_n), (half_wrong_n, ~test_n & half_n)][: 1 + compared]:
                kept_n[test_n] = self._wrong(train_n, test_n)
        paired = _paired(half_wrong_n[out_n], wrong_n[out_n])
        return paired.second, Halves(len(self.rows), paired) if compared else None

    def choosing(self, at_random: npt.NDArray[np.bool_], chosen: Index, rng: np.random.Generator) -> Choosing:
        """Compare the first labels of images chosen with equally many of images drawn at random.

        The network of the random ones learns from those that are not held out, the other one from none of them.
        """
        fold_n, held = self._folds(at_random, rng)
        out_n = np.isin(fold_n, held)
        both_n = ~at_random
        both_n[chosen] = False
        largest = max(int((fold_n == fold).sum()) for fold in held)
        first = chosen[: int(at_random.sum()) - largest]
        chosen_wrong_n, random_wrong_n = np.zeros(len(self.rows), bool), np.zeros(len(self.rows), bool)
        chosen_wrong_n[out_n] = self._wrong(_with(both_n, first), out_n)
        for fold in self.progress(held):
            test_n = fold_n == fold
            drawn = rng.permutation(np.flatnonzero(at_random & ~test_n))[: len(first)]
            random_wrong_n[test_n] = self._wrong(_with(both_n, drawn), test_n)
        return Choosing(int(both_n.sum()), len(first), _paired(random_wrong_n[out_n], chosen_wrong_n[out_n]))

    def _folds(self, may_n: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[Index, range]:
        """Return the fold of each label (-1 = never held out), and the folds to hold out."""
        fold_n = np.full(len(self.rows), -1)
        fold_n[may_n] = folds(self.labels[may_n], self.shares, rng)
        return fold_n, range(fold_n.max() + 1 if may_n.sum() <= MOST_CROSS_VALIDATED else 1)

    def _wrong(self, train_n: npt.NDArray[np.bool_], test_n: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of some labelled images a network takes for another class that learned from others."""
        self.classifier.fit(self.rows[train_n], self.labels[train_n], round_=self.round_)
        tested = np.asarray(self.pixels[self.rows[test_n]])
        probs_nc = self.classifier.probabilities(tested, round_=self.round_, purpose=Purpose.VALIDATION_PASSES)
        wrong: npt.NDArray[np.bool_] = probs_nc.argmax(axis=1) != self.labels[test_n]
        return wrong


def folds(labels_n: Index, count: int, rng: np.random.Generator) -> Index:
    """Return the fold of each label, such that each class is spread over the folds as evenly as it can be.

    >>> np.bincount(folds(np.array([0, 0, 1, 1, 1, 1]), 2, np.random.default_rng(0))).tolist()
    [3, 3]
    """
    order = rng.permutation(len(labels_n))
    by_class = order[np.argsort(labels_n[order], kind="stable")]
    fold_n = np.empty(len(labels_n), np.int64)
    fold_n[by_class] = np.arange(len(labels_n)) % min(count, len(labels_n))
    return fold_n


def _with(which_n: npt.NDArray[np.bool_], others: Index) -> npt.NDArray[np.bool_]:
    found_n = which_n.copy()
    found_n[others] = True
    return found_n


def _paired(first_n: npt.NDArray[np.bool_], second_n: npt.NDArray[np.bool_]) -> Paired:
    gained, lost = int((first_n & ~second_n).sum()), int((second_n & ~first_n).sum())
    return Paired(_share(first_n), _share(second_n), gained, lost)


def _share(wrong: npt.NDArray[np.bool_]) -> Share:
    return Share(int(wrong.sum()), len(wrong))
