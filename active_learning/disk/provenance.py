"""What numbers were computed with."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

VERSIONED = (
    "torch",
    "torchvision",
    "skorch",
    "modAL-python",
    "scikit-learn",
    "scipy",
    "numpy",
    "numba",
    "llvmlite",
    "pillow",
)

# One name is given to processors of several generations (a cloud's "AMD EPYC"): these tell them apart.
VECTOR_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16", "i8mm")


def provenance() -> dict[str, Any]:
    """Return what the numbers were computed with: versions, commit of this code, processor, time."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONED},
        "commit": _git_commit(),
        "platform": platform.platform(),
        "processor": _processor(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout this code stands in, with `+` if it has changes; None outside of one."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """Return the processor's name and those of its vector instructions that decide how torch rounds its sums."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    found = set((facts.get("flags") or facts.get("Features") or "").split())  # x86 and ARM name them so
    instructions = " ".join(name for name in VECTOR_INSTRUCTIONS if name in found)
    return facts.get("model name", platform.machine()) + (f" ({instructions})" if instructions else "")
