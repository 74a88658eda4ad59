"""What held-out labels say, by hand and of a classifier that is known; and the cover of a pool."""

from typing import Any, Self

import numpy as np
import pytest

from active_learning.ranking.config import RankConfig
from active_learning.ranking.cover import cover
from active_learning.ranking.estimate import Choosing, Estimate, Halves, Paired, Share, estimate, folds
from active_learning.ranking.page import error_sentences, pays_sentences


class Remembers:
    """Knows an image's class if it was trained on so many images or more, else takes it for class 0."""

    def __init__(self, labels: Any, needed: int) -> None:
        self.labels, self.needed, self.fits = labels, needed, list[Any]()

    def fit(self, train_index: Any, labels: Any, *, round_: int) -> Self:
        np.testing.assert_array_equal(self.labels[train_index], labels)
        self.fits.append(set(train_index.tolist()))
        return self

    def probabilities(self, images: Any, *, round_: int, purpose: Any) -> Any:
        rows = images[:, 0, 0, 0].astype(int)
        assert not self.fits[-1] & set(rows.tolist()), "an image that was trained on is tested"
        known = len(self.fits[-1]) >= self.needed
        return np.eye(3)[self.labels[rows] if known else np.zeros(len(rows), int)]


LABELS = np.arange(60) % 3
NONE = np.zeros(0, np.int64)
PIXELS = np.arange(60, dtype=np.uint8)[:, None, None, None]


def measured(classifier: Remembers, count: int, at_random: int, val_share: float = 0.2) -> Estimate:
    rows = np.arange(count)
    return estimate(
        classifier, PIXELS, rows, LABELS[:count], rows < at_random, NONE, val_share=val_share, seed=0, round_=1
    )


def test_each_label_is_held_out_once() -> None:
    classifier = Remembers(LABELS, needed=0)
    found = measured(classifier, count=20, at_random=0)
    assert found == Estimate(20, None, Share(0, 20), None)
    assert [len(rows) for rows in classifier.fits] == [16] * 5


def test_images_asked_for_at_random_are_held_out_of_all_others() -> None:
    classifier = Remembers(LABELS, needed=18)
    found = measured(classifier, count=20, at_random=10)
    assert found == Estimate(20, Share(0, 10), Share(13, 20), at_random=10)  # 13 of the 20 are of another class than 0
    assert [len(rows) for rows in classifier.fits] == [18] * 5 + [16] * 5
    assert all(set(range(10, 20)) <= rows for rows in classifier.fits[:5])


def test_what_all_labels_bring_over_half_is_measured_on_the_same_images() -> None:
    found = measured(Remembers(LABELS, needed=40), count=60, at_random=0)
    assert found.random is None
    assert found.halves == Halves(60, Paired(Share(40, 60), Share(0, 60), gained=40, lost=0))
    assert found.halves.paired.p_value < 1e-6
    assert found.halves.expected == 0
    on_random = measured(Remembers(LABELS, needed=40), count=60, at_random=30).halves
    assert on_random is not None
    assert (on_random.paired.second.images, on_random.random) == (30, True)
    assert measured(Remembers(LABELS, needed=40), count=60, at_random=30).every is None


def test_half_of_the_labels_has_half_of_each_class_in_whatever_order_they_came() -> None:
    """Labels of class folders come class by class: of their first half no network could know the other classes."""
    labels = np.repeat([0, 1, 2], 20)
    classifier = Remembers(labels, needed=0)
    rows = np.arange(60)
    estimate(classifier, PIXELS, rows, labels, rows < 0, NONE, val_share=0.2, seed=0, round_=1)
    halves = [labels[sorted(fitted)] for fitted in classifier.fits if len(fitted) < 40]
    assert len(halves) == 5
    for half in halves:
        assert all(6 <= count <= 10 for count in np.bincount(half, minlength=3))
    assert sum(len(half) for half in halves) == 4 * 30  # each of the half is out of one fold


def test_no_statement_is_made_of_too_few() -> None:
    assert measured(Remembers(LABELS, needed=0), count=9, at_random=9) == Estimate(9, at_random=9)
    assert measured(Remembers(LABELS, needed=0), count=60, at_random=9, val_share=0) == Estimate(60, at_random=9)
    config = RankConfig(images="x")  # type: ignore[arg-type]
    assert error_sentences(Estimate(9), config) == ["Too few labels for a statement: there are 9, and it takes 10."]
    assert pays_sentences(Estimate(9), config)[0].startswith("Too few labels for a statement on whether more")


def test_a_gain_that_chance_explains_is_none() -> None:
    halves = Halves(60, Paired(Share(9, 60), Share(6, 60), gained=6, lost=3), random=True)
    assert halves.paired.p_value == pytest.approx(2 * (1 + 9 + 36 + 84) / 2**9)  # nine coins, at most three heads
    assert halves.expected is None
    said = pays_sentences(Estimate(60, halves=halves), RankConfig(images="x"))  # type: ignore[arg-type]
    assert said[0].startswith("Whether more labels pay cannot be told")


def test_the_expected_error_follows_the_power_law() -> None:
    halves = Halves(200, Paired(Share(40, 200), Share(20, 200), gained=22, lost=2), random=True)
    assert halves.expected == pytest.approx(0.05)
    said = pays_sentences(Estimate(200, halves=halves), RankConfig(images="x"))  # type: ignore[arg-type]
    assert "200 labels more would take it from 10.0% to about 5.0%" in said[0]


def test_of_many_labels_one_share_is_held_out() -> None:
    labels = np.arange(1500) % 3
    classifier = Remembers(labels, needed=0)
    pixels = np.zeros((1500, 1, 1, 1), np.int64)
    pixels[:, 0, 0, 0] = np.arange(1500)
    rows = np.arange(1500)
    found = estimate(classifier, pixels, rows, labels, rows >= 0, NONE, val_share=0.2, seed=0, round_=1)
    assert (found.random, found.every) == (Share(0, 300), None)
    assert len(classifier.fits) == 2  # of all and of half


class LearnsFrom(Remembers):
    """Knows an image's class if it was trained on twenty or more of some rows."""

    def __init__(self, labels: Any, rows: Any) -> None:
        super().__init__(labels, needed=0)
        self.teaching = set(rows.tolist())

    def fit(self, train_index: Any, labels: Any, *, round_: int) -> Self:
        super().fit(train_index, labels, round_=round_)
        self.needed = 0 if len(self.fits[-1] & self.teaching) >= 20 else 1000
        return self


MANY_LABELS = np.arange(100) % 3
AT_RANDOM = np.arange(10, 100, 3)  # thirty, the others are chosen, the last one first
CHOSEN = np.setdiff1d(np.arange(10, 100), AT_RANDOM)[::-1]


def choosing(teaching: Any, at_random: Any = AT_RANDOM, chosen: Any = CHOSEN) -> tuple[LearnsFrom, Estimate]:
    classifier, rows = LearnsFrom(MANY_LABELS, teaching), np.arange(100)
    pixels = rows.astype(np.uint8)[:, None, None, None]
    return classifier, estimate(
        classifier, pixels, rows, MANY_LABELS, np.isin(rows, at_random), chosen, val_share=0.2, seed=0, round_=1
    )


def said(found: Estimate, **settings: Any) -> list[str]:
    return pays_sentences(found, RankConfig(images="x", **settings))  # type: ignore[arg-type]


def test_choosing_is_set_against_as_many_labels_at_random() -> None:
    classifier, found = choosing(CHOSEN)
    assert (found.at_random, found.chosen) == (30, 60)
    wrong = int((MANY_LABELS[AT_RANDOM] != 0).sum())  # without those that teach, an image is taken for class 0
    assert found.choosing == Choosing(10, 24, Paired(Share(wrong, 30), Share(0, 30), gained=wrong, lost=0))
    by_function, *by_lot = classifier.fits[-6:]
    assert by_function == {*range(10), *CHOSEN[:24].tolist()}  # the first in the order of choice
    assert all(len(rows) == 34 and rows <= {*range(10), *AT_RANDOM.tolist()} for rows in by_lot)
    verdict, evidence = said(found)[-2:]
    assert verdict == (
        "Choosing pays: the first 24 images that PowerBALD chose save 100.0 percentage points of error [76.9, 100.0] "
        "against 24 drawn at random."
    )
    assert "With labels of 10 other images and those of 24 drawn at random a network errs on 100.0% [" in evidence


def test_choosing_that_costs_is_told() -> None:
    _, found = choosing(AT_RANDOM)
    assert found.choosing is not None
    assert (found.choosing.paired.gained, found.choosing.paired.lost) == (0, 30)
    assert said(found)[-2].startswith("Choosing costs: the first 24 images that PowerBALD chose cost 100.0 percentage")


def test_choosing_that_chance_explains_is_not_judged() -> None:
    _, found = choosing(np.arange(100), chosen=CHOSEN[:30])
    assert found.choosing == Choosing(40, 24, Paired(Share(0, 30), Share(0, 30), gained=0, lost=0))
    assert said(found)[-2].startswith(
        "Whether choosing pays cannot be told: the first 24 images that PowerBALD chose save 0.0"
    )


def test_the_interval_belongs_to_the_sign_test() -> None:
    for gained in range(12):
        for lost in range(12):
            paired = Paired(Share(gained, 100), Share(lost, 100), gained, lost)
            gain, low, high = paired.difference
            assert low <= gain <= high
            assert paired.told_apart == (low > 0 or high < 0), (gained, lost)


@pytest.mark.parametrize(("at_random", "chosen"), [(29, 60), (30, 29), (0, 0)])
def test_of_few_labels_at_random_or_chosen_nothing_is_said_of_choosing(at_random: int, chosen: int) -> None:
    _, found = choosing(np.arange(100), AT_RANDOM[:at_random], CHOSEN[:chosen])
    assert found.choosing is None
    assert f"There are {at_random} and {chosen}; " in said(found)[-1]
    assert said(found, random_share=0)[-1].endswith("no images are drawn at random (--random_share 0).")
    assert said(found, acq_func="uniform")[-1].startswith("Images are chosen at random: ")


def test_classes_are_spread_over_the_folds() -> None:
    labels = np.repeat([0, 1, 2], [10, 5, 3])
    fold_n = folds(labels, 5, np.random.default_rng(3))
    counts = np.array([[np.sum((fold_n == fold) & (labels == label)) for label in range(3)] for fold in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1


def test_a_cover_takes_the_typical_one_of_each_group() -> None:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (3, 1, 16, 16))
    group_n = np.repeat([0, 1, 2], [30, 20, 10])
    noise = rng.normal(0, 1, (60, 1, 16, 16)) * np.where(np.arange(60) % 10 == 0, 1, 20)[:, None, None, None]
    pixels = np.clip(patterns[group_n] + noise, 0, 255).astype(np.uint8)
    found = cover(pixels, np.arange(60), np.zeros(0, np.int64), 3, np.random.default_rng(1))
    assert [group_n[one.row] for one in found] == [0, 1, 2]  # the largest first
    assert [one.cluster_size for one in found] == [30, 20, 10]
    assert [one.row % 10 for one in found] == [0, 0, 0]  # the one with the least noise lies in the middle
    with_label = cover(pixels, np.arange(1, 60), np.array([0]), 2, np.random.default_rng(1))
    assert sorted({int(group_n[one.row]) for one in with_label}) == [1, 2]  # the first group has a label


def test_a_cover_of_equal_images_is_filled_up() -> None:
    pixels = np.zeros((20, 1, 8, 8), np.uint8)
    found = cover(pixels, np.arange(20), np.zeros(0, np.int64), 5, np.random.default_rng(0))
    assert len({one.row for one in found}) == 5
