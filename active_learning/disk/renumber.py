"""Brings records of earlier versions up to date, which count images as the run does: see `numbering`.

    python -m active_learning.disk.renumber RESULT_DIR

The record of a run with `--classes` says in its first line `"numbering": "dataset"`. One without that entry is of
before. It is read as what it is, and rewritten when its run goes on or by this command.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from active_learning.disk.files import StoreError, locked, refusal
from active_learning.disk.numbering import Numbering, renumbered
from active_learning.disk.record import read_record
from active_learning.disk.store import RunFolder, recorded_run, run_folders
from active_learning.interruption import Check, until_stopped
from active_learning.settings.config import ConfigError
from active_learning.settings.flags import Parser, some_path
from active_learning.settings.learners import Index
from active_learning.terminal import PROGRAM, fail, with_streams
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


def renumber_folder(result_dir: Path, data_dir: Path | None, check: Check = lambda: None) -> tuple[int, int]:
    """Rewrite all records of before in a result folder; return how many, and how many runs there are.

    Raises:
        ConfigError, StoreError, OSError: when the folder cannot be used.
        DataError: when the data set cannot be had.
    """
    rewritten, train_labels = 0, {}
    with locked(result_dir, another=False):
        paths = run_folders(result_dir)
        for path in paths:
            check()
            record = read_record(path)
            run = recorded_run(record.configuration, max(0, len(record.rounds) - 1))
            if run is None or not record.counts_kept_images:
                continue
            if run.dataset not in train_labels:
                train_labels[run.dataset] = load_data(run.dataset, data_dir).train_labels
            rewritten += renumber(RunFolder(result_dir, run), train_labels[run.dataset])
    return rewritten, len(paths)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite what the flags name; return 0, 1 (something cannot be read or written) or 2 (wrong usage)."""
    stopped = "stopped; what is rewritten stays, and the same command goes on."
    return with_streams(
        "renumber",
        lambda: until_stopped(lambda check: _main(argv, check), lambda code: fail(code, stopped, "renumber")),
    )


def _main(argv: Sequence[str] | None, check: Check) -> int:
    parser = Parser(
        prog="python -m active_learning.disk.renumber",
        description="Rewrite the records of runs with --classes that count the images kept and not those of the data "
        "set, as earlier versions wrote them. All others stay as they are, to the byte.",
    )
    parser.add_argument("result_dir", nargs="+", type=some_path, metavar="RESULT_DIR", help="result folder(s)")
    parser.add_argument("--data_dir", type=some_path, metavar="PATH", help=f"where the data set is; as in {PROGRAM}")
    try:
        flags = parser.parse_args(argv)
    except ConfigError as error:
        return fail(2, str(error), "renumber")
    for result_dir in flags.result_dir:
        if not os.path.isdir(result_dir):  # noqa: PTH112 - pathlib's raises for a name that is too long
            sentence = f"{result_dir} is no folder: name one that {PROGRAM} wrote its results to."
            return fail(2, sentence, "renumber")
        try:
            rewritten, runs = renumber_folder(result_dir, flags.data_dir, check)
        except (ConfigError, StoreError, DataError, OSError) as error:
            return fail(1, refusal(error) if isinstance(error, OSError) else str(error), "renumber")
        if not runs:
            return fail(
                2, f"{result_dir} holds no runs: name a folder that {PROGRAM} wrote its results to.", "renumber"
            )
        print(f"{result_dir}: {rewritten} of {runs} records rewritten.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
