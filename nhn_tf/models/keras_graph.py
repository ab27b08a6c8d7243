"""A functional Keras model as a list of layers and who reads whom.

Pruning, the sparse compiler and the export follow values from layer to layer, which is only possible where every layer
is called once and yields one tensor. So a node is a layer, and a layer's name stands for its output. Keras keeps the
graph in attributes that are not public (`_keras_history`, `_inbound_nodes`, `_inputs_struct`); nothing else in the
package reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One layer of the model, at its only call.

    Attributes:
      layer: the Keras layer, or a bare `keras.ops` operation.
      parents: names of the layers whose outputs it reads, in order.
      is_list: whether it was called on a list of tensors rather than on one.
      is_plain: whether those tensors, as the first argument, are all that it reads.
      call_args: positional arguments of the call, with its symbolic tensors.
      kwargs: keyword arguments of the call.
      shape: of its output, batch axis first, None where unknown.
    """

    layer: Any
    parents: tuple[str, ...]
    is_list: bool
    is_plain: bool
    call_args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int | None, ...]

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments behind the first."""
        return self.call_args[1:]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The layers of a model, each after those it reads.

    Attributes:
      nodes: layer name to node, in topological order.
      readers: layer name to the names of the layers that read it.
      inputs: names of the model's input layers.
      outputs: names of the layers whose outputs are the model's.
    """

    nodes: Mapping[str, Node]
    readers: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def layer_of(tensor: Any) -> str:
    """Name of the layer (or operation) that made a symbolic tensor."""
    return tensor._keras_history.operation.name


def check_functional(model: keras.Model) -> None:
    """Raises a ValueError unless `model` is a built functional or Sequential model."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(f"model {model.name!r} has no weights yet; give it a keras.Input or call `build` first.")
    if not hasattr(model, "outputs"):  # Subclassed models have none.
        raise ValueError(
            "`model` must be a functional or Sequential Keras model, whose graph of layers can be followed. "
            f"Received: the subclassed model {model.name!r} of type {type(model).__name__}."
        )


def trace(model: keras.Model) -> Graph:
    """Reads the graph of a functional (or built Sequential) model.

    Raises:
      ValueError: a subclassed model, a nested model, a layer called more than once, or one with several outputs. The
        message names the layer.
    """
    check_functional(model)
    nodes: dict[str, Node] = {}
    calls: dict[str, int] = {}

    # Depth first without recursion: deep networks outgrow Python's stack. A tensor is pushed again behind its parents.
    stack = [(tensor, False) for tensor in reversed(model.outputs)]
    while stack:
        tensor, parents_done = stack.pop()
        operation, index, _ = tensor._keras_history
        name = operation.name
        if name in calls and name in nodes:
            _check_same_call(nodes[name], operation, calls[name], index)
            continue
        call = operation._inbound_nodes[index]
        if not parents_done:
            _check_layer(operation, call)
            stack.append((tensor, True))
            stack.extend((parent, False) for parent in reversed(call.input_tensors))
            continue
        calls[name] = index
        nodes[name] = _node(operation, call)

    for tensor in model.inputs:
        operation, index, _ = tensor._keras_history
        if operation.name not in nodes:
            nodes = {operation.name: _node(operation, operation._inbound_nodes[index]), **nodes}
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        for parent in node.parents:
            readers[parent].append(node.name)
    return Graph(
        nodes=nodes,
        readers={name: tuple(names) for name, names in readers.items()},
        inputs=tuple(layer_of(tensor) for tensor in model.inputs),
        outputs=tuple(layer_of(tensor) for tensor in model.outputs),
    )


def structure_of(model: keras.Model) -> tuple[Any, Any]:
    """The model's symbolic inputs and outputs, nested (dictionaries, lists) as its caller sees them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model._inputs_struct, model._outputs_struct


def obstacle(layer: Any, known: Collection[type]) -> str | None:
    """Why a layer of a graph cannot be dealt with, before its own settings are looked at; None when it can.

    Args:
      layer: a node's.
      known: the types that the asker can deal with. Subclasses are not looked up: theirs may compute something else.
    """
    if not isinstance(layer, keras.Layer):
        return (
            "it is a bare operation (as of `x + y` or keras.ops). Use the layer that does the same, such as Add or ReLU"
        )
    if type(layer) not in known:
        return f"its type is unknown. Known types: {', '.join(sorted(kind.__name__ for kind in known))}"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "channels must come last. Received: data_format='channels_first'"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "its weights are quantized or adapted (LoRA)"
    return None


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """Every variable of a layer, trained or not, by its name within the layer; none for a bare operation."""
    variables = getattr(layer, "variables", ())
    return {variable.name: keras.ops.convert_to_numpy(variable) for variable in variables}


def _check_layer(operation: Any, call: Any) -> None:
    if isinstance(operation, keras.Model):
        raise ValueError(
            f"layer {operation.name!r} is a model within the model. Call its layers in the outer model instead."
        )
    if len(call.outputs) != 1:
        raise ValueError(f"layer {operation.name!r} has {len(call.outputs)} outputs; one is supported.")


def _check_same_call(known: Node, operation: Any, known_index: int, index: int) -> None:
    if known.layer is not operation:
        raise ValueError(f"two layers are named {known.name!r}; names must be unique.")
    if known_index != index:
        raise ValueError(
            f"layer {known.name!r} is called more than once; a layer must have one place in the graph. Give each call "
            "a layer of its own."
        )


def _node(layer: Any, call: Any) -> Node:
    if isinstance(layer, keras.layers.InputLayer):
        return Node(layer, (), False, True, (), {}, tuple(layer.output.shape))
    call_args = tuple(call.arguments.args)
    first = call_args[0] if call_args else None
    is_list = isinstance(first, (list, tuple))
    given = list(first) if isinstance(first, (list, tuple)) else [first]
    return Node(
        layer=layer,
        parents=tuple(layer_of(tensor) for tensor in call.input_tensors),
        is_list=is_list,
        is_plain=[id(tensor) for tensor in given] == [id(tensor) for tensor in call.input_tensors],
        call_args=call_args,
        kwargs=dict(call.arguments.kwargs),
        shape=tuple(call.outputs[0].shape),
    )
