"""What a comparison of two networks found, in words, and their listings side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.graph import Graph, label, result_types, topological
from tdagger.names import lines as escaped
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item
from tdagger.transform.diff.compare import Found
from tdagger.transform.diff.judge import Difference
from tdagger.transform.diff.relate import Detail
from tdagger.view.expressions import attribute, constant, expression
from tdagger.view.text import numbers

#: So many differences are written out, and so many ops of a region that only one network has.
_MOST, _MOST_OPS = 12, 6

#: Lines that are the same around those that differ.
_CONTEXT = 2


@dataclass(frozen=True)
class Diff:
    """Two networks compared: ``print(diff)`` says it all, ``diff.verdict`` is same, rounding or different.

    ``differences`` are the ops that make a difference, the first one first, ``first`` is that one, ``listing`` shows
    both networks as one text. Without a run the verdict is "" and there are no differences.
    """

    a: Any
    b: Any
    found: Found

    @property
    def verdict(self) -> str:
        """``same``: one graph with the same weights; ``rounding``: nothing but rounding; else ``different``."""
        return self.found.verdict

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The ops that make a difference, in the order in which they are computed."""
        return tuple([d for d in self.found.differences if d.matters])

    @property
    def first(self) -> Difference | None:
        """The first op that makes a difference; None if none does."""
        return next(iter(self.differences), None)

    def module(self, difference: Difference) -> str:
        """The path of the module where a difference is, in A if it has the op."""
        for value, network in ((difference.a, self.a), (difference.b, self.b)):
            origin = network.origins.get(value) if value is not None else None
            if origin is not None:
                return origin.module
        return ""

    def described(self, difference: Difference) -> dict[str, Any]:
        """A difference for programs: kind, module, op and source of either side, details in words, error and bound."""
        sides: dict[str, Any] = {}
        for side, value, network in (("a", difference.a, self.a), ("b", difference.b, self.b)):
            origin = None if value is None else network.origins.get(value)
            sides[side] = value and {
                "op": label(value.op),
                "module": origin.module if origin else "",
                "source": origin.source if origin else "",
                "type": _type(value),
            }
        words = [w for w in (_detail(self, d) for d in difference.details) if w]
        error = {"error": finite(difference.error), "bound": finite(difference.bound)}
        return {"kind": difference.kind, **sides, "details": words, **error}

    @property
    def alike(self) -> bool:
        """Whether the graphs are written alike, line by line."""
        return all(line.sign == " " for line in _Listing(self).lines())

    @cached_property
    def listing(self) -> str:
        """Both networks in one listing: lines of A alone have a ``-`` in front, those of B alone a ``+``."""
        return "\n".join(_Listing(self).text())

    def __str__(self) -> str:
        return self.listing if not self.verdict else "\n".join(_words(self))


# --- words -------------------------------------------------------------------------------------------------


def _words(diff: Diff) -> Iterator[str]:
    found = diff.found
    first = diff.first
    yield _headline(diff, first)
    listed = diff.differences
    for d in listed[:_MOST]:
        yield ""
        yield from _difference(diff, d)
    if len(listed) > _MOST:
        yield f"\n  and {len(listed) - _MOST} more"
    silent = [d for d in found.differences if not d.matters]
    if silent:
        yield "\n  without effect on these inputs"
        for d in silent[:_MOST]:
            yield from _difference(diff, d)
    yield ""
    for name, (error, bound, largest) in found.errors.items():
        yield f"  {shown(name)}: {_apart(error, bound)}; the largest number is {largest:.3g}"
    yield f"  {found.written} of {found.of} values are written alike"


def _headline(diff: Diff, first: Difference | None) -> str:
    names = f"A is {shown(diff.a.name)}, B is {shown(diff.b.name)}"
    match diff.verdict:
        case "same":
            return f"same: {names}; one graph, and weights that are equal"
        case "rounding":
            return f"rounding: {names}; they differ by rounding alone on these inputs"
        case _:
            count = len(diff.differences)
            more = "" if count < 2 else f", the first of {count} differences"
            where = "" if first is None else f"; at {_place_in_words(diff, first)}{more}"
            return f"different: {names}{where}"


def _place_in_words(diff: Diff, d: Difference) -> str:
    return shown(diff.module(d) or label(cast(Value, d.a or d.b).op))


def _difference(diff: Diff, d: Difference) -> Iterator[str]:
    for side, value, network in (("A", d.a, diff.a), ("B", d.b, diff.b)):
        if value is not None:
            yield f"  {side}  {_op(value, network)}"
        else:
            yield f"  {side}  has no such op"
    for detail in d.details:
        written = _detail(diff, detail)
        if written:
            yield f"     {written}"
    if d.kind == "run":
        yield f"     the runs of A and B are {_apart(d.error, d.bound)}"
    elif d.kind in ("extra", "missing", "argument"):
        yield f"     what comes of it: {_apart(d.error, d.bound)}"
    else:
        yield f"     on the same arguments: {_apart(d.error, d.bound)}"


def _apart(error: float, bound: float) -> str:
    if error == np.inf:
        return "infinities, NaNs or shapes differ"
    if not error:
        return "equal"
    return f"{error:.3g} apart, rounding allows {bound:.2g}"


def finite(number: float) -> float | None:
    """The number, or None for an infinite one, which JSON hasn't."""
    return number if np.isfinite(number) else None


def _op(value: Value, network: Any) -> str:
    """An op with its type, its module and class, and the line it came from."""
    args = [_argument(x) for x in value.args]
    origin = network.origins.get(value)
    text = f"{expression(value, args)}  {_type(value)}"
    if origin is None:
        return text
    kind = network.modules.get(origin.module, "")
    parts = [f"{shown(origin.module)}{f' ({shown(kind)})' if kind else ''}" if origin.module else "", origin.source]
    return "  ".join([text, *[f"at {shown(p)}" if i else f"in {p}" for i, p in enumerate(parts) if p]])


def _type(value: Value) -> str:
    types = result_types(value)
    return str(types[0]) if len(types) == 1 else f"({', '.join(map(str, types))})"


def _argument(value: Value) -> str:
    if isinstance(value.op, Leaf):
        return shown(value.op.leaf)
    found = numbers_of(value)
    return found if found is not None else label(value.op)


def numbers_of(value: Value) -> str | None:
    """A constant, moved or not, in short; None for other values."""
    while value.args and value.op.name in ("repeat", "group", "ungroup", "reshape", "permute", "filled"):
        value = value.args[0]
    return constant(value.op) if isinstance(value.op, Const) else None


def _detail(diff: Diff, detail: Detail) -> str:
    match detail.what:
        case "attribute":
            return f"attribute {detail.name}: {attribute(detail.a)} in A, {attribute(detail.b)} in B"
        case "weight":
            names = shown(detail.a) if detail.a == detail.b else f"{shown(detail.a)} in A, {shown(detail.b)} in B"
            return f"weight {names}{': ' if detail.note else ''}{escaped(detail.note)}"
        case "constant":
            return f"{detail.name}: {_argument(detail.a)} in A, {_argument(detail.b)} in B"
        case "without":
            return f"{detail.name}: {_argument(detail.a)} in A, none in B"
        case "with":
            return f"{detail.name}: none in A, {_argument(detail.b)} in B"
        case "made":
            return f"weights made of {_leaves(detail.a)} in A, of {_leaves(detail.b)} in B"
        case "run":
            return ""
        case "argument":
            return f"A takes {_op(detail.a, diff.a)}\n     B takes {_op(detail.b, diff.b)}"
        case "op" if not detail.name and isinstance(detail.a, Value):
            return f"{label(detail.a.op)} in A, {label(detail.b.op)} in B"
        case _:
            return "; ".join(filter(None, [_only("A", detail.a), _only("B", detail.b)]))


def _leaves(value: Value) -> str:
    """The names of what a value is made of."""
    return ", ".join(shown(v.op.leaf) for v in topological([value]) if isinstance(v.op, Leaf))


def _only(side: str, values: tuple[Value, ...]) -> str:
    if not values:
        return ""
    names = [label(v.op) for v in values[:_MOST_OPS]]
    more = f" and {len(values) - _MOST_OPS} more" if len(values) > _MOST_OPS else ""
    return f"only {side} has {', '.join(names)}{more}"


# --- a listing ---------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """A line of the listing: ' ', '-' or '+', the module it is in, and what it says."""

    sign: str
    module: str
    name: str
    type: str
    text: str


class _Listing:
    """The ops of both networks in one list; values of B are called as their partners in A are."""

    def __init__(self, diff: Diff) -> None:
        self.diff = diff
        self.pairs = diff.found.alignment
        self.a, self.b = cast(Graph, diff.a.graph), cast(Graph, diff.b.graph)
        self.names_a = self._names(self.a, lambda n: f"%{n}", {})
        leaves = self.pairs.leaves
        named = {v: self.names_a[a] for v, a in self.pairs.a_of.items() if a in self.names_a}
        named |= {v: shown(leaves[v.op.leaf]) for v in self.b.values if isinstance(v.op, Leaf) and v.op.leaf in leaves}
        self.names_b = self._names(self.b, lambda n: f"%b{n}", named)

    def _names(self, graph: Graph, name: Callable[[int], str], known: Mapping[Value, str]) -> dict[Value, str]:
        inline = numbers(graph)
        self.inline = {*inline, *getattr(self, "inline", set[Value]())}
        found: dict[Value, str] = {}
        count = 0
        for value in graph.values:
            if value in inline:
                found[value] = inline[value]
            elif value in known:
                found[value] = known[value]
            elif isinstance(value.op, Leaf):
                found[value] = shown(value.op.leaf)
            elif isinstance(value.op, Item):
                found[value] = f"{found[value.args[0]]}.{value.op.index}"
            else:
                count += 1
                found[value] = name(count)
        return found

    def _is_listed(self, value: Value) -> bool:
        return not isinstance(value.op, Leaf | Item) and value not in self.inline

    def _line(self, sign: str, value: Value, network: Any, names: Mapping[Value, str]) -> _Line:
        origin = network.origins.get(value)
        text = expression(value, [names[x] for x in value.args])
        return _Line(sign, shown(origin.module) if origin else "", names[value], _type(value), text)

    def lines(self) -> Iterator[_Line]:
        """Lines in the order of A; what only B has stands before what follows it there."""
        order = {v: i for i, v in enumerate(self.b.values)}
        alone = [v for v in self.b.values if v not in self.pairs.a_of and self._is_listed(v)]
        at = 0
        shown_b: set[Value] = set()
        for a in self.a.values:
            b = self.pairs.b_of.get(a)
            while b is not None and at < len(alone) and order[alone[at]] < order[b]:
                yield self._line("+", alone[at], self.diff.b, self.names_b)
                at += 1
            if not self._is_listed(a):
                continue
            mine = self._line(" ", a, self.diff.a, self.names_a)
            if b is None:
                yield mine._replace(sign="-")
                continue
            shown_b.add(b)
            theirs = self._line(" ", b, self.diff.b, self.names_b)
            if mine[2:] == theirs[2:]:
                yield mine
            else:
                yield mine._replace(sign="-")
                yield theirs._replace(sign="+")
        for b in alone[at:]:
            yield self._line("+", b, self.diff.b, self.names_b)

    def text(self) -> Iterator[str]:
        """The listing, cut where nothing differs."""
        yield f"--- A  {shown(self.diff.a.name)}"
        yield f"+++ B  {shown(self.diff.b.name)}"
        for name, own in self.pairs.leaves.items():
            if name != own:
                yield f"  {shown(own)} is {shown(name)} in B"
        yield from self._interface()
        found = list(self.lines())
        near = _near([line.sign != " " for line in found])
        wide = [max((len(line[i]) for line, n in zip(found, near, strict=True) if n), default=0) for i in (2, 3)]
        module = None
        before = True
        for line, wanted in zip(found, near, strict=True):
            if wanted and (not before or module != line.module):
                yield f"@@ {line.module} @@" if line.module else "@@"
                module = line.module
            if wanted:
                yield f"{line.sign} {line.name:{wide[0]}}  {line.type:{min(wide[1], 40)}}  {line.text}"
            before = wanted
        if not any(near):
            yield f"  {len(found)} ops, all written alike"

    def _interface(self) -> Iterator[str]:
        for what in ("inputs", "outputs", "updates"):
            a, b = getattr(self.a, what), getattr(self.b, what)
            for sign, own, other in (("-", a, b), ("+", b, a)):
                for name, value in own.items():
                    if name not in other or other[name].type is not value.type:
                        yield f"{sign} {what[:-1]} {shown(name)}: {value.type}"


def _near(differs: list[bool]) -> list[bool]:
    """Which lines differ or are near one that does."""
    near = [False] * len(differs)
    for i, d in enumerate(differs):
        if d:
            for j in range(max(i - _CONTEXT, 0), min(i + _CONTEXT + 1, len(near))):
                near[j] = True
    return near
