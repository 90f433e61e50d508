"""One-pattern networks: attention, norms and recurrence."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.prune.pattern import Net, pattern

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


def linear(a: int, b: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(a, b, bias)


def tokens(width: int = 12, length: int = 5) -> torch.Tensor:
    return torch.randn(2, length, width)


def heads(x: Any, count: int) -> Any:
    b, n, c = x.shape
    return x.view(b, n, count, c // count).transpose(1, 2)


def merged(x: Any) -> Any:
    return x.transpose(1, 2).flatten(2)


@pattern({"q:0": 4, "q:1": 6, "v:1": 6})
def attention_by_reshape() -> Built:
    def forward(s: Any, x: Any) -> Any:
        q, k, v = heads(s.q(x), 4), heads(s.k(x), 4), heads(s.v(x), 4)
        return s.o(merged((q @ k.transpose(-2, -1) / 6**0.5).softmax(-1) @ v))

    return Net(forward, q=linear(12, 24), k=linear(12, 24), v=linear(12, 24), o=linear(24, 12)), (tokens(),)


@pattern({"qkv:0": 4, "qkv:1": 6})
def fused_qkv() -> Built:
    def forward(s: Any, x: Any) -> Any:
        b, n, _ = x.shape
        q, k, v = s.qkv(x).reshape(b, n, 3, 4, 6).permute(2, 0, 3, 1, 4)
        return s.o(merged(F.scaled_dot_product_attention(q, k, v)))

    return Net(forward, qkv=linear(12, 72), o=linear(24, 12)), (tokens(),)


@pattern({"qkv": [2, 2, 6, 6]})
def grouped_queries() -> Built:
    def forward(s: Any, x: Any) -> Any:
        q, k, v = s.qkv(x).split([24, 12, 12], -1)
        k, v = (heads(t, 2).repeat_interleave(2, 1) for t in (k, v))
        return s.o(merged(F.scaled_dot_product_attention(heads(q, 4), k, v)))

    return Net(forward, qkv=linear(12, 48), o=linear(24, 12)), (tokens(),)


@pattern({"q:0": 4, "q:1": 6, "v": 5})
def one_key_head() -> Built:
    def forward(s: Any, x: Any) -> Any:
        q, k, v = heads(s.q(x), 4), s.k(x)[:, None], s.v(x)[:, None]
        return s.o(merged((q @ k.transpose(-2, -1)).softmax(-1) @ v))

    return Net(forward, q=linear(12, 24), k=linear(12, 6), v=linear(12, 5), o=linear(20, 12)), (tokens(),)


@pattern({"q:0": 3, "q:1": 4, "v:1": 4})
def relative_positions() -> Built:
    index = (torch.arange(5)[:, None] - torch.arange(5)[None] + 4).flatten()

    def forward(s: Any, x: Any) -> Any:
        q, k, v = heads(s.q(x), 3), heads(s.k(x), 3), heads(s.v(x), 3)
        bias = s.table[s.index].view(5, 5, 3).permute(2, 0, 1)
        return s.o(merged((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v))

    net = Net(
        forward, q=linear(12, 12), k=linear(12, 12), v=linear(12, 12), o=linear(12, 8), index=index,
        table=nn.Parameter(torch.randn(9, 3)),
    )  # fmt: skip
    return net, (tokens(),)


@pattern({"q:0": 2, "q:1": 3, "v:1": 6})
def rotated_positions() -> Built:
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.3, 0.1])
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def rotated(s: Any, x: Any) -> Any:
        a, b = x.chunk(2, -1)
        return x * s.cos + torch.cat([-b, a], -1) * s.sin

    def forward(s: Any, x: Any) -> Any:
        q, k, v = rotated(s, heads(s.q(x), 2)), rotated(s, heads(s.k(x), 2)), heads(s.v(x), 2)
        return s.o(merged((q @ k.transpose(-2, -1)).softmax(-1) @ v))

    net = Net(forward, q=linear(12, 12), k=linear(12, 12), v=linear(12, 12), o=linear(12, 8), cos=cos, sin=sin)
    return net, (tokens(),)


@pattern({"a": 12, "m:0": 3, "m:1": 4, "m.out_proj": 12})
def multihead_attention() -> Built:
    net = Net(
        lambda s, x: s.b(s.m(y := s.a(x), y, y)[0]),
        a=linear(6, 12),
        m=nn.MultiheadAttention(12, 3, batch_first=True),
        b=linear(12, 4),
    )
    return net, (tokens(6),)


@pattern({"q:0": 2, "q:1": 4, "v:1": 5})
def cross_attention() -> Built:
    def forward(s: Any, x: Any, y: Any) -> Any:
        return s.o(merged(F.scaled_dot_product_attention(heads(s.q(x), 2), heads(s.k(y), 2), heads(s.v(y), 2))))

    net = Net(forward, q=linear(12, 8), k=linear(6, 8), v=linear(6, 10), o=linear(10, 5))
    return net, (tokens(), tokens(6, 7))


@pattern({"qkv:0": 4, "qkv:1": 5, "after": 4})
def heads_that_mix() -> Built:
    """Scores of all heads go into those of others, before and after the softmax."""

    def forward(s: Any, x: Any) -> Any:
        b, n, _ = x.shape
        q, k, v = s.qkv(x).view(b, n, 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.einsum("bhij,hg->bgij", q @ k.transpose(-2, -1), s.before).softmax(-1)
        return s.o(merged(torch.einsum("bgij,gk->bkij", weights, s.after) @ v))

    before, after = (nn.Parameter(torch.randn(4, 4)) for _ in range(2))
    return Net(forward, qkv=linear(12, 60), before=before, after=after, o=linear(20, 12)), (tokens(),)


@pattern({"q:0": 4, "q:1": [6, 4], "down": 8, "up:1": 5})
def latent_attention() -> Built:
    """Keys and values of all heads are made of a few numbers, and a part of the keys is shared."""

    def forward(s: Any, x: Any) -> Any:
        q = heads(s.q(x), 4)
        latent, shared = s.down(x).split([8, 4], -1)
        k, v = heads(s.up(latent), 4).split([6, 5], -1)
        k = torch.cat((k, shared[:, None].expand(-1, 4, -1, -1)), -1)
        return s.o(merged(F.scaled_dot_product_attention(q, k, v)))

    return Net(forward, q=linear(12, 40), down=linear(12, 12), up=linear(8, 44), o=linear(20, 12)), (tokens(),)


@pattern({"a": 10, "q": 7}, "told", "softmax")
def attention_over_channels() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x).transpose(1, 2)
        return s.c(((s.q(y) @ s.k(y).transpose(1, 2)).softmax(-1) @ y).transpose(1, 2))

    return Net(forward, a=linear(12, 10), q=linear(5, 7), k=linear(5, 7), c=linear(10, 3)), (tokens(),)


@pattern({"qkv": [2, 6, 6]}, "told")
def cross_covariance() -> Built:
    def forward(s: Any, x: Any) -> Any:
        q, k, v = (heads(t, 2).transpose(-2, -1) for t in s.qkv(x).chunk(3, -1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return s.o(((q @ k.transpose(-2, -1)) * s.t).softmax(-1).matmul(v).permute(0, 3, 1, 2).flatten(2))

    return Net(forward, qkv=linear(12, 36), o=linear(12, 5), t=nn.Parameter(torch.rand(2, 1, 1))), (tokens(),)


@pattern({"q:0": 2, "q:1": 4, "v:1": 5})
def linear_attention() -> Built:
    def forward(s: Any, x: Any) -> Any:
        q, k, v = heads(s.q(x), 2).relu(), heads(s.k(x), 2).relu(), heads(s.v(x), 2)
        return s.o(merged(q @ (k.transpose(-2, -1) @ v)))

    return Net(forward, q=linear(12, 8), k=linear(12, 8), v=linear(12, 10), o=linear(10, 5)), (tokens(),)


@pattern({"e": 12, "qkv": [2, 4, 4], "u": 20}, "norms")
def transformer_block() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.e(x)
        q, k, v = (heads(t, 2) for t in s.qkv(s.n(y)).chunk(3, -1))
        y = y + s.o(merged(F.scaled_dot_product_attention(q, k, v)))
        return s.h(y + s.d(F.gelu(s.u(s.m(y)))))

    net = Net(
        forward, e=linear(6, 12), n=nn.LayerNorm(12), qkv=linear(12, 24), o=linear(8, 12), m=nn.LayerNorm(12),
        u=linear(12, 20), d=linear(20, 12), h=linear(12, 3),
    )  # fmt: skip
    return net, (tokens(6),)


@pattern({"qkv": [3, 4, 4], "u": 20}, "norms")
def normformer() -> Built:
    def forward(s: Any, x: Any) -> Any:
        q, k, v = (heads(t, 3) for t in s.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v) * s.g[:, None, None]
        return s.d(s.m(F.gelu(s.u(s.n(merged(y))))))

    net = Net(
        forward, qkv=linear(12, 36), g=nn.Parameter(torch.rand(3)), n=nn.LayerNorm(12), u=linear(12, 20),
        m=nn.LayerNorm(20), d=linear(20, 4),
    )  # fmt: skip
    return net, (tokens(),)


@pattern({"a": 10})
def rms_norm_written_out() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.b(y * (y.pow(2).mean(-1, True) + 1e-6).rsqrt() * s.g)

    return Net(forward, a=linear(12, 10), g=nn.Parameter(torch.rand(10)), b=linear(10, 4)), (tokens(),)


@pattern({"a": 10}, "norms")
def rms_norm() -> Built:
    return Net(lambda s, x: s.b(s.n(s.a(x))), a=linear(12, 10), n=nn.RMSNorm(10), b=linear(10, 4)), (tokens(),)


@pattern({"a": 10})
def gated_linear_units() -> Built:
    return Net(lambda s, x: s.b(F.glu(s.a(x))), a=linear(12, 20), b=linear(10, 4)), (tokens(),)


@pattern({"g": 20})
def swish_gated() -> Built:
    net = Net(lambda s, x: s.d(F.silu(s.g(x)) * s.u(x)), g=linear(12, 20), u=linear(12, 20), d=linear(20, 4))
    return net, (tokens(),)


@pattern({"u.0": 10, "u.1": 10, "u.2": 10})
def mixture_of_experts() -> Built:
    def forward(s: Any, x: Any) -> Any:
        gate = s.r(x).softmax(-1)
        y = torch.stack([d(F.relu(u(x))) for u, d in zip(s.u, s.d, strict=True)], -2)
        return (y * gate[..., None]).sum(-2)

    net = Net(
        forward, r=linear(12, 3), u=nn.ModuleList([linear(12, 10) for _ in range(3)]),
        d=nn.ModuleList([linear(10, 5) for _ in range(3)]),
    )  # fmt: skip
    return net, (tokens(),)


@pattern({"r": 3, "up": 10}, "told", "softmax")
def experts_in_one() -> Built:
    """Top-1 of experts whose weights are one parameter each."""

    def forward(s: Any, x: Any) -> Any:
        weight, chosen = s.r(x).softmax(-1).max(-1)
        y = torch.einsum("bnd,bndf->bnf", x, s.up[chosen]).relu()
        return torch.einsum("bnf,bnfd->bnd", y, s.down[chosen]) * weight[..., None]

    net = Net(
        forward, r=linear(12, 3), up=nn.Parameter(torch.randn(3, 12, 10)), down=nn.Parameter(torch.randn(3, 10, 5))
    )
    return net, (tokens(),)


@pattern({"a": 8, "u": 11})
def token_mixing() -> Built:
    net = Net(
        lambda s, x: s.h((y := s.a(x)) + s.v(s.u(y.transpose(1, 2)).relu()).transpose(1, 2)),
        a=linear(6, 8), u=linear(5, 11), v=linear(11, 5), h=linear(8, 3),
    )  # fmt: skip
    return net, (tokens(6),)


@pattern({"a": 7, "r": 9})
def lstm() -> Built:
    net = Net(lambda s, x: s.h(s.r(s.a(x))[0]), a=linear(6, 7), r=nn.LSTM(7, 9, 2, batch_first=True), h=linear(9, 4))
    return net, (tokens(6),)


@pattern({"r": 7})
def lstm_both_ways() -> Built:
    net = Net(lambda s, x: s.h(s.r(x)[0]), r=nn.LSTM(6, 7, 2, batch_first=True, bidirectional=True), h=linear(14, 4))
    return net, (tokens(6),)


@pattern({"r": [5, 9]})
def lstm_projected() -> Built:
    net = Net(lambda s, x: s.h(s.r(x)[0]), r=nn.LSTM(6, 9, batch_first=True, proj_size=5), h=linear(5, 4))
    return net, (tokens(6),)


@pattern({"r": 7})
def gru() -> Built:
    net = Net(lambda s, x: s.h(s.r(x)[1][-1]), r=nn.GRU(6, 7, 2, batch_first=True), h=linear(7, 4))
    return net, (tokens(6),)


@pattern({"r": 7})
def cells_in_a_loop() -> Built:
    def forward(s: Any, x: Any) -> Any:
        h = x.new_zeros(2, 7)
        for i in range(3):
            h = s.r(x[:, i], h)
        return s.h(h)

    return Net(forward, r=nn.GRUCell(6, 7), h=linear(7, 4)), (tokens(6),)


@pattern({"r": [7, 7]})
def one_step_of_an_lstm() -> Built:
    """What is taken of the first state, zeros, isn't what is given: without it this is no LSTM of torch's."""
    net = Net(lambda s, x: s.h(s.r(x)[0]), r=nn.LSTM(6, 7, batch_first=True), h=linear(7, 4))
    return net, (tokens(6, 1),)
