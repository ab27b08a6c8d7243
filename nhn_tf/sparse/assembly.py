"""The pass from a plan to machine code that runs: LLVM's compiler, tables and arenas in memory."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import mmap
from collections.abc import Sequence

import numpy as np

from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan.lower import Plan
from nhn_tf.sparse.plan.tables import ENTRY

CACHE_LINE = 64
HUGE_PAGE = 1 << 21
"""Bytes."""


def assemble(plan: Plan) -> MachineCode:
    """The last pass: a plan as code that runs here."""
    object_code = machine.object_code(plan.ir)
    constants = aligned(plan.constants.size)
    constants[:] = plan.constants
    return MachineCode(dataclasses.replace(plan, ir="", constants=constants), object_code)


class MachineCode:
    """A plan's machine code, its tables, and arenas for those who run it.

    Attributes:
      plan: that it runs; its constants are `aligned`.
      object_code: an object file for this machine.
      ticks: int64, what each call of a timed plan has taken so far, by the processor's clock.
    """

    def __init__(self, plan: Plan, object_code: bytes):
        self.plan = plan
        self.object_code = object_code
        arguments = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 2 + [ctypes.c_void_p]
        self.code = machine.NativeCode(object_code, ENTRY, arguments)
        self.ticks = np.zeros(len(plan.calls), np.int64)
        self._free: collections.deque[np.ndarray] = collections.deque()  # its methods are atomic

    def run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        counter: ctypes.c_int64,
        end: int,
        share: int = 1,
    ) -> None:
        """Computes images from `counter` on, counting it up by `share`, until it is at `end`.

        Threads that share the counter share the images. `share` is up to the plan's `group`.
        """
        if counter.value >= end:
            return
        arena = self._take()
        tables = [(ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)) for arrays in (inputs, outputs)]
        memory = [array.ctypes.data for array in (arena, self.plan.constants, self.plan.indices)]
        try:
            self.code.call(*memory, *tables, ctypes.addressof(counter), end, share, self.ticks.ctypes.data)
        finally:
            self._free.append(arena)

    def _take(self) -> np.ndarray:
        try:
            return self._free.pop()
        except IndexError:
            return new_arena(self.plan)


def new_arena(plan: Plan) -> np.ndarray:
    """Memory for one thread, with everything that is never written filled in."""
    arena = aligned(plan.arena)
    for start, stop, fill in plan.fills:
        arena[start:stop] = fill
    return arena


def aligned(size: int) -> np.ndarray:
    """float32 zeros that start at a cache line, or, where it is worth it, at a huge page.

    Neighbouring channels lie on different small pages, more than some cores remember the addresses of: what huge pages
    save was a fifth of the 1x1 convolutions of large maps on one machine, nothing on another.
    """
    if 4 * size < HUGE_PAGE // 4:
        raw = np.zeros(4 * size + CACHE_LINE, np.uint8)
        page = CACHE_LINE
    else:
        # Private, or a forked process would write into this one's.
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        memory = mmap.mmap(-1, -(-4 * size // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE, **private)
        with contextlib.suppress(OSError, AttributeError):  # Systems without huge pages.
            memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(memory, np.uint8)
        page = HUGE_PAGE
    start = -raw.ctypes.data % page
    return raw[start : start + 4 * size].view(np.float32)
