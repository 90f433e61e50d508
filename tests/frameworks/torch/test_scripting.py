"""Literals in TorchScript, threads, odd tensors, calls by keys."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import InputError, UnsupportedError


class Call(nn.Module):
    """A function of tensors as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Any) -> Any:
        return self.function(*x)


def written(x: torch.Tensor, value: Any) -> torch.Tensor:
    x = x.clone()
    x[::2] = value
    return x


@pytest.mark.parametrize(
    "function",
    [
        lambda x: written(x.relu(), 0),
        lambda x: written(x > 0, True),
        lambda x: (x > 0).masked_fill(x > 1, 0),
        lambda x: (x > 0).masked_fill(x > 1, True),
        lambda x: (x > 0) & True,
        lambda x: torch.logical_xor(x > 0, torch.tensor(True)),
        lambda x: nn.functional.pad(x > 0, (1, 1), value=True),
        lambda x: torch.where(x > 0, True, False),
        lambda x: (x[:, :0] > 0).any(1),
        lambda x: torch.where(x > 0, x * 1j, 2 - 1j).real,
        lambda x: torch.where(x > 0, x, math.inf),
        lambda x: 1 / torch.where(x > 0, x * 0, -0.0),
        lambda x: torch.where(x > 0, x.long(), -(2**63)),
        lambda x: torch.where(x > 0, x, 1.5).to(torch.float8_e4m3fn).float(),
    ],
)
def test_literals_in_torchscript(function: Callable[..., Any]) -> None:
    x = torch.tensor([[0.5, -1.0, 2.0], [-0.5, 1.5, 0.0], [1.0, -2.0, 3.0]])
    got, want = td.from_torch(Call(function), x).to_torchscript()(x), function(x)
    assert got.dtype == want.dtype
    assert torch.equal(got, want)


def test_networks_are_imported_in_threads() -> None:
    failed: list[BaseException] = []

    def work(features: int) -> None:
        try:
            net, x = nn.Sequential(nn.Linear(3, features), nn.ReLU()), torch.ones(2, 3)
            for via in ("export", "trace"):
                dag = td.from_torch(net, x, via=via)  # type: ignore[arg-type]
                assert torch.equal(dag.to_torch()(x), net(x))
                assert dag.resize(b=4).graph.outputs["out"].shape == (4, features)
                assert dag.cost().macs == 6 * features
                assert torch.allclose(torch.from_numpy(dag.run(x.numpy())), net(x), atol=1e-6)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(4 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_values_are_interned_across_threads() -> None:
    found: list[list[td.Value]] = [[] for _ in range(4)]

    def work(own: list[td.Value]) -> None:
        x = td.input("shared", (3,))
        for i in range(300):
            own.append(td.exp(x) * (i + 0.5))

    threads = [threading.Thread(target=work, args=(own,)) for own in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a is b for own in found[1:] for a, b in zip(found[0], own, strict=True))


ODD = {
    "sparse_coo": lambda: torch.eye(2).to_sparse(),
    "sparse_csr": lambda: torch.eye(2).to_sparse_csr(),
    "_mkldnn": lambda: torch.eye(2).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "qint8": lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*nested tensors", "ignore:.*quantiz", "ignore:torch.quantize")
@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("held", ["attribute", "buffer", "input"])
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_arrays_are_refused_by_name(kind: str, held: str, via: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if held == "buffer":
                self.register_buffer("table", ODD[kind]())
            elif held == "attribute":
                self.table = ODD[kind]()

        def forward(self, x: torch.Tensor, table: Any = None) -> torch.Tensor:
            return torch.sparse.mm(self.table if table is None else table, x)

    args = (torch.ones(2, 3), ODD[kind]()) if held == "input" else (torch.ones(2, 3),)
    with pytest.raises(UnsupportedError, match=rf"(weight|tensor|input) 'table'.*{kind}|a constant of .*{kind}"):
        td.from_torch(Net(), args, via=via)


def test_dict_arguments_come_in_any_order() -> None:
    net = Call(lambda d: d["a"] - d["b"])
    a, b = torch.ones(2), torch.arange(2.0)
    dag = td.from_torch(net, ({"a": a, "b": b},))
    for call in (dag.to_torch(), dag.to_torchscript(), dag.to_exported_program().module()):
        assert torch.equal(call({"b": b, "a": a}), a - b)
    assert (dag.run({"b": b.numpy(), "a": a.numpy()}) == (a - b).numpy()).all()
    with pytest.raises(InputError, match="lacks 'b' and has 'c': its keys must be 'a', 'b'"):
        dag.to_torch()({"a": a, "c": b})
    with pytest.raises(InputError, match="lacks 'b' and has 'c': its keys must be 'a', 'b'"):
        dag.run({"a": a.numpy(), "c": b.numpy()})


def test_keyword_arguments_of_run_come_in_any_order() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, *, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return x + 2 * y - z

    x, y, z = torch.ones(2), torch.arange(2.0), torch.full((2,), 5.0)
    dag = td.from_torch(Net(), (x,), {"y": y, "z": z})
    assert (dag.run(x.numpy(), z=z.numpy(), y=y.numpy()) == (x + 2 * y - z).numpy()).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1, torch.eye(4).sort(0)[0]),
        lambda x: x * torch.linspace(1, 0, 3).sort()[0],
        lambda x: x * torch.arange(3.0).topk(3)[0],
        lambda x: x * torch.eye(3).max(0)[0],
        lambda x: x * torch.arange(6.0).reshape(3, 2).min(1)[0],
        lambda x: x + torch.var_mean(torch.eye(3), 0)[1],
        lambda x: x + torch.arange(6.0).split(3)[1],
        lambda x: x + torch.frexp(torch.arange(3.0))[0],
        lambda x: x + torch.arange(3.0).cummax(0)[0],
    ],
)
def test_several_results_of_constants_follow(function: Callable[..., Any]) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    dag = td.from_torch(Call(function), x)
    first = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731
    wide = torch.cat([x, x])
    assert torch.allclose(first(dag.resize({"input0": (4, 3)}).to_torch()(wide)), first(function(wide)))
    assert torch.allclose(first(dag.unbatch(input="input0", axis=0).to_torch()(x[0])), first(function(x))[0])
    stacked = torch.stack([x, x + 1])
    assert torch.allclose(first(dag.batch(2).to_torch()(stacked))[1], first(function(x + 1)))
