"""Networks with a batch more, at other sizes, and what can't have other sizes, by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import tdagger as td
from tdagger.errors import AxisError, TypeMismatchError
from tdagger.ops.source import const
from tests.quick import in_turn


class Fn(nn.Module):
    """A function of x, and a module or tensor that it may use."""

    def __init__(self, f, inner: Any = None):
        super().__init__()
        self.f, self.inner = f, inner

    def forward(self, x):
        return self.f(x) if self.inner is None else self.f(x, self.inner)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def close(found, expected, **tolerance):
    found = found if isinstance(found, torch.Tensor) else torch.as_tensor(np.array(found))
    torch.testing.assert_close(found, expected, equal_nan=True, **tolerance)


# A batch more.


class Lstm(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.net = nn.LSTM(4, 5, **options)

    def forward(self, x):
        out, (h, c) = self.net(x)
        return out, h + c


NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=7), (2, 3, 33, 33)),
    "encoder_layer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (2, 5, 16)),
    "encoder_layer_norm_first": (lambda: nn.TransformerEncoderLayer(16, 4, 32, norm_first=True), (5, 2, 16)),
    "lstm": (lambda: Lstm(batch_first=True), (2, 4, 4)),
    "lstm_two_ways": (lambda: Lstm(bidirectional=True, num_layers=2), (4, 2, 4)),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), (1, 3, 32, 32)),
}


def counts(graph: td.Graph) -> dict[str, int]:
    """How often each op that isn't a view or arithmetic occurs."""
    labels = (
        "convolution",
        "linear",
        "matmul",
        "softmax",
        "layer_norm",
        "batch_norm",
        "lstm",
        "scaled_dot_product_attention",
    )
    return {n: sum(v.op.name == n for v in graph.values) for n in labels}


@pytest.mark.parametrize(("name", "axis"), in_turn(3, NETWORKS, (0, 1, -1)))
def test_batch(name, axis):
    make, shape = NETWORKS[name]
    module = make().eval()
    dag = td.from_torch(module, torch.randn(shape))
    key = next(iter(dag.graph.inputs))
    batched = dag.batch(3, axis)
    xs = [torch.randn(shape) for _ in range(3)]
    at = axis if axis >= 0 else len(shape)
    assert batched.graph.inputs[key].shape == torch.stack(xs, at).shape
    assert counts(batched.graph) == counts(dag.graph)
    found = batched.to_torch(fixed=True)(torch.stack(xs, at))
    runs = [module(x) for x in xs]
    several = isinstance(runs[0], tuple)
    pairs = zip(found, zip(*runs, strict=True), strict=True) if several else [(found, runs)]
    for one, each in pairs:
        close(one, torch.stack(list(each), axis if axis >= 0 else each[0].dim()), rtol=1e-4, atol=1e-5)
    assert batched.unbatch(input=key, axis=at).graph == dag.graph


def test_batch_of_some_inputs():
    class Two(nn.Module):
        def forward(self, x, y):
            return x @ y, y.sum(0)

    x, y = torch.randn(3, 2, 4), torch.randn(4, 5)
    batched = td.from_torch(Two(), (x[0], y)).batch(3, inputs=["x"])
    found = batched.run(x.numpy(), y.numpy())
    close(found[0], torch.stack([each @ y for each in x]))
    close(found[1], y.sum(0))
    with pytest.raises(AxisError, match="batch: no input is called 'z'; there are x, y"):
        batched.batch(2, inputs=["z"])


# Sizes of images.


class Fpn(nn.Module):
    """Levels of an image, made as large as one another."""

    def __init__(self, **how):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.how = how

    def forward(self, x):
        high = self.a(x).relu()
        low = self.b(high)
        high = high + F.interpolate(low, size=high.shape[-2:], **self.how)
        return F.interpolate(high, size=x.shape[-2:], **self.how) + x.mean(1, keepdim=True), low


SIZES = [(32, 32), (225, 19), (31, 64), (17, 18)]
IMAGES = {
    "max pool": Fn(lambda x: F.max_pool2d(x, 3, 2, 1)),
    "max pool of 2": Fn(lambda x: F.max_pool2d(x, 2)),
    "ceil mode": Fn(lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    "average ceil": Fn(lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
    "convolutions": Fn(
        lambda x, m: m(x), nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, 2))
    ),
    "dilated": Fn(lambda x, m: m(x), nn.Conv2d(3, 4, 3, 3, 2, 2)),
    "adaptive 1": Fn(lambda x: F.adaptive_avg_pool2d(x, 1)),
    "adaptive 7": Fn(lambda x: F.adaptive_avg_pool2d(x, 7)),
    "adaptive 4": Fn(lambda x: F.adaptive_avg_pool2d(x, 4)),
    "adaptive as it was": Fn(lambda x: F.adaptive_avg_pool2d(x, 32)),
    "adaptive max 3 5": Fn(lambda x: F.adaptive_max_pool2d(x, (3, 5))),
    "adaptive 7 after strides": Fn(lambda x, m: F.adaptive_avg_pool2d(m(x), 7), nn.Conv2d(3, 4, 3, 2)),
    "twice as large": Fn(lambda x: F.interpolate(x, scale_factor=2)),
    "twice, bilinear": Fn(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "half, bicubic": Fn(lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic")),
    "of another branch": Fpn(),
    "of another branch, bilinear": Fpn(mode="bilinear"),
    "of another branch, corners": Fpn(mode="bilinear", align_corners=True),
    "area": Fpn(mode="area"),
    "transposed": Fn(lambda x, m: m(x), nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1))),
    "reflected": Fn(lambda x, m: m(F.pad(x, (1, 2, 3, 1), mode="reflect")), nn.Conv2d(3, 2, 4)),
    "unfold": Fn(lambda x: F.unfold(x, 3, padding=1, stride=2)),
    "blur": Fn(lambda x, k: F.conv2d(x, k.expand(3, 1, 3, 3), padding=1, groups=3), torch.ones(1, 1, 3, 3) / 9),
    "diagonal kernel": Fn(lambda x, k: x + F.conv2d(x, k.expand(3, 1, 3, 3), padding=1, groups=3), torch.eye(3)),
    "cropped": Fn(lambda x: x[:, :, 1:-1, 2:] + x[:, :, 2:, :-2]),
    "strided slices": Fn(lambda x: torch.cat([x[..., ::2, ::2], x[..., ::2, ::2] ** 2], 1)),
    "coordinates": Fn(lambda x: x + torch.arange(0.5, x.shape[-1]) * 2),
    "half as large again": Fn(lambda x: F.interpolate(x, scale_factor=1.5)),
    "instance norm": Fn(lambda x: F.instance_norm(x)),
}


@pytest.mark.parametrize(("name", "size"), in_turn(3, IMAGES, SIZES[1:]))
def test_image_sizes(name, size):
    module = IMAGES[name].eval()
    x = torch.randn(2, 3, *size)
    dag = td.from_torch(module, torch.randn(1, 3, *SIZES[0])).resize({"x": tuple(x.shape)})
    found, expected = dag.run(x.numpy()), module(x)
    several = isinstance(expected, tuple)
    for a, b in zip(found, expected, strict=True) if several else [(found, expected)]:
        close(a, b, rtol=1e-4, atol=1e-5)
    assert dag.graph == td.from_torch(module, x).graph


# What can't follow.


class Table(nn.Module):
    """Positions learned for 5 tokens."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x + self.positions)


def test_a_learned_table_is_named():
    dag = td.from_torch(Table(), torch.randn(1, 5, 4))
    with pytest.raises(AxisError) as e:
        dag.resize({"x": (2, 8, 4)})
    first, second, third = str(e.value).splitlines()
    assert re.fullmatch(
        r"resize\(x=\(2, 8, 4\)\): the dimension c\d? of positions has 5 entries and can't have 8", first
    )
    assert second == "axes that can be resized: b"
    assert third.startswith("and with x of shape (2, 8, 4) the source itself raises")
    assert dag.resizable_axes().free == ("b",)
    assert all(re.search("of positions has [45] entries", why) for why in dag.resizable_axes().fixed.values())
    assert str(dag.resizable_axes()).startswith("free: b\nfixed: c")


def test_a_flatten_before_a_linear_is_named():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 4 * 4, 5)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    dag = td.from_torch(Flat(), torch.randn(1, 3, 8, 8))
    with pytest.raises(AxisError, match=r"of fc.weight has (\w+ x )*\d+ entries and can't have .*\n.*resized: b"):
        dag.resize({"x": (1, 3, 16, 8)})
    assert "b" in dag.resizable_axes().free


def test_channels_are_named():
    dag = td.from_torch(Fn(lambda x, m: m(x), nn.Conv2d(3, 4, 1)), torch.randn(1, 3, 8, 8))
    with pytest.raises(AxisError, match=r"the dimension c of inner\.weight has 3 entries and can't have 4"):
        dag.resize(c=4)
    assert dag.resizable_axes().free == ("b", "h", "w")


def test_a_loop_over_an_axis_is_named():
    """What Python looped over has as many steps as it had: unbound, each entry for itself."""
    dag = td.from_torch(Fn(lambda x: sum(x.unbind(0))), (torch.rand(3, 4),), sizes="alone")
    with pytest.raises(AxisError, match=r"takes one entry of .*every other of its 3 taken: a loop over them ran"):
        dag.resize({"x": (5, 4)})
    first = td.from_torch(Fn(lambda x: x[0] + x[-1]), (torch.rand(3, 4),)).resize({"x": (5, 4)})
    x = torch.rand(5, 4)
    close(first.run(x.numpy()), x[0] + x[-1])


def test_positions_beyond_their_table_are_named():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(12, 4)

        def forward(self, x):
            return x + self.table(torch.arange(x.shape[1]) + 2)

    module = Positions()
    dag = td.from_torch(module, (torch.rand(2, 5, 4),))
    x = torch.rand(2, 10, 4)
    close(dag.resize({"x": (2, 10, 4)}).to_torch()(x), module(x))
    with pytest.raises(AxisError, match=r"reads entry 12 of table\.weight, which has 12"):
        dag.resize({"x": (2, 11, 4)})


def test_sizes_are_at_least_one():
    dag = td.from_torch(Fn(torch.sin), torch.randn(2, 3))
    with pytest.raises(AxisError, match="resize: sizes are at least 1"):
        dag.resize(b=0)
    with pytest.raises(AxisError, match="no axis is named 'q'"):
        dag.resize(q=2)


# Constants.

STATES = "plain", "buffer"


def scores(x, mask):
    return (x @ x.transpose(1, 2)).masked_fill(mask == 0, -torch.inf).softmax(-1) @ x


def biased(x, bias):
    return (x @ x.transpose(1, 2) + bias).softmax(-1) @ x


#: What is made for a length, and how it is used.
MADE = {
    "numbers": (lambda n: torch.arange(n)[:, None], lambda x, t: x + t),
    "numbers from 2 by 3": (lambda n: torch.arange(2, 2 + 3 * n, 3)[:, None], lambda x, t: x * t),
    "ones": (lambda n: torch.ones(n, 1), lambda x, t: x * t),
    "along the other axis": (lambda n: torch.tensor([0.3, -2.0, 5.0, 1.5]).expand(n, 4).clone(), lambda x, t: x * t),
    "causal": (lambda n: torch.ones(n, n).tril(), scores),
    "causal of bools": (lambda n: torch.ones(n, n, dtype=torch.bool).tril(), scores),
    "anti-causal": (lambda n: torch.ones(1, n, n).triu(), scores),
    "with the next": (lambda n: torch.ones(n, n).tril(1), scores),
    "infinities": (lambda n: torch.full((n, n), -torch.inf).triu(1), biased),
    "torch's own": (nn.Transformer.generate_square_subsequent_mask, biased),
    "compared": (lambda n: torch.arange(n)[None] <= torch.arange(n)[:, None], scores),
    "a window": (lambda n: (torch.arange(n)[None] - torch.arange(n)[:, None]).abs() <= 1, scores),
    "linear bias": (lambda n: (torch.arange(n)[None] - torch.arange(n)[:, None]) * 0.25, biased),
    "not itself": (lambda n: torch.eye(n).bool().logical_not(), scores),
    "for attention": (
        lambda n: torch.ones(n, n, dtype=torch.bool).tril(),
        lambda x, t: F.scaled_dot_product_attention(x, x, x, attn_mask=t),
    ),
}  # fmt: skip


class Made(nn.Module):
    """Uses what was made for a length: on every call, or once, as an attribute or as a buffer."""

    def __init__(self, name, how):
        super().__init__()
        self.make, self.use = MADE[name]
        self.how = how
        if how == "plain":
            self.mask = self.make(5)
        elif how == "buffer":
            self.register_buffer("mask", self.make(5), persistent=False)

    def forward(self, x):
        return self.use(x, self.make(x.shape[1]) if self.how == "called" else self.mask)


@pytest.mark.parametrize(("name", "case"), in_turn(3, MADE, [(h, n) for n in (8, 3, 1) for h in ("called", "plain")]))
def test_constants_are_made_anew(name, case):
    how, length = case
    module = Made(name, how)
    x = torch.randn(2, length, 4)
    dag = td.from_torch(module, torch.randn(1, 5, 4)).resize({"x": tuple(x.shape)})
    make, use = MADE[name]
    try:
        expected = module(x)  # one entry may be broadcast to what was made once
    except RuntimeError:
        expected = use(x, make(length))
    close(dag.run(x.numpy()), expected)
    if how == "called" and length > 1:  # of one entry other things are known
        assert dag.graph == td.from_torch(module, x).graph


@pytest.mark.parametrize("name", MADE)
def test_buffers_are_not(name):
    dag = td.from_torch(Made(name, "buffer"), torch.randn(1, 5, 4))
    with pytest.raises(AxisError, match=r"of mask has 5 entries and can't have 8\naxes that can be resized: b"):
        dag.resize({"x": (2, 8, 4)})


class Sines(nn.Module):
    """Positions that are computed once, and not by counting."""

    def __init__(self):
        super().__init__()
        self.table = torch.sin(torch.arange(5)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001]))

    def forward(self, x):
        return x + self.table


def test_other_constants_are_named():
    dag = td.from_torch(Sines(), torch.randn(1, 5, 4))
    with pytest.raises(
        AxisError, match=r"the dimension \w+ of the constant const\(\w+\) has 5 entries and can't have 8"
    ):
        dag.resize({"x": (1, 8, 4)})
    assert dag.resize({"x": (7, 5, 4)}).graph.inputs["x"].shape == (7, 5, 4)


def test_a_mask_for_two_lengths_that_differ():
    """What it holds where keys and queries differ in number isn't known."""

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = torch.ones(5, 5).tril()

        def forward(self, x, y):
            return (x @ y.transpose(1, 2)) * self.mask

    dag = td.from_torch(Cross(), (torch.randn(1, 5, 4), torch.randn(1, 5, 4)))
    with pytest.raises(AxisError, match=r"<multiply.*\): const\(\w+\) of \[5, 5\] was made for 5 entries of dimension"):
        dag.resize({"x": (1, 8, 4), "y": (1, 5, 4)})
    x, y = torch.randn(1, 8, 4), torch.randn(1, 8, 4)
    found = dag.resize({"x": (1, 8, 4), "y": (1, 8, 4)}).run(x.numpy(), y.numpy())
    close(found, (x @ y.transpose(1, 2)).tril())


@pytest.mark.parametrize(
    ("data", "axis", "size", "expected"),
    [
        ([1, 2, 3], 0, 5, [1, 2, 3, 4, 5]),
        ([5, 4, 3], 0, 4, [5, 4, 3, 2]),
        ([7, 7], 0, 3, [7, 7, 7]),
        ([1, 2], 0, 3, None),
        ([1, 2, 4], 0, 4, None),
        ([[1, 2, 3], [4, 5, 6]], 1, 4, [[1, 2, 3, 4], [4, 5, 6, 7]]),
        ([True, True, False], 0, 4, None),
    ],
)
def test_what_is_clear_of_a_constant(data, axis, size, expected):
    found = const(data).op.resized(axis, size)
    assert (found is None) == (expected is None)
    assert found is None or found.tolist() == expected


def test_no_guesses_at_the_ends_of_numbers():
    small = const(np.arange(250, 256, dtype=np.uint8)).op
    assert small.resized(0, 4) is not None
    assert small.resized(0, 7) is None  # 256 is no 8-bit number
    assert const(np.array([2, 1, 0], np.uint8)).op.resized(0, 4) is None
    signs = const(np.array([0.0, -0.0], np.float32)).op
    assert signs.resized(0, 3) is None
    with np.errstate(all="raise"):
        assert const(np.array([0.0, -np.inf, -np.inf, 3.0], np.float32)).op.resized(0, 5) is None
        found = const(np.full(2, np.nan, np.float32)).op.resized(0, 3)
    assert found is not None
    assert np.isnan(found).tolist() == [True] * 3
    assert const(np.zeros((0, 2), np.float32)).op.resized(0, 3) is None


def test_bands():
    causal = const(np.tril(np.ones((2, 3, 3), np.float32))).op
    assert [causal.partner(i) for i in range(3)] == [None, 2, 1]
    assert causal.banded(1, 2, 4).tolist() == [np.tril(np.ones((4, 4))).tolist()] * 2
    assert const(np.tril(np.ones((2, 2)))).op.partner(0) is None  # too few to tell
    assert const(np.tril(np.ones((4, 3)))).op.partner(0) is None  # where it starts and ends would be a guess
    spread = const(np.abs(np.subtract.outer(np.arange(4), np.arange(4)))).op
    assert spread.partner(0) is None  # goes on as it likes
    assert const(np.diag(np.arange(4))).op.partner(0) is None


def test_the_states_of_a_recurrent_network_have_its_batch():
    x, h, c = td.input("x", (4, 2, 3)), td.input("h", (1, 1, 5)), td.input("c", (1, 1, 5))
    weights = [td.parameter(f"w{i}", s) for i, s in enumerate([(20, 3), (20, 5), (20,), (20,)])]
    with pytest.raises(TypeMismatchError, match=r"the states of x .* have its batch"):
        td.lstm(x, h, c, *weights, layers=1)


def test_a_recurrent_network_at_other_sizes():
    """Its states follow the batch, which torch's own asks for, and its costs the number of steps."""
    module = Lstm(batch_first=True).eval()
    dag = td.from_torch(module, torch.randn(1, 4, 4))
    flops = dag.cost_formula("flops")
    x = torch.randn(5, 7, 4)
    resized = dag.resize({"x": tuple(x.shape)})
    assert [v.op.name for v in resized.graph.values].count("lstm") == 1
    for found, expected in zip(resized.to_torch()(x), module(x), strict=True):
        close(found, expected)
    b, n = dag.axes().shape(dag.graph.inputs["x"]).split()[:2]
    assert flops(**{b: 5, n: 7}) == resized.graph.total_flops()


@pytest.mark.xfail(strict=True, reason="constants made of one arange share an axis, so h and w are taken for one")
def test_one_arange_for_two_axes_of_one_size():
    module = Fn(lambda x: x + torch.arange(x.shape[-1]) * torch.arange(x.shape[-2])[:, None])
    x = torch.randn(2, 3, 8, 5)
    dag = td.from_torch(module, torch.randn(1, 3, 6, 6)).resize({"x": tuple(x.shape)})
    close(dag.run(x.numpy()), module(x))
