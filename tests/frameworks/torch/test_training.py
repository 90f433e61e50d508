"""Networks in train mode: statistics as buffer updates, random numbers of one seed, and the way back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.interpret import run
from tdagger.tensordag import TensorDAG


class Of(nn.Module):
    """A module of a function of (self, x)."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def dag_of(function: Any, *args: torch.Tensor) -> TensorDAG:
    return td.from_torch(Of(function).train(), args)


def numpy_of(dag: TensorDAG, seed: int, *args: torch.Tensor) -> Any:
    return dag.run(*[a.detach().numpy() for a in args], seed=np.uint64(seed))


# --- dropout -----------------------------------------------------------------------------------------------

DROPOUTS = {
    "dropout": lambda m, x: F.dropout(x, 0.3, m.training),
    "features": lambda m, x: F.dropout2d(x, 0.3, m.training),
    "alpha": lambda m, x: F.alpha_dropout(x, 0.3, m.training),
    "alpha of features": lambda m, x: F.feature_alpha_dropout(x, 0.3, m.training),
    "native": lambda m, x: torch.native_dropout(x, 0.3, True)[0],
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_keeps_as_many_as_torch(name: str) -> None:
    x = torch.ones(100, 100, 2, 2)
    dag = dag_of(DROPOUTS[name], x)
    assert list(dag.graph.inputs) == ["x", "seed"] or list(dag.graph.inputs) == ["input0", "seed"]
    out = numpy_of(dag, 1, x)
    want = DROPOUTS[name](nn.Module().train(), x).numpy()
    assert out.dtype == want.dtype
    np.testing.assert_allclose(np.unique(out), np.unique(want), rtol=1e-5)  # two values: dropped and kept
    kept = (out == out.max()).reshape(10_000, 4)
    assert abs(kept.mean() - 0.7) < 0.02
    together = (kept == kept[:, :1]).all()
    assert together == ("feature" in name)
    np.testing.assert_array_equal(out, numpy_of(dag, 1, x))
    assert not np.array_equal(out, numpy_of(dag, 2, x))


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_comes_back_bit_for_bit(name: str) -> None:
    x = torch.randn(8, 5, 3, 3)
    dag = dag_of(DROPOUTS[name], x)
    module = dag.to_torch(fixed=True)
    for seed in (0, 7, 2**64 - 1):
        out = module(x, seed=seed)
        np.testing.assert_allclose(out.numpy(), numpy_of(dag, seed, x), rtol=1e-6, atol=1e-6)
        as_tensor = torch.from_numpy(np.array(seed, np.uint64))
        assert torch.equal(module(x, seed=as_tensor), out)
    if name != "native":
        module.eval()
        assert torch.equal(module(x, seed=3), x)


def test_each_dropout_draws_on_its_own() -> None:
    x = torch.ones(2000)
    dag = dag_of(lambda m, x: (F.dropout(x, 0.5), F.dropout(x, 0.5), F.dropout(x, 0.5)), x)
    masks = [o > 0 for o in numpy_of(dag, 0, x)]
    masks += [o > 0 for o in numpy_of(dag, 1, x)]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs((a == b).mean() - 0.5) < 0.05


def test_gradients_go_through_what_is_kept() -> None:
    x = torch.randn(50, 3, requires_grad=True)
    module = dag_of(lambda m, x: F.dropout(x, 0.25), x).to_torch(fixed=True)
    out = module(x, seed=5)
    out.sum().backward()
    want = torch.where(out != 0, 1 / 0.75, 0.0)
    torch.testing.assert_close(x.grad, want)
    inf = torch.full((50, 3), torch.inf, requires_grad=True)
    out = module(inf, seed=5)
    assert set(out.flatten().tolist()) == {0.0, float("inf")}


def test_without_a_seed_torch_draws_one() -> None:
    x = torch.ones(64)
    module = dag_of(lambda m, x: F.dropout(x, 0.5), x).to_torch(fixed=True)
    torch.manual_seed(3)
    first = module(x)
    second = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(second, first)
    with pytest.raises(
        td.InputError, match=r"the seed must be a whole number or a uint64 of rank 0, got torch.float32"
    ):
        module(x, seed=torch.ones(1))


def test_no_seed_where_nothing_is_random() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.0)).train()
    dag = td.from_torch(net, torch.randn(4, 3))
    assert list(dag.graph.inputs) == ["input"]
    assert list(td.from_torch(net.eval(), torch.randn(4, 3)).graph.updates) == []


def test_an_input_called_seed_keeps_its_name() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
            return F.dropout(x + seed, 0.5)

    dag = td.from_torch(Net(), (torch.ones(3), torch.ones(3)))
    assert list(dag.graph.inputs) == ["x", "seed", "seed_"]
    assert dag.to_torch(fixed=True)(torch.ones(3), torch.ones(3), seed_=1).shape == (3,)


# --- every other source ------------------------------------------------------------------------------------

N = 40_000
LIKE = torch.zeros(N)
SOURCES: dict[str, Any] = {
    "rand": lambda m, x: torch.rand(N),
    "rand_like": lambda m, x: torch.rand_like(x),
    "rand double": lambda m, x: torch.rand(N, dtype=torch.float64),
    "randn": lambda m, x: torch.randn(N),
    "randn_like": lambda m, x: torch.randn_like(x),
    "randint": lambda m, x: torch.randint(7, (N,)),
    "randint low": lambda m, x: torch.randint(-5, 7, (N,), dtype=torch.int32),
    "randint_like": lambda m, x: torch.randint_like(x, 3, 9),
    "randperm": lambda m, x: torch.randperm(N),
    "bernoulli": lambda m, x: torch.bernoulli(x + 0.2),
    "bernoulli p": lambda m, x: torch.bernoulli(x, 0.7),
    "bernoulli_": lambda m, x: torch.empty(N).bernoulli_(0.9),
    "bernoulli_ tensor": lambda m, x: torch.empty(N).bernoulli_(x + 0.4),
    "uniform_": lambda m, x: torch.empty(N).uniform_(-2, 3),
    "normal_": lambda m, x: torch.empty(N).normal_(2, 3),
    "normal": lambda m, x: torch.normal(1.0, 2.0, (N,)),
    "normal of tensors": lambda m, x: torch.normal(x + 1, x + 0.5),
    "normal of means": lambda m, x: torch.normal(x + 1, 0.25),
    "exponential_": lambda m, x: torch.empty(N).exponential_(2.0),
    "log_normal_": lambda m, x: torch.empty(N).log_normal_(0.1, 0.3),
    "geometric_": lambda m, x: torch.empty(N).geometric_(0.3),
    "random_": lambda m, x: torch.empty(N).random_(50),
    "random_ of bytes": lambda m, x: torch.empty(N, dtype=torch.uint8).random_(),
    "rrelu": lambda m, x: F.rrelu(x - 1.0, 0.1, 0.5, True),
    "gumbel_softmax": lambda m, x: F.gumbel_softmax(torch.stack([x, x + 1], 1), dim=1)[:, 0],
    "multinomial": lambda m, x: torch.multinomial(torch.tensor([[0.1, 0.6, 0.3]]).expand(N, 3) + x[:, None], 1),
    "multinomial twice": lambda m, x: torch.multinomial(torch.tensor([0.1, 0.6, 0.3]) + x[:3], N, replacement=True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_have_torchs_distribution(name: str) -> None:
    dag = dag_of(SOURCES[name], LIKE)
    ours = numpy_of(dag, 11, LIKE)
    torch.manual_seed(0)
    theirs = SOURCES[name](None, LIKE).numpy()
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    spread = max(b.std(), 1e-12)
    assert abs(a.mean() - b.mean()) < 5 * spread * (2 / N) ** 0.5
    assert abs(a.std() - b.std()) < 0.05 * spread
    quantiles = np.linspace(0.01, 0.99, 21)
    assert np.abs(np.quantile(a, quantiles) - np.quantile(b, quantiles)).max() <= max(0.12 * spread, 1)
    again = dag.to_torch(fixed=True)(LIKE, seed=11).numpy()
    np.testing.assert_allclose(again, ours, rtol=2e-6)


def test_multinomial_without_replacement_takes_none_twice() -> None:
    dag = dag_of(lambda m, x: torch.multinomial(x, 4), torch.ones(50, 4))
    assert (np.sort(numpy_of(dag, 0, torch.ones(50, 4)), -1) == np.arange(4)).all()
    with pytest.raises(td.UnsupportedError, match="multinomial of 9 out of 4 without replacement"):
        td.from_torch(torch.jit.trace(Multinomial(), torch.ones(50, 9), check_trace=False), torch.ones(50, 4))


class Multinomial(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(x, 9)


def test_attention_with_dropout() -> None:
    q, k, v = (torch.randn(2, 3, 64, 8) for _ in range(3))
    mask = torch.ones(64, 64, dtype=torch.bool).tril()
    for options in ({}, {"is_causal": True}, {"attn_mask": mask}, {"scale": 0.3}):
        dag = dag_of(lambda m, q, k, v, o=options: F.scaled_dot_product_attention(q, k, v, dropout_p=0.2, **o), q, k, v)
        many = np.mean([numpy_of(dag, seed, q, k, v) for seed in range(60)], 0)
        want = F.scaled_dot_product_attention(q, k, v, **options).numpy()
        assert abs(many - want).mean() < 0.06
        module = dag.to_torch(fixed=True)
        out = module(q, k, v, seed=9)
        np.testing.assert_allclose(out.numpy(), numpy_of(dag, 9, q, k, v), rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(module.eval()(q, k, v), torch.from_numpy(want), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_dropout_between_recurrent_layers(kind: Any) -> None:
    net = kind(6, 5, 3, dropout=0.5, bidirectional=True, batch_first=True).train()
    x = torch.randn(4, 7, 6)
    dag = td.from_torch(net, x)
    out, _ = numpy_of(dag, 3, x)
    module = dag.to_torch(fixed=True)
    back, _ = module(x, seed=3)
    np.testing.assert_allclose(back.detach().numpy(), out, rtol=1e-4, atol=1e-5)
    net.eval()
    module.eval()
    torch.testing.assert_close(module(x, seed=3), net(x))
    assert not torch.allclose(back, module(x)[0])
    # without dropout it is one net, as it was
    plain = td.from_torch(kind(6, 5, 3).train(), x)
    assert sum(v.op.name in ("lstm", "gru", "rnn") for v in plain.graph.values) == 1


# --- norms -------------------------------------------------------------------------------------------------


class Norms(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4, **options)
        self.instance = nn.InstanceNorm2d(4, affine=True, track_running_stats=True, momentum=0.3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 5), nn.BatchNorm1d(5, affine=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.instance(torch.relu(self.bn(self.conv(x)))))


def steps(module: nn.Module, count: int, shape: tuple[int, ...], **options: Any) -> list[torch.Tensor]:
    """Train by gradient descent; the outputs."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    outs: list[torch.Tensor] = []
    for _ in range(count):
        x = torch.randn(shape, generator=generator)
        outs.append(module(x, **options))
        optimizer.zero_grad()
        outs[-1].square().mean().backward()
        optimizer.step()
    return outs


def assert_trains_alike(net: nn.Module, shape: tuple[int, ...], exact: bool = True) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exact else {}
    module = td.from_torch(net.train(), torch.randn(shape)).to_torch(copy=True)
    assert module.training
    assert list(module.state_dict()) == list(net.state_dict())
    for a, b in zip(steps(module, 3, shape), steps(net, 3, shape), strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    for name, b in net.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], b, msg=name, **tolerance)
    x = torch.randn(shape)
    torch.testing.assert_close(module.eval()(x), net.eval()(x), **tolerance)
    count = {n: b.clone() for n, b in module.named_buffers()}
    module(x)
    assert all(torch.equal(b, count[n]) for n, b in module.named_buffers())  # nothing moves in eval mode


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "eps": 1e-3}, {"track_running_stats": False}])
def test_norms_train_as_they_did(options: dict[str, Any]) -> None:
    assert_trains_alike(Norms(**options), (3, 3, 6, 6))


def test_a_resnet_trains_as_it_did() -> None:
    import timm

    net = timm.create_model("test_resnet", pretrained=False)
    assert_trains_alike(net, (4, 3, 32, 32))


def test_updates_in_numpy() -> None:
    net = Norms().train()
    x = torch.randn(3, 3, 6, 6)
    dag = td.from_torch(net, x)
    names = {n for n, _ in net.named_buffers()} - {"instance.num_batches_tracked"}
    assert set(dag.graph.updates) == names
    out, updates = run(dag.graph, {"x": x.numpy()}, dag.weights)
    want = net(x).detach().numpy()
    np.testing.assert_allclose(out["out"], want, rtol=1e-4, atol=1e-5)
    for name in names:
        np.testing.assert_allclose(updates[name], net.get_buffer(name).numpy(), rtol=1e-5, err_msg=name)


def test_a_cumulative_average() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3, momentum=None)).train()
    module = td.from_torch(net, torch.randn(4, 2, 5)).to_torch(copy=True)
    assert "forward" not in vars(net[1])
    for a, b in zip(steps(module, 3, (4, 2, 5)), steps(net, 3, (4, 2, 5)), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(module.state_dict(), net.state_dict())
    x = torch.randn(4, 2, 5)
    torch.testing.assert_close(module.eval()(x), net.eval()(x))
    torch.testing.assert_close(module.train()(x), net.train()(x))
    torch.testing.assert_close(module.state_dict(), net.state_dict())


def test_a_cumulative_average_of_what_is_not_finite() -> None:
    net, x = nn.BatchNorm1d(2, momentum=None).train(), torch.tensor([[1.0, torch.inf], [2.0, 3.0]])
    module = td.from_torch(net, x).to_torch(copy=True)
    torch.testing.assert_close(module(x), net(x), equal_nan=True)
    torch.testing.assert_close(module.state_dict(), net.state_dict(), equal_nan=True)


@pytest.mark.parametrize("casting", [False, True])
def test_a_cumulative_average_imported_in_eval_mode(casting: bool) -> None:
    net, x = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3, momentum=None)).eval(), torch.randn(4, 2, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=casting):
        module = td.from_torch(net, x).to_torch(copy=True)
        want = net(x), net.train()(x), net(x + 1), net.eval()(x)
    got = module(x), module.train()(x), module(x + 1), module.eval()(x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(module.state_dict(), net.state_dict())


def test_frozen_norms_stay_frozen() -> None:
    net = Norms().train()
    net.bn.eval()
    dag = td.from_torch(net, torch.randn(3, 3, 6, 6))
    assert not any(n.startswith("bn.") for n in dag.graph.updates)
    module = dag.to_torch(copy=True)
    for a, b in zip(steps(module, 2, (3, 3, 6, 6)), steps(net, 2, (3, 3, 6, 6)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(module.state_dict(), net.state_dict(), rtol=0, atol=0)


# --- whole networks, and the other ways in and out ----------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_drop_path(name: str) -> None:
    import timm

    options = {"drop_rate": 0.1} if name == "test_resnet" else {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
    net = timm.create_model(name, pretrained=False, drop_path_rate=0.3, **options).train()
    x = torch.randn(2, 3, *net.default_cfg["input_size"][1:])
    dag = td.from_torch(net, x)
    assert list(dag.graph.inputs)[-1] == "seed"
    module = dag.to_torch(copy=True)
    out = module(x, seed=5)
    np.testing.assert_allclose(out.detach().numpy(), numpy_of(dag, 5, x), rtol=1e-3, atol=1e-3)
    out.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_transformer_trains() -> None:
    net = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.2, batch_first=True).train()
    x = torch.randn(2, 5, 16)
    dag = td.from_torch(net, x)
    module = dag.to_torch(fixed=True)
    np.testing.assert_allclose(module(x, seed=2).detach().numpy(), numpy_of(dag, 2, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.eval()(x), net.eval()(x))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.bn(x), 0.4, self.training) + torch.rand_like(x)


def test_every_entrance_and_exit() -> None:
    net = Noisy().train()
    x = torch.randn(8, 4)
    want = None
    sources = {
        "module": net,
        "exported": torch.export.export(net, (x,), strict=False),
        "traced": torch.jit.trace(net, x, check_trace=False),
        "scripted": torch.jit.script(net),
    }
    for name, source in sources.items():
        dag = td.from_torch(source, x)
        assert list(dag.graph.inputs)[-1] == "seed", name
        assert sorted(dag.graph.updates) == ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var"], name
        out = numpy_of(dag, 4, x)
        want = out if want is None else want
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6, err_msg=name)
    dag = td.from_torch(net, x)
    seed = torch.from_numpy(np.array(4, np.uint64))
    script = dag.to_torchscript(copy=True)
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    for m in (script, torch.jit.load(file), dag.to_exported_program(copy=True).module(check_guards=False)):
        torch.testing.assert_close(m(x, seed=seed).detach().numpy(), want, rtol=1e-5, atol=1e-6)
    again = td.from_torch(dag.to_exported_program(), x)
    assert sorted(again.graph.updates) == ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var"]


def test_a_training_graph_compiles() -> None:
    module = td.from_torch(Noisy().train(), torch.randn(8, 4)).to_torch(fixed=True)
    x = torch.randn(8, 4)
    want = module(x, seed=1)
    torch.testing.assert_close(torch.compile(module, backend="eager")(x, seed=1), want)
