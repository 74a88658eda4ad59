"""What numbers look like: cells and tables for terminal, Markdown and page, and the files of all numbers."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from active_learning.report.cited_figures import cited_figures
from active_learning.report.records import visible
from active_learning.report.summary import UNITS, Estimate, Summary

NOTHING = "-"
FUNCTION = "acquisition function"  # what rows are, in tables and figures


@dataclass(frozen=True)
class Cell:
    """What a table shows, what it is sorted by (a number, or the text in lower case), where it leads on the page."""

    text: str
    order: float | str
    address: str = ""

    @property
    def sort_key(self) -> str:
        """What a browser sorts by: JavaScript reads `Infinity` as a number."""
        return self.order if isinstance(self.order, str) else repr(float(self.order)).replace("inf", "Infinity")


@dataclass(frozen=True)
class Table:
    """A table with its first column as row heads.

    Attributes:
        key: its name in file names and links.
        title: one line.
        headers: one a column.
        rows: as many cells as headers.
        notes: sentences that a reader needs to read it rightly.
        sortable: whether its rows may change places.
    """

    key: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    sortable: bool = True

    def text(self) -> str:
        """Render for a terminal: narrow, and in ASCII as far as the labels are."""
        rows = [[plain(cell.text) for cell in row] for row in self.rows]
        align = ("left", *("right" for _ in self.headers[1:]))
        return tabulate(rows, self.headers, tablefmt="simple", colalign=align if rows else None, disable_numparse=True)

    def markdown(self) -> str:
        """Render for Markdown: a heading, the table, its notes."""
        safe = [[markdown_safe(cell.text) for cell in row] for row in self.rows]
        headers = [markdown_safe(header) for header in self.headers]
        align = ("left", *("right" for _ in headers[1:]))
        table = tabulate(safe, headers, tablefmt="pipe", colalign=align if safe else None, disable_numparse=True)
        return "\n\n".join([f"**{markdown_safe(self.title)}**", table, *map(markdown_safe, self.notes)])


def markdown_safe(text: str) -> str:
    r"""Return text that Markdown shows as it is: no tags, no table cells, no links, no emphasis.

    >>> print(markdown_safe(r"<b> | [a](b) *c* \|"))
    &lt;b> \| \[a\](b) \*c\* \\\|
    """
    return re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def text_cell(text: str, address: str = "") -> Cell:
    """Return a cell of words."""
    return Cell(text, text.casefold(), address)


def number_cell(value: float, digits: int) -> Cell:
    """Return a cell of a number, also an infinite one."""
    return Cell("∞" if math.isinf(value) else f"{value:,.{digits}f}", value)


def signed_cell(value: float | None, digits: int) -> Cell:
    """Return a cell of a difference with its sign."""
    if value is None or not math.isfinite(value):
        return Cell(NOTHING, math.inf)
    return Cell(f"{value:+,.{digits}f}", value)


def difference_cell(ours: float, theirs: float | None, digits: int) -> Cell:
    """Return a cell of our value minus a cited one."""
    return signed_cell(None if theirs is None else ours - theirs, digits)


def cited_cell(value: float | None) -> Cell:
    """Return a cell of another's figure."""
    return Cell(NOTHING, math.inf) if value is None else Cell(f"{value:g}", value)


def mean_cell(estimate: Estimate, runs: int, digits: int, factor: float = 1, spread: bool = True) -> Cell:
    """Return a cell of mean ± standard deviation, and of how many runs if these are not all `runs` of the arm."""
    if estimate.mean is None:
        return Cell(NOTHING, math.inf)
    text = f"{factor * estimate.mean:,.{digits}f}"
    if spread and estimate.std is not None:
        text += f" ± {factor * estimate.std:,.{digits}f}"
    return Cell(text + (f" ({estimate.repetitions})" if estimate.repetitions != runs else ""), estimate.mean)


def reach_cell(estimate: Estimate) -> Cell:
    """Return mean and deviation if all repetitions reached the level, else how many did and how many still may."""
    if estimate.mean is not None:
        return mean_cell(estimate, estimate.repetitions, 0)
    more = f"+{len(estimate.unfinished)}" if estimate.unfinished else ""
    return Cell(f"{estimate.reached}/{estimate.repetitions}{more}", math.inf)


def quartile_cell(estimate: Estimate) -> Cell:
    """Return a cell of median [quartiles] (reached/run, unfinished)."""
    if estimate.quartiles is None:
        return Cell(NOTHING, math.inf)
    lower, median, upper = (_count(value) for value in estimate.quartiles)
    unfinished = f", {len(estimate.unfinished)} unfinished" if estimate.unfinished else ""
    spread = f" [{lower}, {upper}]" if estimate.repetitions + len(estimate.unfinished) > 1 else ""
    order = math.inf if estimate.median is None else estimate.median
    return Cell(f"{median}{spread} ({estimate.reached}/{estimate.repetitions}{unfinished})", order)


def _count(value: float) -> str:
    if math.isnan(value):
        return "?"
    return "∞" if math.isinf(value) else f"{value:,.0f}"


def interval_cell(estimate: Estimate, digits: int, factor: float) -> Cell:
    """Return a cell of mean ± standard deviation [interval, or lowest and highest of few runs] (runs)."""
    cell = mean_cell(estimate, estimate.repetitions, digits, factor)
    if estimate.mean is None:
        return cell
    low_high = [f"{factor * end:.{digits}f}" for end in estimate.brackets or ()]
    interval = f" [{', '.join(low_high)}]" if low_high else ""
    return Cell(f"{cell.text}{interval} ({estimate.repetitions})", cell.order)


def to_csv(summary: Summary) -> str:
    """Return every number, one statistic of one arm a line; repetitions are split by spaces."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(_record(summary.estimates[0])), lineterminator="\n")
    writer.writeheader()
    for estimate in summary.estimates:
        record = _record(estimate)
        # A repetition that did not reach the level keeps its place.
        record["values"] = " ".join("inf" if value is None else f"{value!r}" for value in record["values"].values())
        record["unfinished"] = " ".join(map(str, record["unfinished"]))
        writer.writerow(record)
    return buffer.getvalue()


def to_json(summary: Summary) -> str:
    """Return every number of the report; "not reached" is null among a statistic's values."""
    penalty = summary.penalty
    content = {
        "result_dir": summary.results.path.name,
        "digest": summary.results.digest,
        "missing": summary.results.missing,
        "unreadable": summary.results.unreadable,
        "statistics": [_record(estimate) for estimate in summary.estimates],
        "comparisons": [
            {key: _rounded(value) for key, value in asdict(comparison).items()} for comparison in summary.comparisons
        ],
        "penalty": None if penalty is None else {**asdict(penalty), "matrix_aa": _rounded(penalty.matrix_aa.tolist())},
        "cited": asdict(cited_figures()),
        "runs": [
            {"path": visible(run.path.as_posix()), "rounds": run.rounds, "configuration": run.configuration}
            for run in summary.results.runs
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def plain(text: str) -> str:
    """Return a text in ASCII and short words, for a terminal of any kind.

    >>> plain("BALD, deterministic: 3 ± 1")
    'BALD, determ.: 3 +- 1'
    """
    return text.replace("±", "+-").replace("∞", "inf").replace(", deterministic", ", determ.")


def _record(estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.interval or (None, None)
    lower, median, upper = estimate.quartiles or (None, None, None)
    return {
        "arm": estimate.arm,
        "statistic": estimate.statistic,
        "at": estimate.at,
        "unit": UNITS[estimate.statistic],
        "repetitions": estimate.repetitions,
        "reached": estimate.reached,
        "mean": _rounded(estimate.mean),
        "std": _rounded(estimate.std),
        "interval_low": _rounded(low),
        "interval_high": _rounded(high),
        "lower_quartile": _rounded(lower),
        "median": _rounded(median),
        "upper_quartile": _rounded(upper),
        "unfinished": list(estimate.unfinished),
        "values": {str(number): _rounded(value) for number, value in estimate.values.items()},
    }


def _rounded(value: Any) -> Any:
    """Return numbers to 12 digits, where all processors agree; None for what is not reached or not known."""
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.12g}") if math.isfinite(value) else None


def listed(words: Iterable[str]) -> str:
    """Return words as a sentence has them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
