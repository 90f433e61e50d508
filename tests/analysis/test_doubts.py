"""Numbers in a graph that may have been computed from a size: without a source these are not known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td


class Fn(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def alone(function: Callable[[Tensor], Any], shape: tuple[int, ...]) -> td.TensorDAG:
    """A program of fixed sizes, of which nobody can be asked."""
    return td.from_torch(torch.export.export(Fn(function), (torch.randn(shape),)))


def strided(to: Tensor, rest: Tensor, step: int) -> Tensor:
    to[::step] = rest[::step]
    return to


def added(to: Tensor, rest: Tensor) -> Tensor:
    to[1:] += rest
    return to


#: What a program does with the size of its first dimension, and the sizes of its example.
FIRST = {
    "minus 1": (lambda x: x - x.shape[0], (1, 3)),
    "minus 2": (lambda x: x - x.shape[0], (2, 3)),
    "by 1": (lambda x: x / x.shape[0], (1, 3)),
    "by half": (lambda x: x * (x.shape[0] // 2), (2, 3)),
    "by half of 1": (lambda x: x * (x.shape[0] // 2), (1, 3)),
    "a tensor of it": (lambda x: x * torch.tensor(x.shape[0]), (1, 3)),
    "a sum by all but one": (lambda x: x.sum(0) / (x.shape[0] - 1), (3, 4)),
    "by all entries": (lambda x: x / x.numel(), (3, 7, 5)),
    "by some entries": (lambda x: x / (x.shape[0] * x.shape[2]), (3, 7, 5)),
    "by some entries, a batch of 1": (lambda x: x / (x.shape[0] * x.shape[2]), (1, 7, 5)),
    "the logarithm of one more": (lambda x: x * math.log(x.shape[0] + 1), (5, 3)),
    "the logarithm of 2": (lambda x: x * math.log(x.shape[0] + 1), (1, 3)),
    "linspace of 1": (lambda x: x * torch.linspace(-1, 1, x.shape[0])[:, None], (1, 3)),
    "arange of 1": (lambda x: x * torch.arange(0, 2 * x.shape[0], 2)[:, None], (1, 3)),
    "an index of 1": (lambda x: x[:, torch.arange(x.shape[0] - 1, -1, -1)], (1, 3)),
    "classes of 1": (lambda x: (x, F.one_hot(torch.arange(x.shape[0]), x.shape[0])), (1, 3)),
    "the only entry": (lambda x: x[0].tanh(), (1, 3)),
    "rolled by half of 2": (lambda x: x.roll(x.shape[0] // 2, 0), (2, 3)),
    "the second half, rounded up": (lambda x: x[-x.shape[0] // 2 :], (7, 3)),
    "split by half": (lambda x: torch.cat(x.split(x.shape[0] // 2)[:2]), (5, 3)),
    "another axis up to it": (lambda x: x[:, : x.shape[0] - 1], (5, 9)),
    "a square turned": (lambda x: x.transpose(0, 2).reshape(x.shape), (2, 3, 2)),
    "across axes": (lambda x: x.transpose(0, 1).reshape(x.shape), (2, 3)),
    "all of it as a number": (lambda x: x[:3] + 1.5, (3, 4)),
    "2 or the first size": (lambda x: x.reshape(2, -1), (2, 3, 5)),
    "padded to a multiple": (lambda x: F.pad(x, (0, 0, 0, -x.shape[0] % 4)), (4, 3)),
    "rolled by all": (lambda x: x.roll(x.shape[0], 0), (5, 3)),
    "interpolated to it": (lambda x: F.interpolate(F.avg_pool1d(x.T[None], 2), size=x.shape[:1]), (6, 3)),
    "pooled to half": (lambda x: F.adaptive_avg_pool1d(x.T[None], x.shape[0] // 2), (2, 3)),
    "nothing is written": (lambda x: torch.slice_scatter(x.chunk(3)[1] * 0, x.chunk(3)[1][1:], 0, 1), (3, 4)),
    "half of 6 in bfloat16": (lambda x: x.bfloat16() * (x.shape[0] // 2), (6, 3)),
    "by 1 in bfloat16": (lambda x: x.bfloat16() / math.sqrt(x.shape[0]), (1, 4)),
    "by the root of a tensor of 1": (lambda x: x / torch.tensor(x.shape[0], dtype=torch.float32).sqrt(), (1, 2)),
    "padded on one side to a multiple": (lambda x: F.pad(x, (0, 0, 0, -x.shape[0] % 4)), (7, 3)),
    "padded to at least 8": (lambda x: F.pad(x, (0, 0, max(0, 8 - x.shape[0]), 0)), (6, 3)),
    "a part of one rolled by half": (lambda x: x.chunk(2)[1].roll(x.chunk(2)[1].shape[0] // 2, 0), (3,)),
    "an axis of 1 turned": (lambda x: x.transpose(0, 1).reshape(x.shape), (1, 4, 6, 3)),
    "sizes in another order": (lambda x: x.permute(2, 1, 0).reshape(x.shape), (2, 3, 6)),
    "equal sizes where a 1 moves": (lambda x: x[None].transpose(0, 2).reshape(1, *x.shape), (3, 3)),
    "an axis of 1 in none of 2": (lambda x: x.reshape(2, -1), (1, 4, 5)),
    "the last one in a list": (lambda x: F.embedding(torch.tensor([0, x.shape[0] - 1]), x.flatten(0, 1)), (2, 2, 4)),
    "every second of 2": (lambda x: torch.take(x, torch.arange(0, x.shape[0], 2)), (2, 3)),
    "windows of half of 4": (lambda x: F.avg_pool1d(x.T[None], x.shape[0] // 2), (4, 3)),
    "folded to all of it": (
        lambda x: F.fold(F.unfold(x.T[None, :, None], (1, 2), stride=2), (1, x.shape[0]), (1, 2), stride=2), (6, 3)),
    "back from half a spectrum": (lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=0), n=x.shape[0], dim=0), (6, 3)),
    "classes of 1 of others": (lambda x: F.one_hot(x.argmax(0), x.shape[0]), (1, 3)),
    "nothing added to zeros": (lambda x: added(torch.zeros(x.shape), x[1:].exp()), (1, 3)),
    "what is written over": (lambda x: (x[1::2].T + 0).copy_(x.T.sum(0)[:1]), (2, 3)),
    "filled": (lambda x: F.avg_pool1d(x.T[None], 3, 2, 1).fill_(torch.tensor(1.5).detach()), (6, 3)),
    "zeros of twice": (lambda x: torch.zeros(2 * x.shape[0]), (4, 3)),
    "another axis from half of it": (lambda x: x[:, -(x.shape[0] // 2) :], (7, 9)),
    "taken from the second on": (lambda x: torch.take(x, torch.arange(x.shape[0])[1:]), (7,)),
    "zeros with thirds of others": (lambda x: strided(torch.zeros_like(x), x, 3), (7,)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_what_may_be_made_of_a_size_is_not_known(name: str) -> None:
    function, shape = FIRST[name]
    dag = alone(function, shape)
    for n in (shape[0] + 1, 2 * shape[0]):
        with pytest.raises(td.AxisError, match=r"not known|can't follow|would need|are needed"):
            dag.resize({"x": (n, *shape[1:])})


#: What stays free without a source: the batch, or height and width.
FREE = {
    "a classifier": (
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(-1)),
        (1, 3, 16, 16), {(2, 3, 16, 16), (3, 3, 32, 24)},
    ),
    "an encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 6, 8), {(4, 6, 8), (2, 9, 8)}),
    "a recurrent one": (nn.GRU(4, 5, batch_first=True), (1, 6, 4), {(3, 6, 4), (1, 8, 4)}),
    "activations": (nn.Sequential(nn.GELU("tanh"), nn.SiLU(), nn.Hardswish(), nn.LayerNorm(4)), (1, 2, 4), {(5, 7, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_what_no_number_stands_for_stays_free(name: str) -> None:
    model, shape, others = FREE[name]
    dag = td.from_torch(torch.export.export(model.eval(), (torch.randn(shape),)))
    for other in others:
        resized = dag.resize({next(iter(dag.graph.inputs)): other}).to_torch()
        x = torch.randn(other)
        ours, eager = resized(x), model(x)
        for a, b in zip(*[t if isinstance(t, tuple) else (t,) for t in (ours, eager)], strict=True):
            torch.testing.assert_close(a, b)


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:1, 1:]


class Last(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x.size(0) - 1 :, ::2]


class Alone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x.size(0) // 2 :]


class Written(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2.5
        y[x.size(0) // 2 :] = 0
        return y


@pytest.mark.parametrize("kind", [First, Last, Alone, Written])
def test_slices_that_torch_leaves_out_show_in_their_line(kind: type[nn.Module]) -> None:
    dag = td.from_torch(torch.export.export(kind(), (torch.randn(1, 5),)))
    assert "b" in dag.resizable_axes().unknown
    with pytest.raises(td.AxisError, match="leaves out a slice"):
        dag.resize(b=2)


class Second(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


def written(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(y.size(0), -1)[:, 0] = 2
    return y


#: What follows, and didn't: an axis of 1 entry in another's place.
FOLLOW = {
    "a slice of the second": (Second(), (1, 5), (2, 5)),
    "inner": (Fn(lambda x: torch.inner(x, x)), (2, 3, 1), (2, 3, 2)),
    "tensordot": (Fn(lambda x: torch.tensordot(x, x, dims=([0], [0]))), (1, 4), (3, 4)),
    "rows of an axis of 1": (Fn(lambda x: x.reshape(-1, x.shape[-1])), (4, 1, 5), (4, 3, 5)),
    "one entry written": (Fn(written), (1, 3), (2, 3)),
}


@pytest.mark.parametrize("name", FOLLOW)
def test_an_axis_of_1_follows(name: str) -> None:
    model, shape, other = FOLLOW[name]
    dag = td.from_torch(torch.export.export(model, (torch.randn(shape),)))
    x = torch.randn(other)
    torch.testing.assert_close(dag.resize({"x": other}).to_torch()(x), model(x))


def picked(x: Tensor) -> Tensor:
    y = x.gather(0, torch.arange(x.size(0)).flip(0))
    y[::2] = 0.3
    return y


@pytest.mark.parametrize("n", [2, 7])
def test_a_count_of_numbers_alone_ties_nothing(n: int) -> None:
    dag = alone(picked, (n,))
    with pytest.raises(td.AxisError, match="nothing ties"):
        dag.resize({"x": (n + 1,)})


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 4)])
def test_strides_as_numbers_tell_equal_sizes_from_nothing(shape: tuple[int, ...]) -> None:
    dag = alone(lambda x: (x * 2.5).as_strided(x.size(), x.stride()), shape)
    with pytest.raises(td.AxisError):
        dag.resize({"x": (shape[0] + 1, *shape[1:2], shape[2] + 1)})


def test_what_was_left_out_is_told_with_its_place() -> None:
    dag = alone(lambda x: x[:3] * 2.5, (3, 4))
    assert "is sliced up to 3, which are all at 3" in dag.resizable_axes().unknown["b"]
    assert dag.left_out[0].dimensions == (0,)
    again = td.from_torch(Fn(lambda x: x[:3] * 2.5), torch.randn(3, 4))
    with pytest.raises(td.AxisError):
        alone(lambda x: x[:3] * 2.5, (3, 4)).resize(b=5)
    assert again.resize(b=5).graph.outputs["out"].shape == (3, 4)


def test_what_was_left_out_is_copied_with_the_network() -> None:
    dag = alone(lambda x: F.pad(x, (0, 0, 0, -x.shape[0] % 3)) * 2.5, (3, 4))
    for other in (copy.deepcopy(dag), dag.with_axes("n c")):
        with pytest.raises(td.AxisError, match="padded by"):
            other.resize({"x": (4, 4)})


def test_scales_that_were_measured_are_not_made_of_sizes() -> None:
    x = td.input("x", (8, 4))
    scale, zero = td.const(1 / 8, "f32"), td.const(8, "u8")
    y = td.dequantize(td.quantize(td.relu(x), scale, zero, to="u8"), scale, zero)
    larger = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y})).resize({"x": (12, 4)})
    assert larger.graph.outputs["y"].shape == (12, 4)
    with pytest.raises(td.AxisError, match="1 / 8"):
        td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.relu(x) * scale})).resize({"x": (12, 4)})
