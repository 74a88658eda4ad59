"""The page in a real browser: no error, every picture there, columns that sort, nothing wider than a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pytest

from active_learning.report.colours import DARK
from active_learning.report.results import read_results
from active_learning.report.summary import summarise
from active_learning.report.write import write_report
from load_data import ImageData
from tests.result_folders import write_experiment

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is a development dependency")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no browser: install the system's chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a small experiment with everything that a page can have."""
    folder = tmp_path_factory.mktemp("experiment")
    write_experiment(folder, repetitions=9, rounds=12, dataset="mnist")
    images = np.random.default_rng(1).integers(0, 256, (4000, 1, 28, 28), dtype=np.uint8)
    labels = np.arange(4000, dtype=np.int64) % 10
    data = ImageData(images, labels, images[:1], labels[:1], 10, (0.5,), (0.5,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("active_learning.report.gallery.load_data", lambda name, data_dir: data)
        return write_report(summarise(read_results(folder))).page.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser: Any, page: str, width: int, script: bool = True) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get(page)


@pytest.mark.parametrize("width", [360, 1280])
def test_no_error_no_request_and_every_picture_loads(browser: Any, page: str, width: int) -> None:
    browser.get_log("performance")
    show(browser, page, width)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    pictures = browser.execute_async_script(
        "const done = arguments[0]; const all = [...document.images];"
        "Promise.allSettled(all.map((image) => image.decode())).then(() => done("
        "all.map((image) => [image.complete && image.naturalWidth > 0, image.alt])))"
    )
    assert len(pictures) > 9 * 4 * 10
    assert all(loaded and alt for loaded, alt in pictures)


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, page: str, width: int) -> None:
    show(browser, page, width)
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wider = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter((part) => !part.closest('.scroll'))"
        ".filter((part) => part.getBoundingClientRect().right > window.innerWidth + 1).map((part) => part.outerHTML)"
    )
    assert wider == []


def test_no_table_is_cut_on_a_desktop(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    cut = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter((part) => part.scrollWidth > part.clientWidth)"
        ".map((part) => part.firstElementChild.id)"
    )
    assert cut == []


def test_a_phone_shows_the_whole_first_table_and_that_there_is_more_of_others(browser: Any, page: str) -> None:
    show(browser, page, 360)
    right = browser.execute_script(
        "return [...document.querySelector('#table-headline tbody tr').cells].at(-1).getBoundingClientRect().right"
    )
    assert right <= 360
    layers = browser.execute_script("return getComputedStyle(document.querySelector('.scroll')).backgroundImage")
    assert layers.count("linear-gradient") == 4  # two shadows, and what covers them at the ends


def test_a_desktop_is_used_from_side_to_side(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    left, right = browser.execute_script(
        "return [document.querySelector('nav').getBoundingClientRect().left,"
        " document.querySelector('#figure-test_error img').getBoundingClientRect().right]"
    )
    assert left < 64
    assert right > 1280 - 64


def test_every_link_leads_somewhere(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    script = "return [...document.links].map((link) => [link.getAttribute('href'), link.href])"
    links = dict(browser.execute_script(script))
    for written, whole in links.items():
        if written.startswith("#"):
            assert browser.find_elements("css selector", written), written
        elif not written.startswith("https://"):
            assert Path(unquote(urlparse(whole).path)).exists(), written
    assert {"numbers.csv", "numbers.json", "../runs/bald-MC_dropout%3DTrue/repetition_1"} < set(links)
    assert "https://proceedings.mlr.press/v70/gal17a.html" in links
    assert sum(written.startswith("#") for written in links) > 12  # a table of contents, down to figures and tables


def test_the_command_is_copied_with_a_click(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    command = browser.find_element("css selector", "#runs pre").text
    browser.find_element("css selector", "#runs .copy").click()
    assert browser.find_element("css selector", "#runs .copy").text == "Copied"
    browser.execute_script("document.querySelector('h1').contentEditable = true; document.querySelector('h1').focus()")
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.split() == command.split()


def test_a_reader_of_dark_pages_gets_one(browser: Any, page: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        show(browser, page, 1280)
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        # The figure is painted on a canvas, and the colour of its corner is taken: it has the ground of the page.
        corner = browser.execute_script(
            "const image = document.querySelector('#figure-test_error img'), canvas = document.createElement('canvas');"
            "const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);"
            "return [...context.getImageData(2, 2, 1, 1).data].slice(0, 3)"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert ground == f"rgb({', '.join(str(int(DARK[start : start + 2], 16)) for start in (1, 3, 5))})"
    assert corner == [int(DARK[start : start + 2], 16) for start in (1, 3, 5)]


def test_the_gallery_begins_with_its_figure_and_every_list_is_folded(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    parts = browser.execute_script(
        "return [...document.querySelector('#gallery').children].map((part) => part.tagName)"
    )
    assert parts[:3] == ["H2", "P", "FIGURE"]
    assert set(parts[3:]) == {"DETAILS"}
    assert browser.find_elements("css selector", "#gallery details[open]") == []


def test_nothing_is_cut_off_in_print(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        show(browser, page, 700)  # an A4 page between its margins
        wider = browser.execute_script(
            "return [...document.querySelectorAll('main *')]"
            ".filter((part) => part.getBoundingClientRect().right > 701).map((part) => part.outerHTML)"
        )
        closed = browser.execute_script(
            "return [...document.querySelectorAll('details .strip')].filter((part) => !part.offsetHeight).length"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wider == []
    assert closed == 0


def column(browser: Any, key: str, number: int) -> list[str]:
    texts: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(`#table-${arguments[0]} tbody tr`)]"
        ".map((row) => row.cells[arguments[1]].textContent)",
        key,
        number,
    )
    return texts


def test_a_click_sorts_by_number_and_another_turns_it_round(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    before = column(browser, "headline", 1)
    head = browser.find_elements("css selector", "#table-headline thead button")[5]
    head.click()
    at_the_end = [float(text.split()[0]) for text in column(browser, "headline", 5)]
    assert at_the_end == sorted(at_the_end)
    error_head = browser.find_elements("css selector", "#table-error thead button")[1]
    error_head.click()
    upwards = [float(text.split()[0]) for text in column(browser, "error", 1)]
    assert upwards == sorted(upwards)
    assert len(set(upwards)) > 5
    error_head.click()
    assert [float(text.split()[0]) for text in column(browser, "error", 1)] == upwards[::-1]
    sorted_heads = browser.find_elements("css selector", "#table-error th[aria-sort]")
    assert [entry.get_attribute("aria-sort") for entry in sorted_heads] == ["descending"]
    assert sorted(before) == sorted(column(browser, "headline", 1))


def test_levels_that_were_not_reached_sort_last(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    browser.find_elements("css selector", "#table-reach thead button")[2].click()
    medians = [text.split()[0] for text in column(browser, "reach", 2)]
    assert medians[-1] == "∞"
    assert medians.index("∞") == len(medians) - medians.count("∞")


def test_it_reads_without_its_script(browser: Any, page: str) -> None:
    show(browser, page, 1280, script=False)
    try:
        text = browser.find_element("css selector", "body").text
        assert browser.find_elements("css selector", "thead button") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for words in ("Summary", "Test error against acquired images", "Each number is from 9 repetitions."):
        assert words in text
