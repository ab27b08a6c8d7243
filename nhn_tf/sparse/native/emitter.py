"""A small writer of LLVM IR: values, loops, float32 vectors.

A kernel is written as Python that runs once and leaves a function's text behind. Python loops are unrolled code, `loop`
is a loop at run time. Variables are stack slots, which LLVM turns into registers.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence

Value = str
"""Name of an SSA value, or a literal."""


STACK = 64
"""Bytes that a function's stack starts at a multiple of: what finds no register must not cross cache lines."""

ALIGNMENTS = {"float": 4, "i16": 2, "i8": 1}
"""Bytes, by the type of elements."""


def float_literal(number: float) -> Value:
    """A float32 as LLVM writes it: the bits of the double of equal value."""
    rounded = struct.unpack("<f", struct.pack("<f", number))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


class Function:
    """The text of one function that returns nothing.

    Attributes:
      lanes: of its vectors.
      element: LLVM type of a lane, and of what memory is counted in: float, or i16 or i8 of those that only move
        numbers.
      vector: the vectors' LLVM type.
    """

    def __init__(self, name: str, parameters: Sequence[str], lanes: int, element: str = "float"):
        self.name = name
        self.lanes = lanes
        self.element = element
        self.vector = f"<{lanes} x {element}>"
        self._align = ALIGNMENTS[element]
        self._parameters = ", ".join(parameters)
        self._slots: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self._block = "start"

    def __str__(self) -> str:
        lines = [
            f"define void @{self.name}({self._parameters}) noinline alignstack({STACK}) {{", "entry:", *self._slots,
            "  br label %start", "start:", *self._lines, "  ret void", "}",
        ]  # fmt: skip
        return "\n".join(lines)

    def new(self, text: str) -> Value:
        """An instruction with a result."""
        self._count += 1
        self._lines.append(f"  %v{self._count} = {text}")
        return f"%v{self._count}"

    def do(self, text: str) -> None:
        """An instruction without one."""
        self._lines.append(f"  {text}")

    # Control.

    @contextlib.contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1) -> Iterator[Value]:
        """for (i64 i = start; i < stop; i += step)."""
        self._count += 1
        number, before = self._count, self._block
        index = f"%i{number}"
        self.do(f"br label %head{number}")
        self._start_block(f"head{number}")
        self.do(f"{index} = phi i64 [{start}, %{before}], [%next{number}, %latch{number}]")
        self.do(f"%more{number} = icmp slt i64 {index}, {stop}")
        self.do(f"br i1 %more{number}, label %body{number}, label %end{number}")
        self._start_block(f"body{number}")
        yield index
        self.do(f"br label %latch{number}")
        self._start_block(f"latch{number}")
        self.do(f"%next{number} = add i64 {index}, {step}")
        self.do(f"br label %head{number}")
        self._start_block(f"end{number}")

    @contextlib.contextmanager
    def turns(self, count: int) -> Iterator[Value]:
        """So many turns; a single one is no loop."""
        if count == 1:
            yield "0"
            return
        with self.loop(0, count) as turn:
            yield turn

    @contextlib.contextmanager
    def shared_loop(self, counter: Value, stop: Value | int, step: Value | int) -> Iterator[Value]:
        """while ((i = (*counter)) < stop): *counter += step, atomically: threads with one counter share the numbers."""
        self._count += 1
        number = self._count
        index = f"%i{number}"
        self.do(f"br label %head{number}")
        self._start_block(f"head{number}")
        self.do(f"{index} = atomicrmw add ptr {counter}, i64 {step} monotonic")
        self.do(f"%more{number} = icmp slt i64 {index}, {stop}")
        self.do(f"br i1 %more{number}, label %body{number}, label %end{number}")
        self._start_block(f"body{number}")
        yield index
        self.do(f"br label %head{number}")
        self._start_block(f"end{number}")

    def _start_block(self, name: str) -> None:
        self._lines.append(f"{name}:")
        self._block = name

    @contextlib.contextmanager
    def tiles(self, extent: int, tile: int) -> Iterator[Value]:
        """Starts of tiles that cover 0..extent; the last is moved back to end there, over its neighbour."""
        if extent <= tile:
            yield "0"
            return
        with self.loop(0, -(-extent // tile)) as number:
            yield self.least(self.mul(number, tile), extent - tile)

    # Whole numbers and addresses.

    def add(self, a: Value | int, b: Value | int) -> Value:
        return self.new(f"add nsw i64 {a}, {b}")

    def mul(self, a: Value | int, b: Value | int) -> Value:
        return self.new(f"mul nsw i64 {a}, {b}")

    def least(self, a: Value | int, b: Value | int) -> Value:
        return self.new(f"call i64 @llvm.smin.i64(i64 {a}, i64 {b})")

    def at(self, pointer: Value, index: Value | int, kind: str | None = None) -> Value:
        """The address of element `index`."""
        return self.new(f"getelementptr {kind or self.element}, ptr {pointer}, i64 {index}")

    def index(self, pointer: Value, at: Value | int = 0) -> Value:
        """Reads an int32 as i64."""
        narrow = self.new(f"load i32, ptr {self.at(pointer, at, 'i32')}, align 4")
        return self.new(f"sext i32 {narrow} to i64")

    # Time.

    def ticks(self) -> Value:
        """What the processor's clock shows, in units that differ from machine to machine."""
        return self.new("call i64 @llvm.readcyclecounter()")

    def count(self, pointer: Value, number: Value) -> None:
        """Adds to an int64 in memory."""
        total = self.new(f"add i64 {self.new(f'load i64, ptr {pointer}')}, {number}")
        self.do(f"store i64 {total}, ptr {pointer}")

    # Numbers.

    def constant(self, number: float) -> Value:
        """The same number in all lanes."""
        return f"splat (float {float_literal(number)})"

    def variable(self) -> Value:
        """A vector that changes; `read` and `write` it."""
        self._count += 1
        self._slots.append(f"  %slot{self._count} = alloca {self.vector}")
        return f"%slot{self._count}"

    def memory(self, count: int) -> Value:
        """So many numbers of the function's own."""
        self._count += 1
        self._slots.append(f"  %slot{self._count} = alloca float, i64 {count}, align 64")
        return f"%slot{self._count}"

    def read(self, variable: Value) -> Value:
        return self.new(f"load {self.vector}, ptr {variable}")

    def write(self, variable: Value, value: Value) -> None:
        self.do(f"store {self.vector} {value}, ptr {variable}")

    def load(self, pointer: Value) -> Value:
        """A vector from anywhere."""
        return self.new(f"load {self.vector}, ptr {pointer}, align {self._align}")

    def broadcast(self, pointer: Value) -> Value:
        """One number from memory, in all lanes."""
        return self.splat(self.new(f"load float, ptr {pointer}, align 4"))

    def splat(self, number: Value) -> Value:
        first = self.new(f"insertelement {self.vector} poison, float {number}, i32 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.new(f"shufflevector {self.vector} {first}, {self.vector} poison, {zeros}")

    def store(self, value: Value, pointer: Value, lanes: int | None = None) -> None:
        """A vector, or only its first `lanes`."""
        if lanes is None or lanes >= self.lanes:
            self.do(f"store {self.vector} {value}, ptr {pointer}, align {self._align}")
            return
        self.store_lanes(value, pointer, [lane < lanes for lane in range(self.lanes)])

    def store_lanes(self, value: Value, pointer: Value, chosen: Sequence[bool]) -> None:
        """The chosen lanes of a vector; in memory, what lies at the others is left alone."""
        if all(chosen):
            self.store(value, pointer)
            return
        self.do(
            f"call void @llvm.masked.store.{self._suffix}.p0({self.vector} {value}, ptr {pointer}, i32 {self._align}, "
            f"{self._mask(chosen)})"
        )

    def load_first(self, pointer: Value, lanes: int) -> Value:
        """The first `lanes` of a vector; what lies behind them is not read."""
        if lanes >= self.lanes:
            return self.load(pointer)
        mask = self._mask([lane < lanes for lane in range(self.lanes)])
        return self.new(
            f"call {self.vector} @llvm.masked.load.{self._suffix}.p0(ptr {pointer}, i32 {self._align}, {mask}, "
            f"{self.vector} poison)"
        )

    def shuffle(self, a: Value, b: Value, places: Sequence[str]) -> Value:
        """A vector of lanes of two: for each its place, counted through both, or "poison" where it does not matter."""
        order = ", ".join(f"i32 {place}" for place in places)
        return self.new(f"shufflevector {self.vector} {a}, {self.vector} {b}, <{self.lanes} x i32> <{order}>")

    @property
    def _suffix(self) -> str:
        """What intrinsics on its vectors end in."""
        return f"v{self.lanes}{'f32' if self.element == 'float' else self.element}"

    def _mask(self, chosen: Sequence[bool]) -> Value:
        bits = ", ".join(f"i1 {int(lane)}" for lane in chosen)
        return f"<{self.lanes} x i1> <{bits}>"

    def prefetch(self, pointer: Value) -> None:
        """Brings a cache line closer; any address will do."""
        self.do(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 3, i32 1)")

    def math(self, operation: str, a: Value, b: Value) -> Value:
        """fadd, fsub, fmul or fdiv of vectors."""
        return self.new(f"{operation} {self.vector} {a}, {b}")

    def call(self, function: str, *arguments: Value) -> Value:
        """An LLVM intrinsic on vectors."""
        typed = ", ".join(f"{self.vector} {argument}" for argument in arguments)
        return self.new(f"call {self.vector} @llvm.{function}.v{self.lanes}f32({typed})")

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, in one instruction where the machine has it."""
        return self.call("fmuladd", a, b, c)

    def larger(self, a: Value, b: Value) -> Value:
        """The larger of two vectors; a NaN in `a` stays."""
        less = self.new(f"fcmp olt {self.vector} {a}, {b}")
        return self.select(less, b, a)

    def largest(self, a: Value, b: Value) -> Value:
        """The larger of two vectors; a NaN in either stays."""
        return self.call("maximum", a, b)

    def smaller(self, a: Value, b: Value) -> Value:
        """The smaller of two vectors; a NaN in `a` stays."""
        more = self.new(f"fcmp ogt {self.vector} {a}, {b}")
        return self.select(more, b, a)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        kind = f"<{self.lanes} x i1>"
        return self.new(f"select {kind} {condition}, {self.vector} {a}, {self.vector} {b}")

    def reduce(self, operation: str, value: Value) -> Value:
        """All lanes as one number: "fadd", or "fmaximum", in which a NaN stays."""
        start = f"float {float_literal(-0.0)}, " if operation == "fadd" else ""
        flags = "reassoc " if operation == "fadd" else ""
        return self.new(
            f"call {flags}float @llvm.vector.reduce.{operation}.v{self.lanes}f32({start}{self.vector} {value})"
        )


def declarations(lanes: int) -> str:
    """The intrinsics that functions may call."""
    v = f"<{lanes} x float>"
    narrow = [(count * lanes, bits) for count, bits in ((2, "i16"), (4, "i8"))]
    return "\n".join(
        (
            "declare i64 @llvm.smin.i64(i64, i64)",
            "declare i64 @llvm.readcyclecounter()",
            f"declare {v} @llvm.fmuladd.v{lanes}f32({v}, {v}, {v})",
            *(f"declare {v} @llvm.{name}.v{lanes}f32({v})" for name in ("rint", "fabs", "sqrt")),
            f"declare float @llvm.vector.reduce.fadd.v{lanes}f32(float, {v})",
            *(f"declare {v} @llvm.{name}.v{lanes}f32({v}, {v})" for name in ("maximum", "minimum")),
            f"declare float @llvm.vector.reduce.fmaximum.v{lanes}f32({v})",
            f"declare void @llvm.masked.store.v{lanes}f32.p0({v}, ptr, i32, <{lanes} x i1>)",
            f"declare {v} @llvm.masked.load.v{lanes}f32.p0(ptr, i32, <{lanes} x i1>, {v})",
            *(f"declare void @llvm.masked.store.v{n}{k}.p0(<{n} x {k}>, ptr, i32, <{n} x i1>)" for n, k in narrow),
            *(
                f"declare <{n} x {k}> @llvm.masked.load.v{n}{k}.p0(ptr, i32, <{n} x i1>, <{n} x {k}>)"
                for n, k in narrow
            ),
            "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
        )
    )
