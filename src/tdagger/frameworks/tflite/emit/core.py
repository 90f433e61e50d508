"""How each core op is written as TFLite: when there is a kernel for it, and the operators that it becomes.

What has no row, or isn't accepted, is rewritten before (:mod:`tdagger.transform.legal.rewrites`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.emit.save import kind_of
from tdagger.frameworks.tflite.emit.writer import Reduced, Row, Writer
from tdagger.frameworks.writing import permuted, reshaped, unbroadcast
from tdagger.op import Value
from tdagger.transform.legal import Accepts, types
from tdagger.types import DType, TensorType, bool_, i64

#: Kernels that broadcast do so with at most so many axes.
BROADCASTS = {
    "ADD": 6, "SUB": 6, "MUL": 6, "DIV": 5, "MAXIMUM": 5, "MINIMUM": 5, "SELECT_V2": 5, "FLOOR_MOD": 4, "FLOOR_DIV": 4,
    "POW": 4, "EQUAL": 4, "NOT_EQUAL": 4, "LESS": 4, "LESS_EQUAL": 4, "GREATER": 4, "GREATER_EQUAL": 4,
    "LOGICAL_AND": 4, "LOGICAL_OR": 4, "BITWISE_XOR": 4, "RIGHT_SHIFT": 4, "ATAN2": 0, "SQUARED_DIFFERENCE": 4,
}  # fmt: skip
I32 = DType.of("i32")


def options(kind: str, **given: Any) -> Any:
    """Options of an operator, as the schema's generated classes have them."""
    found = getattr(s, f"{kind}OptionsT")()
    for name, value in given.items():
        assert hasattr(found, name), f"{kind}Options has no {name}"
        setattr(found, name, value)
    return found


# --- elementwise -------------------------------------------------------------------------------------------


def unary(op: str, made: Any = None) -> Any:
    """The row's function of an operator of one tensor."""

    def write(w: Writer, v: Value) -> int:
        return w.op(op, [w.ref(v.args[0])], v.type, None if made is None else made())

    return write


#: Operators whose options have an activation that they take along.
_ACTIVATED = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}


def binary(op: str) -> Any:
    """The row's function of an operator of two tensors that broadcast."""

    def write(w: Writer, v: Value) -> int:
        made = options(_ACTIVATED[op]) if op in _ACTIVATED else None
        return w.op(op, w.operands(v.args, BROADCASTS[op]), v.type, made)

    return write


def _merging(op: str) -> Any:
    """The row's function of a sum or a product: with a constant of each channel it is part of the layer before."""

    def write(w: Writer, v: Value) -> int:
        for x, y in (v.args, v.args[::-1]):
            found = w.merged(x, y, v, op == "MUL") if w.is_static(y) and not w.is_static(x) else None
            if found is not None:
                return found
        return binary(op)(w, v)

    return write


def _shift_right(w: Writer, v: Value) -> int:
    """By as many places as there are bits, more, or fewer than none it is as by one less: the sign is left."""
    x, y = v.args
    if w.is_static(y):
        small = unbroadcast(y)
        y = small if small.type.size == 1 else y
        by = w.static_of([y], y.type, "shift", lambda a: np.where((a < 0) | (a > 31), 31, a).astype(np.int32))
        return w.op("RIGHT_SHIFT", [w.ref(x), by], v.type)
    number, most = w.ref(y), w.constant(np.int32(31))
    below = w.op("LESS", [number, w.constant(np.int32(0))], y.type.with_dtype(bool_))
    least = w.op("MINIMUM", [number, most], y.type)
    return w.op("RIGHT_SHIFT", [w.ref(x), w.op("SELECT_V2", [below, most, least], y.type)], v.type)


def _where(w: Writer, v: Value) -> int:
    return w.op("SELECT_V2", w.operands(v.args, BROADCASTS["SELECT_V2"]), v.type)


def _cast(w: Writer, v: Value) -> int:
    x = v.args[0]
    return cast_to(w, w.ref(x), x.type, v.dtype)


def cast_to(w: Writer, number: int, type_: TensorType, to: DType) -> int:
    """A tensor in another element type."""
    if type_.dtype is to:
        return number
    made = options("Cast", inDataType=kind_of(type_.dtype), outDataType=kind_of(to))
    return w.op("CAST", [number], type_.with_dtype(to), made)


_CAST = types("f32 i32 i64 i16 i8 u8 bool f16 f64 u32 u16 bf16")


def _casts(v: Value) -> str | None:
    return None if v.dtype.name in _CAST[0] else f"TFLite has no cast to {v.dtype}"


def _bitcast(w: Writer, v: Value) -> int:
    return w.op("BITCAST", [w.ref(v.args[0])], v.type)


# --- structure ---------------------------------------------------------------------------------------------


def permute(w: Writer, v: Value) -> int:
    """A chain of permutes as one, as a reshape where only axes of size 1 move."""
    base, order = permuted(v)
    kept = [i for i in order if base.shape[i] != 1]
    if kept == sorted(kept):
        base = reshaped(base)
        return w.reshape(w.ref(base), base.shape, v.type)
    return w.op("TRANSPOSE", [w.ref(base), w.ints(order)], v.type, version=5 if v.rank > 4 else 1)


def reshape(w: Writer, v: Value) -> int:
    """A chain of reshapes as one, or as an option of the reduction that it drops axes of."""
    base = reshaped(v)
    found = w.reduced(base) if base not in w.found else None
    if found is not None and tuple([n for i, n in enumerate(base.shape) if i not in found.axes]) == v.shape:
        return reduced(w, *found, v.type, keep=False)
    return w.reshape(w.ref(base), base.shape, v.type)


_REDUCED = {"sum": "SUM", "prod": "REDUCE_PROD", "max": "REDUCE_MAX", "min": "REDUCE_MIN", "any": "REDUCE_ANY",
            "all": "REDUCE_ALL"}  # fmt: skip


def reduced(w: Writer, op: str, x: Value, axes: Sequence[int], type_: TensorType, keep: bool) -> int:
    """A reduction over axes, which stay with size 1 or are gone."""
    return w.op(op, [w.ref(x), w.ints(axes)], type_, options("Reducer", keepDims=keep))


def _reduce(w: Writer, v: Value) -> int:
    op: Any = v.op
    return reduced(w, _REDUCED[op.kind], v.args[0], op.axes, v.type, keep=True)


def _reduction(v: Value) -> Reduced:
    op: Any = v.op
    return Reduced(_REDUCED[op.kind], v.args[0], op.axes)


def _has_entries(v: Value) -> str | None:
    return None if v.args[0].type.size else "TFLite doesn't reduce what has no entries"


def _slice(w: Writer, v: Value) -> int:
    """Entries forwards; axes that run backwards are turned round after that."""
    x = v.args[0]
    ranges = [range(n) if b is None else range(*map(int, b)) for n, b in zip(x.shape, v.op.attributes["bounds"],
                                                                             strict=True)]  # fmt: skip
    backwards = [i for i, r in enumerate(ranges) if r.step < 0 and len(r) > 1]
    forwards = [r[::-1] if r.step < 0 else r for r in ranges]
    number = w.ref(x)
    if any(r.step != 1 and len(r) > 1 for r in forwards):
        begin = [r.start for r in forwards]
        step = [min(r.step, max(n, 1)) for r, n in zip(forwards, x.shape, strict=True)]
        end = [min(r.stop, n) if len(r) else r.start for r, n in zip(forwards, x.shape, strict=True)]
        made = options("StridedSlice")
        number = w.op("STRIDED_SLICE", [number, *map(w.ints, (begin, end, step))], v.type, made,
                      version=4 if x.rank > 4 else 1)  # fmt: skip
    elif x.type is not v.type:
        begin, size = [r.start for r in forwards], [len(r) for r in forwards]
        number = w.op("SLICE", [number, w.ints(begin), w.ints(size)], v.type, version=5 if x.rank > 4 else 1)
    for axis in backwards:
        number = w.op("REVERSE_V2", [number, w.ints([axis])], v.type)
    return number


def _pad(w: Writer, v: Value) -> int:
    x, op = v.args[0], v.op
    widths = [(0, 0) if p is None else p[:2] for p in op.attributes["widths"]]
    fill = op.attributes["value"]
    places = w.constant(np.array(widths, np.int32).reshape(-1, 2))
    if fill == 0 and not isinstance(fill, complex) and str(fill) != "-0.0":
        return w.op("PAD", [w.ref(x), places], v.type, version=3 if x.rank > 4 else 1)
    value = w.constant(np.asarray(fill).astype(v.dtype.numpy))
    return w.op("PADV2", [w.ref(x), places, value], v.type, version=3 if x.rank > 4 else 1)


def _pads_around(v: Value) -> str | None:
    between = any(p is not None and p[2] for p in v.op.attributes["widths"])
    return "TFLite pads around, not between" if between or not v.args[0].type.size else None


def _concat(w: Writer, v: Value) -> int:
    """Parts that are laid end to end themselves, along the same axis and for this alone, are laid at once."""
    axis = v.op.attributes["axis"]
    parts: list[Value] = []
    left = list(v.args[::-1])
    while left:
        part = left.pop()
        if w.is_part(part) and part not in w.found:
            left += part.args[::-1]
        elif part.type.size:
            parts.append(part)
    if len(parts) == 1:
        return w.ref(parts[0])
    made = options("Concatenation", axis=axis)
    return w.op("CONCATENATION", [w.ref(a) for a in parts], v.type, made)


def _repeat(w: Writer, v: Value) -> int:
    return w.op("BROADCAST_TO", [w.ref(v.args[0]), w.ints(v.shape)], v.type, version=2)


# --- indices -----------------------------------------------------------------------------------------------


def index(w: Writer, places: Value) -> int:
    """Places in whole numbers that operators take: constant ones in 32 bits."""
    if places.dtype is i64 and w.is_static(places):
        return w.static_of([places], places.type.with_dtype(I32), "i32", lambda a: a.astype(np.int32))
    if places.dtype.name not in ("i32", "i64"):
        return cast_to(w, w.ref(places), places.type, I32)
    return w.ref(places)


def _gather(w: Writer, v: Value) -> int:
    x, places = v.args
    op: Any = v.op
    made = options("Gather", axis=op.axis, batchDims=op.batch)
    return w.op("GATHER", [w.ref(x), index(w, places)], v.type, made, version=5 if op.batch else 1)


def _argsort(w: Writer, v: Value) -> int:
    """The largest of all: in falling order, of equal ones the first first."""
    x = v.args[0]
    count = w.constant(np.int32(x.shape[-1]))
    _, places = w.op("TOPK_V2", [w.ref(x), count], [x.type, x.type.with_dtype(I32)], options("TopKV2"))
    return cast_to(w, places, x.type.with_dtype(I32), i64)


def _sorts(v: Value) -> str | None:
    op: Any = v.op
    last = op.axis == v.rank - 1 and op.descending
    return None if last and v.type.size else "TFLite sorts the last axis, the largest first"


def _cumsum(w: Writer, v: Value) -> int:
    op: Any = v.op
    made = options("Cumsum", exclusive=False, reverse=op.reverse)
    return w.op("CUMSUM", [w.ref(v.args[0]), w.constant(np.int32(op.axis))], v.type, made)


# --- the table ---------------------------------------------------------------------------------------------

_F32 = types("f32")
_NUMBERS = types("f32 i32 i64")
_PLAIN = types("f32 i32 i64 i16 i8 u8 bool")


def _row(accepted: Any, write: Any, when: Any = None, reduces: Any = None) -> Row:
    return Row(Accepts(accepted, None, when), write, reduces)


def _iota(w: Writer, v: Value) -> int:
    """Numbers counted to one that is going to be another."""
    given = [w.constant(n, "i32") for n in (0, v.shape[0], 1)]
    type_ = v.type.with_dtype(I32)
    return cast_to(w, w.op("RANGE", given, type_, s.RangeOptionsT()), type_, v.dtype)


CORE: dict[str, Row] = {
    **{f"unary {k}": _row(_F32, unary(op)) for k, op in {
        "sqrt": "SQRT", "exp": "EXP", "log": "LOG", "sin": "SIN", "cos": "COS", "tanh": "TANH", "floor": "FLOOR",
        "ceil": "CEIL", "round": "ROUND",
    }.items()},
    "unary neg": _row(_NUMBERS, unary("NEG")),
    "unary abs": _row(types("f32 i32"), unary("ABS")),
    "unary sign": _row(types("f32 i32"), unary("SIGN")),
    "unary not": _row(types("bool"), unary("LOGICAL_NOT")),
    **{f"binary {k}": _row(t, binary(op)) for k, t, op in (
        ("max", _NUMBERS, "MAXIMUM"),
        ("min", _NUMBERS, "MINIMUM"), ("equal", types("f32 i32 i64 bool"), "EQUAL"),
        ("not_equal", types("f32 i32 i64 bool"), "NOT_EQUAL"), ("less", _NUMBERS, "LESS"),
        ("less_equal", _NUMBERS, "LESS_EQUAL"), ("greater", _NUMBERS, "GREATER"),
        ("greater_equal", _NUMBERS, "GREATER_EQUAL"), ("pow", _F32, "POW"), ("mod", _NUMBERS, "FLOOR_MOD"),
        ("bitwise_xor", types("i32 i16 i8 u8"), "BITWISE_XOR"),
        ("bitwise_and", types("bool"), "LOGICAL_AND"), ("bitwise_or", types("bool"), "LOGICAL_OR"),
        ("atan2", _F32, "ATAN2"), ("floor_divide", types("i32"), "FLOOR_DIV"),
    )},
    "binary add": _row(_NUMBERS, _merging("ADD")),
    "binary multiply": _row(_NUMBERS, _merging("MUL")),
    "binary shift_right": _row(types("i32"), _shift_right),
    "where": _row(types("bool", "f32 i32 i64 i16 i8 u8 bool"), _where),
    "cast": _row(_CAST, _cast, _casts),
    "bitcast": _row(_NUMBERS, _bitcast),
    "permute": _row(_PLAIN, permute),
    "reshape": _row(types("f32 i32 i64 i16 i8 u8 bool f16 f64 u32 u16 bf16"), reshape),
    **{f"reduce {k}": _row(_NUMBERS, _reduce, _has_entries, _reduction) for k in ("sum", "prod", "max", "min")},
    **{f"reduce {k}": _row(types("bool"), _reduce, _has_entries, _reduction) for k in ("any", "all")},
    "slice": _row(_PLAIN, _slice),
    "pad": _row(types("f32 i32 i64 i8 u8 i16"), _pad, _pads_around),
    "concat": _row(_PLAIN, _concat),
    "repeat": _row(_PLAIN, _repeat),
    "gather": _row(types("f32 i32 i64 i16 i8 u8 bool", "i32 i64 i16 i8 u8"), _gather),
    "argsort": _row(_NUMBERS, _argsort, _sorts),
    "scan sum": _row(_NUMBERS, _cumsum),
    "iota": _row(_NUMBERS, _iota),
}  # fmt: skip
