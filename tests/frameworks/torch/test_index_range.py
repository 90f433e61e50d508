"""Indices beyond their own axis raise, as eager's do: together with those of other axes they'd be other entries."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tdagger as td

FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "two axes": lambda x, i, j: x[i, j],
    "inner axes": lambda x, i, j: x[:, i, j],
    "apart": lambda x, i, j: x[i, :, j],
    "beside a place": lambda x, i, j: x[i, 1, j],
    "carried": lambda x, i, j: x[torch.arange(4), i, j],
    "put": lambda x, i, j: x.index_put((i, j), torch.ones(4, 5)),
    "added": lambda x, i, j: x.index_put((i, j), torch.ones(4, 5), accumulate=True),
    "written": lambda x, i, j: _written(x, i, j),
}


def _written(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    x = x.clone()
    x[:, i, j] = 7.0
    return x


class Net(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.function = FORMS[form]

    def forward(self, x: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.function(x, i, j)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("form", FORMS)
def test_an_index_beyond_its_axis_raises(form: str, dtype: torch.dtype) -> None:
    x = torch.arange(4 * 5 * 5.0).reshape(4, 5, 5)
    net = Net(form)
    right = torch.tensor([0, 3, -4, 1], dtype=dtype), torch.tensor([4, -5, 0, 2], dtype=dtype)
    dag = td.from_torch(net, (x, *right))
    script = dag.to_torchscript()
    ways: list[Callable[..., Any]] = [dag.to_torch(), script, lambda *args: torch.tensor(run_by_numpy(dag, args))]
    for way in ways:
        torch.testing.assert_close(way(x, *right), net(x, *right))
    for beyond in (5, 7, -6, -100, 100):
        for place in (0, 1):
            indices = list(right)
            indices[place] = torch.tensor([beyond, 0, 0, 0], dtype=dtype)
            with pytest.raises(IndexError):
                net(x, *indices)
            for way in ways:
                with pytest.raises(RuntimeError if way is script else IndexError, match=r"out of range|must be in"):
                    way(x, *indices)


def run_by_numpy(dag: td.TensorDAG, args: tuple[Tensor, ...]) -> Any:
    return dag.run(*[a.numpy() for a in args])


def test_it_takes_no_memory_of_the_axes() -> None:
    """Of two large axes no more is read than there are indices."""
    x, i = torch.zeros(3, 1000, 2), torch.tensor([0, 1])
    net = td.from_torch(Net("two axes"), (x, i, i)).to_torch(fixed=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        net(x, i, i)
    averages: Any = profile.key_averages()
    assert max(e.self_cpu_memory_usage for e in averages) < 1000


class Table(nn.Module):
    """Entries of a table along an axis, by indices that are given."""

    def __init__(self, axis: int, rank: int) -> None:
        super().__init__()
        self.axis = axis
        self.table = nn.Parameter(torch.randn(5, 5, 5)[(0,) * (3 - rank)])

    def forward(self, i: Tensor) -> Tensor:
        return self.table[(slice(None),) * self.axis + (i,)] * 2


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
@pytest.mark.parametrize(("axis", "rank"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_one_index_is_torchs_own(axis: int, rank: int, shape: tuple[int, ...]) -> None:
    """It is checked there, counts from the end, and its gradient is added up."""
    net = Table(axis, rank)
    index = torch.randint(-5, 5, shape)
    back = td.from_torch(net, index).to_torch()
    assert f"self.table[{':, ' * axis}i]" in back.code
    for module in (net, back):
        module(index).sum().backward()
    assert torch.equal(back(index), net(index))
    assert torch.equal(back.table.grad, net.table.grad)
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            back(torch.full(shape, beyond))
