"""An example for `main.py rank`: a folder of digits as PNGs, and the truth to answer from.

python -m benchmarks.example_images digits --count 4000 --labelled 20   the folder, and beside it digits_truth.csv
python -m benchmarks.example_images digits --answer BATCH               fill in the labels of a batch.csv
python -m benchmarks.example_images digits --check RANKING              how often a ranking.csv errs on the pool
python -m benchmarks.example_images digits --rounds 5                   rounds by two functions, answered from the truth
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from active_learning.disk.files import refusal, write_atomically
from active_learning.images.tables import csv_text, normal, read_csv
from active_learning.settings.config import ConfigError
from active_learning.settings.flags import Parser
from active_learning.terminal import fail
from load_data import DataError, load_data
from main import main as rank


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder, answer a batch, or check a ranking; return the exit code."""
    parser = Parser(
        prog="python3 -m benchmarks.example_images", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="folder of the images")
    parser.add_argument("--count", type=int, default=4000, help="images (default: 4000)")
    parser.add_argument("--labelled", type=int, default=20, help="how many of them have a label (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="which images, in which order (default: 0)")
    parser.add_argument("--dataset", default="mnist_5k", help="whose training images (default: mnist_5k)")
    parser.add_argument("--data_dir", type=Path, help="where the data set is, as in main.py")
    parser.add_argument("--answer", type=Path, metavar="BATCH", help="fill in the labels of this file")
    parser.add_argument("--check", type=Path, metavar="RANKING", help="print the error of this ranking's predictions")
    parser.add_argument("--rounds", type=int, metavar="N", help="rank by PowerBALD and at random, each N rounds long")
    try:
        flags, others = parser.parse_known_args(argv)
        if others and not flags.rounds:
            parser.error(f"these belong to no flag: {' '.join(others)}")
        if not 0 <= flags.labelled <= flags.count or flags.count < 1:
            words = f"--count {flags.count} --labelled {flags.labelled}"
            parser.error(f"{words} is not allowed: it takes at least one image, and at most as many labels")
        if flags.rounds is not None and flags.rounds < 1:
            parser.error(f"--rounds {flags.rounds} is not allowed: it takes a number of at least 1")
        if flags.seed < 0:
            parser.error(f"--seed {flags.seed} is not allowed: it takes a number of at least 0")
    except ConfigError as error:
        return fail(2, str(error), "example_images")
    truth = flags.folder.with_name(f"{flags.folder.name}_truth.csv")
    if (flags.answer or flags.check or flags.rounds) and not truth.exists():
        words = shlex.join(["python3", "-m", "benchmarks.example_images", str(flags.folder)])
        return fail(2, f"there is no {truth}: {words} makes the folder and its truth.", "example_images")
    try:
        return _do(flags, others, truth)
    except (DataError, OSError) as error:
        return fail(1, refusal(error) if isinstance(error, OSError) else str(error), "example_images")
    except KeyError as error:
        return fail(1, f"{truth} has no image {error}: give a file of the ranking of {flags.folder}.", "example_images")


def _do(flags: argparse.Namespace, others: Sequence[str], truth: Path) -> int:
    if flags.answer:
        answer(flags.answer, truth)
    elif flags.rounds:
        for function in ("power_bald", "uniform"):
            errors = walk(flags.folder, truth, function, flags.rounds, others)
            print(f"{function}: errors on the rest after 0 to {flags.rounds} rounds, %: {errors}")
    elif flags.check:
        wrong, images = check(flags.check, truth)
        print(f"{wrong} of {images} images of the pool are taken for another digit: {wrong / max(images, 1):.2%}")
    else:
        data = load_data(flags.dataset, flags.data_dir)
        make(flags.folder, truth, data.train_images[:, 0], data.train_labels, flags.count, flags.labelled, flags.seed)
    return 0


def make(
    folder: Path,
    truth: Path,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    count: int,
    labelled: int,
    seed: int,
) -> None:
    """Write images in random order: of each class equally many into its folder, the others to the top."""
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    left = dict.fromkeys(range(10), labelled // 10)
    rows = []
    for number, index in enumerate(order.tolist()):
        label = int(labels[index])
        name = f"{label}/{number:05}.png" if left[label] > 0 else f"{number:05}.png"
        left[label] -= 1
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(path)
        rows.append((name, label))
    write_atomically(truth, csv_text(("file_name", "label"), rows))


def walk(folder: Path, truth: Path, function: str, rounds: int, flags: Sequence[str]) -> str:
    """Rank, answer and rank again; return the errors on the rest of the images after each round, in per cent.

    Args:
        folder: the images.
        truth: their labels.
        function: the acquisition function.
        rounds: how often a batch is answered.
        flags: others, for `main.py rank`.
    """
    results = folder.with_name(f"{folder.name}_ranking_{function}")
    if results.exists():
        raise DataError(f"{results} is there already, with rounds of its own: delete it to walk anew.")
    batch, errors = results / "batch.csv", []
    for round_ in range(rounds + 1):
        words = ["rank", str(folder), "--acq_func", function, "--result_dir", str(results), "--val_share=0", "--quiet"]
        if round_:
            answer(batch, truth)
            words += ["--labels", str(batch)]
        if code := rank([*words, *flags]):
            raise SystemExit(code)
        wrong, images = check(results / "ranking.csv", truth)
        errors.append(f"{100 * wrong / max(images, 1):.1f}")
    return ", ".join(errors)


def answer(batch: Path, truth: Path) -> None:
    """Fill in the labels of a batch, as a person would."""
    labels = {row.file_name: row.label for row in read_csv(truth)}
    read_csv(batch)  # which says what is wrong with it
    with batch.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    place, name = header.index("label"), header.index("file_name")
    for row in rows:
        row[place] = labels[normal(row[name])]
    write_atomically(batch, csv_text(header, rows))


def check(ranking: Path, truth: Path) -> tuple[int, int]:
    """Return how many images of the pool a ranking takes for another class, and how many there are."""
    labels = {row.file_name: row.label for row in read_csv(truth)}
    read_csv(ranking, needs_label=False)
    with ranking.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and "predicted_label" not in rows[0]:
        raise DataError(f"{ranking} has no column predicted_label: give the ranking.csv of a ranking.")
    wrong = sum(labels[normal(row["file_name"])] != row["predicted_label"] for row in rows)
    return wrong, len(rows)


if __name__ == "__main__":
    sys.exit(main())
