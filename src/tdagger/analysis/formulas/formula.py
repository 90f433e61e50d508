"""What a network costs as exact formulas in its free axes: flops, bytes, reads and writes.

The ops' own rules are run on shapes of polynomials (:mod:`tdagger.analysis.formulas.symbolic`); no rule is written
twice. A formula holds where nothing happens to coincide: a slice of all entries moves nothing, two iotas of one size
are one value. A :class:`CostFunction` looks where it is asked, and takes the formula that holds there.

>>> import tdagger as td
>>> x, w = td.input("x", (2, 7, 3)), td.parameter("w", (5, 3))
>>> graph = td.Graph({"x": x}, {"y": td.softmax(td.linear(x, w), axis=2)})
>>> f = cost_function(graph, "flops")
>>> f, f(b=8), f(b=8, n=4096)
(flops(b, n) = 48*b*n, 2688, 1572864)
>>> f.expression
48*b*n
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import Sizes, solve
from tdagger.analysis.axes.terms import resolve
from tdagger.analysis.formulas.polynomial import (
    Atom,
    Generator,
    Number,
    Point,
    Poly,
    Symbol,
    never_negative,
    terms_of,
    variable,
)
from tdagger.analysis.formulas.symbolic import Branch, Condition, FreeSizes, Walk
from tdagger.errors import AttributeValueError, AxisError, UnsupportedError
from tdagger.graph import Graph, flops, traffic
from tdagger.op import Term, Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.ops.structure import Slice
from tdagger.types import Sized, entries

#: What can be counted, and what it means.
COSTS = {
    "flops": "arithmetic operations on elements",
    "bytes": "bytes of parameters, buffers and constants",
    "reads": "bytes read",
    "writes": "bytes written",
    "elements read": "elements read",
    "elements written": "elements written",
}

#: Gives the graph with inputs of other shapes.
Resizing = Callable[[Mapping[str, tuple[int, ...]]], Graph]


class Costs:
    """The costs of a graph as formulas in its free axes: ``symbols``, by name.

    ``names`` are the dimensions that may be free, by name; those of which another size is ruled out stay as they are.
    ``uneven`` are free, but no formula holds for them: ops depend on them in some way that their axes don't tell, or
    attributes hold their size. Costs are counted anew for them. ``weights`` are names for axes of parameters.
    ``resized`` gives the graph with inputs of other shapes, of which costs are those where an axis has fewer entries.
    """

    def __init__(
        self,
        axes: Axes,
        names: Mapping[str, Term],
        weights: Mapping[str, Term] | None = None,
        resized: Resizing | None = None,
    ) -> None:
        self.axes = axes
        self._weights = dict(weights or {})
        self.resized = resized
        self.symbols = {n: Symbol(n, math.prod([a.size for a in t])) for n, t in names.items()}
        self.uneven: dict[str, Symbol] = {}
        self._terms = dict(names)
        self._branches: list[tuple[Branch, dict[str, Number]]] = []
        self._numbers: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
        self._smaller: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
        self._solve()
        self._keep([n for n, s in self.symbols.items() if self._others(s)])
        self._no_empty_axes()
        self._try_out()

    @property
    def free(self) -> dict[str, Symbol]:
        """The axes that can have other sizes."""
        return {n: s for n, s in (self.symbols | self.uneven).items() if n in self._terms}

    def _solve(self) -> None:
        self.conditions: list[Condition] = []
        wanted = {self._terms[n]: variable(s) for n, s in self.symbols.items()}
        self.sizes = solve(self.axes, wanted, FreeSizes(self.conditions))
        self.taken = [*_taken(self.axes, self.sizes)]

    def _keep(self, names: list[str]) -> None:
        """Solve again with some of the symbols only."""
        if len(names) < len(self.symbols):
            self.symbols = {n: self.symbols[n] for n in names}
            self._branches = []
            self._solve()

    def _others(self, symbol: Symbol) -> list[int]:
        """Some other sizes that an axis can have while others keep theirs: one that is near, and a multiple."""
        near = range(symbol.size + 1, symbol.size + 65)
        multiples = [symbol.size * k for k in (2, 3, 4)] if symbol.size else []
        found = [next((n for n in sizes if self._can(symbol, n)), 0) for sizes in (multiples, near)]
        return [n for n in found if n] if found[0] else []

    def _can(self, symbol: Symbol, size: int) -> bool:
        point = Point({s: size if s is symbol else s.size for s in self.symbols.values()})
        return all(c.holds(point) for c in (*self.conditions, *self.taken))

    def _no_empty_axes(self) -> None:
        """An axis keeps at least one entry: a condition where that isn't certain, and from then on it is."""
        for axis, n in self.sizes.known.items():
            if isinstance(n, int) or not axis.size or never_negative(n - 1):
                continue
            self.conditions.append(Condition(n - 1, "positive", f"axis {axis} of {axis.size} entries would have {n}"))
            factors = [m for m in n.terms if m]
            atom = factors[0][0] if len(factors) == 1 and len(factors[0]) == 1 else None
            if isinstance(atom, Atom) and n.terms[factors[0]] > 0:
                atom.low = max(atom.low, -((n.terms.get((), 0) - 1) // n.terms[factors[0]]))

    # Trying the formulas out.

    def _try_out(self) -> None:
        """Compare the formulas with counting anew at other sizes; axes for which they differ are ``uneven``."""
        others = {n: self._others(s) for n, s in self.symbols.items()}
        if all(self._agree({n: sizes[i] for n, sizes in others.items()}) for i in (0, -1)):
            return
        uneven = [n for n, sizes in others.items() if not all(self._agree({n: k}) for k in sizes)]
        for name in uneven or list(self.symbols):
            self.uneven[name] = self.symbols[name]
        self._keep([n for n in self.symbols if n not in self.uneven])
        self._no_empty_axes()

    def _agree(self, sizes: Mapping[str, int]) -> bool:
        point = self._point(sizes)
        if not all(c.holds(point) for c in (*self.conditions, *self.taken)):
            return True
        try:
            counted = self._count(sizes)
        except AxisError:
            return False
        totals = self._totals(point)
        return all(point.of(totals[what]) == n for what, n in counted.items())

    # Costs.

    def number(self, what: str) -> Number:
        """The formula of one of :data:`COSTS`, as it is where no sizes happen to coincide."""
        if not self._branches:
            self._make(Branch())
        return self._branches[0][1][what]

    def expression(self, what: str, parameters: bool = False) -> Any:
        """The formula as a sympy expression; with ``parameters`` in the axes of parameters too."""
        return to_sympy(self._in_parameters[what] if parameters else self.number(what))

    @cached_property
    def _in_parameters(self) -> dict[str, Number]:
        """The formulas in the axes of parameters and buffers too; axes of one letter and one size are one symbol."""
        sizes = FreeSizes([])
        alike: dict[tuple[str, int], Symbol] = {}
        for name, term in self._weights.items():
            size = math.prod([a.size for a in term])
            known = alike.setdefault((name.rstrip("_0123456789"), size), Symbol(name, size))
            sizes.known[term[0]] = variable(known)
        solve(self.axes, {self._terms[n]: variable(s) for n, s in self.symbols.items()}, sizes)
        return _totals(Walk(self.axes, sizes, Branch()).nodes)

    def at(self, what: str, sizes: Mapping[str, int]) -> int:
        """The cost at some sizes; axes that aren't named keep theirs. AxisError if the network can't have them."""
        unknown = [n for n in sizes if n not in self.free]
        if unknown:
            names = ", ".join(f"{n} ({s.size})" for n, s in self.free.items()) or "none"
            raise AxisError(f"{', '.join(unknown)} can't be resized; the free axes are {names}")
        if any(n < 1 for n in sizes.values()):
            raise AxisError(f"sizes are at least 1, got {dict(sizes)}")
        sizes = self._following(sizes)
        point = self._point(sizes)
        for condition in (*self.conditions, *self.taken):
            if not condition.holds(point):
                at = {n: sizes.get(n, s.size) for n, s in self.free.items()}
                raise AxisError(f"{condition.message}; not so at {_listed(at)}")
        fewer = any(n < self.free[k].size for k, n in sizes.items())
        several = sum(n > 1 == self.free[k].size for k, n in sizes.items()) > 1  # of 1 entry, which may broadcast
        if self.resized is not None and (fewer or several):
            return self._count_resized(self.resized, sizes)[what]
        uneven = any(sizes.get(n, s.size) != s.size for n, s in self.uneven.items())
        # functions that make composites may treat sizes of 1 in a way of their own
        ones = any(sizes.get(n, s.size) == 1 != s.size for n, s in self.symbols.items())
        return self._count(sizes)[what] if uneven or ones else point.of(self._totals(point)[what])

    def walk(self) -> Walk:
        """Every value with sizes that are formulas, as they are where no sizes happen to coincide."""
        return Walk(self.axes, self.sizes, Branch())

    def _following(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """With the sizes that axes sharing factors with those get by a resize."""
        given = {a for n in sizes for a in resolve(self._terms[n])}
        others = [n for n in self.free if n not in sizes and not given.isdisjoint(resolve(self._terms[n]))]
        if not others:
            return sizes
        found = solve(self.axes, {self._terms[n]: k for n, k in sizes.items()})
        return {**sizes, **{n: found.of(self._terms[n]) for n in others}}

    def _point(self, sizes: Mapping[str, int]) -> Point:
        return Point({s: sizes.get(n, s.size) for n, s in self.symbols.items()})

    def _totals(self, point: Point) -> dict[str, Number]:
        """The formulas that hold at a point."""
        if not self._branches:
            self._make(Branch())
        for branch, totals in self._branches:
            if branch.holds(point):
                return totals
        return self._make(Branch(point))

    def _make(self, branch: Branch) -> dict[str, Number]:
        totals = _totals(Walk(self.axes, self.sizes, branch).nodes)
        self._branches.append((branch, totals))
        return totals

    def _count(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The costs at some sizes, counted op by op."""
        here = {n: sizes.get(n, s.size) for n, s in self.free.items()}
        key = tuple(sorted(here.items()))  # their order is another once some of them are uneven
        if key not in self._numbers:
            wanted = {self._terms[n]: k for n, k in here.items()}
            found = solve(self.axes, wanted)
            empty = [a for a, n in found.known.items() if n < 0 or (n == 0) != (a.size == 0)]
            if empty:
                raise AxisError(f"axis {empty[0]} of {empty[0].size} entries would have {found.known[empty[0]]}")
            if untrue := next((c for c in _taken(self.axes, found) if not c.holds(Point({}))), None):
                raise AxisError(f"{untrue.message}; not so at {_listed(here)}")
            self._numbers[key] = cast(Any, _totals(Walk(self.axes, found, Branch(), remake=True).nodes))
        return self._numbers[key]

    def _count_resized(self, resized: Resizing, sizes: Mapping[str, int]) -> dict[str, int]:
        """The costs of the graph that a resize gives: few entries of an axis are what slices and sources ask for."""
        key = tuple(sorted((n, k) for n, k in sizes.items() if k != self.free[n].size))
        if key not in self._smaller:
            found = solve(self.axes, {self._terms[n]: k for n, k in sizes.items()})
            shapes = {n: tuple(map(found.of, self.axes[v])) for n, v in self.axes.graph.inputs.items()}
            self._smaller[key] = cast(Any, _totals([*resized(shapes).values]))
        return self._smaller[key]


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{n}={size}" for n, size in sizes.items())


class Taken(NamedTuple):
    """A condition: a slice whose bounds follow the size of an axis takes as many entries as its result has.

    ``x[:, -3:-1]`` takes two, but one of two; chunks are of one size but for the last.
    """

    value: Value
    bounds: tuple[int, int, int]
    size: Number
    taken: Number

    @property
    def message(self) -> str:
        """What must be so."""
        parts = next((b.parts for b in self.bounds[:2] if isinstance(b, Sized) and b.parts), None)
        cut = f", cut into {parts[2]} parts" if parts else ""
        return f"{self.value!r} takes {self.taken} of {self.size} entries{cut}"

    def holds(self, point: Point) -> bool:
        """Whether it does at some sizes."""
        n, count = point.defined(self.size), point.defined(self.taken)
        if n is None or count is None:
            return False
        try:
            start, stop = (b.of(n) if isinstance(b, Sized) else b for b in self.bounds[:2])
        except AttributeValueError:  # another number of parts
            return False
        return entries(start, stop, self.bounds[2], n) == count


def _taken(axes: Axes, sizes: Sizes) -> Iterator[Taken]:
    """The conditions of the slices of axes that have another size."""
    for value in axes.graph.values:
        for i, bounds in enumerate(value.op.bounds if isinstance(value.op, Slice) else ()):
            if bounds is not None and any(isinstance(b, Sized) for b in bounds[:2]):
                size, count = sizes.of(axes[value.args[0]][i]), sizes.of(axes[value][i])
                if (size, count) != (value.args[0].shape[i], value.shape[i]):
                    yield Taken(value, bounds, size, count)


def _totals(nodes: list[Any]) -> dict[str, Number]:
    """All costs of a list of nodes."""
    leaves = [n for n in nodes if isinstance(n.op, Parameter | Buffer | Const)]
    by_bytes, by_elements = traffic(nodes).values(), traffic(nodes, "elements").values()
    return {
        "flops": _sum(map(flops, nodes)),
        "bytes": _sum(n.type.bytes for n in leaves),
        "reads": _sum(t.reads for t in by_bytes),
        "writes": _sum(t.writes for t in by_bytes),
        "elements read": _sum(t.reads for t in by_elements),
        "elements written": _sum(t.writes for t in by_elements),
    }


def _sum(numbers: Iterable[Any]) -> Number:
    """The sum of many numbers, in one go: adding to a long polynomial copies it."""
    terms: dict[Any, int] = {}
    for number in numbers:
        for monomial, n in number.terms.items() if isinstance(number, Poly) else [((), number)]:
            terms[monomial] = terms.get(monomial, 0) + n
    left = {m: n for m, n in terms.items() if n}
    return left.get((), 0) if not left or set(left) == {()} else Poly(left)


class CostFunction:
    """A cost of a network as a function of its free axes: ``f(b=8, s=4096)``. It knows nothing of the graph's ops.

    ``names`` are the axes it takes and what they were; axes not given keep that. ``why`` says of others why not.
    """

    def __init__(self, costs: Costs, what: str, why: Mapping[str, str] | None = None) -> None:
        if what not in COSTS:
            raise AxisError(f"no cost is called {what!r}; there are {', '.join(COSTS)}")
        self.what = what
        self.why = why or {}
        self._costs = costs

    @property
    def names(self) -> dict[str, int]:
        """The free axes, and their sizes in the network."""
        return {n: s.size for n, s in self._costs.free.items()}

    def __call__(self, **sizes: int) -> int:
        """The cost at these sizes. AxisError if the network can't have them, or an axis isn't free."""
        for name in sizes:
            if name in self.why and name not in self.names:
                raise AxisError(f"the {self.what} at other {name} aren't known: {self.why[name]}")
        return self._costs.at(self.what, sizes)

    @property
    def expression(self) -> Any:
        """The formula as a sympy expression."""
        return self._costs.expression(self.what)

    def __repr__(self) -> str:
        return f"{self.what}({', '.join(self.names)}) = {self._costs.number(self.what)}"


def free_dimensions(axes: Axes) -> list[Term]:
    """The dimensions of the inputs that aren't a parameter's and don't follow from others."""
    terms = [resolve(t) for terms in axes.inputs for t in terms]
    terms = [t for t in dict.fromkeys(terms) if t and not all(a.rigid or a.kind == "kernel" for a in t)]
    single = [t for t in terms if len(t) == 1 and not any(line.firm for line in t[0].lines)]
    known = {a for t in single for a in t}
    return [t for t in terms if t in single or (len(t) > 1 and not all(a in known for a in t))]


def names_of(named: NamedAxes, left_out: frozenset[str] = frozenset()) -> dict[str, Term]:
    """The dimensions that may be free, by the names of their axes; those of some names aren't."""
    by_term = {named.term(n): n for n in reversed(named.sizes)}
    out: dict[str, Term] = {}
    for term in free_dimensions(named.axes):
        name, number = by_term.get(term, "n"), 2
        while name in out or (term not in by_term and name in named.sizes):  # no axis is called like another
            name, number = f"{by_term.get(term, 'n')}_{number}", number + 1
        out[name] = term
    return {n: t for n, t in out.items() if n not in left_out}


def costs_of(
    graph: Graph,
    named: NamedAxes | None = None,
    left_out: frozenset[str] = frozenset(),
    resized: Resizing | None = None,
) -> Costs:
    """The costs of a graph, in axes that have the names of ``named``, but for some; ``resized`` as of `Costs`."""
    named = NamedAxes(Axes(graph)) if named is None else named
    terms = {n: named.term(n) for n in named.sizes}
    held = {n: t for n, t in terms.items() if len(t) == 1 and t[0].rigid and t[0].kind != "const"}
    return Costs(named.axes, names_of(named, left_out), held, resized)


def cost_function(graph: Graph, what: str, named: NamedAxes | None = None) -> CostFunction:
    """A cost of a graph as a function of its free axes; ``what`` is one of :data:`COSTS`."""
    return CostFunction(costs_of(graph, named), what)


# For people: sympy, imported when asked for.


#: With more variables than this only what is common to all terms is factored out: the rest takes sympy long.
_FEW = 12


def to_sympy(number: Number) -> Any:
    """The number as a sympy expression, factors collected: ``expression.subs({"b": 8})``."""
    try:
        sympy: Any = importlib.import_module("sympy")
    except ModuleNotFoundError as e:
        raise UnsupportedError("formulas as expressions need sympy: pip install 'tdagger[formulas]'") from e

    known: dict[Generator, Any] = {}
    stand: dict[Any, Any] = {}

    def one(g: Generator) -> Any:
        if g not in known:
            if isinstance(g, Symbol):
                known[g] = sympy.Symbol(g.name)
            else:
                known[g] = sympy.Dummy(f"a{len(known)}")
                stand[known[g]] = _function(sympy, g)
        return known[g]

    total = sympy.Add(*[n * sympy.Mul(*map(one, m)) for m, n in terms_of(number).items()])
    few = len(total.free_symbols) <= _FEW
    return (sympy.factor(total) if few else sympy.factor_terms(total)).xreplace(stand)


def _function(sympy: Any, atom: Atom) -> Any:
    args = [to_sympy(a) for a in atom.args]
    match atom.function:
        case "floor":
            return sympy.floor(args[0] / args[1])
        case "min":
            return sympy.Min(*args)
        case "max":
            return sympy.Max(*args)
        case _:
            return sympy.ceiling(sympy.log(args[0] + 1, 2))
