"""Convolution and transposed convolution."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import FLOATS, Sample, by_torch, numbers
from tests.samples.linear import INF, LEADS, NAN, batched, sampled, special

SAMPLES: list[Sample] = []


def _forward(attributes: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def function(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return getattr(F, f"conv{x.dim() - 2}d")(x, *rest, **attributes)

    return lambda *xs: td.convolution(*xs, **attributes), function


for _name, _shapes, _attributes in (
    ("plain", [(2, 3, 7, 8), (4, 3, 3, 3), (4,)], {}),
    ("no bias", [(2, 3, 7, 8), (4, 3, 3, 3)], {"padding": 1}),
    ("pointwise", [(2, 6, 5, 5), (4, 6, 1, 1), (4,)], {}),
    ("strides", [(2, 3, 9, 8), (4, 3, 3, 2), (4,)], {"stride": (2, 3), "padding": (1, 0)}),
    ("dilation", [(2, 3, 9, 8), (4, 3, 3, 2), (4,)], {"dilation": (2, 3), "padding": (2, 1)}),
    ("groups", [(2, 4, 6, 6), (6, 2, 3, 3), (6,)], {"groups": 2, "padding": 1}),
    ("depthwise", [(2, 4, 6, 6), (4, 1, 3, 3), (4,)], {"groups": 4, "stride": 2}),
    ("same", [(2, 3, 8), (4, 3, 5), (4,)], {"padding": "same", "dilation": 2}),
    ("valid", [(2, 3, 8), (4, 3, 3), (4,)], {"padding": "valid"}),
    ("1d", [(2, 3, 10), (4, 3, 4), (4,)], {"stride": 3, "padding": 2}),
    ("3d", [(1, 2, 5, 6, 7), (3, 2, 2, 3, 2), (3,)], {"stride": 2, "padding": (1, 1, 0)}),
    ("zero batch", [(0, 3, 7, 8), (4, 3, 3, 3), (4,)], {}),
    ("whole", [(2, 3, 5, 6), (4, 3, 5, 6), (4,)], {}),
):
    SAMPLES += sampled("convolution", _name, _forward(_attributes)[0], _shapes, _forward(_attributes)[1])

SAMPLES.append(
    Sample("convolution", "inf and nan", _forward({"padding": 1})[0],
           (special((1, 2, 5, 5), n3=INF, n30=NAN), special((3, 2, 3, 3))), by_torch(_forward({"padding": 1})[1]), 64,
           True)
)  # fmt: skip
SAMPLES.append(
    Sample("convolution", "whole numbers", _forward({})[0],
           (numbers((1, 2, 5, 5), "i64"), numbers((3, 2, 2, 2), "i64")), by_torch(_forward({})[1]))
)  # fmt: skip


def _uneven(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.pad(x, (2, -1, 0, 3)), weight, stride=2)


SAMPLES += sampled(
    "convolution", "uneven and negative padding",
    lambda x, w: td.convolution(x, w, stride=2, padding=((0, 3), (2, -1))), [(2, 3, 7, 8), (4, 3, 3, 3)], _uneven,
)  # fmt: skip


def _back(attributes: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def function(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return getattr(F, f"conv_transpose{x.dim() - 2}d")(x, *rest, **attributes)

    return lambda *xs: td.convolution_transpose(*xs, **attributes), function


for _name, _shapes, _attributes in (
    ("plain", [(2, 3, 4, 5), (3, 4, 3, 2), (4,)], {}),
    ("no bias", [(2, 3, 4, 5), (3, 4, 3, 2)], {"padding": 1}),
    ("strides", [(2, 3, 4, 5), (3, 4, 3, 2), (4,)], {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    ("dilation", [(2, 3, 4, 5), (3, 4, 3, 2), (4,)], {"dilation": (2, 3), "padding": (2, 0)}),
    ("groups", [(2, 4, 4), (4, 2, 3), (4,)], {"stride": 3, "dilation": 2, "groups": 2, "output_padding": 2}),
    ("beyond the windows", [(1, 2, 5), (2, 1, 1), (1,)], {"stride": 2, "output_padding": 1}),
    ("3d", [(1, 2, 3, 4, 2), (2, 3, 2, 2, 3), (3,)], {"padding": (1, 0, 1), "stride": 2}),
    ("zero batch", [(0, 3, 4, 5), (3, 4, 3, 2), (4,)], {}),
):
    SAMPLES += sampled("convolution_transpose", _name, _back(_attributes)[0], _shapes, _back(_attributes)[1])

for _lead in LEADS:
    for _name, _shapes, _attributes in (
        ("plain", [(3, 7, 8), (4, 3, 3, 3), (4,)], {"padding": 1}),
        ("groups", [(4, 9, 6), (6, 2, 3, 2), (6,)], {"groups": 2, "stride": (2, 1), "dilation": (1, 2)}),
        ("same", [(3, 8), (4, 3, 5)], {"padding": "same", "dilation": 2}),
        ("3d", [(2, 5, 6, 7), (3, 2, 2, 3, 2), (3,)], {"stride": 2}),
    ):
        _shapes = [(*_lead, *_shapes[0]), *_shapes[1:]]
        SAMPLES += sampled("convolution", f"{len(_lead)} leading {_name}", _forward(_attributes)[0], _shapes,
                           batched(_forward(_attributes)[1], len(_lead)))  # fmt: skip
    for _name, _shapes, _attributes in (
        ("strides", [(3, 4, 5), (3, 4, 3, 2), (4,)], {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
        ("groups", [(4, 4), (4, 2, 3), (4,)], {"stride": 3, "dilation": 2, "groups": 2}),
        ("no bias", [(2, 3, 4, 2), (2, 3, 2, 2, 3)], {}),
    ):
        _shapes = [(*_lead, *_shapes[0]), *_shapes[1:]]
        # in 3d torch adds up half precision in half precision
        _dtypes = ("f64", "f32") if len(_shapes[1]) == 5 else FLOATS
        SAMPLES += sampled("convolution_transpose", f"{len(_lead)} leading {_name}", _back(_attributes)[0], _shapes,
                           batched(_back(_attributes)[1], len(_lead)), _dtypes)  # fmt: skip
    SAMPLES += sampled(
        "convolution", f"{len(_lead)} leading uneven",
        lambda x, w: td.convolution(x, w, stride=2, padding=((0, 3), (2, -1))), [(*_lead, 3, 7, 8), (4, 3, 3, 3)],
        batched(_uneven, len(_lead)), ("f32",),
    )  # fmt: skip
for _empty in ((0, 2), (2, 0)):
    SAMPLES += sampled("convolution", f"{_empty} leading", _forward({})[0], [(*_empty, 3, 7), (4, 3, 3), (4,)],
                       lambda x, w, b: x.new_zeros(*x.shape[:2], 4, 5), ("f32",))  # fmt: skip
    SAMPLES += sampled("convolution_transpose", f"{_empty} leading", _back({})[0], [(*_empty, 3, 7), (3, 4, 3), (4,)],
                       lambda x, w, b: x.new_zeros(*x.shape[:2], 4, 9), ("f32",))  # fmt: skip
