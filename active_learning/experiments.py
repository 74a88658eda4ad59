"""Experiments as data: which runs a configuration asks for."""

from dataclasses import fields
from typing import Any, Literal

from active_learning.config import MBR_FIELDS, ExperimentConfig, RunConfig, has_field


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
    shared: dict[str, Any] = {name: getattr(config, name) for name in names - {"learner", *MBR_FIELDS}}
    shared |= {"precision": precision, "device": device, "equal_batches": True}
    return [
        RunConfig(**shared, **_arm(config, *arm), repetition=repetition)
        for repetition in range(config.experiments)
        for arm in config.arms
    ]


def _arm(config: ExperimentConfig, acquisition: str, learner: str) -> dict[str, Any]:
    """Return what is an arm's own; the graph's settings decide the numbers of those alone that have one."""
    graph = {name: getattr(config, name) for name in MBR_FIELDS}
    return {"acquisition": acquisition, "learner": learner, **(graph if has_field(acquisition, learner) else {})}
