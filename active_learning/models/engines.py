"""Who computes a network: our kernels, torch with what the paper's network allows, or torch for any network.

`engine` decides, by network, device and precision, and is the only place that does.

Dimensions: T passes, B images of a block, C classes, F features (before the first dropout), H hidden units.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from active_learning.models.fast import KERNELS, CompiledPasses, computed_by_kernels
from cnn_model import (
    FEATURE_DROPOUT,
    HIDDEN_DROPOUT,
    HIDDEN_UNITS,
    BayesianCNN,
    BayesianCNNClassifier,
    Network,
    Precision,
    feature_count,
)

IMAGES_PER_SLICE = 128
"""Images that go through torch's convolutions at once: few enough for a cache to hold their activations."""

PIXELS_PER_SLICE = IMAGES_PER_SLICE * 64**2
"""Pixels of them at most: activations of a residual network are 64 numbers a pixel and more."""

KEPT_ROUNDED_TO, DROPPED_ROUNDED_TO = 16, 32
"""Where torch computes bfloat16, kept units and dropped features are filled up with zeros to multiples of these."""

Engine = Literal["kernels", "torch, dense layers only", "torch, the whole head"]
"""Who computes the passes, and what each pass computes anew."""


def engine(network: type[nn.Module], device_type: str, precision: Precision) -> Engine:
    """Return who computes a network's passes.

    The kernels and the short way through the dense layers are those of the paper's network. For any other each pass
    calls the head: it costs what lies behind the first dropout, or what of it the network computes for one mask.
    """
    if not issubclass(network, BayesianCNN):
        return "torch, the whole head"
    return "kernels" if computed_by_kernels(device_type, precision) else "torch, dense layers only"


def training_settings(network: type[nn.Module]) -> dict[str, Any]:
    """Return the settings of the classifier by which the kernels compute a network's training wherever they fit."""
    return dict(KERNELS) if issubclass(network, BayesianCNN) else {}


def make_passes(net: BayesianCNNClassifier, kept: Sequence[Tensor]) -> "Passes":
    """Return a fitted network's passes under masks (T, *shape) of each of its places."""
    module: Any = net.module_
    match engine(type(module), net.device_type, net.precision):
        case "kernels":
            return CompiledPasses(module, kept[0], kept[1], net.precision)
        case "torch, dense layers only":
            return DensePasses(module, kept[0], kept[1], getattr(torch, net.precision))
        case _:
            return HeadPasses(module, kept)


class Passes(Protocol):
    """A network under T fixed sets of masks."""

    def features(self, images_bchw: Tensor) -> Tensor:
        """Return the activations before the first dropout, as `logits` takes them."""

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (T, C, B) of every pass."""


class HeadPasses:
    """Passes of any network, computed by torch: the features once for all passes, the head in each."""

    def __init__(self, module: Network, kept: Sequence[Tensor]) -> None:
        self.module, self.kept = module, kept

    def features(self, images_bchw: Tensor) -> Tensor:
        """Return what stands before the first dropout."""
        at_once = max(1, min(IMAGES_PER_SLICE, PIXELS_PER_SLICE // images_bchw[0, 0].numel()))
        return torch.cat([self.module.features(few_bchw) for few_bchw in images_bchw.split(at_once)])

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (T, C, B) of every pass."""
        kept_by_pass = zip(*(masks.to(features.device) for masks in self.kept), strict=True)
        return torch.stack([self.module.head(features, masks).T for masks in kept_by_pass])


def bytes_a_pass(network: type[nn.Module], image_shape: tuple[int, ...], precision: Precision = "float32") -> int:
    """Return about how much memory a pass of MC dropout takes on a CPU: the weights that it picks, and its masks."""
    if not issubclass(network, BayesianCNN):  # it keeps none, and its masks are bytes
        return 0
    features = feature_count(image_shape)
    weights = FEATURE_DROPOUT * (1 - HIDDEN_DROPOUT) * HIDDEN_UNITS * (4 if precision == "float32" else 2)
    return int(features * (weights + 2 + FEATURE_DROPOUT * 16))


def bytes_an_image(class_count: int, passes: int) -> int:
    """Return about how much memory an image of a block takes: its logits, probabilities, and what is made of them."""
    return passes * (4 * (class_count + -class_count % 16) + 16 * class_count)


class DensePasses:
    """Passes of the paper's network, computed by torch.

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
