"""Which slots the steps of a structured program write, and which are read later: what crosses into loops and arms."""

from __future__ import annotations

from tdagger.program.program import Program
from tdagger.program.structure import Choose, Fail, Run, Sequence, While


class Lives:
    """Of the steps of a program (:func:`tdagger.program.structure.structured`): slots by their names."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._written: dict[Sequence, set[str]] = {}

    def written(self, steps: Sequence) -> set[str]:
        """The slots that some steps write."""
        found = self._written.get(steps)
        if found is None:
            found = set[str]()
            for step in steps:
                if isinstance(step, Run):
                    found |= {*self.program.blocks[step.block].writes}
                elif not isinstance(step, Fail):
                    parts = step.arms if isinstance(step, Choose) else (step.before, step.body)
                    found |= {n for p in parts for n in self.written(p)}
            self._written[steps] = found
        return found

    def reads(self, steps: Sequence) -> set[str]:
        """The slots that some steps read, whether or not they write them before."""
        found = set[str]()
        for step in steps:
            if isinstance(step, Run):
                found |= {*self.program.blocks[step.block].reads}
            elif isinstance(step, Choose | While):
                parts = step.arms if isinstance(step, Choose) else (step.before, step.body)
                found |= {step.slot}.union(*[self.reads(p) for p in parts])
        return found

    def before(self, steps: Sequence, after: set[str]) -> set[str]:
        """The slots that are read from before some steps on, if ``after`` are read after them."""
        for step in reversed(steps):
            if isinstance(step, Run):
                block = self.program.blocks[step.block]
                after = (after - {*block.writes}) | {*block.reads}
            elif isinstance(step, Choose):
                after = {step.slot}.union(*[self.before(a, after) for a in step.arms])
            elif isinstance(step, Fail):
                after = set()
            else:
                after = self.before(step.before, self.at_test(step, after))
        return after

    def after_each(self, steps: Sequence, after: set[str]) -> list[set[str]]:
        """The slots that are read after each of some steps."""
        alive: list[set[str]] = []
        for step in reversed(steps):
            alive.append(after)
            after = self.before((step,), after)
        return alive[::-1]

    def at_test(self, step: While, after: set[str]) -> set[str]:
        """The slots that are read from where a loop asks whether to go on."""
        found = after | {step.slot}
        while True:
            new = found | self.before(step.body, self.before(step.before, found))
            if new == found:
                return found
            found = new

    def changed(self, step: Choose, after: set[str]) -> list[str]:
        """The slots that an arm of a choice writes and that are read after it, in the program's order."""
        return [n for n in self.program.slots if n in after and any(n in self.written(a) for a in step.arms)]
