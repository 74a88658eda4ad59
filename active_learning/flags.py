"""The command line: one flag for each field of `ExperimentConfig`, and what is wrong in one sentence.

A file that `--config` names is read as words of the command line, which stand before all others: it takes what the
flags take, means the same, and every flag that is given wins over it.
"""

import codecs
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
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

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return settings as YAML, in ASCII if standard output may make something else of other letters."""
        text: str = super().dump(*args, **kwargs)
        if text.isascii() or str(getattr(sys.stdout, "encoding", "")).lower() in ("utf-8", "utf8"):
            return text
        return yaml.safe_dump(yaml.safe_load(text), sort_keys=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong in the words of this program."""
        raise ConfigError(_one_sentence(message)) from ex


def read_flags(argv: Sequence[str] | None = None) -> ExperimentConfig:
    """Read flags and the YAML files that `--config` names.

    Raises:
        ConfigError: for anything that is not allowed.
        SystemExit: after `--help` and `--print_config`.
    """
    paths, words = _files_apart(sys.argv[1:] if argv is None else argv)
    words = [*(word for path in paths for word in _file_words(path)), *words]
    for word, after in pairwise([*words, "end"]):
        name, equals, value = word.partition("=")
        # an empty path would mean the folder that the program was started in: more likely a variable is not set
        if name.startswith("--") and not (value if equals else after):
            raise ConfigError(_without_value(name[2:]))
    values = vars(make_parser().parse_args(words))
    del values["config"]
    for name in (name for name, entry in FLAGS.items() if _element(entry)):
        values[name] = tuple(values[name]) if isinstance(values[name], list) else (values[name],)
    return ExperimentConfig(**values)


def make_parser() -> Parser:
    """Return the parser."""
    set_parsing_settings(add_print_completion_argument=True)
    parser = Parser(prog="main.py", description="Deep Bayesian active learning on images.", allow_abbrev=False)
    # Its files are read here and not by jsonargparse, which believes what a file says of a switch.
    parser.add_argument("--config", action="config", help="YAML file of flags without their dashes; flags win over it")
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


def _files_apart(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files that `--config` names, and all other words."""
    paths, words = [], []
    left = iter(argv)
    for word in left:
        name, equals, value = word.partition("=")
        if name != "--config":
            words.append(word)
            continue
        path = value if equals else next(left, "")
        if not path or path.startswith("--"):
            raise ConfigError(_without_value("config"))
        paths.append(path)
    return paths, words


def _file_words(path: str) -> list[str]:
    """Return the words of the command line that mean what a YAML file says.

    Raises:
        ConfigError: for what the command line would not take, or a file that is no map of flags.
    """
    root = _parsed(path)
    if not isinstance(root, yaml.MappingNode) or root.tag != _MAP:
        raise ConfigError(_no_settings(path, "it holds no settings"))
    words: dict[str, list[str]] = {}
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "a list"
        if name not in FLAGS:
            raise ConfigError(_unknown(str(name), FLAGS))
        if name in words:
            raise ConfigError(f"--config {path} gives {name!r} twice: leave one of them out.")
        words[name] = _setting_words(FLAGS[name], value)
    return [word for setting in words.values() for word in setting]


def _parsed(path: str) -> yaml.Node | None:
    try:
        # BaseLoader leaves every value the text that was written: the command line's parser says what it means.
        return yaml.compose(_decoded(Path(path).read_bytes()), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(_no_settings(path, f"it cannot be read ({error.strerror})")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(_no_settings(path, "it is no text in UTF-8 or UTF-16")) from error
    except (yaml.YAMLError, RecursionError) as error:
        words = " ".join(str(error).replace('in "<unicode string>", ', "at ").split()) or type(error).__name__
        raise ConfigError(_no_settings(path, f"it is not YAML ({words})")) from error


def _decoded(content: bytes) -> str:
    """Return the text of a file; PowerShell's `>` writes UTF-16, and Windows's editors begin UTF-8 with a mark."""
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_TEXT, _LIST, _MAP = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


def _setting_words(entry: "Field[Any]", value: yaml.Node) -> list[str]:
    """Return the words that give a flag the value that stands in a file."""
    if entry.type is bool:
        if not isinstance(value, yaml.ScalarNode) or value.style is not None or value.value not in _SWITCHES:
            raise ConfigError(_not_allowed(entry, _shown(value)))
        return [f"--{entry.name}"] if _SWITCHES[value.value] else []
    if not isinstance(value, yaml.SequenceNode) or value.tag != _LIST or not _element(entry):
        return [f"--{entry.name}={_word(entry, value)}"]
    words = [_word(entry, item) for item in value.value]
    if dashed := [word for word in words if word.startswith("-") and not re.fullmatch(r"-\d+", word)]:
        raise ConfigError(_not_allowed(entry, repr(dashed[0])))  # or it would be a flag of its own
    if not words and entry.default:
        raise ConfigError(_not_allowed(entry, "[]"))
    return [f"--{entry.name}", *words] if words else []


_SWITCHES = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = ("", "~", "null", "Null", "NULL")


def _word(entry: "Field[Any]", value: yaml.Node) -> str:
    if not isinstance(value, yaml.ScalarNode) or value.tag != _TEXT:
        raise ConfigError(_not_allowed(entry, _shown(value)))
    if value.style is None and value.value in _NULLS:
        if NoneType not in get_args(entry.type):
            raise ConfigError(_not_allowed(entry, "null"))
        return "null"
    return str(value.value)


def _shown(value: yaml.Node) -> str:
    if not isinstance(value, yaml.ScalarNode):
        return "[...]" if isinstance(value, yaml.SequenceNode) else "{...}"
    return repr(value.value) if value.tag == _TEXT else f"{value.tag} {value.value!r}"


def _not_allowed(entry: "Field[Any]", value: str) -> str:
    return f"--{entry.name} {value} is not allowed: it takes {_allowed(entry)}."


def _without_value(name: str) -> str:
    takes = _allowed(FLAGS[name]) if name in FLAGS else "a path or a name"
    return f"--{name} is given without its value: it takes {takes}."


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "main.py --help lists them all."
    return f"{name!r} is not a setting: {hint}"


def _no_settings(path: str, reason: str) -> str:
    return f"--config {path}: {reason}: it takes a YAML file of settings such as epochs: 50; --print_config prints one."


def _one_sentence(message: str) -> str:
    """Turn jsonargparse's message into a sentence that names the value, what is allowed and the way out."""
    if match := re.search(rf'Parser key "({"|".join(FLAGS)})".*(?:Got|Given) value: (.*)', message, re.DOTALL):
        return _not_allowed(FLAGS[match[1]], repr(match[2].strip("'")))
    if match := re.search(r"argument --(\w+)[^:]*: expected", message):
        return _without_value(match[1])
    if match := re.search(r"(?:[Uu]nrecognized arguments: --|Option ')([\w-]+)", message):
        return _unknown(match[1], [*FLAGS, *OTHER_FLAGS])
    if match := re.search(r"[Uu]nrecognized arguments: (.*)", message, re.DOTALL):
        switches = ", ".join(f"--{name}" for name, entry in FLAGS.items() if entry.type is bool)
        return (
            f"{match[1]!r} belongs to no flag: write --NAME VALUE; only {switches} stand alone, without a value, and "
            "run, status or report come first."
        )
    if match := re.search(r"argument --(\w+): invalid choice: (.*) \(choose from (.*)\)", message):
        return f"--{match[1]} {match[2]} is not allowed: choose one of {match[3]}."
    if match := re.search(r"argument --(\w+): ignored explicit argument (.*)", message):
        return f"--{match[1]}={match[2]} is not allowed: --{match[1]} is a switch and stands alone, without a value."
    return f"{' '.join(message.split()).rstrip('.:')}: main.py --help lists all flags."


def _allowed(entry: "Field[Any]") -> str:
    """Return what a flag takes, with an example: `a whole number, for example 50`."""
    if entry.type is bool:
        return "no value on the command line, and true or false without quotes in a file"
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
