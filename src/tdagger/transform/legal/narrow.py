"""Constants of open sizes: what is only repeated along an axis is computed for one entry of it.

Whoever writes a network works out what no input is behind. Where such a value repeats entries (positions expanded to
the batch, the zeros that a recurrent layer begins with, times its weights), its data has the size of the axis; one
entry and a repeat of it has not.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdagger.graph import is_one, rebuild
from tdagger.network import N
from tdagger.op import Value
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item, Permute, Repeat, squeeze
from tdagger.transform.axes.same import repeats, spread_of
from tdagger.transform.legal.legalize import is_static, legalize
from tdagger.transform.legal.target import Target
from tdagger.transform.surgery.edit import finished, with_checks


def narrowed(dag: N, target: Target) -> N:
    """A legal network whose constants are repeated last, where the target has the repeat.

    An index that is the same for all entries of an axis is of none: ``gather`` doesn't share that axis with it.

    >>> import tdagger as td
    >>> from tdagger.transform.legal.target import Accepts, Target, types
    >>> f32 = Accepts(types("f32"))
    >>> target = Target("T", {"binary add": f32, "repeat": f32}, folds=True)
    >>> row = td.const([[1.0, 2.0, 4.0]], "f32")
    >>> dag = td.network(lambda x: x + td.exp(td.repeat(row, (2, None))), {"x": (2, 3)})
    >>> [v.op.name for v in narrowed(dag, target).values]
    ['input', 'const', 'unary', 'repeat', 'binary']
    """
    graph = with_checks(dag)
    static: set[Value] = set()
    asked: dict[Value, None] = {}
    changing = set(graph.updates)
    for value in graph.values:
        if is_static(value, static, changing, target.varies):
            static.add(value)
        else:
            asked.update((a, None) for a in value.args if a in static)
    asked.update((v, None) for v in graph.outputs.values() if v in static)
    values = [v for v in asked if is_one(v) and v.type.size and not isinstance(v.op, Const | Leaf | Item)]
    found = {v: r for v, r in repeats(values).items() if not any(map(target.refusal, spread_of(r)))}
    order = iter(graph.values)  # a value is asked for as it was, on arguments as they are now
    made, new = rebuild(graph, lambda value: found.get(next(order)) or _shared_less(value))
    if made == graph:
        return dag
    gathers = any(isinstance(v.op, Gather) and new[v].op is not v.op for v in graph.values)
    origins = {new[v]: o for v, o in dag.origins.items() if v in new}
    dag = finished(dag, made, origins)
    return legalize(dag, target) if gathers else dag


def _shared_less(value: Value) -> Value | None:
    """A gather by an index that is repeated along axes which it shares: these are the argument's alone."""
    op = value.op
    if not isinstance(op, Gather) or not op.batch:
        return None
    x, index = value.args
    sizes, base = _repeated_axes(index)
    alone = [i for i in range(op.batch) if sizes[i]]
    if not alone:
        return None
    kept = [i for i in range(op.batch) if i not in alone]
    order = (*kept, *alone, *range(op.batch, x.rank))
    index = squeeze(base, alone)
    wide = Repeat(tuple([n for i, n in enumerate(sizes) if i not in alone]))
    x = Permute(order)(x) if order != tuple(range(x.rank)) else x
    made = Gather(op.axis, len(kept))(x, wide(index) if any(wide.sizes) else index)
    back = [order.index(i) for i in range(op.batch)]
    return Permute((*back, *range(op.batch, made.rank)))(made) if back != sorted(back) else made


def _repeated_axes(index: Value) -> tuple[Sequence[int | None], Value]:
    """How often each axis of 1 entry is repeated, and what is repeated: behind permutes too."""
    orders: list[Permute] = []
    while isinstance(index.op, Permute):
        orders.append(index.op)
        index = index.args[0]
    if not isinstance(index.op, Repeat):
        return (None,) * index.rank, index
    sizes, base = index.op.sizes, index.args[0]
    for op in reversed(orders):
        sizes, base = tuple([sizes[i] for i in op.order]), op(base)
    return sizes, base
