"""All images as one array on disk, and each content once, under the first of its files' names."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from active_learning.ranking.cache import Cache, Images, Progress, working_threads
from active_learning.ranking.files import Listing
from active_learning.ranking.pixels import Header, guarded, read_header
from load_data import DataError

EXTREME = 3
"""An image so many times as wide as it is high, or more, is a different picture once it is pressed into a square."""

FRESH_SECONDS = 2
"""A file that was changed so shortly before it was read may change again without another time of change."""


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


def open_library(
    listing: Listing, folder: Path, size: int, limits: tuple[int, int], progress: Progress, check: Callable[[], None]
) -> Library:
    """Return the images of a listing, decoded as far as the cache does not have them.

    Args:
        listing: the files.
        folder: where the cache is.
        size: pixels a side; 0 = the median of the images' sides, within `limits`.
        limits: the least and the most of those.
        progress: shows how far it is.
        check: called for every image; what it raises ends the work.

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
    settled = {name for name, (_, changed) in stamps.items() if changed < now - FRESH_SECONDS * 10**9}
    headers = {answer.file_name: headers[answer.file_name] for answer in listing.answers}
    cache.know({name: stamps[name] for name in headers if name in settled}, headers)
    return headers


def _extreme(headers: Mapping[str, Header]) -> tuple[int, str]:
    names = [
        name
        for name, header in headers.items()
        if not header.fault and max(header.width, header.height) >= EXTREME * min(header.width, header.height)
    ]
    return len(names), (names[0] if names else "")
