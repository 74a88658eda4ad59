"""What the user of `main.py rank` may set, and the run that the network takes it for."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from acquisition_functions import ACQUISITION_FUNCTIONS, parse_acquisition
from active_learning.images.files import check_class
from active_learning.settings.config import (
    MOST_PASSES,
    MOST_THREADS,
    MOST_WEIGHT_DECAY,
    Augmentation,
    ConfigError,
    Device,
    Precision,
    RunConfig,
    check_bounds,
    check_image_size,
    check_known,
)
from active_learning.settings.networks import NETWORKS

Export = Literal["none", "label_studio"]

LEAST_VAL_SHARE = 0.01
"""A hundred fits, each on all labels but these, are enough for an estimate."""

FUNCTIONS = [name for name, function in ACQUISITION_FUNCTIONS.items() if "field" not in function.needs]
"""The acquisition functions that can rank: Minimum Bayes Risk's field knows two classes only."""


def _computed(default: Any, text: str, at_least: float | None = None, at_most: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "at_least": at_least, "at_most": at_most, "computed": True})


def _how(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text, "computed": False})


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """One ranking; but for `images`, a field is a flag of `main.py rank`.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    images: Path
    labels: Path | None = _computed(
        None, "labels to take in: a CSV with the columns file_name and label, or an export of Label Studio in JSON"
    )
    relabel: bool = _computed(False, "let these labels replace others that the same images have")
    add_classes: tuple[str, ...] = _computed((), "classes that labels may have, besides those known so far")
    flat: bool = _computed(False, "subfolders name no classes: every image of the folder is of the pool")
    acq_func: str = _computed("power_bald", f"acquisition function: {', '.join(FUNCTIONS)}")
    query: int = _computed(10, "images to ask for", 1)
    random_share: float = _computed(
        0.2, "share of the images asked for that is drawn at random, for an honest estimate of the error", 0, 1
    )
    val_share: float = _computed(
        0.2,
        "share of the labels held out to estimate the error, each once while they are few; 0 = no estimate",
        0,
        0.5,
    )
    pool_subset: int = _computed(
        2000, "random images of the pool among which a function picks that picks a batch as a whole; 0 = all", 0
    )
    coldness: float = _computed(4.0, "how near PowerBALD, SoftmaxBALD and SoftrankBALD come to taking the top", 0)
    image_size: int = _computed(
        0, "pixels a side that the network sees of an image; 0 = the median of the images' sides, within the network's "
        "limits", 0
    )  # fmt: skip
    network: str = _computed("gal", "network: " + "; ".join(f"{k.name}: {k.text}" for k in NETWORKS.values()))
    weights: str = _computed(
        "none", "of resnet18, which then makes features once an image and stays as it is, under the network dense: "
        "default (torchvision's of ImageNet, downloaded once), a file of them, or none: it is trained with the rest"
    )  # fmt: skip
    fine_tune: bool = _computed(
        False, "train the whole resnet18 from --weights on in every fit, all but the head at a twentieth of the "
        "learning rate and with the statistics of its batch normalisation as they are; slow without a GPU"
    )  # fmt: skip
    augment: Augmentation = _computed(
        "affine", "random distortions of the images that a fit sees, as in main.py; none on features of --weights"
    )
    weight_decay: float = _computed(1.0, "c of the L2 penalty c / n_labelled", 0, MOST_WEIGHT_DECAY)
    epochs: int = _computed(30, "passes over the labelled images in one fit; more where --min_steps asks for them", 1)
    min_steps: int = _computed(500, "least number of training steps in one fit", 0)
    dropout_iter: int = _computed(100, "MC-dropout passes", 1, MOST_PASSES)
    seed: int = _computed(369, "seed of every random stream", 0)
    precision: Precision = _computed("auto", "auto takes bfloat16 where the device computes it natively, else float32")
    device: Device = _computed("auto", "auto takes cuda, then mps, then cpu")
    threads: int = _computed(1, "threads of the network; they may change the order of sums", 1, MOST_THREADS)
    result_dir: Path | None = _how(
        None, "folder of ranking, page, journal and cache (default: IMAGES_ranking beside the images)"
    )
    export: Export = _how("none", "label_studio adds the images asked for as tasks of Label Studio")
    image_url: str = _how("/data/local-files/?d=", "what stands before a file's name in those tasks")
    quiet: bool = _how(False, "print nothing but errors")

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_bounds(entry, getattr(self, entry.name))
        check_known("network", self.network, NETWORKS)
        self._check_function()
        if 0 < self.val_share < LEAST_VAL_SHARE:
            raise ConfigError(
                f"--val_share {self.val_share} is not allowed: it takes 0 for no estimate, or a number from "
                f"{LEAST_VAL_SHARE} to 0.5."
            )
        if 0 < self.pool_subset < self.query:
            raise ConfigError(
                f"--pool_subset {self.pool_subset} is smaller than --query {self.query}: look at least at as many "
                "images as are asked for, or give 0 for the whole pool."
            )
        if self.weights != "none" and self.network != "resnet18":
            raise ConfigError(f"--weights {self.weights} are for --network resnet18: add that, or leave them out.")
        if self.fine_tune and self.weights == "none":
            raise ConfigError(
                "--fine_tune needs weights to start from: add --network resnet18 --weights default, say, or leave it "
                "out."
            )
        check_image_size(self.image_size, self.network)
        for name in self.add_classes:
            check_class(name, "--add_classes")

    def _check_function(self) -> None:
        try:
            names = parse_acquisition(self.acq_func)
        except ValueError as error:
            problem = str(error).partition(";")[0]  # and the functions of a run, of which a ranking takes fewer
            raise ConfigError(f"--acq_func: {problem}; a ranking takes one of {', '.join(FUNCTIONS)}.") from error
        if len(names) > 1:
            raise ConfigError(f"--acq_func {self.acq_func} is {len(names)} functions: a ranking has one, such as bald.")
        if names[0] not in FUNCTIONS:
            raise ConfigError(
                f"--acq_func {self.acq_func} needs a random field over two classes, which a ranking does not have: "
                "take another function, such as bald."
            )

    @property
    def acquisition(self) -> str:
        """The name of the acquisition function."""
        return parse_acquisition(self.acq_func)[0]

    @property
    def pretrained(self) -> bool:
        """Whether a pretrained network makes features of the images, and only the head is trained."""
        return self.weights != "none" and not self.fine_tune

    @property
    def weights_file(self) -> Path | None:
        """The file of weights, where one is named."""
        return None if self.weights in ("none", "default") else Path(self.weights)

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        if self.result_dir is not None:
            return self.result_dir
        images = Path(os.path.normpath(self.images.absolute()))  # without the dots of a/..
        name = images.stem if images.suffix.lower() == ".csv" else images.name
        return images.parent / f"{name or 'images'}_ranking"

    def run(self, precision: Literal["float32", "bfloat16"], device: Literal["cpu", "cuda", "mps"]) -> RunConfig:
        """Return the run whose network ranks.

        Args:
            precision: what `precision` comes to on this machine.
            device: what `device` comes to.
        """
        return RunConfig(
            dataset="folder", acquisition=self.acquisition, learner="bayesian", repetition=0, seed=self.seed, rounds=0,
            query=self.query, pool_subset=self.pool_subset, val_size=0, batch_size=32, epochs=self.epochs, lr=2e-3,
            dropout_iter=self.dropout_iter, weight_decay=self.weight_decay, warm_start=False, precision=precision,
            device=device, threads=self.threads, equal_batches=True, min_steps=self.min_steps, lr_schedule="cosine",
            augment="none" if self.pretrained else self.augment, network="dense" if self.pretrained else self.network,
            coldness=self.coldness,
        )  # fmt: skip
