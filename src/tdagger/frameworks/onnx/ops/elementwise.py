"""ONNX's elementwise operators: functions of one and of more tensors, choices, activations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.library.linear import wide
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import iota_like
from tdagger.types import DType, broadcast_shapes

# --- functions of one tensor -------------------------------------------------------------------------------


def _unary(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    def apply(X: Value) -> Value:
        return function(X)

    return apply


for _name, _function in {
    "Abs": e.abs_, "Neg": e.neg, "Sign": e.sign, "Reciprocal": e.reciprocal, "Sqrt": e.sqrt, "Exp": e.exp,
    "Log": e.log, "Sin": e.sin, "Cos": e.cos, "Tan": e.tan, "Asin": e.asin, "Acos": e.acos, "Atan": e.atan,
    "Sinh": e.sinh, "Cosh": e.cosh, "Tanh": e.tanh, "Asinh": e.asinh, "Acosh": e.acosh, "Atanh": e.atanh,
    "Erf": e.erf, "Floor": e.floor, "Ceil": e.ceil, "Round": e.round_, "Not": e.not_, "BitwiseNot": e.not_,
    "IsNaN": e.isnan, "Relu": lib.relu, "Sigmoid": lib.sigmoid, "Softsign": lib.softsign,
    "HardSwish": lib.hard_swish,
}.items():  # fmt: skip
    rule(_name)(_unary(_function))


@rule("Identity")
def _identity(input: Value) -> Value:
    return input


@rule("IsInf")
def _is_inf(X: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    if detect_negative and detect_positive:
        return e.isinf(X)
    if detect_negative or detect_positive:
        return e.equal(X, e.full_like(X, math.inf if detect_positive else -math.inf))
    return e.full_like(e.isinf(X), False)


# --- functions of two and more tensors ---------------------------------------------------------------------


def _binary(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def apply(A: Value, B: Value) -> Value:
        return function(A, B)

    return apply


for _name, _operation in {
    "Add": e.add, "Sub": lib.subtract, "Mul": e.multiply, "Greater": e.greater, "Less": e.less,
    "Equal": e.equal, "And": e.bitwise_and, "Or": e.bitwise_or, "Xor": e.bitwise_xor,
}.items():  # fmt: skip
    rule(_name, since=7)(_binary(_operation))
for _name, _operation in {
    "GreaterOrEqual": e.greater_equal, "LessOrEqual": e.less_equal, "BitwiseAnd": e.bitwise_and,
    "BitwiseOr": e.bitwise_or, "BitwiseXor": e.bitwise_xor,
}.items():  # fmt: skip
    rule(_name)(_binary(_operation))


@rule("Div", since=7)
def _div(A: Value, B: Value) -> Value:
    """Of integers the quotient rounded towards 0."""
    if not A.dtype.is_int:
        return lib.divide(A, B)
    return lib.trunc_divide(A, B) if A.dtype.is_signed else e.floor_divide(A, B)


@rule("Mod")
def _mod(A: Value, B: Value, *, fmod: int = 0) -> Value:
    """With the sign of B, or with ``fmod`` that of A. A float remainder of 0 keeps the sign of A in both."""
    return e.rem(A, B) if fmod else e.mod(A, B)


@rule("Pow", since=7)
def _pow(X: Value, Y: Value) -> Value:
    """In the element type of X; an integer to a float power is cut to an integer."""
    if X.dtype.is_int and Y.dtype.is_float:
        return e.cast(e.pow_(e.cast(X, "f64"), e.cast(Y, "f64")), X.dtype)
    if X.dtype.is_int and X.dtype is not Y.dtype:  # powers wrap, so that the low digits are those of wider ones
        return e.cast(e.pow_(e.cast(X, "i64"), e.cast(Y, "i64")), X.dtype)
    power = number_of(Y) if X.dtype.is_float and Y.rank <= X.rank else None
    if power == 2:
        return lib.square(X)
    if power is not None and float(X.dtype.numpy.type(power)) == power:
        return e.pow_(X, power)
    if X.dtype.is_float and X.dtype is not Y.dtype:
        to = max(wide(X).dtype, DType.of("f64") if Y.dtype.bytes > 4 else X.dtype, key=lambda d: d.bytes)
        return e.cast(e.pow_(e.cast(X, to), e.cast(Y, to)), X.dtype)
    return e.pow_(X, Y)


@rule("BitShift")
def _bit_shift(X: Value, Y: Value, *, direction: str) -> Value:
    """A shift by as many bits as there are or more, or by less than 0, leaves the sign alone."""
    left = direction == "LEFT"
    bits = X.dtype.bytes * 8
    x, y = e.align(X, Y)
    if x.dtype.is_signed:
        outside = e.greater_equal(y, bits) | (y < 0)
    else:
        outside = e.not_equal(e.shift_right(y, bits.bit_length() - 1), 0)
    by = e.where(outside, 0, y)
    nothing = e.zeros_like(x) if left or not x.dtype.is_signed else e.where(x < 0, e.full_like(x, -1), e.zeros_like(x))
    return e.where(outside, nothing, e.shift_left(x, by) if left else e.shift_right(x, by))


def _variadic(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    def apply(*data: Value) -> Value:
        return functools.reduce(function, data)

    return apply


rule("Sum", since=6)(_variadic(e.add))
rule("Max", since=6)(_variadic(e.maximum))
rule("Min", since=6)(_variadic(e.minimum))


@rule("Mean", since=6)
def _mean(*data: Value) -> Value:
    """Half precision is rounded once."""
    total = functools.reduce(e.add, map(wide, data))
    return e.cast(total / float(len(data)), data[0].dtype)


@rule("Where")
def _where(condition: Value, X: Value, Y: Value) -> Value:
    return e.where(condition, X, Y)


# --- limits ------------------------------------------------------------------------------------------------


@rule("Clip", since=6)
def _clip_numbers(input: Value, *, min: float | None = None, max: float | None = None) -> Value:
    return _clamped(input, min, max)


@rule("Clip", since=11)
def _clip(input: Value, min: Value | None = None, max: Value | None = None) -> Value:
    """Where min is above max, max. Without a limit there is none: infinities stay, as in the body ONNX has for it."""
    low, high = (None if v is None else number_of(v) for v in (min, max))
    if (low is None) == (min is None) and (high is None) == (max is None):
        return _clamped(input, low, high)
    out = input if min is None else lib.at_least(input, _scalar(min, input))
    return out if max is None else lib.at_most(out, _scalar(max, input))


def _scalar(limit: Value, x: Value) -> Value:
    """A limit that may be written as a tensor of one element."""
    if limit.type.size != 1:
        raise unsupported(f"its limit has {limit.type.size} elements, where there can be one")
    return lib.reshape(limit, shape=()) if limit.rank > x.rank else limit


def _clamped(x: Value, low: float | complex | None, high: float | complex | None) -> Value:
    if (low, high) == (0, 6) and x.dtype.is_float:
        return lib.relu6(x)
    if low == 0 and high is None and x.dtype.is_float:
        return lib.relu(x)
    limits = {k: v for k, v in (("low", low), ("high", high)) if v is not None}
    return lib.clamp(x, **limits) if limits else x  # pyright: ignore[reportArgumentType]


# --- activations -------------------------------------------------------------------------------------------


@rule("LeakyRelu", since=6)
def _leaky_relu(X: Value, *, alpha: float = 0.01) -> Value:
    return lib.leaky_relu(X, slope=alpha)


@rule("Elu", since=6)
def _elu(X: Value, *, alpha: float = 1.0) -> Value:
    return lib.elu(X, alpha=alpha)


_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


@rule("Selu", since=6)
def _selu(X: Value, *, alpha: float = _SELU_ALPHA, gamma: float = _SELU_GAMMA) -> Value:
    if (np.float32(alpha), np.float32(gamma)) == (np.float32(_SELU_ALPHA), np.float32(_SELU_GAMMA)):
        return lib.selu(X)
    return e.cast(lib.elu(wide(X), alpha=alpha) * gamma, X.dtype)


@rule("Celu")
def _celu(X: Value, *, alpha: float = 1.0) -> Value:
    return lib.celu(X, alpha=alpha)


@rule("ThresholdedRelu")
def _thresholded_relu(X: Value, *, alpha: float = 1.0) -> Value:
    """NaN isn't above alpha, so it becomes 0."""
    return e.where(e.greater(X, alpha), X, 0.0)


@rule("HardSigmoid", since=6)
def _hard_sigmoid(X: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        return lib.hard_sigmoid(X)
    return e.cast(lib.clamp(wide(X) * alpha + beta, low=0.0, high=1.0), X.dtype)


def _threshold(dtype: DType) -> float:
    """Where ``log(1 + exp(x))`` is x to the last digit."""
    return 40.0 if dtype.name == "f64" else 20.0


@rule("Softplus")
def _softplus(X: Value) -> Value:
    return lib.softplus(X, threshold=_threshold(X.dtype))


@rule("Mish")
def _mish(X: Value) -> Value:
    return lib.mish(X) if X.dtype.name != "f64" else X * e.tanh(_softplus(X))


@rule("Gelu")
def _gelu(X: Value, *, approximate: str = "none") -> Value:
    return lib.gelu(X, approximate=approximate)


@rule("Swish")
def _swish(X: Value, *, alpha: float = 1.0) -> Value:
    if alpha == 1:
        return lib.silu(X)
    w = wide(X)
    return e.cast(w * lib.sigmoid(w * alpha), X.dtype)


@rule("SwiGLU")
def _swiglu(A: Value, B: Value, *, alpha: float = 1.0) -> Value:
    return _swish(A, alpha=alpha) * B


@rule("Shrink")
def _shrink(input: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    """NaN is on neither side, so it becomes 0."""
    w = wide(input) if input.dtype.is_float else e.cast(input, "f64")
    return e.cast(e.where(w < -lambd, w + bias, e.where(w > lambd, w - bias, 0.0)), input.dtype)


@rule("PRelu", since=7)
def _prelu(X: Value, slope: Value) -> Value:
    if slope.rank > X.rank or broadcast_shapes(X.shape, slope.shape) != X.shape:
        raise unsupported(f"its slope {slope.type} can't be broadcast to {X.type}")
    ahead = X.rank - slope.rank
    wide_axes = [i + ahead for i, n in enumerate(slope.shape) if n != 1]
    if X.dtype.is_float and len(wide_axes) <= 1:
        axis = wide_axes[0] if wide_axes else 1
        return lib.prelu(X, lib.reshape(slope, shape=(-1,)), axis=axis)
    w = wide(X)
    return e.cast(e.where(w < 0, w * wide(slope), w), X.dtype)


# --- along an axis -----------------------------------------------------------------------------------------


def _flattened(function: Callable[[Value, int], Value], x: Value, axis: int) -> Value:
    """A function along all axes from ``axis`` on, as if they were one."""
    axis %= x.rank
    if axis == x.rank - 1:
        return function(x, axis)
    flat = s.group(x, [*(1,) * axis, x.rank - axis])
    return s.ungroup(function(flat, axis), axis, x.shape[axis:])


def _softmax_of(x: Value, axis: int) -> Value:
    return lib.softmax(x, axis=axis)


def _log_softmax_of(x: Value, axis: int) -> Value:
    return lib.log_softmax(x, axis=axis)


def _hardmax_of(x: Value, axis: int) -> Value:
    first = lib.argmax(x, axis=axis, keep=True)
    return e.cast(e.equal(s.broadcast_to(first, x.shape), iota_like(x, axis)), x.dtype)


def _along(function: Callable[[Value, int], Value]) -> Callable[..., Value]:
    def apply(input: Value, *, axis: int = -1) -> Value:
        return function(input, axis % input.rank)

    return apply


def _along_rest(function: Callable[[Value, int], Value]) -> Callable[..., Value]:
    def apply(input: Value, *, axis: int = 1) -> Value:
        return _flattened(function, input, axis)

    return apply


for _name, _along_axis in {"Softmax": _softmax_of, "LogSoftmax": _log_softmax_of, "Hardmax": _hardmax_of}.items():
    rule(_name, since=13)(_along(_along_axis))
    rule(_name)(_along_rest(_along_axis))
