"""Runs begun by an earlier layout of this program, kept in tests/data: they resume, report and export.

`older_run` was stopped in its sixth stage after the first cycle, `older_search` in its first, with one of two updates
of the controller (of 4 units) done. Both are of preset smoke with fewer images, epochs and channels: `SMALLER`, `DATA`.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest

from nhn_tf import stages
from nhn_tf.export import write_exports
from nhn_tf.report import write_report
from nhn_tf.runs import RunDirectory
from tests.conftest import smoke_settings

SMALLER = {
    "enas": {"supernet_filters": 2, "epochs": 1},
    "base": {"filters": 2, "epochs": 2},
    "pruned": {"epochs": 1},
    "lds_location": {"cycles": 1},
    "final": {"epochs": 1},
}
DATA = {"train_limit": 96, "eval_limit": 48}


def settings(stage, **changes):
    asked = smoke_settings(stage, **SMALLER.get(stage, {}), **changes)
    return dataclasses.replace(asked, data=asked.data.replaced(**DATA))


@pytest.fixture
def older(tmp_path):
    def copy(name):
        shutil.copytree(Path(__file__).with_name("data") / name, tmp_path / name)
        return RunDirectory(tmp_path / name)

    return copy


@pytest.mark.slow
def test_a_run_of_before_is_resumed_reported_and_exported(older, capsys):
    run = older("older_run")
    for stage in ("enas", "base", "prune", "pruned", "lds_location"):
        stages.run(stage, run, settings(stage))
        assert f"{stage}: already finished" in capsys.readouterr().out
    first = run.stage("lds_direction").history
    stages.run("lds_direction", run, settings("lds_direction"))
    assert [row["cycle"] for row in run.stage("lds_direction").history] == [1, 2]
    assert run.stage("lds_direction").history[: len(first)] == first
    stages.run("final", run, settings("final"))
    report = write_report(run.path)
    assert report["main_row"]["stage"] == "final"
    assert "random search" in Path(report["report"]).read_text()
    exported = write_exports(run.path, ["keras"])
    assert exported["formats"]["keras"]["max_abs_error"] < 1e-4


def test_a_search_of_before_is_resumed_within_its_epoch(older, capsys):
    run = older("older_search")
    stages.run("enas", run, settings("enas", controller_units=4))
    assert "after epoch 0 of 1 and" in capsys.readouterr().out
    assert [row["epoch"] for row in run.stage("enas").history] == [1]
