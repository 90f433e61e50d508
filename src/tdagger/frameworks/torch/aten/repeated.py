"""Calls of one kind: what the rule of an op gives for arguments of some types is worked out once, as ops on these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from tdagger.frameworks.torch.aten.calls import OF_MEMORY, PLACEMENT, Plan, plan_of
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.aten.in_range import in_range
from tdagger.frameworks.torch.aten.table import DRAWS
from tdagger.graph import topological
from tdagger.op import Op, Value
from tdagger.ops.source import Const, Input, Iota


class Steps(NamedTuple):
    """How a value is made of others: ops, each on values by their numbers, those that are given first."""

    steps: tuple[tuple[Op, tuple[int, ...]], ...]
    result: int

    def of(self, given: Sequence[Value]) -> Value:
        """The value made of some values."""
        values = [*given]
        for op, places in self.steps:
            values.append(op(*[values[i] for i in places]))
        return values[self.result]


@cache
def is_repeatable(target: OpOverload) -> bool:
    """Whether what an op gives is what its rule makes of the values of its arguments, and nothing else happens."""
    plan = plan_of(target)
    base = plan.name.partition(".")[2]
    return plan.rule is not None and not plan.written and plan.rule not in DRAWS and base not in OF_MEMORY


def steps_of(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Steps | None:
    """How a call that gave ``result`` made it of its refs; None if that isn't said by ops on these alone.

    The rule is asked for any values of these types: what it makes of those at hand for what they are made of
    themselves is the same by fewer ops, and isn't taken for what it makes of others.
    """
    plan = plan_of(target)
    if not isinstance(result, Ref) or not is_repeatable(target):
        return None
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    given = [x.read() for x in leaves if isinstance(x, Ref)]
    fresh = [Input(f"{i}", v.type)() for i, v in enumerate(given)]
    own = iter(fresh)
    own_args, own_kwargs = pytree.tree_unflatten([next(own) if isinstance(x, Ref) else x for x in leaves], spec)
    found = _by_rule(target, plan, own_args, {k: v for k, v in own_kwargs.items() if k not in PLACEMENT})
    steps = None if found is None else _steps(found, fresh)
    return steps if steps is not None and steps.of(given) is result.read() else None


def _by_rule(target: OpOverload, plan: Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> Value | None:
    assert plan.rule is not None
    given, named = [*args], kwargs
    if plan.numbers:
        given, named = in_range(target, plan.arguments, plan.numbers, given, named)
    found = plan.rule(*given, **named)
    return found if isinstance(found, Value) else None


def _steps(result: Value, given: Sequence[Value]) -> Steps | None:
    """How a value is made; None if it is made of other leaves too."""
    numbers = {v: i for i, v in enumerate(given)}
    steps: list[tuple[Op, tuple[int, ...]]] = []
    for value in topological([result]):
        if value in numbers:
            continue
        if not value.args and not isinstance(value.op, Const | Iota):
            return None
        numbers[value] = len(numbers)
        steps.append((value.op, tuple([numbers[a] for a in value.args])))
    return Steps(tuple(steps), numbers[result])
