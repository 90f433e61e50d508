"""ONNX's resampling: numpy and torch against onnxruntime, over the options."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.frameworks.onnx.one_node import agree, arguments, floats, model

X = floats(1, 2, 5, 6)
NONE: Any = np.zeros(0, np.float32)


def scaled(*scales: float) -> list[Any]:
    return [X, NONE, np.float32([1, 1, *scales])]


def sized(*sizes: int) -> list[Any]:
    return [X, NONE, NONE, np.int64([1, 2, *sizes])]


RESIZES: list[tuple[list[Any], int, dict[str, Any]]] = [
    *((inputs, 13, {"coordinate_transformation_mode": where, "nearest_mode": mode, "mode": "nearest"})
      for where in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
      for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
      for inputs in (sized(10, 9), scaled(2.0, 2.0), sized(3, 4))),
    *((inputs, 13, {"coordinate_transformation_mode": where, "mode": mode})
      for where in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
      for mode in ("linear", "cubic")
      for inputs in (sized(10, 9), scaled(2.0, 3.0), sized(3, 4), sized(1, 2))),
    *((scaled(0.6, 1.7), 11, {"coordinate_transformation_mode": where, "mode": mode})
      for where in ("half_pixel", "asymmetric") for mode in ("linear", "cubic", "nearest")),
    (sized(8, 7), 19, {"mode": "cubic", "exclude_outside": 1}),
    (sized(8, 7), 19, {"mode": "cubic", "cubic_coeff_a": -0.5}),
    (scaled(2.3, 0.5), 19, {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}),
    *(([X, np.float32([0, 0, 0.1, -0.2, 1, 1, 0.7, 1.1]), NONE, np.int64([1, 2, 4, 5])], 13,
       {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0})
      for mode in ("linear", "nearest")),
    ([X, None, np.float32([2, 1.5])], 18, {"axes": [2, 3], "mode": "linear"}),
    ([X, None, None, np.int64([9, 9])], 18,
     {"axes": [2, 3], "mode": "linear", "keep_aspect_ratio_policy": "not_larger"}),
    ([X, None, None, np.int64([9, 9])], 18, {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}),
    ([floats(1, 2, 5), NONE, np.float32([1, 1, 2])], 13, {"mode": "linear"}),
    ([floats(1, 2, 3, 4, 5), NONE, np.float32([1, 1, 2, 2, 2])], 13, {"mode": "nearest"}),
    ([floats(1, 2, 3, 4, 5), NONE, NONE, np.int64([1, 2, 4, 5, 5])], 13, {"mode": "linear"}),
    (sized(3, 4), 19, {"mode": "linear", "antialias": 1}),
    (sized(3, 4), 19, {"mode": "cubic", "antialias": 1}),
    (sized(3, 4), 19, {"mode": "linear", "antialias": 1, "exclude_outside": 1}),
    (sized(2, 4), 19, {"mode": "cubic", "antialias": 1, "exclude_outside": 1}),
]  # fmt: skip


def _name(case: tuple[list[Any], int, dict[str, Any]]) -> str:
    inputs, opset, options = case
    to = [i.tolist() for i in inputs[2:] if i is not None and i.size]
    return f"{opset}-{to}-{','.join(map(str, options.values()))}".replace(" ", "")


@pytest.mark.parametrize("case", RESIZES, ids=_name)
def test_resize(case: tuple[list[Any], int, dict[str, Any]]) -> None:
    inputs, opset, options = case
    held = [i for i, v in enumerate(inputs) if i and v is not None]
    agree("Resize", inputs, opset, held=held, **options)


@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 1.5, 2.5), (1.0, 1.0, 0.6, 0.5)])
def test_upsample(op: str, opset: int, mode: str, scales: tuple[float, ...]) -> None:
    if op == "Upsample" and min(scales) < 1:
        return
    agree(op, [X, np.float32(scales)], opset, held=(1,), mode=mode)


def test_upsample_7() -> None:
    agree("Upsample", [X], 7, scales=[1.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(mode: str, padding: str, align: int) -> None:
    grid = 1.3 * floats(1, 7, 4, 2)
    agree("GridSample", [X, grid], 16, mode=mode, padding_mode=padding, align_corners=align)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample_of_volumes(mode: str, padding: str) -> None:
    x, grid = floats(1, 2, 3, 4, 5), 1.2 * floats(1, 2, 3, 2, 3)
    agree("GridSample", [x, grid], 20, mode=mode, padding_mode=padding)


def test_grid_sample_of_lines() -> None:
    """onnxruntime has planes and volumes only."""
    x, grid = floats(1, 2, 6), 1.2 * floats(1, 5, 1)
    made = model("GridSample", [x, grid], 20)
    agree("GridSample", [x, grid], 20, expected=reference(made, [x, grid]))


def reference(made: onnx.ModelProto, args: list[np.ndarray]) -> list[Any]:
    return ReferenceEvaluator(made).run(None, {i.name: a for i, a in zip(made.graph.input, args, strict=True)})


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [2, 3, 2, 4, 5]])
def test_affine_grid(align: int, size: list[int]) -> None:
    dims = len(size) - 2
    inputs = [floats(2, dims, dims + 1), np.int64(size)]
    agree("AffineGrid", inputs, 20, held=(1,), align_corners=align)
    assert arguments(inputs, (1,))
