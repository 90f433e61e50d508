"""Weights of one number that a file holds at the size of its batch: what a program made of zeros or ones as it ran.

The first state of an LSTM, a mask that hides nothing: where such a weight has a dimension of an input that is only
carried, each entry says the same of its row, and another number of rows has as many of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.terms import resolve
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Parameter
from tdagger.ops.structure import Repeat, slice_axis
from tdagger.transform.axes.unbatch import is_carried
from tdagger.transform.networks import N, rewritten
from tdagger.types import TensorType

#: No larger weight is looked at.
_ENTRIES = 1 << 20


def fills_spread(dag: N) -> N:
    """The network with one entry of such a weight repeated along the dimensions that inputs have and only carry.

    Every value keeps its type and its numbers, and weights stay what they are. No axes are looked for where no weight
    of more than one dimension holds one number alone.
    """
    sizes = {n for v in dag.graph.inputs.values() for n in v.shape}
    shared = [(n, w.type) for n, w in dag.state.items() if not sizes.isdisjoint(w.type.shape)]
    names = [n for n, held in shared if _is_fill(n, held, dag.weights)]
    if not names:
        return dag
    leaves = {**dag.graph.parameters, **dag.graph.buffers}
    fills = [leaves[n] for n in names if n in leaves and n not in dag.graph.updates]
    axes = Axes(dag.graph)
    own = {a for terms in axes.inputs for term in terms for a in resolve(term)}
    held = {v: {i: r[0] for i, t in enumerate(axes[v]) if len(r := resolve(t)) == 1 and r[0] in own} for v in fills}
    for axis in list(dict.fromkeys(a for places in held.values() for a in places.values())):
        where = {v: [i for i, a in places.items() if a is axis] for v, places in held.items()}
        found = _spread(dag, {v: dims for v, dims in where.items() if dims})
        dims = [(i, j) for i, terms in enumerate(axes.inputs) for j, t in enumerate(terms) if resolve(t) == (axis,)]
        new = Axes(found.graph)
        same = {a for i, j in dims for a in resolve(new.inputs[i][j])}
        if len(same) == 1 and is_carried(new, *same):
            dag = found
    return dag


def _is_fill(name: str, held: TensorType, weights: Mapping[str, Array]) -> bool:
    """Whether a weight of several dimensions holds one number alone."""
    if held.rank < 2 or not 0 < held.size <= _ENTRIES or name not in weights:
        return False
    data = np.asarray(weights[name])
    first = data.item(0)
    return bool(data.item(held.size - 1) == first and (data == first).all())


def _spread(dag: N, places: Mapping[Value, Collection[int]]) -> N:
    """The network with one entry repeated for some dimensions of weights."""

    def rule(value: Value) -> Value | None:
        dims = places.get(value)
        if dims is None or not isinstance(value.op, Parameter | Buffer):
            return None
        one = value
        for i in dims:
            one = slice_axis(one, i, 0, 1)
        return Repeat(tuple([n if i in dims else None for i, n in enumerate(value.shape)]))(one)

    return rewritten(dag, rule)
