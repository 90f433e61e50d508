"""What is said of a program and done to it: every sample computes the same afterwards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.program.parts import Block, If, Raise, Return, Slot
from tests.program.programs import BOOL, I64, PROGRAMS
from tests.program.test_programs import same


def first_loop(p: td.Program) -> td.Program:
    loops = list(p.flow.loops)
    return p.unroll(2, loops[0]) if loops else p


def inner_loop(p: td.Program) -> td.Program:
    loops = list(p.flow.loops)
    return p.unroll(3, loops[-1]) if loops else p


CHANGES: dict[str, Callable[[td.Program], td.Program]] = {
    "optimize": lambda p: p.optimize(),
    "simplify": lambda p: p.simplify(),
    "unroll": first_loop,
    "unroll an inner loop": inner_loop,
    "unroll twice": lambda p: first_loop(first_loop(p)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_computes_the_same(name: str, change: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    new = CHANGES[change](program)
    for arrays in inputs:
        same(new.run(*arrays), reference(*arrays))


@pytest.mark.parametrize("name", PROGRAMS)
def test_axes_and_costs(name: str) -> None:
    program, _, inputs = PROGRAMS[name]
    named = program.axes()
    for block in program.blocks.values():
        for value in block.graph.values:
            assert named.show(value)
    runner = program.runner()
    runner(*inputs[0])
    cost = program.cost()
    counted = {n: c for n, c in runner.counts.items() if c}
    assert cost.total(counted) == eval(cost.formula(), dict(runner.counts))
    assert "flops of a run" in str(cost)


def test_one_name_for_an_axis_in_all_blocks() -> None:
    @td.program({"x": (4, 3), "w": (3, 3), "n": I64})
    def program(x: Any, w: Any, n: Any) -> Any:
        y = td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, td.tanh(td.matmul(y, w))), (0, x))[1]
        return td.exp(y)

    named = program.axes({"x": "b c"})
    shown = {named.shape(v) for b in program.blocks.values() for v in b.graph.outputs.values() if v.rank == 2}
    assert shown == {"b c"}
    whole = program.unbatch("b")
    assert whole.slots["x"].type == td.TensorType((3,), "f32")
    x, w = np.ones((4, 3), "f"), np.eye(3, dtype="f") * np.float32(0.5)
    np.testing.assert_allclose(whole.run(x[0], w, np.int64(3)), program.run(x, w, np.int64(3))[0], rtol=1e-6)
    larger = program.resize(b=6)
    same(larger.run(np.ones((6, 3), "f"), w, np.int64(2))[:4], program.run(x, w, np.int64(2)))
    with pytest.raises(td.AxisError):
        program.unbatch("c")


def test_a_dimension_of_one_entry_that_blocks_write_is_the_slots() -> None:
    """What blocks write has a dimension of 1 that is no axis there, and the slot's axis where it is written."""
    v, w = np.arange(6, dtype="f").reshape(2, 3), np.ones((2, 3), "f")

    @td.program({"x": (3,), "p": BOOL}, {"v": v, "w": w})
    def program(x: Any, p: Any, v: Any, w: Any) -> Any:
        row = td.unsqueeze(x, (0,))
        return td.squeeze(td.if_(p, lambda: td.linear(row, v), lambda: td.linear(row, w)), (0,)) * 2.0

    (axis,) = [n for n, size in program.axes().sizes.items() if size == 1]
    single = program.unbatch(axis)
    assert {s.type.shape for s in single.slots.values()} == {(3,), (2,), ()}
    x = np.ones(3, "f")
    for p, own in ((True, v), (False, w)):
        same(single.run(x, np.bool_(p)), 2 * own @ x)


def test_a_batch_with_an_accumulator_is_resized() -> None:
    """Zeros that a scan begins with follow."""
    program = td.program({"xs": (5, 2)})(lambda xs: td.scan(lambda c, x: (c + x, c), td.const(np.zeros(2, "f")), xs))
    named = program.axes({"xs": "s b"})
    assert named.shape(program.blocks["body"].graph.outputs["ys"]) == "n b"
    wide = program.with_parts(axis_names={"xs": "s b"}).resize(b=3, assume=True)
    xs = np.arange(15, dtype="f").reshape(5, 3)
    same(wide.run(xs), (xs.sum(0), np.cumsum(np.concatenate([np.zeros((1, 3), "f"), xs[:-1]]), 0)))


def test_what_stops_an_axis_is_named() -> None:
    program = PROGRAMS["bounded_sum"].program
    with pytest.raises(td.AxisError, match="x"):
        program.unbatch(slot="x", axis=0)
    state = td.program({"x": (2,)}, state={"h": np.zeros(2, "f")})(lambda x: td.set_state("h", td.state("h") + x))
    with pytest.raises(td.AxisError, match=r"slot h begins as buffer h, and would be f32\[\] instead of f32\[2\]"):
        state.unbatch(slot="x", axis=0)


def test_an_axis_that_a_loop_counts_is_not_resized() -> None:
    """How often it is gone round is a number in the program, which says nothing of where it is from."""
    program = td.program({"xs": (5, 2)})(lambda xs: td.scan(lambda c, x: (c + x, c), td.const(np.zeros(2, "f")), xs))
    with pytest.raises(td.AxisError, match=r"resize\(s=7\): gather.* takes entries of s by what slots hold"):
        program.with_parts(axis_names={"xs": "s b"}).resize(s=7)


def test_optimize_merges_and_drops() -> None:
    @td.program({"x": (3,), "n": I64})
    def program(x: Any, n: Any) -> Any:
        def body(k: Any, y: Any, unused: Any, fixed: Any) -> Any:
            return k + 1, y * 1.0 + fixed, unused + 1, fixed

        return td.while_loop(lambda k, y, u, f: k < n, body, (0, x, 0, td.const(np.ones(3, "f"))))[1]

    small = program.simplify()
    assert set(program.slots) - set(small.slots) == {"unused", "fixed"}
    same(small.run(np.zeros(3, "f"), np.int64(4)), np.full(3, 4, "f"))


def test_specialize() -> None:
    @td.program({"x": (3,), "rate": I64, "loud": BOOL})
    def program(x: Any, rate: Any, loud: Any) -> Any:
        def at_16k() -> Any:
            return td.switch(td.floor_divide(rate, 8000) - 1, [lambda: x, lambda: td.exp(x), lambda: -x])

        y = td.if_(rate < 16000, lambda: td.sin(x), at_16k)
        return td.if_(loud, lambda: y * 2.0, lambda: y)

    one = program.specialize(rate=16000, loud=True)
    assert one.inputs == ("x",)
    assert list(one.blocks) == ["given"]
    assert td.op_counts(one.dag().graph.values)["exp"] == 1
    x = np.ones(3, "f")
    same(one.dag().run(x), 2 * np.exp(x))
    same(program.specialize(rate=8000).run(x, np.bool_(False)), np.sin(x))
    with pytest.raises(td.InputError, match="takes no 'n'; it takes x, rate, loud"):
        program.specialize(n=3)
    with pytest.raises(td.InputError, match=r"input x is declared f32\[3\], got float32\[2\]"):
        program.specialize(x=np.ones(2))
    with pytest.raises(td.GraphError, match="has 11 blocks: say which one is meant"):
        program.dag()
    with pytest.raises(td.GraphError, match="has no block z; there are begin"):
        program.dag("z")


def test_a_loop_of_known_turns_unrolls_into_one_network() -> None:
    for name, turns in (("reverse_scan", 4), ("scan_carries", 5), ("recurrent_network", 3), ("diffusion_sampler", 7)):
        program, reference, inputs = PROGRAMS[name]
        dag = program.unroll(turns).dag()
        for arrays in inputs:
            same(dag.run(*arrays), reference(*arrays))
    with pytest.raises(td.GraphError, match="say which loop, by its first block; nested_loops has loop, loop_2"):
        PROGRAMS["nested_loops"].program.unroll(2)
    with pytest.raises(td.GraphError, match="body begins no loop; there are loop"):
        PROGRAMS["power"].program.unroll(2, "body")
    with pytest.raises(td.AttributeValueError, match="at least one turn"):
        PROGRAMS["power"].program.unroll(0)


def test_a_network_with_state_of_one_block() -> None:
    dag = PROGRAMS["state"].program.dag()
    assert set(dag.graph.updates) == {"total", "count"}
    assert dag.run(np.ones(2, "f")).tolist() == [1, 1]


def test_weights_are_folded_once_for_all_blocks() -> None:
    weight = np.arange(9, dtype="f").reshape(3, 3)

    @td.program({"x": (1, 3), "n": I64}, parameters={"w": weight})
    def program(x: Any, n: Any, w: Any) -> Any:
        y = td.linear(x, w * 2.0)
        return td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, td.tanh(td.linear(y, w))), (0, y))[1]

    small = program.optimize()
    x = np.ones((1, 3), "f")
    same(small.run(x, np.int64(2)), program.run(x, np.int64(2)))


def test_a_branch_that_tests_equality_knows_the_value() -> None:
    """Where ``k == 2`` holds, k is 2; a slot that is asked is what it was asked to be."""

    @td.program({"x": (3,), "k": td.TensorType((), "i64")})
    def chosen(x: Any, k: Any) -> Any:
        return td.if_(
            td.equal(k, td.const(2, "i64")), lambda: td.if_(k < 5, lambda: x + x, lambda: td.exp(x)), lambda: x
        )

    program = chosen.simplify()
    assert "exp" not in str(program)
    assert len(program.blocks) < len(chosen.blocks)
    for k in (2, 3, 7):
        x = np.ones(3, "f")
        assert program.run(x, np.int64(k)).tolist() == ([2, 2, 2] if k == 2 else [1, 1, 1])


def test_what_a_program_refuses() -> None:
    x, bad = td.input("x", ()), td.input("bad", (), "bool")
    blocks = {
        "begin": Block(td.Graph({"x": x}, {"bad": x < 0.0}), If("bad", "refuse", "end")),
        "refuse": Block(td.Graph({}, {}), Raise("x is negative")),
        "end": Block(td.Graph({"x": x}, {"y": td.sqrt(x)}), Return()),
    }
    program = td.Program({"x": Slot(x.type), "bad": Slot(bad.type), "y": Slot(x.type)}, blocks, ("x",), ("y",))
    assert program.run(np.float32(4)) == 2
    assert "raise 'x is negative'" in str(program)
    for other in (program, program.simplify(), program.optimize()):
        with pytest.raises(td.InputError, match="x is negative"):
            other.run(np.float32(-1))
    assert len(program.trusted().blocks) == 1
    assert np.isnan(program.trusted().run(np.float32(-1)))


def test_state_that_only_tells_the_first_run_is_no_state() -> None:
    """A flag that the first run sets, which does what others do with zeros; it stays where the first differs."""

    def steps(first: float) -> td.Program:
        @td.program({"x": (2,), "k": td.TensorType((), "i64")}, state={"last": np.zeros(2, "f"), "begun": np.int64(0)})
        def step(x: Any, k: Any) -> Any:
            before, begun = td.state("last"), td.state("begun")
            h = td.if_(begun < 1, lambda: td.const(np.full(2, first, "f")), lambda: before)
            td.set_state("begun", td.const(1, "i64"))
            td.set_state("last", td.tanh(h + x))
            return td.if_(k < 1, lambda: td.state("last"), lambda: -td.state("last"))

        return step

    plain = steps(0.0).specialize(k=0)
    assert {s.buffer for s in plain.slots.values() if s.buffer} == {"last"}
    assert set(plain.dag().graph.updates) == {"last"}
    other = steps(1.0).specialize(k=0)
    assert {s.buffer for s in other.slots.values() if s.buffer} == {"last", "begun"}
    for program, first in ((plain, 0.0), (other, 1.0)):
        a, b = program.runner(), steps(first).runner()
        for i in range(3):
            x = np.full(2, i + 0.5, "f")
            np.testing.assert_allclose(a(x), b(x, np.int64(0)), rtol=1e-6)
