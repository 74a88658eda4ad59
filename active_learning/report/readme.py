"""The README's results: a block between two markers, written from the committed result folders."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from active_learning.report.cited_figures import cited_figures
from active_learning.report.figures import dropout_key, dropout_pairs, error_figure
from active_learning.report.formats import Table, listed, markdown_safe
from active_learning.report.page import foundation
from active_learning.report.results import read_results
from active_learning.report.summary import REACH, Summary, summarise
from active_learning.report.tables import computing, paper_tables
from active_learning.report.write import REPORT_FOLDER

PRESETS = Path(__file__).parents[1] / "presets"
"""Files of flags; the runs of each are in the result folder of its name."""

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def readme_block(result_dirs: Sequence[Path], readme: Path) -> str:
    """Return the README's results, markers included: of each folder a figure, or a table of the paper, or both.

    Of a folder with deterministic arms it is the figures with and without MC dropout; its other arms are those of
    experiment 1. Of one that cannot stand beside the paper it is a figure and a sentence for each arm; of one with some
    of the classes, which the notebook tells of, a figure. A figure that the README shows elsewhere is left out; so is a
    preset's folder, other than an experiment's, whose figure it does not show. Only what follows from the folders is in
    it, so that a test can say whether the README is up to date. The rest is in the reports, to which it leads.
    """
    elsewhere = replace_block(readme.read_text(encoding="utf-8"), "")
    parts = [BEGIN, "<!-- Written by `python -m active_learning.report`; edits are overwritten. -->"]
    for result_dir in result_dirs:
        summary = summarise(read_results(result_dir))
        report = Path(os.path.relpath(result_dir, readme.parent), REPORT_FOLDER).as_posix()
        pairs = dropout_pairs(summary)
        if pairs:
            links = listed(f"[{pair[0].label}]({report}/figures/{dropout_key(pair)}.png)" for pair in pairs)
            shown = f"With MC dropout and without: {links}."
        else:
            drawn = error_figure(summary)
            shown = f"![{markdown_safe(drawn.alt)}]({report}/figures/{drawn.key}.png)"
        is_elsewhere = shown.rpartition("]")[2] in elsewhere
        if not is_elsewhere and result_dir.name in _other_presets():
            continue
        tables = [] if pairs else _paper_table(summary)
        in_words = [] if pairs or tables or _of_some_classes(summary) else _in_words(summary)
        words = [*in_words, *([*foundation(summary), *computing(summary)] if tables or in_words else [])]
        parts += [
            f"### [{Path(report).parent.as_posix()}]({report})",
            *([] if is_elsewhere or _validation_as_theirs(summary) else [shown]),
            *(entry.markdown() for entry in tables),
            *([" ".join(map(markdown_safe, words))] if words else []),
        ]
    return "\n\n".join([*parts, END])


def _of_some_classes(summary: Summary) -> bool:
    return any(run.configuration.get("classes") for run in summary.results.runs)


def _in_words(summary: Summary) -> list[str]:
    """Return, in a sentence an arm, how many images it acquired until each level, and its error at the end."""
    sentences = []
    for arm in summary.results.arms:
        found = [(level, summary.get(arm.label, REACH, level)) for level in summary.levels]
        levels = listed(
            f"{100 * level:.0f} % "
            + (f"in {reach.reached} of {len(arm.runs)} runs" if reach.mean is None else f"after {reach.mean:.0f}")
            for level, reach in found
        )
        end = summary.get(arm.label, "test_error", summary.end)
        last = "" if end.mean is None else f"; {100 * end.mean:.2f} % after {summary.end:,}"
        sentences.append(f"{arm.label}: {levels}{last}.")
    return [f"Mean of the acquired images until the test error is at most N %. {sentences[0]}", *sentences[1:]]


def _paper_table(summary: Summary) -> list[Table]:
    """Return the paper's Table 2 where the validation images are as many as its own there, elsewhere its Table 1."""
    tables = paper_tables(summary)
    return tables[1:] if _validation_as_theirs(summary) else tables[:1]


def _validation_as_theirs(summary: Summary) -> bool:
    theirs = cited_figures().error_validation_images["paper"]
    return {str(run.configuration.get("val_size")) for run in summary.results.runs} == {theirs}


def replace_block(text: str, block: str) -> str:
    """Return a README's text with what stands between the two markers replaced.

    Raises:
        ValueError: if the markers are not there, once each and in order.

    >>> replace_block(f"a {BEGIN} old {END} b", f"{BEGIN} new {END}") == f"a {BEGIN} new {END} b"
    True
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ValueError(f"The text must have {BEGIN} and, after it, {END}, once each.")
    return text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]


def committed_folders(root: Path) -> list[Path]:
    """Return the presets' folders below `result_npy` whose runs git knows; outside of a checkout, those that are there.

    The experiments come first. Runs that are still being computed, or that nobody means to publish, are thereby left
    alone.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--", ":(glob)result_npy/*/runs/**"]
    try:
        known = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        found = {path.split("/")[1] for path in known.split("\0") if path}
    except (OSError, subprocess.SubprocessError):
        found = {path.parent.name for path in root.glob("result_npy/*/runs")}
    experiments = sorted(preset.stem for preset in PRESETS.glob("experiment_*.yaml"))
    return [root / "result_npy" / name for name in [*experiments, *_other_presets()] if name in found]


def _other_presets() -> list[str]:
    """Return the names of the presets that are no experiments."""
    return sorted(preset.stem for preset in PRESETS.glob("*.yaml") if not preset.stem.startswith("experiment_"))
