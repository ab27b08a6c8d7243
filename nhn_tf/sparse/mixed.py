"""Models with layers that the runtime does not know: those through Keras, the rest as native code."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np

from nhn_tf.models.keras_graph import Graph, Node, takes_training, trace
from nhn_tf.sparse.program.draft import Draft
from nhn_tf.sparse.program.from_keras import READERS, input_names, read_part
from nhn_tf.sparse.program.operations import Program, UnsupportedLayerError
from nhn_tf.sparse.program.optimize import optimize
from nhn_tf.sparse.runtime import SparseRuntime


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive layers, all native or all Keras's.

    Attributes:
      inputs: names of the values that it reads.
      outputs: names of those that it makes for others.
      runtime: of a native part.
      nodes: of Keras's, in order.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    runtime: SparseRuntime | None
    nodes: tuple[Node, ...]


class MixedRuntime:
    """Called as `SparseRuntime` is, for a model of which Keras computes some layers. It cannot be saved.

    Args:
      model: functional.
      native: makes the runtime of a native part.
      shapes: of its inputs without the batch axis, where the model leaves sizes open.

    Attributes:
      keras_layers: names of the layers that Keras computes.
    """

    def __init__(
        self,
        model: keras.Model,
        native: Callable[[Program], SparseRuntime],
        *,
        shapes: Sequence[Sequence[int]] | None = None,
    ):
        graph = trace(model, None if shapes is None else [(None, *shape) for shape in shapes])
        self._graph = graph
        self.keras_layers = _unsupported(graph)
        self._parts = [
            self._part(names, native if level % 2 == 0 else None)
            for level, names in sorted(_levels(graph, set(self.keras_layers)).items())
        ]

    def _part(self, names: list[str], native: Callable[[Program], SparseRuntime] | None) -> _Part:
        graph = self._graph
        outputs = tuple(
            name for name in names if name in graph.outputs or any(r not in names for r in graph.readers[name])
        )
        runtime = native(optimize(read_part(graph, names, outputs))) if native else None
        nodes = () if native else tuple(graph.nodes[name] for name in names)
        return _Part(input_names(graph, names), outputs, runtime, nodes)

    @property
    def input_shapes(self) -> tuple[tuple[int | None, ...], ...]:
        """Of one image for each input."""
        return tuple(self._graph.nodes[name].shape[1:] for name in self._graph.inputs)

    @property
    def output_shapes(self) -> tuple[tuple[int | None, ...], ...]:
        return tuple(self._graph.nodes[name].shape[1:] for name in self._graph.outputs)

    def __call__(self, *images: np.ndarray, threads: int | None = None) -> np.ndarray | tuple[np.ndarray, ...]:
        """Computes a batch; see `SparseRuntime`. `threads` is for the native parts."""
        if len(images) != len(self._graph.inputs):
            raise ValueError(f"the network has {len(self._graph.inputs)} inputs. Received: {len(images)} arrays.")
        values: dict[str, np.ndarray] = dict(zip(self._graph.inputs, map(np.asarray, images), strict=True))
        for part in self._parts:
            if part.runtime is not None:
                made = part.runtime(*(values[name] for name in part.inputs), threads=threads)
                named = dict(zip(part.outputs, made if isinstance(made, tuple) else (made,), strict=True))
                values = named | values  # Inputs stay as they are: numbers as large as identifiers are no float32.
            for node in part.nodes:
                values[node.name] = self._computed(node, values)
        outputs = tuple(np.asarray(values[name], np.float32) for name in self._graph.outputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def _computed(self, node: Node, values: dict[str, np.ndarray]) -> np.ndarray:
        """A layer's value at inference, by Keras."""
        if not node.parents:
            return values[node.name]
        dtypes = [self._graph.nodes[parent].dtype for parent in node.parents]
        inputs = [
            keras.ops.convert_to_tensor(values[parent], dtype=None if dtype == "string" else dtype)
            for parent, dtype in zip(node.parents, dtypes, strict=True)
        ]
        # As `predict` tells every layer; on its own, augmentation would train.
        inference = {"training": False} if takes_training(node.layer) else {}
        return keras.ops.convert_to_numpy(node.call(inputs, **inference))

    def save(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Refuses.

        Raises:
          ValueError: always; a file cannot hold Keras layers.
        """
        raise ValueError(
            f"{path} cannot hold the layers that Keras computes: {', '.join(self.keras_layers)}. Replace them first."
        )


def _unsupported(graph: Graph) -> tuple[str, ...]:
    """Names of the layers that have no native form."""
    draft, names = Draft(READERS), []
    for name in graph.nodes:
        try:
            draft.read_layer(graph, name)
        except UnsupportedLayerError:
            names.append(name)
    return tuple(names)


def _levels(graph: Graph, foreign: set[str]) -> dict[int, list[str]]:
    """Layers by how often the path to them changes hands: even levels are native, odd ones Keras's."""
    level: dict[str, int] = {}
    result: dict[int, list[str]] = {}
    for name, node in graph.nodes.items():
        highest = max((level[parent] for parent in node.parents), default=0)
        level[name] = highest + ((highest % 2 == 1) != (name in foreign))
        result.setdefault(level[name], []).append(name)
    return result
