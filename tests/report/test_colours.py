"""Colours hold their contrast on a light and on a dark page, and each is a step of lightness of its own."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.report.colours import DARK, WHITE, contrast, for_both_grounds, luminance, on_dark
from active_learning.report.drawing import UNKNOWN
from active_learning.report.figures import GREY, all_figures, error_figure
from active_learning.report.results import read_results
from active_learning.report.summary import summarise
from tests.result_folders import run_config, write_run

COLOURS = {name: function.colour for name, function in ACQUISITION_FUNCTIONS.items()} | {"": UNKNOWN, "grey": GREY}
PAPER = [name for name, function in ACQUISITION_FUNCTIONS.items() if function.code]


def lightness(colour: str) -> float:
    """CIE L* of 1976, 0 to 100: what is left of a colour in a grey print, in even steps to the eye."""
    relative = luminance(colour)
    return 116 * float(relative ** (1 / 3)) - 16 if relative > (6 / 29) ** 3 else relative * (29 / 3) ** 3


def test_luminance_and_contrast_are_those_of_wcag() -> None:
    # Worked by hand: #777777 has the linear value ((0.4667 + 0.055) / 1.055) ** 2.4 = 0.1845, and 1.05 / 0.2345 = 4.48.
    assert luminance("#777777") == pytest.approx(0.1845, abs=1e-4)
    assert contrast("#777777", WHITE) == pytest.approx(4.48, abs=0.01)
    assert luminance("#FF0000") == pytest.approx(0.2126)


@pytest.mark.parametrize("name", COLOURS)
def test_every_colour_stands_out_on_both_grounds(name: str) -> None:
    assert contrast(COLOURS[name], WHITE) >= 3
    assert contrast(on_dark(COLOURS[name]), DARK) >= 3


@pytest.mark.parametrize("ground", ["white", "dark"])
def test_colours_are_told_apart_in_grey(ground: str) -> None:
    shown = {name: function.colour for name, function in ACQUISITION_FUNCTIONS.items()}
    if ground == "dark":
        shown = {name: on_dark(colour) for name, colour in shown.items()}
    for first, second in combinations(shown, 2):
        least = 8 if first in PAPER and second in PAPER else 2
        assert abs(lightness(shown[first]) - lightness(shown[second])) >= least, (first, second)


def test_white_and_ink_change_places_and_hues_stay() -> None:
    red, green, blue = (int(on_dark("#004696")[start : start + 2], 16) for start in (1, 3, 5))
    assert blue > green > red
    assert on_dark(WHITE) == DARK


def test_a_figure_has_a_colour_on_dark_pages_for_each_that_it_is_painted_in(tmp_path: Path) -> None:
    write_run(tmp_path, run_config(), [0.5, 0.2, 0.1, 0.06, 0.05])
    svg = error_figure(summarise(read_results(tmp_path))).files["test_error.svg"].decode()
    drawn, _, dark = svg.partition("@media (prefers-color-scheme: dark)")
    rules = dict(re.findall(r'\[style\*="((?:fill|stroke): #[0-9a-f]{6})"\]\{(?:fill|stroke): (#[0-9a-f]{6})', dark))
    assert set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn)) == set(rules)
    bald = ACQUISITION_FUNCTIONS["bald"].colour.lower()
    assert contrast(rules[f"stroke: {bald}"], DARK) == pytest.approx(contrast(bald, WHITE), rel=0.02)
    assert rules[f"fill: {WHITE}"] == DARK


def test_no_shape_is_left_black_on_a_dark_page(tmp_path: Path) -> None:
    """An SVG leaves out the black of a fill, and no style can then find it."""
    for name in ("bald", "uniform"):
        for repetition in range(5):
            write_run(tmp_path, run_config(acquisition=name, repetition=repetition), [0.5, 0.2, 0.1, 0.06, 0.05])
    for figure in all_figures(summarise(read_results(tmp_path)))[0]:
        svg = figure.files[f"{figure.key}.svg"].decode()
        letters = re.findall(r'<g ([^>]*)transform="translate', svg)
        marks = re.findall(r'<use xlink:href="#m[^"]*"([^>]*)', svg)
        assert letters
        assert [words for words in letters if "fill: #" not in words] == [], figure.key
        assert [words for words in marks if "fill: #" not in words and "stroke: #" not in words] == [], figure.key


def test_a_program_without_such_styles_draws_a_figure_as_before() -> None:
    svg = b'<svg><path style="fill: none; stroke: #004696"/></svg>'
    assert for_both_grounds(svg).startswith(svg.removesuffix(b"</svg>"))
