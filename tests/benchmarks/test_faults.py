"""The faults program with few tries: `make faults` makes all of them."""

import json
import subprocess
import sys

import pytest

from benchmarks import faults
from tests.conftest import ROOT


def test_every_fault_holds() -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--tries", "0.02", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)
    assert [row["fault"] for row in rows] == [fault.name for fault in faults.FAULTS]
    assert {row["result"] for row in rows} == {"held"}


def test_a_fault_that_does_not_hold_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(*_: object) -> None:
        faults.expect(False, "it broke")

    monkeypatch.setattr(faults, "_warm_up", lambda: None)
    monkeypatch.setattr(faults, "FAULTS", (faults.Fault("fire", "nothing burns", lambda: 2, attempt),))
    assert faults.main([]) == 1
    printed = capsys.readouterr()
    assert "2 FAILED" in printed.out
    assert "fire, try 1: it broke" in printed.err


def test_a_pattern_of_no_fault_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["--only", "fire*"]) == 2
    assert "--only 'fire*' is no fault: choose one of kill -9" in capsys.readouterr().err
