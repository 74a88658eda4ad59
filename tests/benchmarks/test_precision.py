"""Curves of runs trained in bfloat16 and in float32, from the committed results."""

import pytest

from benchmarks.speed import precision_pairs


@pytest.mark.parametrize("name", ["mean", "last_ten", "last"])
def test_training_in_bfloat16_changes_no_curve(name: str) -> None:
    """Neither beyond what the seeds differ by, nor beyond what chance makes of twenty of them."""
    pairs = precision_pairs()
    if not pairs:
        pytest.skip("the runs of `make precision` are not here")
    assert abs(pairs[name].difference) < pairs[name].spread
    assert abs(pairs[name].difference) < 3 * pairs[name].standard_error
