"""Small networks that are hard for axes: each without its batch, and at other sizes, against the module itself."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tdagger as td


class FusedQkv(nn.Module):
    """Attention whose q, k and v come out of one linear."""

    def __init__(self, d=12, heads=3):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) / math.sqrt(d // self.heads)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class SwiGlu(nn.Module):
    """Two halves of one linear, by chunk; then two unequal parts, by split."""

    def __init__(self, d=6, wide=10):
        super().__init__()
        self.up, self.down, self.three = nn.Linear(d, 2 * wide), nn.Linear(wide, d), nn.Linear(d, 9)

    def forward(self, x):
        gate, up = self.up(x).chunk(2, -1)
        a, b = self.three(self.down(F.silu(gate) * up)).split([6, 3], -1)
        return torch.cat([b.exp(), a], -1) + x.mean(-1, keepdim=True)


class Shuffle(nn.Module):
    """A channel shuffle between grouped convolutions."""

    def __init__(self, c=12, groups=3):
        super().__init__()
        self.groups = groups
        self.a, self.b = nn.Conv2d(c, c, 1, groups=groups), nn.Conv2d(c, c, 3, 1, 1, groups=c)

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.a(x).view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.b(y)


class Across(nn.Module):
    """Branches end to end, then a slice that starts in one and ends in the next."""

    def __init__(self, c=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(c, 6, 1), nn.Conv2d(c, 8, 3, 1, 1)

    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], 1)
        return torch.cat([y[:, 4:10], y[:, :3], y[:, 6:]], 1)


class Rolled(nn.Module):
    """A roll by slices and concat, and one by the op."""

    def forward(self, x):
        y = torch.cat([x[:, 3:], x[:, :3]], 1)
        y = torch.cat([y[..., -1:], y[..., :-1]], -1)
        return torch.roll(y, (1, -2), (1, 2)) + x


class Flat(nn.Module):
    """Convolutions flattened before a linear."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 3 * 3, 5)

    def forward(self, x):
        return self.fc(torch.flatten(F.max_pool2d(self.conv(x).relu(), 2), 1))


class Flattened(nn.Module):
    """A flatten after a pool to a fixed size: any h and w."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 2 * 2, 5)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.conv(x).relu(), 2), 1))


class PixelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 12, 3, 1, 1), nn.Conv2d(12, 3, 1)

    def forward(self, x):
        return self.b(F.pixel_unshuffle(F.pixel_shuffle(self.a(x), 2), 2))


class Grouped(nn.Module):
    """Grouped, depthwise (with a multiplier), dilated and transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.b = nn.Conv2d(8, 16, 3, 2, 1, groups=8)
        self.c = nn.Conv2d(16, 6, 3, dilation=2, padding=2)
        self.d = nn.ConvTranspose2d(6, 4, 2, 2, groups=2)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu())))


class Pointwise(nn.Module):
    """Depthwise with one channel in every group of a network with one channel."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 5, 3, padding=1), nn.Conv1d(5, 5, 3, padding=1, groups=5)

    def forward(self, x):
        return self.b(self.a(x))


class GroupedQuery(nn.Module):
    """Attention whose kv heads are repeated, by repeat_interleave or by expand; causal or not."""

    def __init__(self, d=16, heads=4, kv=2, expand=False, causal=False):
        super().__init__()
        self.heads, self.kv, self.expand, self.causal = heads, kv, expand, causal
        self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, d // heads * kv), nn.Linear(d, d // heads * kv)

    def _more(self, x):
        if not self.expand:
            return x.repeat_interleave(self.heads // self.kv, 1)
        b, kv, n, d = x.shape
        return x[:, :, None].expand(b, kv, self.heads // kv, n, d).reshape(b, self.heads, n, d)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = (f(x).view(b, n, -1, d // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, self._more(k), self._more(v), is_causal=self.causal)
        return y.transpose(1, 2).reshape(b, n, d)


class Einsum(nn.Module):
    """Attention in einsums."""

    def __init__(self, d=8, heads=2):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, heads, d, d // heads) / 3)
        self.out = nn.Parameter(torch.randn(heads, d // heads, d) / 3)

    def forward(self, x):
        q, k, v = torch.einsum("bnd,thde->tbhne", x, self.w)
        attention = torch.einsum("bhie,bhje->bhij", q, k).softmax(-1)
        return torch.einsum("bhij,bhje,hed->bid", attention, v, self.out)


def relative(n):
    """The entry of a table for every pair of places of an n x n window."""
    places = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")).flatten(1)
    apart = (places[:, :, None] - places[:, None]).permute(1, 2, 0) + n - 1
    return apart[..., 0] * (2 * n - 1) + apart[..., 1]


class RelativePositions(nn.Module):
    """Attention over the places of a window, with a bias gathered by how far they are apart."""

    def __init__(self, n=3, heads=2, d=8):
        super().__init__()
        self.n, self.heads = n, heads
        self.qkv = nn.Linear(d, 3 * d)
        self.table = nn.Parameter(torch.randn((2 * n - 1) ** 2, heads))
        self.register_buffer("index", relative(n))

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        y = (q @ k.transpose(-2, -1) + bias[None]).softmax(-1) @ v
        return y.transpose(1, 2).reshape(b, n, d)


class SqueezeExcite(nn.Module):
    def __init__(self, c=6):
        super().__init__()
        self.a, self.b = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)
        self.c, self.d = nn.Linear(c, 2), nn.Linear(2, c)

    def forward(self, x):
        x = x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        gate = self.d(self.c(F.adaptive_avg_pool2d(x, 1).flatten(1)).relu()).sigmoid()
        return x * gate[:, :, None, None]


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.net = kind(4, 5, **options)

    def forward(self, x):
        return self.net(x)[0]


class Sums(nn.Module):
    """Cumulative sums along the sequence and the channels, and a maximum so far."""

    def forward(self, x):
        return x.cumsum(1) + x.cumsum(2).flip(2) + x.cummax(1).values


class Sorted(nn.Module):
    """Sorts along the sequence and the channels, and a gather by the order found."""

    def forward(self, x):
        order = x.argsort(1)
        best, at = x.topk(2, -1)
        return x.gather(1, order) + x.sort(-1, descending=True).values, best, at, order


class Windows(nn.Module):
    """Attention in windows of an image padded to whole windows, as Swin and SAM have it; shifted or not."""

    def __init__(self, d=6, window=3, shift=0):
        super().__init__()
        self.window, self.shift = window, shift
        self.mix = nn.Linear(window * window, window * window)
        self.qkv = nn.Linear(d, 3 * d)

    def forward(self, x):
        b, h, w, d = x.shape
        n = self.window
        down, right = -h % n, -w % n
        x = F.pad(x, (0, 0, 0, right, 0, down))
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        tall, wide = h + down, w + right
        parts = x.view(b, tall // n, n, wide // n, n, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, n * n, d)
        q, k, v = self.qkv(parts).chunk(3, -1)
        y = (q @ k.transpose(1, 2)).softmax(-1) @ v
        y = self.mix(y.transpose(1, 2)).transpose(1, 2)
        y = y.view(b, tall // n, wide // n, n, n, d).permute(0, 1, 3, 2, 4, 5).reshape(b, tall, wide, d)
        y = torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y
        return y[:, :h, :w]


class Tokens(nn.Module):
    """Patches with a class token before them, as a ViT has it; the class token is what comes out."""

    def __init__(self, d=8):
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, d, 2, 2), nn.Parameter(torch.randn(1, 1, d))
        self.block, self.head = FusedQkv(d, 2), nn.Linear(d, 4)

    def forward(self, x):
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = self.block(torch.cat([self.token.expand(len(y), -1, -1), y], 1))
        return self.head(y[:, 0]), y[:, 1:].mean(1)


class Case(NamedTuple):
    module: Any
    shape: tuple[int, ...]
    """Of an input of batch 1."""
    batch: int = 0
    """Which dimension of the input is the batch."""
    out: int = 0
    """And of the outputs."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """Other shapes of an input of batch 1 that the module takes."""


IMAGE = ((1, 3, 17, 9), (1, 3, 8, 30))

CASES = {
    "fused_qkv": Case(FusedQkv(), (1, 5, 12), sizes=((1, 9, 12), (1, 2, 12))),
    "swiglu": Case(SwiGlu(), (1, 4, 6), sizes=((1, 7, 6),)),
    "channel_shuffle": Case(Shuffle(), (1, 12, 5, 4), sizes=((1, 12, 9, 3),)),
    "slice_across_branches": Case(Across(), (1, 4, 5, 3), sizes=((1, 4, 2, 8),)),
    "roll": Case(Rolled(), (1, 7, 5), sizes=((1, 9, 4),)),
    "flatten_linear": Case(Flat(), (1, 3, 12, 12)),
    "pool_flatten_linear": Case(Flattened(), (1, 3, 12, 12), sizes=((1, 3, 16, 8), (1, 3, 40, 20))),
    "pixel_shuffle": Case(PixelShuffle(), (1, 2, 4, 5), sizes=((1, 2, 7, 3),)),
    "grouped_convolutions": Case(Grouped(), (1, 4, 8, 8), sizes=((1, 4, 6, 12), (1, 4, 7, 9))),
    "depthwise_of_one": Case(Pointwise(), (1, 1, 9), sizes=((1, 1, 4),)),
    "repeat_interleave_heads": Case(GroupedQuery(), (1, 5, 16), sizes=((1, 8, 16),)),
    "expanded_heads": Case(GroupedQuery(expand=True), (1, 5, 16), sizes=((1, 8, 16),)),
    "causal_heads": Case(GroupedQuery(causal=True), (1, 5, 16), sizes=((1, 8, 16), (1, 2, 16))),
    "einsum_attention": Case(Einsum(), (1, 5, 8), sizes=((1, 3, 8),)),
    "relative_positions": Case(RelativePositions(), (1, 9, 8)),
    "squeeze_excite": Case(SqueezeExcite(), (1, 6, 5, 4), sizes=((1, 6, 3, 8),)),
    "lstm_batch_first": Case(Recurrent(nn.LSTM, batch_first=True), (1, 4, 4), sizes=((1, 7, 4), (1, 2, 4))),
    "lstm": Case(Recurrent(nn.LSTM), (4, 1, 4), 1, 1, sizes=((7, 1, 4), (2, 1, 4))),
    "lstm_two_ways": Case(
        Recurrent(nn.LSTM, batch_first=True, bidirectional=True, num_layers=2), (1, 4, 4), sizes=((1, 6, 4),)
    ),
    "gru": Case(Recurrent(nn.GRU, batch_first=True), (1, 4, 4), sizes=((1, 6, 4),)),
    "cumulative_sums": Case(Sums(), (1, 4, 5), sizes=((1, 6, 3),)),
    "sorts": Case(Sorted(), (1, 4, 5), sizes=((1, 6, 3),)),
    "windows": Case(Windows(), (1, 9, 6, 6), sizes=((1, 3, 12, 6),)),
    "padded_windows": Case(Windows(), (1, 7, 5, 6), sizes=((1, 10, 8, 6), (1, 4, 14, 6))),
    "shifted_windows": Case(Windows(shift=1), (1, 9, 6, 6), sizes=((1, 6, 12, 6),)),
    "shifted_padded_windows": Case(Windows(shift=1), (1, 7, 5, 6), sizes=((1, 10, 8, 6),)),
    "class_token": Case(Tokens(), (1, 3, 4, 6), sizes=((1, 3, 8, 2),)),
}
SIZES = [(name, shape) for name, case in CASES.items() for shape in case.sizes]


def outputs(out: Any) -> list[torch.Tensor]:
    return list(out) if isinstance(out, tuple) else [out]


def of_batch(case: Case, n: int, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    shape = shape or case.shape
    return torch.randn(*(n if i == case.batch else s for i, s in enumerate(shape)))


def ran(dag: td.TensorDAG, x: torch.Tensor) -> list[np.ndarray]:
    return outputs(dag.run(x.numpy()))


def close(found: list[Any], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(np.array(a)), b, rtol=1e-5, atol=2e-6)


def alternating(names, first, *numbers):
    """From the ``first`` on every other name with one of the numbers in turn in every run, the rest in the slow one."""
    chosen = [(i, j) for i in range(first, len(names), 2) for j in range(len(numbers)) if i // 2 % len(numbers) == j]
    return [
        pytest.param(name, n, marks=() if (i, j) in chosen else pytest.mark.slow)
        for i, name in enumerate(names)
        for j, n in enumerate(numbers)
    ]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("name", "n"), alternating(CASES, 0, 1, 3))
def test_unbatch(name, n):
    case = CASES[name]
    module = case.module.eval()
    x = of_batch(case, n)
    single = td.from_torch(module, x).unbatch(input="x", axis=case.batch)
    runs = [ran(single, each) for each in x.unbind(case.batch)]
    close([np.stack(each, case.out) for each in zip(*runs, strict=True)], outputs(module(x)))
    # nothing is left of the axis, so it doesn't matter how many there were
    assert single.graph == td.from_torch(module, of_batch(case, 2)).unbatch(input="x", axis=case.batch).graph


@pytest.mark.parametrize(("name", "n"), alternating(CASES, 1, 2, 1))
def test_batch_of_five(name, n):
    case = CASES[name]
    module = case.module.eval()
    x = of_batch(case, 5)
    dag = td.from_torch(module, of_batch(case, n)).resize({"x": tuple(x.shape)})
    close(ran(dag, x), outputs(module(x)))
    assert dag.graph == td.from_torch(module, x).graph


@pytest.mark.parametrize(("of", "n"), alternating(SIZES, 0, 1, 2))
def test_sizes(of, n):
    name, shape = of
    case = CASES[name]
    module = case.module.eval()
    x = of_batch(case, n, shape)
    dag = td.from_torch(module, of_batch(case, n)).resize({"x": tuple(x.shape)})
    close(ran(dag, x), outputs(module(x)))
    assert dag.graph == td.from_torch(module, x).graph
