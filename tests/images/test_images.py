"""Images as they are: which files are taken, what is decoded, and that it is decoded once."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from active_learning.images import cache as cache_module
from active_learning.images import library as library_module
from active_learning.images.files import find_images
from active_learning.images.library import Library, open_library
from active_learning.images.pixels import Header, decode, guarded, read_header
from load_data import DataError
from tests.ranking.folders import draw, save


def nothing() -> None:
    """What is called for a chance to stop."""


def passed_on(items: Iterable[Any], _phase: str, _count: int) -> Iterator[Any]:
    yield from items


def opened(folder: Path, size: int = 0, cache: Path | None = None) -> Library:
    listing = find_images(folder, flat=False, check=nothing)
    return open_library(listing, cache or folder.parent / "cache", size, (8, 64), passed_on, nothing)


def names(library: Library) -> list[str]:
    return [picture.file_name for picture in library.pictures]


def test_a_folder_has_labelled_ones_in_folders_and_the_pool_beside_them(tmp_path: Path) -> None:
    for name in ("b.png", "cat/a.png", "cat/deep/b.JPG", "unlabelled/c.png", ".hidden/d.png", ".e.png", "notes.txt"):
        save(draw(0, len(name)), tmp_path / f"{name}.png").rename(tmp_path / name)
    listing = find_images(tmp_path, flat=False, check=nothing)
    assert [(answer.file_name, answer.label) for answer in listing.answers] == [
        ("b.png", ""), ("cat/a.png", "cat"), ("cat/deep/b.JPG", "cat"), ("unlabelled/c.png", "")
    ]  # fmt: skip
    assert listing.others == 1
    flat = find_images(tmp_path, flat=True, check=nothing)
    assert not any(answer.label for answer in flat.answers)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    save(draw(0, 1), tmp_path / "elsewhere" / "a.png")
    images = tmp_path / "images"
    save(draw(0, 2), images / "cat" / "b.png")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "cat" / "again").symlink_to(images)
    (images / "itself.png").symlink_to(images / "itself.png")
    (images / "gone.png").symlink_to(images / "nowhere.png")
    library = opened(images)
    assert names(library) == ["cat/b.png", "linked/a.png"]
    assert sorted(library.skipped) == ["gone.png", "itself.png"]


def test_the_pool_may_have_a_folder_and_only_what_was_decoded_is_counted(tmp_path: Path) -> None:
    for number, name in enumerate(("Unlabelled/a.png", "unlabeled/b.png", "cat/c.png")):
        save(draw(0, number), tmp_path / name)
    whole = (tmp_path / "cat" / "c.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    listing = find_images(tmp_path, flat=False, check=lambda: None)
    assert {answer.file_name: answer.label for answer in listing.answers} == {
        **dict.fromkeys(("Unlabelled/a.png", "broken.png", "unlabeled/b.png"), ""), "cat/c.png": "cat",
    }  # fmt: skip
    assert opened(tmp_path).decoded == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    save(draw(0, 1), tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    library = opened(tmp_path)
    assert names(library) == ["a.png"]
    assert library.skipped == {"b.png": "it is a pipe, a socket or a device, and no file"}


@pytest.mark.parametrize("name", ["a b.png", "a,b.png", 'say "hi".png', "Ünï—図.png", "=1+1.png", "-a.png", "a\nb.png"])
def test_any_name_is_a_name(tmp_path: Path, name: str) -> None:
    save(draw(0, 1), tmp_path / "images" / name)
    assert names(opened(tmp_path / "images")) == [name]


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    save(draw(0, 1), tmp_path / "images" / "a.png")
    try:
        Path(os.fsdecode(bytes(tmp_path / "images") + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has no such names")
    library = opened(tmp_path / "images")
    assert (names(library), list(library.skipped)) == (["a.png"], ["\\udcff.png"])


def grey(values: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(values, np.uint8)


KINDS: dict[str, Callable[[], Image.Image]] = {
    "grey": lambda: Image.new("L", (8, 8), 100),
    "colour": lambda: Image.new("RGB", (8, 8), (100, 100, 100)),
    "palette": lambda: Image.new("RGB", (8, 8), (100, 100, 100)).quantize(),
    "sixteen bits": lambda: Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)),
    "half transparent": lambda: Image.new("LA", (8, 8), (0, 155)),  # black over white
    "half transparent colour": lambda: Image.new("RGBA", (8, 8), (0, 0, 0, 155)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_pixels_becomes_eight_bits(tmp_path: Path, kind: str) -> None:
    path = save(KINDS[kind](), tmp_path / "a.png")
    assert not read_header(path).fault
    for is_grey in (True, False):
        pixels = decode(path, 8, grey=is_grey)
        assert not isinstance(pixels, str), pixels
        assert pixels.shape == (1 if is_grey else 3, 8, 8)
        assert set(pixels.flat) == {100}


def test_sixteen_bits_become_eight_by_their_share_of_the_largest(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    pixels = decode(save(Image.fromarray(values), tmp_path / "a.png"), 16, grey=True)
    assert not isinstance(pixels, str)
    np.testing.assert_array_equal(pixels[0], np.arange(256).reshape(16, 16))


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(grey([[0] * 16] * 8 + [[255] * 16] * 8)).resize((32, 16))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.jpg", exif=exif)
    header = read_header(tmp_path / "a.jpg")
    assert (header.width, header.height) == (16, 32)
    pixels = decode(tmp_path / "a.jpg", 16, grey=True)
    assert not isinstance(pixels, str)
    assert pixels[0, :, 0].min() > 200  # what was at the bottom is at the left
    assert pixels[0, :, -1].max() < 50


def test_a_file_that_changes_between_its_two_readings_is_left_out_this_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the new pixels would stand under the old content's digest for ever."""
    images = tmp_path / "images"
    first, second = save(draw(0, 1), images / "a.png"), save(draw(1, 2), images / "b.png")
    new = draw(0, 9)

    def changing(*arguments: Any) -> Header:
        header = read_header(*arguments)
        if arguments[0] == first:
            save(new, first)
        return header

    with monkeypatch.context() as patched:
        patched.setattr("active_learning.images.library.read_header", changing)
        library = opened(images)
    assert (names(library), second.name) == (["b.png"], "b.png")
    assert library.skipped == {"a.png": "it was changed while the images were read: give the command again"}
    library = opened(images)
    assert (names(library), library.skipped) == (["a.png", "b.png"], {})
    row = next(picture.row for picture in library.pictures if picture.file_name == "a.png")
    np.testing.assert_array_equal(library.pixels[row, 0], np.asarray(new.convert("L")))


def test_what_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path) -> None:
    images = tmp_path / "images"
    whole = save(draw(0, 1, side=64), images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "text.png").write_text("not an image")
    (images / "empty.png").write_bytes(b"")
    Image.new("F", (8, 8)).save(images / "float.tif")
    library = opened(images)
    assert names(library) == ["a.png"]
    assert library.skipped["text.png"] == library.skipped["empty.png"] == "it is no image that Pillow knows"
    assert "truncated" in library.skipped["cut.png"]
    assert "floating-point" in library.skipped["float.tif"]
    again = opened(images)
    assert (again.decoded, dict(again.skipped)) == (0, dict(library.skipped))


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with guarded():
        assert "more than 90 million pixels" in read_header(tmp_path / "bomb.png").fault


def test_folders_may_be_as_deep_as_a_path_is_long(tmp_path: Path) -> None:
    deep = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1100)]  # more than Python calls within each other
    for folder in deep:
        os.mkdir(folder)  # noqa: PTH102 - pathlib's calls itself
    draw(0, 1).save(f"{deep[-1]}/a.png")
    assert len(names(opened(tmp_path))) == 1
    os.remove(f"{deep[-1]}/a.png")  # noqa: PTH107
    for folder in reversed(deep):  # pytest's way to delete old folders calls itself too
        os.rmdir(folder)  # noqa: PTH106


def test_no_image_at_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"there is no image in .*images: files that end in \.bmp"):
        opened(tmp_path / "images")
    (tmp_path / "images" / "a.png").write_text("x")
    with pytest.raises(DataError, match=r"none of the 1 images can be used; a\.png: it is no image that Pillow"):
        opened(tmp_path / "images")


def test_copies_are_one_image(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "cat/c.png"):
        save(draw(0, 1), tmp_path / "images" / name)
    (picture,) = opened(tmp_path / "images").pictures
    assert (picture.file_name, picture.others) == ("a.png", ("b.png", "cat/c.png"))


def test_the_size_is_the_median_within_limits(tmp_path: Path) -> None:
    for number, side in enumerate((10, 20, 200)):
        save(draw(0, number, side=side), tmp_path / "images" / f"{side}.png")
    assert opened(tmp_path / "images").size == 20
    assert opened(tmp_path / "images", 32).size == 32
    save(draw(0, 1, side=3000), tmp_path / "large" / "a.png")
    assert opened(tmp_path / "large").size == 64


def test_extreme_shapes_are_counted(tmp_path: Path) -> None:
    save(draw(0, 1), tmp_path / "images" / "a.png")
    save(draw(0, 2).resize((36, 12)), tmp_path / "images" / "wide.png")
    assert opened(tmp_path / "images").extreme == (1, "wide.png")


def test_colour_decides_the_channels(tmp_path: Path) -> None:
    images = tmp_path / "images"
    save(draw(0, 1), images / "a.png")
    save(draw(0, 2).convert("RGB"), images / "grey_in_rgb.png")
    library = opened(images)
    assert library.pixels.shape == (2, 1, 12, 12)
    assert opened(images).decoded == 0
    save(Image.merge("RGB", [draw(0, 3), draw(1, 3), draw(2, 3)]), images / "red.png")
    coloured = opened(images)
    assert coloured.pixels.shape == (3, 3, 12, 12)
    assert coloured.decoded == 1
    rows = {picture.file_name: coloured.pixels[picture.row] for picture in coloured.pictures}
    np.testing.assert_array_equal(rows["a.png"], np.broadcast_to(np.asarray(draw(0, 1)), (3, 12, 12)))


def test_a_second_call_decodes_and_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    for number in range(5):
        os.utime(save(draw(0, number), images / f"{number}.png"), (1e9, 1e9))
    first = opened(images)
    assert first.decoded == 5
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    monkeypatch.setattr(library_module, "read_header", lambda path: pytest.fail(f"{path} is read"))
    monkeypatch.setattr(cache_module, "decode", lambda path, *_, **__: pytest.fail(f"{path} is decoded"))
    again = opened(images)
    assert again.pictures == first.pictures
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_what_was_decoded_before_a_stop_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Stopped at the seventh image, with an array of other rows before it."""
    images = tmp_path / "images"
    for number in (50, 51):
        save(draw(2, number), images / f"{number}.png")
    opened(images, 12)
    for number in range(10):
        save(draw(number % 3, number).convert("RGB"), images / f"{number}.png")
    monkeypatch.setattr(cache_module, "SECONDS_BETWEEN_SAVES", seconds)
    left = iter(range(12 + 6))

    def stop() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    listing = find_images(images, flat=False, check=nothing)
    with pytest.raises(KeyboardInterrupt):
        open_library(listing, tmp_path / "cache", 12, (8, 64), passed_on, stop)
    library = opened(images, 12)
    assert library.decoded == 12 - 8
    assert library.pixels.shape == (12, 1, 12, 12)
    for picture in library.pictures:
        expected = np.asarray(Image.open(images / picture.file_name).convert("L"))
        np.testing.assert_array_equal(library.pixels[picture.row, 0], expected)


def test_only_what_is_new_or_changed_is_decoded(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(4):
        save(draw(0, number), images / f"{number}.png")
    opened(images)
    save(draw(1, 7), images / "0.png")
    save(draw(1, 8), images / "new.png")
    (images / "1.png").rename(images / "moved.png")
    library = opened(images)
    assert library.decoded == 2
    assert names(library) == ["0.png", "2.png", "3.png", "moved.png", "new.png"]
    for picture in library.pictures:
        np.testing.assert_array_equal(
            library.pixels[picture.row, 0], np.asarray(Image.open(images / picture.file_name))
        )


@pytest.mark.parametrize("file", ["index.json", "pixels"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x93NUMPY nonsense", b'{"format": 1, "files": [], "pixels": 3}'])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, file: str, content: bytes) -> None:
    images = tmp_path / "images"
    save(draw(0, 1), images / "a.png")
    first = np.array(opened(images).pixels)
    (path,) = (tmp_path / "cache").glob(f"{file}*")
    path.write_bytes(content)
    again = opened(images)
    assert again.decoded == 1
    np.testing.assert_array_equal(again.pixels, first)


def test_a_csv_names_images_relative_to_itself(tmp_path: Path) -> None:
    save(draw(0, 1), tmp_path / "photos" / "a, b.png")
    save(draw(0, 2), tmp_path / "photos" / "c.png")
    table = tmp_path / "images.csv"
    table.write_bytes('\ufefffile_name,label\r\n"photos/a, b.png",cat\r\nphotos/c.png,\r\n'.encode())
    listing = find_images(table, flat=False, check=nothing)
    assert [(answer.file_name, answer.label) for answer in listing.answers] == [
        ("photos/a, b.png", "cat"), ("photos/c.png", "")
    ]  # fmt: skip
    assert listing.answers[0].where == f"{table}, line 2"
