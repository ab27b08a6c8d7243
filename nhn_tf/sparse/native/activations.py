"""Activations of vectors, as LLVM IR."""

from __future__ import annotations

import dataclasses
import math

from nhn_tf.sparse.native.emitter import Function, Value

LOG2_E = 1.4426950408889634
LN_2_HIGH, LN_2_LOW = 0.693359375, -2.12194440e-4  # Their sum is ln 2; the first has few bits, so products are exact.
EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5, 1.0, 1.0)
"""exp on [-ln(2) / 2, ln(2) / 2], highest power first (the Cephes library's, to float32 precision)."""

EXP_MOST = 88.72283
"""Of larger numbers the exponential is infinite in float32."""


@dataclasses.dataclass(frozen=True)
class Activation:
    """What happens to a number before it is stored."""

    name: str = "linear"
    slope: float = 0.0


def activate(f: Function, value: Value, activation: Activation) -> Value:
    """An activation of all lanes.

    Raises:
      ValueError: an unknown name.
    """
    zero, one = f.constant(0), f.constant(1)
    match activation.name:
        case "linear":
            return value
        case "relu":
            return f.larger(value, zero)
        case "relu6":
            return f.smaller(f.larger(value, zero), f.constant(6))
        case "leaky_relu":
            scaled = f.math("fmul", value, f.constant(activation.slope))
            return f.select(f.new(f"fcmp olt {f.vector} {value}, {zero}"), scaled, value)
        case "exponential":
            return exp(f, value)
        case "sigmoid":
            return _sigmoid(f, value)
        case "silu":
            return f.math("fmul", value, _sigmoid(f, value))
        case "tanh":  # 2 sigmoid(2 x) - 1
            doubled = _sigmoid(f, f.math("fadd", value, value))
            return f.multiply_add(doubled, f.constant(2), f.constant(-1))
        case "elu":
            curved = f.math("fmul", f.math("fsub", exp(f, value), one), f.constant(activation.slope))
            return f.select(f.new(f"fcmp olt {f.vector} {value}, {zero}"), curved, value)
    raise ValueError(f"unknown activation {activation.name!r}")


def exp(f: Function, value: Value) -> Value:
    """exp(x) = 2^n exp(x - n ln 2), with a polynomial for the second factor; 0 below -86, infinite where float32 is."""
    given, value = value, f.smaller(f.larger(value, f.constant(-86.0)), f.constant(EXP_MOST))
    power = f.call("rint", f.math("fmul", value, f.constant(LOG2_E)))
    rest = f.multiply_add(power, f.constant(-LN_2_HIGH), value)
    rest = f.multiply_add(power, f.constant(-LN_2_LOW), rest)
    result = f.constant(EXP_POLYNOMIAL[0])
    for coefficient in EXP_POLYNOMIAL[1:]:
        result = f.multiply_add(result, rest, f.constant(coefficient))
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


def _sigmoid(f: Function, value: Value) -> Value:
    one = f.constant(1)
    return f.math("fdiv", one, f.math("fadd", one, exp(f, f.math("fsub", f.constant(0), value))))
