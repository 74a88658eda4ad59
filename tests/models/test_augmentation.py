"""Distortions: they move things a little, keep every pixel's range, and are the same for the same seed."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import active_learning.models.augmentation
from active_learning.models.augmentation import AUGMENTATIONS, augmentation
from active_learning.settings.config import Augmentation

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [kind for kind in AUGMENTATIONS if kind != "none"]


def distorted(kind: str, images: Tensor, strength: float = 1.0, seed: int = 0) -> Tensor:
    augment = augmentation(kind, strength)
    assert augment is not None
    return augment(images, torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def ramps(count: int, side: int = 28) -> tuple[Tensor, Tensor]:
    """Two batches whose pixels are the column and the row they stand in: a distortion shows where it took them from."""
    places = torch.arange(side, dtype=torch.float32)
    return places.expand(count, 1, side, side), places[:, None].expand(count, 1, side, side)


def moved(kind: str, strength: float, count: int = 400, margin: int = 6) -> Tensor:
    """How far (N, h, w) the pixels came from, in pixels, away from the border."""
    inside = slice(margin, -margin)
    shifts = [(distorted(kind, ramp, strength) - ramp)[:, 0, inside, inside] for ramp in ramps(count)]
    return torch.hypot(*shifts)


def test_a_rotated_image_that_is_no_square_stays_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("SCALING", "SHEAR", "SHIFT"):
        monkeypatch.setattr(active_learning.models.augmentation, size, 0.0)
    height, width = 16, 48
    place_y, place_x = torch.meshgrid(torch.arange(16.0), torch.arange(48.0), indexing="ij")
    came_from = [distorted("affine", place.expand(50, 1, 16, 48)) for place in (place_x, place_y)]
    inside = slice(height // 2 - 2, height // 2 + 2), slice(width // 2 - 2, width // 2 + 2)
    step_x = torch.stack([(place[..., 1:] - place[..., :-1])[:, 0][:, *inside] for place in came_from])
    torch.testing.assert_close(step_x.norm(dim=0), torch.ones_like(step_x[0]), atol=1e-4, rtol=0)
    assert step_x[1].abs().max() > 0.1, "and it is rotated"


def test_the_flag_takes_what_there_is() -> None:
    assert get_args(Augmentation) == tuple(AUGMENTATIONS)


def test_none_distorts_nothing() -> None:
    assert augmentation("none") is None
    assert augmentation("none", 2.0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_the_same_bytes_and_another_gives_others(kind: str) -> None:
    images = noise(20, 1, 28, 28)
    first = distorted(kind, images, seed=3)
    assert torch.equal(distorted(kind, images, seed=3), first)
    assert not torch.equal(distorted(kind, images, seed=4), first)
    assert torch.equal(images, noise(20, 1, 28, 28)), "the images themselves stay as they are"


@pytest.mark.parametrize("kind", KINDS)
def test_each_batch_and_each_image_has_a_distortion_of_its_own(kind: str) -> None:
    images = noise(1, 1, 28, 28).expand(8, -1, -1, -1)
    augment = augmentation(kind)
    assert augment is not None
    generator = torch.Generator().manual_seed(0)
    both = torch.cat([augment(images, generator), augment(images, generator)])
    assert len({image.numpy().tobytes() for image in both}) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_no_global_generator_is_drawn_from(kind: str) -> None:
    before = torch.get_rng_state()
    distorted(kind, noise(3, 1, 28, 28))
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(*(st.integers(1, most) for most in (4, 3, 40, 40))),
    strength=st.floats(0.01, 5),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_images_keep_their_shape_and_their_range(
    kind: str, shape: tuple[int, int, int, int], strength: float, seed: int
) -> None:
    images = noise(*shape, seed=seed % 1000)
    result = distorted(kind, images, strength, seed)
    assert result.shape == shape
    assert result.dtype == torch.float32
    low, high = images.float().amin((2, 3), keepdim=True), images.float().amax((2, 3), keepdim=True)
    assert bool(((result >= low - 1e-3) & (result <= high + 1e-3)).all()), "of each channel by itself"


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS), value=st.integers(0, 255), strength=st.floats(0.01, 5), seed=st.integers(0, 2**63 - 1)
)
def test_constant_images_stay_constant(kind: str, value: int, strength: float, seed: int) -> None:
    images = torch.full((3, 1, 28, 20), value, dtype=torch.uint8)
    torch.testing.assert_close(distorted(kind, images, strength, seed), images.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_all_channels_of_an_image_move_alike(kind: str) -> None:
    grey = noise(5, 1, 28, 24)
    coloured = torch.cat([grey, 255 - grey, grey], dim=1)
    result = distorted(kind, coloured)
    torch.testing.assert_close(result[:, :1], distorted(kind, grey))
    torch.testing.assert_close(result[:, 1], 255 - result[:, 0], atol=1e-2, rtol=0)
    torch.testing.assert_close(result[:, 2], result[:, 0])


@pytest.mark.parametrize("kind", ["affine", "elastic"])
def test_a_tiny_strength_is_nearly_the_identity(kind: str) -> None:
    images = noise(20, 1, 28, 28)
    assert (distorted(kind, images, 1e-6) - images.float()).abs().max() < 0.05
    assert (distorted(kind, images, 1.0) - images.float()).abs().mean() > 10


@pytest.mark.parametrize("kind", ["affine", "elastic"])
def test_strength_scales_the_distortion(kind: str) -> None:
    at_half, at_one = (float(moved(kind, strength).mean()) for strength in (0.5, 1.0))
    assert at_one == pytest.approx(2 * at_half, rel=0.15)
    assert 0.8 < at_one < 3, "pixels of 28: enough to matter, too few to change a digit"


def test_shifts_are_of_two_pixels_at_most_and_in_every_direction() -> None:
    at_centre = torch.stack(
        [(distorted("affine", ramp) - ramp)[:, 0, 13:15, 13:15].mean((1, 2)) for ramp in ramps(900)]
    )
    assert 1.8 < at_centre.abs().max() <= 2.01
    assert at_centre.mean(dim=1).abs().max() < 4 * 2 / 3**0.5 / 900**0.5
    assert at_centre.std(dim=1).sub(2 / 3**0.5).abs().max() < 0.1, "uniform"
    assert torch.corrcoef(at_centre)[0, 1].abs() < 0.15


def test_rotation_scale_and_shear_are_within_their_bounds() -> None:
    column, row = (distorted("affine", ramp)[:, 0, 6:-6, 6:-6] for ramp in ramps(900))
    jacobian = torch.stack(
        [torch.stack([place.diff(dim=axis).mean((1, 2)) for axis in (2, 1)], dim=1) for place in (column, row)], dim=1
    ).double()  # from columns and rows of the result to those of the image
    rotated, triangular = torch.linalg.qr(jacobian)
    signs = triangular.diagonal(dim1=1, dim2=2).sign()
    rotated, triangular = rotated * signs[:, None], triangular * signs[:, :, None]
    degrees = torch.rad2deg(torch.atan2(rotated[:, 1, 0], rotated[:, 0, 0]))
    assert 14 < degrees.abs().max() < 15.1
    assert abs(float(degrees.mean())) < 4 * 15 / 3**0.5 / 30
    scales, shears = triangular.diagonal(dim1=1, dim2=2), triangular[:, 0, 1] / triangular[:, 1, 1]
    for scale in scales.T:  # each way by itself
        assert 0.899 < scale.min() < 0.91
        assert 1.09 < scale.max() < 1.101
    assert 0.19 < shears.abs().max() < 0.201


def test_elastic_bends_what_affine_leaves_straight() -> None:
    def bend(kind: str) -> float:
        return float(distorted(kind, ramps(50)[0])[:, 0, 6:-6, 6:-6].diff(n=2, dim=2).abs().mean())

    assert bend("affine") < 1e-4
    assert bend("elastic") > 0.01


def test_flip_mirrors_half_of_the_images_left_to_right() -> None:
    column, row = (distorted("flip", ramp) for ramp in ramps(400))
    slopes = column[:, 0, 14, 10:18].diff(dim=1).mean(dim=1)
    torch.testing.assert_close(slopes.abs(), torch.ones(400), atol=1e-4, rtol=0)
    mirrored = int((slopes < 0).sum())
    assert 160 <= mirrored <= 240, "four standard deviations about 200"
    assert bool((row[:, 0, 10:18, 14].diff(dim=1) > 0.99).all()), "never upside down"


def test_a_tiny_strength_of_flip_leaves_exact_mirrors() -> None:
    images = noise(40, 1, 28, 28)
    result = distorted("flip", images, 1e-6)
    as_it_is, mirrored = ((result - wanted.float()).abs().amax((1, 2, 3)) < 0.05 for wanted in (images, images.flip(3)))
    assert bool((as_it_is ^ mirrored).all())
    assert as_it_is.any()
    assert mirrored.any()


def test_sizes_are_those_of_an_image_of_28_pixels() -> None:
    """An image of half the side moves by half as many pixels, and one of other sides by each of them."""
    small = torch.stack([(distorted("affine", ramp) - ramp)[:, 0, 6:8, 6:8].mean((1, 2)) for ramp in ramps(300, 14)])
    large = torch.stack([(distorted("affine", ramp) - ramp)[:, 0, 13:15, 13:15].mean((1, 2)) for ramp in ramps(300)])
    torch.testing.assert_close(2 * small, large, atol=1e-3, rtol=0)
