"""The other side of the benchmarks: the paper's network as it is usually written, and the usual ways to use it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skorch import NeuralNetClassifier
from torch import Tensor, nn

from acquisition_functions import Evidence
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


def their_batches(evidence: Evidence, count: int) -> dict[str, Callable[[], Any]]:
    """Return what picks a batch of `count` from the same evidence, by the name of our function.

    BatchBALD by batchbald-redux, as its authors publish it; BADGE and core-set by scikit-activeml.
    """
    from batchbald_redux.batchbald import get_batchbald_batch
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge
    from skactiveml.pool._core_set import k_greedy_center

    assert evidence.probs_tnc is not None
    assert evidence.embeddings_nd is not None
    assert evidence.labelled_ld is not None
    mean_nc = evidence.probs_tnc.mean(axis=0).astype(np.float64)

    class Fitted(SkactivemlClassifier):  # type: ignore[misc]
        """What BADGE asks for probabilities: they are there already."""

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Fitted":  # noqa: N803
            return self

        def predict_proba(self, X: Any) -> Any:  # noqa: N803
            return mean_nc

    every_md = np.concatenate([evidence.labelled_ld, evidence.embeddings_nd]).astype(np.float64)
    unlabelled_m = np.r_[np.zeros(len(evidence.labelled_ld)), np.full(evidence.count, np.nan)]
    embeddings_nd = evidence.embeddings_nd.astype(np.float64)
    unlabelled_n = np.full(evidence.count, np.nan)
    log_probs_ntc = torch.from_numpy(evidence.probs_tnc).log().transpose(0, 1).contiguous()
    return {
        "batch_bald": lambda: get_batchbald_batch(log_probs_ntc, count, 10_000, dtype=torch.double),
        "badge": lambda: Badge(random_state=0).query(
            embeddings_nd, unlabelled_n, Fitted(classes=range(mean_nc.shape[1])), fit_clf=False, batch_size=count
        ),
        "core_set": lambda: k_greedy_center(every_md, unlabelled_m, batch_size=count, random_state=0),
    }


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
