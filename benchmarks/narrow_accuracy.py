"""What bfloat16 and int8 cost in accuracy: the network of a finished run, on its own test images.

    python pipeline.py --preset=demo --model_dir=runs/demo      # if there is no run yet
    python benchmarks/narrow_accuracy.py runs/demo

int8 is calibrated with `--calibrate` training images. The last line is JSON: for each type that this processor computes
in, and OpenVINO at its default and in int8 where it is installed, the accuracy, how often the class is float32's, and
the largest difference of a logit from float32's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import nhn_tf.sparse
from benchmarks import inference
from nhn_tf import pruning
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches
from nhn_tf.data.normalization import Normalization
from nhn_tf.models import weights
from nhn_tf.runs import RunDirectory
from nhn_tf.settings import DataConfig
from nhn_tf.sparse.plan import dtypes
from nhn_tf.stages import networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument("--stage", default="pruned", help="whose network it is")
    parser.add_argument("--all", action="store_true", help="also convolutions that are faster in float32")
    parser.add_argument("--calibrate", type=int, default=64, help="training images that int8 is calibrated with")
    options = parser.parse_args()
    if options.all:
        dtypes.LEAST_FILLED = dtypes.CONVERSION = 0.0
    stage = RunDirectory(options.run).stage(options.stage)
    data = datasets.load(DataConfig.from_json(stage.config["data"]), seed=stage.config["seed"])
    model = networks.build(stage.genotype(), data, form=networks.form_of(options.run))
    weights.from_arrays(model, stage.weights())
    plain = {"shuffle": False, "seed": 0, "drop_remainder": False, "normalization": Normalization.of(data.train)}
    seen = np.asarray(next(iter(Batches(data.train, batch_size=options.calibrate, **plain)))[0])
    test = [(np.asarray(images), np.asarray(labels)) for images, labels in Batches(data.test, batch_size=256, **plain)]
    images, labels = (np.concatenate(part) for part in zip(*test, strict=True))
    logits = {}
    for dtype, there in inference.TYPES.items():
        if there():
            given = {"calibrate": seen} if dtype == "int8" else {}
            runtime = nhn_tf.sparse.compile(model, dtype=dtype, cache=False, check=False, **given)
            logits[dtype] = runtime(images)
            narrow = sum(decision.narrow == dtype for decision in runtime.plan.decisions)
            print(f"{dtype}: {narrow} of {len(runtime.plan.decisions)} convolutions are narrow", flush=True)
    with contextlib.suppress(ImportError), tempfile.TemporaryDirectory() as folder:
        small = pruning.compact(model)
        peers = {
            "OpenVINO default": inference.openvino_engine(small, Path(folder), 1, precision=None),
            inference.OPENVINO_INT8: inference.openvino_int8(small, seen),
        }
        for name, call in peers.items():
            logits[name] = np.concatenate([np.array(call(images[at : at + 256])) for at in range(0, len(images), 256)])
    exact = logits["float32"]
    print(json.dumps({
        name: {"accuracy": round(float(np.mean(found.argmax(1) == labels)), 4),
               "same": round(float(np.mean(found.argmax(1) == exact.argmax(1))), 4),
               "off": round(float(np.abs(found - exact).max()), 3)}
        for name, found in logits.items()
    }))  # fmt: skip


if __name__ == "__main__":
    main()
