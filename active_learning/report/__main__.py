"""The report's command line: `python -m active_learning.report RESULT_DIR`."""

import sys

from active_learning.interruption import Check, until_stopped
from active_learning.terminal import fail, with_streams


def _write(check: Check) -> int:
    from active_learning.report.command import main  # takes a while to import

    return main(check=check)


def _stopped(code: int) -> int:
    return fail(code, "stopped; the same command starts anew.", "report")


sys.exit(with_streams("report", lambda: until_stopped(_write, _stopped)))
