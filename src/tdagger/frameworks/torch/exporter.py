"""Going to PyTorch: a TensorDAG becomes a readable ``nn.Module``, a ScriptModule or an ExportedProgram."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.utils import _pytree as pytree

from tdagger.analysis.formulas.polynomial import terms_of
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, AxisError, InputError, TypeMismatchError, UnsupportedError, warn
from tdagger.frameworks.torch.capture.checks import exception_of
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.capture.scripting import Literals
from tdagger.frameworks.torch.emit.blocks import Call, Division, Layer, ModuleCall, with_passed
from tdagger.frameworks.torch.emit.codegen import Marked, Row, Statement, Writer, call_row, is_reshape
from tdagger.frameworks.torch.emit.composites import composite_row, is_known
from tdagger.frameworks.torch.emit.core import CORE, cannot, core_row
from tdagger.frameworks.torch.emit.layers import made_layer
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.frameworks.torch.emit.module import (
    Block,
    Entry,
    GeneratedModule,
    Source,
    assembled,
    empty_module,
    path_expression,
)
from tdagger.frameworks.torch.emit.proven import layer_of
from tdagger.frameworks.torch.emit.sizes import Bindings, UnboundError, is_symbol, labelled
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy
from tdagger.graph import Graph, branches, topological
from tdagger.library.random import SEED
from tdagger.names import identifier, is_attribute, is_identifier, literal, shown
from tdagger.network import declared
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Item, Permute, Repeat, Slice
from tdagger.tensordag import Origin, TensorDAG, Weight
from tdagger.transform.axes.open import Candidates
from tdagger.tree import Tree, container_of
from tdagger.types import MARK, Size, TensorType, readable, sizes_as


@one_at_a_time
def to_torch(dag: TensorDAG, *, copy: bool = False, checks: bool = False, fixed: bool = False) -> GeneratedModule:
    """A module that computes what ``dag`` says, with the source's state_dict, in eval mode.

    A network imported in train mode comes back in train mode, and is called with ``seed=`` a whole number or a
    uint64 tensor; without one, a seed is drawn from torch's default generator. Its buffers are updated. After
    ``eval()`` its norms use their running statistics and its dropouts do nothing; what drew random numbers by
    itself (drop path, noise) still does, and what was imported in eval mode stays so.

    Modules are those of the source, by their paths: layers of torch where the graph still computes one, with the
    settings it has there, else generated classes, named as the source's. ``module.code`` is their source. Those that
    gave back what they took (an identity, drop path in eval mode) do so where they were called; a comment names those
    that aren't called, since the graph doesn't tell who reads their results.

    Parameters are new ones that share memory with ``dag.weights`` (``copy``: they don't) and are trainable as they
    were; those on the meta device stay there. Arguments are taken as the source took them; those that weren't tensors
    are fixed. ``train()``, on the module or a part of it, brings back batch norm's statistics and dropout. Constants
    are buffers that aren't saved. UnsupportedError names all that torch can't compute.

    Axes that are free and certain have any size: the code reads it from the inputs. Other sizes are fixed, and asked
    for first (InputError, with the names of axes); ``module.fixed_axes`` says of each why. The source is asked, if it
    is there, whether it does the same at other sizes: it is captured again (:attr:`TensorDAG.open_axes`).
    ``fixed``: all sizes are those of the example, and nothing is asked.

    With ``checks`` the module raises where the source checks its data and raises (``dag.checks``); a UserWarning
    names those that can't be computed here. InputError if the network was changed since, so that they don't fit.
    """
    free = None if fixed else dag.open_axes
    design = design_of(_with_checks(dag) if checks else dag, copy, free=free)
    module = assembled({p: part.make for p, part in design.parts.items()}, design.state, design.trains)
    module.__dict__["_fixed_axes"] = tuple(design.fixed.items())
    return module


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
    module = module_of(dag, copy, plain=not known, flat=True)
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


def module_of(
    dag: TensorDAG, copy: bool, plain: bool, writer_of: Callable[..., Writer] = Writer, flat: bool = False
) -> GeneratedModule:
    """``plain`` is for tracing: no checks, no constant arguments, plain containers, constants baked in, and flat.

    ``flat``: one forward, in which modules only hold state. ``writer_of`` makes the writer of the code.
    """
    entries = list(_entries(dag, dict(dag.state) or declared(dag.graph), copy))
    made = _design(_Making(dag, entries, plain, flat, writer_of))
    return assembled({p: part.make for p, part in made.parts.items()}, made.state, made.trains)


class Part(NamedTuple):
    """What is at a path: generated code, or a class of torch with its settings."""

    source: Source | None
    kind: type = nn.Module
    settings: tuple[tuple[str, Any], ...] = ()

    def make(self) -> nn.Module:
        """A module of it."""
        if self.source is not None:
            return empty_module(*self.source)
        return self.kind() if self.kind in CONTAINERS else made_layer(Layer(self.kind, self.settings))


CONTAINERS = (nn.Sequential, nn.ModuleList, Block)


class Design(NamedTuple):
    """What a module is made of: parts by their paths, those around them first; its state; whether it trains."""

    parts: dict[str, Part]
    state: list[Entry]
    trains: bool
    fixed: Mapping[str, str] = {}


def design_of(dag: TensorDAG, copy: bool, free: Candidates | None) -> Design:
    """What :func:`to_torch` assembles: with the axes open that can be."""
    made = _Making(dag, list(_entries(dag, dict(dag.state) or declared(dag.graph), copy)))
    if free is None:
        return _design(made)
    state = {e.path for e in made.entries}
    named = dag.axes()
    made.labels |= {n: list(map(named.dimension, named[v])) for n, v in dag.graph.inputs.items()}
    made.why |= free.why

    def tried(names: Sequence[str]) -> Design | str:
        """The design with some axes open, or why they can't be."""
        try:
            designs = [
                _design(replace(made, dag=replace(dag, graph=o.graph, origins=o.origins), conditions=o.conditions))
                for o in free.opened(named, names, dag.origins)
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
    return _design(made)


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


@dataclass
class _Making:
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


def _design(made: _Making) -> Design:
    """What is assembled, at the sizes that the network has."""
    dag, plain, writer_of = made.dag, made.plain, made.writer_of
    graph, origins = legalize(dag.graph, is_known, dag.origins)
    _refuse_unsupported(graph, origins)
    flat = made.flat or plain
    trains = any(map(_trains, graph.values))
    state = dict(dag.state) or declared(graph)
    entries = list(made.entries)
    modules = {p: kind for p, kind in dag.modules.items() if p}
    paths = _paths(state, modules)
    whole = dag.graph
    if flat:
        division = Division(graph, origins, {}, state, lambda *_: None)
    else:
        marked, told = with_passed(whole, dag.origins)
        division = Division(marked, told, modules, state, lambda c, n, s: layer_of(c, n, s, trains), made.shaped)
    names: dict[str, Any] = {}
    classes = _Classes(dag, state, paths, trains, writer_of, names)
    parts: dict[str, Part] = {}
    guards: dict[str, str] = {}
    for call in division.calls[:-1]:
        if call.path not in parts:
            parts[call.path] = classes.part(call)
        entries += classes.constants_of(call)
        guards |= classes.guards_of(call)
    more = {p: _inputs_with(s, whole) for p, s in classes.unbound.items()}
    if any(set(inputs) - set(made.shaped.get(p, ())) for p, inputs in more.items()):
        return _design(replace(made, shaped={**made.shaped, **more}))
    if classes.unbound:
        raise AxisError(f"{shown(next(iter(classes.unbound)))} needs a size that its arguments don't tell")
    call = _call(dag, graph, plain, made.labels, made.conditions)
    if not flat:
        call.lines += _not_called(
            modules, parts, {o.module for v in whole.values if (o := dag.origins.get(v)) is not None}
        )
    root = division.root
    own, origins = legalize(root.graph, is_known, root.origins)
    writer = writer_of(own, row_of, origins, {"", *paths})
    writer.state = set(state)
    writer.trains = trains
    writer.guards = guards
    names |= writer.names
    writer.names = names
    while any(n.startswith(writer.constant) for n in (*state, *paths)):
        writer.constant += "_"
    baked = {e.path: f"buffer{i}" for i, e in enumerate(entries) if plain and _is_fixed(e, graph)}
    writer.apart = {Marked(p.rpartition(".")[0], p.rpartition(".")[2]) for p in baked}
    code, found = _forward(writer, dag, call, plain, baked, "" if flat else ": here, not in its module")
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

    def walk(path: str) -> None:
        found[path] = held[path]
        for name in held[path]:
            walk(f"{path}.{name}" if path else name)

    walk("")
    return {p: names for p, names in found.items() if p}


def used_names(names: dict[str, Any], code: str) -> dict[str, Any]:
    """Those of ``names`` that code has."""
    words = set(re.findall(r"\w+", code)) if names else ()
    return {n: v for n, v in names.items() if n in words}


class _Classes:
    """The classes of a network's modules: one for each graph of calls and name of the source's class."""

    def __init__(
        self,
        dag: TensorDAG,
        state: Mapping[str, Weight],
        paths: Mapping[str, list[str]],
        trains: bool,
        writer_of: Callable[..., Writer],
        names: dict[str, Any],
    ) -> None:
        self._dag = dag
        self._paths = paths
        self._trains = trains
        self._writer_of = writer_of
        self._names = names
        self._made: dict[Any, tuple[Source, Writer]] = {}
        self._tensors: dict[Value, Tensor] = {}
        #: The axes whose sizes a module's arguments don't tell, by its path.
        self.unbound: dict[str, set[str]] = {}
        self._of: dict[str, Writer] = {}
        self._inside: dict[str, list[str]] = {p: [] for p in paths}
        for name in (*state, *paths):
            owner = name
            while owner:
                owner = owner.rpartition(".")[0]
                if owner:
                    self._inside.setdefault(owner, []).append(name)

    def part(self, call: Call) -> Part:
        """What is at the path of a call."""
        layer = call.layer
        if layer is not None:
            return Part(None, layer.kind, layer.settings)
        kind = self._dag.modules[call.path]
        if kind == "Sequential" and self._is_chain(call):
            return Part(None, nn.Sequential)
        names = [n[len(call.path) + 1 :] for n in self._inside[call.path]]
        constant = "constant"
        while any(n.startswith(constant) for n in names):
            constant += "_"
        key = (kind, constant, tuple(call.graph.inputs.values()), tuple(call.graph.outputs.values()))
        found = self._made.get(key)
        if found is None:
            try:
                found = self._made[key] = self._written(call, kind, constant, names)
            except UnboundError as e:
                self.unbound[call.path] = e.symbols
                return Part(None, Block)
        self._of[call.path] = found[1]
        return Part(found[0])

    def _is_chain(self, call: Call) -> bool:
        """Whether a call is those of its children in turn, as nn.Sequential makes them."""
        names = self._paths[call.path]
        graph = call.graph
        if not self._inside[call.path]:
            return list(graph.outputs.values()) == list(graph.inputs.values())
        plain = [str(i) for i in range(len(names))] == names
        if not names or not (plain or all(is_attribute(n) and not hasattr(nn.Sequential, n) for n in names)):
            return False
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            return False
        value = next(iter(graph.outputs.values()))
        for name in reversed(names):
            op = value.op
            if not isinstance(op, ModuleCall) or (op.path, op.arguments, op.targets) != (name, "{0}", "{0}"):
                return False
            if len(value.args) != 1:
                return False
            value = value.args[0]
        return value is next(iter(graph.inputs.values()))

    def _written(self, call: Call, kind: str, constant: str, names: Iterable[str]) -> tuple[Source, Writer]:
        graph, origins = legalize(call.graph, is_known, call.origins)
        prefix = f"{call.path}."
        near = {v: o._replace(module=f"{o.module}.".removeprefix(prefix)[:-1]) for v, o in origins.items()}
        inside = {p.removeprefix(prefix) for p in self._paths if p.startswith(prefix)}
        writer = self._writer_of(graph, row_of, near, {"", *inside})
        writer.state = set(names)
        writer.trains = self._trains
        self._names |= writer.names
        writer.names = self._names
        writer.constant = constant
        inputs = {v: n for n, v in graph.inputs.items()}
        outputs = list(graph.outputs.values())
        body = writer.statements(outputs)
        end = [f"return {', '.join(map(writer.ref, outputs))}"]
        modules = {p.removeprefix(prefix): k for p, k in self._dag.modules.items() if p.startswith(prefix)}
        lines = writer.lines(body, end, inputs, _path, modules, ": here, not in its module")
        lines = _bound(lines, graph.inputs, {*inputs.values(), "self", "m", "_"})
        code = "".join(f"    {line}\n" for text in lines for line in text.split("\n"))
        code = f"def forward({', '.join(['self', *inputs.values()])}):\n{code}"
        return Source(code, used_names(self._names, code), _class_name(kind)), writer

    def constants_of(self, call: Call) -> Iterator[Entry]:
        """The constants that the module of a call holds, as buffers that aren't saved."""
        writer = self._of.get(call.path)
        for value, name in writer.constants.items() if writer is not None else ():
            yield Entry(f"{call.path}.{name}", self.tensor(value), False)

    def guards_of(self, call: Call) -> dict[str, str]:
        """The updates that happen only when a module in that of a call trains, and the path of that module."""
        writer = self._of.get(call.path)
        found = writer.guards if writer is not None else {}
        return {f"{call.path}.{n}": f"{call.path}.{m}" if m else call.path for n, m in found.items()}

    def tensor(self, value: Value) -> Tensor:
        """A constant's tensor: one for all who hold it."""
        if value not in self._tensors:
            self._tensors[value] = from_numpy(_data(value), DTYPES[value.dtype.name]).clone()
        return self._tensors[value]

    def holder(self, path: str, kind: str, names: list[str]) -> Part:
        """What is at a path that nothing is called at."""
        numbered = names and [str(i) for i in range(len(names))] == names
        owns = any("." not in n[len(path) + 1 :] for n in self._inside[path] if n not in self._paths)
        if kind in ("", "ModuleList") and numbered and not owns:
            return Part(None, nn.ModuleList)
        return Part(Source("", {}, _class_name(kind))) if kind else Part(None, Block)


def _class_name(kind: str) -> str:
    return kind if is_identifier(kind) else identifier(kind, set())


def _bound(lines: list[str], arguments: Mapping[str, Value], taken: set[str]) -> list[str]:
    """Lines with names for the sizes in them, after the lines that give these names."""
    words = set(re.findall(r"\w+", MARK.sub(" ", "\n".join(lines))))
    bindings = Bindings(arguments.items(), taken | words)
    filled = [bindings.filled(line) for line in lines]
    return [*bindings.lines(), *filled]


def _path(marked: Marked, inside: bool) -> str:
    """The expression for what is marked, in the forward of its module."""
    parts = [] if inside or not marked.owner else marked.owner.split(".")
    start = "m" if inside else "self"
    if marked.is_flag:
        return f"{path_expression(start, parts)}.training"
    return path_expression(start, [*parts, marked.name] if marked.name else parts)


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


def row_of(value: Value) -> Row:
    """How a value is written."""
    if isinstance(value.op, ModuleCall):
        return call_row
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


def _call(
    dag: TensorDAG, graph: Graph, plain: bool, labels: Mapping[str, Sequence[str]], conditions: Iterable[Condition]
) -> _Call:
    """From the signature: leaves are parameters, nested arguments are unpacked, constants are compared."""
    call = _Call(labels=labels)
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
        apart = terms_of(number).get((), 0) if kind == "positive" else 0
        holds = f"{sizes_as(number - apart, 0)} {'==' if kind == 'zero' else '>='} {-apart}"
        call.checks.append(f"runtime.check_sizes({holds}, {message!r})")
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
    for leaf, value in leaves if not plain else ():
        own = call.inputs[value]
        shape: list[int] = []
        for n in value.type.shape:
            is_first = isinstance(n, Size) and is_symbol(n.formula) and n.formula not in call.told
            call.told |= {n.formula} if isinstance(n, Size) else set()
            shape.append(-1 if is_first else n)
        expected = labelled(value.type, call.labels.get(leaf, ()))
        call.checks.append(f"runtime.check({own}, {own!r}, {expected!r}, {shape})")


def _constant(call: _Call, constant: Any, key: str) -> None:
    source = literal(constant)
    name = "" if key else _identifier("option", call.taken)
    name = _add(call, key, name, False, source if key else None)
    call.lines.append(f"runtime.check_constant({name}, {(key or name)!r}, {source})")


def _count(tree: Tree) -> int:
    return 1 if tree.kind == "leaf" else sum(map(_count, tree.children))


def _forward(writer: Writer, dag: TensorDAG, call: _Call, plain: bool,
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
        if plain and not marked.owner and marked.name in constants:
            return marked.name
        whole = f"{marked.owner}.{marked.name}" if marked.owner else marked.name
        return (not inside and not marked.is_flag and baked.get(whole)) or _path(marked, inside)

    constants = set(writer.constants.values())
    lines = writer.lines(body, end, call.inputs, path, dag.modules, said)
    arguments = {n: v for v, n in call.inputs.items()}
    at_door = Bindings(arguments.items(), None)
    door = map(at_door.filled, call.checks)
    lines = [*call.lines, *door, *_bound(lines, arguments, call.taken)]
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
