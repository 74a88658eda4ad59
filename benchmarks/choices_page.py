"""The page of the study of choices: `docs/choices.md` and its figure, from the result folders of its arms.

Only finished repetitions count. An arm is compared with the base repetition by repetition, since these share the split,
the first images and the seeds. The same folders give the same bytes.
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
from active_learning.report.drawing import Figure, add_legend, colour, draw_figure
from active_learning.report.plotting import Axes, Canvas, FixedLocator, FuncFormatter, NullLocator
from active_learning.report.records import Run
from active_learning.report.statistics import CONFIDENCE
from active_learning.settings.config import ExperimentConfig
from benchmarks.paired import (
    SETTLED,
    Flags,
    PageError,
    Row,
    difference_words,
    ends,
    error_difference,
    errors_at,
    finished_runs,
    flag_words,
    images_difference,
    images_to,
    largest_calibration_errors,
    listed,
    mean_words,
    of_function,
    origins,
    reach_words,
    repetition_words,
    signed,
    training_seconds,
)

BASE = "base"
LEVELS = (0.10, 0.05)
POINT = 100  # acquired images at which the error is told, beside those at the end
MARKERS = "os^Dv"
WIDTH = 5.0  # inches; scaled to a phone's width its letters are still legible
LINEAR = 1.0  # percentage points up to which the figure's axis is linear where larger differences are drawn too


@dataclass(frozen=True)
class Question:
    """A section of the page.

    Attributes:
        title: its heading.
        sentences: why it is asked and what follows, as the study's file has them.
        changes: the flags of each arm that are not the base's.
        base: the base's rows that the arms are compared with.
        rows: the arms' rows that have a repetition to compare.
        absent: what has none, in words.
    """

    title: str
    sentences: tuple[str, ...]
    changes: Mapping[str, Flags]
    base: tuple[Row, ...]
    rows: tuple[Row, ...]
    absent: tuple[str, ...]


def write_page(study: Mapping[str, Any], configs: Mapping[str, ExperimentConfig], page: Path) -> list[Path]:
    """Write the page and, beside it and with its name, the figure; return the paths.

    Args:
        study: the content of the study's file.
        configs: the settings of every arm by its name, with the folder of its results.
        page: the Markdown file.

    Raises:
        PageError: if no arm can be compared, or a folder holds what cannot be trusted.
    """
    questions = read_questions(study, configs)
    if not any(question.rows for question in questions):
        folder = configs[BASE].result_dir.parent
        raise PageError(
            f"{folder} holds no finished repetition of {BASE} and of an arm to compare it with; --run true computes "
            "them."
        )
    figure = forest_plot(page.stem, questions)
    names = [f"{page.stem}.png", f"{page.stem}.svg"]
    contents = {name: figure.files[name] for name in names}
    contents[page.name] = render(study, configs[BASE], questions, figure).encode()
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(page.parent / name, content)
    return [page.parent / name for name in contents]


# Reading


def read_questions(study: Mapping[str, Any], configs: Mapping[str, ExperimentConfig]) -> list[Question]:
    """Return the study's questions in their order, with what has been run of them."""
    runs = {name: finished_runs(config) for name, config in configs.items()}
    return [_question(entry, configs, runs) for entry in study["questions"]]


def _question(
    entry: Mapping[str, Any], configs: Mapping[str, ExperimentConfig], runs: Mapping[str, Sequence[Run]]
) -> Question:
    against = entry.get("against", {})
    pairs = {(arm, function): against.get(function, function) for arm, function in _functions(entry, configs)}
    rows = [
        _paired_row(arm, function, configs[arm].experiments, runs[arm], of_function(runs[BASE], base))
        for (arm, function), base in pairs.items()
    ]
    return Question(
        title=entry["title"],
        sentences=tuple(entry[key] for key in ("why", "follows") if key in entry),
        changes=entry["arms"],
        base=tuple(
            Row(BASE, function, configs[BASE].experiments, of_function(runs[BASE], function))
            for function in dict.fromkeys(pairs.values())
        ),
        rows=tuple(row for row in rows if row.runs),
        absent=_absent(entry["arms"], rows),
    )


def _functions(entry: Mapping[str, Any], configs: Mapping[str, ExperimentConfig]) -> list[tuple[str, str]]:
    return [(arm, function) for arm in entry["arms"] for function in configs[arm].acquisitions]


def _paired_row(arm: str, acquisition: str, planned: int, runs: Sequence[Run], base: Sequence[Run]) -> Row:
    """Return an arm's row of the repetitions that are finished in both, and of the base the rounds that the arm has."""
    ours, theirs = ({run.repetition: run for run in side} for side in (of_function(runs, acquisition), base))
    paired = sorted(ours.keys() & theirs.keys())
    as_long = (theirs[k].first(ours[k].rounds) for k in paired)
    return Row(arm, acquisition, planned, tuple(ours[k] for k in paired), tuple(as_long))


def _absent(arms: Mapping[str, Flags], rows: Sequence[Row]) -> tuple[str, ...]:
    """Name the arms, or an arm's functions, that have no repetition to compare."""
    words: list[str] = []
    for arm in arms:
        every = [row for row in rows if row.arm == arm]
        missing = [row.label for row in every if not row.runs]
        words += [f"`{arm}`"] if len(missing) == len(every) else [f"`{arm}` with {label}" for label in missing]
    return tuple(words)


# Words


def render(study: Mapping[str, Any], base: ExperimentConfig, questions: Sequence[Question], figure: Figure) -> str:
    """Return the page."""
    points = _points(study, base)
    parts = [
        "# What each choice of the training is worth in labels",
        "<!-- Written by `python -m benchmarks.choices`; edits are overwritten. -->",
        *_introduction(study, base, questions),
        f"![{figure.alt}]({figure.key}.png)",
        _figure_words(questions, figure.key),
        "## How to read a row",
        _column_words(points, questions),
        *(part for question in questions for part in _section(question, points)),
        "## Where the numbers come from",
        "The base and an arm may have been run on processors of different kinds: then they differ by rounding too.",
        *origins(row for question in questions for row in (*question.base, *question.rows)),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(study: Mapping[str, Any], base: ExperimentConfig, questions: Sequence[Question]) -> list[str]:
    rounds = study.get("arm_rounds", base.rounds)
    labels = [ACQUISITION_FUNCTIONS[name].label for name in base.acquisitions]
    arms = sum(len(question.changes) for question in questions)
    return [
        f"{len(questions)} questions, {arms} arms: each arm is the program with the settings of `{BASE}` and a few "
        f"flags changed. An arm is a curve of {rounds} rounds for each of {listed(labels)}, unless it names "
        f"functions itself, in {base.experiments} repetitions. The base:",
        f"```\n{flag_words(study['base'])}\n```",
        f"What is not listed has its default. No result that is reported elsewhere uses the seed {base.seed}. "
        "Repetition k of an arm and repetition k of the base share the split of the data, the first labelled images "
        "and the seeds; every difference is taken within such a pair.",
        "`make choices` (`python -m benchmarks.choices --run true`) runs what is missing of the arms in "
        "`benchmarks/choices.yaml` into `result_npy/choices/`, `make choices_page` (`python -m benchmarks.choices`) "
        "writes this page from there.",
    ]


def _figure_words(questions: Sequence[Question], key: str) -> str:
    rows = [row for question in questions for row in question.rows]
    single = " A hollow mark has one repetition, and no interval." if any(len(row.runs) < 2 for row in rows) else ""
    few = " (k of n): k of n repetitions are finished." if any(len(row.runs) < row.planned for row in rows) else ""
    bars = f"Bars are {100 * CONFIDENCE:.0f} % t-intervals of the mean paired difference; left of the line is better."
    return f"{bars}{single}{few} The same [as SVG]({key}.svg)."


def _column_words(points: Sequence[int], questions: Sequence[Question]) -> str:
    rows = [row for question in questions for row in question.rows]
    intervals = sum(len(row.runs) > 1 for row in rows)
    sentences = [
        "A row is an arm with one acquisition function; the base comes first, with all of its rounds. Its means are "
        "over the repetitions named in the second column, an arm's over those that are finished in the base too; with "
        "fewer of them than the base has, only the differences are comparable.",
        "To N %: images acquired until the test error is at most N %, the initial ones not counted; k of n: so many "
        "repetitions reached it, with the median over all of them, those that did not counted as infinite (∞).",
        f"% at {listed([f'{point:,}' for point in points])}: test error after so many acquired images.",
        f"Δ error: arm minus base of the mean error along the curve (the area under it divided by the images "
        f"acquired), in percentage points, with the {100 * CONFIDENCE:.0f} % t-interval of the paired repetitions; "
        f"below 0 the arm is better. Δ images: the same of the images to {100 * LEVELS[0]:.0f} %, if all of both "
        "reached it.",
        f"Calibration: expected calibration error in per cent, the largest after round {SETTLED - 1}, mean over "
        "repetitions. Seconds: of the fits and of choosing the weight decay, a curve; the machine may be shared.",
        f"The intervals are not corrected for their number: of {intervals}, about "
        f"{(1 - CONFIDENCE) * intervals:.1f} would leave 0 out even if no choice mattered, and as the base's curves "
        "are in all of them, they err together.",
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _section(question: Question, points: Sequence[int]) -> Iterator[str]:
    yield f"## {question.title}"
    yield from question.sentences
    yield "\n".join(f"- `{arm}`: `{flag_words(flags)}`" for arm, flags in question.changes.items())
    if question.rows:
        yield _table([*question.base, *question.rows], points)
    if question.absent:
        yield f"Not run yet: {', '.join(question.absent)}."


def _points(study: Mapping[str, Any], base: ExperimentConfig) -> list[int]:
    end = study.get("arm_rounds", base.rounds) * base.query
    return [POINT, end] if end > POINT else [end]


def _table(rows: Sequence[Row], points: Sequence[int]) -> str:
    headers = ["arm, function", "repetitions", *(f"to {100 * level:.0f} %" for level in LEVELS)]
    headers += [f"% at {point:,}" for point in points]
    headers += ["Δ error", "Δ images", "calibration", "seconds"]
    cells = [_cells(row, points) for row in rows if row.runs]
    align = ("left", *("right" for _ in headers[1:]))
    return tabulate(cells, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _cells(row: Row, points: Sequence[int]) -> list[str]:
    compared = [
        difference_words(error_difference(row) if row.base else None, 2),
        difference_words(images_difference(row, LEVELS[0]) if row.base else None, 0),
    ]
    return [
        f"{row.arm}, {row.label}",
        repetition_words(row),
        *(reach_words(images_to(row.runs, level)) for level in LEVELS),
        *(mean_words(errors_at(row.runs, point), 2) for point in points),
        *compared,
        mean_words(largest_calibration_errors(row.runs), 1),
        mean_words(training_seconds(row.runs), 0),
    ]


# The figure


def forest_plot(key: str, questions: Sequence[Question]) -> Figure:
    """Draw every arm's difference to the base with its interval, a group a question."""
    shown = [question for question in questions if question.rows]
    rows = [row for question in shown for row in question.rows]
    lines = sum(1 + len({row.arm for row in question.rows}) for question in shown)

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        names = _draw_questions(axes, shown, _markers(rows))
        axes.set_yticks(list(names), list(names.values()), fontsize="small")
        axes.set_ylim(lines - 0.4, -1.1)
        axes.grid(visible=False, axis="y")
        farthest = max(abs(end) for row in rows for end in ends(error_difference(row)))
        axes.set_xlabel(_set_scale(axes, farthest), fontsize="small")
        axes.axvline(0, color="black", linewidth=1, zorder=1)
        axes.text(0, -0.65, BASE, ha="center", va="center", fontsize="small", backgroundcolor="white")
        add_legend(canvas, axes)

    size = WIDTH, 1.6 + 0.3 * lines
    return draw_figure(key, "Differences to the base", _alt(rows), draw, _digest(rows), size, size)


def _draw_questions(axes: Axes, questions: Sequence[Question], markers: Mapping[str, str]) -> dict[int, str]:
    """Draw all rows downwards; return the names of the lines that are arms."""
    names: dict[int, str] = {}
    line = 0
    for question in questions:
        axes.text(0.01, line, question.title, transform=axes.get_yaxis_transform(), va="center", **_TITLE)
        for arm in dict.fromkeys(row.arm for row in question.rows):
            line += 1
            rows = [row for row in question.rows if row.arm == arm]
            names[line] = _name(rows)
            for row, shift in zip(rows, np.linspace(-0.17, 0.17, len(rows)) if len(rows) > 1 else [0.0], strict=True):
                _draw_mark(axes, row, line + shift, markers[row.acquisition])
        line += 1
    return names


_TITLE: Any = {"fontsize": "small", "fontweight": "bold", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}


def _name(rows: Sequence[Row]) -> str:
    fewest = min(rows, key=lambda row: len(row.runs))
    return rows[0].arm + (f" ({repetition_words(fewest)})" if len(fewest.runs) < fewest.planned else "")


def _draw_mark(axes: Axes, row: Row, height: float, marker: str) -> None:
    difference, tint = error_difference(row), colour(row.acquisition)
    _, labels = axes.get_legend_handles_labels()
    label = row.label if row.label not in labels else None
    if not np.isnan(difference.half):
        axes.hlines(height, *ends(difference), color=tint, linewidth=1.5)
    face = "white" if np.isnan(difference.half) else tint
    look: dict[str, Any] = {"marker": marker, "color": tint, "markerfacecolor": face, "markersize": 5, "label": label}
    axes.plot(difference.mean, height, linestyle="none", **look)


def _markers(rows: Sequence[Row]) -> dict[str, str]:
    functions = dict.fromkeys(row.acquisition for row in rows)
    return {function: MARKERS[number % len(MARKERS)] for number, function in enumerate(functions)}


def _set_scale(axes: Axes, farthest: float) -> str:
    """Make the axis logarithmic beyond `LINEAR` if differences are drawn that would press the others together.

    Returns:
        The axis's label.
    """
    label = "mean test error along the curve, arm minus base\n(percentage points; left: better than base)"
    if farthest <= 3 * LINEAR:
        return label
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.8)
    low, high = (end(0.0, side) for end, side in zip((min, max), axes.get_xlim(), strict=True))  # the base is at 0
    steps = [step * 10**power for power in range(3) for step in (1, 2, 5)]
    ticks = [sign * step for step in [0, 0.5, *steps] for sign in (-1, 1) if low <= sign * step <= high]
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(ticks))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize="small")
    return f"{label}\n(beyond {LINEAR:g} on either side: logarithmic)"


def _alt(rows: Sequence[Row]) -> str:
    """Say what the figure shows; every number of it is in the tables."""
    ordered = sorted(rows, key=lambda row: error_difference(row).mean)
    lowest, highest = (
        f"{row.arm} with {row.label} ({signed(error_difference(row).mean, 2)})" for row in (ordered[0], ordered[-1])
    )
    return (
        "Mean test error along the curve, arm minus base, in percentage points, with intervals, a mark for each arm "
        f"and function: from {lowest} to {highest}. The tables below have all of them."
    )


def _digest(rows: Sequence[Row]) -> str:
    """Return a hash of what is drawn, which the figure's files name."""
    words = [f"{row.arm} {row.acquisition} {difference_words(error_difference(row), 4)}" for row in rows]
    return sha256("; ".join(words).encode()).hexdigest()
