"""What checkpoints of a location search cost: their bytes, how many of these a cycle changes, and the time of a save.

    python benchmarks/checkpoints.py

Runs a small search for `--cycles` cycles and compares the state after each with that before, number by number. Then it
makes the search of preset paper, without training, whose state of that many bytes it saves `--saves` times into a
temporary directory, which takes 1.6 GB. Times are those of the processor: what the disk takes depends on the disk. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from nhn_tf.data.batches import Batches, Normalization
from nhn_tf.data.splits import Split
from nhn_tf.models import network, weights
from nhn_tf.search import LocationSearch
from nhn_tf.settings import PRESETS, LocationConfig
from nhn_tf.stages.recording import PACE
from nhn_tf.storage.checkpoints import Checkpoint, Checkpoints
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space

PAPER = PRESETS["paper"]


class Comparison:
    """Compares the numbers of a search's state after each cycle with those before it.

    Attributes:
      sizes: bytes of the state after each cycle but the first.
      kept: those of the numbers among them that are the same as before.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.kept: list[int] = []
        self._before: Mapping[str, np.ndarray] = {}

    def on_epoch_end(self, searcher: LocationSearch, epoch: int, metrics: Mapping[str, float]) -> None:
        now, before = searcher.state_arrays(), self._before
        if before:
            alike = [name for name in now if now[name].shape == before.get(name, np.empty((0, 0))).shape]
            self.sizes.append(size(now))
            self.kept.append(sum(now[name].itemsize * int((now[name] == before[name]).sum()) for name in alike))
        self._before = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=8)
    parser.add_argument("--saves", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    compared = Comparison()
    small = LocationConfig(cycles=args.cycles, population=6, iterations=10, batch_size=20, fitness_batch_size=50)
    images = rng.integers(0, 256, (200, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(200, dtype=np.int32) % 10
    kind: dict[str, Any] = {"normalization": Normalization((0.5,) * 3, (0.3,) * 3), "seed": 0}
    train = Batches(Split(images, labels), batch_size=20, shuffle=True, drop_remainder=True, **kind)
    validation = Batches(Split(images[:50], labels[:50]), batch_size=50, shuffle=False, drop_remainder=False, **kind)
    searcher = search(small, Space(6), Form(filters=8), size=16)
    searcher.search(train, validation_data=validation, callbacks=[compared])
    share = sum(compared.kept) / sum(compared.sizes)
    print(f"small search: {np.mean(compared.sizes) / 1e6:.2f} MB a cycle, {share:.1%} of it as before the cycle")

    paper, base = PAPER.lds_location, PAPER.base
    form = Form(filters=base.filters, width_growth=base.width_growth)
    arrays = search(paper, Space(PAPER.enas.num_layers, PAPER.enas.num_segments), form, size=32).state_arrays()
    slots = {f"slot/{name}": array for name, array in arrays.items() if name.split("/")[-1] not in MOVING}
    total = size(arrays) + size(slots)
    each = total * paper.cycles / 1e9
    print(f"preset paper: {total / 1e6:.0f} MB; {each:.0f} GB after each of {paper.cycles} cycles, "
          f"{PACE * 3600 / 1e9:.1f} GB an hour at most at the pace that is kept")  # fmt: skip
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = Checkpoints(Path(directory))
        for epoch in range(1, args.saves + 1):
            began = time.process_time()
            checkpoints.save(Checkpoint(epoch, {**arrays, **slots}, {}), config="", seconds=0.0)
            seconds.append(time.process_time() - began)
    print(f"a save: {np.median(seconds):.2f} s of processor time, median of {len(seconds)}")
    print(json.dumps({"kept": round(share, 4), "paper_mb": round(total / 1e6), "save_s": round(np.median(seconds), 2)}))


MOVING = ("moving_mean", "moving_variance", "population")
"""What has no momentum."""


def search(config: LocationConfig, space: Space, form: Form, *, size: int) -> LocationSearch:
    """A search around an untrained network of 5x5 convolutions, its directory none."""
    genotype = Genotype(space, ("conv5x5",) * space.num_layers, ((),) * space.num_layers)
    kind: dict[str, Any] = {"input_shape": (size, size, 3), "num_classes": 10, "form": form}
    return LocationSearch(genotype, weights.to_arrays(network.build(genotype, **kind)), config, **kind)


def size(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


if __name__ == "__main__":
    main()
