"""Figures of a summary, as PNG and SVG, wide for a page and narrow for a phone. Same results, same bytes."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning import statistics
from active_learning.cited_figures import cited_figures
from active_learning.results import Arm
from active_learning.summary import REACH, SHARE, Summary

mpl.use("Agg")  # figures are written to files, also where there is no display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

# Okabe and Ito's palette, told apart with every common colour vision; pale yellow is left out, it is lost on white.
PALETTE = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
MARKERS = {"paper": ("D", "none"), "reimplementation": ("s", "none"), "careful_rerun": ("^", "none")}
WIDE, NARROW = 8.0, 4.2  # inches; the narrow one fills a phone's width with its letters still legible
STYLE: Any = {
    "svg.hashsalt": "report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        key: its file name without suffix.
        title: one line.
        alt: what it shows, in words, for those who cannot see it.
        files: content by file name: KEY.png, KEY.svg, and KEY-narrow.svg.
    """

    key: str
    title: str
    alt: str
    files: dict[str, bytes] = field(repr=False)


def all_figures(summary: Summary) -> list[Figure]:
    """Draw every figure that the results have something for, in the order of the page."""
    makers: list[Callable[[Summary], Figure | None]] = [
        error_figure,
        linear_error_figure,
        reach_figure,
        calibration_figure,
        class_figure,
        penalty_figure,
    ]
    figures = [figure for make in makers if (figure := make(summary)) is not None]
    return figures + list(dropout_figures(summary))


def colour(acquisition: str) -> str:
    """Return an acquisition function's colour, the same in every figure."""
    known = list(ACQUISITION_FUNCTIONS)
    number = known.index(acquisition) if acquisition in known else len(known) + sum(acquisition.encode())
    return PALETTE[number % len(PALETTE)]


def error_figure(summary: Summary, title: str = "") -> Figure:
    """Draw the mean test-error curves with their intervals, errors on a logarithmic axis."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        _curves(axes, _main_arms(summary), "test_error", 100)
        _log_axis(axes)
        axes.set(xlabel="acquired images", ylabel="test error (%)", title=title)
        _legend(axes)

    return _drawn("test_error", "Test error against acquired images", _curve_words(summary), draw, summary)


def linear_error_figure(summary: Summary) -> Figure:
    """Draw the same curves on a linear axis, as the paper does."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        _curves(axes, _main_arms(summary), "test_error", 100)
        axes.set(xlabel="acquired images", ylabel="test error (%)")
        axes.set_ylim(bottom=0)
        _legend(axes)

    title = "The same on a linear axis"
    return _drawn("test_error_linear", title, _curve_words(summary), draw, summary)


def reach_figure(summary: Summary) -> Figure | None:
    """Draw the images acquired to reach each level: a dot a repetition, a bar at the median, cited figures hollow."""
    levels = [
        level for level in summary.levels if any(summary.get(a.label, REACH, level).reached for a in _arms(summary))
    ]
    if not levels:
        return None

    def draw(canvas: Canvas) -> None:
        columns = min(len(levels), 2 if canvas.get_figwidth() > NARROW else 1)
        panels = canvas.subplots(-(-len(levels) // columns), columns, sharey=True, squeeze=False)
        for axes, level in zip(panels.flat, levels, strict=False):
            _reach_panel(axes, summary, level)
        for axes in panels.flat[len(levels) :]:
            axes.set_visible(False)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        canvas.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3 if canvas.get_figwidth() > NARROW else 2,
            fontsize="small",
        )

    rows = len(_arms(summary))
    words = []
    for level in levels:
        medians = {a.label: (summary.get(a.label, REACH, level).quartiles or (0, np.inf, 0))[1] for a in _arms(summary)}
        best = min(medians, key=lambda label: medians[label])
        words.append(f"to {level:.0%}, {best} has the lowest median, {medians[best]:.0f}")
    alt = "Acquired images each repetition needed to reach an error: " + "; ".join(words) + "."
    height = 1.4 + 0.32 * rows
    return _drawn(
        "reach",
        "Acquired images to reach each error",
        alt,
        draw,
        summary,
        wide=(WIDE, 0.7 + height * -(-len(levels) // 2)),
        narrow=(NARROW, 0.9 + height * len(levels)),
    )


def calibration_figure(summary: Summary) -> Figure | None:
    """Draw the expected calibration error and the negative log likelihood along the curve."""
    if not any(np.isfinite(arm.curves("test_ece")).any() for arm in summary.results.arms):
        return None

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(*((1, 2) if canvas.get_figwidth() > NARROW else (2, 1)))
        _curves(left, _main_arms(summary), "test_ece", 100)
        left.set(xlabel="acquired images", ylabel="calibration error (%)")
        left.set_ylim(bottom=0)
        _curves(right, _main_arms(summary), "test_nll", 1)
        right.set(xlabel="acquired images", ylabel="negative log likelihood (nats)")
        _log_axis(right)
        handles, labels = left.get_legend_handles_labels()
        canvas.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3 if canvas.get_figwidth() > NARROW else 2,
            fontsize="small",
        )

    alt = (
        "Expected calibration error and negative log likelihood on the test set against acquired images, a curve a "
        "function; the table of calibration has the numbers."
    )
    return _drawn(
        "calibration", "Calibration along the curve", alt, draw, summary, wide=(WIDE, 4.2), narrow=(NARROW, 7.0)
    )


def class_figure(summary: Summary) -> Figure | None:
    """Draw each class's share of the acquired images as a heat map."""
    classes = [str(key) for key in summary.keys(SHARE)]
    arms = [arm for arm in summary.results.arms if summary.get(arm.label, SHARE, "0").values]
    if not arms:
        return None
    shares_ac = np.array([[100 * (summary.get(a.label, SHARE, c).mean or 0.0) for c in classes] for a in arms])
    even = 100 / len(classes)

    def draw(canvas: Canvas) -> None:
        reach = max(np.abs(shares_ac - even).max(), even / 2)  # so that chance does not look like a preference
        norm = mpl.colors.Normalize(even - reach, even + reach)
        rows = [arm.label for arm in arms]
        _heat_map(canvas, shares_ac, rows, classes, "PuOr_r", norm, ".0f")
        canvas.axes[0].set(xlabel="class")

    farthest = np.unravel_index(np.abs(shares_ac - even).argmax(), shares_ac.shape)
    alt = (
        f"Share of each class among the acquired images; farthest from even ({even:.0f} %) is class "
        f"{classes[farthest[1]]} of {arms[farthest[0]].label} with {shares_ac[farthest]:.0f} %."
    )
    height = 1.0 + 0.4 * len(arms)
    return _drawn(
        "classes", "Class balance of the acquired images (%)", alt, draw, summary, (WIDE, height), (NARROW, height)
    )


def penalty_figure(summary: Summary) -> Figure | None:
    """Draw the pairwise penalty matrix with its column means as a heat map."""
    penalty = summary.penalty
    if penalty is None:
        return None
    cells = np.vstack([penalty.matrix_aa, penalty.matrix_aa.mean(axis=0)])

    def draw(canvas: Canvas) -> None:
        norm = mpl.colors.Normalize(0, 1)
        _heat_map(canvas, cells, [*penalty.arms, "mean of the column"], penalty.arms, "Blues", norm, ".2f")
        axes = canvas.axes[0]
        axes.axhline(len(penalty.arms) - 0.5, color="white", linewidth=4)
        axes.tick_params(axis="x", rotation=90, labelsize="small")
        axes.set(xlabel="was beaten", ylabel="was significantly better")

    means = cells[-1]
    alt = (
        f"Pairwise penalty matrix; least often beaten: {penalty.arms[means.argmin()]} ({means.min():.2f}), "
        f"most often: {penalty.arms[means.argmax()]} ({means.max():.2f})."
    )
    size = 2.3 + 0.42 * len(penalty.arms)
    return _drawn(
        "penalty", "Pairwise penalties", alt, draw, summary, (min(WIDE, 2 + 1.4 * size), size), (NARROW, size)
    )


def dropout_figures(summary: Summary) -> Iterator[Figure]:
    """Draw experiment 2: for each function, its curve with MC dropout beside that of the deterministic network."""
    for arm in summary.results.arms:
        pair = [
            other
            for other in summary.results.arms
            if (other.acquisition, other.variant) == (arm.acquisition, arm.variant)
        ]
        if not arm.mc_dropout or len(pair) < 2:
            continue

        def draw(canvas: Canvas, pair: Sequence[Arm] = pair) -> None:
            axes = canvas.subplots()
            _curves(axes, pair, "test_error", 100)
            _log_axis(axes)
            axes.set(xlabel="acquired images", ylabel="test error (%)")
            _legend(axes)

        ends = ", ".join(
            f"{a.label} {100 * float(np.nanmean(a.curves()[:, -1])):.2f} %"
            for a in pair
            if np.isfinite(a.curves()[:, -1]).any()
        )
        key = f"dropout_{arm.acquisition}" + (f"_{arm.variant}" if arm.variant else "")
        alt = f"Test error with and without MC dropout; at the end {ends}."
        yield _drawn(key, f"{arm.label}: with and without MC dropout", alt, draw, summary, (5.5, 3.8), (NARROW, 3.6))


def _drawn(
    key: str,
    title: str,
    alt: str,
    draw: Callable[[Canvas], None],
    summary: Summary,
    wide: tuple[float, float] = (WIDE, 5.0),
    narrow: tuple[float, float] = (NARROW, 4.2),
) -> Figure:
    """Draw a figure in both widths; its files name the digest of the results that they show."""
    files = {}
    # Without a date the same curves give the same bytes.
    source = {"Source": summary.results.digest}
    for size, name, suffixes in ((wide, key, ("png", "svg")), (narrow, f"{key}-narrow", ("svg",))):
        with plt.rc_context(STYLE), _canvas(size) as canvas:
            draw(canvas)
            for suffix in suffixes:
                buffer = io.BytesIO()
                metadata = source if suffix == "png" else {**source, "Date": None}
                canvas.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
                files[f"{name}.{suffix}"] = buffer.getvalue()
    return Figure(key, title, alt, files)


@contextmanager
def _canvas(size: tuple[float, float]) -> Iterator[Canvas]:
    canvas = plt.figure(figsize=size)
    try:
        yield canvas
    finally:
        plt.close(canvas)


def _curves(axes: Axes, arms: Sequence[Arm], metric: str, factor: float) -> None:
    """Draw the mean of each arm over the repetitions that have come so far, in the band of their interval."""
    for arm in arms:
        curves_er = factor * arm.curves(metric)
        whole_er = curves_er[~np.isnan(curves_er).any(axis=1)]
        part_er = curves_er[np.isnan(curves_er).any(axis=1)]
        style: dict[str, Any] = {"color": colour(arm.acquisition), "linestyle": "-" if arm.mc_dropout else (0, (4, 2))}
        if arm.variant:
            style["marker"] = "o.xv"[arm.variant % 4]
        for curve_r in part_er:  # not all of its rounds are there: drawn alone, in no mean
            axes.plot(arm.acquired_r, curve_r, **style, linewidth=0.8, alpha=0.6)
        if len(whole_er):
            label = f"{arm.label} ({len(whole_er)})"
            axes.plot(arm.acquired_r, whole_er.mean(axis=0), **style, linewidth=1.6, label=label, markevery=0.1)
        if len(whole_er) > 1:
            low_r, high_r = statistics.bootstrap_interval(whole_er)
            axes.fill_between(arm.acquired_r, low_r, high_r, color=style["color"], alpha=0.18, linewidth=0)
    end = max((int(arm.acquired_r[-1]) for arm in arms), default=1)
    axes.set_xlim(0, max(end, 1))


def _log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with at least three plain numbers on it whatever its range."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize="small", title="mean (repetitions)", title_fontsize="small")


def _arms(summary: Summary) -> list[Arm]:
    return list(summary.results.arms)


def _main_arms(summary: Summary) -> list[Arm]:
    """Return the arms with MC dropout, if there are any: deterministic ones have figures of their own."""
    return [arm for arm in summary.results.arms if arm.mc_dropout] or _arms(summary)


def _reach_panel(axes: Axes, summary: Summary, level: float) -> None:
    """Draw one level: repetitions as dots, those that did not reach it as crosses at the right edge."""
    arms, cited = _arms(summary), cited_figures()
    values_by_arm = [np.array(list(summary.get(arm.label, REACH, level).values.values())) for arm in arms]
    numbers = [value for values in values_by_arm for value in values[np.isfinite(values)]]
    edge = 1.12 * max([*numbers, *_cited_values(summary, level), 1])
    for row, arm in enumerate(arms):
        estimate = summary.get(arm.label, REACH, level)
        values = np.array(list(estimate.values.values()))
        reached = values[np.isfinite(values)]
        axes.plot(
            reached, np.full(len(reached), row), "o", color=colour(arm.acquisition), alpha=0.55, markeredgewidth=0
        )
        missed = np.full(len(values) - len(reached), edge)
        axes.plot(missed, np.full(len(missed), row), "x", color=colour(arm.acquisition))
        if estimate.quartiles and np.isfinite(estimate.quartiles[1]):
            axes.plot(
                estimate.quartiles[1], row, "|", color=colour(arm.acquisition), markersize=16, markeredgewidth=2.5
            )
        for source, (marker, face) in MARKERS.items():
            value = cited.acquired_to_reach[source].get(arm.acquisition, {}).get(level)
            if value is not None and cited.comparable(arm):
                axes.plot(value, row + 0.3, marker, color="#444444", markerfacecolor=face, markersize=4.5)
    axes.set(title=f"to {100 * level:.0f} % error", xlim=(0, 1.04 * edge), xlabel="acquired images")
    axes.set_yticks(range(len(arms)), _wrapped(arm.label for arm in arms))
    axes.set_ylim(len(arms) - 0.4, -0.6)
    _reach_key(axes, summary)


def _cited_values(summary: Summary, level: float) -> list[float]:
    cited = cited_figures()
    arms = [arm for arm in summary.results.arms if cited.comparable(arm)]
    rows = [figures.get(arm.acquisition, {}) for figures in cited.acquired_to_reach.values() for arm in arms]
    return [row[level] for row in rows if level in row]


def _reach_key(axes: Axes, summary: Summary) -> None:
    """Add what the marks mean, drawn nowhere else."""
    cited = cited_figures()
    axes.plot([], [], "o", color="#444444", alpha=0.55, markeredgewidth=0, label="a repetition")
    axes.plot([], [], "|", color="#444444", markersize=12, markeredgewidth=2.5, label="median")
    axes.plot([], [], "x", color="#444444", label="not reached")
    if any(cited.comparable(arm) for arm in summary.results.arms):
        for source, (marker, face) in MARKERS.items():
            label = cited.sources[source].label
            axes.plot([], [], marker, color="#444444", markerfacecolor=face, markersize=5, label=label)


def _heat_map(
    canvas: Canvas,
    cells: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    rows: Sequence[str],
    columns: Sequence[str],
    palette: str,
    norm: mpl.colors.Normalize,
    form: str,
) -> None:
    """Draw a matrix with a number in every cell, light on dark fields."""
    axes = canvas.subplots()
    axes.grid(visible=False)
    image = axes.imshow(cells, cmap=palette, norm=norm, aspect="auto")
    axes.set_xticks(range(len(columns)), _wrapped(columns))
    axes.set_yticks(range(len(rows)), _wrapped(rows))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    form_size = "small" if canvas.get_figwidth() > NARROW else "x-small"
    for row, column in np.ndindex(*cells.shape):
        red, green, blue, _ = image.cmap(norm(cells[row, column]))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        text = format(cells[row, column], form)
        axes.text(column, row, text, ha="center", va="center", fontsize=form_size, color="white" if dark else "black")


def _wrapped(labels: Iterable[str]) -> list[str]:
    """Break labels at their commas, so that they leave room for what they label."""
    return [label.replace(", ", ",\n") for label in labels]


def _curve_words(summary: Summary) -> str:
    """Say where the curves begin and end."""
    ends = []
    for arm in summary.results.arms:
        estimate = summary.get(arm.label, "test_error", summary.end)
        if estimate.mean is not None:
            ends.append(f"{arm.label} {100 * estimate.mean:.2f} %")
    words = f"Mean test error against acquired images, a curve a function. After {summary.end:,} images: "
    return words + (", ".join(ends) or "no run has come so far") + "."


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure's files, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure in figures:
        for name, content in figure.files.items():
            (folder / name).write_bytes(content)
            paths.append(folder / name)
    return paths
