"""Graphs that are the same network though one expands a mask and the other broadcasts it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tdagger as td
from tdagger.transform.axes.same import same


def graph(f: Callable[..., td.Value]) -> td.Graph:
    x, m = td.input("x", (4, 3, 5)), td.input("m", (1, 3, 1))
    return td.Graph({"x": x, "m": m}, {"y": f(x, m)})


ALIKE: dict[str, tuple[Callable[..., td.Value], Callable[..., td.Value]]] = {
    "product": (lambda x, m: x * m, lambda x, m: x * td.repeat(m, (4, None, None))),
    "before what is done to each": (
        lambda x, m: td.where(td.exp(m) > 1.0, x, 0.0),
        lambda x, m: td.where(td.exp(td.repeat(m, (4, None, None))) > 1.0, x, 0.0),
    ),
    "transposed": (
        lambda x, m: td.permute(x, (0, 2, 1)) + td.permute(m, (0, 2, 1)),
        lambda x, m: td.permute(x, (0, 2, 1)) + td.permute(td.repeat(m, (4, None, None)), (0, 2, 1)),
    ),
    "with another dimension": (
        lambda x, m: td.unsqueeze(x, (1,)) * td.unsqueeze(m, (1,)),
        lambda x, m: td.unsqueeze(x, (1,)) * td.unsqueeze(td.repeat(m, (4, None, None)), (1,)),
    ),
}

OTHER: dict[str, tuple[Callable[..., td.Value], Callable[..., td.Value]]] = {
    "summed": (
        lambda x, m: x * td.reduce(m, "sum", (0,)),
        lambda x, m: x * td.reduce(td.repeat(m, (4, None, None)), "sum", (0,)),
    ),
    "another number": (lambda x, m: x * m + 1.0, lambda x, m: x * td.repeat(m, (4, None, 5)) + 2.0),
    "merged": (
        lambda x, m: td.reshape(x, shape=(12, 5)) * td.reshape(td.repeat(m, (4, None, None)), shape=(12, 1)),
        lambda x, m: (
            td.reshape(x, shape=(12, 5))
            * td.reshape(td.permute(td.repeat(m, (4, None, None)), (1, 0, 2)), shape=(12, 1))
        ),
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_where_entries_are_repeated_doesnt_matter(name: str) -> None:
    a, b = map(graph, ALIKE[name])
    assert a != b
    assert same(a, b)


@pytest.mark.parametrize("name", OTHER)
def test_what_else_is_done_does(name: str) -> None:
    assert not same(*map(graph, OTHER[name]))


class Masked(nn.Module):
    """Attention whose mask is expanded to the batch, as in models of text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.place = nn.Embedding(16, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        x = self.table(ids) + self.place(torch.arange(n))
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        mask = torch.ones(n, n, dtype=torch.bool).tril()[None].expand(ids.shape[0], n, n)
        return nn.functional.scaled_dot_product_attention(x, x, x, mask)


@pytest.fixture(scope="module")
def masked() -> tuple[nn.Module, td.TensorDAG]:
    torch.manual_seed(0)
    model = Masked().eval()
    return model, td.from_torch(model, torch.arange(6)[None])


def test_a_batch_of_one_is_left_open_where_a_mask_is_expanded_to_it(masked: tuple[nn.Module, td.TensorDAG]) -> None:
    model, dag = masked
    assert set(dag.open_axes.names) == {"b", "s"}
    ids = torch.randint(0, 20, (3, 9))
    torch.testing.assert_close(dag.to_torch()(ids), model(ids))


@pytest.mark.parametrize("how", ["optimize", "inline", "raise"])
def test_a_changed_network_asks_its_source_at_other_sizes(how: str, masked: tuple[nn.Module, td.TensorDAG]) -> None:
    model, dag = masked
    changed = {
        "optimize": lambda: dag.optimize(free=("b", "s")),
        "inline": lambda: dag.inline(),
        "raise": lambda: dag.inline().raise_(),
    }[how]()
    assert set(changed.resizable_axes().free) == {"b", "s"}
    ids = torch.randint(0, 20, (3, 9))
    want = model(ids).detach().numpy()
    np.testing.assert_allclose(changed.resize(b=3, s=9).run(ids.numpy()), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed.to_torch()(ids), model(ids), rtol=1e-4, atol=1e-5)


def test_what_is_worked_out_has_the_sizes_that_the_network_has(masked: tuple[nn.Module, td.TensorDAG]) -> None:
    _, dag = masked
    small = dag.optimize()
    assert len(small.values) < len(dag.optimize(free=("s",)).values)
    assert set(small.resizable_axes().free) == {"b"}
    assert small.resize(b=3).graph.outputs["out"].shape == (3, 6, 8)
    with pytest.raises(td.AxisError, match="no axis is named 'nosuch'"):
        dag.optimize(free=("nosuch",))
    with pytest.raises(td.AxisError, match="isn't the whole of a dimension of an input"):
        dag.optimize(free=("c",))
