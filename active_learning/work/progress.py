"""What is shown of runs that go on, on stderr: a bar in a terminal, a line now and then in a log file, or nothing."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from active_learning.disk.store import RunFolder
from active_learning.settings.config import RunConfig
from active_learning.work.estimate import time_left

SECONDS_BETWEEN_LINES = 60.0
"""Of a log file: a line says how far the runs are, at most so often."""

SECONDS_BETWEEN_ESTIMATES = 1.0


class Progress:
    """The progress of an experiment's unfinished runs.

    Args:
        result_dir: the result folder, which is read for how long the rounds took.
        runs: all runs of the experiment.
        unfinished: the folders of those to execute, loaded.
        side_by_side: how many go on at a time; 0 where only a cluster knows, and those that are told of are counted.
        quiet: show nothing.
    """

    def __init__(
        self,
        result_dir: Path,
        runs: Sequence[RunConfig],
        unfinished: Sequence[RunFolder],
        *,
        side_by_side: int,
        quiet: bool,
    ) -> None:
        self.quiet, self.side_by_side = quiet, side_by_side
        self.rounds = {folder.config: len(folder.rounds) for folder in unfinished}
        self.folders = {run: RunFolder(result_dir, run) for run in ([] if quiet else runs)}
        for folder in self.folders.values():
            folder.load()
        self.going: set[RunConfig] = set()
        self.read: set[RunConfig] = set()
        self.estimated_at = self.told_at = -sys.float_info.max
        self.left = ""
        self.bar = tqdm(
            total=sum(run.rounds + 1 for run in self.rounds),
            initial=sum(self.rounds.values()),
            file=sys.stderr,
            disable=quiet or None,  # None: only without a terminal
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} rounds{postfix}",
        )

    def __enter__(self) -> "Progress":
        self.told_at = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def advance(self, run: RunConfig, round_: int, test_error: float) -> None:
        """Show a finished round."""
        new = max(0, round_ + 1 - self.rounds[run])  # a run whose worker died may come by a round twice
        self.rounds[run] += new
        if self.quiet:
            return
        self.going.add(run)
        self.read.discard(run)
        if self.bar.disable:
            self._tell(run, round_, test_error)
        else:
            self.bar.set_postfix_str(f"{run.name} #{run.repetition}: error {test_error:.2%}{self._left()}", False)
            self.bar.update(new)

    def run_done(self, run: RunConfig, reason: str | None) -> None:
        """Print what became of a run."""
        self.going.discard(run)
        if self.quiet:  # failures are told once all runs have ended
            return
        word = "finished" if reason is None else f"failed: {reason}"
        self.bar.write(f"{run.name}, repetition {run.repetition}: {word}", file=sys.stderr)

    def _tell(self, run: RunConfig, round_: int, test_error: float) -> None:
        now = time.monotonic()
        if now < self.told_at + SECONDS_BETWEEN_LINES:
            return
        self.told_at = now
        print(
            f"{datetime.now():%Y-%m-%d %H:%M:%S} {run.name}, repetition {run.repetition}: round {round_} of "
            f"{run.rounds}, test error {test_error:.2%}{self._left()}",
            file=sys.stderr,
            flush=True,
        )

    def _left(self) -> str:
        """Return about how long all runs that are not finished take."""
        now = time.monotonic()
        if now >= self.estimated_at + SECONDS_BETWEEN_ESTIMATES:
            self.estimated_at = now
            with suppress(Exception):  # whatever is wrong with a file of seconds, no run ends by it
                self.left = self._estimate()
        return self.left

    def _estimate(self) -> str:
        for run in set(self.folders) - self.read:
            self.folders[run].load()
        self.read = set(self.folders)
        found = time_left(list(self.folders.values()), self.side_by_side or max(1, len(self.going)))
        return "" if found is None else f", about {found} left"
