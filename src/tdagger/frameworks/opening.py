"""Files with open sizes: what a writer makes at several sizes of the axes, and numbers that follow from these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, Generic, NamedTuple, TypeVar, cast

from tdagger.analysis.formulas.polynomial import Generator, Point, Symbol, divided, symbols_of, terms_of, variable
from tdagger.analysis.formulas.polynomial import Number as Formula
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.errors import AxisError
from tdagger.graph import result_types
from tdagger.names import shown
from tdagger.tensordag import TensorDAG
from tdagger.transform.axes.open import symbol_of
from tdagger.types import Size

#: What a writer calls a tensor.
T = TypeVar("T", int, str)


class Number(NamedTuple):
    """A number that follows from the sizes of axes: a formula in them.

    >>> number_of([31, 61, 101], [{"h": 3}, {"h": 6}, {"h": 10}], "it")
    Number(formula=1 + 10*h)
    """

    formula: Formula

    @property
    def axes(self) -> set[str]:
        """The axes that it depends on."""
        return {s.name for s in symbols_of(self.formula)}

    def at(self, sizes: Mapping[str, int]) -> int:
        """Its value at some sizes."""
        return Point({s: sizes[s.name] for s in symbols_of(self.formula)}).of(self.formula)


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


class Open(NamedTuple):
    """A network whose axes are to be open: their sizes now, formulas of all its sizes, what these have to fulfil."""

    usual: Mapping[str, int]
    formulas: Sequence[Formula] = ()
    fixed: frozenset[int] = frozenset()
    conditions: Sequence[Condition] = ()
    can: Callable[[Mapping[str, int]], bool] = lambda sizes: True

    @classmethod
    def of(cls, dag: TensorDAG, usual: Mapping[str, int]) -> Open:
        """Of a network."""
        found = dag.open_axes.opened(dag.axes(), list(usual), dag.origins)[0]
        sizes = [n for v in found.graph.values for t in result_types(v) for n in t.shape]
        sizes += [n for v in found.graph.values for n in _numbers(v.op.attributes)]
        formulas: dict[Formula, None] = {n.formula: None for n in sizes if isinstance(n, Size)}
        fixed = frozenset([int(n) for n in sizes if not isinstance(n, Size)])

        def can(sizes: Mapping[str, int]) -> bool:
            try:
                dag.resize(**cast(Any, sizes))
            except AxisError:
                return False
            return True

        return cls(usual, list(formulas), fixed, found.conditions, can)

    def points(self) -> list[dict[str, int]]:
        """Sizes to write the network at, which tell a number that follows from one axis from all others.

        Multiples of what there is; and, where the network can have it, a size near one of these, which tells what is
        rounded down. None is a number that the network has anyway.

        >>> Open({"b": 1}).points()
        [{'b': 2}, {'b': 3}, {'b': 5}]
        """
        multiples = {n: self._multiples(n) for n in self.usual}
        first, second, last = ({n: found[i] for n, found in multiples.items()} for i in range(3))
        points = [first, *[{**first, n: k} for n, k in second.items()], last]
        for name, size in self.usual.items():
            near = [n for n in range(first[name] + 1, first[name] + size) if n not in self.fixed]
            fitting = (n for n in near if self._fits({**first, name: n}))
            points += [{**first, name: n} for n in islice(fitting, 1)]
        return points

    def _multiples(self, name: str) -> list[int]:
        """Three multiples of a size that the network can have, no numbers of its own if there are such."""
        tried = [self.usual[name] * k for k in (2, 3, 5, 4, 7, 6, 11, 13)]
        clear = [n for n in tried if n not in self.fixed]
        found: list[int] = []
        for n in [*clear, *[n for n in tried if n not in clear]]:
            if self._fits({**self.usual, name: n}):
                found.append(n)
            if len(found) == 3:
                return found
        return tried[:3]  # the resize says what is asked of it

    def _fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether sizes fulfil what is asked of them."""
        known = [c for c in self.conditions if {s.name for s in symbols_of(c.number)} <= sizes.keys()]
        points = [Point({s: sizes[s.name] for s in symbols_of(c.number)}) for c in known]
        return all(c.holds(p) for c, p in zip(known, points, strict=True)) and self.can(sizes)

    def varies(self, sizes: Mapping[str, int]) -> frozenset[int]:
        """The numbers that the sizes of the network's open dimensions are there."""
        return frozenset([Number(f).at(sizes) for f in self.formulas]) | frozenset(sizes.values())


def _numbers(thing: Any) -> Iterator[int]:
    """The whole numbers in the attributes of an op."""
    if isinstance(thing, Mapping):
        thing = tuple(cast("Mapping[Any, Any]", thing).values())
    if isinstance(thing, range):
        thing = (thing.start, thing.stop)
    if isinstance(thing, tuple | list):
        for one in cast("Sequence[Any]", thing):
            yield from _numbers(one)
    elif isinstance(thing, int) and not isinstance(thing, bool):
        yield thing


def number_of(
    values: Sequence[int], points: Sequence[Mapping[str, int]], what: str, formulas: Sequence[Formula] = ()
) -> Number | int:
    """What a number is of the axes' sizes, by what it is at some of them; AxisError if that isn't seen.

    ``formulas`` are those that are known of the network; else it is a multiple of a product of sizes, or a multiple of
    one and a number more.

    >>> number_of([6, 9, 15], [{"b": 2}, {"b": 3}, {"b": 5}], "it")
    Number(formula=3*b)
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
    variables = [variable(symbol_of(a)) for a in axes]
    tried: list[Formula] = []
    for power in (1, 2):
        product: Any = 1
        for a in variables * power:
            product = product * a
        factor = Number(product).at(points[0])
        tried += [product * (values[0] // factor)] if values[0] % factor == 0 else []
    if len(axes) == 1:
        a = axes[0]
        other = next(i for i, s in enumerate(points) if s[a] != points[0][a])
        step, rest = divmod(values[other] - values[0], points[other][a] - points[0][a])
        tried += [] if rest else [variables[0] * step + (values[0] - step * points[0][a])]
    for formula in (*tried, *formulas):
        own = [Number(formula).at(s) for s in points]
        if own == list(values):
            return Number(formula)
        more = {v - n for v, n in zip(values, own, strict=True)}
        if len(more) == 1 and len(set(own)) > 1:  # what is padded
            return Number(formula + more.pop())
    for formula in formulas:
        own = [Number(formula).at(s) for s in points]
        parts = {v // n if n and not v % n else None for v, n in zip(values, own, strict=True)}
        if len(parts) == 1 and len(set(own)) > 1 and (part := parts.pop()) is not None:
            return Number(formula * part)
    told = ", ".join(map(str, values))
    raise AxisError(f"{what} is {told} at the sizes {[dict(s) for s in points]}, which no program can say")


def halves_of(values: Sequence[float]) -> list[int] | None:
    """How many halves some floats are; None if one isn't a whole number of them.

    A sum is divided by a count, and places in an image are multiples of half its size.

    >>> halves_of([3.5, 4.0]), halves_of([2.6])
    ([7, 8], None)
    """
    halves = [2 * float(v) for v in values]
    return [int(h) for h in halves] if all(h.is_integer() for h in halves) else None


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

    def two(self, function: str, a: T, b: T) -> T:
        """The floor of a quotient, the smaller or the larger (``floor``, ``min``, ``max``) of vectors of one."""
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
        return self._formula(n.formula)

    def _formula(self, formula: Formula) -> T:
        if isinstance(formula, int):
            return self.constant([formula])
        terms = terms_of(formula)
        total: T | None = None
        for monomial in sorted(terms, key=len, reverse=True):
            factors = [self._generator(g) for g in monomial]
            if terms[monomial] != 1 or not factors:
                factors.append(self.constant([terms[monomial]]))
            found = factors[0]
            for other in factors[1:]:
                found = self.product(found, other)
            total = found if total is None else self.total(total, found)
        return self.constant([0]) if total is None else total

    def _generator(self, g: Generator) -> T:
        if isinstance(g, Symbol):
            return self.size(g.name)
        if g.function not in ("floor", "min", "max"):
            raise AxisError(f"no file can work out {g}")
        return self.two(g.function, *map(self._formula, g.args))

    def size(self, axis: str) -> T:
        """The size of an axis: a dimension of an input, or what follows from one; AxisError if none tells it."""
        own = variable(symbol_of(axis))
        for name, dims in self.dims.items():
            if (found := Number(own)) in dims:
                return self.dimension(name, dims.index(found))
        for name, dims in self.dims.items():
            for i, d in enumerate(dims):
                parts = divided(d.formula, own) if isinstance(d, Number) else None
                if isinstance(parts, int):
                    return self.two("floor", self.dimension(name, i), self.constant([parts]))
        raise AxisError(f"no input has axis {shown(axis)} as a dimension of its own")
