"""Brings records of earlier versions up to date, which count images as the run does: see `numbering`.

    python -m active_learning.disk.renumber RESULT_DIR

The record of a run with `--classes` says in its first line `"numbering": "dataset"`. One without that entry is of
before. It is read as what it is, and rewritten when its run goes on or by this command.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from active_learning.disk.files import StoreError, locked
from active_learning.disk.numbering import Index, Numbering, renumbered
from active_learning.disk.record import read_record
from active_learning.disk.store import RunFolder, recorded_run, run_folders
from active_learning.settings.config import ConfigError
from active_learning.terminal import with_streams
from load_data import DataError, load_data


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
        if folder.fault:
            raise _not_of_it(folder)
        folder.mend()
        numbering = Numbering.of(train_labels, folder.config.classes)
        try:
            rounds = [renumbered(round_, numbering.of_dataset) for round_ in folder.rounds]
        except ValueError as error:
            raise _not_of_it(folder) from error
        if any(train_labels[[*r.acquired_train_index]].tolist() != [*r.acquired_labels] for r in rounds[1:]):
            raise _not_of_it(folder)
        folder.replace_rounds(rounds)
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
            record = read_record(path)
            run = recorded_run(record.configuration, max(0, len(record.rounds) - 1))
            if run is None or not run.classes:
                continue
            if run.dataset not in train_labels:
                train_labels[run.dataset] = load_data(run.dataset, data_dir).train_labels
            rewritten += renumber(RunFolder(result_dir, run), train_labels[run.dataset])
    return rewritten, len(paths)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite what the flags name; return 0, 1 (something cannot be read or written) or 2 (wrong usage)."""
    parser = ArgumentParser(
        prog="python -m active_learning.disk.renumber",
        description="Rewrite the records of runs with --classes that count the images kept and not those of the data "
        "set, as earlier versions wrote them. All others stay as they are, to the byte.",
    )
    parser.add_argument("result_dir", nargs="+", type=Path, help="result folder(s)")
    parser.add_argument("--data_dir", type=Path | None, help="where the data set is; as in main.py")
    flags = parser.parse_args(argv)
    return with_streams("renumber", lambda: _renumber_all(flags.result_dir, flags.data_dir))


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
    print(f"renumber: error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
