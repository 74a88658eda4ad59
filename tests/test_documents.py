"""What the documents name is in git."""

import re
import subprocess
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from numpy.typing import NDArray

from active_learning.report.cited_figures import cited_figures
from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
FOLDERS = ("result_npy", "active_learning", "benchmarks", "tests", "docs")
PATH = re.compile(rf"(?<![\w./-])(?:(?:{'|'.join(FOLDERS)})/[\w./=-]*|[\w-]+\.(?:py|ipynb|toml|txt))(?![\w/])")
OWN = (
    "quick_start",
    "DATASET",
    "mnist",
    "mnist/report/index.html",
    "mnist-lr=0.01",
    "paper",
    "again_1",
    "again_2",
    "again_3",
    "again_4",
    "again_frugal",
)
WRITTEN_FOR_ONESELF = {f"result_npy/{name}" for name in OWN}
"""Folders that the documents have a user make."""


def named(text: str) -> set[str]:
    """The paths that a text names, from the top of the repository."""
    return {path.rstrip("./") for path in PATH.findall(text)} - WRITTEN_FOR_ONESELF


@pytest.mark.parametrize("experiment", ["experiment_1", "experiment_4"])
def test_what_is_said_of_max_entropy_is_so(experiment: str) -> None:
    """What docs/experiments.md says of a cell that is above, from the committed curves."""
    curves_er = 100 * np.load(ROOT / "result_npy" / experiment / "max_entropy-MC_dropout=True-repetitions.npy")
    last_e = curves_er[:, -1]
    cited = cited_figures().test_errors
    paper, other = (100 * cited[source]["max_entropy"] for source in ("paper", "reimplementation"))
    spread = last_e.std(ddof=1)
    excess = last_e.mean() - paper
    assert excess <= 0 if experiment == "experiment_1" else 0 < excess < spread / 10
    assert 0 < last_e.mean() - other < spread / 2
    assert curves_er[:, -11:].mean() > last_e.mean() - 0.01


def test_what_is_said_of_bald_is_so() -> None:
    curves_er = np.load(ROOT / "result_npy" / "experiment_1" / "bald-MC_dropout=True-repetitions.npy")
    images_e = 10 * (curves_er <= 0.1 + 1e-9).argmax(axis=1)
    theirs = cited_figures().acquired_to_reach["paper"]["bald"][0.1]
    late_e = images_e >= 200
    assert (len(images_e), late_e.sum()) == (10, 2)
    assert 0 < images_e.mean() - theirs < images_e.std(ddof=1) / 4
    assert images_e[~late_e].mean() < theirs
    assert np.median(images_e) < theirs


def curves_of_batchbalds_network(folder: str, function: str) -> NDArray[np.float64]:
    curves_er: NDArray[np.float64] = np.load(
        ROOT / "result_npy" / folder / f"{function}-MC_dropout=True-repetitions.npy"
    )
    return curves_er


@pytest.mark.parametrize(
    ("folder", "function", "labels"),
    [
        ("batch_bald", "bald", [90, 100, 110]),
        ("batch_bald", "batch_bald", [90, 90, 90]),
        ("batch_bald_variants/whole_pool", "bald", [100, 140, 150]),
        ("batch_bald_variants/drawn_starts", "bald", [110, 130, 140]),
        ("batch_bald_variants/drawn_starts", "batch_bald", [120, 120, 140]),
    ],
)
def test_what_is_said_of_batchbalds_network_is_so(folder: str, function: str, labels: list[int]) -> None:
    """The table in docs/experiments.md, from the committed curves."""
    reached_er = curves_of_batchbalds_network(folder, function) <= 0.1 + 1e-9
    assert reached_er.any(axis=1).all()
    assert sorted(20 + 10 * reached_er.argmax(axis=1)) == labels
    row = next(
        line
        for line in (ROOT / "docs" / "experiments.md").read_text().splitlines()
        if f"`result_npy/{folder}`:" in line
    )
    assert ", ".join(map(str, labels)) in row.split("|")[2 if function == "bald" else 3]


def test_what_is_said_of_batchbalds_pool_is_so() -> None:
    whole, part = (
        10 * (curves_of_batchbalds_network(folder, "bald") <= 0.1 + 1e-9).argmax(axis=1)
        for folder in ("batch_bald_variants/whole_pool", "batch_bald")
    )
    assert sorted(whole - part) == [0, 40, 50]


def test_what_is_said_of_batchbalds_start_is_so() -> None:
    for folder, lowest, highest in (("batch_bald", 34, 36), ("batch_bald_variants/drawn_starts", 37, 42)):
        first_e = 100 * curves_of_batchbalds_network(folder, "batch_bald")[:, 0]
        assert (round(first_e.min()), round(first_e.max())) == (lowest, highest)


def in_git() -> set[str]:
    """Every file that git knows, every folder above one, and the files' names alone."""
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "-z"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("there is no git, or this is no checkout")
    files = [PurePosixPath(name) for name in listed if name]
    return {str(path) for file in files for path in (file, *file.parents, file.name)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_every_path_that_a_document_names_is_in_git(document: Path) -> None:
    known = in_git()
    paths = named(document.read_text(encoding="utf-8"))
    assert paths
    assert sorted(paths - known) == []


def test_what_is_taken_for_a_path() -> None:
    text = "in `result_npy/ten_rounds/`, [it](tests/a.py). See main.py, https://x.org/tests/b and result_npy/a-b=c.npy."
    assert named(text) == {"result_npy/ten_rounds", "tests/a.py", "main.py", "result_npy/a-b=c.npy"}
