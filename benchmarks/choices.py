"""The study of choices: what each choice of the training is worth in labels.

`python -m benchmarks.choices --run true` (`make choices`) runs what is missing of the arms in `choices.yaml` into
`result_npy/choices/`, hours of it, and can be stopped and given again at any time; `--only '[NAME, ...]'` takes some
arms. Without `--run` (`make choices_page`) it writes `docs/choices.md` with its figure from what is there.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

from active_learning.settings.config import ExperimentConfig
from benchmarks.studies import run_study, write_study

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


def all_settings(results: Path, **others: Any) -> dict[str, ExperimentConfig]:
    """Return the settings of every arm by its name."""
    return {name: settings(name, flags, results, **others) for name, flags in arms(read_study()).items()}


def write(results: Path, page: Path) -> list[Path]:
    """Write the page and its figure."""
    from benchmarks.choices_page import write_page  # the processes that run the arms need no figures

    return write_page(read_study(), all_settings(results), page)


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
        return write_study(lambda: write(results, page))
    return run_study(lambda: all_settings(results, data_dir=data_dir, jobs=jobs), only)


if __name__ == "__main__":
    sys.exit(auto_cli(main, as_positional=False))
