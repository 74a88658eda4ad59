"""The cache of decoded images: each content once, under its digest.

`index.json` holds what is known of each file, by its name, size and time of change, so that a file that has not changed
is not read again; and which content each row of the newest `pixels-*.npy` is. The pixels are on disk before the index
names them, and both are saved now and then, so that a kill costs half a minute of decoding. A cache that cannot be read
is made anew.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from active_learning.disk.files import make_folder, write_atomically
from active_learning.images.pixels import Header, PassingFault, decode, decoding_threads

Images = npt.NDArray[np.uint8]
OnDisk = np.memmap[Any, np.dtype[np.uint8]]
Progress = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Passes items on, and shows how many of so many are through; told what is done with them."""

FORMAT = f"1, Pillow {PIL.__version__}"  # another one may come to other pixels
ROWS_AT_ONCE = 1024
SECONDS_BETWEEN_SAVES = 30.0


class Cache:
    """The cache in a folder.

    Attributes:
        stamps: size and time of change of each file that is known, by its name.
        headers: what is known of it.
        rows: the row of each content that has been decoded, by its sha256.
        faults: why a content cannot be decoded.
    """

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
        before, self.rows = self._before(kind)
        missing = [sha256 for sha256 in paths if sha256 not in self.rows and sha256 not in self.faults]
        if not missing and before is not None:
            if self._changed:
                self._write_index(self._stored)
            return before, 0
        self.faults = {sha256: fault for sha256, fault in self.faults.items() if sha256 in paths}
        rows = {sha256: row for row, sha256 in enumerate(sha for sha in paths if sha not in self.faults)}
        path = self._new_path()
        array = _new_array(path, (len(rows), 1 if grey else 3, size, size))
        if before is not None:
            _copy(before, self.rows, array, rows)
        done = set(rows) - set(missing)
        del before
        self.rows = rows
        try:
            self._decode({sha256: paths[sha256] for sha256 in missing}, array, grey, done, path, kind, progress, check)
        finally:  # what has been decoded is kept, whatever ended it
            array.flush()
            del array
            self._save(path, kind, done)
        if (one_channel := self._without_colour(path)) is not None:
            self._save(one_channel, kind, done)
        return self._open(self._stored), sum(sha256 in done for sha256 in missing)

    def _decode(
        self,
        paths: Mapping[str, Path],
        array: OnDisk,
        grey: bool,
        done: set[str],
        path: Path,
        kind: Mapping[str, Any],
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        """Fill the rows of these contents, and add each to those that are done."""
        size = array.shape[-1]
        saved = time.monotonic()
        with working_threads() as threads:
            decoded = threads.map(lambda sha256: decode(paths[sha256], size, grey=grey, sha256=sha256), paths)
            for sha256, found in zip(paths, progress(decoded, "decode", len(paths)), strict=True):
                check()
                if isinstance(found, str):
                    self.faults[sha256] = found
                else:
                    array[self.rows[sha256]] = found
                    done.add(sha256)
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    array.flush()
                    self._save(path, kind, done)
                    saved = time.monotonic()

    def _before(self, kind: Mapping[str, Any]) -> tuple[Images | None, dict[str, int]]:
        """Return the stored array and its rows, if it is of this kind; a grey image is the same in three channels."""
        stored = self._stored
        if stored.get("size") != kind["size"] or (kind["grey"] and not stored.get("grey")):
            return None, {}
        with suppress(OSError, EOFError, ValueError, KeyError, TypeError):
            array, rows = self._open(stored), stored["rows"]
            if array.shape[0] == len(rows) and array.shape[2:] == (kind["size"], kind["size"]):
                self.faults = dict(stored["faults"])
                return array, {str(sha256): row for row, sha256 in enumerate(rows) if sha256}
        return None, {}

    def _open(self, stored: Mapping[str, Any]) -> Images:
        array: Images = np.load(self._folder / stored["name"], mmap_mode="r", allow_pickle=False)
        return array

    def _new_path(self) -> Path:
        make_folder(self._folder)
        words = [path.stem.rpartition("-")[2] for path in self._folder.glob("pixels-*.npy")]
        last = max((int(word) for word in words if word.isdecimal()), default=0)
        return self._folder / f"pixels-{last + 1}.npy"

    def _without_colour(self, path: Path) -> Path | None:
        """Write an array with one channel, if the three are the same in every image; return where it is."""
        array = np.load(path, mmap_mode="r")
        blocks = range(0, len(array), ROWS_AT_ONCE)
        if array.shape[1] == 1 or any(_coloured(array[start : start + ROWS_AT_ONCE]) for start in blocks):
            return None
        one_path = self._new_path()
        one = _new_array(one_path, (len(array), 1, *array.shape[2:]))
        for start in blocks:
            one[start : start + ROWS_AT_ONCE] = array[start : start + ROWS_AT_ONCE, :1]
        one.flush()
        return one_path

    def _save(self, path: Path, kind: Mapping[str, Any], done: Collection[str]) -> None:
        """Let the index name an array that is on disk, with the rows that are done."""
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        rows = [sha256 if sha256 in done else "" for sha256 in self.rows]
        kept = {sha256: fault for sha256, fault in self.faults.items() if not isinstance(fault, PassingFault)}
        self._write_index({**kind, "name": path.name, "rows": rows, "faults": kept})
        for other in self._folder.glob("pixels-*.npy"):
            if other != path:
                with suppress(OSError):  # Windows keeps a file that is open
                    other.unlink()

    def _write_index(self, stored: dict[str, Any]) -> None:
        self._stored = stored
        files = {
            name: [stamp, asdict(self.headers[name])]
            for name, stamp in self.stamps.items()
            if not isinstance(self.faults.get(self.headers[name].sha256), PassingFault)  # it is to be read again
        }
        index = {"format": FORMAT, "files": files, "pixels": stored}
        write_atomically(self._folder / "index.json", json.dumps(index).encode())


@contextmanager
def working_threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads that leave what they have not begun when the caller fails or is stopped."""
    threads = ThreadPoolExecutor(decoding_threads())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _new_array(path: Path, shape: tuple[int, ...]) -> OnDisk:
    """Return an array on disk, with room for all of it: where there is none, an assignment would end the process."""
    try:
        array: OnDisk = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # the part takes the room that others need
        error.filename = error.filename or str(path)
        raise
    return array


def _copy(source: Images, sources: Mapping[str, int], target: Images, targets: Mapping[str, int]) -> None:
    """Copy the rows that two arrays share; one grey channel becomes three where the target has them."""
    shared = [sha256 for sha256 in targets if sha256 in sources]
    for start in range(0, len(shared), ROWS_AT_ONCE):
        few = shared[start : start + ROWS_AT_ONCE]
        target[[targets[sha256] for sha256 in few]] = source[[sources[sha256] for sha256 in few]]


def _coloured(images_nchw: Images) -> bool:
    return bool((images_nchw != images_nchw[:, :1]).any())
