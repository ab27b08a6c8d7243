"""From a program to native code and the tables it runs on.

Everything that depends on the machine is decided here: layouts, memory, dense or sparse, the kernels' blocks. A plan
computes image after image, each from end to end, so that its maps stay in the second-level cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.native import kernels
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.convolution import SEGMENT, Block, ConvGeometry, Tap, convolution
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan import blocks
from nhn_tf.sparse.plan.memory import Buffer, CapacityError, Planes, Region, Vector
from nhn_tf.sparse.plan.steps import Source, Steps, in_arena, vector_in_arena
from nhn_tf.sparse.plan.tables import MAX_TABLE
from nhn_tf.sparse.plan.windows import in_vectors, sorted_taps, window_counts
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program
from nhn_tf.sparse.program.optimize import merge

MAX_SPANS = 1024


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided for one convolution.

    Attributes:
      op: its place in the plan's program.
      density: live kernels of all.
      sparse: whether only live kernels are computed, or all (of inputs that any filter of a group reads).
      block: in registers.
    """

    op: int
    density: float
    sparse: bool
    block: Block


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Native code as text, and its tables.

    Attributes:
      program: what is computed, after 1x1 convolutions were merged.
      ir: a module whose function `run` (arena, constants, indices, inputs, outputs, next image, end) does it all.
      constants: float32, the weights.
      indices: int32, where planes lie.
      arena: float32 values that each thread needs.
      regions: of the arena.
      inputs, outputs: shapes of the values that come and go.
      decisions: one for each convolution.
    """

    program: Program
    ir: str
    constants: np.ndarray
    indices: np.ndarray
    arena: int
    regions: tuple[Region, ...]
    inputs: tuple[ops.Shape, ...]
    outputs: tuple[ops.Shape, ...]
    decisions: tuple[Decision, ...]


def make_plan(program: Program, host: Host) -> Plan:
    """Plans a program.

    Raises:
      CapacityError: it is too large.
    """
    lowering = _Lowering(merge(program), host)
    lowering.lower()
    return lowering.finish()


@dataclasses.dataclass(frozen=True, eq=False)
class _Lists:
    """What a convolution computes, group by group of filters.

    Attributes:
      starts: int [groups + 1], where each group's entries start, and where the last ends.
      inputs: int [entries], input channels.
      weights: float32 [entries, taps, filters of a group].
    """

    starts: np.ndarray
    inputs: np.ndarray
    weights: np.ndarray


def _lists(mask: np.ndarray, weights: np.ndarray) -> _Lists:
    """The lists of a mask, bool [Cin, groups]."""
    return _Lists(np.concatenate([[0], np.cumsum(mask.sum(0))]), np.nonzero(mask.T)[1], weights)


class _Lowering(Steps):
    """The program's operations as steps: each method makes the value of one."""

    def __init__(self, program: Program, host: Host):
        super().__init__(program, host.lanes)
        self.host = host
        self.values: list[Planes | Vector] = []
        self.decisions: list[Decision] = []

    def lower(self) -> None:
        for number, op in enumerate(self.program.ops):
            inputs = [self.values[value] for value in op.inputs]
            method = getattr(self, f"_{type(op).__name__.lower()}")
            self.values.append(method(number, op, *inputs))
        for place, value in enumerate(self.program.outputs):
            self._give(place, value)

    def finish(self) -> Plan:
        size, regions = self.place()
        shapes = self.program.shapes
        inputs = tuple(shapes[value] for value in self.program.inputs)
        outputs = tuple(shapes[value] for value in self.program.outputs)
        return Plan(
            program=self.program,
            ir=self.tables.module(inputs, outputs),
            constants=self.tables.array("constants"),
            indices=self.tables.array("indices"),
            arena=size,
            regions=regions,
            inputs=inputs,
            outputs=outputs,
            decisions=tuple(self.decisions),
        )

    def _input(self, number: int, op: ops.Input) -> Planes | Vector:
        place = self.program.inputs.index(number)
        if len(op.size) == 1:
            vector = self.new_vector(op.size[0])
            self.copy(
                [(0, 0, op.size[0])], (1, 1),
                lambda: (("inputs", place), [0]), lambda: ("arena", [vector.buffer.start]), vector,
            )  # fmt: skip
            return vector
        height, width, channels = op.size
        planes = self.new_planes(number)
        rows = [(planes.layout.row(y), y * width * channels, width) for y in range(height)]
        self.copy(
            rows, (channels, planes.layout.grid.parts),
            lambda: (("inputs", place), np.arange(channels)), in_arena(planes), planes,
        )  # fmt: skip
        return planes

    def _give(self, place: int, value: int) -> None:
        """Copies a value to where the caller wants it."""
        source = self.values[value]
        outside = ("outputs", place)
        if isinstance(source, Vector):
            self.copy(
                [(0, 0, source.size)], (1, 1),
                lambda: ("arena", [source.buffer.start]), lambda: (outside, [0]), source,
            )  # fmt: skip
            return
        height, width, channels = self.program.shapes[value]
        rows = [(y * width * channels, source.layout.row(y), width) for y in range(height)]
        steps = (source.layout.grid.parts, channels)
        self.copy(rows, steps, in_arena(source), lambda: (outside, np.arange(channels)), source)

    def _conv(self, number: int, op: ops.Conv, source: Planes) -> Planes:
        """A convolution in the cheaper of its two forms."""
        window = self.window(number, op, source, 0.0)
        order, taps = sorted_taps(window.taps)
        target = self.new_planes(number)
        grid = target.layout.grid
        inputs, filters = op.mask.shape
        kernels_of = op.kernels.reshape(-1, len(taps))[:, order]
        live = int(op.mask.sum())
        sparse = blocks.sparse_block(taps, grid, self.host)
        dense = blocks.dense_block(taps, grid, self.host, filters)
        groups = -(-filters // dense.block.filters)
        large = op.mask.size * len(taps) > MAX_TABLE
        is_sparse = large or dense.block.filters == 1 or live * sparse.cost < inputs * groups * dense.cost
        choice = sparse if is_sparse else dense
        self.decisions.append(Decision(number, live / op.mask.size, is_sparse, choice.block))
        if is_sparse:
            self._convolve(op, window, taps, choice.block, _lists(op.mask, kernels_of), target, 0)
            return target
        full = np.zeros((filters, inputs, len(taps)), np.float32)
        full[op.mask.T] = kernels_of
        # Groups of equal size, then one with what is left.
        whole = filters - filters % choice.block.filters
        for first, stop in ((0, whole), (whole, filters)):
            if first < stop:
                width = min(choice.block.filters, stop - first)
                block = dataclasses.replace(choice.block, filters=width)
                part = full[first:stop].reshape(-1, width, inputs, len(taps))
                mask = np.any(op.mask[:, first:stop].reshape(inputs, -1, width), axis=2)
                weights = part.transpose(0, 2, 3, 1)[mask.T]  # [live, taps, width]
                self._convolve(op, window, taps, block, _lists(mask, weights), target, first)
        return target

    def _depthwise(self, number: int, op: ops.Depthwise, source: Planes) -> Planes:
        window = self.window(number, op, source, 0.0)
        order, taps = sorted_taps(window.taps)
        target = self.new_planes(number)
        block = blocks.sparse_block(taps, target.layout.grid, self.host).block
        inputs = np.repeat(np.arange(source.channels), op.multiplier)
        lists = _Lists(np.arange(len(inputs) + 1), inputs, op.kernels.reshape(len(inputs), -1)[:, order])
        self._convolve(op, window, taps, block, lists, target, 0)
        return target

    def _convolve(
        self,
        op: ops.Conv | ops.Depthwise,
        window: Source,
        taps: tuple[Tap, ...],
        block: Block,
        lists: _Lists,
        target: Planes,
        first: int,
    ) -> None:
        """A step that makes output channels from `first` on."""
        layout = window.planes.layout
        geometry = ConvGeometry(
            grid=target.layout.grid,
            taps=taps,
            source_stride=layout.stride,
            target_stride=target.layout.stride,
            target_plane=target.layout.plane,
            block=block,
            segment=max(SEGMENT // len(taps), 1),
            relu_input=op.relu_input,
            activation=Activation(op.activation, op.slope),
        )
        groups = len(lists.starts) - 1
        bias = op.bias[first : first + groups * block.filters]

        def emit() -> None:
            put = self.tables
            arguments = [
                "arena", put.indices(lists.starts), put.indices(window.planes.origins()[lists.inputs]),
                put.constants(lists.weights), put.constants(bias), target.origins()[first], groups,
            ]  # fmt: skip
            put.call(convolution, geometry, arguments=arguments)

        self.step(emit, window.planes, target)

    def _pool(self, number: int, op: ops.Pool, source: Planes) -> Planes:
        window = self.window(number, op, source, float("-inf") if op.kind == "max" else 0.0)
        target = self.new_planes(number)
        grid = target.layout.grid
        height, width, _ = self.program.shapes[op.inputs[0]]
        geometry = (op.kind, grid, window.taps, window.planes.layout.stride, target.layout.stride)

        def emit() -> None:
            put = self.tables
            counts = np.outer(window_counts(op, 0, height), window_counts(op, 1, width))
            shares = in_vectors(grid, self.lanes, 1.0 / counts) if op.kind == "average" else ()
            tables = (put.indices(window.planes.origins()), put.indices(target.origins()))
            arguments = ["arena", *tables, target.channels, put.constants(shares)]
            put.call(kernels.pool, *geometry, arguments=arguments)

        self.step(emit, window.planes, target)
        return target

    def _elementwise(self, number: int, op: ops.Elementwise, *sources: Any) -> Planes | Vector:
        shape = self.program.shapes[number]
        options = {"affine": op.scale is not None, "activation": Activation(op.activation, op.slope)}
        scale = np.ones(shape[-1], np.float32) if op.scale is None else op.scale
        shift = np.zeros(shape[-1], np.float32) if op.shift is None else op.shift
        if len(shape) == 1:
            return self._elementwise_vector(sources, scale, shift, options)
        target = self.new_planes(number)
        layout = target.layout

        def emit() -> None:
            put = self.tables
            origins = np.concatenate([source.origins() for source in sources])
            tables = (put.indices(origins), put.indices(target.origins()))
            arguments = ["arena", *tables, shape[2], put.constants(np.stack([scale, shift], axis=1))]
            put.call(kernels.elementwise, layout.grid, layout.stride, len(sources), arguments=arguments, **options)

        self.step(emit, *sources, target)
        return target

    def _elementwise_vector(
        self, sources: Sequence[Vector], scale: np.ndarray, shift: np.ndarray, options: dict[str, Any]
    ) -> Vector:
        target = self.new_vector(scale.size)
        size = target.buffer.size
        factors = np.stack([np.pad(values, (0, size - scale.size)) for values in (scale, shift)])

        def emit() -> None:
            put = self.tables
            starts = put.indices([source.buffer.start for source in sources])
            arguments = ["arena", starts, target.buffer.start, size, put.constants(factors)]
            put.call(kernels.elementwise_vector, len(sources), arguments=arguments, **options)

        self.step(emit, *sources, target)
        return target

    def _concatenate(self, number: int, op: ops.Concatenate, *sources: Any) -> Planes | Vector:
        """Of maps: nothing to do, they are read through tables. Vectors are copied."""
        if isinstance(sources[0], Planes):
            spans = tuple(span for source in sources for span in source.spans)
            if len(spans) > MAX_SPANS:
                raise CapacityError(f"a map is joined of more than {MAX_SPANS} others.")
            return Planes(sources[0].layout, spans)
        target = self.new_vector(self.program.shapes[number][0])
        first = 0
        for source in sources:
            self.copy(
                [(first, 0, source.size)], (1, 1),
                vector_in_arena(source), vector_in_arena(target), source, target,
            )  # fmt: skip
            first += source.size
        return target

    def _globalpool(self, number: int, op: ops.GlobalPool, source: Planes) -> Vector:
        target = self.new_vector(source.channels)
        grid = source.layout.grid
        kind = "max" if op.kind == "max" else "sum"
        geometry = (kind, grid, source.layout.stride)

        def emit() -> None:
            put = self.tables
            maps = np.full((grid.height, grid.width), 1.0 / (grid.height * grid.width))
            if op.weights is not None:
                maps = op.weights.transpose(2, 0, 1)
            counted = in_vectors(grid, self.lanes, np.ones((grid.height, grid.width)), once=True)
            tables = (put.constants(in_vectors(grid, self.lanes, maps)), put.constants(counted))
            arguments = ["arena", put.indices(source.origins()), target.buffer.start, target.size, *tables]
            put.call(kernels.global_pool, *geometry, per_channel=op.weights is not None, arguments=arguments)

        self.step(emit, source, target)
        return target

    def _dense(self, number: int, op: ops.Dense, source: Vector) -> Vector:
        inputs, filters = op.kernel.shape
        target = self.new_vector(filters)
        vectors = min(target.buffer.units, 4)
        width = vectors * self.lanes
        count = -(-filters // width)
        # The last block writes whole registers behind the vector's end.
        target = Vector(Buffer(target.buffer.kind, count * vectors), filters)
        more = count * width - filters

        def emit() -> None:
            put = self.tables
            kernel = np.pad(op.kernel, ((0, 0), (0, more))).reshape(inputs, count, width).transpose(1, 0, 2)
            weights = (put.constants(kernel), put.constants(np.pad(op.bias, (0, more))))
            arguments = ["arena", source.buffer.start, target.buffer.start, inputs, count, *weights]
            put.call(kernels.dense, Activation(op.activation, op.slope), vectors, arguments=arguments)

        self.step(emit, source, target)
        return target

    def _softmax(self, number: int, op: ops.Softmax, source: Vector) -> Vector:
        target = self.new_vector(source.size)
        size = target.buffer.size

        def emit() -> None:
            outside = self.tables.constants(np.where(np.arange(size) < source.size, 0.0, -np.inf))
            arguments = ["arena", source.buffer.start, target.buffer.start, size, outside]
            self.tables.call(kernels.softmax, arguments=arguments)

        self.step(emit, source, target)
        return target

    def _reshape(self, number: int, op: ops.Reshape, source: Any) -> Planes | Vector:
        if isinstance(source, Vector):
            planes = self.new_planes(number)

            def values() -> tuple[Any, Any]:
                return "arena", source.buffer.start + np.arange(source.size)

            self.copy([(0, 0, 1)], (1, 1), values, in_arena(planes), source, planes)
            return planes
        height, width, channels = self.program.shapes[op.inputs[0]]
        vector = self.new_vector(height * width * channels)
        rows = [(y * width * channels, source.layout.row(y), width) for y in range(height)]

        def places() -> tuple[Any, Any]:
            return "arena", vector.buffer.start + np.arange(channels)

        steps = (source.layout.grid.parts, channels)
        self.copy(rows, steps, in_arena(source), places, source, vector)
        return vector

    def _pad(self, number: int, op: ops.Pad, source: Planes) -> Planes:
        height, width, channels = self.program.shapes[op.inputs[0]]
        layout = self.layout_of(number)
        parts = layout.grid.parts
        (top, left), (rows_out, columns_out) = op.pads, op.size
        start, stop = max(0, -left), min(width, columns_out - left)
        rows = [
            (
                layout.row(y) + (start + left) * parts,
                source.layout.row(y - top) + start * source.layout.grid.parts,
                stop - start,
            )
            for y in range(rows_out)
            if 0 <= y - top < height and start < stop
        ]
        buffer = self.new_filled(layout, channels, 1, 0.0, tuple((to, count) for to, _, count in rows))
        target = Planes(layout, ((buffer, 0, channels),))
        self.copy(rows, (source.layout.grid.parts, parts), in_arena(source), in_arena(target), source, target)
        return target

    def _repeat(self, number: int, op: ops.Repeat, source: Planes) -> Planes:
        height, width, _ = self.program.shapes[op.inputs[0]]
        target = self.new_planes(number)
        (down, right), parts = op.factors, target.layout.grid.parts
        rows = [
            (target.layout.row(y * down + dy) + dx * parts, source.layout.row(y), width)
            for y in range(height)
            for dy in range(down)
            for dx in range(right)
        ]
        steps = (source.layout.grid.parts, right * parts)
        self.copy(rows, steps, in_arena(source), in_arena(target), source, target)
        return target
