"""What bounds the speed, and what was tried to go beyond it: `python -m benchmarks.bounds` (`make bounds`).

Prints where the time of one training step and of one inference block goes, operation by operation, with the share of
the machine's measured peaks that the matrix work reaches; then, for every other way of computing the same thing that
we know of, how many times as fast as ours it is. Both sides of such a ratio take turns, on one thread.
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config as settings
from jsonargparse import auto_cli
from tabulate import tabulate
from torch import Tensor, nn
from torch._inductor.exc import InductorError, InvalidCxxCompiler
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from active_learning.models.engines import DensePasses, Passes
from active_learning.models.fast import CompiledPasses, computed_by_kernels
from active_learning.models.hardware import choose_precision
from active_learning.models.inference import IMAGES_PER_BLOCK, class_probabilities
from active_learning.work.execution import keep_freed_memory
from benchmarks.speed import (
    BATCH_SIZE,
    PASSES,
    Bench,
    fit_floor,
    inference_floor,
    load_bench_data,
    peak_gemm,
)
from cnn_model import FEATURE_DROPOUT, HIDDEN_DROPOUT, BayesianCNN, BayesianCNNClassifier

TURNS = 12
LISTED = 10
"""Operations that a profile lists, the longest first."""
MOST_SHAPES = 10
"""An operation on more different shapes than this has one line, for all of them."""

Work = Callable[[], Tensor]
Way = tuple[str, Work, Work]
"""What another way is called, that way, and ours."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
"""How far apart the logits of two ways of computing the same may be: rounding, not another result."""


def main(data_dir: Path | None = None) -> None:
    """Profile both computations and measure the alternatives.

    Args:
        data_dir: folder with MNIST; without it the embedded digits are used.
    """
    warnings.simplefilter("ignore")  # torch.compile has a good many
    keep_freed_memory()
    torch.set_num_threads(1)
    bench = Bench(load_bench_data(data_dir), 1, choose_precision("auto", "cpu"))
    bench.peaks = {precision: peak_gemm(precision) for precision in {bench.precision, "float32"}}
    net = bench.classifier(bench.precision, 1).fit(*bench.labelled(BATCH_SIZE))
    rows = [*inference_rows(bench, net), *training_rows(bench, net)]
    print(tabulate(rows, ("another way", "times as fast as ours"), disable_numparse=True))


def inference_rows(bench: Bench, net: BayesianCNNClassifier) -> list[tuple[str, str]]:
    """Profile one block and return how fast the other ways are."""
    module: BayesianCNN = net.module_.eval()
    generator = torch.Generator().manual_seed(0)
    layers = ((module.hidden, FEATURE_DROPOUT), (module.output, HIDDEN_DROPOUT))
    masks = [torch.rand(PASSES, layer.in_features, generator=generator) >= rate for layer, rate in layers]
    torchs = DensePasses(module, masks[0], masks[1], getattr(torch, bench.precision))
    passes: Passes = torchs
    if computed_by_kernels("cpu", bench.precision):
        passes = Recorded(CompiledPasses(module, masks[0], masks[1], bench.precision))
    images = torch.from_numpy(bench.images(IMAGES_PER_BLOCK))
    few = images[:BATCH_SIZE]

    def work(function: Callable[..., Tensor], *arguments: object) -> Work:
        def inference() -> Tensor:
            with torch.inference_mode(), net.autocast():
                return function(*arguments)

        return inference

    whole, convolutions = work(class_probabilities, passes, images), work(module.features, few)
    floor = inference_floor(bench, bench.precision, IMAGES_PER_BLOCK, PASSES)
    show_profile(f"One block of {IMAGES_PER_BLOCK} images x {PASSES} passes", whole, floor)
    features_fb = work(torchs.features, images)()
    dense = work(passes.logits, work(passes.features, images)())
    weights = pass_weights(module, masks, features_fb.dtype)
    kept_weights = [(kept, first[:, kept], *others) for kept, first, *others in weights]
    same, other_layout = by_torch(module).eval(), by_torch(module, torch.contiguous_format).eval()
    ways: list[Way] = [
        ("convolutions in inference: by torch", work(same.features, few), convolutions),
        ("convolutions in inference: by torch, NCHW", work(other_layout.features, few), convolutions),
        *((("dense layers in inference: by torch, dropped features subtracted",
            work(torchs.logits, features_fb), dense),) if passes is not torchs else ()),
        ("dense layers in inference: by torch, dropped features as zeros, one product a pass",
         work(masked_weights, torchs, weights, features_fb), dense),
        ("dense layers in inference: by torch, kept features multiplied, none subtracted",
         work(kept_features, torchs, kept_weights, features_fb), dense),
        ("dense layers in inference: by oneDNN's linear layer, dropped features subtracted",
         work(onednn_linear, torchs, features_fb), dense),
        *((f"inference: blocks of {size} images in place of {IMAGES_PER_BLOCK}",
           work(in_blocks, passes, images, size), whole) for size in (64, 128, 256)),
    ]  # fmt: skip
    rows = [(way[0], speed_of(*way[1:], tolerance=TOLERANCE[bench.precision])) for way in ways]
    with settings.patch(freezing=True):
        fast = work(torch.compile(same.features), few)
        rows.append(("convolutions in inference: torch.compile with freezing", speed_of(fast, convolutions)))
    return rows


def training_rows(bench: Bench, net: BayesianCNNClassifier) -> list[tuple[str, str]]:
    """Profile one step and return how fast the other ways are."""
    floor = fit_floor(bench, net, bench.labelled(BATCH_SIZE)[0], 1)
    module: BayesianCNN = net.module_.train()
    images, labels = (torch.from_numpy(array) for array in bench.labelled(BATCH_SIZE))

    def work(network: nn.Module, forward: Callable[[Tensor], Tensor]) -> Work:
        optimizer = torch.optim.Adam(network.parameters(), lr=0.0, fused=True)  # every step from the same weights
        criterion = nn.CrossEntropyLoss()

        def step() -> Tensor:
            optimizer.zero_grad()
            with net.autocast():
                logits_nc = forward(images)
            loss: Tensor = criterion(logits_nc.float(), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            return loss

        return step

    ours = work(module, module)
    show_profile(f"One training step of {BATCH_SIZE} images", ours, floor)
    dense, other = by_torch(module).train(), by_torch(module, torch.contiguous_format).train()
    textbook = TextbookDropout(by_torch(module)).train()
    return [
        ("training step: by torch", speed_of(work(dense, dense), ours)),
        ("training step: torch.compile", speed_of(work(textbook, torch.compile(textbook)), ours)),
        ("training step: by torch, NCHW", speed_of(work(other, other), ours)),
        ("training step: by torch without oneDNN", speed_of(partial(without_onednn, work(dense, dense)), ours)),
    ]


def show_profile(title: str, work: Work, floor: float) -> None:
    """Print where the time of some work goes; `floor`: the seconds of its operations at the measured peaks."""
    for _ in range(3):
        work()
    taken = min(seconds_of(work) for _ in range(TURNS))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        for _ in range(TURNS):
            work()
    by_operation: dict[str, dict[str, float]] = {}
    for event in recorded.key_averages(group_by_input_shape=True):
        by_operation.setdefault(event.key, {})[shapes(event.input_shapes)] = event.self_cpu_time_total
    times = {
        (name, words): taken_us
        for name, by_shapes in by_operation.items()
        for words, taken_us in (
            by_shapes if len(by_shapes) <= MOST_SHAPES else {f"{len(by_shapes)} shapes": sum(by_shapes.values())}
        ).items()
    }
    longest = sorted(times, key=lambda key: -times[key])[:LISTED]
    rows = [(*key, f"{100 * times[key] / sum(times.values()):.1f} %") for key in longest]
    print(f"{title}: {1e3 * taken:.1f} ms, {floor / taken:.2f} of the measured peaks")
    print(tabulate(rows, ("operation", "shapes", "time"), colalign=("left", "left", "right")), end="\n\n")


def shapes(found: Sequence[Sequence[int]]) -> str:
    """Return the shapes of an operation's tensors in short.

    >>> shapes([[128, 32], [], [32]])
    '128x32, 32'
    """
    return ", ".join("x".join(map(str, shape)) for shape in found if shape)


def seconds_of(work: Work) -> float:
    """Return the wall-clock seconds of one turn."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed_of(other: Work, ours: Work, tolerance: float = math.inf) -> str:
    """Return how many times as fast as ours another way is: medians of turns taken in alternation.

    Without a C++ compiler torch compiles nothing; then it is said in place of the ratio.

    Raises:
        AssertionError: if what they compute is further apart than `tolerance`.
    """
    try:
        torch.testing.assert_close(other().float(), ours().float(), atol=tolerance, rtol=0)
    except InductorError as error:
        if InvalidCxxCompiler.__name__ not in str(error):
            raise
        return "needs a C++ compiler"
    times = np.array([(seconds_of(other), seconds_of(ours)) for _ in range(TURNS)])
    return f"{np.median(times[:, 1]) / np.median(times[:, 0]):.2f}"


class TextbookDropout(nn.Module):
    """Our network with torch's own dropout, which torch.compile can fuse."""

    def __init__(self, module: BayesianCNN) -> None:
        super().__init__()
        self.module = module

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return logits."""
        features_nf = functional.dropout(self.module.features(images_nchw).flatten(1), FEATURE_DROPOUT)
        hidden_nh = functional.dropout(functional.relu(self.module.hidden(features_nf)), HIDDEN_DROPOUT)
        logits_nc: Tensor = self.module.output(hidden_nh)
        return logits_nc


class _ByTorch(BayesianCNN):
    """Our network with convolutions, pooling and their gradients by torch."""

    layout = torch.channels_last

    def features(self, images_nchw: Tensor) -> Tensor:
        x = self.standardise(images_nchw).clone(memory_format=self.layout)
        return functional.relu(functional.max_pool2d(self.conv2(functional.relu(self.conv1(x))), 2))


def by_torch(module: BayesianCNN, layout: torch.memory_format = torch.channels_last) -> BayesianCNN:
    """Return the same network with everything computed by torch, in this layout of memory."""
    channels, classes = module.conv1.in_channels, module.output.out_features
    side = 2 * int((module.hidden.in_features // module.conv2.out_channels) ** 0.5) + 6
    other = _ByTorch((channels, side, side), classes)
    other.layout, other.standardise = layout, module.standardise
    other.load_state_dict(module.state_dict())
    return other.to(memory_format=layout)


def without_onednn(work: Work) -> Tensor:
    """Do some work with torch's own kernels."""
    with torch.backends.mkldnn.flags(enabled=False):
        return work()


class Recorded:
    """Passes that the profiler sees: it knows no operations but torch's."""

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.features = passes.features

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (T, C, B) of every pass."""
        with record_function("StochasticPasses"):
            return self.passes.logits(features)


def in_blocks(passes: Passes, images: Tensor, size: int) -> Tensor:
    """Compute the passes of some images in smaller blocks."""
    return torch.cat([class_probabilities(passes, few) for few in images.split(size)], dim=1)


def pass_weights(module: BayesianCNN, masks: Sequence[Tensor], dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    """Return, for every pass, the indices of kept features and units, and the weights of both layers with dropout."""
    weights = []
    with torch.inference_mode():
        for features, hidden in zip(*masks, strict=True):
            first = module.hidden.weight[hidden] * (features / (1 - FEATURE_DROPOUT))
            last = module.output.weight[:, hidden] / (1 - HIDDEN_DROPOUT)
            bias = module.hidden.bias[hidden, None]
            weights.append((features.nonzero().squeeze(1), *(tensor.to(dtype) for tensor in (first, bias, last))))
    return weights


def masked_weights(passes: DensePasses, weights: Sequence[tuple[Tensor, ...]], features_fb: Tensor) -> Tensor:
    """Compute the logits of every pass as one product with the weights of dropped features set to zero."""
    return torch.stack(
        [
            torch.addmm(passes.output_bias_c1, last, torch.addmm(bias, first, features_fb).relu_())
            for _, first, bias, last in weights
        ]
    )


def kept_features(passes: DensePasses, weights: Sequence[tuple[Tensor, ...]], features_fb: Tensor) -> Tensor:
    """Compute the logits of every pass from the features that it keeps; `weights` hold no others."""
    return torch.stack(
        [
            torch.addmm(
                passes.output_bias_c1, last, torch.addmm(bias, first, features_fb.index_select(0, kept)).relu_()
            )
            for kept, first, bias, last in weights
        ]
    )


def onednn_linear(passes: DensePasses, features_fb: Tensor) -> Tensor:
    """Compute the logits of every pass and subtract the dropped features with oneDNN's linear layer, images first."""
    undropped_hb = torch.addmm(passes.hidden_bias_h1, passes.hidden_weight_hf, features_fb)
    logits = []
    for one in passes.passes:
        dropped_bd = features_fb.index_select(0, one.dropped).T.contiguous()
        linear = torch.ops.mkldnn._linear_pointwise(dropped_bd, one.hidden_weight, None, "none", [], "")
        hidden = (undropped_hb.index_select(0, one.kept) - linear.T).relu_()
        logits.append(torch.addmm(passes.output_bias_c1, one.output_weight, hidden))
    return torch.stack(logits)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
