"""Choosing by data: of two graphs the one that a predicate picks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from tdagger.composite import Composite, composite
from tdagger.errors import TypeMismatchError
from tdagger.graph import Graph, applied, topological
from tdagger.interpret import run
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import where
from tdagger.ops.source import Input
from tdagger.ops.structure import broadcast_to
from tdagger.types import TensorType


@composite
def cond(*tensors: Value, then: Graph, otherwise: Graph) -> Any:
    """What ``then`` gives if the first tensor, a bool of rank 0, is true, else what ``otherwise`` gives.

    Both graphs take the other tensors, by place, and give results of the same types: a value for one, a tuple for
    several. The results are those of ``where`` on both branches; executed is one branch, and counted the one with the
    most flops. TypeMismatchError says what the branches differ in.

    >>> import tdagger as td
    >>> x = td.input("x", (3,))
    >>> double, root = (td.Graph({"x": x}, {"y": y}) for y in (x + x, td.exp(td.sqrt(x))))
    >>> y = td.cond(td.input("p", (), "bool"), x, then=double, otherwise=root)
    >>> y.type, td.Graph({"p": y.args[0], "x": x}, {"y": y}).total_flops()
    (f32[3], 6)
    """
    predicate, *operands = tensors
    if predicate.type != TensorType((), "bool"):
        raise TypeMismatchError(f"cond chooses by a bool of rank 0, not by {predicate.type}")
    first, second = (of_types(branch, operands, "cond: ") for branch in (then, otherwise))
    types = [[v.type for v in results] for results in (first, second)]
    if types[0] != types[1] or not first:
        raise TypeMismatchError(f"cond: the branches give {types[0]} and {types[1]}, which must be alike")
    chosen = [where(broadcast_to(predicate, a.shape), a, b) for a, b in zip(first, second, strict=True)]
    return chosen[0] if len(chosen) == 1 else tuple(chosen)


def of_types(graph: Graph, operands: Sequence[Value], what: str = "") -> tuple[Value, ...]:
    """The results of a graph on operands; TypeMismatchError, which begins with ``what``, if they have other types."""
    wanted, given = ([v.type for v in values] for values in (graph.inputs.values(), operands))
    if wanted != given:
        raise TypeMismatchError(f"{what}{graph.name} takes {wanted}, but is given {given}")
    return applied(graph, operands)


def of_body(body: Graph) -> Op | None:
    """The ``cond`` whose body a graph is; None if there is no such one."""
    predicate, *operands = body.inputs.items()
    chosen = list(body.outputs.values())
    if any(v.op.name != "where" for v in chosen):
        return None
    if predicate[1] in topological([x for v in chosen for x in v.args[1:]]):
        return None
    branches = [
        Graph(dict(operands), {str(i): v.args[place] for i, v in enumerate(chosen)}, name=name)
        for place, name in ((1, "then"), (2, "otherwise"))
    ]
    op = cast(Any, cond.op)(*branches, ())
    try:
        same = op.body(*[v.type for v in body.inputs.values()]) == body
    except TypeMismatchError:
        return None
    return op if same else None


@cond.numpy
def _(predicate: Array, *operands: Array, then: Graph, otherwise: Graph) -> Any:
    branch = then if predicate else otherwise
    out, _ = run(branch, dict(zip(branch.inputs, operands, strict=True)), {})
    results = tuple(out.values())
    return results[0] if len(results) == 1 else results


@cond.branches
def _(op: Composite, *types: TensorType) -> tuple[Graph, ...]:
    predicate = Input("predicate", types[0])()
    branches: list[Graph] = [op.attributes["then"], op.attributes["otherwise"]]
    return tuple([Graph({"predicate": predicate, **g.inputs}, g.outputs, name=g.name) for g in branches])
