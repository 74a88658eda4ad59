"""Deep Bayesian active learning on images, from the command line: `python3 main.py --help`."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from active_learning.config import ConfigError, ExperimentConfig


class Parser(ArgumentParser):
    """jsonargparse's parser, which says what is wrong in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Print the message to stderr and exit with 2."""
        sys.exit(_fail(2, f"{_one_sentence(message)} See {self.prog} --help."))


def make_parser() -> Parser:
    """Return the parser: one flag for each field of `ExperimentConfig`."""
    parser = Parser(prog="main.py", description=__doc__.split(":")[0] + ".", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of flags without their dashes")
    for entry in fields(ExperimentConfig):
        options: dict[str, Any] = {"default": entry.default, "help": entry.metadata["help"]}
        if entry.type is bool:
            options["action"] = "store_true"
        elif isinstance(entry.default, tuple):
            options |= {"nargs": "+", "type": int | str | list[int | str], "default": list(entry.default)}
        else:
            options["type"] = entry.type
        parser.add_argument(f"--{entry.name}", **options)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the flags ask for; return the exit code: 0 done, 1 failed, 2 wrong usage, 128 + signal."""
    flags = vars(make_parser().parse_args(argv))
    flags.pop("config")
    flags["acq_func"] = tuple(flags["acq_func"])
    try:
        return _run(ExperimentConfig(**flags))
    except ConfigError as error:
        return _fail(2, str(error))


def _run(config: ExperimentConfig) -> int:
    # torch and all that takes seconds to import: only once the flags are known to be good
    from active_learning.report import figure, table
    from active_learning.runner import Interrupted, run_experiment
    from active_learning.store import StoreError
    from load_data import DataError

    try:
        outcome = run_experiment(config)
        print(table(config.result_dir, outcome.runs))
        picture, _ = figure(config.result_dir, outcome.runs, f"Test error on {config.dataset}")
    except Interrupted as stop:
        return _fail(128 + stop.signal_number, "stopped; finished rounds are saved and the same command goes on.")
    except (DataError, StoreError, OSError) as error:
        return _fail(1, str(error))
    print(f"Curves: {config.result_dir}/*.npy\nFigure: {picture}")
    for run, reason in outcome.failures.items():
        _fail(1, f"{run.name}, repetition {run.repetition}, failed: {reason}; the same command tries it again.")
    return 1 if outcome.failures else 0


def _one_sentence(message: str) -> str:
    """Turn the parser's message into one line, with the nearest flag if one is unknown."""
    names = [entry.name for entry in fields(ExperimentConfig)] + ["config", "print_config", "help"]
    if match := re.search(r'Parser key "(\w+)":.*Got value: (.*)', message, re.DOTALL):
        return f"--{match[1]} {match[2]!r} is not of the kind it takes."
    if match := re.search(r"(?:unrecognized arguments: --|Option ')([\w-]+)", message):
        close = difflib.get_close_matches(match[1], names, n=1)
        return f"{match[1]!r} is not a setting" + (f": did you mean {close[0]!r}?" if close else ".")
    return " ".join(message.split()) + "."


def _fail(code: int, sentence: str) -> int:
    print(f"main.py: error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
