"""slice pad concat repeat reduce: the ops that change how many entries axes have, one by one; they keep the rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tdagger.errors import AttributeValueError, NoInverseError, TypeMismatchError
from tdagger.op import (
    Array,
    AxisRules,
    Op,
    Plan,
    Terms,
    Value,
    ValueFunction,
    normal_axis,
    patterned,
    still,
    symbolic,
)
from tdagger.ops.source import scalar
from tdagger.ops.structure.order import Group, Ungroup, unsqueeze
from tdagger.types import Sized, TensorType, ValueType, entries, most, sized


def _kept(plan: Plan, each: Sequence[Any]) -> tuple[Any, ...]:
    """An attribute with one entry for each dimension, for the dimensions that are left; None for new ones."""
    return tuple(None if p.axis is None else each[p.axis] for p in plan)


#: start, stop, step of one axis: the entries are those of range(start, stop, step).
Bounds = tuple[int, int, int]


class Slice(Op, core=True):
    """Entries ``range(start, stop, step)`` of each axis; None leaves an axis whole.

    A bound that counts from the end of its axis, or follows its size in another way, is ``Sized``. A negative step runs
    backwards; a stop of -1 then means "up to and with the first entry", as in range.
    """

    name = "slice"
    bounds: tuple[Bounds | None, ...]

    def check(self) -> None:
        if any(b is not None and b[2] == 0 for b in self.bounds):
            raise AttributeValueError(f"slice: a step can't be 0, got {self.bounds}")

    def infer(self, x: TensorType) -> ValueType:
        if len(self.bounds) != x.rank:
            raise self.mismatch(f"bounds for {len(self.bounds)} axes, the tensor has {x.rank}", x)
        shape = list(x.shape)
        for axis, b in enumerate(self.bounds):
            if b is not None:
                found = range(*b)
                if found and not (0 <= found[0] < shape[axis] and 0 <= found[-1] < shape[axis]):
                    raise self.mismatch(f"axis {axis} has no entries {found}", x)
                shape[axis] = entries(*b, shape[axis])
        return x.with_shape(tuple(shape))

    def run(self, x: Array) -> Array:
        whole = slice(None)
        return x[
            tuple(
                whole if b is None else slice(b[0], b[1] if b[1] >= 0 else None, b[2]) if range(*b) else slice(0)
                for b in self.bounds
            )
        ]

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return (out.size,)

    def moves_nothing(self, *types: TensorType) -> bool:
        """Whether it keeps everything: a ``select`` from an axis of size 1."""
        return self.infer(*types) is types[0] and not any(b is not None and b[2] < 0 for b in self.bounds)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        pairs = enumerate(zip(args[0], self.bounds, strict=True))
        return tuple([t if b is None else rules.cut(i, t, *b) for i, (t, b) in pairs])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Slice(_kept(out, self.bounds))

    def adjoint(self, *types: TensorType) -> ValueFunction:
        x = self.one(types, "adjoint")
        widths: list[Widths | None] = []
        flips: list[Bounds | None] = []
        for n, b in zip(x.shape, self.bounds, strict=True):
            entries = range(n) if b is None else range(*b)
            if b is None or not entries:
                widths.append(None if b is None else (0, n, 0))
                flips.append(None)
                continue
            low, high = min(entries[0], entries[-1]), max(entries[0], entries[-1])
            widths.append((low, n - 1 - high, abs(b[2]) - 1))
            flips.append((len(entries) - 1, -1, -1) if b[2] < 0 else None)
        put = Pad(tuple(widths), scalar(0, x.dtype))
        flip_ = Slice(tuple(flips))

        def back(y: Value) -> Value:
            return put(flip_(y))

        return back if any(flips) else put

    inverse = adjoint


#: entries added before, after, and between every two entries of one axis.
Widths = tuple[int, int, int]


class Pad(Op, core=True):
    """Add entries of one value before, after and between the entries of each axis; None leaves it alone."""

    name = "pad"
    widths: tuple[Widths | None, ...]
    value: bool | int | float | complex

    def check(self) -> None:
        if any(w is not None and min(w) < 0 for w in self.widths):
            raise AttributeValueError(f"pad: widths can't be negative (slice instead), got {self.widths}")

    def infer(self, x: TensorType) -> ValueType:
        if len(self.widths) != x.rank:
            raise self.mismatch(f"widths for {len(self.widths)} axes, the tensor has {x.rank}", x)
        if self.value.__class__ is not scalar(0, x.dtype).__class__:
            raise self.mismatch(f"the value {self.value!r} is not a number of the tensor's kind", x)
        shape = tuple(
            [
                n if w is None else w[0] + n + max(n - 1, 0) * w[2] + w[1]
                for n, w in zip(x.shape, self.widths, strict=True)
            ]
        )
        return x.with_shape(shape)

    def _inner(self, shape: tuple[int, ...]) -> tuple[Bounds | None, ...]:
        return tuple(
            None if w is None else (w[0], w[0] + max(n - 1, 0) * (w[2] + 1) + min(n, 1), w[2] + 1)
            for n, w in zip(shape, self.widths, strict=True)
        )

    def run(self, x: Array) -> Array:
        t = self.infer(TensorType(x.shape, x.dtype.name))
        out = np.full(t.shape, self.value, x.dtype)
        out[tuple(slice(None) if b is None else slice(*b) for b in self._inner(x.shape))] = x
        return out

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        terms: list[Any] = []
        for term, w in zip(args[0], self.widths, strict=True):
            if w is not None and any(w):
                rules.mark(term, "pads")
                term = rules.line([w[0], *[term] * (w[2] + 1), w[1]], -w[2])
            terms.append(term)
        return tuple(terms)

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Pad(_kept(out, self.widths), self.value)

    def inverse(self, *types: TensorType) -> ValueFunction:
        return Slice(self._inner(self.one(types, "inverse").shape))

    def adjoint(self, *types: TensorType) -> ValueFunction:
        if self.value != 0:
            raise NoInverseError(f"{self} adds a value that is not 0, so it is not linear")
        return self.inverse(*types)


class Concat(Op, core=True):
    """Lay tensors end to end along an axis."""

    name = "concat"
    axis: int

    def infer(self, *types: TensorType) -> ValueType:
        if not types:
            raise self.mismatch("needs at least one tensor")
        first, axis = types[0], self.axis
        if not 0 <= axis < first.rank:
            raise self.mismatch(f"there is no axis {axis}", *types)
        total = 0
        for t in types:
            if t.dtype is not first.dtype or t.rank != first.rank:
                raise self.mismatch("element types and ranks must be equal", *types)
            if t.shape[:axis] != first.shape[:axis] or t.shape[axis + 1 :] != first.shape[axis + 1 :]:
                raise self.mismatch(f"sizes may differ on axis {axis} only", *types)
            total += t.shape[axis]
        return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))

    def run(self, *arrays: Array) -> Array:
        return np.concatenate(arrays, self.axis)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        for terms in args:
            rules.mark(terms[self.axis], "concatenates")
        line = rules.line([terms[self.axis] for terms in args])
        rest = rules.join(*[(*terms[: self.axis], (), *terms[self.axis + 1 :]) for terms in args])
        for i, terms in enumerate(args):
            rules.expect(i, (*rest[: self.axis], terms[self.axis], *rest[self.axis + 1 :]))
        return (*rest[: self.axis], line, *rest[self.axis + 1 :])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Concat(still(out, self.axis))

    def adjoint(self, *types: TensorType) -> ValueFunction:
        """Splits: the result has one value per argument."""
        if not types:
            raise NoInverseError(f"{self}.inverse() needs the types of the arguments")
        sizes = [t.shape[self.axis] for t in types]

        def back(y: Value) -> tuple[Value, ...]:
            return split(y, sizes, self.axis)

        return back

    inverse = adjoint


class Repeat(Op, core=True):
    """Repeat axes of size 1: ``sizes`` has the new size of each axis, None leaves it alone."""

    name = "repeat"
    is_view = True
    sizes: tuple[int | None, ...]

    def check(self) -> None:
        if any(n is not None and n < 0 for n in self.sizes):
            raise AttributeValueError(f"repeat: sizes can't be negative, got {self.sizes}")

    def infer(self, x: TensorType) -> ValueType:
        if len(self.sizes) != x.rank:
            raise self.mismatch(f"sizes for {len(self.sizes)} axes, the tensor has {x.rank}", x)
        if any(n is not None and old != 1 for n, old in zip(self.sizes, x.shape, strict=True)):
            raise self.mismatch("only an axis of size 1 can be repeated", x)
        return x.with_shape(tuple([old if n is None else n for n, old in zip(self.sizes, x.shape, strict=True)]))

    def run(self, x: Array) -> Array:
        return np.broadcast_to(x, tuple(old if n is None else n for n, old in zip(self.sizes, x.shape, strict=True)))

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        terms: list[Any] = []
        for term, n in zip(args[0], self.sizes, strict=True):
            if n is not None:
                rules.mark(term, "repeats")
                term = rules.fresh(n, "repeated")
            terms.append(term)
        return tuple(terms)

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Repeat(tuple(None if p.axis is None or self.sizes[p.axis] is None else p.size for p in out))

    def _axes(self) -> tuple[int, ...]:
        return tuple(i for i, n in enumerate(self.sizes) if n is not None)

    def adjoint(self, *types: TensorType) -> ValueFunction:
        return Reduce("sum", self._axes())

    def inverse(self, *types: TensorType) -> ValueFunction:
        if 0 in self.sizes:
            raise NoInverseError(f"{self} keeps nothing of its argument")
        return Slice(tuple(None if n is None else (0, 1, 1) for n in self.sizes))


def _extreme(of: Any, dtype: np.dtype[Any]) -> Any:
    """The smallest (of=min) or largest (of=max) number of a dtype."""
    if dtype == np.bool_:
        return of is max
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.min if of is min else info.max
    return -math.inf if of is min else math.inf


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype sums and products of ``dtype`` are accumulated in: float32 for the narrower floats."""
    narrow = dtype.kind in "fV" and dtype.itemsize < 4
    return np.dtype(np.float32) if narrow else dtype


_REDUCTIONS: dict[str, Callable[[Array, tuple[int, ...]], Any]] = {
    "sum": lambda x, axes: x.sum(axes, x.dtype, keepdims=True),
    "prod": lambda x, axes: x.prod(axes, x.dtype, keepdims=True),
    "max": lambda x, axes: x.max(axes, keepdims=True, initial=_extreme(min, x.dtype)),
    "min": lambda x, axes: x.min(axes, keepdims=True, initial=_extreme(max, x.dtype)),
    "any": lambda x, axes: x.any(axes, keepdims=True),
    "all": lambda x, axes: x.all(axes, keepdims=True),
}


class Reduce(Op, core=True):
    """Combine the entries of axes into one, keeping the axes with size 1.

    ``kind`` is sum, prod, max, min (NaN wins), or any, all (bool only). Of no entries: 0, 1, the smallest,
    the largest number, False, True. Sums and products of float16 and bfloat16 accumulate in float32.
    """

    name = "reduce"
    kind: str
    axes: tuple[int, ...]

    def check(self) -> None:
        if self.kind not in _REDUCTIONS:
            raise AttributeValueError(f"reduce: kind {self.kind!r} is none of {', '.join(_REDUCTIONS)}")
        if tuple(sorted(set(self.axes))) != self.axes:
            raise AttributeValueError(f"reduce: axes must rise, got {self.axes}")

    def infer(self, x: TensorType) -> ValueType:
        if self.axes and not (self.axes[0] >= 0 and self.axes[-1] < x.rank):
            raise self.mismatch(f"axes {self.axes} are not all there", x)
        if self.kind in ("max", "min"):
            if x.dtype.is_complex:
                raise self.mismatch("complex numbers have no order", x)
        elif (x.dtype.name == "bool") != (self.kind in ("any", "all")):
            raise self.mismatch("any and all take bools, sum and prod numbers; cast first", x)
        return x.with_shape(tuple([1 if i in self.axes else n for i, n in enumerate(x.shape)]))

    def run(self, x: Array) -> Array:
        wide = x.astype(accumulator(x.dtype), copy=False)
        return np.asarray(_REDUCTIONS[self.kind](wide, self.axes)).astype(x.dtype, copy=False)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        for i in self.axes:
            rules.mark(args[0][i], f"takes the {self.kind} over")
        return tuple([() if i in self.axes else term for i, term in enumerate(args[0])])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Reduce(self.kind, tuple(i for i, p in enumerate(out) if p.axis in self.axes))

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return most(types[0].size - out.size, 0)

    def adjoint(self, *types: TensorType) -> ValueFunction:
        if self.kind != "sum":
            raise NoInverseError(f"{self} is not linear, so it has no adjoint")
        return self._repeat(self.one(types, "adjoint"))

    def _repeat(self, x: TensorType) -> Repeat:
        return Repeat(tuple(n if i in self.axes else None for i, n in enumerate(x.shape)))

    def inverse(self, *types: TensorType) -> ValueFunction:
        x = self.one(types, "inverse")
        count = math.prod(x.shape[i] for i in self.axes)
        repeat_ = self._repeat(x)
        if count == 0:
            raise NoInverseError(f"{self} of no entries keeps nothing of its argument")
        if self.kind == "sum":  # all of the sum in the first entry: exact for integers too
            first = Slice(tuple((0, 1, 1) if i in self.axes else None for i in range(x.rank)))
            return first.adjoint(x)
        if self.kind == "prod":
            widths = tuple((0, n - 1, 0) if i in self.axes else None for i, n in enumerate(x.shape))
            return Pad(widths, scalar(1, x.dtype))
        return repeat_


@patterned
def squeeze(x: Value, axes: Sequence[int], only_ones: bool = False) -> Value:
    """Drop axes of size 1 by grouping each with a neighbour.

    ``only_ones``: as torch's, which leaves axes that are not of size 1: with more entries it would be another op.
    """
    drop = {normal_axis(a, x.rank) for a in axes}
    if any(x.shape[a] != 1 for a in drop):
        raise AttributeValueError(f"squeeze: only axes of size 1 can be dropped, got {sorted(drop)} of {x.type}")
    keep = [i for i in range(x.rank) if i not in drop]
    if not drop:
        return x
    if not keep:
        return Ungroup(((),) * x.rank)(x)
    # a dropped axis goes with the kept axis after it, those at the end with the last kept one
    ends = [*keep[:-1], x.rank - 1]
    counts = [e - s for s, e in zip([-1, *ends[:-1]], ends, strict=True)]
    if only_ones:
        known = x.op.axes if isinstance(x.op, Reduce) else ()  # these stay of size 1
        for i, (end, count) in enumerate(zip(ends, counts, strict=True)):
            mask = sum(1 << k for k in range(count) if (a := end - count + 1 + k) in drop and a not in known)
            counts[i] = sized(0, (), 1, count, ("squeeze", mask, 0)) if mask else count
    return Group(tuple(counts))(x)


@patterned
def slice_axis(x: Value, axis: int, start: int | None, stop: int | None, step: int = 1) -> Value:
    """Entries of one axis, with Python's rules for bounds.

    A bound that is left open, negative or ``sized`` follows the size of the axis; one from the start stays.
    """
    axis = normal_axis(axis, x.rank)
    if step == 0:
        raise AttributeValueError(f"slice: the step along axis {axis} of {x.type} can't be 0")
    n = x.shape[axis]
    bounds = _forward(n, start, stop, step) if step > 0 else _backward(n, start, stop, step)
    if bounds is None:
        return x
    return Slice(tuple(bounds if i == axis else None for i in range(x.rank)))(x)


def _forward(n: int, start: int | None, stop: int | None, step: int) -> Bounds | None:
    """The bounds as they are kept; None if they are those of everything, whatever there is."""
    entries = range(*slice(start, stop, step).indices(n))
    first = _bound(n, 0 if start is None else start)
    last = sized(n) if stop is None or stop >= OPEN or (stop == n and not isinstance(stop, Sized)) else _bound(n, stop)
    follows = isinstance(first, Sized), isinstance(last, Sized)
    if (
        step == 1
        and (first, last) == (0, n)
        and not follows[0]
        and isinstance(last, Sized)
        and last.key == sized(n).key
    ):
        return None
    if not any(follows):  # one way to write what is the same
        return (entries[0], entries[-1] + 1, step if len(entries) > 1 else 1) if entries else (0, 0, 1)
    return (first, last, step)


#: What torch writes for a bound that was left open is larger than this.
OPEN = 2**62


def _bound(n: int, given: int) -> int:
    """A bound of an axis of ``n``: one from the end is that at other sizes too, one beyond it stands further away."""
    if isinstance(given, Sized) or 0 <= given <= n:
        return given
    return sized(n, (0,) if given < 0 else (), 1, given)


def _backward(n: int, start: int | None, stop: int | None, step: int) -> Bounds:
    if n and start is None and stop is None:
        return (sized(n, plus=-1), -1, step)
    entries = range(*slice(start, stop, step).indices(n))
    return (entries[0], entries[-1] - 1, step) if entries else (0, 0, 1)


@patterned
def select(x: Value, axis: int, index: int) -> Value:
    """One entry of an axis, without the axis."""
    axis = normal_axis(axis, x.rank)
    n = x.shape[axis]
    place = normal_axis(index, n, f"index into axis {axis}:")
    bounds = (place, place + 1, 1) if index >= 0 else (sized(n, plus=index), sized(n, plus=index + 1), 1)
    # kept where the axis has one entry only: x[0] of a batch of one is not x without its batch axis
    entry = Slice(tuple(bounds if i == axis else None for i in range(x.rank)))(x)
    return squeeze(entry, (axis,))


def split(x: Value, sizes: Sequence[int], axis: int) -> tuple[Value, ...]:
    """Pieces of an axis, one after the other."""
    axis = normal_axis(axis, x.rank)
    if sum(sizes) != x.shape[axis]:
        raise AttributeValueError(f"split: sizes {tuple(sizes)} don't add up to axis {axis} of {x.type}")
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(slice_axis(x, axis, a, b) for a, b in pairwise(ends))


@patterned
def flip(x: Value, axes: Sequence[int]) -> Value:
    """Reverse the order along axes."""
    for axis in axes:
        x = slice_axis(x, axis, None, None, -1)
    return x


@patterned
def pad(x: Value, widths: Sequence[Sequence[int] | None], value: bool | int | float | complex = 0) -> Value:
    """Add entries of ``value`` before, after (and between) the entries of each axis; negative widths slice."""
    for axis, w in enumerate(widths):
        if w is not None and min(w[:2]) < 0:
            if max(-w[0], 0) + max(-w[1], 0) > x.shape[axis]:
                raise AttributeValueError(f"pad: widths {tuple(w)} take more from axis {axis} of {x.type} than it has")
            x = slice_axis(x, axis, max(-w[0], 0), min(w[1], 0) or None)
    full = tuple(
        None if w is None or not any(w) else (max(w[0], 0), max(w[1], 0), w[2] if len(w) > 2 else 0) for w in widths
    )
    return Pad(full, scalar(value, x.dtype))(x) if any(w is not None and any(w) for w in full) else x


@patterned
def interleave(x: Value, axis: int, gap: int, value: bool | int | float = 0) -> Value:
    """Put ``gap`` entries of ``value`` between every two entries of an axis; stride undoes it."""
    axis = normal_axis(axis, x.rank)
    return pad(x, [(0, 0, gap) if i == axis else None for i in range(x.rank)], value)


@patterned
def stride(x: Value, axis: int, step: int) -> Value:
    """Every ``step``-th entry of an axis, from the first."""
    return slice_axis(x, axis, None, None, step)


def concat(xs: Sequence[Value], axis: int = 0) -> Value:
    """Lay tensors end to end along an axis."""
    found = symbolic(*xs)
    if found is not None:
        return found.noted(concat, tuple(xs), {"axis": axis})
    if len(xs) == 1:
        return xs[0]
    return Concat(normal_axis(axis, xs[0].rank) if xs else axis)(*xs)


@patterned
def repeat(x: Value, sizes: Sequence[int | None]) -> Value:
    """Repeat axes of size 1 to ``sizes``; None leaves an axis alone."""
    if len(sizes) != x.rank:
        raise AttributeValueError(f"repeat: needs a size or None for each axis of {x.type}, got {tuple(sizes)}")
    normal = tuple(None if n == 1 and old == 1 else n for n, old in zip(sizes, x.shape, strict=True))
    return Repeat(normal)(x) if any(n is not None for n in normal) else x


@patterned
def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """``x`` with axes added in front and axes of size 1 repeated until it has ``shape``."""
    if x.type.shape == tuple(shape):
        return x
    if len(shape) < x.rank:
        raise TypeMismatchError(f"broadcast_to: {x.type} has more axes than the shape {tuple(shape)}")
    x = unsqueeze(x, range(len(shape) - x.rank)) if len(shape) > x.rank else x
    return repeat(x, [None if n == old else n for n, old in zip(shape, x.shape, strict=True)])


@patterned
def reduce(x: Value, kind: str, axes: Sequence[int] | None = None, keep: bool = True) -> Value:
    """Combine the entries of ``axes`` (None: all); without ``keep`` the axes are dropped."""
    named = range(x.rank) if axes is None else axes
    normal = tuple(sorted({normal_axis(a, x.rank) for a in named}))
    out = Reduce(kind, normal)(x) if normal else x
    return out if keep else squeeze(out, normal)
