"""main.py with two more data sets, whose runs take a fraction of a second: `python -m benchmarks.tiny FLAGS`.

`tiny` is grey, `tiny_colour` has three channels and more pixels. A Dask worker knows
them too, if it is started with `--preload benchmarks.tiny`.
"""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from active_learning.report.summary import Summary
from load_data import DATASETS, DatasetSpec, ImageData
from main import main

CLASSES = 10
TRAIN_SIZE, TEST_SIZE = 200, 100


def _load(channels: int, side: int, _data_dir: Path) -> ImageData:
    """One random pattern a class under so much noise that a network errs on some images and not on others."""
    rng = np.random.default_rng(20)
    patterns = rng.integers(0, 256, (CLASSES, channels, side, side))

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % CLASSES
        noise = rng.normal(0, 60, (size, channels, side, side))
        return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels.astype(np.int64)

    mean, std = (0.5,) * channels, (0.35,) * channels
    return ImageData(*draw(TRAIN_SIZE), *draw(TEST_SIZE), class_count=CLASSES, pixel_mean=mean, pixel_std=std)


SIZES = (TRAIN_SIZE // CLASSES,) * CLASSES
SPECS = {
    "tiny": DatasetSpec(partial(_load, 1, 12), SIZES, TEST_SIZE, "random patterns, for tests"),
    "tiny_colour": DatasetSpec(partial(_load, 3, 16), SIZES, TEST_SIZE, "random patterns in colour, for tests"),
}


def dask_setup(_worker: object) -> None:
    """Be called by a Dask worker that was started with this module as its preload."""
    DATASETS.update(SPECS)


def no_report(summary: Summary, *_: object, **__: object) -> SimpleNamespace:
    """Stand in for `write_report` where a run's report would only cost time: nothing is written, nothing failed."""
    return SimpleNamespace(page=summary.results.path / "report" / "index.html", failures=())


if __name__ in ("__main__", "__mp_main__"):  # the second in the worker processes of the first
    DATASETS.update(SPECS)

if __name__ == "__main__":
    sys.exit(main())
