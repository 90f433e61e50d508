"""One-pattern networks: entries that are picked, ordered, added up or multiplied out, and weights that are made."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.prune.of_attention import linear, tokens
from tests.prune.of_convolutions import conv
from tests.prune.pattern import Net, image, pattern

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


@pattern({"a": 12})
def picked_by_constants() -> Built:
    order = [3, 1, 0, 2, 5, 4, 7, 6, 9, 8, 11, 10]
    return Net(lambda s, x: s.b(s.a(x)[:, order].relu()), a=conv(3, 12), b=conv(12, 4)), (image(),)


@pattern({"a": [1, 4]})
def picked_twice() -> Built:
    net = Net(lambda s, x: s.b(s.a(x).index_select(1, torch.tensor([0, 1, 2, 0, 3, 3]))), a=conv(3, 5), b=conv(6, 4))
    return net, (image(),)


@pattern({"a": [6, 6]})
def every_other() -> Built:
    net = Net(lambda s, x: s.b((y := s.a(x))[:, ::2]) * s.c(y[:, 1::2]), a=conv(3, 12), b=conv(6, 4), c=conv(6, 4))
    return net, (image(),)


@pattern({"a": [4, 4]})
def picked_from_the_end() -> Built:
    return Net(lambda s, x: s.c(s.a(x)[:, [0, 5, -1, 2]] * s.b(x)), a=conv(3, 8), b=conv(3, 4), c=conv(4, 2)), (
        image(),
    )


@pattern({"b": [6, 6]})
def added_by_constants() -> Built:
    places = torch.tensor([0, 2, 3, 3, 6, 8, 9, 0])
    net = Net(lambda s, x: s.c(s.b(x).index_add(1, places, s.a(x)).relu()), a=conv(3, 8), b=conv(3, 12), c=conv(12, 4))
    return net, (image(),)


@pattern({"b": [2, 2, 4]})
def put_by_constants() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.b(x).clone()
        y[:, [0, -1]] = s.a(x)[:, :2]
        y[:, 2:5:2] += s.a(x)[:, 2:]
        return s.c(y.relu())

    return Net(forward, a=linear(12, 4), b=linear(12, 8), c=linear(8, 3)), (torch.randn(2, 12),)


@pattern({"a": 8})
def masked_by_constants() -> Built:
    def forward(s: Any, x: Any) -> Any:
        mask = torch.zeros(8, dtype=torch.bool)
        mask[::3] = True
        return s.b(s.a(x).masked_fill(mask, 0.0))

    return Net(forward, a=linear(12, 8), b=linear(8, 3)), (tokens(),)


@pattern({"a": 8, "b": 8, "d": 8, "e": 8})
def shaped_like_others() -> Built:
    def forward(s: Any, x: Any) -> Any:
        return s.c(torch.ones_like(s.a(x)) * s.b(x)) + s.f(torch.ones_like(s.d(x)) * s.e(x))

    parts = {name: linear(12, 8) for name in "abde"} | {name: linear(8, 3) for name in "cf"}
    return Net(forward, **parts), (tokens(),)


@pattern({"a": 8, "b": 6}, "norms")
def mixed_over_positions() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y, z = s.b(s.a(x)).chunk(2, -1)
        return s.c(y * s.d(s.e(z)))

    parts = {"d": nn.Conv1d(5, 5, 1), "e": nn.LayerNorm(6)}
    return Net(forward, a=linear(12, 8), b=linear(8, 12), c=linear(6, 3), **parts), (tokens(),)


@pattern({"a": 6, "c": [2, 3]})
def repeated() -> Built:
    net = Net(
        lambda s, x: s.c(torch.cat([(y := s.a(x)).repeat_interleave(2, 1), y.repeat(1, 3, 1, 1)], 1).relu()),
        a=conv(3, 6), c=conv(30, 4),
    )  # fmt: skip
    return net, (image(),)


@pattern({"b": 3, "a": 4})
def einsum() -> Built:
    def forward(s: Any, x: Any) -> Any:
        return torch.einsum("bnhd,hde->bne", torch.einsum("bnc,chd->bnhd", x, s.a).relu(), s.b)

    net = Net(forward, a=nn.Parameter(torch.randn(12, 3, 4)), b=nn.Parameter(torch.randn(3, 4, 5)))
    return net, (tokens(),)


@pattern({"a": 5, "b": 4})
def outer_product() -> Built:
    net = Net(
        lambda s, x: s.c((s.a(x)[..., :, None] * s.b(x)[..., None, :]).flatten(2)),
        a=linear(12, 5), b=linear(12, 4), c=linear(20, 3),
    )  # fmt: skip
    return net, (tokens(),)


@pattern({"a": 5})
def outer_of_itself() -> Built:
    net = Net(
        lambda s, x: s.c(((y := s.a(x))[..., :, None] * y[..., None, :]).flatten(2)), a=linear(12, 5), c=linear(25, 3)
    )
    return net, (tokens(),)


@pattern({"a": 5, "b": 4, "m": 7})
def bilinear() -> Built:
    net = Net(
        lambda s, x: s.c(s.m(s.a(x), s.b(x))), a=linear(12, 5), b=linear(12, 4), m=nn.Bilinear(5, 4, 7), c=linear(7, 3)
    )
    return net, (tokens(),)


@pattern({"a": 8})
def running_sum() -> Built:
    return Net(lambda s, x: s.b(s.a(x).cumsum(-1)), a=linear(12, 8), b=linear(8, 3)), (tokens(),)


@pattern({"a": 9})
def largest_few() -> Built:
    return Net(lambda s, x: s.c(s.b(s.a(x)).topk(4, -1)[0]), a=linear(12, 9), b=linear(9, 8), c=linear(4, 3)), (
        tokens(),
    )


@pattern({"a": 9})
def ordered() -> Built:
    return Net(lambda s, x: s.c(s.b(s.a(x)).sort(-1)[0]), a=linear(12, 9), b=linear(9, 8), c=linear(8, 3)), (tokens(),)


@pattern({"a": 9, "b": 8}, "told", "argmax")
def place_of_the_largest() -> Built:
    return Net(
        lambda s, x: s.t[s.b(s.a(x)).argmax(-1)], a=linear(12, 9), b=linear(9, 8), t=nn.Parameter(torch.randn(8, 5))
    ), (tokens(),)


@pattern({"a:0": 6, "a:1": 3}, "told", "max")
def maxout() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.b(y.view(*y.shape[:2], 6, 3).amax(-1))

    return Net(forward, a=linear(12, 18), b=linear(6, 4)), (tokens(),)


@pattern({"a": 8})
def mean_over_channels() -> Built:
    return Net(lambda s, x: s.b(y := s.a(x)) + y.mean(-1, True), a=linear(12, 8), b=linear(8, 4)), (tokens(),)


@pattern({"a": 8})
def sum_over_channels() -> Built:
    return Net(lambda s, x: s.b(x) + s.a(x).sum(-1, True), a=linear(12, 8), b=linear(12, 4)), (tokens(),)


@pattern({"a": 8}, "told", "softmax")
def softmax_over_channels() -> Built:
    return Net(lambda s, x: s.b(s.a(x).softmax(-1)), a=linear(12, 8), b=linear(8, 4)), (tokens(),)


@pattern({"a": 8})
def length_one() -> Built:
    return Net(lambda s, x: s.b(F.normalize(s.a(x), dim=-1)), a=linear(12, 8), b=linear(8, 4)), (tokens(),)


@pattern({"a": 8})
def cosine_similarity() -> Built:
    net = Net(
        lambda s, x: s.c(F.cosine_similarity(s.a(x), s.b(x), dim=-1)[..., None]),
        a=linear(12, 8),
        b=linear(12, 8),
        c=linear(1, 3),
    )
    return net, (tokens(),)


@pattern({"a": 8})
def distances() -> Built:
    net = Net(lambda s, x: torch.cdist(s.a(x), s.b[None]), a=linear(12, 8), b=nn.Parameter(torch.randn(4, 8)))
    return net, (tokens(),)


@pattern({"a": 8})
def constants_of_channels() -> Built:
    scale = torch.linspace(-1, 1, 8)
    net = Net(lambda s, x: s.b(s.a(x) * s.k + torch.arange(8)), a=linear(12, 8), b=linear(8, 4), k=scale)
    return net, (tokens(),)


@pattern({"a.parametrizations.weight": 8})
def weight_norm() -> Built:
    a = nn.utils.parametrizations.weight_norm(linear(12, 8))
    return Net(lambda s, x: s.b(s.a(x).relu()), a=a, b=linear(8, 4)), (tokens(),)


@pattern({"b": 6, "a": 8}, "norms")
def standardized_weights() -> Built:
    def forward(s: Any, x: Any) -> Any:
        w = s.b.weight
        w = (w - w.mean((1, 2, 3), True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return s.c(F.conv2d(s.a(x), w, s.b.bias))

    return Net(forward, a=conv(3, 8), b=conv(8, 6, 3), c=conv(6, 4)), (image(),)


@pattern({"u": 8, "v": 3})
def product_of_weights() -> Built:
    net = Net(
        lambda s, x: s.b(F.linear(x, s.w + s.u @ s.v)),
        w=nn.Parameter(torch.randn(8, 12)), u=nn.Parameter(torch.randn(8, 3)), v=nn.Parameter(torch.randn(3, 12)),
        b=linear(8, 4),
    )  # fmt: skip
    return net, (tokens(),)


@pattern({"m:0": 6, "m:1": 8})
def weights_made_by_a_network() -> Built:
    def forward(s: Any, x: Any) -> Any:
        w = s.m(x.mean(1)).view(2, 6, 8)
        return s.c(s.a(x) @ w)

    return Net(forward, m=linear(12, 48), a=linear(12, 6), c=linear(8, 4)), (tokens(),)


@pattern({"b": 8})
def tied_weights() -> Built:
    def forward(s: Any, x: Any) -> Any:
        return F.linear(s.b(s.e(x).relu()), s.e.weight)

    return Net(forward, e=nn.Embedding(11, 8), b=linear(8, 8)), (torch.randint(0, 11, (2, 5)),)


@pattern({"e": 8})
def embeddings_added() -> Built:
    net = Net(
        lambda s, x: s.b(s.e(x) + s.p(torch.arange(5))), e=nn.Embedding(11, 8), p=nn.Embedding(6, 8), b=linear(8, 4)
    )
    return net, (torch.randint(0, 11, (2, 5)),)


@pattern({"a": 8, "b": 6})
def choice_by_data() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.d(torch.cond(x.sum() > 0, lambda t: s.b(t).relu(), lambda t: s.c(t) * 2, (y,)))

    return Net(forward, a=linear(12, 8), b=linear(8, 6), c=linear(8, 6), d=linear(6, 3)), (tokens(),)


@pattern({"a": 8})
def choice_entry_by_entry() -> Built:
    net = Net(
        lambda s, x: s.c(torch.where(s.a(x) > 0, s.b(x), s.k)),
        a=linear(12, 8),
        b=linear(12, 8),
        c=linear(8, 3),
        k=torch.rand(8),
    )
    return net, (tokens(),)


@pattern({"a": 8})
def cache() -> Built:
    """A buffer that holds what was there before."""

    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        s.past = torch.cat([s.past[:, 5:], y], 1)
        return s.b(s.past.sum(1))

    return Net(forward, a=linear(12, 8), b=linear(8, 3), past=torch.zeros(2, 10, 8)), (tokens(),)


@pattern({"a": 8}, "told", "draws random numbers", train=True)
def dropout_in_training() -> Built:
    net = Net(lambda s, x: s.b(s.d(s.a(x).relu())), a=linear(12, 8), d=nn.Dropout(0.5), b=linear(8, 4))
    return net, (tokens(),)


@pattern({}, "none", "splits 4 x 6 into 6 x 4")
def taken_in_two_ways() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        n = y.shape[:2]
        return s.b(y.view(*n, 4, 6).sum(-1)) + s.c(y.view(*n, 6, 4).sum(-1))

    return Net(forward, a=linear(12, 24), b=linear(4, 3), c=linear(6, 3)), (tokens(),)


@pattern({}, "none", "output")
def straight_out() -> Built:
    return Net(lambda s, x: s.a(x), a=linear(12, 8)), (tokens(),)


@pattern({"b": 7})
def resampled_channels() -> Built:
    """Each of 7 channels is made of its own shares of others, which f32 rounds."""
    return Net(lambda s, x: s.b(F.interpolate(s.a(x), size=7, mode="linear")), a=linear(12, 5), b=linear(7, 3)), (
        tokens(),
    )


@pattern({"a": 8, "b": 6})
def powers_and_bounds() -> Built:
    """Functions with f(0) = 0 for the constants in them: a GELU written out with a cube, a hard tanh of two bounds."""

    def function(m: Any, x: Any) -> Any:
        h = m.a(x)
        h = 0.5 * h * (1 + torch.tanh(0.8 * (h + 0.04 * torch.pow(h, 3.0))))
        h = torch.minimum(torch.maximum(m.b(h), torch.tensor(-1.0)), torch.tensor(1.0)) / 2.0
        return m.o(h.sum(1, keepdim=True))

    return Net(function, a=linear(5, 8), b=linear(8, 6), o=linear(1, 3)), (torch.randn(2, 5),)


@pattern({"a": 8}, "told", "takes the sum over them")
def bounds_above_zero() -> Built:
    """What is at least 0.5 is no zero where a unit is."""
    parts = {"a": linear(5, 8), "o": linear(1, 3)}
    return Net(lambda m, x: m.o(m.a(x).clamp(min=0.5).sum(1, keepdim=True)), **parts), (torch.randn(2, 5),)
