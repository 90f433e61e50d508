"""Going to PyTorch: a TensorDAG becomes a readable ``nn.Module``, a ScriptModule or an ExportedProgram."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.jit._trace import TracerWarning
from torch.utils import _pytree as pytree

from tdagger.composite import Composite
from tdagger.errors import InputError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.capture.scripting import Literals
from tdagger.frameworks.torch.emit.codegen import Writer
from tdagger.frameworks.torch.emit.composites import is_known
from tdagger.frameworks.torch.emit.core import CORE
from tdagger.frameworks.torch.emit.design import Making, design_of, designed, entries_of, freest_design
from tdagger.frameworks.torch.emit.forward import container, count
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.frameworks.torch.emit.module import (
    GeneratedModule,
    assembled,
)
from tdagger.frameworks.torch.integers import with_integers
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.graph import Graph, bulk, topological
from tdagger.names import is_identifier, shown
from tdagger.network import declared
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Item
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree


@one_at_a_time
def to_torch(
    dag: TensorDAG, *, copy: bool = False, checks: bool = False, fixed: bool = False, integers: bool = False
) -> GeneratedModule:
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
    is there, whether it does the same at other sizes: it is captured again (:attr:`TensorDAG.open_axes`), once at
    larger sizes, and once with as few entries as the graph takes; where it does something else there, fewer entries
    than it was asked at are refused. ``fixed``: all sizes are those of the example, and nothing is asked.

    With ``integers`` quantized layers are computed on integers, where they take u8 of a scale that is known and the
    processor has VNNI; a UserWarning names those that aren't, and why. Roundings may come out one step apart, and
    the module is for eager torch on a CPU, without gradients. Without it layers are computed on what the integers
    stand for.

    With ``checks`` the module raises where the source checks its data and raises (``dag.checks``); a UserWarning
    names those that can't be computed here. InputError if the network was changed since, so that they don't fit.
    """
    dag = with_integers(dag) if integers else dag
    with bulk(acyclic=True):
        prepared = _with_checks if checks else lambda dag: dag
        design = design_of(prepared(dag), copy, None) if fixed else freest_design(dag, copy, prepared)
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
    for argument in (*(given := example_inputs(dag, plain=True))[0], *given[1].values()):
        _refuse_mixed(argument)
    failed: Exception | None = None
    for fill in (0, 1):  # zeros may be what nothing is divided by, or 1 more than an index
        try:
            return _traced_on(dag, copy, fill)
        except TDaggerError:
            raise
        except (IndexError, RuntimeError) as e:
            failed = e
    why = f"{type(failed).__name__}: {next(iter(str(failed).splitlines()), '')}"
    raise UnsupportedError(
        f"{shown(dag.name)}: TorchScript is written by running the network, which fails on zeros and on ones ({why}); "
        "to_torch() needs no data"
    ) from failed


def _traced_on(dag: TensorDAG, copy: bool, fill: int) -> torch.jit.ScriptModule:
    """A trace on inputs that are one number everywhere, of a module that was never traced."""
    module = module_of(dag, copy, plain=True)
    _refuse_names("TorchScript", module, ())
    held = dict((*module.named_parameters(), *module.named_buffers()))
    kept = [(held[n], held[n].clone()) for n in dag.graph.updates if n in held]
    try:
        return _trace(dag, module, fill)
    finally:
        for t, before in kept:  # a trace runs the module
            with torch.no_grad():
                t.copy_(before)


def _trace(dag: TensorDAG, module: GeneratedModule, fill: int) -> torch.jit.ScriptModule:
    args, kwargs = example_inputs(dag, plain=True, fill=fill)
    with warnings.catch_warnings(), torch.no_grad(), Literals():
        warnings.filterwarnings("ignore", ".*deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)  # sizes are numbers, as the code's are
        names = _parameter_names(module)
        named = {**dict(zip(names, args, strict=False)), **dict(zip(names[len(args) :], kwargs.values(), strict=False))}
        options: dict[str, Any] = {"example_kwarg_inputs": named} if kwargs else {"example_inputs": args}
        traced: Any = torch.jit.trace(module, strict=False, check_trace=False, **options)
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


def module_of(
    dag: TensorDAG, copy: bool, plain: bool, writer_of: Callable[..., Writer] = Writer, flat: bool = False
) -> GeneratedModule:
    """``plain`` is for tracing: no checks, no constant arguments, plain containers, constants baked in, and flat.

    ``flat``: one forward, in which modules only hold state. ``writer_of`` makes the writer of the code.
    """
    entries = list(entries_of(dag, dict(dag.state) or declared(dag.graph), copy))
    made = designed(Making(dag, entries, plain, flat, writer_of))
    return assembled({p: part.make for p, part in made.parts.items()}, made.state, made.trains)


def example_inputs(dag: TensorDAG, plain: bool = False, fill: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Zeros of the inputs' types, nested as the network takes them; ``plain`` leaves out what isn't tensors.

    ``fill`` is another number for zero.
    """
    leaves = [
        torch.full(v.type.shape, fill, dtype=DTYPES[v.dtype.name])
        for v in dag.graph.inputs.values()
        if isinstance(v.op, Input)
    ]
    args, kwargs = dag.signature.inputs.unflatten(leaves)
    if not plain:
        return tuple(args), dict(kwargs)
    trees, named = dag.signature.inputs.children
    kept = tuple(a for a, t in zip(args, trees.children, strict=True) if count(t))
    return kept, {k: kwargs[k] for k, t in zip(named.keys, named.children, strict=True) if count(t)}


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
    return names[container(tree, names, set())] if tree.type else None
