"""Networks computed in f16: what doesn't fit there stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.frameworks.writing import is_reshape
from tdagger.graph import Graph, bulk, is_one
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import Cast, cast
from tdagger.ops.external import External
from tdagger.ops.source import Buffer, Const, Leaf, Parameter
from tdagger.ops.structure import Item, Repeat
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.edit import finished, with_checks
from tdagger.types import DType

F16, F32 = DType.of("f16"), DType.of("f32")
#: The largest number of f16, and half of its smallest: what is below that becomes 0, or 60 times as much.
_MOST, _LEAST = 65504.0, 5.9e-8
#: The smallest number of f16 that has all digits.
_WHOLE = 2.0**-14
#: Composites whose second argument is a scale.
_SCALED = frozenset({"quantize", "dequantize", "fake_quantize"})


def in_half(dag: TensorDAG) -> TensorDAG:
    """The network with its floats of 32 bits computed in f16; inputs, outputs and buffers that change stay f32.

    An op stays in f32 if a constant, a weight or a setting of it isn't a number of f16: one beyond 65504, or a single
    one below 6e-8: ``x + 1e6``, a mask of -1e9, an epsilon of 1e-12. So do quantized values with a scale below 6.1e-5,
    where f16 has fewer digits, what is made of integers that were cast, and what is computed of such values alone.
    """
    graph = with_checks(dag)
    new: dict[Value, Value] = {}
    origins = dict(dag.origins)
    changing = set(graph.updates)
    with bulk():
        for value in graph.values:
            made = new[value] = _put(dag, value, [new[a] for a in value.args], changing)
            if value in dag.origins:
                origins.setdefault(made, dag.origins[value])
        outputs = {n: cast(new[v], v.dtype) for n, v in graph.outputs.items()}
        updates = {n: cast(new[v], v.dtype) for n, v in graph.updates.items()}
    order = [v for v in new.values() if is_one(v)]
    return finished(dag, Graph(graph.inputs, outputs, updates, graph.name, order), origins)


def _put(dag: TensorDAG, value: Value, args: list[Value], changing: set[str]) -> Value:
    """A value on new arguments."""
    op = value.op
    if isinstance(op, Leaf | Const):
        return value
    if isinstance(op, Item):
        return op(*args)
    pairs = list(zip(args, value.args, strict=True))
    own = [b if _is_constant(b) else cast(a, b.dtype) if is_one(a) else a for a, b in pairs]
    if isinstance(op, External | Cast) or not _is_float(value) or not _fits_all(op):
        return op(*own)
    floats = [a for a in args if is_one(a) and a.dtype in (F16, F32)]
    if not all(_fits(dag, a, changing) for a in floats):
        return op(*own)
    if op.name in _SCALED and not _has_digits(dag, value.args[1], changing):
        return op(*own)
    varying = [a for a, b in pairs if is_one(a) and a.dtype in (F16, F32) and not _is_constant(b)]
    if varying and all(a.dtype is F32 and not isinstance(a.op, Leaf) for a in varying):
        return op(*own)  # kept in f32 so far
    try:
        return op(*[cast(a, F16) if is_one(a) and a.dtype is F32 else a for a in args])
    except (TypeMismatchError, AttributeValueError):
        return op(*own)


def _base(value: Value) -> Value:
    """What a chain of repeats and reshapes starts from."""
    while isinstance(value.op, Repeat) or is_reshape(value):
        value = value.args[0]
    return value


def _is_constant(value: Value) -> bool:
    return isinstance(_base(value).op, Const)


def _is_float(value: Value) -> bool:
    """Whether floats of 32 bits are among the arguments or results."""
    kinds = value.type if isinstance(value.type, tuple) else (value.type,)
    return any(t.dtype is F32 for t in kinds) or any(is_one(a) and a.dtype is F32 for a in value.args)


def _fits(dag: TensorDAG, value: Value, changing: set[str]) -> bool:
    op = _base(value).op
    if isinstance(op, Const):
        return numbers_fit(op.data)
    if isinstance(op, Parameter | Buffer) and op.leaf not in changing:
        return numbers_fit(np.asarray(dag.weights[op.leaf]))
    return True


def _has_digits(dag: TensorDAG, scale: Value, changing: set[str]) -> bool:
    """Whether f16 has a scale with all its digits."""
    op = _base(scale).op
    if isinstance(op, Parameter | Buffer) and op.leaf not in changing:
        return bool((np.asarray(dag.weights[op.leaf]) >= _WHOLE).all())
    return not isinstance(op, Const) or bool((op.data >= _WHOLE).all())


def numbers_fit(data: Array) -> bool:
    """Whether f16 has all numbers, but for rounding (infinities and NaN it has); of many, small ones may become 0."""
    size = np.abs(data[np.isfinite(data)].astype(np.float64))
    if not size.size or size.max() > _MOST:
        return not size.size
    return size.size > 1 or size.max() == 0 or bool(size.max() >= _LEAST)


def _fits_all(op: Op) -> bool:
    return all(numbers_fit(np.asarray(n)) for value in op.attributes.values() for n in _floats(value))


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for inner in value:
            yield from _floats(inner)
