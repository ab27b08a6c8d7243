"""What an individual of the location-direction search costs beside its steps: `fit` against `train_briefly`.

    taskset -c 0 python benchmarks/brief_training.py

Trains a small network for two steps at a time, `--calls` times by either, in turns of 50. Prints the time and the
growth of resident memory (Linux) of a call; the last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from nhn_tf import training
from nhn_tf.training import optimizers

TURN = 50


class Pair(keras.utils.PyDataset):
    """Two batches of 32 images of 8x8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self._images = rng.standard_normal((2, 32, 8, 8, 1)).astype(np.float32)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._images[index], np.arange(32, dtype=np.int32) % 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400)
    args = parser.parse_args()
    layers = [keras.layers.Conv2D(8, 3), keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    training.compile_classifier(model, optimizers.Nesterov(1e-3))
    batches = Pair()
    ways = {
        "fit": lambda: training.fit(model, batches, epochs=1),
        "train_briefly": lambda: training.train_briefly(model, batches),
    }
    for call in ways.values():
        for _ in range(TURN):
            call()
    seconds, growth = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    turns = max(1, args.calls // TURN)
    for _ in range(turns):
        for name, call in ways.items():
            gc.collect()
            start, before = time.perf_counter(), resident_kib()
            for _ in range(TURN):
                call()
            seconds[name] += time.perf_counter() - start
            gc.collect()
            growth[name] += resident_kib() - before
    result = {
        name: {"ms": round(1e3 * seconds[name] / (turns * TURN), 2), "KiB": round(growth[name] / (turns * TURN), 2)}
        for name in ways
    }
    for name, row in result.items():
        print(f"{name:14s} {row['ms']:8.2f} ms and {row['KiB']:6.2f} KiB a call of two steps")
    print(json.dumps(result))


def resident_kib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


if __name__ == "__main__":
    main()
