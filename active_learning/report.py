"""Curves to statistics, tables and figures, from result folders only."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.config import RunConfig
from active_learning.store import RunFolder, finished_curves

mpl.use("Agg")  # figures are written to files, also where there is no display

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402

ERROR_LEVELS = (0.10, 0.05, 0.02)

# Okabe and Ito's palette, told apart with every common colour vision: one colour a function in every figure.
COLOURS = dict(
    zip(ACQUISITION_FUNCTIONS, ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9"), strict=True)
)

Curves = npt.NDArray[np.float64]


def acquired_to_reach(curves_er: Curves, level: float, query: int) -> Curves:
    """Return how many images each repetition (E, rounds + 1) acquired until its error was first at most `level`.

    Returns:
        (E,) acquired images, the initial ones not counted; NaN where the level was not reached.

    >>> acquired_to_reach(np.array([[0.5, 0.1, 0.2], [0.5, 0.4, 0.3]]), 0.1, query=10)
    array([10., nan])
    """
    reached_er = curves_er <= level
    return np.where(reached_er.any(axis=1), reached_er.argmax(axis=1) * query, np.nan)


def label(name: str) -> str:
    """Return what a figure calls a curve: `BALD`, or `BALD, deterministic`."""
    acquisition, _, dropout = name.partition("-MC_dropout=")
    return ACQUISITION_FUNCTIONS[acquisition].label + ("" if dropout == "True" else ", deterministic")


def table(result_dir: Path, runs: Sequence[RunConfig]) -> str:
    """Return the terminal table: images acquired to reach each error level, error at the end, seconds a run."""
    rows = []
    for name, repetitions in _by_name(runs).items():
        curves = finished_curves(result_dir, name, repetitions[0].rounds)
        curves_er = np.array([curves[run.repetition] for run in repetitions if run.repetition in curves])
        if not len(curves_er):
            rows.append([label(name), 0])
            continue
        reached = [_reached(acquired_to_reach(curves_er, level, repetitions[0].query)) for level in ERROR_LEVELS]
        end = curves_er[:, repetitions[0].rounds]
        seconds = [_seconds(result_dir, run) for run in repetitions if run.repetition in curves]
        rows.append([label(name), len(curves_er), *reached, f"{_mean_std(100 * end, 2)} %", _mean_std(seconds, 0)])
    levels = [f"images to {level:.0%}" for level in ERROR_LEVELS]
    acquired = runs[0].rounds * runs[0].query
    headers = ["acquisition function", "repetitions", *levels, f"test error at {acquired}", "seconds a run"]
    return tabulate(rows, headers, disable_numparse=True)


def figure(result_dir: Path, runs: Sequence[RunConfig], title: str) -> tuple[Path, Path]:
    """Draw the mean test-error curves with bands of one standard deviation; return the PNG's and the SVG's path."""
    with plt.rc_context({"svg.hashsalt": "test_error", "axes.spines.top": False, "axes.spines.right": False}):
        drawn, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        for name, repetitions in _by_name(runs).items():
            curves = finished_curves(result_dir, name, repetitions[0].rounds)
            if curves:
                _draw(axes, name, np.array(list(curves.values())), repetitions[0].query)
        axes.set(xlabel="acquired images", ylabel="test error", yscale="log", title=title)
        ticks = [level for level in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if axes.get_ylim()[0] <= level]
        axes.set_yticks(ticks)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_minor_formatter("")
        axes.set_xlim(0, max(runs[0].rounds * runs[0].query, 1))
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend(frameon=False)
        paths = result_dir / "test_error.png", result_dir / "test_error.svg"
        for path in paths:
            # Without a date the same curves give the same bytes.
            drawn.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(drawn)
    return paths


def _draw(axes: plt.Axes, name: str, curves_er: Curves, query: int) -> None:
    acquisition, _, dropout = name.partition("-MC_dropout=")
    acquired = query * np.arange(curves_er.shape[1])
    mean, spread = curves_er.mean(axis=0), curves_er.std(axis=0, ddof=1 if len(curves_er) > 1 else 0)
    colour, style = COLOURS[acquisition], "-" if dropout == "True" else "--"
    axes.plot(acquired, mean, style, color=colour, linewidth=1.5, label=f"{label(name)} ({len(curves_er)})")
    if len(curves_er) > 1:
        axes.fill_between(acquired, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def _by_name(runs: Sequence[RunConfig]) -> dict[str, list[RunConfig]]:
    names = dict.fromkeys(run.name for run in runs)
    return {name: [run for run in runs if run.name == name] for name in names}


def _reached(acquired_e: Curves) -> str:
    missing = int(np.isnan(acquired_e).sum())
    words = [_mean_std(acquired_e[~np.isnan(acquired_e)], 0)] if missing < len(acquired_e) else []
    if missing:
        words.append(f"not reached: {missing} of {len(acquired_e)}")
    return ", ".join(words)


def _mean_std(values: Sequence[float] | Curves, digits: int) -> str:
    """Return mean +- sample standard deviation; one value has no deviation."""
    spread = f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _seconds(result_dir: Path, run: RunConfig) -> float:
    folder = RunFolder(result_dir, run)
    folder.load()
    return sum(value for row in folder.seconds for phase, value in row.items() if phase != "round")
