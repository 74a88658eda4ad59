"""The figures of others that stand beside ours, from `cited_figures.yaml`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from active_learning.report.results import Arm

DATA_FILE = Path(__file__).with_name("cited_figures.yaml")


@dataclass(frozen=True)
class Source:
    """Where figures come from: a column's heading, a reference, and what to know before comparing.

    `second_hand` figures were taken from a text that quotes the source.
    """

    label: str
    citation: str
    note: str
    url: str = ""
    second_hand: bool = False

    def __str__(self) -> str:
        """Return all of it in sentences."""
        quoted = "Quoted second-hand." if self.second_hand else ""
        return " ".join(filter(None, (f"{self.label}:", self.citation, self.url, quoted, self.note)))


@dataclass(frozen=True)
class CitedFigures:
    """The content of the data file.

    Attributes:
        sources: by key.
        conditions: configuration fields and the values that make a run comparable.
        acquired_to_reach: images acquired, by source, acquisition function and error level (a fraction).
        error_acquired: acquired images at which the test errors stand.
        error_labels: labelled images trained on, by source.
        error_validation_images: validation images that they were computed with, in words, by source.
        test_errors: fractions, by source, then acquisition function or technique.
    """

    sources: dict[str, Source]
    conditions: dict[str, object]
    acquired_to_reach: dict[str, dict[str, dict[float, float]]]
    error_acquired: int
    error_labels: dict[str, int]
    error_validation_images: dict[str, str]
    test_errors: dict[str, dict[str, float]]

    def comparable(self, arm: Arm) -> bool:
        """Whether an arm was run under the conditions of the cited figures."""
        configuration = arm.runs[0].configuration
        return all(configuration.get(key) == value for key, value in self.conditions.items())


@cache
def cited_figures() -> CitedFigures:
    """Read the data file."""
    content = yaml.safe_load(DATA_FILE.read_text(encoding="utf-8"))
    errors = dict(content["test_error"])
    return CitedFigures(
        sources={key: Source(**fields) for key, fields in content["sources"].items()},
        conditions=content["conditions"],
        acquired_to_reach=content["acquired_to_reach"],
        error_acquired=errors.pop("acquired"),
        error_labels=errors.pop("labels"),
        error_validation_images=errors.pop("validation_images"),
        test_errors={key: {name: value / 100 for name, value in row.items()} for key, row in errors.items()},
    )
