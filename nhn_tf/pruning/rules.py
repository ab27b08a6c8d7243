"""Which rule a layer type follows: all that compaction knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keras import layers, ops

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.models import keras_graph
from nhn_tf.models.keras_graph import ScaledSum, operation
from nhn_tf.pruning import carrying, mixing
from nhn_tf.pruning.channels import NotFollowedError, Rule, Site

UNARY: Final = (
    ops.abs, ops.elu, ops.exp, ops.gelu, ops.hard_sigmoid, ops.hard_silu, ops.hard_tanh, ops.leaky_relu,
    ops.log_sigmoid, ops.negative, ops.relu, ops.relu6, ops.selu, ops.sigmoid, ops.silu, ops.softplus, ops.softsign,
    ops.square, ops.tanh,
)  # fmt: skip
BINARY: Final = (ops.add, ops.divide, ops.maximum, ops.minimum, ops.multiply, ops.subtract, ops.true_divide)

RULES: Final[Mapping[type, Rule]] = {
    layers.InputLayer: carrying.InputRule(),
    layers.Conv2D: mixing.ConvRule(),
    MaskedConv2D: mixing.ConvRule(),
    layers.Conv2DTranspose: mixing.TransposedRule(),
    layers.DepthwiseConv2D: carrying.DepthwiseRule(),
    layers.SeparableConv2D: mixing.SeparableRule(),
    FactorizedReduction: mixing.ReductionRule(),
    layers.Dense: mixing.DenseRule(),
    MaskedDense: mixing.DenseRule(),
    layers.BatchNormalization: carrying.NormalizationRule(),
    BatchNorm: carrying.NormalizationRule(),
    layers.ReLU: carrying.ActivationRule(),
    layers.LeakyReLU: carrying.ActivationRule(),
    layers.ELU: carrying.ActivationRule(),
    layers.PReLU: carrying.PReLURule(),
    layers.Activation: carrying.ActivationRule(),
    layers.Softmax: carrying.ActivationRule(),
    layers.Concatenate: carrying.ConcatenateRule(),
    layers.Flatten: carrying.FlattenRule(),
    layers.Reshape: carrying.ReshapeRule(),
    layers.Permute: carrying.PermuteRule(),
    layers.ZeroPadding2D: carrying.ZeroPaddingRule(),
    GroupedGlobalPool: carrying.GroupedPoolRule(),
    **dict.fromkeys(
        (
            layers.Add,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Multiply,
            layers.Subtract,
            ScaledSum,
            *(operation(function) for function in UNARY),
            *(operation(function, 2) for function in BINARY),
        ),
        carrying.ElementwiseRule(),
    ),
    **dict.fromkeys(
        (
            layers.ActivityRegularization,
            layers.AlphaDropout,
            layers.AveragePooling2D,
            layers.MaxPooling2D,
            layers.GlobalAveragePooling2D,
            layers.GlobalMaxPooling2D,
            layers.Cropping2D,
            layers.UpSampling2D,
            layers.Dropout,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.SpatialDropout2D,
            layers.Identity,
        ),
        Rule(),  # A constant passes: average pooling does not count the padding.
    ),
}
"""Layer type to rule."""


def rule_of(site: Site) -> Rule:
    """The rule of a layer; a `Wall` for a type or a setting through which channels are not followed."""
    if obstacle := keras_graph.obstacle(site.node, RULES):
        return carrying.Wall(obstacle)
    rule = RULES[site.node.kind]
    try:
        rule.check(site)
    except NotFollowedError as reason:
        return carrying.Wall(str(reason))
    return rule
