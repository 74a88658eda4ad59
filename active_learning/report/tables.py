"""The tables of a report. Every number comes from the summary."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from active_learning.report.cited_figures import Source, cited_figures
from active_learning.report.formats import (
    FUNCTION,
    NOTHING,
    Cell,
    Table,
    cited_cell,
    difference_cell,
    interval_cell,
    listed,
    mean_cell,
    number_cell,
    quartile_cell,
    reach_cell,
    signed_cell,
    text_cell,
)
from active_learning.report.results import Arm
from active_learning.report.statistics import (
    BOOTSTRAP_RESAMPLES,
    FEWEST_FOR_INTERVAL,
    repetitions_needed,
)
from active_learning.report.summary import BALANCE, MEAN_ERROR, REACH, SECONDS, SHARE, Comparison, Summary


def all_tables(summary: Summary) -> list[Table]:
    """Return every table that the results have something for, the most wanted first."""
    tables = [
        headline(summary),
        reach_table(summary),
        error_table(summary),
        cited_reach_table(summary),
        cited_error_table(summary),
        calibration_table(summary),
        likelihood_table(summary),
        *comparison_tables(summary),
        penalty_table(summary),
        class_table(summary),
        seconds_table(summary),
    ]
    return [table for table in tables if table is not None and table.rows]


def headline(summary: Summary) -> Table:
    """Return the table that a run ends with: at most 100 columns wide in a terminal."""
    end = summary.end
    levels = [level for level in summary.levels if level != 0.03]
    rows = []
    for arm in summary.results.arms:
        rows.append(
            (
                text_cell(arm.label),
                number_cell(len(arm.runs), 0),
                *(reach_cell(summary.get(arm.label, REACH, level)) for level in levels),
                mean_cell(summary.get(arm.label, "test_error", end), len(arm.runs), 2, 100),
            )
        )
    headers = (
        FUNCTION,
        "runs",
        *(f"to {100 * level:.0f} %" for level in levels),
        f"% at {end:,}",
    )
    note = (
        f"to N %: images acquired until the test error is at most N %, without the initial ones. % at {end:,}: test "
        f"error in per cent after {end:,} acquired images. Values: mean ± standard deviation over the runs. "
        "k/n: k of n runs reached the error." + _unfinished_words(summary)
    )
    return Table("headline", "Images to reach an error, error at the end", headers, tuple(rows), (note,))


def _unfinished_words(summary: Summary) -> str:
    if all(run in arm.whole for arm in summary.results.arms for run in arm.runs):
        return ""
    return (
        " k/n+u: u more runs are not finished and have not reached it yet. "
        "(n): over n runs, since the others have not come so far."
    )


def reach_table(summary: Summary) -> Table:
    """Return medians and quartiles of the images acquired to reach each level."""
    rows = [
        (text_cell(arm.label), *(quartile_cell(summary.get(arm.label, REACH, level)) for level in summary.levels))
        for arm in summary.results.arms
    ]
    headers = (FUNCTION, *(f"to {100 * level:.0f} % error" for level in summary.levels))
    note = (
        "Each cell: median [lower quartile, upper quartile] of the acquired images, then (runs that reached the error/"
        "all runs). A run that did not reach it counts as infinitely many images (∞); none is left out."
    )
    if any(estimate.unfinished for estimate in summary.estimates):
        note += (
            " Unfinished: these runs stopped before their end and have not reached the error yet; "
            "? stands for a number that depends on them."
        )
    return Table("reach", "Acquired images to reach a test error", headers, tuple(rows), (note,))


def error_table(summary: Summary) -> Table:
    """Return test errors at fixed numbers of acquired images, and the mean along the whole curve."""
    places: list[tuple[str, float | None]] = [("test_error", point) for point in summary.points]
    places.append((MEAN_ERROR, None))
    rows = [
        (text_cell(arm.label), *(interval_cell(summary.get(arm.label, *place), 2, 100) for place in places))
        for arm in summary.results.arms
    ]
    headers = (FUNCTION, *(f"at {point:,}" for point in summary.points), "along the curve")
    note = (
        f"Per cent. Each cell: mean ± standard deviation {_bracket_words(summary)} (runs). "
        "Along the curve: the area under the error curve, divided by the acquired images."
    )
    return Table("error", "Test error after so many acquired images", headers, tuple(rows), (note,))


def _bracket_words(summary: Summary) -> str:
    """Return what stands in an error's brackets: the same for all, or by the number of runs."""
    interval = f"95 % percentile-bootstrap interval of the mean, {BOOTSTRAP_RESAMPLES:,} resamples"
    ends = "lowest run, highest run"
    errors = [e for e in summary.estimates if e.statistic == "test_error" and e.brackets is not None]
    if all(estimate.interval is None for estimate in errors):
        return f"[{ends}]"
    if all(estimate.interval is not None for estimate in errors):
        return f"[{interval}]"
    return f"[{interval}; of fewer than {FEWEST_FOR_INTERVAL} runs: {ends}]"


RUNS_OF_OTHERS = ("paper", "reimplementation")
"""The sources that ran the same functions, by their names among the cited figures."""


def paper_tables(summary: Summary) -> list[Table]:
    """Return Tables 1 and 2 of the paper, its figures beside ours; none if no run is comparable."""
    cited = cited_figures()
    known = cited.acquired_to_reach["paper"]
    arms = [arm for arm in summary.results.arms if cited.comparable(arm) and arm.acquisition in known]
    return [_paper_reach_table(summary, arms), _paper_error_table(summary, arms)] if arms else []


def _paper_reach_table(summary: Summary, arms: Sequence[Arm]) -> Table:
    levels, rows = (0.10, 0.05), []
    for arm in arms:
        theirs = cited_figures().acquired_to_reach["paper"][arm.acquisition]
        row = [text_cell(arm.label)]
        for level in levels:
            row += [quartile_cell(summary.get(arm.label, REACH, level)), cited_cell(theirs[level])]
        rows.append(tuple(row))
    headers = [word for level in levels for word in (f"to {100 * level:.0f} %", "Gal et al.")]
    note = "Median [lower quartile, upper quartile] of the acquired images (runs that reached the error/all runs)."
    notes = (note, *_standing(summary, arms))
    return Table("paper_1", "Acquired images to reach a test error", (FUNCTION, *headers), tuple(rows), notes)


def _paper_error_table(summary: Summary, arms: Sequence[Arm]) -> Table:
    cited, rows = cited_figures(), []
    for arm in arms:
        ours = summary.get(arm.label, "test_error", cited.error_acquired)
        theirs = [cited.test_errors[source].get(arm.acquisition) for source in RUNS_OF_OTHERS]
        cells = [Cell(NOTHING, math.inf) if value is None else number_cell(100 * value, 2) for value in theirs]
        rows.append((text_cell(arm.label), interval_cell(ours, 2, 100), *cells))
    title = f"Test error after {cited.error_acquired:,} acquired images"
    validation = f"Theirs are with {int(cited.error_validation_images['paper']):,} validation images."
    note = f"Per cent: mean ± standard deviation {_bracket_words(summary)} (runs). {validation}"
    headers = (FUNCTION, "here", "Gal et al.", "re-implementation")
    return Table("paper_2", title, headers, tuple(rows), (note, *_standing(summary, arms)))


def _standing(summary: Summary, arms: Sequence[Arm]) -> list[str]:
    """Return in how many cells our means are at or below the figures of others, and the cells in which they are not.

    Of the re-implementation only the test errors are taken: its images to reach an error were read off another set.
    """
    cited, sentences = cited_figures(), []
    for source in RUNS_OF_OTHERS:
        cells = [
            _BesideTheirs(f"{arm.label} to {100 * level:.0f} %", ours, theirs, 0)
            for arm in arms
            for level, theirs in cited.acquired_to_reach[source][arm.acquisition].items()
            if source == "paper" and (ours := [*summary.get(arm.label, REACH, level).values.values()])
        ]
        for arm in arms:
            errors = summary.get(arm.label, "test_error", cited.error_acquired).values.values()
            theirs = cited.test_errors[source].get(arm.acquisition)
            if errors and theirs is not None:
                where = f"{arm.label} at {cited.error_acquired:,} images, %"
                cells.append(_BesideTheirs(where, [100 * error for error in errors], 100 * theirs, 2))
        missed = [cell for cell in cells if cell.mean > cell.theirs]
        if cells:
            found = f"in {len(cells) - len(missed)} of {len(cells)} cells"
            above = f"; above in {listed(map(str, missed))}" if missed else ""
            label = cited.sources[source].label
            sentences.append(f"Beside {label}: our means are at or below theirs {found}{above}.")
    return sentences


class _BesideTheirs(NamedTuple):
    """A number of ours in each repetition, and another's: lower is better."""

    where: str
    ours: list[float]
    theirs: float
    digits: int

    @property
    def mean(self) -> float:
        """Our mean."""
        return math.fsum(self.ours) / len(self.ours)

    def __str__(self) -> str:
        numbers = (self.mean, self.theirs, min(self.ours), max(self.ours))
        mean, theirs, least, most = (number_cell(number, self.digits).text for number in numbers)
        among = "among" if min(self.ours) <= self.theirs else "below"
        return f"{self.where} ({mean} against {theirs}, {among} our runs of {least} to {most})"


def cited_reach_table(summary: Summary) -> Table | None:
    """Return our medians beside the cited figures, and the differences; None if no run is comparable."""
    cited = cited_figures()
    arms = [arm for arm in summary.results.arms if cited.comparable(arm)]
    levels = sorted({level for rows in cited.acquired_to_reach.values() for row in rows.values() for level in row})[
        ::-1
    ]
    sources = list(cited.acquired_to_reach)
    rows = []
    for level in levels:
        for arm in arms:
            median = summary.get(arm.label, REACH, level).median
            if not any(arm.acquisition in cited.acquired_to_reach[source] for source in sources) or median is None:
                continue
            row = [text_cell(f"{arm.label}, to {100 * level:.0f} %"), number_cell(median, 0)]
            for source in sources:
                value = cited.acquired_to_reach[source].get(arm.acquisition, {}).get(level)
                row += [cited_cell(value), difference_cell(median, value, 0)]
            rows.append(tuple(row))
    headers = ["acquisition function, level", "ours (median)"]
    headers += [word for source in sources for word in (cited.sources[source].label, "ours minus theirs")]
    notes = _source_notes([cited.sources[source] for source in sources])
    return Table("cited_reach", "Acquired images: ours beside others'", tuple(headers), tuple(rows), notes)


def cited_error_table(summary: Summary) -> Table | None:
    """Return the test errors at 1,000 acquired images, ours and cited, lowest first; None without ours.

    A difference is given only between figures of equally many validation images; without any, the column is left out.
    """
    cited = cited_figures()
    rows: list[tuple[float, tuple[Cell, ...]]] = []
    ours: dict[tuple[str, str], float] = {}
    for arm in summary.results.arms:
        estimate = summary.get(arm.label, "test_error", cited.error_acquired)
        mean = estimate.mean
        if cited.comparable(arm) and mean is not None:
            validation, labels = str(arm.runs[0].configuration.get("val_size")), arm.runs[0].rows[0].labelled
            ours.setdefault((arm.acquisition, validation), mean)
            source = f"ours ({estimate.repetitions} run{'s' * (estimate.repetitions > 1)})"
            place = labels + cited.error_acquired, validation
            rows.append((mean, _cited_error_row(arm.label, source, place, mean, None)))
    if not rows:
        return None
    arm_labels = {arm.acquisition: arm.label for arm in summary.results.arms if not arm.deterministic}
    for source, figures in cited.test_errors.items():
        place = cited.error_labels[source], cited.error_validation_images[source]
        for name, value in figures.items():
            mean = ours.get((name, place[1]))
            difference = None if mean is None else mean - value
            label = arm_labels.get(name, name)
            rows.append((value, _cited_error_row(label, cited.sources[source].label, place, value, difference)))
    headers = ("method", "source", "labelled images", "validation images", "test error, %", "ours minus theirs")
    said = (
        "Labelled images: those that the method was trained on, the initial ones included. Validation images have "
        "labels too, and a column of their own."
    )
    columns = len(headers)
    if all(row[-1].text == NOTHING for _, row in rows):
        columns -= 1
    else:
        said += " A difference is given where theirs are as many as ours."
    return Table(
        "cited_error",
        f"Test error at {cited.error_acquired:,} acquired images, with semi-supervised techniques",
        headers[:columns],
        tuple(row[:columns] for _, row in sorted(rows, key=lambda entry: entry[0])),
        (said, *_source_notes([cited.sources[source] for source in cited.test_errors])),
    )


def _cited_error_row(
    name: str, source: str, place: tuple[int, str], error: float, difference: float | None
) -> tuple[Cell, ...]:
    labels, validation = place
    return (
        text_cell(name),
        text_cell(source),
        number_cell(labels, 0),
        Cell(re.sub(r"\d+", lambda found: f"{int(found[0]):,}", validation), float(validation.split()[0])),
        number_cell(100 * error, 2),
        signed_cell(None if difference is None else 100 * difference, 2),
    )


_MEAN_WORDS = "Mean ± standard deviation over the runs."


def _of_some_runs(rows: Iterable[Sequence[Cell]], why: str) -> str:
    """Return what a number of runs in brackets says, where a cell has one."""
    counted = any("(" in cell.text for row in rows for cell in row[1:])
    return f" (n): over n runs, since the others {why}." if counted else ""


def calibration_table(summary: Summary) -> Table | None:
    """Return expected calibration errors at fixed numbers of acquired images."""
    note = (
        "Expected calibration error on the test images in per cent, 15 bins (Guo et al. 2017, equation 3, "
        f"https://proceedings.mlr.press/v70/guo17a.html). {_MEAN_WORDS}"
    )
    return _points_table(summary, "test_ece", "calibration", "Calibration error", note, 2, 100)


def likelihood_table(summary: Summary) -> Table | None:
    """Return negative log likelihoods at fixed numbers of acquired images."""
    note = f"Negative log likelihood of the test labels in nats for each image. {_MEAN_WORDS}"
    return _points_table(summary, "test_nll", "likelihood", "Negative log likelihood", note, 3, 1)


def _points_table(
    summary: Summary, metric: str, key: str, title: str, note: str, digits: int, factor: float
) -> Table | None:
    rows = []
    for arm in summary.results.arms:
        estimates = [summary.get(arm.label, metric, point) for point in summary.points]
        if any(estimate.values for estimate in estimates):
            rows.append((text_cell(arm.label), *(mean_cell(e, len(arm.runs), digits, factor) for e in estimates)))
    headers = (FUNCTION, *(f"at {point:,}" for point in summary.points))
    return Table(key, title, headers, tuple(rows), (note + _of_some_runs(rows, "have not come so far"),))


def comparison_tables(summary: Summary) -> list[Table]:
    """Return the paired differences with their corrected p-values, a table a family.

    A family has none in which no difference can be significant: its p-values would say nothing.
    """
    families: dict[str, list[Comparison]] = {}
    for comparison in summary.comparisons:
        families.setdefault(comparison.family, []).append(comparison)
    return [_comparison_table(family, found) for family, found in families.items() if can_be_significant(found)]


def can_be_significant(family: Sequence[Comparison]) -> bool:
    """Return whether a family's comparisons have the repetitions for a corrected p-value of 5 %."""
    pairs = {(c.first, c.second) for c in family}
    return max(c.repetitions for c in family) >= repetitions_needed(len(pairs))


def _comparison_table(family: str, comparisons: Sequence[Comparison]) -> Table:
    places = list(dict.fromkeys((c.statistic, c.at) for c in comparisons))
    found = {(c.first, c.second, c.statistic, c.at): c for c in comparisons}
    rows = []
    for first, second in dict.fromkeys((c.first, c.second) for c in comparisons):
        pairs = [c.repetitions for c in comparisons if (c.first, c.second) == (first, second)]
        row = [text_cell(f"{first} minus {second}")]
        row.append(Cell("-".join(dict.fromkeys([str(min(pairs)), str(max(pairs))])), min(pairs)))
        row += [_comparison_cell(found.get((first, second, *place))) for place in places]
        rows.append(tuple(row))
    headers = ("pair", "repetitions", *("along the curve" if at is None else f"at {at:,}" for _, at in places))
    kind, _, number = family.partition(" ")
    title = "Paired differences in test error" + (": MC dropout minus deterministic" if kind == "dropout" else "")
    title += f", configuration {int(number) + 1}" if number else ""
    key = "comparison" + ("_dropout" if kind == "dropout" else "") + (f"_{number}" if number else "")
    return Table(key, title, headers, tuple(rows), _comparison_notes(comparisons))


def _comparison_cell(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell(NOTHING, math.inf)
    text = f"{100 * comparison.difference:+.2f} (p {comparison.p_holm:.3f})"
    return Cell(text, comparison.difference)


def _comparison_notes(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    compared = len({(c.first, c.second) for c in comparisons})
    correction = f"corrected by Holm over the {compared} pairs of a column" if compared > 1 else "of the only pair"
    return (
        "Percentage points: the first minus the second, mean over the repetitions that both have. Below 0 the first is "
        f"better. p: two-sided paired permutation test, {correction}.",
    )


def penalty_table(summary: Summary) -> Table | None:
    """Return the pairwise penalty matrix with its column means; None of too few repetitions."""
    penalty = summary.penalty
    if penalty is None:
        return None
    rows = [
        (text_cell(name), *(number_cell(value, 2) for value in row))
        for name, row in zip(penalty.arms, penalty.matrix_aa, strict=True)
    ]
    rows.append((text_cell("mean of the column"), *(number_cell(value, 2) for value in penalty.matrix_aa.mean(axis=0))))
    places = ", ".join(f"{acquired:,}" for acquired in penalty.acquired)
    note = (
        f"Each cell: how often the row's error was significantly lower than the column's, of the comparisons at "
        f"{places} acquired images (two-sided paired t-test at 5 %, {penalty.repetitions} repetitions; Ash et al. "
        "2020, https://openreview.net/forum?id=ryghZJBKPS). A low mean of the column is good. The t-tests are not "
        "corrected for their number: of two functions that do not differ, one in twenty comparisons has a winner by "
        "chance."
    )
    return Table(
        "penalty", "Pairwise penalties", ("row beats column", *penalty.arms), tuple(rows), (note,), sortable=False
    )


def class_table(summary: Summary) -> Table:
    """Return each class's share of the acquired images."""
    classes = [str(key) for key in summary.keys(SHARE)]
    rows = [
        (
            text_cell(arm.label),
            *(mean_cell(summary.get(arm.label, SHARE, c), len(arm.runs), 1, 100, spread=False) for c in classes),
            mean_cell(summary.get(arm.label, BALANCE), len(arm.runs), 3, spread=False),
        )
        for arm in summary.results.arms
        if summary.get(arm.label, BALANCE).values
    ]
    note = (
        "Per cent of all acquired images, mean over the finished runs. Balance: entropy of the shares divided by its "
        f"maximum; 1 if all classes are equally frequent.{_of_some_runs(rows, 'are not finished')}"
    )
    if any(run.configuration.get("label_noise") for run in summary.results.runs):
        note += " The classes are those that the runs were told; with label_noise some of them are wrong."
    headers = (FUNCTION, *(f"class {class_}" for class_ in classes), "balance")
    return Table("classes", "Class balance of the acquired images", headers, tuple(rows), (note,))


def seconds_table(summary: Summary) -> Table:
    """Return the seconds of a whole run by phase."""
    phases = [str(key) for key in summary.keys(SECONDS)]
    rows = [
        (text_cell(arm.label), *(mean_cell(summary.get(arm.label, SECONDS, p), len(arm.runs), 1) for p in phases))
        for arm in summary.results.arms
        if phases
    ]
    note = (
        "Seconds of a finished run, mean ± standard deviation. Other runs may have shared the machine."
        f"{_of_some_runs(rows, 'are not finished')}"
    )
    notes = [note, *computing(summary)]
    mixed = [f"{arm.label} ({len(arm.commits)} commits)" for arm in summary.results.arms if len(arm.commits) > 1]
    notes += [f"These means are over runs of different code: {', '.join(mixed)}."] if mixed else []
    return Table("seconds", "Where the time went", (FUNCTION, *phases), tuple(rows), tuple(notes))


def computing(summary: Summary) -> list[str]:
    """Return sentences on what computed the runs, and on the time that they took in all, by phase."""
    runs = summary.results.runs
    precisions = dict.fromkeys(str(run.configuration["precision"]) for run in runs)
    processors = dict.fromkeys(name for run in runs for name in run.processors)
    on = f" on {' and '.join(processors)}" if processors else ""
    found = [estimate for estimate in summary.estimates if estimate.statistic == SECONDS]
    seconds: dict[str, float] = {}
    for estimate in found:
        seconds[str(estimate.at)] = seconds.get(str(estimate.at), 0.0) + sum(estimate.values.values())
    whole = sum(len(estimate.values) for estimate in found if estimate.at == "all")
    sentences = [f"The runs were computed in {' and '.join(precisions)}{on}."]
    if whole > 1:
        unit, each, digits = ("hours", 3600, 2) if seconds["all"] >= 3600 else ("minutes", 60, 1)
        phases = ", ".join(f"{phase} {spent / each:.{digits}f}" for phase, spent in seconds.items() if phase != "all")
        sentences.append(f"The {whole} finished ones took {seconds['all'] / each:.{digits}f} {unit} in all ({phases}).")
    return sentences


def _source_notes(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(map(str, sources))
