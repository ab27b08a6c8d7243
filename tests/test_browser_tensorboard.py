"""A real TensorBoard on a finished run, in headless Chromium; see `test_browser_report.py`."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytestmark = pytest.mark.browser

SECONDS = 120
"""Within which TensorBoard must have started, or have drawn something."""


@pytest.fixture(scope="module")
def address(smoke_run):
    """TensorBoard's address, once it has read the run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={smoke_run.path}", f"--port={port}"]
    address = f"http://localhost:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait(lambda: b"7-final/tensorboard/train" in fetched(f"{address}/data/runs"))
            yield address
        finally:
            process.terminate()


def fetched(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
        return answer.read()
    return b""


def wait(condition):
    """The first truth that a condition gives."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.2)
    pytest.fail("TensorBoard has not come to what was waited for")


def told(browser, address, tag):
    """What the card of a tag says once its table of runs is there."""
    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/?tagFilter=^{tag}$#timeseries")
    card = "return [...document.querySelectorAll('scalar-card')].map(card => card.innerText)"
    return wait(lambda: next((text for text in browser.execute_script(card) if "validation" in text), None))


def texts(browser, selector):
    """What elements say; the older dashboards live in nested shadow roots."""
    script = (
        "const found = [];"
        "const look = root => {"
        "  root.querySelectorAll(arguments[0]).forEach(element => found.push(element.textContent.trim()));"
        "  root.querySelectorAll('*').forEach(element => element.shadowRoot && look(element.shadowRoot));"
        "};"
        "look(document); return found"
    )
    return browser.execute_script(script, selector)


def test_train_and_validation_of_stages_lie_in_one_chart(browser, address, tmp_path):
    text = told(browser, address, "epoch_loss")
    assert text.startswith("epoch_loss")
    for run in ("2-base/tensorboard/train", "2-base/tensorboard/validation", "7-final/tensorboard/train"):
        assert run in text
    lines = "return document.querySelectorAll('scalar-card line-chart').length"
    assert wait(lambda: browser.execute_script(lines)) == 1
    time.sleep(3)  # it draws in a thread of its own
    browser.save_screenshot(tmp_path / "curves.png")


def test_every_stage_has_a_row_in_the_hparams_table(browser, address, smoke_run, tmp_path):
    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/#hparams")
    error = f"{smoke_run.stage('final').metrics['test_error']:.3f}".rstrip("0")
    cells = wait(
        lambda: (seen := texts(browser, "vaadin-grid-cell-content")) and any(error in cell for cell in seen) and seen
    )
    assert {"enas", "base", "prune", "pruned", "lds_location", "lds_direction", "final"} <= set(cells)
    assert {"test error, %", "live parameters", "score"} <= set(cells)
    browser.save_screenshot(tmp_path / "table.png")


def test_pictures_step_through_time(browser, address, smoke_run, tmp_path):
    from selenium.webdriver.common.keys import Keys

    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/?tagFilter=^population$#timeseries")
    picture = "return document.querySelector('image-card img')?.src"
    last = wait(lambda: browser.execute_script(picture))
    slider = browser.find_element("css selector", "image-card input")
    assert int(slider.get_attribute("max")) == smoke_run.stage("lds_location").config["config"]["cycles"] - 1
    browser.save_screenshot(tmp_path / "picture.png")
    slider.send_keys(Keys.HOME)
    first = wait(lambda: (seen := browser.execute_script(picture)) != last and seen)
    sizes = [len(fetched(source)) for source in (first, last)]
    assert min(sizes) > 1000 and fetched(first) != fetched(last)


def test_kernels_are_drawn_as_histograms_of_every_epoch(browser, address, smoke_run, tmp_path):
    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/?tagFilter=^kernel_std/layer0_op$#timeseries")
    drawn = (
        "return [...document.querySelectorAll('histogram-card')].map("
        "card => [card.innerText, card.querySelectorAll('tb-histogram g.histogram').length])"
    )
    cards = wait(lambda: (seen := browser.execute_script(drawn)) and all(count for _, count in seen) and seen)
    epochs = smoke_run.stage("base").config["config"]["epochs"]
    assert [count for text, count in cards if "2-base" in text] == [epochs]
    browser.save_screenshot(tmp_path / "histograms.png")


def test_commands_can_be_read(browser, address, tmp_path):
    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/#text")
    read = wait(lambda: [text for text in texts(browser, "code") if "python" in text])
    assert any("python search.py --stage=enas" in text for text in read)
    browser.save_screenshot(tmp_path / "text.png")


def test_the_graph_of_a_network_is_drawn(browser, address, tmp_path):
    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/#graphs")
    names = wait(lambda: (seen := texts(browser, "g.node title")) and "logits" in " ".join(seen) and seen)
    assert {"images", "stem_conv", "layer0_op", "global_pool", "logits"} <= set(names)
    browser.save_screenshot(tmp_path / "graph.png")
