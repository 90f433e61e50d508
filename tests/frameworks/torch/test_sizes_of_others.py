"""Modules whose sizes are those of other values: pyramids, segmentation, tables of positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td


def same_at(module: nn.Module, example: Tensor, *shapes: tuple[int, ...]) -> nn.Module:
    """What comes back, which computes the same as a module at some shapes."""
    module = module.eval()
    back = td.from_torch(module, example).to_torch()
    for shape in shapes:
        x = torch.randn(shape)
        expected, found = module(x), back(x)
        assert expected.shape == found.shape
        torch.testing.assert_close(found, expected)
    return back


class Pyramid(nn.Module):
    """Three levels, of which each is made as large as the one before and added to it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.down = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(3))
        self.side = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for down, side in zip(self.down, self.side, strict=True):
            x = down(x).relu()
            levels.append(side(x))
        out = levels.pop()
        while levels:
            skip = levels.pop()
            out = F.interpolate(out, size=skip.shape[-2:], mode=self.mode) + skip
        return out


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 29, 45)])
def test_what_is_made_as_large_as_a_skip(mode: str, shape: tuple[int, ...]) -> None:
    back = same_at(Pyramid(mode), torch.randn(shape), (3, 3, 48, 32), (1, 3, 33, 47), (1, 3, 8, 8))
    assert set(back.fixed_axes) == {"c"}


class Halved(nn.Module):
    """An image that is halved twice, and doubled twice beside what it was: a U-Net."""

    def __init__(self, down: type[nn.Module], up: str, cat: bool) -> None:
        super().__init__()
        self.cat = cat
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.ModuleList(nn.MaxPool2d(2) if down is nn.MaxPool2d else nn.Conv2d(4, 4, 3, 2, 1) for _ in "12")
        ups = (nn.ConvTranspose2d(4, 4, 2, 2) if up == "learned" else nn.Upsample(None, 2.0, up) for _ in "12")
        self.up = nn.ModuleList(ups)
        self.mix = nn.ModuleList(nn.Conv2d(8 if cat else 4, 4, 1) for _ in "12")

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(x)
            x = down(x.relu())
        for up, mix in zip(self.up, self.mix, strict=True):
            skip = skips.pop()
            x = mix(torch.cat([skip, up(x)], 1) if self.cat else skip + up(x))
        return x


@pytest.mark.parametrize("down", [nn.MaxPool2d, nn.Conv2d])
@pytest.mark.parametrize(("up", "cat"), [("learned", True), ("nearest", True), ("bilinear", False)])
def test_what_is_halved_and_doubled_follows_where_it_can(down: type[nn.Module], up: str, cat: bool) -> None:
    module = Halved(down, up, cat)
    back = same_at(module, torch.randn(1, 3, 16, 24), (3, 3, 32, 32), (1, 3, 20, 8), (2, 3, 4, 4))
    assert set(back.fixed_axes) == {"c"}
    dag = td.from_torch(module, torch.randn(1, 3, 16, 24))
    assert dag.axes().show(dag.graph.inputs["x"]) == "f32[b c h w]"
    with pytest.raises(RuntimeError):
        module(torch.randn(1, 3, 18, 24))
    with pytest.raises(td.InputError, match=r"the dimension .* entries, which must be"):
        back(torch.randn(1, 3, 18, 24))


def test_a_size_that_is_told_in_two_ways_is_told_in_one_in_each_network() -> None:
    """Layers of equal weights' shapes, of which one network doubles a size, and the other takes that of a skip."""

    class Doubled(Pyramid):
        def forward(self, x: Tensor) -> Tensor:
            first = self.down[0](x)
            second = self.down[1](first)
            return self.side[0](first) + F.interpolate(self.side[1](second), scale_factor=2.0)

    for _ in range(2):
        same_at(Doubled("nearest"), torch.randn(1, 3, 16, 16), (1, 3, 24, 32))
        same_at(Pyramid("nearest"), torch.randn(1, 3, 16, 16), (1, 3, 17, 31))


class Segmenter(nn.Module):
    """Classes of pixels, found at half the size: nothing but the number says that the result has the image's."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.down(x), size=x.shape[-2:], mode="bilinear")


def test_what_is_made_as_large_as_the_image() -> None:
    back = same_at(Segmenter(), torch.randn(1, 3, 32, 32), (2, 3, 33, 47), (1, 3, 8, 10))
    assert set(back.fixed_axes) == {"c"}


def test_what_is_made_as_large_as_a_number_is_as_large_at_other_sizes() -> None:
    """The same network but for the number, which doesn't follow: the source says so where it isn't the image's size."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Upsample(size=(32, 32)))
    back = same_at(module, torch.randn(1, 3, 32, 32), (1, 3, 32, 32), (2, 3, 40, 32), (3, 3, 64, 48), (1, 3, 9, 7))
    assert set(back.fixed_axes) == {"c"}
    for size in (8, (8, 5), (4, 16)):
        module = nn.Upsample(size=size, mode="bilinear")
        back = same_at(module, torch.randn(2, 3, 8, 8), (2, 3, 8, 8), (1, 2, 16, 4), (3, 3, 5, 9))
        assert not back.fixed_axes


class OtherAtEight(nn.Module):
    """It does another thing where there are 8 rows, which nobody sees it ask."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(8, 8)) * (2 if int(np.int64(x.shape[2])) == 8 else 3)


def test_what_the_source_does_at_other_sizes_alone_isnt_taken() -> None:
    back = same_at(OtherAtEight(), torch.randn(2, 3, 8, 6), (3, 2, 8, 6))
    assert any("is interpolated to 8 entries" in why for why in back.fixed_axes.values())


@pytest.mark.parametrize("first", [True, False])
def test_a_batch_of_one_that_goes_into_the_dimension_beside_it(first: bool) -> None:
    """Attention with weights makes rows of batch and heads, and again rows of tokens and batch."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=first)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    shapes = ((1, 6, 16), (3, 5, 16), (7, 1, 16), (1, 1, 16))
    back = same_at(module, torch.randn(1, 6, 16) if first else torch.randn(6, 1, 16), *shapes)
    assert set(back.fixed_axes.values()) == {"layers.0.self_attn.in_proj_weight has its size"}
    assert type(back.layers[0].linear1) is nn.Linear
    assert back.state_dict().keys() == module.state_dict().keys()


class Positions(nn.Module):
    """The first rows of a table, as many as there are tokens; ``counted``: picked by numbers that count on."""

    def __init__(self, rows: int, counted: bool) -> None:
        super().__init__()
        self.counted = counted
        self.table = nn.Embedding(rows, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return x + (self.table(torch.arange(n)) if self.counted else self.table.weight[:n])


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("rows", "n"), [(16, 12), (16, 15), (10, 5), (600, 400)])
def test_rows_of_a_table_follow_as_far_as_it_goes(counted: bool, rows: int, n: int) -> None:
    """More than half of the rows, half of them (which is no chunk of the table), all but one."""
    back = same_at(Positions(rows, counted), torch.randn(2, n, 4), (3, 2, 4), (1, rows, 4), (1, n - 1, 4))
    with pytest.raises(td.InputError, match=f"{rows} at most are there for"):
        back(torch.randn(1, rows + 1, 4))


def test_chunks_of_a_weight_are_no_positions() -> None:
    """Three slices of one weight, the first of which begins at its start."""

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(12, 4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (F.linear(x, self.weight[i : i + 4]) for i in (0, 4, 8))
            return (q @ k.mT).softmax(-1) @ v

    same_at(Packed(), torch.randn(2, 6, 4), (1, 3, 4), (3, 9, 4))


def _zeros(x: Tensor) -> Tensor:
    return x + 0


@pytest.mark.parametrize("function", [_zeros, lambda x: x * 1])
def test_arithmetic_that_does_nothing_leaves_sizes_open(function: Callable[[Tensor], Tensor]) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    assert not same_at(Plain(), torch.randn(2, 5, 4), (1, 3, 2), (3, 7, 5)).fixed_axes
