"""Image files: which there are, in a folder or in a CSV, and which classes they are given there."""

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from active_learning.images.pixels import fault
from active_learning.images.tables import Answer, normal, read_csv
from active_learning.settings.config import ConfigError
from load_data import DataError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"))
"""Endings of the files that are taken for images, in small letters."""

POOL_FOLDERS = frozenset(("unlabelled", "unlabeled"))
"""Folders whose images have no class, though they lie in a folder of their own; in small letters or others."""


@dataclass
class Listing:
    """The image files that a user names.

    Attributes:
        root: what their names are relative to.
        answers: each file's name, its class where it has one, and where that is said; in the order of the names.
        skipped: files that are left out, with the reason.
        others: how many files are not taken for images.
    """

    root: Path
    answers: list[Answer] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    others: int = 0

    def path(self, file_name: str) -> Path:
        """Return where a file is."""
        return self.root / file_name


def find_images(images: Path, *, flat: bool, check: Callable[[], None]) -> Listing:
    """Return the images of a folder, or of a CSV with the columns `file_name` and, if it likes, `label`.

    In a folder, an image that lies in a subfolder has the class that the first subfolder is called, except in those of
    `POOL_FOLDERS`; all others are the pool. What begins with a dot is left alone. Links are followed, and a folder that
    links lead to twice is read once.

    Args:
        images: the folder or the CSV.
        flat: whether subfolders say nothing.
        check: called now and then; what it raises ends the work.

    Raises:
        ConfigError: where there is neither.
        DataError: where there is no image, or the CSV is none.
    """
    if os.path.isdir(images):  # noqa: PTH112 - pathlib's raises for a name that is too long
        listing = _in_folder(images, flat, check)
    elif not os.path.exists(images):  # noqa: PTH110
        raise ConfigError(f"{images} does not exist: name a folder of images, or a CSV of their names.")
    elif images.suffix.lower() == ".csv":
        listing = _in_csv(images, check)
    else:
        raise ConfigError(f"{images} is neither a folder nor a .csv: name a folder of images, or a CSV of their names.")
    if not listing.answers and images.is_file() and not listing.skipped:
        raise DataError(f"{images} names no images: add a line for each.")
    if not listing.answers:
        reason = f" ({_first(listing.skipped)})" if listing.skipped else ""
        raise DataError(
            f"there is no image in {images}{reason}: files that end in {', '.join(sorted(SUFFIXES))} are taken for "
            "images."
        )
    listing.answers.sort(key=lambda answer: answer.file_name)
    for answer in listing.answers:
        if answer.label:
            try:
                check_class(answer.label, answer.where)
            except ConfigError as error:  # the flags are right, a file is not
                raise DataError(str(error)) from error
    return listing


def check_class(name: str, where: str) -> None:
    """Refuse a name of a class that a spreadsheet would compute, or that no one line can show.

    Raises:
        ConfigError: saying where it stands.
    """
    formula = name[:1] in tuple("=@+-") and not re.fullmatch(r"[+-]\d+(\.\d+)?", name)
    if not name or not name.isprintable() or formula or name != name.strip():
        raise ConfigError(
            f"{where}: {name!r} can be no class: a name has printable characters, begins with none of = @ + - unless "
            "it is a number (a spreadsheet would take it for a formula), and has no space at its ends."
        )


def _in_folder(root: Path, flat: bool, check: Callable[[], None]) -> Listing:
    listing = Listing(root)
    for name in _names(root, listing, check):
        first, inside, _ = name.partition("/")
        label = first if inside and not flat and first.casefold() not in POOL_FOLDERS else ""
        listing.answers.append(Answer(name, label, f"the folder {root / first}"))
    return listing


def _names(root: Path, listing: Listing, check: Callable[[], None]) -> Iterator[str]:
    """Yield the names of the image files in a folder and below it, however deep."""
    seen: set[tuple[int, int]] = set()
    left = _entries(root, "", seen, listing)
    while left:
        check()
        prefix, entry = left.pop()
        name = f"{prefix}{entry.name}"
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            left += _entries(Path(entry.path), f"{name}/", seen, listing)
        elif Path(entry.name).suffix.lower() not in SUFFIXES:
            listing.others += 1
        elif reason := _unusable(name, entry):
            listing.skipped[name.encode("utf-8", "backslashreplace").decode()] = reason
        else:
            yield name


def _entries(
    folder: Path, prefix: str, seen: set[tuple[int, int]], listing: Listing
) -> list[tuple[str, "os.DirEntry[str]"]]:
    """Return what is in a folder that was not seen before, the last name first, behind the folder's own name."""
    try:
        known = folder.stat()
        if (known.st_dev, known.st_ino) in seen:  # a link that leads back here
            return []
        seen.add((known.st_dev, known.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        listing.skipped[prefix.rstrip("/") or "."] = fault(error, f"the folder cannot be read: {error.strerror}")
        return []
    return [(prefix, entry) for entry in entries]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _unusable(name: str, entry: "os.DirEntry[str]") -> str:
    try:
        name.encode()
        kind = entry.stat().st_mode
    except UnicodeEncodeError:
        return "its name is no text in UTF-8, and a CSV could not name it: rename it"
    except OSError:  # a link that leads nowhere: whoever reads it is told
        return ""
    return "" if stat.S_ISREG(kind) else "it is a pipe, a socket or a device, and no file"  # a pipe may never end


def _in_csv(path: Path, check: Callable[[], None]) -> Listing:
    listing = Listing(path.parent)
    first: dict[str, Answer] = {}
    for line in read_csv(path, needs_label=False):
        check()
        answer = replace(line, file_name=_on_disk(path.parent, line))
        before = first.setdefault(answer.file_name, answer)
        if before.label != answer.label:
            raise DataError(
                f"{answer.where}: {answer.file_name!r} has {_label(answer)} here and {_label(before)} in "
                f"{before.where}: leave one of the two lines out."
            )
        if before is answer:
            listing.answers.append(answer)
    return listing


def _label(answer: Answer) -> str:
    return f"the label {answer.label!r}" if answer.label else "no label"


def _on_disk(root: Path, answer: Answer) -> str:
    """Return a name as the disk has it: with slashes for those of Windows, and its accents in one form or the other."""
    name, slashes = answer.file_name, normal(answer.file_name.replace("\\", "/"))
    spellings = (name, slashes, unicodedata.normalize("NFC", slashes), unicodedata.normalize("NFD", slashes))
    for spelling in spellings:
        if os.path.isfile(root / spelling):  # noqa: PTH113 - pathlib's raises for a name that is too long
            return spelling
    raise DataError(
        f"{answer.where}: there is no file {name!r}: correct the path, which is relative to the folder of the CSV."
    )


def _first(skipped: dict[str, str]) -> str:
    name, reason = next(iter(skipped.items()))
    return f"{name}: {reason}"
