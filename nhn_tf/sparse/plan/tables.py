"""The tables that native code runs on, and the function that calls the kernels one after another."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.native import numbers
from nhn_tf.sparse.native.emitter import Function, Value, declarations
from nhn_tf.sparse.native.layout import LINE
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan.memory import CapacityError
from nhn_tf.sparse.program.operations import Shape

ENTRY = "run"

MAX_TABLE = 1 << 28
"""Numbers in a table, 1 GiB."""
MAX_CODE = 1 << 22
"""Bytes of LLVM IR, of which a large network has half a million; LLVM takes more than a second for a million."""
CALL_SIZE = 400
"""Bytes of IR that a call takes, about."""


@dataclasses.dataclass(frozen=True)
class Each:
    """An argument that moves on from turn to turn of a loop of calls.

    Attributes:
      first: in the first turn.
      step: from a turn to the next, in elements, or, of numbers, as it is.
    """

    first: Any
    step: int


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """Calls that are made one after another, again and again.

    Attributes:
      turns: how often.
    """

    turns: int


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of a kernel.

    Attributes:
      op: the operation that it computes, or a part of it.
      name: of its function.
      arguments: pointers as (table, place) or the name of memory, numbers, or `Each` of them.
      loop: that it is in.
      in_tail: whether images run through it side by side.
      for_group: whether, in the tail, one call is for all images of a group; their number, and how far their memory is
        apart, come behind its arguments.
    """

    op: int
    name: str
    arguments: tuple[Any, ...]
    loop: Loop
    in_tail: bool
    for_group: bool


def moved(argument: tuple[str, int], elements: int) -> tuple[str, int]:
    """A pointer into a table, so many elements further on."""
    table, place = argument
    return (table, place + elements)


class Tables:
    """Grows the constants and indices; arrays start at cache lines. Equal kernels are generated once.

    Attributes:
      host: the machine that kernels are generated for.
      kernels: what they were generated from, to (function's name, IR).
      calls: in order; none before the tail is behind one in it.
      op: the operation that calls are added for.
      in_tail: whether they are in the tail.
    """

    def __init__(self, host: Host):
        self.host = host
        self.kernels: dict[Hashable, tuple[str, str]] = {}
        self.calls: list[Call] = []
        self.op = 0
        self.in_tail = False
        self._loop: Loop | None = None
        self._code = 0
        self._parts: dict[str, list[np.ndarray]] = {"constants": [], "indices": []}
        self._sizes = {"constants": 0, "indices": 0}
        self._dtypes = {"constants": np.float32, "indices": np.int32}

    def put(self, table: str, values: Any) -> tuple[str, int]:
        """Appends an array and returns the argument that points to it.

        Raises:
          CapacityError: the table would be too large.
        """
        array = np.ascontiguousarray(values, self._dtypes[table]).ravel()
        start = self._sizes[table]
        room = max(-(-array.size // LINE), 1) * LINE
        if start + room > MAX_TABLE:
            raise CapacityError(f"the network needs more than {MAX_TABLE} {table}.")
        self._parts[table].append(np.pad(array, (0, room - array.size)))
        self._sizes[table] += room
        return (table, start)

    def constants(self, values: Any) -> tuple[str, int]:
        return self.put("constants", values)

    def indices(self, values: Any) -> tuple[str, int]:
        return self.put("indices", values)

    def call_for_group(self, generate: Callable[..., str], *geometry: Any, arguments: Sequence[Any]) -> None:
        """A call of a kernel that takes any number of images; see `Call.for_group`."""
        if self.in_tail:
            self.call(generate, *geometry, arguments=arguments, for_group=True)
        else:
            self.call(generate, *geometry, arguments=[*arguments, 1, 0])

    def call(
        self,
        generate: Callable[..., str],
        *geometry: Any,
        arguments: Sequence[Any],
        for_group: bool = False,
        **options: Any,
    ) -> None:
        """A call of the kernel that `generate` makes for a geometry.

        Raises:
          CapacityError: it would be too much code.
        """
        key = (generate, geometry, tuple(sorted(options.items())))
        if key not in self.kernels:
            name = f"{generate.__name__}_{len(self.kernels)}"
            self.kernels[key] = (name, generate(name, *geometry, **{"lanes": self.host.lanes, **options}))
            self._code += len(self.kernels[key][1])
        name, loop = self.kernels[key][0], self._loop or Loop(1)
        self.calls.append(Call(self.op, name, tuple(arguments), loop, self.in_tail, for_group))
        self._code += CALL_SIZE
        if self._code > MAX_CODE:
            raise CapacityError(f"the network needs more than {MAX_CODE} bytes of code.")

    @contextlib.contextmanager
    def repeated(self, turns: int) -> Iterator[None]:
        """The calls made within are made `turns` times, in turn, with `Each` argument moved on."""
        self._loop = Loop(turns)
        yield
        self._loop = None

    def array(self, table: str) -> np.ndarray:
        """All of a table, with a vector's slack behind it."""
        tail = np.zeros(4 * LINE, self._dtypes[table])
        return np.concatenate([*self._parts[table], tail])

    def module(self, inputs: Sequence[Shape], outputs: Sequence[Shape], slot: int, *, timed: bool = False) -> str:
        """The IR of all kernels and of the function that calls them.

        Images are taken, `%share` at a time, from a counter that threads share, so that none waits for one that was
        held up. Image after image runs to the tail, then all of a share run through it side by side, call after call.

        Args:
          inputs, outputs: shapes of the values that come and go.
          slot: from one image's memory for the tail to the next's, in numbers.
          timed: whether each call's turns of the processor's clock are added to an int64 of `%ticks`.
        """
        f = Function(
            ENTRY,
            ["ptr %arena", "ptr %constants", "ptr %indices", "ptr %inputs", "ptr %outputs", "ptr %next", "i64 %end",
             "i64 %share", "ptr %ticks"],
            self.host.lanes,
        )  # fmt: skip
        place = {call: number for number, call in enumerate(self.calls)}
        loops = [(loop, list(calls)) for loop, calls in itertools.groupby(self.calls, key=lambda call: call.loop)]
        with f.shared_loop("%next", "%end", "%share") as first:
            stop = f.least(f.add(first, "%share"), "%end")
            count = f.new(f"sub i64 {stop}, {first}")

            def emit(call: Call, image: Value, turn: Value) -> None:
                own = f.at("%arena", f.mul(f.new(f"sub i64 {image}, {first}"), slot))
                outside = {"slot": own, "arena": own if call.in_tail else "%arena"}
                for table, shapes in (("inputs", inputs), ("outputs", outputs)):
                    for number, shape in enumerate(shapes):
                        if any(isinstance(a, tuple) and a == (table, number) for a in call.arguments):
                            base = f.new(f"load ptr, ptr {f.at(f'%{table}', number, 'ptr')}, align 8")
                            size = int(np.prod(shape, dtype=np.int64))
                            outside[f"{table} {number}"] = f.at(base, f.mul(image, size))
                typed = ", ".join(self._argument(f, argument, outside, turn) for argument in call.arguments)
                if call.for_group:
                    typed += f", i64 {count}, i64 {slot}"
                begin = f.ticks() if timed else ""
                f.do(f"call void @{call.name}({typed})")
                if timed:
                    f.count(f.at("%ticks", place[call], "i64"), f.new(f"sub i64 {f.ticks()}, {begin}"))

            with f.loop(first, stop) as image:
                for loop, calls in loops:
                    if not calls[0].in_tail:
                        with f.turns(loop.turns) as turn:
                            for call in calls:
                                emit(call, image, turn)
            for loop, calls in loops:
                if calls[0].in_tail:
                    end = f.add(first, 1) if calls[0].for_group else stop
                    with f.turns(loop.turns) as turn, f.loop(first, end) as image:
                        for call in calls:
                            emit(call, image, turn)
        texts = [text for _, text in self.kernels.values()]
        return "\n".join((declarations(self.host.lanes), numbers.declarations(self.host.narrow), *texts, str(f)))

    @staticmethod
    def _argument(f: Function, argument: Any, outside: dict[str, Value], turn: Value) -> str:
        """An argument of a call as LLVM writes it."""
        step = 0
        if isinstance(argument, Each):
            argument, step = argument.first, argument.step
        moved = f.mul(turn, step) if step else "0"
        match argument:
            case ("constants", int(place)):
                return f"ptr {f.at('%constants', f.add(moved, place))}"
            case ("indices", int(place)):
                return f"ptr {f.at('%indices', f.add(moved, place), 'i32')}"
            case (str(table), int(number)):
                return f"ptr {outside[f'{table} {number}']}"
            case str(memory):
                return f"ptr {outside[memory]}"
            case _:
                return f"i64 {f.add(moved, int(argument))}"
