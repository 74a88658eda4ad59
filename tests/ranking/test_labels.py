"""Labels in: CSV files and exports of Label Studio, checked against what is known; and Label Studio's tasks out."""

import csv
import io
import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import pandas
import pytest

from active_learning.disk.files import StoreError
from active_learning.images.library import Label, Library, Picture
from active_learning.images.pixels import PassingFault
from active_learning.images.tables import Answer, csv_text, normal, read_csv, spreadsheet_safe
from active_learning.ranking.journal import Choice, Journal
from active_learning.ranking.label_studio import interface, read_export, tasks
from active_learning.ranking.labels import new_labels, read_answers
from active_learning.ranking.names import Names
from load_data import DataError

NAMES = ("a.png", "b b.png", "sub/c,d.png", "=1.png")
SKIPPED = {
    "bad.png": "it is no image that Pillow knows",
    "late.png": PassingFault("it was changed: give the command again"),
}
LIBRARY = Library(
    tuple(Picture(name, f"digest of {name}", row) for row, name in enumerate(NAMES)),
    np.zeros((4, 1, 8, 8), np.uint8), SKIPPED, 0, (0, ""),
)  # fmt: skip
NAMED = Names(LIBRARY)


def written(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_of_any_editor_is_read(tmp_path: Path, end: str, encoding: str) -> None:
    text = end.join(["file_name, label ,rank", '"sub/c,d.png",Käse,1', "", "./=1.png,  dog ,2", "a.png,,3"])
    answers = read_answers(written(tmp_path, text.encode(encoding)), NAMED)
    assert [(answer.file_name, answer.label) for answer in answers] == [("sub/c,d.png", "Käse"), ("=1.png", "dog")]
    assert answers[1].where == f"{tmp_path / 'labels.csv'}, line 4"


def test_a_label_of_several_lines_counts_all_of_them(tmp_path: Path) -> None:
    path = written(tmp_path, 'file_name,label,note\na.png,x,"two\nlines"\nb b.png,y,z\n')
    assert [answer.where.rpartition(" ")[2] for answer in read_csv(path)] == ["2", "4"]


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "semicolons": ("file_name;label\na.png;x\n", ", line 1: the cells are separated by semicolons"),
    "tabs": ("file_name\tlabel\n", ", line 1: the cells are separated by tabs"),
    "utf-16": ("file_name,label\n".encode("utf-16"), " is UTF-16: save it as CSV in UTF-8."),
    "latin-1": ("file_name,label\na.png,Käse\n".encode("latin-1"), ", line 2: this is not UTF-8"),
    "nul": (b"file_name,label\n\0,x\n", " is no text"),
    "empty": ("\n", " is empty"),
    "no file_name": ("name,label\n", "there is no column file_name, only name, label"),
    "no label": ("rank,file_name,score\n", "there is no column label"),
    "twice": ("file_name,label,label\n", "the column label is there twice"),
    "unquoted comma": ("file_name,label\nsub/c,d.png,x\n", ", line 2: this line has 3 cells, and there are 2 columns"),
    "open quote": ('file_name,label\n"a.png,x\n', "this is no CSV"),
    "no name": ("file_name,label\n ,x\n", ", line 2: the file_name is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_such_table_is_told_in_a_sentence(tmp_path: Path, case: str) -> None:
    content, told = BROKEN[case]
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_answers(path, NAMED)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)


def added(text: str, folder: Path, *, relabel: bool = False) -> dict[str, str]:
    known = {"digest of a.png": Label("cat", "a.png", "the journal")}
    stored = {sha256: label.name for sha256, label in known.items()}
    answers = read_answers(written(folder, text), NAMED)
    new = new_labels(answers, NAMED, known, stored, {"cat", "dog"}, relabel=relabel)
    return {label.file_name: label.name for label in new.values()}


def test_labels_that_are_known_already_are_not_new(tmp_path: Path) -> None:
    assert added("file_name,label\na.png,cat\nb b.png,dog\nb b.png,dog\n", tmp_path) == {"b b.png": "dog"}


def test_a_label_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: 'a.png' is 'dog' here and 'cat' in the journal: .* --relabel"):
        added("file_name,label\na.png,dog\n", tmp_path)
    assert added("file_name,label\na.png,dog\n", tmp_path, relabel=True) == {"a.png": "dog"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x.png,cat", r"line 2: 'x.png' is none of the 4 images \(did you mean 'a.png'\?\)"),
        ("bad.png,cat", "line 2: 'bad.png' has been left out, since it is no image that Pillow knows"),
        (
            "late.png,cat",
            "'late.png' has been left out, since it was changed: give the command again, or delete this line\\.$",
        ),
        ("b b.png,cta", r"line 2: 'cta' is no class so far \(did you mean 'cat'\?\); there are cat, dog: "),
        ("b b.png,=cat", "line 2: '=cat' can be no class"),
        ("b b.png,cat\nb b.png,dog", "line 3: 'b b.png' is 'dog' here and 'cat' in .*labels.csv, line 2"),
    ],
)
def test_a_label_that_cannot_be_is_told_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        added(f"file_name,label\n{line}\n", tmp_path)


def task(name: str, *labels: str, cancelled: bool = False, **data: Any) -> dict[str, Any]:
    """A task of an export, as Label Studio writes it."""
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}]
    annotation = {"id": 1, "completed_by": 1, "result": result, "was_cancelled": cancelled, "ground_truth": False}
    return {"id": 1, "data": {"image": f"/data/local-files/?d={name}", **data}, "annotations": [annotation]}


def test_an_export_of_label_studio_is_read(tmp_path: Path) -> None:
    content = [
        task("x/y.png", "cat", file_name="a.png"),
        task("photos/sub/c%2Cd.png", "dog"),
        task("b%20b.png", "dog", cancelled=True),
        {"id": 3, "data": {"image": "b b.png"}, "annotations": []},
    ]
    path = written(tmp_path, json.dumps(content), "export.json")
    found = [(answer.file_name, answer.label, answer.where) for answer in read_answers(path, NAMED) if answer.label]
    assert found == [("a.png", "cat", f"{path}, task 1 (id 1)"), ("sub/c,d.png", "dog", f"{path}, task 2 (id 1)")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", " is no JSON"),
        ("[" * 100_000, " is no JSON"),
        ('{"a": 1}', " is no list of tasks"),
        ('[{"image": "a.png", "choice": "cat"}]', ", task 1: there is no data"),
        (
            json.dumps([{**task("", "cat"), "data": {"text": "a"}}]),
            "neither file_name nor image: add one of them, or delete the",
        ),
        (
            json.dumps([task("a.png", "cat"), task("a.png", "cat", "dog")]),
            ", task 2 (id 1): its annotation is not one class",
        ),
        (json.dumps([{"data": {"image": "a.png"}, "annotations": 3}]), ", task 1: its annotations are no list"),
    ],
)
def test_what_is_no_export_is_told_in_a_sentence(tmp_path: Path, content: str, told: str) -> None:
    path = written(tmp_path, content, "export.json")
    with pytest.raises(DataError) as caught:
        read_export(path, path.read_bytes(), NAMED)
    assert str(caught.value).startswith(f"{path}{told}" if told[0] in ", " else str(path))
    assert told in str(caught.value)


def of_export(folder: Path, *content: dict[str, Any]) -> dict[str, str]:
    """The labels of an export, by the names of the images that they are stored for."""
    answers = read_answers(written(folder, json.dumps(content), "export.json"), NAMED)
    return {label.file_name: label.name for label in new_labels(answers, NAMED, {}, {}, (), relabel=False).values()}


def test_a_task_is_of_the_image_whose_sha256_it_carries(tmp_path: Path) -> None:
    assert of_export(tmp_path, task("a.png", "cat", file_name="a.png", sha256="digest of b b.png")) == {
        "b b.png": "cat"
    }
    told = r"task 1 \(id 1\): no image of 4 is the one .* \('a.png', sha256 digest of z\): .* delete the task"
    with pytest.raises(DataError, match=told):
        of_export(tmp_path, task("a.png", "cat", sha256="digest of z"))


def test_a_task_whose_image_has_gone_is_told_of_as_a_task(tmp_path: Path) -> None:
    told = r"task 1 \(id 1\): 'z/none.png' is none of the 4 images.*; put the file back, or delete the task in Label"
    with pytest.raises(DataError, match=told) as caught:
        of_export(tmp_path, task("z/none.png", "cat", file_name="z/none.png"))
    assert "line" not in str(caught.value)


def test_an_annotation_without_a_result_is_no_answer(tmp_path: Path) -> None:
    empty = {**task("a.png"), "annotations": [{"result": [], "was_cancelled": False}]}
    assert of_export(tmp_path, empty, task("b%20b.png", "dog")) == {"b b.png": "dog"}


def test_the_class_stands_in_the_result_of_choices(tmp_path: Path) -> None:
    content = task("a.png", "cat")
    box = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": {"rectanglelabels": ["ear"]}}
    other = {"from_name": "quality", "to_name": "image", "type": "choices", "value": {"choices": ["blurred"]}}
    content["annotations"][0]["result"][:0] = [box, other]
    assert of_export(tmp_path, content) == {"a.png": "cat"}


def test_a_file_that_label_studio_was_given_is_known_without_its_prefix(tmp_path: Path) -> None:
    content = task("", "cat")
    content["data"]["image"] = "/data/upload/1/ab12cd34-a.png"
    assert of_export(tmp_path, content) == {"a.png": "cat"}


def test_annotators_who_disagree_are_told_of_once(tmp_path: Path) -> None:
    content = task("a.png", "cat")
    content["annotations"] *= 2
    assert of_export(tmp_path, content) == {"a.png": "cat"}
    content["annotations"][1] = task("a.png", "dog")["annotations"][0]
    with pytest.raises(DataError, match=r"'cat' and 'dog'.*: delete one of them in Label Studio") as caught:
        of_export(tmp_path, content)
    assert str(caught.value).count("task 1 (id 1)") == 1


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_known_in_either_form_of_unicode(form: Literal["NFC", "NFD"]) -> None:
    on_disk = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "sub/é.png")
    names = Names(replace(LIBRARY, pictures=(Picture(on_disk, "digest", 0),)))
    answer = Answer(unicodedata.normalize(form, "sub/é.png"), "cat", "line 2")
    assert new_labels([answer], names, {}, {}, (), relabel=False) == {"digest": Label("cat", on_disk, "line 2")}


def test_two_files_that_differ_only_in_their_form_are_kept_apart() -> None:
    both = [unicodedata.normalize("NFC", "é ô.png"), unicodedata.normalize("NFD", "é ô.png")]
    names = Names(replace(LIBRARY, pictures=tuple(Picture(name, name, 0) for name in both)))
    assert [names.content(Answer(name, "cat", "")) for name in both] == both
    assert names.content(Answer("\u00e9 o\u0302.png", "cat", "")) is None


def test_a_path_of_windows_is_known() -> None:
    names = Names(replace(LIBRARY, pictures=(Picture("0/1.png", "a", 0), Picture("0\\2.png", "b", 1))))
    assert [names.content(Answer(name, "cat", "")) for name in (".\\0\\1.png", "0\\2.png")] == ["a", "b"]


TASKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {"type": "object", "required": ["image"], "properties": {"image": {"type": "string"}}},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "result": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["from_name", "to_name", "type", "value"],
                                "properties": {
                                    "from_name": {"const": "label"},
                                    "to_name": {"const": "image"},
                                    "type": {"const": "choices"},
                                    "value": {
                                        "type": "object",
                                        "required": ["choices"],
                                        "properties": {"choices": {"type": "array", "items": {"type": "string"}}},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The format of Label Studio's documents ("Label Studio JSON format", "Import pre-annotated data") as a schema."""


def test_the_tasks_are_as_label_studio_documents_them() -> None:
    sure = Choice(LIBRARY.pictures[1], "function", 0.7, "Käse", 0.4)
    cold = Choice(LIBRARY.pictures[2], "cover", 0.1)
    content = json.loads(tasks([sure, cold], 3, "bald", "/data/local-files/?d="))
    jsonschema.validate(content, TASKS)
    assert content[0]["data"]["image"] == "/data/local-files/?d=b%20b.png"
    assert content[0]["data"]["acquisition_score"] == 0.7
    assert content[0]["predictions"][0]["score"] == 0.4  # sorted from below, the least sure come first
    assert "predictions" not in content[1]
    assert b'<Choice value="a &amp; &quot;b&quot;" />' in interface(['a & "b"'])


def test_what_goes_out_comes_back(tmp_path: Path) -> None:
    """Annotate every task as predicted, as Label Studio's export has it, and read that."""
    choices = [Choice(picture, "function", 0.5, "cat", 0.6) for picture in LIBRARY.pictures]
    content = json.loads(tasks(choices, 1, "bald", "http://host/files/"))
    for one in content:
        one["annotations"] = [{"result": one["predictions"][0]["result"], "was_cancelled": False}]
        del one["data"]["file_name"]  # the address alone is enough
    answers = read_answers(written(tmp_path, json.dumps(content), "export.json"), NAMED)
    assert [(answer.file_name, answer.label) for answer in answers] == [(name, "cat") for name in NAMES]


@pytest.mark.parametrize("name", ["a.png", "b, b.png", 'say "hi".png', "=1+1.png", "@x.png", "-1.png", "ü\n.png"])
def test_a_table_is_read_by_others_and_by_us(tmp_path: Path, name: str) -> None:
    content = csv_text(("file_name", "label"), [(spreadsheet_safe(name), "x"), ("other.png", "y")])
    (row, _) = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert normal(row["file_name"]) == name
    assert row["file_name"][0] not in "=+-@"
    assert normal(pandas.read_csv(io.BytesIO(content))["file_name"][0]) == name
    assert read_csv(written(tmp_path, content))[0].file_name == name


def test_the_journal_keeps_all_and_the_last_answer_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add_labels({"1": ("a.png", "cat")}, "labels.csv")
    choices = [Choice(LIBRARY.pictures[0], "random"), Choice(LIBRARY.pictures[1], "function", 0.5, "cat", 0.6)]
    journal.add_round(1, "state", "bald", choices, {})
    journal.add_labels({"1": ("a.png", "dog")}, "labels.csv")
    read = Journal(path)
    assert read.labels() == {"1": ("a.png", "dog")}
    assert [event["event"] for event in read.events] == ["labelled", "asked", "labelled"]
    assert all(event["when"] for event in read.events)
    assert (read.round_of("state"), read.round_of("another")) == (1, 2)
    assert read.before(1) == {}
    assert read.before(2) == {"digest of a.png": "random", "digest of b b.png": "function"}


def test_a_damaged_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for number in range(3):
        Journal(path).add_labels({str(number): (f"{number}.png", "cat")}, "labels.csv")
    content = path.read_bytes().replace(b'"1.png"', b'"9.png"')
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged after 1 whole event: .*delete the lines after line 2"):
        Journal(path)
    assert path.read_bytes() == content
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:2]))
    assert Journal(path).labels() == {"0": ("0.png", "cat")}
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="damaged in its first line: put a copy of it back, or delete it"):
        Journal(path)
