"""report.html in a real browser: headless Chromium, driven by Selenium. `make test-browser` runs it.

Debian and Ubuntu: apt-get install chromium chromium-driver.
"""

import json

import pytest

from nhn_tf.report import write_report
from tests.test_report import make_run
from tests.test_report_classes import answers

pytestmark = pytest.mark.browser

PHONE = 390


@pytest.fixture(scope="module", params=["cifar10", "own images"])
def address(request, tmp_path_factory):
    """The report of a finished run on CIFAR-10, or of one on other images with long names."""
    preset = "paper" if request.param == "cifar10" else "demo"
    path = make_run(tmp_path_factory.mktemp("runs") / "run", preset=preset)
    long = tuple(f"a class with a name of many words, number {number}" for number in range(3))
    answers(names=long).save(path / "7-final")
    return f"file://{write_report(path)['html']}"


def opened(browser, address, *, width=1200, dark=False):
    """Opens the page anew, and returns what it asked of the network and wrote to the console."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(address)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return urls, browser.get_log("browser")


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_the_page_loads_itself_alone_and_reports_no_error(browser, address, width):
    urls, console = opened(browser, address, width=width)
    assert address in urls
    assert [url for url in urls if url != address and not url.startswith("data:")] == []
    assert console == []


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_every_figure_is_drawn_and_has_a_text_in_its_place(browser, address, width):
    opened(browser, address, width=width)
    images = browser.execute_script("return [...document.images].map(i => [i.alt, i.complete, i.naturalWidth])")
    assert len(images) > 6
    for alt, complete, natural in images:
        assert len(alt) > 20 and complete and natural > 0
    drawings = browser.execute_script("return [...document.querySelectorAll('figure svg')].map(s => s.ariaLabel)")
    assert drawings and all(len(label) > 20 for label in drawings)


def test_a_phone_shows_the_page_without_scrolling_sideways(browser, address):
    opened(browser, address, width=PHONE)
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    # Letters of the page itself are as large as on paper.
    sizes = (
        "return [...document.querySelectorAll('p, li, td, figcaption')]"
        ".map(element => parseFloat(getComputedStyle(element).fontSize))"
    )
    assert min(browser.execute_script(sizes)) >= 14


def test_pointing_at_a_block_of_the_network_tells_what_it_is(browser, address):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, address)
    figure = browser.find_element("css selector", "figure:has(svg.network)")
    told, blocks = figure.find_element("css selector", "output"), figure.find_elements("css selector", "g.layer")
    assert told.text.startswith("Point at a block")
    for block in blocks[:2]:
        ActionChains(browser).move_to_element(block).perform()
        assert told.text == block.get_attribute("data-detail")
    assert told.text.startswith("layer 1: 5×5 convolution")


def test_the_keyboard_tells_it_too(browser, address):
    opened(browser, address)
    browser.execute_script("document.querySelector('svg.network g.layer').focus()")
    assert browser.find_element("css selector", "output").text.startswith("layer 0: 3×3 convolution")


def test_text_and_ground_differ_enough_by_day_and_by_night(browser, address):
    """A contrast of 4.5 to 1 or more (WCAG 2, level AA), for text and for what is said beside pictures."""
    for dark in (False, True):
        opened(browser, address, dark=dark)
        colors = browser.execute_script(
            "const color = (what, name) => getComputedStyle(document.querySelector(what))[name];"
            "return [color('body', 'backgroundColor'), ...['p', 'figcaption', 'a'].map(what => color(what, 'color'))]"
        )
        ground, *inks = [luminance(color) for color in colors]
        assert (ground < 0.1) == dark
        assert all((max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5 for ink in inks)


def luminance(color):
    """WCAG's relative luminance of "rgb(r, g, b)"."""
    channels = [int(part) / 255 for part in color.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_printed_report_has_its_folded_parts_open(browser, address):
    opened(browser, address)
    assert not browser.execute_script("return document.querySelector('details').open")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(part => part.open)")
