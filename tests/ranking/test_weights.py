"""Pretrained features under a Bayesian head: computed once an image; weights that cannot be had are told of."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from urllib.error import URLError

import numpy as np
import pytest
import torch

from active_learning.models.pretrained import Pretrained
from cnn_model import BayesianCNNClassifier, FineTunedResNet18, Weights
from tests.ranking.folders import make_folder, names, rank

FLAGS = ("--network=resnet18",)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network of seven classes, as torchvision saves them; in half precision, to be small."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "seven.pth"
    torch.save({name: tensor.half() for name, tensor in resnet18(num_classes=7).state_dict().items()}, path)
    return path


def test_features_are_those_of_torchvision(weights: Path) -> None:
    from torchvision.models import resnet18

    network = resnet18(num_classes=7)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = torch.nn.Identity()
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32)).astype(np.uint8)
    rows = np.array([4, 0])
    (found,) = Pretrained(str(weights)).features(images, rows, lambda: None)
    grey = torch.from_numpy(images[rows]).repeat(1, 3, 1, 1).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = network.eval()((grey - mean[:, None, None]) / std[:, None, None])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_are_computed_once(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images, pool=20)
    assert rank(images, *FLAGS, "--weights", weights) == 0
    before = (results / "ranking.csv").read_bytes()
    asked: list[int] = []
    features = Pretrained.features

    def counted(self: Pretrained, pixels: Any, rows: Any, check: Any) -> Any:
        asked.append(len(rows))
        return features(self, pixels, rows, check)

    monkeypatch.setattr(Pretrained, "features", counted)
    assert rank(images, *FLAGS, "--weights", weights) == 0
    assert (results / "ranking.csv").read_bytes() == before
    (images / "copy.png").write_bytes((images / "000.png").read_bytes() + b"\0")  # another content, not another picture
    assert rank(images, *FLAGS, "--weights", weights) == 0
    assert asked == [0, 1]
    assert "copy.png" in names(results / "ranking.csv")
    assert "a head on features of a pretrained resnet18" in (results / "index.html").read_text()


def test_a_damaged_cache_of_features_is_made_anew(tmp_path: Path, weights: Path) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images, pool=8)
    assert rank(images, *FLAGS, "--weights", weights) == 0
    before = (results / "ranking.csv").read_bytes()
    (cached,) = (results / "cache").glob("features-*.npz")
    cached.write_bytes(cached.read_bytes()[:1000])
    assert rank(images, *FLAGS, "--weights", weights) == 0
    assert (results / "ranking.csv").read_bytes() == before


@pytest.fixture
def body(weights: Path) -> Weights:
    return Pretrained(str(weights)).weights()


IMAGES = np.random.default_rng(0).integers(0, 256, (16, 1, 16, 16)).astype(np.uint8)
LABELS = np.arange(16) % 3


@pytest.mark.parametrize("channels", [1, 3])
def test_before_it_is_trained_it_sees_what_the_pretrained_network_sees(
    weights: Path, body: Weights, channels: int
) -> None:
    images = np.repeat(IMAGES, channels, axis=1)
    network = FineTunedResNet18((channels, 16, 16), 3, pretrained=body)
    (expected,) = Pretrained(str(weights)).features(images, np.arange(16), lambda: None)
    with torch.inference_mode():
        found = network.train().features(torch.from_numpy(images))  # in training mode, too
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_fit_starts_from_the_weights_and_trains_all_of_them_the_old_part_slowly(body: Weights) -> None:
    # one step, which in Adam is as long as the learning rate
    net = BayesianCNNClassifier(
        FineTunedResNet18, module__pretrained=body, module__image_shape=(1, 16, 16), module__class_count=3,
        classes=[0, 1, 2], batch_size=16, max_epochs=1, lr=2e-3,
    ).fit(IMAGES, LABELS)  # fmt: skip
    fresh = FineTunedResNet18((1, 16, 16), 3, seed=net.module__seed, pretrained=body).state_dict()
    after = net.module_.state_dict()
    moved = {name: float((after[name] - fresh[name]).abs().max()) for name, _ in net.module_.named_parameters()}
    for name, most in moved.items():
        assert most == pytest.approx(1e-4 if name.startswith("residual.") else 2e-3, rel=0.02), name
    statistics = [name for name in after if "running" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(after[name], fresh[name]) for name in statistics)
    again = net.fit(IMAGES, LABELS).module_.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in after.items())


def test_the_whole_network_is_fine_tuned_on_request(tmp_path: Path, weights: Path) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images, pool=12)
    flags = (*FLAGS, "--weights", weights, "--fine_tune", "--min_steps=2")
    assert rank(images, *flags) == 0
    before = (results / "ranking.csv").read_bytes()
    assert "a pretrained resnet18, trained from there on" in (results / "index.html").read_text()
    assert not list((results / "cache").glob("features-*"))
    assert rank(images, *flags) == 0
    assert (results / "ranking.csv").read_bytes() == before
    other = tmp_path / "other.pth"
    torch.save({name: tensor * 1.01 for name, tensor in torch.load(weights, weights_only=True).items()}, other)
    other_flags = (*FLAGS, "--weights", other, *flags[3:])
    assert rank(images, *other_flags, "--result_dir", tmp_path / "other") == 0  # the first round there, too
    assert (tmp_path / "other" / "ranking.csv").read_bytes() != before
    assert rank(images, *other_flags) == 0  # another network, another round
    assert rank(images, *FLAGS, "--weights", weights) == 0
    rows = [json.loads(line) for line in (results / "journal.jsonl").read_text().splitlines()[1:]]
    assert [row["about"]["settings"].get("fine_tune") for row in rows] == [True, True, None]  # as journals had it


def test_there_is_nothing_to_fine_tune_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "images", pool=8)
    for flags in ((), FLAGS):
        assert rank(tmp_path / "images", *flags, "--fine_tune") == 2
        assert capsys.readouterr().err == (
            "main.py: error: --fine_tune needs weights to start from: add --network resnet18 --weights default, say, "
            "or leave it out.\n"
        )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"not weights", "is no file of weights"),
        (b"junk", "is no file of weights"),
        ([1, 2], "holds no weights by name"),
        ({1: torch.zeros(2)}, "holds no weights by name"),
        ({"conv1.weight": torch.tensor([1.0, float("nan")])}, "holds numbers that are not finite"),
        ({"a": torch.zeros(2)}, "are of no ResNet-18"),
    ],
)
def test_weights_that_are_none_are_told(
    tmp_path: Path, content: object, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "images", pool=8)
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert rank(tmp_path / "images", *FLAGS, "--weights", path) == (2 if content is None else 1)
    printed = capsys.readouterr().err.splitlines()[-1]
    assert f"--weights {path} {told}" in printed
    assert "such as resnet18-f37072fd.pth, default, or none." in printed


def test_no_network_is_told_with_the_way_to_give_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torchvision.models.ResNet18_Weights.get_state_dict", unreachable)
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", *FLAGS, "--weights=default") == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert "--weights default cannot be downloaded (Name or service not known): " in printed
    assert printed.endswith("copy resnet18-f37072fd.pth from a machine that can, and give --weights and its path.")


@pytest.mark.parametrize("call", ["active_learning.models.pretrained.Pretrained.features", "torch.load"])
def test_a_lack_of_memory_for_pretrained_weights_is_told_with_what_takes_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, weights: Path, call: str
) -> None:
    monkeypatch.setattr(call, MagicMock(side_effect=RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", *FLAGS, "--weights", weights) == 1
    told = "not enough memory for a pretrained network: give a smaller --image_size, or --weights none.\n"
    assert capsys.readouterr().err.endswith(told)


def test_a_copy_of_the_default_weights_that_cannot_be_read_is_told_with_two_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    copy = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    copy.mkdir(parents=True)
    refused = MagicMock(side_effect=PermissionError(13, "Permission denied", str(copy)))
    monkeypatch.setattr("torchvision.models.ResNet18_Weights.get_state_dict", refused)
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", *FLAGS, "--weights=default") == 1
    assert capsys.readouterr().err.endswith(
        "cannot be read (Permission denied): make it readable, or give --weights and another copy's path.\n"
    )


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"])
def test_a_damaged_copy_of_the_default_weights_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    copy = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(content)
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", *FLAGS, "--weights=default") == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed == (
        f"main.py: error: {copy}, a copy of --weights default, is damaged: delete it to download it anew."
    )


def test_weights_are_for_the_residual_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", "--weights=default") == 2
    assert "--weights default are for --network resnet18: add that" in capsys.readouterr().err
