"""Pruning of any functional Keras model: which kernels, and the masked copy."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np

from nhn_tf.layers.masked_conv import Masked
from nhn_tf.models import agreement, copying, keras_graph
from nhn_tf.pruning import blocks, criteria, initial, liveness, structured, targets
from nhn_tf.pruning.masked import apply_masks, kinds_of

STRUCTURES: Final = ("kernels", "channels")

FEW_CHANNELS: Final = 0.1
"""A layer of which no more of its output channels stay alive is warned of."""
FEW_LIVE: Final = 0.5
"""Masks are warned of when fewer of the kernels that they keep lead from a live channel to a live one."""


def prune(
    model: keras.Model,
    *,
    threshold: float | None = None,
    sparsity: float | Mapping[str, float] | None = None,
    criterion: str = "std",
    scope: str = "global",
    structure: str = "kernels",
    block: int = 1,
    allow_disconnected: bool = False,
    seed: int = 0,
    layers: Sequence[str] | str | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    check: bool = True,
) -> keras.Model:
    """Copies a model with its least important k x k kernels switched off (paper, section 2.2).

    Every prunable layer becomes a MaskedConv2D (a MaskedDense where dense layers were asked for), which keeps its
    pruned kernels at zero in later training; all else stays as it is. Compile and train the result, then `compact` it.
    Pruning a pruned model never revives a kernel. `prune(model, sparsity=0.0)` only makes the layers maskable, for
    `PruningSchedule`. `check(model)` tells beforehand what can be pruned and what that can save.

    Args:
      model: functional or Sequential, built; not changed.
      threshold: a kernel goes when its score is below it. Give this or `sparsity`.
      sparsity: share of the kernels to be gone, in [0, 1); or a dictionary from a layer's name or pattern (`block3*`)
        to its share: then these layers alone are pruned, each to the share of the first pattern that fits it.
      criterion: `std` (the paper's), `l1`, `l2` or `random` (a control). 1x1 kernels and dense weights, which have no
        spread, go by their magnitude under `std`.
      scope: whether `sparsity` holds over all layers of a kind together (`global`, which may leave some layer hardly
        any: a warning names it) or in each (`layer`). `normalized` is global for scores in units of what the layer's
        initializer draws on average, so that layers of more inputs, which begin with smaller weights, are not pruned
        for that; `threshold` is in these units then. The kinds are k x k kernels, 1x1 kernels and dense weights.
      structure: `kernels`, or `channels`: whole output channels go, by the mean score of their kernels, which dense
        engines gain from too. `sparsity` then counts the kernels that live channels lack, those of the layers behind
        included, so that networks of either structure cost the same multiply-adds; layers that make the model's outputs
        keep their channels.
      block: 2 or 4 lets 1x1 kernels and dense weights go for so many neighbouring output channels together, by their
        mean score: the sparse runtime computes a block faster than single weights. k x k kernels go one by one. Targets
        count blocks, and a block of which some weights went before counts as whole: then more go than asked for.
      allow_disconnected: let a layer lose its last kernel; otherwise its strongest stays, with a warning.
      seed: of the `random` criterion.
      layers: names of the layers to prune, or "all": convolutions of every size and dense layers. By default
        convolutions with 3x3 or 5x5 kernels. Neither default nor "all" takes grouped convolutions, stems (no other
        layer with kernels between them and the model's input) and frozen layers (`trainable=False`), which a warning
        names. A layer in a model within the model goes by its path (`base/conv`).
      include: names or patterns of layers to prune besides.
      exclude: names or patterns of layers to leave whole.
      check: compare the copy's outputs, before a kernel goes, with the model's on random images.

    Returns:
      A new model, not compiled, of the same structure, layer names and weights.

    Raises:
      ValueError: both or neither of `threshold` and `sparsity`, values out of range, nothing to prune, NaN weights, a
        layer that cannot be copied, layers that share weights, or under the normalized scope one whose kernels begin
        at a score of 0; the message names it.
      DisagreementError: the copy does not compute what the model does (see `nhn_tf.models.agreement`).
    """
    criteria.check_target(threshold=threshold, sparsity=sparsity, scope=scope)
    if structure not in STRUCTURES or (structure == "channels" and isinstance(sparsity, Mapping)):
        raise ValueError(
            f"`structure` must be kernels or channels, the latter with one `sparsity`. Received: {structure!r}."
        )
    blocks.check_size(block)
    if structure == "channels" and block > 1:
        raise ValueError(f"`block` is for kernels; whole channels are no blocks. Received: block={block}.")
    chosen, shares = _targets(model, sparsity, layers, include, exclude)
    if structure == "channels":
        chosen = {name: layer for name, layer in chosen.items() if name not in targets.at_output(model)}
    scores = initial.scores_of(chosen, criterion, scope=scope, seed=seed)
    target: dict[str, Any] = {
        "threshold": threshold,
        "sparsity": shares,
        "scope": scope,
        "kinds": kinds_of(chosen),
        "current": _current(chosen),
        "allow_disconnected": allow_disconnected,
    }
    whole = blocks.select(scores, block=block, **target)  # Before the copy: what is refused, is refused at once.
    pruned = _masked_clone(model, chosen)
    if check:
        agreement.check_same(model, lambda inputs: agreement.run(pruned, inputs)[0], "the copy with maskable layers")
    selection = structured.select_channels(pruned, scores, **target) if structure == "channels" else whole
    _warn(model, selection, by_default=layers is None and not isinstance(sparsity, Mapping))
    apply_masks(pruned, selection.masks)
    if structure == "kernels" and sparsity != 0.0 and not selection.rescued and not _thin(selection):
        _warn_of_dead(pruned, selection)
    return pruned


def propose(
    model: keras.Model,
    *,
    criterion: str = "std",
    seed: int = 0,
    layers: Sequence[str] | str | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    sparsity: float | Mapping[str, float] | None = None,
    scope: str = "global",
    block: int = 1,
    **target: Any,
) -> criteria.Selection:
    """What `prune` would switch off, with the thresholds and the layers it would rescue; nothing is changed.

    Arguments and errors are those of `prune`; `target` holds `threshold` and `allow_disconnected`.
    """
    blocks.check_size(block)
    chosen, shares = _targets(model, sparsity, layers, include, exclude)
    scores = initial.scores_of(chosen, criterion, scope=scope, seed=seed)
    target = {**target, "scope": scope, "kinds": kinds_of(chosen), "current": _current(chosen)}
    return blocks.select(scores, block=block, sparsity=shares, **target)


def _targets(
    model: keras.Model,
    sparsity: float | Mapping[str, float] | None,
    layers: Sequence[str] | str | None,
    include: Iterable[str],
    exclude: Iterable[str],
) -> tuple[dict[str, Any], float | dict[str, float] | None]:
    """The layers to prune, and the share of each that a dictionary gives, by name instead of by pattern."""
    if not isinstance(sparsity, Mapping):
        return targets.prunable(model, layers, include=include, exclude=exclude), sparsity
    if layers is not None or include:
        raise ValueError("`sparsity` names the layers itself: give neither `layers` nor `include` with a dictionary.")
    names = targets.candidates(model)
    shares: dict[str, float] = {}
    for pattern, share in sparsity.items():
        shares = dict.fromkeys(targets.matching("sparsity", [pattern], names), share) | shares
    chosen = targets.prunable(model, list(shares), exclude=exclude)
    return chosen, {name: shares[name] for name in chosen}


def _current(chosen: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The masks in force."""
    masked = {name: layer for name, layer in chosen.items() if isinstance(layer, Masked)}
    return {name: keras.ops.convert_to_numpy(layer.mask) > 0 for name, layer in masked.items()}


def _warn(model: keras.Model, selection: criteria.Selection, *, by_default: bool) -> None:
    """Tells what a user would not expect of the layers that were chosen, and of those that were not."""
    for name in selection.rescued:
        warnings.warn(
            f"every kernel of layer {name!r} was to go; its strongest was kept. Pass allow_disconnected=True to let a "
            "layer lose all of them.",
            stacklevel=3,
        )
    for name, alive in _thin(selection).items():
        mask = selection.masks[name]
        warnings.warn(
            f"layer {name!r} keeps {int(mask.sum()):,} of {mask.size:,} kernels and {alive} of {mask.shape[1]} "
            "output channels, which may cost more accuracy than training brings back. "
            'scope="layer" prunes every layer alike.',
            stacklevel=3,
        )
    surprises = {
        name: reason
        for name, reason in targets.left_whole(model, selection.masks).items()
        if by_default and reason.startswith(targets.SURPRISING)
    }
    if surprises:
        listed = "; ".join(f"{name} ({reason})" for name, reason in surprises.items())
        warnings.warn(f"these layers are left whole: {listed}. `include` takes them in where it can.", stacklevel=3)
    if walls := liveness.walls(model):
        listed = "; ".join(f"{name} ({reason})" for name, reason in walls.items())
        warnings.warn(
            f"`compact` will keep all channels before and behind these layers, so that it saves less: {listed}. "
            "Kernels are pruned all the same.",
            stacklevel=3,
        )


def _thin(selection: criteria.Selection) -> dict[str, int]:
    """The layers that keep hardly any output channel, by name, and how many of them are left."""
    alive = {name: int(mask.any(axis=0).sum()) for name, mask in selection.masks.items()}
    few = {name for name, mask in selection.masks.items() if alive[name] <= FEW_CHANNELS * mask.shape[1]}
    return {name: alive[name] for name in selection.masks if name in few - {*selection.rescued} and alive[name]}


def _warn_of_dead(pruned: keras.Model, selection: criteria.Selection) -> None:
    """Tells that many kernels that were kept do nothing, since they lead from or to a dead channel."""
    counts = liveness.liveness(pruned)
    kept = sum(int(mask.sum()) for mask in selection.masks.values())
    live = sum(counts[name].live_kernels for name in selection.masks)
    if live < FEW_LIVE * kept:
        size = sum(mask.size for mask in selection.masks.values())
        warnings.warn(
            f"{kept:,} of {size:,} kernels are kept, but only {live:,} of them ({live / size:.0%} of all) lead from "
            "live channels to live ones: where every kernel of a channel is gone, those that read it do nothing. "
            'A lower `sparsity` or scope="layer" keeps more alive.',
            stacklevel=3,
        )


def copied(model: keras.Model) -> keras.Model:
    """A copy of a model with all its state, not compiled.

    Raises:
      ValueError: a layer that cannot be copied; the message names it.
    """
    keras_graph.check_functional(model)
    return _masked_clone(model, ())


def _masked_clone(model: keras.Model, masked: Collection[str]) -> keras.Model:
    """A copy, models within it copied too, in which the layers of these paths are masked."""
    sources = keras_graph.layers_of(model)
    copying.check_unshared(sources)
    new = {id(sources[path]) for path in masked if not isinstance(sources[path], Masked)}

    def clone(layer: Any) -> Any:
        return copying.remake(layer, targets.MASKED[keras_graph.kind_of(layer)] if id(layer) in new else None)

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
