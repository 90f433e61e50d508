"""Going to PyTorch: a TensorDAG becomes a readable ``nn.Module``, a ScriptModule or an ExportedProgram."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.utils import _pytree as pytree

from tdagger.composite import Composite
from tdagger.errors import InputError, UnsupportedError, warn
from tdagger.frameworks.torch.capture.checks import exception_of
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.capture.scripting import Literals
from tdagger.frameworks.torch.emit.codegen import Marked, Row, Statement, Writer, is_reshape
from tdagger.frameworks.torch.emit.composites import composite_row, is_known
from tdagger.frameworks.torch.emit.core import CORE, cannot, core_row
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.frameworks.torch.emit.module import Entry, GeneratedModule, empty_module, fill, path_expression
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy
from tdagger.graph import Graph, branches, topological
from tdagger.library.random import SEED
from tdagger.names import identifier, is_attribute, is_identifier, literal, shown
from tdagger.network import declared
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Item, Permute, Repeat, Slice
from tdagger.tensordag import Origin, TensorDAG, Weight
from tdagger.tree import Tree, container_of
from tdagger.types import TensorType


@one_at_a_time
def to_torch(dag: TensorDAG, *, copy: bool = False, checks: bool = False) -> GeneratedModule:
    """A module that computes what ``dag`` says, with the source's state_dict, in eval mode.

    A network imported in train mode comes back in train mode, and is called with ``seed=`` a whole number or a
    uint64 tensor; without one, a seed is drawn from torch's default generator. Its buffers are updated. After
    ``eval()`` its norms use their running statistics and its dropouts do nothing; what drew random numbers by
    itself (drop path, noise) still does, and what was imported in eval mode stays so.

    ``module.code`` is its source. Parameters are new ones that share memory with ``dag.weights`` (``copy``:
    they don't) and are trainable as they were; those on the meta device stay there. Arguments are taken as the
    source took them; shapes are fixed (InputError for others), and so are arguments that weren't tensors.
    ``train()``, on the module or a part of it, brings back batch norm's statistics and dropout. Constants are
    buffers that aren't saved. UnsupportedError names all that torch can't compute.

    With ``checks`` the module raises where the source checks its data and raises (``dag.checks``); a UserWarning
    names those that can't be computed here. InputError if the network was changed since, so that they don't fit.
    """
    return module_of(_with_checks(dag) if checks else dag, copy, plain=False)


def _with_checks(dag: TensorDAG) -> TensorDAG:
    """The same with what it checks as further outputs, which are no part of the result."""
    lost = [c.message for c in dag.checks if c.value is None]
    if lost:
        warn(f"{dag.name}: these checks can't be kept: {'; '.join(lost)}")
    kept = {f"check {i}": c.value for i, c in enumerate(dag.checks) if c.value is not None}
    own = {*dag.graph.inputs.values(), *_leaves_of_state(dag)}
    others = [v for v in topological(list(kept.values())) if isinstance(v.op, Leaf) and v not in own]
    if others:
        raise InputError(
            f"{dag.name}: its checks are those of the network before it was changed (they need {others[0]!r}): "
            "to_torch(checks=True) works on the imported one"
        )
    graph = dag.graph
    outputs = {**graph.outputs, **kept}
    return replace(dag, graph=Graph(graph.inputs, outputs, graph.updates, graph.name, graph.values))


def _leaves_of_state(dag: TensorDAG) -> Iterator[Value]:
    for name, weight in dag.state.items():
        yield (Parameter if weight.is_parameter else Buffer)(weight.alias_of or name, weight.type)()


@one_at_a_time
def to_torchscript(dag: TensorDAG, *, copy: bool = False) -> torch.jit.ScriptModule:
    """A traced ScriptModule that saves and loads, with the source's state_dict, frozen in eval mode.

    It takes the source's tensor arguments, by position or name, without those that weren't tensors. A dataclass,
    named tuple or dict of tensors comes out as a dict, or as a tuple where one of its entries is nested (TorchScript
    has no dict of mixed values); None and numbers are left out.
    """
    dag = _without_objects(dag)
    _refuse_by_numpy("TorchScript", dag)
    module = module_of(dag, copy, plain=True)
    _refuse_names("TorchScript", module, ())
    args, kwargs = example_inputs(dag, plain=True)
    for argument in (*args, *kwargs.values()):
        _refuse_mixed(argument)
    with warnings.catch_warnings(), torch.no_grad(), Literals():
        warnings.filterwarnings("ignore", ".*deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)  # sizes are numbers, as the code's are
        names = _parameter_names(module)
        named = {**dict(zip(names, args, strict=False)), **dict(zip(names[len(args) :], kwargs.values(), strict=False))}
        options: dict[str, Any] = {"example_kwarg_inputs": named} if kwargs else {"example_inputs": args}
        held = dict((*module.named_parameters(), *module.named_buffers()))
        kept = [(held[n], held[n].clone()) for n in dag.graph.updates if n in held]
        traced: Any = torch.jit.trace(module, strict=False, check_trace=False, **options)
        for t, before in kept:  # the trace ran the module
            t.copy_(before)
        return traced


@one_at_a_time
def to_exported_program(dag: TensorDAG, *, copy: bool = False) -> torch.export.ExportedProgram:
    """A ``torch.export.ExportedProgram`` of the module in eval mode.

    Dataclass outputs that torch's pytree doesn't know come out as dicts, and caches go in as dicts.
    """
    dag = _without_objects(dag)
    _refuse_by_numpy("torch.export", dag)
    known = all(_is_exportable(t) for t in _walk(dag.signature.outputs))
    module = module_of(dag, copy, plain=not known)
    args, kwargs = example_inputs(dag, plain=not known)
    _refuse_names("torch.export", module, kwargs)
    return torch.export.export(module, args, kwargs, strict=False)


def _without_objects(dag: TensorDAG) -> TensorDAG:
    """The same, called with dicts in the place of objects, which tracing doesn't take apart."""
    return replace(dag, signature=replace(dag.signature, inputs=dag.signature.inputs.plain()))


def _refuse_names(form: str, module: nn.Module, keywords: Iterable[str]) -> None:
    """UnsupportedError for names that torch would write unescaped into code of its own, or reads as others."""
    held = [
        n for named in (module.named_modules(), module.named_parameters(), module.named_buffers()) for n, _ in named
    ]
    ascii_only = form == "TorchScript"
    odd = [n for n in held if not all(_is_kept(part, ascii_only) for part in n.split(".") if n)]
    odd += [k for k in keywords if not is_identifier(k)]
    if odd:
        raise UnsupportedError(
            f"{form} can't hold what is called {', '.join(repr(shown(n)) for n in odd[:3])}"
            f"{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}; rename it in the network"
        )


def _refuse_mixed(argument: Any) -> type:
    """UnsupportedError for an argument that TorchScript has no type for; what its entries are."""
    values = list(argument.values()) if isinstance(argument, dict) else argument if isinstance(argument, list) else ()
    kinds = {_refuse_mixed(v) for v in (argument if isinstance(argument, tuple) else values)}
    if values and len(kinds) > 1:
        keys = f" ({', '.join(map(repr, argument))})" if isinstance(argument, dict) else ""
        held = " and ".join(sorted(k.__name__ for k in kinds))
        raise UnsupportedError(
            f"TorchScript has dicts and lists of one type only, and the network takes a {type(argument).__name__}"
            f"{keys} of {held}: take tuples, or give its entries as arguments of their own"
        )
    return type(argument)


def _refuse_by_numpy(form: str, dag: TensorDAG) -> None:
    """UnsupportedError for ops that torch has no code for: a trace would hold what numpy gave as a constant."""
    graph, _ = legalize(dag.graph, is_known, {})
    core = {v.op.name for v in graph.values if not isinstance(v.op, Composite | Leaf | Const | Iota | Item)}
    lacking = sorted(core - CORE.keys())
    if lacking:
        raise UnsupportedError(
            f"{form} can't hold {', '.join(lacking)}, which is computed by numpy: say how torch computes it, "
            "tdagger.frameworks.torch.aten.extend.writes(...)"
        )


def _is_kept(part: str, ascii_only: bool) -> bool:
    """Whether torch keeps the name of an attribute: one that is an identifier, or that can stand between quotes."""
    plain = is_identifier(part) or (not part.isidentifier() and part.isprintable() and not set(part) & set('"\\'))
    return plain and not (ascii_only and (not part.isascii() or part == "torch"))


# --- the module --------------------------------------------------------------------------------------------


def module_of(dag: TensorDAG, copy: bool, plain: bool, writer_of: Callable[..., Writer] = Writer) -> GeneratedModule:
    """``plain`` is for tracing: no checks, no constant arguments, plain containers, constants baked in.

    ``writer_of`` makes the writer of the code.
    """
    graph, origins = legalize(dag.graph, is_known, dag.origins)
    _refuse_unsupported(graph, origins)
    state = dict(dag.state) or declared(graph)
    modules = [m for m in dag.modules if m]
    owners = {"", *modules, *(n.rpartition(".")[0] for n in state)}
    owners |= {o[:i] for o in owners for i, c in enumerate(o) if c == "."}
    call = _call(dag, graph, plain)
    writer = writer_of(graph, _row_of, origins, owners)
    writer.state = set(state)
    writer.trains = any(map(_trains, graph.values))
    while any(n.startswith(writer.constant) for n in (*state, *owners)):
        writer.constant += "_"
    entries = list(_entries(dag, state, copy))
    baked = {e.path: f"buffer{i}" for i, e in enumerate(entries) if plain and _is_fixed(e, graph)}
    writer.apart = {Marked(p.rpartition(".")[0], p.rpartition(".")[2]) for p in baked}
    code, names = _forward(writer, dag, call, plain, baked)
    constants = {n: from_numpy(_data(v), DTYPES[v.dtype.name]).clone() for v, n in writer.constants.items()}
    if plain:
        names |= constants | {baked[e.path]: e.tensor for e in entries if e.path in baked}
        entries = [e for e in entries if e.path not in baked]
    else:
        entries += [Entry(name, tensor, False) for name, tensor in constants.items()]
    module = empty_module(code, names, dag.name)
    nn.Module.train(module, writer.trains)
    fill(module, entries, modules)
    return module


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


def _row_of(value: Value) -> Row:
    return composite_row(value) if isinstance(value.op, Composite) else core_row(value)


def _refuse_unsupported(graph: Graph, origins: dict[Value, Origin]) -> None:
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


def _entries(dag: TensorDAG, state: dict[str, Weight], copy: bool) -> Iterator[Entry]:
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


def _data(value: Value) -> Any:
    """The array of a constant or iota."""
    op: Any = value.op
    return op.run()


# --- forward -----------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """How ``forward`` is called: its parameters, the lines that unpack and check them, the inputs' names."""

    parameters: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])
    inputs: dict[Value, str] = field(default_factory=dict[Value, str])
    names: dict[str, Any] = field(default_factory=dict[str, Any])
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


def _call(dag: TensorDAG, graph: Graph, plain: bool) -> _Call:
    """From the signature: leaves are parameters, nested arguments are unpacked, constants are compared."""
    call = _Call()
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
    return call


def _add(call: _Call, key: str, name: str, plain: bool, default: str | None = None) -> str:
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


def _parameter(call: _Call, tree: Tree, key: str, inputs: Iterator[tuple[str, Value]], plain: bool) -> None:
    """Add one argument; ``key`` is its keyword, or "" for one by position."""
    taken = call.taken
    if tree.kind == "constant":
        if not plain:
            _constant(call, tree.constant, key)
        return
    leaves = [next(inputs) for _ in range(_count(tree))]
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
    for _, value in leaves if not plain else ():
        own = call.inputs[value]
        call.lines.append(f"if {own} is None or {own}.shape != {value.type.shape}:")
        call.lines.append(f'    raise runtime.wrong_input({own!r}, "{value.type}", {own})')


def _constant(call: _Call, constant: Any, key: str) -> None:
    source = literal(constant)
    name = "" if key else _identifier("option", call.taken)
    name = _add(call, key, name, False, source if key else None)
    differs = "is not" if constant is None or isinstance(constant, bool) else "!="
    call.lines.append(f"if {name} {differs} {source}:")
    call.lines.append(f"    raise runtime.wrong_constant({(key or name)!r}, {source}, {name})")


def _count(tree: Tree) -> int:
    return 1 if tree.kind == "leaf" else sum(map(_count, tree.children))


def _forward(writer: Writer, dag: TensorDAG, call: _Call, plain: bool,
             baked: dict[str, str]) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """The source of ``forward`` and what its names stand for; ``baked`` names buffers that became constants."""
    graph = writer.graph
    changed = set(graph.updates)
    roots = [*graph.outputs.values(), *graph.updates.values()]
    body: list[Statement] = writer.statements(roots)
    names = {**call.names, **writer.names}

    def final(value: Value, buffer: str = "") -> str:
        text = writer.ref(value)
        return f"{text}.clone()" if (_viewed(value) & changed) - {buffer} else text

    end: list[str] = []
    moved: list[tuple[str, str]] = []
    for name, value in graph.updates.items():
        if isinstance(value.op, Buffer) and value.op.leaf == name:
            continue
        text = final(value, name)
        if text.endswith(".clone()"):
            end.append(f"new_{len(moved)} = {text}")
            text = f"new_{len(moved)}"
        moved.append((name, text))
    outputs = [final(v) for v in graph.outputs.values()]
    if plain:  # a trace returns only what an op gives, or an input
        fixed = [isinstance(writer.same(v).op, Parameter | Buffer | Const | Iota) for v in graph.outputs.values()]
        outputs = [f"{t.removesuffix('.clone()')}.clone()" if f else t for t, f in zip(outputs, fixed, strict=True)]
    leaves = iter(outputs)
    result = _result(dag.signature.outputs, leaves, names, plain, call.taken)
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
        parts = [] if inside or not marked.owner else marked.owner.split(".")
        start = "m" if inside else "self"
        if marked.is_flag:
            return f"{path_expression(start, parts)}.training"
        parts += [marked.name] if marked.name else []
        if plain and not marked.owner and marked.name in constants:
            return marked.name
        return (not inside and baked.get(".".join(parts))) or path_expression(start, parts)

    constants = set(writer.constants.values())
    lines = [*call.lines, *writer.lines(body, end, call.inputs, path, dag.modules)]
    code = "".join(f"    {line}\n" for text in lines for line in text.split("\n"))
    return f"def forward({', '.join(['self', *call.parameters])}):\n{code}", names


_VIEWS = {"stop_gradient", "diagonal", "dropout"}


def _viewed(value: Value) -> set[str]:
    """The parameters and buffers that ``value`` may share memory with."""
    while is_reshape(value) or isinstance(value.op, Permute | Slice | Repeat | Item) or value.op.name in _VIEWS:
        value = value.args[0]
    return {value.op.leaf} if isinstance(value.op, Buffer | Parameter) else set()


def _result(tree: Tree, leaves: Iterator[str], names: dict[str, Any], plain: bool, taken: set[str]) -> str:
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
    texts = [(k, _result(c, leaves, names, plain, taken)) for k, c in pairs]
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
    name = _container(tree, names, taken)
    if kind == "dict" or not all(is_attribute(str(k)) for k, _ in texts):
        return f"{name}({'' if kind == 'dict' else '**'}{inner})"
    return f"{name}({', '.join(f'{k}={t}' for k, t in texts)})"


def _container(tree: Tree, names: dict[str, Any], taken: set[str]) -> str:
    """The name of a container's class in the generated code, none of those ``taken``."""
    found = container_of(tree)
    known = next((n for n, v in names.items() if v is found), None)
    if known is None:
        name = re.sub(r"\W+", "_", found.__qualname__.replace("<locals>", ""))
        known = _identifier(f"input_{name}" if _VALUE.fullmatch(name) else name, taken)
        names[known] = found
    return known


# --- example inputs ----------------------------------------------------------------------------------------


def example_inputs(dag: TensorDAG, plain: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Zeros of the inputs' types, nested as the network takes them; ``plain`` leaves out what isn't tensors."""
    leaves = [
        torch.zeros(v.type.shape, dtype=DTYPES[v.dtype.name])
        for v in dag.graph.inputs.values()
        if isinstance(v.op, Input)
    ]
    args, kwargs = dag.signature.inputs.unflatten(leaves)
    if not plain:
        return tuple(args), dict(kwargs)
    trees, named = dag.signature.inputs.children
    kept = tuple(a for a, t in zip(args, trees.children, strict=True) if _count(t))
    return kept, {k: kwargs[k] for k, t in zip(named.keys, named.children, strict=True) if _count(t)}


def _parameter_names(module: GeneratedModule) -> list[str]:
    code: Any = type(module).forward.__code__
    return list(code.co_varnames[1 : code.co_argcount])


def _walk(tree: Tree) -> Iterator[Tree]:
    yield tree
    for child in tree.children:
        yield from _walk(child)


def _is_exportable(tree: Tree) -> bool:
    """Whether torch's pytree knows the container."""
    return not tree.type or _class_of(tree) in pytree.SUPPORTED_NODES or tree.kind == "namedtuple"


def _class_of(tree: Tree) -> Any:
    names: dict[str, Any] = {}
    return names[_container(tree, names, set())] if tree.type else None
