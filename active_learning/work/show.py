"""What a run ends with: the report is written, and the results are printed, whatever becomes of the report."""

from collections.abc import Sequence

from active_learning.disk.files import refusal
from active_learning.interruption import Check
from active_learning.settings.config import ExperimentConfig, RunConfig, data_name
from active_learning.terminal import fail
from active_learning.work.runner import Outcome


def show_outcome(config: ExperimentConfig, outcome: Outcome, check: Check) -> int:
    """Write the report, print results and failures; return the exit code."""
    reason = _show_results(config, outcome.runs, check) if len(outcome.failures) < len(outcome.runs) else ""
    if reason:
        anew = "" if outcome.failures else ", and runs nothing anew"
        fail(1, f"{reason}; the same command tries again{anew}.")
    for run, failure in outcome.failures.items():
        again = "" if "(try " in failure else "; the same command tries it again"  # in vain where a setting is to blame
        fail(1, f"{run.name}, repetition {run.repetition}, failed: {failure.rstrip('.')}{again}.")
    return 1 if outcome.failures or reason else 0


def _show_results(config: ExperimentConfig, runs: Sequence[RunConfig], check: Check) -> str:
    """Write the report and print the results; return why the report could not be written, if it could not.

    Whatever an error is, the runs are finished, and nothing may hide their results.
    """
    curves = f"Curves: {config.result_dir}/*.npy"
    try:
        from active_learning.report import write
        from active_learning.report.records import visible
        from active_learning.report.results import read_results
        from active_learning.report.summary import summarise

        summary = summarise(read_results(config.result_dir))
        asked_for = write.of_runs(summary, runs)
    except Exception as error:
        print(curves)
        return _not_written(error)
    reason, page = "", None
    try:
        write.draw_curves(asked_for, visible(f"Test error on {data_name(config.dataset)}"))
        check()
        report = write.write_report(summary, data_dir=config.data_dir, check=check)
        reason, page = "; ".join(sentence.rstrip(".") for sentence in report.failures), report.page
    except Exception as error:
        reason = _not_written(error)
    if config.json:
        print(write.numbers(asked_for, page))
    elif not config.quiet:
        print(write.table(asked_for), curves, sep="\n")
        print(f"Figures and tables: {page.parent}\nPage: {page}" if page else "The page was not written.")
    return reason


def _not_written(error: Exception) -> str:
    words = refusal(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
    return f"the report could not be written ({words.rstrip('.') or type(error).__name__})"
