"""The Bayesian CNN: its weights, its training and MC dropout against plain passes of the module."""

import gc
import math
import platform
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skorch.dataset import Dataset
from torch import Tensor
from torch.nn import functional

import cnn_model
from active_learning.models import hardware, inference
from active_learning.models.augmentation import augmentation
from active_learning.models.engines import DensePasses, Engine, HeadPasses, Passes, bytes_a_pass, bytes_an_image, engine
from active_learning.models.fast import KERNELS, CompiledPasses, convolutions, training_threads
from active_learning.models.hardware import available_memory, choose_device, choose_precision
from active_learning.models.inference import (
    blocks_under_masks,
    class_probabilities,
    deterministic_blocks,
    mc_dropout_blocks,
    mc_dropout_blocks_of_own_masks,
)
from active_learning.settings.networks import NETWORKS, NetworkKind
from cnn_model import (
    HIDDEN_UNITS,
    BatchBALDCNN,
    BayesianCNN,
    BayesianCNNClassifier,
    Dropout,
    NonFiniteLossError,
    Precision,
    RandomMasks,
    ResNet18,
    TensorBatches,
)

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE_SHAPE = (1, 12, 12)
CLASSES = 3


def make_images(count: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images of a class-dependent bright band in noise: learnable in a few epochs, and never quite certain."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    images = rng.integers(200, size=(count, *IMAGE_SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 30
    return images, labels


def fast_network(*arguments: Any, **settings: Any) -> BayesianCNN:
    """The network as runs have it: by the kernels where they fit."""
    return BayesianCNN(*arguments, **{**settings, "convolutions": convolutions})


def make_classifier(**settings: Any) -> BayesianCNNClassifier:
    defaults = {
        **KERNELS,
        "module__image_shape": IMAGE_SHAPE,
        "module__class_count": CLASSES,
        "module__pixel_mean": (0.3,),
        "module__pixel_std": (0.2,),
        "classes": list(range(CLASSES)),
        "max_epochs": 3,
        "batch_size": 16,
        "fit_seed": 7,
        "lr": 1e-3,
    }
    return BayesianCNNClassifier(**{**defaults, **settings})


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Torch's own setting, for the length of a test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def fitted() -> BayesianCNNClassifier:
    return make_classifier(max_epochs=10).fit(*make_images(60))


def all_passes(net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], **settings: Any) -> torch.Tensor:
    return torch.cat(list(mc_dropout_blocks(net, images, **settings)), dim=1)


def test_the_network_is_the_papers() -> None:
    module = fast_network((1, 28, 28), 10)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
    assert shapes == {
        "conv1.weight": (32, 1, 4, 4),
        "conv1.bias": (32,),
        "conv2.weight": (32, 32, 4, 4),
        "conv2.bias": (32,),
        "hidden.weight": (128, 32 * 11 * 11),
        "hidden.bias": (128,),
        "output.weight": (10, 128),
        "output.bias": (10,),
    }


def test_weights_are_glorot_uniform_with_zero_biases() -> None:
    module = BayesianCNN((1, 28, 28), 10, seed=1)
    bound = (6 / (32 * 11 * 11 + 128)) ** 0.5
    weight = module.hidden.weight.detach()
    assert 0.999 * bound < weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not any(bias.any() for name, bias in module.named_parameters() if name.endswith("bias"))


def test_torchs_initialisation_is_that_of_its_own_layers() -> None:
    module = BayesianCNN((1, 28, 28), 10, seed=1, initialisation="torch")
    for layer in (module.conv1, module.conv2, module.hidden, module.output):
        bound = layer.weight[0].numel() ** -0.5
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            theirs = type(layer)(*layer.weight.shape[1::-1], *layer.weight.shape[3:])
        for ours, their in zip(layer.parameters(), theirs.parameters(), strict=True):
            assert 0.7 * bound < ours.abs().max() <= bound, ours.shape
            assert their.abs().max() <= bound, "torch has changed its ways"
            if ours.dim() > 1:
                assert [float(one.detach().std()) for one in (ours, their)] == pytest.approx(
                    [bound / 3**0.5] * 2, rel=0.05
                )
    again = BayesianCNN((1, 28, 28), 10, seed=1, initialisation="torch").state_dict()
    other = BayesianCNN((1, 28, 28), 10, seed=2, initialisation="torch").state_dict()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])


def test_features_equal_the_textbook_order_of_relu_and_pooling() -> None:
    module = fast_network(IMAGE_SHAPE, CLASSES, pixel_mean=(0.3,), pixel_std=(0.2,), seed=3)
    images = torch.from_numpy(make_images(5)[0])
    x = (images.double() / 255 - 0.3) / 0.2
    for layer in (module.conv1, module.conv2):
        x = functional.relu(functional.conv2d(x, layer.weight.double(), layer.bias.double()))
    expected = functional.max_pool2d(x, 2)
    torch.testing.assert_close(module.features(images).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_gradients_equal_those_of_the_textbook_order(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = (torch.from_numpy(array) for array in make_images(40))

    def gradients(module: BayesianCNN) -> dict[str, torch.Tensor]:
        functional.cross_entropy(module.train()(images), labels).backward()
        return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}

    def textbook(self: BayesianCNN, images_nchw: torch.Tensor) -> torch.Tensor:
        x = (images_nchw / 255 - 0.3) / 0.2
        for layer in (self.conv1, self.conv2):
            x = functional.relu(layer(x))
        return functional.max_pool2d(x, 2)

    ours = gradients(fast_network(IMAGE_SHAPE, CLASSES, (0.3,), (0.2,), seed=3, threads=threads))
    monkeypatch.setattr(BayesianCNN, "features", textbook)
    theirs = gradients(fast_network(IMAGE_SHAPE, CLASSES, (0.3,), (0.2,), seed=3))  # the seed draws the same masks
    assert len(ours) == 8
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_one_seed_gives_the_same_weights_and_another_gives_others() -> None:
    images, labels = make_images(40)
    first = make_classifier().fit(images, labels).weights()
    again = make_classifier().fit(images, labels).weights()
    other = make_classifier(fit_seed=8).fit(images, labels).weights()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_the_gradient_is_that_of_what_was_computed_or_an_error() -> None:
    def gradient_of_bias(change: Callable[[BayesianCNN, Tensor], object]) -> Tensor:
        module = fast_network(IMAGE_SHAPE, CLASSES).train()
        features = module.features(torch.from_numpy(make_images(5)[0]))
        total = features.sum()
        with torch.no_grad():
            change(module, features)
        total.backward()
        assert module.conv2.bias is not None
        gradient: Tensor | None = module.conv2.bias.grad
        assert gradient is not None
        return gradient

    unchanged = gradient_of_bias(lambda module, features: None)
    assert unchanged.any()
    assert torch.equal(gradient_of_bias(lambda module, features: features.zero_()), unchanged)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient_of_bias(lambda module, features: module.conv2.weight.zero_())


def test_images_may_want_a_gradient_and_numbers_be_double() -> None:
    images = torch.from_numpy(make_images(5)[0])
    module = fast_network(IMAGE_SHAPE, CLASSES)
    wanting = images.float().requires_grad_()
    module.features(wanting).sum().backward()
    assert wanting.grad is not None
    assert wanting.grad.any()
    expected = module.features(images)
    torch.testing.assert_close(module.double().features(images).float(), expected)  # by torch: the kernels cannot


def test_threads_change_no_weight(set_threads: Callable[[int], None]) -> None:
    images, labels = make_images(50)
    weights = []
    for threads in (1, 2):
        set_threads(threads)
        weights.append(make_classifier(batch_size=40).fit(images, labels).weights())
        assert torch.get_num_threads() == threads
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_second_fit_starts_from_fresh_weights() -> None:
    images, labels = make_images(40)
    net = make_classifier().fit(images, labels)
    first = net.weights()
    second = net.fit(images, labels).weights()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    net.set_params(fit_seed=9, max_epochs=0).fit(images, labels)
    assert not net.module_.conv1.bias.any(), "with no epoch the biases are as drawn: zero"


def test_fitting_leaves_the_global_generators_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    new: dict[str, Any] = {"module__initialisation": "torch", "lr_schedule": "cosine", "stopping": "validation"}
    new |= {"validation": make_images(9), "iterator_train__augment": augmentation("elastic")}
    for settings in ({}, new):
        net = make_classifier(**settings).fit(*make_images(40))
        all_passes(net, make_images(4)[0], passes=3, seed=0)
        list(mc_dropout_blocks_of_own_masks(net, make_images(4)[0], np.arange(4), passes=3, seed=0))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]  # noqa: NPY002


def test_initial_weights_are_where_a_fit_begins() -> None:
    images, labels = make_images(40)
    start = make_classifier(fit_seed=1).fit(images, labels).weights()
    kept = make_classifier(module__initial_weights=start, max_epochs=0).fit(images, labels).weights()
    assert all(np.array_equal(start[name], kept[name]) for name in start)


def test_a_fit_learns() -> None:
    images, labels = make_images(90, seed=1)
    net = make_classifier(max_epochs=20).fit(images[:60], labels[:60])
    probs_nc = all_passes(net, images[60:], passes=20, seed=0).mean(dim=0).numpy()
    assert (probs_nc.argmax(axis=1) == labels[60:]).mean() > 0.9


def test_weight_decay_is_the_authors_penalty_on_the_first_dense_layer_only() -> None:
    images, labels = make_images(40)
    net = make_classifier(weight_decay=3.5).fit(images, labels)
    groups = net.optimizer_.param_groups
    assert [group["weight_decay"] for group in groups] == [2 * 3.5 / 40, 0]
    assert [tuple(p.shape) for p in groups[0]["params"]] == [tuple(net.module_.hidden.weight.shape)]
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        p.numel() for p in net.module_.parameters()
    )


def test_every_image_trains_once_an_epoch() -> None:
    images, labels = make_images(40)
    net = make_classifier().fit(images, labels)
    batches = list(net.get_iterator(net.get_dataset(images, labels), training=True))
    assert [len(batch) for batch, _ in batches] == [14, 13, 13]
    seen = torch.cat([batch for batch, _ in batches])
    assert not torch.equal(seen, torch.from_numpy(images)), "the order is shuffled"
    assert sorted(seen.sum(dim=(1, 2, 3)).tolist()) == sorted(images.sum(axis=(1, 2, 3)).tolist())


@given(count=st.integers(1, 600), batch_size=st.integers(1, 200), epochs=st.integers(1, 3), seed=st.integers(0, 9))
def test_batches_of_an_epoch_differ_by_one_image_at_most(count: int, batch_size: int, epochs: int, seed: int) -> None:
    number = np.arange(count)
    batches = list(TensorBatches(Dataset(number, 3 * number), batch_size, seed, epochs))
    sizes = [len(images) for images, _ in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == epochs * math.ceil(count / batch_size), "and no more batches than that takes"
    assert all(torch.equal(labels, 3 * images) for images, labels in batches)
    for epoch in torch.cat([images for images, _ in batches]).split(count):
        assert epoch.sort().values.tolist() == number.tolist()


@given(count=st.integers(1, 90), batch_size=st.integers(1, 80), least=st.integers(0, 300), seed=st.integers(0, 9))
def test_an_epoch_of_more_images_than_there_are_has_all_equally_often(
    count: int, batch_size: int, least: int, seed: int
) -> None:
    number = np.arange(count)
    batches = list(TensorBatches(Dataset(number, number), batch_size, seed, epochs=2, epoch_images=least))
    images = max(count, least)
    assert len(batches) == 2 * math.ceil(images / batch_size)
    for epoch in torch.cat([images for images, _ in batches]).split(images):
        often = torch.bincount(epoch, minlength=count)
        assert len(often) == count
        assert int(often.max() - often.min()) == (images % count > 0)


def test_each_epoch_has_an_order_of_its_own() -> None:
    batches = TensorBatches(Dataset(np.arange(50), np.arange(50)), 50, epochs=2)
    (first, _), (second, _) = batches
    (third, _), (_, _) = batches
    assert len({tuple(order.tolist()) for order in (first, second, third)}) == 3


def test_a_fit_is_of_distorted_images_and_of_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = make_images(40)
    seen: list[torch.Tensor] = []
    forward = BayesianCNN.forward

    def watched(self: BayesianCNN, images_nchw: torch.Tensor) -> torch.Tensor:
        seen.append(images_nchw)
        return forward(self, images_nchw)

    def darken(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return batch.float() / 2 + torch.rand((), generator=generator)

    monkeypatch.setattr(BayesianCNN, "forward", watched)
    net = make_classifier(iterator_train__augment=darken, max_epochs=2).fit(images, labels)
    # Each batch draws anew, from a stream of the fit's seed that is not that of the order.
    seeds = np.random.SeedSequence(7).generate_state(3, np.uint64) >> 1
    plain = list(TensorBatches(Dataset(images, labels), 16, seed=int(seeds[1]), epochs=2))
    generator = torch.Generator().manual_seed(int(seeds[2]))
    expected = [darken(batch, generator) for batch, _ in plain]
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
    trained_on = net.get_iterator(net.get_dataset(images, labels), training=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(trained_on, plain[:3], strict=True))
    seen.clear()
    list(deterministic_blocks(net, images, block_size=40))
    assert torch.equal(seen[0], torch.from_numpy(images)), "inference sees the images as they are"


@pytest.mark.parametrize(
    ("epochs", "min_steps", "steps"), [(3, 0, 9), (3, 9, 9), (3, 10, 12), (3, 12, 12), (5, 13, 15), (1, 100, 102)]
)
def test_a_fit_takes_its_epochs_or_its_least_steps(epochs: int, min_steps: int, steps: int) -> None:
    images, labels = make_images(40)
    net = make_classifier(max_epochs=epochs, min_steps=min_steps).fit(images, labels)
    assert steps_taken(net) == steps


def test_a_fit_whose_epochs_repeat_images_takes_their_steps() -> None:
    net = make_classifier(max_epochs=2, min_steps=15, epoch_images=100).fit(*make_images(40))
    assert steps_taken(net) == 21, "3 epochs of 7 batches of up to 16 images"


@pytest.mark.parametrize(
    ("settings", "looks"),
    [
        *[({}, 5), ({"batch_size": 1, "max_epochs": 30}, 5)],  # as it always was, also where an epoch has 60 steps
        *[({"epoch_images": 79 * 16}, 3), ({"epoch_images": 8 * 16}, 4), ({"epoch_images": 300 * 16}, 1)],
    ],
)
def test_a_fit_ends_after_so_many_looks_without_a_gain(settings: dict[str, Any], looks: int) -> None:
    images, labels = make_images(60)
    wrong = images, (labels + 1) % CLASSES  # on which every fit gets worse and worse
    net = make_classifier(**{"stopping": "validation", "validation": wrong, "min_steps": 2000, "lr": 3e-3, **settings})
    losses = net.fit(images, labels).history[:, "valid_loss"]
    assert len(losses) == int(np.argmin(losses)) + 1 + looks
    assert steps_taken(net) < 2000, "the looks ended it"


@pytest.mark.parametrize(("epochs", "min_steps", "steps"), [(3, 0, 9), (17, 0, 51), (3, 100, 102), (3, 110, 153)])
def test_a_fit_that_may_stop_goes_on_to_a_whole_check(epochs: int, min_steps: int, steps: int) -> None:
    images, labels = make_images(40)
    settings = {"stopping": "validation", "validation": make_images(20, seed=1)}
    net = make_classifier(max_epochs=epochs, min_steps=min_steps, **settings).fit(images, labels)
    assert (steps_taken(net), len(net.history)) == (steps, math.ceil(steps / 51))


def steps_taken(net: BayesianCNNClassifier) -> int:
    (steps,) = {int(state["step"]) for state in net.optimizer_.state.values()}
    return steps


@pytest.mark.parametrize("stopping", ["none", "validation"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "warmup_cosine"])
def test_the_learning_rate_follows_its_schedule(schedule: str, stopping: str) -> None:
    rates: list[float] = []

    def check() -> None:
        one, other = (group["lr"] for group in net.optimizer_.param_groups)
        assert one == other
        rates.append(one)

    settings = {"lr_schedule": schedule, "stopping": stopping, "validation": make_images(10, seed=1), "lr": 2e-4}
    net = make_classifier(check=check, min_steps=100, **settings)
    net.fit(*make_images(16))
    training_rates = rates if stopping == "none" else rates[:50] + rates[51:101]  # two looks at the validation set
    assert len(rates) == (100 if stopping == "none" else 102)
    if schedule == "constant":
        assert set(training_rates) == {2e-4}
    else:
        falling = 1e-4 * (1 + np.cos(np.pi * np.arange(100) / 100))
        rising = np.minimum(np.arange(1, 101) / 10, 1) if schedule == "warmup_cosine" else np.ones(100)
        np.testing.assert_allclose(training_rates, rising * falling, rtol=1e-6)
        assert schedule == "warmup_cosine" or training_rates[0] == 2e-4
        assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def noisy_fit(**settings: Any) -> BayesianCNNClassifier:
    """A fit of labels of which many are drawn at random: it learns first, and then learns them by heart."""
    images, labels = make_images(40)
    rng = np.random.default_rng(5)
    random = rng.random(40) < 0.4
    return make_classifier(**settings).fit(images, np.where(random, rng.integers(CLASSES, size=40), labels))


def test_stopping_keeps_the_weights_of_the_lowest_validation_loss() -> None:
    images, labels = make_images(30, seed=1)
    net = noisy_fit(stopping="validation", validation=(images, labels), min_steps=1500)
    losses = np.array(net.history[:, "valid_loss"])
    best = int(losses.argmin())
    assert best > 0, "the loss falls before it rises"
    assert len(losses) == best + 1 + cnn_model.CHECKS_WITHOUT_GAIN
    assert steps_taken(net) == len(losses) * 51 < 1500, "17 epochs of 3 batches between two looks"
    assert losses[-1] > losses[best] + 0.1, "the last weights are others"
    with torch.no_grad():
        loss = functional.cross_entropy(net.module_.eval()(torch.from_numpy(images)), torch.from_numpy(labels))
    assert float(loss) == pytest.approx(losses[best], rel=1e-5)
    # A fit of so many steps that has no validation set comes to the same bytes: nothing of it was trained on, and
    # nothing that was trained afterwards reached the weights that were kept.
    plain = noisy_fit(max_epochs=17 * (best + 1)).weights()
    assert all(np.array_equal(plain[name], array) for name, array in net.weights().items())
    again = noisy_fit(stopping="validation", validation=(images, labels), min_steps=1500).weights()
    assert all(np.array_equal(plain[name], array) for name, array in again.items())


def test_stopping_by_accuracy_keeps_the_first_weights_of_its_highest() -> None:
    images, labels = make_images(20, seed=1)
    settings = {"validation": (images, labels), "min_steps": 1500, "lr": 3e-4}
    net = noisy_fit(stopping="validation_accuracy", **settings)
    scores = np.array(net.history[:, "valid_acc"])
    best = int(scores.argmax())
    assert best > 0, "the accuracy rises"
    assert len(scores) == best + 1 + cnn_model.CHECKS_WITHOUT_GAIN
    assert (scores[best + 1 :] == scores[best]).any(), "as high again is no gain"
    with torch.no_grad():
        predicted = net.module_.eval()(torch.from_numpy(images)).argmax(dim=1).numpy()
    assert (predicted == labels).mean() == pytest.approx(scores[best])
    plain = noisy_fit(max_epochs=17 * (best + 1), lr=3e-4).weights()
    assert all(np.array_equal(plain[name], array) for name, array in net.weights().items())
    by_loss = noisy_fit(stopping="validation", **settings)
    assert len(by_loss.history) != len(net.history), "the loss says otherwise"


def test_stopping_leaves_the_last_weights_where_they_are_the_best() -> None:
    images, labels = make_images(60)
    settings = {"stopping": "validation", "validation": make_images(60, seed=3), "max_epochs": 50, "lr": 1e-4}
    net = make_classifier(**settings).fit(images, labels)
    losses = net.history[:, "valid_loss"]
    assert losses == sorted(losses, reverse=True)
    last = make_classifier(max_epochs=13 * len(losses), lr=1e-4).fit(images, labels).weights()
    assert all(np.array_equal(last[name], array) for name, array in net.weights().items())


def test_a_loss_that_is_not_finite_stops_a_fit_that_may_stop_earlier() -> None:
    with pytest.raises(NonFiniteLossError, match="the training loss became"):
        make_classifier(lr=1e30, stopping="validation", validation=make_images(9)).fit(*make_images(40))


def test_weights_that_are_trained_already_are_taken_once() -> None:
    images, labels = make_images(40)
    start = make_classifier(fit_seed=1).fit(images, labels).weights()
    net = make_classifier(trained=start).fit(images, labels)
    assert all(np.array_equal(start[name], array) for name, array in net.weights().items())
    start["conv1.bias"][:] = 9
    assert not (net.weights()["conv1.bias"] == 9).any(), "a copy"
    fresh = make_classifier().fit(images, labels).weights()
    assert all(np.array_equal(fresh[name], array) for name, array in net.fit(images, labels).weights().items())


def test_training_dropout_drops_at_its_rate_and_keeps_the_mean() -> None:
    masks = RandomMasks(4)
    ones = torch.ones(1000, 1000)
    for rate in (0.25, 0.5):
        dropped = masks.drop(ones, Dropout((1000,), rate))
        assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / (1 - rate)])
        # Each column group too: the sign bit of every eighth byte must be as random as the others.
        fractions = (dropped == 0).float().mean(dim=0)
        assert float(fractions.mean()) == pytest.approx(rate, abs=0.002)
        assert fractions.sub(rate).abs().max() < 6 * (rate * (1 - rate) / 1000) ** 0.5


def test_training_masks_differ_between_images_and_steps() -> None:
    masks = RandomMasks(4)
    first, second = (masks.drop(torch.ones(2, 512), Dropout((512,), 0.5)) for _ in range(2))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_a_mask_may_drop_whole_channels() -> None:
    channels = RandomMasks(4).drop(torch.ones(50, 8, 3, 3), Dropout((8, 1, 1), 0.5))
    assert set(channels.mean(dim=(2, 3)).unique().tolist()) == {0, 2}


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_every_network_keeps_what_a_network_is(kind: NetworkKind) -> None:
    """Shapes, seeds, one mask for all images or one for each, and what the last layer takes."""
    shape = (2, max(12, kind.smallest), max(12, kind.smallest) + 3)

    def make(**settings: Any) -> Any:
        return kind.module(shape, CLASSES, (0.3, 0.4), (0.2, 0.1), **settings)

    module, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert all(torch.equal(one, two) for one, two in zip(module.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(module.parameters()), next(other.parameters()))
    red_and_green = torch.tensor([255.0, 51.0])[:, None, None].expand(1, *shape)
    torch.testing.assert_close(module.standardise(red_and_green).mean(dim=(0, 2, 3)), torch.tensor([3.5, -2.0]))
    assert module.decayed in dict(module.named_parameters())
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8)
    same = images[:1].expand(6, -1, -1, -1)
    with torch.inference_mode():
        features = module.features(same)
        kept = [torch.rand(place.shape, generator=torch.Generator().manual_seed(0)) > 0.5 for place in module.dropouts]
        masked = module.train().head(features, kept)
        assert masked.shape == (6, CLASSES)
        torch.testing.assert_close(masked, masked[:1].expand(6, -1))
        assert module.head(features).std(dim=0).max() > 0.01, "in training each image has masks of its own"
        again.mask_with(5)
        module.mask_with(5)
        assert torch.equal(module.head(features), again.train().head(features))
        logits = module.eval()(images)
        embeddings = module.embed(module.features(images))
        last = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)][-1]
        torch.testing.assert_close(last(embeddings), logits)
        copied = make(seed=3, initial_weights={key: value.numpy() for key, value in module.state_dict().items()})
        torch.testing.assert_close(copied.eval()(images), logits)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 19, 33)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batchbalds_network_drops_whole_channels_behind_each_convolution(
    shape: tuple[int, int, int], precision: Precision
) -> None:
    module = BatchBALDCNN(shape, CLASSES, (0.1,), (0.3,), seed=1, initialisation="torch").eval()
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(2)
    tolerance = 0.02 if precision == "bfloat16" else 1e-5
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    for share in (0, 0.2, 0.5, 0.5, 0.8, 1):  # of what is dropped
        kept = [torch.rand(place.shape, generator=generator) >= share for place in module.dropouts]
        first, second, third = kept
        with torch.inference_mode():
            x = functional.relu(functional.max_pool2d(module.conv1(module.standardise(images)) * 2 * first, 2))
            x = functional.relu(functional.max_pool2d(module.conv2(x) * 2 * second, 2))
            logits = module.output(functional.relu(module.hidden(x.flatten(1)) * 2 * third))
            with autocast:
                torch.testing.assert_close(
                    module.head(module.features(images), kept).float(), logits, rtol=tolerance, atol=tolerance
                )


@pytest.mark.parametrize("side", [16, 64])
def test_the_residual_network_is_torchvisions_under_the_papers_head(side: int) -> None:
    from torchvision.models import resnet18

    before = torch.random.get_rng_state()
    module = ResNet18((3, side, side), 10, seed=1).eval()
    assert torch.equal(torch.random.get_rng_state(), before), "torch's global generator is not ours to draw from"
    theirs = resnet18().eval()
    if side < 64:
        theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    theirs.fc = torch.nn.Sequential(torch.nn.Linear(512, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), module.state_dict().values(), strict=True)))
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(module(images), theirs(images / 255))
        assert module.features(images).shape == (3, 512)


def test_the_network_of_batch_bald_in_torchs_own_layers() -> None:
    module = BatchBALDCNN((1, 28, 28), 10, seed=1).eval()
    layers = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 32, 5), torch.nn.Dropout2d(), torch.nn.MaxPool2d(2), torch.nn.ReLU()),
        *(torch.nn.Conv2d(32, 64, 5), torch.nn.Dropout2d(), torch.nn.MaxPool2d(2), torch.nn.ReLU()),
        *(
            torch.nn.Flatten(),
            torch.nn.Linear(1024, 128),
            torch.nn.Dropout(),
            torch.nn.ReLU(),
            torch.nn.Linear(128, 10),
        ),
    )
    layers.load_state_dict(dict(zip(layers.state_dict(), module.state_dict().values(), strict=True)))
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(module(images), layers.eval()(images / 255))
        module.train()
        layers.train()
        copies = images[:1].expand(2000, -1, -1, -1)
        ours, theirs = module(copies), layers(copies / 255)
    spread = (ours.var(0) / 2000 + theirs.var(0) / 2000).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * spread).all()
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 0.15).all()


def test_in_evaluation_nothing_is_dropped_without_a_mask() -> None:
    module = fast_network(IMAGE_SHAPE, CLASSES, seed=4).eval()
    images = torch.from_numpy(make_images(5)[0])
    with torch.inference_mode():
        features = module.features(images)
        kept = [torch.ones(place.shape, dtype=torch.bool) for place in module.dropouts]
        whole = [(1 - place.rate) * mask for place, mask in zip(module.dropouts, kept, strict=True)]
        assert torch.equal(module.head(features), module.head(features, whole))
        assert not torch.equal(module.head(features), module.head(features, kept)), "what is kept is scaled up"


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    with pytest.raises(NonFiniteLossError, match=r"^the training loss became (nan|inf) in epoch \d+$"):
        make_classifier(lr=1e30).fit(*make_images(40))


def test_check_can_stop_a_fit_and_an_inference(fitted: BayesianCNNClassifier) -> None:
    class StopError(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise StopError

    images, labels = make_images(40)
    with pytest.raises(StopError):
        make_classifier(check=check).fit(images, labels)
    assert calls == 4
    fitted.check = check
    calls = 2
    with pytest.raises(StopError):
        all_passes(fitted, images, passes=2, seed=0, block_size=10)
    fitted.check = None


def test_mc_dropout_has_the_shape_and_order_of_the_images(fitted: BayesianCNNClassifier) -> None:
    images, _ = make_images(33, seed=2)
    probs_tnc = all_passes(fitted, images, passes=7, seed=1)
    assert probs_tnc.shape == (7, 33, CLASSES)
    assert probs_tnc.dtype == torch.float32
    assert not probs_tnc.requires_grad
    torch.testing.assert_close(probs_tnc.sum(dim=-1), torch.ones(7, 33))
    order = np.random.default_rng(0).permutation(33)
    torch.testing.assert_close(all_passes(fitted, images[order], passes=7, seed=1), probs_tnc[:, order])
    chosen = np.array([30, 2, 2, 17])
    torch.testing.assert_close(
        torch.cat(list(mc_dropout_blocks(fitted, images, chosen, passes=7, seed=1)), dim=1), probs_tnc[:, chosen]
    )


@pytest.mark.parametrize("computed_by", get_args(Engine))
@pytest.mark.parametrize("passes", [1, 10, 23])
def test_mc_dropout_with_forced_masks_equals_the_layers_written_out(
    fitted: BayesianCNNClassifier, passes: int, computed_by: Engine
) -> None:
    images, _ = make_images(9, seed=3)
    module = fitted.module_
    generator = torch.Generator().manual_seed(passes)
    feature_masks = torch.rand(passes, module.hidden.in_features, generator=generator) >= 0.25
    hidden_masks = torch.rand(passes, module.hidden.out_features, generator=generator) >= 0.5
    hidden_masks[0] = passes % 2 == 1  # all kept, or none
    blocks = list(blocks_under_masks(fitted, images, None, (feature_masks, hidden_masks), 4))
    masks = module, feature_masks, hidden_masks
    ways: dict[str, Callable[[], Passes]] = {
        "kernels": lambda: CompiledPasses(*masks, "float32"),
        "torch, dense layers only": lambda: DensePasses(*masks, torch.float32),
        "torch, the whole head": lambda: HeadPasses(module, (feature_masks, hidden_masks)),
    }
    way = ways[computed_by]()
    with torch.inference_mode():
        computed = [class_probabilities(way, few) for few in torch.from_numpy(images).split(4)]
    same = all(torch.equal(one, other) for one, other in zip(blocks, computed, strict=True))
    assert same == (engine(BayesianCNN, "cpu", "float32") == computed_by == "kernels")
    features = module.features(torch.from_numpy(images)).flatten(1).double()
    expected = []
    for feature_mask, hidden_mask in zip(feature_masks, hidden_masks, strict=True):
        hidden = functional.relu(
            functional.linear(
                features * feature_mask / 0.75, module.hidden.weight.double(), module.hidden.bias.double()
            )
        )
        logits = functional.linear(
            hidden * hidden_mask / 0.5, module.output.weight.double(), module.output.bias.double()
        )
        expected.append(functional.softmax(logits, dim=-1))
    torch.testing.assert_close(torch.cat(computed, dim=1).double(), torch.stack(expected), atol=1e-5, rtol=0)


def test_mc_dropout_has_the_distribution_of_plain_passes(fitted: BayesianCNNClassifier) -> None:
    image = make_images(200, seed=4)[0][[17]]
    passes = 4000
    ours_tc = all_passes(fitted, image, passes=passes, seed=5)[:, 0].double()
    fitted.module_.train()
    with torch.no_grad():
        # A batch of copies: in training mode every image has masks of its own.
        plain_tc = functional.softmax(fitted.module_(torch.from_numpy(image).expand(passes, -1, -1, -1)), -1).double()
    fitted.module_.eval()
    error_of_mean = (ours_tc.var(0) / passes + plain_tc.var(0) / passes).sqrt()
    assert bool(((ours_tc.mean(0) - plain_tc.mean(0)).abs() < 4 * error_of_mean).all())
    squares_ours, squares_plain = (ours_tc - ours_tc.mean(0)) ** 2, (plain_tc - plain_tc.mean(0)) ** 2
    error_of_variance = (squares_ours.var(0) / passes + squares_plain.var(0) / passes).sqrt()
    assert bool(((squares_ours.mean(0) - squares_plain.mean(0)).abs() < 4 * error_of_variance).all())
    assert float(ours_tc.var(0).max()) > 1e-4, "the passes must disagree for this test to mean something"


def test_masks_depend_on_the_seed_and_not_on_the_blocks(fitted: BayesianCNNClassifier) -> None:
    images, _ = make_images(20, seed=5)
    whole = all_passes(fitted, images, passes=5, seed=1)
    torch.testing.assert_close(all_passes(fitted, images, passes=5, seed=1, block_size=3), whole, atol=1e-6, rtol=0)
    assert (all_passes(fitted, images, passes=5, seed=2) - whole).abs().max() > 0.01


def test_one_pass_uses_one_mask_for_all_images(fitted: BayesianCNNClassifier) -> None:
    image = make_images(3, seed=6)[0][[0]]
    probs_tnc = all_passes(fitted, np.repeat(image, 6, axis=0), passes=4, seed=1)
    torch.testing.assert_close(probs_tnc, probs_tnc[:, :1].expand(-1, 6, -1))


def own_masks(
    net: BayesianCNNClassifier, images: npt.NDArray[np.uint8], rows: npt.ArrayLike | None = None, **settings: Any
) -> torch.Tensor:
    chosen = np.arange(len(images)) if rows is None else np.asarray(rows)
    return torch.cat(list(mc_dropout_blocks_of_own_masks(net, images, chosen, **settings)), dim=1)


def test_masks_of_their_own_have_the_distribution_of_plain_passes(fitted: BayesianCNNClassifier) -> None:
    image = make_images(200, seed=4)[0][[17]]
    ours_nc = own_masks(fitted, image, [0] * 40, passes=100, seed=5).reshape(-1, CLASSES).double()
    fitted.module_.train()
    with torch.no_grad():
        plain_nc = functional.softmax(fitted.module_(torch.from_numpy(image).expand(4000, -1, -1, -1)), -1).double()
    fitted.module_.eval()
    for ours, plain in ((ours_nc, plain_nc), ((ours_nc - ours_nc.mean(0)) ** 2, (plain_nc - plain_nc.mean(0)) ** 2)):
        error = (ours.var(0) / 4000 + plain.var(0) / 4000).sqrt()
        assert bool(((ours.mean(0) - plain.mean(0)).abs() < 4 * error).all())
    assert float(ours_nc.var(0).max()) > 1e-4, "the passes must disagree for this test to mean something"


def test_masks_of_their_own_differ_between_images_passes_and_slices(
    fitted: BayesianCNNClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "IMAGES_PER_SLICE", 4)
    images, _ = make_images(3, seed=6)
    probs_tnc = own_masks(fitted, images, [2] * 10, passes=5, seed=1)
    assert probs_tnc.shape == (5, 10, CLASSES)
    assert probs_tnc.dtype == torch.float32
    torch.testing.assert_close(probs_tnc.sum(dim=-1), torch.ones(5, 10))
    assert len({probs_c.numpy().tobytes() for probs_c in probs_tnc.reshape(-1, CLASSES)}) > 45, "of 50"
    rows = [1, 0, 2, 2, 0, 1]
    mean_nc = own_masks(fitted, images, rows, passes=2000, seed=1).mean(0)
    torch.testing.assert_close(
        mean_nc, all_passes(fitted, images, passes=2000, seed=1).mean(0)[rows], atol=0.03, rtol=0
    )


def test_masks_of_their_own_depend_on_the_seed_and_leave_the_module_as_it_was(fitted: BayesianCNNClassifier) -> None:
    images, _ = make_images(20, seed=5)
    first = own_masks(fitted, images, passes=5, seed=1)
    assert not fitted.module_.training
    expected = torch.cat(list(deterministic_blocks(fitted, images)), dim=1)
    assert (own_masks(fitted, images, passes=5, seed=2) - first).abs().max() > 0.01
    blocks = mc_dropout_blocks_of_own_masks(fitted, images, np.arange(20), passes=5, seed=3)
    next(blocks)
    assert not fitted.module_.training
    assert torch.equal(own_masks(fitted, images, passes=5, seed=1), first)
    assert torch.equal(torch.cat(list(deterministic_blocks(fitted, images)), dim=1), expected)


def test_check_can_stop_passes_with_masks_of_their_own(
    fitted: BayesianCNNClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    def check() -> None:
        raise StopError

    monkeypatch.setattr(fitted, "check", check)
    with pytest.raises(StopError):
        own_masks(fitted, make_images(4)[0], passes=2, seed=1)
    assert not fitted.module_.training


@pytest.mark.parametrize("block_size", [3, 500])
def test_threads_share_the_blocks_and_change_no_probability(
    fitted: BayesianCNNClassifier, set_threads: Callable[[int], None], block_size: int
) -> None:
    images, _ = make_images(33, seed=2)
    on_one_thread = all_passes(fitted, images, passes=7, seed=1, block_size=3)
    set_threads(4)
    on_four = all_passes(fitted, images, passes=7, seed=1, block_size=block_size)
    assert torch.get_num_threads() == 4
    if block_size == 3:
        assert torch.equal(on_four, on_one_thread)
    torch.testing.assert_close(on_four, on_one_thread, atol=1e-6, rtol=0)


def test_threads_compute_a_few_blocks_ahead_and_no_more(
    fitted: BayesianCNNClassifier, set_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    features = BayesianCNN.features

    def counted(self: BayesianCNN, images_nchw: torch.Tensor) -> torch.Tensor:
        computed.append(threading.current_thread().name)
        return features(self, images_nchw)

    monkeypatch.setattr(BayesianCNN, "features", counted)
    set_threads(2)
    blocks = mc_dropout_blocks(fitted, make_images(40)[0], passes=2, seed=1, block_size=2)
    next(blocks)
    time.sleep(0.3)  # for the threads to run ahead if nothing held them
    blocks.close()  # type: ignore[attr-defined]
    assert 1 <= len(computed) <= 4
    assert threading.main_thread().name not in computed
    with ThreadPoolExecutor(1) as executor:  # threads that start later have what the calling thread has, as before
        assert executor.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_lack_of_memory_halves_the_block_and_changes_no_probability(
    fitted: BayesianCNNClassifier,
    set_threads: Callable[[int], None],
    error: Exception,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_threads(threads)
    images, _ = make_images(63, seed=2)
    expected = all_passes(fitted, images, passes=7, seed=1)
    sizes: list[int] = []
    features = BayesianCNN.features

    def scarce(self: BayesianCNN, images_nchw: torch.Tensor) -> torch.Tensor:
        if len(images_nchw) > 5:
            raise error
        sizes.append(len(images_nchw))
        return features(self, images_nchw)

    notes: list[str] = []
    monkeypatch.setattr(BayesianCNN, "features", scarce)
    monkeypatch.setattr(fitted, "note", notes.append)
    torch.testing.assert_close(all_passes(fitted, images, passes=7, seed=1, block_size=20), expected, atol=1e-6, rtol=0)
    assert set(sizes) == {5, 3}
    assert sum(sizes) == 63 or threads > 1  # what other threads had computed of larger blocks is not used
    assert notes == [f"out of memory: inference goes on with blocks of {size} images" for size in (10, 5)]


def test_blocks_follow_from_the_memory_that_there_is(
    fitted: BayesianCNNClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = make_images(60, seed=2)
    expected = all_passes(fitted, images, passes=7, seed=1)
    notes: list[str] = []
    monkeypatch.setattr(fitted, "note", notes.append)
    passes = 7 * bytes_a_pass(BayesianCNN, IMAGE_SHAPE)
    an_image = bytes_an_image(CLASSES, passes=7)
    sizes = {60: [60], 32: [32, 28], 16: [16, 16, 16, 12]}
    for free, size in (((10**12), 60), (passes + 4 * 2 * 40 * an_image, 32), (passes, 16), (0, 16)):
        monkeypatch.setattr(inference, "available_memory", lambda free=free: free)
        blocks = list(mc_dropout_blocks(fitted, images, passes=7, seed=1))
        assert [block.shape[1] for block in blocks] == sizes[size]
        assert torch.equal(torch.cat(blocks, dim=1), expected), "no digit depends on the memory"
    assert notes == [f"little memory for 7 passes: inference goes on with blocks of {n} images" for n in (32, 16, 16)]
    monkeypatch.setattr(inference, "available_memory", lambda: None)  # a system that does not say
    assert next(mc_dropout_blocks(fitted, images, passes=7, seed=1)).shape[1] == 60


def test_the_memory_of_passes_is_about_what_they_hold() -> None:
    """Of those that the kernels hold, the weights are most by far."""
    module = fast_network((1, 28, 28), 10)
    features, units = module.hidden.in_features, module.hidden.out_features
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(20, features, generator=generator) >= 0.25, torch.rand(20, units, generator=generator) >= 0.5
    for precision in ("float32", "bfloat16"):
        passes = CompiledPasses(module, *masks, precision).passes
        arrays = passes.hidden_weights, passes.output_weights, *passes.dropped, *passes.kept
        held = sum(array.nbytes for array in arrays) / 20
        assert 0.9 * held < bytes_a_pass(BayesianCNN, (1, 28, 28), precision) < 1.3 * held


def test_available_memory_is_the_least_of_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(hardware, "_GROUPS", ((str(most), str(used)),))
    monkeypatch.setattr(hardware, "_free_memory", lambda: 5_000)
    monkeypatch.setattr(hardware, "_left_of_limit", lambda: None)
    assert available_memory() == 5_000
    used.write_text("1000\n")
    for content, left in (("max\n", 5_000), ("3000\n", 2_000), ("500\n", 0), ("9000000\n", 5_000)):
        most.write_text(content)
        assert available_memory() == left
    most.write_text("1200")
    (tmp_path / "memory.stat").write_text("active_file 300\ninactive_file 400\nanon 300\n")
    assert available_memory() == 900, "what it keeps of files it gives back"
    monkeypatch.setattr(hardware, "_free_memory", lambda: None)
    most.write_text("max")
    assert available_memory() is None


def test_a_lack_of_memory_gives_back_what_the_failed_block_held(
    fitted: BayesianCNNClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    features = BayesianCNN.features

    def scarce(self: BayesianCNN, images_nchw: torch.Tensor) -> torch.Tensor:
        large = torch.empty(10)
        held.append(weakref.ref(large))
        if len(images_nchw) > 5:
            raise MemoryError
        assert [one() is None for one in held] == [True] * (len(held) - 1) + [False]
        return features(self, images_nchw)

    monkeypatch.setattr(BayesianCNN, "features", scarce)
    gc.disable()  # nothing may depend on when it comes by
    try:
        all_passes(fitted, make_images(20)[0], passes=2, seed=1, block_size=20)
    finally:
        gc.enable()
    assert len(held) == 2 + 4


def test_an_error_that_is_no_lack_of_memory_is_raised(
    fitted: BayesianCNNClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BayesianCNN, images_nchw: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken" if len(images_nchw) > 1 else "can't allocate memory")

    monkeypatch.setattr(BayesianCNN, "features", broken)
    images, _ = make_images(2)
    with pytest.raises(RuntimeError, match="broken"):
        all_passes(fitted, images, passes=2, seed=1)
    with pytest.raises(RuntimeError, match="allocate"):
        all_passes(fitted, images[:1], passes=2, seed=1, block_size=1)


def test_a_generator_that_is_left_leaves_torch_as_it_was(fitted: BayesianCNNClassifier) -> None:
    blocks = mc_dropout_blocks(fitted, make_images(4)[0], passes=2, seed=1, block_size=2)
    next(blocks)
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_the_deterministic_pass_is_the_network_in_evaluation_mode(fitted: BayesianCNNClassifier) -> None:
    images, _ = make_images(12, seed=7)
    probs_1nc = torch.cat(list(deterministic_blocks(fitted, images, block_size=5)), dim=1)
    assert probs_1nc.shape == (1, 12, CLASSES)
    with torch.no_grad():
        expected = functional.softmax(fitted.module_.eval()(torch.from_numpy(images)), dim=-1)
    torch.testing.assert_close(probs_1nc[0], expected)


def test_bfloat16_agrees_with_float32(fitted: BayesianCNNClassifier) -> None:
    images, labels = make_images(300, seed=8)
    reference = all_passes(fitted, images, passes=50, seed=1).mean(dim=0)
    fitted.precision = "bfloat16"
    half = all_passes(fitted, images, passes=50, seed=1).mean(dim=0)
    fitted.precision = "float32"
    assert 0 < (half - reference).abs().max() < 0.02
    difference = (half.argmax(1) != torch.from_numpy(labels)).float().mean() - (
        reference.argmax(1) != torch.from_numpy(labels)
    ).float().mean()
    assert abs(float(difference)) <= 1 / 300


def test_bfloat16_trains_too() -> None:
    images, labels = make_images(90, seed=1)
    net = make_classifier(max_epochs=20, precision="bfloat16").fit(images[:60], labels[:60])
    probs_nc = torch.cat(list(deterministic_blocks(net, images[60:])), dim=1)[0].numpy()
    assert (probs_nc.argmax(axis=1) == labels[60:]).mean() > 0.9
    assert net.module_.conv1.weight.dtype == torch.float32


def test_bfloat16_is_torchs_where_its_instructions_are_better(
    fitted: BayesianCNNClassifier, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    images, _ = make_images(20, seed=8)
    reference = all_passes(fitted, images, passes=20, seed=1)
    module, found = fitted.module_.eval(), []
    few = torch.from_numpy(images)
    masks = module, torch.ones(2, module.hidden.in_features) > 0, torch.ones(2, HIDDEN_UNITS) > 0
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with torch.inference_mode():
        full_nf = module.features(few)
        with torch.autocast("cpu", torch.bfloat16):
            half_nf = module.features(few)
        full, half = (CompiledPasses(*masks, precision) for precision in ("float32", "bfloat16"))
        assert half_nf.dtype == torch.float32
        assert not torch.equal(full_nf, half_nf), "the convolutions are in bfloat16"
        x = full.features(few)
        assert not torch.equal(full.logits(x), half.logits(x)), "the hidden layer is in bfloat16"
    fitted.precision = "bfloat16"
    for capabilities in ({"avx512_bf16": True}, {"amx_bf16": True}, {"bf16": True}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        found.append(all_passes(fitted, images, passes=20, seed=1))
        assert 0 < (found[-1] - reference).abs().mean() < 0.02
        by_torch = bool({"amx_bf16", "bf16"} & set(capabilities))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert module.features(few).dtype == (torch.bfloat16 if by_torch else torch.float32)
        set_threads(2)
        net = make_classifier(precision="bfloat16", module__threads=1)
        with training_threads(net):
            assert (net.module__threads, torch.get_num_threads()) == ((1, 2) if by_torch else (2, 1))
        set_threads(1)
    fitted.precision = "float32"
    assert torch.equal(found[0], found[3])
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


def test_auto_takes_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("float32", "cpu") == "float32"
    assert choose_precision("bfloat16", "cpu") == "bfloat16"
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(hardware, "_cpu_computes_bfloat16", lambda native=native: native)
        assert choose_precision("auto", "cpu") == expected
    assert choose_precision("auto", "mps") == "float32"


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="x86 Linux only")
def test_native_bfloat16_is_what_the_processor_says() -> None:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    assert hardware._cpu_computes_bfloat16() == bool({"avx512_bf16", "amx_bf16"} & set(flags))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == "cpu"
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ValueError, match=f"^--device {missing} is not available on this machine"):
        choose_device(missing)
