"""From settings to runs, and from recorded runs to the command line that asks for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import chain, product
from types import MappingProxyType
from typing import Any, Literal

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.settings.config import (
    ARM_FIELDS,
    OWN_FIELDS,
    ExperimentConfig,
    RunConfig,
    arms_of,
    no_values,
    own_fields,
)
from active_learning.settings.learners import LEARNERS, recorded_learner
from active_learning.terminal import COMMAND


def planned_runs(
    config: ExperimentConfig,
    precision: Literal["float32", "bfloat16"],
    device: Literal["cpu", "cuda", "mps"],
    images: Mapping[str, Any] = MappingProxyType({}),
) -> list[RunConfig]:
    """Return the runs of an experiment, repetition by repetition, so that whole comparisons are finished first.

    Args:
        config: the experiment.
        precision: what `config.precision` comes to on this machine.
        device: what `config.device` comes to.
        images: of a folder of images, the fields that say which they are.
    """
    names = {field.name for field in fields(RunConfig)} & {field.name for field in fields(ExperimentConfig)}
    shared: dict[str, Any] = {name: getattr(config, name) for name in names - {"learner", *OWN_FIELDS}}
    shared |= {"precision": precision, "device": device, "equal_batches": True, **images}
    return [
        RunConfig(**shared, **_arm(config, *arm), repetition=repetition)
        for repetition in range(config.experiments)
        for arm in config.arms
    ]


def _arm(config: ExperimentConfig, acquisition: str, learner: str) -> dict[str, Any]:
    """Return what is an arm's own."""
    own = {name: getattr(config, name) for name in own_fields(acquisition, learner)}
    return {"acquisition": acquisition, "learner": learner, **own}


def commands(
    shared: Mapping[str, Any], arms: Sequence[Mapping[str, Any]], rounds: int, repetitions: int
) -> list[list[str]]:
    """Return the words that compute recorded runs anew, in a folder of their own: the inverse of `planned_runs`.

    Args:
        shared: the recorded configuration of one of the runs.
        arms: that of a run of each arm.
        rounds: how many.
        repetitions: how many.

    Returns:
        One command where one can ask for these arms and for no others, else one for each learner.
    """
    known = {entry.name: entry.default for entry in fields(ExperimentConfig)}
    # What a record does not hold is at the default of a run, which may not be that of the flag.
    unwritten = {key: getattr(RunConfig, key, known[key]) for key in known if key not in shared}
    values = {**shared, **{key: value for key, value in unwritten.items() if value != known[key]}}
    values = {key: value for key, value in values.items() if key in known and key not in ARM_FIELDS}
    words = [*COMMAND, *(word for key, value in values.items() for word in flag(key, value))]
    words += ["--rounds", str(rounds), "--experiments", str(repetitions)]
    return [[*words, *told, "--result_dir", "result_again"] for told in _told(arms)]


def _told(arms: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return what each command says of the arms."""
    pairs = [(str(arm["acquisition"]), recorded_learner(arm)) for arm in arms]
    own = [_own(arm, *pair) for arm, pair in zip(arms, pairs, strict=True)]
    alike = len({key for key, _ in chain(*own)}) == len(set(chain(*own)))  # each field has one value in all arms
    if alike and (flags := arm_flags(pairs)):
        return [[*flags, *_own_flags(own)]]
    groups: dict[object, list[int]] = {}
    for place, (_, learner) in enumerate(pairs):
        groups.setdefault((learner, () if alike else own[place]), []).append(place)
    return [
        [*(arm_flags([pairs[place] for place in group]) or []), *_own_flags([own[place] for place in group])]
        for group in groups.values()
    ]


def _own(arm: Mapping[str, Any], acquisition: str, learner: str) -> tuple[tuple[str, Any], ...]:
    """Return an arm's own fields; its record holds those that are not at their defaults."""
    if acquisition not in ACQUISITION_FUNCTIONS or learner not in LEARNERS:  # of another version
        return ()
    return tuple((key, arm.get(key, getattr(RunConfig, key))) for key in own_fields(acquisition, learner))


def _own_flags(own: Iterable[tuple[tuple[str, Any], ...]]) -> list[str]:
    told = dict.fromkeys(entry for entries in own for entry in entries)
    return [word for key, value in told if value != getattr(RunConfig, key) for word in flag(key, value)]


def arm_flags(arms: Iterable[tuple[str, str]]) -> list[str] | None:
    """Return the flags that ask for these arms and no others, or None if no flags do; those of one learner always do.

    >>> arm_flags([("bald", "bayesian"), ("bald", "deterministic")])
    ['--acq_func', 'bald', '--determ']
    >>> arm_flags([("uniform", "deterministic"), ("bald", "deterministic")])
    ['--acq_func', 'uniform', 'bald', '--learner', 'deterministic']
    >>> arm_flags([("bald", "bayesian"), ("max_entropy", "deterministic")])
    """
    wanted = dict.fromkeys(arms)
    learners = sorted({learner for _, learner in wanted}, key=lambda name: (name != "bayesian", name))
    added = (False, True) if all(name in ACQUISITION_FUNCTIONS for name, _ in wanted) else (False,)
    for learner, determ, mbr in product(learners, added, added):
        its = [acquisition for acquisition, other in wanted if other == learner]
        names = [name for name in its if name != "mbr" or not mbr] or its
        if set(arms_of(names, learner, determ=determ, mbr=mbr)) == set(wanted):
            words = ["--acq_func", *names, *(["--learner", learner] if learner != "bayesian" else [])]
            return [*words, *(["--determ"] if determ else []), *(["--mbr"] if mbr else [])]
    return None


def flag(name: str, value: Any) -> list[str]:
    """Return the words that give a flag a value of a record.

    >>> flag("lr", 0.01), flag("classes", [2, 8]), flag("classes", []), flag("warm_start", True)
    (['--lr', '0.01'], ['--classes', '2', '8'], ['--classes', 'all'], ['--warm_start'])
    """
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    if isinstance(value, list | tuple):
        return [f"--{name}", *(map(str, value) if value else [no_values(name)])]
    return [f"--{name}", str(value)]
