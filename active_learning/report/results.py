"""A result folder as it is read for a report: its arms, what is missing, what cannot be read. Writes nothing."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.disk.record import Row
from active_learning.disk.store import result_folders
from active_learning.report.records import METRICS, Run, cause, check_array, read_run, visible
from active_learning.settings.config import ARM_FIELDS, OWN_FIELDS, RunConfig, no_values
from active_learning.settings.learners import LEARNERS, recorded_learner
from active_learning.terminal import PROGRAM

__all__ = ["METRICS", "Arm", "NoResultsError", "Results", "Run", "read_results"]

Curves = npt.NDArray[np.float64]

# At its default, such a field is in no record (see `RunConfig.identity`).
_DEFAULTS = {entry.name: entry.default for entry in fields(RunConfig) if entry.default is not MISSING}


class NoResultsError(Exception):
    """There is nothing to report: one sentence that says where it was looked for."""


@dataclass(frozen=True)
class Arm:
    """All repetitions of an acquisition function in one configuration; a curve in every figure.

    Attributes:
        name: as its files are called.
        variant: which of the folder's configurations, from 0 (almost always the only one).
        suffix: what tells that configuration from the first, for labels.
        runs: its repetitions, by number.
        rounds: acquisition rounds of the longest run of its configuration, its own or another arm's.
    """

    name: str
    variant: int
    suffix: str
    runs: tuple[Run, ...]
    rounds: int

    @property
    def whole(self) -> tuple[Run, ...]:
        """The runs that have come as far as the longest; only these have an end to speak of."""
        return tuple(run for run in self.runs if run.rounds == self.rounds)

    @property
    def acquisition(self) -> str:
        """The acquisition function's name in the registry."""
        return str(self.runs[0].configuration.get("acquisition", visible(self.name.partition("-MC_dropout=")[0])))

    @property
    def learner(self) -> str:
        """The learner's name in the registry."""
        return recorded_learner(self.runs[0].configuration)

    @property
    def deterministic(self) -> bool:
        """Whether the network was used with dropout off: the arms that experiment 2 adds."""
        return self.learner == "deterministic"

    @property
    def label(self) -> str:
        """What tables and figures call it: `BALD`, or `BALD, deterministic`.

        A network that is trained on the images of a field, which classifies too, is said to be one.
        """
        function, kind = ACQUISITION_FUNCTIONS.get(self.acquisition), LEARNERS.get(self.learner)
        label = function.label if function else self.acquisition
        if function and kind and "field" in function.needs and "probabilities" in kind.gives:
            label = f"{label}'s images, CNN"
        return ", ".join(filter(None, [label, kind.label if kind else self.learner])) + self.suffix

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits that its runs name, shortened; a + says that the checkout had changes."""
        return tuple(dict.fromkeys(commit for run in self.runs for commit in run.commits))

    @cached_property
    def acquired_r(self) -> npt.NDArray[np.int64]:
        """Images acquired after each round of its longest repetition."""
        return max(self.runs, key=lambda run: run.rounds).acquired_r

    def curves(self, metric: str = "test_error") -> Curves:
        """Return a metric of each repetition (E, R); NaN after a repetition's last round."""
        curves_er = np.full((len(self.runs), len(self.acquired_r)), np.nan)
        for curve_r, run in zip(curves_er, self.runs, strict=True):
            values = [getattr(row, metric) for row in run.rows]
            curve_r[: len(values)] = [np.nan if value is None else value for value in values]
        return curves_er


@dataclass(frozen=True)
class Results:
    """What a result folder holds.

    Attributes:
        path: the folder.
        arms: in the order of the acquisition functions' registry, the first configuration first; no two of one label.
        missing: sentences that name what is not there.
        unreadable: sentences that name files that cannot be read or that contradict the records.
        digest: sha256 of all that was read, which says whether a report is up to date.
    """

    path: Path
    arms: tuple[Arm, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    digest: str

    @property
    def way_out(self) -> str:
        """A sentence on what mends files that cannot be trusted; nothing where there are none."""
        return way_out(self.path, self.runs) if self.unreadable else ""

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, arm by arm."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits that the runs name, shortened."""
        return tuple(dict.fromkeys(commit for arm in self.arms for commit in arm.commits))

    def select(self, wanted: Iterable[tuple[str, int]], rounds: int) -> "Results":
        """Return only the runs of these (name, repetition) pairs, cut after `rounds`."""
        pairs = set(wanted)
        arms = []
        for arm in self.arms:
            runs = tuple(run.first(rounds) for run in arm.runs if (run.name, run.repetition) in pairs)
            if runs:
                arms.append(replace(arm, runs=runs))
        return replace(self, arms=_with_rounds(arms))


def of_earlier_version(runs: Iterable[Run]) -> bool:
    """Return whether some runs are of a version whose training no setting brings back."""
    return any(not run.configuration.get("equal_batches") for run in runs)


def way_out(result_dir: Path, runs: Iterable[Run]) -> str:
    """Say what mends files of a result folder that cannot be trusted."""
    if of_earlier_version(runs):
        return "The way out: put a copy of these files back; the runs are of an earlier version, and are not continued."
    return (
        f"The way out: the {PROGRAM} command of these runs, given again with --result_dir "
        f"{shlex.quote(visible(str(result_dir)))}, keeps a damaged file as *.damaged, computes anew what is lost, and "
        "goes on; what it cannot read it names."
    )


def read_results(result_dir: Path) -> Results:
    """Read every run of a result folder.

    Raises:
        NoResultsError: if there is no readable run.
        OSError: if the folder cannot be read.
    """
    runs, unreadable, missing, digest = [], [], [], hashlib.sha256()
    if (result_dir / "runs").is_dir():
        os.scandir(result_dir / "runs").close()  # what may not be read looks empty below
    for path in sorted(result_dir.glob("runs/*/repetition_*/metrics.jsonl"), key=_natural):
        run, faults, absent = read_run(result_dir, path)
        unreadable += faults
        missing += absent
        if run is not None:
            runs.append(run)
            digest.update(path.read_bytes())
    if not runs:
        inside = result_folders(result_dir)
        such = f", as {inside[0]} has" if inside else ""
        words = [f"A result folder has runs/NAME/repetition_0/metrics.jsonl{such}."]
        words = [*unreadable, way_out(result_dir, runs)] if unreadable else words
        raise NoResultsError(visible(f"{result_dir} holds no run that can be reported. {' '.join(words)}"))
    arms = _arms(runs)
    unreadable += _curve_faults(result_dir, arms)
    missing = [*_missing(result_dir, arms), *missing]
    return Results(result_dir, arms, tuple(visible(missing)), tuple(visible(unreadable)), digest.hexdigest())


def _natural(path: Path) -> tuple[str, int]:
    number = path.parent.name.removeprefix("repetition_")
    return path.parent.parent.name, int(number) if number.isdecimal() else -1


def _arms(runs: Sequence[Run]) -> tuple[Arm, ...]:
    """Group runs by configuration, then by name; the configuration with most runs comes first."""
    variants = sorted(_grouped(runs, _shared), key=len, reverse=True)
    arms: list[Arm] = []
    for number, variant in enumerate(variants):
        for name in sorted({run.name for run in variant}, key=_registry_order):
            for group in _grouped([run for run in variant if run.name == name], _own):
                first = next((arm.runs[0] for arm in arms if (arm.name, arm.variant) == (name, number)), group[0])
                suffix = _differences(_shared(group[0]), _shared(variants[0][0]))
                suffix += _differences(_own(group[0]), _own(first))
                arms.append(Arm(name, number, suffix, tuple(sorted(group, key=lambda run: run.repetition)), 0))
    return _with_rounds(_told_apart(arms))


def _grouped(runs: Sequence[Run], key: Any) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return list(groups.values())


def _shared(run: Run) -> Row:
    """Return the fields that all arms of an experiment have in common, also those that were left at their defaults."""
    return {key: value for key, value in {**_DEFAULTS, **run.configuration}.items() if key not in ARM_FIELDS}


def _own(run: Run) -> Row:
    """Return the fields that one arm's repetitions have in common, and no other arm reads."""
    return {key: value for key, value in {**_DEFAULTS, **run.configuration}.items() if key in OWN_FIELDS}


def _differences(values: Row, others: Row) -> str:
    """Return what tells a configuration from another, for labels: `, val_size=50, classes=all`."""
    keys = [key for key in {**others, **values} if values.get(key) != others.get(key)]
    words = {key: values.get(key, "not recorded") for key in keys}
    return "".join(
        f", {key}={' '.join(map(str, value)) or no_values(key) if isinstance(value, list | tuple) else value}"
        for key, value in words.items()
    )


def _told_apart(arms: Sequence[Arm]) -> list[Arm]:
    """Number arms that would have the same label, under which their numbers would be mixed up."""
    unique: dict[str, Arm] = {}
    for arm in arms:
        number, named = 1, arm
        while named.label in unique:
            number += 1
            named = replace(arm, suffix=f"{arm.suffix} #{number}")
        unique[named.label] = named
    return list(unique.values())


def _with_rounds(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    rounds = {arm.variant: 0 for arm in arms}
    for arm in arms:
        rounds[arm.variant] = max(rounds[arm.variant], *(run.rounds for run in arm.runs))
    return tuple(replace(arm, rounds=rounds[arm.variant]) for arm in arms)


def _registry_order(name: str) -> tuple[int, int, str]:
    acquisition, _, suffix = name.partition("-")
    return _place(suffix, [kind.suffix for kind in LEARNERS.values()]), _place(acquisition, ACQUISITION_FUNCTIONS), name


def _place(name: str, known: Iterable[str]) -> int:
    """Return where a name stands among those known; all others stand behind them."""
    known = list(known)
    return known.index(name) if name in known else len(known)


def _missing(result_dir: Path, arms: Sequence[Arm]) -> list[str]:
    """Name repetitions and rounds that are not there, failures, curves without a file, and mixed configurations."""
    there = {(run.name, run.repetition) for arm in arms for run in arm.runs}
    sentences = []
    for variant in dict.fromkeys(arm.variant for arm in arms):
        group = [arm for arm in arms if arm.variant == variant]
        last = max(run.repetition for arm in group for run in arm.runs)
        for arm in group:
            absent = [number for number in range(last + 1) if (arm.name, number) not in there]
            sentences += [f"{arm.label}: {_repetitions(absent)} missing."] if absent else []
            sentences += [
                f"{arm.label}, repetition {run.repetition}: {run.rounds} of {arm.rounds} rounds are there"
                + (f" (its last try failed: {run.failure})." if run.failure else ".")
                for run in arm.runs
                if run not in arm.whole
            ]
        if variant:
            sentences.append(f"The folder mixes configurations: some runs have {group[0].suffix.lstrip(', ')}.")
    sentences += [sentence for arm in arms if arm.whole for sentence in _missing_curves(result_dir, arm.name)]
    for path in sorted(result_dir.glob("runs/*/repetition_*")):
        if not (path / "metrics.jsonl").exists():
            sentences.append(f"{path.relative_to(result_dir)} holds no round yet.")
    return list(dict.fromkeys(sentences))


def _repetitions(numbers: Sequence[int]) -> str:
    words = ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
    return f"repetition{'s' * (len(numbers) > 1)} {words} {'are' if len(numbers) > 1 else 'is'}"


def _missing_curves(result_dir: Path, name: str) -> list[str]:
    names = [f"{name}.npy", f"{name}-repetitions.npy"]
    return [f"{file} is missing." for file in names if not (result_dir / file).exists()]


def _curve_faults(result_dir: Path, arms: Sequence[Arm]) -> list[str]:
    """Check that every curve file is readable and holds what the records say."""
    faults: list[str] = []
    for name in dict.fromkeys(arm.name for arm in arms):
        path, mean_r = result_dir / f"{name}-repetitions.npy", np.zeros(0)
        try:
            stored_er = np.load(path, allow_pickle=False)
            recorded = [curve_r for arm in arms if arm.name == name for curve_r in arm.curves()]
            agree = len(stored_er) > 0 and all(
                any(np.array_equal(stored_r, curve_r[: len(stored_r)]) for curve_r in recorded)
                for stored_r in stored_er
            )
            if agree:
                mean_r = stored_er.mean(axis=0)
            else:
                faults.append(f"{path.name} does not hold what the records of its runs say.")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, EOFError) as error:
            faults.append(f"{path.name} cannot be read ({cause(error)}).")
        check_array(result_dir / f"{name}.npy", mean_r.tolist(), faults, f"{name}.npy")
    return faults
