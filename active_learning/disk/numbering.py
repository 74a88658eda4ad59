"""Which image an index names: a run counts the images that `--classes` keeps, its record those of the data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from active_learning.disk.record import Round
from active_learning.settings.learners import Index
from load_data import kept_train_index


@dataclass(frozen=True)
class Numbering:
    """The two ways to name an image and its label, where a run keeps some classes of its data set only.

    Attributes:
        kept: the data set's train_index of each image that the run keeps, in its order.
        classes: the data set's label of each label of the run.
    """

    kept: Index
    classes: tuple[int, ...]

    @classmethod
    def of(cls, train_labels: Index, classes: tuple[int, ...]) -> "Numbering":
        """Return the numbering of a run of these classes of a data set."""
        return cls(kept_train_index(train_labels, classes), classes)

    def of_dataset(self, index: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return what the data set calls images and labels of the run.

        Raises:
            ValueError: for an image or a label that the run has not.
        """
        if not all(0 <= i < len(self.kept) for i in index) or not all(0 <= i < len(self.classes) for i in labels):
            raise ValueError(f"the run has {len(self.kept)} images of {len(self.classes)} classes")
        return self.kept[list(index)].tolist() if index else [], [self.classes[label] for label in labels]

    def of_run(self, index: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return what the run calls images and labels of the data set.

        Raises:
            ValueError: for an image or a label that is of none of its classes.
        """
        positions = np.searchsorted(self.kept, np.array(index, dtype=np.int64))
        if not np.array_equal(self.kept[np.minimum(positions, len(self.kept) - 1)], index):
            raise ValueError(f"some of the acquired images are of none of the classes {self.classes}")
        return positions.tolist(), [self.classes.index(label) for label in labels]


def renumbered(round_: Round, numbers: Callable[[Sequence[int], Sequence[int]], tuple[list[int], list[int]]]) -> Round:
    """Return a round with its images and labels named the other way."""
    index, labels = numbers(round_.acquired_train_index, round_.acquired_labels)
    return round_.model_copy(update={"acquired_train_index": tuple(index), "acquired_labels": tuple(labels)})
