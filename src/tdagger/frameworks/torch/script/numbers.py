"""Numbers of a script that aren't known while it is read: values of rank 0, i64, f64 or bool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from typing import cast as cast_to

import torch
from torch._ops import OpOverload

from tdagger import library as lib
from tdagger.errors import UnsupportedError
from tdagger.frameworks.known import number_of
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.op import Value
from tdagger.ops.elementwise import cast, not_
from tdagger.ops.source import const

#: The element types that numbers of Python have.
_KINDS: dict[type, str] = {bool: "bool", int: "i64", float: "f64"}


class Number:
    """A number that the data decides; ``made`` are the places where it became one of several known numbers."""

    __slots__ = ("made", "value")

    def __init__(self, value: Value, made: frozenset[Any] = frozenset()) -> None:
        self.value = value
        self.made = made

    @property
    def kind(self) -> str:
        """``i64``, ``f64`` or ``bool``."""
        return self.value.dtype.name

    def __repr__(self) -> str:
        return f"Number({self.value!r})"


def kind_of(x: Any) -> str:
    """The element type of a number, known or not; "" for what is none."""
    return x.kind if isinstance(x, Number) else _KINDS.get(type(x), "")


def is_number(x: Any) -> bool:
    """Whether something is a number of Python, known or not."""
    return bool(kind_of(x))


def value_of(x: Any, kind: str = "") -> Value:
    """A number as a value of rank 0."""
    value = x.value if isinstance(x, Number) else const(x, kind_of(x))
    return cast(value, kind) if kind else value


def made_of(xs: Sequence[Any]) -> frozenset[Any]:
    """The places where the numbers among some things became one of several."""
    return frozenset().union(*[x.made for x in xs if isinstance(x, Number)])


def number(value: Value, kind: str, made: frozenset[Any] = frozenset()) -> Any:
    """A value of one entry as a number: a known one where no data is behind it."""
    value = cast(lib.reshape(value, shape=()), kind)
    known = number_of(value)
    if known is not None:
        return {"bool": bool, "i64": int, "f64": float}[kind](cast_to(Any, known))
    return Number(value, made)


def apart(a: Value, b: Value) -> int | None:
    """By how much a whole number is more than another, whatever both are; None if that depends on the data."""
    counts: dict[Value, int] = {}
    more = 0
    stack = [(a, 1), (b, -1)]
    while stack:
        value, sign = stack.pop()
        known = number_of(value)
        if known is not None:
            more += sign * int(cast_to(int, known))
        elif str(value.op) in ("add", "subtract"):
            stack += [(value.args[0], sign), (value.args[1], sign if str(value.op) == "add" else -sign)]
        elif str(value.op) == "neg":
            stack.append((value.args[0], -sign))
        else:
            counts[value] = counts.get(value, 0) + sign
    return None if any(counts.values()) else more


#: What TorchScript calls an operation on numbers -> the op of tensors that does it, and the type it needs.
_OPS: dict[str, tuple[str, str]] = {
    "aten::add": ("add", ""), "aten::sub": ("sub", ""), "aten::mul": ("mul", ""), "aten::div": ("div", "f64"),
    "aten::floordiv": ("floor_divide", ""), "aten::remainder": ("remainder", ""), "aten::fmod": ("fmod", ""),
    "aten::pow": ("pow", ""), "aten::neg": ("neg", ""), "aten::abs": ("abs", ""), "prim::abs": ("abs", ""),
    "aten::lt": ("lt", ""), "aten::le": ("le", ""), "aten::gt": ("gt", ""), "aten::ge": ("ge", ""),
    "aten::eq": ("eq", ""), "aten::ne": ("ne", ""), "aten::__and__": ("bitwise_and", ""),
    "aten::__or__": ("bitwise_or", ""), "aten::__xor__": ("bitwise_xor", ""),
    "aten::__not__": ("logical_not", ""), "prim::min": ("minimum", ""), "prim::max": ("maximum", ""),
    "aten::floor": ("floor", "f64"), "aten::ceil": ("ceil", "f64"), "aten::sqrt": ("sqrt", "f64"),
    "aten::exp": ("exp", "f64"), "aten::log": ("log", "f64"), "aten::sin": ("sin", "f64"), "aten::cos": ("cos", "f64"),
    "aten::tanh": ("tanh", "f64"),
}  # fmt: skip

#: What TorchScript's types of numbers are as elements.
_RESULTS = {"int": "i64", "float": "f64", "bool": "bool"}


def computed(kind: str, inputs: Sequence[Any], gives: str, call: Callable[[OpOverload, list[Any]], Any]) -> Any:
    """What an operation on numbers gives, some of which aren't known; None if it is none of those that are known here.

    ``gives`` is the type that TorchScript has for it, ``call`` calls an op of tensors.
    """
    found = _OPS.get(kind)
    to = _RESULTS.get(gives)
    if found is None or to is None or not all(map(is_number, inputs)):
        return None
    known = [x for x in inputs if isinstance(x, bool)]
    if kind in ("aten::__and__", "aten::__or__") and known:
        neutral = kind == "aten::__and__"
        return (inputs[1] if inputs[0] is known[0] else inputs[0]) if known[0] is neutral else known[0]
    name, needs = found
    packet = getattr(torch.ops.aten, name)
    overload = next(o for o in ("Tensor", "Tensor_Tensor", "default") if o in packet.overloads())
    result = call(getattr(packet, overload), [Ref(value_of(x, needs)) for x in inputs])
    return number(result.read(), to, made_of(inputs))


def among(options: Sequence[Any], x: Any, call: Callable[[OpOverload, list[Any]], Any]) -> Any:
    """Whether a number is one of several."""
    found: Any = False
    for option in options:
        same = computed("aten::eq", [x, option], "bool", call)
        found = same if found is False else computed("aten::__or__", [found, same], "bool", call)
    return found


def negated(x: Number) -> Number:
    """Not a bool."""
    return Number(not_(x.value), x.made)


def of_tensors(target: OpOverload, inputs: Sequence[Any], where: str) -> tuple[OpOverload, list[Any]]:
    """An op and its arguments with numbers that aren't known as tensors of rank 0, in the overload that takes those.

    A float that meets integers is f32, as torch's default has it. UnsupportedError where the op needs the number.
    """
    arguments = target._schema.arguments
    places = [i for i, x in enumerate(inputs) if isinstance(x, Number)]
    packet: Any = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::"))
    wanted = {arguments[i].name for i in places}
    for name in packet.overloads():
        other = getattr(packet, name)
        theirs = {a.name: a for a in other._schema.arguments}
        if not all(n in theirs and "Tensor" in str(theirs[n].real_type) for n in wanted):
            continue
        mine = {a.name: str(a.real_type) for a in arguments if a.name not in wanted}
        scalars = {
            n for n, t in mine.items() if n in theirs and "Tensor" in str(theirs[n].real_type) and "Tensor" not in t
        }
        given = {a.name: x for a, x in zip(arguments, inputs, strict=False)}
        extra = [n for n in given if n not in theirs and given[n] is not None]
        if extra or any(not is_number(given[n]) and given[n] is not None for n in scalars):
            continue
        tensors = [x.read() for x in inputs if isinstance(x, Ref)]
        floats = any(t.dtype.is_float for t in tensors)
        new: list[Any] = []
        for a in other._schema.arguments:
            x = given.get(a.name, a.default_value)
            if isinstance(x, Number) or (a.name in scalars and x is not None):
                value = value_of(x)
                x = Ref(cast(value, "f32") if tensors and not floats and value.dtype.name == "f64" else value)
            new.append(x)
        return other, new
    told = ", ".join(sorted(wanted))
    raise UnsupportedError(
        f"TorchScript {target._schema.name} at {where} needs the number {told}, which the data decides"
    )
