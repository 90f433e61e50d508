"""The ops that index: gather, scatter, argsort, scan.

Indices count from 0 and must be in range; importers turn negative ones around.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tdagger.errors import AttributeValueError, NoInverseError
from tdagger.op import (
    Array,
    AxisRules,
    Op,
    Plan,
    Terms,
    Value,
    ValueFunction,
    identity,
    normal_axis,
    still,
)
from tdagger.ops.elementwise import Binary, Cast, Where, equal, floor_divide, full_like, neg, where
from tdagger.ops.source import Const, Iota, const, iota, scalar
from tdagger.ops.structure import (
    Concat,
    Group,
    Permute,
    Repeat,
    Ungroup,
    accumulator,
    broadcast_to,
    permute,
    repeat,
    slice_axis,
    unsqueeze,
)
from tdagger.types import TensorType, ValueType, i64, most


class Gather(Op, core=True):
    """Entries of ``axis`` of x at ``index`` (integers): the index's axes stand where the axis stood.

    The first ``batch`` axes are shared by x and the index, entry by entry: with
    ``x[b a.. n c..]`` and ``index[b i..]`` the result is ``[b a.. i.. c..]``. An embedding is
    ``axis=0, batch=0``; numpy's take_along_axis on the last axis is ``axis=batch=rank-1``.
    """

    name = "gather"
    axis: int
    batch: int

    def check(self) -> None:
        if not 0 <= self.batch <= self.axis:
            raise AttributeValueError(f"{self.name}: needs 0 <= batch <= axis, got {self}")

    def infer(self, x: TensorType, index: TensorType) -> ValueType:
        if not index.dtype.is_int:
            raise self.mismatch("the index must be integers", x, index)
        if self.axis >= x.rank or index.rank < self.batch or x.shape[: self.batch] != index.shape[: self.batch]:
            raise self.mismatch("there is no such axis, or the batch axes differ", x, index)
        axis, batch = self.axis, self.batch
        return x.with_shape((*x.shape[:axis], *index.shape[batch:], *x.shape[axis + 1 :]))

    def positions(self, x_shape: tuple[int, ...], index: Array) -> tuple[Any, ...]:
        """The numpy index of x that selects the entries, in the order of the result's axes."""
        n = x_shape[self.axis]
        if index.size and (index.min() < 0 or index.max() >= n):
            raise IndexError(f"{self}: indices must be in 0..{n - 1}, got {index.min()}..{index.max()}")
        batch, axis, inner = self.batch, self.axis, index.ndim - self.batch
        rank = len(x_shape) - 1 + inner
        out: list[Any] = []
        for a, size in enumerate(x_shape):
            if a == axis:
                spread = (*index.shape[:batch], *(1,) * (axis - batch), *index.shape[batch:])
                out.append(index.reshape((*spread, *(1,) * (rank - len(spread)))))
            else:
                at = a if a < axis else a - 1 + inner
                out.append(np.arange(size).reshape([-1 if i == at else 1 for i in range(rank)]))
        return tuple(out)

    def run(self, x: Array, index: Array) -> Array:
        return np.asarray(x[self.positions(x.shape, index)])

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        x, index = args
        rules.mark(x[self.axis], "indexes")
        batch = rules.join(x[: self.batch], index[: self.batch])
        rules.expect(0, (*batch, *x[self.batch :]))
        rules.expect(1, (*batch, *index[self.batch :]))
        return (*batch, *x[self.batch : self.axis], *index[self.batch :], *x[self.axis + 1 :])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Gather(*_moved(self.axis, self.batch, *args))

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return (out.size, types[1].size)

    def adjoint(self, *types: TensorType) -> ValueFunction:
        """The function of (result, index) that adds every entry back to where it came from."""
        if not types:
            raise NoInverseError(f"{self}.adjoint() needs the type of x")
        x, add = types[0], Scatter(self.axis, self.batch, "add")

        def back(y: Value, index: Value) -> Value:
            return add(_zeros(x), index, y)

        return back

    def inverse(self, *types: TensorType) -> ValueFunction:
        """The function of (result, index) that puts every entry back; what was not read becomes 0."""
        if not types:
            raise NoInverseError(f"{self}.inverse() needs the type of x")
        x, put = types[0], Scatter(self.axis, self.batch, "set")

        def back(y: Value, index: Value) -> Value:
            return put(_zeros(x), index, y)

        return back


def _moved(axis: int, batch: int, x: Plan, index: Plan, *_: Plan) -> tuple[int, int]:
    """The axis and batch of a gather or scatter after a change. A new dimension that only x has leaves the batch."""
    shared = sum(p.axis is not None and p.axis < batch for p in x)
    return still(x, axis), shared + min(sum(p.axis is None for p in plan) for plan in (x, index))


def _zeros(t: TensorType) -> Value:
    return broadcast_to(const(scalar(0, t.dtype), t.dtype), t.shape)


_SCATTERS: dict[str, Any] = {
    "set": None,
    "add": np.add,
    "multiply": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


class Scatter(Op, core=True):
    """x with ``updates`` put at ``index`` of ``axis``: the adjoint of gather, same axes, same batch.

    ``kind`` says how an update meets what is there: set (the last one wins), add, multiply, max, min.
    """

    name = "scatter"
    axis: int
    batch: int
    kind: str

    def check(self) -> None:
        Gather(self.axis, self.batch)
        if self.kind not in _SCATTERS:
            raise AttributeValueError(f"scatter: kind {self.kind!r} is none of {', '.join(_SCATTERS)}")

    def infer(self, x: TensorType, index: TensorType, updates: TensorType) -> ValueType:
        if Gather(self.axis, self.batch).infer(x, index) is not updates:
            raise self.mismatch("the updates must have the type gather would give", x, index, updates)
        if x.dtype.name == "bool" if self.kind in ("add", "multiply") else self.kind != "set" and x.dtype.is_complex:
            raise self.mismatch("add and multiply take numbers, max and min what has an order", x, index, updates)
        return x

    def run(self, x: Array, index: Array, updates: Array) -> Array:
        where = Gather(self.axis, self.batch).positions(x.shape, index)
        wide = x.astype(accumulator(x.dtype))
        if self.kind == "set":
            wide[where] = updates
        else:
            _SCATTERS[self.kind].at(wide, where, updates.astype(wide.dtype))
        return wide.astype(x.dtype, copy=False)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        x, index, updates = args
        batch, axis, after = self.batch, self.axis, self.axis + len(index) - self.batch
        rules.mark(x[axis], "scatters into")
        for term in updates[axis:after]:
            rules.mark(term, "scatters")
        places = rules.join(updates[axis:after], index[batch:])
        shared = rules.join(x[:batch], index[:batch], updates[:batch])
        low = rules.join(x[batch:axis], updates[batch:axis])
        high = rules.join(x[axis + 1 :], updates[after:])
        rules.expect(0, (*shared, *low, x[axis], *high))
        rules.expect(1, (*shared, *places))
        rules.expect(2, (*shared, *low, *places, *high))
        return (*shared, *low, x[axis], *high)

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Scatter(*_moved(self.axis, self.batch, *args), self.kind)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return 0 if self.kind == "set" else types[2].size

    def adjoint(self, *types: TensorType) -> ValueFunction:
        """For add, with respect to the updates: the function of (result, index)."""
        if self.kind != "add":
            raise NoInverseError(f"{self} is not linear in its updates alone, so it has no adjoint")
        return Gather(self.axis, self.batch)

    def inverse(self, *types: TensorType) -> ValueFunction:
        """For set: the function of (result, index) that gives the updates back (where no index repeats)."""
        if self.kind != "set":
            raise NoInverseError(f"{self} mixes the updates with what was there")
        return Gather(self.axis, self.batch)


class Argsort(Op, core=True):
    """Indices (i64) that sort along an axis; equal entries keep their order, NaN counts as largest."""

    name = "argsort"
    axis: int
    descending: bool

    def infer(self, x: TensorType) -> ValueType:
        if not 0 <= self.axis < x.rank or x.dtype.is_complex:
            raise self.mismatch("there is no such axis, or the elements have no order", x)
        return x.with_dtype(i64)

    def run(self, x: Array) -> Array:
        if x.dtype.kind in "fV" and x.dtype.itemsize < 4:
            x = x.astype(np.float32)
        if not self.descending:
            return np.argsort(x, self.axis, kind="stable").astype(np.int64)
        # a stable descending sort is an ascending sort from the other end
        last = x.shape[self.axis] - 1
        backwards = np.flip(x, self.axis)
        return last - np.flip(np.argsort(backwards, self.axis, kind="stable"), self.axis).astype(np.int64)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        rules.mark(args[0][self.axis], "sorts")
        return args[0]

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Argsort(still(out, self.axis), self.descending)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        n = out.shape[self.axis]
        return out.size * most(n - 1, 0).bit_length()

    def inverse(self, *types: TensorType) -> ValueFunction:
        """Of a permutation: numbers that this op sorts into it."""
        places = Argsort(self.axis, False)
        if not self.descending:
            return places

        def undo(y: Value) -> Value:
            return neg(places(y))

        return undo


_SCANS: dict[str, Any] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


class Scan(Op, core=True):
    """Running sum, prod, max or min along an axis (each entry takes in those before it, and itself)."""

    name = "scan"
    kind: str
    axis: int
    reverse: bool

    def check(self) -> None:
        if self.kind not in _SCANS:
            raise AttributeValueError(f"scan: kind {self.kind!r} is none of {', '.join(_SCANS)}")

    def infer(self, x: TensorType) -> ValueType:
        if not 0 <= self.axis < x.rank:
            raise self.mismatch(f"there is no axis {self.axis}", x)
        if x.dtype.name == "bool" if self.kind in ("sum", "prod") else x.dtype.is_complex:
            raise self.mismatch("sum and prod take numbers, max and min what has an order", x)
        return x

    def run(self, x: Array) -> Array:
        wide = x.astype(accumulator(x.dtype))
        wide = np.flip(wide, self.axis) if self.reverse else wide
        out = _SCANS[self.kind].accumulate(wide, self.axis, dtype=wide.dtype)
        return (np.flip(out, self.axis) if self.reverse else out).astype(x.dtype, copy=False)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        rules.mark(args[0][self.axis], f"takes the running {self.kind} of")
        return args[0]

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Scan(self.kind, still(out, self.axis), self.reverse)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        n = out.shape[self.axis]
        return out.size - out.size // n if n else 0

    def adjoint(self, *types: TensorType) -> ValueFunction:
        if self.kind != "sum":
            raise NoInverseError(f"{self} is not linear, so it has no adjoint")
        return Scan("sum", self.axis, not self.reverse)

    def inverse(self, *types: TensorType) -> ValueFunction:
        """Differences undo a sum, ratios a product; a running max or min is its own pseudo-inverse."""
        if self.kind in ("max", "min"):
            return identity
        axis, reverse, fill = self.axis, self.reverse, 0 if self.kind == "sum" else 1

        def undo(y: Value) -> Value:
            n = y.shape[axis]
            if n < 2:
                return y
            edge = full_like(slice_axis(y, axis, 0, 1), fill)
            before = (slice_axis(y, axis, 1, n), edge) if reverse else (edge, slice_axis(y, axis, 0, -1))
            shifted = Concat(axis)(*before)
            if self.kind == "sum":
                return y - shifted
            # after a 0 all products are 0, whatever the factors were
            zero = equal(shifted, 0)
            divisor = where(zero, 1, shifted)
            return where(zero, 1, floor_divide(y, divisor) if y.dtype.is_int else y / divisor)

        return undo


def gather(x: Value, index: Value, axis: int = 0, batch: int = 0) -> Value:
    """Entries of ``axis`` of ``x`` at ``index``; see :class:`Gather`."""
    return Gather(normal_axis(axis, x.rank), batch)(x, index)


def take_along(x: Value, index: Value, axis: int) -> Value:
    """For every place of ``index``, the entry of ``x`` at that place but at ``index`` along ``axis``."""
    axis = normal_axis(axis, x.rank)
    order = [i for i in range(x.rank) if i != axis] + [axis]
    back = [order.index(i) for i in range(x.rank)]
    out = Gather(x.rank - 1, x.rank - 1)(permute(x, order), permute(index, order))
    return permute(out, back)


def scatter(x: Value, index: Value, updates: Value, axis: int = 0, batch: int = 0, kind: str = "set") -> Value:
    """``x`` with ``updates`` put at ``index`` of ``axis``; see :class:`Scatter`."""
    return Scatter(normal_axis(axis, x.rank), batch, kind)(x, index, updates)


def put_along(x: Value, index: Value, updates: Value, axis: int, kind: str = "set") -> Value:
    """The adjoint of :func:`take_along`: ``x`` with updates at ``index`` along ``axis``."""
    axis = normal_axis(axis, x.rank)
    order = [i for i in range(x.rank) if i != axis] + [axis]
    back = [order.index(i) for i in range(x.rank)]
    moved = [permute(v, order) for v in (x, index, updates)]
    return permute(Scatter(x.rank - 1, x.rank - 1, kind)(*moved), back)


def argsort(x: Value, axis: int = -1, descending: bool = False) -> Value:
    """Indices (i64) that sort along an axis, stable."""
    return Argsort(normal_axis(axis, x.rank), descending)(x)


def scan(x: Value, kind: str, axis: int, reverse: bool = False) -> Value:
    """Running sum, prod, max or min along an axis."""
    return Scan(kind, normal_axis(axis, x.rank), reverse)(x)


def counts_along(x: Value) -> int | None:
    """The axis along which ``x`` plainly is 0, 1, 2, ... whatever the other places; None if there isn't one.

    >>> counts_along(iota_like(iota(3), 0)), counts_along(unsqueeze(iota(3), (0, 2))), counts_along(iota(3) * 2)
    (0, 1, None)
    """
    path: list[Value] = []
    while not isinstance(x.op, Iota):
        path.append(x)
        inner = _same_numbers(x)
        if inner is None:
            return None
        x = inner
    axis = 0
    for view in reversed(path):
        op, shape = view.op, view.args[0].shape
        if isinstance(op, Permute):
            axis = op.order.index(axis)
        elif isinstance(op, Repeat):
            if op.sizes[axis] is not None:
                return None
        elif isinstance(op, Group | Ungroup):
            found = _through(op, axis, shape)
            if found is None:
                return None
            axis = found
    return axis


def _same_numbers(x: Value) -> Value | None:
    """What holds the same numbers as ``x``, element by element or moved; None if that isn't plain."""
    op = x.op
    if isinstance(op, Permute | Repeat | Group | Ungroup):
        return x.args[0]
    if isinstance(op, Cast) and op.dtype.is_int and op.dtype.bytes >= 4:
        return x.args[0]
    if isinstance(op, Binary) and op.kind == "add":
        return next((b for a, b in (x.args, x.args[::-1]) if _is_zero(a)), None)
    if isinstance(op, Where):  # the form that turns negative indices around
        return x.args[2] if isinstance(x.args[0].op, Binary) and x.args[0].args[0] is x.args[2] else None
    return None


def _is_zero(x: Value) -> bool:
    while isinstance(x.op, Repeat | Group | Ungroup):
        x = x.args[0]
    return isinstance(x.op, Const) and x.type.size == 1 and not x.op.data.any()


def _through(op: Group | Ungroup, axis: int, shape: tuple[int, ...]) -> int | None:
    """Where an axis is after a group or ungroup that only adds or drops axes of size 1."""
    if isinstance(op, Group):
        at = 0
        for i, count in enumerate(op.counts):
            if at <= axis < at + count:
                return i if all(shape[j] == 1 for j in range(at, at + count) if j != axis) else None
            at += count
        return None
    sizes = op.sizes[axis]
    own = [i for i, n in enumerate(sizes) if n == shape[axis]]
    if len(own) != 1 or len([n for n in sizes if n != 1]) > 1:
        return None
    return sum(map(len, op.sizes[:axis])) + own[0]


def iota_like(x: Value, axis: int) -> Value:
    """The index along ``axis`` (i64) at every place of ``x``."""
    axis = normal_axis(axis, x.rank)
    line = unsqueeze(iota(x.shape[axis]), [i for i in range(x.rank) if i != axis])
    return repeat(line, [None if i == axis else n for i, n in enumerate(x.shape)])
