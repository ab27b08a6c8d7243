"""Runs a plan: `runtime(images)`. Needs NumPy and llvmlite only."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan.lowering import Plan, make_plan
from nhn_tf.sparse.plan.tables import ENTRY
from nhn_tf.sparse.program import file_format
from nhn_tf.sparse.program.operations import Program

CACHE_LINE = 64
HUGE_PAGE = 1 << 21
"""Bytes."""


class _Native:
    """A plan's machine code, its tables, and arenas for those who run it."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.code = machine.NativeCode(plan.ir, ENTRY, [ctypes.c_void_p] * 6 + [ctypes.c_int64])
        self.constants = _aligned(plan.constants.size)
        self.constants[:] = plan.constants
        self.indices = plan.indices
        self._free: collections.deque[np.ndarray] = collections.deque()  # its methods are atomic

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], counter: ctypes.c_int64, end: int
    ) -> None:
        """Computes images from `counter` on, counting it up, until it is at `end`. Threads that share it share them."""
        if counter.value >= end:
            return
        arena = self._take()
        tables = [(ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)) for arrays in (inputs, outputs)]
        constants, indices = self.constants.ctypes.data, self.indices.ctypes.data
        try:
            self.code.call(arena.ctypes.data, constants, indices, *tables, ctypes.addressof(counter), end)
        finally:
            self._free.append(arena)

    def _take(self) -> np.ndarray:
        try:
            return self._free.pop()
        except IndexError:
            return new_arena(self.plan)


def new_arena(plan: Plan) -> np.ndarray:
    """Memory for one thread, with everything that is never written filled in."""
    arena = _aligned(plan.arena)
    for region in plan.regions:
        arena[region.start : region.stop] = region.kind.fill
    return arena


def _aligned(size: int) -> np.ndarray:
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


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="nhn-sparse")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # A forked process has none of its parent's threads.


def _checked_threads(threads: int | None) -> int | None:
    if threads is not None and (not isinstance(threads, int | np.integer) or threads < 1):
        raise ValueError(f"`threads` must be a positive whole number. Received: {threads!r}.")
    return threads


class SparseRuntime:
    """A network as native code.

    Made by `nhn_tf.sparse.compile` or `nhn_tf.sparse.load`. Objects may be called from several threads at once. The
    result for an image depends neither on its batch nor on the number of threads, to the bit. One image is computed by
    one thread. Each thread that computes at the same time has an arena of its own (`summary` says how large), kept for
    the next call. Pickled, the network is compiled again where it is loaded.

    Args:
      program: what to compute.
      threads: that share a batch; by default one for each core that this process may use.
      lanes: vector width in float32 values; by default the machine's.
    """

    def __init__(self, program: Program, *, threads: int | None = None, lanes: int | None = None):
        if lanes is not None and lanes not in machine.HOSTS:
            raise ValueError(f"`lanes` must be one of {', '.join(map(str, machine.HOSTS))}. Received: {lanes}.")
        self.program = program
        self.threads = _checked_threads(threads) or _cores()
        self._arguments = (program, threads, lanes)
        host = machine.host() if lanes is None else machine.HOSTS[lanes]
        self.plan = make_plan(program, host)
        self._native = _Native(self.plan)

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled, self._arguments

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one image, (H, W, C), or of a vector, (C,); one for each input."""
        return self.plan.inputs

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.plan.outputs

    def __call__(self, *images: np.ndarray, threads: int | None = None) -> np.ndarray | tuple[np.ndarray, ...]:
        """Computes a batch.

        Args:
          *images: one array for each input, real numbers [B, H, W, C] or [B, C], B being the same for all, 0 or more.
            float32 in C order is read in place, other types and orders are copied.
          threads: instead of the runtime's own.

        Returns:
          float32 [B, classes] or [B, H, W, C], or a tuple if the network has several outputs.

        Raises:
          ValueError: an array of another shape or no numbers, or `threads` below 1.
        """
        most = _checked_threads(threads) or self.threads
        inputs = self._check(images)
        count = len(inputs[0])
        outputs = tuple(np.empty((count, *shape), np.float32) for shape in self.output_shapes)
        self._share(inputs, outputs, count, most)
        return outputs if len(outputs) > 1 else outputs[0]

    def _check(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        given = [np.asarray(image) for image in images]
        if strange := [image.dtype for image in given if image.dtype.kind not in "biuf"]:
            raise ValueError(f"the images must be real numbers. Received: {strange[0]}.")
        inputs = tuple(np.require(image, np.float32, "C") for image in given)
        shapes = [image.shape[1:] for image in inputs]
        expected = ", ".join(f"[B, {', '.join(map(str, shape))}]" for shape in self.input_shapes)
        received = ", ".join(str(image.shape) for image in given) or "none"
        if shapes != list(self.input_shapes) or any(not image.ndim for image in given):
            raise ValueError(f"the images must have the shape {expected}. Received: {received}.")
        if len({len(image) for image in inputs}) != 1:
            raise ValueError(f"all inputs must have as many images. Received: {received}.")
        return inputs

    def _share(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], count: int, most: int) -> None:
        """Has up to `most` threads, this one among them, take image after image."""
        counter = ctypes.c_int64(0)
        work = functools.partial(self._native.run, inputs, outputs, counter, count)
        others = [_pool(most).submit(work) for _ in range(min(most, count) - 1)]
        work()
        for other in others:
            if not other.cancel():  # One that has not begun would find nothing left to do.
                other.result()

    def save(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Writes the network as one portable file for `nhn_tf.sparse.load`.

        Args:
          path: by custom, ending in .nhn.
          dtype: of the stored weights, "float32" or "float16" (half the size, rounded).

        Raises:
          ValueError: another `dtype`.
          nhn_tf.storage.files.WriteError: the file cannot be written.
        """
        file_format.save(path, self.program, dtype=dtype)

    def summary(self) -> str:
        """What was decided for each convolution, as text."""
        lines = [f"{len(self.program.ops)} operations, {self.program.parameters} live parameters, arena "
                 f"{4 * self.plan.arena / 2**20:.1f} MiB per thread, {self.threads} threads"]  # fmt: skip
        program = self.plan.program
        for decision in self.plan.decisions:
            op, block = program.ops[decision.op], decision.block
            lines.append(
                f"{decision.op:4d} {program.shapes[op.inputs[0]]} -> {program.shapes[decision.op]} "
                f"density {decision.density:.3f} {'sparse' if decision.sparse else 'dense'} "
                f"{block.filters} filters x {block.rows} rows x {block.vectors} vectors"
            )
        return "\n".join(lines)


def _compiled(program: Program, threads: int | None, lanes: int | None) -> SparseRuntime:
    return SparseRuntime(program, threads=threads, lanes=lanes)


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> SparseRuntime:
    """Reads what `SparseRuntime.save` wrote. Needs neither Keras nor a backend.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is not such a file, or it was altered.
      CapacityError: it asks for more than any network that the runtime is made for.
      MissingLLVMError: llvmlite is not installed.
    """
    return SparseRuntime(file_format.load(path), threads=threads)
