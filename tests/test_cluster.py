"""Runs on the workers of a Dask cluster that exists: the same bytes as on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import KilledWorker, LocalCluster, Security

import active_learning.execution
from active_learning import cluster
from tests.conftest import ROOT, TINY, Tiny
from tests.test_imports import NAMES, ours
from tests.test_runner import contents


def start(**options: object) -> LocalCluster:
    """A scheduler and a worker that listens on TCP, in threads of this process."""
    return LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        **{"protocol": "tcp", **options},
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with start() as there:
        yield there.scheduler_address


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Keys and certificate as an administrator writes them into Dask's configuration."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the keys")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "basicConstraints=critical,CA:TRUE"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key]
    subprocess.run([*command, "-out", certificate, *subject], check=True, capture_output=True)
    return {"ca-file": certificate, "key": key, "cert": certificate}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("also", [(), ("--warm_start",)])
def test_same_bytes_as_on_this_machine(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    shared: bool,
    also: tuple[str, ...],
) -> None:
    if not shared:
        monkeypatch.setattr(cluster, "_is_shared", lambda _: False)
    flags = ("--result_dir", tmp_path / "there", "--jobs", 0, "--scheduler", address, *also)
    assert tiny_main(*flags, "--rounds", 1, "--experiments", 1) == 0
    assert tiny_main(*flags) == 0
    assert tiny_main("--result_dir", tmp_path / "here", *also) == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(list(tmp_path.glob("there/runs/*/*/provenance.json"))) == 4


def test_a_worker_sees_a_shared_folder_by_what_the_driver_wrote(tmp_path: Path) -> None:
    job = cluster.Job(None, tmp_path, "process 1 on here, since now", None, "", [], None)  # type: ignore[arg-type]
    assert not cluster._is_shared(job)
    (tmp_path / ".lock_holder").write_text("process 1 on there, since now")
    assert not cluster._is_shared(job)
    (tmp_path / ".lock_holder").write_text(job.holder)
    assert cluster._is_shared(job)


@pytest.mark.parametrize("shared", [True, False])
def test_a_failure_on_a_worker_is_recorded(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
    shared: bool,
) -> None:
    monkeypatch.setattr(cluster, "_is_shared", lambda _: shared)
    flags = ("--result_dir", tmp_path, "--jobs", 0, "--scheduler", address, "--lr", 1e30, "--experiments", 1)
    assert tiny_main(*flags) == 1
    assert capsys.readouterr().err.count("failed: the training loss became") == 4  # each when it ends and at the end
    assert len(list(tmp_path.rglob("failure.json"))) == 2


def test_a_worker_with_other_code_is_refused(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
) -> None:
    digests = iter(["mine", "mine", "its own", "its own"])
    monkeypatch.setattr(cluster, "code_digest", lambda: next(digests))
    assert tiny_main("--result_dir", tmp_path, "--jobs", 0, "--scheduler", address, "--experiments", 1) == 1
    assert "its worker has another version of this program" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_signal_stops_the_workers_too(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    begun = cluster._is_shared

    def begin_and_signal(job: cluster.Job) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return begun(job)

    flags = ("--result_dir", tmp_path / "there", "--jobs", 0, "--scheduler", address)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_is_shared", begin_and_signal)
        # Without a stop the run would take hours, and the next experiment would wait for the worker.
        assert tiny_main(*flags, "--epochs", 1_000_000, "--experiments", 1, "--acq_func", "bald") == 143
    assert not list(tmp_path.rglob("metrics.jsonl"))
    assert tiny_main(*flags, "--experiments", 1) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_a_driver_that_ends_is_started_again(
    tiny_main: Tiny, tmp_path: Path, address: str, number: signal.Signals, code: int
) -> None:
    """The cluster lives on, and takes up the runs from their last rounds."""
    longer = ("--epochs", "40", "--rounds", "3", "--experiments", "1", "--acq_func", "bald")
    flags = ("--result_dir", str(tmp_path / "there"), "--jobs", "0", "--scheduler", address, *longer)
    command = [sys.executable, "-m", "benchmarks.tiny", *TINY, *flags]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as driver:
        while not list(tmp_path.glob("there/runs/*/*/metrics.jsonl")) and driver.poll() is None:
            time.sleep(0.01)
        driver.send_signal(number)
        _, errors = driver.communicate()
    assert driver.returncode == code, errors
    assert tiny_main(*flags) == 0
    assert tiny_main("--result_dir", tmp_path / "here", *longer) == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


DEADLY = """
import os, signal, sys
import active_learning.execution as execution
from benchmarks import tiny
from load_data import DATASETS
from main import main

DATASETS["tiny"] = tiny.SPEC
whole = execution.active_learning_rounds


def deadly(config, *arguments):
    if config.acquisition == "bald":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(config, *arguments)


execution.active_learning_rounds = deadly
if __name__ == "__main__":
    sys.exit(main())
"""


def test_a_run_that_kills_its_workers_fails_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    flags = [*TINY, "--jobs", "2", "--experiments", "1", "--result_dir", str(tmp_path), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    command = [sys.executable, str(tmp_path / "deadly.py"), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 1
    failed = "bald-MC_dropout=True, repetition 0, failed: its worker process died, 2 times in a row"
    assert ended.stderr == f"main.py: error: {failed}; the same command tries it again.\n"
    failure = json.loads((tmp_path / "runs/bald-MC_dropout=True/repetition_0/failure.json").read_text())
    assert failure["reason"] == "its worker process died, 2 times in a row"
    assert (tmp_path / "uniform-MC_dropout=True.npy").exists()


@pytest.mark.parametrize("shared", [True, False])
def test_what_happened_on_a_worker_is_recorded(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, shared: bool
) -> None:
    execute: Any = active_learning.execution.execute

    def short_of_memory(*arguments: Any) -> None:
        *others, save, check, note = arguments

        def saving(result: Any) -> None:
            if result.round == 1:
                note("out of memory: inference goes on with blocks of 10 images")
            save(result)

        execute(*others, saving, check, note)

    monkeypatch.setattr(cluster, "_is_shared", lambda _: shared)
    monkeypatch.setattr(
        "active_learning.execution.execute" if shared else "active_learning.cluster.execute", short_of_memory
    )
    flags = ("--result_dir", tmp_path, "--jobs", 0, "--scheduler", address, "--experiments", 1, "--acq_func", "bald")
    assert tiny_main(*flags) == 0
    (provenance,) = tmp_path.glob("runs/*/*/provenance.json")
    (session,) = json.loads(provenance.read_text())["sessions"]
    assert session["events"] == [{"round": 1, "event": "out of memory: inference goes on with blocks of 10 images"}]


def test_the_code_of_a_run_is_all_that_it_imports() -> None:
    waiting, found = ["active_learning.cluster"], set[str]()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += ours(NAMES[name]) - found
    files = {str(NAMES[name].relative_to(ROOT)) for name in found}
    assert files - set(cluster.RUN_SOURCES) == {"active_learning/interruption.py"}  # which stops a run or does nothing
    assert set(cluster.RUN_SOURCES) <= files


def test_tls_as_dask_is_configured(tiny_main: Tiny, tmp_path: Path, tls_files: dict[str, str]) -> None:
    tls = {"distributed.comm.tls.ca-file": tls_files["ca-file"]}
    for role in ("client", "scheduler", "worker"):
        tls |= {f"distributed.comm.tls.{role}.{name}": tls_files[name] for name in ("key", "cert")}
    with dask.config.set(tls), start(protocol="tls", security=Security()) as there:
        assert there.scheduler_address.startswith("tls://")
        flags = ("--result_dir", tmp_path, "--jobs", 0, "--experiments", 1, "--scheduler", there.scheduler_address)
        assert tiny_main(*flags) == 0


def test_what_a_killed_worker_and_a_missing_program_are_called() -> None:
    missing = cluster._reason(ModuleNotFoundError("No module named 'active_learning'"))
    assert missing.startswith("a worker cannot import it (No module named 'active_learning'): start the workers with ")
    killed = cluster._reason(KilledWorker("run", None, 3))  # type: ignore[arg-type]
    assert killed == "its worker process died, 4 times in a row"
