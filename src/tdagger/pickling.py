"""Pickling objects that hold values: beside the object goes a flat table of ops, however deep the graph is.

Values come back interned, so that they are the same objects as those of any other graph that has them.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from tdagger.graph import bulk, topological
from tdagger.op import Op, Value


class HoldsValues:
    """Mixed into a class whose attributes hold values, wherever they are: makes it one that can be pickled."""

    def __reduce__(self) -> Any:
        return (_restored, (type(self), *dump(dict(vars(self)))))


class _Pickler(pickle.Pickler):
    """Puts numbers in the place of values, and takes what :class:`HoldsValues` apart without a table of its own."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.values: dict[Value, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        return self.values.setdefault(obj, len(self.values)) if obj.__class__ is Value else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, HoldsValues):
            return _apart(obj)
        return NotImplemented  # pyright: ignore[reportUnknownVariableType]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, values: list[Value]) -> None:
        super().__init__(file)
        self.values = values

    def persistent_load(self, pid: int) -> Value:
        return self.values[pid]


def dump(obj: Any) -> tuple[list[Op], list[tuple[int, ...]], list[int], bytes]:
    """An object apart: ops, the places of their arguments, the values it holds, and the rest with numbers for them."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(obj)
    order = topological(pickler.values)
    place = {value: i for i, value in enumerate(order)}
    args = [tuple([place[a] for a in v.args]) for v in order]
    return [v.op for v in order], args, [place[v] for v in pickler.values], file.getvalue()


def load(ops: list[Op], args: list[tuple[int, ...]], held: list[int], rest: bytes) -> Any:
    """The object that :func:`dump` took apart."""
    values: list[Value] = []
    with bulk():
        for op, places in zip(ops, args, strict=True):
            values.append(op(*[values[i] for i in places]))
    return _Unpickler(io.BytesIO(rest), [values[i] for i in held]).load()


def _restored(kind: type[Any], *parts: Any) -> Any:
    new = _empty(kind)
    _update(new, load(*parts))
    return new


def _apart(obj: object) -> Any:
    return (_empty, (type(obj),), dict(vars(obj)), None, None, _update)


def _empty(kind: type[Any]) -> Any:
    new: Any = object.__new__(kind)
    return new


def _update(new: Any, attributes: dict[str, Any]) -> None:
    new.__dict__.update(attributes)
