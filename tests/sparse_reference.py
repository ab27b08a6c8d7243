"""A program computed by NumPy in float64, slowly and plainly, and random programs to compare with."""

import numpy as np

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


def output_size(shape, window, strides, *, same):
    if not same:
        return tuple((side - size) // stride + 1 for side, size, stride in zip(shape, window, strides)), (0, 0)  # noqa: B905
    size = tuple(-(-side // stride) for side, stride in zip(shape, strides))  # noqa: B905
    total = [max((size[i] - 1) * strides[i] + window[i] - shape[i], 0) for i in (0, 1)]
    return size, (total[0] // 2, total[1] // 2)


def compute(program, *images):
    """What the program's outputs are: a list of float64 arrays."""
    given = iter(images)
    values = []
    for op in program.ops:
        inputs = [values[value] for value in op.inputs]
        values.append(np.asarray(next(given), float) if isinstance(op, ops.Input) else _OPS[type(op)](op, *inputs))
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
    power = np.exp(x - x.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


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
    choice = rng.choice(["conv", "conv", "conv", "depthwise", "pool", "concat", "add", "affine", "pad", "repeat"])
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
    scale, shift = rng.standard_normal((2, shape[2])).astype(np.float32)
    activation = str(rng.choice([name for name in ops.ACTIVATIONS if name != "exponential"]))
    return ops.Elementwise(inputs=(value,), scale=scale, shift=shift, activation=activation)
