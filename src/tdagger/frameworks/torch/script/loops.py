"""Loops of scripts: those whose turns are known are followed, others become loops of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.script import lists
from tdagger.frameworks.torch.script.numbers import Number, is_number, value_of
from tdagger.frameworks.torch.script.objects import Leaf, Trail, Uninitialised, Walk, described
from tdagger.frameworks.torch.script.paths import Path, Plan, blank, same_leaf, write
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, bitwise_and, less
from tdagger.ops.source import Const, const
from tdagger.program.parts import Goto, If
from tdagger.program.schedule import Draft

#: What TorchScript writes as the number of turns of a ``while``, and all beyond it.
_ENDLESS = 1 << 62

#: So many loops may follow each other for things that come to be of another kind in a turn.
_KINDS = 4

#: Loops of at most so many turns may be written out, where the number of the turn has to be known.
_WRITTEN_OUT = 256


def loop(walker: Any, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
    """The ways after a loop. While it is read, what a way ``outputs`` is the turn, whether it goes on, and the rest."""
    (body,) = inner
    count, *rest = (path.env[v.unique()] for v in node.inputs())
    if isinstance(count, Number):
        count = path.known.get(count.value, count)
    path.outputs = [0, *rest]
    path.frames[-1].again = True
    todo, done = [(path, 0)], list[Path]()
    while todo:
        way, apart = todo.pop(0)
        i, going = way.outputs[:2]
        going = way.known.get(going.value, going) if isinstance(going, Number) else going
        way.outputs[1] = going
        if not isinstance(going, Number) and (not going or (not isinstance(count, Number) and i >= count)):
            done.append(way)
        elif isinstance(going, Number) and ("unroll", key) in walker.apart and not isinstance(count, Number):
            if i >= count:
                done.append(way)
                continue
            again, stop = walker.fork(way, going, ("body", "done"))
            again.known[going.value], stop.known[going.value] = True, False
            walker.trace.begin(stop.block)
            done.append(stop)
            walker.trace.begin(again.block)
            todo += [(p, apart) for p in _turn(walker, body, again)]
        elif isinstance(going, Number) or isinstance(count, Number):
            _Loop(walker, body, way, key, count, apart).read(todo, done)
        else:
            before = _Before(walker)
            found = _turn(walker, body, walker.copy(way, way.block))
            if _by_data([p.outputs[1] for p in found]) and ("unroll", key) not in walker.apart:
                before.restore()
                _Loop(walker, body, way, key, count, apart).read(todo, done)
            else:
                todo += [(p, apart) for p in found]
    for way in done:
        for value, x in zip(node.outputs(), way.outputs[2:], strict=True):
            way.env[value.unique()] = x
        way.outputs = []
        way.frames[-1].again = False
    return done


def _by_data(going: list[Any]) -> bool:
    """Whether it depends on the data if there is another turn."""
    return any(isinstance(x, Number) for x in going) or len({bool(x) for x in going}) > 1


def _turn(walker: Any, body: Plan, path: Path) -> list[Path]:
    """The ways after one turn."""
    i, _, *carried = path.outputs
    path.outputs = []
    path.env.update(zip(body.inputs, [i, *carried], strict=True))
    path.frames[-1].again = True
    walker.enter(path)
    paths = walker.run(body, path)
    for way in paths:
        way.outputs = [i + 1 if isinstance(i, int) else Number(i.value + const(1, "i64")), *way.outputs]
    return paths


class _Before:
    """How a program was before a loop was tried."""

    def __init__(self, walker: Any) -> None:
        self.walker, trace = walker, walker.trace
        self.drafts = {n: Draft(dict(d.writes), d.end, d.asked) for n, d in trace.drafts.items()}
        self.slots, self.defined, self.current = dict(trace.slots), dict(trace.defined), trace.current
        self.names = set(trace._slot_names), set(trace._block_names)
        self.refused, self.raised = list(walker.refused), list(walker.raised)
        self.checks, self.problems = list(walker.caller.checks), list(walker.caller.problems)
        self.order = len(walker.caller.order)

    def restore(self) -> None:
        """It is so again."""
        trace, caller = self.walker.trace, self.walker.caller
        trace.drafts = {n: Draft(dict(d.writes), d.end, d.asked) for n, d in self.drafts.items()}
        trace.slots, trace.defined, trace.current = dict(self.slots), dict(self.defined), self.current
        trace._slot_names, trace._block_names = set(self.names[0]), set(self.names[1])
        self.walker.refused, self.walker.raised = list(self.refused), list(self.raised)
        caller.checks, caller.problems = list(self.checks), list(self.problems)
        del caller.order[self.order :]


class _Loop:
    """A loop that becomes one of the program: what differs between turns is in slots."""

    def __init__(self, walker: Any, body: Plan, path: Path, key: Any, count: Any, apart: int) -> None:
        self.walker, self.body, self.key = walker, body, key
        self.path, self.count = path, count
        #: How many turns were written out ahead of it, and whether there has to be one more.
        self.apart, self.once_more = apart, False
        #: Whether ways that hold things of other kinds after a turn go on with a loop of their own.
        self.leave = False
        self.bounded = isinstance(count, Number) or count < _ENDLESS
        self.slots: set[Trail] = {("out", 0)} if self.bounded else set()
        self.growing: dict[Trail, tuple[Any, int]] = {}
        self.blanks: dict[Trail, Any] = {}
        #: The most turns, None if that isn't known.
        self.most: int | None = None
        self.unions: set[str] = set()
        path.frames[-1].again = True

    def read(self, todo: list[tuple[Path, int]], done: list[Path]) -> None:
        """Read it: the ways after it are done; those where a turn was written out ahead of it have it to do."""
        while not self.once_more:
            before = _Before(self.walker)
            found = self._tried()
            if found is not None:
                done += found[:1]
                todo += [(way, self.apart + 1) for way in found[1:]]
                return
            before.restore()
        trace, asked = self.walker.trace, Number(self._asked(self.path))
        again, stop = self.walker.fork(self.path, asked, ("first", "none"))
        again.known[asked.value], stop.known[asked.value] = True, False
        trace.begin(stop.block)
        done.append(stop)
        trace.begin(again.block)
        todo += [(way, self.apart + 1) for way in _turn(self.walker, self.body, again)]

    def _header(self) -> Path:
        """What the script holds where a turn begins."""
        trace, path = self.walker.trace, self.path
        name = self.walker.name_of(path.frames[-1].plan)
        header = trace.block("loop")
        for attribute in self.unions:
            path.attributes[attribute] = self.walker.kinds.union(attribute, path.attributes[attribute])
        made: list[tuple[Value, Value]] = []

        def leaf(found: Leaf) -> Any:
            if found.trail not in self.slots:
                return found.x
            slot = trace.slot(name(found.trail), found.type, header)
            made.append((slot, found.value))
            if not is_number(found.x):
                return slot
            may = not isinstance(self.count, Number) and self.count <= _WRITTEN_OUT
            return Number(slot, frozenset({("unroll", self.key)}) if may else frozenset())

        state = path.copy(Walk(leaf, self._instead, self.walker.copied, self.walker.merging.aliased), header)
        for slot, value in made:
            write(trace, path.block, slot, value)
        trace.drafts[path.block].end = Goto(header)
        return state

    def _instead(self, trail: Trail, x: Any) -> Any:
        if trail in self.blanks:
            return self.blanks[trail]
        if trail not in self.growing:
            return x
        like, each = self.growing[trail]
        bound = self.walker.bound if self.most is None else self.most
        if bound is None:
            raise UnsupportedError(
                "a list grows in a loop whose turns the data counts: say how many there may be, "
                "Program.from_torchscript(..., bound=100)"
            )
        return lists.growing(x, like, len(x) + each * bound, checked=self.most is None)

    def _asked(self, state: Path) -> Value:
        """Whether there is another turn."""
        i, going = state.outputs[:2]
        asked = [going.value] if isinstance(going, Number) else []
        if self.bounded:
            asked.append(less(value_of(i), value_of(self.count)))
        if not asked:
            return const(True)
        return asked[0] if len(asked) == 1 else bitwise_and(*asked)

    def _tried(self) -> list[Path] | None:
        """The way after it, and those that leave it, if all that differs is in slots; None if more has to be."""
        walker, trace = self.walker, self.walker.trace
        state = self._header()
        trace.begin(state.block)
        inside, after = trace.block("body"), trace.block("done")
        asked = self._asked(state)
        trace.drafts[state.block].end, trace.drafts[state.block].asked = If("", inside, after), asked
        again, stop = walker.copy(state, inside), walker.copy(state, after)
        again.known[asked], stop.known[asked] = True, False
        trace.begin(inside)
        drawn = walker.caller.streams
        latches = _turn(walker, self.body, again)
        if walker.caller.streams != drawn:
            raise UnsupportedError("a loop on data draws random numbers, which would be the same in each turn")
        for latch in latches:
            for name in self.unions:
                latch.attributes[name] = walker.kinds.union(name, latch.attributes[name])
        if self._is_new(state, latches):
            return None
        begins = self._described(state)
        leaving = [p for p in latches if self._described(p).marks != begins.marks]
        for latch in [p for p in latches if p not in leaving]:
            for old, new in zip(begins.leaves, self._described(latch).leaves, strict=True):
                if old.trail in self.slots:
                    slot = old.x.value if isinstance(old.x, Number) else old.x
                    write(trace, latch.block, slot, new.value)
            trace.drafts[latch.block].end = Goto(state.block)
        trace.begin(after)
        return [stop, *leaving]

    def _is_new(self, state: Path, latches: list[Path]) -> bool:
        """Whether something else has to be in slots than was tried; UnsupportedError if that can't be."""
        for latch in latches:
            lacking = [n for n in latch.attributes if n not in self.path.attributes]
            for name in lacking:
                self.path.attributes[name] = self.walker.begun(name)
            weights = [n for n in latch.weights if n not in self.path.weights]
            for name in weights:
                self.path.weights[name] = self.walker.leaf_of(name)
            if lacking or weights:
                return True
        begins = self._described(state)
        fixed = {a.trail: a for a in begins.leaves if a.trail not in self.slots}
        ended = [self._described(latch) for latch in latches]
        new = {
            b.trail for ends in ended for b in ends.leaves
            if b.trail in fixed and b.type is fixed[b.trail].type and not same_leaf(fixed[b.trail].x, b.x)
        }  # fmt: skip
        self.slots |= new
        if new:
            return True
        for latch, ends in zip(latches, ended, strict=True):
            for (trail, old), (_, mark) in zip(begins.marks, ends.marks, strict=False):
                if old != mark:
                    if self.leave:
                        break
                    self.most = self._most_turns(begins.leaves, latches)
                    self._differs(trail, old, mark, state, latch, latches)
                    return True
        return False

    def _described(self, path: Path) -> Walk:
        return described(path.roots(), self.walker.merging.aliased)

    def _most_turns(self, leaves: list[Leaf], latches: list[Path]) -> int | None:
        """How many turns there may be: as it is counted, or as a number says that is counted in the script."""
        if self.bounded and not isinstance(self.count, Number):
            return self.count - self.path.outputs[0] if isinstance(self.path.outputs[0], int) else self.count
        starts = {leaf.trail: leaf.x for leaf in self._described(self.path).leaves}
        counted = {
            leaf.x.value: starts[leaf.trail] for leaf in leaves
            if isinstance(leaf.x, Number) and type(starts.get(leaf.trail)) is int
        }  # fmt: skip
        most = 0
        for latch in latches:
            going = latch.outputs[1]
            if isinstance(going, Number):
                found = [n for n in (_turns_of(term, counted) for term in _terms(going.value)) if n is not None]
                if not found:
                    return None
                most = max(most, min(found))
            elif going:
                return None
        return most + 1 if latches else None

    def _differs(self, trail: Trail, old: Any, new: Any, state: Path, latch: Path, latches: list[Path]) -> None:
        """Something is of another kind after a turn: a list that grows, an attribute; UnsupportedError if it can't."""
        if old[0] == new[0] == "list" and new[1] > old[1] and trail not in self.growing:
            items = lists.at(dict(latch.roots()), trail)
            self.growing[trail] = (items[-1], max(new[1] - old[1], 1))
            return
        if old == ("is", Uninitialised.path):
            self.blanks[trail] = blank(lists.at(dict(latch.roots()), trail))
            return
        if trail[0] == "attribute" and trail[1] not in self.unions:
            for path in (state, latch):
                self.walker.kinds.number(trail[1], path.attributes[trail[1]])
            self.unions.add(trail[1])
            return
        begins = self._described(state).marks
        if self.apart < _KINDS and any(self._described(p).marks == begins for p in latches):
            self.leave = True
            return
        if not self.apart:
            self.once_more = True
            return
        if not isinstance(self.count, Number) and self.count <= _WRITTEN_OUT:
            raise self.walker.apart_at(("unroll", self.key))
        names = self.path.frames[-1].plan.names | self.body.names
        told = str(trail[1])
        if trail[0] in ("env", "out"):
            unique = trail[2] if trail[0] == "env" else self.body.inputs[max(trail[1] - 1, 0)]
            name = names.get(unique, "")
            told = name.rpartition(".")[0] or name
        raise UnsupportedError(
            f"a loop on data changes what {told} is, {_told(old)} before and {_told(new)} after a turn: "
            "in a program it must stay; a list that grows may be stacked after the loop"
        )


def _terms(value: Value) -> list[Value]:
    """What must all be true."""
    if isinstance(value.op, Binary) and value.op.kind == "bitwise_and":
        return [t for a in value.args for t in _terms(a)]
    return [value]


def _turns_of(term: Value, counted: Mapping[Value, int]) -> int | None:
    """How often a term may hold that compares a number, one more each turn, with a constant."""
    if not isinstance(term.op, Binary) or term.op.kind not in ("less", "less_equal"):
        return None
    more, limit = term.args
    if not isinstance(limit.op, Const) or not isinstance(more.op, Binary) or more.op.kind != "add":
        return None
    before, one = more.args
    if before not in counted or not isinstance(one.op, Const) or one.op.run().item() < 1:
        return None
    return max(0, limit.op.run().item() - counted[before] + (term.op.kind == "less_equal"))


def _told(mark: Any) -> str:
    if isinstance(mark, tuple):
        return str(mark[-1]) if mark[0] in ("ref", "number", "is") else " ".join(map(str, mark))
    return str(mark)
