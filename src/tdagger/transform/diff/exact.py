"""Execution without rounding: every float is a float64, whatever its type says, and casts between floats do nothing.

What rounding could do to a value is found by moving values at random by a unit in the last place of their own type, and
seeing how far others move: errors are carried along as the network carries them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import ml_dtypes
import numpy as np

from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, flops, result_types
from tdagger.interpret import interpret
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import Bitcast, Cast
from tdagger.ops.source import Input, Leaf
from tdagger.types import DType, TensorType, f32, f64

_C128 = DType.of("c128")


def wide(array: Any) -> Any:
    """Floats as float64 and complex numbers as complex128; other arrays, and each of several, as they are."""
    if isinstance(array, tuple):
        return tuple([wide(a) for a in cast(tuple[Any, ...], array)])
    dtype = DType.of(array.dtype)
    return array.astype(np.float64) if dtype.is_float else array.astype(np.complex128) if dtype.is_complex else array


def wide_type(type_: TensorType) -> TensorType:
    """A type with f64 for floats and c128 for complex numbers."""
    dtype = type_.dtype
    return type_.with_dtype(f64 if dtype.is_float else _C128) if dtype.is_float or dtype.is_complex else type_


def unit(dtype: DType) -> float:
    """The distance from 1 to the next number of an element type; 0 for what isn't rounded."""
    if not (dtype.is_float or dtype.is_complex):
        return 0.0
    if dtype.is_complex:
        return float(np.finfo(dtype.numpy).eps)
    return float(cast(Any, ml_dtypes.finfo(dtype.numpy)).eps)


def working_type(graph: Graph) -> DType:
    """The float type that most of the arithmetic of a network is in; f32 if there is none."""
    work: dict[DType, int] = {}
    for value in graph.values:
        dtype = result_types(value)[0].dtype
        if dtype.is_float:
            work[dtype] = work.get(dtype, 0) + flops(value) + 1
    return max(work, key=lambda d: work[d]) if work else f32


class Exact:
    """Execution of ops in float64, for networks that work in ``types``: casts to coarser types than these do round."""

    def __init__(self, *types: DType) -> None:
        self.precision = max(types, key=unit)
        self.mixed = len(set(types)) > 1

    def is_lossy(self, op: Op) -> bool:
        """Whether an op is a cast to a float type that is coarser than what the networks work in: it does round."""
        return isinstance(op, Cast) and op.dtype.is_float and unit(op.dtype) > unit(self.precision)

    def run(self, op: Op, types: tuple[TensorType, ...], arrays: list[Any]) -> Any:
        """The result of an op, whose arguments have ``types`` in the network."""
        if isinstance(op, Composite):
            own = op.definition.numpy_rule is not None and not op.has_branches
            return wide(op.run(*arrays)) if own else self._body(op, types, arrays)
        if isinstance(op, Bitcast):
            return wide(op.run(arrays[0].astype(types[0].dtype.numpy)))
        if isinstance(op, Cast) and op.dtype.is_float and not self.is_lossy(op):
            return np.real(arrays[0]).astype(np.float64)
        return wide(op.run(*arrays))

    @nested
    def _body(self, op: Composite, types: tuple[TensorType, ...], arrays: list[Any]) -> Any:
        body = op.body(*(types if op.has_branches else map(wide_type, types)))
        given: dict[str, Any] = dict(zip(body.inputs, arrays, strict=True))

        def rule(value: Value, args: list[Any]) -> Any:
            if isinstance(value.op, Input):
                return given[value.op.leaf]
            return self.run(value.op, tuple([a.type for a in value.args]), args)

        out, _ = interpret(body, rule)
        results = tuple(out.values())
        return results[0] if len(results) == 1 else results


class Noise:
    """Random errors of the size that rounding has: every entry is moved by a unit in the last place, up or down."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def of(self, array: Any, relative: float) -> Any:
        """The array, or each of several, with its floats moved by ``relative`` of themselves."""
        if isinstance(array, tuple):
            return tuple([self.of(a, relative) for a in cast(tuple[Any, ...], array)])
        if array.dtype.kind not in "fc" or not relative:
            return array
        signs: Any = 2 * cast(Any, self.random).integers(0, 2, array.shape) - 1
        return array * (1 + relative * signs)


def leaf_values(inputs: Mapping[str, Array], weights: Mapping[str, Array]) -> Callable[[Value], Array]:
    """What inputs, parameters and buffers hold, in float64."""

    def of(value: Value) -> Array:
        assert isinstance(value.op, Leaf)
        return wide(np.asarray((inputs if isinstance(value.op, Input) else weights)[value.op.leaf]))

    return of
