"""Refusals of what can't be captured say which line of the user's stops it, and what to write instead."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import tdagger as td

X = torch.rand(3, 4) + 0.1


def _while(x):
    while x.sum() > 1:
        x = x / 2
    return x


def _range(x):
    for _ in range(int(x[0, 0] * 3)):
        x = x + 1
    return x


def _any(x):
    if (x > 0).any() and x.max() < 1:
        x = x * 2
    return x


class _Sub(torch.Tensor):
    pass


@torch.library.custom_op("tdagger_tests::without_a_shape", mutates_args=())
def without_a_shape(x: torch.Tensor) -> torch.Tensor:
    return x * 2


BRANCH, LOOP = "it decides by the data what to do next", "the number of turns of a loop depends on the data"
NUMBER = "it makes a Python number of data"
REFUSED = [
    (lambda x: x if x.sum() > 0 else -x, BRANCH, "torch.where"),
    (_any, BRANCH, "torch.cond"),
    (lambda x: torch.stack(sorted([x.sum(), x.max()])), BRANCH, "torch.where"),
    (_while, LOOP, "torch.where"),
    (_range, LOOP, "torch.where"),
    (lambda x: x / float(x.max()), NUMBER, "Keep it a tensor"),
    (lambda x: x[: int(x.sum())], NUMBER, "Keep it a tensor"),
    (lambda x: [x, x * 2][x.argmax()], NUMBER, "Keep it a tensor"),
    (lambda x: f"{x.max().item():.3f}" and x, "it writes data into a text", "is_compiling"),
    (lambda x: f"{x.max():.3f}" and x, "it writes data into a text", "is_compiling"),
    (lambda x: torch.from_numpy(x.numpy() * 2), "it takes data out of torch", "with torch"),
    (lambda x: torch.tensor(np.sin(x)), "it takes data out of torch", "with torch"),
    (lambda x: x * x.data_ptr(), "it hands a tensor's memory to code", "custom_op"),
    (lambda x: copy.deepcopy(x * 2), "copy.deepcopy", "clone"),
    (lambda x: x.as_subclass(_Sub) * 2, "it makes a tensor of a class of its own", "plain tensors"),
    (without_a_shape, "it calls an op that torch can't run without data", "register_fake"),
]


class Of(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_stops_a_capture(case: int) -> None:
    function, what, advice = REFUSED[case]
    with pytest.raises(td.UnsupportedError) as e:
        td.from_torch(Of(function), X)
    text = str(e.value)
    first, second = text.split("\n")
    assert first.startswith(f"torch.export can't capture Of: {what}" if what[:2] in ("it", "th") else "torch.export")
    assert what in first
    assert f" (at {__file__}:" in first
    assert advice in second
    for word in ("Guard", "u0", "zuf0", "aten.", "Could not", "FakeTensor"):
        assert word not in text


def test_what_a_library_decides_by_data_is_said_to_be_in_a_module() -> None:
    """Nobody rewrites the library."""

    class Picks(nn.Module):
        def forward(self, boxes: torch.Tensor) -> torch.Tensor:
            boxes = boxes[boxes[:, 0] > 0.5]
            return boxes[torchvision.ops.batched_nms(boxes, boxes[:, 0], boxes[:, 1], 0.5)]

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.picks = Picks()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.picks(x.cumsum(1))

    with pytest.raises(td.UnsupportedError, match="by themselves the modules that Picks calls before that"):
        td.from_torch(Detector(), X)


def test_what_fails_for_another_reason_says_it_and_its_line() -> None:
    with pytest.raises(td.UnsupportedError, match=r"can't capture Of: KeyError: 'a' \(at .*test_refusals.py:\d+: "):
        td.from_torch(Of(lambda x: {}["a"]), X)


@pytest.mark.parametrize(
    "write", [lambda x: x.view(torch.int32).add_(1), lambda x: (x > 0).fill_(True)], ids=["view", "bools"]
)
def test_writes_that_a_trace_has_no_record_of(write: Any) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            return write(x) + x

    with pytest.raises(td.UnsupportedError, match=r"torch.jit.trace can't record[^$]*via='export'") as refused:
        td.from_torch(Model(), X, via="trace")
    assert "INTERNAL ASSERT" not in str(refused.value)
    assert torch.equal(td.from_torch(Model(), X).to_torch()(X), Model()(X))
