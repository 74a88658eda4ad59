"""Which image an index names: a run counts the images that `--classes` keeps, its record those of the data set.

    python -m active_learning.numbering RESULT_DIR      rewrites records of before, which count as the run does

The record of a run with `--classes` says so in its first line: `"numbering": "dataset"`. One without that entry is of
before. It is read as what it is, and rewritten when its run goes on or by this command.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jsonargparse import ArgumentParser

from active_learning.config import ConfigError
from active_learning.store import RunFolder, StoreError, locked, read_record, recorded_run, run_folders
from active_learning.terminal import with_streams
from load_data import DataError, kept_train_index, load_data

Index = npt.NDArray[np.int64]


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


def renumber(folder: RunFolder, train_labels: Index) -> bool:
    """Rewrite a run's record if it is of before; return whether it was.

    Args:
        folder: the run's; it is loaded here, whatever it held.
        train_labels: of the whole data set.

    Raises:
        StoreError: for a record that is not of this data set; it is left as it is.
    """
    folder.load(any_configuration=True)
    if not folder.counts_kept_images:
        return False
    with folder.locked():
        folder.load(any_configuration=True)
        folder.mend()
        numbering = Numbering.of(train_labels, folder.config.classes)
        rows = []
        for row in folder.rounds:
            try:
                index, labels = numbering.of_dataset(row["acquired_train_index"], row["acquired_labels"])
            except ValueError as error:
                raise _not_of_it(folder) from error
            if train_labels[index].tolist() != labels:
                raise _not_of_it(folder)
            rows.append({**row, "acquired_train_index": index, "acquired_labels": labels})
        folder.replace_rounds(rows)
        folder.note("the record was rewritten: its indices and labels are those of the whole data set")
    return True


def _not_of_it(folder: RunFolder) -> StoreError:
    return StoreError(f"{folder.path} names images that are not those of {folder.config.dataset}: it is left as it is.")


def renumber_folder(result_dir: Path, data_dir: Path | None) -> tuple[int, int]:
    """Rewrite all records of before in a result folder; return how many, and how many runs there are.

    Raises:
        ConfigError, StoreError, OSError: when the folder cannot be used.
        DataError: when the data set cannot be had.
    """
    rewritten, train_labels = 0, {}
    with locked(result_dir):
        paths = run_folders(result_dir)
        for path in paths:
            configuration, rows, _ = read_record(path)
            run = None if configuration is None else recorded_run(configuration, max(0, len(rows) - 1))
            if run is None or not run.classes:
                continue
            if run.dataset not in train_labels:
                train_labels[run.dataset] = load_data(run.dataset, data_dir).train_labels
            rewritten += renumber(RunFolder(result_dir, run), train_labels[run.dataset])
    return rewritten, len(paths)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite what the flags name; return 0, 1 (something cannot be read or written) or 2 (wrong usage)."""
    parser = ArgumentParser(
        prog="python -m active_learning.numbering",
        description="Rewrite the records of runs with --classes that count the images kept and not those of the data "
        "set, as earlier versions wrote them. All others stay as they are, to the byte.",
    )
    parser.add_argument("result_dir", nargs="+", type=Path, help="result folder(s)")
    parser.add_argument("--data_dir", type=Path | None, help="where the data set is; as in main.py")
    flags = parser.parse_args(argv)
    return with_streams("numbering", lambda: _renumber_all(flags.result_dir, flags.data_dir))


def _renumber_all(result_dirs: Sequence[Path], data_dir: Path | None) -> int:
    for result_dir in result_dirs:
        if not result_dir.is_dir():
            return _fail(2, f"{result_dir} is no folder: name one that main.py wrote its results to.")
        try:
            rewritten, runs = renumber_folder(result_dir, data_dir)
        except (ConfigError, StoreError, DataError, OSError) as error:
            return _fail(1, str(error))
        print(f"{result_dir}: {rewritten} of {runs} records rewritten.")
    return 0


def _fail(code: int, sentence: str) -> int:
    print(f"numbering: error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
