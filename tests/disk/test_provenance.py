"""What numbers were computed with."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from active_learning.disk.provenance import commit_of, provenance

X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (X86, "AMD EPYC (avx2 avx512f avx512_bf16)"),
        (X86.replace(" avx512f avx512_bf16", ""), "AMD EPYC (avx2)"),
        (ARM, "aarch64 (asimd sve bf16)"),
        ("model name\t: old\nflags\t\t: fpu\n", "old"),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_instructions(
    content: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_text

    def read_text(path: Path, *words: Any, **options: Any) -> str:
        return content if path == Path("/proc/cpuinfo") else real(path, *words, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert provenance()["processor"] == expected


def test_a_commit_is_marked_where_its_code_was_changed_and_not_for_results(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.check_output(["git", "-C", str(tmp_path), *identity, *words], text=True).strip()

    git("init", "-q")
    assert commit_of(tmp_path) is None
    module, results = tmp_path / "package" / "module.py", tmp_path / "result_npy" / "curve.npy"
    for path in (module, results):
        path.parent.mkdir()
        path.write_text("1")
    git("add", "-A")
    git("commit", "-qm", "both")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    results.unlink()
    (tmp_path / "result_npy" / "new.npy").write_text("2")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    module.write_text("2")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD") + "+"
