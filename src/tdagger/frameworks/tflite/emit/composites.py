"""How each composite is written as TFLite that has an operator for it; the others are written as their bodies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.emit import core
from tdagger.frameworks.tflite.emit.core import I32, cast_to, options, reduced, unary
from tdagger.frameworks.tflite.emit.writer import (
    RELU,
    RELU6,
    RELU_N1_TO_1,
    Reduced,
    Row,
    Writer,
)
from tdagger.frameworks.writing import Fields, fields, permuted, reshaped, unbroadcast
from tdagger.op import Value
from tdagger.transform.legal import Accepts, types
from tdagger.types import TensorType, i64

_F32 = types("f32")


def composite(write: Callable[[Writer, Value, Fields], Any], when: Any = None, accepts: Any = _F32) -> Row:
    """A row whose function, and condition, are given the composite's fields."""
    condition = None if when is None else lambda v: when(v, fields(v))
    return Row(Accepts(accepts, None, condition), lambda w, v: write(w, v, fields(v)))


# --- activations -------------------------------------------------------------------------------------------


def _activation(op: str, activation: int) -> Callable[[Writer, Value, Fields], int]:
    """An operator of its own, or part of the one before it."""

    def write(w: Writer, v: Value, f: Fields) -> int:
        x = v.args[0]
        found = w.fused(x, activation) if activation else None
        return w.op(op, [w.ref(x)], v.type) if found is None else found

    return write


#: Bounds to the operator that holds its argument between them, and the activation that is the same.
_BETWEEN = {
    (0.0, 6.0): ("RELU6", RELU6), (-1.0, 1.0): ("RELU_N1_TO_1", RELU_N1_TO_1), (0.0, 1.0): ("RELU_0_TO_1", 0),
    (0.0, math.inf): ("RELU", RELU),
}  # fmt: skip


def _bounds(f: Fields) -> tuple[float, float]:
    low, high = f["low"], f["high"]
    return -math.inf if low is None else low, math.inf if high is None else high


def _between(w: Writer, v: Value, f: Fields) -> int:
    return _activation(*_BETWEEN[_bounds(f)])(w, v, f)


def _is_between(v: Value, f: Fields) -> str | None:
    return None if _bounds(f) in _BETWEEN else "TFLite has no activation between these bounds"


def _softmax(w: Writer, v: Value, f: Fields) -> int:
    return w.op("SOFTMAX", [w.ref(v.args[0])], v.type, options("Softmax", beta=1.0))


def _log_softmax(w: Writer, v: Value, f: Fields) -> int:
    return w.op("LOG_SOFTMAX", [w.ref(v.args[0])], v.type)


def _last_axis(v: Value, f: Fields) -> str | None:
    fits = v.rank and f["axis"] == v.rank - 1 and v.type.size
    return None if fits else "TFLite works along the last axis"


def _gelu(w: Writer, v: Value, f: Fields) -> int:
    made = options("Gelu", approximate=f["approximate"] == "tanh")
    return w.op("GELU", [w.ref(v.args[0])], v.type, made)


def _leaky(w: Writer, v: Value, f: Fields) -> int:
    return w.op("LEAKY_RELU", [w.ref(v.args[0])], v.type, options("LeakyRelu", alpha=f["slope"]))


def _prelu(w: Writer, v: Value, f: Fields) -> int:
    """One slope for each entry of the last axis, or one for all."""
    x, weight = f["x"], f["weight"]
    shape = (*(1,) * max(x.rank - 2, 0), weight.shape[0])
    slope = w.reshape(w.ref(weight), weight.shape, weight.type.with_shape(shape))
    if w.is_static(weight):
        slope = w.static_of([weight], weight.type.with_shape(shape), "slope", lambda a: a.reshape(shape))
    return w.op("PRELU", [w.ref(x), slope], v.type)


def _slopes(v: Value, f: Fields) -> str | None:
    x, weight = f["x"], f["weight"]
    fits = x.rank >= 2 and (weight.shape == (1,) or f["axis"] == x.rank - 1)
    return None if fits else "TFLite has slopes of the last axis"


# --- arithmetic --------------------------------------------------------------------------------------------


def _binary(op: str) -> Callable[[Writer, Value, Fields], int]:
    return lambda w, v, f: core.binary(op)(w, v)


def _known_divisor(v: Value, f: Fields) -> str | None:
    """TFLite stops at a division by 0: only constants that aren't are divided by."""
    by = unbroadcast(f["y"])
    data = getattr(by.op, "data", None)
    if data is None or not data.size or (data == 0).any() or (data == -1).any():
        return "TFLite refuses a division by 0"
    return None


def _mean(w: Writer, v: Value, f: Fields) -> int:
    return reduced(w, "MEAN", f["x"], f["axes"], v.type, f["keep"])


def _averages(v: Value) -> Reduced | None:
    f = fields(v)
    return Reduced("MEAN", f["x"], f["axes"]) if f["keep"] else None


def _has_axes(v: Value, f: Fields) -> str | None:
    return None if f["axes"] and f["x"].type.size else "TFLite has no mean of no axes, or of no entries"


# --- products ----------------------------------------------------------------------------------------------


def _fully(w: Writer, v: Value, x: Value, weight: int, bias: int) -> int:
    base = reshaped(x)
    flattens = v.rank == 2 and base.rank > 2 and base.shape[-1:] == x.shape[-1:] and not w.is_static(base)
    made = options("FullyConnected", keepNumDims=not flattens)  # without, it flattens all axes but the last
    return w.op("FULLY_CONNECTED", [w.ref(base if flattens else x), weight, bias], v.type, made, version=5)


def _linear(w: Writer, v: Value, f: Fields) -> int:
    bias = f["bias"]
    return _fully(w, v, f["x"], w.ref(f["weight"]), -1 if bias is None else w.ref(bias))


def _has_rows(v: Value, f: Fields) -> str | None:
    weight = f["weight"]
    return None if weight.rank == 2 and v.type.size and weight.type.size else "TFLite has no product of such a weight"


def _flat(w: Writer, y: Value) -> int | None:
    """A constant matrix transposed, as a fully connected operator takes it; None if it isn't one."""
    if y.rank != 2 or not w.is_static(y):
        return None
    base, order = permuted(y)
    if order == (1, 0):
        return w.ref(base)
    return w.static_of([y], y.type.with_shape(y.shape[::-1]), "T", lambda a: np.ascontiguousarray(a.T))


def _matmul(w: Writer, v: Value, f: Fields) -> int:
    x, y = f["x"], f["y"]
    flat = _flat(w, y)
    if flat is not None:
        return _fully(w, v, x, flat, -1)
    (a, turned_a), (b, turned_b) = (_turned(w, m) for m in (x, y))
    made = options("BatchMatMul", adjX=turned_a, adjY=turned_b)
    return w.op("BATCH_MATMUL", [a, b], v.type, made)


def _turned(w: Writer, m: Value) -> tuple[int, bool]:
    """A stack of matrices, and whether they are to be transposed: a transpose of the last axes is an option."""
    if w.is_static(m) or m in w.found:
        return w.ref(m), False
    base, order = permuted(m)
    swapped = (*range(m.rank - 2), m.rank - 1, m.rank - 2)
    if order == swapped:
        return w.ref(base), True
    return w.ref(m), False


def _stacks(v: Value, f: Fields) -> str | None:
    x, y = f["x"], f["y"]
    fits = x.rank >= 2 and y.rank >= 2 and v.type.size and x.type.size
    return None if fits else "TFLite multiplies stacks of matrices"


# --- indices -----------------------------------------------------------------------------------------------


def _topk(w: Writer, v: Value, f: Fields) -> list[int]:
    x = f["x"]
    kinds: Any = v.type
    shape: TensorType = kinds[0]
    made = [shape, shape.with_dtype(I32)]
    values, places = w.op("TOPK_V2", [w.ref(x), w.constant(np.int32(f["k"]))], made, options("TopKV2"))
    return [values, cast_to(w, places, made[1], i64)]


def _largest_last(v: Value, f: Fields) -> str | None:
    fits = f["largest"] and f["axis"] == f["x"].rank - 1 and f["k"] > 0
    return None if fits else "TFLite takes the largest along the last axis"


def _argmax(op: str) -> Callable[[Writer, Value, Fields], int]:
    def write(w: Writer, v: Value, f: Fields) -> int:
        x = f["x"]
        axis = f["axis"]
        made = options("ArgMax" if op == "ARG_MAX" else "ArgMin", outputType=s.TensorType.INT64)
        rest = tuple([n for i, n in enumerate(x.shape) if i != axis])
        out = w.op(op, [w.ref(x), w.constant(np.int32(axis))], TensorType(rest, i64), made)
        return w.reshape(out, rest, v.type)

    return write


def _one_axis(v: Value, f: Fields) -> str | None:
    fits = isinstance(f["axis"], int) and f["x"].type.size
    return None if fits else "TFLite takes the place along one axis"


COMPOSITES: dict[str, Row] = {
    "relu": composite(_activation("RELU", RELU)),
    "relu6": composite(_activation("RELU6", RELU6)),
    "hardtanh": composite(_between, _is_between),
    "clamp": composite(_between, _is_between),
    "sigmoid": Row(Accepts(_F32), unary("LOGISTIC")),
    "hard_swish": Row(Accepts(_F32), unary("HARD_SWISH")),
    "elu": composite(
        lambda w, v, f: w.op("ELU", [w.ref(v.args[0])], v.type),
        lambda v, f: None if f["alpha"] == 1 else "TFLite has ELU with an alpha of 1",
    ),
    "gelu": composite(_gelu),
    "leaky_relu": composite(_leaky),
    "prelu": composite(_prelu, _slopes),
    "softmax": composite(_softmax, _last_axis),
    "log_softmax": composite(_log_softmax, _last_axis),
    "subtract": composite(_binary("SUB"), accepts=types("f32 i32 i64")),
    "divide": composite(_binary("DIV")),
    "trunc_divide": composite(_binary("DIV"), _known_divisor, types("i32")),
    "square": Row(Accepts(_F32), unary("SQUARE")),
    "rsqrt": Row(Accepts(_F32), unary("RSQRT")),
    "mean": composite(_mean, _has_axes)._replace(reduces=_averages),
    "linear": composite(_linear, _has_rows),
    "matmul": composite(_matmul, _stacks),
    "topk": composite(_topk, _largest_last, types("f32 i32 i64")),
    "argmax": composite(_argmax("ARG_MAX"), _one_axis, types("f32 i32")),
    "argmin": composite(_argmax("ARG_MIN"), _one_axis, types("f32 i32")),
}
