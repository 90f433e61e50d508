"""Programs as ONNX files whose axes have any size, run by onnxruntime beside the program at that size."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tdagger as td
from tdagger.cli import main
from tests.frameworks.onnx.test_programs import run, session
from tests.program.programs import PROGRAMS
from tests.program.test_programs import leaves, same


@td.program({"x": (16, 4), "w": (4, 4)})
def steps(x: Any, w: Any) -> Any:
    """What is carried, and all of it: zeros of 16 rows that each of five turns writes to."""

    def body(c: Any, _: Any) -> Any:
        c = td.tanh(td.matmul(c, w))
        return c, c

    return td.scan(body, x, td.const(np.arange(5, dtype="i8")))


@td.program({"x": (16, 4), "n": td.TensorType((), "i64")})
def choice(x: Any, n: Any) -> Any:
    y = td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, y * x), (0, x))[1]
    return td.if_(n > 2, lambda: y + x, lambda: td.reshape(td.reshape(y, shape=(-1,)), shape=(-1, 4)))


def others(program: td.Program, arrays: Any, **sizes: int) -> tuple[td.Program, list[Any]]:
    """The program at other sizes, and inputs of them."""
    resized = program.resize(**sizes)
    rng = np.random.default_rng(3)
    given = [
        np.asarray(x)
        if np.shape(x) == (t := resized.slots[name].type).shape
        else rng.uniform(-1, 1, t.shape).astype(t.dtype.numpy)
        for name, x in zip(resized.inputs, leaves(list(arrays)), strict=True)
    ]
    return resized, given


CASES = [
    (steps, "b", (np.ones((16, 4), "f"), np.eye(4, dtype="f"))),
    (choice, "b", (np.ones((16, 4), "f"), np.int64(3))),
]
CASES += [(PROGRAMS[n].program, a, PROGRAMS[n].inputs[0]) for n, a in (("sinkhorn", "b"), ("diffusion_sampler", "b"))]


@pytest.mark.parametrize(("program", "axis", "arrays"), CASES, ids=lambda x: getattr(x, "name", None))
def test_an_axis_that_is_carried(program: td.Program, axis: str, arrays: Any) -> None:
    model = program.to_onnx(dynamic=(axis,))
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    made = session(model)
    size = program.axes().sizes[axis]
    for n in (size, 2 * size, size + 3):
        resized, given = others(program, arrays, **{axis: n})
        same(run(made, given), resized.run(*given))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_all_axes_that_can_be(name: str) -> None:
    """Each axis of each program: of any size, or refused."""
    program, _, inputs = PROGRAMS[name]
    for axis, size in program.axes().sizes.items():
        try:
            made = session(program.to_onnx(dynamic=(axis,)))
        except td.AxisError:
            continue
        for n in (2 * size, size + 3):
            resized, given = others(program, inputs[0], **{axis: n})
            same(run(made, given)[: len(program.outputs)], resized.run(*given))


def test_what_can_not_be_is_refused_with_the_block() -> None:
    @td.program({"x": (6, 4)})
    def counted(x: Any) -> Any:
        return td.while_loop(lambda k, y: k < 6, lambda k, y: (k + 1, y * 0.5), (0, x))[1]

    with pytest.raises(td.AxisError, match=r"counted: b can't be of any size: .*block loop.* is 6, where an axis of 6"):
        counted.to_onnx(dynamic=("b",))
    with pytest.raises(td.AxisError, match=r"w isn't one of those that can be"):
        steps.to_onnx(dynamic="w")
    bounded = PROGRAMS["bounded_sum"].program
    with pytest.raises(td.AxisError, match="can't be of any size"):
        bounded.to_onnx(dynamic=(*bounded.axes().sizes,))


def test_on_a_command_line(tmp_path: Path) -> None:
    choice.to_onnx(tmp_path / "fixed.onnx")
    assert main(["convert", str(tmp_path / "fixed.onnx"), str(tmp_path / "any.onnx"), "--dynamic", "b"]) == 0
    made = session(onnx.load(tmp_path / "any.onnx"))
    assert made.get_inputs()[0].shape == ["b", 4]
    resized, given = others(choice, CASES[1][2], b=3)
    same(run(made, given), resized.run(*given))
