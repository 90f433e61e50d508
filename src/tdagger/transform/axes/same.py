"""Whether two graphs are the same network, wherever they repeat entries: a mask expanded to the batch, or broadcast.

``mask.expand(b, ...)`` does nothing to a batch of 1, so a graph that was made with that has no such op, and where the
batch is larger the mask is broadcast by what takes it. Both are the same in core ops in which entries are repeated as
late as they can be.
"""

from __future__ import annotations

from typing import Any, cast

from tdagger.graph import Graph, bulk, is_one
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, Cast, Unary, Where
from tdagger.ops.structure import Group, Item, Permute, Repeat, Ungroup
from tdagger.transform.passes.decompose import expanded

#: How often each dimension of 1 entry of a value is to be repeated; None for one that isn't.
Times = tuple[int | None, ...]


def same(a: Graph, b: Graph) -> bool:
    """Whether the graphs are equal, or are where entries are repeated late.

    >>> import tdagger as td
    >>> x, mask = td.input("x", (4, 3)), td.input("mask", (1, 3))
    >>> a = td.Graph({"x": x, "mask": mask}, {"y": x * mask})
    >>> b = td.Graph({"x": x, "mask": mask}, {"y": x * td.repeat(mask, (4, None))})
    >>> a == b, same(a, b)
    (False, True)
    """
    return a == b or (_types(a) == _types(b) and _repeated_late(a) == _repeated_late(b))


def _types(graph: Graph) -> list[object]:
    return [[(n, v.type) for n, v in d.items()] for d in (graph.inputs, graph.outputs, graph.updates)]


def _repeated_late(graph: Graph) -> Graph:
    """The graph in core ops, with a repetition behind all that does the same to every entry."""
    core, _ = expanded(graph, lambda value, level: value.op.has_branches, {})
    found: dict[Value, tuple[Value, Times]] = {}
    with bulk():
        for value in core.values:
            found[value] = _late(value, [found[a] for a in value.args])
        inputs, outputs, updates = (
            {n: _repeated(*found[v]) for n, v in d.items()} for d in (core.inputs, core.outputs, core.updates)
        )
    return Graph(inputs, outputs, updates, graph.name)


def _late(value: Value, args: list[tuple[Value, Times]]) -> tuple[Value, Times]:
    """A value of which some dimensions are still to be repeated: of arguments of which that is so as well."""
    op = value.op
    if isinstance(op, Repeat):
        x, times = args[0]
        return x, tuple([n if n is not None else m for n, m in zip(op.sizes, times, strict=True)])
    if isinstance(op, Unary | Binary | Where | Cast):
        kept = [None if None in column else column[0] for column in zip(*[times for _, times in args], strict=True)]
        now = [
            _repeated(x, tuple([n if k is None else None for n, k in zip(times, kept, strict=True)]))
            for x, times in args
        ]
        return op(*now), tuple(kept)
    if isinstance(op, Permute):
        x, times = args[0]
        return op(x), tuple([times[i] for i in op.order])
    if isinstance(op, Group | Ungroup) and any(n is not None for n in args[0][1]):
        return _regrouped(op, *args[0])
    now = [_repeated(*a) for a in args]
    made: Any = now[0] if isinstance(op, Item) else op(*now) if now else value
    if isinstance(op, Item):  # of several results
        made = cast(Any, made)[op.index] if isinstance(made, tuple) else op(made)
    return made, (None,) * (value.rank if is_one(value) else 0)


def _regrouped(op: Group | Ungroup, x: Value, times: Times) -> tuple[Value, Times]:
    """A dimension that is taken as it is is repeated later, one that is merged or split before."""
    before: list[int | None] = []
    after: list[int | None] = []
    if isinstance(op, Group):
        at = 0
        for count in op.counts:
            own = times[at : at + count]
            before += [None] if count == 1 else own
            after += own if count == 1 else [None]
            at += count
        return op(_repeated(x, tuple(before))), tuple(after)
    sizes: list[tuple[int, ...]] = []
    for n, factors in zip(times, op.sizes, strict=True):
        late = n is not None and len(factors) == 1
        before.append(None if late else n)
        after += [n] if late else [None] * len(factors)
        sizes.append((1,) if late else factors)
    return Ungroup(tuple(sizes))(_repeated(x, tuple(before))), tuple(after)


def _repeated(x: Value, times: Times) -> Value:
    return x if all(n is None for n in times) else Repeat(times)(x)
