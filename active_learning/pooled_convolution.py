"""The gradients of a convolution that is followed by max pooling and relu, without multiplying zeros.

A 2x2 pooling hands each gradient on to one of four places, and the relu and the dropout behind it stop a part of them:
less than a fifth of the convolution's outputs have a gradient. A library's convolution multiplies the zeros too; here
the others are added up one by one. With the channels side by side in memory, a gradient g at the output (y, x) of
filter o is, for each row r of the kernel, a scaled row in two sums:

    image gradient [y + r, x : x + K, :]  +=  g * weight[o, r, :, :]
    weight gradient [o, r, :, :]          +=  g * image[y + r, x : x + K, :]

Sums that belong together are made together, so that they stay in the processor's registers.

Dimensions: N images, H and W their height and width, C channels, O filters, K the kernel's side, L = K * C numbers of
a row, P and Q the pooled height and width, A the 4 corners of a pooling window.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

POOLING = 2
CORNERS = POOLING * POOLING

LANES, VECTORS = 8, 8
ROW_PART = LANES * VECTORS
"""Numbers of a row that are summed at once, in registers."""

IMAGES_PER_PART = 16
"""Images whose gradients one thread sums: a fixed number, so that the threads change no rounding."""

POOLED_ROWS = 3
"""Pooled rows after which the weight's gradient turns to the next filter: their images fit into the first cache."""

Floats = npt.NDArray[np.float32]


def pooled_convolution_gradients(
    images_nhwc: Floats,
    weight_okkc: Floats,
    pooled_npqo: Floats,
    places_npqo: npt.NDArray[np.int64],
    gradient_npqo: Floats,
    *,
    threads: int = 1,
) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of relu(max_pool(convolution(relu(x), weight) + bias)) by x, weight and bias.

    Args:
        images_nhwc: relu(x).
        weight_okkc: the convolution's weight.
        pooled_npqo: what the pooling put out, before or after the relu.
        places_npqo: where each maximum stood in the convolution's output, counted row by row from 0.
        gradient_npqo: the gradient by the last relu's outputs.
        threads: threads that compute; they change nothing in the result.

    Returns:
        Gradients (N, H, W, C), (O, K, K, C) and (O,).

    Raises:
        ValueError: if a row of the kernel, K * C numbers, is no multiple of 64.
    """
    count, height, width, channels = images_nhwc.shape
    filters, kernel = weight_okkc.shape[:2]
    length = kernel * channels
    if length % ROW_PART:
        raise ValueError(f"the kernel's side times the channels is {length}: take a multiple of {ROW_PART}.")
    weight_kol = np.ascontiguousarray(weight_okkc.reshape(filters, kernel, length).swapaxes(0, 1))
    arrays = [np.ascontiguousarray(array) for array in (images_nhwc, pooled_npqo, places_npqo, gradient_npqo)]
    by_images = np.empty((count, height, width * channels), np.float32)
    starts = range(0, count, IMAGES_PER_PART)
    by_weight = np.zeros((len(starts), filters, kernel, length), np.float32)
    by_bias = np.zeros((len(starts), filters), np.float32)

    def compute(part: int) -> None:
        few = slice(starts[part], starts[part] + IMAGES_PER_PART)
        images, *outputs = (array[few] for array in arrays)
        images_nhw = images.reshape(len(images), height, width * channels)
        _gradients_of_part(by_images[few], by_weight[part], by_bias[part], images_nhw, weight_kol, *outputs)

    if threads == 1:
        for part in range(len(starts)):
            compute(part)
    else:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(compute, range(len(starts))))
    return by_images.reshape(images_nhwc.shape), by_weight.sum(axis=0).reshape(weight_okkc.shape), by_bias.sum(axis=0)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function at its first use, and keep the machine code beside this file or in the user's cache."""
    try:
        compiled: Callable[..., None] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither can be written to: each process compiles anew, which takes seconds
        compiled = numba.njit(nogil=True)(function)
    return compiled


@_compiled
def _gradients_of_part(  # type: ignore[no-untyped-def]
    by_images_nhw, by_weight_okl, by_bias_o, images_nhw, weight_kol, pooled_npqo, places_npqo, gradient_npqo
):
    """Write the gradient by the images into the first array, and add the others' parts to the second and third."""
    kernel, filters, length = weight_kol.shape
    count, height, width = images_nhw.shape
    pooled_height, pooled_width = pooled_npqo.shape[1:3]
    channels = length // kernel
    columns = width // channels - kernel + 1
    # Gradients and where their rows start: for each filter in the image, and for each corner of a window in the weight.
    bands = (pooled_height + POOLED_ROWS - 1) // POOLED_ROWS
    most = POOLED_ROWS * pooled_width
    found_bo = np.empty((bands, filters), np.int64)
    scales_bom, starts_bom = np.empty((bands, filters, most), np.float32), np.empty((bands, filters, most), np.int64)
    corners = (pooled_height, pooled_width, CORNERS)
    found_pqa = np.empty(corners, np.int64)
    scales_pqao, starts_pqao = np.empty((*corners, filters), np.float32), np.empty((*corners, filters), np.int64)
    for n in range(count):
        found_bo[:] = 0
        found_pqa[:] = 0
        for p in range(pooled_height):
            b = p // POOLED_ROWS
            for q in range(pooled_width):
                for o in range(filters):
                    gradient = gradient_npqo[n, p, q, o]
                    if gradient == 0 or pooled_npqo[n, p, q, o] <= 0:
                        continue
                    by_bias_o[o] += gradient
                    place = places_npqo[n, p, q, o] - POOLING * (p * columns + q)
                    down = 1 if place >= columns else 0
                    right = place - down * columns
                    m = found_bo[b, o]
                    scales_bom[b, o, m] = gradient
                    starts_bom[b, o, m] = (POOLING * p + down) * width + (POOLING * q + right) * channels
                    found_bo[b, o] = m + 1
                    a = POOLING * down + right
                    m = found_pqa[p, q, a]
                    scales_pqao[p, q, a, m] = gradient
                    starts_pqao[p, q, a, m] = o * length
                    found_pqa[p, q, a] = m + 1
        for b in range(bands):
            for o in range(filters):
                for r in range(kernel):
                    for part in range(0, length, ROW_PART):
                        _add_scaled_rows(
                            by_weight_okl.ctypes.data + 4 * ((o * kernel + r) * length + part),
                            images_nhw.ctypes.data + 4 * ((n * height + r) * width + part),
                            starts_bom.ctypes.data + 8 * (b * filters + o) * most,
                            scales_bom.ctypes.data + 4 * (b * filters + o) * most,
                            found_bo[b, o],
                        )
        by_images_nhw[n] = 0
        for r in range(kernel):  # the outermost: one row of all filters stays in the first cache
            for part in range(0, length, ROW_PART):
                for p in range(pooled_height):
                    for q in range(pooled_width):
                        for a in range(CORNERS):
                            y, x = POOLING * p + a // POOLING + r, POOLING * q + a % POOLING
                            first = ((p * pooled_width + q) * CORNERS + a) * filters
                            _add_scaled_rows(
                                by_images_nhw.ctypes.data + 4 * ((n * height + y) * width + x * channels + part),
                                weight_kol.ctypes.data + 4 * (r * filters * length + part),
                                starts_pqao.ctypes.data + 8 * first,
                                scales_pqao.ctypes.data + 4 * first,
                                found_pqa[p, q, a],
                            )
        for y in range(height):
            for x in range(width):
                by_images_nhw[n, y, x] = np.float32(0) if images_nhw[n, y, x] <= 0 else by_images_nhw[n, y, x]


@intrinsic  # type: ignore[untyped-decorator]
def _add_scaled_rows(_: Any, sums: Any, rows: Any, starts: Any, scales: Any, count: Any) -> Any:
    """Do sums[:] += sum_k scales[k] * rows[starts[k] : starts[k] + ROW_PART], for k < count; all but count: addresses.

    Written in the compiler's own terms, since numba would load and store every sum at every step.
    """
    number, index, lane = ir.FloatType(), ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(number, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    all_the_first = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        sums, rows, starts, scales, count = arguments

        def pointer(base: Any, position: Any, kind: Any, size: int) -> Any:
            address = builder.add(base, builder.mul(position, index(size)))
            return builder.inttoptr(address, kind.as_pointer())

        def load(base: Any, position: Any, kind: Any, size: int, align: int = 4) -> Any:
            return builder.load(pointer(base, position, kind, size), align=align)

        registers = [cgutils.alloca_once(builder, vector) for _ in range(VECTORS)]
        for place, register in enumerate(registers):
            builder.store(load(sums, index(place), vector, 4 * LANES), register)
        with cgutils.for_range(builder, count) as loop:
            scale = builder.insert_element(undefined, load(scales, loop.index, number, 4), lane(0))
            scale = builder.shuffle_vector(scale, undefined, all_the_first)
            row = builder.add(rows, builder.mul(load(starts, loop.index, index, 8, align=8), index(4)))
            for place, register in enumerate(registers):
                product = builder.fmul(scale, load(row, index(place), vector, 4 * LANES), flags=("contract",))
                builder.store(builder.fadd(builder.load(register), product, flags=("contract",)), register)
        for place, register in enumerate(registers):
            builder.store(builder.load(register), pointer(sums, index(place), vector, 4 * LANES), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, types.intp), generate
