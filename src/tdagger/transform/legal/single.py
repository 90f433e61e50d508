"""Special functions of f32 for targets without f64, in which their bodies compute: in f32, where that is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.graph import result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.source import Const, const
from tdagger.types import DType, each_type

_F64 = DType.of("f64")


def in_single(value: Value) -> Value | None:
    """A function of f32 with a body that computes in f64, computed in f32; None for one of f64.

    >>> import tdagger as td
    >>> from tdagger import library as lib
    >>> dag = td.network(lambda x: in_single(lib.bessel_i0(x)), {"x": (2,)})
    >>> sorted({str(v.dtype) for v in dag.values})
    ['bool', 'f32']
    """
    types = [t for v in (value, *value.args) for t in result_types(v)]
    op = value.op
    if any(t.dtype is _F64 for t in types) or not isinstance(op, Composite):
        return None
    body = op.body(*[a.type for a in value.args])
    new: dict[Value, Value] = dict(zip(body.inputs.values(), value.args, strict=True))
    for v in body.values:
        if v not in new:
            new[v] = _single(v, [new[a] for a in v.args])
    (result,) = body.outputs.values()
    return new[result]


def _single(v: Value, args: list[Value]) -> Value:
    op: Op = v.op
    if isinstance(op, Const) and op.dtype is _F64:
        return const(op.data.astype(np.float32), "f32")
    if isinstance(op, Cast) and v.dtype is _F64:
        return args[0] if args[0].dtype.name == "f32" else Cast(DType.of("f32"))(*args)
    if isinstance(op, Composite) and op.attributes.get("dtype") is _F64:
        op = cast(Any, type(op))(*[DType.of("f32") if f == "dtype" else getattr(op, f) for f in op.fields])
    made = op(*args)
    assert all(t.dtype is not _F64 for t in each_type(made.type))
    return made


#: Functions that lose no more than f32 has by that: 4e-6 of what they give, or of 1. Bessel's J and Y aren't among
#: them, whose phase f32 doesn't tell far from 0.
SINGLE: dict[str, Callable[[Value], Value | None]] = dict.fromkeys(
    ("bessel_i0", "bessel_i0e", "bessel_i1", "bessel_i1e", "bessel_k0", "bessel_k0e", "bessel_k1", "bessel_k1e",
     "digamma", "erfcx", "log_ndtr", "ndtri", "spherical_bessel_j0"), in_single
)  # fmt: skip
