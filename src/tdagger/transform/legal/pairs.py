"""Complex numbers as two real ones each, for targets that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError
from tdagger.graph import Graph, bulk, is_one, result_types
from tdagger.library import divide, hypot, matmul, subtract
from tdagger.network import N, Origin
from tdagger.op import Value
from tdagger.ops.elementwise import (
    abs_,
    add,
    atan2,
    bitwise_and,
    bitwise_or,
    complex_,
    cos,
    equal,
    exp,
    imag,
    isfinite,
    isinf,
    isnan,
    log,
    multiply,
    neg,
    not_,
    not_equal,
    real,
    reciprocal,
    sin,
    zeros_like,
)
from tdagger.ops.elementwise import cast as cast_to
from tdagger.ops.source import Const, Leaf, const
from tdagger.ops.structure import Pad, Slice
from tdagger.transform.legal.target import label
from tdagger.transform.networks import place
from tdagger.transform.surgery.edit import down_to, each, finished, with_checks
from tdagger.types import DType, Size, bool_


class Pair(NamedTuple):
    """A complex value: its real part and its imaginary one, None where that is 0 everywhere."""

    re: Value
    im: Value | None

    @property
    def both(self) -> tuple[Value, Value]:
        """The parts."""
        return self.re, zeros_like(self.re) if self.im is None else self.im


def in_pairs(dag: N) -> N:
    """The network with the real and the imaginary part of each complex value computed on their own.

    Sums and products of the parts are those of the complex numbers, sizes are computed without overflow. A Fourier
    transform is a product with the matrix of cosines and one with that of sines; of real numbers, these alone. What has
    no such form (powers, arcs) stays complex between the parts it is made of, as inputs and outputs do.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: td.abs_(td.fft(td.cast(x, "c64"), axis=1)), {"x": (2, 8)})
    >>> any(v.dtype.is_complex for v in in_pairs(dag).values)
    False
    """
    graph = with_checks(dag)
    if not any(t.dtype.is_complex for v in graph.values for t in result_types(v)):
        return dag
    origins: dict[Value, Origin] = {}
    new: dict[Value, Any] = {}
    with bulk():
        for value in graph.values:
            args = [new[a] for a in value.args]
            alone = len(args) == 1 and isinstance(args[0], Pair) and len(graph.users[value.args[0]]) == 1
            try:
                new[value] = made = (_columns(value, args[0]) if alone else None) or _put(value, args)
            except (AttributeValueError, TypeMismatchError) as e:
                open_ = sorted({str(n.formula) for a in value.args for n in a.type.shape if isinstance(n, Size)})
                if not open_:
                    raise
                where = place(dag.origins)(value)
                raise AxisError(
                    f"{label(value)}{where} takes a size as a number, and {', '.join(open_)} has none"
                ) from e
            origin = dag.origins.get(value)
            if origin is not None and not isinstance(value.op, Leaf):
                for v in down_to(_values(made), {v for a in args for v in _values(a)}):
                    origins.setdefault(v, origin)
        whole = {v: _whole(new[v]) for d in (graph.inputs, graph.outputs, graph.updates) for v in d.values()}
    inputs = graph.inputs
    outputs, updates = ({k: whole[v] for k, v in d.items()} for d in (graph.outputs, graph.updates))
    order = [v for made in (*new.values(), *whole.values()) for v in _values(made)]
    return finished(dag, Graph(inputs, outputs, updates, graph.name, order), origins)


def _values(made: Any) -> list[Value]:
    """The values of what stands for one."""
    return [v for v in made if v is not None] if isinstance(made, Pair) else [*each(made)]


def _whole(made: Any) -> Any:
    return complex_(*made.both) if isinstance(made, Pair) else made


def _put(value: Value, args: Sequence[Any]) -> Any:
    """What stands for a value on what stands for its arguments."""
    op = value.op
    if not any(isinstance(a, Pair) for a in args) and not (is_one(value) and value.dtype.is_complex):
        return value if all(a is b for a, b in zip(args, value.args, strict=True)) else op(*args)
    if isinstance(op, Const):
        part, (re, im) = _real_of(value.dtype), (np.real(op.data), np.imag(op.data))
        return Pair(const(re, part), const(im, part) if np.any(im) else None)
    name = label(value)
    if name in _RULES:
        return _RULES[name](value, *args)
    if name in _PARTWISE:
        return _partwise(value, args)
    if isinstance(op, Composite):
        return _body(value, args)
    found = op(*[_whole(a) for a in args])
    return Pair(real(found), imag(found)) if is_one(found) and found.dtype.is_complex else found


def _real_of(dtype: DType) -> DType:
    """The element type of the parts."""
    return DType.of("f32" if dtype.bytes == 8 else "f64")


def _body(value: Value, args: Sequence[Any]) -> Any:
    """What a composite is made of, part by part."""
    op = cast(Composite, value.op)
    body = op.body(*[a.type for a in value.args])
    inner: dict[Value, Any] = dict(zip(body.inputs.values(), args, strict=True))
    for v in body.values:
        if v not in inner:
            inner[v] = _put(v, [inner[a] for a in v.args])
    results = tuple([inner[v] for v in body.outputs.values()])
    if len(results) == 1:
        return results[0]
    return tuple([_whole(r) for r in results])


# --- rules ---------------------------------------------------------------------------------------------------

#: What is done to each part alone: what moves entries, and what is linear.
_PARTWISE = frozenset({
    "permute", "group", "ungroup", "reshape", "slice", "pad", "concat", "repeat", "unfold", "fold", "gather", "where",
    "reduce sum", "scan sum", "scatter set", "scatter add",
})  # fmt: skip


def _partwise(value: Value, args: Sequence[Any]) -> Pair:
    op = value.op
    none = all(a.im is None for a in args if isinstance(a, Pair)) and not (isinstance(op, Pad) and _imag(op.value))
    ops = (Pad(op.widths, op.value.real), Pad(op.widths, _imag(op.value))) if isinstance(op, Pad) else (op, op)
    first, second = (
        made if k and none else made(*[a.both[k] if isinstance(a, Pair) else a for a in args])
        for k, made in enumerate(ops)
    )
    return Pair(cast(Value, first), None if none else cast(Value, second))


def _columns(value: Value, x: Pair) -> Pair | None:
    """Of products with matrices only the columns that a slice takes: half of a Fourier transform of real numbers."""
    op, parts = value.op, _values(x)
    if not isinstance(op, Slice) or any(op.bounds[:-1]) or any(p.op.name != "matmul" for p in parts):
        return None
    matrices = [p.args[1] for p in parts]
    made = [
        matmul(p.args[0], Slice((*[None] * (m.rank - 1), op.bounds[-1]))(m))
        for p, m in zip(parts, matrices, strict=True)
    ]
    return Pair(made[0], made[1] if len(made) > 1 else None)


def _imag(number: complex) -> float:
    return number.imag


def _cast(v: Value, x: Any) -> Any:
    if not isinstance(x, Pair):
        return Pair(cast_to(x, _real_of(v.dtype)), None)
    if v.dtype is bool_:
        return bitwise_or(*[not_equal(p, 0.0) for p in x.both])
    if not v.dtype.is_complex:
        return cast_to(x.re, v.dtype)
    to = _real_of(v.dtype)
    return Pair(cast_to(x.re, to), None if x.im is None else cast_to(x.im, to))


def _added(x: Value | None, y: Value | None) -> Value | None:
    return y if x is None else x if y is None else add(x, y)


def _add(v: Value, x: Pair, y: Pair) -> Pair:
    return Pair(add(x.re, y.re), _added(x.im, y.im))


def _products(product: Callable[[Value, Value], Value]) -> Callable[[Value, Pair, Pair], Pair]:
    """The rule of what is linear in both arguments."""

    def rule(v: Value, x: Pair, y: Pair) -> Pair:
        re = product(x.re, y.re)
        if x.im is not None and y.im is not None:
            re = subtract(re, product(x.im, y.im))
        crossed = None if y.im is None else product(x.re, y.im), None if x.im is None else product(x.im, y.re)
        return Pair(re, _added(*crossed))

    return rule


def _reciprocal(v: Value, x: Pair) -> Pair:
    if x.im is None:
        return Pair(reciprocal(x.re), None)
    size = hypot(x.re, x.im)
    return Pair(divide(divide(x.re, size), size), neg(divide(divide(x.im, size), size)))


def _exp(v: Value, x: Pair) -> Pair:
    size = exp(x.re)
    return Pair(size, None) if x.im is None else Pair(size * cos(x.im), size * sin(x.im))


def _leaf(v: Value) -> Pair:
    return Pair(real(v), imag(v))


def _of_one(function: Callable[[Pair], Any]) -> Callable[..., Any]:
    def rule(v: Value, x: Pair) -> Any:
        return function(x)

    return rule


def _of_two(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def rule(v: Value, x: Any, y: Any) -> Any:
        return function(x, y)

    return rule


def _either(kind: Callable[[Value], Value]) -> Callable[..., Any]:
    return _of_one(lambda x: kind(x.re) if x.im is None else bitwise_or(kind(x.re), kind(x.im)))


def _equal(x: Pair, y: Pair) -> Value:
    return bitwise_and(equal(x.re, y.re), equal(x.both[1], y.both[1]))


def _negative(x: Value | None) -> Value | None:
    return None if x is None else neg(x)


_RULES: Mapping[str, Callable[..., Any]] = {
    "input": _leaf, "parameter": _leaf, "buffer": _leaf,
    "cast": _cast,
    "binary complex": _of_two(Pair),
    "binary add": _add,
    "binary multiply": _products(multiply),
    "binary equal": _of_two(_equal),
    "binary not_equal": _of_two(lambda x, y: not_(_equal(x, y))),
    "matmul": _products(matmul),
    "unary real": _of_one(lambda x: x.re),
    "unary imag": _of_one(lambda x: x.both[1]),
    "unary conj": _of_one(lambda x: Pair(x.re, _negative(x.im))),
    "unary neg": _of_one(lambda x: Pair(neg(x.re), _negative(x.im))),
    "unary abs": _of_one(lambda x: abs_(x.re) if x.im is None else hypot(x.re, x.im)),
    "unary reciprocal": _reciprocal,
    "unary exp": _exp,
    "unary log": _of_one(lambda x: Pair(log(hypot(*x.both)), atan2(x.both[1], x.re))),
    "unary isnan": _either(isnan),
    "unary isinf": _either(isinf),
    "unary isfinite": _of_one(lambda x: bitwise_and(isfinite(x.re), isfinite(x.both[1]))),
}  # fmt: skip
