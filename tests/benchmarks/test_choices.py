"""The study of choices: its settings, and the page that is written from its result folders."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from scipy import stats

from active_learning.report.drawing import draw_figure
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ExperimentConfig
from benchmarks import choices, choices_page
from benchmarks.choices_page import write_page
from benchmarks.paired import PageError, paired_difference
from load_data import DATASETS
from tests.result_folders import write_run

ROOT = Path(__file__).parent.parent.parent

Curves = dict[str, tuple[list[float], ...]]

STUDY: dict[str, Any] = {
    "base": {
        "dataset": "mnist_5k",
        "acq_func": ["bald", "var_ratios"],
        "seed": 9000,
        "experiments": 2,
        "rounds": 5,
        "query": 50,
        "weight_decay": 3.5,
    },
    "questions": [
        {
            "key": "steps",
            "title": "Training steps",
            "why": "How many?",
            "arms": {"few": {"min_steps": 50}, "many": {"min_steps": 1000}},
        },
        {
            "key": "votes",
            "title": "Votes",
            "follows": "It does not matter.",
            "against": {"var_ratios_mean": "var_ratios"},
            "arms": {"mean": {"acq_func": ["var_ratios_mean"]}},
        },
    ],
}

BASE: Curves = {
    "bald": ([0.5, 0.3, 0.2, 0.1, 0.08, 0.04], [0.5, 0.3, 0.2, 0.1, 0.08, 0.06]),
    "var_ratios": ([0.5, 0.3, 0.2, 0.1, 0.05, 0.04], [0.5, 0.3, 0.2, 0.1, 0.08, 0.05]),
}
"""The curves after 0, 50, ..., 250 acquired images; mean along those of BALD: 19.0 % and 19.2 %."""

FEW: Curves = {
    "bald": ([0.5, 0.2, 0.2, 0.1, 0.05, 0.04], [0.5, 0.2, 0.1, 0.1, 0.05, 0.04]),
    "var_ratios": ([0.5, 0.3, 0.2, 0.05, 0.05, 0.04], [0.5, 0.3, 0.2, 0.1, 0.05, 0.04]),
}
"""Mean along the curves of BALD: 16.4 % and 14.4 %, which is 2.6 and 4.8 points below the base."""


def configs_in(folder: Path, study: dict[str, Any] = STUDY) -> dict[str, ExperimentConfig]:
    return {name: choices.settings(name, flags, folder) for name, flags in choices.arms(study).items()}


def write_arm(folder: Path, name: str, curves: Curves, repetitions: Sequence[int] = (0, 1)) -> None:
    config = configs_in(folder)[name]
    for run in planned_runs(config, "bfloat16", "cpu"):
        if run.acquisition in curves and run.repetition in repetitions:
            write_run(config.result_dir, run, curves[run.acquisition][run.repetition])


def page_of(folder: Path, study: dict[str, Any] = STUDY) -> str:
    page = folder / "docs" / "choices.md"
    write_page(study, configs_in(folder, study), page)
    return page.read_text(encoding="utf-8")


def rows_of(page: str, title: str) -> list[dict[str, str]]:
    """The rows of a section's table, by column."""
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_row_is_what_is_worked_out_by_hand(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW)
    base, base_votes, few, few_votes = rows_of(page_of(tmp_path), "Training steps")
    assert base == {
        "arm, function": "base, BALD",
        "repetitions": "2",
        "to 10 %": "150",
        "to 5 %": "1 of 2, median ∞",
        "% at 100": "20.00",
        "% at 250": "5.00",
        "Δ error": "-",
        "Δ images": "-",
        "calibration": "2.0",  # a fourth of the 8 % after round 4, not of the 10 % after round 3
        "seconds": "9",  # of six fits of 1 s and six of 2 s
    }
    assert (base_votes["arm, function"], base_votes["to 5 %"]) == ("base, Variation Ratios", "225")
    # The mean of -2.6 and -4.8 has a standard error of 1.1; Student's t of one degree of freedom at 97.5 % is 12.706.
    assert few["Δ error"] == "-3.70 [-17.68, +10.28]"
    assert (few["to 10 %"], few["to 5 %"], few["Δ images"]) == ("125", "200", "-25 [-343, +293]")
    assert few_votes["Δ images"] == "0 [0, 0]"


def test_arms_are_compared_over_the_rounds_that_they_have(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW)
    base, _, few, _ = rows_of(page_of(tmp_path, {**STUDY, "arm_rounds": 3}), "Training steps")
    assert (base["to 5 %"], few["to 5 %"]) == ("1 of 2, median ∞", "0 of 2, median ∞"), "the base has all of its rounds"
    # Over 150 images the means of the base are 26.7 %, those of the arm 23.3 % and 20 %.
    assert (few["Δ error"], few["% at 150"]) == ("-5.00 [-26.18, +16.18]", "10.00")


def test_images_to_a_level_that_one_never_reached_are_not_compared(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", {"bald": (FEW["bald"][0], [0.5, 0.4, 0.3, 0.3, 0.2, 0.2])})
    row = rows_of(page_of(tmp_path), "Training steps")[2]
    assert (row["to 10 %"], row["Δ images"]) == ("1 of 2, median ∞", "-")


def test_curves_are_paired_by_repetition_not_by_place(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW, repetitions=[1])
    row = rows_of(page_of(tmp_path), "Training steps")[2]
    assert (row["repetitions"], row["Δ error"]) == ("1 of 2", "-4.80")


def test_unfinished_repetition_is_left_out_and_the_others_are_counted(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", {"bald": (FEW["bald"][0], FEW["bald"][1][:5]), "var_ratios": FEW["var_ratios"]})
    page = page_of(tmp_path)
    row = rows_of(page, "Training steps")[2]
    assert (row["repetitions"], row["Δ error"], row["seconds"]) == ("1 of 2", "-2.60", "6")
    assert "A hollow mark has one repetition" in page


def test_repetition_that_the_base_has_not_finished_is_not_compared(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE, repetitions=[0])
    write_arm(tmp_path, "few", FEW)
    base, _, few, _ = rows_of(page_of(tmp_path), "Training steps")
    assert (base["repetitions"], few["repetitions"], few["to 10 %"]) == ("1 of 2", "1 of 2", "150")


def test_what_has_not_been_run_is_listed(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", {"bald": FEW["bald"]})
    page = page_of(tmp_path)
    assert "Not run yet: `few` with Variation Ratios, `many`." in page
    assert "Not run yet: `mean`." in page
    assert rows_of(page, "Votes") == []


def test_function_that_the_base_lacks_is_compared_with_the_one_that_the_study_names(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "mean", {"var_ratios_mean": BASE["var_ratios"]})
    base, row = rows_of(page_of(tmp_path), "Votes")
    assert base["arm, function"] == "base, Variation Ratios"
    assert (row["arm, function"], row["Δ error"]) == ("mean, Variation Ratios (mean)", "0.00 [0.00, 0.00]")


def test_conclusion_stands_below_its_question_and_nowhere_else(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW)
    page = page_of(tmp_path)
    assert page.count("It does not matter.") == 1
    assert page.index("## Training steps\n\nHow many?") < page.index("## Votes\n\nIt does not matter.")


def test_page_says_where_the_curves_come_from(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW)
    assert "\n- commit 0123abc; a processor; bfloat16 on cpu: 8 curves\n" in page_of(tmp_path)
    for path in tmp_path.glob("few/runs/bald*/*/provenance.json"):
        path.write_text(path.read_text().replace("0123abc", "4567def+"))
    page = page_of(tmp_path)
    assert "commit 0123abc; a processor; bfloat16 on cpu: 6 curves (base, few)\n" in page
    assert "commit 4567def+; a processor; bfloat16 on cpu: 2 curves (few)\n\nA + after" in page


def test_writing_twice_gives_the_same_bytes_and_no_path_of_the_machine(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW)
    page_of(tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "docs").iterdir()}
    page_of(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "docs").iterdir()} == first
    assert sorted(first) == ["choices.md", "choices.png", "choices.svg"]
    assert not [name for name, content in first.items() if str(tmp_path).encode() in content]


def test_figure_has_a_mark_for_each_function_and_names_each_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = Canvas()

    def drawn_here(*arguments: Any) -> Any:
        arguments[3](canvas)
        return draw_figure(*arguments)

    monkeypatch.setattr(choices_page, "draw_figure", drawn_here)
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW, repetitions=[0])
    page_of(tmp_path)
    axes = canvas.axes[0]
    marks = {str(line.get_label()): line for line in axes.lines if line.get_marker() not in ("None", "")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["few (1 of 2)"]
    assert {label: round(float(np.asarray(line.get_xdata())[0]), 9) for label, line in marks.items()} == {
        "BALD": -2.6,
        "Variation Ratios": -1.0,  # 5 points less after 150 images, one of five rounds
    }
    assert marks["BALD"].get_marker() != marks["Variation Ratios"].get_marker()
    assert "percentage points" in axes.get_xlabel()


@pytest.mark.parametrize(("farthest", "scale"), [(3.0, "linear"), (3.1, "symlog")])
def test_axis_says_when_it_is_not_linear(farthest: float, scale: str) -> None:
    axes = Canvas().subplots()
    axes.plot([-0.2, farthest], [0, 0])
    label = choices_page._set_scale(axes, farthest)
    assert axes.get_xscale() == scale
    assert ("logarithmic" in label) == (scale == "symlog")


def test_interval_is_that_of_the_paired_t_test() -> None:
    ours_e, theirs_e = np.array([3.0, 4.5, 2.0, 8.0]), np.array([1.0, 5.0, 1.5, 4.0])
    found = paired_difference(ours_e, theirs_e)
    expected = stats.ttest_rel(ours_e, theirs_e).confidence_interval(0.95)
    np.testing.assert_allclose([found.mean - found.half, found.mean + found.half], [expected.low, expected.high])


def test_calibration_that_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    study = {**STUDY, "base": {**STUDY["base"], "rounds": 3}}
    for name in ("base", "few"):
        for run in planned_runs(configs_in(tmp_path, study)[name], "float32", "cpu"):
            write_run(tmp_path / name, run, [0.5, 0.3, 0.2, 0.1])
    row = rows_of(page_of(tmp_path, study), "Training steps")[0]
    assert (row["calibration"], row["% at 150"]) == ("-", "10.00")


def test_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", FEW)
    shutil.copytree(tmp_path / "few", tmp_path / "many")
    with pytest.raises(PageError, match=r"many cannot be used: .*bald.*repetition_0 is a run of other settings"):
        page_of(tmp_path)


@pytest.mark.parametrize("kept", [0, 1])
def test_damaged_record_is_refused(tmp_path: Path, kept: int) -> None:
    write_arm(tmp_path, "base", BASE)
    write_arm(tmp_path, "few", {"bald": FEW["bald"]}, repetitions=range(1 + kept))
    path = tmp_path / "few" / "runs" / "bald-MC_dropout=True" / "repetition_0" / "metrics.jsonl"
    path.write_bytes(b"nothing\n")
    with pytest.raises(PageError, match=r"repetition_0/metrics\.jsonl"):
        page_of(tmp_path)


def test_command_without_results_says_so_in_one_sentence(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.choices", "--results", str(tmp_path), "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"study: error: {tmp_path} holds no finished repetition of base and of an arm to compare it with; --run "
        "true computes them.\n"
    )
    assert not page.exists()


def test_command_writes_the_page_of_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = choices.read_study()
    for name in ("base", "lr_001_constant"):
        config = choices.settings(name, choices.arms(study)[name], tmp_path)
        for run in planned_runs(config, "float32", "cpu"):
            write_run(config.result_dir, run, np.linspace(0.5, 0.04, config.rounds + 1).tolist())
    assert choices.main(results=tmp_path, page=tmp_path / "page.md") == 0
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    titles = [question["title"] for question in study["questions"]]
    assert [line[3:] for line in page.splitlines() if line[3:] in titles] == titles
    assert len(rows_of(page, "Learning rate")) == 4


STUDIED = choices.read_study()


@pytest.mark.parametrize("name", list(choices.arms(STUDIED)))
def test_every_arm_can_be_run_and_compared(name: str) -> None:
    base, config = (choices.settings(key, choices.arms(STUDIED)[key]) for key in ("base", name))
    assert config.dataset in DATASETS
    assert (config.seed, config.query) == (base.seed, base.query)
    assert 30 <= config.rounds <= base.rounds <= 50
    against = {key: value for question in STUDIED["questions"] for key, value in question.get("against", {}).items()}
    assert {against.get(function, function) for function in config.acquisitions} <= set(base.acquisitions)


def test_every_arm_has_a_name_of_its_own_and_changes_something() -> None:
    names = [name for question in STUDIED["questions"] for name in question["arms"]]
    assert len(names) == len(set(names))
    assert "base" not in names
    for question in STUDIED["questions"]:
        for changes in question["arms"].values():
            assert {**STUDIED["base"], **changes} != STUDIED["base"]


def test_no_reported_result_has_the_seed_of_the_study() -> None:
    records = [path for path in ROOT.glob("result_npy/*/**/metrics.jsonl") if choices.RESULTS not in path.parents]
    assert records
    for path in records:
        with path.open(encoding="utf-8") as file:
            assert json.loads(file.readline())["configuration"]["seed"] != STUDIED["base"]["seed"], path


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_git_takes_the_studys_records_and_leaves_locks_weights_and_reports(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    folder = tmp_path / "result_npy" / "choices" / "base"
    run = folder / "runs" / "bald-MC_dropout=True" / "repetition_0"
    taken = [folder / "bald-MC_dropout=True.npy", folder / "bald-MC_dropout=True-repetitions.npy"]
    taken += [run / f"{name}.npy" for name in ("acquired", "test_error")]
    taken += [run / name for name in ("metrics.jsonl", "seconds.jsonl", "provenance.json")]
    left = [folder / ".lock", folder / ".lock_holder", folder / ".workers" / "x", folder / "report" / "tables.md"]
    left += [run / ".lock", run / "weights-30.safetensors"]
    for path in (*taken, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = ["git", "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-standard", "result_npy"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    assert {tmp_path / name for name in listed if name} == set(taken)


def test_what_cannot_be_run_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choices.main(run=True, only=("bas",), results=tmp_path) == 2
    assert capsys.readouterr().err.startswith(
        "study: error: --only 'bas' is not part of the study: choose one of base, "
    )
    (tmp_path / "base").touch()
    assert choices.main(run=True, only=("base",), results=tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
