"""The journal of a ranking: what was asked, when, and what was answered. Nothing is ever taken out of it.

`journal.jsonl` has a JSON object a line, each sealed by the sha256 of itself and of all lines before it, and is put in
place whole, so that a process that is killed leaves it as it was or with one event more.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from active_learning.disk.files import StoreError, write_atomically
from active_learning.disk.record import chain, read_chain
from active_learning.images.library import Picture
from active_learning.terminal import counted

FORMAT = 1
ChosenBy = Literal["function", "random", "cover"]


@dataclass(frozen=True)
class Choice:
    """An image that is asked for.

    Attributes:
        picture: the image.
        chosen_by: the acquisition function, a lot, or the cover of the pool.
        score: what it was chosen for; None where a lot decided.
        predicted: the class that the network takes it for; empty without a network.
        confidence: the mean probability of that class over the passes.
    """

    picture: Picture
    chosen_by: ChosenBy
    score: float | None = None
    predicted: str = ""
    confidence: float | None = None


class Journal:
    """What has happened so far, in the order in which it did.

    Raises:
        StoreError: when the file is damaged, or of another program.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header, events, whole = read_chain(path)
        if (header is None and not whole) or (header is not None and header.get("format") != FORMAT):
            raise StoreError(
                f"{path} is no journal of this version, or damaged in its first line: put a copy of it back, or delete "
                "it and give all labels again."
            )
        if not whole:
            raise StoreError(
                f"{path} is damaged after {counted(len(events), 'whole event')}: put a copy of it back, or delete the "
                f"lines after line {len(events) + 1} and give the labels after that again."
            )
        self._header: dict[str, Any] = header or {"format": FORMAT, "program": "main.py rank"}
        self.events = events

    def add_labels(self, labels: Mapping[str, tuple[str, str]], source: str) -> None:
        """Keep labels.

        Args:
            labels: by the content's sha256, the file's name and the class.
            source: the file that they came from.
        """
        rows = [{"file_name": name, "sha256": sha256, "label": label} for sha256, (name, label) in labels.items()]
        self._append({"event": "labelled", "source": source, "labels": rows})

    def add_classes(self, names: Sequence[str]) -> None:
        """Keep classes that the user named."""
        self._append({"event": "classes", "classes": list(names)})

    def add_round(self, round_: int, state: str, acquisition: str, choices: Sequence[Choice], about: Any) -> None:
        """Keep what a round asks for; one that is there already is left as it is."""
        if any(event["round"] == round_ for event in self._rounds()):
            return
        rows = [
            {
                "file_name": choice.picture.file_name,
                "sha256": choice.picture.sha256,
                "chosen_by": choice.chosen_by,
                "score": choice.score,
                "predicted_label": choice.predicted,
                "confidence": choice.confidence,
            }
            for choice in choices
        ]
        row = {"event": "asked", "round": round_, "state": state, "acquisition": acquisition, "images": rows}
        self._append({**row, "about": about})

    def labels(self) -> dict[str, tuple[str, str]]:
        """Return the file's name and the class of each content's sha256: the last that was answered, in that order."""
        found: dict[str, tuple[str, str]] = {}
        for event in self.events:
            if event["event"] == "labelled":
                for row in event["labels"]:
                    found[row["sha256"]] = (row["file_name"], row["label"])
        return found

    def asked(self) -> list[tuple[str, str]]:
        """Return the file names that were asked for, each with its content's sha256, in that order."""
        return [(row["file_name"], row["sha256"]) for event in self._rounds() for row in event["images"]]

    def chosen(self, round_: int, acquisition: str) -> list[str]:
        """Return the content's sha256 of each image that a function chose before a round, in the order of choice."""
        rounds = [event for event in self._rounds() if event["round"] < round_ and event["acquisition"] == acquisition]
        rows = [row for event in rounds for row in event["images"] if row["chosen_by"] == "function"]
        return list(dict.fromkeys(row["sha256"] for row in rows))

    def add_found(self, labels: Mapping[str, tuple[str, str]]) -> None:
        """Keep labels that folders, or the CSV of the images, have got since; what they say now counts, not this.

        Args:
            labels: as in `add_labels`; what was found before is not kept again.
        """
        before = {row["sha256"]: row["label"] for event in self.events if event["event"] == "found"
                  for row in event["labels"]}  # fmt: skip
        rows = [
            {"file_name": name, "sha256": sha256, "label": label}
            for sha256, (name, label) in labels.items()
            if before.get(sha256) != label
        ]
        if rows:
            self._append({"event": "found", "labels": rows})

    def classes(self) -> set[str]:
        """Return the classes that the user named."""
        return {name for event in self.events if event["event"] == "classes" for name in event["classes"]}

    def round_of(self, state: str) -> int:
        """Return the round in which this was asked last, or the number of a new one; the first is 1."""
        rounds = self._rounds()
        if rounds and rounds[-1]["state"] == state:
            return int(rounds[-1]["round"])
        return len(rounds) + 1

    def _rounds(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "asked"]

    def before(self, round_: int) -> dict[str, ChosenBy]:
        """Return by whom each content was chosen in the rounds before this one."""
        rounds = [event for event in self._rounds() if event["round"] < round_]
        return {row["sha256"]: row["chosen_by"] for event in reversed(rounds) for row in event["images"]}

    def _append(self, event: dict[str, Any]) -> None:
        self.events.append({"when": datetime.now(UTC).isoformat(timespec="seconds"), **event})
        write_atomically(self._path, chain([self._header, *self.events]))


def digest(state: Any) -> str:
    """Return the sha256 of what decides a round."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
