"""Seconds that the report of a large result folder takes: `python -m benchmarks.pages`, or `make pages`.

The folder is made up (30 runs of 100 rounds, with the images of the embedded digits), the report is the real one. The
exit code is 1 if it takes more processor time than `LIMIT`, if a figure fails or if the page does not show every run.
"""

import sys
import tempfile
import time
from pathlib import Path

from jsonargparse import auto_cli

from active_learning.report.results import read_results
from active_learning.report.summary import summarise
from active_learning.report.write import write_report
from load_data import load_data
from tests.result_folders import write_experiment

LIMIT = 20.0  # seconds of processor time, which others on the machine do not lengthen as they do the clock's


def main(repetitions: int = 6, rounds: int = 100) -> int:
    """Write the report of five functions, print the seconds, and return the exit code.

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
        summary = summarise(read_results(Path(folder)))
        report = write_report(summary)
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        runs = len(summary.results.runs)
        size = report.page.stat().st_size / 2**20
        page = report.page.read_text(encoding="utf-8")
    print(
        f"Report of {runs} runs of {rounds} rounds: {seconds:.1f} s ({cpu:.1f} s of processor time), page {size:.1f} MB"
    )

    faults = [*report.failures, *summary.results.unreadable, *summary.results.missing]
    if runs != 5 * repetitions or page.count("--acq_func") != runs + 1:
        faults.append("The page does not show every run.")
    if cpu > LIMIT:
        faults.append(f"It took more than {LIMIT:g} seconds of processor time.")
    for sentence in faults:
        print(sentence, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(auto_cli(main, as_positional=False))
