"""Contractions: products of two tensors that are only summed, wherever they stand; no rule per layer finds them."""

from __future__ import annotations

from tdagger.composite import Composite
from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, Cast
from tdagger.ops.source import Leaf
from tdagger.ops.structure import Group, Permute, Reduce, Ungroup


def contractions(graph: Graph) -> dict[Value, Value]:
    """The products of a graph that are only taken by sums, each with its (first) sum; those inside composites left out.

    Between a product and its sums there may be permute, group, ungroup and casts. Both factors come from an input or
    a weight (what is made of constants alone weighs, it isn't data), and aren't one value (that is a norm's square).
    """
    kept = {*graph.outputs.values(), *graph.updates.values()}
    data: set[Value] = set()
    found: dict[Value, Value] = {}
    for value in graph.values:
        if isinstance(value.op, Leaf) or any(a in data for a in value.args):
            data.add(value)
        if isinstance(value.op, Binary) and value.op.kind == "multiply":
            x, y = value.args
            total = _sum_of(graph, value, kept) if x is not y and x in data and y in data else None
            if total is not None:
                found[value] = total
    return found


def _sum_of(graph: Graph, product: Value, kept: set[Value]) -> Value | None:
    """The first sum that takes a product; None if anything but sums does."""
    sums: list[Value] = []
    stack = [product]
    while stack:
        value = stack.pop()
        if value in kept:
            return None
        for user in graph.users[value]:
            if isinstance(user.op, Reduce) and user.op.kind == "sum":
                sums.append(user)
            elif _only_moves(user):
                stack.append(user)
            else:
                return None
    return sums[0] if sums else None


def _only_moves(value: Value) -> bool:
    op = value.op
    if isinstance(op, Permute | Group | Ungroup | Cast):
        return True
    return isinstance(op, Composite) and len(value.args) == 1 and op.moves_nothing(value.args[0].type)
