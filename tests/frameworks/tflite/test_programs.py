"""Programs as TFLite files: WHILE, IF and variables, run by LiteRT and read again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tests.frameworks.tflite.build import Build
from tests.frameworks.tflite.litert import counts, interpreter
from tests.frameworks.tflite.runs import by_runtime
from tests.program.programs import PROGRAMS

pytest.importorskip("tdagger.frameworks.tflite.exporter")

#: What can't be written, and why.
REFUSED = {
    **dict.fromkeys(
        ("bounded_sum", "bounded_growth", "ctc_greedy", "non_maximum_suppression", "greedy_decoding"),
        "sizes of .* vary",
    ),
    **dict.fromkeys(("loop_in_branch_in_loop", "collatz"), "TFLite has no binary floor_divide of i64"),
}


def flat(x: Any) -> list[Any]:
    """What nests, one after the other."""
    if isinstance(x, dict):
        return [v for k in x for v in flat(x[k])]
    return [v for y in x for v in flat(y)] if isinstance(x, tuple | list) else [x]


def calls(model: bytes, program: td.Program) -> Any:
    """A function that runs a file again and again, with its state."""
    made = interpreter.Interpreter(model_content=model, num_threads=1)
    made.allocate_tensors()

    def run(*arrays: Any) -> list[np.ndarray]:
        for detail, name, array in zip(made.get_input_details(), program.inputs, arrays, strict=True):
            made.set_tensor(detail["index"], np.asarray(array, program.slots[name].type.dtype.numpy))
        made.invoke()
        return [made.get_tensor(d["index"]) for d in made.get_output_details()]

    return run


def same(found: Any, wanted: Any) -> None:
    for a, b in zip(flat(found), flat(wanted), strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    program, _, tries = PROGRAMS[name]
    if name in REFUSED:
        with pytest.raises(td.UnsupportedError, match=REFUSED[name]):
            program.to_tflite()
        return
    model = program.to_tflite()
    run, own = calls(model, program), program.runner()
    again = td.Program.from_tflite(model).runner()
    for arrays in tries:
        wanted = own(*arrays)
        same(run(*arrays), wanted)
        same(again(*arrays), wanted)


def test_weights_are_in_the_file_once() -> None:
    big = {"w": np.random.default_rng(0).normal(size=(64, 64), scale=0.1).astype("f")}

    @td.program({"x": (1, 64), "n": td.TensorType((), "i64")}, parameters=big)
    def program(x: Any, n: Any, w: Any) -> Any:
        def turn(k: Any, y: Any) -> Any:
            return k + 1, td.tanh(td.linear(y, w))

        y = td.while_loop(lambda k, y: k < n, turn, (0, td.linear(x, w)))[1]
        return td.if_(td.equal(n, td.const(3)), lambda: td.linear(y, w), lambda: y)

    model = program.to_tflite()
    assert len(model) < 2 * 64 * 64 * 4
    x = np.ones((1, 64), "f")
    for n in (0, 3, 4):
        same(calls(model, program)(x, n), program.run(x, np.int64(n)))


def test_state_stays_in_variables() -> None:
    program = PROGRAMS["state"].program
    model = program.to_tflite()
    found = td.Program.from_tflite(model)
    for name in program.state:
        np.testing.assert_array_equal(found.weights[name], program.weights[name])
    assert {slot.buffer for slot in found.slots.values() if slot.buffer} == {*program.state}


def streaming() -> bytes:
    """A convolution of integers over the last three rows of a stream, two of which are in a variable."""
    rng = np.random.default_rng(0)
    b = Build()
    steps: dict[str, Any] = {"scale": 0.05, "zero": -3}
    x = b.input((1, 1, 1, 4), "i8", name="x", **steps)
    out = b.tensor((1, 1, 1, 5), "i8", name="y", scale=0.1, zero=4)
    b.output(out)
    main = b.graph
    index = b.subgraph("init")
    own = b.tensor((), 13)
    b.op("VAR_HANDLE", [], [own], sharedName=b"rows")
    b.op("ASSIGN_VARIABLE", [own, b.const(np.full((1, 2, 1, 4), -3, np.int8), **steps)], [])
    b.graph = main
    b.op("CALL_ONCE", [], [], initSubgraphIndex=index)
    handle, old = b.tensor((), 13), b.tensor((1, 2, 1, 4), "i8", **steps)
    rows, new = b.tensor((1, 3, 1, 4), "i8", **steps), b.tensor((1, 2, 1, 4), "i8", **steps)
    b.op("VAR_HANDLE", [], [handle], sharedName=b"rows")
    b.op("READ_VARIABLE", [handle], [old])
    b.op("CONCATENATION", [old, x], [rows], axis=1)
    bounds = [b.const(np.array(n, np.int32)) for n in ((0, 1, 0, 0), (1, 2, 1, 4))]
    b.op("SLICE", [rows, *bounds], [new])
    b.op("ASSIGN_VARIABLE", [handle, new], [])
    scale = rng.uniform(0.01, 0.02, 5)
    weight = b.const(rng.integers(-127, 128, (5, 3, 1, 4)).astype(np.int8), scale=scale, zero=np.zeros(5, int))
    bias = b.const(rng.integers(-500, 500, 5).astype(np.int32), scale=scale * 0.05, zero=np.zeros(5, int))
    b.op("CONV_2D", [rows, weight, bias], [out], padding=1, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    return b.bytes()


def test_state_of_integers_is_computed_in_integers() -> None:
    """A streaming network of others: read as a program and written again it is the operators that it was."""
    program = td.Program.from_tflite(streaming())
    again = program.to_tflite()
    assert again is not None
    found = counts(again)
    del found["CALL_ONCE"]
    assert found == {
        "VAR_HANDLE": 1, "READ_VARIABLE": 1, "CONCATENATION": 1, "SLICE": 1, "ASSIGN_VARIABLE": 1, "CONV_2D": 1,
    }  # fmt: skip
    ours, theirs = calls(again, program), calls(streaming(), program)
    for row in np.random.default_rng(1).integers(-128, 128, (20, 1, 1, 1, 4)):
        np.testing.assert_array_equal(ours(row), theirs(row))


def test_what_is_left_out_of_a_branch_is_kept_beside_the_program() -> None:
    """A slice of all rows: of more it may take as many, or all."""
    made = Build()
    go, x = made.input((), "bool"), made.input((4, 3))
    main, parts = made.graph, [made.subgraph("then"), made.subgraph("other")]
    for graph, name in zip(made.model.subgraphs[1:], ("SLICE", "NEG"), strict=True):
        made.graph = graph
        given = [made.input((4, 3))]
        given += [made.const(np.array(n, np.int32)) for n in ((0, 0), (4, 3))] if name == "SLICE" else []
        made.output(*made.op(name, given, [made.tensor((4, 3))]))
    made.graph = main
    made.output(*made.op("IF", [go, x], [made.tensor((4, 3))], thenSubgraphIndex=parts[0], elseSubgraphIndex=parts[1]))
    program = td.Program.from_tflite(made.bytes())
    assert [(one.entries, one.what) for one in program.left_out] == [
        (4, "is sliced up to 4, which are all at 4"), (3, "is sliced up to 3, which are all at 3"),
    ]  # fmt: skip
    with pytest.raises(td.AxisError, match=r"not known, .*\n.*has 4 entries, and so has what is sliced up to 4"):
        program.resize(b=5)
    rows = np.ones((5, 3), "f")
    same(program.resize(b=5, assume=True).run(np.array(True), rows), rows)


def suppression(op: str, n: int, limit: int, *numbers: float) -> bytes:
    """Boxes and scores as inputs; of ``numbers`` the overlap, the least score and, of V5, the sigma."""
    b = Build()
    given = [b.input((n, 4)), b.input((n,)), b.const(np.int32(limit)), *(b.const(np.float32(x)) for x in numbers)]
    scores = [b.tensor((limit,))] if op.endswith("V5") else []
    made = [b.tensor((limit,), "i32"), *scores, b.tensor((), "i32")]
    b.output(*b.op(op, given, made))
    return b.bytes()


@pytest.mark.parametrize("op", ["NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5"])
def test_boxes_that_are_kept_one_by_one(op: str) -> None:
    rng = np.random.default_rng(0)
    for turn in range(12):
        n, limit = int(rng.integers(1, 20)), int(rng.integers(1, 12))
        overlap, least = rng.choice([0.0, 0.2, 0.5, 1.0]), rng.choice([-np.inf, 0.0, 0.3, 0.9])
        sigma = [rng.choice([0.0, 0.1, 2.0])] if op.endswith("V5") else []
        model = suppression(op, n, limit, overlap, least, *sigma)
        boxes, scores = rng.random((n, 4)).astype(np.float32), (rng.permutation(n) / n).astype(np.float32)
        if turn % 5 == 0:  # equal ones, and one without area
            boxes[0] = boxes[-1]
            boxes[n // 2, :2] = boxes[n // 2, 2:]
        program, wanted = td.Program.from_tflite(model), by_runtime(model, boxes, scores)
        same(program.run(boxes, scores), wanted)
        if turn < 3:
            same(by_runtime(program.to_tflite(), boxes, scores), wanted)
    with pytest.raises(td.UnsupportedError, match=r"it keeps boxes in a loop, which a TDAG doesn't have"):
        td.from_tflite(model)
