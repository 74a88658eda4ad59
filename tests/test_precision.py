"""Curves of runs trained in bfloat16 and in float32, from the committed results."""

import pytest

from benchmarks.speed import precision_pairs


def test_training_in_bfloat16_changes_no_curve_beyond_the_spread_of_the_seeds() -> None:
    pairs = precision_pairs()
    if not pairs:
        pytest.skip("the runs of `make precision` are not here")
    for name, (difference, spread) in pairs.items():
        assert abs(difference) < spread, name
