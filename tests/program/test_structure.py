"""Loops and branches recovered from blocks, and programs that had to be changed for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.program.run import Bound
from tdagger.program.structure import Choose, Run, Sequence, Structured, While, dispatched, structured
from tests.program.graphs import BY_HAND, arbitrary, tries
from tests.program.programs import PROGRAMS
from tests.program.test_programs import same


def run(found: Structured, *arrays: Any) -> Any:
    """What a program gives by its structure alone."""
    program, whole = found
    slots = program.bind(arrays, {})
    for name, slot in program.slots.items():
        if slot.buffer:
            slots[name] = program.weights[slot.buffer]
    blocks = {n: Bound(b, program.weights) for n, b in program.blocks.items()}

    def done(sequence: Sequence) -> None:
        for step in sequence:
            if isinstance(step, Run):
                blocks[step.block].run(slots)
            elif isinstance(step, Choose):
                arm = int(slots[step.slot])
                if not step.by_number:
                    arm = 1 - arm
                done(step.arms[arm if 0 <= arm < len(step.arms) else -1])
            else:
                assert isinstance(step, While)
                done(step.before)
                while bool(slots[step.slot]) != step.until:
                    done(step.body)
                    done(step.before)

    done(whole)
    out = [slots[n] for n in program.outputs]
    cut = {n: [(i, int(slots[m])) for i, m in program.slots[n].lengths] for n in program.outputs}
    out = [v[tuple(slice(m) for _, m in cut[n])] if cut[n] else v for n, v in zip(program.outputs, out, strict=True)]
    return program.called.outputs.unflatten(out)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_written_is_found_again(name: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    found, whole = structured(program)
    assert found is program  # nothing had to be changed
    same(run(Structured(found, whole), *inputs[-1]), reference(*inputs[-1]))
    loops = sum(isinstance(s, While) for s in flat(whole))
    assert loops == len(program.flow.loops)


def flat(sequence: Sequence) -> list[Any]:
    out: list[Any] = []
    for step in sequence:
        out.append(step)
        parts = step.arms if isinstance(step, Choose) else (step.before, step.body) if isinstance(step, While) else ()
        out += [s for p in parts for s in flat(p)]
    return out


@pytest.mark.parametrize("make", BY_HAND)
def test_by_hand(make: Callable[[], td.Program]) -> None:
    agree(make())


def agree(program: td.Program) -> None:
    found, simple, one = structured(program), program.simplify(), dispatched(program)
    changed = found.program.simplify()
    for arrays in tries():
        wanted = program.run(*arrays, turns=1000)
        same(run(found, *arrays), wanted)
        for other in (simple, one, changed):
            same(other.run(*arrays, turns=5000), wanted)


def test_what_has_to_be_changed() -> None:
    found = {m.__name__: structured(m()) for m in BY_HAND}
    assert {n for n, s in found.items() if "block" in s.program.slots} == {"irreducible"}
    assert {n for n, s in found.items() if "going" in s.program.slots} == {
        "irreducible",
        "two_exits",
        "out_of_two_loops",
    }
    assert [s.block for s in flat(found["fallthrough"].whole) if isinstance(s, Run)].count("three") == 1
    assert [s.block for s in flat(found["fallthrough"].whole) if isinstance(s, Run)].count("two") == 2


@pytest.mark.parametrize("seed", range(60))
def test_arbitrary(seed: int) -> None:
    agree(arbitrary(seed))


def test_zeros_where_nothing_was() -> None:
    """In a loop over block numbers every slot has a value at the start."""
    program = dispatched(PROGRAMS["power"].program)
    assert float(program.run(np.float32(2), np.int64(3))) == 8
