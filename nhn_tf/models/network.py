"""From a genotype to the plain Keras model it describes.

Letters: B batch, H W spatial, C channels of a segment, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import keras

from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MaskedConv2D, SmoothInit, own_op
from nhn_tf.values import names
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Op, op_named

Apply = Callable[..., Any]
"""(reads, part, *inputs) -> part(*inputs), where `reads` is the last layer whose output the inputs depend on, or -1."""

Join = Callable[[int, Any, Sequence[Any]], Any]
"""(layer, x, sources) -> x with the layer's add-ons; both [B, H, W, C]. `sources[0]` is the segment's input,
`sources[i]` its layer i - 1, as in `Addon.source`."""


def build(
    genotype: Genotype,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    form: Form = Form(),
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Builds the derived network (paper, sections 2.1 to 2.3; ENAS, macro).

    Layer k: 1x1 convolution - BN - ReLU - op (a convolution: - BN - ReLU); from layer 1 on, the result is concatenated
    with the outputs its skips name and mixed by ReLU - 1x1 convolution - BN; the results of its add-ons are added. At
    a transition every output that is still read is halved by a factorized reduction, or an average pooling and a 1x1
    convolution, and BN, and widened.

    In the form "release" a ReLU stands before the first 1x1 convolution and none behind the op's BN.

    In the form "direct", layer k: op (a convolution: - BN - ReLU), on the output of the layer before or, where skips
    join others, on their concatenation - 1x1 convolution - BN - ReLU.

    The layers are called as `values/names.py` says.

    Args:
      genotype: ops, skips, add-ons, and masks to be set on the layers they name. A 1x1 convolution can have a mask
        only where the genotype names it.
      input_shape: (H, W, C) of the images; H and W divisible by 2 for each transition.
      num_classes: of the logits.
      form: its widths and kernels.
      dropout: share of the classifier's inputs dropped in training.
      seed: of the dropout.

    Returns:
      A functional model from "images" [B, H, W, C] to logits, float32 [B, num_classes].

    Raises:
      ValueError: the image cannot be halved as often, or a mask does not fit.
    """
    images = keras.Input(tuple(input_shape), name="images")
    logits = wire(genotype, images, num_classes=num_classes, form=form, dropout=dropout, seed=seed)
    model = keras.Model(images, logits, name="network")
    set_masks(model.layers, genotype)
    return model


def wire(
    genotype: Genotype,
    images: Any,
    *,
    num_classes: int,
    form: Form = Form(),
    dropout: float = 0.0,
    seed: int = 0,
    apply: Apply | None = None,
    join: Join | None = None,
) -> Any:
    """Makes the layers of `build` and connects them; the supernet of add-ons grows on the same wires.

    Args:
      genotype: as for `build`, except that its masks are left to `set_masks`; layers that they name can be masked.
      images: symbolic, [B, H, W, C].
      num_classes, form, dropout, seed: as for `build`.
      apply: calls each part of the network, see `Apply`; by default it just calls it.
      join: adds to each layer's output, see `Join`; by default the genotype's add-ons.

    Returns:
      Logits, symbolic float32 [B, num_classes].

    Raises:
      ValueError: the image cannot be halved as often.
    """
    space, (height, width) = genotype.space, images.shape[1:3]
    factor = 2 ** len(space.transitions)
    if height % factor or width % factor:
        raise ValueError(
            f"`input_shape` must be (H, W, C), H and W multiples of {factor} for {space.num_segments} segments. "
            f"Received: {tuple(images.shape[1:])}."
        )
    blocks = _Blocks(form, genotype.masks or ())
    apply = apply or (lambda reads, part, *inputs: part(*inputs))
    join = join or functools.partial(_join_addons, genotype, blocks)

    outputs = [apply(-1, blocks.stem, images)]
    for layer in range(space.num_layers):
        joined = (outputs[i] for i in genotype.skips[layer])
        x = apply(layer - 1, functools.partial(_layer, genotype, layer, blocks), outputs[-1], *joined)
        first = layer - layer % space.layers_per_segment
        outputs.append(join(layer, x, outputs[first:]))
        if layer in space.transitions:
            blocks.filters *= form.width_growth
            number = space.segment_of(layer) + 1
            outputs = [
                apply(i - 1, functools.partial(blocks.reduce, number, i), output)
                if genotype.is_read_after(layer, i)
                else None
                for i, output in enumerate(outputs)
            ]
    head = functools.partial(_head, num_classes=num_classes, dropout=dropout, seed=seed)
    return apply(space.num_layers - 1, head, outputs[-1])


def set_masks(layers: Iterable[keras.layers.Layer], genotype: Genotype) -> None:
    """Sets the genotype's masks on the layers they name.

    Raises:
      ValueError: there is no such layer, or the mask does not fit.
    """
    maskable = {layer.name: layer for layer in layers if isinstance(layer, MaskedConv2D)}
    for name, mask in (genotype.masks or {}).items():
        if name not in maskable:
            raise ValueError(
                f"masks must name full k x k convolutions of the network, or 1x1 ones "
                f"({', '.join(maskable) or 'it has none'}). Received: {name!r}."
            )
        maskable[name].set_mask(mask)


def _layer(genotype: Genotype, layer: int, blocks: _Blocks, x: Any, *joined: Any) -> Any:
    """The output [B, H, W, C] of one layer from its immediate input and the outputs its skips name."""
    form = _direct if blocks.form.layer_form == "direct" else _mixed
    return form(genotype, layer, blocks, x, *joined)


def _direct(genotype: Genotype, layer: int, blocks: _Blocks, x: Any, *joined: Any) -> Any:
    name = functools.partial(names.layer, layer)
    if joined:
        x = keras.layers.Concatenate(name=name("concat"))([x, *joined])
        x = blocks.convolve_bn(x, 1, name("in_conv"), name("in_bn"))
    if joined or layer % genotype.space.layers_per_segment == 0:  # stem and transitions end in BN
        x = keras.layers.ReLU(name=name("in_relu"))(x)
    return blocks.op(x, op_named(genotype.ops[layer]), layer)


def _mixed(genotype: Genotype, layer: int, blocks: _Blocks, x: Any, *joined: Any) -> Any:
    name = functools.partial(names.layer, layer)
    if blocks.form.layer_form == "release":
        x = keras.layers.ReLU(name=name("relu"))(x)
    x = blocks.convolve_bn(x, 1, name("in_conv"), name("in_bn"))
    x = keras.layers.ReLU(name=name("in_relu"))(x)
    x = blocks.op(x, op_named(genotype.ops[layer]), layer)
    if layer:
        if joined:
            x = keras.layers.Concatenate(name=name("concat"))([x, *joined])
        x = keras.layers.ReLU(name=name("mix_relu"))(x)
        x = blocks.convolve_bn(x, 1, name("mix_conv"), name("mix_bn"))
    return x


def _join_addons(genotype: Genotype, blocks: _Blocks, layer: int, x: Any, sources: Sequence[Any]) -> Any:
    for number, addon in enumerate(genotype.addons):
        if addon.target == layer:
            conv, bn = names.addon(number, "conv"), names.addon(number, "bn")
            y = blocks.masked_bn(sources[addon.source], addon.kernel_size, conv, bn)
            x = keras.layers.Add(name=names.addon(number, "add"))([x, y])
    return x


def _head(x: Any, *, num_classes: int, dropout: float, seed: int) -> Any:
    """Logits [B, num_classes] of the last output."""
    x = GroupedGlobalPool(name=names.GLOBAL_POOL)(x)
    x = keras.layers.Dropout(dropout, seed=seed, name=names.DROPOUT)(x)
    # Softmax and loss want float32, whatever the precision of the layers.
    return keras.layers.Dense(num_classes, dtype="float32", name=names.LOGITS)(x)


class _Blocks:
    """Makes the pieces of a network; `filters` is the width of the segment being built.

    Args:
      form: the network's.
      masked: names of layers; 1x1 convolutions among them can be masked.
    """

    def __init__(self, form: Form, masked: Collection[str]):
        self.form = form
        self.filters = form.filters
        self._masked = masked

    def kernel_initializer(self) -> Any:
        return SmoothInit("he_normal") if self.form.smooth_init else "he_normal"

    def stem(self, images: Any) -> Any:
        return self.convolve_bn(images, 3, names.STEM_CONV, names.STEM_BN)

    def convolve_bn(self, x: Any, size: int, conv: str, bn: str) -> Any:
        """The stem's convolution, or a 1x1 one, and BN."""
        masked = size == 1 and conv in self._masked
        return self._convolve_bn(MaskedConv2D if masked else keras.layers.Conv2D, x, size, conv, bn)

    def masked_bn(self, x: Any, size: int, conv: str, bn: str) -> Any:
        return self._convolve_bn(MaskedConv2D, x, size, conv, bn)

    def _convolve_bn(self, kind: type, x: Any, size: int, conv: str, bn: str) -> Any:
        initializer = self.kernel_initializer()
        layer = kind(self.filters, size, padding="same", use_bias=False, kernel_initializer=initializer, name=conv)
        return BatchNorm(name=bn)(layer(x))

    def op(self, x: Any, op: Op, layer: int) -> Any:
        """The op of a layer; a convolution with its BN and, but in the form "release", ReLU."""
        name, bn, relu = (names.layer(layer, part) for part in ("op", "op_bn", "op_relu"))
        if op.kind == "own":
            x = own_op.apply(op, own_op.maskable(own_op.make(op, self.filters, name)), x)
            if not op.has_batch_norm:
                return x
            x = BatchNorm(name=bn)(x)
        elif not op.has_batch_norm:
            pool = keras.layers.AveragePooling2D if op.kind == "avg_pool" else keras.layers.MaxPooling2D
            return pool(op.kernel_size, strides=1, padding="same", name=name)(x)
        elif op.kind == "conv" or self.form.separable_as_dense:
            x = self.masked_bn(x, op.kernel_size, name, bn)
        else:
            separable = keras.layers.SeparableConv2D(
                self.filters,
                op.kernel_size,
                padding="same",
                use_bias=False,
                depthwise_initializer=self.kernel_initializer(),
                pointwise_initializer="he_normal",
                name=name,
            )
            x = BatchNorm(name=bn)(separable(x))
        return x if self.form.layer_form == "release" else keras.layers.ReLU(name=relu)(x)

    def reduce(self, number: int, output: int, x: Any) -> Any:
        pool, reduce, bn = (names.transition(number, part, output) for part in ("pool", "reduce", "bn"))
        if self.form.reduction == "avg_pool":
            return self.convolve_bn(keras.layers.AveragePooling2D(2, name=pool)(x), 1, reduce, bn)
        return BatchNorm(name=bn)(FactorizedReduction(self.filters, name=reduce)(x))
