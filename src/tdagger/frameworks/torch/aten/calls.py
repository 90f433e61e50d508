"""Calling ATen ops on values: the table, aliasing, decompositions, and what to do without a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from tdagger import library as lib
from tdagger.analysis.axes.doubts import LeftOut
from tdagger.errors import TDaggerError, UnsupportedError
from tdagger.frameworks.importing import Importing, Problem, place_of
from tdagger.frameworks.torch.aten import (
    DRAWS,
    DTYPES,
    RULES,
    TORCH_DTYPES,
    Changed,
    Memory,
    aliases,
    memory_of,
    number_of,
)
from tdagger.frameworks.torch.aten.decompositions import Spec, disagreement
from tdagger.frameworks.torch.aten.folding import fold
from tdagger.frameworks.torch.aten.functional import Cell, Ref
from tdagger.frameworks.torch.aten.in_range import in_range
from tdagger.frameworks.torch.aten.left_out import INDEXING, left_out, unseen
from tdagger.frameworks.torch.aten.passing import Passing
from tdagger.frameworks.torch.aten.reasons import MEMORY, QUANTIZED, SPARSE, reason_of
from tdagger.frameworks.torch.capture import assertions, autocast
from tdagger.names import shown
from tdagger.network import Check, Origin
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.external import Slot
from tdagger.ops.source import Parameter, const
from tdagger.ops.structure import broadcast_to
from tdagger.types import TensorType

#: Arguments that say where and how data lies: nothing a value has.
PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "requires_grad",
                        "generator"})  # fmt: skip

#: Ops that check or annotate and compute nothing.
_NOTHING = frozenset({"_assert_tensor_metadata", "_print", "_linalg_check_errors", "sym_constrain_range",
                      "sym_constrain_range_for_size", *assertions.ASSERTIONS})  # fmt: skip

#: Views of memory that no structural op makes.
_ALWAYS_VIEWS = frozenset({"as_strided", "view_as_real", "view_as_complex"})

#: Ops that read memory, whatever tensor lies there: their rules are told how the first argument lies.
OF_MEMORY = frozenset({"as_strided", "as_strided_copy", "as_strided_scatter"})


#: Ops that make a Python number of a tensor: only where it depends on no input and no weight.
_NUMBERS = frozenset({"item", "_local_scalar_dense"})


class Plan(NamedTuple):
    """What an op's schema says: its rule, the arguments it writes, the argument its results are views of."""

    name: str
    rule: Callable[..., Any] | None
    arguments: tuple[str, ...]
    written: tuple[str, ...]
    viewed: str | None
    #: The arguments that may be numbers of any type: a program has them in the place of tensors too.
    numbers: frozenset[str]


_NUMBER = re.compile("number|^(Optional\\[)?Tensor")


@cache
def plan_of(target: OpOverload) -> Plan:
    """Read an op's schema, once."""
    schema = target._schema
    namespace, _, base = schema.name.partition("::")
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    pure = base
    if written and base.endswith("_") and not base.endswith("__"):
        pure = base[:-1]
    elif written and base.startswith("__i") and base != "__invert__":
        pure = "__" + base[3:]
    overload = schema.overload_name
    if "out" in written:
        overload = overload.removesuffix("out").removesuffix("_")
    if namespace == "aten":
        found = RULES.get(f"{pure}.{overload or 'default'}") or RULES.get(pure)
    else:
        found = RULES.get(f"{namespace}.{pure}")  # an op that another library registered
    viewed = next((a.name for a in schema.arguments if a.alias_info is not None and not a.alias_info.is_write), None)
    numbers = frozenset(a.name for a in schema.arguments if _NUMBER.search(str(a.type)))
    return Plan(f"{namespace}.{base}", found, tuple(a.name for a in schema.arguments), written, viewed, numbers)


class Caller(Importing):
    """Calls ATen ops on refs; see :class:`Importing`."""

    def __init__(self, external: bool = False, taken: Collection[str] = ()) -> None:
        super().__init__(external, taken)
        #: What the network asserts of its data.
        self.checks: list[Check] = []
        #: Calls that changed nothing, of which that isn't sure at other sizes.
        self.left_out: list[LeftOut] = []
        #: What may be a view or a copy at other sizes, where it matters.
        self.undecided: list[aliases.Undecided] = []
        #: Whether what is called has tensors recorded that share memory as the network's do, and it matters.
        self.exact = False
        #: What stands for tensors whose sizes were recorded without numbers; None: all have numbers.
        self.standing: aliases.Standing | None = None
        #: The region of torch.autocast that the calls are in.
        self.autocast: autocast.Region | None = None
        #: Who reads what through modules that give back what they take; None: nobody asks.
        self.passing: Passing | None = None

    def call(
        self,
        target: OpOverload,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        origin: Origin,
        memory: Memory | None = None,
    ) -> Any:
        """The result of an op: refs, nested as the op returns them.

        ``memory`` is how the first argument lies there; None if that isn't known.
        """
        plan = plan_of(target)
        base = plan.name.partition(".")[2]
        if base in _NOTHING:
            return None
        if base in _NUMBERS and (number := number_of(_read(args[0]))) is not None:
            return number
        if self.autocast is not None and autocast.may_cast(target, self.autocast):
            args, kwargs, inner = self._autocast(target, args, kwargs, self.autocast, origin)
            if inner is not None:
                return inner()
        kwargs = {k: v for k, v in kwargs.items() if k not in PLACEMENT}
        out_ref = kwargs.pop("out", None)
        if plan.rule is None:
            self.left_out += left_out(base, None, args, kwargs, _read)
            if out_ref is not None:
                kwargs["out"] = out_ref
            return self._without_rule(target, plan, args, kwargs, origin)
        if base in OF_MEMORY and memory is None:
            return self._stand_in(target, plan, args, kwargs, origin, MEMORY.why)
        try:
            named = {k: _read(v) for k, v in kwargs.items()}
            if plan.rule in DRAWS:
                named["draw"] = self.draw
            if base in OF_MEMORY:
                named["memory"] = memory
            given = [*map(_read, args)]
            if plan.numbers:
                given, named = in_range(target, plan.arguments, plan.numbers, given, named)
            result = plan.rule(*given, **named)
        except UnsupportedError as e:
            return self._stand_in(target, plan, args, kwargs, origin, str(e))
        except Exception as e:
            raise _rule_failed(target, plan, args, origin, e) from e
        self.left_out += left_out(base, result, given, named)
        if isinstance(result, Changed):
            refs = {**dict(zip(plan.arguments, args, strict=False)), **kwargs}
            self.note(list(result.written.values()), origin)
            for name, value in result.written.items():
                self._write(refs[name], value)
            self.note(result.result, origin)
            return _map_values(result.result, Ref)
        self.note(result, origin)
        if out_ref is not None:
            return self._write(out_ref, result)
        if plan.written:
            first = _written(plan, args, kwargs)
            if torch.Tag.inplace_view in target.tags:
                return first.become(result)
            return self._write(first, result[0] if isinstance(result, tuple) else result)
        first = args[0] if plan.viewed is not None and args else None
        if isinstance(first, Ref) and (first.is_contiguous or base not in aliases.MAYBE_VIEWS):
            return _map_values(result, lambda v: first.view(v, base in _ALWAYS_VIEWS))
        return _map_values(result, Ref)

    def _autocast(
        self, target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], region: autocast.Region, origin: Origin
    ) -> tuple[Sequence[Any], dict[str, Any], Callable[[], Any] | None]:
        """The arguments as autocast casts them; where it casts inside the op, what calls the ops that are inside."""
        if not autocast.has_kernel(target, region):
            if not autocast.casts_inside(target, args, kwargs, region, _tensor_type):
                return args, kwargs, None
            graph = decomposed(target, args, kwargs, region)
            if isinstance(graph, str):
                raise self.error(f"{plan_of(target).name} can't be imported from inside torch.autocast: {graph}")

            def inner() -> Any:
                tensors = [leaf for leaf in pytree.tree_leaves((tuple(args), kwargs)) if isinstance(leaf, Ref)]
                with self.in_autocast(None):
                    return run_fx(graph, tensors, self, lambda _: origin)

            return args, kwargs, inner
        leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
        for i, dtype in autocast.casts_of(target, args, kwargs, region, _tensor_type).items():
            value = cast(_read(leaves[i]), DTYPES[dtype])
            self.note(value, origin)
            leaves[i] = Ref(value)
        own_args, own_kwargs = pytree.tree_unflatten(leaves, spec)
        return own_args, own_kwargs, None

    @contextmanager
    def in_autocast(self, region: autocast.Region | None) -> Generator[None, None, None]:
        """Calls in another region of torch.autocast, or in none."""
        before, self.autocast = self.autocast, region
        try:
            yield
        finally:
            self.autocast = before

    def _write(self, ref: Any, value: Value) -> Ref:
        if not isinstance(ref, Ref):
            raise UnsupportedError(
                f"the network writes in place to a {tuple(ref.shape)} tensor that is no buffer: register it as one"
            )
        old = ref.read()
        spread = tuple(range(old.rank - value.rank))
        if spread:
            self.left_out.append(LeftOut(old, spread, "is written with what has no such dimension"))
        new = broadcast_to(cast(value, old.dtype), old.shape)
        ref.write(new)
        return ref

    def _without_rule(
        self, target: OpOverload, plan: Plan, args: Sequence[Any], kwargs: dict[str, Any], origin: Origin
    ) -> Any:
        reason = reason_of(plan.name.partition(".")[2])
        if reason is not None:
            return self._stand_in(target, plan, args, kwargs, origin, reason.why)
        if plan.written:
            pure = functional(target)
            if pure is None:
                return self._stand_in(target, plan, args, kwargs, origin, "there is no rule for it")
            written = [n for n in plan.written if n in kwargs and n not in plan_of(pure).arguments]
            inputs = {k: v for k, v in kwargs.items() if k not in written}
            result = self.call(pure, args, inputs, origin)
            targets = [kwargs[n] for n in written] or [_written(plan, args, kwargs)]
            results = result if isinstance(result, tuple | list) else [result]
            for ref, new in zip(targets, results, strict=True):
                self._write(ref, new.read())
            return targets[0] if len(targets) == 1 else tuple(targets)
        graph = decomposed(target, args, kwargs)
        specs = _specs((args, kwargs))
        why = graph if isinstance(graph, str) else disagreement(target, specs[0], specs[1], _without_own_rule())
        if why:
            return self._stand_in(target, plan, args, kwargs, origin, why)
        assert not isinstance(graph, str)
        tensors = [leaf for leaf in pytree.tree_leaves((tuple(args), kwargs)) if isinstance(leaf, Ref)]
        return run_fx(graph, tensors, self, lambda _: origin)

    def _stand_in(
        self,
        target: OpOverload,
        plan: Plan,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        origin: Origin,
        why: str,
    ) -> Any:
        """An external op for what can't be imported; a problem is noted unless externals are wanted.

        Where no input and no weight is behind the arguments, torch works out what it gives.
        """
        try:
            folded = fold(target, args, kwargs)
        except UnsupportedError as e:
            folded, why = None, str(e)
        except Exception as e:  # whatever torch has against these constants, as it would have when the network runs
            folded, why = None, f"on these constants torch says {type(e).__name__}: {str(e).splitlines()[0]}"
        if folded is not None:
            return self._folded(plan, args, kwargs, origin, *folded)
        where = place_of(origin)
        if not self.external or plan.written:
            self.problems.append(Problem(plan.name, why, where))
        leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
        tensors: list[Value] = []
        constants: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Ref):
                constants.append(Slot(len(tensors)))
                tensors.append(leaf.read())
            else:
                constants.append(leaf)
        try:
            result = target(*on_meta(args), **on_meta(kwargs))
        except Exception as e:
            kept = f"{plan.name} at {where} can't be kept as an external op, the shape of its result isn't known: {e}"
            raise self.error(kept if self.external else "") from e
        types, result_spec = pytree.tree_flatten(result)
        if not all(isinstance(t, torch.Tensor) for t in types):
            raise self.error(f"{plan.name} at {where} has results that are not tensors")
        external_args, external_kwargs = _hashable(pytree.tree_unflatten(constants, spec))
        kinds = [TensorType(tuple(t.shape), DTYPES[t.dtype]) for t in types]
        results = self.stand_in("torch", str(target), external_args, external_kwargs, kinds, tensors, origin)
        return pytree.tree_unflatten([Ref(v) for v in results], result_spec)

    def _folded(
        self,
        plan: Plan,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        origin: Origin,
        result: Any,
        after: Sequence[Any],
        named: dict[str, Any],
    ) -> Any:
        """What torch worked out, as constants; what it wrote is written."""
        given = {**dict(zip(plan.arguments, args, strict=False)), **kwargs}
        written = {**dict(zip(plan.arguments, after, strict=False)), **named}
        refs: dict[int, Ref] = {}
        for name in plan.written:
            if isinstance(given.get(name), Ref):
                self._write(given[name], constant(written[name]))
                refs[id(written[name])] = given[name]

        def of(tensor: torch.Tensor) -> Ref:
            if id(tensor) in refs:
                return refs[id(tensor)]
            value = constant(tensor)
            self.note(value, origin)
            return Ref(value)

        return pytree.tree_map_only(torch.Tensor, of, result)


def _written(plan: Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> Ref:
    """The first argument that an op writes."""
    name = plan.written[0]
    return kwargs[name] if name in kwargs else args[plan.arguments.index(name)]


@cache
def functional(target: OpOverload) -> OpOverload | None:
    """The op that computes what ``target`` (in-place, or with ``out``) writes; None if there is none."""
    schema = target._schema
    namespace, _, base = schema.name.partition("::")
    if base.endswith("_") and not any(a.is_out for a in schema.arguments):
        base = base[:-1]
    packet = getattr(getattr(torch.ops, namespace), base, None)
    wanted = [(a.name, str(a.type)) for a in schema.arguments if not a.is_out]
    for name in packet.overloads() if packet is not None else ():
        found = getattr(packet, name)
        if found is not target and [(a.name, str(a.type)) for a in found._schema.arguments] == wanted:
            return found
    return None


def _read(x: Any) -> Any:
    """Refs to values, wherever they are; real tensors of rank 0 to constants."""
    if isinstance(x, Ref):
        return x.read()
    if isinstance(x, torch.Tensor):
        return constant(x)
    if isinstance(x, list | tuple):
        return [_read(v) for v in x]
    return x


def _tensor_type(x: Any) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Shape and element type of what stands for a tensor."""
    if isinstance(x, Ref):
        value = x.read()
        return value.shape, TORCH_DTYPES[value.dtype]
    return (tuple(x.shape), x.dtype) if isinstance(x, torch.Tensor) else None


def _map_values(result: Any, function: Callable[[Value], Ref]) -> Any:
    if isinstance(result, Value):
        return function(result)
    if isinstance(result, tuple | list):
        return tuple([_map_values(r, function) for r in result])
    return result


def refuse_odd(tensor: torch.Tensor, what: str = "a tensor") -> None:
    """UnsupportedError for a tensor that isn't a plain array of numbers, with what to do."""
    if tensor.is_quantized:
        raise UnsupportedError(f"{what} of {tensor.dtype} can't be imported: {QUANTIZED.why}, or .dequantize() it")
    if tensor.is_nested:
        raise UnsupportedError(f"{what} that is nested can't be imported: make one of it with .to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        sparse = f"{SPARSE.why}, with .to_dense(), and use ops on dense tensors (torch.matmul for torch.sparse.mm)"
        why = sparse if "sparse" in str(tensor.layout) else "make it a plain one with .to_dense()"
        raise UnsupportedError(f"{what} of layout {tensor.layout} can't be imported: {why}")
    kind = type(tensor)
    if hasattr(kind, "__tensor_flatten__"):  # of several plain ones, as torchao's quantized weights are
        theirs = kind.__module__.partition(".")[0] == "torchao"
        by = "torchao.utils.unwrap_tensor_subclass(model), which leaves numbers and scales as weights of their own"
        raise UnsupportedError(
            f"{what} is a {kind.__module__}.{kind.__qualname__}, made of several tensors, and can't be imported: take "
            f"it apart into plain ones first{f', with {by}' if theirs else ''}"
        )
    if tensor.dtype not in DTYPES:
        raise UnsupportedError(f"{what} of {tensor.dtype} can't be imported")


def constant(tensor: torch.Tensor) -> Value:
    """A tensor as a constant; its data is copied."""
    refuse_odd(tensor, "a constant")
    return const(array_of(tensor))


#: What numpy has no element type of its own for.
_OF_ML_DTYPES = frozenset({"bf16", "f8e4m3", "f8e5m2"})


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A numpy array on the tensor's memory, bfloat16 and float8 included; without a copy on the CPU."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    ours = DTYPES[tensor.dtype]
    if ours.name in _OF_ML_DTYPES:
        whole = torch.uint16 if ours.bytes == 2 else torch.uint8
        return tensor.contiguous().view(whole).numpy().view(ours.numpy)
    return tensor.numpy()


def on_meta(x: Any) -> Any:
    """Arguments with meta tensors in place of refs."""
    return pytree.tree_map_only(Ref, lambda r: meta_tensor(r.read().type), x)


def type_of(tensor: torch.Tensor) -> TensorType:
    """The type of a torch tensor."""
    refuse_odd(tensor)
    return TensorType(tuple(tensor.shape), DTYPES[tensor.dtype])


def meta_tensor(t: TensorType) -> torch.Tensor:
    """A tensor without data of a type."""
    return torch.empty(t.shape, dtype=TORCH_DTYPES[t.dtype], device="meta")


def _hashable(x: Any) -> Any:
    if isinstance(x, list | tuple) and not isinstance(x, Slot):
        return tuple(_hashable(v) for v in x)
    if isinstance(x, dict):
        return tuple((k, _hashable(v)) for k, v in x.items())
    return x


def _rule_failed(target: Any, plan: Plan, args: Sequence[Any], origin: Origin, error: Exception) -> TDaggerError:
    shown = ", ".join(str(a.read().type) if isinstance(a, Ref) else repr(a) for a in args)
    return TDaggerError(f"importing {target}({shown}) at {place_of(origin)} failed: {type(error).__name__}: {error}")


# --- decompositions ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _table() -> dict[Any, Any]:
    """Every decomposition torch has; where it has two, the one into core ATen."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    return {**decomposition_table, **core_aten_decompositions()}


@lru_cache(maxsize=1)
def _without_own_rule() -> dict[Any, Any]:
    """torch's decompositions of the ops that have no rule."""
    return {k: v for k, v in _table().items() if isinstance(k, OpOverload) and plan_of(k).rule is None}


def _specs(x: Any) -> Any:
    """Arguments with what is to be known of a tensor in place of refs."""
    return pytree.tree_map_only(Ref, lambda r: Spec(r.read().shape, TORCH_DTYPES[r.read().dtype]), x)


def decomposed(
    target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], region: autocast.Region | None = None
) -> torch.fx.GraphModule | str:
    """torch's own decomposition of a call into ops with rules, traced on meta tensors; why not, if it has none.

    ``target`` is an op, or a function that calls some.

    In a ``region`` of autocast with the casts that happen there.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Ref)]

    def call(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for i, t in zip(places, tensors, strict=True):
            filled[i] = t
        own_args, own_kwargs = pytree.tree_unflatten(filled, spec)
        with nullcontext() if region is None else region.inside():
            return target(*own_args, **own_kwargs)

    inputs = [meta_tensor(leaves[i].read().type) for i in places]
    if region is not None:  # autocast looks at the device
        with FakeTensorMode():
            inputs = [torch.empty(t.shape, dtype=t.dtype, device=region.device) for t in inputs]
    traced = make_fx(call, decomposition_table=_without_own_rule() if inputs else {})
    try:
        graph = traced(*inputs)
        if _has_no_numbers(graph):  # of tensors that it makes itself, beside those without data
            graph = traced(*[torch.zeros(t.shape, dtype=t.dtype) for t in inputs])
    except Exception as e:  # torch can't run it on meta tensors: then it has no decomposition we could use
        inner = re.search(r"aten::(\w+)", str(e))
        reason = reason_of(inner[1]) if inner else None
        return "there is no rule for it" if reason is None else f"it needs {inner[1]}, and {reason.why}"  # type: ignore[index]
    missing = {plan_of(n.target).name for n in graph.graph.nodes if _is_op(n) and not _is_known(n)}
    if not missing:
        return graph
    for name in sorted(missing):
        reason = reason_of(name.partition(".")[2])
        if reason is not None:
            return f"it needs {name}, and {reason.why}"
    own = plan_of(target).name if isinstance(target, OpOverload) else ""
    others = ", ".join(sorted(missing - {own}))
    return f"there is no rule for it{', nor for ' + others + ', which it decomposes into' if others else ''}"


def _has_no_numbers(graph: torch.fx.GraphModule) -> bool:
    """Whether a graph holds a tensor without data."""
    held = [getattr(graph, str(n.target), None) for n in graph.graph.nodes if n.op == "get_attr"]
    return any(isinstance(t, torch.Tensor) and t.is_meta for t in held)


def _is_op(node: torch.fx.Node) -> bool:
    return isinstance(node.target, OpOverload)


def _is_known(node: torch.fx.Node) -> bool:
    """Whether there is a rule for a node of a decomposition."""
    plan = plan_of(node.target)  # type: ignore[arg-type]
    known = plan.rule is not None or plan.name.partition(".")[2] in _NOTHING
    return known or (bool(plan.written) and functional(node.target) is not None)  # type: ignore[arg-type]


def run_fx(
    graph: torch.fx.GraphModule,
    inputs: Sequence[Any],
    caller: Caller,
    origin_of: Callable[[torch.fx.Node], Origin],
) -> Any:
    """Walk an fx graph of ATen ops; the inputs and results are refs."""
    env: dict[torch.fx.Node, Any] = {}
    given = iter(inputs)
    apart = assertions.only_asserted(graph)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            found: Any = graph
            for part in node.target.split("."):
                found = getattr(found, part)
            env[node] = Ref(constant(found)) if isinstance(found, torch.Tensor) else found
        elif node.op == "output":
            return map_arg(node.args[0], env.__getitem__)
        else:
            args = map_arg(node.args, env.__getitem__)
            kwargs = map_arg(node.kwargs, env.__getitem__) if node.kwargs else {}
            if node in apart:
                call = partial(_call_node, node, args, dict(kwargs), caller, origin_of)
                env[node] = assertions.walk_apart(node, args, dict(kwargs), caller, origin_of(node), call)
            else:
                env[node] = _call_node(node, args, dict(kwargs), caller, origin_of)
    return None


#: What torch makes of a Python number where it wants a tensor.
_WIDEST = {bool: torch.bool, int: torch.int64, float: torch.float64}


def with_tensor(target: OpOverload, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call, the first one a tensor if it is a number where the op takes a tensor."""
    if args and isinstance(args[0], int | float) and isinstance(target._schema.arguments[0].type, torch.TensorType):
        return (Ref(constant(torch.tensor(args[0], dtype=_WIDEST[type(args[0])]))), *args[1:])
    return args


def _call_node(
    node: torch.fx.Node,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    caller: Caller,
    origin_of: Callable[[torch.fx.Node], Origin],
) -> Any:
    target = node.target
    if isinstance(target, OpOverload):
        args = with_tensor(target, args)
        memory = _memory(node.args) if plan_of(target).name.partition(".")[2] in OF_MEMORY else None
        exact, caller.exact = caller.exact, False  # what an op is made of is recorded for other strides
        origin = origin_of(node)
        reading = None if caller.passing is None else caller.passing.reading(node, args, kwargs)
        try:
            result = caller.call(target, args, kwargs, origin, memory)
        finally:
            caller.exact = exact
        if exact and caller.standing is not None:
            nodes = pytree.tree_leaves((node.args, node.kwargs))
            for ref, n in zip(pytree.tree_leaves((args, kwargs)), nodes, strict=True):
                if isinstance(ref, Ref) and isinstance(n.meta.get("val"), torch.Tensor):
                    caller.standing.meet(ref, n.meta["val"])
            result = caller.standing.called(target, args, kwargs, result)
        elif exact and not target._schema.is_mutable:
            nodes = pytree.tree_leaves((node.args, node.kwargs))
            pairs = zip(pytree.tree_leaves((args, kwargs)), nodes, strict=True)
            known = [(r, n.meta["val"]) for r, n in pairs if isinstance(r, Ref) and n.meta.get("val") is not None]
            stands = aliases.stands_for(target, args, node.meta.get("val"), known[0][1] if known else None)
            if known and args and args[0] is known[0][0]:
                told = aliases.undecided(aliases.name_of(target), stands, known[0][1], known[0][0].read())
                result = aliases.settled(result, stands, known)
                caller.undecided += aliases.Undecided.of(told, known[0][0], result)
            else:
                result = aliases.settled(result, stands, known)
        if caller.passing is not None and reading is not None:
            read = caller.passing.read(result, reading, target, args, origin, caller.origins)
            if caller.standing is not None:
                caller.standing.alike(result, read)
            result = read
        _check(node, result)
        base = plan_of(target).name.partition(".")[2]
        if base in INDEXING and isinstance(args[0], Ref) and (trace := node.meta.get("stack_trace")):
            caller.left_out += unseen(base, args[0].read(), args[1:], trace.rstrip().rpartition("\n")[2])
        return result
    if isinstance(target, HigherOrderOperator):
        return _higher_order(node, target, args, caller, origin_of)
    leaves = pytree.tree_leaves((args, kwargs))
    if not callable(target):
        raise caller.error(f"{node.format_node()} is not a call")
    if getattr(target, "__name__", "") == "getitem" or not any(isinstance(leaf, Ref) for leaf in leaves):
        return target(*args, **kwargs)
    raise caller.error(f"{target} at {shown(origin_of(node).source)} is a Python function on tensors, not an ATen op")


def _memory(args: Sequence[Any]) -> Memory | None:
    """How the first argument of a node lies in memory, as recorded; None if it doesn't fill its part of it."""
    tensor = args[0].meta.get("val") if args and isinstance(args[0], torch.fx.Node) else None
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
        return None
    numbers = [*tensor.shape, *tensor.stride(), tensor.storage_offset()]
    if not all(isinstance(n, int) for n in numbers):
        return None
    return memory_of(tensor.shape, tensor.stride(), int(tensor.storage_offset()))


def _higher_order(
    node: torch.fx.Node,
    target: Any,
    args: tuple[Any, ...],
    caller: Caller,
    origin_of: Callable[[torch.fx.Node], Origin],
) -> Any:
    """Regions that torch.export wraps: walked in place."""
    name = target.name()
    if name == "wrap_with_set_grad_enabled":
        enabled, inner, *rest = args
        if enabled:
            return run_fx(inner, rest, caller, origin_of)
        before = {r.cell: (r.cell.version, r.cell.value) for r in rest if isinstance(r, Ref)}
        return without_gradient(run_fx(inner, rest, caller, origin_of), before, caller, origin_of(node))
    if name == "wrap_with_autocast":
        device, dtype, enabled, _, inner, *rest = args
        region = autocast.Region(device, dtype or torch.get_autocast_dtype(device)) if enabled else None
        with caller.in_autocast(region if _is_on(inner, device) else caller.autocast):
            return run_fx(inner, rest, caller, origin_of)
    from tdagger.frameworks.torch.aten.higher_order import HIGHER_ORDER  # which walks graphs by what is here

    rule = HIGHER_ORDER.get(name)
    if rule is not None:
        return rule(args, caller, origin_of, origin_of(node))
    raise refused(name, "control flow on data", caller, origin_of(node))


def refused(name: str, why: str, caller: Caller, origin: Origin) -> UnsupportedError:
    """The error that names an op of higher order, beside all that was found before."""
    where = place_of(origin)
    caller.problems.append(Problem(name, why, where))
    return caller.error()


def _is_on(graph: torch.fx.GraphModule, device: str) -> bool:
    """Whether a region has tensors on a device, so that autocast for that device changes something."""
    found = [v for n in graph.graph.nodes for v in pytree.tree_leaves(n.meta.get("val"))]
    return any(isinstance(v, torch.Tensor) and v.device.type == device for v in found)


def without_gradient(result: Any, before: dict[Cell, tuple[int, Value]], caller: Caller, origin: Origin) -> Any:
    """The results of a no_grad region, which no gradient goes through; nor through what it wrote.

    ``before`` are the cells it was given: version and value.
    """
    memo: dict[Value, bool] = {}

    def trains(root: Value) -> bool:
        """Whether a value depends on a parameter or a floating-point input."""
        stack = [root]
        while stack:
            value = stack[-1]
            if value in memo:
                stack.pop()
                continue
            if value.op.name == "stop_gradient" or not value.args:
                own = isinstance(value.op, Parameter) or (value.op.name == "input" and value.dtype.is_float)
                memo[value] = own and value.op.name != "stop_gradient"
                continue
            waiting = [a for a in value.args if a not in memo]
            if waiting:
                stack.extend(waiting)
            else:
                memo[value] = any(memo[a] for a in value.args)
        return memo[root]

    def stop(ref: Ref) -> Ref:
        value = ref.read()
        if (ref.cell in before and not ref.ops) or not value.dtype.is_float or not trains(value):
            return ref  # an argument that was written is itself
        stopped = lib.stop_gradient(value)
        caller.note(stopped, origin)
        return ref.view(stopped)

    for cell, (version, value) in before.items():
        if cell.version != version and value.dtype.is_float and not isinstance(value.op, Parameter):
            if trains(value):
                cell.put(lib.straight_through(value, cell.value))
            elif trains(cell.value):
                cell.put(lib.stop_gradient(cell.value))
            caller.note(cell.value, origin)

    ended = pytree.tree_map_only(Ref, stop, result)
    if caller.standing is not None:
        caller.standing.alike(result, ended)
    return ended


def _check(node: torch.fx.Node, result: Any) -> None:
    """Compare the types of results with those torch recorded for the node."""
    recorded = node.meta.get("val")
    if recorded is None:
        return
    pairs = [(result, recorded)]
    if isinstance(recorded, tuple | list):
        pairs = list(zip(result, recorded, strict=False)) if isinstance(result, tuple | list) else []
    for own, theirs in pairs:
        if isinstance(own, Ref) and isinstance(theirs, torch.Tensor):
            t = own.read().type
            # a symbol among torch's sizes is what it took for data
            sizes = [(n, m) for n, m in zip(t.shape, theirs.shape, strict=False) if not isinstance(m, torch.SymInt)]
            same = t.rank == theirs.dim() and all(n == m for n, m in sizes)
            if not same or t.dtype is not DTYPES[theirs.dtype]:
                wanted = f"{theirs.dtype}{list(theirs.shape)}"
                if any(isinstance(a, list | tuple) and not a for a in node.args):
                    raise UnsupportedError(
                        f"{node.target} over no dimensions: torch.export says {wanted}, which isn't what torch "
                        "computes; name the dimensions, or leave them out for all of them"
                    )
                raise TDaggerError(f"the rule for {node.target} gives {t}, torch {wanted}: {node.format_node()}")
