"""Whether a scheduler answers, asked before anything that takes a while is imported."""

import shlex
import socket
import ssl
import time
from pathlib import Path

from active_learning.interruption import Check

PROGRAM_DIR = Path(__file__).resolve().parents[2]
"""What schedulers and workers need in PYTHONPATH."""

SECONDS = 5.0
"""How long one that was started a moment ago may take to answer."""


def await_scheduler(address: str, check: Check) -> None:
    """Wait until a scheduler answers at an address, `tcp://HOST:PORT` or `tls://HOST:PORT`.

    A scheduler is the first to speak. For anything else that listens, such as an SSH server's forwarded port or a web
    server, Dask's client would wait forever.

    Raises:
        ConnectionError: when none does.
    """
    host, _, port = address.partition("://")[2].rpartition(":")
    deadline = time.monotonic() + SECONDS
    while True:
        check()
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as there:
                if not (_first_byte_of_tls(there) if address.startswith("tls:") else there.recv(1)):
                    raise OSError("it hung up")
        except (OSError, OverflowError, UnicodeError) as error:
            if time.monotonic() > deadline:
                late = "timed out" if isinstance(error, TimeoutError) else getattr(error, "strerror", None)
                raise no_scheduler(address, late or str(error)) from error
            time.sleep(0.2)
        else:
            return


def _first_byte_of_tls(there: socket.socket) -> bytes:
    """Return the first byte that the other side says, or any where it wants a certificate: that is Dask's to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(there) as encrypted:
            return encrypted.recv(1)
    except ssl.SSLError:
        return b"?"


def no_scheduler(address: str, reason: str) -> ConnectionError:
    """Return the error of an address where no scheduler is."""
    start, client = f"{python_path()} dask scheduler --port {address.rpartition(':')[2]}", ""
    if address.startswith("tls:"):
        start += f" --protocol tls{tls_flags(address)}"
        names = ("CA_FILE=CA.pem", "CLIENT__CERT=CERT.pem", "CLIENT__KEY=KEY.pem")
        client = f" and this program with `{' '.join(f'DASK_DISTRIBUTED__COMM__TLS__{name}' for name in names)}`"
    return ConnectionError(
        f"--scheduler {address} does not answer as a Dask scheduler ({reason}): start one with `{start}`{client}, or "
        "leave the flag out to run on this machine"
    )


def python_path() -> str:
    """Return what a command of a scheduler or worker begins with, as a shell reads it."""
    return f"PYTHONPATH={shlex.quote(str(PROGRAM_DIR))}"


def tls_flags(address: str) -> str:
    """Return what a command of a scheduler or worker at an address takes besides."""
    return " --tls-ca-file CA.pem --tls-cert CERT.pem --tls-key KEY.pem" if address.startswith("tls:") else ""
