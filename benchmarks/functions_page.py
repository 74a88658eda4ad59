"""The page that compares acquisition functions: `docs/functions.md` and its figure, from a result folder a data set.

Only finished repetitions count. A function is compared with the ones that the study's file names, repetition by
repetition. The same folders give the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.disk.files import write_atomically
from active_learning.report.drawing import Figure, colour, draw_figure
from active_learning.report.plotting import Axes, Canvas
from active_learning.report.records import Run
from active_learning.report.statistics import CONFIDENCE
from active_learning.settings.config import ExperimentConfig
from benchmarks.paired import (
    Difference,
    PageError,
    Row,
    difference_words,
    ends,
    error_difference,
    errors_at,
    finished_runs,
    flag_words,
    images_to,
    listed,
    mean_errors,
    mean_words,
    of_function,
    origins,
    paired_difference,
    reach_words,
    repetition_words,
    signed,
)

WIDTH = 7.0  # inches


@dataclass(frozen=True)
class Study:
    """One data set.

    Attributes:
        key: its name in the study's file.
        entry: what that file says of it.
        rows: of each function that has a finished repetition, by the function it is compared with; its own row there
            is not.
        alone: a row of each function with all of its finished repetitions, the lowest mean error first.
        absent: the labels of the functions without any.
    """

    key: str
    entry: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Row]]
    alone: tuple[Row, ...]
    absent: tuple[str, ...]


def write_page(study: Mapping[str, Any], configs: Mapping[str, ExperimentConfig], page: Path) -> list[Path]:
    """Write the page and, beside it and with its name, the figure; return the paths.

    Args:
        study: the content of the study's file.
        configs: the settings of every data set by its name there, with the folder of its results.
        page: the Markdown file.

    Raises:
        PageError: if nothing can be compared, or a folder holds what cannot be trusted.
    """
    studies = [read(key, entry, configs[key], study["against"]) for key, entry in study["studies"].items()]
    figure = forest_plot(page.stem, studies, study["against"][0])
    contents = {name: figure.files[name] for name in (f"{page.stem}.png", f"{page.stem}.svg")}
    contents[page.name] = render(study, configs, studies, figure).encode()
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(page.parent / name, content)
    return [page.parent / name for name in contents]


def read(key: str, entry: Mapping[str, Any], config: ExperimentConfig, against: Sequence[str]) -> Study:
    """Return what has been run on a data set."""
    runs = finished_runs(config)
    by_function = {name: of_function(runs, name) for name in config.acquisitions}
    there = {name: own for name, own in by_function.items() if own}
    alone = [Row(key, name, config.experiments, own) for name, own in there.items()]
    compared = {
        base: {
            name: row for name, own in there.items()
            if name != base and (row := _paired(key, name, own, by_function[base])).runs
        }
        for base in against if base in by_function
    }  # fmt: skip
    return Study(
        key,
        entry,
        compared,
        tuple(sorted(alone, key=lambda row: float(mean_errors(row.runs).mean()))),
        tuple(ACQUISITION_FUNCTIONS[name].label for name, own in by_function.items() if not own),
    )


def _paired(key: str, acquisition: str, ours: Sequence[Run], theirs: Sequence[Run]) -> Row:
    by_repetition = {run.repetition: run for run in theirs}
    paired = [run for run in ours if run.repetition in by_repetition]
    return Row(key, acquisition, len(ours), tuple(paired), tuple(by_repetition[run.repetition] for run in paired))


# Words


def render(
    study: Mapping[str, Any], configs: Mapping[str, ExperimentConfig], studies: Sequence[Study], figure: Figure
) -> str:
    """Return the page."""
    bases = [ACQUISITION_FUNCTIONS[name].label for name in study["against"]]
    whole = [one.entry["title"] for one in studies if "functions" not in one.entry]
    parts = [
        "# Acquisition functions compared where they are hard to tell apart",
        "<!-- Written by `python -m benchmarks.functions`; edits are overwritten. -->",
        f"{len(study['functions'])} acquisition functions on {listed(whole)}, each with the default training. "
        "Repetition k of two functions shares the split of the data, the first labelled images and the seeds; every "
        "difference is taken within such a pair.",
        f"![{figure.alt}]({figure.key}.png)",
        f"Bars are {100 * CONFIDENCE:.0f} % t-intervals of the mean paired difference to {bases[0]}; left of the line "
        f"is better. A hollow mark has one repetition, and no interval. The same [as SVG]({figure.key}.svg).",
        "`make functions` (`python -m benchmarks.functions --run true`) runs what is missing of the studies in "
        "`benchmarks/functions.yaml` into `result_npy/functions/`; `make functions_page` (`python -m "
        "benchmarks.functions`) writes this page from there.",
        "## How to read a row",
        _column_words(bases, studies),
        *(part for one in studies for part in _section(one, configs[one.key])),
        "## Where the numbers come from",
        *origins(row for one in studies for row in one.alone),
    ]
    return "\n\n".join(parts) + "\n"


def _column_words(bases: Sequence[str], studies: Sequence[Study]) -> str:
    intervals = sum(len(row.runs) > 1 for one in studies for rows in one.rows.values() for row in rows.values())
    sentences = [
        "The function with the lowest mean error comes first. Means are over the repetitions in the second column.",
        "To N %: images acquired until the test error is at most N %, the initial ones not counted; k of n: so many "
        "repetitions reached it, with the median over all of them, those that did not counted as infinite (∞).",
        "% at N: test error after N acquired images. Mean error: the area under the curve divided by the images "
        "acquired, in per cent.",
        f"Δ {listed(bases)}: the function minus that one, of the mean error and of the error after so many images, in "
        f"percentage points, with the {100 * CONFIDENCE:.0f} % t-interval of the paired repetitions; below 0 the "
        "function is better.",
        f"The intervals are not corrected for their number: of the {intervals} of the mean error, about "
        f"{(1 - CONFIDENCE) * intervals:.1f} would leave 0 out even if all functions were one.",
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _section(study: Study, config: ExperimentConfig) -> Iterator[str]:
    yield f"## {study.entry['title']}"
    yield from (study.entry[key] for key in ("why", "follows") if key in study.entry)
    own = {"acq_func": study.entry["functions"]} if "functions" in study.entry else {}
    flags = {**own, **study.entry["flags"], "experiments": config.experiments, "seed": config.seed}
    yield f"`{flag_words(flags)}`"
    if study.alone:
        yield _table(study)
    if study.absent:
        yield f"Not run yet: {', '.join(study.absent)}."


def _table(study: Study) -> str:
    levels, points = study.entry["levels"], study.entry["points"]
    headers = ["function", "repetitions", *(f"to {100 * level:.0f} %" for level in levels)]
    headers += [*(f"% at {point}" for point in points), "mean error"]
    for base in study.rows:
        label = ACQUISITION_FUNCTIONS[base].label
        headers += [f"Δ {label}", *(f"Δ {label} at {point}" for point in points)]
    cells = [_cells(study, row, levels, points) for row in study.alone]
    align = ("left", *("right" for _ in headers[1:]))
    return tabulate(cells, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _cells(study: Study, row: Row, levels: Sequence[float], points: Sequence[int]) -> list[str]:
    cells = [row.label, repetition_words(row), *(reach_words(images_to(row.runs, level)) for level in levels)]
    cells += [mean_words(errors_at(row.runs, point), 2) for point in points]
    cells += [mean_words(mean_errors(row.runs), 2)]
    for rows in study.rows.values():
        paired = rows.get(row.acquisition)
        differences = [error_difference(paired), *(_at(paired, point) for point in points)] if paired else []
        cells += [difference_words(each, 2) for each in differences or [None] * (1 + len(points))]
    return cells


def _at(row: Row, point: int) -> Difference | None:
    ours_e, theirs_e = errors_at(row.runs, point), errors_at(row.base, point)
    return paired_difference(ours_e, theirs_e) if len(ours_e) and len(theirs_e) else None


# The figure


def forest_plot(key: str, studies: Sequence[Study], base: str) -> Figure:
    """Draw every function's difference to `base` with its interval, a panel a data set.

    Raises:
        PageError: if no function can be compared.
    """
    shown = {one.entry["title"]: list(one.rows[base].values()) for one in studies if one.rows.get(base)}
    if not shown:
        raise PageError(
            f"There is no finished repetition of {base} and of another function to compare it with; --run true "
            "computes them."
        )
    label = ACQUISITION_FUNCTIONS[base].label

    def draw(canvas: Canvas) -> None:
        heights = [len(rows) for rows in shown.values()]
        panels = canvas.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, rows) in zip(panels, shown.items(), strict=True):
            _draw_panel(axes, title, sorted(rows, key=lambda row: error_difference(row).mean), label)

    size = WIDTH, 0.8 + sum(0.9 + 0.28 * len(rows) for rows in shown.values())
    words = [f"{title} {row.label} {difference_words(error_difference(row), 4)}" for title, rows in shown.items()
             for row in rows]  # fmt: skip
    digest = sha256("; ".join(words).encode()).hexdigest()
    return draw_figure(key, f"Differences to {label}", _alt(shown, label), draw, digest, size, size)


def _draw_panel(axes: Axes, title: str, rows: Sequence[Row], base: str) -> None:
    for line, row in enumerate(rows):
        difference, tint = error_difference(row), colour(row.acquisition)
        alone = bool(np.isnan(difference.half))
        if not alone:
            axes.hlines(line, *ends(difference), color=tint, linewidth=1.5)
        look: dict[str, Any] = {"color": tint, "markerfacecolor": "white" if alone else tint, "markersize": 5}
        marker = ACQUISITION_FUNCTIONS[row.acquisition].marker
        axes.plot(difference.mean, line, linestyle="none", marker=marker, **look)
    names = [
        row.label + (f" ({len(row.runs)} of {row.planned})" if len(row.runs) < row.planned else "") for row in rows
    ]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=1, zorder=1)
    axes.set_title(title, loc="left")
    axes.set_xlabel(f"mean test error along the curve, minus {base}'s (percentage points)", fontsize="small")


def _alt(shown: Mapping[str, Sequence[Row]], base: str) -> str:
    """Say what the figure shows; every number of it is in the tables."""
    told = []
    for title, rows in shown.items():
        ordered = sorted(rows, key=lambda row: error_difference(row).mean)
        ends_of = [f"{row.label} ({signed(error_difference(row).mean, 2)})" for row in (ordered[0], ordered[-1])]
        told.append(f"on {title} from {ends_of[0]} to {ends_of[1]}")
    return f"Mean test error along the curve minus {base}'s in percentage points, with intervals: {listed(told)}."
