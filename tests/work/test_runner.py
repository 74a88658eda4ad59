"""An experiment as a whole: what is executed, what is not, and what a folder is extended by."""

import errno
import json
import os
import re
import signal
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from active_learning.disk.record import Round, chain
from active_learning.disk.store import RunFolder
from active_learning.models.engines import bytes_a_pass, bytes_an_image
from active_learning.models.hardware import USED_OF_MEMORY
from active_learning.report.gallery import make_gallery
from active_learning.report.results import read_results
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ConfigError
from active_learning.settings.flags import read_flags
from active_learning.work import execution
from active_learning.work.execution import check_memory
from active_learning.work.reasons import describe
from benchmarks import tiny
from cnn_model import BayesianCNN
from load_data import load_data
from main import main
from tests.conftest import Tiny
from tests.disk.test_store import without_sync


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The files that must be the same for the same numbers."""
    patterns = patterns or ("*.npy", "runs/*/*/*.npy", "runs/*/*/metrics.jsonl", "runs/*/*/weights*")
    return {str(p.relative_to(folder)): p.read_bytes() for pattern in patterns for p in sorted(folder.glob(pattern))}


def test_same_seed_same_bytes_and_another_seed_another_curve(tiny_main: Tiny, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert tiny_main("--result_dir", tmp_path / name, "--seed", seed) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    curves = [np.load(tmp_path / name / "bald-MC_dropout=True.npy") for name in "ac"]
    assert not np.array_equal(*curves)


def test_finished_runs_are_not_executed_again(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path) == 0
    assert capsys.readouterr().err.count(": finished") == 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/*.json*")}
    assert tiny_main("--result_dir", tmp_path) == 0
    assert "finished" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("first", [("--experiments", 1, "--acq_func", "bald"), ("--rounds", 1)])
@pytest.mark.parametrize("also", [(), ("--warm_start",)])
def test_a_folder_is_extended_to_the_bytes_of_one_go(
    tiny_main: Tiny, tmp_path: Path, first: tuple[object, ...], also: tuple[str, ...]
) -> None:
    assert tiny_main("--result_dir", tmp_path / "extended", *also, *first) == 0
    assert tiny_main("--result_dir", tmp_path / "extended", *also) == 0
    assert tiny_main("--result_dir", tmp_path / "at_once", *also) == 0
    assert contents(tmp_path / "extended") == contents(tmp_path / "at_once")


def test_deterministic_arms_are_added(tiny_main: Tiny, tmp_path: Path) -> None:
    assert tiny_main("--result_dir", tmp_path, "--determ", "--experiments", 1) == 0
    engines = {
        path.parts[-3]: "engine" in json.loads(path.read_text())["sessions"][0]
        for path in tmp_path.rglob("provenance.json")
    }
    assert engines["bald-MC_dropout=True"], "who computed the passes"
    assert not engines["bald-MC_dropout=False"], "which has none"
    names = ["bald-MC_dropout=False", "bald-MC_dropout=True", "uniform-MC_dropout=True"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


def test_other_numbers_are_refused(tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_main("--result_dir", tmp_path, "--rounds", 0) == 0
    capsys.readouterr()
    assert tiny_main("--result_dir", tmp_path, "--lr", 0.1) == 2
    assert (
        "(lr is 0.002 there and 0.1 here): give --lr 0.002 to continue them, or name another" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_and_the_same_command_goes_on(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    append = RunFolder.append

    def append_and_signal(folder: RunFolder, round_: Round) -> None:
        append(folder, round_)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", append_and_signal)
        assert tiny_main("--result_dir", tmp_path / "stopped") == code
    assert signal.getsignal(number) is before
    assert "stopped; finished rounds are saved, and the same command goes on." in capsys.readouterr().err
    assert len((next(tmp_path.rglob("metrics.jsonl"))).read_text().splitlines()) == 2  # configuration and round 0
    for name in ("stopped", "undisturbed"):
        assert tiny_main("--result_dir", tmp_path / name) == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_whatever_says_that_memory_is_out_has_the_same_way_out(error: Exception) -> None:
    words = "there is not enough memory (try fewer runs and programs at a time"
    bayesian, *_, deterministic = planned_runs(read_flags(["--determ"]), "float32", "cpu")
    assert describe(error, bayesian) == f"{words}, or a smaller --dropout_iter in another result folder)"
    assert describe(error, deterministic) == describe(error) == f"{words})"
    assert describe(RuntimeError("another"), bayesian) == "another"


def test_a_device_that_fails_has_another_one_as_its_way_out() -> None:
    run = planned_runs(read_flags([]), "float32", "cpu")[0]
    error = RuntimeError("CUDA error: an illegal memory access\nwas encountered")
    told = "CUDA error: an illegal memory access was encountered"
    assert describe(error, run) == told
    assert describe(error, replace(run, device="cuda")) == f"{told} (try --device cpu in another result folder)"


def test_one_failed_run_does_not_stop_the_others(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = vars(execution)["active_learning_rounds"]

    def sometimes(run, *arguments):  # type: ignore[no-untyped-def]
        if run.repetition == 1 and run.acquisition == "bald":
            raise MemoryError
        return whole(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "active_learning_rounds", sometimes)
        assert tiny_main("--result_dir", tmp_path / "a") == 1
    assert (
        "bald-MC_dropout=True, repetition 1, failed: there is not enough memory (try fewer runs"
        in capsys.readouterr().err
    )
    assert "Traceback" in next(tmp_path.rglob("failure.json")).read_text()
    assert tiny_main("--result_dir", tmp_path / "a", "--status") == 0
    assert "3 done, 0 going, 0 stopped, 1 failed, 0 to do" in capsys.readouterr().out
    assert tiny_main("--result_dir", tmp_path / "a") == 0
    assert capsys.readouterr().err.count(": finished") == 1
    assert not list(tmp_path.rglob("failure.json"))
    assert tiny_main("--result_dir", tmp_path / "b") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_log_file_gets_a_line_now_and_then(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--experiments", 1, "--acq_func", "bald", "--rounds", 3)
    assert tiny_main("--result_dir", tmp_path / "short", *flags) == 0
    assert capsys.readouterr().err == "bald-MC_dropout=True, repetition 0: finished\n", "in less than a minute"
    monkeypatch.setattr("active_learning.work.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("active_learning.work.progress.SECONDS_BETWEEN_ESTIMATES", 0.0)
    assert tiny_main("--result_dir", tmp_path / "long", *flags) == 0
    *lines, _ = capsys.readouterr().err.splitlines()
    start = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d bald-MC_dropout=True, repetition 0: round (\d) of 3, test error \d+\.\d\d%"
    told = [re.fullmatch(start + r"(, about 0:00:0\d left)?", line) for line in lines]
    assert [found and found[1] for found in told] == ["0", "1", "2", "3"]
    assert [bool(found and found[2]) for found in told] == [False, True, True, True], "known after two rounds"
    assert tiny_main("--result_dir", tmp_path / "quiet", *flags, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_terminal_has_the_same_estimate(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("active_learning.work.progress.time_left", lambda folders, jobs: (len(folders), jobs))
    assert tiny_main("--result_dir", tmp_path, "--experiments", 2, "--rounds", 1) == 0
    printed = capsys.readouterr().err
    assert re.search(r"8/8 rounds, uniform-MC_dropout=True #1: error \d+\.\d\d%, about \(4, 1\) left", printed)


def test_a_round_that_cannot_be_is_told_in_our_words(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("active_learning.loop.error_rate", lambda *_: 1.5)
    assert tiny_main("--result_dir", tmp_path, "--experiments", 1, "--acq_func", "bald") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "main.py: error: bald-MC_dropout=True, repetition 0, failed: a round cannot be recorded: test_error is '1.5'; "
        "the same command tries it again."
    )


def test_a_round_that_cannot_be_is_said_before_it_is_cut_off(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--experiments", 1, "--acq_func", "bald")
    assert tiny_main(*flags, "--rounds", 1) == 0
    path = next(tmp_path.rglob("metrics.jsonl"))
    header, first, second = (json.loads(line) for line in path.read_text().splitlines())
    rows = [{key: value for key, value in row.items() if key != "sha256"} for row in (header, first, second)]
    rows[2]["test_error"] = 1.5
    path.write_bytes(chain(rows))
    capsys.readouterr()
    assert tiny_main(*flags) == 0
    told = "metrics.jsonl (test_error of round 1 is '1.5') damaged, 1 whole round is kept; the damaged file is kept"
    assert told in capsys.readouterr().err
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == chain(rows)


def test_a_device_that_is_not_there_is_refused(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, "--device", "mps") == 2
    assert "--device mps is not available on this machine" in capsys.readouterr().err


def test_a_scheduler_that_does_not_answer(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.work.scheduler.SECONDS", 0.2)
    assert tiny_main("--result_dir", tmp_path, "--jobs", 0, "--scheduler", "tcp://127.0.0.1:1") == 1
    assert "--scheduler tcp://127.0.0.1:1 does not answer as a Dask scheduler (Connection" in capsys.readouterr().err
    tls = [f"--tls-{name}" for name in ("ca-file", "cert", "key")]
    assert tiny_main("--result_dir", tmp_path, "--jobs", 0, "--scheduler", "tls://127.0.0.1:1") == 1
    printed = capsys.readouterr().err
    assert "dask scheduler --port 1 --protocol tls " in printed
    assert all(flag in printed for flag in tls)
    assert all(f"COMM__TLS__{name}=" in printed for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_what_listens_and_is_no_scheduler_is_not_waited_for(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("active_learning.work.scheduler.SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"{scheme}://127.0.0.1:{other.getsockname()[1]}"
        assert tiny_main("--result_dir", tmp_path, "--jobs", 0, "--scheduler", address) == 1
    assert f"--scheduler {address} does not answer as a Dask scheduler (timed out)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


RUN = "runs/uniform-MC_dropout=True/repetition_0"


@pytest.mark.parametrize(
    "place",
    [
        *(f"{RUN}/{name}" for name in ("metrics.jsonl", "seconds.jsonl", "provenance.json", "acquired.npy")),
        *("uniform-MC_dropout=True.npy", ".lock", ".lock_holder"),
        *(RUN, "runs"),
    ],
)
def test_what_stands_in_a_place_of_ours_is_named_and_moved_away_the_run_goes_on(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    folder = tmp_path / "results"
    flags = ("--result_dir", folder, "--experiments", 1, "--acq_func", "uniform")
    assert tiny_main(*flags) == 0
    record = (folder / RUN / "metrics.jsonl").read_bytes()
    path = folder / place
    if path.is_dir():
        path.rename(tmp_path / "aside")
        path.touch()
        told = f"{path} is a file, where a folder belongs: move it away"
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
        told = f"{path} is a folder, where a file belongs: move it away"
    capsys.readouterr()
    assert tiny_main(*flags) == 1
    printed = capsys.readouterr().err
    assert told in printed
    assert "Errno" not in printed
    path.rename(tmp_path / "away")
    assert tiny_main(*flags) == 0
    assert (folder / RUN / "metrics.jsonl").read_bytes() == record


@pytest.mark.parametrize("name", ["metrics.jsonl", "seconds.jsonl", "acquired.npy"])
def test_the_report_names_what_stands_in_the_place_of_a_file(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert tiny_main("--result_dir", tmp_path, "--experiments", 1, "--acq_func", "uniform") == 0
    (tmp_path / RUN / name).unlink()
    (tmp_path / RUN / name).mkdir()
    assert main(["report", str(tmp_path), "--no_gallery"]) == 1
    assert f"{tmp_path / RUN / name} is a folder, where a file belongs: move it away" in capsys.readouterr().err


def test_a_folder_that_cannot_be_synced_refuses_no_run(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_sync(monkeypatch, "fsync", errno.EINVAL)
    assert tiny_main("--result_dir", tmp_path, "--experiments", 1) == 0
    assert capsys.readouterr().err.count("this system does not put files on disk at once") == 1


def test_passes_that_cannot_fit_are_refused_before_any_run(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--experiments", 1, "--acq_func", "bald")
    a_pass = bytes_a_pass(BayesianCNN, (1, 12, 12)) + bytes_an_image(tiny.CLASSES, passes=1)
    monkeypatch.setattr("active_learning.work.execution.available_memory", lambda: 2 * 4 * a_pass)
    assert tiny_main(*flags, "--dropout_iter", 100_000) == 2
    assert capsys.readouterr().err == (
        f"main.py: error: --dropout_iter 100000 takes {1e5 * a_pass / 1e9:.1f} GB, and 1 run can have 0.0 GB: give at "
        "most 4.\n"
    )
    assert not list(tmp_path.rglob("metrics.jsonl"))
    assert tiny_main(*flags, "--dropout_iter", 5) == 2
    assert tiny_main(*flags, "--dropout_iter", 4) == 0
    monkeypatch.setattr("active_learning.work.execution.available_memory", lambda: None)
    assert tiny_main(*flags, "--dropout_iter", 4, "--rounds", 3) == 0


def test_where_copies_cannot_fit_one_is_no_advice(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("active_learning.work.execution.bytes_a_pass", lambda *_: 0)
    monkeypatch.setattr("active_learning.work.execution.available_memory", lambda: 20_000)
    flags = ("--result_dir", tmp_path, "--experiments", 1, "--acq_func", "uniform")
    assert tiny_main(*flags, "--copies", 2) == 2
    assert capsys.readouterr().err.endswith("and 1 run can have 0.0 GB: leave it out.\n")
    assert tiny_main(*flags) == 0


def test_each_run_side_by_side_has_a_data_set_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_flags(["--dataset", "mnist_5k", "--acq_func", "bald", "--dropout_iter", "11", "--weight_decay", "1"])
    runs, data = planned_runs(config, "float32", "cpu"), load_data("mnist_5k")
    a_pass = bytes_a_pass(BayesianCNN, data.train_images.shape[1:]) + bytes_an_image(data.class_count, passes=1)
    free = (data.train_images.nbytes + data.test_images.nbytes + 2 * 10 * a_pass) / USED_OF_MEMORY + 100
    monkeypatch.setattr("active_learning.work.execution.available_memory", lambda: free)
    check_memory(config, runs, data, side_by_side=1)
    with pytest.raises(ConfigError, match=r"each of 2 runs can have .* give at most 10, or fewer --jobs than 2"):
        check_memory(config, runs, data, side_by_side=2)


def test_a_graph_that_cannot_fit_is_refused_before_any_run(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("active_learning.work.execution.available_memory", lambda: 10_000)
    monkeypatch.setattr("active_learning.work.execution.bytes_a_pass", lambda *_: 0)
    flags = ("--result_dir", tmp_path, "--classes", 2, 8, "--mbr", "--mbr_neighbours", 3)
    assert tiny_main(*flags) == 2
    assert "--mbr, with its graph of 30 images, takes 0.0 GB, and 1 run can have 0.0 GB: " in capsys.readouterr().err


def test_a_data_folder_that_is_not_looked_into_is_said(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--experiments", 1, "--acq_func", "uniform", "--data_dir", "/nope")
    for _ in range(2):  # the second time there is nothing left to compute
        assert tiny_main(*flags) == 0
        assert "--data_dir /nope is not looked into: tiny comes with a package.\n" in capsys.readouterr().err


def test_copies_that_cannot_fit_are_refused_before_any_run(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for also in ((), ("--jobs", 2, "--dataset", "mnist_5k"), ("--classes", 2, 8)):
        assert tiny_main("--result_dir", tmp_path, "--copies", 10**9, *also) == 2
        told = r"main.py: error: --copies 1000000000 takes [\d,]+.\d GB, and .* can have [\d,.]+ GB: give at most \d+"
        assert re.fullmatch(told + r"(, or fewer --jobs than 2)?\.\n", capsys.readouterr().err)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_probabilities_that_cannot_fit_are_refused_before_any_run(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("active_learning.work.execution.available_memory", lambda: 2 * 20 * 4 * 50 * 10 - 1)
    monkeypatch.setattr("active_learning.work.execution.bytes_a_pass", lambda *_: 0)
    flags = ("--result_dir", tmp_path, "--experiments", 1, "--acq_func")
    assert tiny_main(*flags, "batch_bald") == 2
    assert capsys.readouterr().err == (
        "main.py: error: --acq_func batch_bald for 50 images takes 0.0 GB, and 1 run can have 0.0 GB: give a smaller "
        "--pool_subset or a smaller --dropout_iter.\n"
    )
    assert tiny_main(*flags, "batch_bald", "--pool_subset", 40) == 0
    assert tiny_main(*flags, "badge", "--pool_subset", 40) == 0


def test_images_too_small_for_a_network_are_refused(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, "--network", "kirsch") == 2
    assert capsys.readouterr().err == (
        "main.py: error: --network kirsch takes images of at least 16 pixels a side, and these have 12: take another "
        "network or data set.\n"
    )
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_an_imbalanced_pool_with_wrong_labels_is_run_resumed_and_shown(tiny_main: Tiny, tmp_path: Path) -> None:
    flags = [
        "--classes",
        7,
        2,
        4,
        "--imbalance",
        1,
        0,
        0.5,
        "--label_noise",
        0.3,
        "--acq_func",
        "max_entropy",
        "uniform",
    ]
    flags += ["--experiments", 1, "--val_size", 6]
    assert tiny_main("--result_dir", tmp_path / "whole", *flags) == 0
    for rounds in (1, 2):
        assert tiny_main("--result_dir", tmp_path / "stopped", *flags, "--rounds", rounds) == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")
    truth = tiny.SPECS["tiny"].loader(tmp_path).train_labels
    results = read_results(tmp_path / "whole")
    told: dict[int, int] = {}
    for arm in results.arms:
        (run,) = arm.runs
        assert (run.configuration["imbalance"], run.configuration["label_noise"]) == ([1, 0, 0.5], 0.3)
        for row in run.rows:
            assert 2 not in truth[[*row.acquired_train_index]], "the pool has none of them"
            assert set(row.acquired_labels) <= {7, 2, 4}
            told |= dict(zip(row.acquired_train_index, row.acquired_labels, strict=True))
    wrong = {index for index, label in told.items() if truth[index] != label}
    assert 0 < len(wrong) < len(told)
    gallery = make_gallery(results, None)
    assert len(gallery.arms) == 2, gallery.reason
    shown = {image.train_index: image.label for arm in gallery.arms for each in arm.rounds for image in each.images}
    for index, label in shown.items():
        assert label == (f"{told[index]} (in truth {truth[index]})" if index in wrong else str(told[index]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--imbalance", 1, 0.5],
            "--imbalance 1.0 0.5 is not allowed: it takes a number from 0 to 1 for each of the 10 ",
        ),
        (["--imbalance", *[1] * 9, 1.5], "1.0 1.5 is not allowed"),
        (["--imbalance", *[1] * 9, "nan"], "--imbalance 'nan' is not allowed: it takes a number for each class, for"),
        (["--label_noise", 1], "--label_noise 1.0 is not allowed: it takes a number from 0 to below 1."),
        (["--label_noise", -0.1], "--label_noise -0.1 is not allowed"),
        (
            ["--imbalance", *[0] * 10],
            "0.0 leaves nothing of tiny to choose from: give larger shares.",
        ),
    ],
)
def test_impossible_shares_are_refused(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[object], message: str
) -> None:
    assert tiny_main("--result_dir", tmp_path, *flags) == 2
    assert message in capsys.readouterr().err


def test_copies_are_run_resumed_and_shown(tiny_main: Tiny, tmp_path: Path) -> None:
    flags = ("--copies", 3, "--acq_func", "batch_bald", "--experiments", 1)
    assert tiny_main("--result_dir", tmp_path / "whole", *flags) == 0
    for rounds in (1, 2):
        assert tiny_main("--result_dir", tmp_path / "stopped", *flags, "--rounds", rounds) == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")
    acquired = np.load(next((tmp_path / "whole").rglob("acquired.npy")))
    assert acquired.max() >= tiny.TRAIN_SIZE, "other copies than the first are asked for too"
    gallery = make_gallery(read_results(tmp_path / "whole"), None)
    assert gallery.arms, gallery.reason
