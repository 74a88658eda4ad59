"""Labels: what folders and files say, checked against each other and against what was answered before."""

import codecs
import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from active_learning.ranking.config import check_class
from active_learning.ranking.files import Listing
from active_learning.ranking.label_studio import read_export
from active_learning.ranking.library import Library
from active_learning.ranking.tables import Answer, normal, read_csv
from active_learning.settings.config import ConfigError
from load_data import DataError


@dataclass(frozen=True)
class Label:
    """The class of a content, and which file says so, where."""

    name: str
    file_name: str
    where: str


def given_labels(listing: Listing, library: Library) -> dict[str, Label]:
    """Return the labels that folders, or the CSV of the images, give: by the content's sha256, in the order of names.

    Raises:
        DataError: when two files of the same content have different classes.
    """
    pictures = library.by_name()
    found: dict[str, Label] = {}
    for answer in listing.answers:
        if not answer.label or answer.file_name not in pictures:
            continue
        picture = pictures[answer.file_name]
        before = found.setdefault(picture.sha256, Label(answer.label, answer.file_name, answer.where))
        if before.name != answer.label:
            raise DataError(
                f"{answer.where}: {answer.file_name!r} is {answer.label!r}, and {before.file_name!r}, the same image, "
                f"is {before.name!r} in {before.where}: take one of the two away."
            )
    return found


def read_answers(path: Path, library: Library) -> list[Answer]:
    """Return the labels of a CSV or of an export of Label Studio; images without one are left out.

    Raises:
        ConfigError: when there is no such file.
        DataError: when it is of neither kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise ConfigError(f"--labels {path} cannot be read ({error.strerror}): name a CSV or a JSON file.") from error
    if path.suffix.lower() == ".json" or start[:1] in (b"[", b"{"):
        return read_export(path, library.by_name())
    return [answer for answer in read_csv(path) if answer.label]


def new_labels(
    answers: Sequence[Answer],
    library: Library,
    known: Mapping[str, Label],
    classes: Collection[str],
    *,
    relabel: bool,
) -> dict[str, Label]:
    """Return what the answers add to the labels that are known: by the content's sha256.

    Args:
        answers: what a file says.
        library: the images.
        known: the labels so far.
        classes: those that a label may have; without any, every name is one.
        relabel: whether an answer may differ from a known label, and replace it.

    Raises:
        DataError: for an unknown image or class, and for labels that contradict each other.
    """
    pictures = library.by_name()
    found: dict[str, Label] = {}
    for answer in answers:
        picture = pictures.get(answer.file_name) or pictures.get(normal(answer.file_name))
        if picture is None:
            raise DataError(_unknown_file(answer, library, pictures))
        _check_class(answer, classes)
        before = found.get(picture.sha256) or (None if relabel else known.get(picture.sha256))
        if before is not None and before.name != answer.label:
            again = "" if picture.sha256 in found else ", or add --relabel to let the new label replace the old one"
            raise DataError(
                f"{answer.where}: {answer.file_name!r} is {answer.label!r} here and {before.name!r} in {before.where}: "
                f"correct one of the two{again}."
            )
        found[picture.sha256] = Label(answer.label, answer.file_name, answer.where)
    return {sha256: label for sha256, label in found.items() if sha256 not in known or known[sha256].name != label.name}


def unread(path: Path, library: Library, known: Mapping[str, Label]) -> int:
    """Return how many labels a file of ours holds, filled in by the user, that have not been taken in.

    Raises:
        DataError: when it has been changed into what cannot be read.
    """
    if not path.exists():
        return 0
    answers = [answer for answer in read_csv(path, needs_label=False) if answer.label]
    pictures = library.by_name()
    held = {name: known[picture.sha256].name for name, picture in pictures.items() if picture.sha256 in known}
    return sum(held.get(answer.file_name) != answer.label for answer in answers)


def _unknown_file(answer: Answer, library: Library, names: Collection[str]) -> str:
    if answer.file_name in library.skipped:
        reason = library.skipped[answer.file_name]
        return f"{answer.where}: {answer.file_name!r} has been left out, since {reason}: delete this line."
    close = difflib.get_close_matches(answer.file_name, list(names)[:10_000], n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"{answer.where}: {answer.file_name!r} is none of the {len(names)} images{hint}: names are relative to the "
        "images' folder; correct or delete this line."
    )


def _check_class(answer: Answer, classes: Collection[str]) -> None:
    try:
        check_class(answer.label, answer.where)
    except ConfigError as error:  # the flags are right, a file is not
        raise DataError(str(error)) from error
    if classes and answer.label not in classes:
        close = difflib.get_close_matches(answer.label, list(classes), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise DataError(
            f"{answer.where}: {answer.label!r} is no class so far{hint}; there are {', '.join(sorted(classes))}: "
            f"correct the label, or add --add_classes {answer.label!r}."
        )
