"""Removing entries: one walk that gives every value what is left of it.

What is left of a value's dimensions follows from their factors (its *plan*, as in
:mod:`tdagger.transform.axes.change`); ``Op.adapt`` changes a core op's attributes. A composite keeps its label where
its body, with the same entries removed, is the body of the composite on what is left; where only numbers differ that
were made of sizes (the count of a mean), that is told (:attr:`Removal.recounted`). Norms get new numbers, as what
they divide by is all made of entries; everywhere else, and in norms if asked, numbers stay what they were, which
makes the result exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.errors import AttributeValueError, GraphError, TypeMismatchError
from tdagger.graph import Graph, applied, bulk, is_one, result_types
from tdagger.interpret import computed
from tdagger.library import control
from tdagger.library.block import block
from tdagger.op import Array, Place, Plan, Value
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Const, Leaf, const
from tdagger.ops.structure import Bounds, Concat, Item, Pad, Repeat, Slice, repeat
from tdagger.prune.entries import Scope, is_norm
from tdagger.prune.factors import Term, Terms
from tdagger.prune.units import Units
from tdagger.transform.axes.change import candidates, shapes_of
from tdagger.types import ResultTypes, Sized, TensorType

#: Whether each entry of a dimension stays; None if all do.
Kept = Array | None
Where = Callable[[Value], str]


class Removal:
    """What is left of every value of a graph where some classes of entries go."""

    def __init__(
        self, units: Units, removed: Array, keep_numbers: bool = False, where: Where = lambda value: ""
    ) -> None:
        self.units = units
        self.removed = removed
        self.keep_numbers = keep_numbers
        self.where = where
        #: Values whose composite counts entries, and what it was and is: ``(value, old, new)``.
        self.recounted: list[tuple[Value, float, float]] = []
        self._kept: dict[Term, Kept] = {}
        self._counts: dict[Term, int] = {}
        #: Values made, and those they were made for.
        self.made_for: dict[Value, Value] = {}
        #: What became of the network's values.
        self.new: dict[Value, Any] = {}
        self._outer: Value
        #: Whether numbers made of sizes stay in the composite at hand.
        self._keeps_numbers = True

    def kept(self, term: Term) -> Kept:
        """Which entries of a dimension stay, None if all do."""
        if not term:
            return None
        if term not in self._kept:
            found = self.units.kept(term, self.removed)
            self._kept[term] = None if found.all() else found
        return self._kept[term]

    def plan(self, terms: Terms, shape: tuple[int, ...]) -> Plan:
        """The dimensions that are left."""
        return tuple([Place(i, self._left(t, n)) for i, (n, t) in enumerate(zip(shape, terms, strict=True))])

    def _left(self, term: Term, size: int) -> int:
        """How many entries of a dimension stay."""
        if not term:
            return size
        found = self._counts.get(term)
        if found is None:
            kept = self.kept(term)
            found = self._counts[term] = size if kept is None else int(kept.sum())
        return found

    def run(self) -> Graph:
        """The graph that is left."""
        graph = self.units.entries.graph
        with bulk():
            new = self.new = self._walk(self.units.entries.scope, {}, outermost=True)
        outputs = {n: new[v] for n, v in graph.outputs.items()}
        updates = {n: new[v] for n, v in graph.updates.items()}
        inputs = {n: new[v] for n, v in graph.inputs.items()}
        order = [v for v in new.values() if isinstance(v, Value)]
        return Graph(inputs, outputs, updates, graph.name, order)

    def _walk(self, scope: Scope, given: dict[Value, Value], outermost: bool = False) -> dict[Value, Any]:
        new: dict[Value, Any] = dict(given)
        for value in scope.graph.values:
            if value in new:
                continue
            if value not in scope.terms:  # made of constants alone: each use takes what it needs of it
                new[value] = value
                continue
            if outermost:
                self._outer = value
                self._keeps_numbers = self.keep_numbers or not is_norm(value)
            new[value] = self._visit(scope, value, new)
            if outermost:
                self._remember(value, new[value])
        return new

    def _remember(self, value: Value, made: Any) -> None:
        stack: list[Value] = list(cast(Any, made)) if isinstance(made, tuple) else [made]
        while stack:
            v = stack.pop()
            if v not in self.made_for:
                self.made_for[v] = value
                stack += v.args

    def _visit(self, scope: Scope, value: Value, new: dict[Value, Any]) -> Any:
        op = value.op
        if isinstance(op, Item):
            whole: Any = new[value.args[0]]
            return cast(Value, whole[op.index]) if isinstance(whole, tuple) else op(whole)
        pairs = zip(scope.of(value), result_types(value), strict=True)
        plans = [self.plan(terms, t.shape) for terms, t in pairs]
        if isinstance(op, Leaf):
            return _leaf(op, plans[0])
        args = [self._argument(scope, value, i, new) for i in range(len(value.args))]
        same = all(_sizes(p) == t.shape for p, t in zip(plans, result_types(value), strict=True))
        if same and all(a is b for a, b in zip(args, value.args, strict=True)):
            return value
        try:
            out = self._made(scope, value, args, plans, same)
        except (AttributeValueError, TypeMismatchError) as e:
            raise GraphError(f"{self._outer!r}{self.where(self._outer)}: what is left doesn't fit: {e}") from e
        if isinstance(out, Value) and is_one(out) and out.shape != _sizes(plans[0]):
            raise GraphError(
                f"{self._outer!r}{self.where(self._outer)} becomes {out.type}, but {list(_sizes(plans[0]))} is left"
            )
        return out

    def _made(self, scope: Scope, value: Value, args: list[Any], plans: list[Plan], same: bool) -> Any:
        op = value.op
        if same and all(not is_one(a) or a.type is b.type for a, b in zip(args, value.args, strict=True)):
            return op(*args)
        places = [self.plan(scope.at(value, i), a.shape) if is_one(a) else () for i, a in enumerate(value.args)]
        if isinstance(op, Composite):
            return self._composite(scope, value, op, args, places, plans)
        if isinstance(op, Slice):
            return self._slice(scope, value, op)(*args)
        if isinstance(op, Pad):
            return self._pad(scope, value, op)(*args)
        if isinstance(op, Gather) and not op.batch and value.args[1] not in scope.terms and value.args[1].rank < 2:
            return self._gather(scope, value, op, args)
        return op.adapt(plans[0], *places)(*args)

    # Arguments.

    def _argument(self, scope: Scope, value: Value, i: int, new: dict[Value, Any]) -> Any:
        arg = value.args[i]
        if arg in scope.terms or not is_one(arg):
            return new[arg]
        if isinstance(value.op, Gather) and i == 1:
            return arg
        keeps = [self.kept(t) for t in scope.at(value, i)]
        return arg if all(k is None for k in keeps) else _taken(arg, keeps)

    # Ops that say which entries.

    def _slice(self, scope: Scope, value: Value, op: Slice) -> Slice:
        bounds: list[Bounds | None] = list(op.bounds)
        for i, old in enumerate(op.bounds):
            before, after = self.kept(scope.at(value, 0)[i]), self.kept(scope.terms[value][i])
            if old is None or (before is None and after is None):
                continue
            places = np.arange(int(old[0]), int(old[1]), int(old[2]))
            left = places if after is None else places[after]
            now = left if before is None else (np.cumsum(before) - 1)[left]
            steps = np.unique(np.diff(now))
            if len(steps) > 1:
                raise AttributeValueError(
                    f"every {abs(old[2])}th entry of what is left is no even step: {now.tolist()}"
                )
            step = int(steps[0]) if len(steps) else 1
            count = value.args[0].shape[i] if before is None else int(before.sum())
            start, stop = int(now[0]), int(now[-1]) + (1 if step > 0 else -1)
            # a bound that is said in a way that follows (to the end, a chunk) stays so where it gives the same entries
            first, last = (b.of(count) if isinstance(b, Sized) else n for b, n in ((old[0], start), (old[1], stop)))
            same = np.array_equal(np.arange(int(first), int(last), step), now)
            bounds[i] = (first, last, step) if same else (start, stop, step)
        return Slice(tuple(bounds))

    def _pad(self, scope: Scope, value: Value, op: Pad) -> Pad:
        widths = list(op.widths)
        for i, old in enumerate(op.widths):
            kept = self.kept(scope.terms[value][i])
            if old is not None and kept is not None:
                after = int(kept[len(kept) - old[1] :].sum()) if old[1] else 0
                widths[i] = (int(kept[: old[0]].sum()), after, old[2])
        return Pad(tuple(widths), op.value)

    def _gather(self, scope: Scope, value: Value, op: Gather, args: list[Any]) -> Value:
        before = self.kept(scope.at(value, 0)[op.axis])
        index = computed(value.args[1])
        after = None if index.ndim == 0 else self.kept(scope.terms[value][op.axis])
        left = index if after is None else index[after]
        now = left if before is None else (np.cumsum(before) - 1)[left].astype(index.dtype)
        return op(args[0], const(now))

    # Composites.

    @nested
    def _composite(
        self, scope: Scope, value: Value, op: Composite, args: list[Value], places: list[Plan], plans: list[Plan]
    ) -> Any:
        types = tuple([a.type for a in args])
        shapes = [_sizes(p) for p in plans]
        # one that was walked may take entries one by one
        plain = value not in scope.inside or not self._by_entry(scope.inside[value])
        changed = tuple(
            [
                tuple([i for i, p in enumerate(q) if p.size != a.shape[i]])
                for q, a in zip(places, value.args, strict=True)
            ]
        )
        itself = (Removal, "itself", changed, self._keeps_numbers)
        if plain and itself in op.found:
            # proven of this op where these dimensions have fewer entries: its attributes stay, whatever the sizes
            if op.found[itself] is not None:
                self.recounted.append((self._outer, *op.found[itself]))
            return _again(op, args, shapes, value)
        key = (Removal, tuple([a.type.shape for a in value.args]), types, self._keeps_numbers)
        if plain and key in op.found:
            found, numbers = op.found[key]
            if numbers is not None:
                self.recounted.append((self._outer, *numbers))
            if found is not None:
                return _again(found, args, shapes, value)
        body = self._body(self.units.entries.opened(scope, value), op, types)
        if op.has_branches:
            chosen = control.of_body(body)
            return _inlined(value, body, args) if chosen is None else chosen(*args)
        if op.name == block.name:
            return cast(Any, op.definition)(*args, title=op.attributes["title"], graph=body)
        label, numbers = self._label(value, op, body, types, places, plans)
        if plain:
            op.found[key] = (label, numbers)
            if label is op:
                op.found[itself] = numbers
        if numbers is not None:
            self.recounted.append((self._outer, *numbers))
        return _inlined(value, body, args) if label is None else label(*args)

    def _body(self, inner: Scope, op: Composite, types: tuple[TensorType, ...]) -> Graph:
        given = {
            v: type(v.op)(v.op.leaf, t)() if isinstance(v.op, Leaf) else v
            for v, t in zip(inner.graph.inputs.values(), types, strict=True)
        }
        new = self._walk(inner, given)
        outputs = {n: new[v] for n, v in inner.graph.outputs.items()}
        return Graph({n: given[v] for n, v in inner.graph.inputs.items()}, outputs, name=op.name)

    def _label(
        self, value: Value, op: Composite, body: Graph, types: tuple[TensorType, ...], places: list[Plan],
        plans: list[Plan],
    ) -> tuple[Composite | None, tuple[float, float] | None]:  # fmt: skip
        """The composite that has this body; where it has other numbers, those of it and the new ones."""
        shapes = [_sizes(p) for p in plans]
        numbers: tuple[float, float] | None = None
        recounts: Composite | None = None
        for candidate in candidates(op, places, plans, value):
            if shapes_of(candidate, types) != shapes:
                continue
            candidate = cast(Composite, candidate)
            other = candidate.body(*types)
            if other == body:
                return candidate, None
            unlike = _unlike(body, other)
            if unlike is None:
                continue
            kept = _with_numbers(candidate, [old for old, _ in unlike], body, types)
            if kept is not None:
                return kept, None
            if recounts is None:
                recounts, numbers = candidate, unlike[0]
        return (None, None) if self._keeps_numbers or recounts is None else (recounts, numbers)

    def _by_entry(self, scope: Scope) -> bool:
        """Whether an op inside takes entries one by one of a dimension that loses some."""
        for value in scope.graph.values:
            if isinstance(value.op, Slice | Pad | Concat | Gather) and value in scope.terms:
                terms = [t for i in range(len(value.args)) for t in scope.at(value, i)]
                if any(self.kept(t) is not None for t in (*terms, *scope.terms[value])):
                    return True
            elif value in scope.inside and self._by_entry(scope.inside[value]):
                return True
        return False


def _again(op: Composite, args: list[Value], shapes: list[tuple[int, ...]], value: Value) -> Any:
    types = [TensorType(s, t.dtype) for s, t in zip(shapes, result_types(value), strict=True)]
    return op.again(tuple(args), cast(Any, types[0] if is_one(value) else ResultTypes(types)))


def _inlined(value: Value, body: Graph, args: list[Value]) -> Any:
    found = applied(body, args)
    return found[0] if is_one(value) else found


def _leaf(op: Leaf, plan: Plan) -> Value:
    return type(op)(op.leaf, op.type.with_shape(_sizes(plan)))()


def _sizes(plan: Plan) -> tuple[int, ...]:
    return tuple([p.size for p in plan])


def _taken(value: Value, keeps: list[Kept]) -> Value:
    """The entries that stay of something made of constants alone; what is only repeated is repeated less."""
    op = value.op
    if isinstance(op, Repeat):
        inner = [k if n is None else None for k, n in zip(keeps, op.sizes, strict=True)]
        base = value.args[0] if all(k is None for k in inner) else _taken(value.args[0], inner)
        return repeat(
            base, [n if n is None or k is None else int(k.sum()) for n, k in zip(op.sizes, keeps, strict=True)]
        )
    data = op.data if isinstance(op, Const) else computed(value)
    for axis, kept in enumerate(keeps):
        if kept is not None:
            data = data.compress(kept, axis)
    return const(data)


def _unlike(one: Graph, other: Graph) -> list[tuple[float, float]] | None:
    """The numbers that differ in two graphs that are the same otherwise; None if more differs."""
    a, b = list(one.values), list(other.values)
    if len(a) != len(b) or list(one.outputs) != list(other.outputs):
        return None
    pair: dict[Value, Value] = {}
    found: list[tuple[float, float]] = []
    stack = list(zip(one.outputs.values(), other.outputs.values(), strict=True))
    while stack:
        x, y = stack.pop()
        if x in pair:
            if pair[x] is not y:
                return None
            continue
        pair[x] = y
        if x.type != y.type or len(x.args) != len(y.args):
            return None
        if x.op is not y.op:
            if not (isinstance(x.op, Const) and isinstance(y.op, Const)) or x.type.size != 1:
                return None
            found.append((x.op.data.item(), y.op.data.item()))
        stack += zip(x.args, y.args, strict=True)
    return found


def _with_numbers(op: Composite, numbers: list[float], body: Graph, types: tuple[TensorType, ...]) -> Composite | None:
    """The composite with one of the numbers for an attribute that has none, if that is what has the body."""
    attributes = op.attributes
    for name in [n for n, v in attributes.items() if v is None]:
        for number in numbers:
            try:
                found = cast(Any, type(op))(*{**attributes, name: float(number)}.values(), op.given)
                if found.body(*types) == body:
                    return found
            except (AttributeValueError, TypeError, ValueError):
                continue
    return None
