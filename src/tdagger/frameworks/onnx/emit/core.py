"""How each core op is written as ONNX: one row each. A row makes the nodes of a value and gives their result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.emit.elementwise import ELEMENTWISE, choose, isnan, real
from tdagger.frameworks.onnx.emit.indexing import INDEXING, places_of
from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.moves import moved, with_shape
from tdagger.frameworks.onnx.emit.selection import Selected, selected
from tdagger.frameworks.onnx.emit.writer import Row, Writer, has_sizes
from tdagger.frameworks.writing import permuted, reshaped
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.external import External, Slot
from tdagger.ops.indexing import Gather
from tdagger.ops.source import const
from tdagger.ops.structure import Permute, Reduce, Slice, broadcast_to, permute
from tdagger.transform.legal import identities as special
from tdagger.types import DType, Size, Sized, bool_, i64

F32, U8, U64, I32 = map(DType.of, ("f32", "u8", "u64", "i32"))
#: Bounds that reach to either end of an axis, whatever its size.
END, START = 2**63 - 1, -(2**63) + 1

# --- structure ---------------------------------------------------------------------------------------------


def _permute(w: Writer, v: Value) -> Any:
    real(v)
    along = _along(w, v)
    if along is not None:
        return along
    base, order = permuted(v)
    if order == tuple(range(v.rank)):
        return base
    leaf = only_used_by(w, base, v)
    if leaf is not None:
        return w.moved(leaf, "T", lambda a: np.ascontiguousarray(a.transpose(order)), v.type)
    return moved(w, "Transpose", v.dtype, [w.ref(base)], perm=order)


def only_used_by(w: Writer, base: Value, user: Value) -> Value | None:
    """The weight that ``base`` is, if only ``user`` needs it: it may lie in the file as that wants it."""
    leaf = w.weight(base)
    users = w.users.get(base, ()) if leaf is not None else ()
    return leaf if len(users) == 1 and users[0] is user else None


def _along(w: Writer, v: Value) -> str | None:
    """GatherElements for ``v = permute(gather(permute(x), permute(index)))``; None if it isn't that."""
    g = v.args[0]
    order: tuple[int, ...] = v.op.attributes["order"]
    if not (isinstance(g.op, Gather) and g.op.axis == g.op.batch == len(order) - 1):
        return None
    x, index = g.args
    if not (isinstance(x.op, Permute) and x.op is index.op) or [x.op.order[i] for i in order] != list(range(v.rank)):
        return None
    places = places_of(w, index.args[0], x.shape[-1])
    return moved(w, "GatherElements", v.dtype, [w.ref(x.args[0])], [places], axis=x.op.order[-1])


def reshape(w: Writer, v: Value) -> Any:
    """A chain of group, ungroup and reshape as one node, or as an option of what it starts from."""
    real(v)
    base = reshaped(v)
    if base.type is v.type:
        return base
    dropped = _dropping(w, base, v)
    if dropped is not None:
        return dropped
    leaf = w.weight(base)
    if leaf is not None and leaf.type.size < 1 << 12 and not has_sizes(v.type):
        shape = tuple(map(int, v.shape))
        return w.moved(leaf, "x".join(map(str, shape)) or "scalar", lambda a: a.reshape(shape), v.type)
    return with_shape(w, w.ref(base), base.type, v.shape)


def _dropping(w: Writer, base: Value, v: Value) -> Any:
    """A reduction that drops its axes, or one entry of an axis, in one node; None if it is neither."""
    if isinstance(base.op, Reduce) and _without(base, base.op.axes) == v.shape:
        return reduced(w, base, keep=False)
    if isinstance(base.op, Slice):
        cut = [i for i, b in enumerate(base.op.bounds) if b is not None]
        if len(cut) == 1 and base.shape[cut[0]] == 1 and _without(base, cut) == v.shape:
            x = base.args[0]
            start: int = base.op.bounds[cut[0]][0]  # pyright: ignore[reportOptionalSubscript]
            at = _from_end(start)
            if at is None:
                at = start.at(x.shape[cut[0]]) if isinstance(start, Sized) else start
            within = at.__class__ is not Size and int(at) >= -int(x.shape[cut[0]])  # a Slice ends there, a Gather fails
            if within:
                return moved(w, "Gather", v.dtype, [w.ref(x)], [w.scalar(int(at), i64)], axis=cut[0])
    return None


def _without(v: Value, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple([n for i, n in enumerate(v.shape) if i not in axes])


def _from_end(bound: int) -> int | None:
    """The negative number of a bound that counts from the end; None for others, and for the end itself."""
    if not isinstance(bound, Sized) or (bound.offsets, bound.divisor) != ((0,), 1):
        return None
    return bound.plus or None


def _slice(w: Writer, v: Value) -> Any:
    real(v)
    x = v.args[0]
    starts: list[int] = []
    stops: list[int] = []
    steps: list[int] = []
    axes: list[int] = []
    bounds: Any = v.op.attributes["bounds"]
    parts = _parts(w, v)
    if parts is not None:
        return parts
    for axis, b in enumerate(bounds):
        if b is None:
            continue
        start, stop, step = _bounds(b, x.shape[axis])
        if (start, stop, step) == (0, END, 1):
            continue
        axes.append(axis)
        starts.append(start)
        stops.append(stop)
        steps.append(step)
    if not axes:
        return x
    more = [w.ints(starts), w.ints(stops), w.ints(axes)]
    if any(s != 1 for s in steps):
        more.append(w.ints(steps))
    return moved(w, "Slice", v.dtype, [w.ref(x)], more)


def _bounds(b: Any, n: int) -> tuple[int, int, int]:
    """Bounds as Slice takes them: from the end where they count from there, to an end that is any size's."""
    start, stop, step = b
    low, high = (e.at(n) if isinstance(e, Sized) else e for e in (start, stop))
    if not has_sizes((n, low, high)) and not range(low, high, step):
        return 0, 0, 1
    first = _from_end(start)
    last = _from_end(stop)
    if step < 0:
        at = END if isinstance(start, Sized) and start.key[2:5] == ((0,), 1, -1) else low if first is None else first
        return at, START if high == -1 else high, step
    return low if first is None else first, END if high == n else high if last is None else last, step


def _parts(w: Writer, v: Value) -> str | None:
    """One Split for the slices that cut an axis of a value into parts, if ``v`` is one of them."""
    x = v.args[0]
    cut = _one_cut(v)
    if cut is None or len(w.users.get(x, ())) < 2:
        return None
    axis, _, _ = cut
    found: dict[int, Value] = {}
    for user in w.users[x]:
        other = _one_cut(user) if isinstance(user.op, Slice) else None
        if other is None or other[0] != axis or other[1] in found:
            return None
        found[other[1]] = user
    at = 0
    sizes: list[int] = []
    for start in sorted(found):
        if start != at:
            return None
        at += found[start].shape[axis]
        sizes.append(found[start].shape[axis])
    if at != x.shape[axis] or len(found) < 2:
        return None
    if any(s == 1 for s in sizes):  # an entry of an axis that is dropped right away is a Gather
        return None
    to = computed_in("Split", x.dtype, moves=True)
    names = w.node("Split", [w.cast(w.ref(x), x.dtype, to), w.ints(sizes)], len(sizes), axis=axis)
    for name, start in zip(names, sorted(found), strict=True):
        w.found.setdefault(found[start], w.cast(name, to, x.dtype))
    return w.found[v]


def _one_cut(v: Value) -> tuple[int, int, int] | None:
    """The axis, start and stop of a slice along one axis with plain numbers; None for others."""
    bounds: Any = v.op.attributes["bounds"]
    cut = [i for i, b in enumerate(bounds) if b is not None]
    if len(cut) != 1 or has_sizes(v.args[0].shape[cut[0]]) or has_sizes(bounds[cut[0]]):
        return None
    start, stop, step = bounds[cut[0]]
    return (cut[0], int(start), int(stop)) if step == 1 else None


def _pad(w: Writer, v: Value) -> Any:
    real(v)
    op: Any = v.op
    x = v.args[0]
    if any(p is not None and p[2] for p in op.widths):
        return _interleaved(w, v)
    if not any(p is not None and any(p) for p in op.widths):
        return x
    to = computed_in("Pad", v.dtype, moves=True)
    if v.dtype.name == "bool":  # its kernel pads with 0 whatever it is told
        to = I32
    more = [w.ints(every_axis(op.widths)), w.cast(w.scalar(op.value, v.dtype), v.dtype, to)]
    return w.cast(w.node("Pad", [w.cast(w.ref(x), v.dtype, to), *more]), to, v.dtype)


def every_axis(widths: Sequence[Sequence[int] | None]) -> list[int]:
    """Padding as Pad takes it, of every axis: onnxruntime loses which axes are meant where it moves a Transpose."""
    pairs = [(0, 0) if p is None else p for p in widths]
    return [*[p[0] for p in pairs], *[p[1] for p in pairs]]


def _interleaved(w: Writer, v: Value) -> Value:
    """Entries between others: padded along a new axis after it, which is then made one with it."""
    from tdagger.ops.structure import group, pad, slice_axis, unsqueeze

    op: Any = v.op
    x = v.args[0]
    for axis, p in enumerate(op.widths):
        if p is None or not p[2] or x.shape[axis] == 0:
            continue
        n = x.shape[axis]
        spread = pad(unsqueeze(x, (axis + 1,)), [(0, p[2]) if i == axis + 1 else None for i in range(x.rank + 1)],
                     op.value)  # fmt: skip
        x = group(spread, [2 if i == axis else 1 for i in range(x.rank)])
        x = slice_axis(x, axis, 0, n + (n - 1) * p[2])
    return pad(x, [None if p is None else p[:2] for p in op.widths], op.value)


def _concat(w: Writer, v: Value) -> Any:
    real(v)
    if len(v.args) == 1:
        return v.args[0]
    return moved(w, "Concat", v.dtype, [w.ref(a) for a in v.args], axis=v.op.attributes["axis"])


def _repeat(w: Writer, v: Value) -> str:
    real(v)
    x = v.args[0]
    sizes: Any = v.op.attributes["sizes"]
    if math.prod(map(int, v.shape)) == 0 and not has_sizes(v.type):
        return w.const(np.zeros(v.shape, v.dtype.numpy))
    return moved(w, "Expand", v.dtype, [w.ref(x)], [w.ints([1 if n is None else n for n in sizes])])


_REDUCTIONS = {"sum": "ReduceSum", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}


def _reduce(w: Writer, v: Value) -> Any:
    return reduced(w, v, keep=True)


def reduced(w: Writer, v: Value, keep: bool) -> Any:
    """A reduction that keeps or drops its axes."""
    real(v)
    op: Any = v.op
    x, kind, axes = v.args[0], op.kind, op.axes
    if not axes:
        return x
    name, dtype = w.ref(x), x.dtype
    options: dict[str, Any] = {"keepdims": int(keep)}
    if 0 in [x.shape[a] for a in axes]:
        shape = [n for i, n in enumerate(v.shape) if keep or i not in axes]
        empty = Reduce(kind, (0,)).run(np.empty(0, dtype.numpy))[0]
        return moved(w, "Expand", dtype, [w.scalar(empty, dtype)], [w.ints(shape)])
    if kind in ("any", "all") or dtype is bool_:
        kernel = "ReduceMax" if kind in ("any", "max") else "ReduceMin"
        return _over(w, kernel, w.cast(name, bool_, I32), axes, I32, bool_, options)
    if dtype.name == "u64" and kind in ("max", "min"):
        raise UnsupportedError("onnxruntime has no ReduceMax of u64")
    to = computed_in(_REDUCTIONS[kind], dtype, moves=kind in ("sum", "prod"))
    out = _over(w, _REDUCTIONS[kind], w.cast(name, dtype, to), axes, to, dtype, options)
    if kind in ("max", "min") and dtype.is_float:  # its kernel drops NaN unless it comes first
        return _with_nan(w, name, out, axes, dtype, options)
    return out


def _over(w: Writer, op: str, x: str, axes: Sequence[int], to: DType, dtype: DType, options: dict[str, Any]) -> str:
    """A reduction; its axes are an attribute before operator set 18 alone, which isn't written."""
    return w.cast(w.node(op, [x, w.ints(axes)], **options), to, dtype)


def _with_nan(w: Writer, x: str, out: str, axes: Sequence[int], dtype: DType, options: dict[str, Any]) -> str:
    marks = w.cast(isnan(w, x, dtype), bool_, I32)
    there = w.cast(w.node("ReduceMax", [marks, w.ints(axes)], **options), I32, bool_)
    return choose(w, there, w.scalar(math.nan, dtype), out, dtype)


def _windows(w: Writer, op: Any, n: int, count: int) -> str:
    """Which entries those of windows are, laid end to end."""
    if n.__class__ is not Size and count.__class__ is not Size:
        starts = np.arange(count) * op.stride
        return w.const((starts[:, None] + np.arange(op.kernel) * op.dilation).reshape(-1).astype(np.int64))
    numbers = w.node("Range", [w.scalar(0, i64), w.size(count), w.scalar(1, i64)])
    starts = w.node("Unsqueeze", [w.node("Mul", [numbers, w.scalar(op.stride, i64)]), w.ints([1])])
    places = w.node("Add", [starts, w.const(np.arange(op.kernel) * op.dilation, "i64")])
    return w.node("Reshape", [places, w.ints([-1])])


def _unfold(w: Writer, v: Value) -> Any:
    real(v)
    op: Any = v.op
    x = v.args[0]
    places = _windows(w, op, x.shape[op.axis], v.shape[op.axis] // op.kernel)
    return moved(w, "Gather", v.dtype, [w.ref(x)], [places], axis=op.axis)


def _fold(w: Writer, v: Value) -> Any:
    """Added up at their places: the axis goes to the front, where ScatterND adds."""
    real(v)
    op: Any = v.op
    x, axis = v.args[0], op.axis
    if 0 in v.shape or 0 in x.shape:
        return broadcast_to(const(np.zeros((), v.dtype.numpy)), v.shape)
    if axis:
        order = [axis, *[i for i in range(x.rank) if i != axis]]
        back = [order.index(i) for i in range(x.rank)]
        return permute(type(op)(0, op.kernel, op.stride, op.dilation)(permute(x, order)), back)
    to = F32 if v.dtype.bytes < 4 and v.dtype.is_float else computed_in("ReduceSum", v.dtype, moves=True)
    places = _windows(w, op, v.shape[0], x.shape[0] // op.kernel)
    zeros = w.node("Expand", [w.scalar(0, to), w.ints(v.shape)])
    index = w.node("Unsqueeze", [places, w.ints([1])])
    updates = w.cast(w.ref(x), x.dtype, to)
    return w.cast(w.node("ScatterND", [zeros, index, updates], reduction="add"), to, v.dtype)


# --- sources -----------------------------------------------------------------------------------------------


def _iota(w: Writer, v: Value) -> str:
    op: Any = v.op
    numbers = w.node("Range", [w.scalar(0, i64), w.size(op.size), w.scalar(1, i64)])
    return w.cast(numbers, i64, v.dtype)


def _random(w: Writer, v: Value) -> Any:
    """The Threefry cipher in whole numbers, so that the file is the same function of its seed."""
    from tdagger.ops.source import iota

    count = v.type.size
    flat = special.threefry(broadcast_to(v.args[0], (count,)), cast(iota(count), U64))
    from tdagger.library import reshape as shaped

    return shaped(flat, shape=v.shape)


def _external(w: Writer, v: Value) -> Any:
    op = v.op
    assert isinstance(op, External)
    if op.framework != "onnx":
        raise UnsupportedError(f"it is an external op of {op.framework} ({op.target})")
    domain, _, name = op.target.rpartition("::")
    inputs = [w.ref(v.args[a.index]) if isinstance(a, Slot) else "" for a in op.arguments]
    return w.node(name, inputs, len(op.results), domain, **dict(op.keywords))


#: Every core op that isn't a leaf, a constant or an item, by name.
CORE: dict[str, Row] = {
    **ELEMENTWISE,
    **INDEXING,
    "permute": _permute,
    "group": reshape,
    "ungroup": reshape,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "repeat": _repeat,
    "reduce": _reduce,
    "unfold": _unfold,
    "fold": _fold,
    "iota": _iota,
    "random": _random,
    "external": _external,
}


def row_of(value: Value, opset: int) -> Row | None:
    """The row of a value: its composite's where the row holds, else its core op's; None for a body."""
    from tdagger.frameworks.onnx.emit.composites.table import composite_row

    if isinstance(value.op, Composite):
        return composite_row(value, opset)
    row = selected if isinstance(value.op, Selected) else CORE.get(value.op.name)
    if row is None:
        raise UnsupportedError("it is a core op that ONNX knows nothing of")
    return row
