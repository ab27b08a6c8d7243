"""Activations of vectors, as LLVM IR."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from nhn_tf.sparse.native.emitter import Function, Value

LOG2_E = 1.4426950408889634
LN_2_HIGH, LN_2_LOW = 0.693359375, -2.12194440e-4  # Their sum is ln 2; the first has few bits, so products are exact.
EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5, 1.0, 1.0)
"""exp on [-ln(2) / 2, ln(2) / 2], highest power first (the Cephes library's, to float32 precision)."""

EXP_MOST = 88.72283
"""Of larger numbers the exponential is infinite in float32."""

LOG1P_SERIES = tuple(2 / power for power in range(17, 0, -2))
"""log(1 + u) / s = 2 + 2/3 s^2 + 2/5 s^4 + ..., s = u / (2 + u) up to 1/3; highest power of s^2 first."""


@dataclasses.dataclass(frozen=True)
class Activation:
    """What happens to a number before it is stored."""

    name: str = "linear"
    slope: float = 0.0


def activate(f: Function, value: Value, activation: Activation) -> Value:
    """An activation of all lanes; a NaN stays one.

    Raises:
      ValueError: an unknown name.
    """
    if activation.name in CURVES:
        return CURVES[activation.name](f, value)
    if activation.name in CURVES_WITH_SLOPE:
        return CURVES_WITH_SLOPE[activation.name](f, value, activation.slope)
    raise ValueError(f"unknown activation {activation.name!r}")


def exp(f: Function, value: Value) -> Value:
    """exp(x) = 2^n exp(x - n ln 2), with a polynomial for the second factor; 0 below -86, infinite where float32 is."""
    given, value = value, f.smaller(f.larger(value, f.constant(-86.0)), f.constant(EXP_MOST))
    power = f.call("rint", f.math("fmul", value, f.constant(LOG2_E)))
    rest = f.multiply_add(power, f.constant(-LN_2_HIGH), value)
    rest = f.multiply_add(power, f.constant(-LN_2_LOW), rest)
    result = _polynomial(f, rest, EXP_POLYNOMIAL)
    whole = f"<{f.lanes} x i32>"
    number = f.new(f"fcmp ord {f.vector} {power}, {power}")
    power = f.select(number, power, f.constant(0))  # a NaN is none; it stays in the polynomial
    exponent = f.new(f"fptosi {f.vector} {power} to {whole}")
    exponent = f.new(f"add {whole} {exponent}, splat (i32 126)")  # half of 2^n, which itself may be too large
    exponent = f.new(f"shl {whole} {exponent}, splat (i32 23)")
    half = f.math("fmul", result, f.new(f"bitcast {whole} {exponent} to {f.vector}"))
    result = f.math("fadd", half, half)
    result = f.select(f.new(f"fcmp ogt {f.vector} {given}, {f.constant(EXP_MOST)}"), f.constant(math.inf), result)
    return f.select(f.new(f"fcmp olt {f.vector} {given}, {f.constant(-86.0)}"), f.constant(0), result)


def _polynomial(f: Function, value: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule, highest power first."""
    result = f.constant(coefficients[0])
    for coefficient in coefficients[1:]:
        result = f.multiply_add(result, value, f.constant(coefficient))
    return result


def _scaled(f: Function, value: Value, factor: float) -> Value:
    return f.math("fmul", value, f.constant(factor))


def _between(f: Function, value: Value, low: float, high: float) -> Value:
    return f.smaller(f.larger(value, f.constant(low)), f.constant(high))


def _where(f: Function, value: Value, relation: str, bound: float, yes: Value, no: Value) -> Value:
    """`yes` in lanes in which the value is less ("olt") or more ("ogt") than a number, else `no`."""
    return f.select(f.new(f"fcmp {relation} {f.vector} {value}, {f.constant(bound)}"), yes, no)


def _sigmoid(f: Function, value: Value) -> Value:
    one = f.constant(1)
    return f.math("fdiv", one, f.math("fadd", one, exp(f, f.math("fsub", f.constant(0), value))))


def _tanh(f: Function, value: Value) -> Value:
    """2 sigmoid(2 x) - 1."""
    return f.multiply_add(_sigmoid(f, f.math("fadd", value, value)), f.constant(2), f.constant(-1))


def _gelu(f: Function, value: Value) -> Value:
    """max(x, 0) - |x| erfc(z) / 2 with z = |x| / sqrt(2), which is exact in the tail too."""
    size = f.call("fabs", value)
    z = _scaled(f, size, math.sqrt(0.5))
    t = f.math("fdiv", f.constant(1), f.multiply_add(z, f.constant(0.5), f.constant(1)))
    power = f.math("fsub", _polynomial(f, t, ERFC_POLYNOMIAL), f.math("fmul", z, z))
    half = _scaled(f, f.math("fmul", f.math("fmul", t, exp(f, power)), size), 0.5)
    return f.math("fsub", f.larger(value, f.constant(0)), half)


ERFC_POLYNOMIAL = (
    -0.190579685, 0.763205758, -1.02095464, 0.367891028, -0.0489264195, 0.396631013, 0.998185085, -1.26545291
)  # fmt: skip
"""log(erfc(z) exp(z^2) / t), t = 1 / (1 + z / 2): fitted from 0.15 to 1, highest power first."""


def _gelu_tanh(f: Function, value: Value) -> Value:
    cube = f.math("fmul", f.math("fmul", value, value), value)
    inner = f.multiply_add(cube, f.constant(0.044715), value)
    return _gated(f, value, _tanh(f, _scaled(f, inner, math.sqrt(2 / math.pi))))


def _gated(f: Function, value: Value, gate: Value) -> Value:
    """x (1 + gate) / 2."""
    return f.math("fmul", value, f.multiply_add(gate, f.constant(0.5), f.constant(0.5)))


def _hard_sigmoid(f: Function, value: Value) -> Value:
    return _scaled(f, _between(f, f.math("fadd", value, f.constant(3)), 0, 6), 1 / 6)


def _softplus(f: Function, value: Value) -> Value:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    power = exp(f, f.math("fsub", f.constant(0), f.call("fabs", value)))
    ratio = f.math("fdiv", power, f.math("fadd", power, f.constant(2)))
    series = _polynomial(f, f.math("fmul", ratio, ratio), LOG1P_SERIES)
    return f.multiply_add(ratio, series, f.larger(value, f.constant(0)))


def _log_sigmoid(f: Function, value: Value) -> Value:
    zero = f.constant(0)
    return f.math("fsub", zero, _softplus(f, f.math("fsub", zero, value)))


def _mish(f: Function, value: Value) -> Value:
    """x tanh(softplus(x)) = x p / (p + 2), p = e^x (e^x + 2); from 20 on it is x."""
    power = exp(f, f.smaller(value, f.constant(20)))
    product = f.math("fmul", power, f.math("fadd", power, f.constant(2)))
    return f.math("fmul", value, f.math("fdiv", product, f.math("fadd", product, f.constant(2))))


def _softsign(f: Function, value: Value) -> Value:
    return f.math("fdiv", value, f.math("fadd", f.call("fabs", value), f.constant(1)))


def _sparse_plus(f: Function, value: Value) -> Value:
    """A parabola from -1 to 1 between 0 and x."""
    raised = f.math("fadd", _between(f, value, -1, 1), f.constant(1))
    curve = _scaled(f, f.math("fmul", raised, raised), 0.25)
    return _where(f, value, "ogt", 1, value, curve)


def _elu(f: Function, value: Value, slope: float) -> Value:
    curved = _scaled(f, f.math("fsub", exp(f, value), f.constant(1)), slope)
    return _where(f, value, "olt", 0, curved, value)


def _leaky_relu(f: Function, value: Value, slope: float) -> Value:
    return _where(f, value, "olt", 0, _scaled(f, value, slope), value)


def _squareplus(f: Function, value: Value, slope: float) -> Value:
    """(x + root) / 2; below 0, where that would cancel, slope / (root - x) / 2."""
    root = f.call("sqrt", f.multiply_add(value, value, f.constant(slope)))
    below = f.math("fdiv", f.constant(slope / 2), f.math("fsub", root, value))
    return _where(f, value, "olt", 0, below, _scaled(f, f.math("fadd", value, root), 0.5))


def _soft_shrink(f: Function, value: Value, slope: float) -> Value:
    """What lies beyond the bounds."""
    return f.math("fsub", value, _between(f, value, -slope, slope))


def _hard_shrink(f: Function, value: Value, slope: float) -> Value:
    inside = f.new(f"fcmp ole {f.vector} {f.call('fabs', value)}, {f.constant(slope)}")
    return f.select(inside, f.constant(0), value)


CURVES: Final[Mapping[str, Callable[[Function, Value], Value]]] = {
    "linear": lambda f, x: x,
    "relu": lambda f, x: f.larger(x, f.constant(0)),
    "relu6": lambda f, x: _between(f, x, 0, 6),
    "exponential": exp,
    "sigmoid": _sigmoid,
    "silu": lambda f, x: f.math("fmul", x, _sigmoid(f, x)),
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda f, x: f.math("fmul", x, _hard_sigmoid(f, x)),
    "hard_tanh": lambda f, x: _between(f, x, -1, 1),
    "softplus": _softplus,
    "softsign": _softsign,
    "log_sigmoid": _log_sigmoid,
    "mish": _mish,
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda f, x: f.multiply_add(_between(f, x, -1, 1), f.constant(0.5), f.constant(0.5)),
    "tanh_shrink": lambda f, x: f.math("fsub", x, _tanh(f, x)),
    "absolute": lambda f, x: f.call("fabs", x),
    "square": lambda f, x: f.math("fmul", x, x),
}

CURVES_WITH_SLOPE: Final[Mapping[str, Callable[[Function, Value, float], Value]]] = {
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "squareplus": _squareplus,
    "soft_shrink": _soft_shrink,
    "hard_shrink": _hard_shrink,
}
"""Of these `slope` is the parameter: below 0, of the exponential, under the root, the bounds."""
