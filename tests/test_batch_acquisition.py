"""Choices of a whole batch: against brute force, scikit-activeml and what their definitions say."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import acquisition_functions
from acquisition_functions import (
    ACQUISITION_FUNCTIONS,
    Evidence,
    Picks,
    badge,
    bald,
    batch_bald,
    core_set,
    epig,
    power_bald,
    softmax_bald,
    softrank_bald,
)

BATCH_FUNCTIONS = ("power_bald", "softmax_bald", "softrank_bald", "batch_bald", "epig", "badge", "core_set")


def draw_probs(passes: int, images: int, classes: int, seed: int = 0, concentration: float = 0.5) -> Any:
    return np.random.default_rng(seed).dirichlet(np.full(classes, concentration), size=(passes, images))


def evidence_of(seed: int = 0, passes: int = 6, images: int = 8, classes: int = 3) -> Evidence:
    """All that a learner can say of some images."""
    rng = np.random.default_rng(seed)
    probs_tnc = draw_probs(passes, images, classes, seed).astype(np.float32)
    return Evidence(
        count=images,
        scores_n=bald(probs_tnc).astype(np.float64),
        probs_tnc=probs_tnc,
        target_tmc=draw_probs(passes, 5, classes, seed + 1000).astype(np.float32),
        embeddings_nd=rng.random((images, 4)).astype(np.float32),
        labelled_ld=rng.random((3, 4)).astype(np.float32),
    )


def pick(name: str, evidence: Evidence, count: int, seed: int = 0) -> Picks:
    function = ACQUISITION_FUNCTIONS[name]
    own = dict.fromkeys(function.settings, 4.0)
    return function.select(evidence, count, np.random.default_rng(seed), **own)


def entropy(probs: Any) -> float:
    return -math.fsum(p * math.log(p) for p in np.ravel(probs).tolist() if p > 0)


def joint_information(probs_tnc: Any, batch: tuple[int, ...]) -> float:
    """I(y_batch; w) by the definition, over all configurations."""
    passes, _, classes = probs_tnc.shape
    joint: list[float] = [
        np.mean([np.prod([probs_tnc[t, n, c] for n, c in zip(batch, labels, strict=True)]) for t in range(passes)])
        for labels in itertools.product(range(classes), repeat=len(batch))
    ]
    noise = [entropy(probs_tnc[t, n]) for t in range(passes) for n in batch]
    return entropy(joint) - math.fsum(noise) / len(probs_tnc)


@pytest.mark.parametrize("name", BATCH_FUNCTIONS)
def test_a_batch_has_each_candidate_once_and_follows_from_the_generator(name: str) -> None:
    evidence = evidence_of()
    before = {key: None if value is None else np.copy(value) for key, value in vars(evidence).items()}
    for count in (0, 1, 4, 8):
        picks = pick(name, evidence, count)
        assert picks.positions_k.dtype == np.int64
        assert len(set(picks.positions_k.tolist())) == len(picks.positions_k) == len(picks.values_k) == count
        assert set(picks.positions_k.tolist()) <= set(range(8))
        assert np.isfinite(picks.values_k).all()
        again = pick(name, evidence, count)
        np.testing.assert_array_equal(picks.positions_k, again.positions_k)
        np.testing.assert_array_equal(picks.values_k, again.values_k)
    for key, value in before.items():
        if value is not None:
            np.testing.assert_array_equal(value, getattr(evidence, key))


@pytest.mark.parametrize("name", BATCH_FUNCTIONS)
def test_equals_are_picked_by_lot(name: str) -> None:
    """All candidates alike: no place in the list may be favoured."""
    alike = Evidence(
        count=5,
        scores_n=np.full(5, 0.2),
        probs_tnc=np.repeat(draw_probs(6, 1, 3).astype(np.float32), 5, axis=1),
        target_tmc=draw_probs(6, 2, 3).astype(np.float32),
        embeddings_nd=np.ones((5, 4), np.float32),
        labelled_ld=np.zeros((1, 4), np.float32),
    )
    picked = [pick(name, alike, 2, seed).positions_k.tolist() for seed in range(400)]
    for place in (0, 1):
        counts = np.bincount([pair[place] for pair in picked], minlength=5)
        assert stats.chisquare(counts).pvalue > 1e-4, (name, place, counts)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), concentration=st.sampled_from([0.1, 1.0]))
def test_batch_bald_is_greedy_in_the_joint_information(seed: int, concentration: float) -> None:
    probs_tnc = draw_probs(4, 6, 3, seed, concentration).astype(np.float32)
    picks = batch_bald(Evidence(count=6, probs_tnc=probs_tnc), 3, np.random.default_rng(0))
    chosen: tuple[int, ...] = ()
    for position, gain in zip(picks.positions_k.tolist(), picks.values_k, strict=True):
        before = joint_information(probs_tnc, chosen) if chosen else 0.0
        gains = {n: joint_information(probs_tnc, (*chosen, n)) - before for n in range(6) if n not in chosen}
        assert gains[position] == pytest.approx(max(gains.values()), abs=1e-6)
        assert gain == pytest.approx(gains[position], abs=1e-6)
        chosen = (*chosen, position)


def test_batch_bald_agrees_with_scikit_activeml() -> None:
    oracle = pytest.importorskip("skactiveml.pool", reason="scikit-activeml, a development dependency, is the oracle")
    probs_tnc = draw_probs(20, 300, 4, concentration=0.3)
    utilities_kn = oracle.batch_bald(probs_tnc.copy(), batch_size=3, n_MC_samples=64)  # exact for 4 ** 2 configurations
    picks = batch_bald(Evidence(count=300, probs_tnc=probs_tnc), 3, np.random.default_rng(0))
    assert picks.positions_k.tolist() == np.nanargmax(utilities_kn, axis=1).tolist()


def test_the_first_of_batch_bald_is_that_of_bald_and_its_gain_is_the_score() -> None:
    probs_tnc = draw_probs(10, 200, 10, concentration=0.2)
    picks = batch_bald(Evidence(count=200, probs_tnc=probs_tnc), 1, np.random.default_rng(0))
    assert picks.positions_k.tolist() == [int(bald(probs_tnc).argmax())]
    assert picks.values_k[0] == pytest.approx(bald(probs_tnc).max(), abs=1e-12)


def test_drawn_configurations_give_the_joint_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four images; the estimate's own spread over 40 draws says how near the mean has to be."""
    probs_tnc = draw_probs(8, 5, 3, seed=3)
    exact = acquisition_functions._Batch(8)
    for n in range(4):
        exact.add(probs_tnc[:, n], np.random.default_rng(0))
    assert not exact.drawn
    monkeypatch.setattr(acquisition_functions, "CONFIGURATIONS", 9)
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        drawn = acquisition_functions._Batch(8)
        for n in range(4):
            drawn.add(probs_tnc[:, n], rng)
        assert drawn.drawn
        assert drawn.probs_tj.shape == (8, 9)
        found.append([drawn.entropy, *drawn.entropy_with(probs_tnc[:, 4:])])
    expected = [exact.entropy, *exact.entropy_with(probs_tnc[:, 4:])]
    errors = np.abs(np.mean(found, axis=0) - expected) / (np.std(found, axis=0) / np.sqrt(len(found)))
    assert errors.max() < 4


def test_batch_bald_leaves_copies_where_the_top_takes_them() -> None:
    """Five copies of the most informative image, and five that differ and are nearly as informative."""
    rng = np.random.default_rng(1)
    sure = np.full((40, 10, 2), 0.5)
    for n in range(10):
        side = rng.permutation(np.repeat([0.999, 0.001], 20)) if n % 5 == 0 or n >= 5 else sure[:, n - n % 5, 0]
        sure[:, n, 0] = side if n < 5 else 0.98 * side + 0.01
        sure[:, n, 1] = 1 - sure[:, n, 0]
    top = np.argsort(-bald(sure), kind="stable")[:5]
    assert set(top.tolist()) == {0, 1, 2, 3, 4}, "the copies"
    picked = batch_bald(Evidence(count=10, probs_tnc=sure), 5, np.random.default_rng(0)).positions_k.tolist()
    assert sum(n < 5 for n in picked) == 1


def test_a_very_large_batch_has_each_candidate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probability of a configuration of so many images is below every float."""
    monkeypatch.setattr(acquisition_functions, "CONFIGURATIONS", 100)
    probs_tnc = draw_probs(5, 450, 10, concentration=5)
    picks = batch_bald(Evidence(count=450, probs_tnc=probs_tnc), 400, np.random.default_rng(0))
    assert len(set(picks.positions_k.tolist())) == 400
    assert picks.positions_k.min() >= 0
    assert np.isfinite(picks.values_k).all()


def test_of_many_images_and_classes_each_choice_adds_something() -> None:
    probs_tnc = draw_probs(100, 500, 10, concentration=0.05).astype(np.float32)
    picks = batch_bald(Evidence(count=500, probs_tnc=probs_tnc), 10, np.random.default_rng(0))
    assert len(set(picks.positions_k.tolist())) == 10
    assert (picks.values_k > 0).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), passes=st.integers(1, 5))
def test_epig_is_the_mean_information_about_targets(seed: int, passes: int) -> None:
    evidence = evidence_of(seed, passes=passes, images=70)
    assert evidence.probs_tnc is not None
    assert evidence.target_tmc is not None
    picks = epig(evidence, 3, np.random.default_rng(0))
    expected = []
    for n in range(70):
        information = []
        for m in range(5):
            a_tc, b_tc = evidence.probs_tnc[:, n], evidence.target_tmc[:, m]
            joint = np.mean([np.outer(a, b) for a, b in zip(a_tc, b_tc, strict=True)], axis=0)
            information.append(entropy(a_tc.mean(axis=0)) + entropy(b_tc.mean(axis=0)) - entropy(joint))
        expected.append(max(0.0, float(np.mean(information))))
    np.testing.assert_allclose(picks.values_k, sorted(expected, reverse=True)[:3], atol=1e-6)
    np.testing.assert_allclose([expected[n] for n in picks.positions_k], picks.values_k, atol=1e-6)
    assert passes > 1 or not np.round(picks.values_k, 6).any(), "one sample tells nothing"


WEIGHTS: dict[Any, Any] = {
    power_bald: lambda scores, beta: scores**beta,
    softmax_bald: lambda scores, beta: np.exp(beta * scores),
    softrank_bald: lambda scores, beta: stats.rankdata(-scores) ** -beta,
}


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("function", WEIGHTS)
def test_the_first_and_second_of_a_draw_have_their_probabilities(function: Any, beta: float) -> None:
    scores_n = np.array([0.1, 0.4, 0.2, 0.8])
    evidence = Evidence(count=4, scores_n=scores_n)
    rng = np.random.default_rng(5)
    pairs = [function(evidence, 2, rng, coldness=beta).positions_k.tolist() for _ in range(4000)]
    weights_n = WEIGHTS[function](scores_n, beta)
    expected = {
        (i, j): 4000 * weights_n[i] / weights_n.sum() * weights_n[j] / (weights_n.sum() - weights_n[i])
        for i, j in itertools.permutations(range(4), 2)
    }
    counts = [sum(pair == [i, j] for pair in pairs) for i, j in expected]
    assert stats.chisquare(counts, list(expected.values())).pvalue > 1e-4


@pytest.mark.parametrize("function", WEIGHTS)
def test_a_very_cold_draw_takes_the_top(function: Any) -> None:
    scores_n = np.random.default_rng(0).random(50)
    picks = function(Evidence(count=50, scores_n=scores_n), 5, np.random.default_rng(0), coldness=1e6)
    assert picks.positions_k.tolist() == np.argsort(-scores_n)[:5].tolist()
    np.testing.assert_array_equal(picks.values_k, scores_n[picks.positions_k])


def test_images_without_a_score_are_drawn_last() -> None:
    evidence = Evidence(count=4, scores_n=np.array([0.0, 0.3, 0.0, 0.2]))
    picked = [
        power_bald(evidence, 3, np.random.default_rng(seed), coldness=beta).positions_k
        for seed in range(50)
        for beta in (0.0, 1.0)
    ]
    assert {frozenset(positions[:2].tolist()) for positions in picked} == {frozenset({1, 3})}
    assert {int(positions[2]) for positions in picked} == {0, 2}


def test_badge_is_k_means_plus_plus_on_the_gradients_themselves() -> None:
    evidence = evidence_of(images=30)
    assert evidence.probs_tnc is not None
    assert evidence.embeddings_nd is not None
    mean_nc = evidence.probs_tnc.mean(axis=0, dtype=np.float64)
    onehot_nc = np.eye(3)[mean_nc.argmax(axis=1)]
    gradients = np.einsum("nc,nd->ncd", mean_nc - onehot_nc, evidence.embeddings_nd.astype(np.float64)).reshape(30, -1)
    picks = badge(evidence, 6, np.random.default_rng(3))
    assert picks.positions_k[0] == np.linalg.norm(gradients, axis=1).argmax()
    assert picks.values_k[0] == pytest.approx(np.linalg.norm(gradients, axis=1).max())
    for k in range(1, 6):
        distances = np.linalg.norm(gradients[picks.positions_k[k]] - gradients[picks.positions_k[:k]], axis=1)
        assert picks.values_k[k] == pytest.approx(distances.min())
    first = int(picks.positions_k[0])
    squares_n = ((gradients - gradients[first]) ** 2).sum(axis=1)
    seconds = [int(badge(evidence, 2, np.random.default_rng(seed)).positions_k[1]) for seed in range(3000)]
    likely = squares_n / squares_n.sum() > 0.03
    counts = np.bincount(seconds, minlength=30)
    expected = 3000 * squares_n / squares_n.sum()
    observed, wanted = [*counts[likely], counts[~likely].sum()], [*expected[likely], expected[~likely].sum()]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_core_set_agrees_with_scikit_activeml() -> None:
    core = pytest.importorskip("skactiveml.pool._core_set", reason="scikit-activeml is the oracle")
    evidence = evidence_of(images=60)
    assert evidence.embeddings_nd is not None
    assert evidence.labelled_ld is not None
    every = np.concatenate([evidence.labelled_ld, evidence.embeddings_nd]).astype(np.float64)
    labels = np.array([0, 1, 0] + [np.nan] * 60)
    expected, _ = core.k_greedy_center(every, labels, batch_size=7, random_state=0)
    picks = core_set(evidence, 7, np.random.default_rng(0))
    assert (picks.positions_k + 3).tolist() == list(expected)


def test_core_set_picks_what_is_farthest_from_every_centre() -> None:
    line = np.array([[0.0], [1.0], [2.0], [6.0], [10.0]], np.float32)
    evidence = Evidence(count=5, embeddings_nd=line, labelled_ld=np.array([[0.5]], np.float32))
    picks = core_set(evidence, 3, np.random.default_rng(0))
    assert picks.positions_k.tolist() == [4, 3, 2]
    np.testing.assert_allclose(picks.values_k, [9.5, 4, 1.5])
