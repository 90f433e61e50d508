"""Sizes in generated code: what the marks of free axes stand for, read from the arguments of a ``forward``.

b, _, h, w = x.shape
x1 = x.reshape(b, 3, h // 16, 16, w // 16, 16)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from tdagger.analysis.formulas.polynomial import Generator, Number, Symbol, divided, symbols_of, terms_of, variable
from tdagger.errors import AxisError
from tdagger.names import identifier, is_identifier
from tdagger.op import Value
from tdagger.types import MARK, Size, TensorType


class UnboundError(AxisError):
    """A size that the arguments of a ``forward`` don't tell; ``symbols`` are the axes it is made of."""

    def __init__(self, number: Number) -> None:
        self.symbols = {s.name for s in symbols_of(number)}
        super().__init__(f"the size {number} can't be told from the arguments")


class Bindings:
    """Names for the sizes of a forward's arguments, given when they are asked for.

    ``taken`` are names that others have; None: sizes have none and are read where arguments have them as they are,
    ``x.shape[0]``, not from what is made of them.
    """

    def __init__(self, arguments: Iterable[tuple[str, Value]], taken: Iterable[str] | None) -> None:
        #: Where a size can be read: the name of an argument, and which of its dimensions.
        self.places: dict[Number, tuple[str, int]] = {}
        #: The names given so far.
        self.names: dict[Number, str] = {}
        self._taken = None if taken is None else set(taken)
        self._ranks: dict[str, int] = {}
        for name, value in arguments:
            self._ranks[name] = value.rank
            for i, n in enumerate(value.shape):
                if isinstance(n, Size) and (taken is not None or is_symbol(n.formula)):
                    self.places.setdefault(n.formula, (name, i))

    def filled(self, text: str) -> str:
        """A text with an expression for every size; UnboundError for those that no argument tells."""

        def one(match: re.Match[str]) -> str:
            found = self.expression(Size.formulas[int(match[1])])
            before, after = text[: match.start()].rstrip(" ")[-1:], text[match.end() :].lstrip(" ")[:1]
            return found if before in "([,:=" and after in ")],:" else _enclosed(found)

        return MARK.sub(one, text)

    def expression(self, number: Number) -> str:
        """A number in names of sizes."""
        if isinstance(number, int):
            return str(number)
        name = self._named(number)
        if name is not None:
            return name
        try:
            return self._sum(number)
        except UnboundError:
            for part in self.places:
                found = self._from(part, number)
                if found is not None:
                    return found
            raise

    def _from(self, part: Number, number: Number) -> str | None:
        """A number as a multiple of a size that an argument has, or as a part of it; None if it is neither."""
        rest = divided(number, part)
        if rest is not None:
            return f"{self._factor(part)} * {self._factor(rest)}"
        top = next(m for m in terms_of(number) if m)
        times = terms_of(part).get(top, 0) // terms_of(number)[top]
        more = part - number * times if times > 0 else part
        if not isinstance(more, int):
            return None
        whole = f"{self._factor(part)} {'-' if more > 0 else '+'} {abs(more)}" if more else self._factor(part)
        return whole if times == 1 else f"({whole}) // {times}" if more else f"{whole} // {times}"

    def _sum(self, number: Number) -> str:
        terms = terms_of(number)
        out = ""
        for monomial in sorted(terms, key=lambda m: (-len(m), terms[m] < 0)):
            n = terms[monomial]
            factors = [self._generator(g) for g in monomial]
            if abs(n) != 1 or not factors:
                factors.insert(0, str(abs(n)))
            if n < 0 or len(factors) + len(terms) > 2:
                factors = list(map(_enclosed, factors))
            product = " * ".join(factors)
            out += (f" {'-' if n < 0 else '+'} " if out else "-" if n < 0 else "") + product
        return out

    def _generator(self, generator: Generator) -> str:
        number = variable(generator)
        name = self._named(number)
        if name is not None:
            return name
        if isinstance(generator, Symbol):
            raise UnboundError(number)
        if generator.function == "floor":
            above, below = map(self._factor, generator.args)
            return f"{above} // {below}"
        if generator.function in ("min", "max"):
            return f"{generator.function}({', '.join(map(self.expression, generator.args))})"
        raise UnboundError(number)

    def _factor(self, number: Number) -> str:
        return _enclosed(self.expression(number))

    def _named(self, number: Number) -> str | None:
        """The name of a size that an argument has."""
        if number in self.places and number not in self.names:
            argument, i = self.places[number]
            taken = self._taken
            first = min(symbols_of(number), key=lambda s: s.order).name
            self.names[number] = f"{argument}.shape[{i}]" if taken is None else _name(first, taken)
        return self.names.get(number)

    def lines(self) -> list[str]:
        """What gives the names, ``b, n = x.shape[:2]``."""
        by_argument: dict[str, dict[int, str]] = {}
        for number, name in self.names.items():
            argument, i = self.places[number]
            by_argument.setdefault(argument, {})[i] = name
        return [self._line(argument, names) for argument, names in by_argument.items()]

    def _line(self, argument: str, names: Mapping[int, str]) -> str:
        if len(names) == 1:
            [(i, name)] = names.items()
            return f"{name} = {argument}.shape[{i}]"
        first, last, rank = min(names), max(names), self._ranks[argument]
        targets = ", ".join(names.get(i, "_") for i in range(first, last + 1))
        part = "" if (first, last) == (0, rank - 1) else f"[{first or ''}:{'' if last == rank - 1 else last + 1}]"
        return f"{targets} = {argument}.shape{part}"


def _enclosed(text: str) -> str:
    """An expression as a factor of another."""
    return text if re.fullmatch(r"[\w.\[\]]+|-?\d+", text) else f"({text})"


def is_symbol(number: Number) -> bool:
    """Whether a number is one free axis."""
    return any(number == variable(s) for s in symbols_of(number))


def _name(text: str, taken: set[str]) -> str:
    """A name that isn't taken: ``h``, then ``h2``."""
    name, count = text, 2
    base = identifier(text, set()).rstrip("0123456789")
    while name in taken or not is_identifier(name):
        name, count = f"{base}{count}", count + 1
    taken.add(name)
    return name


def labelled(type_: TensorType, labels: Sequence[str]) -> str:
    """A type with names of axes, ``f32[b c=3 h w]``: those without a number are free."""
    parts: list[str] = []
    for n, label in itertools.zip_longest(type_.shape, labels, fillvalue=""):
        if isinstance(n, Size):
            text = str(n.formula)
            parts.append(text if text.isidentifier() else f"({text})")
        else:
            parts.append(f"{label}={n}" if label else str(n))
    return f"{type_.dtype}[{' '.join(parts)}]"
