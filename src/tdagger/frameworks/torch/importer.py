"""From PyTorch: ``nn.Module``, ExportedProgram, fx GraphModule and TorchScript to a TDAG.

Every entrance ends in the same table of ATen rules (:mod:`tdagger.frameworks.torch.aten`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.jit._trace import TracerWarning
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from tdagger.errors import InputError, TDaggerError, UnsupportedError
from tdagger.frameworks.torch import torchscript
from tdagger.frameworks.torch.aten import TORCH_DTYPES, aliases
from tdagger.frameworks.torch.aten.calls import Caller, array_of, constant, refuse_odd, run_fx, type_of
from tdagger.frameworks.torch.aten.functional import Ref, refuse_shared_writes, warn_of_writes
from tdagger.frameworks.torch.aten.passing import Passing
from tdagger.frameworks.torch.capture import assertions, autocast, checks, state
from tdagger.frameworks.torch.capture.again import Import, Sketch, asked_again
from tdagger.frameworks.torch.capture.attributes import Attributes, Looked
from tdagger.frameworks.torch.capture.export import (
    export,
    mark_cumulative,
    not_captured,
    recorded_convolutions,
)
from tdagger.frameworks.torch.capture.gradients import following_gradients
from tdagger.frameworks.torch.capture.leaves import (
    input_names,
    output_names,
    state_and_held,
    state_of,
    weight_value,
    with_holders,
    without_compile,
)
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.capture.refusals import explained
from tdagger.frameworks.torch.capture.surroundings import put_back
from tdagger.frameworks.torch.capture.transforms import transforms
from tdagger.frameworks.torch.sketch import sketched
from tdagger.frameworks.torch.source import caches
from tdagger.graph import Graph, bulk
from tdagger.op import Array, Value
from tdagger.ops.source import Input
from tdagger.program.trace import is_tracing, with_slots
from tdagger.tensordag import Check, Origin, Signature, TensorDAG, Weight
from tdagger.tree import Tree, flatten

#: Who knows what other sizes do to a network; see :func:`from_torch`.
Sizes = Literal["asked", "certain", "alone"]


class TorchWeights(Mapping[str, Array]):
    """The tensors of a torch module as numpy arrays on the same memory, made when asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> Array:
        tensor = self.tensors[name]
        if tensor.is_meta:
            raise InputError(f"weight {name!r} is on the meta device: it has a type but no data")
        return array_of(tensor)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor itself."""
        return self.tensors[name]

    def part(self, names: Iterable[str]) -> TorchWeights:
        """Those of some names."""
        return TorchWeights({n: self.tensors[n] for n in names})

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


caches.register()

# --- nn.Module ---------------------------------------------------------------------------------------------


@one_at_a_time
def from_torch(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    via: Literal["export", "trace"] = "export",
    external: bool = False,
    name: str = "",
    sizes: Sizes = "asked",
) -> TensorDAG:
    """A TDAG of a PyTorch network, captured on example inputs.

    ``model`` is an ``nn.Module`` (an fx GraphModule too), a ``torch.export.ExportedProgram``, or a TorchScript
    module. ``args`` is a tensor or a tuple of arguments, ``kwargs`` keyword arguments; tensors may be nested in
    tuples, lists, dicts and dataclasses. The weights are shared with the model, not copied. With ``external``,
    ops that have no rule become external ops instead of an error.

    ``via`` says how an ``nn.Module`` is captured. ``"export"`` is ``torch.export``, which refuses what depends on
    the data; ``"trace"`` is ``torch.jit.trace``, which takes more, but what Python decides from the data (a
    branch, a size, a number taken out of a tensor) stays as it was for the example inputs.

    ``sizes`` says who knows what other sizes do to the network. ``"asked"``: the model is kept (``dag.source``), and
    captured again when a resize asks. ``"certain"``: it is captured twice more at once, so that ``dag.confirmed`` has
    the axes that do what the graph says of them, with the model or without. ``"alone"``: the model isn't kept, there
    is only what the graph says.

    The state has the names of ``model.state_dict()``, except that ``torch.compile(model)`` is taken for ``model``
    itself. Lazy modules are initialised by the example inputs. A network that writes to its inputs in place gives
    a UserWarning that names them: the imported one has the same outputs and leaves its inputs alone. So does one
    that applies a ``torch.autograd.Function`` of its own, whose backward isn't kept, or has hooks on gradients. One
    that takes a gradient itself, in ``forward``, is refused. Checks of data that only raise, warn or print are taken as
    passed, and a UserWarning names them; ``to_torch(checks=True)`` keeps them.

    UnsupportedError names every op that can't be imported, with counts and source lines, or says why torch
    can't capture the network; InputError what is wrong with the inputs, and which tensors share memory that the
    network writes.
    """
    arguments: tuple[Any, ...] = args if isinstance(args, tuple) else (args,)
    if isinstance(model, torch.export.ExportedProgram):
        return from_exported_program(model, external=external, name=name)
    if sizes not in get_args(Sizes):
        raise InputError(f"from_torch knows sizes as {', '.join(map(repr, get_args(Sizes)))}, not {sizes!r}")
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return from_torchscript(model, arguments or None, kwargs, external=external, name=name, sizes=sizes)
    model = without_compile(model)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"from_torch takes an nn.Module, an ExportedProgram or a TorchScript module, got {type(model).__name__}"
        )
    leaves, inputs = flatten((arguments, dict(kwargs or {})), _is_tensor)
    _check_arguments(model, arguments, kwargs or {})
    for given, leaf in zip(input_names(model.forward, inputs), leaves, strict=True):
        refuse_odd(leaf, f"the input {given!r}")
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not is_lazy(tensor):
            refuse_odd(tensor, f"the weight {key!r}")
    _initialise(model, leaves, inputs)
    if via not in ("export", "trace"):
        raise InputError(f"from_torch captures via 'export' or 'trace', not {via!r}")
    leaves = _apart(leaves, model)

    def capture(args: tuple[Any, ...], kwargs: dict[str, Any]) -> TensorDAG:
        found, tree = flatten((args, kwargs), _is_tensor)
        return _from_module(model, found, tree, via, external, name or type(model).__name__)[0]

    dag, held = _from_module(model, leaves, inputs, via, external, name or type(model).__name__)
    cheap = partial(sketched, Looked(model), name or type(model).__name__) if via == "export" and not external else None
    return _knowing(dag, sizes, capture, model, leaves, inputs, cheap, held)


def _knowing(
    dag: TensorDAG,
    sizes: Sizes,
    capture: Import,
    model: Any,
    leaves: Sequence[torch.Tensor],
    tree: Tree,
    cheap: Sketch | None = None,
    held: Attributes | None = None,
) -> TensorDAG:
    """The network with what can be captured again; with what that says of its sizes, if they are to be certain."""
    if sizes == "alone":
        return dag
    dag = replace(dag, source=asked_again(dag, capture, model, leaves, tree, cheap, held))
    return dag.certain() if sizes == "certain" else dag


def _from_module(
    model: nn.Module, leaves: Sequence[torch.Tensor], inputs: Tree, via: str, external: bool, title: str
) -> tuple[TensorDAG, Attributes]:
    """A module captured once, and what it holds."""
    traced = via == "trace"
    with following_gradients(model, traced=traced), _naming_odd_attributes(model):
        captured = state.captured(model, inputs, leaves, _trace if traced else export, traced)
    dag = (_import_trace if traced else _import_export)(captured, leaves, external, title)
    captured.flat.decisions.tell()
    captured.flat.draws.tell()
    return dag, captured.flat.kept.attributes


def _check_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """InputError if ``forward`` can't be called with these arguments, whatever they are."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # a forward that isn't written in Python says nothing of its parameters
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as e:
        raise InputError(
            f"{type(model).__name__}.forward takes {signature}: {e}. from_torch needs example inputs: "
            "from_torch(model, (x,), {'mask': mask})"
        ) from e


def _initialise(model: nn.Module, leaves: Sequence[torch.Tensor], inputs: Tree) -> None:
    """Run a model with lazy modules once, in eval mode: that gives them their sizes."""
    lazy = _lazy(model)
    if not lazy:
        return
    args, kwargs = inputs.unflatten([t.clone() for t in leaves])
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with put_back(), torch.no_grad():
            model(*args, **kwargs)
    except Exception as e:  # whatever the network's own code or torch raises
        raise InputError(
            f"the example inputs don't initialise the lazy modules of {type(model).__name__} "
            f"({', '.join(lazy)}): {type(e).__name__}: {e}"
        ) from e
    finally:
        for module, mode in modes:
            module.training = mode
    if _lazy(model):
        raise InputError(
            f"{', '.join(_lazy(model))} of {type(model).__name__} are lazy and not used on the example inputs, "
            "so they have no size: initialise or remove them"
        )


@contextmanager
def _naming_odd_attributes(model: nn.Module) -> Generator[None, None, None]:
    """Where a capture fails and modules hold sparse, nested or quantized tensors as attributes: the error names one."""
    try:
        yield
    except UnsupportedError as e:
        for path, module in model.named_modules():
            for name, held in vars(module).items():
                if isinstance(held, torch.Tensor):
                    try:
                        refuse_odd(held, f"the tensor {f'{path}.{name}'.removeprefix('.')!r}")
                    except UnsupportedError as odd:
                        raise odd from e
        raise


def _lazy(model: nn.Module) -> list[str]:
    """The names of parameters and buffers that wait for a first run to have a size."""
    return [n for named in (model.named_parameters(), model.named_buffers()) for n, t in named if is_lazy(t)]


def _apart(leaves: Sequence[torch.Tensor], model: nn.Module) -> list[torch.Tensor]:
    """The tensors, none of them the same object as another, a weight or what a view is of.

    torch tells them apart by identity, and gives sizes that aren't numbers to what another input is a view of.
    """
    seen = {id(t) for t in (*model.parameters(), *model.buffers())}
    apart: list[torch.Tensor] = []
    for leaf in leaves:
        apart.append(leaf.detach() if id(leaf) in seen or leaf._base is not None else leaf)
        seen.add(id(leaf))
    return apart


def _import_export(
    captured: state.Capture[torch.export.ExportedProgram],
    leaves: Sequence[torch.Tensor],
    external: bool,
    title: str,
) -> TensorDAG:
    """The module as ``torch.export`` sees it."""
    model = captured.flat.model
    mark_cumulative(captured.program, model, _Places("model."))
    weights, tensors = state_and_held(captured.flat)
    names = input_names(model.forward, captured.flat.inputs)
    region = autocast.surrounding([*leaves, *tensors.values()])
    with nullcontext() if region is None else torch.autocast(region.device, enabled=False):  # rules do their own casts
        given = dict(zip(names, leaves, strict=True))
        flat, program = captured.flat, captured.program
        return _import_program(
            program, weights, tensors, flat.signature(), names, "model.", external, title, region, given, flat
        )


def _trace(flat: state.Flat, args: Sequence[torch.Tensor]) -> Any:
    """What ``torch.jit.trace`` makes of a module; UnsupportedError, with torch's reason, if it can't."""
    try:
        with put_back(), checks.kernels_left_open():
            warnings.filterwarnings("ignore", ".*deprecated", DeprecationWarning)
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True", UserWarning)
            warnings.filterwarnings("ignore", category=TracerWarning)  # said better by Decisions
            warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)  # sizes are such here
            given = tuple(t.clone() for t in args)  # the network runs, and may write to them
            on_meta = any(t.is_meta for t in (*given, *flat.parameters(), *flat.buffers()))
            with recorded_convolutions() if on_meta else nullcontext():
                return torch.jit.trace(flat, given, check_trace=False, strict=False)
    except TDaggerError:
        raise
    except Exception as e:  # whatever the network's own code or torch raises
        advice = explained(e)[1] or (
            "torch.jit.trace runs the network on the example inputs: does model(*args, **kwargs) work?"
        )
        if transforms(e):
            advice = "It transforms functions (torch.func), which from_torch(..., via='export') takes"
        raise not_captured("torch.jit.trace", flat, e, advice) from e


def _import_trace(
    captured: state.Capture[Any], leaves: Sequence[torch.Tensor], external: bool, title: str
) -> TensorDAG:
    """The module as ``torch.jit.trace`` saw it, called and answering as the module itself."""
    flat = captured.flat
    weights, tensors = state_and_held(flat)
    names = flat.names_of_inputs(input_names(flat.model.forward, flat.inputs))
    caller = Caller(external)
    with bulk():
        found = torchscript.walk(
            captured.program, flat.arguments(leaves), weights, caller, names, "model", renamed=flat.kept.names,
            of_python=True,
        )  # fmt: skip
        if caller.problems and not external:
            raise caller.error()
        inputs = dict(list(found.graph.inputs.items())[: len(leaves)])
        returned = list(found.graph.outputs.values())
        again = list(found.graph.inputs.values())[len(leaves) : 2 * len(leaves)]
        twice = state.Twice(list(inputs.values()), again, caller.streams) if flat.twice else None
        values, updates = state.settled(flat, returned, found.graph.updates, twice)
    signature = caller.with_seed(inputs, flat.signature())
    outputs = dict(zip(output_names(signature.outputs), values, strict=True))
    graph = Graph(inputs, outputs, updates, title, caller.order)
    weights = _used(weights, flat, graph)
    met = flat.decisions.met
    assertions.tell(met, ())
    lost = [Check(None, c.message, c.place) for c in dict.fromkeys(met) if c.error]
    return TensorDAG(
        graph, TorchWeights(tensors), signature, weights, caller.origins,
        with_holders(found.modules, flat.model, weights), title,
        checks=lost, left_out=caller.left_out,
    )  # fmt: skip


def _used(weights: Mapping[str, Weight], flat: state.Flat, graph: Graph) -> dict[str, Weight]:
    """The state without the tensors of attributes that the graph doesn't need."""
    used = {*graph.parameters, *graph.buffers, *graph.updates}
    return {n: w for n, w in weights.items() if n in used or n not in flat.kept.tensors}


@one_at_a_time
def from_exported_program(
    program: torch.export.ExportedProgram, *, external: bool = False, name: str = ""
) -> TensorDAG:
    """A TDAG of an ExportedProgram with static shapes; see :func:`from_torch`."""
    spec = program.graph_signature
    tensors: dict[str, torch.Tensor] = dict(program.state_dict)
    tensors.update({k: v for k, v in program.constants.items() if isinstance(v, torch.Tensor)})
    parameters = set(spec.parameters)
    lifted = set(spec.inputs_to_lifted_tensor_constants.values())
    first: dict[int, str] = {}
    weights: dict[str, Weight] = {}
    for key, tensor in tensors.items():
        if key in lifted:
            continue
        alias = first.setdefault(id(tensor), key)
        weights[key] = Weight(
            type_of(tensor),
            key in parameters,
            tensor.requires_grad,
            key in program.state_dict,
            "" if alias == key else alias,
        )
    symbols = {str(n) for node in program.graph.nodes if node.op == "placeholder"
               for n in getattr(node.meta.get("val"), "shape", ()) if not isinstance(n, int)}  # fmt: skip
    if symbols:
        raise UnsupportedError(
            f"the exported program has symbolic sizes ({', '.join(map(str, program.range_constraints))}): "
            "a TDAG is static, export it without dynamic_shapes"
        )
    inputs = _tree_of(program.call_spec.in_spec)
    outputs = _tree_of(program.call_spec.out_spec)
    outputs = _with_constants(outputs, [o.arg for o in spec.output_specs if o.kind is OutputKind.USER_OUTPUT])
    names = [s.arg.name for s in spec.input_specs if s.kind is InputKind.USER_INPUT]
    signature = Signature(
        _with_constants(inputs, [s.arg for s in spec.input_specs if s.kind is InputKind.USER_INPUT]), outputs
    )
    return _import_program(program, weights, tensors, signature, names, "", external, name or "exported_program")


def _tree_of(spec: Any) -> Tree:
    """torch's pytree spec as a tree: tuples, lists, dicts, named tuples and registered dataclasses."""
    dummy = pytree.tree_unflatten([_Leaf()] * spec.num_leaves, spec)
    return flatten(dummy, lambda x: isinstance(x, _Leaf))[1]


class _Leaf:
    """Stands for a tensor while a pytree spec is read."""


def _with_constants(tree: Tree, specs: Sequence[Any]) -> Tree:
    """The tree with constants where the program's signature has them instead of tensors."""
    arguments = iter(specs)

    def fill(t: Tree) -> Tree:
        if t.kind == "leaf":
            spec = next(arguments)
            return Tree("constant", constant=spec.value) if isinstance(spec, ConstantArgument) else t
        return t._replace(children=tuple(fill(c) for c in t.children))

    return fill(tree)


def _import_program(
    program: torch.export.ExportedProgram,
    weights: Mapping[str, Weight],
    tensors: Mapping[str, torch.Tensor],
    signature: Signature,
    names: Sequence[str],
    prefix: str,
    external: bool,
    title: str,
    region: autocast.Region | None = None,
    examples: Mapping[str, torch.Tensor] | None = None,
    flat: state.Flat | None = None,
    written: Sequence[str] = (),
) -> TensorDAG:
    """``written`` are the constants of the program that it writes to, and so are buffers."""
    caller = Caller(external, names)
    caller.autocast = region
    caller.exact = aliases.writes(program.graph_module)
    caller.standing = aliases.standing(program.graph_module) if caller.exact else None
    places = _Places(prefix)
    if flat is not None:
        caller.passing = Passing(places.at, {places.at(stack)[0] for stack in flat.called.stacks})
    refs: list[Any] = []
    inputs: dict[str, Value] = {}
    given: dict[str, Ref] = {}
    buffers: dict[str, Ref] = {}
    constants: dict[str, Ref] = {}
    renamed = {} if flat is None else flat.kept.names
    given_names = names if flat is None else flat.names_of_inputs(names)
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    with bulk():
        for spec in program.graph_signature.input_specs:
            target = (spec.target or "").removeprefix(prefix)
            target = renamed.get(target, target)
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(spec.arg, ConstantArgument):
                    refs.append(spec.arg.value)
                    continue
                name = given_names[len(inputs)]
                inputs[name] = Input(name, type_of(placeholders[spec.arg.name].meta["val"]))()
                given[spec.arg.name] = Ref(inputs[name])
                refs.append(given[spec.arg.name])
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                weight = weights[target]
                name = weight.alias_of or target
                ref = buffers.setdefault(name, Ref(weight_value(target, weight)))
                refs.append(ref)
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                found = _constant_tensor(program, str(spec.target))
                if flat is not None:
                    flat.check_constant(target, found)
                if found.is_meta or target in written:  # a type without data is no constant, but can be a buffer
                    weights = {**weights, target: Weight(type_of(found), False, False, persistent=False)}
                    tensors = {**tensors, target: found}
                    refs.append(buffers.setdefault(target, Ref(weight_value(target, weights[target]))))
                else:
                    constants[target] = Ref(constant(found))
                    refs.append(constants[target])
            else:
                raise UnsupportedError(f"the exported program has an input of kind {spec.kind.name} ({spec.target})")
        result = run_fx(program.graph_module, refs, caller, places)
        if caller.problems and not external:
            raise caller.error()
        changed = [n for n, ref in constants.items() if ref.cell.version]
        if changed and flat is not None:
            raise UnsupportedError(
                f"the network writes in place to {', '.join(changed)}, which are no buffers: register them as buffers"
            )
        if changed and is_tracing():
            raise UnsupportedError(
                f"a program can't write to {', '.join(changed)}, which are no buffers: register them"
            )
        if changed:
            return _import_program(
                program, weights, tensors, signature, names, prefix, external, title, written=(*written, *changed)
            )
        returned, updates = _results(program, result, buffers, prefix)
        changed = [n for n in _written_inputs(program, dict(zip(given, inputs, strict=True)), given) if n in names]
        if flat is not None:
            first, again = [inputs[n] for n in names], [inputs.pop(n) for n in given_names[len(names) :]]
            twice = state.Twice(first, again, caller.streams) if flat.twice else None
            returned, updates = state.settled(flat, returned, updates, twice)
        outputs = dict(zip(output_names(signature.outputs), returned, strict=True))
        refuse_shared_writes([*changed, *updates], examples or {}, tensors)
        warn_of_writes(changed)
        signature = caller.with_seed(inputs, signature)
        whole = with_slots(inputs, [*outputs.values(), *updates.values()])
        graph = Graph(whole, outputs, updates, title, caller.order)
        origins = caller.origins
        if flat is not None and caller.passing is not None:
            weights = _used(weights, flat, graph)
            given_back = [r for s, r in zip(program.graph_signature.output_specs, result, strict=True)
                          if s.kind is OutputKind.USER_OUTPUT and isinstance(r, Ref)]  # fmt: skip
            steps = zip(outputs, given_back, flat.result.passed, strict=False)
            origins = caller.passing.told(origins, outputs, {n: caller.passing.of(r, own) for n, r, own in steps})
    asserted = assertions.distinct(caller.checks)
    met = [] if flat is None else flat.decisions.met
    assertions.tell(met, asserted)
    asserted += [Check(None, c.message, c.place) for c in dict.fromkeys(met) if c.error and not c.whole]
    axes = caches.axis_names(signature.inputs, graph.inputs)
    modules = places.modules if flat is None else with_holders(places.modules, flat.model, weights)
    found = graph, TorchWeights(tensors), signature, dict(weights), origins, modules, title, axes
    views = caller.undecided if caller.standing is None else caller.standing.undecided
    undecided = [u.told for u in views if u.matters]
    return TensorDAG(*found, checks=asserted, left_out=[*caller.left_out, *undecided])


def _constant_tensor(program: torch.export.ExportedProgram, target: str) -> torch.Tensor:
    found = program.constants[target]
    if not isinstance(found, torch.Tensor):
        raise UnsupportedError(f"constant {target} is a {type(found).__name__}, not a tensor")
    return found


def _written_inputs(
    program: torch.export.ExportedProgram, names: Mapping[str, str], given: Mapping[str, Ref]
) -> list[str]:
    """The inputs that are written to, by themselves or as torch's signature says; ``given`` by placeholder."""
    told = [str(s.target) for s in program.graph_signature.output_specs if s.kind is OutputKind.USER_INPUT_MUTATION]
    return [names[n] for n, ref in given.items() if ref.cell.version or n in told]


def _results(
    program: torch.export.ExportedProgram,
    result: Any,
    buffers: Mapping[str, Ref],
    prefix: str,
) -> tuple[list[Value], dict[str, Value]]:
    """Outputs and the new values of changed buffers."""
    updates: dict[str, Value] = {}
    returned: list[Value] = []
    for spec, ref in zip(program.graph_signature.output_specs, result, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION:
            updates[str(spec.target).removeprefix(prefix)] = ref.read()
        elif spec.kind is OutputKind.USER_OUTPUT and isinstance(ref, Ref):
            returned.append(ref.read())
    for name, ref in buffers.items():
        if ref.cell.version:
            updates[name] = Ref(ref.cell.value, ref.cell).read()
    return returned, updates


class _Places:
    """Reads the origin of an fx node: module path, framework op, source line."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.modules: dict[str, str] = {}

    def __call__(self, node: torch.fx.Node) -> Origin:
        path, calls = self.at((node.meta.get("nn_module_stack") or {}).items())
        return Origin(path, str(node.target), _source_line(node.meta.get("stack_trace")), calls)

    def at(self, stack: Iterable[tuple[str, tuple[str, Any]]]) -> tuple[str, tuple[tuple[str, int], ...]]:
        """The path of the innermost module that torch has on a stack, and the modules called before."""
        path = ""
        calls: tuple[tuple[str, int], ...] = ()
        for key, (own, kind) in stack:
            path = f"{own}.".removeprefix("L['self'].").removeprefix("_export_root.")
            if not path.startswith(self.prefix):
                continue  # the module that flattens the inputs
            path = path[len(self.prefix) : -1]
            if "@" in key and key.rpartition("@")[2].isdecimal() and "@" not in path:  # a call after the first
                calls = (*calls, (path, int(key.rpartition("@")[2])))
            if path not in self.modules:
                named = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
                self.modules[path] = named.rpartition(".")[2]
        return path, calls


def _source_line(trace: str | None) -> str:
    """The last ``file:line`` of a stack trace."""
    if not trace:
        return ""
    start = trace.rfind('File "') + 6
    end = trace.find('"', start)
    comma = trace.find(",", end + 2)
    return f"{trace[start:end]}:{trace[end + 8 : comma]}"


@one_at_a_time
def from_torchscript(
    module: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    external: bool = False,
    name: str = "",
    sizes: Sizes = "asked",
) -> TensorDAG:
    """A TDAG of a TorchScript module, traced or scripted (control flow on shapes and settings is resolved).

    ``args`` are example inputs; a module traced in this process doesn't need them. ``sizes`` as for
    :func:`from_torch`: a script is read again with inputs of other sizes, and says of them what it would do.
    InputError asks for inputs where the file doesn't say the shapes; UnsupportedError names ops and control flow on
    data.
    """
    arguments = args if args is None or isinstance(args, tuple) else (args,)
    dag = _from_script(module, arguments, kwargs, external, name)

    def capture(args: tuple[Any, ...], kwargs: dict[str, Any]) -> TensorDAG:
        return _from_script(module, args, kwargs, external, name)

    if arguments is None and not kwargs:
        arguments = tuple([torch.zeros(v.shape, dtype=TORCH_DTYPES[v.dtype]) for v in dag.graph.inputs.values()])
    leaves, tree = flatten((arguments or (), dict(kwargs or {})), _is_tensor)
    return _knowing(dag, sizes, capture, module, leaves, tree)


def _from_script(
    module: Any, arguments: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None, external: bool, name: str
) -> TensorDAG:
    """A script read once."""
    caller = Caller(external)
    weights, tensors = state_of(module) if isinstance(module, nn.Module) else ({}, {})
    with bulk():
        graph, signature, modules = torchscript.walk(module, arguments, weights, caller, kwargs=kwargs)
        if caller.problems and not external:
            raise caller.error()
    title = name or getattr(module, "original_name", "") or type(module).__name__
    graph.name = title
    assertions.tell((), caller.checks)
    found = graph, TorchWeights(tensors), signature, weights, caller.origins, modules, title
    return TensorDAG(*found, checks=caller.checks, left_out=caller.left_out)
