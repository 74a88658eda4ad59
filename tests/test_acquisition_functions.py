"""Scores against hand-computed values, brute force, scikit-activeml and the properties every score must have."""

import itertools
import math
import statistics
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import acquisition_functions
from acquisition_functions import (
    ACQUISITION_FUNCTIONS,
    AcquisitionFunction,
    Evidence,
    Score,
    acquisition_help,
    bald,
    expected_risk,
    highest_scores,
    margin,
    max_entropy,
    mean_std,
    parse_acquisition,
    select_top,
    uniform,
    var_ratios,
    var_ratios_mean,
)

KINDS: dict[str, Callable[[Any], Any]] = {"numpy": np.asarray, "torch": torch.from_numpy}
CHOICES = "known codes and names: 0 (every code), 1 uniform, 2 max_entropy, 3 bald, 4 var_ratios, 5 mean_std"

SCORED = {name: function for name, function in ACQUISITION_FUNCTIONS.items() if function.score is not None}
every_function = pytest.mark.parametrize("function", SCORED.values(), ids=SCORED)
every_kind = pytest.mark.parametrize("kind", KINDS)


def draw_probs(passes: int, images: int, classes: int, *, seed: int = 0, concentration: float = 1.0) -> Any:
    """Dirichlet probabilities (T, N, C) in float64: no two equal, so that no hard vote is a tie."""
    return np.random.default_rng(seed).dirichlet(np.full(classes, concentration), size=(passes, images))


@st.composite
def probs(draw: st.DrawFn, min_passes: int = 1, max_passes: int = 7) -> Any:
    """Probabilities of either precision, from nearly one-hot to nearly flat, in three memory layouts."""
    shape = draw(st.integers(min_passes, max_passes)), draw(st.integers(1, 9)), draw(st.integers(2, 12))
    probs_tnc = draw_probs(
        *shape, seed=draw(st.integers(0, 2**32 - 1)), concentration=draw(st.sampled_from([0.05, 1.0, 30.0]))
    ).astype(draw(st.sampled_from([np.float32, np.float64])))
    order = draw(st.sampled_from([(0, 1, 2), (1, 0, 2), (2, 1, 0)]))
    return np.ascontiguousarray(probs_tnc.transpose(order)).transpose(np.argsort(order))


def score_of(function: AcquisitionFunction) -> Score:
    assert function.score is not None
    return function.score


def deterministic_score_of(function: AcquisitionFunction) -> Score:
    assert function.deterministic_score is not None
    return function.deterministic_score


def tolerance(probs_tnc: Any) -> float:
    """Rounding of a sum over some hundred numbers of at most log C."""
    return 1e-5 if probs_tnc.dtype == np.float32 else 1e-12


def scored(function: AcquisitionFunction, probs_tnc: Any, kind: str = "numpy") -> Any:
    """Scores (N,) as numpy, computed on the given kind of array."""
    return np.asarray(score_of(function)(KINDS[kind](probs_tnc)))


# two passes over four images: agreed and sure; sure of different classes; agreed that it is open; graded
HAND_TNC = np.array([[[1, 0], [1, 0], [0.5, 0.5], [0.9, 0.1]], [[1, 0], [0, 1], [0.5, 0.5], [0.6, 0.4]]])
LOG2, LOG3, LOG5 = math.log(2), math.log(3), math.log(5)
H_75 = 2 * LOG2 - 0.75 * LOG3
H_90 = LOG2 + LOG5 - 1.8 * LOG3
H_60 = LOG5 - 0.6 * LOG3 - 0.4 * LOG2
HAND_N: dict[str, list[float]] = {
    "uniform": [0, 0, 0, 0],
    "max_entropy": [0, LOG2, LOG2, H_75],
    "bald": [0, LOG2, 0, H_75 - (H_90 + H_60) / 2],
    "var_ratios": [0, 0.5, 0, 0],
    "mean_std": [0, 0.5, 0, 0.15],
    "var_ratios_mean": [0, 0.5, 0.5, 0.25],
    "least_confidence": [0, 0.5, 0.5, 0.25],
    "margin": [0, 1, 1, 0.5],
}
HAND_N |= dict.fromkeys(("power_bald", "softmax_bald", "softrank_bald"), HAND_N["bald"])


@every_kind
@every_function
def test_hand_computed(function: AcquisitionFunction, kind: str) -> None:
    np.testing.assert_allclose(scored(function, HAND_TNC, kind), HAND_N[function.name], rtol=1e-14, atol=1e-15)


@every_kind
def test_hard_votes_of_three_classes(kind: str) -> None:
    votes = [[0, 2], [1, 2], [2, 2], [2, 2]]  # four passes, two images
    probs_tnc = np.eye(3)[votes] * 0.7 + 0.1
    scores_n = scored(ACQUISITION_FUNCTIONS["var_ratios"], probs_tnc, kind)
    assert scores_n.tolist() == [0.5, 0.0]


@every_kind
def test_a_tied_pass_votes_for_the_first_of_its_best_classes(kind: str) -> None:
    probs_tnc = np.array([[[0.4, 0.4, 0.2]], [[0.6, 0.3, 0.1]], [[0.2, 0.4, 0.4]]])  # votes 0, 0, 1
    scores_n = scored(ACQUISITION_FUNCTIONS["var_ratios"], probs_tnc, kind)
    assert scores_n.tolist() == [1 / 3]


def test_entropy_is_that_of_the_mean_not_the_mean_of_the_entropies() -> None:
    assert max_entropy(HAND_TNC)[1] == pytest.approx(LOG2)  # each pass alone has entropy 0


@every_kind
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_ranges_are_reached_by_passes_that_share_out_the_classes(classes: int, kind: str) -> None:
    probs_tnc = np.eye(classes)[:, None, :]  # pass c is sure of class c
    expected = {
        "max_entropy": math.log(classes),
        "bald": math.log(classes),
        "var_ratios": 1 - 1 / classes,
        "mean_std": math.sqrt(classes - 1) / classes,
        "var_ratios_mean": 1 - 1 / classes,
    }
    for name, bound in expected.items():
        assert scored(ACQUISITION_FUNCTIONS[name], probs_tnc, kind) == pytest.approx(bound), name


def brute_force(name: str, passes: list[list[float]]) -> float:
    """One image's score from its (T, C) probabilities, in plain Python."""

    def entropy(ps: list[float]) -> float:
        return math.fsum(-p * math.log(p) for p in ps if p > 0)

    mean = [statistics.fmean(ps) for ps in zip(*passes, strict=True)]
    match name:
        case "max_entropy":
            return entropy(mean)
        case "bald" | "power_bald" | "softmax_bald" | "softrank_bald":
            return entropy(mean) - statistics.fmean(map(entropy, passes))
        case "var_ratios":
            return 1 - Counter(ps.index(max(ps)) for ps in passes).most_common(1)[0][1] / len(passes)
        case "mean_std":
            return statistics.fmean(statistics.pstdev(ps) for ps in zip(*passes, strict=True))
        case "var_ratios_mean" | "least_confidence":
            return 1 - max(mean)
        case "margin":
            first, second = sorted(mean, reverse=True)[:2]
            return 1 - (first - second)
    raise ValueError(name)


@every_kind
@pytest.mark.parametrize("name", [name for name in SCORED if name != "uniform"])
@settings(deadline=None, max_examples=25)
@given(probs_tnc=probs())
def test_brute_force_agrees(probs_tnc: Any, name: str, kind: str) -> None:
    expected_n = [brute_force(name, passes) for passes in probs_tnc.astype(float).swapaxes(0, 1).tolist()]
    np.testing.assert_allclose(
        scored(ACQUISITION_FUNCTIONS[name], probs_tnc, kind), expected_n, rtol=0, atol=tolerance(probs_tnc)
    )


def test_scikit_activeml_agrees() -> None:
    oracle = pytest.importorskip("skactiveml.pool", reason="scikit-activeml, a development dependency, is the oracle")
    probs_tnc = draw_probs(20, 60, 10, concentration=0.3)
    mean_nc = probs_tnc.mean(axis=0)
    # it clips probabilities at 1e-7, in place: hence the copies and the tolerance
    expected = {
        "max_entropy": oracle.uncertainty_scores(mean_nc, method="entropy"),
        "bald": oracle.batch_bald(probs_tnc.copy(), batch_size=1)[0],
        "var_ratios": oracle.variation_ratios(probs_tnc.argmax(axis=-1).T),
        "var_ratios_mean": oracle.uncertainty_scores(mean_nc, method="least_confident"),
        "margin": oracle.uncertainty_scores(mean_nc, method="margin_sampling"),
    }
    for name, expected_n in expected.items():
        np.testing.assert_allclose(
            scored(ACQUISITION_FUNCTIONS[name], probs_tnc), expected_n, rtol=0, atol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(bald(probs_tnc), oracle.average_kl_divergence(probs_tnc.copy()), rtol=0, atol=1e-5)


@every_kind
@every_function
@settings(deadline=None, max_examples=25)
@given(probs_tnc=probs(), seed=st.integers(0, 2**32 - 1))
def test_order_of_passes_classes_and_images(
    probs_tnc: Any, seed: int, function: AcquisitionFunction, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    passes, images, classes = (rng.permutation(size) for size in probs_tnc.shape)
    scores_n = scored(function, probs_tnc, kind)
    for what, permuted_tnc, expected_n in (
        ("passes", probs_tnc[passes], scores_n),
        ("classes", probs_tnc[:, :, classes], scores_n),
        ("images", probs_tnc[:, images], scores_n[images]),
    ):
        np.testing.assert_allclose(
            scored(function, permuted_tnc, kind), expected_n, rtol=0, atol=tolerance(probs_tnc), err_msg=what
        )


@every_kind
@settings(deadline=None, max_examples=40)
@given(probs_tnc=probs())
def test_bald_lies_between_zero_and_the_entropy(probs_tnc: Any, kind: str) -> None:
    bald_n, entropy_n = (scored(ACQUISITION_FUNCTIONS[name], probs_tnc, kind) for name in ("bald", "max_entropy"))
    slack = tolerance(probs_tnc)
    assert (bald_n >= 0).all()
    assert (bald_n <= entropy_n + slack).all()
    assert (entropy_n <= math.log(probs_tnc.shape[2]) + slack).all()


@every_kind
@settings(deadline=None, max_examples=40)
@given(probs_tnc=probs())
def test_variation_ratios_and_mean_std_stay_in_their_ranges(probs_tnc: Any, kind: str) -> None:
    classes, slack = probs_tnc.shape[2], tolerance(probs_tnc)
    for name, bound in (
        ("var_ratios", 1 - 1 / classes),
        ("var_ratios_mean", 1 - 1 / classes),
        ("margin", 1),
        ("mean_std", math.sqrt(classes - 1) / classes),
    ):
        scores_n = scored(ACQUISITION_FUNCTIONS[name], probs_tnc, kind)
        assert ((scores_n >= -slack) & (scores_n <= bound + slack)).all(), name


@every_kind
@pytest.mark.parametrize("name", ["bald", "mean_std", "var_ratios"])
@settings(deadline=None, max_examples=40)
@given(probs_tnc=probs(max_passes=1))
def test_one_pass_scores_exactly_zero(probs_tnc: Any, name: str, kind: str) -> None:
    assert (scored(ACQUISITION_FUNCTIONS[name], probs_tnc, kind) == 0).all()


@every_kind
def test_bald_of_passes_that_agree_is_never_negative(kind: str) -> None:
    probs_tnc = np.repeat(draw_probs(1, 5000, 10).astype(np.float32), 7, axis=0)
    scores_n = scored(ACQUISITION_FUNCTIONS["bald"], probs_tnc, kind)
    assert scores_n.min() == 0
    assert scores_n.max() < 1e-6


@every_kind
@settings(deadline=None, max_examples=25)
@given(probs_tnc=probs(min_passes=2))
def test_disagreeing_passes_have_positive_mean_std(probs_tnc: Any, kind: str) -> None:
    disagree_n = np.ptp(probs_tnc, axis=0).max(axis=-1) > 1e-3
    assert (scored(ACQUISITION_FUNCTIONS["mean_std"], probs_tnc, kind)[disagree_n] > 0).all()


@every_kind
@every_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("passes", [1, 3, 100])
def test_one_hot_probabilities_stay_finite(function: AcquisitionFunction, kind: str, dtype: Any, passes: int) -> None:
    votes = np.random.default_rng(0).integers(10, size=(passes, 50))
    probs_tnc = np.eye(10, dtype=dtype)[votes]
    scores_n = scored(function, probs_tnc, kind)
    assert np.isfinite(scores_n).all()
    assert (scores_n >= -1e-6).all()


@every_kind
@every_function
def test_a_nan_probability_reaches_the_score_of_its_image_alone(function: AcquisitionFunction, kind: str) -> None:
    for passes in (1, 4):
        probs_tnc = draw_probs(passes, 3, 5)
        probs_tnc[-1, 1, 2] = np.nan
        expected_n = [False, bool(function.needs), False]
        assert np.isnan(scored(function, probs_tnc, kind)).tolist() == expected_n


@every_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_agree(function: AcquisitionFunction, dtype: Any) -> None:
    probs_tnc = draw_probs(100, 50, 10, concentration=0.3).astype(dtype)
    from_numpy_n, from_torch_n = (scored(function, probs_tnc, kind) for kind in KINDS)
    np.testing.assert_allclose(from_numpy_n, from_torch_n, rtol=0, atol=tolerance(probs_tnc))


@every_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kind_dtype_and_shape_of_the_scores(function: AcquisitionFunction, dtype: Any) -> None:
    probs_tnc = draw_probs(3, 4, 5).astype(dtype)
    as_tensor = torch.from_numpy(probs_tnc)
    for score in (score_of(function), deterministic_score_of(function)):
        scores_n = score(probs_tnc)
        tensor_n = score(as_tensor)
        assert isinstance(scores_n, np.ndarray)
        assert isinstance(tensor_n, torch.Tensor)
        assert scores_n.dtype == dtype
        assert tensor_n.dtype == as_tensor.dtype
        assert tensor_n.device == as_tensor.device
        assert scores_n.shape == tuple(tensor_n.shape) == (4,)


@every_kind
@every_function
def test_inputs_are_not_written_to(function: AcquisitionFunction, kind: str) -> None:
    probs_tnc = draw_probs(4, 6, 3)
    before_tnc = probs_tnc.copy()
    score_of(function)(KINDS[kind](probs_tnc))
    np.testing.assert_array_equal(probs_tnc, before_tnc)


@every_function
def test_read_only_arrays_are_scored_without_a_copy(function: AcquisitionFunction) -> None:
    probs_tnc = draw_probs(50, 400, 10).astype(np.float32)
    probs_tnc.flags.writeable = False
    score_of(function)(probs_tnc)  # imports and caches are not the score's memory
    tracemalloc.start()
    score_of(function)(probs_tnc)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * probs_tnc.nbytes  # one temporary array of that size at the most, so no copy beside it


@every_function
def test_tensors_never_leave_torch(function: AcquisitionFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the tensor was copied or handed to numpy")

    tensor_tnc = torch.from_numpy(draw_probs(4, 6, 3))
    with monkeypatch.context() as patch:
        for method in ("__array__", "numpy", "tolist", "clone", "cpu"):
            patch.setattr(torch.Tensor, method, refuse)
        score_of(function)(tensor_tnc)


@every_kind
@every_function
def test_blocks_of_images_score_like_the_whole(function: AcquisitionFunction, kind: str) -> None:
    probs_tnc = draw_probs(20, 103, 10).astype(np.float32)
    blocks = [scored(function, probs_tnc[:, start : start + 25], kind) for start in range(0, 103, 25)]
    np.testing.assert_allclose(np.concatenate(blocks), scored(function, probs_tnc, kind), rtol=0, atol=1e-6)


@every_kind
@every_function
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((4, 3), 1 / 3), r"expected \(T, N, C\), got \(4, 3\)"),
        (np.empty((0, 4, 3)), "expected at least one pass"),
        (np.full((2, 4, 2), 0.5, dtype=np.float16), "expected float32 or float64, got .*float16"),
        (np.ones((2, 4, 1), dtype=np.int64), "expected float32 or float64, got .*int64"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(
    function: AcquisitionFunction, kind: str, wrong: Any, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        score_of(function)(KINDS[kind](wrong))


def test_registry() -> None:
    assert [(f.name, f.code, f.label) for f in ACQUISITION_FUNCTIONS.values()] == [
        ("uniform", 1, "Random"),
        ("max_entropy", 2, "Max Entropy"),
        ("bald", 3, "BALD"),
        ("var_ratios", 4, "Variation Ratios"),
        ("mean_std", 5, "Mean STD"),
        ("var_ratios_mean", None, "Variation Ratios (mean)"),
        ("mbr", None, "MBR"),
        ("margin", None, "Margin"),
        ("least_confidence", None, "Least Confidence"),
        ("power_bald", None, "PowerBALD"),
        ("softmax_bald", None, "SoftmaxBALD"),
        ("softrank_bald", None, "SoftrankBALD"),
        ("batch_bald", None, "BatchBALD"),
        ("epig", None, "EPIG"),
        ("badge", None, "BADGE"),
        ("core_set", None, "Core-Set"),
    ]
    assert all(name == function.name for name, function in ACQUISITION_FUNCTIONS.items())
    samples = {"probabilities", "samples"}
    assert {f.name: f.needs for f in ACQUISITION_FUNCTIONS.values() if f.needs != {"probabilities"}} == {
        "uniform": frozenset(),
        "mbr": {"field"},
        "batch_bald": samples,
        "epig": {*samples, "targets"},
        "badge": {"probabilities", "embeddings"},
        "core_set": {"embeddings"},
    }
    assert {f.name: f.score for f in ACQUISITION_FUNCTIONS.values() if f.score is not None} == {
        "uniform": uniform,
        "max_entropy": max_entropy,
        "bald": bald,
        "var_ratios": var_ratios,
        "mean_std": mean_std,
        "var_ratios_mean": var_ratios_mean,
        "margin": margin,
        "least_confidence": var_ratios_mean,
        "power_bald": bald,
        "softmax_bald": bald,
        "softrank_bald": bald,
    }
    assert all(f.score is not None or f.select is not highest_scores for f in ACQUISITION_FUNCTIONS.values())


@pytest.mark.parametrize("of", ["name", "label", "colour", "marker"])
def test_no_two_functions_share_what_tells_them_apart(of: str) -> None:
    values = [getattr(function, of) for function in ACQUISITION_FUNCTIONS.values()]
    assert len(set(values)) == len(values)


def test_codes_are_those_of_the_papers_five_and_their_help_is_made_from_the_registry() -> None:
    assert [f.code for f in ACQUISITION_FUNCTIONS.values() if f.code is not None] == [1, 2, 3, 4, 5]
    assert acquisition_help() == (
        "0 all five, 1 uniform, 2 max_entropy, 3 bald, 4 var_ratios, 5 mean_std, var_ratios_mean, mbr, "
        "margin, least_confidence, power_bald, softmax_bald, softrank_bald, batch_bald, epig, badge, core_set"
    )


def test_scores_are_picked_from_the_highest_and_told() -> None:
    evidence = Evidence(count=4, scores_n=np.array([0.2, 0.9, 0.1, 0.5]))
    picks = highest_scores(evidence, 2, np.random.default_rng(0))
    assert (picks.positions_k.tolist(), picks.values_k.tolist()) == ([1, 3], [0.9, 0.5])


def test_a_field_is_asked_for_its_least_expected_risk() -> None:
    class Field:
        def least_expected_risk(self, count: int) -> Any:
            return np.array([3, 0])[:count], np.array([1.5, 2.5])[:count]

    picks = expected_risk(Evidence(count=4, field=Field()), 2, np.random.default_rng(0))
    assert (picks.positions_k.tolist(), picks.values_k.tolist()) == ([3, 0], [-1.5, -2.5])


def test_registry_entries_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ACQUISITION_FUNCTIONS["bald"].code = 7  # type: ignore[misc]


def test_deterministic_scores() -> None:
    others = {name: f for name, f in SCORED.items() if name != "var_ratios"}
    assert all(function.deterministic_score is function.score for function in others.values())
    one_pass_tnc = np.array([[[0.9, 0.1], [0.6, 0.4]]])
    scores_n = deterministic_score_of(ACQUISITION_FUNCTIONS["var_ratios"])(one_pass_tnc)
    np.testing.assert_allclose(scores_n, [0.1, 0.4])


def test_importing_the_registry_is_light() -> None:
    heavy = ("torch", "scipy", "sklearn", "modAL", "skorch", "load_data", "cnn_model", "active_learning")
    program = f"import sys, acquisition_functions; print(*sorted(set({heavy}) & set(sys.modules)))"
    folder = Path(acquisition_functions.__file__).parent
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout == "\n"


CODED = ("uniform", "max_entropy", "bald", "var_ratios", "mean_std")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (0, CODED),
        ("0", CODED),
        (3, ("bald",)),
        ("3", ("bald",)),
        ("mean_std", ("mean_std",)),
        ("var_ratios_mean", ("var_ratios_mean",)),
        ("bald,1", ("bald", "uniform")),
        (" BALD , var-ratios ", ("bald", "var_ratios")),
        ([5, "bald", "1"], ("mean_std", "bald", "uniform")),
        (("4,2", 4, "max_entropy"), ("var_ratios", "max_entropy")),
        (["bald", 0], ("bald", "uniform", "max_entropy", "var_ratios", "mean_std")),
    ],
)
def test_parse(value: Any, names: tuple[str, ...]) -> None:
    assert parse_acquisition(value) == names


@every_function
def test_every_function_is_found_by_its_name_and_code(function: AcquisitionFunction) -> None:
    assert parse_acquisition(function.name) == (function.name,)
    if function.code is not None:
        assert parse_acquisition(function.code) == (function.name,)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (6, "unknown acquisition function '6'"),
        (-1, "unknown acquisition function '-1'"),
        (True, "unknown acquisition function 'True'"),
        (1.5, "unknown acquisition function '1.5'"),
        ("coreset", "unknown acquisition function 'coreset' (did you mean 'core_set'?)"),
        ("1,bold", "unknown acquisition function 'bold' (did you mean 'bald'?)"),
        (["entropy"], "unknown acquisition function 'entropy' (did you mean 'max_entropy'?)"),
        ("random", "unknown acquisition function 'random' (did you mean 'uniform'?)"),
        ("Variation-Ratios", "unknown acquisition function 'Variation-Ratios' (did you mean 'var_ratios'?)"),
        ("", "an acquisition function is missing"),
        ("bald,", "an acquisition function is missing"),
        ([], "an acquisition function is missing"),
    ],
)
def test_parse_refuses(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="acquisition function") as error:
        parse_acquisition(value)
    assert str(error.value).startswith(f"{problem}; {CHOICES}, var_ratios_mean, mbr, margin, ")


scores_with_ties = st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf]), max_size=12)


@settings(deadline=None, max_examples=100)
@given(scores=scores_with_ties, data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_the_highest_scores_come_first(scores: list[float], data: st.DataObject, seed: int) -> None:
    scores_n = np.array(scores, dtype=float)
    scores_n.flags.writeable = False
    count = data.draw(st.integers(0, len(scores)))
    positions_k = select_top(scores_n, count, np.random.default_rng(seed))
    assert positions_k.dtype == np.int64
    assert positions_k.shape == (count,) == (len(set(positions_k.tolist())),)
    assert scores_n[positions_k].tolist() == sorted(scores, reverse=True)[:count]


@pytest.mark.parametrize(
    ("scores", "count", "winner", "tied"),
    [
        ([0, 0, 0, 0], 2, [], [0, 1, 2, 3]),  # random acquisition
        ([1, 5, 1, 0, 1, 1], 3, [1], [0, 2, 4, 5]),  # four equal scores for two places
        ([3, 3, 3, 1], 3, [], [0, 1, 2]),  # all taken: their order is random
    ],
)
def test_ties_are_broken_uniformly(scores: list[float], count: int, winner: list[int], tied: list[int]) -> None:
    rng = np.random.default_rng(369)
    scores_n = np.array(scores, dtype=float)
    drawn = Counter(tuple(select_top(scores_n, count, rng).tolist()) for _ in range(4000))
    outcomes = [(*winner, *rest) for rest in itertools.permutations(tied, count - len(winner))]
    assert set(drawn) == set(outcomes)
    assert stats.chisquare([drawn[outcome] for outcome in outcomes]).pvalue > 0.01


def test_selection_depends_on_the_generator_alone() -> None:
    scores_n = np.zeros(1000)
    first, again, other = (select_top(scores_n, 10, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_generator_moves_on_alike_whatever_the_scores() -> None:
    tied, distinct = np.random.default_rng(1), np.random.default_rng(1)
    select_top(np.zeros(50), 3, tied)
    select_top(np.arange(50.0), 40, distinct)
    assert tied.random() == distinct.random()


@pytest.mark.parametrize(
    ("scores", "count", "message"),
    [
        (
            [0.1, math.nan, 0.3, math.nan],
            1,
            "2 of 4 acquisition scores are NaN: the network's probabilities are not finite",
        ),
        ([0.1, 0.2], 3, "cannot select 3 of 2 images: the number must be from 0 to 2"),
        ([0.1, 0.2], -1, "cannot select -1 of 2 images: the number must be from 0 to 2"),
    ],
)
def test_selection_refuses(scores: list[float], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=r"images|NaN") as error:
        select_top(np.array(scores), count, np.random.default_rng(0))
    assert str(error.value) == message
