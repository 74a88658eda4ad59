"""`pip install .`: what it installs, and that the command `dbal` is main.py."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pkgutil import resolve_name

import main
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_command_is_main_and_all_its_files_are_installed() -> None:
    assert resolve_name(PROJECT["project"]["scripts"]["dbal"]) is main.main
    tool = PROJECT["tool"]["setuptools"]
    assert sorted(tool["py-modules"]) == sorted(path.stem for path in ROOT.glob("*.py"))
    patterns = tool["package-data"]["active_learning"]
    covered = {path for pattern in patterns for path in (ROOT / "active_learning").glob(pattern)}
    suffixes = (".yaml", ".html", ".js")
    assert covered == {path for path in (ROOT / "active_learning").rglob("*") if path.suffix in suffixes}


def test_what_is_required_is_listed_once() -> None:
    assert "dependencies" not in PROJECT["project"]
    assert tool_files() == ["requirements.txt"]
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            assert importlib.metadata.version(name) == version


def tool_files() -> list[str]:
    files: list[str] = PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"]["file"]
    return files


def test_its_completion_and_its_messages_call_it_by_its_name() -> None:
    for words, stream, expected in (
        (["--print_completion", "bash"], "stdout", "-F _shtab_dbal dbal"),
        (["--roundz", "3"], "stderr", "dbal: error: 'roundz' is not a setting: did you mean 'rounds'?\n"),
        (["--help"], "stdout", "usage: dbal ["),
    ):
        code = f"import sys; sys.argv = {['bin/dbal', *words]}; from main import main; sys.exit(main())"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert expected in getattr(ended, stream), ended
