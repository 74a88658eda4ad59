"""The study of choices: what each choice of the training is worth in labels.

`python -m benchmarks.choices --run true` (`make choices`) runs what is missing of the arms in `choices.yaml` into
`result_npy/choices/`, hours of it, and can be stopped and given again at any time; `--only '[NAME, ...]'` takes some
arms. Without `--run` (`make choices_page`) it writes `docs/choices.md` with its figure from what is there.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

from active_learning.disk.files import StoreError
from active_learning.interruption import Interrupted, stoppable
from active_learning.settings.config import ConfigError, ExperimentConfig
from active_learning.work.runner import run_experiment
from load_data import DataError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "result_npy" / "choices"
PAGE = ROOT / "docs" / "choices.md"
STUDY = Path(__file__).with_suffix(".yaml")
BASE = "base"


def read_study() -> dict[str, Any]:
    """Return the content of `choices.yaml`."""
    study: dict[str, Any] = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    return study


def arms(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the flags of every arm by its name, the base first."""
    found = {BASE: dict(study["base"])}
    for question in study["questions"]:
        shorter = {"rounds": study.get("arm_rounds", study["base"]["rounds"])}
        found |= {name: {**study["base"], **shorter, **changes} for name, changes in question["arms"].items()}
    return found


def settings(name: str, flags: dict[str, Any], results: Path = RESULTS, **others: Any) -> ExperimentConfig:
    """Return an arm's settings."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in flags.items()}
    return ExperimentConfig(**values, result_dir=results / name, **others)


def run_arms(names: Sequence[str], results: Path, data_dir: Path | None, jobs: int, check: Callable[[], None]) -> int:
    """Run what is missing of some arms, one after the other; return the exit code."""
    every = arms(read_study())
    if unknown := [name for name in names if name not in every]:
        return _fail(2, f"--only {unknown[0]!r} is no arm of the study: choose of {', '.join(every)}.")
    failures = 0
    for name in names or every:
        config = settings(name, every[name], results, data_dir=data_dir, jobs=jobs)
        for failed, reason in run_experiment(config, check).failures.items():
            print(f"{name}: {failed.name}, repetition {failed.repetition}, failed: {reason}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def write(results: Path, page: Path) -> int:
    """Write the page and its figure; return the exit code."""
    from benchmarks.choices_page import PageError, write_page  # the processes that run the arms need no figures

    study = read_study()
    configs = {name: settings(name, flags, results) for name, flags in arms(study).items()}
    try:
        for path in write_page(study, configs, page):
            print(path)
    except (PageError, OSError) as error:
        return _fail(1, str(error))
    return 0


def _fail(code: int, sentence: str) -> int:
    print(f"choices: error: {sentence}", file=sys.stderr)
    return code


def main(
    run: bool = False,
    only: tuple[str, ...] = (),
    data_dir: Path | None = None,
    jobs: int = 0,
    results: Path = RESULTS,
    page: Path = PAGE,
) -> int:
    """Run the study, or write its page.

    Args:
        run: run what is missing.
        only: run these arms only.
        data_dir: as for main.py.
        jobs: as for main.py.
        results: the folder of the arms' result folders.
        page: the page; its figure is written beside it.
    """
    if not run:
        return write(results, page)
    try:
        with stoppable() as check:
            return run_arms(only, results, data_dir, jobs, check)
    except Interrupted as stop:
        return 128 + stop.signal_number
    except (ConfigError, DataError, StoreError, OSError) as error:
        return _fail(2 if isinstance(error, ConfigError) else 1, str(error))


if __name__ == "__main__":
    sys.exit(auto_cli(main, as_positional=False))
