"""Images as arrays, and batches of them: data sets, their splits, augmentation."""

from nhn_tf.data.batches import Augmentation, Batches, FollowEpoch, Normalization
from nhn_tf.data.datasets import augmentation_for, load
from nhn_tf.data.splits import DataError, Dataset, Split

__all__ = [
    "Augmentation",
    "Batches",
    "DataError",
    "Dataset",
    "FollowEpoch",
    "Normalization",
    "Split",
    "augmentation_for",
    "load",
]
