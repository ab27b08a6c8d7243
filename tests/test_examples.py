"""The examples run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

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


def run(example: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / example), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
