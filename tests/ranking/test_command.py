"""`main.py rank` from the outside: rounds, what it leaves behind, and what it says of bad input."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.images.files import find_images
from active_learning.images.library import Library, open_library
from active_learning.ranking.estimate import Choosing, _Labelled
from cnn_model import NonFiniteLossError
from main import main
from tests.conftest import ROOT
from tests.ranking.folders import CLASSES, FAST, draw, fill_in, make_folder, names, rank, save

WRITTEN = ("ranking.csv", "batch.csv", "index.html", "skipped.csv", "journal.jsonl")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def library(images: Path) -> Library:
    """What a ranking of these images has decoded."""
    listing = find_images(images, flat=False, check=lambda: None)
    cache = images.with_name(f"{images.name}_ranking") / "cache"
    return open_library(listing, cache, 0, (8, 64), lambda items, *_: iter(items), lambda: None)


def events(folder: Path) -> list[dict[str, Any]]:
    """The lines of a journal."""
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def answered(folder: Path) -> dict[str, str]:
    """The labels that a journal holds, by file name."""
    rows = [row for event in events(folder) if event.get("event") == "labelled" for row in event["labels"]]
    return {row["file_name"]: row["label"] for row in rows}


def test_two_rounds_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    truth = make_folder(images)
    assert rank(images) == 0
    ranking, batch = names(results / "ranking.csv"), names(results / "batch.csv")
    assert sorted(ranking) == sorted(truth)
    assert ranking[:4] == batch
    header, first, *_ = (results / "ranking.csv").read_text().splitlines()
    assert header == "rank,file_name,score,predicted_label,confidence"
    assert first.split(",")[3] in CLASSES
    scores = [float(line.split(",")[2]) for line in (results / "ranking.csv").read_text().splitlines()[5:]]
    assert scores == sorted(scores, reverse=True)
    before = contents(results)
    assert rank(images) == 0
    assert contents(results) == before
    fill_in(results / "batch.csv", truth, only=3)
    assert rank(images, "--labels", results / "batch.csv") == 0
    assert answered(results) == {name: truth[name] for name in batch[:3]}
    assert not set(names(results / "ranking.csv")) & set(batch[:3])
    assert "round 2: 39 images, 12 of them labelled, 27 in the pool" in (results / "index.html").read_text()
    assert "3 labels, 3 of them new" in capsys.readouterr().out


@pytest.mark.parametrize("labelled", [0, 3])
def test_what_the_cache_held_before_changes_no_ranking(tmp_path: Path, labelled: int) -> None:
    images = tmp_path / "images"
    make_folder(images, labelled=labelled)
    assert rank(images, "--result_dir", tmp_path / "before") == 0
    (images / "000.png").unlink()
    (images / "001.png").rename(images / "renamed.png")
    shutil.copytree(tmp_path / "before" / "cache", tmp_path / "cached" / "cache")
    for name in ("fresh", "cached"):
        assert rank(images, "--acq_func=badge", "--pool_subset=12", "--result_dir", tmp_path / name) == 0
    fresh, cached = ((tmp_path / name / "ranking.csv").read_bytes() for name in ("fresh", "cached"))
    assert fresh == cached


def test_rankings_have_a_seed(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    for number, seed in enumerate((1, 1, 2)):
        assert rank(tmp_path / "images", "--seed", seed, "--result_dir", tmp_path / str(number)) == 0
    one, again, other = ((tmp_path / str(number) / "ranking.csv").read_bytes() for number in range(3))
    assert one == again != other


FUNCTIONS = [name for name, function in ACQUISITION_FUNCTIONS.items() if "field" not in function.needs]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_ranks(tmp_path: Path, name: str) -> None:
    truth = make_folder(tmp_path / "images")
    flags = ["--acq_func", name, "--result_dir", tmp_path / "out", "--pool_subset", 10]
    assert rank(tmp_path / "images", *flags) == 0
    rows = [line.split(",") for line in (tmp_path / "out" / "ranking.csv").read_text().splitlines()[1:]]
    assert sorted(row[1] for row in rows) == sorted(truth)
    has_score = name != "uniform" and ACQUISITION_FUNCTIONS[name].score is not None
    assert all(bool(row[2]) == has_score for row in rows[4:])
    page = (tmp_path / "out" / "index.html").read_text()
    assert ("gives the other images no score of their own" in page) == (not has_score and name != "uniform")
    if not has_score:
        confidences = [float(row[4]) for row in rows[4:]]
        assert confidences == sorted(confidences)


def test_the_share_drawn_at_random_is_kept_over_rounds(tmp_path: Path) -> None:
    truth = make_folder(tmp_path / "images")
    results = tmp_path / "images_ranking"
    flags = ["--query=3", "--random_share=0.5"]
    assert rank(tmp_path / "images", *flags) == 0
    for _ in range(3):
        fill_in(results / "batch.csv", truth)
        assert rank(tmp_path / "images", *flags, "--labels", results / "batch.csv") == 0
    by = [row["chosen_by"] for event in events(results) if event.get("event") == "asked" for row in event["images"]]
    assert (len(by), by.count("random")) == (12, 6)


@pytest.mark.parametrize("by_folders", [False, True])
def test_the_page_tells_what_labels_and_choosing_bring(
    tmp_path: Path, by_folders: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    truth = make_folder(images, pool=75)
    flags = ["--query=60", "--random_share=0.5", "--val_share=0.5"]
    assert rank(images, *flags) == 0
    page = (results / "index.html").read_text()
    assert "Too few labels for a statement: there are 9, and it takes 10." in page
    (asked,) = [event for event in events(results) if event.get("event") == "asked"]
    chosen = [row["file_name"] for row in asked["images"] if row["chosen_by"] == "function"]
    if by_folders:  # which makes the labels come class by class
        for name in names(results / "batch.csv"):
            (images / name).rename(images / truth[name] / name)
    else:
        flags += ["--labels", str(fill_in(results / "batch.csv", truth))]
    seen = list[list[str]]()

    def compared(labelled: Any, at_random: Any, chosen: Any, rng: Any) -> Choosing:
        rows = {picture.row: picture.file_name for picture in library(images).pictures}
        seen.append([Path(rows[row]).name for row in labelled.rows[chosen].tolist()])
        assert int(at_random.sum()) == 30
        return once_compared(labelled, at_random, chosen, rng)

    once_compared = _Labelled.choosing
    monkeypatch.setattr(_Labelled, "choosing", compared)
    assert rank(images, *flags) == 0
    assert seen == [chosen]
    page = (results / "index.html").read_text()
    for told in (
        "On the images that were asked for at random: ",
        " of 30 wrong, ",
        "The evidence: on 30 images that were drawn at random, held out a share at a time, a network errs on",
        "the first 15 images that PowerBALD chose ",
        "With labels of 9 other images and those of 15 drawn at random a network errs on",
    ):
        assert told in page
    found = [event["labels"] for event in events(results) if event.get("event") == "found"]
    assert [len(labels) for labels in found] == [60] * by_folders
    assert rank(images, *flags) == 0
    assert len([event for event in events(results) if event.get("event") == "found"]) == by_folders


def test_a_cold_start_covers_the_pool_and_goes_on(tmp_path: Path) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    truth = make_folder(images, labelled=0)
    assert rank(images, "--query=6", "--random_share=0") == 0
    batch = names(results / "batch.csv")
    assert {truth[name] for name in batch} == set(CLASSES)
    page = (results / "index.html").read_text()
    assert "There are no labels of two classes yet, so no network was trained: this batch is a cover" in page
    assert (results / "ranking.csv").read_text().splitlines()[-1].endswith(",,,")
    fill_in(results / "batch.csv", truth)
    assert rank(images, "--labels", results / "batch.csv") == 0
    assert "6 of them labelled" in (results / "index.html").read_text()
    assert (results / "ranking.csv").read_text().splitlines()[1].split(",")[3] in CLASSES


def test_a_cold_start_names_its_classes_at_once_or_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    make_folder(images, labelled=0)
    labels = tmp_path / "labels.csv"
    labels.write_text("file_name,label\n000.png,cat\n001.png,dog\n")
    assert rank(images, "--labels", labels) == 0
    labels.write_text("file_name,label\n000.png,cat\n001.png,dog\n002.png,owl\n")
    assert rank(images, "--labels", labels) == 1
    assert "line 4: 'owl' is no class so far; there are cat, dog" in capsys.readouterr().err
    assert rank(images, "--labels", labels, "--add_classes", "owl", "bat") == 0
    assert "<td>bat</td><td>0</td>" in (tmp_path / "images_ranking" / "index.html").read_text()


def test_label_studio_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    truth = make_folder(images)
    assert rank(images, "--export=label_studio") == 0
    tasks = json.loads((results / "label_studio.json").read_text())
    assert [task["data"]["file_name"] for task in tasks] == names(results / "batch.csv")
    for task in tasks:
        value = {"choices": [truth[task["data"]["file_name"]]]}
        result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": value}]
        task["annotations"] = [{"result": result, "was_cancelled": task["data"]["rank"] == 1}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert rank(images, "--labels", tmp_path / "export.json") == 0
    assert "3 labels, 3 of them new, 1 task without an answer." in capsys.readouterr().out
    asked = [task["data"]["file_name"] for task in tasks]
    assert answered(results) == {name: truth[name] for name in asked[1:]}


def test_a_csv_of_images_ranks_as_a_folder_does(tmp_path: Path) -> None:
    truth = make_folder(tmp_path / "images")
    lines = [f"images/{name}," for name in truth]
    lines += [
        f"images/{name}/{number}.png,{name}"
        for name in CLASSES
        for number in range(9)
        if number % 3 == CLASSES.index(name)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    assert rank(tmp_path / "list.csv") == 0
    assert rank(tmp_path / "images") == 0
    found = names(tmp_path / "list_ranking" / "batch.csv")
    assert [name.removeprefix("images/") for name in found] == names(tmp_path / "images_ranking" / "batch.csv")


def test_a_csv_of_images_may_write_their_names_as_other_systems_do(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    on_disk = unicodedata.normalize("NFD", "images/é.png")
    save(draw(0, 99), tmp_path / on_disk)
    lines = ["images\\cat\\0.png,cat", "images/dog/1.png,dog", unicodedata.normalize("NFC", f"{on_disk},")]
    lines.append("images\\cat/0.png,cat")  # the same file again
    assert rank(labels(tmp_path, "\n".join(["file_name,label", *lines]) + "\n", "list.csv")) == 0
    assert names(tmp_path / "list_ranking" / "batch.csv") == [on_disk]


def test_a_ranking_with_a_column_of_labels_comes_back_too(tmp_path: Path) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    truth = make_folder(images)
    assert rank(images) == 0
    header, *rows = (results / "ranking.csv").read_text().splitlines()
    named = zip(rows, names(results / "ranking.csv"), strict=True)
    lines = [
        f"{header},label",
        *(f"{row},{truth[name] if at % 5 == 0 else ''}" for at, (row, name) in enumerate(named)),
    ]
    (results / "ranking.csv").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert rank(images) == 1  # they would be written over
    assert rank(images, "--labels", results / "ranking.csv") == 0
    assert len(answered(results)) == 6
    assert set(answered(results).items()) <= set(truth.items())


def test_a_folder_of_all_kinds_is_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images, pool=6)
    for number, suffix in enumerate((".jpg", ".png", ".tif", ".bmp", ".gif", ".webp")):
        colours = [draw(label, 40 + number, side=20 + number) for label in range(3)]
        save(Image.merge("RGB", colours), images / f"colour{suffix}")
    save(Image.merge("LA", [draw(0, 50), draw(1, 50)]), images / "alpha.png")
    save(Image.fromarray(np.asarray(draw(0, 51)).astype(np.uint16) * 257), images / "deep.png")
    save(draw(0, 52).resize((80, 12)), images / "wide.png")
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    assert rank(images) == 0
    assert len(names(results / "ranking.csv")) == 6 + 6 + 3
    assert (results / "skipped.csv").read_text().splitlines()[1].startswith("broken.jpg,")
    page = (results / "index.html").read_text()
    assert "gal, 12 x 12 pixels, in colour" in page
    assert "Files that were left out: 1, namely" in page
    printed = capsys.readouterr().err
    assert "broken.jpg is left out: " in printed
    assert "three times as long as they are wide, or more: 1 (the first: wide.png)" in printed


@pytest.mark.parametrize("place", ["os.posix_fallocate", "active_learning.ranking.command.write_if_changed"])
def test_a_full_disk_is_told_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    images = tmp_path / "images"
    make_folder(images)
    words = ["--labels", labels(tmp_path, "file_name,label\n000.png,cat\n")]
    assert rank(images, *words, "--result_dir", tmp_path / "whole") == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(place, full)
        assert rank(images, *words) == 1
        assert ("fallocate" in place) != any((tmp_path / "images_ranking" / "cache").glob("pixels-*.npy"))
    assert (
        "(No space left on device); finished rounds are saved, and the same command goes on once"
        in capsys.readouterr().err
    )
    assert rank(images, *words) == 0
    for name in ("ranking.csv", "batch.csv"):
        assert (tmp_path / "images_ranking" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_copies_are_asked_for_once_and_names_are_kept(tmp_path: Path) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images, pool=0)
    for name in ("a, b.png", 'say "hi".png', "Ünï.png", "=1.png"):
        save(draw(0, len(name)), images / name)
    save(draw(0, len("=1.png")), images / "copy of =1.png")
    assert rank(images, "--query=9") == 0
    text = (results / "ranking.csv").read_text()
    assert {'"a, b.png"', '"say ""hi"".png"', "Ünï.png", "./=1.png"} == {
        line.partition(",")[2].rsplit(",", 3)[0] for line in text.splitlines()[1:]
    }
    assert "copy of =1.png,copy of =1.png\n" in (results / "skipped.csv").read_text()
    (tmp_path / "labels.csv").write_text("file_name,label\ncopy of =1.png,cat\n")
    assert rank(images, "--labels", tmp_path / "labels.csv") == 0
    assert "./=1.png" not in (results / "ranking.csv").read_text()


def test_a_label_follows_its_image_and_outlives_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images)
    (tmp_path / "labels.csv").write_text("file_name,label\n000.png,cat\n001.png,dog\n")
    assert rank(images, "--labels", tmp_path / "labels.csv") == 0
    (images / "000.png").rename(images / "moved.png")
    save(draw(2, 77), images / "001.png")
    assert rank(images) == 0
    assert "Labelled images that are gone, or have changed: 1. Their labels are kept" in capsys.readouterr().err
    left = names(results / "ranking.csv")
    assert ("moved.png" in left, "001.png" in left) == (False, True)
    assert answered(results) == {"000.png": "cat", "001.png": "dog"}


def test_all_labelled_is_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    truth = make_folder(images, pool=3)
    assert rank(images, "--export=label_studio") == 0
    fill_in(results / "batch.csv", truth)
    assert rank(images, "--labels", results / "batch.csv", "--export=label_studio") == 0
    assert "All 12 images are labelled: there is nothing left to ask for." in capsys.readouterr().out
    assert (names(results / "ranking.csv"), names(results / "batch.csv")) == ([], [])
    assert json.loads((results / "label_studio.json").read_text()) == []
    page = (results / "index.html").read_text()
    assert "round 2: 12 images, 12 of them labelled, 0 in the pool" in page
    assert not [name for name in truth if name in page]
    assert "All images are labelled" in page
    assert "Write each image's class" not in page
    before = contents(results)
    assert rank(images, "--export=label_studio") == 0
    assert contents(results) == before


def test_images_that_are_all_labelled_at_once_are_an_end_too(tmp_path: Path) -> None:
    make_folder(tmp_path / "images", pool=0)
    assert rank(tmp_path / "images") == 0
    assert "9 of them labelled, 0 in the pool" in (tmp_path / "images_ranking" / "index.html").read_text()


def test_the_page_escapes_and_needs_nothing(tmp_path: Path) -> None:
    images = tmp_path / "images"
    make_folder(images, pool=0)
    save(draw(0, 1), images / "<script>alert(1)<.png")
    assert rank(images) == 0
    page = (tmp_path / "images_ranking" / "index.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http" not in page.partition("</head>")[2]


def not_an_image(folder: Path) -> Path:
    (folder / "a.txt").write_text("x")
    return folder / "a.txt"


def without_images(folder: Path) -> Path:
    (folder / "none").mkdir()
    return folder / "none"


def labels(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def copied_under_two_classes(folder: Path) -> Path:
    for name in CLASSES[:2]:
        save(draw(0, 1000), folder / "images" / name / "copy.png")
    return folder / "images"


def filled_in_and_not_given(folder: Path) -> Path:
    truth = make_folder(folder / "my images")
    assert rank(folder / "my images") == 0
    fill_in(folder / "my images_ranking" / "batch.csv", truth)
    return folder / "my images"


def ranked_beside_a_folder(folder: Path) -> Path:
    assert rank(folder / "images") == 0
    (folder / "images_ranking" / "batch.csv").unlink()
    (folder / "images_ranking" / "batch.csv").mkdir()
    return folder / "images"


def other_images(folder: Path) -> Path:
    assert rank(folder / "images") == 0
    for number in range(9):
        save(draw(number % 3, 500 + number), folder / "others" / CLASSES[number % 3] / f"{number}.png")
        save(draw(number % 3, 600 + number), folder / "others" / f"{number}.png")
    return folder / "others"


def damaged_journal(folder: Path) -> Path:
    (folder / "images_ranking").mkdir()
    (folder / "images_ranking" / "journal.jsonl").write_text('{"event": "labelled"}\n')
    return folder / "images"


Words = Callable[[Path], list[object]]


def flags(*words: str) -> Words:
    """The folder of images, and then these words."""
    return lambda folder: [folder / "images", *words]


def given(text: str, name: str = "labels.csv") -> Words:
    """The folder of images, and a file of labels."""
    return lambda folder: [folder / "images", "--labels", labels(folder, text, name)]


def listed(*lines: str) -> Words:
    """A CSV of images."""
    return lambda folder: [labels(folder, "\n".join(["file_name,label", *lines]))]


ABSENT = "cuda" if torch.backends.mps.is_available() else "mps"

ANSWERED = {"result": [{"type": "choices", "from_name": "label", "value": {"choices": ["cat"]}}]}

BAD: dict[str, tuple[int, Words, str]] = {
    "nothing": (2, lambda d: [], "takes one folder of images, or one CSV of their names, and none is given"),
    "two folders": (2, lambda d: [d / "images", d], "and 2 are given: "),
    "an empty word": (2, lambda d: [""], "takes one folder of images"),
    "no such folder": (2, lambda d: [d / "imags"], "imags does not exist: name a folder of images"),
    "a file that is no CSV": (2, lambda d: [not_an_image(d)], "a.txt is neither a folder nor a .csv"),
    "a folder without images": (1, lambda d: [without_images(d)], "there is no image in "),
    "an unknown flag": (2, flags("--lables=x"), "--lables is no flag of rank: did you mean --labels?"),
    "a flag of another verb": (2, flags("--rounds=3"), "--rounds is no flag of rank"),
    "a file of settings that is not there": (2, flags("--config=x.yaml"), "--config x.yaml: it cannot be read"),
    "what main.py alone prints": (
        2,
        flags("--print_completion=bash"),
        "main.py --print_completion SHELL completes all",
    ),
    "more weight decay than there can be": (2, flags("--weight_decay=1e300"), "it takes a number from 0 to 100000."),
    "an unknown setting in a file": (
        2,
        lambda d: [d / "images", "--config", labels(d, "lables: x\n", "a.yaml")],
        "'lables' is not a setting: did you mean 'labels'?",
    ),
    "a setting of another verb in a file": (
        2,
        lambda d: [d / "images", "--config", labels(d, "rounds: 3\n", "a.yaml")],
        "'rounds' is not a setting: main.py rank --help lists them all.",
    ),
    "a file of settings without its name": (2, flags("--config"), "--config is given without its value"),
    "an unknown function": (2, flags("--acq_func=bold"), "'bold' (did you mean 'bald'?); a ranking takes one of unif"),
    "five functions": (2, flags("--acq_func=0"), "--acq_func 0 is 5 functions: a ranking has one"),
    "a function for two classes": (2, flags("--acq_func=mbr"), "--acq_func mbr needs a random field"),
    "no images wanted": (2, flags("--query=0"), "--query 0 is not allowed: it takes a number of at least 1"),
    "a word for a number": (2, flags("--query=ten"), "--query 'ten' is not allowed: it takes a whole number"),
    "a flag without its value": (2, flags("--labels"), "without its value: it takes a path or null, for example batch"),
    "classes without a name": (
        2,
        flags("--add_classes"),
        "--add_classes is given without its value: it takes names of",
    ),
    "too few pixels": (2, flags("--image_size=4"), "--image_size 4 is not allowed: the network gal takes 8 to"),
    "a share above a half": (2, flags("--val_share=0.9"), "--val_share 0.9 is not allowed"),
    "a share above one": (2, flags("--random_share=20"), "--random_share 20.0 is not allowed"),
    "a subset below the batch": (2, flags("--pool_subset=2"), "--pool_subset 2 is smaller than --query 4"),
    "a class that is a formula": (2, flags("--add_classes", "=1"), "--add_classes: '=1' can be no class"),
    "a switch with a value": (
        2,
        flags("--quiet=1"),
        "--quiet='1' is not allowed: --quiet is a switch and stands alone",
    ),
    "a flag of one dash": (2, flags("-x"), "-x is no flag of rank"),
    "an address that is none": (
        1,
        given(json.dumps([{"data": {"image": "http://[x"}, "annotations": [{"result": []}, ANSWERED]}]), "a.json"),
        "its image 'http://[x' is no address: correct it, or delete the task",
    ),
    "a device that is not there": (
        2,
        flags(f"--device={ABSENT}"),
        f"--device {ABSENT} is not available on this machine: take",
    ),
    "an unknown export": (2, flags("--export=csv"), "--export 'csv' is not allowed: it takes none or label_studio"),
    "results in a file": (2, lambda d: [d / "images", "--result_dir", not_an_image(d)], "a.txt cannot be written to"),
    "no such labels": (2, lambda d: [d / "images", "--labels", d / "x.csv"], "x.csv cannot be read (No such file"),
    "labels in a folder": (2, lambda d: [d / "images", "--labels", d], "cannot be read (Is a directory)"),
    "labels with semicolons": (1, given("file_name;label\n"), "line 1: the cells are separated by semicolons"),
    "labels of an unknown file": (1, given("file_name,label\nx.png,cat\n"), "line 2: 'x.png' is none of the"),
    "labels of an unknown class": (
        1,
        given("file_name,label\n000.png,cta\n"),
        "line 2: 'cta' is no class so far (did you mean 'cat'?)",
    ),
    "labels that contradict each other": (
        1,
        given("file_name,label\n000.png,cat\n000.png,dog\n"),
        "line 3: '000.png' is 'dog' here and 'cat' in",
    ),
    "labels that contradict a folder": (
        1,
        given("file_name,label\ncat/0.png,dog\n"),
        "line 2: 'cat/0.png' is 'dog' here and 'cat' in the folder",
    ),
    "a broken export": (1, given("[{]", "a.json"), "a.json is no JSON"),
    "a CSV of images that are not there": (1, listed("x.png,"), "line 2: there is no file 'x.png': correct the path"),
    "a CSV of a class that is a formula": (1, listed("images/000.png,=1"), "line 2: '=1' can be no class"),
    "a CSV that contradicts itself": (
        1,
        listed("images/000.png,", "images/000.png,cat"),
        "line 3: 'images/000.png' has the label 'cat' here and no label in",
    ),
    "copies of two classes": (1, lambda d: [copied_under_two_classes(d)], "the same image, is 'cat' in the folder"),
    "answers that were not given": (
        1,
        lambda d: [filled_in_and_not_given(d)],
        "holds 4 labels that have not been taken in, and would be written over: add --labels '",
    ),
    "a folder in the place of a file": (
        1,
        lambda d: [ranked_beside_a_folder(d)],
        "batch.csv is a folder, where a file b",
    ),
    "the journal of other images": (
        2,
        lambda d: [other_images(d), "--result_dir", d / "images_ranking"],
        "holds the journal of other images",
    ),
    "a damaged journal": (
        1,
        lambda d: [damaged_journal(d)],
        "damaged in its first line: put a copy of it back, or del",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_costs_nothing(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "images")
    code, words, told = BAD[case]
    given = [str(word) for word in words(tmp_path)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["rank", *given[:1], *FAST, *given[1:]]) == code
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("main.py: error: ")
    assert told in printed[-1]
    assert printed[-1][-1] in ".?"
    assert not any("Traceback" in line for line in printed)
    for path, content in before.items():
        assert path.parent.name == "cache" or path.read_bytes() == content, path


def test_a_class_is_added_with_labels_that_are_taken_in_only(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    words = ["--add_classes=typo", "--labels", labels(tmp_path, "file_name,label\nx.png,cat\n")]
    assert rank(tmp_path / "images", *words) == 1
    assert not (tmp_path / "images_ranking" / "journal.jsonl").exists()


def test_a_folder_of_other_images_keeps_its_decoded_ones(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    others = other_images(tmp_path)
    cache = tmp_path / "images_ranking" / "cache"
    before = {path: path.read_bytes() for path in cache.iterdir()}
    assert rank(others, "--result_dir", tmp_path / "images_ranking") == 2
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


def test_a_batch_that_was_emptied_is_written_anew(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    batch = tmp_path / "images_ranking" / "batch.csv"
    assert rank(tmp_path / "images") == 0
    content = batch.read_bytes()
    batch.write_bytes(b"\n")
    assert rank(tmp_path / "images") == 0
    assert batch.read_bytes() == content


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no pipes among its files")
@pytest.mark.parametrize(
    "content", [b"file_name,label\n000.png,cat\n", b'[{"data": {"file_name": "000.png"}, "annotations": []}]']
)
def test_labels_may_come_through_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    make_folder(tmp_path / "images")
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    assert rank(tmp_path / "images", "--labels", f"/dev/fd/{reading}") == 0
    os.close(reading)
    told = "1 label, 1 of them new" if b"cat" in content else "0 labels, 0 of them new, 1 task without an answer"
    assert f"/dev/fd/{reading}: {told}" in capsys.readouterr().out


@pytest.mark.parametrize("last", ["cache/pixels-1.npy", "journal.jsonl", "ranking.csv"])
def test_a_command_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path, last: str) -> None:
    """Kill it as soon as a file is there, then let it end."""
    images, killed = tmp_path / "images", tmp_path / "killed"
    truth = make_folder(images, pool=60)
    words = ["--labels", str(labels(tmp_path, "file_name,label\n000.png,cat\n001.png,dog\n"))]
    assert rank(images, *words, "--result_dir", tmp_path / "whole") == 0
    command = [sys.executable, str(ROOT / "main.py"), "rank", str(images), *FAST, *words, "--result_dir", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (killed / last).exists() and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert rank(images, *words, "--result_dir", killed) == 0
    for name in ("ranking.csv", "batch.csv", "skipped.csv"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert answered(killed) == {name: truth[name] for name in ("000.png", "001.png")}
    rows = [json.loads(line) for line in (killed / "journal.jsonl").read_text().splitlines()]
    assert [row.get("event") for row in rows] == [None, "labelled", "asked"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_told_with_what_takes_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lacking(_: object) -> None:
        raise error

    make_folder(tmp_path / "images")
    monkeypatch.setattr("active_learning.ranking.rank.Round.result", lacking)
    assert rank(tmp_path / "images", "--dropout_iter=7") == 1
    assert "not enough memory for --dropout_iter 7 passes: give fewer, or a smaller" in capsys.readouterr().err
    assert rank(tmp_path / "images", "--dropout_iter=1") == 1
    assert "not enough memory: give a smaller --image_size." in capsys.readouterr().err


def test_a_device_that_fails_is_told_with_the_one_that_every_machine_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "images")
    monkeypatch.setattr(
        "active_learning.ranking.rank.Round.result", MagicMock(side_effect=RuntimeError("CUDA error:\nx"))
    )
    assert rank(tmp_path / "images") == 1
    assert "error: the device failed (CUDA error: x): no label is lost; try --device cpu.\n" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "way"), [("float32", ""), ("bfloat16", "--precision float32, or ")])
def test_a_network_that_cannot_be_trained_is_told_with_what_may_help(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    way: str,
) -> None:
    def diverging(_: object) -> None:
        raise NonFiniteLossError("the training loss became nan in epoch 3")

    make_folder(tmp_path / "images")
    monkeypatch.setattr("active_learning.ranking.rank.Round.result", diverging)
    assert rank(tmp_path / "images", f"--precision={precision}") == 1
    assert capsys.readouterr().err.endswith(
        f"(the training loss became nan in epoch 3): no label is lost; try {way}another --seed.\n"
    )


def test_an_interrupt_ends_with_a_sentence(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    command = [sys.executable, str(ROOT / "main.py"), "rank", str(tmp_path / "images"), *FAST, "--min_steps=1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the images are there, the training begins
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert err.endswith("main.py: error: stopped; finished rounds are saved, and the same command goes on.\n")


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in ("labels", "query", "export", "random_share", "image_size"))


def test_a_label_stays_with_the_image_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files swap their names, and a third one moves, between the question and the answer."""
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images)
    assert rank(images) == 0
    one, two, three, _ = names(results / "batch.csv")
    before = {name: (images / name).read_bytes() for name in (one, two, three)}
    (images / one).write_bytes(before[two])
    (images / two).write_bytes(before[one])
    (images / three).rename(images / "moved.png")
    fill_in(results / "batch.csv", {one: "cat", two: "dog", three: "owl"}, only=3)
    assert rank(images) == 1  # the answers would be written over
    assert rank(images, "--labels", results / "batch.csv") == 0
    assert answered(results) == {two: "cat", one: "dog", "moved.png": "owl"}
    assert f"renamed since they were asked for: 3 (the first: {one!r}, now {two!r})" in capsys.readouterr().err


def test_a_label_of_an_image_that_was_replaced_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images)
    assert rank(images) == 0
    one, two, *_ = names(results / "batch.csv")
    first = labels(tmp_path, f"file_name,label\n{one},cat\n")
    replaced = (images / one).read_bytes()
    save(draw(2, 77), images / one)
    assert rank(images, "--labels", first) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"labels.csv, line 2: {one!r} is another picture now than when it was asked for" in told
    assert "rename the file" in told
    assert answered(results) == {}
    (images / one).rename(images / "new.png")  # the way out that is told, for the new picture
    assert rank(images, "--labels", labels(tmp_path, "file_name,label\nnew.png,owl\n")) == 0
    (images / one).write_bytes(replaced)  # and for the old one
    assert rank(images, "--labels", labels(tmp_path, f"file_name,label\n{one},cat\n")) == 0
    (images / one).unlink()  # a file of all labels is taken again, since the journal has this one
    both = labels(tmp_path, f"file_name,label\n{one},cat\n{two},dog\n")
    assert rank(images, "--labels", both) == 0
    assert answered(results) == {"new.png": "owl", one: "cat", two: "dog"}


def test_the_batch_says_which_content_it_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is asked for twice, of two contents: the first round's file is about the first of them."""
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images, pool=5)
    assert rank(images, "--query=5") == 0
    header, *lines = (results / "batch.csv").read_text().splitlines()
    assert header == "file_name,label,predicted_label,sha256"
    for line in lines:
        assert line.rpartition(",")[2] == hashlib.sha256((images / line.partition(",")[0]).read_bytes()).hexdigest()
    old = fill_in(results / "batch.csv", dict.fromkeys(names(results / "batch.csv"), "cat"), only=1).read_text()
    old_labels = labels(tmp_path, "\n".join(old.splitlines()[:2]) + "\n")
    (results / "batch.csv").unlink()
    one = names(old_labels)[0]
    kept = (images / one).read_bytes()
    save(draw(2, 77), images / one)
    assert rank(images, "--query=5") == 0
    assert one in names(results / "batch.csv")
    assert rank(images, "--labels", old_labels) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"labels.csv, line 2: {one!r} is another picture now than when it was asked for" in told
    assert answered(results) == {}
    (images / "kept.png").write_bytes(kept)
    assert rank(images, "--labels", old_labels) == 0
    assert answered(results) == {"kept.png": "cat"}


def test_a_line_whose_name_and_content_are_two_images_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images)
    assert rank(images) == 0
    one, two, *_ = names(results / "batch.csv")
    digest = hashlib.sha256((images / one).read_bytes()).hexdigest()
    for name, sha256, told in (
        (two, digest, f"{two!r} is not the image with this sha256 ({digest[:12]}): correct one of the two."),
        ("gone.png", "0" * 64, "no image of 39 is the one that the line was made for ('gone.png', sha256 0000"),
        (two, "what", f"{two!r} is not the image with this sha256 (what): correct one of the two."),
    ):
        given = labels(tmp_path, f"file_name,label,sha256\n{name},cat,{sha256}\n")
        assert rank(images, "--labels", given) == 1
        assert f"labels.csv, line 2: {told}" in capsys.readouterr().err
    given = labels(tmp_path, f"file_name,label,sha256\n{one},cat,{digest.upper()}\n{two},dog,\n")
    assert rank(images, "--labels", given) == 0
    assert answered(results) == {one: "cat", two: "dog"}


def test_labels_handed_over_are_kept_though_the_folders_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the journal does not have is stored: the folders and the CSV of images are the user's, and may change."""
    images, results = tmp_path / "images", tmp_path / "images_ranking"
    make_folder(images)
    given = labels(tmp_path, "file_name,label\ncat/0.png,cat\ndog/1.png,dog\n")
    assert rank(images, "--labels", given) == 0
    assert "2 labels, 2 of them new" in capsys.readouterr().out
    assert answered(results) == {"cat/0.png": "cat", "dog/1.png": "dog"}
    assert rank(images, "--labels", given) == 0
    assert "2 labels, 0 of them new" in capsys.readouterr().out
    (images / "cat/0.png").rename(images / "0.png")
    assert rank(images) == 0
    assert "9 of them labelled" in (results / "index.html").read_text()
