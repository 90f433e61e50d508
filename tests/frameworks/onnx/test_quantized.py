"""ONNX's quantization: numpy and torch against onnxruntime, integers exactly."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto as T

from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import agree, arguments, floats, model, ours, rng, theirs

X = 3 * floats(2, 3, 4)


def integers(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng(seed + sum(shape)).integers(info.min, int(info.max) + 1, shape).astype(dtype)


def scales(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).uniform(0.02, 0.08, shape).astype(np.float32)


U, S = np.uint8, np.int8
ONE = np.float32(0.05)

# op, inputs, opset, options
CASES: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("QuantizeLinear", [X, ONE, U(128)], 10, {"kinds": [T.UINT8]}),
    ("QuantizeLinear", [X, ONE, S(-3)], 13, {"kinds": [T.INT8]}),
    ("QuantizeLinear", [X, ONE], 13, {"kinds": [T.UINT8]}),
    ("QuantizeLinear", [np.float32([-900, -1.5, -0.5, 0.5, 1.5, 2.5, 900]), np.float32(1), S(1)], 13,
     {"kinds": [T.INT8]}),
    ("QuantizeLinear", [X, scales(3), integers(3)], 13, {"axis": 1, "kinds": [T.UINT8]}),
    ("QuantizeLinear", [X, scales(4), integers(4, dtype=S)], 19, {"axis": -1, "kinds": [T.INT8]}),
    ("QuantizeLinear", [X, np.float32(0.001), np.uint16(30000)], 21, {"kinds": [T.UINT16]}),
    ("QuantizeLinear", [X, np.float32(0.0001), np.int16(-7)], 21, {"kinds": [T.INT16]}),
    ("QuantizeLinear", [X, scales(2, 3, 2), integers(2, 3, 2)], 21,
     {"axis": 2, "block_size": 2, "kinds": [T.UINT8]}),
    ("QuantizeLinear", [X, scales(2, 2, 4), integers(2, 2, 4)], 21,
     {"axis": 1, "block_size": 2, "kinds": [T.UINT8]}),
    ("QuantizeLinear", [X, ONE], 21, {"output_dtype": T.INT16, "kinds": [T.INT16]}),
    ("DequantizeLinear", [integers(2, 3, 4), ONE, U(128)], 10, {}),
    ("DequantizeLinear", [integers(2, 3, 4, dtype=S), ONE], 13, {}),
    ("DequantizeLinear", [integers(2, 3, 4), scales(3), integers(3)], 13, {"axis": 1}),
    ("DequantizeLinear", [rng().integers(-9999, 9999, (2, 3)).astype(np.int32), ONE], 13, {}),
    ("DequantizeLinear", [integers(2, 3, 4), scales(2, 3, 2), integers(2, 3, 2)], 21, {"axis": 2, "block_size": 2}),
    ("DequantizeLinear", [integers(2, 5, 4), scales(2, 2, 4), integers(2, 2, 4)], 21, {"axis": 1, "block_size": 3}),
    ("DequantizeLinear", [integers(2, 3, dtype=np.int16), ONE, np.int16(5)], 21, {}),
    ("DynamicQuantizeLinear", [X], 11, {"outputs": (True,) * 3, "kinds": [T.UINT8, T.FLOAT, T.UINT8]}),
    ("DynamicQuantizeLinear", [np.abs(X)], 11, {"outputs": (True,) * 3, "kinds": [T.UINT8, T.FLOAT, T.UINT8]}),
    ("DynamicQuantizeLinear", [-np.abs(X)], 11, {"outputs": (True,) * 3, "kinds": [T.UINT8, T.FLOAT, T.UINT8]}),
    ("DynamicQuantizeLinear", [0 * X], 11, {"outputs": (True,) * 3, "kinds": [T.UINT8, T.FLOAT, T.UINT8]}),
    ("QLinearMatMul", [integers(2, 9), ONE, U(120), integers(9, 4), ONE, U(99), np.float32(2.2), U(10)], 10,
     {"kinds": [T.UINT8]}),
    ("QLinearMatMul",
     [integers(3, 2, 300), ONE, U(120), integers(300, 4, dtype=S), scales(4), np.zeros(4, S), np.float32(9), U(3)],
     10, {"kinds": [T.UINT8], "held": (3, 4, 5)}),
    ("QLinearConv",
     [integers(1, 2, 5, 5), ONE, U(120), integers(3, 2, 3, 3), ONE, U(99), np.float32(3.3), U(10),
      rng().integers(-999, 999, 3).astype(np.int32)], 10, {"kinds": [T.UINT8], "pads": [1, 1, 0, 1]}),
    ("QLinearConv",
     [integers(1, 4, 6, 5), ONE, U(120), integers(6, 2, 3, 3, dtype=S), scales(6), np.zeros(6, S), np.float32(3.3),
      U(10)], 10, {"kinds": [T.UINT8], "strides": [2, 1], "group": 2, "held": (1, 2, 3, 4, 5, 6, 7)}),
    ("QLinearConv",
     [integers(1, 2, 7, dtype=S), ONE, S(-4), integers(3, 2, 3, dtype=S), ONE, S(0), np.float32(3.3), S(10)], 10,
     {"kinds": [T.INT8], "dilations": [2]}),
]  # fmt: skip


def _name(case: tuple[str, list[Any], int, dict[str, Any]]) -> str:
    op, inputs, opset, options = case
    kinds = "_".join(str(i.dtype) for i in inputs[:1])
    return f"{op}-{opset}-{kinds}-{len(inputs)}-{options}".replace(" ", "")


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_agrees_with_onnxruntime(case: tuple[str, list[Any], int, dict[str, Any]]) -> None:
    op, inputs, opset, options = case
    agree(op, inputs, opset, **options)


F8 = [(ml_dtypes.float8_e4m3fn, T.FLOAT8E4M3FN), (ml_dtypes.float8_e5m2, T.FLOAT8E5M2)]


@pytest.mark.parametrize(("dtype", "kind"), F8)
def test_narrow_floats(dtype: Any, kind: int) -> None:
    zero = np.zeros((), dtype)
    x = np.float32([0.0, 1.1, -2.3, 700, -90000, np.nan])
    big = float(ml_dtypes.finfo(dtype).max)
    wanted = np.clip(x / np.float32(0.5), -big, big).astype(dtype)
    agree("QuantizeLinear", [x, np.float32(0.5), zero], 19, held=(2,), kinds=[kind], expected=[wanted], torch=False)
    agree("DequantizeLinear", [wanted, np.float32(0.5)], 19, expected=[wanted.astype(np.float32) / 2], torch=False)


@pytest.mark.parametrize(
    ("dtype", "kind", "low", "high"),
    [(ml_dtypes.int4, T.INT4, -8, 7), (ml_dtypes.uint4, T.UINT4, 0, 15)],
)
def test_integers_of_four_bits_saturate_at_theirs(dtype: Any, kind: int, low: int, high: int) -> None:
    x, zero = np.float32([-99, -3.5, -2.5, 0, 0.5, 1.5, 99]), np.array(2, dtype)
    wanted = np.clip(np.rint(x) + 2, low, high)
    held = np.int8 if low else np.uint8
    agree(
        "QuantizeLinear", [x, np.float32(1), zero], 21, held=(2,), kinds=[kind], expected=[wanted.astype(held)]
    )  # fmt: skip
    weight = wanted.astype(dtype)
    agree(
        "DequantizeLinear",
        [weight, np.float32(0.5), zero],
        21,
        held=(0, 1, 2),
        expected=[(wanted - 2) * np.float32(0.5)],
    )


def test_a_half_precision_scale() -> None:
    x = integers(2, 3, 4)
    agree("DequantizeLinear", [x, np.float16(0.05), U(7)], 19, kinds=[T.FLOAT16], tolerance=1e-3)


@pytest.mark.parametrize("rows", [False, True])
def test_a_product_of_integers_is_written_again(rows: bool) -> None:
    """A QuantizeLinear has one zero point, or as many as scales: those of rows are written as what they do."""
    scale, zero = (scales(2, 1), integers(2, 1)) if rows else (np.float32(2.2), U(10))
    inputs = [integers(2, 9), ONE, U(120), integers(9, 4), ONE, U(99), scale, zero]
    made = model("QLinearMatMul", inputs, 10, kinds=[T.UINT8])
    again = from_onnx(made).to_onnx()
    assert ("QuantizeLinear" in {n.op_type for n in again.graph.node}) != rows
    args = arguments(inputs)
    np.testing.assert_array_equal(theirs(again, args)[0], ours(made, args)[0])
