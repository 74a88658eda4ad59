"""What a ranking's settings come to: the folder that it writes, the classes there may be, what decides a choice."""

import subprocess
import sys
from pathlib import Path

import pytest

from active_learning.images.files import check_class
from active_learning.ranking.config import RankConfig
from active_learning.ranking.flags import read_flags
from active_learning.settings.config import ConfigError
from tests.conftest import ROOT
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


def test_a_file_means_what_flags_mean_and_flags_win_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["a b", "--acq_func=bald", "--add_classes", "owl", "rat", "--flat", "--val_share=0.1", "--labels=x, y.csv"]
    with pytest.raises(SystemExit):
        read_flags([*given, "--print_config"])
    path = tmp_path / "rank.yaml"
    path.write_text(capsys.readouterr().out)
    assert read_flags(["a b", "--config", str(path)]) == read_flags(given)
    config = read_flags(["--query=3", "a b", "--config", str(path), "--acq_func=uniform"])
    assert (config.query, config.acq_func, config.flat) == (3, "uniform", True)


def test_a_file_of_settings_is_printed_without_images_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_flags(["--query=3", "--print_config"])
    assert "query: 3" in capsys.readouterr().out


def test_what_completes_the_flags_imports_nothing_slow() -> None:
    command = "import sys, active_learning.ranking.flags; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_a_larger_share_of_random_images_does_not_take_a_whole_batch(tmp_path: Path) -> None:
    images = tmp_path / "images"
    make_folder(images)
    assert rank(images, "--query=8", "--random_share=0") == 0
    assert rank(images, "--query=4", "--random_share=0.5") == 0
    chosen = (tmp_path / "images_ranking" / "journal.jsonl").read_text("utf-8").splitlines()[-1]
    assert chosen.count('"random"') == 2
