"""Runs that several tests look at, made once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import tiny
from load_data import DATASETS
from main import main

ROOT = Path(__file__).parent.parent

TINY = [
    *("--dataset=tiny", "--rounds=2", "--query=4", "--epochs=2", "--min_steps=0", "--batch_size=8"),
    *("--dropout_iter=4", "--pool_subset=50", "--weight_decay=0", "--val_size=10", "--experiments=2"),
    *("--precision=float32", "--jobs=1", "--acq_func", "bald", "uniform"),
]

EMBEDDED = [
    *("--dataset=mnist_5k", "--rounds=2", "--epochs=2", "--min_steps=0", "--dropout_iter=3"),
    *("--pool_subset=50", "--experiments=2", "--acq_func=3", "--determ"),
]

Tiny = Callable[..., int]


@pytest.fixture
def tiny_main(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """main.py with the flags of `TINY` before the given ones; no report is written."""
    for name, spec in tiny.SPECS.items():
        monkeypatch.setitem(DATASETS, name, spec)
    monkeypatch.setattr("active_learning.report.write.draw_curves", lambda *_: None)
    monkeypatch.setattr("active_learning.report.write.write_report", tiny.no_report)
    return lambda *flags: main([*TINY, *map(str, flags)])


@pytest.fixture(scope="session")
def embedded_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """The command line on the embedded data, two runs side by side: its result folder and what it printed."""
    folder = tmp_path_factory.mktemp("embedded")
    command = [sys.executable, str(ROOT / "main.py"), *EMBEDDED, "--jobs", "2", "--result_dir", str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, and the sums of one thread always come in the same order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
