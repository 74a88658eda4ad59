"""What is printed: in what the standard streams can show, so that nothing about them hides a result."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

PROGRAM = "dbal" if Path(sys.argv[0]).stem == "dbal" else "main.py"
"""What the user typed: the installed command, or the file beside the others."""

COMMAND = (PROGRAM,) if PROGRAM == "dbal" else ("python3", PROGRAM)
"""How that is typed again."""


def counted(number: int, word: str, several: str = "") -> str:
    """Return a number with its word: `1 label`, `2 labels`."""
    return f"{number} {word if number == 1 else several or word + 's'}"


def fail(code: int, sentence: str, program: str = PROGRAM) -> int:
    """Print one sentence to stderr and return the exit code."""
    print(f"{program}: error: {sentence}", file=sys.stderr)
    return code


def with_streams(program: str, work: Callable[[], int]) -> int:
    r"""Do what prints, whatever the standard streams are, and return its exit code.

    What a stream cannot show is printed as `\u7ed3`. A stream that is closed, or cannot be written to, ends no work. If
    standard output cannot be written to, that is told at the end and the exit code is not 0. If it is closed, nothing
    is wanted there.

    Args:
        program: the name before an error's sentence.
        work: returns the exit code.
    """
    before = sys.stdout, sys.stderr
    out, err = _Unfailing(sys.stdout), _Unfailing(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        try:
            code = work()
        except SystemExit as end:  # after --help and its like, which print too
            code = end.code if isinstance(end.code, int) else 0
        out.flush()
        if out.error is None:
            return code
        reason = out.error.strerror or type(out.error).__name__
        return fail(
            code or 1,
            f"standard output cannot be written to ({reason}): what was printed is lost, no file is.",
            program,
        )
    finally:
        out.flush()
        sys.stdout, sys.stderr = before


class _Unfailing:
    """A standard stream whose write errors are kept and not raised."""

    def __init__(self, stream: TextIO | None) -> None:
        # A closed stream is None. Its number must be taken: the next file to be opened would be written to by others.
        self.stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115, PTH123
        self.error: OSError | None = None
        if isinstance(self.stream, io.TextIOWrapper):
            self.stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write what can be written."""
        with self._kept():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is left, if it can be written."""
        with self._kept():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError):  # or what its buffer holds would fail once more when the interpreter ends
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
