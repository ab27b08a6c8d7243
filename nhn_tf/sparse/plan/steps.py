"""The steps that a plan is made of: memory for maps and vectors, copies, halos, what windows slide over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.native import copies
from nhn_tf.sparse.native.convolution import Block, Tap
from nhn_tf.sparse.native.layout import Layout, PackedLayout, grid_for, packed_layout
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.native.quads import MOST
from nhn_tf.sparse.plan.dtypes import packed
from nhn_tf.sparse.plan.memory import MAX_ARENA, Buffer, CapacityError, Kind, Planes, Region, Vector, allocate
from nhn_tf.sparse.plan.moves import vector_moves
from nhn_tf.sparse.plan.pairs import paired, phased
from nhn_tf.sparse.plan.tables import Each, Tables
from nhn_tf.sparse.plan.tail import MAX_GROUP, tail_start
from nhn_tf.sparse.plan.windows import joined, map_layouts, phase_rows, phases_of, slides_in_place, taps_in_place
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program, Shape

MAX_ENTRIES = 1 << 20
"""Copied rows and buffers in use, over all steps."""

Ranges = Mapping[int, tuple[float, float]]
"""Value to its least and its largest number."""

LEAST_SCALE = 1e-30
"""What 1 of an int8 map stands for at least, so that 1 / that is a number."""

MAX_TAILS = 1 << 21
"""float32 values, 8 MiB, of all images' memory for the tail."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call, or a few, written down when all memory has its place.

    Attributes:
      op: the operation whose value needs it.
      in_tail: whether images go through it side by side.
      emit: writes it down.
      buffers: that it reads or writes.
    """

    op: int
    in_tail: bool
    emit: Callable[[], None]
    buffers: tuple[Buffer, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a window slides over, brought into the grid of the output.

    Attributes:
      planes: one or, for strides, several a channel.
      taps: of the window, in its order (row by row).
      refill: where the planes hold one channel only, writes down, in a loop over channels, the copy of the next one.
    """

    planes: Planes
    taps: tuple[Tap, ...]
    refill: Callable[[], None] | None = None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided for one convolution.

    Attributes:
      op: its place in the plan's program.
      reads, makes: shapes of its maps.
      density: live kernels of all.
      sparse: whether dead kernels are skipped, or all are computed.
      block: in registers.
      filter_lanes: whether vectors hold filters; the block's rows are then pixels.
      narrow: the type that it computes in, where that is not float32; the block's vectors then hold lanes of pixels.
    """

    op: int
    reads: Shape
    makes: Shape
    density: float
    sparse: bool
    block: Block
    filter_lanes: bool = False
    narrow: str = ""

    def __str__(self) -> str:
        block = self.block
        size = f"{block.filters} x {block.rows} x {block.vectors}"
        if self.filter_lanes:
            size = f"{block.filters} in lanes x {block.rows}"
        kind = f"{'sparse' if self.sparse else 'dense'} {self.narrow}".strip()
        return f"{self.density:4.0%} {kind} {size}"


@dataclasses.dataclass(frozen=True)
class Memory:
    """What one thread needs.

    Attributes:
      arena: float32 values.
      regions: of the arena.
      slot: values from one image's part for the tail to the next's.
      group: images that there are such parts for.
    """

    arena: int
    regions: tuple[Region, ...]
    slot: int
    group: int


class Steps:
    """Steps in the order in which they run.

    Attributes:
      program: what they compute.
      host: the machine that they are for.
      lanes: float32 values in one of its vector registers.
      ranges: value to its least and its largest number; of what is kept in int8.
      packed: the operations that are computed in the host's narrow type.
      tail: the operation that the tail begins with.
      phased: convolutions that write phases of their map.
      paired: convolutions that are computed with the depthwise one behind them.
      tables: what they read beside the arena.
      decisions: so far, one for each convolution.
      op: the operation that steps are added for.
      in_tail: whether these steps are in the tail.
      positive: memory of narrow maps that have nothing below 0.
      relus: of other such maps, to that of a copy without what is below 0.
      scales: of int8 maps, what 1 stands for in each channel of their memory.
    """

    def __init__(self, program: Program, host: Host, ranges: Ranges | None = None):
        self.program = program
        self.host = host
        self.lanes = host.lanes
        self.ranges = ranges or {}
        self.packed = packed(program, host)
        self.tail = tail_start(program)
        self.phased = phased(program, self.packed, self.tail, host)
        self.paired = paired(program, self.packed, self.tail, self.phased)
        self.tables = Tables(host)
        self.decisions: list[Decision] = []
        self.op = 0
        self.in_tail = False
        self.positive: set[Buffer] = set()
        self.relus: dict[Buffer, Buffer] = {}
        self.scales: dict[Buffer, np.ndarray] = {}
        self._steps: list[Step] = []
        others = [number for number in range(len(program.ops)) if number not in self.packed]
        self._layouts = map_layouts(program, others, lambda height, width: Layout(grid_for(height, width, host.lanes)))
        self._packed_layouts = self._narrow_layouts()
        self._seamed: set[Buffer] = set()
        self._entries = 0

    def decide(self, op: ops.Conv, block: Block, **decision: Any) -> None:
        """Notes what was decided for a convolution, the operation that steps are added for; see `Decision`."""
        reads, makes = (self.program.shapes[value] for value in (op.inputs[0], self.op))
        density = float(op.mask.mean())
        self.decisions.append(Decision(self.op, reads, makes, density=density, block=block, **decision))

    def place(self) -> Memory:
        """Gives all memory its place, then writes the steps down."""
        buffers: dict[Buffer, None] = {}
        in_tail: set[Buffer] = set()
        for time, step in enumerate(self._steps):
            for buffer in step.buffers:
                if buffer not in buffers:
                    buffer.first = time
                buffer.last = time
                buffers[buffer] = None
                if step.in_tail:
                    in_tail.add(buffer)
        # The last vector of a row narrower than a vector is read whole.
        slack = 2 * self.lanes
        common, regions = allocate([buffer for buffer in buffers if buffer not in in_tail], slack)
        slot, tail_regions = allocate([buffer for buffer in buffers if buffer in in_tail], slack, start=common)
        group = min(max(MAX_TAILS // max(slot, 1), 1), MAX_GROUP) if in_tail else 1
        if common + slot * group > MAX_ARENA:
            raise CapacityError(f"the maps need {4 * (common + slot * group) / 2**30:.1f} GiB; the limit is 2 GiB.")
        for step in self._steps:
            self.tables.in_tail, self.tables.op = step.in_tail, step.op
            step.emit()
        copies = [
            Region(region.kind, region.start + number * slot, region.stop + number * slot)
            for number in range(group)
            for region in tail_regions
        ]
        return Memory(common + slot * group, (*regions, *copies), slot, group)

    def step(self, emit: Callable[[], None], *values: Planes | Vector) -> None:
        """Adds a step that reads or writes these values."""
        buffers = tuple(dict.fromkeys(buffer for value in values for buffer in value.buffers))
        self._spend(len(buffers))
        self._steps.append(Step(self.op, self.in_tail, emit, buffers))

    def _spend(self, entries: int) -> None:
        """Counts what is kept for later.

        Raises:
          CapacityError: it is far more than real networks need.
        """
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise CapacityError("the network needs too many copies of rows, or joins too many maps.")

    def _narrow_layouts(self) -> list[PackedLayout | None]:
        """Layouts of maps in the narrow type; those that share one have numbers below 0 if any of them has."""
        layouts = map_layouts(
            self.program, self.packed, lambda h, w: packed_layout(h, w, self.host.lanes, self.host.each)
        )
        groups = joined(self.program)
        signed = {groups[value] for value, ends in self.ranges.items() if ends[0] < 0}
        return [
            layout and dataclasses.replace(layout, signed=group in signed)
            for layout, group in zip(layouts, groups, strict=True)
        ]

    @property
    def narrow(self) -> dict[str, Any]:
        """What kernels are told of the narrow type."""
        return {"narrow": self.host.narrow, "emulated": self.host.emulated}

    def layout_of(self, number: int, *, packed: bool = False) -> Layout:
        """The layout of the map that operation `number` makes, in float32 or in the narrow type."""
        layout = self._packed_layouts[number] if packed else self._layouts[number]
        if layout is None:
            raise TypeError(f"operation {number} must make a map. Received: {self.program.shapes[number]}.")
        return layout

    def new_planes(self, number: int) -> Planes:
        """Memory for the map that operation `number` makes."""
        return self.planes_of(self.layout_of(number), self.program.shapes[number][2])

    def new_packed(self, number: int) -> Planes:
        """The same in the narrow type. In int8 the largest number that it is expected to have is the largest."""
        layout = self.layout_of(number, packed=True)
        planes = self.planes_of(layout, self.program.shapes[number][2])
        (buffer,) = planes.buffers
        if self.host.narrow == "int8":
            signed = isinstance(layout, PackedLayout) and layout.signed
            self.scales[buffer] = np.full(buffer.units, step_of(self.ranges[number], signed=signed), np.float32)
            if not signed:
                self.positive.add(buffer)
        return planes

    def scales_of(self, planes: Planes) -> np.ndarray:
        """float32 [C, 2]: what 1 stands for in each channel, and 1 / that; ones of bfloat16."""
        if self.host.narrow != "int8":
            return np.ones((planes.channels, 2), np.float32)
        scales = [self.scales[buffer][first : first + count] for buffer, first, count in planes.spans]
        return np.stack([np.concatenate(scales), 1 / np.concatenate(scales)], axis=1).astype(np.float32)

    @staticmethod
    def planes_of(layout: Layout, channels: int) -> Planes:
        """Memory for so many planes."""
        kind = Kind(layout.plane, 0.0, ("map", layout))
        return Planes(layout, ((Buffer(kind, channels), 0, channels),))

    def new_vector(self, size: int) -> Vector:
        kind = Kind(self.lanes, 0.0, "vector")
        return Vector(Buffer(kind, -(-size // self.lanes)), size)

    def new_value(self, number: int) -> Planes | Vector:
        """Memory for what operation `number` makes."""
        shape = self.program.shapes[number]
        return self.new_planes(number) if len(shape) == 3 else self.new_vector(shape[0])

    def from_pixels(self, number: int, source: Callable[[], tuple[Any, int]], *values: Planes | Vector) -> Planes:
        """Copies pixels [H, W, C], one behind another, to the map of operation `number`.

        `source` gives, later, the base argument and the place of the first of them; `values` are what it reads.
        """
        height, width, channels = self.program.shapes[number]
        planes = self.new_planes(number)
        rows = [(planes.layout.row(y), y * width * channels, width) for y in range(height)]

        def pixels() -> tuple[Any, Any]:
            base, first = source()
            return base, first + np.arange(channels)

        self.copy(rows, (channels, planes.layout.grid.parts), pixels, in_arena(planes), *values, planes)
        return planes

    def new_filled(self, layout: Layout, channels: int, planes: int, fill: float, copies: Hashable) -> Buffer:
        """Memory whose positions that `copies` does not write hold `fill`."""
        return Buffer(Kind(layout.plane * planes, fill, ("copies", layout, copies)), channels)

    def copy(
        self,
        rows: Sequence[tuple[int, int, int]],
        steps: tuple[int, int],
        source: Callable[[], tuple[Any, Any]],
        target: Callable[[], tuple[Any, Any]],
        *values: Planes | Vector,
        each: int = 1,
    ) -> None:
        """A step that copies rows (target offset, source offset, count) of every channel.

        `source` and `target` give, later, the base argument and the table of the channels' first values. Values
        and places count 32 bits divided by `each`.
        """
        if not rows:
            return
        call = self.copy_call(rows, steps, each=each)

        def emit() -> None:
            (base, starts), (target_base, target_starts) = source(), target()
            places = (self.tables.indices(starts), self.tables.indices(target_starts))
            call(base, target_base, *places, len(starts))

        self.step(emit, *values)

    def copy_call(
        self, rows: Sequence[tuple[int, int, int]], steps: tuple[int, int], *, each: int = 1
    ) -> Callable[..., None]:
        """What writes down the call that copies rows, given its bases, tables of first values, and channels."""
        self._spend(len(rows))
        lanes, element = each * self.lanes, {1: "float", 2: "i16", 4: "i8"}[each]
        moves = vector_moves(tuple(rows), steps, lanes)

        def call(*places: Any) -> None:
            put = self.tables
            if moves:
                arguments = [*places, put.indices(moves.vectors)]
                put.call(copies.copy_vectors, moves.patterns, lanes=lanes, element=element, arguments=arguments)
            else:
                arguments = [*places, put.indices(rows), len(rows)]
                put.call(copies.copy_values, *steps, lanes=lanes, element=element, arguments=arguments)

        return call

    def hand_over(self, number: int, value: Planes | Vector) -> Planes | Vector:
        """Copies the value of operation `number` to its image's memory for the tail."""
        if isinstance(value, Vector):
            vector = self.new_vector(value.size)
            to = vector_in_arena(vector, "slot")
            self.copy([(0, 0, value.size)], (1, 1), vector_in_arena(value), to, value, vector)
            return vector
        planes, grid = self.planes_of(value.layout, value.channels), value.layout.grid
        if self.positive.issuperset(value.buffers):
            self.positive.update(planes.buffers)
        if isinstance(value.layout, PackedLayout) and self.host.narrow == "int8":
            self.scales[planes.buffers[0]] = self.scales_of(value)[:, 0]
        rows = [(row * planes.layout.stride, row * value.layout.stride, grid.columns) for row in range(grid.rows)]
        self.copy(rows, (1, 1), in_arena(value), in_arena(planes, "slot"), value, planes)
        return planes

    def seam(self, planes: Planes) -> None:
        """Makes the halo between the parts of a map right, unless it is."""
        for buffer, _, _ in planes.spans:
            if buffer not in self._seamed:
                self._seamed.add(buffer)
                whole = Planes(planes.layout, ((buffer, 0, buffer.units),))
                if (call := self.seam_call(whole)) is not None:
                    self.step(call, whole)

    def seam_call(self, planes: Planes) -> Callable[[], None] | None:
        """What writes down the call that makes the halo between the parts of planes right; None where there is none."""
        parts, width = planes.layout.grid.parts, planes.layout.grid.width
        rows = [(target, source, width) for target, source in planes.layout.seams()]
        if not rows:
            return None
        call = self.copy_call(rows, (parts, parts))

        def emit() -> None:
            places = self.tables.indices(planes.origins())
            call("arena", "arena", places, places, planes.channels)

        return emit

    def window(self, number: int, op: ops.Windowed, source: Planes, fill: float, *, by_channel: bool = False) -> Source:
        """What the operation's window slides over, in the grid of its output.

        A copy that must be made is one of all channels, or, `by_channel`, of one after another, which the operation
        must call for: what is read then is still in the first cache level.
        """
        if (phases := self.phased.get(op.inputs[0])) is not None:
            taps = phases.taps(op, source.channels)
            if any(tap.row for tap in taps):
                self.seam(source)
            return Source(source, taps)
        if slides_in_place(op, self.program.shapes[op.inputs[0]]):
            taps = taps_in_place(op, source.layout)
            if any(tap.row for tap in taps):
                self.seam(source)
            return Source(source, taps)
        return self._copied_window(number, op, source, fill, by_channel)

    def phases_of_source(self, number: int, source: Planes) -> list[Source]:
        """Copies of what the convolution `number`, one of `phased`, reads: a map for each phase."""
        phases, shape = self.phased[number], self.program.shapes[self.program.ops[number].inputs[0]]
        copies = []
        for place in phases.places:
            planes = self.planes_of(Layout(phases.layout.grid), shape[2])
            rows = phase_rows(planes.layout, source.layout, shape, phases.strides, place)
            strides = (phases.strides[1] * source.layout.grid.parts, planes.layout.grid.parts)
            self.copy(rows, strides, in_arena(source), in_arena(planes), source, planes)
            copies.append(Source(planes, (Tap(0, 0),)))
        return copies

    def _copied_window(self, number: int, op: ops.Windowed, source: Planes, fill: float, by_channel: bool) -> Source:
        """A copy of the map, made for one operation: a plane for each remainder of rows and columns by the stride.

        See `phases_of`. The halo is copied too.
        """
        down, right, phases = phases_of(op)
        shifts = [shift for shift, _ in down], [shift for shift, _ in right]
        grid = grid_for(*op.size, self.lanes)
        layout = Layout(
            grid,
            above=max(0, -min(shifts[0])), below=max(0, max(shifts[0])),
            left=max(0, -min(shifts[1])), right=max(0, max(shifts[1])), shared=False,
        )  # fmt: skip
        shape = self.program.shapes[op.inputs[0]]
        rows = [
            (to + place * layout.plane, start, count)
            for place, phase in enumerate(phases)
            for to, start, count in phase_rows(layout, source.layout, shape, op.strides, phase)
        ]
        channels = 1 if by_channel else shape[2]
        buffer = self.new_filled(layout, channels, len(phases), fill, tuple((to, count) for to, _, count in rows))
        planes = Planes(layout, ((buffer, 0, channels),), step=len(phases))
        steps = (op.strides[1] * source.layout.grid.parts, grid.parts)
        taps = tuple(
            Tap(dy, dx * grid.parts + phases.index((py, px)) * layout.plane) for dy, py in down for dx, px in right
        )
        if not by_channel:
            self.copy(rows, steps, in_arena(source), in_arena(planes), source, planes)
            return Source(planes, taps)
        call = self.copy_call(rows, steps) if rows else None

        def refill() -> None:
            if call:
                place = self.tables.indices(source.origins())
                call("arena", "arena", Each(place, 1), self.tables.indices(planes.origins()), 1)

        return Source(planes, taps, refill)


def step_of(ends: tuple[float, float], *, signed: bool) -> float:
    """What 1 stands for in int8, of numbers between these."""
    return max(*map(abs, ends), LEAST_SCALE) / MOST[signed]


def in_arena(planes: Planes, memory: str = "arena") -> Callable[[], tuple[Any, Any]]:
    """The end of a copy that is a map in the arena, or in an image's slot of it."""
    return lambda: (memory, planes.origins())


def vector_in_arena(vector: Vector, memory: str = "arena") -> Callable[[], tuple[Any, Any]]:
    return lambda: (memory, [vector.buffer.start])
