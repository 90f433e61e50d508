"""One-pattern networks: what convolutional networks do with channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.prune.pattern import Net, image, pattern

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


def conv(a: int, b: int, k: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, padding=k // 2, **more)


@pattern({"a": 8, "b": 12})
def residual() -> Built:
    net = Net(
        lambda s, x: s.d((y := s.a(x)) + s.c(s.b(y).relu())),
        a=conv(3, 8),
        b=conv(8, 12, 3),
        c=conv(12, 8),
        d=conv(8, 4),
    )
    return net, (image(),)


@pattern({"a": 6, "b": 5, "c": 7})
def dense_concat() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        y = torch.cat([y, s.b(y.relu())], 1)
        return s.d(torch.cat([y, s.c(y.relu())], 1))

    return Net(forward, a=conv(3, 6), b=conv(6, 5, 3), c=conv(11, 7, 3), d=conv(18, 4)), (image(),)


@pattern({"a": [8, 8], "b": 8})
def chunks() -> Built:
    def forward(s: Any, x: Any) -> Any:
        left, right = s.a(x).chunk(2, 1)
        return s.c(torch.cat([left, s.b(right)], 1))

    return Net(forward, a=conv(3, 16), b=conv(8, 8, 3), c=conv(16, 4)), (image(),)


@pattern({"a": [7, 13]})
def uneven_split() -> Built:
    def forward(s: Any, x: Any) -> Any:
        left, right = s.a(x).split([7, 13], 1)
        return s.b(left) * s.c(right)

    return Net(forward, a=conv(3, 20), b=conv(7, 6), c=conv(13, 6)), (image(),)


def shuffled(x: Any, groups: int) -> Any:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@pattern({"a": 12})
def channel_shuffle() -> Built:
    return Net(lambda s, x: s.b(shuffled(s.a(x), 3).relu()), a=conv(3, 12), b=conv(12, 4)), (image(),)


@pattern({"a": [4, 4, 8], "b": [4, 4], "c": 8})
def shufflenet_unit() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        for part in (s.b, s.c):
            left, right = y.chunk(2, 1)
            y = shuffled(torch.cat([left, part(right).relu()], 1), 2)
        return s.d(y)

    return Net(forward, a=conv(3, 16), b=conv(8, 8, 3), c=conv(8, 8, 3), d=conv(16, 4)), (image(),)


@pattern({"a": 3, "b": 4})
def shuffle_between_groups() -> Built:
    net = Net(
        lambda s, x: s.c(s.b(shuffled(s.a(x), 2))),
        a=conv(4, 12, groups=2), b=conv(12, 8, 3, groups=2), c=conv(8, 3),
    )  # fmt: skip
    return net, (image(4),)


@pattern({"a": 6})
def flipped_channels() -> Built:
    return Net(lambda s, x: s.b((y := s.a(x)) + y.flip(1)), a=conv(3, 12), b=conv(12, 4)), (image(),)


@pattern({"a": 4})
def rolled_channels() -> Built:
    return Net(lambda s, x: s.b((y := s.a(x)) * y.roll(4, 1)), a=conv(3, 12), b=conv(12, 4)), (image(),)


@pattern({"a": [4, 4, 4]})
def shifted_by_groups() -> Built:
    def forward(s: Any, x: Any) -> Any:
        a, b, c = s.a(x).chunk(3, 1)
        return s.b(torch.cat([a.roll(1, 2), b, c.roll(-1, 3)], 1))

    return Net(forward, a=conv(3, 12), b=conv(12, 4)), (image(),)


@pattern({"a": 8})
def depthwise() -> Built:
    net = Net(lambda s, x: s.c(s.b(s.a(x).relu()).relu()), a=conv(3, 8), b=conv(8, 8, 3, groups=8), c=conv(8, 4))
    return net, (image(),)


@pattern({"a": 6, "b:1": 3})
def depthwise_multiplied() -> Built:
    net = Net(lambda s, x: s.c(s.b(s.a(x)).relu()), a=conv(3, 6), b=conv(6, 18, 3, groups=6), c=conv(18, 4))
    return net, (image(),)


@pattern({"a:0": 4, "a:1": 4, "b:1": 6})
def grouped() -> Built:
    net = Net(lambda s, x: s.c(s.b(s.a(x).relu()).relu()), a=conv(3, 16), b=conv(16, 24, 3, groups=4), c=conv(24, 4))
    return net, (image(),)


@pattern({"a:0": 2, "a:1": 4, "b:1": 8})
def grouped_residual() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.d(y + s.c(s.b(y).relu()))

    return Net(forward, a=conv(3, 8), b=conv(8, 16, 3, groups=2), c=conv(16, 8), d=conv(8, 4)), (image(),)


@pattern({"a": 12, "b": 4})
def squeeze_excite() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        gate = s.c(s.b(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return s.d(y * gate)

    return Net(forward, a=conv(3, 12), b=conv(12, 4), c=conv(4, 12), d=conv(12, 4)), (image(),)


@pattern({"a": 8, "c": 5})
def selective_kernels() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = torch.stack([s.a(x), s.b(x)], 1)
        n, _, c, _, _ = y.shape
        weights = s.d(s.c(y.sum(1).mean((2, 3), keepdim=True)).relu()).view(n, 2, c, 1, 1).softmax(1)
        return s.e((y * weights).sum(1))

    return Net(forward, a=conv(3, 8), b=conv(3, 8, 3), c=conv(8, 5), d=conv(5, 16), e=conv(8, 4)), (image(),)


@pattern({"a": 6})
def pixel_shuffle() -> Built:
    return Net(lambda s, x: s.b(F.pixel_shuffle(s.a(x), 2).relu()), a=conv(3, 24), b=conv(6, 4)), (image(),)


@pattern({"a": 6})
def pixel_unshuffle() -> Built:
    return Net(lambda s, x: s.b(F.pixel_unshuffle(s.a(x), 2).relu()), a=conv(3, 6), b=conv(24, 4)), (image(),)


@pattern({"a": 6})
def focus() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.b(torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1))

    return Net(forward, a=conv(3, 6), b=conv(24, 4)), (image(),)


@pattern({"a": 8, "b": 6})
def transposed() -> Built:
    net = Net(lambda s, x: s.c(s.b(s.a(x)).relu()), a=conv(3, 8), b=nn.ConvTranspose2d(8, 6, 2, 2), c=conv(6, 4))
    return net, (image(),)


@pattern({"a:0": 2, "a:1": 4, "b:1": 6})
def transposed_grouped() -> Built:
    net = Net(
        lambda s, x: s.c(s.b(s.a(x)).relu()), a=conv(3, 8), b=nn.ConvTranspose2d(8, 12, 3, 2, groups=2), c=conv(12, 4)
    )
    return net, (image(),)


@pattern({"a:0": 2, "a:1": 3, "b:1": 4})
def three_dimensions() -> Built:
    net = Net(
        lambda s, x: s.c(s.b(s.a(x).relu()).mean((2, 3, 4))),
        a=nn.Conv3d(2, 6, 3), b=nn.Conv3d(6, 8, (1, 3, 3), groups=2), c=nn.Linear(8, 3),
    )  # fmt: skip
    return net, (torch.randn(2, 2, 5, 7, 7),)


@pattern({"a": 8})
def dilated_in_time() -> Built:
    net = Net(
        lambda s, x: s.c(s.a(x).tanh() * s.b(x).sigmoid()),
        a=nn.Conv1d(4, 8, 2, dilation=2), b=nn.Conv1d(4, 8, 2, dilation=2), c=nn.Conv1d(8, 4, 1),
    )  # fmt: skip
    return net, (torch.randn(2, 4, 12),)


@pattern({"a": 8})
def batch_norm() -> Built:
    net = Net(lambda s, x: s.b(s.n(s.a(x)).relu()), a=conv(3, 8, 3), n=nn.BatchNorm2d(8), b=conv(8, 4))
    return net, (image(),)


@pattern({"a": 8}, train=True)
def batch_norm_in_training() -> Built:
    return batch_norm()


@pattern({"a": 8})
def shift_that_stays() -> Built:
    """A norm without scale and shift: what is removed is a constant otherwise."""
    net = Net(
        lambda s, x: s.b(s.n(s.a(x)).sigmoid()), a=conv(3, 8, 3), n=nn.BatchNorm2d(8, affine=False), b=conv(8, 4, 3)
    )
    return net, (image(),)


@pattern({"a:0": 3, "a:1": 4}, "norms")
def group_norm() -> Built:
    return Net(lambda s, x: s.b(s.n(s.a(x))), a=conv(3, 12), n=nn.GroupNorm(3, 12), b=conv(12, 4)), (image(),)


@pattern({"a": 8})
def instance_norm() -> Built:
    net = Net(lambda s, x: s.b(s.n(s.a(x))), a=conv(3, 8), n=nn.InstanceNorm2d(8, affine=True), b=conv(8, 4))
    return net, (image(),)


@pattern({}, "none", "windows")
def local_response_norm() -> Built:
    return Net(lambda s, x: s.b(F.local_response_norm(s.a(x), 3)), a=conv(3, 8), b=conv(8, 4)), (image(),)


@pattern({"a": 8})
def prelu() -> Built:
    return Net(lambda s, x: s.b(s.p(s.a(x))), a=conv(3, 8), p=nn.PReLU(8), b=conv(8, 4)), (image(),)


@pattern({"a": 8}, "told")
def pooled_over_channels() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        gate = s.b(torch.cat([y.amax(1, True), y.mean(1, True)], 1)).sigmoid()
        return s.c(y * gate)

    return Net(forward, a=conv(3, 8), b=conv(2, 1, 3), c=conv(8, 4)), (image(),)


@pattern({"a": 8, "b": 8})
def channel_padding() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.c(s.b(y) + F.pad(y, (0, 0, 0, 0, 4, 4)))

    return Net(forward, a=conv(3, 8), b=conv(8, 16, 3), c=conv(16, 4)), (image(),)


@pattern({"a": 6, "b": 5})
def scaled_branches() -> Built:
    def forward(s: Any, x: Any) -> Any:
        return s.c(torch.cat([2 * s.a(x), -0.5 * s.b(x)], 1).relu())

    return Net(forward, a=conv(3, 6), b=conv(3, 5, 3), c=conv(11, 4)), (image(),)


@pattern({"a": 6})
def multiplied_branches() -> Built:
    return Net(lambda s, x: s.c(s.a(x) * s.b(x).exp()), a=conv(3, 6), b=conv(3, 6, 3), c=conv(6, 4)), (image(),)


@pattern({"a": 6, "b": 9})
def up_and_across() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x).relu()
        z = F.interpolate(s.b(F.max_pool2d(y, 2)), scale_factor=2, mode="bilinear")
        return s.c(torch.cat([y, z], 1))

    return Net(forward, a=conv(3, 6, 3), b=conv(6, 9, 3), c=conv(15, 4)), (image(),)


@pattern({"a": 6})
def flattened() -> Built:
    return Net(lambda s, x: s.b(s.a(x).relu().flatten(1)), a=conv(3, 6, 3), b=nn.Linear(6 * 64, 4)), (image(),)


@pattern({"a": 8})
def shared_module() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.c(s.b(s.b(y).relu()))

    return Net(forward, a=conv(3, 8), b=conv(8, 8, 3), c=conv(8, 4)), (image(),)


@pattern({"a": 8, "b": 16})
def layer_scale() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = s.a(x)
        return s.d(y + s.g * s.c(s.b(y).relu()))

    net = Net(forward, a=conv(3, 8), b=conv(8, 16), c=conv(16, 8), d=conv(8, 4), g=nn.Parameter(torch.rand(8, 1, 1)))
    return net, (image(),)


@pattern({"a": 6, "b": 5})
def windows() -> Built:
    def forward(s: Any, x: Any) -> Any:
        y = F.unfold(s.a(x), 2, stride=2)
        return s.c(F.fold(s.b(y.transpose(1, 2)).transpose(1, 2), (8, 8), 2, stride=2))

    return Net(forward, a=conv(3, 6), b=nn.Linear(24, 20), c=conv(5, 4)), (image(),)


@pattern({"w": [4, 8]})
def weights_of_two_lengths() -> Built:
    """One weight, of which a layer takes some filters and another all."""

    def forward(s: Any, x: Any) -> Any:
        some, every = F.conv2d(x, s.w[:8], padding=1), F.conv2d(x, s.w, s.bias, padding=1)
        return s.b(torch.cat((some, every), 1).relu())

    w, bias = nn.Parameter(torch.randn(12, 3, 3, 3)), nn.Parameter(torch.randn(12))
    return Net(forward, w=w, bias=bias, b=conv(20, 4)), (image(),)


@pattern({"q:0": 2, "q:1": 4, "v:1": 6})
def attention_over_windows() -> Built:
    """Every place attends to its neighbours, which unfold gathers."""

    def forward(s: Any, x: Any) -> Any:
        b, _, h, w = x.shape
        q = s.q(x).view(b, 2, 4, 1, h * w)
        k, v = (F.unfold(y, 3, padding=1).view(b, 2, -1, 9, h * w) for y in (s.k(x), s.v(x)))
        weights = (q * k).sum(2, keepdim=True).softmax(3)
        return s.o((weights * v).sum(3).reshape(b, 12, h, w))

    return Net(forward, q=conv(3, 8), k=conv(3, 8), v=conv(3, 12), o=conv(12, 4)), (image(side=5),)
