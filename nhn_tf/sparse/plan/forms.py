"""Which form of a convolution costs least: over lists of live kernels, of some filters together, or in lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from nhn_tf.sparse.native.convolution import Block, Tap
from nhn_tf.sparse.native.filter_lanes import Reads
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan import blocks
from nhn_tf.sparse.plan.tables import MAX_TABLE

SHARED = (2, 4, 8)
"""Filters that kernels may have been pruned by, together."""


@dataclasses.dataclass(frozen=True)
class Form:
    """How a convolution is computed.

    Attributes:
      grid: in which the map is computed.
      block: in registers.
      in_lanes: whether vectors hold filters; the block's rows are then pixels.
      sparse: whether dead kernels are skipped, or all are computed.
      cost: of the whole map, in multiply-adds of vectors.
    """

    grid: Grid
    block: Block
    in_lanes: bool
    sparse: bool
    cost: float


def cheapest(mask: np.ndarray, taps: tuple[Tap, ...], grid: Grid, host: Host, reads: Sequence[Reads]) -> Form:
    """The form that costs least for live kernels.

    One filter at a time computes live kernels only. Filters that share a list share what they read, but compute all
    that any of them needs: many where nothing is pruned, few where kernels were pruned by blocks.

    Args:
      mask: of live kernels, bool [Cin, Cout].
      taps: of the window.
      grid: of the map.
      host: the machine.
      reads: of each pixel, for filters in lanes; empty of maps of many pixels.
    """
    filters, pixels = mask.shape[1], grid.height * grid.width

    def form(choice: blocks.Choice, *, in_lanes: bool = False) -> Form:
        width = choice.block.filters
        entries = int(read_by(mask, width).sum())
        cost = entries * (choice.cost + blocks.WEIGHT_COST * width * len(taps))
        cost += blocks.RESULT_COST * filters * pixels * in_lanes
        return Form(grid, choice.block, in_lanes, entries < len(mask) * -(-filters // width), cost)

    alone = form(blocks.sparse_block(taps, grid, host))
    if mask.size * len(taps) > MAX_TABLE:
        return alone
    together = [blocks.dense_block(taps, grid, host, filters)]
    together += [blocks.dense_block(taps, grid, host, count, least=count) for count in SHARED if count < filters]
    forms = [alone, *map(form, together)]
    if (lanes := blocks.filter_block(reads, host, filters)) is not None:
        forms.append(form(lanes, in_lanes=True))
    return min(forms, key=lambda form: form.cost)


def read_by(mask: np.ndarray, filters: int) -> np.ndarray:
    """Of a mask, bool [Cin, Cout], which inputs groups of so many filters need: bool [Cin, groups]."""
    padded = np.pad(mask, ((0, 0), (0, -mask.shape[1] % filters)))
    return np.any(padded.reshape(len(mask), -1, filters), axis=2)
