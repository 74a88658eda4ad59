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
from active_learning.interruption import Check, until_stopped
from active_learning.settings.config import ConfigError
from active_learning.settings.flags import Parser
from active_learning.terminal import fail, with_streams
from load_data import DataError, load_data
from main import main as rank


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder, answer a batch, or check a ranking; return the exit code."""
    stopped = "stopped; what is written stays."
    return with_streams(
        "example_images",
        lambda: until_stopped(lambda check: _main(argv, check), lambda code: fail(code, stopped, "example_images")),
    )


def _main(argv: Sequence[str] | None, look: Check) -> int:
    parser = Parser(
        prog="python3 -m benchmarks.example_images", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", help="folder of the images")
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
        if not Path(flags.folder).name:
            parser.error(f"{flags.folder!r} is no folder with a name, such as digits")
        if not 0 <= flags.labelled <= flags.count or flags.count < 1:
            words = f"--count {flags.count} --labelled {flags.labelled}"
            parser.error(f"{words} is not allowed: it takes at least one image, and at most as many labels")
        if flags.rounds is not None and flags.rounds < 1:
            parser.error(f"--rounds {flags.rounds} is not allowed: it takes a number of at least 1")
        if flags.seed < 0:
            parser.error(f"--seed {flags.seed} is not allowed: it takes a number of at least 0")
    except ConfigError as error:
        return fail(2, str(error), "example_images")
    folder = Path(flags.folder)
    truth = folder.with_name(f"{folder.name}_truth.csv")
    if (flags.answer or flags.check or flags.rounds) and not truth.exists():
        words = shlex.join(["python3", "-m", "benchmarks.example_images", str(folder)])
        return fail(2, f"there is no {truth}: {words} makes the folder and its truth.", "example_images")
    try:
        return _do(flags, others, folder, truth, look)
    except (DataError, ConfigError, OSError) as error:
        words = refusal(error) if isinstance(error, OSError) else str(error)
        return fail(2 if isinstance(error, ConfigError) else 1, words, "example_images")
    except KeyError as error:
        return fail(1, f"{truth} has no image {error}: give a file of the ranking of {folder}.", "example_images")


def _do(flags: argparse.Namespace, others: Sequence[str], folder: Path, truth: Path, look: Check) -> int:
    for flag, path in (("answer", flags.answer), ("check", flags.check)):
        if path is not None and not path.is_file():
            raise ConfigError(f"--{flag} {path} is no file: give the CSV of a ranking.")
    if flags.answer:
        answer(flags.answer, truth)
    elif flags.rounds:
        for function in ("power_bald", "uniform"):
            look()
            errors = walk(folder, truth, function, flags.rounds, others)
            print(f"{function}: errors on the rest after 0 to {flags.rounds} rounds, %: {errors}")
    elif flags.check:
        wrong, images = check(flags.check, truth)
        print(f"{wrong} of {images} images of the pool are taken for another digit: {wrong / max(images, 1):.2%}")
    else:
        if truth.exists() or (folder.exists() and any(folder.iterdir())):
            raise ConfigError(f"{folder} or {truth} is there already: name another folder, or delete both.")
        data = load_data(flags.dataset, flags.data_dir, look)
        if flags.count > len(data.train_images):
            raise ConfigError(
                f"--count {flags.count} is too large: {flags.dataset} has {len(data.train_images)} training images."
            )
        if flags.labelled % data.class_count:
            raise ConfigError(
                f"--labelled {flags.labelled} is not allowed: each of the {data.class_count} classes has equally many."
            )
        labels = data.train_labels
        order = np.random.default_rng(flags.seed).permutation(len(labels))[: flags.count]
        each = flags.labelled // data.class_count
        if (fewest := int(np.bincount(labels[order], minlength=data.class_count).min())) < each:
            raise ConfigError(
                f"--labelled {flags.labelled} is too large: of {flags.count} images one class has {fewest}; give at "
                f"most {fewest * data.class_count}."
            )
        make(folder, truth, data.train_images[order], labels[order], each, look)
    return 0


def make(
    folder: Path,
    truth: Path,
    images_nchw: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    each: int,
    look: Check = lambda: None,
) -> None:
    """Write images: the first `each` of every class into its folder, the others to the top."""
    left = dict.fromkeys(np.unique(labels).tolist(), each)
    rows = []
    for number, (image_chw, label) in enumerate(zip(images_nchw, labels.tolist(), strict=True)):
        look()
        name = f"{label}/{number:05}.png" if left[label] > 0 else f"{number:05}.png"
        left[label] -= 1
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(image_chw, 0, -1).squeeze()).save(path)  # grey without its axis
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
            way = f"the rounds of {function} end here: delete {results} to walk anew."
            raise SystemExit(fail(code, way, "example_images"))
        wrong, images = check(results / "ranking.csv", truth)
        errors.append(f"{100 * wrong / max(images, 1):.1f}")
    return ", ".join(errors)


def answer(batch: Path, truth: Path) -> None:
    """Fill in the labels of a batch, as a person would."""
    labels = {row.file_name: row.label for row in read_csv(truth)}
    read_csv(batch)  # which says what is wrong with it
    header, rows = _table(batch)
    place, name = header.index("label"), header.index("file_name")
    for row in rows:
        row[place] = labels[normal(row[name])]
    write_atomically(batch, csv_text(header, rows))


def check(ranking: Path, truth: Path) -> tuple[int, int]:
    """Return how many images of the pool a ranking takes for another class, and how many there are."""
    labels = {row.file_name: row.label for row in read_csv(truth)}
    read_csv(ranking, needs_label=False)
    header, rows = _table(ranking)
    if "predicted_label" not in header:
        raise DataError(f"{ranking} has no column predicted_label: give the ranking.csv of a ranking.")
    name, predicted = header.index("file_name"), header.index("predicted_label")
    return sum(labels[normal(row[name])] != row[predicted] for row in rows), len(rows)


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the columns' names and the rows of a CSV that `read_csv` takes, which keeps no other columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    return [name.strip() for name in header], rows


if __name__ == "__main__":
    sys.exit(main())
