"""A pretrained residual network: photographs need more than a few labels. Its weights, or its features of images.

ResNet-18 (He, Zhang, Ren and Sun, 2016) as torchvision has it, up to its mean over all places.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from active_learning.models.inference import is_out_of_memory
from cnn_model import IMAGENET_MEAN, IMAGENET_STD, Weights
from load_data import DataError

FEATURES = 512
IMAGES_AT_ONCE = 64
SECONDS_TO_ANSWER = 10.0


class Pretrained:
    """The network with its weights.

    Args:
        weights: `default` for torchvision's of ImageNet, which are downloaded once, or a file of a state_dict as
            torchvision saves it (.pth), with any number of classes.

    Attributes:
        digest: sha256 of the weights.

    Raises:
        DataError: when they cannot be had, or are of another network.
    """

    def __init__(self, weights: str) -> None:
        from torchvision.models import resnet18

        state = _downloaded() if weights == "default" else _from_file(Path(weights))
        self.network = resnet18()
        self.network.fc = nn.Identity()
        body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        try:
            self.network.load_state_dict(body)
        except (RuntimeError, AttributeError) as error:
            reason = str(error).splitlines()[-1].strip().rstrip(".")[:200]
            raise DataError(f"--weights {weights} are of no ResNet-18 ({reason}): {_WANTED}.") from error
        self.network.eval()
        self.digest = hashlib.sha256(
            b"".join(name.encode() + tensor.float().numpy().tobytes() for name, tensor in sorted(body.items()))
        ).hexdigest()

    def weights(self) -> Weights:
        """Return the weights by name, for a network that is trained from them on."""
        return {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}

    def features(
        self, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], check: Callable[[], None]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the features (B, 512) of rows of images (N, 1 or 3, height, width), in their order, block by block."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            check()
            few = torch.from_numpy(np.array(images[rows[start : start + IMAGES_AT_ONCE]]))
            with torch.inference_mode():
                block: Tensor = self.network((few.expand(-1, 3, -1, -1).float() / 255 - mean) / std)
            yield block.numpy()


_WANTED = "it takes a file of weights as torchvision saves them, such as resnet18-f37072fd.pth, default, or none"


def _downloaded() -> dict[str, Tensor]:
    from torchvision.models import ResNet18_Weights

    waits = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)  # torch's download would wait for ever
    try:
        state: dict[str, Tensor] = ResNet18_Weights.DEFAULT.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # torch reads any bytes, as below
        kept = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(ResNet18_Weights.DEFAULT.url).path).name)
        if is_out_of_memory(error):
            raise
        if kept.exists() and isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"{kept}, a copy of --weights default, cannot be read ({error.strerror}): make it readable, or give "
                "--weights and another copy's path."
            ) from error
        if kept.exists():
            raise DataError(
                f"{kept}, a copy of --weights default, is damaged: delete it to download it anew."
            ) from error
        reason = getattr(error, "reason", None) or error  # urllib's error holds the system's
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise DataError(
            f"--weights default cannot be downloaded ({words}): copy resnet18-f37072fd.pth from a machine that can, "
            "and give --weights and its path."
        ) from error
    finally:
        socket.setdefaulttimeout(waits)
    return state


def _from_file(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"--weights {path} cannot be read ({error.strerror or error}): {_WANTED}.") from error
    except Exception as error:  # torch reads any bytes, and each kind of wrong ones ends in another exception
        if is_out_of_memory(error):
            raise
        raise DataError(f"--weights {path} is no file of weights: {_WANTED}.") from error
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named:
        raise DataError(f"--weights {path} holds no weights by name: {_WANTED}.")
    if not all(value.layout == torch.strided and value.device.type == "cpu" for value in state.values()) or any(
        value.is_complex() for value in state.values()
    ):
        raise DataError(f"--weights {path} holds tensors that are no plain numbers: {_WANTED}.")
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise DataError(f"--weights {path} holds numbers that are not finite: {_WANTED}.")
    return dict(state)
