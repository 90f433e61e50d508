"""ONNX's products, convolutions, pools and norms: numpy and torch against onnxruntime, over their options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import agree, floats, rng, theirs

F = floats


def bytes_(*shape: int, seed: int = 0, signed: bool = False) -> np.ndarray:
    low, high = (-128, 128) if signed else (0, 256)
    return rng(seed + sum(shape)).integers(low, high, shape).astype(np.int8 if signed else np.uint8)


# op, inputs, opset, options
PRODUCTS: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("MatMul", [F(2, 3), F(3, 4)], 13, {}),
    ("MatMul", [F(2, 1, 3, 4), F(5, 4, 2)], 9, {}),
    ("MatMul", [F(3), F(3, 4)], 13, {}),
    ("MatMul", [rng().integers(-9, 9, (2, 3)), rng().integers(-9, 9, (3, 2))], 13, {"kinds": [TensorProto.INT64]}),
    ("Gemm", [F(2, 3), F(3, 4)], 13, {}),
    ("Gemm", [F(2, 3), F(4, 3), F(4)], 13, {"transB": 1, "held": (1, 2)}),
    ("Gemm", [F(2, 3), F(4, 3), F(1, 4)], 7, {"transB": 1}),
    ("Gemm", [F(3, 2), F(3, 4), F(2, 1)], 11, {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [F(3, 2), F(4, 3), F(1)], 9, {"transA": 1, "transB": 1, "alpha": 2.0}),
    ("Gemm", [F(2, 3), F(3, 4), F(2, 4)], 13, {"beta": 0.0}),
    ("MatMulInteger", [bytes_(2, 3), bytes_(3, 4)], 10, {"kinds": [TensorProto.INT32]}),
    ("MatMulInteger", [bytes_(2, 3, 700), bytes_(2, 700, 4), np.uint8(7), np.uint8(250)], 10,
     {"kinds": [TensorProto.INT32]}),
    ("MatMulInteger", [bytes_(2, 300), bytes_(300, 4, signed=True), np.uint8(7), bytes_(4, signed=True)], 10,
     {"kinds": [TensorProto.INT32], "held": (1, 2, 3)}),
    ("ConvInteger", [bytes_(1, 2, 5, 5), bytes_(3, 2, 3, 3), np.uint8(9)], 10,
     {"kinds": [TensorProto.INT32], "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("ConvInteger", [bytes_(1, 4, 6), bytes_(2, 2, 3), np.uint8(9), np.uint8([3])], 10,
     {"kinds": [TensorProto.INT32], "group": 2, "auto_pad": "SAME_LOWER"}),
]  # fmt: skip

CONVOLUTIONS: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("Conv", [F(2, 4, 7), F(6, 4, 3), F(6)], 11, {"pads": [1, 1]}),
    ("Conv", [F(2, 4, 7, 6), F(6, 2, 3, 2), F(6)], 11, {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": 2}),
    ("Conv", [F(1, 3, 9, 9), F(2, 3, 3, 3)], 22, {"dilations": [2, 3], "kernel_shape": [3, 3]}),
    ("Conv", [F(1, 3, 8, 7), F(2, 3, 3, 2)], 11, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("Conv", [F(1, 3, 8, 7), F(2, 3, 4, 2)], 11, {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("Conv", [F(1, 3, 8, 7), F(2, 3, 3, 2)], 7, {"auto_pad": "VALID", "held": (1,)}),
    ("Conv", [F(1, 2, 4, 5, 6), F(3, 2, 2, 3, 2), F(3)], 11, {"pads": [0, 1, 0, 1, 1, 0]}),
    ("ConvTranspose", [F(2, 4, 5), F(4, 3, 3), F(3)], 11, {}),
    ("ConvTranspose", [F(1, 4, 5, 4), F(4, 3, 3, 2), F(6)], 11, {"group": 2, "strides": [2, 3], "pads": [1, 0, 1, 0]}),
    ("ConvTranspose", [F(1, 2, 3, 3), F(2, 2, 3, 3), F(2)], 11, {"strides": [3, 2], "output_padding": [2, 1]}),
    ("ConvTranspose", [F(1, 2, 3, 3), F(2, 2, 3, 3), F(2)], 22, {"strides": [3, 2], "output_shape": [10, 8]}),
    ("ConvTranspose", [F(1, 2, 3, 3), F(2, 2, 4, 4), F(2)], 11, {"strides": [2, 2], "output_shape": [7, 5]}),
    ("ConvTranspose", [F(1, 2, 3, 4), F(2, 2, 4, 3)], 11, {"auto_pad": "SAME_UPPER", "strides": [1, 2]}),
    ("ConvTranspose", [F(1, 2, 3, 4), F(2, 2, 4, 3)], 11, {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("ConvTranspose", [F(1, 2, 5, 5), F(2, 2, 3, 3)], 11, {"pads": [2, 0, 0, 1], "dilations": [2, 1]}),
    ("ConvTranspose", [F(1, 2, 3, 3), F(2, 1, 2, 2)], 11, {"auto_pad": "VALID"}),
    ("DeformConv", [F(1, 4, 5, 6), F(6, 2, 3, 2), F(1, 24, 3, 5), F(6), F(1, 12, 3, 5)], 22,
     {"group": 2, "offset_group": 2}),
    ("DeformConv", [F(2, 2, 5, 5), F(3, 2, 2, 2), F(2, 8, 3, 4)], 19,
     {"pads": [1, 0, 0, 0], "strides": [2, 1], "dilations": [1, 1], "torch": False}),
]  # fmt: skip

POOLS: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("MaxPool", [F(1, 2, 7, 8)], 12, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("MaxPool", [F(1, 2, 7, 8)], 12, {"kernel_shape": [3, 2], "pads": [2, 1, 0, 1], "strides": [2, 3]}),
    ("MaxPool", [F(1, 2, 7)], 8, {"kernel_shape": [3]}),
    ("MaxPool", [F(1, 2, 8, 7)], 10, {"kernel_shape": [3, 3], "strides": [3, 2], "ceil_mode": 1, "dilations": [1, 2]}),
    ("MaxPool", [F(1, 2, 8, 7)], 12, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("MaxPool", [F(1, 2, 8, 7)], 12, {"kernel_shape": [4, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("MaxPool", [F(1, 2, 4, 4)], 12, {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 0, 1, 1]}),
    ("MaxPool", [bytes_(1, 2, 5, 5)], 12,
     {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "kinds": [TensorProto.UINT8]}),
    ("MaxPool", [bytes_(1, 2, 5, 5, signed=True)], 12,
     {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "kinds": [TensorProto.INT8], "torch": False}),
    *(("MaxPool", [F(2, 3, 5, 6)], 12, {
        "kernel_shape": [3, 3], "outputs": (True, True), "kinds": [TensorProto.FLOAT, TensorProto.INT64], **more,
    }) for more in (
        {"strides": [2, 2], "pads": [1, 1, 1, 1]}, {"storage_order": 1}, {"pads": [2, 0, 0, 1]}, {"dilations": [2, 1]},
    )),
    ("MaxPool", [F(1, 2, 4, 5, 4)], 12,
     {"kernel_shape": [2, 2, 2], "outputs": (True, True), "kinds": [TensorProto.FLOAT, TensorProto.INT64],
      "storage_order": 1}),
    ("AveragePool", [F(1, 2, 7, 8)], 11, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("AveragePool", [F(1, 2, 7, 8)], 19,
     {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0], "count_include_pad": 1, "ceil_mode": 1, "strides": [2, 3]}),
    ("AveragePool", [F(1, 2, 7, 8)], 11, {"kernel_shape": [3, 3], "pads": [2, 0, 1, 1], "strides": [2, 3]}),
    ("AveragePool", [F(1, 2, 7, 8)], 7, {"kernel_shape": [3, 3], "pads": [2, 0, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [F(1, 2, 7, 8)], 19, {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [F(1, 2, 7, 8)], 11, {"kernel_shape": [3, 4], "auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    ("AveragePool", [F(1, 2, 7, 8)], 11, {"kernel_shape": [3, 4], "auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ("AveragePool", [F(1, 2, 7)], 11, {"kernel_shape": [3], "auto_pad": "VALID"}),
    ("LpPool", [F(1, 2, 7, 8)], 11, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    ("LpPool", [F(1, 2, 7, 8)], 18, {"kernel_shape": [3, 2], "p": 3, "dilations": [2, 2]}),
    ("LpPool", [F(1, 2, 7, 8)], 11, {"kernel_shape": [2, 2], "p": 1, "auto_pad": "SAME_UPPER"}),
    ("GlobalAveragePool", [F(2, 3, 4, 5)], 11, {}),
    ("GlobalMaxPool", [F(2, 3, 4, 5)], 22, {}),
    ("GlobalAveragePool", [F(2, 3, 4)], 11, {}),
    ("GlobalLpPool", [F(2, 3, 4, 5)], 11, {"p": 3}),
    ("MaxUnpool", [F(1, 2, 2, 2), np.int64([[[[0, 3], [8, 10]], [[21, 18], [28, 31]]]])], 11,
     {"kernel_shape": [2, 2], "strides": [2, 2]}),
    *(("RoiAlign", [F(2, 3, 8, 9), np.float32([[0, 0, 4, 5], [1.5, 2, 8, 7.7], [-3, -2, 9, 12]]), np.int64([0, 1, 0])],
       16, {"output_height": 3, "output_width": 2, "sampling_ratio": 2, **more}) for more in (
        {}, {"mode": "max"}, {"coordinate_transformation_mode": "output_half_pixel", "spatial_scale": 0.5},
    )),
    ("RoiAlign", [F(2, 3, 8, 9), np.float32([[0, 0, 4, 5], [3, 2, 3, 2]]), np.int64([0, 1])], 10,
     {"output_height": 3, "output_width": 2, "sampling_ratio": 3}),
    ("MaxRoiPool", [F(2, 3, 8, 9), np.float32([[0, 0, 0, 4, 5], [1, 1.6, 2, 8, 7.5], [1, 3, 3, 12, 4]])], 11,
     {"pooled_shape": [3, 2], "spatial_scale": 0.7}),
]  # fmt: skip

NORMS: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    *(("BatchNormalization", [F(2, 3, 4, 5), F(3), F(3, seed=1), F(3, seed=2), F(3) ** 2], v, {"held": (1, 2, 3, 4)})
      for v in (7, 9, 14, 15)),
    ("BatchNormalization", [F(2, 3), F(3), F(3, seed=1), F(3, seed=2), F(3) ** 2], 15, {"epsilon": 0.1}),
    ("BatchNormalization", [F(2, 3, 4), F(3), F(3, seed=1), F(3, seed=2), F(3) ** 2], 15,
     {"training_mode": 1, "outputs": (True, True, True), "momentum": 0.7}),
    ("InstanceNormalization", [F(2, 3, 4, 5), F(3), F(3, seed=1)], 6, {}),
    ("InstanceNormalization", [F(2, 3, 4), F(3), F(3, seed=1)], 22, {"epsilon": 0.01}),
    ("InstanceNormalization", [F(2, 3, 1, 1), F(3), F(3, seed=1)], 6, {}),  # torch's own raises
    ("LayerNormalization", [F(2, 3, 4), F(4), F(4, seed=1)], 17, {"held": (1, 2)}),
    ("LayerNormalization", [F(2, 3, 4), F(3, 4)], 17, {"axis": 1, "outputs": (True, True, True), "epsilon": 0.1}),
    ("LayerNormalization", [F(2, 3, 4), F(1), F(4, seed=1)], 17, {"axis": -1}),
    ("RMSNormalization", [F(2, 3, 4), F(4)], 23, {}),
    ("RMSNormalization", [F(2, 3, 4), F(3, 4)], 23, {"axis": -2, "epsilon": 0.1}),
    ("SimplifiedLayerNormalization", [F(2, 3, 4), F(4)], 17, {"epsilon": 0.1}),
    ("GroupNormalization", [F(2, 6, 4, 3), F(3), F(3, seed=1)], 18, {"num_groups": 3}),
    ("GroupNormalization", [F(2, 6, 4), F(6), F(6, seed=1)], 21, {"num_groups": 2, "epsilon": 0.01}),
    ("LpNormalization", [F(2, 3, 4)], 1, {"axis": 1}),
    ("LpNormalization", [np.float32([[0, 0], [3, 4]])], 22, {"p": 1}),
    ("MeanVarianceNormalization", [F(2, 3, 4, 5)], 9, {}),
    ("MeanVarianceNormalization", [F(2, 3, 4)], 13, {"axes": [1]}),
    ("LRN", [F(2, 7, 4, 5)], 13, {"size": 3, "alpha": 0.01, "beta": 0.6, "bias": 2.0}),
    ("LRN", [F(2, 3, 4, 5)], 1, {"size": 5, "alpha": 0.5}),
    ("Dropout", [F(2, 3)], 7, {"ratio": 0.3}),
    ("Dropout", [F(2, 3)], 10, {}),  # onnxruntime's mask of this version is all False, of later ones all True
    ("Dropout", [F(2, 3), np.float32(0.4), np.bool_(False)], 13,
     {"held": (1, 2), "outputs": (True, True), "kinds": [TensorProto.FLOAT, TensorProto.BOOL]}),
]  # fmt: skip


def _name(case: tuple[str, list[Any], int, dict[str, Any]]) -> str:
    op, inputs, opset, options = case
    shown = [f"{k}={v}" for k, v in options.items() if k not in ("kinds", "held", "outputs", "torch")]
    return f"{op}-{opset}-{'x'.join(map(str, inputs[0].shape))}-{len(inputs)}-{','.join(shown)}".replace(" ", "")


@pytest.mark.parametrize("case", [*PRODUCTS, *CONVOLUTIONS, *POOLS, *NORMS], ids=_name)
def test_agrees_with_onnxruntime(case: tuple[str, list[Any], int, dict[str, Any]]) -> None:
    op, inputs, opset, options = case
    agree(op, inputs, opset, **options)


def test_a_max_unpool_of_the_places_of_a_max_pool_is_one() -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["y", "i"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    x = F(2, 3, 4, 6)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in ("x", "z")]
    made = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 12)], ir_version=10
    )
    dag = from_onnx(made)
    assert "max_unpool" in {v.op.name for v in dag.graph}
    np.testing.assert_array_equal(dag.run(x), theirs(made, [x])[0])


def test_layers_go_back_as_they_train() -> None:
    """Statistics move and places are dropped under train(), not after eval()."""
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"]),
        helper.make_node("Dropout", ["y", "p"], ["z"]),
    ]
    x = 1 + np.abs(F(4, 3, 2))
    numbers = {"s": F(3), "b": F(3, seed=1), "m": F(3, seed=2), "v": np.abs(F(3)), "p": np.float32(0.5)}
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in ("x", "z")]
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in numbers.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:], held), opset_imports=[helper.make_opsetid("", 15)]
    )
    module = from_onnx(made).to_torch()
    given = torch.from_numpy(x)
    before = module.state_dict()["m"].clone()
    module.train()
    assert (module(given) == 0).any()
    assert (module.state_dict()["m"] != before).all()
    module.eval()
    assert torch.equal(module(given), module(given))
