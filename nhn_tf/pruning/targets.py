"""Which layers of a model lose kernels, and why the others do not."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import keras
from keras import layers as klayers

from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.models import keras_graph

PRUNED_SIZES: Final = ((3, 3), (5, 5))
"""Sizes of the kernels that are pruned unless told otherwise (paper, section 3)."""

MASKED: Final[Mapping[type, type]] = {klayers.Conv2D: MaskedConv2D, klayers.Dense: MaskedDense}
"""Type of layer to that which has a mask too."""

FROZEN: Final = "frozen: it could not be retrained"
OWN: Final = "a convolution of your own: "
SURPRISING: Final = (FROZEN, OWN)
"""Reasons of which `prune` warns, for most would expect these layers to be pruned."""

UNASKED: Final = 'not asked for: pass layers="all", or its name in `include`'


def prunable(
    model: keras.Model,
    layers: Sequence[str] | str | None = None,
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> dict[str, Any]:
    """The layers that `prune` works on, by path, in the order of the graph.

    Args:
      model: functional or Sequential, built.
      layers: paths of the layers, frozen ones too; "all" convolutions and dense layers behind the stem that are not
        frozen; by default those of them with 3x3 or 5x5 kernels.
      include: names or patterns (`block3*`) of further ones.
      exclude: names or patterns of those to be left whole after all.

    Raises:
      ValueError: none qualifies, or a name or pattern that fits none.
    """
    maskable = candidates(model)
    if (isinstance(layers, str) and layers != "all") or (layers is not None and not layers):
        raise ValueError(f'`layers` must be "all" or a list of one or more layer names. Received: {layers!r}.')
    if layers is None or layers == "all":
        reasons = _reasons(model, maskable, every_size=layers == "all")
        chosen = {name for name in maskable if reasons[name] is None}
    else:
        _check_known("layers", [name for name in layers if name not in maskable], maskable)
        chosen = set(layers)
    chosen |= matching("include", include, maskable)
    chosen -= matching("exclude", exclude, maskable)
    if not chosen:
        what, how = ("Conv2D with 3x3 or 5x5 kernels", 'layers="all", or names')
        if layers == "all":
            what, how = ("Conv2D, no Dense layer", "names in `include`")
        raise ValueError(
            f"the model has nothing to prune: no {what} and groups=1 behind its stem, or only frozen ones. Pass {how}. "
            f"It has: {', '.join(maskable) or 'none'}."
        )
    return {name: layer for name, layer in maskable.items() if name in chosen}


def left_whole(model: keras.Model, chosen: Iterable[str]) -> dict[str, str]:
    """Why layers with kernels are not pruned: path to reason, for those that are not in `chosen`."""
    maskable = candidates(model)
    reasons = _reasons(model, maskable, every_size=False)
    found: dict[str, str] = {}
    for path, layer in keras_graph.layers_of(model).items():
        if path in chosen or not _has_kernel(layer):
            continue
        found[path] = reasons[path] or "left out by name" if path in maskable else _unmaskable(layer)
    return found


def matching(argument: str, patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names that fit any of some patterns.

    Raises:
      ValueError: a pattern that fits none; the message says which, of which argument.
    """
    names, found = list(names), set()
    if isinstance(patterns, str):
        patterns = [patterns]
    for pattern in patterns:
        fitting = fnmatch.filter(names, pattern)
        _check_known(argument, [] if fitting else [pattern], names)
        found |= set(fitting)
    return found


def at_output(model: keras.Model) -> set[str]:
    """The layers with kernels whose channels are those of the model's outputs."""
    graph = keras_graph.trace(model)
    found, stack = set(), list(graph.outputs)
    while stack:
        name = stack.pop()
        if _has_kernel(graph.nodes[name].layer):
            found.add(graph.calls[name][0])
        else:
            stack.extend(graph.nodes[name].parents)
    return found


def _check_known(argument: str, unknown: Sequence[str], names: Iterable[str]) -> None:
    if unknown:
        raise ValueError(
            f"`{argument}` must name Conv2D layers of the model with groups=1, or Dense ones. "
            f"Received: {', '.join(unknown)}. It has: {', '.join(names) or 'none'}."
        )


def candidates(model: keras.Model) -> dict[str, Any]:
    """The layers that can have a mask; one that is called more than once has one mask for all its calls."""
    graph = keras_graph.trace(model)
    return {
        name: node.layer
        for name, node in graph.nodes.items()
        if graph.calls[name][0] == name and _unmaskable(node.layer) == ""
    }


def _unmaskable(layer: Any) -> str:
    """Why a layer cannot have a mask; empty where it can."""
    kind = keras_graph.kind_of(layer)
    if kind not in (*MASKED, *MASKED.values()):
        own = isinstance(layer, klayers.Conv2D) and type(layer).__module__.split(".")[0] not in ("keras", "nhn_tf")
        return (
            f"{OWN}{type(layer).__name__} computes otherwise than Conv2D" if own else f"{type(layer).__name__} has none"
        )
    if getattr(layer, "groups", 1) != 1:
        return "its channels are grouped"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "its weights are quantized or adapted (LoRA)"
    return ""


def _reasons(model: keras.Model, candidates: Mapping[str, Any], *, every_size: bool) -> dict[str, str | None]:
    """Why candidates are not pruned by default; None where they are."""
    behind = _behind_kernels(model)
    reasons: dict[str, str | None] = {}
    for name, layer in candidates.items():
        size = getattr(layer, "kernel_size", None)
        if not layer.trainable:
            reasons[name] = FROZEN
        elif not behind[name]:
            reasons[name] = "a stem: it reads the model's input"
        elif every_size or size in PRUNED_SIZES:
            reasons[name] = None
        else:
            what = "a dense layer" if size is None else f"its kernels are {size[0]}x{size[1]}"
            reasons[name] = f"{what}, {UNASKED}"
    return reasons


def _behind_kernels(model: keras.Model) -> dict[str, bool]:
    """Whether a layer with kernels stands between a node and the model's inputs."""
    nodes = keras_graph.trace(model).nodes
    behind: dict[str, bool] = {}
    for name, node in nodes.items():
        behind[name] = any(behind[parent] or _has_kernel(nodes[parent].layer) for parent in node.parents)
    return behind


def _has_kernel(layer: Any) -> bool:
    """Whether a layer multiplies by kernels that one might expect to be pruned."""
    return any("kernel" in variable.name for variable in getattr(layer, "variables", ()))
