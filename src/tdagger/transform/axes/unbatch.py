"""Removing an axis from every op of a network, and adding one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.notation import show_term
from tdagger.analysis.axes.terms import Axis, Mark, resolve
from tdagger.errors import AxisError
from tdagger.op import Terms, Value
from tdagger.transform.axes.change import Change, Where


def unbatch(axes: Axes, gone: Iterable[Axis], where: Where = lambda value: "") -> Change:
    """The change that takes some axes out of a graph; ``.run()`` is the graph without them.

    An axis can go if it is only carried: nothing sums over it, slices it, windows it, indexes it or sets its entries
    against one another. AxisError names every op that does.
    """
    removed = frozenset(resolve(tuple(gone)))
    blocking = [*_marked(axes, removed), *_regrouped(axes, removed), *_crossed(axes, removed)]
    blocking = blocking or list(_reordered(axes, removed))
    if blocking:
        ops = dict.fromkeys(f"  {m.value!r} {m.how} {show_term(m.term)}{where(m.value)}" for m in blocking)
        shown = [*list(ops)[:8], *([f"  and {len(ops) - 8} more"] if len(ops) > 8 else [])]
        names = ", ".join(show_term((a,)) for a in removed)
        raise AxisError(f"axis {names} can't be removed: it is not only carried\n" + "\n".join(shown))
    return Change(axes, None, removed, where=where)


def is_carried(axes: Axes, axis: Axis) -> bool:
    """Whether an axis is only carried, and no weight has its size."""
    if axis.rigid:
        return False
    with suppress(AxisError):
        unbatch(axes, (axis,))
        return True
    return False


def _marked(axes: Axes, removed: frozenset[Axis]) -> Iterator[Mark]:
    """What doesn't just carry the axes, that of values made of constants alone too, where it is for these axes."""
    return (mark for mark in axes.used_marks() if any(a in removed for a in resolve(mark.term)))


def _regrouped(axes: Axes, removed: frozenset[Axis]) -> Iterator[Mark]:
    """What takes the axes together with others apart in another way."""
    for value, term, _ in axes.opaque:
        if any(a in removed for a in resolve(term)):
            yield Mark(value, term, "regroups")


def _reordered(axes: Axes, removed: frozenset[Axis]) -> Iterator[Mark]:
    """Results whose entries of the axis lie in another order than those of the inputs: regrouped rows, transposed."""

    def order(terms: Terms) -> list[Axis]:
        return [a for term in terms for a in term if a in removed and a.size != 1]

    before = {tuple(found) for terms in axes.inputs if (found := order(terms))}

    def as_in(after: tuple[Axis, ...]) -> bool:
        """Whether every input that has some of these axes has them so; others may have a batch of their own."""
        return all(own == after for own in before if not set(own).isdisjoint(after))

    for value in (*axes.graph.outputs.values(), *axes.graph.updates.values()):
        for terms in axes.of(value):
            after = tuple(order(terms))
            if after and not as_in(after):
                yield Mark(value, after, "gives in another order the entries of")


def _crossed(axes: Axes, removed: frozenset[Axis]) -> Iterator[Mark]:
    """What sets the entries of an axis against one another: its result has the axis twice."""
    twice: set[Value] = set()
    for value in axes.graph.values:
        found = [a for terms in axes.of(value) for a in _repeated(terms, removed)]
        found = [a for a in found if a.size != 1 or not axes.assume_size_one]
        if found:
            twice.add(value)
            if not any(a in twice for a in value.args):
                yield Mark(value, tuple(found[:1]), "sets against one another the entries of")


def _repeated(terms: Terms, removed: frozenset[Axis]) -> list[Axis]:
    counts = Counter(a for term in terms for a in term if a in removed)
    return [a for a, n in counts.items() if n > 1]


def batch(axes: Axes, size: int, inputs: Iterable[Value], where: Where = lambda value: "") -> Change:
    """The change that gives some inputs, and what depends on them, a new first dimension of ``size``, as vmap does."""
    return Change(axes, added=size, batched=frozenset(inputs), where=where)
