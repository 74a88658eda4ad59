"""The gradients of convolution, pooling and relu against torch's own."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from active_learning.pooled_convolution import IMAGES_PER_PART, pooled_convolution_gradients
from tests.conftest import ROOT

Arrays = list[npt.NDArray[Any]]


def nhwc(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().permute(0, 2, 3, 1).contiguous().numpy()


def make_case(
    count: int = 3,
    height: int = 12,
    width: int = 11,
    filters: int = 5,
    channels: int = 16,
    kernel: int = 4,
    seed: int = 0,
) -> tuple[Arrays, list[Tensor]]:
    """Arguments, and the gradients that torch computes in double precision."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = draw(count, channels, height, width)
    weight, bias = draw(filters, channels, kernel, kernel), draw(filters)
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    convolved = functional.conv2d(functional.relu(leaves[0]), leaves[1], leaves[2])
    pooled, places = functional.max_pool2d(convolved, 2, return_indices=True)
    gradient = draw(*pooled.shape) * (draw(*pooled.shape) > -0.5)
    expected = torch.autograd.grad(functional.relu(pooled), leaves, gradient.double())
    return [nhwc(tensor) for tensor in (functional.relu(x), weight, pooled.float(), places, gradient)], list(expected)


def assert_gradients(arguments: Arrays, expected: list[Tensor], threads: int = 1) -> None:
    for found, right in zip(pooled_convolution_gradients(*arguments, threads=threads), expected, strict=True):
        right_array = nhwc(right) if right.ndim == 4 else right.numpy()
        np.testing.assert_allclose(found, right_array, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 2 * IMAGES_PER_PART + 3),
    height=st.integers(5, 15),
    width=st.integers(5, 15),
    filters=st.integers(1, 9),
    row=st.sampled_from([(16, 4), (32, 2), (64, 1), (32, 4), (64, 3)]),
    seed=st.integers(0, 2**32 - 1),
    threads=st.integers(1, 3),
)
@example(count=128, height=25, width=25, filters=32, row=(32, 4), seed=0, threads=1)  # the network on MNIST
def test_gradients_equal_torchs(
    count: int, height: int, width: int, filters: int, row: tuple[int, int], seed: int, threads: int
) -> None:
    assert_gradients(*make_case(count, height, width, filters, *row, seed=seed), threads)


def test_threads_change_no_bit() -> None:
    arguments, _ = make_case(count=3 * IMAGES_PER_PART + 1)
    one = pooled_convolution_gradients(*arguments, threads=1)
    for found, right in zip(pooled_convolution_gradients(*arguments, threads=3), one, strict=True):
        assert np.array_equal(found, right)


def test_of_equal_maxima_the_one_that_the_pooling_took_has_the_gradient() -> None:
    """Constant images: all four outputs of a window are the same."""
    image, weight = torch.ones(1, 16, 8, 8), torch.ones(2, 16, 4, 4)
    pooled, places = functional.max_pool2d(functional.conv2d(image, weight), 2, return_indices=True)

    def by_image(taken: Tensor) -> npt.NDArray[np.float32]:
        arguments = [nhwc(tensor) for tensor in (image, weight, pooled, taken, torch.ones_like(pooled))]
        return pooled_convolution_gradients(*arguments)[0]

    first, moved = by_image(places), by_image(places + 1)
    assert not np.array_equal(first, moved)
    assert np.array_equal(first[0, :, :-1], moved[0, :, 1:])


def test_without_gradients_or_open_relus_nothing_comes_back() -> None:
    images, weight, pooled, places, gradient = make_case()[0]
    for arguments in ((pooled, places, 0 * gradient), (-abs(pooled), places, gradient)):
        assert not any(found.any() for found in pooled_convolution_gradients(images, weight, *arguments))


def test_a_gradient_that_is_not_a_number_is_not_lost() -> None:
    images, weight, pooled, places, gradient = make_case()[0]
    gradient[:] = np.nan
    found = pooled_convolution_gradients(np.ones_like(images), weight, pooled, places, gradient)
    assert all(np.isnan(one).any() for one in found)


def test_arguments_may_have_any_strides_and_stay_as_they_are() -> None:
    arguments, expected = make_case()
    strided = [np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1) for array in arguments]
    assert not any(array.flags.c_contiguous for array in strided)
    for array in strided:
        array.flags.writeable = False
    assert_gradients(strided, expected)


def test_rows_that_do_not_fill_the_registers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^the kernel's side times the channels is 12: take a multiple of 64\.$"):
        pooled_convolution_gradients(*make_case(channels=3)[0])


def test_where_no_machine_code_can_be_kept_it_is_made_anew() -> None:
    """As where neither the program's folder nor a home can be written to."""
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "/dev/null/nowhere"}
    program = "from tests.test_pooled_convolution import *; assert_gradients(*make_case())"
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **nowhere}, capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
