"""Composites of numbers one by one, sums over axes, orders, and choosing by data, as ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tdagger.frameworks.onnx.emit import elementwise
from tdagger.frameworks.onnx.emit.composites.rule import F32, Rule, floats, real_numbers
from tdagger.frameworks.onnx.emit.kernels import computed_in, takes
from tdagger.frameworks.onnx.emit.writer import Writer, has_sizes
from tdagger.frameworks.writing import Fields, unbroadcast
from tdagger.op import Value
from tdagger.types import Size, TensorType, bool_


def _elementwise(op: str, **options: Any) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        return w.typed(op, v.dtype, w.operands(v.args), **options)

    return write


def clip(w: Writer, x: Value, low: Any, high: Any) -> str:
    """Clip, in the element type its kernel takes; numbers that the type can't hold say nothing."""
    to = computed_in("Clip", x.dtype)
    if to.is_float:  # without a bound it takes the largest number, and not infinity
        low, high = -math.inf if low is None else low, math.inf if high is None else high
    bounds = ["" if b is None else w.scalar(b, to) for b in (low, high)]
    name = w.cast(w.ref(x), x.dtype, to)
    return w.cast(w.node("Clip", [name, *bounds] if bounds[1] else [name, bounds[0]]), to, x.dtype)


def _clamp(w: Writer, v: Value, f: Fields) -> Any:
    if f["low"] is None and f["high"] is None:
        return v.args[0]
    return clip(w, v.args[0], f["low"], f["high"])


def _has_bounds(f: Fields, types: Sequence[TensorType]) -> bool:
    """Bounds that the element type holds: those of the body are of it too."""
    return not types[0].dtype.is_complex and types[0].dtype is not bool_


def _over_axes(op: str) -> Callable[[Writer, Value, Fields], str]:
    """A reduction with ``axes`` and ``keep``."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        return w.typed(op, v.dtype, [w.ref(v.args[0]), w.ints(f["axes"])], keepdims=int(f["keep"])) if (
            takes(op, v.dtype)
        ) else w.cast(
            w.node(op, [w.cast(w.ref(v.args[0]), v.dtype, F32), w.ints(f["axes"])], keepdims=int(f["keep"])),
            F32, v.dtype,
        )  # fmt: skip

    return write


def _float_axes(f: Fields, types: Sequence[TensorType]) -> bool:
    """Over some axes, of floats, with entries (of none onnxruntime says 0 where it should be NaN)."""
    return types[0].dtype.is_float and len(f["axes"]) > 0 and 0 not in types[0].shape


def _spread(root: bool) -> Callable[[Writer, Value, Fields], str]:
    """The variance over axes some of which have no number: the count is worked out of the shapes."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x = v.args[0]
        to = computed_in("ReduceMean", x.dtype)
        name, axes = w.cast(w.ref(x), x.dtype, to), w.ints(f["axes"])
        away = w.node("Sub", [name, w.node("ReduceMean", [name, axes], keepdims=1)])
        total = w.node("ReduceSum", [w.node("Mul", [away, away]), axes], keepdims=int(f["keep"]))
        count = w.node("Sub", [w.size(math.prod([x.shape[a] for a in f["axes"]]), to), w.scalar(f["correction"], to)])
        out = w.node("Div", [total, w.node("Max", [count, w.scalar(0, to)])])
        return w.cast(w.node("Sqrt", [out]) if root else out, to, x.dtype)

    return write


def _counts_sizes(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.is_float and has_sizes(tuple([types[0].shape[a] for a in f["axes"]]))


def _arg(op: str) -> Callable[[Writer, Value, Fields], str]:
    """The first of equals; where NaN is, onnxruntime says nothing of the order."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x = v.args[0]
        to = computed_in(op, x.dtype)
        return w.node(op, [w.cast(w.ref(x), x.dtype, to)], axis=f["axis"], keepdims=int(f["keep"]))

    return write


def _orders(f: Fields, types: Sequence[TensorType]) -> bool:
    return not types[0].dtype.is_complex and types[0].dtype.name != "u64" and 0 not in types[0].shape


def _topk(w: Writer, v: Value, f: Fields) -> tuple[str, str]:
    """Values and places; where NaN is, onnxruntime says nothing of the order."""
    x = v.args[0]
    to = computed_in("TopK", x.dtype)
    found = w.node("TopK", [w.cast(w.ref(x), x.dtype, to), w.ints([f["k"]])], 2, axis=f["axis"],
                   largest=int(f["largest"]), sorted=1)  # fmt: skip
    return w.cast(found[0], to, x.dtype), found[1]


def _over_count(w: Writer, v: Value, f: Fields) -> str:
    """Divided by a number of entries, which may be that of an axis without a number."""
    x = v.args[0]
    to = computed_in("Div", x.dtype)
    count = math.prod([x.shape[a] for a in f["axes"]])
    if count.__class__ is Size:
        number = w.size(count, to)
        number = w.node("Sqrt", [number]) if f["root"] else number
    else:
        number = w.scalar(math.sqrt(count) if f["root"] else float(count), to)
    return w.cast(w.node("Div", [w.cast(w.ref(x), x.dtype, to), number]), to, x.dtype)


def _trunc_divide(w: Writer, v: Value, f: Fields) -> str:
    x, y = v.args
    a, b = w.operands(v.args)
    negated = ""
    known = w.array(unbroadcast(y))
    safe = known is not None and not ((known == 0) | ((known == -1) & v.dtype.is_signed)).any()
    if not safe:
        b, negated = elementwise.kept_apart(w, b, v.dtype)
    out = elementwise.quotient(w, x, a, b)
    if negated:
        other = w.typed("Neg", v.dtype, [a])
        out = elementwise.choose(w, negated, other, out, v.dtype)
    return out


def _cond(w: Writer, v: Value, f: Fields) -> Any:
    """If, whose branches read what is around them."""
    predicate, *operands = v.args
    count = len(v.type) if isinstance(v.type, tuple) else 1
    branches: dict[str, Any] = {
        n: w.branch(f[k], operands) for n, k in (("then_branch", "then"), ("else_branch", "otherwise"))
    }
    return w.node("If", [w.ref(predicate)], count, **branches)


def _square(w: Writer, v: Value, f: Fields) -> str:
    x = w.ref(v.args[0])
    return w.typed("Mul", v.dtype, [x, x])


def _exp2(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("Pow", v.dtype)
    return w.cast(w.node("Pow", [w.scalar(2, to), w.cast(w.ref(v.args[0]), v.dtype, to)]), to, v.dtype)


_NORMS = {1: "ReduceL1", 2: "ReduceL2"}


def _vector_norm(w: Writer, v: Value, f: Fields) -> str:
    return _over_axes(_NORMS[f["ord"]])(w, v, f)


#: Of each composite its row.
ARITHMETIC: dict[str, Rule] = {
    "subtract": Rule(_elementwise("Sub"), real_numbers),
    "divide": Rule(_elementwise("Div"), floats),
    "square": Rule(_square, real_numbers),
    "exp2": Rule(_exp2, floats),
    "mean": Rule(_over_axes("ReduceMean"), _float_axes),
    "variance": Rule(_spread(False), _counts_sizes),
    "std": Rule(_spread(True), _counts_sizes),
    "over_count": Rule(_over_count, floats),
    "argmax": Rule(_arg("ArgMax"), _orders),
    "argmin": Rule(_arg("ArgMin"), _orders),
    "vector_norm": Rule(_vector_norm, lambda f, t: _float_axes(f, t) and f["ord"] in _NORMS),
    "logsumexp": Rule(_over_axes("ReduceLogSumExp"), _float_axes),
    "trunc_divide": Rule(_trunc_divide, lambda f, t: t[0].dtype.is_int),
    "clamp": Rule(_clamp, _has_bounds),
    "topk": Rule(_topk, lambda f, t: _orders(f, t)),
    "cond": Rule(_cond),
}
