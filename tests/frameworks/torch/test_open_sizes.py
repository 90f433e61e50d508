"""Modules that take any size of the axes that are free: as the source does, or refused at the door."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td
from tdagger.analysis.formulas.polynomial import symbol
from tdagger.frameworks.torch.emit.sizes import Bindings
from tdagger.types import sizes_as


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(()) * 1.5)

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def windows(x: Tensor) -> Tensor:
    """Windows of 4 as a batch, and back: Python divides sizes, which no graph says."""
    b, h, w, c = x.shape
    x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    x = x.softmax(1)
    b = x.shape[0] // (h * w // 16)
    return x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)


def attention(x: Tensor) -> Tensor:
    """Causal attention with a mask made of the sequence's length."""
    b, s, c = x.shape
    q = x.reshape(b, s, 2, c // 2).transpose(1, 2)
    mask = torch.arange(s)[:, None] >= torch.arange(s)[None]
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask).transpose(1, 2).reshape(b, s, c)


def routed(x: Tensor) -> Tensor:
    """Tokens brought in an order that the data says, as routers of experts do, and back by the inverse order."""
    flat = x.reshape(-1, x.shape[-1])
    order = flat[:, 0].argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0])
    return (flat[order] * 2)[inverse].view(x.shape)


def several_indices(x: Tensor) -> Tensor:
    """Entries by three indices at once, of which negative ones count from ends that are open."""
    i = x[:, 0, 0].argsort(stable=True)
    return x[i, -1 - i % 2, i % 2 - 1]


#: What is computed, of which shapes, and shapes that it takes then too.
CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], list[list[tuple[int, ...]]]]] = {
    "flatten": (lambda x: x.flatten(1) * 2, [(2, 3, 4)], [[(5, 3, 4)], [(1, 3, 4)]]),
    "product": (lambda x: x.reshape(-1, 4).cumsum(0), [(2, 3, 4)], [[(5, 7, 4)]]),
    "heads": (attention, [(2, 6, 8)], [[(1, 1, 8)], [(3, 11, 8)]]),
    "windows": (windows, [(2, 8, 8, 3)], [[(1, 8, 8, 3)], [(3, 8, 8, 3)]]),
    "from the end": (lambda x: x[:, 1:-2] - x[:, 2:-1], [(2, 6)], [[(3, 9)], [(1, 3)]]),
    "half": (lambda x: torch.fft.rfft(x).abs(), [(2, 6)], [[(3, 9)], [(1, 8)]]),
    "chunk": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), [(2, 6)], [[(3, 6)], [(1, 6)]]),
    "flip": (lambda x: x.flip(1)[:, ::2], [(2, 6)], [[(3, 9)], [(1, 5)]]),
    "roll": (lambda x: x.roll(1, 1), [(2, 6)], [[(3, 9)]]),
    "expanded": (lambda x: x[:, None].expand(-1, 3, -1) + x.shape[1] * 0, [(2, 6)], [[(3, 6)], [(1, 6)]]),
    "zeros": (lambda x: torch.cat([torch.zeros_like(x[:, :1]), x], 1), [(2, 6)], [[(3, 9)]]),
    "places": (lambda x: x + torch.arange(x.shape[1], dtype=x.dtype), [(2, 6)], [[(3, 9)]]),
    "pooled": (lambda x: F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2, 1), 1), [(2, 3, 9, 8)], [[(1, 3, 12, 5)]]),
    "larger": (lambda x: F.interpolate(x, scale_factor=2.0), [(2, 3, 4, 6)], [[(1, 3, 5, 5)]]),
    "mean": (lambda x: (x - x.mean(1, keepdim=True)).var(1), [(2, 6)], [[(3, 9)]]),
    "routed": (routed, [(2, 6, 4)], [[(3, 9, 4)], [(1, 1, 4)]]),
    "several indices": (several_indices, [(4, 6, 5)], [[(3, 9, 4)], [(7, 7, 2)]]),
    "two": (lambda x, y: x @ y.transpose(0, 1), [(2, 6), (5, 6)], [[(3, 6), (4, 6)], [(3, 7), (1, 7)]]),
    "dict": (lambda x: {"a": x.sum(1), "b": [x.max(1).values]}, [(2, 6)], [[(3, 9)]]),
}


def check(module: nn.Module, net: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    """The same of the same numbers."""
    args = [torch.randn(shape) for shape in shapes]
    torch.testing.assert_close(net(*args), module(*args))


@pytest.mark.parametrize("name", CASES)
def test_other_sizes(name: str) -> None:
    function, shapes, others = CASES[name]
    module = Function(function)
    net = td.from_torch(module, tuple(torch.randn(s) for s in shapes)).to_torch()
    for other in (shapes, *others):
        check(module, net, other)


def test_a_convolutional_network() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()  # fmt: skip
    net = td.from_torch(module, torch.randn(2, 3, 16, 20)).to_torch()
    assert set(net.fixed_axes) == {"c"}
    for shape in [(1, 3, 16, 20), (3, 3, 19, 16)]:
        check(module, net, [shape])
    with pytest.raises(
        td.InputError, match=re.escape("'input' must be f32[b c=3 h w], got torch.float32[2, 4, 16, 20]: axis 1")
    ):
        net(torch.randn(2, 4, 16, 20))
    with pytest.raises(td.InputError, match=re.escape("got torch.float32[3, 16, 20]")):
        net(torch.randn(3, 16, 20))


def test_a_recurrent_network() -> None:
    module = nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True).eval()
    net = td.from_torch(module, torch.randn(2, 5, 6)).to_torch()
    for shape in [(1, 1, 6), (3, 8, 6)]:
        check(module, net, [shape])


def test_training_keeps_the_sizes_open() -> None:
    module = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.0)).train()
    net = td.from_torch(copy.deepcopy(module), torch.randn(2, 3, 8)).to_torch()
    x = torch.randn(5, 3, 11)
    torch.testing.assert_close(net(x), module(x))
    torch.testing.assert_close(net.state_dict(), module.state_dict())


def test_gradients_at_other_sizes() -> None:
    module = Function(lambda x: attention(x) * module.scale)
    net = td.from_torch(module, torch.randn(2, 6, 8)).to_torch()
    x = torch.randn(3, 9, 8)
    net(x).square().sum().backward()
    ours = net.get_parameter("scale").grad
    module(x).square().sum().backward()
    torch.testing.assert_close(ours, module.scale.grad)


def test_sizes_of_several_inputs_agree() -> None:
    net = td.from_torch(Function(lambda x, y: x + y[:, None]), (torch.randn(2, 3, 4), torch.randn(2, 4))).to_torch()
    assert net(torch.randn(5, 3, 4), torch.randn(5, 4)).shape == (5, 3, 4)
    with pytest.raises(td.InputError, match=re.escape("got torch.float32[6, 4]: axis 0 is 6, not 5")):
        net(torch.randn(5, 3, 4), torch.randn(6, 4))


def test_fixed() -> None:
    dag = td.from_torch(Function(lambda x: x.flatten(1)), torch.randn(2, 3, 4))
    net = dag.to_torch(fixed=True)
    assert ".shape" not in net.code
    assert net.fixed_axes == {}
    with pytest.raises(td.InputError, match=re.escape("must be f32[2 3 4], got torch.float32[5, 3, 4]")):
        net(torch.randn(5, 3, 4))


def test_the_source_is_asked_where_the_graph_leaves_doubt() -> None:
    """``x[2:]`` of 3 may be the last entry."""
    module = Function(lambda x: x[2:] * 2)
    program = torch.export.export(module, (torch.randn(3, 6),))
    alone = td.from_torch(program).to_torch()
    assert any("2: of 3" in why for why in alone.fixed_axes.values())
    with pytest.raises(td.InputError, match="=3"):
        alone(torch.randn(4, 6))
    check(module, td.from_torch(module, torch.randn(3, 6)).to_torch(), [(5, 6)])


def test_what_python_computed_is_fixed() -> None:
    """The source does something else at other sizes: nobody may go on with what it did at these."""

    def odd(x: Tensor) -> Tensor:
        return x * (2.0 if x.shape[1] > 4 else 3.0) + x.shape[0] ** 2

    module = Function(odd)
    net = td.from_torch(module, torch.randn(2, 3)).to_torch()
    for shape in [(2, 3), (2, 7), (3, 3), (1, 3)]:
        x = torch.randn(shape)
        try:
            got = net(x)
        except td.InputError:
            continue
        torch.testing.assert_close(got, module(x))


class _Tiled(nn.Module):
    """Positions are laid end to end for each of the batch, as timm's XCiT does."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 4, 6))
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.positions.repeat(len(x), 1, 1))


def test_what_is_tiled_to_a_batch_follows_it() -> None:
    """With a batch of 1 it is tiled once, which is nothing, and broadcast where there are more."""
    module = _Tiled().eval()
    back = td.from_torch(module, torch.randn(1, 4, 6)).to_torch()
    assert "b" not in back.fixed_axes
    for batch in (1, 3, 7):
        x = torch.randn(batch, 4, 6)
        torch.testing.assert_close(back(x), module(x))


def test_fewer_entries_than_slices_take_are_refused() -> None:
    net = td.from_torch(Function(lambda x: x[:, -3:-1].reshape(-1, 2)), torch.randn(2, 6)).to_torch()
    assert net(torch.randn(4, 8)).shape == (4, 2)
    with pytest.raises(td.InputError, match="3 at least are needed"):
        net(torch.randn(2, 2))


def test_a_constant_that_follows_in_no_way_is_fixed() -> None:
    table = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
    net = td.from_torch(Function(lambda x: x + table), torch.randn(2, 5)).to_torch()
    assert net(torch.randn(7, 5)).shape == (7, 5)
    with pytest.raises(td.InputError, match=r"=5\]"):
        net(torch.randn(2, 6))


def test_blocks_read_sizes_from_their_own_arguments() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            b, s, _ = x.shape
            q, k, v = self.qkv(x).reshape(b, s, 3, 2, 4).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, s, 8)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Attention(), Attention()])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return x

    module = Network()
    net = td.from_torch(module, torch.randn(2, 5, 8)).to_torch()
    assert net.code.count("class Attention") == 1
    assert "b, s = x.shape[:2]" in net.code
    for b, s in [(1, 3), (4, 9)]:
        check(module, net, [(b, s, 8)])
    check(module.layers[0], net.get_submodule("layers.0"), [(3, 4, 8)])


def test_copies_keep_the_sizes_open() -> None:
    net = td.from_torch(Function(attention), torch.randn(2, 6, 8)).to_torch()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other(torch.randn(3, 4, 8)).shape == (3, 4, 8)
        assert other.fixed_axes == net.fixed_axes


def test_exported_with_dynamic_shapes() -> None:
    net = td.from_torch(Function(attention), torch.randn(2, 6, 8)).to_torch()
    dims = {0: torch.export.Dim("b"), 1: torch.export.Dim("s")}
    program = torch.export.export(net, (torch.randn(2, 6, 8),), dynamic_shapes=(dims,))
    x = torch.randn(5, 9, 8)
    torch.testing.assert_close(program.module()(x), net(x))


def test_expressions_of_sizes() -> None:
    h, c = symbol("h", 8), symbol("c", 3)
    x = td.input("x", (sizes_as(h * 2, 16), 3, sizes_as(c, 3)))
    bound = Bindings([("x", x)], {"x"})
    text = bound.filled(
        f"f({sizes_as(h * 6, 48)}, {sizes_as(h, 8)}, -{sizes_as(c + 1, 4)}, {sizes_as((c + 1) // 2, 2)})"
    )
    assert text == "f(h * 3, h // 2, -(c + 1), (c + 1) // 2)"
    assert bound.lines() == ["h, _, c = x.shape"]
    with pytest.raises(td.AxisError, match="can't be told"):
        bound.filled(str(sizes_as(symbol("w", 2), 2)))


def test_the_source_is_asked_at_few_points() -> None:
    """Where all are large, small, alike, and each is small; also where both are doubtful."""
    dag = td.from_torch(Function(lambda x: x[2:, 1:] * 2), torch.randn(3, 6))
    dag.to_torch()
    dag.to_torch()
    assert dag.source.count[0] == 5


def unseen(size: int) -> int:
    """A size whose comparisons can't be seen: of C."""
    return int(np.int64(size))


@pytest.mark.parametrize("by", [2, 3, 5])
def test_what_python_does_to_odd_sizes_is_fixed_or_asked_for(by: int) -> None:
    """The graph leaves no doubt: only the source says that it is another where a size isn't a multiple."""
    module = Function(lambda x: x * 2 if unseen(x.shape[1]) % by == 0 else x * 3)
    net = td.from_torch(module, torch.randn(2, 30)).to_torch()
    assert net.fixed_axes == {"n": "at n=61 the source does something else"}
    check(module, net, [(5, 30)])
    with pytest.raises(td.InputError, match="n=30"):
        net(torch.randn(2, 31))
    module = Function(lambda x: x * 2 if x.shape[1] % by == 0 else x * 3)
    net = td.from_torch(module, torch.randn(2, 30)).to_torch()
    for shape in ((5, 60), (2, 7 * by), (1, by)):
        check(module, net, [shape])
    with pytest.raises(td.InputError, match="entries the source does something else"):
        net(torch.randn(2, 31))


@pytest.mark.parametrize(("size", "asked"), [(1, 12), (3, 14), (7, 18)])
def test_what_python_does_to_even_sizes_is_fixed_or_asked_for(size: int, asked: int) -> None:
    """The example's size is odd, so the source is asked at an even one."""
    module = Function(lambda x: x * 7.5 if unseen(x.shape[1]) % 2 else x * 9.5)
    net = td.from_torch(module, torch.randn(2, size)).to_torch()
    assert net.fixed_axes == {"n": f"at n={asked} the source does something else"}
    check(module, net, [(5, size)])
    module = Function(lambda x: x * 7.5 if x.shape[1] % 2 else x * 9.5)
    net = td.from_torch(module, torch.randn(2, size)).to_torch()
    for shape in ((5, size), (1, 1), (3, 21)):
        check(module, net, [shape])
    with pytest.raises(td.InputError, match="entries the source does something else"):
        net(torch.randn(2, 12))


def test_what_is_cut_into_windows_is_asked_at_multiples() -> None:
    """The source can't have odd sizes of one axis; what it does to odd sizes of another is seen all the same."""

    def function(x: Tensor) -> Tensor:
        assert unseen(x.shape[2]) % 2 == 0
        return x * 7.5 if unseen(x.shape[1]) % 2 == 0 else x * 3

    net = td.from_torch(Function(function), torch.randn(2, 6, 4)).to_torch()
    assert net.fixed_axes == {"n": "at n=17 the source does something else"}
    check(Function(function), net, [(3, 6, 10)])


def test_sizes_that_must_be_even_are_asked_for() -> None:
    def function(x: Tensor) -> Tensor:
        assert x.shape[2] % 2 == 0
        return x * 7.5 if x.shape[1] % 2 == 0 else x * 3

    net = td.from_torch(Function(function), torch.randn(2, 6, 4)).to_torch()
    assert net.fixed_axes == {}
    for shape in ((3, 8, 10), (1, 2, 2)):
        check(Function(function), net, [shape])
    for shape in ((2, 6, 5), (2, 7, 4)):
        with pytest.raises(td.InputError, match=r"multiple|entries the source"):
            net(torch.randn(shape))


@pytest.mark.parametrize(
    ("function", "least"),
    [
        (lambda x: x[..., :1] if x.shape[1] > 4 else x + 1, 5),
        (lambda x: x * 2 if torch.cat([x, x], 1).shape[1] > 5 else x, 3),
        (lambda x: F.pad(x, (x.shape[1] // 3 // 2,) * 2) if x.shape[1] < 3 else x * 2, 3),
        (lambda x: x[:, torch.tril_indices(2, x.shape[1])[1]] if x.shape[1] < 4 else x * 2, 4),
        (lambda x: x.sum(1) if x.shape[1] == 1 else x.mean(1), 2),
    ],
)
def test_a_branch_on_few_entries_is_refused_at_the_door(function: Callable[[Tensor], Tensor], least: int) -> None:
    """The source goes another way where it is given few entries."""
    module = Function(function)
    net = td.from_torch(module, torch.randn(2, 8)).to_torch()
    for shape in ((5, 8), (1, 17), (3, least)):
        check(module, net, [shape])
    with pytest.raises(td.InputError, match=f"n: with {least - 1} entries the source does something else"):
        net(torch.randn(2, least - 1))


def test_a_size_is_told_from_one_that_leaves_the_same_rest() -> None:
    """``2 * 7 + 2`` leaves by 3 what 7 leaves; and a half of a third of few entries is what it is of a few more."""
    for function, size in (
        (lambda x: F.pad(x, (0, -x.shape[1] % 3)), 7),
        (lambda x: F.pad(x[:, ::3], (x[:, ::3].shape[1] // 2,) * 2), 4),
    ):
        module = Function(function)
        net = td.from_torch(module, torch.randn(2, size)).to_torch()
        assert len(net.fixed_axes) == 1
        check(module, net, [(5, size)])


def test_axes_that_need_some_entries_together_are_not_both_smaller() -> None:
    module = Function(lambda x: x * 2 if x.shape[1] * x.shape[2] > 5 else x)
    net = td.from_torch(module, torch.randn(2, 6, 6)).to_torch()
    for shape in ((1, 6, 6), (1, 1, 6), (2, 7, 9)):
        check(module, net, [shape])
    with pytest.raises(td.InputError, match="the source does something else"):
        net(torch.randn(2, 2, 2))


def test_axes_that_the_source_ties_together_are_not_both_open() -> None:
    """Either may have another size, both may not."""

    def function(x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] == 2 or x.shape[1] == 6 else x * 3

    net = td.from_torch(Function(function), torch.randn(2, 6)).to_torch()
    assert list(net.fixed_axes) == ["n"]
    check(Function(function), net, [(5, 6)])


def test_axes_of_one_size_are_told_apart() -> None:
    """The source mixes up two sizes that are the same in the example, and at every multiple of it."""
    module = Function(lambda x: x * x.shape[1] if x.shape[1] == x.shape[2] else x)
    net = td.from_torch(module, torch.randn(2, 6, 6)).to_torch()
    with pytest.raises(td.InputError):
        net(torch.randn(2, 6, 7))


SOME = torch.tensor([0, 5])

#: What needs so many entries of the last axis, of 9 in the example; the source raises of fewer.
FEWEST: dict[str, tuple[Callable[..., Any], tuple[int, ...], int, str]] = {
    "diagonal": (lambda x: x.diagonal(1, 1, 2), (2, 2, 9), 3, "diagonal"),
    "topk": (lambda x: x.topk(3, 1)[0], (2, 9), 3, "topk"),
    "kthvalue": (lambda x: x.kthvalue(3, 1)[0], (2, 9), 3, "kthvalue"),
    "convolution": (lambda x: F.conv1d(x, torch.ones(2, 3, 4)), (2, 3, 9), 4, "convolution"),
    "stride": (lambda x: F.conv1d(x, torch.ones(2, 3, 4), stride=3, padding=1), (2, 3, 9), 2, "convolution"),
    "transposed": (
        lambda x: F.conv_transpose1d(x, torch.ones(3, 2, 3), stride=2, padding=3),
        (2, 3, 9),
        3,
        "convolution_transpose",
    ),
    "pool": (lambda x: F.max_pool1d(x, 4, 2), (2, 3, 9), 4, "max_pool"),
    "pool of a pool": (lambda x: F.avg_pool1d(F.max_pool1d(x, 2), 3), (2, 3, 9), 6, "avg_pool"),
    "reflect": (lambda x: F.pad(x, (2, 3), mode="reflect"), (2, 3, 9), 4, "reflect_pad"),
    "circular": (lambda x: F.pad(x, (2, 3), mode="circular"), (2, 3, 9), 3, "circular_pad"),
    "windows": (lambda x: x.unfold(1, 4, 2), (2, 9), 4, "unfold"),
    "index": (lambda x: x[:, SOME], (2, 9), 6, "gather"),
    "written": (lambda x: x.index_copy(1, SOME, torch.ones(2, 2)), (2, 9), 6, "scatter"),
    "smaller": (lambda x: F.interpolate(x, scale_factor=0.3), (2, 3, 9), 4, "interpolate"),
    "norm": (lambda x: F.instance_norm(x), (2, 3, 9), 2, "instance_norm"),
}


@pytest.mark.parametrize("name", FEWEST)
def test_too_few_entries_are_refused_at_the_door(name: str) -> None:
    function, shape, least, what = FEWEST[name]
    module = Function(function)
    net = td.from_torch(module, torch.randn(shape)).to_torch()
    check(module, net, [(*shape[:-1], least)])
    check(module, net, [(*shape[:-1], 11)])
    with pytest.raises(td.InputError, match=rf"^\w+: {least} at least are needed by {what}$"):
        net(torch.randn(*shape[:-1], least - 1))


def test_why_an_axis_has_no_other_size_is_told() -> None:
    """A loop in Python is so many steps, each written out."""
    module = Function(lambda x: torch.stack([x[:, i] * i for i in range(3)], 1) + x)
    net = td.from_torch(module, torch.randn(2, 3)).to_torch()
    assert net.fixed_axes["n"].endswith("the dimension n has n entries, which must be 3")


MAYBE_VIEWS: dict[str, Any] = {
    "flatten": lambda x: written((x * 2).permute(1, 0), lambda t: t.flatten()),
    "contiguous": lambda x: written((x * 2).mT, lambda t: t.contiguous()),
    "reshape of a part": lambda x: written((x * 2)[:, :-1], lambda t: t.reshape(-1)),
}


def written(x: Tensor, of: Any) -> Tensor:
    """``x``, after something that may be a view of it was written to."""
    of(x).mul_(3)
    return x + 0


@pytest.mark.parametrize("name", MAYBE_VIEWS)
def test_what_is_a_view_only_where_an_axis_has_one_entry_is_refused_there(name: str) -> None:
    """Strides decide whether these copy, and a dimension of 1 entry fits any."""
    module = Function(MAYBE_VIEWS[name])
    net = td.from_torch(module, torch.randn(3, 5)).to_torch()
    check(module, net, [(7, 5)])
    with pytest.raises(td.InputError, match="may be another where it has 1 entry"):
        net(torch.randn(1, 5))
    alone = td.from_torch(torch.export.export(module, (torch.randn(3, 5),)))
    with pytest.raises(td.AxisError, match="copied here, and shares memory where it has 1 entry"):
        alone.resize({alone_input(alone): (1, 5)})


MIXED: dict[str, Any] = {
    "its own shape": lambda x: written(x * 2, lambda t: t.mT.reshape(t.shape)),
    "several": lambda x: written(
        (x * 2)[None].expand(5, -1, -1).contiguous(), lambda t: t.permute(2, 1, 0).reshape(t.shape)
    ),
    "a factor": lambda x: written(x * 2, lambda t: t.mT.reshape(t.shape[0], 1, -1)),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_is_a_view_where_sizes_happen_to_fit_has_no_other_sizes(name: str) -> None:
    """``(h, w)`` turned to ``(w, h)`` and reshaped to ``(h, w)`` again is copied, but where both are the same."""
    module = Function(MIXED[name])
    dag = td.from_torch(module, torch.randn(4, 3))
    check(module, dag.to_torch(), [(4, 3)])
    for shape in ((3, 3), (4, 4), (4, 6)):
        with pytest.raises(td.InputError, match="input 'input0' must be"):
            dag.to_torch()(torch.randn(shape))
        x = torch.randn(shape)
        torch.testing.assert_close(dag.resize({"input0": shape}).to_torch(fixed=True)(x), module(x))
    assert any("may share memory where sizes happen to fit" in why for why in dag.open_axes.why.values())


WRITTEN_ELSEWHERE: dict[str, Any] = {
    "something else": lambda x: (written(torch.zeros(2, 2), lambda t: t[0]), (x * 2).mT.flatten())[1],
    "what is detached": lambda x: (torch.tensor(3.0).detach_(), (x * 2).mT.flatten())[1],
    "before": lambda x: (x * 2).add_(1).mT.flatten(),
}


@pytest.mark.parametrize("name", WRITTEN_ELSEWHERE)
def test_a_view_or_copy_matters_only_where_its_memory_is_written_after_it(name: str) -> None:
    module = Function(WRITTEN_ELSEWHERE[name])
    dag = td.from_torch(module, torch.randn(3, 5))
    assert not any("shares memory" in left.what for left in dag.left_out)
    net = dag.to_torch()
    for shape in ((7, 5), (1, 5), (1, 1)):
        check(module, net, [shape])


def alone_input(dag: td.TensorDAG) -> str:
    return next(iter(dag.graph.inputs))


@pytest.mark.parametrize("least", [3, 5])
def test_padding_up_to_a_number_is_refused_where_it_pads(least: int) -> None:
    """Of 6 entries nothing is padded; nor of more."""
    module = Function(lambda x: F.pad(x, (0, max(0, least - x.shape[1]))).cumsum(1))
    net = td.from_torch(module, torch.randn(2, 6)).to_torch()
    check(module, net, [(2, 11)])
    with pytest.raises(td.InputError, match=r"where it has (less than|1 entry)"):
        net(torch.randn(2, 1))


def test_a_script_that_squeezes_is_refused_at_one_entry() -> None:
    module = Function(squeezed)
    net = td.from_torch(torch.jit.trace(module, torch.randn(3, 5)), torch.randn(3, 5)).to_torch()
    torch.testing.assert_close(net(x := torch.randn(4, 5)), squeezed(x))
    with pytest.raises(td.InputError, match="may be another where it has 1 entry"):
        net(torch.randn(1, 5))


def squeezed(x: Tensor) -> Tensor:
    return (x * 2).squeeze()


def test_a_script_that_does_something_else_with_multiples_is_fixed() -> None:
    """What TorchScript compares isn't seen; it is asked with so many entries."""
    net = td.from_torch(torch.jit.script(doubled_by_four), torch.randn(7)).to_torch()
    with pytest.raises(td.InputError, match="axis 0 is 8, not 7"):
        net(torch.randn(8))


def doubled_by_four(x: Tensor) -> Tensor:
    return x * 2 if x.shape[0] % 4 == 0 else x + 1


def test_what_follows_sizes_is_not_of_the_layer_that_it_is_given_to() -> None:
    """Numbers that are made anew for each size (T5's buckets of distances) stay with who computes them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.mix = nn.Embedding(32, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = torch.arange(x.shape[1])
            apart = (places[None, :] - places[:, None]).abs().clamp(max=31)
            return torch.einsum("bnd,nmd->bmd", self.mix(x), self.bias(apart))

    module, x = Net(), torch.randn(2, 5, 4)
    back = td.from_torch(module, x).to_torch()
    assert type(back.get_submodule("bias")) is nn.Embedding
    for n in (5, 9):
        y = torch.randn(3, n, 4)
        torch.testing.assert_close(back(y), module(y), rtol=0, atol=0)


def _beside(x: Tensor) -> Tensor:
    """A function that the one of the network names."""
    return x * 2 if len(x) == 6 else x


#: What does something else at a few sizes, or from one on: of the first axis, of 3, or of the second, of 8.
ELSEWHERE: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "one size": (lambda x: x * 2 if x.shape[0] == 5 else x, [(4, 8), (6, 8)], [(5, 8)]),
    "one of the other": (lambda x: x[:1] if x.size(1) == 5 else x, [(5, 8), (5, 9)], [(3, 5)]),
    "more": (lambda x: x * 2 if x.shape[1] > 40 else x, [(13, 40)], [(3, 41), (3, 42), (3, 99)]),
    "as many": (lambda x: x if not 40 <= x.shape[1] else x * 2, [(13, 39)], [(3, 40), (3, 41)]),  # noqa: SIM300
    "some": (lambda x: x[:1] if x.shape[0] in (5, 7) else x, [(4, 8), (6, 8), (8, 8)], [(5, 8), (7, 8)]),
    "multiples": (lambda x: x if x.shape[1] % 6 > 0 else x * 2, [(5, 8), (6, 9)], [(3, 6), (3, 12)]),
    "none": (lambda x: x if x.shape[0] else x[:, :1], [(1, 8), (6, 9)], [(0, 8)]),
    "in a function": (lambda x: _beside(x), [(5, 8), (7, 8)], [(6, 8)]),
    "ranks": (lambda x: x * 2 if x.dim() == 2 and x.ndim == 2 and len(x.shape) == 2 else x, [(5, 8), (2, 2)], []),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_sizes_that_the_source_compares_with_a_number_are_asked_about(name: str) -> None:
    function, right, refused = ELSEWHERE[name]
    net = td.from_torch(Function(function), torch.randn(3, 8)).to_torch()
    for shape in right:
        check(Function(function), net, [shape])
    for shape in refused:
        with pytest.raises(td.InputError, match="entries the source does something else"):
            net(torch.randn(shape))


#: What goes another way where sizes, of a batch of 2, 5 rows, 8 columns, are compared with each other: where, and not.
BETWEEN: dict[str, tuple[Callable[[int, int, int], Any], list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "twice": (lambda b, h, w: h == 2 * w, [(3, 16, 8), (2, 6, 3)], [(2, 16, 9), (3, 7, 7), (2, 8, 16)]),
    "one more": (lambda b, h, w: h == w + 1, [(3, 9, 8), (2, 2, 1)], [(2, 8, 9), (3, 7, 7)]),
    "a sum": (lambda b, h, w: h + w > 100, [(2, 93, 8), (1, 3, 98)], [(2, 92, 8), (1, 3, 97)]),
    "a product": (lambda b, h, w: b * h == 30, [(3, 10, 8), (5, 6, 20)], [(2, 16, 8), (2, 14, 20)]),
    "a quotient": (lambda b, h, w: h / (w + 1) == 1.5, [(2, 3, 1), (2, 12, 7)], [(2, 16, 8), (2, 13, 7)]),
    "far apart": (lambda b, h, w: h > 2 * w, [(2, 17, 8), (2, 7, 3), (1, 3, 1)], [(2, 16, 8), (9, 2, 1), (1, 99, 50)]),
    "an area": (lambda b, h, w: h * w > 400, [(2, 21, 20)], [(2, 20, 20), (7, 1, 400)]),
    "a rest": (lambda b, h, w: not (h - w) % 4, [(2, 9, 5), (1, 1, 5)], [(2, 6, 8), (2, 16, 9)]),
    "a difference": (lambda b, h, w: not h - w - 3, [(2, 11, 8)], [(2, 12, 8), (2, 8, 11)]),
    "the least": (lambda b, h, w: min(h, 60) == 60, [(2, 60, 8), (2, 90, 8)], [(2, 59, 8)]),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_sizes_that_the_source_compares_with_each_other_are_asked_about(name: str) -> None:
    turns, refused, right = BETWEEN[name]
    module = Function(lambda x: x * 2 if turns(*x.shape) else x + 1)
    net = td.from_torch(module, torch.randn(2, 5, 8)).to_torch()
    for shape in right:
        check(module, net, [shape])
    for shape in refused:
        with pytest.raises(td.InputError, match=r"the source does something else \(test_open_sizes.py:\d+"):
            net(torch.randn(shape))


def test_a_traced_network_is_run_for_what_it_compares() -> None:
    module = Function(lambda x: x * 2 if x.shape[1] == 2 * x.shape[2] else x + 1)
    net = td.from_torch(module, torch.randn(2, 5, 8), via="trace").to_torch()
    check(module, net, [(3, 16, 9)])
    with pytest.raises(td.InputError, match="n: with 16 entries the source does something else"):
        net(torch.randn(3, 18, 9))


def test_a_size_of_what_was_computed_is_compared() -> None:
    """With what is written elsewhere than in ``forward``: the limit of a part of the network."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.limit = nn.MaxPool1d(2, 1), 40

        def forward(self, x: Tensor) -> Tensor:
            y = self.pool(x)
            return y * 2 if y.shape[-1] == x.shape[0] + 7 or y.shape[1] > self.limit else y

    net = td.from_torch(Net(), torch.randn(2, 5, 8)).to_torch()
    for shape in ((2, 40, 9), (1, 5, 10), (20, 3, 9)):
        check(Net(), net, [shape])
    for shape in ((2, 5, 10), (1, 6, 9), (3, 41, 8)):
        with pytest.raises(td.InputError, match="the source does something else"):
            net(torch.randn(shape))


def test_a_limit_that_the_source_asserts_is_said_at_the_door() -> None:
    def function(x: Tensor) -> Tensor:
        assert x.shape[1] <= 512, "too long"
        return x * 2

    net = td.from_torch(Function(function), torch.randn(3, 8)).to_torch()
    check(Function(function), net, [(5, 512)])
    assert "<= 512" in net.code
    with pytest.raises(td.InputError, match="n: with 513 entries the source itself raises AssertionError: too long"):
        net(torch.randn(3, 513))


#: What torch computes of no entries: nothing, zeros, or NaN of means.
OF_NONE: dict[str, Callable[[Tensor], Any]] = {
    "mean": lambda x: (x.mean(0), x.sum(0), x.amax(1)),
    "norm": lambda x: (F.layer_norm(x, (6,)), F.normalize(x), x.softmax(-1)),
    "attention": lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
    "product": lambda x: (x.mT @ x, torch.einsum("bsc,bsd->bcd", x, x), torch.cdist(x, x)),
    "window": lambda x: (F.avg_pool1d(x, 2), F.max_pool1d(x, 2), F.conv1d(x, torch.ones(2, 4, 3))),
    "parts": lambda x: (x.chunk(2, 1)[1], torch.cat([x, x], 0), x.flip(0), x.cumsum(0), x.flatten(1)),
    "order": lambda x: (x.topk(2, 1).values, x.sort(0).values, x.gather(1, x.argsort(1))),
    "loss": lambda x: F.mse_loss(x, x * 2),
    "divided": lambda x: (x.unflatten(2, (2, -1)).sum(1), x.unfold(1, 3, 1).mean(-1)),
}


@pytest.mark.parametrize("name", OF_NONE)
def test_a_batch_of_none_gives_what_the_source_gives(name: str) -> None:
    module = Function(OF_NONE[name])
    net = td.from_torch(module, torch.randn(3, 4, 6)).to_torch()
    assert "b" not in net.fixed_axes
    for batch in (0, 5):
        x = torch.randn(batch, 4, 6)
        torch.testing.assert_close(net(x), module(x), equal_nan=True)


def test_a_product_that_is_squeezed_is_refused_where_it_is_one() -> None:
    module = Function(lambda x: x.flatten(0, 1).squeeze(0))
    net = td.from_torch(torch.export.export(module, (torch.randn(2, 3),))).to_torch()
    for shape in ((1, 2), (2, 1), (0, 3), (4, 5)):
        check(module, net, [shape])
    with pytest.raises(td.InputError, match=r"(b\*n|n\*b) isn't 1: .* is squeezed"):
        net(torch.randn(1, 1))
    padded = Function(lambda x: F.pad(x, (2, 1))[..., 1:-1].squeeze(-1))
    net = td.from_torch(torch.export.export(padded, (torch.randn(6),))).to_torch()
    for shape in ((1,), (9,)):
        check(padded, net, [shape])
    with pytest.raises(td.InputError, match="is squeezed"):
        net(torch.randn(0))


def test_few_of_one_axis_hide_nothing_of_another() -> None:
    """At 1 x 1 nothing is written either, as there are no columns up to the half of 1."""

    def function(x: Tensor) -> Tensor:
        x = x + 1
        x[None][x.shape[0] // 2 :, : x.shape[1] // 2] = 6
        return x

    net = td.from_torch(Function(function), torch.randn(2, 4, 4)).to_torch()
    for shape in ((3, 4, 4), (2, 6, 4)):
        check(Function(function), net, [shape])
    with pytest.raises(td.InputError, match="with 1 entries the source does something else"):
        net(torch.randn(1, 4, 4))


@pytest.mark.parametrize("size", [0, 4])
def test_other_parts_than_there_were_are_refused(size: int) -> None:
    net = td.from_torch(Function(lambda x: x.chunk(3, 1)[1]), torch.randn(2, 5)).to_torch()
    with pytest.raises(td.InputError, match=r"chunk\(3\) of t entries must give 3 parts"):
        net(torch.randn(2, size))


def test_the_last_entries_of_none_are_refused() -> None:
    """What Python makes of how many there are is another number then."""
    net = td.from_torch(Function(lambda x: F.pad(x.flatten(1)[:, -2:], (0, 1))), torch.randn(2, 3, 4)).to_torch()
    with pytest.raises(td.InputError, match="at least are needed by a slice"):
        net(torch.randn(2, 0, 4))


def test_a_mean_over_classes_of_which_there_are_none_is_refused() -> None:
    module = Function(lambda x: F.cross_entropy(x, x.softmax(1)))
    net = td.from_torch(module, torch.randn(2, 3, 4)).to_torch()
    check(module, net, [(2, 1, 4)])
    with pytest.raises(td.InputError, match=r"s isn't 0: .* has classes that torch divides by"):
        net(torch.randn(2, 0, 4))


def test_what_cannot_be_so_large_is_asked_near_too() -> None:
    """Rows of a table by places made of another axis: there are none of so large sizes as tell rests apart."""
    module = Function(lambda x: torch.embedding(x, torch.arange(0, x.shape[1], 2)))
    for via in ("export", "trace"):
        net = td.from_torch(module, torch.randn(3, 1), via=via).to_torch()
        assert list(net.fixed_axes) == ["n"]
        check(module, net, [(5, 1)])


def test_what_a_condition_divides_by_is_asked_before_it() -> None:
    """How long a diagonal from a third on is divides by what is 0 at few entries: it was an error of Python's."""
    module = Function(lambda x: (x @ x.mT).diagonal(x.shape[-2] // 3, -2, -1))
    net = td.from_torch(module, torch.randn(1, 6, 1)).to_torch()
    check(module, net, [(3, 6, 4)])
    for size in range(10):
        x = torch.randn(1, size, 1)
        try:
            out = net(x)
        except td.InputError:
            continue
        torch.testing.assert_close(out, module(x))
