"""Whether two graphs are the same network, wherever they repeat entries: a mask expanded to the batch, or broadcast.

``mask.expand(b, ...)`` does nothing to a batch of 1, so a graph that was made with that has no such op, and where the
batch is larger the mask is broadcast by what takes it. Both are the same in core ops in which entries are repeated as
late as they can be. So are a slice of all entries and none, dimensions of 1 entry put in one by one or at once, and
what has no entries.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.graph import Graph, bulk, is_one, remade, topological
from tdagger.library.activation import sigmoid
from tdagger.library.arithmetic import hypot
from tdagger.library.kinks import at_least, at_most, copysign, entr, polar, sinc, xlog1py
from tdagger.library.training import stop_gradient, straight_through
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, Cast, Unary, Where
from tdagger.ops.indexing import Argsort, Gather, Scan
from tdagger.ops.source import Input, const
from tdagger.ops.structure import Concat, Fold, Group, Item, Pad, Permute, Reduce, Repeat, Slice, Unfold, Ungroup
from tdagger.transform.passes.decompose import expanded, is_last

#: How often each dimension of 1 entry of a value is to be repeated; None for one that isn't.
Times = tuple[int | None, ...]


def same(a: Graph, b: Graph) -> bool:
    """Whether the graphs are equal, or are where entries are repeated late.

    >>> import tdagger as td
    >>> x, mask = td.input("x", (4, 3)), td.input("mask", (1, 3))
    >>> a = td.Graph({"x": x, "mask": mask}, {"y": x * td.exp(mask)})
    >>> b = td.Graph({"x": x, "mask": mask}, {"y": x * td.exp(td.repeat(mask, (4, None)))})
    >>> a == b, same(a, b)
    (False, True)
    """
    if a == b:
        return True
    return _types(a) == _types(b) and (_are_alike(a, b) or repeated_late(a) == repeated_late(b))


def _types(graph: Graph) -> list[object]:
    return [[(n, v.type) for n, v in d.items()] for d in (graph.inputs, graph.outputs, graph.updates)]


def _are_alike(a: Graph, b: Graph) -> bool:
    """Whether all that differs is found to be the same where it differs; if not, the graphs may be the same anyway.

    One op of things that are the same is the same, so only what other ops make is put in another form, or what one op
    makes of a thing that is repeated before it and after it.
    """
    both = [*a.outputs.values(), *a.updates.values()], [*b.outputs.values(), *b.updates.values()]
    pairs = list(zip(*both, strict=True))
    same: set[tuple[Value, Value]] = set()  # one value may be the same as several
    spread: dict[tuple[Value, Value], _Spread] = {}
    compared: dict[tuple[Value, Value], bool] = {}
    left = len(a.values)
    while pairs:
        x, y = pairs[-1]
        if x is y or (x, y) in same:
            pairs.pop()
            continue
        if x.type != y.type:  # then one is repeated, or both are
            cone = _cut([x, y])
            left -= len(cone.values)
            found = _spread(x, y, cone) if left >= 0 and is_one(x) and is_one(y) else None
            if found is None:
                return False
            spread[x, y] = found
        else:
            one = x.op is y.op and len(x.args) == len(y.args)
            below = list(zip(x.args, y.args, strict=True)) if one else [(_base(x), _base(y))]
            if not one and (below == [(x, y)] or below[0][0].type != below[0][1].type):
                below = []
            waiting = [(p, q) for p, q in below if p is not q and (p, q) not in same]
            if waiting:
                pairs += waiting
                continue
            if not one or any(p.type != q.type for p, q in below):
                if not is_one(x):  # another op of several results
                    return False
                own, other = made = _of_stands(x, y, below, spread)
                if made not in compared:
                    cuts = [_cut([v]) for v in made]
                    left -= sum(len(c.values) for c in cuts)
                    if left < 0 or own.type != other.type:
                        return False
                    compared[made] = operator.eq(*[repeated_late(c).outputs for c in cuts])
                if not compared[made]:
                    return False
        same.add((x, y))
        pairs.pop()
    return True


class _Spread(NamedTuple):
    """What two values of other sizes are: one thing, and how often each repeats its dimensions."""

    thing: Value
    times: Times
    others: Times


def _spread(x: Value, y: Value, cone: Graph) -> _Spread | None:
    core, found = _lately(cone)
    (thing, times), (other, others) = (found[core.outputs[str(i)]] for i in (0, 1))
    return _Spread(thing, times, others) if thing is other else None


def _of_stands(
    x: Value, y: Value, below: Iterable[tuple[Value, Value]], spread: Mapping[tuple[Value, Value], _Spread]
) -> tuple[Value, Value]:
    """Two values made of inputs in the place of what is the same below them: alike ones are one pair."""
    stands: dict[Value, Value] = {}
    new: tuple[dict[Value, Value], dict[Value, Value]] = {}, {}
    for p, q in below:
        thing, times, others = spread.get((p, q)) or (q, (None,) * q.rank, (None,) * q.rank)
        stand = stands.setdefault(thing, Input(str(len(stands)), thing.type)())
        new[0][p], new[1][q] = _repeated(stand, times), _repeated(stand, others)
    return remade(x, new[0]), remade(y, new[1])


def _base(value: Value) -> Value:
    """What a value has the entries of, in other dimensions."""
    while isinstance(value.op, Group | Ungroup | Repeat):
        value = value.args[0]
    return value


def _cut(values: Sequence[Value]) -> Graph:
    return Graph(_inputs_of(values), {str(i): v for i, v in enumerate(values)})


def repeated_late(graph: Graph) -> Graph:
    """The graph in core ops and what differs from them in training, repeated behind all that treats entries alike."""
    core, found = _lately(graph)
    with bulk():
        inputs, outputs, updates = (
            {n: _repeated(*found[v]) for n, v in d.items()} for d in (core.inputs, core.outputs, core.updates)
        )
    return Graph(inputs, outputs, updates, graph.name)


def repeats(values: Sequence[Value]) -> dict[Value, Value]:
    """What stands for those values that are a smaller one repeated: computed once, and repeated last.

    Where axes that are repeated and others are one, or the other way round, views come after the repeat.

    >>> import tdagger as td
    >>> row, exp = td.parameter("row", (1, 3)), td.exp
    >>> repeats([exp(td.repeat(row, (4, None))), exp(row)])
    {<exp(f32[4 3]) -> f32[4 3]>: <repeat(sizes=(4, None))(f32[1 3]) -> f32[4 3]>}
    """
    core, found = _lately(_cut(values))
    late = [found[core.outputs[str(i)]] for i in range(len(values))]
    with bulk():
        made = {v: _repeated(x, times) for v, (x, times) in zip(values, late, strict=True)}
    return {v: r for v, r in made.items() if is_spread(r)}


def is_spread(value: Value) -> bool:
    """Whether a value is another one repeated; at most seen otherwise after that, and taken with single numbers."""
    return isinstance(spread_of(value)[-1].op, Repeat)


def spread_of(value: Value) -> list[Value]:
    """A value and what it is made of, down to what is repeated if :func:`is_spread` holds."""
    found = [value]
    while not isinstance(value.op, Repeat):
        if not isinstance(value.op, Group | Ungroup | Permute | Unary | Binary | Cast):
            return found
        large = [a for a in value.args if _base(a).type.size > 1] or value.args
        if len(large) != 1:
            return found
        value = large[0]
        found.append(value)
    return found


def _inputs_of(values: Iterable[Value]) -> dict[str, Value]:
    return {v.op.leaf: v for v in topological(values) if isinstance(v.op, Input)}


def _lately(graph: Graph) -> tuple[Graph, dict[Value, tuple[Any, Times]]]:
    """The graph in core ops; each value with what of it is to be repeated later."""
    core, _ = expanded(graph, lambda value, level: is_last(value) or value.op.name == "dropout", {})
    found: dict[Value, tuple[Any, Times]] = {}
    with bulk():
        for value in core.values:
            found[value] = _late(value, [found[a] for a in value.args])
    return core, found


def _late(value: Value, args: list[tuple[Any, Times]]) -> tuple[Any, Times]:
    """A value of which some dimensions are still to be repeated: of arguments of which that is so as well."""
    op = value.op
    if isinstance(op, Repeat):
        x, times = args[0]
        return x, tuple([m if n in (None, 1) else n for n, m in zip(op.sizes, times, strict=True)])  # 1 is not at all
    if isinstance(op, Item):  # of several results
        x, _ = args[0]
        return (cast(Any, x)[op.index] if isinstance(x, tuple) else op(x)), (None,) * value.rank
    if not args:
        return value, (None,) * value.rank
    carried = next((f for kind, f in _CARRIED.items() if isinstance(op, kind)), _nothing)(op, value)
    after: list[int | None] = [None] * (value.rank if is_one(value) else 0)
    taken: set[tuple[int, int]] = set()  # the dimensions of arguments that are repeated later
    for i, places in carried.items():
        times = [args[a][1][j] for a, j in places]
        if isinstance(op, Group):  # of dimensions of 1 entry, all of which are repeated as one: a tile
            ones = all(args[0][0].shape[j] == 1 for _, j in places) and any(n is not None for n in times)
            times = [prod([1 if n is None else n for n in times]) if ones else None]
        if None not in times:
            after[i] = times[0]
            taken.update(places)
    now = [
        _repeated(x, tuple([None if (a, j) in taken else n for j, n in enumerate(times)]))
        for a, (x, times) in enumerate(args)
    ]
    if isinstance(op, Ungroup):
        op = Ungroup(tuple([(1,) if (0, j) in taken else sizes for j, sizes in enumerate(op.sizes)]))
    return _plain(op(*now)), tuple(after)


def _plain(value: Any) -> Any:
    """What stays the same entries, as one thing: a slice of all as none, dimensions of 1 entry anywhere, no entries."""
    if is_one(value) and not value.type.size:
        return const(np.zeros(value.shape, value.dtype.numpy), value.dtype)
    if isinstance(value.op, Slice) and all(_is_all(b, n) for b, n in zip(value.op.bounds, value.shape, strict=True)):
        return value.args[0] if value.shape == value.args[0].shape else value
    if not isinstance(value.op, Group | Ungroup):
        return value
    base = value
    while isinstance(base.op, Group | Ungroup):  # of values that are plain themselves: two steps
        base = base.args[0]
    if isinstance(base.op, Repeat) and base.rank > 1 and base.args[0].type.size == 1:  # one entry, repeated at once
        base = Repeat((base.type.size,))(_plain(Group((base.rank,))(base.args[0])))
    return base if base.shape == value.shape else Ungroup((value.shape,))(Group((base.rank,))(base))


def _is_all(bounds: Any, n: int) -> bool:
    return bounds is None or n == 1 or tuple(bounds) == (0, n, 1)


def _repeated(x: Any, times: Times) -> Any:
    return x if all(n is None for n in times) else Repeat(times)(x)


# Which dimensions of a result are dimensions of arguments, each entry of which is computed as any other: by the
# result's, (which argument, which dimension of it) of every argument that has it.

Carried = dict[int, list[tuple[int, int]]]


def _nothing(op: Any, value: Value) -> Carried:
    return {}


def _each(op: Any, value: Value) -> Carried:
    return {i: [(a, i) for a in range(len(value.args))] for i in range(value.rank)}


def _but(axes: Callable[[Any], Collection[int]]) -> Callable[[Any, Value], Carried]:
    """All dimensions of all arguments but some."""
    return lambda op, value: {i: places for i, places in _each(op, value).items() if i not in axes(op)}


def _group(op: Any, value: Value) -> Carried:
    starts = accumulate(op.counts, initial=0)
    pairs = zip(starts, op.counts, strict=False)
    return {i: [(0, at + j) for j in range(count)] for i, (at, count) in enumerate(pairs) if count}


def _ungroup(op: Any, value: Value) -> Carried:
    starts = accumulate([len(sizes) for sizes in op.sizes], initial=0)
    return {at: [(0, j)] for j, (at, sizes) in enumerate(zip(starts, op.sizes, strict=False)) if len(sizes) == 1}


def _gather(op: Any, value: Value) -> Carried:
    shared = {i: [(0, i), (1, i)] for i in range(op.batch)}
    before = [(0, j) for j in range(op.batch, op.axis)]
    index = [(1, j) for j in range(op.batch, value.args[1].rank)]
    behind = [(0, j) for j in range(op.axis + 1, value.args[0].rank)]
    return shared | {op.batch + i: [place] for i, place in enumerate([*before, *index, *behind])}


#: What has a gradient of its own and is computed entry by entry.
_ELEMENTWISE = (
    stop_gradient,
    straight_through,
    at_least,
    at_most,
    copysign,
    entr,
    hypot,
    polar,
    sigmoid,
    sinc,
    xlog1py,
)

_CARRIED: dict[Any, Callable[[Any, Value], Carried]] = {
    Unary | Binary | Where | Cast: _each,
    tuple(f.op for f in _ELEMENTWISE): _each,
    Permute: lambda op, value: {i: [(0, j)] for i, j in enumerate(op.order)},
    Group: _group,
    Ungroup: _ungroup,
    Reduce: _but(lambda op: op.axes),
    Scan | Argsort | Concat | Unfold | Fold: _but(lambda op: (op.axis,)),
    Slice: _but(lambda op: [i for i, bounds in enumerate(op.bounds) if bounds is not None]),
    Pad: _but(lambda op: [i for i, widths in enumerate(op.widths) if widths is not None]),
    Gather: _gather,
}
