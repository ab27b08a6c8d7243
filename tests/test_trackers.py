"""Trackers hear of each stage and epoch once, whatever happens to them or to the run, and change nothing."""

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nhn_tf
from nhn_tf import stages
from nhn_tf.errors import UserError
from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.runs.mlflow_tracker import ID, MlflowTracker
from nhn_tf.runs.tracking import NAME, Tracking, resolve
from nhn_tf.settings import PRESETS
from nhn_tf.settings.stages import NAMES
from nhn_tf.stages import pipeline, planning
from nhn_tf.storage import files
from tests.conftest import before, smoke_settings

MlflowClient = pytest.importorskip("mlflow").MlflowClient
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # as the tracker does in its own process
ROOT = Path(__file__).resolve().parent.parent


class Recorder:
    """Keeps what it is told, and draws random numbers all the while."""

    def __init__(self):
        self.told = []

    def hear(self, *what):
        self.told.append(what)
        random.random()
        np.random.random(3)

    def on_stage_begin(self, stage):
        self.hear("begin", stage)

    def on_metrics(self, stage, step, metrics):
        self.hear(step, metrics)

    def on_stage_end(self, stage, metrics):
        self.hear("end", metrics)

    def heard(self):
        return [what[0] for what in self.told]


class Broken(Recorder):
    """Fails at the second epoch until it is mended."""

    mended = False

    def on_metrics(self, stage, step, metrics):
        if step == 2 and not self.mended:
            raise OSError("no answer")
        super().on_metrics(stage, step, metrics)


class Killed(BaseException):
    """As a signal, it passes through what catches errors."""


class Killer(Recorder):
    """Ends the process as the first epoch is told, before a checkpoint has it."""

    def on_metrics(self, stage, step, metrics):
        raise Killed


def run_base(run, *trackers):
    return stages.run("base", run, dataclasses.replace(smoke_settings("base"), trackers=trackers))


@dataclasses.dataclass
class Followed:
    """A stage that was killed and resumed, and its trackers."""

    run: RunDirectory
    done: dict
    recorder: Recorder
    broken: Broken
    store: str
    out: str

    @property
    def stage(self):
        return self.run.stage("base")


@pytest.fixture(scope="module")
def followed(smoke_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("followed")
    run = before(smoke_run, "base", folder / "run")
    recorder, broken, store = Recorder(), Broken(), f"file:{folder / 'mlruns'}"
    with pytest.raises(Killed):
        run_base(run, recorder, broken, MlflowTracker(store), Killer())
    assert runs_in(store)["run/base"].info.status == "RUNNING"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        done = run_base(run, recorder, broken, MlflowTracker(store))
    return Followed(run, done, recorder, broken, store, out.getvalue())


def runs_in(store):
    client = MlflowClient(store)
    return {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("nhn_tf").experiment_id])
    }


def test_a_stage_that_was_killed_is_told_once_and_computes_the_same(smoke_run, followed):
    undisturbed, stage = smoke_run.stage("base"), followed.stage
    epochs = range(1, len(undisturbed.history) + 1)
    told = followed.recorder.told
    assert followed.recorder.heard() == ["begin", 1, "begin", *epochs[1:], "end"]
    first, second = told[0][1], told[2][1]
    assert first.id == second.id
    assert (first.name, first.run, first.path) == ("base", followed.run.path, stage.path)
    assert first.settings["epochs"] == len(epochs) and first.settings["data.dataset"] == "digits"
    for step, metrics in (what for what in told if isinstance(what[0], int)):
        row = {name: value for name, value in stage.history[step - 1].items() if name != "epoch"}
        assert {**metrics, "seconds": 0} == {**row, "seconds": 0}
    assert told[-1][1] == followed.done["metrics"]
    assert followed.done["weights"] == undisturbed.done.weights
    assert followed.done["config_digest"] == undisturbed.done.config_digest


def test_mlflow_has_one_run_for_a_stage_that_was_killed(followed):
    stage, done = followed.stage, followed.done
    # Killed before the last calls were noted, a process leaves this:
    noted = files.read_json(stage / NAME)
    files.write_json(stage / NAME, {**noted, "told": {}})
    assert run_base(followed.run, MlflowTracker(followed.store)) == done

    found = runs_in(followed.store)
    files.write_json(stage / NAME, noted)
    assert list(found) == ["run/base"]
    base, client = found["run/base"], MlflowClient(followed.store)
    assert base.info.status == "FINISHED"
    assert base.data.tags[ID] == noted["id"]
    assert base.data.params["epochs"] == str(len(stage.history)) and base.data.params["data.dataset"] == "digits"
    losses = client.get_metric_history(base.info.run_id, "loss")
    assert [(m.step, m.value) for m in losses] == [(i, row["loss"]) for i, row in enumerate(stage.history, 1)]
    (error,) = client.get_metric_history(base.info.run_id, "figures/test_error")
    assert error.value == done["metrics"]["test_error"]
    assert {file.path for file in client.list_artifacts(base.info.run_id)} == {"genotype.json", "metrics.csv"}


def test_a_tracker_that_fails_is_left_out_and_told_later(followed):
    broken, epochs = followed.broken, range(1, len(followed.stage.history) + 1)
    assert broken.heard() == ["begin", 1, "begin"]
    assert "test_trackers.Broken failed at on_metrics of stage 'base': OSError: no answer" in followed.out
    broken.mended = True
    assert run_base(followed.run, broken, followed.recorder) == followed.done
    assert broken.heard() == ["begin", 1, "begin", "begin", *epochs[1:], "end"]
    assert followed.recorder.heard().count("end") == 1
    assert run_base(followed.run, broken) == followed.done
    assert broken.heard().count("end") == 1


def test_a_stage_begun_again_is_another(tmp_path):
    def begun():
        (tmp_path / "3-prune").mkdir(exist_ok=True)
        tracking = Tracking([Recorder()], tmp_path / "3-prune", "prune", run=tmp_path, settings={})
        tracking.begin()
        return tracking.stage.id

    first = begun()
    assert begun() == first
    shutil.rmtree(tmp_path / "3-prune")
    assert begun() != first


def test_a_damaged_note_and_an_unreadable_table_harm_nothing(run_copy, capsys):
    stage = run_copy.stage("base")
    (stage / NAME).write_text("{")
    (stage / "metrics.csv").write_text("epoch,loss\n1,many\n")
    recorder = Recorder()
    assert run_base(run_copy, recorder) == stage.done.to_json()
    assert recorder.heard() == ["begin", "end"]
    out = capsys.readouterr().out
    assert "is damaged; trackers are told everything again" in out
    assert "trackers are not told of its epochs" in out


@pytest.mark.parametrize(
    ("tracker", "error", "message"),
    [
        ("wandb", UserError, "`tracker` must be mlflow or module:Class. Received: 'wandb'"),
        ("no_such_module:Tracker", UserError, "`tracker`=no_such_module:Tracker: there is no such module"),
        ("json:Tracker", UserError, "cannot be made: AttributeError"),
        ("collections:OrderedDict", TypeError, "must be an object with on_stage_begin, on_metrics, on_stage_end"),
        (Recorder, TypeError, "must be an object with"),
    ],
)
def test_what_is_no_tracker_is_refused_before_anything_runs(tracker, error, message):
    with pytest.raises(error, match=re.escape(message)):
        resolve([tracker])


def test_a_module_that_fails_or_exits_is_named_with_what_it_raised(tmp_path, monkeypatch):
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "fails.py").write_text("class Tracker:\n    def __init__(self):\n        1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, error, said in (
        ("exits:Tracker", SystemExit, "importing it fails: SystemExit(3)"),
        ("fails:Tracker", ZeroDivisionError, "cannot be made: ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=f"`tracker`={name}:? {re.escape(said)}") as raised:
            resolve(name)
        assert isinstance(raised.value.__cause__, error)  # for --debug


def settings_for(tracker):
    return {name: Settings.of(PRESETS["smoke"], name, name="smoke", trackers=[tracker]) for name in NAMES}


def all_that_happened(run, names=NAMES):
    """What a tracker hears of finished stages."""
    return [what for name in names for what in ("begin", *range(1, len(run.stage(name).history) + 1), "end")]


@pytest.fixture
def unreported(monkeypatch):
    """Leaves out the reports, which take longer than all else."""
    monkeypatch.setattr(pipeline, "write_report", lambda path: {"verdict": [], "html": ""})
    monkeypatch.setattr(pipeline.family, "write_family", lambda path: {"report": ""})


def test_the_run_of_each_seed_tells_its_trackers(smoke_run, tmp_path, unreported):
    shutil.copytree(smoke_run.path, tmp_path / "family" / "seed_0")
    recorder = Recorder()
    pipeline.run_family(tmp_path / "family", {0: settings_for(recorder)})
    assert recorder.heard() == all_that_happened(smoke_run)
    runs = {what[1].run for what in recorder.told if what[0] == "begin"}
    assert runs == {tmp_path / "family" / "seed_0"}
    pipeline.run_family(tmp_path / "family", {0: settings_for(recorder)})
    assert recorder.heard() == all_that_happened(smoke_run)


def test_a_repeated_run_tells_its_trackers_and_is_the_same(smoke_run, tmp_path, unreported):
    begun = NAMES[:3]
    before(smoke_run, begun[-1], tmp_path / "again")  # as far as it had come
    noted = files.read_sealed(smoke_run.path / "run.json")
    files.write_sealed(tmp_path / "run.json", {**noted, "stages": {name: noted["stages"][name] for name in begun}})
    recorder = Recorder()
    result = pipeline.repeat(tmp_path / "run.json", tmp_path / "again", trackers=[recorder])
    assert result["same"] == dict.fromkeys(begun, True)
    assert recorder.heard() == all_that_happened(smoke_run, begun)


def test_a_planned_run_hands_its_trackers_to_each_stage(tmp_path, monkeypatch):
    given = []

    def run(stage, directory, settings):
        given.append((stage, settings.trackers, settings.behind.is_planned))
        raise Killed

    machine = planning.Machine(0.5, 0.05, 0.001, 1e-10, 32, (2e4, 1e3), 10**6, 256, 96)
    monkeypatch.setattr(planning, "measure", lambda feed, **options: machine)
    monkeypatch.setattr(pipeline.runner, "run", run)
    recorder, images = Recorder(), {"dataset": "digits", "train_limit": 256, "eval_limit": 96}
    with pytest.raises(Killed):
        nhn_tf.run.pipeline(model_dir=tmp_path / "run", time_limit="5m", trackers=[recorder], **images)
    assert given == [("base", (recorder,), True)]


@pytest.mark.slow
@pytest.mark.jax_slow
def test_a_training_tells_each_epoch_and_its_figures_on_both_backends(tmp_path):
    run, recorder = RunDirectory(tmp_path / "run"), Recorder()
    settings = smoke_settings("base", genotype="0\n0 0\n0 1 0\n", epochs=2)
    done = stages.run("base", run, dataclasses.replace(settings, trackers=(recorder,)))
    assert recorder.heard() == ["begin", 1, 2, "end"]
    history = run.stage("base").history
    for step, metrics in recorder.told[1:3]:
        assert metrics == {name: value for name, value in history[step - 1].items() if name != "epoch"}
    assert recorder.told[-1][1] == done["metrics"]
    assert stages.run("base", run, dataclasses.replace(settings, trackers=(recorder,))) == done
    assert recorder.heard() == ["begin", 1, 2, "end"]


def lines_tracker():
    """The tracker that the documentation shows."""
    page = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.mark.slow
def test_the_documented_tracker_follows_a_script_and_is_given_what_a_finished_run_has(smoke_run, tmp_path):
    shutil.copytree(smoke_run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "7-final")
    (tmp_path / "my_trackers.py").write_text(lines_tracker())
    command = [sys.executable, str(ROOT / "pipeline.py"), "--preset=smoke", "--model_dir=run"]
    command.append("--tracker=my_trackers:Lines,mlflow")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [name for _, name, what, _ in told if what == "end"] == list(smoke_run.stages)
    for name, stage in smoke_run.stages.items():
        steps = [what for _, told_of, what, _ in told if told_of == name]
        assert steps == ["begin", *range(1, len(stage.history) + 1), "end"], name
    assert len(runs_in(f"file:{tmp_path / 'mlruns'}")) == len(smoke_run.stages)
