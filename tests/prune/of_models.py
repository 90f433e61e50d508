"""One-pattern networks: parts that whole kinds of models are known by, from state spaces to capsules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.prune.of_attention import linear, tokens
from tests.prune.of_convolutions import conv
from tests.prune.pattern import Net, image, pattern

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


@pattern({"q:0": 2, "q:1": 2, "q:2": 4, "v:1": 8})
def rotated_complex_numbers() -> Built:
    """Four heads of queries on two of keys, whose pairs are multiplied by complex numbers of length 1."""

    def turned(x: Any) -> Any:
        n, d = x.shape[-2:]
        angles = torch.arange(n)[:, None] * 100.0 ** (-torch.arange(0, d, 2) / d)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    def function(m: Any, x: Any) -> Any:
        b, n, _ = x.shape
        q = turned(m.q(x).reshape(b, n, 4, 8).transpose(1, 2))
        k = turned(m.k(x).reshape(b, n, 2, 8).transpose(1, 2)).repeat_interleave(2, 1)
        v = m.v(x).reshape(b, n, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
        return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return Net(function, q=linear(10, 32), k=linear(10, 16), v=linear(10, 16), o=linear(32, 10)), (tokens(10),)


@pattern({"i": 6, "a": 3})
def state_space() -> Built:
    """A kernel over time made of exponentials, applied by Fourier transforms."""

    def function(m: Any, x: Any) -> Any:
        u = m.i(x)
        n = u.shape[1]
        kernel = (m.c * torch.exp(-m.a.exp() * torch.arange(n)[:, None, None])).sum(-1)
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * n, dim=1) * torch.fft.rfft(kernel, 2 * n, dim=0), 2 * n, dim=1)
        return m.o(F.gelu(y[:, :n] + m.d * u))

    parts = {"a": torch.randn(6, 3), "c": torch.randn(6, 3), "d": torch.randn(6)}
    return Net(function, i=linear(4, 6), o=linear(6, 4), **{n: nn.Parameter(p) for n, p in parts.items()}), (tokens(4),)


@pattern({"a.parametrizations.weight": 8})
def weights_over_their_largest_singular_value() -> Built:
    return Net(lambda m, x: m.b(m.a(x).relu()), a=spectral_norm(conv(3, 8, 3)), b=conv(8, 4)), (image(),)


@pattern({"a:0": 4, "a:1": 6})
def capsules() -> Built:
    """Vectors over channels, squashed by their length."""

    def function(m: Any, x: Any) -> Any:
        x = m.a(x)
        u = x.reshape(x.shape[0], 4, 6, -1).transpose(2, 3).reshape(x.shape[0], -1, 6)
        square = (u * u).sum(-1, keepdim=True)
        u = u * square / (1 + square) / (square + 1e-6).sqrt()
        return torch.einsum("bid,idj->bij", u, m.w).sum(1)

    return Net(function, a=conv(3, 24, 3), w=nn.Parameter(torch.randn(4 * 64, 6, 5))), (image(),)


@pattern({"a": 6, "r": 3, "w": 7}, "told", "softmax takes the max")
def kernels_mixed_by_the_image() -> Built:
    """A dynamic convolution: a kernel for each image, the images as groups."""

    def function(m: Any, x: Any) -> Any:
        h = m.a(x).relu()
        kernels = torch.einsum("bk,koihw->boihw", m.r(h.mean((2, 3))).softmax(-1), m.w).flatten(0, 1)
        y = F.conv2d(h.flatten(0, 1)[None], kernels, groups=h.shape[0], padding=1)
        return m.o(y.reshape(h.shape[0], -1, *y.shape[2:]).relu())

    w = nn.Parameter(torch.randn(3, 7, 6, 3, 3) * 0.2)
    return Net(function, a=conv(3, 6, 3), r=linear(6, 3), w=w, o=conv(7, 2)), (image(),)


@pattern({"a:0": 2, "a:1": 4, "rd": 4})
def involution() -> Built:
    """A kernel for each place, shared by the channels of a group."""

    def function(m: Any, x: Any) -> Any:
        x = m.a(x).relu()
        b, c, h, w = x.shape
        kernels = m.sp(m.rd(x).relu()).reshape(b, 2, 1, 9, h, w)
        windows = F.unfold(x, 3, padding=1).reshape(b, 2, c // 2, 9, h, w)
        return m.o((kernels * windows).sum(3).reshape(b, c, h, w))

    return Net(function, a=conv(3, 8, 3), rd=conv(8, 4), sp=conv(4, 18), o=conv(8, 2)), (image(),)


@pattern({"i:0": 3, "i:1": 4, "r": [4, 2]})
def blocks_of_a_matrix() -> Built:
    """Two products by blocks, with the blocks' entries dealt out between them."""

    def function(m: Any, x: Any) -> Any:
        h = torch.einsum("bgk,gkj->bjg", m.i(x).unflatten(1, (3, 4)), m.l)
        return m.o(torch.einsum("bjg,jgh->bjh", h, m.r).flatten(1).relu())

    left, right = nn.Parameter(torch.randn(3, 4, 4)), nn.Parameter(torch.randn(4, 3, 2))
    return Net(function, i=linear(5, 12), l=left, r=right, o=linear(8, 3)), (torch.randn(2, 5),)


@pattern({"w:0": 3, "w:1": 4})
def attention_on_a_graph() -> Built:
    """Heads whose scores are sums of two numbers, one of each node."""

    def function(m: Any, x: Any) -> Any:
        h = m.w(x).unflatten(2, (3, 4))
        scores = F.leaky_relu((h * m.l).sum(-1)[:, :, None] + (h * m.r).sum(-1)[:, None], 0.2)
        return m.o(F.elu(torch.einsum("bijh,bjhd->bihd", scores.softmax(2), h).flatten(2)))

    left, right = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 4))
    return Net(function, w=linear(5, 12), l=left, r=right, o=linear(12, 3)), (tokens(5),)


@pattern({"a": 6})
def codes() -> Built:
    """The nearest of some vectors in the place of each, as where codes are learned."""

    def function(m: Any, x: Any) -> Any:
        return m.o(F.embedding(torch.cdist(m.a(x).relu(), m.c).argmin(-1), m.c))

    return Net(function, a=linear(5, 6), c=nn.Parameter(torch.randn(9, 6)), o=linear(6, 3)), (torch.randn(2, 5),)


@pattern({"g": 5})
def lstm_of_images() -> Built:
    """A convolution makes the four gates of channels."""

    def function(m: Any, x: Any) -> Any:
        h = c = torch.zeros(x.shape[0], 5, *x.shape[3:])
        for t in range(2):
            i, g, o, f = m.g(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = c * f.sigmoid() + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return m.o(h)

    return Net(function, g=conv(8, 20, 3), o=conv(5, 2)), (torch.randn(2, 2, 3, 6, 6),)
