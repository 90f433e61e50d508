"""The network's own ``forward``: what it is called with, what it asks of that, and what it gives back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdagger.analysis.formulas.polynomial import terms_of
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.capture.checks import exception_of
from tdagger.frameworks.torch.emit.classes import bound, state_path
from tdagger.frameworks.torch.emit.codegen import Marked, Statement, Writer, is_reshape
from tdagger.frameworks.torch.emit.sizes import Bindings, is_symbol, labelled
from tdagger.graph import Graph
from tdagger.library.random import SEED
from tdagger.names import identifier, is_attribute, literal
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Iota, Parameter
from tdagger.ops.structure import Item, Permute, Repeat, Slice
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree, container_of
from tdagger.types import Size, TensorType, sizes_as


@dataclass
class Door:
    """How ``forward`` is called: its parameters, the lines that unpack and check them, the inputs' names."""

    parameters: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])
    inputs: dict[Value, str] = field(default_factory=dict[Value, str])
    names: dict[str, Any] = field(default_factory=dict[str, Any])
    #: What is asked of the inputs; the sizes that inputs so far have; names for the dimensions of each.
    checks: list[str] = field(default_factory=list[str])
    told: set[Any] = field(default_factory=set[Any])
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    #: Names that are taken, and that of the dict of keyword arguments that can't be parameters, if there are any.
    taken: set[str] = field(default_factory=lambda: set(_RESERVED))
    others: str = ""


#: What generated code calls by name, and how its own names look.
_RESERVED = {
    *["self", "m", "_", "_then", "_otherwise", "torch", "F", "runtime", "inf", "nan", "forward", "result"],
    *["complex", "float", "Network", "Block", "Entry", "Path", "Tree", "fill", "load", "load_file", "STATE", "MODULES"],
}


_MADE = re.compile(r"(new_|own_|constant_*|buffer)\d+")


_VALUE = re.compile(r"x\d+")


def _identifier(text: str, taken: set[str]) -> str:
    """``text`` as a name that isn't taken, nor one that generated code makes; it is taken then."""
    return identifier(f"input_{text}" if _MADE.fullmatch(text) else text, taken)


def _can_be_parameter(key: str) -> bool:
    return is_attribute(key) and key not in _RESERVED and not _MADE.fullmatch(key)


def door_of(
    dag: TensorDAG, graph: Graph, plain: bool, labels: Mapping[str, Sequence[str]], conditions: Iterable[Condition]
) -> Door:
    """From the signature: leaves are parameters, nested arguments are unpacked, constants are compared."""
    call = Door(labels=labels)
    inputs = iter(graph.inputs.items())
    args, kwargs = dag.signature.inputs.children
    keys = [str(k) for k in kwargs.keys]
    call.taken |= set(keys)
    for tree in args.children:
        _parameter(call, tree, "", inputs, plain)
    if kwargs.children and not plain:
        call.parameters.append("*")
        call.others = "" if all(map(_can_be_parameter, keys)) else _identifier("others", call.taken)
    for key, tree in zip(keys, kwargs.children, strict=True):
        _parameter(call, tree, key, inputs, plain)
    if call.parameters[-1:] == ["*"]:
        call.parameters.pop()
    if call.others:
        call.parameters.append(f"**{call.others}")
        call.lines.append(f"runtime.refuse_others({call.others})")
    for number, kind, message in dict.fromkeys(conditions):
        apart = 0 if kind == "zero" else terms_of(number).get((), 0)
        left = number - apart
        sign = {"zero": "==", "positive": ">=", "other": "!="}[kind]
        if kind == "positive" and all(n < 0 for n in terms_of(left).values()):  # -n >= -512
            left, apart, sign = -left, -apart, "<="
        holds = f"{sizes_as(left, 0)} {sign} {-apart}"
        call.checks.append(f"runtime.check_sizes({holds}, {message!r})")
    return call


def _add(call: Door, key: str, name: str, plain: bool, default: str | None = None) -> str:
    """Add a parameter and give its name: ``name``, or for a keyword argument ``key`` if it can be called so."""
    if not key or _can_be_parameter(key):
        call.parameters.append((key or name) + ("" if default is None else f"={default}"))
        return key or name
    name = _identifier(key, call.taken)
    if plain:
        call.parameters.append(name)
    else:
        call.lines.append(f"{name} = runtime.other({', '.join([call.others, repr(key), *filter(None, [default])])})")
    return name


def _parameter(call: Door, tree: Tree, key: str, inputs: Iterator[tuple[str, Value]], plain: bool) -> None:
    """Add one argument; ``key`` is its keyword, or "" for one by position."""
    taken = call.taken
    if tree.kind == "constant":
        if not plain:
            _constant(call, tree.constant, key)
        return
    leaves = [next(inputs) for _ in range(count(tree))]
    if not leaves:
        if plain:
            return
        name = _add(call, key, "" if key else _identifier("nothing", taken), plain)
    elif not plain and key.rstrip("_") == SEED and leaves[0][1].type is TensorType((), "u64"):
        like = next(iter(call.inputs.values()), None)
        call.inputs[leaves[0][1]] = key
        call.parameters.append(f"{key}=None")
        call.lines.append(f"{key} = runtime.seed_of({key}, {like})")
        return
    elif tree.kind == "leaf":
        name = _add(call, key, "" if key else _identifier(leaves[0][0], taken), plain)
        call.inputs[leaves[0][1]] = name
    else:
        whole = leaves[0][0].rpartition(".")[0] or "args"
        name = _add(call, key, "" if key else _identifier(whole, taken), plain)
    if tree.kind != "leaf":
        for leaf, value in leaves:
            call.inputs[value] = _identifier(leaf, taken)
        structure = _identifier(f"{name}_structure", taken)
        call.names[structure] = tree
        targets = "".join(f"{call.inputs[v]}, " for _, v in leaves)
        unpacked = f"runtime.unpack({(key or name)!r}, {name}, {structure})"
        call.lines.append(
            f"{targets.rstrip() if len(leaves) == 1 else targets[:-2]} = {unpacked}" if leaves else unpacked
        )
    for leaf, value in leaves if not plain else ():
        own = call.inputs[value]
        shape: list[int] = []
        for n in value.type.shape:
            is_first = isinstance(n, Size) and is_symbol(n.formula) and n.formula not in call.told
            call.told |= {n.formula} if isinstance(n, Size) else set()
            shape.append(-1 if is_first else n)
        expected = labelled(value.type, call.labels.get(leaf, ()))
        call.checks.append(f"runtime.check({own}, {own!r}, {expected!r}, {shape})")


def _constant(call: Door, constant: Any, key: str) -> None:
    source = literal(constant)
    name = "" if key else _identifier("option", call.taken)
    name = _add(call, key, name, False, source if key else None)
    call.lines.append(f"runtime.check_constant({name}, {(key or name)!r}, {source})")


def count(tree: Tree) -> int:
    """How many leaves a tree has."""
    return 1 if tree.kind == "leaf" else sum(map(count, tree.children))


def forward_of(writer: Writer, dag: TensorDAG, call: Door, plain: bool,
             baked: dict[str, str], said: str) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """The source of ``forward`` and what its names stand for; ``baked`` names buffers that became constants.

    ``said`` is added to comments of modules.
    """
    graph = writer.graph
    changed = set(dag.graph.updates)
    roots = [*graph.outputs.values(), *graph.updates.values()]
    body: list[Statement] = writer.statements(roots)
    names = dict(call.names)

    def final(value: Value, source: Value, buffer: str = "") -> str:
        text = writer.ref(value)
        return f"{text}.clone()" if (_viewed(source) & changed) - {buffer} else text

    end: list[str] = []
    moved: list[tuple[str, str]] = []
    for name, value in graph.updates.items():
        if isinstance(value.op, Buffer) and value.op.leaf == name:
            continue
        text = final(value, dag.graph.updates[name], name)
        if text.endswith(".clone()"):
            end.append(f"new_{len(moved)} = {text}")
            text = f"new_{len(moved)}"
        moved.append((name, text))
    outputs = [final(v, dag.graph.outputs[n]) for n, v in graph.outputs.items()]
    if plain:  # a trace returns only what an op gives, or an input
        fixed = [isinstance(writer.same(v).op, Parameter | Buffer | Const | Iota) for v in graph.outputs.values()]
        outputs = [f"{t.removesuffix('.clone()')}.clone()" if f else t for t, f in zip(outputs, fixed, strict=True)]
    leaves = iter(outputs)
    result = result_of(dag.signature.outputs, leaves, names, plain, call.taken)
    for check, text in zip([c for c in dag.checks if c.value is not None], leaves, strict=False):
        kind, message = exception_of(check.message)
        end.append(f"if not {text}:\n    raise {kind.__name__}({literal(message)})")
    if moved:
        end.append(f"result = {result}")
        result = "result"
        before: str | None = None
        for name, text in moved:
            owner, _, own = name.rpartition(".")
            tensor = writer.state_tensor(owner, own)
            if name in dag.state and dag.state[name].is_parameter:
                tensor = f"{tensor}.detach()"  # torch lets nobody write to a parameter itself
            copied = f"{tensor}.copy_({text}.detach())"
            guard = writer.guards.get(name)
            if guard is None:
                end.append(copied)
            elif guard == before:
                end[-1] += f"\n    {copied}"
            else:
                end.append(f"if {writer.training(graph.updates[name], guard)}:\n    {copied}")
            before = guard
    end.append(f"return {result}")

    def path(marked: Marked, inside: bool) -> str:
        if plain and not marked.owner and marked.name in constants:
            return marked.name
        whole = f"{marked.owner}.{marked.name}" if marked.owner else marked.name
        return (not inside and not marked.is_flag and baked.get(whole)) or state_path(marked, inside)

    constants = set(writer.constants.values())
    lines = writer.lines(body, end, call.inputs, path, dag.modules, said)
    arguments = {n: v for v, n in call.inputs.items()}
    at_door = Bindings(arguments.items(), None)
    door = map(at_door.filled, call.checks)
    lines = [*call.lines, *door, *bound(lines, arguments, call.taken)]
    code = "".join(f"    {line}\n" for text in lines for line in text.split("\n"))
    return f"def forward({', '.join(['self', *call.parameters])}):\n{code}", names


_VIEWS = {"stop_gradient", "diagonal", "dropout"}


def _viewed(value: Value) -> set[str]:
    """The parameters and buffers that ``value`` may share memory with."""
    while is_reshape(value) or isinstance(value.op, Permute | Slice | Repeat | Item) or value.op.name in _VIEWS:
        value = value.args[0]
    return {value.op.leaf} if isinstance(value.op, Buffer | Parameter) else set()


def result_of(tree: Tree, leaves: Iterator[str], names: dict[str, Any], plain: bool, taken: set[str]) -> str:
    """An expression for the outputs, nested as the source nested them."""
    if tree.kind == "leaf":
        return next(leaves)
    if tree.kind == "constant":
        return literal(tree.constant)
    pairs = list(zip(tree.keys, tree.children, strict=True))
    kind = tree.kind
    if plain:
        pairs = [(k, c) for k, c in pairs if c.kind != "constant"]
        flat = all(c.kind == "leaf" for _, c in pairs) and all(isinstance(k, str) for k, _ in pairs)
        kind = "tuple" if kind in ("tuple", "list") or not flat or not pairs else "dict"
    texts = [(k, result_of(c, leaves, names, plain, taken)) for k, c in pairs]
    if kind == "tuple":
        return f"({''.join(f'{t}, ' for _, t in texts)[: None if len(texts) == 1 else -2].rstrip()})"
    if kind == "list":
        return f"[{', '.join(t for _, t in texts)}]"
    try:
        inner = f"{{{', '.join(f'{literal(k)}: {t}' for k, t in texts)}}}"
    except TypeError as e:
        raise UnsupportedError(f"the network returns a {kind} with a key that can't be written as code: {e}") from e
    if plain or (kind == "dict" and not tree.type):
        return inner
    name = container(tree, names, taken)
    if kind == "dict" or not all(is_attribute(str(k)) for k, _ in texts):
        return f"{name}({'' if kind == 'dict' else '**'}{inner})"
    return f"{name}({', '.join(f'{k}={t}' for k, t in texts)})"


def container(tree: Tree, names: dict[str, Any], taken: set[str]) -> str:
    """The name of a container's class in the generated code, none of those ``taken``."""
    found = container_of(tree)
    known = next((n for n, v in names.items() if v is found), None)
    if known is None:
        name = re.sub(r"\W+", "_", found.__qualname__.replace("<locals>", ""))
        known = _identifier(f"input_{name}" if _VALUE.fullmatch(name) else name, taken)
        names[known] = found
    return known
