"""SIGINT and SIGTERM: stop at the next batch, with every finished round on disk."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

Check = Callable[[], None]
"""Called at each batch; what it raises ends the work."""


class Watch(NamedTuple):
    """Who looks at work that goes on.

    Attributes:
        check: called before each training step, inference block and question to a field; what it raises ends the work.
        note: told in a sentence of what happened and left the numbers alone, such as a lack of memory.
    """

    check: Check = lambda: None
    note: Callable[[str], None] = lambda _: None


NOBODY = Watch()


class Interrupted(BaseException):
    """The run is no longer wanted; `signal_number` says which signal asked, if one did.

    As with KeyboardInterrupt, code that handles errors must not catch it.
    """

    def __init__(self, signal_number: int = 0) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def stoppable() -> Iterator[Check]:
    """Turn the first SIGINT or SIGTERM into an `Interrupted` at the next call of the yielded check.

    skorch swallows KeyboardInterrupt, so the signal must not raise it. The second signal ends the process at once, also
    in the middle of a long call into C, which no handler written in Python interrupts.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    with _second_ends():
        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield check
            check()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def until_stopped(work: Callable[[Check], int], stopped: Callable[[int], int]) -> int:
    """Return the exit code of work that a signal may end: its own, or what `stopped` makes of 128 + the signal."""
    try:
        with stoppable() as check:
            return work(check)
    except Interrupted as stop:
        return stopped(128 + stop.signal_number)


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _second_ends() -> Iterator[None]:
    """End the process when a second signal comes: Python writes each to a pipe as it comes, and a thread counts."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def count() -> None:
        received = 0
        while number := os.read(reading, 1):
            received += number[0] in SIGNALS
            if received == 2:
                os._exit(128 + number[0])
        os.close(reading)

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=count, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread
