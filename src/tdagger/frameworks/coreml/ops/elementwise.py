"""MIL's elementwise ops and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Float, Int, Numbers, Str, rule, unsupported
from tdagger.frameworks.coreml.types import BY_NAME
from tdagger.op import Array, Value
from tdagger.ops import elementwise as e
from tdagger.ops.source import const
from tdagger.ops.structure import unsqueeze
from tdagger.types import DType, bool_

# --- of one value ------------------------------------------------------------------------------------------


def _of_one(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    def call(x: Value) -> Value:
        return function(x)

    call.__annotations__ = {"x": "Value", "return": "Value"}
    return call


for _name, _function in {
    "abs": e.abs_, "acos": e.acos, "asin": e.asin, "atan": e.atan, "atanh": e.atanh, "ceil": e.ceil, "cos": e.cos,
    "cosh": e.cosh, "erf": e.erf, "exp": e.exp, "exp2": lib.exp2, "floor": e.floor, "round": e.round_, "sign": e.sign,
    "sin": e.sin, "sinh": e.sinh, "sqrt": e.sqrt, "square": lib.square, "tan": e.tan, "tanh": e.tanh, "relu": lib.relu,
    "relu6": lib.relu6, "sigmoid": lib.sigmoid, "silu": lib.silu, "softsign": lib.softsign, "softplus": lib.softplus,
    "logical_not": e.not_, "identity": lambda x: x,
}.items():  # fmt: skip
    rule(_name)(_of_one(_function))


def _shifted(x: Value, epsilon: float) -> Value:
    """``x + epsilon``, which in the element type of x may be x."""
    return x if float(np.asarray(epsilon).astype(x.dtype.numpy)) == 0 else x + epsilon


@rule("inverse")
def _inverse(x: Value, epsilon: Float = 1e-4) -> Value:
    """``1 / (x + epsilon)``: its own epsilon is no small one."""
    return e.reciprocal(_shifted(x, epsilon))


@rule("log")
def _log(x: Value, epsilon: Float = 1e-45) -> Value:
    return e.log(_shifted(x, epsilon))


@rule("rsqrt")
def _rsqrt(x: Value, epsilon: Float = 1e-12) -> Value:
    return lib.rsqrt(_shifted(x, epsilon))


@rule("clip")
def _clip(x: Value, alpha: Float = -math.inf, beta: Float = math.inf) -> Value:
    if x.dtype.is_int:
        return e.cast(lib.clamp(e.cast(x, "f32"), low=alpha, high=beta), x.dtype)
    return lib.clamp(x, low=alpha, high=beta)


@rule("threshold")
def _threshold(x: Value, alpha: Float) -> Value:
    return e.maximum(x, alpha if x.dtype.is_float else int(alpha))


@rule("cast")
def _cast(x: Value, dtype: Str) -> Value:
    return converted(x, dtype)


def converted(x: Value, dtype: str) -> Value:
    """A value in an element type by MIL's name for it: floats to integers lose their fraction."""
    if dtype not in BY_NAME:
        raise unsupported(f"there is no element type {dtype} here")
    return e.cast(x, BY_NAME[dtype])


# --- activations -------------------------------------------------------------------------------------------


@rule("gelu")
def _gelu(x: Value, mode: Str = "EXACT") -> Value:
    if mode == "SIGMOID_APPROXIMATION":
        return x * lib.sigmoid(x * 1.702)
    found = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}.get(mode)
    if found is None:
        raise unsupported(f"there is no mode {mode} of gelu")
    return lib.gelu(x, approximate=found)


@rule("softmax")
def _softmax(x: Value, axis: Int = -1) -> Value:
    return lib.softmax(x, axis=axis)


@rule("clamped_relu")
def _clamped_relu(x: Value, alpha: Float, beta: Float) -> Value:
    return e.minimum(lib.relu(x) if alpha == 0 else lib.leaky_relu(x, slope=alpha), beta)


@rule("elu")
def _elu(x: Value, alpha: Float = 1.0) -> Value:
    return lib.elu(x, alpha=alpha)


@rule("leaky_relu")
def _leaky_relu(x: Value, alpha: Float = 0.01) -> Value:
    return lib.leaky_relu(x, slope=alpha)


@rule("linear_activation")
def _linear_activation(x: Value, alpha: Float, beta: Float = 0.0) -> Value:
    y = x if alpha == 1 else x * alpha
    return y if beta == 0 else y + beta


@rule("prelu")
def _prelu(x: Value, alpha: Value) -> Value:
    return lib.prelu(x, alpha, axis=1)


@rule("scaled_tanh")
def _scaled_tanh(x: Value, alpha: Float = 1.0, beta: Float = 1.0) -> Value:
    return e.tanh(x * beta) * alpha


@rule("sigmoid_hard")
def _sigmoid_hard(x: Value, alpha: Float = 0.2, beta: Float = 0.5) -> Value:
    return lib.clamp(x * alpha + beta, low=0.0, high=1.0)


@rule("softplus_parametric")
def _softplus_parametric(x: Value, alpha: Value, beta: Value) -> Value:
    after = range(1, x.rank - 1)
    narrow = [v if v.dtype is x.dtype else e.cast(v, x.dtype) for v in (alpha, beta)]  # f16 beside f32 since iOS17
    a, b = (unsqueeze(v, after) if x.rank > 2 else v for v in narrow)
    return lib.softplus(x * b) * a


@rule("thresholded_relu")
def _thresholded_relu(x: Value, alpha: Float = 1.0) -> Value:
    return e.where(e.greater_equal(x, alpha), x, 0.0)


# --- of two values -----------------------------------------------------------------------------------------


def _of_two(function: Callable[[Any, Any], Value]) -> Callable[[Value, Value], Value]:
    def call(x: Value, y: Value) -> Value:
        return function(*numbers(x, y))

    call.__annotations__ = {"x": "Value", "y": "Value", "return": "Value"}
    return call


def numbers(x: Value, y: Value) -> tuple[Any, Any]:
    """The arguments, with a constant of one entry of rank 1 and more as a number beside what has as many axes."""
    first = _as_number(x, y.rank)
    return first, _as_number(y, first.rank)


def _as_number(x: Value, rank: int) -> Value:
    from tdagger.ops.source import Const

    if isinstance(x.op, Const) and 0 < x.rank <= rank and x.type.size == 1:
        return const(x.op.data.reshape(()), x.dtype)
    return x


def _divide(x: Value, y: Value) -> Value:
    """Of whole numbers the quotient is rounded down, as coremltools works constants out."""
    return e.floor_divide(x, y) if x.dtype.is_int else lib.divide(x, y)


def _pow(x: Value, y: Value) -> Value:
    from tdagger.ops.source import Const

    if isinstance(y.op, Const) and y.type.size == 1 and float(y.op.data.reshape(())) == 2.0 and y.rank <= x.rank:
        return lib.square(x)
    if x.dtype.is_int:
        return e.cast(e.pow_(e.cast(x, "f32"), e.cast(y, "f32")), x.dtype)
    return e.pow_(x, y)


for _name, _two in {
    "add": e.add, "sub": lib.subtract, "mul": e.multiply, "real_div": _divide, "floor_div": e.floor_divide,
    "mod": e.mod, "pow": _pow, "maximum": e.maximum, "minimum": e.minimum, "equal": e.equal, "not_equal": e.not_equal,
    "greater": e.greater, "greater_equal": e.greater_equal, "less": e.less, "less_equal": e.less_equal,
    "logical_and": e.bitwise_and, "logical_or": e.bitwise_or, "logical_xor": e.bitwise_xor,
}.items():  # fmt: skip
    rule(_name)(_of_two(_two))


@rule("select")
def _select(cond: Value, a: Value, b: Value) -> Value:
    return e.where(cond if cond.dtype is bool_ else e.cast(cond, "bool"), a, b)


# --- quantized numbers -------------------------------------------------------------------------------------


def _read(
    x: Value, scale: Array, zero_point: Array | None, axis: int | None, held: DType
) -> tuple[list[Value], int | None]:
    """The scale, the zero point and the axis that these are along: None where both are one number."""
    given = [(scale, DType.of(scale.dtype)), *([] if zero_point is None else [(zero_point, held)])]
    if all(a.size == 1 for a, _ in given):
        return [const(a.reshape(()), dtype) for a, dtype in given], None
    if axis is None:
        raise unsupported("it has a scale for each entry of an axis, and doesn't say which axis")
    return [const(a.reshape(() if a.size == 1 else -1), dtype) for a, dtype in given], axis % x.rank


@rule("quantize")
def _quantize(
    input: Value, scale: Numbers, output_dtype: Str, zero_point: Numbers | None = None, axis: Int | None = None
) -> Value:
    """``round(x / scale) + zero_point``, half to even, within the element type."""
    to = BY_NAME.get(output_dtype)
    if to is None or to.name not in ("i8", "u8"):
        raise unsupported(f"it rounds to {output_dtype}, MIL's quantize to int8 and uint8")
    read, along = _read(input, scale, zero_point, axis, to)
    return lib.quantize(input, *read, to=to.name, axis=along)


@rule("dequantize")
def _dequantize(input: Value, scale: Numbers, zero_point: Numbers | None = None, axis: Int | None = None) -> Value:
    read, along = _read(input, scale, zero_point, axis, input.dtype)
    return lib.dequantize(input, *read, axis=along)
