"""The words after `main.py report`. Imports nothing slow, for a shell that completes them."""

from typing import Any, Literal, get_args

import shtab

from active_learning.settings.flags import Parser, some_path
from active_learning.terminal import PROGRAM

Format = Literal["text", "markdown", "csv", "json"]


def make_parser(prog: str = f"{PROGRAM} report", *, with_choices: bool = False) -> Parser:
    """Return the parser of the report's command; `with_choices` as for main.py's."""
    parser = Parser(prog=prog, description="Write the reports of result folders anew; they are only read.")
    del with_choices  # those of --format always stand in it
    folders = parser.add_argument(
        "result_dir",
        nargs="*",
        type=some_path,
        metavar="RESULT_DIR",
        help="result folder(s); each gets a report of its own (default with --readme: the committed ones beside it)",
    )
    path: dict[str, Any] = {"type": some_path, "metavar": "PATH"}
    output = parser.add_argument("--output", **path, help="folder of the report (default: RESULT_DIR/report)")
    data = parser.add_argument("--data_dir", **path, help=f"where the data set is, for the pictures; as in {PROGRAM}")
    parser.add_argument("--no_gallery", action="store_true", help="leave the pictures out: no data set is needed")
    parser.add_argument("--format", choices=get_args(Format), default="text", help="print the table, or all numbers")
    readme = parser.add_argument("--readme", **path, help="a README whose results are to be written anew")
    for flag in (folders, output, data):
        flag.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    readme.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
