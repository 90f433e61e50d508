"""Networks that take the size of an axis for a number, at sizes that aren't multiples of what they were captured at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Case(NamedTuple):
    """A module, the shape of what it takes, which dimension of it is open, at which sizes it is run."""

    module: nn.Module
    shape: tuple[int, ...]
    dimension: int
    sizes: Sequence[int] = (5, 12, 13, 31)

    def at(self, n: int) -> torch.Tensor:
        """An input of so many entries."""
        return torch.rand([n if i == self.dimension else m for i, m in enumerate(self.shape)])


class Of(nn.Module):
    """A function of x, and of a few layers."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.layers.values())


def _causal(x: torch.Tensor, qkv: nn.Module) -> torch.Tensor:
    return F.scaled_dot_product_attention(*qkv(x).split(8, -1), is_causal=True)


def _masked(x: torch.Tensor, qkv: nn.Module) -> torch.Tensor:
    """A mask of numbers, as language models make it."""
    q, k, v = qkv(x).split(8, -1)
    n = x.shape[1]
    mask = torch.triu(torch.full((n, n), float("-inf")), 1)
    return torch.softmax(q @ k.transpose(1, 2) + mask, -1) @ v


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions."""
    angles = torch.arange(x.shape[1])[:, None] * (10000.0 ** -(torch.arange(4) / 4))
    a, b, cos, sin = x[..., :4], x[..., 4:], angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Table(nn.Module):
    """Positions that are the first of a buffer, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(64).flip(0)[None])
        self.table = nn.Embedding(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table(self.places[:, : x.shape[1]]).exp()


def _windowed(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], x.shape[1] // 4, 4, 8).mean(2)


def _halved(x: torch.Tensor, conv: nn.Module, up: nn.Module) -> torch.Tensor:
    """Tokens of an image half as large, rounded up."""
    y = up(F.max_pool2d(F.relu(conv(x)), 3, 2, 1))
    return y.flatten(2).transpose(1, 2).reshape(y.shape[0], -1, 2, 2).softmax(1)


def _standardised(x: torch.Tensor) -> torch.Tensor:
    """Sums are divided by how many entries there are, and by one less."""
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + x.var(1, keepdim=True, unbiased=False) + 0.1)


def _cut(x: torch.Tensor) -> torch.Tensor:
    """The last entry, every second and third one, some on the other side."""
    return x[:, -1:] + torch.cat([x[:, ::2], x[:, 1::3], x.roll((1, -2), (1, 2))], 1)


def _warped(x: torch.Tensor) -> torch.Tensor:
    """Read at places that the picture says; these are of its size in halves."""
    return F.grid_sample(x, x.permute(0, 2, 3, 1) * 2 - 1, align_corners=False)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    y = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    return F.interpolate(F.interpolate(y, scale_factor=3, mode="bilinear"), scale_factor=2)


#: By name.
CASES: dict[str, Case] = {
    "causal": Case(Of(_causal, qkv=nn.Linear(8, 24)), (2, 8, 8), 1),
    "mask": Case(Of(_masked, qkv=nn.Linear(8, 24)), (2, 8, 8), 1),
    "positions": Case(Of(lambda x, t: x + t(torch.arange(x.shape[1])), t=nn.Embedding(64, 8)), (2, 8, 8), 1),
    "table": Case(Table(), (2, 10, 8), 1),
    "rotary": Case(Of(_rotated), (2, 8, 8), 1),
    "windows": Case(Of(_windowed), (2, 8, 8), 1, (4, 12, 36)),
    "strides": Case(Of(lambda x, c: c(x).flatten(1).sum(-1), c=nn.Conv1d(8, 8, 3, 2, 1)), (2, 8, 8), 2),
    "image": Case(Of(_halved, conv=nn.Conv2d(3, 8, 3, 2, 1), up=nn.ConvTranspose2d(8, 4, 2, 2)), (1, 3, 16, 8), 2,
                  (16, 17, 19, 30)),
    "patches": Case(Of(lambda x, p: p(x).flatten(2).softmax(-1), p=nn.Conv2d(3, 4, 4, 4)), (1, 3, 16, 8), 2,
                    (16, 18, 31)),
    "variance": Case(Of(_standardised), (2, 8, 4), 1),
    "groups": Case(Of(lambda x, n: n(x), n=nn.GroupNorm(2, 8)), (2, 8, 7), 2),
    "cut": Case(Of(_cut), (2, 8, 5), 1),
    "framed": Case(Of(lambda x: x.unfold(1, 3, 2).mul(2)), (2, 9, 4), 1),
    "sorted": Case(Of(lambda x: x.sort(1)[0]), (2, 8, 4), 1),
    "warped": Case(Of(_warped), (1, 2, 5, 8), 3),
    "doubled": Case(Of(_doubled), (1, 2, 5, 8), 3),
    "lengthened": Case(Of(lambda x: F.interpolate(x, scale_factor=2, mode="linear")), (2, 3, 8), 2),
}  # fmt: skip


def axis_of(dag: Any, case: Case) -> str:
    """What the open dimension is called."""
    dims = dag.graph.inputs["x"].shape
    for name in dag.open_axes.names:
        n = dag.axes().sizes[name] * 3
        try:
            shape = dag.resize(**{name: n}).graph.inputs["x"].shape
        except Exception:
            continue
        if [i for i, (a, b) in enumerate(zip(dims, shape, strict=True)) if a != b] == [case.dimension]:
            return str(name)
    raise AssertionError(f"dimension {case.dimension} isn't open: {dag.open_axes.why}")
