"""Small folders of images, and `main.py rank` with settings that take a fraction of a second."""

from pathlib import Path

import numpy as np
from PIL import Image

from main import main

CLASSES = ("cat", "dog", "owl")
SIDE = 12
FAST = [
    *("--dropout_iter=3", "--epochs=1", "--min_steps=30", "--augment=none", "--precision=float32", "--device=cpu"),
    *("--query=4", "--val_share=0"),
]


def rank(images: Path, *flags: object) -> int:
    """Rank with fast settings, which the given flags win over."""
    return main(["rank", str(images), *FAST, *map(str, flags)])


def draw(label: int, seed: int, *, side: int = SIDE) -> Image.Image:
    """An image of a class: its pattern under noise, another with each seed."""
    pattern = np.random.default_rng(label).integers(0, 256, (side, side))
    noise = np.random.default_rng(100 + seed).normal(0, 40, (side, side))
    return Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8))


def make_folder(folder: Path, *, labelled: int = 3, pool: int = 30) -> dict[str, str]:
    """Write images: some of each class in its folder, the others at the top. Return the truth of the pool."""
    truth = {}
    for number in range(pool):
        name = f"{number:03}.png"
        truth[name] = CLASSES[number % 3]
        save(draw(number % 3, number), folder / name)
    for number in range(3 * labelled):
        save(draw(number % 3, 1000 + number), folder / CLASSES[number % 3] / f"{number}.png")
    return truth


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def fill_in(batch: Path, truth: dict[str, str], *, only: int | None = None) -> Path:
    """Answer a batch: a label in place of the empty cell of a line."""
    header, *lines = batch.read_text("utf-8").splitlines()
    names = [line.partition(",")[0] for line in lines]
    answered = [
        f"{name},{truth[name] if only is None or at < only else ''},x,{line.rpartition(',')[2]}"
        for at, (name, line) in enumerate(zip(names, lines, strict=True))
    ]
    batch.write_text("\n".join([header, *answered]) + "\n", "utf-8")
    return batch


def names(csv: Path) -> list[str]:
    """The file names of a ranking or a batch whose names need no quotes."""
    lines = csv.read_text("utf-8").splitlines()
    place = lines[0].split(",").index("file_name")
    return [line.split(",")[place] for line in lines[1:]]
