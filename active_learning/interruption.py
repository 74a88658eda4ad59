"""SIGINT and SIGTERM: stop at the next batch, with every finished round on disk."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The run is no longer wanted; `signal_number` says which signal asked, if one did.

    As with KeyboardInterrupt, code that handles errors must not catch it.
    """

    def __init__(self, signal_number: int = 0) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT or SIGTERM into an `Interrupted` at the next call of the yielded check.

    skorch swallows KeyboardInterrupt, so the signal must not raise it. The second signal ends the process at once.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
