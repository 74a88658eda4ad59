"""Finished results are printed and written whatever surrounds the program."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from active_learning.settings.flags import read_flags
from active_learning.terminal import with_streams
from tests.conftest import ROOT, TINY, Tiny
from tests.ranking.folders import FAST, make_folder

FLAGS = [*TINY, "--experiments=1", "--acq_func=bald", "--result_dir"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a folder whose name few encodings have."""
    path = tmp_path_factory.mktemp("surroundings") / "结果-é-😀"
    assert start(["benchmarks.tiny", *FLAGS, str(path), "--quiet"]).returncode == 0
    return path


def start(words: list[str], stdout: int = subprocess.PIPE, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", *words]
    environment = {**os.environ, "MPLBACKEND": "bogus", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, timeout=120, env=environment)


@pytest.mark.parametrize(("encoding", "form"), [("latin-1", []), ("ascii", ["--json"])])
def test_results_are_printed_in_what_a_stream_can_show(folder: Path, encoding: str, form: list[str]) -> None:
    (folder / "report" / "index.html").unlink(missing_ok=True)
    ended = start(["benchmarks.tiny", *FLAGS, str(folder), *form], PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (folder / "report" / "index.html").exists()
    printed = ended.stdout.decode(encoding)
    if form:
        assert json.loads(printed)["paths"]["report"] == str(folder / "report" / "index.html")
    else:
        assert "BALD" in printed
        assert "Page: " in printed


def test_the_status_is_printed_too(folder: Path) -> None:
    ended = start(["benchmarks.tiny", *FLAGS, str(folder), "--status"], PYTHONIOENCODING="latin-1")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert rb"\u7ed3\u679c" in ended.stdout
    assert b"1 done" in ended.stdout


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_report_is_printed_too(folder: Path, form: str) -> None:
    words = ["active_learning.report", str(folder), "--no_gallery", "--format", form]
    ended = start(words, PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert b"BALD" in ended.stdout
    if form == "json":
        assert json.loads(ended.stdout)


def test_a_printed_configuration_means_the_same_in_any_encoding(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-8", "ascii"):
        ended = start(["benchmarks.tiny", *FLAGS, "结果-é", "--print_config"], PYTHONIOENCODING=encoding)
        (tmp_path / "run.yaml").write_bytes(ended.stdout)
        text = (tmp_path / "run.yaml").read_text(encoding="utf-8").replace("tiny", "mnist_5k")
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        assert read_flags(["--config", str(tmp_path / "run.yaml")]).result_dir == Path("结果-é")


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@needs_full
@pytest.mark.parametrize("closed", ["2>/dev/full", ">&- 2>&-"])
def test_closed_and_full_streams_end_no_run(tmp_path: Path, closed: str) -> None:
    words = ["-m", "benchmarks.tiny", *FLAGS, str(tmp_path), "--json"]
    command = ["sh", "-c", f'"$0" "$@" {closed}', sys.executable, *words]
    ended = subprocess.run(command, capture_output=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "report" / "index.html").exists()
    if closed == "2>/dev/full":
        assert json.loads(ended.stdout)


def test_output_that_cannot_be_written_is_told_in_one_sentence(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    targets = {"Broken pipe": writing}
    if Path("/dev/full").exists():
        targets["No space left on device"] = os.open("/dev/full", os.O_WRONLY)
    for reason, target in targets.items():
        for words in (
            [*FLAGS, str(folder), "--status"],
            ["--print_config"],
            ["--help"],
            ["--print_completion", "bash"],
        ):
            ended = start(["benchmarks.tiny", *words], stdout=target)
            assert ended.returncode == 1
            lost = "what was printed is lost, no file is"
            sentence = f"main.py: error: standard output cannot be written to ({reason}): {lost}.\n"
            assert ended.stderr.decode() == sentence
        os.close(target)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text in UTF-8 are not taken everywhere")
def test_a_folder_whose_name_is_no_text_is_run_reported_and_its_images_ranked(tmp_path: Path) -> None:
    results, images = (Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/r\xff", b"/i\xff"))
    assert start(["benchmarks.tiny", *FLAGS, str(results), "--quiet"]).returncode == 0
    for words in (["benchmarks.tiny", *FLAGS, str(results)], ["active_learning.report", str(results), "--no_gallery"]):
        ended = start(words)
        assert ended.returncode == 0, ended.stderr
        assert rb"r\udcff/report" in ended.stdout + ended.stderr
    make_folder(images)
    ended = start(["main", "rank", str(images), *FAST])
    assert ended.returncode == 0, ended.stderr
    assert (images.parent / os.fsdecode(b"i\xff_ranking") / "index.html").exists()


@pytest.mark.parametrize("words", [["active_learning.report"], ["active_learning.disk.renumber"]])
def test_every_program_ends_with_a_sentence_when_it_is_stopped(folder: Path, words: list[str]) -> None:
    command = [sys.executable, "-c", STOPPED, words[0], str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == 128 + signal.SIGINT
    assert re.fullmatch(r"\w+: error: stopped; .*\.", ended.stderr.splitlines()[-1])
    assert "Traceback" not in ended.stderr


STOPPED = """
import os, runpy, signal, sys
from pathlib import Path
was = Path.is_dir
def interrupt(*arguments):
    Path.is_dir = was
    os.kill(os.getpid(), signal.SIGINT)
    return was(*arguments)
Path.is_dir = interrupt
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def test_the_streams_are_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    assert with_streams("main.py", lambda: print("printed") or 3) == 3
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("printed\n", "")


def test_results_are_told_without_a_package_that_draws(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("active_learning.report.flags")  # which the command line asks for in any case
    monkeypatch.setitem(sys.modules, "active_learning.report", None)
    assert tiny_main("--result_dir", tmp_path, "--experiments=1") == 1
    printed = capsys.readouterr()
    assert printed.out == f"Curves: {tmp_path}/*.npy\n"
    assert "the report could not be written (" in printed.err


def test_the_users_own_style_changes_no_figure(tmp_path: Path) -> None:
    code = (
        "import hashlib; from active_learning.report.drawing import draw_figure; "
        "f = draw_figure('a', 'b', 'c', lambda canvas: canvas.subplots().plot([1, 2]), 'd'); "
        "print(*(hashlib.sha256(f.files[name]).hexdigest() for name in sorted(f.files)))"
    )
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 9\nfont.size: 30\n")
    found = []
    for variables in ({}, {"MATPLOTLIBRC": str(tmp_path)}):
        environment = {**os.environ, **variables}
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment)
        found.append(ended.stdout)
    assert found[0] == found[1]


def test_a_notebook_keeps_the_backend_that_it_asked_for() -> None:
    code = "import active_learning.report, matplotlib, os; print(matplotlib.get_backend(), os.environ['MPLBACKEND'])"
    for backend in ("svg", "module://no_such_module"):
        environment = {**os.environ, "MPLBACKEND": backend}
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment, text=True)
        assert ended.stdout.split() == [backend, backend]
