"""Removing an axis from every op of a network, and adding one."""

from __future__ import annotations

from collections.abc import Iterable

from tdagger.analysis.axes import Axes, Axis, resolve
from tdagger.analysis.sizes import show
from tdagger.errors import AxisError
from tdagger.op import Value
from tdagger.transform.change import Change, Where


def unbatch(axes: Axes, gone: Iterable[Axis], where: Where = lambda value: "") -> Change:
    """The change that takes some axes out of a graph; ``.run()`` is the graph without them.

    An axis can go if it is only carried: nothing sums over it, slices it, windows it or indexes it. AxisError names
    every op that does.
    """
    removed = frozenset(resolve(tuple(gone)))
    blocking = [m for m in axes.marks if any(a in removed for a in resolve(m.term))]
    if blocking:
        ops = dict.fromkeys(f"  {m.value!r} {m.how} {show(m.term)}{where(m.value)}" for m in blocking)
        shown = [*list(ops)[:8], *([f"  and {len(ops) - 8} more"] if len(ops) > 8 else [])]
        names = ", ".join(show((a,)) for a in removed)
        raise AxisError(f"axis {names} can't be removed: it is not only carried\n" + "\n".join(shown))
    return Change(axes, None, removed, where=where)


def batch(axes: Axes, size: int, inputs: Iterable[Value], where: Where = lambda value: "") -> Change:
    """The change that gives some inputs, and what depends on them, a new first dimension of ``size``, as vmap does."""
    return Change(axes, added=size, batched=frozenset(inputs), where=where)
