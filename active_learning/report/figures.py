"""Which figures a summary has, and what each shows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas

from active_learning.report.cited_figures import cited_figures
from active_learning.report.drawing import (
    NARROW,
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
from active_learning.report.gallery import Gallery, GalleryRound
from active_learning.report.results import Arm
from active_learning.report.summary import REACH, SHARE, Summary

MARKERS = {"paper": ("D", "none"), "reimplementation": ("s", "none"), "careful_rerun": ("^", "none")}


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


def error_figure(summary: Summary, title: str = "") -> Figure:
    """Draw the mean test-error curves with their intervals, errors on a logarithmic axis."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        draw_curves(axes, _main_arms(summary), "test_error", 100)
        log_axis(axes)
        axes.set(xlabel="acquired images", ylabel="test error (%)", title=title)
        add_legend(canvas, axes)

    return draw_figure(
        "test_error", "Test error against acquired images", _curve_words(summary), draw, summary.results.digest
    )


def linear_error_figure(summary: Summary) -> Figure:
    """Draw the same curves on a linear axis, as the paper does."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        draw_curves(axes, _main_arms(summary), "test_error", 100)
        axes.set(xlabel="acquired images", ylabel="test error (%)")
        axes.set_ylim(bottom=0)
        add_legend(canvas, axes)

    title = "The same on a linear axis"
    return draw_figure("test_error_linear", title, _curve_words(summary), draw, summary.results.digest)


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
        add_legend(canvas, panels.flat[0])

    rows = len(_arms(summary))
    words = []
    for level in levels:
        medians = {a.label: (summary.get(a.label, REACH, level).quartiles or (0, np.inf, 0))[1] for a in _arms(summary)}
        best = min(medians, key=lambda label: medians[label])
        words.append(f"to {level:.0%}, {best} has the lowest median, {medians[best]:.0f}")
    alt = "Acquired images each repetition needed to reach an error: " + "; ".join(words) + "."
    height = 1.4 + 0.32 * rows
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

    alt = (
        "Expected calibration error and negative log likelihood on the test set against acquired images, a curve a "
        "function; the table of calibration has the numbers."
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
        canvas.axes[0].set(xlabel="class")

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
        axes.axhline(len(penalty.arms) - 0.5, color="white", linewidth=4)
        axes.tick_params(axis="x", rotation=90, labelsize="small")
        axes.set(xlabel="was beaten", ylabel="was significantly better")

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
    side = max(len(round_.images) for round_ in rounds)
    columns = -(-side // 2)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(len(gallery.arms), len(rounds), squeeze=False)
        for row, arm in zip(panels, gallery.arms, strict=True):
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            for axes, round_ in zip(row, arm.rounds, strict=False):
                axes.imshow(_mosaic(round_, columns), cmap="gray", interpolation="nearest")
                axes.set_xlabel(_score_range(round_), fontsize="x-small", labelpad=2)
            row[0].set_ylabel(arm.label.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize="small")
        for axes, round_ in zip(panels[0], rounds, strict=True):
            axes.set_title(f"round {round_.number}", fontsize="small")

    alt = (
        f"The images that {', '.join(arm.label for arm in gallery.arms)} acquired in rounds "
        f"{', '.join(str(round_.number) for round_ in rounds)}, the highest-scored first; the gallery has each of them."
    )
    wide = (1.2 + 0.3 * columns * len(rounds), 0.6 + 0.85 * len(gallery.arms))
    narrow = (NARROW, 0.5 + 0.62 * len(gallery.arms))
    return draw_figure("gallery", "What was acquired, at a glance", alt, draw, digest, wide, narrow)


def _mosaic(round_: GalleryRound, columns: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a round's images in rows of `columns`, on white."""
    height, width, *colours = round_.images[0].pixels.shape
    tiled = np.full((2 * (height + 1), columns * (width + 1), *colours), 255, dtype=np.uint8)
    for number, image in enumerate(round_.images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        tiled[top : top + height, left : left + width] = image.pixels
    return tiled


def _score_range(round_: GalleryRound) -> str:
    scores = [image.score for image in round_.images]
    if None in scores:
        return ""
    return f"{scores[0]} to {scores[-1]}" if scores[0] != scores[-1] else f"{scores[0]}"


def dropout_figures(summary: Summary) -> Iterator[Figure]:
    """Draw experiment 2: for each function, its curve with MC dropout beside that of the deterministic network."""
    for arm in summary.results.arms:
        pair = [
            other
            for other in summary.results.arms
            if (other.acquisition, other.variant, other.classifier) == (arm.acquisition, arm.variant, arm.classifier)
        ]
        if arm.deterministic or len(pair) < 2:
            continue

        def draw(canvas: Canvas, pair: Sequence[Arm] = pair) -> None:
            axes = canvas.subplots()
            draw_curves(axes, pair, "test_error", 100)
            log_axis(axes)
            axes.set(xlabel="acquired images", ylabel="test error (%)")
            add_legend(canvas, axes)

        ends = ", ".join(
            f"{a.label} {100 * float(np.nanmean(a.curves()[:, -1])):.2f} %"
            for a in pair
            if np.isfinite(a.curves()[:, -1]).any()
        )
        key = f"dropout_{arm.acquisition}" + (f"_{arm.variant}" if arm.variant else "")
        alt = f"Test error with and without MC dropout; at the end {ends}."
        yield draw_figure(
            key,
            f"{arm.label}: with and without MC dropout",
            alt,
            draw,
            summary.results.digest,
            (5.5, 3.8),
            (NARROW, 3.6),
        )


def _arms(summary: Summary) -> list[Arm]:
    return list(summary.results.arms)


def _main_arms(summary: Summary) -> list[Arm]:
    """Return all but the deterministic arms, which have figures of their own, or these if there are no others."""
    return [arm for arm in summary.results.arms if not arm.deterministic] or _arms(summary)


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
    axes.set_yticks(range(len(arms)), wrapped(arm.label for arm in arms))
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


def _curve_words(summary: Summary) -> str:
    """Say where the curves begin and end."""
    ends = []
    for arm in summary.results.arms:
        estimate = summary.get(arm.label, "test_error", summary.end)
        if estimate.mean is not None:
            ends.append(f"{arm.label} {100 * estimate.mean:.2f} %")
    words = f"Mean test error against acquired images, a curve a function. After {summary.end:,} images: "
    return words + (", ".join(ends) or "no run has come so far") + "."
