"""Control flow, states and sizes by data of ML programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tests.frameworks.coreml.programs import program, set_type

F, N, B = "float32", "int32", "bool"


def cond() -> Any:
    """``x + 1`` if p, else ``x * 2``: of constants that are called alike in both blocks."""
    one, two = [("const", {"val": np.float32(n)}, [("k", F, ())]) for n in (1, 2)]
    then = ({}, [one, ("add", {"x": "=x", "y": "=k"}, [("t", F, (2,))])], ["t"])
    other = ({}, [two, ("mul", {"x": "=x", "y": "=k"}, [("e", F, (2,))])], ["e"])
    ops = [
        ("squeeze", {"x": "=p"}, [("q", B, ())]),
        ("cond", {"pred": "=q"}, [("y", F, (2,))], [then, other]),
    ]
    return program({"p": (B, (1,)), "x": (F, (2,))}, ops, ["y"])


def test_a_choice_is_a_cond_or_blocks() -> None:
    model, x = cond(), np.array([1, -3], "f")
    dag, flow = td.from_coreml(model), td.Program.from_coreml(model)
    assert "cond" in {v.op.name for v in dag.graph.values}
    assert len(flow.blocks) > 2
    for p in (True, False):
        expected = x + 1 if p else x * 2
        np.testing.assert_array_equal(dag.run(np.array([p]), x), expected)
        np.testing.assert_array_equal(flow.run(np.array([p]), x), expected)
    known = td.from_coreml(model, values={"p": [True]})
    assert "cond" not in {v.op.name for v in known.graph.values}
    np.testing.assert_array_equal(known.run(x), x + 1)


def test_what_is_left_out_of_a_block_is_kept_beside_the_program() -> None:
    """A slice of all rows: of more it may take as many, or all."""
    begin, end = (np.array(n, np.int32) for n in ([0, 0], [4, 3]))
    sliced = ("slice_by_index", {"x": "=x", "begin": begin, "end": end}, [("s", F, (4, 3))])
    then = ({}, [sliced, ("exp", {"x": "=s"}, [("t", F, (4, 3))])], ["t"])
    other = ({}, [("add", {"x": "=x", "y": "=x"}, [("e", F, (4, 3))])], ["e"])
    ops = [
        ("squeeze", {"x": "=p"}, [("q", B, ())]),
        ("cond", {"pred": "=q"}, [("y", F, (4, 3))], [then, other]),
    ]
    flow = td.Program.from_coreml(program({"x": (F, (4, 3)), "p": (B, (1,))}, ops, ["y"]))
    assert {(one.entries, one.what) for one in flow.left_out if one.entries > 1} == {
        (4, "is sliced up to 4, which are all at 4"), (3, "is sliced up to 3, which are all at 3"),
    }  # fmt: skip
    with pytest.raises(td.AxisError, match=r"not known, .*\n.*has 4 entries, and so has what is sliced up to 4"):
        flow.resize(b=5)
    x = np.ones((5, 3), "f")
    np.testing.assert_allclose(flow.resize(b=5, assume=True).run(x, np.array([True])), np.exp(x), rtol=1e-6)


def loop() -> Any:
    """``x`` doubled as long as its sum is below 100; and how often."""
    test = (
        {"i": (N, ()), "v": (F, (2,))},
        [
            ("reduce_sum", {"x": "=v", "axes": np.array([0], np.int32), "keep_dims": np.False_}, [("s", F, ())]),
            ("less", {"x": "=s", "y": np.float32(100)}, [("again", B, ())]),
        ],
        ["again"],
    )
    body = (
        {"i": (N, ()), "v": (F, (2,))},
        [
            ("add", {"x": "=i", "y": np.int32(1)}, [("i1", N, ())]),
            ("add", {"x": "=v", "y": "=v"}, [("v1", F, (2,))]),
        ],
        ["i1", "v1"],
    )
    ops = [
        ("const", {"val": np.int32(0)}, [("zero", N, ())]),
        ("while_loop", {"loop_vars": ["=zero", "=x"]}, [("n", N, ()), ("y", F, (2,))], [test, body]),
    ]
    return program({"x": (F, (2,))}, ops, ["n", "y"])


def test_a_loop_is_one_of_a_program() -> None:
    with pytest.raises(td.UnsupportedError, match=r"while_loop: it is a loop of as many turns.*td.Program.from_coreml"):
        td.from_coreml(loop())
    n, y = td.Program.from_coreml(loop()).run(np.array([1, 2], "f"))
    assert int(n) == 6
    np.testing.assert_array_equal(y, [64, 128])


def test_what_is_wrong_in_a_block_is_named() -> None:
    bad = ({}, [("erff", {"x": "=x"}, [("t", F, (2,))]), ("gone", {"x": "=x"}, [("u", F, (2,))])], ["t"])
    ops = [("squeeze", {"x": "=p"}, [("q", B, ())]), ("cond", {"pred": "=q"}, [("y", F, (2,))], [bad, bad])]
    model = program({"p": (B, (1,)), "x": (F, (2,))}, ops, ["y"])
    for read in (td.from_coreml, td.Program.from_coreml):
        with pytest.raises(td.UnsupportedError, match="erff: there is no rule"):
            read(model)


def test_states_are_those_of_a_program() -> None:
    model = program({"x": (F, (2,))}, [
        ("read_state", {"input": "=total"}, [("t", F, (2,))]),
        ("add", {"x": "=t", "y": "=x"}, [("y", F, (2,))]),
        ("write_state", {"input": "=total", "data": "=y"}, []),
    ], ["y"], opset=18)  # fmt: skip
    wrapped = model.mlProgram.functions["main"].inputs.add(name="total").type.stateType.wrappedType
    set_type(wrapped, F, (2,))
    flow = td.Program.from_coreml(model)
    runner = flow.runner()
    for n in (1, 2, 3):
        np.testing.assert_array_equal(runner(np.ones(2, "f")), np.full(2, n, "f"))
    assert list(runner.state) == ["total"]


def _slice(kind: str, given: dict[str, Any], results: Any, more: dict[str, Any] | None = None) -> Any:
    inputs = {"x": (F, (5, 3)), "i": (N, (1,)), **(more or {})}
    ops = [
        ("add", {"x": "=i", "y": np.array([2], np.int32)}, [("j", N, (1,))]),
        ("concat", {"values": ["=i", "=zero"], "axis": np.int32(0)}, [("begin", N, (2,))]),
        ("concat", {"values": ["=j", "=three"], "axis": np.int32(0)}, [("end", N, (2,))]),
    ]
    numbers = [
        ("const", {"val": np.array([n], np.int32)}, [(name, N, (1,))]) for name, n in (("zero", 0), ("three", 3))
    ]
    return program(inputs, [*numbers, *ops, (kind, given, [("y", F, results)])], ["y"], opset=18)


def test_a_slice_of_known_length_begins_where_data_says() -> None:
    model = _slice("slice_by_index", {"x": "=x", "begin": "=begin", "end": "=end"}, (None, 3))
    dag = td.from_coreml(model)
    x = np.arange(15, dtype="f").reshape(5, 3)
    for i in range(4):
        np.testing.assert_array_equal(dag.run(x, np.array([i], np.int32)), x[i : i + 2])


def test_an_update_goes_where_data_says() -> None:
    given = {"x": "=x", "update": "=u", "begin": "=begin", "end": "=end"}
    dag = td.from_coreml(_slice("slice_update", given, (5, 3), {"u": (F, (2, 3))}))
    x, u = np.zeros((5, 3), "f"), np.arange(1, 7, dtype="f").reshape(2, 3)
    for i in range(4):
        expected = x.copy()
        expected[i : i + 2] = u
        np.testing.assert_array_equal(dag.run(x, np.array([i], np.int32), u), expected)


def test_inputs_that_say_sizes_are_given_as_values() -> None:
    given = {"x": "=x", "begin": "=i", "size": np.array([-1], np.int32)}
    model = program({"x": (F, (5,)), "i": (N, (1,))}, [("slice_by_size", given, [("y", F, (None,))])], ["y"])
    with pytest.raises(td.UnsupportedError, match="values= makes an input that says so a constant"):
        td.from_coreml(model)
    dag = td.from_coreml(model, values={"i": [3]})
    np.testing.assert_array_equal(dag.run(np.arange(5, dtype="f")), [3, 4])
    with pytest.raises(td.InputError, match=r"values: there is no input z"):
        td.from_coreml(model, values={"z": [3]})
    with pytest.raises(td.InputError, match=r"input i"):
        td.from_coreml(model, values={"i": [3, 4]})


def _list(dynamic: bool, index: Any, more: list[Any]) -> Any:
    """A list of two zeros, to which x is written."""
    made = {"init_length": np.int32(2), "dynamic_length": np.bool_(dynamic), "dtype": "fp32", "elem_shape": np.int32(2)}
    ops = [
        ("make_list", made, [("ls0", F, ())]),
        ("list_write", {"ls": "=ls0", "index": index, "value": "=x"}, [("ls1", F, ())]),
        *more,
        ("list_length", {"ls": "=ls1"}, [("n", N, ())]),
        ("list_gather", {"ls": "=ls1", "indices": np.array([1, 0], np.int32)}, [("y", F, (2, 2))]),
    ]
    return program({"x": (F, (2,)), "i": (N, (1,))}, ops, ["n", "y"])


def test_lists_hold_as_many_tensors_as_are_known() -> None:
    x = np.array([1, -3], "f")
    n, y = td.from_coreml(_list(True, np.int32(1), [])).run(x, np.zeros(1, np.int32))
    assert (int(n), y.tolist()) == (2, [[1, -3], [0, 0]])
    n, y = td.from_coreml(_list(True, np.int32(4), [])).run(x, np.zeros(1, np.int32))
    assert (int(n), y.tolist()) == (5, [[0, 0], [0, 0]])
    with pytest.raises(td.UnsupportedError, match="list_write: it takes entry 4 of a list of 2"):
        td.from_coreml(_list(False, np.int32(4), []))


def test_a_list_is_written_where_data_says_if_it_can_not_grow() -> None:
    index = ("squeeze", {"x": "=i"}, [("at", N, ())])
    model = _list(False, "=at", [])
    block = model.mlProgram.functions["main"].block_specializations["CoreML5"]
    ops = list(block.operations)
    other = program({"i": (N, (1,))}, [index], ["at"])
    first = other.mlProgram.functions["main"].block_specializations["CoreML5"].operations[0]
    del block.operations[:]
    block.operations.extend([ops[0], first, *ops[1:]])
    dag, x = td.from_coreml(model), np.array([1, -3], "f")
    assert dag.run(x, np.array([1], np.int32))[1].tolist() == [[1, -3], [0, 0]]
    assert dag.run(x, np.array([0], np.int32))[1].tolist() == [[0, 0], [1, -3]]
    block.operations[0].inputs["dynamic_length"].arguments[0].value.immediateValue.tensor.bools.values[:] = [True]
    with pytest.raises(td.UnsupportedError, match="its list grows: how long it is depends on data"):
        td.from_coreml(model)


def test_turns_that_are_known_are_written_out() -> None:
    """A list that a loop lets grow; a weight of its turns is there once."""
    test = ({"i": (N, ()), "v": (F, (2,))}, [("less", {"x": "=i", "y": "=n"}, [("again", B, ())])], ["again"])
    body = (
        {"i": (N, ()), "v": (F, (2,))},
        [
            ("const", {"val": np.array([1, 2], np.float32)}, [("k", F, (2,))]),
            ("add", {"x": "=v", "y": "=k"}, [("v1", F, (2,))]),
            ("add", {"x": "=i", "y": np.int32(1)}, [("i1", N, ())]),
        ],
        ["i1", "v1"],
    )
    ops = [
        ("const", {"val": np.int32(0)}, [("zero", N, ())]),
        ("squeeze", {"x": "=m"}, [("n", N, ())]),
        ("while_loop", {"loop_vars": ["=zero", "=x"]}, [("t", N, ()), ("y", F, (2,))], [test, body]),
    ]
    model = program({"x": (F, (2,)), "m": (N, (1,))}, ops, ["y"])
    with pytest.raises(td.UnsupportedError, match="as many turns as the data says"):
        td.from_coreml(model)
    dag = td.from_coreml(model, values={"m": [3]})
    assert dag.run(np.zeros(2, "f")).tolist() == [3, 6]
    assert list(dag.weights) == ["k"]


def test_the_places_of_what_is_not_zero_are_known_of_known_numbers() -> None:
    model = program({"x": (F, (2, 2))}, [("non_zero", {"x": "=x"}, [("y", N, (None, 2))])], ["y"])
    with pytest.raises(td.UnsupportedError, match="non_zero: its input x depends on data"):
        td.from_coreml(model)
    assert td.from_coreml(model, values={"x": [[0, 2], [1, 1]]}).run().tolist() == [[0, 1], [1, 0], [1, 1]]
