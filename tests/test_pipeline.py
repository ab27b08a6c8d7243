"""pipeline.py as a user calls it: seven stages, the report, and a second call that finds everything done."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nhn_tf
from nhn_tf.runs import RunDirectory
from nhn_tf.settings import stages
from nhn_tf.storage import files
from tests import commands, events
from tests.conftest import STAGES, smoke_settings

ROOT = Path(__file__).resolve().parent.parent


def pipeline(model_dir, *arguments):
    command = [sys.executable, "pipeline.py", "--preset=smoke", f"--model_dir={model_dir}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_a_second_call_goes_on_where_the_first_stopped(smoke_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(smoke_run.path, run)
    shutil.rmtree(run / "7-final")
    result = pipeline(run)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("already finished") == len(STAGES) - 1
    last = json.loads(result.stdout.strip().splitlines()[-1])
    assert set(last["wall_s"]) == set(STAGES)
    results = json.loads(Path(last["results"]).read_text())
    assert results["main_row"] == last["main_row"]
    assert Path(last["report"]).read_text().startswith("# Report")
    final = json.loads((run / "7-final" / "done.json").read_text())["metrics"]
    assert last["main_row"]["test_error"] == final["test_error"]
    assert events.read(run / "tensorboard") == {("", "verdict"): ("text", [(0, "\n\n".join(last["verdict"]))])}


@pytest.mark.parametrize(
    ("flag", "culprit"),
    [("--final_epochs=0", "--final_epochs"), ("--epochs=3", "epochs"), ("--prune_threshold=x", "--prune_threshold")],
)
def test_wrong_settings_are_refused_before_the_first_stage(tmp_path, flag, culprit):
    result = pipeline(tmp_path / "run", flag)
    assert result.returncode == 2
    assert culprit in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        (["--final_batch_size=1000"], "stage 'final': --final_batch_size"),
        (["--enas_ops=avg_pool3x3,max_pool3x3"], "no full convolution"),
    ],
)
def test_what_only_the_data_shows_is_refused_before_the_first_stage_too(tmp_path, flags, culprit):
    result = commands.call("pipeline", "--preset=smoke", f"--model_dir={tmp_path / 'run'}", *flags)
    assert result.returncode == 2
    assert culprit in result.stderr
    assert not (tmp_path / "run").exists()


def repeat(journal, *arguments):
    command = [sys.executable, "pipeline.py", f"--repeat={journal}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_a_run_is_repeated_from_its_journal_alone_to_the_same_bits(smoke_run, tmp_path):
    journal = shutil.copy(smoke_run.path / "run.json", tmp_path)
    result = repeat(journal, f"--model_dir={tmp_path / 'again'}")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.strip().splitlines()[-1])["same"] == dict.fromkeys(STAGES, True)
    assert result.stdout.count("same bits") == sum(range(len(STAGES) + 1))


def test_a_run_is_not_repeated_onto_itself(smoke_run):
    result = commands.call("pipeline", f"--repeat={smoke_run.path / 'run.json'}", f"--model_dir={smoke_run.path}")
    assert result.returncode == 2
    assert "holds the very run" in result.stderr


@pytest.mark.slow
def test_a_base_from_a_file_is_repeated_without_the_file(tmp_path):
    from nhn_tf import stages
    from nhn_tf.runs import RunDirectory

    path = tmp_path / "arc.txt"
    path.write_text("0\n5 1\n2 0 1\n")
    run = RunDirectory(tmp_path / "run")
    stages.run("base", run, smoke_settings("base", genotype=str(path), epochs=1, lr_max=0.04))
    path.unlink()
    result = repeat(run.path / "run.json")
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.strip().splitlines()[-1])
    assert last["same"] == {"base": True}
    again = RunDirectory(tmp_path / "run-repeat").stage("base")
    assert again.done.metrics == run.stage("base").done.metrics
    assert again.config["config"]["lr_max"] == 0.04

    noted = files.read_sealed(run.path / "run.json")
    noted["stages"]["base"]["weights"] = "0" * 16
    files.write_sealed(run.path / "run.json", noted)
    result = repeat(run.path / "run.json")
    assert result.returncode == 1
    assert json.loads(result.stdout.strip().splitlines()[-1])["same"] == {"base": False}
    assert "OTHER BITS" in result.stdout


@pytest.mark.parametrize(
    ("content", "flag", "culprit"),
    [
        (None, "--debug=false", "does not exist"),
        ('{"schema": 1}', "--debug=false", "run.json is damaged"),
        (None, "--seed=3", "Leave out --seed"),
        (None, "--base_epochs=3", "Leave out --base_epochs"),
    ],
)
def test_what_cannot_be_repeated_is_refused_before_keras_loads(tmp_path, content, flag, culprit):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    program = (
        "import runpy, sys\n"
        "sys.modules['keras'] = None\n"  # importing it raises
        "runpy.run_path('pipeline.py', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, f"--repeat={tmp_path / 'run.json'}", f"--model_dir={tmp_path / 'again'}"]
    result = subprocess.run([*command, flag], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2, result.stderr
    assert culprit in result.stderr
    assert not (tmp_path / "again").exists()


def test_overwriting_asks_what_to_discard_and_discards_nothing(smoke_run, tmp_path):
    shutil.copytree(smoke_run.path, tmp_path / "run")
    result = commands.call("pipeline", "--preset=smoke", f"--model_dir={tmp_path / 'run'}", "--overwrite")
    assert result.returncode == 2
    for name in ("1-enas", "7-final"):
        assert re.search(rf"{name}  0:\d\d:\d\d", result.stderr), result.stderr
    assert "--overwrite=all" in result.stderr
    assert all(stage.is_done for stage in RunDirectory(tmp_path / "run").stages.values())


def test_a_stage_is_overwritten_with_what_builds_on_it(smoke_run, tmp_path, monkeypatch):
    from nhn_tf.stages import pipeline as running

    shutil.copytree(smoke_run.path, tmp_path / "run")
    directory, missing = RunDirectory(tmp_path / "run"), []

    def run(stage, directory, asked):
        missing.append([name for name, record in directory.stages.items() if not record.has_begun])
        return {"metrics": {}, "wall_s": 0.0}

    monkeypatch.setattr(running.runner, "run", run)
    monkeypatch.setattr(running, "_reported", lambda *results: {})
    running.run(directory, {"enas": smoke_settings("enas")}, overwrite="lds_location")
    assert missing == [["lds_location", "lds_direction", "final"]]


def test_controls_build_on_stages_too():
    assert stages.building_on("lds_direction") == (
        "lds_direction", "final", "random_addons", "small_dense", "resnet", "perturbed_addons"
    )  # fmt: skip
    assert "baseline" not in stages.building_on("enas")
    with pytest.raises(ValueError, match="must be among"):
        stages.building_on("no such")


def test_an_unknown_stage_to_overwrite_is_refused_before_images_are_kept(tmp_path):
    images = np.zeros((8, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="must be among"):
        nhn_tf.run.pipeline(images, [0, 1] * 4, model_dir=tmp_path / "run", preset="smoke", overwrite="no such")
    assert not (tmp_path / "run").exists()
