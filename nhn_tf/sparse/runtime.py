"""A compiled network as its caller sees it: `runtime(images)`."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse import library
from nhn_tf.sparse.assembly import MachineCode
from nhn_tf.sparse.program import file_format
from nhn_tf.sparse.program.file_format import Source
from nhn_tf.sparse.program.operations import Program


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


def checked_threads(threads: int | None) -> int | None:
    """Threads that a caller asks for.

    Raises:
      ValueError: below 1 or no whole number.
    """
    if threads is not None and (not isinstance(threads, int | np.integer) or threads < 1):
        raise ValueError(f"`threads` must be a positive whole number. Received: {threads!r}.")
    return threads


def checked_images(
    images: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], what: str = "the images"
) -> tuple[np.ndarray, ...]:
    """An array for each input as float32 in C order.

    Args:
      images: that a caller gave.
      shapes: of one image, for each input.
      what: they are called in messages.

    Raises:
      ValueError: an array of another shape or no numbers, or more images for one input than for another.
    """
    given = [np.asarray(image) for image in images]
    if strange := [image.dtype for image in given if image.dtype.kind not in "biuf"]:
        raise ValueError(f"{what} must be real numbers. Received: {strange[0]}.")
    inputs = tuple(np.require(image, np.float32, "C") for image in given)
    received = ", ".join(str(image.shape) for image in given) or "none"
    if [image.shape[1:] for image in inputs] != list(shapes) or any(not image.ndim for image in given):
        raise ValueError(f"{what} must have the shape {batches_of(shapes)}. Received: {received}.")
    if len({len(image) for image in inputs}) != 1:
        raise ValueError(f"all inputs must have as many images. Received: {received}.")
    return inputs


def batches_of(shapes: Sequence[tuple[int | None, ...]]) -> str:
    """Shapes with the axis of images, as text."""
    return ", ".join(f"[B, {', '.join(map(str, shape))}]" for shape in shapes)


class SparseRuntime:
    """A network as native code.

    Made by `nhn_tf.sparse.compile` or `nhn_tf.sparse.load`. Objects may be called from several threads at once. The
    result for an image depends neither on its batch nor on the number of threads, to the bit. One image is computed by
    one thread. Each thread that computes at the same time has an arena of its own (`summary` says how large), kept for
    the next call. Pickled, the network is compiled again where it is loaded.

    Args:
      source: what is computed, as a file keeps it.
      code: that computes it.
      threads: that share a batch; by default one for each core that this process may use.
      again: makes an equal runtime where this one is unpickled.
    """

    def __init__(self, source: Source, code: MachineCode, *, threads: int | None, again: Callable[[], SparseRuntime]):
        self._source = source
        self.plan = code.plan
        self.threads = checked_threads(threads) or _cores()
        self.code = code
        self._again = again

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, ()

    def __repr__(self) -> str:
        maps = f"{batches_of(self.input_shapes)} -> {batches_of(self.output_shapes)}"
        dtype = self.plan.host.narrow or "float32"
        if self.plan.host.narrow and not any(decision.narrow for decision in self.plan.decisions):
            dtype += " in no convolution"  # it would save nothing
        return f"SparseRuntime({maps}, {dtype}, threads={self.threads})"

    @property
    def program(self) -> Program:
        """What is computed. Of a file whose machine code was found in the cache it is read when it is first needed."""
        return self._source.program

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
        most = checked_threads(threads) or self.threads
        inputs = checked_images(images, self.input_shapes)
        count = len(inputs[0])
        outputs = tuple(np.empty((count, *shape), np.float32) for shape in self.output_shapes)
        self._share(inputs, outputs, count, most)
        return outputs if len(outputs) > 1 else outputs[0]

    def _share(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], count: int, most: int) -> None:
        """Has up to `most` threads, this one among them, take image after image."""
        counter = ctypes.c_int64(0)
        share = max(min(self.plan.group, -(-count // most)), 1)
        work = functools.partial(self.code.run, inputs, outputs, counter, count, share)
        others = [_pool(most).submit(work) for _ in range(min(most, -(-count // share)) - 1)]
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

    def export_library(
        self, path: str | os.PathLike[str], *, processor: str | None = None, prefix: str = "nhn"
    ) -> None:
        """Writes the network as a library for C programs on Linux, and what they include beside it, `network.h`.

        Three functions, `nhn_load`, `nhn_run` and `nhn_free`, which threads may share, compute what this runtime does,
        on one thread a call. The library needs neither Python nor llvmlite, but a processor that can do as much as the
        one that it is made for.

        Args:
          path: ends in .so for a shared library, which a linker must be found for (cc, gcc, clang or ld), or in .o for
            an object file to link with a program, made for any processor.
          processor: None for this machine's, or "x86-64-v2", "x86-64-v3" (AVX2), "x86-64-v4" (AVX-512) or "aarch64".
            Networks that compute in bfloat16 or int8 are for this machine's alone.
          prefix: what the functions' names begin with in place of "nhn"; networks in one program need different ones.

        Raises:
          ValueError: another end of `path`, or a processor that is not known or that this network is not for, or a
            prefix that cannot be in C.
          nhn_tf.errors.UserError: there is no linker, or it does not link such code.
          nhn_tf.storage.files.WriteError: the file cannot be written.
        """
        plan = self.plan
        library.write(self.program, path, host=plan.host, ranges=plan.given_ranges, processor=processor, prefix=prefix)

    def summary(self) -> str:
        """What was decided for each convolution, as text."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        lines = [f"{len(self.program.ops)} operations, {self.program.parameters:,} live parameters, arena "
                 f"{4 * self.plan.arena / 2**20:.1f} MiB per thread, {threads}"]  # fmt: skip
        for decision in self.plan.decisions:
            lines.append(f"{decision.op:4d} {decision.reads} -> {decision.makes} {decision}")
        return "\n".join(lines)
