"""How far the numbers of weights differ between two networks that are shown as one: of every op, and of every weight.

Weights are read a piece at a time, so that files which are mapped stay on disk; one that both share isn't read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.network import Network
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.view.fold.boxes import Leaf
from tdagger.view.part import Part

#: So many numbers are read at a time.
_PIECE = 1 << 18


class Changes:
    """The weights of two networks, or of the blocks of two programs, in pairs.

    A pair is what two ops that go together take in one place, in the same shape.

    ``each`` has of every op in both the most that one of its weights changed (:func:`relative`), ``of`` has of every
    weight of A that of B and how far it is off. ``notice`` says in a sentence what was compared.
    """

    def __init__(self, parts: Sequence[Part], read: bool) -> None:
        self.parts, self.read = parts, read
        self.each: dict[Leaf, float] = {}
        self.of: dict[Value, tuple[Value, float]] = {}
        self._absent: set[Value] = set()
        self._known: dict[tuple[Value, Value], float | None] = {}
        for part in parts if read else ():
            self._read(part)

    def _read(self, part: Part) -> None:
        self._carry, self._inline = part.carry, [facts.inline for facts in part.facts]
        self._networks = part.networks
        for leaf in part.leaves:
            found = [n for x, y in self._pairs(leaf) if (n := self._change(x, y)) is not None]
            if found:
                self.each[leaf] = max(found)

    def _pairs(self, leaf: Leaf) -> list[tuple[Value, Value]]:
        a, b = leaf.values
        if a is None or b is None or len(a.args) != len(b.args):
            return []
        pairs = zip(a.args, b.args, strict=True)
        return [(x, y) for x, y in pairs if self._is_weight(x, 0) and self._is_weight(y, 1)]

    def _source(self, value: Value) -> Value:
        while value in self._carry:
            value = value.args[0]
        return value

    def _is_weight(self, value: Value, k: int) -> bool:
        source = self._source(value)
        return isinstance(source.op, Parameter | Buffer | Const) and source not in self._inline[k]

    def _change(self, x: Value, y: Value) -> float | None:
        if (x, y) not in self._known:
            found = self._known[x, y] = self._compare(x, y)
            if found is not None and found >= self.of.get(self._source(x), (y, -1.0))[1]:
                self.of[self._source(x)] = (self._source(y), found)
        return self._known[x, y]

    def _compare(self, x: Value, y: Value) -> float | None:
        if _shape(x) != _shape(y) or _sort(x) != _sort(y):
            return None  # the op says so already
        a, b = self._array(x, 0), self._array(y, 1)
        if a is None or b is None:
            self._absent.add(self._source(x))
            return None
        return relative(a.reshape(_shape(x)), b.reshape(_shape(x)))

    def _array(self, value: Value, k: int) -> Array | None:
        steps: list[Value] = []
        while value in self._carry:
            steps.append(value)
            value = value.args[0]
        found = data_of(self._networks[k], value)
        for step in reversed(steps if found is not None else ()):
            found = step.op.run(found)
        return found

    @property
    def notice(self) -> str:
        """What was compared, and what couldn't be; empty if there was nothing to compare."""
        if not self.read:
            return "weights weren't read: whether their numbers are the same isn't said"
        changed = [n for _, n in self.of.values() if n]
        found = [f"{len(self.of) - len(changed)} the same", f"{len(changed)} changed"]
        if changed:
            found[-1] += f", by {100 * max(changed):.3g} % of the norm at most"
        absent = self._absent - {*self.of}
        if not self.of and not absent:
            return ""
        if absent:
            found.append(f"{len(absent)} not compared, as a network has none of their numbers")
        return f"weights with a partner of the same shape: {'; '.join(found)}"

    def measure(self) -> dict[str, Any]:
        """The same as a measure of the JSON, to be marked on boxes."""
        each = [self.each.get(leaf) for part in self.parts for leaf in part.leaves]
        told = [None if n is None else float(f"{n:.4g}") for n in each]
        return {"name": "change of weights", "unit": "", "worst": "high", "each": told, "mark": "weights differ"}


def data_of(network: Network, weight: Value) -> Array | None:
    """The numbers of a weight or constant; None if there are none."""
    op = weight.op
    if isinstance(op, Const):
        return op.data
    if not isinstance(op, Parameter | Buffer) or op.leaf not in network.weights:
        return None
    return network.weights[op.leaf]


def _shape(value: Value) -> tuple[int, ...]:
    return tuple([n for n in value.type.shape if n != 1])


def _sort(value: Value) -> str:
    """Floats of any width are compared, integers with integers alone: codes of a quantized weight aren't numbers."""
    return "float" if value.type.dtype.is_float else value.type.dtype.name


def relative(a: Array, b: Array) -> float:
    """How far two arrays of one shape are apart: the norm of the difference by that of ``a`` (of ``b`` if that is 0).

    0 if they are equal. Where entries that aren't finite differ it is at least 1. Linear; nothing is copied as a whole.

    >>> relative(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    >>> relative(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])), relative(np.zeros(2), np.array([0.0, np.inf]))
    (0.0, 1.0)
    """
    if a is b or not a.size:
        return 0.0
    sums, strange = np.zeros(3), False
    walk = np.nditer([a, b], ["external_loop", "buffered", "delay_bufalloc"], order="K", buffersize=_PIECE)
    with walk, np.errstate(all="ignore"):
        walk.reset()
        for x, y in walk:
            if x.dtype == y.dtype and x.tobytes() == y.tobytes():
                own = _double(x)
                sums += (0.0, *[_squares(np.where(np.isfinite(own), own, 0.0))] * 2)
                continue
            x, y = _double(x), _double(y)
            finite = np.isfinite(x) & np.isfinite(y)
            strange = strange or bool(((x != y) & ~(np.isnan(x) & np.isnan(y)) & ~finite).any())
            x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
            sums += (_squares(y - x), _squares(x), _squares(y))
    difference, own, other = np.sqrt(sums).tolist()
    found = 0.0 if difference == 0 else difference / (own or other)
    return max(found, 1.0) if strange or not math.isfinite(found) else found


def _double(x: Array) -> Array:
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def _squares(x: Array) -> float:
    return float(np.vdot(x, x).real)
