"""Pruned 1x1 convolutions: what it brings to prune filters in blocks that share their inputs.

    python benchmarks/pointwise_blocks.py            # about half a minute

90% of the kernels are pruned at random, one by one, or for 2 or 4 neighbouring filters together. For each layer, the
rate on live weights of the runtime's own choice, by `nhn_tf.sparse.profile`, batch 1, one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import nhn_tf.sparse
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.program import operations as ops

LAYERS = ((56, 24, 144), (14, 96, 576), (14, 576, 96), (7, 160, 960), (16, 192, 192), (8, 768, 384), (3, 160, 960))
"""Side of the map, channels read, channels made."""


def row(side: int, inputs: int, filters: int, block: int) -> nhn_tf.sparse.profiling.Row:
    """The profile's row of a layer pruned by blocks of so many filters."""
    rng = np.random.default_rng(0)
    mask = np.repeat(rng.random((inputs, filters // block)) < 0.1, block, axis=1)
    slide = {"window": (1, 1), "strides": (1, 1), "pads": (0, 0), "size": (side, side), "activation": "relu"}
    conv = ops.Conv(
        inputs=(1,), mask=mask, kernels=rng.standard_normal((int(mask.sum()), 1, 1)).astype(np.float32),
        bias=np.zeros(filters, np.float32), **slide,
    )  # fmt: skip
    before = ops.Elementwise(inputs=(0,), activation="relu6")  # So that the map lies as in a network.
    pool = ops.GlobalPool(inputs=(2,), kind="average")
    program = ops.Program((ops.Input(inputs=(), size=(side, side, inputs)), before, conv, pool), (3,))
    images = rng.standard_normal((1, side, side, inputs)).astype(np.float32)
    profile = nhn_tf.sparse.profile(compile_program(program, threads=1), images, seconds=0.5)
    return next(row for row in profile.rows if row.op == 2)


if __name__ == "__main__":
    for side, inputs, filters in LAYERS:
        rows = {block: row(side, inputs, filters, block) for block in (1, 2, 4)}
        rates = "  ".join(
            f"{block}: {r.flops / r.seconds / 2e9:4.0f} GMAC/s ({r.form.split(maxsplit=2)[2]})"
            for block, r in rows.items()
        )
        print(f"{side}x{side} {inputs:4d} -> {filters:4d}   {rates}")
