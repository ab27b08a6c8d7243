"""The demo preset holds what the README promises of it. Minutes: run by `make test-slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def test_the_demo_prunes_most_parameters_and_keeps_its_accuracy(tmp_path):
    command = [sys.executable, "pipeline.py", "--preset=demo", f"--model_dir={tmp_path / 'run'}", "--prune_control"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)
    metrics = {
        path.parent.name[2:]: json.loads(path.read_text())["metrics"] for path in (tmp_path / "run").glob("*/done.json")
    }
    assert metrics["base"]["test_accuracy"] >= 0.97
    assert metrics["prune"]["kernel_sparsity"] == pytest.approx(0.85, abs=0.005)
    assert metrics["prune"]["kxk_params_removed"] > 0.7
    assert metrics["prune"]["test_accuracy"] > metrics["prune"]["random_test_accuracy"]
    assert metrics["prune"]["kept_as_at_initialisation"] <= metrics["prune"]["kept_by_chance"] + 0.1
    assert metrics["pruned"]["test_accuracy"] >= metrics["base"]["test_accuracy"] - 0.015
    assert metrics["final"]["test_accuracy"] >= 0.97
    assert metrics["final"]["live_params"] <= metrics["base"]["live_params"] / 2
