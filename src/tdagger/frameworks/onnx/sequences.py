"""ONNX's operators of sequences and optional values: of sequences whose length is known, and tensors that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tdagger.errors import UnsupportedError
from tdagger.frameworks.indices import non_negative
from tdagger.frameworks.onnx.file.tensors import DTYPES
from tdagger.frameworks.onnx.things import Absent, Listed, Read, Thing, plain_of, what
from tdagger.op import normal_axis
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather
from tdagger.ops.source import const

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
