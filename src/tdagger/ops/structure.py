"""The structural ops ("deinops"): permute group ungroup slice pad concat repeat reduce unfold fold, and item.

They act axis by axis and keep the rank, except permute, group and ungroup, which reorganise axes. Functions
here normalise what people write (negative axes, missing bounds) into the attributes of an op.
"""

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
    core_ops,
    normal_axis,
    patterned,
    still,
    symbolic,
)
from tdagger.ops.source import const, scalar
from tdagger.types import ResultTypes, Size, Sized, TensorType, ValueType, entries, least, most, sized


def _kept(plan: Plan, each: Sequence[Any]) -> tuple[Any, ...]:
    """An attribute with one entry for each dimension, for the dimensions that are left; None for new ones."""
    return tuple(None if p.axis is None else each[p.axis] for p in plan)


class Permute(Op, core=True):
    """Reorder axes: axis ``i`` of the result is axis ``order[i]`` of the argument."""

    name = "permute"
    order: tuple[int, ...]

    def check(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise AttributeValueError(f"permute: order {self.order} does not name each axis once")

    def infer(self, x: TensorType) -> ValueType:
        if len(self.order) != x.rank:
            raise self.mismatch(f"order has {len(self.order)} axes, the tensor {x.rank}", x)
        return x.with_shape(tuple([x.shape[i] for i in self.order]))

    def run(self, x: Array) -> Array:
        return x.transpose(self.order)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        return tuple([args[0][i] for i in self.order])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        new = tuple(i for i, p in enumerate(args[0]) if p.axis is None)
        return Permute(new + tuple(still(args[0], self.order[p.axis]) for p in out if p.axis is not None))

    def inverse(self, *types: TensorType) -> ValueFunction:
        return Permute(tuple(self.order.index(i) for i in range(len(self.order))))

    adjoint = inverse


class Group(Op, core=True):
    """Merge neighbouring axes: ``a b c -> a (b c)`` has counts ``(1, 2)``.

    A count of 0 is a new axis of size 1: the product of no axes.
    """

    name = "group"
    is_view = True
    counts: tuple[int, ...]

    def check(self) -> None:
        if any(c < 0 for c in self.counts):
            raise AttributeValueError(f"group: counts can't be negative, got {self.counts}")

    def _groups(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        groups: list[tuple[int, ...]] = []
        at = 0
        for count in self.counts:
            groups.append(shape[at : at + count])
            at += count
        return groups

    def infer(self, x: TensorType) -> ValueType:
        if sum(self.counts) != x.rank:
            raise self.mismatch(f"counts take {sum(self.counts)} axes, the tensor has {x.rank}", x)
        return x.with_shape(tuple([math.prod(g) for g in self._groups(x.shape)]))

    def run(self, x: Array) -> Array:
        return x.reshape(tuple(math.prod(g) for g in self._groups(x.shape)))

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        at = 0
        for count in self.counts:
            if isinstance(count, Sized) and count.parts is not None:
                for i in range(count):
                    if count.parts[1] >> i & 1:
                        rules.stays_one(args[0][at + i])
            at += count
        terms = iter(args[0])
        return tuple([sum([next(terms) for _ in range(n)], ()) if n else rules.one() for n in self.counts])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        into = [i for i, count in enumerate(self.counts) for _ in range(count)]
        left = [None if p.axis is None else into[p.axis] for p in args[0]]
        found = [1 if p.axis is None else left.count(p.axis) for p in out]
        own = [1 if p.axis is None else self.counts[p.axis] for p in out]
        counts = tuple(old if old == n else n for old, n in zip(own, found, strict=True))
        if 0 in counts and max(counts) == 1:  # what inserts axes is written as unsqueeze writes it
            return _inserting(counts, tuple(p.size for p in args[0]))
        return Group(counts)

    def inverse(self, *types: TensorType) -> ValueFunction:
        return Ungroup(tuple(self._groups(self.one(types, "inverse").shape)))

    adjoint = inverse


class Ungroup(Op, core=True):
    """Split axes: ``a (b c) -> a b c`` with ``sizes`` ``((a,), (b, c))``, one tuple of factors per axis.

    No factors, ``()``, drops an axis of size 1. A factor that was left open (-1) is ``Sized``: it follows the axis.
    """

    name = "ungroup"
    is_view = True
    sizes: tuple[tuple[int, ...], ...]

    def check(self) -> None:
        if any(n < 0 for s in self.sizes for n in s):
            raise AttributeValueError(f"ungroup: sizes can't be negative, got {self.sizes}")

    def infer(self, x: TensorType) -> ValueType:
        if tuple([math.prod(s) for s in self.sizes]) != x.shape:
            raise self.mismatch("the factors of each axis must multiply to its size", x)
        return x.with_shape(tuple([n for s in self.sizes for n in s]))

    def run(self, x: Array) -> Array:
        return x.reshape(tuple(n for s in self.sizes for n in s))

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        for i, sizes in enumerate(self.sizes):
            if any(n == 1 and isinstance(n, Sized) for n in sizes):
                for term in args[0][max(i - 1, 0) : i + 2]:
                    rules.guess(term, f"is next to a factor that was left open and is 1 here, in {sizes}")
        pairs = zip(args[0], self.sizes, strict=True)
        return tuple([t for term, sizes in pairs for t in ([term] if len(sizes) == 1 else rules.split(term, sizes))])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        """Factors whose own dimension is gone (1s) go with the dimension after them, at the end with the last."""
        of = [i for i, sizes in enumerate(self.sizes) for _ in sizes]
        given = [n for sizes in self.sizes for n in sizes]
        new = sum(p.axis is None for p in args[0])
        sizes: list[list[int]] = [[p.size] for p in args[0][:new]]
        rest = [p for p in out if p.axis is not None]
        for p in args[0][new:]:
            mine: list[int] = []
            while rest and (at := rest[0].axis) is not None and p.axis is not None and of[at] <= p.axis:
                size = rest.pop(0).size
                mine.append(sized(size) if isinstance(given[at], Sized) and size.__class__ is not Size else size)
            sizes.append(mine)
        if not sizes:
            return Group((0,) * len(rest))
        sizes[-1] += [p.size for p in rest]
        return Ungroup(tuple(map(open_factors, sizes)))

    def inverse(self, *types: TensorType) -> ValueFunction:
        return Group(tuple(len(s) for s in self.sizes))

    adjoint = inverse


def open_factors(sizes: Sequence[int]) -> tuple[int, ...]:
    """Factors of one axis, the one that was left open (-1) as what follows the axis; alone it is the axis.

    >>> open_factors([sized(6, divisor=2), 2])[0].at(8)
    4
    """
    if len(sizes) == 1 or not any(isinstance(n, Sized) for n in sizes):
        return tuple([n if n.__class__ is Size else int(n) for n in sizes])
    whole = math.prod(map(int, sizes))
    return tuple(sized(whole, divisor=whole // n) if isinstance(n, Sized) and n else int(n) for n in sizes)


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


class Unfold(Op, core=True):
    """Windows along an axis, laid end to end: ``h -> (windows kernel)``.

    Entry ``w * kernel + k`` is entry ``w * stride + k * dilation`` of the argument; only whole windows count.
    """

    name = "unfold"
    axis: int
    kernel: int
    stride: int
    dilation: int

    def check(self) -> None:
        if self.kernel < 1 or self.stride < 1 or self.dilation < 1 or self.axis < 0:
            raise AttributeValueError(f"{self.name}: kernel, stride and dilation are at least 1, got {self}")

    @property
    def span(self) -> int:
        """Entries from the first to the last of one window."""
        return (self.kernel - 1) * self.dilation + 1

    def windows(self, n: int) -> int:
        """How many whole windows fit in ``n`` entries."""
        return max((n - self.span) // self.stride + 1, 0)

    def places(self, n: int) -> Array:
        """Which of ``n`` entries each entry of the windows is."""
        starts = np.arange(self.windows(n)) * self.stride
        return (starts[:, None] + np.arange(self.kernel) * self.dilation).reshape(-1)

    def infer(self, x: TensorType) -> ValueType:
        if self.axis >= x.rank:
            raise self.mismatch(f"there is no axis {self.axis}", x)
        shape = list(x.shape)
        shape[self.axis] = self.windows(shape[self.axis]) * self.kernel
        return x.with_shape(tuple(shape))

    def run(self, x: Array) -> Array:
        return np.take(x, self.places(x.shape[self.axis]), self.axis)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        term = args[0][self.axis]
        rules.mark(term, "takes windows of")
        windows = rules.line([term], self.stride - self.span, self.stride)
        return (*args[0][: self.axis], windows + rules.fresh(self.kernel, "kernel"), *args[0][self.axis + 1 :])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return type(self)(still(out, self.axis), self.kernel, self.stride, self.dilation)

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return (least(out.size, types[0].size),)

    def _back(self, x: TensorType) -> ValueFunction:
        n = x.shape[self.axis]
        windows = self.windows(n)
        covered = (windows - 1) * self.stride + self.span if windows else 0
        widths = tuple((0, n - covered, 0) if i == self.axis else None for i in range(x.rank))
        zero = scalar(0, x.dtype)
        add, put = Fold(self.axis, self.kernel, self.stride, self.dilation), Pad(widths, zero)

        def back(y: Value) -> Value:
            return put(add(y))

        return back

    def adjoint(self, *types: TensorType) -> ValueFunction:
        return self._back(self.one(types, "adjoint"))

    def inverse(self, *types: TensorType) -> ValueFunction:
        """Every entry from the last window it is in; entries in none become 0."""
        x = self.one(types, "inverse")
        index = const(self.places(x.shape[self.axis]))
        put = core_ops["scatter"](self.axis, 0, "set")

        def undo(y: Value) -> Value:
            return put(broadcast_to(const(scalar(0, x.dtype), x.dtype), x.shape), index, y)

        return undo


class Fold(Op, core=True):
    """Overlap-add, the adjoint of unfold: ``(windows kernel) -> h`` with ``h`` as small as it can be."""

    name = "fold"
    axis: int
    kernel: int
    stride: int
    dilation: int

    check = Unfold.check
    span = Unfold.span
    adapt = Unfold.adapt

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        term = args[0][self.axis]
        rules.mark(term, "adds up windows of")
        count = out.shape[self.axis] and (out.shape[self.axis] - self.span) // self.stride + 1
        windows = rules.split(term, (count, self.kernel))[0]
        line = rules.line([windows] * self.stride, self.span - self.stride)
        return (*args[0][: self.axis], line, *args[0][self.axis + 1 :])

    def infer(self, x: TensorType) -> ValueType:
        if self.axis >= x.rank or x.shape[self.axis] % self.kernel:
            raise self.mismatch(f"axis {self.axis} is not made of windows of {self.kernel}", x)
        if x.dtype.name == "bool":
            raise self.mismatch("bools can't be added; cast first", x)
        shape = list(x.shape)
        windows = shape[self.axis] // self.kernel
        shape[self.axis] = (windows - 1) * self.stride + self.span if windows else 0
        return x.with_shape(tuple(shape))

    def run(self, x: Array) -> Array:
        t = self.infer(TensorType(x.shape, x.dtype.name))
        assert isinstance(t, TensorType)
        moved = np.moveaxis(x, self.axis, 0)
        windows = moved.shape[0] // self.kernel
        out = np.zeros((t.shape[self.axis], *moved.shape[1:]), accumulator(x.dtype))
        for k in range(self.kernel if windows else 0):
            start = k * self.dilation
            out[start : start + (windows - 1) * self.stride + 1 : self.stride] += moved[k :: self.kernel]
        return np.moveaxis(out, 0, self.axis).astype(x.dtype, copy=False)

    def _unfold(self) -> Unfold:
        return Unfold(self.axis, self.kernel, self.stride, self.dilation)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        """Every entry of a window but the first to come to its place.

        Entry k of window w comes to the place of entry k + stride / g of window w - dilation / g, g their common
        divisor, if there are such.
        """
        common = math.gcd(self.stride, self.dilation)
        windows = types[0].shape[self.axis] // self.kernel
        again = most(windows - self.dilation // common, 0) * max(self.kernel - self.stride // common, 0)
        return again * math.prod([n for i, n in enumerate(out.shape) if i != self.axis])

    def adjoint(self, *types: TensorType) -> ValueFunction:
        return self._unfold()

    def inverse(self, *types: TensorType) -> ValueFunction:
        """All of an entry in the first window that it is in, 0 in the others."""
        out = self.infer(self.one(types, "inverse"))
        assert isinstance(out, TensorType)
        unfold_ = self._unfold()
        places = unfold_.places(out.shape[self.axis])
        first = np.zeros(len(places), np.bool_)
        first[np.unique(places, return_index=True)[1]] = True
        line = first.reshape([-1 if i == self.axis else 1 for i in range(out.rank)])

        def undo(y: Value) -> Value:
            windows = unfold_(y)
            zeros = broadcast_to(const(scalar(0, y.dtype), y.dtype), windows.shape)
            return core_ops["where"]()(broadcast_to(const(line), windows.shape), windows, zeros)

        return undo


class Item(Op, core=True):
    """One result of an op that has several."""

    name = "item"
    is_view = True
    index: int

    def infer(self, x: Any) -> ValueType:
        if not isinstance(x, ResultTypes) or not 0 <= self.index < len(x):
            raise self.mismatch(f"there is no result {self.index}", x)
        return x[self.index]

    def run(self, x: Any) -> Array:
        return x[self.index]

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return (0,)


# Functions: what people write, normalised.


@patterned
def permute(x: Value, order: Sequence[int]) -> Value:
    """Reorder axes: axis ``i`` of the result is axis ``order[i]`` of ``x``; the identity gives ``x``."""
    normal = tuple(normal_axis(i, x.rank) for i in order)
    return x if normal == tuple(range(x.rank)) else Permute(normal)(x)


@patterned
def transpose(x: Value, axis0: int, axis1: int) -> Value:
    """Exchange two axes."""
    order = list(range(x.rank))
    a, b = normal_axis(axis0, max(x.rank, 1)), normal_axis(axis1, max(x.rank, 1))
    if x.rank:
        order[a], order[b] = b, a
    return permute(x, order)


@patterned
def group(x: Value, counts: Sequence[int]) -> Value:
    """Merge neighbouring axes, ``counts[i]`` of them into axis ``i``: ``a b c -> a (b c)`` is ``(1, 2)``."""
    return x if all(c == 1 for c in counts) and len(counts) == x.rank else Group(tuple(counts))(x)


@patterned
def ungroup(x: Value, axis: int, sizes: Sequence[int]) -> Value:
    """Split one axis into factors, one of which may be -1: ``a (b c) -> a b c``."""
    axis = normal_axis(axis, x.rank)
    known = math.prod(n for n in sizes if n != -1)
    if list(sizes).count(-1) > 1:
        raise AttributeValueError(f"ungroup: only one size may be -1, got {tuple(sizes)}")
    if -1 in sizes and (known == 0 or x.shape[axis] % known):
        raise AttributeValueError(f"ungroup: axis {axis} of {x.type} is not a multiple of {known}")
    factors = open_factors([sized(x.shape[axis], divisor=known) if n == -1 else n for n in sizes])
    if factors == (x.shape[axis],):
        return x
    return Ungroup(tuple(factors if i == axis else (n,) for i, n in enumerate(x.shape)))(x)


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
def unsqueeze(x: Value, axes: Sequence[int]) -> Value:
    """Insert axes of size 1 at positions ``axes`` of the result, split off a neighbour."""
    rank = x.rank + len(axes)
    new = {normal_axis(a, rank) for a in axes}
    if len(new) != len(axes):
        raise AttributeValueError(f"unsqueeze: an axis is named twice in {tuple(axes)}")
    if not new:
        return x
    return _inserting(tuple(int(i not in new) for i in range(rank)), x.shape)(x)


def _inserting(counts: tuple[int, ...], shape: tuple[int, ...]) -> Op:
    """What inserts axes of size 1 in a tensor of ``shape``: new ones have the count 0, those it has 1."""
    old_axes = [i for i, count in enumerate(counts) if count]
    new = [i for i, count in enumerate(counts) if not count]
    beside = {next((o for o in old_axes if o > i), old_axes[-1]) for i in new} if old_axes else set[int]()
    if any(shape[old_axes.index(o)] == 1 for o in beside) or not shape:
        return Group(counts)  # an ungroup would not tell which of several 1s is the new one
    sizes: list[list[int]] = [[]]
    old = iter(shape)
    for count in counts:
        if not count:
            sizes[-1].append(1)
        else:
            sizes[-1].append(next(old))
            sizes.append([])
    tail = sizes.pop()
    sizes[-1].extend(tail)
    return Ungroup(tuple(map(tuple, sizes)))


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


@patterned
def unfold(x: Value, axis: int, kernel: int, stride: int = 1, dilation: int = 1) -> Value:
    """Windows along an axis, laid end to end: ``h -> (windows kernel)``."""
    return Unfold(normal_axis(axis, x.rank), kernel, stride, dilation)(x)


@patterned
def fold(x: Value, axis: int, kernel: int, stride: int = 1, dilation: int = 1) -> Value:
    """Overlap-add ``(windows kernel) -> h``, the adjoint of :func:`unfold`."""
    return Fold(normal_axis(axis, x.rank), kernel, stride, dilation)(x)


@patterned
def item(x: Value, index: int) -> Value:
    """One result of an op that has several."""
    return Item(index)(x)


def items(x: Value) -> tuple[Value, ...]:
    """All results of an op that has several."""
    types: Any = x.type
    return tuple(Item(i)(x) for i in range(len(types)))
