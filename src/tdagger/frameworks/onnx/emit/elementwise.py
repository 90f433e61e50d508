"""How core ops on entries are written as ONNX."""

from __future__ import annotations

import math
from typing import Any

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.emit.kernels import computed_in, takes
from tdagger.frameworks.onnx.emit.writer import Row, Writer, number_of
from tdagger.frameworks.writing import unbroadcast
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, cast, less
from tdagger.ops.source import const
from tdagger.ops.structure import broadcast_to
from tdagger.transform.legal import identities as special
from tdagger.types import DType, bool_

F32 = DType.of("f32")


def real(v: Value) -> None:
    """UnsupportedError for complex numbers."""
    for t in (v, *v.args):
        if not isinstance(t.type, tuple) and t.dtype.is_complex:
            raise UnsupportedError("onnxruntime has no complex numbers")


#: Unary functions to the operators that are these.
_UNARY = {
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "reciprocal": "Reciprocal", "sqrt": "Sqrt", "exp": "Exp",
    "log": "Log", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan",
    "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round",
}  # fmt: skip


def _unary(w: Writer, v: Value) -> Any:
    real(v)
    x, kind = v.args[0], v.op.attributes["kind"]
    name, dtype = w.ref(x), x.dtype
    if kind in special.UNARY:
        return special.UNARY[kind](x)
    if kind in special.UNARY_F64 and dtype.name == "f64":
        return special.UNARY_F64[kind](x)
    if kind == "not":
        return w.node("Not", [name]) if dtype is bool_ else w.typed("BitwiseNot", dtype, [name])
    if kind in _PREDICATES:
        return _PREDICATES[kind](w, name, dtype)
    if dtype is bool_:  # the sign of a bool is the bool
        return name
    if kind == "neg" and not takes("Neg", dtype) and not dtype.is_float:  # unsigned numbers wrap around
        return w.typed("Sub", dtype, [w.scalar(0, dtype), name])
    if kind == "sign" and dtype.is_float:  # 0 for NaN, which Sign keeps
        signs = w.typed("Sign", dtype, [name])
        return choose(w, isnan(w, name, dtype), w.scalar(0, dtype), signs, dtype)
    return w.typed(_UNARY[kind], dtype, [name])


def isnan(w: Writer, x: str, dtype: DType) -> str:
    """Where entries are NaN: nowhere, of what isn't floats."""
    if not dtype.is_float:
        return w.typed("Less", dtype, [x, x], predicate=True) if dtype is not bool_ else w.node("And", [
            x, w.node("Not", [x])])  # fmt: skip
    return w.node("IsNaN", [x])


def _isinf(w: Writer, x: str, dtype: DType) -> str:
    if not dtype.is_float:
        return isnan(w, x, dtype)
    if dtype.name == "f8e4m3":  # it has none
        return w.typed("Less", dtype, [x, x], predicate=True)
    return w.node("IsInf", [w.cast(x, dtype, F32) if dtype.bytes < 4 else x])


def _isfinite(w: Writer, x: str, dtype: DType) -> str:
    if not dtype.is_float:
        return w.node("Not", [isnan(w, x, dtype)])
    to = computed_in("Less", dtype)
    size = w.node("Abs", [w.cast(x, dtype, to)])
    return w.node("Less", [size, w.scalar(math.inf, to)])


def _signbit(w: Writer, x: str, dtype: DType) -> str:
    """Below 0, or with a reciprocal below it: -0.0. The sign of NaN can't be told, and is taken as positive."""
    if dtype is bool_:
        return isnan(w, x, dtype)
    zero = w.scalar(0, dtype)
    below = w.typed("Less", dtype, [x, zero], predicate=True)
    if not dtype.is_float:
        return below
    turned = w.typed("Reciprocal", dtype, [x])
    return w.node("Or", [below, w.typed("Less", dtype, [turned, zero], predicate=True)])


_PREDICATES: dict[str, Any] = {"isnan": isnan, "isinf": _isinf, "isfinite": _isfinite, "signbit": _signbit}

#: Binary functions to operators; those that compare give bools.
_BINARY = {"add": "Add", "multiply": "Mul", "max": "Max", "min": "Min"}
_COMPARED = {
    "equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}  # fmt: skip
_BITS = {"bitwise_and": ("And", "BitwiseAnd"), "bitwise_or": ("Or", "BitwiseOr"), "bitwise_xor": ("Xor", "BitwiseXor")}


def _binary(w: Writer, v: Value) -> Any:
    real(v)
    x, y = v.args
    kind, dtype = v.op.attributes["kind"], x.dtype
    if kind in _BITS:
        logical, bits = _BITS[kind]
        return w.node(logical, w.operands(v.args)) if dtype is bool_ else w.typed(bits, dtype, w.operands(v.args))
    if kind in _COMPARED or kind == "not_equal":
        return _compared(w, kind, dtype, w.operands(v.args))
    if kind in _BINARY:
        if dtype is bool_:
            return w.node("Or" if kind == "max" else "And", w.operands(v.args))
        return w.typed(_BINARY[kind], dtype, w.operands(v.args))
    if kind in ("shift_left", "shift_right"):
        return _shift(w, v, kind)
    if kind == "atan2":
        if dtype.bytes < 4:
            return cast(special.atan2_of(cast(x, "f32"), cast(y, "f32")), dtype)
        return special.atan2_of(x, y)
    if kind == "nextafter":
        raise UnsupportedError("ONNX has no operator that tells the next number")
    return _divided(w, v, kind) if dtype.is_int else _of_floats(w, v, kind)


def _compared(w: Writer, kind: str, dtype: DType, names: list[str]) -> str:
    if kind == "not_equal":
        if dtype is bool_:
            return w.node("Xor", names)
        return w.node("Not", [w.typed("Equal", dtype, names, predicate=True)])
    return w.typed(_COMPARED[kind], dtype, names, predicate=True)


def _of_floats(w: Writer, v: Value, kind: str) -> Any:
    x, y = v.args
    if kind == "pow":
        return w.typed("Pow", v.dtype, w.operands(v.args))
    if kind == "rem":
        return w.typed("Mod", v.dtype, w.operands(v.args), fmod=1)
    function = {"mod": special.mod_of, "floor_divide": special.floor_divide_of}[kind]
    if v.dtype.bytes < 4:
        return cast(function(cast(x, "f32"), cast(y, "f32")), v.dtype)
    return function(x, y)


def _divided(w: Writer, v: Value, kind: str) -> Any:
    """Whole numbers: a processor traps on a division by 0 and of the lowest by -1, so these are kept from it."""
    x, y = v.args
    dtype = v.dtype
    if kind == "pow":
        known = w.array(y)
        if known is not None and known.size and (known == known.flat[0]).all() and 0 <= int(known.flat[0]) <= 4:
            return _power(x, int(known.flat[0]))
        return special.pow_of_integers(x, y)
    a, b = w.operands(v.args)
    known = w.array(y)
    negated = ""
    safe = known is not None and not ((known == 0) | (known == -1 if dtype.is_signed else False)).any()
    if not safe:
        b, negated = kept_apart(w, b, dtype)
    out: str
    if kind == "rem":
        out = w.typed("Mod", dtype, [a, b], fmod=1)
    elif kind == "mod":
        out = w.typed("Mod", dtype, [a, b])
    else:
        out = _floored(w, x, a, b)
    if not safe and dtype.is_signed:
        other = w.typed("Neg", dtype, [a]) if kind == "floor_divide" else w.scalar(0, dtype)
        out = choose(w, negated, other, out, dtype)
    return out


def kept_apart(w: Writer, b: str, dtype: DType) -> tuple[str, str]:
    """A divisor with 1 in the place of 0 and -1, and where it is -1."""
    one = w.scalar(1, dtype)
    zero = w.typed("Equal", dtype, [b, w.scalar(0, dtype)], predicate=True)
    if not dtype.is_signed:
        return choose(w, zero, one, b, dtype), ""
    negated = w.typed("Equal", dtype, [b, w.scalar(-1, dtype)], predicate=True)
    return choose(w, w.node("Or", [zero, negated]), one, b, dtype), negated


def quotient(w: Writer, x: Value, a: str, b: str) -> str:
    """A quotient of whole numbers, truncated; ``a`` is ``x``, ``b`` neither 0 nor -1.

    onnxruntime (DivMulFusion) makes m / n of m * (1 / n), also of whole numbers, so 1 is never divided.
    """
    known = w.array(unbroadcast(x))
    if known is not None and known.size and (known == 1).all():
        return w.cast(w.typed("Equal", x.dtype, [b, a], predicate=True), bool_, x.dtype)
    return w.typed("Div", x.dtype, [a, b])


def _floored(w: Writer, x: Value, a: str, b: str) -> str:
    """The truncated quotient, less 1 where the remainder has another sign than the divisor."""
    dtype = x.dtype
    out = quotient(w, x, a, b)
    if not dtype.is_signed:
        return out
    rest = w.typed("Mod", dtype, [a, b])
    left = w.typed("Sub", dtype, [a, w.typed("Mul", dtype, [out, b])])
    off = w.node("Not", [w.typed("Equal", dtype, [rest, left], predicate=True)])
    return w.typed("Sub", dtype, [out, w.cast(off, bool_, dtype)])


def _power(x: Value, n: int) -> Value:
    if n == 0:
        return broadcast_to(const(1, x.dtype), x.shape)
    out = x
    for _ in range(n - 1):
        out = out * x
    return out


def _shift(w: Writer, v: Value, kind: str) -> Any:
    """Shifts of unsigned numbers; those of signed ones by their bits, to the right of what isn't negative."""
    x, y = v.args
    dtype = v.dtype
    bits = DType.of(f"u{8 * dtype.bytes}")
    if dtype is bits:
        return w.node("BitShift", w.operands(v.args), direction="LEFT" if kind == "shift_left" else "RIGHT")
    if kind == "shift_left":
        out = Binary("shift_left")(cast(x, bits), cast(y, bits))
        return cast(out, dtype)
    down = Binary("shift_right")
    negative = less(x, 0)
    from tdagger.ops.elementwise import not_, where

    size = where(negative, not_(x), x)
    moved = cast(down(cast(size, bits), cast(y, bits)), dtype)
    return where(negative, not_(moved), moved)


def choose(w: Writer, condition: str, x: str, y: str, dtype: DType) -> str:
    """Where, in a type that it takes."""
    to = computed_in("Where", dtype, moves=True)
    return w.cast(w.node("Where", [condition, w.cast(x, dtype, to), w.cast(y, dtype, to)]), to, dtype)


def _where(w: Writer, v: Value) -> str:
    real(v)
    condition, x, y = w.operands(v.args)
    if v.dtype is bool_:
        return w.node("Or", [w.node("And", [condition, x]), w.node("And", [w.node("Not", [condition]), y])])
    return choose(w, condition, x, y, v.dtype)


def _cast(w: Writer, v: Value) -> str:
    real(v)
    return w.cast(w.ref(v.args[0]), v.args[0].dtype, v.dtype, saturates=True)


def _bitcast(w: Writer, v: Value) -> str:
    """Between whole numbers a cast wraps around; else it takes an operator of a later set."""
    x, to = v.args[0], v.dtype
    if x.dtype.is_int and to.is_int:
        return w.cast(w.ref(x), x.dtype, to)
    if w.opset < 26 or bool_ in (x.dtype, to) or x.dtype.is_complex or to.is_complex:
        raise UnsupportedError(f"bits of {x.dtype} as {to} need operator set 26 (to_onnx(opset=26)), if at all")
    return w.node("BitCast", [w.ref(x)], to=number_of(to))


#: The rows of this module.
ELEMENTWISE: dict[str, Row] = {
    "unary": _unary,
    "binary": _binary,
    "where": _where,
    "cast": _cast,
    "bitcast": _bitcast,
}
