"""What is written in Python: how it becomes blocks, and what is refused."""

import gc
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.program.parts import If
from tests.program.programs import I64, PROGRAMS


def ops(program: td.Program, block: str) -> list[str]:
    return [
        k for k, n in td.op_counts(program.blocks[block].graph).items() for _ in range(n) if k not in ("input", "const")
    ]


def test_what_does_not_change_in_a_loop_is_computed_before_it() -> None:
    program = PROGRAMS["captured_outer_values"].program
    assert [n for n in ops(program, "begin") if n in ("tanh", "sin", "exp")] == ["tanh", "sin", "exp"]
    assert "tanh" not in ops(program, "body")


def test_what_one_branch_needs_is_computed_in_it() -> None:
    @td.program({"x": (3,), "p": td.TensorType((), "bool")})
    def program(x: Any, p: Any) -> Any:
        both, one = td.exp(x), td.sin(x)
        return td.if_(p, lambda: both + one, lambda: both)

    assert ops(program, "begin") == ["exp"]
    assert ops(program, "then") == ["sin", "add"]
    assert ops(program, "otherwise") == []


def test_an_expensive_branch_stays_in_its_branch() -> None:
    """It doesn't change in the loop, but perhaps it is never needed."""

    @td.program({"x": (3,), "n": I64})
    def program(x: Any, n: Any) -> Any:
        def body(k: Any, y: Any) -> Any:
            return k + 1, td.if_(k > 5, lambda: y + td.exp(td.sin(x)), lambda: y)

        return td.while_loop(lambda k, y: k < n, body, (0, x))[1]

    assert "exp" not in ops(program, "begin")
    assert ops(program, "then") == ["sin", "exp", "add"]


def test_numbers_choose_while_it_is_written() -> None:
    program = td.program({"x": (2,)})(lambda x: td.if_(True, lambda: td.exp(x), lambda: x))
    assert list(program.blocks) == ["begin"]
    assert program.dag().run(np.zeros(2, "f")).tolist() == [1, 1]
    program = td.program({"x": (2,)})(lambda x: td.switch(1, [lambda: x, lambda: -x]))
    assert program.dag().run(np.ones(2, "f")).tolist() == [-1, -1]


def test_state_is_kept_between_runs() -> None:
    program = PROGRAMS["state"].program
    runner = program.runner()
    for n in (1, 2, 3):
        assert runner(np.ones(2, "f")).tolist() == [n, n]
    assert int(runner.state["count"]) == 3
    assert program.run(np.ones(2, "f")).tolist() == [1, 1]
    assert int(program.weights["count"]) == 0
    runner = PROGRAMS["state_in_a_loop"].program.runner()
    assert [float(runner(np.float32(2), np.int64(n))) for n in (0, 1, 3)] == [1, 3, 15]


def test_networks_are_called() -> None:
    layer, other = td.layers.linear(3, 3).rename({"": "fc"}), td.layers.linear(3, 3, seed=1).rename({"": "fc"})

    @td.program({"x": (1, 3), "n": I64})
    def program(x: Any, n: Any) -> Any:
        return other(td.while_loop(lambda k, x: k < n, lambda k, x: (k + 1, td.relu(layer(x))), (0, x))[1])

    assert list(program.weights) == ["fc.weight", "fc.bias", "Linear.fc.weight", "Linear.fc.bias"]
    x = wanted = np.ones((1, 3), "f")
    for _ in range(2):
        wanted = np.maximum(layer.run(wanted), 0)
    np.testing.assert_allclose(program.run(x, np.int64(2)), other.run(wanted), rtol=1e-6)


def test_a_network_with_state_is_called_in_a_loop() -> None:
    x, count = td.input("x", ()), td.buffer("count", ())
    graph = td.Graph({"x": x}, {"y": x * count}, {"count": count + 1.0})
    dag = td.TensorDAG.of_graph(graph, {"count": np.ones((), "f")})

    @td.program({"x": (), "n": I64})
    def program(x: Any, n: Any) -> Any:
        return td.while_loop(lambda k, x: k < n, lambda k, x: (k + 1, dag(x)), (0, x))[1]

    runner = program.runner()
    assert float(runner(np.float32(1), np.int64(4))) == 24
    assert float(runner.state["count"]) == 5
    assert float(runner(np.float32(1), np.int64(1))) == 5


def test_a_buffer_read_in_a_loop_before_it_changes_is_refused() -> None:
    count = td.buffer("count", ())
    x = td.input("x", ())
    weights = {"count": np.ones((), "f")}
    reads = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x * count}), weights)
    changes = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x}, {"count": count + 1.0}), weights)

    def function(x: Any, n: Any) -> Any:
        return td.while_loop(lambda k, x: k < n, lambda k, x: (k + 1, changes(reads(x))), (0, x))[1]

    with pytest.raises(td.GraphError, match=r"buffer count is read in a loop before it is known to change.*td.state"):
        td.program({"x": (), "n": I64})(function)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda x: td.while_loop(lambda x: x, lambda x: x, x),
            td.TypeMismatchError,
            "what the condition gives must be",
        ),
        (
            lambda x: td.while_loop(lambda x: x > 0.0, lambda x: td.cast(x, "f64"), x),
            td.TypeMismatchError,
            r"x begins as f32\[\] and is f64\[\] after a turn",
        ),
        (
            lambda x: td.while_loop(lambda i, x: x > 0.0, lambda i, x: x, (0, x)),
            td.TypeMismatchError,
            "the body takes a tuple of 2 and gives something nested otherwise",
        ),
        (
            lambda x: td.if_(x > 0.0, lambda: x, lambda: td.cast(x, "i64")),
            td.TypeMismatchError,
            r"if_: then gives \[f32\[\]\], otherwise gives \[i64\[\]\]",
        ),
        (lambda x: td.if_(x > 0.0, lambda: x, lambda: (x, x)), td.TypeMismatchError, "must nest alike"),
        (lambda x: td.switch(x, [lambda: x]), td.TypeMismatchError, "an integer of rank 0"),
        (lambda x: td.switch(td.cast(x, "i64"), []), td.GraphError, "nothing to choose from"),
        (lambda x: td.scan(lambda c, x: (c, x), 0, x), td.TypeMismatchError, "one number of entries"),
        (lambda x: td.state("h"), td.GraphError, "has no state 'h': give it"),
        (lambda x: td.length(x), td.GraphError, "is no input whose dimension 0 varies"),
        (lambda x: td.bounded(x, x), td.TypeMismatchError, r"a length is i64\[\]"),
        (lambda x: None, td.GraphError, "gives no values"),
        (lambda x: td.layers.linear(3, 3)(x), td.TypeMismatchError, "takes 'x' as"),
    ],
)
def test_refused(function: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        td.program({"x": ()})(function)


def test_outside_of_a_program() -> None:
    x = td.input("x", ())
    with pytest.raises(td.GraphError, match=r"while_loop is for functions that become a program"):
        td.while_loop(lambda x: x > 0.0, lambda x: x, x)
    with pytest.raises(td.GraphError, match=r"run\(\.\.\.\) takes arrays"):
        td.layers.linear(3, 3)(x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.ones(7, "f"),), r"x is declared f32\[x_length<=6\], got float32\[7\]"),
        ((np.ones(3),), "got float64"),
        ((), "takes the arrays"),
    ],
)
def test_inputs_refused(arrays: Any, message: str) -> None:
    with pytest.raises(td.InputError, match=message):
        PROGRAMS["bounded_sum"].program.run(*arrays)


def test_too_long_results_are_refused() -> None:
    program = PROGRAMS["bounded_growth"].program
    with pytest.raises((td.InputError, IndexError), match=r"has 11 entries|indices must be in"):
        program.run(np.ones(5, "f"), np.int64(6))


def test_turns_can_be_bounded() -> None:
    with pytest.raises(td.InputError, match=r"nested_loops isn't done after 7 blocks; block .* is next"):
        PROGRAMS["nested_loops"].program.run(np.int64(9), np.int64(9), turns=7)


def test_memory_is_constant_and_a_turn_takes_little() -> None:
    """A hundred thousand turns of two blocks, which write into an array in its place."""

    @td.program({"x": (1000,), "n": I64})
    def program(x: Any, n: Any) -> Any:
        def body(k: Any, x: Any) -> Any:
            return k + 1, td.scatter(x, k % 1000, td.const(1.0), 0)

        return td.while_loop(lambda k, x: k < n, body, (0, x))[1]

    runner = program.runner()
    x = np.zeros(1000, "f")
    runner(x, np.int64(10))
    gc.collect()
    tracemalloc.start()
    out = runner(x, np.int64(3_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.sum() == 1000
    assert not x.any()  # what it was given is as it was
    assert peak < 30_000
    start = time.perf_counter()
    runner(x, np.int64(20_000))
    assert (time.perf_counter() - start) / 20_000 < 200e-6  # a few times what it takes, for slow machines


def test_arrays_that_somebody_holds_are_not_written() -> None:
    @td.program({"x": (3,)})
    def program(x: Any) -> Any:
        return td.scan(lambda c, k: (td.scatter(c, k, td.const(1.0), 0), c), x, td.iota(3))

    last, every = program.run(np.zeros(3, "f"))
    assert last.tolist() == [1, 1, 1]
    assert every.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]


def test_program_functions() -> None:
    @td.program
    def largest(x: Any) -> Any:
        """What is in it."""
        return td.scan(lambda c, x: (td.maximum(c, x), None), -1e9, x)[0]

    assert float(largest.run(np.array([1, 5, 2], "f"))) == 5
    assert largest.of((3,)) is largest.of((3,))
    assert isinstance(largest.of((2,)).blocks["loop"].end, If)
    outer = td.program({"x": (3,)})(lambda x: largest(x) * 2.0)
    assert float(outer.run(np.array([1, 5, 2], "f"))) == 10
    with pytest.raises(td.InputError, match=r"largest takes 1 inputs \(x\), got 2"):
        largest.of((3,), (3,))
