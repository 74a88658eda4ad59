"""Small random distortions of the images that a fit sees; acquisition and test see the images as they are.

Each kind draws a map of the plane for every image of every batch, small enough to keep the label; the image is sampled
once along it (bilinear; outside, the border goes on). A new kind is one function and one line in `AUGMENTATIONS`.

Dimensions: N images, H and W their height and width. Coordinates run from -1 to 1 across an image, x before y, and
sizes in pixels are those of an image of 28 pixels a side.
"""

import math
from collections.abc import Callable

from torch import Generator, Tensor, rand, randn, stack
from torch.nn import functional

ROTATION, SCALING, SHEAR, SHIFT = 15.0, 0.1, 0.2, 2.0
"""The most that strength 1 rotates (degrees), scales (a fraction), shears, and shifts (pixels)."""

BEND, BENDS = 0.6, 6
"""Elastic shifts: their standard deviation at strength 1 (pixels), and how many of them are drawn along a side."""

PIXEL = 2 / 28

Draw = Callable[[int, int, int, float, Generator], Tensor]
"""From N, H, W, the strength and where to draw from: the places (N, H, W, 2) at which the images are sampled."""


def augmentation(kind: str, strength: float = 1.0) -> Callable[[Tensor, Generator], Tensor] | None:
    """Return what distorts a batch, or None for "none".

    The result takes images (N, channels, H, W) of any number type, and the generator (on the CPU) to draw from. It
    returns float32 images, whose pixels are within the range of those given.

    Args:
        kind: a key of `AUGMENTATIONS`.
        strength: factor of the size of every distortion but mirroring, above 0.
    """
    draw = AUGMENTATIONS[kind]
    if draw is None:
        return None

    def augment(images_nchw: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images_nchw.shape
        places_nhw2 = draw(count, height, width, strength, generator).to(images_nchw.device)
        return functional.grid_sample(images_nchw.float(), places_nhw2, padding_mode="border", align_corners=False)

    return augment


def _affine(count: int, height: int, width: int, strength: float, generator: Generator) -> Tensor:
    """Rotate, scale, shear and shift (all uniform within their bounds)."""
    uniform_6n = strength * (2 * rand(6, count, generator=generator) - 1)
    angle = math.radians(ROTATION) * uniform_6n[0]
    cos, sin = angle.cos(), angle.sin()
    scale_x, scale_y = 1 + SCALING * uniform_6n[1], 1 + SCALING * uniform_6n[2]
    shear = SHEAR * uniform_6n[3]
    shift_x, shift_y = SHIFT * PIXEL * uniform_6n[4:]
    longer = height / width  # in an image that is no square, a unit of y is not one of x
    rows = [
        stack([scale_x * cos, longer * scale_y * (shear * cos - sin), shift_x], dim=1),
        stack([scale_x * sin / longer, scale_y * (shear * sin + cos), shift_y], dim=1),
    ]
    return functional.affine_grid(stack(rows, dim=1), [count, 1, height, width], align_corners=False)


def _elastic(count: int, height: int, width: int, strength: float, generator: Generator) -> Tensor:
    """Bend each image by smooth random shifts (after Simard, Steinkraus and Platt 2003), and distort it affinely."""
    coarse_n2bb = strength * BEND * PIXEL * randn(count, 2, BENDS, BENDS, generator=generator)
    shifts_n2hw = functional.interpolate(coarse_n2bb, (height, width), mode="bicubic", align_corners=True)
    return _affine(count, height, width, strength, generator) + shifts_n2hw.permute(0, 2, 3, 1)


def _flip(count: int, height: int, width: int, strength: float, generator: Generator) -> Tensor:
    """Mirror left and right half of the images, and shift all: for things that have no handedness, such as clothes."""
    mirrored_n = 1 - 2.0 * (rand(count, generator=generator) < 0.5)
    shift_x, shift_y = strength * SHIFT * PIXEL * (2 * rand(2, count, generator=generator) - 1)
    zeros, ones = mirrored_n * 0, mirrored_n * 0 + 1
    rows = [stack([mirrored_n, zeros, shift_x], dim=1), stack([zeros, ones, shift_y], dim=1)]
    return functional.affine_grid(stack(rows, dim=1), [count, 1, height, width], align_corners=False)


AUGMENTATIONS: dict[str, Draw | None] = {"none": None, "affine": _affine, "elastic": _elastic, "flip": _flip}
