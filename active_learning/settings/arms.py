"""From settings to runs, and from recorded runs to the command line that asks for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from active_learning.settings.config import ARM_FIELDS, OWN_FIELDS, ExperimentConfig, RunConfig, own_fields
from active_learning.settings.learners import recorded_learner


def planned_runs(
    config: ExperimentConfig, precision: Literal["float32", "bfloat16"], device: Literal["cpu", "cuda", "mps"]
) -> list[RunConfig]:
    """Return the runs of an experiment, repetition by repetition, so that whole comparisons are finished first.

    Args:
        config: the experiment.
        precision: what `config.precision` comes to on this machine.
        device: what `config.device` comes to.
    """
    names = {field.name for field in fields(RunConfig)} & {field.name for field in fields(ExperimentConfig)}
    shared: dict[str, Any] = {name: getattr(config, name) for name in names - {"learner", *OWN_FIELDS}}
    shared |= {"precision": precision, "device": device, "equal_batches": True}
    return [
        RunConfig(**shared, **_arm(config, *arm), repetition=repetition)
        for repetition in range(config.experiments)
        for arm in config.arms
    ]


def _arm(config: ExperimentConfig, acquisition: str, learner: str) -> dict[str, Any]:
    """Return what is an arm's own."""
    own = {name: getattr(config, name) for name in own_fields(acquisition, learner)}
    return {"acquisition": acquisition, "learner": learner, **own}


def command(shared: Mapping[str, Any], arms: Sequence[Mapping[str, Any]], rounds: int, repetitions: int) -> list[str]:
    """Return the words that compute recorded runs anew, in a folder of their own: the inverse of `planned_runs`.

    Args:
        shared: the recorded configuration of one of the runs.
        arms: that of a run of each arm.
        rounds: how many.
        repetitions: how many.
    """
    flags = {entry.name: entry.default for entry in fields(ExperimentConfig)}
    # What a record does not hold is at the default of a run, which may not be that of the flag.
    unwritten = {key: getattr(RunConfig, key, flags[key]) for key in flags if key not in shared}
    values = {**shared, **{key: value for key, value in unwritten.items() if value != flags[key]}}
    words = ["python3", "main.py"]
    for key, value in values.items():
        if key not in flags or key in ARM_FIELDS:
            continue
        if isinstance(value, bool):
            words += [f"--{key}"] if value else []
        elif isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        else:
            words += [f"--{key}", str(value)]
    words += ["--rounds", str(rounds), "--experiments", str(repetitions)]
    words += arm_flags([(str(arm["acquisition"]), recorded_learner(arm)) for arm in arms])
    words += dict.fromkeys(f"--{key}={arm[key]}" for arm in arms for key in arm if key in OWN_FIELDS)
    return [*words, "--result_dir", "result_again"]


def arm_flags(arms: Iterable[tuple[str, str]]) -> list[str]:
    """Return the flags that ask for these arms, and perhaps for others of the same functions: see `arms`.

    Of learners without a flag of their own it takes the first by name: each of their runs has a command of its own.

    >>> arm_flags([("bald", "bayesian"), ("bald", "deterministic"), ("mbr", "field")])
    ['--acq_func', 'bald', '--determ', '--mbr']
    >>> arm_flags([("uniform", "deterministic"), ("bald", "deterministic")])
    ['--acq_func', 'uniform', 'bald', '--learner', 'deterministic']
    """
    arms = list(arms)
    learners = {learner for _, learner in arms}
    if len(learners) == 1 and learners != {"bayesian"}:  # `--determ` and `--mbr` would add arms of other learners
        return ["--acq_func", *dict.fromkeys(acquisition for acquisition, _ in arms), "--learner", *learners]
    names = list(dict.fromkeys(acquisition for acquisition, learner in arms if learner != "field"))
    if "field" in learners:
        names = [name for name in names if name != "mbr"]
    words = ["--acq_func", *(names or ["mbr"])]
    for learner in sorted(learners - {"bayesian", "deterministic", "field"})[:1]:
        words += ["--learner", learner]
    words += ["--determ"] if "deterministic" in learners else []
    return words + (["--mbr"] if "field" in learners else [])
