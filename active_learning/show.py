"""What a run ends with: the report is written, and the results are printed, whatever becomes of the report."""

from collections.abc import Callable, Sequence

from active_learning.config import ExperimentConfig, RunConfig


def show_results(config: ExperimentConfig, runs: Sequence[RunConfig], check: Callable[[], None]) -> str:
    """Write the report and print the results; return why the report could not be written, if it could not."""
    reason, page = "", None
    try:
        from active_learning.report import figure, write_report

        figure(config.result_dir, runs, f"Test error on {config.dataset}")
        check()
        report = write_report(config.result_dir, data_dir=config.data_dir)
        reason, page = "; ".join(sentence.rstrip(".") for sentence in report.failures), report.page
    except Exception as error:  # whatever it is: the runs are finished, and nothing may hide their results
        reason = f"the report could not be written ({str(error) or type(error).__name__})"
    try:
        from active_learning.report import numbers, table
        from active_learning.report.results import NoResultsError
    except Exception:  # a package that is broken, of which the reason speaks already
        print(f"Curves: {config.result_dir}/*.npy")
        return reason
    try:
        if config.json:
            print(numbers(config.result_dir, runs, page))
        elif not config.quiet:
            print(table(config.result_dir, runs), f"Curves: {config.result_dir}/*.npy", sep="\n")
            print(f"Figures and tables: {page.parent}\nPage: {page}" if page else "There is no page.")
    except NoResultsError as error:
        reason = str(error).rstrip(".")
    return reason
