"""Assertions in captured graphs: what only they need is walked apart, and stops nothing if it can't be imported."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from tdagger.errors import TDaggerError, warn
from tdagger.frameworks.known import number_of
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.capture import checks
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.structure import group
from tdagger.tensordag import Check, Origin

_aten = torch.ops.aten

#: Ops that raise if their first argument isn't true.
ASSERTIONS = frozenset({"_assert_async", "_functional_assert_async", "_assert_scalar"})

#: Ops that say what a number is, and compute nothing.
_RANGES = frozenset({"sym_constrain_range", "sym_constrain_range_for_size"})

#: Ops that take a number out of a tensor.
_NUMBERS = frozenset({"item", "_local_scalar_dense"})

#: What Python computes of numbers that come out of tensors, as the ops that compute it of tensors of no axes.
_ARITHMETIC: Mapping[Any, OpOverload] = {
    operator.lt: _aten.lt.Tensor, operator.le: _aten.le.Tensor, operator.gt: _aten.gt.Tensor,
    operator.ge: _aten.ge.Tensor, operator.eq: _aten.eq.Tensor, operator.ne: _aten.ne.Tensor,
    operator.add: _aten.add.Tensor, operator.sub: _aten.sub.Tensor, operator.mul: _aten.mul.Tensor,
    operator.truediv: _aten.div.Tensor, operator.neg: _aten.neg.default, operator.abs: _aten.abs.default,
    operator.and_: _aten.logical_and.default, operator.or_: _aten.logical_or.default,
    torch.sym_not: _aten.logical_not.default, torch.sym_max: _aten.maximum.default,
    torch.sym_min: _aten.minimum.default,
}  # fmt: skip


class Lost:
    """Stands for a value that only assertions need and that can't be imported."""


def _base(node: torch.fx.Node) -> str:
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, OpOverload) else ""


def only_asserted(graph: torch.fx.GraphModule) -> set[torch.fx.Node]:
    """The assertions of a graph, and the nodes that nothing but them needs."""
    apart: set[torch.fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op != "call_function":
            continue
        if node.users:
            if apart and all(user in apart for user in node.users) and not _writes(node):
                apart.add(node)
        elif _base(node) in ASSERTIONS | _RANGES | _NUMBERS or node.target is operator.getitem:
            apart.add(node)  # or a result that nobody needs, of an op whose others are asserted
    return apart


def _writes(node: torch.fx.Node) -> bool:
    """Whether a node does more than compute."""
    if isinstance(node.target, OpOverload):
        return node.target._schema.is_mutable
    return node.target not in _ARITHMETIC and node.target not in (torch.sym_ite, operator.getitem)


def _is_trivial(node: Any) -> bool:
    """Whether torch itself asserts that a truth value is 0 or 1."""
    if not isinstance(node, torch.fx.Node) or (node.target, *node.args[1:]) not in ((operator.ge, 0), (operator.le, 1)):
        return False
    return isinstance(node.args[0], torch.fx.Node) and node.args[0].target is torch.sym_ite


def walk_apart(
    node: torch.fx.Node,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    caller: Any,
    origin: Origin,
    call: Callable[[], Any],
) -> Any:
    """The result of a node that only assertions need; :class:`Lost` if it can't be imported."""
    base = _base(node)
    if base in _RANGES or (base in ASSERTIONS and _is_trivial(node.args[0])):
        return None
    if base in ASSERTIONS:
        message = next((a for a in (*args[1:], *kwargs.values()) if isinstance(a, str)), "an assertion fails")
        truth = _truth(args[0])
        if truth is None or number_of(truth) is not True:  # what constants fulfil is no check of data
            caller.checks.append(Check(truth, message, origin.source))
        return None
    if any(isinstance(x, Lost) for x in (*args, *kwargs.values())):
        return Lost()
    before = len(caller.problems)
    try:
        if base in _NUMBERS:
            result = _number(args[0])
        elif node.target is torch.sym_ite:
            result = caller.call(_aten.where.self, [_tensor(x) for x in args], {}, origin)
        elif node.target in _ARITHMETIC:
            result = caller.call(_ARITHMETIC[node.target], [_tensor(x) for x in args], {}, origin)
        else:
            result = call()
    except TDaggerError:
        result = Lost()
    if len(caller.problems) > before:
        del caller.problems[before:]
        return Lost()
    return result


def _truth(x: Any) -> Value | None:
    if not isinstance(x, Ref):
        return None
    value = x.read()
    return cast(group(value, (value.rank,)) if value.rank else value, "bool")


def _number(x: Any) -> Any:
    """A tensor's only element, as wide as Python has numbers."""
    value = x.read()
    wide = "f64" if value.dtype.is_float else value.dtype if value.dtype.name == "bool" else "i64"
    return Ref(cast(value, wide))


def _tensor(x: Any) -> Any:
    return torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None) if isinstance(x, int | float) else x


#: How torch begins the message of an assertion that it writes itself.
_OF_TORCH = "Runtime assertion failed for expression"


def distinct(checks: Sequence[Check]) -> list[Check]:
    """The checks without those that repeat another, in torch's words or the same."""
    said = {c.value for c in checks if c.value is not None and not c.message.startswith(_OF_TORCH)}
    return list(dict.fromkeys(c for c in checks if not (c.message.startswith(_OF_TORCH) and c.value in said)))


def tell(met: Sequence[checks.Check], asserted: Sequence[Check]) -> None:
    """Warn of the checks of data that were taken as passed, each once."""
    known = {c.message for c in met}
    own = [f"{c.place}: {c.condition}" for c in met]
    own += [
        f"{c.source or 'source unknown'}: {checks.line_at(c.source) or c.message}"
        for c in asserted
        if c.message not in known
    ]
    if own:
        warn(
            "the network checks its data, and the imported one takes the checks as passed: "
            f"{'; '.join(dict.fromkeys(own))}. to_torch(checks=True) keeps those that raise"
        )
