"""A functional Keras model as a list of calls and who reads whom, the models within it opened up.

Pruning, the sparse compiler and the export follow values from layer to layer. A node is one call of a layer, named by
the layer's path: `conv`, in a model within the model `base/conv`, at a second call `conv@2`. Keras keeps the graph in
attributes that are not public (`_keras_history`, `_inbound_nodes`, `_inputs_struct`); nothing else in the package reads
them.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras.src.applications.convnext import LayerScale as LayerScale  # These have no public names.
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from nhn_tf.layers.own_op import has_own_call

ScaledSum = CustomScaleLayer
"""Inception-ResNet's layer: its first input and a share of its second."""

Shape = tuple[int | None, ...]

BEHAVIOUR_FREE: Final = frozenset(
    "__init__ get_config from_config __module__ __doc__ __qualname__ __firstlineno__ __static_attributes__ "
    "__annotations__ __abstractmethods__ _abc_impl __parameters__".split()
)
"""What a subclass may define without computing anything else than its parent."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer.

    Attributes:
      name: the layer's path in the model, with `@2` and so on from its second call on.
      layer: the Keras layer, or a bare `keras.ops` operation.
      parents: names of the nodes whose outputs it reads, in order.
      is_list: whether it was called on a list of tensors rather than on one.
      is_plain: whether those tensors, as the first argument, are all that it reads.
      call_args: positional arguments of the call, with its symbolic tensors.
      kwargs: keyword arguments of the call; `training` also where a model around it was called with it.
      shape: of its output, batch axis first, None where unknown.
      dtype: of its output.
    """

    name: str
    layer: Any
    parents: tuple[str, ...]
    is_list: bool
    is_plain: bool
    call_args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: Shape
    dtype: str

    @property
    def kind(self) -> type:
        return kind_of(self.layer)

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments behind the first."""
        return self.call_args[1:]

    def call(self, inputs: Sequence[Any], *, layer: Any = None, **kwargs: Any) -> Any:
        """Calls a layer as this node does, on other tensors.

        Args:
          inputs: one value in place of each parent's.
          layer: instead of the node's own.
          **kwargs: instead of the call's own.
        """
        args, keywords = filled(self.call_args, dict(self.kwargs), inputs)
        return (self.layer if layer is None else layer)(*args, **{**keywords, **kwargs})


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model, each after those it reads.

    Attributes:
      nodes: name to node, in topological order.
      readers: name to the names of the nodes that read it.
      inputs: names of the model's input layers.
      outputs: names of the nodes whose outputs are the model's.
      calls: for each node, the names of all nodes that call its layer, first of all the first.
    """

    nodes: Mapping[str, Node]
    readers: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: Mapping[str, tuple[str, ...]]


def check_functional(model: keras.Model) -> None:
    """Raises a ValueError unless `model` is a built functional or Sequential model."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(f"model {model.name!r} has no weights yet; give it a keras.Input or call `build` first.")
    if not is_functional(model):  # Subclassed models have no graph.
        raise ValueError(
            "`model` must be a functional or Sequential Keras model, whose graph of layers can be followed. "
            f"Received: the subclassed model {model.name!r} of type {type(model).__name__}."
        )
    _check_call(model)


def _check_call(model: keras.Model) -> None:
    """Raises a ValueError where a model of which the graph is known computes otherwise than its graph."""
    if has_own_call(model):
        raise ValueError(
            f"model {model.name!r} must compute what its graph of layers says. Received: type {type(model).__name__}, "
            "which has a `call` of its own. Build the model of the layers that it calls."
        )


def is_functional(layer: Any) -> bool:
    """Whether a layer is a model of which the graph is known."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "outputs", None))


def trace(model: keras.Model, shapes: Sequence[Shape] | None = None) -> Graph:
    """Reads the graph of a functional (or built Sequential) model.

    Args:
      model: not changed.
      shapes: of its inputs, batch axis first, where others are wanted than those that it was built with.

    Raises:
      ValueError: a subclassed model, or a layer with several outputs; the message names the layer.
    """
    check_functional(model)
    tracer = _Tracer()
    given = [tensor.shape for tensor in model.inputs] if shapes is None else shapes
    inputs = [tracer.add_input(tensor, shape) for tensor, shape in zip(model.inputs, given, strict=True)]
    outputs = tracer.expand(model, "", inputs, training=None)
    nodes = tracer.nodes
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    calls: dict[int, list[str]] = collections.defaultdict(list)
    for node in nodes.values():
        calls[id(node.layer)].append(node.name)
        for parent in node.parents:
            readers[parent].append(node.name)
    return Graph(
        nodes=nodes,
        readers={name: tuple(names) for name, names in readers.items()},
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        calls={name: tuple(calls[id(node.layer)]) for name, node in nodes.items()},
    )


def layers_of(model: keras.Model) -> dict[str, Any]:
    """Every layer of a model by its path, those of models within it too, each once and without inputs."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def collect(inner: Any, prefix: str) -> None:
        for layer in inner.layers:
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            if is_functional(layer):
                collect(layer, f"{prefix}{layer.name}/")
            else:
                found[prefix + layer.name] = layer

    collect(model, "")
    return found


def model_like(model: keras.Model, graph: Graph, tensors: Mapping[str, Any]) -> keras.Model:
    """A new model of the same inputs and outputs, nested (dictionaries, lists) as the caller of `model` sees them.

    Args:
      model: whose structure is taken.
      graph: its own.
      tensors: node name to the new model's symbolic tensor.
    """

    def pack(names: Sequence[str], structure: Any) -> Any:
        return keras.tree.pack_sequence_as(structure, [tensors[name] for name in names])

    inputs, outputs = structure_of(model)
    return keras.Model(pack(graph.inputs, inputs), pack(graph.outputs, outputs), name=model.name)


def layer_of(tensor: Any) -> str:
    """Name of the layer (or operation) that made a symbolic tensor."""
    return tensor._keras_history.operation.name


def structure_of(model: keras.Model) -> tuple[Any, Any]:
    """The model's symbolic inputs and outputs, nested as its caller sees them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model._inputs_struct, model._outputs_struct


def kind_of(layer: Any) -> type:
    """The class whose computation a layer has: its own, or that of a parent of which it changes nothing but the name.

    A subclass that defines a method, a property or an attribute of its own may compute something else.
    """
    for kind in type(layer).__mro__:
        if kind.__module__.startswith(("keras.", "nhn_tf.")) or not set(vars(kind)) <= BEHAVIOUR_FREE:
            return kind
    return type(layer)


def operation(function: Callable[..., Any], operands: int = 1) -> type:
    """The class of the bare operation that a function of `keras.ops` makes of symbolic tensors."""
    tensor = keras.KerasTensor((1, 1))
    return type(function(*[tensor] * operands)._keras_history.operation)


def obstacle(node: Node, known: Collection[type]) -> str | None:
    """Why a call cannot be dealt with, before the layer's own settings are looked at; None when it can.

    Args:
      node: the call.
      known: the types that the asker can deal with.
    """
    layer, kind = node.layer, node.kind
    is_layer = isinstance(layer, keras.Layer)
    if kind not in known:
        names = sorted(one.__name__ for one in known if issubclass(one, keras.Layer))
        what = "its type is unknown" if is_layer else "it is a bare operation (as of keras.ops) that is unknown"
        return f"{what}. Known layers: {', '.join(names)}"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "channels must come last. Received: data_format='channels_first'"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "its weights are quantized or adapted (LoRA)"
    if is_layer and any(within.variables for within in layer._flatten_layers(include_self=False)):
        return "it holds layers with weights of their own"
    if not is_layer:
        return None
    if not node.is_plain or node.args:
        return "it must be called on one tensor, or one list of tensors, as its only positional argument"
    for key, value in node.kwargs.items():
        if value is not None and not (key == "training" and value in (False, _default_training(layer))):
            return f"it is called with {key}={value}"
    return None


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """Every variable of a layer without layers within it, by its name; none for a bare operation."""
    variables = getattr(layer, "variables", ())
    return {variable.name: keras.ops.convert_to_numpy(variable) for variable in variables}


def filled(args: Any, kwargs: Any, values: Sequence[Any]) -> tuple[Any, Any]:
    """A call's arguments with values in place of its symbolic tensors, in their order."""
    left = iter(values)
    return keras.tree.map_structure(lambda a: next(left) if isinstance(a, keras.KerasTensor) else a, (args, kwargs))


class _Tracer:
    """Collects nodes.

    Attributes:
      nodes: so far, by name.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._calls: collections.Counter[str] = collections.Counter()

    def add_input(self, tensor: Any, shape: Shape) -> str:
        layer = tensor._keras_history.operation
        self.nodes[layer.name] = Node(layer.name, layer, (), False, True, (), {}, tuple(shape), tensor.dtype)
        return layer.name

    def expand(self, model: keras.Model, prefix: str, inputs: Sequence[str], training: bool | None) -> list[str]:
        """Adds the calls of a model; returns the names of the nodes that make its outputs.

        Args:
          model: functional.
          prefix: of its layers' names.
          inputs: names of the nodes that it reads.
          training: what it was called with.
        """
        known = {id(tensor): name for tensor, name in zip(model.inputs, inputs, strict=True)}
        for call in _calls_of(model):
            layer = call.operation
            if is_functional(layer):
                _check_call(layer)
                given, called = _call_of_model(layer, call)
                read = [known[id(tensor)] for tensor in given]
                made = self.expand(layer, f"{prefix}{layer.name}/", read, training if called is None else called)
            elif len(call.outputs) == 1:
                made = [self._add(call, prefix, [known[id(tensor)] for tensor in call.input_tensors], training)]
            else:
                raise ValueError(f"layer {layer.name!r} has {len(call.outputs)} outputs; one is supported.")
            known |= {id(tensor): name for tensor, name in zip(call.outputs, made, strict=True)}
        return [known[id(tensor)] for tensor in model.outputs]

    def _add(self, call: Any, prefix: str, parents: Sequence[str], training: bool | None) -> str:
        layer = call.operation
        path = prefix + layer.name
        self._calls[path] += 1
        name = path if self._calls[path] == 1 else f"{path}@{self._calls[path]}"
        call_args, kwargs = tuple(call.arguments.args), dict(call.arguments.kwargs)
        if training is not None and kwargs.get("training") is None and takes_training(layer):
            kwargs["training"] = training
        first = call_args[0] if call_args else None
        given = list(first) if isinstance(first, (list, tuple)) else [first]
        made = call.outputs[0]
        self.nodes[name] = Node(
            name=name,
            layer=layer,
            parents=tuple(parents),
            is_list=isinstance(first, (list, tuple)),
            is_plain=[id(tensor) for tensor in given] == [id(tensor) for tensor in call.input_tensors],
            call_args=call_args,
            kwargs=kwargs,
            shape=self._shape(call, call_args, kwargs, parents),
            dtype=made.dtype,
        )
        return name

    def _shape(self, call: Any, call_args: Any, kwargs: Any, parents: Sequence[str]) -> Shape:
        """Of the output: Keras's record, or computed anew where a model within the model reads other shapes."""
        read = [self.nodes[parent] for parent in parents]
        if all(node.shape == tuple(tensor.shape) for node, tensor in zip(read, call.input_tensors, strict=True)):
            return tuple(call.outputs[0].shape)
        args, keywords = filled(call_args, kwargs, [keras.KerasTensor(node.shape, node.dtype) for node in read])
        return tuple(call.operation.compute_output_spec(*args, **keywords).shape)


def _call_of_model(model: keras.Model, call: Any) -> tuple[list[Any], bool | None]:
    """For each input of a model within the model the tensor that it is called on, and with which `training`."""
    others = {**dict(zip(("inputs", "training", "mask"), call.arguments.args, strict=False)), **call.arguments.kwargs}
    given, training = others.pop("inputs"), others.pop("training", None)
    if isinstance(given, dict) and not isinstance(structure_of(model)[0], dict):
        given = [given[tensor.name] for tensor in model.inputs]
    tensors = keras.tree.flatten(given)
    told = [key for key, value in others.items() if any(one is not None for one in keras.tree.flatten(value))]
    if told or len(tensors) != len(model.inputs):
        raise ValueError(
            f"model {model.name!r} within the model must be called on its inputs, and on `training` at most. "
            f"Received: {len(tensors)} tensors and {', '.join(told) or 'nothing else'}."
        )
    return tensors, training


def takes_training(layer: Any) -> bool:
    """Whether a layer computes differently while training."""
    return isinstance(layer, keras.Layer) and "training" in inspect.signature(layer.call).parameters


def _default_training(layer: Any) -> Any:
    """What a layer's `training` is where nobody says: Keras records augmentation's True as if it were asked for.

    `predict` and `fit` replace what is recorded by their own.
    """
    parameter = inspect.signature(layer.call).parameters.get("training")
    return None if parameter is None else parameter.default


def _calls_of(model: keras.Model) -> Iterator[Any]:
    """Keras's records of the calls that make a model's outputs, each behind those it reads.

    Depth first without recursion: deep networks outgrow Python's stack.
    """
    done = {id(tensor) for tensor in model.inputs}
    stack = [(tensor, False) for tensor in reversed(model.outputs)]
    while stack:
        tensor, parents_done = stack.pop()
        if id(tensor) in done:
            continue
        operation, index, _ = tensor._keras_history
        call = operation._inbound_nodes[index]
        if parents_done:
            done |= {id(made) for made in call.outputs}
            yield call
        else:
            stack.append((tensor, True))  # Again, behind its parents.
            stack.extend((parent, False) for parent in reversed(call.input_tensors))
