"""All blocks of a program as one network, for what looks at all of them or changes them alike.

Its inputs are the slots, its outputs what each block writes: ``0.x`` is what the first block writes to slot x. A slot
is one input, whichever block reads it, so that its axes have one name and weights are shared. What blocks write to a
slot is compared with it, by outputs that are left out again (:func:`divided`), so that their axes are the slot's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from typing import Any

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.doubts import with_sizes_left_out
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.terms import resolve
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.errors import AxisError, GraphError
from tdagger.graph import Graph, topological
from tdagger.names import shown
from tdagger.network import Origin, plain_signature
from tdagger.op import Value
from tdagger.ops.elementwise import equal
from tdagger.ops.source import Const, Input, Iota, Leaf
from tdagger.program.parts import Block, Slot
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.transform import networks
from tdagger.transform.axes import certain
from tdagger.transform.axes.candidates import candidates
from tdagger.transform.passes import optimized
from tdagger.tree import Tree


def joined(program: Program, compared: bool = False) -> TensorDAG:
    """The blocks as one network; ``compared``: besides, what blocks write to a slot is compared with it."""
    inputs: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    blocks = program.blocks.values()
    order = _in_one_order([[v for v in b.graph.values if not isinstance(v.op, Input)] for b in blocks])
    for i, block in enumerate(program.blocks.values()):
        inputs |= block.graph.inputs
        outputs |= {f"{i}.{slot}": v for slot, v in block.graph.outputs.items()}
    inputs |= {n: Input(n, program.slots[n].type)() for n in program.inputs}
    inputs = {n: inputs[n] for n in program.slots if n in inputs}
    if compared:
        for name, value in list(outputs.items()):
            slot = name.partition(".")[2]
            inputs.setdefault(slot, Input(slot, program.slots[slot].type)())
            if value is not inputs[slot]:
                outputs[f"={name}"] = equal(inputs[slot], value)
                if not any(isinstance(v.op, Leaf) and not isinstance(v.op, Const | Iota) for v in topological([value])):
                    del outputs[name]  # a constant has the slot's axes only where it meets the slot
    graph = Graph(inputs, outputs, name=program.name, order=order)
    signature = plain_signature(len(inputs), len(outputs))
    names = {n: p for n, p in program.axis_names.items() if n in inputs}
    return TensorDAG(
        graph, program.weights, signature, program.state, program.origins, program.modules, program.name, names
    )


def _in_one_order(several: Sequence[Sequence[Value]]) -> list[Value]:
    """The values of several graphs in an order that is that of each; one after the other, if there is no such order."""
    place: dict[Value, int] = {}
    for value in chain(*several):
        place.setdefault(value, len(place))
    after: dict[Value, list[Value]] = {v: [] for v in place}
    waits = dict.fromkeys(place, 0)
    for values in several:
        for a, b in pairwise(values):
            after[a].append(b)
            waits[b] += 1
    ready = [(place[v], v) for v, n in waits.items() if not n]
    heapify(ready)
    found: list[Value] = []
    while ready:
        found.append(heappop(ready)[1])
        for value in after[found[-1]]:
            waits[value] -= 1
            if not waits[value]:
                heappush(ready, (place[value], value))
    return found if len(found) == len(place) else list(place)


def divided(program: Program, dag: TensorDAG) -> Program:
    """The program whose blocks write what a changed network of all of them says; slots have the types they have there.

    GraphError where what blocks write and read doesn't fit any more.
    """
    written: list[dict[str, Value]] = [{} for _ in program.blocks]
    for name, value in dag.graph.outputs.items():
        number, _, slot = name.removeprefix("=").partition(".")
        if name.startswith("="):  # what is compared has the slot's axes: a constant, and a dimension that is no axis
            if len(value.args) != 2 or value.args[0] is not dag.graph.inputs.get(slot):
                raise GraphError(f"what block {number} writes to {shown(slot)} isn't compared with it any more")
            value = value.args[1]
        written[int(number)][slot] = value
    types = {n: v.type for n, v in dag.graph.inputs.items()}
    for outputs in written:
        for slot, value in outputs.items():
            types.setdefault(slot, value.type)
    place = {v: i for i, v in enumerate(dag.graph.values)}
    blocks: dict[str, Block] = {}
    for (name, block), outputs in zip(program.blocks.items(), written, strict=True):
        values = sorted(topological(outputs.values()), key=place.__getitem__)
        reads = {v.op.leaf: v for v in values if isinstance(v.op, Input)}
        blocks[name] = Block(Graph(reads, outputs, name=name, order=values), block.end)
    slots = {n: s._replace(type=types.get(n, s.type)) for n, s in program.slots.items()}
    return replace(
        program, slots=slots, blocks=blocks, weights=dag.weights, state=dag.state, origins=dag.origins,
        modules=dag.modules,
    )  # fmt: skip


def changed(program: Program, change: Callable[[TensorDAG], TensorDAG]) -> Program:
    """The program with all of its blocks changed as one network by a pass that keeps types."""
    return divided(program, change(joined(program)))


def with_optimized_blocks(program: Program) -> Program:
    """The default passes for inference on all blocks."""
    return changed(program, optimized)


# --- axes --------------------------------------------------------------------------------------------------


def axes_of(program: Program, names: Any = None) -> NamedAxes:
    """Every dimension of every value of all blocks as a term over named axes; an axis has one name in all of them."""
    dag = joined(program, compared=True)
    given = {**dag.axis_names, **({program.inputs[0]: names} if isinstance(names, str) else dict(names or {}))}
    axes = with_sizes_left_out(Axes(dag.graph), program.left_out)
    return NamedAxes(axes, given, dag.origins)


def unbatched(program: Program, name: str | None, slot: str | None, axis: int | None) -> Program:
    """See :meth:`tdagger.program.program.Program.unbatch`."""
    named = axes_of(program)
    term = networks.term_of(named, name or ("b" if slot is None else None), slot, axis)
    graph, origins = networks.without(named, term, program.origins)
    return _with_axes(program, graph, origins)


def resized(program: Program, sizes: Mapping[str, int], assume: bool) -> Program:
    """See :meth:`tdagger.program.program.Program.resize`."""
    named = axes_of(program)
    _refuse_counted(program, named, sizes)
    found = certain.resized(named, sizes, program.origins, None, assume)
    return _with_axes(program, found.graph, found.origins)


def opened(program: Program, names: Sequence[str] | bool) -> list[tuple[Program, tuple[Condition, ...]]]:
    """The program with axes of any size, at two points of sizes, and what these must fulfil.

    ``names`` are those of axes, True all that can be. AxisError names the axis that can't be, the block and why.
    """
    named = axes_of(program)
    found = candidates(named, _by_blocks(program), frozenset(), None)
    given = {a for n in program.inputs for term in named.axes[named.axes.graph.inputs[n]] for a in resolve(term)}
    free = [n for n in found.names if given.issuperset(resolve(named.term(n)))]
    asked = free if names is True else [names] if isinstance(names, str) else list(names or ())
    for name in asked:
        if name not in free:
            why = found.why.get(name)
            raise AxisError(why or f"axis {shown(name)} isn't one of those that can be: {', '.join(free) or 'none'}")
    _refuse_counted(program, named, {n: named.sizes[n] for n in asked}, f"axis {', '.join(asked)}")
    if not asked:
        return []
    return [(_with_axes(program, o.graph, o.origins), o.conditions)
            for o in found.opened(named, asked, program.origins)]  # fmt: skip


def _by_blocks(program: Program) -> dict[Value, Origin]:
    """Where values came from, with the block that computes each."""
    found: dict[Value, Origin] = {}
    for name, block in program.blocks.items():
        for value in block.graph.values:
            own = program.origins.get(value, Origin())
            found.setdefault(value, own._replace(module=f"block {name}" + (f", {own.module}" if own.module else "")))
    return found


def _refuse_counted(program: Program, named: NamedAxes, sizes: Mapping[str, int], what: str = "") -> None:
    """AxisError for an axis whose entries are taken by what a loop counts: how far it counts is told by no axis."""
    asked = {axis for term in networks.asked_terms(named, sizes) for axis in resolve(term)}
    given = {*program.inputs}
    for value, term, how in named.axes.marks:
        if how not in ("indexes", "scatters into") or not asked & {*resolve(term)}:
            continue
        behind = [v for v in topological(value.args[1:]) if isinstance(v.op, Input) and v.op.leaf not in given]
        if behind:
            told = what or f"resize({', '.join(f'{n}={size}' for n, size in sizes.items())})"
            raise AxisError(
                f"{told}: {value.op} takes entries of {named.dimension(term)} by what slots hold "
                f"({', '.join(shown(v.op) for v in behind)}): how many there are may be a number of the program; "
                "write it for the other size"
            )


def _with_axes(program: Program, graph: Graph, origins: Mapping[Value, Any]) -> Program:
    """A program of a graph with other axes; AxisError where a buffer or a bounded slot would be another."""
    dag = replace(joined(program, compared=True), graph=graph, origins=origins)
    now = {n: v.type for n, v in graph.inputs.items()}
    for name, slot in program.slots.items():
        if (slot.buffer or slot.lengths) and now.get(name, slot.type) is not slot.type:
            what = f"begins as buffer {shown(slot.buffer)}" if slot.buffer else "has sizes that vary"
            raise AxisError(f"slot {shown(name)} {what}, and would be {now[name]} instead of {slot.type}")
    weights = {**graph.parameters, **graph.buffers}
    for name, value in weights.items():
        if program.state[name].type is not value.type:
            raise AxisError(f"weight {shown(name)} would be {value.type} instead of {program.state[name].type}")
    return divided(program, dag)


# --- what a program is called with -------------------------------------------------------------------------


def without_arguments(tree: Tree, gone: Sequence[bool]) -> Tree:
    """The structure of arguments without some of its tensors, which must be arguments of their own."""
    rest = iter(gone)

    def kept(tree: Tree, top: bool) -> Tree:
        if tree.kind == "leaf" or not tree.children:
            return tree
        pairs: list[tuple[Any, Tree]] = []
        for key, child in zip(tree.keys, tree.children, strict=True):
            if child.kind == "leaf":
                if not next(rest):
                    pairs.append((key, child))
                elif not top:
                    pairs.append((key, Tree("constant")))
            else:
                pairs.append((key, kept(child, False)))
        keys = tuple(range(len(pairs))) if tree.kind in ("tuple", "list") else tuple(k for k, _ in pairs)
        return tree._replace(keys=keys, children=tuple(c for _, c in pairs))

    args, kwargs = tree.children
    return tree._replace(children=(kept(args, True), kept(kwargs, True)))


def used_slots(program: Program) -> dict[str, Slot]:
    """The slots that something reads or writes."""
    used = {*program.inputs, *program.outputs, *[n for n, s in program.slots.items() if s.buffer]}
    for block in program.blocks.values():
        used |= {*block.reads, *block.writes} | ({block.asks} if block.asks else set[str]())
    used |= {length for n in used for _, length in program.slots[n].lengths}
    return {n: s for n, s in program.slots.items() if n in used}
