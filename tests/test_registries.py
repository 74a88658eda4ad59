"""One entry more in each registry, and nothing else: flags, help, runs, resume, records and the report follow."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.nn import functional

from acquisition_functions import ACQUISITION_FUNCTIONS, AcquisitionFunction, Evidence, Picks
from active_learning.report.page import command
from active_learning.report.results import read_results
from active_learning.settings.arms import planned_runs
from active_learning.settings.flags import make_parser, read_flags
from active_learning.settings.learners import LEARNERS, LearnerKind
from active_learning.settings.networks import NETWORKS, NetworkKind
from active_learning.streams import Purpose
from benchmarks import tiny
from cnn_model import Dropout, RandomMasks, draw_weights, dropped
from load_data import DATASETS
from main import main
from tests.conftest import TINY


def spread(evidence: Evidence, count: int, _rng: np.random.Generator) -> Picks:
    """A function that picks a batch as a whole: the surest candidate of one class after the other."""
    assert evidence.probs_tnc is not None
    probs_nc = evidence.probs_tnc.mean(axis=0)
    positions: list[int] = []
    for k in range(count):
        order = np.argsort(-probs_nc[:, k % probs_nc.shape[1]], kind="stable")
        positions.append(next(int(position) for position in order if position not in positions))
    return Picks(np.array(positions), np.arange(count, 0, -1.0))


class NearestMean:
    """A learner of some lines: the class whose labelled images have the nearest mean."""

    weight_decay, weight_decay_tuned = 0.0, False

    def __init__(self, config: Any, data: Any, splits: Any, function: Any, **_: Any) -> None:
        self.images, self.classes = data.train_images, data.class_count

    def fit(self, train_index: Any, labels: Any, **_: Any) -> "NearestMean":
        chosen = self.images[train_index].reshape(len(labels), -1).astype(float)
        self.means = np.stack([chosen[labels == label].mean(axis=0) for label in range(self.classes)])
        return self

    def probabilities(self, images: Any, *, round_: int, purpose: Purpose) -> Any:
        distances = np.linalg.norm(images.reshape(len(images), 1, -1) - self.means, axis=2) / 1000
        exponents = np.exp(-distances + distances.min(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def evidence(self, candidates: Any, labelled: Any, function: Any, *, round_: int) -> Evidence:
        probs_nc = self.probabilities(self.images[candidates], round_=round_, purpose=Purpose.SCORING_PASSES)
        return Evidence(count=len(candidates), probs_tnc=probs_nc[np.newaxis])

    def resume(self, weight_decay: float, tuned_at: int) -> None: ...

    def take(self, weights: Any) -> None: ...

    def weights(self) -> Any:
        return {}


class OneLayer(nn.Module):
    """A network of one convolution and one dense layer, with whole channels dropped between them."""

    decayed = "output.weight"

    def __init__(
        self, image_shape: Any, class_count: int, *, seed: int, initialisation: Any, pixel_mean: Any, pixel_std: Any
    ) -> None:
        super().__init__()
        self.dropouts = (Dropout((4, 1, 1), 0.5),)
        self.first, self.output = nn.Conv2d(image_shape[0], 4, 3), nn.Linear(4, class_count)
        draw_weights((self.first, self.output), initialisation, seed)
        self.mask_with(seed + 1)

    def mask_with(self, seed: int) -> None:
        self.masks = RandomMasks(seed)

    def features(self, images: Any) -> Any:
        return functional.relu(self.first(images.float() / 255))

    def head(self, features: Any, kept: Any = None) -> Any:
        masks = self.masks if self.training else None
        x = dropped(features, self.dropouts[0], None if kept is None else kept[0], masks)
        return self.output(x.mean(dim=(2, 3)))

    def forward(self, images: Any) -> Any:
        return self.head(self.features(images))


@pytest.fixture
def dummies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "dummies", tiny.SPECS["tiny"])
    function = AcquisitionFunction(
        name="spread", label="Spread", colour="#123456", marker="$x$", values="rank", select=spread
    )
    monkeypatch.setitem(ACQUISITION_FUNCTIONS, "spread", function)
    kind = LearnerKind(
        name="nearest_mean", text="the nearest mean", gives=frozenset({"probabilities"}), suffix="nearest_mean",
        label="nearest mean", dashes=(3, 1), made_by="tests.test_registries:NearestMean",
    )  # fmt: skip
    monkeypatch.setitem(LEARNERS, "nearest_mean", kind)
    network = NetworkKind(name="one_layer", text="one convolution", made_by="tests.test_registries:OneLayer")
    monkeypatch.setitem(NETWORKS, "one_layer", network)


FLAGS = [
    *("--dataset=dummies", "--query=4", "--epochs=1", "--min_steps=0", "--dropout_iter=3", "--pool_subset=50"),
    *("--weight_decay=0", "--val_size=10", "--experiments=1", "--precision=float32", "--jobs=1"),
]


@pytest.mark.usefixtures("dummies")
@pytest.mark.parametrize(
    ("learner", "network"), [("bayesian", "gal"), ("bayesian", "one_layer"), ("nearest_mean", "gal")]
)
def test_dummies_run_resume_and_are_reported(tmp_path: Path, learner: str, network: str) -> None:
    flags = [*FLAGS, "--acq_func", "spread", "--learner", learner, "--network", network]
    assert main([*flags, "--rounds=3", "--result_dir", str(tmp_path / "whole")]) == 0
    for rounds in (1, 3):
        assert main([*flags, f"--rounds={rounds}", "--result_dir", str(tmp_path / "stopped")]) == 0
    for path in sorted((tmp_path / "whole").rglob("*.npy")):
        assert path.read_bytes() == (tmp_path / "stopped" / path.relative_to(tmp_path / "whole")).read_bytes()
    (arm,) = read_results(tmp_path / "whole").arms
    assert (arm.learner, arm.label) == (learner, "Spread" + ", nearest mean" * (learner == "nearest_mean"))
    assert arm.label in (tmp_path / "whole" / "report" / "index.html").read_text(encoding="utf-8")
    engine = arm.runs[0].sessions[-1].get("engine")
    assert (engine == "torch, the whole head") == (network == "one_layer")
    again = planned_runs(read_flags(command(arm.runs[0], 1, [arm]).split()[2:]), "float32", "cpu")
    assert [run.identity() for run in again] == [arm.runs[0].configuration]
    assert "#123456" in (tmp_path / "whole" / "report" / "figures" / "test_error.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_runs_on_a_small_set_in_colour_to_its_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: str
) -> None:
    monkeypatch.setitem(DATASETS, "tiny_colour", tiny.SPECS["tiny_colour"])
    functions = ["bald"] if network == "resnet18" else ["bald", "badge", "epig"]  # it is slow without a GPU
    flags = [*TINY, "--dataset=tiny_colour", "--experiments=1", f"--network={network}", "--acq_func", *functions]
    flags += ["--rounds=1"]
    assert main([*flags, "--result_dir", str(tmp_path / "whole")]) == 0
    for rounds in (0, 1):
        assert main([*flags, f"--rounds={rounds}", "--result_dir", str(tmp_path / "stopped")]) == 0
    for path in sorted((tmp_path / "whole").rglob("*.npy")):
        assert path.read_bytes() == (tmp_path / "stopped" / path.relative_to(tmp_path / "whole")).read_bytes()
    page = (tmp_path / "whole" / "report" / "index.html").read_text(encoding="utf-8")
    assert "tiny_colour" in page
    assert page.count("data:image/png") >= len(functions)  # the acquired images themselves


@pytest.mark.usefixtures("dummies")
def test_what_a_learner_does_not_give_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, "--learner", "nearest_mean", "--acq_func", "mbr", "--result_dir", str(tmp_path)]
    assert main(flags) == 2
    assert capsys.readouterr().err == (
        "main.py: error: --acq_func mbr needs field, which the learner nearest_mean does not give: take --learner "
        "bayesian or deterministic or field, or take another function.\n"
    )
    assert main([*FLAGS, "--learner", "bayes", "--result_dir", str(tmp_path)]) == 2
    assert "--learner 'bayes' is not known (did you mean 'bayesian'?): choose one of" in capsys.readouterr().err


def test_help_names_every_entry() -> None:
    printed = " ".join(make_parser().format_help().split())
    assert all(f"{kind.name}: {kind.text}" in printed for kind in LEARNERS.values())
    assert all(function.name in printed for function in ACQUISITION_FUNCTIONS.values())
    assert all(name in printed for name in DATASETS)
    assert all(f"{kind.name}: {kind.text}" in printed for kind in NETWORKS.values())
    assert subprocess.run([sys.executable, "main.py", "--help"], capture_output=True, check=True).stdout
