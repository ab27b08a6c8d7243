"""Vectors of int8 numbers: a 32-bit lane holds four, and a dot product adds all products to an int32 sum, exactly.

The instruction (`vpdpbusd`) multiplies bytes from 0 to 255 of a map by weights from -127 to 127. A map that has nothing
below 0 is kept so; of another, with numbers from -127 to 127, 128 more is read, and what that adds is taken off where
the sums start. Either way 0 is 0 in memory, so that a halo of zeros serves both.

Sums are int32 in vectors of float32. Emulated, the same is done by integer arithmetic, on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.emitter import Value
from nhn_tf.sparse.native.packed import PackedFunction

DOT = "llvm.x86.avx512.vpdpbusd.512"
HIGH_BITS = -2139062144
"""0x80808080: adds 128 to each byte of a lane, as a mask for xor."""
ROUNDING = 12582912.0
"""1.5 * 2^23: with it added, a number's lowest bits are the nearest whole number, ties to even."""
MOST = {True: 127.0, False: 255.0}
"""The largest number of a map, by whether it has some below 0."""
HOMOGENEOUS = ("linear", "relu", "leaky_relu")
"""Activations of which a multiple's is the multiple: they come after the scale of the output."""


class QuadFunction(PackedFunction):
    """A function whose vectors are int32 sums or int8 quads.

    A filter's settings are the bits of the int32 that its sums start from, what a sum's 1 stands for, its bias, and
    1 / scale of the output; the first two in units of the output where the activation is homogeneous.
    """

    each = 4
    settings = 4

    def spread(self, read: Sequence[Value], *, pointwise: bool) -> list[Value]:
        """Transposes four bytes of four vectors, lane by lane."""
        a, b, c, d = read
        (ab, ab_next), (cd, cd_next) = (self._zipped(x, y, 8, 0x00FF00FF) for x, y in ((a, b), (c, d)))
        first, third = self._zipped(ab, cd, 16, 0x0000FFFF)
        second, fourth = self._zipped(ab_next, cd_next, 16, 0x0000FFFF)
        return [first, second, third, fourth]

    def _zipped(self, a: Value, b: Value, bits: int, mask: int) -> tuple[Value, Value]:
        """Of every two pieces of so many bits, the lower of a and b, and the upper."""
        up, down = (self.new(f"{way} {self._ints} {x}, splat (i32 {bits})") for way, x in (("shl", b), ("lshr", a)))
        return self._chosen(mask, a, up), self._chosen(mask, down, b)

    def _chosen(self, mask: int, a: Value, b: Value) -> Value:
        """a's bits where the mask has 1, else b's."""
        inverse = ~mask
        parts = [self.new(f"and {self._ints} {x}, splat (i32 {bits})") for x, bits in ((a, mask), (b, inverse))]
        return self.new(f"or {self._ints} {parts[0]}, {parts[1]}")

    def above_zero(self, value: Value) -> Value:
        """128 more in each byte."""
        return self.new(f"xor {self._ints} {value}, splat (i32 {HIGH_BITS})")

    def positive(self, value: Value) -> Value:
        kind = f"<{4 * self.lanes} x i8>"
        numbers = self._cast(self._ints, value, kind)
        kept = self.new(f"call {kind} @llvm.smax.v{4 * self.lanes}i8({kind} {numbers}, {kind} zeroinitializer)")
        return self._cast(kind, kept, self._ints)

    def plus(self, a: Value, b: Value) -> Value:
        a, b = (self._cast(self.vector, value, self._ints) for value in (a, b))
        return self._cast(self._ints, self.new(f"add {self._ints} {a}, {b}"), self.vector)

    def dot(self, total: Value, a: Value, b: Value) -> Value:
        total = self._cast(self.vector, total, self._ints)
        if self.emulated:
            for place in range(4):
                number, weight = self._number(a, place, signed=False), self._number(b, place, signed=True)
                product = self.new(f"mul {self._ints} {number}, {weight}")
                total = self.new(f"add {self._ints} {total}, {product}")
        else:
            kind = f"<{4 * self.lanes} x i8>"
            bytes_ = ", ".join(f"{kind} {self._cast(self._ints, value, kind)}" for value in (a, b))
            total = self.new(f"call {self._ints} @{DOT}({self._ints} {total}, {bytes_})")
        return self._cast(self._ints, total, self.vector)

    def finished(
        self, sums: Sequence[Value], filter_: Value, activation: Activation, *, pointwise: bool, signed: bool
    ) -> Value:
        factor, bias, per = (self.broadcast(self.at(filter_, place)) for place in (1, 2, 3))
        made = []
        for value in sums:
            number = self.multiply_add(self.whole(value), factor, bias)
            number = activate(self, number, activation)
            made.append(number if activation.name in HOMOGENEOUS else self.math("fmul", number, per))
        return self._bytes(made, signed=signed)

    def whole(self, total: Value) -> Value:
        """Sums as float32."""
        return self.new(f"sitofp {self._ints} {self._cast(self.vector, total, self._ints)} to {self.vector}")

    def widened(self, value: Value, place: int, scale: Value, *, signed: bool) -> Value:
        number = self._number(value, place, signed=signed)
        return self.math("fmul", self.new(f"sitofp {self._ints} {number} to {self.vector}"), scale)

    def narrowed(self, values: Sequence[Value], per: Value, *, signed: bool) -> Value:
        return self._bytes([self.math("fmul", value, per) for value in values], signed=signed)

    def _number(self, value: Value, place: int, *, signed: bool) -> Value:
        """The byte at one place of each lane, as int32."""
        up = self.new(f"shl {self._ints} {value}, splat (i32 {24 - 8 * place})")
        return self.new(f"{'ashr' if signed else 'lshr'} {self._ints} {up}, splat (i32 24)")

    def _bytes(self, values: Sequence[Value], *, signed: bool) -> Value:
        """The nearest bytes of four float32 vectors, side by side in lanes. A NaN becomes the least."""
        most = self.constant(MOST[signed])
        least = self.constant(-MOST[signed] if signed else 0.0)
        result = ""
        for place, value in enumerate(values):
            above = self.new(f"fcmp ogt {self.vector} {value}, {least}")
            inside = self.smaller(self.select(above, value, least), most)
            near = self._cast(self.vector, self.math("fadd", inside, self.constant(ROUNDING)), self._ints)
            byte = near if place == 3 else self.new(f"and {self._ints} {near}, splat (i32 255)")
            moved = self.new(f"shl {self._ints} {byte}, splat (i32 {8 * place})")
            result = self.new(f"or {self._ints} {result}, {moved}") if result else moved
        return result


def declarations() -> str:
    """What functions may call; `DOT` those alone that are not emulated."""
    kind = "<64 x i8>"
    return f"declare {kind} @llvm.smax.v64i8({kind}, {kind})\ndeclare <16 x i32> @{DOT}(<16 x i32>, {kind}, {kind})"
