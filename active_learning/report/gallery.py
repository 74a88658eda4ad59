"""The images that each function asked for, as small pictures with their scores."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from acquisition_functions import ACQUISITION_FUNCTIONS, highest_scores
from active_learning.disk.files import refusal
from active_learning.disk.record import Round
from active_learning.disk.store import recorded_run
from active_learning.images.dataset import load_run
from active_learning.interruption import Check
from active_learning.report.results import Arm, Results, Run
from active_learning.settings.config import FOLDER, ConfigError
from active_learning.streams import Purpose, stream
from active_learning.terminal import PROGRAM
from load_data import DataError, ImageData, kept_train_index, load_data, noisy_labels, repeated, select_classes

GALLERY_ROUNDS = (1, 2, 5, 10, 50)

Loader = Callable[[str, Path | None], ImageData]


@dataclass(frozen=True)
class GalleryImage:
    """An acquired image.

    Attributes:
        pixels: uint8 (height, width), or (height, width, 3) of a colour image.
        train_index: its place in the whole training set.
        label: its class, as the whole data set calls it.
        score: its score in words, or None for a function that gives all images the same.
    """

    pixels: npt.NDArray[np.uint8] = field(repr=False)
    train_index: int
    label: str
    score: str | None

    @property
    def uri(self) -> str:
        """The image as an address that carries it."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="PNG", optimize=True)
        return data_uri(buffer.getvalue(), "image/png")


@dataclass(frozen=True)
class GalleryRound:
    """One round's images in the order in which they were acquired."""

    number: int
    labelled: int
    images: tuple[GalleryImage, ...]


@dataclass(frozen=True)
class GalleryArm:
    """One repetition of an arm; `order` says in a sentence in which order its images are."""

    label: str
    repetition: int
    order: str
    rounds: tuple[GalleryRound, ...]


@dataclass(frozen=True)
class Gallery:
    """All arms' images, or the reason why there are none."""

    arms: tuple[GalleryArm, ...] = ()
    reason: str = ""
    explanation: str = (
        "The images that each function acquired, in order, each with its label and, below it, its score. In each round "
        "pool_subset images are drawn from the pool (all of it if that is 0); the function scores these, and acquires "
        "some of them."
    )


def make_gallery(
    results: Results, data_dir: Path | None, loader: Loader | None = None, check: Check = lambda: None
) -> Gallery:
    """Return the pictures of one repetition of each arm; a reason instead where the data set cannot be had."""
    datasets: dict[tuple[str, int], ImageData | str] = {}
    arms, reasons = [], []
    for arm in results.arms:
        name, copies = str(arm.runs[0].configuration.get("dataset")), int(arm.runs[0].configuration.get("copies", 1))
        if (name, copies) not in datasets:
            try:
                datasets[name, copies] = repeated(_load(arm.runs[0], data_dir, loader or load_data, check), copies)
            except (ConfigError, DataError, OSError) as error:
                datasets[name, copies] = f"{refusal(error)}." if isinstance(error, OSError) else str(error)
        data = datasets[name, copies]
        shown = _arm(arm, data) if isinstance(data, ImageData) else data
        if isinstance(shown, GalleryArm):
            arms.append(shown)
        else:
            reasons.append(shown)
    if arms:
        return Gallery(tuple(arms))
    return Gallery(reason="There are no pictures here. " + " ".join(dict.fromkeys(reasons)))


def _load(run: Run, data_dir: Path | None, loader: Loader, check: Check) -> ImageData:
    found = recorded_run(run.configuration, 0)
    if found is None or not run.dataset.startswith(FOLDER):
        return loader(run.dataset, data_dir)
    if not run.images:
        raise DataError(
            f"Where the images were is not known: the {PROGRAM} command of these runs, given again, says it."
        )
    return load_run(replace(found, folder=run.images), data_dir, check)


def _arm(arm: Arm, data: ImageData) -> GalleryArm | str:
    run = arm.runs[0]
    shown = [round_ for round_ in GALLERY_ROUNDS if round_ <= run.rounds]
    counted = np.array([i for round_ in shown for i in run.rows[round_].acquired_train_index], dtype=np.int64)
    if not len(counted):
        return f"{arm.label} has acquired nothing yet."
    images = np.arange(len(data.train_labels))
    if run.counts_kept_images:
        images = kept_train_index(data.train_labels, tuple(run.configuration["classes"]))
    told = _as_told(run, data)
    if counted.max() >= len(images) or not np.array_equal(told.train_labels[images[counted]], _labels(run, shown)):
        return f"The images of {arm.label} are not those of the data set under its name."
    function = ACQUISITION_FUNCTIONS.get(arm.acquisition)
    scored = function is None or bool(function.needs)
    rounds = tuple(_round(run, round_, told, data.train_labels, images, scored) for round_ in shown)
    return GalleryArm(arm.label, run.repetition, _order(arm, [run.rows[round_] for round_ in shown]), rounds)


def _as_told(run: Run, data: ImageData) -> ImageData:
    """Return the data set with the training labels that the run was given: with `label_noise`, some are wrong."""
    share = float(run.configuration.get("label_noise", 0))
    if not share:
        return data
    rng = stream(int(run.configuration["seed"]), run.repetition, 0, Purpose.LABEL_NOISE)
    classes = tuple(run.configuration.get("classes") or range(data.class_count))
    told = noisy_labels(select_classes(data, classes).train_labels, len(classes), share, rng)
    labels = data.train_labels.copy()
    labels[kept_train_index(labels, classes)] = np.array(classes)[told]
    return replace(data, train_labels=labels)


def _labels(run: Run, rounds: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the labels of the images that these rounds acquired, as the whole data set has them."""
    labels = np.array([label for round_ in rounds for label in run.rows[round_].acquired_labels], dtype=np.int64)
    return np.array(run.configuration["classes"])[labels] if run.counts_kept_images else labels


def _order(arm: Arm, rows: Sequence[Round]) -> str:
    function = ACQUISITION_FUNCTIONS.get(arm.acquisition)
    if function is not None and function.select is not highest_scores:
        return f"In the order of choice. Score: {function.values}, at that choice."
    if all(len(set(row.acquired_scores)) <= 1 for row in rows):
        return "Drawn at random: all had the same score, and their order means nothing."
    return "Highest score first; images with equal scores in random order."


def _round(
    run: Run,
    round_: int,
    told: ImageData,
    true_labels: npt.NDArray[np.int64],
    train_index: npt.NDArray[np.int64],
    scored: bool,
) -> GalleryRound:
    """Return a round's images; `train_index` says which image of the data set each number of the run is."""
    row = run.rows[round_]

    def label(index: int) -> str:
        given, true = (run.label_name(int(labels[index])) for labels in (told.train_labels, true_labels))
        return given if given == true else f"{given} (in truth {true})"

    images = tuple(
        GalleryImage(
            _pixels(told.train_images[index]),
            int(index),
            label(index),
            f"{score:.3g}" if scored else None,
        )
        for index, score in zip(train_index[[*row.acquired_train_index]], row.acquired_scores, strict=True)
    )
    return GalleryRound(round_, run.rows[round_ - 1].labelled, images)


def _pixels(image_chw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return image_chw[0] if len(image_chw) == 1 else np.moveaxis(image_chw, 0, -1)


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as an address that carries them.

    >>> data_uri(b"abc", "text/plain")
    'data:text/plain;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
