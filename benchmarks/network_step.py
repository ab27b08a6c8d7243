"""What a derived network costs: its first training step, a training step, and the inference of a batch.

    taskset -c 0 python benchmarks/network_step.py

Builds the network of a sampled architecture and times it on one thread, in CPU time: the first training step (tracing
and compilation with it), then medians of further ones and of inferences. Half a minute. The last line is JSON. To
compare two versions of the code, run it in checkouts of both, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before the backend starts: one thread, and no chatter of its start.
for _name, _value in (
    ("TF_NUM_INTRAOP_THREADS", "1"),
    ("TF_NUM_INTEROP_THREADS", "1"),
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
):
    os.environ.setdefault(_name, _value)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402

from nhn_tf import training  # noqa: E402
from nhn_tf.models import network  # noqa: E402
from nhn_tf.training import optimizers  # noqa: E402
from nhn_tf.values.form import Form  # noqa: E402
from nhn_tf.values.genotype import Genotype  # noqa: E402
from nhn_tf.values.space import Space  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--filters", type=int, default=16, help="channels of the first segment")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=7, help="timed steps, and inferences")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    space = Space(args.layers)
    genotype = Genotype.from_genes(space, space.sample(rng, skip_probability=0.4)[0])
    model = network.build(
        genotype, input_shape=(args.size, args.size, 3), num_classes=10, form=Form(filters=args.filters)
    )
    training.compile_classifier(model, optimizers.Nesterov(0.05, l2=2e-4, global_clipnorm=5.0))
    images = rng.standard_normal((args.batch, args.size, args.size, 3)).astype(np.float32)
    labels = rng.integers(10, size=args.batch).astype(np.int32)

    def step() -> None:
        model.train_on_batch(images, labels)

    first = seconds(step)
    training_step = np.median([seconds(step) for _ in range(args.steps)])
    model.predict_on_batch(images)
    inference = np.median([seconds(lambda: model.predict_on_batch(images)) for _ in range(args.steps)])
    result = {
        "backend": keras.backend.backend(),
        "first_step_s": round(first, 2),
        "step_ms": round(1000 * float(training_step), 1),
        "inference_ms": round(1000 * float(inference), 1),
    }
    print(f"first step {first:.1f} s, step {1000 * training_step:.0f} ms, inference {1000 * inference:.0f} ms")
    print(json.dumps(result))


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
