"""Minimum Bayes Risk on the whole two-digit pool, with both graphs and both kinds of batch: `make fields`.

Repetition 0 of experiment 3: its split, its initial images, its test images. Each variant acquires as the experiment
does and is tested after every round. Prints a table and writes `result_npy/experiment_3/fields.json`, which the
notebook shows: test errors by round, seconds of the parts, and the time of the same expected risks by brute force (the
field solved anew for each candidate and label) where that can be waited for.
"""

import json
import resource
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from tabulate import tabulate

from active_learning.disk.files import write_atomically
from active_learning.disk.provenance import provenance
from active_learning.loop import split_and_labelled
from active_learning.models.field import SIGMA_GRID
from active_learning.models.mbr import (
    ZHU_NEIGHBOURS,
    ZHU_SIGMA,
    Batch,
    GaussianRandomField,
    choose_sigma,
    harmonic_function,
    rbf_weights,
)
from active_learning.settings.arms import planned_runs
from active_learning.settings.flags import read_flags
from load_data import DataError, ImageData, Splits, load_data, select_classes

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "active_learning" / "presets" / "experiment_3.yaml"
OUTPUT = ROOT / "result_npy" / "experiment_3" / "fields.json"
BRUTE_FORCE_SIZES = (100, 200, 400, 800)


def main(data_dir: Path | None = None, rounds: int = 10, output: Path = OUTPUT) -> None:
    """Measure every variant.

    Args:
        data_dir: where MNIST is.
        rounds: of each variant.
        output: the JSON file.
    """
    try:
        data, splits = _experiment_data(data_dir)
    except DataError as error:
        sys.exit(f"benchmarks: error: {error}")
    tuned, scores_s2 = _tuned_sigma(data, splits)
    graphs: list[tuple[int | None, float]] = [(ZHU_NEIGHBOURS, ZHU_SIGMA), (None, ZHU_SIGMA)]
    if tuned != ZHU_SIGMA:
        graphs.append((ZHU_NEIGHBOURS, tuned))
    batches: tuple[Batch, ...] = ("greedy", "lowest")
    variants = [_variant(data, splits, *graph, batch, rounds) for graph, batch in product(graphs, batches)]
    measured = {
        "variants": variants,
        "tuned_sigma": tuned,
        "sigma_grid": [[sigma, *scores] for sigma, scores in zip(SIGMA_GRID, scores_s2.tolist(), strict=True)],
        "brute_force": [_brute_force(data, size) for size in BRUTE_FORCE_SIZES],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "provenance": provenance(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, json.dumps(measured, indent=1).encode())
    print(tabulate([{**row, "test_errors": row["test_errors"][-1]} for row in variants], headers="keys"))
    print(f"Peak memory {measured['peak_mb']:.0f} MB; the same risks by brute force: {measured['brute_force']}")


def _experiment_data(data_dir: Path | None) -> tuple[ImageData, Splits]:
    run = planned_runs(read_flags(["--config", str(PRESET)]), "float32", "cpu")[0]
    data = select_classes(load_data(run.dataset, data_dir), run.classes)
    splits, data = split_and_labelled(run, data)
    return data, splits


def _nodes(splits: Splits) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.sort(np.concatenate([splits.initial, splits.pool]))


def _tuned_sigma(data: ImageData, splits: Splits) -> tuple[float, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    nodes = _nodes(splits)
    return choose_sigma(
        data.train_images[nodes],
        np.searchsorted(nodes, splits.initial),
        data.train_labels[splits.initial],
        data.train_images[splits.validation],
        data.train_labels[splits.validation],
        SIGMA_GRID,
        neighbours=ZHU_NEIGHBOURS,
    )


def _variant(
    data: ImageData, splits: Splits, neighbours: int | None, sigma: float, batch: Batch, rounds: int
) -> dict[str, Any]:
    """Acquire 10 images a round."""
    nodes = _nodes(splits)
    images, labels = data.train_images[nodes], data.train_labels[nodes]
    start = time.perf_counter()
    initial = np.searchsorted(nodes, splits.initial)
    field = GaussianRandomField.from_images(images, initial, labels[initial], sigma=sigma, neighbours=neighbours)
    build = time.perf_counter() - start
    errors, steps, updates = [float(np.mean(field.predict(data.test_images) != data.test_labels))], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        chosen = field.query(10, batch)
        steps.append((time.perf_counter() - start) / (10 if batch == "greedy" else 1))
        start = time.perf_counter()
        field.label(chosen, labels[chosen])
        updates.append((time.perf_counter() - start) / 10)
        errors.append(float(np.mean(field.predict(data.test_images) != data.test_labels)))
    return {
        "neighbours": neighbours,
        "sigma": sigma,
        "batch": batch,
        "nodes": len(nodes),
        "build_seconds": build,
        "step_seconds": float(np.median(steps)),
        "label_seconds": float(np.median(updates)),
        "test_errors": errors,
    }


def _brute_force(data: ImageData, size: int) -> dict[str, float]:
    """Score every candidate of a small graph both ways; return the seconds, and the largest difference in images."""
    chosen = np.random.default_rng(0).permutation(len(data.train_labels))[:size]
    images, labels = data.train_images[chosen], data.train_labels[chosen]
    labelled = [*np.flatnonzero(labels == 0)[:10], *np.flatnonzero(labels == 1)[:10]]
    weights = rbf_weights(images)
    field = GaussianRandomField.from_weights(weights, labelled, labels[labelled])
    start = time.perf_counter()
    risks = field.expected_risk()
    middle = time.perf_counter()
    probs = field.probabilities
    slow = np.full(size, np.inf)
    for k in field.unlabelled:
        after = [harmonic_function(weights, [*labelled, k], [*labels[labelled], y]) for y in (0, 1)]
        risk_0, risk_1 = (np.minimum(f, 1 - f).sum() for f in after)
        slow[k] = (1 - probs[k]) * risk_0 + probs[k] * risk_1
    end = time.perf_counter()
    finite = np.isfinite(slow)
    return {
        "nodes": size,
        "seconds": middle - start,
        "brute_force_seconds": end - middle,
        "largest_difference": float(np.abs(risks[finite] - slow[finite]).max()),
    }


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
