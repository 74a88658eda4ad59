"""main.py with one more data set, `tiny`, whose runs take a fraction of a second: `python -m benchmarks.tiny FLAGS`.

A Dask worker knows the data set too, if it is started with `--preload benchmarks.tiny`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from active_learning.report.summary import Summary
from load_data import DATASETS, DatasetSpec, ImageData
from main import main

CLASSES, SIDE = 10, 12
TRAIN_SIZE, TEST_SIZE = 200, 100


def _load(_data_dir: Path) -> ImageData:
    """One random pattern a class under so much noise that a network errs on some images and not on others."""
    rng = np.random.default_rng(20)
    patterns = rng.integers(0, 256, (CLASSES, 1, SIDE, SIDE))

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % CLASSES
        noise = rng.normal(0, 60, (size, 1, SIDE, SIDE))
        return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels.astype(np.int64)

    return ImageData(*draw(TRAIN_SIZE), *draw(TEST_SIZE), class_count=CLASSES, pixel_mean=0.5, pixel_std=0.35)


SPEC = DatasetSpec(_load, (TRAIN_SIZE // CLASSES,) * CLASSES, TEST_SIZE, "random patterns, for tests")


def dask_setup(_worker: object) -> None:
    """Be called by a Dask worker that was started with this module as its preload."""
    DATASETS["tiny"] = SPEC


def no_report(summary: Summary, **_: object) -> SimpleNamespace:
    """Stand in for `write_report` where a run's report would only cost time: nothing is written, nothing failed."""
    return SimpleNamespace(page=summary.results.path / "report" / "index.html", failures=())


if __name__ in ("__main__", "__mp_main__"):  # the second in the worker processes of the first
    DATASETS["tiny"] = SPEC

if __name__ == "__main__":
    sys.exit(main())
