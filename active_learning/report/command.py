"""The report's command: reads result folders and writes their reports, or the README's results.

main.py report RESULT_DIR            the table, and RESULT_DIR/report/index.html
main.py report --readme README.md    the results in the README, from the committed folders
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from active_learning.disk.files import in_the_way, refusal, write_atomically
from active_learning.disk.store import result_folders
from active_learning.interruption import Check
from active_learning.report import write
from active_learning.report.flags import Format, make_parser
from active_learning.report.formats import to_csv, to_json
from active_learning.report.readme import committed_folders, readme_block, replace_block
from active_learning.report.records import visible
from active_learning.report.results import NoResultsError, read_results
from active_learning.report.summary import Summary, summarise
from active_learning.settings.config import ConfigError
from active_learning.terminal import PROGRAM, fail, with_streams


def main(
    argv: Sequence[str] | None = None,
    prog: str = "python -m active_learning.report",
    check: Check = lambda: None,
) -> int:
    """Write and print what the flags ask for; return 0, 1 (a file cannot be read or written) or 2 (wrong usage)."""

    def work() -> int:
        try:
            return _main(argv, prog, check)
        except MemoryError:
            return _fail(1, "there is not enough memory: close other programs, and give the command again.")

    return with_streams("report", work)


def _main(argv: Sequence[str] | None, prog: str, check: Check) -> int:
    try:
        flags = make_parser(prog).parse_args(argv)
    except ConfigError as error:
        return _fail(2, str(error))
    if flags.readme and not flags.result_dir:
        flags.result_dir = committed_folders(flags.readme.absolute().parent)
    if not flags.result_dir:
        found = result_folders(Path("result_npy"))
        way = f"one, such as {found[0]}" if found else f"one that {PROGRAM} wrote its results to"
        return _fail(2, f"there is no result folder to report: name {way}.")
    if flags.output and len(flags.result_dir) > 1:
        return _fail(2, "--output takes the report of one result folder: give a command, and an --output, for each.")
    status = 0
    for result_dir in flags.result_dir:
        if not os.path.isdir(result_dir):  # noqa: PTH112 - pathlib's raises for a name that is too long
            return _fail(2, f"{visible(str(result_dir))} is no folder: name one that {PROGRAM} wrote its results to.")
        try:
            summary = summarise(read_results(result_dir))
        except (NoResultsError, OSError) as error:
            status = _fail(1, refusal(error) if isinstance(error, OSError) else str(error))
            continue
        try:
            report = write.write_report(summary, flags.output, flags.data_dir, not flags.no_gallery, check)
        except OSError as error:
            folder = flags.output or result_dir / write.REPORT_FOLDER
            way = "name another folder with --output, or make room and rights there"
            reason = in_the_way(error) or error.strerror or refusal(error)
            status = _fail(1, f"the report cannot be written into {folder} ({reason}): {way}.")
            continue
        print(_rendered(summary, flags.format))
        print(f"Report: {report.page}", file=sys.stderr)
        for sentence in summary.results.missing:
            print(f"Missing: {sentence}", file=sys.stderr)
        for sentence in (*summary.results.unreadable, *report.failures):
            status = _fail(1, sentence)
        if summary.results.way_out:
            print(summary.results.way_out, file=sys.stderr)
    if flags.readme and not status:
        status = _write_readme(flags.result_dir, flags.readme)
    return status


def _write_readme(result_dirs: Sequence[Path], readme: Path) -> int:
    try:
        text = replace_block(readme.read_text(encoding="utf-8"), readme_block(result_dirs, readme))
        write_atomically(readme, text.encode("utf-8", "backslashreplace"))  # a folder's name may be no text
    except (OSError, ValueError) as error:
        words = refusal(error) if isinstance(error, OSError) else str(error)
        return _fail(1, f"{readme} cannot be rewritten: {words.rstrip('.')}.")
    return 0


def _rendered(summary: Summary, form: Format) -> str:
    if form == "csv":
        return to_csv(summary).rstrip()
    if form == "json":
        return json.dumps(json.loads(to_json(summary)), indent=1)  # ASCII, as `numbers`
    return write.table(summary) if form == "text" else write.markdown(summary).rstrip()


def _fail(code: int, sentence: str) -> int:
    return fail(code, sentence, "report")
