"""Comparisons of sizes that a network's code makes as it runs (``if h == 2 * w``): another way may begin there.

Tensors say their sizes as whole numbers that know what they are made of, and note what they are compared with.
"""

from __future__ import annotations

import builtins
import linecache
import math
import operator
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tdagger.analysis.formulas.polynomial import Number, terms_of
from tdagger.frameworks.torch.capture.gradients import replaced
from tdagger.transform.axes.sources import Comparison

#: What a size of a tensor is made of: of the tensor and the number of the dimension; None where that isn't known.
SizeOf = Callable[[Tensor, int], Number | None]

#: A number of more terms is no longer followed.
_TERMS = 16

#: Packages whose own code isn't looked at: what they compare they raise at, or it says nothing of the network.
_OUTSIDE = frozenset({"torch", "tdagger"})


@cache
def _is_outside(module: str | None) -> bool:
    return str(module).partition(".")[0] in _OUTSIDE


class Notes:
    """The comparisons that were made, each once, as long as somebody listens."""

    def __init__(self) -> None:
        self.made: dict[tuple[Number, str], Comparison] = {}
        self.open = True

    def note(self, number: Number, kind: str, holds: bool) -> bool:
        """Note whether a number is "zero" or "positive" (or 0) here, which is what is given back."""
        if self.open and not isinstance(number, int) and (number, kind) not in self.made:
            self.made[number, kind] = Comparison(number, kind, holds, _place())
        return holds


def _place() -> str:
    """The line of code that compares."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    said = linecache.getline(file, line, frame.f_globals).strip()
    return f"{Path(file).name}:{line}" + (f": {said}" if said else "")


class Compared:
    """What notes its comparisons: the base of the numbers that are made of sizes."""

    notes: Notes

    def __hash__(self) -> int:
        return super().__hash__()

    def __eq__(self, other: object) -> Any:
        return _compared(self, other, operator.eq)

    def __ne__(self, other: object) -> Any:
        return _compared(self, other, operator.ne)

    def __lt__(self, other: Any) -> Any:
        return _compared(self, other, operator.lt)

    def __le__(self, other: Any) -> Any:
        return _compared(self, other, operator.le)

    def __gt__(self, other: Any) -> Any:
        return _compared(self, other, operator.gt)

    def __ge__(self, other: Any) -> Any:
        return _compared(self, other, operator.ge)


class Measured(Compared, int):
    """A whole number that is made of sizes: its ``number``, and who notes what it is compared with.

    >>> from tdagger.analysis.formulas.polynomial import symbol
    >>> notes = Notes()
    >>> h, w = (measured(n, symbol(name, n), notes) for name, n in (("h", 8), ("w", 6)))
    >>> h == 2 * w, (h + 1) // 2 > 5, h / w < 1.5
    (False, False, True)
    >>> [(str(c.number), c.kind, c.holds) for c in notes.made.values()]
    [('h - 2*w', 'zero', False), ('5 - floor((1 + h)/2)', 'positive', True), ('2*h - 3*w', 'positive', False)]
    """

    number: Any

    def __bool__(self) -> bool:
        return not self.notes.note(self.number, "zero", int(self) == 0)

    def __neg__(self) -> int:
        return measured(-int(self), -self.number, self.notes)

    def __abs__(self) -> int:
        return self if self >= 0 else -self

    def __truediv__(self, other: Any) -> Any:
        return _ratio(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _ratio(other, self)

    def __ceil__(self) -> int:
        return self

    __floor__ = __trunc__ = __pos__ = __ceil__

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))


class Ratio(Compared, float):
    """One number that is made of sizes over another, which is above 0."""

    above: Any
    below: Any

    def __floor__(self) -> int:
        return measured(float(self).__floor__(), self.above // self.below, self.notes)

    def __ceil__(self) -> int:
        return measured(float(self).__ceil__(), -(-self.above // self.below), self.notes)

    def __reduce__(self) -> tuple[Any, ...]:
        return (float, (float(self),))


def measured(value: int, number: Any, notes: Notes) -> int:
    """A whole number that is made of sizes; a plain one where it isn't, or is made of too much."""
    if isinstance(number, int) or len(terms_of(number)) > _TERMS or not notes.open:
        return value
    out = Measured(value)
    out.number, out.notes = number, notes
    return out


def _number(x: int) -> Any:
    return x.number if isinstance(x, Measured) else int(x)


def _arithmetic(function: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """What a function of two whole numbers is of one that is made of sizes, from the left and from the right."""

    def of(a: Any, b: Any, notes: Notes) -> Any:
        if not isinstance(a, int) or not isinstance(b, int):
            return function(*(int(n) if isinstance(n, Measured) else n for n in (a, b)))
        value = function(int(a), int(b))
        return measured(value, function(_number(a), _number(b)), notes)

    def left(self: Measured, other: Any) -> Any:
        return of(self, other, self.notes)

    def right(self: Measured, other: Any) -> Any:
        return of(other, self, self.notes)

    return left, right


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _left, _right = _arithmetic(getattr(operator, _name))
    setattr(Measured, f"__{_name}__", _left)
    setattr(Measured, f"__r{_name}__", _right)


def _ratio(a: Any, b: Any) -> float:
    """One number over another; with where it comes from if both are whole."""
    plain = [int(n) if isinstance(n, Measured) else n for n in (a, b)]
    value = operator.truediv(*plain)
    if not isinstance(a, int) or not isinstance(b, int) or plain[1] <= 0:
        return value
    out = Ratio(value)
    out.above, out.below = _number(a), _number(b)
    out.notes = next(n.notes for n in (a, b) if isinstance(n, Measured))
    return out


def _parts(x: Any) -> tuple[Any, Any]:
    """A number as one over another that is above 0."""
    if isinstance(x, Ratio):
        return x.above, x.below
    if isinstance(x, int):
        return _number(x), 1
    return Fraction(x).limit_denominator(1 << 20).as_integer_ratio()


def _plain(x: Any) -> Any:
    return float(x) if isinstance(x, Ratio) else int(x) if isinstance(x, Measured) else x


def _compared(a: Any, b: Any, how: Callable[[Any, Any], bool]) -> Any:
    """What a comparison gives, which is noted."""
    if not isinstance(b, int | float):
        return NotImplemented
    found = how(_plain(a), _plain(b))
    if isinstance(b, float) and not math.isfinite(b):
        return found
    (n, d), (m, e) = _parts(a), _parts(b)
    apart = n * e - m * d  # as a - b, times what is above 0
    if how in (operator.eq, operator.ne):
        a.notes.note(apart, "zero", found == (how is operator.eq))
    elif how in (operator.ge, operator.lt):
        a.notes.note(apart, "positive", found == (how is operator.ge))
    else:
        a.notes.note(-apart, "positive", found == (how is operator.le))
    return found


def _is_measured(index: Any) -> bool:
    """Whether a part of an index has a number that is made of sizes."""
    if isinstance(index, slice):
        return any(map(_is_measured, (index.start, index.stop, index.step)))
    return isinstance(index, Compared)


class _Indices(TorchFunctionMode):
    """Tells of every index that is taken whether its numbers are as they are written."""

    def __init__(self, indexing: Callable[[bool], AbstractContextManager[None]]) -> None:
        super().__init__()
        self.indexing = indexing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__getitem__:
            return func(*args, **(kwargs or {}))
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        with self.indexing(not any(map(_is_measured, index))):
            return func(*args)


@contextmanager
def measuring(
    size_of: SizeOf, notes: Notes, indexing: Callable[[bool], AbstractContextManager[None]]
) -> Generator[None, None, None]:
    """Let tensors say what their sizes are made of, to all code but torch's and this.

    ``indexing`` is told while an index is taken whether its numbers are as they are written.
    """
    kind: Any = Tensor
    shape, size, length = kind.shape, kind.size, builtins.len

    def shape_of(t: Tensor) -> Any:
        own = shape.__get__(t)
        if _is_outside(sys._getframe(2).f_globals.get("__name__")):
            return own
        found = [n if (of := size_of(t, i)) is None else measured(n, of, notes) for i, n in enumerate(own)]
        return torch.Size(found)

    def size_at(t: Tensor, *args: Any, **kwargs: Any) -> Any:
        dim = args[0] if args else kwargs.get("dim")
        return shape_of(t) if dim is None else shape_of(t)[dim] if isinstance(dim, int) else size(t, dim)

    def numel_of(t: Tensor) -> int:
        return math.prod(shape_of(t), start=1)

    def length_of(x: Any) -> int:
        return shape_of(x)[0] if isinstance(x, Tensor) and x.ndim else length(x)

    with (
        _Indices(indexing),
        replaced(kind, "shape", property(lambda t: shape_of(t))),
        replaced(kind, "size", size_at),
        replaced(kind, "numel", numel_of),
        replaced(builtins, "len", length_of),
    ):
        try:
            yield
        finally:
            notes.open = False
