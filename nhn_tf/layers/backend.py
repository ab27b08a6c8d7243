"""The one place where TensorFlow and JAX differ: kernels of layers, gated gradients, whether to compile with XLA.

Everything else in the package is written in `keras.ops`. Only the library of the running backend is imported.

Letters: B batch, H W spatial, C channels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
from keras import ops

_IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _IS_TENSORFLOW:
    import tensorflow as tf
else:
    import jax

_JAX_FLAG = "--xla_gpu_deterministic_ops=true"
# The fused kernel takes these inputs (its parameters and statistics are float32) ...
_FUSED_DTYPES = ("float16", "bfloat16", "float32")
# ... and no epsilon below cuDNN's least.
_FUSED_LEAST_EPSILON = 1e-5


def default_jit_compile() -> bool | Literal["auto"]:
    """What `compile(jit_compile=...)` should be for models of this package.

    On TensorFlow's CPU XLA takes minutes to compile these models, which then run no faster; elsewhere Keras decides.
    """
    on_cpu = _IS_TENSORFLOW and not tf.config.list_physical_devices("GPU")
    return False if on_cpu else "auto"


def supports_jit() -> bool:
    """The value of a layer's `supports_jit`, by which Keras resolves `jit_compile="auto"`."""
    return default_jit_compile() is not False


@functools.cache
def _on_tensorflow_cpu() -> bool:
    """Whether the kernels below are better than TensorFlow's own: they were measured on its CPU only."""
    return _IS_TENSORFLOW and default_jit_compile() is False


def sync_state(model: keras.Model) -> None:
    """Brings the variables of a model up to date for a callback within an epoch: JAX keeps them elsewhere meanwhile."""
    if not _IS_TENSORFLOW:
        model.jax_state_sync()


def make_deterministic() -> None:
    """Makes the backend take the same path at every run, at a cost; to be called before it computes anything.

    On TensorFlow every operation is made deterministic, for the life of the process; on JAX this goes for GPUs (on CPUs
    it is so anyway).
    """
    if _IS_TENSORFLOW:
        tf.config.experimental.enable_op_determinism()
    elif _JAX_FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_JAX_FLAG}".strip()


def sum_over_replicas(tensors: Sequence[Any]) -> list[Any]:
    """The sum of each tensor over the replicas of a `tf.distribute` strategy, within its `run`; else the tensors."""
    if not _is_replicated():
        return list(tensors)
    return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def parts(variable: keras.Variable) -> Sequence[Any]:
    """What is to be kept of a metric's variable, each assignable: under a `tf.distribute` strategy each replica's sum.

    Their sum, which Keras reads, would be shared anew when it is put back, and later sums be rounded elsewhere.
    """
    return getattr(variable.value, "values", None) or [variable]


def _is_replicated() -> bool:
    """Whether this is called within one of several replicas, each of which sees a part of the batch."""
    return _IS_TENSORFLOW and tf.distribute.in_cross_replica_context() is False and _replicas() > 1


def _replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def batch_norm_training(x: Any, gamma: Any, beta: Any, *, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalises by the statistics of the batch.

    Args:
      x: [..., C], channels last. The fused kernel of TensorFlow is used for [B, H, W, C], `ops.moments` otherwise.
      gamma, beta: float32 [C].

    Returns:
      y of `x`'s shape and dtype; mean and variance, float32 [C]. The variance is the biased one (divided by B*H*W), as
      Keras defines it for moving averages: the fused kernel's is unbiased and is converted, so the backends agree.

    Where replicas see a part of the batch each, the statistics are the whole batch's.
    """
    if _is_replicated():
        wide = _at_least_float32(x)
        mean, variance = _moments_over_replicas(wide)
        return _normalize(wide, gamma, beta, mean, variance, epsilon, x.dtype), mean, variance
    if _can_fuse(x, epsilon):
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, is_training=True)
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), variance.dtype)
        return _unfusable(y, x), mean, variance * (count - 1.0) / count
    wide = _at_least_float32(x)
    mean, variance = ops.moments(wide, axes=tuple(range(len(x.shape) - 1)))
    return _normalize(wide, gamma, beta, mean, variance, epsilon, x.dtype), mean, variance


def _moments_over_replicas(x: Any) -> tuple[Any, Any]:
    """Mean and biased variance, [C], of the parts of [..., C] that all replicas have."""
    axes = list(range(len(x.shape) - 1))
    total, count = sum_over_replicas([tf.reduce_sum(x, axes), tf.cast(tf.size(x) // x.shape[-1], x.dtype)])
    mean = total / count
    (squares,) = sum_over_replicas([tf.reduce_sum(tf.square(x - mean), axes)])
    return mean, squares / count


def batch_norm_inference(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, *, epsilon: float) -> Any:
    """Normalises by given statistics.

    Args:
      x: [..., C], channels last.
      gamma, beta, mean, variance: float32 [C].

    Returns:
      y of `x`'s shape and dtype.
    """
    if _can_fuse(x, epsilon):
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=epsilon, is_training=False)
        return _unfusable(y, x)
    return _normalize(_at_least_float32(x), gamma, beta, mean, variance, epsilon, x.dtype)


def _can_fuse(x: Any, epsilon: float) -> bool:
    dtype = keras.backend.standardize_dtype(x.dtype)
    return _IS_TENSORFLOW and len(x.shape) == 4 and dtype in _FUSED_DTYPES and epsilon >= _FUSED_LEAST_EPSILON


def _unfusable(y: Any, x: Any) -> Any:
    """Keeps TensorFlow's graph optimiser from merging a following ReLU into the kernel: the merged one is slower."""
    return tf.ensure_shape(y, x.shape)


def _at_least_float32(x: Any) -> Any:
    return ops.cast(x, keras.backend.result_type(keras.backend.standardize_dtype(x.dtype), "float32"))


def _normalize(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, dtype: Any) -> Any:
    gamma, beta, mean, variance = (ops.cast(value, x.dtype) for value in (gamma, beta, mean, variance))
    y = ops.batch_normalization(x, mean, variance, axis=-1, offset=beta, scale=gamma, epsilon=epsilon)
    return ops.cast(y, dtype)


def gate_gradient(function: Callable[..., Any], inputs: Sequence[Any], needed: Any) -> Any:
    """`function(*inputs)`, whose backward pass runs only where it is needed, decided at run time.

    Args:
      function: of tensors, to one tensor. It may read variables, but none that is to get a gradient.
      inputs: its arguments, floating-point tensors.
      needed: bool scalar tensor. Where it is False every gradient with respect to `inputs` is 0, and none of
        `function`'s gradients is computed.

    Returns:
      What `function` returns.
    """
    gate = _gate_gradient_tensorflow if _IS_TENSORFLOW else _gate_gradient_jax
    return gate(function, tuple(ops.convert_to_tensor(x) for x in inputs), needed)


def _gate_gradient_tensorflow(function: Callable[..., Any], inputs: tuple[Any, ...], needed: Any) -> Any:
    @tf.custom_gradient
    def gated(*tensors: Any) -> tuple[Any, Callable[..., Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            y = function(*tensors)

        def backward(dy: Any, variables: Sequence[Any] = ()) -> Any:
            grads = tf.cond(
                needed,
                lambda: tuple(tape.gradient(y, tensors, dy, unconnected_gradients=tf.UnconnectedGradients.ZERO)),
                lambda: tuple(tf.zeros_like(x) for x in tensors),
            )
            return (grads, [None] * len(variables)) if variables else grads

        return y, backward

    return gated(*inputs)


def _gate_gradient_jax(function: Callable[..., Any], inputs: tuple[Any, ...], needed: Any) -> Any:
    @jax.custom_vjp
    def gated(needed: Any, *tensors: Any) -> Any:
        return function(*tensors)

    def forward(needed: Any, *tensors: Any) -> tuple[Any, Any]:
        y, pullback = jax.vjp(function, *tensors)
        return y, (needed, pullback, tensors)

    def backward(residuals: Any, dy: Any) -> tuple[Any, ...]:
        needed, pullback, tensors = residuals
        zeros = lambda: tuple(jax.numpy.zeros_like(x) for x in tensors)  # noqa: E731
        return (None, *jax.lax.cond(needed, lambda: pullback(dy), zeros))

    gated.defvjp(forward, backward)
    return gated(needed, *inputs)


def max_pool(x: Any) -> Any:
    """Maximum over 3x3 pixels, stride 1, those beyond the border left out: [B, H, W, C] to the same.

    On TensorFlow's CPU the gradient is our own, TensorFlow's being slow there (`docs/performance.md`). Where several
    pixels are the largest, it goes to the first of them, row by row, as TensorFlow's does.
    """
    if _on_tensorflow_cpu() and None not in x.shape[1:]:
        return _tensorflow_max_pool()(x)
    return ops.max_pool(x, 3, strides=1, padding="same", data_format="channels_last")


@functools.cache
def _tensorflow_max_pool() -> Callable[[Any], Any]:
    backward = tf.function(_max_pool_backward, jit_compile=True, autograph=False)

    # A custom gradient within a branch of a switch must stand in a function of its own.
    @functools.partial(tf.function, autograph=False)
    @tf.custom_gradient
    def pool(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        y = tf.nn.max_pool2d(x, 3, 1, "SAME")
        return y, lambda dy: backward(dy, y, x)

    return pool


def _max_pool_backward(dy: Any, y: Any, x: Any) -> Any:
    """The gradient of x, from the maxima of rows of 3 pixels and the maxima of 3 of those."""
    lowest = x.dtype.min
    across = tf.maximum(tf.maximum(_shifted(x, -1, 2, lowest), x), _shifted(x, 1, 2, lowest))
    return _running_max_backward(_running_max_backward(dy, y, across, 1), across, x, 2)


def _running_max_backward(dy: Any, y: Any, x: Any, axis: int) -> Any:
    """The gradient of x, where y[i] = max(x[i - 1], x[i], x[i + 1]) along an axis; the first of equals has it."""
    zero = tf.zeros_like(dy)
    is_before = tf.equal(_shifted(x, -1, axis, x.dtype.min), y)
    before, rest = tf.where(is_before, dy, zero), tf.where(is_before, zero, dy)
    here = tf.where(tf.equal(x, y), rest, zero)
    return _shifted(before, 1, axis, 0.0) + here + _shifted(rest - here, -1, axis, 0.0)


def _shifted(x: Any, by: int, axis: int, beyond: float) -> Any:
    """x[i + by] at i along an axis of a 4-D tensor, `beyond` past its ends; `by` is 1 or -1."""
    pads, begin, size = [[0, 0]] * 4, [0] * 4, [-1] * 4
    pads[axis], begin[axis], size[axis] = [1, 1], 1 + by, x.shape[axis]
    return tf.slice(tf.pad(x, pads, constant_values=tf.cast(beyond, x.dtype)), begin, size)


def pointwise(x: Any, kernel: Any) -> Any:
    """A 1x1 convolution: x [B, H, W, Cin], kernel [1, 1, Cin, Cout] to [B, H, W, Cout].

    On TensorFlow's CPU it is a product of matrices, which is faster there (`docs/performance.md`).
    """
    if _on_tensorflow_cpu() and None not in x.shape[1:]:
        y = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), tf.reshape(kernel, kernel.shape[2:]))
        return tf.reshape(y, (-1, *x.shape[1:-1], kernel.shape[-1]))
    return ops.conv(x, kernel, strides=1, padding="valid", data_format="channels_last")


def add_where(bit: Any, x: Any, other: Any) -> Any:
    """x + other where the scalar `bit` is not 0, else x; both [B, H, W, C].

    On TensorFlow's CPU `other` is not even read where it is not added; XLA rather multiplies it by the bit on its way.
    """
    if _on_tensorflow_cpu():
        return _tensorflow_add_where()(bit, x, other)
    return x + ops.cast(bit, x.dtype) * other


@functools.cache
def _tensorflow_add_where() -> Callable[..., Any]:
    @functools.partial(tf.function, autograph=False)
    @tf.custom_gradient
    def add(bit: Any, x: Any, other: Any) -> tuple[Any, Callable[[Any], Any]]:
        def backward(dy: Any) -> tuple[Any, ...]:
            return None, dy, tf.cond(bit != 0, lambda: tf.identity(dy), lambda: tf.zeros_like(dy))

        return tf.cond(bit != 0, lambda: x + other, lambda: tf.identity(x)), backward

    return add


def factorized_reduction(x: Any, kernel_a: Any, kernel_b: Any) -> Any:
    """Two 1x1 convolutions of stride 2, the second on the map shifted by one pixel along both axes, side by side.

    On TensorFlow's CPU they are two products of matrices, with a gradient of their own; elsewhere one 2x2 convolution
    whose kernel is zero off the diagonal: the same numbers, and the gradient needs no strided slice.

    Args:
      x: [B, H, W, Cin], H and W even.
      kernel_a, kernel_b: [1, 1, Cin, Fa] and [1, 1, Cin, Fb].

    Returns:
      [B, H / 2, W / 2, Fa + Fb].
    """
    if _on_tensorflow_cpu() and None not in x.shape[1:]:
        return _tensorflow_reduction()(x, kernel_a[0, 0], kernel_b[0, 0])
    corner_a = ops.pad(kernel_a, ((0, 1), (0, 1), (0, 0), (0, kernel_b.shape[-1])))
    corner_b = ops.pad(kernel_b, ((1, 0), (1, 0), (0, 0), (kernel_a.shape[-1], 0)))
    return ops.conv(x, corner_a + corner_b, strides=2, padding="valid", data_format="channels_last")


@functools.cache
def _tensorflow_reduction() -> Callable[..., Any]:
    place = tf.function(_place_on_diagonal, jit_compile=True, autograph=False)

    @functools.partial(tf.function, autograph=False)
    @tf.custom_gradient
    def reduce(x: Any, a: Any, b: Any) -> tuple[Any, Callable[[Any], Any]]:
        _, height, width, channels = x.shape
        # Each row holds two pixels side by side, and each pair of rows what becomes one row.
        pairs = tf.reshape(x, (-1, 2, width // 2, 2 * channels))
        even = tf.reshape(pairs[:, 0, :, :channels], (-1, channels))
        odd = tf.reshape(pairs[:, 1, :, channels:], (-1, channels))
        y = tf.concat([tf.matmul(even, a), tf.matmul(odd, b)], axis=-1)

        def backward(dy: Any) -> tuple[Any, Any, Any]:
            dy = tf.reshape(dy, (-1, dy.shape[-1]))
            dy_a, dy_b = dy[:, : a.shape[-1]], dy[:, a.shape[-1] :]
            shape = (-1, height // 2, 1, width // 2, 1, channels)
            to_even = tf.reshape(tf.matmul(dy_a, a, transpose_b=True), shape)
            to_odd = tf.reshape(tf.matmul(dy_b, b, transpose_b=True), shape)
            dx = tf.reshape(place(to_even, to_odd), (-1, height, width, channels))
            return dx, tf.matmul(even, dy_a, transpose_a=True), tf.matmul(odd, dy_b, transpose_a=True)

        return tf.reshape(y, (-1, height // 2, width // 2, y.shape[-1])), backward

    return reduce


def _place_on_diagonal(even: Any, odd: Any) -> Any:
    """[n, h, 1, w, 1, C] twice to [n, h, 2, w, 2, C]: at (0, 0) the one, at (1, 1) the other, elsewhere 0."""
    first, second = (tf.one_hot(i, 2, dtype=even.dtype) for i in (0, 1))
    rows, columns = (1, 1, 2, 1, 1, 1), (1, 1, 1, 1, 2, 1)
    upper = tf.reshape(first, rows) * tf.reshape(first, columns) * even
    return upper + tf.reshape(second, rows) * tf.reshape(second, columns) * odd
