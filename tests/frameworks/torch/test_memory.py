"""Strided views of tensors whose place in memory is known, and sizes that are written as tensors."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from conformance.ops import Of
from tdagger.frameworks.torch.aten import memory_of, number_of
from tdagger.frameworks.torch.aten.memory import Strided
from tdagger.interpret import run
from tdagger.ops import structure as s
from tdagger.ops.source import const, iota


def _ops(dag: td.TensorDAG) -> set[str]:
    return {v.op.name for v in dag.graph.values}


def _same(function: Any, *tensors: torch.Tensor, via: Any = "trace") -> td.TensorDAG:
    """The network of a function, the same by torch and by numpy as before."""
    module = Of(function)
    want = module(*[t.clone() for t in tensors])
    dag = td.from_torch(module, tensors, via=via)
    assert torch.equal(dag.to_torch()(*tensors), want)
    assert np.array_equal(dag.run(*[t.numpy() for t in tensors]), want.numpy())
    return dag


def test_every_strided_view_of_a_dense_tensor() -> None:
    rng = random.Random(0)
    cases = windows = 0
    while cases < 300:
        shape = [rng.randint(1, 5) for _ in range(rng.randint(0, 4))]
        order = rng.sample(range(len(shape)), len(shape))
        x = torch.arange(int(np.prod(shape))).reshape(shape).permute(order)
        rank = rng.randint(0, 4)
        size = [rng.randint(int(rng.random() > 0.1), 4) for _ in range(rank)]
        stride = [rng.choice([0, 1, 2, 3, 4, 6, *x.stride(), *[2 * n for n in x.stride()]]) for _ in range(rank)]
        offset = rng.randrange(min(3, x.numel()))
        if 0 not in size and offset + sum((n - 1) * m for n, m in zip(size, stride, strict=True)) >= x.numel():
            continue
        cases += 1
        memory = memory_of(x.shape, x.stride(), 0)
        assert memory is not None
        value = td.input("x", tuple(x.shape), "i64")
        out = Strided(tuple(size), tuple(stride), offset).of(s.permute(value, memory.order))
        graph = td.Graph({"x": value}, {"out": out})
        got = run(graph, {"x": x.numpy().copy()}, {})[0]["out"]
        assert np.array_equal(got, x.as_strided(size, stride, offset).numpy()), (shape, order, size, stride, offset)
        windows += "gather" not in {v.op.name for v in graph.values}
    assert windows > 100


@pytest.mark.parametrize("via", ["export", "trace"])
def test_overlapping_chunks_of_a_transposed_tensor(via: str) -> None:
    """As longformer has them: the memory of a transposed tensor, read in windows."""

    def function(x: torch.Tensor) -> torch.Tensor:
        y = (x * 2).transpose(0, 1)  # (batch, length, width), the length outermost in memory
        y = y.view(y.size(0), y.size(1) // 4, 4, y.size(2))
        size, stride = list(y.size()), list(y.stride())
        size[1], stride[1] = 2 * size[1] - 1, stride[1] // 2
        return y.as_strided(size, stride)

    dag = _same(function, torch.randn(8, 3, 5), via=via)
    assert "unfold" in _ops(dag)
    assert "gather" not in _ops(dag)


def test_a_strided_view_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(td.UnsupportedError, match="it asks how a tensor lies in memory"):
        td.from_torch(Of(lambda x: x[:, :2].as_strided((2, 2), (1, 1))), (torch.randn(3, 4),), via="trace")
    with pytest.raises(td.UnsupportedError, match="it asks how a tensor lies in memory"):  # where it begins isn't known
        td.from_torch(Of(lambda x: x[1].as_strided((2, 2), (1, 1), 0)), (torch.randn(3, 4),), via="trace")
    with pytest.raises(td.UnsupportedError, match="it reads memory beyond its argument"):
        td.from_torch(Of(lambda x: x[1].as_strided((2, 4), (4, 1))), (torch.randn(3, 4),), via="trace")


def test_a_strided_view_of_a_part_that_is_dense() -> None:
    x = torch.randn(3, 4)
    _same(lambda x: x[1].as_strided((3, 2), (1, 1)), x)
    _same(lambda x: (x + 0)[1:].as_strided((2, 2), (1, 4), 5), x, via="export")


def test_layouts() -> None:
    for order in itertools.permutations(range(3)):
        x = torch.empty(2, 3, 4).permute(order)
        assert memory_of(x.shape, x.stride(), 7) == (tuple(np.argsort(order)), 7)
    assert memory_of((2, 3), (4, 1), 0) is None  # gaps
    assert memory_of((2, 3), (0, 1), 0) is None  # an expanded tensor
    assert memory_of((2, 1, 3), (3, 99, 1), 0) == ((1, 0, 2), 0)  # the stride of one entry says nothing
    assert memory_of((), (), 0) == ((), 0)
    assert memory_of((2, 0), (0, 1), 0) is not None


# --- sizes written as tensors ------------------------------------------------------------------------------


class _Grid(nn.Module):
    """Coordinates along axes whose lengths are entries of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = torch.tensor([[3, 4]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = self.shapes[0, 0], self.shapes[0, 1]
        rows, columns = torch.arange(0, height, dtype=x.dtype) / height, torch.arange(width) / width
        return x + rows[:, None] + columns


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_range_that_ends_at_an_entry_of_a_constant(via: Any) -> None:
    x = torch.randn(2, 3, 4)
    dag = td.from_torch(_Grid(), x, via=via)
    assert torch.equal(dag.to_torch()(x), _Grid()(x))


class _Counts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum() + torch.arange(0, x.long().max())


def test_a_range_that_ends_at_data_is_refused() -> None:
    x = torch.tensor([1.0, 3.0])
    with pytest.raises(td.UnsupportedError, match=r"the shape of its result depends on the data.*test_memory\.py:"):
        td.from_torch(_Counts(), x, via="trace")
    with pytest.raises(td.UnsupportedError, match="isn't known before the network runs"):
        td.from_torch(_Counts(), x)


class _Masked(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0].sum()


def test_an_op_whose_shape_depends_on_data_gives_one_reason() -> None:
    with pytest.raises(td.UnsupportedError) as raised:
        td.from_torch(_Masked(), torch.randn(4))
    text = str(raised.value)
    assert "indexing with a bool mask has a result whose shape depends on the data (at the top module, " in text
    assert "register_meta" not in text
    with pytest.raises(td.UnsupportedError, match="can't be kept as an external op, the shape of its result"):
        td.from_torch(_Masked(), torch.randn(4), external=True)


def test_numbers_that_are_known() -> None:
    line = iota(5) * 2
    assert number_of(s.select(line, 0, 3)) == 6
    assert number_of(s.reduce(line, "sum", (0,), keep=False)) == 20
    for number, dtype in ((True, "bool"), (3, "i32"), (1.5, "bf16"), (1 + 2j, "c64")):
        found = number_of(const(number, dtype))
        assert found == number
        assert type(found) is type(number)
    assert number_of(line) is None  # not one number
    assert number_of(td.input("x", ())) is None
    assert number_of(s.reduce(iota(1 << 20), "max", (0,), keep=False)) is None  # too much to find out
