"""What pruning, compaction and the sparse runtime will do with a model, told before it is trained for them."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import keras

from nhn_tf.models import complexity, copying, keras_graph
from nhn_tf.pruning import blocks, targets
from nhn_tf.pruning.carrying import Wall
from nhn_tf.pruning.liveness import analyse
from nhn_tf.pruning.masked import kinds_of
from nhn_tf.sparse.program.draft import Draft
from nhn_tf.sparse.program.from_keras import READERS
from nhn_tf.sparse.program.operations import UnsupportedLayerError

GOALS: Final = ("prune", "compact", "sparse")

USUAL_SIDE: Final = 224
"""Height and width at which a model is looked at that leaves them open."""


@dataclasses.dataclass(frozen=True)
class LayerOutlook:
    """What awaits one layer.

    Attributes:
      name: its path (see `keras_graph`).
      kind: its class.
      share: of the model's multiply-adds, in [0, 1]; 0 where they are not known.
      prune: why it loses no kernels; empty where it does, None where it has none.
      compact: why all channels before and behind it are kept; empty where channels are followed.
      sparse: why the sparse runtime cannot compute it; empty where it can.
      block: output channels of which kernels go together, where it loses any.
    """

    name: str
    kind: str
    share: float
    prune: str | None
    compact: str
    sparse: str
    block: int = 1


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What awaits a model; prints as a table.

    Attributes:
      goal: that was asked for.
      layers: in the order of the graph.
      reach: share of the model's known multiply-adds in layers that lose kernels, in [0, 1].
      flattened: whether compaction opens models within the model: their layers then stand in the new model itself.
      refusal: why the goal cannot be reached at all; empty where it can.
    """

    goal: str
    layers: tuple[LayerOutlook, ...]
    reach: float
    flattened: bool
    refusal: str

    @property
    def ok(self) -> bool:
        """Whether the goal can be reached."""
        return not self.refusal

    def __str__(self) -> str:
        lines = [f"{self.reach:.1%} of the multiply-adds are within reach of pruning."]
        for layer in self.layers:
            if layer.prune == "":
                how = f", in blocks of {layer.block} output channels" if layer.block > 1 else ""
                lines.append(f"  {layer.name} ({layer.kind}), {layer.share:.1%}: pruned{how}")
            elif layer.prune:
                lines.append(f"  {layer.name} ({layer.kind}), {layer.share:.1%}: left whole, {layer.prune}")
        if self.goal != "prune":
            lines += [
                f"  {x.name} ({x.kind}): compaction keeps its channels, {x.compact}" for x in self.layers if x.compact
            ]
            if self.flattened:
                lines.append("  compaction opens the models within: their layers stand in the new model itself")
        if self.goal == "sparse":
            lines += [f'  {x.name} ({x.kind}): needs fallback="keras", {x.sparse}' for x in self.layers if x.sparse]
        return "\n".join([*lines, *([f"Refused: {self.refusal}"] if self.refusal else [])])


def check(model: keras.Model, goal: str = "sparse", *, block: int = 1, **chosen: Any) -> Outlook:
    """Tells, before any training, what of a model will be pruned, compacted and compiled, and what will not and why.

    Nothing is changed, and no machine code is made.

    Args:
      model: built.
      goal: `prune`, `compact` (and prune) or `sparse` (and both).
      block: as for `prune`.
      **chosen: `layers`, `include`, `exclude` as for `prune`.

    Raises:
      ValueError: another goal or block, or a name that fits no layer.
    """
    blocks.check_size(block)
    if goal not in GOALS:
        raise ValueError(f"`goal` must be one of {', '.join(GOALS)}. Received: {goal!r}.")
    try:
        keras_graph.check_functional(model)
        shapes = [tuple(USUAL_SIDE if s is None and i else s for i, s in enumerate(t.shape)) for t in model.inputs]
        graph = keras_graph.trace(model, shapes)
        pruned = targets.prunable(model, **chosen)
    except ValueError as error:
        return Outlook(goal, (), 0.0, False, str(error))
    refusal, kinds = _uncopied(model), kinds_of(pruned)
    costs = complexity.layer_costs(model, shapes)
    total = sum(cost.flops for cost in costs.values()) or 1
    whole = targets.left_whole(model, pruned)
    reasons = {name: rule.reason for name, rule in analyse(model).rules.items() if isinstance(rule, Wall)}
    unsupported = _unsupported(graph) if goal == "sparse" else {}
    layers = tuple(
        LayerOutlook(
            name=name,
            kind=type(node.layer).__name__,
            share=costs[name].flops / total,
            prune="" if graph.calls[name][0] in pruned else whole.get(name),
            compact=reasons.get(name, ""),
            sparse=unsupported.get(name, ""),
            block=block if kinds.get(graph.calls[name][0]) in blocks.KINDS else 1,
        )
        for name, node in graph.nodes.items()
    )
    reach = sum(layer.share for layer in layers if layer.prune == "")
    flattened = any(keras_graph.is_functional(layer) for layer in model.layers)
    return Outlook(goal, layers, reach, flattened, refusal)


def _uncopied(model: keras.Model) -> str:
    """Why a layer cannot be copied; empty where all can."""
    layers = keras_graph.layers_of(model)
    try:
        copying.check_unshared(layers)
        for layer in layers.values():
            copying.remake(layer)
    except ValueError as error:
        return str(error)
    return ""


def _unsupported(graph: keras_graph.Graph) -> dict[str, str]:
    """Name to reason of each node that the sparse runtime cannot compute."""
    draft, found = Draft(READERS), {}
    for name in graph.nodes:
        try:
            draft.read_layer(graph, name)
        except UnsupportedLayerError as error:
            found[name] = error.reason.rpartition("sparse runtime: ")[2]
    return found
