"""Removing entries: one walk that gives every value what is left of it.

What is left of a value's dimensions follows from their factors (its *plan*, as in
:mod:`tdagger.transform.axes.change`); ``Op.adapt`` changes a core op's attributes. A composite keeps its label where
its body, with the same entries removed, is the body of the composite on what is left; where only numbers differ that
were made of sizes (the count of a mean), that is told (:attr:`Removal.recounted`). Norms get new numbers, as what
they divide by is all made of entries; everywhere else, and in norms if asked, numbers stay what they were, which
makes the result exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.composite import Composite, shapes_given
from tdagger.depth import nested
from tdagger.errors import AttributeValueError, GraphError, TypeMismatchError
from tdagger.graph import Graph, applied, bulk, is_one, result_types
from tdagger.interpret import computed
from tdagger.library import control
from tdagger.library.block import block
from tdagger.op import Array, Place, Plan, Value
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import Const, Leaf, const
from tdagger.ops.structure import Bounds, Concat, Item, Pad, Repeat, Slice, repeat
from tdagger.prune.finding.entries import Scope, is_norm
from tdagger.prune.finding.factors import Term, Terms
from tdagger.prune.finding.places import is_written_out, moved
from tdagger.prune.finding.units import Units
from tdagger.prune.removing import padding
from tdagger.prune.removing.alike import exactly, scalars, unlike, with_numbers
from tdagger.transform.axes.change import candidates
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
        if value in self.units.entries.shuffles and scope is self.units.entries.scope:
            return self._shuffle(scope, value, args[0])
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
            return self._slice(scope, value, op, args[0])
        if isinstance(op, Pad):
            return self._pad(scope, value, op, args[0])
        if isinstance(op, Gather | Scatter) and value in self.units.entries.placed:
            return self._placed(scope, value, op, args, plans)
        return op.adapt(plans[0], *places)(*args)

    # Arguments.

    def _argument(self, scope: Scope, value: Value, i: int, new: dict[Value, Any]) -> Any:
        arg = value.args[i]
        if arg in scope.terms and (value, i) in scope.uses:  # something repeated, in this use as often as is left
            keeps = [self.kept(t) for t in scope.uses[value, i]]
            sizes = cast(Repeat, arg.op).sizes
            pairs = zip(sizes, keeps, strict=True)
            return repeat(new[arg.args[0]], [n if n is None or k is None else int(k.sum()) for n, k in pairs])
        if arg in scope.terms or not is_one(arg):
            return new[arg]
        keeps = [self.kept(t) for t in scope.at(value, i)]
        return arg if all(k is None for k in keeps) else _taken(arg, keeps)

    # Ops that say which entries.

    def _slice(self, scope: Scope, value: Value, op: Slice, x: Value) -> Value:
        bounds: list[Bounds | None] = list(op.bounds)
        for i, old in enumerate(op.bounds):
            before, after = self.kept(scope.at(value, 0)[i]), self.kept(scope.terms[value][i])
            if old is None or (before is None and after is None):
                continue
            places = np.arange(int(old[0]), int(old[1]), int(old[2]))
            left = places if after is None else places[after]
            now = left if before is None else (np.cumsum(before) - 1)[left]
            if len(np.unique(np.diff(now))) > 1:  # no even step any more: they are picked one by one
                x, bounds[i] = Gather(i, 0)(x, const(now)), None
            else:
                count = value.args[0].shape[i] if before is None else int(before.sum())
                bounds[i] = _bounds(old, now, count)
        return Slice(tuple(bounds))(x)

    def _pad(self, scope: Scope, value: Value, op: Pad, x: Value) -> Value:
        widths, uneven = list(op.widths), dict[int, Array]()
        for i, old in enumerate(op.widths):
            kept = self.kept(scope.terms[value][i])
            if old is not None and kept is not None:
                left = padding.sources(value.args[0].shape[i], old, self.kept(scope.at(value, 0)[i]))[kept]
                widths[i] = padding.even(left, old[2])
                if widths[i] is None:
                    uneven[i] = left
        out = Pad(tuple(widths), op.value)(x)
        for i, left in uneven.items():
            out = padding.spread(out, i, left, op.value)
        return out

    def _placed(self, scope: Scope, value: Value, op: Gather | Scatter, args: list[Any], plans: list[Plan]) -> Value:
        """What is taken or put at given places: at others, where the axis or what is put there loses entries."""
        places = self._places(scope, value)
        if places is None:
            own = [self.plan(scope.at(value, i), a.shape) for i, a in enumerate(value.args)]
            return op.adapt(plans[0], *own)(*args)
        index = const((places if value.args[1].rank > op.batch else places[0]).astype(value.args[1].dtype.numpy))
        put = Scatter(op.axis, 0, op.kind) if isinstance(op, Scatter) else Gather(op.axis, 0)
        return put(args[0], index, *args[2:])

    def _places(self, scope: Scope, value: Value) -> Array | None:
        """Which entries of what is left a gather or scatter at given places takes or puts; None if nothing changes."""
        op, places = cast("Gather | Scatter", value.op), self.units.entries.placed[value]
        into = self.kept(scope.at(value, 0)[op.axis])
        alone = value.args[1].rank == op.batch
        other = scope.at(value, 2) if isinstance(op, Scatter) else scope.terms[value]
        taken = None if alone else self.kept(other[op.axis])
        return None if into is None and taken is None else moved(places, into, taken)

    def _shuffle(self, scope: Scope, value: Value, x: Value) -> Value:
        shuffle = self.units.entries.shuffles[value]
        left = self._places(scope, value)
        places = shuffle.places if left is None else left
        if np.array_equal(places, shuffle.places):
            return shuffle.of(x)
        regular = shuffle.like(places)
        if regular is not None:
            return regular.of(x)
        return x if np.array_equal(places, np.arange(len(places))) else Gather(shuffle.axis, 0)(x, const(places))

    # Composites.

    @nested
    def _composite(
        self, scope: Scope, value: Value, op: Composite, args: list[Value], places: list[Plan], plans: list[Plan]
    ) -> Any:
        types = tuple([a.type for a in args])
        shapes = [_sizes(p) for p in plans]
        # one that was walked may take entries one by one
        plain = value not in scope.inside or not self._by_entry(scope.inside[value])
        left = self._factors_left(scope, value)
        same = dict[int, int]()  # which have as many left as which: shapes that are alike by chance prove nothing
        changed = tuple(
            [(at, tuple([(n == m, n == 1, same.setdefault(n, len(same))) for n, m in sizes])) for at, sizes in left]
        )
        itself = (Removal, "itself", changed, self._keeps_numbers)
        if plain and itself in op.found:
            # proven of this op where these factors have fewer entries: its attributes stay, whatever the sizes
            if op.found[itself] is not None:
                self.recounted.append((self._outer, *op.found[itself]))
            return _again(op, args, shapes, value)
        key = (Removal, tuple([a.type.shape for a in value.args]), types, left, self._keeps_numbers)
        if plain and key in op.found:
            found, numbers = op.found[key]
            if numbers is not None:
                self.recounted.append((self._outer, *numbers))
            if found is not None:
                return _again(found, args, shapes, value)
        body = self._body(self.units.entries.opened(scope, value), op, types, scope.of(value))
        if op.has_branches:
            chosen = control.of_body(body)
            return _inlined(value, body, args) if chosen is None else chosen(*args)
        if op.name == block.name:
            return cast(Any, op.definition)(*args, title=op.attributes["title"], graph=body)
        label, numbers = self._label(scope, value, op, body, types, places, plans)
        if plain:
            op.found[key] = (label, numbers)
            if label is op:
                op.found[itself] = numbers
        if numbers is not None:
            self.recounted.append((self._outer, *numbers))
        return _inlined(value, body, args) if label is None else label(*args)

    def _factors_left(self, scope: Scope, value: Value) -> tuple[Any, ...]:
        """Of each dimension that loses entries (of arguments, then results): its factors' entries left, and all."""
        dims = [scope.at(value, i) if is_one(a) else () for i, a in enumerate(value.args)] + scope.of(value)
        return tuple(
            [
                ((i, axis), tuple([(self._left((f,), f.size), f.size) for f in resolve(term)]))
                for i, terms in enumerate(dims)
                for axis, term in enumerate(terms)
                if self.kept(term) is not None
            ]
        )

    def _body(self, inner: Scope, op: Composite, types: tuple[TensorType, ...], results: list[Terms]) -> Graph:
        given = {
            v: type(v.op)(v.op.leaf, t)() if isinstance(v.op, Leaf) else v
            for v, t in zip(inner.graph.inputs.values(), types, strict=True)
        }
        new = self._walk(inner, given)
        outputs: dict[str, Value] = {}
        for (name, v), terms in zip(inner.graph.outputs.items(), results, strict=True):
            # one made of constants alone is a table, of which these are left
            keeps = [None if v in inner.terms else self.kept(t) for t in terms]
            outputs[name] = new[v] if all(k is None for k in keeps) else _taken(new[v], keeps)
        return Graph({n: given[v] for n, v in inner.graph.inputs.items()}, outputs, name=op.name)

    def _label(
        self, scope: Scope, value: Value, op: Composite, body: Graph, types: tuple[TensorType, ...],
        places: list[Plan], plans: list[Plan],
    ) -> tuple[Composite | None, tuple[float, float] | None]:  # fmt: skip
        """The composite that has this body; where it has other numbers, those of it and the new ones."""
        shapes = [_sizes(p) for p in plans]
        numbers: tuple[float, float] | None = None
        recounts: Composite | None = None
        for candidate in (*candidates(op, places, plans, value), *self._regrouped(scope, value, op)):
            if shapes_given(candidate, types) != shapes:
                continue
            candidate = cast(Composite, candidate)
            other = unlike(body, candidate.body(*types))
            if other == []:
                return candidate, None
            # a number that the composite makes of sizes may be left out altogether: 1 / sqrt(1)
            own = [before for before, _ in other] if other else scalars(body)
            kept = with_numbers(candidate, exactly(op, value, own), body, types)
            if kept is not None:
                return kept, None
            if other is None:
                continue
            if recounts is None:
                recounts, numbers = candidate, other[0]
        return (None, None) if self._keeps_numbers or recounts is None else (recounts, numbers)

    def _regrouped(self, scope: Scope, value: Value, op: Composite) -> Iterator[Composite]:
        """The composite with as many groups as are left, where those are a factor of a dimension."""
        groups = op.attributes.get("groups")
        terms = [t for i, a in enumerate(value.args) if is_one(a) for t in scope.at(value, i)] if groups else []
        left = {
            int(k.sum()) for t in terms for f in resolve(t) if f.size == groups and (k := self.kept((f,))) is not None
        }
        for number in left:
            yield cast(Any, type(op))(*{**op.attributes, "groups": number}.values(), op.given)

    def _by_entry(self, scope: Scope) -> bool:
        """Whether an op inside takes entries one by one of a dimension that loses some."""
        for value in scope.graph.values:
            if isinstance(value.op, Slice | Pad | Concat | Gather | Scatter) and value in scope.terms:
                terms = [t for i in range(len(value.args)) for t in scope.at(value, i)]
                if any(self.kept(t) is not None for t in (*terms, *scope.terms[value])):
                    return True
            elif value in scope.inside and self._by_entry(scope.inside[value]):
                return True
        return False


def _bounds(old: Bounds, now: Array, count: int) -> Bounds:
    """The bounds that give the entries ``now`` of ``count``, said as the old ones are where that gives the same."""
    try:
        first, last = (b.of(count) if isinstance(b, Sized) else b for b in old[:2])
        if np.array_equal(np.arange(int(first), int(last), int(old[2])), now):
            return first, last, old[2]
    except AttributeValueError:  # of so many entries there is no such part, a third chunk, say
        pass
    step = int(now[1] - now[0]) if len(now) > 1 else 1
    return int(now[0]), int(now[-1]) + (1 if step > 0 else -1), step


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
    if not is_written_out(value, [k is not None for k in keeps]):
        return picked(value, keeps)
    data = op.data if isinstance(op, Const) else computed(value)
    for axis, kept in enumerate(keeps):
        if kept is not None:
            data = data.compress(kept, axis)
    return const(data)


def picked(value: Value, keeps: list[Kept]) -> Value:
    """The entries of a value that stay, picked one by one."""
    for axis, kept in enumerate(keeps):
        if kept is not None:
            value = Gather(axis, 0)(value, const(np.flatnonzero(kept)))
    return value
