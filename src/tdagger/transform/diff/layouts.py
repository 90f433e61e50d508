"""Values of two networks in pairs whatever layout each has them in: channels first and last, windows in other shapes.

Permutes, groups and ungroups only carry values to a layout. They are looked through, and ops are compared by what they
do and how many entries of what sizes they give, not by the places of axes. Then it is worked out in which order of its
axes each value of B is one of A, and ops whose attributes say the same in that order are the same. For pictures:
:func:`tdagger.diff` asks what is computed, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.graph import Graph, bulk, is_view, result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import BINARY, Binary, Cast, Unary
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item, Permute, Reduce, Repeat
from tdagger.transform.diff.align import Aligner, Side, paired_leaves
from tdagger.transform.diff.classes import Class, Classes, key_of
from tdagger.transform.diff.compare import likely, likely_results, side_of
from tdagger.transform.diff.exact import Exact, working_type

_Order = tuple[int, ...]


class Paired(NamedTuple):
    """``a_of`` has of values of B those of A; ``same`` are those of B that are the same but for the layout.

    ``turned`` are those that take other axes than their partners do. ``carry`` are the values of both that only bring
    others to a layout.
    """

    a_of: Mapping[Value, Value]
    same: frozenset[Value]
    turned: frozenset[Value]
    carry: frozenset[Value]


def paired(a: Any, b: Any) -> Paired:
    """The pairs of two networks (TensorDAGs); no weights are read. Linear in their ops.

    >>> import numpy as np, tdagger as td
    >>> one = td.network(lambda x: td.relu(td.exp(x)), {"x": (2, 3, 4)})
    >>> def last(x):
    ...     return td.permute(td.relu(td.permute(td.exp(x), (0, 2, 1))), (0, 2, 1))
    >>> found = paired(one, td.network(last, {"x": (2, 3, 4)}))
    >>> sorted(v.op.name for v in found.same), sorted(v.op.name for v in found.carry)
    (['relu', 'unary'], ['permute', 'permute'])
    """
    with bulk():
        one, other = (side_of(n, None)._replace(carried=_carried(n.graph)) for n in (a, b))
        exact = Exact(working_type(a.graph), working_type(b.graph))
        leaves = paired_leaves(one, other, likely(a.graph.inputs, b.graph.inputs), by_content=False, look=_sizes)
        classes = _Loose(exact, {**one.carried, **other.carried})
        aligner = Aligner(one, other, likely_results(a.graph, b.graph), classes, leaves)
        a_of = aligner.align().a_of
        orders = _Orders(one, other, a_of, leaves)
        same = orders.same()
    return Paired(a_of, frozenset(same), frozenset(orders.turned), frozenset({*one.carried, *other.carried}))


def _sizes(value: Value) -> tuple[tuple[int, ...], ...]:
    return tuple([tuple(sorted([n for n in t.shape if n != 1])) for t in result_types(value)])


def _carries(value: Value) -> bool:
    if isinstance(value.op, Permute):
        return True
    return is_view(value) and not isinstance(value.op, Item | Repeat) and value.type.size == value.args[0].type.size


def _carried(graph: Graph) -> dict[Value, Value]:
    """Of every value that only carries another, what it carries in the end."""
    found: dict[Value, Value] = {}
    for value in graph.values:
        if len(value.args) == 1 and _carries(value):
            found[value] = found.get(value.args[0], value.args[0])
    return found


class _Loose(Classes):
    """Numbers for what values compute in whatever layout: by ops and functions, without attributes."""

    alike = True

    def __init__(self, exact: Exact, carried: Mapping[Value, Value]) -> None:
        super().__init__(exact, inside=False)
        self.carried = carried

    def key(self, op: Op) -> Any:
        if isinstance(op, Const):
            return key_of(op)
        return (op.name, op.attributes.get("kind") if op.name in ("unary", "binary", "reduce") else None)

    def look(self, value: Value) -> list[Any]:
        return list(_sizes(value))

    def walk(self, graph: Graph, given: dict[Value, Class]) -> dict[Value, Class]:
        found = dict(given)
        for value in graph.values:
            if value in found:
                continue
            if value in self.carried:
                found[value] = found[self.carried[value]]
                continue
            args = [found[a] for a in value.args]
            if isinstance(value.op, Item) and isinstance(args[0], tuple):
                found[value] = args[0][value.op.index]
            else:
                key = (self.key(value.op), tuple(map(str, self.look(value))))
                commutes = isinstance(value.op, Binary) and BINARY[value.op.kind].commutes
                found[value] = self.number((key, *(sorted(args, key=str) if commutes else args)), ())
        return found


class _Orders:
    """In which order of axes each value of B is its partner in A: dimension ``i`` of it is ``order[i]`` of that."""

    def __init__(self, a: Side, b: Side, a_of: Mapping[Value, Value], leaves: Mapping[str, str]) -> None:
        self.a, self.b, self.a_of = a, b, a_of
        own = {v.op.leaf: v for v in a.graph.values if isinstance(v.op, Leaf)}
        self.leaf_of = {v: own[leaves[v.op.leaf]] for v in b.graph.values
                        if isinstance(v.op, Leaf) and v.op.leaf in leaves}  # fmt: skip
        self.carried_a, self.carried_b = _kept(a, {*a_of.values()}), _kept(b, {*a_of})
        self.of_a, self.stirred_a = _orders(a.graph, self.carried_a)
        self.of_b, self.stirred_b = _orders(b.graph, self.carried_b)
        self.known: dict[Value, _Order] = {}
        self.turned: set[Value] = set()

    def same(self) -> set[Value]:
        """The values of B that are those of A, with the same attributes, in some order of axes."""
        found: set[Value] = set()
        for b in self.b.graph.values:
            a = self.a_of.get(b) or self.leaf_of.get(b)
            if a is None:
                continue
            if isinstance(b.op, Leaf):
                if a.type.shape == b.type.shape:
                    self.known[b] = tuple(range(b.type.rank))
                continue
            order = self._order(a, b)
            if order is not None:
                found.add(b)
            elif a.op.name == b.op.name and a.type == b.type and not _by_entry(b) and not isinstance(b.op, Reduce):
                order = tuple(range(b.type.rank)) if len(result_types(b)) == 1 else None  # axes have fixed places
            if order is not None and len(result_types(b)) == 1:
                self.known[b] = order
        return found

    def _between(self, x: Value, y: Value) -> _Order | None:
        """The order in which an argument of B is one of A, through what carries both; None if it isn't known."""
        source, other = self.carried_b.get(y, y), self.carried_a.get(x, x)
        if self.a_of.get(source, self.leaf_of.get(source)) is not other or source not in self.known:
            return None
        to_b, to_a = self.of_b.get(y), self.of_a.get(x)
        if to_b is None or to_a is None:  # a shape that both are brought to with the entries in one order
            plain = x not in self.stirred_a and y not in self.stirred_b and _is_straight(self.known[source], other)
            return tuple(range(y.type.rank)) if plain and x.type.shape == y.type.shape else None
        whole = [self.known[source][i] for i in to_b]
        return tuple([to_a.index(i) for i in whole]) if sorted(whole) == sorted(to_a) else None

    def _order(self, a: Value, b: Value) -> _Order | None:
        if type(a.op) is not type(b.op) or a.op.name != b.op.name or len(a.args) != len(b.args):
            return None
        orders = set[_Order]()
        for x, y in zip(a.args, b.args, strict=True):
            if _is_weight(self.a, x) and _is_weight(self.b, y):
                if x.type != y.type or not self._goes_with(x, y):
                    return None
                continue
            order = self._between(x, y)
            if order is None:
                return None
            if len(order) > 1:
                orders.add(order)
        if len(orders) > 1:
            return None
        order = next(iter(orders), tuple(range(b.type.rank if len(result_types(b)) == 1 else 0)))
        straight = len(result_types(b)) == 1 and order == tuple(range(len(order)))
        if _rounded(key_of(a.op)) == _rounded(key_of(b.op)) and (straight or _by_entry(b)):
            return order
        if _same_axes(a.op, b.op, order):
            return order
        if not straight:
            self.turned.add(b)
        return None

    def _goes_with(self, x: Value, y: Value) -> bool:
        if isinstance(x.op, Const) or isinstance(y.op, Const):
            return x is y
        return self.leaf_of.get(self.b.carried.get(y, y)) is self.a.carried.get(x, x)


def _rounded(key: Any) -> Any:
    """Attributes as files hold them: numbers in single precision."""
    if isinstance(key, tuple):
        return tuple([_rounded(k) for k in cast(tuple[Any, ...], key)])
    is_float = isinstance(key, str) and (key.startswith(("0x", "-0x")) and "p" in key)
    return float(np.float32(float.fromhex(key))) if is_float else key


def _is_weight(side: Side, value: Value) -> bool:
    source = side.carried.get(value, value)
    return isinstance(source.op, Const) or (isinstance(source.op, Leaf) and source.op.name != "input")


def _by_entry(value: Value) -> bool:
    """Whether an op does the same to every entry, so that the order of axes is nothing to it."""
    op = value.op
    if not isinstance(op, Composite):
        return isinstance(op, Unary | Binary | Cast)
    made = set[Value]()  # of constants alone
    for inner in op.body(*[a.type for a in value.args]).values:
        if isinstance(inner.op, Const) or (inner.args and all(a in made for a in inner.args)):
            made.add(inner)
        elif not isinstance(inner.op, Leaf) and not _by_entry(inner):
            return False
    return True


def _same_axes(a: Op, b: Op, order: _Order) -> bool:
    """Whether two reductions take the same axes of an argument in some order; they keep them, with size 1."""
    if not isinstance(a, Reduce) or not isinstance(b, Reduce) or a.kind != b.kind:
        return False
    return sorted([order[i] for i in b.axes]) == list(a.axes)


def _is_straight(order: _Order, value: Value) -> bool:
    """Whether the entries come in one order in both: only axes of size 1 change places."""
    large = [i for i in order if value.type.shape[i] != 1]
    return large == sorted(large)


def _kept(side: Side, paired: set[Value]) -> dict[Value, Value]:
    """What values are of that keep the order of axes: carried ones, and ops that only one network has."""
    found: dict[Value, Value] = {}
    for value in side.graph.values:
        alone = value not in paired and bool(value.args) and value.type == value.args[0].type
        if value in side.carried or alone:
            found[value] = found.get(value.args[0], value.args[0])
    return found


def _orders(graph: Graph, kept: Mapping[Value, Value]) -> tuple[dict[Value, _Order], set[Value]]:
    """Of every value the order of its axes in what it carries, none where shapes change; those in another order."""
    found: dict[Value, _Order] = {}
    stirred: set[Value] = set()
    for value in graph.values:
        if value not in kept:
            if len(result_types(value)) == 1:
                found[value] = tuple(range(value.type.rank))
            continue
        x = value.args[0]
        order = value.op.order if isinstance(value.op, Permute) else tuple(range(x.type.rank))
        if x in found and (isinstance(value.op, Permute) or value.type.shape == x.type.shape):
            found[value] = tuple([found[x][i] for i in order])
        if x in stirred or not _is_straight(order, x):
            stirred.add(value)
    return found, stirred
