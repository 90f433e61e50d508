"""Whether two networks differ by rounding alone, and if not, at which op: both are run in float64, value by value.

Every value of B is worked out twice: from B's own values, and from those that A has for its arguments. The first says
whether B differs there at all, the second whether it is this op that makes the difference or one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.graph import result_types
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Input, Leaf
from tdagger.transform.diff.align import Aligner, Result, is_leaf
from tdagger.transform.diff.amends import Amends
from tdagger.transform.diff.errors import are_the_same_entries, distance, size
from tdagger.transform.diff.exact import Exact, Noise, leaf_values, unit
from tdagger.transform.diff.inputs import taken
from tdagger.transform.diff.relate import Detail, Relation, Relations, Weights, is_constant
from tdagger.transform.diff.values import (
    held_as,
    is_held_by_one,
    is_scaled,
    is_whole,
    same_shapes,
    without,
    without_leaves,
)
from tdagger.transform.diff.walk import Walk, is_rounded, last_uses, tried

#: How much more than what rounding at random moved a value counts as rounding.
_MARGIN = 4.0

#: How many ops of A behind a value are looked at for one that is the same as B's.
_BEHIND = 4

#: What float64 leaves of a value, relative to the largest entry of what it is made of: behind other ops, and of one op.
_FLOOR, _FLOOR_OF_ONE = 1e-11, 1e-13


class Difference(NamedTuple):
    """Two ops, or one that only one network has, that make a difference; ``kind`` is op, extra, missing or argument.

    ``error`` is the largest |a - b| of what comes out where both are given the same, ``bound`` what rounding may be.
    ``details`` say what is not the same about the ops. ``matters`` is False where that changes nothing on these inputs.
    """

    kind: str
    a: Value | None
    b: Value | None
    error: float
    bound: float
    details: tuple[Detail, ...] = ()
    matters: bool = True


class Judge:
    """Runs both networks and says what differs; ``inputs`` are those of A by name, floats of any type."""

    def __init__(
        self, aligner: Aligner, results: Sequence[Result], exact: Exact, weights: Weights, inputs: Mapping[str, Array],
        pairs: Mapping[str, str], seed: int,
    ) -> None:  # fmt: skip
        self.aligner, self.results, self.exact, self.weights = aligner, results, exact, weights
        self.a, self.b = aligner.a.graph, aligner.b.graph
        self.relations = Relations(aligner, weights, self._constants())
        self.fixed = without_leaves(self.a, Input) | without_leaves(self.b, Input)
        #: Masks, positions and the like: who reads one of B tells whether it stands for what A has, written otherwise.
        self.unfed = without_leaves(self.a, Leaf) | without_leaves(self.b, Leaf)
        self.wrong: set[Value] = set()  # those that are to blame
        self.related = {b: self.relations.of(b) for b in self.b.values}
        given = taken(self.b, pairs, inputs)
        noisy_a, noisy_b = self._noisy()
        self.of_a = Walk(exact, self.a, noisy_a, leaf_values(inputs, weights.a), seed, self.unfed)
        self.of_b = Walk(exact, self.b, noisy_b, leaf_values(given, weights.b), seed + 1, self.unfed)
        self.off: dict[Value, float] = {}  # of B's values with a partner: how far B's own is from A's
        self.own: dict[Value, float] = {}  # and how far it is where it is given A's arguments
        self.bound: dict[Value, float] = {}
        self.given_a: dict[Value, Any] = {}  # values of B on A's arguments, A's own where there is a partner
        self.apart: set[Value] = set()  # of these, those that A doesn't hold so, but with its entries at other places
        self.laid: dict[Value, Any] = {}  # the same, of what has its entries at other places than A's partner
        self.again: dict[Value, Any] = {}  # what ``given_a`` had that was asked for later
        self.ends: dict[Value, float] = {}  # of what takes such and has none: how far it is on them
        self.behind: dict[Value, Value] = {}  # the values of A that B's are, where these have another partner
        self.others: set[Value] = set()  # values of B that only move entries, of which A's partner has none
        self.fine: dict[Value, set[tuple[Value, Value]]] = {}  # arguments written otherwise that give the same

    def _constants(self) -> dict[Value, Array]:
        known: dict[Value, bool] = {}
        found: dict[Value, Array] = {}
        for value in (*self.a.values, *self.b.values):
            if value not in found and is_constant(value, known):
                found[value] = value.op.run(*[found[a] for a in value.args])
        return found

    def _noisy(self) -> tuple[dict[Value, float], dict[Value, float]]:
        """The values that differ by how they are written, which rounding may move, and by how much of themselves."""
        a = {v: self._unit(v) for v in self.a.values if v not in self.aligner.b_of and not is_leaf(v)}
        b: dict[Value, float] = {}
        for value, (relation, _) in self.related.items():
            if relation in (Relation.ROUNDED, Relation.SPELLED, Relation.EXTRA):
                b[value] = self._unit(value)
                partner = self.aligner.a_of.get(value)
                if partner is not None:
                    a[partner] = b[value] = max(self._unit(value), self._unit(partner))
        return a, b

    def _unit(self, value: Value) -> float:
        """What rounding moves a value by, relatively; a coarser type than both networks work in is a difference."""
        if not is_rounded(value) or (isinstance(value.op, Const) and is_whole(value.op.data)):
            return 0.0
        return min(max(unit(t.dtype) for t in result_types(value)), unit(self.exact.precision))

    # Running.

    def run(self) -> None:
        """Both networks, A's values kept, B's dropped after their last use."""
        dying = last_uses(self.a, set())
        for value in self.a.values:
            self.of_a.step(value)
            for gone in dying.get(value, ()):
                self.of_a.forget(gone, everything=False)
        results = {r.b for r in self.results}
        dying = last_uses(self.b, results)
        for value in self.b.values:
            self._step(value)
            for gone in dying.get(value, ()):
                self.of_b.forget(gone, everything=True)
                self.given_a.pop(gone, None)
                if gone in self.laid:
                    self.laid[gone] = None  # that it lies otherwise is asked later

    def _step(self, b: Value) -> None:
        relation, _ = self.related[b]
        a = self.aligner.a_of.get(b)
        theirs = None if a is None else self.of_a.values[a]
        held_so = None if a is None else held_as(b, theirs)
        clean = relation == Relation.LITERAL and all(self._is_clean(x) for x in b.args)
        mine = self.of_b.step(b, held_so if clean else None)
        apart = any(x in self.apart for x in b.args) if a is None else not same_shapes(a, b)
        if apart:
            self.apart.add(b)
        if a is None:
            self.given_a[b] = mine if is_leaf(b) else self._on_theirs(b)
            if self._takes_laid(b):
                self.laid[b] = self._on_laid(b)
            return
        self.bound[b] = self.allowed(a, b)
        self.off[b] = distance(theirs, mine)
        held = is_leaf(b) or b in self.relations.constants
        if relation == Relation.LITERAL or held:
            self.own[b] = 0.0
            if b not in self.unfed:
                self.wrong.update(
                    x for x in b.args if x in self.unfed and self.off.get(x, 0.0) > self.bound.get(x, 0.0)
                )
            whole = same_shapes(a, b) and not self._holds_other(b)
            self.given_a[b] = held_so if whole else mine if held else self._on_theirs(b)
            if not held and self._takes_laid(b):
                self._lay(a, b, self._on_laid(b))
            return
        local = self._on_theirs(b)
        self.own[b] = distance(theirs, local)
        if self.own[b] > self.bound[b]:
            self._look_behind(a, b, local)
            if not is_rounded(a) and not is_rounded(b) and not are_the_same_entries(theirs, local, self.bound[b]):
                self.others.add(b)
            unfed = [] if b in self.unfed else [x for x in b.args if x in self.unfed]
            if unfed:
                others = tried(self.exact, b, [self.given_a[x] for x in b.args])
                if distance(theirs, others) <= self.bound[b]:
                    self.wrong.update(unfed)
                    local, self.own[b] = others, distance(theirs, others)
        own = b in self.behind or not same_shapes(a, b) or self._holds_other(b)
        self.given_a[b] = local if own else held_so
        self._lay(a, b, self._on_laid(b) if self._takes_laid(b) else local)
        if relation == Relation.NAMED and not any(x in self.apart for x in b.args):  # they may be rounded otherwise
            self.bound[b] = self._narrow(a, b)
        elif relation == Relation.SPELLED and self.own[b] > self.bound[b]:
            self.fine[b] = {(x, y) for x, y in self.aligner.arguments(a, b) if self._gives_the_same(x, y)}

    def _look_behind(self, a: Value, b: Value, mine: Any) -> None:
        """Where a pair isn't the same, note which value of A behind it, of those without a partner, B's is.

        A norm that was folded into the weights before it is such.
        """
        at = a
        for _ in range(_BEHIND):
            users = self.a.users[at]
            if len(users) != 1:
                return
            at = users[0]
            if (
                at not in self.aligner.b_of
                and same_shapes(at, b)
                and distance(self.of_a.values[at], mine) <= self.allowed(at, b)
            ):
                self.behind[b] = at
                return

    def _lay(self, a: Value, b: Value, mine: Any) -> None:
        """Note that a pair lies otherwise, a matrix and its transpose, where B is ``mine``; or that this ends here."""
        theirs = self.of_a.values[a]
        off = distance(theirs, mine)
        if off > self.bound[b] and (not same_shapes(a, b) or are_the_same_entries(theirs, mine, self.bound[b])):
            self.laid[b] = mine
        elif self._takes_laid(b):
            self.ends[b] = off

    def _takes_laid(self, b: Value) -> bool:
        return any(x in self.laid for x in b.args)

    def _on_laid(self, b: Value) -> Any:
        return tried(self.exact, b, [self.laid.get(x, self.given_a[x]) for x in b.args])

    def _gives_the_same(self, a: Value, b: Value) -> bool:
        """Whether a value of B gives on A's arguments what one of A gives, whatever it is made of."""
        return distance(self.of_a.values[a], self.given_a[b]) <= self.allowed(a, b)

    def _is_clean(self, b: Value) -> bool:
        a = self.aligner.a_of.get(b)
        return a is not None and self.of_b.values[b] is self.of_a.values[a]

    def _on_theirs(self, b: Value) -> Any:
        mine = () if b in self.unfed else self.unfed
        return tried(self.exact, b, [self.of_b.values[x] if x in mine else self.given_a[x] for x in b.args])

    def _narrow(self, a: Value, b: Value) -> float:
        """What rounding may do to one op of both networks that differs by name: what it takes may be rounded."""
        rounded = {x for x in b.args if self.related[x][0] == Relation.ROUNDED}
        floor = _FLOOR_OF_ONE * max(self.of_a.scale(a), self.of_b.scale(b))
        if not rounded:
            return floor
        noise = Noise(0)
        args = [noise.of(self.given_a[x], self._unit(x)) if x in rounded else self.given_a[x] for x in b.args]
        return floor + _MARGIN * distance(tried(self.exact, b, args), self._on_theirs(b))

    def allowed(self, a: Value, b: Value) -> float:
        """How far two values may be apart by rounding."""
        floor = _FLOOR * max(self.of_a.scale(a), self.of_b.scale(b))
        return floor + _MARGIN * (self.of_a.spread[a] + self.of_b.spread[b])

    # Who is to blame.

    def differences(self) -> list[Difference]:
        """What makes results differ, and ops that differ by name and give something else; in the order of B."""
        found: dict[Any, Difference] = {}
        alone = self._uncompensated()
        undone = self._undone() | self._right_for_readers()
        amended = self._amended()
        for b, (relation, details) in self.related.items():
            if relation == Relation.NAMED and details and not is_leaf(b) and b not in undone:
                a, error, bound = self.aligner.a_of[b], self.own[b], self.bound[b]
                found[b] = Difference("op", a, b, error, bound, tuple(details), error > bound and b not in amended)
        undone |= amended
        for b in self.off if not self._is_off() else ():
            told = b in alone or self._takes_other_weights(b)
            if told and self.related[b][0] == Relation.SPELLED and self._is_blamed(b) and b not in undone:
                self._explain(self.aligner.a_of[b], b, b.args, found)
        todo: list[Value] = []
        for result in self.results:
            todo += self._of_result(result, found)
        seen: set[Value] = set()
        while todo:
            b = todo.pop()
            if b in seen or (b in self.off and b not in alone):
                continue
            seen.add(b)
            todo += [x for x in b.args if x in alone or self._is_bad(x)]
            if self._is_blamed(b) and b not in found and b not in undone:
                self._explain(self.aligner.a_of[b], b, b.args, found)
        carried = self._behind_moved(found.values())
        found = {key: d for key, d in found.items() if d.b not in carried or d.error < np.inf}
        order = {v: i for i, v in enumerate(self.b.values)}
        before = {v: i for i, v in enumerate(self.a.values)}
        partners = self.aligner.b_of
        return sorted(found.values(), key=lambda d: _place(d, order, before, partners))

    def _behind_moved(self, found: Iterable[Difference]) -> set[Value]:
        """What lies otherwise behind ops that only B has, or that put entries at other places than A does.

        With what is taken with it, up to where it lies as in A again. Of these nobody can tell whether they are right,
        as they are of other shapes on what isn't.
        """
        first: set[Value] = set()
        for d in found:
            if d.kind == "extra":
                first.update(d.details[0].b)
            elif d.b in self.laid and d.error < np.inf and not self._takes_laid(d.b):
                first.add(d.b)
        behind: set[Value] = set()
        for b in self.b.values if first else ():
            lies_so = b in self.apart or b in self.laid
            if lies_so and b not in first and any(x in first or x in behind for x in b.args):
                behind.add(b)
        for b in reversed(self.b.values if behind else ()):
            users = self.b.users[b]
            if b in self.apart and users and all(u in behind for u in users):
                behind.add(b)
        return behind

    def _is_blamed(self, b: Value) -> bool:
        """Whether a value differs on A's arguments; a weight that only one network works out shows in who reads it."""
        return self.own.get(b, 0.0) > self.bound.get(b, 0.0) and not self._holds_other(b)

    def _amended(self) -> set[Value]:
        """The values of B that aren't what A has on its arguments, for which other ops make up behind."""
        wrong = [b for b, off in self.own.items() if off > self.bound[b]]
        on_theirs = {b: tried(self.exact, b, [self._given_again(x) for x in b.args]) for b in wrong}

        def error(b: Value, array: Any) -> tuple[float, float]:
            a = self.aligner.a_of.get(b)
            if a is None:
                return np.inf, np.inf
            off = distance(self.of_a.values[a], array)
            allowed = max(self.bound[b], np.finfo(np.float64).tiny)
            return off / allowed, off / (_FLOOR * max(self.of_a.scale(a), self.of_b.scale(b), allowed))

        def run(b: Value, args: list[Any]) -> Any:
            return tried(self.exact, b, args)

        partner = self.aligner.a_of
        turned = {x for x in self.off if not same_shapes(partner[x], x)}
        other = {b for b in self.b.values if any(x in turned for x in b.args)}
        return Amends(self.b, on_theirs, other, self.fixed, self._given_again, run, error).all()

    def _given_again(self, b: Value) -> Any:
        """What a value of B is on A's arguments, A's own where there is a partner that looks so."""
        known = self.again
        stack = [b]
        while stack:
            value = stack[-1]
            a = self.aligner.a_of.get(value)
            own = value in self.unfed or value in self.behind or self._holds_other(value)
            if value in known:
                stack.pop()
            elif a is not None and same_shapes(a, value) and not own:
                known[stack.pop()] = held_as(value, self.of_a.values[a])
            elif is_leaf(value):
                known[stack.pop()] = self.of_b.leaves(value)
            elif all(x in known for x in value.args):
                known[stack.pop()] = tried(self.exact, value, [known[x] for x in value.args])
            else:
                stack += [x for x in value.args if x not in known]
        return known[b]

    def _holds_other(self, b: Value) -> bool:
        """Whether a value is a weight or a constant that holds other numbers than A's, or that A works out.

        Who reads it tells whether it is right.
        """
        relation, a = self.related[b][0], self.aligner.a_of.get(b)
        if is_leaf(b) or b in self.relations.constants:
            return relation != Relation.LITERAL
        return relation == Relation.SPELLED and a is not None and is_held_by_one(a, b)

    def _is_off(self) -> bool:
        """Whether a result is further off than rounding allows."""
        return any(not error <= bound for error, bound, _ in self.errors().values())

    def _uncompensated(self) -> set[Value]:
        """The values of B of which a difference isn't made good by other ops behind it, which are written otherwise.

        Those that are off, and behind which both networks are written alike but for what is off itself; and those from
        which a result that is off can be reached by what is off.
        """
        reached = {r.b for r in self.results if not self.relations.goes_with(r.a, r.b)}
        found: set[Value] = set()
        for b in reversed(self.b.values):
            off = b in self.off and self.off[b] > self.bound[b]
            if b not in reached and off:
                found.add(b)
            blamed = off and self.own[b] > self.bound[b]  # it makes good nothing
            if b in reached or (self.related[b][0] != Relation.LITERAL and not blamed) or self._cancels(b):
                reached.update(b.args)
        errors = self.errors()
        todo = [r.b for r in self.results if not errors[r.name][0] <= errors[r.name][1]]
        seen: set[Value] = set()
        hidden: set[Value] = set()  # within bounds, but the most of what one takes that isn't: one row may be off

        def is_off(b: Value) -> bool:
            return b not in self.off or self.off[b] > self.bound[b]

        while todo:
            b = todo.pop()
            if b in seen or not (b in hidden or is_off(b)):
                continue
            seen.add(b)
            todo += b.args
            if b in self.off and self.own[b] <= self.bound[b] and b.args and not any(is_off(x) for x in b.args):
                hidden.add(max(b.args, key=lambda x: self.off[x] / max(self.bound[x], np.finfo(np.float64).tiny)))
        return found | seen

    def _cancels(self, b: Value) -> bool:
        """Whether a value is right on several that are off, one of them of another op than its partner: a sum of three.

        Where each network adds another of them first, or one has none of what is 0 here.
        """
        if b not in self.off or self.off[b] > self.bound[b]:
            return False
        off = [x for x in b.args if x in self.off and self.off[x] > self.bound[x]]
        return len(off) > 1 and any(self.related[x][0] == Relation.SPELLED for x in off)

    def _undone(self) -> set[Value]:
        """The values that lie otherwise than their partner, behind which what lies as in A again is what A gives.

        Of several that a value takes, those that come out right for another reader aren't to blame for this one.
        """
        ends = {b: self.ends.get(b, self.own[b]) <= self.bound[b] for b in self.off if b not in self.laid}
        good: set[Value] = set()
        for b in reversed(self.b.values):
            if ends.get(b, b in good):
                good.update(x for x in b.args if x in self.laid)
        bad = {r.b for r in self.results if r.b in self.laid or self._is_wrong_result(r)}
        for b in reversed(self.b.values):
            if not ends.get(b, b not in bad):
                bad.update([x for x in b.args if x in self.laid and x not in good])
        return {b for b in self.laid if b in self.off and b not in bad}

    def _right_for_readers(self) -> set[Value]:
        """The values that no leaf is behind, but those that are to blame for what a reader gives."""
        wrong = self.wrong | {r.b for r in self.results if self._is_wrong_result(r)}
        for b in reversed(self.b.values):
            if b in wrong and b in self.unfed:
                wrong.update(b.args)
        return self.unfed - wrong

    def _is_wrong_result(self, result: Result) -> bool:
        if self.relations.goes_with(result.a, result.b):
            return False
        return distance(self.of_a.values[result.a], self.given_a[result.b]) > self.allowed(result.a, result.b)

    def _of_result(self, result: Result, found: dict[Any, Difference]) -> list[Value]:
        """Where to look for what makes a result differ; nowhere if it doesn't."""
        theirs, mine = self.of_a.values[result.a], self.of_b.values[result.b]
        off, bound = distance(theirs, mine), self.allowed(result.a, result.b)
        if off <= bound:
            return []
        if not self.relations.goes_with(result.a, result.b):
            local = distance(theirs, self.given_a[result.b])
            if local > bound:
                extra, missing = self._alone([result.b], [result.a])
                if extra or missing:
                    self._regions(missing, extra, local, bound, found)
                else:
                    crossed = (Detail("argument", "", result.a, result.b),)
                    found[result] = Difference("argument", result.a, result.b, local, bound, crossed)
        return [result.b]

    def _is_bad(self, b: Value) -> bool:
        return b not in self.off or self.off[b] > self.bound[b] or self.own[b] > self.bound[b]

    def _explain(self, a: Value, b: Value, args: Sequence[Value], found: dict[Any, Difference]) -> None:
        """The difference that a pair makes whose ops aren't the same, or don't take the same."""
        error, bound = self.own[b], self.bound[b]
        before = len(found)
        relation, details = self.relations.of(b, self.fine.get(b, ()))
        if relation == Relation.NAMED and details:
            found[b] = Difference("op", a, b, error, bound, tuple(details))
            return
        if not same_shapes(a, b) and any(x in self.off and not same_shapes(self.aligner.a_of[x], x) for x in args):
            return  # other sizes that came from before
        alike = type(a.op) is type(b.op)
        fine = self.fine.get(b, set())
        pairs = [p for p in self.aligner.arguments(a, b) if p not in fine] if alike else []
        made = [p for p in pairs if self._are_weights(*p)]
        others = [p for p in pairs if p not in made and not self.relations.goes_with(*p)]
        if made and not others:
            found[b] = self._of_weights(a, b, made)
            return
        crossed: list[Detail] = []
        for x, y in others:
            extra, missing = self._alone([y], [x])
            if extra or missing:
                self._regions(missing, extra, error, bound, found)
            else:
                crossed.append(Detail("argument", "", x, y))
        if crossed:
            found[b] = Difference("argument", a, b, error, bound, tuple(crossed))
        if len(found) == before:
            extra, missing = self._alone(b.args, a.args)
            if (alike or b in self.others) and (extra or missing):
                self._regions(missing, extra, error, bound, found)
            else:
                op = Detail("op", "", (*missing, a), (*extra, b)) if extra or missing else Detail("op", "", a, b)
                found[b] = Difference("op", a, b, error, bound, (op,))

    def _takes_other_weights(self, b: Value) -> bool:
        """Whether weights that one network works out and the other holds are others; not what its bound hides."""
        a = self.aligner.a_of[b]
        fine = self.fine.get(b, set())
        return type(a.op) is type(b.op) and any(
            self._are_weights(x, y) for x, y in self.aligner.arguments(a, b) if (x, y) not in fine
        )

    def _are_weights(self, x: Value, y: Value) -> bool:
        """Whether two values are weights that one network works out and the other holds."""
        return {x, y} <= self.fixed and is_held_by_one(x, y)

    def _of_weights(self, a: Value, b: Value, made: list[tuple[Value, Value]]) -> Difference:
        """The difference that weights make: of what scales each channel of them if that is all, else of the layer."""
        details = [Detail("made", "", x, y) for x, y in made]
        of_layer = all(is_scaled(self.of_a.values[x], self._given_again(y)) for x, y in made)
        return Difference("op", made[0][0] if of_layer else a, b, self.own[b], self.bound[b], tuple(details))

    def _regions(
        self, missing: list[Value], extra: list[Value], error: float, bound: float, found: dict[Any, Difference]
    ) -> None:
        kind = "op" if missing and extra else "extra" if extra else "missing"
        a, b = (next((v for v in one if v not in self.fixed), None) or (one or [None])[0] for one in (missing, extra))
        details = (Detail(kind, "", tuple(missing), tuple(extra)),)
        found.setdefault((a, b), Difference(kind, a, b, error, bound, details))

    def _alone(self, b: Sequence[Value], a: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """What these values of B and of A are made of that has no partner, arguments first."""
        found = without(b, self.aligner.a_of), without(a, self.aligner.b_of)
        extra, missing = ([v for v in one if v not in self.relations.constants] for one in found)
        return extra, missing

    def first_bad(self) -> Difference | None:
        """The first pair whose values are further apart than rounding; None if there is none."""
        undone = self._undone() | self._right_for_readers()
        for b in self.b.values:
            if b in self.off and self.off[b] > self.bound[b] and b not in undone:
                return Difference("op", self.aligner.a_of[b], b, self.off[b], self.bound[b])
        return None

    def errors(self) -> dict[str, tuple[float, float, float]]:
        """Of every result: how far it is off, what rounding allows, and its largest number."""
        found: dict[str, tuple[float, float, float]] = {}
        for r in self.results:
            off = distance(self.of_a.values[r.a], self.of_b.values[r.b])
            found[r.name] = off, self.allowed(r.a, r.b), size(self.of_a.values[r.a])
        return found


def _place(
    d: Difference, order: Mapping[Value, int], before: Mapping[Value, int], partners: Mapping[Value, Value]
) -> tuple[float, int]:
    """Where a difference is, in the order of B; what only A has comes where its arguments are in B."""
    if d.b is not None and d.b in order:
        return order[d.b], 0
    assert d.a is not None
    there = [order[partners[x]] for x in d.a.args if x in partners]
    return max(there, default=0) + 0.5, before[d.a]
