"""What every axis of a graph is for, and so the letter it is named with.

====== =====================================================================================================
b      what the first dimension of the inputs carries, if nothing windows it and it is not of parameters
t h w  dimensions of inputs that are windowed: one is ``t``, two are ``h w``, three ``t h w``
s      tokens: later dimensions of integer inputs, and what is attended (a softmax over it)
h g d  heads, groups of heads and the size of a head (``heads`` where ``h`` is a height)
c      channels: dimensions of parameters that values carry
k      dimensions of parameters that no value carries: kernels
n      anything else
====== =====================================================================================================

What an axis was split into, and what was made of it by windows and the like, has its letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.op import Term, Value
from tdagger.ops.source import Buffer, Leaf, Parameter

#: By how many dimensions of an input are windowed.
_WINDOWED = {1: ("t",), 2: ("h", "w"), 3: ("t", "h", "w")}

_WINDOWS = ("takes windows of", "adds up windows of", "pads")

#: What a dimension is first of all, whatever parameters meet it: these tell what its factors are.
_SOURCES = ("input", "line")

#: How many of the axes that one was made of are asked what they are.
_NEAR = 32

#: A factor of parameters that only counts what lies in them (q, k and v) is at most so large.
_FEW = 8


def _weights(axes: Axes) -> set[Value]:
    """The parameters, and what stands for one: the integers of one that is quantized, and what they are taken for."""
    found: set[Value] = set()
    for value in axes.graph.values:
        if isinstance(value.op, Parameter):
            found.add(value)
        elif value.op.name == "dequantize" and isinstance(value.args[0].op, Buffer | Parameter):
            found.update((value, value.args[0]))
    return found


class Roles:
    """The letter of every axis that stands for itself; ``""`` for one that is shown as a number.

    ``order`` lists those axes in order of first use; ``wholes`` the letters of dimensions of inputs that were
    split. Linear in the graph.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.order: dict[Axis, None] = {}
        self.wholes: list[tuple[str, Term]] = []
        self._letters: dict[Axis, str] = {}
        self._carried: set[Axis] = set()
        self._alone: set[Axis] = set()
        self._leading: Counter[Axis] = Counter()
        self._marks: dict[Axis, set[str]] = {}
        self._attended: set[Axis] = set()
        self._of_parameters: set[Axis] = set()
        self._parents: dict[Axis, Axis] = {}
        self._views: dict[Axis, Term] = {}
        self.batch: set[Axis] = set()
        self._weights = _weights(axes)
        self._walk()
        self._collect_marks()
        self._collect_splits()
        self._inputs()
        self._heads()

    def letter(self, axis: Axis) -> str:
        """The letter of an axis that stands for itself."""
        found = self._letters.get(axis)
        if found is None:
            found = self._letters[axis] = self._near(axis)
        return found

    def _near(self, axis: Axis) -> str:
        """The letter of the nearest of the axes it was made of that says what it is."""
        queue, at = [axis], 0
        while at < min(len(queue), _NEAR):
            found = self._letters.get(queue[at]) if at else None
            found = self._own(queue[at]) if found is None else found
            if found is not None and (found or not at):
                return found
            queue += [a for a in self._origin(queue[at]) if a not in queue]
            at += 1
        return "s" if any(a in self._attended for a in queue[:at]) else "n"

    def is_held(self, axis: Axis) -> bool:
        """Whether it has a name of its own though a line tells its size: heads, and what is one thing repeated."""
        if self._letters.get(axis) in ("heads", "h", "g", "d") and axis in self._of_parameters:
            return True
        return axis in self._of_parameters and any(
            len(line.parts) > 1 and len(set(line.parts)) == 1 for line in axis.lines
        )

    # What the graph says.

    def _walk(self) -> None:
        for value in self.axes.graph.values:
            dynamic = self.axes.is_dynamic(value)
            if value in self._weights:
                self._of_parameters.update(a for t in self.axes[value] for a in t)
            for terms in self.axes.of(value):
                for term in terms:
                    self.order.update(dict.fromkeys(term))
                    if dynamic:
                        self._carried.update(term)
                        # what stands before others of its parameter is alone only if they don't follow it
                        self._alone.update(term[-1:])
                if dynamic and terms and terms[0]:
                    self._leading[terms[0][0]] += 1

    def _collect_marks(self) -> None:
        ops: dict[tuple[Value, Axis], set[str]] = {}
        for mark in self.axes.marks:
            for axis in resolve(mark.term):
                self._marks.setdefault(axis, set()).add(mark.how)
                ops.setdefault((mark.value, axis), set()).add(mark.how)
        for (_, axis), hows in ops.items():
            if {"takes the max over", "takes the sum over"} <= hows and axis not in self._of_parameters:
                self._attended.add(axis)
        for axis in self.axes.all:
            for line in axis.lines:
                if line.firm and line.divisor > 1:
                    for part in line.parts:
                        for a in () if isinstance(part, int) else resolve(part):
                            self._marks.setdefault(a, set()).add("takes windows of")

    def _collect_splits(self) -> None:
        for axis in self.axes.all:
            if axis.parent is None:
                for factor in axis.factors:
                    before = self._parents.get(factor.root())
                    if before is None or (before.kind not in _SOURCES and axis.kind in _SOURCES):
                        self._parents[factor.root()] = axis
        for left, right in self.axes.equal:
            for axis in resolve(right):
                self._views.setdefault(axis, resolve(left))

    def _own(self, axis: Axis) -> str | None:
        """The letter of what says by itself what it is; None if it has that of another."""
        marks = self._marks.get(axis, set())
        if axis.size == 1 and axis.kind != "input":
            return ""
        parent = self._parents.get(axis)
        if axis in self._of_parameters and not (parent and self._is_source(parent)):
            few = axis.size <= _FEW and parent is not None
            if few and ("takes one entry of" in marks or ("slices" in marks and axis not in self._alone)):
                return ""
            if "indexes" in marks:
                return "n"
            return "c" if axis in self._carried else "k"
        return "" if axis.kind == "fill" else "n" if axis.kind in ("buffer", "const", "banded") else None

    def _is_source(self, axis: Axis) -> bool:
        """Whether it was an axis of inputs, or made of such, before it was split."""
        parts = [a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in resolve(p)]
        parts += resolve((axis,)) if axis.kind == "input" else ()
        return any(a not in self._of_parameters for a in parts)

    def _origin(self, axis: Axis) -> Iterator[Axis]:
        """The axes that one was made of, those that aren't of parameters first."""
        sources: list[Axis] = []
        for made in (axis, self._parents.get(axis)):
            for line in made.lines if made else ():
                for part in line.parts:
                    sources += () if isinstance(part, int) else resolve(part)
        sources += self._views.get(axis, ())
        parent = self._parents.get(axis)
        if parent is not None and parent in self._parents:
            sources.append(parent)
        yield from sorted(sources, key=self._of_parameters.__contains__)

    # Inputs.

    def _inputs(self) -> None:
        batch = self.batch = self._batch()
        for value in self.axes.graph.inputs.values():
            terms = self.axes[value]
            open_ = [t for t in terms if any(a not in self._of_parameters and a not in batch for a in t)]
            windowed = [t for t in open_ if any(self._is_windowed(a) for a in t)]
            letters = dict(zip(map(id, windowed), _WINDOWED.get(len(windowed), "n" * len(windowed)), strict=True))
            for i, term in enumerate(terms):
                letter = letters.get(id(term), "n")
                if any(a in batch for a in term):
                    letter = "b"
                elif (not value.dtype.is_float and i) or any(a in self._attended for a in term):
                    letter = "s"
                elif letter == "n" and any(self._is_contracted(a) for a in term):
                    letter = "c"
                self._name_input(term, letter)

    def _name_input(self, term: Term, letter: str) -> None:
        loose = [a for a in term if a not in self._of_parameters]
        letter = "c" if letter == "n" and len(loose) < len(term) else letter
        if len(term) > 1 and loose and not any(a in self._letters for a in loose):
            self.wholes.append((letter, term))
        for axis in loose:
            self._letters.setdefault(axis, letter)

    def _is_windowed(self, axis: Axis) -> bool:
        return axis not in self._of_parameters and any(how in self._marks.get(axis, ()) for how in _WINDOWS)

    def _is_contracted(self, axis: Axis) -> bool:
        """Whether it is summed over together with a parameter."""
        return any(
            mark.how == "takes the sum over"
            and axis in resolve(mark.term)
            and any(a in self._weights for a in mark.value.args)
            for mark in (self.axes.marks if "takes the sum over" in self._marks.get(axis, ()) else ())
        )

    def _batch(self) -> set[Axis]:
        """What the first dimension of inputs carries; else the axis of size 1 that leads most values."""
        first = [t[0] for t in map(self.axes.__getitem__, self.axes.graph.inputs.values()) if t and t[0]]
        first = [t for t in first if not any(a in self._of_parameters or self._is_windowed(a) for a in t)]
        only_carried = [t for t in first if not any(self._marks.get(a) for a in t)]
        if only_carried:
            return {a for t in only_carried for a in t}
        inputs = map(self.axes.__getitem__, self.axes.graph.inputs.values())
        of_images = [
            t[0] for t in inputs if t and t[0] in first and any(self._is_windowed(a) for d in t[1:] for a in d)
        ]
        if of_images:  # it can't be tokens, whatever is done with it
            return {a for t in of_images for a in t}
        loose = {a for t in first for a in t if a not in self._attended}
        count = sum(self.axes.is_dynamic(v) for v in self.axes.graph.values)
        for axis, n in self._leading.most_common():
            if 2 * n < count:
                break
            if axis.kind == "one" or axis in loose:
                self._letters[axis] = "b"
                return {axis}
        return set()

    # Attention: products of two values that depend on the inputs.

    def _heads(self) -> None:
        heads: set[Axis] = set()
        summed: dict[Value, set[Axis]] = {}
        for mark in self.axes.marks:
            if mark.how == "takes the sum over":
                summed.setdefault(mark.value, set()).update(resolve(mark.term))
        for value, gone in summed.items():
            if sum(self.axes.is_dynamic(a) for a in value.args) < 2 or len(self.axes.of(value)) != 1:
                continue
            result = Counter(a for t in self.axes[value] for a in t)
            shared = {a for a, n in result.items() if n == 1} - gone
            for i in (0, 1):
                shared &= {a for t in self.axes.at(value, i) for a in t}
            heads |= {a for a in shared if a in self._of_parameters and a in self._parents}
        taken = {"h"} & set(self._letters.values())
        for value in self.axes.graph.values:
            leaf = isinstance(value.op, Leaf) and (value in self._weights or not isinstance(value.op, Buffer))
            for term in self.axes[value] if leaf else ():
                inside = [i for i, a in enumerate(term) if a in heads]
                if not inside or inside[-1] == len(term) - 1:
                    continue
                for i in inside:
                    self._letters.setdefault(term[i], "g" if i != inside[0] else "heads" if taken else "h")
                for axis in term[inside[-1] + 1 :]:
                    self._letters.setdefault(axis, "d")
