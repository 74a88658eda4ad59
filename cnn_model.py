"""The Bayesian CNN of the paper, its skorch classifier and MC-dropout inference.

The only file that knows torch and skorch internals. Its secret: everything before the first dropout is deterministic,
so MC dropout computes it once an image, up to the first dense layer without dropout; and one pass draws one mask for
all images, so that it only has to subtract the quarter of the features that it drops, from the hidden units that it
keeps. Both are exact: each pass is one posterior sample, applied to every image (consistent MC dropout). On a CPU the
convolutions, their gradients and the passes are our own code, see `active_learning/kernels.py`.

Dimensions: T passes, N images, B images of a block, C classes, F features (before the first dropout), H hidden units.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping, LRScheduler, PassthroughScoring
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional
from torch.nn.utils import skip_init
from torch.optim.lr_scheduler import CosineAnnealingLR

from active_learning.kernels import (
    FILTERS,
    KERNEL,
    POOLING,
    Convolved,
    StochasticPasses,
    convolution_gradients,
    convolve,
)

FEATURE_DROPOUT = 0.25
HIDDEN_DROPOUT = 0.5
HIDDEN_UNITS = 128

IMAGES_PER_BLOCK = 512
"""Images of one inference block: enough for a pass's weights to be fetched seldom, in whole strips of the kernels."""

IMAGES_PER_SLICE = 128
"""Images that go through torch's convolutions at once: few enough for a cache to hold their activations."""

KEPT_ROUNDED_TO, DROPPED_ROUNDED_TO = 16, 32
"""Where torch computes bfloat16, kept units and dropped features are filled up with zeros to multiples of these."""

STEPS_BETWEEN_CHECKS, CHECKS_WITHOUT_GAIN = 50, 5
"""With `stopping`, the validation loss is measured each so many steps, and a fit ends after so many without a gain."""

Initialisation = Literal["glorot", "torch"]
Schedule = Literal["constant", "cosine"]
Stopping = Literal["none", "validation"]
Masks = Literal["pass", "image"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda", "mps"]
Weights = dict[str, npt.NDArray[np.float32]]
Labelled = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
Augment = Callable[[Tensor, torch.Generator], Tensor]


USED_OF_MEMORY = 0.5
"""What the passes of all runs may take of the memory that there is; blocks of images may take a quarter of the rest."""


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite; the message names the epoch and the loss."""


def choose_device(wanted: str) -> Device:
    """Return the device for `--device`: auto takes cuda, then mps, then cpu.

    Raises:
        ValueError: for a device that this machine does not have.
    """
    available: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    for device, there in available.items():
        if there and wanted in ("auto", device):
            return device
    raise ValueError(f"--device {wanted} is not available on this machine: take --device auto or cpu.")


def choose_precision(wanted: str, device: Device) -> Precision:
    """Return the precision for `--precision`: auto takes bfloat16 only where the device computes it natively."""
    if wanted != "auto":
        return cast(Precision, wanted)
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and _cpu_computes_bfloat16()
    return "bfloat16" if native else "float32"


def _cpu_computes_bfloat16() -> bool:
    """Return whether the processor has bfloat16 instructions that oneDNN uses; elsewhere they are emulated, slowly.

    (torch's own `_is_mkldnn_bf16_supported` is true wherever oneDNN can emulate them.)
    """
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in _BFLOAT16_CAPABILITIES)


_BFLOAT16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")  # the last is ARM's


def computed_by_kernels(device_type: str, precision: Precision) -> bool:
    """Return whether convolutions and passes are our own code: on a CPU, unless torch has better instructions for them.

    Those are AMX's and ARM's for bfloat16, which the kernels do not use.
    """
    if device_type != "cpu" or precision == "float32":
        return device_type == "cpu"
    capabilities = torch.cpu.get_capabilities()
    return not (capabilities.get("amx_bf16") or capabilities.get("bf16"))


def feature_count(image_shape: tuple[int, ...]) -> int:
    """Return F for images (channels, height, width)."""
    return FILTERS * math.prod((side - 2 * (KERNEL - 1)) // POOLING for side in image_shape[1:])


def bytes_a_pass(image_shape: tuple[int, ...], precision: Precision = "float32") -> int:
    """Return about how much memory a pass of MC dropout takes on a CPU: the weights that it picks, and its masks."""
    features = feature_count(image_shape)
    weights = FEATURE_DROPOUT * (1 - HIDDEN_DROPOUT) * HIDDEN_UNITS * (4 if precision == "float32" else 2)
    return int(features * (weights + 2 + FEATURE_DROPOUT * 16))


def bytes_an_image(class_count: int, passes: int) -> int:
    """Return about how much memory an image of a block takes: its logits, probabilities, and what is made of them."""
    return passes * (4 * (class_count + -class_count % 16) + 16 * class_count)


def available_memory() -> int | None:
    """Return the bytes that this process can still have without swapping, or None where the system does not say.

    The least of what the machine, its control group (a container's) and the process's own limits leave.
    """
    left = [_free_memory(), *map(_left_in_group, _GROUPS), _left_of_limit()]
    return min((size for size in left if size is not None), default=None)


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError, AttributeError):  # no such name on macOS, no such function on Windows
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def _left_in_group(files: tuple[str, str]) -> int | None:
    with suppress(OSError, ValueError):  # "max" is no limit
        most, used = (int(Path(file).read_text("ascii")) for file in files)
        return max(0, most - used)
    return None


def _left_of_limit() -> int | None:
    with suppress(ImportError, OSError, ValueError, IndexError):  # Windows has no such limits, macOS no /proc
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
            return max(0, most - used)
    return None


class BayesianCNN(nn.Module):
    """The network of Gal, Islam and Ghahramani (2017), section 5.

    conv 32@4x4 - relu - conv 32@4x4 - relu - maxpool 2x2 - dropout 0.25 - dense 128 - relu - dropout 0.5 - dense C.
    Takes images with pixels of 0 to 255 and returns logits. In training mode every image has its own dropout masks.

    Args:
        image_shape: (channels, height, width).
        class_count: C.
        pixel_mean: mean of the data set's pixels / 255, subtracted from the input.
        pixel_std: their standard deviation, which divides the input.
        seed: seed of the weights and of the training masks.
        initialisation: how the weights are drawn. "glorot": Glorot uniform and zero biases, as in the authors'
            framework; "torch": as torch's own layers draw both, uniform within 1 / sqrt(inputs of a unit).
        initial_weights: start from these in place of drawn ones (`--warm_start`).
        threads: threads of the convolutions in training, where the kernels compute them; see `training_threads`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        class_count: int,
        pixel_mean: float = 0.0,
        pixel_std: float = 1.0,
        seed: int = 0,
        initialisation: Initialisation = "glorot",
        initial_weights: Weights | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.scale = 1 / (255 * pixel_std)
        self.shift = -pixel_mean / pixel_std
        # Without torch's own initialisation, which would draw from the global generator.
        self.conv1 = skip_init(nn.Conv2d, channels, FILTERS, KERNEL)
        self.conv2 = skip_init(nn.Conv2d, FILTERS, FILTERS, KERNEL)
        self.hidden = skip_init(nn.Linear, feature_count(image_shape), HIDDEN_UNITS)
        self.output = skip_init(nn.Linear, HIDDEN_UNITS, class_count)
        self.seed = seed
        self.threads = threads
        # The weights use up the first draws of this seed; the masks must not repeat them.
        self.mask_with(seed ^ 0x6D61736B)
        if initial_weights is None:
            self._draw_weights(initialisation)
        else:
            self.load_state_dict({name: torch.from_numpy(array) for name, array in initial_weights.items()})
        self.to(memory_format=torch.channels_last)

    def _draw_weights(self, initialisation: Initialisation) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for layer in (self.conv1, self.conv2, self.hidden, self.output):
            if initialisation == "glorot":
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
            else:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

    def mask_with(self, seed: int) -> None:
        """Draw the dropout masks of training mode from this seed from here on."""
        self._mask_seed = seed
        self._mask_generators: dict[torch.device, torch.Generator] = {}

    def features(self, images_nchw: Tensor) -> Tensor:
        """Return the activations (N, 32, h, w) before the first dropout: the deterministic part of the network."""
        # A copy: with one channel any strides count as channels_last, and oneDNN is five times slower with some.
        x = (images_nchw.float() * self.scale + self.shift).clone(memory_format=torch.channels_last)
        in_bfloat16 = torch.is_autocast_enabled(x.device.type)
        own = x.dtype == self.conv1.weight.dtype == torch.float32 and not x.requires_grad
        if own and computed_by_kernels(x.device.type, "bfloat16" if in_bfloat16 else "float32"):
            parameters = self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias
            threads = self.threads if self.training else torch.get_num_threads()
            features: Tensor = _Convolutions.apply(torch.is_grad_enabled(), in_bfloat16, threads, x, *parameters)
            return features
        x = self.conv2(functional.relu(self.conv1(x), inplace=True))
        # relu and max commute; after the pooling it has a quarter of the elements to do.
        return functional.relu(functional.max_pool2d(x, POOLING), inplace=True)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, channels, height, width)."""
        return self.head(self.features(images_nchw))

    def head(self, features_nchw: Tensor) -> Tensor:
        """Return the logits (N, C) of activations before the first dropout; in training mode with fresh masks."""
        features_nf = self._dropout(features_nchw.flatten(1), FEATURE_DROPOUT)
        hidden_nh = self._dropout(functional.relu(self.hidden(features_nf)), HIDDEN_DROPOUT)
        logits_nc: Tensor = self.output(hidden_nh)
        return logits_nc

    def _dropout(self, x: Tensor, rate: float) -> Tensor:
        """Drop elements independently with probability `rate` (a multiple of 1/256) in training mode.

        A mask made of random bytes is exact for such rates and several times cheaper than Bernoulli draws.
        """
        if not self.training:
            return x
        if x.device not in self._mask_generators:
            self._mask_generators[x.device] = torch.Generator(x.device).manual_seed(self._mask_seed)
        words = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device)
        # Without its lower limit random_() would never set the sign bit, and with it every eighth byte.
        words.random_(torch.iinfo(torch.int64).min, None, generator=self._mask_generators[x.device])
        kept = torch.ge(words.view(torch.uint8)[: x.numel()].view(x.shape), round(256 * rate), out=torch.empty_like(x))
        return x * kept.mul_(1 / (1 - rate))


class _Convolutions(Function):
    """The convolutional part of the network as `active_learning.kernels` computes it."""

    @staticmethod
    def forward(
        ctx: Any, for_gradients: bool, in_bfloat16: bool, threads: int, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Return the activations before the first dropout; the parameters are both weights, each with its bias."""
        weight1, bias1, weight2, bias2 = parameters
        arrays = _as_array(x), _as_array(weight1), bias1.numpy(), _as_array(weight2), bias2.numpy()
        convolved = convolve(*arrays, for_gradients=for_gradients, bfloat16=in_bfloat16, threads=threads)
        features, *others = map(torch.from_numpy, convolved)
        features = features.permute(0, 3, 1, 2)
        ctx.save_for_backward(x, weight2, features, *others)
        ctx.threads = threads
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the parameters; the images need none."""
        x, weight2, features, corners, between = ctx.saved_tensors
        convolved = Convolved(_as_array(features), corners.numpy(), between.numpy())
        arrays = _as_array(x), _as_array(weight2), _as_array(gradient)
        found = convolution_gradients(convolved, *arrays, threads=ctx.threads)
        by_weight1, by_bias1, by_weight2, by_bias2 = map(torch.from_numpy, found)
        by_parameters = by_weight1.permute(0, 3, 1, 2), by_bias1, by_weight2.permute(0, 3, 1, 2), by_bias2
        return None, None, None, None, *by_parameters


def _as_array(tensor_nchw: Tensor) -> npt.NDArray[np.float32]:
    return tensor_nchw.detach().permute(0, 2, 3, 1).numpy()


class TensorBatches:
    """Shuffled batches sliced from two tensors: skorch's `iterator_train` without a DataLoader's cost an image.

    The batches of an epoch differ by one image at most. A last batch of what is left would take as long an Adam step
    for 2 images as for 128, and the error would jump wherever a batch more begins.

    Args:
        dataset: the images and their labels.
        batch_size: the most images of a batch.
        seed: seed of the order.
        epochs: how often each image comes before the iteration ends.
        augment: makes of a batch's images those that are trained on; its second argument is where it draws from.
        augment_seed: seed of what it draws.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        augment: Augment | None = None,
        augment_seed: int = 0,
    ) -> None:
        self.images = torch.as_tensor(dataset.X)
        self.labels = torch.as_tensor(dataset.y)
        self.batches = math.ceil(len(self.images) / batch_size)
        self.epochs = epochs
        self.augment = augment
        self.generator = torch.Generator().manual_seed(seed)
        self.augment_generator = torch.Generator().manual_seed(augment_seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.epochs):
            order = torch.randperm(len(self.images), generator=self.generator)
            for batch in order.tensor_split(self.batches):
                images = self.images[batch]
                if self.augment is not None:
                    images = self.augment(images, self.augment_generator)
                yield images, self.labels[batch]


class BayesianCNNClassifier(NeuralNetClassifier):  # type: ignore[misc]
    """skorch classifier of the Bayesian CNN: each `fit` starts from fresh weights and a new optimiser.

    Adam minimises cross entropy + (c / n) * ||W||^2 over the first dense layer's weights W, with n labelled images:
    the authors' L2 term, which in torch is Adam's coupled `weight_decay` = 2 c / n.

    A fit takes `max_epochs` epochs, and more until it has taken `min_steps` steps (and with `stopping`, until the next
    look at the validation set).

    Args:
        module: the network's class (never an instance: skorch would continue from its weights).
        min_steps: the least number of optimiser steps of a fit.
        lr_schedule: "constant", or "cosine": the learning rate falls from `lr` to 0 along half a cosine.
        stopping: "none", or "validation": a fit ends early once the loss on `validation` has not fallen for
            STEPS_BETWEEN_CHECKS * CHECKS_WITHOUT_GAIN steps, and keeps the weights of its lowest.
        validation: the images and labels that `stopping` looks at, in one pass without dropout.
        weight_decay: c.
        fit_seed: seed of the next fit: weights, batches, distortions and training masks.
        trained: weights that the next fit takes in place of training, since it has been done already.
        precision: float32, or bfloat16, to which the factors of the large products are rounded. The kernels keep sums
            and the convolutions' gradients in float32; what torch computes is under autocast, and rounded too: in
            training the dense layers. The weights and the loss are float32 in either case.
        check: called before each training step and whenever an inference block is due; what it raises ends the work.
        note: told in a sentence when memory ran out and inference goes on with smaller blocks.
        **kwargs: skorch's own settings.
    """

    def __init__(
        self,
        module: type[BayesianCNN] = BayesianCNN,
        *,
        min_steps: int = 0,
        lr_schedule: Schedule = "constant",
        stopping: Stopping = "none",
        validation: Labelled | None = None,
        weight_decay: float = 0.0,
        fit_seed: int = 0,
        trained: Weights | None = None,
        precision: Precision = "float32",
        check: Callable[[], None] | None = None,
        note: Callable[[str], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self.min_steps = min_steps
        self.lr_schedule = lr_schedule
        self.stopping = stopping
        self.validation = validation
        self.weight_decay = weight_decay
        self.fit_seed = fit_seed
        self.trained = trained
        self.precision = precision
        self.check = check
        self.note = note
        self.steps_ = 0  # of the last fit, or of the one that has begun
        defaults: dict[str, Any] = {
            "criterion": nn.CrossEntropyLoss,
            "optimizer": torch.optim.Adam,
            "optimizer__fused": True,
            "iterator_train": TensorBatches,
            "iterator_valid__generator": torch.Generator(),  # or a DataLoader draws from torch's global one
            "train_split": None,
            "verbose": 0,
        }
        super().__init__(module, **{**defaults, **kwargs})

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        """The callbacks of the next fit; skorch's own epoch scores, timers and log cost time and are not used."""
        callbacks: list[tuple[str, Any]] = []
        if self.lr_schedule == "cosine":
            callbacks.append(("schedule", LRScheduler(CosineAnnealingLR, T_max=self.steps_, step_every="batch")))
        if self.stopping == "validation":
            callbacks.append(("valid_loss", PassthroughScoring("valid_loss")))
            stopping = EarlyStopping(patience=CHECKS_WITHOUT_GAIN, threshold=0, load_best=True)
            callbacks.append(("stopping", stopping))
        return callbacks

    def fit(self, X: npt.NDArray[np.uint8], y: npt.NDArray[np.int64], **fit_params: Any) -> "BayesianCNNClassifier":  # noqa: N803
        """Fit to images (n, channels, height, width) and labels (n,), from fresh weights.

        Raises:
            NonFiniteLossError: when the loss of an epoch is NaN or infinite.
        """
        if self.trained is not None:
            self.initialize().module_.load_state_dict({name: torch.from_numpy(w) for name, w in self.trained.items()})
            self.trained = None
            return self
        seeds = np.random.SeedSequence(self.fit_seed).generate_state(3, np.uint64) >> 1
        self.module__seed, self.iterator_train__seed, self.iterator_train__augment_seed = map(int, seeds)
        self.optimizer__param_groups = [("hidden.weight", {"weight_decay": 2 * self.weight_decay / len(X)})]
        batches = math.ceil(len(X) / self.batch_size)
        epochs = max(self.max_epochs, math.ceil(self.min_steps / batches))
        # skorch looks at the validation set after each of its epochs, which may be one step
        at_once = math.ceil(STEPS_BETWEEN_CHECKS / batches) if self.stopping == "validation" else 1
        at_once = max(1, min(at_once, epochs))
        checks = math.ceil(epochs / at_once)
        self.steps_ = checks * at_once * batches
        self.iterator_train__epochs = at_once
        if self.stopping == "validation":
            self.train_split = predefined_split(Dataset(*cast(Labelled, self.validation)))
        with training_threads(self._device_type, self.precision) as self.module__threads:
            super().fit(X, y, epochs=checks, **fit_params)
        return self

    def weights(self) -> Weights:
        """Return a copy of the fitted weights by name."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.module_.state_dict().items()}

    def infer(self, x: Tensor, **fit_params: Any) -> Tensor:
        """Return float32 logits, computed in the chosen precision."""
        with self._autocast():
            logits: Tensor = super().infer(x, **fit_params)
        return logits.float()

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Give the caller the chance to stop before each step."""
        super().on_batch_begin(net, batch=batch, training=training, **kwargs)
        if self.check is not None:
            self.check()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Stop a fit whose loss is not a number; skorch would train on silently."""
        super().on_epoch_end(net, **kwargs)
        losses = self.history[-1, "batches", :, "train_loss"]
        if not all(map(math.isfinite, losses)):
            raise NonFiniteLossError(f"the training loss became {losses[-1]} in epoch {len(self.history)}")

    def mc_dropout_blocks(
        self,
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
            images: uint8 (N, channels, height, width).
            rows: take these rows of `images` only, in this order.
            passes: T.
            seed: seed of the masks.
            block_size: B at most; memory grows with it, with T and with torch's threads, not with N. On a CPU blocks
                are smaller where T passes of so many images would not fit.
        """
        generator = torch.Generator().manual_seed(seed)
        module: BayesianCNN = self.module_
        feature_masks_tf = torch.rand(passes, module.hidden.in_features, generator=generator) >= FEATURE_DROPOUT
        hidden_masks_th = torch.rand(passes, module.hidden.out_features, generator=generator) >= HIDDEN_DROPOUT
        block_size = self._fitting(block_size, passes)
        yield from self._blocks(images, rows, feature_masks_tf, hidden_masks_th, block_size)

    def mc_dropout_blocks_of_own_masks(
        self, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], *, passes: int, seed: int
    ) -> Iterator[Tensor]:
        """Yield the class probabilities (T, B, C) of MC dropout with a mask for each image in each pass.

        As `mc_dropout_blocks` otherwise. The passes share no mask, so that they are no posterior samples; and nothing
        but the features before the first dropout can be shared, so that they take many times as long. The masks depend
        on `seed`, `passes` and an image's place.
        """
        module: BayesianCNN = self.module_
        for start in range(0, len(rows), IMAGES_PER_SLICE):
            if self.check is not None:
                self.check()
            block = torch.from_numpy(images[rows[start : start + IMAGES_PER_SLICE]]).to(self.device)
            with torch.inference_mode(), self._autocast():
                features = module.eval().features(block)
                module.train().mask_with(seed + start)
                logits_tbc = torch.stack([module.head(features) for _ in range(passes)])
            module.eval()
            yield logits_tbc.float().softmax(-1)

    def _fitting(self, block_size: int, passes: int) -> int:
        """Return how many images a block may have for its passes to fit the memory that there is."""
        available = available_memory() if self._device_type == "cpu" else None
        if available is None:
            return block_size
        at_once = 1 + torch.get_num_threads()
        an_image = bytes_an_image(self.module_.output.out_features, passes)
        passes_bytes = passes * bytes_a_pass(self.module__image_shape, self.precision)
        fitting = max(1, min(block_size, (available - passes_bytes) // 4 // at_once // an_image))
        if fitting < block_size and self.note is not None:
            self.note(f"little memory for {passes} passes: inference goes on with blocks of {fitting} images")
        return fitting

    def deterministic_blocks(
        self,
        images: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.int64] | None = None,
        *,
        block_size: int = IMAGES_PER_SLICE,
    ) -> Iterator[Tensor]:
        """Yield the class probabilities (1, B, C) of the network used without dropout: one pass, nothing dropped."""
        yield from self._computed(images, rows, block_size, lambda block: self.module_(block).float().softmax(-1)[None])

    def _blocks(
        self,
        images: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.int64] | None,
        feature_masks_tf: Tensor,
        hidden_masks_th: Tensor,
        block_size: int,
    ) -> Iterator[Tensor]:
        """Yield (T, B, C) for given masks (True = kept)."""
        module: BayesianCNN = self.module_
        passes: _Passes
        if computed_by_kernels(self._device_type, self.precision):
            passes = _CompiledPasses(module, feature_masks_tf, hidden_masks_th, self.precision)
        else:
            passes = _TorchPasses(module, feature_masks_tf, hidden_masks_th, getattr(torch, self.precision))
        return self._computed(images, rows, block_size, partial(_class_probabilities, passes))

    def _computed(
        self,
        images: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.int64] | None,
        block_size: int,
        compute: Callable[[Tensor], Tensor],
    ) -> Iterator[Tensor]:
        """Yield what `compute` makes of each block; where memory runs out, go on with blocks of half the size."""
        self.module_.eval()
        rows = np.arange(len(images)) if rows is None else rows

        def computed(start: int, size: int) -> Tensor:
            block = torch.from_numpy(images[rows[start : start + size]]).to(self.device)
            with torch.inference_mode(), self._autocast():
                return compute(block)

        start = submitted = 0
        coming: deque[Future[Tensor]] = deque()
        threads = torch.get_num_threads() if self._device_type == "cpu" else 1
        block_size = min(block_size, max(1, math.ceil(len(rows) / threads)))
        with _block_threads(threads) as (executor, ahead):
            while start < len(rows):
                if self.check is not None:
                    self.check()
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
                    if self.note is not None:
                        self.note(f"out of memory: inference goes on with blocks of {block_size} images")
                    continue
                yield block_computed
                start += block_size

    @property
    def _device_type(self) -> str:
        return torch.device(self.device).type

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device_type, torch.bfloat16, enabled=self.precision == "bfloat16")


@contextmanager
def training_threads(device_type: str, precision: Precision) -> Iterator[int]:
    """Give the threads of the convolutions in training; where the kernels compute them, all else has one meanwhile.

    It is too short to be shared out, and torch's threads keep a core busy for some time after each operation.
    """
    threads = torch.get_num_threads()
    if not computed_by_kernels(device_type, precision):
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


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


class _CompiledPasses:
    """Passes on a CPU, as `active_learning.kernels` computes them."""

    def __init__(
        self, module: BayesianCNN, feature_masks_tf: Tensor, hidden_masks_th: Tensor, precision: Precision
    ) -> None:
        self.module = module
        with torch.inference_mode():
            self.passes = StochasticPasses(
                _filters_last(module.hidden.weight / (1 - FEATURE_DROPOUT)).numpy(),
                module.hidden.bias.numpy(),
                (module.output.weight / (1 - HIDDEN_DROPOUT)).numpy(),
                module.output.bias.numpy(),
                _filters_last(~feature_masks_tf).numpy(),
                hidden_masks_th.numpy(),
                bfloat16=precision == "bfloat16",
            )

    def features(self, images_bchw: Tensor) -> Tensor:
        """Return the activations (B, F) before the first dropout, the filters' axis last."""
        features_bf: Tensor = self.module.features(images_bchw).permute(0, 2, 3, 1).flatten(1)
        return features_bf

    def logits(self, features_bf: Tensor) -> Tensor:
        """Return the logits (T, C, B) of every pass."""
        return torch.from_numpy(self.passes.logits(features_bf.numpy()))


def _filters_last(by_filter: Tensor) -> Tensor:
    """Return rows of numbers by feature, which are in order filter by filter, as rows window by window."""
    by_window: Tensor = by_filter.unflatten(1, (FILTERS, -1)).transpose(1, 2).flatten(1)
    return by_window


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
