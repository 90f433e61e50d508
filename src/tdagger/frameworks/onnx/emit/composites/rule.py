"""What rows of composites are made of, and the conditions that many of them have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tdagger.frameworks.onnx.emit.moves import with_shape
from tdagger.frameworks.onnx.emit.writer import Writer
from tdagger.frameworks.writing import Fields
from tdagger.op import Value
from tdagger.ops.structure import unsqueeze
from tdagger.types import DType, TensorType, bool_

#: Whether the row holds, given the composite's attributes and the types of its arguments.
Condition = Callable[[Fields, Sequence[TensorType]], bool]


F32 = DType.of("f32")


class Rule(NamedTuple):
    """An operator or function, and what else must hold; where it doesn't, the body is written."""

    write: str | Callable[[Writer, Value, Fields], Any]
    when: Condition | None = None


def tensor(v: Value, f: Fields, name: str) -> Value | None:
    """A tensor of the composite by its name; None if it wasn't given."""
    found = f[name]
    return found if isinstance(found, Value) else None


def flattened(w: Writer, x: Value, after: int) -> tuple[str, TensorType]:
    """``x`` with one axis before its last ``after``: the batch that operators want."""
    lead = x.rank - after
    if lead == 1:
        return w.ref(x), x.type
    shape = (math.prod(x.shape[:lead]), *x.shape[lead:])
    return with_shape(w, w.ref(x), x.type, shape), x.type.with_shape(shape)


def back(w: Writer, name: str, out: TensorType, after: int) -> str:
    """The result of an operator on what :func:`flattened` made, with the axes there were."""
    lead = out.rank - after
    if lead == 1:
        return name
    flat = out.with_shape((math.prod(out.shape[:lead]), *out.shape[lead:]))
    return with_shape(w, name, flat, out.shape)


def alike(f: Fields, types: Sequence[TensorType]) -> bool:
    """Numbers of one element type, and something to sum over."""
    x = types[0]
    return len({t.dtype for t in types}) == 1 and not x.dtype.is_complex and x.dtype is not bool_


def in_floats(f: Fields, types: Sequence[TensorType]) -> bool:
    """Of floats of one element type, computed in that or in f32."""
    return alike(f, types) and types[0].dtype.is_float and 0 not in types[0].shape


def in_f32(f: Fields, types: Sequence[TensorType]) -> bool:
    """What onnxruntime computes in f32, which is too little for f64."""
    return in_floats(f, types) and types[0].dtype.name != "f64"


def spread_over(vector: Value, axes: int) -> Value:
    """A vector with axes of size 1 after it."""
    return unsqueeze(vector, range(1, 1 + axes))


def narrow(f: Fields, types: Sequence[TensorType]) -> bool:
    """Floats that f32 holds."""
    return all(t.dtype.is_float and t.dtype.name != "f64" for t in types)


def real_numbers(f: Fields, types: Sequence[TensorType]) -> bool:
    """Integers and floats."""
    return all(not t.dtype.is_complex and t.dtype is not bool_ for t in types)


def floats(f: Fields, types: Sequence[TensorType]) -> bool:
    """Floats of any width."""
    return all(t.dtype.is_float for t in types)
