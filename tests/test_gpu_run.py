"""The one-command run for a machine without a network, on the CPU."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nhn_tf.values.genotype import Genotype

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.jax, pytest.mark.slow]


@pytest.fixture
def packed_folder(tmp_path):
    """Three classes of 8x8 colour images that differ in brightness, packed as tar.xz."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 48), ("test", 12)):
        for label in range(3):
            directory = tmp_path / "images" / split / f"class{label}"
            directory.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(60 + 70 * label, 25, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(directory / f"{number:03d}.png")
    path = tmp_path / "images.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tmp_path / "images", ".")
    return path


def gpu_run(tmp_path, *arguments):
    command = [str(ROOT / "benchmarks" / "gpu_run.sh"), f"--model_dir={tmp_path / 'runs' / 'gpu'}", *arguments]
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


def test_a_budget_that_runs_out_is_gone_on_with_and_leaves_small_files(tmp_path, packed_folder):
    smoke = ["--preset=smoke", f"--archive={packed_folder}", "--train_limit=0", "--eval_limit=0"]
    cut = gpu_run(tmp_path, "--minutes=0.05", *smoke)  # three seconds: Keras is not even loaded
    assert cut.returncode == 124, cut.stdout + cut.stderr
    whole = gpu_run(tmp_path, "--minutes=14", *smoke)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"log.txt", "results.json", "genotype.json", "masks.npz", "run.tar.gz", "weights-float16-0.npz"} <= names
    assert all(path.stat().st_size < 16 * 2**20 for path in out.iterdir())
    assert Genotype.load(out).masks is not None
    with np.load(out / "weights-float16-0.npz") as weights:
        assert all(weights[name].dtype != np.float32 for name in weights.files)
    again = gpu_run(tmp_path, "--minutes=5", *smoke)
    assert again.returncode == 0
    assert again.stdout.count("already finished") == 7


def test_a_missing_archive_is_named(tmp_path):
    result = gpu_run(tmp_path, "--archive=nowhere.tar.xz")
    assert result.returncode == 2
    assert "nowhere.tar.xz" in result.stderr
