"""Ops of scripts where numbers aren't known, and what they do otherwise than where all is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.script import lists, numbers
from tdagger.frameworks.torch.script.numbers import Number
from tdagger.frameworks.torch.script.objects import Entry, Uninitialised


def numbers_in(x: Any) -> list[Any]:
    """The numbers in nested lists, and what else is in them."""
    if isinstance(x, list | tuple):
        return [y for v in x for y in numbers_in(v)]
    return [x]


def _to_number(kind: str) -> Callable[..., Any]:
    def convert(walker: Any, node: Any, inputs: list[Any]) -> Any:
        x = inputs[0]
        if isinstance(x, torch.Tensor):
            x = x.item()
        if not isinstance(x, Ref | Number):
            return {"i64": int, "f64": float, "bool": bool}[kind](x)
        value = x.read() if isinstance(x, Ref) else x.value
        return numbers.number(value, kind, numbers.made_of([x]))

    return convert


def _item(walker: Any, node: Any, inputs: list[Any]) -> Any:
    x = inputs[0]
    if not isinstance(x, Ref):
        return x.item() if isinstance(x, torch.Tensor) else x
    dtype = x.read().dtype
    return numbers.number(x.read(), "bool" if dtype.name == "bool" else "i64" if dtype.is_int else "f64")


def _not(walker: Any, node: Any, inputs: list[Any]) -> Any:
    x = inputs[0]
    return numbers.negated(x) if isinstance(x, Number) else not x


def _select(walker: Any, node: Any, inputs: list[Any]) -> Any:
    x, dim, index = inputs
    if not isinstance(index, Number) or isinstance(dim, Number):
        return walker.known(dim, node, "a dimension")
    return Entry(x, dim, index.value)


def _slice(walker: Any, node: Any, inputs: list[Any]) -> Any:
    """``x[i : i + 2]``: so many entries from one on that the data decides, all of which there have to be."""
    x, dim, start, stop, step = inputs
    if isinstance(x, Ref) and isinstance(start, Number) and isinstance(stop, Number) and isinstance(dim, int):
        count = numbers.apart(stop.value, start.value)
        if count is not None and step == 1 and 0 < count <= x.read().shape[dim]:
            return Entry(x, dim, start.value, count)
    for bound, what in ((start, "start"), (stop, "end")):
        walker.known(bound, node, f"the {what} of a slice (one of a fixed length is written x[i : i + 2])")
    return walker.known(step if isinstance(step, Number) else dim, node, "a dimension or step")


def _range_length(walker: Any, node: Any, inputs: list[Any]) -> Any:
    """How many numbers a range has."""
    start, stop, step = inputs
    step = walker.known(step, node, "the step of a range")
    call = walker.call_op(node)
    span = numbers.computed("aten::sub", [stop, start], "int", call)
    more = numbers.computed("aten::add", [span, step - (1 if step > 0 else -1)], "int", call)
    return numbers.computed(
        "prim::max", [numbers.computed("aten::floordiv", [more, step], "int", call), 0], "int", call
    )


def _range_entry(walker: Any, node: Any, inputs: list[Any]) -> Any:
    """One of the numbers of a range."""
    at, start, step = inputs
    call = walker.call_op(node)
    return numbers.computed("aten::add", [numbers.computed("aten::mul", [at, step], "int", call), start], "int", call)


def _among(walker: Any, node: Any, inputs: list[Any]) -> Any:
    if not any(isinstance(x, Number) for x in (inputs[1], *inputs[0])):
        return inputs[1] in inputs[0]
    return numbers.among(list(inputs[0]), inputs[1], walker.call_op(node))


def _item_of(walker: Any, node: Any, inputs: list[Any]) -> Any:
    x, i = inputs
    return lists.entry(walker, node, list(x), i) if isinstance(i, Number) else x[i]


def _format(walker: Any, node: Any, inputs: list[Any]) -> str:
    told = ["(of the data)" if isinstance(x, Number | Ref) else x for x in inputs[1:]]
    return str(inputs[0]).format(*told)


def _tensor(walker: Any, node: Any, inputs: list[Any]) -> Any:
    """``torch.tensor`` of numbers, nested in lists."""
    code = inputs[1] if len(inputs) > 1 else None
    return lists.tensor_of(inputs[0], code)


def _full(walker: Any, node: Any, inputs: list[Any]) -> Any:
    size, fill, *rest = inputs
    for x in numbers_in(size):
        walker.known(x, node, "a size")
    return lists.full(size, fill, rest[0] if rest else None)


WITH_NUMBERS: dict[str, Callable[..., Any]] = {
    "aten::select": _select,
    "aten::slice": _slice,
    "aten::__range_length": _range_length,
    "aten::__derive_index": _range_entry,
    "aten::tensor": _tensor,
    "aten::full": _full,
    "aten::scalar_tensor": _tensor,
}

#: What is done otherwise than where all is known.
PRIMS: dict[str, Callable[..., Any]] = {
    "aten::Int": _to_number("i64"),
    "aten::Float": _to_number("f64"),
    "aten::Bool": _to_number("bool"),
    "aten::IntImplicit": _to_number("i64"),
    "aten::FloatImplicit": _to_number("f64"),
    "aten::item": _item,
    "aten::__not__": _not,
    "aten::__contains__": _among,
    "aten::__getitem__": _item_of,
    "aten::format": _format,
    "prim::NumToTensor": lambda w, n, x: (
        lists.tensor_of(x[0], None) if isinstance(x[0], Number) else torch.tensor(x[0])
    ),
    "prim::Uninitialized": lambda w, n, x: Uninitialised(),
    "prim::data": lambda w, n, x: x[0],
}
