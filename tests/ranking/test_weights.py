"""Pretrained features under a Bayesian head: computed once an image; weights that cannot be had are told of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from active_learning.models.pretrained import Pretrained
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
    assert rank(tmp_path / "images", *FLAGS, "--weights", path) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert f"--weights {path} {told}" in printed
    assert "such as resnet18-f37072fd.pth, default, or none." in printed


def test_no_network_is_told_with_the_way_to_give_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr("torchvision.models.ResNet18_Weights.get_state_dict", unreachable)
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", *FLAGS, "--weights=default") == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert "--weights default cannot be downloaded" in printed
    assert printed.endswith("copy resnet18-f37072fd.pth from a machine that can, and give --weights and its path.")


def test_weights_are_for_the_residual_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "images", pool=8)
    assert rank(tmp_path / "images", "--weights=default") == 2
    assert "--weights default are for --network resnet18: add that" in capsys.readouterr().err
