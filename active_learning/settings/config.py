"""What the user may set, and what decides the numbers of one run.

`ExperimentConfig` is the one source of the flags, their defaults, their help and their validation; `RunConfig` is one
curve of it: its fields are the run's identity.
"""

import bisect
import difflib
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from acquisition_functions import ACQUISITION_FUNCTIONS, acquisition_help, parse_acquisition
from active_learning.settings.learners import LEARNERS
from active_learning.settings.networks import NETWORKS
from load_data import DATASETS, DatasetSpec

Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Augmentation = Literal["none", "affine", "elastic", "flip"]
Schedule = Literal["constant", "cosine", "warmup_cosine"]
Stopping = Literal["none", "validation", "validation_accuracy"]
Initialisation = Literal["glorot", "torch"]
Masks = Literal["pass", "image"]


FOLDER = "folder:"
"""Begins the data set of a user's own images: before a path in settings, before a digest in records."""

MOST_PIXELS = 512
"""The largest --image_size."""

LONGEST_FOLDER_NAME = 150
"""Bytes of the default folder's name; of a longer one a hash stands for the settings."""

MOST_AUGMENTED = 3.0
"""The largest --augment_strength: up to 45 degrees, 30 %, 0.6, 6 pixels, of which few labels are left."""

MBR_FIELDS = ("mbr_neighbours", "mbr_sigma")
"""The fields that decide the numbers of Minimum Bayes Risk and of no other arm."""

OWN_FIELDS = (*MBR_FIELDS, *dict.fromkeys(name for f in ACQUISITION_FUNCTIONS.values() for name in f.settings))
"""The fields that decide the numbers of some arms alone: see `own_fields`."""

ARM_FIELDS = ("acquisition", "learner", "mc_dropout", "classifier", "repetition", *OWN_FIELDS)
"""The fields of `RunConfig` in which the runs of one experiment may differ; all others they share."""


class ConfigError(ValueError):
    """A setting that cannot be: one sentence that names the value, what is allowed and the way out."""


MOST_THREADS = 1024
"""No machine gains by more, and torch's own limit is a number of 32 bits."""


MOST_REPETITIONS = 10_000
"""No mean needs more, and every repetition is planned before the first begins."""

MOST_LR = 1e30
"""Single precision, in which weights are kept, ends at some 1e38."""

MOST_PASSES = 100_000
"""A thousand times the default: no estimate needs more, and their masks still fit into any memory."""

MOST_EPOCH_IMAGES = 100_000
"""Longer fits have more epochs."""

MOST_WEIGHT_DECAY = 1e5
"""Far less leaves no weight; far more is a penalty that single precision does not hold."""


def _flag(
    default: Any,
    text: str,
    at_least: float | None = None,
    at_most: float | None = None,
    *,
    computed: bool = True,
    empty: str = "",
) -> Any:
    """A setting; `empty` is the word for no values, where it takes several."""
    bounds = {"at_least": at_least, "at_most": at_most}
    return field(default=default, metadata={"help": text, "computed": computed, "empty": empty, **bounds})


def _how(default: Any, text: str, at_least: float | None = None) -> Any:
    """A setting that no number follows from: where files are, who does the work, what is printed."""
    return _flag(default, text, at_least, computed=False)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One curve: a repetition of an acquisition function on a data set.

    Every field decides the curve's numbers, except `rounds`, which only decides how long it is (a longer curve starts
    with the shorter one), and `folder`, where the images are that `dataset` names by their digest.
    """

    dataset: str
    acquisition: str
    learner: str
    repetition: int
    seed: int
    rounds: int
    query: int
    pool_subset: int
    val_size: int
    batch_size: int
    epochs: int
    lr: float
    dropout_iter: int
    weight_decay: float | Literal["tune"]
    warm_start: bool
    precision: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda", "mps"]
    threads: int
    # These came after the first results were published: at their defaults, which must never change, no record has them.
    classes: tuple[int, ...] = ()
    initial_per_class: int = 2
    mbr_neighbours: int = 10
    mbr_sigma: float | Literal["tune"] = 380.0
    equal_batches: bool = False  # records without it: an epoch's last batch was what the others had left
    min_steps: int = 0
    lr_schedule: Schedule = "constant"
    stopping: Stopping = "none"
    augment: Augmentation = "none"
    augment_strength: float = 1.0
    initialisation: Initialisation = "glorot"
    masks: Masks = "pass"
    network: str = "gal"
    coldness: float = 4.0
    copies: int = 1
    imbalance: tuple[float, ...] = ()
    label_noise: float = 0.0
    class_names: tuple[str, ...] = ()
    image_size: int = 0
    epoch_images: int = 0
    initial_images: tuple[int, ...] = ()
    folder: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The curve's file name without suffix, shared by all repetitions: `bald-MC_dropout=True`."""
        return f"{self.acquisition}-{LEARNERS[self.learner].suffix}"

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the numbers of every round, as JSON has them, in the order of all records."""
        defaults = {entry.name: entry.default for entry in fields(self)}
        values = {name: getattr(self, name) for name in defaults if name not in ("rounds", "folder")}
        found: dict[str, Any] = {}
        older = dict(LEARNERS[self.learner].recorded)
        for key, value in values.items():
            if key == "learner":
                found |= {"mc_dropout": older.pop("mc_dropout")} if older else {"learner": value}
            elif value != defaults[key]:
                found[key] = list(value) if isinstance(value, tuple) else value
            if key == "initial_per_class":
                found |= older
        return found


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything a user may set; one field is one flag of `main.py`.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    batch_size: int = _flag(32, "most images in one training step; the steps of an epoch take equally many", 1)
    epochs: int = _flag(
        30,
        "epochs of one fit, in each of which a labelled image comes once (or as --epoch_images says); more where "
        "--min_steps asks for them",
        1,
    )
    min_steps: int = _flag(500, "least number of training steps in one fit, however few the labelled images", 0)
    epoch_images: int = _flag(
        0,
        "least number of images in one epoch, such as 5056: where fewer are labelled, each comes several times",
        0,
        MOST_EPOCH_IMAGES,
    )
    lr: float = _flag(2e-3, "Adam's learning rate")
    lr_schedule: Schedule = _flag(
        "cosine",
        "cosine lets the learning rate fall to 0 in the course of a fit; warmup_cosine lets it rise in a tenth of the "
        "steps first",
    )
    stopping: Stopping = _flag(
        "none",
        "validation ends a fit once the loss on the validation set has not fallen for about 250 steps, and "
        "takes the weights of its lowest; validation_accuracy waits for the accuracy there to rise",
    )
    augment: Augmentation = _flag(
        "none",
        "random distortions of the images that a fit sees: affine (rotation, scale, shear, shift), elastic (affine "
        "and bent), flip (mirrored left and right, shift); acquisition and test see the images as they are",
    )
    augment_strength: float = _flag(1.0, "factor of the distortions; 1 is up to 15 degrees, 10 %, 0.2, 2 pixels")
    initialisation: Initialisation = _flag("glorot", "glorot: weights, with biases of 0; torch: its own way")
    seed: int = _flag(369, "seed of every random stream", 0)
    experiments: int = _flag(3, "repetitions, each with its own split and weights", 1, MOST_REPETITIONS)
    dropout_iter: int = _flag(100, "MC-dropout passes T for acquisition and for the test error", 1, MOST_PASSES)
    query: int = _flag(10, "images labelled a round", 1)
    acq_func: tuple[int | str, ...] = _flag(
        (0,),
        f"acquisition functions, as codes or names, one or several: {acquisition_help()}",
    )
    coldness: float = _flag(
        4.0, "how near PowerBALD, SoftmaxBALD and SoftrankBALD come to taking the top; 0 draws uniformly", 0, 1e5
    )
    val_size: int = _flag(100, "validation images, by which weight decay, length scale and end of a fit are chosen", 0)
    result_dir: Path = _how(
        None,
        "folder of the results; a folder that holds some is continued (default: result_npy/DATASET, with what differs "
        "from the defaults, such as result_npy/mnist-lr=0.01)",
    )
    classes: tuple[int, ...] = _flag((), "keep the images of these classes only, such as 2 8", empty="all")
    initial_per_class: int = _flag(2, "labelled images of each class at the start", 1)
    initial_images: tuple[int, ...] = _flag(
        (),
        "training images that every repetition starts from, by their number in the data set's files, from 0; drawn: "
        "each draws --initial_per_class",
        empty="drawn",
    )
    learner: str = _flag(
        "bayesian", "what is trained, tested and asked: " + "; ".join(f"{k.name}: {k.text}" for k in LEARNERS.values())
    )
    network: str = _flag("gal", "network: " + "; ".join(f"{k.name}: {k.text}" for k in NETWORKS.values()))
    determ: bool = _flag(False, "add the deterministic arms: the same network used without dropout (experiment 2)")
    mbr: bool = _flag(
        False,
        "add the arms of Minimum Bayes Risk, for two classes: its images with its own classifier and with the CNN "
        "(experiment 3)",
    )
    mbr_neighbours: int = _flag(10, "neighbours of an image in the graph of Minimum Bayes Risk; 0 = all", 0)
    mbr_sigma: float | Literal["tune"] = _flag(
        380.0,
        "length scale of that graph for pixels of 0 to 255, or tune: chosen on the validation set at the start",
    )
    rounds: int = _flag(100, "acquisition rounds after the initial fit", 0)
    pool_subset: int = _flag(2000, "random images of the pool scored a round; 0 = the whole pool", 0)
    dataset: str = _flag(
        "mnist",
        "data set: "
        + "; ".join(f"{name}: {spec.description}" for name, spec in DATASETS.items())
        + f"; {FOLDER}PATH: your own images, each in the folder of its class (or a CSV file_name,label), a fifth of "
        "them, by the sha256 of their content, for the test set",
    )
    image_size: int = _flag(
        0, f"pixels a side of the images of {FOLDER}PATH; 0 = the median of their sides, at most 64", 0
    )
    copies: int = _flag(
        1, "the training set so many times, each image each time with noise of its own (Repeated-MNIST has 4)", 1
    )
    imbalance: tuple[float, ...] = _flag(
        (),
        "share of its pool images that each class keeps, class by class, such as 1 0.1 with --classes 2 8",
        empty="none",
    )
    label_noise: float = _flag(
        0.0, "probability that a label given for a training or validation image is wrong: another class at random", 0
    )
    data_dir: Path | None = _how(
        None, "folder that holds MNIST/raw as torchvision lays it out (default: $DBAL_DATA_DIR, else the user's cache)"
    )
    weight_decay: float | Literal["tune"] = _flag(
        "tune",
        "c of the L2 penalty c / n_labelled on the first dense layer (0 = none), or tune: chosen on the validation "
        "set each time the labelled set has doubled",
        0,
        MOST_WEIGHT_DECAY,
    )
    masks: Masks = _flag(
        "pass", "dropout masks of the passes that score: one a pass for all images, or one for each image of each pass"
    )
    warm_start: bool = _flag(False, "start each fit from the last round's weights instead of fresh ones")
    precision: Precision = _flag("auto", "auto takes bfloat16 where the device computes it natively, else float32")
    device: Device = _flag("auto", "auto takes cuda, then mps, then cpu")
    jobs: int = _how(0, "runs side by side; 0 = as many as the cores hold", 0)
    threads: int = _flag(
        1, "threads of one run; part of its identity, since they change floating-point sums", 1, MOST_THREADS
    )
    scheduler: str | None = _how(
        None, "spread the runs over the Dask cluster with this address, such as tcp://HOST:8786 (tls:// as Dask is set)"
    )
    status: bool = _how(
        False, "run nothing: print which runs of these settings are done, going, stopped, failed or to do"
    )
    quiet: bool = _how(False, "print nothing but errors, and what --json asks for")
    json: bool = _how(False, "print every number of the results as one JSON document instead of the table")

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_bounds(entry, getattr(self, entry.name))
        if not 0 < self.lr <= MOST_LR:
            raise ConfigError(
                f"--lr {self.lr} is not allowed: it takes a number above 0 and at most {MOST_LR:g}, such as 1e-3."
            )
        self._check_dataset()
        check_known("learner", self.learner, LEARNERS)
        check_known("network", self.network, NETWORKS)
        try:
            parse_acquisition(self.acq_func)
        except ValueError as error:
            raise ConfigError(f"--acq_func: {error}.") from error
        if self.status and (self.quiet or self.json):
            raise ConfigError("--status prints a table and nothing else: leave out --quiet and --json.")
        self._check_training()
        self._check_scheduler()
        self._check_arms()
        self._check_own_fields()
        if self.dataset in DATASETS:
            self.check_data(DATASETS[self.dataset])
        if self.result_dir is None:
            object.__setattr__(self, "result_dir", Path("result_npy", self._folder_name()))

    def check_data(self, spec: DatasetSpec) -> None:
        """Refuse settings that do not go with the data set, which is known later where it is a folder of images.

        Raises:
            ConfigError: naming the setting.
        """
        self._check_classes(spec)
        self._check_initial_images(spec)
        self._check_labels(spec)
        self._check_sizes(spec)
        self._check_mbr(spec)

    @property
    def field_flag(self) -> str:
        """What asks for arms with a random field."""
        return "--mbr" if self.mbr else "--learner field" if self.learner == "field" else "--acq_func mbr"

    def _folder_name(self) -> str:
        """Return what runs can share a folder by: what decides the numbers of all of them, where it is no default."""
        own = ("dataset", "rounds", "experiments", "acq_func", "learner", "determ", "mbr")
        words = [f"folder_{data_name(self.dataset)}" if self.dataset.startswith(FOLDER) else self.dataset]
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.metadata["computed"] and entry.name not in own and value != entry.default:
                words.append(entry.name if value is True else f"{entry.name}={_words(value, '_')}")
        name = "-".join(words)
        if len(os.fsencode(name)) > LONGEST_FOLDER_NAME:  # file systems take 255 bytes
            first = words[0] if len(os.fsencode(words[0])) <= LONGEST_FOLDER_NAME // 2 else "folder"
            name = f"{first}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        return name

    def _check_dataset(self) -> None:
        if not self.dataset.startswith(FOLDER):
            check_known("dataset", self.dataset, [*DATASETS, f"{FOLDER}PATH"])
            if self.image_size:
                raise ConfigError(
                    f"--image_size {self.image_size} is for --dataset {FOLDER}PATH, and the images of {self.dataset} "
                    "have their size: leave it out."
                )
        elif self.initial_images:
            raise ConfigError(
                f"--initial_images is for data sets whose images have numbers, and those of {self.dataset} have names: "
                "leave it out, or give --initial_images drawn."
            )
        elif self.dataset == FOLDER:
            raise ConfigError(f"--dataset {FOLDER} is without its path: write {FOLDER}PATH, such as {FOLDER}digits.")
        elif self.network in NETWORKS:  # else that is told
            check_image_size(self.image_size, self.network)

    def _check_training(self) -> None:
        if not 0 < self.augment_strength <= MOST_AUGMENTED:
            raise ConfigError(
                f"--augment_strength {self.augment_strength} is not allowed: it takes a number above 0 and at most "
                f"{MOST_AUGMENTED:g}, such as 0.5."
            )
        if self.augment_strength != 1 and self.augment == "none":
            raise ConfigError(
                f"--augment_strength {self.augment_strength} changes no run by itself: add --augment affine, say."
            )
        if self.stopping != "none" and self.val_size == 0:
            raise ConfigError(f"--val_size 0 leaves nothing to stop a fit by: leave out --stopping {self.stopping}.")

    def _check_scheduler(self) -> None:
        if self.scheduler is None:
            return
        if not _is_address(self.scheduler):
            raise ConfigError(
                f"--scheduler {self.scheduler!r} is not an address: write tcp://HOST:PORT, the port a number from 1 to "
                "65535."
            )
        if self.jobs:
            raise ConfigError(
                f"--jobs {self.jobs} is for runs on this machine, and the workers of --scheduler {self.scheduler} are "
                "as many as that cluster has: leave one of the two out."
            )

    def _check_classes(self, spec: DatasetSpec) -> None:
        chosen = set(self.classes)
        if self.classes and (len(chosen) < max(2, len(self.classes)) or not chosen <= set(range(spec.class_count))):
            raise ConfigError(
                f"--classes {_words(self.classes)} is not allowed: it takes two or more different labels of 0 to "
                f"{spec.class_count - 1}, such as {_two_classes(spec)}."
            )

    def _check_initial_images(self, spec: DatasetSpec) -> None:
        if not self.initial_images:
            return
        flag = f"--initial_images {_words(self.initial_images[:20])}{' ...' if len(self.initial_images) > 20 else ''}"
        for entry in fields(self):
            clashes = entry.name in ("classes", "initial_per_class", "imbalance")
            if clashes and getattr(self, entry.name) != entry.default:
                raise ConfigError(
                    f"{flag} does not go with --{entry.name}: leave one of the two out, or give --initial_images drawn."
                )
        count, size = len(self.initial_images), sum(self._class_sizes(spec))
        if len(set(self.initial_images)) < count or not set(self.initial_images) <= set(range(size)):
            raise ConfigError(f"{flag} is not allowed: it takes different numbers from 0 to {size - 1}, or drawn.")
        needed = self.val_size + max(1, self.query * self.rounds)
        if count + needed > size:
            raise ConfigError(
                f"{flag} names {count} of the {size} training images of {self.dataset}, and {needed} are needed to "
                "validate and to choose from: name fewer, or give a smaller --val_size or fewer --rounds."
            )

    def _check_labels(self, spec: DatasetSpec) -> None:
        if self.label_noise >= 1:
            raise ConfigError(f"--label_noise {self.label_noise} is not allowed: it takes a number from 0 to below 1.")
        classes = len(self.classes) or spec.class_count
        if self.imbalance and (len(self.imbalance) != classes or not all(0 <= share <= 1 for share in self.imbalance)):
            raise ConfigError(
                f"--imbalance {_words(self.imbalance)} is not allowed: it takes a number from 0 to 1 for each of the "
                f"{classes} classes."
            )

    def _check_arms(self) -> None:
        for acquisition, learner in self.arms:
            needs = ACQUISITION_FUNCTIONS[acquisition].needs
            if "samples" in needs and self.masks == "image":
                raise ConfigError(
                    f"--acq_func {acquisition} needs passes that are posterior samples, which --masks image gives none "
                    "of: take --masks pass."
                )
            if lacking := needs - LEARNERS[learner].gives:
                able = [name for name, kind in LEARNERS.items() if needs <= kind.gives]
                way = f"take --learner {' or '.join(able)}" if learner == self.learner else "leave --determ out"
                what = _words(sorted(lacking), " and ")
                raise ConfigError(
                    f"--acq_func {acquisition} needs {what}, which the learner {learner} does not give: {way}, or "
                    "take another function."
                )

    def _check_own_fields(self) -> None:
        """Refuse a setting that no arm looks at."""
        used = {name for arm in self.arms for name in own_fields(*arm)}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in OWN_FIELDS and entry.name not in used and value != entry.default:
                takers = [name for name, function in ACQUISITION_FUNCTIONS.items() if entry.name in function.settings]
                flags = f"--acq_func {' or '.join(takers)}" if takers else "--mbr or --acq_func mbr"
                raise ConfigError(f"--{entry.name} {value} changes no run without {flags}: add that, or leave it out.")

    def _check_mbr(self, spec: DatasetSpec) -> None:
        if isinstance(self.mbr_sigma, float | int) and not 1e-3 <= self.mbr_sigma <= 1e6:
            raise ConfigError(
                f"--mbr_sigma {self.mbr_sigma} is not allowed: for pixels of 0 to 255 it takes a number from 0.001 to "
                "1000000, such as 380, or tune."
            )
        if not any(has_field(*arm) for arm in self.arms):
            return
        sizes = self._class_sizes(spec)
        flag = self.field_flag
        if len(sizes) != 2:
            raise ConfigError(
                f"{flag} tells two classes apart, and these are {len(sizes)}: add --classes {_two_classes(spec)}, say."
            )
        if self.warm_start:
            raise ConfigError(f"--warm_start carries a network's weights over, and {flag} has none: leave one out.")
        if self.mbr_sigma == "tune" and self.val_size == 0:
            raise ConfigError("--val_size 0 leaves nothing to tune the length scale on: give --mbr_sigma a number.")
        nodes = self._initial_size(sizes) + self._pool_size(sizes)
        if self.mbr_neighbours >= nodes:
            raise ConfigError(
                f"--mbr_neighbours {self.mbr_neighbours} is too large: the graph has {nodes} images; give at most "
                f"{nodes - 1}, or 0 for all."
            )

    def _class_sizes(self, spec: DatasetSpec) -> list[int]:
        """Return the number of training images of each class that is kept."""
        return [self.copies * spec.train_class_sizes[label] for label in self.classes or range(spec.class_count)]

    def _initial_size(self, sizes: Sequence[int]) -> int:
        return len(self.initial_images) or self.initial_per_class * len(sizes)

    def _pool_size(
        self, sizes: Sequence[int], initial_per_class: int | None = None, val_size: int | None = None
    ) -> int:
        """Return how many images the pool has at the start, here or at other sizes; with `imbalance`, at least."""
        initial = self.initial_per_class if initial_per_class is None else initial_per_class
        val_size = self.val_size if val_size is None else val_size
        if not self.imbalance:
            start = self._initial_size(sizes) if initial_per_class is None else initial * len(sizes)
            return sum(sizes) - start - val_size
        kept = sum(share * (size - initial) for share, size in zip(self.imbalance, sizes, strict=True))
        return math.floor(kept - max(self.imbalance) * val_size - len(sizes) / 2)  # validation is drawn at random

    def _check_sizes(self, spec: DatasetSpec) -> None:
        sizes = self._class_sizes(spec)
        acquired = max(1, self.query * self.rounds)
        if self.imbalance and self._pool_size(sizes, 1, 0) < 1:
            raise ConfigError(
                f"--imbalance {_words(self.imbalance)} leaves nothing of {self.dataset} to choose from: give larger "
                "shares."
            )
        if self.initial_per_class > min(sizes) or self.initial_per_class * len(sizes) >= sum(sizes):
            most = _largest(min(sizes), lambda count: self._pool_size(sizes, count) >= acquired)
            less = "give a smaller one, and a smaller --val_size, or fewer --rounds"
            raise ConfigError(
                f"--initial_per_class {self.initial_per_class} is too large: {self.dataset} has {min(sizes)} training "
                f"images of its smallest class, and {self.val_size + acquired} are needed to validate and to choose "
                f"from; {f'give at most {most}' if most > 0 else less}."
            )
        if self.weight_decay == "tune" and self.val_size == 0:
            raise ConfigError("--val_size 0 leaves nothing to tune the weight decay on: give --weight_decay a number.")
        initial = self._initial_size(sizes)
        if sum(sizes) - initial - self.val_size <= 0:
            most = _largest(self.val_size, lambda count: self._pool_size(sizes, None, count) >= acquired)
            less = f"give fewer, and fewer --rounds than {self.rounds}"
            raise ConfigError(
                f"--val_size {self.val_size} is too large: {self.dataset} has {sum(sizes)} training images, "
                f"{initial} of them labelled at the start, and {acquired} are to be acquired: "
                f"{f'give at most {most}' if most > 0 else less}."
            )
        pool = self._pool_size(sizes)
        if self.query * self.rounds > pool:
            least = f"{max(pool, 0)} that {self.dataset} leaves"
            if self.imbalance:
                least = f"{max(pool, 0)} that {self.dataset} with --imbalance leaves for certain"
            raise ConfigError(
                f"--query {self.query} x --rounds {self.rounds} = {self.query * self.rounds} images are more than the "
                f"pool of {least}: lower one of them{'' if pool >= 1 else ', and --val_size'}."
            )
        if 0 < self.pool_subset < self.query:
            raise ConfigError(
                f"--pool_subset {self.pool_subset} is smaller than --query {self.query}: score at least as many "
                "images as are labelled a round, or 0 for the whole pool."
            )

    @property
    def arms(self) -> tuple[tuple[str, str], ...]:
        """The curves of a repetition: an acquisition function and a learner each, by name."""
        return arms_of(self.acquisitions, self.learner, determ=self.determ, mbr=self.mbr)

    @property
    def acquisitions(self) -> tuple[str, ...]:
        """The names of the chosen acquisition functions."""
        return parse_acquisition(self.acq_func)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to one that fits, where no number above one that does not fit does; 0 if none is."""
    return bisect.bisect_left(range(1, most + 1), True, key=lambda count: not fits(count))


def _is_address(scheduler: str) -> bool:
    """Return whether something may listen there: a host, in brackets where it has colons, and a port."""
    try:
        parts = urlsplit(scheduler)
        port = parts.port
    except ValueError:
        return False
    return scheduler in (f"tcp://{parts.netloc}", f"tls://{parts.netloc}") and bool(parts.hostname and port)


def _two_classes(spec: DatasetSpec) -> str:
    return "2 8" if spec.class_count > 8 else "0 1"


def data_name(dataset: str) -> str:
    """Return what a data set is called in titles: of a folder or a CSV, the last word of its path.

    >>> data_name("mnist"), data_name("folder:~/my images/"), data_name("folder:a/labels.csv")
    ('mnist', 'my images', 'labels')
    """
    if not dataset.startswith(FOLDER):
        return dataset
    path = Path(os.path.abspath(dataset.removeprefix(FOLDER)))  # noqa: PTH100 - resolve() would follow a link
    return (path.stem if path.suffix.lower() == ".csv" else path.name) or "folder"


def arms_of(acquisitions: Iterable[str], learner: str, *, determ: bool, mbr: bool) -> tuple[tuple[str, str], ...]:
    """Return the curves that flags ask for: an acquisition function and a learner each, by name."""
    names = list(acquisitions)
    arms = [(name, learner) for name in names]
    if determ:  # random acquisition asks no model, so experiment 2 has no deterministic arm of it
        arms += [(name, "deterministic") for name in names if ACQUISITION_FUNCTIONS[name].needs]
    if mbr:
        arms += [("mbr", "bayesian"), ("mbr", "field")]
    return tuple(dict.fromkeys(arms))


def own_fields(acquisition: str, learner: str) -> tuple[str, ...]:
    """Return the fields among `OWN_FIELDS` that decide an arm's numbers."""
    return (*(MBR_FIELDS if has_field(acquisition, learner) else ()), *ACQUISITION_FUNCTIONS[acquisition].settings)


def has_field(acquisition: str, learner: str) -> bool:
    """Return whether an arm has a Gaussian random field."""
    return LEARNERS[learner].has_field(ACQUISITION_FUNCTIONS[acquisition])


def _words(values: object, between: str = " ") -> str:
    return between.join(map(str, values)) if isinstance(values, list | tuple) else str(values)


def no_values(name: str) -> str:
    """Return the word that gives a setting of several values none, or `none` for what is no setting.

    >>> no_values("classes"), no_values("initial_images")
    ('all', 'drawn')
    """
    return next((str(entry.metadata["empty"]) for entry in fields(ExperimentConfig) if entry.name == name), "none")


def check_known(flag: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known, with the nearest of those that are."""
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"--{flag} {name!r} is not known{hint}: choose one of {', '.join(names)}.")


def check_image_size(size: int, network: str) -> None:
    """Refuse pixels a side that the network does not take."""
    smallest = NETWORKS[network].smallest
    if size and not smallest <= size <= MOST_PIXELS:
        raise ConfigError(
            f"--image_size {size} is not allowed: the network {network} takes {smallest} to {MOST_PIXELS} pixels a "
            "side, or 0 for the median of the images' sides."
        )


def check_bounds(entry: Field[Any], value: object) -> None:
    """Refuse a number outside the bounds of its setting; words such as `tune` have none."""
    least, most = entry.metadata.get("at_least"), entry.metadata.get("at_most")
    if least is None or not isinstance(value, int | float):
        return
    if most is not None and not least <= value <= most:
        raise ConfigError(f"--{entry.name} {value} is not allowed: it takes a number from {least:g} to {most:g}.")
    if not math.isfinite(value) or value < least:
        finite = "" if math.isfinite(value) else "finite "
        raise ConfigError(f"--{entry.name} {value} is not allowed: it takes a {finite}number of at least {least:g}.")
