"""Breaks runs in every way that can be thought of, and checks that no round is lost: `python -m benchmarks.faults`.

One process imports torch once; each try runs the program in a fork of it, on a data set so small that a run of
several rounds takes a fraction of a second. A fault holds if every one of its tries does. `--tries 0.1` makes a tenth
of the tries.
"""

import dataclasses
import fnmatch
import hashlib
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from PIL import Image
from tabulate import tabulate

import active_learning.disk.provenance
import active_learning.ranking.command
import active_learning.report.results
import active_learning.report.write
import active_learning.work.cluster
import active_learning.work.execution
import load_data
import main as main_module
from active_learning.settings.config import ConfigError
from active_learning.settings.flags import Parser
from active_learning.terminal import fail
from benchmarks import tiny

if __name__ in ("__main__", "__mp_main__"):  # the second in the worker processes of the first
    load_data.DATASETS["tiny"] = tiny.SPECS["tiny"]

ROUNDS = 5
FLAGS = (
    f"--dataset tiny --rounds {ROUNDS} --query 4 --epochs 6 --min_steps 0 --batch_size 8 --dropout_iter 4 "
    "--pool_subset 50 --weight_decay 0 --val_size 10 --precision float32"
).split()
ONE = ("--acq_func", "bald", "--experiments", "1", "--jobs", "1")
WARM = (*ONE, "--warm_start")
AUGMENTED = (
    *(*ONE, "--augment", "elastic", "--min_steps", "20", "--lr_schedule", "cosine", "--stopping", "validation"),
    *("--initialisation", "torch", "--masks", "image", "--weight_decay", "tune"),
)
FOUR = ("--acq_func", "bald", "uniform", "--experiments", "2")
LONG = (*FOUR, "--epochs", "20")

NOBODY = 65534
"""A user without rights, for folders that cannot be written to: root can write to all."""

RESULTS = ("metrics.jsonl", "acquired.npy", "test_error.npy", "weights-*.safetensors", "*-MC_dropout=*.npy")
"""The files that must be the same whatever happened; the others hold times."""


class NotHeldError(Exception):
    """A try failed; the message says how."""


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        name: what happens.
        promise: what must hold.
        tries: how often, or the number of its different cases.
        attempt: makes try number `n` in an empty folder; raises NotHeldError.
        cases: whether the tries are different cases, of which fewer tries take evenly spread ones.
    """

    name: str
    promise: str
    tries: Callable[[], int]
    attempt: Callable[[Path, int], None]
    cases: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Make the tries, print the table, return 1 if anything did not hold."""
    parser = Parser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=float, default=1.0, help="share of the tries to make (default: 1)")
    parser.add_argument("--only", default="*", help="faults to try, as a pattern such as 'SIG*'")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    try:
        flags = parser.parse_args(argv)
        if not any(fnmatch.fnmatch(fault.name, flags.only) for fault in FAULTS):
            known = ", ".join(fault.name for fault in FAULTS)
            raise ConfigError(f"--only {flags.only!r} is no fault: choose one of {known}.")
    except ConfigError as error:
        return fail(2, str(error), "faults")
    _warm_up()
    rows, broken = [], []
    for fault in FAULTS:
        if fnmatch.fnmatch(fault.name, flags.only):
            start = time.perf_counter()
            tried, reasons = _try(fault, flags.tries)
            broken += [f"{fault.name}, try {number}: {reason}" for number, reason in reasons]
            seconds = f"{time.perf_counter() - start:.0f}"
            rows.append(
                [fault.name, tried, fault.promise, "held" if not reasons else f"{len(reasons)} FAILED", seconds]
            )
            print(*rows[-1], sep=" | ", file=sys.stderr)
    headers = ["fault", "tries", "must hold", "result", "seconds"]
    if flags.json:
        print(json.dumps([dict(zip(headers, row, strict=True)) for row in rows]))
    else:
        print(tabulate(rows, headers, disable_numparse=True))
    print(*broken, sep="\n", file=sys.stderr)
    return 1 if broken else 0


def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder in memory where there is such a file system: its fsync takes no time."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix="faults-", dir=memory if os.access(memory, os.W_OK) else None)


def _warm_up() -> None:
    """Leave out what takes seconds, and run once, so that no fork has to import what is imported at the first use."""
    active_learning.report.write.draw_curves = lambda *_: None
    active_learning.report.write.write_report = tiny.no_report  # type: ignore[assignment]
    active_learning.disk.provenance.commit_of = lambda checkout: None  # a process of its own each time
    torch.set_num_threads(1)  # a fork of a process with OpenMP threads would wait for them
    silent = StringIO()
    with _folder() as folder, redirect_stdout(silent), redirect_stderr(silent):
        main_module.main([*FLAGS, *WARM, "--result_dir", folder])


def _try(fault: Fault, share: float) -> tuple[int, list[tuple[int, str]]]:
    total = fault.tries()
    count = min(total, max(1, round(total * share)))
    numbers = [math.floor(number * total / count) for number in range(count)] if fault.cases else range(count)
    reasons = []
    for number in numbers:
        with _folder() as folder:
            Path(folder).chmod(0o755)
            try:
                fault.attempt(Path(folder), number)
            except NotHeldError as error:
                reasons.append((number, str(error)))
    return count, reasons


class Program:
    """main.py in a fork of this process, its output in a file beside the result folder."""

    def __init__(
        self, folder: Path, *flags: str, prepare: Callable[[], None] | None = None, whole: bool = False
    ) -> None:
        self.output = folder / f"output-{time.monotonic_ns()}"
        arguments = list(flags) if whole else [*FLAGS, "--result_dir", str(folder / "results"), *flags]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become_program(self.output, arguments, prepare)
        self.code: int | None = None

    def wait(self) -> int:
        """Return the exit code as a shell tells it: 128 + number of the signal that killed it."""
        if self.code is None:
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.code = 128 - status if status < 0 else status
        return self.code

    def runs(self) -> bool:
        """Return whether it has not ended yet."""
        if self.code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(ended[1])
            self.code = 128 - status if status < 0 else status
        return self.code is None

    def kill(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.runs():
            os.kill(self.pid, number)

    def text(self) -> str:
        """Return what it printed so far."""
        return self.output.read_text()


def _become_program(output: Path, arguments: list[str], prepare: Callable[[], None] | None) -> None:
    code = 70
    try:
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if prepare is not None:
            prepare()
        code = main_module.main(arguments)
        sys.stdout.flush()
    finally:
        sys.setprofile(None)
        os._exit(code)


def expect(condition: bool, reason: str) -> None:
    """Raise NotHeldError with the reason unless the condition is true."""
    if not condition:
        raise NotHeldError(reason)


def results(folder: Path) -> dict[str, bytes]:
    """Return the names of all files of a result folder, with the content of those that must not differ."""
    found = {}
    for path in sorted((folder / "results").rglob("*")):
        if path.is_file() and path.name not in (".lock", "seconds.jsonl.damaged"):
            decided = any(fnmatch.fnmatch(path.name, pattern) for pattern in RESULTS)
            found[str(path.relative_to(folder / "results"))] = path.read_bytes() if decided else b""
    return found


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Return the names of files that are missing, too many or different."""
    return sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))


@lru_cache
def undisturbed(*flags: str) -> tuple[dict[str, bytes], float]:
    """Return the files of a run that nothing disturbs, and its seconds."""
    with _folder() as folder:
        start = time.perf_counter()
        program = Program(Path(folder), *flags)
        expect(program.wait() == 0, f"undisturbed run: {program.text()}")
        return results(Path(folder)), time.perf_counter() - start


def expect_same(folder: Path, *flags: str, but: str = "") -> None:
    """Continue until the end and compare the files with those of an undisturbed run.

    Args:
        folder: holds the result folder.
        flags: of the run.
        but: pattern of files that may be there besides.
    """
    wanted, _ = undisturbed(*flags)
    program = Program(folder, *flags)
    expect(program.wait() == 0, f"resumed run exits with {program.code}: {program.text()}")
    names = [name for name in differing(results(folder), wanted) if not (but and fnmatch.fnmatch(name, but))]
    expect(not names, f"different after resuming: {', '.join(names)}")


def kill_anywhere(folder: Path, number: int) -> None:
    """Kill up to three times in a row, at random moments."""
    flags = WARM if number % 2 else ONE
    seconds = undisturbed(*flags)[1]
    for _ in range(1 + number % 3):
        program = Program(folder, *flags)
        time.sleep(random.uniform(0, seconds))
        program.kill(signal.SIGKILL)
        program.wait()
    expect_same(folder, *flags)


def kill_while_augmented(folder: Path, number: int) -> None:
    """Kill a run of distorted images in the middle of one of its rounds."""
    seconds = undisturbed(*AUGMENTED)[1]
    program = Program(folder, *AUGMENTED)
    enough = random.randint(1, ROUNDS - 1)
    while program.runs() and _rounds(folder) < enough:
        time.sleep(0.001)
    time.sleep(random.uniform(0, seconds / (2 * ROUNDS)))
    program.kill(signal.SIGKILL)
    expect(program.wait() == 128 + signal.SIGKILL, f"ended too early: {program.text()}")
    expect(enough <= _rounds(folder) <= ROUNDS, f"{_rounds(folder)} rounds on disk")
    expect_same(folder, *AUGMENTED)


STEPS = ("open", "write", "flush", "close", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "flock")


class Steps:
    """Counts the moments before and after each call that changes a file, and kills the process at one of them."""

    def __init__(self, fatal: int = -1, log: Path | None = None) -> None:
        self.count, self.fatal, self.log = 0, fatal, log

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Be told by the interpreter of each call."""
        if event not in ("c_call", "c_return") or argument.__name__ not in STEPS:
            return
        if not any(part in frame.f_code.co_filename for part in ("active_learning/disk/", "pathlib", "filelock")):
            return
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        if self.log is not None:
            os.truncate(self.log, self.count)  # its size is the count, whatever becomes of this process


SHORT = ("--rounds", "2", *WARM)
TWO = ("--acq_func", "bald", "--experiments", "2", "--jobs", "1")
TWICE = (*TWO, "--rounds", "2")


@dataclass(frozen=True)
class Scene:
    """A run to be killed at each of its steps: its flags, what is in the folder before, what is broken in it."""

    flags: tuple[str, ...]
    before: Callable[[Path], None] = lambda _: None
    broken: Callable[[], None] = lambda: None

    def play(self, folder: Path, steps: Steps) -> Program:
        """Start the run."""

        def prepare() -> None:
            self.broken()
            sys.setprofile(steps)

        self.before(folder)
        return Program(folder, *self.flags, prepare=prepare)


def half_and_damaged(folder: Path) -> None:
    """Make two runs of a round less, the record and the provenance of the first damaged."""
    expect(Program(folder, *TWO, "--rounds", "1").wait() == 0, "no runs")
    run = folder / "results/runs/bald-MC_dropout=True/repetition_0"
    for name in ("metrics.jsonl", "seconds.jsonl", "provenance.json"):
        os.truncate(run / name, (run / name).stat().st_size - 3)


SCENES = (
    Scene(SHORT),
    # The first run is mended and ends, the second fails: `*.damaged`, an event, failure.json and a mean of one and two.
    Scene(TWICE, half_and_damaged, lambda: break_training(after=2)),
)


@lru_cache
def step_counts() -> tuple[int, ...]:
    """Return in how many moments each scene can be killed."""
    counts = []
    for scene in SCENES:
        with _folder() as folder:
            log = Path(folder) / "steps"
            log.touch()
            program = scene.play(Path(folder), Steps(log=log))
            expect(program.wait() in (0, 1), f"no steps: {program.text()}")
            counts.append(log.stat().st_size)
    return tuple(counts)


def step_count() -> int:
    """Return the number of those moments."""
    return sum(step_counts())


def kill_at_step(folder: Path, number: int) -> None:
    """Kill a run exactly before or after one call that changes a file."""
    scene = SCENES[number >= step_counts()[0]]
    step = number - (step_counts()[0] if scene is SCENES[1] else 0)
    killed = scene.play(folder, Steps(fatal=step))
    expect(killed.wait() == 128 + signal.SIGKILL, f"not killed at step {step}: {killed.text()}")
    status = Program(folder, *scene.flags, "--status")
    expect(status.wait() == 0, f"unreadable folder: {status.text()}")
    expect_same(folder, *scene.flags, but="*.damaged")


def stop_politely(signal_number: int) -> Callable[[Path, int], None]:
    """Return the attempt that sends a signal at a random moment."""

    def attempt(folder: Path, number: int) -> None:
        flags = (*FOUR, "--jobs", "2") if number % 10 == 9 else ONE  # few: the workers take seconds to start
        code = 0
        while code == 0:  # it ended before the signal came, and nothing was tried
            shutil.rmtree(folder / "results", ignore_errors=True)
            program = Program(folder, *flags)
            time.sleep(random.uniform(0.05, undisturbed(*flags)[1]))
            program.kill(signal_number)
            code = program.wait()
        expect(code == 128 + signal_number, f"exit code {code}: {program.text()}")
        expect("stopped; finished rounds are saved" in program.text(), program.text())
        expect("Traceback" not in program.text(), program.text())
        expect_same(folder, *flags)

    return attempt


def artefacts(folder: Path) -> list[Path]:
    """Return all files of a result folder that have content."""
    return sorted(path for path in (folder / "results").rglob("*") if path.is_file() and path.stat().st_size)


CUTS: tuple[Callable[[int], int], ...] = (lambda n: 0, lambda n: 1, lambda n: n // 2, lambda n: n - 1)
FLIPS = 100


@lru_cache
def damage_count() -> int:
    """Return the number of truncations and bit flips."""
    with _folder() as folder:
        prepare_damage(Path(folder))
        return len(artefacts(Path(folder))) * len(CUTS) + FLIPS


def prepare_damage(folder: Path) -> None:
    """Make a warm-started run that ended early and failed, so that there is one of every kind of file."""
    program = Program(folder, *WARM, "--rounds", "2")
    expect(program.wait() == 0, program.text())
    failing = Program(folder, *WARM, prepare=break_training)
    expect(failing.wait() == 1, f"exit code {failing.code} for a run that fails: {failing.text()}")


def break_training(after: int = 1) -> None:
    """Make the fits of this process fail after so many, each with a word on its way."""
    left = iter(range(after))
    module: Any = active_learning.work.execution
    whole = module.active_learning_rounds

    def broken(*arguments: Any) -> Iterator[Any]:
        for result in whole(*arguments):
            if next(left, None) is None:
                arguments[-1]("out of memory: inference goes on with blocks of 10 images")
                raise ArithmeticError("the training loss became nan")
            yield result

    module.active_learning_rounds = broken


def damage(folder: Path, number: int) -> None:
    """Truncate one artefact or flip one of its bits; then read the state and go on."""
    prepare_damage(folder)
    paths = artefacts(folder)
    if number < len(paths) * len(CUTS):
        path = paths[number // len(CUTS)]
        os.truncate(path, CUTS[number % len(CUTS)](path.stat().st_size))
    else:
        path = paths[number % len(paths)]
        content = bytearray(path.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
    status = Program(folder, *WARM, "--status")
    expect(status.wait() == 0, f"{path.name} damaged, status: {status.text()}")
    try:
        expect_same(folder, *WARM, but="*.damaged")
    except NotHeldError as error:
        raise NotHeldError(f"{path.name} damaged: {error}") from error


def two_at_once(folder: Path, number: int) -> None:
    """Start two programs on one folder."""
    both = [Program(folder, *FOUR, "--jobs", "1") for _ in range(2)]
    codes = [program.wait() for program in both]
    expect(sorted(codes) == [0, 1], f"exit codes {codes}: {both[0].text()} {both[1].text()}")
    loser, winner = (both[codes.index(code)] for code in (1, 0))
    expect(f"in use by process {winner.pid} " in loser.text(), loser.text())
    expect_same(folder, *FOUR, "--jobs", "1")


def kill_a_worker(folder: Path, number: int) -> None:
    """Kill one worker process of the embedded cluster while its run goes on."""
    program = Program(folder, *LONG, "--jobs", "2")
    enough = random.randint(1, 2 * ROUNDS)  # of 4 (ROUNDS + 1) rounds: the worker must have work left
    while program.runs() and _rounds(folder) < enough:
        time.sleep(0.01)
    expect(program.runs(), f"ended too early: {program.text()}")
    children = psutil.Process(program.pid).children()
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    expect(len(workers) == 2, f"{len(workers)} workers: {program.text()}")
    random.choice(workers).kill()
    expect(program.wait() == 0, f"exit code {program.code}: {program.text()}")
    names = differing(results(folder), undisturbed(*LONG, "--jobs", "1")[0])
    expect(not names, f"different from --jobs 1: {', '.join(names)}")


def _rounds(folder: Path) -> int:
    """Return how many rounds of all runs are on disk."""
    records = (folder / "results").rglob("metrics.jsonl")
    return sum(path.read_bytes().count(b"\n") - 1 for path in records)


def kill_the_driver(folder: Path, number: int) -> None:
    """Kill a program with four runs at a random moment and start it again: finished runs must not be executed.

    Every second one has its runs on the workers of an embedded cluster, which must end with it.
    """
    program = Program(folder, *FOUR, "--jobs", str(1 + number % 2))
    enough = random.randint(1, 4 * ROUNDS)
    while program.runs() and _rounds(folder) < enough:
        time.sleep(0.001)
    children = psutil.Process(program.pid).children(recursive=True) if program.runs() else []
    program.kill(signal.SIGKILL)
    program.wait()
    left = psutil.wait_procs(children, timeout=60)[1]
    expect(not left, f"{len(left)} workers outlive the program")
    before = {path.parent: path.read_bytes() for path in (folder / "results").rglob("provenance.json")}
    records = {run: run / "metrics.jsonl" for run in before}
    done = [run for run, path in records.items() if path.exists() and path.read_bytes().count(b"\n") == ROUNDS + 2]
    again = Program(folder, *FOUR, "--jobs", "1")
    expect(again.wait() == 0, again.text())
    executed = again.text().count(": finished")
    expect(executed == 4 - len(done), f"{executed} runs executed, {len(done)} of 4 were finished: {again.text()}")
    expect(all((run / "provenance.json").read_bytes() == before[run] for run in done), "a finished run was touched")
    expect(not (folder / "results" / ".workers").exists(), "the workers' folder is left")
    expect_same(folder, *FOUR, "--jobs", "1")


def full_disk(folder: Path, number: int) -> None:
    """Let no file grow beyond a random size, as on a disk that is nearly full."""
    wanted, _ = undisturbed(*ONE)
    size = random.randrange(len(wanted["runs/bald-MC_dropout=True/repetition_0/metrics.jsonl"]))
    limit = (size, resource.RLIM_INFINITY)

    def prepare() -> None:
        silence = os.open(os.devnull, os.O_WRONLY)  # the program's output is a file as well
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    code = Program(folder, *ONE, prepare=prepare).wait()
    expect(code == 1, f"files of at most {size} bytes: exit code {code}")
    expect_status(folder)
    expect_same(folder, *ONE)


def read_only(folder: Path, number: int) -> None:
    """Take away the right to write, at the start and after a random time."""

    def become_nobody() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)

    (folder / "results").mkdir()
    folder.chmod(0o777)
    (folder / "results").chmod(0o555)
    refused = Program(folder, *ONE, prepare=become_nobody)
    expect(refused.wait() == 1, f"exit code {refused.code} at the start: {refused.text()}")
    expect("is read-only" in refused.text(), refused.text())
    (folder / "results").chmod(0o777)
    program = Program(folder, *ONE, prepare=become_nobody)
    run = folder / "results/runs/bald-MC_dropout=True/repetition_0"
    while program.runs() and not (run / "metrics.jsonl").exists():
        time.sleep(0.001)
    expect(program.runs(), f"ended too early: {program.text()}")
    folders = [path for path in (folder / "results", *(folder / "results").rglob("*")) if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    code = program.wait()
    for path in folders:
        path.chmod(0o777)
    expect(code == 1, f"exit code {code}: {program.text()}")
    expect_status(folder)
    expect_same(folder, *ONE)


def expect_status(folder: Path) -> None:
    """Read the state of the folder."""
    status = Program(folder, *ONE, "--status")
    expect(status.wait() == 0, f"unreadable folder: {status.text()}")


IDX_SIZES = {
    "train-images-idx3-ubyte": 60,
    "train-labels-idx1-ubyte": 60,
    "t10k-images-idx3-ubyte": 20,
    "t10k-labels-idx1-ubyte": 20,
}
CORRUPTIONS = ("missing", "empty", "truncated", "bit-flipped", "swapped", "another number of images")


def _idx(name: str, count: int) -> bytes:
    """Return a file in MNIST's format, of random values."""
    shape = (count, 28, 28) if "images" in name else (count,)
    values = random.Random(name).choices(range(10), k=math.prod(shape))
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(values)


def corrupt_data(folder: Path, number: int) -> None:
    """Corrupt one of four files that stand for MNIST's; the expected sums are set to theirs."""
    name, corruption = list(IDX_SIZES)[number // len(CORRUPTIONS)], CORRUPTIONS[number % len(CORRUPTIONS)]
    whole = {other: _idx(other, count) for other, count in IDX_SIZES.items()}
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for other, content in whole.items():
        (raw / other).write_bytes(content)
    content = whole[name]
    match corruption:
        case "missing":
            (raw / name).unlink()
        case "empty":
            (raw / name).write_bytes(b"")
        case "truncated":
            (raw / name).write_bytes(content[: len(content) // 2])
        case "bit-flipped":
            (raw / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "swapped":
            other = next(other for other in whole if other != name and ("images" in other) == ("images" in name))
            (raw / name).write_bytes(whole[other])
        case _:
            (raw / name).write_bytes(_idx(name, IDX_SIZES[name] - 1))
    sums = {other: hashlib.sha256(content).hexdigest() for other, content in whole.items()}

    def prepare() -> None:
        mnist = load_data.DATA_FILES["mnist"]
        load_data.DATA_FILES["mnist"] = dataclasses.replace(mnist, sha256=sums, mirrors=("http://127.0.0.1:1/",))

    program = Program(folder, *ONE, "--dataset", "mnist", "--data_dir", str(folder / "data"), prepare=prepare)
    expect(program.wait() == 1, f"{name} {corruption}: exit code {program.code}: {program.text()}")
    expect(name in program.text() and sums[name] in program.text(), f"{name} {corruption}: {program.text()}")
    expect(not list((folder / "results").rglob("metrics.jsonl")), f"{name} {corruption}: trained")


class Trap:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        """Say how to unpickle."""
        return os.mkdir, (str(self.path),)


HOSTILE = (
    "pickle for a curve",
    "pickle for repetitions",
    "pickle for a run",
    "pickle for weights",
    "YAML tag",
    ".. function",
    ".. data set",
    ".. key",
)


def hostile(folder: Path, number: int) -> None:
    """Plant something that would be executed, or would lead out of the folder."""
    sprung = folder / "sprung"
    bomb = pickle.dumps(Trap(sprung))
    run = folder / "results/runs/bald-MC_dropout=True/repetition_0"
    if number < 4:
        expect(Program(folder, *WARM, "--rounds", "2").wait() == 0, "no run")
        curves = [folder / f"results/bald-MC_dropout=True{what}.npy" for what in ("", "-repetitions")]
        target = (*curves, run / "test_error.npy", next(run.glob("weights-*")))[number]
        target.write_bytes(bomb)
        complaints = active_learning.report.results.read_results(folder / "results").unreadable
        expect(number != 1 or any(target.name in sentence for sentence in complaints), f"no complaint: {complaints}")
        expect_same(folder, *WARM)
    else:
        config = folder / "config.yaml"
        config.write_text(f"lr: !!python/object/apply:os.mkdir ['{sprung}']" if number == 4 else "../seed: 3")
        flags = {
            4: ("--config", str(config)),
            5: ("--acq_func", "../bald"),
            6: ("--dataset", "../tiny"),
            7: ("--config", str(config)),
        }
        program = Program(folder, *ONE, *flags[number])
        expect(program.wait() == 2, f"exit code {program.code}: {program.text()}")
        expect(program.text().count("\n") == 1, program.text())
        expect(not (folder / "results").exists(), "a folder was made")
    expect(not sprung.exists(), "executed")


RANKED = (
    *("--query", "4", "--dropout_iter", "3", "--epochs", "1", "--min_steps", "20", "--augment", "none"),
    *("--precision", "float32", "--device", "cpu", "--quiet"),
)
CLASSES = ("cat", "dog")


def ranking(folder: Path, *flags: str) -> Program:
    """Start a ranking of the images of a folder."""
    words = ["rank", str(folder / "images"), "--result_dir", str(folder / "results"), *RANKED, *flags]
    return Program(folder, *words, whole=True)


def half_a_round(folder: Path) -> tuple[str, str]:
    """Write images, ask for some and answer, in a file of its own; return the flags that take the answers in."""
    pictures = np.random.default_rng(0).integers(0, 256, (40, 12, 12), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        path = folder / "images" / (CLASSES[number % 2] if number < 12 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    program = ranking(folder)
    expect(program.wait() == 0, f"first round: {program.text()}")
    header, *lines = (folder / "results" / "batch.csv").read_text().splitlines()
    place = header.split(",").index("label")
    rows = [line.split(",") for line in lines]
    answers = [[*row[:place], CLASSES[number % 2], *row[place + 1 :]] for number, row in enumerate(rows)]
    (folder / "answers.csv").write_text("\n".join([header, *(",".join(row) for row in answers)]) + "\n")
    return "--labels", str(folder / "answers.csv")


def ranked(folder: Path) -> tuple[list[bytes], list[Any]]:
    """Return what a ranking has written, without times and places."""
    tables = [(folder / "results" / name).read_bytes() for name in ("ranking.csv", "batch.csv", "skipped.csv")]
    events = [json.loads(line) for line in (folder / "results" / "journal.jsonl").read_text().splitlines()]
    return tables, [{k: v for k, v in event.items() if k not in ("when", "source", "sha256")} for event in events]


@lru_cache
def undisturbed_ranking() -> tuple[tuple[list[bytes], list[Any]], float]:
    """Return what the second round writes that nothing disturbs, and its seconds."""
    with _folder() as name:
        folder = Path(name)
        answers = half_a_round(folder)
        start = time.perf_counter()
        program = ranking(folder, *answers)
        expect(program.wait() == 0, f"undisturbed ranking: {program.text()}")
        return ranked(folder), time.perf_counter() - start


def kill_a_ranking(folder: Path, number: int) -> None:
    """Kill it up to three times in a row while it takes labels in and asks for more; in every second try, cold."""
    wanted, seconds = undisturbed_ranking()
    answers = half_a_round(folder)
    if number % 2:
        shutil.rmtree(folder / "results" / "cache")
    for _ in range(1 + number % 3):
        program = ranking(folder, *answers)
        time.sleep(random.uniform(0, seconds))
        program.kill(signal.SIGKILL)
        program.wait()
    program = ranking(folder, *answers)
    expect(program.wait() == 0, f"exits with {program.code}: {program.text()}")
    expect(ranked(folder) == wanted, "other files than those of an undisturbed ranking")


FAULTS = (
    Fault("kill -9 at a random moment", "final files byte-identical", lambda: 200, kill_anywhere),
    Fault("kill -9 in an augmented run", "final files byte-identical", lambda: 20, kill_while_augmented),
    Fault(
        "kill before and after each write", "no unreadable folder", lambda: sum(step_counts()), kill_at_step, cases=True
    ),
    Fault("SIGINT", "130, resumed identical", lambda: 20, stop_politely(signal.SIGINT)),
    Fault("SIGTERM", "143, resumed identical", lambda: 20, stop_politely(signal.SIGTERM)),
    Fault("truncation and bit flips", "repaired, never another curve", damage_count, damage, cases=True),
    Fault("two processes on one folder", "exactly one works", lambda: 20, two_at_once),
    Fault("worker killed with -9", "curves identical to --jobs 1", lambda: 10, kill_a_worker),
    Fault("driver killed, started again", "only unfinished runs execute", lambda: 10, kill_the_driver),
    Fault("full disk", "exit 1, state loads", lambda: 5, full_disk),
    Fault("read-only folder", "exit 1, state loads", lambda: 5, read_only),
    Fault(
        "MNIST files corrupted",
        "refused before training",
        lambda: len(IDX_SIZES) * len(CORRUPTIONS),
        corrupt_data,
        cases=True,
    ),
    Fault("ranking killed with -9", "no label lost, same files", lambda: 30, kill_a_ranking),
    Fault("hostile files and names", "refused, nothing executed", lambda: len(HOSTILE), hostile, cases=True),
)

if __name__ == "__main__":
    sys.exit(main())
