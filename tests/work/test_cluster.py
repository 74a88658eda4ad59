"""Runs on the workers of a Dask cluster that exists: the same bytes as on this machine."""

import dataclasses
import errno
import gc
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import MagicMock

import dask
import pytest
from distributed import Client, KilledWorker, LocalCluster, Security

import active_learning.work.execution
from active_learning.disk.provenance import VERSIONED
from active_learning.disk.record import record_lines
from active_learning.disk.store import RunFolder
from active_learning.interruption import Check, Interrupted
from active_learning.settings.config import ConfigError, RunConfig
from active_learning.settings.learners import LEARNERS
from active_learning.work import cluster
from load_data import DATA_FILES
from tests.conftest import ROOT, TINY, Tiny
from tests.result_folders import run_config
from tests.test_imports import NAMES, ours
from tests.work.test_runner import contents


def start(**options: object) -> LocalCluster:
    """A scheduler and a worker that listens on TCP, in threads of this process."""
    return LocalCluster(
        processes=False,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        **{"n_workers": 1, "protocol": "tcp", "threads_per_worker": 1, **options},
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
        monkeypatch.setattr(cluster, "is_shared", lambda _: False)
    flags = ("--result_dir", tmp_path / "there", "--jobs", 0, "--scheduler", address, *also)
    assert tiny_main(*flags, "--rounds", 1, "--experiments", 1) == 0
    assert tiny_main(*flags) == 0
    assert tiny_main("--result_dir", tmp_path / "here", *also) == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(list(tmp_path.glob("there/runs/*/*/provenance.json"))) == 4


def test_a_worker_sees_a_shared_folder_by_what_the_driver_wrote(tmp_path: Path) -> None:
    job = cluster.Job(None, tmp_path, "process 1 on here, since now", None, "", [], None)  # type: ignore[arg-type]
    assert not cluster.is_shared(job)
    (tmp_path / ".lock_holder").write_text("process 1 on there, since now")
    assert not cluster.is_shared(job)
    (tmp_path / ".lock_holder").write_text(job.holder)
    assert cluster.is_shared(job)


@pytest.mark.parametrize("shared", [True, False])
def test_a_failure_on_a_worker_is_recorded(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
    shared: bool,
) -> None:
    monkeypatch.setattr(cluster, "is_shared", lambda _: shared)
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
    begun = cluster.is_shared

    def begin_and_signal(job: cluster.Job) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return begun(job)

    flags = ("--result_dir", tmp_path / "there", "--jobs", 0, "--scheduler", address)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "is_shared", begin_and_signal)
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
import active_learning.work.execution as execution
from benchmarks import tiny
from load_data import DATASETS
from main import main

DATASETS["tiny"] = tiny.SPECS["tiny"]
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
    died = "its worker process died, 2 times in a row (try fewer workers at a time: there may be too little memory)"
    assert ended.stderr == f"main.py: error: bald-MC_dropout=True, repetition 0, failed: {died}.\n"
    failure = json.loads((tmp_path / "runs/bald-MC_dropout=True/repetition_0/failure.json").read_text())
    assert failure["reason"] == died
    assert (tmp_path / "uniform-MC_dropout=True.npy").exists()


LIGHT = """
import sys
from benchmarks import tiny
from load_data import DATASETS
from main import main

DATASETS["tiny"] = tiny.SPECS["tiny"]
if __name__ == "__main__":
    code = main()
    sys.exit(code or ("torch is imported" if "torch" in sys.modules else 0))
"""


def test_a_program_whose_workers_compute_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text(LIGHT)
    flags = [*TINY, "--jobs", "2", "--experiments", "1", "--result_dir", str(tmp_path / "results"), "--quiet"]
    command = [sys.executable, str(tmp_path / "light.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_workers_that_do_not_start_are_said(tmp_path: Path) -> None:
    (tmp_path / "still.py").write_text(
        "import sys\nfrom main import main\nsys.exit(main() if __name__ == '__main__' else 1)"
    )
    flags = ["--dataset", "mnist_5k", "--jobs", "2", "--experiments", "1", "--result_dir", str(tmp_path / "results")]
    command = [sys.executable, str(tmp_path / "still.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    told = "main.py: error: the 2 worker processes did not start; --jobs 1 needs none; finished rounds are saved"
    assert (ended.returncode, ended.stderr.partition(", and")[0]) == (1, told)


def test_workers_that_the_system_refuses_are_said(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "LocalCluster", MagicMock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    assert tiny_main("--result_dir", tmp_path, "--jobs", 2) == 1
    told = "the 2 worker processes did not start (Too many open files); --jobs 1 needs none; "
    assert told in capsys.readouterr().err


def test_a_worker_that_dies_before_any_run_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    future = MagicMock(result=MagicMock(side_effect=KilledWorker("task", MagicMock(), 1)))
    client = MagicMock(submit=MagicMock(return_value=future))
    monkeypatch.setattr(cluster, "_as_completed", lambda futures, check: iter(futures))
    with pytest.raises(
        ConnectionError, match=r"^its worker process died, 2 times in a row, before any run: there may be"
    ):
        cluster.ask(client, lambda: None, refuse, "x")


def refuse(sentence: str, _check: Check) -> None:
    raise ConfigError(sentence)


def begin_and_wait(begun: Path, check: Check) -> None:
    begun.touch()
    while True:
        check()
        time.sleep(0.01)


def test_what_a_worker_is_asked_it_refuses_in_the_same_words(address: str) -> None:
    with cluster.existing_cluster(address) as client, pytest.raises(ConfigError, match=r"^--lr is too large$"):
        cluster.ask(client, lambda: None, refuse, "--lr is too large")


def test_a_worker_that_is_asked_stops_with_the_program(address: str, tmp_path: Path) -> None:
    def check() -> None:
        if (tmp_path / "begun").exists():
            raise Interrupted

    with cluster.existing_cluster(address) as client:
        with pytest.raises(Interrupted):
            cluster.ask(client, check, begin_and_wait, tmp_path / "begun")
        # the only worker takes one task at a time
        with pytest.raises(ConfigError):
            cluster.ask(client, lambda: None, refuse, "free again")


@contextmanager
def another_server() -> Iterator[str]:
    """The address of a server that speaks first, and another protocol."""
    with ExitStack() as opened:
        other = opened.enter_context(socket.create_server(("127.0.0.1", 0)))

        def greet() -> None:
            with suppress(OSError):
                while True:
                    opened.enter_context(other.accept()[0]).sendall(b"SSH-2.0-another\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield f"tcp://127.0.0.1:{other.getsockname()[1]}"
        other.shutdown(socket.SHUT_RDWR)


def test_a_port_where_something_else_speaks_first_is_no_scheduler(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_server() as place:
        assert tiny_main("--result_dir", tmp_path, "--jobs", 0, "--scheduler", place) == 1
    assert f"--scheduler {place} does not answer as a Dask scheduler (it speaks another" in capsys.readouterr().err


def test_a_client_that_finds_no_scheduler_is_closed_at_once() -> None:
    """Garbage collection would close it within the start of the next one, which then waits for a lock that it holds."""

    def clients() -> list[Client]:
        return [found for found in gc.get_objects() if issubclass(type(found), Client)]

    before = clients()
    gc.disable()
    try:
        with another_server() as place, pytest.raises(ConnectionError), cluster.existing_cluster(place):
            pass
        (left,) = [client for client in clients() if client not in before]
        assert left.status == "closed"
    finally:
        gc.enable()


@pytest.mark.parametrize("shared", [True, False])
def test_what_happened_on_a_worker_is_recorded(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, shared: bool
) -> None:
    execute: Any = active_learning.work.execution.execute

    def short_of_memory(*arguments: Any) -> None:
        *others, save, watch = arguments

        def saving(result: Any) -> None:
            if result.round == 1:
                watch.note("out of memory: inference goes on with blocks of 10 images")
            save(result)

        execute(*others, saving, watch)

    monkeypatch.setattr(cluster, "is_shared", lambda _: shared)
    monkeypatch.setattr("active_learning.work.execution.execute", short_of_memory)
    flags = ("--result_dir", tmp_path, "--jobs", 0, "--scheduler", address, "--experiments", 1, "--acq_func", "bald")
    assert tiny_main(*flags) == 0
    (provenance,) = tmp_path.glob("runs/*/*/provenance.json")
    (session,) = json.loads(provenance.read_text())["sessions"]
    assert session["events"] == [{"round": 1, "event": "out of memory: inference goes on with blocks of 10 images"}]


def test_the_code_of_a_run_is_all_that_it_imports() -> None:
    waiting = ["active_learning.work.cluster", *(kind.made_by.partition(":")[0] for kind in LEARNERS.values())]
    found = set[str]()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += ours(NAMES[name]) - found
    assert {NAMES[name] for name in found} <= set(cluster.RUN_SOURCES)


def test_tls_as_dask_is_configured(tiny_main: Tiny, tmp_path: Path, tls_files: dict[str, str]) -> None:
    tls = {"distributed.comm.tls.ca-file": tls_files["ca-file"]}
    for role in ("client", "scheduler", "worker"):
        tls |= {f"distributed.comm.tls.{role}.{name}": tls_files[name] for name in ("key", "cert")}
    with dask.config.set(tls), start(protocol="tls", security=Security()) as there:
        assert there.scheduler_address.startswith("tls://")
        flags = ("--result_dir", tmp_path, "--jobs", 0, "--experiments", 1, "--scheduler", there.scheduler_address)
        assert tiny_main(*flags) == 0


@pytest.mark.parametrize(
    ("scheme", "flags"), [("tcp", ""), ("tls", " --tls-ca-file CA.pem --tls-cert CERT.pem --tls-key KEY.pem")]
)
def test_a_cluster_without_workers_is_told_of_once_each_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scheme: str, flags: str
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr("active_learning.work.scheduler.PROGRAM_DIR", Path("/a b"))
    client, checks = MagicMock(), []
    client.nthreads.side_effect = [{"tcp://h:2": 1}, {}, {}, OSError("lost"), {"tcp://h:2": 1}, {}]
    look = cluster.telling_of_workers(client, f"{scheme}://h:1", lambda: checks.append(1))
    told = []
    for _ in range(6):
        look()
        told.append(capsys.readouterr().err)
    assert [bool(words) for words in told] == [False, True, False, False, False, True]
    assert told[1].startswith(f"--scheduler {scheme}://h:1 has no worker, and the runs wait for one: ")
    assert f"dask worker {scheme}://h:1 --nthreads 1{flags}` (" in told[1]
    assert "`PYTHONPATH='/a b' dask" in told[1]
    assert len(checks) == 6


def test_a_worker_that_cannot_import_the_program_is_told_of(tmp_path: Path) -> None:
    """It ends itself while it is given its first run: the program would wait without a word."""
    with start(n_workers=0) as there:
        command = [sys.executable, ROOT / "main.py", "--dataset", "mnist_5k", "--rounds", "0", "--experiments", "1"]
        command += ["--acq_func", "uniform", "--scheduler", there.scheduler_address, "--result_dir", tmp_path]
        with subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as program:
            assert program.stderr is not None
            try:
                first = program.stderr.readline()
            finally:
                program.send_signal(signal.SIGTERM)
    assert first.startswith(f"--scheduler {there.scheduler_address} has no worker, and the runs wait for one")


def test_what_a_killed_worker_and_a_missing_program_are_called() -> None:
    missing = cluster.reason_of(ModuleNotFoundError("No module named 'active_learning'"))
    assert missing.startswith("a worker cannot import it (No module named 'active_learning'): start the workers with ")
    killed = cluster.reason_of(KilledWorker("run", None, 3))  # type: ignore[arg-type]
    assert killed.startswith("its worker process died, 4 times in a row (try fewer workers")
    other = cluster.reason_of(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert other == "a worker cannot import it (No module named 'torch'): install it there"
    unknown = cluster.reason_of(RuntimeError("Error during deserialization of the task graph. This happens if"))
    assert unknown.startswith("the scheduler cannot import it: start scheduler and workers with PYTHONPATH=")


ONE = ("--experiments", 1, "--acq_func", "bald")


def lost_after(count: int) -> Any:
    """In place of `is_shared`: a worker that sees the folder writes so many rounds and is lost, then another does not.

    It is the same process here; what matters is that the second knows only what was known at the submission.
    """

    def is_shared(job: cluster.Job) -> bool:
        def advance(_run: RunConfig, round_: int, _error: float) -> None:
            if round_ == count - 1:
                raise Interrupted

        with suppress(Interrupted):
            active_learning.work.execution.execute_in_folder(RunFolder(job.result_dir, job.run), job.data_dir, advance)
        return False

    return is_shared


@pytest.mark.parametrize("also", [(), ("--warm_start",)])
@pytest.mark.parametrize(("submitted", "count"), [(0, 1), (0, 2), (1, 2)])
def test_a_run_that_goes_on_without_the_shared_folder(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    submitted: int,
    count: int,
    also: tuple[str, ...],
) -> None:
    flags = (*ONE, *also)
    if submitted:
        assert tiny_main("--result_dir", tmp_path / "there", *flags, "--rounds", submitted - 1) == 0
    monkeypatch.setattr(cluster, "is_shared", lost_after(count))
    assert tiny_main("--result_dir", tmp_path / "there", "--jobs", 0, "--scheduler", address, *flags) == 0
    assert tiny_main("--result_dir", tmp_path / "here", *flags) == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_two_workers_that_come_to_other_images_are_not_mixed(
    tiny_main: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = []

    def another_processor(job: cluster.Job) -> bool:
        lost_after(2)(job)
        folder = RunFolder(job.result_dir, job.run)
        folder.load()
        backwards = folder.rounds[1].acquired_train_index[::-1]
        folder.rounds[1] = folder.rounds[1].model_copy(update={"acquired_train_index": backwards})
        (folder.path / "metrics.jsonl").write_bytes(record_lines(job.run.identity(), folder.rounds, False))
        left.append((folder.path / "metrics.jsonl").read_bytes())
        return False

    monkeypatch.setattr(cluster, "is_shared", another_processor)
    assert tiny_main("--result_dir", tmp_path, "--jobs", 0, "--scheduler", address, *ONE) == 1
    assert "a second worker came to other images than the first, whose 2 rounds are kept" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.rglob("metrics.jsonl")] == left


def test_rounds_that_come_in_are_on_disk_before_the_run_ends(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    execute: Any = active_learning.work.execution.execute
    record = tmp_path / "there/runs/bald-MC_dropout=True/repetition_0/metrics.jsonl"

    def stop_after_round_1(*arguments: Any) -> None:
        *others, save, watch = arguments

        def saving(result: Any) -> None:
            save(result)
            if result.round == 1:
                deadline = time.monotonic() + 10
                while not (record.exists() and record.read_bytes().count(b"\n") == 3) and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGTERM)
                while time.monotonic() < deadline:
                    watch.check()  # until it says so: the next round may take less time than a signal
                    time.sleep(0.01)

        execute(*others, saving, watch)

    flags = ("--result_dir", tmp_path / "there", "--jobs", 0, "--scheduler", address, *ONE, "--warm_start")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "is_shared", lambda _: False)
        patch.setattr(active_learning.work.execution, "execute", stop_after_round_1)
        assert tiny_main(*flags, "--epochs", 40) == 143
    assert record.read_bytes().count(b"\n") == 3  # the configuration and two rounds
    assert tiny_main(*flags, "--epochs", 40) == 0
    assert tiny_main("--result_dir", tmp_path / "here", *ONE, "--warm_start", "--epochs", 40) == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_rounds_of_an_experiment_before_this_one_are_not_written(tmp_path: Path) -> None:
    inbox: SimpleQueue[dict[str, Any]] = SimpleQueue()
    message = {"holder": "process 1", "name": "bald", "repetition": 0, "packet": None, "round": 0, "test_error": 0.5}
    told: list[object] = []
    folders = {("bald", 0): RunFolder(tmp_path, run_config())}
    for holder, count in (("process 2", 0), ("process 1", 1)):
        inbox.put(message)
        cluster.receive(inbox, folders, holder, lambda *what: told.append(what))
        assert inbox.empty()
        assert len(told) == count


def test_a_worker_of_two_threads_is_refused(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(threads_per_worker=2) as there:
        flags = ("--result_dir", tmp_path, "--jobs", 0, "--scheduler", there.scheduler_address)
        assert tiny_main(*flags, *ONE) == 1
    assert "its worker takes 2 tasks at once, and runs must be alone in it: start it with" in capsys.readouterr().err


def test_bad_data_is_refused_before_any_run(
    tiny_main: Tiny, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = dataclasses.replace(DATA_FILES["mnist"], mirrors=("http://127.0.0.1:1/",))
    monkeypatch.setitem(DATA_FILES, "mnist", closed)
    flags = ("--result_dir", tmp_path / "results", "--data_dir", tmp_path, "--jobs", 0, "--scheduler", address)
    assert tiny_main(*flags, "--dataset=mnist") == 1
    assert "MNIST is not complete in" in capsys.readouterr().err
    assert not list(tmp_path.rglob("failure.json"))


def test_other_versions_of_python_or_a_package_are_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {cluster.code_digest.__wrapped__()}
    with monkeypatch.context() as patch:
        patch.setattr("platform.python_version", lambda: "3.0.0")
        digests.add(cluster.code_digest.__wrapped__())
    for name in VERSIONED:
        monkeypatch.setattr(cluster, "version", lambda asked, name=name: "0" if asked == name else "1")
        digests.add(cluster.code_digest.__wrapped__())
    assert len(digests) == 2 + len(VERSIONED)


def documented_commands(port: int) -> list[list[str]]:
    """The local cluster of docs/speed.md, at another port: scheduler, workers, program."""
    text = (ROOT / "docs" / "speed.md").read_text()
    block = re.search(r"```sh\n(.*dask scheduler.*\n.*dask worker.*\n.*main\.py.*)\n```", text)
    assert block is not None
    return [shlex.split(line.removesuffix("&").replace("8786", str(port))) for line in block[1].splitlines()]


def start_command(words: list[str], *also: str, **options: Any) -> "subprocess.Popen[str]":
    """Start a line of a document as a shell would, with this Python first in the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(["env", *words, *also], env=environment, cwd=ROOT, text=True, **options)


def test_the_local_cluster_of_the_documents(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scheduler_words, worker_words, program = documented_commands(port)
    small = ["--dataset=mnist_5k", "--epochs=1", "--min_steps=0", "--dropout_iter=2", "--pool_subset=20"]
    small += ["--weight_decay=0"]
    with (tmp_path / "log").open("w") as log:
        quiet = {"stdout": log, "stderr": log}
        scheduler = start_command([*scheduler_words, "--port", str(port)], **quiet)
        worker = start_command([*worker_words, "--local-directory", str(tmp_path)], **quiet)
        try:
            flags = [
                *small,
                "--experiments=1",
                "--acq_func",
                "bald",
                "uniform",
                "--result_dir",
                str(tmp_path / "results"),
            ]
            with start_command(program, *flags, "--rounds", "1", stderr=subprocess.PIPE, stdout=log) as driver:
                _, errors = driver.communicate(timeout=300)
            assert driver.returncode == 0, errors
            with start_command(program, *flags, "--rounds", "90", stderr=subprocess.PIPE, stdout=log) as driver:
                records = list((tmp_path / "results").rglob("metrics.jsonl"))
                while driver.poll() is None and all(path.read_bytes().count(b"\n") < 4 for path in records):
                    time.sleep(0.01)
                scheduler.kill()
                _, errors = driver.communicate(timeout=300)
            assert driver.returncode == 1, errors
            assert "the Dask scheduler was lost; finished rounds are saved" in errors
            assert "Traceback" not in errors
        finally:
            for process in (worker, scheduler):
                process.terminate()
                process.wait(60)


def test_an_embedded_cluster_leaves_nothing_of_its_own(embedded_run: tuple[Path, Any]) -> None:
    folder, ended = embedded_run
    assert ended.returncode == 0
    assert not (folder / ".workers").exists()
