"""Which runs an experiment has, and each preset as a tiny real run that is stopped and taken up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ExperimentConfig
from active_learning.settings.flags import read_flags
from tests.conftest import ROOT, Tiny

PRESETS = {path.stem: path for path in (ROOT / "active_learning" / "presets").glob("*.yaml")}
FIVE = ["uniform", "max_entropy", "bald", "var_ratios", "mean_std"]

CURVES = {
    "experiment_1": {f"{name}-MC_dropout=True" for name in FIVE},
    "experiment_2": {f"{name}-MC_dropout={on}" for name in FIVE[1:] for on in (True, False)},
    "experiment_3": {f"{name}-MC_dropout=True" for name in [*FIVE, "mbr"]} | {"mbr-field"},
    "experiment_4": {f"{name}-MC_dropout=True" for name in FIVE},
    "paper": {f"{name}-MC_dropout=True" for name in FIVE},
    "authors": {"bald-MC_dropout=True", "var_ratios-MC_dropout=True"},
    "frugal": {"var_ratios-MC_dropout=True", "uniform-MC_dropout=True"},
    "batch_bald": {"bald-MC_dropout=True", "batch_bald-MC_dropout=True"},
}


def test_every_experiment_has_a_preset() -> None:
    assert set(PRESETS) == set(CURVES)


@pytest.mark.parametrize("name", CURVES)
def test_a_preset_plans_the_experiment_in_full(name: str) -> None:
    config = read_flags(["--config", str(PRESETS[name])])
    runs = planned_runs(config, "float32", "cpu")
    assert {run.name for run in runs} == CURVES[name]
    assert len(runs) == len(set(runs)) == config.experiments * len(CURVES[name])
    assert [run.repetition for run in runs] == sorted(run.repetition for run in runs)
    assert config.result_dir == Path("result_npy") / name


def test_a_flag_takes_back_the_images_that_a_file_names(tmp_path: Path) -> None:
    preset = ["--config", str(PRESETS["batch_bald"])]
    assert len(read_flags(preset).initial_images) == 20
    (tmp_path / "drawn.yaml").write_text("initial_images: drawn\nclasses: all\nimbalance: none\n")
    for flags in (["--initial_images", "drawn", "--classes", "all"], ["--config", str(tmp_path / "drawn.yaml")]):
        config = read_flags([*preset, *flags])
        assert (config.initial_images, config.classes, config.imbalance) == ((), (), ())


def test_the_default_folder_has_a_name_that_file_systems_take() -> None:
    words = ["--dataset", "emnist_balanced", "--imbalance", *["0.12345"] * 47]
    folder, other = (read_flags([*words, "--seed", seed]).result_dir for seed in ("1", "2"))
    assert folder is not None
    assert folder.parent == Path("result_npy")
    assert folder.name.startswith("emnist_balanced-")
    assert len(folder.name.encode()) < 255
    assert folder != other


def test_the_papers_preset_is_what_main_does_without_flags() -> None:
    paper, without = (read_flags(words) for words in (["--config", str(PRESETS["paper"])], []))
    assert paper.acquisitions == without.acquisitions
    assert replace(paper, acq_func=without.acq_func, result_dir=without.result_dir) == without


@pytest.mark.parametrize("name", CURVES)
def test_a_preset_runs(tiny_main: Tiny, tmp_path: Path, name: str) -> None:
    functions = read_flags(["--config", str(PRESETS[name])]).acquisitions  # which the tiny run's own flag hides
    preset = ["--config", PRESETS[name], "--experiments", 1, "--precision", "float32", "--acq_func", *functions]
    preset += ["--val_size", 20] if name in ("experiment_4", "batch_bald") else []
    if name == "batch_bald":  # its network takes no image of 12 pixels, and its start is of MNIST
        preset += ["--dataset", "tiny_colour", "--initial_images", *range(6), "--epochs", 2, "--epoch_images", 90]
    # the flags of `tiny_main` name functions, and flags win over a file
    preset += ["--acq_func", *read_flags(["--config", str(PRESETS[name])]).acquisitions]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tiny_main(*preset, "--rounds", 2, "--result_dir", whole) == 0
    for rounds in (1, 2):
        assert tiny_main(*preset, "--rounds", rounds, "--result_dir", stopped) == 0
    names = {path.name for path in whole.glob("*.npy")}
    assert names == {f"{curve}{what}.npy" for curve in CURVES[name] for what in ("", "-repetitions")}
    for path in whole.rglob("*.npy"):
        assert path.read_bytes() == (stopped / path.relative_to(whole)).read_bytes()
    for curve in CURVES[name]:
        assert np.load(whole / f"{curve}.npy").shape == (3,)


def test_the_graph_of_minimum_bayes_risk_is_no_part_of_other_runs() -> None:
    preset = ["--config", str(PRESETS["experiment_3"])]
    zhu, dense = (
        planned_runs(read_flags([*preset, *flags]), "float32", "cpu") for flags in ([], ["--mbr_neighbours", "0"])
    )
    for one, other in zip(zhu, dense, strict=True):
        assert (one == other) == (one.acquisition != "mbr")


def test_what_came_later_is_not_in_older_records() -> None:
    """Published records have none of these fields, and must stay valid."""
    identity = planned_runs(ExperimentConfig(), "float32", "cpu")[0].identity()
    assert not {"classes", "initial_per_class", "classifier", "mbr_neighbours", "mbr_sigma", "rounds"} & set(identity)
    assert not {"initial_images", "epoch_images"} & set(identity)
    assert {"weight_decay", "warm_start", "query", "threads"} <= set(identity)


def test_classes_are_part_of_a_run_as_json_has_them() -> None:
    config = ExperimentConfig(classes=(2, 8), initial_per_class=10, mbr=True, mbr_sigma="tune")
    identity = planned_runs(config, "float32", "cpu")[-1].identity()
    expected = {"classes": [2, 8], "initial_per_class": 10, "classifier": "field", "mbr_sigma": "tune"}
    assert expected.items() <= identity.items()
