"""A composite's own body is its pattern: bodies found among core ops become the composite again.

At a value the table of :mod:`tdagger.transform.raising.guesses` proposes composites, the types of their arguments and
their attributes, from what the ops below say (the axes of a sum, a window's stride, a number that is an eps). The body
is then traced at these types, brought to the core, and compared op by op. Values are interned, so that what is found is
exactly what the composite stands for; a guess that is wrong is only not found. Of several the one that stands for most
ops is taken, from the outputs down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from tdagger.composite import Composite
from tdagger.errors import TDaggerError
from tdagger.graph import Graph, bulk, label
from tdagger.network import N, Origin
from tdagger.op import Value
from tdagger.ops.elementwise import BINARY, Binary
from tdagger.ops.source import Input
from tdagger.transform.idioms import IDIOMS
from tdagger.transform.passes.decompose import expanded, is_last
from tdagger.transform.raising.cone import Guess
from tdagger.transform.raising.guesses import guesses
from tdagger.transform.rewrite import rewritten
from tdagger.transform.surgery.edit import finished, with_checks
from tdagger.types import TensorType

#: A composite whose body has more ops than these isn't looked for.
LARGEST = 400
#: Bodies of no more values (divide, subtract) give way to larger ones that end inside them.
_SMALL = 4


class Lifted(NamedTuple):
    """How many of each composite were put back, and of which ops how many are left."""

    found: dict[str, int]
    left: dict[str, int]

    def __str__(self) -> str:
        each = [", ".join(f"{n} {k}" for k, n in sorted(part.items())) or "nothing" for part in self]
        return f"found {each[0]}; left {each[1]}"


def raised(dag: N, exact: bool = False) -> tuple[N, Lifted]:
    """The network with composites where their bodies were, and what was found; see :meth:`tdagger.TensorDAG.raise_`."""
    graph, origins, found = lifted(with_checks(dag), dag.origins)
    if not exact:
        before = Counter(v.op.name for v in graph.values)
        graph, origins, _ = rewritten(graph, IDIOMS, origins)
        more = Counter(v.op.name for v in graph.values if isinstance(v.op, Composite)) - before
        found = {**found, **{k: found.get(k, 0) + n for k, n in more.items()}}
    left = Counter(label(v.op) for v in graph.values if v.args and not isinstance(v.op, Composite))
    return finished(dag, graph, origins), Lifted(found, dict(left))


def lifted(graph: Graph, origins: Mapping[Value, Origin]) -> tuple[Graph, dict[Value, Origin], dict[str, int]]:
    """The graph with composites where their bodies were, where its values came from, and how many of each there are."""
    chosen: dict[Value, tuple[Composite, tuple[Value, ...]]] = {}
    needed = {*graph.inputs.values(), *graph.outputs.values(), *graph.updates.values()}
    for value in reversed(graph.values):
        if value not in needed:
            continue
        best = _best(value)
        if best is not None:
            chosen[value] = best
        needed.update(best[1] if best is not None else value.args)
    new: dict[Value, Value] = {}
    with bulk():
        for value in graph.values:
            if value in needed:
                op, args = chosen.get(value, (value.op, value.args))
                new[value] = value if op is value.op and all(new[a] is a for a in args) else op(*[new[a] for a in args])
    inputs, outputs, updates = ({k: new[v] for k, v in d.items()} for d in (graph.inputs, graph.outputs, graph.updates))
    carried = {new[v]: o for v, o in origins.items() if v in new}
    counts = Counter(op.name for op, _ in chosen.values())
    return Graph(inputs, outputs, updates, graph.name, new.values()), carried, dict(counts)


def _best(value: Value) -> tuple[Composite, tuple[Value, ...]] | None:
    """The composite that stands for most ops of those whose bodies end at a value, and its arguments."""
    best: tuple[int, Composite, tuple[Value, ...]] | None = None
    tried: set[Any] = set()
    for guess in guesses(value):
        op = _op(guess)
        key = (op, guess.types)
        if op is None or key in tried:
            continue
        tried.add(key)
        body = core_body(op, guess.types)
        if body is None or (best is not None and len(body) <= best[0]):
            continue
        args = matched(body, value)
        if args is not None:
            best = (len(body), op, args)
    if best is None or (best[0] <= _SMALL and any(_larger(a, best[0]) for a in value.args if a not in best[2])):
        return None
    return best[1:]


def _larger(inner: Value, size: int) -> bool:
    """Whether a larger body ends at a value that a small one would cover: a sigmoid in what looks like a division."""
    return any(
        op is not None and (body := core_body(op, g.types)) is not None and len(body) > size and matched(body, inner)
        for g in guesses(inner)
        for op in (_op(g),)
    )


def _op(guess: Guess) -> Composite | None:
    attributes = {**guess.definition.defaults, **guess.attributes}
    try:
        return cast(Any, guess.definition.op)(*attributes.values(), guess.given)
    except TDaggerError:
        return None


def core_body(op: Composite, types: tuple[TensorType, ...]) -> Graph | None:
    """The body of a composite with the bodies of all composites inside; None if it doesn't take these types."""
    key = ("core body", types)
    if key not in op.found:
        try:
            body = op.body(*types)
            op.found[key] = expanded(body, lambda value, level: is_last(value), {})[0]
        except (TDaggerError, ValueError, IndexError, ZeroDivisionError):
            op.found[key] = None
    found: Graph | None = op.found[key]
    return None if found is None or len(found.outputs) != 1 or len(found) > LARGEST else found


def matched(body: Graph, value: Value) -> tuple[Value, ...] | None:
    """What the inputs of a body stand for where the body ends at a value, op by op; None if it doesn't."""
    (end,) = body.outputs.values()
    if isinstance(end.op, Input):
        return None  # the identity is everywhere
    bound: dict[Value, Value] = {}
    stack = [(end, value)]
    while stack:
        inner, outer = stack.pop()
        known = bound.get(inner)
        if known is not None:
            if known is not outer:
                return None
            continue
        if isinstance(inner.op, Input):
            if inner.type is not outer.type:
                return None
        elif inner.op is not outer.op or len(inner.args) != len(outer.args):
            return None
        bound[inner] = outer
        if not isinstance(inner.op, Input):
            stack += zip(inner.args, _ordered(inner, outer), strict=True)
    inputs = list(body.inputs.values())
    return tuple([bound[v] for v in inputs]) if all(v in bound for v in inputs) else None


def _ordered(inner: Value, outer: Value) -> tuple[Value, ...]:
    """The arguments of ``outer`` in the order of those of ``inner``, for ops whose arguments go either way."""
    args = outer.args
    if not isinstance(inner.op, Binary) or not BINARY[inner.op.kind].commutes:
        return args

    def fits(pairs: Any) -> bool:
        return all(isinstance(i.op, Input) or i.op is o.op for i, o in pairs)

    straight = fits(zip(inner.args, args, strict=True))
    return args[::-1] if not straight and fits(zip(inner.args, args[::-1], strict=True)) else args
