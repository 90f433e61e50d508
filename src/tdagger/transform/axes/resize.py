"""A network at other sizes: every size-bearing attribute made anew, constants regenerated."""

from __future__ import annotations

from collections.abc import Mapping

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.notation import show_term
from tdagger.analysis.axes.sizes import Sizes, solve
from tdagger.errors import AxisError
from tdagger.op import Term, Value
from tdagger.ops.structure import Slice
from tdagger.transform.axes.change import Change, Where
from tdagger.types import Sized


def resize(axes: Axes, wanted: Mapping[Term, int], where: Where = lambda value: "", empty: bool = False) -> Change:
    """The change that gives some dimensions other sizes; ``.run()`` is the graph at those.

    What the other axes become follows from the equations of the axes; AxisError says which parameter, constant or
    op can't follow. ``empty``: some may have no entries.
    """
    return at_sizes(axes, solve(axes, wanted), where, empty)


def at_sizes(axes: Axes, sizes: Sizes, where: Where = lambda value: "", empty: bool = False) -> Change:
    """The change that gives every axis the size that it has in ``sizes``."""
    for axis, size in sizes.known.items():
        if size < 0 or ((size == 0) != (axis.size == 0) and not empty):
            raise AxisError(f"axis {axis} of {axis.size} entries would have {size}")
    for value, term in axes.ones:
        if sizes.of(term) != 1:
            kept = f"which keeps it with {sizes.of(term)}"
            raise AxisError(f"{value!r}{where(value)} drops {show_term(term)} of 1 entry by squeeze, {kept}")
    _check_unrolled(axes, sizes, where)
    return Change(axes, sizes, where=where)


def _check_unrolled(axes: Axes, sizes: Sizes, where: Where) -> None:
    """AxisError if every entry of an axis that is resized was taken for itself: a loop over it ran at import."""
    taken: dict[tuple[Value, int], set[int]] = {}
    for value in axes.graph.values:
        if not isinstance(value.op, Slice):
            continue
        x = value.args[0]
        for i, bounds in enumerate(value.op.bounds):
            if bounds is None or x.shape[i] < 2 or len(range(*bounds)) != 1:
                continue
            if isinstance(bounds[0], Sized) and bounds[0].parts:  # a chunk, which has as many entries as it then has
                continue
            seen = taken.setdefault((x, i), set())
            seen.add(bounds[0])
            if len(seen) == x.shape[i] != sizes.of(axes[x][i]):
                raise AxisError(
                    f"{value!r}{where(value)} takes one entry of {show_term(axes[x][i])}, and so is every other of its "
                    f"{len(seen)} taken: a loop over them ran when the network was captured"
                )
