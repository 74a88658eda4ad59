"""One self-contained HTML page: summary, figures, tables, pictures, and how to run everything again."""

import base64
import hashlib
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from active_learning.disk.record import Row
from active_learning.report.drawing import Figure
from active_learning.report.formats import NOTHING, Table, number_cell, text_cell
from active_learning.report.gallery import Gallery, data_uri
from active_learning.report.records import visible
from active_learning.report.results import Arm, Run
from active_learning.report.statistics import repetitions_needed
from active_learning.report.summary import REACH, Estimate, Summary
from active_learning.settings.arms import commands
from active_learning.settings.config import ARM_FIELDS, OWN_FIELDS

TEMPLATES = Path(__file__).with_name("templates")
BAND = (
    "Lines: mean over the runs counted in brackets. Bands: 95 % bootstrap interval of that mean. "
    "A thin line is a run that is not finished."
)
CAPTIONS = {
    "test_error": BAND + " The error axis is logarithmic.",
    "test_error_linear": BAND,
    "calibration": BAND,
    "reach": (
        "Each row is a function, each axis ends where the runs did; crosses in the strip beyond are repetitions that "
        "did not reach the level. Small hollow marks are figures of others, which the tables name."
    ),
    "penalty": (
        "Read along a row: how often it won. Read down a column: how often it lost. A win is one of an uncorrected "
        "t-test."
    ),
    "gallery": "Below each round: the scores of its first and its last image.",
}


@dataclass(frozen=True)
class _Picture:
    """A figure as the template shows it."""

    key: str
    title: str
    alt: str
    caption: str
    wide_uri: str
    narrow_uri: str


def render_page(
    summary: Summary,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    gallery: Gallery,
    failures: Sequence[str] = (),
) -> str:
    """Return the page. Names and numbers from result files are escaped; nothing is fetched.

    Args:
        summary: the numbers.
        tables: the first stands in the page's summary.
        figures: those of experiment 2 and of the gallery stand in their own sections.
        gallery: the acquired images.
        failures: sentences on figures that could not be drawn.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["pieces"] = pieces
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pictures = [_picture(figure) for figure in figures]
    return environment.get_template("report.html").render(
        title=_title(summary),
        subtitle=_subtitle(summary),
        findings=findings(summary),
        cautions=cautions(summary),
        unreadable=summary.results.unreadable,
        missing=[*summary.results.missing, *failures],
        tables=tables,
        figures=[p for p in pictures if not p.key.startswith("dropout_") and p.key != "gallery"],
        glance=next((picture for picture in pictures if picture.key == "gallery"), None),
        pairs=[picture for picture in pictures if picture.key.startswith("dropout_")],
        gallery=gallery,
        groups=_groups(summary.results.arms),
        run_count=len(summary.results.runs),
        digest=summary.results.digest,
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def pieces(text: str) -> list[str]:
    """Return a cell's text in the parts between which a line may end.

    >>> pieces("1.94 ± 0.03 [1.91, 1.97] (3)")
    ['1.94', ' ± 0.03', ' [1.91, 1.97] (3)']
    """
    return re.split(r"(?= ± | \[| \(p )", text)


def findings(summary: Summary) -> list[str]:
    """Return what the numbers say, in sentences: who needed the fewest images, who ended lowest."""
    sentences = []
    for level in summary.levels:
        found = [summary.get(arm.label, REACH, level) for arm in summary.results.arms]
        reached = [estimate for estimate in found if estimate.reached]
        if not reached:
            sentences.append(f"No run reached {100 * level:.0f} % test error.")
            break
        best = min(reached, key=_reach_rank)
        equal = [estimate.arm for estimate in reached if _reach_rank(estimate) == _reach_rank(best)]
        names = "all alike" if 1 < len(equal) == len(found) else _listed(equal)
        sentence = f"Fewest images to {100 * level:.0f} % test error: {names}, {_median_words(best)}"
        random = next((arm.label for arm in summary.results.arms if arm.acquisition == "uniform"), best.arm)
        if random not in equal:
            sentence += f"; {random}: {_median_words(summary.get(random, REACH, level))}"
        sentences.append(sentence + ".")
    ends = [summary.get(arm.label, "test_error", summary.end) for arm in summary.results.arms]
    means = [(estimate.mean, estimate) for estimate in ends if estimate.mean is not None]
    if means:
        mean, lowest = min(means, key=lambda entry: entry[0])
        words = f"{100 * mean:.2f} %" + (
            f" (mean of {lowest.repetitions} runs)" if lowest.repetitions > 1 else " (one run)"
        )
        sentences.append(f"Lowest test error after {summary.end:,} acquired images: {lowest.arm}, {words}.")
    return sentences


def _reach_rank(estimate: Estimate) -> tuple[float, int]:
    return (math.inf if estimate.median is None else estimate.median, -estimate.reached)


def cautions(summary: Summary) -> list[str]:
    """Return how much the numbers can bear, given how many repetitions stand behind them."""
    counts = sorted({len(arm.whole) for arm in summary.results.arms})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sentences = [
        f"Behind each number stand{'s' if words == '1' else ''} {words} repetition{'s' * (words != '1')}"
        + ("" if len(counts) == 1 else ", as the tables say")
        + "."
    ]
    if 1 in counts:
        of = "" if len(counts) == 1 else f" of {_listed(a.label for a in summary.results.arms if len(a.whole) == 1)}"
        sentences.append(f"One repetition{of} shows no spread: no interval and no test can be given.")
    few = [count for count in counts if 1 < count < 5]
    if few and few[0] <= 3:
        sentences.append(
            f"That is few: the 95 % interval of {few[0]} values is their range, which holds the middle of the "
            f"distribution in {100 * (1 - 2 * 0.5 ** few[0]):.0f} % of cases."
        )
    elif few:
        sentences.append(f"That is few: a bootstrap interval of {few[0]} values is narrower than its 95 % promise.")
    return sentences + _power(summary)


def _power(summary: Summary) -> list[str]:
    """Say if the comparisons of functions are too many for their repetitions, so that no result could be significant.

    Those of the largest configuration only; the notes of the tables speak of every family.
    """
    found = [c for c in summary.comparisons if c.family == "functions"]
    compared = len({(c.first, c.second) for c in found})
    needed = repetitions_needed(compared) if compared else 0
    if max((c.repetitions for c in found), default=0) >= needed:
        return []
    return [
        f"No difference between functions can be significant after correction yet: {compared} paired permutation "
        f"tests need {needed} repetitions. The matrix of pairwise penalties counts uncorrected t-tests, which can win "
        "where these cannot."
    ]


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def command(run: Run, repetitions: int, arms: Sequence[Arm]) -> str:
    """Return what computes runs of this configuration anew, in a folder of its own: a line for the shell."""
    recorded = [{"acquisition": arm.acquisition, **arm.runs[0].configuration} for arm in arms]
    return " && ".join(map(shlex.join, commands(run.configuration, recorded, run.rounds, repetitions)))


def _title(summary: Summary) -> str:
    datasets = dict.fromkeys(str(run.configuration.get("dataset", "")) for run in summary.results.runs)
    return f"Active learning on {' and '.join(name for name in datasets if name) or 'unnamed data'}"


def _subtitle(summary: Summary) -> str:
    arms, runs = len(summary.results.arms), len(summary.results.runs)
    queries = sorted({run.configuration.get("query", 0) for run in summary.results.runs})
    return (
        f"{runs} run{'s' * (runs != 1)} of {arms} curve{'s' * (arms != 1)}, up to {summary.end:,} acquired images, "
        f"{' or '.join(str(query) for query in queries)} a round. Result folder: {visible(summary.results.path.name)}."
    )


def _median_words(estimate: Estimate) -> str:
    runs, median = estimate.repetitions, estimate.median
    going = len(estimate.unfinished)
    open_ = f"; {going} more {'is' if going == 1 else 'are'} not finished" if going else ""
    if not estimate.reached:
        return f"not reached in {runs} run{'s' * (runs != 1)}{open_}"
    if median is None or math.isinf(median):
        return f"reached in {estimate.reached} of {runs} runs{open_}"
    if runs + going == 1:
        return f"{median:,.0f} (one run)"
    missed = f", {runs - estimate.reached} of which did not reach it" if estimate.reached < runs else ""
    return f"median {median:,.0f} of {runs + going} runs{missed}{open_.replace('more ', '')}"


def _picture(figure: Figure) -> _Picture:
    wide, narrow = (data_uri(figure.files[f"{figure.key}{suffix}.svg"], "image/svg+xml") for suffix in ("", "-narrow"))
    return _Picture(figure.key, figure.title, figure.alt, CAPTIONS.get(figure.key, ""), wide, narrow)


def _groups(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return each configuration with its runs and the commands that compute them."""
    groups = []
    for variant in dict.fromkeys(arm.variant for arm in arms):
        members = [arm for arm in arms if arm.variant == variant]
        runs = [run for arm in members for run in arm.runs]
        longest = max(runs, key=lambda run: run.rounds)
        shared = [(key, value) for key, value in runs[0].configuration.items() if key not in ARM_FIELDS]
        own = [entry for arm in members for entry in arm.runs[0].configuration.items() if entry[0] in OWN_FIELDS]
        shared += dict.fromkeys(own)
        repetitions = 1 + max(run.repetition for run in runs)
        groups.append(
            {
                "shared": [*shared, ("rounds", longest.rounds)],
                "command": command(longest, repetitions, members),
                "table": _run_table(members, variant),
                "provenance": _provenance_table(members, variant),
                "runs": [
                    {
                        "title": f"{arm.label}, repetition {run.repetition}",
                        "command": command(run, run.repetition + 1, [arm]),
                    }
                    for arm in members
                    for run in arm.runs
                ],
            }
        )
    return groups


def _run_table(arms: Sequence[Arm], variant: int) -> Table:
    rows = tuple(
        (
            text_cell(f"{arm.label}, {run.repetition}"),
            number_cell(run.rounds, 0),
            number_cell(sum(sum(v for k, v in row.items() if k != "round") for row in run.seconds), 0),
            text_cell(_provenance(run, "started")),
        )
        for arm in arms
        for run in arm.runs
    )
    note = "A run that was stopped and continued lists each session."
    return Table(f"runs-{variant}", "Runs", ("run", "rounds", "seconds", "started"), rows, (note,))


def _provenance_table(arms: Sequence[Arm], variant: int) -> Table:
    rows = tuple(
        (
            text_cell(f"{arm.label}, {run.repetition}"),
            text_cell(visible(run.path.as_posix())),
            text_cell(_provenance(run, "commit")),
            text_cell(_provenance(run, "processor")),
            text_cell(_provenance(run, "engine")),
            text_cell(_versions(run.sessions)),
        )
        for arm in arms
        for run in arm.runs
    )
    headers = ("run", "folder", "commit", "processor", "passes by", "versions")
    note = "A + after a commit: the checkout had changes."
    return Table(f"provenance-{variant}", "Where and with what each run was computed", headers, rows, (note,))


def _provenance(run: Run, key: str) -> str:
    return "; ".join(dict.fromkeys(str(session.get(key) or NOTHING) for session in run.sessions)) or NOTHING


def _versions(sessions: Sequence[Row]) -> str:
    found = dict.fromkeys(
        " ".join(
            [f"Python {session.get('python', NOTHING)}", *(f"{k} {v}" for k, v in session.get("versions", {}).items())]
        )
        for session in sessions
    )
    return "; ".join(found) or NOTHING
