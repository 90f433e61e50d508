"""The adjoint of any composite that is linear in its first tensor, found by walking its body backwards."""

from __future__ import annotations

from collections.abc import Sequence

from tdagger.composite import Composite
from tdagger.errors import NoInverseError
from tdagger.graph import Graph, rebuild, replayed
from tdagger.op import Value, ValueFunction
from tdagger.ops.elementwise import Binary, Where
from tdagger.ops.indexing import Gather
from tdagger.ops.source import const, scalar
from tdagger.ops.structure import Concat, broadcast_to
from tdagger.types import TensorType


def inlined(graph: Graph) -> Graph:
    """The graph with every composite replaced by its body, down to core ops."""

    def expand(value: Value) -> Value | None:
        if not isinstance(value.op, Composite):
            return None
        body = inlined(value.op.body(*[a.type for a in value.args]))
        (out,) = body.outputs.values()
        return replayed(body, dict(zip(body.inputs.values(), value.args, strict=True)))[out]

    return rebuild(graph, expand)[0]


def body_adjoint(op: Composite, *types: TensorType) -> ValueFunction:
    """The adjoint of a composite with respect to its first tensor, found by walking its body backwards.

    Returns the function of (y, other tensors). It holds for definitions that are linear in that tensor.
    """
    if not types:
        raise NoInverseError(f"{op}.adjoint() needs the types of the arguments")

    def back(y: Value, *others: Value) -> Value:
        body = inlined(op.body(*types))
        x, *rest = body.inputs.values()
        fixed = dict(zip(rest, others, strict=True))
        moving = {x}
        for v in body.values:
            if any(a in moving for a in v.args):
                moving.add(v)
            elif v not in fixed and v is not x:
                fixed[v] = v.op(*[fixed[a] for a in v.args])
        (out,) = body.outputs.values()
        found = {out: y}
        for v in reversed(body.values):
            if v is x or v not in moving or v not in found:
                continue
            for arg, part in zip(v.args, _pull(v, found.pop(v), fixed), strict=True):
                if part is not None and arg in moving:
                    found[arg] = found[arg] + part if arg in found else part
        return found.get(x, broadcast_to(const(scalar(0, types[0].dtype), types[0].dtype), types[0].shape))

    return back


def _pull(v: Value, y: Value, fixed: dict[Value, Value]) -> Sequence[Value | None]:
    """What ``y`` at the result of ``v`` is at each of its arguments, None at those that are fixed."""
    types = [a.type for a in v.args]
    match v.op:
        case Binary(kind="multiply"):
            return [y * fixed[b] if b in fixed else None for b in reversed(v.args)]
        case Binary():
            if any(a in fixed for a in v.args):
                raise NoInverseError("what adds a tensor (a bias) is not linear, so it has no adjoint")
            return v.op.adjoint()(y)
        case Where():
            return (None, *v.op.adjoint()(fixed[v.args[0]], y))
        case Gather():
            return (v.op.adjoint(*types)(y, fixed[v.args[1]]), None)
        case Concat():
            return v.op.adjoint(*types)(y)
        case _:
            return (v.op.adjoint(*types)(y),)
