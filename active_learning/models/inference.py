"""Class probabilities of a fitted network, block by block: MC dropout, and one pass without dropout.

Everything before the first dropout is deterministic, so MC dropout computes it once an image, up to the first dense
layer without dropout; and one pass draws one mask for all images, so that it only has to subtract the quarter of the
features that it drops, from the hidden units that it keeps. Both are exact: each pass is one posterior sample, applied
to every image (consistent MC dropout). Where the kernels fit they compute the passes, elsewhere torch does.

Dimensions: T passes, N images, B images of a block, C classes, F features (before the first dropout), H hidden units.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from active_learning.models.fast import CompiledPasses, computed_by_kernels
from active_learning.models.hardware import available_memory
from cnn_model import (
    FEATURE_DROPOUT,
    HIDDEN_DROPOUT,
    HIDDEN_UNITS,
    BayesianCNN,
    BayesianCNNClassifier,
    Precision,
    feature_count,
)

IMAGES_PER_BLOCK = 512
"""Images of one inference block: enough for a pass's weights to be fetched seldom, in whole strips of the kernels."""

IMAGES_AT_ONCE = 16
"""The least images of a block that memory is short for: of multiples of it, the size changes no digit."""

IMAGES_PER_SLICE = 128
"""Images that go through torch's convolutions at once: few enough for a cache to hold their activations."""

KEPT_ROUNDED_TO, DROPPED_ROUNDED_TO = 16, 32
"""Where torch computes bfloat16, kept units and dropped features are filled up with zeros to multiples of these."""


def mc_dropout_blocks(
    net: BayesianCNNClassifier,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64] | None = None,
    *,
    passes: int,
    seed: int,
    block_size: int = IMAGES_PER_BLOCK,
) -> Iterator[Tensor]:
    """Yield the class probabilities (T, B, C) of MC dropout, float32, block by block in the images' order.

    Pass t draws one mask for the features and one for the hidden units and applies them to every image. The
    masks depend on `seed` and `passes` only, not on the block size.

    Args:
        net: a fitted network.
        images: uint8 (N, channels, height, width).
        rows: take these rows of `images` only, in this order.
        passes: T.
        seed: seed of the masks.
        block_size: B at most; memory grows with it, with T and with torch's threads, not with N. On a CPU blocks
            are smaller where T passes of so many images would not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    module: BayesianCNN = net.module_
    feature_masks_tf = torch.rand(passes, module.hidden.in_features, generator=generator) >= FEATURE_DROPOUT
    hidden_masks_th = torch.rand(passes, module.hidden.out_features, generator=generator) >= HIDDEN_DROPOUT
    block_size = _fitting(net, block_size, passes)
    yield from _blocks(net, images, rows, feature_masks_tf, hidden_masks_th, block_size)


def mc_dropout_blocks_of_own_masks(
    net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], *, passes: int, seed: int
) -> Iterator[Tensor]:
    """Yield the class probabilities (T, B, C) of MC dropout with a mask for each image in each pass.

    As `mc_dropout_blocks` otherwise. The passes share no mask, so that they are no posterior samples; and nothing
    but the features before the first dropout can be shared, so that they take many times as long. The masks depend
    on `seed`, `passes` and an image's place.
    """
    module: BayesianCNN = net.module_
    for start in range(0, len(rows), IMAGES_PER_SLICE):
        if net.check is not None:
            net.check()
        block = torch.from_numpy(images[rows[start : start + IMAGES_PER_SLICE]]).to(net.device)
        with torch.inference_mode(), net.autocast():
            features = module.eval().features(block)
            module.train().mask_with(seed + start)
            logits_tbc = torch.stack([module.head(features) for _ in range(passes)])
        module.eval()
        yield logits_tbc.float().softmax(-1)


def _fitting(net: BayesianCNNClassifier, block_size: int, passes: int) -> int:
    """Return how many images a block may have for its passes to fit the memory that there is."""
    available = available_memory() if net.device_type == "cpu" else None
    if available is None:
        return block_size
    at_once = 1 + torch.get_num_threads()
    an_image = bytes_an_image(net.module_.output.out_features, passes)
    passes_bytes = passes * bytes_a_pass(net.module__image_shape, net.precision)
    wanted = (available - passes_bytes) // 4 // at_once // an_image
    fitting = block_size
    while fitting > max(wanted, IMAGES_AT_ONCE) and fitting % (2 * IMAGES_AT_ONCE) == 0:
        fitting //= 2
    if fitting < block_size and net.note is not None:
        net.note(f"little memory for {passes} passes: inference goes on with blocks of {fitting} images")
    return fitting


def deterministic_blocks(
    net: BayesianCNNClassifier,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64] | None = None,
    *,
    block_size: int = IMAGES_PER_SLICE,
) -> Iterator[Tensor]:
    """Yield the class probabilities (1, B, C) of the network used without dropout: one pass, nothing dropped."""
    yield from _computed(net, images, rows, block_size, lambda block: net.module_(block).float().softmax(-1)[None])


def _blocks(
    net: BayesianCNNClassifier,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64] | None,
    feature_masks_tf: Tensor,
    hidden_masks_th: Tensor,
    block_size: int,
) -> Iterator[Tensor]:
    """Yield (T, B, C) for given masks (True = kept)."""
    module: BayesianCNN = net.module_
    passes: _Passes
    if computed_by_kernels(net.device_type, net.precision):
        passes = CompiledPasses(module, feature_masks_tf, hidden_masks_th, net.precision)
    else:
        passes = _TorchPasses(module, feature_masks_tf, hidden_masks_th, getattr(torch, net.precision))
    return _computed(net, images, rows, block_size, partial(_class_probabilities, passes))


def _computed(
    net: BayesianCNNClassifier,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64] | None,
    block_size: int,
    compute: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    """Yield what `compute` makes of each block; where memory runs out, go on with blocks of half the size."""
    net.module_.eval()
    rows = np.arange(len(images)) if rows is None else rows

    def computed(start: int, size: int) -> Tensor:
        block = torch.from_numpy(images[rows[start : start + size]]).to(net.device)
        with torch.inference_mode(), net.autocast():
            return compute(block)

    start = submitted = 0
    coming: deque[Future[Tensor]] = deque()
    threads = torch.get_num_threads() if net.device_type == "cpu" else 1
    block_size = min(block_size, max(1, math.ceil(len(rows) / threads)))
    with _block_threads(threads) as (executor, ahead):
        while start < len(rows):
            if net.check is not None:
                net.check()
            while submitted < len(rows) and len(coming) < ahead:
                coming.append(executor.submit(computed, submitted, block_size))
                submitted += block_size
            try:
                block_computed = coming.popleft().result()
            except (MemoryError, RuntimeError) as error:
                if block_size == 1 or not _is_out_of_memory(error):
                    raise
                for other in coming:
                    other.cancel()
                wait(coming)
                coming.clear()
                submitted = start
                block_size //= 2
                if net.note is not None:
                    net.note(f"out of memory: inference goes on with blocks of {block_size} images")
                continue
            yield block_computed
            start += block_size


def bytes_a_pass(image_shape: tuple[int, ...], precision: Precision = "float32") -> int:
    """Return about how much memory a pass of MC dropout takes on a CPU: the weights that it picks, and its masks."""
    features = feature_count(image_shape)
    weights = FEATURE_DROPOUT * (1 - HIDDEN_DROPOUT) * HIDDEN_UNITS * (4 if precision == "float32" else 2)
    return int(features * (weights + 2 + FEATURE_DROPOUT * 16))


def bytes_an_image(class_count: int, passes: int) -> int:
    """Return about how much memory an image of a block takes: its logits, probabilities, and what is made of them."""
    return passes * (4 * (class_count + -class_count % 16) + 16 * class_count)


@contextmanager
def _block_threads(threads: int) -> Iterator[tuple[Executor, int]]:
    """Give what computes blocks, and how many blocks it should have at hand.

    Each block is computed by one thread from end to end: its operations are too short to be shared out. Meanwhile the
    caller has one thread as well, since torch's others would keep cores busy for some time after each operation.
    """
    if threads == 1:
        yield _CallingThread(), 1
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool, threads + 1
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that start later take what was set last, by any thread


class _CallingThread(Executor):
    """Computes at once what is submitted, in the thread that submits it."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        try:
            return future
        finally:
            del future  # or it and the error's traceback would keep each other, and the memory of the failed block


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed; on the CPU torch says so in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


class _Passes(Protocol):
    """The network under T fixed pairs of masks."""

    def features(self, images_bchw: Tensor) -> Tensor:
        """Return the activations before the first dropout, as `logits` takes them."""

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (T, C, B) of every pass."""


def _class_probabilities(passes: _Passes, images_bchw: Tensor) -> Tensor:
    """Return softmax outputs (T, B, C) in float32 (a view: the images' axis comes last in memory)."""
    logits_tcb = passes.logits(passes.features(images_bchw))
    return functional.softmax(logits_tcb, dim=1, dtype=torch.float32).transpose(1, 2)


class _TorchPasses:
    """Passes computed by torch.

    For pass t with feature mask a and hidden mask b the hidden layer is relu(W (a * x) / 0.75 + c) on the rows that b
    keeps; the dropped rows are zero and are not computed. Since a drops a quarter of the features,

        W (a * x) = W x - W ((1 - a) * x)

    costs a quarter of the products: W x is the same in every pass and is computed once, and each pass subtracts the
    features that it drops. The images' axis is the last one throughout, so that picking features or hidden units out
    of a block copies whole rows.
    """

    def __init__(
        self, module: BayesianCNN, feature_masks_tf: Tensor, hidden_masks_th: Tensor, dtype: torch.dtype
    ) -> None:
        self.module = module
        device = module.hidden.weight.device
        # oneDNN, which computes bfloat16, makes and keeps a kernel for each shape it meets: megabytes of them.
        rounded_to = (1, 1) if dtype == torch.float32 else (KEPT_ROUNDED_TO, DROPPED_ROUNDED_TO)
        with torch.inference_mode():
            self.hidden_weight_hf = (module.hidden.weight / (1 - FEATURE_DROPOUT)).to(dtype)
            self.hidden_bias_h1 = module.hidden.bias[:, None].to(dtype)
            output_weight_ch = (module.output.weight / (1 - HIDDEN_DROPOUT)).to(dtype)
            self.output_bias_c1 = module.output.bias[:, None].to(dtype)
            self.passes = [
                _pass_weights(self.hidden_weight_hf, output_weight_ch, ~features, hidden, rounded_to)
                for features, hidden in zip(feature_masks_tf.to(device), hidden_masks_th.to(device), strict=True)
            ]
            self.most_dropped = max(len(one.dropped) for one in self.passes)

    def features(self, images_bchw: Tensor) -> Tensor:
        """Return the activations (F, B) before the first dropout."""
        features_fb: Tensor = self.hidden_weight_hf.new_empty(self.hidden_weight_hf.shape[1], len(images_bchw))
        slices = images_bchw.split(IMAGES_PER_SLICE), features_fb.split(IMAGES_PER_SLICE, dim=1)
        for few_bchw, few_fb in zip(*slices, strict=True):
            x = self.module.features(few_bchw)
            few_fb.unflatten(0, x.shape[1:]).copy_(x.permute(1, 2, 3, 0))
        return features_fb

    def logits(self, features_fb: Tensor) -> Tensor:
        """Return the logits (T, C, B) of every pass."""
        images = features_fb.shape[1]
        undropped_hb = torch.addmm(self.hidden_bias_h1, self.hidden_weight_hf, features_fb)
        dropped_db = features_fb.new_empty(self.most_dropped, images)
        logits_tcb: Tensor = features_fb.new_empty(len(self.passes), len(self.output_bias_c1), images)
        for one, logits_cb in zip(self.passes, logits_tcb, strict=True):
            dropped = torch.index_select(features_fb, 0, one.dropped, out=dropped_db[: len(one.dropped)])
            hidden = undropped_hb.index_select(0, one.kept).addmm_(one.hidden_weight, dropped, alpha=-1).relu_()
            torch.addmm(self.output_bias_c1, one.output_weight, hidden, out=logits_cb)
        return logits_tcb


class _PassWeights(NamedTuple):
    """What one pass needs of the two dense layers, for K kept hidden units and D dropped features."""

    kept: Tensor  # (K,)
    dropped: Tensor  # (D,)
    hidden_weight: Tensor  # (K, D)
    output_weight: Tensor  # (C, K)


def _pass_weights(
    hidden_weight_hf: Tensor,
    output_weight_ch: Tensor,
    dropped_f: Tensor,
    kept_h: Tensor,
    rounded_to: tuple[int, int],
) -> _PassWeights:
    """Pick one pass's weights, both axes filled up with zeros to round numbers."""
    kept, dropped = kept_h.nonzero().squeeze(1), dropped_f.nonzero().squeeze(1)
    more_kept, more_dropped = -len(kept) % rounded_to[0], -len(dropped) % rounded_to[1]
    return _PassWeights(
        kept=functional.pad(kept, (0, more_kept)),  # the filling is index 0, under weights of zero
        dropped=functional.pad(dropped, (0, more_dropped)),
        hidden_weight=functional.pad(hidden_weight_hf[kept][:, dropped], (0, more_dropped, 0, more_kept)),
        output_weight=functional.pad(output_weight_ch[:, kept], (0, more_kept)),
    )
