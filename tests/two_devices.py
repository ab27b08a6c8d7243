"""Five steps on one device and on two, with L2 and clipping; prints by how much what comes out differs, as JSON."""

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf

from nhn_tf import pruning, training
from nhn_tf.models import plain_cnn
from nhn_tf.training import optimizers

SIZE, BATCH, STEPS = 8, 8, 5
UNEVEN = 13
"""Images to evaluate on: the last batch of them has five."""


def trained(scope, *, prune):
    """The state after the steps, and the metrics."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS * BATCH, SIZE, SIZE, 1)).astype("float32")
    labels = rng.integers(0, 10, STEPS * BATCH).astype("int32")
    with scope:
        model = plain_cnn.build((SIZE, SIZE, 1), 10, filters=4)
        if prune:
            model = pruning.prune(model, sparsity=0.0)
        optimizer = optimizers.Nesterov(0.05, l2=0.05, momentum=0.9, global_clipnorm=0.5)
        training.compile_classifier(model, optimizer)
        schedules = [pruning.PruningSchedule(sparsity=0.6, end_step=4, every=2)] if prune else []
        history = model.fit(
            images,
            labels,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=schedules,
            validation_data=(images[:UNEVEN], labels[:UNEVEN]),
            validation_batch_size=BATCH,
        )
    return training.state(model), {name: values[-1] for name, values in history.history.items()}


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for name, prune in (("plain", False), ("pruned", True)):
        (one, metrics), (two, others) = (trained(scope, prune=prune) for scope in (_one(), strategy.scope()))
        found[name] = {
            "weights": max(float(np.abs(two[path] - array.astype("float64")).max()) for path, array in one.items()),
            "metrics": max(abs(others[name] - metrics[name]) for name in metrics),
            "masked": sum(int((array == 0).sum()) for path, array in two.items() if path.endswith("/mask")),
        }
    print(json.dumps({"replicas": strategy.num_replicas_in_sync, **found}))


def _one():
    return contextlib.nullcontext()


if __name__ == "__main__":
    main()
