"""How figures are drawn: colours, sizes, axes, curves, heat maps. What they show is in `figures`."""

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.disk.files import write_atomically
from active_learning.report import statistics
from active_learning.report.colours import INK, WHITE, contrast, for_both_grounds
from active_learning.report.plotting import (
    Axes,
    Canvas,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    Normalize,
    NullFormatter,
    NullLocator,
    mpl,
    to_hex,
)
from active_learning.report.results import Arm
from active_learning.settings.learners import LEARNERS

UNKNOWN, UNKNOWN_MARKER = "#D05C00", "."
ROUND = (1, 2, 5, 10)  # the steps between ticks, and these times a power of ten
WIDE, NARROW = 8.0, 4.2  # inches; the narrow one fills a phone's width with its letters still legible
STYLE: Any = {
    "svg.hashsalt": "report",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": WHITE,
    "text.parse_math": False,  # a name with dollar signs is a name
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


EDGE = 0.02
"""Of the range of acquired images, beyond its ends: else a mark there is cut in half."""


def colour(acquisition: str) -> str:
    """Return an acquisition function's colour, the same in every figure; one that is not known has none of theirs."""
    return ACQUISITION_FUNCTIONS[acquisition].colour if acquisition in ACQUISITION_FUNCTIONS else UNKNOWN


def marker(acquisition: str) -> str:
    """Return an acquisition function's marker, the same in every figure."""
    return ACQUISITION_FUNCTIONS[acquisition].marker if acquisition in ACQUISITION_FUNCTIONS else UNKNOWN_MARKER


def draw_figure(
    key: str,
    title: str,
    alt: str,
    draw: Callable[[Canvas], None],
    digest: str,
    wide: tuple[float, float] = (WIDE, 5.0),
    narrow: tuple[float, float] = (NARROW, 4.2),
) -> Figure:
    """Draw a figure in both widths; its files name the digest of the results that they show."""
    files = {}
    # Without a date the same curves give the same bytes.
    source = {"Source": digest}
    for size, name, suffixes in ((wide, key, ("png", "svg")), (narrow, f"{key}-narrow", ("svg",))):
        with mpl.rc_context(), warnings.catch_warnings():
            mpl.rcdefaults()  # a user's own style could ask for LaTeX, or for other bytes
            mpl.rcParams.update(STYLE)
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in letters that the font has not
            canvas = Canvas(figsize=size)  # not pyplot's, which would change the backend of a notebook
            draw(canvas)
            for suffix in suffixes:
                buffer = io.BytesIO()
                metadata = source if suffix == "png" else {**source, "Date": None}
                canvas.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
                drawn = buffer.getvalue()
                files[f"{name}.{suffix}"] = for_both_grounds(drawn) if suffix == "svg" else drawn
    return Figure(key, title, alt, files)


def draw_curves(axes: Axes, arms: Sequence[Arm], metric: str, factor: float) -> None:
    """Draw the mean of each arm over the repetitions that have come as far as the longest.

    Around it stand single repetitions, thin, or the band of its interval where there are enough for one.
    """
    for place, arm in enumerate(arms):
        curves_er = factor * arm.curves(metric)
        whole = ~np.isnan(curves_er).any(axis=1)
        whole_er = curves_er[whole]
        style: dict[str, Any] = {"color": colour(arm.acquisition), "linestyle": line_style(arm.learner)}
        banded = len(whole_er) >= statistics.FEWEST_FOR_INTERVAL
        for curve_r in curves_er[~whole | (not banded and len(whole_er) > 1)]:
            axes.plot(arm.acquired_r, curve_r, **style, linewidth=0.6)
        if len(whole_er):
            label = f"{arm.label} ({len(whole_er)})"
            dots = _marks(arm, place / len(arms))
            axes.plot(arm.acquired_r, whole_er.mean(axis=0), **style, **dots, linewidth=1.6, label=label)
        if banded:
            low_r, high_r = statistics.bootstrap_interval(whole_er)
            axes.fill_between(arm.acquired_r, low_r, high_r, color=style["color"], alpha=0.18, linewidth=0)
    end = max((int(arm.acquired_r[-1]) for arm in arms), default=1)
    edge = EDGE * max(end, 1)
    axes.set_xlim(-edge, max(end, 1) + edge)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=ROUND))


def _marks(arm: Arm, offset: float) -> dict[str, Any]:
    """Return the marks on a curve: a seventh of the figure apart, and beside those of other curves.

    Those of a folder's second configuration are hollow.
    """
    hollow = {"markerfacecolor": WHITE} if arm.variant else {}
    return {"marker": marker(arm.acquisition), "markersize": 5.5, "markevery": (offset / 7, 1 / 7), **hollow}


def line_style(learner: str) -> Any:
    """Return a learner's line, the same in every figure."""
    dashes = LEARNERS[learner].dashes if learner in LEARNERS else (3, 1, 1, 1)
    return (0, dashes) if dashes else "-"


def log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with at least three plain numbers on it whatever its range.

    If no line has anything above 0, which has no logarithm, the axis is left as it is.
    """
    if not any((np.asarray(line.get_ydata(), dtype=float) > 0).any() for line in axes.lines):
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5) if low <= step * 10.0**decade <= high]
    if len(ticks) < 3:
        finer = (MaxNLocator(most, steps=ROUND).tick_values(low, high) for most in (5, 8, 12))
        ticks = next(inside for found in finer if len(inside := [float(t) for t in found if low <= t <= high]) > 2)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def add_legend(canvas: Canvas, axes: Axes) -> None:
    """Add the legend of one of its axes below a figure, where it can hide no curve."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 3 if canvas.get_figwidth() > NARROW else 2
        canvas.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")


def draw_heat_map(
    canvas: Canvas,
    cells: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    rows: Sequence[str],
    columns: Sequence[str],
    palette: str,
    norm: Normalize,
    form: str,
) -> None:
    """Draw a matrix with a number in every cell, white or dark as its field asks for."""
    axes = canvas.subplots()
    axes.grid(visible=False)
    # Not an image: in an SVG its cells are shapes with colours, which a dark page can change.
    mesh = axes.pcolormesh(range(len(columns)), range(len(rows)), cells, cmap=palette, norm=norm, shading="nearest")
    axes.invert_yaxis()
    axes.set_xticks(range(len(columns)), wrapped(columns))
    axes.set_yticks(range(len(rows)), wrapped(rows))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    form_size = "small" if canvas.get_figwidth() > NARROW else "x-small"
    for row, column in np.ndindex(*cells.shape):
        ground = to_hex(mesh.cmap(norm(cells[row, column])))
        tint = max(WHITE, INK, key=partial(contrast, ground))
        text = format(cells[row, column], form)
        axes.text(column, row, text, ha="center", va="center", fontsize=form_size, color=tint)


def wrapped(labels: Iterable[str]) -> list[str]:
    """Break labels at their commas, so that they leave room for what they label."""
    return [label.replace(", ", ",\n") for label in labels]


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure's files, and return their paths."""
    paths = []
    for figure in figures:
        for name, content in figure.files.items():
            write_atomically(folder / name, content)
            paths.append(folder / name)
    return paths
