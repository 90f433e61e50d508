"""Where the entries of every dimension of a network go: one walk, by the axis rules of the core ops.

:class:`Entries` is a second reading of the rules that the axis algebra reads (``Op.axis_rule``): a permute reorders
terms, a group multiplies, an elementwise op makes its arguments' factors one, a slice or a concatenation ties entries
to entries. Composites are walked into. What is made of constants alone is a table from which any entries can be
taken, so it ties nothing.

Beside each value stands whether the removed entries of a dimension are *zero* if those of all parameters are
(:mod:`tdagger.prune.finding.zeros`), and of all that is made of parameters alone: a sum over them is then the same
without them. Where it isn't, the sum, the largest, the count ... are noted (:class:`Seen`): there the smaller network
is not the masked one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.analysis.axes.terms import resolve, size_of
from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, bulk, is_one, result_types, topological
from tdagger.graph import applied as graph_applied
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import POINTWISE
from tdagger.ops.external import External
from tdagger.ops.indexing import Gather, Scan, Scatter
from tdagger.ops.source import Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Fold, Item, Pad, Reduce, Repeat, Unfold
from tdagger.prune.finding import factors
from tdagger.prune.finding.bodies import applied, body_of
from tdagger.prune.finding.factors import Block, Factor, Term, Terms, Tie
from tdagger.prune.finding.places import places_of
from tdagger.prune.finding.shuffles import Shuffle
from tdagger.prune.finding.zeros import NUMBER, ZERO, Zeros, after, is_zero, whole

#: What a norm does to a dimension of which removed entries add nothing: it divides by how many there are.
COUNTS = "counts"


class Seen(NamedTuple):
    """An op that takes in all entries of a dimension, of which the removed ones are not neutral to it."""

    value: Value
    term: Term
    how: str


class Scope:
    """The terms of the values of one graph: the network's, or the body of one composite in it."""

    __slots__ = ("counted", "graph", "inside", "opened", "state", "terms", "uses", "zeros")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.terms: dict[Value, Any] = {}
        self.zeros: dict[Value, Any] = {}
        #: The scopes of composites' bodies that were walked, and of those that were only looked into later.
        self.inside: dict[Value, Scope] = {}
        self.opened: dict[Value, Scope] = {}
        #: The values whose operations count; None if all do.
        self.counted: set[Value] | None = None
        #: Of the network's values those made of its state alone (weights of weights): whether parameters are in them.
        self.state: dict[Value, bool] = {}
        #: The terms of an argument made of constants alone, in this use of it.
        self.uses: dict[tuple[Value, int], Terms] = {}

    def is_last(self, value: Value, user: Value) -> bool:
        """Whether a weight is made of weights and taken by something else: removed entries of it count as zero."""
        return self.state.get(value, False) and user not in self.state and bool(value.args) and is_one(value)

    def of(self, value: Value) -> list[Terms]:
        """The terms of a value's dimensions, of each result."""
        return [self.terms[value]] if is_one(value) else self.terms[value]

    def at(self, value: Value, argument: int) -> Terms:
        """The terms of an argument's dimensions as ``value`` takes them."""
        found = self.uses.get((value, argument))
        return self.terms[value.args[argument]] if found is None else found


class Entries:
    """The factors of every dimension of a graph, ties between their entries, and what sees a dimension as a whole."""

    def __init__(self, graph: Graph, rows_of: frozenset[str] = frozenset()) -> None:
        self._begin(graph, rows_of)
        with bulk():
            self._walk(self.scope, {}, True)
        for name, value in graph.updates.items():
            leaf: Any = graph.buffers.get(name) or graph.parameters.get(name)
            self._outer = value
            own, new = self.scope.terms.get(leaf, ()), self._result(value)
            if own and new:
                self.join(own, new)
                continue
            for term in (*own, *new):  # the other one is made of constants alone, or isn't in the graph
                factors.block(term, Block(value, f"is what the buffer {name!r} becomes"))
        rows = {f for term in self._rows for f in resolve(term)}
        for name, value in graph.outputs.items():
            for term in self._result(value):
                if term and rows.issuperset(resolve(term)):
                    continue
                factors.block(term, Block(value, f"is the output {name!r}"))

    def _begin(self, graph: Graph, rows_of: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        #: Rows of these parameters may go though inputs choose them and outputs list them: whoever asks knows how.
        self._rows_of = rows_of
        self._rows: list[Term] = []
        self.all: list[Factor] = []
        self.ties: list[Tie] = []
        self.seen: list[Seen] = []
        #: The operations: so many times the entries of these dimensions together; of each value of the network those
        # from one place to another.
        self.work: list[tuple[int, Terms]] = []
        self.work_of: dict[Value, tuple[int, int]] = {}
        self._flat: dict[Term, Factor] = {}
        #: The value of the network in whose composites the walk is.
        self._outer: Value
        #: Whether that is a norm, which gets a new count.
        self._norm = False
        self.scope = Scope(graph)
        #: Gathers and scatters at places that no data decides, and those.
        self.placed: dict[Value, Array] = {}
        #: Gathers that are shuffles: see :mod:`tdagger.prune.finding.shuffles`.
        self.shuffles: Mapping[Value, Shuffle] = {}

    @classmethod
    def of_body(cls, graph: Graph, norm: bool) -> Entries:
        """The beginning of a walk of a body alone; see :mod:`tdagger.prune.finding.bodies`."""
        new = cls.__new__(cls)
        new._begin(graph)
        new._norm = norm
        new._outer = next(iter(graph.outputs.values()))
        return new

    def walked(self, graph: Graph, zeros: Sequence[Zeros]) -> tuple[list[Terms], list[Terms], list[Zeros]]:
        """Walk a body alone: the terms of its inputs and results, and where the results are zero."""
        inputs = [tuple([self.fresh_factor(n) for n in v.shape]) for v in graph.inputs.values()]
        results, each = self._inner(self.scope, inputs, zeros)
        return inputs, results, each

    def opened(self, scope: Scope, value: Value) -> Scope:
        """The scope of a composite's body; walked now if what it says was known without."""
        found = scope.inside.get(value) or scope.opened.get(value)
        if found is None:
            kept = self.ties, self.seen, self.work
            self.ties, self.seen, self.work = [], [], []
            self._outer = value
            op = cast(Composite, value.op)
            found = scope.opened[value] = Scope(op.body(*[a.type for a in value.args]))
            terms = [scope.at(value, i) for i in range(len(value.args))]
            results, _ = self._inner(found, terms, [(NUMBER,) * len(t) for t in terms])
            for own, terms in zip(scope.of(value), results, strict=True):
                self.join(own, terms)
            self.ties, self.seen, self.work = kept
        return found

    def _result(self, value: Value) -> Terms:
        return self.scope.terms.get(value, ())

    # The walk.

    def _walk(self, scope: Scope, given: dict[Value, tuple[Terms, Zeros]], outermost: bool = False) -> None:
        """The values of a graph, of which some are ``given``: a body's arguments."""
        static: set[Value] = set()
        for value in scope.graph.values:
            if outermost:
                self._outer, self._norm = value, is_norm(value)
                self._spread(scope, value)
            op = value.op
            before = len(self.work)
            if outermost and not isinstance(op, Input) and (isinstance(op, Leaf) or value.args):
                known = [scope.state.get(a, False if a in static else None) for a in value.args]
                if None not in known:
                    scope.state[value] = isinstance(op, Parameter) or any(known)
            if value in given:
                scope.terms[value], scope.zeros[value] = given[value]
            elif isinstance(op, Leaf):
                scope.terms[value], scope.zeros[value] = self._leaf(value, op)
            elif isinstance(op, Const | Iota) or (value.args and all(a in static for a in value.args)):
                static.add(value)
                self.work.append((op.flops(cast(Any, value.type), *[a.type for a in value.args]), ()))
            else:
                self._visit(scope, value, static)
            if scope.counted is not None and value not in scope.counted:
                del self.work[before:]
            if outermost:
                self.work_of[value] = before, len(self.work)

    def _leaf(self, value: Value, op: Leaf) -> tuple[Terms, Zeros]:
        why = Block(value, f"is the input {op.leaf!r}") if isinstance(op, Input) else None
        terms = tuple([self.fresh_factor(n, why) for n in value.shape])
        if op.leaf in self._rows_of:
            self._rows.append(terms[0])
        return terms, (ZERO if isinstance(op, Parameter) else NUMBER,) * value.rank

    def _visit(self, scope: Scope, value: Value, static: set[Value]) -> None:
        op = value.op
        terms: list[Any] = []
        zeros: list[Any] = []
        for i, arg in enumerate(value.args):
            if arg in static:
                if is_one(arg):
                    found = scope.uses[value, i] = tuple([self.fresh_factor(n) for n in arg.shape])
                    terms.append(found)
                    zeros.append((int(is_zero(arg)),) * arg.rank)
                else:
                    terms.append([tuple([self.fresh_factor(n) for n in t.shape]) for t in result_types(arg)])
                    zeros.append([(NUMBER,) * t.rank for t in result_types(arg)])
            else:
                terms.append(scope.uses[value, i] if (value, i) in scope.uses else scope.terms[arg])
                zeros.append((ZERO,) * arg.rank if scope.is_last(arg, value) else scope.zeros[arg])
        if isinstance(op, Item):
            scope.terms[value], scope.zeros[value] = terms[0][op.index], zeros[0][op.index]
        elif isinstance(op, Composite):
            scope.terms[value], scope.zeros[value] = self._compose(scope, value, op, terms, zeros)
        elif isinstance(op, External):
            why = Block(self._outer, f"is hidden in {op.target}")
            for each in terms:
                for term in each:
                    factors.block(term, why)
            results = [tuple([self.fresh_factor(n, why) for n in t.shape]) for t in result_types(value)]
            none = [(NUMBER,) * t.rank for t in result_types(value)]
            scope.terms[value] = results[0] if is_one(value) else results
            scope.zeros[value] = none[0] if is_one(value) else none
        else:
            scope.terms[value] = self._core(op, value, terms, zeros)
            scope.zeros[value] = after(op, value, zeros)
            self._count(op, value, terms, scope.terms[value])

    def _spread(self, scope: Scope, value: Value) -> None:
        """Where an argument repeats something, terms of this use's own: each takes as many as it needs.

        By interning, two layers that spread one thing (cosines of positions) over their heads have one value for it,
        which ties no head to another.
        """
        for i, arg in enumerate(value.args):
            if isinstance(arg.op, Repeat) and arg in scope.terms and len(scope.graph.users[arg]) > 1:
                pairs = zip(arg.op.sizes, arg.shape, scope.terms[arg], strict=True)
                scope.uses[value, i] = tuple([t if n is None else self.fresh_factor(size) for n, size, t in pairs])

    @nested
    def _compose(
        self, scope: Scope, value: Value, op: Composite, terms: list[Any], zeros: list[Any]
    ) -> tuple[Any, Any]:
        types = tuple([a.type for a in value.args])
        plain = not self._rows or not any(t in self._rows for each in terms for t in each)
        if plain and all(is_one(a) for a in value.args):
            known = body_of(type(self), op, types, tuple(zeros), self._norm)
            if known is not None:
                results = applied(self, known, self._outer, terms)
                return (results[0], known.zeros[0]) if is_one(value) else (results, list(known.zeros))
        inner = scope.inside[value] = Scope(op.body(*types))
        if op.has_branches:  # the one with the most operations counts
            given = list(inner.graph.inputs.values())
            inner.counted = set(topological(graph_applied(op.counted(*types), given)))
        before = len(self.work)
        results, each = self._inner(inner, terms, zeros)
        if op.definition.flops_each is not None:  # it is counted as itself
            self.work[before:] = [(op.definition.flops_each, results[0])]
        return (results[0], each[0]) if is_one(value) else (results, each)

    def _inner(self, inner: Scope, terms: Sequence[Terms], zeros: Sequence[Any]) -> tuple[list[Terms], list[Zeros]]:
        """Walk a body: the terms of its results, and where they are zero."""
        graph = inner.graph
        self._walk(inner, {v: (t, z) for v, t, z in zip(graph.inputs.values(), terms, zeros, strict=True)})
        results: list[Terms] = []
        each: list[Zeros] = []
        for out in graph.outputs.values():
            if out in inner.terms:
                results.append(inner.terms[out])
                each.append(inner.zeros[out])
            else:  # made of constants alone: a table
                results.append(tuple([self.fresh_factor(n) for n in out.shape]))
                each.append((int(is_zero(out)),) * out.rank)
        return results, each

    def _count(self, op: Op, value: Value, args: list[Terms], out: Terms) -> None:
        """The operations of a core op, as its own rule has them at these sizes."""
        types = [a.type for a in value.args]
        if isinstance(op, POINTWISE):
            each = op.flops(value.type, *types) // (value.type.size or 1)
            if each:
                self.work.append((each, out))
        elif isinstance(op, Reduce):
            self.work += [(1, args[0]), (-1, out)]
        elif isinstance(op, Scan):
            self.work += [(1, out), (-1, tuple([t for i, t in enumerate(out) if i != op.axis]))]
        elif isinstance(op, Scatter):
            self.work.append((int(op.kind != "set"), args[2]))
        elif isinstance(op, Fold):
            rest = tuple([t for i, t in enumerate(out) if i != op.axis])
            self.work.append((op.flops(value.type, *types) // (math.prod(map(size_of, rest)) or 1), rest))
        elif total := op.flops(value.type, *types):
            self.work.append((total // (value.type.size or 1), out))

    def _core(self, op: Op, value: Value, terms: list[Terms], zeros: list[Zeros]) -> Terms:
        if isinstance(op, Reduce):
            for i in op.axes:
                neutral = whole(zeros[0][i]) == ZERO and op.kind in ("sum", "any")
                if terms[0][i] and (self._norm or not neutral):
                    how = COUNTS if neutral else f"takes the {op.kind} over"
                    self.seen.append(Seen(self._outer, terms[0][i], how))
        elif isinstance(op, Scan):
            term = terms[0][op.axis]
            if op.kind != "sum" or whole(zeros[0][op.axis]) != ZERO:
                self.mark(term, f"takes the running {op.kind} of")
            return terms[0]
        elif isinstance(op, Gather | Scatter) and (places := places_of(value)) is not None:
            return self._placed(op, value, places, terms)
        elif isinstance(op, Unfold | Fold) and op.kernel == op.stride == 1:
            return terms[0]
        elif isinstance(op, Pad) and any(w is not None and w[2] for w in op.widths):
            return tuple([self._padded(t, w) for t, w in zip(terms[0], op.widths, strict=True)])
        return cast(Any, op).axis_rule(self, value.type, *terms)

    def _placed(self, op: Gather | Scatter, value: Value, places: Array, terms: list[Terms]) -> Terms:
        """What a gather takes at given places is a table of entries, as of a slice; what a scatter puts goes with them.

        All that is put at one place goes with what is there, also where it is the last that counts.
        """
        self.placed[value] = places
        x, index, axis = terms[0], terms[1], op.axis
        self.join(x[: op.batch], index[: op.batch])
        alone = value.args[1].rank == op.batch  # one place, which is no dimension
        found = self._entries(x[axis], places)
        if isinstance(op, Gather):
            return (*x[:axis], *([] if alone else [found]), *x[axis + 1 :])
        self.join((*x[:axis], *([] if alone else [found]), *x[axis + 1 :]), terms[2])
        return x

    def _padded(self, term: Term, widths: tuple[int, int, int] | None) -> Term:
        """A dimension with so many entries before it, after it, and between every two."""
        before, after, between = widths or (0, 0, 0)
        if not between:
            return self.line([before, term, after])
        n = size_of(term)
        places = before + np.arange(n) * (between + 1)
        found = self.fresh_factor(before + after + max(n + (n - 1) * between, 0))
        if found and n:
            self.ties.append(Tie(found[0], places, term))
        return found

    # The rules' side: see AxisRules in op.py.

    def fresh_factor(self, size: int, why: Block | None = None) -> Term:
        """A factor of its own, kept whole if there is a reason; none for one entry."""
        if size == 1:
            return ()
        factor = Factor(int(size), why)
        self.all.append(factor)
        return (factor,)

    def see(self, value: Value, what: Sequence[tuple[Term, str]]) -> None:
        """Note what an op takes in as a whole."""
        self.seen += [Seen(value, term, how) for term, how in what]

    def fresh(self, size: int, why: str) -> Term:
        return self.fresh_factor(size, Block(self._outer, "is as long as its windows are") if why == "kernel" else None)

    def one(self) -> Term:
        return ()

    def join(self, *args: Terms) -> Terms:
        out = args[0]
        for other in args[1:]:
            if other is not out and other != out:
                out = tuple([self._join(a, b) for a, b in zip(out, other, strict=True)])
        return out

    def _join(self, a: Term, b: Term) -> Term:
        if a is b or a == b or not a or not b:
            return a or b
        left, right = resolve(a), resolve(b)
        if left != right:
            factors.align(list(left), list(right), self._outer)
        return a

    def split(self, term: Term, sizes: Sequence[int]) -> list[Term]:
        return factors.split(term, [int(n) for n in sizes], self._outer)

    def line(self, parts: Sequence[Term | int], offset: int = 0, divisor: int = 1, firm: bool = True) -> Term:
        del firm
        size = max((sum(p if isinstance(p, int) else size_of(p) for p in parts) + offset) // divisor, 0)
        if offset or divisor != 1:
            for part in parts:
                if not isinstance(part, int):
                    self.mark(part, "takes windows of")
            return self.fresh_factor(size, Block(self._outer, "is what windows leave"))
        parts = [p for p in parts if p != 0]
        if len(parts) == 1 and not isinstance(parts[0], int):
            return parts[0]
        found = self.fresh_factor(size)
        at = 0
        for part in parts:
            count = part if isinstance(part, int) else size_of(part)
            if found and not isinstance(part, int):
                self.ties.append(Tie(found[0], np.arange(at, at + count), part))
            at += count
        return found

    def cut(self, axis: int, term: Term, start: int, stop: int, step: int) -> Term:
        del axis
        places = np.arange(int(start), int(stop), int(step))
        if step == 1 and len(places) == size_of(term):
            return term
        return self._entries(term, places)

    def _entries(self, term: Term, places: Any) -> Term:
        """Some entries of a dimension, by their numbers."""
        if not term:
            return self.fresh_factor(len(places), Block(self._outer, "repeats one entry") if len(places) != 1 else None)
        flat = self._as_one(term)
        found = self.fresh_factor(len(places))
        self.ties.append(Tie(flat, places, found))
        return found

    def _as_one(self, term: Term) -> Factor:
        """A factor with the entries of a product, one after the other."""
        term = resolve(term)
        if len(term) == 1:
            return term[0]
        if term not in self._flat:
            (flat,) = self.fresh_factor(size_of(term))
            self._flat[term] = flat
            self.ties.append(Tie(flat, None, term))
        return self._flat[term]

    def mark(self, term: Term, how: str) -> None:
        if how == "indexes" and term in self._rows:
            return
        if how.startswith("draws"):
            self.seen.append(Seen(self._outer, term, how))
        elif (not how.startswith("takes the ") and how not in _BY_ENTRY) or how.startswith("takes the running"):
            factors.block(term, Block(self._outer, how))

    def body(self, *args: Terms) -> Any:
        raise NotImplementedError("bodies are walked, not asked")

    def expect(self, argument: int, terms: Terms) -> None: ...
    def like(self, term: Term, size: int) -> Term | None:
        return None  # entries of another size are others

    def stays_one(self, term: Term) -> None: ...
    def guess(self, term: Term, what: str, told_by: Term = ()) -> None: ...


#: What an op says of an axis that this module takes entry by entry.
_BY_ENTRY = ("slices", "reverses", "takes one entry of", "pads", "concatenates", "repeats")


def is_norm(value: Value) -> bool:
    """Whether a composite is a norm or a statistic: what it divides by is made of all entries."""
    definition = getattr(value.op, "definition", None)
    return definition is not None and (
        definition.__module__.endswith(".library.norm") or definition.name.startswith(("var", "std"))
    )
