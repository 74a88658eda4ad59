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
        if len(outcome.failures) < len(outcome.runs):
            _print_results(config, outcome)
    except Interrupted as stop:
        return fail(128 + stop.signal_number, "stopped; finished rounds are saved, and the same command goes on.")
    except (DataError, StoreError) as error:
        return fail(1, str(error))
    except OSError as error:
        return fail(1, f"{error}; finished rounds are saved, and the same command goes on once that is mended.")
    for run, reason in outcome.failures.items():
        fail(1, f"{run.name}, repetition {run.repetition}, failed: {reason}; the same command tries it again.")
    return 1 if outcome.failures else 0


def _print_results(config: ExperimentConfig, outcome: "Outcome") -> None:
    from active_learning.report import figure, table

    print(table(config.result_dir, outcome.runs))
    picture, _ = figure(config.result_dir, outcome.runs, f"Test error on {config.dataset}")
    print(f"Curves: {config.result_dir}/*.npy\nFigure: {picture}")


def _print_status(config: ExperimentConfig) -> int:
    from active_learning.status import status

    print(status(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
