"""Minimum Bayes Risk: active learning with a Gaussian random field and its harmonic function.

Zhu, Lafferty and Ghahramani, "Semi-supervised learning using Gaussian fields and harmonic functions" (ICML 2003) and
"Combining active learning and semi-supervised learning using Gaussian fields and harmonic functions" (ICML 2003
workshop). Images are the nodes of a weighted graph W; Delta = D - W is its Laplacian; u are the unlabelled and l the
labelled nodes. The model is the field's mean f_u and the matrix G = Delta_uu^-1:

    f_u = -Delta_uu^-1 Delta_ul f_l                 (harmonic: each f_i is the weighted mean of its neighbours)
    f+(k, y) = f + (y - f_k) G[:, k] / G[k, k]      (f, had node k the label y)

Nothing is approximated. Three choices keep the arithmetic exact where the textbook formulas break down:

- Weights of one graph span fifty orders of magnitude, so a diagonal d_i = sum_j w_ij swallows a node's weak links. The
  Cholesky pivots are therefore recomputed from the remaining links, as Grassmann, Taksar and Heyman (1985) do for
  Markov chains: only numbers of one sign are ever added, so that every entry of G, great or small, has the same
  relative accuracy.
- A component of the graph without a label has no unique harmonic function. Here f = 0.5 on it, and its first label
  becomes the label of all of it: the limit of links of vanishing weight from each of its nodes to a node held at 0.5.
  An isolated vertex is such a component. No regularisation is added to Delta.
- Labelling k subtracts G[:, k] G[k, :] / G[k, k]. Where that cancels eight digits the field is factorised anew. (The
  first hundred labels of MNIST's 2 against 8 cancel three or four.)

Dimension key: N training images, M test images, D pixels, K batch or block of candidates, L labels given, S sigmas,
P columns of a panel, R rank of a downdate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import blas, lapack
from sklearn.neighbors import NearestNeighbors

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Batch = Literal["greedy", "lowest"]
Check = Callable[[], None]

ZHU_SIGMA = 380.0  # for pixels of 0 to 255; Zhu's digits were of 16 x 16 pixels
ZHU_NEIGHBOURS = 10

_PANEL = 128  # columns factorised at once: wide enough for matrix products, small enough for the cache
_BLOCK = 50_000  # entries of G scored at once: two float64 arrays of it stay in the second-level cache
_ROWS = 512  # rows of distances computed at once
_SMALLEST = np.finfo(np.float64).tiny  # a square below it has lost digits, or is 0
_LOST_DIGITS = 1e8  # a variance shrunk by more than this since the last factorisation has under 8 digits left


def _never() -> None:
    """Be the check of work that nobody wants to end early."""


class LengthScaleError(ValueError):
    """A sigma with which the graph says nothing of these images; the message says which to try."""


class GaussianRandomField:
    """A Gaussian random field over training images, its harmonic function and the images it would have labelled.

    Make one with `from_images` or `from_weights`. One index space is used throughout: a train_index is a position in
    the images (or the weights) given there. The field is never told a label other than by `from_*` and `label`.

    The state follows from the labels and nothing is drawn at random: the same images, the same initial labels and the
    same labels after them, in order, give the same bytes (on one machine with one number of BLAS threads), however
    they are split into calls of `label`; `query` changes nothing. A run is resumed by this replay. All labels given to
    `from_*` at once make the same field to rounding error, not to the byte.

    Memory: one (N, N) float64 matrix. Time: N^3 multiply-adds once, then N^2 a label and 4 N^2 an `expected_risk`.

    >>> chain = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> field = GaussianRandomField.from_weights(chain, [0, 2], [0, 1])
    >>> field.probabilities.round(9)
    array([0. , 0.5, 1. ])
    >>> round(field.risk(), 9)
    0.5
    """

    def __init__(
        self,
        make_weights: Callable[[], FloatArray],
        labelled: ArrayLike,
        labels: ArrayLike,
        extend: Callable[[FloatArray, FloatArray], FloatArray] | None = None,
        threads: int | None = None,
        check: Check = _never,
    ) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._check = check
        self._make_weights = make_weights
        self._extend = extend
        weights_nn = make_weights()
        self._is_labelled_n = np.zeros(len(weights_nn), dtype=np.bool_)
        self._probs_n = np.full(len(weights_nn), 0.5)
        indices_l, labels_l = self._checked(labelled, labels)
        self._is_labelled_n[indices_l] = True
        self._probs_n[indices_l] = labels_l
        self._factorise(weights_nn)

    @classmethod
    def from_images(
        cls,
        images: ArrayLike,
        labelled: ArrayLike,
        labels: ArrayLike,
        *,
        sigma: float = ZHU_SIGMA,
        neighbours: int | None = None,
        threads: int | None = None,
        check: Check = _never,
    ) -> Self:
        """The field on the graph of `rbf_weights`; the only kind that can classify images outside its graph.

        Args:
            images: (N, ...) pixels, any number type; `sigma` is in the unit of the pixels.
            labelled: (L,) train_index of the labelled images.
            labels: (L,) their labels, 0 or 1.
            sigma: length scale of the weights.
            neighbours: k of the k-nearest-neighbour graph; None for the dense graph.
            threads: threads that score candidates, which changes no byte; None for one a core. (Those of the matrix
                products are the BLAS library's: threadpoolctl sets them.)
            check: called some times a second while the graph is factorised; what it raises ends the work.

        Raises:
            LengthScaleError: a sigma that links no two images.
            ValueError: a sigma, number of neighbours, index or label out of range.
        """
        images_nd = _flat(images)

        def make_weights() -> FloatArray:
            return rbf_weights(images_nd, sigma=sigma, neighbours=neighbours)

        def extend(test_md: FloatArray, probs_n: FloatArray) -> FloatArray:
            return harmonic_extension(images_nd, probs_n, test_md, sigma=sigma, neighbours=neighbours)

        return cls(make_weights, labelled, labels, extend, threads, check)

    @classmethod
    def from_weights(cls, weights: ArrayLike, labelled: ArrayLike, labels: ArrayLike) -> Self:
        """The field on any weighted graph: `weights` (N, N) is symmetric, finite, not negative, zero on the diagonal.

        Raises:
            ValueError: weights, an index or a label that cannot be meant.
        """
        weights_nn = np.array(weights, dtype=np.float64)
        if weights_nn.ndim != 2 or weights_nn.shape[0] != weights_nn.shape[1]:
            raise ValueError(f"weights must be a square matrix, not of shape {weights_nn.shape}")
        if not (np.isfinite(weights_nn).all() and (weights_nn >= 0).all()):
            raise ValueError("weights must be finite and not negative")
        if not np.array_equal(weights_nn, weights_nn.T) or weights_nn.diagonal().any():
            raise ValueError("weights must be symmetric with a zero diagonal")
        return cls(weights_nn.copy, labelled, labels)

    @property
    def probabilities(self) -> FloatArray:
        """Harmonic function f, (N,) in [0, 1]: the probability of label 1; for labelled images the label."""
        return self._probs_n.copy()

    @property
    def unlabelled(self) -> IndexArray:
        """The train_index of every image without a label, ascending."""
        return np.flatnonzero(~self._is_labelled_n)

    @property
    def unreached(self) -> int:
        """How many unlabelled images have no path to a label: f is 0.5 there, until one of their component is told."""
        return int((self._free_n >= 0).sum())

    def risk(self) -> float:
        """Estimated risk of classifying by f > 0.5: sum_i min(f_i, 1 - f_i), in images (workshop paper, section 3)."""
        return float(np.minimum(self._probs_n, 1 - self._probs_n).sum())

    def expected_risk(self) -> FloatArray:
        """Expected estimated risk after labelling each image (workshop paper, section 3).

            risk_k = (1 - f_k) R(f+(k, 0)) + f_k R(f+(k, 1)),    R(f) = sum_i min(f_i, 1 - f_i)

        Returns:
            (N,) in images, the lower the better; infinite for labelled images.
        """
        return self._expected_risk(_Downdate.none(self._free_n))

    def query(self, count: int, batch: Batch = "greedy") -> IndexArray:
        """The images to label next: those of the lowest expected risk, at equal risk the lower train_index first.

        `lowest` takes the `count` lowest expected risks. `greedy` takes the single best, conditions the field on it,
        and looks again. Its label is not known yet, so its expectation E[y_k] = f_k is put in its place. That leaves
        all of f as it is, since f is already harmonic with f_k at k, and takes row and column k out of G, which is what
        any label would do: what k is going to tell about its surroundings is not counted twice. (The likeliest label
        instead would move f by a guess, and pass the guess on to all later picks.)

        Returns:
            (K,) train_index, in the order they were chosen.

        Raises:
            ValueError: an unknown batch, or more images than are unlabelled.
        """
        return self.query_with_risks(count, batch)[0]

    def query_with_risks(self, count: int, batch: Batch = "greedy") -> tuple[IndexArray, FloatArray]:
        """The same images, and the expected risk (K,) that each was chosen for.

        In a greedy batch the images before it have their expectation for a label, and no risk of their own. That is a
        criterion, not the risk that is to be expected after them all: it does not fall with each image.

        Raises:
            ValueError: as `query`.
        """
        if batch not in get_args(Batch):
            raise ValueError(f"batch {batch!r} is none of {', '.join(get_args(Batch))}")
        n_unlabelled = len(self.unlabelled)
        if not 0 <= count <= n_unlabelled:
            raise ValueError(f"cannot query {count} of {n_unlabelled} unlabelled images")
        if batch == "lowest":
            risk_n = self.expected_risk()
            lowest_k = np.argsort(risk_n, kind="stable")[:count]
            return lowest_k, risk_n[lowest_k]
        downdate = _Downdate.none(self._free_n)
        picked: list[int] = []
        risks: list[float] = []
        while len(picked) < count:
            risk_n = self._expected_risk(downdate)
            risk_n[picked] = np.inf
            picked.append(int(risk_n.argmin()))
            risks.append(float(risk_n[picked[-1]]))
            downdate.condition(self._covariance_nn, picked[-1])
        return np.array(picked, dtype=np.int64), np.array(risks)

    def label(self, train_index: ArrayLike, y: ArrayLike) -> None:
        """Tell the field the label of one image, or of each in a batch: f+(k, y), and a rank-one downdate of G.

        Raises:
            ValueError: an index out of range, given twice or labelled before; a label that is not 0 or 1.
        """
        for k, y_k in zip(*self._checked(train_index, y), strict=True):
            downdate = _Downdate.none(self._free_n)
            step_n = downdate.condition(self._covariance_nn, k)
            self._probs_n = np.clip(self._probs_n + (y_k - self._probs_n[k]) * step_n, 0, 1)
            self._probs_n[k] = y_k
            self._is_labelled_n[k] = True
            self._subtract(downdate, k)

    def predict_probabilities(self, test_images: ArrayLike) -> FloatArray:
        """Probability of label 1 of images outside the graph, (M, ...) -> (M,): see `harmonic_extension`.

        Raises:
            ValueError: the field was made from weights, or the images are of another size.
        """
        if self._extend is None:
            raise ValueError("a field made from weights knows no images: make it with from_images to classify others")
        return self._extend(_flat(test_images), self._probs_n)

    def predict(self, test_images: ArrayLike) -> IndexArray:
        """Labels of images outside the graph, (M, ...) -> (M,) of 0 and 1: label 1 where f > 0.5."""
        return (self.predict_probabilities(test_images) > 0.5).astype(np.int64)

    def _checked(self, train_index: ArrayLike, y: ArrayLike) -> tuple[list[int], list[float]]:
        """Indices and labels as lists of equal length, each one possible."""
        indices_k = np.atleast_1d(np.asarray(train_index))
        labels_k = np.atleast_1d(np.asarray(y, dtype=np.float64))
        if indices_k.ndim != 1 or indices_k.shape != labels_k.shape:
            raise ValueError(f"one label an image is wanted, not {labels_k.shape} labels for {indices_k.shape} images")
        if indices_k.size and not np.issubdtype(indices_k.dtype, np.integer):
            raise ValueError(f"a train_index is a whole number, not {indices_k.dtype}; for a mask take np.flatnonzero")
        n_images = len(self._probs_n)
        for k in indices_k.tolist():
            if k not in range(n_images):
                raise ValueError(f"train_index {k} is not one of 0 to {n_images - 1}")
            if self._is_labelled_n[k]:
                raise ValueError(f"image {k} is labelled already")
        if len(set(indices_k.tolist())) < len(indices_k):
            raise ValueError("an image is given twice")
        if not np.isin(labels_k, (0, 1)).all():
            raise ValueError(f"labels must be 0 or 1, not {sorted(set(labels_k.tolist()) - {0.0, 1.0})}")
        return indices_k.tolist(), labels_k.tolist()

    def _factorise(self, weights_nn: FloatArray) -> None:
        """G and f from scratch; `weights_nn` is overwritten by G."""
        labelled_l = np.flatnonzero(self._is_labelled_n)
        pull_n = _pull(weights_nn, labelled_l, self._probs_n)
        self._free_n = _cholesky(weights_nn, labelled_l, self._check)
        _invert(weights_nn)
        grounded_n = self._is_labelled_n | (self._free_n == np.arange(len(weights_nn)))
        weights_nn[grounded_n, grounded_n] = 0
        if not np.isfinite(weights_nn.diagonal()).all():
            raise LengthScaleError("some weights are too small to be inverted")
        self._covariance_nn = weights_nn
        self._digits_n = weights_nn.diagonal().copy()
        self._probs_n = _with_labels(weights_nn @ pull_n, self._free_n, labelled_l, self._probs_n)

    def _subtract(self, downdate: _Downdate, k: int) -> None:
        """Take the newly labelled node k out of G, in place; factorise anew where too few digits would be left."""
        for left_n, right_n in zip(downdate.left_nr.T, downdate.right_nr.T, strict=True):
            blas.dger(-1, right_n, left_n, a=self._covariance_nn.T, overwrite_a=1)
        self._covariance_nn[k] = 0
        self._covariance_nn[:, k] = 0
        self._free_n = downdate.free_n
        variance_n = self._covariance_nn.diagonal().copy()
        self._digits_n = np.maximum(self._digits_n, variance_n)
        if (variance_n * _LOST_DIGITS < self._digits_n)[~self._is_labelled_n & (self._free_n < 0)].any():
            del self._covariance_nn  # before another is made
            self._factorise(self._make_weights())

    def _expected_risk(self, downdate: _Downdate) -> FloatArray:
        """Expected risk of every image in blocks of candidates; those in `downdate` are taken and have no risk left."""
        terms_nr = downdate.left_nr * downdate.right_nr
        variance_n = self._covariance_nn.diagonal() - terms_nr.sum(axis=1)
        digits_n = np.maximum(self._digits_n, np.abs(terms_nr).sum(axis=1))
        is_fixed_n = self._is_labelled_n | downdate.is_taken_n
        # an image bound that closely to one taken tells nothing more; neither does what is left of its digits
        is_known_n = is_fixed_n | (downdate.free_n >= 0) | (variance_n * _LOST_DIGITS < digits_n)
        scale_n = np.divide(1, variance_n, out=np.zeros_like(variance_n), where=~is_known_n)
        risk_n = np.full(len(variance_n), np.inf)

        def score(candidates: slice) -> None:
            steps_kn = downdate.rows(self._covariance_nn, candidates)
            steps_kn *= scale_n[candidates, None]
            free_k = downdate.free_n[candidates]
            for position in np.flatnonzero(free_k >= 0):
                steps_kn[position] = downdate.free_n == free_k[position]
            risk_n[candidates] = _mean_risk(self._probs_n, self._probs_n[candidates], steps_kn)

        _in_threads(score, list(_slices(len(risk_n), max(1, _BLOCK // len(risk_n)))), self._threads)
        risk_n -= np.minimum(self._probs_n, 1 - self._probs_n)[downdate.is_taken_n].sum()
        risk_n[is_fixed_n] = np.inf
        return risk_n


def rbf_weights(images: ArrayLike, *, sigma: float = ZHU_SIGMA, neighbours: int | None = None) -> FloatArray:
    """Weights of the graph over images: w_ij = exp(-|x_i - x_j|^2 / sigma^2) (ICML paper, equation 1).

    Note that sigma^2 is not doubled, and that Zhu's sigma of 380 was for digits of 16 x 16 pixels of 0 to 255.

    Args:
        images: (N, ...) pixels.
        sigma: length scale, in the unit of the pixels.
        neighbours: keep w_ij only where i is one of the `neighbours` nearest images of j or j of i; None keeps all.

    Returns:
        (N, N) float64, symmetric, in [0, 1], zero on the diagonal; duplicates have weight 1.

    Raises:
        LengthScaleError: every weight would be 0.
        ValueError: sigma is not positive, or there are not that many neighbours.
    """
    images_nd = _flat(images)
    _check_graph(len(images_nd) - 1, sigma, neighbours)
    weights_nn = _weights(images_nd, sigma, neighbours)
    if len(images_nd) > 1 and not weights_nn.any():
        nearest = np.median(NearestNeighbors(n_neighbors=1).fit(images_nd).kneighbors()[0])
        raise LengthScaleError(
            f"sigma {sigma:g} is too small: every weight of the graph is 0, since the images are {nearest:.4g} from "
            f"their nearest (median); take a sigma of about that"
        )
    return weights_nn


def _weights(images_nd: FloatArray, sigma: float, neighbours: int | None) -> FloatArray:
    if neighbours is None:
        weights_nn = images_nd @ images_nd.T
        square_n = weights_nn.diagonal().copy()
        for rows in _slices(len(weights_nn), _ROWS):
            weights_nn[rows] = _rbf(square_n[rows, None] + square_n - 2 * weights_nn[rows], sigma)
        np.fill_diagonal(weights_nn, 0)
        return weights_nn
    graph = NearestNeighbors(n_neighbors=neighbours).fit(images_nd).kneighbors_graph(mode="distance")
    graph.data = _rbf(graph.data**2, sigma)
    return np.asarray(graph.maximum(graph.T).toarray())


def harmonic_extension(
    images: ArrayLike, probs: ArrayLike, test_images: ArrayLike, *, sigma: float, neighbours: int | None = None
) -> FloatArray:
    """Harmonic function at images outside the graph: f(x) = sum_i w(x, i) f_i / sum_i w(x, i) over training images i.

    That is the value of f at a node linked to the training images, which are not linked back to it (Delalleau, Bengio
    and Le Roux, "Efficient non-parametric function induction in semi-supervised learning", 2005). The sums run over
    all training images, or over the `neighbours` nearest ones. The nearest image is given weight 1 and the others
    theirs in proportion, so that no test image is too far away for exp().

    Args:
        images: (N, ...) training images.
        probs: (N,) their harmonic function, labels included.
        test_images: (M, ...).
        sigma: length scale, in the unit of the pixels.
        neighbours: number of nearest training images; None for all.

    Returns:
        (M,) float64 in [0, 1].

    Raises:
        ValueError: sigma, the number of neighbours or the size of the images.
    """
    images_nd, test_md, probs_n = _flat(images), _flat(test_images), np.asarray(probs, dtype=np.float64)
    _check_graph(len(images_nd), sigma, neighbours)
    if test_md.shape[1] != images_nd.shape[1]:
        raise ValueError(f"test images have {test_md.shape[1]} pixels, training images {images_nd.shape[1]}")
    if neighbours is not None:
        distance_mk, index_mk = NearestNeighbors(n_neighbors=neighbours).fit(images_nd).kneighbors(test_md)
        return _weighted_mean(distance_mk**2, probs_n[index_mk], sigma)
    square_n = np.einsum("nd,nd->n", images_nd, images_nd)
    probs_m = np.empty(len(test_md))
    for rows in _slices(len(test_md), _ROWS):
        # |x|^2 is left out of |x - x_i|^2: it is the same for all i
        probs_m[rows] = _weighted_mean(square_n - 2 * (test_md[rows] @ images_nd.T), probs_n, sigma)
    return probs_m


def harmonic_function(weights: ArrayLike, labelled: ArrayLike, labels: ArrayLike) -> FloatArray:
    """Harmonic function f_u = -Delta_uu^-1 Delta_ul f_l (ICML paper, equation 5) alone, without the inverse G.

    Args:
        weights: (N, N) symmetric, not negative, zero diagonal; not written to.
        labelled: (L,) train_index.
        labels: (L,) 0 or 1.

    Returns:
        (N,) float64 in [0, 1]; 0.5 on components of the graph without a label.
    """
    return _solve_in_place(np.array(weights, dtype=np.float64, order="C"), labelled, labels)


def choose_sigma(
    images: ArrayLike,
    labelled: ArrayLike,
    labels: ArrayLike,
    val_images: ArrayLike,
    val_labels: ArrayLike,
    sigmas: Sequence[float],
    *,
    neighbours: int | None = None,
    check: Check = _never,
) -> tuple[float, FloatArray]:
    """The sigma of the grid with the lowest validation error of the harmonic extension.

    Equal errors are decided by the Brier score, the mean of (f(x) - y)^2, which unlike the likelihood stays finite at
    f = 0 and 1; and equal Brier scores by the order of the grid. The validation images are no nodes of the graph.
    `check` is called as by `GaussianRandomField.from_images`.

    Returns:
        The sigma, and (S, 2) validation error (fraction) and Brier score of each sigma; infinite for one that
        cannot be taken.

    Raises:
        LengthScaleError: no sigma of the grid says anything of these images.
        ValueError: the grid is empty.
    """
    if not sigmas:
        raise ValueError("sigmas is empty: give at least one sigma to choose from")
    images_nd, val_md, labels_m = _flat(images), _flat(val_images), np.asarray(val_labels)
    scores_s2 = np.full((len(sigmas), 2), np.inf)
    for position, sigma in enumerate(sigmas):
        try:
            weights_nn = rbf_weights(images_nd, sigma=sigma, neighbours=neighbours)
            probs_n = _solve_in_place(weights_nn, labelled, labels, check)
        except LengthScaleError as error:
            refusal = error
            continue
        probs_m = harmonic_extension(images_nd, probs_n, val_md, sigma=sigma, neighbours=neighbours)
        scores_s2[position] = np.mean((probs_m > 0.5) != labels_m), np.mean((probs_m - labels_m) ** 2)
    best = min(range(len(sigmas)), key=lambda position: tuple(scores_s2[position]))
    if np.isinf(scores_s2[best, 0]):
        raise LengthScaleError(f"no sigma of {', '.join(f'{sigma:g}' for sigma in sigmas)} can be taken: {refusal}")
    return sigmas[best], scores_s2


@dataclass
class _Downdate:
    """Nodes taken out of G but not yet out of its memory: the matrix meant is G - left_nr right_nr^T.

    `free_n` names the component a node lies in, if that has no label yet, by its reference node; otherwise it is -1.
    On such a component G holds the inverse of the Laplacian without the reference node, whose row is zero.
    """

    left_nr: FloatArray
    right_nr: FloatArray
    free_n: IndexArray
    is_taken_n: NDArray[np.bool_]

    @classmethod
    def none(cls, free_n: IndexArray) -> _Downdate:
        """Nothing taken out yet."""
        n = len(free_n)
        return cls(np.empty((n, 0)), np.empty((n, 0)), free_n.copy(), np.zeros(n, dtype=np.bool_))

    def rows(self, covariance_nn: FloatArray, rows: slice) -> FloatArray:
        """New array of rows of the matrix meant."""
        if not self.left_nr.shape[1]:
            return covariance_nn[rows].copy()
        return np.asarray(covariance_nn[rows] - self.left_nr[rows] @ self.right_nr.T)

    def condition(self, covariance_nn: FloatArray, k: int) -> FloatArray:
        """Take node k out; returns df / df_k = G[:, k] / G[k, k].

        The first label of a component is the label of all of it, so there df / df_k = 1; and with c added to all of
        G on the component, c without bound, the rank-one downdate becomes G_ij - G_ik - G_kj + G_kk.
        """
        row_n = self.rows(covariance_nn, slice(k, k + 1))[0]
        self.is_taken_n[k] = True
        if self.free_n[k] < 0:
            cancelled = max(covariance_nn[k, k], np.abs(self.left_nr[k] * self.right_nr[k]).sum())
            variance = max(row_n[k], np.finfo(np.float64).eps * cancelled)  # never under its own rounding error
            self._append(row_n / np.sqrt(variance), row_n / np.sqrt(variance))
            return np.asarray(row_n / variance)
        members_n = self.free_n == self.free_n[k]
        step_n: FloatArray = members_n.astype(np.float64)
        self._append(step_n, row_n)
        self._append(row_n - row_n[k] * step_n, step_n)
        self.free_n[members_n] = -1
        return step_n

    def _append(self, left_n: FloatArray, right_n: FloatArray) -> None:
        self.left_nr = np.column_stack([self.left_nr, left_n])
        self.right_nr = np.column_stack([self.right_nr, right_n])


def _mean_risk(probs_n: FloatArray, probs_k: FloatArray, steps_kn: FloatArray) -> FloatArray:
    """Expected risk of K candidates: min(f, 1 - f) = 0.5 - |f - 0.5|, summed. `steps_kn` is overwritten."""
    centred_kn = steps_kn * -probs_k[:, None]
    centred_kn += probs_n - 0.5
    steps_kn += centred_kn
    certainty_0_k = np.abs(centred_kn, out=centred_kn).sum(axis=1)
    certainty_1_k = np.abs(steps_kn, out=steps_kn).sum(axis=1)
    return np.asarray(len(probs_n) / 2 - (1 - probs_k) * certainty_0_k - probs_k * certainty_1_k)


def _solve_in_place(
    weights_nn: FloatArray, labelled: ArrayLike, labels: ArrayLike, check: Check = _never
) -> FloatArray:
    """Harmonic function by one factorisation and two triangular solves; `weights_nn` is overwritten."""
    labelled_l = np.asarray(labelled, dtype=np.int64)
    labels_n = np.zeros(len(weights_nn))
    labels_n[labelled_l] = labels
    pull_n = _pull(weights_nn, labelled_l, labels_n)
    free_n = _cholesky(weights_nn, labelled_l, check)
    solved_n, info = lapack.dpotrs(weights_nn.T, pull_n, lower=0)
    assert info == 0
    return _with_labels(solved_n, free_n, labelled_l, labels_n)


def _pull(weights_nn: FloatArray, labelled_l: IndexArray, labels_n: FloatArray) -> FloatArray:
    """-Delta_ul f_l on the unlabelled nodes, 0 on the labelled."""
    pull_n = weights_nn[:, labelled_l] @ labels_n[labelled_l]
    pull_n[labelled_l] = 0
    return np.asarray(pull_n)


def _with_labels(solved_n: FloatArray, free_n: IndexArray, labelled_l: IndexArray, labels_n: FloatArray) -> FloatArray:
    """Harmonic function on all nodes: solved, 0.5 on components without a label, the label where there is one.

    Raises:
        LengthScaleError: for a probability that is not finite.
    """
    if not np.isfinite(solved_n[free_n < 0]).all():
        raise LengthScaleError("some probabilities are not finite: the weights are too small")
    probs_n = np.where(free_n >= 0, 0.5, np.clip(solved_n, 0, 1))
    probs_n[labelled_l] = labels_n[labelled_l]
    return probs_n


def _cholesky(weights_nn: FloatArray, labelled_l: IndexArray, check: Check = _never) -> IndexArray:
    """Overwrite the weights by the lower Cholesky factor of Delta_uu, with rows of the identity for labelled nodes.

    The diagonal is never formed. `excess_n` holds the weights to the labelled nodes; a pivot is the excess and all the
    links a node has left when its turn comes, so no two numbers of unlike sign meet. A node with neither is the last of
    a component without a label: it becomes the component's reference and gets a row of the identity as well.

    Returns:
        (N,) reference node of each node's component, or -1 if the component has a label. The upper triangle of
        `weights_nn` is left undefined.
    """
    n = len(weights_nn)
    excess_n = weights_nn[:, labelled_l].sum(axis=1)
    excess_n[labelled_l] = 1
    weights_nn[labelled_l] = 0
    weights_nn[:, labelled_l] = 0
    factor_nn = np.negative(weights_nn, out=weights_nn)
    parent_n = np.arange(n)
    is_reference_n = np.zeros(n, dtype=np.bool_)
    for columns in _slices(n, _PANEL):
        check()
        start = columns.start
        panel = np.asfortranarray(factor_nn[start:, columns])
        panel -= factor_nn[start:, :start] @ factor_nn[columns, :start].T
        excess_n[columns] -= factor_nn[columns, :start] @ excess_n[:start]
        _eliminate(panel, excess_n[columns], parent_n[columns], is_reference_n[columns])
        factor_nn[start:, columns] = panel
        factor_nn[columns, :start][is_reference_n[columns]] = 0
    return _components(parent_n, is_reference_n)


def _eliminate(
    panel: FloatArray, excess_p: FloatArray, parent_p: IndexArray, is_reference_p: NDArray[np.bool_]
) -> None:
    """Factorise one panel of columns, in place; the excess is left divided by the pivots' roots."""
    for j in range(panel.shape[1]):
        column = panel[j + 1 :, j]
        column -= panel[j + 1 :, :j] @ panel[j, :j]
        excess_p[j] -= panel[j, :j] @ excess_p[:j]
        pivot = excess_p[j] - column.sum()
        if pivot == 0:
            is_reference_p[j] = True
            panel[j, :j], panel[j, j] = 0, 1
            continue
        if column.size and column.min() < 0:
            parent_p[j] += 1 + int(np.argmax(column < 0))
        panel[j, j] = np.sqrt(pivot)
        column /= panel[j, j]
        excess_p[j] /= panel[j, j]


def _components(parent_n: IndexArray, is_reference_n: NDArray[np.bool_]) -> IndexArray:
    """Reference node of each node's component, or -1: the root of its elimination tree, if that is a reference."""
    root_n = parent_n.copy()
    for k in range(len(root_n) - 1, -1, -1):
        root_n[k] = root_n[root_n[k]]
    return np.where(is_reference_n[root_n], root_n, -1)


def _invert(factor_nn: FloatArray) -> None:
    """Overwrite a lower Cholesky factor by the inverse of the matrix, both triangles; no second matrix is made."""
    # LAPACK wants Fortran order: to it the transposed view is an upper factor, and no copy is needed
    inverse_nn, info = lapack.dpotri(factor_nn.T, lower=0, overwrite_c=1)
    assert info == 0
    assert np.shares_memory(inverse_nn, factor_nn)
    for rows in _slices(len(factor_nn), _PANEL):
        factor_nn[rows, rows.stop :] = factor_nn[rows.stop :, rows].T
        lower = np.tril(factor_nn[rows, rows])
        factor_nn[rows, rows] = lower + np.tril(lower, -1).T


def _rbf(square_distance: FloatArray, sigma: float) -> FloatArray:
    """exp(-d^2 / sigma^2); a distance that rounding made negative counts as 0."""
    weight: FloatArray = np.exp(np.maximum(square_distance, 0) / -(sigma**2))
    return weight


def _weighted_mean(square_distance_mk: FloatArray, probs: FloatArray, sigma: float) -> FloatArray:
    """Mean of `probs`, (K,) or (M, K), weighted by the RBF of distances of which each row's least is taken as 0."""
    weight_mk = _rbf(square_distance_mk - square_distance_mk.min(axis=1, keepdims=True), sigma)
    return np.asarray((weight_mk * probs).sum(axis=1) / weight_mk.sum(axis=1))


def _flat(images: ArrayLike) -> FloatArray:
    """Images (N, ...) as float64 rows (N, D)."""
    images_n = np.asarray(images, dtype=np.float64)
    return images_n.reshape(len(images_n), -1)


def _check_graph(n_others: int, sigma: float, neighbours: int | None) -> None:
    if not (sigma > 0 and _SMALLEST <= sigma * sigma < np.inf):
        raise ValueError(f"sigma must be positive, in the unit of the pixels, not {sigma}")
    if neighbours is not None and not 1 <= neighbours <= n_others:
        raise ValueError(f"neighbours must be 1 to {n_others} with so many images, or None for all, not {neighbours}")


def _slices(n: int, size: int) -> Iterator[slice]:
    """Cuts range(n) into slices of at most `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _in_threads(work: Callable[[slice], None], parts: list[slice], n_threads: int) -> None:
    """Run `work` on every part; numpy lets go of the interpreter lock, and each part writes its own results."""

    def run(thread: int) -> None:
        for part in parts[thread::n_threads]:
            work(part)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run, range(n_threads)))
