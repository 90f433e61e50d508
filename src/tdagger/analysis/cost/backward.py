"""What the backward pass costs: the contractions that give the gradients somebody needs.

A contraction of factors a and b has, backwards, one of as many multiply-adds for each factor that needs a gradient:
that of a is the result's times b, that of b the result's times a. A factor *needs* one if what is differentiated (the
trainable parameters, unless told) is behind it, and if a differentiated output (every output of floats, unless told)
depends on it. So the first layer gives none to its input, and a frozen layer none to its weight. Gradients go through
every op from floats to floats, as torch's do: through a rounding or a sign too, where they are 0 and are computed all
the same. ``docs/counting.md`` has examples.

>>> import tdagger as td
>>> x, w, v = td.input("x", (2, 3)), td.parameter("w", (5, 3)), td.parameter("v", (7, 5))
>>> graph = td.Graph({"x": x}, {"y": td.linear(td.tanh(td.linear(x, w)), v)})
>>> [(v.op, work.macs) for v, work in backward(graph, leaves(graph, ["w", "v"])).items()]
[(linear, 30), (tanh, 0), (linear, 140)]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tdagger.analysis.cost.contractions import contractions
from tdagger.composite import Composite
from tdagger.errors import GraphError
from tdagger.graph import Graph, bulk, is_one, result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Bitcast
from tdagger.ops.source import Leaf
from tdagger.ops.structure import Item
from tdagger.types import TensorType

#: For every result of a value, or every argument: whether it needs a gradient.
Flags = tuple[bool, ...]


class BackwardWork(NamedTuple):
    """Work of the backward pass, of one value or of several.

    ``macs`` are the multiply-adds of contractions that give gradients, ``recomputed`` those that torch's fused
    attention has besides (on a CPU): the scores, worked out again, and gradients that it gives and nobody needs.
    """

    macs: int = 0
    recomputed: int = 0


NO_WORK = BackwardWork()


# --- what is differentiated --------------------------------------------------------------------------------


def leaves(graph: Graph, names: Iterable[str]) -> set[Value]:
    """The inputs, parameters and buffers called so; GraphError for a name there isn't, or of what holds no floats.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 3))
    >>> leaves(td.Graph({"x": x}, {"y": td.exp(x)}), ["x"]) == {x}
    True
    """
    known = {v.op.leaf: v for v in graph.values if isinstance(v.op, Leaf)}
    return set(_named("differentiate by", known, names, graph.name))


def results(graph: Graph, names: Iterable[str] | None = None) -> set[Value]:
    """The outputs called so, every one of floats if None; GraphError as of :func:`leaves`."""
    if names is None:
        return {v for v in graph.outputs.values() if has_gradient(v.type)}
    return set(_named("differentiate", graph.outputs, names, graph.name))


def _named(what: str, known: Mapping[str, Value], names: Iterable[str], graph: str) -> list[Value]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [n for n in names if n not in known]
    if unknown:
        raise GraphError(f"{graph}: can't {what} {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    for name in names:
        if not has_gradient(known[name].type):
            raise GraphError(f"{graph}: can't {what} {name!r}: {known[name].type} has no gradient, only floats have")
    return [known[n] for n in names]


# --- the walk ----------------------------------------------------------------------------------------------


def backward(graph: Graph, wrt: set[Value], of: set[Value] | None = None) -> dict[Value, BackwardWork]:
    """What the backward pass of every value costs that takes part in it, in the graph's order.

    ``wrt`` are the leaves to differentiate by, ``of`` the outputs differentiated, all of floats if None. Linear in
    values and arguments; a composite's body is walked once for each op, types and which gradients are needed.
    """
    with bulk():
        return _Backward().graph(graph, wrt, results(graph) if of is None else of)


def has_gradient(type_: TensorType) -> bool:
    """Whether tensors of a type can have a gradient: floats and complex numbers do."""
    return type_.dtype.is_float or type_.dtype.is_complex


def _goes_through(value: Value) -> bool:
    """Whether a gradient of a result goes on to the arguments (of floats)."""
    if isinstance(value.op, Bitcast):  # bits are no numbers; real and complex ones hold the same numbers
        return value.type.dtype.is_complex or value.args[0].type.dtype.is_complex
    return value.op.name != "stop_gradient"


@dataclass
class _Body:
    """A composite's body for one list of types: which results need a gradient, and what each way back costs."""

    body: Graph
    needs: dict[Value, Flags]
    results: Flags
    back: dict[Flags, tuple[BackwardWork, Flags]] = field(default_factory=dict[Flags, tuple[BackwardWork, Flags]])


class _Backward:
    """Finds who needs gradients going forward, who gets them going back, and counts the products on the way."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[Op, tuple[TensorType, ...], Flags], _Body] = {}

    def graph(self, graph: Graph, wrt: set[Value], of: set[Value]) -> dict[Value, BackwardWork]:
        found, _ = self._back(graph, self._needs(graph, wrt), dict.fromkeys(of, (True,)))
        return {v: found[v] for v in graph.values if v in found}

    # Forward: what depends on what is differentiated.

    def _needs(self, graph: Graph, wrt: set[Value]) -> dict[Value, Flags]:
        """For every value, which of its results depend on ``wrt`` by a way that gradients take."""
        needs: dict[Value, Flags] = {}
        for value in graph.values:
            if isinstance(value.op, Leaf):
                needs[value] = (value in wrt,)
            elif isinstance(value.op, Item):
                needs[value] = (needs[value.args[0]][value.op.index],)
            elif not any(any(needs[a]) for a in value.args) or not _goes_through(value):
                needs[value] = (False,) * len(result_types(value))
            elif isinstance(value.op, Composite):
                needs[value] = self._body(value, value.op, needs).results
            else:
                needs[value] = tuple([has_gradient(t) for t in result_types(value)])
        return needs

    def _body(self, value: Value, op: Composite, needs: Mapping[Value, Flags]) -> _Body:
        types, flags = tuple([a.type for a in value.args]), tuple([needs[a][0] for a in value.args])
        key = (op, types, flags)
        found = self._bodies.get(key)
        if found is None:
            body = op.counted(*types)
            inner = self._needs(body, {v for v, f in zip(body.inputs.values(), flags, strict=True) if f})
            outputs = tuple([inner[v][0] for v in body.outputs.values()])
            found = self._bodies[key] = _Body(body, inner, outputs)
        return found

    # Back: what a differentiated output depends on.

    def _back(
        self, graph: Graph, needs: Mapping[Value, Flags], of: Mapping[Value, Flags]
    ) -> tuple[dict[Value, BackwardWork], dict[Value, Flags]]:
        """What every value that gets a gradient costs, and which results get one; ``of`` are those to begin with."""
        gets = {v: _both(flags, needs[v]) for v, flags in of.items()}
        products = contractions(graph)
        found: dict[Value, BackwardWork] = {}
        for value in reversed(graph.values):
            flags = gets.get(value, ())
            if not any(flags) or not value.args:
                continue
            work, given = NO_WORK, tuple([needs[a] for a in value.args])
            if isinstance(value.op, Composite):
                work, to = self._through(value, value.op, needs, flags)
                given = tuple([(f,) for f in to])
            elif isinstance(value.op, Item):
                given = (_one_of(value.op.index, needs[value.args[0]]),)
            elif value in products:
                work = BackwardWork(value.type.size * sum(needs[a][0] for a in value.args))
            found[value] = work
            for arg, new in zip(value.args, given, strict=True):
                gets[arg] = _either(gets[arg], new) if arg in gets else new
        return found, gets

    def _through(
        self, value: Value, op: Composite, needs: Mapping[Value, Flags], flags: Flags
    ) -> tuple[BackwardWork, Flags]:
        """The way back through a composite's body from the results that get a gradient to the arguments that do."""
        known = self._body(value, op, needs)
        found = known.back.get(flags)
        if found is None:
            of: dict[Value, Flags] = {}
            for out, flag in zip(known.body.outputs.values(), flags, strict=True):
                of[out] = _either(of.get(out, (False,)), (flag,))
            works, gets = self._back(known.body, known.needs, of)
            args = tuple([gets.get(v, (False,))[0] for v in known.body.inputs.values()])
            found = known.back[flags] = (summed(works.values()), args)
        work, args = found
        if op.name in FUSED and any(args):
            dispatched = FUSED[op.name](value, op, tuple([needs[a][0] for a in value.args]))
            work = work._replace(recomputed=max(dispatched - work.macs, 0))
        return work, args


def _either(a: Flags, b: Flags) -> Flags:
    return a if a == b else tuple([x or y for x, y in zip(a, b, strict=True)])


def _both(a: Flags, b: Flags) -> Flags:
    return tuple([x and y for x, y in zip(a, b, strict=True)])


def _one_of(index: int, needs: Flags) -> Flags:
    return tuple([i == index and n for i, n in enumerate(needs)])


def summed(works: Iterable[BackwardWork]) -> BackwardWork:
    """The sum of every field."""
    columns = list(zip(*works, strict=True))
    return BackwardWork(*map(sum, columns)) if columns else NO_WORK


# --- what torch's fused kernels do -------------------------------------------------------------------------


def _fused_attention(value: Value, op: Composite, needs: Flags) -> int:
    """Multiply-adds of torch's fused attention backwards on a CPU; 0 where torch takes products apart.

    The scores again, and a product each for the gradients of the weights, of q, of k and of v, whoever needs them.
    It takes 4-D tensors of one batch and head size whose last axis lies in memory as such, and a mask of 2 or 4
    dimensions that needs no gradient.
    """
    q, k, v, *mask = value.args
    if not q.rank == k.rank == v.rank == 4 or not q.shape[-1] == k.shape[-1] == v.shape[-1]:
        return 0
    if not q.shape[0] == k.shape[0] == v.shape[0] or 0 in (q.shape[-2], k.shape[-2]) or k.shape[1] != v.shape[1]:
        return 0
    if (k.shape[1] != q.shape[1] and not op.attributes["grouped"]) or not all(map(_is_last_inside, (q, k, v))):
        return 0
    if mask and (needs[3] or mask[0].rank not in (2, 4)):
        return 0
    return 5 * q.type.size * k.shape[-2]


def _is_last_inside(value: Value) -> bool:
    """Whether the entries along the last axis are neighbours in memory, as views leave them."""
    found = _seen(value, value.rank - 1)
    return found is not None and found[1] == found[0].rank - 1


def _seen(value: Value, axis: int) -> tuple[Value, int] | None:
    """The tensor that a value is a view of, and where an axis is there; None if steps along it leave entries out."""
    while True:
        before: int | None = None
        if isinstance(value.op, Composite) and len(value.args) == 1 and is_one(value):
            body = value.op.body(value.args[0].type)
            found = _seen(next(iter(body.outputs.values())), axis)
            if found is None or not isinstance(found[0].op, Leaf):
                return found
            before = found[1]
        elif value.op.name in _VIEWS:
            before = _VIEWS[value.op.name](value.op, axis)
        else:
            return value, axis
        if before is None:
            return None
        value, axis = value.args[0], before


def _before_ungroup(op: Any, axis: int) -> int | None:
    for i, sizes in enumerate(op.sizes):
        if axis < len(sizes):
            return i if math.prod(sizes[axis + 1 :]) == 1 else None
        axis -= len(sizes)
    return None


def _before_slice(op: Any, axis: int) -> int | None:
    return axis if op.bounds[axis] is None or op.bounds[axis][2] == 1 else None


def _before_group(op: Any, axis: int) -> int:
    """The innermost of the axes merged: torch copies where they don't lie as one."""
    return sum(op.counts[: axis + 1]) - 1


#: Of the ops that torch has views for: where an axis of the result was in the argument, None if it skips entries there.
_VIEWS: dict[str, Callable[[Any, int], int | None]] = {
    "permute": lambda op, axis: op.order[axis],
    "ungroup": _before_ungroup,
    "group": _before_group,
    "slice": _before_slice,
    "repeat": lambda op, axis: axis if op.sizes[axis] is None else None,
}

#: The composites that torch has a fused backward pass of, with its multiply-adds: of a value and which arguments need
#: a gradient.
FUSED: dict[str, Callable[[Value, Composite, Flags], int]] = {"scaled_dot_product_attention": _fused_attention}
