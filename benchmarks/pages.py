"""Seconds that the report of a large result folder takes: `python -m benchmarks.pages`.

The folder is made up (30 runs of 100 rounds, with the images of the embedded digits), the report is the real one.
"""

import tempfile
import time
from pathlib import Path

from jsonargparse import auto_cli

from active_learning.report import write_report
from load_data import load_data
from tests.result_folders import write_experiment


def main(repetitions: int = 6, rounds: int = 100) -> None:
    """Write the report of five functions, and print the seconds.

    Args:
        repetitions: of each function.
        rounds: of each run.
    """
    data = load_data("mnist_5k")
    with tempfile.TemporaryDirectory() as folder:
        write_experiment(
            Path(folder), repetitions, rounds, determ=False, train_labels=data.train_labels, dataset="mnist_5k"
        )
        start, start_cpu = time.perf_counter(), time.process_time()
        report = write_report(Path(folder))
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        runs = len(report.summary.results.runs)
        size = report.page.stat().st_size / 2**20
    print(
        f"Report of {runs} runs of {rounds} rounds: {seconds:.1f} s ({cpu:.1f} s of processor time), page {size:.1f} MB"
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
