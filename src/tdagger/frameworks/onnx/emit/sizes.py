"""Sizes that aren't numbers: a formula in free axes becomes a few nodes that read the shapes of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tdagger.analysis.formulas.polynomial import (
    Generator,
    Number,
    Symbol,
    divided,
    symbols_of,
    terms_of,
    variable,
)
from tdagger.errors import AxisError
from tdagger.frameworks.onnx.file.tensors import ONNX_DTYPES
from tdagger.op import Value
from tdagger.types import Size, i64

if TYPE_CHECKING:
    from tdagger.frameworks.onnx.emit.writer import Writer


class Sizes:
    """Vectors of one entry (i64) that hold sizes; each is computed once."""

    def __init__(self, writer: Writer, inputs: Mapping[str, Value]) -> None:
        self.writer = writer
        #: Where a size can be read: the name of an input, and which of its dimensions.
        self.places: dict[Number, tuple[str, int]] = {}
        self.known: dict[Number, str] = {}
        for name, value in inputs.items():
            for i, n in enumerate(value.shape):
                if isinstance(n, Size):
                    self.places.setdefault(n.formula, (name, i))

    def vector(self, number: Number) -> str:
        """The name of a vector that holds a number; AxisError if no input tells it."""
        found = self.known.get(number)
        if found is None:
            found = self.known[number] = self._made(number)
        return found

    def _made(self, number: Number) -> str:
        w = self.writer
        if isinstance(number, int):
            return w.ints([number])
        if number in self.places:
            name, axis = self.places[number]
            return w.node("Shape", [name], start=axis, end=axis + 1)
        try:
            return self._sum(number)
        except _Untold:
            for part in self.places:
                found = self._from(part, number)
                if found is not None:
                    return found
        names = ", ".join(sorted(s.name for s in symbols_of(number)))
        raise AxisError(f"the size {number} can't be told from the inputs' shapes (axes {names})")

    def _from(self, part: Number, number: Number) -> str | None:
        """A number as a multiple of a size that an input has, or as a part of it; None if it is neither."""
        rest = divided(number, part)
        if rest is not None:
            return self._two("Mul", self.vector(part), self.vector(rest))
        whole = divided(part, number)
        return None if whole is None else self._two("Div", self.vector(part), self.vector(whole))

    def _two(self, op: str, a: str, b: str) -> str:
        return self.writer.node(op, [a, b])

    def _sum(self, number: Number) -> str:
        terms = terms_of(number)
        total: str | None = None
        for monomial in sorted(terms, key=lambda m: (-len(m), terms[m] < 0)):
            n = terms[monomial]
            product: str | None = None
            for g in monomial:
                factor = self._generator(g)
                product = factor if product is None else self._two("Mul", product, factor)
            size = abs(n) if total is not None else n
            if product is None:
                product = self.writer.ints([size])
            elif size != 1:
                product = self._two("Mul", product, self.writer.ints([size]))
            total = product if total is None else self._two("Sub" if n < 0 else "Add", total, product)
        return self.writer.ints([0]) if total is None else total

    def _generator(self, generator: Generator) -> str:
        number = variable(generator)
        if number in self.known or number in self.places:
            return self.vector(number)
        if isinstance(generator, Symbol):
            raise _Untold
        args: Any = generator.args
        if generator.function == "floor":  # of numbers that aren't negative, which Div truncates to the same
            if args[0] == 1:  # onnxruntime makes m / n of m * (1 / n), also of whole numbers
                w = self.writer
                return w.node("Cast", [w.node("Equal", [self._inner(args[1]), w.ints([1])])], to=ONNX_DTYPES[i64])
            return self._two("Div", self._inner(args[0]), self._inner(args[1]))
        if generator.function in ("min", "max"):
            return self.writer.node(generator.function.capitalize(), [self._inner(a) for a in args])
        raise _Untold

    def _inner(self, number: Number) -> str:
        if isinstance(number, int) or number in self.places or number in self.known:
            return self.vector(number)
        return self._sum(number)


class _Untold(AxisError):
    """A size that the inputs don't tell in this way."""

    def __init__(self) -> None:
        super().__init__("a size can't be told")
