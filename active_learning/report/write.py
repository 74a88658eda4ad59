"""The files of a report, and what a run prints at its end."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from active_learning.disk.files import write_atomically
from active_learning.interruption import Check
from active_learning.report.drawing import write_figures
from active_learning.report.figures import all_figures, error_figure
from active_learning.report.formats import Table, markdown_safe, plain, to_csv, to_json
from active_learning.report.gallery import Gallery, make_gallery
from active_learning.report.page import cautions, findings, render_page
from active_learning.report.results import NoResultsError
from active_learning.report.summary import Summary, summarise
from active_learning.report.tables import all_tables, headline
from active_learning.settings.config import RunConfig

REPORT_FOLDER = "report"


@dataclass(frozen=True)
class Report:
    """A written report: the page, every other file, and what could not be drawn, in sentences."""

    page: Path
    files: tuple[Path, ...]
    failures: tuple[str, ...] = ()


def of_runs(summary: Summary, runs: Sequence[RunConfig]) -> Summary:
    """Return what there is to say of these runs of a result folder, as far as they have come.

    Raises:
        NoResultsError: if none of them has finished a round.
    """
    wanted = {(run.name, run.repetition) for run in runs}
    results = summary.results.select(wanted, max(run.rounds for run in runs))
    if not results.arms:
        raise NoResultsError("None of these runs has finished a round.")
    return summary if results == summary.results else summarise(results)


def table(summary: Summary) -> str:
    """Return the table of the terminal."""
    return terminal_text(headline(summary))


def numbers(summary: Summary, page: Path | None = None) -> str:
    """Return every number as JSON, for scripts, with the paths of the curves and of the page.

    It is ASCII, since no other text is safe from what standard output makes of it.
    """
    names = dict.fromkeys(arm.name for arm in summary.results.arms)
    curves = [summary.results.path / f"{name}-repetitions.npy" for name in names]
    paths = {"curves": [str(path) for path in curves], "report": None if page is None else str(page)}
    return json.dumps({**json.loads(to_json(summary)), "paths": paths}, indent=1)


def draw_curves(summary: Summary, title: str) -> None:
    """Draw the test-error curves into the result folder, as PNG and SVG."""
    drawn = error_figure(summary, title)
    for name in (f"{drawn.key}.png", f"{drawn.key}.svg"):
        write_atomically(summary.results.path / name, drawn.files[name])


def write_report(
    summary: Summary,
    output_dir: Path | None = None,
    data_dir: Path | None = None,
    with_gallery: bool = True,
    check: Check = lambda: None,
) -> Report:
    """Write everything there is to say about a result folder, by default into its folder `report`."""
    output_dir = output_dir or summary.results.path / REPORT_FOLDER
    gallery = Gallery(reason="The pictures were not asked for.")
    if with_gallery:
        gallery = make_gallery(summary.results, data_dir, check=check)
    figures, failures = all_figures(summary, gallery)
    files = write_figures(figures, output_dir / "figures")
    contents = {
        "index.html": render_page(summary, all_tables(summary), figures, gallery, failures, output_dir),
        **texts(summary),
    }
    for name, content in contents.items():
        write_atomically(output_dir / name, content.encode("utf-8", "backslashreplace"))  # a path may be no text
        files.append(output_dir / name)
    return Report(output_dir / "index.html", tuple(files), tuple(failures))


def texts(summary: Summary) -> dict[str, str]:
    """Return the report's files that follow from the results alone, by name: the same wherever they are written."""
    return {
        "tables.md": markdown(summary),
        "numbers.csv": to_csv(summary),
        "numbers.json": to_json(summary),
    }


def terminal_text(entry: Table) -> str:
    """Return a table and its notes for a terminal of 100 columns."""
    return "\n".join([entry.text(), *(textwrap.fill(plain(note), 100) for note in entry.notes)])


def markdown(summary: Summary) -> str:
    """Return all findings, cautions and tables as Markdown."""
    notices = [*findings(summary), *cautions(summary), *summary.results.unreadable, *summary.results.missing]
    listed = "\n".join(f"- {markdown_safe(sentence)}" for sentence in notices)
    return "\n\n".join([listed, *(entry.markdown() for entry in all_tables(summary))]) + "\n"
