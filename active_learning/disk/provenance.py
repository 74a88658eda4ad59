"""What numbers were computed with."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
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
        "commit": commit_of(ROOT),
        "platform": platform.platform(),
        "processor": _processor(),
    }


def commit_of(checkout: Path) -> str | None:
    """Return the commit of a checkout, with `+` if its modules differ from it; None outside of one.

    Results that the checkout holds change while runs are computed, and are not what computes them.
    """
    git = ("git", "-C", str(checkout))
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "*.py"], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changed.returncode else "") if changed.returncode in (0, 1) else None


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
