"""A failing program made small: steps, inputs, outputs and sizes go as long as it fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from conformance.fuzz.build import needed_sizes
from conformance.fuzz.check import Checks, NotApplicable, Result
from conformance.fuzz.program import Program

#: Finds the failure in a program: the result that is like the one it was made for, or None.
Finder = Callable[[Program], Result | None]


def finder(result: Result) -> Finder:
    """Runs the one check of a program that failed, and says whether it fails in the same way."""

    def find(program: Program) -> Result | None:
        try:
            found = Checks(program, only=(result.check,)).run()
        except NotApplicable:
            return None
        return next((r for r in found if r.key == result.key), None)

    return find


def shrink(program: Program, find: Finder, seconds: float = 60.0) -> Program:
    """The smallest program found in some time (of the processor) that ``find`` still finds something in."""
    end = time.process_time() + seconds
    tried: set[tuple[str, str]] = set()

    def fails(candidate: Program) -> bool:
        key = (candidate.source, f"{candidate.sizes}{candidate.inputs}{candidate.train}{candidate.entrance}")
        if key in tried or time.process_time() > end:
            return False
        tried.add(key)
        return runs(candidate) and find(candidate) is not None

    before = None
    while program != before:
        before = program
        for less in (fewer_outputs, fewer_steps, plainer):
            at, found = 0, list(less(program))
            while at < len(found):
                if fails(found[at]):  # goes on from here with what there is now
                    program = found[at]
                    found = list(less(program))
                else:
                    at += 1
    return program


def runs(program: Program) -> bool:
    """Whether eager runs it."""
    try:
        program.module()(*program.arguments())
    except Exception:  # whatever it is, it is not a smaller program
        return False
    return True


def fewer_outputs(program: Program) -> Iterator[Program]:
    """One result only, the one that is made first at first; or one result less."""
    last = program.outputs
    for name in dict.fromkeys(o for s in program.steps for o in s.outs):
        yield tidy(replace(program, outputs=(name,), structure="one"))
    for name in last if len(last) > 2 else ():
        yield tidy(replace(program, outputs=tuple(o for o in last if o != name)))


def fewer_steps(program: Program) -> Iterator[Program]:
    """One step less, a late one first."""
    for i in reversed(range(len(program.steps))):
        yield from without(program, i)


def plainer(program: Program) -> Iterator[Program]:
    """In eval mode, of float32, smaller, imported in the plainest way."""
    if program.train:
        yield replace(program, train=False)
    if program.structure == "dict":
        yield replace(program, structure="one" if len(program.outputs) == 1 else "tuple")
    for x in program.inputs:
        plain = replace(x, make=f"torch.randn(({', '.join(x.axes)},), generator=g)")
        if ").to(" in x.make or "dtype=" in x.make:
            yield replace(program, inputs=tuple(plain if y is x else y for y in program.inputs))
    for axis, n in program.sizes.items():
        for size in dict.fromkeys((1, 2, n - 1)):
            if 0 < size < n:
                yield replace(program, sizes={**program.sizes, axis: size})
    if program.entrance not in ("module", "program"):
        yield replace(program, entrance="module")


def without(program: Program, index: int) -> Iterator[Program]:
    """Without a step: what it gives is replaced by something it takes, or by what was there before."""
    gone, after = program.steps[index], program.steps[index + 1 :]
    before = program.steps[:index]
    known = [x.name for x in program.inputs] + [o for s in before for o in s.outs]
    given = [n for n in gone.uses if n in known]
    for source in given or known[-1:]:
        steps = list(after)
        outputs = program.outputs
        for old in gone.outs:
            steps = [s.renamed(old, source) for s in steps]
            outputs = tuple(dict.fromkeys(source if o == old else o for o in outputs))
        structure = "one" if len(outputs) == 1 and program.structure == "tuple" else program.structure
        yield tidy(replace(program, steps=(*before, *steps), outputs=outputs, structure=structure))
        if not gone.outs:
            return


def tidy(program: Program) -> Program:
    """Without steps and inputs that nothing needs; steps that only write stay as long as what they write to."""
    needed = set(program.outputs)
    kept = []
    for step in reversed(program.steps):
        writes = not step.outs
        if (
            needed & set(step.outs)
            or (writes and _reaches(program, step.uses, needed))
            or (step.init and "register_buffer" in step.init[0])
        ):
            kept.append(step)
            needed |= set(step.uses)
    inputs = tuple(x for x in program.inputs if x.name in needed) or program.inputs[:1]
    return replace(program, steps=tuple(reversed(kept)), inputs=inputs, sizes=needed_sizes(inputs, program.sizes))


def _reaches(program: Program, names: list[str], needed: set[str]) -> bool:
    """Whether any of some values is needed, or made of what something needed is made of: it may share memory."""
    makers = {o: s for s in program.steps for o in s.outs}

    def roots(name: str) -> set[str]:
        step = makers.get(name)
        return {name}.union(*(roots(n) for n in step.uses)) if step else {name}

    mine = set().union(*(roots(n) for n in names))
    return any(mine & roots(n) for n in needed)
