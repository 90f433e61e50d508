"""Calling ATen ops on values: the table, aliasing, decompositions, and what to do without a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from tdagger import library as lib
from tdagger.errors import TDaggerError, UnsupportedError
from tdagger.frameworks.torch.aten import DTYPES, RULES, TORCH_DTYPES
from tdagger.frameworks.torch.functional import Ref
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.external import External, Slot
from tdagger.ops.source import Leaf, Parameter, const
from tdagger.ops.structure import broadcast_to, items
from tdagger.tensordag import Origin
from tdagger.types import TensorType

#: Arguments that say where and how data lies: nothing a value has.
_PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "requires_grad"})

#: Ops that check or annotate and compute nothing.
_NOTHING = frozenset({
    "_assert_tensor_metadata", "_assert_async", "_assert_scalar", "_functional_assert_async", "_print",
    "sym_constrain_range", "sym_constrain_range_for_size", "_linalg_check_errors",
})  # fmt: skip


#: Ops that give a view of a tensor that is contiguous, and a copy of one that isn't.
_COPIES_IF_SCATTERED = frozenset({"contiguous", "reshape", "reshape_as", "flatten"})


class Plan(NamedTuple):
    """What an op's schema says: its rule, the arguments it writes, the argument its results are views of."""

    name: str
    rule: Callable[..., Any] | None
    arguments: tuple[str, ...]
    written: tuple[str, ...]
    viewed: str | None


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
    found = None
    if namespace == "aten":
        found = RULES.get(f"{pure}.{overload or 'default'}") or RULES.get(pure)
    viewed = next((a.name for a in schema.arguments if a.alias_info is not None and not a.alias_info.is_write), None)
    return Plan(f"{namespace}.{base}", found, tuple(a.name for a in schema.arguments), written, viewed)


class Problem(NamedTuple):
    """One op that can't be imported: its name, why, and where it stands."""

    op: str
    why: str
    where: str


class Caller:
    """Calls ATen ops on refs; keeps the origins of the values and the problems found.

    ``external`` says what becomes of ops without a rule: True keeps them as external ops of torch, False
    collects them for one error at the end.
    """

    def __init__(self, external: bool = False) -> None:
        self.external = external
        self.origins: dict[Value, Origin] = {}
        #: The results of the calls, in the source's order.
        self.order: list[Value] = []
        self.problems: list[Problem] = []

    def call(self, target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], origin: Origin) -> Any:
        """The result of an op: refs, nested as the op returns them."""
        plan = plan_of(target)
        base = plan.name.partition(".")[2]
        if base in _NOTHING:
            return None
        kwargs = {k: v for k, v in kwargs.items() if k not in _PLACEMENT}
        out_ref = kwargs.pop("out", None)
        if plan.rule is None:
            return self._without_rule(target, plan, args, kwargs, origin)
        try:
            result = plan.rule(*map(_read, args), **{k: _read(v) for k, v in kwargs.items()})
        except UnsupportedError as e:
            return self._stand_in(target, plan, args, kwargs, origin, str(e))
        except Exception as e:
            raise _rule_failed(target, plan, args, origin, e) from e
        self.note(result, origin)
        if out_ref is not None:
            return self._write(out_ref, result)
        if plan.written:
            first = (
                kwargs[plan.written[0]] if plan.written[0] in kwargs else args[plan.arguments.index(plan.written[0])]
            )
            return self._write(first, result[0] if isinstance(result, tuple) else result)
        first = args[0] if plan.viewed is not None and args else None
        if isinstance(first, Ref) and (first.is_contiguous or base not in _COPIES_IF_SCATTERED):
            return _map_values(result, first.view)
        return _map_values(result, Ref)

    def _write(self, ref: Any, value: Value) -> Ref:
        old = ref.read()
        new = broadcast_to(cast(value, old.dtype), old.shape)
        ref.write(new)
        return ref

    def note(self, result: Any, origin: Origin) -> None:
        """Give ``origin`` to every new value behind a result, and the result its place in the order."""
        origins = self.origins
        stack = list(result) if isinstance(result, tuple | list) else [result]
        self.order.extend(v for v in stack if isinstance(v, Value))
        while stack:
            value = stack.pop()
            if isinstance(value, Value) and value not in origins and not isinstance(value.op, Leaf):
                origins[value] = origin
                stack.extend(value.args)

    def _without_rule(
        self, target: OpOverload, plan: Plan, args: Sequence[Any], kwargs: dict[str, Any], origin: Origin
    ) -> Any:
        graph = decomposed(target, args, kwargs) if not plan.written else None
        if graph is None:
            return self._stand_in(target, plan, args, kwargs, origin, "there is no rule for it")
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
        """An external op for what can't be imported; a problem is noted unless externals are wanted."""
        where = f"{origin.module or 'the top module'}, {origin.source or 'source unknown'}"
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
            result = target(*_on_meta(args), **_on_meta(kwargs))
        except Exception as e:
            raise self.error(f"{plan.name} at {where} has a result whose shape can't be known ({e})") from e
        types, result_spec = pytree.tree_flatten(result)
        if not all(isinstance(t, torch.Tensor) for t in types):
            raise self.error(f"{plan.name} at {where} has results that are not tensors")
        external_args, external_kwargs = _hashable(pytree.tree_unflatten(constants, spec))
        op = External(
            "torch",
            str(target),
            external_args,
            external_kwargs,
            tuple(TensorType(tuple(t.shape), DTYPES[t.dtype]) for t in types),
        )
        value = op(*tensors)
        results = (value,) if len(types) == 1 else items(value)
        self.note(results, origin)
        return pytree.tree_unflatten([Ref(v) for v in results], result_spec)

    def error(self, more: str = "") -> UnsupportedError:
        """One error that names every problem, with counts and the first places."""
        counts = Counter((p.op, p.why) for p in self.problems)
        lines = [f"{len(self.problems)} calls of {len(counts)} ops can't be imported:"] if counts else []
        for (op, why), count in counts.most_common():
            places = [p.where for p in self.problems if (p.op, p.why) == (op, why)]
            shown = "; ".join(dict.fromkeys(places[:3])) + ("; ..." if len(set(places)) > 3 else "")
            lines.append(f"  {count:4} x {op}: {why} (at {shown})")
        if more:
            lines.append(more)
        lines.append(
            "Import with external=True to keep such ops as external ones, or add a rule (docs/importer-rule.md)."
        )
        return UnsupportedError("\n".join(lines))


def _read(x: Any) -> Any:
    """Refs to values, wherever they are; real tensors of rank 0 to constants."""
    if isinstance(x, Ref):
        return x.read()
    if isinstance(x, torch.Tensor):
        return constant(x)
    if isinstance(x, list | tuple):
        return [_read(v) for v in x]
    return x


def _map_values(result: Any, function: Callable[[Value], Ref]) -> Any:
    if isinstance(result, Value):
        return function(result)
    if isinstance(result, tuple | list):
        return tuple([_map_values(r, function) for r in result])
    return result


def constant(tensor: torch.Tensor) -> Value:
    """A tensor as a constant; its data is copied."""
    return const(array_of(tensor))


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A numpy array on the tensor's memory, bfloat16 and float8 included; without a copy on the CPU."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    dtype = DTYPES[tensor.dtype].numpy
    if dtype.kind == "V" or dtype.name.startswith("float8"):
        whole = torch.uint16 if dtype.itemsize == 2 else torch.uint8
        return tensor.contiguous().view(whole).numpy().view(dtype)
    return tensor.numpy()


def _on_meta(x: Any) -> Any:
    """Arguments with meta tensors in place of refs."""
    return pytree.tree_map_only(Ref, lambda r: meta_tensor(r.read().type), x)


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
    return TDaggerError(
        f"importing {target}({shown}) at {origin.module or 'the top module'}, {origin.source or 'source unknown'} "
        f"failed: {type(error).__name__}: {error}"
    )


# --- decompositions ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _table() -> dict[Any, Any]:
    from torch._decomp import core_aten_decompositions

    return core_aten_decompositions()


def decomposed(target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.fx.GraphModule | None:
    """torch's own decomposition of a call, traced on meta tensors; None if it has none into ops with rules."""
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Ref)]

    def call(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for i, t in zip(places, tensors, strict=True):
            filled[i] = t
        own_args, own_kwargs = pytree.tree_unflatten(filled, spec)
        return target(*own_args, **own_kwargs)

    inputs = [meta_tensor(leaves[i].read().type) for i in places]
    table = {k: v for k, v in _table().items() if plan_of(k).rule is None} if inputs else {}
    try:
        graph = make_fx(call, decomposition_table=table)(*inputs)
    except Exception:  # torch can't run it on meta tensors: then it has no decomposition we could use
        return None
    if not all(map(_is_known, graph.graph.nodes)):
        return None
    return graph


def _is_known(node: torch.fx.Node) -> bool:
    """Whether a node of a decomposition can be walked."""
    if not isinstance(node.target, OpOverload):
        return not isinstance(node.target, HigherOrderOperator)
    plan = plan_of(node.target)
    return plan.rule is not None or plan.name.partition(".")[2] in _NOTHING


def run_fx(
    graph: torch.fx.GraphModule,
    inputs: Sequence[Any],
    caller: Caller,
    origin_of: Callable[[torch.fx.Node], Origin],
) -> Any:
    """Walk an fx graph of ATen ops; the inputs and results are refs."""
    env: dict[torch.fx.Node, Any] = {}
    given = iter(inputs)
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
            env[node] = _call_node(node, args, dict(kwargs), caller, origin_of)
    return None


def _call_node(
    node: torch.fx.Node,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    caller: Caller,
    origin_of: Callable[[torch.fx.Node], Origin],
) -> Any:
    target = node.target
    if isinstance(target, OpOverload):
        result = caller.call(target, args, kwargs, origin_of(node))
        _check(node, result)
        return result
    if isinstance(target, HigherOrderOperator):
        return _higher_order(node, target, args, caller, origin_of)
    leaves = pytree.tree_leaves((args, kwargs))
    if not callable(target):
        raise caller.error(f"{node.format_node()} is not a call")
    if getattr(target, "__name__", "") == "getitem" or not any(isinstance(leaf, Ref) for leaf in leaves):
        return target(*args, **kwargs)
    raise caller.error(f"{target} at {origin_of(node).source} is a Python function on tensors, not an ATen op")


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
        result = run_fx(inner, rest, caller, origin_of)
        return result if enabled else _without_gradient(result, caller, origin_of(node))
    if name == "wrap_with_autocast" and args[2] is False:
        inner, *rest = args[4:]
        return run_fx(inner, rest, caller, origin_of)
    origin = origin_of(node)
    where = f"{origin.module or 'the top module'}, {origin.source or 'source unknown'}"
    why = "autocast regions are not imported yet" if name == "wrap_with_autocast" else "control flow on data"
    caller.problems.append(Problem(name, why, where))
    raise caller.error()


def _without_gradient(result: Any, caller: Caller, origin: Origin) -> Any:
    """The results of a no_grad region, which no gradient goes through."""
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
        if not value.dtype.is_float or not trains(value):
            return ref
        stopped = lib.stop_gradient(value)
        caller.note(stopped, origin)
        return Ref(stopped)

    return pytree.tree_map_only(Ref, stop, result)


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
            if t.shape != tuple(theirs.shape) or t.dtype is not DTYPES[theirs.dtype]:
                wanted = f"{theirs.dtype}{list(theirs.shape)}"
                raise TDaggerError(f"the rule for {node.target} gives {t}, torch {wanted}: {node.format_node()}")
