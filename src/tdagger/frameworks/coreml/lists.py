"""Lists of tensors of ML programs: as many entries of one shape as are known, in one tensor.

What grows by an index that is known is longer from there on. An index that data says may be in a list of a fixed
length; a dynamic one would grow as data says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.coreml.ops import RULES
from tdagger.frameworks.coreml.types import BY_NAME
from tdagger.frameworks.coreml.values import Constant
from tdagger.frameworks.known import array_of_constant
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops import structure as s
from tdagger.ops.source import const

if TYPE_CHECKING:
    from tdagger.frameworks.coreml.importer import Walk

#: A list has at most so many numbers when it is made or grows.
_MOST = 1 << 26


class Listed(NamedTuple):
    """A list: its entries ``[n ..]``, and whether a write beyond the last one lets it grow."""

    entries: Value
    dynamic: bool

    def of(self, entries: Value) -> Listed:
        """The list with other entries."""
        return self._replace(entries=entries)


def plain(things: Sequence[Value | Listed]) -> list[Value]:
    """Values, and the entries of lists."""
    return [t.entries if isinstance(t, Listed) else t for t in things]


def like(things: Sequence[Value | Listed], values: Sequence[Value]) -> list[Value | Listed]:
    """Values as what they stand for: lists where there were some."""
    return [t.of(v) if isinstance(t, Listed) else v for t, v in zip(things, values, strict=True)]


def _given(walk: Walk, op: Any, name: str) -> Any:
    found = walk.argument(op, name) if name in op.inputs else []
    if len(found) != 1:
        raise SourceError(f"its input {shown(name)} is {len(found)} things, where it should be one")
    return found[0]


def _list(walk: Walk, op: Any) -> Listed:
    found = _given(walk, op, "ls")[1]
    if not isinstance(found, Listed):
        raise SourceError("its input ls is no list")
    return found


def _value(walk: Walk, op: Any, name: str) -> Value:
    return walk.value(*_given(walk, op, name))


def _numbers(found: Any) -> Array | None:
    if isinstance(found, Constant):
        return found.read().reshape(-1)
    array = array_of_constant(found) if isinstance(found, Value) else None
    return None if array is None else array.reshape(-1)


def _checked(index: Array, count: int) -> None:
    if index.size and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise UnsupportedError(f"it takes entry {int(index.max())} of a list of {count}")


def _make(walk: Walk, op: Any) -> Sequence[Any]:
    given = {n: walk.argument(op, n) for n in op.inputs}
    sizes = [_numbers(v) for n in ("init_length", "elem_shape") for _, v in given.get(n, ())]
    if any(n is None for n in sizes) or "elem_shape" not in given:
        raise UnsupportedError("its length or the shape of its entries isn't known")
    shape = [int(n) for one in sizes if one is not None for n in one]
    shape = shape if "init_length" in given else [1, *shape]
    dtype = given["dtype"][0][1] if "dtype" in given else "fp32"
    if dtype not in BY_NAME or min(shape) < 0 or math.prod(shape) > _MOST:
        raise UnsupportedError(f"its entries are {shown(str(dtype))}, its sizes {shape}")
    dynamic = _numbers(given["dynamic_length"][0][1]) if "dynamic_length" in given else np.ones(1)
    zero = const(np.zeros((), BY_NAME[dtype].numpy), BY_NAME[dtype])
    return [Listed(s.broadcast_to(zero, shape), dynamic is None or bool(dynamic[0]))]


def _length(walk: Walk, op: Any) -> Sequence[Any]:
    return [const(np.asarray(_list(walk, op).entries.shape[0], np.int32), "i32")]


def _read(walk: Walk, op: Any) -> Sequence[Any]:
    entries, index = _list(walk, op).entries, _value(walk, op, "index" if "index" in op.inputs else "indices")
    known = _numbers(index)
    if known is not None:
        _checked(known, entries.shape[0])
    return [RULES["gather"].function(entries, index, axis=0)]


def _write(walk: Walk, op: Any) -> Sequence[Any]:
    found, value = _list(walk, op), _value(walk, op, "value")
    index = _value(walk, op, "index" if "index" in op.inputs else "indices")
    known, entries = _numbers(index), found.entries
    if known is None and found.dynamic:
        raise UnsupportedError("it writes where data says, and its list grows: how long it is depends on data")
    if known is not None:
        more = max([int(n) + 1 for n in known], default=0) - entries.shape[0]
        if found.dynamic and more > 0:
            if (entries.shape[0] + more) * math.prod(entries.shape[1:]) > _MOST:
                raise UnsupportedError(f"its list grows to {entries.shape[0] + more} entries")
            entries = s.pad(entries, [(0, more)] + [(0, 0)] * (entries.rank - 1))
        _checked(known, entries.shape[0])
    if (*index.shape, *entries.shape[1:]) != value.shape or value.dtype is not entries.dtype:
        raise UnsupportedError(f"it writes {value.type} to a list of {entries.type}")
    if not index.rank:
        index, value = s.unsqueeze(index, (0,)), s.unsqueeze(value, (0,))
    return [found.of(RULES["scatter"].function(entries, index, value, axis=0, mode="update"))]


OPS: dict[str, Callable[[Walk, Any], Sequence[Any]]] = {
    "make_list": _make, "list_length": _length, "list_read": _read, "list_gather": _read, "list_write": _write,
    "list_scatter": _write,
}  # fmt: skip
