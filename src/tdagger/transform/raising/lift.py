"""A composite's own body is its pattern: bodies found among core ops become the composite again.

At a value the table of :mod:`tdagger.transform.raising.guesses` proposes composites, the types of their arguments and
their attributes, from what the ops below say (the axes of a sum, a window's stride, a number that is an eps). The body
is then traced at these types, brought to the core, and compared op by op. Values are interned, so that what is found is
exactly what the composite stands for; a guess that is wrong is only not found. Of several the one that stands for most
ops is taken, from the outputs down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from tdagger.composite import Composite
from tdagger.graph import Graph, applied, bulk, label
from tdagger.network import N, Origin
from tdagger.op import Value
from tdagger.ops.structure import Permute, item
from tdagger.transform.idioms import IDIOMS
from tdagger.transform.raising.bodies import composite_of, core_body, matched
from tdagger.transform.raising.cone import Guesses
from tdagger.transform.raising.guesses import guesses
from tdagger.transform.raising.products import counted, einsum
from tdagger.transform.rewrite import rewritten
from tdagger.transform.surgery.edit import finished, with_checks

#: A composite of one result whose body has more ops than these isn't looked for.
LARGEST = 400
#: Bodies of no more values (divide, subtract) give way to larger ones that end inside them.
_SMALL = 4


class Chosen(NamedTuple):
    """What stands for a value: a composite on arguments; of several results, those that stand for values."""

    op: Composite
    args: tuple[Value, ...]
    results: tuple[Value, ...] = ()


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
    chosen: dict[Value, tuple[Chosen, int | None]] = {}
    present = {v: i for i, v in enumerate(graph.values)}
    needed = {*graph.inputs.values(), *graph.outputs.values(), *graph.updates.values()}
    for value in reversed(graph.values):
        if value not in needed:
            continue
        index = counted(value)
        if index is not None:
            at, op, args = index
            tensor = args[0]
            if at not in chosen and (not tensor.args or present[tensor] < present[at]):  # not made of the index
                chosen[at] = Chosen(op, args), None
        best = None if value in chosen else _best(value, present)
        if best is not None:
            chosen.update({r: (best, i) for i, r in enumerate(best.results)} if best.results else {value: (best, None)})
        needed.update(chosen[value][0].args if value in chosen else value.args)
    new: dict[Value, Value] = {}
    carried: dict[Value, Origin] = {}
    with bulk():
        for value in graph.values:
            if value not in needed:
                continue
            choice, result = chosen.get(value, (value, None))
            args = tuple([new[a] if a.args else new.setdefault(a, a) for a in choice.args])  # leaves may come late
            made = value if choice is value and args == value.args else choice.op(*args)
            new[value] = made if result is None else item(made, result)
            if value in origins:
                carried[made] = carried[new[value]] = origins[value]
    inputs, outputs, updates = ({k: new[v] for k, v in d.items()} for d in (graph.inputs, graph.outputs, graph.updates))
    counts = Counter(c.op.name for c in {c for c, _ in chosen.values()})
    return Graph(inputs, outputs, updates, graph.name, new.values()), carried, dict(counts)


def _best(value: Value, present: Container[Value]) -> Chosen | None:
    """The composite that stands for most ops of those whose bodies end at a value, and its arguments.

    Of composites with several results, the one that stands for most values that there are. An einsum, which could be
    most of them with their arguments' permutations, only where nothing else ends there or at what is permuted.
    """
    best, size = _largest(value, guesses(value), present)
    if best is None:
        found, _ = _largest(value, einsum(value), present)
        if found is None or not isinstance(value.op, Permute):
            return found
        return found if _largest(value.args[0], guesses(value.args[0]), present)[0] is None else None
    if size <= _SMALL and any(_larger(a, size) for a in value.args if a not in best.args):
        return None
    return best


def _largest(value: Value, proposed: Guesses, present: Container[Value]) -> tuple[Chosen | None, int]:
    """Of some guesses the one that stands for most, and how many values its body has."""
    most, best = (0, 0), None
    tried: set[Any] = set()
    for guess in proposed:
        op = composite_of(guess)
        key = (op, guess.types, guess.result)
        if op is None or key in tried:
            continue
        tried.add(key)
        body = core_body(op, guess.types)
        # of several results, a body is as long as it has steps
        if body is None or (guess.result is None and not most[1] < len(body) <= LARGEST):
            continue
        args = matched(body, value, guess.result or 0)
        if args is None:
            continue
        results = () if guess.result is None else applied(body, args)
        size = (sum(r in present for r in results), len(body))
        if size > most:
            most, best = size, Chosen(op, args, results)
    return best, most[1]


def _larger(inner: Value, size: int) -> bool:
    """Whether a larger body ends at a value that a small one would cover: a sigmoid in what looks like a division."""
    return any(
        op is not None
        and (body := core_body(op, g.types)) is not None
        and size < len(body) <= LARGEST
        and matched(body, inner)
        for g in guesses(inner)
        if g.result is None
        for op in (composite_of(g),)
    )
