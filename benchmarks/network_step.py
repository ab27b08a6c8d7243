"""What a derived network costs: its first training step, a training step, and the inference of a batch.

    taskset -c 0 python benchmarks/network_step.py

Builds the network of a sampled architecture and times it on one thread, in CPU time: the first training step (tracing
and compilation with it), then medians of further ones and of inferences. Half a minute. The last line is JSON. To
compare two versions of the code, run it in checkouts of both, in turn.
"""

from __future__ import annotations

import json
import time

import turns

# isort: split
import keras
import numpy as np

from nhn_tf import training
from nhn_tf.models import network
from nhn_tf.training import optimizers
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space


def main() -> None:
    args = turns.parser(__doc__, filters=16, batch=64, rounds=7).parse_args()

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    space = Space(args.layers)
    genotype = Genotype.from_genes(space, space.sample(rng, skip_probability=0.4)[0])
    model = network.build(
        genotype, input_shape=(args.size, args.size, 3), num_classes=10, form=Form(filters=args.filters)
    )
    training.compile_classifier(model, optimizers.Nesterov(0.05, l2=2e-4, global_clipnorm=5.0))
    images, labels = turns.batch(args, rng)

    start = time.process_time()
    model.train_on_batch(images, labels)
    first = time.process_time() - start
    calls = [
        ("step", lambda: model.train_on_batch(images, labels)),
        ("inference", lambda: model.predict_on_batch(images)),
    ]
    medians = {name: float(np.median(ms)) for name, ms in turns.take(calls, args.rounds, cpu_time=True).items()}
    result = {
        "backend": keras.backend.backend(),
        "first_step_s": round(first, 2),
        **{f"{name}_ms": round(ms, 1) for name, ms in medians.items()},
    }
    print(f"first step {first:.1f} s, step {medians['step']:.0f} ms, inference {medians['inference']:.0f} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
