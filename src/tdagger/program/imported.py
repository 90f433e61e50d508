"""The end of an import: the program that was written while a network was imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tdagger.analysis.axes.doubts import of_sizes
from tdagger.graph import Graph, replayed, topological
from tdagger.op import Value
from tdagger.ops.source import Buffer, Input
from tdagger.program.parts import Block, If, Switch
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.simplify import simplified
from tdagger.program.trace import Trace
from tdagger.tensordag import TensorDAG


def program_of(
    trace: Trace, dag: TensorDAG, lengths: Mapping[int, Sequence[tuple[int, Value]]] | None = None
) -> Program:
    """The program that was written while a network was imported: the network is what it gives.

    ``lengths`` are how many entries of a dimension of a result count, by the result's place.
    """
    trace.name = dag.name
    own = [n for n in dag.graph.inputs if n not in trace.slots]
    for name in own:
        trace.taken(name, dag.graph.inputs[name].type)
    trace.mark = ""
    trace.weights, trace.declared = dag.weights, dict(dag.state)
    trace.origins, trace.modules = dict(dag.origins), dict(dag.modules)
    trace.order, trace.left_out = dag.graph.values, of_sizes(dag.left_out)
    updates = dict(dag.graph.updates)
    counts = [count for pairs in (lengths or {}).values() for _, count in pairs]
    results = _with_state(trace, [*counts, *dag.graph.outputs.values(), *updates.values()], list(updates))
    rest = iter(results[: len(counts)])
    told = {i: [(dimension, next(rest)) for dimension, _ in pairs] for i, pairs in (lengths or {}).items()}
    results = results[len(counts) :]
    for name in reversed(updates):
        trace.state[name] = results.pop()
    names = dag.signature.outputs.names("out")
    return _unmarked(simplified(trace.finished(own, results, dag.signature, names, told)))


def _unmarked(program: Program) -> Program:
    """The program without the mark that slots have which aren't the network's own."""
    taken = {*program.inputs, *[n for n in program.slots if not n.endswith("~")]}
    return renamed(program, {n: named(n.rstrip("~"), taken) for n in program.slots if n not in taken})


def _with_state(trace: Trace, results: list[Value], changing: list[str]) -> list[Value]:
    """The results where the buffers that change are slots; so they are in all that was written.

    A buffer is what it was at the start wherever it is read: its new value is written at the end.
    """
    if not changing:
        return results
    new = {Buffer(n, trace.declared[n].type)(): trace.state_of(n) for n in changing}
    roots = [v for d in trace.drafts.values() for v in (*d.writes.values(), *([d.asked] if d.asked else []))]
    for value in topological([*roots, *results]):
        if value not in new:
            made = new[value] = value.op(*[new[a] for a in value.args])
            if value in trace.origins:
                trace.origins.setdefault(made, trace.origins[value])
    for draft in trace.drafts.values():
        draft.writes = {n: new[v] for n, v in draft.writes.items()}
        draft.asked = None if draft.asked is None else new[draft.asked]
    trace.order = [new.get(v, v) for v in trace.order]
    return [new[v] for v in results]


def renamed(program: Program, names: Mapping[str, str]) -> Program:
    """The program with other names of some slots, which must not be taken."""

    def of(name: str) -> str:
        return names.get(name, name)

    origins = dict(program.origins)
    blocks: dict[str, Block] = {}
    for key, block in program.blocks.items():
        inputs = {n: Input(of(n), v.type)() for n, v in block.graph.inputs.items()}
        new = replayed(block.graph, {v: inputs[n] for n, v in block.graph.inputs.items()})
        for old, value in new.items():
            if old in program.origins:
                origins.setdefault(value, program.origins[old])
        outputs = {of(n): new[v] for n, v in block.graph.outputs.items()}
        graph = Graph({of(n): v for n, v in inputs.items()}, outputs, name=block.graph.name, order=new.values())
        end = block.end._replace(slot=of(block.end.slot)) if isinstance(block.end, If | Switch) else block.end
        blocks[key] = Block(graph, end)
    slots = {of(n): s._replace(lengths=tuple([(i, of(k)) for i, k in s.lengths])) for n, s in program.slots.items()}
    return replace(
        program, slots=slots, blocks=blocks, inputs=tuple(map(of, program.inputs)),
        outputs=tuple(map(of, program.outputs)), origins=origins,
    )  # fmt: skip
