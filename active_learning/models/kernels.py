"""The network on a CPU, in fewer operations and nearer to the processor's peak than a library takes it.

The convolutional part, relu(convolution) - convolution - 2x2 max pooling - relu, with 32 filters of 4x4 each:

- The second convolution is Winograd's minimal filtering (Lavin and Gray 2016) on tiles that are the pooling's windows:
  with the matrices below, the four outputs of a window under the filters g and the 5x5 inputs d are

      OUTPUT [ sum over channels of (FILTER g FILTER^T) * (INPUT d INPUT^T) ] OUTPUT^T,

  25 products in place of 64, and nothing but their maximum is stored. Its root mean square error is one and a
  half times to twice that of direct sums in float32.
- The pooling hands each gradient on to one of four places, and the relu and the dropout behind it stop a part of them:
  less than a fifth of the second convolution's outputs have a gradient. A library multiplies the zeros too; here the
  others are added up one by one. A gradient g at the output (y, x) of filter o is, for each row r of the kernel, a
  scaled row in two sums:

      gradient by the image [y + r, x : x + 4, :]  +=  g * weight[o, r, :, :]
      gradient by the weight [o, r, :, :]          +=  g * image[y + r, x : x + 4, :]

The dense part of MC dropout: a pass subtracts the features that it drops, from the hidden units that it keeps. The
features are read where they are, in strips of STRIP images side by side; a library needs a matrix of those dropped.

In bfloat16 the factors of two products are rounded to it, those of the tiles and those of the hidden layer, which are
nearly all; they are multiplied and added in pairs, and every sum is in single precision. (After the filtering's maps,
rounding costs about five times the error of rounded direct sums.) Everything else, the gradients too, is as in
float32. A processor without the instructions emulates them, in about twice float32's time. Wherever products and sums
are rounded once (FMA) the bits are the same, whatever the instructions and the length of the vectors, but for numbers
below 1e-38, which the instructions take for zeros.

Each image is computed by itself: batches, blocks and threads change no bit of its activations.

All of it is in one file, because numba keeps machine code until the file of a compiled function changes.

Dimensions: N images, H and W the height and width between the convolutions, P and Q after the pooling; O filters;
E the 25 products of a tile; L = 4 * O numbers, a row of a kernel. In the dense part S strips of I images, F features,
K hidden units, D features that a pass drops, C classes; U units that are summed at once, in G groups.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial, wraps
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

FILTERS = 32
KERNEL = 4
POOLING = 2

TILE = POOLING + KERNEL - 1
PRODUCTS = TILE * TILE
CORNERS = POOLING * POOLING
ROW = KERNEL * FILTERS

CLOSED = CORNERS
"""What stands in place of a corner where relu puts out zero: no gradient comes back."""

# Of the polynomials' values at 0, 1, -1, 2 and infinity.
INPUT = ((2, -1, -2, 1, 0), (0, -2, -1, 1, 0), (0, 2, -3, 1, 0), (0, -1, 0, 1, 0), (0, 2, -1, -2, 1))
FILTER = (
    (1 / 2, 0, 0, 0),
    (-1 / 2, -1 / 2, -1 / 2, -1 / 2),
    (-1 / 6, 1 / 6, -1 / 6, 1 / 6),
    (1 / 6, 1 / 3, 2 / 3, 4 / 3),
    (0, 0, 0, 1),
)
OUTPUT = ((1, 1, 1, 1, 0), (0, 1, -1, 2, 1))
FILTER_BOTH_WAYS = np.kron(FILTER, FILTER)

IMAGES_PER_PART = 16
"""Images whose gradients are summed at a time: a fixed number, so that the threads change no rounding."""

_, _, _PROCESSOR = cpu_target.target_context.codegen().magic_tuple()  # what numba compiles for

LANES = 16 if "+avx512f" in _PROCESSOR else 8
"""Numbers of a vector; where the registers are shorter, the compiler takes several."""

BFLOAT16 = "+avx512bf16" in _PROCESSOR
"""Whether the processor has the instructions for bfloat16 that are used here; elsewhere they are emulated."""

PIXELS = LANES // 4
"""Pixels or tiles that are multiplied at once: their sums over all filters take eight vector registers."""

MANY_TILES = 2 * PIXELS if LANES == 16 else PIXELS
"""Tiles that are multiplied at once as long as so many are left: their sums take half of the vector registers."""

TILE_ROWS = 4
"""Rows of tiles that are transformed and multiplied together: they stay in the second cache."""

GRADIENT_ROWS = 3
"""Pooled rows after which the weight's gradient turns to the next filter: their images stay in the first cache."""

STRIP = 2 * LANES
"""Images side by side in the dense part."""

UNITS = 6
"""Hidden units that are summed at once for a strip: the sums and what is read take 15 vector registers."""

TERMS = 128
"""Features after which the sums turn to the next units: those of a strip stay in the first cache."""

CACHE_LINE = 64  # bytes

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]  # the bits of numbers in bfloat16


class Convolved(NamedTuple):
    """What the forward computation leaves; the corners are for the gradients, and empty if none are wanted.

    In memory the features of an image are filter after filter, as torch's layers take them, if gradients are wanted,
    and else pixel after pixel, as `StochasticPasses` does.
    """

    features_npqo: Floats
    corners_npqo: npt.NDArray[np.uint8]
    """Which corner of its window each maximum is: 0 and 1 above, 2 and 3 below, CLOSED where relu puts out zero."""


class Gradients(NamedTuple):
    """By the parameters of both convolutions."""

    weight1_okkc: Floats
    bias1_o: Floats
    weight2_okko: Floats
    bias2_o: Floats


def convolve(
    images_nhwc: Floats,
    weight1_okkc: Floats,
    bias1_o: Floats,
    weight2_okko: Floats,
    bias2_o: Floats,
    *,
    for_gradients: bool = False,
    bfloat16: bool = False,
    threads: int = 1,
) -> Convolved:
    """Return relu(max_pool(convolution(relu(convolution(images))))).

    Args:
        images_nhwc: images, with any number of channels.
        weight1_okkc: the first convolution's weight, (32, 4, 4, channels).
        bias1_o: its bias.
        weight2_okko: the second convolution's weight, (32, 4, 4, 32).
        bias2_o: its bias.
        for_gradients: keep what `convolution_gradients` needs.
        bfloat16: multiply the second convolution's transformed inputs and weights in bfloat16.
        threads: threads that compute; they change nothing in the result.

    Raises:
        ValueError: for images below 8x8, of which nothing is left to pool, or parameters of other shapes.
    """
    count, image_height, image_width, channels = images_nhwc.shape
    first, second = (FILTERS, KERNEL, KERNEL, channels), (FILTERS, KERNEL, KERNEL, FILTERS)
    _check_shapes((weight1_okkc, bias1_o, weight2_okko, bias2_o), (first, (FILTERS,), second, (FILTERS,)))
    if min(image_height, image_width) < 2 * KERNEL + POOLING - 2:
        raise ValueError(f"the images are {image_height}x{image_width}; the network takes 8x8 at least.")
    height, width = image_height - KERNEL + 1, image_width - KERNEL + 1
    pooled = (count, (height - KERNEL + 1) // POOLING, (width - KERNEL + 1) // POOLING, FILTERS)
    kept = count if for_gradients else 0
    features, corners = _empty((count - kept, *pooled[1:])), _empty((kept, *pooled[1:]), np.uint8)
    by_filter = _empty((kept, FILTERS, math.prod(pooled[1:3])))
    images_nhw = _float32(images_nhwc).reshape(count, image_height, image_width * channels)
    weight1_kio = _first_weight(weight1_okkc)
    weight2_koo = weight2_okko.transpose(1, 2, 3, 0).reshape(KERNEL**2, FILTERS**2)
    weight2_eoo = (FILTER_BOTH_WAYS @ weight2_koo).reshape(PRODUCTS, FILTERS, FILTERS)
    factors = _in_pairs(weight2_eoo) if bfloat16 else _float32(weight2_eoo)
    weights = weight1_kio, _float32(bias1_o), factors, _float32(bias2_o)

    def compute(few: slice) -> None:
        _convolve_part(features[few], by_filter[few], corners[few], images_nhw[few], *weights)

    _in_parts(compute, count, max(1, -(-count // threads)), threads)
    if for_gradients:
        features = by_filter.reshape(count, FILTERS, *pooled[1:3]).transpose(0, 2, 3, 1)
    return Convolved(features, corners)


def convolution_gradients(
    corners_npqo: npt.NDArray[np.uint8],
    images_nhwc: Floats,
    weight1_okkc: Floats,
    bias1_o: Floats,
    weight2_okko: Floats,
    gradient_npqo: Floats,
    *,
    threads: int = 1,
) -> Gradients:
    """Return the gradients by weights and biases.

    Args:
        corners_npqo: as `convolve` returned them for gradients.
        images_nhwc: the images.
        weight1_okkc: the first convolution's weight; its output is computed again, faster than it is kept.
        bias1_o: its bias.
        weight2_okko: the second convolution's weight.
        gradient_npqo: the gradient by the features.
        threads: threads that compute; they change nothing in the result.

    Raises:
        ValueError: for arrays whose shapes do not go together, as when nothing was kept for gradients.
    """
    count, height, width, channels = images_nhwc.shape
    inner = height - KERNEL + 1, width - KERNEL + 1
    pooled = (count, *((side - KERNEL + 1) // POOLING for side in inner), FILTERS)
    found = corners_npqo, gradient_npqo, weight1_okkc, bias1_o, weight2_okko
    first, second = (FILTERS, KERNEL, KERNEL, channels), (FILTERS, KERNEL, KERNEL, FILTERS)
    _check_shapes(found, (pooled, pooled, first, (FILTERS,), second))
    weight1_kio = _first_weight(weight1_okkc)
    weights = weight1_kio, _float32(bias1_o), _float32(weight2_okko).reshape(FILTERS, KERNEL, ROW)
    images_nhw = _float32(images_nhwc).reshape(count, height, width * channels)
    gradient_nom = _float32(gradient_npqo.transpose(0, 3, 1, 2)).reshape(count, FILTERS, pooled[1] * pooled[2])
    arrays: list[npt.NDArray[Any]] = [images_nhw, corners_npqo, gradient_nom]
    parts = -(-count // IMAGES_PER_PART)
    shapes = (KERNEL, channels, KERNEL, FILTERS), (FILTERS,), (FILTERS, KERNEL, KERNEL, FILTERS), (FILTERS,)
    sums = [_empty((parts, *shape)) for shape in shapes]
    for array in sums:
        array.fill(0)

    def compute(few: slice) -> None:
        part = few.start // IMAGES_PER_PART
        _gradients_of_part(*(array[part] for array in sums), *(array[few] for array in arrays), *weights)

    _in_parts(compute, count, IMAGES_PER_PART, threads)
    by_weight1_kcko, by_bias1, by_weight2, by_bias2 = (array.sum(axis=0) for array in sums)
    return Gradients(by_weight1_kcko.transpose(3, 0, 2, 1), by_bias1, by_weight2, by_bias2)


class StochasticPasses:
    """The dense part under T pairs of masks.

        output weight (mask * relu(hidden weight (mask * features) + hidden bias)) + output bias

    Everything is copied: what happens to the arguments later changes no pass.

    Args:
        hidden_weight_kf: weight of the hidden layer, with the factor of the kept features.
        hidden_bias_k: its bias.
        output_weight_ck: weight of the output layer, with the factor of the kept units.
        output_bias_c: its bias.
        dropped_tf: the features that each pass drops.
        kept_tk: the hidden units that each pass keeps.
        bfloat16: multiply features and hidden weights in bfloat16; all sums are in single precision.

    Raises:
        ValueError: for arrays whose sizes do not go together.
    """

    def __init__(
        self,
        hidden_weight_kf: Floats,
        hidden_bias_k: Floats,
        output_weight_ck: Floats,
        output_bias_c: Floats,
        dropped_tf: npt.NDArray[np.bool_],
        kept_tk: npt.NDArray[np.bool_],
        *,
        bfloat16: bool = False,
    ) -> None:
        units, features = hidden_weight_kf.shape
        self.classes = len(output_bias_c)
        found = hidden_bias_k, output_weight_ck, dropped_tf, kept_tk
        _check_shapes(found, ((units,), (self.classes, units), (len(kept_tk), features), (len(kept_tk), units)))
        self.features = features
        self.hidden_bias_k = _float32(np.pad(hidden_bias_k, (0, -units % UNITS)))
        self.output_bias_c = _float32(np.pad(output_bias_c, (0, -self.classes % UNITS)))
        self.dropped, self.kept = _listed(dropped_tf), _listed(kept_tk)
        dtype, terms_at_once = (np.uint16, 2) if bfloat16 else (np.float32, 1)
        self.hidden_weight_gfu = _empty((-(-units // UNITS), features + -features % LANES, UNITS), dtype)
        dropped_t, kept_t = np.diff(self.dropped.starts), np.diff(self.kept.starts)
        sizes_t = (dropped_t + dropped_t % terms_at_once) * (kept_t + -kept_t % UNITS)
        self.hidden_weights = _empty((int(sizes_t.sum()),), dtype)
        self.output_weights = _empty((int(kept_t.sum()) * len(self.output_bias_c),))
        arranged = self.hidden_weight_gfu, self.hidden_weights, self.output_weights
        _arrange(*arranged, _float32(hidden_weight_kf.T), _float32(output_weight_ck.T), *self.dropped, *self.kept)

    def logits(self, features_nf: Floats) -> Floats:
        """Return the logits (T, C, N) of every pass (a view).

        Raises:
            ValueError: for another number of features than the weight has.
        """
        count, features = features_nf.shape
        if features != self.features:
            raise ValueError(f"the images have {features} features; the network takes {self.features}.")
        if count % STRIP or features % LANES:
            features_nf = np.pad(features_nf, ((0, -count % STRIP), (0, -features % LANES)))
        strips, features = len(features_nf) // STRIP, features_nf.shape[1]
        features_sfi = _empty((strips, features, STRIP), self.hidden_weight_gfu.dtype)
        undropped_ski = _empty((strips, len(self.hidden_weight_gfu) * UNITS, STRIP))
        logits_tcn = _empty((len(self.kept.starts) - 1, len(self.output_bias_c), strips * STRIP))
        _undropped(undropped_ski, features_sfi, _float32(features_nf), self.hidden_weight_gfu, self.hidden_bias_k)
        weights = self.hidden_weights, self.output_weights, self.output_bias_c
        _stochastic_passes(logits_tcn, undropped_ski, features_sfi, *self.dropped, *self.kept, *weights)
        return logits_tcn[:, : self.classes, :count]


def _check_shapes(arrays: Sequence[npt.NDArray[Any]], expected: Sequence[tuple[int, ...]]) -> None:
    """Refuse what does not fit: the compiled functions read by address.

    Raises:
        ValueError: with both lists of shapes.
    """
    found = [array.shape for array in arrays]
    if found != list(expected):
        raise ValueError(f"the arrays are {found}; {list(expected)} go together.")


class Listed(NamedTuple):
    """Where the rows of a mask are true: the indices, row after row, and where each row's start and the last ends."""

    indices: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


def _listed(mask_tx: npt.NDArray[np.bool_]) -> Listed:
    return Listed(mask_tx.nonzero()[1], np.concatenate([[0], mask_tx.sum(axis=1).cumsum()]))


def _first_weight(weight1_okkc: Floats) -> Floats:
    """Return the first convolution's weight (4, 4 * channels, 32)."""
    return _float32(weight1_okkc.transpose(1, 2, 3, 0)).reshape(KERNEL, -1, FILTERS)


def _in_pairs(factors: npt.NDArray[Any]) -> Halves:
    """Return factors (G, D, U) in bfloat16 as (G, D / 2, U, 2) in memory, under the shape that they had."""
    groups, terms, units = factors.shape
    paired = _float32(factors.reshape(groups, terms // 2, 2, units).swapaxes(2, 3))
    rounded = _empty(factors.shape, np.uint16)
    _round(rounded.reshape(-1), paired.reshape(-1))
    return rounded


def _float32(array: npt.NDArray[Any]) -> Floats:
    """Return numbers as the compiled functions read them: side by side, in single precision, aligned."""
    contiguous = np.ascontiguousarray(array, np.float32)
    if contiguous.ctypes.data % CACHE_LINE:
        aligned = _empty(contiguous.shape)
        aligned[...] = contiguous
        return aligned
    return contiguous


def _empty(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Return an array that starts with a cache line: vectors that lie in two lines take twice as long to read."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + size].view(dtype).reshape(shape)


def _in_parts(compute: Callable[[slice], None], count: int, size: int, threads: int) -> None:
    """Call `compute` with slices of so many images, in this and other threads, in turn."""
    parts = [slice(start, start + size) for start in range(0, count, size)]

    def compute_share(thread: int) -> None:
        for part in parts[thread::threads]:
            compute(part)

    others = [_executor().submit(compute_share, thread) for thread in range(1, threads)]
    try:
        compute_share(0)
    finally:
        if others:
            wait(others)
    for other in others:
        other.result()


@cache
def _executor() -> ThreadPoolExecutor:
    """Return threads that stay: to start one takes as long as to compute several images."""
    return ThreadPoolExecutor(os.cpu_count())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executor.cache_clear)  # a fork has none of its parent's threads


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function at its first use, and keep the machine code beside this file or in the user's cache.

    Where it cannot be kept or what was kept is damaged, a process compiles anew, which takes seconds.
    """
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither folder can be written to
        compiled = numba.njit(nogil=True)(function)

    @wraps(function)
    def call(*arguments: npt.NDArray[Any]) -> None:
        nonlocal compiled
        try:
            compiled(*arguments)
        except (OSError, EOFError, UnpicklingError):  # full disk, half a file: before anything was computed
            compiled = numba.njit(nogil=True)(function)
            compiled(*arguments)

    return call


@_compiled
def _convolve_part(  # type: ignore[no-untyped-def]
    features_npqo, features_nom, corners_npqo, images_nhw, weight1_kio, bias1_o, weight2_eoo, bias2_o
):
    """Write the second and the third array for gradients, and else the first; what is not written is empty."""
    for_gradients = len(corners_npqo) > 0
    channels = weight1_kio.shape[1] // KERNEL
    height, width = images_nhw.shape[1] - KERNEL + 1, images_nhw.shape[2] // channels - KERNEL + 1
    between_hwo = _scratch(height * width * FILTERS, images_nhw).reshape(height, width, FILTERS)
    pooled_height, pooled_width = features_npqo.shape[1:3]
    features_pqo = _scratch(pooled_height * pooled_width * FILTERS, features_npqo).reshape(features_npqo.shape[1:])
    corners_pqo = _scratch(pooled_height * pooled_width * FILTERS, corners_npqo).reshape(features_npqo.shape[1:])
    for n in range(len(images_nhw)):
        if for_gradients:
            corners_pqo = corners_npqo[n]
        else:
            features_pqo = features_npqo[n]
        _first_convolution(between_hwo, images_nhw[n], weight1_kio, bias1_o)
        _second_convolution(features_pqo, corners_pqo, between_hwo, weight2_eoo, bias2_o)
        if for_gradients:
            _transpose(features_nom[n], features_pqo.reshape(-1, FILTERS))


@_compiled
def _gradients_of_part(  # type: ignore[no-untyped-def]
    by_weight1_kcko, by_bias1_o, by_weight2_okko, by_bias2_o,
    images_nhw, corners_npqo, gradient_nom, weight1_kio, bias1_o, weight2_okl,
):  # fmt: skip
    """Add these images' parts to the first four arrays."""
    channels = weight1_kio.shape[1] // KERNEL
    height, width = images_nhw.shape[1] - KERNEL + 1, images_nhw.shape[2] // channels - KERNEL + 1
    between_hwo = _scratch(height * width * FILTERS, images_nhw).reshape(height, width, FILTERS)
    pooled_height, pooled_width = corners_npqo.shape[1:3]
    gradient_pqo = _scratch(gradient_nom[0].size, gradient_nom).reshape(corners_npqo.shape[1:])
    by_between_hwo = _scratch(height * width * FILTERS, images_nhw).reshape(height, width, FILTERS)
    # The gradients that are not zero, by filter within a few pooled rows, and where their rows start.
    by_filter = ((pooled_height + GRADIENT_ROWS - 1) // GRADIENT_ROWS, FILTERS)
    most = GRADIENT_ROWS * pooled_width
    found_bo = np.empty(by_filter, np.int64)
    scales_bom, starts_bom = np.empty((*by_filter, most), np.float32), np.empty((*by_filter, most), np.int64)
    passed_mo, places_mo = np.empty((most, FILTERS), np.float32), np.empty((most, FILTERS), np.int32)
    for n in range(len(images_nhw)):
        _transpose(gradient_pqo.reshape(-1, FILTERS), gradient_nom[n])
        for b in range(len(found_bo)):
            rows = slice(GRADIENT_ROWS * b, min(GRADIENT_ROWS * (b + 1), pooled_height))
            count = _pass_back(
                passed_mo, places_mo, by_bias2_o, corners_npqo[n, rows], gradient_pqo[rows], POOLING * rows.start, width
            )  # fmt: skip
            _list_by_filter(found_bo[b], scales_bom[b], starts_bom[b], passed_mo[:count], places_mo)
        _first_convolution(between_hwo, images_nhw[n], weight1_kio, bias1_o)
        _add_by_weight2(by_weight2_okko, between_hwo, found_bo, scales_bom, starts_bom)
        by_between_hwo[:] = 0
        _add_by_between(by_between_hwo, weight2_okl, found_bo, scales_bom, starts_bom)
        _close_relu(by_between_hwo.reshape(-1), between_hwo.reshape(-1))
        _add_by_first_convolution(by_weight1_kcko, by_bias1_o, by_between_hwo, images_nhw[n])


@_compiled
def _round(out, numbers):  # type: ignore[no-untyped-def]
    """Write numbers in another precision."""
    for i in range(len(numbers)):
        out[i] = _converted(numbers[i], out)


@_compiled
def _undropped(hidden_ski, features_sfi, features_nf, weight_gfu, bias_k):  # type: ignore[no-untyped-def]
    """Write the features in strips, and weight * features + bias."""
    strips, features = features_sfi.shape[:2]
    starts = np.arange(0, features * STRIP, STRIP)
    for s in range(strips):
        for f in range(0, features, LANES):
            rows = _at(features_nf, s * STRIP * features + f)
            _transpose_strip(_at(features_sfi, (s * features + f) * STRIP), rows, features, features_sfi)
        for k in range(hidden_ski.shape[1]):
            hidden_ski[s, k, :] = bias_k[k]
    _add_to_hidden(hidden_ski, features_sfi, starts, weight_gfu)


@_compiled
def _arrange(  # type: ignore[no-untyped-def]
    hidden_weight_gfu, hidden_weights, output_weights, hidden_weight_fk, output_weight_kc,
    dropped, dropped_starts, kept, kept_starts,
):  # fmt: skip
    """Write the hidden layer's weight in groups, and for each pass what it needs of both layers' weights.

    A pass's are those by which the dropped features are subtracted from the kept units, and those of the kept units.
    """
    features, units = hidden_weight_fk.shape
    classes = np.arange(output_weight_kc.shape[1])
    terms = hidden_weight_gfu.shape[1]
    _in_groups(hidden_weight_gfu.reshape(-1), hidden_weight_fk, np.arange(features), terms, np.arange(units), 1)
    hidden_start = output_start = 0
    for t in range(len(kept_starts) - 1):
        dropped_d = dropped[dropped_starts[t] : dropped_starts[t + 1]]
        kept_k = kept[kept_starts[t] : kept_starts[t + 1]]
        terms = _terms(hidden_weights, len(dropped_d))
        to_hidden, to_output = hidden_weights[hidden_start:], output_weights[output_start:]
        hidden_start += _in_groups(to_hidden, hidden_weight_fk, dropped_d, terms, kept_k, -1)
        output_start += _in_groups(to_output, output_weight_kc, kept_k, len(kept_k), classes, 1)


@numba.njit
def _terms(factors, count):  # type: ignore[no-untyped-def]
    """Return how many terms a sum has: in bfloat16 an even number."""
    return count + count % (4 // factors.itemsize)


@numba.njit
def _in_groups(out, weight_xy, rows_d, terms, columns_u, sign):  # type: ignore[no-untyped-def]
    """Write sign * weight[rows, columns] as (G, D, U), filled up with zeros, and return its size.

    In bfloat16 it is (G, D / 2, U, 2).
    """
    side = 4 // out.itemsize
    groups = (len(columns_u) + UNITS - 1) // UNITS
    for g in range(groups):
        columns = columns_u[g * UNITS : (g + 1) * UNITS]
        for d in range(terms):
            start = (g * terms + d - d % side) * UNITS + d % side
            for u in range(UNITS):
                there = d < len(rows_d) and u < len(columns)
                number = sign * weight_xy[rows_d[d], columns[u]] if there else np.float32(0)
                out[start + u * side] = _converted(np.float32(number), out)
    return groups * terms * UNITS


@_compiled
def _stochastic_passes(  # type: ignore[no-untyped-def]
    logits_tcn, undropped_ski, features_sfi, dropped, dropped_starts, kept, kept_starts,
    hidden_weights, output_weights, output_bias_c,
):  # fmt: skip
    """Write the logits of every pass."""
    strips, most = undropped_ski.shape[:2]
    hidden = _scratch(undropped_ski.size, undropped_ski)
    hidden_start = output_start = 0
    for t in range(len(kept_starts) - 1):
        dropped_d = dropped[dropped_starts[t] : dropped_starts[t + 1]]
        kept_k = kept[kept_starts[t] : kept_starts[t + 1]]
        groups = (len(kept_k) + UNITS - 1) // UNITS
        starts_d = np.zeros(_terms(hidden_weights, len(dropped_d)), np.int64)
        starts_d[: len(dropped_d)] = dropped_d * STRIP
        hidden_end = hidden_start + groups * len(starts_d) * UNITS
        output_end = output_start + len(kept_k) * len(output_bias_c)
        hidden_ski = hidden[: strips * groups * UNITS * STRIP].reshape(strips, groups * UNITS, STRIP)
        hidden_weight_gdu = hidden_weights[hidden_start:hidden_end].reshape(groups, len(starts_d), UNITS)
        output_weight_gku = output_weights[output_start:output_end].reshape(-1, len(kept_k), UNITS)
        for s in range(strips):
            for k in range(groups * UNITS):
                unit = kept_k[k] if k < len(kept_k) else 0  # the filling is not read any more
                _copy_strip(
                    _at(hidden_ski, (s * groups * UNITS + k) * STRIP), _at(undropped_ski, (s * most + unit) * STRIP)
                )
        _add_to_hidden(hidden_ski, features_sfi, starts_d, hidden_weight_gdu)
        _write_output(logits_tcn[t], hidden_ski, len(kept_k), output_weight_gku, output_bias_c)
        hidden_start, output_start = hidden_end, output_end


@numba.njit
def _write_output(logits_cn, hidden_ski, count, weight_gku, bias_c):  # type: ignore[no-untyped-def]
    """Write weight * relu(hidden) + bias, of the first `count` hidden units."""
    strips, units = hidden_ski.shape[:2]
    images = logits_cn.shape[1]
    starts = np.arange(0, count * STRIP, STRIP)
    for s in range(strips):
        for k in range(count):
            _relu_strip(_at(hidden_ski, (s * units + k) * STRIP))
        for c in range(len(bias_c)):
            _fill_strip(_at(logits_cn, c * images + s * STRIP), _at(bias_c, c))
        for g in range(len(bias_c) // UNITS):
            _add_units(
                _at(logits_cn, g * UNITS * images + s * STRIP), images, _at(weight_gku, g * count * UNITS),
                _at(hidden_ski, s * units * STRIP), _at(starts, 0), count, hidden_ski,
            )  # fmt: skip


@numba.njit
def _add_to_hidden(hidden_ski, features_sfi, starts_d, weight_gdu):  # type: ignore[no-untyped-def]
    """Add weight * features[starts]; `starts_d` counts numbers in a strip."""
    strips, features = features_sfi.shape[:2]
    groups, terms = weight_gdu.shape[:2]
    units = groups * UNITS
    for first in range(0, terms, TERMS):
        few = min(TERMS, terms - first)
        share = (few + groups - 1) // max(groups, 1)
        for s in range(strips):
            for g in range(groups):
                if s + 1 < strips:  # fetch a share of the next strip's features, whose places no processor foresees
                    for d in range(first + g * share, first + min((g + 1) * share, few)):
                        _prefetch_strip(_at(features_sfi, (s + 1) * features * STRIP + starts_d[d]), features_sfi)
                _add_units(
                    _at(hidden_ski, (s * units + g * UNITS) * STRIP), STRIP,
                    _at(weight_gdu, (g * terms + first) * UNITS),
                    _at(features_sfi, s * features * STRIP), _at(starts_d, first), few, features_sfi,
                )  # fmt: skip


# One image at a time. `_at(array, position)` is an address within an array. An array lives until the loop ends in which
# it is named last: take no address of a function's own array outside of a loop.


@numba.njit
def _at(array, position):  # type: ignore[no-untyped-def]
    return array.ctypes.data + array.itemsize * position


@numba.njit
def _scratch(numbers, like):  # type: ignore[no-untyped-def]
    """Return room for so many numbers in the precision of an array; it starts with a cache line (see `_empty`).

    The address only says where to start; it is not read from.
    """
    size = numbers * like.itemsize
    buffer = np.empty(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + size].view(like.dtype)


@numba.njit
def _transpose(out_yx, in_xy):  # type: ignore[no-untyped-def]
    """Write in_xy.T."""
    rows, columns = in_xy.shape
    whole_rows, whole_columns = rows - rows % LANES, columns - columns % LANES
    for x in range(0, whole_rows, LANES):
        for y in range(0, whole_columns, LANES):
            _transpose_block(_at(out_yx, y * rows + x), rows, _at(in_xy, x * columns + y), columns)
    for x in range(rows):
        for y in range(whole_columns if x < whole_rows else 0, columns):
            out_yx[y, x] = in_xy[x, y]


@numba.njit
def _first_convolution(between_hwo, image_hw, weight_kio, bias_o):  # type: ignore[no-untyped-def]
    """Write relu(convolution(image))."""
    height, width = between_hwo.shape[:2]
    row = weight_kio.shape[1]
    channels = row // KERNEL
    numbers = image_hw.shape[1]
    for y in range(height):
        for left in range(0, width, PIXELS):
            x = min(left, width - PIXELS)
            _multiply_relu(
                _at(between_hwo, (y * width + x) * FILTERS),
                _at(image_hw, y * numbers + x * channels), channels, KERNEL, numbers, row, 1,
                _at(weight_kio, 0), _at(bias_o, 0), 0,
            )  # fmt: skip


@numba.njit
def _second_convolution(features_pqo, corners_pqo, between_hwo, weight_eoo, bias_o):  # type: ignore[no-untyped-def]
    """Write relu(max_pool(convolution(between))), and which corner of its window each maximum is."""
    pooled_height, pooled_width = features_pqo.shape[:2]
    width = between_hwo.shape[1]
    tiles = TILE_ROWS * pooled_width
    tiles += -tiles % PIXELS
    half_iwo = _scratch(TILE * width * FILTERS, between_hwo).reshape(TILE, width, FILTERS)
    inputs_eto = _scratch(PRODUCTS * tiles * FILTERS, weight_eoo).reshape(PRODUCTS, tiles, FILTERS)
    outputs_eto = _scratch(PRODUCTS * tiles * FILTERS, between_hwo).reshape(PRODUCTS, tiles, FILTERS)
    half_ijo = _scratch(POOLING * TILE * FILTERS, between_hwo).reshape(POOLING, TILE, FILTERS)
    window_ao = _scratch(CORNERS * FILTERS, between_hwo).reshape(CORNERS, FILTERS)
    for top in range(0, pooled_height, TILE_ROWS):
        rows = range(top, min(top + TILE_ROWS, pooled_height))
        count = len(rows) * pooled_width
        many = count - count % MANY_TILES
        for p in rows:
            for x in range(width):
                source = _at(between_hwo, (POOLING * p * width + x) * FILTERS)
                _map_input(_at(half_iwo, x * FILTERS), width, source, width, half_iwo)
            for i in range(TILE):
                for q in range(pooled_width):
                    t = (p - top) * pooled_width + q
                    source = _at(half_iwo, (i * width + POOLING * q) * FILTERS)
                    _map_input(_at(inputs_eto, (i * TILE * tiles + t) * FILTERS), tiles, source, 1, inputs_eto)
        for e in range(PRODUCTS):
            weight = _at(weight_eoo, e * FILTERS**2)
            for t in range(0, many, MANY_TILES):
                place = (e * tiles + t) * FILTERS
                _multiply_many(_at(outputs_eto, place), _at(inputs_eto, place), weight, weight_eoo)
            for t in range(many, count, PIXELS):
                place = (e * tiles + t) * FILTERS
                _multiply_few(_at(outputs_eto, place), _at(inputs_eto, place), weight, weight_eoo)
        for p in rows:
            for q in range(pooled_width):
                t = (p - top) * pooled_width + q
                for j in range(TILE):
                    source = _at(outputs_eto, (j * tiles + t) * FILTERS)
                    _map_output(_at(half_ijo, j * FILTERS), TILE, source, TILE * tiles, half_ijo)
                for i in range(POOLING):
                    source = _at(half_ijo, i * TILE * FILTERS)
                    _map_output(_at(window_ao, i * POOLING * FILTERS), 1, source, 1, window_ao)
                feature = (p * pooled_width + q) * FILTERS
                _pool(_at(features_pqo, feature), _at(corners_pqo, feature), _at(window_ao, 0), _at(bias_o, 0))


@numba.njit
def _pass_back(  # type: ignore[no-untyped-def]
    passed_mo, places_mo, by_bias_o, corners_pqo, gradient_pqo, first_row, width
):
    """Write what relu and pooling pass back of some pooled rows, and where in the image; return how many windows.

    Filters are side by side here, and the vectors of a processor take them at once; listing takes number by number.
    """
    count = 0
    for p in range(corners_pqo.shape[0]):
        for q in range(corners_pqo.shape[1]):
            corner_0 = np.int32(((first_row + POOLING * p) * width + POOLING * q) * FILTERS)
            for o in range(FILTERS):
                corner = np.int32(corners_pqo[p, q, o])
                gradient = np.float32(0) if corner == CLOSED else gradient_pqo[p, q, o]
                by_bias_o[o] += gradient
                passed_mo[count, o] = gradient
                row, column = corner // np.int32(POOLING), corner % np.int32(POOLING)
                places_mo[count, o] = corner_0 + (row * np.int32(width) + column) * np.int32(FILTERS)
            count += 1
    return count


@numba.njit
def _list_by_filter(found_o, scales_om, starts_om, passed_mo, places_mo):  # type: ignore[no-untyped-def]
    """List each filter's gradients that are not zero, and where their rows start."""
    for o in range(FILTERS):
        found = 0
        for m in range(len(passed_mo)):  # without branches, which cannot be foreseen: the next overwrites a zero
            scales_om[o, found] = passed_mo[m, o]
            starts_om[o, found] = places_mo[m, o]
            found += passed_mo[m, o] != 0
        found_o[o] = found


@numba.njit
def _add_by_weight2(by_weight_okko, between_hwo, found_bo, scales_bom, starts_bom):  # type: ignore[no-untyped-def]
    """Add rows of the image, scaled by gradients, to the gradient by the weight."""
    width = between_hwo.shape[1]
    bands, filters, most = scales_bom.shape
    for b in range(bands):
        for o in range(filters):
            listed = (b * filters + o) * most
            for r in range(KERNEL):
                for part in range(0, ROW, SUMMED):
                    sums = _at(by_weight_okko, (o * KERNEL + r) * ROW + part)
                    rows = _at(between_hwo, r * width * FILTERS + part)
                    _add_scaled_rows(sums, rows, _at(starts_bom, listed), _at(scales_bom, listed), found_bo[b, o])


@numba.njit
def _add_by_between(by_between_hwo, weight_okl, found_bo, scales_bom, starts_bom):  # type: ignore[no-untyped-def]
    """Add rows of the weight, scaled by gradients, to the gradient by the image.

    By itself, although the lists are those of the weight: both images together would not fit into the first cache.
    """
    width = by_between_hwo.shape[1]
    bands, filters, most = scales_bom.shape
    for b in range(bands):
        for o in range(filters):
            listed = (b * filters + o) * most
            for r in range(KERNEL):
                for part in range(0, ROW, ROW_PART):
                    row = _at(weight_okl, (o * KERNEL + r) * ROW + part)
                    sums = _at(by_between_hwo, r * width * FILTERS + part)
                    _add_scaled_row(sums, row, _at(starts_bom, listed), _at(scales_bom, listed), found_bo[b, o])


@numba.njit
def _close_relu(gradients, outputs):  # type: ignore[no-untyped-def]
    """Set gradients to zero where a relu put out zero."""
    for i in range(len(outputs)):
        gradients[i] = np.float32(0) if outputs[i] <= 0 else gradients[i]


@numba.njit
def _add_by_first_convolution(by_weight_kcko, by_bias_o, by_between_hwo, image_hw):  # type: ignore[no-untyped-def]
    """Add the image's part of the gradients by the first convolution's weight and bias; overwrite `by_between_hwo`."""
    height, width = by_between_hwo.shape[:2]
    channels = by_weight_kcko.shape[1]
    numbers = image_hw.shape[1]
    for r in range(KERNEL):
        for c in range(channels):
            for k in range(0, KERNEL, PIXELS):
                sums = _at(by_weight_kcko, ((r * channels + c) * KERNEL + k) * FILTERS)
                _multiply(
                    sums,
                    _at(image_hw, r * numbers + k * channels + c), channels, height, numbers, width, channels,
                    _at(by_between_hwo, 0), sums, 1,
                )  # fmt: skip
    gradients = by_between_hwo.reshape(-1)
    pixels = height * width
    while pixels > 1:  # halves are added until one is left
        half = (pixels + 1) // 2
        for i in range((pixels - half) * FILTERS):
            gradients[i] += gradients[half * FILTERS + i]
        pixels = half
    for o in range(FILTERS):
        by_bias_o[o] += gradients[o]


# What follows is in the compiler's own terms: numba would load and store every sum at every step, and does not see that
# arrays are apart. Addresses and strides come as integers; a stride counts rows of FILTERS numbers if nothing is said.

ROW_PART = 64
"""Numbers of the weight's row that are added to the image's sums at once: the order of these sums follows from it."""

SUMMED = 8 * LANES
"""Numbers of a row that are summed at once, in registers."""

_NUMBER, _INDEX, _BYTE, _HALF, _LANE = ir.FloatType(), *map(ir.IntType, (64, 8, 16, 32))
_VECTOR, _LANES, _HALVES = (ir.VectorType(kind, LANES) for kind in (_NUMBER, _LANE, _HALF))
_STRIP, _STRIP_LANES = (ir.VectorType(kind, STRIP) for kind in (_HALF, _LANE))
_PLACES = range(0, FILTERS, LANES)
_FUSED = ("contract",)  # a product and its sum may be rounded once, where the processor can

Value = Any
Builder = Any


class _BFloat16(ir.Type):  # type: ignore[misc]
    """A type of the compiler's that llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def _load(builder: Builder, base: Value, position: Value, kind: ir.Type = _VECTOR) -> Value:
    return builder.load(_pointer(builder, base, position, kind), align=2)


def _store(builder: Builder, value: Value, base: Value, position: Value) -> None:
    builder.store(value, _pointer(builder, base, position, value.type), align=2)


def _pointer(builder: Builder, base: Value, position: Value, kind: ir.Type) -> Value:
    """Return a pointer to the number `position` behind an address; numbers of two bytes if `kind` is of such."""
    position = _INDEX(position) if isinstance(position, int) else position
    size = 2 if getattr(kind, "element", kind) == _HALF else 4
    return builder.inttoptr(builder.add(base, builder.mul(position, _INDEX(size))), kind.as_pointer())


def _constant(number: float) -> Value:
    return ir.Constant(_VECTOR, [ir.Constant(_NUMBER, float(number))] * LANES)


def _everywhere(builder: Builder, number: Value) -> Value:
    """Return a vector of one number."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, number, _LANE(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_LANES, [0] * LANES))


def _add_product(builder: Builder, register: Value, factor: Value, vector: Value) -> None:
    product = builder.fmul(factor, vector, flags=_FUSED)
    builder.store(builder.fadd(builder.load(register), product, flags=_FUSED), register)


def _add_products(builder: Builder, register: Value, pairs: Value, others: Value) -> None:
    """Do register[i] += pairs[i, 1] * others[i, 1], then the same with 0, of numbers in bfloat16."""
    if BFLOAT16:
        kind = ir.VectorType(_BFloat16(), 2 * LANES)
        of_type = ir.FunctionType(_VECTOR, [_VECTOR, kind, kind])
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}"
        function = cgutils.get_or_insert_function(builder.module, of_type, name)
        arguments = [builder.load(register), *(builder.bitcast(factors, kind) for factors in (pairs, others))]
        builder.store(builder.call(function, arguments), register)
        return
    upper, sixteen = (ir.Constant(_LANES, [number] * LANES) for number in (0xFFFF0000, 16))
    for of in (partial(builder.and_, rhs=upper), partial(builder.shl, rhs=sixteen)):
        _add_product(builder, register, *(builder.bitcast(of(factors), _VECTOR) for factors in (pairs, others)))


def _rounded(builder: Builder, number: Value) -> Value:
    """Return the bits of a number or vector in bfloat16."""
    vector = number.type == _VECTOR
    if BFLOAT16:
        kind = ir.VectorType(_BFloat16(), LANES) if vector else _BFloat16()
        return builder.bitcast(builder.fptrunc(number, kind), _HALVES if vector else _HALF)
    kind = _LANES if vector else _LANE

    def constant(of: int) -> Value:
        return ir.Constant(kind, [of] * LANES if vector else of)

    bits = builder.bitcast(number, kind)
    to_even = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    up = builder.add(bits, builder.add(to_even, constant(0x7FFF)))
    up = builder.select(builder.fcmp_unordered("uno", number, number), constant(0x7FC00000), up)
    return builder.trunc(builder.lshr(up, constant(16)), _HALVES if vector else _HALF)


def _interleaved(builder: Builder, first: Value, second: Value) -> list[Value]:
    """Return the images' pairs (first[i], second[i]) of two features' strips in bfloat16, in the images' order."""
    vectors = []
    for half in (0, 4):
        of_first = [group + half + i for group in range(0, STRIP, 8) for i in range(4)]
        mask = [place for i in of_first for place in (i, STRIP + i)]
        pairs = builder.shuffle_vector(first, second, ir.Constant(_STRIP_LANES, mask))
        vectors.append(builder.bitcast(pairs, _LANES))
    return vectors


def _add_row(
    builder: Builder,
    registers: Sequence[Sequence[Value]],
    left: Value,
    numbers: Sequence[Value],
    right: Value,
    row: Value,
) -> None:
    """Do registers[r, :] += left[numbers[r]] * right[row, :]."""
    start = builder.mul(row, _INDEX(FILTERS))
    factors = [_load(builder, right, builder.add(start, _INDEX(place))) for place in _PLACES]
    for number, pixel in zip(numbers, registers, strict=True):
        factor = _everywhere(builder, _load(builder, left, number, _NUMBER))
        for register, vector in zip(pixel, factors, strict=True):
            _add_product(builder, register, factor, vector)


def _relu(builder: Builder, vector: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<=", vector, _constant(0)), _constant(0), vector)  # keeps NaN


def _addresses(count: int, generate: Callable[..., None], *like: Any) -> Any:
    """Return what an intrinsic returns: its signature, and code made by `generate(builder, *values)`.

    The types of further arguments, of whose values nothing is made, come last.
    """

    def code(context: Any, builder: Builder, _: Any, values: Sequence[Value]) -> Value:
        generate(builder, *values[:count])
        return context.get_dummy_value()

    return types.void(*[types.intp] * count, *like), code


@intrinsic  # type: ignore[untyped-decorator]
def _converted(_: Any, number: Any, like: Any) -> Any:
    """Return a number in the precision of an array, as that array keeps it."""

    def code(context: Any, builder: Builder, _: Any, values: Sequence[Value]) -> Value:
        return _rounded(builder, values[0]) if like.dtype == types.uint16 else values[0]

    return like.dtype(types.float32, like), code


@intrinsic  # type: ignore[untyped-decorator]
def _add_scaled_rows(_: Any, sums: Any, rows: Any, starts: Any, scales: Any, count: Any) -> Any:
    """Do sums[:] += sum_k scales[k] * rows[starts[k] : starts[k] + SUMMED] over k < count."""

    def generate(builder: Builder, sums: Value, rows: Value, starts: Value, scales: Value, count: Value) -> None:
        registers = [cgutils.alloca_once(builder, _VECTOR) for _ in range(0, SUMMED, LANES)]
        for place, register in enumerate(registers):
            builder.store(_load(builder, sums, place * LANES), register)
        with cgutils.for_range(builder, count) as loop:
            scale = _everywhere(builder, _load(builder, scales, loop.index, _NUMBER))
            start = _load(builder, starts, builder.mul(loop.index, _INDEX(2)), _INDEX)
            for place, register in enumerate(registers):
                row = _load(builder, rows, builder.add(start, _INDEX(place * LANES)))
                _add_product(builder, register, scale, row)
        for place, register in enumerate(registers):
            _store(builder, builder.load(register), sums, place * LANES)

    return _addresses(5, generate)


@intrinsic  # type: ignore[untyped-decorator]
def _add_scaled_row(_: Any, sums: Any, row: Any, starts: Any, scales: Any, count: Any) -> Any:
    """Do sums[starts[k] : starts[k] + ROW_PART] += scales[k] * row[:] for k < count."""

    def generate(builder: Builder, sums: Value, row: Value, starts: Value, scales: Value, count: Value) -> None:
        places = range(0, ROW_PART, LANES)
        vectors = [_load(builder, row, place) for place in places]
        with cgutils.for_range(builder, count) as loop:
            scale = _everywhere(builder, _load(builder, scales, loop.index, _NUMBER))
            start = _load(builder, starts, builder.mul(loop.index, _INDEX(2)), _INDEX)
            for place, vector in zip(places, vectors, strict=True):
                position = builder.add(start, _INDEX(place))
                product = builder.fmul(scale, vector, flags=_FUSED)
                _store(builder, builder.fadd(_load(builder, sums, position), product, flags=_FUSED), sums, position)

    return _addresses(5, generate)


def _multiplication(relu: bool) -> Any:
    """Return an intrinsic for PIXELS rows r of sums over k < outer and i < inner, for all filters o.

    out[r, o] = begin[r * begin_step, o] + sum_k sum_i left[r * step + k * outer_step + i * inner_step] * right[k, i, o]

    The steps of `left` count numbers.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(
        _: Any, out: Any, left: Any, step: Any, outer: Any, outer_step: Any, inner: Any, inner_step: Any, right: Any,
        begin: Any, begin_step: Any,
    ) -> Any:  # fmt: skip
        def generate(
            builder: Builder, out: Value, left: Value, step: Value, outer: Value, outer_step: Value, inner: Value,
            inner_step: Value, right: Value, begin: Value, begin_step: Value,
        ) -> None:  # fmt: skip
            add, times = builder.add, builder.mul
            registers = [[cgutils.alloca_once(builder, _VECTOR) for _ in _PLACES] for _ in range(PIXELS)]
            for r, pixel in enumerate(registers):
                for place, register in zip(_PLACES, pixel, strict=True):
                    position = add(times(begin_step, _INDEX(r * FILTERS)), _INDEX(place))
                    builder.store(_load(builder, begin, position), register)
            with cgutils.for_range(builder, outer) as k, cgutils.for_range(builder, inner) as i:
                position = add(times(k.index, outer_step), times(i.index, inner_step))
                numbers = [add(position, times(step, _INDEX(r))) for r in range(PIXELS)]
                _add_row(builder, registers, left, numbers, right, add(times(k.index, inner), i.index))
            for r, pixel in enumerate(registers):
                for place, register in zip(_PLACES, pixel, strict=True):
                    value = builder.load(register)
                    _store(builder, _relu(builder, value) if relu else value, out, r * FILTERS + place)

        return _addresses(10, generate)

    return multiply


_multiply, _multiply_relu = _multiplication(relu=False), _multiplication(relu=True)


def _tile_multiplication(count: int) -> Any:
    """Return an intrinsic: out[r, :] = sum_i left[r, i] * right[i, :] for `count` rows r and FILTERS terms.

    It has no loop: those of `_multiply` take a quarter longer for so few terms. The factors are in the precision of
    `like`.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply_tiles(_: Any, out: Any, left: Any, right: Any, like: Any) -> Any:
        def generate(builder: Builder, out: Value, left: Value, right: Value) -> None:
            registers = [[cgutils.alloca_once_value(builder, _constant(0)) for _ in _PLACES] for _ in range(count)]
            if like.dtype == types.uint16:
                for pair in range(FILTERS // 2):
                    factors = [_load(builder, right, _INDEX(pair * FILTERS + place), _LANES) for place in _PLACES]
                    for r, row in enumerate(registers):
                        pairs = _everywhere(builder, _load(builder, left, _INDEX((r * FILTERS) // 2 + pair), _LANE))
                        for register, others in zip(row, factors, strict=True):
                            _add_products(builder, register, pairs, others)
            else:
                for i in range(FILTERS):
                    numbers = [_INDEX(r * FILTERS + i) for r in range(count)]
                    _add_row(builder, registers, left, numbers, right, _INDEX(i))
            for r, pixel in enumerate(registers):
                for place, register in zip(_PLACES, pixel, strict=True):
                    _store(builder, builder.load(register), out, r * FILTERS + place)

        return _addresses(3, generate, like)

    return multiply_tiles


_multiply_few, _multiply_many = _tile_multiplication(PIXELS), _tile_multiplication(MANY_TILES)


def _linear_map(matrix: Sequence[Sequence[float]]) -> Any:
    """Return an intrinsic: out[i * out_step, o] = sum_j matrix[i, j] * rows[j * step, o] for all o.

    `out` is in the precision of `like`.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def transform(_: Any, out: Any, out_step: Any, rows: Any, step: Any, like: Any) -> Any:
        def generate(builder: Builder, out: Value, out_step: Value, rows: Value, step: Value) -> None:
            def position(row: int, row_step: Value, place: int) -> Value:
                return builder.add(builder.mul(row_step, _INDEX(row * FILTERS)), _INDEX(place))

            for place in _PLACES:
                vectors = [_load(builder, rows, position(j, step, place)) for j in range(len(matrix[0]))]
                for i, factors in enumerate(matrix):
                    terms = [
                        vector if factor == 1 else builder.fmul(_constant(factor), vector, flags=_FUSED)
                        for factor, vector in zip(factors, vectors, strict=True)
                        if factor
                    ]
                    total = terms[0]
                    for term in terms[1:]:
                        total = builder.fadd(total, term, flags=_FUSED)
                    total = _rounded(builder, total) if like.dtype == types.uint16 else total
                    _store(builder, total, out, position(i, out_step, place))

        return _addresses(4, generate, like)

    return transform


_map_input, _map_output = _linear_map(INPUT), _linear_map(OUTPUT)


@intrinsic  # type: ignore[untyped-decorator]
def _add_units(_: Any, out: Any, step: Any, weight: Any, strip: Any, starts: Any, count: Any, like: Any) -> Any:
    """Do out[u * step + i] += sum_k weight[k, u] * strip[starts[k] + i] over k < count, for UNITS u and STRIP i.

    Weight and strip are in the precision of `like`; in bfloat16 two k are taken at once, and `count` is even.
    """
    paired = like.dtype == types.uint16

    def generate(
        builder: Builder, out: Value, step: Value, weight: Value, strip: Value, starts: Value, count: Value
    ) -> None:
        places = [
            [builder.add(builder.mul(step, _INDEX(u)), _INDEX(i)) for i in range(0, STRIP, LANES)] for u in range(UNITS)
        ]
        registers = [
            [cgutils.alloca_once_value(builder, _load(builder, out, place)) for place in row] for row in places
        ]
        add_product = _add_products if paired else _add_product
        with cgutils.for_range(builder, builder.lshr(count, _INDEX(1)) if paired else count) as k:
            if paired:
                places_of_two = [builder.add(builder.mul(k.index, _INDEX(4)), _INDEX(number)) for number in (0, 2)]
                two = [_load(builder, starts, place, _INDEX) for place in places_of_two]
                vectors = _interleaved(builder, *(_load(builder, strip, start, _STRIP) for start in two))
            else:
                start = _load(builder, starts, builder.mul(k.index, _INDEX(2)), _INDEX)
                vectors = [_load(builder, strip, builder.add(start, _INDEX(i))) for i in range(0, STRIP, LANES)]
            for u, row in enumerate(registers):
                position = builder.add(builder.mul(k.index, _INDEX(UNITS)), _INDEX(u))
                factor = _everywhere(builder, _load(builder, weight, position, _LANE if paired else _NUMBER))
                for register, vector in zip(row, vectors, strict=True):
                    add_product(builder, register, factor, vector)
        for row, registers_of_row in zip(places, registers, strict=True):
            for place, register in zip(row, registers_of_row, strict=True):
                _store(builder, builder.load(register), out, place)

    return _addresses(6, generate, like)


@intrinsic  # type: ignore[untyped-decorator]
def _transpose_strip(_: Any, out: Any, rows: Any, step: Any, like: Any) -> Any:
    """Do out[f * STRIP + i] = rows[i * step + f] for LANES features f and STRIP images i, in the precision of `like`.

    The processor makes pairs of two features' strips within groups of eight images: in bfloat16 they are in the order
    in which these pairs come out in the images' order.
    """
    paired = like.dtype == types.uint16
    images = [i // 8 * 4 + i % 4 + i % 8 // 4 * LANES if paired else i for i in range(STRIP)]

    def generate(builder: Builder, out: Value, rows: Value, step: Value) -> None:
        for first in range(0, STRIP, LANES):
            vectors = [_load(builder, rows, builder.mul(step, _INDEX(images[first + i]))) for i in range(LANES)]
            for f, vector in enumerate(_transposed(builder, vectors)):
                vector = _rounded(builder, vector) if paired else vector
                _store(builder, vector, out, f * STRIP + first)

    return _addresses(3, generate, like)


@intrinsic  # type: ignore[untyped-decorator]
def _transpose_block(_: Any, out: Any, out_step: Any, rows: Any, step: Any) -> Any:
    """Do out[c * out_step + r] = rows[r * step + c] for LANES rows r and LANES columns c."""

    def generate(builder: Builder, out: Value, out_step: Value, rows: Value, step: Value) -> None:
        vectors = [_load(builder, rows, builder.mul(step, _INDEX(r))) for r in range(LANES)]
        for c, vector in enumerate(_transposed(builder, vectors)):
            _store(builder, vector, out, builder.mul(out_step, _INDEX(c)))

    return _addresses(4, generate)


def _transposed(builder: Builder, vectors: Sequence[Value]) -> list[Value]:
    """Return LANES vectors of LANES numbers, rows and columns exchanged: first in blocks of one, then of two, ..."""
    vectors, size = list(vectors), 1
    while size < LANES:
        masks = [
            ir.Constant(_LANES, [lane + of if not lane & size else lane - size + LANES + of for lane in range(LANES)])
            for of in (0, size)
        ]
        for i in range(LANES):
            if not i & size:
                two = vectors[i], vectors[i + size]
                vectors[i], vectors[i + size] = (builder.shuffle_vector(*two, mask) for mask in masks)
        size *= 2
    return vectors


@intrinsic  # type: ignore[untyped-decorator]
def _copy_strip(_: Any, out: Any, source: Any) -> Any:
    """Do out[i] = source[i] for STRIP i."""

    def generate(builder: Builder, out: Value, source: Value) -> None:
        for i in range(0, STRIP, LANES):
            _store(builder, _load(builder, source, i), out, i)

    return _addresses(2, generate)


@intrinsic  # type: ignore[untyped-decorator]
def _fill_strip(_: Any, out: Any, number: Any) -> Any:
    """Do out[i] = number[0] for STRIP i."""

    def generate(builder: Builder, out: Value, number: Value) -> None:
        vector = _everywhere(builder, _load(builder, number, 0, _NUMBER))
        for i in range(0, STRIP, LANES):
            _store(builder, vector, out, i)

    return _addresses(2, generate)


@intrinsic  # type: ignore[untyped-decorator]
def _relu_strip(_: Any, numbers: Any) -> Any:
    """Do numbers[i] = relu(numbers[i]) for STRIP i."""

    def generate(builder: Builder, numbers: Value) -> None:
        for i in range(0, STRIP, LANES):
            _store(builder, _relu(builder, _load(builder, numbers, i)), numbers, i)

    return _addresses(1, generate)


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch_strip(_: Any, address: Any, like: Any) -> Any:
    """Ask for the cache lines of STRIP numbers of the precision of `like`."""

    def generate(builder: Builder, address: Value) -> None:
        for start in range(0, STRIP * like.dtype.bitwidth // 8, CACHE_LINE):
            line = builder.inttoptr(builder.add(address, _INDEX(start)), _BYTE.as_pointer())
            of_type = ir.FunctionType(ir.VoidType(), [line.type, _LANE, _LANE, _LANE])
            function = cgutils.get_or_insert_function(builder.module, of_type, "llvm.prefetch.p0i8")
            builder.call(function, [line, _LANE(0), _LANE(3), _LANE(1)])  # to read, into the first cache, data

    return _addresses(1, generate, like)


@intrinsic  # type: ignore[untyped-decorator]
def _pool(_: Any, features: Any, corners: Any, window: Any, bias: Any) -> Any:
    """Do features[o] = relu(max_a window[a, o] + bias[o]), and write that a, of equal ones the first, as a byte.

    CLOSED is written in its place where relu closes.
    """

    def generate(builder: Builder, features: Value, corners: Value, window: Value, bias: Value) -> None:
        numbers, whole = _LANES, ir.VectorType(_BYTE, LANES)
        for place in _PLACES:
            best, corner = _load(builder, window, place), ir.Constant(numbers, [0] * LANES)
            for a in range(1, CORNERS):
                other = _load(builder, window, a * FILTERS + place)
                better = builder.fcmp_ordered(">", other, best)
                better = builder.or_(better, builder.fcmp_unordered("uno", other, other))  # NaN is the maximum
                best = builder.select(better, other, best)
                corner = builder.select(better, ir.Constant(numbers, [a] * LANES), corner)
            best = builder.fadd(best, _load(builder, bias, place))
            _store(builder, _relu(builder, best), features, place)
            closed = builder.fcmp_ordered("<=", best, _constant(0))
            corner = builder.select(closed, ir.Constant(numbers, [CLOSED] * LANES), corner)
            target = builder.inttoptr(builder.add(corners, _INDEX(place)), whole.as_pointer())
            builder.store(builder.trunc(corner, whole), target, align=1)

    return _addresses(4, generate)
