"""What this core does at most, measured by loops of one instruction: float32 multiply-adds, or products of bfloat16."""

from __future__ import annotations

import ctypes
import functools
import time

import numpy as np

from nhn_tf.sparse.native import machine, numbers
from nhn_tf.sparse.native.emitter import declarations
from nhn_tf.sparse.native.machine import Host

CHAINS, TURNS = 16, 1 << 14
"""Sums of the loop, and how often it adds to each."""

RUNS = 100
"""Of which the best counts: some milliseconds for all."""

GAIN = 1.25
"""By how much products of bfloat16 must be faster than float32's to be worth their rounding."""


def multiply_adds(host: Host) -> float:
    """Multiply-adds a second, in the type that a machine's convolutions compute in."""
    lanes = host.lanes
    f = numbers.function("peak", ["ptr %numbers"], lanes, narrow=host.narrow or "bfloat16", emulated=host.emulated)
    sums = [f.variable() for _ in range(CHAINS)]
    for place, variable in enumerate(sums):
        f.write(variable, f.load(f.at("%numbers", place * lanes)))
    factor, pair = f.broadcast("%numbers"), f.broadcast_packed("%numbers")
    with f.loop(0, TURNS):
        for variable in sums:
            total = f.read(variable)
            f.write(variable, f.dot(total, pair, pair) if host.narrow else f.multiply_add(total, factor, factor))
    for place, variable in enumerate(sums):
        f.store(f.read(variable), f.at("%numbers", place * lanes))
    built = machine.object_code(f"{declarations(lanes)}\n{numbers.declarations(host.narrow)}\n{f}")
    code = machine.NativeCode(built, "peak", [ctypes.c_void_p])
    memory = np.full(CHAINS * lanes, 0.5, np.float32)
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        code.call(memory.ctypes.data)
        best = min(best, time.perf_counter() - start)
    return host.each * lanes * CHAINS * TURNS / best


@functools.cache
def fastest_host() -> Host:
    """This machine, computing in bfloat16 where it has instructions for it that are faster than float32's.

    Raises:
      MissingLLVMError: llvmlite is not installed.
    """
    host = machine.host()
    if not machine.has_pairs():
        return host
    return machine.PAIR_HOST if multiply_adds(machine.PAIR_HOST) > GAIN * multiply_adds(host) else host
