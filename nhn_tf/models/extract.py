"""One architecture taken out of the supernet of ENAS's macro search: a network of ordinary Keras layers.

Letters: B batch, H W spatial, C channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from nhn_tf.layers import BatchNorm, FactorizedReduction, own_op
from nhn_tf.layers.batch_norm import EPSILON, MOMENTUM
from nhn_tf.layers.mixed_op import MixedOp, StackedBatchNorm
from nhn_tf.models.macro_supernet import MacroSupernet
from nhn_tf.values import names
from nhn_tf.values.genotype import Genotype


def extract(supernet: MacroSupernet, genotype: Genotype) -> keras.Model:
    """A network that computes what the supernet does for one architecture, on copies of its weights.

    It is float32, trains by itself, and loads with Keras alone. Batch norm goes by its moving averages.

    Args:
      supernet: of a whole space.
      genotype: an architecture of that space; masks and add-ons are not looked at.

    Returns:
      A functional model from "images" [B, H, W, C] to logits, float32 [B, classes], not compiled.
    """
    space = supernet.space
    images = keras.Input(supernet.image_shape, name="images")
    kernel = _array(supernet.stem_conv.kernel)
    outputs = [_norm(_convolve(images, kernel, names.STEM_CONV), _statistics(supernet.stem_bn), names.STEM_BN)]
    for layer, mixed in enumerate(supernet.mixed_ops):
        x = _op(mixed, space.ops.index(genotype.ops[layer]), layer, outputs[-1])
        if layer:
            if joined := [outputs[i] for i in genotype.skips[layer]]:
                x = layers.Add(name=names.layer(layer, "sum"), dtype="float32")([x, *joined])
            x = _norm(x, _statistics(supernet.skip_bns[layer - 1]), names.layer(layer, "bn"))
        outputs.append(x)
        if layer in space.transitions:
            halve = functools.partial(_halve, supernet, space.transitions.index(layer))
            read = {i for joined in genotype.skips[layer + 1 :] for i in joined} | {layer + 1}
            outputs = [halve(i, output) if i in read else None for i, output in enumerate(outputs)]
    x = _pool(supernet, outputs[-1])
    if supernet.dropout_rate:
        x = layers.Dropout(supernet.dropout_rate, name=names.DROPOUT, dtype="float32")(x)
    dense = layers.Dense(supernet.num_classes, name=names.LOGITS, dtype="float32")
    logits = _with(dense, x, _array(supernet.logits.kernel), _array(supernet.logits.bias))
    return keras.Model(images, logits, name="network")


def _op(mixed: MixedOp, choice: int, layer: int, x: Any) -> Any:
    """The chosen op of a layer with the 1x1 convolution before it: [B, H, W, C] to the same."""
    name = functools.partial(names.layer, layer)
    op = mixed.ops[choice]
    x = _convolve(x, _array(mixed.in_kernel)[choice], name("in_conv"))
    x = _norm(x, _stacked(mixed.in_bn, choice), name("in_bn"))
    x = layers.ReLU(name=name("in_relu"), dtype="float32")(x)
    if op.kind == "own":
        own = own_op.make(op, mixed.filters, name("op"), dtype="float32")
        x = _with(own, x, *mixed._own[op.name].get_weights())
        if not op.has_batch_norm:
            return x
    elif not op.has_batch_norm:
        kind = layers.AveragePooling2D if op.kind == "avg_pool" else layers.MaxPooling2D
        return kind(op.kernel_size, strides=1, padding="same", name=name("op"), dtype="float32")(x)
    elif op.kind == "conv":
        x = _convolve(x, _array(mixed._op_kernels[choice][0]), name("op"))
    else:
        separable = layers.SeparableConv2D(
            mixed.filters, op.kernel_size, padding="same", use_bias=False, name=name("op"), dtype="float32"
        )
        x = _with(separable, x, *map(_array, mixed._op_kernels[choice]))
    place = [index for index, other in enumerate(mixed.ops) if other.has_batch_norm].index(choice)
    x = _norm(x, _stacked(mixed.op_bn, place), name("op_bn"))
    return layers.ReLU(name=name("op_relu"), dtype="float32")(x)


def _halve(supernet: MacroSupernet, number: int, output: int, x: Any) -> Any:
    """An output at half the height and width: two 1x1 convolutions of stride 2, one of them shifted by a pixel."""
    reduction: FactorizedReduction = supernet.reductions[number][str(output)]
    name = names.transition(number + 1, "reduce", output)
    shifted = layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_shift", dtype="float32")(x)
    paths = [
        _convolve(read, _array(kernel), f"{name}_{part}", strides=2)
        for part, read, kernel in (("a", x, reduction.kernel_a), ("b", shifted, reduction.kernel_b))
    ]
    x = layers.Concatenate(name=name, dtype="float32")(paths)
    bn = names.transition(number + 1, "bn", output)
    return _norm(x, _statistics(supernet.reduction_bns[number][str(output)]), bn)


def _pool(supernet: MacroSupernet, x: Any) -> Any:
    """The learned global pooling as a depthwise convolution over the whole map: [B, C]."""
    kernel = _array(supernet.global_pool.kernel)  # [H, W, C]
    depthwise = layers.DepthwiseConv2D(kernel.shape[:2], use_bias=False, name=names.GLOBAL_POOL, dtype="float32")
    return layers.Flatten(name=f"{names.GLOBAL_POOL}_flatten", dtype="float32")(_with(depthwise, x, kernel[..., None]))


def _convolve(x: Any, kernel: np.ndarray, name: str, *, strides: int = 1) -> Any:
    """A convolution without bias of kernel [k, k, Cin, Cout]; padded where it keeps the size."""
    padding = "same" if strides == 1 else "valid"
    conv = layers.Conv2D(
        kernel.shape[3], kernel.shape[:2], strides, padding=padding, use_bias=False, name=name, dtype="float32"
    )
    return _with(conv, x, kernel)


def _norm(x: Any, statistics: Sequence[np.ndarray], name: str) -> Any:
    """Batch norm of gamma, beta, mean and variance, each float32 [C]."""
    norm = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name, dtype="float32")
    return _with(norm, x, *statistics)


def _statistics(norm: BatchNorm | StackedBatchNorm | None) -> list[np.ndarray]:
    """Gamma, beta, mean and variance; of several norms, each [n, C]."""
    if norm is None:
        raise ValueError("a mixed op without convolutions has no batch norm behind it.")
    return [_array(variable) for variable in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)]


def _stacked(norm: StackedBatchNorm | None, choice: int) -> list[np.ndarray]:
    """Those of one of several."""
    return [stack[choice] for stack in _statistics(norm)]


def _with(layer: keras.layers.Layer, x: Any, *arrays: np.ndarray) -> Any:
    """The layer's output, and its weights as given."""
    y = layer(x)
    layer.set_weights(list(arrays))
    return y


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)
