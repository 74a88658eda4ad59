"""The command line: one flag for each field of `ExperimentConfig`, and what is wrong in one sentence."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, set_parsing_settings

from active_learning.config import ConfigError, ExperimentConfig

FLAGS: dict[str, "Field[Any]"] = {entry.name: entry for entry in fields(ExperimentConfig)}
OTHER_FLAGS = ("config", "print_config", "print_completion", "help")

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are a `ConfigError` of one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong in the words of this program."""
        raise ConfigError(_one_sentence(message)) from ex


def read_flags(argv: Sequence[str] | None = None) -> ExperimentConfig:
    """Read flags and the YAML file that `--config` names.

    Raises:
        ConfigError: for anything that is not allowed.
        SystemExit: after `--help` and `--print_config`.
    """
    values = vars(make_parser().parse_args(argv))
    del values["config"]
    for name in (name for name, entry in FLAGS.items() if _element(entry)):
        values[name] = tuple(values[name]) if isinstance(values[name], list) else (values[name],)
    return ExperimentConfig(**values)


def make_parser() -> Parser:
    """Return the parser."""
    set_parsing_settings(add_print_completion_argument=True)
    # read_flags' file is YAML of plain values: no environment variables, no links to other files, no classes.
    parser = Parser(prog="main.py", description="Deep Bayesian active learning on images.", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of flags without their dashes")
    for entry in FLAGS.values():
        options: dict[str, Any] = {"default": entry.default, "help": entry.metadata["help"]}
        if entry.type is bool:
            options["action"] = "store_true"
        elif element := _element(entry):
            default: Any = entry.default
            options |= {"nargs": "+", "default": list(default)}
            if element is int:
                options["type"] = int  # without a type the values stay as they are, also a single one in a file
        else:
            options["type"] = entry.type
        parser.add_argument(f"--{entry.name}", **options)
    return parser


def _one_sentence(message: str) -> str:
    """Turn jsonargparse's message into a sentence that names the value, what is allowed and the way out."""
    if match := re.search(rf'Parser key "({"|".join(FLAGS)})":.*(?:Got|Given) value: (.*)', message, re.DOTALL):
        value = match[2].strip("'")
        return f"--{match[1]} {value!r} is not allowed: it takes {_allowed(FLAGS[match[1]])}."
    if match := re.search(r"argument --(\w+)[^:]*: expected", message):
        takes = _allowed(FLAGS[match[1]]) if match[1] in FLAGS else "a path"
        return f"--{match[1]} is given without its value: it takes {takes}."
    if match := re.search(r"(?:[Uu]nrecognized arguments: --|Option ')([\w-]+)", message):
        close = difflib.get_close_matches(match[1], [*FLAGS, *OTHER_FLAGS], n=1)
        hint = f": did you mean {close[0]!r}?" if close else ": main.py --help lists them all."
        return f"{match[1]!r} is not a setting{hint}"
    if match := re.search(r"[Uu]nrecognized arguments: (.*)", message, re.DOTALL):
        switches = ", ".join(f"--{name}" for name, entry in FLAGS.items() if entry.type is bool)
        return f"{match[1]!r} belongs to no flag: write --NAME VALUE; only {switches} stand alone, without a value."
    if match := re.search(r"argument --(\w+): invalid choice: (.*) \(choose from (.*)\)", message):
        return f"--{match[1]} {match[2]} is not allowed: choose one of {match[3]}."
    if match := re.search(r"argument --(\w+): ignored explicit argument (.*)", message):
        return f"--{match[1]}={match[2]} is not allowed: --{match[1]} is a switch and stands alone, without a value."
    words = " ".join(message.replace('Parser key "config": ', "").split()).rstrip(".:")
    return f"--config: {words}: it takes a YAML file of settings such as epochs: 50; --print_config prints one."


def _allowed(entry: "Field[Any]") -> str:
    """Return what a flag takes, with an example: `a whole number, for example 50`."""
    if entry.type is bool:
        return "no value on the command line, true or false in a file"
    if element := _element(entry):
        return "labels, for example 2 8" if element is int else "codes or names, for example 0 for all five"
    return f"{_kind(entry.type)}, for example {_example(entry)}"


def _element(entry: "Field[Any]") -> Any:
    """Return what the values of a flag that takes several are, or None for any other flag."""
    return get_args(entry.type)[0] if get_origin(entry.type) is tuple else None


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return " or ".join(map(_kind, get_args(kind))) or _KINDS[kind]


def _example(entry: "Field[Any]") -> Any:
    return {"data_dir": "data", "scheduler": "tcp://localhost:8786"}.get(entry.name, entry.default)


def fail(code: int, sentence: str) -> int:
    """Print one sentence to stderr and return the exit code."""
    print(f"main.py: error: {sentence}", file=sys.stderr)
    return code
