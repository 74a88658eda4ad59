"""The comparison of acquisition functions on data sets that are hard for some of them.

`python -m benchmarks.functions --run true` (`make functions`) runs what is missing of the studies in `functions.yaml`
into `result_npy/functions/`, hours of it, and can be stopped and given again at any time; `--only '[NAME, ...]'` takes
some studies. Without `--run` (`make functions_page`) it writes `docs/functions.md` with its figure from what is there.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

from active_learning.settings.config import ExperimentConfig
from benchmarks.studies import run_study, write_study

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "result_npy" / "functions"
PAGE = ROOT / "docs" / "functions.md"
STUDY = Path(__file__).with_suffix(".yaml")


def read_study() -> dict[str, Any]:
    """Return the content of `functions.yaml`."""
    study: dict[str, Any] = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    return study


def all_settings(study: dict[str, Any], results: Path, **others: Any) -> dict[str, ExperimentConfig]:
    """Return the settings of every study by its name: of all functions, or of its own."""
    return {
        name: ExperimentConfig(
            acq_func=tuple(entry.get("functions", study["functions"])),
            result_dir=results / name,
            **entry["flags"],
            **others,
        )
        for name, entry in study["studies"].items()
    }


def write(results: Path, page: Path) -> list[Path]:
    """Write the page and its figure."""
    from benchmarks.functions_page import write_page  # the processes that run the studies need no figures

    study = read_study()
    return write_page(study, all_settings(study, results), page)


def main(
    run: bool = False,
    only: tuple[str, ...] = (),
    data_dir: Path | None = None,
    jobs: int = 0,
    results: Path = RESULTS,
    page: Path = PAGE,
) -> int:
    """Run the comparison, or write its page.

    Args:
        run: run what is missing.
        only: run these studies only.
        data_dir: as for main.py.
        jobs: as for main.py.
        results: the folder of the studies' result folders.
        page: the page; its figure is written beside it.
    """
    if not run:
        return write_study(lambda: write(results, page))
    return run_study(lambda: all_settings(read_study(), results, data_dir=data_dir, jobs=jobs), only)


if __name__ == "__main__":
    sys.exit(auto_cli(main, as_positional=False))
