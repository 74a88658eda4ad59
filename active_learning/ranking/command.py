"""`main.py rank IMAGES`: which images to label next. Takes labels in, asks for more, and goes on where it was.

In the result folder: `ranking.csv` (the batch in the order of choice, then the rest of the pool), `batch.csv` (the
batch, with a column to fill in), `index.html`, `skipped.csv`, `journal.jsonl` and the cache of decoded images.
"""

import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from active_learning.disk.files import StoreError, locked, write_if_changed
from active_learning.images.files import Listing, find_images
from active_learning.images.library import MOST_SIDE, Label, Library, given_labels, open_library
from active_learning.images.tables import csv_text, spreadsheet_safe
from active_learning.interruption import Watch
from active_learning.models.inference import is_of_device, is_out_of_memory
from active_learning.ranking.config import RankConfig
from active_learning.ranking.flags import read_flags
from active_learning.ranking.journal import Choice, Journal, digest
from active_learning.ranking.label_studio import interface, tasks
from active_learning.ranking.labels import new_labels, read_answers, unread
from active_learning.ranking.names import Names
from active_learning.ranking.page import how_chosen, render
from active_learning.ranking.rank import Inputs, Ranked, Ranking, Round, machine
from active_learning.settings.config import MOST_PIXELS, ConfigError
from active_learning.settings.learners import Weights
from active_learning.settings.networks import NETWORKS
from active_learning.terminal import counted
from cnn_model import NonFiniteLossError
from load_data import DataError

MOST_PRETRAINED_SIDE = 224
"""As `MOST_SIDE`, for a pretrained network: the size that it was trained on."""

Check = Callable[[], None]


def main(argv: Sequence[str], check: Check) -> int:
    """Rank what the words name; return the exit code 0.

    Raises:
        ConfigError: for wrong usage.
        DataError, StoreError: for images, labels or a journal that cannot be used.
        OSError: when a disk fails.
    """
    config = read_flags(argv)
    weights = "a file of weights such as resnet18-f37072fd.pth, default, or none"
    for flag, path, takes in (
        ("labels", config.labels, "a CSV or a JSON file"),
        ("weights", config.weights_file, weights),
    ):
        try:
            if path is not None:  # before anything that takes a while
                path.stat()
        except OSError as error:
            raise ConfigError(f"--{flag} {path} cannot be read ({error.strerror}): it takes {takes}.") from error
    machine(config)  # which may not have the device that is wanted
    start = time.perf_counter()
    listing = find_images(config.images, flat=config.flat, check=check)  # before a folder is made for what is not there
    with locked(config.folder, another=False):
        session = _Session(config, check)
        session.seconds["find"] = time.perf_counter() - start
        session.go(listing)
    return 0


class _Session:
    """One call of the command, with its result folder held."""

    def __init__(self, config: RankConfig, check: Check) -> None:
        self.config, self.check = config, check
        self.seconds: dict[str, float] = {}
        self.journal = Journal(config.folder / "journal.jsonl")

    def go(self, listing: Listing) -> None:
        """Take labels in, rank, write."""
        config = self.config
        smallest = NETWORKS[config.network].smallest
        limits = (smallest, MOST_PRETRAINED_SIDE if config.weights != "none" else max(smallest, MOST_SIDE))
        library = open_library(
            listing, config.folder / "cache", config.image_size, limits, self.progress, self.check, self._check_journal
        )
        self._tell_of_images(listing, library)
        names = Names(library, self.journal.asked())
        labels, classes = self._labels(listing, library, names)
        self._spare_answers(names)
        inputs, sha256, pretrained = self._inputs(library)
        round_ = self._round(library, inputs, pretrained, labels, 1)
        number = self.journal.round_of(state := digest([round_.state, sha256]))
        ranking = self._result(self._round(library, inputs, pretrained, labels, number))
        self._spare_answers(names)  # the training may have taken long enough for the user to fill them in
        if ranking.choices:
            about = {"labels": ranking.labels, "classes": list(ranking.classes), "settings": round_.state["settings"]}
            self.journal.add_round(number, state, config.acquisition, ranking.choices, about)
        with self.timed("write"):  # without choices too, so that no file asks any more for what is labelled
            self._write(listing, library, labels, classes, ranking)
        if not ranking.choices:
            self.say(f"All {len(library.pictures)} images are labelled: there is nothing left to ask for.")
            return
        self._tell(ranking, library)

    def _labels(self, listing: Listing, library: Library, names: Names) -> tuple[dict[str, Label], list[str]]:
        """Return all labels, and all classes, once what is new is in the journal."""
        journal, place = self.journal, str(self.config.folder / "journal.jsonl")
        given = given_labels(listing, library)
        kept = {sha256: Label(name, file, place) for sha256, (file, name) in journal.labels().items()}
        self._tell_of_answers(given, kept)
        asked = {sha256 for _, sha256 in journal.asked()}
        journal.add_found({sha: (label.file_name, label.name) for sha, label in given.items() if sha in asked})
        known = {**given, **kept}
        classes = {label.name for label in known.values()} | journal.classes() | set(self.config.add_classes)
        if self.config.labels is not None:
            known |= self._taken_in(self.config.labels, names, known, classes)
        if added := sorted(set(self.config.add_classes) - journal.classes()):
            journal.add_classes(added)
        there = {picture.sha256 for picture in library.pictures}
        if lost := sum(sha256 not in there for sha256 in known):
            self.note(f"Labelled images that are gone, or have changed: {lost}. Their labels are kept, and not used.")
        every = classes | {label.name for label in known.values()}
        return {sha256: label for sha256, label in known.items() if sha256 in there}, sorted(every)

    def _taken_in(
        self, path: Path, names: Names, known: Mapping[str, Label], classes: Collection[str]
    ) -> dict[str, Label]:
        """Return the labels of a file that are new, once they are in the journal."""
        answers = read_answers(path, names)
        new = new_labels(answers, names, known, self._stored(), classes, relabel=self.config.relabel)
        if new:
            rows = {sha256: (label.file_name, label.name) for sha256, label in new.items()}
            self.journal.add_labels(rows, str(path))
        count = sum(bool(answer.label) for answer in answers)
        without = f", {counted(len(answers) - count, 'task')} without an answer" if count < len(answers) else ""
        self.say(f"{path}: {counted(count, 'label')}, {len(new)} of them new{without}.")
        renamed = [(answer.file_name, now) for answer in answers if (now := names.renamed(answer))]
        if renamed:
            self.note(
                f"Labels of files that were renamed since they were asked for: {len(renamed)} (the first: "
                f"{renamed[0][0]!r}, now {renamed[0][1]!r}). They stay with the images that were asked for."
            )
        return new

    def _tell_of_answers(self, given: Mapping[str, Label], kept: Mapping[str, Label]) -> None:
        for sha256, label in given.items():
            if sha256 in kept and kept[sha256].name != label.name and not self.config.relabel:
                self.note(
                    f"{label.file_name} is {label.name!r} in {label.where} and was answered {kept[sha256].name!r}: the "
                    "answer is taken."
                )

    def _check_journal(self, there: Collection[str]) -> None:
        held = {*self.journal.labels(), *self.journal.before(sys.maxsize)}
        if held and held.isdisjoint(there):
            raise ConfigError(
                f"--result_dir {self.config.folder} holds the journal of other images: none of its {len(held)} is in "
                f"{self.config.images}; name another folder."
            )

    def _spare_answers(self, names: Names) -> None:
        """Refuse to write over labels that the user has filled in and not handed over."""
        for name in ("batch.csv", "ranking.csv"):
            path = self.config.folder / name
            if count := unread(path, names, self._stored()):
                raise StoreError(
                    f"{path} holds {counted(count, 'label that has', 'labels that have')} not been taken in, and would "
                    f"be written over: add --labels {shlex.quote(str(path))} to take them in, or delete the file."
                )

    def _stored(self) -> dict[str, str]:
        """Return the class of each content's sha256 that the journal has a label of."""
        return {sha256: label for sha256, (_, label) in self.journal.labels().items()}

    def _inputs(self, library: Library) -> tuple[Inputs, str, Weights | None]:
        """Return what the network takes of each image, and the weights' digest; the weights where they are trained."""
        if self.config.weights == "none":
            return library.pixels, "", None
        try:
            return self._pretrained_inputs(library)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DataError(
                "there is not enough memory for a pretrained network: give a smaller --image_size, or --weights none."
            ) from error

    def _pretrained_inputs(self, library: Library) -> tuple[Inputs, str, Weights | None]:
        from active_learning.models.pretrained import Pretrained
        from active_learning.ranking.features import features_of

        config = self.config
        if config.fine_tune:
            network = Pretrained(config.weights)
            return library.pixels, network.digest, network.weights()
        folder = config.folder / "cache"
        return *features_of(library, config.weights, folder, config.threads, self.progress, self.check), None

    def _round(
        self, library: Library, inputs: Inputs, pretrained: Weights | None, labels: Mapping[str, Label], number: int
    ) -> Round:
        return Round(
            self.config, library, inputs, labels, self.journal.before(number),
            self.journal.chosen(number, self.config.acquisition), number, timed=self.timed,
            progress=lambda folds: self.bar(folds, "estimate", len(folds)), watch=Watch(self.check, self.note),
            pretrained=pretrained,
        )  # fmt: skip

    def _result(self, round_: Round) -> Ranking:
        try:
            return round_.result()
        except (NonFiniteLossError, FloatingPointError) as error:
            exact = "--precision float32, or " * (round_.precision == "bfloat16")
            raise DataError(
                f"the network cannot be trained on these labels ({error}): no label is lost; try {exact}another --seed."
            ) from error
        except (MemoryError, RuntimeError) as error:
            if is_of_device(error) and not is_out_of_memory(error):
                raise DataError(
                    f"the device failed ({' '.join(str(error).split())}): no label is lost; try --device cpu."
                ) from error
            if not is_out_of_memory(error):
                raise
            passes = self.config.dropout_iter
            fewer = f" for --dropout_iter {passes} passes: give fewer, or" if passes > 1 else ": give"
            raise DataError(f"there is not enough memory{fewer} a smaller --image_size.") from error

    def _write(
        self,
        listing: Listing,
        library: Library,
        labels: Mapping[str, Label],
        classes: Sequence[str],
        ranking: Ranking,
    ) -> None:
        folder = self.config.folder
        files = {
            "ranking.csv": ranking_csv(ranking),
            "skipped.csv": skipped_csv(library),
            "index.html": render(self.config, listing, library, labels, classes, ranking),
            "batch.csv": batch_csv(ranking),
        }
        if self.config.export == "label_studio":
            choices, function = ranking.choices, self.config.acquisition
            files["label_studio.json"] = tasks(choices, ranking.round_, function, self.config.image_url)
            files["label_studio.xml"] = interface(classes)
        for name, content in files.items():
            write_if_changed(folder / name, content)

    def _tell_of_images(self, listing: Listing, library: Library) -> None:
        copies = sum(len(picture.others) for picture in library.pictures)
        others = f", {counted(listing.others, 'other file')}" if listing.others else ""
        self.say(
            f"{counted(len(library.pictures), 'image')}, {counted(copies, 'copy', 'copies')} of them, "
            f"{len(library.skipped)} left out{others}; "
            f"{library.decoded} decoded now, to {library.size} x {library.size} pixels."
        )
        for name, reason in list(library.skipped.items())[:3]:
            self.note(f"{name} is left out: {reason}.")
        if len(library.skipped) > 3:
            self.note(f"{len(library.skipped) - 3} more are left out: skipped.csv has them all.")
        count, first = library.extreme
        if count:
            larger = ", or give a larger --image_size" * (library.size < MOST_PIXELS)
            self.note(
                f"Images that are three times as long as they are wide, or more: {count} (the first: {first}). Pressed "
                f"into a square they lose detail: cut them up{larger}."
            )

    def _tell(self, ranking: Ranking, library: Library) -> None:
        rows = [
            [rank, one.picture.file_name, one.chosen_by, _number(one.score), one.predicted, _number(one.confidence)]
            for rank, one in enumerate(ranking.choices, 1)
        ]
        headers = ["rank", "file_name", "chosen by", "score", "predicted", "confidence"]
        self.say(tabulate(rows, headers, disable_numparse=True))
        self.say(" ".join(how_chosen(ranking, self.config.random_share)))
        self.say(
            f"Page: {self.config.folder / 'index.html'}; fill in the labels of {self.config.folder / 'batch.csv'}."
        )
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
        self.note(f"Seconds: {phases}.{_peak_memory()}")

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add to the seconds of a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def progress(self, items: Iterable[Any], phase: str, count: int) -> Iterator[Any]:
        """Pass items on under a bar, and time them."""
        with self.timed(phase):
            yield from self.bar(items, phase, count)

    def bar(self, items: Iterable[Any], phase: str, count: int) -> Iterator[Any]:
        """Pass items on under a bar, which stands on stderr and only in a terminal."""
        disable = self.config.quiet or None  # None: only without a terminal
        yield from tqdm(items, phase, count, unit="", file=sys.stderr, disable=disable, dynamic_ncols=True)

    def say(self, text: str) -> None:
        """Print to standard output, unless that is not wanted."""
        if not self.config.quiet:
            print(text)

    def note(self, text: str) -> None:
        """Print a remark to stderr, unless that is not wanted."""
        if not self.config.quiet:
            print(text, file=sys.stderr)


def ranking_csv(ranking: Ranking) -> bytes:
    """Return the batch in the order of choice, then the rest of the pool, most useful first."""
    header = ("rank", "file_name", "score", "predicted_label", "confidence")
    every = [_row(one) for one in ranking.choices] + [_row(one) for one in ranking.rest]
    return csv_text(header, ((rank, *row) for rank, row in enumerate(every, 1)))


def _row(one: Choice | Ranked) -> tuple[str, str, str, str]:
    name = spreadsheet_safe(one.picture.file_name)
    return name, _number(one.score), one.predicted, _number(one.confidence)


def batch_csv(ranking: Ranking) -> bytes:
    """Return the batch with a column to fill in; by its content's sha256 an answer stays with the image asked for."""
    rows = (
        (spreadsheet_safe(choice.picture.file_name), "", choice.predicted, choice.picture.sha256)
        for choice in ranking.choices
    )
    return csv_text(("file_name", "label", "predicted_label", "sha256"), rows)


def skipped_csv(library: Library) -> bytes:
    """Return the files that are left out, and those that are copies, with the reason."""
    copies = [(name, f"copy of {picture.file_name}") for picture in library.pictures for name in picture.others]
    rows = [*library.skipped.items(), *copies]
    return csv_text(("file_name", "reason"), ((spreadsheet_safe(name), reason) for name, reason in rows))


def _number(value: float | None) -> str:
    """Return a number to six digits, or nothing."""
    return "" if value is None else f"{value:.6g}"


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # Windows has no such module
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return f" Peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB."
