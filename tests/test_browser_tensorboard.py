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


def test_train_and_validation_of_stages_lie_in_one_chart(browser, address, tmp_path):
    text = told(browser, address, "epoch_loss")
    assert text.startswith("epoch_loss")
    for run in ("2-base/tensorboard/train", "2-base/tensorboard/validation", "7-final/tensorboard/train"):
        assert run in text
    lines = "return document.querySelectorAll('scalar-card line-chart').length"
    assert wait(lambda: browser.execute_script(lines)) == 1
    browser.save_screenshot(tmp_path / "curves.png")


def test_every_stage_has_a_row_in_the_hparams_table(browser, address, smoke_run, tmp_path):
    browser.set_window_size(1500, 1000)
    browser.get(f"{address}/#hparams")
    # The dashboard lives in nested shadow roots.
    texts = (
        "const found = [];"
        "const look = root => root.querySelectorAll('*').forEach(element => {"
        "  if (element.shadowRoot) look(element.shadowRoot);"
        "  if (element.tagName == 'VAADIN-GRID-CELL-CONTENT') found.push(element.innerText.trim());"
        "});"
        "look(document); return found"
    )
    error = f"{smoke_run.stage('final').metrics['test_error']:.3f}".rstrip("0")
    cells = wait(lambda: (seen := browser.execute_script(texts)) and any(error in cell for cell in seen) and seen)
    assert {"enas", "base", "prune", "pruned", "lds_location", "lds_direction", "final"} <= set(cells)
    assert {"test error, %", "live parameters", "score"} <= set(cells)
    browser.save_screenshot(tmp_path / "table.png")
