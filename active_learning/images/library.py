"""All images as one array on disk, and each content once, under the first of its files' names."""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from active_learning.images.cache import Cache, Images, Progress, working_threads
from active_learning.images.files import Listing
from active_learning.images.pixels import Header, PassingFault, guarded, read_header
from load_data import DataError

EXTREME = 3
"""An image so many times as wide as it is high, or more, is a different picture once it is pressed into a square."""

MOST_SIDE = 64
"""The largest side that is taken by itself: a network from scratch learns little more from larger images."""

FRESH_SECONDS = 2
"""A file that was changed so shortly before it was read may change again without another time of change."""


MOST_MEASURED = 10_000
"""Images, evenly spread over all, whose pixels give the mean and the standard deviation."""


MEASURED_AT_ONCE = 200
"""Of these images, so many are in memory as numbers of eight bytes."""


@dataclass(frozen=True)
class Picture:
    """One content, under the first of its files' names.

    Attributes:
        file_name: relative to the folder of images.
        sha256: of the content.
        row: its place in the array.
        others: the other files that have this content.
    """

    file_name: str
    sha256: str
    row: int
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """The images that can be ranked.

    Attributes:
        pictures: each content once, in the order of names.
        pixels: uint8 (rows, channels, size, size), on disk.
        skipped: files that are left out, with the reason.
        decoded: how many were decoded now, and not found in the cache.
        extreme: how many are far from a square, and the first of them.
    """

    pictures: tuple[Picture, ...]
    pixels: Images
    skipped: Mapping[str, str]
    decoded: int
    extreme: tuple[int, str]

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.pixels.shape[-1])

    def by_name(self) -> dict[str, Picture]:
        """Return the picture of every file name, of copies too."""
        return {name: picture for picture in self.pictures for name in (picture.file_name, *picture.others)}


@dataclass(frozen=True)
class Label:
    """The class of a content, and which file says so, where."""

    name: str
    file_name: str
    where: str


def open_library(
    listing: Listing,
    folder: Path,
    size: int,
    limits: tuple[int, int],
    progress: Progress,
    check: Callable[[], None],
    accept: Callable[[Collection[str]], None] = lambda _: None,
) -> Library:
    """Return the images of a listing, decoded as far as the cache does not have them.

    Args:
        listing: the files.
        folder: where the cache is.
        size: pixels a side; 0 = the median of the images' sides, within `limits`.
        limits: the least and the most of those.
        progress: shows how far it is.
        check: called for every image; what it raises ends the work.
        accept: given the sha256 of every image before the cache is touched; what it raises ends the work.

    Raises:
        DataError: when none of them can be decoded.
        OSError: when the disk is full.
    """
    cache = Cache(folder)
    with guarded():
        headers = _headers(listing, cache, progress, check)
        names: dict[str, list[str]] = {}
        for name, header in headers.items():
            if not header.fault:
                names.setdefault(header.sha256, []).append(name)
        accept(names)
        first = {sha256: headers[several[0]] for sha256, several in names.items()}
        sides = [side for header in first.values() for side in (header.width, header.height)]
        size = size or int(min(max(median(sides or [0]), limits[0]), limits[1]))
        grey = all(header.grey for header in first.values())
        paths = {sha256: listing.path(several[0]) for sha256, several in names.items()}
        pixels, decoded = cache.pixels(paths, size, grey, progress, check)
    faults = {name: header.fault for name, header in headers.items() if header.fault}
    faults |= {name: cache.faults[sha] for sha, several in names.items() if sha in cache.faults for name in several}
    pictures = tuple(
        Picture(several[0], sha256, cache.rows[sha256], tuple(several[1:]))
        for sha256, several in names.items()
        if sha256 not in cache.faults
    )
    if not pictures:
        name, reason = next(iter(faults.items()))
        raise DataError(f"none of the {len(faults)} images can be used; {name}: {reason}.")
    return Library(pictures, pixels, {**listing.skipped, **faults}, decoded, _extreme(headers))


def given_labels(listing: Listing, library: Library) -> dict[str, Label]:
    """Return the labels that folders, or the CSV of the images, give: by the content's sha256, in the order of names.

    Raises:
        DataError: when two files of the same content have different classes.
    """
    pictures = library.by_name()
    found: dict[str, Label] = {}
    for answer in listing.answers:
        if not answer.label or answer.file_name not in pictures:
            continue
        picture = pictures[answer.file_name]
        before = found.setdefault(picture.sha256, Label(answer.label, answer.file_name, answer.where))
        if before.name != answer.label:
            raise DataError(
                f"{answer.where}: {answer.file_name!r} is {answer.label!r}, and {before.file_name!r}, the same image, "
                f"is {before.name!r} in {before.where}: give both one class, or leave one of the two out."
            )
    return found


def mean_and_std(inputs: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the numbers / 255 in each channel, of rows evenly spread over all of these.

    A channel that is the same everywhere counts as having the deviation of one grey level; of a feature, 1e-3.
    """
    some = rows[:: -(-len(rows) // MOST_MEASURED)]
    least = 1 if inputs.dtype == np.uint8 else 1e-3

    def mean(of: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        parts = np.array_split(some, -(-len(some) // MEASURED_AT_ONCE))
        total_c = sum(of(inputs[part].astype(float)).sum(axis=(0, 2, 3)) for part in parts)
        return np.asarray(total_c / (len(some) * np.prod(inputs.shape[2:])))

    mean_c = mean(lambda block: block)
    std_c = np.sqrt(mean(lambda block: (block - mean_c[:, None, None]) ** 2)).clip(min=least)
    return tuple((mean_c / 255).tolist()), tuple((std_c / 255).tolist())


def _headers(listing: Listing, cache: Cache, progress: Progress, check: Callable[[], None]) -> dict[str, Header]:
    """Return what is known of each file, read where it has changed."""
    headers: dict[str, Header] = {}
    stamps: dict[str, list[int]] = {}
    now = time.time_ns()
    for answer in listing.answers:
        name = answer.file_name
        with suppress(OSError):  # reading it will say why
            state = listing.path(name).stat()
            stamps[name] = [state.st_size, state.st_mtime_ns]
        if name in stamps and stamps[name] == cache.stamps.get(name):
            headers[name] = cache.headers[name]
    unread = [answer.file_name for answer in listing.answers if answer.file_name not in headers]
    with working_threads() as threads:
        read = threads.map(read_header, map(listing.path, unread))
        for name, header in zip(unread, progress(read, "read", len(unread)), strict=True):
            check()
            headers[name] = header
    headers = {answer.file_name: headers[answer.file_name] for answer in listing.answers}
    old = now - FRESH_SECONDS * 10**9
    settled = {
        name
        for name, (_, changed) in stamps.items()
        if changed < old and headers[name].sha256 and not isinstance(headers[name].fault, PassingFault)
    }
    cache.know({name: stamps[name] for name in headers if name in settled}, headers)
    return headers


def _extreme(headers: Mapping[str, Header]) -> tuple[int, str]:
    names = [
        name
        for name, header in headers.items()
        if not header.fault and max(header.width, header.height) >= EXTREME * min(header.width, header.height)
    ]
    return len(names), (names[0] if names else "")
