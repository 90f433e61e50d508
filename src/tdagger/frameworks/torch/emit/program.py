"""A program as a module: its loops and branches as Python's, the code of each block where it is run.

Two forms have one writer of structures (:class:`_Structure`): Python's ``while`` and ``if`` with the code of blocks in
between, and the same in TorchScript, where blocks are traced functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.emit.classes import row_of, state_path, used_names
from tdagger.frameworks.torch.emit.codegen import Marked, Writer
from tdagger.frameworks.torch.emit.composites import is_known
from tdagger.frameworks.torch.emit.design import entries_of, refuse_unsupported
from tdagger.frameworks.torch.emit.forward import Door, door_of, result_of
from tdagger.frameworks.torch.emit.higher import Higher, dimensions_of, example_of, indented
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.frameworks.torch.emit.module import Entry, GeneratedModule, Source, assembled, empty_module
from tdagger.frameworks.torch.emit.scans import with_scans
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy
from tdagger.graph import Graph, replayed
from tdagger.names import identifier, shown, untaken
from tdagger.network import declared, plain_signature
from tdagger.op import Value
from tdagger.ops.source import Input, Leaf
from tdagger.program.flow import live
from tdagger.program.program import Program
from tdagger.program.simplify import at_end
from tdagger.program.structure import Choose, Fail, Run, Sequence, While, structured
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree

#: What slots may not be called: temporary names, and those that code has for itself.
_TEMPORARY = re.compile(r"x\d+|m|_|case|carried|entry|new_\d+|constant_*\d+|result|(arm|other|then|own|test|body)_\d+")


class _Names:
    """The names of slots in the code, and how it is called."""

    def __init__(self, program: Program) -> None:
        given = {n: Input(n, program.slots[n].type)() for n in program.inputs}
        graph = Graph(given, given, name=program.name)
        stand_in = TensorDAG(graph, {}, replace(program.called, outputs=plain_signature(0, len(given)).outputs))
        self.program = program
        self.door: Door = door_of(stand_in, graph, False, {}, ())
        self.of: dict[str, str] = {n: self.door.inputs[v] for n, v in given.items()}
        for name in program.slots:
            if name not in self.of:
                own = f"slot_{name}" if _TEMPORARY.fullmatch(name) else name
                self.of[name] = identifier(own, self.door.taken)
        lengths = dict.fromkeys([n for s in program.outputs for _, n in program.slots[s].lengths])
        #: How many entries of outputs count, as numbers and not as tensors.
        self.numbers = {n: identifier(f"number_{self.of[n]}", self.door.taken) for n in lengths}

    def begin(self) -> list[str]:
        """The lines that check what is given, fill it up to its bounds, and read the state."""
        program = self.program
        out = list(self.door.lines)
        for name, check in zip(program.inputs, self.door.checks, strict=True):
            slot, own = program.slots[name], self.of[name]
            if not slot.lengths:
                out.append(check)
                continue
            sizes = [-1 if i in dict(slot.lengths) else n for i, n in enumerate(slot.type.shape)]
            out.append(f"runtime.check({own}, {own!r}, {str(slot)!r}, {sizes})")
            for dimension, length in slot.lengths:
                out.append(f"{self.of[length]} = torch.tensor({own}.shape[{dimension}], device={own}.device)")
            out.append(f"{own} = runtime.filled({own}, {own!r}, {list(slot.type.shape)})")
        return out

    def counts(self) -> list[str]:
        """The lines that make numbers of how many entries of outputs count, for a capture that must know bounds."""
        out: list[str] = []
        for name in self.program.outputs:
            slot = self.program.slots[name]
            for dimension, length in slot.lengths:
                own = self.numbers[length]
                out += [f"{own} = {self.of[length]}.item()", f"torch._check({own} >= 0)"]
                out.append(f"torch._check({own} <= {slot.type.shape[dimension]})")
        return out

    def results(self, names: dict[str, Any], plain: bool, counted: bool = False) -> str:
        """The expression for what is given back; by the numbers of :meth:`counts`, if they were ``counted``."""
        leaves: list[str] = []
        for name in self.program.outputs:
            own = self.program.slots[name].lengths
            cuts = {i: self.numbers[n] if counted else f"int({self.of[n]})" for i, n in own}
            last = max(cuts, default=-1)
            parts = [f":{cuts[i]}" if i in cuts else ":" for i in range(last + 1)]
            leaves.append(f"{self.of[name]}[{', '.join(parts)}]" if cuts else self.of[name])
        return result_of(self.program.called.outputs, iter(leaves), names, plain, self.door.taken)


#: Gives the lines that run a block.
_Lines = Callable[[str], list[str]]


class _Structure:
    """Lines for what a program does, as Python's loops and branches."""

    def __init__(self, names: Mapping[str, str], run: _Lines) -> None:
        self.names, self.run = names, run

    def lines(self, sequence: Sequence) -> list[str]:
        out: list[str] = []
        for step in sequence:
            if isinstance(step, Run):
                out += self.run(step.block)
            elif isinstance(step, Choose):
                out += self._choice(step)
            elif isinstance(step, Fail):
                out.append(f"raise ValueError({step.message!r})")
            else:
                out += self._loop(step)
        return out

    def _choice(self, step: Choose) -> list[str]:
        name = self.names[step.slot]
        out = [f"case = int({name})"] if step.by_number else []
        last = len(step.arms) - 1
        arms = [self.lines(a) for a in step.arms]
        if not step.by_number:
            then, otherwise = arms
            if not then:
                return [f"if not {name}:", *indented(otherwise)] if otherwise else []
            return [f"if {name}:", *indented(then), *(["else:", *indented(otherwise)] if otherwise else [])]
        for i, arm in enumerate(arms):
            head = "else:" if i == last else f"{'el' if i else ''}if case == {i}:"
            out += [head, *indented(arm or ["pass"])]
        return out

    def _loop(self, step: While) -> list[str]:
        name = self.names[step.slot]
        before, body = self.lines(step.before), self.lines(step.body)
        found = re.fullmatch(rf"{name} = (.*)", before[0]) if len(before) == 1 else None
        if found is not None:
            asked = f"not ({found[1]})" if step.until else found[1]
            return [f"while {asked}:", *indented(body or ["pass"])]
        leave = f"if {'' if step.until else 'not '}{name}:"
        return ["while True:", *indented([*before, leave, "    break", *body])]


class _Code:
    """The code of blocks, written in the place of each."""

    def __init__(self, program: Program, names: _Names, captured: bool = False) -> None:
        self.program, self.names, self.captured = program, names, captured
        self.constants: dict[Value, str] = {}
        self.called: dict[str, Any] = {}
        self.state = set(program.state)
        self.constant = "constant"
        while any(n.startswith(self.constant) for n in self.state):
            self.constant += "_"
        self._lines: dict[str, list[str]] = {}
        #: How many names values of the blocks before have, where none may be given again: torch.export takes two values
        #: for one that functions in each other call alike, if a third one in both uses them.
        self._numbered = 0
        found = live(program.blocks, at_end(program))
        end = set(at_end(program))
        self.needed = {
            n: (set().union(*[found[t] for t in b.end.targets]) if b.end.targets else end)
            | ({b.asks} if b.asks else set())
            for n, b in program.blocks.items()
        }

    def __call__(self, block: str) -> list[str]:
        if block not in self._lines:
            self._lines[block] = self._written(block)
        return self._lines[block]

    def _written(self, name: str) -> list[str]:
        whole = self.program.blocks[name].graph
        outputs = {n: v for n, v in whole.outputs.items() if n in self.needed[name]}
        if not outputs:
            return []
        kept = Graph(whole.inputs, outputs, name=whole.name, order=whole.values)
        graph, origins = legalize(kept, is_known, self.program.origins)
        refuse_unsupported(graph, origins)
        trains = sorted({v.op.name for v in graph.values if v.op.name.endswith("_train")})
        if trains:
            raise UnsupportedError(f"{shown(self.program.name)} can't go to torch in train mode: {', '.join(trains)}")
        owners = {""} | {n.rpartition(".")[0] for n in self.state}
        writer = Writer(graph, row_of, origins, owners)
        writer.state, writer.constants, writer.constant = self.state, self.constants, self.constant
        writer.names, writer.captured, writer.numbered = self.called, self.captured, self._numbered
        roots = list(graph.outputs.values())
        statements = writer.statements(roots)
        own = self.names.of
        end = [f"{', '.join(own[n] for n in graph.outputs)} = {', '.join(map(writer.ref, roots))}"]
        inputs = {v: own[n] for n, v in graph.inputs.items()}
        lines = writer.lines(statements, end, inputs, state_path, self.program.modules)
        self._numbered = writer.numbered if self.captured else 0
        return _short(lines)


def _short(lines: list[str]) -> list[str]:
    """Lines of which the last names what the one before gives, as one."""
    found = re.fullmatch(r"(x\d+) = (.+)", lines[-2]) if len(lines) > 1 else None
    last = re.fullmatch(r"(\w+) = (x\d+)", lines[-1])
    if found is None or last is None or found[1] != last[2]:
        return lines
    return [*lines[:-2], f"{last[1]} = {found[2]}"]


def to_torch(program: Program, *, copy: bool = False, higher_order: bool = False) -> GeneratedModule:
    """A module with Python's loops and branches; see :meth:`tdagger.program.program.Program.to_torch`."""
    found = structured(program)
    own, whole = with_scans(found) if higher_order else (found.program, ())
    names = _Names(own)
    code = _Code(own, names, captured=higher_order)
    called: dict[str, Any] = dict(names.door.names)
    if higher_order:
        structure = [*Higher(own, names.of, code).whole(whole), *names.counts()]
    else:
        structure = _Structure(names.of, code).lines(found.whole)
    lines = [*names.begin(), *_state_read(names), *structure]
    result = names.results(called, plain=False, counted=higher_order)
    lines += [*_state_written(names), f"return {result}"]
    text = _function(names.door.parameters, lines)
    constants = [Entry(n, from_numpy(_data(v), DTYPES[v.dtype.name]).clone(), False) for v, n in code.constants.items()]
    source = Source(text, used_names({**called, **code.called}, text), program.name, True)
    return _assembled(own, source, copy, constants)


def to_exported_program(program: Program, *, copy: bool = False) -> torch.export.ExportedProgram:
    """An ExportedProgram; see :meth:`tdagger.program.program.Program.to_exported_program`."""
    module = to_torch(program, copy=copy, higher_order=True).eval()
    args, kwargs = program.called.inputs.unflatten(list(example_of(program)))
    open_, named = program.called.inputs.unflatten(list(dimensions_of(program)))
    parameters = [p for p in _Names(program).door.parameters if p != "*"]
    shapes = {**dict(zip(parameters, open_, strict=False)), **named}
    with torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)


def _function(parameters: list[str], lines: list[str]) -> str:
    return f"def forward({', '.join(['self', *parameters])}):\n" + "".join(f"{line}\n" for line in indented(lines))


def _state_read(names: _Names) -> list[str]:
    return [f"{names.of[n]} = {_place(s.buffer)}.clone()" for n, s in names.program.slots.items() if s.buffer]


def _state_written(names: _Names) -> list[str]:
    return [f"{_place(s.buffer)}.copy_({names.of[n]}.detach())" for n, s in names.program.slots.items() if s.buffer]


def _place(name: str) -> str:
    owner, _, own = name.rpartition(".")
    return state_path(Marked(owner, own), False)


def _data(value: Value) -> Any:
    op: Any = value.op
    return op.run()


def _assembled(program: Program, source: Source, copy: bool, more: list[Entry]) -> Any:
    weights = _weights_of(program)
    entries = [*entries_of(weights, dict(weights.state), copy), *more]
    return assembled({"": lambda: empty_module(*source)}, entries, False)


def _weights_of(program: Program) -> TensorDAG:
    """A network that has the program's weights."""
    graph = Graph({}, {})
    state = dict(program.state) or declared(graph)
    return TensorDAG(graph, program.weights, plain_signature(0, 0), state, name=program.name)


# --- TorchScript -------------------------------------------------------------------------------------------


class _Traced:
    """Blocks as traced functions of slots and weights, which a script calls."""

    def __init__(self, program: Program, names: _Names) -> None:
        self.program, self.names = program, names
        self.functions: dict[str, Any] = {}
        self.prefix = "block"
        while any(n.startswith(self.prefix) for n in program.state):
            self.prefix += "_"

    def __call__(self, block: str) -> list[str]:
        graph = self.program.blocks[block].graph
        if not graph.outputs:
            return []
        leaves = [*graph.parameters.values(), *graph.buffers.values()]
        taken = {*graph.inputs}
        weights: dict[Value, Value] = {}
        for leaf in leaves:
            name = untaken(leaf.op.leaf if isinstance(leaf.op, Leaf) else "", taken)
            taken.add(name)
            weights[leaf] = Input(name, leaf.type)()
        key = f"{self.prefix}{len(self.functions)}" if block not in self.functions else ""
        given = {**graph.inputs, **{v.op.leaf: v for v in weights.values() if isinstance(v.op, Leaf)}}
        if block not in self.functions:
            new = replayed(graph, {**{v: v for v in graph.inputs.values()}, **weights})
            outputs = {n: new[v] for n, v in graph.outputs.items()}
            whole = Graph(given, outputs, name=block, order=new.values())
            dag = TensorDAG(whole, {}, plain_signature(len(given), len(outputs)), name=block)
            self.functions[block] = (key, dag.to_torchscript())
        args = [self.names.of[n] for n in graph.inputs]
        args += [_attribute(v.op.leaf) for v in leaves if isinstance(v.op, Leaf)]
        targets = ", ".join(self.names.of[n] for n in graph.outputs)
        return [f"{targets} = self.{self.functions[block][0]}({', '.join(args)})"]


def _attribute(name: str) -> str:
    """The expression of a script for a tensor of the state."""
    out = "self"
    for part in name.split("."):
        out = f"{out}.{part}" if part.isidentifier() else f"getattr({out}, {part!r})"
    return out


def to_torchscript(program: Program, *, copy: bool = False) -> torch.jit.ScriptModule:
    """A ScriptModule with the program's loops and branches, blocks as traced functions; it takes tensors alone."""
    signature = replace(program.called, inputs=_without_settings(program.called.inputs))
    found = structured(replace(program, signature=signature))
    names = _Names(found.program)
    traced = _Traced(found.program, names)
    structure = _Structure(names.of, traced).lines(found.whole)
    lines = [*_checked(names), *_zeros(names), *_scripted_state(names, "read"), *structure]
    called: dict[str, Any] = {}
    lines += [*_scripted_state(names, "write"), f"return {names.results(called, plain=True)}"]
    text = _function([p for p in names.door.parameters if p != "*"], lines)
    source = Source(text, used_names(called, text), program.name, True)
    module = _assembled(found.program, source, copy, [])
    for own, function in traced.functions.values():
        module._modules[own] = function
    return torch.jit.script(module)


def _without_settings(inputs: Tree) -> Tree:
    """The structure of a call without its arguments that are no tensors."""

    def kept(tree: Tree) -> Tree:
        pairs = [(k, c) for k, c in zip(tree.keys, tree.children, strict=True) if c.kind != "constant"]
        keys = range(len(pairs)) if tree.kind == "tuple" else [k for k, _ in pairs]
        return tree._replace(keys=tuple(keys), children=tuple([c for _, c in pairs]))

    return inputs._replace(children=tuple(map(kept, inputs.children)))


def _checked(names: _Names) -> list[str]:
    refused = [line for line in names.door.lines if "runtime." in line]
    if refused:
        raise UnsupportedError(
            f"TorchScript takes tensors one by one, and {shown(names.program.name)} is called with nested arguments"
        )
    return names.begin()


def _zeros(names: _Names) -> list[str]:
    """Values for the slots that have none yet: a script's names must be assigned on every way."""
    slots, known = names.program.slots, names.program.begins_with
    return [
        f"{names.of[n]} = torch.zeros({list(s.type.shape)}, dtype={DTYPES[s.type.dtype.name]})"
        for n, s in slots.items()
        if n not in known
    ]


def _scripted_state(names: _Names, what: str) -> list[str]:
    pairs = [(names.of[n], _attribute(s.buffer)) for n, s in names.program.slots.items() if s.buffer]
    if what == "read":
        return [f"{own} = {place}.clone()" for own, place in pairs]
    return [f"{place}.copy_({own}.detach())" for own, place in pairs]
