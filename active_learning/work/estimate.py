"""How long the rounds that are left will take, from the seconds of those that are there.

A fit takes as long as its training: its images, and its steps beside them. It gets longer along a curve, a round that
chooses the weight decay has several fits, and all else takes about the same in every round. When a fit will stop early,
and how busy the machine will be, nobody knows: what a run took lately says most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from active_learning.disk.store import RunFolder
from active_learning.settings.config import RunConfig

RECENT = 20
"""Rounds that say how fast a run is going."""

IMAGES_OF_A_STEP = 14
"""What a step of training takes beside its images, in images: of the recorded runs on a CPU."""

FITS_OF_A_CHOICE = 3
"""How often a network is fitted to choose the weight decay, once it was chosen before."""


ENDS = (0.0, 10.0)
"""The least and the largest constant of the weight decay: they have one neighbour, so a choice there is a fit less."""


@dataclass(frozen=True)
class Pace:
    """How fast a run is going.

    Attributes:
        image: seconds that an image takes in training.
        others: seconds of a round beside its fits.
    """

    image: float
    others: float


def time_left(folders: Sequence[RunFolder], side_by_side: int) -> timedelta | None:
    """Return about how long the unfinished runs among these take; None before two rounds of any run are finished.

    Args:
        folders: runs of one experiment, loaded; those that are finished tell how long the others take.
        side_by_side: how many of them go on at a time.
    """
    paces = {folder.config: found for folder in folders if (found := _pace(folder)) is not None}
    if not paces:
        return None
    initial = next(folder.rounds[0].labelled for folder in folders if folder.rounds)
    left = [_seconds_left(folder, _expected(folder.config, paces), initial) for folder in folders]
    return timedelta(seconds=math.ceil(max(sum(left) / side_by_side, *left)))


def _pace(folder: RunFolder) -> Pace | None:
    """Return how fast a run is going, by its last rounds; its first has much to make that the others use."""
    rows = [(round_, row) for round_, row in zip(folder.rounds, folder.seconds, strict=True) if "round" in row][1:]
    if not rows:
        return None
    fits = [(row.get("fit", 0.0), round_.labelled) for round_, row in rows if not round_.weight_decay_tuned]
    images = [seconds / _training(folder.config, labelled) for seconds, labelled in fits[-RECENT:]]
    others = [sum(row.values()) - sum(row.get(key, 0) for key in ("round", "fit", "tune")) for _, row in rows[-RECENT:]]
    return Pace(median(images or [0.0]), median(others))


def _training(run: RunConfig, labelled: int) -> int:
    """Return what a fit takes, in images."""
    images = max(labelled, run.epoch_images)
    batches = math.ceil(images / run.batch_size)
    return max(run.epochs, math.ceil(run.min_steps / batches)) * (images + IMAGES_OF_A_STEP * batches)


def _expected(run: RunConfig, paces: dict[RunConfig, Pace]) -> Pace:
    """Return a run's own pace, or that of its other repetitions, of other runs of its learner, or of all."""
    if run in paces:
        return paces[run]
    alike = [[other for other in paces if other.name == run.name]]
    alike += [[other for other in paces if other.learner == run.learner], list(paces)]
    known = [paces[other] for other in next(filter(None, alike))]
    return Pace(median(pace.image for pace in known), median(pace.others for pace in known))


def _seconds_left(folder: RunFolder, pace: Pace, initial: int) -> float:
    run = folder.config
    chosen_at = max((round_.labelled for round_ in folder.rounds if round_.weight_decay_tuned), default=0)
    seconds = 0.0
    last = folder.rounds[-1].weight_decay if folder.rounds else None
    choice = FITS_OF_A_CHOICE - (last in ENDS)
    for round_ in range(len(folder.rounds), run.rounds + 1):
        labelled = initial + round_ * run.query
        fits = 1
        if run.weight_decay == "tune" and labelled >= 2 * chosen_at:
            fits, chosen_at = choice, labelled
        seconds += pace.others + fits * pace.image * _training(run, labelled)
    return seconds
