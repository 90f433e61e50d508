"""TFLite's elementwise operators: functions of one and of more tensors, activations, conversions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.tflite.ops.table import Call, binary, rule, unary, unsupported
from tdagger.frameworks.tflite.schema import is_quantized
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.source import const
from tdagger.types import DType, broadcast_shapes

# --- functions of one tensor -------------------------------------------------------------------------------


def relu_n1_to_1(x: Value) -> Value:
    """From -1 to 1."""
    return lib.hardtanh(x)


for _name, _function in {
    "ABS": e.abs_, "SIGN": e.sign, "SIN": e.sin, "COS": e.cos, "EXP": e.exp, "LOG": e.log,
    "SQRT": e.sqrt, "RSQRT": lib.rsqrt, "SQUARE": lib.square, "FLOOR": e.floor, "CEIL": e.ceil, "ROUND": e.round_,
    "LOGISTIC": lib.sigmoid, "TANH": e.tanh, "RELU": lib.relu, "RELU6": lib.relu6, "RELU_N1_TO_1": relu_n1_to_1,
    "ELU": lib.elu, "HARD_SWISH": lib.hard_swish, "LOGICAL_NOT": e.not_, "COMPLEX_ABS": e.abs_, "REAL": e.real,
    "IMAG": e.imag,
}.items():  # fmt: skip
    rule(_name)(unary(_function))


@rule("RELU_0_TO_1")
def relu_0_to_1(x: Value) -> Value:
    """From 0 to 1."""
    return lib.clamp(x, low=0.0, high=1.0)


@rule("NEG")
def _neg(x: Value, *, node: Call) -> Value:
    """Of quantized tensors only around 0: runtimes negate the integers as if that were the zero point."""
    tensor = node.inputs[0]
    if tensor is not None and tensor.quantization is not None and tensor.quantization.zero_point.any():
        raise unsupported("it negates integers whose zero point isn't 0, which every runtime leaves out without a word")
    return e.neg(x)


@rule("GELU")
def _gelu(x: Value, *, approximate: bool = False) -> Value:
    return lib.gelu(x, approximate="tanh" if approximate else "none")


@rule("LEAKY_RELU")
def _leaky_relu(x: Value, *, alpha: float = 0.0) -> Value:
    """A slope is written by its shortest digits, as that of other formats."""
    return lib.leaky_relu(x, slope=float(str(np.float32(alpha))))


@rule("PRELU")
def _prelu(x: Value, alpha: Value) -> Value:
    if alpha.rank > x.rank or broadcast_shapes(x.shape, alpha.shape) != x.shape:
        raise unsupported(f"its slope {alpha.type} can't be broadcast to {x.type}")
    ahead = x.rank - alpha.rank
    several = [i + ahead for i, n in enumerate(alpha.shape) if n != 1]
    if len(several) <= 1 and x.rank > 1:
        return lib.prelu(x, lib.reshape(alpha, shape=(-1,)), axis=several[0] if several else x.rank - 1)
    return e.where(x < 0.0, x * alpha, x)


@rule("ZEROS_LIKE", raw=True)
def _zeros_like(x: Value) -> Value:
    return e.zeros_like(x)


# --- functions of two and more tensors ---------------------------------------------------------------------

for _name, _operation in {
    "ADD": e.add, "SUB": lib.subtract, "MUL": e.multiply, "MAXIMUM": e.maximum, "MINIMUM": e.minimum,
    "ATAN2": e.atan2, "EQUAL": e.equal, "NOT_EQUAL": e.not_equal, "GREATER": e.greater,
    "GREATER_EQUAL": e.greater_equal, "LESS": e.less, "LESS_EQUAL": e.less_equal, "LOGICAL_AND": e.bitwise_and,
    "LOGICAL_OR": e.bitwise_or, "BITWISE_XOR": e.bitwise_xor,
}.items():  # fmt: skip
    rule(_name)(binary(_operation))


@rule("DIV")
def _div(x: Value, y: Value) -> Value:
    """Of integers the quotient rounded towards 0."""
    return lib.trunc_divide(x, y) if x.dtype.is_int else lib.divide(x, y)


def _without_scales(node: Call) -> None:
    """Refuse what kernels compute of integers without what these stand for."""
    if any(t is not None and is_quantized(t) for t in (*node.inputs, *node.outputs)):
        raise unsupported("it divides quantized integers as they are, without their scales, in every runtime")


@rule("FLOOR_MOD")
def _floor_mod(x: Value, y: Value, *, node: Call) -> Value:
    _without_scales(node)
    return e.mod(x, y)


@rule("FLOOR_DIV")
def _floor_div(x: Value, y: Value, *, node: Call) -> Value:
    _without_scales(node)
    return e.floor_divide(x, y) if x.dtype.is_int else e.floor(x / y)


@rule("POW")
def _pow(x: Value, y: Value) -> Value:
    power = number_of(y) if x.dtype.is_float and y.rank <= x.rank else None
    if power == 2:
        return lib.square(x)
    return e.pow_(x, float(power)) if isinstance(power, float) else e.pow_(x, y)


@rule("SQUARED_DIFFERENCE")
def _squared_difference(x: Value, y: Value) -> Value:
    return lib.square(x - y)


@rule("ADD_N")
def _add_n(*inputs: Value) -> Value:
    return functools.reduce(e.add, inputs)


@rule("RIGHT_SHIFT")
def _right_shift(x: Value, y: Value) -> Value:
    """By 0 to one less than there are bits: more is as far as that, and nothing is less than 0."""
    return e.shift_right(x, lib.clamp(y, low=0, high=8 * x.dtype.bytes - 1))


@rule("SELECT")
def _select(condition: Value, x: Value, y: Value) -> Value:
    """A condition of rank 1 beside tensors of more picks rows."""
    if condition.rank == 1 and x.rank > 1 and condition.shape != x.shape:
        condition = lib.reshape(condition, shape=(-1, *(1,) * (x.rank - 1)))
    return e.where(condition, x, y)


@rule("SELECT_V2")
def _select_v2(condition: Value, x: Value, y: Value) -> Value:
    return e.where(condition, x, y)


# --- along an axis -----------------------------------------------------------------------------------------


@rule("SOFTMAX")
def _softmax(x: Value, *, beta: float = 0.0) -> Value:
    return lib.softmax(x if beta == 1 else x * beta, axis=-1)


@rule("LOG_SOFTMAX")
def _log_softmax(x: Value) -> Value:
    return lib.log_softmax(x, axis=-1)


@rule("L2_NORMALIZATION")
def _l2_normalization(x: Value) -> Value:
    return lib.normalize(x, ord=2.0, axes=(x.rank - 1,), eps=1e-6)


# --- conversions -------------------------------------------------------------------------------------------


@rule("DENSIFY", raw=True)
def _densify(x: Value) -> Value:
    """A sparse constant is written out where it is read."""
    return x


@rule("QUANTIZE")
def _quantize(x: Value) -> Value:
    """What is quantized is real numbers here, and what the result says makes integers of them."""
    return x


@rule("DEQUANTIZE")
def _dequantize(x: Value, *, node: Call) -> Value:
    return e.cast(x, node.dtypes[0])


@rule("CAST", raw=True)
def _cast(x: Value, *, in_data_type: int = 0, out_data_type: int = 0, node: Call) -> Value:
    """A float beyond an integer's range becomes its end, as a NaN does: the largest there is.

    Of integers the low bits are taken. What is quantized is taken as the integers that it is.
    """
    del in_data_type, out_data_type
    to = node.dtypes[0]
    if x.dtype.is_complex and not to.is_complex:
        return _cast(e.real(x), node=node)
    if not (x.dtype.is_float and to.is_int):
        return e.cast(x, to)
    return saturated(x, to)


def saturated(x: Value, to: DType) -> Value:
    """Floats as integers, cut towards 0; see :func:`_cast`."""
    info = np.iinfo(to.numpy)
    low, high = int(info.min), int(info.max)
    y = e.cast(x, "f32") if x.dtype.bytes < 4 else x
    beyond = float(high) + 1 if float(high) == high else float(high)
    inside = e.less(y, beyond)  # not of NaN
    kept = e.where(inside, e.maximum(y, float(low)), 0.0)
    return e.where(inside, e.cast(kept, to), const(high, to))


@rule("BITCAST", raw=True)
def _bitcast(x: Value, *, node: Call) -> Value:
    to = node.dtypes[0]
    if to.bytes != x.dtype.bytes:
        raise unsupported(f"{x.dtype} as {to}: only types of one width are imported")
    return e.bitcast(x, to)


@rule("FAKE_QUANT")
def _fake_quant(
    x: Value, *, min: float = 0.0, max: float = 0.0, num_bits: int = 0, narrow_range: bool = False
) -> Value:
    """Rounded to as many steps from ``min`` to ``max`` as integers of some bits have, with 0 on one of them."""
    low, high = float(narrow_range), float(2**num_bits - 1)
    low_edge, high_edge = np.float32(min), np.float32(max)
    scale = np.float32((high_edge - low_edge) / np.float32(high - low))
    if not scale > 0:
        raise unsupported(f"its range from {min} to {max} has no steps")
    zero = np.float32(low) - low_edge / scale
    nudged = low if zero < low else high if zero > high else float(math.floor(zero + 0.5))
    first, last = np.float32((low - nudged) * scale), np.float32((high - nudged) * scale)
    clamped = lib.clamp(x, low=float(first), high=float(last))
    steps = e.floor((clamped - float(first)) * float(np.float32(1) / scale) + 0.5)
    return steps * float(scale) + float(first)


#: By the number of a fused activation, what it does; those that no runtime computes are refused.
ACTIVATIONS: dict[str, Callable[[Value], Value] | None] = {
    "NONE": None, "RELU": lib.relu, "RELU_N1_TO_1": relu_n1_to_1, "RELU6": lib.relu6,
}  # fmt: skip


def activated(x: Value, name: str) -> Value:
    """x with a fused activation; of integers the same limits."""
    function = ACTIVATIONS[name]
    if function is None:
        return x
    if x.dtype.is_float:
        return function(x)
    low, high = {"RELU": (0, None), "RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}[name]
    return lib.clamp(x, low=low) if high is None else lib.clamp(x, low=low, high=high)
