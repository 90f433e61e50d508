"""From PyTorch: every entrance, views and writes, structure, errors."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.interpret import run


def to_numpy(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.detach().numpy()
    if isinstance(x, dict):
        return {k: to_numpy(v) for k, v in x.items()}
    if isinstance(x, tuple | list):
        return type(x)(to_numpy(v) for v in x)
    return x


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Equal structure, and numbers equal to ``tolerance`` of the largest."""
    assert type(got) is type(want) or isinstance(want, np.ndarray)
    if isinstance(want, dict):
        assert list(got) == list(want)
        for k in want:
            assert_same(got[k], want[k], tolerance)
    elif isinstance(want, tuple | list):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert_same(g, w, tolerance)
    elif isinstance(want, np.ndarray):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        scale = max(float(np.abs(want.astype(np.float64)).max(initial=0)), 1e-30)
        assert float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0)) <= tolerance * scale
    else:
        assert got == want


class Of(nn.Module):
    """A module of a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


# --- views and writes --------------------------------------------------------------------------------------


def write_to_select(x):
    y = x * 2
    y[:, 0] = 1.0
    return y


def write_with_steps(x):
    y = x.clone()
    y[..., 1::2].mul_(3)
    return y, y.sum()


def write_through_transpose(x):
    y = x + 0
    w = y.transpose(0, 1)
    w[0, :, :2] += 7
    return y, w


def write_through_view(x):
    y = x + 0
    flat = y.view(-1)
    flat[3:5] = -1
    y.add_(1)
    return flat, y


def copy_of_a_transpose_is_no_view(x):
    y = x + 0
    z = y.transpose(0, 1).contiguous()
    z.zero_()
    return y, z


def write_through_split(x):
    y = x + 0
    a, b = y.split(2, dim=2)
    a.fill_(5)
    b.copy_(a[..., :1])
    return y


def cast_is_no_view(x):
    y = x + 0
    z = y.to(torch.float64)
    z.add_(1)
    return y, z


def masked_writes(x):
    y = x.clone()
    y[y > 0] = 0.5
    y.masked_fill_(y < -1, 9.0)
    return y


ROWS, COLUMNS = torch.tensor([0, 1]), torch.tensor([2, 0])


def index_writes(x):
    y = x.clone()
    y[ROWS, COLUMNS] = x[0, 0] * 2
    return y.index_add_(0, ROWS * 0 + 1, x)


def out_argument(x):
    y = torch.empty_like(x)
    torch.add(x, 1, out=y)
    return y


WRITES = [
    write_to_select,
    write_with_steps,
    write_through_transpose,
    write_through_view,
    copy_of_a_transpose_is_no_view,
    write_through_split,
    cast_is_no_view,
    masked_writes,
    index_writes,
    out_argument,
]


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_views_and_writes(function) -> None:
    x = torch.randn(2, 3, 4)
    want = to_numpy(function(x))
    for dag in (td.from_torch(Of(function), x), td.from_torchscript(torch.jit.trace(Of(function), x))):
        assert_same(dag.run(x.numpy()), want)


def test_buffers_that_change_become_updates() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(2))

        def forward(self, x):
            self.count.add_(1)
            self.count[0] += x.sum()
            return x * self.count[1]

    x = torch.ones(3)
    for source in (Counter(), torch.jit.script(Counter())):
        dag = td.from_torch(source, x)
        assert list(dag.graph.updates) == ["count"]
        out, updates = run(dag.graph, {next(iter(dag.graph.inputs)): x.numpy()}, dag.weights)
        np.testing.assert_array_equal(updates["count"], [4, 1])
        np.testing.assert_array_equal(out["out"], [1, 1, 1])


# --- structure ---------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class Result:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


class Structured(nn.Module):
    def forward(self, x, pairs, *, scale=1.0, mask=None):
        y = x * scale + pairs["a"][0] if mask is None else torch.where(mask, x, pairs["a"][0])
        return {
            "pair": Pair(y, y + 1),
            "result": Result(y * 2, (y, y - 1)),
            "n": 3,
            "none": None,
            "list": [y],
        }


def test_structure_is_kept() -> None:
    x, a = torch.randn(2), torch.randn(2)
    dag = td.from_torch(Structured(), (x, {"a": (a,)}), {"scale": 2.0})
    assert list(dag.graph.inputs) == ["x", "pairs.a.0"]
    want = Structured()(x, {"a": (a,)}, scale=2.0)
    got = dag.run(x.numpy(), {"a": (a.numpy(),)}, scale=2.0)
    assert isinstance(got["pair"], Pair)
    assert isinstance(got["result"], Result)
    assert got["result"].loss is None
    assert (got["n"], got["none"]) == (3, None)
    np.testing.assert_allclose(got["pair"].second, want["pair"].second.numpy())
    np.testing.assert_allclose(got["result"].hidden[1], want["result"].hidden[1].numpy())
    assert list(dag.graph.outputs)[:3] == ["pair.first", "pair.second", "result.logits"]


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, i):
            return self.head(self.embed(i))

    dag = td.from_torch(Tied(), torch.tensor([1, 2]))
    assert list(dag.graph.parameters) == ["embed.weight"]
    assert dag.state["head.weight"].alias_of == "embed.weight"
    assert dag.graph.total_bytes() == 5 * 4 * 4


def test_origins() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    for dag in (
        td.from_torch(net, torch.ones(1, 3)),
        td.from_torchscript(torch.jit.trace(net, torch.ones(1, 3))),
    ):
        region = dag["1.1"]
        assert [v.op.name for v in region.values] == ["linear"]
        assert list(region.parameters) == ["1.1.weight", "1.1.bias"]
        assert region.inputs[0].op.name == "relu"
        origin = dag.origins[region.values[0]]
        assert "linear.py:" in origin.source
        assert dag.modules["1.1"] == "Linear"
        with pytest.raises(td.GraphError, match=r"nothing came from module '1\.7'"):
            dag["1.7"]


# --- entrances ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        nn.init.uniform_(self.bn.running_var, 0.5, 1.5)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        if x.shape[2] > 4:
            x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


def entrances(net: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, x), buffer)
    buffer.seek(0)
    return {
        "module": net,
        "exported program": torch.export.export(net, (x,), strict=False),
        "fx": torch.export.export(net, (x,), strict=False).module(),
        "traced": torch.jit.trace(net, x),
        "loaded": torch.jit.load(buffer),
        "scripted": torch.jit.script(net),
    }


def test_every_entrance() -> None:
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    want = to_numpy(net(x))
    for name, source in entrances(net, x).items():
        dag = td.from_torch(source, x)
        assert_same(dag.run(x.numpy()), want)
        assert set(dag.graph.parameters) == set(dict(net.named_parameters())), name
        assert set(dag.state) == set(net.state_dict()), name


def test_a_symbolically_traced_module() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU()).eval()
    x = torch.randn(2, 3)
    dag = td.from_torch(torch.fx.symbolic_trace(net), x)
    assert_same(dag.run(x.numpy()), to_numpy(net(x)))


def test_traced_in_this_process_needs_no_inputs() -> None:
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    dag = td.SafeDAG.from_torchscript(torch.jit.trace(net, x))
    assert_same(dag.run(x.numpy()), to_numpy(net(x)))


def test_a_loaded_script_asks_for_inputs() -> None:
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    loaded = entrances(net, x)["loaded"]
    with pytest.raises(td.InputError, match=r"doesn't say the shape of its input 'x.*give example inputs"):
        td.from_torchscript(loaded)


# --- errors ------------------------------------------------------------------------------------------------


def test_all_unsupported_ops_are_reported_at_once() -> None:
    class Bad(nn.Module):
        def forward(self, x):
            a = torch.linalg.cholesky(x)
            return torch.linalg.inv(a) + torch.linalg.inv(a * 2)

    with pytest.raises(td.UnsupportedError) as caught:
        td.from_torch(Bad(), torch.eye(4))
    text = str(caught.value)
    assert text.startswith("3 calls of 2 ops can't be imported:")
    assert "2 x aten.linalg_inv: factoring a matrix takes steps that depend on the data; " in text
    assert "1 x aten.linalg_cholesky: " in text
    assert "test_importer.py:" in text
    assert "external=True" in text


def test_external_ops_are_kept() -> None:
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.cholesky(x @ x.T + torch.eye(3)) * 2

    x = torch.randn(3, 3)
    dag = td.from_torch(Odd(), x, external=True)
    assert sum(dag.graph.external.values()) == 1
    with pytest.raises(td.UnsupportedError, match=r"only torch can run it"):
        dag.run(x.numpy())


def test_wrong_models_and_inputs() -> None:
    with pytest.raises(td.InputError, match=r"from_torch takes an nn\.Module"):
        td.from_torch("resnet50", torch.ones(1))
    with pytest.raises(td.InputError, match="needs example inputs"):
        td.from_torch(nn.Linear(2, 2), ())
    with pytest.raises(td.InputError, match=r"inputs\.0\.0: can't take a builtins\.set"):
        td.from_torch(nn.Linear(2, 2), ({1},))
    dag = td.from_torch(nn.Linear(2, 3), torch.ones(4, 2))
    with pytest.raises(td.InputError, match=r"declared f32\[4 2\], got float32\[4, 3\]"):
        dag.run(np.ones((4, 3), np.float32))
    with pytest.raises(td.InputError, match="takes the arrays"):
        dag.run()


def test_weights_are_shared_and_meta_weights_need_no_data() -> None:
    net = nn.Linear(2, 3)
    dag = td.from_torch(net, torch.ones(4, 2))
    assert np.shares_memory(dag.weights["weight"], net.weight.detach().numpy())
    with torch.device("meta"):
        big = nn.Linear(100_000, 100_000)
    dag = td.from_torch(big, torch.ones(1, 100_000, device="meta"))
    assert dag.graph.total_bytes() == 4 * (100_000**2 + 100_000)
    with pytest.raises(td.InputError, match="on the meta device"):
        dag.weights["weight"]


def test_bfloat16_and_integers() -> None:
    net = nn.Linear(4, 3).bfloat16()
    x = torch.randn(2, 4).bfloat16()
    got = td.from_torch(net, x).run(td.from_torch(net, x).weights["weight"][:2])
    assert got.dtype.name == "bfloat16"

    class Ints(nn.Module):
        def forward(self, x):
            return x // 3, x % 3, x / 2, x.float().mean(), x.sum(), (x > 2) & (x < 7), -x

    x = torch.arange(-5, 10)
    assert_same(td.from_torch(Ints(), x).run(x.numpy()), to_numpy(Ints()(x)))
