"""Training on several devices gives what training on one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_two_devices_train_as_one_does():
    command = [sys.executable, "-m", "tests.two_devices"]
    found = json.loads(subprocess.check_output(command, cwd=ROOT, text=True, env={**os.environ, "PYTHONPATH": "."}))
    assert found["replicas"] == 2
    for way in ("plain", "pruned"):
        assert found[way]["weights"] < 1e-5
        assert found[way]["metrics"] < 1e-5
    assert found["pruned"]["masked"] > 0
