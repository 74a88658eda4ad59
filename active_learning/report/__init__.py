"""Reports of result folders: the table at the end of a run, a page with everything, the README's block.

    python -m active_learning.report RESULT_DIR            the table, and RESULT_DIR/report/index.html
    python -m active_learning.report RESULT_DIR --readme README.md

What it writes beside the page: tables.md, numbers.csv, numbers.json, and figures/ as PNG and SVG, all with the same
numbers. Result folders are only read.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from active_learning.config import RunConfig
from active_learning.disk.files import write_atomically
from active_learning.report.drawing import write_figures
from active_learning.report.figures import all_figures, error_figure
from active_learning.report.formats import Table, markdown_safe, plain, to_csv, to_json
from active_learning.report.gallery import Gallery, make_gallery
from active_learning.report.page import cautions, findings, render_page
from active_learning.report.results import NoResultsError, read_results
from active_learning.report.summary import Summary, summarise
from active_learning.report.tables import all_tables, cited_error_table, cited_reach_table, headline, reach_table
from active_learning.terminal import with_streams

REPORT_FOLDER = "report"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

Format = Literal["text", "markdown", "csv", "json"]


@dataclass(frozen=True)
class Report:
    """A written report: its numbers, the page, every other file, and what could not be drawn, in sentences."""

    summary: Summary
    page: Path
    files: tuple[Path, ...]
    failures: tuple[str, ...] = ()


def table(result_dir: Path, runs: Sequence[RunConfig]) -> str:
    """Return the terminal table of these runs, as far as they have come."""
    try:
        results = read_results(result_dir)
    except NoResultsError as error:
        return str(error)
    results = results.select({(run.name, run.repetition) for run in runs}, max(run.rounds for run in runs))
    return terminal_text(headline(summarise(results))) if results.arms else "None of these runs has finished a round."


def numbers(result_dir: Path, runs: Sequence[RunConfig], page: Path | None = None) -> str:
    """Return every number of these runs as JSON, for scripts, with the paths of their curves and of the page.

    It is ASCII, since no other text is safe from what standard output makes of it.

    Raises:
        NoResultsError: if none of them has finished a round.
    """
    results = read_results(result_dir)
    results = results.select({(run.name, run.repetition) for run in runs}, max(run.rounds for run in runs))
    if not results.arms:
        raise NoResultsError("None of these runs has finished a round.")
    curves = [result_dir / f"{name}-repetitions.npy" for name in dict.fromkeys(arm.name for arm in results.arms)]
    paths = {"curves": [str(path) for path in curves], "report": None if page is None else str(page)}
    return json.dumps({**json.loads(to_json(summarise(results))), "paths": paths}, indent=1)


def figure(result_dir: Path, runs: Sequence[RunConfig], title: str) -> tuple[Path, Path]:
    """Draw the test-error curves of these runs; return the PNG's and the SVG's path."""
    results = read_results(result_dir)
    results = results.select({(run.name, run.repetition) for run in runs}, max(run.rounds for run in runs))
    drawn = error_figure(summarise(results), title)
    paths = result_dir / "test_error.png", result_dir / "test_error.svg"
    for path in paths:
        write_atomically(path, drawn.files[path.name])
    return paths


def write_report(
    result_dir: Path, output_dir: Path | None = None, data_dir: Path | None = None, with_gallery: bool = True
) -> Report:
    """Write everything there is to say about a result folder, by default into its folder `report`.

    Raises:
        NoResultsError: if the folder holds no readable run.
    """
    results = read_results(result_dir)
    output_dir = output_dir or result_dir / REPORT_FOLDER
    summary = summarise(results)
    gallery = make_gallery(results, data_dir) if with_gallery else Gallery(reason="The pictures were not asked for.")
    figures, failures = all_figures(summary, gallery)
    files = write_figures(figures, output_dir / "figures")
    contents = {
        "index.html": render_page(summary, all_tables(summary), figures, gallery, failures),
        **texts(summary),
    }
    for name, content in contents.items():
        write_atomically(output_dir / name, content.encode())
        files.append(output_dir / name)
    return Report(summary, output_dir / "index.html", tuple(files), tuple(failures))


def texts(summary: Summary) -> dict[str, str]:
    """Return the report's files that follow from the results alone, by name: the same wherever they are written."""
    return {
        "tables.md": _markdown(summary, all_tables(summary)),
        "numbers.csv": to_csv(summary),
        "numbers.json": to_json(summary),
    }


def readme_block(result_dirs: Sequence[Path], readme: Path) -> str:
    """Return the README's results, markers included: figure and tables of each folder, without anything that varies.

    Only what follows from the folders is in it, so that a test can say whether the README is up to date.
    """
    parts = [BEGIN, "<!-- Written by `python -m active_learning.report`; edits are overwritten. -->"]
    for result_dir in result_dirs:
        summary = summarise(read_results(result_dir))
        address = Path(os.path.relpath(result_dir, readme.parent)).as_posix()
        drawn = error_figure(summary)
        tables = [headline(summary), reach_table(summary), cited_reach_table(summary), cited_error_table(summary)]
        parts += [
            f"### {address}",
            f"![{markdown_safe(drawn.alt)}]({address}/{REPORT_FOLDER}/figures/{drawn.key}.png)",
            "\n".join(f"- {markdown_safe(sentence)}" for sentence in [*findings(summary), *cautions(summary)]),
            *(entry.markdown() for entry in tables if entry is not None and entry.rows),
        ]
    return "\n\n".join([*parts, END])


def replace_block(text: str, block: str) -> str:
    """Return a README's text with what stands between the two markers replaced.

    Raises:
        ValueError: if the markers are not there, once each and in order.

    >>> replace_block(f"a {BEGIN} old {END} b", f"{BEGIN} new {END}") == f"a {BEGIN} new {END} b"
    True
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ValueError(f"The text must have {BEGIN} and, after it, {END}, once each.")
    return text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]


def committed_folders(root: Path) -> list[Path]:
    """Return the experiments below `result_npy` whose runs git knows; outside of a checkout, those that are there.

    Runs that are still being computed, or that nobody means to publish, are thereby left alone.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--", "result_npy/experiment_*/runs/*"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return sorted(path.parent for path in root.glob("result_npy/experiment_*/runs"))
    return [root / "result_npy" / name for name in sorted({path.split("/")[1] for path in listed.split("\0") if path})]


def make_parser() -> ArgumentParser:
    """Return the parser of this module's command."""
    parser = ArgumentParser(prog="python -m active_learning.report", description=(__doc__ or "").split(":")[0] + ".")
    parser.add_argument(
        "result_dir",
        nargs="*",
        type=Path,
        default=[],
        help="result folder(s); each gets a report of its own (default with --readme: the committed ones beside it)",
    )
    parser.add_argument("--output", type=Path | None, help="folder of the report (default: RESULT_DIR/report)")
    parser.add_argument("--data_dir", type=Path | None, help="where the data set is, for the pictures; as in main.py")
    parser.add_argument("--no_gallery", action="store_true", help="leave the pictures out: no data set is needed")
    parser.add_argument("--format", type=Format, default="text", help="what to print: the table, or all numbers")
    parser.add_argument("--readme", type=Path | None, help="a README whose results are to be written anew")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write and print what the flags ask for; return 0, 1 (a file cannot be read or written) or 2 (wrong usage)."""
    return with_streams("report", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = make_parser().parse_args(argv)
    if flags.readme and not flags.result_dir:
        flags.result_dir = committed_folders(flags.readme.absolute().parent)
    if not flags.result_dir:
        return _fail(2, "there is no result folder to report: name one that main.py wrote its results to.")
    if flags.output and len(flags.result_dir) > 1:
        return _fail(2, "--output takes one result folder: give them one after the other.")
    status = 0
    for result_dir in flags.result_dir:
        if not result_dir.is_dir():
            return _fail(2, f"{result_dir} is no folder: name one that main.py wrote its results to.")
        try:
            report = write_report(result_dir, flags.output, flags.data_dir, not flags.no_gallery)
        except (NoResultsError, OSError) as error:
            status = _fail(1, str(error))
            continue
        print(_rendered(report.summary, flags.format))
        print(f"Report: {report.page}", file=sys.stderr)
        for sentence in report.summary.results.missing:
            print(f"Missing: {sentence}", file=sys.stderr)
        for sentence in (*report.summary.results.unreadable, *report.failures):
            status = _fail(1, sentence)
    if flags.readme and not status:
        status = _write_readme(flags.result_dir, flags.readme)
    return status


def _write_readme(result_dirs: Sequence[Path], readme: Path) -> int:
    try:
        text = replace_block(readme.read_text(encoding="utf-8"), readme_block(result_dirs, readme))
        write_atomically(readme, text.encode())
    except (OSError, ValueError) as error:
        return _fail(1, f"{readme} cannot be rewritten: {error}")
    return 0


def _rendered(summary: Summary, form: Format) -> str:
    if form == "csv":
        return to_csv(summary).rstrip()
    if form == "json":
        return json.dumps(json.loads(to_json(summary)), indent=1)  # ASCII, as `numbers`
    return terminal_text(headline(summary)) if form == "text" else _markdown(summary, all_tables(summary)).rstrip()


def terminal_text(entry: Table) -> str:
    """Return a table and its notes for a terminal of 100 columns."""
    return "\n".join([entry.text(), *(textwrap.fill(plain(note), 100) for note in entry.notes)])


def _markdown(summary: Summary, tables: Sequence[Table]) -> str:
    notices = [*findings(summary), *cautions(summary), *summary.results.unreadable, *summary.results.missing]
    return (
        "\n\n".join(
            ["\n".join(f"- {markdown_safe(sentence)}" for sentence in notices), *(entry.markdown() for entry in tables)]
        )
        + "\n"
    )


def _fail(code: int, sentence: str) -> int:
    print(f"report: error: {sentence}", file=sys.stderr)
    return code
