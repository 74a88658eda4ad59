"""The README's example, as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import example_images
from main import main
from tests.conftest import ROOT
from tests.ranking.folders import FAST


def commands() -> list[list[str]]:
    """The commands of the section, word by word."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## Your own images\n.*?```sh\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_readmes_commands_walk_two_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    walked = []
    for words in commands():
        match words:
            case ["python3", "-m", "benchmarks.example_images", *rest]:
                assert example_images.main(rest) == 0
            case ["python3", "main.py", "rank", *rest]:
                assert main(["rank", *rest]) == 0
            case _:
                pytest.fail(f"a command of another kind: {words}")
        walked.append(words[1:3])
    assert len(walked) == 4
    page = Path("digits_ranking/index.html").read_text()
    assert "round 2: 4,000 images, 30 of them labelled, 3,970 in the pool" in page
    assert len(list(Path("digits").glob("[0-9]/*.png"))) == 20
    assert example_images.main(["digits", "--rounds=1", *FAST]) == 0
    printed = capsys.readouterr().out
    assert "power_bald: errors on the rest after 0 to 1 rounds, %: " in printed
    assert "uniform: errors on the rest after 0 to 1 rounds, %: " in printed
    assert example_images.main(["digits", "--rounds=1", *FAST]) == 1
    assert "digits_ranking_power_bald is there already, with rounds of its own: delete it" in capsys.readouterr().err
    assert example_images.main(["digits", "--check", "digits_ranking/ranking.csv"]) == 0
    assert "of 3970 images of the pool are taken for another digit" in capsys.readouterr().out


def test_what_an_example_lacks_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits, batch = tmp_path / "digits", tmp_path / "batch.csv"
    assert example_images.main([str(digits), "--answer", str(batch)]) == 2
    assert f"digits_truth.csv: python3 -m benchmarks.example_images {digits} makes the" in capsys.readouterr().err
    assert example_images.main([str(digits), "--dataset", "mnits"]) == 1
    assert capsys.readouterr().err.startswith("example_images: error: Unknown data set 'mnits': choose one of ")
    for words in (["--count", "4"], ["--count", "0", "--labelled", "0"], ["--labelled", "-1"], ["--rounds", "0"]):
        assert example_images.main([str(digits), *words]) == 2
        assert "is not allowed: it takes " in capsys.readouterr().err
    for words, told in (
        (["--count", "9999"], "mnist_5k has 4000 training images."),
        (["--labelled", "25"], "each of the 10 classes has equally many."),
        (["--count", "40", "--labelled", "40"], "of 40 images one class has 1; give at most 10."),
    ):
        assert example_images.main([str(digits), *words]) == 2
        assert told in capsys.readouterr().err
    assert example_images.main([str(digits), "--count", "4", "--labelled", "0"]) == 0
    assert example_images.main([str(digits), "--count", "4", "--labelled", "0"]) == 2
    assert "is there already: name another folder, or delete both." in capsys.readouterr().err
    assert example_images.main([str(digits), "--answer", str(batch)]) == 2
    batch.write_text("file_name,label\nx.png,\n")
    assert example_images.main([str(digits), "--answer", str(batch)]) == 1
    assert "digits_truth.csv has no image 'x.png': give a file of the ranking of" in capsys.readouterr().err
    batch.write_text("")
    assert example_images.main([str(digits), "--answer", str(batch)]) == 1
    assert "batch.csv is empty: it takes a line file_name,label" in capsys.readouterr().err
