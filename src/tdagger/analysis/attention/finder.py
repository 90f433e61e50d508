"""Attention, found by what it computes: the work of its two products, and what of it a mask lets through.

Attention is a softmax between two contractions: exp of *scores*, which come through elementwise ops and moves from a
contraction of data with data; exp is summed (normalised) and goes, through the same, into a contraction with data.
Data, as against a weight, depends on an input or is made by a contraction. Attention is found in bodies of
composites, among a network's own ops, and across both. ``docs/counting.md`` says what that takes in and what not.

>>> import tdagger as td
>>> from tdagger.analysis.cost.contractions import contractions
>>> q = td.input("q", (2, 10, 4))
>>> y = td.scaled_dot_product_attention(q, q, q, causal=True)
>>> attention(td.Graph({"q": q}, {"y": y}), contractions).macs[y]    # 2 products of 2 heads: 100 pairs, 55 of them seen
Macs(full=1600, causal=880)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tdagger.analysis.attention.bounds import CARRIES, Bound, Bounds
from tdagger.analysis.attention.masks import count_true
from tdagger.analysis.attention.scopes import DATA, PRODUCT, Place, Scope, Walk, arguments_first
from tdagger.composite import Composite
from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.elementwise import Unary
from tdagger.ops.structure import Concat, Group, Permute, Reduce, Repeat, Ungroup

#: A sum of more products than this is nobody's scores; a residual stream of products takes no quadratic time so.
_MOST_PRODUCTS = 256


class Macs(NamedTuple):
    """Multiply-adds of attention's products: all, and those for pairs of a query and a key that a mask lets through."""

    full: int
    causal: int


@dataclass(frozen=True)
class Attentions:
    """The multiply-adds of attention in each value that has any.

    ``unknown`` names what a mask depends on that a graph doesn't know (inputs, buffers, or that it would take too long
    to count), with the number of attentions for which that is so: their causal number is an upper bound.
    """

    macs: dict[Value, Macs]
    unknown: Counter[str]


def attention(graph: Graph, products: Callable[[Graph], dict[Value, Value]]) -> Attentions:
    """The attention in a graph. Reads no weights; linear in values.

    ``products`` gives the contractions of a graph or a body: :func:`tdagger.analysis.cost.contractions.contractions`.
    """
    return _Search(graph, products).found()


class _Search:
    def __init__(self, graph: Graph, products: Callable[[Graph], dict[Value, Value]]) -> None:
        self._graph, self._products_of = graph, products
        self._inside: dict[Any, list[tuple[Value, ...]]] = {}
        self._scores: dict[Place, dict[Place, int]] = {}
        self._counted: dict[Value, int | None] = {}
        self._masks: dict[Value, Any] = {}

    def found(self) -> Attentions:
        macs: dict[Value, Macs] = {}
        unknown: Counter[str] = Counter()
        seen: set[Place] = set()
        softmaxes = self._softmaxes(self._graph)
        if not softmaxes:
            return Attentions(macs, unknown)
        self._walk = walk = Walk(self._graph, self._products_of)
        self._bounds = Bounds(walk, lambda place: bool(self._scores.get(place)))
        for *calls, exp in softmaxes:
            scope = walk.top
            for call in calls:
                scope = walk.enter(scope, call)
            scores = walk.place(scope, exp.args[0])
            before = self._scores_of(scores)
            after = self._taken_by(scope, exp) if before else {}
            if not before or not after:
                continue
            share, why = self._share(scores, list(after.values()))
            unknown.update(why)
            for place in (*before, *after):
                if place not in seen:
                    seen.add(place)
                    value, product = walk.outermost(place), place[1].type.size
                    was = macs.get(value, Macs(0, 0))
                    macs[value] = Macs(was.full + product, was.causal + product * share[0] // share[1])
        return Attentions(macs, unknown)

    # softmax, what is before it and what is after it

    def _softmaxes(self, graph: Graph) -> list[tuple[Value, ...]]:
        """Every exp that is summed: the composites that it is inside of, then itself."""
        found: list[tuple[Value, ...]] = []
        exps: set[Value] = set()
        for value in graph.values:
            op = value.op
            if isinstance(op, Composite):
                key = (op, tuple([a.type for a in value.args]))
                if key not in self._inside:
                    self._inside[key] = self._softmaxes(op.counted(*key[1]))
                found += [(value, *path) for path in self._inside[key]]
            elif isinstance(op, Unary) and op.kind == "exp":
                exps.add(value)
        return found + [(exp,) for exp in _summed(graph, exps)] if exps else found

    def _scores_of(self, start: Place) -> dict[Place, int]:
        """The products of data with data that a place is made of by elementwise ops and moves.

        One contraction with a weight that keeps the number of scores may be between (heads that talk); the number
        says how many are.
        """
        for place in arguments_first(start, self._before, self._scores):
            scope, value = place
            product = scope.of_sum.get(value)
            found: dict[Place, int] = {}
            if product is not None and all(scope.depends[a] & DATA for a in product.args):
                found[scope, product] = 0
            else:
                for before in self._before(place):
                    found.update((p, n + (product is not None)) for p, n in self._scores[before].items())
                if product is not None:
                    found = {p: n for p, n in found.items() if n <= 1}
            self._scores[place] = found if len(found) <= _MOST_PRODUCTS else {}
        return self._scores[start]

    def _before(self, place: Place) -> list[Place]:
        """The places from which one takes scores."""
        scope, value = place
        op = value.op
        product = scope.of_sum.get(value)
        if product is not None:
            data = [self._walk.place(scope, a) for a in product.args if scope.depends[a] & DATA]
            return data if len(data) == 1 and _size(data[0][1]) == value.type.size else []
        if not isinstance(op, CARRIES) or (isinstance(op, Unary) and op.kind == "exp"):
            return []
        return [p for p in self._walk.args(place) if p[0].depends[p[1]] & PRODUCT]

    def _taken_by(self, scope: Scope, exp: Value) -> dict[Place, Place]:
        """The products with data that take a value, through elementwise ops and moves (and talking heads).

        Each with the factor that the value became.
        """
        found: dict[Place, Place] = {}
        stack: list[tuple[Place, int]] = [((scope, exp), 0)]
        seen = {(scope, exp)}
        while stack:
            (inside, value), weights = stack.pop()
            for user in self._walk.users(inside, value):
                if user in seen:
                    continue
                seen.add(user)
                there, op = user[0], user[1].op
                total = there.products.get(user[1])
                if total is None:
                    if isinstance(op, CARRIES) and not (isinstance(op, Unary) and op.kind == "exp"):
                        stack.append((user, weights))
                elif all(there.depends[a] & DATA for a in user[1].args):
                    found[user] = (inside, value)
                elif not weights and total.type.size == _size(value):
                    stack.append(((there, total), 1))
        return found

    # masks

    def _share(self, scores: Place, weights: list[Place]) -> tuple[tuple[int, int], frozenset[str]]:
        """The part of all pairs that masks let through (how many of how many), and what isn't known of the masks."""
        bound, why = self._bounds.let_through(scores)
        before = self._part(bound, self._own(scores))
        after: list[tuple[int, int] | None] = []
        for place in weights:  # what is masked after exp, and what before it, as far as that is still to be seen
            later, more = self._bounds.kept(place)
            why |= more
            after.append(before if _origin(later) is _origin(bound) else self._part(later, place[1].type.size))
        parts = [before, *after]
        if None in parts:
            why |= {f"a mask of {scores[1].type}, which takes too long to count"}
        known = [p for p in after if p is not None]
        best = max(known, key=_fraction, default=(1, 1))
        return min(best, before or best, key=_fraction), why

    def _part(self, bound: Bound, of: int) -> tuple[int, int] | None:
        """How many entries a bound leaves of how many; None if that can't be counted."""
        if not isinstance(bound, Value):
            return int(bound), 1
        if bound not in self._counted:
            self._counted[bound] = count_true(bound, self._masks)
        count = self._counted[bound]
        return None if count is None else (count, max(of, 1))

    def _own(self, place: Place) -> int:
        """The entries at a place that come from scores, not from what was laid beside them."""
        share = [1, 1]
        here = place
        while not here[0].of_sum.get(here[1]):
            before = [p for p in self._walk.args(here) if self._scores.get(p)]
            if not before:
                break
            if isinstance(here[1].op, Concat):
                share[0] *= sum(p[1].type.size for p in before)
                share[1] *= max(here[1].type.size, 1)
            here = before[0]
        return place[1].type.size * share[0] // share[1]


def _summed(graph: Graph, exps: set[Value]) -> list[Value]:
    """Those of ``exps`` that a sum takes, through elementwise ops and moves."""
    found: dict[Value, None] = {}
    seen: set[Value] = set()
    stack = [v for v in graph.values if isinstance(v.op, Reduce) and v.op.kind == "sum"]
    while stack:
        for arg in stack.pop().args:
            if arg in seen:
                continue
            seen.add(arg)
            if arg in exps:
                found[arg] = None
            elif isinstance(arg.op, CARRIES):
                stack.append(arg)
    return list(found)


def _origin(x: Bound) -> Bound:
    """What is repeated, where a tensor repeats something, and whose axes are grouped, where some are."""
    while isinstance(x, Value) and isinstance(x.op, Repeat | Group | Ungroup | Permute):
        x = x.args[0]
    return x


def _fraction(part: tuple[int, int]) -> float:
    return part[0] / part[1]


def _size(value: Value) -> int:
    """Elements of what a value repeats."""
    origin = _origin(value)
    assert isinstance(origin, Value)
    return origin.type.size
