"""Numbers of a graph that are what Python makes of a size: factors, terms of sums, divisors.

A constant looks the same whether the source says ``0.25`` or ``1 / x.shape[1]``. Where an axis gets another size, one
that is equal to what is usually made of its size is doubtful; numbers that are everywhere only beside that axis.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, cast

import ml_dtypes

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.terms import Axis, Guess, resolve
from tdagger.composite import Composite
from tdagger.graph import result_types
from tdagger.op import Term, Value
from tdagger.ops.source import Const
from tdagger.ops.structure import Fold, Pad, Unfold
from tdagger.types import Sized

#: What Python makes of a size as a number of entries.
WHOLE: dict[str, Callable[[int], int]] = {
    "{n}": lambda n: n,
    "{n} - 1": lambda n: n - 1,
    "{n} // 2": lambda n: n // 2,
    "({n} + 1) // 2": lambda n: (n + 1) // 2,
    "{n} + 1": lambda n: n + 1,
    "2 * {n}": lambda n: 2 * n,
}

#: What else it makes of it; and of any of these, as a number.
_MADE: dict[str, Callable[[int], float]] = {
    **WHOLE,
    "{n} / 2": lambda n: n / 2,
    "({n} - 1) / 2": lambda n: (n - 1) / 2,
    "1 - 1 / {n}": lambda n: 1 - 1 / n,
}
_OF: dict[str, Callable[[float], float]] = {
    "{}": float,
    "1 / {}": lambda x: 1 / x,
    "2 / {}": lambda x: 2 / x,
    "{} ** 0.5": math.sqrt,
    "{} ** -0.5": lambda x: 1 / math.sqrt(x),
    "log {}": math.log,
}

#: Of these whole numbers count; a root that is one is rather just that number.
_PLAIN = frozenset({"{}", "1 / {}"})

#: What is made of 1: of the rest the same comes of anything.
_OF_ONE = frozenset({("{n}", "{}"), ("{n} + 1", "log {}")})

#: Numbers that are everywhere as exponents, and anywhere: these are doubtful only beside an axis that changes.
_POWERS = frozenset({0.5, 2.0, 3.0})
_COMMON = frozenset({0.5, 1.0, 2.0})

#: Where 0 is hardly ever meant as such.
_WITHOUT_ZERO = frozenset({"multiply", "add"})

#: What has numbers among its attributes that aren't sizes.
_NUMBERED = Composite | Pad | Unfold | Fold

#: Attributes that are no such numbers: places, ranks, how many layers; and what dimensions are made of.
_PLACES = frozenset({
    "axis", "axis0", "axis1", "axes", "rank", "layers", "block", "number", "signed", "batch", "index",
    "shape", "size", "output", "repeats", "steps",
})  # fmt: skip

#: Ops of which all but the first argument, scales and zero points, were measured on data.
_MEASURED = frozenset({"quantize", "dequantize", "fake_quantize"})

#: Ops that only spread a number over more entries.
_SPREADS = frozenset({"group", "repeat", "cast", "stop_gradient"})

#: Of a value of more dimensions only the product of all is looked for among numbers.
_MOST = 6

#: So many ops back something that a number is used with is looked for.
_BACK = 3
_NEAR = 64


def because(shown: str, n: int) -> str:
    """In words: what was made of which size."""
    return f"{shown.format(n=n)}, where an axis of {n} entries has another size"


class _Made:
    """The numbers that are made of sizes: how, and of which."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = frozenset(sizes)
        found: dict[float, tuple[str, set[int]]] = {}
        if 1 in self.sizes:
            found[0.0] = ("1 - 1 or 1 // 2, where an axis of 1 entry has another size", {1})
        for n in sorted(sizes):
            for inner, whole in _MADE.items():
                for outer, function in _OF.items() if whole(n) > 0 else ():
                    number = float(function(whole(n)))
                    if (n > 1 or (inner, outer) in _OF_ONE) and (outer in _PLAIN or not number.is_integer()):
                        shown = outer.format(inner if " " not in inner or outer == "{}" else f"({inner})")
                        found.setdefault(number, (because(shown, n), set()))[1].add(n)
        self.found = sorted(found.items())
        self.numbers = [n for n, _ in self.found]

    def of(self, number: float, near: float) -> tuple[str, set[int]] | None:
        """How a number is made, and of which sizes; None if it isn't. ``near``: the relative error it may have."""
        i = bisect_left(self.numbers, number * (1 - near))
        if i == len(self.numbers) or self.numbers[i] > number * (1 + near):
            return None
        return self.found[i][1]


def numbers_made(axes: Axes, changed: set[Axis], sizes: set[int]) -> Iterator[Guess]:
    """The constants of one number that are made of sizes that change."""
    made = _Made(sizes)
    spread: dict[Value, tuple[Value, ...]] = {}  # what is one number, or only broadcast, and the constants it is of
    seen: set[Value] = set()
    for value in axes.graph.values:
        if isinstance(value.op, Const):
            if value.type.size == 1 and value.type.dtype.name != "bool" and not value.type.dtype.is_complex:
                spread[value] = (value,)
            continue
        numbers = {c: i for i, arg in reversed([*enumerate(value.args)]) for c in spread.get(arg, ())}
        only = bool(value.args) and all(arg in spread for arg in value.args)
        if only and (value.op.name in _SPREADS or all(v.type.size == 1 for v in (value, *value.args))):
            spread[value] = tuple(numbers)
        if only and value.op.name in _SPREADS:
            continue
        for constant, i in numbers.items():
            if i and value.op.name in _MEASURED:
                continue
            if constant not in seen and (why := _number(axes, value, i, constant, made, changed)):
                seen.add(constant)
                yield Guess(constant, (), f"is {why}")


def attributes_made(values: Iterable[Value], changed: set[Axis]) -> Iterator[Guess]:
    """The numbers in attributes of composites that are made of the sizes of inputs: a norm's ``p``, a pool's stride.

    Of whole numbers those that are such a size, as any may be one of a few.
    """
    sizes = {a.size for a in changed if a.kind == "input" and a.size > 2}
    made = _Made(sizes)
    for value in values if sizes else ():
        if value.op.name in ("concat", "stack") and len(value.args) in sizes and len(set(value.args)) == 1:
            yield Guess(value, (), f"is one value so often: {because('{n}', len(value.args))}")
        if not isinstance(value.op, _NUMBERED) or value.op.name in _MEASURED:
            continue
        for name, attribute in value.op.attributes.items():
            own_scale = name == "scale" and attribute == value.args[0].type.shape[-1] ** -0.5
            numbers = () if name in _PLACES or own_scale else _within(attribute)
            why = next(filter(None, (_of_size(n, sizes, made) for n in numbers)), "")
            if why:
                yield Guess(value, (), f"has {name}={attribute}, {why}")
                break


def _within(attribute: Any) -> Iterator[int | float]:
    """The numbers in an attribute that follow no axis."""
    stack: list[Any] = [attribute]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(cast(tuple[Any, ...], item))
        elif isinstance(item, int | float) and not isinstance(item, bool | Sized):
            yield item


def _of_size(number: int | float, sizes: set[int], made: _Made) -> str:
    """How a number in an attribute is made of a size; nothing if it isn't, or is everywhere."""
    if isinstance(number, int):
        return because("{n}", number) if number in sizes else ""
    number = abs(number)
    if number in _COMMON or not number or not math.isfinite(number):
        return ""
    found = made.of(number, _EXACT)
    return found[0] if found is not None else ""


#: Numbers in attributes are as Python has them.
_EXACT = 1e-12


def _number(axes: Axes, value: Value, place: int, constant: Value, made: _Made, changed: set[Axis]) -> str:
    """How a constant that is one number is made of sizes; nothing if it isn't."""
    data = cast(Const, constant.op).data
    number = abs(float(data.reshape(())))
    kind = value.op.attributes.get("kind")
    if place == 1 and kind == "pow" and number in _POWERS:
        return ""
    if not math.isfinite(number) or (number and not math.isfinite(1 / number)):
        return ""
    if not number and (1 not in made.sizes or kind not in _WITHOUT_ZERO):
        return ""
    dtype = constant.type.dtype
    near = float(cast(Any, ml_dtypes.finfo(data.dtype)).eps) * (4 if dtype.bytes > 2 else 1) if dtype.is_float else 0.0
    near_by = _near(value)
    found = made.of(number, near)
    if found is not None:
        why, sizes = found
        if number not in _COMMON and number:
            return why
        if sizes.isdisjoint(a.size for a in changed if a.kind == "input"):
            return ""
        if value in axes.static:  # a number among constants: beside as many of them
            beside = any(n in sizes and n > 1 for arg in value.args for n in arg.shape)
        else:
            beside = any(a in changed for term, _ in _dimensions(axes, near_by) for a in term)
        if beside:
            return why
    whole = max(number, 1 / number) if number else 0.5  # of sizes, or one by them
    for other in near_by if abs(whole - round(whole)) <= 2 * near * whole else ():
        for product in _products(axes, other, changed):
            if any(abs(m - number) <= near * m for m in (product, 1 / product)):
                return f"made of {product}, a product of sizes of {other!r} of which some change"
    return ""


def _near(value: Value) -> list[Value]:
    """A value and what it is made of, some ops back, not counting those of one argument: sums, signs, roots."""
    found = level = [value]
    for _ in range(_BACK):
        level = [a for v in level for a in v.args[:_MOST]]
        for v in level:
            while len(v.args) == 1 and len(found) < _NEAR:
                found.append(v)
                v = v.args[0]
            found.append(v)
    return list(dict.fromkeys(found))


def _dimensions(axes: Axes, values: Iterable[Value]) -> Iterator[tuple[Term, int]]:
    """The terms and sizes of all dimensions of some values."""
    for value in values:
        for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
            yield from zip(terms, type_.shape, strict=True)


def _products(axes: Axes, value: Value, changed: set[Axis]) -> Iterator[int]:
    """The products of some sizes of a value of which some change."""
    for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
        moves = [any(a in changed for a in resolve(t)) for t in terms]
        if not type_.size or not any(moves):
            continue
        yield type_.size
        dims = [(n, m) for n, m in zip(type_.shape, moves, strict=True) if n > 1 or m]
        for count in range(2, len(dims) + 1 if len(dims) <= _MOST else 0):
            for some in combinations(dims, count):
                if any(m for _, m in some):
                    yield math.prod(n for n, _ in some)
