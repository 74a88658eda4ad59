"""Which figures a summary has, and what each shows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from active_learning.report.cited_figures import cited_figures
from active_learning.report.colours import WHITE
from active_learning.report.drawing import (
    NARROW,
    ROUND,
    WIDE,
    Figure,
    add_legend,
    colour,
    draw_curves,
    draw_figure,
    draw_heat_map,
    log_axis,
    wrapped,
)
from active_learning.report.formats import FUNCTION
from active_learning.report.gallery import Gallery, GalleryRound
from active_learning.report.plotting import Axes, Canvas, MaxNLocator, Normalize
from active_learning.report.results import Arm
from active_learning.report.summary import REACH, SHARE, Estimate, Summary

GREY = "#444444"
THIN = {"paper": "+", "reimplementation": "x"}
"""Marks of the cited figures: lines only, so that none is taken for a run of ours."""

APART = 0.015
"""Of the acquired images, between the marks of functions at the end, where they would hide each other."""


def all_figures(summary: Summary, gallery: Gallery | None = None) -> tuple[list[Figure], list[str]]:
    """Draw every figure that the results have something for, in the order of the page.

    Returns:
        The figures, and a sentence for each that could not be drawn: the others and the numbers are none the worse.
    """
    makers: dict[str, Callable[[], Figure | None]] = {
        "test errors": partial(error_figure, summary),
        "test errors on a linear axis": partial(linear_error_figure, summary),
        "images to reach each error": partial(reach_figure, summary),
        "calibration": partial(calibration_figure, summary),
        "class balance": partial(class_figure, summary),
        "pairwise penalties": partial(penalty_figure, summary),
        **{
            f"{pair[0].label} without dropout": partial(dropout_figure, summary, pair)
            for pair in dropout_pairs(summary)
        },
        "the acquired images": partial(gallery_figure, gallery or Gallery(), summary.results.digest),
    }
    figures, failures = [], []
    for name, make in makers.items():
        try:
            figure = make()
        except Exception as error:  # whatever a result file makes of a figure, it takes no other with it
            failures.append(f"The figure of {name} could not be drawn ({type(error).__name__}: {error}).")
        else:
            figures += [figure] if figure else []
    return figures, failures


def error_figure(summary: Summary, title: str = "") -> Figure:
    """Draw the test-error curves beside the cited figures, errors on a logarithmic axis."""

    def draw(canvas: Canvas) -> None:
        axes = _error_axes(canvas, summary)
        log_axis(axes)
        axes.set(title=title)

    return draw_figure(
        "test_error", "Test error against acquired images", _curve_words(summary), draw, summary.results.digest
    )


def linear_error_figure(summary: Summary) -> Figure:
    """Draw the same curves on a linear axis, as the paper does."""
    title = "The same on a linear axis"

    def draw(canvas: Canvas) -> None:
        _error_axes(canvas, summary).set_ylim(bottom=0)

    return draw_figure("test_error_linear", title, _curve_words(summary), draw, summary.results.digest)


def _error_axes(canvas: Canvas, summary: Summary) -> Axes:
    axes = canvas.subplots()
    draw_curves(axes, _main_arms(summary), "test_error", 100)
    axes.set(xlabel="acquired images", ylabel="test error (%)")
    _draw_cited(axes, summary)
    add_legend(canvas, axes)
    return axes


def cited_points(summary: Summary) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return where others reached an error, (images, per cent) by source and function, as far as our runs went."""
    cited = cited_figures()
    functions = dict.fromkeys(arm.acquisition for arm in _main_arms(summary) if cited.comparable(arm))
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for source, function in product(("paper", "reimplementation"), functions):
        points = [(images, level) for level, images in cited.acquired_to_reach[source].get(function, {}).items()]
        if function in cited.test_errors[source]:
            points.append((cited.error_acquired, cited.test_errors[source][function]))
        shown = [(images, 100 * error) for images, error in points if images <= summary.end]
        if shown:
            found.setdefault(source, {})[function] = shown
    return found


def stand_at_the_end(cited: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], end: int) -> bool:
    """Return whether marks of others' results stand where our curves end, and so beside one another."""
    return any(images == end for functions in cited.values() for points in functions.values() for images, _ in points)


def _draw_cited(axes: Axes, summary: Summary) -> None:
    """Mark where the paper and the re-implementation reached an error, in their function's colour."""
    cited = cited_points(summary)
    for source, functions in cited.items():
        style: Any = {"marker": THIN[source], "linestyle": "none", "markersize": 8, "markeredgewidth": 1}
        for place, (function, points) in enumerate(functions.items()):
            shifted = [
                (images + APART * place * summary.end * (images == summary.end), error) for images, error in points
            ]
            axes.plot(*zip(*shifted, strict=True), **style, color=colour(function))
        axes.plot([], [], **style, color=GREY, label=cited_figures().sources[source].label)
        if stand_at_the_end({source: functions}, summary.end):
            axes.set_xlim(right=max(axes.get_xlim()[1], (1 + APART * len(functions)) * summary.end))


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
        for axes in panels[:, 0]:
            axes.set_ylabel(FUNCTION)
        add_legend(canvas, panels.flat[0])

    rows = len(_arms(summary))
    words = []
    for level in levels:
        known = {a.label: summary.get(a.label, REACH, level).median for a in _arms(summary)}
        medians = {label: median for label, median in known.items() if median is not None and np.isfinite(median)}
        best = min(medians, key=lambda label: medians[label], default="")
        lowest = f"{best} has the lowest median, {medians[best]:,.0f}" if best else "no function has a median"
        words.append(f"to {level:.0%}, {lowest}")
    alt = "Acquired images that each run needed to reach an error: " + "; ".join(words) + "."
    height = 1.6 + 0.36 * rows
    return draw_figure(
        "reach",
        "Acquired images to reach each error",
        alt,
        draw,
        summary.results.digest,
        wide=(WIDE, 0.7 + height * -(-len(levels) // 2)),
        narrow=(NARROW, 0.9 + height * len(levels)),
    )


def calibration_figure(summary: Summary) -> Figure | None:
    """Draw the expected calibration error and the negative log likelihood along the curve."""
    if not any(np.isfinite(arm.curves("test_ece")).any() for arm in summary.results.arms):
        return None

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(*((1, 2) if canvas.get_figwidth() > NARROW else (2, 1)))
        draw_curves(left, _main_arms(summary), "test_ece", 100)
        left.set(xlabel="acquired images", ylabel="calibration error (%)")
        left.set_ylim(bottom=0)
        draw_curves(right, _main_arms(summary), "test_nll", 1)
        right.set(xlabel="acquired images", ylabel="negative log likelihood (nats)")
        log_axis(right)
        add_legend(canvas, left)

    ends = [(arm.label, summary.get(arm.label, "test_ece", summary.end).mean) for arm in _main_arms(summary)]
    alt = (
        "Expected calibration error and negative log likelihood on the test set against acquired images, one curve "
        f"for each function. Calibration error after {summary.end:,} images: "
        + (", ".join(f"{label} {100 * mean:.2f} %" for label, mean in ends if mean is not None) or "not known")
        + "."
    )
    return draw_figure(
        "calibration",
        "Calibration along the curve",
        alt,
        draw,
        summary.results.digest,
        wide=(WIDE, 4.2),
        narrow=(NARROW, 7.0),
    )


def class_figure(summary: Summary) -> Figure | None:
    """Draw each class's share of the acquired images as a heat map."""
    classes = [str(key) for key in summary.keys(SHARE)]
    arms = [
        arm for arm in summary.results.arms if any(summary.get(arm.label, SHARE, class_).values for class_ in classes)
    ]
    if not arms:
        return None
    shares_ac = np.array([[100 * (summary.get(a.label, SHARE, c).mean or 0.0) for c in classes] for a in arms])
    even = 100 / len(classes)

    def draw(canvas: Canvas) -> None:
        reach = max(np.abs(shares_ac - even).max(), even / 2)  # so that chance does not look like a preference
        norm = Normalize(even - reach, even + reach)
        rows = [arm.label for arm in arms]
        draw_heat_map(canvas, shares_ac, rows, classes, "PuOr_r", norm, ".0f")
        canvas.axes[0].set(xlabel="class", ylabel=FUNCTION)

    farthest = np.unravel_index(np.abs(shares_ac - even).argmax(), shares_ac.shape)
    alt = (
        f"Share of each class among the acquired images; farthest from even ({even:.0f} %) is class "
        f"{classes[farthest[1]]} of {arms[farthest[0]].label} with {shares_ac[farthest]:.0f} %."
    )
    height = 1.0 + 0.4 * len(arms)
    return draw_figure(
        "classes",
        "Class balance of the acquired images (%)",
        alt,
        draw,
        summary.results.digest,
        (WIDE, height),
        (NARROW, height),
    )


def penalty_figure(summary: Summary) -> Figure | None:
    """Draw the pairwise penalty matrix with its column means as a heat map."""
    penalty = summary.penalty
    if penalty is None:
        return None
    cells = np.vstack([penalty.matrix_aa, penalty.matrix_aa.mean(axis=0)])

    def draw(canvas: Canvas) -> None:
        norm = Normalize(0, 1)
        draw_heat_map(canvas, cells, [*penalty.arms, "mean of the column"], penalty.arms, "Blues", norm, ".2f")
        axes = canvas.axes[0]
        axes.axhline(len(penalty.arms) - 0.5, color=WHITE, linewidth=4)
        axes.tick_params(axis="x", rotation=90, labelsize="small")
        tests = f"uncorrected t-tests at 5 %, n = {penalty.repetitions}"
        axes.set(xlabel=f"had the higher error\n({tests})", ylabel="had the lower error")

    means = cells[-1]
    alt = (
        f"Pairwise penalty matrix; least often beaten: {penalty.arms[means.argmin()]} ({means.min():.2f}), "
        f"most often: {penalty.arms[means.argmax()]} ({means.max():.2f})."
    )
    size = 2.3 + 0.42 * len(penalty.arms)
    return draw_figure(
        "penalty",
        "Pairwise penalties",
        alt,
        draw,
        summary.results.digest,
        (min(WIDE, 2 + 1.4 * size), size),
        (NARROW, size),
    )


def gallery_figure(gallery: Gallery, digest: str) -> Figure | None:
    """Draw what each function acquired: a row a function, a field a round, its images in reading order."""
    if not gallery.arms:
        return None
    rounds = max((arm.rounds for arm in gallery.arms), key=len)
    side = max(len(round_.images) for arm in gallery.arms for round_ in arm.rounds)
    columns = -(-side // 2)

    def draw(canvas: Canvas) -> None:
        step = 1 if canvas.get_figwidth() > NARROW else 2  # on a phone every other round, large enough to be seen
        panels = canvas.subplots(len(gallery.arms), len(rounds[::step]), squeeze=False)
        for row, arm in zip(panels, gallery.arms, strict=True):
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            for axes, round_ in zip(row, arm.rounds[::step], strict=False):
                axes.imshow(_mosaic(round_, columns), cmap="gray", interpolation="nearest")
                axes.set_xlabel(_score_range(round_), fontsize="x-small", labelpad=2)
            row[0].set_ylabel(arm.label.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize="small")
        for axes, round_ in zip(panels[0], rounds[::step], strict=True):
            axes.set_title(f"round {round_.number}", fontsize="small")

    alt = (
        f"The images that {', '.join(arm.label for arm in gallery.arms)} acquired in rounds "
        f"{', '.join(str(round_.number) for round_ in rounds)}, in order; below, each stands with its label and score."
    )
    wide = (1.2 + 0.3 * columns * len(rounds), 0.6 + 0.85 * len(gallery.arms))
    narrow = (NARROW, 0.5 + 0.75 * len(gallery.arms))
    return draw_figure("gallery", "What was acquired, at a glance", alt, draw, digest, wide, narrow)


def _mosaic(round_: GalleryRound, columns: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a round's images in rows of `columns`, on a grey that suits a white and a dark page."""
    height, width, *colours = round_.images[0].pixels.shape
    tiled = np.full((2 * (height + 1), columns * (width + 1), *colours), 128, dtype=np.uint8)
    for number, image in enumerate(round_.images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        tiled[top : top + height, left : left + width] = image.pixels
    return tiled


def _score_range(round_: GalleryRound) -> str:
    scores = [image.score for image in round_.images]
    if not scores or None in scores:
        return ""
    return f"{scores[0]} to {scores[-1]}" if scores[0] != scores[-1] else f"{scores[0]}"


def dropout_pairs(summary: Summary) -> list[list[Arm]]:
    """Return each function's arms with and without MC dropout, of those that have both."""
    arms = _arms(summary)
    pairs = [[arm, *(other for other in arms if other.deterministic and _alike(arm, other))] for arm in arms]
    return [pair for pair in pairs if pair[0].learner == "bayesian" and len(pair) > 1]


def _alike(arm: Arm, other: Arm) -> bool:
    return (other.acquisition, other.variant) == (arm.acquisition, arm.variant)


def dropout_key(pair: Sequence[Arm]) -> str:
    """Return the name of the figure of a function with and without MC dropout."""
    return f"dropout_{pair[0].acquisition}" + (f"_{pair[0].variant}" if pair[0].variant else "")


def dropout_figure(summary: Summary, pair: Sequence[Arm]) -> Figure:
    """Draw experiment 2: a function's curve with MC dropout beside that of the deterministic network."""

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2) if canvas.get_figwidth() > NARROW else canvas.subplots(2, 1)
        for axes, metric, factor, label in (
            (left, "test_error", 100, "test error (%)"),
            (right, "test_ece", 100, "calibration error (%)"),
        ):
            draw_curves(axes, pair, metric, factor)
            axes.set(xlabel="acquired images", ylabel=label)
        log_axis(left)
        right.set_ylim(bottom=0)
        add_legend(canvas, left)

    ends = ", ".join(
        f"{arm.label} {100 * float(np.nanmean(arm.curves()[:, -1])):.2f} %"
        for arm in pair
        if np.isfinite(arm.curves()[:, -1]).any()
    )
    return draw_figure(
        dropout_key(pair),
        f"{pair[0].label}: with and without MC dropout",
        f"Test error and calibration error with and without MC dropout; test error at the end {ends}.",
        draw,
        summary.results.digest,
        (WIDE, 3.6),
        (NARROW, 6.4),
    )


def _arms(summary: Summary) -> list[Arm]:
    return list(summary.results.arms)


def _main_arms(summary: Summary) -> list[Arm]:
    """Return all but the deterministic arms, which have figures of their own, or these if there are no others."""
    return [arm for arm in summary.results.arms if not arm.deterministic] or _arms(summary)


def _reach_panel(axes: Axes, summary: Summary, level: float) -> None:
    """Draw one level up to the run's end; beyond it stands a strip for the repetitions that did not reach it."""
    arms, end = _arms(summary), max(summary.end, 1)
    strip = (1.04 * end, 1.16 * end)
    axes.axvspan(*strip, color="#eeeeee", linewidth=0, zorder=0)
    for row, arm in enumerate(arms):
        _reach_row(axes, summary.get(arm.label, REACH, level), row, colour(arm.acquisition), strip)
        for source, mark in THIN.items():
            value = cited_figures().acquired_to_reach[source].get(arm.acquisition, {}).get(level)
            if value is not None and value <= end and cited_figures().comparable(arm):
                axes.plot(value, row + 0.36, mark, color=GREY, markersize=7)
    axes.set(title=f"to {100 * level:.0f} % error", xlabel="acquired images", xlim=(0, strip[1]))
    ticks = [tick for tick in MaxNLocator(5, steps=ROUND).tick_values(0, end) if 0 <= tick <= 0.9 * end]
    axes.set_xticks([*ticks, sum(strip) / 2], [*(f"{tick:,.0f}" for tick in ticks), "not\nreached"])
    axes.set_yticks(range(len(arms)), wrapped(arm.label for arm in arms))
    axes.set_ylim(len(arms) - 0.4, -0.5)
    _reach_key(axes, summary)


def _reach_row(axes: Axes, estimate: Estimate, row: int, tint: str, strip: tuple[float, float]) -> None:
    """Draw an arm's repetitions, median and a bar between its quartiles; what is infinite lies hollow in the strip."""
    values = np.array(list(estimate.values.values()))
    reached = values[np.isfinite(values)]
    missed = np.linspace(*strip, len(values) - len(reached) + 2)[1:-1]  # side by side, so that they can be counted
    lower, median, upper = estimate.quartiles or (np.nan,) * 3
    if len(values) > 1 and np.isfinite(lower) and not np.isnan(upper):
        axes.hlines(row, lower, min(upper, strip[1]), color=tint, linewidth=5, alpha=0.3)
    whole: dict[str, Any] = {"color": tint, "clip_on": False, "in_layout": False}  # marks at 0 are not cut in half
    axes.plot(reached, np.full(len(reached), row), "o", **whole, markersize=4, markeredgewidth=0)
    axes.plot(missed, np.full(len(missed), row), "o", color=tint, markerfacecolor=WHITE, markersize=5)
    so_far = list(estimate.unfinished.values())
    axes.plot(so_far, np.full(len(so_far), row), ">", color=tint, markerfacecolor=WHITE, markersize=5)
    if np.isfinite(median):
        axes.plot(median, row, "|", **whole, markersize=13, markeredgewidth=2.5)


def _reach_key(axes: Axes, summary: Summary) -> None:
    """Add what the marks mean, drawn nowhere else; what no panel has is left out."""
    estimates = [e for e in summary.estimates if e.statistic == REACH]
    axes.plot([], [], "o", color=GREY, markersize=4, markeredgewidth=0, label="a run")
    if any(e.repetitions > 1 for e in estimates):
        axes.plot([], [], color=GREY, alpha=0.3, linewidth=5, label="quartile to quartile")
    axes.plot([], [], "|", color=GREY, markersize=12, markeredgewidth=2.5, label="median")
    if any(e.unfinished for e in estimates):
        axes.plot([], [], ">", color=GREY, markerfacecolor=WHITE, markersize=5, label="not finished, so far")
    cited = cited_figures()
    if any(cited.comparable(arm) for arm in summary.results.arms):
        for source, mark in THIN.items():
            axes.plot([], [], mark, color=GREY, markersize=7, label=cited.sources[source].label)


def _curve_words(summary: Summary) -> str:
    """Say where the curves begin and end."""
    ends = []
    for arm in _main_arms(summary):
        estimate = summary.get(arm.label, "test_error", summary.end)
        if estimate.mean is not None:
            ends.append(f"{arm.label} {100 * estimate.mean:.2f} %")
    words = f"Mean test error against acquired images, one curve for each function. After {summary.end:,} images: "
    return words + (", ".join(ends) or "no run has come so far") + "."
