"""What is known of values where some entries go: numbers that no input is behind, and what a smaller network misses.

Of a value of the network whose removed entries carry constants (a bias, the shift of a norm, f(0) of an activation)
a :class:`Known` has for every entry whether it goes, whether it is a number that no input is behind, which one, and by
how much the same entry of the smaller network is less: what the sum of a contraction would have had of entries that
went. One rule for each core op; composites are walked into. Axes along which all is the same are kept with size 1,
whatever the value's size is, so that a layer takes as much work as its weight has numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, is_one, result_types
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import POINTWISE, Binary, Cast, Unary, Where
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Const, Iota
from tdagger.ops.structure import (
    Concat,
    Fold,
    Group,
    Item,
    Pad,
    Permute,
    Reduce,
    Repeat,
    Slice,
    Unfold,
    Ungroup,
)
from tdagger.types import DType, TensorType


@dataclass(frozen=True)
class Known:
    """Arrays that broadcast to a value's shape.

    ``gone``: whether an entry goes; ``sure``: whether it is a number, ``number``; ``missing``: by how much the smaller
    network's is less, of an entry that stays: NaN where that can't be told, as it depends on the inputs; ``edge``:
    whether it is another number at borders, where zeros are padded.
    """

    gone: Array
    sure: Array
    number: Array
    missing: Array
    edge: Array

    def each(self, change: Callable[[Array], Array]) -> Known:
        """The same change of all."""
        return Known(*map(change, self.arrays))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All of them."""
        return self.gone, self.sure, self.number, self.missing, self.edge

    def is_even(self, axis: int) -> bool:
        """Whether all is the same along an axis."""
        return all(a.shape[axis] == 1 for a in self.arrays)

    def flat(self) -> Known:
        """With size 1 along every axis along which all is the same."""
        return self.each(_flat)

    @property
    def has_borders(self) -> bool:
        """Whether something is another number at borders."""
        return bool(self.edge.any())

    @property
    def misses(self) -> bool:
        """Whether the smaller network's value differs where entries stay."""
        return bool(np.any(self.missing))

    @property
    def lost(self) -> bool:
        """Whether by how much can't be told."""
        return bool(np.isnan(self.missing).any())


def _flat(a: Array) -> Array:
    for axis, size in enumerate(a.shape):
        if size > 1:
            first = a.take([0], axis)
            if np.array_equal(a, np.broadcast_to(first, a.shape), equal_nan=a.dtype.kind == "f"):
                a = first
    return a


def _full(rank: int, value: Any) -> Array:
    return np.full((1,) * rank, value)


def unknown(t: TensorType, gone: Array | None = None) -> Known:
    """What depends on inputs."""
    rank, dtype = t.rank, np.float64 if t.dtype.is_float else t.dtype.numpy
    nothing = np.zeros((1,) * rank, dtype)
    no = _full(rank, False)
    return Known(no if gone is None else gone, no, nothing, _full(rank, 0.0), no)


def number(data: Array, gone: Array | None = None) -> Known:
    """What no input is behind; floats in double precision."""
    data = data.astype(np.float64) if DType.of(data.dtype).is_float else data
    rank = data.ndim
    no = _full(rank, False)
    return Known(no if gone is None else gone, ~no, data, _full(rank, 0.0), no)


def gone_of(keeps: Sequence[Array | None]) -> Array:
    """Whether entries go, of which of every axis stay."""
    out = _full(len(keeps), False)
    for axis, kept in enumerate(keeps):
        if kept is not None:
            out = out | ~kept.reshape([-1 if i == axis else 1 for i in range(len(keeps))])
    return out


class Walk:
    """The rules of core ops, and the walk into composites."""

    @nested
    def after(self, value: Value, args: Sequence[Any]) -> Any:
        """What is known of a value, of what is of its arguments: one, or several of an op with several results."""
        op = value.op
        if isinstance(op, Item):
            return args[0][op.index]
        if isinstance(op, Composite):
            if all(isinstance(a, Known) for a in args) and not op.has_branches:
                found = self._graph(op.body(*[_wide(a.type) for a in value.args]), args)
                return found[0] if is_one(value) else tuple(found)
        elif isinstance(op, Const):
            return number(op.data)
        elif is_one(value) and all(isinstance(a, Known) for a in args):
            return self._core(op, value, args)
        return self._hidden(value, args)

    def _graph(self, graph: Graph, args: Sequence[Known]) -> list[Any]:
        found: dict[Value, Any] = dict(zip(graph.inputs.values(), args, strict=True))
        returned = set(graph.outputs.values())
        summed = {v for v in graph.values if v not in returned and _is_summed_product(graph, v)}
        for value in graph.values:
            if value in found or value in summed:
                continue
            if value.args and value.args[0] in summed:
                found[value] = _contracted(value, [found[a] for a in value.args[0].args])
            else:
                found[value] = self.after(value, [found[a] for a in value.args])
        return [found[v] for v in graph.outputs.values()]

    def _hidden(self, value: Value, args: Sequence[Any]) -> Any:
        """What is known of an op that isn't looked into: nothing."""
        flat: list[Known] = [k for a in args for k in (cast(Any, a) if isinstance(a, tuple) else (a,))]
        told = any(k.misses or bool(k.gone.any()) for k in flat)
        out = [_lose(unknown(t), told) for t in result_types(value)]
        return out[0] if is_one(value) else tuple(out)

    def _core(self, op: Op, value: Value, args: Sequence[Known]) -> Known:
        x = args[0] if args else unknown(value.type)
        shape = value.args[0].shape if value.args else ()
        match op:
            case Iota():
                return number(op.run())
            case _ if isinstance(op, POINTWISE):
                return _pointwise(op, args)
            case Permute():
                return x.each(lambda a: a.transpose(op.order))
            case Group():
                return x.each(lambda a: _grouped(a, op.counts, shape))
            case Ungroup():
                return x.each(lambda a: _ungrouped(a, op.sizes))
            case Repeat():
                return x
            case Slice():
                bounds = op.bounds
                return x.each(lambda a: Slice(_where(bounds, a)).run(a))
            case Unfold():
                return x.each(lambda a: op.run(a) if a.shape[op.axis] > 1 else a)
            case Pad():
                return self._padded(op, value, x)
            case Concat():
                return _concatenated(op.axis, args, [a.shape for a in value.args])
            case Reduce():
                return _reduced(op, x, shape)
            case Gather():
                return _gathered(op, args, shape, value)
            case Fold():
                return _folded(op, value, x)
            case _:
                return self._run(op, value, args)

    def _padded(self, op: Pad, value: Value, x: Known) -> Known:
        """An axis along which all is the same stays so: where another number is padded, there are borders.

        But for numbers of entries that stay, which have to be the right ones everywhere.
        """
        shape = value.args[0].shape
        padded = [i for i, w in enumerate(op.widths) if w is not None and any(w)]
        stays = bool((x.sure & ~x.gone & (x.number != op.value)).any())
        even = [i for i in padded if x.is_even(i) and not stays]
        other = (x.gone & x.sure & (x.number != op.value)) | (x.missing != 0)
        if bool(other.any()):
            between = [i for i, w in enumerate(op.widths) if w is not None and w[2] and shape[i] > 1]
            if not set(even).isdisjoint(between):  # between others: not the same everywhere
                return _lose(unknown(value.type, x.gone), x.misses)
            if even and not np.isinf(op.value):  # a maximum takes no infinity
                x = replace(x, edge=x.edge | other)
        uneven = [i for i in padded if i not in even]

        def wider(a: Array, value: Any) -> Array:
            for i in uneven:
                a = np.repeat(a, shape[i], i) if a.shape[i] == 1 else a
            return Pad(tuple([w if i in uneven else None for i, w in enumerate(op.widths)]), value).run(a)

        if not uneven:
            return x
        return Known(
            wider(x.gone, False),
            wider(x.sure, True),
            wider(x.number, op.value),
            wider(x.missing, 0.0),
            wider(x.edge, False),
        )

    def _run(self, op: Op, value: Value, args: Sequence[Known]) -> Known:
        """Any other op: known if all is known that goes in, the same in the smaller network if nothing goes."""
        told = any(a.misses or bool(a.gone.any()) for a in args)
        if told or not all(bool(a.sure.all()) for a in args) or not args:
            return _lose(unknown(value.type), told)
        arrays = [np.broadcast_to(a.number, v.shape) for a, v in zip(args, value.args, strict=True)]
        return number(np.asarray(op.run(*arrays)))


def _wide(t: TensorType) -> TensorType:
    return t.with_dtype(DType.of("f64")) if t.dtype.is_float else t


def _lose(x: Known, lost: bool) -> Known:
    return replace(x, missing=x.missing + np.nan) if lost else x


# --- elementwise -------------------------------------------------------------------------------------------


def _numbers(op: Op, arrays: Sequence[Array]) -> Array:
    with np.errstate(all="ignore"):
        if isinstance(op, Cast) and op.dtype.is_float:
            return np.asarray(arrays[0], np.float64)
        return np.asarray(op.run(*np.broadcast_arrays(*arrays)))


def _pointwise(op: Op, args: Sequence[Known]) -> Known:
    gone, edge = (reduce(np.logical_or, each) for each in zip(*[(a.gone, a.edge) for a in args], strict=True))
    sure = reduce(np.logical_and, [a.sure for a in args])
    found = _numbers(op, [a.number for a in args])
    if isinstance(op, Binary) and op.kind == "multiply":  # times 0
        for a in args:
            zero = a.sure & (a.number == 0) & ~a.edge
            sure, edge = sure | zero, edge & ~zero
    found = np.where(sure, found, np.zeros_like(found))
    if not any(a.misses for a in args):
        return Known(gone, sure, found, _full(gone.ndim, 0.0), edge)
    missing = _linear(op, args)
    exact = reduce(np.logical_and, [a.sure for a in args])
    if exact.any() and found.dtype.kind == "f":
        less = _numbers(op, [a.number - a.missing if a.misses else a.number for a in args])
        missing = np.where(exact, found - less, missing)
    return Known(gone, sure, found, np.where(gone, 0.0, missing), edge)


def _linear(op: Op, args: Sequence[Known]) -> Array:
    """What the result misses where what it is made of may depend on inputs: NaN unless the op is linear in it."""
    missing = [a.missing for a in args]
    kind = getattr(op, "kind", "")
    match op:
        case Binary() if kind == "add":
            return missing[0] + missing[1]
        case Binary() if kind == "subtract":
            return missing[0] - missing[1]
        case Binary() if kind == "multiply":
            (a, b), (u, v) = args, missing
            first = np.where(u == 0, 0.0, np.where(b.sure & (v == 0), u * b.number, np.nan))
            second = np.where(v == 0, 0.0, np.where(a.sure & (u == 0), v * a.number, np.nan))
            return first + second
        case Binary() if kind == "divide":
            (_, b), (u, v) = args, missing
            with np.errstate(all="ignore"):
                return np.where((u == 0) & (v == 0), 0.0, np.where(b.sure & (v == 0), u / b.number, np.nan))
        case Unary() if kind == "neg":
            return -missing[0]
        case Cast() if op.dtype.is_float:
            return missing[0]
        case Where():
            chosen = np.where(args[0].number.astype(bool), missing[1], missing[2])
            same = (missing[1] == 0) & (missing[2] == 0)
            return np.where(same, 0.0, np.where(args[0].sure, chosen, np.nan))
        case _:
            return np.where(reduce(np.logical_and, [m == 0 for m in missing]), 0.0, np.nan)


# --- structure ---------------------------------------------------------------------------------------------


def _grouped(a: Array, counts: Sequence[int], shape: tuple[int, ...]) -> Array:
    full: list[int] = []
    into: list[int] = []
    at = 0
    for count in counts:
        own = range(at, at + count)
        even = all(a.shape[i] == 1 for i in own)
        full += [1 if even else shape[i] for i in own]
        into.append(math.prod(full[at : at + count]))
        at += count
    return np.broadcast_to(a, full).reshape(into)


def _ungrouped(a: Array, sizes: Sequence[Sequence[int]]) -> Array:
    return a.reshape([n for m, own in zip(a.shape, sizes, strict=True) for n in (own if m > 1 else (1,) * len(own))])


def _where(bounds: Sequence[Any], a: Array) -> tuple[Any, ...]:
    return tuple([b if m > 1 else None for b, m in zip(bounds, a.shape, strict=True)])


def _concatenated(axis: int, args: Sequence[Known], shapes: Sequence[tuple[int, ...]]) -> Known:
    def joined(arrays: list[Array]) -> Array:
        wide = [max(sizes) for sizes in zip(*[a.shape for a in arrays], strict=True)]
        out = [
            np.broadcast_to(a, [s[axis] if i == axis else n for i, n in enumerate(wide)])
            for a, s in zip(arrays, shapes, strict=True)
        ]
        return np.concatenate(out, axis)

    return Known(*[joined(list(each)) for each in zip(*[a.arrays for a in args], strict=True)]).flat()


def _reduced(op: Reduce, x: Known, shape: tuple[int, ...]) -> Known:
    axes = op.axes
    gone, sure, value, missing, edge = np.broadcast_arrays(*x.arrays)
    times = math.prod(shape[i] for i in axes if gone.shape[i] == 1)
    out_gone, out_sure = np.asarray(gone.all(axes, keepdims=True)), np.asarray(sure.all(axes, keepdims=True))
    if op.kind == "sum":
        left = np.where(gone, np.where(sure, value, np.nan), missing).sum(axes, keepdims=True) * times
        total = value.sum(axes, keepdims=True) * times
    else:
        total = Reduce(op.kind, axes).run(value)
        total = total**times if op.kind == "prod" else total
        even = all(gone.shape[i] == 1 for i in axes) and op.kind in ("max", "min")
        some = (gone | (missing != 0)).any(axes, keepdims=True)
        left = missing if even else np.where(some, np.nan, 0.0)
        if out_sure.any() and value.dtype.kind == "f" and some.any() and not even:
            neutral = {"prod": 1.0, "max": -np.inf, "min": np.inf}[op.kind]
            less = Reduce(op.kind, axes).run(np.where(gone, neutral, value - missing))
            left = np.where(out_sure & (times == 1), total - less, left)
    found = np.where(out_sure, total, np.zeros_like(total))
    out_edge = np.asarray(edge.any(axes, keepdims=True))
    return Known(out_gone, out_sure, found, np.where(out_gone, 0.0, left), out_edge)


def _is_summed_product(graph: Graph, value: Value) -> bool:
    """Whether a value is of products that sums alone read: then its entries need not all be there at once."""
    is_product = isinstance(value.op, Binary) and value.op.kind == "multiply"
    return is_product and all(isinstance(u.op, Reduce) and u.op.kind == "sum" for u in graph.users[value])


def _contracted(value: Value, args: Sequence[Known]) -> Known:
    """A sum of products, by matrix products: of products there may be many more than there are numbers.

    What :func:`_reduced` makes of what :func:`_pointwise` makes is all sums of something of the one times something of
    the other.
    """
    op, product = cast(Reduce, value.op), value.args[0]
    if not product.dtype.is_float:
        return _reduced(op, _pointwise(product.op, args), product.shape)
    one, other = args

    def summed(*terms: tuple[Array, Array]) -> Array:
        return reduce(np.add, [_summed(a, b, op.axes, product.shape) for a, b in terms])

    def parts(x: Known) -> tuple[Array, ...]:
        """Numbers of what goes, of what stays; by how much that is less; where it is, and where nobody knows."""
        lost = np.isnan(x.missing) & ~x.gone
        less = np.where(x.gone | lost, 0.0, x.missing)
        return np.where(x.gone, x.number, 0.0), np.where(x.gone, 0.0, x.number), less, (less != 0) | lost, lost

    (gone, stays, less, differs, lost), (gone2, stays2, less2, differs2, lost2) = parts(one), parts(other)
    some, some2 = ~(one.sure & (one.number == 0) & ~one.edge), ~(other.sure & (other.number == 0) & ~other.edge)
    unsure = (~one.sure, some2), (some, ~other.sure)  # but for what is times 0
    out_gone = summed((~one.gone, ~other.gone)) == 0
    out_sure = summed(*unsure) == 0
    untold = summed(
        *[(one.gone & a, b) for a, b in unsure],
        *[(~one.gone & a, other.gone & b) for a, b in unsure],
        (lost, ~other.gone), (~one.gone, lost2),
        (differs, ~other.sure & ~other.gone), (~one.sure & ~one.gone, differs2),
        (differs & ~one.sure, differs2), (differs, differs2 & ~other.sure),
    )  # fmt: skip
    missing = summed((gone, other.number), (stays, gone2), (less, stays2), (stays, less2), (-less, less2))
    missing = np.where(out_gone, 0.0, np.where(untold > 0, np.nan, missing))
    number = np.where(out_sure, summed((one.number, other.number)), 0.0)
    return Known(out_gone, out_sure, number, missing, summed((one.edge, some2), (some, other.edge)) > 0)


def _summed(one: Array, other: Array, axes: Sequence[int], shape: tuple[int, ...]) -> Array:
    """The sum over axes of the products of what broadcasts to a shape, with size 1 along these."""
    if not one.any() or not other.any():
        return np.zeros((1,) * len(shape))
    both = (one.astype(np.float64), other.astype(np.float64))
    times = math.prod([shape[i] for i in axes if one.shape[i] == other.shape[i] == 1])
    a, b = [
        x.sum(tuple([i for i in axes if x.shape[i] > 1 and y.shape[i] == 1]), keepdims=True)
        for x, y in (both, both[::-1])
    ]
    wide = np.broadcast_shapes(a.shape, b.shape)
    inner = [i for i in axes if wide[i] > 1]
    rows = [i for i in range(len(wide)) if i not in inner and b.shape[i] == 1]
    columns = [i for i in range(len(wide)) if i not in inner and a.shape[i] == 1 and i not in rows]
    batch = [i for i in range(len(wide)) if i not in (*inner, *rows, *columns)]

    def matrices(x: Array, *groups: list[int]) -> Array:
        sizes = [x.shape[i] for i in batch]
        order = [*batch, *groups[0], *groups[1]]
        rest = [i for i in range(x.ndim) if i not in order]
        return x.transpose(*order, *rest).reshape(*sizes, *[math.prod([x.shape[i] for i in g]) for g in groups])

    found = matrices(a, rows, inner) @ matrices(b, inner, columns)
    order = [*batch, *rows, *columns, *inner]
    sizes = [1 if i in inner else wide[i] for i in order]
    return found.reshape(sizes).transpose(np.argsort(order)) * times


def _folded(op: Fold, value: Value, x: Known) -> Known:
    if x.is_even(op.axis):  # how many windows add up isn't the same everywhere
        return _lose(unknown(value.type, x.gone), x.misses) if x.number.any() or x.misses else x
    size = value.args[0].shape[op.axis]

    def added(a: Array) -> Array:
        return op.run(np.repeat(a, size, op.axis) if a.shape[op.axis] == 1 else a)

    gone, sure, found, missing, edge = np.broadcast_arrays(*x.arrays)
    sure = added((~sure).astype(np.float64)) == 0
    return Known(
        added((~gone).astype(np.float64)) == 0, sure, np.where(sure, added(found), 0.0), added(missing),
        added(edge.astype(np.float64)) > 0,
    )  # fmt: skip


def _gathered(op: Gather, args: Sequence[Known], shape: tuple[int, ...], value: Value) -> Known:
    x, index = args
    inner = value.args[1].rank - op.batch
    fixed = bool(index.sure.all()) and not op.batch and not index.misses
    if not fixed and not x.is_even(op.axis):
        # places that depend on inputs: known where all that may be taken is the same
        first = x.number.take([0], op.axis)
        same = x.sure.all(op.axis, keepdims=True) & (x.number == first).all(op.axis, keepdims=True)
        went = np.asarray(x.gone.all(op.axis, keepdims=True))
        misses = x.missing.take([0], op.axis)
        misses = np.where((x.missing == misses).all(op.axis, keepdims=True), misses, np.nan)
        edge = np.asarray(x.edge.any(op.axis, keepdims=True))
        x = Known(went, same, np.where(same, first, np.zeros_like(first)), np.where(went, 0.0, misses), edge)
    places = np.broadcast_to(index.number, value.args[1].shape) if fixed else None

    def taken(a: Array) -> Array:
        if a.shape[op.axis] > 1 and places is not None:
            return op.run(a, places)
        return a.reshape((*a.shape[: op.axis], *(1,) * inner, *a.shape[op.axis + 1 :]))

    return x.each(taken)
