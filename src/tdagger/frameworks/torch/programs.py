"""Programs of torch: a network with loops and branches on data, imported as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tdagger.frameworks.torch.importer import from_torch as network_of
from tdagger.graph import topological
from tdagger.later import later
from tdagger.op import Value
from tdagger.ops.source import Buffer
from tdagger.program.program import Program
from tdagger.program.simplify import simplified
from tdagger.program.trace import Trace, traced
from tdagger.tensordag import TensorDAG


def from_torch(model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Program:
    """See :meth:`tdagger.program.program.Program.from_torch`.

    The network is imported as always, while a program is written: what is a loop or branch on data ends the block that
    is written, and its results stand for slots.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return later("torch.program_from_torchscript")(model, args, kwargs, **options)
    trace = Trace("program", mark="~")
    dag: TensorDAG = traced(trace, lambda: network_of(model, args, kwargs, **options, sizes="alone"))
    return program_of(trace, dag)


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
    trace.order = dag.graph.values
    updates = dict(dag.graph.updates)
    counts = [count for pairs in (lengths or {}).values() for _, count in pairs]
    results = _with_state(trace, [*counts, *dag.graph.outputs.values(), *updates.values()], list(updates))
    rest = iter(results[: len(counts)])
    told = {i: [(dimension, next(rest)) for dimension, _ in pairs] for i, pairs in (lengths or {}).items()}
    results = results[len(counts) :]
    for name in reversed(updates):
        trace.state[name] = results.pop()
    names = dag.signature.outputs.names("out")
    return simplified(trace.finished(own, results, dag.signature, names, told))


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
