"""Experiments as data: which runs a configuration asks for."""

from dataclasses import fields
from typing import Any, Literal

from active_learning.config import MBR_FIELDS, ExperimentConfig, RunConfig


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
    shared: dict[str, Any] = {name: getattr(config, name) for name in names - set(MBR_FIELDS)}
    shared |= {"precision": precision, "device": device, "equal_batches": True}
    return [
        RunConfig(**shared, **arm, repetition=repetition)
        for repetition in range(config.experiments)
        for arm in _arms(config)
    ]


def _arms(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Return the fields that tell the curves of an experiment apart."""
    arms: list[dict[str, Any]] = [
        {"acquisition": acquisition, "mc_dropout": True} for acquisition in config.acquisitions
    ]
    if config.determ:  # random acquisition asks no model, so experiment 2 has no deterministic arm of it
        arms += [
            {"acquisition": acquisition, "mc_dropout": False}
            for acquisition in config.acquisitions
            if acquisition != "uniform"
        ]
    if config.mbr:
        field: dict[str, Any] = {"acquisition": "mbr", **{name: getattr(config, name) for name in MBR_FIELDS}}
        arms += [{**field, "mc_dropout": True}, {**field, "mc_dropout": False, "classifier": "field"}]
    return arms
