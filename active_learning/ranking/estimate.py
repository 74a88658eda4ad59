"""How often the network errs, as far as the labels can tell, and whether more of them pay.

Images that were asked for at random stand for the pool, so each of their labels is held out once, and the network
trained on all others. The other images were chosen because they are hard, or given by the user: an error measured on
them is another one, and is measured only while there are few of the first kind. Of many labels one share is held out.
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
"""Fewer held-out labels say nothing on whether more of them pay."""

MOST_CROSS_VALIDATED = 1000
"""Of more labels than these one share is held out, in place of each once."""

LEVEL = 0.95


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
class Halves:
    """The same held-out images, by networks that learned from a random half of the labels and from all of them.

    Half of each class, not the first half: labels often come class by class.

    Attributes:
        labels: how many labels there are now; a fold's network had all but the held-out share of them.
        before: errors after that half.
        after: errors after all.
        gained: images that only the second network has right.
        lost: images that only the first has right.
        random: whether these images were asked for at random.
    """

    labels: int
    before: Share
    after: Share
    gained: int
    lost: int
    random: bool = False

    @property
    def p_value(self) -> float:
        """Of the exact sign test (McNemar's) that as many images are lost as are gained."""
        from scipy.stats import binomtest

        both = self.gained + self.lost
        return float(binomtest(self.gained, both, 0.5).pvalue) if both else 1.0

    @property
    def expected(self) -> float | None:
        """The error after as many labels again, if it falls by the same factor as in the last half; a fraction."""
        if self.p_value >= 1 - LEVEL or self.gained <= self.lost:
            return None
        return self.after.value**2 / self.before.value


@dataclass(frozen=True)
class Estimate:
    """What held-out labels say.

    Attributes:
        labels: how many labels there are.
        random: errors on images that were asked for at random, by networks that learned from all other labels; None
            where these are too few, or no estimate is wanted.
        every: errors on all labelled images; None too where those asked for at random are enough.
        halves: what all labels have brought over half of them; None where too few were held out.
    """

    labels: int
    random: Share | None = None
    every: Share | None = None
    halves: Halves | None = None


def estimate(
    classifier: Classifier,
    pixels: npt.NDArray[Any],
    rows: Index,
    labels: Index,
    at_random: npt.NDArray[np.bool_],
    *,
    val_share: float,
    seed: int,
    round_: int,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda folds: folds,
) -> Estimate:
    """Return what held-out labels say of a network that is trained as this one.

    Args:
        classifier: is fitted anew for each fold.
        pixels: all images, as the classifier takes them.
        rows: of the labelled ones, in the order in which they were labelled.
        labels: their classes.
        at_random: which of them were asked for at random.
        val_share: share of the labels that may be held out in a fold; 0 = no estimate.
        seed: draws the folds.
        round_: names the streams.
        progress: shows how many folds are through.
    """
    count = len(rows)
    if count < LEAST_LABELS or not val_share:
        return Estimate(count)

    rng = stream(seed, 0, round_, Purpose.SPLIT)
    half_n = folds(labels, 2, rng) == 0

    def held_out(may_n: npt.NDArray[np.bool_]) -> _HeldOut:
        fold_n = np.full(count, -1)
        fold_n[may_n] = folds(labels[may_n], max(2, round(1 / val_share)), rng)
        return _held_out(classifier, pixels, rows, labels, fold_n, half_n, round_, progress)

    random = held_out(at_random) if at_random.sum() >= LEAST_RANDOM else None
    if random is not None and random.halves is not None:
        return Estimate(count, random.share, None, replace(random.halves, random=True))
    every = held_out(np.ones(count, bool))
    return Estimate(count, None if random is None else random.share, every.share, every.halves)


class _HeldOut(NamedTuple):
    share: Share
    halves: Halves | None


def _held_out(
    classifier: Classifier,
    pixels: npt.NDArray[Any],
    rows: Index,
    labels: Index,
    fold_n: Index,
    half_n: npt.NDArray[np.bool_],
    round_: int,
    progress: Callable[[Sequence[int]], Iterable[int]],
) -> _HeldOut:
    """Hold out fold after fold (-1 = never), and compare with half of the labels if that says anything."""
    held = range(fold_n.max() + 1) if int((fold_n >= 0).sum()) <= MOST_CROSS_VALIDATED else range(1)
    out_n = np.isin(fold_n, held)
    wrong_n, half_wrong_n = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    compared = int(out_n.sum()) >= LEAST_HELD_OUT
    for fold in progress(held):
        test_n = fold_n == fold
        for wrong, train_n in [(wrong_n, ~test_n), (half_wrong_n, ~test_n & half_n)][: 1 + compared]:
            classifier.fit(rows[train_n], labels[train_n], round_=round_)
            tested = np.asarray(pixels[rows[test_n]])
            probs_nc = classifier.probabilities(tested, round_=round_, purpose=Purpose.VALIDATION_PASSES)
            wrong[test_n] = probs_nc.argmax(axis=1) != labels[test_n]
    now, before = wrong_n[out_n], half_wrong_n[out_n]
    halves = Halves(
        labels=len(rows),
        before=_share(before),
        after=_share(now),
        gained=int((before & ~now).sum()),
        lost=int((now & ~before).sum()),
    )
    return _HeldOut(_share(now), halves if compared else None)


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


def _share(wrong: npt.NDArray[np.bool_]) -> Share:
    return Share(int(wrong.sum()), len(wrong))
