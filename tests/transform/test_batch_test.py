"""Removing the batch: the batch test of the project this one grew out of, and what has to be refused, by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tdagger as td
from tdagger.errors import AxisError

HERE = Path(__file__).name


class BatchTest(nn.Module):
    """Written for a batch of one: ``x[0]`` is meant as the batch."""

    def __init__(self, pads=(0, 0)):
        super().__init__()
        self.pads = pads

    def forward(self, x):
        x = x + x[0, ...]
        x = x[:, :10, 10:, 10:-10]
        x = F.pad(x, (1, 1, 2, 0, 0, 2, *self.pads))
        x = x.permute(0, 2, 3, 1)
        x = torch.sum(x, dim=(1, -1))
        x = x.unsqueeze(0)
        x = x.squeeze(0)
        x = torch.abs(x)
        x = torch.sin(x)
        return F.leaky_relu(x)


def line_of(text: str) -> int:
    """The number of the line of this file that has ``text``."""
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.strip() == text)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_as_its_author_meant():
    x = torch.rand(1, 20, 30, 48, dtype=torch.float64)
    dag = td.from_torch(BatchTest(), x)
    single = dag.unbatch("b", assume_size_one=True)
    assert single.graph.inputs["x"].shape == (20, 30, 48)
    found = torch.as_tensor(single.run(x[0].numpy()))
    torch.testing.assert_close(found, BatchTest()(x)[0])
    assert max(v.rank for v in single.graph.values) == 3


@pytest.mark.parametrize("n", [1, 3])
def test_refused_without_being_told(n):
    dag = td.from_torch(BatchTest(), torch.rand(n, 20, 30, 48))
    with pytest.raises(AxisError, match="axis b can't be removed: it is not only carried") as e:
        dag.unbatch("b")
    at = line_of("x = x + x[0, ...]")
    assert re.search(rf"<slice\(.*takes one entry of b \(.*{HERE}:{at}\)", str(e.value))
    assert len(str(e.value).splitlines()) == 2  # it is the only one


def test_an_entry_of_three_is_not_the_batch():
    dag = td.from_torch(BatchTest(), torch.rand(3, 20, 30, 48))
    with pytest.raises(AxisError, match="takes one entry of b"):
        dag.unbatch("b", assume_size_one=True)


def test_a_padded_batch_is_refused():
    """Rows of zeros before and after the batch are not entries of it."""
    dag = td.from_torch(BatchTest((1, 1)), torch.rand(1, 20, 30, 48))
    with pytest.raises(AxisError, match=rf"<pad\(.* pads \w+ \(.*{HERE}:\d+\)"):
        dag.unbatch(input="x", axis=0, assume_size_one=True)


# What mixes the entries of a batch.


class Fn(nn.Module):
    """A function of x, and a module that it may use."""

    def __init__(self, f, inner=None):
        super().__init__()
        self.f, self.inner = f, inner

    def forward(self, x):
        return self.f(x) if self.inner is None else self.f(x, self.inner)


ROWS, ONE, IMAGE = (3, 4), (1, 4), (3, 4, 5, 5)

#: The network, the shape of x, and what the message must say of the op.
MIXES = {
    "batch norm in training": (Fn(lambda x, m: m(x), nn.BatchNorm2d(4)), IMAGE, "batch_norm_train", "takes the sum"),
    "softmax": (Fn(lambda x: x.softmax(0)), ROWS, "softmax", "takes the max over"),
    "log softmax": (Fn(lambda x: x.log_softmax(0)), ROWS, "log_softmax", "takes the max over"),
    "the first": (Fn(lambda x: x + x[0]), ROWS, "slice", "takes one entry of"),
    "the last": (Fn(lambda x: x[-1:] * x), ROWS, "slice", "takes one entry of"),
    "chunks": (Fn(lambda x: sum(x.chunk(3))), ROWS, "slice", "takes one entry of"),
    "a shuffle": (Fn(lambda x: x[torch.tensor([2, 0, 1])]), ROWS, "gather", "indexes"),
    "index_select": (Fn(lambda x: x.index_select(0, torch.tensor([1, 1, 2]))), ROWS, "gather", "indexes"),
    "flip": (Fn(lambda x: x.flip(0)), ROWS, "slice", "reverses"),
    "roll": (Fn(lambda x: x.roll(1, 0)), ROWS, "roll", "rolls"),
    "every second": (Fn(lambda x: x[::2]), ROWS, "slice", "slices"),
    "mean": (Fn(lambda x: x - x.mean(0)), ROWS, "mean", "takes the sum over"),
    "mean kept": (Fn(lambda x: x - x.mean(0, keepdim=True)), ROWS, "mean", "takes the sum over"),
    "mean of all": (Fn(lambda x: x - x.mean()), ROWS, "mean", "takes the sum over"),
    "std": (Fn(lambda x: x / x.std(0)), ROWS, "std", "takes the sum over"),
    "maximum": (Fn(lambda x: x - x.amax(0)), ROWS, "reduce", "takes the max over"),
    "argmax": (Fn(lambda x: x.argmax(0)), ROWS, "argmax", "takes the max over"),
    "cumsum": (Fn(lambda x: x.cumsum(0)), ROWS, "scan", "takes the running sum of"),
    "sort": (Fn(lambda x: x.sort(0).values), ROWS, "sort", "sorts"),
    "end to end": (Fn(lambda x: torch.cat([x, x])), ROWS, "concat", "concatenates"),
    "padding": (Fn(lambda x: F.pad(x, (0, 0, 1, 0))), ROWS, "pad", "pads"),
    "convolution": (Fn(lambda x, m: m(x.T[None]), nn.Conv1d(4, 3, 3)), ROWS, "convolution", "takes windows of"),
    "linear over it": (Fn(lambda x, m: m(x.T), nn.Linear(3, 3)), ROWS, "linear", "takes the sum over"),
    "linear over all": (Fn(lambda x, m: m(x.flatten()), nn.Linear(12, 3)), ROWS, "linear", "takes the sum over"),
    "products of pairs": (Fn(lambda x: x @ x.T), ROWS, "matmul", "sets against one another the entries of"),
    "distances": (Fn(lambda x: torch.cdist(x, x)), ROWS, "repeat", "sets against one another the entries of"),
    "pairs": (Fn(lambda x: x[:, None] - x[None]), ROWS, "repeat", "sets against one another the entries of"),
    "pairs of one": (Fn(lambda x: x[:, None] - x[None]), ONE, "subtract", "sets against one another the entries of"),
    "another order": (Fn(lambda x: x.T.reshape(3, 4)), ROWS, "reshape", "regroups"),
    "numbers": (Fn(lambda x: x + torch.arange(3)[:, None]), ROWS, "add", r"takes <iota\(.*, which numbers"),
    "random numbers": (Fn(lambda x: x + torch.rand(3, 4)), ROWS, "uniform", "draws random numbers along"),
    "attention over it": (
        Fn(lambda x: F.scaled_dot_product_attention(x, x, x)), ROWS, "scaled_dot_product_attention", "takes the max"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_the_batch_is_named(name):
    network, shape, op, does = MIXES[name]
    x = torch.randn(shape)
    dag = td.from_torch(network.train(), x)
    axis = dag.axes().dimension(dag.axes()[dag.graph.inputs["x"]][0])
    with pytest.raises(AxisError) as e:
        dag.unbatch(input="x", axis=0)
    first, *named = str(e.value).splitlines()
    assert first == f"axis {axis} can't be removed: it is not only carried"
    where = rf"\((inner, .*\.py|.*{HERE}):\d+\)"
    assert any(re.search(rf"^  <{op}\b.*> {does}.* \(?.*\b{axis}\b.*\)? {where}$", n) for n in named), named


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Fn(lambda x: x * torch.tensor([[1.0], [2.0], [3.0]])), r"axis b .*<multiply.*\): const\(.* differs along dim"),
        (Fn(lambda x, m: x * m.weight, nn.Linear(4, 3)), "axis c .*parameter 'inner.weight' is f32.3 4.; it can't"),
    ],
)
def test_what_holds_something_for_each_entry_is_named(network, why):
    dag = td.from_torch(network, torch.randn(ROWS))
    with pytest.raises(AxisError, match=why):
        dag.unbatch(input="x", axis=0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x / len(x),
        lambda x: x.expand(2, 3, 4).sum(0),
        lambda x: x * torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        lambda x: x + torch.ones(3, 1) * torch.arange(4),
        lambda x: x.T.softmax(0).T,
        lambda x: torch.stack([x, x.exp()], 1).flatten(0, 1).cumsum(-1).view(3, 8),
    ],
)
def test_what_only_carries_it(f):
    x = torch.randn(ROWS)
    single = td.from_torch(Fn(f), x).unbatch(input="x", axis=0)
    found = torch.stack([torch.as_tensor(single.run(row.numpy())) for row in x])
    torch.testing.assert_close(found, f(x))


def test_there_has_to_be_such_an_axis():
    dag = td.from_torch(Fn(torch.sin), torch.randn(ROWS))
    with pytest.raises(AxisError, match="no axis is named 'q'; there are b=3, "):
        dag.unbatch("q")
    with pytest.raises(AxisError, match="no input is called 'y'; there are x"):
        dag.unbatch(input="y", axis=0)
    with pytest.raises(AxisError, match="say which axis by its name, or by an input"):
        dag.unbatch("b", input="x", axis=0)
