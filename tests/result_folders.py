"""Synthetic result folders: plausible learning curves, in the format that the store's docstring describes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from active_learning.disk.store import write_curves
from active_learning.settings.config import RunConfig

FLOORS = {"uniform": 0.037, "max_entropy": 0.0175, "bald": 0.018, "var_ratios": 0.0165, "mean_std": 0.021}
"""Errors that the curves tend to."""

SCALES = {"uniform": 110, "max_entropy": 80, "bald": 75, "var_ratios": 65, "mean_std": 95}
"""Images in which the curves fall by a factor e."""


def run_config(**changes: Any) -> RunConfig:
    """Return a run of the defaults, with changes."""
    fields: dict[str, Any] = {
        "dataset": "mnist_5k",
        "acquisition": "bald",
        "learner": "bayesian",
        "repetition": 0,
        "seed": 369,
        "rounds": 4,
        "query": 10,
        "pool_subset": 2000,
        "val_size": 100,
        "batch_size": 128,
        "epochs": 50,
        "lr": 1e-3,
        "dropout_iter": 100,
        "weight_decay": "tune",
        "warm_start": False,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return RunConfig(**{**fields, **changes})


def write_run(
    result_dir: Path,
    config: RunConfig,
    test_errors: Sequence[float],
    train_labels: npt.NDArray[np.int64] | None = None,
    train_indices: npt.NDArray[np.int64] | None = None,
) -> None:
    """Write a run whose test errors are given; everything else follows from its configuration."""
    rng = np.random.default_rng([config.repetition, len(config.name), *config.name.encode()])
    labels_n = np.arange(4000) % 10 if train_labels is None else train_labels
    order = rng.permutation(len(labels_n)) if train_indices is None else train_indices
    rows = [_row(round_, error, config, labels_n, order, rng) for round_, error in enumerate(test_errors)]
    seconds = [{"fit": 1.0 + config.repetition, "test": 0.5, "score": 0.25} for _ in rows]
    folder = result_dir / "runs" / config.name / f"repetition_{config.repetition}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(chained([{"configuration": config.identity()}, *rows]))
    numbered = [{"round": number, **row} for number, row in enumerate(seconds)]
    (folder / "seconds.jsonl").write_bytes(chained([{}, *numbered]))
    session = {"first_round": 0, "started": "2026-01-02T03:04:05+00:00", "commit": "0123abc", "python": "3.11.7"}
    session |= {"processor": "a processor", "platform": "a platform", "versions": {"torch": "2.14.1"}}
    (folder / "provenance.json").write_text(json.dumps({"sessions": [session]}), encoding="utf-8")
    acquired = np.array([row["acquired_train_index"] for row in rows[1:]], dtype=np.int64)
    np.save(folder / "acquired.npy", acquired.reshape(len(rows) - 1, config.query))
    np.save(folder / "test_error.npy", np.array(test_errors))
    write_curves(result_dir, config.name, config.rounds)


def chained(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return JSON lines as the store writes them: each with the sha256 of itself and of all lines before it."""
    content, digest = b"", ""
    for row in rows:
        digest = hashlib.sha256(digest.encode() + json.dumps(row).encode()).hexdigest()
        content += json.dumps({**row, "sha256": digest}).encode() + b"\n"
    return content


def write_experiment(
    result_dir: Path,
    repetitions: int = 3,
    rounds: int = 100,
    determ: bool = True,
    train_labels: npt.NDArray[np.int64] | None = None,
    **changes: Any,
) -> list[RunConfig]:
    """Write a whole experiment of five functions, by default with deterministic arms (of all but random)."""
    arms = [(name, "bayesian") for name in FLOORS]
    arms += [(name, "deterministic") for name in FLOORS if name != "uniform" and determ]
    configs = []
    for acquisition, learner in arms:
        for repetition in range(repetitions):
            config = run_config(
                acquisition=acquisition, learner=learner, repetition=repetition, rounds=rounds, **changes
            )
            write_run(result_dir, config, synthetic_curve(config), train_labels)
            configs.append(config)
    return configs


def synthetic_curve(config: RunConfig) -> list[float]:
    """Return test errors that fall from 45 % to the function's floor, with noise that repetitions do not share."""
    rng = np.random.default_rng([config.repetition, len(config.name), *config.name.encode()])
    acquired_r = config.query * np.arange(config.rounds + 1)
    worse = 1.0 if config.learner == "bayesian" else 1.3
    floor, scale = FLOORS[config.acquisition] * worse, SCALES[config.acquisition] * worse
    curve_r = floor + (0.45 - floor) * np.exp(-((acquired_r / scale) ** 0.8)) + 0.02 * 100 / (acquired_r + 400)
    return [float(error) for error in np.round(curve_r * rng.normal(1, 0.05, len(curve_r)).clip(0.8, 1.2), 4)]


def _row(
    round_: int,
    error: float,
    config: RunConfig,
    labels_n: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, Any]:
    acquired = order[(round_ - 1) * config.query : round_ * config.query] if round_ else order[:0]
    scores = sorted(rng.uniform(0, 2, len(acquired)).tolist(), reverse=True)
    return {
        "round": round_,
        "labelled": 20 + round_ * config.query,
        "acquired_train_index": acquired.tolist(),
        "acquired_scores": scores if config.acquisition != "uniform" else [0.0] * len(acquired),
        "acquired_labels": labels_n[acquired].tolist(),
        "test_error": error,
        "test_nll": error * 3,
        "test_ece": error / 4,
        "validation_error": error,
        "weight_decay": 3.5,
        "weight_decay_tuned": round_ == 0,
    }
