"""What pruning saves, layer by layer, as text."""

from __future__ import annotations

import keras

from nhn_tf.models import complexity
from nhn_tf.pruning import blocks
from nhn_tf.pruning.compact import live_costs
from nhn_tf.pruning.liveness import liveness
from nhn_tf.pruning.masked import kinds_of, masked_layers, masks_of

_HEADER = ("layer", "kernels kept", "dead neurons", "params", "live", "MFLOPs", "live")


def summary(model: keras.Model) -> str:
    """A table of a pruned model: per layer with weights, what it has and what is alive.

    "Live" is what the compacted model has outside masked kernels; FLOPs are multiply-adds for one image (see
    `complexity`).

    Args:
      model: functional or Sequential, with an input of known height and width.

    Returns:
      Lines of text, the totals last, and a line on layers whose multiply-adds are not known, if there are any.

    Raises:
      ValueError: as in `compact` and `complexity.layer_cost`.
    """
    counts, before, after = liveness(model), complexity.layer_costs(model), live_costs(model)
    rows: list[tuple[str, ...]] = [_HEADER]
    for name, count in counts.items():
        if before[name].params:
            kernels = (count.live_kernels, count.kernels)
            rows.append(_row(name, kernels, count.dead_neurons, before[name], after[name]))
    weighted = [count for name, count in counts.items() if count.kernels]
    kernels = (sum(c.live_kernels for c in weighted), sum(c.kernels for c in weighted))
    dead = sum(count.dead_neurons for count in weighted)
    zero = complexity.Cost()
    rows.append(_row("total", kernels, dead, sum(before.values(), zero), sum(after.values(), zero)))
    notes = [f"multiply-adds of {name} ({kind}) are not known" for name, kind in complexity.uncounted(model).items()]
    if 0 < kernels[0] < kernels[1] and not dead:
        notes.append(
            "no channel is dead: the compacted model has the same layers, and only engines that skip masked kernels "
            "(nhn_tf.sparse) gain"
        )
    notes += _blocks(model)
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    return "\n".join([*(_line(row, widths) for row in rows), *notes])


def _blocks(model: keras.Model) -> list[str]:
    """A line for each size of blocks that masks of single weights consist of."""
    layers = masked_layers(model)
    kinds, masks = kinds_of(layers), masks_of(model)
    found: dict[int, list[str]] = {}
    for name, mask in masks.items():
        if kinds[name] in blocks.KINDS and (size := blocks.size_of(mask)) > 1:
            found.setdefault(size, []).append(name)
    return [
        f"in blocks of {size} output channels, which the sparse runtime computes together: {', '.join(names)}"
        for size, names in sorted(found.items())
    ]


def _row(
    name: str,
    kernels: tuple[int, int],
    dead: int,
    before: complexity.Cost,
    after: complexity.Cost,
) -> tuple[str, ...]:
    return (
        name,
        f"{kernels[0]:,} / {kernels[1]:,}" if kernels[1] else "",
        f"{dead:,}",
        f"{before.params:,}",
        f"{after.live_params:,}",
        f"{before.flops / 1e6:,.3f}",
        f"{after.live_flops / 1e6:,.3f}",
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()
