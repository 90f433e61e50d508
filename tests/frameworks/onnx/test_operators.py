"""ONNX's operators of elements, structure, reductions, indices and signals: against onnxruntime, over their options.

Where onnxruntime has no kernel or differs from the specification the expected numbers are written out.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, defs, helper

from tdagger.errors import InputError, UnsupportedError
from tdagger.frameworks.onnx.importer import from_onnx
from tdagger.frameworks.onnx.ops import find
from tdagger.frameworks.onnx.ops.table import REASONS
from tdagger.frameworks.onnx.sequences import OPERATORS
from tdagger.frameworks.onnx.subgraphs import CONTROL
from tests.frameworks.onnx.one_node import agree, floats, model, ours, rng

F = floats
T = TensorProto
I64 = {"kinds": [T.INT64]}
BOOL = {"kinds": [T.BOOL]}
NAN, INF = np.nan, np.inf


def f32(*numbers: float) -> np.ndarray:
    return np.asarray(numbers, np.float32)


def i64(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


def whole(*shape: int, dtype: Any = np.int64, low: int = -9, high: int = 10) -> np.ndarray:
    return rng(sum(shape)).integers(low, high, shape).astype(dtype)


Rows = list[tuple[str, list[Any], int, dict[str, Any]]]

ODD = f32(-INF, -3.5, -2.5, -1, -0.5, 0, 0.5, 1, 1.5, 2.5, 7, INF, NAN)

ELEMENTWISE: Rows = [
    *[(op, [F(3, 4)], 13, {}) for op in (
        "Abs", "Neg", "Exp", "Sin", "Cos", "Tanh", "Erf", "Sigmoid", "Relu", "Ceil", "Floor", "Reciprocal", "Sign",
    )],
    *[(op, [f32(-0.9, -0.3, 0, 0.4, 0.8)], 22, {}) for op in (
        "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh", "Tan",
    )],
    ("Acosh", [f32(1, 1.5, 9)], 22, {}),
    ("Round", [ODD[:-1]], 22, {}),
    ("Sqrt", [f32(0, 1, 2.5)], 6, {}),
    ("Log", [f32(0, 1, 2.5)], 6, {}),
    ("Not", [np.array([True, False])], 1, BOOL),
    ("BitwiseNot", [whole(5, dtype=np.int32)], 18, {"kinds": [T.INT32]}),
    ("IsNaN", [ODD], 13, BOOL),
    ("IsInf", [ODD], 20, BOOL),
    ("IsInf", [ODD], 10, {**BOOL, "detect_negative": 0}),
    ("IsInf", [ODD], 10, {**BOOL, "detect_positive": 0}),
    *[(op, [F(2, 3, 4), F(3, 1)], 7, {}) for op in (
        "Add", "Sub", "Mul", "Div",
    )],
    *[(op, [whole(2, 3), whole(3, low=1)], 14, I64) for op in (
        "Add", "Sub", "Mul", "Div",
    )],
    ("Div", [i64(-7, 7, -7, 7, -8), i64(2, -2, -2, 2, 3)], 14, I64),
    ("Div", [np.uint8([7, 250]), np.uint8([2, 3])], 14, {"kinds": [T.UINT8]}),
    ("Pow", [F(2, 3), f32(2)], 7, {"held": (1,)}),
    ("Pow", [abs(F(2, 3)), F(3)], 13, {}),
    ("Pow", [F(2, 3), i64(3)], 13, {"held": (1,)}),
    ("Pow", [i64(2, 3, 4), f32(0.5, 2, 1.5)], 13, I64),
    ("Pow", [np.int32([2, -3, 4]), i64(2, 3, 0)], 13, {"kinds": [T.INT32]}),
    ("Mod", [i64(-7, 7, -7, 7), i64(3, -3, -3, 3)], 13, I64),
    ("Mod", [i64(-7, 7, -7, 7), i64(3, -3, -3, 3)], 13, {**I64, "fmod": 1}),
    ("Mod", [f32(-4.3, 7.2, 5.0), f32(2.1, -3.4, 8.0)], 13, {"fmod": 1}),
    ("Max", [F(3, 4), F(4), F(3, 1)], 8, {}),
    ("Min", [F(3, 4)], 12, {}),
    ("Max", [whole(3, dtype=np.int32), whole(3, 1, dtype=np.int32)], 12, {"kinds": [T.INT32]}),
    ("Sum", [F(3, 4), F(4), F(3, 1)], 8, {}),
    ("Mean", [F(3, 4), F(4), F(3, 1)], 13, {}),
    ("Where", [np.array([[True], [False]]), F(2, 3), F(3)], 9, {}),
    *[(op, [F(2, 3), F(3)], 11, BOOL) for op in (
        "Greater", "Less", "Equal",
    )],
    *[(op, [whole(2, 3), whole(3)], 16, BOOL) for op in (
        "GreaterOrEqual", "LessOrEqual",
    )],
    *[(op, [np.array([True, True, False]), np.array([True, False, False])], 7, BOOL) for op in (
        "And", "Or", "Xor",
    )],
    *[(op, [whole(4, dtype=np.uint8, low=0, high=99), whole(4, dtype=np.uint8, low=0, high=99)], 18,
       {"kinds": [T.UINT8]}) for op in (
        "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    )],
    ("BitShift", [np.uint32([1, 255, 7]), np.uint32([3, 2, 1])], 11, {"kinds": [T.UINT32], "direction": "LEFT"}),
    ("BitShift", [np.uint8([1, 255, 7]), np.uint8([3, 2, 1])], 11, {"kinds": [T.UINT8], "direction": "RIGHT"}),
    ("Clip", [F(9)], 6, {"min": -0.5, "max": 0.5}),
    ("Clip", [F(9), np.float32(-0.5), np.float32(0.5)], 13, {"held": (1, 2)}),
    ("Clip", [F(9), np.float32(-0.5), np.float32(0.5)], 12, {}),
    ("Clip", [F(9), None, np.float32(0.5)], 12, {"held": (2,)}),
    ("Clip", [whole(9), np.int64(-2)], 12, {**I64, "held": (1,)}),
    ("Elu", [F(9)], 6, {"alpha": 2.0}),
    ("Selu", [F(9)], 6, {}),
    ("Selu", [F(9)], 6, {"alpha": 2.0, "gamma": 3.0}),
    ("Celu", [F(9)], 12, {"alpha": 2.0}),
    ("LeakyRelu", [F(9)], 6, {"alpha": 0.1}),
    ("ThresholdedRelu", [F(9)], 10, {"alpha": 0.3}),
    ("HardSigmoid", [F(9) * 3], 6, {}),
    ("HardSigmoid", [F(9) * 3], 6, {"alpha": 1 / 6}),
    ("HardSwish", [F(9) * 3], 14, {}),
    ("Mish", [F(9) * 3], 18, {}),
    ("Softplus", [F(9) * 9], 1, {}),
    ("Softsign", [F(9)], 1, {}),
    ("Gelu", [F(9)], 20, {}),
    ("Gelu", [F(9)], 20, {"approximate": "tanh"}),
    ("Shrink", [F(9)], 9, {"lambd": 0.4, "bias": 0.1}),
    ("PRelu", [F(2, 3, 4), F(3, 1)], 9, {"held": (1,)}),
    ("PRelu", [F(2, 3, 4), F(1)], 9, {}),
    ("PRelu", [F(2, 3, 4), F(4)], 16, {}),
    ("PRelu", [F(2, 3, 4), F(3, 4)], 16, {}),
    *[(op, [F(2, 3, 4)], opset, {} if axis is None else {"axis": axis})
      for op in ("Softmax", "LogSoftmax", "Hardmax") for opset in (7, 11, 13) for axis in (None, 0, 2)],
    ("Softmax", [F(2, 3, 4)], 13, {"axis": -2}),
]  # fmt: skip

REDUCTIONS: Rows = [
    *[(op, [abs(F(2, 3, 4)) + 1], 11, {"axes": [0, -1], "keepdims": k}) for k in (0, 1) for op in (
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
        "ReduceLogSum", "ReduceLogSumExp",
    )],
    *[(op, [abs(F(2, 3, 4)) + 1, i64(1)], 18, {"held": (1,)}) for op in (
        "ReduceSum", "ReduceMean", "ReduceL2",
    )],
    ("ReduceSum", [F(2, 3)], 13, {}),
    ("ReduceSum", [F(2, 3), i64()], 13, {"held": (1,), "noop_with_empty_axes": 1}),
    ("ReduceMax", [whole(2, 3, dtype=np.int32)], 13, {"kinds": [T.INT32], "axes": [1]}),
    ("ReduceMin", [whole(2, 3, dtype=np.int8)], 13, {"kinds": [T.INT8], "axes": [1]}),
    ("ReduceSum", [np.float32(3)], 13, {}),
    *[(op, [F(3, 4)], 13, {**I64, "axis": 1, "keepdims": 0}) for op in ("ArgMax", "ArgMin")],
    *[(op, [np.float32([[1, 3, 3, 0, 0]])], 13, {**I64, "axis": -1, "select_last_index": 1, "keepdims": k})
      for op in ("ArgMax", "ArgMin") for k in (0, 1)],
    *[("CumSum", [F(3, 4), np.int32(-1)], 14, {"held": (1,), "exclusive": e, "reverse": r})
      for e in (0, 1) for r in (0, 1)],
    *[("CumProd", [f32(1, 2, 3), np.int64(0)], 26, {"held": (1,), "exclusive": e, "reverse": r, "expected": [want]})
      for e, r, want in ((0, 0, f32(1, 2, 6)), (1, 0, f32(1, 1, 2)), (0, 1, f32(6, 6, 3)), (1, 1, f32(6, 3, 1)))],
    ("TopK", [F(3, 5)], 7, {"k": 2, "axis": 1, "outputs": (True, True), "kinds": [T.FLOAT, T.INT64]}),
    ("TopK", [F(3, 5), i64(2)], 10, {"held": (1,), "outputs": (True, True), "kinds": [T.FLOAT, T.INT64]}),
    ("TopK", [np.float32([[1, 3, 3, 1, 1, 0]]), i64(4)], 11,
     {"held": (1,), "outputs": (True, True), "kinds": [T.FLOAT, T.INT64]}),
    ("TopK", [np.float32([[1, 3, 3, 1, 1, 0]]), i64(4)], 11,
     {"held": (1,), "outputs": (True, True), "kinds": [T.FLOAT, T.INT64], "largest": 0}),
    ("Det", [F(2, 4, 4)], 11, {}),
    ("Det", [np.float32([[0, 2], [3, 1]])], 11, {}),
    ("Det", [np.float32([[1, 2], [2, 4]])], 11, {}),
]  # fmt: skip

STRUCTURE: Rows = [
    ("Shape", [F(2, 3, 4)], 13, I64),
    ("Shape", [F(2, 3, 4)], 15, {**I64, "start": -2, "end": -1}),
    ("Size", [F(2, 3, 4)], 13, I64),
    ("Reshape", [F(2, 3, 4), i64(0, -1)], 13, {"held": (1,)}),
    ("Reshape", [F(0, 3, 4), i64(3, 4, 0)], 14, {"held": (1,), "allowzero": 1}),
    ("Transpose", [F(2, 3, 4)], 13, {}),
    ("Transpose", [F(2, 3, 4)], 13, {"perm": [1, 2, 0]}),
    *[("Flatten", [F(2, 3, 4)], 13, {"axis": a}) for a in (0, 1, 2, 3, -1)],
    ("Squeeze", [F(1, 3, 1)], 11, {}),
    ("Squeeze", [F(1, 3, 1)], 11, {"axes": [-1]}),
    ("Squeeze", [F(1, 3, 1), i64(0)], 13, {"held": (1,)}),
    ("Unsqueeze", [F(2, 3)], 11, {"axes": [0, -1]}),
    ("Unsqueeze", [F(2, 3), i64(3, 0)], 13, {"held": (1,)}),
    ("Expand", [F(3, 1), i64(2, 1, 4)], 8, {"held": (1,)}),
    ("Expand", [F(3, 4), i64(3, 1)], 13, {"held": (1,)}),
    ("Tile", [F(2, 3), i64(2, 3)], 13, {"held": (1,)}),
    ("Concat", [F(2, 3), F(2, 4)], 13, {"axis": -1}),
    *[("DepthToSpace", [F(1, 8, 2, 3)], 13, {"blocksize": 2, "mode": m}) for m in ("DCR", "CRD")],
    ("SpaceToDepth", [F(1, 2, 4, 6)], 13, {"blocksize": 2}),
    ("SpaceToDepth", [np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)], 28,
     {"blocksize": 2, "mode": "CRD", "expected": [np.float32([[[[0, 2], [8, 10]], [[1, 3], [9, 11]],
                                                              [[4, 6], [12, 14]], [[5, 7], [13, 15]]]])]}),
    ("Split", [F(2, 6)], 11, {"axis": 1, "outputs": (True,) * 3}),
    ("Split", [F(2, 6)], 11, {"axis": -1, "split": [2, 4], "outputs": (True,) * 2}),
    ("Split", [F(2, 6), i64(1, 5)], 13, {"axis": 1, "held": (1,), "outputs": (True,) * 2}),
    ("Split", [F(2, 7)], 18, {"axis": 1, "num_outputs": 3, "outputs": (True,) * 3}),
    ("Slice", [F(4, 5)], 9, {"starts": [1, -3], "ends": [3, 100], "axes": [0, -1]}),
    ("Slice", [F(4, 5), i64(0, 4), i64(-1, -(2**62)), i64(0, 1), i64(2, -2)], 13, {"held": (1, 2, 3, 4)}),
    ("Slice", [F(4, 5), i64(-1), i64(-(2**63)), i64(1), i64(-1)], 10, {"held": (1, 2, 3, 4)}),
    ("Slice", [F(4, 5), i64(3), i64(0), i64(1), i64(-1)], 10, {"held": (1, 2, 3, 4)}),
    ("Slice", [F(4, 5), i64(2), i64(2**63 - 1)], 13, {"held": (1, 2)}),
    ("Slice", [F(4, 5), i64(9), i64(2**63 - 1)], 13, {"held": (1, 2)}),
    *[("Trilu", [F(2, 3, 4), np.int64(k)], 14, {"held": (1,), "upper": u}) for k in (-1, 0, 2) for u in (0, 1)],
    ("ReverseSequence", [F(4, 3, 2), i64(1, 4, 2)], 10, {}),
    ("ReverseSequence", [F(3, 4, 2), i64(1, 4, 2)], 10, {"batch_axis": 0, "time_axis": 1}),
    ("Pad", [F(2, 3)], 2, {"pads": [1, 0, 0, 2], "value": 1.5}),
    ("Pad", [F(2, 3), i64(1, 0, 0, 2), np.float32(1.5)], 11, {"held": (1, 2)}),
    ("Pad", [F(2, 3), i64(1, 0, 0, 2), np.float32(1.5)], 13, {"held": (1,)}),
    ("Pad", [F(2, 3, 4), i64(1, 2), None, i64(-2)], 18, {"held": (1, 3), "mode": "reflect"}),
    *[("Pad", [F(3, 4), i64(1, 2, 2, 3)], 19, {"held": (1,), "mode": m}) for m in ("reflect", "edge", "wrap")],
    ("Pad", [F(3, 6), i64(-1, -2, 2, 1)], 13, {"held": (1,)}),
    ("Pad", [f32(0, 1, 2), i64(4, 5)], 19, {"held": (1,), "mode": "wrap"}),
    ("CenterCropPad", [F(5, 4, 2), i64(2, 7)], 18, {"held": (1,), "axes": [0, -2]}),
    ("Col2Im", [F(1, 5, 5), i64(5, 5), i64(1, 5)], 18, {"held": (1, 2)}),
    ("Col2Im", [F(1, 4, 15), i64(5, 4), i64(2, 2)], 18, {"held": (1, 2), "pads": [1, 0, 0, 0]}),
    ("ConstantOfShape", [i64(2, 3)], 9, {"held": (0,)}),
    ("ConstantOfShape", [i64(2, 0)], 9,
     {"held": (0,), "kinds": [T.INT64], "value": helper.make_tensor("v", T.INT64, [1], [7])}),
    ("EyeLike", [F(3, 4)], 9, {"k": -1}),
    ("EyeLike", [F(3, 4)], 9, {**I64, "k": 1, "dtype": T.INT64}),
    ("Range", [i64(10)[0], i64(4)[0], i64(-2)[0]], 11, {**I64, "held": (0, 1, 2)}),
    ("Range", [i64(1)[0], i64(8)[0], i64(3)[0]], 11, {**I64, "held": (0, 1, 2)}),
    ("Range", [np.float32(1), np.float32(2), np.float32(0.25)], 11, {"held": (0, 1, 2)}),
    ("Identity", [F(2)], 16, {}),
]  # fmt: skip

INDEXING: Rows = [
    ("Gather", [F(4, 3), whole(2, 2, low=-4, high=4)], 13, {}),
    ("Gather", [F(4, 3), np.int32([[0, 2]])], 13, {"axis": 1}),
    ("Gather", [F(4, 3), np.int64(-1)], 13, {"axis": 1, "held": (1,)}),
    ("GatherElements", [F(3, 4), whole(2, 4, low=-3, high=3)], 13, {}),
    ("GatherElements", [F(3, 4), whole(2, 3, low=0, high=4)], 13, {"axis": 1}),
    ("GatherND", [F(3, 4, 2), i64(0, 1, -1, -2).reshape(2, 2)], 13, {}),
    ("GatherND", [F(2, 3, 4), i64(1, -1).reshape(2, 1)], 12, {"batch_dims": 1}),
    ("GatherND", [F(2, 3, 4), whole(2, 5, 2, low=-3, high=3)], 12, {"batch_dims": 1}),
    ("ScatterElements", [F(3, 4), whole(2, 3, low=0, high=1), F(2, 3)], 11, {"axis": 1, "expected": None}),
    ("ScatterElements", [F(3, 4), i64(0, 1, 2, 2, 1, 0).reshape(2, 3), F(2, 3)], 18, {"axis": 0, "reduction": "add"}),
    ("ScatterElements", [F(3, 4), i64(0, -1, 1, 2, 1, 0).reshape(2, 3), F(2, 3)], 18, {"axis": 1, "reduction": "mul"}),
    *[("ScatterElements", [F(1, 5), i64(1, 1).reshape(1, 2), F(1, 2)], 18, {"axis": 1, "reduction": r})
      for r in ("max", "min")],
    ("Scatter", [F(1, 5), i64(1, 3).reshape(1, 2), F(1, 2)], 9, {"axis": 1}),
    ("ScatterND", [F(4, 3), i64(0, -1).reshape(2, 1), F(2, 3)], 13, {}),
    *[("ScatterND", [F(4, 3), i64(0, 1, 0, 1, 2, -1).reshape(3, 2), F(3)], 18, {"reduction": r})
      for r in ("add", "mul", "max", "min")],
    ("Compress", [F(3, 2), np.array([False, True, True])], 11, {"axis": 0, "held": (1,)}),
    ("Compress", [F(3, 2), np.array([False, True, True])], 11, {"held": (1,)}),
    ("NonZero", [np.float32([[1, 0], [2, 3]])], 13, {**I64, "held": (0,)}),
    ("Unique", [f32(2, 1, 1, 3, 4, 3)], 11,
     {"held": (0,), "sorted": 0, "outputs": (True,) * 4, "kinds": [T.FLOAT, T.INT64, T.INT64, T.INT64]}),
    ("Unique", [np.float32([[1, 0, 0], [1, 0, 0], [2, 3, 4]])], 11,
     {"held": (0,), "axis": 0, "outputs": (True,) * 4, "kinds": [T.FLOAT, T.INT64, T.INT64, T.INT64]}),
    ("OneHot", [whole(2, 3, low=-5, high=6), i64(4)[0], f32(2, 5)], 11, {"held": (1, 2), "axis": 1}),
    ("OneHot", [whole(3, low=0, high=4), i64(4)[0], f32(0, 1)], 11, {"held": (1, 2)}),
    ("OneHot", [f32(0, 3, -1), f32(4), i64(0, 1)], 11,
     {**I64, "held": (1, 2), "expected": [i64(1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1).reshape(3, 4)]}),
    ("Einsum", [F(2, 3, 4), F(2, 4, 5)], 12, {"equation": "bij,bjk->bik"}),
    ("Einsum", [F(2, 3)], 12, {"equation": "ba"}),
    ("Einsum", [F(2, 3, 3)], 12, {"equation": "...ii->...i"}),
    ("DFT", [F(2, 5, 1)], 17, {"axis": 1}),
    ("DFT", [F(2, 6, 3, 2)], 17, {"axis": 1, "inverse": 1}),
    ("DFT", [F(2, 6, 1), np.int64(8)], 17, {"onesided": 1, "held": (1,)}),
    ("STFT", [F(2, 12, 1), np.int64(3), abs(F(4)), np.int64(4)], 17, {"held": (1, 3)}),
    ("STFT", [F(2, 12), np.int64(3), abs(F(4)), np.int64(4)], 17, {"held": (1, 3)}),  # as files have it
    *[(op, [np.int64(9)], 17, {"held": (0,), "periodic": p})
      for op in ("HannWindow", "HammingWindow", "BlackmanWindow") for p in (0, 1)],
    ("MelWeightMatrix", [np.int64(8), np.int64(16), np.int64(8192), np.float32(0), np.float32(4096)], 17,
     {"held": (0, 1, 2, 3, 4)}),
]  # fmt: skip


#: Version 6, where broadcasting is asked for, and n-grams.
OTHERS: Rows = [
    ("Add", [F(2, 3, 4), F(3)], 6, {"broadcast": 1, "axis": 1, "expected": [F(2, 3, 4) + F(3)[:, None]]}),
    ("Mul", [F(2, 3), F(3)], 6, {"broadcast": 1, "expected": [F(2, 3) * F(3)]}),
    ("PRelu", [F(2, 3, 4), F(3)], 6,
     {"expected": [np.where(F(2, 3, 4) < 0, F(2, 3, 4) * F(3)[:, None], F(2, 3, 4))]}),
    ("Gemm", [F(2, 3), F(3, 4), F(4)], 6, {"broadcast": 1, "expected": [F(2, 3) @ F(3, 4) + F(4)]}),
    *[("TfIdfVectorizer", [np.int32([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]])], 9, {
        "mode": mode, "min_gram_length": low, "max_gram_length": 2, "max_skip_count": skips, "ngram_counts": [0, 4],
        "ngram_indexes": [0, 1, 2, 3, 4, 5, 6], "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
        **({} if mode == "TF" else {"weights": [0.5, 2.0, 3.0, 1.0, 1.5, 1.0, 4.0]}),
    }) for mode in ("TF", "IDF", "TFIDF") for low in (1, 2) for skips in (0, 2)],
]  # fmt: skip


def _named(rows: Rows) -> list[Any]:
    return [pytest.param(*row, id=f"{i}-{row[0]}-{row[2]}") for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "options"), _named(ELEMENTWISE + REDUCTIONS + STRUCTURE + INDEXING + OTHERS)
)
def test_an_operator(op: str, inputs: list[Any], opset: int, options: dict[str, Any]) -> None:
    agree(op, inputs, opset, **options)


# --- casts -------------------------------------------------------------------------------------------------

CASTS: list[tuple[np.ndarray, int, dict[str, Any], Any]] = [
    (f32(-1.7, 0.4, 2.9), T.INT8, {}, np.int8([-1, 0, 2])),
    (i64(-1, 200, 300), T.UINT8, {}, np.uint8([255, 200, 44])),
    (np.int16([200, -200]), T.INT8, {}, np.int8([-56, 56])),
    (f32(0, -0.0, NAN, 0.1), T.BOOL, {}, np.array([False, False, True, True])),
    (np.array([True, False]), T.FLOAT16, {}, np.float16([1, 0])),
    (f32(500, -500, NAN, INF, 449), T.FLOAT8E4M3FN, {}, f32(448, -448, NAN, 448, 448)),
    (f32(500, -500, NAN, INF, 464, 465), T.FLOAT8E4M3FN, {"saturate": 0}, f32(NAN, NAN, NAN, NAN, 448, NAN)),
    (f32(1e6, -INF, NAN, 60000), T.FLOAT8E5M2, {}, f32(57344, -57344, NAN, 57344)),
    (f32(1e6, -INF, NAN, 60000), T.FLOAT8E5M2, {"saturate": 0}, f32(INF, -INF, NAN, 57344)),
    (f32(300, -0.0, INF, 247), T.FLOAT8E4M3FNUZ, {}, f32(240, 0, 240, 240)),
    (f32(300, 248, INF, 247), T.FLOAT8E4M3FNUZ, {"saturate": 0}, f32(NAN, NAN, NAN, 240)),
    (f32(1e6, 3.3, INF), T.FLOAT8E5M2FNUZ, {"saturate": 0}, f32(NAN, 3.5, NAN)),
    (f32(2.5, 3, 4, 1e-30, NAN, INF), T.FLOAT8E8M0, {}, f32(4, 4, 4, 2.0**-99, NAN, 2.0**127)),
    (f32(2.5, 3, 4, 1e-30, NAN), T.FLOAT8E8M0, {"round_mode": "down"}, f32(2, 2, 4, 2.0**-100, NAN)),
    (f32(2.5, 3, 3.5, 0, NAN, INF), T.FLOAT8E8M0, {"round_mode": "nearest", "saturate": 0},
     f32(2, 4, 4, NAN, NAN, NAN)),
    (f32(0.3, 2.5, -5, 9, 0.25), T.FLOAT4E2M1, {}, f32(0.5, 2, -4, 6, 0)),
    (f32(1.6, -2.7, 7, -8), T.INT4, {}, np.int8([1, -2, 7, -8])),
    (i64(9, 17, -9), T.INT4, {}, np.int8([-7, 1, 7])),
    (i64(9, 17, -1), T.UINT4, {}, np.uint8([9, 1, 15])),
    (i64(3, 1, 2), T.INT2, {}, np.int8([-1, 1, -2])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("x", "to", "options", "want"), CASTS, ids=[f"{i}-{T.DataType.Name(c[1])}" for i, c in enumerate(CASTS)]
)
def test_casts(x: np.ndarray, to: int, options: dict[str, Any], want: np.ndarray) -> None:
    """What is held in another type has its numbers, to the last one."""
    made = model("Cast", [x], 25, kinds=[to], to=to, **options)
    for (got,) in (ours(made, [x]), [t.float().numpy() if to in _FLOAT8 else t.numpy() for t in _torch(made, x)]):
        np.testing.assert_array_equal(np.asarray(got, want.dtype), want)


_FLOAT8 = (T.FLOAT8E4M3FN, T.FLOAT8E5M2)


def _torch(made: Any, x: np.ndarray) -> list[Any]:
    import torch

    return [from_onnx(made).to_torch()(torch.from_numpy(x))]


@pytest.mark.parametrize("to", [T.FLOAT8E4M3FNUZ, T.FLOAT8E5M2FNUZ, T.FLOAT4E2M1])
def test_casts_to_formats_that_are_held_round_as_theirs(to: int) -> None:
    x = np.concatenate([F(4000) * s for s in (1e-3, 0.1, 3.0, 90.0)])
    (got,) = ours(model("Cast", [x], 23, kinds=[to], to=to), [x])
    theirs: Any = helper.tensor_dtype_to_np_dtype(to)
    largest = float(ml_dtypes.finfo(theirs).max)
    np.testing.assert_array_equal(got, np.clip(x, -largest, largest).astype(theirs).astype(np.float32))


# --- random numbers ----------------------------------------------------------------------------------------

RANDOM: list[tuple[str, list[Any], dict[str, Any], float]] = [
    ("RandomNormal", [], {"shape": [4000], "mean": 2.0, "scale": 3.0}, 2.0),
    ("RandomNormalLike", [F(4000)], {"mean": 1.0, "seed": 5.0}, 1.0),
    ("RandomUniform", [], {"shape": [4000], "low": 1.0, "high": 3.0}, 2.0),
    ("RandomUniformLike", [F(4000)], {"low": -1.0}, 0.0),
    ("Bernoulli", [np.full(4000, 0.25, np.float32)], {}, 0.25),
    ("Multinomial", [np.log(np.float32([[1, 1, 2]]))], {"sample_size": 4000, "kinds": [T.INT32]}, 1.25),
]


@pytest.mark.parametrize(("op", "inputs", "options", "mean"), RANDOM, ids=[r[0] for r in RANDOM])
def test_random_numbers(op: str, inputs: list[Any], options: dict[str, Any], mean: float) -> None:
    dag = from_onnx(model(op, inputs, 15, **options))
    first, same, other = (np.asarray(dag.run(*inputs, seed=np.uint64(n))) for n in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()
    assert abs(first.mean() - mean) < 0.15


def test_two_random_nodes_of_one_input_are_different() -> None:
    x = np.full(100, 0.5, np.float32)
    made = model("Bernoulli", [x], 15)
    made.graph.node.add().CopyFrom(made.graph.node[0])
    made.graph.node[1].output[0] = "z"
    made.graph.output.add().CopyFrom(made.graph.output[0])
    made.graph.output[1].name = "z"
    first, second = from_onnx(made).run(x, seed=np.uint64(3))
    assert (first != second).any()


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_of_a_file_drops_in_training_only(opset: int) -> None:
    import torch

    ratio = {"ratio": 0.25} if opset < 12 else {}
    module = from_onnx(model("Dropout", [F(1000)], opset, **ratio)).to_torch()
    x = torch.ones(1000)
    assert torch.equal(module.eval()(x), x)
    share = float((module.train()(x) == 0).float().mean())
    assert abs(share - ratio.get("ratio", 0.5)) < 0.1


def test_dropout_that_trains_and_its_mask() -> None:
    x = np.ones(1000, np.float32)
    inputs = [x, np.float32(0.25), np.array(True)]
    made = model("Dropout", inputs, 13, held=(1, 2), outputs=(True, True), kinds=[T.FLOAT, T.BOOL])
    y, mask = from_onnx(made).run(x, seed=np.uint64(1))
    np.testing.assert_allclose(y, mask / np.float32(0.75), rtol=1e-6)
    assert 0.65 < mask.mean() < 0.85


# --- refusals ----------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, list[Any], int, dict[str, Any], str]] = [
    ("NonZero", [F(3)], 13, {}, "has to be known here; td.Program.from_onnx imports it"),
    ("Compress", [F(3), np.array([True, False, True])], 11, {}, "its input condition depends on data"),
    ("Unique", [F(3)], 11, {}, "its input X depends on data"),
    ("Reshape", [F(3), i64(3, 1)], 13, {}, "its input shape depends on data"),
    ("Range", [i64(0)[0], i64(4)[0], i64(0)[0]], 11, {"held": (0, 1, 2)}, "its delta is 0"),
    ("TopK", [F(3), i64(4)], 11, {"held": (1,), "outputs": (True, True)}, "its K is 4"),
    ("Split", [F(5)], 18, {"num_outputs": 4, "outputs": (True,) * 4}, "leave nothing for the last"),
    ("PRelu", [F(3), F(2, 3)], 16, {}, "can't be broadcast"),
    ("GatherND", [F(4, 3), i64(0, 5).reshape(1, 2)], 13, {"held": (1,)}, r"out of range for the sizes \[4, 3\]"),
    ("STFT", [F(12), np.int64(3), F(4)], 17, {"held": (1,)}, r"its signal f32\[12\] isn't \[b t 1\]"),
    ("Det", [F(2, 70, 70)], 11, {}, "at most 64 rows"),
    ("ImageDecoder", [np.uint8([1])], 20, {}, "give the network the decoded image"),
    ("StringNormalizer", [F(1)], 10, {}, "it works on strings"),
    ("SequenceLength", [F(1)], 11, {}, "takes a sequence whose length is known, not f32"),
    ("LabelEncoder", [F(1)], 13, {"domain": "ai.onnx.ml"}, "operators of ai.onnx.ml"),
    ("BitCast", [F(1)], 26, {"to": T.INT4}, "held in others here"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "opset", "options", "why"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refusals(op: str, inputs: list[Any], opset: int, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        from_onnx(model(op, inputs, opset, **options))


def test_inputs_given_as_constants() -> None:
    made = model("Reshape", [F(2, 3), i64(3, -1)], 13)
    dag = from_onnx(made, values={"x1": i64(-1, 2)})
    assert list(dag.graph.inputs) == ["x0"]
    assert dag.run(F(2, 3)).shape == (3, 2)
    with pytest.raises(InputError, match="no input"):
        from_onnx(made, values={"shape": i64(-1, 2)})


def test_parts_and_bounds_follow_a_resize() -> None:
    """Equal parts, bounds from the end and flattened axes are those of other sizes too."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Slice", ["a", "first", "last", "axes"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"], axis=1),
    ]
    infos = [helper.make_tensor_value_info(n, T.FLOAT, s) for n, s in (("x", ["b", "n", "c"]), ("y", None))]
    held = [helper.make_tensor(n, T.INT64, [1], [v]) for n, v in (("first", -3), ("last", 2**63 - 1), ("axes", 1))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    x = F(4, 12, 5)
    big = from_onnx(made, inputs={"x": (2, 8, 3)}).resize({"x": x.shape})
    np.testing.assert_array_equal(big.run(x), from_onnx(made, inputs={"x": x.shape}).run(x))


def test_every_operator_has_a_rule_or_a_reason() -> None:
    """Each version from 7 on, with all its attributes and inputs; some operators are imported by the body ONNX has."""
    strings = {("TfIdfVectorizer", "pool_strings")}
    for schema in defs.get_all_schemas_with_history():
        name, version = schema.name, schema.since_version
        if (
            schema.domain
            or version < 7
            or name == "Constant"
            or (schema.deprecated and find("", name, version) is None)
        ):
            continue
        rule = find("", name, version)
        if rule is None:
            body = schema.has_function or schema.has_context_dependent_function
            assert body or ("", name) in REASONS or name in CONTROL or name in OPERATORS, f"{name} since {version}"
            continue
        unknown = {a for a in schema.attributes if a not in rule.attributes and (name, a) not in strings}
        assert not unknown, f"{name} since {version}: {unknown}"
        assert len(schema.inputs) <= len(rule.inputs) or rule.rest is not None, f"{name} since {version}"
