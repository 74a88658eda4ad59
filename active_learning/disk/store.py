"""Result folders: the names in them, a run's files, the curves of an experiment.

A result folder holds, for an acquisition function and arm NAME such as `bald-MC_dropout=True`:

    NAME.npy                                mean test error over the finished repetitions, (rounds + 1,), fractions
    NAME-repetitions.npy                    the repetitions themselves, (repetitions, rounds + 1)
    images.json                             where the images are (with `--dataset folder:PATH` only)
    runs/NAME/repetition_0/metrics.jsonl    the record: configuration, then a line of metrics a round
                           acquired.npy     the data set's training indices in order of acquisition, (rounds, query)
                           test_error.npy   the run's curve, (rounds + 1,)
                           seconds.jsonl    a line of seconds by phase a round
                           provenance.json  versions, commit and processor of each session that worked on the run
                           failure.json     why the last try ended, if it failed
                           weights-N.safetensors  the weights after round N, the last (with `warm_start` only)

The record is the truth (see `record`): every array is made from it and mended from it. With `--classes` its first line
says that it counts the images of the whole data set; older ones count those that were kept (see `renumber`).

`.lock` in the result folder belongs to the program that runs an experiment (`.lock_holder` says which), `.lock` in a
run's folder to the process that executes the run. The operating system frees both when their owner dies.
"""

import hashlib
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from filelock import Timeout
from safetensors import SafetensorError

from active_learning.disk.files import (
    StoreError,
    is_held,
    make_folder,
    system_lock,
    write_atomically,
    write_if_changed,
)
from active_learning.disk.record import (
    Round,
    Row,
    chain,
    read_record,
    read_sealed,
    read_seconds,
    record_lines,
    sealed,
)
from active_learning.interruption import Check
from active_learning.settings.arms import flag
from active_learning.settings.config import ARM_FIELDS, FOLDER, OWN_FIELDS, ConfigError, ExperimentConfig, RunConfig
from active_learning.settings.learners import LEARNERS, Weights, recorded_learner
from active_learning.terminal import COMMAND, counted

IMAGES = "images.json"


class RunFolder:
    """One run's files. Reading is free; only the holder of `locked` may write."""

    def __init__(self, result_dir: Path, config: RunConfig) -> None:
        self.config = config
        self.path = result_dir / "runs" / config.name / f"repetition_{config.repetition}"
        self.rounds: list[Round] = []
        self.seconds: list[Row] = []
        self.damaged: list[Path] = []
        self.fault = ""
        self.counts_kept_images = False

    def load(self, *, any_configuration: bool = False) -> list[Round]:
        """Read the whole rounds on disk and return them; nothing is written.

        Args:
            any_configuration: take a record that another configuration made, too.

        Raises:
            StoreError: when the record is that of another configuration.
        """
        record = read_record(self.path)
        self.rounds, self.fault = list(record.rounds), record.fault
        if record.configuration not in (None, self.config.identity()) and not any_configuration:
            raise StoreError(
                f"{self.path} holds a run of another configuration: move it out of {self.path.parents[2]} to run this."
            )
        if self.config.warm_start and self.rounds and not self.finished and self.weights() is None:
            self.rounds = []  # each round's weights follow from the one before: begin again
        self.counts_kept_images = bool(self.rounds) and record.counts_kept_images
        self.seconds, seconds_whole = read_seconds(self.path)
        self.seconds = (self.seconds + [{} for _ in self.rounds])[: len(self.rounds)]
        provenance_whole = self._sessions() is not None
        names = {"metrics.jsonl": record.whole, "seconds.jsonl": seconds_whole, "provenance.json": provenance_whole}
        self.damaged = [self.path / name for name, is_whole in names.items() if not is_whole]
        return self.rounds

    def mend(self) -> None:
        """Make every file agree with the rounds that `load` found whole.

        A damaged file that nothing else says again is kept beside as `NAME.damaged`; what a killed process left
        half-done is removed.
        """
        for path in self.damaged:
            _keep(path)
            if not self.rounds or path.suffix == ".json":  # the others are written anew
                path.unlink()
        self.damaged = []
        for path in self.path.glob("*.tmp"):
            path.unlink()
        for path in self.path.glob("weights-*.safetensors"):
            if path != self._weights_path or self.weights() is None:
                path.unlink()
        if self.rounds:
            self._write()
        if self.finished:  # whatever ended an earlier try
            (self.path / "failure.json").unlink(missing_ok=True)

    @contextmanager
    def locked(self, check: Check | None = None) -> Iterator[None]:
        """Hold the run's folder, waiting for another process that executes the same run.

        There is one when a driver was killed whose cluster lives on: its task ends within a batch or with the run.

        Args:
            check: called while waiting; what it raises ends the wait.
        """
        make_folder(self.path)
        lock = system_lock(self.path / ".lock")
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

    def append(self, round_: Round) -> None:
        """Put the next round on disk, with its seconds and its weights; when this returns it is there to stay.

        Raises:
            StoreError: for any other round than the next.
        """
        last = len(self.rounds)
        if round_.round != last:
            raise StoreError(f"{self.path} has {last} rounds, and round {round_.round} cannot follow them.")
        if self.counts_kept_images:
            raise StoreError(
                f"{self.path} counts images as earlier versions did: python -m active_learning.disk.renumber "
                f"{shlex.quote(str(self.path.parents[2]))} rewrites it."
            )
        if round_.weights is not None:
            content = safetensors.numpy.save(round_.weights)
            round_ = round_.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
            write_atomically(self.path / f"weights-{last}.safetensors", content)
        self.rounds.append(round_.model_copy(update={"weights": None}))
        self.seconds.append({"round": last, **round_.seconds})
        self._write()
        if round_.weights is not None and last:
            (self.path / f"weights-{last - 1}.safetensors").unlink(missing_ok=True)

    def replace_rounds(self, rounds: Sequence[Round]) -> None:
        """Put the same rounds on disk in the data set's numbering."""
        self.rounds, self.counts_kept_images = list(rounds), False
        self._write()

    def weights(self) -> Weights | None:
        """Return the weights after the last round, or None if they are missing or damaged."""
        try:
            content = self._weights_path.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.rounds[-1].weights_sha256:
                return None
            weights: Weights = safetensors.numpy.load(content)
        except (OSError, SafetensorError):
            return None
        return weights

    def begin_session(self, session: Row) -> None:
        """Record what works on the run from here on (see `provenance`), and forget an earlier failure."""
        sessions = self._sessions()
        if sessions is None:
            _keep(self.path / "provenance.json")
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
        write_atomically(self.path / "failure.json", sealed(failure))

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
        faults = {"metrics.jsonl": f" ({self.fault})" if self.fault else ""}
        names = " and ".join(path.name + faults.get(path.name, "") for path in self.damaged)
        kept = (
            f"{counted(len(self.rounds), 'whole round is', 'whole rounds are')} kept"
            if self.rounds
            else "no whole round is left"
        )
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
        write_atomically(self.path / "provenance.json", sealed({"sessions": sessions}))

    def _write(self) -> None:
        """Write the record, then what is made from it."""
        record = record_lines(self.config.identity(), self.rounds, self.counts_kept_images)
        write_if_changed(self.path / "metrics.jsonl", record)
        write_if_changed(self.path / "seconds.jsonl", chain([{}, *self.seconds]))
        acquired = [round_.acquired_train_index for round_ in self.rounds[1:]]
        shape = (len(acquired), self.config.query)
        write_if_changed(self.path / "acquired.npy", _npy(np.array(acquired, dtype=np.int64).reshape(shape)))
        write_if_changed(self.path / "test_error.npy", _npy(np.array([round_.test_error for round_ in self.rounds])))


def _keep(path: Path) -> None:
    """Write a damaged file beside itself as `NAME.damaged`, or NAME.2.damaged, beside what is kept there already."""
    content, kept, number = path.read_bytes(), path.with_name(f"{path.name}.damaged"), 1
    while kept.exists() and kept.read_bytes() != content:
        number += 1
        kept = path.with_name(f"{path.name}.{number}.damaged")
    write_atomically(kept, content)


def check_result_dir(
    result_dir: Path, configs: Sequence[RunConfig], but: Sequence[str] = (), asked: ExperimentConfig | None = None
) -> None:
    """Refuse a folder that holds runs whose numbers were decided otherwise.

    Args:
        result_dir: the result folder.
        configs: the runs that are wanted there.
        but: fields that are not compared.
        asked: the settings that want them; what they do not allow beside the rest is not advised.

    Raises:
        ConfigError: naming the folder, and the fields that differ with both values.
        StoreError: naming a run's folder that holds the record of another run.
    """
    wanted = {run.name: run.identity() for run in configs}
    for path in run_folders(result_dir):
        configuration = read_record(path).configuration
        if configuration is None:
            continue
        # other arms' own fields are theirs alone
        ignored = {*ARM_FIELDS, *but} - {*(OWN_FIELDS if path.parent.name in wanted else ())}
        both = configuration, wanted.get(path.parent.name, configs[0].identity())
        there, here = ({key: value for key, value in values.items() if key not in ignored} for values in both)
        if differing := [key for key in {**there, **here} if there.get(key) != here.get(key)]:
            another = _another(result_dir, there, here, differing, configs[0].folder, asked)
            raise ConfigError(f"--result_dir {result_dir} holds runs of {another}")
        if not _in_its_place(path, configuration):
            raise StoreError(
                f"{path} holds the record of another run, such as a copy would: move it out of {result_dir}."
            )


def _another(
    result_dir: Path,
    there: Row,
    here: Row,
    differing: Sequence[str],
    folder: str,
    asked: ExperimentConfig | None,
) -> str:
    """Say in which fields two configurations differ, and what to type for the first."""
    if "equal_batches" in differing and not there.get("equal_batches"):  # which no setting brings back
        return (
            "an earlier version, whose training cut its batches otherwise: name another folder to run these settings; "
            f"{shlex.join([*COMMAND, 'report', str(result_dir)])} still reads that one."
        )
    digests = [str(values.get("dataset")) for values in (there, here)]
    if "dataset" in differing and all(name.startswith(FOLDER) for name in digests):
        if (other := images_folder(result_dir)) and other != folder:
            return f"the images in {other}, and those in {folder} are others: name another folder for their runs."
        return (
            "other images: one of them, or a label, has been added, taken away or changed (the digest is "
            f"{digests[0].removeprefix(FOLDER)} there and {digests[1].removeprefix(FOLDER)} here): bring the images "
            "back to continue these runs, or name another folder."
        )
    values = {key: (_decided(there, key), _decided(here, key)) for key in differing if key != "class_names"}
    words = ", ".join(f"{key} is {held!r} there and {asked!r} here" for key, (held, asked) in values.items())
    held = {key: value for key, (value, _) in values.items()}
    off = [key for key, value in held.items() if value is False]
    given = [word for key, value in held.items() if key not in off for word in flag(key, value)]
    left_out = [f"--{key}" for key in off]
    typed = [" ".join(["give", *given])] * bool(given) + [f"leave out {' and '.join(left_out)}"] * bool(left_out)
    known = all(hasattr(ExperimentConfig, key) for key in differing) and (asked is None or _allowed(asked, held))
    way = f"{' and '.join(typed)} to continue them, or name another folder" if known else "name another folder"
    return f"another configuration ({words}): {way}."


def _allowed(asked: ExperimentConfig, held: Row) -> bool:
    """Return whether settings stay allowed with the values of a record."""
    values: Row = {key: tuple(value) if isinstance(value, list) else value for key, value in held.items()}
    try:
        replace(asked, **values)
    except ConfigError:
        return False
    return True


def _decided(configuration: Row, key: str) -> Any:
    """Return the value of a field, which a record does not hold where it is the default."""
    default = getattr(RunConfig, key, None)
    return configuration.get(key, list(default) if isinstance(default, tuple) else default)


def write_images_folder(result_dir: Path, folder: str) -> None:
    """Keep where the images of all runs are; nothing for a data set with a name."""
    if folder:
        write_if_changed(result_dir / IMAGES, json.dumps({"folder": folder}).encode())


def images_folder(result_dir: Path) -> str:
    """Return where the images of a result folder's runs were last; nothing if that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((result_dir / IMAGES).read_bytes())["folder"])
    return ""


def result_folders(parent: Path) -> list[Path]:
    """Return the result folders in a folder."""
    return sorted(path.parent for path in parent.glob("*/runs") if run_folders(path.parent))


def run_folders(result_dir: Path, name: str = "*") -> list[Path]:
    """Return the folders of runs, of one curve or of all, by curve and repetition; others that lie there are not."""
    found = [path for path in (result_dir / "runs").glob(f"{name}/repetition_*") if _REPETITION.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.parent.name, _repetition(path)))


_REPETITION = re.compile(r"repetition_([0-9]+)")


def recorded_run(configuration: Row | None, rounds: int) -> RunConfig | None:
    """Return the run that a record's configuration describes, or None if this version does not know its fields."""
    if configuration is None:
        return None
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
    write_if_changed(result_dir / f"{name}-repetitions.npy", _npy(repetitions))
    write_if_changed(result_dir / f"{name}.npy", _npy(repetitions.mean(axis=0)))
    return repetitions


def finished_curves(result_dir: Path, name: str, rounds: int) -> dict[int, npt.NDArray[np.float64]]:
    """Return the test errors (rounds + 1,) of each repetition that has at least `rounds` rounds, by its number."""
    curves = {}
    for folder in run_folders(result_dir, name):
        record = read_record(folder)
        its = record.configuration is not None and _in_its_place(folder, record.configuration)
        if its and len(record.rounds) > rounds:
            curves[_repetition(folder)] = np.array([round_.test_error for round_ in record.rounds])
    # Repetitions may have been extended one after the other: their common length is what can be averaged.
    length = min((len(curve) for curve in curves.values()), default=0)
    return {repetition: curve[:length] for repetition, curve in curves.items()}


def _repetition(folder: Path) -> int:
    return int(folder.name.removeprefix("repetition_"))


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
