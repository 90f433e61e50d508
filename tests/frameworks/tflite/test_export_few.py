"""How few operators a network is as TFLite: what is fused, shared, and written by an operator of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tests.frameworks.tflite.litert import counts
from tests.frameworks.tflite.test_export import same
from tests.networks import Fn


@pytest.mark.parametrize(
    ("function", "operators"),
    [
        (lambda x: x * 2.0 + torch.ones(4), {"MUL": 1, "ADD": 1}),
        (lambda x: F.relu(x + 1.0), {"ADD": 1}),
        (lambda x: F.relu6(x * 3.0), {"MUL": 1}),
        (lambda x: torch.tanh(x + 1.0), {"ADD": 1, "TANH": 1}),
        (lambda x: x.clamp(0, 6), {"RELU6": 1}),
        (lambda x: x.sum(1), {"SUM": 1}),
        (lambda x: x.mean((0, 2)), {"MEAN": 1}),
        (lambda x: x[:, 1:3, ::2], {"STRIDED_SLICE": 1}),
        (lambda x: x.flip(1), {"REVERSE_V2": 1}),
        (lambda x: x.transpose(0, 1).transpose(1, 2), {"TRANSPOSE": 1}),
        (lambda x: x[None].transpose(0, 1), {"RESHAPE": 1}),
        (lambda x: x.reshape(6, 4).reshape(2, 12), {"RESHAPE": 1}),
        (lambda x: F.pad(x, (1, 2)), {"PAD": 1}),
        (lambda x: F.pad(x, (1, 2), value=-1.0), {"PADV2": 1}),
        (lambda x: F.silu(x), {"LOGISTIC": 1, "MUL": 1}),
        (lambda x: F.gelu(x), {"GELU": 1}),
        (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), {"GELU": 1}),
        (
            lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
            {"GELU": 1},
        ),
        (lambda x: x.softmax(-1), {"SOFTMAX": 1}),
        (lambda x: x.softmax(0), {"TRANSPOSE": 2, "SOFTMAX": 1}),
        (lambda x: torch.where(x > 0.5, x, 0.0), {"GREATER": 1, "SELECT_V2": 1}),
        (
            lambda x: torch.where((x > 0.2) & (x < 0.5), x, 0.0),
            {"GREATER": 1, "LESS": 1, "LOGICAL_AND": 1, "SELECT_V2": 1},
        ),
        (
            lambda x: torch.where((x > 0.8) | (x < 0.5), x, 0.0),
            {"GREATER": 1, "LESS": 1, "LOGICAL_OR": 1, "SELECT_V2": 1},
        ),
        (lambda x: x.cumsum(1), {"CUMSUM": 1}),
        (lambda x: x.topk(2, -1)[0], {"TOPK_V2": 1}),
        (lambda x: x @ torch.ones(4, 5), {"FULLY_CONNECTED": 1}),
        (lambda x: x @ x.transpose(1, 2), {"BATCH_MATMUL": 1}),
        (lambda x: torch.einsum("bsd,btd->bst", x, x), {"BATCH_MATMUL": 1}),
        (lambda x: x.index_select(1, torch.tensor([2, 0])), {"GATHER": 1}),
        (lambda x: x.atan2(x + 1), {"ADD": 1, "ATAN2": 1}),
    ],
)
def test_as_few_operators_as_there_are(function: Any, operators: dict[str, int]) -> None:
    assert counts(same(Fn(function), torch.rand(2, 3, 4))) == operators


def test_a_constant_added_to_channels_is_part_of_the_bias() -> None:
    conv = nn.Conv2d(3, 4, 1)
    moved = Fn(lambda x: F.relu6(conv(x) + 3.0) / 6.0)
    assert counts(same(moved.eval(), torch.rand(1, 3, 5, 5))) == {"TRANSPOSE": 2, "CONV_2D": 1, "DIV": 1}
    several = torch.rand(4, 1, 1)
    assert counts(same(Fn(lambda x: conv(x) + several).eval(), torch.rand(1, 3, 5, 5))) == {
        "TRANSPOSE": 2, "CONV_2D": 1,
    }  # fmt: skip
    whole = torch.rand(4, 5, 5)
    assert "ADD" in counts(same(Fn(lambda x: conv(x) + whole).eval(), torch.rand(1, 3, 5, 5)))
    twice = Fn(lambda x: (conv(x) + 1.0) * conv(x))
    assert "ADD" in counts(same(twice.eval(), torch.rand(1, 3, 5, 5)))


def test_what_is_laid_end_to_end_twice_is_laid_at_once() -> None:
    def nested(x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x)
        return torch.cat([x, torch.cat([y, torch.cat([x, y], 1)], 1), torch.cat([x, y], 0).reshape(2, 6)], 1)

    assert counts(same(Fn(nested), torch.rand(2, 3))) == {"TANH": 1, "CONCATENATION": 2, "RESHAPE": 1}
    both = Fn(lambda x: (y := torch.cat([x, torch.tanh(x)], 1), torch.cat([y, x], 1)))
    assert counts(same(both, torch.rand(2, 3)))["CONCATENATION"] == 2


NORM = {"MEAN": 2, "SUB": 1, "SQUARE": 1, "RSQRT": 1, "ADD": 2, "MUL": 2}


@pytest.mark.parametrize(
    ("module", "operators"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8)), {"CONV_2D": 1, "TRANSPOSE": 2, **NORM}),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), {"CONV_2D": 1, "TRANSPOSE": 2, "RESHAPE": 2, **NORM}),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2)), {"CONV_2D": 1, "TRANSPOSE": 3, "RESHAPE": 2}),
        (nn.GroupNorm(3, 3), {"RESHAPE": 2, **NORM}),
        (nn.InstanceNorm2d(3, affine=True), {"RESHAPE": 2, **NORM}),
        (nn.Unfold((3, 1), padding=(1, 0)), {"PAD": 1, "GATHER": 1, "RESHAPE": 2, "TRANSPOSE": 1}),
    ],
    ids=str,
)
def test_what_images_have_no_operator_for(module: nn.Module, operators: dict[str, int]) -> None:
    """Its own identities are taken, with channels last where a convolution is before it."""
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.uniform_(p, 0.1, 0.9)
    assert counts(same(module, torch.rand(2, 3, 8, 8))) == operators


@pytest.mark.parametrize(
    ("module", "operators"),
    [
        (nn.AvgPool2d(2), {"TRANSPOSE": 2, "AVERAGE_POOL_2D": 1}),
        (nn.MaxPool2d(3, 2, 1), {"TRANSPOSE": 2, "PADV2": 1, "MAX_POOL_2D": 1}),
        (nn.Upsample(scale_factor=2, mode="bilinear"), {"TRANSPOSE": 2, "RESIZE_BILINEAR": 1}),
        (nn.AdaptiveAvgPool2d(4), {"TRANSPOSE": 2, "AVERAGE_POOL_2D": 1}),
        (nn.AdaptiveAvgPool2d(1), {"MEAN": 1}),
        (nn.AdaptiveMaxPool2d(1), {"REDUCE_MAX": 1}),
        (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)), {"TRANSPOSE": 2, "MAX_POOL_2D": 1, "CONV_2D": 1}),
    ],
    ids=str,
)
def test_images_without_a_convolution(module: nn.Module, operators: dict[str, int]) -> None:
    """Or before it: their channels are last for pools and sizes too."""
    assert counts(same(module, torch.rand(2, 3, 8, 8))) == operators


def test_what_several_layers_pad_alike_is_padded_once() -> None:
    """As in HRNet, whose images go to several convolutions with strides; another pad is another operator."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 4, k, stride=2, padding=p) for k, p in ((3, 1), (3, 1), (5, 2)))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple([layer(x) for layer in self.layers])

    found = counts(same(Branches().eval(), torch.rand(1, 3, 8, 8)))
    assert (found["CONV_2D"], found["PAD"]) == (3, 2)
    td.from_torch(Branches().eval(), torch.rand(2, 3, 8, 8)).to_tflite(dynamic=("b",))


def test_a_number_before_a_convolution_is_part_of_its_weights() -> None:
    """Where nothing else takes the product, and the number can be divided by."""
    conv, deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 3, 3, groups=3)
    x = torch.rand(1, 3, 5, 5)
    assert "MUL" not in counts(same(Fn(lambda x: deep(torch.tanh(x) * 1.5)).eval(), x))
    assert "MUL" not in counts(same(Fn(lambda x: conv(torch.tanh(x) * 1.5)).eval(), x))
    assert "MUL" in counts(same(Fn(lambda x: conv(torch.tanh(x) * 0.0)).eval(), x))
    assert "MUL" in counts(same(Fn(lambda x: conv(y := torch.tanh(x) * 1.5).sum() + y).eval(), x))
    assert "MUL" in counts(same(Fn(lambda x: conv(torch.tanh(x) * 1.5) + conv(x)).eval(), x))


def test_a_scale_of_channels_is_part_of_the_weights() -> None:
    """Also where the layer's result has another shape, as of a batch norm of tokens."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.twice = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(3, 4)
            self.depth = nn.Conv2d(4, 8, 3, groups=4)
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.norm(self.fc(x).flatten(0, 1)).reshape(2, 5, 4)
            image = y.transpose(1, 2)[:, :, None].expand(2, 4, 3, 5)
            return F.relu(self.depth(image) * 1.5 + 0.25), self.twice(x) * 2.0 + self.twice(x)

    found = counts(same(Norm().eval(), torch.rand(2, 5, 3)))
    assert (found.get("MUL"), found["ADD"]) == (1, 1)  # what two take stays
