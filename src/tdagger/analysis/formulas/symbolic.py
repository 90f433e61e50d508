"""A graph at sizes that are polynomials: what it would hold, made without making it.

The sizes of the axes are the solution of their equations in some free ones; every value gets a :class:`Node` with
the shape that follows. Nodes stand in for values, so that the rules of ops and graphs (flops, reads) run on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.algebra import Axes, body_axes
from tdagger.analysis.axes.notation import show_term
from tdagger.analysis.axes.sizes import Equation, Sizes, solve
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.analysis.formulas.polynomial import Number, Point, divided, never_negative
from tdagger.composite import Composite, may_broadcast, shapes_given
from tdagger.depth import nested
from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError
from tdagger.graph import is_one, result_types, topological
from tdagger.op import Op, Place, Term, Value
from tdagger.ops.external import External
from tdagger.ops.source import Input, Iota
from tdagger.ops.structure import Group, Item, Repeat, Slice, Ungroup
from tdagger.types import DType, TensorType, ValueType, each_type


class Condition(NamedTuple):
    """What sizes must fulfil, and what to say if not: a number is "zero", "positive" (or 0), or "other" than 0."""

    number: Number
    kind: str
    message: str

    def holds(self, point: Point) -> bool:
        """Whether it does at some sizes; not where it divides by 0."""
        n = point.defined(self.number)
        return n is not None and {"zero": n == 0, "positive": n >= 0, "other": n != 0}[self.kind]


class FreeSizes(Sizes):
    """Sizes that are polynomials; what can't be decided for all of them becomes a condition."""

    def __init__(self, conditions: list[Condition]) -> None:
        super().__init__()
        self.conditions = conditions

    def divided(self, value: Number, known: Number, equation: Equation) -> Number:
        if isinstance(value, int) and isinstance(known, int):
            return super().divided(value, known, equation)
        exact = divided(value, known)
        if exact is not None:
            return exact
        rest = value % known
        why = f"the dimension {show_term(equation.term)} has {value} entries, which must be a multiple of {known}"
        self.conditions.append(Condition(rest, "zero", why))
        return value // known

    def check(self, value: Number, equation: Equation) -> None:
        mine = self.of(equation.term)
        if isinstance(value, int) and isinstance(mine, int):
            super().check(value, equation)
        elif value != mine:
            why = f"the dimension {show_term(equation.term)} has {mine} entries, which must be {value}"
            self.conditions.append(Condition(value - mine, "zero", why))


class Shaped:
    """A :class:`~tdagger.types.TensorType` whose sizes may be polynomials."""

    __slots__ = ("bytes", "dtype", "rank", "shape", "size")

    def __init__(self, shape: tuple[Number, ...], dtype: DType) -> None:
        self.shape, self.dtype, self.rank = shape, dtype, len(shape)
        self.size: Any = math.prod(cast(Any, shape))
        self.bytes: Any = self.size * dtype.bytes


class Node:
    """A value with sizes that may be polynomials: the rules of graphs and composites take it for a Value."""

    __slots__ = ("args", "op", "type")

    def __init__(self, op: Any, args: tuple[Node, ...], type_: Any) -> None:
        self.op, self.args, self.type = op, args, type_


class _Op:
    """Stands for an op whose rules have to be asked differently; its ``moves_nothing`` was found beforehand."""

    def __init__(self, op: Op | None, moves_nothing: bool) -> None:
        self.op = op
        self._moves_nothing = moves_nothing

    def flops(self, *types: Any) -> Any:
        return 0

    def moves_nothing(self, *types: Any) -> bool:
        return self._moves_nothing

    def reads(self, out: Any, *types: Any) -> tuple[Any, ...]:
        return (0,) if self.op is None else self.op.reads(out, *types)


class _Body:
    """Stands for a composite: its body with sizes that may be polynomials. Counts as the composite does."""

    def __init__(self, op: Composite, walk: Walk) -> None:
        self.definition = op.definition
        self.inputs = {k: walk.of[v] for k, v in walk.axes.graph.inputs.items()}
        self.outputs = {k: walk.of[v] for k, v in walk.axes.graph.outputs.items()}
        self.values = walk.nodes
        self.graph, self.of = walk.axes.graph, walk.of
        self._known: dict[str, Any] = {}

    def body(self, *types: Any) -> _Body:
        return self

    counted = body

    def flops(self, out: Any, *types: Any) -> Any:
        return self._once("flops", lambda: Composite.flops(cast(Any, self), out, *types))

    def moves_nothing(self, *types: Any) -> bool:
        return self._once("moves_nothing", lambda: Composite.moves_nothing(cast(Any, self), *types))

    def reads(self, out: Any, *types: Any) -> Any:
        return self._once("reads", lambda: Composite.reads(cast(Any, self), out, *types))

    def _once(self, what: str, count: Callable[[], Any]) -> Any:
        if what not in self._known:
            self._known[what] = count()
        return self._known[what]


class _Remade:
    """Stands for a composite at sizes that are numbers: its body is traced anew."""

    def __init__(self, op: Op, out: ValueType, types: tuple[TensorType, ...]) -> None:
        self.op, self.out, self.types = op, out, types
        self._reads: Any = None
        self._flops = -1

    def flops(self, *types: Any) -> int:
        if self._flops < 0:
            self._flops = self.op.flops(cast(TensorType, self.out), *self.types)
        return self._flops

    def moves_nothing(self, *types: Any) -> bool:
        return self.op.moves_nothing(*self.types)

    def reads(self, *types: Any) -> Any:
        if self._reads is None:
            self._reads = self.op.reads(cast(TensorType, self.out), *self.types)
        return self._reads


def _adapted(op: Composite, types: tuple[TensorType, ...], wanted: list[tuple[int, ...]]) -> _Remade | _Op | None:
    """What a composite's own rule makes of it at other sizes; None if it has none, or that isn't one op again."""
    if op.definition.adapt_rule is None or len(wanted) != 1:
        return None
    args = tuple([Input(f"x{i}", t)() for i, t in enumerate(types)])
    plan = tuple([Place(i, n) for i, n in enumerate(wanted[0])])
    found = op.definition.adapt_rule(op, args, plan)
    if args and found is args[0]:
        return _Op(None, True)
    if not isinstance(found, Value) or found.args != args or found.type.shape != wanted[0]:
        return None
    return _Remade(found.op, found.type, types)


class Branch:
    """Which sizes are taken to be equal: those that always are, and those that are at ``point``."""

    def __init__(self, point: Point | None = None) -> None:
        self.point = point
        #: Differences of sizes, and whether they were taken to be 0.
        self.taken: dict[Number, bool] = {}
        self.bodies: dict[Any, Any] = {}

    def equal(self, a: Number, b: Number) -> bool:
        """Whether two sizes are equal."""
        if a == b:
            return True
        difference = a - b
        if never_negative(difference - 1) or never_negative(-difference - 1):
            return False
        if difference not in self.taken:
            self.taken[difference] = self.point is not None and self.point.of(difference) == 0
        return self.taken[difference]

    def holds(self, point: Point) -> bool:
        """Whether what was taken to be so is so at ``point``."""
        return all((point.of(d) == 0) == taken for d, taken in self.taken.items())


class Walk:
    """The nodes of a graph, from the sizes of its axes: what the graph would hold at those sizes.

    With ``remake``, for sizes that are numbers, composites are traced anew at them, as they are in a resized graph.
    ``of`` has the node of each value, ``copies`` those of each value that is made of constants alone: one for each use
    that wants it at other sizes, none where another value's is the same.
    """

    def __init__(self, axes: Axes, sizes: Sizes, branch: Branch, remake: bool = False) -> None:
        self.axes = axes
        self.remake = remake
        self.sizes = sizes
        self.branch = branch
        self.nodes: list[Node] = []
        self.of: dict[Value, Node] = {}
        self.copies: dict[Value, list[Node]] = {}
        self._uses: dict[Axis, Number] = {}
        self._shared: dict[Any, list[Node]] = {}
        for value in axes.graph.values:
            if value not in axes.static:
                self.of[value] = self._add(value, self._arguments(value))
        for value in (*axes.graph.outputs.values(), *axes.graph.updates.values()):
            if value in axes.static:
                self.of[value] = self._static(value, {})

    def _size(self, term: Term) -> Number:
        if self._uses:
            return self.sizes.in_use(term, self._uses)
        return math.prod([self.sizes.known.get(a, a.size) for a in resolve(term)])

    def _shape(self, terms: Iterable[Term]) -> tuple[Number, ...]:
        return tuple(map(self._size, terms))

    def _type(self, value: Value) -> Any:
        pairs = zip(self.axes.of(value), result_types(value), strict=True)
        types = tuple([Shaped(self._shape(terms), t.dtype) for terms, t in pairs])
        return types[0] if is_one(value) else types

    def _add(self, value: Value, args: list[Node]) -> Node:
        type_ = args[0].type[value.op.index] if isinstance(value.op, Item) else self._type(value)
        node = Node(self._op(value, args, type_), tuple(args), type_)
        self.nodes.append(node)
        return node

    def _op(self, value: Value, args: list[Node], type_: Any) -> Any:
        op = value.op
        if isinstance(op, Composite):
            return self._composite(value, op, args, type_)
        if isinstance(op, Slice):
            forward = not any(b is not None and b[2] < 0 for b in op.bounds)
            same = all(self.branch.equal(m, n) for m, n in zip(args[0].type.shape, type_.shape, strict=True))
            return _Op(op, forward and same)
        if isinstance(op, External) and [a.type.shape for a in args] != [a.shape for a in value.args]:
            raise AxisError(f"there is no formula: what {op} gives at other sizes can't be told")
        return op

    # Arguments.

    def _arguments(self, value: Value) -> list[Node]:
        """The arguments with the sizes that ``value`` takes them with, or, as a resized graph has them, as they are."""
        given = [self._argument(value, i) for i in range(len(value.args))]
        if self.remake and may_broadcast(value) and not any(isinstance(n.type, tuple) for n in given):
            types = tuple([TensorType(n.type.shape, n.type.dtype) for n in given])
            if shapes_given(value.op, types) == [self._shape(terms) for terms in self.axes.of(value)]:
                return given
        return [self._as_taken(node, value, i) for i, node in enumerate(given)]

    def _argument(self, value: Value, i: int) -> Node:
        """An argument as it is."""
        arg = value.args[i]
        if arg in self.axes.static:
            shape = self._shape(self.axes.at(value, i))
            return self._static(arg, self.axes.uses(value, i, lambda copy: self._size((copy,)), shape))
        return self.of[arg]

    def _as_taken(self, node: Node, value: Value, i: int) -> Node:
        """An argument with the sizes that ``value`` takes it with."""
        return node if isinstance(node.type, tuple) else self._fitted(node, self._shape(self.axes.at(value, i)))

    def _fitted(self, node: Node, shape: tuple[Number, ...]) -> Node:
        """A node repeated to the sizes that are wanted; one for all who want the same."""
        if node.type.shape == shape:
            return node
        shared = self._shared.setdefault(("fitted", id(node)), [])
        for found in shared:
            if all(self.branch.equal(m, n) for m, n in zip(found.type.shape, shape, strict=True)):
                return found
        fitted = Node(_Op(None, True), (node,), Shaped(shape, node.type.dtype))
        self.nodes.append(fitted)
        shared.append(fitted)
        return fitted

    def _static(self, value: Value, uses: dict[Axis, Number]) -> Node:
        """Something made of constants alone, for one use of it; one node for all uses of the same sizes."""
        outer, self._uses = self._uses, uses
        made: dict[Value, Node] = {}
        for v in topological([value]):
            args: list[Node] = []
            for i, arg in enumerate(v.args):
                args.append(self._as_taken(made[arg], v, i))
            made[v] = self._same(v, args)
        self._uses = outer
        return made[value]

    def _same(self, value: Value, args: list[Node]) -> Node:
        """The node of a static value: the one there is, if it is the same."""
        op = value.op
        self.copies.setdefault(value, [])
        attributes = type(op) if isinstance(op, Iota | Repeat | Group | Ungroup) else op
        shared = self._shared.setdefault((attributes, *map(id, args)), [])
        type_ = args[0].type[op.index] if isinstance(op, Item) else self._type(value)
        for node in shared:
            if all(self._equal(s, t) for s, t in zip(each_type(node.type), each_type(type_), strict=True)):
                return node
        node = self._add(value, args)
        shared.append(node)
        self.copies[value].append(node)
        return node

    def _equal(self, a: Shaped, b: Shaped) -> bool:
        if a.rank != b.rank or a.dtype is not b.dtype:
            return False
        return all(self.branch.equal(m, n) for m, n in zip(a.shape, b.shape, strict=True))

    # Composites.

    def _remade(self, op: Composite, args: list[Node], type_: Any) -> _Remade | _Op:
        """A composite traced anew at sizes that are numbers."""
        types = tuple([TensorType(a.type.shape, a.type.dtype) for a in args])
        wanted = [t.shape for t in each_type(type_)]
        key = (op, types, tuple(wanted))
        if key not in self.branch.bodies:
            adapted = _adapted(op, types, wanted)
            if adapted is not None:
                self.branch.bodies[key] = adapted
                return adapted
            try:
                out = op.infer(*types)
            except (AttributeValueError, TypeMismatchError) as e:
                raise AxisError(f"{op} can't follow: {e}") from e
            if [t.shape for t in each_type(out)] != wanted:
                raise AxisError(f"{op} can't follow: on {', '.join(map(str, types))} it gives {out}, not {wanted}")
            self.branch.bodies[key] = _Remade(op, out, types)
        return self.branch.bodies[key]

    @nested
    def _composite(self, value: Value, op: Composite, args: list[Node], type_: Any) -> Any:
        if self.remake and [a.type.shape for a in args] != [a.shape for a in value.args]:
            return self._remade(op, args, type_)
        types = tuple([a.type for a in value.args])
        inner = body_axes(op, types, self.axes.assume_size_one)
        wanted: dict[Term, Number] = {}
        for axis, term in self.axes.inside.get(value, {}).items():
            wanted[resolve((axis,))] = self._size(term)
        ends = [(inner[v], a.type) for v, a in zip(inner.graph.inputs.values(), args, strict=True)]
        ends += [(inner[v], t) for v, t in zip(inner.graph.outputs.values(), each_type(type_), strict=True)]
        for terms, t in ends:
            for term, n in zip(terms, t.shape, strict=True):
                if term and not all((a,) in wanted for a in term):
                    wanted.setdefault(term, n)
        key = (op, types, self.axes.assume_size_one, tuple(wanted.values()))
        found = self.branch.bodies.get(key)
        if found is None:
            sizes = solve(inner, wanted, FreeSizes([]))
            found = self.branch.bodies[key] = _Body(op, Walk(inner, sizes, self.branch))
        return found
