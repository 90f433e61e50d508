"""Files with open sizes: what a writer makes at several sizes of the axes, and numbers that follow from these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

from tdagger.errors import AxisError
from tdagger.names import shown
from tdagger.tensordag import TensorDAG

#: What a writer calls a tensor.
T = TypeVar("T", int, str)


class Number(NamedTuple):
    """``factor`` times sizes of axes, and ``more``.

    >>> Number(2, ("h", "w"), 1).at({"h": 3, "w": 5})
    31
    """

    factor: int
    axes: tuple[str, ...]
    more: int

    def at(self, sizes: Mapping[str, int]) -> int:
        """Its value at some sizes."""
        out = self.factor
        for a in self.axes:
            out *= sizes[a]
        return out + self.more


def sizes_of(dag: TensorDAG, names: Iterable[str]) -> dict[str, int]:
    """The sizes that axes have now which a file is to leave open; AxisError for those that can't be open."""
    asked = list(dict.fromkeys(names))
    free = dag.open_axes if asked else None
    for name in asked:
        if free is not None and name not in free.names:
            why = free.why.get(name)
            told = f": {why}" if why else f"; those that can be are {', '.join(map(shown, free.names)) or 'none'}"
            raise AxisError(f"{shown(dag.name)}: axis {shown(name)} can't be of any size{told}")
    return {n: dag.axes().sizes[n] for n in asked}


def points_of(usual: Mapping[str, int]) -> list[dict[str, int]]:
    """Sizes to write a network at, which tell a number that follows from one axis from all others.

    >>> points_of({"b": 1})
    [{'b': 2}, {'b': 3}, {'b': 5}]
    """
    sizes = [{n: 2 * k for n, k in usual.items()}]
    sizes += [{**sizes[0], n: 3 * k} for n, k in usual.items()]
    sizes.append({n: 5 * k for n, k in usual.items()})
    return sizes


def number_of(values: Sequence[int], points: Sequence[Mapping[str, int]], what: str) -> Number | int:
    """What a number is of the axes' sizes, by what it is at some of them; AxisError if that isn't seen.

    >>> number_of([6, 9, 15], [{"b": 2}, {"b": 3}, {"b": 5}], "it")
    Number(factor=3, axes=('b',), more=0)
    """
    if len(set(values)) == 1:
        return int(values[0])
    axes: list[str] = []
    for a in points[0]:
        for size, n in zip(points, values, strict=True):
            others = all(size[b] == points[0][b] for b in points[0] if b != a)
            if others and size[a] != points[0][a] and n != values[0]:
                axes.append(a)
                break
    for power in (1, 2):
        factor = Number(1, tuple(axes) * power, 0).at(points[0])
        if values[0] % factor == 0:
            found = Number(values[0] // factor, tuple(axes) * power, 0)
            if [found.at(s) for s in points] == list(values):
                return found
    if len(axes) == 1:
        a = axes[0]
        other = next(i for i, s in enumerate(points) if s[a] != points[0][a])
        step, rest = divmod(values[other] - values[0], points[other][a] - points[0][a])
        found = Number(step, (a,), values[0] - step * points[0][a])
        if not rest and [found.at(s) for s in points] == list(values):
            return found
    told = ", ".join(map(str, values))
    raise AxisError(f"{what} is {told} at the sizes {[dict(s) for s in points]}, which no program can say")


class Worked(Generic[T]):
    """Numbers that a file works out of the shapes of its inputs when it is run: vectors of i32, made by a writer."""

    #: What the dimensions of inputs are of the axes' sizes.
    dims: dict[str, tuple[Number | int, ...]]

    def constant(self, numbers: Sequence[int]) -> T:
        """A constant vector."""
        raise NotImplementedError

    def dimension(self, name: str, i: int) -> T:
        """A dimension of an input, as a vector of one."""
        raise NotImplementedError

    def product(self, a: T, b: T) -> T:
        """Of vectors of one."""
        raise NotImplementedError

    def total(self, a: T, b: T) -> T:
        """Of vectors of one."""
        raise NotImplementedError

    def end_to_end(self, parts: Sequence[T], count: int) -> T:
        """Vectors as one, of ``count`` numbers."""
        raise NotImplementedError

    def vector(self, numbers: Sequence[Number | int]) -> T:
        """Numbers as one vector."""
        parts: list[T] = []
        for is_open, some in groupby(numbers, lambda n: isinstance(n, Number)):
            if is_open:
                parts += [self.number(n) for n in some if isinstance(n, Number)]
            else:
                parts.append(self.constant([n for n in some if isinstance(n, int)]))
        if not parts:
            return self.constant(())
        return parts[0] if len(parts) == 1 else self.end_to_end(parts, len(numbers))

    def number(self, n: Number) -> T:
        """A number as a vector of one."""
        found, *rest = [self.size(a) for a in n.axes]
        for other in rest:
            found = self.product(found, other)
        found = self.product(found, self.constant([n.factor])) if n.factor != 1 else found
        return self.total(found, self.constant([n.more])) if n.more else found

    def size(self, axis: str) -> T:
        """The size of an axis: a dimension of an input; AxisError if it is none's alone."""
        for name, dims in self.dims.items():
            if (own := Number(1, (axis,), 0)) in dims:
                return self.dimension(name, dims.index(own))
        raise AxisError(f"no input has axis {shown(axis)} as a dimension of its own")
