"""How each core op is written as MIL: one row each. A row makes the ops of a value and gives their result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.coreml.emit.writer import Row, Writer
from tdagger.frameworks.writing import inserted, reshaped
from tdagger.op import Value
from tdagger.ops.indexing import Gather
from tdagger.ops.structure import Permute, permute
from tdagger.types import DType, TensorType, bool_

# --- elementwise -------------------------------------------------------------------------------------------

_UNARY = {
    "abs": "abs", "sign": "sign", "sqrt": "sqrt", "exp": "exp", "sin": "sin", "cos": "cos", "tan": "tan",
    "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "atanh": "atanh",
    "erf": "erf", "floor": "floor", "ceil": "ceil", "round": "round", "not": "logical_not",
}  # fmt: skip


def _unary(w: Writer, v: Value) -> Any:
    x, kind = v.args[0], v.op.attributes["kind"]
    t = w.type(v)
    if kind == "neg":
        return w.op("mul", t, x=w.ref(x), y=w.number(-1, x.dtype))
    if kind == "reciprocal":  # inverse would add an epsilon
        return w.op("real_div", t, x=w.number(1, x.dtype), y=w.ref(x))
    if kind == "log":
        return w.op("log", t, x=w.ref(x), epsilon=w.number(0, x.dtype))
    if kind == "isnan":
        return w.op("not_equal", t, x=w.ref(x), y=w.ref(x))
    return w.op(_UNARY[kind], t, x=w.ref(x))


_BINARY = {
    "add": "add", "multiply": "mul", "max": "maximum", "min": "minimum", "pow": "pow", "mod": "mod",
    "floor_divide": "floor_div", "equal": "equal", "not_equal": "not_equal", "less": "less", "greater": "greater",
    "less_equal": "less_equal", "greater_equal": "greater_equal", "bitwise_and": "logical_and",
    "bitwise_or": "logical_or", "bitwise_xor": "logical_xor",
}  # fmt: skip


def _binary(w: Writer, v: Value) -> Any:
    kind = v.op.attributes["kind"]
    if v.dtype is bool_ and v.args[0].dtype is bool_ and kind in ("add", "max", "multiply", "min"):
        kind = {"add": "bitwise_or", "max": "bitwise_or"}.get(kind, "bitwise_and")
    return two(w, _BINARY[kind], v)


def two(w: Writer, op: str, v: Value) -> str:
    """An op of two values that broadcast."""
    x, y = w.operands(v.args)
    return w.op(op, w.type(v), x=x, y=y)


def _where(w: Writer, v: Value) -> str:
    condition, x, y = w.operands(v.args)
    return w.op("select", w.type(v), cond=condition, a=x, b=y)


#: MIL's names of element types that cast gives.
_TYPES = {"f16": "fp16", "f32": "fp32", "i32": "int32", "bool": "bool"}


def as_type(w: Writer, name: str, old: TensorType, dtype: DType) -> str:
    """A result in another element type."""
    if old.dtype is dtype:
        return name
    return w.op("cast", old.with_dtype(dtype), x=name, dtype=w.text(_TYPES[dtype.name]))


def _cast(w: Writer, v: Value) -> str:
    return as_type(w, w.ref(v.args[0]), w.type(v.args[0]), w.dtype(v.dtype))


# --- structure ---------------------------------------------------------------------------------------------


def permuted(value: Value) -> tuple[Value, tuple[int, ...]]:
    """What a chain of permutes starts from, and the order of all of them."""
    order = tuple(range(value.rank))
    while isinstance(value.op, Permute):
        inner = value.op.order
        order = tuple([inner[i] for i in order])
        value = value.args[0]
    return value, order


def _permute(w: Writer, v: Value) -> Any:
    base, order = permuted(v)
    if order == tuple(range(v.rank)):
        return base
    return w.op("transpose", w.type(v), x=w.ref(base), perm=w.ints(order))


def reshape(w: Writer, v: Value) -> Any:
    """A chain of group, ungroup and reshape as one op."""
    base = reshaped(v)
    if base.type is v.type:
        return base
    return with_shape(w, w.ref(base), w.type(base), v.shape)


def with_shape(w: Writer, name: str, old: TensorType, shape: Sequence[int]) -> str:
    """A result in another shape."""
    new = w.type(old, shape)
    if new.shape == old.shape:
        return name
    gone = inserted(new.shape, old.shape) if new.rank < old.rank else None
    if gone:
        return w.op("squeeze", new, x=name, axes=w.ints(gone))
    added = inserted(old.shape, new.shape) if new.rank > old.rank else None
    if added:
        return w.op("expand_dims", new, x=name, axes=w.ints(added))
    return w.op("reshape", new, x=name, shape=w.ints(new.shape))


def _slice(w: Writer, v: Value) -> Any:
    x = v.args[0]
    parts = _parts(w, v)
    if parts is not None:
        return parts
    begins, ends, steps, before, after = [], [], [], [], []
    for n, b in zip(x.shape, v.op.attributes["bounds"], strict=True):
        r = range(n) if b is None else range(_at(b[0], n), _at(b[1], n), int(b[2]))
        start, stop, step = (r.start, r.stop, r.step) if len(r) else (0, 0, 1)
        begins.append(start)
        ends.append(max(stop, 0))
        steps.append(step)
        before.append(bool(len(r)) and start == (0 if step > 0 else n - 1))
        after.append(bool(len(r)) and (stop == n if step > 0 else stop < 0))
    if all(before) and all(after) and set(steps) <= {1}:
        return x
    return w.op(
        "slice_by_index", w.type(v), x=w.ref(x), begin=w.ints(begins), end=w.ints(ends), stride=w.ints(steps),
        begin_mask=w.flags(before), end_mask=w.flags(after),
    )  # fmt: skip


def _at(bound: Any, n: int) -> int:
    return int(bound.at(n)) if hasattr(bound, "at") else int(bound)


def _one_cut(v: Value) -> tuple[int, int, int] | None:
    """The axis, start and stop of a slice along one axis; None for others."""
    bounds: Any = v.op.attributes["bounds"]
    cut = [i for i, b in enumerate(bounds) if b is not None]
    if len(cut) != 1:
        return None
    n = v.args[0].shape[cut[0]]
    start, stop, step = bounds[cut[0]]
    return (cut[0], _at(start, n), _at(stop, n)) if step == 1 else None


def _parts(w: Writer, v: Value) -> str | None:
    """One split for the slices that cut an axis of a value into parts, if ``v`` is one of them.

    A split has sizes that are constants, so none is written where sizes are going to be open.
    """
    x = v.args[0]
    cut = _one_cut(v)
    users = w.graph.users.get(x, ())
    if w.open or cut is None or len(users) < 2:
        return None
    found: dict[int, Value] = {}
    for user in users:
        other = _one_cut(user) if user.op.name == "slice" else None
        if other is None or other[0] != cut[0] or other[1] in found:
            return None
        found[other[1]] = user
    at = 0
    for start in sorted(found):
        if start != at:
            return None
        at += found[start].shape[cut[0]]
    if at != x.shape[cut[0]] or len(found) < 2 or any(not u.type.size for u in found.values()):
        return None
    order = [found[s] for s in sorted(found)]
    names = w.op(
        "split", [w.type(u) for u in order], x=w.ref(x), axis=w.int(cut[0]),
        split_sizes=w.ints([u.shape[cut[0]] for u in order]),
    )  # fmt: skip
    for name, user in zip(names, order, strict=True):
        w.found.setdefault(user, name)
    return w.found[v]


def _pad(w: Writer, v: Value) -> str:
    op: Any = v.op
    sides = [n for p in op.widths for n in ((0, 0) if p is None else p[:2])]
    return w.op(
        "pad", w.type(v), x=w.ref(v.args[0]), pad=w.ints(sides), mode=w.text("constant"),
        constant_val=w.number(op.value, v.dtype),
    )  # fmt: skip


def _concat(w: Writer, v: Value) -> Any:
    if len(v.args) == 1:
        return v.args[0]
    names = tuple([w.ref(a) for a in v.args])
    return w.op("concat", w.type(v), values=names, axis=w.int(v.op.attributes["axis"]), interleave=w.flag(False))


def _repeat(w: Writer, v: Value) -> Any:
    """All repeats of a chain at once."""
    base, sizes = v.args[0], [1 if n is None else int(n) for n in v.op.attributes["sizes"]]
    while base.op.name == "repeat":
        sizes = [a * (1 if b is None else int(b)) for a, b in zip(sizes, base.op.attributes["sizes"], strict=True)]
        base = base.args[0]
    if all(n == 1 for n in sizes):
        return base
    return w.op("tile", w.type(v), x=w.ref(base), reps=w.ints(sizes))


def _reduce(w: Writer, v: Value) -> Any:
    op: Any = v.op
    if not op.axes:
        return v.args[0]
    return w.op(
        f"reduce_{op.kind}", w.type(v), x=w.ref(v.args[0]), axes=w.ints(op.axes), keep_dims=w.flag(True)
    )  # fmt: skip


# --- indices -----------------------------------------------------------------------------------------------


def _gather(w: Writer, v: Value) -> Any:
    op: Any = v.op
    x, index = v.args
    checks = {"validate_indices": w.flag(False)} if w.opset >= 17 else {}
    if op.batch and op.axis == op.batch == x.rank - 1 and index.rank == x.rank:
        return w.op("gather_along_axis", w.type(v), x=w.ref(x), indices=w.ref(index), axis=w.int(op.axis), **checks)
    if op.axis != op.batch and op.batch:
        order = [*range(op.batch), op.axis, *range(op.batch, op.axis), *range(op.axis + 1, x.rank)]
        inner, between = index.rank - op.batch, op.axis - op.batch
        out = Gather(op.batch, op.batch)(permute(x, order), index)
        back = [*range(op.batch), *range(op.batch + inner, op.batch + inner + between),
                *range(op.batch, op.batch + inner)]  # fmt: skip
        return permute(out, [*back, *range(len(back), out.rank)])
    if w.opset >= 16:
        checks["batch_dims"] = w.int(op.batch)
    return w.op("gather", w.type(v), x=w.ref(x), indices=w.ref(index), axis=w.int(op.axis), **checks)


_MODES = {"set": "update", "add": "add", "multiply": "mul", "max": "max", "min": "min"}


def _scatter(w: Writer, v: Value) -> str:
    op: Any = v.op
    x, index, updates = v.args
    checks = {"validate_indices": w.flag(False)} if w.opset >= 17 else {}
    return w.op(
        "scatter", w.type(v), data=w.ref(x), indices=w.ref(index), updates=w.ref(updates), axis=w.int(op.axis),
        mode=w.text(_MODES[op.kind]), **checks,
    )  # fmt: skip


def scatters(v: Value) -> str | None:
    """Why a scatter can't be had: there are no batch axes."""
    op: Any = v.op
    if op.batch or not v.args[2].type.size:
        return "MIL has no scatter with batch axes, or of nothing"
    return None


def _argsort(w: Writer, v: Value) -> str:
    op: Any = v.op
    return w.op("argsort", w.type(v), x=w.ref(v.args[0]), axis=w.int(op.axis), ascending=w.flag(not op.descending))


def _scan(w: Writer, v: Value) -> str:
    op: Any = v.op
    return w.op(
        "cumsum", w.type(v), x=w.ref(v.args[0]), axis=w.int(op.axis), exclusive=w.flag(False),
        reverse=w.flag(op.reverse),
    )  # fmt: skip


def _iota(w: Writer, v: Value) -> str:
    """A constant, or numbers counted to one that is going to be another."""
    to = w.dtype(v.dtype)
    if v in w.static:
        return w.const(np.arange(v.shape[0]).astype(to.numpy))
    type_ = v.type.with_dtype(DType.of("i32"))
    found = w.op("range_1d", type_, end=w.int(v.shape[0]), start=w.int(0), step=w.int(1))
    return as_type(w, found, type_, to)


def _external(w: Writer, v: Value) -> Any:
    op: Any = v.op
    if op.framework != "coreml":
        raise UnsupportedError(f"it is an external op of {op.framework} ({op.target})")
    inputs: dict[str, Any] = {}
    for name, given in op.keywords:
        if isinstance(given, str):
            inputs[name] = w.text(given)
        else:
            names = tuple([w.ref(v.args[s.index]) for s in given])
            inputs[name] = names[0] if len(names) == 1 else names
    types = [w.type(t) for t in op.results]
    return w.op(op.target, types[0] if len(types) == 1 else types, **inputs)


#: Every core op that isn't a leaf, a constant or an item, by name.
CORE: dict[str, Row] = {
    "unary": _unary,
    "binary": _binary,
    "where": _where,
    "cast": _cast,
    "permute": _permute,
    "group": reshape,
    "ungroup": reshape,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "repeat": _repeat,
    "reduce": _reduce,
    "gather": _gather,
    "scatter": _scatter,
    "argsort": _argsort,
    "scan": _scan,
    "iota": _iota,
    "external": _external,
}
