"""Keras layers, all serialisable under the package name `nhn_tf`."""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.layers.add_on import AddOnChoice, DirectedConv2D
from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.frozen import Frozen
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.layers.mixed_op import MixedOp, StackedBatchNorm
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.layers.smooth_init import SmoothInit

__all__ = [
    "AddOnChoice",
    "BatchNorm",
    "DirectedConv2D",
    "FactorizedReduction",
    "Frozen",
    "GroupedGlobalPool",
    "MaskedConv2D",
    "MaskedDense",
    "MixedOp",
    "SmoothInit",
    "StackedBatchNorm",
]
