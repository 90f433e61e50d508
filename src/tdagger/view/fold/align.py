"""Two networks as one tree: what is in both, what is only in one, what changed.

Ops are matched by what they compute, on what, in whatever layout, as :func:`tdagger.diff` pairs them
(:mod:`tdagger.transform.diff.layouts`); boxes by their names, where these differ by what they hold. How far the numbers
in weights differ is no matter of structure: :mod:`tdagger.view.changes`.

>>> matched(list("abcd"), list("acxd"))
[(0, 0), (2, 1), (3, 3)]
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Protocol

from tdagger.composite import Composite
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.view.expressions import attribute
from tdagger.view.fold.boxes import Box, Leaf, own

#: Of what has no unique names, so many pairs are tried at most.
_TRIED = 40_000

Item = Box | Leaf


class Pairs(Protocol):
    """Which ops go together; see :class:`tdagger.transform.diff.layouts.Paired`."""

    @property
    def a_of(self) -> Mapping[Value, Value]: ...
    @property
    def same(self) -> frozenset[Value]: ...
    @property
    def turned(self) -> frozenset[Value]: ...
    @property
    def carry(self) -> frozenset[Value]: ...


def merged(a: Box, b: Box, pairs: Pairs) -> Box:
    """The tree of two networks together; every box and op says in which it is."""
    root = _Merge(pairs).boxes(a, b)
    own(root)
    return root


class _Merge:
    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def boxes(self, a: Box, b: Box) -> Box:
        new = Box(a.name, a.kind or b.kind, a.is_module, a.call)
        new.changes = [f"class: {a.kind} -> {b.kind}"] if a.kind and b.kind and a.kind != b.kind else []
        pairs = self._pairs(a.items, b.items)
        left, right = 0, 0
        for i, j in [*pairs, (len(a.items), len(b.items))]:
            new.items += [self._only(item, "a") for item in a.items[left:i]]
            new.items += [self._only(item, "b") for item in b.items[right:j]]
            if i < len(a.items):
                new.items.append(self._both(a.items[i], b.items[j]))
            left, right = i + 1, j + 1
        same = not new.changes and all(_is_same(item) for item in new.items)
        new.state = "same" if same else "changed"
        return new

    def _both(self, a: Item, b: Item) -> Item:
        if isinstance(a, Leaf) and isinstance(b, Leaf):
            leaf = Leaf(a.values[0], b.values[1])
            leaf.name, leaf.kind = a.name, a.kind
            leaf.changes = [] if b.value in self.pairs.same else changes(a.value, b.value)
            if not leaf.changes and b.value in self.pairs.turned:
                leaf.changes = ["it takes its argument with the axes in another order"]
            return leaf
        return self.boxes(_boxed(a), _boxed(b))

    def _only(self, item: Item, side: str) -> Item:
        if isinstance(item, Box):
            item.state = side
            for inner in item.items:
                self._only(inner, side)
        else:
            item.moves = item.value in self.pairs.carry
        return item

    def _pairs(self, a: Sequence[Item], b: Sequence[Item]) -> list[tuple[int, int]]:
        tiers: list[Callable[[Item], Hashable]] = [self._paired, self._named, self._shape]
        found = [(-1, -1), (len(a), len(b))]
        for tier in tiers:
            more: list[tuple[int, int]] = []
            for (i, j), (m, n) in itertools.pairwise(found):
                one, other = a[i + 1 : m], b[j + 1 : n]
                pairs = matched(list(map(tier, one)), list(map(tier, other))) if one and other else []
                more += [(i, j), *[(i + 1 + p, j + 1 + q) for p, q in pairs]]
            found = [*more, (len(a), len(b))]
        return found[1:-1]

    def _paired(self, item: Item) -> Hashable:
        """Ops by their pairs."""
        if isinstance(item, Box):
            return ("name", item.name, item.call) if item.name else item
        a, b = item.values
        return ("op", a if a is not None or b is None else self.pairs.a_of.get(b, b))

    def _named(self, item: Item) -> Hashable:
        """By name: an op may be one of several in a module of the other."""
        if item.name:
            return ("name", item.name, item.call if isinstance(item, Box) else 0)
        return item

    def _shape(self, item: Item) -> Hashable:
        """Boxes that hold the same on whatever weights, under another name."""
        if isinstance(item, Leaf):
            return item if item.name else (item.value.op, item.value.type)
        return ("shape", item.kind, tuple([(leaf.value.op, leaf.value.type) for leaf in item.leaves()]))


def _boxed(item: Item) -> Box:
    if isinstance(item, Box):
        return item
    box = Box(item.name, item.kind, True)
    bare = Leaf(*item.values)
    box.items = [bare]
    return box


def _is_same(item: Item) -> bool:
    if isinstance(item, Box):
        return item.state == "same"
    return item.moves or (None not in item.values and not item.changes)


def state_of(item: Item) -> str:
    """In which network an item is: ``same``, ``changed``, ``a`` or ``b``; of a box found by structure, what is in it.

    Boxes inside have theirs already.
    """
    if isinstance(item, Leaf):
        a, b = item.values
        return "b" if a is None else "a" if b is None else "changed" if item.changes else "same"
    if not item.state:
        inner = {state_of(i) for i in item.items if not (isinstance(i, Leaf) and i.moves)}
        inner = inner or {state_of(i) for i in item.items}
        item.state = inner.pop() if len(inner) == 1 else "changed"
    return item.state


def changes(a: Value, b: Value) -> list[str]:
    """What changed from an op to one that stands for it, in words."""
    if a is b:
        return []
    found: list[str] = []
    if a.op is not b.op:
        if a.op.name != b.op.name:
            found.append(f"op: {a.op.name} -> {b.op.name}")
        else:
            old, new = a.op.attributes, b.op.attributes
            keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
            found += [f"{k}: {attribute(old.get(k))} -> {attribute(new.get(k))}" for k in keys]
    if a.type != b.type:
        found.append(f"type: {a.type} -> {b.type}")
    held = Parameter | Buffer | Const
    for i, (one, other) in enumerate(zip(a.args, b.args, strict=False)):
        if isinstance(one.op, held) and isinstance(other.op, held) and one.type != other.type:
            found.append(f"{_argument(a, i)}: {one.type} -> {other.type}")
    if len(a.args) != len(b.args):
        found.append(f"arguments: {len(a.args)} -> {len(b.args)}")
    elif not found and any(x.type != y.type for x, y in zip(a.args, b.args, strict=True)):
        pairs = [(x.type, y.type) for x, y in zip(a.args, b.args, strict=True) if x.type != y.type]
        found += [f"takes: {x} -> {y}" for x, y in pairs]
    return found


def _argument(value: Value, i: int) -> str:
    """What a weight is in an op, so that the same change in every layer is told in the same words."""
    if isinstance(value.op, Composite):
        return value.op.definition.argument_names(value.op.given, len(value.args))[i]
    return str(getattr(value.args[i].op, "leaf", "constant")).rpartition(".")[2]


# --- sequences ---------------------------------------------------------------------------------------------


def matched(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of places of equal keys, in order in both: those at both ends, then around those that are there once."""
    found: list[tuple[int, int]] = []
    todo = [(0, len(a), 0, len(b))]
    while todo:
        i, m, j, n = todo.pop()
        while i < m and j < n and a[i] == b[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        while i < m and j < n and a[m - 1] == b[n - 1]:
            m, n = m - 1, n - 1
            found.append((m, n))
        if i == m or j == n:
            continue
        anchors = _anchors(a, b, i, m, j, n)
        if anchors:
            found += anchors
            ends = [(i - 1, j - 1), *anchors, (m, n)]
            todo += [(p + 1, r, q + 1, s) for (p, q), (r, s) in itertools.pairwise(ends)]
        elif (m - i) * (n - j) <= _TRIED:
            blocks = SequenceMatcher(None, a[i:m], b[j:n], autojunk=False).get_matching_blocks()
            found += [(i + x.a + k, j + x.b + k) for x in blocks for k in range(x.size)]
    return sorted(found)


def _anchors(a: Sequence[Hashable], b: Sequence[Hashable], i: int, m: int, j: int, n: int) -> list[tuple[int, int]]:
    """The longest row of keys that both have once."""
    of_a, of_b = Counter(a[i:m]), Counter(b[j:n])
    place = {key: q for q, key in enumerate(b[j:n], j) if of_b[key] == 1}
    pairs = [(p, place[key]) for p, key in enumerate(a[i:m], i) if of_a[key] == 1 and key in place]
    tails: list[int] = []
    last: list[int] = []
    before = [-1] * len(pairs)
    for x, (_, q) in enumerate(pairs):
        k = bisect_left(tails, q)
        if k == len(tails):
            tails.append(q)
            last.append(x)
        else:
            tails[k], last[k] = q, x
        before[x] = last[k - 1] if k else -1
    out: list[tuple[int, int]] = []
    x = last[-1] if last else -1
    while x >= 0:
        out.append(pairs[x])
        x = before[x]
    return out[::-1]
