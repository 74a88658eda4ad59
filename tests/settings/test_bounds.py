"""Every number that has bounds, from both sides: what a message allows is allowed."""

import re
from dataclasses import Field, fields
from typing import Any

import pytest

from active_learning.ranking.config import RankConfig
from active_learning.ranking.flags import read_flags as read_rank_flags
from active_learning.settings.config import ConfigError, ExperimentConfig
from active_learning.settings.flags import read_flags

ALSO = {
    "coldness": ["--acq_func=power_bald"],
    "val_size": ["--weight_decay=1"],
    "mbr_neighbours": ["--mbr", "--classes", "2", "8"],
}
"""What a flag needs beside it to mean anything."""


def bounded(config: type) -> "list[Field[Any]]":
    return [entry for entry in fields(config) if entry.metadata.get("at_least") is not None]


CASES = [
    *(pytest.param(read_flags, ALSO.get(entry.name, []), entry, id=entry.name) for entry in bounded(ExperimentConfig)),
    *(pytest.param(read_rank_flags, ["images"], entry, id=f"rank-{entry.name}") for entry in bounded(RankConfig)),
]


@pytest.mark.parametrize(("read", "also", "entry"), CASES)
def test_what_a_message_allows_is_allowed(read: Any, also: list[str], entry: "Field[Any]") -> None:
    least, most = entry.metadata["at_least"], entry.metadata["at_most"]
    outside = [least - 1, *([] if most is None else [most + 1]), *(["1e400"] if entry.type is float else [])]
    for value in outside:
        with pytest.raises(ConfigError) as refused:
            read([*also, f"--{entry.name}={value}"])
        bounds = r"(?:of at least (\S+)|from (\S+) to (\S+))\."
        said = re.fullmatch(
            rf"--{entry.name} \S+ is not allowed: it takes a (?:finite )?number {bounds}", str(refused.value)
        )
        assert said is not None, str(refused.value)
        for allowed in filter(None, said.groups()):
            config = read([*also, f"--{entry.name}={allowed}"])
            assert getattr(config, entry.name) == float(allowed)


def test_there_are_bounds_to_try() -> None:
    assert len(CASES) > 25
