"""Makes a program cheaper without changing what it computes: folding, fusing, merging of 1x1 convolutions.

Every rule looks at one operation and its neighbours. A value may be changed only if nobody else reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.program.operations import (  # fmt: skip
    FUSED_ACTIVATIONS,
    Concatenate,
    Conv,
    Dense,
    Depthwise,
    Elementwise,
    Op,
    Pad,
    Pool,
    Program,
    ProgramError,
    Shape,
    Windowed,
)

MAX_MERGED_CHANNELS = 2048

POSITIVE = ("relu", "relu6", "sigmoid", "exponential")
"""Activations that make no number below 0."""


def optimize(program: Program) -> Program:
    """The same, simplified. Inputs stay, in their order, even if nothing reads them."""
    rewriting = _Rewriting(program)
    rewriting.fold_elementwise()
    rewriting.fold_pads()
    rewriting.relu_on_load()
    return rewriting.program()


def merge(program: Program) -> Program:
    """Less work, though perhaps more weights: what a plan does and a file does not."""
    rewriting = _Rewriting(program)
    rewriting.merge_pointwise()
    return rewriting.program()


def fold(program: Program) -> Program:
    """Only what every inference engine does: batch normalisations and activations folded into what precedes them."""
    rewriting = _Rewriting(program)
    rewriting.fold_elementwise()
    return rewriting.program()


class _Rewriting:
    """A program's operations while they change."""

    def __init__(self, program: Program):
        self.ops = list(program.ops)
        self.outputs = program.outputs

    def program(self) -> Program:
        """What is still needed, renumbered."""
        needed = set(self.outputs)
        for number in range(len(self.ops) - 1, -1, -1):
            if number in needed or self.ops[number].arity == 0:
                needed |= {number, *self.ops[number].inputs}
        place = {number: i for i, number in enumerate(sorted(needed))}
        ops = tuple(self._with_inputs(self.ops[n], [place[i] for i in self.ops[n].inputs]) for n in sorted(needed))
        return Program(ops, tuple(place[value] for value in self.outputs))

    @staticmethod
    def _with_inputs(op: Op, inputs: Sequence[int]) -> Op:
        return dataclasses.replace(op, inputs=tuple(inputs))

    def readers(self) -> list[list[int]]:
        """For each value, the operations that read it; -1 stands for the caller."""
        result: list[list[int]] = [[] for _ in self.ops]
        for number, op in enumerate(self.ops):
            for value in op.inputs:
                result[value].append(number)
        for value in self.outputs:
            result[value].append(-1)
        return result

    def bypass(self, number: int) -> None:
        """Lets the readers of an operation read its only input instead."""
        (source,) = self.ops[number].inputs
        for reader, op in enumerate(self.ops):
            if number in op.inputs:
                self.ops[reader] = self._with_inputs(op, [source if i == number else i for i in op.inputs])
        self.outputs = tuple(source if value == number else value for value in self.outputs)
        self.ops[number] = self._with_inputs(self.ops[number], ())

    def fold_elementwise(self) -> None:
        """Batch normalisations and activations become part of the operation before them."""
        for number, op in enumerate(self.ops):
            if isinstance(op, Elementwise) and len(op.inputs) == 1:
                readers = self.readers()
                if readers[op.inputs[0]] == [number] and self._fold(op.inputs[0], op, readers):
                    self.bypass(number)

    def _fold(self, number: int, after: Elementwise, readers: list[list[int]]) -> bool:
        """Makes `after` part of operation `number`, or returns False."""
        op = self.ops[number]
        if isinstance(op, Concatenate):
            return self._fold_parts(op, after, readers)
        folded = folded_into(op, after)
        if folded is None:
            return False
        self.ops[number] = folded
        return True

    def _fold_parts(self, joined: Concatenate, after: Elementwise, readers: list[list[int]]) -> bool:
        """Makes `after` part of all that is concatenated, if it scales; a ReLU alone is cheaper on load."""
        if after.scale is None or after.shift is None:
            return False
        parts: list[tuple[int, Op]] = []
        first = 0
        for value in joined.inputs:
            op = self.ops[value]
            if len(readers[value]) != 1 or not isinstance(op, Conv):
                return False
            stop = first + op.mask.shape[1]
            part = dataclasses.replace(after, scale=after.scale[first:stop], shift=after.shift[first:stop])
            folded = folded_into(op, part)
            if folded is None:
                return False
            parts.append((value, folded))
            first = stop
        for value, op in parts:
            self.ops[value] = op
        return True

    def fold_pads(self) -> None:
        """Padding with zeros becomes the pads of what slides over it, where all readers can take it."""
        shapes = self._shapes()
        for number, pad in enumerate(self.ops):
            if not isinstance(pad, Pad) or not pad.inputs or not _only_adds(pad, shapes[pad.inputs[0]]):
                continue
            source = pad.inputs[0]
            positive = getattr(self.ops[source], "activation", None) in POSITIVE
            readers = set(self.readers()[number])
            padded = {reader: _padded(self.ops[reader], pad, shapes[source], positive) for reader in readers - {-1}}
            if readers and -1 not in readers and all(padded.values()):
                for reader, op in padded.items():
                    if op is not None:
                        self.ops[reader] = op

    def relu_on_load(self) -> None:
        """A ReLU that only convolutions read is applied as they read."""
        for number, op in enumerate(self.ops):
            if not isinstance(op, Elementwise) or len(op.inputs) != 1:
                continue
            readers = self.readers()[number]
            if op.activation != "relu" or op.scale is not None or not readers or -1 in readers:
                continue
            convs = {r: conv for r in readers if isinstance(conv := self.ops[r], (Conv, Depthwise))}
            if len(convs) == len(readers):
                self.ops = [dataclasses.replace(convs[i], relu_input=True) if i in convs else o
                            for i, o in enumerate(self.ops)]  # fmt: skip
                self.bypass(number)

    def merge_pointwise(self) -> None:
        """A linear 1x1 convolution that only 1x1 convolutions read becomes part of them where that saves work."""
        shapes = self._shapes()
        all_readers = self.readers()
        for number, op in enumerate(self.ops):
            if not isinstance(op, Conv) or not _is_pointwise(op) or op.activation != "linear":
                continue
            readers = set(all_readers[number])
            after = {r: conv for r in readers if r >= 0 and isinstance(conv := self.ops[r], Conv)}
            if not readers or len(after) != len(readers):
                continue
            if not all(_reads_inside(conv, shapes[number]) and _small_enough(op, conv) for conv in after.values()):
                continue
            merged = {reader: _merged(op, conv) for reader, conv in after.items()}
            if sum(map(_work, merged.values())) < _work(op) + sum(map(_work, after.values())):
                for reader, conv in merged.items():
                    self.ops[reader] = conv
                (source,) = op.inputs
                all_readers[source] = [r for r in all_readers[source] if r != number] + all_readers[number]
                all_readers[number] = []

    def _shapes(self) -> list[Shape]:
        shapes: list[Shape] = []
        for op in self.ops:
            known = op.inputs or op.arity == 0  # Bypassed operations have lost their inputs.
            shapes.append(op.shape([shapes[value] for value in op.inputs]) if known else ())
        return shapes


def folded_into(op: Op, after: Elementwise) -> Op | None:
    """`op` with a following elementwise operation in it, or None where that cannot be."""
    if not isinstance(op, (Conv, Depthwise, Dense, Elementwise)) or op.activation != "linear":
        return None
    if not isinstance(op, Elementwise) and after.activation not in FUSED_ACTIVATIONS:
        return None
    changes: dict[str, Any] = {"activation": after.activation, "slope": after.slope}
    if after.scale is not None and after.shift is not None:
        changes |= _scaled(op, after.scale.astype(np.float64), after.shift.astype(np.float64))
    return dataclasses.replace(op, **changes)


def _only_adds(pad: Pad, shape: Shape) -> bool:
    """Whether it pads all sides of a map of this shape, or none, and cuts nothing off."""
    return all(
        before >= 0 and size >= before + side for before, size, side in zip(pad.pads, pad.size, shape, strict=False)
    )


def _padded(op: Op, pad: Pad, shape: Shape, positive: bool) -> Op | None:
    """`op` on the map, of this shape, that `pad` pads; None where it does not slide or its pads would be too deep.

    A largest value may take zeros for what lies beyond the border if no value of the map is below 0.
    """
    slides = isinstance(op, (Conv, Depthwise)) or (isinstance(op, Pool) and op.kind == "max" and positive)
    if not isinstance(op, Windowed) or not slides:
        return None
    pads = (op.pads[0] + pad.pads[0], op.pads[1] + pad.pads[1])
    folded = dataclasses.replace(op, inputs=pad.inputs, pads=pads)
    try:
        folded.shape([shape])
    except ProgramError:
        return None
    return folded


def _scaled(op: Conv | Depthwise | Dense | Elementwise, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    """The weights of scale * op + shift."""
    if isinstance(op, Elementwise):
        old_scale = np.float64(1) if op.scale is None else op.scale
        old_shift = np.float64(0) if op.shift is None else op.shift
        return {"scale": _narrow(old_scale * scale), "shift": _narrow(old_shift * scale + shift)}
    bias = {"bias": _narrow(op.bias * scale + shift)}
    if isinstance(op, Dense):
        return {"kernel": _narrow(op.kernel * scale), **bias}
    filters = np.nonzero(op.mask.T)[0] if isinstance(op, Conv) else np.arange(len(op.kernels))
    return {"kernels": _narrow(op.kernels * scale[filters][:, None, None]), **bias}


def _narrow(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def _is_pointwise(conv: Conv) -> bool:
    return conv.window == (1, 1) and conv.strides == (1, 1) and conv.pads == (0, 0)


def _reads_inside(conv: Conv, shape: Shape) -> bool:
    """Whether it is a 1x1 convolution that reads its input as it is, and no zeros from beyond the border."""
    return (
        conv.window == (1, 1)
        and not conv.relu_input
        and all(
            pad <= 0 and (size - 1) * stride - pad < side
            for pad, size, stride, side in zip(conv.pads, conv.size, conv.strides, shape, strict=False)
        )
    )


def _small_enough(first: Conv, second: Conv) -> bool:
    """Whether the product of their matrices takes no more than a second or so."""
    return max(*first.mask.shape, *second.mask.shape) <= MAX_MERGED_CHANNELS


def _matrix(conv: Conv) -> np.ndarray:
    """The weights of a 1x1 convolution as float64 [Cout, Cin]."""
    matrix = np.zeros(conv.mask.T.shape)
    matrix[conv.mask.T] = conv.kernels[:, 0, 0]
    return matrix


def _merged(first: Conv, second: Conv) -> Conv:
    """One 1x1 convolution for two, where no activation is between them."""
    product = _matrix(second) @ _matrix(first)
    mask = second.mask.T.astype(np.float32) @ first.mask.T.astype(np.float32) > 0
    return dataclasses.replace(
        second,
        inputs=first.inputs,
        mask=np.ascontiguousarray(mask.T),
        kernels=_narrow(product[mask][:, None, None]),
        bias=_narrow(_matrix(second) @ first.bias + second.bias),
        relu_input=first.relu_input,
    )


def _work(conv: Conv) -> float:
    """Multiply-adds of a 1x1 convolution."""
    return float(conv.mask.sum()) * conv.size[0] * conv.size[1]
