"""main.py with one more data set, `tiny`, whose runs take a fraction of a second: `python -m benchmarks.tiny FLAGS`.

Importing this module registers the data set, also in a Dask worker: `dask worker ADDRESS --preload benchmarks.tiny`.
"""

import sys
from pathlib import Path

import numpy as np

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


DATASETS["tiny"] = DatasetSpec(_load, TRAIN_SIZE, TEST_SIZE, CLASSES, "random patterns, for tests")

if __name__ == "__main__":
    sys.exit(main())
