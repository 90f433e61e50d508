"""Removing, adding and resizing axes of a graph: one walk that gives every op its new dimensions.

What happens to each axis is its *fate*: a new size, or gone. From the terms of its dimensions follows what a value's
dimensions become (its *plan*); ``Op.adapt`` changes a core op's attributes. A composite keeps its label where it
can: of the attributes it might have, those are taken with which its body is exactly the changed body, else the
changed body takes its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.algebra import Axes, body_axes
from tdagger.analysis.axes.notation import show_term
from tdagger.analysis.axes.sizes import Sizes
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.composite import Composite, may_broadcast, shapes_given
from tdagger.depth import nested
from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError
from tdagger.graph import Graph, applied, bulk, is_one, result_types, topological
from tdagger.interpret import computed
from tdagger.library import control
from tdagger.library.block import block
from tdagger.library.contraction import with_axes
from tdagger.names import shown
from tdagger.op import Op, Place, Plan, Term, Terms, Value, functions, where_now
from tdagger.ops.elementwise import Cast, Unary
from tdagger.ops.external import External
from tdagger.ops.source import Const, Input, Iota, Leaf, const
from tdagger.ops.structure import Bounds, Group, Item, Permute, Repeat, Slice, Ungroup, repeat, squeeze, unsqueeze
from tdagger.types import ResultTypes, Size, Sized, TensorType, entries, in_numbers

#: Where a value of the network came from, for messages: ``(value) -> " (module, line)"``.
Where = Callable[[Value], str]


class Change:
    """What becomes of a graph's values. ``sizes`` has the new size of every axis; ``gone`` are those removed.

    ``added`` is the size of a new first dimension that the inputs in ``batched`` get, and all that depends on them.
    """

    def __init__(
        self,
        axes: Axes,
        sizes: Sizes | None = None,
        gone: frozenset[Axis] = frozenset(),
        added: int | None = None,
        batched: frozenset[Value] = frozenset(),
        where: Where = lambda value: "",
    ) -> None:
        self.axes = axes
        self.sizes = sizes
        self.gone = gone
        self.added = added
        self.where = where
        self.batched = set(batched)
        self.new: dict[Value, Any] = {}
        self.plans: dict[Value, Any] = {}
        #: What was made, in order, and the value it was made for.
        self._made: list[tuple[Value, Any]] = []
        #: Inputs of a composite's body that stand for axes of size 1 that nobody gave the network.
        self.loose: set[Axis] = set()
        #: What becomes of the axes of constants in the use at hand.
        self.uses: dict[Axis, int | None] = {}
        #: The plans and sizes of dimensions outside of such a use, and the ops that core ops become, each once.
        self._known: dict[tuple[Terms, tuple[int, ...], bool], Plan] = {}
        self._sizes: dict[tuple[Term, int], int | None] = {}
        self._adapted: dict[Any, Op] = {}
        #: What composites become, and what is made of constants for a use, each once.
        self._kept: dict[Any, Op] = {}
        self._of_constants: dict[Any, tuple[Value, Plan]] = {}

    # Plans.

    def plan(self, terms: Terms, shape: tuple[int, ...], batched: bool) -> Plan:
        """The dimensions of ``terms`` after the change."""
        if self.uses:
            return self._plan(terms, shape, batched)
        key = terms, shape, batched
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._plan(terms, shape, batched)
        return found

    def _plan(self, terms: Terms, shape: tuple[int, ...], batched: bool) -> Plan:
        places = [Place(None, self.added)] if batched and self.added is not None else []
        for i, (term, n) in enumerate(zip(terms, shape, strict=True)):
            size = self.size(term, n)
            if size is not None:
                places.append(Place(i, size))
        return tuple(places)

    def size(self, term: Term, old: int) -> int | None:
        """The new size of a dimension; None if it is gone."""
        if self.uses:
            return self._size(term, old)
        key = term, old
        if key not in self._sizes:
            self._sizes[key] = self._size(term, old)
        return self._sizes[key]

    def _size(self, term: Term, old: int) -> int | None:
        axes = resolve(term)
        fates = [self.fate(a) for a in axes]
        if None in fates and all(n is None or (n == 1 and self.is_loose(a)) for n, a in zip(fates, axes, strict=True)):
            return None
        if self.sizes is None and not self.uses and None not in fates:
            return old
        return math.prod([n for n in fates if n is not None])

    def is_loose(self, axis: Axis) -> bool:
        """Whether an axis of size 1 goes with the one beside it: nobody gave the network that axis."""
        return axis.kind != "input" or axis in self.loose

    def fate(self, axis: Axis) -> int | None:
        """The new size of an axis; None if it is gone."""
        if axis in self.uses:
            return self.uses[axis]
        if axis in self.gone:
            return None
        if self.sizes is not None and self.uses:
            return self.sizes.in_use((axis,), self.uses)
        return axis.size if self.sizes is None else self.sizes.known.get(axis, axis.size)

    # The walk.

    def run(self) -> Graph:
        """The changed graph, with inputs of the same names."""
        graph = self.axes.graph
        for value in graph.values if self.batched else ():
            if any(a in self.batched for a in value.args):
                self.batched.add(value)
        for name, value in graph.updates.items():
            self._check_state(name, value)
        with bulk():
            for value in graph.values:
                if value not in self.axes.static:
                    self._visit(value)
                    self._made.append((value, self.new[value]))
            # an output may be a constant, or not depend on what is new
            results = {v: self._result(v) for v in (*graph.outputs.values(), *graph.updates.values())}
        named = {k: self.new[v] for k, v in graph.inputs.items()}
        outputs = {k: results[v] for k, v in graph.outputs.items()}
        updates = {k: results[v] for k, v in graph.updates.items()}
        for name, value in updates.items():
            if value.shape != (old := graph.updates[name]).shape:
                raise AxisError(
                    f"the buffer {name} has the shape {old.shape}, and what is written to it would have {value.shape}: "
                    f"{old!r}{self.where(old)}"
                )
        order = [v for v in self.new.values() if isinstance(v, Value)]
        return Graph(named, outputs, updates, graph.name, order)

    def _check_state(self, name: str, value: Value) -> None:
        """AxisError if the new value of a buffer is to have other dimensions: the buffer stays as it is."""
        plan = self.plan(self.axes[value], value.type.shape, value in self.batched)
        if _same(plan, value.type.shape):
            return
        what = f"buffer {shown(name)!r}, {value.type}, is given {value!r}{self.where(value)} in every run"
        if self.added is not None:
            raise AxisError(
                f"{what}, which would be another for every entry of the new dimension: import the network after "
                "eval() if it doesn't change the buffer then, or give it the larger batch before it is imported"
            )
        raise AxisError(
            f"{what}, which would become {list(_shape(plan))}: change the buffer and the inputs in the model, and "
            "import it again"
        )

    @cached_property
    def made_for(self) -> dict[Value, Value]:
        """For every value made, the value it was made for."""
        found: dict[Value, Value] = {}
        for value, made in self._made:
            stack: list[Value] = list(cast(tuple[Value, ...], made)) if isinstance(made, tuple) else [made]
            while stack:
                v = stack.pop()
                if v not in found:
                    found[v] = value
                    stack += v.args
        return found

    def _result(self, value: Value) -> Value:
        if value in self.axes.static:
            return self._static(value, {})[0]
        return self.new[value]

    def _visit(self, value: Value) -> None:
        op = value.op
        batched = value in self.batched
        try:
            if isinstance(op, Item):
                self.new[value] = self._item(op, value)
                self.plans[value] = self.plans[value.args[0]][op.index]
                return
            plans = self._plans(value, batched)
            if isinstance(op, Leaf):
                self.new[value] = self._leaf(value, op, plans[0])
            else:
                self.new[value] = self._apply(value, plans, batched)
        except (AttributeValueError, TypeMismatchError) as e:
            raise AxisError(f"{value!r}{self.where(value)} can't follow: {e}") from e
        self.plans[value] = plans[0] if is_one(value) else plans

    def _plans(self, value: Value, batched: bool) -> list[Plan]:
        if is_one(value):
            return [self.plan(self.axes[value], value.type.shape, batched)]
        pairs = zip(self.axes.of(value), result_types(value), strict=True)
        return [self.plan(terms, t.shape, batched) for terms, t in pairs]

    def _item(self, op: Item, value: Value) -> Value:
        whole: Any = self.new[value.args[0]]
        return cast(Value, whole[op.index]) if isinstance(whole, tuple) else op(whole)

    def _leaf(self, value: Value, op: Leaf, plan: Plan) -> Value:
        shape = _shape(plan)
        if shape == op.type.shape:
            return value
        if not isinstance(op, Input):
            raise AxisError(f"{op.name} {op.leaf!r} is {op.type}; it can't become {list(shape)}")
        return Input(op.leaf, op.type.with_shape(shape))()

    def _apply(self, value: Value, plans: list[Plan], batched: bool) -> Any:
        op = value.op
        composite = isinstance(op, Composite)
        broadcasts = composite and may_broadcast(value)
        each = batched and not broadcasts
        given = [self._argument(value, i, each) for i in range(len(value.args))]
        places = [wanted for _, _, wanted in given]
        if self.sizes is not None and op.name in ("gather", "embedding") and value.args[1] in self.axes.static:
            self._check_index(value, [arg for arg, _, _ in given])
        if composite and broadcasts and not self.gone and self.added is None:
            loose = [arg for arg, _, _ in given]
            if shapes_given(op, tuple([a.type for a in loose])) == [_shape(p) for p in plans]:
                return op(*loose)
        args = [arg if own == wanted else _fitted(arg, own, wanted) for arg, own, wanted in given]
        if composite:
            return self._composite(value, op, args, places, plans)
        out = self._core(value, args, places, plans[0])
        if is_one(out) and out.type.shape != _shape(plans[0]):
            raise AxisError(f"{value!r}{self.where(value)} becomes {out.type}, but {list(_shape(plans[0]))} is needed")
        return out

    def _check_index(self, value: Value, args: list[Value]) -> None:
        """AxisError if a constant index goes beyond what it reads: positions beyond a table of them."""
        beyond = "" if args[1] is value.args[1] else reads_beyond(value.op, *args)
        if beyond:
            raise AxisError(f"{value!r}{self.where(value)} {beyond}")

    # Arguments.

    def _argument(self, value: Value, i: int, batched: bool) -> tuple[Value, Plan, Plan]:
        """An argument, its dimensions, and those that ``value`` takes it with."""
        arg = value.args[i]
        if not is_one(arg):
            return self.new[arg], (), ()
        is_static = arg in self.axes.static
        if self.added is None and not is_static and (value, i) not in self.axes.expected:
            own = self.plans[arg]
            return self.new[arg], own, own
        wanted = self.plan(self.axes.at(value, i), arg.type.shape, batched or arg in self.batched)
        if is_static:
            try:
                found, own = self._static(arg, self._uses(value, i, wanted))
            except AxisError as e:
                raise AxisError(f"{value!r}{self.where(value)}: {e}") from e
        else:
            found, own = self.new[arg], self.plans[arg]
        return found, own, wanted

    def _uses(self, value: Value, i: int, wanted: Plan) -> dict[Axis, int | None]:
        """What becomes of the axes of an argument made of constants alone: what this use of it wants."""
        places = [where_now(wanted, j) for j in range(value.args[i].rank)]
        sizes = [None if at is None else wanted[at].size for at in places]
        return self.axes.uses(value, i, lambda copy: self.size((copy,), copy.size), sizes)

    def _static(self, value: Value, uses: dict[Axis, int | None]) -> tuple[Value, Plan]:
        """Something made of constants alone, made anew for one use of it."""
        key = value, tuple(uses.items())
        found = self._of_constants.get(key)
        if found is None:
            found = self._of_constants[key] = self._made_static(value, uses)
        return found

    def _made_static(self, value: Value, uses: dict[Axis, int | None]) -> tuple[Value, Plan]:
        outer, self.uses = self.uses, uses
        try:
            plan = self.plan(self.axes[value], value.type.shape, False)
            needed = list(topological([value]))
            kept = all(map(self._is_kept, needed))
            made: dict[Value, Any] = {}
            for v in needed:  # each is of the module that its old one is of, not of the one that uses it
                made[v] = v if kept else self._make_static(v, made)
                self._made.append((v, made[v]))
            return made[value], plan
        finally:
            self.uses = outer

    def _is_kept(self, value: Value) -> bool:
        """Whether no result of something made of constants alone changes."""
        pairs = zip(self._plans(value, False), result_types(value), strict=True)
        return all(_same(p, t.shape) for p, t in pairs)

    def _make_static(self, value: Value, made: dict[Value, Any]) -> Any:
        op = value.op
        if isinstance(op, Item):
            whole = made[value.args[0]]
            return cast(Any, whole)[op.index] if isinstance(whole, tuple) else op(whole)
        plans = self._plans(value, False)
        if isinstance(op, Const):
            return _constant(op, plans[0], counts_on=not self.gone)
        args: list[Value] = []
        places: list[Plan] = []
        for i, arg in enumerate(value.args):
            wanted = self.plan(self.axes.at(value, i), arg.type.shape, False)
            own = self.plan(self.axes[arg], arg.type.shape, False)
            args.append(made[arg] if own == wanted else _fitted(made[arg], own, wanted))
            places.append(wanted)
        if isinstance(op, Composite):
            return self._composite(value, op, args, places, plans)
        return self._core(value, args, places, plans[0])

    def _core(self, value: Value, args: list[Value], places: list[Plan], plan: Plan) -> Value:
        """A core op after the change."""
        op = value.op
        if isinstance(op, Group | Repeat):
            # a dimension of size 1 that stood for nothing went into one that is gone
            into = (
                [i for i, n in enumerate(op.counts) for _ in range(n)] if isinstance(op, Group) else range(value.rank)
            )
            left = tuple(p for p in places[0] if p.axis is None or where_now(plan, into[p.axis]) is not None)
            args, places = [_fitted(args[0], places[0], left)], [left]
        elif isinstance(op, Slice):
            op = self._bounds(value, op, places[0], plan)
        elif isinstance(op, External) and not all(map(_same, places, [a.type.shape for a in value.args])):
            raise AxisError(f"{value!r}{self.where(value)}: what {op.framework} makes of other shapes isn't known")
        key = op, plan, tuple(places)
        adapted = self._adapted.get(key)
        if adapted is None:
            adapted = self._adapted[key] = op.adapt(plan, *places)
        return args[0] if _does_nothing(adapted) else adapted(*args)

    # Slices.

    def _bounds(self, value: Value, op: Slice, before: Plan, after: Plan) -> Slice:
        """The bounds of a slice where the sizes have changed."""
        if self.sizes is None:
            return op
        bounds = list(op.bounds)
        for place in after:
            old = None if place.axis is None else bounds[place.axis]
            if place.axis is None or old is None:
                continue
            n, size = value.args[0].shape[place.axis], before[cast(int, where_now(before, place.axis))].size
            if (n, value.shape[place.axis]) == (size, place.size):
                continue
            start, stop, step = old
            if isinstance(start, Sized) or isinstance(stop, Sized):
                bounds[place.axis] = self._following(value, old, size, place.size)
                continue
            if step > 0:
                line = self.axes.starts.get((value, place.axis))
                start = start if line is None else self.sizes.line(line)
            stop = start + (place.size - 1) * step + (1 if step > 0 else -1)
            if place.size and not (0 <= start < size and 0 <= start + (place.size - 1) * step < size):
                raise AxisError(
                    f"{value!r}{self.where(value)} takes {place.size} entries from {start}, but there are {size}"
                )
            bounds[place.axis] = (start, stop, step)
        return Slice(tuple(bounds))

    def _following(self, value: Value, old: Bounds, size: int, count: int) -> Bounds:
        """The bounds of an axis of ``size`` entries, which have to be those of ``count``."""
        start, stop = (b.of(size) if isinstance(b, Sized) else b for b in old[:2])
        taken = range(start, stop, old[2])
        found = entries(start, stop, old[2], size)
        if found != count or (taken and not 0 <= min(taken[0], taken[-1]) <= max(taken) < size):
            raise AxisError(
                f"{value!r}{self.where(value)} takes {found} of {size} entries, {start}:{stop}:{old[2]}, but "
                f"{count} are needed"
            )
        return (start, stop, old[2])

    # Composites.

    @nested
    def _composite(self, value: Value, op: Composite, args: list[Value], places: list[Plan], plans: list[Plan]) -> Any:
        types = tuple([a.type for a in args])
        same = all(_same(p, t.shape) for p, t in zip(plans, result_types(value), strict=True))
        if same and types == tuple([a.type for a in value.args]):
            return op(*args)
        adapted = None if op.definition.adapt_rule is None else op.definition.adapt_rule(op, args, *plans)
        if adapted is not None:
            return adapted
        if op.has_branches:
            return self._chosen(value, op, args, places)
        if op.name == block.name:
            return cast(Any, op.definition)(*args, title=op.attributes["title"], graph=self._body(value, op, places))
        shapes = [_shape(p) for p in plans]
        if not self.gone and self.added is None:
            kind = op, tuple([a.type for a in value.args]), types, tuple(places), tuple(plans)
            if kind in self._kept:
                return self._kept[kind](*args)
            for candidate in candidates(op, places, plans, value):
                if shapes_given(candidate, types) == shapes:
                    self._kept[kind] = candidate
                    return candidate(*args)
                if in_numbers(types) != types and shapes_given(candidate, in_numbers(types)) == in_numbers(shapes):
                    # its body doesn't keep formulas (it steps through an axis), but has these shapes here
                    found = [TensorType(s, t.dtype) for s, t in zip(shapes, result_types(value), strict=True)]
                    return candidate.again(tuple(args), cast(Any, found[0] if is_one(value) else ResultTypes(found)))
            raise AxisError(
                f"{value!r}{self.where(value)} can't follow: on {', '.join(map(str, types))} it does not become "
                f"{' and '.join(str(list(s)) for s in shapes)}"
            )
        key = (Change, tuple([a.type for a in value.args]), self._inner_fates(value, op), types, tuple(places))
        label = op.found.get(key, ...)  # the composite of that name that it becomes, None if it becomes none
        if label is ...:
            fits = [c for c in candidates(op, places, plans, value) if shapes_given(c, types) == shapes]
            if self.added is None:
                changed = self._body(value, op, places)
                label = next((c for c in fits if cast(Composite, c).body(*types) == changed), None)
            else:  # the other way round: axes that were never there leave nothing behind
                old = op.body(*[a.type for a in value.args])
                label = next((c for c in fits if _without_first(cast(Composite, c), types, places) == old), None)
            op.found[key] = label
        if label is not None:
            return label(*args)
        return self._inlined(value, self._body(value, op, places), args)

    def _inlined(self, value: Value, body: Graph, args: list[Value]) -> Any:
        """What a composite gives, by its changed body."""
        found = applied(body, args)
        return found[0] if is_one(value) else found

    def _chosen(self, value: Value, op: Composite, args: list[Value], places: list[Plan]) -> Any:
        """A choice after the change: between the changed branches, if what chooses is one entry still."""
        body = self._body(value, op, places)
        changed = control.of_body(body)
        return self._inlined(value, body, args) if changed is None else changed(*args)

    def _inner_fates(self, value: Value, op: Composite) -> Any:
        types = tuple([a.type for a in value.args])
        inner = body_axes(op, types, self.axes.assume_size_one)
        return tuple([self._fate(value, a) for terms in inner.inputs for t in terms for a in t])

    def _fate(self, value: Value, axis: Axis) -> Any:
        """What becomes of an axis of a composite's body: None if it goes."""
        outer = self._inside(value).get(axis)
        return axis.size if outer is None else self.size(outer, axis.size)

    def _inside(self, value: Value) -> dict[Axis, Term]:
        """What the axes of a composite's body are outside; of one with a rule of its own those of whole dimensions."""
        found = self.axes.inside.get(value)
        if found is None:
            inner = body_axes(cast(Composite, value.op), tuple([a.type for a in value.args]))
            found = self.axes.inside[value] = {}
            for i, terms in enumerate(inner.inputs):
                for term, outer in zip(terms, self.axes.at(value, i), strict=True):
                    if len(term) == 1:
                        found[term[0]] = outer
                    elif any(self.fate(a) is None for a in resolve(outer)):
                        raise AxisError(f"{value!r}{self.where(value)} takes {show_term(outer)} apart, so it can't go")
        return found

    def _body(self, value: Value, op: Composite, places: list[Plan]) -> Graph:
        """The body of a composite after the change."""
        inner = body_axes(op, tuple([a.type for a in value.args]), self.axes.assume_size_one)
        gone: set[Axis] = set()
        sizes = Sizes()
        for axis in dict.fromkeys(a for t in self._inside(value) for a in resolve((t,))):
            fate = self._fate(value, axis)
            if fate is None:
                gone.add(axis)
            else:
                sizes.known[axis] = fate
        batched = frozenset(
            v for v, p in zip(inner.graph.inputs.values(), places, strict=True) if p and p[0].axis is None
        )
        change = Change(inner, sizes, frozenset(gone), self.added, batched)
        for axis, outer in self._inside(value).items():
            if all(map(self.is_loose, resolve(outer))):
                change.loose.add(axis)
        return change.run()


def reads_beyond(op: Op, table: Value, index: Value) -> str:
    """Which entry a constant index reads that the table hasn't; nothing if there is none."""
    n = table.shape[int(op.attributes.get("axis", 0))]
    largest = int(computed(index).max()) if index.type.size else -1
    source = table.op.leaf if isinstance(table.op, Leaf) else repr(table)
    return f"reads entry {largest} of {source}, which has {n}" if largest >= n else ""


def _without_first(op: Composite, types: tuple[TensorType, ...], places: list[Plan]) -> Graph | None:
    """The body of a composite without the new first dimension of its arguments; None if it does not just carry it."""
    axes = Axes(op.body(*types))
    gone = frozenset(
        a for terms, p in zip(axes.inputs, places, strict=True) if p and p[0].axis is None for a in resolve(terms[0])
    )
    first = [a for terms in axes.results for a in (resolve(terms[0]) if terms else (None,))]
    if not all(a in gone for a in first) or any(a in gone for m in axes.marks for a in resolve(m.term)):
        return None
    try:
        return Change(axes, None, gone).run()
    except AxisError:
        return None


def _does_nothing(op: Op) -> bool:
    """Whether what is left of an op gives its argument."""
    match op:
        case Group():
            return all(n == 1 for n in op.counts)
        case Ungroup():
            return all(len(s) == 1 for s in op.sizes)
        case Permute():
            return op.order == tuple(range(len(op.order)))
        case Repeat():
            return all(n is None for n in op.sizes)
        case Slice():
            return all(b is None for b in op.bounds)
        case _:
            return False


def _shape(plan: Plan) -> tuple[int, ...]:
    return tuple([p.size for p in plan])


def _same(plan: Plan, shape: tuple[int, ...]) -> bool:
    """Whether nothing changes."""
    return _shape(plan) == shape and all(p.axis is not None for p in plan)


def _fitted(value: Value, own: Plan, wanted: Plan) -> Value:
    """A value with the dimensions that are wanted: without those gone, with new ones, repeated to their sizes."""
    kept = {p.axis for p in wanted if p.axis is not None}
    drop = [i for i, p in enumerate(own) if p.axis is not None and p.axis not in kept]
    value = drop_dimensions(value, drop) if drop else value
    left = [p for p in own if p.axis is None or p.axis in kept]
    if len(left) != len(wanted):
        held = [p.axis for p in left if p.axis is not None]
        new = [i for i, p in enumerate(wanted) if p.axis not in held]
        value = add_dimension(value) if new == [0] and value.rank == len(wanted) - 1 else unsqueeze(value, new)
    sizes = [p.size if p.size != n else None for p, n in zip(wanted, value.shape, strict=True)]
    if all(n is None for n in sizes):
        return value
    if isinstance(value.op, Repeat):  # one repeat is enough
        pairs = zip(sizes, value.op.sizes, strict=True)
        return Repeat(tuple(old if n is None else n for n, old in pairs))(value.args[0])
    return repeat(value, sizes)


def add_dimension(value: Value) -> Value:
    """A value with a new first dimension of size 1, as if it had been there when it was made ready for broadcasting."""
    op = value.op
    if isinstance(op, Repeat):
        return Repeat((None, *op.sizes))(add_dimension(value.args[0]))
    if isinstance(op, Group) and (not op.counts or op.counts[0] == 0):
        return Group((0, *op.counts))(value.args[0])
    if isinstance(op, Ungroup) and op.sizes and len(op.sizes[0]) > 1 and op.sizes[0][0] == 1:
        return Ungroup(((1, *op.sizes[0]), *op.sizes[1:]))(value.args[0])
    return unsqueeze(value, (0,))


def drop_dimensions(value: Value, axes: list[int]) -> Value:
    """A value without some dimensions of size 1, as if they had never been added where that can be seen."""
    op, gone = value.op, set(axes)
    if isinstance(op, Group) and all(op.counts[i] == 0 for i in gone):
        counts = tuple(n for i, n in enumerate(op.counts) if i not in gone)
        return value.args[0] if all(n == 1 for n in counts) else Group(counts)(value.args[0])
    if isinstance(op, Ungroup):
        at = itertools.count()
        sizes = [[(next(at), n) for n in each] for each in op.sizes]
        left = tuple(tuple(n for i, n in each if i not in gone) for each in sizes)
        if all(left):
            return value.args[0] if all(len(s) == 1 for s in left) else Ungroup(left)(value.args[0])
    if isinstance(op, Repeat) and all(op.sizes[i] is None for i in gone):
        rest = tuple(n for i, n in enumerate(op.sizes) if i not in gone)
        return Repeat(rest)(drop_dimensions(value.args[0], axes))
    if isinstance(op, Unary | Cast):
        return op(drop_dimensions(value.args[0], axes))
    return squeeze(value, axes)


def _constant(op: Const, plan: Plan, counts_on: bool) -> Value:
    """A constant with other dimensions, if it is clear what they hold; ``counts_on`` is whether numbers may go on.

    Where an axis goes that is a part of a dimension, each of its entries has others of them.
    """
    data = op.data
    for axis in reversed(range(data.ndim)):
        place = where_now(plan, axis)
        size = None if place is None else plan[place].size
        if size == data.shape[axis]:
            continue
        if size is None:
            if data.shape[axis] != 1 and not (data == data.take([0], axis)).all():
                raise AxisError(f"{op} of {list(op.shape)} differs along dimension {axis}, which is to go")
            data = data.take(0, axis)
            continue
        now = op if data is op.data else cast(Const, const(data).op)
        if isinstance(size, Size):
            return _open_constant(now, plan, axis, size)
        if not counts_on and not (data == data.take([0], axis)).all():
            raise AxisError(f"{op} of {list(op.shape)} differs along dimension {axis}, of which a part is to go")
        new = now.resized(axis, size)
        other = now.partner(axis) if new is None else None
        if other is not None and (at := where_now(plan, other)) is not None and plan[at].size == size:
            new = now.banded(min(axis, other), max(axis, other), size)
        if new is None:
            raise AxisError(
                f"{op} of {list(op.shape)} was made for {data.shape[axis]} entries of dimension {axis}; "
                f"what it should hold with {size} can't be told"
            )
        data = new
    return const(data)


def _open_constant(op: Const, plan: Plan, axis: int, size: Size) -> Value:
    """A constant one dimension of which has a size that isn't a number: computed from it, where all others stay."""
    data = op.data
    others = [where_now(plan, i) for i in range(data.ndim) if i != axis]
    if None in others or len(plan) != data.ndim or any(p.axis is None for p in plan):
        raise AxisError(f"{op} of {list(op.shape)} follows a size in more than one way")
    if op.resized(axis, data.shape[axis] + 1) is None:
        raise AxisError(
            f"{op} of {list(op.shape)} was made for {data.shape[axis]} entries of dimension {axis}; "
            "what it should hold with others can't be told"
        )
    first = const(np.ascontiguousarray(data.take([0], axis)))
    where = [size if i == axis else None for i in range(data.ndim)]
    found: Value = repeat(first, where)
    if not (data == data.take([0], axis)).all():
        if data.dtype.kind not in "iu":
            raise AxisError(f"{op} of {list(op.shape)} counts on in {op.dtype}, which rounds")
        step = const(np.ascontiguousarray(data.take([1], axis) - data.take([0], axis)))
        line = unsqueeze(Iota(size, op.dtype)(), [i for i in range(data.ndim) if i != axis])
        found = functions["add"](found, functions["multiply"](line, step))
    rest = [(i, plan[j].size) for i in range(data.ndim) if i != axis and (j := where_now(plan, i)) is not None]
    if any(n != data.shape[i] for i, n in rest):
        wide = [n if n != data.shape[i] else None for i, n in rest]
        wide.insert(axis, None)
        if any(data.shape[i] != 1 for i, n in rest if n != data.shape[i]):
            raise AxisError(f"{op} of {list(op.shape)} follows a size in more than one way")
        found = repeat(found, wide)
    return found


def candidates(op: Composite, places: list[Plan], plans: list[Plan], value: Value) -> Iterator[Op]:
    """The same composite with the attributes that the change may have made of its own; its own first."""
    own = op.attributes
    options = [list(dict.fromkeys([v, *_options(k, v, places, plans, value)])) for k, v in own.items()]
    given = getattr(op, "given", ())
    for attributes in itertools.islice(itertools.product(*options), 128):
        try:
            yield cast(Any, type(op))(*attributes, given)
        except AttributeValueError:
            continue


def _options(name: str, old: Any, places: list[Plan], plans: list[Plan], value: Value) -> Iterator[Any]:
    first = next((p for p, a in zip(places, value.args, strict=True) if a.rank), ())
    if name in ("axis", "axis0", "axis1", "dim", "batch") and isinstance(old, int):
        for plan in (first, plans[0]):
            now = where_now(plan, old)
            if now is not None:
                yield now
        return
    if name == "equation" and isinstance(old, str):
        yield with_axes(
            old, [a.rank for a in value.args], [[p.axis for p in q] for q in places], [p.axis for p in plans[0]]
        )
        return
    if name == "groups" and len(places) > 1 and len(places[1]) > 1 and places[1][1].size:
        # of a convolution the weight has the channels of one group: of the argument, if transposed of the result
        after = len(places[1]) - 1  # so many dimensions are the channels and those after them
        yield from (p[-after].size // places[1][1].size for p in (places[0], plans[0]) if len(p) >= after)
    if name == "repeats":
        yield from _times(old, [p.size for p in plans[0]], [p.size for p in first])
    if not isinstance(old, tuple) or not old:
        return
    entries = cast(tuple[Any, ...], old)
    if name == "axes" and all(isinstance(a, int) for a in entries):
        for plan in (first, plans[0]):
            yield tuple(now for a in entries if (now := where_now(plan, a)) is not None)
        return
    shapes = [(value.type.shape, plans[0])] if is_one(value) else []
    shapes += [(a.shape, p) for a, p in zip(value.args, places, strict=True) if is_one(a)]
    for shape, plan in shapes:
        if entries == shape[len(shape) - len(entries) :]:  # the sizes of the last dimensions
            last = len(shape) - len(entries)
            yield tuple(p.size for p in plan if (last == 0 if p.axis is None else p.axis >= last))
        if len(entries) == len(shape):  # something for each dimension
            for neutral in (None, 0, 1, (0, 0)):
                yield tuple(neutral if p.axis is None else entries[p.axis] for p in plan)


def _times(old: Any, after: list[int], before: list[int]) -> Iterator[Any]:
    """How often every dimension is repeated, of the sizes after and before; of one dimension for a number."""
    before = [1] * (len(after) - len(before)) + before
    if len(after) != len(before) or 0 in before or any(n % m for n, m in zip(after, before, strict=True)):
        return
    times = tuple(n // m for n, m in zip(after, before, strict=True))
    if isinstance(old, tuple):
        yield times
    else:
        yield from dict.fromkeys(times)
