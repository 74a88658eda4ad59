"""Label Studio: the images asked for as its tasks, and its export as labels.

The format is that of its documents, "Label Studio JSON format": tasks with `data` and `predictions` in, the same tasks
with `annotations` out. Its list of tasks can be sorted by a prediction's `score`, least sure first, so that is the
confidence; what the acquisition function says stands in the task's data.
"""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

from active_learning.images.tables import Answer
from active_learning.ranking.journal import Choice
from active_learning.ranking.names import Names
from load_data import DataError

FROM_NAME, TO_NAME = "label", "image"
"""What the labelling interface calls the classes to choose from, and the image."""

UPLOAD = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded to it."""


def tasks(choices: Sequence[Choice], round_: int, acquisition: str, image_url: str) -> bytes:
    """Return the images asked for as a JSON array of tasks, in the order of choice.

    Args:
        choices: the images.
        round_: the round that asks for them.
        acquisition: the function that chose.
        image_url: what stands before a file's name in its address.
    """
    found = []
    for rank, choice in enumerate(choices, 1):
        data = {
            "image": f"{image_url}{quote(choice.picture.file_name)}",
            "file_name": choice.picture.file_name,
            "sha256": choice.picture.sha256,
            "rank": rank,
            "chosen_by": choice.chosen_by,
            "acquisition_score": choice.score,
        }
        task: dict[str, Any] = {"data": data}
        if choice.predicted:
            task["predictions"] = [_prediction(choice, f"{acquisition}, round {round_}")]
        found.append(task)
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def interface(classes: Sequence[str]) -> bytes:
    """Return the labelling interface of these tasks, which a project of Label Studio is set up with."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=TO_NAME, value="$image")
    choices = ElementTree.SubElement(view, "Choices", name=FROM_NAME, toName=TO_NAME, choice="single")
    for name in classes:
        ElementTree.SubElement(choices, "Choice", value=name)
    ElementTree.indent(view)
    content: bytes = ElementTree.tostring(view, encoding="utf-8")
    return content + b"\n"


def read_export(path: Path, content: bytes, names: Names) -> list[Answer]:
    """Return the answers of an export in JSON: one a task, without a label where it was skipped or left empty.

    Args:
        path: the file.
        content: what it holds.
        names: of the images; one is known by the sha256 in its task's data, else by its name there, else by the end of
            its address.

    Raises:
        DataError: when it is no such export, saying which task is wrong.
    """
    try:
        found = json.loads(content)  # in UTF-8, 16 or 32
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: export the project from Label Studio as JSON.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}): export the project from Label Studio as JSON.") from error
    if not isinstance(found, list):
        raise DataError(f"{path} is no list of tasks: export the project from Label Studio as JSON.")
    return [_answer(path, number, task, names) for number, task in enumerate(found, 1)]


def _prediction(choice: Choice, model_version: str) -> dict[str, Any]:
    value = {"choices": [choice.predicted]}
    result = {"from_name": FROM_NAME, "to_name": TO_NAME, "type": "choices", "value": value}
    return {"model_version": model_version, "score": choice.confidence, "result": [result]}


def _answer(path: Path, number: int, task: Any, names: Names) -> Answer:
    where = f"{path}, task {number}"
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise DataError(f"{where}: there is no data: export the project from Label Studio as JSON, not as JSON-MIN.")
    where += f" (id {task['id']})" if "id" in task else ""  # which Label Studio shows
    annotations = task.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{where}: its annotations are no list: export the project from Label Studio as JSON.")
    done = [entry for entry in annotations if not (isinstance(entry, dict) and entry.get("was_cancelled"))]
    found = sorted({label for entry in done if (label := _choice(where, entry))})
    if len(found) > 1:
        raise DataError(
            f"{where}: its annotations disagree ({' and '.join(map(repr, found))}): delete one of them in Label "
            "Studio, and export again."
        )
    if not found:
        return Answer("", "", where, task=True)
    data = task["data"]
    sha256 = str(data.get("sha256") or "").strip().lower()
    return Answer(_file_name(where, data, names, needed=not sha256), found[0], where, sha256, task=True)


def _choice(where: str, annotation: Any) -> str:
    """Return the class that an annotation says; nothing where it was submitted without any."""
    result = annotation.get("result") if isinstance(annotation, dict) else None
    if result == []:
        return ""
    entries = result if isinstance(result, list) else []
    choices = [entry for entry in entries if isinstance(entry, dict) and entry.get("type") == "choices"]
    if len(choices) > 1:  # an interface of the user's own, which asks for other things as well
        choices = [entry for entry in choices if entry.get("from_name") == FROM_NAME]
    try:
        (choice,) = choices
        (label,) = choice["value"]["choices"]
    except (LookupError, TypeError, ValueError):
        label = None
    if not isinstance(label, str):
        raise DataError(
            f"{where}: its annotation is not one class (one result of the type choices, called {FROM_NAME!r} where "
            "there are several, with one name): correct it in Label Studio, and export again."
        )
    return label.strip()


def _file_name(where: str, data: Mapping[str, Any], names: Names, *, needed: bool) -> str:
    if isinstance(data.get("file_name"), str):
        return str(data["file_name"])
    address = data.get("image")
    if not isinstance(address, str):
        if needed:
            raise DataError(f"{where}: its data has neither file_name nor image: add one of them, or delete the task.")
        return ""
    try:
        split = urlsplit(address)
    except ValueError as error:
        raise DataError(f"{where}: its image {address!r} is no address: correct it, or delete the task.") from error
    path = parse_qs(split.query).get("d", [unquote(split.path)])[0].lstrip("/")
    while names.known(path) is None and "/" in path:  # the folder of images may be some way down
        path = path.partition("/")[2]
    if names.known(path) is not None:
        return path
    plain = UPLOAD.sub("", path, count=1) if UPLOAD.match(path) else path
    return plain if names.known(plain) is not None else posixpath.basename(unquote(split.path)) or address
