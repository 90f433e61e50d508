"""Numbers for what values compute: two values with one number compute the same, whatever graphs they are in.

A Merkle hash without hashing: a number stands for an op on numbers. Composites are seen as their bodies, arguments of
ops that commute come in one order, and reshapes, permutes and repeats of one another are merged, so that two spellings
of one thing have one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import ml_dtypes
import numpy as np

from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, result_types
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import BINARY, Binary, Cast
from tdagger.ops.source import Const
from tdagger.ops.structure import Group, Item, Permute, Repeat, Slice, Ungroup
from tdagger.transform.diff.exact import Exact, wide, wide_type
from tdagger.types import DType, Shape, TensorType

#: A number, or one for each of several results.
Class = Any


def plain(attribute: Any) -> Any:
    """An attribute as it is compared: any float type as one, sizes as numbers, floats to the last bit.

    >>> plain((DType.of("bf16"), 0.5, 2)), plain(0.0) == plain(-0.0)
    (('float', '0x1.0000000000000p-1', 2), False)
    """
    if isinstance(attribute, tuple):
        return tuple([plain(a) for a in cast(tuple[Any, ...], attribute)])
    if isinstance(attribute, DType):
        return "float" if attribute.is_float else attribute.name
    if isinstance(attribute, bool):
        return str(attribute)
    if isinstance(attribute, int):
        return int(attribute)
    return attribute.hex() if isinstance(attribute, float) else attribute


def key_of(op: Op) -> tuple[Any, ...]:
    """What an op is compared by: its name and its attributes, whatever the precision."""
    if isinstance(op, Const):
        return ("const", op.digest, op.shape)
    return (op.name, *[plain(getattr(op, f)) for f in op.fields])


class Classes:
    """A table of numbers that several graphs share. ``inside``: composites are seen as their bodies."""

    #: Whether ops of other names are no pairs, however they stand, as long as others are looked for.
    alike = False

    def __init__(self, exact: Exact, inside: bool) -> None:
        self.exact, self.inside = exact, inside
        self.numbers: dict[Any, int] = {}
        self.shapes: list[Shape] = []
        self._reshaped: dict[int, int] = {}  # a reshape -> what it is of
        self._permuted: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._filled: dict[int, Any] = {}  # what has one number everywhere -> that number
        self._keys: dict[Op, Any] = {}
        self._found: dict[Any, Class] = {}

    def key(self, op: Op) -> Any:
        """What an op is compared by."""
        return key_of(op)

    def look(self, value: Value) -> list[Any]:
        """What the results of values that go together have in common: their shapes."""
        return [t.shape for t in result_types(value)]

    def number(self, key: Any, shape: Shape) -> int:
        """The number of what ``key`` says."""
        found = self.numbers.get(key)
        if found is None:
            found = self.numbers[key] = len(self.shapes)
            self.shapes.append(shape)
        return found

    def of(self, op: Op, types: tuple[Any, ...], args: Sequence[Class], out: Any) -> Class:
        """The class of an op on arguments of these classes, and of these types in the graph; ``out`` is its type."""
        key = (op, types, tuple(args))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._of(op, types, args, out)
        return found

    def _of(self, op: Op, types: tuple[Any, ...], args: Sequence[Class], out: Any) -> Class:
        if isinstance(op, Item) and isinstance(args[0], tuple):
            return cast(Any, args[0])[op.index]
        if isinstance(op, Const):
            return self._const(op.data)
        if isinstance(op, Cast) and op.dtype.is_float and types[0].dtype.is_float and not self.exact.is_lossy(op):
            return args[0]
        if isinstance(op, Composite) and self.inside and not op.has_branches:
            return self._body(op, types, args)
        if args and self._has_shape_of(args[0], types[0]):
            moved = self._moved(op, args[0], out)
            if moved is not None:
                return moved
        return self._opaque(op, args, out)

    def _has_shape_of(self, x: Class, type_: Any) -> bool:
        """Whether what has a number is of the shape of a value: one of a pair may have another."""
        return isinstance(x, int) and isinstance(type_, TensorType) and self.shapes[x] == type_.shape

    def _opaque(self, op: Op, args: Sequence[Class], out: Any) -> int:
        own = self._keys.get(op)
        if own is None:
            own = self._keys[op] = self.key(op)
        if isinstance(op, Binary) and BINARY[op.kind].commutes:
            args = sorted(args, key=str)
        return self.number((own, *args), out.shape if isinstance(out, TensorType) else ())

    def _const(self, data: Array) -> int:
        """A constant, rounded to what the networks work in: another precision has another 0.1."""
        exact: Any = wide(data)
        if exact.dtype.kind == "f":
            to = self.exact.precision
            exact = data.astype(to.numpy).astype(np.float64)
            if self.exact.mixed:  # the least number of f32 stands for that of f16
                most = float(cast(Any, ml_dtypes.finfo(to.numpy)).max)
                large: Any = np.abs(exact) >= most
                exact = cast(Any, np.where(large, np.copysign(np.inf, exact), exact))
        kind = exact.dtype.kind
        first: Any = exact.reshape(-1)[:1]
        if data.size and (exact == first).all():
            return self._fill((kind, repr(first[0].item())), data.shape)
        return self.number(("const", kind, data.shape, exact.tobytes()), data.shape)

    def _fill(self, value: Any, shape: Shape) -> int:
        found = self.number(("fill", value, shape), shape)
        self._filled[found] = value
        return found

    def _moved(self, op: Op, x: int, out: TensorType) -> int | None:
        """The class of an op that only moves entries; None for others."""
        if x in self._filled and isinstance(op, Group | Ungroup | Permute | Repeat):
            return self._fill(self._filled[x], out.shape)
        if isinstance(op, Group | Ungroup):
            return self._reshape(x, out.shape)
        if isinstance(op, Permute):
            return self._permute(x, op.order, out.shape)
        if isinstance(op, Slice | Repeat) and out.shape == self.shapes[x]:
            backwards = isinstance(op, Slice) and any(b is not None and b[2] < 0 for b in op.bounds)
            return None if backwards else x
        return None

    def _reshape(self, x: int, shape: Shape) -> int:
        base = self._reshaped.get(x, x)
        if shape == self.shapes[base]:
            return base
        found = self.number(("reshape", base, shape), shape)
        self._reshaped[found] = base
        return found

    def _permute(self, x: int, order: tuple[int, ...], shape: Shape) -> int:
        base, before = self._permuted.get(x, (x, tuple(range(len(order)))))
        whole = tuple([before[i] for i in order])
        large = [i for i in whole if self.shapes[base][i] != 1]
        if large == sorted(large):  # only axes of size 1 change places
            return self._reshape(base, shape)
        found = self.number(("permute", base, whole), shape)
        self._permuted[found] = base, whole
        return found

    @nested
    def _body(self, op: Composite, types: tuple[Any, ...], args: Sequence[Class]) -> Class:
        body = op.body(*map(wide_type, types))
        found = self.walk(body, dict(zip(body.inputs.values(), args, strict=True)))
        results = tuple([found[v] for v in body.outputs.values()])
        return results[0] if len(results) == 1 else results

    def walk(self, graph: Graph, given: dict[Value, Class]) -> dict[Value, Class]:
        """The classes of all values of a graph; ``given`` has those of its leaves, and of what they are known of."""
        found = dict(given)
        for value in graph.values:
            if value in found:
                continue
            args = [found[a] for a in value.args]
            found[value] = self.of(value.op, tuple([a.type for a in value.args]), args, value.type)
        return found
