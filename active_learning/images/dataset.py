"""A folder of labelled images as a data set of the experiments: `--dataset folder:PATH`.

Each picture counts once, in the order of the files' sha256, so that no number follows from where a file lies or what
it is called. The test set is `TEST_SHARE` of all contents, by the digest alone: whatever is added, an image of it
stays there.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.disk.files import NO_LOCKS, make_folder, refusal, system_lock
from active_learning.images.cache import Progress
from active_learning.images.files import find_images
from active_learning.images.library import MOST_SIDE, Library, Picture, given_labels, mean_and_std, open_library
from active_learning.images.pixels import PassingFault
from active_learning.settings.config import FOLDER, ExperimentConfig, RunConfig
from active_learning.settings.networks import NETWORKS
from active_learning.terminal import PROGRAM
from load_data import DataError, DatasetSpec, ImageData, at_home, default_data_dir, load_data

TEST_SHARE = 0.2
"""The test set: contents whose sha256, taken for a number, is in the lowest fifth of all that there are."""

SPLIT = "An image is in the test set if its content's sha256 is in the lowest fifth of all possible ones."


@dataclass(frozen=True)
class ImageFolder:
    """A folder of labelled images.

    Attributes:
        path: where it is.
        name: what records call it: FOLDER and the first 16 digits of a sha256 of all contents with their classes.
        spec: its sizes and classes.
        data: its arrays.
        library: its images; those that cannot be used are told of there.
        copies: contents that are another one pixel by pixel, and are left out.
    """

    path: Path
    name: str
    spec: DatasetSpec
    data: ImageData
    library: Library
    copies: int

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of `RunConfig` that say which images a run has."""
        return {
            "dataset": self.name,
            "class_names": self.spec.class_names,
            "image_size": self.library.size,
            "folder": str(self.path),
        }


def open_for(config: ExperimentConfig, progress: Progress, check: Callable[[], None]) -> ImageFolder | None:
    """Return the folder that an experiment runs on, once its settings are found to fit; None for any other data set.

    Args:
        config: the experiment.
        progress: shows how far the reading is.
        check: called for every image; what it raises ends the work.

    Raises:
        ConfigError: for settings that do not go with these images, and for a path that leads nowhere.
        DataError: for images that are no data set.
    """
    if not config.dataset.startswith(FOLDER):
        return None
    path = config.dataset.removeprefix(FOLDER)
    folder = open_folder(path, config.data_dir, config.image_size, config.network, progress, check)
    config.check_data(folder.spec)
    return folder


def load_run(run: RunConfig, data_dir: Path | None, check: Callable[[], None] | None = None) -> ImageData:
    """Return the data set of a run; `data_dir` and `check` as for `load_data`.

    Raises:
        DataError: when it cannot be had, or the folder is not as it was.
    """
    if not run.dataset.startswith(FOLDER):
        return load_data(run.dataset, data_dir, check)
    found = open_folder(run.folder, data_dir, run.image_size, run.network, check=check or (lambda: None))
    if found.name != run.dataset:
        raise DataError(
            f"the images in {run.folder} are not those of this run (an image or a label has been added, taken away or "
            f"changed: the digest is {run.dataset.removeprefix(FOLDER)} there and {found.name.removeprefix(FOLDER)} "
            "here): bring them back, or name another --result_dir."
        )
    return found.data


def open_folder(
    path: str,
    data_dir: Path | None,
    image_size: int,
    network: str,
    progress: Progress = lambda items, _phase, _count: iter(items),
    check: Callable[[], None] = lambda: None,
) -> ImageFolder:
    """Read a folder of images, or a CSV of their names, all of them with a class.

    Args:
        path: of the folder or the CSV; a ~ at its start is the user's home.
        data_dir: where decoded images are kept, in `folders`; by default as for `load_data`.
        image_size: pixels a side; 0 = the median of the images' sides, at most `MOST_SIDE`.
        network: whose smallest image is the least of those.
        progress: shows how far it is.
        check: called for every image; what it raises ends the work.

    Raises:
        ConfigError: where there is no such folder.
        DataError: for images that are no data set: none, one class, one without a class, a class without test images;
            for one that could not be read this time.
    """
    images = Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - pathlib's fails for ~nobody
    listing = find_images(images, flat=False, check=check)
    smallest = NETWORKS[network].smallest
    kept = (default_data_dir() if data_dir is None else at_home(data_dir)) / "folders"
    cache = kept / hashlib.sha256(os.fsencode(images)).hexdigest()[:16]
    try:
        make_folder(cache)
        lock = system_lock(cache / ".lock")
        with lock.acquire(poll_interval=0.5, cancel_check=check):  # type: ignore[arg-type]  # its None goes on waiting
            limits = smallest, max(smallest, MOST_SIDE)
            library = open_library(listing, cache, image_size, limits, progress, check)
            for name, reason in library.skipped.items():
                if isinstance(reason, PassingFault):  # runs without it could not be continued with it
                    raise DataError(f"{name} in {images} is not read: {reason}, or take it out of the folder.")
            labels = {sha256: label.name for sha256, label in given_labels(listing, library).items()}
            return _data_set(images, library, labels)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise DataError(
                f"{cache} is on a file system without locks ({error.strerror}): name a folder on another one with "
                "--data_dir."
            ) from error
        raise DataError(
            f"the decoded images of {images} cannot be kept in {cache} ({refusal(error)}): check its permissions and "
            "free space, or name another folder with --data_dir."
        ) from error


def _data_set(path: Path, library: Library, labels: Mapping[str, str]) -> ImageFolder:
    pictures = sorted(library.pictures, key=lambda picture: picture.sha256)
    if without := [picture.file_name for picture in library.pictures if picture.sha256 not in labels]:
        way = "put them into the folder of their class, or take them away"
        if path.suffix.lower() == ".csv":
            way = "fill in their labels there, or delete their lines"
        raise DataError(
            f"{path}: images without a class: {len(without)} of {len(pictures)} (the first: {without[0]}); the "
            f"experiments need one for each: {way} ({PROGRAM} rank says which to label first)."
        )
    pictures, copies = _without_copies(pictures, path, library, labels)
    names = tuple(sorted(set(labels.values())))
    if len(names) < 2:
        raise DataError(f"{path}: all images are of one class, {names[0]}: the experiments need two or more.")
    labels_n = np.array([names.index(labels[picture.sha256]) for picture in pictures], np.int64)
    rows_n = np.array([picture.row for picture in pictures], np.int64)
    test_n = np.array([is_test(picture.sha256) for picture in pictures])
    train_sizes, test_sizes = (
        tuple(np.bincount(labels_n[part], minlength=len(names)).tolist()) for part in (~test_n, test_n)
    )
    for name, trained, tested in zip(names, train_sizes, test_sizes, strict=True):
        if not trained or not tested:
            raise DataError(
                f"{path}: the class {name} has {trained} training and {tested} test images (the test set is the lowest "
                "fifth by sha256), and the experiments need both: add images of it, or take the class away."
            )
    mean, std = mean_and_std(library.pixels, rows_n[~test_n])
    data = ImageData(
        library.pixels[rows_n[~test_n]], labels_n[~test_n], library.pixels[rows_n[test_n]], labels_n[test_n],
        len(names), mean, std,
    )  # fmt: skip
    spec = DatasetSpec(lambda _: data, train_sizes, sum(test_sizes), f"the images in {path}", names)
    lines = "".join(f"{picture.sha256} {labels[picture.sha256]}\n" for picture in pictures)
    return ImageFolder(path, FOLDER + hashlib.sha256(lines.encode()).hexdigest()[:16], spec, data, library, copies)


def _without_copies(
    pictures: Sequence[Picture], path: Path, library: Library, labels: Mapping[str, str]
) -> tuple[list[Picture], int]:
    """Return the first picture of those that are the same pixel by pixel, and how many others there are.

    A picture that was saved again would stand in the training set and in the test set.
    """
    first: dict[bytes, Picture] = {}
    for picture in pictures:
        before = first.setdefault(hashlib.sha256(library.pixels[picture.row].tobytes()).digest(), picture)
        if labels[before.sha256] != labels[picture.sha256]:
            raise DataError(
                f"{path}: {before.file_name!r} is {labels[before.sha256]!r} and {picture.file_name!r}, the same "
                f"picture, is {labels[picture.sha256]!r}: give both one class, or leave one of the two out."
            )
    return list(first.values()), len(pictures) - len(first)


def is_test(sha256: str) -> bool:
    """Return whether a content is of the test set: its sha256 is below `TEST_SHARE` of 2 ** 256.

    >>> is_test("33" + 62 * "0"), is_test("34" + 62 * "0")
    (True, False)
    """
    return int(sha256, 16) < TEST_SHARE * 2**256
