"""A program as a module with torch's operators of higher order: ``torch.cond``, ``while_loop`` and ``scan``.

Such a module is exported by torch.export and compiled whole. Loops and branches are those of
:mod:`tdagger.program.structure`; each is a call whose functions take and give the slots that it changes and somebody
needs after it, and see the others around them. They give copies: torch refuses one that gives back what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten import TORCH_DTYPES
from tdagger.frameworks.torch.emit.scans import Scan, Steps, parts_of
from tdagger.graph import flops
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.program.simplify import at_end
from tdagger.program.structure import Choose, Fail, Run, While

Lines = list[str]


def indented(lines: Iterable[str]) -> Lines:
    """Lines one level further in."""
    return [f"    {line}" for text in lines for line in text.split("\n")]


class Reads:
    """Which slots the steps of a program read and write."""

    def __init__(self, program: Program) -> None:
        self.blocks = program.blocks

    def written(self, steps: Steps) -> set[str]:
        """The slots that may be written."""
        found: set[str] = set()
        for step in steps:
            if isinstance(step, Run):
                found |= set(self.blocks[step.block].writes)
            elif isinstance(step, Choose):
                found |= set().union(*map(self.written, step.arms))
            elif isinstance(step, While):
                found |= self.written(step.before) | self.written(step.body)
            elif isinstance(step, Scan):
                found |= self.written(step.body) | step.results
        return found

    def always(self, steps: Steps) -> set[str]:
        """The slots that are written whatever happens."""
        found: set[str] = set()
        for step in steps:
            if isinstance(step, Run):
                found |= set(self.blocks[step.block].writes)
            elif isinstance(step, Choose):
                arms = [self.always(a) for a in step.arms if not fails(a)]
                found |= set.intersection(*arms) if arms else set()
            elif isinstance(step, While):
                found |= self.always(step.before)
            elif isinstance(step, Scan):
                found |= self.always(step.body) | step.results
        return found

    def seen(self, steps: Steps) -> set[str]:
        """The slots that functions in steps see, but for those that loops carry."""
        found: set[str] = set()
        for step in steps:
            if not isinstance(step, Run):
                found |= self.needed((step,), ()) - (self.written((step,)) if isinstance(step, While) else set())
        return found

    def needed(self, steps: Steps, after: Collection[str]) -> set[str]:
        """The slots that must have their values before some steps, if those of ``after`` are needed after them."""
        live = set(after)
        for step in reversed(steps):
            if isinstance(step, Run):
                block = self.blocks[step.block]
                live = live - set(block.writes) | set(block.reads)
            elif isinstance(step, Choose):
                live = set().union(*[self.needed(a, live) for a in step.arms]) | {step.slot}
            elif isinstance(step, While):
                live = self.head(step, live)
            elif isinstance(step, Scan):
                live = self.turn(step, live) - step.own | {x for x, _ in step.xs}
            else:
                live = set[str]()
        return live

    def head(self, step: While, after: Collection[str]) -> set[str]:
        """The slots that a loop needs where a turn begins."""
        live = set[str]()
        while True:
            test = {step.slot, *after, *self.needed(step.body, live)}
            new = self.needed(step.before, test)
            if new == live:
                return live
            live = new

    def turn(self, step: Scan, after: Collection[str]) -> set[str]:
        """The slots that a scan needs where a turn begins, entries and the counter among them."""
        last = set(after) - step.results
        live = last
        while True:
            new = last | self.needed(step.body, live - step.own | {y for _, y in step.ys})
            if new == live:
                return live
            live = new


def fails(steps: Steps) -> bool:
    """Whether steps end with a refusal."""
    return bool(steps) and isinstance(steps[-1], Fail)


def _may_fail(steps: Steps) -> bool:
    """Whether steps may refuse what they are given."""
    return any(isinstance(s, Fail) or (not isinstance(s, Run) and any(map(_may_fail, parts_of(s)))) for s in steps)


class Higher:
    """Lines with calls of operators of higher order for what a program does."""

    def __init__(self, program: Program, names: dict[str, str], run: Callable[[str], Lines]) -> None:
        self.program, self.names, self.run = program, names, run
        self.reads = Reads(program)
        self.count = 0
        self.assigned: set[str] = set(program.begins_with)

    def whole(self, steps: Steps) -> Lines:
        """The lines of the whole program."""
        return self.lines(steps, at_end(self.program))

    def lines(self, steps: Steps, after: Collection[str], later: Collection[str] = ()) -> Lines:
        """The lines of steps, after which some slots are needed, and ``later`` are seen by functions."""
        needed: list[set[str]] = [set(after)]
        for step in reversed(steps):
            needed.append(self.reads.needed((step,), needed[-1]))
        needed.reverse()
        seen = [(self.reads.seen(steps[i + 1 :]) | set(later)) & needed[i + 1] for i in range(len(steps))]
        out: Lines = []
        for i, step in enumerate(steps):
            if isinstance(step, Run):
                out += self.run(step.block)
                self.assigned |= set(self.program.blocks[step.block].writes)
                out += self._apart(step.block, seen[i])
            elif isinstance(step, Choose):
                out += self._choice(step, needed[i + 1], seen[i])
            elif isinstance(step, While):
                out += self._loop(step, needed[i + 1], seen[i])
            elif isinstance(step, Scan):
                out += self._scan(step, needed[i + 1], seen[i])
            else:
                raise UnsupportedError(
                    f"{shown(self.program.name)} refuses what it is given ({step.message}), which an operator of "
                    "higher order can't: program.trusted() leaves that out"
                )
        return out

    def _apart(self, block: str, seen: Collection[str]) -> Lines:
        """Copies of what a block writes without computing it, and functions see: torch refuses what shares memory."""
        outputs = self.program.blocks[block].graph.outputs
        moved = [n for n in self._ordered(seen) if n in outputs and outputs[n].args and not flops(outputs[n])]
        out: Lines = []
        for slot in moved:
            own = f"own_{self._number()}"
            out += [f"{own} = {self._copy(slot)}", f"{self.names[slot]} = {own}"]
        return out

    def _given(self, slots: list[str], seen: Collection[str]) -> tuple[dict[str, str], Lines]:
        """What the results of an operator are called, and lines that make slots of them.

        torch.export names a result as the local variable that it is assigned to first. Where functions inside of each
        other have results of one name, and a third in both sees them, it takes them for one: so what is ``seen`` gets
        a name of its own.
        """
        names = {n: f"own_{self._number()}" if n in seen else self.names[n] for n in slots}
        return names, [f"{self.names[n]} = {own}" for n, own in names.items() if own != self.names[n]]

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _zeros(self, slots: Iterable[str]) -> Lines:
        out: Lines = []
        for slot in sorted(slots):
            type_ = self.program.slots[slot].type
            dtype = TORCH_DTYPES[type_.dtype]
            out.append(f"{self.names[slot]} = torch.zeros({list(type_.shape)}, dtype={dtype})")
        return out

    def _ordered(self, slots: Collection[str]) -> list[str]:
        return [n for n in self.program.slots if n in slots]

    def _copy(self, slot: str) -> str:
        return f"torch.clone({self.names[slot]}, memory_format=torch.contiguous_format)"

    def _copies(self, slots: list[str]) -> str:
        copies = [self._copy(n) for n in slots]
        return f"({', '.join(copies)},)" if copies else "()"

    def _function(self, name: str, takes: list[str], steps: Steps, gives: list[str]) -> Lines:
        """A function that does steps on slots."""
        before = set(self.assigned)
        body = self.lines(steps, gives)
        body += self._zeros(set(gives) - self.assigned - set(takes))
        self.assigned = before
        head = f"def {name}({', '.join(self.names[n] for n in takes)}):"
        return [head, *indented([*body, f"return {self._copies(gives)}"])]

    def _choice(self, step: Choose, after: Collection[str], seen: Collection[str]) -> Lines:
        doomed = [i for i, a in enumerate(step.arms) if fails(a)]
        if doomed:
            return self._checked(step, doomed, after, seen)
        gives = self._ordered(set().union(*map(self.reads.written, step.arms)) & set(after))
        if not gives:
            if any(map(_may_fail, step.arms)):
                raise UnsupportedError(
                    f"{shown(self.program.name)} refuses what it is given in a branch that gives nothing, which an "
                    "operator of higher order can't: program.trusted() leaves that out"
                )
            return []
        takes = self._ordered((set().union(*map(self.reads.written, step.arms)) | set(gives)) & self.assigned)
        names = [f"arm_{self._number()}" for _ in step.arms]
        out: Lines = []
        for name, arm in zip(names, step.arms, strict=True):
            out += self._function(name, takes, arm, gives)
        own = self.names[step.slot]
        given = f"({', '.join(self.names[n] for n in takes)}{',' if takes else ''})"
        results, bound = self._given(gives, seen)
        targets = _targets(results.values())
        if not step.by_number:
            out.append(f"{targets} = torch.cond({own}, {names[0]}, {names[1]}, {given})")
        else:
            last = names[-1]
            for i in reversed(range(len(names) - 1)):
                asked = f"({own} == {i})"
                if i:
                    other = f"other_{self._number()}"
                    params = ", ".join(self.names[n] for n in takes)
                    out += [f"def {other}({params}):", f"    return torch.cond({asked}, {names[i]}, {last}, {given})"]
                    last = other
                else:
                    out.append(f"{targets} = torch.cond({asked}, {names[0]}, {last}, {given})")
        self.assigned |= set(gives)
        return out + bound

    def _checked(self, step: Choose, doomed: list[int], after: Collection[str], seen: Collection[str]) -> Lines:
        """An arm that refuses as an assertion; the other goes on."""
        left = [i for i in range(len(step.arms)) if i not in doomed]
        texts = [s.message for i in doomed for s in step.arms[i] if isinstance(s, Fail)]
        if step.by_number or len(left) != 1 or len(step.arms[doomed[0]]) > 2:
            raise UnsupportedError(
                f"{shown(self.program.name)} refuses what it is given ({texts[0]}) where no assertion can: "
                "program.trusted() leaves that out"
            )
        own = self.names[step.slot]
        good = own if left[0] == 0 else f"torch.logical_not({own})"
        return [f"torch._assert_async({good}, {texts[0]!r})", *self.lines(step.arms[left[0]], after, seen)]

    def _loop(self, step: While, after: Collection[str], seen: Collection[str]) -> Lines:
        reads = self.reads
        turn = (*step.body, *step.before)
        head = reads.head(step, after)
        needed = {step.slot, *after, *reads.needed(step.body, head)}
        out = self.lines(step.before, needed)
        carried = self._ordered((reads.written(turn) & needed) | {step.slot})
        lacking = set(carried) - self.assigned
        out += self._zeros(lacking)
        self.assigned |= lacking
        number = self._number()
        params = ", ".join(self.names[n] for n in carried)
        asked = self.names[step.slot]
        test = f"torch.logical_not({asked})" if step.until else f"torch.clone({asked})"
        out += [f"def test_{number}({params}):", f"    return {test}"]
        out += self._function(f"body_{number}", carried, turn, carried)
        results, bound = self._given(carried, seen)
        loop = f"torch._higher_order_ops.while_loop(test_{number}, body_{number}, {self._copies(carried)})"
        return [*out, f"{_targets(results.values())} = {loop}", *bound]

    def _scan(self, step: Scan, after: Collection[str], seen: Collection[str]) -> Lines:
        live = self.reads.turn(step, after)
        carried = self._ordered(self.reads.written(step.body) & (live - step.own))
        lacking = set(carried) - self.assigned
        out = self._zeros(lacking)
        self.assigned |= lacking
        entries, xs = [e for _, e in step.xs], [self.names[x] for x, _ in step.xs]
        if step.counter in live or not xs:
            entries.append(step.counter)
            xs.append(self._turns(step, xs))
        results = [e for _, e in step.ys]
        before = set(self.assigned)
        self.assigned |= {*entries}
        number = self._number()
        body = [f"{_targets(map(self.names.__getitem__, carried))} = carried"] if carried else []
        body += [
            f"{_targets(map(self.names.__getitem__, entries))} = entry",
            *self.lines(step.body, [*carried, *results]),
        ]
        self.assigned = before | {y for y, _ in step.ys}
        last, start = self._copies(carried), self._copies(carried)
        if not carried:  # torch wants one
            last, start = "(torch.clone(carried[0]),)", "(torch.zeros([]),)"
        out += [f"def body_{number}(carried, entry):",
                *indented([*body, f"return {last}, {self._copies(results)}"])]  # fmt: skip
        named, bound = self._given([*carried, *[y for y, _ in step.ys]], seen)
        targets = f"{_group([named[n] for n in carried])}, {_group([named[y] for y, _ in step.ys])}"
        reverse = ", reverse=True" if step.reverse else ""
        given = f"{start}, ({', '.join(xs)},)"
        out += [f"{targets} = torch._higher_order_ops.scan(body_{number}, {given}{reverse})", *bound]
        if step.counter in after:
            type_ = TORCH_DTYPES[self.program.slots[step.counter].type.dtype]
            out.append(f"{self.names[step.counter]} = torch.tensor({step.turns}, dtype={type_})")
        self.assigned |= step.results
        return out

    def _turns(self, step: Scan, xs: list[str]) -> str:
        """The numbers of turns, each where its entries are."""
        type_ = TORCH_DTYPES[self.program.slots[step.counter].type.dtype]
        places = f"{step.turns - 1}, -1, -1" if step.reverse else f"{step.turns}"
        return f"torch.arange({places}, dtype={type_}{f', device={xs[0]}.device' if xs else ''})"


def _targets(names: Iterable[str]) -> str:
    several = list(names)
    return ", ".join(several) + ("," if len(several) == 1 else "")


def _group(names: list[str]) -> str:
    return f"({_targets(names)})" if names else "_"


def example_of(program: Program) -> list[torch.Tensor]:
    """Zeros for the inputs of a program, to be exported with; sizes that vary are such that nothing else has them."""
    found: list[torch.Tensor] = []
    for slot in map(program.slots.__getitem__, program.inputs):
        open_ = dict(slot.lengths)
        sizes = [n - 1 if i in open_ and n > _LEAST else n for i, n in enumerate(slot.type.shape)]
        found.append(torch.zeros(sizes, dtype=TORCH_DTYPES[slot.type.dtype]))
    return found


#: torch takes an example's size of 0 or 1 for a number of its own, so a size that varies is larger there.
_LEAST = 2


def dimensions_of(program: Program) -> list[dict[int, Any]]:
    """The dimensions of inputs whose sizes vary, as torch.export is told; one for each length."""
    made: dict[str, Any] = {}
    found: list[dict[int, Any]] = []
    for name in program.inputs:
        slot = program.slots[name]
        own: dict[int, Any] = {}
        for i, length in slot.lengths:
            most = slot.type.shape[i]
            if most < _LEAST:
                raise UnsupportedError(
                    f"{shown(program.name)}: input {shown(name)} has at most {most} entries in dimension {i}, and "
                    f"torch.export lets a size vary only if it can be {_LEAST}"
                )
            own[i] = made.setdefault(length, torch.export.Dim(f"size_{len(made)}", min=0, max=most))
        found.append(own)
    return found
