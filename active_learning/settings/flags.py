"""The command line: one flag for each field of `ExperimentConfig`, and what is wrong in one sentence.

A file that `--config` names is read as words of the command line, which stand before all others: it takes what the
flags take, means the same, and every flag that is given wins over it. argparse splits the words, and what each comes to
is decided here, by the type of its field.
"""

import argparse
import codecs
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

import shtab
import yaml

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.settings.config import FOLDER, ConfigError, ExperimentConfig
from active_learning.settings.learners import LEARNERS
from active_learning.settings.networks import NETWORKS
from active_learning.terminal import PROGRAM
from load_data import DATASETS

FLAGS: dict[str, "Field[Any]"] = {entry.name: entry for entry in fields(ExperimentConfig)}
SWITCHES = [name for name, entry in FLAGS.items() if entry.type is bool]
OTHER_FLAGS = ("config", "print_config", "print_completion", "help")

KNOWN: dict[str, Iterable[str]] = {
    "acq_func": ACQUISITION_FUNCTIONS, "dataset": DATASETS, "learner": LEARNERS, "network": NETWORKS,
}  # fmt: skip
"""The names that a flag takes, where a registry has them."""

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_KINDS: dict[Any, tuple[str, str, Callable[[str], Any]]] = {
    int: ("a whole number", "N", lambda word: int(_matched(_WHOLE, word))),
    float: ("a number", "X", lambda word: float(_matched(_NUMBER, word))),
    str: ("text", "NAME", str),
    Path: ("a path", "PATH", Path),
    NoneType: ("null", "null", lambda word: {"null": None}[word]),
}
"""What a kind of value is called, in a sentence and in the help, and what makes it of a word."""


class Parser(argparse.ArgumentParser):
    """argparse's, which refuses in one sentence and reads `-1e-3` as a number."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self._negative_number_matcher = re.compile(rf"-{_NUMBER.pattern}")

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            ConfigError: with argparse's message.
        """
        raise ConfigError(f"{' '.join(message.split()).rstrip('.:')}: {self.prog} --help lists all flags.")


class Help(argparse.HelpFormatter):
    """Help that shows one value a flag, and dots where it takes several."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """Show the value of a flag as one that must be given: that it is there is looked at in `flag_value`."""
        return f"{action.metavar} ..." if action.nargs == "*" else str(action.metavar or default_metavar)


MakesParser = Callable[..., argparse.ArgumentParser]


def read_flags(
    argv: Sequence[str] | None = None, verbs: Mapping[str, MakesParser] = MappingProxyType({})
) -> ExperimentConfig:
    """Read flags and the YAML files that `--config` names.

    Args:
        argv: the words.
        verbs: what makes the parser of another verb's words, for `--print_completion`; it takes `with_choices`.

    Raises:
        ConfigError: for anything that is not allowed.
        SystemExit: after `--help`, `--print_config` and `--print_completion`.
    """
    words = sys.argv[1:] if argv is None else argv
    refuse_values(words, SWITCHES)
    parser = make_parser()
    flags = _split(parser, words)
    if "print_completion" in flags:
        print(completion(flags["print_completion"], verbs))
        raise SystemExit(0)
    config = ExperimentConfig(**values_of(parser, flags, FLAGS))
    if "print_config" in flags:
        print(as_yaml(config, FLAGS), end="")
        raise SystemExit(0)
    return config


def refuse_values(words: Iterable[str], switches: Iterable[str]) -> None:
    """Refuse a switch that is given a value."""
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and equals and name in switches:
            raise ConfigError(
                f"--{name}={value!r} is not allowed: --{name} is a switch and stands alone, without a value."
            )


def some_path(word: str) -> Path:
    """Return the path that a word names, for argparse; an empty one is refused: a variable may be missing."""
    if not word:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(word)


def values_of(
    parser: argparse.ArgumentParser, given: Mapping[str, Any], known: Mapping[str, "Field[Any]"]
) -> dict[str, Any]:
    """Return what given flags come to, and those of the files that `--config` names, over which the given ones win.

    Args:
        parser: of the flags.
        given: the words after each flag of the command line.
        known: the field of each flag that is a setting.

    Raises:
        ConfigError: for anything that is not allowed.
    """
    words: dict[str, Any] = {}
    for path in given.get("config", ()):
        if not path:
            raise ConfigError(_without_value("config"))
        words |= _split(parser, _file_words(path, known, parser.prog))
    words |= given
    return {name: flag_value(known[name], value) for name, value in words.items() if name in known}


def _split(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """Return the words after each flag that is given."""
    given, left = parser.parse_known_args(words)
    if left:
        raise ConfigError(_belongs_to_nothing(left[0]))
    return vars(given)


def make_parser(*, with_choices: bool = False) -> argparse.ArgumentParser:
    """Return the parser; every value that it gives is a word, or a list of words, as it was typed.

    Args:
        with_choices: let the values that there are stand in it, for a shell to complete.
    """
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [run | status | report | rank | VERB --help] [--NAME VALUE ...]",
        description="Deep Bayesian active learning on images.",
        formatter_class=Help,
        argument_default=argparse.SUPPRESS,
    )
    groups = {True: parser.add_argument_group("what is computed"), False: parser.add_argument_group("how it is done")}
    for entry in FLAGS.values():
        add_flag(groups[entry.metadata["computed"]], entry, with_choices=with_choices)
    others = add_file_flags(parser)
    shells = ", ".join(shtab.SUPPORTED_SHELLS)
    others.add_argument(
        "--print_completion", nargs="?", metavar="SHELL", help=f"print what completes all this in {shells}"
    )
    return parser


def add_file_flags(parser: argparse.ArgumentParser) -> Any:
    """Add `--config` and `--print_config` in a group of their own, and return that."""
    group = parser.add_argument_group("files and shells")
    config_help = "YAML file of flags without their dashes; flags win over it"
    config = group.add_argument("--config", nargs="?", action="append", metavar="PATH", help=config_help)
    config.complete = shtab.FILE  # type: ignore[attr-defined]
    group.add_argument("--print_config", action="store_true", help="print such a file and do no more")
    return group


def add_flag(group: Any, entry: "Field[Any]", *, with_choices: bool = False) -> None:
    """Add the flag of a field to a parser or to a group of it; what is given is for `flag_value` to convert."""
    options: dict[str, Any] = {"help": _help(entry)}
    if entry.type is bool:
        options["action"] = "store_true"
    else:
        several = _element(entry) is not None
        options |= {"nargs": "*" if several else "?", "const": None, "metavar": _metavar(entry)}
        if with_choices and (choices := _choices(entry)):
            options["choices"] = choices
    group.add_argument(f"--{entry.name}", **options)


def completion(shell: str | None, verbs: Mapping[str, MakesParser]) -> str:
    """Return the script by which a shell completes verbs, flags and their values."""
    if shell not in shtab.SUPPORTED_SHELLS:
        shells = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ConfigError(f"--print_completion {shell or 'without a shell'} is not allowed: choose one of {shells}.")
    parser = make_parser(with_choices=True)
    subparsers = parser.add_subparsers()
    for verb, made_by in {"run": make_parser, "status": make_parser, **verbs}.items():
        its = made_by(with_choices=True)  # without a help text shtab leaves a verb out
        subparsers.add_parser(verb, help=its.description, parents=[its], add_help=False)
    script: str = shtab.complete(parser, shell)
    return script


def _help(entry: "Field[Any]") -> str:
    default = entry.default
    shown = " ".join(map(str, default)) or entry.metadata.get("empty") if isinstance(default, tuple) else default
    told = f" (default: {shown})" if entry.type is not bool and shown not in (None, "") else ""
    return f"{entry.metadata['help']}{told}".replace("%", "%%")


def _choices(entry: "Field[Any]") -> list[str]:
    literals = get_args(entry.type) if get_origin(entry.type) is Literal else ()
    return [*map(str, literals), *KNOWN.get(entry.name, ()), *([FOLDER] if entry.name == "dataset" else [])]


def _metavar(entry: "Field[Any]") -> str:
    if entry.name == "classes":
        return "LABEL"
    if entry.name in KNOWN or entry.name == "acq_func":
        return "NAME"
    return "|".join(_names(entry.type))


def _names(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if kind in _KINDS:
        return [] if kind is NoneType else [_KINDS[kind][1]]
    return [name for part in get_args(kind) for name in _names(part)]


def flag_value(entry: "Field[Any]", given: Any) -> Any:
    """Return what the words after a flag come to.

    Raises:
        ConfigError: for words that the field does not take.
    """
    if entry.type is bool:
        return given
    # an empty path would mean the folder that the program was started in: more likely a variable is not set
    if given in (None, [], "") or (isinstance(given, list) and "" in given):
        raise ConfigError(_without_value(entry.name, entry))
    element = _element(entry)
    if element and given == [entry.metadata.get("empty")]:
        return ()
    try:
        return tuple(_converted(element, word) for word in given) if element else _converted(entry.type, given)
    except ValueError as error:
        raise ConfigError(_not_allowed(entry, repr(str(error)))) from error


def _converted(kind: Any, word: str) -> Any:
    """Return a word as a value of this kind.

    Raises:
        ValueError: with the word, if it is none.
    """
    if get_origin(kind) is Literal:
        if word in get_args(kind):
            return word
    elif kind in _KINDS:
        try:
            return _KINDS[kind][2](word)
        except (ValueError, KeyError):
            pass
    else:
        for part in sorted(get_args(kind), key=lambda part: part in (str, Path)):  # of these, any word is one
            try:
                return _converted(part, word)
            except ValueError:
                continue
    raise ValueError(word)


def _matched(pattern: "re.Pattern[str]", word: str) -> str:
    if not pattern.fullmatch(word):
        raise ValueError(word)
    return word


def as_yaml(config: object, known: Iterable[str]) -> str:
    """Return the known settings as YAML, in ASCII if standard output may make something else of other letters."""
    shown = {
        name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in vars(config).items()
        if name in known
    }
    unicode = str(getattr(sys.stdout, "encoding", "")).lower() in ("utf-8", "utf8")
    text: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=unicode)
    return text


def _belongs_to_nothing(word: str) -> str:
    if word.startswith("--") and word != "--":
        return _unknown(word[2:].partition("=")[0], [*FLAGS, *OTHER_FLAGS], PROGRAM)
    if word and os.path.isdir(word):  # noqa: PTH112 - pathlib's raises for a name that is too long
        return f"{word!r} belongs to no flag: if it is a result folder, give --result_dir {shlex.quote(word)} instead."
    switches = ", ".join(f"--{name}" for name in SWITCHES)
    return (
        f"{word!r} belongs to no flag: write --NAME VALUE; only {switches} stand alone, without a value, and run, "
        "status, report or rank come first."
    )


def _file_words(path: str, known: Mapping[str, "Field[Any]"], program: str) -> list[str]:
    """Return the words of the command line that mean what a YAML file says.

    Raises:
        ConfigError: for what the command line would not take, or a file that is no map of flags.
    """
    root = _parsed(path)
    if not isinstance(root, yaml.MappingNode) or root.tag != _MAP:
        raise ConfigError(_no_settings(path, "it holds no settings"))
    words: dict[str, list[str]] = {}
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else _shown(key)
        if name in OTHER_FLAGS:
            raise ConfigError(f"--config {path}: {name!r} is for the command line alone: leave it out of the file.")
        if name not in known:
            raise ConfigError(f"--config {path}: {_unknown(str(name), known, program)}")
        if name in words:
            raise ConfigError(f"--config {path} gives {name!r} twice: leave one of them out.")
        words[name] = _setting_words(known[name], value)
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
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value.value):  # nothing is named so
        raise ConfigError(_not_allowed(entry, ascii(value.value)))
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


def _without_value(name: str, entry: "Field[Any] | None" = None) -> str:
    takes = _allowed(entry) if entry else "a YAML file of settings"
    return f"--{name} is given without its value: it takes {takes}."


def _unknown(name: str, known: Iterable[str], program: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"{program} --help lists them all."
    return f"{name!r} is not a setting: {hint}"


def _no_settings(path: str, reason: str) -> str:
    return f"--config {path}: {reason}: it takes a YAML file of settings such as epochs: 50; --print_config prints one."


def _allowed(entry: "Field[Any]") -> str:
    """Return what a flag takes, with an example: `a whole number, for example 50`."""
    if entry.type is bool:
        return "no value on the command line, and true or false without quotes in a file"
    if element := _element(entry):
        examples = {
            int: f"{'labels' if entry.name == 'classes' else 'whole numbers'}, for example 0 1",
            float: "a number for each class, for example 1 0.1 with two classes",
            str: "names of classes",
        }
        empty = f", or {entry.metadata['empty']}" if entry.metadata.get("empty") else ""
        return examples.get(element, "codes or names, for example 0 for all five") + empty
    return f"{_kind(entry.type)}, for example {_example(entry)}"


def _element(entry: "Field[Any]") -> Any:
    """Return what the values of a flag that takes several are, or None for any other flag."""
    return get_args(entry.type)[0] if get_origin(entry.type) is tuple else None


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return _KINDS[kind][0] if kind in _KINDS else " or ".join(map(_kind, get_args(kind)))


def _example(entry: "Field[Any]") -> Any:
    examples = {"result_dir": "result_npy/mine", "data_dir": "data", "scheduler": "tcp://localhost:8786"}
    return {**examples, "labels": "batch.csv"}.get(entry.name, entry.default)
