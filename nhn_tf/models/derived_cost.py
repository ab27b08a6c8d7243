"""What the network of a genotype costs, counted without building it: fast enough for each architecture of a search.

The counts are those that `complexity.model_cost` has of the network that `network.build` makes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras

from nhn_tf.layers import MaskedConv2D, own_op
from nhn_tf.models import complexity
from nhn_tf.models.complexity import Cost
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Op, op_named


def derived_cost(
    genotype: Genotype, *, form: Form, input_shape: Sequence[int], num_classes: int, sparsity: float = 0.0
) -> Cost:
    """Parameters and multiply-adds of a derived network.

    Args:
      genotype: its ops and skips; its masks and add-ons are not looked at.
      form: as for `network.build`.
      input_shape: (H, W, C) of the images, H and W divisible by 2 for each transition.
      num_classes: of the logits.
      sparsity: share of the full 3x3 and 5x5 kernels behind the stem that are taken to be pruned, in [0, 1).

    Returns:
      The cost, with as many live parameters and multiply-adds, to the nearest one, as that leaves.
    """
    space, direct = genotype.space, form.layer_form == "direct"
    height, width, channels = input_shape
    filters, pixels = form.filters, height * width
    total = _convolution(9 * channels * filters, filters, pixels)
    for layer in range(space.num_layers):
        read = 1 + len(genotype.skips[layer])
        if not direct:
            total += _convolution(filters * filters, filters, pixels)
        if (read > 1) if direct else layer:
            total += _convolution(read * filters * filters, filters, pixels)
        total += _op(op_named(genotype.ops[layer]), form, filters, pixels, sparsity)
        if layer in space.transitions:
            before, filters, pixels = filters, filters * form.width_growth, pixels // 4
            for output in range(layer + 2):
                if genotype.is_read_after(layer, output):
                    total += _convolution(before * filters, filters, pixels)
    pooling, classifier = pixels * filters, filters * num_classes
    params, flops = pooling + classifier + num_classes, pooling + classifier
    return total + Cost(params, params, flops, flops)


def _convolution(kernel: int, filters: int, pixels: int, sparsity: float = 0.0) -> Cost:
    """A convolution of so many weights, each of which every pixel multiplies once, and its batch norm."""
    live = round((1 - sparsity) * kernel)
    return Cost(kernel + 2 * filters, live + 2 * filters, pixels * kernel, pixels * live)


def _op(op: Op, form: Form, filters: int, pixels: int, sparsity: float) -> Cost:
    """The op of a layer, with its batch norm where it has one."""
    if op.kind == "own":
        return _own(op, filters, pixels, sparsity)
    if not op.has_batch_norm:
        return Cost()
    window = op.kernel_size**2
    if op.kind == "conv" or form.separable_as_dense:
        return _convolution(window * filters * filters, filters, pixels, sparsity)
    return _convolution((window + filters) * filters, filters, pixels)


@functools.lru_cache(maxsize=64)
def _own(op: Op, filters: int, pixels: int, sparsity: float) -> Cost:
    """An op of one's own, counted by the layer that it makes; one that Keras's counts do not know costs its weights."""
    maps = keras.Input((1, pixels, filters))
    layer = own_op.maskable(own_op.make(op, filters, "op"))
    cost = complexity.model_cost(keras.Model(maps, own_op.apply(op, layer, maps)))
    norm = 2 * filters if op.has_batch_norm else 0
    kernel = math.prod(layer.kernel.shape) if isinstance(layer, MaskedConv2D) else 0
    pruned = kernel - round((1 - sparsity) * kernel)
    return cost + Cost(norm, norm - pruned, 0, -pixels * pruned)
