#!/usr/bin/env python3
"""Deep Bayesian active learning on images, from the command line: `python3 main.py --help`."""

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from active_learning.config import ConfigError, ExperimentConfig
from active_learning.flags import fail, read_flags

if TYPE_CHECKING:
    from active_learning.runner import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the flags ask for; return the exit code: 0 done, 1 failed, 2 wrong usage, 128 + signal."""
    try:
        config = read_flags(argv)
        return _print_status(config) if config.status else _run(config)
    except ConfigError as error:
        return fail(2, str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(config: ExperimentConfig) -> int:
    # numpy and all that takes longer to import: only once the flags are known to be good
    from active_learning.interruption import Interrupted
    from active_learning.runner import run_experiment
    from active_learning.store import StoreError
    from load_data import DataError

    try:
        outcome = run_experiment(config)
    except Interrupted as stop:
        return fail(128 + stop.signal_number, "stopped; finished rounds are saved, and the same command goes on.")
    except (DataError, StoreError) as error:
        return fail(1, str(error))
    except OSError as error:
        return fail(1, f"{error}; finished rounds are saved, and the same command goes on once that is mended.")
    whole = len(outcome.failures) == len(outcome.runs) or _report(config, outcome)
    for run, reason in outcome.failures.items():
        fail(1, f"{run.name}, repetition {run.repetition}, failed: {reason}; the same command tries it again.")
    return 1 if outcome.failures or not whole else 0


def _report(config: ExperimentConfig, outcome: "Outcome") -> bool:
    """Write the report and print the results; return whether the report could be written."""
    from active_learning.report import REPORT_FOLDER, figure, numbers, table, write_report
    from active_learning.report.results import NoResultsError

    reason = ""
    try:
        figure(config.result_dir, outcome.runs, f"Test error on {config.dataset}")
        write_report(config.result_dir, data_dir=config.data_dir)
    except Exception as error:  # whatever it is: the runs are finished, and nothing may hide their results
        reason = f"the report could not be written ({str(error) or type(error).__name__})"
    page = None if reason else config.result_dir / REPORT_FOLDER / "index.html"
    try:
        if config.json:
            print(numbers(config.result_dir, outcome.runs, page))
        elif not config.quiet:
            print(table(config.result_dir, outcome.runs))
            print(f"Curves: {config.result_dir}/*.npy")
            print(f"Figures and tables: {page.parent}\nPage: {page}" if page else "There is no page.")
    except NoResultsError as error:
        reason = str(error).rstrip(".")
    if reason:
        fail(1, f"{reason}; python -m active_learning.report {config.result_dir} tries again.")
    return not reason


def _print_status(config: ExperimentConfig) -> int:
    from active_learning.status import status

    print(status(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
