"""No tensor of more than so many axes: axes that lie side by side and are only carried go as one."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.sizes import Sizes
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError, UnsupportedError
from tdagger.graph import Graph, is_one, result_types, topological
from tdagger.library.shape import reshape
from tdagger.names import shown
from tdagger.network import N
from tdagger.op import Op, Terms, Value
from tdagger.ops.elementwise import POINTWISE
from tdagger.ops.external import External
from tdagger.ops.indexing import Argsort, Gather, Scan, Scatter
from tdagger.ops.source import Const, Input, Leaf, Random, const
from tdagger.ops.structure import Concat, Fold, Group, Item, Pad, Permute, Reduce, Repeat, Slice, Unfold, Ungroup
from tdagger.transform.axes.change import Change
from tdagger.transform.axes.unbatch import unbatch
from tdagger.transform.surgery.edit import Edit, finished
from tdagger.types import Shape, TensorType, each_type

#: What is left of an op that has one axis are the entries before it, along it and after it.
_ONE_AXIS = (Concat, Unfold, Fold, Argsort, Scan)


def to_rank(dag: N, limit: int) -> N:
    """The network without tensors of more than ``limit`` axes: data is moved in other pieces, numbers stay.

    Neighbouring axes that an op only carries are grouped for it, and what still touches too many is done in steps: a
    permutation of six axes as one or several of four. Composites keep their names and take grouped axes where they can.
    Sums over axes that aren't neighbours may be rounded in another order; everything else stays to the bit. The bodies
    of composites aren't looked into. Shapes become numbers: change sizes before.

    AttributeValueError if ``limit`` is less than 4. UnsupportedError names all that can't be had, each with its module
    and line: inputs, outputs and weights of more axes (they stay what they are), composites that work on more axes, and
    ops of a framework.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 8, 8, 3))
    >>> windows = td.ungroup(td.ungroup(x, 1, (2, 4)), 3, (2, 4))
    >>> y = td.group(td.permute(windows, (0, 1, 3, 2, 4, 5)), (3, 1, 1, 1))
    >>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    >>> [str(v.type) for v in to_rank(dag, 4).values]
    ['f32[2 8 8 3]', 'f32[4 4 2 12]', 'f32[4 2 4 12]', 'f32[8 4 4 3]']
    """
    if limit < 4:
        raise AttributeValueError(f"to_rank: two axes can't be exchanged among others with fewer than 4, got {limit}")
    if all(t.rank <= limit for v in dag.graph.values for t in result_types(v)):
        return dag
    edit = Edit(dag)
    walk = _Ranks(edit, limit)
    edit.run(walk)
    edit.run(walk, topological([c.value for c in dag.checks if c.value is not None]))
    for kind, values in (("output", dag.graph.outputs), ("the new value of buffer", dag.graph.updates)):
        for name, value in values.items():
            if value.rank > limit:
                walk.refuse(value, f"is {kind} {shown(name)!r}, which stays what it is")
    if walk.refused:
        lines = "\n".join(f"  {line}" for line in walk.refused)
        raise UnsupportedError(
            f"{shown(dag.name)} can't do with {limit} axes, for {len(walk.refused)} values:\n{lines}"
        )
    return finished(dag, edit.graph(), edit.origins, checks=edit.checks())


def regrouped(value: Value, shape: Sequence[int]) -> Value:
    """The same entries in another shape, with one reshape.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 6))
    >>> regrouped(td.group(td.ungroup(x, 1, (2, 3)), (2, 1)), (2, 6)) is x
    True
    """
    while value.shape != tuple(shape) and value.op.name in ("group", "ungroup", "reshape"):
        value = value.args[0]
    return reshape(value, shape=shape)


class _Refusal(Exception):
    """Why an op can't be had with fewer axes."""


class _Ranks:
    """The rule: what stands for a value of too many axes has its entries in their order, in another shape."""

    def __init__(self, edit: Edit, limit: int) -> None:
        self.edit = edit
        self.limit = limit
        self.refused: list[str] = []

    def refuse(self, value: Value, why: str) -> None:
        self.refused.append(f"{value!r}{self.edit.where(value)} {why}")

    def __call__(self, value: Value, args: tuple[Any, ...]) -> Any:
        types = [*result_types(value), *(t for a in value.args for t in each_type(a.type))]
        if all(t.rank <= self.limit for t in types) and not isinstance(value.op, Item):
            return None
        try:
            made = self._made(value, value.op, args)
        except _Refusal as e:
            self.refuse(value, str(e))
            unknown = tuple([self._unknown(t) for t in result_types(value)])  # so that the others are found too
            made = unknown[0] if is_one(value) else unknown
        if not is_one(value) or value.rank > self.limit:
            return made
        return regrouped(cast(Value, made), value.shape)

    def _unknown(self, type_: TensorType) -> Value:
        return Input("unknown", type_.with_shape(self._low(type_.shape)))()

    def _low(self, shape: Shape) -> Shape:
        """Some shape of the same entries."""
        keep = self.limit - 1
        return shape if len(shape) <= self.limit else (*shape[:keep], math.prod(shape[keep:]))

    def _made(self, value: Value, op: Op, args: tuple[Any, ...]) -> Any:
        if isinstance(op, Item):
            return cast(Any, args[0])[op.index] if isinstance(args[0], tuple) else op(args[0])
        if isinstance(op, Leaf):
            raise _Refusal("stays what it is")
        if isinstance(op, External):
            raise _Refusal(f"is an op of {op.framework}, of which nothing is known")
        if isinstance(op, Const):
            return const(op.data.reshape(self._low(op.shape)), value.dtype)
        if isinstance(op, Random):
            return Random(self._low(op.shape))(*args)
        if isinstance(op, Group | Ungroup) or op.name == "reshape":
            return args[0]
        if isinstance(op, POINTWISE):
            like = next((a for a in args if isinstance(a.op, Repeat)), args[0])  # repeats stay views
            return op(*[regrouped(a, like.shape) for a in args])
        if isinstance(op, Composite):
            return self._composite(value, op, args)
        return self._structural(value, op, args)

    def _structural(self, value: Value, op: Op, args: tuple[Value, ...]) -> Value:
        x, shape = args[0], value.args[0].shape
        if isinstance(op, Permute):
            return self._permuted(x, shape, op.order)
        if isinstance(op, Reduce):
            return self._reduced(x, shape, op)
        if isinstance(op, Slice):
            return self._axis_by_axis(x, shape, op.bounds, Slice)
        if isinstance(op, Pad):
            return self._axis_by_axis(x, shape, op.widths, functools.partial(Pad, value=op.value))
        if isinstance(op, Repeat):
            return self._axis_by_axis(x, shape, op.sizes, Repeat)
        if isinstance(op, _ONE_AXIS):
            pairs = zip(args, value.args, strict=True)
            return _again(op, axis=1)(*[regrouped(a, _around(v.shape, op.axis)) for a, v in pairs])
        if isinstance(op, Gather | Scatter):
            return self._indexed(value, op, args)
        raise _Refusal("is an op of which it isn't known what it does to axes")

    def _axis_by_axis(self, x: Value, shape: Shape, each: Sequence[Any], make: Any) -> Value:
        """An op that has something for some axes, None for the others: at once if that is possible, else one by one."""
        touched = [i for i, e in enumerate(each) if e is not None]
        pieces = _pieces(len(shape), touched)
        if len(pieces) > self.limit:
            for i in touched:
                only = [e if i == j else None for j, e in enumerate(each)]
                x, shape = self._on(x, shape, _pieces(len(shape), [i]), only, make)
            return x
        return self._on(x, shape, pieces, each, make)[0]

    def _on(
        self, x: Value, shape: Shape, pieces: list[list[int]], each: Sequence[Any], make: Any
    ) -> tuple[Value, Shape]:
        """The op on grouped axes, and the shape of what it gives with all axes."""
        made = make(tuple([each[p[0]] for p in pieces]))(regrouped(x, _shape_of(shape, pieces)))
        after = dict(zip((p[0] for p in pieces), made.shape, strict=True))
        return made, tuple([n if e is None else after[i] for i, (n, e) in enumerate(zip(shape, each, strict=True))])

    def _permuted(self, x: Value, shape: Shape, order: Sequence[int]) -> Value:
        real = [i for i, n in enumerate(shape) if n != 1]
        sizes = [shape[i] for i in real]
        for blocks, moved in permutations(tuple([real.index(i) for i in order if shape[i] != 1]), self.limit):
            x = Permute(moved)(regrouped(x, [math.prod(sizes[i] for i in b) for b in blocks]))
            sizes = [sizes[i] for m in moved for i in blocks[m]]
        return x

    def _reduced(self, x: Value, shape: Shape, op: Reduce) -> Value:
        """Over what lies side by side as over one axis; what doesn't is laid side by side first, if it is too much."""
        pieces = _pieces(len(shape), op.axes, together=True)
        if len(pieces) <= self.limit:
            x = regrouped(x, _shape_of(shape, pieces))
            return Reduce(op.kind, tuple(i for i, p in enumerate(pieces) if p[0] in op.axes))(x)
        kept = [i for i in range(len(shape)) if i not in op.axes]
        x = self._permuted(x, shape, [*kept, *op.axes])
        sizes = [math.prod(shape[i] for i in axes) for axes in (kept, op.axes)]
        return Reduce(op.kind, (1,))(regrouped(x, sizes))

    def _indexed(self, value: Value, op: Gather | Scatter, args: tuple[Value, ...]) -> Value:
        x, index = (a.shape for a in value.args[:2])
        b, axis = op.batch, op.axis
        batch = [math.prod(x[:b])] if b else []
        before, along, after = ([math.prod(s)] for s in (x[b:axis], index[b:], x[axis + 1 :]))
        shapes = [[*batch, *before, x[axis], *after], [*batch, *along], [*batch, *before, *along, *after]]
        small = _again(op, axis=len(batch) + 1, batch=len(batch))
        return small(*[regrouped(a, s) for a, s in zip(args, shapes, strict=False)])

    def _composite(self, value: Value, op: Composite, args: tuple[Value, ...]) -> Any:
        small, shapes = _grouped(op, tuple([a.type for a in value.args]))
        given = [regrouped(a, s) for a, s in zip(args, shapes, strict=True)]
        made = small(*given)
        most = max(t.rank for v in (*given, made) for t in each_type(v.type))
        if most > self.limit:
            raise _Refusal(f"works on {most} axes; dag.inline({op.name!r}) takes it apart")
        if is_one(made):
            return made
        pairs = zip([Item(i)(made) for i in range(len(result_types(made)))], result_types(value), strict=True)
        return tuple([regrouped(r, t.shape) if t.rank <= self.limit else r for r, t in pairs])


def _again(op: Op, **attributes: Any) -> Op:
    """The op with other attributes."""
    return cast(Any, type(op))(**{**op.attributes, **attributes})


def _around(shape: Shape, axis: int) -> Shape:
    """What is before an axis, the axis, and what is after it."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _pieces(rank: int, touched: Sequence[int], together: bool = False) -> list[list[int]]:
    """The axes in pieces: those touched alone (or with neighbours that are touched), neighbours that aren't together.

    >>> _pieces(5, [2, 3]), _pieces(5, [2, 3], together=True)
    ([[0, 1], [2], [3], [4]], [[0, 1], [2, 3], [4]])
    """
    pieces: list[list[int]] = []
    for i in range(rank):
        last = pieces[-1][-1] in touched if pieces else None
        if last is (i in touched) and (together or i not in touched):
            pieces[-1].append(i)
        else:
            pieces.append([i])
    return pieces


def _shape_of(shape: Shape, pieces: list[list[int]]) -> Shape:
    return tuple([math.prod(shape[i] for i in p) for p in pieces])


# --- permutations ------------------------------------------------------------------------------------------

#: Axes in pieces, and the order these are put in.
Step = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]


@functools.lru_cache(maxsize=1024)
def permutations(order: tuple[int, ...], limit: int) -> list[Step]:
    """Steps that reorder axes in all as ``order`` says, none of which moves more than ``limit`` groups of them.

    Every step takes the axes as the one before left them.

    >>> permutations((0, 1, 3, 2, 4, 5), 4)
    [(((0, 1), (2,), (3,), (4, 5)), (0, 2, 1, 3))]
    >>> [moved for _, moved in permutations((5, 4, 3, 2, 1, 0), 4)]
    [(2, 1, 0, 3), (3, 2, 1, 0)]
    """
    places = [order.index(i) for i in range(len(order))]  # where each axis is to come
    steps: list[Step] = []
    while True:
        cuts = [i for i in range(1, len(places)) if places[i] != places[i - 1] + 1]
        if not cuts:
            return steps
        best: tuple[int, int, Step, list[int]] | None = None
        for count in range(1, limit):
            for chosen in itertools.combinations(cuts, count):
                bounds = [0, *chosen, len(places)]
                blocks = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(bounds))
                for moved in itertools.permutations(range(len(blocks))):
                    after = [places[i] for m in moved for i in blocks[m]]
                    left = sum(b != a + 1 for a, b in itertools.pairwise(after))
                    if best is None or (left, count) < best[:2]:
                        best = (left, count, (blocks, moved), after)
        assert best is not None
        steps.append(best[2])
        places = best[3]


# --- composites --------------------------------------------------------------------------------------------


def lowest_rank(op: Composite, types: tuple[TensorType, ...]) -> int:
    """Most axes of what a composite takes and gives, with all axes that it only carries grouped."""
    small, shapes = _grouped(op, types)
    made = small.infer(*[t.with_shape(s) for t, s in zip(types, shapes, strict=True)])
    return max([len(s) for s in shapes] + [t.rank for t in each_type(made)])


class _Small(NamedTuple):
    """An op on grouped axes, and the shapes of its arguments."""

    op: Op
    shapes: tuple[Shape, ...]


def _grouped(op: Composite, types: tuple[TensorType, ...]) -> _Small:
    """The composite with all axes that it only carries grouped: one is as long as all, the others are gone.

    That is an axis removed and another resized, so that how attributes follow is what these know.
    """
    key = (_grouped, types)
    if key not in op.found:
        op.found[key] = _group(op, types)
    return op.found[key]


def _group(op: Composite, types: tuple[TensorType, ...]) -> _Small:
    same = _Small(op, tuple([t.shape for t in types]))
    if op.has_branches:
        return same
    names = {f"x{i}": Input(f"x{i}", t)() for i, t in enumerate(types)}
    result = op(*names.values())
    results = [result] if is_one(result) else [Item(i)(result) for i in range(len(result_types(result)))]
    graph = Graph(names, {f"y{i}": v for i, v in enumerate(results)})
    axes = Axes(graph)
    tensors = [*axes.inputs, *axes.results]
    carried = _carried(axes, tensors)
    sizes, gone = Sizes(), set[Axis]()
    for run in _runs(carried, tensors):
        sizes.known[run[-1]] = math.prod(a.size for a in run)
        gone.update(run[:-1])
    if not gone:
        return same
    try:
        changed = Change(axes, sizes, frozenset(gone)).run()
    except (AxisError, AttributeValueError, TypeMismatchError):
        return same
    inputs = list(changed.inputs.values())
    made = [v for v in changed.values if not isinstance(v.op, Input | Item)]
    if len(made) != 1 or made[0].op.name != op.name or list(made[0].args) != inputs:
        return same
    return _Small(made[0].op, tuple([v.shape for v in inputs]))


def _carried(axes: Axes, tensors: Sequence[Terms]) -> set[Axis]:
    """The axes that stand alone as dimensions wherever they are, and that nothing is done to."""
    found: set[Axis] = set()
    terms = [resolve(term) for tensor in tensors for term in tensor]
    for axis in {term[0] for term in terms if len(term) == 1}:
        if all(term == (axis,) for term in terms if axis in term):
            try:
                unbatch(axes, [axis])
            except AxisError:
                continue
            found.add(axis)
    return found


def _runs(carried: set[Axis], tensors: Sequence[Terms]) -> list[list[Axis]]:
    """Axes that lie side by side, in one order, in every tensor that has one of them."""
    after: dict[Axis, set[Any]] = {}
    before: dict[Axis, set[Any]] = {}
    for tensor in tensors:
        row = [resolve(term)[0] if len(resolve(term)) == 1 else None for term in tensor]
        for a, b in itertools.pairwise([None, *row, None]):
            if a is not None:
                after.setdefault(a, set()).add(b)
            if b is not None:
                before.setdefault(b, set()).add(a)
    following = {
        a: b for a, (b, *more) in after.items()
        if not more and a in carried and b in carried and before[b] == {a}
    }  # fmt: skip
    runs: list[list[Axis]] = []
    for start in set(following) - set(following.values()):
        run = [start]
        while run[-1] in following:
            run.append(following[run[-1]])
        runs.append(run)
    return runs
