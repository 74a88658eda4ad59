"""Acquisition functions: which images of the pool should be labelled next?

A learner says what it knows of some candidates (`Evidence`), and an acquisition function picks a batch of them
(`Picks`). It sees the candidates only and returns positions among them. Most functions have a score: one number an
image from the class probabilities of T MC-dropout passes, of which the highest are picked, by lot among equals. Others
pick a batch as a whole.

A new acquisition function is one function and one line in `ACQUISITION_FUNCTIONS`: the command line and its help, file
names, colours, the contract tests and the report follow from there.

Dimension key: T passes, N images, C classes, K batch (the images acquired in one round), M target images, L labelled
images, D embedding, J configurations (a class for each image of a batch). `probs_tnc` has shape (T, N, C), and p_tn
stands for its C probabilities in pass t for image n, p_n for their mean over the passes.

Reading order: scores, one number an image; `Evidence` and `Picks`; choices of a batch, by the top of scores, by
perturbed scores, by joint probabilities, by embeddings; the registry; the command line's words; `select_top`.

Every score
    - takes a numpy array or a torch tensor of float32 or float64, reads it in place and never writes to it;
    - returns an array of the same kind, dtype and device, of shape (N,);
    - looks at one image at a time, so that a pool can be scored block by block; the entropies need one temporary array
      of the size of the block;
    - gives NaN for an image with a NaN among its probabilities, which `select_top` refuses (only `uniform`, which reads
      no probability, does not).

Names and formulas follow Y. Gal, R. Islam, Z. Ghahramani, "Deep Bayesian Active Learning with Image Data" (ICML 2017),
section "Acquisition Functions and their Approximations"; "Gal et al." below.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", NDArray[Any], "torch.Tensor")


class Score(Protocol):
    """A function of class probabilities (T, N, C) that gives one number per image (N,), high where a label helps."""

    def __call__(self, probs_tnc: Array, /) -> Array:
        """Score the N images."""
        ...


def uniform(probs_tnc: Array) -> Array:
    """Random acquisition: the same score for every image, so that the tie-break of `select_top` decides.

    a(x_n) = 0; the baseline of Gal et al. ("Random").

    Args:
        probs_tnc: Class probabilities (T, N, C). Only the shape, dtype and device are read.

    Returns:
        Zeros (N,).
    """
    xp = _namespace(probs_tnc)
    scores_n: Array = xp.zeros(probs_tnc.shape[1], dtype=probs_tnc.dtype, device=device(probs_tnc))  # (N,)
    return scores_n


def max_entropy(probs_tnc: Array) -> Array:
    """Entropy of the predictive distribution ("Max Entropy" of Gal et al.; Shannon 1948).

    H[p_n] = -sum_c p_nc log p_nc with p_n the mean over the passes: high wherever the class is uncertain, be it because
    the passes disagree or because they agree that the image is ambiguous.

    Args:
        probs_tnc: Class probabilities (T, N, C).

    Returns:
        Nats (N,), from 0 to log C up to rounding.

    >>> max_entropy(np.array([[[1.0, 0.0]], [[0.0, 1.0]]])).round(4)  # two passes, one image: log 2
    array([0.6931])
    """
    xp = _namespace(probs_tnc)
    mean_nc: Array = xp.mean(probs_tnc, axis=0)  # (N, C)
    return _entropy(mean_nc)  # (N,)


def bald(probs_tnc: Array) -> Array:
    """Mutual information between the label and the weights ("BALD" of Gal et al.; Houlsby et al. 2011).

    I_n = H[p_n] - (1/T) sum_t H[p_tn]: high where single passes are sure of different classes, 0 where all agree.

    Mutual information is never negative; a difference that rounding took below 0 (by about 1e-7 in float32) is set to
    0. With one pass both terms are the same number and every score is exactly 0, whatever the memory layout, so that
    a deterministic network acquires at random.

    Args:
        probs_tnc: Class probabilities (T, N, C).

    Returns:
        Nats (N,), from 0 to `max_entropy`.

    >>> bald(np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])).round(4)  # disagreeing, ambiguous
    array([0.6931, 0.    ])
    """
    xp = _namespace(probs_tnc)
    entropy_n = _entropy(xp.mean(probs_tnc, axis=0))  # (N,)
    one_pass = probs_tnc.shape[0] == 1  # its sum over classes may round differently in an array of other strides
    expected_entropy_n = entropy_n if one_pass else xp.mean(_entropy(probs_tnc), axis=0)  # (N,)
    scores_n: Array = xp.clip(entropy_n - expected_entropy_n, min=0)  # (N,)
    return scores_n


def var_ratios(probs_tnc: Array) -> Array:
    """Fraction of the passes that do not vote for the most voted class (Freeman 1965), as the authors' code has it.

    v_n = 1 - f_n / T, where each pass votes for its most probable class (the first of equals) and f_n counts the votes
    of the most voted class. Gal et al. write 1 - max_c p_nc instead, here `var_ratios_mean`. Votes take few values, so
    ties are common; with one pass every score is exactly 0.

    Args:
        probs_tnc: Class probabilities (T, N, C).

    Returns:
        Fraction of passes (N,), a multiple of 1/T from 0 to 1 - 1/C.

    >>> var_ratios(np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.2, 0.8]], [[0.3, 0.7]]]))  # one of four votes differs
    array([0.25])
    """
    xp = _namespace(probs_tnc)
    passes, images, classes = probs_tnc.shape
    vote_tn = xp.argmax(probs_tnc, axis=-1)  # (T, N)
    cell_tn = vote_tn + classes * xp.arange(images, device=device(probs_tnc))  # (T, N), each image its own C cells
    votes = xp.bincount(xp.reshape(cell_tn, (-1,)), minlength=images * classes)  # (N * C,)
    modal_n = xp.max(xp.reshape(votes, (images, classes)), axis=-1)  # (N,)
    scores_n = (passes - xp.astype(modal_n, probs_tnc.dtype)) / passes  # (N,)
    # argmax takes a NaN for the winner and would hide it
    nan_n = xp.isnan(xp.sum(probs_tnc, axis=(0, 2)))  # (N,)
    checked_n: Array = xp.where(nan_n, xp.nan, scores_n)  # (N,)
    return checked_n


def var_ratios_mean(probs_tnc: Array) -> Array:
    """Probability that the most probable class is wrong ("Variation Ratios" as Gal et al. write it).

    v_n = 1 - max_c p_nc with p_n the mean over the passes. It grades images that all passes vote alike on, where
    `var_ratios` is 0; it is therefore also the meaning of variation ratios for a single, deterministic pass.

    Args:
        probs_tnc: Class probabilities (T, N, C).

    Returns:
        Probability (N,), from 0 to 1 - 1/C up to rounding.

    >>> var_ratios_mean(np.array([[[0.9, 0.1]], [[0.4, 0.6]]])).round(4)
    array([0.35])
    """
    xp = _namespace(probs_tnc)
    mean_nc = xp.mean(probs_tnc, axis=0)  # (N, C)
    scores_n: Array = 1 - xp.max(mean_nc, axis=-1)  # (N,)
    return scores_n


def mean_std(probs_tnc: Array) -> Array:
    """Standard deviation of a class probability over the passes, averaged over the classes ("Mean STD" of Gal et al.).

    s_n = (1/C) sum_c sqrt((1/T) sum_t (p_tnc - p_nc)^2): the population standard deviation, exactly 0 with one pass.

    Args:
        probs_tnc: Class probabilities (T, N, C).

    Returns:
        Probability (N,), from 0 to sqrt(C - 1) / C.

    >>> mean_std(np.array([[[0.9, 0.1]], [[0.5, 0.5]]])).round(4)
    array([0.2])
    """
    xp = _namespace(probs_tnc)
    std_nc = xp.std(probs_tnc, axis=0, correction=0)  # (N, C)
    scores_n: Array = xp.mean(std_nc, axis=-1)  # (N,)
    return scores_n


def margin(probs_tnc: Array) -> Array:
    """How near the second class comes to the first (Scheffer, Decomain, Wrobel 2001).

    1 - (p_n(1) - p_n(2)) with the two largest of the mean probabilities.

    Args:
        probs_tnc: Class probabilities (T, N, C).

    Returns:
        Probability (N,), from 0 to 1.

    >>> margin(np.array([[[0.7, 0.2, 0.1]]])).round(4)
    array([0.5])
    """
    xp = _namespace(probs_tnc)
    ascending_nc = xp.sort(xp.mean(probs_tnc, axis=0), axis=-1)  # (N, C)
    scores_n: Array = 1 - (ascending_nc[:, -1] - ascending_nc[:, -2])  # (N,)
    return scores_n


Need = Literal["probabilities", "samples", "targets", "embeddings", "field"]
"""What a function may ask of a learner: class probabilities; passes that are posterior samples, each applied to every
image, and all of them at once; those of target images under the same samples; embeddings; a random field."""


class RiskField(Protocol):
    """A model of the candidates that knows how its risk would change with their labels (see `expected_risk`)."""

    def least_expected_risk(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return a greedy batch: positions among the candidates (K,), and the expected risk each was chosen for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a fitted learner says of N candidates: what the function needs, and nothing else.

    Attributes:
        count: N.
        scores_n: The function's own score of each candidate (N,), where it has a score; zeros where it needs nothing.
        probs_tnc: Where it has none, class probabilities (T, N, C): of all passes, float32, if it needs samples; their
            mean alone (1, N, C), float64, if it needs probabilities only.
        target_tmc: Those of target images (T, M, C), where it needs targets.
        embeddings_nd: What the network's last layer takes of each candidate, nothing dropped (N, D), float32.
        labelled_ld: The same of the labelled images (L, D).
        field: A field over the candidates, where it needs one.
    """

    count: int
    scores_n: NDArray[np.float64] | None = None
    probs_tnc: NDArray[np.floating[Any]] | None = None
    target_tmc: NDArray[np.float32] | None = None
    embeddings_nd: NDArray[np.float32] | None = None
    labelled_ld: NDArray[np.float32] | None = None
    field: RiskField | None = None


class Picks(NamedTuple):
    """The candidates that were picked, in order of choice.

    Attributes:
        positions_k: Positions among the candidates (K,), each once.
        values_k: What each was picked for (K,), high where a label helps; in the unit of the function.
    """

    positions_k: NDArray[np.int64]
    values_k: NDArray[np.float64]


Select = Callable[..., Picks]
"""A choice of a batch: takes `Evidence`, the number of images K and a generator, and by name the function's settings.

The same evidence, number, settings and state of the generator give the same picks."""


def highest_scores(evidence: Evidence, count: int, rng: np.random.Generator) -> Picks:
    """Pick the candidates with the highest scores, by lot among equals (`select_top`)."""
    assert evidence.scores_n is not None
    positions_k = select_top(evidence.scores_n, count, rng)
    return Picks(positions_k, evidence.scores_n[positions_k])


def expected_risk(evidence: Evidence, count: int, _rng: np.random.Generator) -> Picks:
    """Pick by the least expected risk of a Gaussian random field, one after the other ("Minimum Bayes Risk").

    a(x_k) = -[(1 - f_k) R(f+(x_k, 0)) + f_k R(f+(x_k, 1))] with the risk R(f) = sum_i min(f_i, 1 - f_i), in images; the
    second pick follows from the field that is conditioned on the first. X. Zhu, J. Lafferty, Z. Ghahramani, "Combining
    Active Learning and Semi-Supervised Learning Using Gaussian Fields and Harmonic Functions" (ICML 2003 workshop),
    section 3. For two classes.
    """
    assert evidence.field is not None
    positions_k, risks_k = evidence.field.least_expected_risk(count)
    return Picks(positions_k, -risks_k)


def power_bald(evidence: Evidence, count: int, rng: np.random.Generator, *, coldness: float) -> Picks:
    """Draw a batch with probabilities proportional to a power of BALD ("PowerBALD").

    The top K of beta log s_n + g_n with independent standard Gumbel g_n, which draws without replacement in proportion
    to s_n^beta. A. Kirsch, S. Farquhar, P. Atighehchian, A. Jesson, F. Branchaud-Charron, Y. Gal, "Stochastic Batch
    Acquisition: A Simple Baseline for Deep Active Learning" (2021), section 3; as are the next two.

    Args:
        evidence: Scores, at least 0.
        count: K.
        rng: Draws the Gumbel variables, and the lots among images with a score of 0.
        coldness: beta; 0 draws uniformly among the scores above 0, infinity would take the top.

    Returns:
        In the order of the perturbed scores, with the scores themselves.
    """
    scores_n = _scores(evidence)
    logits_n = np.full(evidence.count, -np.inf)
    logits_n[scores_n > 0] = coldness * np.log(scores_n[scores_n > 0])
    return _perturbed_top(evidence, logits_n, count, rng)


def softmax_bald(evidence: Evidence, count: int, rng: np.random.Generator, *, coldness: float) -> Picks:
    """Draw a batch with probabilities proportional to exp(beta s_n): the top K of beta s_n + g_n ("SoftmaxBALD")."""
    return _perturbed_top(evidence, coldness * _scores(evidence), count, rng)


def softrank_bald(evidence: Evidence, count: int, rng: np.random.Generator, *, coldness: float) -> Picks:
    """Draw a batch with probabilities proportional to r_n^-beta, r_n = 1 for the highest score ("SoftrankBALD").

    The top K of -beta log r_n + g_n; ranks of equal scores by lot.
    """
    descending_n = select_top(_scores(evidence), evidence.count, rng)
    ranks_n = np.empty(evidence.count)
    ranks_n[descending_n] = np.arange(1, evidence.count + 1)
    return _perturbed_top(evidence, -coldness * np.log(ranks_n), count, rng)


def _perturbed_top(evidence: Evidence, logits_n: NDArray[np.float64], count: int, rng: np.random.Generator) -> Picks:
    positions_k = select_top(logits_n + rng.gumbel(size=len(logits_n)), count, rng)
    return Picks(positions_k, _scores(evidence)[positions_k])


def _scores(evidence: Evidence) -> NDArray[np.float64]:
    assert evidence.scores_n is not None
    return evidence.scores_n


CONFIGURATIONS = 10_000
"""The most configurations of a batch that BatchBALD lists; of larger batches it draws as many."""

CANDIDATES_AT_ONCE = 64
"""Candidates whose joint probabilities are computed at once: few enough for them to fit into memory."""


def batch_bald(evidence: Evidence, count: int, rng: np.random.Generator) -> Picks:
    """Pick greedily by the mutual information between a batch's labels and the weights ("BatchBALD").

    I(y_1..b; w) = H(y_1..b) - sum_i (1/T) sum_t H[p_ti], where the joint probability of a configuration is the mean
    over the passes of its product: exact while all configurations are listed, and from configurations drawn from the
    joint distribution after that. A. Kirsch, J. van Amersfoort, Y. Gal, "BatchBALD: Efficient and Diverse Batch
    Acquisition for Deep Bayesian Active Learning" (NeurIPS 2019), sections 3 and 4.

    A gain never grows as the batch does, so that most candidates need no second look (Minoux 1978); of equal gains
    one is taken by lot.

    Args:
        evidence: Posterior samples: the same passes for all candidates.
        count: K.
        rng: Draws the configurations and the lots.

    Returns:
        In order of choice, with what each adds to the mutual information, nats: at least 0 while the configurations are
        listed; where they are drawn, an estimate, which its own error may take below 0.
    """
    assert evidence.probs_tnc is not None
    probs_tnc = evidence.probs_tnc.astype(np.float64)
    passes, images, _ = probs_tnc.shape
    batch = _Batch(passes)
    noise_n = _entropy(probs_tnc).mean(axis=0)  # (N,)
    bounds_n = _entropy(probs_tnc.mean(axis=0)) - noise_n  # (N,), the gains of a first choice
    lots_n = rng.permutation(images)
    positions_k, gains_k = np.empty(count, dtype=np.int64), np.empty(count)
    for k in range(count):
        by_bound_n = lots_n[np.argsort(-bounds_n[lots_n], kind="stable")][: images - k]  # the others are taken
        best, largest = -1, -np.inf
        for start in range(0, images - k, CANDIDATES_AT_ONCE):
            few = by_bound_n[start : start + CANDIDATES_AT_ONCE]
            if bounds_n[few[0]] < largest:
                break
            if k:
                bounds_n[few] = batch.entropy_with(probs_tnc[:, few]) - batch.entropy - noise_n[few]
            highest = few[np.argmax(bounds_n[few])]
            if bounds_n[highest] > largest:
                best, largest = int(highest), float(bounds_n[highest])
        positions_k[k], gains_k[k] = best, largest
        batch.add(probs_tnc[:, best], rng)
        bounds_n[best] = -np.inf
    return Picks(positions_k, gains_k)


class _Batch:
    """The joint distribution of a batch's labels: all J configurations, or J that were drawn from it."""

    def __init__(self, passes: int) -> None:
        self.probs_tj = np.ones((passes, 1))  # of each configuration in each pass; where they are drawn, over its mean
        self.drawn = False
        self._surprise = 0.0  # where they are drawn: mean of -log of those means, which would underflow

    @property
    def entropy(self) -> float:
        """H(y_1..b), nats."""
        return self._surprise + float(self._weights_j @ _entropy(self.probs_tj.mean(axis=0)[:, np.newaxis]))

    def entropy_with(self, probs_tnc: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return H(y_1..b, y_n) (N,) of candidates."""
        passes, images, classes = probs_tnc.shape
        joint_jnc = (self.probs_tj.T @ probs_tnc.reshape(passes, -1) / passes).reshape(-1, images, classes)
        entropy_n: NDArray[np.float64] = self._surprise + self._weights_j @ _entropy(joint_jnc)
        return entropy_n

    def add(self, probs_tc: NDArray[np.float64], rng: np.random.Generator) -> None:
        """Take an image into the batch."""
        if not self.drawn and self.probs_tj.shape[1] * probs_tc.shape[1] <= CONFIGURATIONS:
            self.probs_tj = (self.probs_tj[:, :, np.newaxis] * probs_tc[:, np.newaxis]).reshape(len(probs_tc), -1)
            return
        if not self.drawn:
            mean_j = self.probs_tj.mean(axis=0)
            self.probs_tj = self.probs_tj[:, rng.choice(len(mean_j), CONFIGURATIONS, p=mean_j / mean_j.sum())]
            self.drawn = True
            self._rescale()
        joint_jc = self.probs_tj.T @ probs_tc  # in proportion to each class's probability, given the configuration
        below_jc = joint_jc.cumsum(axis=1)
        drawn_j1 = rng.random((len(below_jc), 1)) * below_jc[:, -1:]
        class_j = np.minimum((below_jc <= drawn_j1).sum(axis=1), probs_tc.shape[1] - 1)
        self.probs_tj = self.probs_tj * probs_tc[:, class_j]
        self._rescale()

    def _rescale(self) -> None:
        mean_j = self.probs_tj.mean(axis=0)
        self.probs_tj = self.probs_tj / mean_j
        self._surprise -= float(np.log(mean_j).mean())

    @property
    def _weights_j(self) -> NDArray[np.float64]:
        """What each configuration counts in a sum over all."""
        count = self.probs_tj.shape[1]
        return np.full(count, 1 / count if self.drawn else 1.0)


def epig(evidence: Evidence, count: int, rng: np.random.Generator) -> Picks:
    """Pick by what a label is expected to tell of the labels of target images ("EPIG").

    a(x_n) = (1/M) sum_m I(y_n; y_m), from the joint probabilities (1/T) sum_t p_tnc p_tmc' under the same passes.
    F. Bickford Smith, A. Kirsch, S. Farquhar, Y. Gal, A. Foster, T. Rainforth, "Prediction-Oriented Bayesian Active
    Learning" (AISTATS 2023), equation 4. Here the target images are a random draw of the pool as it is at the start.

    Args:
        evidence: Posterior samples of candidates and targets: the same passes for all.
        count: K.
        rng: Draws the lots among equals.

    Returns:
        Highest first, nats a target image.
    """
    assert evidence.probs_tnc is not None
    assert evidence.target_tmc is not None
    target_tmc = evidence.target_tmc.astype(np.float64)
    passes, targets, classes = target_tmc.shape
    entropy_m = _entropy(target_tmc.mean(axis=0))  # (M,)
    scores_n = np.empty(evidence.count)
    for start in range(0, evidence.count, CANDIDATES_AT_ONCE):
        few_tnc = evidence.probs_tnc[:, start : start + CANDIDATES_AT_ONCE].astype(np.float64)
        joint = few_tnc.reshape(passes, -1).T @ target_tmc.reshape(passes, -1) / passes  # (N * C, M * C)
        joint_nmx = joint.reshape(-1, classes, targets, classes).swapaxes(1, 2).reshape(-1, targets, classes**2)
        information_nm = _entropy(few_tnc.mean(axis=0))[:, np.newaxis] + entropy_m - _entropy(joint_nmx)
        scores_n[start : start + CANDIDATES_AT_ONCE] = information_nm.mean(axis=1).clip(min=0)
    return highest_scores(Evidence(count=evidence.count, scores_n=scores_n), count, rng)


def badge(evidence: Evidence, count: int, rng: np.random.Generator) -> Picks:
    """Pick images whose gradients of the last layer are large and unlike each other ("BADGE").

    The first pick has the largest gradient g_n = (p_n - onehot(argmax_c p_nc)) (x) h_n, with p_n the mean over the
    passes and h_n the embedding; each later one is drawn in proportion to its squared distance from the nearest
    gradient that is picked (k-means++). J. Ash, C. Zhang, A. Krishnamurthy, J. Langford, A. Agarwal, "Deep Batch Active
    Learning by Diverse, Uncertain Gradient Lower Bounds" (ICLR 2020), algorithm 1; the first pick as in its code.

    Args:
        evidence: Probabilities and embeddings.
        count: K.
        rng: Draws the picks.

    Returns:
        In order of choice, with the distance from the nearest gradient picked before; of the first, its length.
    """
    assert evidence.probs_tnc is not None
    assert evidence.embeddings_nd is not None
    errors_nc = evidence.probs_tnc.mean(axis=0, dtype=np.float64)
    errors_nc[np.arange(evidence.count), errors_nc.argmax(axis=1)] -= 1
    hidden_nd = evidence.embeddings_nd.astype(np.float64)
    nearest_n = squares_n = (errors_nc**2).sum(axis=1) * (hidden_nd**2).sum(axis=1)  # squared lengths of the gradients
    positions: list[int] = []
    values: list[float] = []
    while len(positions) < count:
        position = _drawn(nearest_n, positions, rng) if positions else int(select_top(squares_n, 1, rng)[0])
        products_n = (errors_nc @ errors_nc[position]) * (hidden_nd @ hidden_nd[position])
        distances_n = (squares_n + squares_n[position] - 2 * products_n).clip(min=0)
        values.append(float(np.sqrt(nearest_n[position])))
        nearest_n = np.minimum(nearest_n, distances_n) if positions else distances_n
        positions.append(position)
    return Picks(np.array(positions, dtype=np.int64), np.array(values))


def _drawn(weights_n: NDArray[np.float64], taken: Sequence[int], rng: np.random.Generator) -> int:
    """Draw a position that is not taken, in proportion to its weight; uniformly, if all of them weigh nothing."""
    left_n = weights_n.copy()
    left_n[list(taken)] = 0
    if not left_n.any():
        left_n = np.ones_like(left_n)
        left_n[list(taken)] = 0
    return int(rng.choice(len(left_n), p=left_n / left_n.sum()))


CENTRES_AT_ONCE = 64
"""Centres of core-set whose distances to all candidates are in memory together."""


def core_set(evidence: Evidence, count: int, rng: np.random.Generator) -> Picks:
    """Pick the images farthest from all that are labelled or picked ("core-set", greedy k-centre).

    Each pick is the candidate whose embedding h_n has the largest distance from the nearest centre; the labelled images
    are the first centres. O. Sener, S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach" (ICLR 2018), algorithm 1.

    Args:
        evidence: Embeddings, of the labelled images too.
        count: K.
        rng: Draws the lots among equals.

    Returns:
        In order of choice, with the distance from the nearest centre.
    """
    assert evidence.embeddings_nd is not None
    assert evidence.labelled_ld is not None
    hidden_nd = evidence.embeddings_nd.astype(np.float64)
    squares_n = (hidden_nd**2).sum(axis=1)

    nearest_n = np.full(evidence.count, np.inf)  # squared distances from the nearest centre
    centres_ld = evidence.labelled_ld.astype(np.float64)
    for start in range(0, len(centres_ld), CENTRES_AT_ONCE):
        centres_md = centres_ld[start : start + CENTRES_AT_ONCE]
        beyond_mn = (centres_md**2).sum(axis=1)[:, np.newaxis] - 2 * (centres_md @ hidden_nd.T)
        nearest_n = np.minimum(nearest_n, (squares_n + beyond_mn.min(axis=0)).clip(min=0))
    positions_k, values_k = np.empty(count, dtype=np.int64), np.empty(count)
    for k in range(count):
        nearest_n[positions_k[:k]] = -1  # not again, though others may stand at the same place
        values_k[k] = nearest_n.max()
        positions_k[k] = rng.choice(np.flatnonzero(nearest_n == values_k[k]))
        centre_d = hidden_nd[positions_k[k]]
        nearest_n = np.minimum(nearest_n, (squares_n + centre_d @ centre_d - 2 * (hidden_nd @ centre_d)).clip(min=0))
    return Picks(positions_k, np.sqrt(values_k))


@dataclass(frozen=True, kw_only=True)
class AcquisitionFunction:
    """One entry of the registry.

    Attributes:
        name: What the command line, the file names and the configurations call it.
        label: What figures and tables call it.
        colour: Of its curves on white, `#RRGGBB`; no two functions share one.
        marker: Of its points, as matplotlib names them; no two functions share one.
        values: What `Picks.values_k` are, with their unit.
        needs: What it asks of a learner.
        code: Its number on the command line: those of the paper's five, and no others.
        score: Its score of MC-dropout passes, if it has one: the whole pool can then be scored block by block.
        one_pass_score: The score of the single pass of a deterministic network, where `score` has no meaning there.
        select: How it picks a batch.
        settings: The settings of the program that `select` takes by name; they are its own, and of no other's identity.
        whole_pool: Whether its candidates are always the whole pool.
    """

    name: str
    label: str
    colour: str
    marker: str
    values: str
    needs: frozenset[Need] = frozenset({"probabilities"})
    code: int | None = None
    score: Score | None = None
    one_pass_score: Score | None = None
    select: Select = highest_scores
    settings: tuple[str, ...] = ()
    whole_pool: bool = False

    @property
    def deterministic_score(self) -> Score | None:
        """The score for a deterministic network: `one_pass_score`, or `score` where there is none.

        BALD and Mean STD stay as they are: exactly 0 for every image, as in experiment 2 of Gal et al., which makes
        their deterministic arms acquire at random. Hard votes of one pass would be 0 too, but the paper's formula of
        the variation ratios, 1 - max_c p_nc, keeps its meaning there, so `var_ratios` falls to it.
        """
        return self.score if self.one_pass_score is None else self.one_pass_score


# Colours: a step of lightness for each, so that a grey print tells them apart as well; at least 3:1 on white, and by
# active_learning/report/colours.py on a dark ground. Functions that are often drawn together are far apart.
ACQUISITION_FUNCTIONS: dict[str, AcquisitionFunction] = {
    function.name: function
    for function in (
        AcquisitionFunction(
            name="uniform", code=1, label="Random", colour="#0A0A0A", marker="o",
            values="nothing", needs=frozenset(), score=uniform,
        ),
        AcquisitionFunction(
            name="max_entropy", code=2, label="Max Entropy", colour="#CC8200", marker="s",
            values="entropy, nats", score=max_entropy,
        ),
        AcquisitionFunction(
            name="bald", code=3, label="BALD", colour="#004696", marker="^",
            values="mutual information, nats", score=bald,
        ),
        AcquisitionFunction(
            name="var_ratios", code=4, label="Variation Ratios", colour="#007338", marker="D",
            values="fraction of the passes", score=var_ratios, one_pass_score=var_ratios_mean,
        ),
        AcquisitionFunction(
            name="mean_std", code=5, label="Mean STD", colour="#B45F98", marker="v",
            values="standard deviation of a probability", score=mean_std,
        ),
        AcquisitionFunction(
            name="var_ratios_mean", label="Variation Ratios (mean)", colour="#195C98", marker="P",
            values="probability", score=var_ratios_mean,
        ),
        AcquisitionFunction(
            name="mbr", label="MBR", colour="#681900", marker="X",
            values="minus the expected risk, images", needs=frozenset({"field"}), select=expected_risk, whole_pool=True,
        ),
        AcquisitionFunction(
            name="margin", label="Margin", colour="#C73800", marker="<",
            values="1 - difference of two probabilities", score=margin,
        ),
        AcquisitionFunction(
            name="least_confidence", label="Least Confidence", colour="#5A87B5", marker="p",
            values="probability", score=var_ratios_mean,
        ),
        AcquisitionFunction(
            name="power_bald", label="PowerBALD", colour="#231662", marker=">",
            values="mutual information, nats",
            score=bald, select=power_bald, settings=("coldness",),
        ),
        AcquisitionFunction(
            name="softmax_bald", label="SoftmaxBALD", colour="#823274", marker="h",
            values="mutual information, nats",
            score=bald, select=softmax_bald, settings=("coldness",),
        ),
        AcquisitionFunction(
            name="softrank_bald", label="SoftrankBALD", colour="#561234", marker="d",
            values="mutual information, nats",
            score=bald, select=softrank_bald, settings=("coldness",),
        ),
        AcquisitionFunction(
            name="batch_bald", label="BatchBALD", colour="#074A1D", marker="*",
            values="gain in mutual information, nats", needs=frozenset({"probabilities", "samples"}), select=batch_bald,
        ),
        AcquisitionFunction(
            name="epig", label="EPIG", colour="#8F8F2F", marker="8",
            values="mutual information with a target's label, nats",
            needs=frozenset({"probabilities", "samples", "targets"}), select=epig,
        ),
        AcquisitionFunction(
            name="badge", label="BADGE", colour="#400700", marker="H",
            values="distance of gradients", needs=frozenset({"probabilities", "embeddings"}), select=badge,
        ),
        AcquisitionFunction(
            name="core_set", label="Core-Set", colour="#188181", marker="$C$",
            values="distance of embeddings", needs=frozenset({"embeddings"}), select=core_set,
        ),
    )
}  # fmt: skip


def acquisition_help() -> str:
    """What the command line may ask for, in a line: `0 all five, 1 uniform, ...`."""
    return ", ".join(["0 all five", *_choices()])


def parse_acquisition(value: int | str | Sequence[int | str]) -> tuple[str, ...]:
    """Names of the acquisition functions that a command line or a configuration file asks for.

    Args:
        value: A code, a name, a comma-separated list of both, or a sequence of these. Code 0 stands for every function
            with a code. Capitals and hyphens do not matter.

    Returns:
        Names in `ACQUISITION_FUNCTIONS`, in the order asked for, each once.

    Raises:
        ValueError: If nothing is asked for, or something unknown.

    >>> parse_acquisition("bald,1")
    ('bald', 'uniform')
    >>> parse_acquisition(0)
    ('uniform', 'max_entropy', 'bald', 'var_ratios', 'mean_std')
    """
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    words = [word.strip() for item in items for word in str(item).split(",")] or [""]
    return tuple(dict.fromkeys(name for word in words for name in _names(word)))


def select_top(scores_n: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the `count` highest scores; among equal scores, each is as likely as any other.

    Also where equal scores straddle the boundary, every choice among them has the same probability. One permutation of
    N is drawn from `rng` on every call, whatever the scores.

    Args:
        scores_n: Scores (N,); infinities are allowed.
        count: K, the number of images to acquire.
        rng: The generator that draws the lots.

    Returns:
        Positions into `scores_n` (K,), int64, highest score first, equal scores in random order.

    Raises:
        ValueError: If a score is NaN, or `count` is negative or larger than N.

    >>> select_top(np.array([0.1, 0.9, 0.5]), 2, np.random.default_rng(0))
    array([1, 2])
    """
    assert scores_n.ndim == 1, scores_n.shape
    images = len(scores_n)
    if not 0 <= count <= images:
        raise ValueError(f"cannot select {count} of {images} images: the number must be from 0 to {images}")
    if nans := int(np.isnan(scores_n).sum()):
        raise ValueError(f"{nans} of {images} acquisition scores are NaN: the network's probabilities are not finite")
    shuffled_n = rng.permutation(images)  # (N,)
    ascending_n = np.argsort(scores_n[shuffled_n], kind="stable")  # (N,), equal scores stay in shuffled order
    return shuffled_n[ascending_n[::-1][:count]].astype(np.int64, copy=False)  # (K,)


def _namespace(probs_tnc: Array) -> ModuleType:
    """The array functions for this kind of array, after a check of what every score relies on."""
    xp = array_namespace(probs_tnc)
    assert probs_tnc.ndim == 3, f"expected (T, N, C), got {tuple(probs_tnc.shape)}"
    assert probs_tnc.shape[0] >= 1, "expected at least one pass"
    # half precision resolves a probability near 1 to no better than 0.0005 and would fill the ranking with ties
    assert probs_tnc.dtype in (xp.float32, xp.float64), f"expected float32 or float64, got {probs_tnc.dtype}"
    return xp


def _entropy(probs_xc: Array) -> Array:
    """-sum_c p_c log p_c over the last axis, in nats, with 0 log 0 = 0."""
    # the array standard has no x log x; torch and scipy are imported only once there is something to score
    special = importlib.import_module("torch.special" if is_torch_array(probs_xc) else "scipy.special")
    entropy_x: Array = special.entr(probs_xc).sum(-1)
    return entropy_x


def _names(word: str) -> tuple[str, ...]:
    """The functions that one code or name stands for."""
    codes = {str(function.code): name for name, function in ACQUISITION_FUNCTIONS.items() if function.code is not None}
    key = word.lower().replace("-", "_")
    if key == "0":
        return tuple(codes.values())
    name = codes.get(key, key)
    if name in ACQUISITION_FUNCTIONS:
        return (name,)
    problem = f"unknown acquisition function {word!r}{_hint(key)}" if word else "an acquisition function is missing"
    raise ValueError(f"{problem}; known codes and names: 0 (every code), {', '.join(_choices())}")


def _choices() -> list[str]:
    """Every function, as its code and name or as its name alone."""
    functions = sorted(ACQUISITION_FUNCTIONS.values(), key=lambda function: function.code is None)
    return [function.name if function.code is None else f"{function.code} {function.name}" for function in functions]


def _hint(key: str) -> str:
    """' (did you mean ...?)' if the key is close to a name or to what the paper calls the function, else nothing."""
    names = {function.label.lower().replace(" ", "_"): name for name, function in ACQUISITION_FUNCTIONS.items()}
    names |= {name: name for name in ACQUISITION_FUNCTIONS}
    close = difflib.get_close_matches(key, names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""
