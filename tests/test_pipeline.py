"""pipeline.py as a user calls it: seven stages, the report, and a second call that finds everything done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import STAGES

ROOT = Path(__file__).resolve().parent.parent


def pipeline(model_dir, *arguments):
    command = [sys.executable, "pipeline.py", "--preset=smoke", f"--model_dir={model_dir}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


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
        (["--final_batch_size=1000"], "stage 'final': --batch_size"),
        (["--enas_ops=avg_pool3x3,max_pool3x3"], "no full convolution"),
    ],
)
def test_what_only_the_data_shows_is_refused_before_the_first_stage_too(tmp_path, flags, culprit):
    result = pipeline(tmp_path / "run", *flags)
    assert result.returncode == 2
    assert culprit in result.stderr
    assert not (tmp_path / "run").exists()
