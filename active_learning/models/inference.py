"""Class probabilities of a fitted network, block by block: MC dropout, and one pass without dropout.

Everything before the first dropout is deterministic, so MC dropout computes it once an image, up to the first dense
layer without dropout; and one pass draws one mask for all images, so that it only has to subtract the quarter of the
features that it drops, from the hidden units that it keeps. Both are exact: each pass is one posterior sample, applied
to every image (consistent MC dropout). Who computes them is decided in `engines`.

Dimensions: T passes, N images, B images of a block, C classes.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from active_learning.models.engines import IMAGES_PER_SLICE, Passes, bytes_a_pass, bytes_an_image, make_passes
from active_learning.models.hardware import available_memory
from cnn_model import BayesianCNNClassifier, Network

IMAGES_PER_BLOCK = 512
"""Images of one inference block: enough for a pass's weights to be fetched seldom, in whole strips of the kernels."""

IMAGES_AT_ONCE = 16
"""The least images of a block that memory is short for: of multiples of it, the size changes no digit."""


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
    module: Network = net.module_
    kept = [torch.rand(passes, *place.shape, generator=generator) >= place.rate for place in module.dropouts]
    yield from blocks_under_masks(net, images, rows, kept, _fitting(net, block_size, passes))


def mc_dropout_blocks_of_own_masks(
    net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], *, passes: int, seed: int
) -> Iterator[Tensor]:
    """Yield the class probabilities (T, B, C) of MC dropout with a mask for each image in each pass.

    As `mc_dropout_blocks` otherwise. The passes share no mask, so that they are no posterior samples; and nothing
    but the features before the first dropout can be shared, so that they take many times as long. The masks depend
    on `seed`, `passes` and an image's place.
    """
    module: Any = net.module_
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
    an_image = bytes_an_image(net.module__class_count, passes)
    passes_bytes = passes * bytes_a_pass(net.module, net.module__image_shape, net.precision)
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


def embedding_blocks(
    net: BayesianCNNClassifier,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64] | None = None,
    *,
    block_size: int = IMAGES_PER_SLICE,
) -> Iterator[Tensor]:
    """Yield what the network's last layer takes of each image (B, D), float32, nothing dropped."""
    module: Network = net.module_
    yield from _computed(net, images, rows, block_size, lambda block: module.embed(module.features(block)).float())


def blocks_under_masks(
    net: BayesianCNNClassifier,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64] | None,
    kept: Sequence[Tensor],
    block_size: int,
) -> Iterator[Tensor]:
    """Yield (T, B, C) for masks (T, *shape) of each place (True = kept)."""
    return _computed(net, images, rows, block_size, partial(class_probabilities, make_passes(net, kept)))


def class_probabilities(passes: Passes, images_bchw: Tensor) -> Tensor:
    """Return softmax outputs (T, B, C) in float32 (a view: the images' axis comes last in memory)."""
    logits_tcb = passes.logits(passes.features(images_bchw))
    return functional.softmax(logits_tcb, dim=1, dtype=torch.float32).transpose(1, 2)


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
                if block_size == 1 or not is_out_of_memory(error):
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


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed, which torch's parts say in words of their own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY)


_NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
"""On the CPU; of CUDA's and of Apple's devices; of CUDA's libraries; of C++."""


def is_of_device(error: Exception) -> bool:
    """Return whether a graphics processor, or one of its libraries, failed."""
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _DEVICES)


_DEVICES = ("CUDA", "cuDNN", "CUDNN", "CUBLAS", "MPS")
