"""A program computed by NumPy in float64, slowly and plainly, and random programs to compare with."""

import ctypes
import dataclasses
import functools
import math

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

from nhn_tf.sparse.assembly import assemble, new_arena
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan.windows import joined
from nhn_tf.sparse.program import operations as ops


def random_conv(rng, shape, filters, *, window, strides=(1, 1), same=True, density=1.0, value=0, **settings):
    """A convolution of a map `shape` with about `density` of its kernels alive."""
    size, pads = output_size(shape, window, strides, same=same)
    mask = rng.random((shape[2], filters)) < density
    live = int(mask.sum())
    scale = 1 / np.sqrt(max(live / filters, 1) * window[0] * window[1])
    return ops.Conv(
        inputs=(value,), window=window, strides=strides, pads=pads, size=size, mask=mask,
        kernels=(scale * rng.standard_normal((live, *window))).astype(np.float32),
        bias=rng.standard_normal(filters).astype(np.float32), **settings,
    )  # fmt: skip


def single(rng, shape, filters, **settings):
    """A program of one convolution."""
    conv = random_conv(rng, shape, filters, **settings)
    return ops.Program((ops.Input(inputs=(), size=shape), conv), (1,))


def pruned_together(rng, block):
    """A program of one 1x1 convolution, of which so many neighbouring filters have each lost the same inputs."""
    mask = np.repeat(rng.random((96, 48 // block)) < 0.1, block, axis=1)
    conv = ops.Conv(
        inputs=(0,), window=(1, 1), strides=(1, 1), pads=(0, 0), size=(16, 16), mask=mask,
        kernels=rng.standard_normal((int(mask.sum()), 1, 1)).astype(np.float32), bias=np.zeros(48, np.float32),
    )  # fmt: skip
    return ops.Program((ops.Input(inputs=(), size=(16, 16, 96)), conv), (1,))


def residual_block(rng, height, width):
    """Two convolutions in a row, the sum of what both make, scaled and shifted, and a convolution of that."""
    size = (height, width, 6)
    convs = [random_conv(rng, size, 6, window=(3, 3), density=0.6, value=value) for value in (0, 1, 3)]
    scale, shift = rng.standard_normal((2, 6)).astype(np.float32)
    total = ops.Elementwise(inputs=(1, 2), scale=scale, shift=shift, activation="silu")
    return ops.Program((ops.Input(inputs=(), size=size), *convs[:2], total, convs[2]), (4,))


def images_of(program, count=2, seed=1):
    """Random images for each input."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, *program.shapes[value])).astype(np.float32) for value in program.inputs]


def check_images_side_by_side(runtime, images):
    """An image's bits depend neither on those beside it nor on the threads."""
    assert runtime.plan.group > 1
    together = runtime(*images)
    for first in range(len(images[0])):
        for one, all_ in zip(runtime(*(image[first : first + 1] for image in images)), together, strict=True):
            np.testing.assert_array_equal(one[0], all_[first])
    for found, expected in zip(runtime(*images, threads=3), together, strict=True):
        np.testing.assert_array_equal(found, expected)


def output_size(shape, window, strides, *, same):
    if not same:
        return tuple((side - size) // stride + 1 for side, size, stride in zip(shape, window, strides)), (0, 0)  # noqa: B905
    size = tuple(-(-side // stride) for side, stride in zip(shape, strides))  # noqa: B905
    total = [max((size[i] - 1) * strides[i] + window[i] - shape[i], 0) for i in (0, 1)]
    return size, (total[0] // 2, total[1] // 2)


def to_bfloat16(x):
    """The nearest number of 8 significant bits, ties to even."""
    fraction, exponent = np.frexp(np.asarray(x, float))
    return np.ldexp(np.rint(fraction * 256) / 256, exponent)


class to_int8:
    """Brings values to steps of their own: 255 of maps that have nothing below 0, else 127 on either side."""

    def __init__(self, program, ranges, packed=()):
        self._program, self._ranges, self._packed = program, ranges, packed
        self._groups = joined(program)
        self._signed = {self._groups[value] for value, ends in ranges.items() if ends[0] < 0}

    def steps(self, value):
        op = self._program.ops[value]
        if isinstance(op, ops.Concatenate) and value in self._packed:
            return np.concatenate([self.steps(part) for part in op.inputs])
        most = 127 if self._groups[value] in self._signed else 255
        return np.full(self._program.shapes[value][-1], max(np.abs(self._ranges[value]).max(), 1e-30) / most)

    def __call__(self, value, x):
        least, most = (-127, 127) if self._groups[value] in self._signed else (0, 255)
        return np.clip(np.rint(x / self.steps(value)), least, most) * self.steps(value)


def _int8_kernels(op, steps):
    """Of -127 to 127 steps of each filter's largest weight, each times what 1 stands for in its channel."""
    filters, channels = np.nonzero(op.mask.T)
    result = op.kernels.astype(np.float64)
    for number in range(op.mask.shape[1]):
        own, unit = filters == number, steps[channels[filters == number]][:, None, None]
        if own.any():
            step = max(np.abs(result[own] * unit).max() / 127, 1e-30)
            result[own] = np.rint(result[own] * unit / step) * step / unit
    return result


def _int8_dense(op, x, ends):
    most = 127 if ends[0] < 0 else 255
    steps = max(np.abs(ends).max(), 1e-30) / most
    kernel = op.kernel * steps
    step = np.maximum(np.abs(kernel).max(0) / 127, 1e-30)
    total = np.clip(np.rint(x / steps), -127 if most == 127 else 0, most) @ np.rint(kernel / step) * step
    return activate(total + op.bias, op.activation, op.slope)


def compute(program, *images, packed=(), ranges=None):
    """What the program's outputs are: a list of float64 arrays.

    Operations among `packed` make bfloat16 numbers or, with `ranges` of their maps, int8; convolutions among them read
    such, too, and their weights are. Sums are exact.
    """
    given = iter(images)
    values = []
    narrow = (lambda number, x: to_bfloat16(x)) if ranges is None else to_int8(program, ranges, packed)
    for number, op in enumerate(program.ops):
        inputs = [values[value] for value in op.inputs]
        if number in packed and isinstance(op, ops.Dense):
            values.append(_int8_dense(op, inputs[0], ranges[op.inputs[0]]))
            continue
        if number in packed and isinstance(op, (ops.Conv, ops.Elementwise)):
            inputs = [narrow(value, x) for value, x in zip(op.inputs, inputs, strict=True)]
        if number in packed and isinstance(op, ops.Conv):
            kernels = to_bfloat16(op.kernels) if ranges is None else _int8_kernels(op, narrow.steps(op.inputs[0]))
            values.append(narrow(number, _conv(dataclasses.replace(op, kernels=kernels), inputs[0])))
            continue
        if isinstance(op, ops.Input):
            values.append(np.asarray(next(given), float))
        elif number in packed and isinstance(op, ops.Elementwise):
            values.append(narrow(number, _elementwise(op, *inputs)))
        elif isinstance(op, ops.Constant):
            values.append(np.repeat(op.values[None].astype(float), len(images[0]), axis=0))
        else:
            values.append(_OPS[type(op)](op, *inputs))
    return [values[value] for value in program.outputs]


def activate(x, name, slope):
    with np.errstate(over="ignore"):
        return {
            "linear": lambda: x,
            "relu": lambda: np.maximum(x, 0),
            "relu6": lambda: np.clip(x, 0, 6),
            "leaky_relu": lambda: np.where(x < 0, slope * x, x),
            "exponential": lambda: np.exp(x),
            "sigmoid": lambda: 1 / (1 + np.exp(-x)),
            "silu": lambda: x / (1 + np.exp(-x)),
            "tanh": lambda: np.tanh(x),
            "elu": lambda: np.where(x < 0, slope * np.expm1(x), x),
            "gelu": lambda: x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
            "gelu_tanh": lambda: x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
            "hard_sigmoid": lambda: np.clip(x + 3, 0, 6) / 6,
            "hard_silu": lambda: x * np.clip(x + 3, 0, 6) / 6,
            "hard_tanh": lambda: np.clip(x, -1, 1),
            "softplus": lambda: np.logaddexp(0, x),
            "log_sigmoid": lambda: -np.logaddexp(0, -x),
            "softsign": lambda: x / (1 + np.abs(x)),
            "mish": lambda: x * np.tanh(np.logaddexp(0, x)),
            "squareplus": lambda: (x + np.sqrt(x * x + slope)) / 2,
            "sparse_plus": lambda: np.where(x <= -1, 0, np.where(x < 1, (x + 1) ** 2 / 4, x)),
            "sparse_sigmoid": lambda: np.clip((x + 1) / 2, 0, 1),
            "hard_shrink": lambda: np.where(np.abs(x) <= slope, 0, x),
            "soft_shrink": lambda: x - np.clip(x, -slope, slope),
            "tanh_shrink": lambda: x - np.tanh(x),
            "absolute": lambda: np.abs(x),
            "square": lambda: x * x,
        }[name]()


def windows(op, x, fill):
    """[B, H', W', kh, kw, C]: what lies under the window of each output."""
    out = np.full((len(x), *op.size, *op.window, x.shape[3]), fill)
    for index in np.ndindex(*op.size, *op.window):
        y, column = (index[i] * op.strides[i] + index[2 + i] - op.pads[i] for i in (0, 1))
        if 0 <= y < x.shape[1] and 0 <= column < x.shape[2]:
            out[(slice(None), *index)] = x[:, y, column]
    return out


def _conv(op, x):
    kernel = np.zeros((op.mask.shape[1], op.mask.shape[0], *op.window))
    kernel[op.mask.T] = op.kernels
    x = np.maximum(x, 0) if op.relu_input else x
    return activate(np.einsum("bhwyxi,oiyx->bhwo", windows(op, x, 0.0), kernel) + op.bias, op.activation, op.slope)


def _depthwise(op, x):
    x = np.repeat(np.maximum(x, 0) if op.relu_input else x, op.multiplier, axis=3)
    y = np.einsum("bhwyxc,cyx->bhwc", windows(op, x, 0.0), op.kernels.astype(float)) + op.bias
    return activate(y, op.activation, op.slope)


def _pool(op, x):
    reduce = np.nanmax if op.kind == "max" else np.nanmean
    return reduce(windows(op, x, np.nan), axis=(3, 4))


def _elementwise(op, *xs):
    total = sum(xs)
    if op.scale is not None:
        total = total * op.scale.astype(float) + op.shift
    return activate(total, op.activation, op.slope)


def _global_pool(op, x):
    if op.kind == "weighted":
        return (x * op.weights).sum((1, 2))
    return x.max((1, 2)) if op.kind == "max" else x.mean((1, 2))


def _softmax(op, x):
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def _combine(op, *xs):
    if any(x.ndim == 4 for x in xs):
        xs = [x if x.ndim == 4 else x[:, None, None] for x in xs]
    return functools.reduce(_COMBINATIONS[op.kind], xs)


_COMBINATIONS = {
    "sum": np.add, "product": np.multiply, "quotient": np.divide, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip


def _normalize(op, x):
    parts = x.reshape(len(x), -1, max(op.groups, 1), x.shape[-1] // max(op.groups, 1))
    axes = (1, 3)
    if not op.groups:
        parts, axes = x, -1
    off = parts - parts.mean(axes, keepdims=True) if op.center else parts
    return (off / np.sqrt((off**2).mean(axes, keepdims=True) + op.epsilon)).reshape(x.shape)


def _interleave(op, x):
    (down, right), (top, left), (height, width) = op.factors, op.corner, op.size
    groups = x.reshape(*x.shape[:3], down, right, -1).transpose(0, 1, 3, 2, 4, 5)
    whole = groups.reshape(len(x), x.shape[1] * down, x.shape[2] * right, -1)
    return whole[:, top : top + height, left : left + width]


def _pad(op, x):
    out = np.zeros((len(x), *op.size, x.shape[3]))
    for y, column in np.ndindex(*op.size):
        if 0 <= y - op.pads[0] < x.shape[1] and 0 <= column - op.pads[1] < x.shape[2]:
            out[:, y, column] = x[:, y - op.pads[0], column - op.pads[1]]
    return out


_OPS = {
    ops.Conv: _conv,
    ops.Depthwise: _depthwise,
    ops.Pool: _pool,
    ops.Elementwise: _elementwise,
    ops.Concatenate: lambda op, *xs: np.concatenate(xs, -1),
    ops.GlobalPool: _global_pool,
    ops.Dense: lambda op, x: activate(x @ op.kernel.astype(float) + op.bias, op.activation, op.slope),
    ops.Softmax: _softmax,
    ops.Reshape: lambda op, x: x.reshape(len(x), 1, 1, -1) if x.ndim == 2 else x.reshape(len(x), -1),
    ops.Pad: _pad,
    ops.Combine: _combine,
    ops.Normalize: _normalize,
    ops.Unflatten: lambda op, x: x.reshape(len(x), *op.size),
    ops.Transpose: lambda op, x: x.transpose(0, 2, 1, 3),
    ops.Interleave: _interleave,
    ops.Resample: lambda op, x: np.einsum(["bhwc,oh->bowc", "bhwc,ow->bhoc"][op.axis], x, op.matrix),
    ops.Repeat: lambda op, x: x.repeat(op.factors[0], 1).repeat(op.factors[1], 2),
}


def random_program(rng, *, side=12, channels=6, length=8):
    """A program of random operations on maps of random sizes, with a head of class scores."""
    height, width = rng.integers(1, side + 1, 2)
    operations = [ops.Input(inputs=(), size=(int(height), int(width), int(rng.integers(1, channels + 1))))]
    shapes = [operations[0].size]

    def add(op):
        shapes.append(op.shape([shapes[i] for i in op.inputs]))
        operations.append(op)

    for _ in range(length):
        value = int(rng.integers(max(0, len(shapes) - 3), len(shapes)))
        add(_random_op(rng, shapes, value, channels))
    joined = len(shapes) - 1
    add(ops.GlobalPool(inputs=(joined,), kind=str(rng.choice(["average", "max"]))))
    size = shapes[-1][0]
    kernel = rng.standard_normal((size, 5)).astype(np.float32) / np.float32(np.sqrt(size))
    add(ops.Dense(inputs=(len(shapes) - 1,), kernel=kernel, bias=np.zeros(5, np.float32)))
    return ops.Program(tuple(operations), (len(shapes) - 1, joined))


def _random_op(rng, shapes, value, channels):
    shape = shapes[value]
    size = int(rng.choice([1, 2, 3, 5]))
    window = (size, size) if rng.random() < 0.8 else (size, 1)
    strides = (1, 1) if rng.random() < 0.7 else (2, 2)
    same = bool(rng.random() < 0.7) or size > min(shape[:2])
    sizes, pads = output_size(shape, window, strides, same=same)
    slide = {"inputs": (value,), "window": window, "strides": strides, "pads": pads, "size": sizes}
    partners = [i for i, other in enumerate(shapes) if other[:2] == shape[:2]]
    activation = str(rng.choice(["linear", "relu", "relu6", "leaky_relu"]))
    choice = rng.choice(
        ["conv", "conv", "conv", "depthwise", "pool", "concat", "add", "affine", "pad", "repeat", "rare", "rare"]
    )
    if choice == "conv":
        density = float(rng.choice([0.0, 0.15, 0.5, 1.0]))
        filters = int(rng.integers(1, 2 * channels))
        more = {"activation": activation, "relu_input": bool(rng.random() < 0.3)}
        return random_conv(
            rng, shape, filters, window=window, strides=strides, same=same, density=density, value=value, **more
        )
    if choice == "depthwise":
        multiplier = int(rng.integers(1, 3))
        kernels = rng.standard_normal((shape[2] * multiplier, *window)).astype(np.float32) / np.float32(size)
        bias = rng.standard_normal(shape[2] * multiplier).astype(np.float32)
        return ops.Depthwise(multiplier=multiplier, kernels=kernels, bias=bias, activation=activation, **slide)
    if choice == "pool":
        return ops.Pool(kind=str(rng.choice(["max", "average"])), **slide)
    if choice == "concat":
        return ops.Concatenate(inputs=(value, int(rng.choice(partners))))
    if choice == "add":
        return ops.Elementwise(inputs=(value, int(rng.choice([i for i in partners if shapes[i] == shape]))))
    if choice == "pad":
        top, left = (int(n) for n in rng.integers(-1, 3, 2))
        size = (max(shape[0] + top, 1), max(shape[1] + left, 1))
        return ops.Pad(inputs=(value,), pads=(top, left), size=size)
    if choice == "repeat" and max(shape[:2]) < 16:
        return ops.Repeat(inputs=(value,), factors=(2, int(rng.integers(1, 3))))
    if choice == "rare":
        return _rare_op(rng, shapes, value)
    scale, shift = rng.standard_normal((2, shape[2])).astype(np.float32)
    activation = str(rng.choice([name for name in ops.ACTIVATIONS if name != "exponential"]))
    return ops.Elementwise(inputs=(value,), scale=scale, shift=shift, activation=activation)


def _rare_op(rng, shapes, value):
    """What networks have little of, of a map; results stay as small as its values."""
    height, width, channels = shapes[value]
    choice = rng.choice(
        ["combine", "combine", "constant", "normalize", "softmax", "transpose", "interleave", "resample"]
    )
    if choice == "combine":
        spread = [
            i for i, other in enumerate(shapes)
            if other in ((height, width, channels), (1, 1, channels), (height, width, 1), (1, 1, 1))
        ]  # fmt: skip
        kind = str(rng.choice(["sum", "maximum", "minimum"]))
        return ops.Combine(inputs=(value, *(int(i) for i in rng.choice(spread, int(rng.integers(1, 3))))), kind=kind)
    if choice == "constant":
        return ops.Constant(inputs=(), values=rng.standard_normal((height, width, channels)).astype(np.float32))
    if choice == "normalize":
        groups = int(rng.choice([n for n in range(channels + 1) if not n or channels % n == 0]))
        return ops.Normalize(inputs=(value,), groups=groups, center=bool(rng.integers(2)), epsilon=0.1)
    if choice == "softmax":
        return ops.Softmax(inputs=(value,))
    if choice == "interleave":
        down, right = next(pair for pair in ((2, 2), (1, 2), (3, 1), (1, 1)) if channels % (pair[0] * pair[1]) == 0)
        corner = (int(rng.integers(down)), int(rng.integers(right)))
        size = (max(height * down - corner[0] - 1, 1), max(width * right - corner[1], 1))
        return ops.Interleave(inputs=(value,), factors=(down, right), corner=corner, size=size)
    if choice == "resample" and max(height, width) < 40:
        axis = int(rng.integers(2))
        matrix = rng.uniform(-1, 1, (int(rng.integers(1, 20)), (height, width)[axis])).astype(np.float32)
        matrix *= rng.random(matrix.shape) < 3 / matrix.shape[1]
        return ops.Resample(inputs=(value,), axis=axis, matrix=matrix)
    return ops.Transpose(inputs=(value,))


def check(program, seed, lanes, tolerance=1e-5):
    rng = np.random.default_rng(seed)
    runtime = compile_program(program, host=machine.HOSTS[lanes], threads=1)
    images = [rng.standard_normal((2, *shape)).astype(np.float32) for shape in runtime.input_shapes]
    results = runtime(*images)
    for result, expected in zip(
        results if isinstance(results, tuple) else (results,), compute(program, *images), strict=True
    ):
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(result / scale, expected / scale, atol=tolerance)
    return runtime


def check_poisoned(plan, rng, poison):
    """Poisons all of the arena that a plan writes, before it does, and demands the same bits.

    What it writes is found by filling the arena with a number that is recognised where it is left. The poison is made
    of four equal bytes or two equal halves.
    """
    code = assemble(plan)
    count = plan.group
    images = [rng.standard_normal((count, *shape)).astype(np.float32) for shape in plan.inputs]

    def run(arena):
        outputs = [np.empty((count, *shape), np.float32) for shape in plan.outputs]
        code._free = [arena]
        code.run(images, outputs, ctypes.c_int64(0), count, count)
        return outputs

    expected = run(new_arena(plan))
    marker = np.uint32(0x1E1E1E1E)
    marked, arena = new_arena(plan), new_arena(plan)
    marked.view(np.uint32)[:] = marker
    run(marked)
    written = marked.view(np.uint8) != marker & 0xFF
    arena.view(np.uint8)[written] = np.full(arena.size, poison, np.uint32).view(np.uint8)[written]
    assert written.any()
    for result, wanted in zip(run(arena), expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
