"""Whether a scheduler answers, asked before anything that takes a while is imported."""

import socket
import time

from active_learning.interruption import Check

SECONDS = 5.0
"""How long one that was started a moment ago may take to answer."""


def await_scheduler(address: str, check: Check) -> None:
    """Wait until a scheduler answers at an address, `tcp://HOST:PORT`; of `tls://HOST:PORT` until something listens.

    A scheduler is the first to speak. For anything else that listens, such as an SSH server's forwarded port, Dask's
    client would wait forever.

    Raises:
        ConnectionError: when none does.
    """
    host, _, port = address.partition("://")[2].rpartition(":")
    deadline = time.monotonic() + SECONDS
    while True:
        check()
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as there:
                if address.startswith("tcp:") and not there.recv(1):
                    raise OSError("it hung up")
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise no_scheduler(address, getattr(error, "strerror", None) or str(error)) from error
            time.sleep(0.2)
        else:
            return


def no_scheduler(address: str, reason: str) -> ConnectionError:
    """Return the error of an address where no scheduler is."""
    return ConnectionError(
        f"--scheduler {address} does not answer as a Dask scheduler ({reason}): start one with `dask scheduler`, or "
        "leave the flag out to run on this machine"
    )
