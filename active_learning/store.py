"""Everything on disk: names, atomic writes, the lock, the record of a run, its curves and its provenance.

A result folder holds, for an acquisition function and arm NAME such as `bald-MC_dropout=True`:

    NAME.npy                                mean test error over the finished repetitions, (rounds + 1,), fractions
    NAME-repetitions.npy                    the repetitions themselves, (repetitions, rounds + 1)
    runs/NAME/repetition_0/metrics.jsonl    the record: configuration, then a line of metrics a round
                           acquired.npy     the data set's training indices in order of acquisition, (rounds, query)
                           test_error.npy   the run's curve, (rounds + 1,)
                           seconds.jsonl    a line of seconds by phase a round
                           provenance.json  versions, commit and processor of each session that worked on the run
                           failure.json     why the last try ended, if it failed
                           weights-N.safetensors  the weights after round N, the last (with `warm_start` only)

The record is the truth. Its lines are chained by sha256, so that damage is seen and the whole rounds before it are
kept; every array is made from it and mended from it. Nothing here is ever unpickled. With `--classes` its first line
says that it counts the images of the whole data set; older ones count those that were kept (see `renumber`).

`.lock` in the result folder belongs to the program that runs an experiment (`.lock_holder` says which), `.lock` in a
run's folder to the process that executes the run. The operating system frees both when their owner dies.
"""

import errno
import hashlib
import io
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from filelock import FileLock, Timeout, lock_descriptor
from safetensors import SafetensorError

from active_learning.config import ARM_FIELDS, ConfigError, RunConfig
from active_learning.learners import LEARNERS, recorded_learner

Row = dict[str, Any]
Weights = dict[str, npt.NDArray[np.float32]]

VERSIONED = ("torch", "torchvision", "skorch", "modAL-python", "scikit-learn", "scipy", "numpy", "numba", "llvmlite")


class StoreError(Exception):
    """The result folder cannot be used: one sentence that says why and the way out."""


class RunFolder:
    """One run's files. Reading is free; only the holder of `locked` may write."""

    def __init__(self, result_dir: Path, config: RunConfig) -> None:
        self.config = config
        self.path = result_dir / "runs" / config.name / f"repetition_{config.repetition}"
        self.rounds: list[Row] = []
        self.seconds: list[Row] = []
        self.damaged: list[Path] = []
        self.counts_kept_images = False

    def load(self, *, any_configuration: bool = False) -> list[Row]:
        """Read the whole rounds on disk and return their metrics; nothing is written.

        Args:
            any_configuration: take a record that another configuration made, too.

        Raises:
            StoreError: when the record is that of another configuration.
        """
        header, self.rounds, whole = _read_record(self.path)
        configuration = None if header is None else header["configuration"]
        if configuration is not None and not any_configuration and configuration != self.config.identity():
            raise StoreError(f"{self.path} holds a run of another configuration: move it away to run this one.")
        if self.config.warm_start and self.rounds and not self.finished and self.weights() is None:
            self.rounds = []  # each round's weights follow from the one before: begin again
        self.counts_kept_images = bool(self.rounds) and header is not None and counts_kept_images(header)
        self.seconds, seconds_whole = _read_seconds(self.path)
        self.seconds = (self.seconds + [{} for _ in self.rounds])[: len(self.rounds)]
        names = {"metrics.jsonl": whole, "seconds.jsonl": seconds_whole}
        self.damaged = [self.path / name for name, is_whole in names.items() if not is_whole]
        return self.rounds

    def mend(self) -> None:
        """Make every file agree with the rounds that `load` found whole.

        A damaged file of lines is kept beside as `NAME.damaged`; what a killed process left half-done is removed.
        """
        for path in self.damaged:
            write_atomically(path.with_name(path.name + ".damaged"), path.read_bytes())
            if not self.rounds:
                path.unlink()
        self.damaged = []
        for path in self.path.glob("*.tmp"):
            path.unlink()
        for path in self.path.glob("weights-*.safetensors"):
            if path != self._weights_path:
                path.unlink()
        if self.rounds:
            self._write()

    @contextmanager
    def locked(self, check: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the run's folder, waiting for another process that executes the same run.

        There is one when a driver was killed whose cluster lives on: its task ends within a batch or with the run.

        Args:
            check: called while waiting; what it raises ends the wait.
        """
        _make_folder(self.path)
        lock = FileLock(self.path / ".lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                if check is not None:
                    check()
        try:
            yield
        finally:
            lock.release()

    @property
    def going(self) -> bool:
        """Whether some process executes the run at this moment."""
        return is_held(self.path / ".lock")

    @property
    def finished(self) -> bool:
        """Whether the loaded rounds reach the configuration's last."""
        return len(self.rounds) > self.config.rounds

    def append(self, row: Row, seconds: Mapping[str, float], weights: Weights | None = None) -> None:
        """Put the next round on disk; when this returns it is there to stay.

        Raises:
            StoreError: for any other round than the next.
        """
        last = len(self.rounds)
        if row["round"] != last:
            raise StoreError(f"{self.path} has {last} rounds, and round {row['round']} cannot follow them.")
        if self.counts_kept_images:
            raise StoreError(f"{self.path} counts images as earlier versions did: python -m active_learning.renumber.")
        if weights is not None:
            content = safetensors.numpy.save(weights)
            row = {**row, "weights_sha256": hashlib.sha256(content).hexdigest()}
            write_atomically(self.path / f"weights-{last}.safetensors", content)
        self.rounds.append(row)
        self.seconds.append({"round": last, **seconds})
        self._write()
        if weights is not None and last:
            (self.path / f"weights-{last - 1}.safetensors").unlink(missing_ok=True)

    def replace_rounds(self, rounds: Sequence[Row]) -> None:
        """Put the same rounds on disk in the data set's numbering."""
        self.rounds, self.counts_kept_images = list(rounds), False
        self._write()

    def weights(self) -> Weights | None:
        """Return the weights after the last round, or None if they are missing or damaged."""
        try:
            content = self._weights_path.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.rounds[-1]["weights_sha256"]:
                return None
            weights: Weights = safetensors.numpy.load(content)
        except (OSError, SafetensorError):
            return None
        return weights

    def begin_session(self, session: Row) -> None:
        """Record what works on the run from here on (see `provenance`), and forget an earlier failure."""
        sessions = self._sessions()
        if sessions is None:
            (self.path / "provenance.json").replace(self.path / "provenance.json.damaged")
        self._write_sessions([*(sessions or []), {"first_round": len(self.rounds), **session}])
        (self.path / "failure.json").unlink(missing_ok=True)

    def continue_session(self, session: Row) -> None:
        """Begin a session, unless it is the one that was begun last."""
        sessions = self._sessions()
        if not sessions or any(sessions[-1].get(key) != value for key, value in session.items()):
            self.begin_session(session)
        (self.path / "failure.json").unlink(missing_ok=True)

    def note(self, event: str, round_: int | None = None) -> None:
        """Record something that happened to the session at work, such as a halved inference block.

        Args:
            event: what happened.
            round_: before which round; by default the next.
        """
        sessions = self._sessions() or [{}]
        entry = {"round": len(self.rounds) if round_ is None else round_, "event": event}
        events = [*sessions[-1].get("events", []), entry]
        self._write_sessions([*sessions[:-1], {**sessions[-1], "events": events}])

    def fail(self, reason: str, details: str = "") -> None:
        """Record why the run ended, and the traceback that a developer needs."""
        failure = {"round": len(self.rounds), "reason": reason, "details": details}
        write_atomically(self.path / "failure.json", _sealed(failure))

    def failure(self) -> str | None:
        """Return why the last try of the run failed, if it did."""
        path = self.path / "failure.json"
        if not path.exists():
            return None
        failure = read_sealed(path, {"round", "reason"})
        return "for a reason that can no longer be read" if failure is None else str(failure["reason"])

    @property
    def complaint(self) -> str | None:
        """Say what is damaged of the record that was loaded, and what is left of it."""
        if not self.damaged:
            return None
        names = " and ".join(path.name for path in self.damaged)
        kept = f"{len(self.rounds)} whole rounds are kept" if self.rounds else "no whole round is left"
        return f"{names} damaged, {kept}"

    @property
    def _weights_path(self) -> Path:
        return self.path / f"weights-{len(self.rounds) - 1}.safetensors"

    def _sessions(self) -> list[Row] | None:
        """Return the sessions that worked on the run, or None if the file is damaged."""
        path = self.path / "provenance.json"
        if not path.exists():
            return []
        content = read_sealed(path, {"sessions"})
        return None if content is None else list(content["sessions"])

    def _write_sessions(self, sessions: Sequence[Row]) -> None:
        write_atomically(self.path / "provenance.json", _sealed({"sessions": sessions}))

    def _write(self) -> None:
        """Write the record, then what is made from it."""
        header: Row = {"configuration": self.config.identity()}
        if self.config.classes and not self.counts_kept_images:  # records of other runs stay as they have always been
            header["numbering"] = "dataset"
        _write_if_changed(self.path / "metrics.jsonl", _chain([header, *self.rounds]))
        _write_if_changed(self.path / "seconds.jsonl", _chain([{}, *self.seconds]))
        acquired = [row["acquired_train_index"] for row in self.rounds[1:]]
        shape = (len(acquired), self.config.query)
        _write_if_changed(self.path / "acquired.npy", _npy(np.array(acquired, dtype=np.int64).reshape(shape)))
        _write_if_changed(self.path / "test_error.npy", _npy(np.array([row["test_error"] for row in self.rounds])))


def check_result_dir(result_dir: Path, configs: Sequence[RunConfig], but: Sequence[str] = ()) -> None:
    """Refuse a folder that holds runs whose numbers were decided otherwise.

    Args:
        result_dir: the result folder.
        configs: the runs that are wanted there.
        but: fields that are not compared.

    Raises:
        ConfigError: naming the folder, and the fields that differ with both values.
        StoreError: naming a run's folder that holds the record of another run.
    """
    ignored = {*ARM_FIELDS, *but}
    shared = {key: value for key, value in configs[0].identity().items() if key not in ignored}
    for path in run_folders(result_dir):
        configuration, _, _ = read_record(path)
        if configuration is None:
            continue
        held = {key: value for key, value in configuration.items() if key not in ignored}
        if differing := [key for key in {**held, **shared} if held.get(key) != shared.get(key)]:
            if "equal_batches" in differing and not held.get("equal_batches"):  # which no setting brings back
                raise ConfigError(
                    f"--result_dir {result_dir} holds runs of an earlier version, whose training cut its batches "
                    "otherwise: name another folder to run these settings; python -m active_learning.report still "
                    "reads that one."
                )
            there, here = ({key: _decided(values, key) for key in differing} for values in (held, shared))
            words = ", ".join(f"{key} is {there[key]!r} there and {here[key]!r} here" for key in differing)
            raise ConfigError(
                f"--result_dir {result_dir} holds runs of another configuration ({words}): "
                "set the same values, or name another folder."
            )
        if not _in_its_place(path, configuration):
            raise StoreError(f"{path} holds the record of another run, such as a copy would: move it away.")


def _decided(configuration: Row, key: str) -> Any:
    """Return the value of a field, which a record does not hold where it is the default."""
    default = getattr(RunConfig, key, None)
    return configuration.get(key, list(default) if isinstance(default, tuple) else default)


def run_folders(result_dir: Path, name: str = "*") -> list[Path]:
    """Return the folders of runs, of one curve or of all, by curve and repetition; others that lie there are not."""
    found = [path for path in (result_dir / "runs").glob(f"{name}/repetition_*") if _REPETITION.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.parent.name, _repetition(path)))


_REPETITION = re.compile(r"repetition_([0-9]+)")


def recorded_run(configuration: Row, rounds: int) -> RunConfig | None:
    """Return the run that a record's configuration describes, or None if this version does not know its fields."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in configuration.items()}
    values |= {"rounds": rounds, "learner": recorded_learner(configuration)}
    for older in ("mc_dropout", "classifier"):
        values.pop(older, None)
    try:
        return RunConfig(**values) if values["learner"] in LEARNERS else None
    except TypeError:
        return None


def _in_its_place(path: Path, configuration: Row) -> bool:
    run = recorded_run(configuration, 0)
    return run is None or (path.parent.name, path.name) == (run.name, f"repetition_{run.repetition}")


def write_curves(result_dir: Path, name: str, rounds: int) -> npt.NDArray[np.float64] | None:
    """Write NAME.npy and NAME-repetitions.npy from the repetitions that have at least `rounds` rounds.

    Returns:
        The repetitions (repetitions, rounds + 1), or None if there is none yet.
    """
    curves = finished_curves(result_dir, name, rounds)
    if not curves:
        return None
    repetitions = np.array(list(curves.values()))
    _write_if_changed(result_dir / f"{name}-repetitions.npy", _npy(repetitions))
    _write_if_changed(result_dir / f"{name}.npy", _npy(repetitions.mean(axis=0)))
    return repetitions


def finished_curves(result_dir: Path, name: str, rounds: int) -> dict[int, npt.NDArray[np.float64]]:
    """Return the test errors (rounds + 1,) of each repetition that has at least `rounds` rounds, by its number."""
    curves = {}
    for folder in run_folders(result_dir, name):
        configuration, rows, _ = read_record(folder)
        if configuration is not None and len(rows) > rounds and _in_its_place(folder, configuration):
            curves[_repetition(folder)] = np.array([row["test_error"] for row in rows])
    # Repetitions may have been extended one after the other: their common length is what can be averaged.
    length = min((len(curve) for curve in curves.values()), default=0)
    return {repetition: curve[:length] for repetition, curve in curves.items()}


@contextmanager
def locked(result_dir: Path) -> Iterator[str]:
    """Hold the result folder for this process. The operating system frees the lock of a process that is killed.

    Yields:
        What is written in `.lock_holder`: another machine that reads the same text there shares the folder.

    Raises:
        ConfigError: when there can be no such folder.
        StoreError: when another process holds it, saying which, or when it is there and must not be written to.
        OSError: when the disk is full.
    """
    holder_file = result_dir / ".lock_holder"
    lock = FileLock(result_dir / ".lock")
    try:
        _make_folder(result_dir)
        lock.acquire(timeout=0.2)  # `is_held` may have it for a moment
    except Timeout:
        raise StoreError(
            f"{result_dir} is in use by {_holder(holder_file)}: wait for it to end, or name another --result_dir."
        ) from None
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        if error.errno in _NO_RIGHT and result_dir.is_dir():
            raise StoreError(
                f"{result_dir} is read-only ({error.strerror}): make it writable, and the same command goes on."
            ) from error
        raise ConfigError(
            f"--result_dir {result_dir} cannot be written to ({error.strerror}): name another."
        ) from error
    try:
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC).isoformat()}"
        write_atomically(holder_file, holder.encode())
        yield holder
    finally:
        with suppress(OSError):
            holder_file.unlink(missing_ok=True)
        lock.release()


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def _holder(holder_file: Path) -> str:
    try:
        return holder_file.read_text("utf-8", "replace")
    except OSError:  # the holder is about to end, or has not written it yet
        return "another process"


def is_held(lock_path: Path) -> bool:
    """Return whether a process holds a lock file, without writing anything."""
    try:
        lock = os.open(lock_path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock_descriptor(lock, blocking=False)
    except OSError:  # a file system that knows no locks
        return False
    finally:
        os.close(lock)  # frees it again if it was free


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file such that a crash at any moment leaves the old content or the new one, never a part."""
    _make_folder(path.parent)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno(), _CANNOT_SYNC, path.parent)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk the part takes the room that others need
        raise
    _sync_folder(path.parent)  # the new name itself


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, each name in its parent put on disk as well."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not path.exists():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Put a folder's names on disk, where the system can: Windows opens no folder, and some file systems sync none."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDER:
            raise
        _tell_what_is_lost(path, error)
        return
    try:
        _sync(folder, _CANNOT_SYNC_FOLDER, path)
    finally:
        os.close(folder)


def _sync(descriptor: int, cannot: Sequence[int], folder: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in cannot:
            raise
        _tell_what_is_lost(folder, error)


_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# A file has just been written there, so that a missing right is one to open or sync the folder itself.
_CANNOT_SYNC_FOLDER = (*_CANNOT_SYNC, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR)


def _tell_what_is_lost(folder: Path, error: OSError) -> None:
    """Say once, in this process and those that it starts, that a power cut can cost what was written last."""
    if os.environ.get(_TOLD):
        return
    os.environ[_TOLD] = "1"
    print(
        f"{folder}: this system does not put files on disk at once ({error.strerror}): after a power cut the last "
        "rounds may be missing, and the same command computes them again; nothing else is lost.",
        file=sys.stderr,
    )


_TOLD = "DBAL_NO_FSYNC_TOLD"


def provenance() -> Row:
    """Return what the numbers were computed with: versions, commit of this code, processor, time."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONED},
        "commit": _git_commit(),
        "platform": platform.platform(),
        "processor": _processor(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout this code stands in, with `+` if it has changes; None outside of one."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _chain(rows: Sequence[Row]) -> bytes:
    """Render JSON lines, each with the sha256 of itself and of all lines before it."""
    lines, digest = [], ""
    for row in rows:
        digest = hashlib.sha256(digest.encode() + _json(row)).hexdigest()
        lines.append(_json({**row, "sha256": digest}))
    return b"\n".join(lines) + b"\n"


def read_chain(path: Path) -> tuple[Row | None, list[Row], bool]:
    """Return the first row, the rows after it up to the first damage, and whether the file is whole (or missing)."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, [], True
    rows: list[Row] = []
    digest = ""
    lines = content.split(b"\n")
    for line in lines[:-1]:
        try:
            row = json.loads(line)
            del row["sha256"]
            digest = hashlib.sha256(digest.encode() + _json(row)).hexdigest()
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        if _json({**row, "sha256": digest}) != line:
            break
        rows.append(row)
    whole = len(rows) == len(lines) - 1 and len(rows) > 0 and lines[-1] == b""
    return (rows[0] if rows else None), rows[1:], whole


def read_record(run_folder: Path) -> tuple[Row | None, list[Row], bool]:
    """Return a record's configuration, its rounds up to the first damage, and whether it is whole (or missing).

    A file of other lines, or of rounds that do not follow each other, is damage as well.
    """
    header, rows, whole = _read_record(run_folder)
    return (None if header is None else header["configuration"]), rows, whole


def _read_record(run_folder: Path) -> tuple[Row | None, list[Row], bool]:
    header, rows, whole = read_chain(run_folder / "metrics.jsonl")
    if header is None or not isinstance(header.get("configuration"), dict):
        return None, [], header is None and whole
    count = next((position for position, row in enumerate(rows) if row.get("round") != position), len(rows))
    return header, rows[:count], whole and count == len(rows)


def counts_kept_images(header: Row) -> bool:
    """Return whether a record counts the images that `--classes` kept, as earlier versions did."""
    return bool(header["configuration"].get("classes")) and header.get("numbering") != "dataset"


def _read_seconds(run_folder: Path) -> tuple[list[Row], bool]:
    """Return the seconds of the rounds, and whether their file is whole (or missing); its first line is empty."""
    header, rows, whole = read_chain(run_folder / "seconds.jsonl")
    return ([], False) if header else (rows, whole)


def _sealed(value: Row) -> bytes:
    """Render an object as indented JSON with the sha256 of its content."""
    return json.dumps({**value, "sha256": hashlib.sha256(_json(value)).hexdigest()}, allow_nan=False, indent=2).encode()


def read_sealed(path: Path, keys: set[str]) -> Row | None:
    """Return a sealed object that has these keys, or one from before there were seals, which has just these.

    It is None if the file is damaged or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
        seal = value.pop("sha256", None)
        if seal is None:
            whole = set(value) == keys
        else:
            whole = keys <= set(value) and seal == hashlib.sha256(_json(value)).hexdigest()
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None
    return value if whole else None


def _repetition(folder: Path) -> int:
    return int(folder.name.removeprefix("repetition_"))


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write_if_changed(path: Path, content: bytes) -> None:
    try:
        unchanged = path.read_bytes() == content
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        write_atomically(path, content)
