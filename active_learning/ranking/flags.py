"""The words after `main.py rank`. Imports nothing slow, for a shell that completes them."""

import difflib
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import shtab

from active_learning import terminal
from active_learning.ranking.config import RankConfig
from active_learning.settings.config import ConfigError
from active_learning.settings.flags import Help, Parser, add_file_flags, add_flag, as_yaml, refuse_values, values_of

PROGRAM = f"{terminal.PROGRAM} rank"
FLAGS: "dict[str, Field[Any]]" = {entry.name: entry for entry in fields(RankConfig) if entry.name != "images"}


def read_flags(argv: Sequence[str]) -> RankConfig:
    """Return what the words after `rank` mean.

    Raises:
        ConfigError: for anything that is not allowed.
        SystemExit: after `--help` and `--print_config`.
    """
    refuse_values(argv, [name for name, entry in FLAGS.items() if entry.type is bool])
    parser = make_parser()
    given, left = parser.parse_known_args(argv)
    left = [word for word in left if word != "--"]
    unknown = [word for word in left if word.startswith("-")]
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        if name == "print_completion":
            raise ConfigError(f"--{name} is no flag of rank: {terminal.PROGRAM} --{name} SHELL completes all verbs.")
        close = difflib.get_close_matches(name, [*FLAGS, "config", "print_config"], n=1)
        hint = f"did you mean --{close[0]}?" if close else f"{PROGRAM} --help lists all."
        raise ConfigError(f"{unknown[0].partition('=')[0]} is no flag of rank: {hint}")
    words = [*given.images, *left]
    if "print_config" in given and not words:  # a file of settings names no images
        words = ["."]
    if len(words) != 1 or not words[0]:
        raise ConfigError(
            f"{PROGRAM} takes one folder of images, or one CSV of their names, and "
            + (f"{len(words)} are given: {', '.join(words)}." if len(words) > 1 else "none is given.")
        )
    config = RankConfig(images=Path(words[0]), **values_of(parser, vars(given), FLAGS))
    if "print_config" in given:
        print(as_yaml(config, FLAGS), end="")
        raise SystemExit(0)
    return config


def make_parser(*, with_choices: bool = False) -> Parser:
    """Return the parser of the words after `rank`; `with_choices` as for main.py's."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} IMAGES [--labels FILE] [--NAME VALUE ...]",
        description="Which of my images should be labelled next? Trains on those that have a label, ranks all others.",
        formatter_class=Help,
        allow_abbrev=False,
        argument_default=SUPPRESS,
    )
    images = parser.add_argument(
        "images", nargs="*", default=[], metavar="IMAGES",
        help="a folder of images (those in a subfolder have its name for a class, those in unlabelled/ and at the top "
        "have none), or a CSV with the columns file_name,label, an empty label for an image without",
    )  # fmt: skip
    images.complete = shtab.FILE  # type: ignore[attr-defined]
    groups = {True: parser.add_argument_group("what is computed"), False: parser.add_argument_group("how it is done")}
    for entry in FLAGS.values():
        add_flag(groups[entry.metadata["computed"]], entry, with_choices=with_choices)
    add_file_flags(parser)
    return parser
