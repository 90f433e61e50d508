"""ONNX's operators of sequences and optional values: of sequences whose length is known, and tensors that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.indices import non_negative
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.file.tensors import DTYPES
from tdagger.frameworks.onnx.things import Absent, Listed, Thing, Varying, plain_of, what
from tdagger.op import Array, Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.elementwise import Cast
from tdagger.ops.indexing import gather
from tdagger.ops.source import const, iota
from tdagger.ops.structure import Group, Ungroup

#: What a value holds, if that is known.
Read = Callable[[Value], Array | None]
_Things = Sequence[Thing | None]


def _number(thing: Thing | None, read: Read, name: str) -> int:
    array = None if thing is None else read(plain_of(thing, name))
    if array is None or array.size != 1:
        raise UnsupportedError(f"its {name} depends on data, and has to be known here")
    return int(array.reshape(-1)[0])


def _listed(thing: Thing | None) -> Listed:
    if not isinstance(thing, Listed):
        raise UnsupportedError(f"it takes a sequence whose length is known, not {what(thing) if thing else 'nothing'}")
    return thing


def _place(seq: Listed, thing: Thing | None, read: Read, more: int) -> int:
    n = len(seq.items)
    at = _number(thing, read, "position")
    if not -n <= at < n + more:
        raise UnsupportedError(f"its position {at} isn't in {what(seq)}")
    return at + n if at < 0 else at


def _construct(things: _Things, _: Mapping[str, Any], __: Read) -> Thing:
    items = tuple([plain_of(t, "an input") for t in things if t is not None])
    if len({v.dtype for v in items}) != 1:
        raise UnsupportedError("its tensors are of several element types")
    return Listed(items, items[0].dtype)


def _empty(_: _Things, attributes: Mapping[str, Any], __: Read) -> Thing:
    kind = attributes.get("dtype", 1)
    if kind not in DTYPES:
        raise UnsupportedError("there is no such element type here")
    return Listed((), DTYPES[kind])


def _at(things: _Things, _: Mapping[str, Any], read: Read) -> Thing:
    seq = _listed(things[0])
    at = things[1] if len(things) > 1 else None
    if at is not None and read(plain_of(at, "position")) is None:
        if len({v.type for v in seq.items}) != 1:
            raise UnsupportedError("its position depends on data, and its tensors are of several types")
        whole = s.concat([s.unsqueeze(v, (0,)) for v in seq.items], 0)
        index = s.group(plain_of(at, "position"), [plain_of(at, "position").rank])
        return gather(whole, non_negative(index, whole, 0), 0)
    return seq.items[_place(seq, at, read, 0)]


def _insert(things: _Things, _: Mapping[str, Any], read: Read) -> Thing:
    seq, new = _listed(things[0]), plain_of(things[1] if things[1] is not None else Absent(), "what it inserts")
    if seq.items and new.dtype is not seq.dtype:
        raise UnsupportedError(f"it inserts {new.type} into a sequence of {seq.dtype}")
    at = len(seq.items) if len(things) < 3 or things[2] is None else _place(seq, things[2], read, 1)
    return Listed((*seq.items[:at], new, *seq.items[at:]), new.dtype)


def _erase(things: _Things, _: Mapping[str, Any], read: Read) -> Thing:
    seq = _listed(things[0])
    at = len(seq.items) - 1 if len(things) < 2 or things[1] is None else _place(seq, things[1], read, 0)
    if not seq.items:
        raise UnsupportedError("its sequence has nothing to erase")
    return Listed((*seq.items[:at], *seq.items[at + 1 :]), seq.dtype)


def _length(things: _Things, _: Mapping[str, Any], __: Read) -> Thing:
    return const(len(_listed(things[0]).items), "i64")


def _split(things: _Things, attributes: Mapping[str, Any], read: Read) -> Thing:
    x = plain_of(things[0] if things[0] is not None else Absent(), "its input")
    axis = normal_axis(int(attributes.get("axis", 0)), x.rank)
    n = x.shape[axis]
    given = things[1] if len(things) > 1 else None
    if given is None:
        parts = s.split(x, [1] * n, axis)
        if not attributes.get("keepdims", 1):
            parts = tuple([s.squeeze(p, (axis,)) for p in parts])
        return Listed(parts, x.dtype)
    known = read(plain_of(given, "split"))
    if known is None:
        raise UnsupportedError("its split depends on data, and has to be known here")
    sizes = known.reshape(-1).tolist()
    if not known.ndim:
        size = sizes[0]
        if size < 1:
            raise UnsupportedError(f"its split is {size}")
        sizes = [min(size, n - i) for i in range(0, n, size)]
    return Listed(s.split(x, sizes, axis), x.dtype)


def _concat(things: _Things, attributes: Mapping[str, Any], _: Read) -> Thing:
    seq = _listed(things[0])
    if not seq.items:
        raise UnsupportedError("it lays the tensors of an empty sequence end to end")
    axis, rank = int(attributes["axis"]), seq.items[0].rank
    if not attributes.get("new_axis", 0):
        return s.concat(seq.items, normal_axis(axis, rank))
    axis = normal_axis(axis, rank + 1)
    return s.concat([s.unsqueeze(v, (axis,)) for v in seq.items], axis)


def _optional(things: _Things, _: Mapping[str, Any], __: Read) -> Thing:
    return things[0] if things and things[0] is not None else Absent()


def _has(things: _Things, _: Mapping[str, Any], __: Read) -> Thing:
    return const(bool(things) and things[0] is not None and not isinstance(things[0], Absent), "bool")


def _element(things: _Things, _: Mapping[str, Any], __: Read) -> Thing:
    thing = things[0] if things else None
    if thing is None or isinstance(thing, Absent):
        raise UnsupportedError("its optional value isn't there")
    return thing


#: What takes or gives sequences and optional values.
OPERATORS: dict[str, Callable[[_Things, Mapping[str, Any], Read], Thing]] = {
    "SequenceConstruct": _construct, "SequenceEmpty": _empty, "SequenceAt": _at, "SequenceInsert": _insert,
    "SequenceErase": _erase, "SequenceLength": _length, "SplitToSequence": _split, "ConcatFromSequence": _concat,
    "Optional": _optional, "OptionalHasElement": _has, "OptionalGetElement": _element,
}  # fmt: skip


# --- lengths that depend on data ---------------------------------------------------------------------------


def _shape(x: Varying, attributes: Mapping[str, Any]) -> Value:
    sizes = [x.lengths.get(i, const(n, "i64")) for i, n in enumerate(x.value.shape)]
    sizes = sizes[attributes.get("start", 0) : attributes.get("end", None)]
    return s.concat([s.unsqueeze(n, (0,)) for n in sizes], 0)


def _size(x: Varying, _: Mapping[str, Any]) -> Value:
    out = const(1, "i64")
    for i, n in enumerate(x.value.shape):
        out = e.multiply(out, x.lengths.get(i, const(n, "i64")))
    return out


#: What works on each entry by itself.
_EACH = frozenset({
    "Abs", "Cast", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round",
    "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh",
})  # fmt: skip


def of_varying(op: str, things: _Things, attributes: Mapping[str, Any], call: Callable[[], Value]) -> Thing | None:
    """What an operator gives of tensors of which so many entries count; None if it isn't known here.

    ``call`` gives what it makes of all of the first one's entries.
    """
    x = things[0]
    if not isinstance(x, Varying):
        return x if op == "Identity" and x is not None else None
    if op in ("Shape", "Size"):
        return (_shape if op == "Shape" else _size)(x, attributes)
    return Varying(call(), x.lengths) if op in _EACH else None


def sliced(things: _Things, read: Read) -> Thing | None:
    """A Slice whose bounds depend on data: the first so many entries, or as many as are known from one of them on.

    None if it is neither, so that its rule says what has to be known.
    """
    if len(things) < 3 or not isinstance(things[0], Value):
        return None
    x, (starts, ends) = things[0], (plain_of(t or Absent(), "a bound") for t in things[1:3])
    along = [*range(starts.type.size)]
    if len(things) > 3 and things[3] is not None:
        known = read(plain_of(things[3], "axes"))
        if known is None:
            return None
        along = [normal_axis(int(a), x.rank) for a in known.reshape(-1)]
    steps = read(plain_of(things[4], "steps")) if len(things) > 4 and things[4] is not None else np.ones(len(along))
    if steps is None or (steps != 1).any() or starts.type.size != len(along) or ends.type.size != len(along):
        return None
    lengths: dict[int, Value] = {}
    for i, axis in enumerate(along):
        start, end = (e.cast(s.group(s.slice_axis(v, 0, i, i + 1), [1]), "i64") for v in (starts, ends))
        start, end = (s.squeeze(v, (0,)) for v in (start, end))
        first = read(start)
        if first is not None and int(first) == 0:
            last = read(end)
            n = x.shape[axis]
            if last is not None:
                x = s.slice_axis(x, axis, 0, None if int(last) >= n else int(last))
                continue
            counted = e.where(e.less(end, const(0, "i64")), e.add(end, const(n, "i64")), end)
            lengths[axis] = e.minimum(e.maximum(counted, const(0, "i64")), const(n, "i64"))
            continue
        count = _apart(start, end)
        if count is None:
            return None
        x = _window(x, axis, start, count)
    return Varying(x, lengths) if lengths else x


def _apart(start: Value, end: Value) -> int | None:
    """How far apart two numbers are that depend on data, if they are one number and the same with a constant added."""
    (a, b), (c, d) = _with_offset(start), _with_offset(end)
    return d - b if a is c and d > b else None


def _with_offset(x: Value) -> tuple[Value, int]:
    """A number as another one and a constant that is added to it."""
    total = 0
    while True:
        if isinstance(x.op, Group | Ungroup | Cast) or (x.op.name in ("reshape", "identity") and x.args):
            x = x.args[0]
            continue
        if x.op.attributes.get("kind") == "add" and len(x.args) == 2:
            known = [number_of(a) for a in x.args]
            if isinstance(known[1], int):
                x, total = x.args[0], total + known[1]
                continue
            if isinstance(known[0], int):
                x, total = x.args[1], total + known[0]
                continue
        return x, total


def _window(x: Value, axis: int, start: Value, count: int) -> Value:
    """So many entries from one on; one that isn't there where a Slice would give fewer."""
    n = const(x.shape[axis], "i64")
    zero = const(0, "i64")
    first = e.where(e.less(start, zero), e.add(start, n), start)
    wraps = e.less(start, zero) & e.less_equal(zero, e.add(start, const(count, "i64")))
    first = e.where(wraps | e.less(first, zero), n, first)
    at = e.add(s.broadcast_to(first, (count,)), iota(count))
    return gather(x, at, axis)
