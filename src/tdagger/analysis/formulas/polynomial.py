"""Exact polynomials with integer coefficients in numbers of entries: what sizes and costs are when axes are free.

A :data:`Number` is an int or a :class:`Poly`; arithmetic gives an int whenever nothing is left of the variables, so
that code written for ints works on both. What no polynomial can say is an *atom*, a variable of its own:
``floor((h + 1) / 2)``, a minimum, a maximum, a number of bits.

>>> h = symbol("h", 224)
>>> (h + 3) // 2, (h + 1) * (h - 1), (h * h - 1) // (h + 1)
(1 + floor((1 + h)/2), -1 + h*h, -1 + h)
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, ClassVar, Final

_order = itertools.count()


class Symbol:
    """A variable: a number of entries, ``low`` at least. ``size`` is what it was."""

    __slots__ = ("__weakref__", "low", "name", "order", "size")

    def __init__(self, name: str, size: int, low: int = 1) -> None:
        self.name: Final = name
        self.size: Final = size
        self.order: Final = next(_order)
        self.low = low

    def __repr__(self) -> str:
        return self.name


class Atom:
    """A function of polynomials, ``low`` at least; the same function of the same ones is the same object."""

    __slots__ = ("__weakref__", "args", "function", "low", "order")
    _interned: ClassVar[weakref.WeakValueDictionary[Any, Atom]] = weakref.WeakValueDictionary()

    function: str
    args: tuple[Number, ...]
    order: int
    low: int

    def __new__(cls, function: str, *args: Number) -> Atom:
        key = (function, *args)
        found = cls._interned.get(key)
        if found is None:
            found = cls._interned[key] = super().__new__(cls)
            found.function, found.args, found.order, found.low = function, args, next(_order), 0
            if function == "floor":
                found.low = max(math.floor(_lowest(args[0]) / _lowest(args[1])), 0) if isinstance(args[1], int) else 0
        return found

    def __repr__(self) -> str:
        if self.function == "floor":
            above, below = self.args
            return f"floor(({above})/{below})" if isinstance(below, int) else f"floor(({above})/({below}))"
        return f"{self.function}({', '.join(map(str, self.args))})"


#: The functions of atoms, on ints.
FUNCTIONS: Final[dict[str, Callable[..., int]]] = {
    "floor": int.__floordiv__,
    "min": min,
    "max": max,
    "bits": int.bit_length,
}

Generator = Symbol | Atom
#: Generators in order, each as often as its power says.
Monomial = tuple[Generator, ...]


def _by_order(generator: Generator) -> int:
    return generator.order


def _rank(monomial: Monomial) -> tuple[int, list[int]]:
    """The order of monomials: higher degrees first, then by generators. Multiplying doesn't change it."""
    return (-len(monomial), [g.order for g in monomial])


def _times(a: Monomial, b: Monomial) -> Monomial:
    return tuple(sorted(a + b, key=_by_order)) if a and b else a or b


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    """A monomial divided by another, None if it isn't a multiple."""
    left = list(monomial)
    for generator in divisor:
        if generator not in left:
            return None
        left.remove(generator)
    return tuple(left)


class Poly:
    """A polynomial that isn't a constant: ``terms`` has the coefficient of each monomial, none of them 0."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms: Final = terms
        self._hash = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Poly) and self.terms == other.terms

    def __hash__(self) -> int:
        self._hash = self._hash or hash(frozenset(self.terms.items())) or 1
        return self._hash

    def __add__(self, other: Number) -> Number:
        out = dict(self.terms)
        for monomial, n in terms_of(other).items():
            total = out.get(monomial, 0) + n
            if total:
                out[monomial] = total
            else:
                del out[monomial]
        return made(out)

    __radd__ = __add__

    def __neg__(self) -> Poly:
        return Poly({m: -n for m, n in self.terms.items()})

    def __sub__(self, other: Number) -> Number:
        return self + -other

    def __rsub__(self, other: Number) -> Number:
        return other + -self

    def __mul__(self, other: Number) -> Number:
        if isinstance(other, int):
            return Poly({m: n * other for m, n in self.terms.items()}) if other else 0
        out: dict[Monomial, int] = {}
        for a, n in self.terms.items():
            for b, k in other.terms.items():
                monomial = _times(a, b)
                out[monomial] = out.get(monomial, 0) + n * k
        return made({m: n for m, n in out.items() if n})

    __rmul__ = __mul__

    def __floordiv__(self, other: Number) -> Number:
        exact = divided(self, other)
        return _floor(self, other) if exact is None else exact

    def __rfloordiv__(self, other: int) -> Number:
        return _floor(other, self)

    def __mod__(self, other: Number) -> Number:
        return self - (self // other) * other

    def __rmod__(self, other: int) -> Number:
        return other - (other // self) * self

    def bit_length(self) -> Number:
        """The bits of the number: an atom."""
        return variable(Atom("bits", self))

    def least(self, other: Number) -> Number:
        """The smaller of two numbers: one of them where that is certain, else an atom."""
        if never_negative(other - self):
            return self
        return other if never_negative(self - other) else _either("min", self, other)

    def most(self, other: Number) -> Number:
        """The larger of two numbers: one of them where that is certain, else an atom."""
        if never_negative(self - other):
            return self
        return other if never_negative(other - self) else _either("max", self, other)

    def __repr__(self) -> str:
        parts: list[str] = []
        for monomial in sorted(self.terms, key=lambda m: (len(m), [g.order for g in m])):
            n = self.terms[monomial]
            product = "*".join(map(str, monomial))
            factor = "" if n == 1 else "-" if n == -1 else f"{n}*"
            parts.append(f"{factor}{product}" if product else str(n))
        return " + ".join(parts).replace("+ -", "- ")


#: A number of entries, operations or bytes.
Number = int | Poly


def symbol(name: str, size: int, low: int = 1) -> Poly:
    """A new variable, as a polynomial."""
    return variable(Symbol(name, size, low))


def variable(generator: Generator) -> Poly:
    """A generator as a polynomial."""
    return Poly({(generator,): 1})


def made(terms: dict[Monomial, int]) -> Number:
    """The number of these terms: an int if there are none but the constant."""
    if not terms:
        return 0
    return terms[()] if len(terms) == 1 and () in terms else Poly(terms)


def terms_of(number: Number) -> dict[Monomial, int]:
    """The coefficients of a number by monomial; that of a constant by ``()``."""
    if isinstance(number, int):
        return {(): int(number)} if number else {}
    return number.terms


def _either(function: str, a: Number, b: Number) -> Number:
    return variable(Atom(function, *sorted((a, b), key=str)))


def divided(a: Number, b: Number) -> Number | None:
    """``a / b`` where it is a polynomial with integer coefficients, else None. ``b`` is not 0.

    >>> h, w = symbol("h", 1), symbol("w", 1)
    >>> divided(h * w + w, h + 1), divided(h, 2)
    (w, None)
    """
    rest, divisor = dict(terms_of(a)), terms_of(b)
    lead = min(divisor, key=_rank)
    out: dict[Monomial, int] = {}
    while rest:
        top = min(rest, key=_rank)
        factor = _without(top, lead)
        if factor is None or rest[top] % divisor[lead]:
            return None
        n = out[factor] = rest[top] // divisor[lead]
        for monomial, k in divisor.items():
            product = _times(monomial, factor)
            left = rest.get(product, 0) - n * k
            if left:
                rest[product] = left
            else:
                del rest[product]
    return made(out)


def _floor(a: Number, b: Number) -> Number:
    """``floor(a / b)`` in one way of many: what is whole stands outside, a floor of a floor is one floor."""
    if not isinstance(b, int):
        return variable(Atom("floor", a, b))
    while True:
        whole = made({m: n // b for m, n in terms_of(a).items() if n // b})
        rest = a - whole * b
        if isinstance(rest, int):
            return whole
        common = math.gcd(b, *[n for m, n in rest.terms.items() if m])
        if common > 1:
            rest, b = made({m: n // common for m, n in rest.terms.items() if n // common}), b // common
        inner = next((m for m in terms_of(rest) if m), ())
        atom = inner[0] if len(inner) == 1 else None
        single = isinstance(atom, Atom) and set(terms_of(rest)) <= {inner, ()} and terms_of(rest)[inner] == 1
        if single and isinstance(atom, Atom) and atom.function == "floor" and isinstance(atom.args[1], int):
            below = atom.args[1]
            return whole + _floor(atom.args[0] + terms_of(rest).get((), 0) * below, b * below)
        if common == 1 or b == 1:
            return whole + (rest if b == 1 else variable(Atom("floor", rest, b)))
        more = _floor(rest, b)
        return whole + more


# What is certain of a number whatever its variables are, from `low` on.

_Terms = dict[Monomial, Fraction]


def never_negative(number: Number) -> bool:
    """Whether a number is 0 or more for all variables from their ``low`` on; False where that isn't certain.

    >>> h = symbol("h", 224)
    >>> never_negative(h * h - h), never_negative(h - (h + 1) // 2), never_negative(h - 2)
    (True, True, False)
    """
    if isinstance(number, int):
        return number >= 0
    exact = {m: Fraction(n) for m, n in number.terms.items()}
    if _sure(exact):
        return True
    above = _bounded(exact, below=False)
    return _sure(above) or _sure(_bounded(above, below=True))


def _lowest(number: Number) -> Fraction | int:
    """What a number is at least, as far as can be seen from its variables' ``low``; 0 where nothing can."""
    if isinstance(number, int):
        return number
    shifted = _shifted({m: Fraction(n) for m, n in number.terms.items()})
    return shifted.get((), Fraction(0)) if all(n >= 0 for m, n in shifted.items() if m) else 0


def _sure(terms: _Terms) -> bool:
    return all(n >= 0 for n in _shifted(terms).values())


def _shifted(terms: _Terms) -> _Terms:
    """The polynomial in how far each variable is above its lowest."""
    out: _Terms = {}
    for monomial, n in terms.items():
        products: _Terms = {(): n}
        for g in monomial:
            longer: _Terms = {}
            for m, k in products.items():
                longer[(*m, g)] = longer.get((*m, g), Fraction(0)) + k
                if g.low:
                    longer[m] = longer.get(m, Fraction(0)) + k * g.low
            products = longer
        for m, k in products.items():
            out[m] = out.get(m, Fraction(0)) + k
    return out


def _bounded(terms: _Terms, below: bool) -> _Terms:
    """No more than the polynomial: floors bounded from above where they are subtracted, or from below where added."""
    out: _Terms = {}
    for monomial, n in terms.items():
        products: _Terms = {(): n}
        kept: list[Generator] = []
        for g in monomial:
            bound = _bound(g, below) if (n < 0) is not below else None
            products = products if bound is None else _product(products, bound)
            kept += [g] if bound is None else []
        for m, k in _product(products, {tuple(kept): Fraction(1)}).items():
            out[m] = out.get(m, Fraction(0)) + k
    return out


def _bound(g: Generator, below: bool) -> _Terms | None:
    """What a floor is at most (or at least), not negative; None if nothing is known."""
    if isinstance(g, Symbol) or g.function != "floor" or not isinstance(g.args[1], int):
        return None
    divisor = g.args[1]
    above = terms_of(g.args[0] - (divisor - 1) if below else g.args[0])
    bound = {m: Fraction(k, divisor) for m, k in above.items()}
    return bound if not below or _sure(bound) else None


def _product(a: _Terms, b: _Terms) -> _Terms:
    out: _Terms = {}
    for m, n in a.items():
        for k, c in b.items():
            both = _times(m, k)
            out[both] = out.get(both, Fraction(0)) + n * c
    return out


# Numbers for variables.


class Point:
    """Numbers for the variables. Atoms are computed once."""

    def __init__(self, sizes: Mapping[Symbol, int]) -> None:
        self._known: dict[Any, int] = dict(sizes)

    def of(self, number: Number) -> int:
        """The number here."""
        if isinstance(number, int):
            return number
        total = 0
        for monomial, n in number.terms.items():
            for g in monomial:
                n *= self._generator(g)
            total += n
        return total

    def defined(self, number: Number) -> int | None:
        """The number here; None where it divides by 0.

        >>> h = Symbol("h", 8)
        >>> [Point({h: n}).defined(12 // (variable(h) - 2)) for n in (3, 2)]
        [12, None]
        """
        try:
            return self.of(number)
        except ZeroDivisionError:
            return None

    def _generator(self, g: Generator) -> int:
        found = self._known.get(g)
        if found is None:
            assert isinstance(g, Atom), f"there is no number for {g}"
            found = self._known[g] = FUNCTIONS[g.function](*map(self.of, g.args))
        return found


def _floored(a: Number, b: Number) -> Number:
    return a // b


def _bits(a: Number) -> Number:
    return a.bit_length()


def _least(a: Number, b: Number) -> Number:
    return a.least(b) if isinstance(a, Poly) else b.least(a) if isinstance(b, Poly) else min(a, b)


def _most(a: Number, b: Number) -> Number:
    return a.most(b) if isinstance(a, Poly) else b.most(a) if isinstance(b, Poly) else max(a, b)


def given(number: Number, sizes: Mapping[Symbol, int]) -> Number:
    """The number where some variables are what they are.

    >>> h, w = Symbol("h", 8), Symbol("w", 8)
    >>> given(2 * variable(h) * variable(w) + (variable(w) + variable(h)) // 4, {h: 3})
    6*w + floor((3 + w)/4)
    """
    total: Number = 0
    for monomial, n in terms_of(number).items():
        part: Number = n
        for g in monomial:
            if isinstance(g, Atom) and not symbols_of(variable(g)).isdisjoint(sizes):
                part = part * _AGAIN[g.function](*[given(a, sizes) for a in g.args])
            else:
                part = part * (sizes[g] if isinstance(g, Symbol) and g in sizes else variable(g))
        total = total + part
    return total


#: The functions of atoms, on numbers.
_AGAIN: dict[str, Callable[..., Number]] = {
    "floor": _floored, "min": _least, "max": _most, "bits": _bits,
}  # fmt: skip


def symbols_of(number: Number) -> set[Symbol]:
    """The variables that a number depends on, those inside its atoms too."""
    found: set[Symbol] = set()
    for g in {g for monomial in terms_of(number) for g in monomial}:
        if isinstance(g, Symbol):
            found.add(g)
        else:
            found.update(*map(symbols_of, g.args))
    return found


def divisors(number: Number) -> Iterator[Number]:
    """What a number divides by that isn't a plain number, what is divided by inside of it first.

    >>> h = symbol("h", 8)
    >>> list(divisors((h + 1) // 2)), list(divisors(12 // (h - 2)))
    ([], [-2 + h])
    """
    for g in {g: None for monomial in terms_of(number) for g in monomial}:
        if isinstance(g, Atom):
            for arg in g.args:
                yield from divisors(arg)
            if g.function == "floor" and not isinstance(g.args[1], int):
                yield g.args[1]
