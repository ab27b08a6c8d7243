"""Masks in blocks: neighbouring output channels keep and lose the same inputs.

An engine that runs over lists of live weights then reads an input once for all channels of a block; the sparse runtime
does. Blocks are of the connections of one weight, those of 1x1 convolutions and dense layers: a k x k kernel is a block
already.

Shapes: Cin Cout input and output channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from nhn_tf.pruning import criteria
from nhn_tf.values.masks import Masks

SIZES: Final = (1, 2, 4)
"""Output channels of a block."""
KINDS: Final = ("1x1", "dense")
"""Of connections that go in blocks; see `masked.kinds_of`."""


def check_size(block: int) -> None:
    """Raises a ValueError unless `block` is in `SIZES`."""
    if type(block) is not int or block not in SIZES:
        raise ValueError(f"`block` must be {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}. Received: {block!r}.")


def select(
    scores: Mapping[str, np.ndarray],
    *,
    block: int,
    kinds: Mapping[str, str],
    current: Mapping[str, np.ndarray] | None = None,
    may_return: bool = False,
    **target: Any,
) -> criteria.Selection:
    """As `criteria.select`, but connections of `KINDS` go by blocks, whose score is the mean of theirs.

    Targets count blocks: where `block` does not divide a layer's channels, the last of them is narrower. A block of
    which a connection is alive is alive.
    """
    wide = {name for name in scores if kinds[name] in KINDS and block > 1}
    current = current or {}
    starts = {name: np.arange(0, scores[name].shape[1], block) for name in wide}
    joined = {
        name: np.add.reduceat(values, starts[name], axis=1) / _widths(starts[name], values) if name in wide else values
        for name, values in scores.items()
    }
    alive = {
        name: np.logical_or.reduceat(mask, starts[name], axis=1) if name in wide else mask
        for name, mask in current.items()
    }
    found = criteria.select(joined, kinds=kinds, current=alive, may_return=may_return, **target)
    masks = dict(found.masks)
    for name in wide:
        masks[name] = np.repeat(masks[name], _widths(starts[name], scores[name]), axis=1)
        if name in current and not may_return:
            masks[name] = masks[name] & current[name]
    return dataclasses.replace(found, masks=Masks(masks))


def _widths(starts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int [blocks], the channels of each."""
    return np.diff(starts, append=values.shape[1])


def size_of(mask: np.ndarray) -> int:
    """The widest blocks that a mask, bool [Cin, Cout], consists of; 1 where nothing is masked."""
    if mask.all():
        return 1
    return max(size for size in SIZES if size <= mask.shape[1] and _is_in_blocks(mask, size))


def _is_in_blocks(mask: np.ndarray, size: int) -> bool:
    first = np.arange(mask.shape[1]) // size * size
    return np.array_equal(mask, mask[:, first])
