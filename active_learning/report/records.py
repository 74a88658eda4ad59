"""One run's files as they are read for a report: the record, and whether every other file is there and agrees with it.

Whoever wrote the files, what leaves this module has the types and the lengths that the store's docstring promises, and
no text of it holds a character that a terminal would obey.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from active_learning.disk.files import refusal
from active_learning.disk.record import MOST_CLASSES, Round, Row, class_count, read_record, read_sealed, read_seconds
from active_learning.disk.store import images_folder
from active_learning.settings.config import FOLDER, RunConfig
from load_data import DATASETS

Array = npt.NDArray[Any]

METRICS = ("test_error", "test_nll", "test_ece")

_TYPES = {entry.name: entry.type for entry in fields(RunConfig) if entry.type in (int, str, bool)}
_DAMAGE = (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError)
"""What reading a file of any content can raise."""


@dataclass(frozen=True)
class Run:
    """One repetition of one arm, with its whole rounds in order.

    Attributes:
        path: its folder, relative to the result folder.
        configuration: what decided its numbers, as recorded.
        rows: one a round; row 0 is the initial fit.
        seconds: seconds by phase, one row a round; may be shorter.
        sessions: versions, commit and processor of each session that worked on it.
        failure: why its last try ended, if it failed.
        counts_kept_images: whether its indices and labels count the images that `classes` kept, as earlier versions
            did, and not those of the data set.
        images: where the images were last, of a data set that is a folder of images.
    """

    path: Path
    configuration: Row
    rows: tuple[Round, ...]
    seconds: tuple[Row, ...]
    sessions: tuple[Row, ...]
    failure: str | None
    counts_kept_images: bool = False
    images: str = ""

    @property
    def name(self) -> str:
        """The name that its arm's files bear: `bald-MC_dropout=True`."""
        return self.path.parent.name

    @property
    def repetition(self) -> int:
        """The number of the repetition."""
        return int(self.configuration["repetition"])

    @property
    def rounds(self) -> int:
        """Acquisition rounds it has come to."""
        return len(self.rows) - 1

    def first(self, rounds: int) -> "Run":
        """Return the run as it was after so many rounds."""
        return replace(self, rows=self.rows[: rounds + 1], seconds=self.seconds[: rounds + 1])

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits of its sessions, shortened; a + behind one says that the checkout had changes."""
        named = (str(session.get("commit") or "") for session in self.sessions)
        return tuple(dict.fromkeys(commit[:7] + "+" * commit.endswith("+") for commit in named if commit))

    @property
    def processors(self) -> tuple[str, ...]:
        """The kinds of processor of its sessions, as far as they are known."""
        return tuple(dict.fromkeys(str(named) for session in self.sessions if (named := session.get("processor"))))

    @property
    def acquired_r(self) -> npt.NDArray[np.int64]:
        """Images acquired after each round, the initial ones not counted."""
        labelled_r = np.array([row.labelled for row in self.rows], dtype=np.int64)
        return np.asarray(labelled_r - labelled_r[0])

    @property
    def labels(self) -> list[int]:
        """The classes of all acquired images, in order; of a reduced data set, 0 is its first class."""
        classes = self.configuration.get("classes")
        labels = [label for row in self.rows for label in row.acquired_labels]
        return [classes.index(label) for label in labels] if classes and not self.counts_kept_images else labels

    @property
    def class_count(self) -> int:
        """How many classes its data set has, as far as can be told."""
        return class_count(self.configuration) or 1 + max(self.labels, default=0)

    def class_name(self, class_: int) -> str:
        """Return what the whole data set calls one of the classes that `labels` counts."""
        classes = self.configuration.get("classes")
        return self.label_name(int(classes[class_] if classes else class_))

    def label_name(self, label: int) -> str:
        """Return what the whole data set calls a label: its name, or the number of a class without one."""
        spec = DATASETS.get(str(self.configuration.get("dataset")))
        names = self.configuration.get("class_names") or (spec.class_names if spec else ())
        return str(names[label]) if label < len(names) else str(label)

    @property
    def dataset(self) -> str:
        """What `--dataset` takes to name its images, as far as that is known."""
        name = str(self.configuration.get("dataset", ""))
        return f"{FOLDER}{self.images or 'PATH'}" if name.startswith(FOLDER) else name


def visible(value: Any) -> Any:
    r"""Return JSON content in whose texts no control character is left, of a terminal or of any other kind.

    >>> visible({"name": ["a\x1b[31m\n"]})
    {'name': ['a�[31m�']}
    """
    if isinstance(value, str):
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)
    if isinstance(value, dict):
        return {visible(key): visible(entry) for key, entry in value.items()}
    return [visible(entry) for entry in value] if isinstance(value, list) else value


def read_run(result_dir: Path, path: Path) -> tuple[Run | None, list[str], list[str]]:
    """Read one run.

    Args:
        result_dir: the result folder.
        path: the run's metrics.jsonl.

    Returns:
        The run, if a whole round is there; sentences on files that cannot be trusted; sentences on missing ones.
    """
    folder, name = path.parent, path.parent.relative_to(result_dir)
    faults: list[str] = []
    try:
        record = read_record(folder)
        configuration = visible(record.configuration)
        if configuration is not None:
            _check_configuration(configuration, folder)
    except _DAMAGE as error:
        return None, [f"{name}/metrics.jsonl cannot be read ({_words(error)})."], []
    if not record.whole:
        what = f"cannot be read to its end ({visible(record.fault)})" if record.fault else "is damaged"
        kept = _first(len(record.rounds)) if record.rounds else "nothing of it can be used"
        faults.append(f"{name}/metrics.jsonl {what}: {kept}.")
    if configuration is None or not record.rounds:
        return None, faults, []
    seconds = _read(folder / "seconds.jsonl", _seconds, name, faults) or []
    sessions = _read(folder / "provenance.json", _sessions, name, faults) or []
    failure = _read(folder / "failure.json", _failure, name, faults)
    of_rounds = tuple(seconds[: len(record.rounds)]), tuple(sessions), failure
    run = Run(name, configuration, record.rounds, *of_rounds, record.counts_kept_images, images_folder(result_dir))
    _check_arrays(run, folder, faults)
    return run, faults, _missing_files(run, folder)


def check_array(path: Path, expected: Sequence[Any], faults: list[str], where: str) -> None:
    """Add a sentence if an array file cannot be read, or does not hold what was recorded.

    A round is recorded first: in the meantime of a run that is going, an array may lack the last one.
    """
    try:
        stored: Array = np.load(path, allow_pickle=False)
        common = min(len(stored), len(expected))
        agrees = len(stored) >= len(expected) - 1 and np.array_equal(stored[:common], np.array(expected[:common]))
    except FileNotFoundError:
        return
    except (*_DAMAGE, EOFError) as error:
        faults.append(f"{where} cannot be read ({cause(error)}).")
        return
    if not agrees:
        faults.append(f"{where} does not hold what the record says.")


def _check_arrays(run: Run, folder: Path, faults: list[str]) -> None:
    acquired = [row.acquired_train_index for row in run.rows[1:]]
    check_array(folder / "acquired.npy", acquired, faults, f"{run.path}/acquired.npy")
    errors = [row.test_error for row in run.rows]
    check_array(folder / "test_error.npy", errors, faults, f"{run.path}/test_error.npy")
    weights, digest = _weights_name(run), run.rows[-1].weights_sha256
    try:
        if digest is not None and hashlib.sha256((folder / weights).read_bytes()).hexdigest() != digest:
            faults.append(f"{run.path}/{weights} does not hold what the record says.")
    except FileNotFoundError:
        pass
    except OSError as error:
        faults.append(f"{run.path}/{weights} cannot be read ({cause(error)}).")


def _missing_files(run: Run, folder: Path) -> list[str]:
    names = ["acquired.npy", "test_error.npy", "seconds.jsonl", "provenance.json"]
    names += [_weights_name(run)] if run.rows[-1].weights_sha256 is not None else []
    absent = [name for name in names if not (folder / name).exists()]
    return [f"{run.path} has no {' and no '.join(absent)}."] if absent else []


def _weights_name(run: Run) -> str:
    return f"weights-{run.rounds}.safetensors"


def _check_configuration(configuration: Row, folder: Path) -> None:
    """Raise what a report would stumble over later: a field that is not there, or not of its type.

    Raises:
        ValueError: saying which field.
    """
    for key in ("repetition", *(key for key in configuration if key in _TYPES)):
        if type(configuration[key]) is not _TYPES[key] or (_TYPES[key] is int and configuration[key] < 0):
            raise ValueError(f"{key} is {configuration[key]!r}")
    if configuration["repetition"] != int(folder.name.removeprefix("repetition_")):
        raise ValueError(f"the record is of repetition {configuration['repetition']}")
    classes = configuration.get("classes", [])
    if not isinstance(classes, list) or not all(_is_index(label, MOST_CLASSES) for label in classes):
        raise ValueError(f"classes is {classes!r}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes is {classes!r}, some of them twice")
    if not all(isinstance(name, str) for name in configuration.get("class_names", [])):
        raise ValueError(f"class_names is {configuration['class_names']!r}")
    for key in ("classifier", "learner"):
        if not isinstance(configuration.get(key, ""), str):
            raise ValueError(f"{key} is {configuration[key]!r}")


def _read(path: Path, parse: Any, name: Path, faults: list[str]) -> Any:
    """Return what `parse` makes of a file, or None if there is no file; a damaged one is complained about."""
    if not path.exists():
        return None
    try:
        return visible(parse(path))
    except _DAMAGE as error:
        faults.append(f"{name}/{path.name} is damaged ({_words(error)}).")
        return None


def _seconds(path: Path) -> list[Row]:
    rows, whole = read_seconds(path.parent)
    if not whole:
        raise ValueError("its lines are not those that were written")
    for row in rows:
        if not all(_is_number(value) and value >= 0 for value in row.values()):
            raise ValueError("its values are not all seconds")
    return rows


def _sessions(path: Path) -> list[Row]:
    content = read_sealed(path, {"sessions"})
    if content is None:
        raise ValueError("its content is not what was written")
    sessions: list[Row] = content["sessions"]
    for session in sessions:
        words = [session.get(key) for key in ("started", "commit", "processor", "engine", "python")]
        words += session.get("versions", {}).values()
        if not all(word is None or isinstance(word, str) for word in words):
            raise ValueError("a session's values are not words")
    return sessions


def _failure(path: Path) -> str:
    content = read_sealed(path, {"round", "reason"})
    if content is None or not isinstance(content["reason"], str):
        raise ValueError("its content is not what was written")
    return str(content["reason"])


def _is_index(value: object, limit: float = 2**63) -> bool:
    return type(value) is int and 0 <= value < limit


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def cause(error: BaseException) -> str:
    """Return what the system refused, or that a file holds something else."""
    return refusal(error) if isinstance(error, OSError) else "it is no array that was written here"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return refusal(error)
    return str(error) if type(error) is ValueError and str(error) else "it holds something else than was written"


def _first(rounds: int) -> str:
    return "its first round is used" if rounds == 1 else f"its first {rounds} rounds are used"
