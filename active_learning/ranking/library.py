"""All images as one array on disk: each content decoded once, and kept under its digest.

`cache/index.json` holds what is known of each file, by its name, size and time of change, so that a file that has not
changed is not read again; and which content each row of `cache/pixels-*.npy` is. Both are written whole or not at all,
the pixels first. A cache that cannot be read is made anew.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from active_learning.disk.files import make_folder, write_atomically
from active_learning.ranking.files import Listing
from active_learning.ranking.pixels import Header, decode, decoding_threads, guarded, read_header
from load_data import DataError

Images = npt.NDArray[np.uint8]
Progress = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Passes items on, and shows how many of so many are through; told what is done with them."""

EXTREME = 3
"""An image so many times as wide as it is high, or more, is a different picture once it is pressed into a square."""

FRESH_SECONDS = 2
"""A file that was changed so shortly before it was read may change again without another time of change."""

FORMAT = 1
ROWS_AT_ONCE = 1024


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
    cache = _Cache(folder)
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


def _headers(listing: Listing, cache: "_Cache", progress: Progress, check: Callable[[], None]) -> dict[str, Header]:
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
    with _threads() as threads:
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


class _Cache:
    """The cache's two files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stamps: dict[str, list[int]] = {}
        self.headers: dict[str, Header] = {}
        self.rows: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        self._stored: dict[str, Any] = {}
        self._changed = False
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # then it is made anew
            index = json.loads((folder / "index.json").read_bytes())
            if index["format"] == FORMAT:
                self.stamps = {name: stamp for name, (stamp, _) in index["files"].items()}
                self.headers = {name: Header(**header) for name, (_, header) in index["files"].items()}
                self._stored = index["pixels"]

    def know(self, stamps: dict[str, list[int]], headers: dict[str, Header]) -> None:
        """Remember what the files' headers say."""
        if stamps != self.stamps:
            self._changed = True
            self.stamps, self.headers = stamps, headers

    def pixels(
        self, paths: Mapping[str, Path], size: int, grey: bool, progress: Progress, check: Callable[[], None]
    ) -> tuple[Images, int]:
        """Return an array that has a row of each content, and how many of them had to be decoded."""
        kind = {"size": size, "grey": grey}
        before, sources = self._before(kind)
        missing = [sha256 for sha256 in paths if sha256 not in sources and sha256 not in self.faults]
        self.rows = sources
        if not missing and before is not None:
            if self._changed:
                self._write_index(self._stored)
            return before, 0
        self.faults = {sha256: fault for sha256, fault in self.faults.items() if sha256 in paths}
        rows = [sha256 for sha256 in paths if sha256 not in self.faults]
        make_folder(self._folder)
        temporary = self._folder / "pixels.tmp"
        shape = (len(rows), 1 if grey else 3, size, size)
        array = _new_array(temporary, shape)
        self.rows = {sha256: row for row, sha256 in enumerate(rows)}
        if before is not None:
            _copy(before, sources, array, self.rows)
        with _threads() as threads:
            decoded = threads.map(lambda sha256: decode(paths[sha256], size, grey=grey), missing)
            for sha256, found in zip(missing, progress(decoded, "decode", len(missing)), strict=True):
                check()
                if isinstance(found, str):
                    self.faults[sha256] = found
                else:
                    array[self.rows[sha256]] = found
        del array, before
        self._drop_colour(temporary)
        self._put_in_place(temporary, kind, rows)
        return self._open(self._stored), len(missing)

    def _before(self, kind: Mapping[str, Any]) -> tuple[Images | None, dict[str, int]]:
        """Return the stored array and its rows, if it is of this kind."""
        if any(self._stored.get(key) != value for key, value in kind.items()):
            return None, {}
        with suppress(OSError, EOFError, ValueError, KeyError, TypeError):
            array = self._open(self._stored)
            rows = {str(sha256): row for row, sha256 in enumerate(self._stored["rows"])}
            if array.shape[0] == len(rows) and array.shape[2:] == (kind["size"], kind["size"]):
                self.faults = dict(self._stored["faults"])
                return array, {sha256: row for sha256, row in rows.items() if sha256 not in self.faults}
        return None, {}

    def _open(self, stored: Mapping[str, Any]) -> Images:
        array: Images = np.load(self._folder / stored["name"], mmap_mode="r", allow_pickle=False)
        return array

    def _drop_colour(self, path: Path) -> None:
        """Leave one channel of an array, if its three are the same in every image."""
        array = np.load(path, mmap_mode="r")
        blocks = range(0, len(array), ROWS_AT_ONCE)
        if array.shape[1] == 1 or any(_coloured(array[start : start + ROWS_AT_ONCE]) for start in blocks):
            return
        temporary = self._folder / "grey.tmp"
        shape = (len(array), 1, *array.shape[2:])
        grey = _new_array(temporary, shape)
        for start in blocks:
            grey[start : start + ROWS_AT_ONCE] = array[start : start + ROWS_AT_ONCE, :1]
        del array, grey  # written, and closed
        temporary.replace(path)

    def _put_in_place(self, temporary: Path, kind: Mapping[str, Any], rows: Sequence[str]) -> None:
        digest = hashlib.sha256(json.dumps([kind, rows, self.faults]).encode()).hexdigest()
        name = f"pixels-{digest[:16]}.npy"
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)
        self._write_index({**kind, "name": name, "rows": list(rows), "faults": self.faults})
        for other in self._folder.glob("pixels-*.npy"):
            if other.name != name:
                with suppress(OSError):  # Windows keeps a file that is open
                    other.unlink()

    def _write_index(self, stored: dict[str, Any]) -> None:
        self._stored = stored
        files = {name: [stamp, asdict(self.headers[name])] for name, stamp in self.stamps.items()}
        index = {"format": FORMAT, "files": files, "pixels": stored}
        write_atomically(self._folder / "index.json", json.dumps(index).encode())


def _new_array(path: Path, shape: tuple[int, ...]) -> Images:
    """Return an array on disk, with room for all of it: where there is none, an assignment would end the process."""
    array: Images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _copy(source: Images, sources: Mapping[str, int], target: Images, targets: Mapping[str, int]) -> None:
    """Copy the rows that two arrays share; one grey channel becomes three where the target has them."""
    shared = [sha256 for sha256 in targets if sha256 in sources]
    for start in range(0, len(shared), ROWS_AT_ONCE):
        few = shared[start : start + ROWS_AT_ONCE]
        target[[targets[sha256] for sha256 in few]] = source[[sources[sha256] for sha256 in few]]


def _coloured(images_nchw: Images) -> bool:
    return bool((images_nchw != images_nchw[:, :1]).any())


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads that leave what they have not begun when the caller fails or is stopped."""
    threads = ThreadPoolExecutor(decoding_threads())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
