"""Values that don't depend on the network's inputs: sizes and settings written as tensors, and what is made of them.

Shape computations are data in a file: Shape, Gather, Mul, Concat. What rules take as numbers ends in attributes; what
goes on as data (a scale that is the root of a size) is one constant, not the ops that it was made by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tdagger.graph import result_types
from tdagger.interpret import computed
from tdagger.op import Array, Value
from tdagger.ops.external import External
from tdagger.ops.source import Const, Leaf, const
from tdagger.transform.idioms import ACTIVATIONS, NORMS

#: What is computed while importing has at most so many elements in all; what becomes a constant so many.
_ELEMENTS, _FEW = 1 << 16, 64


def number_of(value: Value) -> bool | int | float | complex | None:
    """The number that a value of one element is; None if it depends on inputs or weights, or takes much to know."""
    found = array_of_constant(value) if value.type.size == 1 else None
    if found is None:
        return None
    dtype = value.dtype
    kind = complex if dtype.is_complex else float if dtype.is_float else int if dtype.is_int else bool
    return kind(cast(Any, found.reshape(())))


def array_of_constant(value: Value, most: int = _ELEMENTS) -> Array | None:
    """What a value holds; None if it depends on inputs or weights, or takes more than ``most`` elements to know."""
    seen: set[Value] = set()
    stack, elements = [value], 0
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        elements += sum(t.size for t in result_types(at))
        if isinstance(at.op, Leaf | External) or elements > most:
            return None
        seen.add(at)
        stack.extend(at.args)
    return computed(value)


class Known:
    """The numbers that values have where no input is behind them: sizes, indices, settings.

    Every value is worked out once however often it is asked for, from what was worked out before, so that all of a
    model's shape computations take time linear in it. ``weights`` may be behind them too, if they are small.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        #: The arrays of values, None for those that aren't known.
        self.found: dict[Value, Any] = {}

    def array(self, value: Value) -> Array | None:
        """What a value holds; None if it depends on data, or takes much to know."""
        found = self.found
        if value in found:
            return found[value]
        stack = [value]
        while stack:
            at = stack[-1]
            if at in found:
                stack.pop()
                continue
            if isinstance(at.op, External) or sum([t.size for t in result_types(at)]) > _ELEMENTS:
                found[at] = None
            elif isinstance(at.op, Leaf):
                name = at.op.leaf
                found[at] = self.weights[name] if at.op.name != "input" and name in self.weights else None
            elif any(a in found and found[a] is None for a in at.args):
                found[at] = None
            else:
                wait = [a for a in at.args if a not in found]
                if wait:
                    stack += wait
                    continue
                with np.errstate(all="ignore"):
                    found[at] = at.op.run(*[found[a] for a in at.args])
            stack.pop()
        return found[value]


def folded(results: Sequence[Any], args: Sequence[Any], known: Known) -> tuple[Value, ...] | None:
    """The results as constants, if all arguments are and they are small; None if not."""
    values = [a for a in args if isinstance(a, Value)]
    if not values or not all(isinstance(a.op, Const) and a.type.size <= _FEW for a in values):
        return None
    if not all(isinstance(r, Value) and r.type.size <= _FEW for r in results):
        return None
    arrays = [known.array(r) for r in results]
    if any(a is None for a in arrays):
        return None
    return tuple([const(a, r.dtype) for a, r in zip(arrays, results, strict=True)])


def as_numbers(args: Sequence[Any]) -> list[Any]:
    """Arguments with constants of one entry as numbers, where another argument has their dimensions.

    Beside a batch of one, such an entry could be taken for one of that axis.
    """
    most = max([a.rank for a in args if isinstance(a, Value) and not isinstance(a.op, Const)], default=-1)
    return [
        const(a.op.data.reshape(()), a.dtype)
        if isinstance(a, Value) and isinstance(a.op, Const) and 0 < a.rank <= most and a.type.size == 1
        else a
        for a in args
    ]


def raising(operators: Collection[str]) -> tuple[Any, ...]:
    """The rules that put composites in the place of what is written out, where a model has operators for it.

    Operators are called as ONNX calls them.
    """
    rules: tuple[Any, ...] = ()
    if "Mul" in operators and not {"Erf", "Tanh", "Sigmoid"}.isdisjoint(operators):
        rules += ACTIVATIONS
    if {"ReduceMean", "Sqrt"} <= set(operators):
        rules += NORMS
    return rules
