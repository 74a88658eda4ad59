"""The time left against what recorded runs took, and what is said where little is known."""

import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from active_learning.disk.record import Round, read_record
from active_learning.disk.store import RunFolder, recorded_run
from active_learning.work.estimate import _training, time_left
from tests.conftest import ROOT
from tests.result_folders import run_config


def recorded() -> list[RunFolder]:
    """The committed runs of 30 rounds and more, and none of a reader's own."""
    found = []
    listed = subprocess.run(["git", "ls-files", "result_npy"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in listed.stdout.splitlines() if line.endswith("/metrics.jsonl")]
    for path in sorted((ROOT / line).parent for line in lines):
        record = read_record(path)
        run = recorded_run(record.configuration, len(record.rounds) - 1)
        if run is not None and len(record.rounds) > 30:
            found.append(RunFolder(path.parents[2], run))
            found[-1].load(any_configuration=True)
    return [folder for folder in found if all("test" in row for row in folder.seconds)]


def seconds_of_rounds(folder: RunFolder) -> list[float]:
    return [sum(row.values()) - row["round"] for row in folder.seconds]


def was_steady(folder: RunFolder) -> bool:
    """Whether the machine had as much else to do all the time: the test, which is alike in all rounds, says so.

    So do fits, by what each trains. Most of the recorded runs are not steady: what their load was going to be, nobody
    could tell.
    """
    tests = np.convolve([row["test"] for row in folder.seconds[1:]], np.ones(5) / 5, "valid")
    if not all("fit" in row for row in folder.seconds):  # the field of Minimum Bayes Risk is not trained
        return False
    fits = [row["fit"] for row in folder.seconds[1:]]
    stood_still = max(fits) > 4 * np.quantile(fits, 0.9)  # for some rounds, as a machine that sleeps
    plain = [(row["fit"], r.labelled) for r, row in zip(folder.rounds, folder.seconds, strict=True) if row["fit"] > 1]
    paces = [seconds / _training(folder.config, labelled) for seconds, labelled in plain]
    means = np.convolve(paces, np.ones(5) / 5, "valid") if len(paces) > 10 else np.ones(1)
    return bool(tests.max() < 1.3 * tests.min() and not stood_still and means.max() < 1.3 * means.min())


def cut(folder: RunFolder, rounds: int) -> RunFolder:
    """A run as it was after its first rounds."""
    before = RunFolder(Path("nowhere"), folder.config)
    before.rounds, before.seconds = folder.rounds[:rounds], folder.seconds[:rounds]
    return before


def test_the_time_left_is_right_to_a_quarter_from_round_10_on_where_the_load_is_steady() -> None:
    folders = [folder for folder in recorded() if was_steady(folder)]
    assert len(folders) >= 20
    assert len({len(folder.rounds) for folder in folders}) > 2, "of several lengths"
    for folder in folders:
        took, count = seconds_of_rounds(folder), len(folder.rounds)
        for rounds in range(10, count - count // 10):  # in the last tenth single rounds decide
            told = time_left([cut(folder, rounds)], 1)
            assert told is not None
            ratio = told.total_seconds() / sum(took[rounds:])
            assert 0.75 <= ratio <= 1.25, (folder.path.relative_to(ROOT), rounds, ratio)


def test_epochs_of_more_images_than_are_labelled_train_as_much_on_few_as_on_many() -> None:
    run = run_config(epochs=30, min_steps=0, batch_size=64, epoch_images=5056)
    assert _training(run, 20) == _training(run, 300) < _training(run, 6000)


def test_a_repetition_that_has_not_begun_takes_what_a_finished_one_took() -> None:
    folders = {folder.path.relative_to(ROOT): folder for folder in recorded()}
    path = Path("result_npy/experiment_1/runs/bald-MC_dropout=True/repetition_1")
    done = folders[path]
    next_one = RunFolder(Path("nowhere"), run_config(**{**vars(done.config), "repetition": 2}))
    told = time_left([done, next_one], 1)
    assert told is not None
    assert told.total_seconds() == pytest.approx(sum(seconds_of_rounds(done)), rel=0.25)
    assert time_left([done, next_one], 5) == told, "one run is not faster beside others"


def folder_of(rounds: int, seconds: list[dict[str, Any]], **config: Any) -> RunFolder:
    folder = RunFolder(Path("nowhere"), run_config(rounds=rounds, weight_decay=1.0, **config))
    fields: dict[str, Any] = {"weight_decay": 1.0, "weight_decay_tuned": False, "test_error": 0.5}
    fields |= {"acquired_train_index": (), "acquired_scores": (), "acquired_labels": ()}
    folder.rounds = [Round(round=n, labelled=20 + 10 * n, **fields) for n in range(len(seconds))]
    folder.seconds = [{"round": n, **row} for n, row in enumerate(seconds)]
    return folder


def test_what_is_told_where_little_is_known() -> None:
    assert time_left([folder_of(4, [])], 1) is None
    assert time_left([folder_of(4, [{"fit": 1.0}])], 1) is None, "the first round has much to make"
    field = folder_of(4, [{"fit": 0.0, "score": 60.0}, {"fit": 0.0, "score": 10.0}], learner="field")
    assert time_left([field], 1) == timedelta(seconds=30)
    other = folder_of(1, [], learner="deterministic")
    assert time_left([field, other], 2) == timedelta(seconds=30)
    assert time_left([field, other], 1) == timedelta(seconds=50)
    before = RunFolder(Path("nowhere"), run_config())
    before.rounds, before.seconds = field.rounds, [{}, {}]  # seconds that are damaged
    assert time_left([before], 1) is None
