"""Networks that are trained in few bits: what they compute before, while and after they train, and what comes out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.quantization.profile import Numbers
from tdagger.quantization.scales import affine
from tdagger.quantization.training.network import in_graph
from tests.quick import in_turn

I4 = Numbers("i4", symmetric=True, per="channel", narrow=True)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    for i in (1, 5):
        norm: Any = model[i]
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_()
        norm.weight.data.uniform_(0.3, 1.5)
    return model.eval()


DATA = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def test_it_trains_with_batches_of_any_size() -> None:
    """A norm's momentum may be what one gets from the example's batch: 0.1 is ``(2 * 50) ** -0.5``."""
    data = torch.randn(50, 1, 8, 8)
    module = td.prepare(td.from_torch(network(), data), "xnnpack", train=True).calibrate([data]).to_torch()
    for mode in (True, False):
        assert module.train(mode)(data[:7]).shape == (7, 10)


@pytest.mark.parametrize(
    ("scheme", "learned"),
    in_turn(2, ("x86", "xnnpack", "tflite", "coreml", "gpu-weight-only", "x86-dynamic"), (False, True)),
)
def test_before_it_trains_it_is_what_quantizing_gives(scheme: str, learned: bool) -> None:
    dag = td.from_torch(network(), DATA[0])
    how: dict[str, Any] = {} if learned or scheme != "gpu-weight-only" else {"weight": Numbers("i4", True, "block", 32)}
    if learned and scheme == "x86-dynamic":
        with pytest.raises(td.InputError, match="they aren't learned: learn_scales=False"):
            td.prepare(dag, scheme, train=True, learn_scales=True)
        return
    prepared = td.prepare(dag, scheme, train=True, learn_scales=learned, **how).calibrate(DATA)
    module = prepared.to_torch()
    small = prepared.convert()
    plain = td.prepare(dag, scheme, **how).calibrate(DATA).convert()
    assert small.graph == plain.graph
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(small.weights[name], array, err_msg=name)
    found, wanted = module(DATA[0]).detach(), small.to_torch()(DATA[0]).detach()
    assert float((found - wanted).abs().mean()) <= 0.3 * float((wanted - network()(DATA[0])).detach().abs().mean())


def test_batch_norms_have_the_statistics_of_batches_in_training() -> None:
    """With as many bits as make no difference the module trains as the float one does."""
    model, x = network(), torch.randn(16, 1, 8, 8)
    dag = td.from_torch(model, DATA[0])
    fine: dict[str, Any] = {"weight": Numbers("i16", True, "channel"), "activation": Numbers("i32", True)}
    prepared = td.prepare(dag, "x86", train=True, **fine)
    module = prepared.calibrate(list((5 * x).split(4))).to_torch().train()
    model.train()
    a, b = module(x), model(x)
    assert float((a - b).detach().square().sum()) <= 1e-4 * float(b.detach().square().sum())
    a.square().mean().backward()
    b.square().mean().backward()
    for name, parameter in model.named_parameters():
        found = module.network.get_parameter(name).grad
        assert found is not None
        assert float((found - parameter.grad).norm()) <= 0.01 * float(parameter.grad.norm()) + 1e-6, name
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(module.network.get_buffer(name), buffer, rtol=1e-3, atol=1e-3)


def steps(module: nn.Module, count: int, rate: float = 1e-2) -> Iterator[float]:
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(module.parameters(), rate)
    module.train()
    for _ in range(count):
        x = torch.randn(32, 1, 8, 8, generator=generator)
        y = (x.mean((2, 3)) > 0).long()[:, 0]
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


@pytest.mark.parametrize("learned", [False, True])
def test_what_was_trained_is_what_is_converted(learned: bool) -> None:
    dag = td.from_torch(network(), DATA[0])
    prepared = td.prepare(dag, "xnnpack", train=True, learn_scales=learned, weight=I4)
    module = prepared.to_torch()
    with pytest.raises(td.InputError, match="no data was seen that ranges could be known by"):
        module(DATA[0])
    losses = list(steps(module, 25))  # ranges begin with the first batch
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    module.eval()
    kept = {n: t.clone() for n, t in module.state_dict().items()}
    wanted = module(DATA[0])
    small = prepared.convert()
    assert {w.dtype.name for n, w in small.weights.items() if n.endswith(".weight")} == {"int8"}
    assert max(int(abs(w).max()) for n, w in small.weights.items() if n.endswith(".weight")) <= 7
    found = small.to_torch()(DATA[0])
    assert float((found - wanted).detach().square().sum()) < 0.02 * float(wanted.detach().square().sum())
    assert all((module.state_dict()[n] == t).all() for n, t in kept.items())  # eval changes nothing
    again = prepared.to_torch()
    again.load_state_dict(kept)
    torch.testing.assert_close(again(DATA[0]), wanted, rtol=0, atol=0)
    other = prepared.convert(module=copy.deepcopy(module))
    assert all((small.weights[n] == w).all() for n, w in other.weights.items())


class Twice(nn.Module):
    """One convolution called twice, each time with a norm of its own, or with none."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.a, self.b = norm(1), norm(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.conv(torch.relu(self.a(self.conv(x))))).flatten(1)


@pytest.mark.parametrize("learned", [False, True])
def test_a_shared_weight_is_one_that_trains(learned: bool) -> None:
    model = Twice(nn.Identity).eval()
    prepared = td.prepare(td.from_torch(model, DATA[0]), "xnnpack", train=True, learn_scales=learned).calibrate(DATA)
    module = prepared.to_torch()
    names = {n for n, _ in module.network.named_parameters()}
    assert {n for n in names if "activation" not in n and "growth" not in n} == {"conv.weight", "conv.bias"}
    for m in (module.train(), model):
        m(DATA[0]).square().mean().backward()
    for name, parameter in model.named_parameters():
        wanted, found = parameter.grad, module.network.get_parameter(name).grad
        assert wanted is not None
        assert float((found - wanted).norm()) <= 0.05 * float(wanted.norm()), name
    list(steps(module, 5))
    module.eval()
    small = prepared.convert()
    assert {n for n, w in small.weights.items() if w.dtype.name == "int8"} == {"conv.weight"}
    found = small.run(DATA[0].numpy())
    step = float(np.diff(np.unique(found)).min())
    assert np.abs(found - module(DATA[0]).detach().numpy()).max() <= 1.01 * step


def test_a_norm_that_would_not_train_is_refused() -> None:
    shared = td.from_torch(Twice(nn.BatchNorm2d).eval(), DATA[0])
    why = (
        "can't train the batch norm a: it is folded for good into the convolution conv, whose weight conv.weight others"
    )
    with pytest.raises(td.InputError, match=why):
        td.prepare(shared, "x86", train=True, least=0)
    transposed = nn.Sequential(nn.ConvTranspose2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)).eval()
    with pytest.raises(
        td.InputError, match="the batch norm 1: it is folded for good into the convolution_transpose 0;"
    ):
        td.prepare(td.from_torch(transposed, DATA[0]), "x86", train=True, least=0)
    for dag in (shared, td.from_torch(transposed, DATA[0])):
        assert td.op_counts(td.quantize(dag, DATA, "x86", least=0).values)["quantize"] > 0  # after training it can be


def test_norms_can_be_frozen() -> None:
    prepared = td.prepare(td.from_torch(network(), DATA[0]), "xnnpack", train=True).calibrate(DATA)
    module = prepared.to_torch().train()
    frozen = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(frozen) == 2
    before = {n: t.clone() for n, t in module.network.state_dict().items() if "running" in n}
    moved = copy.deepcopy(module)
    for norm in frozen:
        norm.eval()
    for trained in (module, moved):
        trained(DATA[1]).square().mean().backward()
    for name, buffer in before.items():
        assert torch.equal(module.network.get_buffer(name), buffer)
        assert not torch.equal(moved.network.get_buffer(name), buffer)
    whole = copy.deepcopy(module)
    whole.network.get_buffer("quantization_rate").zero_()  # ranges stay, so that norms alone are what differs
    torch.testing.assert_close(whole(DATA[1]), copy.deepcopy(whole).eval()(DATA[1]))


def test_what_it_cannot_do_is_said() -> None:
    dag = td.from_torch(network(), DATA[0])
    with pytest.raises(td.InputError, match="nothing was trained"):
        td.prepare(dag, "x86", train=True).convert()
    with pytest.raises(td.AttributeValueError, match="train=True"):
        td.prepare(dag, "x86", learn_scales=True)
    with pytest.raises(td.InputError, match="was imported in train mode: import the network in eval mode"):
        td.prepare(td.from_torch(network().train(), DATA[0]), "x86", train=True)
    prepared = td.prepare(dag, "x86", train=True, learn_scales=True).calibrate(DATA)
    with pytest.raises(td.InputError, match="it isn't one that to_torch"):
        prepared.convert(module=network())
    module = prepared.to_torch()
    with torch.no_grad():
        module.network.get_parameter("4.weight_growth").fill_(float("nan"))
    with pytest.raises(td.InputError, match=r"4\.weight_growth isn't finite: training diverged"):
        prepared.convert()


@pytest.mark.parametrize(
    "numbers",
    [Numbers("u8"), Numbers("i8"), Numbers("u8", symmetric=True), I4, Numbers("f8e4m3"), Numbers("u4")],
)  # fmt: skip
def test_scales_of_ranges_are_those_of_calibration(numbers: Numbers) -> None:
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(size=(50, 2)) * 10.0 ** rng.integers(-5, 5, (50, 1))).astype(np.float32)
    ends[:3] = [[0, 0], [0, 3], [-3, -1]]
    wanted = affine(ends[:, 0], ends[:, 1], numbers)
    made = in_graph(td.const(ends[:, 0], "f32"), td.const(ends[:, 1], "f32"), numbers)
    found = td.network(lambda x: (*made, x), {"x": ()}).run(np.float32(0))
    np.testing.assert_array_equal(found[0], wanted.scale)
    assert len(made) == 1 + (wanted.zero_point is not None)
    if wanted.zero_point is not None:
        np.testing.assert_array_equal(found[1], wanted.zero_point)


def test_gradients_of_scales_are_those_of_lsq() -> None:
    x, s = torch.tensor([0.24, -0.9, 5.0, -7.0]), torch.tensor(0.5, requires_grad=True)
    value, scale = td.input("x", (4,)), td.input("s", ())
    made = td.fake_quantize(value, scale, to="i4")
    module = td.TensorDAG.of_graph(td.Graph({"x": value, "s": scale}, {"y": made})).to_torch()
    each = []
    for i in range(4):
        s.grad = None
        module(x, s)[i].backward()
        assert s.grad is not None
        each.append(float(s.grad))
    np.testing.assert_allclose(each, [0 - 0.48, -2 + 1.8, 7, -8], atol=1e-5)
