"""Going back to torch's own layers and to modules with a forward of their own, and what torch's users do to them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from tests.networks import NETWORKS

IMAGE = (2, 8, 8, 8)

#: Layers, and the shape of what they are called with.
LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Conv1d(8, 6, 3, 2, 1, bias=False), (2, 8, 9)),
    (lambda: nn.Conv2d(8, 6, (3, 5), (2, 1), (1, 2), dilation=(1, 2), groups=2), IMAGE),
    (lambda: nn.Conv3d(2, 4, 3, padding=1), (1, 2, 4, 4, 4)),
    (lambda: nn.ConvTranspose1d(8, 6, 3, 2, 1, 1), (2, 8, 9)),
    (lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, bias=False, dilation=2), IMAGE),
    (lambda: nn.Linear(8, 5), IMAGE),
    (lambda: nn.Linear(8, 5, bias=False), (8,)),
    (lambda: nn.BatchNorm1d(8), (2, 8)),
    (lambda: nn.BatchNorm1d(8, momentum=None), (2, 8, 3)),
    (lambda: nn.BatchNorm2d(8, 1e-3, 0.2), IMAGE),
    (lambda: nn.BatchNorm2d(8, affine=False), IMAGE),
    (lambda: nn.BatchNorm2d(8, track_running_stats=False), IMAGE),
    (lambda: nn.InstanceNorm2d(8, affine=True), IMAGE),
    (lambda: nn.InstanceNorm1d(8), (2, 8, 5)),
    (lambda: nn.LayerNorm(8, 1e-6), IMAGE),
    (lambda: nn.LayerNorm((8, 8), elementwise_affine=False), IMAGE),
    (lambda: nn.LayerNorm(8, bias=False), IMAGE),
    (lambda: nn.RMSNorm(8, 1e-6), IMAGE),
    (lambda: nn.RMSNorm(8, elementwise_affine=False), IMAGE),
    (lambda: nn.GroupNorm(4, 8), IMAGE),
    *[
        (kind, IMAGE)
        for kind in (
            nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.PReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
            nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign, nn.GLU, nn.Tanh,
            nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Dropout, nn.Flatten,
        )
    ],
    (lambda: nn.LeakyReLU(0.3), IMAGE),
    (lambda: nn.ELU(0.5), IMAGE),
    (lambda: nn.PReLU(8), IMAGE),
    (lambda: nn.GELU("tanh"), IMAGE),
    (lambda: nn.Hardtanh(-2.0, 3.0), IMAGE),
    (lambda: nn.Softplus(2.0, 10.0), IMAGE),
    (lambda: nn.Softshrink(0.2), IMAGE),
    (lambda: nn.Threshold(0.1, 20.0), IMAGE),
    (lambda: nn.Softmax(1), IMAGE),
    (lambda: nn.LogSoftmax(2), IMAGE),
    (lambda: nn.Dropout(0.3), IMAGE),
    (lambda: nn.MaxPool1d(2), (2, 8, 9)),
    (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE),
    (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    (lambda: nn.AvgPool2d(3, divisor_override=4), IMAGE),
    (lambda: nn.AvgPool3d(2), (1, 2, 4, 4, 4)),
    (lambda: nn.AdaptiveAvgPool2d((3, 5)), IMAGE),
    (lambda: nn.PixelShuffle(2), IMAGE),
    (lambda: nn.PixelUnshuffle(2), IMAGE),
    (lambda: nn.Upsample(scale_factor=2.0), IMAGE),
    (lambda: nn.Upsample((5, 6), mode="bilinear", align_corners=True), IMAGE),
    (lambda: nn.Flatten(0), IMAGE),
    (lambda: nn.Flatten(1, 2), IMAGE),
    (lambda: nn.LSTM(8, 4, 2, batch_first=True), (2, 5, 8)),
    (lambda: nn.LSTM(8, 4, bidirectional=True, proj_size=2), (5, 2, 8)),
    (lambda: nn.GRU(8, 4, bias=False), (5, 2, 8)),
    (lambda: nn.RNN(8, 4, nonlinearity="relu"), (5, 8)),
    (lambda: nn.RNNCell(8, 4, nonlinearity="relu"), (5, 8)),
    (lambda: nn.LSTMCell(8, 4), (5, 8)),
    (lambda: nn.GRUCell(8, 4, bias=False), (5, 8)),
    (lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
    (lambda: nn.Conv1d(8, 6, 3, padding=1, padding_mode="circular"), (2, 8, 9)),
    (lambda: nn.Conv2d(8, 6, 3, 2), (8, 8, 8)),
    (lambda: nn.ConvTranspose2d(8, 6, 3, 2), (8, 8, 8)),
    (lambda: nn.MaxPool3d(2), (2, 4, 4, 4)),
    (lambda: nn.MaxPool2d(2, return_indices=True), IMAGE),
    (lambda: nn.AvgPool2d(2), (8, 8, 8)),
    (lambda: nn.AvgPool3d(2), (2, 4, 4, 4)),
    (lambda: nn.AdaptiveAvgPool2d(1), (8, 8, 8)),
    (lambda: nn.AdaptiveMaxPool1d(2), (2, 8, 8)),
    (lambda: nn.AdaptiveMaxPool2d((2, 3)), IMAGE),
    (lambda: nn.AdaptiveMaxPool3d(2), (1, 2, 4, 4, 4)),
    (lambda: nn.LocalResponseNorm(2), IMAGE),
    (lambda: nn.LocalResponseNorm(3, 0.1, 0.5, 2.0), (2, 8, 8)),
    (lambda: nn.InstanceNorm2d(8), (8, 8, 8)),
    (lambda: nn.ZeroPad2d((1, 2, 0, 3)), IMAGE),
    (lambda: nn.ZeroPad2d((-1, 1, -1, 1)), IMAGE),
    (lambda: nn.ConstantPad2d((0, 0, 1, -2), 2.5), IMAGE),
    (lambda: nn.ConstantPad1d(2, 3.0), (2, 8, 9)),
    (lambda: nn.ReflectionPad2d(1), IMAGE),
    (lambda: nn.ReplicationPad2d((1, 0, 2, 3)), IMAGE),
    (lambda: nn.CircularPad2d(1), IMAGE),
    (lambda: nn.ChannelShuffle(2), IMAGE),
    (lambda: nn.Unfold(3, padding=1), IMAGE),
    (lambda: nn.Fold((4, 5), 2), (1, 32, 12)),
    (lambda: nn.Unflatten(1, (2, 4)), IMAGE),
    (lambda: nn.Unflatten(-1, (2, 2, 2)), (5, 8)),
    (lambda: nn.Softmin(1), IMAGE),
    (nn.Softmax2d, IMAGE),
    (lambda: nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
    (lambda: nn.UpsamplingNearest2d((5, 6)), IMAGE),
    (nn.Sequential, IMAGE),
    (nn.Identity, IMAGE),
]  # fmt: skip


class Inside(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x + 1.0)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_a_layer_is_that_layer(number: int) -> None:
    """Its class and its settings come back, and what comes back is imported as the same graph."""
    make, shape = LAYERS[number]
    net, x = Inside(make()).eval(), torch.randn(shape)
    dag = td.from_torch(net, x, sizes="alone")
    back = dag.to_torch()
    assert type(back.layer) is type(net.layer)
    assert list(back.state_dict()) == list(net.state_dict())
    assert td.from_torch(back, x, sizes="alone").graph.outputs == dag.graph.outputs
    got, want = (torch.utils._pytree.tree_leaves(m(x)) for m in (back, net))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_norm_that_trains_otherwise_is_none_of_torch() -> None:
    """An instance norm by running statistics computes what a batch norm does, until it trains."""
    net, x = Inside(nn.InstanceNorm2d(8, track_running_stats=True)).eval(), torch.randn(IMAGE)
    back = td.from_torch(net, x).to_torch()
    assert not isinstance(back.layer, nn.BatchNorm2d)
    torch.testing.assert_close(back(x), net(x))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_attention_is_that_layer(first: bool, weights: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=first)

        def forward(self, x: torch.Tensor) -> Any:
            return self.attention(x, x, x, need_weights=weights)[0] * 2.0

    net, x = Net().eval(), torch.randn(2, 5, 8)
    back = td.from_torch(net, x).to_torch()
    assert isinstance(back.attention, nn.MultiheadAttention)
    assert back.attention.num_heads == 2
    torch.testing.assert_close(back(x), net(x))


# --- blocks ------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One module called twice, one left and entered again, tied weights, a sum over a border."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.halves = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.ReLU()})
        self.out = nn.Linear(4, 4)
        self.out.weight = self.shared.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.shared(x))
        return self.out(self.halves["b"](self.halves["a"](x)))


def test_a_module_called_twice_is_one_object() -> None:
    net, x = Twice().eval(), torch.randn(2, 4)
    back = td.from_torch(net, x).to_torch()
    assert back.out.weight is back.shared.weight
    calls: list[Any] = []
    back.shared.register_forward_hook(lambda *a: calls.append(a))
    torch.testing.assert_close(back(x), net(x), rtol=0, atol=0)
    assert len(calls) == 2


def test_equal_layers_are_one_class() -> None:
    net = NETWORKS["BertModel"](small=True)
    back = td.from_torch(net.module, net.args, net.kwargs).to_torch()
    first, second = back.encoder.layer
    assert type(first) is type(second)
    assert type(first).__name__ == "BertLayer"
    assert isinstance(back.encoder.layer, nn.ModuleList)


def test_a_changed_layer_has_its_new_settings() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)
    back = td.from_torch(net, x).replace(td.relu, td.gelu).to_torch()
    assert isinstance(back[1], nn.GELU)
    torch.testing.assert_close(back(x), nn.functional.gelu(net[0](x)))


def test_norms_move_their_statistics_once() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(2, 3, 8, 8)
    back = td.from_torch(copy.deepcopy(net).train(), x).to_torch()
    assert isinstance(back[1], nn.BatchNorm2d)
    back.load_state_dict(net.state_dict())
    for _ in range(2):
        torch.testing.assert_close(back(x), net(x), rtol=0, atol=0)
    for a, b in zip(back.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- habits ------------------------------------------------------------------------------------------------

HABITS = ["resnet50", "vit_base_patch16_224", "GPT2LMHeadModel", "LSTM"]


class Case:
    def __init__(self, name: str) -> None:
        net = NETWORKS[name](small=True, batch=1)
        self.source, self.args, self.kwargs = net.module, net.args, net.kwargs
        self.back = td.from_torch(net.module, net.args, net.kwargs).to_torch(fixed=True)

    def out(self, module: Any) -> list[torch.Tensor]:
        found = torch.utils._pytree.tree_leaves(module(*self.args, **self.kwargs))
        return [t for t in found if isinstance(t, torch.Tensor)]

    def same(self, back: Any = None, source: Any = None) -> None:
        with torch.no_grad():
            got, want = self.out(back or self.back)[0], self.out(source or self.source)[0]
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", HABITS)
def test_habits(name: str) -> None:
    case = Case(name)
    _copies_and_files(case)
    _half_and_meta(case)
    _functional_call(case)
    _hooks_are_called_as_on_the_source(case)  # the last: they stay


def _hooks_are_called_as_on_the_source(case: Case) -> None:
    seen: list[dict[str, list[torch.Size]]] = []
    for module in (case.source, case.back):
        found: dict[str, list[torch.Size]] = {}
        for name, layer in module.named_modules():
            if list(layer.parameters(recurse=False)) and isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm):
                layer.register_forward_hook(
                    lambda m, a, out, found=found, name=name: found.setdefault(name, []).append(out.shape)
                )
        case.out(module)
        seen.append(found)
    assert seen[0] == seen[1]


def _copies_and_files(case: Case) -> None:
    case.same(copy.deepcopy(case.back))
    case.same(pickle.loads(pickle.dumps(case.back)))
    file = io.BytesIO()
    torch.save(case.back, file)
    file.seek(0)
    case.same(torch.load(file, weights_only=False))
    assert case.back.load_state_dict(case.source.state_dict(), strict=True).missing_keys == []


def _half_and_meta(case: Case) -> None:
    assert all(p.dtype == torch.float16 for p in copy.deepcopy(case.back).half().parameters())
    assert all(p.is_meta for p in copy.deepcopy(case.back).to("meta").parameters())


def _functional_call(case: Case) -> None:
    state = {n: p * 1.5 for n, p in case.source.named_parameters()}
    got, want = (torch.func.functional_call(m, state, case.args, case.kwargs) for m in (case.back, case.source))
    first = [torch.utils._pytree.tree_leaves(o)[0] for o in (got, want)]
    torch.testing.assert_close(first[0], first[1], rtol=1e-4, atol=1e-4)


def test_a_layer_wrapped_as_lora_does() -> None:
    class Lora(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base
            self.a = nn.Linear(base.in_features, 2, bias=False)
            self.b = nn.Linear(2, base.out_features, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.b(self.a(x))

    case = Case("vit_base_patch16_224")
    torch.manual_seed(0)
    case.source.head = Lora(case.source.head)
    case.back.head = copy.deepcopy(case.source.head)
    case.same()


def test_a_layer_replaced() -> None:
    case = Case("resnet50")
    for module in (case.source, case.back):
        module.layer1[0].act1 = nn.GELU()
        module.layer2[0].requires_grad_(False)
    case.same()
    assert not case.back.layer2[0].conv1.weight.requires_grad


class Shifted(nn.Module):
    """Writes every other entry, which is a pad of a tensor of one axis where the batch is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, ::2] = y[:, 1::2]
        return self.linear(y)


def test_a_pad_of_one_axis_is_no_layer() -> None:
    model, x = Shifted(), torch.randn(3, 4)
    back = td.from_torch(model, x).unbatch("b").to_torch()
    torch.testing.assert_close(torch.stack([back(row) for row in x]), model(x))


class _Holding(nn.Module):
    """Layers whose weights are read, and which aren't called, as in Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.plain = nn.Linear(6, 3, bias=False)
        self.conv = nn.Conv1d(3, 3, 2)
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.up.weight.t() + self.up.bias
        y, _ = self.attention(y, y, y)
        return (y @ self.plain.weight.t()) * self.conv.weight.sum((1, 2))


def test_linear_layers_that_only_hold_weights_are_that() -> None:
    source = _Holding().eval()
    x = torch.randn(5, 2, 4)
    module = td.from_torch(source, x).to_torch()
    for name in ("up", "plain"):
        own, layer = source.get_submodule(name), module.get_submodule(name)
        assert type(layer) is nn.Linear
        assert repr(layer) == repr(own)
    assert type(module.conv).__name__ == "Conv1d"
    assert "not called" not in module.code
    torch.testing.assert_close(module(x), source(x))


class Called(nn.Module):
    """A layer called with several things."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any) -> Any:
        return self.layer(*args)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: nn.Bilinear(4, 3, 5), [(2, 4), (2, 3)]),
        (lambda: nn.Bilinear(4, 3, 5, bias=False), [(2, 6, 4), (2, 6, 3)]),
        (lambda: nn.CosineSimilarity(), [(2, 4), (2, 4)]),
        (lambda: nn.CosineSimilarity(2, 1e-4), [(2, 3, 4), (2, 3, 4)]),
        (lambda: nn.PairwiseDistance(), [(2, 4), (2, 4)]),
        (lambda: nn.PairwiseDistance(1.0, keepdim=True), [(2, 4), (2, 4)]),
        (lambda: nn.GRUCell(4, 3), [(2, 4), (2, 3)]),
        (lambda: nn.RNNCell(4, 4, nonlinearity="relu"), [(2, 4), (2, 4)]),
    ],
)
def test_layers_of_several_things(make: Callable[[], nn.Module], shapes: list[tuple[int, ...]]) -> None:
    layer, tensors = make(), tuple(map(torch.randn, shapes))
    back = td.from_torch(Called(layer).eval(), tensors).to_torch()
    assert type(back.layer) is type(layer)
    assert repr(back.layer) == repr(layer)
    assert vars(back.layer).get("eps") == vars(layer).get("eps")
    torch.testing.assert_close(back(*tensors), layer(*tensors))


class Written(nn.Module):
    """An activation that writes to what it is given."""

    def __init__(self, of: Callable[..., torch.Tensor], kind: Any = nn.ReLU, inplace: bool = True) -> None:
        super().__init__()
        self.of = of
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Identity()
        self.act = kind(inplace=inplace)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.of(self, x)


@pytest.mark.parametrize(
    ("net", "again"),
    [
        (Written(lambda m, x: m.act(m.conv(x))), True),
        (Written(lambda m, x: m.act(m.drop(m.norm(m.conv(x)))), nn.Hardswish), True),
        (Written(lambda m, x: m.act(m.act(m.norm(x)) + m.conv(x)), nn.SiLU), True),
        (Written(lambda m, x: m.act(m.conv(x)), inplace=False), False),
        (Written(lambda m, x: m.act(m.conv(x)[:, :4])), False),
        (Written(lambda m, x: m.act(m.conv(x).sigmoid() - 0.5) + m.act(m.norm(x))), False),
        (Written(lambda m, x: (y := m.conv(x)).mean() + m.act(y)), False),
        (Written(lambda m, x: m.conv(m.act(x.clone()))), False),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_layers_that_write_in_place_do_so_where_nothing_else_reads_it(net: nn.Module, again: bool, train: bool) -> None:
    net = copy.deepcopy(net).train(train)
    x = torch.randn(IMAGE)
    back = td.from_torch(copy.deepcopy(net), x).to_torch()
    assert type(back.act) is type(net.act)
    assert back.act.inplace == (again and (not train or "norm" not in net.of.__code__.co_names))
    found = [m(x) for m in (net, back)]
    torch.testing.assert_close(found[0], found[1])
    for y in found:
        y.square().sum().backward()
    grads = [{n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (net, back)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


IDS = torch.tensor([[1, 2, 4, 1], [3, 0, 2, 2]])


@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (lambda: nn.EmbeddingBag(9, 3), [IDS]),
        (lambda: nn.EmbeddingBag(9, 3, mode="max"), [IDS]),
        (lambda: nn.EmbeddingBag(9, 3, mode="sum", padding_idx=2), [IDS]),
        (lambda: nn.EmbeddingBag(9, 3), [IDS.reshape(-1), torch.tensor([0, 3, 5])]),
        (lambda: nn.EmbeddingBag(9, 3, mode="sum", include_last_offset=True), [IDS[0], torch.tensor([0, 1, 4])]),
        (lambda: nn.LPPool1d(3, 2, 1), [torch.rand(2, 3, 8)]),
        (lambda: nn.LPPool2d(1.5, (2, 4)), [torch.rand(2, 3, 8, 8)]),
        (lambda: nn.MaxUnpool1d(2), [torch.rand(2, 1, 2), torch.tensor([[[0, 2]], [[1, 3]]])]),
        (lambda: nn.MaxUnpool2d(3, 2, 1), [torch.rand(1, 1, 5, 5), 3 * torch.arange(25).reshape(1, 1, 5, 5)]),
    ],
)
def test_layers_that_read_and_write_at_places(make: Callable[[], nn.Module], tensors: list[torch.Tensor]) -> None:
    layer = make()
    back = td.from_torch(Called(layer).eval(), tuple(tensors)).to_torch()
    assert type(back.layer) is type(layer)
    assert repr(back.layer) == repr(layer)
    torch.testing.assert_close(back(*tensors), layer(*tensors), rtol=0, atol=0)


def test_a_cell_with_its_state() -> None:
    """The state is read before the input."""
    cell = nn.LSTMCell(4, 3)
    x, state = torch.randn(2, 4), (torch.randn(2, 3), torch.randn(2, 3))
    back = td.from_torch(Called(cell).eval(), (x, state)).to_torch()
    assert type(back.layer) is nn.LSTMCell
    torch.testing.assert_close(back(x, state), cell(x, state))


class Steps(nn.Module):
    """A cell called once for each step: all calls share the transposed weights, which are one value."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)
        self.out = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], 5)
        outputs: list[torch.Tensor] = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


def test_a_cell_in_a_loop_is_called_in_each_turn() -> None:
    module = Steps().eval()
    x = torch.randn(2, 3, 4)
    back = td.from_torch(module, x).to_torch()
    assert type(back.cell) is nn.GRUCell
    assert [n for n, _ in back.named_buffers()] == []
    seen: list[torch.Tensor] = []
    back.cell.register_forward_hook(lambda layer, args, out: seen.append(out))
    torch.testing.assert_close(back(x), module(x))
    assert len(seen) == 3
    torch.testing.assert_close(back(x[:1]), module(x[:1]))


def test_a_module_called_twice_makes_its_own_of_its_weights_each_time() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Transposed()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.inner(x).relu())

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight.exp() + 1

    module = Twice().eval()
    x = torch.randn(4, 4)
    back = td.from_torch(module, x).to_torch()
    assert back.code.count("self.inner(") == 2
    expected, found = (torch.autograd.grad(m(x).sum(), m.inner.weight)[0] for m in (module, back))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(back(x), module(x))
