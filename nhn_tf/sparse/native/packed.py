"""Vectors whose 32-bit lanes hold several narrow numbers: two of bfloat16 (`pairs`) or four of int8 (`quads`).

A lane is an i32 here; the number in its lowest bits comes first in memory. In a map the numbers of a lane are
neighbours in a row; for a dot product they are the same pixel of several maps.
"""

from __future__ import annotations

from collections.abc import Sequence

from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.emitter import Function, Value


class PackedFunction(Function):
    """A function whose vectors are sums or hold packed numbers.

    Attributes:
      each: numbers in a lane.
      settings: float32 numbers of each filter: what its sums start from, and how they become numbers of a map.
      emulated: whether it does without the processor's instructions, which need 16 lanes.
    """

    each: int
    settings: int

    def __init__(self, name: str, parameters: Sequence[str], lanes: int, *, emulated: bool):
        super().__init__(name, parameters, lanes)
        self.emulated = emulated
        self._ints = f"<{lanes} x i32>"

    def load_packed(self, pointer: Value) -> Value:
        return self.new(f"load {self._ints}, ptr {pointer}, align 4")

    def store_packed(self, value: Value, pointer: Value) -> None:
        self.do(f"store {self._ints} {value}, ptr {pointer}, align 4")

    def broadcast_packed(self, pointer: Value) -> Value:
        """A lane from memory, in all lanes."""
        return self._cast(self.vector, self.broadcast(pointer), self._ints)

    def masked(self, value: Value, mask: Value) -> Value:
        return self.new(f"and {self._ints} {value}, {mask}")

    def as_float(self, value: Value) -> Value:
        """The same bits, to be stored in part."""
        return self._cast(self._ints, value, self.vector)

    def beside(self, value: Value, lanes: int, outside: int = 0) -> Value:
        """The lanes so many to the right, or, below 0, to the left; what is `outside` beyond the vector."""
        if not lanes:
            return value
        order = [lane + lanes if 0 <= lane + lanes < self.lanes else self.lanes for lane in range(self.lanes)]
        places = ", ".join(f"i32 {place}" for place in order)
        beyond = f"{self._ints} splat (i32 {outside}), <{self.lanes} x i32> <{places}>"
        return self.new(f"shufflevector {self._ints} {value}, {beyond}")

    def _cast(self, given: str, value: Value, wanted: str) -> Value:
        return self.new(f"bitcast {given} {value} to {wanted}")

    # What the types do each in their way.

    def spread(self, read: Sequence[Value], *, pointwise: bool) -> list[Value]:
        """Vectors of `each` maps as lanes of the same pixel of all: of the first of a lane, of the second, and so on.

        Where no neighbour is asked for (`pointwise`), in any order that `finished` knows to undo.
        """
        raise NotImplementedError

    def start(self, filter_: Value) -> Value:
        """What a filter's sums start from, the first of its settings, given where they lie."""
        return self.broadcast(filter_)

    def plus(self, a: Value, b: Value) -> Value:
        """Two sums as one."""
        raise NotImplementedError

    def dot(self, total: Value, a: Value, b: Value) -> Value:
        """A sum and the products of the numbers in a lane of a map and of weights."""
        raise NotImplementedError

    def finished(
        self, sums: Sequence[Value], filter_: Value, activation: Activation, *, pointwise: bool, signed: bool
    ) -> Value:
        """The sums of the `each` pixels of each lane as numbers of a map; `signed`: of one that has some below 0."""
        raise NotImplementedError

    def positive(self, value: Value) -> Value:
        """ReLU of packed numbers."""
        raise NotImplementedError

    def widened(self, value: Value, place: int, scale: Value, *, signed: bool) -> Value:
        """The numbers at one place of all lanes as float32; `scale` is what 1 stands for."""
        raise NotImplementedError

    def narrowed(self, values: Sequence[Value], per: Value, *, signed: bool) -> Value:
        """Float32 vectors of `each` neighbours as numbers of a map; `per` is 1 / scale."""
        raise NotImplementedError
