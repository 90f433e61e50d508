"""Channels last and channels first: axes in another order from one border of a network to the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, is_one, rebuild, topological
from tdagger.library.block import block
from tdagger.library.conv import convolution, convolution_transpose
from tdagger.library.norm import group_norm, instance_norm
from tdagger.library.pool import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from tdagger.library.resize import interpolate
from tdagger.library.shape import pixel_shuffle, pixel_unshuffle, reshape
from tdagger.names import shown
from tdagger.network import N, Network
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Binary, Bitcast, Cast, Unary, Where
from tdagger.ops.indexing import Argsort, Gather, Scan
from tdagger.ops.source import Const, Input, const
from tdagger.ops.structure import Concat, Fold, Group, Item, Pad, Permute, Reduce, Repeat, Slice, Unfold, Ungroup
from tdagger.transform.passes.rank import regrouped
from tdagger.transform.surgery.edit import Edit, each, finished
from tdagger.transform.surgery.select import near

#: Which axis stands at each place: axis ``i`` of what is there is axis ``order[i]`` of the value it stands for.
Order = tuple[int, ...]

#: What the channels of an image go last for; adaptive pools to more than one entry too.
SEEDS = (convolution.name, convolution_transpose.name, max_pool.name, avg_pool.name, interpolate.name)


def _of_weight(value: Value) -> int:
    return value.args[1].rank - 2


def _of_kernel(value: Value) -> int:
    return len(cast(Any, value.op).kernel)


def _of_size(value: Value) -> int:
    return len(cast(Any, value.op).size)


def _two(value: Value) -> int:
    return 2


def _all_but_two(value: Value) -> int:
    return value.args[0].rank - 2


#: Composites of an image ``[.. c spatial..]`` that hold to its axes being there, and how many are spatial.
IMAGES: dict[str, Callable[[Value], int]] = {
    **dict.fromkeys((convolution.name, convolution_transpose.name), _of_weight),
    **dict.fromkeys((max_pool.name, avg_pool.name), _of_kernel),
    **dict.fromkeys((adaptive_avg_pool.name, adaptive_max_pool.name), _of_size),
    **dict.fromkeys((pixel_shuffle.name, pixel_unshuffle.name), _two),
    interpolate.name: _of_size,
    **dict.fromkeys((group_norm.name, instance_norm.name), _all_but_two),
}


def _begins(value: Value) -> bool:
    """Whether the channels of an image go last for what it is."""
    name = value.op.name
    adaptive = name in (adaptive_avg_pool.name, adaptive_max_pool.name)
    return name in SEEDS or (adaptive and any(n != 1 for n in cast(Any, value.op).size))


#: What blocks are called that take an image with channels last: ``convolution_last``.
LAST = "_last"


def channels_last(dag: N, moved: Collection[str] = ()) -> N:
    """The network with the channels of images last: ``[.. spatial.. c]`` from the first convolution, pool or resize on.

    Transposes stand only at the borders: before the first of these, and where something needs the axes as they were,
    results among that. Elementwise ops, norms, sums, pads, concats, transposes and reshapes follow. What takes an image
    with channels first by its definition is a ``block`` that is called ``convolution_last``, ``max_pool_last`` and so
    on: the transposes around it are its own, for a target to leave out. Weights stay as they are.

    Inputs and outputs are as before but those in ``moved``, by name: they have their second axis last.
    AttributeValueError if there is none of that name, or it has fewer than three axes.

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

    Blocks called ``..._last`` are what they are made of, and transposes that bring channels last go on until they meet
    their inverse. Inputs and outputs in ``moved`` have their last axis second.
    """
    return _laid_out(dag, False, moved)


def with_channels_first(dag: Network, smallest: int = 0) -> tuple[Graph, dict[Value, Value]]:
    """The graph that channels_first gives, and for each of its values one of the network that it was made for.

    What has fewer axes than ``smallest`` (tokens that images are made of) stays as it was.
    """
    edit = Edit(dag)
    walk = _Layouts(edit.new, {}, last=False, smallest=smallest)
    edit.run(walk)
    ends = ({n: walk.as_it_was(v) for n, v in d.items()} for d in (dag.graph.outputs, dag.graph.updates))
    after = edit.graph(None, *ends)
    owner: dict[Value, Value] = {}
    for old, new in edit.new.items():
        for value in each(new):
            owner.setdefault(value, old)
    for value in after.values:
        if value not in owner and value.args:  # a transpose
            owner[value] = owner[value.args[0]]
    return after, owner


def _laid_out(dag: N, last: bool, moved: Collection[str]) -> N:
    graph = dag.graph
    lead = _in_rows(graph) if last else frozenset[Value]()
    if last and not moved and not lead and not any(map(_begins, graph.values)):
        return dag
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
    walk = _Layouts(edit.new, orders, last, lead=lead)
    edit.run(walk)
    edit.run(walk, topological([c.value for c in dag.checks if c.value is not None]))
    outputs = {
        n: walk.given(v, _moved(v.rank, last)) if n in moved else walk.as_it_was(v) for n, v in graph.outputs.items()
    }
    updates = {n: walk.as_it_was(v) for n, v in graph.updates.items()}
    for name, value in graph.outputs.items():
        edit.carry(outputs[name], value)
    checks = [c if c.value is None else c._replace(value=walk.as_it_was(c.value)) for c in dag.checks]
    after = edit.graph(outputs=outputs, updates=updates)
    return dag if after == graph else finished(dag, after, edit.origins, checks=checks)


def _moved(rank: int, last: bool) -> Order:
    """The second axis last, or the last one second."""
    return (0, *range(2, rank), 1) if last else (0, rank - 1, *range(1, rank - 1))


class _Layouts:
    """The rule: what stands for a value has its axes in an order of its own, ``orders``."""

    def __init__(
        self,
        new: Mapping[Value, Any],
        orders: dict[Value, Any],
        last: bool,
        least: int = 4,
        lead: Collection[Value] = (),
        smallest: int = 0,
    ) -> None:
        self.new = new
        self.smallest = smallest
        self.orders = orders
        self.last = last
        self.least = least
        self.lead = lead

    def order(self, value: Value) -> Order:
        found = self.orders.get(value)
        return tuple(range(value.rank)) if found is None else found

    def given(self, value: Value, order: Order) -> Value:
        """What stands for a value, with its axes in an order."""
        own = self.order(value)
        return laid(self.new[value], tuple([own.index(i) for i in order]))

    def as_it_was(self, value: Value) -> Value:
        """What stands for a value, with its axes in the order they had."""
        return self.given(value, tuple(range(value.rank)))

    def __call__(self, value: Value, args: tuple[Any, ...]) -> Any:
        op = value.op
        if isinstance(op, Item):
            found = self.orders.get(value.args[0])
            if found is not None:
                self.orders[value] = found[op.index]
            return None
        turned = [a for a in value.args if a in self.orders and is_one(a)]
        seed = self.last and _begins(value)
        opened = value in self.lead or _is_move(op, self.last, self.least) or (not self.last and _is_block(op))
        if not turned and not seed and not opened:
            return laid(args[0], op.order) if isinstance(op, Permute) and isinstance(args[0].op, Permute) else None
        made = self._made(value, self.order(turned[0]) if turned else ())
        if made is None:  # it needs the axes as they were
            return op(*[self.as_it_was(a) if is_one(a) else self.new[a] for a in value.args])
        out, orders = made
        several = [tuple(o) for o in orders]
        if is_one(value) and value.rank < self.smallest:
            return laid(out, _inverse(several[0]))
        if any(o != tuple(range(len(o))) for o in several):
            self.orders[value] = several[0] if is_one(value) else several
        return out

    def _made(self, value: Value, order: Order) -> tuple[Any, list[Order]] | None:
        """What stands for a value whose arguments have an order, and its order; None if it can't have one."""
        op = value.op
        if op.name in IMAGES and self.last:
            return self._image(value, IMAGES[op.name](value))
        if _is_block(op) and not self.last:
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
            case Gather():
                return self._gathered(value, op, x)
            case Group():
                return _grouped(op, x, value.args[0].shape, order)
            case Ungroup():
                ends = [sum(map(len, op.sizes[:i])) for i in range(len(op.sizes))]
                after = [ends[i] + j for i in order for j in range(len(op.sizes[i]))]
                return Ungroup(tuple([op.sizes[i] for i in order]))(x), tuple(after)
            case _:
                return None

    def _gathered(self, value: Value, op: Gather, x: Value) -> tuple[Value, Order] | None:
        """Along the axis where it is now; those of the index stand there."""
        order, count = self.order(value.args[0]), value.args[1].rank - op.batch
        if order[: op.batch] != tuple(range(op.batch)):
            return None
        after = [range(op.axis, op.axis + count) if i == op.axis else [i if i < op.axis else i + count - 1]
                 for i in order]  # fmt: skip
        made = Gather(order.index(op.axis), op.batch)(x, self.as_it_was(value.args[1]))
        return made, tuple([i for axes in after for i in axes])

    def _image(self, value: Value, spatial: int) -> tuple[Any, list[Order]] | None:
        """A block on the image with channels last, around the op on the image with channels first."""
        x, *rest = value.args
        lead = x.rank - spatial - 1
        if lead < 0:
            return None
        order = (*range(lead), *range(lead + 1, x.rank), lead)
        if value.rank != x.rank:
            return None
        image = self.given(x, order)
        others = [self.as_it_was(a) for a in rest]
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
        given = tuple([order if a.rank == len(order) else tuple(range(a.rank)) for a in value.args])
        args = [self.given(a, o) for a, o in zip(value.args, given, strict=True)]
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
    walk = _Layouts(new, orders, last, 2)
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
    results = _walked(body, start, orders, True)
    wanted = _plain([v for v, _ in results])
    for candidate in _candidates(op, order):
        try:
            there = _plain(candidate.body(*now).outputs.values())
        except (TypeError, ValueError, IndexError, ArithmeticError):  # the attributes are a guess
            continue
        if there == wanted:
            return candidate, [o for _, o in results]
    return None


def _plain(results: Iterable[Value]) -> list[Value]:
    """Values made with one reshape where there are several in a row, so that these can be compared."""

    def rule(value: Value) -> Value | None:
        base = value
        while base.op.name in ("group", "ungroup", "reshape"):
            base = base.args[0]
        return None if base is value else reshape(base, shape=value.shape)

    values = list(results)
    inputs = {v.op.leaf: v for v in topological(values) if isinstance(v.op, Input)}
    _, new = rebuild(Graph(inputs, {str(i): v for i, v in enumerate(values)}), rule)
    return [new[v] for v in values]


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
            made[name] = tuple([cast(Any, value)[i] for i in order])
    for attributes in (made, own):
        yield cast(Any, type(op))(*attributes.values(), op.given)


def _grouped(op: Group, x: Value, shape: Sequence[int], order: Order) -> tuple[Value, Order] | None:
    """A group of axes that lie side by side in their order still, but for those of size 1; None if they don't."""
    into = [i for i, n in enumerate(op.counts) for _ in range(n)]
    after = [i for i, _ in itertools.groupby(into[i] for i in order)]
    real = [i for i in order if shape[i] != 1]
    if 0 in op.counts or len(after) != len(op.counts) or sorted(real, key=lambda i: (after.index(into[i]), i)) != real:
        return None
    return Group(tuple([op.counts[i] for i in after]))(x), tuple(after)


#: Ops behind which a transpose may stand as well.
_FOLLOWS = (Unary, Cast, Slice, Pad, Group, Ungroup)


def _in_rows(graph: Graph) -> frozenset[Value]:
    """The transposes that bring an axis last along which entries are then gathered: one by one, where rows could be."""
    found: set[Value] = set()
    for value in graph.values:
        if (
            not isinstance(value.op, Gather)
            or value.op.batch
            or any(n != 1 for n in value.args[0].shape[value.op.axis + 1 :])
        ):
            continue
        x = value.args[0]
        while isinstance(x.op, _FOLLOWS) and len(graph.users[x]) == 1:
            x = x.args[0]
        if isinstance(x.op, Permute) and len(graph.users[x]) == 1:
            found.add(x)
    return frozenset(found)


def _is_block(op: Op) -> bool:
    return op.name == block.name and op.attributes["title"].endswith(LAST)


def _is_move(op: Op, last: bool, least: int) -> bool:
    """Whether it brings the last of ``least`` or more axes somewhere; or, not to have any last, one of them last."""
    if not isinstance(op, Permute) or len(op.order) < least:
        return False
    order = _inverse(op.order) if last else op.order
    return any(order == (*range(i), *range(i + 1, len(order)), i) for i in range(len(order) - 1))


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
