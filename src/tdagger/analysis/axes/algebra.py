"""The axis algebra: which axes every dimension of every value is made of.

A dimension is a *term*: a product of axes, outermost first, ``(h d)``; none for a dimension of size 1 that stands for
nothing. Every core op has one rule (``Op.axis_rule``); composites get theirs from their bodies, once for each op
and argument types. Joining two terms is unification: equal axes become one, an axis that meets a product is
split into it, everywhere. A concatenated, padded or windowed dimension is a new axis with a *line* that says
how many entries it has: ``(1 + n)``, ``(h + 1) // 2``.

Axes of size 1 multiply to 1, so a dimension may carry one beside others, or not: joining ``(b)`` of size 1 with a
dimension of size 1 that stands for nothing gives ``(b)``, and changes nothing in the argument without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from tdagger.analysis.axes.terms import (
    Axis,
    Guess,
    Line,
    Mark,
    Opaque,
    firm_line,
    ones_counted,
    resolve,
    size_of,
    sources_of,
    sum_line,
    without_ones,
)
from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, bulk, is_one, result_types, topological
from tdagger.op import Term, Terms, Value
from tdagger.ops.external import External
from tdagger.ops.source import Const, Input, Iota, Leaf
from tdagger.ops.structure import Item
from tdagger.types import Sized, TensorType, sized

T = TypeVar("T")

#: Ops that lay entries out anew, all of them.
_REGROUPING = frozenset({"group", "ungroup"})


class Axes:
    """The axes of a graph, found in one walk; see the module.

    ``assume_size_one``: an entry of an axis of size 1 is the whole axis (``x[0]`` of a batch of one is the batch).
    """

    def __init__(self, graph: Graph, assume_size_one: bool = False) -> None:
        self.graph = graph
        self.assume_size_one = assume_size_one
        self.marks: list[Mark] = []
        self.opaque: list[Opaque] = []
        #: Everything that is assumed where sizes change; see :func:`tdagger.analysis.axes.sizes.assumed`.
        self.guesses: list[Guess] = []
        #: Dimensions of size 1 that were squeezed away: with more entries they would stay.
        self.ones: list[tuple[Value, Term]] = []
        #: Factors that were given as numbers where another was left open (-1), and follows.
        self.stated: list[Term] = []
        self.equal: list[tuple[Term, Term]] = []
        #: For a value and the place of an argument, what its dimensions are there, where that differs.
        self.expected: dict[tuple[Value, int], Terms] = {}
        #: Where slices start: the entries before them, for a value and a dimension.
        self.starts: dict[tuple[Value, int], Line] = {}
        #: The axes of a composite's body that the axes of its arguments stand for.
        self.inside: dict[Value, dict[Axis, Term]] = {}
        #: What stands for the axes of an argument made of constants alone, for this use of it.
        self.copies: dict[tuple[Value, int], dict[Axis, Axis]] = {}
        self.all: list[Axis] = []
        self._terms: dict[Value, Any] = {}
        self._lines: dict[Any, Term] = {}
        self._value: Value
        self._dynamic: set[Value] = set()
        #: What is made of constants alone.
        self.static: set[Value] = set()
        #: Terms in axes that stand for themselves, of values and arguments; while these are being found, nothing.
        self._resolved: dict[Any, Any] = {}
        self._is_found = False
        with bulk():
            for value in graph.values:
                self._visit(value)
        self._is_found = True

    def __reduce__(self) -> Any:
        # found again: axes point to each other as deep as the graph is
        return (Axes, (self.graph, self.assume_size_one))

    def __getitem__(self, value: Value) -> Terms:
        """The terms of a value's dimensions."""
        return self._once(value, self._terms[value])

    def of(self, value: Value) -> list[Terms]:
        """The terms of a value's dimensions, of each result if it has several."""
        if is_one(value):
            return [self[value]]
        return [tuple(map(resolve, terms)) for terms in self._terms[value]]

    def _once(self, key: Any, terms: Terms) -> Terms:
        """Terms in axes that stand for themselves: those of a value, or of one argument of it."""
        found = self._resolved.get(key)
        if found is None:
            found = tuple(map(resolve, terms))
            if self._is_found:
                self._resolved[key] = found
        return found

    def is_dynamic(self, value: Value) -> bool:
        """Whether a value depends on the inputs."""
        return value in self._dynamic

    def at(self, value: Value, argument: int) -> Terms:
        """The terms of an argument's dimensions as ``value`` takes them."""
        key = (value, argument)
        found = self.expected.get(key)
        return self[value.args[argument]] if found is None else self._once(key, found)

    def uses(self, value: Value, argument: int, of_copy: Callable[[Axis], T], dimensions: Sequence[T]) -> dict[Axis, T]:
        """What the axes of an argument made of constants alone are in this use of it: of each copy, and of a dimension.

        A dimension that is one axis is taken whole: joined to a product that has more axes of size 1, it has them too.
        """
        found = {axis.root(): of_copy(copy) for axis, copy in self.copies.get((value, argument), {}).items()}
        terms = self[value.args[argument]]
        return found | {t[0]: n for t, n in zip(terms, dimensions, strict=True) if len(t) == 1}

    # The walk.

    def _visit(self, value: Value) -> None:
        op = value.op
        self._value = value
        if isinstance(op, Input) or any(a in self._dynamic for a in value.args):
            self._dynamic.add(value)
        args = [self._terms[a] for a in value.args]
        if isinstance(op, Const | Iota) or (not isinstance(op, Leaf) and all(a in self.static for a in value.args)):
            self.static.add(value)
        else:
            args = [
                self._use(value, i) if a in self.static else t
                for i, (a, t) in enumerate(zip(value.args, args, strict=True))
            ]
        if isinstance(op, Item):
            self._terms[value] = args[0][op.index]
        elif isinstance(op, Composite):
            self._terms[value] = self._compose(value, op, args)
        elif isinstance(op, External):
            results = [op.axis_rule(self, t, *args) for t in result_types(value)]
            self._terms[value] = results[0] if len(results) == 1 else results
        else:
            self._terms[value] = op.axis_rule(self, value.type, *args)
        if op.name in ("gather", "scatter") and value not in self.static:
            index = value.args[1]
            if index.op.name == "linear_index" and index.args[0] is value.args[0] and (index, 0) in self.copies:
                self.join(self.expected[index, 0], args[0])  # one tensor of constants: what is written to, or read
            given = [a for a in (index.args[1:] if index.op.name == "linear_index" else (index,)) if a in self.static]
            if given and any(isinstance(v.op, Const) and v.type.size > 1 for v in topological(given)):
                self.guess(args[0][int(op.attributes["axis"])], "is indexed with numbers that are given")

    def _use(self, value: Value, argument: int) -> Terms:
        """The axes of something made of constants alone, for one use of it.

        Equal constants are one value, whatever they are for, so each use has axes of its own.
        """
        terms: Terms = self._terms[value.args[argument]]
        if not any(terms):
            return terms
        copies: dict[Axis, Axis] = {}

        def copy(term: Term) -> Term:
            return tuple([copies.get(a) or made(a) for a in resolve(term)])

        def made(axis: Axis) -> Axis:
            new = copies[axis] = Axis(axis.size, axis.kind, axis.rigid)
            self.all.append(new)
            for line in axis.lines:
                parts = [p if isinstance(p, int) else copy(p) for p in line.parts]
                new.lines.append(line._replace(parts=tuple(parts)))
            return new

        found = self.expected[value, argument] = tuple(map(copy, terms))
        self.copies[value, argument] = copies
        return found

    # The rules' side: see AxisRules in op.py.

    def fresh(self, size: int, why: str) -> Term:
        op = self._value.op
        rigid = op.leaf if isinstance(op, Leaf) and why != "input" else f"the constant {op}" if why == "const" else ""
        axis = Axis(size, why, rigid)
        self.all.append(axis)
        return (axis,)

    def one(self) -> Term:
        # what only weights go into is broadcast against the network's own axes, so it needs no axis of size 1
        return self.fresh(1, "one") if self._value in self._dynamic else ()

    def mark(self, term: Term, how: str) -> None:
        if term:
            self.marks.append(Mark(self._value, term, how))

    def guess(self, term: Term, what: str, told_by: Term = ()) -> None:
        if term:
            self.guesses.append(Guess(self._value, term, what, told_by, keeps=self._value.op.name in _REGROUPING))

    def stays_one(self, term: Term) -> None:
        if term:
            self.ones.append((self._value, term))

    def expect(self, argument: int, terms: Terms) -> None:
        own = self._terms[self._value.args[argument]]
        if (self._value, argument) in self.copies or (
            own is not terms
            and any(
                o is not t and {a for a in resolve(o) if a.size == 1} != {a for a in resolve(t) if a.size == 1}
                for o, t in zip(own, terms, strict=True)
            )
        ):
            self.expected[self._value, argument] = terms

    def join(self, *args: Terms) -> Terms:
        out = args[0]
        for other in args[1:]:
            if other is not out and other != out:
                out = tuple([self._join(a, b) for a, b in zip(out, other, strict=True)])
        return out

    def _join(self, a: Term, b: Term) -> Term:
        if a is b or a == b:
            return a
        a, b = resolve(a), resolve(b)
        if a == b:
            return a
        for x, y in ((a, b), (b, a)):
            if len(x) == 1 and x[0].kind == "repeated" and x[0].size != 1 and len(y) > 1 and x[0] not in y:
                # what is only repeated has as many entries as it is joined to, axes of size 1 included
                x[0].factors = y
                return y
        ones_a, ones_b = ([x for x in t if x.size == 1] for t in (a, b))
        self._align([x for x in a if x.size != 1], [x for x in b if x.size != 1])
        if ones_a == ones_b or not ones_b:
            return a
        if not ones_a:
            return b
        if len(ones_a) == len(ones_b):
            for x, y in zip(ones_a, ones_b, strict=True):
                if (x.kind == "one") == (y.kind == "one"):
                    self.equate(x, y)
            return a if any(x.kind != "one" for x in ones_a) else b
        return (*[x for x in ones_b if x not in ones_a], *a)

    def equate(self, a: Axis, b: Axis) -> None:
        """Two axes of one size become one: an op joins them, or somebody knows what the graph doesn't say."""
        a, b = a.root(), b.root()
        if a is b:
            return
        self._resolved.clear()
        if a.factors or b.factors:
            self._align(list(resolve((a,))), list(resolve((b,))))
            return
        if _WEIGHT.get(b.kind, 1) > _WEIGHT.get(a.kind, 1):
            a, b = b, a
        b.parent = a
        a.rigid = a.rigid or b.rigid
        one, other = sum_line((a,)), sum_line((b,))
        a.lines += b.lines
        if one is not None and other is not None:
            self._cancel(one, other)

    def _cancel(self, one: Line, other: Line) -> None:
        """Two sums of as many entries that differ in one part: ``(n + 1)`` is ``(m + 1)``, so ``n`` is ``m``."""
        pairs = [
            (p, q) if isinstance(p, int) or isinstance(q, int) else (resolve(p), resolve(q))
            for p, q in zip(one.parts, other.parts, strict=False)
        ]
        if one.offset != other.offset or len(one.parts) != len(other.parts):
            return
        left = [(p, q) for p, q in pairs if p != q]
        if len(left) == 1 and not any(isinstance(p, int) for p in left[0]):
            self._join(*cast(Any, left[0]))

    def _split_axis(self, axis: Axis, inner: int) -> tuple[Axis, Axis]:
        kind = "part" if axis.kind != "parameter" else "parameter"
        axis.factors = (Axis(axis.size // inner, kind, axis.rigid), Axis(inner, kind, axis.rigid))
        self.all += axis.factors
        return axis.factors

    def _align(self, a: list[Axis], b: list[Axis]) -> None:
        """Equate two products of axes that aren't of size 1, from the inside out, splitting axes where needed."""
        if a == b:
            return
        if any(x.size == 0 for x in (*a, *b)):
            if [x.size for x in a] == [x.size for x in b]:
                for x, y in zip(a, b, strict=True):
                    self.equate(x, y)
            return
        while a and b:
            x, y = a.pop().root(), b.pop().root()
            if x.factors or y.factors:  # split a moment ago
                a += [f for f in resolve((x,)) if f.size != 1]
                b += [f for f in resolve((y,)) if f.size != 1]
            elif x is y:
                continue
            elif x.size == y.size:
                self.equate(x, y)
            elif x.size % y.size == 0:
                outer, inner = self._split_axis(x, y.size)
                self.equate(inner, y)
                a.append(outer)
            elif y.size % x.size == 0:
                outer, inner = self._split_axis(y, x.size)
                self.equate(inner, x)
                b.append(outer)
            else:
                a.append(x)
                b.append(y)
                self._two_views(a, b)

    def _two_views(self, a: list[Axis], b: list[Axis]) -> None:
        """The innermost axes of two products that only have one size together: each keeps its own view."""
        left, right = [a.pop()], [b.pop()]
        while (m := size_of(tuple(left))) != (n := size_of(tuple(right))):
            side, more = (left, a) if m < n else (right, b)
            side.insert(0, more.pop())
        self._view(tuple(left), tuple(right))

    def split(self, term: Term, sizes: Sequence[int]) -> list[Term]:
        axes = resolve(term)
        if 0 in sizes:
            exact = [a.size for a in axes] == list(sizes)
            return [(a,) for a in axes] if exact else [self.fresh(n, "part") if n != 1 else () for n in sizes]
        big = [i for i, n in enumerate(sizes) if n != 1]
        pieces: list[list[Axis]] = [[] for _ in sizes]
        whole = {a for a in axes if a.size != 1}
        for i, piece in zip(
            big, self._split_big([a for a in axes if a.size != 1], [sizes[i] for i in big]), strict=True
        ):
            pieces[i] = piece
        stated = any(isinstance(n, Sized) for n in sizes)
        turned = sorted(a.size for a in whole) == sorted(n for n in sizes if n != 1)
        if turned and not whole.issuperset(a for piece in pieces for a in piece):
            self.guess(tuple(axes), f"is split into {_times(sizes)}, across its axes")
        inner = 1
        for axis in reversed(axes):
            if axis.size == 1 and not _place_one(axis, inner, sizes, pieces) and not stated and 1 in sizes:
                self.guess((axis,), f"of 1 entry is at another place in {_times(sizes)}")
            inner *= axis.size
        for axis in ones_counted(axes) if 1 in sizes and not stated else ():
            self.guess(
                (axis,), f"of 1 entry is a factor of what the dimension split into {_times(sizes)} is counted from"
            )
        found = [tuple(p) if p or n != 1 else self.one() for p, n in zip(pieces, sizes, strict=True)]
        for term, n in zip(found, sizes, strict=True) if stated else ():
            if not isinstance(n, Sized):
                self.stated.append(term)
                if 1 < n <= _FEW:
                    self.guess(term, f"is given as {n}, where another factor is left open")
        return found

    def _split_big(self, rest: list[Axis], sizes: list[int]) -> list[list[Axis]]:
        """Axes as factors of ``sizes``, none of size 1, from the inside out, splitting axes where needed."""
        pieces: list[list[Axis]] = [[] for _ in sizes]
        i = len(sizes) - 1
        need = sizes[i] if sizes else 1
        while i >= 0:
            axis = rest.pop().root()
            if axis.factors:  # split a moment ago
                rest += axis.factors
            elif need % axis.size == 0:
                pieces[i].insert(0, axis)
                need //= axis.size
            elif axis.size % need == 0:
                rest += self._split_axis(axis, need)
            else:  # new axes, that have only together the size of some of these
                together = [axis, *pieces[i]]
                first, product = i, sizes[i]
                while (n := size_of(tuple(together))) != product:
                    if n < product:
                        together.insert(0, rest.pop())
                    else:
                        first -= 1
                        product *= sizes[first]
                views = [self.fresh(n, "view")[0] for n in sizes[first : i + 1]]
                pieces[first : i + 1] = [[v] for v in views]
                self._view(tuple(together), tuple(views))
                i, need = first, 1
            if need == 1:
                i -= 1
                need = sizes[i] if i >= 0 else 1
        return pieces

    def _view(self, left: Term, right: Term) -> None:
        self.equal.append((left, right))
        self.opaque.append(Opaque(self._value, left, right))

    def line(self, parts: Sequence[Term | int], offset: int = 0, divisor: int = 1, firm: bool = True) -> Term:
        flat: list[Any] = []
        for part in parts:
            if isinstance(part, int):
                flat += [part] if part else []
                continue
            term = resolve(part)
            known = firm_line(term)
            if known is not None and known.divisor == 1:
                flat += known.parts
                offset += known.offset
            elif known is not None and len(parts) == 1:  # a floor of a floor is one floor
                flat += known.parts
                offset, divisor = known.offset + offset * known.divisor, known.divisor * divisor
            else:
                flat.append(term)
        if divisor > 1:  # where constant entries lie doesn't matter, so what was padded is a floor of a floor too
            offset += sum(p for p in flat if isinstance(p, int))
            flat = [p for p in flat if not isinstance(p, int)]
            known = firm_line(flat[0]) if len(flat) == 1 else None
            if known is not None:
                flat = list(known.parts)
                offset, divisor = known.offset + offset * known.divisor, known.divisor * divisor
        counts = Counter(p for p in flat if not isinstance(p, int))
        constant = offset + sum(p for p in flat if isinstance(p, int))
        if divisor > 1 and counts and not any(n % divisor for n in counts.values()):
            counts = Counter({t: n // divisor for t, n in counts.items()})
            flat = list(counts.elements())
            constant, divisor = constant // divisor, 1
            flat += [constant] if constant > 0 else []
            offset = min(constant, 0)
        whole = [t for t in counts.elements() if t]
        single = counts.get((), 0)  # so many times one entry that stands for nothing
        if divisor == 1 and counts and (constant + single, len(whole)) in ((0, 1), (1, 0)):
            return whole[0] if whole else ()
        key = (tuple(flat), offset, divisor)
        found = self._lines.get(key)
        if found is None:
            total = sum(p if isinstance(p, int) else size_of(p) for p in flat)
            found = self._lines[key] = self.fresh(max((total + offset) // divisor, 0), "line" if counts else "fill")
            found[0].lines.append(Line(tuple(flat), offset, divisor, firm))
        elif firm:  # what was guessed before is now told
            axis = found[0].root()
            axis.lines[:] = [line._replace(firm=True) if line[:3] == key else line for line in axis.lines]
        return found

    def like(self, term: Term, size: int) -> Term | None:
        sources = sources_of(term)
        for axis in self.all if sources else ():
            one = axis.root()
            if one.size == size and one.kind in ("input", "line") and not one.factors and sources_of((one,)) == sources:
                found = self.fresh(size, "line")
                found[0].lines.append(Line(((one,),), firm=False))
                return found
        return None

    def cut(self, axis: int, term: Term, start: int, stop: int, step: int) -> Term:
        size, count = size_of(term), len(range(start, stop, step))
        if step < 0:
            self.mark(term, "reverses")
            if not isinstance(start, Sized):
                self.guess(term, f"takes entries {start}:{stop}:{step}")
            return term if count == size else self._some(count)
        literal = not (isinstance(start, Sized) or isinstance(stop, Sized))
        if size == 1 and count == 1 and (literal or (step == 1 and _difference(start, stop)[0] == {})):
            if not self.assume_size_one:
                self.guess(term, "takes its only entry")
            return self._only_entry(term)
        if literal and count == 1:
            self.mark(term, "takes one entry of")
            if start > 1 or size <= 3:
                self.guess(term, f"takes entry {start}")
            at = start if start < size - 1 - start else start - size
            self.starts[self._value, axis] = Line((at,)) if at >= 0 else Line((term,), at)
            return ()
        self.mark(term, "takes one entry of" if count == 1 else "slices")
        first = start if isinstance(start, Sized) else None
        if step == 1 and count == size and isinstance(stop, Sized) and first is not None and not first.parts:
            return term  # ``x[-9:]`` of no more than 9, and ``change`` looks whether it still is at other sizes
        offsets, divisor, plus = _difference(start, stop)
        fixed = all(a.rigid for a in resolve(term))  # what parameters hold doesn't change: names are all there is to it
        if step == 1 and (fixed or (not isinstance(start, Sized) and (literal or stop == size))):
            before, result = self._segment(resolve(term), start, stop)
            self.starts[self._value, axis] = before
            return result
        if (part := self._part(term, start)) is not None:
            return part
        self._guess_bounds(term, start, stop)
        cut = start.parts if isinstance(start, Sized) else stop.parts if isinstance(stop, Sized) else None
        if cut is not None and cut[0] == "split" and (cut[1] > 1 or size <= 3):
            self.guess(term, f"is split by {cut[1]}")
        if sum(times * ((size + o) // divisor) for o, times in offsets.items()) + plus != stop - start:
            self.guess(term, f"takes entries of {size} from or to where there are none")
            return self._some(count)
        if not offsets:
            return self._some(len(range(0, plus, step)), True) if count != 1 else ()
        if len(offsets) > 1:  # the last of several chunks: what it has is checked where sizes change
            found = self.line((term,), 0, divisor, firm=False)
            if size_of(found) == count:
                return found
            self.guess(term, f"is cut into parts of which the last has {count} entries")
            return self._some(count)
        ((offset, times),) = offsets.items()
        if times != 1 and divisor != 1:
            return self.line((term,) * times, 0, divisor, firm=False)
        found = self.line((term,) * times, offset * times + plus * divisor, divisor)
        return found if step == 1 else self.line((found,), step - 1, step)

    def _part(self, term: Term, start: int) -> Term | None:
        """Which of the parts laid end to end it is, where they are chunked into as many: then they are of one size."""
        cut, known = start.parts if isinstance(start, Sized) else None, sum_line(term)
        if cut is None or cut[0] == "split" or known is None or not known.is_sum or len(known.parts) != cut[1]:
            return None
        parts = [p for p in known.parts if not isinstance(p, int)]
        if len(parts) != cut[1] or len({size_of(p) for p in parts}) > 1:
            return None
        for part in parts[1:]:
            self._join(parts[0], part)
        return resolve(parts[len(cast(Sized, start).offsets)])

    def _guess_bounds(self, term: Term, start: int, stop: int, told_by: Term = ()) -> None:
        """Bounds that count from the start may have been computed; 0 and a first entry left out are taken as said."""
        size = size_of(term)
        said = isinstance(start, Sized) or start == 0 or (start == 1 and size > 3)
        computed = {size // 2, (size + 1) // 2} if size > 3 else {size // 2, size - 1} - {0}
        from_end = any(isinstance(b, Sized) and b.divisor == 1 and size - b in computed for b in (start, stop))
        if not (said and isinstance(stop, Sized)) or from_end:
            self.guess(term, f"takes entries {start}:{'' if stop == size else stop} of {size}", told_by if said else ())

    def _some(self, count: int, firm: bool = False) -> Term:
        """So many entries, whatever there are."""
        found = self.fresh(count, "slice")
        found[0].lines.append(Line((count,), firm=firm))
        return found

    def _only_entry(self, term: Term) -> Term:
        if self.assume_size_one or all(a.kind == "one" for a in resolve(term)):
            return term
        self.mark(term, "takes one entry of")
        return ()

    def _segment(self, term: Term, start: int, stop: int) -> tuple[Line, Term]:
        """Entries start to stop of a dimension: what lies before them, and what they are."""
        size, count = size_of(term), stop - start
        if count == size:
            return Line(()), term
        known = firm_line(term)
        if known is not None and known.is_sum and len(known.parts) > 1:
            ends = [0]
            for part in known.parts:
                ends.append(ends[-1] + (part if isinstance(part, int) else size_of(part)))
            if start in ends and stop in ends:
                i, j = ends.index(start), len(ends) - 1 - ends[::-1].index(stop)
                self._guess_parts(known.parts[: i if stop == size else j], start, stop)
                return Line(known.parts[:i]), self.line(known.parts[i:j])
            i = max(k for k, e in enumerate(ends) if e <= start)
            part = known.parts[i]
            if stop <= ends[i + 1] and not isinstance(part, int):
                self._guess_parts(known.parts[:i], start, stop)
                inner, found = self._segment(part, start - ends[i], stop - ends[i])
                return Line((*known.parts[:i], *inner.parts), inner.offset), found
        chunks = size // count if count > 1 and size % count == 0 and start % count == 0 else 0
        fixed = all(a.rigid for a in term)
        first = start == 0 and not isinstance(stop, Sized)  # as many as there are of something else: positions
        if len(term) == 1 and fixed and 1 < chunks <= _CHUNKS and not first:
            _, chunk = self._split_axis(term[0], count)
            return Line(((chunk,),) * (start // count)), (chunk,)
        if stop == size:
            self._guess_bounds(term, start, stop)
            return Line((start,)), self.line((term,), -start, firm=start == 1 and size > 3)
        # most of it without what is at the end, as what was padded is cut again
        padded = start == 0 and size - stop < stop and not fixed
        found = self.line((term,), stop - size, firm=False) if padded else self._some(count)
        self._guess_bounds(term, start, stop, found)
        return Line((start,)), found

    def _guess_parts(self, parts: Sequence[Term | int], start: int, stop: int) -> None:
        """A bound at the end of a part of a concatenated axis is taken to follow that part."""
        for part in parts:
            if not isinstance(part, int):
                self.guess(part, f"takes entries {start}:{stop} where the part before has {size_of(part)}")

    # Composites: what their bodies say.

    def _compose(self, value: Value, op: Composite, args: list[Terms]) -> Any:
        if op.definition.axis_rule is not None:
            return op.definition.axis_rule(op, self, value.type, *args)
        return self.body(*args)

    def body(self, *args: Terms) -> Any:
        value, op = self._value, cast(Composite, self._value.op)
        inner = body_axes(op, tuple([a.type for a in value.args]), self.assume_size_one)
        known = self._match(inner, list(args))
        self.inside[value] = known

        def outside(term: Term) -> Term:
            return tuple([a for axis in resolve(term) for a in (known.get(axis) or made(axis))])

        def made(axis: Axis) -> Term:
            if axis in known:
                return known[axis]
            lines = [self._translated(line, outside) for line in axis.lines]
            if not lines:
                known[axis] = self.one() if axis.kind == "one" else self.fresh(axis.size, axis.kind)
            else:
                known[axis] = lines[0]
                for line in lines[1:]:
                    self._join(lines[0], line)
            return known[axis]

        results = [tuple([outside(without_ones(t)) for t in terms]) for terms in inner.results]
        for mark in inner.used_marks():
            self.mark(tuple([a for axis in resolve(mark.term) for a in known.get(axis, ())]), mark.how)
        for left, right in inner.equal:
            self.equal.append((outside(left), outside(right)))
        for found in inner.opaque:
            self.opaque.append(Opaque(value, outside(found.term), outside(found.other)))
        for axis in [a for terms in inner.inputs for t in terms for a in t if a.lines]:
            for line in axis.lines:
                self._join(known[axis], self._translated(line, outside))
        return results[0] if is_one(value) else results

    def _translated(self, line: Line, outside: Callable[[Term], Term]) -> Term:
        return self.line(
            [p if isinstance(p, int) else outside(p) for p in line.parts], line.offset, line.divisor, line.firm
        )

    def _match(self, inner: Axes, args: list[Terms]) -> dict[Axis, Term]:
        """What the axes of a body's inputs are outside."""
        known: dict[Axis, Term] = {}
        for terms, actual in zip(inner.inputs, args, strict=True):
            for term, outer in zip(terms, actual, strict=True):
                pieces = [outer] if len(term) == 1 else self.split(outer, [a.size for a in term])
                for axis, piece in zip(term, pieces, strict=True):
                    before = known.get(axis)
                    known[axis] = piece if before is None else self._join(before, piece)
        for i, terms in enumerate(inner.inputs):
            if any(a.size == 1 for t in terms for a in t):
                self.expect(i, tuple([tuple([o for a in t for o in known[a]]) for t in terms]))
        return known

    def used_marks(self) -> Iterator[Mark]:
        """The marks, and those of values made of constants alone where something else takes these."""
        of_constants: dict[Axis, Mark] = {}
        for mark in self.marks:
            yield mark
            if mark.value in self.static:
                of_constants.update(dict.fromkeys(resolve(mark.term), mark))
        for (value, _), copies in self.copies.items() if of_constants else ():
            for axis, copy in copies.items():
                mark = of_constants.get(axis.root())
                if mark is not None:
                    yield Mark(value, (copy,), f"takes {mark.value!r}, which {mark.how}")

    @property
    def inputs(self) -> list[Terms]:
        """The terms of the graph's inputs."""
        return [self[v] for v in self.graph.inputs.values()]

    @property
    def results(self) -> list[Terms]:
        """The terms of the graph's outputs."""
        return [self[v] for v in self.graph.outputs.values()]


#: Which of two axes found equal stands for both: the one that says more.
_WEIGHT = {"input": 5, "line": 4, "parameter": 3, "buffer": 3, "const": 2}

#: A slice of an axis of parameters is taken as a chunk of it if there are at most so many.
_CHUNKS = 8
#: A factor of so few entries, beside one that is left open, may be meant as a number.
_FEW = 4


@nested
def body_axes(op: Composite, types: tuple[TensorType, ...], assume_size_one: bool = False) -> Axes:
    """The axes of a composite's body, found once for each op, argument types."""
    key = (body_axes, types, assume_size_one)
    axes = op.found.get(key)
    if axes is None:
        axes = op.found[key] = Axes(op.body(*types), assume_size_one)
    return axes


def _difference(start: int, stop: int) -> tuple[dict[int, int], int, int]:
    """``stop - start``: how often ``(n + offset) // divisor`` is in it, for each offset, the divisor, and a number.

    >>> _difference(sized(6, (1,), 2), sized(6))  # the second of two chunks
    ({0: 1}, 2, 0)
    """
    rules = [b if isinstance(b, Sized) else sized(0, (), 1, b) for b in (start, stop)]
    divisor = max(b.divisor for b in rules)
    # n is the sum of (n + j) // divisor for j below the divisor
    first, last = (
        Counter(b.offsets if b.divisor == divisor else [o + j for o in b.offsets for j in range(divisor)])
        for b in rules
    )
    last.subtract(first)
    return {o: times for o, times in last.items() if times}, divisor, rules[1].plus - rules[0].plus


def _place_one(axis: Axis, inner: int, sizes: Sequence[int], pieces: list[list[Axis]]) -> bool:
    """Give an axis of size 1, with ``inner`` entries inside of it, to a factor of size 1 at its place.

    The outermost that is free; where there is none it goes with the factor inside of it, or around it, and False is
    given.
    """
    slots: list[int] = []
    around = 0
    product = 1
    for i in range(len(sizes) - 1, -1, -1):
        if sizes[i] == 1 and product == inner:
            slots.insert(0, i)
        if product <= inner:
            around = i
        product *= sizes[i]
    free = [i for i in slots if not pieces[i]]
    if slots:
        # axes come from the innermost: leave places for those that are still to come
        pieces[free[-1] if free else slots[0]].insert(0, axis)
        return True
    if not pieces:  # the dimension is dropped
        return True
    own = pieces[around]
    at, seen = len(own), 1
    while at and seen < inner:
        at -= 1
        seen *= own[at].size
    own.insert(at, axis)
    return False


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(str(int(n)) for n in sizes)
