"""Vectors of bfloat16 numbers: a 32-bit lane holds two, and a dot product adds both products to a float32 sum.

Where the processor has instructions for it, they are used (`vdpbf16ps`, `vcvtne2ps2bf16`); emulated, the same is done
by float32 arithmetic, on any machine. Both round a sum once for each product, the upper one first, and a result to the
nearest bfloat16, ties to even. They differ on numbers below 1e-38 alone, which the instruction takes as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.emitter import Value
from nhn_tf.sparse.native.packed import PackedFunction

DOT, ROUND = "llvm.x86.avx512bf16.dpbf16ps.512", "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
UPPER = -65536
"""The upper half of a lane, as a mask."""


class PairFunction(PackedFunction):
    """A function whose vectors are float32 sums or bfloat16 pairs. A filter's setting is its bias."""

    each = 2
    settings = 1

    def __init__(self, name: str, parameters: Sequence[str], lanes: int, *, emulated: bool):
        super().__init__(name, parameters, lanes, emulated=emulated)
        self._halves = f"<{2 * lanes} x i16>"

    def _shuffled(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        """Halves of two vectors of halves."""
        places = ", ".join(f"i32 {place}" for place in order)
        return self.new(f"shufflevector {self._halves} {a}, {self._halves} {b}, <{len(order)} x i32> <{places}>")

    # What convolutions read: lanes of the same pixel of two maps.

    def spread(self, read: Sequence[Value], *, pointwise: bool) -> list[Value]:
        a, b = read
        return [(self._unpacked if pointwise else self._joined)(a, b, half) for half in (0, 1)]

    def _joined(self, a: Value, b: Value, half: int) -> Value:
        """Lanes of (a's half, b's half), as a shift and a blend; LLVM's shuffle for it costs more."""
        moved, shift, kept = (b, "shl", a) if half == 0 else (a, "lshr", b)
        moved = self.new(f"{shift} {self._ints} {moved}, splat (i32 16)")
        taken = ", ".join(f"i1 {int(place % 2 != half)}" for place in range(2 * self.lanes))
        values = [f"{self._halves} {self._cast(self._ints, value, self._halves)}" for value in (moved, kept)]
        chosen = self.new(f"select <{2 * self.lanes} x i1> <{taken}>, {', '.join(values)}")
        return self._cast(self._halves, chosen, self._ints)

    def _unpacked(self, a: Value, b: Value, upper: int) -> Value:
        """Lanes of (a's, b's), of the lower or upper four of every eight numbers: one instruction, another order."""
        order = [8 * (i // 8) + 4 * upper + i % 8 // 2 + 2 * self.lanes * (i % 2) for i in range(2 * self.lanes)]
        a, b = self._cast(self._ints, a, self._halves), self._cast(self._ints, b, self._halves)
        return self._cast(self._halves, self._shuffled(a, b, order), self._ints)

    def positive(self, value: Value) -> Value:
        """As integers they are up to -128 from -0 to -infinity; a NaN stays."""
        halves = self._cast(self._ints, value, self._halves)
        above = self.new(f"icmp sgt {self._halves} {halves}, splat (i16 -128)")
        kept = self.new(
            f"select <{2 * self.lanes} x i1> {above}, {self._halves} {halves}, {self._halves} zeroinitializer"
        )
        return self._cast(self._halves, kept, self._ints)

    # From pairs to float32 and back.

    def plus(self, a: Value, b: Value) -> Value:
        return self.math("fadd", a, b)

    def dot(self, total: Value, a: Value, b: Value) -> Value:
        """total + a's upper * b's upper + a's lower * b's lower, lane by lane."""
        if self.emulated:
            for half in (1, 0):
                total = self.multiply_add(self._half(a, half), self._half(b, half), total)
            return total
        numbers = f"<{2 * self.lanes} x bfloat>"
        pairs = ", ".join(f"{numbers} {self._cast(self._ints, value, numbers)}" for value in (a, b))
        return self.new(f"call {self.vector} @{DOT}({self.vector} {total}, {pairs})")

    def finished(
        self, sums: Sequence[Value], filter_: Value, activation: Activation, *, pointwise: bool, signed: bool
    ) -> Value:
        order = _in_fours(self.lanes) if pointwise else _interleaved(self.lanes)
        return self._rounded([activate(self, value, activation) for value in sums], order)

    def widened(self, value: Value, place: int, scale: Value, *, signed: bool) -> Value:
        return self._half(value, place)

    def narrowed(self, values: Sequence[Value], per: Value, *, signed: bool) -> Value:
        return self._rounded(values, _interleaved(self.lanes))

    def _half(self, value: Value, half: int) -> Value:
        """The lower or upper numbers of all lanes as float32."""
        bits = f"and {self._ints} {value}, splat (i32 {UPPER})" if half else f"shl {self._ints} {value}, splat (i32 16)"
        return self._cast(self._ints, self.new(bits), self.vector)

    def _rounded(self, values: Sequence[Value], order: Sequence[int]) -> Value:
        """Pairs of numbers of two float32 vectors, counted through both, in the order in which memory has them."""
        first, second = values
        if self.emulated:
            narrow = [self._rounded_halves(value) for value in values]
            joined = ", ".join(f"<{self.lanes} x i16> {value}" for value in narrow)
            places = ", ".join(f"i32 {place}" for place in order)
            halves = self.new(f"shufflevector {joined}, <{2 * self.lanes} x i32> <{places}>")
            return self._cast(self._halves, halves, self._ints)
        numbers = f"<{2 * self.lanes} x bfloat>"  # The instruction puts its second operand first.
        both = self.new(f"call {numbers} @{ROUND}({self.vector} {second}, {self.vector} {first})")
        halves = self._cast(numbers, both, self._halves)
        return self._cast(self._halves, self._shuffled(halves, "poison", order), self._ints)

    def _rounded_halves(self, value: Value) -> Value:
        """A NaN stays one: its upper half gets the bit that tells it from infinity."""
        bits = self._cast(self.vector, value, self._ints)
        odd = self.new(f"and {self._ints} {self.new(f'lshr {self._ints} {bits}, splat (i32 16)')}, splat (i32 1)")
        near = self.new(f"add {self._ints} {self.new(f'add {self._ints} {bits}, splat (i32 32767)')}, {odd}")
        quiet = self.new(f"or {self._ints} {bits}, splat (i32 4194304)")
        none = self.new(f"fcmp uno {self.vector} {value}, {value}")
        near = self.new(f"select <{self.lanes} x i1> {none}, {self._ints} {quiet}, {self._ints} {near}")
        upper = self.new(f"lshr {self._ints} {near}, splat (i32 16)")
        return self.new(f"trunc {self._ints} {upper} to <{self.lanes} x i16>")


def _interleaved(lanes: int) -> list[int]:
    """For `_rounded`: one vector holds the first number of each pair, the other the second."""
    return [place // 2 + lanes * (place % 2) for place in range(2 * lanes)]


def _in_fours(lanes: int) -> list[int]:
    """For `_rounded`: the vectors hold what `_unpacked` made of the lower and of the upper four of every eight."""
    return [place // 8 * 4 + place % 4 + lanes * (place % 8 // 4) for place in range(2 * lanes)]


def declarations() -> str:
    """The instructions that functions which are not emulated may use."""
    sums, numbers = "<16 x float>", "<32 x bfloat>"
    return f"declare {sums} @{DOT}({sums}, {numbers}, {numbers})\ndeclare {numbers} @{ROUND}({sums}, {sums})"
