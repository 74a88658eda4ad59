"""Reports: every number from a file, what is missing named, what cannot be read named and failed."""

import csv
import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.report.cited_figures import cited_figures
from active_learning.report.command import main
from active_learning.report.drawing import colour, log_axis
from active_learning.report.figures import _mosaic, _reach_panel, all_figures, error_figure, gallery_figure
from active_learning.report.formats import number_cell
from active_learning.report.gallery import Gallery, make_gallery
from active_learning.report.page import _checkout, cautions, command, curve_caption, findings
from active_learning.report.readme import BEGIN, END, committed_folders, readme_block, replace_block
from active_learning.report.results import NoResultsError, read_results
from active_learning.report.summary import Summary, summarise
from active_learning.report.tables import (
    all_tables,
    cited_error_table,
    cited_reach_table,
    comparison_tables,
    computing,
    headline,
    paper_tables,
)
from active_learning.report.write import draw_curves, numbers, of_runs, table, terminal_text, texts, write_report
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ARM_FIELDS, RunConfig
from active_learning.settings.flags import read_flags
from load_data import DataError, ImageData
from tests.conftest import Tiny
from tests.result_folders import chained, run_config, synthetic_curve, write_experiment, write_run

ROOT = Path(__file__).parent.parent.parent

# Worked by hand. BALD reaches 10 % after 20, 10 and never; Random after 30, 20, 20 images.
BALD = ([0.5, 0.2, 0.1, 0.06, 0.05], [0.6, 0.1, 0.12, 0.07, 0.06], [0.4, 0.3, 0.2, 0.15, 0.11])
RANDOM = ([0.5, 0.3, 0.2, 0.1, 0.09], [0.6, 0.2, 0.1, 0.1, 0.08], [0.4, 0.3, 0.05, 0.15, 0.1])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of two functions with three repetitions of four rounds."""
    for acquisition, curves in (("bald", BALD), ("uniform", RANDOM)):
        for repetition, curve in enumerate(curves):
            write_run(tmp_path, run_config(acquisition=acquisition, repetition=repetition), curve)
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an experiment on which the cited figures can be compared, with deterministic arms."""
    folder = tmp_path_factory.mktemp("experiment")
    write_experiment(folder, repetitions=3, rounds=100, dataset="mnist")
    write_report(summarise(read_results(folder)), with_gallery=False)
    return folder


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an experiment with as many repetitions as it takes to test ten pairs of functions."""
    folder = tmp_path_factory.mktemp("nine")
    write_experiment(folder, repetitions=9, rounds=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
        write_report(summarise(read_results(folder)), with_gallery=False)
    return folder


def rows_of(folder: Path, name: str, repetition: int) -> list[dict[str, Any]]:
    """Read a record without the product's code."""
    path = folder / "runs" / name / f"repetition_{repetition}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def statistics_of(folder: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads((folder / "report" / "numbers.json").read_text())
    return list(content["statistics"])


def chosen(folder: Path, *runs: RunConfig) -> Summary:
    return of_runs(summarise(read_results(folder)), runs)


def test_the_table_of_a_small_folder_worked_by_hand(small: Path) -> None:
    runs = [run_config(acquisition=name, repetition=number) for name in ("uniform", "bald") for number in range(3)]
    lines = table(chosen(small, *runs)).splitlines()
    assert lines[0].split("  ")[0] == "acquisition function"
    # Mean and deviation of 30, 20, 20; error at the end of 0.09, 0.08, 0.1.
    assert re.split(r"\s{2,}", lines[2]) == ["Random", "3", "23 +- 6", "1/3", "0/3", "9.00 +- 1.00"]
    assert re.split(r"\s{2,}", lines[3]) == ["BALD", "3", "2/3", "1/3", "0/3", "7.33 +- 3.21"]


def test_the_table_is_of_the_runs_asked_for_and_their_rounds_only(small: Path) -> None:
    lines = table(chosen(small, run_config(rounds=2))).splitlines()
    assert lines[3].startswith("to N %")
    assert re.split(r"\s{2,}", lines[2]) == ["BALD", "1", "20", "0/1", "0/1", "10.00"]


def test_the_table_fits_a_terminal(written: Path) -> None:
    lines = terminal_text(headline(summarise(read_results(written)))).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.isascii() for line in lines)


def test_numbers_for_scripts_are_of_the_runs_asked_for(small: Path) -> None:
    content = json.loads(numbers(chosen(small, run_config(rounds=2))))
    assert {(entry["arm"], entry["repetitions"]) for entry in content["statistics"]} == {("BALD", 1)}
    with pytest.raises(NoResultsError, match=r"^None of these runs has finished a round\.$"):
        chosen(small, run_config(acquisition="mean_std"))


def test_what_is_said_of_all_runs_is_not_counted_twice(small: Path) -> None:
    summary = summarise(read_results(small))
    runs = [run_config(acquisition=name, repetition=number) for name in ("uniform", "bald") for number in range(3)]
    assert of_runs(summary, runs) is summary
    assert of_runs(summary, runs[1:]) is not summary


def test_the_figure_at_the_end_of_a_run(small: Path) -> None:
    draw_curves(chosen(small, run_config()), "A title")
    assert (small / "test_error.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (small / "test_error.svg").read_bytes()
    assert {path.name for path in small.glob("test_error*")} == {"test_error.png", "test_error.svg"}


def test_medians_and_quartiles_count_runs_that_did_not_reach_the_level(small: Path) -> None:
    summary = summarise(read_results(small))
    reach = summary.get("BALD", "acquired_to_reach", 0.1)
    assert reach.values == {0: 20, 1: 10, 2: np.inf}
    assert reach.quartiles == (15, 20, np.inf)
    assert (reach.mean, reach.std, reach.reached, reach.repetitions) == (None, None, 2, 3)
    page = {entry.key: entry for entry in all_tables(summary)}["reach"]
    assert [cell.text for cell in page.rows[1]][:2] == ["BALD", "20 [15, ∞] (2/3)"]


class _Cells(HTMLParser):
    """The texts of each table's cells, by the table's id."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[str]] = {}
        self.open = ""
        self.reading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.open = str(dict(attrs)["id"])
            self.tables[self.open] = []
        if tag in ("td", "th"):
            self.reading = True
            self.tables[self.open].append("")

    def handle_endtag(self, tag: str) -> None:
        self.reading = self.reading and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.reading:
            self.tables[self.open][-1] += data.replace("\xa0", " ")


LABELS = {"uniform": "Random", "max_entropy": "Max Entropy", "bald": "BALD", "var_ratios": "Variation Ratios"}
ARMS = {f"{name}-MC_dropout=True": label for name, label in {**LABELS, "mean_std": "Mean STD"}.items()}
ARMS |= {name.replace("True", "False"): f"{label}, deterministic" for name, label in ARMS.items() if label != "Random"}

Records = list[list[dict[str, Any]]]


def spread_words(values: Sequence[float], digits: int, factor: float = 1) -> str:
    mean, std = factor * np.mean(values), factor * np.std(values, ddof=1)
    return f"{mean:,.{digits}f} ± {std:,.{digits}f}"


def interval_words(values: Sequence[float]) -> str:
    """Of three values there is no interval, but the lowest and the highest."""
    return f"{spread_words(values, 2, 100)} [{100 * min(values):.2f}, {100 * max(values):.2f}] (3)"


def at(records: Records, metric: str, acquired: int) -> list[float]:
    return [next(row[metric] for row in rows if row["labelled"] == 20 + acquired) for rows in records]


def reached(records: Records, level: float) -> list[float]:
    return [next((float(r["labelled"] - 20) for r in rows if r["test_error"] <= level), np.inf) for rows in records]


def quartile_words(values: list[float]) -> str:
    ordered = sorted(values)
    # Of three values: half-way to the neighbours, which is infinite if one of them is.
    quartiles = ordered[1], (ordered[0] + ordered[1]) / 2, (ordered[1] + ordered[2]) / 2
    median, lower, upper = ("∞" if np.isinf(value) else f"{value:.0f}" for value in quartiles)
    return f"{median} [{lower}, {upper}] ({np.isfinite(values).sum()}/3)"


def along(records: Records, acquired: int = 1000) -> list[float]:
    return [
        float(np.trapezoid([row["test_error"] for row in rows], [row["labelled"] for row in rows])) / acquired
        for rows in records
    ]


def seconds(folder: Path, name: str, phase: str) -> list[float]:
    paths = [folder / "runs" / name / f"repetition_{number}" / "seconds.jsonl" for number in range(3)]
    rows = [[json.loads(line) for line in path.read_text().splitlines()[1:]] for path in paths]
    phases = ("fit", "test", "score") if phase == "all" else (phase,)
    return [sum(row[key] for row in run for key in phases) for run in rows]


def arm_cells(folder: Path, name: str, records: Records) -> dict[str, list[str]]:
    """Return the cells of one arm in each table of the page, computed from its files alone."""
    points, levels = (100, 200, 500, 1000), (0.1, 0.05, 0.03, 0.02)
    reach = {level: reached(records, level) for level in levels}
    labels = [[label for row in rows for label in row["acquired_labels"]] for rows in records]
    shares = np.array([[np.mean(np.array(run) == class_) for class_ in range(10)] for run in labels])
    balance = np.mean([stats.entropy(row) / np.log(10) for row in shares])
    return {
        "headline": [
            "3",
            *(
                spread_words(reach[level], 0)
                if np.isfinite(reach[level]).all()
                else f"{np.isfinite(reach[level]).sum()}/3"
                for level in (0.1, 0.05, 0.02)
            ),
            spread_words(at(records, "test_error", 1000), 2, 100),
        ],
        "reach": [quartile_words(reach[level]) for level in levels],
        "error": [interval_words(at(records, "test_error", point)) for point in points]
        + [interval_words(along(records))],
        "calibration": [spread_words(at(records, "test_ece", point), 2, 100) for point in points],
        "likelihood": [spread_words(at(records, "test_nll", point), 3) for point in points],
        "classes": [f"{100 * share:.1f}" for share in shares.mean(axis=0)] + [f"{balance:.3f}"],
        "seconds": [spread_words(seconds(folder, name, phase), 1) for phase in ("fit", "test", "score", "all")],
    }


def page_cells(folder: Path) -> dict[str, list[str]]:
    parser = _Cells()
    parser.feed((folder / "report" / "index.html").read_text())
    return parser.tables


def test_every_cell_of_the_page_is_traced_to_the_files(written: Path) -> None:
    tables = page_cells(written)
    for name, label in ARMS.items():
        records = [rows_of(written, name, repetition) for repetition in range(3)]
        for key, cells in arm_cells(written, name, records).items():
            start = tables[f"table-{key}"].index(label) + 1
            assert tables[f"table-{key}"][start : start + len(cells)] == cells, (key, label)
        for repetition, total in enumerate(seconds(written, name, "all")):
            start = tables["table-runs-0"].index(f"{label}, {repetition}") + 1
            expected = ["100", f"{total:.0f}", "2026-01-02 03:04:05+00:00"]
            assert tables["table-runs-0"][start : start + 3] == expected


def test_every_comparison_of_the_page_is_traced_to_the_records(tested: Path) -> None:
    tables = page_cells(tested)
    functions = [name for name in ARMS if name.endswith("True")]
    families = {
        "comparison": list(itertools.combinations(functions, 2)),
        "comparison_dropout": [(name, name.replace("True", "False")) for name in functions[1:]],
    }
    for key, pairs in families.items():
        for place, acquired in enumerate((100, 200, None)):
            differences = []
            for names in pairs:
                both = [[rows_of(tested, name, number) for number in range(9)] for name in names]
                curves = [along(r, 200) if acquired is None else at(r, "test_error", acquired) for r in both]
                differences.append(np.array(curves[0]) - np.array(curves[1]))
            flips = np.array(list(itertools.product((1, -1), repeat=9)))
            p = [np.mean(abs(flips @ values) >= abs(values.sum()) - 1e-12) for values in differences]
            order, corrected, running = np.argsort(p, kind="stable"), np.zeros(len(p)), 0.0
            for rank, index in enumerate(order):
                running = max(running, min(1.0, p[index] * (len(p) - rank)))
                corrected[index] = running
            for names, values, p_holm in zip(pairs, differences, corrected, strict=True):
                start = tables[f"table-{key}"].index(f"{ARMS[names[0]]} minus {ARMS[names[1]]}") + 1
                expected = f"{100 * values.mean():+.2f} (p {p_holm:.3f})"
                assert tables[f"table-{key}"][start + 1 + place] == expected
                assert tables[f"table-{key}"][start] == "9"


def test_the_penalty_matrix_of_the_page_is_traced_to_the_records(tested: Path) -> None:
    rounds = (1, 2, 4, 8, 16)
    errors = {
        label: np.array([[rows_of(tested, name, e)[r]["test_error"] for r in rounds] for e in range(9)])
        for name, label in ARMS.items()
    }
    wins = np.zeros((9, 9))
    for (row, first), (column, second) in itertools.permutations(enumerate(errors.values()), 2):
        test = stats.ttest_rel(first, second)
        wins[row, column] = np.mean((test.pvalue < 0.05) & (test.statistic < 0))
    cells = page_cells(tested)["table-penalty"]
    assert cells[1:10] == list(errors)
    for label, values in [*zip(errors, wins, strict=True), ("mean of the column", wins.mean(axis=0))]:
        start = cells[10:].index(label) + 11
        assert cells[start : start + 9] == [f"{value:.2f}" for value in values]


CITED = yaml.safe_load((ROOT / "active_learning" / "report" / "cited_figures.yaml").read_text())


def test_every_cell_beside_images_that_others_acquired_is_traced(written: Path) -> None:
    expected = []
    for level in (0.1, 0.05):
        for name in list(ARMS)[:5]:
            median = np.median(reached([rows_of(written, name, repetition) for repetition in range(3)], level))
            expected += [f"{ARMS[name]}, to {100 * level:.0f} %", f"{median:.0f}"]
            for figures in CITED["acquired_to_reach"].values():
                acquisition = name.partition("-")[0]
                theirs = figures[acquisition][level]
                expected += [f"{theirs}", f"{median - theirs:+.0f}"]
    headers = 2 + 2 * len(CITED["acquired_to_reach"])
    assert page_cells(written)["table-cited_reach"][headers:] == expected


def cited_error_cells(folder: Path, repetitions: int, validation_images: int) -> list[list[str]]:
    """Return the rows of the table of cited test errors, ours computed from the records of a synthetic folder."""
    content = dict(CITED["test_error"])
    acquired, labels, validation = (content.pop(key) for key in ("acquired", "labels", "validation_images"))
    rows, ours = [], {}
    for name, label in list(ARMS.items())[:5]:
        records = [rows_of(folder, name, repetition) for repetition in range(repetitions)]
        mean = ours[name.partition("-")[0]] = 100 * np.mean(at(records, "test_error", acquired))
        source = f"ours ({repetitions} run{'s' * (repetitions > 1)})"
        labelled = next(row["labelled"] for row in records[0] if row["labelled"] == 20 + acquired)
        rows.append((mean, [label, source, f"{labelled:,}", f"{validation_images:,}", f"{mean:.2f}", "-"]))
    for source, figures in content.items():
        for name, error in figures.items():
            theirs = validation[source]
            difference = f"{ours[name] - error:+.2f}" if name in ours and theirs == str(validation_images) else "-"
            words = [ARMS.get(f"{name}-MC_dropout=True", name), CITED["sources"][source]["label"]]
            words += [f"{labels[source]:,}", {"5000": "5,000", "5000 to 10000": "5,000 to 10,000"}[theirs]]
            rows.append((error, [*words, f"{error:.2f}", difference]))
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def test_every_cell_beside_errors_of_others_is_traced(written: Path, tmp_path: Path) -> None:
    rows = cited_error_cells(written, 3, 100)
    assert {row[-1] for row in rows} == {"-"}  # others have more validation images: no column of differences
    assert page_cells(written)["table-cited_error"][5:] == [cell for row in rows for cell in row[:-1]]

    write_experiment(tmp_path, repetitions=1, determ=False, dataset="mnist", val_size=5000)
    table_ = cited_error_table(summarise(read_results(tmp_path)))
    assert table_ is not None
    rows = cited_error_cells(tmp_path, 1, 5000)
    assert sum(row[-1] != "-" for row in rows) == 9  # as many validation images as the paper and the re-implementation
    assert [[cell.text for cell in row] for row in table_.rows] == rows


def test_configuration_and_provenance_of_every_run_are_traced_to_the_files(written: Path) -> None:
    page = (written / "report" / "index.html").read_text()
    settings = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", page))
    cells, expected = page_cells(written)["table-provenance-0"], []
    for name, label in ARMS.items():
        for repetition in range(3):
            folder = Path("runs") / name / f"repetition_{repetition}"
            header = json.loads((written / folder / "metrics.jsonl").read_text().splitlines()[0])
            shared = {key: value for key, value in header["configuration"].items() if key not in ARM_FIELDS}
            assert settings == {key: str(value) for key, value in shared.items()} | {"rounds": "100"}
            (session,) = json.loads((written / folder / "provenance.json").read_text())["sessions"]
            versions = f"Python {session['python']} torch {session['versions']['torch']}"
            expected += [f"{label}, {repetition}", str(folder), session["commit"], session["processor"], "-", versions]
    assert cells[6:] == expected


def test_findings_are_traced_to_the_records(written: Path) -> None:
    records = {label: [rows_of(written, name, e) for e in range(3)] for name, label in ARMS.items()}
    page = (written / "report" / "index.html").read_text()
    for level in (0.1, 0.05):
        means = {label: np.mean(reached(runs, level)) for label, runs in records.items()}
        best = min(means, key=lambda label: means[label])
        sentence = f"Fewest images to {100 * level:.0f}\xa0% test error: {best}, {means[best]:.0f} (mean of 3 runs)"
        assert sentence in page
    ends = {label: np.mean(at(runs, "test_error", 1000)) for label, runs in records.items()}
    best = min(ends, key=lambda label: ends[label])
    assert (
        f"Lowest test error after 1,000 acquired images: {best}, {100 * ends[best]:.2f}\xa0% (mean of 3 runs)" in page
    )


def test_who_ends_lowest_is_told_with_those_whose_runs_overlap(tmp_path: Path) -> None:
    for acquisition, ends in {"bald": (0.04, 0.06), "uniform": (0.06, 0.08), "mean_std": (0.07, 0.08)}.items():
        for repetition, end in enumerate(ends):
            write_run(tmp_path, run_config(acquisition=acquisition, rounds=1, repetition=repetition), [0.3, end])
    lowest = "Lowest test error after 10 acquired images: BALD, 5.00 % (mean of 2 runs)."
    near = "The runs of BALD overlap with those of Random."
    assert findings(summarise(read_results(tmp_path)))[-1] == f"{lowest} {near}"


def test_of_functions_that_share_the_first_place_all_overlap_with_the_others(tmp_path: Path) -> None:
    for acquisition, reached in {"bald": (1, 3), "uniform": (3, 1), "mean_std": (2, 3)}.items():
        for repetition, rounds in enumerate(reached):
            curve = [0.3] * rounds + [0.08] * (4 - rounds)
            write_run(tmp_path, run_config(acquisition=acquisition, rounds=3, repetition=repetition), curve)
    assert findings(summarise(read_results(tmp_path)))[0] == (
        "Fewest images to 10 % test error: Random and BALD, 20 (mean of 2 runs). "
        "The runs of Random and BALD overlap with those of Mean STD."
    )


def test_a_finding_names_all_that_share_the_first_place(tmp_path: Path) -> None:
    for acquisition, curve in (("bald", [0.3, 0.04]), ("uniform", [0.3, 0.06]), ("mean_std", [0.3, 0.05])):
        write_run(tmp_path, run_config(acquisition=acquisition, rounds=1), curve)
    first, second, *_ = findings(summarise(read_results(tmp_path)))
    assert first == "Fewest images to 10 % test error: all alike, 10 (one run)."
    assert second == "Fewest images to 5 % test error: BALD and Mean STD, 10 (one run). Random: not reached in 1 run."


def test_every_number_is_traced_to_the_records(written: Path) -> None:
    checked = 0
    names = {run.path.parent.name: arm.label for arm in read_results(written).arms for run in arm.runs}
    found = {(s["arm"], s["statistic"], s["at"]): s for s in statistics_of(written)}
    for name, label in names.items():
        records = [rows_of(written, name, repetition) for repetition in range(3)]
        for metric in ("test_error", "test_nll", "test_ece"):
            for point in (100, 200, 500, 1000):
                values = [next(r[metric] for r in rows if r["labelled"] == 20 + point) for rows in records]
                entry = found[label, metric, point]
                assert list(entry["values"].values()) == pytest.approx(values, rel=1e-11)
                assert entry["mean"] == pytest.approx(np.mean(values))
                assert entry["std"] == pytest.approx(np.std(values, ddof=1))
                assert entry["interval_low"] is entry["interval_high"] is None
                checked += 1
        for level in (0.1, 0.05, 0.03, 0.02):
            reached = [[r["labelled"] - 20 for r in rows if r["test_error"] <= level][:1] for rows in records]
            assert list(found[label, "acquired_to_reach", level]["values"].values()) == [
                (r or [None])[0] for r in reached
            ]
            checked += 1
        for class_ in range(10):
            shares = [np.mean([c == class_ for r in rows for c in r["acquired_labels"]]) for rows in records]
            assert found[label, "class_share", str(class_)]["mean"] == pytest.approx(np.mean(shares))
            checked += 1
        total = found[label, "seconds", "all"]["values"]
        assert total == pytest.approx({"0": 101 * 1.75, "1": 101 * 2.75, "2": 101 * 3.75})
    assert checked == 9 * (12 + 4 + 10)


def test_page_markdown_csv_and_json_hold_the_same_numbers(written: Path) -> None:
    tables = page_cells(written)
    markdown = (written / "report" / "tables.md").read_text()
    for entry in all_tables(summarise(read_results(written))):
        cells = [cell.text for row in entry.rows for cell in row]
        assert tables[f"table-{entry.key}"][len(entry.headers) :] == cells
        assert entry.markdown() in markdown
    lines = list(csv.DictReader(io.StringIO((written / "report" / "numbers.csv").read_text())))
    for line, entry_ in zip(lines, statistics_of(written), strict=True):
        for key in ("mean", "std", "median", "interval_low"):
            assert line[key] == ("" if entry_[key] is None else repr(entry_[key]))


def test_cited_figures_stand_beside_ours_with_the_difference(written: Path) -> None:
    summary = summarise(read_results(written))
    cited = cited_figures()
    reach = cited_reach_table(summary)
    assert reach is not None
    assert len(reach.rows) == 2 * 5  # two levels, five functions; the cited figures are with MC dropout
    for row in reach.rows:
        label, level = row[0].text.removesuffix(" %").split(", to ")
        acquisition = next(name for name, function in ACQUISITION_FUNCTIONS.items() if function.label == label)
        ours = summary.get(label, "acquired_to_reach", int(level) / 100).quartiles
        assert ours is not None
        theirs = cited.acquired_to_reach["paper"][acquisition][int(level) / 100]
        assert (row[1].order, row[2].order, row[3].order) == (ours[1], theirs, ours[1] - theirs)
    errors = cited_error_table(summary)
    assert errors is not None
    values = [row[4].order for row in errors.rows]
    assert values == sorted(values, key=float)
    assert [errors.rows[0][0].text, errors.rows[3][0].text] == ["Ladder (full)", "Variation Ratios"]


def test_cited_figures_are_of_the_whole_mnist_only(small: Path) -> None:
    assert cited_reach_table(summarise(read_results(small))) is not None
    assert not (cited_reach_table(summarise(read_results(small))) or headline).rows  # type: ignore[union-attr]
    assert cited_error_table(summarise(read_results(small))) is None


@pytest.mark.parametrize(
    ("change", "comparable"),
    [
        *[({}, True), ({"query": 20}, False), ({"network": "kirsch"}, False), ({"copies": 3}, False)],
        *[({"initial_images": (3, 1)}, False), ({"seed": 1}, True)],
    ],
)
def test_cited_figures_are_of_the_paper_s_protocol(tmp_path: Path, change: dict[str, Any], comparable: bool) -> None:
    write_run(tmp_path, run_config(dataset="mnist", rounds=2, **change), BALD[0][:3])
    assert bool(paper_tables(summarise(read_results(tmp_path)))) == comparable


def test_cited_figures_name_known_functions_and_sources() -> None:
    cited = cited_figures()
    assert set(cited.acquired_to_reach) <= set(cited.sources)
    assert all(set(rows) <= set(ACQUISITION_FUNCTIONS) for rows in cited.acquired_to_reach.values())
    assert set(cited.test_errors) <= set(cited.sources)


def test_too_few_repetitions_give_no_interval_and_no_tests_and_it_is_said(small: Path) -> None:
    summary = summarise(read_results(small))
    # Means at the end: 0.09 and 0.0733, two of three differences positive.
    comparison = next(c for c in summary.comparisons if c.at == 40)
    assert comparison.difference == pytest.approx(0.09 - 0.22 / 3)
    assert {"comparison", "penalty"}.isdisjoint(entry.key for entry in all_tables(summary))
    assert "penalty" not in {figure.key for figure in all_figures(summary)[0]}
    assert cautions(summary) == [
        "Each number is from 3 repetitions.",
        "Fewer than 5 repetitions give no 95 % interval: the figures show the single runs, and the table of test "
        "errors the lowest and the highest.",
        "There are no paired tests: the p-value of one pair can be below 5 % from 6 repetitions on, and there are 3.",
        "There are no pairwise penalties: they need 5 repetitions that all functions have.",
    ]
    assert "[lowest run, highest run]" in notes(small)["error"]


def test_five_repetitions_give_an_interval_and_penalties(tmp_path: Path) -> None:
    for name in ("bald", "uniform"):
        for repetition in range(5):
            write_run(tmp_path, run_config(acquisition=name, repetition=repetition), BALD[repetition % 3])
    summary = summarise(read_results(tmp_path))
    assert summary.get("BALD", "test_error", 40).interval is not None
    assert "[95 % percentile-bootstrap interval of the mean, 2,000 resamples]" in notes(tmp_path)["error"]
    assert "penalty" in notes(tmp_path)
    assert cautions(summary)[1:] == [
        "There are no paired tests: the p-value of one pair can be below 5 % from 6 repetitions on, and there are 5.",
        "The pairwise penalties are of tests that are not corrected for their number.",
    ]
    for repetition in (5, 6):
        for name in ("bald", "uniform"):
            write_run(tmp_path, run_config(acquisition=name, repetition=repetition), BALD[repetition % 3])
    assert cautions(summarise(read_results(tmp_path)))[1:] == []
    no_penalties = ["There are no pairwise penalties: they need 5 repetitions that all functions have."]
    write_run(tmp_path, run_config(acquisition="mean_std"), BALD[0])
    assert [
        sentence for sentence in cautions(summarise(read_results(tmp_path))) if "penalties" in sentence
    ] == no_penalties


def test_a_mean_over_runs_of_different_code_is_said_to_be_one(small: Path) -> None:
    path = small / "runs" / "bald-MC_dropout=True" / "repetition_1" / "provenance.json"
    before = [*cautions(summarise(read_results(small))), notes(small)["seconds"]]
    assert not any("code" in sentence for sentence in before)
    path.write_text(path.read_text().replace("0123abc", "4567def01+"))
    assert notes(small)["seconds"].endswith("These means are over runs of different code: BALD (2 commits).")
    assert cautions(summarise(read_results(small)))[-1] == (
        "The runs are of different code, of the commits 0123abc and 4567def+ (+: with changes that are in no commit). "
        "A mean can be over runs of several commits."
    )


@pytest.mark.parametrize(("factor", "unit", "each", "digits"), [(1, "minutes", 60, 1), (3600, "hours", 3600, 2)])
def test_what_computed_the_runs_is_said_with_the_time_they_took(
    small: Path, factor: int, unit: str, each: int, digits: int
) -> None:
    for path in small.glob("runs/*/*/seconds.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        longer = [
            {"round": row["round"], **{key: factor * row[key] for key in ("fit", "test", "score")}} for row in rows
        ]
        path.write_bytes(chained([{}, *longer]))
    names = ("bald-MC_dropout=True", "uniform-MC_dropout=True")
    fit, test, score, every = (
        sum(sum(seconds(small, name, phase)) for name in names) / each for phase in ("fit", "test", "score", "all")
    )
    path = small / "runs" / names[0] / "repetition_1" / "provenance.json"
    path.write_text(path.read_text().replace("a processor", "another"))
    said = computing(summarise(read_results(small)))
    assert said == [
        "The runs were computed in float32 on a processor and another.",
        f"The 6 finished ones took {every:.{digits}f} {unit} in all (fit {fit:.{digits}f}, test {test:.{digits}f}, "
        f"score {score:.{digits}f}).",
    ]
    assert " ".join(said) in notes(small)["seconds"]


def test_one_repetition_shows_no_spread_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, run_config(), BALD[0])
    summary = summarise(read_results(tmp_path))
    assert summary.get("BALD", "test_error", 40).interval is None
    assert (summary.comparisons, summary.penalty) == ((), None)
    assert cautions(summary)[1] == "One repetition shows no spread: it gives no interval and no test."
    assert "BALD, 20 (one run)" in findings(summary)[0]


def test_missing_and_unfinished_runs_are_named_and_the_rest_is_reported(small: Path) -> None:
    unfinished = small / "runs" / "bald-MC_dropout=True" / "repetition_2"
    write_run(small, run_config(repetition=2), BALD[2][:3])
    (unfinished / "failure.json").write_text(json.dumps({"round": 3, "reason": "the loss became NaN"}))
    write_run(small, run_config(acquisition="uniform", repetition=3), RANDOM[0])
    (small / "runs" / "mean_std-MC_dropout=True" / "repetition_0").mkdir(parents=True)
    results = read_results(small)
    assert results.missing == (
        "BALD: repetition 3 is missing.",
        "BALD, repetition 2: 2 of 4 rounds are there (its last try failed: the loss became NaN).",
        "runs/mean_std-MC_dropout=True/repetition_0 holds no round yet.",
    )
    summary = summarise(results)
    assert summary.get("BALD", "test_error", 40).values == {0: 0.05, 1: 0.06}
    assert summary.get("BALD", "acquired_to_reach", 0.1).values == {0: 20, 1: 10}
    assert set(summary.get("BALD", "mean_test_error").values) == {0, 1}
    assert all_figures(summary)[1] == []


def test_damaged_files_are_named_with_exit_code_1_and_the_rest_is_reported(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bald = small / "runs" / "bald-MC_dropout=True"
    record = bald / "repetition_0" / "metrics.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"test_error": 0.06', b'"test_error": 0.01'))
    (bald / "repetition_1" / "metrics.jsonl").write_bytes(b"\x00\x01 nonsense\n")
    (bald / "repetition_2" / "provenance.json").write_text("{")
    (small / "uniform-MC_dropout=True.npy").write_bytes(b"no array")
    random = small / "runs" / "uniform-MC_dropout=True"
    (random / "repetition_0" / "acquired.npy").write_bytes(b"no array")
    np.save(random / "repetition_1" / "test_error.npy", np.zeros(5))
    (random / "repetition_2" / "failure.json").write_text('{"round": 1, "reason": 3}')
    (small / "uniform-MC_dropout=True-repetitions.npy").write_bytes(b"no array")
    np.save(small / "bald-MC_dropout=True-repetitions.npy", np.array([[0.9, 0.9]]))
    assert main([str(small), "--no_gallery"]) == 1
    printed = capsys.readouterr()
    assert "BALD" in printed.out
    for name in (
        "repetition_0/metrics.jsonl is damaged: its first 3 rounds are used",
        "repetition_1/metrics.jsonl is damaged: nothing",
        "repetition_2/provenance.json is damaged",
        "uniform-MC_dropout=True.npy cannot be read",
        "repetition_0/acquired.npy cannot be read",
        "repetition_1/test_error.npy does not hold what the record says",
        "repetition_2/failure.json is damaged",
        "uniform-MC_dropout=True-repetitions.npy cannot be read",
        "bald-MC_dropout=True-repetitions.npy does not hold what the records of its runs say",
    ):
        assert name in printed.err
        assert name in (small / "report" / "index.html").read_text()


def test_what_mends_damage_is_said_and_mends_it(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        assert tiny_main("--experiments", 1, "--acq_func", "bald", "--rounds", 1, "--result_dir", tmp_path) == 0
        capsys.readouterr()

    run()
    (folder,) = tmp_path.glob("runs/*/repetition_0")
    names = ["metrics.jsonl", "seconds.jsonl", "provenance.json", "acquired.npy", "test_error.npy"]
    for path in [*(folder / name for name in names), *tmp_path.glob("*.npy")]:
        path.write_bytes(b'{"x')
        assert main([str(tmp_path), "--no_gallery"]) == 1
        told = capsys.readouterr().err
        assert f"The way out: the main.py command of these runs, given again with --result_dir {tmp_path}, " in told
        run()
        assert main([str(tmp_path), "--no_gallery"]) == 0, path.name


@pytest.mark.parametrize("words", [[""], ["--output", ""], ["--readme", ""]])
def test_an_empty_path_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", *words]) == 2
    assert "the path is empty: " in capsys.readouterr().err


@pytest.mark.parametrize("output", ["file", "file/inside"])
def test_a_report_that_cannot_be_written_is_told(
    small: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
    (tmp_path / "file").touch()
    assert main([str(small), "--no_gallery", "--output", str(tmp_path / output)]) == 1
    assert capsys.readouterr().err == (
        f"report: error: the report cannot be written into {tmp_path / output} ({tmp_path / 'file'} is a file, where a "
        "folder belongs: move it away): name another folder with --output, or make room and rights there.\n"
    )


def rechain(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a chained file, so that it looks as if they had been written."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["sha256"]
    change(rows)
    path.write_bytes(chained(rows))


@pytest.mark.parametrize(
    "change",
    [
        {"test_error": None},
        {"test_error": "a"},
        {"test_error": 1.5},
        {"test_nll": [1]},
        {"acquired_labels": 3},
        {"acquired_labels": [-1] * 10},
        {"acquired_labels": [10] * 10},
        {"acquired_labels": [0.5] * 10},
        {"acquired_scores": [1.0] * 9},
        {"acquired_train_index": [2**70] * 10},
        {"labelled": []},
        {"labelled": 41},
        {"round": 7},
    ],
)
def test_a_well_chained_record_of_nonsense_is_named(small: Path, change: dict[str, Any]) -> None:
    rechain(
        small / "runs" / "bald-MC_dropout=True" / "repetition_0" / "metrics.jsonl", lambda rows: rows[2].update(change)
    )
    assert "repetition_0/metrics.jsonl cannot be read" in read_results(small).unreadable[0]


@pytest.mark.parametrize(
    "change",
    [{"query": 2.5}, {"query": "ten"}, {"repetition": 1}, {"repetition": True}, {"classes": [1, "2"]}, {"dataset": 3}],
)
def test_a_configuration_of_nonsense_is_named(small: Path, change: dict[str, Any]) -> None:
    path = small / "runs" / "bald-MC_dropout=True" / "repetition_0" / "metrics.jsonl"
    rechain(path, lambda rows: rows[0]["configuration"].update(change))
    results = read_results(small)
    assert f"metrics.jsonl cannot be read ({next(iter(change))}" in results.unreadable[0].replace(
        "the record is of ", ""
    )
    assert summarise(results).get("BALD", "test_error", 40).repetitions == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("provenance.json", b'{"sessions": 5}'),
        ("provenance.json", b'{"sessions": [{"versions": [1]}]}'),
        ("provenance.json", b'{"sessions": [{"commit": 1}]}'),
        ("provenance.json", b"[" * 100_000),
        ("seconds.jsonl", chained([{}, {"round": 0, "fit": "long"}])),
        ("seconds.jsonl", b"text"),
        ("failure.json", b"[]"),
    ],
)
def test_side_files_of_nonsense_are_named(
    small: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
    (small / "runs" / "bald-MC_dropout=True" / "repetition_0" / name).write_bytes(content)
    assert main([str(small), "--no_gallery"]) == 1
    assert f"repetition_0/{name} is damaged" in capsys.readouterr().err


def test_every_file_that_is_not_there_is_named(small: Path) -> None:
    bald = small / "runs" / "bald-MC_dropout=True"
    for name in ("seconds.jsonl", "provenance.json", "acquired.npy", "test_error.npy"):
        (bald / "repetition_0" / name).unlink()
    (small / "uniform-MC_dropout=True.npy").unlink()
    for name in ("bald-MC_dropout=True", "uniform-MC_dropout=True"):
        shutil.rmtree(small / "runs" / name / "repetition_1")
    assert read_results(small).missing == (
        "Random: repetition 1 is missing.",
        "BALD: repetition 1 is missing.",
        "uniform-MC_dropout=True.npy is missing.",
        "runs/bald-MC_dropout=True/repetition_0 has no acquired.npy and no test_error.npy and no seconds.jsonl "
        "and no provenance.json.",
    )


def test_a_run_that_is_going_may_lack_its_last_round_in_the_arrays(small: Path) -> None:
    folder = small / "runs" / "bald-MC_dropout=True" / "repetition_0"
    np.save(folder / "test_error.npy", np.array(BALD[0][:4]))
    assert read_results(small).unreadable == ()
    np.save(folder / "test_error.npy", np.array(BALD[0][:3]))
    assert "test_error.npy does not hold" in read_results(small).unreadable[0]


def test_weights_that_are_not_those_of_the_last_round_are_named(small: Path) -> None:
    folder = small / "runs" / "bald-MC_dropout=True" / "repetition_0"
    digest = hashlib.sha256(b"weights").hexdigest()
    rechain(folder / "metrics.jsonl", lambda rows: rows[-1].update(weights_sha256=digest))
    assert "repetition_0 has no weights-4.safetensors." in read_results(small).missing[0]
    (folder / "weights-4.safetensors").write_bytes(b"weights")
    results = read_results(small)
    assert (results.missing, results.unreadable) == ((), ())
    (folder / "weights-4.safetensors").write_bytes(b"others")
    assert "weights-4.safetensors does not hold" in read_results(small).unreadable[0]


def test_mixed_configurations_are_told_apart(small: Path) -> None:
    write_run(small, run_config(acquisition="mean_std", val_size=50), RANDOM[0])
    results = read_results(small)
    assert [arm.label for arm in results.arms] == ["Random", "BALD", "Mean STD, val_size=50"]
    assert any("mixes configurations: some runs have val_size=50" in sentence for sentence in results.missing)
    assert {c.first for c in summarise(results).comparisons} == {"Random"}  # nothing is paired across configurations


@pytest.mark.parametrize(
    ("change", "default"), [({"classes": (2, 8)}, "classes=all"), ({"initial_images": (3, 1)}, "initial_images=drawn")]
)
def test_arms_that_differ_in_a_default_are_told_apart(tmp_path: Path, change: dict[str, Any], default: str) -> None:
    for repetition in range(3):
        write_run(tmp_path, run_config(repetition=repetition, **change), BALD[2], np.arange(4000) % 2)
    write_run(tmp_path, run_config(repetition=3), BALD[0])
    results = read_results(tmp_path)
    assert [arm.label for arm in results.arms] == ["BALD", f"BALD, {default}"]
    assert f"The folder mixes configurations: some runs have {default}." in results.missing
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in headline(summarise(results)).rows}
    assert rows["BALD"][-1].startswith("11.00 ±")
    assert rows[f"BALD, {default}"][-1] == "5.00"


def test_repetitions_of_one_arm_with_other_settings_are_not_averaged(tmp_path: Path) -> None:
    mbr = {"classes": (2, 8), "acquisition": "mbr", "learner": "field"}
    labels = np.arange(4000) % 2
    write_run(tmp_path, run_config(**mbr), BALD[0], labels)
    write_run(tmp_path, run_config(**mbr, repetition=1, mbr_neighbours=5), BALD[1], labels)
    assert [arm.label for arm in read_results(tmp_path).arms] == ["MBR", "MBR, mbr_neighbours=5"]


def test_arms_that_would_have_the_same_label_are_numbered(small: Path) -> None:
    write_run(small, run_config(acquisition="BALD"), RANDOM[0])  # as if there were a function of that name
    summary = summarise(read_results(small))
    assert [arm.label for arm in summary.results.arms] == ["Random", "BALD", "BALD #2"]
    assert summary.get("BALD #2", "test_error", 40).values == {0: 0.09}


def test_an_unfinished_run_is_in_no_number_that_its_end_would_change(small: Path) -> None:
    counted = ("calibration", "classes", "seconds")
    assert not any("(n): " in notes(small)[key] for key in counted)
    write_run(small, run_config(repetition=0), BALD[0][:2])  # of four rounds; it has not come to 10 %
    assert all("(n): over n runs" in notes(small)[key] for key in counted)
    summary = summarise(read_results(small))
    reach = summary.get("BALD", "acquired_to_reach", 0.1)
    assert (reach.values, reach.unfinished) == ({1: 10, 2: np.inf}, {0: 10})
    # Whatever it will need, it is more than 10: the median lies anywhere between that and never.
    assert (reach.mean, reach.median) == (None, None)
    tables = {
        entry.key: {row[0].text: [c.text for c in row[1:]] for row in entry.rows} for entry in all_tables(summary)
    }
    assert tables["headline"]["BALD"] == ["3", "1/2+1", "0/2+1", "0/2+1", "8.50 ± 3.54 (2)"]
    assert tables["reach"]["BALD"][0] == "? [?, ∞] (1/2, 1 unfinished)"
    assert tables["error"]["BALD"][-1].endswith("(2)")
    assert all(cell.endswith("(2)") for key in counted for cell in tables[key]["BALD"])
    assert "1 unfinished" not in " ".join(tables["reach"]["Random"])
    finding = findings(summary)[0]
    overlap = "The runs of Random overlap with those of BALD."
    assert finding == f"Fewest images to 10 % test error: Random, 23 (mean of 3 runs). {overlap}"
    assert cautions(summary)[0] == "Each number is from 2 to 3 repetitions; the tables say from how many."


def test_an_unfinished_run_leaves_a_median_alone_that_it_cannot_change(tmp_path: Path) -> None:
    for repetition, curve in enumerate(([0.5, 0.1, 0.1, 0.1], [0.5, 0.4, 0.1, 0.1], [0.5, 0.5, 0.4])):
        write_run(tmp_path, run_config(repetition=repetition, rounds=3), curve)
    reach = summarise(read_results(tmp_path)).get("BALD", "acquired_to_reach", 0.1)
    assert reach.unfinished == {2: 20}
    assert reach.median == 20  # of 10, 20, and 30 or more
    assert reach.quartiles is not None
    assert np.isnan(reach.quartiles[2])


def test_cited_tables_count_the_runs_behind_ours(tmp_path: Path) -> None:
    configs = write_experiment(tmp_path, repetitions=3, rounds=100, determ=False, dataset="mnist")
    bald = next(config for config in configs if (config.acquisition, config.repetition) == ("bald", 2))
    write_run(tmp_path, bald, synthetic_curve(bald)[:41])
    entry = cited_error_table(summarise(read_results(tmp_path)))
    assert entry is not None
    ours = {row[0].text: row[1].text for row in entry.rows if row[1].text.startswith("ours")}
    assert (ours["BALD"], ours["Random"]) == ("ours (2 runs)", "ours (3 runs)")


def test_a_folder_of_two_query_sizes_is_reported(small: Path) -> None:
    write_run(small, run_config(acquisition="mean_std", query=30, rounds=1), [0.5, 0.2])
    results = read_results(small)
    gallery = make_gallery(results, None, tiny_data([n % 10 for n in range(4000)]))
    assert len(gallery.arms[-1].rounds[0].images) == 30
    figures, failures = all_figures(summarise(results), gallery)
    assert failures == []
    assert figures[-1].key == "gallery"


def test_a_figure_that_fails_is_named_and_takes_nothing_with_it(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.report.figures.log_axis", lambda axes: 1 / 0)
    assert main([str(small), "--no_gallery"]) == 1
    sentence = "The figure of test errors could not be drawn (ZeroDivisionError: division by zero)."
    assert sentence in capsys.readouterr().err
    assert sentence in (small / "report" / "index.html").read_text()
    assert (small / "report" / "figures" / "reach.png").exists()


def test_errors_of_zero_can_be_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, run_config(classes=(2, 8)), [0.0] * 5, np.arange(4000) % 2)
    assert all_figures(summarise(read_results(tmp_path)))[1] == []


def test_an_arm_that_no_registry_knows_is_reported(small: Path) -> None:
    configuration = {"acquisition": "mbr", "learner": "bayesian", "repetition": 0, "dataset": "two digits"}
    rows = rows_of(small, "bald-MC_dropout=True", 0)
    for row in rows:
        del row["sha256"], row["test_nll"], row["test_ece"]
    path = small / "runs" / "mbr-MC_dropout=True" / "repetition_0"
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_bytes(chained([{"configuration": configuration}, *rows]))
    summary = summarise(read_results(small))
    assert summary.get(summary.results.arms[-1].label, "test_error", 40).values == {0: 0.05}
    assert error_figure(summary).files


def test_folders_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "holds no run that can be reported" in capsys.readouterr().err
    (tmp_path / "mine" / "runs" / "bald" / "repetition_0").mkdir(parents=True)
    assert main([str(tmp_path)]) == 1
    assert f"has runs/NAME/repetition_0/metrics.jsonl, as {tmp_path / 'mine'} has." in capsys.readouterr().err
    assert main(["a", "b", "--output", "c"]) == 2
    assert "give a command, and an --output, for each." in capsys.readouterr().err
    assert main([str(tmp_path / "absent")]) == 2
    assert "is no folder" in capsys.readouterr().err
    with pytest.raises(NoResultsError):
        read_results(tmp_path)


def test_a_result_folder_is_only_read(
    small: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in small.rglob("*") if path.is_file()}
    write_report(summarise(read_results(small)), tmp_path_factory.mktemp("elsewhere"), with_gallery=False)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in small.rglob("*") if path.is_file()}
    assert before == after


def test_names_from_result_files_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, _: ([error_figure(summary)], []))
    evil = "<img src=x onerror=alert(1)>"
    write_run(tmp_path, run_config(dataset=evil, acquisition=evil), BALD[0])
    page = write_report(summarise(read_results(tmp_path)), with_gallery=False).page.read_text()
    assert evil not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert evil not in (tmp_path / "report" / "tables.md").read_text()


@pytest.mark.parametrize(
    "name", [r"a$\frac$", "\x1b[31mred", "two\nlines", r"a \| b | c", "\u202eabc", "\ud800", "<!--"]
)
def test_names_of_any_kind_stay_names(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, _: ([error_figure(summary)], []))
    write_run(tmp_path, run_config(acquisition="strange"), BALD[0])
    record = tmp_path / "runs" / "strange-MC_dropout=True" / "repetition_0" / "metrics.jsonl"
    rechain(record, lambda rows: rows[0]["configuration"].update(acquisition=name))
    write_run(tmp_path, run_config(repetition=1), BALD[0][:3])
    failure = {"round": 2, "reason": name}
    (tmp_path / "runs/bald-MC_dropout=True/repetition_1/failure.json").write_text(json.dumps(failure))
    assert main([str(tmp_path), "--no_gallery"]) == 0
    printed = capsys.readouterr()
    shown = [printed.out, printed.err, *((tmp_path / "report" / f).read_text() for f in ("tables.md", "numbers.csv"))]
    for text in shown:
        assert all(character.isprintable() or character == "\n" for character in text)
    rows = [line for line in shown[2].splitlines() if line.startswith("|")]
    assert all(
        len(re.sub(r"\\.", "", line).split("|")) == len(re.sub(r"\\.", "", rows[0]).split("|")) for line in rows[:4]
    )
    assert printed.out.splitlines()[4].startswith("to N %")  # two rows, a line each


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "json"])
def test_what_is_printed(
    small: Path, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
    assert main([str(small), "--no_gallery", "--format", form]) == 0
    printed = capsys.readouterr()
    assert "Report: " in printed.err
    beginnings = {"text": "acquisition function", "markdown": "- Fewest", "csv": "arm,statistic", "json": "{"}
    assert printed.out.startswith(beginnings[form])
    if form == "json":
        assert json.loads(printed.out)["statistics"]


@pytest.mark.parametrize("limits", [(2, 50), (1.1, 1.9), (2.1, 4.9), (3.21, 3.29), (11, 14), (0.03, 0.04), (0.001, 90)])
def test_a_logarithmic_axis_shows_numbers_whatever_its_range(limits: tuple[float, float]) -> None:
    canvas = Figure()
    axes = canvas.subplots()
    axes.plot(limits)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    log_axis(axes)
    canvas.draw_without_rendering()
    low, high = axes.get_ylim()
    shown = {t.get_text() for t in axes.get_yticklabels() if t.get_text() and low <= t.get_position()[1] <= high}
    assert len(shown) >= 3
    assert all(re.fullmatch(r"[\d.]+(e-\d+)?", text) for text in shown)


def test_figures_have_words_and_come_out_the_same_twice(small: Path) -> None:
    summary = summarise(read_results(small))
    first, failures = all_figures(summary)
    assert failures == []
    assert error_figure(summary).files == first[0].files
    assert all(
        len(figure.alt) > 40 and {f"{figure.key}.png", f"{figure.key}.svg"} < set(figure.files) for figure in first
    )
    assert "Random 9.00 %" in first[0].alt


def test_a_figure_names_the_results_that_it_shows(small: Path) -> None:
    results = read_results(small)
    picture = Image.open(io.BytesIO(error_figure(summarise(results)).files["test_error.png"]))
    assert picture.info["Source"] == results.digest


def test_every_function_has_a_colour_of_its_own() -> None:
    assert len({colour(name) for name in ACQUISITION_FUNCTIONS}) == len(ACQUISITION_FUNCTIONS)
    assert colour("not in the registry").startswith("#")


def tiny_data(labels: list[int]) -> Callable[[str, Path | None], ImageData]:
    images = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 1, 2, 2)
    array = np.array(labels, dtype=np.int64)
    return lambda name, data_dir: ImageData(images, array, images, array, 10, (0.5,), (0.5,))


def test_the_gallery_shows_acquired_images_in_order_with_scores(small: Path) -> None:
    gallery = make_gallery(read_results(small), None, tiny_data([n % 10 for n in range(4000)]))
    random, bald = gallery.arms
    record = rows_of(small, "bald-MC_dropout=True", 0)
    assert [round_.number for round_ in bald.rounds] == [1, 2]
    shown = bald.rounds[1].images
    assert [image.train_index for image in shown] == record[2]["acquired_train_index"]
    assert [image.score for image in shown] == [f"{score:.3g}" for score in record[2]["acquired_scores"]]
    assert bald.rounds[1].labelled == 30
    assert all(image.score is None for round_ in random.rounds for image in round_.images)


def test_the_gallery_figure_shows_the_same_images(small: Path) -> None:
    gallery = make_gallery(read_results(small), None, tiny_data([n % 10 for n in range(4000)]))
    drawn = gallery_figure(gallery, "")
    assert drawn is not None
    assert set(drawn.files) == {"gallery.png", "gallery.svg", "gallery-narrow.svg"}
    shown = gallery.arms[1].rounds[1]
    mosaic = _mosaic(shown, 5)
    for number, image in enumerate(shown.images):
        top, left = 3 * (number // 5), 3 * (number % 5)
        np.testing.assert_array_equal(mosaic[top : top + 2, left : left + 2], image.pixels)
    assert gallery_figure(Gallery(), "") is None


def test_labels_of_a_reduced_data_set_are_shown_as_the_whole_one_has_them(tmp_path: Path) -> None:
    write_run(tmp_path, run_config(classes=(2, 8)), BALD[0], np.arange(4000, dtype=np.int64) % 2)
    summary = summarise(read_results(tmp_path))
    assert set(summary.keys("class_share")) == {"2", "8"}
    labels = [label for row in summary.results.runs[0].rows for label in row.acquired_labels]
    assert summary.get("BALD", "class_share", "8").mean == np.mean(labels)


def test_a_gallery_without_its_data_says_why(small: Path) -> None:
    def fail(name: str, data_dir: Path | None) -> ImageData:
        raise DataError("no file and no network")

    assert make_gallery(read_results(small), None, fail).reason.endswith("no file and no network")
    reason = make_gallery(read_results(small), None, tiny_data([0] * 4000)).reason
    assert "not those of the data set" in reason


def test_the_command_on_the_page_computes_the_same_runs(tmp_path: Path) -> None:
    changed: dict[str, Any] = {
        "val_size": 50,
        "epochs": 7,
        "lr": 0.01,
        "weight_decay": 2.5,
        "warm_start": True,
        "pool_subset": 0,
    }
    changed |= {"equal_batches": True, "min_steps": 30, "augment": "affine", "augment_strength": 0.5, "masks": "image"}
    changed |= {"initial_images": (7, 2), "epoch_images": 90, "stopping": "validation_accuracy"}
    write_run(tmp_path, run_config(**changed, seed=1, batch_size=16, dropout_iter=20, threads=2), BALD[0])
    write_run(
        tmp_path,
        run_config(**changed, seed=1, batch_size=16, dropout_iter=20, threads=2, learner="deterministic"),
        BALD[0],
    )
    results = read_results(tmp_path)
    config = read_flags(command(results.runs[0], 3, results.arms).split()[2:])
    planned = planned_runs(config, "float32", "cpu")
    assert len(planned) == 3 * 2
    for run in results.runs:
        assert run.configuration in [one.identity() for one in planned]
        assert config.rounds == run.rounds


def test_the_command_of_minimum_bayes_risk_computes_the_same_run(tmp_path: Path) -> None:
    changed = {"classes": (2, 8), "initial_per_class": 10, "mbr_neighbours": 5, "acquisition": "mbr"}
    changed |= {"equal_batches": True}
    run = run_config(**changed, learner="field")
    write_run(tmp_path, run, BALD[0], np.arange(4000) % 2)
    results = read_results(tmp_path)
    assert [arm.label for arm in results.arms] == ["MBR"]
    config = read_flags(command(results.runs[0], 1, results.arms).split()[2:])
    planned = planned_runs(config, "float32", "cpu")
    assert [run.name for run in planned] == ["mbr-field"], "and no other"
    assert results.runs[0].configuration == planned[-1].identity()


def test_the_command_of_an_older_record_asks_for_no_more_steps_than_its_fits_took(small: Path) -> None:
    results = read_results(small)
    assert not {"equal_batches", "min_steps"} & set(results.runs[0].configuration)
    planned = planned_runs(read_flags(command(results.runs[0], 1, results.arms).split()[2:]), "float32", "cpu")
    assert {"equal_batches": True, **results.runs[0].configuration} in [run.identity() for run in planned]


def test_a_shorter_curve_has_no_mean_to_compare(small: Path) -> None:
    write_run(small, run_config(acquisition="mean_std"), RANDOM[0][:3])
    assert not summarise(read_results(small)).get("Mean STD", "mean_test_error").values


def test_the_digest_follows_the_records(small: Path) -> None:
    before = read_results(small).digest
    assert read_results(small).digest == before
    write_run(small, run_config(repetition=0), [0.5, 0.2, 0.1, 0.06, 0.04])
    assert read_results(small).digest != before


def test_a_number_that_is_infinite_is_shown_as_such() -> None:
    assert (number_cell(np.inf, 0).text, number_cell(1234.5, 1).text) == ("∞", "1,234.5")
    assert (number_cell(np.inf, 0).sort_key, number_cell(2, 0).sort_key) == ("Infinity", "2.0")


def test_the_readme_block_is_replaced_between_its_markers(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
    readme = small.parent / "README.md"
    readme.write_text(f"Before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([str(small), "--no_gallery", "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text == replace_block(text, readme_block([small], readme))
    assert text.startswith(f"Before\n{BEGIN}")
    assert text.endswith(f"{END}\nafter\n")
    assert f"]({small.name}/report/figures/test_error.png)" in text
    shown = f"![ours]({small.name}/report/figures/test_error.png)\n"
    readme.write_text(shown + text)
    assert "test_error.png" not in readme_block([small], readme), "it is shown elsewhere"
    readme.write_text(text)
    write_run(small, run_config(repetition=0), [0.5, 0.2, 0.1, 0.06, 0.04])
    assert text != replace_block(text, readme_block([small], readme))


@pytest.mark.parametrize("text", ["nothing", f"{BEGIN}", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_readme_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        replace_block(text, "")


def outdated(root: Path) -> list[str]:
    """Return the committed files of reports, and the README, that do not say what the committed results say."""
    folders, readme = committed_folders(root), root / "README.md"
    stale = [] if readme.read_text() == replace_block(readme.read_text(), readme_block(folders, readme)) else [readme]
    for folder in folders:
        report, summary = folder / "report", summarise(read_results(folder))
        stale += [report / name for name, text in texts(summary).items() if content(report / name) != text.encode()]
        for path in (report / "figures").glob("*.png"):
            with Image.open(path) as picture:
                stale += [] if picture.info["Source"] == summary.results.digest else [path]
    return [str(path.relative_to(root)) for path in stale]


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_the_readme_and_the_committed_reports_are_up_to_date() -> None:
    if not committed_folders(ROOT):
        pytest.skip("no results are committed yet")
    assert outdated(ROOT) == [], "run `make readme`"


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one committed experiment and its README, and the runs of another that is under way."""
    git(tmp_path, "init", "-q")
    for repetition in range(2):
        write_run(tmp_path / "result_npy/experiment_1", run_config(repetition=repetition), BALD[repetition])
    git(tmp_path, "add", "-A")
    write_run(tmp_path / "result_npy/experiment_2", run_config(), BALD[0][:2])
    (tmp_path / "README.md").write_text(f"Before {BEGIN} old {END} after")
    return tmp_path


def test_only_committed_results_are_published(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("frugal", "mine", "choices/experiment_1"):  # a preset's, a user's, one of a study
        write_run(checkout / "result_npy" / place, run_config(), BALD[0])
    git(checkout, "add", "result_npy/frugal", "result_npy/mine", "result_npy/choices")
    assert committed_folders(checkout) == [checkout / "result_npy/experiment_1", checkout / "result_npy/frugal"]
    assert main(["--no_gallery", "--readme", str(checkout / "README.md")]) == 0
    assert "experiment_2" not in (checkout / "README.md").read_text()
    assert not (checkout / "result_npy/experiment_2/report").exists()
    assert outdated(checkout) == []


def test_without_git_all_experiments_that_are_there_count(tmp_path: Path) -> None:
    write_run(tmp_path / "result_npy/experiment_3", run_config(), BALD[0])
    assert committed_folders(tmp_path) == [tmp_path / "result_npy/experiment_3"]


@pytest.mark.parametrize("name", ["tables.md", "numbers.csv", "numbers.json"])
def test_an_edited_or_missing_report_file_is_found(checkout: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, gallery: ([], []))
    assert main(["--no_gallery", "--readme", str(checkout / "README.md")]) == 0
    path = checkout / "result_npy/experiment_1/report" / name
    path.write_text(path.read_text().replace("1", "2", 1))
    assert outdated(checkout) == [f"result_npy/experiment_1/report/{name}"]
    path.unlink()
    assert outdated(checkout) == [f"result_npy/experiment_1/report/{name}"]


def test_new_results_make_everything_out_of_date(checkout: Path) -> None:
    assert main(["--no_gallery", "--readme", str(checkout / "README.md")]) == 0
    write_run(checkout / "result_npy/experiment_1", run_config(), [*BALD[0][:4], 0.04])
    stale = set(outdated(checkout))
    assert {"README.md", *(f"result_npy/experiment_1/report/{name}" for name in ("tables.md", "numbers.json"))} < stale
    assert "result_npy/experiment_1/report/figures/reach.png" in stale


def test_a_report_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "there is no result folder to report" in capsys.readouterr().err


def test_report_files_are_replaced_as_a_whole(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("active_learning.report.write.all_figures", lambda summary, _: ([error_figure(summary)], []))
    write_report(summarise(read_results(small)), with_gallery=False)
    before = {path: path.read_bytes() for path in (small / "report").rglob("*") if path.is_file()}
    write_run(small, run_config(), [*BALD[0][:4], 0.04])

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_report(summarise(read_results(small)), with_gallery=False)
    assert {path: path.read_bytes() for path in (small / "report").rglob("*") if path.is_file()} == before


def notes(folder: Path) -> dict[str, str]:
    return {entry.key: " ".join(entry.notes) for entry in all_tables(summarise(read_results(folder)))}


def test_tests_say_what_they_were_corrected_for(tested: Path) -> None:
    found = notes(tested)
    assert "corrected by Holm over the 10 pairs of a column" in found["comparison"]
    assert "corrected by Holm over the 4 pairs of a column" in found["comparison_dropout"]
    assert "9 repetitions; Ash et al. 2020" in found["penalty"]
    assert "The t-tests are not corrected for their number" in found["penalty"]
    assert not any("left out" in sentence for sentence in cautions(summarise(read_results(tested))))


def test_comparisons_of_two_configurations_stand_apart(tmp_path: Path) -> None:
    for name in ("bald", "uniform"):
        for number in range(12):
            change = {"val_size": 50} if number > 5 else {}
            write_run(tmp_path, run_config(acquisition=name, repetition=number, **change), BALD[number % 3])
    tables = comparison_tables(summarise(read_results(tmp_path)))
    assert [entry.key for entry in tables] == ["comparison", "comparison_1"]
    assert tables[1].title.endswith("configuration 2")
    assert [len(entry.rows) for entry in tables] == [1, 1]


@pytest.mark.parametrize(
    ("repetitions", "words"),
    [
        ({"bald": 1, "uniform": 5}, "One repetition of BALD shows no spread"),
        ({"bald": 2, "uniform": 5}, "Fewer than 5 repetitions give no 95 % interval"),
        ({"bald": 4, "uniform": 9}, "Fewer than 5 repetitions give no 95 % interval"),
    ],
)
def test_the_smallest_number_of_repetitions_is_the_one_to_warn_of(
    tmp_path: Path, repetitions: dict[str, int], words: str
) -> None:
    for name, count in repetitions.items():
        for repetition in range(count):
            write_run(tmp_path, run_config(acquisition=name, repetition=repetition), BALD[repetition % 3])
    assert words in cautions(summarise(read_results(tmp_path)))[1]


def test_the_gallery_says_in_which_order_images_stand(tmp_path: Path) -> None:
    write_run(tmp_path, run_config(acquisition="uniform"), BALD[0])
    write_run(tmp_path, run_config(acquisition="bald"), BALD[0])
    write_run(tmp_path, run_config(acquisition="mbr"), BALD[0])
    gallery = make_gallery(read_results(tmp_path), None, tiny_data([n % 10 for n in range(4000)]))
    orders = {arm.label: arm.order for arm in gallery.arms}
    assert orders["Random"].startswith("Drawn at random")
    assert orders["BALD"].startswith("Highest score first")
    assert orders["MBR's images, CNN"].startswith("In the order of choice. Score: minus")
    assert "highest" not in gallery_figure(gallery, "").alt  # type: ignore[union-attr]


def test_words_name_the_arms_that_a_figure_draws(written: Path) -> None:
    figures = {drawn.key: drawn for drawn in all_figures(summarise(read_results(written)))[0]}
    for key in ("test_error", "test_error_linear", "calibration"):
        assert "Mean STD" in figures[key].alt
        assert "deterministic" not in figures[key].alt
    assert "BALD, deterministic" in figures["dropout_bald"].alt
    assert "calibration error" in figures["dropout_bald"].alt


def reach_axes(folder: Path, level: float) -> Axes:
    axes = Figure(figsize=(8, 5)).subplots()
    _reach_panel(axes, summarise(read_results(folder)), level)
    return axes


def marks(axes: Axes, marker: str) -> list[list[float]]:
    """Return where each line with this marker has its marks."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [sorted(np.atleast_1d(np.asarray(line.get_xdata(), dtype=float)).tolist()) for line in lines]


def test_what_was_not_reached_is_drawn_beyond_the_runs_end(small: Path) -> None:
    axes = reach_axes(small, 0.1)
    ticks = dict(zip((t.get_text() for t in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    assert ticks["not\nreached"] > 40  # the runs acquired 40 images
    reached_and_missed = marks(axes, "o")[:4]
    assert reached_and_missed[:3] == [[20, 20, 30], [], [10, 20]]
    assert [x > 40 for x in reached_and_missed[3]] == [True]
    # Quartiles of 20, 20, 30, and of 10, 20 and never: 15 to infinity, which ends in the strip.
    bars = [np.asarray(bar.get_paths()[0].vertices)[:, 0].tolist() for bar in axes.collections]
    assert bars[0] == [20, 25]
    assert bars[1][0] == 15
    assert bars[1][1] > 40


def test_an_unfinished_run_is_drawn_where_it_stands(small: Path) -> None:
    write_run(small, run_config(repetition=0), BALD[0][:2])
    assert marks(reach_axes(small, 0.1), ">")[:2] == [[], [10]]


def drawn_axes(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Axes]]:
    """Return the axes of every figure in its wide form, by the figure's key."""
    found: dict[str, list[Axes]] = {}

    def keep(
        key: str, title: str, alt: str, draw: Callable[[Figure], None], digest: str, *sizes: Any, **named: Any
    ) -> Any:
        canvas = Figure(figsize=(8, 5))
        draw(canvas)
        canvas.draw_without_rendering()
        found[key] = [axes for axes in canvas.axes if axes.get_visible()]

    monkeypatch.setattr("active_learning.report.figures.draw_figure", keep)
    gallery = make_gallery(summary.results, None, tiny_data([n % 10 for n in range(4000)]))
    assert all_figures(summary, gallery)[1] == []
    return found


def five_repetitions(folder: Path) -> Summary:
    for name, curves in (("bald", BALD), ("uniform", RANDOM)):
        for repetition in range(5):
            write_run(folder, run_config(acquisition=name, repetition=repetition), curves[repetition % 3])
    return summarise(read_results(folder))


def test_few_repetitions_are_drawn_one_by_one_and_five_as_a_band(
    small: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = drawn_axes(summarise(read_results(small)), monkeypatch)["test_error"][0]
    many = drawn_axes(five_repetitions(tmp_path_factory.mktemp("five")), monkeypatch)["test_error"][0]
    thin = [100 * np.array(curve) for curve in (*RANDOM, *BALD)]
    found = [np.asarray(line.get_ydata()) for line in few.lines if line.get_linewidth() < 1]
    np.testing.assert_allclose(found, thin)
    assert (len(few.collections), len(many.collections)) == (0, 2)
    assert not [line for line in many.lines if line.get_linewidth() < 1]


def test_every_curve_has_the_mark_of_its_function(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn_axes(summarise(read_results(small)), monkeypatch)["test_error"][0]
    functions = [ACQUISITION_FUNCTIONS[name] for name in ("uniform", "bald")]
    means = [line for line in axes.lines if line.get_linewidth() > 1]
    assert [(line.get_marker(), line.get_color()) for line in means] == [(f.marker, f.colour) for f in functions]


def test_every_panel_says_what_its_axes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_experiment(tmp_path, repetitions=5, rounds=12)
    figures = drawn_axes(summarise(read_results(tmp_path)), monkeypatch)
    assert {"test_error", "reach", "calibration", "classes", "penalty", "dropout_bald", "gallery"} <= set(figures)
    del figures["gallery"]  # pictures, and no axes
    for key, panels in figures.items():
        assert all(axes.get_xlabel() for axes in panels), key
        rows = {round(axes.get_position().y0, 3) for axes in panels}
        named = {round(axes.get_position().y0, 3) for axes in panels if axes.get_ylabel()}
        assert rows == named, key  # panels side by side may share an axis


@pytest.mark.parametrize("limits", [(24.8, 45.2), (30, 52), (0.3, 0.9), (2.1, 4.9), (11, 14), (0.001, 90)])
def test_ticks_are_round_numbers(limits: tuple[float, float]) -> None:
    axes = Figure().subplots()
    axes.plot(limits)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    log_axis(axes)
    low, high = axes.get_ylim()
    ticks = [float(tick) for tick in axes.get_yticks() if low <= tick <= high]
    steps = set(np.diff(ticks).round(9))
    mantissas = {f"{tick:.0e}"[0] if len(steps) > 1 else f"{min(steps):.0e}"[0] for tick in ticks}
    assert len(ticks) >= 3
    assert mantissas <= {"1", "2", "5"}


def test_levels_at_which_every_run_starts_are_left_out(tmp_path: Path) -> None:
    for name, start in (("bald", 0.04), ("uniform", 0.06)):
        write_run(tmp_path, run_config(acquisition=name, rounds=2), [start, 0.025, 0.015])
    summary = summarise(read_results(tmp_path))
    assert summary.levels == (0.05, 0.03, 0.02)
    assert [entry.at for entry in summary.estimates if entry.statistic == "acquired_to_reach"][:3] == [0.05, 0.03, 0.02]
    write_run(tmp_path, run_config(acquisition="mean_std", rounds=2), [0.2, 0.025, 0.015])
    assert summarise(read_results(tmp_path)).levels == (0.10, 0.05, 0.03, 0.02)


def test_a_folder_of_easy_runs_keeps_its_lowest_level(tmp_path: Path) -> None:
    write_run(tmp_path, run_config(rounds=1), [0.015, 0.012])
    assert summarise(read_results(tmp_path)).levels == (0.02,)


@pytest.mark.parametrize(("dataset", "shown"), [("mnist", True), ("mnist_5k", False)])
def test_figures_of_others_stand_in_the_main_figure_where_runs_are_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, shown: bool
) -> None:
    write_run(tmp_path, run_config(dataset=dataset, rounds=40), synthetic_curve(run_config(rounds=40)))
    axes = drawn_axes(summarise(read_results(tmp_path)), monkeypatch)["test_error"][0]
    crosses = {
        line.get_marker(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))  # type: ignore[arg-type]
        for line in axes.lines
        if line.get_color() == ACQUISITION_FUNCTIONS["bald"].colour and line.get_linestyle() == "None"
    }
    # To 10 % and 5 %; the errors at 1,000 images lie beyond the 400 of this run.
    assert crosses == ({"+": [(145, 10), (335, 5)], "x": [(150, 10), (296, 5)]} if shown else {})
    sources = {"Gal et al. 2017", "PyTorch re-implementation"}
    assert (sources <= set(axes.get_legend_handles_labels()[1])) == shown


def test_a_run_shorter_than_all_figures_of_others_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, run_config(dataset="mnist", rounds=4), BALD[0])
    summary = summarise(read_results(tmp_path))
    axes = drawn_axes(summary, monkeypatch)["test_error"][0]
    assert axes.get_legend_handles_labels()[1] == ["BALD (1)"]
    assert curve_caption(summary, cited=True) == "A line is a single run."
    write_run(tmp_path, run_config(dataset="mnist", rounds=4, repetition=1), BALD[1])
    assert curve_caption(summarise(read_results(tmp_path)), cited=True) == (
        "A thick line is the mean over the runs counted in brackets. A thin line is a single run."
    )


def test_crosses_at_the_end_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for acquisition in ("bald", "var_ratios"):
        write_run(tmp_path, run_config(dataset="mnist", rounds=100, acquisition=acquisition), [0.1] * 101)
    axes = drawn_axes(summarise(read_results(tmp_path)), monkeypatch)["test_error"][0]
    ends = [np.asarray(line.get_xdata(), float).max(initial=0) for line in axes.lines if line.get_marker() == "+"]
    assert ends == [1000, 1015, 0], "and the legend's, which is drawn nowhere"
    assert max(ends) < axes.get_xlim()[1]


def test_the_page_says_which_classes_and_what_mbr_is(tmp_path: Path) -> None:
    arms: list[dict[str, Any]] = [{"acquisition": "mbr"}, {"acquisition": "mbr", "learner": "field"}]
    for arm in arms:
        write_run(tmp_path, run_config(dataset="mnist", classes=(2, 8), **arm), BALD[0])
    page = write_report(summarise(read_results(tmp_path)), with_gallery=False).page.read_text()
    assert "<h1>Active learning on mnist, classes 2 and 8</h1>" in page
    assert "MBR is Minimum Bayes Risk: a Gaussian random field chooses the images" in page


@pytest.mark.parametrize(
    ("commits", "words"),
    [
        (["0123abc"], "from a checkout of commit 0123abc."),
        (["0123abc+"], "from a checkout of commit 0123abc, which had changes that are in no commit."),
        (["0123abc", "4567def"], "They are of several commits, 0123abc and 4567def: no one checkout"),
        ([], "No run names the commit that computed it."),
    ],
)
def test_the_command_names_its_commit_or_says_that_there_are_several(commits: list[str], words: str) -> None:
    assert words in _checkout(commits)


def test_the_readme_has_the_tables_of_the_paper(written: Path) -> None:
    reach, error = paper_tables(summarise(read_results(written)))
    cited = cited_figures()
    for name, row, error_row in zip(ACQUISITION_FUNCTIONS, reach.rows, error.rows, strict=False):
        records = [rows_of(written, f"{name}-MC_dropout=True", repetition) for repetition in range(3)]
        theirs = cited.acquired_to_reach["paper"][name]
        pairs = [(quartile_words(reached(records, level)), f"{theirs[level]}") for level in (0.1, 0.05)]
        assert [cell.text for cell in row] == [ACQUISITION_FUNCTIONS[name].label, *pairs[0], *pairs[1]]
        assert error_row[1].text == interval_words(at(records, "test_error", 1000))
    assert [row[2].text for row in error.rows] == ["4.66", "1.74", "1.80", "1.64", "-"]
    assert [row[3].text for row in error.rows] == ["3.73", "1.66", "1.81", "1.57", "1.81"]


@pytest.mark.parametrize(("errors", "of_paper", "of_other"), [
    ((0.01, 0.02), "in 3 of 3 cells", "in 1 of 1 cells"),
    ((0.018, 0.03),
     "in 2 of 3 cells; above in BALD at 1,000 images, % (2.40 against 1.80, among our runs of 1.80 to 3.00)",
     "in 0 of 1 cells; above in BALD at 1,000 images, % (2.40 against 1.81, among our runs of 1.80 to 3.00)"),
    ((0.06, 0.07),
     "in 0 of 3 cells; above in BALD to 10 % (150 against 145, below our runs of 150 to 150), BALD to 5 % (∞ against "
     "335, below our runs of ∞ to ∞) and BALD at 1,000 images, % (6.50 against 1.80, below our runs of 6.00 to 7.00)",
     "in 0 of 1 cells; above in BALD at 1,000 images, % (6.50 against 1.81, below our runs of 6.00 to 7.00)"),
])  # fmt: skip
def test_cells_in_which_others_stand_better_are_named(
    tmp_path: Path, errors: tuple[float, float], of_paper: str, of_other: str
) -> None:
    reached = 14 if errors[0] < 0.05 else 15
    for repetition, error in enumerate(errors):
        curve = [0.5] * reached + [0.09] * (101 - reached)
        if error < 0.05:
            curve[reached + 5 :] = [0.04] * (101 - reached - 5)
        curve[-1] = error
        write_run(tmp_path, run_config(dataset="mnist", rounds=100, repetition=repetition), curve)
    _, table = paper_tables(summarise(read_results(tmp_path)))
    assert table.notes[1:] == (
        f"Beside Gal et al. 2017: our means are at or below theirs {of_paper}.",
        f"Beside PyTorch re-implementation: our means are at or below theirs {of_other}.",
    )


def test_of_deterministic_arms_the_readme_has_the_figures_with_and_without_dropout(written: Path) -> None:
    readme = written.parent / "README.md"
    readme.write_text(f"{BEGIN}{END}")
    block = readme_block([written], readme)
    linked = re.findall(r"\[([^]]*)\]\(([^)]*dropout_[a-z_]*\.png)\)", block)
    assert [label for label, _ in linked] == ["Max Entropy", "BALD", "Variation Ratios", "Mean STD"]
    assert all((readme.parent / path).is_file() for _, path in linked)
    assert "|" not in block, "its Bayesian arms are those of experiment 1, whose tables stand there"


def test_a_report_for_which_there_is_no_memory_says_so(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("active_learning.report.command.summarise", MagicMock(side_effect=MemoryError))
    assert main([str(small)]) == 1
    assert (
        capsys.readouterr().err
        == "report: error: there is not enough memory: close other programs, and give the command again.\n"
    )


def test_what_cannot_stand_beside_the_paper_the_readme_tells_in_words(tmp_path: Path) -> None:
    folder, readme = tmp_path / "results", tmp_path / "README.md"
    for repetition, curve in enumerate(([0.5, 0.2, 0.1, 0.06, 0.04], [0.5, 0.1, 0.09, 0.08, 0.06])):
        write_run(folder, run_config(repetition=repetition), curve)
    readme.write_text(f"{BEGIN}{END}")
    block = readme_block([folder], readme)
    lower = "5 % in 1 of 2 runs, 3 % in 0 of 2 runs and 2 % in 0 of 2 runs"
    assert f"BALD: 10 % after 15, {lower}; 5.00 % after 40." in block
    assert "Each number is from 2 repetitions." in block
    assert "|" not in block
    named = folder.rename(tmp_path / "authors")
    assert "authors" not in readme_block([named], readme), "a preset of which the README does not tell"
    figure = "![Curves](authors/report/figures/test_error.png)"
    readme.write_text(f"{figure}{BEGIN}{END}")
    block = readme_block([named], readme)
    assert f"BALD: 10 % after 15, {lower}" in block
    assert "test_error.png" not in block


def test_the_committed_readme_is_mostly_not_generated() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text[text.index(BEGIN) : text.index(END)]) < len(text) / 3
