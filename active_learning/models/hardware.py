"""What this machine has: the device and the precision that a run computes with, and the memory that is left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import torch
from threadpoolctl import threadpool_limits

from active_learning.settings.config import ConfigError
from cnn_model import Device, Precision

USED_OF_MEMORY = 0.5
"""What the passes of all runs may take of the memory that there is; blocks of images may take a quarter of the rest."""


def choose_device(wanted: str) -> Device:
    """Return the device for `--device`: auto takes cuda, then mps, then cpu.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    available: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    for device, there in available.items():
        if there and wanted in ("auto", device):
            return device
    raise ConfigError(f"--device {wanted} is not available on this machine: take --device auto or cpu.")


def choose_precision(wanted: str, device: Device) -> Precision:
    """Return the precision for `--precision`: auto takes bfloat16 only where the device computes it natively."""
    if wanted != "auto":
        return cast(Precision, wanted)
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and _cpu_computes_bfloat16()
    return "bfloat16" if native else "float32"


def _cpu_computes_bfloat16() -> bool:
    """Return whether the processor has bfloat16 instructions that oneDNN uses; elsewhere they are emulated, slowly.

    (torch's own `_is_mkldnn_bf16_supported` is true wherever oneDNN can emulate them.)
    """
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in _BFLOAT16_CAPABILITIES)


_BFLOAT16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")  # the last is ARM's


@contextmanager
def computing_threads(threads: int) -> Iterator[None]:
    """Give torch and numpy so many threads: the field of Minimum Bayes Risk is numpy's, and sums depend on them too."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def available_memory() -> int | None:
    """Return the bytes that this process can still have without swapping, or None where the system does not say.

    The least of what the machine, its control group (a container's) and the process's own limits leave.
    """
    left = [_free_memory(), *map(_left_in_group, _GROUPS), _left_of_limit()]
    return min((size for size in left if size is not None), default=None)


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError, AttributeError):  # no such name on macOS, no such function on Windows
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def _left_in_group(files: tuple[str, str]) -> int | None:
    with suppress(OSError, ValueError):  # "max" is no limit
        most, used = (int(Path(file).read_text("ascii")) for file in files)
        return max(0, most - used + _cached(Path(files[1]).with_name("memory.stat")))
    return None


def _cached(statistics: Path) -> int:
    """Return the bytes of files that a control group keeps in memory and gives back when they are needed."""
    with suppress(OSError, ValueError):
        entries = dict(line.split() for line in statistics.read_text("ascii").splitlines())
        return sum(int(entries.get(name, 0)) for name in ("active_file", "inactive_file"))
    return 0


def _left_of_limit() -> int | None:
    with suppress(ImportError, OSError, ValueError, IndexError):  # Windows has no such limits, macOS no /proc
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
            return max(0, most - used)
    return None
