"""A result folder as it is read for a report: its runs, what is missing, what cannot be read. Writes nothing."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.config import ARM_FIELDS
from active_learning.store import read_chain, read_sealed

Row = dict[str, Any]
Curves = npt.NDArray[np.float64]

METRICS = ("test_error", "test_nll", "test_ece")


class NoResultsError(Exception):
    """There is nothing to report: one sentence that says where it was looked for."""


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
    """

    path: Path
    configuration: Row
    rows: tuple[Row, ...]
    seconds: tuple[Row, ...]
    sessions: tuple[Row, ...]
    failure: str | None

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

    @property
    def acquired_r(self) -> npt.NDArray[np.int64]:
        """Images acquired after each round, the initial ones not counted."""
        labelled_r = np.array([row["labelled"] for row in self.rows], dtype=np.int64)
        return np.asarray(labelled_r - labelled_r[0])

    @property
    def labels(self) -> list[int]:
        """The labels of all acquired images, in order; of a reduced data set, 0 is its first class."""
        return [label for row in self.rows for label in row["acquired_labels"]]

    def class_name(self, label: int) -> str:
        """Return what the whole data set calls the class that this run calls `label`."""
        classes = self.configuration.get("classes")
        return str(classes[label] if classes else label)


@dataclass(frozen=True)
class Arm:
    """All repetitions of an acquisition function in one configuration; a curve in every figure.

    Attributes:
        name: as its files are called.
        variant: which of the folder's configurations, from 0 (almost always the only one).
        suffix: what tells that configuration from the first, for labels.
        runs: its repetitions, by number.
    """

    name: str
    variant: int
    suffix: str
    runs: tuple[Run, ...]

    @property
    def acquisition(self) -> str:
        """The acquisition function's name in the registry."""
        return str(self.runs[0].configuration.get("acquisition", self.name.partition("-MC_dropout=")[0]))

    @property
    def classifier(self) -> str:
        """What was tested: `cnn`, or `field` for the Gaussian random field of Minimum Bayes Risk."""
        return str(self.runs[0].configuration.get("classifier", "cnn"))

    @property
    def deterministic(self) -> bool:
        """Whether the network was used with dropout off: the arms that experiment 2 adds."""
        return self.classifier == "cnn" and not self.runs[0].configuration.get("mc_dropout", True)

    @property
    def label(self) -> str:
        """What tables and figures call it: `BALD`, or `BALD, deterministic`."""
        if self.acquisition == "mbr":
            return ("MBR" if self.classifier == "field" else "MBR's images, CNN") + self.suffix
        function = ACQUISITION_FUNCTIONS.get(self.acquisition)
        label = function.label if function else self.acquisition
        return label + (", deterministic" if self.deterministic else "") + self.suffix

    @cached_property
    def acquired_r(self) -> npt.NDArray[np.int64]:
        """Images acquired after each round of its longest repetition."""
        return max(self.runs, key=lambda run: run.rounds).acquired_r

    def curves(self, metric: str = "test_error") -> Curves:
        """Return a metric of each repetition (E, R); NaN after a repetition's last round."""
        curves_er = np.full((len(self.runs), len(self.acquired_r)), np.nan)
        for curve_r, run in zip(curves_er, self.runs, strict=True):
            values = [row.get(metric) for row in run.rows]
            curve_r[: len(values)] = [np.nan if value is None else value for value in values]
        return curves_er


@dataclass(frozen=True)
class Results:
    """What a result folder holds.

    Attributes:
        path: the folder.
        arms: in the order of the acquisition functions' registry, the first configuration first.
        missing: sentences that name what is not there.
        unreadable: sentences that name damaged files.
        digest: sha256 of all that was read, which says whether a report is up to date.
    """

    path: Path
    arms: tuple[Arm, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    digest: str

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, arm by arm."""
        return tuple(run for arm in self.arms for run in arm.runs)

    def select(self, wanted: Iterable[tuple[str, int]], rounds: int) -> "Results":
        """Return only the runs of these (name, repetition) pairs, cut after `rounds`."""
        pairs = set(wanted)
        arms = []
        for arm in self.arms:
            runs = tuple(_cut(run, rounds) for run in arm.runs if (run.name, run.repetition) in pairs)
            if runs:
                arms.append(Arm(arm.name, arm.variant, arm.suffix, runs))
        return Results(self.path, tuple(arms), self.missing, self.unreadable, self.digest)


def read_results(result_dir: Path) -> Results:
    """Read every run of a result folder.

    Raises:
        NoResultsError: if there is no readable run.
    """
    runs, unreadable, digest = [], [], hashlib.sha256()
    for path in sorted(result_dir.glob("runs/*/repetition_*/metrics.jsonl"), key=_natural):
        run, complaints = _read_run(result_dir, path)
        unreadable += complaints
        if run is not None:
            runs.append(run)
            digest.update(path.read_bytes())
    if not runs:
        words = " ".join(unreadable) or "A result folder has runs/NAME/repetition_0/metrics.jsonl."
        raise NoResultsError(f"{result_dir} holds no run that can be reported. {words}")
    arms = _arms(runs)
    unreadable += _curve_complaints(result_dir, arms)
    return Results(result_dir, arms, tuple(_missing(result_dir, arms)), tuple(unreadable), digest.hexdigest())


def _natural(path: Path) -> tuple[str, int]:
    number = path.parent.name.removeprefix("repetition_")
    return path.parent.parent.name, int(number) if number.isdigit() else -1


def _read_run(result_dir: Path, path: Path) -> tuple[Run | None, list[str]]:
    """Read one run; return it, if a whole round is there, and what is wrong with its files."""
    folder = path.parent
    try:
        header, rows, whole = read_chain(path)
        _check_rows(header, rows)
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        return None, [f"{path.relative_to(result_dir)} cannot be read ({type(error).__name__}: {error})."]
    complaints = []
    if not whole:
        kept = f"its first {len(rows)} rows are used" if rows else "nothing of it can be used"
        complaints.append(f"{path.relative_to(result_dir)} is damaged: {kept}.")
    if header is None or not rows:
        return None, complaints
    provenance = _read_object(folder / "provenance.json", "sessions", complaints, result_dir)
    failure = _read_object(folder / "failure.json", "reason", complaints, result_dir)
    try:
        _, seconds, whole = read_chain(folder / "seconds.jsonl")
    except OSError:
        seconds, whole = [], False
    if not whole:
        complaints.append(f"{(folder / 'seconds.jsonl').relative_to(result_dir)} is damaged.")
    sessions = provenance.get("sessions", [])
    run = Run(
        path=folder.relative_to(result_dir),
        configuration=header["configuration"],
        rows=tuple(rows),
        seconds=tuple(seconds[: len(rows)]),
        sessions=tuple(session for session in sessions if isinstance(session, dict)),
        failure=str(failure["reason"]) if "reason" in failure else None,
    )
    return run, complaints


def _check_rows(header: Row | None, rows: Sequence[Row]) -> None:
    """Raise what a report would stumble over later: a value that is not there, or not a number."""
    if header is not None:
        int(header["configuration"]["repetition"])
    for row in rows:
        numbers = [row["labelled"], *row["acquired_labels"], *row["acquired_scores"], *row["acquired_train_index"]]
        numbers += [row["test_error"], *(row[metric] for metric in METRICS if row.get(metric) is not None)]
        if not np.isfinite(np.array(numbers, dtype=np.float64)).all():
            raise ValueError("a value is not finite")


def _read_object(path: Path, key: str, complaints: list[str], result_dir: Path) -> Row:
    """Return a sealed object, or an empty one if there is no file; a damaged one is complained about."""
    if not path.exists():
        return {}
    value = read_sealed(path, {"round", "reason"} if key == "reason" else {key})
    if value is None or key not in value:
        complaints.append(f"{path.relative_to(result_dir)} is damaged.")
        return {}
    return value


def _arms(runs: Sequence[Run]) -> tuple[Arm, ...]:
    """Group runs by configuration, then by name; the configuration with most runs comes first."""
    variants: dict[str, list[Run]] = {}
    for run in runs:
        variants.setdefault(json.dumps(_shared(run), sort_keys=True), []).append(run)
    ordered = sorted(variants.values(), key=len, reverse=True)
    arms = []
    for number, group in enumerate(ordered):
        differing = {key: value for key, value in _shared(group[0]).items() if _shared(ordered[0][0]).get(key) != value}
        suffix = "".join(f", {key}={value}" for key, value in differing.items())
        for name in sorted({run.name for run in group}, key=_registry_order):
            members = sorted((run for run in group if run.name == name), key=lambda run: run.repetition)
            arms.append(Arm(name, number, suffix, tuple(members)))
    return tuple(arms)


def _shared(run: Run) -> Row:
    """Return the fields that all arms of an experiment have in common."""
    return {key: value for key, value in run.configuration.items() if key not in ARM_FIELDS}


def _registry_order(name: str) -> tuple[bool, int, str]:
    acquisition, _, dropout = name.partition("-MC_dropout=")
    known = list(ACQUISITION_FUNCTIONS)
    return dropout == "False", known.index(acquisition) if acquisition in known else len(known), name


def _missing(result_dir: Path, arms: Sequence[Arm]) -> list[str]:
    """Name repetitions that other arms have, rounds that other runs have, failures, and mixed configurations."""
    sentences = []
    for variant in dict.fromkeys(arm.variant for arm in arms):
        group = [arm for arm in arms if arm.variant == variant]
        repetitions = sorted({run.repetition for arm in group for run in arm.runs})
        longest = max(run.rounds for arm in group for run in arm.runs)
        for arm in group:
            absent = [number for number in repetitions if number not in {run.repetition for run in arm.runs}]
            sentences += [f"{arm.label}: repetition {number} is missing." for number in absent]
            sentences += [
                f"{arm.label}, repetition {run.repetition}: {run.rounds} of {longest} rounds are there"
                + (f" (its last try failed: {run.failure})." if run.failure else ".")
                for run in arm.runs
                if run.rounds < longest
            ]
        if variant:
            sentences.append(f"The folder mixes configurations: some runs have {group[0].suffix.lstrip(', ')}.")
    found = {run.path for arm in arms for run in arm.runs}
    for path in sorted(result_dir.glob("runs/*/repetition_*")):
        if path.relative_to(result_dir) not in found and not (path / "metrics.jsonl").exists():
            sentences.append(f"{path.relative_to(result_dir)} holds no round yet.")
    return sentences


def _curve_complaints(result_dir: Path, arms: Sequence[Arm]) -> list[str]:
    """Check that every curve file is readable and holds what the records say."""
    complaints = []
    for name in dict.fromkeys(arm.name for arm in arms):
        path = result_dir / f"{name}-repetitions.npy"
        if not path.exists():
            continue
        try:
            stored_er = np.load(path, allow_pickle=False)
            recorded = [curve_r for arm in arms if arm.name == name for curve_r in arm.curves()]
            agree = all(
                any(np.array_equal(stored_r, curve_r[: len(stored_r)]) for curve_r in recorded)
                for stored_r in stored_er
            )
        except (OSError, ValueError, TypeError, EOFError) as error:
            complaints.append(f"{path.name} cannot be read ({type(error).__name__}).")
            continue
        if not agree:
            complaints.append(f"{path.name} does not hold what the records of its runs say.")
    return complaints


def _cut(run: Run, rounds: int) -> Run:
    return Run(
        run.path, run.configuration, run.rows[: rounds + 1], run.seconds[: rounds + 1], run.sessions, run.failure
    )
