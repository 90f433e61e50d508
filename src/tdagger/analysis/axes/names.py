"""Names for the axes of a graph, and every dimension as a person would write it: ``f32[b (h d) s]``.

An axis that stands for itself has a short name: one that was given, or the letter of its role (see
:mod:`tdagger.analysis.axes.roles`) and a number in order of first use. A dimension that windows, slices, pads or
concatenations made of others is written as what it is: ``h/2``, ``(1 + s)``.

>>> import tdagger as td
>>> x, w = td.input("x", (2, 3, 8, 8)), td.parameter("w", (5, 3, 3, 3))
>>> y = td.convolution(x, w, stride=(2, 2), padding=((1, 1), (1, 1)))
>>> named = NamedAxes(Axes(td.Graph({"x": x}, {"y": y})))
>>> named.show(x), named.show(y)
('f32[b c h w]', 'f32[b c2 h/2 w/2]')
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.notation import parse, runs, show_line, show_term
from tdagger.analysis.axes.roles import Roles
from tdagger.analysis.axes.terms import Axis, resolve, size_of
from tdagger.errors import AxisError
from tdagger.graph import result_types
from tdagger.names import shown
from tdagger.op import Term, Terms, Value
from tdagger.pickling import dump, load

#: A line longer than this, or of lines deeper than this, gets a name instead.
_LONGEST, _DEEPEST = 26, 12

#: Of how many sizes of axes with one letter a summary tells.
_LISTED = 12

#: Names for axes: for every input as einops writes it, for the only input without a mapping.
Given = Mapping[str, str] | str | None


@dataclass(frozen=True)
class Hidden:
    """A dimension of which not everything is known: why, at which value, and where that is in the source."""

    reason: str
    value: Value
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = " ".join(filter(None, (shown(self.module), f"({shown(self.source)})" if self.source else "")))
        return f"{self.value.op}{' in ' + where if where else ''}: {self.reason}"


class NamedAxes:
    """The axes of a graph with names. ``named[value]`` are the terms of a value's dimensions.

    ``sizes`` maps every name to its size; ``opaque`` tells where dimensions could not be told apart, and why.
    ``given`` names the dimensions of inputs; AxisError says what does not fit.
    """

    def __init__(self, axes: Axes, given: Given = None, origins: Mapping[Value, Any] | None = None) -> None:
        self.axes = axes
        self.given = given
        self.origins = origins or {}
        self._terms: dict[str, Term] = {}
        self._counts: Counter[str] = Counter()
        self._given(given)
        self._roles = Roles(axes)
        batch = list(self._roles.batch)
        if len(batch) > 1 and len({a.size for a in batch}) == 1 and not _meet(axes, set(batch)):
            for other in batch[1:]:  # inputs that never meet have one batch all the same
                axes.equate(batch[0], other)
            self._roles = Roles(axes)
        self._whole = {axis: term for term in self._terms.values() if len(term) > 1 for axis in term}
        self._name_all()
        self.sizes: dict[str, int] = {n: size_of(t) for n, t in self._terms.items()}

    def __reduce__(self) -> Any:
        given = self.given if self.given is None or isinstance(self.given, str) else dict(self.given)
        return (_of_parts, (self.axes, given, dump(dict(self.origins))))

    def __getitem__(self, value: Value) -> Terms:
        """The terms of a value's dimensions."""
        return self.axes[value]

    def term(self, name: str) -> Term:
        """The axes that have a name: one, or several for a dimension of an input that was split."""
        if name not in self._terms:
            known = ", ".join(f"{n}={s}" for n, s in list(self.sizes.items())[:24])
            raise AxisError(f"no axis is named {name!r}; there are {known or 'none'}")
        return resolve(self._terms[name])

    def dimension(self, term: Term) -> str:
        """A term as people write it: ``(h d)``, ``b``, 1 for what stands for nothing."""
        return show_term(term)

    def shape(self, value: Value, sizes: bool = False) -> str:
        """``b (h d) s``; with ``sizes`` ``b=2 (h d)=64 s=7``. Of several results: those of each, with commas."""
        types = result_types(value)
        shown: list[str] = []
        for terms, type_ in zip(self.axes.of(value), types, strict=True):
            names = map(show_term, terms)
            pairs = zip(names, type_.shape, strict=True)
            shown.append(" ".join(f"{t}={n}" if sizes and t != str(n) else t for t, n in pairs))
        return ", ".join(shown)

    def show(self, value: Value, sizes: bool = False) -> str:
        """The type of a value with names: ``f32[b (h d) s]``; of several results ``(f32[b], i64[b])``."""
        shapes = self.shape(value, sizes).split(", ")
        each = [f"{t.dtype.name}[{s}]" for t, s in zip(result_types(value), shapes, strict=True)]
        return each[0] if len(each) == 1 else f"({', '.join(each)})"

    @property
    def opaque(self) -> list[Hidden]:
        """Where dimensions could not be told apart, in the order of the graph."""
        found = [
            (o.value, f"{show_term(o.term)} and {show_term(o.other)} are two views of {size_of(o.term)} entries")
            for o in self.axes.opaque
        ]
        hides = [m for m in self.axes.marks if m.how == "hides"]
        found += [(m.value, f"what becomes of {show_term(m.term)} is not known") for m in hides]
        return [self._hidden(value, reason) for value, reason in dict.fromkeys(found)]

    def _hidden(self, value: Value, reason: str) -> Hidden:
        origin = self.origins.get(value)
        return Hidden(reason, value, *((origin.module, origin.source) if origin else ()))

    def summary(self, values: list[Value] | None = None) -> str:
        """``b=2  s=7  c..c4=64``: the sizes of the named axes, or of those that some values carry.

        Of very many with one letter those in the middle are left out then.
        """
        names = list(self._terms)
        if values is not None:
            carried = {w for v in values for w in re.findall(r"[A-Za-z]\w*", self.shape(v))}
            names = [n for n in names if n in carried]
        return "  ".join(runs(names, self.sizes, _LISTED if values is not None else len(names)))

    def __str__(self) -> str:
        graph = self.axes.graph
        lines = [f"axes  {self.summary()}"]
        for label, values in (("in", graph.inputs), ("out", graph.outputs)):
            lines += [f"  {label:3}  {shown(name)}: {self.show(v)}" for name, v in values.items()]
        splits = dict.fromkeys(self._splits())
        lines += ["  where", *(f"    {s}" for s in splits)] if splits else []
        hidden = self.opaque
        lines += ["  opaque", *(f"    {h}" for h in hidden)] if hidden else []
        return "\n".join(lines)

    def _splits(self) -> Iterator[str]:
        """What was split into named axes, and named axes that are made of others."""
        for name, term in self._terms.items():
            if len(resolve(term)) > 1:
                yield f"{name} = {show_term(term)}"
        for axis in self.axes.all:
            for line in axis.lines if axis.parent is None else ():
                shown = show_line(line)
                made = show_term((axis,))
                if made not in (shown, str(axis.size)) and shown and line.firm and f"{made}/" not in shown:
                    yield f"{shown} = {made}"

    # Giving names.

    def _given(self, given: Given) -> None:
        inputs = self.axes.graph.inputs
        if isinstance(given, str):
            if len(inputs) != 1:
                raise AxisError(f"{len(inputs)} inputs ({', '.join(inputs)}): name axes as {{input: {given!r}}}")
            given = {next(iter(inputs)): given}
        for name, pattern in (given or {}).items():
            if name not in inputs:
                raise AxisError(f"axes {pattern!r}: there is no input {name!r}; there are {', '.join(inputs)}")
            self._fit(name, inputs[name], pattern)

    def _fit(self, name: str, value: Value, pattern: str) -> None:
        """Give the dimensions of an input the names of a pattern."""

        def wrong(why: str, what: str) -> AxisError:
            return AxisError(f"axes {pattern!r} of input {name}, {value.type}: {why}; {what}")

        try:
            parts = parse(pattern)
        except ValueError as e:
            raise wrong(str(e), "write names as in einops: 'b (h d) 1 _ ...'") from None
        if ["..."] in parts:
            at = parts.index(["..."])
            parts[at : at + 1] = [["_"]] * max(value.rank - len(parts) + 1, 0)
        if len(parts) != value.rank:
            raise wrong(f"{len(parts)} names for {value.rank} dimensions", "name each, _ for one, ... for any others")
        for names, term, n in zip(parts, self.axes[value], value.shape, strict=True):
            if names == ["1"] or not names:
                if n != 1:
                    raise wrong(f"1 for a dimension of {n}", "write _ to leave it unnamed")
            elif len(names) == 1:
                self._claim(names[0], term, wrong)
            elif len(term) != len(names):
                found = f"({' '.join(str(a.size) for a in term)})" if len(term) != 1 else f"one axis of {n}"
                raise wrong(f"({' '.join(names)}) for what is {found}", "give it one name")
            else:
                for part, axis in zip(names, term, strict=True):
                    self._claim(part, (axis,), wrong)

    def _claim(self, name: str, term: Term, wrong: Any) -> None:
        if name == "_" or not term:
            return
        before = self._terms.setdefault(name, term)
        if size_of(before) != size_of(term):
            raise wrong(f"{name} is {size_of(before)} already, here it is {size_of(term)}", "use two names")
        if resolve(before) != resolve(term):  # the caller says that they are one
            self.axes.join((before,), (term,))

    def _name_all(self) -> None:
        for name, term in self._terms.items():
            self._counts[name] += 1
            if len(resolve(term)) == 1:
                resolve(term)[0].name = name
        for letter, term in self._roles.wholes:
            if not any(a.name or a in self._whole for a in term):
                self._terms[self._next(letter)] = term
        inputs = [a for v in self.axes.graph.inputs.values() for t in self.axes[v] for a in t]
        for axis in dict.fromkeys([*inputs, *(a for a in self._roles.order if self._roles.letter(a) == "b")]):
            self._name(axis)
        for axis in self._roles.order:  # what these are made of is told by them
            if axis.lines and self._roles.is_held(axis) and self._roles.letter(axis) != "c":
                self._name(axis)
        aliases = self._aliases()
        for axis in self._roles.order:
            if axis not in aliases:
                self._name(axis)
        for axis, stands_for in aliases.items():
            for each in stands_for:
                for a in each:
                    self._name(a)
            shown = {show_term(t) for t in stands_for}
            axis.name = shown.pop() if len(shown) == 1 else str(axis.size)
        for axis in self.axes.all:
            if axis.parent is None and not axis.factors:
                self._name(axis)

    def _aliases(self) -> dict[Axis, list[Term]]:
        """What the axes of values made of constants alone stand for where they are used."""
        found: dict[Axis, list[Term]] = {}
        for copies in self.axes.copies.values():
            for axis, copy in copies.items():
                found.setdefault(axis.root(), []).append(resolve((copy,)))
        return {a: t for a, t in found.items() if not a.factors}

    def _next(self, letter: str) -> str:
        while True:
            self._counts[letter] += 1
            number = self._counts[letter]
            name = letter if number == 1 else f"{letter}_{number}" if letter[-1].isdigit() else f"{letter}{number}"
            if name not in self._terms:
                return name

    def _name(self, axis: Axis, depth: int = 0) -> None:
        """Name an axis, and first those that its line is made of."""
        if axis.name:
            return
        letter = self._letter(axis)
        own = self._roles.is_held(axis) or (axis.kind == "input" and _is_made_of_itself(axis))
        if axis.lines and depth < _DEEPEST and not own:
            axis.name = "?"  # what is made of itself finds this
            for line in axis.lines[:4]:
                for part in line.parts:
                    for a in () if isinstance(part, int) else resolve(part):
                        self._name(a, depth + 1)
            shown = [s for line in axis.lines[:4] if (s := show_line(line)) and "?" not in s]
            shown = [s for s in shown if len(s) <= _LONGEST]
            axis.name = min(shown, key=len, default="")
        if not axis.name and not letter:
            axis.name = str(axis.size)
        if not axis.name:
            axis.name = self._next(letter)
            self._terms[axis.name] = (axis,)
            self._name_half(axis)

    def _letter(self, axis: Axis) -> str:
        whole = self._whole.get(axis)
        if whole is not None:
            return next(n for n, t in self._terms.items() if t is whole)
        return self._roles.letter(axis)

    def _name_half(self, axis: Axis) -> None:
        """Where one axis laid end to end makes a named one, it is that divided by a number."""
        for line in axis.lines:
            parts = [p for p in line.parts if not isinstance(p, int)]
            one = resolve(parts[0]) if parts and line.firm and line.is_sum and len(set(parts)) == 1 else ()
            if len(parts) > 1 and len(parts) == len(line.parts) and len(one) == 1 and not one[0].name:
                one[0].name = f"{axis.name}/{len(parts)}"


def _is_made_of_itself(axis: Axis) -> bool:
    """Whether an axis is counted from what is counted from it: an image that is halved, and doubled again."""
    seen: set[Axis] = set()
    stack = [axis]
    while stack:
        for line in stack.pop().lines:
            found = {a for p in line.parts if not isinstance(p, int) for a in resolve(p)}
            if axis in found:
                return True
            stack += found - seen
            seen |= found
    return False


def _meet(axes: Axes, these: set[Axis]) -> bool:
    """Whether two of some axes are different dimensions of one value: then they are not one axis."""
    return any(sum(a in these for t in terms for a in t) > 1 for value in axes.graph.values for terms in axes.of(value))


def _of_parts(axes: Axes, given: Given, origins: tuple[Any, ...]) -> NamedAxes:
    """The names that :meth:`NamedAxes.__reduce__` took apart."""
    return NamedAxes(axes, given, load(*origins))
