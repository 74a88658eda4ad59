"""The convolutional part of the network, its gradients and the dense part of MC dropout against torch's own."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from active_learning.models.kernels import (
    CLOSED,
    FILTER,
    IMAGES_PER_PART,
    INPUT,
    LANES,
    OUTPUT,
    STRIP,
    TERMS,
    UNITS,
    Convolved,
    Floats,
    Gradients,
    StochasticPasses,
    _in_parts,
    _round,
    convolution_gradients,
    convolve,
)
from tests.conftest import ROOT

Arguments = tuple[Floats, Floats, Floats, Floats, Floats]


def make_arguments(count: int = 3, height: int = 13, width: int = 12, channels: int = 1, seed: int = 0) -> Arguments:
    """Images, and weights and biases of both convolutions.

    What the first convolution puts out is exact in single precision and never 0: all agree on its relus.
    """
    rng = np.random.default_rng(seed)
    shapes = (count, height, width, channels), (32, 4, 4, channels), (32,), (32, 4, 4, 32), (32,)
    scales = 1, 1 / 4, 1 / 4, 1 / 20, 1 / 4
    arrays = [
        (scale * rng.standard_normal(shape)).astype(np.float32) for scale, shape in zip(scales, shapes, strict=True)
    ]
    images, weight1, bias1 = (
        (np.round(parts * array) / parts).astype(np.float32) for parts, array in zip((8, 16, 128), arrays, strict=False)
    )
    return images, weight1, bias1 + np.float32(1 / 256), arrays[3], arrays[4]


def by_torch(arguments: Arguments, found: Convolved | None = None) -> tuple[Tensor, list[Tensor]]:
    """The features (N, P, Q, 32) in double precision, and the leaves that they are made of.

    Given what was `found`, later relus and maxima are decided as there: near a tie, rounding may decide either way.
    """
    leaves = [torch.from_numpy(array).double().requires_grad_() for array in arguments]
    images, weight1, bias1, weight2, bias2 = (x.permute(0, 3, 1, 2) if x.ndim == 4 else x for x in leaves)
    outputs = functional.conv2d(functional.relu(functional.conv2d(images, weight1, bias1)), weight2, bias2)
    if found is None:
        return functional.relu(functional.max_pool2d(outputs, 2)).permute(0, 2, 3, 1), leaves
    outputs = outputs.permute(0, 2, 3, 1)
    n, p, q, o = np.indices(found.features_npqo.shape)
    corners = found.corners_npqo % CLOSED
    at_corners = outputs[n, 2 * p + corners // 2, 2 * q + corners % 2, o]
    return at_corners * torch.from_numpy(found.corners_npqo < CLOSED), leaves


def gradients_of(convolved: Convolved, arguments: Sequence[Floats], gradient: Floats, threads: int = 1) -> Gradients:
    """The gradients by what `make_arguments` returned, or by other arrays in its order."""
    images, weight1, bias1, weight2, _ = arguments
    corners = convolved.corners_npqo
    return convolution_gradients(corners, images, weight1, bias1, weight2, gradient, threads=threads)


def make_gradient(convolved: Convolved, seed: int = 0) -> Floats:
    """A gradient by the features, a quarter of which dropout has dropped."""
    rng = np.random.default_rng(seed)
    shape = convolved.features_npqo.shape
    return np.where(rng.random(shape) < 0.25, 0, rng.standard_normal(shape)).astype(np.float32)


def assert_close(found: npt.NDArray[Any], right: Tensor, *, error: float) -> None:
    """Equal but for `error`, as a fraction of the largest number."""
    right_array = right.detach().numpy()
    np.testing.assert_allclose(found, right_array, rtol=0, atol=error * abs(right_array).max(initial=1e-6))


sizes = given(
    count=st.integers(1, 2 * IMAGES_PER_PART + 3),
    height=st.integers(8, 17),
    width=st.integers(8, 17),
    channels=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    threads=st.integers(1, 3),
)
on_mnist = example(count=128, height=28, width=28, channels=1, seed=0, threads=1)


@settings(max_examples=40, deadline=None)
@sizes
@on_mnist
def test_features_equal_torchs(count: int, height: int, width: int, channels: int, seed: int, threads: int) -> None:
    arguments = make_arguments(count, height, width, channels, seed)
    found = convolve(*arguments, threads=threads)
    assert_close(found.features_npqo, by_torch(arguments)[0], error=5e-6)
    assert not found.corners_npqo.size
    for_gradients = convolve(*arguments, for_gradients=True, threads=threads)
    assert np.array_equal(for_gradients.features_npqo, found.features_npqo)


@settings(max_examples=40, deadline=None)
@sizes
@on_mnist
def test_gradients_equal_torchs(count: int, height: int, width: int, channels: int, seed: int, threads: int) -> None:
    arguments = make_arguments(count, height, width, channels, seed)
    convolved = convolve(*arguments, for_gradients=True, threads=threads)
    gradient = make_gradient(convolved, seed)
    features, (_, *parameters) = by_torch(arguments, convolved)
    rights = torch.autograd.grad(features, parameters, torch.from_numpy(gradient).double())
    found = gradients_of(convolved, arguments, gradient, threads=threads)
    for one, right in zip(found, rights, strict=True):
        assert_close(one, right, error=1e-5)


def test_the_filtering_is_exact() -> None:
    """OUTPUT ((FILTER g) * (INPUT d)) is the correlation of d with g: the coefficients of every product of the two."""
    transform, filters, inputs = (np.array(matrix, float) for matrix in (OUTPUT, FILTER, INPUT))
    found = np.einsum("ye,ek,ed->ykd", transform, filters, inputs)
    expected = np.array([[[d == y + k for d in range(5)] for k in range(4)] for y in range(2)])
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_rounding_is_about_that_of_direct_sums() -> None:
    """The root mean square error is one and a half times to twice as large; how torch sums differs by processor."""
    arguments = make_arguments(count=8, height=28, width=28)
    features, leaves = by_torch(arguments)
    exact = features.detach()
    images, weight1, bias1, weight2, bias2 = (
        x.float().permute(0, 3, 1, 2) if x.ndim == 4 else x.float() for x in leaves
    )
    between = functional.relu(functional.conv2d(images, weight1, bias1))
    direct = functional.relu(functional.max_pool2d(functional.conv2d(between, weight2, bias2), 2)).permute(0, 2, 3, 1)
    errors = [(found - exact).square().mean() for found in (torch.from_numpy(convolve(*arguments)[0]), direct.detach())]
    assert 1 < float((errors[0] / errors[1]).sqrt()) < 2.5


def test_what_bfloat16_can_hold_is_filtered_exactly() -> None:
    """Of small whole numbers nothing is rounded, in either precision."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (20, 17, 18, 2)).astype(np.float32)
    weight1 = np.zeros((32, 4, 4, 2), np.float32)
    weight1.reshape(32, -1)[np.arange(32), np.arange(32)] = 1
    weight2 = 36 * rng.integers(-1, 2, (32, 4, 4, 32)).astype(np.float32)
    biases = np.zeros(32, np.float32), rng.integers(-99, 99, 32).astype(np.float32)
    arguments = images, weight1, biases[0], weight2, biases[1]
    found = [convolve(*arguments, bfloat16=bfloat16, for_gradients=True) for bfloat16 in (False, True)]
    assert np.array_equal(found[1].features_npqo, by_torch(arguments)[0].detach())
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def test_bfloat16_rounds_the_factors_only() -> None:
    arguments = make_arguments(8, 28, 28)
    right = by_torch(arguments)[0].detach().numpy()
    errors = [convolve(*arguments, bfloat16=bfloat16).features_npqo - right for bfloat16 in (False, True)]
    root_mean_square = [np.sqrt((error**2).mean()) / right.std() for error in errors]
    assert root_mean_square[0] < 2e-6
    assert 2e-3 < root_mean_square[1] < 3e-2  # half a unit of its last place is 2e-3


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradients_are_those_of_the_features_that_were_found(bfloat16: bool) -> None:
    """In bfloat16 too, as if no factor had been rounded."""
    arguments = make_arguments(20)
    convolved = convolve(*arguments, for_gradients=True, bfloat16=bfloat16)
    gradient = make_gradient(convolved)
    features, (_, *parameters) = by_torch(arguments, convolved)
    rights = torch.autograd.grad(features, parameters, torch.from_numpy(gradient).double())
    found = gradients_of(convolved, arguments, gradient)
    for one, right in zip(found, rights, strict=True):
        assert_close(one, right, error=1e-5)


def test_neither_batch_nor_threads_change_a_bit() -> None:
    images, *weights = make_arguments(3 * IMAGES_PER_PART + 1)
    whole = convolve(images, *weights, for_gradients=True)
    for n in (0, IMAGES_PER_PART, len(images) - 1):
        alone = convolve(images[n : n + 1], *weights, for_gradients=True)
        assert np.array_equal(alone.features_npqo[0], whole.features_npqo[n])
        assert np.array_equal(alone.corners_npqo[0], whole.corners_npqo[n])
    gradient = make_gradient(whole)
    by_threads = [gradients_of(whole, [images, *weights], gradient, threads=threads) for threads in (1, 3)]
    for one, other in zip(*by_threads, strict=True):
        assert np.array_equal(one, other)


def test_each_feature_is_the_output_at_its_corner() -> None:
    arguments = make_arguments()
    found = convolve(*arguments, for_gradients=True)
    assert_close(found.features_npqo, by_torch(arguments, found)[0], error=5e-6)
    assert set(np.unique(found.corners_npqo)) == {0, 1, 2, 3, CLOSED}
    assert np.array_equal(found.corners_npqo == CLOSED, found.features_npqo == 0)


def test_of_equal_maxima_the_first_has_the_gradient() -> None:
    """Images and weights of zero: all outputs are the bias."""
    images, weight1, bias1, weight2, bias2 = make_arguments()
    found = convolve(0 * images, 0 * weight1, 0 * bias1, 0 * weight2, bias2, for_gradients=True)
    assert np.array_equal(found.corners_npqo, np.broadcast_to(np.where(bias2 > 0, 0, CLOSED), found.corners_npqo.shape))


def test_without_gradients_or_open_relus_nothing_comes_back() -> None:
    images, *weights = make_arguments()
    found = convolve(images, *weights, for_gradients=True)
    gradient = make_gradient(found)
    for convolved, upstream in (
        (found, 0 * gradient),
        (found._replace(corners_npqo=np.full_like(found.corners_npqo, CLOSED)), gradient),
    ):
        gradients = gradients_of(convolved, [images, *weights], upstream)
        assert not any(one.any() for one in gradients)


def test_what_is_not_a_number_is_not_lost() -> None:
    height, width = 10, 12  # even sizes: nothing is left over beside the pooling
    images, *weights = make_arguments(height=height, width=width)
    found = convolve(images, *weights, for_gradients=True)
    gradients = gradients_of(found, [images, *weights], np.full_like(found.features_npqo, np.nan))
    assert all(np.isnan(one).any() for one in gradients)
    for y, x in ((6, 6), (0, 0), (height - 1, width - 1), (height - 1, 0)):
        images = make_arguments(height=height, width=width)[0]
        images[1, y, x] = np.nan
        lost = np.isnan(convolve(images, *weights).features_npqo).any(axis=(1, 2, 3))
        assert lost.tolist() == [False, True, False], (y, x)


def test_images_of_which_nothing_is_left_are_refused() -> None:
    convolve(*make_arguments(height=8, width=8))
    with pytest.raises(ValueError, match=r"^the images are 9x7; the network takes 8x8 at least\.$"):
        convolve(*make_arguments(height=9, width=7))


@pytest.mark.parametrize("for_gradients", [False, True])
def test_of_no_images_there_are_no_features(for_gradients: bool) -> None:
    arguments = make_arguments(0)
    convolved = convolve(*arguments, for_gradients=for_gradients, threads=2)
    assert convolved.features_npqo.shape == (0, 3, 3, 32)
    for gradient in gradients_of(convolved, arguments, convolved.features_npqo):
        assert not gradient.any()


def test_convolutions_refuse_what_does_not_fit() -> None:
    """They read by address, as the passes do."""
    arguments = make_arguments()
    for place in range(1, 5):
        wrong: list[Any] = list(arguments)
        wrong[place] = wrong[place][:-1]
        with pytest.raises(ValueError, match="go together"):
            convolve(*wrong)
    convolved = convolve(*arguments, for_gradients=True)
    gradient = make_gradient(convolved)
    nothing_kept = convolve(*arguments)
    for left, image_count, of_features in ((nothing_kept, 3, 3), (convolved, 2, 3), (convolved, 3, 2)):
        with pytest.raises(ValueError, match="go together"):
            gradients_of(left, [arguments[0][:image_count], *arguments[1:]], gradient[:of_features])
    for place in range(1, 4):
        wrong = list(arguments)
        wrong[place] = wrong[place][:-1]
        with pytest.raises(ValueError, match="go together"):
            gradients_of(convolved, wrong, gradient)


def test_other_numbers_are_converted() -> None:
    arguments = make_arguments()
    doubles: list[Any] = [array.astype(np.float64) for array in arguments]
    images, *weights = doubles
    assert np.array_equal(convolve(images, *weights).features_npqo, convolve(*arguments).features_npqo)


def test_arguments_may_have_any_strides_and_stay_as_they_are() -> None:
    arguments = make_arguments(channels=3)
    strided = [np.asfortranarray(array) for array in arguments]
    for array in strided:
        array.flags.writeable = False
    images, *weights = strided
    right, found = convolve(*arguments, for_gradients=True), convolve(images, *weights, for_gradients=True)
    gradient = make_gradient(right)
    assert np.array_equal(found.features_npqo, right.features_npqo)
    rights = gradients_of(right, arguments, gradient)
    gradients = gradients_of(found, [images, *weights], np.asfortranarray(gradient))
    for one, other in zip(gradients, rights, strict=True):
        assert np.array_equal(one, other)


def make_passes(
    passes: int, features: int, units: int, classes: int, seed: int = 0
) -> tuple[Floats, Floats, Floats, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Weights and biases of both dense layers, the features that each pass drops and the units that it keeps."""
    rng = np.random.default_rng(seed)
    hidden, output = rng.standard_normal((units, features)), rng.standard_normal((classes, units))
    biases = rng.standard_normal(units), rng.standard_normal(classes)
    weights = [array.astype(np.float32) for array in (hidden, biases[0], output, biases[1])]
    dropped, kept = rng.random((passes, features)) < 0.25, rng.random((passes, units)) < 0.5
    return weights[0], weights[1], weights[2], weights[3], dropped, kept


def make_features(count: int, features: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, features)).clip(0).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3 * STRIP + 1),
    features=st.integers(1, 2 * TERMS + 5),
    units=st.integers(1, 20),
    classes=st.integers(2, 14),
    passes=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(count=20, features=3872, units=128, classes=10, passes=2, seed=0)
@example(count=1, features=1, units=1, classes=2, passes=3, seed=2)  # passes that keep no unit
def test_passes_are_the_layers_under_their_masks(
    count: int, features: int, units: int, classes: int, passes: int, seed: int
) -> None:
    weights = make_passes(passes, features, units, classes, seed)
    hidden, hidden_bias, output, output_bias, dropped, kept = (torch.from_numpy(array).double() for array in weights)
    x = make_features(count, features, seed)
    right = torch.stack([
        output @ ((hidden @ ((1 - d) * torch.from_numpy(x)).T + hidden_bias[:, None]).relu() * k[:, None])
        + output_bias[:, None]
        for d, k in zip(dropped, kept, strict=True)
    ])  # fmt: skip
    found = StochasticPasses(*weights).logits(x)
    assert found.shape == (passes, classes, count)
    assert_close(found, right, error=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 3 * STRIP + 1),
    features=st.integers(1, 2 * TERMS + 5),
    units=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
@example(count=20, features=3872, units=128, seed=0)
def test_what_bfloat16_can_hold_is_summed_exactly(count: int, features: int, units: int, seed: int) -> None:
    weights = make_passes(3, features, units, 10, seed)
    for array in weights[:4]:
        array.round(out=array)
    x = np.random.default_rng(seed).integers(0, 4, (count, features)).astype(np.float32)
    full, half = (StochasticPasses(*weights, bfloat16=bfloat16).logits(x) for bfloat16 in (False, True))
    assert np.array_equal(full, half)


def test_passes_in_bfloat16_round_as_torch_does() -> None:
    weights, x = make_passes(3, 300, 20, 10), make_features(40, 300)
    found = StochasticPasses(*weights, bfloat16=True).logits(x)
    for array in (weights[0], x):
        array[...] = torch.from_numpy(array).bfloat16().float().numpy()
    assert_close(found, torch.from_numpy(StochasticPasses(*weights).logits(x)), error=1e-6)


def test_numbers_are_rounded_as_torch_does() -> None:
    """Ties too, and what is no number stays none; below the smallest normal numbers the processor has zeros."""
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)
    bits[:20_000] = bits[:20_000] & 0xFFFF0000 | 0x8000
    numbers = bits.view(np.float32)
    numbers[:4] = np.inf, -np.inf, np.nan, np.finfo(np.float32).max
    numbers = numbers[~(abs(numbers) < 1e-37)]
    found = np.empty(len(numbers), np.uint16)
    _round(found, numbers)
    torch.testing.assert_close(
        torch.from_numpy(found).view(torch.bfloat16).float(),
        torch.from_numpy(numbers).bfloat16().float(),
        atol=0, rtol=0, equal_nan=True,
    )  # fmt: skip


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors of x86 are imitated")
def test_an_older_processor_computes_the_same_bits(tmp_path: Path) -> None:
    """One without AVX-512 and bfloat16 has shorter vectors and emulates what is missing."""
    program = "from tests.models.test_kernels import *; save_computed(sys.argv[1])"
    older = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program, str(tmp_path / "other.npz")]
    subprocess.run(command, env={**os.environ, **older}, check=True, cwd=ROOT)
    save_computed(tmp_path / "this.npz")
    this, other = (np.load(tmp_path / f"{name}.npz") for name in ("this", "other"))
    assert int(other["lanes"]) == 8
    for name in set(this) - {"lanes"}:
        assert np.array_equal(this[name], other[name]), name


def save_computed(path: Path) -> None:
    """Save something of everything that the kernels compute."""
    found: dict[str, npt.NDArray[Any]] = {"lanes": np.array(LANES)}
    arguments, x = make_arguments(20, 20, 20), make_features(50, 300)
    for bfloat16 in (False, True):
        convolved = convolve(*arguments, for_gradients=True, bfloat16=bfloat16)
        gradients = gradients_of(convolved, arguments, make_gradient(convolved))
        logits = StochasticPasses(*make_passes(3, 300, 20, 10), bfloat16=bfloat16).logits(x)
        arrays = {**convolved._asdict(), **gradients._asdict(), "logits": logits}
        found.update({f"{name}-{bfloat16}": array for name, array in arrays.items()})
    found["rounded"] = np.empty(64, np.uint16)
    special = np.array([np.inf, -np.inf, np.nan, 0.1, 1.00390625, 1.01171875, -0.0, 3.4e38], np.float32)
    _round(found["rounded"], np.resize(special, 64))
    np.savez(path, **found)  # type: ignore[arg-type]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_other_images_change_no_bit_of_a_pass(bfloat16: bool) -> None:
    passes = StochasticPasses(*make_passes(2, 300, 20, 10), bfloat16=bfloat16)
    x = make_features(2 * STRIP + 3, 300)
    whole = passes.logits(x)
    for n in (0, STRIP, len(x) - 1):
        assert np.array_equal(passes.logits(x[n : n + 1])[:, :, 0], whole[:, :, n])
    x[STRIP, 7] = np.nan
    lost = np.isnan(passes.logits(x)).any(axis=(0, 1))
    assert lost.tolist() == [n == STRIP for n in range(len(x))]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_unit_that_a_pass_drops_does_not_touch_it(bfloat16: bool) -> None:
    """Not even if it is infinite, for any number of kept units."""
    weights = make_passes(20, 30, 13, 3)
    weights[1][0], weights[5][:, 0] = np.inf, False
    assert {int(kept.sum()) % UNITS for kept in weights[5]} == set(range(UNITS))
    assert np.isfinite(StochasticPasses(*weights, bfloat16=bfloat16).logits(make_features(5, 30))).all()


def test_passes_take_arrays_of_any_kind_and_copy_them() -> None:
    weights, x = make_passes(3, 40, 12, 4), make_features(19, 40)
    right = StochasticPasses(*weights).logits(x)
    others: list[Any] = [np.asfortranarray(array.astype(np.float64)) for array in weights[:4]]
    passes = StochasticPasses(others[0], others[1], others[2], others[3], *weights[4:])
    for array in others:
        array.fill(0)
    strided: Any = np.asfortranarray(x.astype(np.float64))
    strided.flags.writeable = False
    assert np.array_equal(passes.logits(strided), right)
    assert passes.logits(x[:0]).shape == (3, 4, 0)
    aligned = torch.ones(12).numpy()
    copied = StochasticPasses(weights[0], aligned, *weights[2:])
    before = copied.logits(x)
    aligned.fill(0)
    assert np.array_equal(copied.logits(x), before)


def test_passes_refuse_what_does_not_fit() -> None:
    """They read by address: what is not there would end the process."""
    weights = make_passes(2, 30, 13, 3)
    with pytest.raises(ValueError, match=r"^the images have 29 features; the network takes 30\.$"):
        StochasticPasses(*weights).logits(make_features(4, 29))
    for place in range(1, 6):
        wrong: list[Any] = list(weights)
        wrong[place] = wrong[place][..., :-1]
        with pytest.raises(ValueError, match="go together"):
            StochasticPasses(*wrong)


def test_a_share_that_fails_is_told_when_no_other_is_at_work_any_more() -> None:
    computed = []

    def compute(part: slice) -> None:
        if part.start == 0:
            raise MemoryError("no memory")
        time.sleep(0.05)
        computed.append(part.start)

    with pytest.raises(MemoryError, match="no memory"):
        _in_parts(compute, 4 * IMAGES_PER_PART, IMAGES_PER_PART, threads=2)
    assert computed == [IMAGES_PER_PART, 3 * IMAGES_PER_PART]


def run_with_cache(folder: str, before: str = "") -> None:
    """Compute in a process of its own, whose machine code is kept in a folder."""
    cache = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": folder}
    shapes = [array.shape for array in make_arguments()]
    program = f"""{before}
import numpy as np
from active_learning.models.kernels import convolve
print(convolve(*(np.full(shape, 0.01) for shape in {shapes})).features_npqo.sum())
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env={**os.environ, **cache}, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    arrays: list[Any] = [np.full(shape, 0.01) for shape in shapes]
    images, *weights = arrays
    assert float(ended.stdout) == convolve(images, *weights).features_npqo.sum()


def test_where_no_machine_code_can_be_kept_it_is_made_anew(tmp_path: Path) -> None:
    run_with_cache("/dev/null/nowhere")  # as where neither the program's folder nor a home can be written to
    run_with_cache(str(tmp_path), "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))")
    run_with_cache(str(tmp_path))
    kept = list(tmp_path.rglob("*.nbi"))
    assert kept
    for index in kept:
        index.write_bytes(b"")  # as a power cut leaves it
    run_with_cache(str(tmp_path))
