"""One layer of a supernet: every op of the space with its own weights, of which only the chosen one is computed.

Letters: B batch, H W spatial, C channels, n ops of the space, m among them that batch norm follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops as K

from nhn_tf.layers import backend, own_op
from nhn_tf.layers.batch_norm import EPSILON, MOMENTUM
from nhn_tf.layers.smooth_init import SmoothInit
from nhn_tf.values.space import Op, op_named


class _Statistics(NamedTuple):
    """The parameters and moving statistics of one batch normalisation, each float32 [C]."""

    gamma: Any
    beta: Any
    mean: Any
    variance: Any


@keras.saving.register_keras_serializable("nhn_tf")
class StackedBatchNorm(keras.layers.Layer):
    """`count` batch normalisations over the same channels, of which one is chosen at run time.

    Not called: `select` one, `normalize` with it (a pure function, allowed inside a switch), then `update` outside.

    Args:
      count: n, how many.
      momentum: of the moving statistics.
      epsilon: added to the variance.
      gamma_initializer: of the scales.
    """

    def __init__(
        self,
        count: int,
        *,
        momentum: float = MOMENTUM,
        epsilon: float = EPSILON,
        gamma_initializer: str = "ones",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.count = count
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = gamma_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (self.count, input_shape[-1])

        def add(name: str, initializer: str, trainable: bool) -> Any:
            return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=trainable, autocast=False)

        self.gamma = add("gamma", self.gamma_initializer, True)
        self.beta = add("beta", "zeros", True)
        self.moving_mean = add("moving_mean", "zeros", False)
        self.moving_variance = add("moving_variance", "ones", False)

    def select(self, one_hot: Any) -> _Statistics:
        """The set that `one_hot`, float32 [n], points at; zeros where it points at none."""
        variables = (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        return _Statistics(*(pick(one_hot, variable) for variable in variables))

    def normalize(self, x: Any, chosen: _Statistics, *, by_batch: bool) -> tuple[Any, Any, Any]:
        """Normalises x [B, H, W, C] by its own or by the moving statistics; returns them after y, float32 [C] each."""
        if by_batch:
            return backend.batch_norm_training(x, chosen.gamma, chosen.beta, epsilon=self.epsilon)
        y = backend.batch_norm_inference(x, *chosen, epsilon=self.epsilon)
        return y, chosen.mean, chosen.variance

    def update(self, one_hot: Any, mean: Any, variance: Any) -> None:
        """Moves the chosen set's statistics towards float32 [C] ones; the others keep theirs, bit for bit."""
        is_chosen = one_hot[:, None] > 0
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = K.convert_to_tensor(moving)
            moving.assign(K.where(is_chosen, old * self.momentum + value * (1.0 - self.momentum), old))

    def get_config(self) -> dict[str, Any]:
        names = ("count", "momentum", "epsilon", "gamma_initializer")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("nhn_tf")
class MixedOp(keras.layers.Layer):
    """1x1 convolution, BN, ReLU, then the chosen op; a convolution is followed by BN and ReLU (ENAS, macro search).

    So is an op of one's own that says so (`values.space.register_op`).

    Every op has its own weights for all of it. The 1x1 convolution and its BN stand outside the switch, on weights
    stacked [n, ...] from which the choice picks; only the op itself and its BN are inside. The switch's branches are
    pure: they return the batch's statistics, which are assigned outside, to the chosen op's alone. That keeps the
    graph small, and both backends accept it. With a single op there is no switch.

    Args:
      ops: names of the ops to choose from, in the genes' order.
      filters: C, channels of the result.
      smooth_init: smooth the initial k x k kernels (paper, section 2.2).
      momentum: of the moving statistics.
      epsilon: added to the variances.
      use_batch_statistics: normalise by the batch's statistics when not training too.

    Call arguments:
      inputs: [B, H, W, Cin].
      choice: int32 scalar, index into `ops`; may be left out where there is one op.
      training: whether to normalise by the batch and to update the chosen op's moving statistics.

    Output shape: [B, H, W, C].
    """

    def __init__(
        self,
        ops: Sequence[str],
        filters: int,
        *,
        smooth_init: bool = True,
        momentum: float = MOMENTUM,
        epsilon: float = EPSILON,
        use_batch_statistics: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not ops or len(set(ops)) != len(ops):
            raise ValueError(f"`ops` must name at least one op and none twice. Received: {tuple(ops)}.")
        self.ops = tuple(op_named(name) for name in ops)
        self.filters = filters
        self.smooth_init = smooth_init
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_batch_statistics = use_batch_statistics
        self.supports_jit = backend.supports_jit()
        self._normalized = [index for index, op in enumerate(self.ops) if op.has_batch_norm]
        own = (op for op in self.ops if op.kind == "own")
        self._own = {op.name: own_op.make(op, filters, op.name, dtype=self.dtype_policy) for op in own}
        bn = {"momentum": momentum, "epsilon": epsilon, "dtype": self.dtype_policy}
        self.in_bn = StackedBatchNorm(len(self.ops), name="in_bn", **bn)
        self.op_bn = StackedBatchNorm(len(self._normalized), name="op_bn", **bn) if self._normalized else None

    def build(self, inputs_shape: tuple[Any, ...], choice_shape: tuple[()] | None = None) -> None:
        channels = inputs_shape[-1]
        self.in_kernel = self.add_weight(
            name="in_kernel",
            shape=(len(self.ops), 1, 1, channels, self.filters),
            # He's, spelt out: an initializer would take the stack for a part of the kernel's window.
            initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2.0 / channels)),
        )
        self._op_kernels = [self._add_kernels(op) for op in self.ops]
        for op in self.ops:
            if op.kind == "own":
                own_op.apply(op, self._own[op.name], keras.Input((*inputs_shape[1:-1], self.filters)))
        for bn in (self.in_bn, self.op_bn):
            if bn is not None:
                bn.build((*inputs_shape[:-1], self.filters))

    def _add_kernels(self, op: Op) -> tuple[Any, ...]:
        """The weights of one of ENAS's ops: none, a kernel, or a depthwise and a pointwise kernel."""
        window, smooth = (op.kernel_size, op.kernel_size), (lambda i: SmoothInit(i) if self.smooth_init else i)
        if op.kind == "conv":
            shape = (*window, self.filters, self.filters)
            return (self.add_weight(name=f"{op.name}_kernel", shape=shape, initializer=smooth("he_normal")),)
        if op.kind == "separable_conv":
            # He's for a depthwise kernel, whose fan-in is its window.
            normal = keras.initializers.RandomNormal(stddev=math.sqrt(2.0) / op.kernel_size)
            depthwise = self.add_weight(
                name=f"{op.name}_depthwise", shape=(*window, self.filters, 1), initializer=smooth(normal)
            )
            shape = (1, 1, self.filters, self.filters)
            return depthwise, self.add_weight(name=f"{op.name}_pointwise", shape=shape, initializer="he_normal")
        return ()

    def call(self, inputs: Any, choice: Any = None, training: bool | None = None) -> Any:
        if choice is None and len(self.ops) > 1:
            raise ValueError(f"layer {self.name!r} has {len(self.ops)} ops and needs `choice`.")
        learning = bool(training) and self.trainable
        by_batch = learning or self.use_batch_statistics
        one_hot = K.one_hot(0 if choice is None else choice, len(self.ops), dtype="float32")

        x = backend.pointwise(inputs, pick(one_hot, self.in_kernel))
        x, mean, variance = self.in_bn.normalize(x, self.in_bn.select(one_hot), by_batch=by_batch)
        if learning:
            self.in_bn.update(one_hot, mean, variance)
        x = K.relu(x)

        if self.op_bn is None:
            return self._switch(choice, [self._pooling(op) for op in self.ops], x)
        among_normalized = K.stack([one_hot[index] for index in self._normalized])
        chosen = self.op_bn.select(among_normalized)
        branches = [
            self._convolution(op, weights, self.op_bn, chosen, by_batch=by_batch)
            if op.has_batch_norm
            else self._pooling(op, chosen.mean, chosen.variance)
            for op, weights in zip(self.ops, self._op_kernels, strict=True)
        ]
        y, mean, variance = self._switch(choice, branches, x)
        if learning:
            self.op_bn.update(among_normalized, mean, variance)
        return y

    def _switch(self, choice: Any, branches: list[Callable[[Any], Any]], x: Any) -> Any:
        return branches[0](x) if len(branches) == 1 else K.switch(choice, branches, x)

    def _convolution(
        self, op: Op, weights: tuple[Any, ...], bn: StackedBatchNorm, chosen: _Statistics, *, by_batch: bool
    ) -> Callable[[Any], tuple[Any, Any, Any]]:
        """The branch x -> (y, mean, variance) of a convolution, or of another op that batch norm follows."""

        def convolve(x: Any) -> Any:
            if op.kind == "own":
                return K.cast(self._own[op.name](x), x.dtype)
            if op.kind == "separable_conv":
                x = K.depthwise_conv(x, weights[0], strides=1, padding="same", data_format="channels_last")
                return backend.pointwise(x, weights[1])
            return K.conv(x, weights[0], strides=1, padding="same", data_format="channels_last")

        def branch(x: Any) -> tuple[Any, Any, Any]:
            y, mean, variance = bn.normalize(convolve(x), chosen, by_batch=by_batch)
            return K.relu(y), mean, variance

        return branch

    def _pooling(self, op: Op, *unused: Any) -> Callable[[Any], Any]:
        """The branch x -> y of a pooling or the like, or x -> (y, *unused) beside convolutions."""

        def branch(x: Any) -> Any:
            if op.kind == "avg_pool":
                y = K.average_pool(x, op.kernel_size, strides=1, padding="same", data_format="channels_last")
            elif op.kind == "own":
                y = K.cast(self._own[op.name](x), x.dtype)
            else:
                y = backend.max_pool(x)
            return (y, *unused) if unused else y

        return branch

    def compute_output_shape(
        self, inputs_shape: tuple[int | None, ...], choice_shape: tuple[()] | None = None
    ) -> tuple[int | None, ...]:
        return (*inputs_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ops": [op.name for op in self.ops],
            "filters": self.filters,
            "smooth_init": self.smooth_init,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "use_batch_statistics": self.use_batch_statistics,
        }


def pick(one_hot: Any, stack: Any) -> Any:
    """The entry of stack [n, ...] that `one_hot` [n] points at; its gradient is zero for the others."""
    stack = K.convert_to_tensor(stack)
    return K.tensordot(K.cast(one_hot, stack.dtype), stack, axes=1)
