"""The examples run as their first lines say."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from nhn_tf.runs import RunDirectory

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes that differ in their colour, ten images each for training and four for the test."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for number, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40, 40, 3)) + 120 * number
                keras.utils.save_img(folder / part / name / f"{i}.png", pixels, scale=False)
    return folder


def begin(example: str, folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "examples" / example), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def end(process: subprocess.Popen) -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return out


def run(example: str, folder: Path, *arguments: str) -> str:
    return end(begin(example, folder, *arguments))


@pytest.mark.slow
def test_a_network_is_pruned_exported_and_timed(photos, tmp_path):
    pytest.importorskip("llvmlite")
    out = run("prune_your_model.py", tmp_path, str(photos), "--epochs=2", "--side=16", "--batch_size=10")
    assert "of the multiply-adds are within reach of pruning" in out
    assert out.count("test accuracy") == 2
    assert "sparse: " in out
    assert (tmp_path / "small.nhn").exists()
    small = keras.saving.load_model(tmp_path / "small.keras")
    kernels = [layer.kernel for layer in small.layers if getattr(layer, "kernel_size", None) == (3, 3)][1:]
    live = sum(int(keras.ops.convert_to_numpy(kernel).any((0, 1)).sum()) for kernel in kernels)
    assert live <= round(0.15 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64))


@pytest.mark.slow
def test_a_pretrained_network_within_a_model_is_pruned(photos, tmp_path):
    out = run("transfer_learning.py", tmp_path, str(photos), "--epochs=1", "--side=32", "--weights=none")
    assert "base/block_1_expand (Conv2D)" in out
    assert out.count("test accuracy") == 3
    assert not any(isinstance(x, keras.Model) for x in keras.saving.load_model(tmp_path / "small.keras").layers)


@pytest.mark.slow
def test_an_op_of_ones_own_is_searched_and_the_search_taken_up_again(tmp_path):
    asked = ("own_op.py", tmp_path, "--epochs=1", "--filters=4", f"--directory={tmp_path}")
    out = run(*asked)
    rows = [line.split() for line in out.strip().splitlines()[-3:]]
    assert [len(row) for row in rows] == [1, 2, 3] and {row[0] for row in rows} <= {"0", "2", "dilated3x3"}
    found = keras.saving.load_model(tmp_path / "own_op.keras")
    dilated = [layer for layer in found.layers if getattr(layer, "dilation_rate", None) == (2, 2)]
    assert len(dilated) == sum(row[0] == "dilated3x3" for row in rows)
    assert run(*asked) == out  # finished: it is read


@pytest.mark.slow
def test_processes_share_a_sweep_and_resume_what_a_killed_one_left(tmp_path):
    optuna = pytest.importorskip("optuna")
    shorter = ["enas_epochs=1", "base_epochs=1", "lds_location_cycles=1", "lds_direction_cycles=1"]
    sweep = ["sweep_optuna.py", tmp_path, "sweep", *shorter, "--preset=smoke", "--trials=2"]
    killed = begin(*sweep)
    while not (tmp_path / "sweep" / "trial_0" / "2-base" / "config.json").exists():
        assert killed.poll() is None, killed.communicate()[1][-2000:]
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    searched = (tmp_path / "sweep" / "trial_0" / "1-enas" / "done.json").stat().st_mtime_ns
    outs = [end(process) for process in [begin(*sweep), begin(*sweep)]]

    assert (tmp_path / "sweep" / "trial_0" / "1-enas" / "done.json").stat().st_mtime_ns == searched
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "sweep" / "study.log"))
    study = optuna.load_study(study_name="nhn_tf", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    pids = set()
    for trial in study.trials:
        directory = RunDirectory(tmp_path / "sweep" / f"trial_{trial.number}")
        final = directory.stage("final")
        assert trial.values == [100 * (1 - final.metrics["val_accuracy"]), final.metrics["live_params"]]
        config = directory.stage("base").config["config"]
        assert (config["filters"], config["epochs"]) == (trial.params["base_filters"], 1)
        pids.add(directory.journal.read()["calls"][-1]["pid"])
    assert len(pids) == 2
    assert all("validation error" in out and "live parameters" in out for out in outs)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (128 + signal.SIGTERM, True)])
def test_a_slurm_job_is_queued_again_when_its_run_was_stopped_and_not_when_it_has_ended(tmp_path, code, requeued):
    """Stand-ins take the place of Slurm's commands and of Python."""
    programs = {
        "srun": 'exec "$@"',
        "python": f'echo "$@" > {tmp_path}/told; exit {code}',
        "scontrol": f'echo "$@" > {tmp_path}/requeued',
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    command = ["bash", ROOT / "examples" / "slurm.sh", "--preset=fast", "--data_dir=a b"]
    assert subprocess.run(command, env=environment, check=False).returncode == code
    assert (tmp_path / "told").read_text() == "-m nhn_tf pipeline --preset=fast --data_dir=a b\n"
    asked = tmp_path / "requeued"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if requeued else "")
