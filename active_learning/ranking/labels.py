"""Labels: what folders and files say, checked against each other and against what was answered before."""

import codecs
import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from active_learning.images.files import check_class
from active_learning.images.library import Label
from active_learning.images.pixels import PassingFault
from active_learning.images.tables import Answer, read_csv
from active_learning.ranking.label_studio import read_export
from active_learning.ranking.names import Names
from active_learning.settings.config import ConfigError
from load_data import DataError


def read_answers(path: Path, names: Names) -> list[Answer]:
    """Return the labels of a CSV, or the answers of an export of Label Studio, of which some may have no label.

    Raises:
        ConfigError: when there is no such file.
        DataError: when it is of neither kind.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--labels {path} cannot be read ({error.strerror}): name a CSV or a JSON file.") from error
    start = content[:64].removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if path.suffix.lower() == ".json" or start in (b"[", b"{"):
        return read_export(path, content, names)
    return [answer for answer in read_csv(path, content=content) if answer.label]


def new_labels(
    answers: Sequence[Answer],
    names: Names,
    known: Mapping[str, Label],
    stored: Mapping[str, str],
    classes: Collection[str],
    *,
    relabel: bool,
) -> dict[str, Label]:
    """Return what the answers add to the journal's labels: by the content's sha256.

    Args:
        answers: what a file says.
        names: which image each of them is about.
        known: the labels so far, those that folders and the CSV of the images give too.
        stored: those of the journal; all others may be gone with the next change of the user's files.
        classes: those that a label may have; without any, every name is one.
        relabel: whether an answer may differ from a known label, and replace it.

    Raises:
        DataError: for an unknown image or class, and for labels that contradict each other.
    """
    found: dict[str, Label] = {}
    for answer in answers:
        if not answer.label:
            continue
        if names.contradict(answer) and not answer.task:
            raise DataError(
                f"{answer.where}: {answer.file_name!r} is not the image with this sha256 ({answer.sha256[:12]}): "
                "correct one of the two."
            )
        sha256 = names.content(answer) or ""
        picture = names.contents.get(sha256)
        if picture is None:
            if stored.get(sha256) == answer.label:
                continue  # a file of all labels so far, and this image has gone since
            raise DataError(_no_image(answer, names))
        _check_class(answer, classes)
        before = found.get(sha256) or (None if relabel else known.get(sha256))
        if before is not None and before.name != answer.label:
            again = "" if sha256 in found else ", or add --relabel to let the new label replace the old one"
            sealed = sha256 not in found and sha256 in stored  # in the journal, which nobody is to write in
            raise DataError(
                f"{answer.where}: {answer.file_name!r} is {answer.label!r} here and {before.name!r} in {before.where}: "
                f"correct {'it here' if sealed else 'one of the two'}{again}."
            )
        found[sha256] = Label(answer.label, names.named(answer, picture), answer.where)
    return {sha256: label for sha256, label in found.items() if stored.get(sha256) != label.name}


def unread(path: Path, names: Names, stored: Mapping[str, str]) -> int:
    """Return how many labels a file of ours holds, filled in by the user, that the journal's labels `stored` lack.

    Raises:
        DataError: when it has been changed into what cannot be read.
    """
    if not path.exists() or (path.is_file() and not path.read_bytes().strip()):
        return 0
    answers = [answer for answer in read_csv(path, needs_label=False) if answer.label]
    return sum(stored.get(names.content(answer) or "") != answer.label for answer in answers)


def _no_image(answer: Answer, names: Names) -> str:
    name, skipped = answer.file_name, names.library.skipped
    delete = "delete the task in Label Studio, and export again" if answer.task else "delete this line"
    if name in skipped:
        way = f", or {delete}" if isinstance(skipped[name], PassingFault) else f": {delete}"
        return f"{answer.where}: {name!r} has been left out, since {skipped[name]}{way}."
    if answer.sha256 and (answer.task or names.known(name) not in names.pictures):
        return (
            f"{answer.where}: no image of {len(names.contents)} is the one that the "
            f"{'task' if answer.task else 'line'} was made for ({name!r}, sha256 {answer.sha256[:12]}): put the file "
            f"back, or {delete}."
        )
    if names.known(name) in names.pictures:
        return (
            f"{answer.where}: {name!r} is another picture now than when it was asked for, and the one that was asked "
            f"for is gone: put that one back under any name, or {delete}; to label the new picture, rename the file "
            "and give its label under the new name."
        )
    close = difflib.get_close_matches(name, list(names.pictures)[:10_000], n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    way_out = f"put the file back, or {delete}" if answer.task else "correct or delete this line"
    return (
        f"{answer.where}: {name!r} is none of the {len(names.pictures)} images{hint}: names are relative to the "
        f"images' folder; {way_out}."
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
            f"correct the label, or add --add_classes {shlex.quote(answer.label)}."
        )
