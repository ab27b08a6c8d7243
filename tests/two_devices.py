"""Five steps on one device and on all, with L2 and clipping; prints by how much what comes out differs, as JSON.

With a coordinator, a rank and a number of ranks it is one of several processes on JAX, which only train plainly.
"""

import json
import sys

import keras
import numpy as np

from nhn_tf import pruning, training
from nhn_tf.data.batches import Batches
from nhn_tf.data.normalization import Normalization
from nhn_tf.data.splits import Split
from nhn_tf.layers import devices, processes
from nhn_tf.models import plain_cnn
from nhn_tf.training import optimizers

SIZE, BATCH, STEPS = 8, 8, 5
UNEVEN = 13
"""Images to evaluate on: their last batch has five."""
KIND = {"tensorflow": "mirrored", "jax": "jax"}[keras.backend.backend()]


def trained(kind, *, prune):
    """The state after the steps, the metrics, and how many devices there were.

    With `prune` the network is pruned gradually, learns from what it was, and ends with averaged weights.
    """
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * BATCH, SIZE, SIZE, 1), np.uint8)
    split = Split(images, rng.integers(0, 10, len(images), np.int32))
    options = {"batch_size": BATCH, "normalization": Normalization.of(split), "shuffle": False, "seed": 0}
    batches = Batches(split, drop_remainder=True, **options)
    few = Batches(Split(images[:UNEVEN], split.labels[:UNEVEN]), drop_remainder=False, **options)
    with devices.scope(kind):
        model = plain_cnn.build((SIZE, SIZE, 1), 10, filters=4)
        learner = model
        if prune:
            teacher, model = model, pruning.prune(model, sparsity=0.0)
            learner = pruning.Distiller(model, teacher)
        averaged = {"use_ema": prune, "ema_momentum": 0.9}
        optimizer = optimizers.Nesterov(0.05, l2=0.05, momentum=0.9, global_clipnorm=0.5, **averaged)
        training.compile_classifier(learner, optimizer)
        schedules = [pruning.PruningSchedule(sparsity=0.6, end_step=4, every=2)] if prune else []
        metrics = training.fit(learner, batches, epochs=1, validation_data=few, callbacks=schedules)
        return training.state(learner), {**metrics, "after": training.accuracy(model, few)}, devices.count()


def see_two_devices():
    """On TensorFlow; JAX reads it from the environment as it begins."""
    if KIND == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def main(coordinator=None, rank=None, ranks=None):
    if coordinator:
        processes.join(coordinator, int(rank), int(ranks))
    see_two_devices()
    found = {}
    for name, prune in (("plain", False), ("pruned", True))[: 1 if coordinator else None]:
        (one, metrics, _), (two, others, count) = (trained(kind, prune=prune) for kind in ("off", KIND))
        found[name] = {
            "devices": count,
            "weights": max(float(np.abs(two[path] - array.astype("float64")).max()) for path, array in one.items()),
            "metrics": max(abs(others[name] - metrics[name]) for name in metrics),
            "masked": sum(int((array == 0).sum()) for path, array in two.items() if path.endswith("/mask")),
        }
    print(json.dumps(found), flush=True)
    processes.end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
