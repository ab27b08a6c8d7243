"""Packs a run's results into a few small files.

    python benchmarks/pack_run.py --model_dir=runs/gpu --out=out

Writes results.json, genotype.json and masks.npz of the last stage that has them, run.tar.gz (report, configurations,
curves, done.json) and the last stage's weights as float16 in weights-float16-*.npz, each below 16 MB.
"""

import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nhn_tf.storage import files

FLAGS = flags.FLAGS
SHARD_BYTES = 15 * 2**20
SMALL = {".json", ".csv", ".md", ".png", ".svg"}

flags.DEFINE_string("model_dir", None, "the run's directory", required=True)
flags.DEFINE_string("out", "out", "where the files go")


def shards(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays in float16, in order, split so that each part holds at most `SHARD_BYTES` before compression."""
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in arrays.items():
        small = array.astype(np.float16) if array.dtype == np.float32 else array
        if parts[-1] and size + small.nbytes > SHARD_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = small
        size += small.nbytes
    return parts


def main(argv: list[str]) -> None:
    del argv
    run, out = Path(FLAGS.model_dir), Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    finished = sorted(path.parent for path in run.glob("[1-7]-*/done.json"))
    with tarfile.open(out / "run.tar.gz", "w:gz") as archive:
        for path in sorted(run.rglob("*")):
            if path.suffix in SMALL and "tensorboard" not in path.parts:
                archive.add(path, path.relative_to(run))
    if (run / "report" / "results.json").exists():
        shutil.copy(run / "report" / "results.json", out)
    if finished:
        last = finished[-1]
        for name in ("genotype.json", "masks.npz"):
            if (last / name).exists():
                shutil.copy(last / name, out)
        for number, part in enumerate(shards(files.load_npz(last / "weights.npz"))):
            np.savez_compressed(out / f"weights-float16-{number}.npz", **part)
    print("packed " + ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MB" for path in sorted(out.iterdir())))


if __name__ == "__main__":
    app.run(main)
