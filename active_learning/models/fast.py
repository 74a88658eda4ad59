"""The paper's network on a CPU by our own kernels: its convolutions in training and inference, and its passes.

`computed_by_kernels` says where they compute. The one file that knows both them and torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from active_learning.models.kernels import StochasticPasses, convolution_gradients, convolve
from cnn_model import FEATURE_DROPOUT, FILTERS, HIDDEN_DROPOUT, BayesianCNN, BayesianCNNClassifier, Precision


def computed_by_kernels(device_type: str, precision: Precision) -> bool:
    """Return whether convolutions and passes are our own code: on a CPU, unless torch has better instructions for them.

    Those are AMX's and ARM's for bfloat16, which the kernels do not use.
    """
    if device_type != "cpu" or precision == "float32":
        return device_type == "cpu"
    capabilities = torch.cpu.get_capabilities()
    return not (capabilities.get("amx_bf16") or capabilities.get("bf16"))


def convolutions(module: BayesianCNN, x: Tensor) -> Tensor | None:
    """Return the activations before the first dropout with their gradients, or None where the kernels do not fit."""
    in_bfloat16 = torch.is_autocast_enabled(x.device.type)
    own = x.dtype == module.conv1.weight.dtype == torch.float32 and not x.requires_grad
    if not (own and computed_by_kernels(x.device.type, "bfloat16" if in_bfloat16 else "float32")):
        return None
    parameters = module.conv1.weight, module.conv1.bias, module.conv2.weight, module.conv2.bias
    threads = module.threads if module.training else torch.get_num_threads()
    features: Tensor = _Convolutions.apply(torch.is_grad_enabled(), in_bfloat16, threads, x, *parameters)
    return features


class _Convolutions(Function):
    """The convolutional part of the network as `active_learning.models.kernels` computes it."""

    @staticmethod
    def forward(
        ctx: Any, for_gradients: bool, in_bfloat16: bool, threads: int, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Return the activations before the first dropout; the parameters are both weights, each with its bias."""
        weight1, bias1, weight2, bias2 = parameters
        arrays = _as_array(x), _as_array(weight1), bias1.numpy(), _as_array(weight2), bias2.numpy()
        convolved = convolve(*arrays, for_gradients=for_gradients, bfloat16=in_bfloat16, threads=threads)
        features, corners = map(torch.from_numpy, convolved)
        ctx.save_for_backward(x, weight1, bias1, weight2, corners)
        ctx.threads = threads
        return features.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the parameters; the images need none."""
        x, weight1, bias1, weight2, corners = ctx.saved_tensors
        arrays = _as_array(x), _as_array(weight1), bias1.numpy(), _as_array(weight2), _as_array(gradient)
        found = convolution_gradients(corners.numpy(), *arrays, threads=ctx.threads)
        by_weight1, by_bias1, by_weight2, by_bias2 = map(torch.from_numpy, found)
        by_parameters = by_weight1.permute(0, 3, 1, 2), by_bias1, by_weight2.permute(0, 3, 1, 2), by_bias2
        return None, None, None, None, *by_parameters


def _as_array(tensor_nchw: Tensor) -> npt.NDArray[np.float32]:
    return tensor_nchw.detach().permute(0, 2, 3, 1).numpy()


@contextmanager
def training_threads(net: BayesianCNNClassifier) -> Iterator[None]:
    """Give the kernels all threads for the length of a fit, and torch one, where the kernels compute at all.

    What is left for torch is too short to be shared out, and its threads keep a core busy for some time after each
    operation.
    """
    if not computed_by_kernels(net.device_type, net.precision):
        yield
        return
    net.module__threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(net.module__threads)


KERNELS: dict[str, Any] = {"module__convolutions": convolutions, "around_fit": training_threads}
"""Settings of the skorch classifier by which the kernels compute its training wherever they fit."""


class CompiledPasses:
    """Passes on a CPU, as `active_learning.models.kernels` computes them."""

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
