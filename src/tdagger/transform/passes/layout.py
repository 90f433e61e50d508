"""Channels last and channels first: axes in another order from one border of a network to the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.graph import Graph, is_one, topological
from tdagger.library.block import block
from tdagger.library.conv import convolution, convolution_transpose
from tdagger.library.norm import group_norm, instance_norm
from tdagger.library.pool import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from tdagger.library.resize import interpolate
from tdagger.library.shape import pixel_shuffle, pixel_unshuffle
from tdagger.names import shown
from tdagger.network import N
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Binary, Bitcast, Cast, Unary, Where
from tdagger.ops.indexing import Argsort, Scan
from tdagger.ops.source import Const, Input, const
from tdagger.ops.structure import Concat, Fold, Group, Item, Pad, Permute, Reduce, Repeat, Slice, Unfold, Ungroup
from tdagger.transform.passes.rank import regrouped
from tdagger.transform.surgery.edit import Edit, finished
from tdagger.transform.surgery.select import near

#: Which axis stands at each place: axis ``i`` of what is there is axis ``order[i]`` of the value it stands for.
Order = tuple[int, ...]

#: What the channels of an image go last for.
SEEDS = (convolution, convolution_transpose)
#: Composites of an image ``[.. c spatial..]`` that say nothing of where its channels are, and how many axes are spatial.
IMAGES: dict[str, Any] = {
    **dict.fromkeys((f.name for f in SEEDS), lambda v: v.args[1].rank - 2),
    **dict.fromkeys((f.name for f in (max_pool, avg_pool)), lambda v: len(v.op.kernel)),
    **dict.fromkeys((f.name for f in (adaptive_avg_pool, adaptive_max_pool)), lambda v: len(v.op.size)),
    **dict.fromkeys((f.name for f in (pixel_shuffle, pixel_unshuffle)), lambda v: 2),
    **dict.fromkeys((f.name for f in (interpolate, group_norm, instance_norm)), lambda v: v.args[0].rank - 2),
}
#: What blocks are called that take an image with channels last: ``convolution_last``.
LAST = "_last"


def channels_last(dag: N, moved: Collection[str] = ()) -> N:
    """The network with the channels of images last: ``[.. spatial.. c]`` from the first convolution on.

    Transposes stand only at the borders: before the first convolution, and where something needs the axes as they were,
    results among that. Elementwise ops, norms, sums, pads, concats, transposes and reshapes follow. What takes an image
    with channels first by its definition is a ``block`` that is called ``convolution_last``, ``max_pool_last`` and so on:
    the transposes around it are its own, for a target to leave out. Weights stay as they are.

    Inputs and outputs are as before but those in ``moved``, by name: they have their second axis last. AttributeValueError
    if there is none of that name, or it has fewer than three axes.

    >>> import tdagger as td
    >>> x, w = td.input("x", (1, 3, 8, 8)), td.parameter("w", (4, 3, 1, 1))
    >>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.mean(td.relu(td.convolution(x, w)), axes=(2, 3))}))
    >>> [(td.op_counts([v]).most_common()[0][0], str(v.type)) for v in channels_last(dag).values if v.args]
    [('permute', 'f32[1 8 8 3]'), ('convolution_last', 'f32[1 8 8 4]'), ('relu', 'f32[1 8 8 4]'), ('mean', 'f32[1 4]')]
    >>> channels_first(channels_last(dag)).graph == dag.graph
    True
    """
    return _laid_out(dag, True, moved)


def channels_first(dag: N, moved: Collection[str] = ()) -> N:
    """The network with the channels of images first, where its convolutions have them: the inverse of channels_last.

    Blocks called ``..._last`` are what they are made of, and transposes that bring channels from last to first or back go
    on until they cancel. Inputs and outputs in ``moved`` have their last axis second.
    """
    return _laid_out(dag, False, moved)


def _laid_out(dag: N, last: bool, moved: Collection[str]) -> N:
    graph = dag.graph
    there = {**graph.inputs, **graph.outputs}
    for name in moved:
        if name not in there:
            raise AttributeValueError(f"{shown(dag.name)} has no input or output {name!r}{near(name, there)}")
        if there[name].rank < 3:
            raise AttributeValueError(f"{name!r}, {there[name].type}, is no image: it has fewer than three axes")
    start: dict[Value, Value] = {}
    orders: dict[Value, Any] = {}
    for name, value in graph.inputs.items():
        if name in moved:
            order = _moved(value.rank, last)
            orders[value] = order
            start[value] = Input(name, value.type.with_shape(tuple([value.shape[i] for i in order])))()
    edit = Edit(dag, start)
    walk = _Layouts(edit.new, orders, last)
    edit.run(walk)
    edit.run(walk, topological([c.value for c in dag.checks if c.value is not None]))
    if not walk.changed and not moved:
        return dag
    outputs = {
        n: walk.given(v, _moved(v.rank, last) if n in moved else tuple(range(v.rank))) for n, v in graph.outputs.items()
    }
    updates = {n: walk.given(v, tuple(range(v.rank))) for n, v in graph.updates.items()}
    for value, made in [*zip(graph.outputs.values(), outputs.values(), strict=True)]:
        edit.carry(made, value)
    checks = [c._replace(value=None if c.value is None else walk.given(c.value, ())) for c in dag.checks]
    after = edit.graph(outputs=outputs, updates=updates)
    return finished(dag, after, edit.origins, checks=checks)


def _moved(rank: int, last: bool) -> Order:
    """The second axis last, or the last one second."""
    return (0, *range(2, rank), 1) if last else (0, rank - 1, *range(1, rank - 1))


class _Layouts:
    """The rule: what stands for a value has its axes in an order of its own, ``orders``."""

    def __init__(self, new: Mapping[Value, Any], orders: dict[Value, Any], last: bool) -> None:
        self.new = new
        self.orders = orders
        self.last = last
        self.changed = False

    def order(self, value: Value) -> Order:
        found = self.orders.get(value)
        return tuple(range(value.rank)) if found is None else found

    def given(self, value: Value, order: Order) -> Value:
        """What stands for a value, with its axes in an order."""
        own = self.order(value)
        return laid(self.new[value], tuple([own.index(i) for i in order]))

    def __call__(self, value: Value, args: tuple[Any, ...]) -> Any:
        op = value.op
        if isinstance(op, Item):
            found = self.orders.get(value.args[0])
            if found is not None:
                self.orders[value] = found[op.index]
            return None
        turned = [a for a in value.args if a in self.orders and is_one(a)]
        seed = self.last and any(op.name == f.name for f in SEEDS)
        opened = not self.last and (_is_move(op) or (op.name == block.name and op.attributes["title"].endswith(LAST)))
        if not turned and not seed and not opened:
            return None
        self.changed = self.changed or seed or opened
        made = self._made(value, self.order(turned[0]) if turned else ())
        if made is None:  # it needs the axes as they were
            return op(*[self.given(a, tuple(range(a.rank))) if is_one(a) else self.new[a] for a in value.args])
        out, orders = made
        several = [tuple(o) for o in orders]
        if any(o != tuple(range(len(o))) for o in several):
            self.orders[value] = several[0] if is_one(value) else several
        return out

    def _made(self, value: Value, order: Order) -> tuple[Any, list[Order]] | None:
        """What stands for a value whose arguments have an order, and its order; None if it can't have one."""
        op = value.op
        if op.name in IMAGES and self.last:
            return self._image(value, IMAGES[op.name](value))
        if op.name == block.name and op.attributes["title"].endswith(LAST) and not self.last:
            return self._opened(value)
        if isinstance(op, Composite):
            return self._composite(value, op, order)
        made = self._structural(value, op, order)
        return None if made is None else (made[0], [made[1]])

    def _structural(self, value: Value, op: Op, order: Order) -> tuple[Value, Order] | None:
        x = self.new[value.args[0]]
        match op:
            case Unary() | Binary() | Where() | Cast() | Bitcast():
                return op(*[self.given(a, order) for a in value.args]), order
            case Permute():
                own = self.order(value.args[0])
                return x, tuple([op.order.index(i) for i in own])
            case Slice():
                return Slice(tuple([op.bounds[i] for i in order]))(x), order
            case Pad():
                return Pad(tuple([op.widths[i] for i in order]), op.value)(x), order
            case Repeat():
                return Repeat(tuple([op.sizes[i] for i in order]))(x), order
            case Reduce():
                return Reduce(op.kind, tuple(sorted(order.index(i) for i in op.axes)))(x), order
            case Concat() | Unfold() | Fold() | Argsort() | Scan():
                small = cast(Any, type(op))(**{**op.attributes, "axis": order.index(op.axis)})
                return small(*[self.given(a, order) for a in value.args]), order
            case Group():
                return _grouped(op, x, order)
            case Ungroup():
                ends = [sum(map(len, op.sizes[:i])) for i in range(len(op.sizes))]
                after = [ends[i] + j for i in order for j in range(len(op.sizes[i]))]
                return Ungroup(tuple([op.sizes[i] for i in order]))(x), tuple(after)
            case _:
                return None

    def _image(self, value: Value, spatial: int) -> tuple[Any, list[Order]] | None:
        """A block on the image with channels last, around the op on the image with channels first."""
        x, *rest = value.args
        lead = x.rank - spatial - 1
        if lead < 0:
            return None
        order = (*range(lead), *range(lead + 1, x.rank), lead)
        if value.rank != x.rank or any(is_one(a) and a in self.orders for a in rest):
            return None
        image = self.given(x, order)
        others: list[Value] = [self.new[a] for a in rest]
        names = {f"x{i}": Input(f"x{i}", a.type)() for i, a in enumerate((image, *others))}
        first, *more = names.values()
        out = Permute(order)(value.op(Permute(_inverse(order))(first), *more))
        graph = Graph(names, {"y0": out}, name=value.op.name)
        return block(image, *others, title=f"{value.op.name}{LAST}", graph=graph), [order]

    def _opened(self, value: Value) -> tuple[Any, list[Order]]:
        """What a block is made of."""
        graph: Graph = cast(Any, value.op).attributes["graph"]
        inner = dict(zip(graph.inputs.values(), (self.new[a] for a in value.args), strict=True))
        orders = {
            v: self.orders[a]
            for v, a in zip(graph.inputs.values(), value.args, strict=True)
            if a in self.orders
        }  # fmt: skip
        results = _walked(graph, inner, orders, self.last)
        return (results[0][0] if is_one(value) else tuple([r for r, _ in results])), [o for _, o in results]

    def _composite(self, value: Value, op: Composite, order: Order) -> tuple[Any, list[Order]] | None:
        """The composite with attributes for axes in that order, if its body then is the body in that order."""
        args = [
            self.given(a, order) if a.rank == len(order) else self.given(a, tuple(range(a.rank))) for a in value.args
        ]
        given = tuple([order if a.rank == len(order) else tuple(range(a.rank)) for a in value.args])
        types = tuple([a.type for a in value.args])
        key = (_Layouts, types, order)
        if key not in op.found:
            op.found[key] = _turned(op, types, given, order, tuple([a.type for a in args]))
        found: tuple[Op, list[Order]] | None = op.found[key]
        if found is None:
            return None
        made = found[0](*args)
        return (made, found[1])


def _walked(graph: Graph, start: dict[Value, Any], orders: dict[Value, Any], last: bool) -> list[tuple[Value, Order]]:
    """What stands for the results of a graph where ``start`` stands for its inputs, in their orders."""
    new = dict(start)
    walk = _Layouts(new, orders, last)
    for value in graph.values:
        if value not in new:
            args = tuple([new[a] for a in value.args])
            made = walk(value, args)
            new[value] = value.op(*args) if made is None else made
    return [(new[v], walk.order(v)) for v in graph.outputs.values()]


def _turned(
    op: Composite, types: Sequence[Any], given: Sequence[Order], order: Order, now: Sequence[Any]
) -> tuple[Op, list[Order]] | None:
    """A composite that on arguments in an order does what ``op`` does, and the orders of its results."""
    body = op.body(*types)
    names = [Input(n, t)() for n, t in zip(body.inputs, now, strict=True)]
    start = dict(zip(body.inputs.values(), names, strict=True))
    orders = {v: o for v, o in zip(body.inputs.values(), given, strict=True) if o != tuple(range(len(o)))}
    results = _walked(body, dict(start), dict(orders), True)
    for candidate in _candidates(op, order):
        try:
            there = list(candidate.body(*now).outputs.values())
        except (AttributeValueError, TypeMismatchError):
            continue
        if there == [v for v, _ in results]:
            return candidate, [o for _, o in results]
    return None


def _candidates(op: Composite, order: Order) -> Iterator[Composite]:
    """The composite with the attributes it may have where axes are in another order; its own last."""
    own = op.attributes
    made = dict(own)
    for name, value in own.items():
        if name == "axis" and isinstance(value, int) and value < len(order):
            made[name] = order.index(value)
        elif name == "axes" and isinstance(value, tuple):
            made[name] = tuple(sorted(order.index(a) for a in cast("tuple[int, ...]", value)))
        elif isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) == len(order):
            made[name] = tuple([value[i] for i in order])
    for attributes in (made, own):
        yield cast(Any, type(op))(*attributes.values(), op.given)


def _grouped(op: Group, x: Value, order: Order) -> tuple[Value, Order] | None:
    """A group of axes that lie side by side in their order still; None if they don't."""
    if 0 in op.counts:
        return None
    into = [i for i, n in enumerate(op.counts) for _ in range(n)]
    after = list(dict.fromkeys(into[i] for i in order))
    if [a for i in after for a in range(len(into)) if into[a] == i] != list(order):
        return None
    return Group(tuple([op.counts[i] for i in after]))(x), tuple(after)


def _is_move(op: Op) -> bool:
    """Whether it brings one axis last, or the last one somewhere, of three or more."""
    if not isinstance(op, Permute) or len(op.order) < 3:
        return False
    rank = len(op.order)
    lasts = [(*range(i), *range(i + 1, rank), i) for i in range(rank - 1)]
    return op.order in lasts or _inverse(op.order) in lasts


def _inverse(order: Order) -> Order:
    return tuple([order.index(i) for i in range(len(order))])


def laid(value: Value, order: Order) -> Value:
    """A value with its axes in another order, with a transpose only where one is needed.

    >>> import tdagger as td
    >>> x = td.input("x", (4,))
    >>> laid(td.repeat(td.ungroup(x, 0, (1, 4, 1)), (2, None, 3)), (0, 2, 1))
    <repeat(sizes=(2, 3, None))(f32[1 1 4]) -> f32[2 3 4]>
    """
    if order == tuple(range(len(order))):
        return value
    op = value.op
    if isinstance(op, Permute):
        return laid(value.args[0], tuple([op.order[i] for i in order]))
    if isinstance(op, Repeat):
        return Repeat(tuple([op.sizes[i] for i in order]))(laid(value.args[0], order))
    if isinstance(op, Const):
        return const(op.data.transpose(order), value.dtype)
    kept = [i for i in order if value.shape[i] != 1]
    if kept == sorted(kept):
        return regrouped(value, tuple([value.shape[i] for i in order]))
    return Permute(order)(value)
