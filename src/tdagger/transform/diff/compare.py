"""Two networks compared: aligned, run in float64 unless only their structure is asked for, and judged."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tdagger.graph import Graph, bulk
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.ops.structure import Group, Item, Permute, Repeat, Ungroup
from tdagger.transform.diff.align import Aligner, Alignment, Result, Side, is_leaf, paired_leaves
from tdagger.transform.diff.classes import Classes
from tdagger.transform.diff.exact import Exact, wide, working_type
from tdagger.transform.diff.inputs import (
    given_inputs,
    paired_inputs,
    paired_outputs,
    paired_results,
    random_inputs,
    taken,
    typed,
)
from tdagger.transform.diff.judge import Difference, Judge
from tdagger.transform.diff.measure import Measure, measured
from tdagger.transform.diff.relate import Relation, Weights
from tdagger.transform.diff.spelling import Spelled, spelled_alike
from tdagger.types import each_type


@dataclass(frozen=True)
class Found:
    """What a comparison found.

    ``verdict`` is same, rounding or different, or "" where nothing was run; ``differences`` are those of ops, the first
    one first; ``errors`` has of every output how far it is off, what rounding allows, and its largest number.
    ``written`` counts the values of B that are written as in A, ``of`` all of them.
    """

    verdict: str
    differences: tuple[Difference, ...]
    alignment: Alignment
    errors: Mapping[str, tuple[float, float, float]]
    written: int
    of: int


def compared(
    a: Any,
    b: Any,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    run: bool = True,
    measures: tuple[Measure, Measure] | None = None,
) -> Found:
    """Compare two networks (TensorDAGs) on inputs of A by name, or on random ones; unless ``run``, by structure alone.

    ``measures`` are executions of A and of B whose values are compared too.
    InputError if inputs or outputs of the networks don't go together, or what is given are no inputs of A.
    """
    with bulk(), np.errstate(all="ignore"):
        return _compared(a, b, inputs, seed, run, measures)


def _compared(
    a: Any, b: Any, inputs: Mapping[str, Any] | None, seed: int, run: bool, measures: tuple[Measure, Measure] | None
) -> Found:
    pairs = paired_inputs(a.graph, b.graph) if run else likely(a.graph.inputs, b.graph.inputs)
    drawn: dict[str, Array] = {}
    if run:
        drawn = random_inputs(a.graph, b.graph, pairs, seed) if inputs is None else given_inputs(a.graph, inputs)
    outputs = paired_outputs(a, b, pairs, drawn) if run else []
    results = paired_results(a.graph, b.graph, outputs) if run else likely_results(a.graph, b.graph)
    exact = Exact(working_type(a.graph), working_type(b.graph))
    sides = [side_of(n, exact if run else None) for n in (a, b)]
    aligner = _aligned(sides[0], sides[1], results, pairs, exact, run)
    alignment = aligner.align()
    if not run:
        return Found("", (), alignment, {}, len(alignment.same), len(b.graph.values))
    respelled = False
    owners: tuple[Mapping[Value, Value], ...] = ({}, {})
    weights = Weights(a.weights, b.weights, sides[0].digests)
    if not aligner.done or (aligner.classes.inside and not _hold_the_same(aligner, weights)):
        spelled = spelled_alike(a, b)
        owners = spelled[0].owner, spelled[1].owner
        if spelled[0].graph is not a.graph or spelled[1].graph is not b.graph:
            respelled = True
            sides = [_written_as(side, s) for side, s in zip(sides, spelled, strict=True)]
            results = paired_results(sides[0].graph, sides[1].graph, outputs)
            aligner = _aligned(sides[0], sides[1], results, pairs, exact, run)
            aligner.align()
    judge = Judge(aligner, results, exact, weights, drawn, pairs, seed)
    judge.run()
    if judge.behind:
        aligner.pair_anew(judge.behind)
        judge = Judge(aligner, results, exact, weights, drawn, pairs, seed)
        judge.run()
    differences, errors = judge.differences(), judge.errors()
    off = any(not error <= bound for error, bound, _ in errors.values())
    if off and not any(d.matters for d in differences):
        first = judge.first_bad()
        differences = [*([] if first is None else [first]), *differences]
    matter = off or any(d.matters for d in differences)
    same = not respelled and _is_same(aligner, judge, results)
    verdict = "different" if matter else "same" if same else "rounding"
    if measures is not None and not matter:
        theirs = typed(b.graph, taken(b.graph, pairs, drawn))
        first, equal, errors = measured(judge, results, measures[0](typed(a.graph, drawn)), measures[1](theirs), seed)
        differences = [*([] if first is None else [first]), *differences]
        verdict = "different" if first is not None else verdict if equal else "rounding"
    written = sum(r == Relation.LITERAL for r, _ in judge.related.values())
    named = tuple(_owned(differences, *owners))
    return Found(verdict, named, alignment, errors, written, len(sides[1].graph.values))


def _written_as(side: Side, spelled: Spelled) -> Side:
    """A side in another spelling, where what stands for a value is in its module."""
    owner = spelled.owner

    def where(value: Value) -> str:
        return side.where(owner.get(value, value))

    return side._replace(graph=spelled.graph, where=where)


def _owned(
    differences: Iterable[Difference], a: Mapping[Value, Value], b: Mapping[Value, Value]
) -> Iterator[Difference]:
    """Differences of the networks as they are: inside of composites, they are those of the composite.

    What only one network has inside of a composite is told with that composite's partner, if another difference is.
    """
    told = [(d, (d.a and a.get(d.a, d.a), d.b and b.get(d.b, d.b))) for d in differences]
    paired = {v for _, of in told if None not in of for v in of}
    seen: set[Any] = set()
    for d, of in told:
        inside = (d.b in b and of[1] in paired) if d.a is None else d.b is None and d.a in a and of[0] in paired
        if of not in seen and not inside:
            seen.add(of)
            yield d._replace(a=of[0], b=of[1])


def _hold_the_same(aligner: Aligner, weights: Weights) -> bool:
    """Whether all weights that go together are equal up to rounding."""
    own = {n for n in aligner.leaves if n in weights.b and aligner.leaves[n] in weights.a}
    return all(weights.compared(aligner.leaves[n], n)[1] for n in own if n in aligner.b.digests)


def _is_same(aligner: Aligner, judge: Judge, results: list[Result]) -> bool:
    """Whether both networks do the same on the same weights: no op stands for others, nothing is rounded otherwise."""
    if not aligner.done or aligner.classes.inside or any(r.a.type is not r.b.type for r in results):
        return False
    for b, (relation, _) in judge.related.items():
        a = aligner.a_of.get(b)
        if relation in (Relation.ROUNDED, Relation.NAMED) or (a is not None and each_type(a.type) != each_type(b.type)):
            return False
        if relation == Relation.EXTRA and not _moves(b):
            return False
    return all(v in aligner.b_of or is_leaf(v) or _moves(v) for v in aligner.a.graph.values)


def _moves(value: Value) -> bool:
    """Whether a value is one that was moved, or a constant."""
    return isinstance(value.op, Const | Group | Ungroup | Permute | Repeat | Item)


def _aligned(a: Side, b: Side, results: list[Result], pairs: Mapping[str, str], exact: Exact, run: bool) -> Aligner:
    """The pairs: by what weights hold, if that makes the results the same, else by their names too.

    Composites are seen as one op first: of networks that are written alike nothing else need be looked at.
    """
    by_name = paired_leaves(a, b, pairs, by_content=False)
    by_content = [paired_leaves(a, b, pairs, by_content=True)] if run else []
    by_content = [leaves for leaves in by_content if leaves != by_name]
    tries = [(leaves, inside) for inside in (False, True) for leaves in (*by_content, by_name)]
    for leaves, inside in tries[:-1]:
        aligner = Aligner(a, b, results, Classes(exact, inside), leaves)
        if aligner.done:
            return aligner
    return Aligner(a, b, results, Classes(exact, True), by_name)


def side_of(network: Any, exact: Exact | None) -> Side:
    """A network as it is compared; without ``exact`` no weights are read."""
    origins: Mapping[Value, Any] = network.origins

    def where(value: Value) -> str:
        origin = origins.get(value)
        return origin.module if origin else ""

    leaves = [v.op for v in network.graph.values if isinstance(v.op, Parameter | Buffer)] if exact is not None else []
    digests = {op.leaf: digest(network.weights[op.leaf], exact) for op in leaves}
    if exact is None:
        return Side(network.graph, where, digests)

    @cache
    def entries(name: str) -> Hashable:
        return _entries(network.weights[name], exact) if name in digests else None

    return Side(network.graph, where, digests, entries=entries)


def _as_compared(array: Array, exact: Exact | None) -> Any:
    """A weight, rounded to what both networks work in if they work in different types."""
    data: Any = np.asarray(array)
    mixed = exact is not None and exact.mixed and wide(data[:0].reshape(-1)).dtype.kind == "f"
    return data.astype(exact.precision.numpy) if exact is not None and mixed else data


def _entries(array: Array, exact: Exact) -> Hashable:
    """What tells the entries of a weight, wherever they lie; None where they can't lie otherwise.

    It is the sum of numbers that are made of each entry alone, in the integers of 64 bits.
    """
    sizes = [n for n in array.shape if n != 1]
    if len(sizes) < 2:
        return None
    data = np.ascontiguousarray(_as_compared(array, exact)).reshape(-1)
    if data.dtype.itemsize > 8:
        data = data.view(np.float64)
    mixed = data.view(f"u{data.dtype.itemsize}").astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # as splitmix64 mixes bits
        mixed += np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return tuple(sorted(sizes)), data.dtype.name, int(mixed.sum(dtype=np.uint64))


def digest(array: Array, exact: Exact | None) -> bytes:
    """The content of a weight, rounded to what both networks work in if they work in different types."""
    data = _as_compared(array, exact)
    found = hashlib.blake2b(f"{data.dtype.name} {data.shape}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
    return found.digest()


def likely(a: Mapping[str, Value], b: Mapping[str, Value]) -> dict[str, str]:
    """Names of B with those of A: equal ones, then the others in order."""
    rest = [n for n in a if n not in b]
    own = {n: n for n in b if n in a}
    return own | dict(zip([n for n in b if n not in a], rest, strict=False))


def likely_results(a: Graph, b: Graph) -> list[Result]:
    """The outputs and updates that may go together: equal names, then the others in order."""
    found = [Result(m, a.outputs[m], b.outputs[n]) for n, m in likely(a.outputs, b.outputs).items()]
    return found + [Result(m, a.updates[m], b.updates[n]) for n, m in likely(a.updates, b.updates).items()]
