"""The network on a CPU in float32, in fewer operations and nearer to the processor's peak than a library takes it.

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
from functools import cache, wraps
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FILTERS = 32
KERNEL = 4
POOLING = 2

TILE = POOLING + KERNEL - 1
PRODUCTS = TILE * TILE
CORNERS = POOLING * POOLING
ROW = KERNEL * FILTERS

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

IMAGES_PER_PART = 16
"""Images that one thread computes at a time: a fixed number, so that the threads change no rounding of gradients."""

PIXELS = 2
"""Pixels or tiles that are multiplied at once: their sums over all filters fill half of the vector registers."""

TILE_ROWS = 2
"""Rows of tiles that are transformed and multiplied together: they stay in the second cache."""

GRADIENT_ROWS = 3
"""Pooled rows after which the weight's gradient turns to the next filter: their images stay in the first cache."""

STRIP = 16
"""Images side by side in the dense part: one cache line of a feature."""

UNITS = 6
"""Hidden units that are summed at once for a strip: the sums and what is read take 15 of 16 vector registers."""

TERMS = 128
"""Features after which the sums turn to the next units: those of a strip stay in the first cache."""

CACHE_LINE = 64  # bytes

Floats = npt.NDArray[np.float32]


class Convolved(NamedTuple):
    """What the forward computation leaves; the last two are for the gradients, and empty if none are wanted."""

    features_npqo: Floats
    corners_npqo: npt.NDArray[np.uint8]  # which corner of its window each maximum is: 0 and 1 above, 2 and 3 below
    between_nhwo: Floats  # after the first relu


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
        threads: threads that compute; they change nothing in the result.

    Raises:
        ValueError: for images below 8x8, of which nothing is left to pool.
    """
    count, image_height, image_width, channels = images_nhwc.shape
    if min(image_height, image_width) < 2 * KERNEL + POOLING - 2:
        raise ValueError(f"the images are {image_height}x{image_width}; the network takes 8x8 at least.")
    height, width = image_height - KERNEL + 1, image_width - KERNEL + 1
    pooled = (count, (height - KERNEL + 1) // POOLING, (width - KERNEL + 1) // POOLING, FILTERS)
    kept = count if for_gradients else 0
    features, corners = _empty(pooled), _empty((kept, *pooled[1:]), np.uint8)
    between = _empty((kept, height, width, FILTERS))
    images_nhw = _float32(images_nhwc).reshape(count, image_height, image_width * channels)
    weight1_kio = _float32(np.moveaxis(weight1_okkc, 0, -1)).reshape(KERNEL, KERNEL * channels, FILTERS)
    both = np.kron(FILTER, FILTER)
    weight2_eoo = both @ np.moveaxis(weight2_okko, 0, -1).reshape(KERNEL**2, -1)
    weights = weight1_kio, _float32(bias1_o), _float32(weight2_eoo), _float32(bias2_o)

    def compute(few: slice) -> None:
        _convolve_part(features[few], corners[few], between[few], images_nhw[few], *weights)

    _in_parts(compute, count, threads)
    return Convolved(features, corners, between)


def convolution_gradients(
    convolved: Convolved, images_nhwc: Floats, weight2_okko: Floats, gradient_npqo: Floats, *, threads: int = 1
) -> Gradients:
    """Return the gradients by weights and biases.

    Args:
        convolved: what `convolve` returned for gradients.
        images_nhwc: the images.
        weight2_okko: the second convolution's weight.
        gradient_npqo: the gradient by the features.
        threads: threads that compute; they change nothing in the result.
    """
    features_npqo, corners_npqo, between_nhwo = convolved
    count, height, width, channels = images_nhwc.shape
    weight2_okl = _float32(weight2_okko).reshape(FILTERS, KERNEL, ROW)
    arrays: list[npt.NDArray[Any]] = [
        _float32(images_nhwc).reshape(count, height, width * channels),
        between_nhwo,
        features_npqo,
        corners_npqo,
        _float32(gradient_npqo),
    ]
    parts = -(-count // IMAGES_PER_PART)
    shapes = (KERNEL, channels, KERNEL, FILTERS), (FILTERS,), (FILTERS, KERNEL, KERNEL, FILTERS), (FILTERS,)
    sums = [_empty((parts, *shape)) for shape in shapes]
    for array in sums:
        array.fill(0)

    def compute(few: slice) -> None:
        part = few.start // IMAGES_PER_PART
        _gradients_of_part(*(array[part] for array in sums), *(array[few] for array in arrays), weight2_okl)

    _in_parts(compute, count, threads)
    by_weight1_kcko, by_bias1, by_weight2, by_bias2 = (array.sum(axis=0) for array in sums)
    return Gradients(by_weight1_kcko.transpose(3, 0, 2, 1), by_bias1, by_weight2, by_bias2)


class StochasticPass(NamedTuple):
    """One pass of MC dropout; what is summed in groups is filled up with zeros to whole ones."""

    kept_k: npt.NDArray[np.int64]  # the hidden units that it keeps
    dropped_d: npt.NDArray[np.int64]  # the features that it drops
    hidden_weight_gdu: Floats  # by which the dropped features are subtracted from the kept units
    output_weight_gku: Floats  # of the kept units, in groups of classes


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
    ) -> None:
        units, features = hidden_weight_kf.shape
        self.classes = len(output_bias_c)
        found = hidden_bias_k.shape, output_weight_ck.shape, dropped_tf.shape, kept_tk.shape
        expected = (units,), (self.classes, units), (len(kept_tk), features), (len(kept_tk), units)
        if found != expected:
            raise ValueError(f"the sizes of biases, weights and masks are {found}; {expected} go together.")
        self.hidden_bias_k = _float32(np.pad(hidden_bias_k, (0, -units % UNITS)))
        self.output_bias_c = _float32(np.pad(output_bias_c, (0, -self.classes % UNITS)))
        self.hidden_weight_gfu = _in_groups(hidden_weight_kf)
        self.passes = []
        for dropped_f, kept_units_k in zip(dropped_tf, kept_tk, strict=True):
            dropped, kept = dropped_f.nonzero()[0], kept_units_k.nonzero()[0]
            hidden_weight_gdu = _in_groups(-hidden_weight_kf[np.ix_(kept, dropped)])
            self.passes.append(StochasticPass(kept, dropped, hidden_weight_gdu, _in_groups(output_weight_ck[:, kept])))

    def logits(self, features_nf: Floats) -> Floats:
        """Return the logits (T, C, N) of every pass (a view).

        Raises:
            ValueError: for another number of features than the weight has.
        """
        count, features = features_nf.shape
        if features != self.hidden_weight_gfu.shape[1]:
            raise ValueError(
                f"the images have {features} features; the network takes {self.hidden_weight_gfu.shape[1]}."
            )
        strips = -(-count // STRIP)
        features_sfi = _empty((strips, features, STRIP))
        undropped_ski = _empty((strips, len(self.hidden_weight_gfu) * UNITS, STRIP))
        logits_tcn = _empty((len(self.passes), len(self.output_bias_c), strips * STRIP))
        _undropped(undropped_ski, features_sfi, _float32(features_nf), self.hidden_weight_gfu, self.hidden_bias_k)
        for one, logits_cn in zip(self.passes, logits_tcn, strict=True):
            _stochastic_pass(logits_cn, undropped_ski, features_sfi, *one, self.output_bias_c)
        return logits_tcn[:, : self.classes, :count]


def _in_groups(weight_kf: Floats) -> Floats:
    """Return a weight (G, F, U), filled up with zeros to whole groups of units."""
    units, features = weight_kf.shape
    groups = -(-units // UNITS)
    weight_gfu = _empty((groups, features, UNITS))
    filled_kf = np.pad(weight_kf, ((0, -units % UNITS), (0, 0)))
    weight_gfu[...] = filled_kf.reshape(groups, UNITS, features).swapaxes(1, 2)
    return weight_gfu


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


def _in_parts(compute: Callable[[slice], None], count: int, threads: int) -> None:
    """Call `compute` with slices of the images, in this and other threads, in turn."""
    parts = [slice(start, start + IMAGES_PER_PART) for start in range(0, count, IMAGES_PER_PART)]

    def compute_share(thread: int) -> None:
        for part in parts[thread::threads]:
            compute(part)

    others = [_executor().submit(compute_share, thread) for thread in range(1, threads)]
    try:
        compute_share(0)
    finally:
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
    features_npqo, corners_npqo, between_nhwo, images_nhw, weight1_kio, bias1_o, weight2_eoo, bias2_o
):
    """Write the first three arrays; without gradients the second and third are empty and not written."""
    for_gradients = len(between_nhwo) > 0
    channels = weight1_kio.shape[1] // KERNEL
    height, width = images_nhw.shape[1] - KERNEL + 1, images_nhw.shape[2] // channels - KERNEL + 1
    between_hwo = np.empty((height, width, FILTERS), np.float32)
    corners_pqo = np.empty(features_npqo.shape[1:], np.uint8)
    for n in range(len(images_nhw)):
        if for_gradients:
            between_hwo, corners_pqo = between_nhwo[n], corners_npqo[n]
        _first_convolution(between_hwo, images_nhw[n], weight1_kio, bias1_o)
        _second_convolution(features_npqo[n], corners_pqo, between_hwo, weight2_eoo, bias2_o)


@_compiled
def _gradients_of_part(  # type: ignore[no-untyped-def]
    by_weight1_kcko, by_bias1_o, by_weight2_okko, by_bias2_o,
    images_nhw, between_nhwo, features_npqo, corners_npqo, gradient_npqo, weight2_okl,
):  # fmt: skip
    """Add these images' parts to the first four arrays."""
    height, width = between_nhwo.shape[1:3]
    pooled_height, pooled_width = features_npqo.shape[1:3]
    by_between_hwo = np.empty((height, width, FILTERS), np.float32)
    # The gradients that are not zero, by filter within a few pooled rows, and where their rows start.
    by_filter = ((pooled_height + GRADIENT_ROWS - 1) // GRADIENT_ROWS, FILTERS)
    most = GRADIENT_ROWS * pooled_width
    found_bo = np.empty(by_filter, np.int64)
    scales_bom, starts_bom = np.empty((*by_filter, most), np.float32), np.empty((*by_filter, most), np.int64)
    for n in range(len(images_nhw)):
        found_bo[:] = 0
        for p in range(pooled_height):
            b = p // GRADIENT_ROWS
            for q in range(pooled_width):
                for o in range(FILTERS):  # without branches, which cannot be foreseen: the next overwrites a zero
                    gradient = np.float32(0) if features_npqo[n, p, q, o] <= 0 else gradient_npqo[n, p, q, o]
                    by_bias2_o[o] += gradient
                    corner = int(corners_npqo[n, p, q, o])
                    y, x = POOLING * p + corner // POOLING, POOLING * q + corner % POOLING
                    m = found_bo[b, o]
                    scales_bom[b, o, m] = gradient
                    starts_bom[b, o, m] = (y * width + x) * FILTERS
                    found_bo[b, o] = m + (gradient != 0)
        _add_by_weight2(by_weight2_okko, between_nhwo[n], found_bo, scales_bom, starts_bom)
        by_between_hwo[:] = 0
        _add_by_between(by_between_hwo, weight2_okl, found_bo, scales_bom, starts_bom)
        _close_relu(by_between_hwo.reshape(-1), between_nhwo[n].reshape(-1))
        _add_by_first_convolution(by_weight1_kcko, by_bias1_o, by_between_hwo, images_nhw[n])


@_compiled
def _undropped(hidden_ski, features_sfi, features_nf, weight_gfu, bias_k):  # type: ignore[no-untyped-def]
    """Write the features in strips, zero where there are no more images, and weight * features + bias."""
    count, features = features_nf.shape
    starts = np.arange(0, features * STRIP, STRIP)
    for s in range(len(features_sfi)):
        images = min(STRIP, count - s * STRIP)
        for f in range(features):
            for i in range(images):
                features_sfi[s, f, i] = features_nf[s * STRIP + i, f]
            for i in range(images, STRIP):
                features_sfi[s, f, i] = 0
        for k in range(hidden_ski.shape[1]):
            hidden_ski[s, k, :] = bias_k[k]
    _add_to_hidden(hidden_ski, features_sfi, starts, weight_gfu)


@_compiled
def _stochastic_pass(  # type: ignore[no-untyped-def]
    logits_cn, undropped_ski, features_sfi, kept_k, dropped_d, hidden_weight_gdu, output_weight_gku, output_bias_c
):
    """Write the logits of one pass."""
    strips, most = undropped_ski.shape[:2]
    units, images = len(hidden_weight_gdu) * UNITS, logits_cn.shape[1]
    hidden_ski = np.empty((strips, units, STRIP), np.float32)
    for s in range(strips):
        for k in range(units):
            unit = kept_k[k] if k < len(kept_k) else 0  # the filling is not read any more
            _copy_strip(_at(hidden_ski, (s * units + k) * STRIP), _at(undropped_ski, (s * most + unit) * STRIP))
    _add_to_hidden(hidden_ski, features_sfi, dropped_d * STRIP, hidden_weight_gdu)
    starts = np.arange(0, len(kept_k) * STRIP, STRIP)
    for s in range(strips):
        for k in range(len(kept_k)):
            _relu_strip(_at(hidden_ski, (s * units + k) * STRIP))
        for c in range(len(logits_cn)):
            _fill_strip(_at(logits_cn, c * images + s * STRIP), _at(output_bias_c, c))
        for g in range(len(output_weight_gku)):
            _add_units(
                _at(logits_cn, g * UNITS * images + s * STRIP), images,
                _at(output_weight_gku, g * len(kept_k) * UNITS),
                _at(hidden_ski, s * units * STRIP), _at(starts, 0), len(kept_k),
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
                        _prefetch(_at(features_sfi, (s + 1) * features * STRIP + starts_d[d]))
                _add_units(
                    _at(hidden_ski, (s * units + g * UNITS) * STRIP), STRIP,
                    _at(weight_gdu, (g * terms + first) * UNITS),
                    _at(features_sfi, s * features * STRIP), _at(starts_d, first), few,
                )  # fmt: skip


# One image at a time. `_at(array, position)` is an address within an array. An array lives until the loop ends in which
# it is named last: take no address of a function's own array outside of a loop.


@numba.njit
def _at(array, position):  # type: ignore[no-untyped-def]
    return array.ctypes.data + array.itemsize * position


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
    half_iwo = np.empty((TILE, width, FILTERS), np.float32)
    inputs_eto = np.empty((PRODUCTS, tiles, FILTERS), np.float32)
    outputs_eto = np.empty((PRODUCTS, tiles, FILTERS), np.float32)
    half_ijo = np.empty((POOLING, TILE, FILTERS), np.float32)
    window_ao = np.empty((CORNERS, FILTERS), np.float32)
    for top in range(0, pooled_height, TILE_ROWS):
        rows = range(top, min(top + TILE_ROWS, pooled_height))
        for p in rows:
            for x in range(width):
                _map_input(
                    _at(half_iwo, x * FILTERS), width, _at(between_hwo, (POOLING * p * width + x) * FILTERS), width
                )
            for i in range(TILE):
                for q in range(pooled_width):
                    t = (p - top) * pooled_width + q
                    source = _at(half_iwo, (i * width + POOLING * q) * FILTERS)
                    _map_input(_at(inputs_eto, (i * TILE * tiles + t) * FILTERS), tiles, source, 1)
        for e in range(PRODUCTS):
            for t in range(0, len(rows) * pooled_width, PIXELS):
                place = (e * tiles + t) * FILTERS
                _multiply_tiles(_at(outputs_eto, place), _at(inputs_eto, place), _at(weight_eoo, e * FILTERS**2))
        for p in rows:
            for q in range(pooled_width):
                t = (p - top) * pooled_width + q
                for j in range(TILE):
                    source = _at(outputs_eto, (j * tiles + t) * FILTERS)
                    _map_output(_at(half_ijo, j * FILTERS), TILE, source, TILE * tiles)
                for i in range(POOLING):
                    _map_output(_at(window_ao, i * POOLING * FILTERS), 1, _at(half_ijo, i * TILE * FILTERS), 1)
                feature = (p * pooled_width + q) * FILTERS
                _pool(_at(features_pqo, feature), _at(corners_pqo, feature), _at(window_ao, 0), _at(bias_o, 0))


@numba.njit
def _add_by_weight2(by_weight_okko, between_hwo, found_bo, scales_bom, starts_bom):  # type: ignore[no-untyped-def]
    """Add rows of the image, scaled by gradients, to the gradient by the weight."""
    width = between_hwo.shape[1]
    bands, filters, most = scales_bom.shape
    for b in range(bands):
        for o in range(filters):
            listed = (b * filters + o) * most
            for r in range(KERNEL):
                for part in range(0, ROW, ROW_PART):
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

LANES = 8
ROW_PART = 64
"""Numbers of a row that are summed at once, in registers."""

_NUMBER, _INDEX, _BYTE, _LANE = ir.FloatType(), ir.IntType(64), ir.IntType(8), ir.IntType(32)
_VECTOR = ir.VectorType(_NUMBER, LANES)
_PLACES = range(0, FILTERS, LANES)
_FUSED = ("contract",)  # a product and its sum may be rounded once, where the processor can

Value = Any
Builder = Any


def _load(builder: Builder, base: Value, position: Value, kind: ir.Type = _VECTOR) -> Value:
    return builder.load(_pointer(builder, base, position, kind), align=4)


def _store(builder: Builder, value: Value, base: Value, position: Value) -> None:
    builder.store(value, _pointer(builder, base, position, _VECTOR), align=4)


def _pointer(builder: Builder, base: Value, position: Value, kind: ir.Type) -> Value:
    """Return a pointer to the float number `position` behind an address."""
    position = _INDEX(position) if isinstance(position, int) else position
    return builder.inttoptr(builder.add(base, builder.mul(position, _INDEX(4))), kind.as_pointer())


def _constant(number: float) -> Value:
    return ir.Constant(_VECTOR, [ir.Constant(_NUMBER, float(number))] * LANES)


def _everywhere(builder: Builder, number: Value) -> Value:
    """Return a vector of one number."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, number, _LANE(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES))


def _add_product(builder: Builder, register: Value, factor: Value, vector: Value) -> None:
    product = builder.fmul(factor, vector, flags=_FUSED)
    builder.store(builder.fadd(builder.load(register), product, flags=_FUSED), register)


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


def _addresses(count: int, generate: Callable[..., None]) -> Any:
    """Return what an intrinsic returns: its signature, and code made by `generate(builder, *values)`."""

    def code(context: Any, builder: Builder, _: Any, values: Sequence[Value]) -> Value:
        generate(builder, *values)
        return context.get_dummy_value()

    return types.void(*[types.intp] * count), code


@intrinsic  # type: ignore[untyped-decorator]
def _add_scaled_rows(_: Any, sums: Any, rows: Any, starts: Any, scales: Any, count: Any) -> Any:
    """Do sums[:] += sum_k scales[k] * rows[starts[k] : starts[k] + ROW_PART] over k < count."""

    def generate(builder: Builder, sums: Value, rows: Value, starts: Value, scales: Value, count: Value) -> None:
        registers = [cgutils.alloca_once(builder, _VECTOR) for _ in range(0, ROW_PART, LANES)]
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


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_tiles(_: Any, out: Any, left: Any, right: Any) -> Any:
    """Do out[r, :] = sum_i left[r, i] * right[i, :] for PIXELS rows r and FILTERS terms, without a loop.

    The loops of `_multiply` take a quarter longer for so few terms.
    """

    def generate(builder: Builder, out: Value, left: Value, right: Value) -> None:
        registers = [[cgutils.alloca_once_value(builder, _constant(0)) for _ in _PLACES] for _ in range(PIXELS)]
        for i in range(FILTERS):
            numbers = [_INDEX(r * FILTERS + i) for r in range(PIXELS)]
            _add_row(builder, registers, left, numbers, right, _INDEX(i))
        for r, pixel in enumerate(registers):
            for place, register in zip(_PLACES, pixel, strict=True):
                _store(builder, builder.load(register), out, r * FILTERS + place)

    return _addresses(3, generate)


def _linear_map(matrix: Sequence[Sequence[float]]) -> Any:
    """Return an intrinsic: out[i * out_step, o] = sum_j matrix[i, j] * rows[j * step, o] for all o."""

    @intrinsic  # type: ignore[untyped-decorator]
    def transform(_: Any, out: Any, out_step: Any, rows: Any, step: Any) -> Any:
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
                    _store(builder, total, out, position(i, out_step, place))

        return _addresses(4, generate)

    return transform


_map_input, _map_output = _linear_map(INPUT), _linear_map(OUTPUT)


@intrinsic  # type: ignore[untyped-decorator]
def _add_units(_: Any, out: Any, step: Any, weight: Any, strip: Any, starts: Any, count: Any) -> Any:
    """Do out[u * step + i] += sum_k weight[k, u] * strip[starts[k] + i] over k < count, for UNITS u and STRIP i."""

    def generate(
        builder: Builder, out: Value, step: Value, weight: Value, strip: Value, starts: Value, count: Value
    ) -> None:
        places = [
            [builder.add(builder.mul(step, _INDEX(u)), _INDEX(i)) for i in range(0, STRIP, LANES)] for u in range(UNITS)
        ]
        registers = [
            [cgutils.alloca_once_value(builder, _load(builder, out, place)) for place in row] for row in places
        ]
        with cgutils.for_range(builder, count) as k:
            start = _load(builder, starts, builder.mul(k.index, _INDEX(2)), _INDEX)
            vectors = [_load(builder, strip, builder.add(start, _INDEX(i))) for i in range(0, STRIP, LANES)]
            for u, row in enumerate(registers):
                position = builder.add(builder.mul(k.index, _INDEX(UNITS)), _INDEX(u))
                factor = _everywhere(builder, _load(builder, weight, position, _NUMBER))
                for register, vector in zip(row, vectors, strict=True):
                    _add_product(builder, register, factor, vector)
        for row, registers_of_row in zip(places, registers, strict=True):
            for place, register in zip(row, registers_of_row, strict=True):
                _store(builder, builder.load(register), out, place)

    return _addresses(6, generate)


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
def _prefetch(_: Any, address: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(builder: Builder, address: Value) -> None:
        line = builder.inttoptr(address, _BYTE.as_pointer())
        of_type = ir.FunctionType(ir.VoidType(), [line.type, _LANE, _LANE, _LANE])
        function = cgutils.get_or_insert_function(builder.module, of_type, "llvm.prefetch.p0i8")
        builder.call(function, [line, _LANE(0), _LANE(3), _LANE(1)])  # to read, into the first cache, data

    return _addresses(1, generate)


@intrinsic  # type: ignore[untyped-decorator]
def _pool(_: Any, features: Any, corners: Any, window: Any, bias: Any) -> Any:
    """Do features[o] = relu(max_a window[a, o] + bias[o]), and write that a, of equal ones the first, as a byte."""

    def generate(builder: Builder, features: Value, corners: Value, window: Value, bias: Value) -> None:
        numbers, whole = ir.VectorType(_LANE, LANES), ir.VectorType(_BYTE, LANES)
        for place in _PLACES:
            best, corner = _load(builder, window, place), ir.Constant(numbers, [0] * LANES)
            for a in range(1, CORNERS):
                other = _load(builder, window, a * FILTERS + place)
                better = builder.fcmp_ordered(">", other, best)
                better = builder.or_(better, builder.fcmp_unordered("uno", other, other))  # NaN is the maximum
                best = builder.select(better, other, best)
                corner = builder.select(better, ir.Constant(numbers, [a] * LANES), corner)
            _store(builder, _relu(builder, builder.fadd(best, _load(builder, bias, place))), features, place)
            target = builder.inttoptr(builder.add(corners, _INDEX(place)), whole.as_pointer())
            builder.store(builder.trunc(corner, whole), target, align=1)

    return _addresses(4, generate)
