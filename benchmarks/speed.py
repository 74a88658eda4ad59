"""Speed and memory as ratios within one run: `python -m benchmarks.speed` (`make bench`).

Every ratio compares two ways of doing the same work, measured minutes apart on the same threads; where a way is too
slow to be measured in full, a part is measured and multiplied, and the table says so. The other sides are in
`reference.py` and run in a process of their own, since ours keeps freed memory (`execution.keep_freed_memory`) and
theirs should be as their users have them. Prints a table and writes `benchmarks/latest.json`.

A `*_bound_*` figure says what a ratio would be if ours did the same operations at the measured peaks, each precision's
the rate of the library's best large matrix product; what the processor itself could do may be more.

Dimensions: T passes, N images.
"""

import io
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import numpy.typing as npt
import torch
from jsonargparse import auto_cli
from skorch.dataset import Dataset
from tabulate import tabulate

from acquisition_functions import ACQUISITION_FUNCTIONS, Evidence, Score
from active_learning.disk.provenance import provenance
from active_learning.loop import active_learning_rounds
from active_learning.models.augmentation import AUGMENTATIONS, augmentation
from active_learning.models.fast import KERNELS, computed_by_kernels, training_threads
from active_learning.models.hardware import choose_precision
from active_learning.models.inference import embedding_blocks, mc_dropout_blocks
from active_learning.models.kernels import FILTERS, KERNEL, POOLING, PRODUCTS
from active_learning.models.network import WEIGHT_DECAY_GRID
from active_learning.settings.config import ExperimentConfig, RunConfig
from active_learning.settings.networks import NETWORKS
from active_learning.work.execution import keep_freed_memory
from benchmarks.reference import (
    baal_passes,
    plain_classifier,
    plain_passes,
    skorch_passes,
    textbook_network,
    their_batches,
)
from cnn_model import (
    FEATURE_DROPOUT,
    HIDDEN_DROPOUT,
    HIDDEN_UNITS,
    BayesianCNN,
    BayesianCNNClassifier,
    Precision,
    TensorBatches,
    Weights,
)
from load_data import DataError, ImageData, load_data

PASSES = 100
TEST_IMAGES = 10_000
SUBSET = 2_000
POOL = 59_880
BATCH_SIZE = 128
EPOCHS = 50
DIRECT = POOLING**2 * KERNEL**2
"""Products for the outputs of a pooling window as direct sums, a channel and filter."""
RESULTS = Path(__file__).parent.parent / "result_npy"


@dataclass
class Bench:
    """What the arms share: the data, the threads, and the figures so far."""

    data: ImageData
    threads: int
    precision: Precision
    peaks: dict[Precision, float] = field(default_factory=dict)  # FLOP/s of the best matrix product in each precision
    reference_pass_seconds: float = math.nan  # of one image in one pass, the reference's way
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """The peak of the benchmark's precision."""
        return self.peaks[self.precision]

    def note(self, key: str, value: float, text: str) -> None:
        """Keep one figure and show it."""
        self.figures[key] = value
        self.rows.append((key, f"{value:.4g}", text))
        print(f"{key:40} {value:10.4g}  {text}", flush=True)

    def elsewhere(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns in a process of its own, with as many threads."""
        with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=self.threads):
            # Copies: torch warns of arrays in shared memory, which cannot be written.
            return joblib.Parallel(max_nbytes=None)(
                [joblib.delayed(_with_threads)(self.threads, function, *arguments)]
            )[0]

    def images(self, count: int) -> npt.NDArray[np.uint8]:
        """Return `count` images, the test images repeated as often as it takes: their content costs no time."""
        return np.resize(self.data.test_images, (count, *self.data.test_images.shape[1:]))

    def labelled(self, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return `count` training images and their labels."""
        rows = np.random.default_rng(0).permutation(len(self.data.train_labels))[:count]
        return self.data.train_images[rows], self.data.train_labels[rows]

    def normalised(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return images as other code keeps them: float32, normalised."""
        return ((images / 255 - self.data.pixel_mean) / self.data.pixel_std).astype(np.float32)

    def classifier(self, precision: Precision, epochs: int = EPOCHS, **settings: Any) -> BayesianCNNClassifier:
        """Return our classifier as the loop makes it, with batches of BATCH_SIZE and other settings changed."""
        net = BayesianCNNClassifier(
            **KERNELS,
            module__image_shape=self.data.train_images.shape[1:],
            module__class_count=self.data.class_count,
            module__pixel_mean=self.data.pixel_mean,
            module__pixel_std=self.data.pixel_std,
            classes=list(range(self.data.class_count)),
            max_epochs=epochs,
            batch_size=BATCH_SIZE,
            lr=1e-3,
            weight_decay=3.5,
            precision=precision,
        )
        net.set_params(**settings)
        return net


def _with_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(threads)
    return function(*arguments)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the least wall-clock seconds of some repeats: what the machine can do when nothing disturbs it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_gemm(precision: Precision) -> float:
    """Return the best FLOP/s of a few large matrix products in this precision."""
    best = 0.0
    for m, k, n in ((2048, 2048, 2048), (1000, 3872, 640), (1000, 3872, 2560)):
        a, b = (torch.randn(rows, k).to(getattr(torch, precision)) for rows in (m, n))
        best = max(best, 2 * m * k * n / seconds(partial(torch.mm, a, b.T), 10))
    return best


@dataclass
class Layers:
    """Multiplications and additions of an image in each layer, forward."""

    first: float
    second: float
    dense: float


def layer_flops(bench: Bench, products: int) -> Layers:
    """Return the operations of an image; the second convolution's with so many products for each pooling window."""
    channels, height, width = bench.data.train_images.shape[1:]
    first = (height - KERNEL + 1) * (width - KERNEL + 1) * FILTERS * channels * KERNEL**2
    windows = ((height - 2 * KERNEL + 2) // POOLING) * ((width - 2 * KERNEL + 2) // POOLING)
    return Layers(2.0 * first, 2.0 * windows * products * FILTERS**2, 2.0 * windows * FILTERS * HIDDEN_UNITS)


def carried_out(bench: Bench, precision: Precision) -> tuple[Layers, Precision, bool]:
    """Return the operations as they are carried out, the first convolution's precision, and whether kernels do it.

    The kernels take 25 products for the four outputs of a pooling window, in place of 64, and compute the first
    convolution and all gradients of convolutions in float32.
    """
    kernels = computed_by_kernels("cpu", precision)
    return layer_flops(bench, PRODUCTS if kernels else DIRECT), "float32" if kernels else precision, kernels


def dense_of_inference(layers: Layers, passes: int) -> float:
    """Return the operations of an image in the dense layers of MC dropout, in expectation."""
    return layers.dense * (1 + passes * FEATURE_DROPOUT * (1 - HIDDEN_DROPOUT))


def inference_floor(bench: Bench, precision: Precision, images: int, passes: int) -> float:
    """Return the seconds that MC dropout as it is computed here takes at the measured peaks, in expectation.

    All layers up to the first dense one once an image, and in each pass the dropped features times the kept units.
    """
    layers, of_first, _ = carried_out(bench, precision)
    others = layers.second + dense_of_inference(layers, passes)
    return images * (layers.first / bench.peaks[of_first] + others / bench.peaks[precision])


def direct_flops(bench: Bench, images: int, passes: int) -> float:
    """Return the operations of the same inference if both convolutions were direct sums."""
    layers = layer_flops(bench, DIRECT)
    return images * (layers.first + layers.second + dense_of_inference(layers, passes))


def fit_floor(bench: Bench, net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], epochs: int) -> float:
    """Return the seconds that a fit as it is computed here takes at the measured peaks: forward and gradients.

    By the kernels, of conv2's gradients those that pooling, relu and dropout of the fitted net let through to it.
    """
    layers, of_convolutions, kernels = carried_out(bench, net.precision)
    gradients = 2 * layer_flops(bench, DIRECT).second
    if kernels:
        with torch.inference_mode(), net.autocast():
            open_share = float((net.module_.eval().features(torch.from_numpy(images)) > 0).double().mean())
        gradients *= open_share * (1 - FEATURE_DROPOUT) / POOLING**2
    seconds_of_convolutions = (2 * layers.first + gradients) / bench.peaks[of_convolutions]
    others = (layers.second + 3 * layers.dense) / bench.peaks[net.precision]
    return epochs * len(images) * (seconds_of_convolutions + others)


def infer(net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], passes: int) -> torch.Tensor:
    """Return the mean class probabilities (N, C), as the test error takes them."""
    return torch.cat([probs.mean(dim=0) for probs in mc_dropout_blocks(net, images, passes=passes, seed=1)])


def bench_inference(bench: Bench, nets: dict[Precision, BayesianCNNClassifier]) -> None:
    """Arm (a): MC dropout of 10,000 images x 100 passes against the other ways."""
    auto, full = nets[bench.precision], nets["float32"]
    bench.peaks = {precision: peak_gemm(precision) for precision in nets}
    images = bench.images(TEST_IMAGES)
    # As many tries as the plain passes have at their three batch sizes.
    ours = {precision: seconds(partial(infer, net, images, PASSES), 9) for precision, net in nets.items()}
    for precision, peak in bench.peaks.items():
        bench.peaks[precision] = max(peak, peak_gemm(precision))
        bench.note(f"peak_gflops_{precision}", bench.peaks[precision] / 1e9, "best matrix product, GFLOP/s")
        bench.note(f"mc_seconds_{precision}", ours[precision], "10,000 images x 100 passes, s")

    few = bench.normalised(bench.images(1000))
    scale = TEST_IMAGES * PASSES / len(few)  # of one pass over the few
    theirs = bench.elsewhere(_reference_inference, full.weights(), bench.data.class_count, few)
    plain, reference, baal = scale * theirs["plain"], scale * theirs["skorch"], theirs["baal"]
    same = scale * seconds(lambda: plain_passes(full.module_, torch.from_numpy(bench.images(1000)), 1, BATCH_SIZE))
    part_said = "extrapolated from 1,000 images x 1 pass"
    bench.note("mc_plain_seconds", plain, f"plain passes at their best batch size, s ({part_said})")
    bench.note("mc_baal_best_seconds", baal, "baal at its best setting, s (extrapolated from 64 images x 100 passes)")
    bench.note("mc_auto_vs_plain", plain / ours[bench.precision], "x faster than plain passes, auto precision")
    bench.note("mc_float32_vs_plain", plain / ours["float32"], "x faster than plain passes, float32")
    bench.note("mc_auto_vs_plain_same_module", same / ours[bench.precision], f"x, our own module's ({part_said})")
    bench.note(
        "mc_auto_vs_skorch", reference / ours[bench.precision], f"x, skorch forward(training=True) ({part_said})"
    )
    bench.note("mc_auto_vs_baal_best", baal / ours[bench.precision], "x faster than baal")
    for precision, peak in bench.peaks.items():
        floor = inference_floor(bench, precision, TEST_IMAGES, PASSES)
        key = "mc_fraction_of_peak" if precision == bench.precision else f"mc_fraction_of_peak_{precision}"
        bench.note(key, floor / ours[precision], f"of the measured {precision} peak (float32's for conv1)")
        direct = direct_flops(bench, TEST_IMAGES, PASSES)
        key = key.replace("fraction", "effective_fraction")
        bench.note(key, direct / ours[precision] / peak, f"of the {precision} peak, convolutions as direct sums")
        bench.note(f"mc_bound_{precision}_vs_plain", plain / floor, "x faster than plain passes, at those peaks")
    bench.reference_pass_seconds = reference / TEST_IMAGES / PASSES
    bench_agreement(bench, auto, full)


def _reference_inference(weights: Weights, class_count: int, few: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return seconds of one plain and one skorch pass over the few images, and of baal's 10,000 images x 100 passes."""
    network, tensor = textbook_network(weights), torch.from_numpy(few)
    skorch = plain_classifier(weights, class_count, batch_size=BATCH_SIZE).initialize()
    part = few[:64]
    return {
        "plain": min(seconds(partial(plain_passes, network, tensor, 1, size)) for size in (32, BATCH_SIZE, 1000)),
        "skorch": seconds(lambda: skorch_passes(skorch, few, 1)),
        "baal": min(
            TEST_IMAGES / len(part) * seconds(partial(baal_passes, network, part, PASSES, b, r), 1)
            for r, b in ((True, 1), (True, 8), (True, 32), (False, 32), (False, 64))
        ),
    }


def bench_agreement(bench: Bench, auto: BayesianCNNClassifier, full: BayesianCNNClassifier) -> None:
    """How far the precisions are apart: same weights, same masks, the data set's own test images."""
    auto.module_.load_state_dict(full.module_.state_dict())
    images, labels = bench.data.test_images, torch.from_numpy(bench.data.test_labels)
    probs = [infer(net, images, PASSES) for net in (auto, full)]
    errors = [float((p.argmax(1) != labels).double().mean()) for p in probs]
    bench.note("max_abs_probability_difference", float((probs[0] - probs[1]).abs().max()), "auto against float32")
    bench.note("test_error_difference", abs(errors[0] - errors[1]), "fraction, auto against float32")


class Pairs(NamedTuple):
    """An error of paired seeds in both precisions, all fractions."""

    difference: float  # bfloat16 - float32, mean over the seeds
    standard_error: float  # of that mean
    spread: float  # the larger of the two standard deviations over seeds


def precision_pairs(results: Path = RESULTS / "precision") -> dict[str, Pairs]:
    """Compare the committed runs that were trained in each precision, seed by seed (`make precision`).

    Returns:
        The error averaged over all rounds, over the last ten, and in the last alone. Empty where there are no runs.
    """
    paths = [
        results / precision / "var_ratios-MC_dropout=True-repetitions.npy" for precision in ("bfloat16", "float32")
    ]
    if not all(path.exists() for path in paths):
        return {}
    half_er, full_er = (np.load(path, allow_pickle=False) for path in paths)
    pairs = {}
    for name, rounds in (("mean", slice(None)), ("last_ten", slice(-10, None)), ("last", slice(-1, None))):
        half_e, full_e = half_er[:, rounds].mean(axis=1), full_er[:, rounds].mean(axis=1)
        difference_e = half_e - full_e
        pairs[name] = Pairs(
            float(difference_e.mean()),
            float(difference_e.std(ddof=1) / math.sqrt(len(difference_e))),
            float(max(half_e.std(ddof=1), full_e.std(ddof=1))),
        )
    return pairs


def bench_precision_pairs(bench: Bench) -> None:
    """What training in bfloat16 does to the curve, from committed results."""
    for name, pairs in precision_pairs().items():
        bench.note(f"precision_{name}_error_difference", pairs.difference, "bfloat16 - float32, mean of paired seeds")
        bench.note(f"precision_{name}_error_standard_error", pairs.standard_error, "of that mean")
        bench.note(f"precision_{name}_error_spread", pairs.spread, "standard deviation of the same error over seeds")


def bench_fit(bench: Bench) -> None:
    """Arm (b): one fit at 1,020 images x 50 epochs against plain skorch, and skorch against a bare loop.

    Against plain skorch with all threads and with one.
    """
    images, labels = bench.labelled(1020)
    net = bench.classifier(bench.precision)
    ours, ratio = _fit_in_turns(bench, net)
    torch.set_num_threads(1)
    _, of_one_thread = _fit_in_turns(replace(bench, threads=1), net)
    torch.set_num_threads(bench.threads)
    usual, full = ratio * ours, ours
    if bench.precision != "float32":
        full = seconds(lambda: bench.classifier("float32", 10).fit(images, labels), 2) * EPOCHS / 10
    overheads = []
    for _ in range(11):  # in turns, since the overhead is smaller than a machine's drift
        bare = seconds(lambda: bare_fit(bench, images, labels, 3), 1)
        overheads.append(seconds(lambda: bench.classifier(bench.precision, 3).fit(images, labels), 1) / bare - 1)
    bound = fit_floor(bench, net, images, EPOCHS)
    bench.note("fit_seconds", ours, "1,020 images x 50 epochs, s")
    bench.note("fit_fraction_of_peak", bound / ours, "of the measured peaks, in operations carried out")
    bench.note("fit_bound_vs_plain_skorch", usual / bound, "x faster than plain skorch, at those peaks")
    bench.note("fit_vs_plain_skorch", ratio, "x faster than plain skorch in float32 (5 of its 50 epochs)")
    bench.note("fit_one_thread_vs_plain_skorch", of_one_thread, "x, both with one thread, as runs have by default")
    bench.note("fit_float32_vs_plain_skorch", usual / full, "x, ours in float32")
    bench.note("skorch_overhead", float(np.median(overheads)), "of skorch over a bare loop, fraction")


def _fit_in_turns(bench: Bench, net: BayesianCNNClassifier) -> tuple[float, float]:
    """Return the least seconds of our fit, and how many times as fast as plain skorch's it is, of five turns.

    In turns: what plain skorch takes drifts by a quarter within minutes on some machines.
    """
    images, labels = bench.labelled(1020)
    weights = bench.classifier(bench.precision, 0).fit(images, labels).weights()
    usually = partial(
        bench.elsewhere, _reference_fit, weights, bench.data.class_count, bench.normalised(images), labels
    )
    turns = np.array([(usually(), seconds(lambda: net.fit(images, labels), 1)) for _ in range(5)])
    return float(turns[:, 1].min()), float(np.median(turns[:, 0] / turns[:, 1]))


def _reference_fit(
    weights: Weights, class_count: int, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> float:
    """Return the seconds of skorch's fit of the textbook network, from 5 of its 50 epochs."""
    settings = {"batch_size": BATCH_SIZE, "max_epochs": 5, "lr": 1e-3, "iterator_train__shuffle": True}
    plain = plain_classifier(weights, class_count, **settings)
    return seconds(lambda: plain.fit(images, labels), 1) * EPOCHS / 5


def bare_fit(bench: Bench, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], epochs: int) -> None:
    """Train our module in a loop without skorch."""
    net = bench.classifier(bench.precision, 0).fit(images, labels)  # module and optimiser, no epoch
    module, optimizer = net.module_.train(), net.optimizer_
    criterion = torch.nn.CrossEntropyLoss()
    source = TensorBatches(Dataset(images, labels), BATCH_SIZE)
    with training_threads(bench.classifier(bench.precision, 0)):
        for batch, target in chain.from_iterable(repeat(source, epochs)):
            optimizer.zero_grad()
            with net.autocast():
                logits = module(batch)
            loss = criterion(logits.float(), target)
            loss.backward()
            optimizer.step()
            loss.item()


def bench_round(bench: Bench) -> None:
    """Arm (c): fit at 520, MC test on 10,000, scoring of 2,000 or of the whole pool, against the reference's way."""
    images, labels = bench.labelled(520)
    net = bench.classifier(bench.precision)
    fit = seconds(lambda: net.fit(images, labels))
    test = seconds(lambda: infer(net, bench.images(TEST_IMAGES), PASSES))
    subset = seconds(lambda: score(net, bench.images(SUBSET)))
    pool = seconds(lambda: score(net, bench.images(POOL)), 2)
    arguments = (net.weights(), bench.data.class_count, bench.normalised(images), labels)
    reference_fit = bench.elsewhere(_reference_fit, *arguments)
    reference_subset = bench.reference_pass_seconds * PASSES * SUBSET
    reference = reference_fit + bench.reference_pass_seconds * PASSES * (TEST_IMAGES + SUBSET)
    floor = fit_floor(bench, net, images, EPOCHS) + inference_floor(
        bench, bench.precision, TEST_IMAGES + SUBSET, PASSES
    )
    said = "extrapolated from 5 epochs and one pass over 1,000 images"
    bench.note("round_seconds", fit + test + subset, "fit at 520, MC test, 2,000 scored, s")
    bench.note("reference_round_seconds", reference, f"the same the reference's way, s ({said})")
    bench.note("round_subset_vs_reference", reference / (fit + test + subset), "x faster")
    bench.note("round_bound_vs_reference", reference / floor, "x faster, at those peaks")
    bench.note("whole_pool_seconds", pool, "59,880 images x 100 passes scored by BALD, s")
    bench.note("whole_pool_vs_reference_subset", reference_subset / pool, "x less than the reference needs for 2,000")
    floor = inference_floor(bench, bench.precision, POOL, PASSES)
    bench.note("whole_pool_bound_vs_reference_subset", reference_subset / floor, "x less, at those peaks")
    bench.note("whole_pool_peak_mb", whole_pool_peak(bench), "peak resident memory of a run that scores the whole pool")


@dataclass(frozen=True)
class Budget:
    """What the fits of a curve take, and how many fits a choice of the weight decay adds: the first, and a later one.

    A choice tries all constants the first time and later three; the fit of the one it takes is the round's own.
    """

    batch_size: int
    epochs: int
    min_steps: int
    lr_schedule: str
    first_choice: int = len(WEIGHT_DECAY_GRID) - 1
    later_choice: int = 2

    def over_curve(self, of_fit: Callable[[int], float]) -> float:
        """Return the sum over all fits of a curve of what one fit of so many images takes, measured at a few sizes."""
        measured = [of_fit(count) for count in CURVE_SIZES]
        labelled = np.arange(CURVE_SIZES[0], CURVE_SIZES[-1] + 1, 10)
        fits = np.ones(len(labelled))
        at, choice = CURVE_SIZES[0], self.first_choice
        while at <= CURVE_SIZES[-1]:
            fits[labelled == at] += choice
            at, choice = 2 * at, self.later_choice
        return float(fits @ np.interp(labelled, CURVE_SIZES, measured))


CURVE_SIZES = (20, 120, 130, 320, 640, 1020)
"""Labelled images of the fits that are measured for a whole curve."""

DEFAULTS: dict[str, Any] = {entry.name: entry.default for entry in fields(ExperimentConfig)}
BUDGET = Budget(*(DEFAULTS[name] for name in ("batch_size", "epochs", "min_steps", "lr_schedule")))
FIFTY_EPOCHS = Budget(128, 50, 0, "constant", len(WEIGHT_DECAY_GRID), len(WEIGHT_DECAY_GRID))
"""The budget of the authors' code, with all constants tried and the round's fit apart: the default once."""


def bench_curve(bench: Bench) -> None:
    """A whole curve of 100 rounds by the default's budget, against 50 epochs and against its floor; distortions."""
    net = bench.classifier(bench.precision, 10).fit(*bench.labelled(CURVE_SIZES[-1]))
    images = TEST_IMAGES + SUBSET
    others = seconds(lambda: infer(net, bench.images(TEST_IMAGES), PASSES)) + seconds(
        lambda: score(net, bench.images(SUBSET))
    )
    rounds = len(range(CURVE_SIZES[0], CURVE_SIZES[-1] + 1, 10))

    def fit(budget: Budget, count: int) -> float:
        chosen = {"batch_size": budget.batch_size, "min_steps": budget.min_steps, "lr_schedule": budget.lr_schedule}
        return seconds(
            lambda: bench.classifier(bench.precision, budget.epochs, **chosen).fit(*bench.labelled(count)), 2
        )

    def floor(budget: Budget, count: int) -> float:
        batches = math.ceil(count / budget.batch_size)
        epochs = max(budget.epochs, math.ceil(budget.min_steps / batches))
        return fit_floor(bench, net, bench.labelled(count)[0], epochs)

    ours = BUDGET.over_curve(partial(fit, BUDGET)) + rounds * others
    once = FIFTY_EPOCHS.over_curve(partial(fit, FIFTY_EPOCHS)) + rounds * others
    least = BUDGET.over_curve(partial(floor, BUDGET)) + rounds * inference_floor(bench, bench.precision, images, PASSES)
    bench.note("curve_seconds", ours, "100 rounds of the default, s: fits at six sizes, choices, tests, scores")
    bench.note("curve_vs_fifty_epochs", ours / once, "of what it takes with 50 epochs of 128 and every choice in full")
    bench.note("curve_fraction_of_peak", least / ours, "of the measured peaks, in operations carried out")
    bench_augmentation(bench)


def bench_augmentation(bench: Bench) -> None:
    """Fits with distorted images against fits with images as they are, in turns."""
    images, labels = bench.labelled(4 * BUDGET.batch_size)

    def fit(kind: str) -> float:
        settings = {"batch_size": BUDGET.batch_size, "iterator_train__augment": augmentation(kind)}
        return seconds(lambda: bench.classifier(bench.precision, 10, **settings).fit(images, labels), 1)

    for kind in (kind for kind in AUGMENTATIONS if kind != "none"):
        ratio = float(np.median([fit(kind) / fit("none") for _ in range(7)]))
        bench.note(f"step_{kind}", ratio, f"of a step without distortions, {BUDGET.batch_size} images")


def score(net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], name: str = "bald") -> torch.Tensor:
    """Return the scores (N,), block by block."""
    function = ACQUISITION_FUNCTIONS[name].score
    assert function is not None
    return torch.cat([function(probs) for probs in mc_dropout_blocks(net, images, passes=PASSES, seed=1)])


def whole_pool_peak(bench: Bench) -> float:
    """Return the peak resident MB of a process that does nothing but one round over the whole pool."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure_memory", "true", "--threads", str(bench.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak_memory(threads: int) -> None:
    """Run one round with 59,880 images in the pool and print the process's peak resident MB."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    small = load_data("mnist_5k")
    size = POOL + 20 + 100
    data = ImageData(
        np.resize(small.train_images, (size, 1, 28, 28)), np.resize(small.train_labels, size),
        np.resize(small.test_images, (TEST_IMAGES, 1, 28, 28)), np.resize(small.test_labels, TEST_IMAGES),
        small.class_count, small.pixel_mean, small.pixel_std,
    )  # fmt: skip
    config = RunConfig(
        dataset="mnist", acquisition="bald", learner="bayesian", repetition=0, seed=1, rounds=1, query=10,
        pool_subset=0,
        val_size=100, batch_size=BATCH_SIZE, epochs=2, lr=1e-3, dropout_iter=PASSES, weight_decay=3.5,
        warm_start=False, precision=choose_precision("auto", "cpu"), device="cpu", threads=threads,
    )  # fmt: skip
    list(active_learning_rounds(config, data))
    print(_peak_resident_mb())


def _peak_resident_mb() -> float:
    """Return this process's peak; the kernel's ru_maxrss would begin with that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(peak.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Return the slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def bench_growth(bench: Bench, net: BayesianCNNClassifier) -> None:
    """Arm (d): how time grows with images, passes and labelled images."""
    counts, passes, labelled = (1_000, 4_000, 16_000, 60_000), (10, 40, 100, 400), (20, 120, 420, 1_020)
    by_count = [seconds(partial(infer, net, bench.images(n), 20), 2) for n in counts]
    by_passes = [seconds(partial(infer, net, bench.images(2_000), t), 2) for t in passes]
    fits = [seconds(partial(bench.classifier(bench.precision, 10).fit, *bench.labelled(n)), 2) for n in labelled]
    bench.note("exponent_n", exponent(counts, by_count), "of inference time in N, 1,000 to 60,000 (T = 20)")
    bench.note("exponent_t", exponent(passes, by_passes), "of inference time in T, 10 to 400 (N = 2,000)")
    bench.note("exponent_labelled", exponent(labelled, fits), "of a fit's time in labelled images, 20 to 1,020")


def bench_functions(bench: Bench, net: BayesianCNNClassifier) -> None:
    """Arm (e): what each acquisition function adds to MC inference, for 10,000 images x 100 passes."""
    blocks = [probs.clone() for probs in mc_dropout_blocks(net, bench.images(1_000), passes=PASSES, seed=1)]
    for name, function in ACQUISITION_FUNCTIONS.items():
        if function.score is not None:
            taken = 10 * seconds(partial(_score_blocks, function.score, blocks))
            bench.note(f"score_seconds_{name}", taken, "10,000 images x 100 passes, s (10 x 1,000 images)")


def bench_networks(bench: Bench) -> None:
    """MC dropout by the other networks against plain passes through the same module: 128 images x 20 passes."""
    rng = np.random.default_rng(0)
    for kind in (kind for kind in NETWORKS.values() if not issubclass(kind.module, BayesianCNN)):
        images = rng.integers(0, 256, (128, 3, 32, 32), dtype=np.uint8)
        shape: dict[str, Any] = {
            "module__image_shape": images.shape[1:],
            "module__pixel_mean": (0.5,),
            "module__pixel_std": (0.2,),
        }
        net = BayesianCNNClassifier(kind.module, **shape, module__class_count=10, precision="float32").initialize()
        ours = seconds(partial(infer, net, images, 20))
        plain = seconds(partial(plain_passes, net.module_, torch.from_numpy(images), 20, BATCH_SIZE), 2)
        bench.note(f"mc_{kind.name}_vs_plain", plain / ours, "x faster than plain passes, float32, 3 x 32 x 32 pixels")


def bench_batches(bench: Bench, net: BayesianCNNClassifier) -> None:
    """Choices of 10 of 2,000 candidates, against other libraries' from the same evidence.

    Core-set is a few matrix products in either library, milliseconds of a round that takes seconds: the gain is small.
    """
    images, (labelled, _) = bench.images(SUBSET), bench.labelled(120)
    embeddings_nd, labelled_ld = (torch.cat(list(embedding_blocks(net, few))).numpy() for few in (images, labelled))
    probs_tnc = torch.cat(list(mc_dropout_blocks(net, images, passes=PASSES, seed=1)), dim=1).numpy()
    evidence = Evidence(count=SUBSET, probs_tnc=probs_tnc, embeddings_nd=embeddings_nd, labelled_ld=labelled_ld)
    for name, theirs in their_batches(evidence, 10).items():
        select = ACQUISITION_FUNCTIONS[name].select
        ours = seconds(partial(select, evidence, 10, np.random.default_rng(0)), 3)
        with redirect_stderr(io.StringIO()):  # its progress bars
            others = seconds(theirs, 1 if name == "batch_bald" else 3)  # minutes of it
        bench.note(f"{name}_seconds", ours, "10 of 2,000 candidates, s")
        bench.note(f"{name}_vs_library", others / ours, "x faster than theirs")


def _score_blocks(score: Score, blocks: Sequence[torch.Tensor]) -> None:
    for probs_tbc in blocks:
        score(probs_tbc)


def bench_jobs(bench: Bench) -> None:
    """Two runs of one thread side by side against one run of two threads: how `--jobs` and `--threads` were chosen."""
    both, one = _side_by_side(jobs=2, threads=1), _side_by_side(jobs=1, threads=2)
    bench.note("two_jobs_vs_two_threads", 2 * one / both, "x the work of one process with two threads")


def _side_by_side(jobs: int, threads: int) -> float:
    """Return the seconds that `jobs` processes need for one piece of work each."""
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads):
        times: list[float] = joblib.Parallel()(joblib.delayed(_piece_of_work)(threads) for _ in range(jobs))
    return max(times)


def _piece_of_work(threads: int) -> float:
    keep_freed_memory()
    torch.set_num_threads(threads)
    bench = Bench(load_data("mnist_5k"), threads, choose_precision("auto", "cpu"))
    net = bench.classifier(bench.precision, 1).fit(*bench.labelled(520))

    def work() -> None:
        bench.classifier(bench.precision, 10).fit(*bench.labelled(520))
        infer(net, bench.images(2_000), PASSES)

    return seconds(work, 2)


def load_bench_data(data_dir: Path | None) -> ImageData:
    """Return MNIST where it is given, else the embedded digits."""
    try:
        return load_data("mnist", data_dir) if data_dir else load_data("mnist_5k")
    except DataError as error:
        sys.exit(f"benchmarks: error: {error}")


def main(
    data_dir: Path | None = None,
    threads: int = joblib.cpu_count(only_physical_cores=True),
    output: Path = Path(__file__).parent / "latest.json",
    measure_memory: bool = False,
) -> None:
    """Measure everything and write the figures.

    Args:
        data_dir: folder with MNIST; without it the embedded digits are used.
        threads: threads of every arm; the fit is measured with one as well.
        output: where the JSON goes.
        measure_memory: only run the whole-pool round and print its peak memory.
    """
    if measure_memory:
        print_peak_memory(threads)
        return
    keep_freed_memory()
    torch.set_num_threads(threads)
    bench = Bench(load_bench_data(data_dir), threads, choose_precision("auto", "cpu"))
    precisions: list[Precision] = list(dict.fromkeys([bench.precision, "float32"]))
    nets = {precision: bench.classifier(precision, 10).fit(*bench.labelled(1020)) for precision in precisions}
    bench_inference(bench, nets)
    bench_precision_pairs(bench)
    bench_fit(bench)
    bench_round(bench)
    bench_curve(bench)
    bench_growth(bench, nets[bench.precision])
    bench_functions(bench, nets[bench.precision])
    bench_networks(bench)
    bench_batches(bench, nets[bench.precision])
    bench_jobs(bench)
    print(tabulate(bench.rows, ("figure", "value", "what it is"), disable_numparse=True))
    machine = {
        **provenance(),
        "threads": threads,
        "precision": bench.precision,
        "test_images": len(bench.data.test_images),
    }
    output.write_text(json.dumps({"machine": machine, "figures": bench.figures}, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
