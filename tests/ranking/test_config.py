"""What a ranking's settings come to: the folder that it writes, the classes there may be, what decides a choice."""

from pathlib import Path

import pytest

from active_learning.images.files import check_class
from active_learning.ranking.config import RankConfig
from active_learning.settings.config import ConfigError
from tests.ranking.folders import make_folder, names, rank


@pytest.mark.parametrize(
    ("images", "folder"),
    [("a/photos", "a/photos_ranking"), ("a/list.CSV", "a/list_ranking"), ("a/photos/x/..", "a/photos_ranking")],
)
def test_the_folder_is_beside_the_images(images: str, folder: str) -> None:
    assert RankConfig(images=Path(images)).folder == Path(folder).absolute()


def test_the_root_of_a_file_system_has_a_folder_too() -> None:
    assert RankConfig(images=Path("/")).folder == Path("/images_ranking")


@pytest.mark.parametrize("name", ["cat", "-1", "+2.5", "a=b", "naïve", "two words"])
def test_classes_that_may_be(name: str) -> None:
    check_class(name, "here")


@pytest.mark.parametrize("name", ["", "=1", "@x", "+1+1", "-cmd", " a", "a\nb"])
def test_classes_that_a_spreadsheet_would_compute_or_no_line_can_show_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="can be no class"):
        check_class(name, "here")


def test_settings_that_decide_nothing_ask_for_the_same_images(tmp_path: Path) -> None:
    images = tmp_path / "images"
    make_folder(images)
    flags = ["--acq_func=bald"]
    assert rank(images, *flags) == 0
    batch = tmp_path / "images_ranking" / "batch.csv"
    journal = tmp_path / "images_ranking" / "journal.jsonl"
    first, asked = names(batch), journal.read_bytes()
    for others in (["--val_share=0.2"], ["--device=auto"], ["--acq_func=3"]):
        assert rank(images, *flags, *others) == 0
        assert (names(batch), journal.read_bytes()) == (first, asked)


def test_a_larger_share_of_random_images_does_not_take_a_whole_batch(tmp_path: Path) -> None:
    images = tmp_path / "images"
    make_folder(images)
    assert rank(images, "--query=8", "--random_share=0") == 0
    assert rank(images, "--query=4", "--random_share=0.5") == 0
    chosen = (tmp_path / "images_ranking" / "journal.jsonl").read_text("utf-8").splitlines()[-1]
    assert chosen.count('"random"') == 2
