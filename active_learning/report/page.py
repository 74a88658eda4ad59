"""One self-contained HTML page: summary, figures, tables, pictures, and the commands that run everything again."""

import base64
import hashlib
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from active_learning.disk.record import Row
from active_learning.images.dataset import SPLIT
from active_learning.report.colours import DARK
from active_learning.report.drawing import Figure
from active_learning.report.figures import cited_points, stand_at_the_end
from active_learning.report.formats import NOTHING, Table, listed, number_cell, text_cell
from active_learning.report.gallery import Gallery, data_uri
from active_learning.report.records import visible
from active_learning.report.results import Arm, Results, Run, of_earlier_version
from active_learning.report.statistics import FEWEST_FOR_INTERVAL, repetitions_needed
from active_learning.report.summary import REACH, Estimate, Summary
from active_learning.report.tables import can_be_significant
from active_learning.settings.arms import commands
from active_learning.settings.config import ARM_FIELDS, FOLDER, OWN_FIELDS, data_name

TEMPLATES = Path(__file__).with_name("templates")
CAPTIONS = {
    "penalty": (
        "A row shows how often its function won, a column how often it lost. A win is a significant t-test; the tests "
        "are not corrected for their number."
    ),
    "classes": "An orange cell is above an even share, a violet one below it.",
    "gallery": "Below each round: the scores of its first and its last image.",
}
OF_FIELDS = (
    "MBR is Minimum Bayes Risk: a Gaussian random field chooses the images, and classifies too. MBR's images, CNN: the "
    "network is trained on these images."
)
ADDRESS = re.compile(r"https://[^\s<>&]*[^\s<>&.,;:)]")


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
    failures: Sequence[str],
    output_dir: Path,
) -> str:
    """Return the page. Names and numbers from result files are escaped; nothing is fetched.

    Args:
        summary: the numbers.
        tables: the first stands in the page's summary.
        figures: those of experiment 2 and of the gallery stand in their own sections.
        gallery: the acquired images.
        failures: sentences on figures that could not be drawn.
        output_dir: where the page will stand, for its links to the runs.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["pieces"] = pieces
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    environment.filters["linked"] = linked
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    captions = CAPTIONS | dict.fromkeys(("test_error", "test_error_linear"), curve_caption(summary, cited=True))
    captions |= {"calibration": curve_caption(summary), "reach": _reach_caption(summary)}
    pictures = [_picture(figure, captions.get(figure.key, "")) for figure in figures]
    return environment.get_template("report.html").render(
        title=_title(summary),
        subtitle=_subtitle(summary),
        folder=text_cell(visible(summary.results.path.name), _address(summary.results.path, output_dir)),
        dark=DARK,
        findings=findings(summary),
        cautions=cautions(summary),
        unreadable=summary.results.unreadable,
        way_out=summary.results.way_out,
        missing=[*summary.results.missing, *failures],
        tables=tables,
        figures=[p for p in pictures if not p.key.startswith("dropout_") and p.key != "gallery"],
        glance=next((picture for picture in pictures if picture.key == "gallery"), None),
        pairs=[picture for picture in pictures if picture.key.startswith("dropout_")],
        gallery=gallery,
        groups=_groups(summary.results, output_dir),
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


def linked(text: str) -> Markup:
    """Return a text, escaped, whose addresses are links.

    >>> print(linked("<b> See https://x.org/a."))
    &lt;b&gt; See <a href="https://x.org/a">https://x.org/a</a>.
    """
    return Markup(ADDRESS.sub(lambda found: f'<a href="{found[0]}">{found[0]}</a>', str(escape(text))))


def curve_caption(summary: Summary, cited: bool = False) -> str:
    """Say what the lines of a figure of curves are, of those that these results have."""
    counts = [len(arm.whole) for arm in summary.results.arms]
    sentences = ["A thick line is the mean over the runs counted in brackets."]
    if all(len(arm.runs) == 1 for arm in summary.results.arms):
        sentences = ["A line is a single run."]
    elif any(1 < n < FEWEST_FOR_INTERVAL for n in counts) or len(summary.results.runs) > sum(counts):
        sentences.append("A thin line is a single run.")
    if max(counts) >= FEWEST_FOR_INTERVAL:
        sentences.append("A band is the 95 % bootstrap interval of the mean.")
    others = cited_points(summary)
    if cited and others:
        beside = "; those at the end stand side by side" if stand_at_the_end(others, summary.end) else ""
        sentences.append(f"Crosses mark the results of others, in the colour of their function{beside}.")
    return " ".join(sentences)


def _reach_caption(summary: Summary) -> str:
    words = (
        "A row is a function, a mark is a run. The grey strip on the right holds the runs that did not reach the error."
    )
    if cited_points(summary):
        words += " Thin grey marks are the results of others; the tables name their sources."
    return words


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
        names = "all alike" if 1 < len(equal) == len(found) else _listed_arms(equal)
        sentence = f"Fewest images to {100 * level:.0f} % test error: {names}, {_reach_words(best)}"
        random = next((arm.label for arm in summary.results.arms if arm.acquisition == "uniform"), best.arm)
        if random not in equal:
            sentence += f". {random}: {_reach_words(summary.get(random, REACH, level))}"
        apart = _not_apart(
            [estimate for estimate in reached if estimate.arm in equal],
            [estimate for estimate in reached if estimate.arm not in equal],
        )
        sentences.append(f"{sentence}.{f' {apart}' if apart else ''}")
    ends = [summary.get(arm.label, "test_error", summary.end) for arm in summary.results.arms]
    means = [(estimate.mean, estimate) for estimate in ends if estimate.mean is not None]
    if means:
        mean, lowest = min(means, key=lambda entry: entry[0])
        words = f"{100 * mean:.2f} %" + (
            f" (mean of {lowest.repetitions} runs)" if lowest.repetitions > 1 else " (one run)"
        )
        apart = _not_apart([lowest], [other for _, other in means if other is not lowest])
        sentence = f"Lowest test error after {summary.end:,} acquired images: {lowest.arm}, {words}."
        sentences.append(f"{sentence}{f' {apart}' if apart else ''}")
    return sentences


def _not_apart(best: Sequence[Estimate], others: Sequence[Estimate]) -> str:
    """Say whose runs those of the best overlap with, or nothing."""
    highest = max(max(estimate.values.values()) for estimate in best)
    near = [other.arm for other in others if min(other.values.values()) <= highest]
    if not near or all(estimate.repetitions == 1 for estimate in best):
        return ""
    return (
        f"The runs of {_listed_arms([estimate.arm for estimate in best])} overlap with those of {_listed_arms(near)}."
    )


def _listed_arms(labels: Sequence[str]) -> str:
    """Return labels as a sentence has them; a label with a comma of its own gets brackets in its place.

    >>> _listed_arms(["BALD", "Max Entropy, deterministic"])
    'BALD and Max Entropy (deterministic)'
    """
    return listed(re.sub(r", (.*)", r" (\1)", label) for label in labels)


def _reach_rank(estimate: Estimate) -> tuple[float, float, int]:
    mean, median = (math.inf if value is None else value for value in (estimate.mean, estimate.median))
    return mean, median, -estimate.reached


def foundation(summary: Summary) -> list[str]:
    """Return how many repetitions stand behind the numbers, and which code if it is not all the same."""
    counts, commits = _repetitions(summary), summary.results.commits
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sentences = [
        f"Each number is from {words} repetition{'s' * (words != '1')}"
        + ("." if len(counts) == 1 else "; the tables say from how many.")
    ]
    if len(commits) > 1:
        changed = " (+: with changes that are in no commit)" if any(commit.endswith("+") for commit in commits) else ""
        sentences.append(
            f"The runs are of different code, of the commits {listed(commits)}{changed}. A mean can be over runs of "
            "several commits."
        )
    return sentences


def _repetitions(summary: Summary) -> list[int]:
    return sorted({len(arm.whole) for arm in summary.results.arms})


def cautions(summary: Summary) -> list[str]:
    """Return how much the numbers can bear, given how many repetitions stand behind them and which code ran them."""
    arms, counts = summary.results.arms, _repetitions(summary)
    first, *others = foundation(summary)
    sentences = [first]
    if 1 in counts:
        of = "" if len(counts) == 1 else f" of {listed(arm.label for arm in arms if len(arm.whole) == 1)}"
        sentences.append(f"One repetition{of} shows no spread: it gives no interval and no test.")
    if any(1 < count < FEWEST_FOR_INTERVAL for count in counts):
        sentences.append(
            f"Fewer than {FEWEST_FOR_INTERVAL} repetitions give no 95 % interval: the figures show the single runs, "
            "and the table of test errors the lowest and the highest."
        )
    return [*sentences, *_left_out(summary), *others]


def _left_out(summary: Summary) -> list[str]:
    """Say which tests of the functions are missing for want of repetitions; of the largest configuration only."""
    found = [c for c in summary.comparisons if c.family == "functions"]
    if not found:
        return []
    penalties = [
        f"There are no pairwise penalties: they need {FEWEST_FOR_INTERVAL} repetitions that all functions have."
    ]
    if can_be_significant(found):
        return penalties if summary.penalty is None else []
    compared, most = len({(c.first, c.second) for c in found}), max(c.repetitions for c in found)
    pairs = f"a corrected p-value of {compared} pairs" if compared > 1 else "the p-value of one pair"
    tests = (
        f"There are no paired tests: {pairs} can be below 5 % from {repetitions_needed(compared)} repetitions on, and "
        f"there are {most}."
    )
    if summary.penalty is None:
        return [tests, *penalties]
    return [tests, "The pairwise penalties are of tests that are not corrected for their number."]


def command(run: Run, repetitions: int, arms: Sequence[Arm]) -> str:
    """Return what computes runs of this configuration anew, in a folder of its own: a line for the shell."""
    recorded = [{"acquisition": arm.acquisition, **arm.runs[0].configuration} for arm in arms]
    shared = {key: run.dataset if key == "dataset" else value for key, value in run.configuration.items()}
    return " && ".join(map(shlex.join, commands(shared, recorded, run.rounds, repetitions)))


def _title(summary: Summary) -> str:
    datasets = dict.fromkeys(
        visible(data_name(run.dataset)) + _classes(run) for run in summary.results.runs if data_name(run.dataset)
    )
    return f"Active learning on {' and '.join(datasets) or 'unnamed data'}"


def _classes(run: Run) -> str:
    chosen = run.configuration.get("classes") or ()
    return f", classes {listed(visible(run.class_name(label)) for label in range(len(chosen)))}" if chosen else ""


def _subtitle(summary: Summary) -> str:
    arms, runs = len(summary.results.arms), len(summary.results.runs)
    queries = sorted({run.configuration.get("query", 0) for run in summary.results.runs})
    return (
        f"{arms} curve{'s' * (arms != 1)}, {runs} run{'s' * (runs != 1)}, up to {summary.end:,} acquired images, "
        f"{' or '.join(str(query) for query in queries)} in each round."
        + (f" {SPLIT}" if any(run.dataset.startswith(FOLDER) for run in summary.results.runs) else "")
        + (f" {OF_FIELDS}" if any(arm.acquisition == "mbr" for arm in summary.results.arms) else "")
    )


def _reach_words(estimate: Estimate) -> str:
    """Say how many images it took: the mean, as in the table below, or the median if not all runs reached the error."""
    if estimate.mean is not None:
        runs = f"mean of {_runs(estimate.repetitions)}" if estimate.repetitions > 1 else "one run"
        return f"{estimate.mean:,.0f} ({runs})"
    going, missed = len(estimate.unfinished), estimate.repetitions - estimate.reached
    unfinished = [f"{going} not finished"] if going else []
    if not estimate.reached:
        return "; ".join([f"not reached in {_runs(missed)}", *unfinished])
    if estimate.median is None or math.isinf(estimate.median):
        return "; ".join([f"reached in {estimate.reached} of {_runs(estimate.repetitions)}", *unfinished])
    notes = [_runs(estimate.repetitions + going), *([f"{missed} did not reach it"] if missed else []), *unfinished]
    return f"median {estimate.median:,.0f} ({', '.join(notes)})"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _picture(figure: Figure, caption: str) -> _Picture:
    wide, narrow = (data_uri(figure.files[f"{figure.key}{suffix}.svg"], "image/svg+xml") for suffix in ("", "-narrow"))
    return _Picture(figure.key, figure.title, figure.alt, caption, wide, narrow)


def _groups(results: Results, output_dir: Path) -> list[dict[str, Any]]:
    """Return each configuration with its runs and the commands that compute them."""
    groups, arms = [], results.arms
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
                "checkout": _checkout(
                    list(dict.fromkeys(commit for arm in members for commit in arm.commits)),
                    earlier=of_earlier_version(runs),
                ),
                "command": command(longest, repetitions, members),
                "table": _run_table(members, variant),
                "provenance": _provenance_table(members, variant, results.path, output_dir),
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


def _checkout(commits: Sequence[str], *, earlier: bool = False) -> str:
    """Say of which commit the runs are; a + behind a commit says that the checkout had changes."""
    if earlier:
        of = f" ({'commit' if len(commits) == 1 else 'commits'} {listed(commits)})" if commits else ""
        return (
            f"An earlier version{of} computed these runs. Its training cut batches otherwise and had other flags: this "
            "command computes the nearest that today's version can."
        )
    if not commits:
        return "This command computes these runs anew. No run names the commit that computed it."
    if len(commits) > 1:
        return (
            f"This command computes these runs anew. They are of several commits, {listed(commits)}: no one checkout "
            "gives all of them to the last digit. The last table names the commit of each run."
        )
    changes = ", which had changes that are in no commit" if commits[0].endswith("+") else ""
    return f"This command computes these runs anew, from a checkout of commit {commits[0].rstrip('+')}{changes}."


def _run_table(arms: Sequence[Arm], variant: int) -> Table:
    rows = tuple(
        (
            text_cell(f"{arm.label}, {run.repetition}"),
            number_cell(run.rounds, 0),
            number_cell(sum(sum(v for k, v in row.items() if k != "round") for row in run.seconds), 0),
            text_cell(_provenance(run, "started").replace("T", " ")),  # a space, where a narrow line may end
        )
        for arm in arms
        for run in arm.runs
    )
    note = "Started: each time that the run was started or continued."
    return Table(f"runs-{variant}", "Runs", ("run", "rounds", "seconds", "started"), rows, (note,))


def _provenance_table(arms: Sequence[Arm], variant: int, result_dir: Path, output_dir: Path) -> Table:
    rows = tuple(
        (
            text_cell(f"{arm.label}, {run.repetition}"),
            text_cell(visible(run.path.as_posix()), _address(result_dir / run.path, output_dir)),
            text_cell(_provenance(run, "commit")),
            text_cell(_provenance(run, "processor")),
            text_cell(_provenance(run, "engine")),
            text_cell(_versions(run.sessions)),
        )
        for arm in arms
        for run in arm.runs
    )
    headers = ("run", "folder", "commit", "processor", "passes by", "versions")
    note = "A + behind a commit: the checkout had changes that are in no commit."
    return Table(f"provenance-{variant}", "Where and with what each run was computed", headers, rows, (note,))


def _address(path: Path, start: Path) -> str:
    """Return the relative address of a file or folder, from a folder."""
    return quote(os.fsencode(Path(os.path.relpath(path, start)).as_posix()))


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
