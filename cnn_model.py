"""Networks in plain torch, and the skorch classifier that trains them.

A network is a deterministic part, `features`, and a stochastic head behind its first dropout, `head` (see `Network`).
How they are computed fast, and what MC dropout makes of them, is the affair of `active_learning.models`: this file
imports nothing of ours. A new network is one class here and one line in `active_learning.settings.networks`.

Dimensions: N images, C classes, F features (before the first dropout), H hidden units.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping, EpochScoring, LRScheduler, PassthroughScoring
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

FILTERS, KERNEL, POOLING = 32, 4, 2
FEATURE_DROPOUT = 0.25
HIDDEN_DROPOUT = 0.5
HIDDEN_UNITS = 128

STEPS_BETWEEN_CHECKS, CHECKS_WITHOUT_GAIN = 50, 5
"""With `stopping`, a fit looks at the validation set after so many steps, or the whole epochs that have as many, and
ends after so many looks without a gain. With `epoch_images` it ends after as many as come nearest to 50 * 5 steps.
"""

WARMUP = 0.1
"""The share of a fit's steps in which `warmup_cosine` lets the learning rate rise.

Adam moves every weight by about the rate from the first step on, in the sign of gradients that are still noise. That
can take maps of a convolution to where relu is 0 for every image, for good.
"""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels / 255, on which torchvision's weights were trained."""

MASK_SEED = 0x6D61736B
"""What a network's seed is changed by for its masks: its weights use up the first draws of the seed itself."""

Initialisation = Literal["glorot", "torch"]
Schedule = Literal["constant", "cosine", "warmup_cosine"]
Stopping = Literal["none", "validation", "validation_accuracy"]
Masks = Literal["pass", "image"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda", "mps"]
Weights = dict[str, npt.NDArray[np.float32]]
Labelled = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
Augment = Callable[[Tensor, torch.Generator], Tensor]
Convolutions = Callable[["BayesianCNN", Tensor], Tensor | None]
AroundFit = Callable[["BayesianCNNClassifier"], AbstractContextManager[None]]


class NonFiniteLossError(FloatingPointError):
    """The training loss became NaN or infinite; the message names the epoch and the loss."""


class Dropout(NamedTuple):
    """A place in a head where units are dropped."""

    shape: tuple[int, ...]
    """Shape of an image's mask; a 1 where a unit is dropped over a whole axis."""
    rate: float
    """Probability of being dropped, a multiple of 1/256."""


class Network(Protocol):
    """What the classifier trains and MC dropout samples; a torch module that takes pixels of 0 to 255.

    Its class takes `image_shape`, `class_count`, `pixel_mean`, `pixel_std`, `seed`, `initialisation` and
    `initial_weights` (see `BayesianCNN`), and no more without a default.

    Attributes:
        decayed: name of the one parameter that the weight decay is on.
        dropouts: the places where the head drops units, in the order of the computation.
    """

    decayed: ClassVar[str]
    dropouts: tuple[Dropout, ...]

    def features(self, images: Tensor) -> Tensor:
        """Return what stands before the first dropout, for images (N, channels, height, width)."""
        ...

    def head(self, features: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return the logits (N, C).

        Args:
            features: of N images.
            kept: a mask for each of `dropouts`, True = kept, that all images share. Without them the images have masks
                of their own in training mode, and nothing is dropped in evaluation mode.
        """
        ...

    def embed(self, features: Tensor) -> Tensor:
        """Return what the last layer takes (N, D), nothing dropped; asked for by functions that need embeddings."""
        ...

    def mask_with(self, seed: int) -> None:
        """Draw the masks of training mode from this seed from here on."""
        ...


class RandomMasks:
    """Dropout masks that are drawn afresh for every image."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def drop(self, x: Tensor, place: Dropout) -> Tensor:
        """Drop units of images (N, *place.shape or larger) independently.

        A mask made of random bytes is exact for rates of whole 256ths and several times cheaper than Bernoulli draws.
        """
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self._seed)
        shape = (len(x), *place.shape)
        count = math.prod(shape)
        words = torch.empty(count // 8 + 1, dtype=torch.int64, device=x.device)
        # Without its lower limit random_() would never set the sign bit, and with it every eighth byte.
        words.random_(torch.iinfo(torch.int64).min, None, generator=self._generators[x.device])
        kept = torch.empty(shape, dtype=x.dtype, device=x.device)
        torch.ge(words.view(torch.uint8)[:count].view(shape), round(256 * place.rate), out=kept)
        return x * kept.mul_(1 / (1 - place.rate))


def dropped(x: Tensor, place: Dropout, kept: Tensor | None, masks: RandomMasks | None) -> Tensor:
    """Return x with units dropped by a mask that all images share, by masks of their own, or as it is."""
    if kept is not None:
        return x * (kept / (1 - place.rate)).to(x.dtype)
    return x if masks is None else masks.drop(x, place)


def draw_weights(layers: Sequence[nn.Conv2d | nn.Linear], initialisation: Initialisation, seed: int) -> None:
    """Draw weights and biases of layers, in their order, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        bias = layer.bias  # a convolution before a batch normalisation has none
        if initialisation == "glorot":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if bias is not None:
                nn.init.zeros_(bias)
        else:
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound, generator=generator)


def start(
    module: nn.Module,
    layers: Sequence[nn.Conv2d | nn.Linear],
    initialisation: Initialisation,
    seed: int,
    initial_weights: Weights | None,
) -> None:
    """Give a network the weights that it starts from: drawn, or those that are there."""
    if initial_weights is None:
        draw_weights(layers, initialisation, seed)
    else:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in initial_weights.items()})
    module.to(memory_format=torch.channels_last)


class Standardise(nn.Module):
    """Make of pixels of 0 to 255 float32 numbers of mean 0 and standard deviation 1, channel by channel.

    Args:
        pixel_mean: mean of the pixels / 255, one for each channel or one for all.
        pixel_std: their standard deviation, likewise.
    """

    scale_c11: Tensor
    shift_c11: Tensor

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        scale = [1 / (255 * std) for std in pixel_std]
        shift = [-mean / std for mean, std in zip(pixel_mean, pixel_std, strict=True)]
        self.register_buffer("scale_c11", torch.tensor(scale).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift_c11", torch.tensor(shift).view(-1, 1, 1), persistent=False)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return standardised images (N, channels, height, width) in channels_last."""
        # A copy: with one channel any strides count as channels_last, and oneDNN is five times slower with some.
        x = images_nchw.float() * self.scale_c11 + self.shift_c11
        return x.clone(memory_format=torch.channels_last)


def feature_count(image_shape: tuple[int, ...]) -> int:
    """Return F for images (channels, height, width)."""
    return FILTERS * math.prod((side - 2 * (KERNEL - 1)) // POOLING for side in image_shape[1:])


class BayesianCNN(nn.Module):
    """The network of Gal, Islam and Ghahramani (2017), section 5.

    conv 32@4x4 - relu - conv 32@4x4 - relu - maxpool 2x2 - dropout 0.25 - dense 128 - relu - dropout 0.5 - dense C.
    Takes images with pixels of 0 to 255 and returns logits. In training mode every image has its own dropout masks.

    Args:
        image_shape: (channels, height, width).
        class_count: C.
        pixel_mean: mean of the data set's pixels / 255, in each channel or in all, subtracted from the input.
        pixel_std: their standard deviation, in each channel or in all, which divides the input.
        seed: seed of the weights and of the training masks.
        initialisation: how the weights are drawn. "glorot": Glorot uniform and zero biases, as in the authors'
            framework; "torch": as torch's own layers draw both, uniform within 1 / sqrt(inputs of a unit).
        initial_weights: start from these in place of drawn ones (`--warm_start`).
        threads: threads of `convolutions` in training.
        convolutions: computes the activations before the first dropout, with their gradients, of normalised images
            (N, channels, height, width), or gives None where it cannot.
    """

    decayed: ClassVar[str] = "hidden.weight"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        class_count: int,
        pixel_mean: Sequence[float] = (0.0,),
        pixel_std: Sequence[float] = (1.0,),
        seed: int = 0,
        initialisation: Initialisation = "glorot",
        initial_weights: Weights | None = None,
        threads: int = 1,
        convolutions: Convolutions | None = None,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.standardise = Standardise(pixel_mean, pixel_std)
        # Without torch's own initialisation, which would draw from the global generator.
        self.conv1 = skip_init(nn.Conv2d, channels, FILTERS, KERNEL)
        self.conv2 = skip_init(nn.Conv2d, FILTERS, FILTERS, KERNEL)
        self.hidden = skip_init(nn.Linear, feature_count(image_shape), HIDDEN_UNITS)
        self.output = skip_init(nn.Linear, HIDDEN_UNITS, class_count)
        self.dropouts = (
            Dropout((feature_count(image_shape),), FEATURE_DROPOUT),
            Dropout((HIDDEN_UNITS,), HIDDEN_DROPOUT),
        )
        self.threads = threads
        self.convolutions = convolutions
        self.mask_with(seed ^ MASK_SEED)
        start(self, (self.conv1, self.conv2, self.hidden, self.output), initialisation, seed, initial_weights)

    def mask_with(self, seed: int) -> None:
        """Draw the dropout masks of training mode from this seed from here on."""
        self._masks = RandomMasks(seed)

    def features(self, images_nchw: Tensor) -> Tensor:
        """Return the activations (N, 32, h, w) before the first dropout: the deterministic part of the network."""
        x = self.standardise(images_nchw)
        computed = None if self.convolutions is None else self.convolutions(self, x)
        if computed is not None:
            return computed
        x = self.conv2(functional.relu(self.conv1(x), inplace=True))
        # relu and max commute; after the pooling it has a quarter of the elements to do.
        return functional.relu(functional.max_pool2d(x, POOLING), inplace=True)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, channels, height, width)."""
        return self.head(self.features(images_nchw))

    def head(self, features_nchw: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return the logits (N, C) of activations before the first dropout; see `Network`."""
        features_nf = self._dropped(features_nchw.flatten(1), 0, kept)
        hidden_nh = self._dropped(functional.relu(self.hidden(features_nf)), 1, kept)
        logits_nc: Tensor = self.output(hidden_nh)
        return logits_nc

    def embed(self, features_nchw: Tensor) -> Tensor:
        """Return the hidden activations (N, 128), nothing dropped."""
        return functional.relu(self.hidden(features_nchw.flatten(1)))

    def _dropped(self, x: Tensor, place: int, kept: Sequence[Tensor] | None) -> Tensor:
        mask = None if kept is None else kept[place]
        return dropped(x, self.dropouts[place], mask, self._masks if self.training else None)


PICKED_TO = 16
"""Channels and units that a pass keeps are filled up to a multiple of this, under weights of zero.

oneDNN computes whole blocks of channels, of 16 with AVX-512, and makes and keeps a kernel for each shape that it meets.
"""


class BatchBALDCNN(nn.Module):
    """The network of Kirsch, van Amersfoort and Gal (2019): whole channels are dropped behind each convolution.

    conv 32@5x5 - dropout2d 0.5 - maxpool 2x2 - relu - conv 64@5x5 - dropout2d 0.5 - maxpool 2x2 - relu - dense 128 -
    dropout 0.5 - relu - dense C. Its arguments are those of `BayesianCNN`. Pooling and relu give the same before the
    dropout of whole channels as after it. What stands before the first dropout is an eighth of the network on images
    of 28x28; of the rest a pass computes little more than the channels and the units that it keeps.
    """

    decayed: ClassVar[str] = "hidden.weight"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        class_count: int,
        pixel_mean: Sequence[float] = (0.0,),
        pixel_std: Sequence[float] = (1.0,),
        seed: int = 0,
        initialisation: Initialisation = "glorot",
        initial_weights: Weights | None = None,
    ) -> None:
        super().__init__()
        self.standardise = Standardise(pixel_mean, pixel_std)
        height, width = (((side - 4) // 2 - 4) // 2 for side in image_shape[1:])
        self.conv1 = skip_init(nn.Conv2d, image_shape[0], 32, 5)
        self.conv2 = skip_init(nn.Conv2d, 32, 64, 5)
        self.hidden = skip_init(nn.Linear, 64 * height * width, 128)
        self.output = skip_init(nn.Linear, 128, class_count)
        self.dropouts = Dropout((32, 1, 1), 0.5), Dropout((64, 1, 1), 0.5), Dropout((128,), 0.5)
        self.mask_with(seed ^ MASK_SEED)
        start(self, (self.conv1, self.conv2, self.hidden, self.output), initialisation, seed, initial_weights)

    def mask_with(self, seed: int) -> None:
        """Draw the dropout masks of training mode from this seed from here on."""
        self._masks = RandomMasks(seed)

    def features(self, images_nchw: Tensor) -> Tensor:
        """Return the activations (N, 32, h, w) before the first dropout, pooled."""
        return functional.relu(functional.max_pool2d(self.conv1(self.standardise(images_nchw)), 2))

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, channels, height, width)."""
        return self.head(self.features(images_nchw))

    def head(self, features_nchw: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return the logits (N, C) of activations before the first dropout; see `Network`."""
        if kept is not None:
            return self._of_kept(features_nchw, *(mask.flatten() for mask in kept))
        logits_nc: Tensor = self.output(self._hidden(features_nchw, self._masks if self.training else None))
        return logits_nc

    def embed(self, features_nchw: Tensor) -> Tensor:
        """Return the hidden activations (N, 128), nothing dropped."""
        return self._hidden(features_nchw, None)

    def _hidden(self, x: Tensor, masks: RandomMasks | None) -> Tensor:
        first, second, third = self.dropouts
        x = dropped(self.conv2(dropped(x, first, None, masks)), second, None, masks)
        x = functional.relu(functional.max_pool2d(x, 2))
        return functional.relu(dropped(self.hidden(x.flatten(1)), third, None, masks))

    def _of_kept(self, x: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Return the logits (N, C) under masks that all images share, of what they keep.

        What a dropout divides by, the weights behind it are divided by.
        """
        (first, weight_1), (second, weight_2), (third, weight_3) = (
            _picked(kept, place.rate) for kept, place in zip((first, second, third), self.dropouts, strict=True)
        )
        filters = self.conv2.weight[second][:, first] * weight_1[:, None, None]
        if len(first) < x.shape[1]:
            x = x.permute(0, 2, 3, 1).index_select(3, first).permute(0, 3, 1, 2)  # stays in channels_last
        x = functional.conv2d(x, filters.contiguous(memory_format=torch.channels_last), self.conv2.bias[second])
        x = functional.relu(functional.max_pool2d(x, 2)).flatten(2)
        weight = self.hidden.weight.unflatten(1, (-1, x.shape[2]))[third][:, second] * weight_2[:, None]
        hidden = functional.relu(functional.linear(x.flatten(1), weight.flatten(1), self.hidden.bias[third]))
        return functional.linear(hidden, self.output.weight[:, third] * weight_3, self.output.bias)


def _picked(kept: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Return which units are kept, filled up with others, and what the weights behind each are multiplied by."""
    of_kept, of_dropped = kept.nonzero().squeeze(1), kept.logical_not().nonzero().squeeze(1)
    count = max(PICKED_TO, len(of_kept) + -len(of_kept) % PICKED_TO)
    places = torch.cat([of_kept, of_dropped])[:count].sort().values
    return places, kept[places] / (1 - rate)


class ResNet18(nn.Module):
    """ResNet-18 (He, Zhang, Ren and Sun, 2016) under the head of Gal, Islam and Ghahramani, for photographs.

    torchvision's network up to its mean over all places, 512 activations an image - dropout 0.25 - dense 128 - relu -
    dropout 0.5 - dense C. The residual network is deterministic, so that a pass costs next to nothing. It sees images
    of fewer than 64 pixels a side through a first convolution 3x3 that leaves out no pixel, and no first pooling.
    Its arguments are those of `BayesianCNN`.
    """

    decayed: ClassVar[str] = "hidden.weight"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        class_count: int,
        pixel_mean: Sequence[float] = (0.0,),
        pixel_std: Sequence[float] = (1.0,),
        seed: int = 0,
        initialisation: Initialisation = "glorot",
        initial_weights: Weights | None = None,
    ) -> None:
        super().__init__()
        from torchvision.models import resnet18  # takes a second, which no other network has to wait for

        self.standardise = Standardise(pixel_mean, pixel_std)
        with torch.random.fork_rng(devices=[]):  # its own weights, drawn from the global generator, are not kept
            self.residual = resnet18()
        small = min(image_shape[1:]) < 64
        kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        self.residual.conv1 = skip_init(
            nn.Conv2d, image_shape[0], 64, kernel, stride=stride, padding=padding, bias=False
        )
        if small:
            self.residual.maxpool = nn.Identity()
        self.residual.fc = nn.Identity()
        self._add_head(512, class_count, seed)
        layers = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        start(self, layers, initialisation, seed, initial_weights)

    def _add_head(self, features: int, class_count: int, seed: int) -> None:
        self.hidden = skip_init(nn.Linear, features, HIDDEN_UNITS)
        self.output = skip_init(nn.Linear, HIDDEN_UNITS, class_count)
        self.dropouts = Dropout((features,), FEATURE_DROPOUT), Dropout((HIDDEN_UNITS,), HIDDEN_DROPOUT)
        self.mask_with(seed ^ MASK_SEED)

    def mask_with(self, seed: int) -> None:
        """Draw the dropout masks of training mode from this seed from here on."""
        self._masks = RandomMasks(seed)

    def features(self, images_nchw: Tensor) -> Tensor:
        """Return the residual network's activations (N, 512), with nothing dropped."""
        features_nf: Tensor = self.residual(self.standardise(images_nchw))
        return features_nf

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, channels, height, width)."""
        return self.head(self.features(images_nchw))

    def head(self, features_nf: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return the logits (N, C) of the residual network's activations; see `Network`."""
        masks = self._masks if self.training else None
        first, second = kept or (None, None)
        hidden_nh = functional.relu(self.hidden(dropped(features_nf, self.dropouts[0], first, masks)))
        logits_nc: Tensor = self.output(dropped(hidden_nh, self.dropouts[1], second, masks))
        return logits_nc

    def embed(self, features_nf: Tensor) -> Tensor:
        """Return the hidden activations (N, 128), nothing dropped."""
        return functional.relu(self.hidden(features_nf))


class DenseNetwork(ResNet18):
    """The head of Gal, Islam and Ghahramani alone, for numbers that are features already.

    Dropout 0.25 - dense 128 - relu - dropout 0.5 - dense C, on the standardised numbers of an image: what a pretrained
    network made of it, once for all fits, or its pixels. Its arguments are those of `BayesianCNN`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        class_count: int,
        pixel_mean: Sequence[float] = (0.0,),
        pixel_std: Sequence[float] = (1.0,),
        seed: int = 0,
        initialisation: Initialisation = "glorot",
        initial_weights: Weights | None = None,
    ) -> None:
        nn.Module.__init__(self)  # there is no residual network
        self.standardise = Standardise(pixel_mean, pixel_std)
        self._add_head(math.prod(image_shape), class_count, seed)
        start(self, (self.hidden, self.output), initialisation, seed, initial_weights)

    def features(self, images_nchw: Tensor) -> Tensor:
        """Return the numbers (N, F) that stand before the first dropout."""
        features_nf: Tensor = self.standardise(images_nchw).flatten(1)
        return features_nf


class FineTunedResNet18(ResNet18):
    """ResNet-18 as it was trained on ImageNet, under a fresh head: all of it is trained, the old part more slowly.

    Batch normalisation keeps the means and variances of ImageNet, in training too: those of a batch of a few labelled
    images say little. Its scales and shifts are trained with the rest. Pixels are standardised as ImageNet's were, and
    grey ones stand in all three channels. Its other arguments are those of `BayesianCNN`.

    Args:
        pretrained: the residual network's weights by name, without those of its last layer.
    """

    slower: ClassVar[Mapping[str, float]] = {"residual.*": 1 / 20}
    """Parameters by pattern, and what their learning rate is of the others' (Howard and Ruder, 2018, section 3.2).

    Adam moves a weight by about the learning rate in each step, however small its gradient. That suits a fresh head;
    weights of the old convolutions are a few 1e-2 in size, and hundreds of steps of 2e-3 would write over them.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        class_count: int,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
        initialisation: Initialisation = "glorot",
        initial_weights: Weights | None = None,
        pretrained: Weights | None = None,
    ) -> None:
        from torchvision.models import resnet18

        nn.Module.__init__(self)
        self.standardise = Standardise(IMAGENET_MEAN, IMAGENET_STD)
        with torch.random.fork_rng(devices=[]):
            self.residual = resnet18()
        self.residual.fc = nn.Identity()
        self._add_head(512, class_count, seed)
        if pretrained is not None:
            self.residual.load_state_dict({name: torch.from_numpy(array) for name, array in pretrained.items()})
        start(self, (self.hidden, self.output), initialisation, seed, initial_weights)

    def train(self, mode: bool = True) -> "FineTunedResNet18":
        """Let dropout follow the mode; batch normalisation stays in evaluation mode."""
        super().train(mode)
        self.residual.eval()
        return self


def _warmup_cosine(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a step, counted from 0."""
    warmup = max(1, round(WARMUP * steps))
    return min(1, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2


class TensorBatches:
    """Shuffled batches sliced from two tensors: skorch's `iterator_train` without a DataLoader's cost an image.

    The batches of an epoch differ by one image at most. A last batch of what is left would take as long an Adam step
    for 2 images as for 128, and the error would jump wherever a batch more begins.

    Args:
        dataset: the images and their labels.
        batch_size: the most images of a batch.
        seed: seed of the order.
        epochs: how many epochs come before the iteration ends.
        augment: makes of a batch's images those that are trained on; its second argument is where it draws from.
        augment_seed: seed of what it draws.
        epoch_images: the least number of images of an epoch: where there are fewer, each comes equally often or once
            more than others.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        augment: Augment | None = None,
        augment_seed: int = 0,
        epoch_images: int = 0,
    ) -> None:
        self.images = torch.as_tensor(dataset.X)
        self.labels = torch.as_tensor(dataset.y)
        self.epoch_images = max(epoch_images, len(self.images))
        self.batches = math.ceil(self.epoch_images / batch_size)
        self.epochs = epochs
        self.augment = augment
        self.generator = torch.Generator().manual_seed(seed)
        self.augment_generator = torch.Generator().manual_seed(augment_seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.epochs):
            order = torch.randperm(self.epoch_images, generator=self.generator) % len(self.images)
            for batch in order.tensor_split(self.batches):
                images = self.images[batch]
                if self.augment is not None:
                    images = self.augment(images, self.augment_generator)
                yield images, self.labels[batch]


class BayesianCNNClassifier(NeuralNetClassifier):  # type: ignore[misc]
    """skorch classifier of a network: each `fit` starts from fresh weights and a new optimiser.

    Adam minimises cross entropy + (c / n) * ||W||^2 over the network's decayed parameter W (in the paper's network the
    first dense layer's weights), with n labelled images: the authors' L2 term, which in torch is Adam's coupled
    `weight_decay` = 2 c / n.

    A fit takes `max_epochs` epochs, and more until it has taken `min_steps` steps (and with `stopping`, until the next
    look at the validation set).

    Args:
        module: the network's class (never an instance: skorch would continue from its weights).
        min_steps: the least number of optimiser steps of a fit.
        epoch_images: the least number of images of an epoch; see `TensorBatches`.
        lr_schedule: "constant"; or "cosine": the learning rate falls from `lr` to 0 along half a cosine; or
            "warmup_cosine": the same times (t + 1) / w in the first w steps t, a share WARMUP of all.
        stopping: "none"; or "validation": a fit ends early once the loss on `validation` has not fallen for
            CHECKS_WITHOUT_GAIN looks, and keeps the weights of its lowest; or "validation_accuracy": once the accuracy
            there has not risen, and it keeps the first weights of its highest.
        validation: the images and labels that `stopping` looks at, in one pass without dropout.
        weight_decay: c.
        fit_seed: seed of the next fit: weights, batches, distortions and training masks.
        trained: weights that the next fit takes in place of training, since it has been done already.
        precision: float32, or bfloat16, to which the factors of the large products are rounded. The kernels keep sums
            and the convolutions' gradients in float32; what torch computes is under autocast, and rounded too: in
            training the dense layers. The weights and the loss are float32 in either case.
        around_fit: given the classifier, a context that each fit takes place in.
        check: called before each training step and whenever an inference block is due; what it raises ends the work.
        note: told in a sentence when memory ran out and inference goes on with smaller blocks.
        **kwargs: skorch's own settings.
    """

    def __init__(
        self,
        module: type[nn.Module] = BayesianCNN,
        *,
        min_steps: int = 0,
        epoch_images: int = 0,
        lr_schedule: Schedule = "constant",
        stopping: Stopping = "none",
        validation: Labelled | None = None,
        weight_decay: float = 0.0,
        fit_seed: int = 0,
        trained: Weights | None = None,
        precision: Precision = "float32",
        around_fit: AroundFit | None = None,
        check: Callable[[], None] | None = None,
        note: Callable[[str], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self.min_steps = min_steps
        self.epoch_images = epoch_images
        self.lr_schedule = lr_schedule
        self.stopping = stopping
        self.validation = validation
        self.weight_decay = weight_decay
        self.fit_seed = fit_seed
        self.trained = trained
        self.precision = precision
        self.around_fit = around_fit
        self.check = check
        self.note = note
        self.steps_, self.patience_ = 0, CHECKS_WITHOUT_GAIN  # of the last fit, or of the one that has begun
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
        elif self.lr_schedule == "warmup_cosine":
            rate = partial(_warmup_cosine, steps=self.steps_)
            callbacks.append(("schedule", LRScheduler(LambdaLR, lr_lambda=rate, step_every="batch")))
        if self.stopping != "none":
            by_loss = self.stopping == "validation"
            watched = (
                PassthroughScoring("valid_loss")
                if by_loss
                else EpochScoring("accuracy", lower_is_better=False, name="valid_acc")
            )
            stopping = EarlyStopping(
                watched.name, patience=self.patience_, threshold=0, lower_is_better=by_loss, load_best=True
            )
            callbacks += [("watched", watched), ("stopping", stopping)]
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
        slower = getattr(self.module, "slower", {}).items()
        self.optimizer__param_groups = [
            (self.module.decayed, {"weight_decay": 2 * self.weight_decay / len(X)}),
            *((names, {"lr": self.lr * factor}) for names, factor in slower),
        ]
        batches = math.ceil(max(len(X), self.epoch_images) / self.batch_size)
        epochs = max(self.max_epochs, math.ceil(self.min_steps / batches))
        # skorch looks at the validation set after each of its epochs, which may be one step
        at_once = math.ceil(STEPS_BETWEEN_CHECKS / batches) if self.stopping != "none" else 1
        at_once = max(1, min(at_once, epochs))
        self.patience_ = CHECKS_WITHOUT_GAIN
        if self.epoch_images:
            self.patience_ = max(1, round(STEPS_BETWEEN_CHECKS * CHECKS_WITHOUT_GAIN / (at_once * batches)))
        checks = math.ceil(epochs / at_once)
        self.steps_ = checks * at_once * batches
        self.iterator_train__epochs, self.iterator_train__epoch_images = at_once, self.epoch_images
        if self.stopping != "none":
            self.train_split = predefined_split(Dataset(*cast(Labelled, self.validation)))
        with nullcontext() if self.around_fit is None else self.around_fit(self):
            super().fit(X, y, epochs=checks, **fit_params)
        return self

    def weights(self) -> Weights:
        """Return a copy of the fitted weights by name."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.module_.state_dict().items()}

    def infer(self, x: Tensor, **fit_params: Any) -> Tensor:
        """Return float32 logits, computed in the chosen precision."""
        with self.autocast():
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

    @property
    def device_type(self) -> str:
        """The device's kind, such as `cpu`."""
        return torch.device(self.device).type

    def autocast(self) -> torch.autocast:
        """Return the context in which torch computes in the chosen precision."""
        return torch.autocast(self.device_type, torch.bfloat16, enabled=self.precision == "bfloat16")
