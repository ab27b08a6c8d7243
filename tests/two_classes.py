"""Images of two classes, dark and bright, and a callback that listens: what the searches' tests share."""

from __future__ import annotations

import json

import numpy as np

from nhn_tf.data.batches import Batches, Normalization
from nhn_tf.data.splits import Split

SHAPE = {"input_shape": (4, 4, 1), "num_classes": 2}


def batches(count: int, *, train: bool, seed: int = 0) -> Batches:
    """Batches of 8 out of `count` noisy images, by turns of one class and of the other."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    images = (rng.integers(0, 60, (count, 4, 4, 1)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return Batches(
        Split(images, labels),
        batch_size=8,
        normalization=Normalization((0.4,), (0.3,)),
        shuffle=train,
        seed=seed,
        drop_remainder=train,
    )


def validation() -> Batches:
    """20 images, the last batch short."""
    return batches(20, train=False, seed=1)


def run(searcher, **kwargs) -> dict:
    return searcher.search(batches(24, train=True), validation_data=validation(), **kwargs)


class Recorder:
    """A callback that keeps the state after each epoch, as a checkpoint would, through JSON."""

    def __init__(self) -> None:
        self.epochs, self.metrics, self.states, self.steps, self.last_steps = [], [], [], [], []

    def on_epoch_end(self, searcher, epoch, metrics):
        self.epochs.append(epoch)
        self.metrics.append(metrics)
        self.states.append((searcher.state_arrays(), json.loads(json.dumps(searcher.state_values()))))

    def on_step_end(self, searcher, step, steps):
        (self.last_steps if searcher.concluding else self.steps).append((step, steps))


def assert_same_arrays(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
