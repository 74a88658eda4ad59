"""The other side of the benchmarks: the paper's network as it is usually written, and the usual ways to use it."""

from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNetClassifier
from torch import Tensor, nn

from cnn_model import FEATURE_DROPOUT, HIDDEN_DROPOUT, Weights

Images = npt.NDArray[np.float32]


def textbook_network(weights: Weights) -> nn.Sequential:
    """Return the paper's network in torch's default layout, float32, with the given weights."""
    hidden_units, features = weights["hidden.weight"].shape
    network = nn.Sequential(
        nn.Conv2d(weights["conv1.weight"].shape[1], 32, 4),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(FEATURE_DROPOUT),
        nn.Flatten(),
        nn.Linear(features, hidden_units),
        nn.ReLU(),
        nn.Dropout(HIDDEN_DROPOUT),
        nn.Linear(hidden_units, len(weights["output.bias"])),
    )
    with torch.no_grad():
        for parameter, array in zip(network.parameters(), weights.values(), strict=True):
            parameter.copy_(torch.from_numpy(array))
    return network


def plain_passes(network: nn.Module, images: Tensor, passes: int, batch_size: int) -> Tensor:
    """Return class probabilities (T, N, C) of T passes of the whole network with dropout on."""
    network.train()
    with torch.inference_mode():
        return torch.stack(
            [torch.cat([network(batch).softmax(-1) for batch in images.split(batch_size)]) for _ in range(passes)]
        )


def plain_classifier(weights: Weights, classes: int, **settings: Any) -> NeuralNetClassifier:
    """Return skorch's classifier of the textbook network with skorch's defaults: float32, DataLoader, Adam."""
    return NeuralNetClassifier(
        textbook_network,
        module__weights=weights,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        train_split=None,
        classes=list(range(classes)),
        verbose=0,
        **settings,
    )


def skorch_passes(classifier: NeuralNetClassifier, images: Images, passes: int) -> Tensor:
    """Return class probabilities (T, N, C) as re-implementations of the paper take them: `forward(training=True)`.

    It follows the training iterator, so the classifier must not shuffle.
    """
    return torch.stack([classifier.forward(images, training=True).softmax(-1).detach() for _ in range(passes)])


def baal_passes(network: nn.Module, images: Images, passes: int, batch_size: int, replicate: bool) -> npt.NDArray[Any]:
    """Return baal's predictions (N, C, T), with or without replicating the images in memory."""
    from baal.bayesian.dropout import MCDropoutModule
    from baal.modelwrapper import ModelWrapper, TrainingArgs
    from torch.utils.data import TensorDataset

    settings = TrainingArgs(batch_size=batch_size, workers=0, use_cuda=False, replicate_in_memory=replicate)
    wrapper = ModelWrapper(MCDropoutModule(deepcopy(network)), settings)  # it changes the network it is given
    dataset = TensorDataset(torch.from_numpy(images))
    predictions: npt.NDArray[Any] = wrapper.predict_on_dataset(dataset, iterations=passes, verbose=False)
    return predictions
