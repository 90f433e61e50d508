"""Programs of scripts: the whole of what a TorchScript module does, its control flow on data and its state."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from tdagger.errors import InputError, UnsupportedError, warn
from tdagger.frameworks.torch import torchscript
from tdagger.frameworks.torch.aten import DTYPES, TORCH_DTYPES
from tdagger.frameworks.torch.aten.aliases import Standing
from tdagger.frameworks.torch.aten.calls import Caller
from tdagger.frameworks.torch.aten.functional import Ref, refuse_shared_writes, warn_of_writes
from tdagger.frameworks.torch.capture.leaves import state_of
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.importer import TorchWeights
from tdagger.frameworks.torch.script.held import changed_by
from tdagger.frameworks.torch.script.numbers import Number, number, value_of
from tdagger.frameworks.torch.script.objects import Given, Growing, Leaf, Union, Varying, Walk, cells, described, owned
from tdagger.frameworks.torch.script.paths import Kinds, Path, Plan
from tdagger.frameworks.torch.script.walk import NeedsNumber, Walker
from tdagger.frameworks.torch.source.archive import load
from tdagger.graph import Graph, bulk
from tdagger.names import shown, untaken
from tdagger.network import Signature, Weight
from tdagger.op import Value
from tdagger.ops.source import Buffer, Parameter
from tdagger.program.imported import program_of
from tdagger.program.program import Program
from tdagger.program.structure import nothing
from tdagger.program.trace import Trace, traced, with_slots
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree, flatten
from tdagger.types import TensorType

#: An attribute of a script may be of at most so many kinds.
_MOST_KINDS = 16

_NUMBERS = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}


@one_at_a_time
def from_torchscript(
    module: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    fixed: Sequence[str] = (),
    bound: int | None = None,
    partial: bool = False,
    external: bool = False,
    name: str = "",
) -> Program:
    """See :meth:`tdagger.program.program.Program.from_torchscript`."""
    script = load(FilePath(module)) if isinstance(module, str | FilePath) else module
    if not isinstance(script, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise InputError(f"Program.from_torchscript takes a script or its file, got {type(module).__name__}")
    reading = _Reading(script, args if isinstance(args, tuple) else (args,), dict(kwargs or {}), fixed)
    while True:
        reading.begin(bound, partial, external, name)
        try:
            with bulk():
                found = traced(reading.trace, reading.network)
        except NeedsNumber as e:
            if e.places <= reading.apart:
                raise UnsupportedError("a size of the script is a number that the data decides") from e
            reading.apart |= e.places
            continue
        if found is None:
            reading.kinds.grew = False
            reading.refuse_many_kinds()
            continue
        dag, lengths = found
        return program_of(reading.trace, dag, lengths)


class _Reading:
    """A script that is read, again and again until it is known what has to be kept apart."""

    def __init__(self, script: Any, args: tuple[Any, ...], kwargs: dict[str, Any], fixed: Sequence[str]) -> None:
        self.script = script
        is_module = isinstance(script, nn.Module)
        self.weights, self.tensors = state_of(script) if is_module else ({}, {})
        self.graph = script.inlined_graph
        self.plan = Plan(self.graph)
        set_names, self.changed = _set_names(script, self.graph)
        self.set_names = set_names | self.changed
        self.args, self.kwargs, self.numbers = _with_numbers(script, is_module, args, kwargs, fixed)
        self.kinds = Kinds()
        self.apart: set[Any] = set()
        self.plans: dict[int, tuple[Any, Plan]] = {}
        self.graphs: dict[Any, Any] = {}

    def begin(self, bound: int | None, partial: bool, external: bool, name: str) -> None:
        """Read it anew."""
        self.title = name or getattr(self.script, "original_name", "") or type(self.script).__name__
        self.trace = Trace(self.title, mark="~")
        self.caller = Caller(external)
        own = dict((*self.script.named_parameters(), *self.script.named_buffers())) if self.weights else {}
        self.walker = Walker(
            self.trace, self.kinds, self.apart, self.set_names, bound, partial, self.weights, self.caller, "", {}, own
        )
        self.walker.plans, self.walker.graphs = self.plans, self.graphs
        self.walker.begins = self.attribute
        self.walker.begun = lambda path: self.attribute(*self.owners[path], path)
        self.owners: dict[str, tuple[Any, str]] = {}
        #: What stands for the kinds of each attribute where a run begins, and the data they begin as.
        self.begun: dict[str, Any] = {}
        self.held: dict[str, torch.Tensor] = {}

    def network(self) -> tuple[TensorDAG, dict[int, list[tuple[int, Value]]]] | None:
        """The script as a network over slots; None if attributes are of more kinds than was known."""
        is_module = isinstance(self.script, nn.Module)
        declared = list(self.graph.inputs())[is_module:]
        inputs, given, tree = torchscript.inputs_of(self.script, declared, self.args, self.kwargs, ())
        self.caller.taken = list(inputs)
        written: set[str] = set()
        for name, ref in zip(inputs, [x for x in torchscript.flat(given) if isinstance(x, Ref)], strict=True):
            ref.cell = Given(inputs[name], name, written)
        examples = flatten((self.args, self.kwargs), lambda x: isinstance(x, torch.Tensor))[0]
        self.walker.merging.aliased = torchscript.writes(self.graph)
        if self.walker.merging.aliased:
            self.walker.standing = Standing()
            for ref, example in zip([x for x in torchscript.flat(given) if isinstance(x, Ref)], examples, strict=False):
                self.walker.standing.put(ref, example)
        given = [_as_declared(v, x, i in self.numbers) for i, (v, x) in enumerate(zip(declared, given, strict=True))]
        path = self.walker.path
        path.envs[0].update(
            zip(self.plan.inputs, [*([torchscript.Object(self.script, "")] * is_module), *given], strict=True)
        )
        end = self._end(self.walker.run(self.plan, path))
        if self.kinds.grew:
            return None
        self.trace.current = end.block
        outputs = end.outputs[0] if len(end.outputs) == 1 else tuple(end.outputs)
        lengths: dict[int, list[tuple[int, Value]]] = {}
        leaves, tree_out = flatten(_tensors(outputs), lambda x: isinstance(x, Ref), "the result")
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Varying):
                lengths[i] = [(0, leaf.length)]
        updates = self._updates(end)
        names = ["out"] if tree_out.kind == "leaf" else tree_out.names("")
        changed = [n for n in inputs if n in written]
        refuse_shared_writes([*changed, *updates], dict(zip(inputs, examples, strict=False)), self.tensors)
        warn_of_writes(changed)
        return self._dag(
            inputs, dict(zip(names, [r.read() for r in leaves], strict=True)), updates, tree, tree_out
        ), lengths

    def _dag(self, inputs: dict[str, Value], outputs: dict[str, Value], updates: dict[str, Value], tree: Tree,
             tree_out: Tree) -> TensorDAG:  # fmt: skip
        signature = self.caller.with_seed(inputs, Signature(tree, tree_out))
        whole = with_slots(inputs, [*outputs.values(), *updates.values()])
        graph = Graph(whole, outputs, updates, name=self.title, order=self.caller.order)
        held = {
            n: Weight(TensorType(tuple(t.shape), DTYPES[t.dtype]), False, False, False) for n, t in self.held.items()
        }
        weights = TorchWeights({**self.tensors, **self.held})
        views = [] if self.walker.standing is None else self.walker.standing.left_out
        return TensorDAG(
            graph, weights, signature, {**self.weights, **held}, self.caller.origins, self.walker.modules, self.title,
            left_out=[*self.caller.left_out, *views],
        )  # fmt: skip

    def _end(self, paths: list[Path]) -> Path:
        """The one way in the end; what was refused is told."""
        walker = self.walker
        if self.caller.problems and not self.caller.external:
            raise self.caller.error()
        if walker.refused and not (walker.partial and paths):
            lines = list(dict.fromkeys(f"{r.why} (at {r.where})" for r in walker.refused))
            raise UnsupportedError(
                "\n".join(["ways through the script can't be imported:", *(f"  {line}" for line in lines)])
                + ("\nWith partial=True they raise when a run takes them" if paths else "")
            )
        if not paths:
            raise InputError(f"the script raises on such inputs: {'; '.join(dict.fromkeys(walker.raised))}")
        for path in paths:
            self._keep(path)
            for name, x in path.attributes.items():
                if not isinstance(x, Union):
                    self.kinds.number(name, x)
        for name in {n for p in paths for n in p.attributes}:
            for path in paths:
                if name not in path.attributes:
                    path.attributes[name] = walker.begun(name)
        for path in paths:
            path.envs, path.frames = [{}], []
        ends = walker.merging.merged(paths, "end", walker.name_of(self.plan))
        if len(ends) > 1:
            told = dict.fromkeys(
                " ".join(str(x.type) for x in described([(("out", 0), p.outputs)]).leaves) for p in ends
            )
            raise UnsupportedError(
                f"the script gives, by the data, {' or '.join(told)}: a program gives one type. Return as many entries "
                "as at most are needed (zeros behind the last: torch.nn.functional.pad), and their number beside them"
            )
        if walker.refused:
            lines = list(dict.fromkeys(f"{r.why.splitlines()[0]} (at {r.where})" for r in walker.refused))
            warn("these ways through the script aren't imported, and raise where a run takes them: " + "; ".join(lines))
        return ends[0]

    def _keep(self, path: Path) -> None:
        """What attributes hold, as tensors of their own; UnsupportedError if two share memory that may be written."""
        holders: dict[int, str] = {}
        for name, x in path.attributes.items():
            if self.walker.standing is not None:
                for cell in cells(x):
                    other = holders.setdefault(id(cell), name)
                    if other != name:
                        raise UnsupportedError(
                            f"the script's attributes {shown(other)} and {shown(name)} share memory after a run, and "
                            "it writes to tensors in place: clone one of them"
                        )
            path.attributes[name] = owned(x)

    # State.

    def attribute(self, owner: Any, name: str, path: str) -> Any:
        """What an attribute that the script sets is where a run begins: one of all kinds that it was found to be."""
        self.owners[path] = (owner, name)
        if path in self.begun:
            return Walk().all([((), self.begun[path])])[0]
        start = super(Walker, self.walker).attribute(owner, name)
        self.kinds.number(path, start)
        kinds = self.kinds.found[path]
        several = len(kinds) > 1
        objects = [self._leaves(path, i, kind if i else start, several) for i, (_, kind) in enumerate(kinds)]
        if several:
            objects = [Union(Number(self._buffer(f"{path}_kind", torch.tensor(0))), objects)]
        self.begun[path] = objects[0]
        return Walk().all([((), self.begun[path])])[0]

    def _leaves(self, path: str, i: int, x: Any, several: bool) -> Any:
        """A kind of an attribute whose tensors and numbers are buffers of the program."""
        count = len([leaf for leaf in described([((), x)]).leaves if leaf.type.size])

        def leaf(found: Leaf) -> Any:
            if isinstance(found.x, Value) and isinstance(found.x.op, Buffer | Parameter):
                return found.x
            if not found.type.size:
                return nothing(found.type)
            own = path if count == 1 else "_".join(map(str, (path, *found.trail)))
            if own in self.held or own in self.weights:
                own = f"{own}_{i}"
            value = self._buffer(
                own, _data(found) if not i else torch.zeros(found.type.shape, dtype=TORCH_DTYPES[found.type.dtype])
            )
            return value if isinstance(found.x, Value) else Number(value)

        return Walk(leaf).all([((), x)])[0]

    def _buffer(self, name: str, data: torch.Tensor) -> Value:
        name = untaken(name, self.held, self.weights)
        self.held[name] = data
        return Buffer(name, TensorType(tuple(data.shape), DTYPES[data.dtype]))()

    def refuse_many_kinds(self) -> None:
        """UnsupportedError for an attribute that is another thing each time."""
        for name, kinds in self.kinds.found.items():
            if len(kinds) > 1 and name.rpartition(".")[2] in self.changed:
                raise UnsupportedError(
                    f"the script changes the list or dict that its attribute {shown(name)} holds, which has other "
                    "entries after a run: state of a program has a type. Keep as many, or set the attribute to another"
                )
            if len(kinds) > _MOST_KINDS:
                told = ", ".join(str(x.type) for _, kind in kinds[:4] for x in described([((), kind)]).leaves)
                raise UnsupportedError(
                    f"the script's attribute {shown(name)} is another thing each time it is set ({told} ...): "
                    "state of a program has a type"
                )

    def _updates(self, end: Path) -> dict[str, Value]:
        """What buffers and attributes are after a run, by their names."""
        now = {n: ref.read() for n, ref in end.weights.items()}
        updates = {n: v for n, v in now.items() if not (isinstance(v.op, Parameter | Buffer) and v.op.leaf == n)}
        for name, x in end.attributes.items():
            begun = self.begun[name]
            found = self.kinds.union(name, x) if isinstance(begun, Union) else x
            for old, new in zip(described([((), begun)]).leaves, described([((), found)]).leaves, strict=True):
                op: Any = old.value.op
                if isinstance(op, Buffer) and new.value is not old.value:
                    updates[op.leaf] = new.value
        return updates


def _data(leaf: Leaf) -> torch.Tensor:
    """What an attribute begins as."""
    value = leaf.value
    return torch.tensor(value.op.run()) if not value.args else torch.from_numpy(_array(value))


def _array(value: Value) -> Any:
    from tdagger.frameworks.known import array_of_constant

    return array_of_constant(value)


def _set_names(script: Any, graph: Any) -> tuple[set[str], set[str]]:
    """The names of attributes that a script may set, and of those that hold what it may change."""
    found: set[str] = set()
    changed: set[str] = set()
    registered: set[str] = set()
    graphs = [graph]
    if isinstance(script, nn.Module):
        registered = {n.rpartition(".")[2] for n, _ in (*script.named_buffers(), *script.named_parameters())}
        parts = [m._c for m in script.modules() if isinstance(m, torch.jit.ScriptModule)]
        graphs += [p._get_method(n).graph for p in parts for n in p._method_names()]
    stack = list(graphs)
    while stack:
        block = stack.pop()
        for node in block.nodes():
            if node.kind() == "prim::SetAttr":
                found.add(node.s("name"))
            changed |= changed_by(node) - registered
            if node.hasAttribute("Subgraph"):
                stack.append(node.g("Subgraph"))
            stack += node.blocks()
    return found, changed


@contextmanager
def attributes_kept(script: torch.jit.ScriptModule) -> Generator[None]:
    """Run a script inside, and leave the attributes that it sets as they were before."""
    names = set[str]().union(*_set_names(script, script.inlined_graph))
    parts = [m._c for m in script.modules() if isinstance(m, torch.jit.ScriptModule)]
    before = [(p, n, deepcopy(p.getattr(n))) for p in parts for n in names if p.hasattr(n)]
    try:
        yield
    finally:
        for part, name, value in before:
            part.setattr(name, value)


def _with_numbers(
    script: Any, is_module: bool, args: tuple[Any, ...], kwargs: dict[str, Any], fixed: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any], set[int]]:
    """Arguments with tensors in the place of numbers, which so are inputs; and which of the declared ones these are."""
    function: Any = script.forward if is_module else script
    declared = function.schema.arguments[is_module:]
    places = {a.name: i for i, a in enumerate(declared)}
    unknown = [n for n in fixed if n not in places]
    if unknown:
        raise InputError(f"the script has no input {', '.join(unknown)} to be fixed: {function.schema}")
    found: set[int] = set()

    def taken(i: int, x: Any) -> Any:
        dtype = _NUMBERS.get(str(declared[i].type))
        if dtype is None or isinstance(x, torch.Tensor) or declared[i].name in fixed:
            return x
        found.add(i)
        return torch.tensor(x, dtype=dtype)

    new = tuple([taken(i, x) if i < len(declared) else x for i, x in enumerate(args)])
    return new, {n: taken(places[n], x) if n in places else x for n, x in kwargs.items()}, found


def _as_declared(declared: Any, x: Any, is_number: bool) -> Any:
    """An input as the script has it."""
    if not is_number:
        return x
    value = x.read()
    return number(value, value.dtype.name)


def _tensors(x: Any) -> Any:
    """A result with its numbers of the data, and real tensors, as refs."""
    if isinstance(x, Number):
        return Ref(value_of(x))
    if isinstance(x, Growing):
        raise UnsupportedError(
            "the script gives a list that grew in a loop on data: a program gives tensors; return torch.stack(list)"
        )
    if isinstance(x, tuple | list):
        return type(x)(_tensors(v) for v in x)
    if isinstance(x, dict):
        return {k: _tensors(v) for k, v in x.items()}
    return torchscript.tensors_of(x)
