"""A network at other sizes: every size-bearing attribute made anew, constants regenerated."""

from __future__ import annotations

from collections.abc import Mapping

from tdagger.analysis.axes import Axes
from tdagger.analysis.sizes import solve
from tdagger.errors import AxisError
from tdagger.op import Term
from tdagger.transform.change import Change, Where


def resize(axes: Axes, wanted: Mapping[Term, int], where: Where = lambda value: "") -> Change:
    """The change that gives some dimensions other sizes; ``.run()`` is the graph at those.

    What the other axes become follows from the equations of the axes; AxisError says which parameter, constant or
    op can't follow.
    """
    sizes = solve(axes, wanted)
    for axis, size in sizes.known.items():
        if size < 0 or (size == 0) != (axis.size == 0):
            raise AxisError(f"axis {axis} of {axis.size} entries would have {size}")
    return Change(axes, sizes, where=where)
