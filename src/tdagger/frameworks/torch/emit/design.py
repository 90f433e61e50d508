"""What a module is made of: parts by their paths, with the axes open that can be, and the tensors of its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tdagger.analysis.formulas.symbolic import Condition
from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, AxisError, InputError, TypeMismatchError, UnsupportedError
from tdagger.frameworks.torch.emit.blocks import Division, with_passed
from tdagger.frameworks.torch.emit.classes import Classes, Part, row_of, used_names
from tdagger.frameworks.torch.emit.codegen import Marked, Writer
from tdagger.frameworks.torch.emit.composites import is_known
from tdagger.frameworks.torch.emit.core import cannot
from tdagger.frameworks.torch.emit.forward import door_of, forward_of
from tdagger.frameworks.torch.emit.layers import COUNTER, counts, in_place
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.frameworks.torch.emit.module import Entry, Source
from tdagger.frameworks.torch.emit.proven import layer_of
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy
from tdagger.graph import Graph, branches
from tdagger.names import shown
from tdagger.network import declared
from tdagger.op import Value
from tdagger.ops.source import Buffer, Leaf
from tdagger.tensordag import Origin, TensorDAG, Weight
from tdagger.transform.axes.candidates import Candidates
from tdagger.types import Size, readable


@dataclass
class Making:
    """What a design is made from: a network, the tensors of its state, and how it is written.

    ``conditions`` are those of sizes, ``labels`` names of the inputs' dimensions, ``why`` says why axes are fixed.
    """

    dag: TensorDAG
    entries: list[Entry]
    plain: bool = False
    flat: bool = False
    writer_of: Callable[..., Writer] = Writer
    conditions: Sequence[Condition] = ()
    labels: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    why: dict[str, str] = field(default_factory=dict[str, str])
    #: Inputs that modules take for their sizes, by the modules' paths.
    shaped: Mapping[str, Sequence[Value]] = field(default_factory=dict[str, Sequence[Value]])


class Design(NamedTuple):
    """What a module is made of: parts by their paths, those around them first; its state; whether it trains."""

    parts: dict[str, Part]
    state: list[Entry]
    trains: bool
    fixed: Mapping[str, str] = {}


def design_of(dag: TensorDAG, copy: bool, free: Candidates | None) -> Design:
    """What :func:`to_torch` assembles: with the axes open that can be."""
    made = Making(dag, list(entries_of(dag, dict(dag.state) or declared(dag.graph), copy)))
    if free is None:
        return designed(made)
    state = {e.path for e in made.entries}
    named = dag.axes()
    made.labels |= {n: list(map(named.dimension, named[v])) for n, v in dag.graph.inputs.items()}
    made.why |= free.why

    def tried(names: Sequence[str]) -> Design | str:
        """The design with some axes open, or why they can't be."""
        try:
            opened = free.opened(named, names, dag.origins)
            other = _written_out(dag.graph) - _written_out(opened[0].graph)
            if other:
                return f"torch's own {', '.join(sorted(other))} doesn't take the sizes of the example"
            designs = [
                designed(replace(made, dag=replace(dag, graph=o.graph, origins=o.origins), conditions=o.conditions))
                for o in opened
            ]
        except (AxisError, AttributeValueError, TypeMismatchError) as e:
            return shown(readable(str(e)).splitlines()[0])
        other = _difference(designs[0], designs[1], state)
        return designs[0] if other is None else other

    names = list(free.names)
    found = tried(names) if names else "no axis is free"
    if isinstance(found, str) and len(names) > 1:
        each = {n: tried([n]) for n in names}
        made.why |= {n: d for n, d in each.items() if isinstance(d, str)}
        names = [n for n in names if n not in made.why]
        found = tried(names) if len(names) > 1 else found
        if isinstance(found, str) and names:  # not together: the first of them alone
            made.why |= dict.fromkeys(names[1:], found)
            found = each[names[0]]
    if isinstance(found, Design):
        return found
    made.why |= dict.fromkeys(names, found)
    return designed(made)


def freest_design(dag: TensorDAG, copy: bool, prepared: Callable[[TensorDAG], TensorDAG] = lambda dag: dag) -> Design:
    """The design with axes open, of the network as its source gives it at the sizes at which most can be."""
    other = dag.freest
    design = design_of(prepared(other), copy, other.open_axes)
    if other is not dag and not design.fixed.keys().isdisjoint(other.open_axes.names):
        return design_of(prepared(dag), copy, dag.open_axes)  # what isn't open has the sizes of the example
    return design


def _written_out(graph: Graph) -> set[str]:
    """The composites that torch has no function for at some sizes."""
    return {v.op.name for v in graph.values if isinstance(v.op, Composite) and not is_known(v)}


def _difference(a: Design, b: Design, state: set[str]) -> str | None:
    """What differs between two designs of a network whose sizes have no numbers; None if nothing does."""
    if a.parts.keys() != b.parts.keys():
        return "modules of another kind at other sizes"
    for path, part in a.parts.items():
        other = b.parts[path]
        if part == other:
            continue
        one, two = ("" if p.source is None else p.source.code for p in (part, other))
        lines = [(x, y) for x, y in zip(one.splitlines(), two.splitlines(), strict=False) if x != y]
        told = readable(f": {lines[0][0].strip()} and {lines[0][1].strip()}") if lines else ""
        return f"the code of {shown(path) or 'the network'} is another at other sizes{told}"
    one, two = ([e for e in d.state if e.path not in state] for d in (a, b))
    for x, y in zip(one, two, strict=False):
        if x.path != y.path or not torch.equal(x.tensor, y.tensor):
            return f"the constant {shown(x.path)} is another at other sizes"
    return None if len(one) == len(two) else "constants are others at other sizes"


def _inputs_with(symbols: set[str], graph: Graph) -> list[Value]:
    """Inputs of a network that have these axes."""
    left = set(symbols)
    found: list[Value] = []
    for value in graph.inputs.values():
        has = {str(n.formula) for n in value.shape if isinstance(n, Size)} & left
        if has:
            left -= has
            found.append(value)
    return found


def designed(made: Making) -> Design:
    """What is assembled, at the sizes that the network has."""
    dag, plain, writer_of = made.dag, made.plain, made.writer_of
    graph, origins = legalize(dag.graph, is_known, dag.origins)
    refuse_unsupported(graph, origins)
    flat = made.flat or plain
    trains = any(map(_trains, graph.values))
    state = dict(dag.state) or declared(graph)
    entries = list(made.entries)
    modules = {p: kind for p, kind in dag.modules.items() if p}
    paths = _paths(state, modules)
    whole = dag.graph
    written: set[str] = set()
    if flat:
        division = Division(graph, origins, {}, state, lambda *_: None)
    else:
        marked, told = with_passed(whole, dag.origins)
        division = Division(marked, told, modules, state, lambda c, n, s: layer_of(c, n, s, trains), made.shaped)
        written = in_place(division.calls, marked, told)
    names: dict[str, Any] = {}
    classes = Classes(dag, state, paths, trains, writer_of, names)
    parts: dict[str, Part] = {}
    guards: dict[str, str] = {}
    for call in division.calls[:-1]:
        if call.layer is not None and call.path in written:
            call.layer = replace(call.layer, settings=(*call.layer.settings, ("inplace", True)))
        if call.path not in parts:
            parts[call.path] = classes.part(call)
            counter = f"{call.path}.{COUNTER}"
            if call.layer is not None and counter not in state and counts(call.layer):
                entries.append(Entry(counter, torch.tensor(0)))
        entries += classes.constants_of(call)
        guards |= classes.guards_of(call)
    more = {p: _inputs_with(s, whole) for p, s in classes.unbound.items()}
    if any(set(inputs) - set(made.shaped.get(p, ())) for p, inputs in more.items()):
        return designed(replace(made, shaped={**made.shaped, **more}))
    if classes.unbound:
        raise AxisError(f"{shown(next(iter(classes.unbound)))} needs a size that its arguments don't tell")
    call = door_of(dag, graph, plain, made.labels, made.conditions)
    if not flat:
        computing = {o.module for v in whole.values if (o := dag.origins.get(v)) is not None}
        computing |= {v.op.leaf.rpartition(".")[0] for v in whole.values if isinstance(v.op, Leaf)}
        call.lines += _not_called(modules, parts, computing)
    root = division.root
    own, origins = legalize(root.graph, is_known, root.origins)
    writer = writer_of(own, row_of, origins, {"", *paths})
    writer.state = set(state)
    writer.trains = trains
    writer.lists = classes.lists("")
    writer.guards = guards
    names |= writer.names
    writer.names = names
    while any(n.startswith(writer.constant) for n in (*state, *paths)):
        writer.constant += "_"
    baked = {e.path: f"buffer{i}" for i, e in enumerate(entries) if plain and _is_fixed(e, graph)}
    writer.apart = {Marked(p.rpartition(".")[0], p.rpartition(".")[2]) for p in baked}
    code, found = forward_of(writer, dag, call, plain, baked, "" if flat else ": here, not in its module")
    constants = {n: classes.tensor(v) for v, n in writer.constants.items()}
    found |= used_names(names, code)
    if plain:
        found |= constants | {baked[e.path]: e.tensor for e in entries if e.path in baked}
        entries = [e for e in entries if e.path not in baked]
    else:
        entries += [Entry(name, tensor, False) for name, tensor in constants.items()]
    rest = {p: parts.get(p) or classes.holder(p, modules.get(p, ""), paths[p]) for p in paths}
    return Design({"": Part(Source(code, found, dag.name, True)), **rest}, entries, trains, made.why)


def _not_called(modules: Mapping[str, str], parts: Mapping[str, Part], computing: set[str]) -> Iterator[str]:
    """Comments that name the modules without others whose calls left nothing that could be called."""
    around = {p.rpartition(".")[0] for p in modules}
    for path, kind in modules.items():
        if path not in around and path not in parts and path not in computing:
            yield f"# {shown(path)} ({shown(kind)}): not called, the graph has nothing of its own for it"


def _paths(state: Mapping[str, Weight], modules: Iterable[str]) -> dict[str, list[str]]:
    """The path of every module and the names of those in it, those around first.

    The order is that of the state where it tells, else that of calls.
    """
    held: dict[str, list[str]] = {"": []}
    for names in ([n.rpartition(".")[0] for n, w in state.items() if w.persistent], modules,
                  [n.rpartition(".")[0] for n in state]):  # fmt: skip
        before: dict[str, str] = {}
        for path in names:
            around = ""
            for name in path.split(".") if path else ():
                own = held[around]
                if name not in own:
                    at = own.index(before[around]) + 1 if around in before and names is modules else len(own)
                    own.insert(0 if around not in before and names is modules else at, name)
                before[around] = name
                around = f"{around}.{name}" if around else name
                held.setdefault(around, [])
    found: dict[str, list[str]] = {}
    waiting = [""]
    while waiting:
        path = waiting.pop()
        found[path] = held[path]
        waiting += [f"{path}.{name}" if path else name for name in reversed(held[path])]
    return {p: names for p, names in found.items() if p}


def _trains(value: Value) -> bool:
    """Whether a value is what only training computes: dropout, or a norm that moves its running statistics."""
    if value.op.has_branches:
        return any(_trains(v) for branch in branches(value) for v in legalize(branch, is_known, {})[0].values)
    if value.op.name in ("batch_norm_train", "instance_norm_train"):
        return len(value.args) > 1 and isinstance(value.args[1].op, Buffer)
    return value.op.name in ("dropout_train", "alpha_dropout_train")


def _is_fixed(entry: Entry, graph: Graph) -> bool:
    """Whether a tensor is neither saved nor changed, so that tracing may see it as a constant."""
    return not entry.persistent and not isinstance(entry.tensor, nn.Parameter) and entry.path not in graph.updates


def refuse_unsupported(graph: Graph, origins: dict[Value, Origin]) -> None:
    """UnsupportedError names the ops of a graph that torch can't compute."""
    found: Counter[str] = Counter()
    places: dict[str, str] = {}
    for value in graph.values:
        if isinstance(value.op, Composite | Leaf) or value.op.name in ("const", "iota", "item"):
            continue
        why = cannot(value)
        if why is not None:
            found[why] += 1
            origin = origins.get(value)
            places.setdefault(why, f" (first in {shown(origin.module or origin.source)})" if origin else "")
    if found:
        told = "; ".join(f"{n} x {why}{places[why]}" for why, n in found.items())
        raise UnsupportedError(f"{shown(graph.name)} can't go to torch: {told}")


#: torch's own tensors lie at multiples of so many bytes.
_ALIGNED = 64


def entries_of(dag: TensorDAG, state: dict[str, Weight], copy: bool) -> Iterator[Entry]:
    """The tensors of the state in order; tied ones are one object."""
    made: dict[str, Tensor] = {}
    lazy = getattr(dag.weights, "tensor", None)
    mapped: bool = getattr(dag.weights, "mapped", False)
    for name, weight in state.items():
        of = weight.alias_of or name
        tensor = made.get(of)
        if tensor is None:
            if of not in dag.weights:
                raise InputError(f"{dag.name}: the weights have no {of!r} ({weight.type}), which its state lists")
            data = None if lazy is None else lazy(of)
            data = from_numpy(dag.weights[of], DTYPES[weight.type.dtype.name]) if data is None else data
            apart = mapped and data.data_ptr() % _ALIGNED != 0  # kernels may round otherwise on memory that isn't
            data = data.detach().clone() if copy or apart else data.detach()
            floating = data.is_floating_point() or data.is_complex()
            tensor = nn.Parameter(data, weight.trainable and floating) if weight.is_parameter else data
            made[of] = made[name] = tensor
        yield Entry(name, tensor, weight.persistent)
