"""Minimum Bayes Risk inside a run: which images are nodes, which labels are told, and that a run can be taken up."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.disk.record import Round
from active_learning.interruption import NOBODY, Watch
from active_learning.loop import active_learning_rounds
from active_learning.models import field as run_field
from active_learning.models.field import SIGMA_GRID, RunField, check_length_scale
from active_learning.models.mbr import (
    ZHU_NEIGHBOURS,
    ZHU_SIGMA,
    GaussianRandomField,
    LengthScaleError,
    choose_sigma,
    harmonic_extension,
    harmonic_function,
    rbf_weights,
)
from active_learning.settings.config import ConfigError, RunConfig
from active_learning.settings.learners import LEARNERS
from active_learning.streams import Purpose, stream
from load_data import ImageData, Splits, split_training_set
from tests.conftest import Tiny
from tests.test_loop import make_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIGMA = 900.0


@pytest.fixture(scope="module")
def data() -> ImageData:
    rng = np.random.default_rng(3)
    labels = np.arange(150) % 2
    images = rng.integers(200, size=(150, 1, 12, 12), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * label : 5 * label + 5] += rng.integers(56, dtype=np.uint8)
    return ImageData(images[:100], labels[:100], images[100:], labels[100:], 2, (0.3,), (0.2,))


def config(**settings: Any) -> RunConfig:
    chosen = {"acquisition": "mbr", "learner": "field", "mbr_sigma": SIGMA, "rounds": 3}
    return make_config(**{**chosen, "mbr_neighbours": 7, "initial_per_class": 3, **settings})


def splits_of(data: ImageData, config: RunConfig) -> Splits:
    rng = stream(config.seed, config.repetition, 0, Purpose.SPLIT)
    return split_training_set(data.train_labels, config.val_size, rng, initial_per_class=config.initial_per_class)


def field_of(data: ImageData, config: RunConfig, splits: Splits, acquired: Any = ()) -> RunField:
    field = RunField(config, data, splits, NOBODY)
    train_index = np.array([*splits.initial, *acquired], dtype=np.int64)
    field.tell(train_index, data.train_labels[train_index])
    return field


def run(data: ImageData, finished: list[Round] | None = None, **settings: Any) -> list[Round]:
    return list(active_learning_rounds(config(**settings), data, finished or []))


def test_the_defaults_are_zhus() -> None:
    assert (config_default("mbr_sigma"), config_default("mbr_neighbours")) == (ZHU_SIGMA, ZHU_NEIGHBOURS)
    assert ZHU_SIGMA in SIGMA_GRID


def config_default(name: str) -> object:
    return next(entry.default for entry in dataclasses.fields(RunConfig) if entry.name == name)


@pytest.mark.parametrize("neighbours", [0, 7])
def test_each_round_is_tested_with_the_harmonic_function_of_its_labels(data: ImageData, neighbours: int) -> None:
    results = run(data, mbr_neighbours=neighbours)
    splits = splits_of(data, config())
    nodes = [*splits.initial, *splits.pool]
    graph = {"sigma": SIGMA, "neighbours": neighbours or None}
    labelled = [*splits.initial]
    for result in results:
        labelled += result.acquired_train_index
        assert result.labelled == len(labelled) == len(set(labelled))
        images = data.train_images[nodes]
        positions = [nodes.index(index) for index in labelled]
        probs_n = harmonic_function(rbf_weights(images, **graph), positions, data.train_labels[labelled])  # type: ignore[arg-type]
        guessed = harmonic_extension(images, probs_n, data.test_images, **graph) > 0.5  # type: ignore[arg-type]
        assert result.test_error == (guessed != data.test_labels).mean()
        assert result.acquired_labels == tuple(data.train_labels[list(result.acquired_train_index)])
        assert not set(labelled) & set(splits.validation)


def test_scores_are_minus_the_expected_risk_of_a_greedy_batch(data: ImageData) -> None:
    first = run(data)[1]
    field = field_of(data, config(), splits_of(data, config()))._field
    nodes, risks = field.query_with_risks(config().query)
    assert first.acquired_scores == tuple(-risks)
    assert risks[0] == field.expected_risk().min()
    assert len(nodes) == len(set(nodes)) == config().query


def test_labels_of_the_pool_are_not_seen_before_they_are_paid_for(data: ImageData) -> None:
    """All labels that a round has not bought before it, its own included, are turned round: it acquires the same."""
    results = run(data)
    splits = splits_of(data, config())
    bought: list[int] = []
    for result in results[1:]:
        known = np.isin(np.arange(100), [*splits.initial, *bought])
        hidden = dataclasses.replace(data, train_labels=np.where(known, data.train_labels, 1 - data.train_labels))
        index, risks = field_of(hidden, config(), splits, bought).query(config().query)
        assert tuple(index) == result.acquired_train_index
        assert tuple(-risks) == result.acquired_scores
        bought += result.acquired_train_index


def test_validation_images_are_no_nodes(data: ImageData) -> None:
    splits = splits_of(data, config())
    images = data.train_images.copy()
    images[splits.validation] = 255 - images[splits.validation]
    other = dataclasses.replace(data, train_images=images)
    np.testing.assert_array_equal(
        field_of(data, config(), splits).query(20)[0], field_of(other, config(), splits).query(20)[0]
    )


@pytest.mark.parametrize("learner", ["field", "bayesian", "deterministic"])
@pytest.mark.parametrize("finished", [1, 2, 4])
def test_a_run_is_taken_up_to_the_same_bytes(data: ImageData, learner: str, finished: int) -> None:
    whole = run(data, learner=learner)
    assert run(data, whole[:finished], learner=learner) == whole[finished:]


def test_both_classifiers_are_given_the_same_images(data: ImageData) -> None:
    by_field, by_cnn = run(data), run(data, learner="bayesian")
    assert [r.acquired_train_index for r in by_field] == [r.acquired_train_index for r in by_cnn]
    assert [r.test_error for r in by_field] != [r.test_error for r in by_cnn]
    assert {r.weight_decay_tuned for r in run(data, weight_decay="tune")} == {False}
    assert run(data, learner="bayesian", weight_decay="tune")[0].weight_decay_tuned


def test_the_length_scale_is_chosen_on_the_validation_set(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = (300.0, 600.0, 1200.0)
    monkeypatch.setattr(run_field, "SIGMA_GRID", grid)
    splits = splits_of(data, config())
    nodes = np.sort([*splits.initial, *splits.pool])
    chosen, _ = choose_sigma(
        data.train_images[nodes],
        np.searchsorted(nodes, splits.initial),
        data.train_labels[splits.initial],
        data.train_images[splits.validation],
        data.train_labels[splits.validation],
        grid,
        neighbours=7,
    )
    tuned = run(data, mbr_sigma="tune")
    assert tuned == run(data, mbr_sigma=chosen)
    assert tuned != run(data, mbr_sigma=next(sigma for sigma in grid if sigma != chosen))


def test_a_signal_is_heard_between_two_questions(data: ImageData) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(active_learning_rounds(config(), data, watch=Watch(stop)))


def test_a_sigma_that_underflows_is_refused_with_advice(data: ImageData) -> None:
    advice = r"try a larger --mbr_sigma or more --mbr_neighbours\)$"
    with pytest.raises(LengthScaleError, match=r"every weight of the graph is 0.*" + advice):
        field_of(data, config(mbr_sigma=1.0), splits_of(data, config()))


def test_images_that_no_label_reaches_are_refused_if_most_and_told_if_some(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    splits = splits_of(data, config())
    unlabelled = len(splits.pool)

    def field_with(unreached: int) -> None:
        monkeypatch.setattr(GaussianRandomField, "unreached", unreached)
        RunField(config(), data, splits, Watch(note=told.append))

    field_with(0)
    assert told == []
    field_with(unlabelled // 2)
    assert told == [
        f"{unlabelled // 2} of {unlabelled} unlabelled images have no path to a label in the graph: their probability "
        "is 0.5 until one of their part of the graph is labelled (try a larger --mbr_sigma or more --mbr_neighbours)"
    ]
    with pytest.raises(LengthScaleError, match="have no path to a label in the graph, and the field knows nothing"):
        field_with(unlabelled // 2 + 1)


def test_a_length_scale_is_checked_before_any_run(data: ImageData) -> None:
    images = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    images[:, 0, 0, 0] = [0, 30, 70, 120]
    check_length_scale(35, images)
    with pytest.raises(ConfigError) as refused:
        check_length_scale(1, images)
    assert str(refused.value) == (
        "--mbr_sigma 1 is too small for these images, which are 35 from their nearest (median, pixels of 0 to 255): "
        "most weights would be 0; try 380, or tune."
    )


def test_the_program_refuses_such_a_sigma_with_code_2(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--classes", 2, 8, "--mbr", "--mbr_neighbours", 3)
    assert tiny_main(*flags, "--mbr_sigma", 1) == 2
    assert "--mbr_sigma 1 is too small for these images, which are " in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))


PAIRS = [
    (function.name, kind.name)
    for function in ACQUISITION_FUNCTIONS.values()
    for kind in LEARNERS.values()
    if function.needs <= kind.gives
]


@pytest.mark.parametrize(("acquisition", "learner"), PAIRS)
def test_every_function_runs_with_every_learner_that_gives_what_it_needs(
    data: ImageData, acquisition: str, learner: str
) -> None:
    results = run(data, acquisition=acquisition, learner=learner, rounds=2, pool_subset=20)
    acquired = [index for result in results for index in result.acquired_train_index]
    assert len(set(acquired)) == 2 * config().query
    assert run(data, results[:2], acquisition=acquisition, learner=learner, rounds=2, pool_subset=20) == results[2:]
