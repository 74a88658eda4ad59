"""Label Studio: the images asked for as its tasks, and its export as labels.

The format is that of its documents, "Label Studio JSON format": tasks with `data` and `predictions` in, the same tasks
with `annotations` out. Its list of tasks can be sorted by a prediction's `score`, least sure first, so that is the
confidence; what the acquisition function says stands in the task's data.
"""

import json
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

from active_learning.ranking.journal import Choice
from active_learning.ranking.library import Picture
from active_learning.ranking.tables import Answer
from load_data import DataError

FROM_NAME, TO_NAME = "label", "image"
"""What the labelling interface calls the classes to choose from, and the image."""


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


def read_export(path: Path, pictures: Mapping[str, Picture]) -> list[Answer]:
    """Return the labels of an export in JSON; tasks that were skipped, or have no annotation, have none.

    Args:
        path: the file.
        pictures: by their names; an image is known by the name in its task's data, else by the end of its address.

    Raises:
        DataError: when it is no such export, saying which task is wrong.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}): export the project from Label Studio as JSON.") from error
    if not isinstance(content, list):
        raise DataError(f"{path} is no list of tasks: export the project from Label Studio as JSON.")
    return [answer for number, task in enumerate(content, 1) for answer in _answers(path, number, task, pictures)]


def _prediction(choice: Choice, model_version: str) -> dict[str, Any]:
    value = {"choices": [choice.predicted]}
    result = {"from_name": FROM_NAME, "to_name": TO_NAME, "type": "choices", "value": value}
    return {"model_version": model_version, "score": choice.confidence, "result": [result]}


def _answers(path: Path, number: int, task: Any, pictures: Mapping[str, Picture]) -> list[Answer]:
    where = f"{path}, task {number}"
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise DataError(f"{where}: there is no data: export the project from Label Studio as JSON, not as JSON-MIN.")
    annotations = task.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{where}: its annotations are no list: export the project from Label Studio as JSON.")
    done = [entry for entry in annotations if not (isinstance(entry, dict) and entry.get("was_cancelled"))]
    return [Answer(_file_name(where, task["data"], pictures), _choice(where, entry), where) for entry in done]


def _choice(where: str, annotation: Any) -> str:
    try:
        (label,) = annotation["result"][0]["value"]["choices"]
    except (LookupError, TypeError, ValueError):
        label = None
    if not isinstance(label, str):
        raise DataError(
            f"{where}: its annotation is not one class (result[0].value.choices with one name): an image has one."
        )
    return label.strip()


def _file_name(where: str, data: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    if isinstance(data.get("file_name"), str):
        return str(data["file_name"])
    address = data.get("image")
    if not isinstance(address, str):
        raise DataError(f"{where}: its data has neither file_name nor image: which image is it?")
    split = urlsplit(address)
    path = parse_qs(split.query).get("d", [unquote(split.path)])[0].lstrip("/")
    while path not in pictures and "/" in path:  # the folder of images may be some way down
        path = path.partition("/")[2]
    return path if path in pictures else posixpath.basename(unquote(split.path)) or address
