"""The tables of a report. Every number comes from the summary."""

import math
import re
from collections.abc import Sequence

from active_learning.report.cited_figures import Source, cited_figures
from active_learning.report.formats import (
    NOTHING,
    Cell,
    Table,
    cited_cell,
    difference_cell,
    interval_cell,
    mean_cell,
    number_cell,
    quartile_cell,
    reach_cell,
    signed_cell,
    text_cell,
)
from active_learning.report.statistics import (
    BOOTSTRAP_RESAMPLES,
    SIGNIFICANCE,
    repetitions_needed,
    smallest_permutation_p,
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
                mean_cell(summary.get(arm.label, SECONDS, "all"), len(arm.runs), 0),
            )
        )
    headers = (
        "acquisition function",
        "runs",
        *(f"to {100 * level:.0f} %" for level in levels),
        f"% at {end}",
        "seconds",
    )
    notes = [
        "to N %: images acquired until the test error is at most N % (the initial ones not counted); "
        f"% at {end}: test error in per cent after acquiring that many. Mean ± standard deviation over runs; "
        "k/n: so many runs reached the level." + _unfinished_words(summary)
    ]
    return Table("headline", "Images to reach an error, error at the end", headers, tuple(rows), tuple(notes))


def _unfinished_words(summary: Summary) -> str:
    if all(run in arm.whole for arm in summary.results.arms for run in arm.runs):
        return ""
    return (
        " +u: u more runs are not finished and have not reached it yet. (n): so few runs have come so far; "
        "seconds are those of finished runs."
    )


def reach_table(summary: Summary) -> Table:
    """Return medians and quartiles of the images acquired to reach each level."""
    rows = [
        (text_cell(arm.label), *(quartile_cell(summary.get(arm.label, REACH, level)) for level in summary.levels))
        for arm in summary.results.arms
    ]
    headers = ("acquisition function", *(f"to {100 * level:.0f} % error" for level in summary.levels))
    note = (
        "Median [lower quartile, upper quartile] of acquired images, and how many runs reached the level of those run. "
        "A run that did not reach it counts as infinitely many images (∞); none is left out."
    )
    if any(estimate.unfinished for estimate in summary.estimates):
        note += (
            " Unfinished: runs that stopped before their end and have not reached the level yet; "
            "? stands where the number depends on them."
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
    headers = ("acquisition function", *(f"at {point:,}" for point in summary.points), "along the curve")
    note = (
        "Per cent: mean ± standard deviation [95 % percentile-bootstrap interval of the mean, "
        f"{BOOTSTRAP_RESAMPLES:,} resamples] (runs behind it). "
        "Along the curve: the area under the error curve divided by the images acquired."
    )
    return Table("error", "Test error after so many acquired images", headers, tuple(rows), (note,))


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
                spread = cited.acquired_to_reach_std.get(source, {}).get(arm.acquisition, {}).get(level)
                row += [cited_cell(value, spread), difference_cell(median, value, 0)]
            rows.append(tuple(row))
    headers = ["acquisition function, level", "ours (median)"]
    headers += [word for source in sources for word in (cited.sources[source].label, "ours minus theirs")]
    notes = _source_notes([cited.sources[source] for source in sources])
    return Table("cited_reach", "Acquired images: ours beside others'", tuple(headers), tuple(rows), notes)


def cited_error_table(summary: Summary) -> Table | None:
    """Return the test errors at 1,000 acquired images, ours and cited, lowest first; None without ours.

    A difference is given only between figures of equally many validation images.
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
    return Table(
        "cited_error",
        f"Test error at {cited.error_acquired:,} acquired images, with semi-supervised techniques",
        headers,
        tuple(row for _, row in sorted(rows, key=lambda entry: entry[0])),
        (
            "Labelled images: those trained on, the initial ones included. Validation images are labelled too, and not "
            "counted there; a difference is given where theirs are as many as ours.",
            *_source_notes([cited.sources[source] for source in cited.test_errors]),
        ),
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


_MEAN_WORDS = "Mean ± standard deviation over runs; (n): over n of them, as far as the others have not come."


def calibration_table(summary: Summary) -> Table | None:
    """Return expected calibration errors at fixed numbers of acquired images."""
    note = (
        f"Expected calibration error on the test set in per cent, 15 bins (Guo et al. 2017, equation 3). {_MEAN_WORDS}"
    )
    return _points_table(summary, "test_ece", "calibration", "Calibration error", note, 2, 100)


def likelihood_table(summary: Summary) -> Table | None:
    """Return negative log likelihoods at fixed numbers of acquired images."""
    note = f"Negative log likelihood of the test labels in nats an image. {_MEAN_WORDS}"
    return _points_table(summary, "test_nll", "likelihood", "Negative log likelihood", note, 3, 1)


def _points_table(
    summary: Summary, metric: str, key: str, title: str, note: str, digits: int, factor: float
) -> Table | None:
    rows = []
    for arm in summary.results.arms:
        estimates = [summary.get(arm.label, metric, point) for point in summary.points]
        if any(estimate.values for estimate in estimates):
            rows.append((text_cell(arm.label), *(mean_cell(e, len(arm.runs), digits, factor) for e in estimates)))
    headers = ("acquisition function", *(f"at {point:,}" for point in summary.points))
    return Table(key, title, headers, tuple(rows), (note,))


def comparison_tables(summary: Summary) -> list[Table]:
    """Return the paired differences with their corrected p-values, a table a family; none with one repetition."""
    families = list(dict.fromkeys(c.family for c in summary.comparisons))
    return [_comparison_table(family, [c for c in summary.comparisons if c.family == family]) for family in families]


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
    pairs = max(c.repetitions for c in comparisons)
    compared = len({(c.first, c.second) for c in comparisons})
    correction = f"corrected by Holm over the {compared} pairs of a column" if compared > 1 else "of the only pair"
    note = (
        "Percentage points, mean over paired repetitions; in brackets the p of a two-sided paired permutation test, "
        f"{correction}. Negative: the first is better."
    )
    least = smallest_permutation_p(pairs)
    limit = (
        f"With {pairs} repetitions no p-value can be below {least:.2g} before correction; {compared} "
        f"comparison{'s' * (compared > 1)} can be significant at 5 % from {repetitions_needed(compared)} "
        "repetitions on."
    )
    return (note, limit) if least * compared > SIGNIFICANCE else (note,)


def penalty_table(summary: Summary) -> Table | None:
    """Return the pairwise penalty matrix with its column means; None with one repetition."""
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
        f"How often the row had a significantly lower error than the column (two-sided paired t-test, 5 %, over "
        f"{penalty.repetitions} repetitions; Ash et al. 2020), of the comparisons at {places} acquired images. "
        "A low column mean is good. "
        f"The t-tests are uncorrected, with n = {penalty.repetitions}: they are not comparable with the Holm-corrected "
        "permutation tests above, and win where those cannot."
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
        "Per cent of all acquired images, mean over finished runs; (n): n of the arm's runs are finished. "
        "Balance: entropy of the shares over its maximum, 1 if even."
    )
    headers = ("acquisition function", *(f"class {class_}" for class_ in classes), "balance")
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
        "Seconds of a finished run, mean ± standard deviation; (n): of n of the arm's runs. "
        "Runs may have shared the machine with others."
    )
    return Table("seconds", "Where the time went", ("acquisition function", *phases), tuple(rows), (note,))


def _source_notes(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(map(str, sources))
