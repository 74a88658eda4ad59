"""One image file: what it holds, and the pixels that a network sees of it. Pillow decodes."""

import errno
import hashlib
import io
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

MOST_MEGAPIXELS = 90
"""The largest image that is decoded; larger ones may be small files made to fill the memory."""

GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"))
EXIF_ORIENTATION = 0x0112
TURNED = range(5, 9)
"""Orientations in which width and height change places."""


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are decoded.

    Attributes:
        sha256: of its content; empty where it cannot be read.
        width: in pixels, as it is looked at.
        height: in pixels, as it is looked at.
        grey: whether its kind of pixels has no colour.
        fault: why it is left out, or nothing.
    """

    sha256: str = ""
    width: int = 0
    height: int = 0
    grey: bool = True
    fault: str = ""


class PassingFault(str):
    """A fault that the system is to blame for, and not the file: it may be gone the next time, and is not kept."""


AGAIN = "give the command again"
LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What the system says of files and folders that are the same the next time; of others it may say something else."""


def fault(error: Exception, words: str, lasting: Collection[int] = LASTING) -> str:
    """Return what is wrong with a file that could not be read, and whether that may be gone the next time."""
    passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, *lasting))
    return PassingFault(f"{words}: {AGAIN}") if passing else words


@contextmanager
def guarded() -> Iterator[None]:
    """Refuse decompression bombs, and be silent of what Pillow finds odd in an image that it can read."""
    most = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MOST_MEGAPIXELS * 1_000_000
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = most


def read_header(path: Path) -> Header:
    """Return a file's digest and what its header says; it raises nothing."""
    try:
        content = path.read_bytes()
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or "it is larger than the memory"
        return Header(fault=fault(error, f"it cannot be read: {why}"))
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if image.getexif().get(EXIF_ORIENTATION) in TURNED:
                width, height = height, width
            return Header(sha256, width, height, image.mode in GREY_MODES)
    except Exception as error:  # decoders of damaged files raise whatever their code ran into
        return Header(sha256, fault=fault(error, _why(error)))


def decode(path: Path, size: int, *, grey: bool, sha256: str = "") -> npt.NDArray[np.uint8] | str:
    """Return the pixels (channels, size, size) of a file, or why there are none.

    The whole image is seen, pressed into a square; it is turned as its EXIF says; what is transparent lies over white;
    16 bits become 8 by their share of the largest value.

    Args:
        path: the file.
        size: pixels a side.
        grey: one channel, else three.
        sha256: of the content that is meant; a file that has another one by now is left out.
    """
    try:
        content = path.read_bytes()
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            return PassingFault(f"it was changed while the images were read: {AGAIN}")
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (size, size))  # a JPEG is decoded at a half, a quarter or an eighth where that is enough
            upright = _eight_bits(ImageOps.exif_transpose(image), "L" if grey else "RGB")
        if upright.size != (size, size):
            upright = upright.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
        pixels_hwc = np.asarray(upright).reshape(size, size, -1)
        return np.ascontiguousarray(np.moveaxis(pixels_hwc, -1, 0))
    except Exception as error:  # as above
        return fault(error, _why(error), lasting=())  # its header was read


def thumbnail(path: Path, most: int) -> Image.Image | None:
    """Return a small picture of a file, of at most so many pixels a side, or None where there can be none."""
    try:
        with Image.open(path) as image:
            image.draft(None, (most, most))
            upright = _eight_bits(ImageOps.exif_transpose(image), "L" if image.mode in GREY_MODES else "RGB")
        upright.thumbnail((most, most))
        return upright
    except Exception:
        return None


def decoding_threads() -> int:
    """Return how many files are decoded at once: as many as this process has cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in mode `L` or `RGB`."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would cut off what is above 255
        image = Image.fromarray(_from_sixteen(np.asarray(image)))
    elif image.has_transparency_data:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
        mode = "L" if mode == "L" else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _from_sixteen(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits: save it with 8 or 16")
    return np.rint(values / 257).astype(np.uint8)


def _why(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more than {MOST_MEGAPIXELS} million pixels: save it smaller"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image that Pillow knows"
    words = getattr(error, "strerror", None) or str(error)  # the file's name stands beside it
    return f"it cannot be decoded: {' '.join(words.split()) or type(error).__name__}"
