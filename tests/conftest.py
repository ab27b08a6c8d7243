"""A run that many tests look at: made once, by the real stages on the real digits, for all test processes."""

import contextlib
import dataclasses
import fcntl
import importlib.util
import io
import itertools
import os
import shutil
import signal

import pytest

from nhn_tf.settings import PRESETS
from nhn_tf.settings.stages import NAMES as STAGES

os.environ["NHN_SPARSE_CACHE"] = "0"  # Tests change what plans depend on, and compile what they test.


def smoke_settings(stage, *, compute=None, **changes):
    """The smoke preset's settings of a stage, with some fields of its configuration, and of `compute`, changed."""
    from nhn_tf.runs import Settings

    preset = PRESETS["smoke"]
    config = dataclasses.replace(preset.stage(stage), **changes)
    compute = dataclasses.replace(preset.compute, **(compute or {}))
    return Settings(config=config, data=preset.data, compute=compute, preset="smoke")


def before(run, stage, path):
    """A copy of a finished run as it was before `stage` began."""
    from nhn_tf.runs import RunDirectory

    copy = RunDirectory(path)
    shutil.copytree(run.path, copy.path)
    for name in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(copy.stage(name).path)
    return copy


def newest_checkpoint(stage, **options):
    """The newest readable checkpoint of a stage, by its record."""
    from nhn_tf.runs.settings import config_digest
    from nhn_tf.storage.checkpoints import Checkpoints

    return Checkpoints(stage / "checkpoint").load(config_digest(stage.config), **options)


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A directory that all test processes share, and a lock that one of them holds while it makes something there."""
    path = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent

    @contextlib.contextmanager
    def held():
        with open(path / "shared.lock", "w") as lock, contextlib.redirect_stdout(io.StringIO()):
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path

    return held


@pytest.fixture(scope="session")
def smoke_run(shared):
    """A run directory whose seven stages have finished with the smoke preset. Not to be changed."""
    from nhn_tf import stages
    from nhn_tf.runs import RunDirectory

    with shared() as path:
        run = RunDirectory(path / "smoke")
        for stage in STAGES:
            if not run.stage(stage).is_done:
                stages.run(stage, run, smoke_settings(stage))
    return run


@pytest.fixture(scope="session")
def exported_run(smoke_run, shared):
    """A copy of the finished run with exports for Keras, and for the sparse runtime where it is. Not to be changed."""
    from nhn_tf.export import write_exports
    from nhn_tf.runs import RunDirectory

    with shared() as path:
        if not (path / "exported").exists():
            shutil.copytree(smoke_run.path, path / "exporting")
            write_exports(path / "exporting", ["keras", *(["nhn"] if importlib.util.find_spec("llvmlite") else [])])
            (path / "exporting").rename(path / "exported")
        return RunDirectory(path / "exported")


@pytest.fixture(scope="session")
def reported_run(smoke_run, shared):
    """A copy of the finished run with its report. Not to be changed."""
    from nhn_tf.report import write_report
    from nhn_tf.runs import RunDirectory

    with shared() as path:
        if not (path / "reported").exists():
            shutil.copytree(smoke_run.path, path / "reporting")
            write_report(path / "reporting")
            (path / "reporting").rename(path / "reported")
        return RunDirectory(path / "reported")


@pytest.fixture
def run_copy(smoke_run, tmp_path):
    """A copy of the finished run, for tests that run stages in it."""
    from nhn_tf.runs import RunDirectory

    shutil.copytree(smoke_run.path, tmp_path / "copy")
    return RunDirectory(tmp_path / "copy")


@pytest.fixture
def stop(monkeypatch):
    """Makes a signal 'arrive' at the n-th step that is reported from now on."""
    from nhn_tf.runs.monitor import Monitor
    from nhn_tf.storage import stopping

    report = Monitor.step

    def at(count):
        steps = itertools.count(1)

        def step(self, *args, **kwargs):
            report(self, *args, **kwargs)
            if next(steps) == count:
                stopping.request(signal.SIGTERM)

        monkeypatch.setattr(Monitor, "step", step)

    yield at
    stopping.request(None)


QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
"""What keeps Chromium from asking anything of the network by itself, and lets TensorBoard draw without a GPU."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, driven by Selenium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "this needs chromium and chromedriver: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})  # or no element gets the focus
    yield chrome
    chrome.quit()
