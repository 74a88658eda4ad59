"""The record of a run: the one definition of a round for who writes it, goes on from it or reports it.

`metrics.jsonl` is a line with the run's configuration and then a line a round; each line ends with the sha256 of itself
and of all lines before it, so that damage is seen and the whole rounds before it are kept. Seconds, which differ from
time to time, have a file of their own, so that equal runs have equal records. Nothing here is ever unpickled.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from load_data import DATASETS

Row = dict[str, Any]

MOST_CLASSES = 1000
"""Of a data set that this program does not know: as many as a table can show."""

Whole = Annotated[int, Field(ge=0, lt=2**63)]
Number = int | float
Share = Annotated[Number, Field(ge=0, le=1)]
Measure = Annotated[Number, Field(ge=0, lt=1e6)]
Indices = Annotated[tuple[Whole, ...], Field(strict=False)]
Numbers = Annotated[tuple[Number, ...], Field(strict=False)]


class Round(BaseModel):
    """What one round acquired and how good the model fitted after it is.

    `acquired_*` are in the order of choice, which is that of the scores where a function takes the highest; they are
    empty in round 0, which fits the initial images. What a score is, the registry of acquisition functions says.
    Errors and calibration are fractions, likelihoods nats an image; all with MC dropout (or without it, in a
    deterministic run), `test_*` on the whole test set, `validation_error` on the validation set (None if empty).
    `seconds` and `weights` are no part of the record, and no two rounds differ by them.

    Raises:
        ValidationError: for a value that is not of its kind or its range.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    round: Whole
    labelled: Whole
    acquired_train_index: Indices
    acquired_scores: Numbers
    acquired_labels: Indices
    test_error: Share
    test_nll: Measure | None = None
    test_ece: Measure | None = None
    validation_error: Share | None = None
    weight_decay: Number
    weight_decay_tuned: bool
    weights_sha256: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict, exclude=True, repr=False)
    weights: dict[str, Any] | None = Field(default=None, exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Round) and self.row() == other.row()

    __hash__ = None  # type: ignore[assignment]

    def row(self) -> Row:
        """Return what its line holds: the fields that it was made of, in the order of this class, then any others."""
        return self.model_dump(exclude_unset=True)


@dataclass(frozen=True)
class Record:
    """What the record in a run's folder says.

    Attributes:
        configuration: what decided the numbers, or None if that cannot be read.
        rounds: the rounds up to the first damage.
        whole: whether there is no damage (a file that is missing has none).
        fault: which value of which round is not what it should be, although the file is as it was written.
        counts_kept_images: whether it counts the images that `--classes` kept, as earlier versions did, and not those
            of the data set.
    """

    configuration: Row | None = None
    rounds: tuple[Round, ...] = ()
    whole: bool = True
    fault: str = ""
    counts_kept_images: bool = False


def read_record(run_folder: Path) -> Record:
    """Read a run's record; a file of other lines, or of rounds that do not follow each other, is damage as well."""
    header, rows, whole = read_chain(run_folder / "metrics.jsonl")
    if header is None:
        return Record(whole=whole)
    configuration: Any = header.get("configuration")
    if not isinstance(configuration, dict) or not all(
        isinstance(configuration.get(key, []), list) for key in ("classes", "class_names")
    ):
        return Record(whole=False)
    counts_kept_images = bool(configuration.get("classes")) and header.get("numbering") != "dataset"
    rounds: list[Round] = []
    fault = ""
    for row in rows:
        try:
            round_ = Round.model_validate(row)
        except ValidationError as error:
            fault = fault_of(error, f" of round {len(rounds)}")
            break
        if fault := _does_not_follow(round_, rounds, configuration, counts_kept_images):
            break
        rounds.append(round_)
    return Record(configuration, tuple(rounds), whole and not fault, fault, counts_kept_images)


def fault_of(error: ValidationError, where: str = "") -> str:
    """Return which value of a round cannot be, without pydantic's words."""
    first = error.errors()[0]
    value = "missing" if first["type"] == "missing" else str(first["input"])[:60]
    return f"{first['loc'][0]}{where} is {value!r}"


def record_lines(configuration: Row, rounds: Sequence[Round], counts_kept_images: bool) -> bytes:
    """Return the content of `metrics.jsonl`."""
    header: Row = {"configuration": configuration}
    if configuration.get("classes") and not counts_kept_images:  # records of other runs stay as they have always been
        header["numbering"] = "dataset"
    return chain([header, *(round_.row() for round_ in rounds)])


def _does_not_follow(round_: Round, before: Sequence[Round], configuration: Row, counts_kept_images: bool) -> str:
    """Return which value of a round cannot follow the rounds before it, or nothing."""
    number, images = len(before), len(round_.acquired_train_index)
    if (
        not images
        == len(round_.acquired_scores)
        == len(round_.acquired_labels)
        == (configuration.get("query", images) if before else 0)
    ):
        return (
            f"round {number} has {images} images, {len(round_.acquired_scores)} scores, "
            f"{len(round_.acquired_labels)} labels"
        )
    limit = class_count(configuration) or MOST_CLASSES
    classes: Any = configuration.get("classes")
    known = range(limit) if counts_kept_images else classes or range(limit)
    good = {
        "round": round_.round == number,
        "labelled": not before or round_.labelled == before[-1].labelled + images,
        "acquired_labels": all(label in known for label in round_.acquired_labels),
    }
    wrong = [key for key, is_good in good.items() if not is_good]
    return f"{wrong[0]} of round {number} is {str(getattr(round_, wrong[0]))[:60]!r}" if wrong else ""


def class_count(configuration: Mapping[str, Any]) -> int | None:
    """Return how many classes a run tells apart, as far as its configuration says."""
    dataset = DATASETS.get(str(configuration.get("dataset")))
    named = len(configuration.get("classes") or configuration.get("class_names", ()))
    return named or (dataset.class_count if dataset else None)


def read_seconds(run_folder: Path) -> tuple[list[Row], bool]:
    """Return the seconds of the rounds, and whether their file is whole (or missing); its first line is empty."""
    header, rows, whole = read_chain(run_folder / "seconds.jsonl")
    return ([], False) if header else (rows, whole)


def chain(rows: Sequence[Row]) -> bytes:
    """Render JSON lines, each with the sha256 of itself and of all lines before it."""
    lines, digest = [], ""
    for row in rows:
        digest = hashlib.sha256(digest.encode() + _json(row)).hexdigest()
        lines.append(_json({**row, "sha256": digest}))
    return b"\n".join(lines) + b"\n"


def read_chain(path: Path) -> tuple[Row | None, list[Row], bool]:
    """Return the first row, the rows after it up to the first damage, and whether the file is whole (or missing)."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, [], True
    rows: list[Row] = []
    digest = ""
    lines = content.split(b"\n")
    for line in lines[:-1]:
        try:
            row = json.loads(line)
            del row["sha256"]
            digest = hashlib.sha256(digest.encode() + _json(row)).hexdigest()
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        if _json({**row, "sha256": digest}) != line:
            break
        rows.append(row)
    whole = len(rows) == len(lines) - 1 and len(rows) > 0 and lines[-1] == b""
    return (rows[0] if rows else None), rows[1:], whole


def sealed(value: Row) -> bytes:
    """Render an object as indented JSON with the sha256 of its content."""
    return json.dumps({**value, "sha256": hashlib.sha256(_json(value)).hexdigest()}, allow_nan=False, indent=2).encode()


def read_sealed(path: Path, keys: set[str]) -> Row | None:
    """Return a sealed object that has these keys, or one from before there were seals, which has just these.

    It is None if the file is damaged or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
        seal = value.pop("sha256", None)
        if seal is None:
            whole = set(value) == keys
        else:
            whole = keys <= set(value) and seal == hashlib.sha256(_json(value)).hexdigest()
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None
    return value if whole else None


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
