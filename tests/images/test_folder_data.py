"""`--dataset folder:PATH`: the experiments on a folder of labelled images."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from active_learning.disk.record import read_record
from active_learning.images.dataset import ImageFolder, is_test, load_run, open_folder
from active_learning.images.pixels import Header, read_header
from active_learning.report.page import command
from active_learning.report.results import read_results
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ExperimentConfig, RunConfig
from active_learning.settings.flags import read_flags
from load_data import DataError
from main import main
from tests.conftest import ROOT, TINY, Tiny
from tests.ranking.folders import CLASSES, draw, save

SHORT = ("--rounds=1", "--experiments=1", "--acq_func=uniform")


def make(folder: Path, *, images: int = 150) -> Path:
    for number in range(images):
        save(draw(number % 3, number), folder / CLASSES[number % 3] / f"{number}.png")
    return folder


def opened(folder: Path, size: int = 0) -> ImageFolder:
    return open_folder(str(folder), folder.parent / "data", size, "gal")


def contents(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def record(folder: Path) -> bytes:
    return (folder / "runs" / "uniform-MC_dropout=True" / "repetition_0" / "metrics.jsonl").read_bytes()


@pytest.fixture
def run(tiny_main: Tiny, tmp_path: Path) -> Callable[..., int]:
    """main.py on a folder, `images` unless another is given, with results in `results`."""

    def on(*flags: object, images: object = tmp_path / "images") -> int:
        where = (f"--data_dir={tmp_path / 'data'}", f"--result_dir={tmp_path / 'results'}")
        return tiny_main(*where, *SHORT, f"--dataset=folder:{images}", *flags)

    return on


def test_the_split_follows_from_contents_and_stays(tmp_path: Path) -> None:
    few = opened(make(tmp_path / "images", images=90)).data
    many = opened(make(tmp_path / "images", images=150)).data
    assert contents(few.train_images) < contents(many.train_images)
    assert contents(few.test_images) < contents(many.test_images)
    assert not contents(many.train_images) & contents(many.test_images)
    assert 0.1 < len(many.test_labels) / 150 < 0.3


def test_the_arrays_are_the_files(tmp_path: Path) -> None:
    folder = opened(make(tmp_path / "images"))
    assert folder.spec.class_names == CLASSES
    for images, labels in ((folder.data.train_images, folder.data.train_labels),
                           (folder.data.test_images, folder.data.test_labels)):  # fmt: skip
        for image, label in zip(images, labels, strict=True):
            files = (tmp_path / "images" / CLASSES[label]).iterdir()
            assert any(np.array_equal(image[0], np.asarray(Image.open(file))) for file in files)
    sizes = np.bincount(folder.data.train_labels), np.bincount(folder.data.test_labels)
    assert tuple(sizes[0]) == folder.spec.train_class_sizes
    assert (int(sizes[1].sum()), sum(map(int, sizes[0] + sizes[1]))) == (folder.spec.test_size, 150)
    train = folder.data.train_images / 255  # the test images have no part in it
    assert folder.data.pixel_mean == pytest.approx((train.mean(),))
    assert folder.data.pixel_std == pytest.approx((train.std(),))


def test_a_fifth_of_all_digests_is_of_the_test_set() -> None:
    digests = [f"{number:04x}".ljust(64, "0") for number in range(0, 2**16, 7)]
    assert np.mean([is_test(digest) for digest in digests]) == pytest.approx(0.2, abs=1e-3)


def test_copies_count_once_and_names_and_places_do_not_count(tmp_path: Path) -> None:
    before = opened(make(tmp_path / "images"))
    shutil.copy(tmp_path / "images/cat/0.png", tmp_path / "images/cat/copy.png")
    (tmp_path / "images/dog/1.png").rename(tmp_path / "images/dog/Ünï, 1.PNG")
    (tmp_path / "images").rename(tmp_path / "moved")
    after = opened(tmp_path / "moved")
    assert before.name == after.name
    assert np.array_equal(before.data.train_images, after.data.train_images)


def test_a_picture_that_was_saved_again_counts_once_with_one_class(tmp_path: Path) -> None:
    before = opened(make(tmp_path / "images"))
    for number in range(0, 150, 3):
        with Image.open(tmp_path / f"images/cat/{number}.png") as image:
            image.save(tmp_path / f"images/cat/{number}.bmp")
    after = opened(tmp_path / "images")
    assert after.copies == 50
    assert not contents(after.data.train_images) & contents(after.data.test_images)
    assert len(after.data.train_images) + len(after.data.test_images) == 150 - before.copies
    (tmp_path / "images/cat/0.bmp").rename(tmp_path / "images/dog/0.bmp")
    with pytest.raises(
        DataError, match=r"the same picture, is '(cat|dog)': give both one class, or leave one of the two out\.$"
    ):
        opened(tmp_path / "images")


def test_runs_are_of_one_size_of_images(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that cannot be decoded have a say in the median of the sides."""
    make(tmp_path / "images", images=90)
    assert run() == 0
    for number in range(200):
        content = (tmp_path / "large.bmp", tmp_path / f"images/cat/damaged-{number}.bmp")
        Image.new("L", (60, 60), number).save(content[0])
        content[1].write_bytes(content[0].read_bytes()[:2000])
    assert run("--rounds=2") == 2
    assert "image_size is 12 there and 60 here): give --image_size 12 to continue" in capsys.readouterr().err
    assert run("--rounds=2", "--image_size=12") == 0


@pytest.mark.parametrize("failing", [1, 2])  # its header; its pixels
def test_a_read_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    make(tmp_path / "images")
    reads = list[str]()

    def tired(path: Path) -> bytes:
        reads.append(path.name)
        if reads.count("30.png") == failing and path.name == "30.png":
            raise OSError(errno.EIO, "Input/output error")
        return once_read(path)

    once_read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", tired)
    with pytest.raises(
        DataError, match=r"^cat/30\.png in .* is not read: .*: Input/output error: give the command again, "
    ):
        opened(tmp_path / "images")
    assert not opened(tmp_path / "images").library.skipped


def test_status_of_images_that_are_gone_and_runs_of_other_images(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "images")
    assert run() == 0
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert run("--status") == 2
    shown, told = capsys.readouterr()
    assert "uniform-MC_dropout=True" in shown
    assert f"{tmp_path / 'images'} does not exist" in told
    make(tmp_path / "others", images=120)
    assert run(images=tmp_path / "others") == 2
    told = capsys.readouterr().err
    assert f"holds runs of the images in {tmp_path / 'images'}, and those in {tmp_path / 'others'} are others: " in told


def add(folder: Path) -> None:
    save(draw(0, 999), folder / "cat/999.png")


def remove(folder: Path) -> None:
    (folder / "cat/0.png").unlink()


def relabel(folder: Path) -> None:
    (folder / "cat/0.png").rename(folder / "dog/0.png")


def change(folder: Path) -> None:
    save(draw(0, 999), folder / "cat/0.png")


@pytest.mark.parametrize("what", [add, remove, relabel, change])
def test_a_changed_folder_is_refused_in_a_sentence(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: Callable[[Path], None]
) -> None:
    before = opened(make(tmp_path / "images")).name
    assert run() == 0
    held = record(tmp_path / "results")
    what(tmp_path / "images")
    after = opened(tmp_path / "images").name
    capsys.readouterr()
    for flags in ((), ("--rounds=2",), ("--status",)):
        assert run(*flags) == 2
        *_, refusal = capsys.readouterr().err.splitlines()
        assert refusal == (
            f"main.py: error: --result_dir {tmp_path / 'results'} holds runs of other images: one of them, or a label, "
            f"has been added, taken away or changed (the digest is {before[7:]} there and {after[7:]} here): bring the "
            "images back to continue these runs, or name another folder."
        )
    assert record(tmp_path / "results") == held
    run_there = RunConfig(**{**vars(planned(tmp_path)), "dataset": before})
    with pytest.raises(DataError, match=r"are not those of this run .*: bring them back, or name another --result_dir"):
        load_run(run_there, tmp_path / "data")


def planned(tmp_path: Path) -> RunConfig:
    fields = opened(tmp_path / "images").fields
    return planned_runs(read_flags([*TINY, *SHORT, "--dataset=folder:x"]), "float32", "cpu", fields)[0]


def test_a_moved_folder_goes_on_to_the_same_bytes(run: Callable[..., int], tmp_path: Path) -> None:
    make(tmp_path / "images")
    assert run("--rounds=2", f"--result_dir={tmp_path / 'whole'}") == 0
    assert run("--rounds=1") == 0
    (tmp_path / "images").rename(tmp_path / "moved, again")
    assert run("--rounds=2", images=tmp_path / "moved, again") == 0
    assert record(tmp_path / "results") == record(tmp_path / "whole")
    assert json.loads((tmp_path / "results/images.json").read_text()) == {"folder": str(tmp_path / "moved, again")}


def test_a_csv_names_the_images_too(run: Callable[..., int], tmp_path: Path) -> None:
    make(tmp_path / "images")
    lines = [f"images/{path.parent.name}/{path.name},{path.parent.name}" for path in tmp_path.glob("images/*/*.png")]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    assert opened(tmp_path / "labels.csv").name == opened(tmp_path / "images").name
    assert run(images=tmp_path / "labels.csv") == 0


def test_a_path_may_begin_at_the_users_home(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "images")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(images="~/images") == 0


def test_workers_find_the_images(run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert run("--experiments=2", "--jobs=1", f"--result_dir={alone}", images="images") == 0
    assert run("--experiments=2", "--jobs=2", f"--result_dir={together}", images="images") == 0
    assert record(alone) == record(together)
    assert (together / "runs/uniform-MC_dropout=True/repetition_1/test_error.npy").exists()


def test_a_second_run_decodes_nothing(run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "images")
    assert run() == 0

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("active_learning.images.cache.decode", fail)
    assert run("--rounds=2") == 0


def test_images_are_as_large_as_asked_for(run: Callable[..., int], tmp_path: Path) -> None:
    make(tmp_path / "images")
    assert opened(tmp_path / "images").data.train_images.shape[1:] == (1, 12, 12)
    assert run("--image_size=8") == 0
    configuration = read_record(tmp_path / "results/runs/uniform-MC_dropout=True/repetition_0").configuration
    assert configuration is not None
    assert configuration["image_size"] == 8
    assert run() == 2  # not continued at another size


def spoil(folder: Path, path: str, content: bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


def empty(folder: Path) -> None:
    for path in folder.glob("*/*"):
        path.unlink()


def leave_one_class(folder: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(folder / name)


BAD: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (shutil.rmtree, 2, "{images} does not exist: name a folder of images, or a CSV of their names."),
    "no image": (empty, 1, "there is no image in {images}: files that end in "),
    "unlabelled": (lambda f: save(draw(0, 999), f / "new.png"), 1, "{images}: images without a class: 1 of 151 "
                   "(the first: new.png); the experiments need one for each: put them into the folder of their class, "
                   "or take them away (main.py rank says which to label first)."),
    "pool folder": (lambda f: (f / "cat").rename(f / "unlabelled"), 1,
                    "{images}: images without a class: 50 of 150 (the first: "),
    "one class": (leave_one_class, 1,
                  "{images}: all images are of one class, cat: the experiments need two or more."),
    "few of a class": (lambda f: save(draw(0, 7), f / "ant" / "1.png"), 1, "{images}: the class ant has "),
    "twice": (lambda f: shutil.copy(f / "cat/0.png", f / "dog/twin.png"), 1,
              "the folder {images}/dog: 'dog/twin.png' is 'dog', and 'cat/0.png', the same image, is 'cat' in the "
              "folder {images}/cat: give both one class, or leave one of the two out."),
    "no text": (lambda f: (f / "cat").rename(f / "=cat"), 1, "the folder {images}/=cat: '=cat' can be no class"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_data_set_is_refused_in_a_sentence(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    spoils, code, told = BAD[case]
    spoils(make(tmp_path / "images"))
    assert run() == code
    err = capsys.readouterr().err
    assert err.startswith("main.py: error: " + told.format(images=tmp_path / "images"))
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--initial_per_class 60", "--initial_per_class 60 is too large: folder:images has "),
        ("--val_size 150", "--val_size 150 is too large: folder:images has "),
        ("--query 60 --rounds 2", "--query 60 x --rounds 2 = 120 images are more than the pool of "),
        ("--classes 0 3", "--classes 0 3 is not allowed: it takes two or more different labels of 0 to 2"),
        ("--mbr", "--mbr tells two classes apart, and these are 3: add --classes 0 1, say."),
        ("--image_size 7", "--image_size 7 is not allowed: the network gal takes 8 to 512 pixels a side, or 0 "),
        ("--image_size 513", "--image_size 513 is not allowed: the network gal takes 8 to 512 pixels a side, or 0 "),
        ("--dataset tiny --image_size 16", "--image_size 16 is for --dataset folder:PATH, and the images of tiny "),
        ("--dataset folder:", "--dataset folder: is without its path: write folder:PATH, such as folder:digits."),
        ("--dataset images", "--dataset 'images' is not known: choose one of "),
        (
            "--dataset folder:~nosuchuser/x",
            "~nosuchuser/x does not exist: name a folder of images, or a CSV of their names.",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_run(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
    told: str,
) -> None:
    make(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    assert run(*flags.split(), images="images") == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_read_is_left_out_and_told(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(make(tmp_path / "images"), "cat/broken.png", b"no image")
    assert run() == 0
    told = "files that are left out: 1 (the first: cat/broken.png: it is no image that Pillow knows)."
    assert f"{tmp_path / 'images'}: {told}" in capsys.readouterr().err


def test_nothing_runs_without_an_image_that_could_not_be_read_this_time(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, given again, would find other images than those that it began with."""
    images = make(tmp_path / "images")
    first = min(path for path in images.rglob("*.png"))

    def changing(*arguments: Any) -> Header:
        header = read_header(*arguments)
        if arguments[0] == first:
            save(draw(0, 999), first)
        return header

    with monkeypatch.context() as patched:
        patched.setattr("active_learning.images.library.read_header", changing)
        assert run() == 1
    told = "it was changed while the images were read: give the command again, or take it out of the folder."
    assert f"{first.relative_to(images).as_posix()} in {images} is not read: {told}\n" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))
    assert run() == 0


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("folder:/a/b/my images, 1/", "folder_my images, 1"),
        ("folder:Bilder.Köln", "folder_Bilder.Köln"),
        ("folder:a/labels.csv", "folder_labels"),
        ("folder:/", "folder_folder"),
    ],
)
def test_the_default_result_folder_is_called_after_the_images(dataset: str, name: str) -> None:
    assert ExperimentConfig(dataset=dataset).result_dir == Path("result_npy", name)
    assert ExperimentConfig(dataset=dataset, image_size=32).result_dir == Path("result_npy", f"{name}-image_size=32")
    long = ExperimentConfig(dataset=f"folder:{'a' * 250}").result_dir.name
    assert long.startswith("folder-")
    assert len(long) < 50


def test_the_page_names_classes_split_and_the_command_that_makes_it_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make(tmp_path / "my ímages, 1")
    monkeypatch.setenv("DBAL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    flags = [*TINY, *SHORT, "--jobs=1"]
    assert main([*flags, "--dataset", "folder:my ímages, 1", "--image_size=16"]) == 0
    results = tmp_path / "result_npy"
    folder = next(results.iterdir())
    page = (folder / "report/index.html").read_text("utf-8")
    for told in ("<h1>Active learning on my ímages, 1</h1>", "sha256 is in the lowest fifth", *CLASSES):
        assert told in page
    assert "There are no pictures here" not in page
    again = command((found := read_results(folder)).runs[0], 1, found.arms)
    assert f"--dataset 'folder:{images}'" in again
    assert [found.runs[0].label_name(label) for label in range(4)] == [*CLASSES, "3"]
    ended = subprocess.run(again.replace("python3 main.py", f"{sys.executable} {ROOT / 'main.py'}"), shell=True)
    assert ended.returncode == 0
    assert record(tmp_path / "result_again") == record(folder)
    images.rename(tmp_path / "gone")
    assert main(["report", str(folder)]) == 0
    page = (folder / "report/index.html").read_text("utf-8")
    assert f"There are no pictures here. {images} does not exist" in page
    assert CLASSES[0] in page
    (folder / "images.json").unlink()
    assert main(["report", str(folder)]) == 0
    page = (folder / "report/index.html").read_text("utf-8")
    assert "There are no pictures here. Where the images were is not known" in page
    assert "--dataset</span> <span>folder:PATH</span>" in page


def test_a_settings_file_and_the_status_know_it(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "images")
    (tmp_path / "run.yaml").write_text(f"dataset: folder:{tmp_path / 'images'}\nimage_size: 10\n")
    where = [f"--data_dir={tmp_path / 'data'}", f"--result_dir={tmp_path / 'results'}"]
    flags = [flag for flag in [*TINY, *SHORT] if not flag.startswith("--dataset")]
    assert main(["status", *flags, *where, "--config", str(tmp_path / "run.yaml")]) == 0
    assert "1 to do" in capsys.readouterr().out
    assert run("--image_size=10") == 0
    capsys.readouterr()
    assert main(["status", *flags, *where, "--config", str(tmp_path / "run.yaml")]) == 0
    assert "1 done" in capsys.readouterr().out
