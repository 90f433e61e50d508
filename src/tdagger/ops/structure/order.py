"""permute group ungroup: the ops that reorganise axes, and what is made of them (transpose, unsqueeze)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tdagger.errors import AttributeValueError
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
)
from tdagger.types import Size, Sized, TensorType, ValueType, sized


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
