"""How many entries open axes must have, since an op takes so many by numbers: slices, windows, indices, the k largest.

And how many they may have, where a table has so many. Where an axis has others, the source raises somewhere inside; a
network that says so at its door says which axis it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.sizes import Sizes
from tdagger.analysis.axes.terms import Line
from tdagger.analysis.formulas.polynomial import Number, Point, Symbol, never_negative, symbols_of, variable
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.graph import Graph, result_types
from tdagger.interpret import computed
from tdagger.op import Term, Value
from tdagger.ops.source import Const, Iota
from tdagger.ops.structure import Bounds, Slice
from tdagger.types import Size, Sized

#: A number of entries in free axes, how large it must be, and what for.
Need = tuple[Number, int, str]


def long_enough(graph: Graph, own: Point) -> Iterator[Condition]:
    """Conditions of the sizes of a graph with open axes; those that its ``own`` sizes fulfil, which others may not.

    One for each axis: the least size from which on all that needs that axis alone has enough.
    """
    least: dict[Symbol, tuple[int, str]] = {}
    others: dict[Number, tuple[int, str]] = {}
    plain = _plain(graph)
    for value in graph.values:
        if isinstance(value.op, Slice):
            yield from _in_parts(value)
        for formula, needed, what in _needs(value, plain):
            lowest = 0 if _takes_fewer(value) else 1
            none = Point(dict.fromkeys(symbols_of(formula), lowest))
            if needed > own.of(formula) or (never_negative(formula - needed) and _has(none, formula, needed)):
                continue
            symbol, size = _least(formula, needed, own, lowest)
            if symbol is None:
                others[formula] = max(others.get(formula, (0, "")), (needed, what))
            elif size > lowest:
                least[symbol] = max(least.get(symbol, (0, "")), (size, what))
    for symbol, (size, what) in least.items():
        yield Condition(variable(symbol) - size, "positive", f"{symbol}: {size} at least are needed by {what}")
    for formula, (needed, what) in others.items():
        yield Condition(formula - needed, "positive", f"{formula}: {needed} at least are needed by {what}")


def few_enough(axes: Axes, free: Sizes) -> Iterator[Condition]:
    """Conditions of sizes: a table has the entries that are taken of it by a slice, or by numbers that count on.

    ``free`` are the sizes of all axes where some are open.
    """
    for value in axes.graph.values:
        if value in axes.static:
            continue
        if isinstance(value.op, Slice):
            for i, (bounds, term) in enumerate(zip(value.op.bounds, axes[value], strict=True)):
                if bounds is None or bounds[2] != 1 or isinstance(bounds[0], Sized) or isinstance(bounds[1], Sized):
                    continue
                start = free.line(axes.starts.get((value, i), Line((int(bounds[0]),))))
                yield from _within(axes[value.args[0]][i], start + free.of(term), free, "a slice")
        elif value.op.name in ("gather", "embedding") and value.args[1] in axes.static:
            table = axes[value.args[0]][int(value.op.attributes.get("axis", 0))]
            for i, (n, term) in enumerate(zip(value.args[1].shape, axes.at(value, 1), strict=True)):
                new = free.of(term)
                if n > 1 and not isinstance(new, int):
                    numbers = computed(value.args[1])
                    if (np.diff(numbers, axis=i) == 1).all():
                        yield from _within(table, int(numbers.max()) + 1 + new - n, free, value.op.name)


def _within(table: Term, needed: Number, free: Sizes, what: str) -> Iterator[Condition]:
    """That a dimension has so many entries, where it has a number of them and these are open."""
    n = free.of(table)
    if isinstance(n, int) and not isinstance(needed, int):
        yield Condition(n - needed, "positive", f"{needed}: {n} at most are there for {what}")


def _has(point: Point, formula: Number, needed: int) -> bool:
    """Whether a number is so large at some sizes; not where it divides by 0."""
    found = point.defined(formula)
    return found is not None and found >= needed


def _takes_fewer(value: Value) -> bool:
    """Whether an op takes what there is where it is less than it is told, and raises of nothing: a slice, no flip."""
    return isinstance(value.op, Slice) and all(b is None or b[2] > 0 for b in value.op.bounds)


#: Of so large axes the least size isn't looked for.
_LOOKED = 1 << 14


def _least(formula: Number, needed: int, own: Point, lowest: int) -> tuple[Symbol | None, int]:
    """The one axis that a number is made of, and the size from which on it is as large as needed; else no axis."""
    symbols = symbols_of(formula)
    symbol = min(symbols, key=lambda s: s.name)
    size = own.of(variable(symbol))
    if len(symbols) > 1 or size > _LOOKED:
        return None, 0
    while size > lowest and _has(Point({symbol: size - 1}), formula, needed):
        size -= 1
    return symbol, size


def _needs(value: Value, plain: set[Value]) -> Iterator[Need]:
    """What an op needs of the sizes that are open."""
    name = value.op.name
    if isinstance(value.op, Slice):
        yield from _of_slice(value)
    elif name in _WHOLE:
        for type_ in result_types(value):
            for n in type_.shape:
                if isinstance(n, Size):
                    yield n.formula, 1, name
    elif name in _TAKING:
        for n, needed in _TAKING[name](value):
            if isinstance(n, Size):
                yield n.formula, needed, name
    elif name in _INDEXED and value.args[1] in plain and value.args[1].type.size:
        n = value.args[0].shape[int(value.op.attributes.get("axis", 0))]
        if isinstance(n, Size):
            yield n.formula, int(computed(value.args[1]).max()) + 1, name


#: Ops that give at least one window, or one entry.
_WHOLE = frozenset({
    "convolution", "max_pool", "max_pool_with_indices", "avg_pool", "unfold",
})  # fmt: skip

#: Ops that read where an index says.
_INDEXED = frozenset({"gather", "scatter", "embedding"})


def _of_axis(value: Value) -> Iterator[tuple[int, int]]:
    f = value.op.attributes
    yield value.args[0].shape[f["axis"]], f["k"]


def _of_widths(more: int) -> Callable[[Value], Iterator[tuple[int, int]]]:
    def needs(value: Value) -> Iterator[tuple[int, int]]:
        for n, widths in zip(value.args[0].shape, value.op.attributes["widths"], strict=True):
            yield n, max(widths) + more if max(widths) > 0 else 0

    return needs


def _of_diagonal(value: Value) -> Iterator[tuple[int, int]]:
    """As many entries of both axes as it has, after those that the offset leaves out."""
    f = value.op.attributes
    for axis, left_out in ((f["axis0"], max(-f["offset"], 0)), (f["axis1"], max(f["offset"], 0))):
        yield value.args[0].shape[axis] - value.shape[-1], left_out


def _of_positions(value: Value) -> Iterator[tuple[int, int]]:
    yield math.prod(value.args[0].shape[2:]), 2


def _of_result(value: Value) -> Iterator[tuple[int, int]]:
    for n in value.shape:
        yield n, 0


def _of_scale(value: Value) -> Iterator[tuple[int, int]]:
    """A scale, where one is given: at least one entry is left."""
    scales: tuple[float | None, ...] = value.op.attributes.get("scale") or ()
    for n, scale in zip(value.args[0].shape[2:], scales, strict=False):
        if scale:
            least = math.ceil(1 / scale)
            yield n, least if int(least * scale) else least + 1


#: Of others, sizes and how large these must be: those of which an argument has so many entries.
_TAKING: dict[str, Callable[[Value], Iterator[tuple[int, int]]]] = {
    "diagonal": _of_diagonal,
    "topk": _of_axis,
    "kthvalue": _of_axis,
    "reflect_pad": _of_widths(1),
    "circular_pad": _of_widths(0),
    "instance_norm": _of_positions,
    "convolution_transpose": _of_result,
    "interpolate": _of_scale,
}


def _of_slice(value: Value) -> Iterator[Need]:
    """The entries that bounds count to, from the start or from the end."""
    for n, bounds in zip(value.args[0].shape, value.op.attributes["bounds"], strict=True):
        if isinstance(n, Size):
            yield from ((n.formula, needed, "a slice") for needed in counted_to(bounds))


def counted_to(bounds: Bounds | None) -> Iterator[int]:
    """How many entries the bounds of a slice count to, from the start or from the end."""
    for bound, more in zip(bounds or (), (1, 0), strict=False):
        if isinstance(bound, Sized):
            if bound.parts is None:
                yield -bound.plus if (bound.offsets, bound.divisor) == ((0,), 1) else 0
        else:
            yield 0 if isinstance(bound, Size) else bound + more


def _in_parts(value: Value) -> Iterator[Condition]:
    """That an axis that is cut into parts is cut into as many as it was."""
    for n, bounds in zip(value.args[0].shape, value.op.attributes["bounds"], strict=True):
        if bounds is None or not isinstance(n, Size):
            continue
        for bound in bounds[:2]:
            if isinstance(bound, Sized) and bound.parts is not None:
                how, by, count = bound.parts
                if how in ("split", "chunk"):
                    parts = -(-n.formula // by) if how == "split" else -(-n.formula // -(-n.formula // by))
                    text = f"{how}({by}) of {n.formula} entries must give {count} parts"
                    yield Condition(parts - count, "zero", text)


def _plain(graph: Graph) -> set[Value]:
    """What is made of constants alone, in which nothing follows an open axis."""
    found: set[Value] = set()
    for value in graph.values:
        sized = any(isinstance(n, Size) for t in result_types(value) for n in t.shape)
        if not sized and (isinstance(value.op, Const | Iota) or (value.args and all(a in found for a in value.args))):
            found.add(value)
    return found
