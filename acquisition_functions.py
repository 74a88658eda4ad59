"""Acquisition functions: which images of the pool should be labelled next?

A learner says what it knows of some candidates (`Evidence`), and an acquisition function picks a batch of them
(`Picks`). It sees the candidates only and returns positions among them. Most functions have a score: one number an
image from the class probabilities of T MC-dropout passes, of which the highest are picked, by lot among equals. Others
pick a batch as a whole.

A new acquisition function is one function and one line in `ACQUISITION_FUNCTIONS`: the command line and its help, file
names, colours, the contract tests and the report follow from there.

Dimension key: T passes, N images, C classes, K batch (the images acquired in one round). `probs_tnc` has shape
(T, N, C), and p_tn stands for its C probabilities in pass t for image n, p_n for their mean over the passes.

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
from collections.abc import Sequence
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


Need = Literal["probabilities", "field"]
"""What a function may ask of a learner, each a part of `Evidence`."""


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
        probs_tnc: Class probabilities (T, N, C), float32, where it has none and needs probabilities: pass t is one
            posterior sample, applied to every candidate.
        field: A field over the candidates, where it needs one.
    """

    count: int
    scores_n: NDArray[np.float64] | None = None
    probs_tnc: NDArray[np.float32] | None = None
    field: RiskField | None = None


class Picks(NamedTuple):
    """The candidates that were picked, in order of choice.

    Attributes:
        positions_k: Positions among the candidates (K,), each once.
        values_k: What each was picked for (K,), high where a label helps; in the unit of the function.
    """

    positions_k: NDArray[np.int64]
    values_k: NDArray[np.float64]


class Select(Protocol):
    """A choice of a batch: the same evidence, number and state of the generator give the same picks."""

    def __call__(self, evidence: Evidence, count: int, rng: np.random.Generator, /) -> Picks:
        """Pick `count` of the candidates."""
        ...


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


@dataclass(frozen=True, kw_only=True)
class AcquisitionFunction:
    """One entry of the registry.

    Attributes:
        name: What the command line, the file names and the configurations call it.
        label: What figures and tables call it.
        colour: Of its curves; no two functions share one.
        marker: Of its points, as matplotlib names them; no two functions share one.
        values: What `Picks.values_k` are, with their unit.
        needs: What it asks of a learner.
        code: Its number on the command line: those of the paper's five, and no others.
        score: Its score of MC-dropout passes, if it has one: the whole pool can then be scored block by block.
        one_pass_score: The score of the single pass of a deterministic network, where `score` has no meaning there.
        select: How it picks a batch.
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
    whole_pool: bool = False

    @property
    def deterministic_score(self) -> Score | None:
        """The score for a deterministic network: `one_pass_score`, or `score` where there is none.

        BALD and Mean STD stay as they are: exactly 0 for every image, as in experiment 2 of Gal et al., which makes
        their deterministic arms acquire at random. Hard votes of one pass would be 0 too, but the paper's formula of
        the variation ratios, 1 - max_c p_nc, keeps its meaning there, so `var_ratios` falls to it.
        """
        return self.score if self.one_pass_score is None else self.one_pass_score


# Colours: Okabe and Ito's palette, told apart with every common colour vision.
ACQUISITION_FUNCTIONS: dict[str, AcquisitionFunction] = {
    function.name: function
    for function in (
        AcquisitionFunction(
            name="uniform", code=1, label="Random", colour="#000000", marker="o",
            values="nothing", needs=frozenset(), score=uniform,
        ),
        AcquisitionFunction(
            name="max_entropy", code=2, label="Max Entropy", colour="#E69F00", marker="s",
            values="entropy, nats", score=max_entropy,
        ),
        AcquisitionFunction(
            name="bald", code=3, label="BALD", colour="#0072B2", marker="^",
            values="mutual information, nats", score=bald,
        ),
        AcquisitionFunction(
            name="var_ratios", code=4, label="Variation Ratios", colour="#009E73", marker="D",
            values="fraction of the passes", score=var_ratios, one_pass_score=var_ratios_mean,
        ),
        AcquisitionFunction(
            name="mean_std", code=5, label="Mean STD", colour="#CC79A7", marker="v",
            values="standard deviation of a probability", score=mean_std,
        ),
        AcquisitionFunction(
            name="var_ratios_mean", label="Variation Ratios (mean)", colour="#56B4E9", marker="P",
            values="probability", score=var_ratios_mean,
        ),
        AcquisitionFunction(
            name="mbr", label="MBR", colour="#7F7F7F", marker="X",
            values="minus the expected risk, images", needs=frozenset({"field"}), select=expected_risk, whole_pool=True,
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
