"""What TFLite has no operator for, in operators that it has: with the channels of images last, and in few operators.

Rows of :attr:`tdagger.transform.legal.Target.identities`, tried before those that are true for every target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger.frameworks.tflite.emit.images import image
from tdagger.frameworks.writing import fields
from tdagger.graph import topological
from tdagger.interpret import computed
from tdagger.library import matmul, mean, rsqrt, softmax, square
from tdagger.library.attention import _heads as heads  # pyright: ignore[reportPrivateUsage]
from tdagger.library.linear import linear
from tdagger.op import Value
from tdagger.ops.elementwise import cast, equal, floor_divide, greater_equal, neg, not_, where
from tdagger.ops.indexing import Argsort
from tdagger.ops.source import Const, Iota, iota
from tdagger.ops.structure import permute, reduce, transpose, unsqueeze
from tdagger.transform.legal.identities import checked_index, rms_norm_in_f32
from tdagger.transform.legal.target import label
from tdagger.transform.passes.rank import regrouped
from tdagger.types import bool_

# --- norms -------------------------------------------------------------------------------------------------


def _standardised(x: Value, axes: tuple[int, ...], eps: float) -> Value:
    centred = x - mean(x, axes=axes, keep=True)
    return centred * rsqrt(mean(square(centred), axes=axes, keep=True) + eps)


def _affine(y: Value, weight: Value | None, bias: Value | None) -> Value:
    """Scaled and moved along the last axes."""
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_norm(v: Value) -> Value | None:
    f = fields(v)
    x: Value = f["x"]
    if x.dtype.name != "f32" or not x.type.size:
        return None
    axes = tuple(range(x.rank - f["rank"], x.rank))
    return _affine(_standardised(x, axes, f["eps"]), f["weight"], f["bias"])


def _group_norm(v: Value) -> Value | None:
    """Groups of the last axis: ``[n s.. (g c)]``."""
    i = image(v, v.rank - 2)
    x, f = i.x, i.f
    groups = f.get("groups", x.shape[-1])
    if x.dtype.name != "f32" or not x.type.size or f["axis"] != 1:
        return None
    if groups == x.shape[-1]:
        return _affine(_standardised(x, tuple(range(1, x.rank - 1)), f["eps"]), f["weight"], f["bias"])
    n, c = x.shape[0], x.shape[-1]
    apart = regrouped(x, (n, math.prod(x.shape[1:-1]), groups, c // groups))
    y = regrouped(_standardised(apart, (1, 3), f["eps"]), x.shape)
    return _affine(y, f["weight"], f["bias"])


def _group_norm_first(v: Value) -> Value | None:
    """Groups of the second axis, where the channels aren't last: ``[n (g c) s..]``."""
    f = fields(v)
    x: Value = f["x"]
    if x.dtype.name != "f32" or not x.type.size or f["axis"] != 1:
        return None
    groups = f.get("groups", x.shape[1])
    y = regrouped(
        _standardised(regrouped(x, (x.shape[0], groups, x.type.size // (x.shape[0] * groups))), (2,), f["eps"]), x.shape
    )
    weight, bias = (None if t is None else unsqueeze(t, range(1, x.rank - 1)) for t in (f["weight"], f["bias"]))
    return _affine(y, weight, bias)


def _batch_norm(v: Value) -> Value | None:
    """One product and one sum, of numbers that are worked out before."""
    f = fields(v)
    x: Value = f["x"]
    if x.dtype.name != "f32":
        return None
    scale = rsqrt(f["variance"] + f["eps"])
    scale = scale if f["weight"] is None else scale * f["weight"]
    shift = neg(f["mean"] * scale)
    shift = shift if f["bias"] is None else f["bias"] + shift
    scale, shift = (unsqueeze(t, range(1, x.rank - f["axis"])) for t in (scale, shift))
    return x * scale + shift


# --- products ----------------------------------------------------------------------------------------------


def _addmm(v: Value) -> Value | None:
    """A linear layer, where it is one."""
    f = fields(v)
    x, y, bias = f["x"], f["y"], f["bias"]
    plain = f["alpha"] == 1 and f["beta"] == 1 and x.dtype.name == "f32"
    if not plain or y.rank != 2 or x.rank < 2 or bias.shape != y.shape[-1:]:
        return None
    return linear(x, transpose(y, 0, 1), bias)


def _attention(v: Value) -> Value | None:
    """As its body, with the scale on the queries, which are fewer than pairs.

    A mask of constants is looked at: where no row is excluded wholly, none has to be zero.
    """
    f = fields(v)
    q, k, values, mask = f["q"], f["k"], f["v"], f["mask"]
    if q.dtype.name != "f32" or not v.type.size or not k.type.size:
        return None
    k, values = heads(q, k, values, f["grouped"])
    scale = 1 / math.sqrt(q.shape[-1]) if f["scale"] is None else f["scale"]
    scores = matmul(q if scale == 1 else q * scale, transpose(k, -1, -2))
    if f["causal"]:
        row, column = (iota(n) for n in scores.shape[-2:])
        scores = where(greater_equal(unsqueeze(row, (1,)), column), scores, -math.inf)
    if mask is not None:
        scores = where(mask, scores, -math.inf) if mask.dtype is bool_ else scores + cast(mask, scores.dtype)
    weights = softmax(scores, axis=-1)
    if mask is not None and _may_exclude(mask):
        weights = where(equal(reduce(scores, "max", (-1,)), -math.inf), 0.0, weights)
    return matmul(weights, values)


def _may_exclude(mask: Value) -> bool:
    """Whether a row of a mask may be excluded wholly: not if it is constant and none is."""
    if mask.type.size > 1 << 22 or any(not v.args and not isinstance(v.op, Const | Iota) for v in topological([mask])):
        return True
    data = computed(mask)
    inside = data if mask.dtype is bool_ else data > -math.inf
    return not bool(inside.any(-1).all())


# --- activations -------------------------------------------------------------------------------------------


def _along_last(function: Callable[[Value, Any], Value]) -> Callable[[Value], Value | None]:
    """A function along the last axis, for one along another."""

    def row(v: Value) -> Value | None:
        x, axis = v.args[0], v.op.attributes["axis"]
        if not x.rank or axis == x.rank - 1 or not x.type.size:
            return None
        order = [*(i for i in range(x.rank) if i != axis), axis]
        back = [order.index(i) for i in range(x.rank)]
        return permute(function(permute(x, order), v), back)

    return row


def _again(x: Value, v: Value) -> Value:
    op: Any = v.op
    return type(op)(**{**op.attributes, "axis": x.rank - 1, "given": op.given})(x)


# --- order -------------------------------------------------------------------------------------------------


def _argsort(v: Value) -> Value | None:
    """Along the last axis, in falling order: numbers that rise turned round."""
    x = v.args[0]
    axis, descending = v.op.attributes["axis"], v.op.attributes["descending"]
    if not v.type.size:
        return None
    if axis != x.rank - 1:
        order = [*(i for i in range(x.rank) if i != axis), axis]
        back = [order.index(i) for i in range(x.rank)]
        return permute(Argsort(x.rank - 1, descending)(permute(x, order)), back)
    if descending:
        return None
    turned = not_(x) if x.dtype.is_int or x.dtype is bool_ else neg(x)
    return Argsort(axis, True)(turned)


# --- whole numbers -----------------------------------------------------------------------------------------


def _floor_divide(v: Value) -> Value | None:
    """Whole numbers of 64 bits that are known to be of fewer."""
    x, y = v.args
    if v.dtype.name != "i64" or max(most(x), most(y)) >= 2**31:
        return None
    return cast(floor_divide(cast(x, "i32"), cast(y, "i32")), "i64")


def most(value: Value) -> float:
    """What no entry of whole numbers is beyond, by what it is made of; infinity if that isn't known."""
    known: dict[Value, float] = {}
    for v in topological([value]):
        known[v] = _most(v, [known[a] for a in v.args])
    return known[value]


#: Ops of which every entry is one of an argument's.
_MOVES = frozenset({"permute", "group", "ungroup", "reshape", "slice", "repeat", "concat", "stop_gradient"})
#: What no result of whole numbers is beyond, by what its arguments aren't beyond.
_BEYOND: Mapping[str, Callable[..., float]] = {
    "unary neg": lambda x: x, "unary abs": lambda x: x, "unary sign": lambda x: 1.0,
    "binary add": lambda x, y: x + y, "subtract": lambda x, y: x + y,
    "binary multiply": lambda x, y: x * y if x and y else 0.0, "binary floor_divide": lambda x, y: x,
    "binary mod": lambda x, y: y, "rem": lambda x, y: y, "binary max": max, "binary min": max,
    "where": lambda condition, x, y: max(x, y), "gather": lambda x, places: x,
    "reduce max": lambda x: x, "reduce min": lambda x: x,
}  # fmt: skip


def _most(v: Value, args: list[float]) -> float:
    op: Any = v.op
    if isinstance(op, Const):
        return float(np.abs(op.data.astype(np.float64)).max(initial=0)) if op.dtype.is_int else math.inf
    if isinstance(op, Iota):
        return float(op.size)
    if op.name in ("argsort", "argmax", "argmin"):
        return float(v.args[0].shape[op.axis])
    if op.name == "item" and v.args[0].op.name in ("topk", "sort") and op.index == 1:
        return float(v.args[0].args[0].shape[v.args[0].op.attributes["axis"]])
    if op.name == "cast" and v.dtype.is_int:
        own = v.args[0].dtype
        return min(args[0], 2.0 ** (8 * own.bytes)) if own.is_int and own.bytes < v.dtype.bytes else args[0]
    if op.name in _MOVES:
        return max(args)
    beyond = _BEYOND.get(label(v))
    return beyond(*args) if beyond is not None and v.dtype.is_int else math.inf


# --- images ------------------------------------------------------------------------------------------------


def _shuffle(v: Value) -> Value | None:
    """``.. h w (c r s) -> .. (h r) (w s) c`` with one transpose."""
    i = image(v, 2)
    x, r = i.x, i.f["factor"]
    *lead, h, w, c = x.shape
    n = math.prod(lead)
    apart = regrouped(x, (n, h, w, c // (r * r), r, r))
    return regrouped(permute(apart, (0, 1, 4, 2, 5, 3)), v.shape)


def _unshuffle(v: Value) -> Value | None:
    """``.. (h r) (w s) c -> .. h w (c r s)`` with one transpose."""
    i = image(v, 2)
    x, r = i.x, i.f["factor"]
    *lead, h, w, c = x.shape
    apart = regrouped(x, (math.prod(lead), h // r, r, w // r, r, c))
    return regrouped(permute(apart, (0, 1, 3, 5, 2, 4)), v.shape)


def _over_all(kind: str) -> Callable[[Value], Value | None]:
    """A pool to one entry of each channel is a reduction, wherever the channels are."""

    def row(v: Value) -> Value | None:
        f = fields(v)
        x: Value = f["x"]
        if x.dtype.name != "f32" or not x.type.size or any(n != 1 for n in f["size"]):
            return None
        axes = tuple(range(x.rank - len(f["size"]), x.rank))
        return mean(x, axes=axes, keep=True) if kind == "mean" else reduce(x, kind, axes, keep=True)

    return row


IDENTITIES: Mapping[str, Callable[[Value], Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": lambda v: rms_norm_in_f32(**fields(v)),
    "group_norm": _group_norm_first,
    "instance_norm": _group_norm_first,
    "group_norm_last": _group_norm,
    "instance_norm_last": _group_norm,
    "adaptive_avg_pool": _over_all("mean"),
    "adaptive_max_pool": _over_all("max"),
    "batch_norm": _batch_norm,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "softmax": _along_last(_again),
    "log_softmax": _along_last(_again),
    "argsort": _argsort,
    "linear_index": checked_index,
    "binary floor_divide": _floor_divide,
    "pixel_shuffle_last": _shuffle,
    "pixel_unshuffle_last": _unshuffle,
}
