"""Generators of the kernels that read vectors (C,): sums, activations, dense layers, softmax.

Each function returns the LLVM IR of one kernel; sizes and places are data. `%arena` is the float32 memory in which all
values of one image lie.
"""

from __future__ import annotations

from nhn_tf.sparse.native.activations import Activation, activate, exp
from nhn_tf.sparse.native.emitter import Function, Value


def elementwise_vector(name: str, inputs: int, *, affine: bool, activation: Activation, lanes: int) -> str:
    """activation(scale * (sum of vectors) + shift): `%factors` is [2, C], C rounded up to whole registers."""
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %sources", "i64 %target", "i64 %size", "ptr noalias %factors"],
        lanes,
    )
    sources = [f.at("%arena", f.index("%sources", number)) for number in range(inputs)]
    target = f.at("%arena", "%target")
    with f.loop(0, "%size", lanes) as i:
        values = [f.load(f.at(source, i)) for source in sources]
        result = values[0]
        for value in values[1:]:
            result = f.math("fadd", result, value)
        if affine:
            scale, shift = f.load(f.at("%factors", i)), f.load(f.at("%factors", f.add(i, "%size")))
            result = f.multiply_add(result, scale, shift)
        f.store(activate(f, result, activation), f.at(target, i))
    return str(f)


IMAGES = 4
"""Images whose sums a dense layer holds at a time: a weight that is read serves them all."""


def dense(name: str, activation: Activation, vectors: int, lanes: int) -> str:
    """activation(vector @ kernel + bias) of images that lie `%slot` apart.

    The kernel is [blocks, inputs, vectors * lanes], filled up with zeros. Each image's sums are the same, however many
    there are.
    """
    f = Function(
        name,
        ["ptr noalias %arena", "i64 %source", "i64 %target", "i64 %inputs", "i64 %blocks", "ptr noalias %kernel",
         "ptr noalias %bias", "i64 %images", "i64 %slot"],
        lanes,
    )  # fmt: skip
    width = vectors * lanes
    sums = {(image, number): f.variable() for image in range(IMAGES) for number in range(vectors)}
    whole = f.new(f"and i64 %images, {-IMAGES}")
    with f.loop(0, "%blocks") as block:
        first = f.mul(block, width)
        kernel = f.at("%kernel", f.mul(first, "%inputs"))
        for together, start, stop in ((IMAGES, "0", whole), (1, whole, "%images")):
            with f.loop(start, stop, together) as image:
                arenas = [f.at("%arena", f.mul(f.add(image, number), "%slot")) for number in range(together)]
                sources, targets = ([f.at(arena, place) for arena in arenas] for place in ("%source", "%target"))
                held = [key for key in sums if key[0] < together]
                for key in held:
                    f.write(sums[key], f.load(f.at("%bias", f.add(first, key[1] * lanes))))
                with f.loop(0, "%inputs") as i:
                    row = f.at(kernel, f.mul(i, width))
                    weights = [f.load(f.at(row, number * lanes)) for number in range(vectors)]
                    values = [f.broadcast(f.at(source, i)) for source in sources]
                    for key in held:
                        f.write(sums[key], f.multiply_add(values[key[0]], weights[key[1]], f.read(sums[key])))
                for key in held:
                    result = activate(f, f.read(sums[key]), activation)
                    f.store(result, f.at(targets[key[0]], f.add(first, key[1] * lanes)))
    return str(f)


def softmax(name: str, lanes: int) -> str:
    """exp(x - max) / sum; `%outside` [size] is 0 for the vector's numbers and -infinity in the lanes behind them."""
    f = Function(name, ["ptr noalias %arena", "i64 %source", "i64 %target", "i64 %size", "ptr noalias %outside"], lanes)
    source, target = f.at("%arena", "%source"), f.at("%arena", "%target")
    largest, total = f.variable(), f.variable()

    def logits(i: Value) -> Value:
        outside = f.load(f.at("%outside", i))
        inside = f.new(f"fcmp oeq {f.vector} {outside}, {f.constant(0)}")
        return f.select(inside, f.load(f.at(source, i)), outside)

    f.write(largest, f.constant(float("-inf")))
    with f.loop(0, "%size", lanes) as i:
        f.write(largest, f.largest(f.read(largest), logits(i)))
    top = f.splat(f.reduce("fmaximum", f.read(largest)))
    f.write(total, f.constant(0))
    with f.loop(0, "%size", lanes) as i:
        value = logits(i)
        inside = f.new(f"fcmp une {f.vector} {value}, {f.constant(float('-inf'))}")
        power = f.select(inside, exp(f, f.math("fsub", value, top)), f.constant(0))
        f.store(power, f.at(target, i))
        f.write(total, f.math("fadd", f.read(total), power))
    whole = f.splat(f.reduce("fadd", f.read(total)))
    with f.loop(0, "%size", lanes) as i:
        place = f.at(target, i)
        f.store(f.math("fdiv", f.load(place), whole), place)
    return str(f)
