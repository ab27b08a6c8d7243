"""Which rule a layer type follows: all that compaction knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keras import layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.models import keras_graph
from nhn_tf.pruning import carrying, mixing
from nhn_tf.pruning.channels import Rule, Site

RULES: Final[Mapping[type, Rule]] = {
    layers.InputLayer: carrying.InputRule(),
    layers.Conv2D: mixing.ConvRule(),
    MaskedConv2D: mixing.ConvRule(),
    layers.DepthwiseConv2D: carrying.DepthwiseRule(),
    layers.SeparableConv2D: mixing.SeparableRule(),
    FactorizedReduction: mixing.ReductionRule(),
    layers.Dense: mixing.DenseRule(),
    layers.BatchNormalization: carrying.NormalizationRule(),
    BatchNorm: carrying.NormalizationRule(),
    layers.ReLU: carrying.ActivationRule(),
    layers.LeakyReLU: carrying.ActivationRule(),
    layers.ELU: carrying.ActivationRule(),
    layers.Activation: carrying.ActivationRule(),
    layers.Softmax: carrying.ActivationRule(),
    layers.Concatenate: carrying.ConcatenateRule(),
    layers.Add: carrying.AddRule(),
    layers.Flatten: carrying.FlattenRule(),
    layers.ZeroPadding2D: carrying.ZeroPaddingRule(),
    GroupedGlobalPool: carrying.GroupedPoolRule(),
    **dict.fromkeys(
        (
            layers.AveragePooling2D,
            layers.MaxPooling2D,
            layers.GlobalAveragePooling2D,
            layers.GlobalMaxPooling2D,
            layers.Cropping2D,
            layers.UpSampling2D,
            layers.Dropout,
            layers.SpatialDropout2D,
            layers.Identity,
        ),
        Rule(),  # A constant passes: average pooling does not count the padding.
    ),
}
"""Layer type to rule."""


def rule_of(site: Site) -> Rule:
    """The rule of a layer.

    Raises:
      ValueError: a layer type without a rule, or settings that its rule does not cover; the message names the layer.
    """
    if obstacle := keras_graph.obstacle(site.layer, RULES):
        raise site.refusal(obstacle)
    if not site.node.is_plain:
        raise site.refusal("it must be called on one tensor, or one list of tensors, as the first positional argument")
    rule = RULES[type(site.layer)]
    rule.check(site)
    return rule
