"""Learners: what is trained on the labelled images, tested, and asked about the pool.

A new learner is one class that keeps `Learner`, and one line in `LEARNERS`. Knows no torch: a learner is imported when
it is made.
"""

import pkgutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from acquisition_functions import AcquisitionFunction, Evidence, Need
from active_learning.streams import Purpose

Images = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Weights = dict[str, npt.NDArray[np.float32]]
Timed = Callable[[str], AbstractContextManager[None]]


class Learner(Protocol):
    """What a run trains, tests and asks; modAL's ActiveLearner fits it as its estimator.

    Every random number that it draws comes from the run's streams of the given round, so that what it does follows from
    the labelled images and the round alone.

    Attributes:
        weight_decay: the constant c of the last fit; 0 for a learner without weights.
        weight_decay_tuned: whether the last fit chose it.
    """

    weight_decay: float
    weight_decay_tuned: bool

    def fit(self, train_index: Index, labels: Index, *, round_: int) -> Self:
        """Fit the labelled images: the initial ones, then those acquired, in order."""
        ...

    def probabilities(self, images: Images, *, round_: int, purpose: Purpose) -> npt.NDArray[np.float64]:
        """Return the class probabilities (N, C) by which images are classified."""
        ...

    def evidence(self, candidates: Index, labelled: Index, function: AcquisitionFunction, *, round_: int) -> Evidence:
        """Return what the function needs to know of these training images, and of those that are labelled."""
        ...

    def resume(self, weight_decay: float, tuned_at: int) -> None:
        """Know the constant of the last finished round, and the number of labelled images when it was chosen."""
        ...

    def take(self, weights: Weights) -> None:
        """Take weights in place of a fit."""
        ...

    def weights(self) -> Weights:
        """Return a copy of the fitted weights by name; none for a learner without."""
        ...


@dataclass(frozen=True, kw_only=True)
class LearnerKind:
    """One entry of the registry.

    Attributes:
        name: what the configurations call it.
        gives: what it can be asked for.
        suffix: what it adds to a curve's file name.
        text: one line for the help.
        label: what it adds to the function's label in figures and tables.
        dashes: of its curves, as matplotlib takes them; none for a line without a gap.
        made_by: the class, or a function that returns one of its kind, as `module:name`. It takes the run, its data,
            its splits and its acquisition function, then by keyword `timed` (the time of a phase) and `watch`.
        recorded: what records hold in place of `learner`: those of the first three kinds are older than this registry.
    """

    name: str
    gives: frozenset[Need]
    text: str
    suffix: str
    label: str
    dashes: tuple[int, ...]
    made_by: str
    recorded: Mapping[str, Any] = field(default_factory=dict)

    def has_field(self, function: AcquisitionFunction) -> bool:
        """Return whether a run of this learner and this function has a Gaussian random field, and its graph."""
        return "field" in function.needs or self.gives == {"field"}

    def make(self, *arguments: Any, **others: Any) -> Learner:
        """Make a learner of this kind."""
        learner: Learner = pkgutil.resolve_name(self.made_by)(*arguments, **others)
        return learner


LEARNERS: dict[str, LearnerKind] = {
    kind.name: kind
    for kind in (
        LearnerKind(
            name="bayesian", text="the CNN with MC dropout",
            gives=frozenset({"probabilities", "samples", "targets", "embeddings", "field"}),
            suffix="MC_dropout=True", label="", dashes=(),
            made_by="active_learning.models.network:bayesian", recorded={"mc_dropout": True},
        ),
        LearnerKind(
            name="deterministic", text="the CNN used without dropout",
            gives=frozenset({"probabilities", "embeddings", "field"}),
            suffix="MC_dropout=False", label="deterministic", dashes=(4, 2),
            made_by="active_learning.models.network:deterministic", recorded={"mc_dropout": False},
        ),
        LearnerKind(
            name="field", text="the random field of mbr, which classifies by itself", gives=frozenset({"field"}),
            suffix="field", label="", dashes=(1, 1),
            made_by="active_learning.models.field:FieldLearner", recorded={"mc_dropout": False, "classifier": "field"},
        ),
    )
}  # fmt: skip


def recorded_learner(configuration: Mapping[str, Any]) -> str:
    """Return the name of the learner that a record's configuration tells of.

    >>> recorded_learner({"mc_dropout": False, "classifier": "field"}), recorded_learner({"learner": "ensemble"})
    ('field', 'ensemble')
    """
    if "learner" in configuration:
        return str(configuration["learner"])
    if configuration.get("classifier", "cnn") == "field":
        return "field"
    return "bayesian" if configuration.get("mc_dropout", True) else "deterministic"
