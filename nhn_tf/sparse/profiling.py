"""Where the time of a compiled network goes: a table of its operations, as text and as a picture.

print(nhn_tf.sparse.profile(runtime, images))
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from pathlib import Path

import numpy as np

from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native.peaks import multiply_adds
from nhn_tf.sparse.plan.lower import Plan
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Op, Program
from nhn_tf.sparse.program.optimize import merge
from nhn_tf.sparse.runtime import SparseRuntime
from nhn_tf.storage import files

CLOCKED = ("x86_64", "amd64")
"""Others do not let every program read the counter of turns."""

COPIES = ("copy_", "pack_", "unpack_")
"""How the names of kernels begin that only move values, or bring them from one type to another."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What one operation takes.

    Attributes:
      op: its place in the plan's program.
      name: its type, and its window if it has one.
      shapes: of what it reads first and of what it makes.
      form: of a convolution, what was decided for it.
      seconds: for one image.
      copy_seconds: of these, spent on copies for strides, between parts and from one type to another.
      flops: of live kernels and weights, two for each multiply-add, also at the border; 0 of operations without.
    """

    op: int
    name: str
    shapes: str
    form: str
    seconds: float
    copy_seconds: float
    flops: int


@dataclasses.dataclass(frozen=True)
class Profile:
    """What each operation of a network takes, on one thread.

    Attributes:
      rows: in the order in which they run; without operations that take no step.
      peak: floating-point operations a second of this core, measured, in the type that convolutions compute in.
    """

    rows: tuple[Row, ...]
    peak: float

    @property
    def seconds(self) -> float:
        """For one image."""
        return sum(row.seconds for row in self.rows)

    def __str__(self) -> str:
        """The table. "share" is of the image's time, "peak" the fraction of what this core could do at most."""
        flops = sum(row.flops for row in self.rows)
        lines = [
            f"{1e3 * self.seconds:.3f} ms an image, {flops / self.seconds / 1e9:.1f} GFLOP/s of live work; "
            f"this core's peak is {self.peak / 1e9:.1f}",
            f"{'op':>4} {'what':16} {'reads -> makes':34} {'how':28} {'us':>8} {'share':>6} {'copies':>6} "
            f"{'GFLOP/s':>7} {'peak':>5}",
        ]
        for row in self.rows:
            share, copies = row.seconds / self.seconds, row.copy_seconds / row.seconds if row.seconds else 0.0
            rate = row.flops / row.seconds if row.seconds else 0.0
            work = f"{rate / 1e9:7.1f} {rate / self.peak:5.0%}" if row.flops else f"{'-':>7} {'-':>5}"
            lines.append(
                f"{row.op:4d} {row.name:16} {row.shapes:34} {row.form:28} {1e6 * row.seconds:8.1f} {share:6.1%} "
                f"{copies:6.0%} {work}"
            )
        return "\n".join(lines)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of the table: a bar for each operation, its copies dark. Needs matplotlib."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 1.2 + 0.22 * len(self.rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        places = range(len(self.rows))
        axes.barh(places, [1e6 * row.seconds for row in self.rows], color="#7aa6d8", label="computing")
        axes.barh(places, [1e6 * row.copy_seconds for row in self.rows], color="#1f3b63", label="copying")
        for place, row in zip(places, self.rows, strict=True):
            if row.flops and row.seconds:
                axes.text(1e6 * row.seconds, place, f" {row.flops / row.seconds / self.peak:.0%}", va="center", size=7)
        axes.set_yticks(places, [f"{row.op} {row.name} {row.shapes} {row.form}" for row in self.rows], size=7)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel(
            f"µs of {1e3 * self.seconds:.3f} ms an image; %: of this core's peak of {self.peak / 1e9:.0f} GFLOP/s"
        )
        axes.legend(loc="lower right")
        with files.atomic_write(path) as file:
            figure.savefig(file, format=Path(path).suffix.removeprefix(".") or "png")


def profile(runtime: SparseRuntime, *images: np.ndarray, seconds: float = 1.0) -> Profile:
    """Times each operation of a network.

    The network is compiled again, with the processor's clock read before and after each step. Times are the least
    of some rounds; one round computes all images on one thread.

    Args:
      runtime: what `nhn_tf.sparse.compile` or `load` gave.
      *images: a batch, one array for each input; see `SparseRuntime`. One or more images.
      seconds: how long to measure, at least.

    Raises:
      ValueError: no images, not a `SparseRuntime`, or no processor whose clock programs can read.
    """
    if not isinstance(runtime, SparseRuntime):
        raise ValueError(f"`runtime` must be a SparseRuntime, without layers of Keras's. Received: {runtime!r}.")
    if platform.machine().lower() not in CLOCKED:
        raise ValueError(f"the processor must be one of {', '.join(CLOCKED)}. Received: {platform.machine()}.")
    host = runtime.plan.host
    timed = compile_program(runtime.program, threads=1, host=host, ranges=runtime.plan.given_ranges, timed=True)
    timed(*images)  # Checks them, too.
    count = len(images[0])
    if not count:
        raise ValueError("the batch must hold an image or more. Received: none.")
    rounds: list[tuple[float, np.ndarray]] = []
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds or len(rounds) < 3:
        timed.code.ticks[:] = 0
        start = time.perf_counter()
        timed(*images)
        wall = time.perf_counter() - start
        rounds.append((wall, timed.code.ticks.copy()))
    walls, ticks = np.array([wall for wall, _ in rounds]), np.stack([row for _, row in rounds])
    each = ticks.min(0) * np.median(walls / ticks.sum(1)) / count
    return Profile(_rows(merge(runtime.program), timed.plan, each), 2 * multiply_adds(host))


def _rows(program: Program, plan: Plan, seconds: np.ndarray) -> tuple[Row, ...]:
    decisions = {decision.op: decision for decision in plan.decisions}
    rows = []
    for number, op in enumerate(program.ops):
        calls = [place for place, (owner, _) in enumerate(plan.calls) if owner == number]
        if not calls:
            continue
        copies = [place for place in calls if plan.calls[place][1].startswith(COPIES)]
        decision, reads = decisions.get(number), f"{program.shapes[op.inputs[0]]} -> " if op.inputs else ""
        window = f" {op.window[0]}x{op.window[1]}/{op.strides[0]}" if isinstance(op, ops.Windowed) else ""
        rows.append(
            Row(
                op=number,
                name=type(op).__name__ + window,
                shapes=f"{reads}{program.shapes[number]}",
                form=str(decision or ""),
                seconds=float(seconds[calls].sum()),
                copy_seconds=float(seconds[copies].sum()),
                flops=2 * _multiply_adds(op),
            )
        )
    return tuple(rows)


def _multiply_adds(op: Op) -> int:
    """Of live weights, at every output."""
    if isinstance(op, (ops.Conv, ops.Depthwise)):
        return op.kernels.size * op.size[0] * op.size[1]
    return op.kernel.size if isinstance(op, ops.Dense) else 0
