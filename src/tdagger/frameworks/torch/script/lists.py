"""Lists of scripts with numbers that aren't known: their entries, and lists that grow in loops on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten import DTYPES
from tdagger.frameworks.torch.aten.calls import constant
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.script.numbers import Number, is_number, kind_of, made_of, value_of
from tdagger.frameworks.torch.script.objects import Growing, Trail, Varying, filled
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.elementwise import cast, less, multiply, where
from tdagger.ops.indexing import gather, scatter
from tdagger.ops.source import const
from tdagger.ops.structure import broadcast_to, concat, group, unsqueeze
from tdagger.types import DType, TensorType


def _value(x: Any) -> Value:
    """A tensor or number as a value."""
    if isinstance(x, Ref):
        return x.read()
    return constant(x) if isinstance(x, torch.Tensor) else value_of(x)


def _stacked(items: Sequence[Value]) -> Value:
    return concat([unsqueeze(x, (0,)) for x in items], 0)


def at(roots: Mapping[Trail, Any], trail: Trail) -> Any:
    """What stands somewhere, by the way to it from a root."""
    for n in range(len(trail), 0, -1):
        if trail[:n] in roots:
            found = roots[trail[:n]]
            for key in trail[n:]:
                found = found[key]
            return found
    raise KeyError(trail)


def growing(items: list[Any], like: Any, bound: int, checked: bool) -> Growing:
    """A list as one that may have ``bound`` entries like one that it gets."""
    type_ = _value(like).type
    values = [_value(x) for x in items]
    odd = next((v.type for v in values if v.type is not type_), None)
    if odd is not None or not (is_number(like) or isinstance(like, Ref | torch.Tensor)):
        raise UnsupportedError(f"a list grows in a loop on data whose entries aren't alike: {odd or like} and {type_}")
    whole = TensorType((len(values), *type_.shape), type_.dtype)
    start = _stacked(values) if values else broadcast_to(const(0, type_.dtype), whole.shape)
    return Growing(filled(start, bound), len(values), kind_of(like), checked)


def entry(walker: Any, node: Any, items: list[Any], i: Number) -> Any:
    """The entry of a list whose number the data decides."""
    values = [_value(x) for x in items]
    if not values or any(v.type is not values[0].type for v in values):
        raise UnsupportedError(
            f"{_where(walker, node)} takes an entry by the data of a list whose entries aren't alike"
        )
    return _taken(_stacked(values), i.value, const(len(values), "i64"), kind_of(items[0]), made_of([i]))


def _taken(whole: Value, i: Value, length: Value, kind: str, made: frozenset[Any] = frozenset()) -> Any:
    found = gather(whole, where(less(i, const(0, "i64")), i + length, i), 0)
    return Number(found) if kind else Ref(found)


def _where(walker: Any, node: Any) -> str:
    return f"TorchScript {node.kind()} at {shown(walker.origin(node).source) or 'source unknown'}"


def appended(walker: Any, node: Any, x: Growing, new: Any) -> Growing:
    """A growing list with one more entry."""
    value = _value(new)
    if value.shape != x.buffer.shape[1:] or value.dtype != x.buffer.dtype:
        raise UnsupportedError(
            f"{_where(walker, node)} puts {value.type} into a list that grows in a loop on data and has "
            f"{x.buffer.dtype}{list(x.buffer.shape[1:])}"
        )
    x.buffer = scatter(x.buffer, value_of(x.length), value, 0)
    x.length = Number(value_of(x.length) + const(1, "i64"))
    return x


def used(walker: Any, node: Any, kind: str, inputs: list[Any]) -> Any:
    """What an op gives of a growing list; UnsupportedError if it isn't known how."""
    x = inputs[0]
    if isinstance(x, Growing):
        length = value_of(x.length)
        if kind == "aten::append":
            return appended(walker, node, x, inputs[1])
        if kind == "aten::len":
            return Number(length)
        if kind == "aten::Bool":
            return Number(less(const(0, "i64"), length))
        if kind == "aten::__getitem__":
            return _taken(x.buffer, value_of(inputs[1]), length, x.kind)
        if kind == "aten::_set_item":
            i = value_of(inputs[1])
            x.buffer = scatter(x.buffer, where(less(i, const(0, "i64")), i + length, i), _value(inputs[2]), 0)
            return x
        if kind == "aten::pop" and len(inputs) == 2 and inputs[1] == -1:
            last = length - const(1, "i64")
            x.length = Number(last)
            return _taken(x.buffer, last, length, x.kind)
        if kind == "aten::stack" and inputs[1] == 0:
            return Varying(x.buffer, length)
        if kind == "aten::cat" and inputs[1] == 0 and x.buffer.rank > 1:
            each = const(x.buffer.shape[1], "i64")
            return Varying(group(x.buffer, (2, *[1] * (x.buffer.rank - 2))), multiply(length, each))
        if kind in ("aten::tensor", "aten::as_tensor"):
            dtype = _dtype(inputs[1] if len(inputs) > 1 else None, x.kind)
            return Varying(cast(x.buffer, dtype), length)
        if kind in ("aten::copy", "aten::list"):
            return Growing(x.buffer, x.length, x.kind, x.checked)
    raise UnsupportedError(
        f"{_where(walker, node)} is given a list that grew in a loop on data: such a list can be appended to, indexed, "
        "counted, and returned as torch.stack(list)"
    )


def _dtype(code: Any, kind: str) -> DType:
    """The element type that TorchScript says by a number; what torch makes of Python's numbers if it says none."""
    from tdagger.frameworks.torch.torchscript import dtype_of_code

    if code is not None:
        return DTYPES[dtype_of_code(code)]
    return DType.of({"f64": "f32"}.get(kind, kind))


def tensor_of(x: Any, code: Any) -> Ref:
    """Numbers, nested in lists, as a tensor."""
    if isinstance(x, Ref):
        return Ref(x.read() if code is None else cast(x.read(), _dtype(code, "")))
    kinds: set[str] = set()

    def made(x: Any) -> Value:
        if isinstance(x, list | tuple):
            return _stacked([made(v) for v in x])
        kinds.add(kind_of(x))
        return value_of(x, "f64")

    def exact(x: Any, kind: str) -> Value:
        return _stacked([exact(v, kind) for v in x]) if isinstance(x, list | tuple) else value_of(x, kind)

    made(x)
    kind = next((k for k in ("f64", "i64", "bool") if k in kinds), "f64")
    return Ref(cast(exact(x, kind), _dtype(code, kind)))


def full(size: Sequence[int], fill: Any, code: Any) -> Ref:
    """A tensor that is a number everywhere."""
    value = value_of(fill)
    return Ref(broadcast_to(cast(value, _dtype(code, value.dtype.name)), tuple(size)))
