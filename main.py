#!/usr/bin/env python3
"""Deep Bayesian active learning on images, from the command line: `python3 main.py --help`.

A verb may come first: `run` (as without one), `status` or `report` of a result folder, `rank` of your own images.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from active_learning.interruption import Interrupted, stoppable
from active_learning.terminal import PROGRAM, fail, with_streams

if TYPE_CHECKING:
    from active_learning.settings.config import ExperimentConfig

VERBS = ("run", "status", "report", "rank")
SAVED = "finished rounds are saved, and the same command"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the flags ask for; return the exit code: 0 done, 1 failed, 2 wrong usage, 128 + signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words.pop(0) if words and words[0] in VERBS else "run"
    return with_streams(PROGRAM, lambda: _stoppable(verb, words))


def _stoppable(verb: str, words: Sequence[str]) -> int:
    try:
        with stoppable() as check:  # before all imports that take a while
            if verb == "report":
                from active_learning.report.command import main as report

                return report(words, f"{PROGRAM} report", check)
            return _main(verb, [*words, "--status"] if verb == "status" else words, check)
    except Interrupted as stop:
        way = "the same command starts anew" if verb in ("status", "report") else f"{SAVED} goes on"
        return fail(128 + stop.signal_number, f"stopped; {way}.")


def _main(verb: str, argv: Sequence[str], check: Callable[[], None]) -> int:
    from active_learning.disk.files import StoreError, refusal
    from active_learning.ranking.flags import make_parser as rank_parser
    from active_learning.report.flags import make_parser as report_parser
    from active_learning.settings.config import ConfigError
    from active_learning.settings.flags import read_flags
    from load_data import DataError

    try:
        if verb == "rank":
            from active_learning.ranking.command import main as rank

            return rank(argv, check)
        return _run(read_flags(argv, {"report": report_parser, "rank": rank_parser}), check)
    except (ConfigError, DataError, StoreError) as error:
        return fail(2 if isinstance(error, ConfigError) else 1, str(error))
    except OSError as error:
        return fail(1, f"{refusal(error)}; {SAVED} goes on once that is mended.")
    except MemoryError:
        return fail(1, f"there is not enough memory; {SAVED} goes on once that is mended.")


def _run(config: "ExperimentConfig", check: Callable[[], None]) -> int:
    from active_learning.work.runner import run_experiment
    from active_learning.work.show import show_outcome
    from active_learning.work.status import status

    if config.status:
        status(config, print, check)
        return 0
    return show_outcome(config, run_experiment(config, check), check)


if __name__ == "__main__":
    sys.exit(main())
