"""The comparison of acquisition functions: its settings, and the page that is written from its result folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.settings.arms import planned_runs
from benchmarks import functions
from benchmarks.functions_page import write_page
from benchmarks.paired import PageError
from load_data import DATASETS
from tests.result_folders import write_run

STUDY: dict[str, Any] = {
    "against": ["uniform", "bald"],
    "functions": ["uniform", "bald", "badge", "margin"],
    "studies": {
        key: {
            "title": key.title(),
            "why": "To see.",
            "levels": [0.3, 0.2],
            "points": [10, 20],
            "flags": {"dataset": "mnist_5k", "rounds": 2, "experiments": 2, "copies": copies},
        }
        for key, copies in {"first": 1, "second": 2}.items()
    },
}

CURVES = {
    "uniform": ([0.5, 0.4, 0.3], [0.5, 0.4, 0.4]),
    "bald": ([0.5, 0.4, 0.2], [0.5, 0.3, 0.2]),
    "badge": ([0.5, 0.2, 0.1], [0.5, 0.2, 0.2]),
}


def write_study(folder: Path, key: str, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    config = functions.all_settings(STUDY, folder)[key]
    for run in planned_runs(config, "float32", "cpu"):
        if run.repetition < len(curves.get(run.acquisition, ())):
            write_run(config.result_dir, run, curves[run.acquisition][run.repetition])


def page_of(folder: Path) -> str:
    page = folder / "docs" / "functions.md"
    write_page(STUDY, functions.all_settings(STUDY, folder), page)
    return page.read_text(encoding="utf-8")


def rows_of(page: str, title: str) -> list[dict[str, str]]:
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    headers, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(headers, row, strict=True)) for row in rows]


def test_rows_are_what_is_worked_out_by_hand(tmp_path: Path) -> None:
    write_study(tmp_path, "first", CURVES)
    page = page_of(tmp_path)
    badge, bald, uniform = rows_of(page, "First")
    assert [row["function"] for row in (badge, bald, uniform)] == ["BADGE", "BALD", "Random"]
    assert (badge["repetitions"], badge["to 30 %"], badge["to 20 %"]) == ("2", "10", "10")
    assert uniform["to 30 %"] == "1 of 2, median ∞"
    assert (badge["% at 10"], badge["% at 20"]) == ("20.00", "15.00")
    # Areas by trapezia over 20 images: BADGE 25 and 27.5, BALD 37.5 and 32.5, Random 40 and 42.5 per cent.
    assert [row["mean error"] for row in (badge, bald, uniform)] == ["26.25", "35.00", "41.25"]
    assert badge["Δ Random"] == "-15.00 [-15.00, -15.00]"
    assert badge["Δ BALD"].startswith("-8.75 [")
    assert uniform["Δ BALD"].startswith("+6.25 [")
    assert bald["Δ Random at 10"] == "-5.00 [-68.53, +58.53]"  # 0 and 10 points; Student's t of one degree: 12.706
    assert (uniform["Δ Random"], bald["Δ BALD at 20"]) == ("-", "-")
    assert "Not run yet: Margin." in page
    assert "Not run yet: Random, BALD, BADGE, Margin." in page, "of the second data set"


def test_a_study_may_ask_functions_of_its_own_and_is_compared_with_those_alone(tmp_path: Path) -> None:
    again = {**STUDY["studies"]["first"], "title": "Again", "functions": ["uniform", "badge"]}
    study = {**STUDY, "studies": {**STUDY["studies"], "again": again}}
    config = functions.all_settings(study, tmp_path)["again"]
    assert config.acquisitions == ("uniform", "badge")
    for run in planned_runs(config, "float32", "cpu"):
        write_run(config.result_dir, run, CURVES[run.acquisition][run.repetition])
    page = tmp_path / "functions.md"
    write_page(study, functions.all_settings(study, tmp_path), page)
    text = page.read_text(encoding="utf-8")
    badge, uniform = rows_of(text, "Again")
    assert badge["Δ Random"] == "-15.00 [-15.00, -15.00]"
    assert "Δ BALD" not in uniform
    assert "on First and Second, each" in text
    assert "`--acq_func uniform badge --dataset mnist_5k" in text


def test_no_functions_marker_stops_the_figure(tmp_path: Path) -> None:
    study = {**STUDY, "functions": functions.read_study()["functions"]}
    config = functions.all_settings(study, tmp_path)["first"]
    for run in planned_runs(config, "float32", "cpu"):
        write_run(config.result_dir, run, [0.5, 0.4, 0.3])
    write_page(study, functions.all_settings(study, tmp_path), tmp_path / "functions.md")
    drawn = (tmp_path / "functions.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {ACQUISITION_FUNCTIONS[name].label} -->" in drawn for name in study["functions"][1:])


def test_curves_are_paired_by_repetition_and_unfinished_ones_left_out(tmp_path: Path) -> None:
    write_study(tmp_path, "second", {**CURVES, "badge": ([0.5, 0.2, 0.1], [0.5, 0.2]), "bald": CURVES["bald"][:1]})
    badge = rows_of(page_of(tmp_path), "Second")[0]
    assert (badge["repetitions"], badge["Δ Random"], badge["Δ BALD"]) == ("1 of 2", "-15.00", "-12.50")


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_study(tmp_path, "first", CURVES)
    page_of(tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "docs").iterdir()}
    page_of(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "docs").iterdir()} == first
    assert sorted(first) == ["functions.md", "functions.png", "functions.svg"]


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        PageError, match="no finished repetition of uniform and of another function to compare it with; --run true"
    ):
        page_of(tmp_path)


def test_the_comparison_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = functions.read_study()
    for name, config in functions.all_settings(study, tmp_path).items():
        assert config.dataset in DATASETS
        entry = study["studies"][name]
        assert max(entry["points"]) <= config.query * config.rounds, "each point that is told of is reached"
        assert config.rounds <= 50
        assert config.experiments >= 3
        of_its_own = "functions" in entry  # one question, at the points that it names
        assert of_its_own or config.rounds >= 30
        needed = study["against"][:1] if of_its_own else study["against"]
        assert set(needed) <= set(config.acquisitions)
    assert functions.main(run=True, only=("mnist",), results=tmp_path) == 2
    assert capsys.readouterr().err == (
        "study: error: --only 'mnist' is not part of the study: choose one of fashion_mnist, "
        "fashion_mnist_again, fashion_mnist_at_100, repeated_mnist.\n"
    )
