"""What bounds the speed, and what was tried to go beyond it: `python -m benchmarks.bounds` (`make bounds`).

Prints where the time of one training step and of one inference block goes, operation by operation, with the share of
the machine's measured peak that the matrix work reaches; then, for every other way of computing the same thing that
we know of, how many times as fast as ours it is. Both sides of such a ratio take turns, on one thread.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from active_learning.execution import keep_freed_memory
from benchmarks.speed import (
    BATCH_SIZE,
    PASSES,
    Bench,
    fit_flops,
    inference_flops,
    load_bench_data,
    peak_gemm,
)
from cnn_model import (
    FEATURE_DROPOUT,
    HIDDEN_DROPOUT,
    IMAGES_PER_BLOCK,
    BayesianCNN,
    _StochasticPasses,
    choose_precision,
)

TURNS = 12
LISTED = 10
"""Operations that a profile lists, the longest first."""
MOST_SHAPES = 10
"""An operation on more different shapes than this has one line, for all of them."""

Work = Callable[[], object]


def main(data_dir: Path | None = None) -> None:
    """Profile both computations and measure the alternatives.

    Args:
        data_dir: folder with MNIST; without it the embedded digits are used.
    """
    warnings.simplefilter("ignore")  # torch.compile has a good many
    keep_freed_memory()
    torch.set_num_threads(1)
    bench = Bench(load_bench_data(data_dir), 1, choose_precision("auto", "cpu"))
    bench.peak = peak_gemm(bench.precision)
    net = bench.classifier(bench.precision, 1).fit(*bench.labelled(BATCH_SIZE))
    module: BayesianCNN = net.module_
    images, labels = (torch.from_numpy(array) for array in bench.labelled(BATCH_SIZE))
    block = torch.from_numpy(bench.images(IMAGES_PER_BLOCK))
    generator = torch.Generator().manual_seed(0)
    masks = [
        torch.rand(PASSES, layer.in_features, generator=generator) >= rate
        for layer, rate in ((module.hidden, FEATURE_DROPOUT), (module.output, HIDDEN_DROPOUT))
    ]
    passes = _StochasticPasses(module, masks[0], masks[1], getattr(torch, bench.precision))

    def autocast(work: Callable[..., object], *arguments: object) -> object:
        with net._autocast():
            return work(*arguments)

    def inference(work: Callable[..., object], *arguments: object) -> object:
        with torch.inference_mode(), net._autocast():
            return work(*arguments)

    step = training_step(module, partial(autocast, module), images, labels)
    module.train()
    show_profile(f"One training step of {BATCH_SIZE} images", step, fit_flops(bench, BATCH_SIZE, 1) / bench.peak)
    module.eval()
    infer = partial(inference, passes.class_probabilities, block)
    floor = inference_flops(bench, IMAGES_PER_BLOCK, PASSES) / bench.peak
    show_profile(f"One block of {IMAGES_PER_BLOCK} images x {PASSES} passes", infer, floor)

    features_fb = inference(lambda: module.features(block).permute(1, 2, 3, 0).flatten(0, 2))
    assert isinstance(features_fb, Tensor)
    few = block[:BATCH_SIZE]
    dense = partial(inference, passes.logits, features_fb)
    rows = []
    for name, ours, other in (
        ("convolutions in inference: torch.compile with freezing", partial(inference, module.features, few),
         partial(inference, compiled(module.features, few), few)),
        ("convolutions in inference: NCHW", partial(inference, module.features, few),
         partial(inference, nchw(module).features, few)),
        ("dense layers in inference: dropped features as zeros, one product a pass", dense,
         partial(inference, masked_weights, module, masks, features_fb)),
        ("dense layers in inference: kept features multiplied, none subtracted", dense,
         partial(inference, kept_features, module, masks, features_fb)),
        ("dense layers in inference: oneDNN's linear layer in place of addmm", dense,
         partial(inference, onednn_linear, passes, features_fb)),
        *(
            (f"inference: blocks of {size} images in place of {IMAGES_PER_BLOCK}", infer,
             partial(inference, in_blocks, passes, block, size))
            for size in (50, 125, 250)
        ),
    ):  # fmt: skip
        rows.append((name, speed_of(other, ours)))
    module.train()
    textbook = TextbookDropout(module).train()
    compiled_step = training_step(textbook, partial(autocast, torch.compile(textbook)), images, labels)
    rows.append(("training step: torch.compile", speed_of(compiled_step, step)))
    plain = nchw(module).train()
    nchw_step = training_step(plain, partial(autocast, plain), images, labels)
    rows.append(("training step: NCHW", speed_of(nchw_step, step)))
    rows.append(("training step: torch's own convolutions", speed_of(partial(no_onednn, step), step)))
    headers = ("another way", "times as fast as ours")
    print(tabulate([(name, f"{ratio:.2f}") for name, ratio in rows], headers, disable_numparse=True))


def show_profile(title: str, work: Work, floor: float) -> None:
    """Print where the time of some work goes; `floor`: the seconds of its operations at the measured peak."""
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
    print(f"{title}: {1e3 * taken:.1f} ms, {floor / taken:.2f} of the measured peak")
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


def speed_of(other: Work, ours: Work) -> float:
    """Return how many times as fast as ours another way is: medians of turns taken in alternation."""
    other(), ours()
    times = np.array([(seconds_of(other), seconds_of(ours)) for _ in range(TURNS)])
    return float(np.median(times[:, 1]) / np.median(times[:, 0]))


def training_step(module: nn.Module, forward: Callable[[Tensor], object], images: Tensor, labels: Tensor) -> Work:
    """Return a step of Adam on the module's parameters, as a fit takes it."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0, fused=True)  # every step from the same weights
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        logits = forward(images)
        assert isinstance(logits, Tensor)
        loss = criterion(logits.float(), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


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


class _Nchw(BayesianCNN):
    """Our network in torch's default layout of memory."""

    def features(self, images_nchw: Tensor) -> Tensor:
        x = (images_nchw.float() * self.scale + self.shift).contiguous(memory_format=torch.contiguous_format)
        return functional.relu(functional.max_pool2d(self.conv2(functional.relu(self.conv1(x))), 2))


def nchw(module: BayesianCNN) -> BayesianCNN:
    """Return the same network in torch's default layout of memory."""
    channels, classes = module.conv1.in_channels, module.output.out_features
    side = 2 * int((module.hidden.in_features // module.conv2.out_channels) ** 0.5) + 6
    other = _Nchw((channels, side, side), classes)
    other.load_state_dict(module.state_dict())
    return other.to(memory_format=torch.contiguous_format)


def compiled(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function compiled by torch for this input, the weights frozen."""
    import torch._inductor.config as settings

    with settings.patch(freezing=True), torch.inference_mode():
        fast: Callable[[Tensor], Tensor] = torch.compile(function)
        fast(example)
    return fast


def no_onednn(work: Work) -> None:
    """Do some work with torch's own convolutions."""
    with torch.backends.mkldnn.flags(enabled=False):
        work()


def in_blocks(passes: _StochasticPasses, images: Tensor, size: int) -> None:
    """Compute the passes of some images in smaller blocks."""
    for few in images.split(size):
        passes.class_probabilities(few)


def masked_weights(module: BayesianCNN, masks: Sequence[Tensor], features_fb: Tensor) -> None:
    """Compute every pass as one product with the weights of dropped features set to zero."""
    for features, hidden in zip(*masks, strict=True):
        weight = (module.hidden.weight[hidden] * (features / (1 - FEATURE_DROPOUT))).to(features_fb.dtype)
        units = torch.addmm(module.hidden.bias[hidden, None].to(weight.dtype), weight, features_fb).relu_()
        (module.output.weight[:, hidden] / (1 - HIDDEN_DROPOUT)).to(weight.dtype) @ units


def kept_features(module: BayesianCNN, masks: Sequence[Tensor], features_fb: Tensor) -> None:
    """Compute every pass from the features that it keeps."""
    for features, hidden in zip(*masks, strict=True):
        kept = features.nonzero().squeeze(1)
        weight = (module.hidden.weight[hidden][:, kept] / (1 - FEATURE_DROPOUT)).to(features_fb.dtype)
        bias = module.hidden.bias[hidden, None].to(weight.dtype)
        units = torch.addmm(bias, weight, features_fb.index_select(0, kept)).relu_()
        (module.output.weight[:, hidden] / (1 - HIDDEN_DROPOUT)).to(weight.dtype) @ units


def onednn_linear(passes: _StochasticPasses, features_fb: Tensor) -> None:
    """Subtract the dropped features with oneDNN's linear layer, images first."""
    undropped_hb = torch.addmm(passes.hidden_bias_h1, passes.hidden_weight_hf, features_fb)
    for one in passes.passes:
        dropped_bd = features_fb.index_select(0, one.dropped).T.contiguous()
        linear = torch.ops.mkldnn._linear_pointwise(dropped_bd, one.hidden_weight, None, "none", [], "")
        hidden = (undropped_hb.index_select(0, one.kept) - linear.T).relu_()
        torch.addmm(passes.output_bias_c1, one.output_weight, hidden)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
