"""Pruning of any functional Keras model: which convolutions, which kernels, and the masked clone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import layers as klayers

from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.models import agreement, copying, keras_graph
from nhn_tf.pruning import criteria
from nhn_tf.pruning.masked import apply_masks, kernels_of

FEW_CHANNELS: Final = 0.1
"""A layer of which no more of its output channels stay alive is warned of."""

PRUNED_SIZES: Final = (3, 5)
"""Sizes of the square kernels that are pruned unless layers are named (paper, section 3)."""


def prune(
    model: keras.Model,
    *,
    threshold: float | None = None,
    sparsity: float | None = None,
    criterion: str = "std",
    scope: str = "global",
    allow_disconnected: bool = False,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    check: bool = True,
) -> keras.Model:
    """Copies a model with its least important k x k kernels switched off (paper, section 2.2).

    Every prunable convolution becomes a MaskedConv2D, which keeps its pruned kernels at zero in later training; all
    else stays as it is. Compile and train the result, then `compact` it. Pruning a pruned model never revives a kernel.
    `prune(model, sparsity=0.0)` only makes the convolutions maskable, for `PruningSchedule`.

    Args:
      model: functional or Sequential, built; not changed.
      threshold: a kernel goes when its score is below it. Give this or `sparsity`.
      sparsity: share of the kernels to be gone, in [0, 1).
      criterion: `std` (the paper's), `l1`, `l2` or `random` (a control).
      scope: whether `sparsity` holds over all layers together (`global`, which may leave some layer hardly any: a
        warning names it) or in each (`layer`).
      allow_disconnected: let a layer lose its last kernel; otherwise its strongest stays, with a warning.
      seed: of the `random` criterion.
      layers: names of the convolutions to prune. By default those with 3x3 or 5x5 kernels and `groups=1`, except
        stems: convolutions with no other convolution between them and the model's input. A layer in a model within
        the model goes by its path (`base/conv`).
      check: compare the copy's outputs, before a kernel goes, with the model's on random images.

    Returns:
      A new model, not compiled, of the same structure, layer names and weights.

    Raises:
      ValueError: both or neither of `threshold` and `sparsity`, values out of range, nothing to prune, NaN weights, or
        a layer that cannot be copied; the message names it.
      DisagreementError: the copy does not compute what the model does (see `nhn_tf.models.agreement`).
    """
    selection = propose(
        model,
        threshold=threshold,
        sparsity=sparsity,
        criterion=criterion,
        scope=scope,
        allow_disconnected=allow_disconnected,
        seed=seed,
        layers=layers,
    )
    for name in selection.rescued:
        warnings.warn(
            f"every kernel of layer {name!r} was to go; its strongest was kept. Pass allow_disconnected=True to let a "
            "layer lose all of them.",
            stacklevel=2,
        )
    for name, mask in selection.masks.items():
        alive = int(mask.any(axis=0).sum())
        if name not in selection.rescued and 0 < alive <= FEW_CHANNELS * mask.shape[1]:
            warnings.warn(
                f"layer {name!r} keeps {int(mask.sum()):,} of {mask.size:,} kernels and {alive} of {mask.shape[1]} "
                "output channels, which may cost more accuracy than training brings back. "
                'scope="layer" prunes every layer alike.',
                stacklevel=2,
            )
    pruned = _masked_clone(model, selection.masks)
    if check:
        agreement.check_same(model, lambda inputs: agreement.run(pruned, inputs)[0], "the copy with maskable layers")
    apply_masks(pruned, selection.masks)
    return pruned


def propose(
    model: keras.Model,
    *,
    criterion: str = "std",
    seed: int = 0,
    layers: Sequence[str] | None = None,
    **target: Any,
) -> criteria.Selection:
    """What `prune` would switch off, with the thresholds and the layers it would rescue; nothing is changed.

    Arguments and errors are those of `prune`; `target` holds `threshold` or `sparsity`, `scope`, `allow_disconnected`.
    """
    chosen = prunable(model, layers)
    flat = [name for name, layer in chosen.items() if layer.kernel_size == (1, 1)]
    if criterion == "std" and flat:
        raise ValueError(
            f"a 1x1 kernel has no spread: criterion 'std' cannot rank layers {', '.join(flat)}. Use 'l1' or 'l2'."
        )
    current = {
        name: keras.ops.convert_to_numpy(layer.mask) > 0
        for name, layer in chosen.items()
        if isinstance(layer, MaskedConv2D)
    }
    return criteria.select(criteria.score(kernels_of(chosen), criterion, seed=seed), current=current, **target)


def prunable(model: keras.Model, layers: Sequence[str] | None = None) -> dict[str, klayers.Conv2D]:
    """The convolutions that `prune` works on, by name, in the order of the graph.

    Args:
      model: functional or Sequential, built.
      layers: names to check and return; by default all that qualify.

    Raises:
      ValueError: none qualifies, or one of `layers` is no Conv2D or MaskedConv2D with `groups=1`.
    """
    graph = keras_graph.trace(model)
    nodes = graph.nodes
    behind_convolution: dict[str, bool] = {}
    for name, node in nodes.items():
        behind_convolution[name] = any(
            behind_convolution[parent] or _is_convolution(nodes[parent].layer) for parent in node.parents
        )
    candidates = {
        name: node.layer
        for name, node in nodes.items()
        if _is_maskable(node.layer) and graph.calls[name][0] == name  # A shared layer has one mask for all its calls.
    }
    if layers is not None:
        if isinstance(layers, str) or not layers:
            raise ValueError(f"`layers` must be a list of one or more layer names. Received: {layers!r}.")
        if unknown := [name for name in layers if name not in candidates]:
            raise ValueError(
                "`layers` must name Conv2D or MaskedConv2D layers of the model with groups=1. "
                f"Received: {', '.join(unknown)}. It has: {', '.join(candidates) or 'none'}."
            )
        return {name: layer for name, layer in candidates.items() if name in set(layers)}
    sizes = [(k, k) for k in PRUNED_SIZES]
    found = {
        name: layer for name, layer in candidates.items() if layer.kernel_size in sizes and behind_convolution[name]
    }
    if not found:
        raise ValueError(
            "the model has nothing to prune: no Conv2D with 3x3 or 5x5 kernels and groups=1 behind its stem. Name "
            f"convolutions by `layers=`. It has: {', '.join(candidates) or 'none'}."
        )
    return found


def _masked_clone(model: keras.Model, masked: Collection[str]) -> keras.Model:
    """A copy, models within it copied too, in which the convolutions of these paths are MaskedConv2D."""
    sources = keras_graph.layers_of(model)
    new = {id(sources[path]) for path in masked if not isinstance(sources[path], MaskedConv2D)}

    def clone(layer: Any) -> Any:
        return copying.remake(layer, MaskedConv2D if id(layer) in new else None)

    with _uncompiled(model):
        copy = keras.models.clone_model(model, input_tensors=_inputs_alike(model), clone_function=clone, recursive=True)
    for path, target in keras_graph.layers_of(copy).items():
        whole = {"mask": np.ones(target.mask.shape, "float32")} if id(sources[path]) in new else {}
        copying.carry(sources[path], target, **whole)
    return copy


def _inputs_alike(model: keras.Model) -> Any:
    """New inputs of the same names; Keras would name them after its tensors."""
    if isinstance(model, keras.Sequential):
        return None
    return keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=keras_graph.layer_of(t)), model.input
    )


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Keeps Keras from compiling the copies of a model, which it cannot with a loss that has no registered name."""
    models = [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model) and layer.compiled]
    for one in models:
        one.compiled = False
    try:
        yield
    finally:
        for one in models:
            one.compiled = True


def _is_convolution(layer: Any) -> bool:
    kinds = (klayers.Conv2D, klayers.DepthwiseConv2D, klayers.SeparableConv2D)
    return isinstance(layer, kinds)


def _is_maskable(layer: Any) -> bool:
    return keras_graph.kind_of(layer) in (klayers.Conv2D, MaskedConv2D) and layer.groups == 1
