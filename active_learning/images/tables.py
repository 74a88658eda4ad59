"""CSV files of a user: file names and labels with the line they stand in."""

import codecs
import csv
import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from active_learning.terminal import counted
from load_data import DataError

WANTED = "a line file_name,label, then a line an image"


@dataclass(frozen=True)
class Answer:
    """What a file says of an image.

    Attributes:
        file_name: the image's path relative to the folder of images, with slashes.
        label: its class; empty where there is none.
        where: the file and the line, in words.
        sha256: of the image's content, where the file says it.
        task: whether this is a task of Label Studio, and no line.
    """

    file_name: str
    label: str
    where: str
    sha256: str = ""
    task: bool = False


def read_csv(path: Path, *, needs_label: bool = True, content: bytes | None = None) -> list[Answer]:
    """Read the columns `file_name`, `label` and, where it is there, `sha256` of a CSV file; others are left alone.

    It is UTF-8, with or without a mark at its start, with line ends of any system and commas between the cells.

    Args:
        path: the file.
        needs_label: whether a table without a column `label` is refused; else its images have none.
        content: what the file holds, where it has been read: a pipe can be read once.

    Raises:
        DataError: for a file that is no such table, saying which line is wrong.
    """
    rows = _rows(path, path.read_bytes() if content is None else content)
    line, header = next(rows, (1, []))
    names = [cell.strip() for cell in header]
    _check_header(path, names, needs_label)
    answers = []
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(names):
            cells = counted(len(row), "cell")
            way = "a name with a comma stands in double quotes" if len(row) > len(names) else "one may be empty"
            raise DataError(f"{where}: this line has {cells}, and there are {counted(len(names), 'column')}: {way}.")
        name = row[names.index("file_name")]
        if not name.strip():
            raise DataError(f"{where}: the file_name is empty: give the image's path, relative to the images' folder.")
        label, sha256 = (row[names.index(key)].strip() if key in names else "" for key in ("label", "sha256"))
        answers.append(Answer(normal(name), label, where, sha256.lower()))
    return answers


def normal(file_name: str) -> str:
    """Return a path in the one way in which it is written here.

    >>> normal("./cat/../=1.png")
    '=1.png'
    """
    return posixpath.normpath(file_name)


def spreadsheet_safe(file_name: str) -> str:
    """Return a path that no spreadsheet takes for a formula, and that is the same file.

    >>> spreadsheet_safe("=1+1.png"), spreadsheet_safe("a=1.png")
    ('./=1+1.png', 'a=1.png')
    """
    return f"./{file_name}" if file_name[0] in "=+-@\t\r" else file_name


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Render a table as UTF-8, quoted where it must be, with line ends of one character."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _rows(path: Path, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with the line in which each begins."""
    reader = csv.reader(io.StringIO(_text(path, content), newline=""), strict=True)
    begins = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {begins}: this is no CSV ({error}): it takes {WANTED}.") from error


def _text(path: Path, content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is UTF-16: save it as CSV in UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: this is not UTF-8: save the file as CSV in UTF-8.") from error
    if "\0" in text:
        raise DataError(f"{path} is no text: it takes a CSV file, {WANTED}.")
    return text


def _check_header(path: Path, names: list[str], needs_label: bool) -> None:
    if not names:
        raise DataError(f"{path} is empty: it takes {WANTED}.")
    for mark, called in {";": "semicolons", "\t": "tabs"}.items():
        if any(mark in name for name in names):
            raise DataError(f"{path}, line 1: the cells are separated by {called}: save the file with commas.")
    for name in ("file_name", "label") if needs_label else ("file_name",):
        if name not in names:
            raise DataError(f"{path}, line 1: there is no column {name}, only {', '.join(names)}: it takes {WANTED}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}, line 1: the column {twice[0]} is there twice: leave one of them out.")
