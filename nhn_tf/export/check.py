"""An exported file against the network that it was made from: same answers, how large, how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import nhn_tf
from nhn_tf.export.formats import FORMATS
from nhn_tf.export.source import ExportError
from nhn_tf.storage import files

TOLERANCE = 1e-3
"""Largest error of a logit, relative to the largest logit if that is above 1."""
FLOAT16_TOLERANCE = 2e-2
"""The same where weights are rounded to float16, to 11 bits each."""
SECONDS = 600
_RELOAD = Path(__file__).with_name("reload.py")
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
)


def check_reference(stage: str, logits: np.ndarray) -> None:
    """Refuses answers that no export could be compared with.

    Args:
      stage: whose network it is.
      logits: float32 [N, classes], what the run's network makes of the images.

    Raises:
      ExportError: some are NaN or infinite.
    """
    if wrong := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise ExportError(
            f"the network of stage {stage!r} itself answers with NaN or infinity to {wrong} of {len(logits)} test "
            "images, so no export of it can be checked. Train that stage again."
        )


def check(
    name: str, path: Path, images: np.ndarray, logits: np.ndarray, *, work: Path, float16: bool = False
) -> dict[str, Any]:
    """Loads an export in a fresh process and compares its logits.

    Args:
      name: of the format.
      path: of the file or directory.
      images: float32 [N, H, W, C], normalised.
      logits: float32 [N, classes], what the run's network makes of them.
      work: a directory for what passes between the processes.
      float16: whether its weights are rounded.

    Returns:
      Entries "bytes", "weights" (their type), "max_abs_error", "same_top1" (share of the images), "load_s",
      "latency_ms", "versions".

    Raises:
      ExportError: it cannot be loaded, or its answers are others.
    """
    with files.writing(work):
        np.save(work / "images.npy", images)
    facts = _reload(name, path, work)
    found = np.load(work / "logits.npy")
    if found.shape != logits.shape:
        raise ExportError(f"the {name} export makes outputs {found.shape}, not {logits.shape}; it was discarded.")
    error = float(np.abs(found - logits).max())
    tolerance = FLOAT16_TOLERANCE if float16 else TOLERANCE
    if not error <= tolerance * max(1.0, float(np.abs(logits).max())):  # NaN fails too
        raise ExportError(f"the {name} export's logits differ from the network's by {error:.3g}; it was discarded.")
    return {
        "bytes": size_of(path),
        "weights": "float16" if float16 else "float32",
        "max_abs_error": error,
        "same_top1": float(np.mean(found.argmax(1) == logits.argmax(1))),
        **facts,
    }


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _reload(name: str, path: Path, work: Path) -> dict[str, Any]:
    environment = {**os.environ, **_ONE_THREAD, "KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    if name == "nhn":
        environment["PYTHONPATH"] = str(Path(nhn_tf.__file__).resolve().parent.parent)
    work = work.absolute()
    paths = [path.absolute(), work / "images.npy", work / "logits.npy"]
    # -P: the modules beside the script must not hide those of the same name.
    command = [sys.executable, "-P", str(_RELOAD), name, *map(str, paths)]
    try:
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"the {name} export was not loaded and run within {SECONDS} s; it was discarded.") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        title = FORMATS[name].title
        raise ExportError(f"the {name} export cannot be loaded again as {title}: {last}; it was discarded.")
    return json.loads(done.stdout.splitlines()[-1])
