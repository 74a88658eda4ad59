"""What the studies have in common: run what is missing of several experiments, and write a page of what is there."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from active_learning.disk.files import StoreError, refusal
from active_learning.interruption import Interrupted, stoppable
from active_learning.settings.config import ConfigError, ExperimentConfig
from active_learning.work.runner import run_experiment
from load_data import DataError


def run_study(read: Callable[[], Mapping[str, ExperimentConfig]], only: Sequence[str] = ()) -> int:
    """Run what is missing of some experiments, or of all, one after the other; return the exit code.

    Args:
        read: returns the settings of every experiment by its name.
        only: the names of those to run.
    """
    try:
        with stoppable() as check:
            configs = read()
            if unknown := [name for name in only if name not in configs]:
                return _fail(2, f"--only {unknown[0]!r} is not part of the study: choose one of {', '.join(configs)}.")
            return _run({name: configs[name] for name in only or configs}, check)
    except Interrupted as stop:
        return 128 + stop.signal_number
    except (ConfigError, DataError, StoreError, OSError) as error:
        return _fail(2 if isinstance(error, ConfigError) else 1, _told(error))


def _run(configs: Mapping[str, ExperimentConfig], check: Callable[[], None]) -> int:
    failures = 0
    for name, config in configs.items():
        for failed, reason in run_experiment(config, check).failures.items():
            print(f"{name}: {failed.name}, repetition {failed.repetition}, failed: {reason}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def write_study(write: Callable[[], Sequence[Path]]) -> int:
    """Write a page and say which files it is; return the exit code."""
    from benchmarks.paired import PageError  # the processes that run the study need no statistics

    try:
        for path in write():
            print(path)
    except (PageError, OSError) as error:
        return _fail(1, _told(error))
    return 0


def _told(error: Exception) -> str:
    return refusal(error) if isinstance(error, OSError) else str(error)


def _fail(code: int, sentence: str) -> int:
    print(f"study: error: {sentence}", file=sys.stderr)
    return code
