"""Measured behaviour of ONNX and its tools that is easy to get wrong: right is what the specification says.

Those of layers, attention and quantized operators are in test_facts_networks.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import floats, in_torch, model, ours

T = TensorProto
NAN, INF = np.nan, np.inf


def f32(*numbers: float) -> np.ndarray:
    return np.asarray(numbers, np.float32)


def i64(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


def scalar(n: float) -> np.ndarray:
    return np.asarray(n, np.float32 if isinstance(n, float) else np.int64)


NO_AXES = {"held": (1,), "noop_with_empty_axes": 1}

# op, inputs, opset, options, what comes out
FACTS: list[tuple[str, list[Any], int, dict[str, Any], Any]] = [
    # of no axes what is done to each element remains
    ("ReduceSumSquare", [f32(2, -3), i64()], 18, NO_AXES, f32(4, 9)),
    ("ReduceL1", [f32(2, -3), i64()], 18, NO_AXES, f32(2, 3)),
    ("ReduceL2", [f32(2, -3), i64()], 18, NO_AXES, f32(2, 3)),
    ("ReduceLogSum", [f32(1, np.e), i64()], 18, NO_AXES, f32(0, 1)),
    ("ReduceLogSumExp", [f32(2, -3), i64()], 18, NO_AXES, f32(2, -3)),
    ("ReduceMean", [f32(2, -3), i64()], 18, NO_AXES, f32(2, -3)),
    # integers are rounded towards 0 (onnxruntime too); nothing has the lowest number as its largest, and no mean
    ("ReduceMean", [np.int32([-1, -2]), i64(0)], 18, {"held": (1,), "keepdims": 0}, np.int32(-1)),
    ("ReduceMax", [np.zeros((0,), np.int32)], 20, {"keepdims": 0}, np.int32(-(2**31))),
    ("ReduceMax", [np.zeros((0,), np.float32)], 20, {"keepdims": 0}, np.float32(-INF)),
    ("ReduceMean", [np.zeros((0,), np.float32)], 18, {"keepdims": 0}, np.float32(NAN)),  # onnxruntime: 0
    ("ReduceProd", [np.zeros((0,), np.float32)], 18, {"keepdims": 0}, np.float32(1)),
    # NaN stays, also where it isn't first (onnxruntime's ReduceMax drops it)
    ("ReduceMax", [f32(1, NAN, 2)], 20, {"keepdims": 0}, np.float32(NAN)),
    ("Max", [f32(1, NAN), f32(2, 2)], 13, {}, f32(2, NAN)),
    ("Clip", [f32(NAN, 3), scalar(0.0), scalar(1.0)], 13, {"held": (1, 2)}, f32(NAN, 1)),
    ("Relu", [f32(NAN, -1)], 14, {}, f32(NAN, 0)),
    # bounds are brought within the axis, so that backwards the first entry is always there (the reference: [])
    ("Slice", [f32(7, 1, 2, 3, 4), i64(-10), i64(-100), i64(0), i64(-1)], 13, {"held": (1, 2, 3, 4)}, f32(7)),
    ("NonZero", [np.float32(5)], 13, {"held": (0,)}, np.zeros((0, 1), np.int64)),  # onnxruntime: (1, 1)
    ("Clip", [f32(-5, 0, 5), scalar(3.0), scalar(1.0)], 13, {"held": (1, 2)}, f32(1, 1, 1)),
    ("Clip", [f32(-5, 0, 5), scalar(3.0), scalar(1.0)], 13, {}, f32(1, 1, 1)),
    ("Expand", [np.ones((3, 4), np.float32), i64(3, 1)], 13, {"held": (1,)}, np.ones((3, 4), np.float32)),
    # round again; what is negative is cropped before anything is mirrored
    ("Pad", [f32(0, 1, 2), i64(4, 4)], 19, {"held": (1,), "mode": "wrap"}, f32(2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0)),
    ("Pad", [f32(0, 1, 2, 3), i64(-1, 2)], 18, {"held": (1,), "mode": "reflect"}, f32(1, 2, 3, 2, 1)),
    ("Pad", [f32(0, 1, 2, 3), i64(-1, 2)], 18, {"held": (1,)}, f32(1, 2, 3, 0, 0)),
    # casts
    ("Cast", [f32(2.5)], 24, {"to": T.FLOAT8E8M0, "kinds": [T.FLOAT8E8M0]}, f32(4)),
    ("Cast", [f32(1.5, -1.5, 2.5)], 23, {"to": T.INT4, "kinds": [T.INT4]}, np.int8([1, -1, 2])),  # onnxruntime rounds
    ("Cast", [f32(1.9, -1.9)], 13, {"to": T.INT8, "kinds": [T.INT8]}, np.int8([1, -1])),
    # signs and element types
    ("Mod", [i64(-7, 7), i64(3, -3)], 13, {}, i64(2, -2)),
    ("Mod", [i64(-7, 7), i64(3, -3)], 13, {"fmod": 1}, i64(-1, 1)),
    ("Mod", [f32(-7, 7), f32(3, -3)], 13, {"fmod": 1}, f32(-1, 1)),
    ("Div", [i64(-7, 7), i64(2, -2)], 14, {}, i64(-3, -3)),
    ("Pow", [i64(2, 3), f32(0.5, 3)], 13, {}, i64(1, 27)),
    ("Einsum", [np.float32([[1, 2], [3, 4]])], 12, {"equation": "ba"}, np.float32([[1, 3], [2, 4]])),
    ("Unique", [f32(NAN, 1, NAN)], 11, {"held": (0,)}, f32(1, NAN)),  # onnxruntime loses NaN
    # up to version 12 these are of all axes from ``axis`` on, 1 if it isn't given (version_converter changes that)
    ("Hardmax", [np.float32([[[1, 2], [3, 0]]])], 11, {}, np.float32([[[0, 0], [1, 0]]])),
    ("Softmax", [np.zeros((1, 2, 2), np.float32)], 11, {}, np.full((1, 2, 2), 0.25, np.float32)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "options", "want"), FACTS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FACTS)]
)
def test_a_fact(op: str, inputs: list[Any], opset: int, options: dict[str, Any], want: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(want.dtype)
    made = model(op, inputs, opset, **{"kinds": [kind], **options})
    given = [a for i, a in enumerate(inputs) if i not in options.get("held", ())]
    for (got,) in (ours(made, given), in_torch(made, given)):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_float8_saturates_and_keeps_nan() -> None:
    x = f32(1000, -INF, NAN, 1)
    for to, options, want in (
        (T.FLOAT8E4M3FN, {}, f32(448, -448, NAN, 1)),
        (T.FLOAT8E5M2, {"saturate": 0}, f32(1024, -INF, NAN, 1)),
    ):
        (got,) = ours(model("Cast", [x], 23, kinds=[to], to=to, **options), [x])
        np.testing.assert_array_equal(got.astype(np.float32), want)
    (got,) = ours(model("Cast", [f32(1e6)], 23, kinds=[T.FLOAT8E5M2], to=T.FLOAT8E5M2, saturate=0), [f32(1e6)])
    assert np.isinf(got.astype(np.float32)).all()


def test_range_multiplies() -> None:
    """Each number is ``start + i * delta``; onnxruntime adds delta up."""
    start, delta = np.float32(0.1), np.float32(0.1)
    (got,) = ours(model("Range", [start, np.float32(100), delta], 11, held=(0, 1, 2)), [])
    np.testing.assert_array_equal(got, start + np.arange(len(got), dtype=np.float32) * delta)
    summed = np.cumsum(np.full(len(got), delta, np.float32), dtype=np.float32)
    assert (got != summed).any()


def test_mel_edges_leave_the_top_of_the_band() -> None:
    bands, length, rate = np.int64(4), np.int64(64), np.int64(8000)
    held = [bands, length, rate, np.float32(0), np.float32(4000)]
    (got,) = ours(model("MelWeightMatrix", held, 17, held=(0, 1, 2, 3, 4)), [])
    top = 2595 * np.log10(1 + 4000 / 700)
    edges = np.floor(65 * 700 * (10 ** (top / 6 * np.arange(6) / 2595) - 1) / 8000).astype(int)
    assert got.shape == (33, 4)
    assert [int(got[:, i].argmax()) for i in range(4)] == edges[1:5].tolist()
    assert not got[edges[5] :].any()


def test_random_nodes_of_one_input_stay_apart() -> None:
    """onnx-ir's CSE, onnxsim, onnxslim and onnxruntime merge them."""
    x = np.full((64,), 0.5, np.float32)
    made = model("Bernoulli", [x], 15)
    made.graph.node.append(helper.make_node("Bernoulli", ["x0"], ["z"], name="second"))
    made.graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, [64]))
    dag = from_onnx(made)
    for optimized in (dag, dag.optimize()):
        first, second = optimized.run(x, seed=np.uint64(1))
        assert (first != second).any()


def test_a_file_keeps_inputs_that_are_outputs_or_unused() -> None:
    """torch.onnx renames the first kind, onnxslim drops the second."""
    x = floats(3)
    made = model("Relu", [x], 14)
    made.graph.input.append(helper.make_tensor_value_info("spare", T.FLOAT, [2]))
    made.graph.output.append(helper.make_tensor_value_info("x0", T.FLOAT, [3]))
    dag = from_onnx(made)
    assert list(dag.graph.inputs) == ["x0", "spare"]
    assert list(dag.graph.outputs) == ["y0", "x0"]
