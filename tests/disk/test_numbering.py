"""With `--classes`, everything that leaves the program speaks of the data set's own images and labels."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from active_learning.disk.files import StoreError
from active_learning.disk.numbering import Numbering
from active_learning.disk.record import read_chain
from active_learning.disk.renumber import main
from active_learning.disk.store import RunFolder
from active_learning.loop import active_learning_rounds
from active_learning.report.gallery import make_gallery
from active_learning.report.results import read_results
from active_learning.report.summary import summarise
from active_learning.report.write import write_report
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ExperimentConfig
from benchmarks import tiny
from load_data import DATASETS, kept_train_index, load_data, select_classes
from tests.conftest import ROOT, TINY, Tiny
from tests.result_folders import chained
from tests.work.test_runner import contents

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = (8, 2)  # not in order, so that a label is no rank
REDUCED = ("--classes", *CLASSES, "--experiments", 1)


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "tiny", tiny.SPECS["tiny"])


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/*/metrics.jsonl"))


def unmarked(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("sha256", "numbering")}


def make_old(folder: Path) -> None:
    """Turn records into what earlier versions wrote: images and labels counted among those that were kept."""
    kept = np.flatnonzero(np.isin(load_data("tiny").train_labels, CLASSES)).tolist()
    for path in records(folder):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rows: list[dict[str, Any]] = [
            {k: v for k, v in row.items() if k not in ("sha256", "numbering")} for row in lines
        ]
        for row in rows[1:]:
            row["acquired_train_index"] = [kept.index(index) for index in row["acquired_train_index"]]
            row["acquired_labels"] = [CLASSES.index(label) for label in row["acquired_labels"]]
        path.write_bytes(chained(rows))
        np.save(path.with_name("acquired.npy"), np.array([row["acquired_train_index"] for row in rows[2:]]))


def test_acquired_images_are_those_of_the_data_set(tiny_main: Tiny, tmp_path: Path) -> None:
    assert tiny_main("--result_dir", tmp_path, *REDUCED) == 0
    labels = load_data("tiny").train_labels
    assert len(records(tmp_path)) == 2
    for path in records(tmp_path):
        header, rows, whole = read_chain(path)
        assert whole
        assert header is not None
        assert header["numbering"] == "dataset"
        acquired = np.load(path.with_name("acquired.npy"))
        assert set(labels[acquired].ravel()) <= set(CLASSES)
        assert [row["acquired_labels"] for row in rows[1:]] == labels[acquired].tolist()
        assert [row["acquired_train_index"] for row in rows[1:]] == acquired.tolist()


def test_the_run_itself_counts_as_before(tiny_main: Tiny, tmp_path: Path) -> None:
    """The oracle is the loop on the reduced data, which knows nothing of the whole."""
    assert tiny_main("--result_dir", tmp_path, *REDUCED) == 0
    from active_learning.settings.flags import read_flags

    config = read_flags([*TINY, *map(str, REDUCED)])
    whole = load_data("tiny")
    data, kept = select_classes(whole, CLASSES), kept_train_index(whole.train_labels, CLASSES)
    np.testing.assert_array_equal(data.train_images, whole.train_images[kept])
    for run in planned_runs(config, "float32", "cpu"):
        folder = RunFolder(tmp_path, run)
        folder.load()
        for row, result in zip(folder.rounds, active_learning_rounds(run, data), strict=True):
            assert row.acquired_train_index == tuple(kept[list(result.acquired_train_index)].tolist())
            assert row.acquired_labels == tuple(CLASSES[label] for label in result.acquired_labels)
            assert (row.test_error, row.test_nll) == (result.test_error, result.test_nll)
            assert row.acquired_scores == result.acquired_scores


def test_a_record_without_classes_is_what_it_always_was(tiny_main: Tiny, tmp_path: Path) -> None:
    assert tiny_main("--result_dir", tmp_path, "--experiments", 1) == 0
    assert all(
        set(json.loads(path.read_bytes().splitlines()[0])) == {"configuration", "sha256"} for path in records(tmp_path)
    )
    before = contents(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert contents(tmp_path) == before


@pytest.mark.parametrize("also", [(), ("--warm_start",)])
def test_a_run_of_before_goes_on_to_the_bytes_of_one_go(tiny_main: Tiny, tmp_path: Path, also: tuple[str, ...]) -> None:
    assert tiny_main("--result_dir", tmp_path / "at_once", *REDUCED, *also) == 0
    assert tiny_main("--result_dir", tmp_path / "old", *REDUCED, *also, "--rounds", 1) == 0
    make_old(tmp_path / "old")
    assert tiny_main("--result_dir", tmp_path / "old", *REDUCED, *also) == 0
    assert contents(tmp_path / "old") == contents(tmp_path / "at_once")


def test_a_finished_run_of_before_stays_as_it_is_and_is_read_as_what_it_is(tiny_main: Tiny, tmp_path: Path) -> None:
    for name in ("old", "new"):
        assert tiny_main("--result_dir", tmp_path / name, *REDUCED) == 0
    make_old(tmp_path / "old")
    before = contents(tmp_path / "old")
    assert tiny_main("--result_dir", tmp_path / "old", *REDUCED) == 0
    assert contents(tmp_path / "old") == before
    assert before != contents(tmp_path / "new")
    old, new = read_results(tmp_path / "old"), read_results(tmp_path / "new")
    assert not old.unreadable + new.unreadable
    assert [run.labels for run in old.runs] == [run.labels for run in new.runs]
    galleries = [make_gallery(results, None) for results in (old, new)]
    pictures = [
        [(i.train_index, i.label, i.uri) for arm in gallery.arms for r in arm.rounds for i in r.images]
        for gallery in galleries
    ]
    assert len(pictures[0]) == 16
    assert pictures[0] == pictures[1]


def test_the_page_names_images_as_the_data_set_does(tiny_main: Tiny, tmp_path: Path) -> None:
    assert tiny_main("--result_dir", tmp_path, *REDUCED) == 0
    labels = load_data("tiny").train_labels
    page = write_report(summarise(read_results(tmp_path))).page.read_text(encoding="utf-8")
    named = re.findall(r"training image (\d+), class (\d+)", page)
    assert len(named) == 16
    assert all(labels[int(index)] == int(label) for index, label in named)


def test_the_command_rewrites_what_earlier_versions_wrote(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, *REDUCED) == 0
    expected = contents(tmp_path)
    make_old(tmp_path)
    capsys.readouterr()
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 2 of 2 records rewritten.\n"
    assert contents(tmp_path) == expected
    assert "record was rewritten" in records(tmp_path)[0].with_name("provenance.json").read_text()
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0 of 2 records rewritten.\n"


def test_a_record_of_other_images_is_left_alone(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, *REDUCED) == 0
    for path in records(tmp_path):  # as if it were of before: its indices are beyond the images that were kept
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_bytes(chained([unmarked(row) for row in rows]))
    before = contents(tmp_path, "runs/*/*/metrics.jsonl")
    capsys.readouterr()
    assert main([str(tmp_path)]) == 1
    assert "names images that are not those of tiny: it is left as it is." in capsys.readouterr().err
    assert contents(tmp_path, "runs/*/*/metrics.jsonl") == before


def test_the_command_refuses_what_is_no_result_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_record_of_before_takes_no_round_of_now(tiny_main: Tiny, tmp_path: Path) -> None:
    results = tmp_path / "my results"
    assert tiny_main("--result_dir", results, *REDUCED, "--rounds", 1) == 0
    make_old(results)
    run = planned_runs(
        ExperimentConfig(dataset="tiny", classes=CLASSES, query=4, val_size=10, rounds=2), "float32", "cpu"
    )
    folder = RunFolder(results, next(one for one in run if one.acquisition == "bald"))
    folder.load(any_configuration=True)
    with pytest.raises(StoreError, match=r"did: python -m active_learning\.disk\.renumber '.*/my results' rewrites it"):
        folder.append(folder.rounds[1].model_copy(update={"round": 2}))


def test_numbers_that_are_of_no_kept_image_are_refused() -> None:
    numbering = Numbering.of(np.array([8, 0, 2, 2, 1]), CLASSES)
    assert numbering.of_dataset([0, 2], [0, 1]) == ([0, 3], [8, 2])
    assert numbering.of_run([0, 3], [8, 2]) == ([0, 2], [0, 1])
    assert numbering.of_run([], []) == numbering.of_dataset([], []) == ([], [])
    for index in (1, 4, 9):
        with pytest.raises(ValueError, match="none of the classes"):
            numbering.of_run([index], [2])
    with pytest.raises(ValueError, match="3 images"):
        numbering.of_dataset([3], [0])


def test_committed_records_count_the_images_of_their_data_set() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "result_npy"], capture_output=True, text=True)
    committed = [ROOT / name for name in listed.stdout.splitlines() if name.endswith("metrics.jsonl")]
    if not committed:
        pytest.skip("no results are committed, or this is no checkout")
    for path in committed:
        header, rows, whole = read_chain(path)
        assert whole
        assert header is not None
        assert ("numbering" in header) == bool(header["configuration"].get("classes"))
        acquired = [row["acquired_train_index"] for row in rows[1:]]
        np.testing.assert_array_equal(np.load(path.with_name("acquired.npy")), acquired)
        if "numbering" in header:
            shown = {label for row in rows for label in row["acquired_labels"]}
            assert shown == set(header["configuration"]["classes"])


MNIST = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not (MNIST / "MNIST").is_dir(), reason="MNIST is not here")
def test_committed_images_have_in_mnist_the_labels_that_were_recorded() -> None:
    labels = load_data("mnist", MNIST).train_labels
    for path in sorted(ROOT.glob("result_npy/experiment_3/runs/*/*/metrics.jsonl")):
        _, rows, _ = read_chain(path)
        for row in rows:
            assert labels[row["acquired_train_index"]].tolist() == row["acquired_labels"]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "active_learning.disk.renumber", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--data_dir" in ended.stdout
