"""Networks brought to the core and raised again have the composites they had; what isn't found is listed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.composite import Composite
from tdagger.interpret import run
from tdagger.transform.passes.decompose import is_last
from tdagger.transform.passes.pipeline import difference, random_inputs
from tests.networks import NETWORKS

#: What raising doesn't put back, and why: bodies that are nothing or one core op, and what no guess is made for.
NOT_FOUND = {
    "dropout": "its body is its argument",
    "filled": "the constant it stands for",
    "reshape": "of one group or ungroup it is that op",
}
#: What stands for smaller ones: an RMS norm written out is one.
LARGER = {
    "square": ("rms_norm", "vector_norm"), "mean": ("rms_norm",), "rsqrt": ("rms_norm",), "matmul": ("addmm",),
}  # fmt: skip
QUICK = ("mobilenetv3_large_100", "BertModel", "WhisperEncoder")


def composites(dag: td.TensorDAG) -> Counter[str]:
    return Counter(v.op.name for v in dag.values if isinstance(v.op, Composite))


def check(name: str) -> None:
    module, args, kwargs = NETWORKS[name](small=True)
    dag = td.from_torch(module, args, kwargs)
    core = dag.inline()
    assert all(is_last(v) for v in core.values if isinstance(v.op, Composite))
    up = core.raise_(exact=True)
    missing = composites(dag) - composites(up)
    more = composites(up) - composites(dag)
    left = [k for k in missing if k not in NOT_FOUND and not any(n in more for n in LARGER.get(k, ()))]
    assert not left, (missing, more)
    if not missing and "einsum" not in composites(dag):  # which comes back with other letters
        assert up.graph == dag.graph
    assert all(up.origins.get(v) for v in up.values if isinstance(v.op, Composite))


@pytest.mark.parametrize("name", QUICK)
def test_networks(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in QUICK])
def test_more_networks(name: str) -> None:
    check(name)


X = {"x": (2, 6, 4)}
ROUND = {
    "softmax": lambda x: td.softmax(x, axis=1),
    "log_softmax": lambda x: td.log_softmax(x, axis=-1),
    "layer_norm": lambda x: td.layer_norm(x, eps=1e-3),
    "layer_norm of two axes": lambda x: td.layer_norm(x, rank=2),
    "rms_norm": lambda x: td.rms_norm(x, eps=1e-6),
    "group_norm": lambda x: td.group_norm(x, groups=3),
    "instance_norm": lambda x: td.instance_norm(x, td.parameter("w", (6,)), td.parameter("b", (6,))),
    "leaky_relu": lambda x: td.leaky_relu(x, slope=0.2),
    "elu": lambda x: td.elu(x, alpha=0.5),
    "softplus": lambda x: td.softplus(x),
    "hardtanh": lambda x: td.hardtanh(x, low=-2.0, high=3.0),
    "gelu": lambda x: td.gelu(x),
    "gelu by tanh": lambda x: td.gelu(x, approximate="tanh"),
    "silu of half": lambda x: td.silu(td.cast(x, "f16")),
    "softmax of half": lambda x: td.softmax(td.cast(x, "bf16"), axis=2),
    "mean": lambda x: td.mean(x, axes=(0, 2)),
    "variance": lambda x: td.variance(x, axes=(1,), keep=True),
    "std": lambda x: td.std(x, axes=(1,), correction=0.0),
    "logsumexp": lambda x: td.logsumexp(x, axes=(1,)),
    "vector_norm": lambda x: td.vector_norm(x, axes=(2,)),
    "glu": lambda x: td.glu(x, axis=1),
    "convolution": lambda x: td.convolution(x, td.parameter("w", (9, 2, 3)), stride=2, padding=1, groups=3),
    "max_pool": lambda x: td.max_pool(x, kernel=2, stride=2),
    "avg_pool": lambda x: td.avg_pool(x, kernel=3, stride=1, padding=1),
    "adaptive_avg_pool": lambda x: td.adaptive_avg_pool(x, size=2),
    "argmax": lambda x: td.argmax(x, axis=1),
    "argmin": lambda x: td.argmin(x, axis=-1, keep=True),
    "argmax of integers": lambda x: td.argmax(td.cast(x, "i32"), axis=0),
    "stack": lambda x: td.stack(x, td.exp(x), x, axis=2),
    "roll": lambda x: td.roll(x, shifts=(1,), axes=(1,)),
    "roll of two axes": lambda x: td.roll(x, shifts=(-2, 1), axes=(1, 2)),
    "embedding": lambda x: td.embedding(td.parameter("e", (3, 5)), td.cast(x, "i64")),
    "indices from the end": lambda x: td.gather(*_counted(td.parameter("e", (3, 5)), (x,), 0)),
    "indices of rows": lambda x: td.gather(*_counted(x, (td.slice_axis(x, 1, 0, 1),), 1), batch=1),
    "indices of several axes": lambda x: td.gather(*_counted(td.parameter("e", (2, 3, 5, 4)), (x, td.sin(x)), 1)),
    "updates at indices": lambda x: _put(td.parameter("e", (3, 5)), x),
    "linear, permuted": lambda x: td.permute(td.linear(td.permute(x, (0, 2, 1)), td.parameter("w", (6, 6))), (0, 2, 1)),
    "matmul": lambda x: td.matmul(x, td.transpose(x, 1, 2)),
    "attention": lambda x: td.scaled_dot_product_attention(x, td.sin(x), td.cos(x), causal=True),
    "masked attention": lambda x: td.scaled_dot_product_attention(x, x, x, td.parameter("m", (6, 6)), scale=0.3),
}


def _counted(table: td.Value, indices: tuple[td.Value, ...], axis: int) -> tuple[td.Value, td.Value, int]:
    """A table with some axes as one, and what may be negative as an index into it."""
    places = [td.cast(i, "i64") for i in indices]
    index = td.linear_index(table, *places, axis=axis, signed=(True, False)[: len(places)])
    return td.group(table, [*(1,) * axis, len(places), *(1,) * (table.rank - axis - len(places))]), index, axis


def _put(table: td.Value, x: td.Value) -> td.Value:
    table, index, axis = _counted(table, (x,), 0)
    return td.scatter(table, index, td.repeat(td.unsqueeze(x, (3,)), (None, None, None, 5)), axis)


def test_indexed_rows_are_an_embedding_if_not_exact() -> None:
    dag = td.network(ROUND["indices from the end"], X)
    assert composites(dag.inline().raise_()) == {"linear_index": 1, "embedding": 1}


@pytest.mark.parametrize("name", ROUND)
def test_one_op(name: str) -> None:
    dag = td.network(ROUND[name], X)
    assert dag.inline().raise_(exact=True).graph == dag.graph


EINSUMS = ("nhw,ixh->nixw", "bhqd,bkhd->bhqk", "bshw,bchw->bcs", "abcd,cdef->abef", "bhqk,bkhd->bqhd")


@pytest.mark.parametrize("equation", EINSUMS)
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_einsum_comes_back_with_other_letters(equation: str, kind: str) -> None:
    """Where both operands have axes that the other one hasn't; letters count for nothing."""
    terms = equation.partition("->")[0].split(",")
    dag = td.network(
        lambda x, y: td.einsum(td.cast(x, kind), td.cast(y, kind), equation=equation),
        dict(zip("xy", (tuple(ord(c) - 90 for c in t) for t in terms), strict=True)),
    )
    found = [v.op.attributes["equation"] for v in dag.inline().raise_(exact=True).values if v.op.name == "einsum"]
    assert [_renamed(e) for e in found] == [_renamed(equation)]


def _renamed(equation: str) -> str:
    letters = iter("abcdefgh")
    new = {c: next(letters) for c in dict.fromkeys(c for c in equation if c.isalpha())}
    return "".join(new.get(c, c) for c in equation)


class Recurrent(nn.Module):
    """A recurrent layer of which only something is used."""

    def __init__(self, layer: nn.Module, use: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer, self.use = layer, use

    def forward(self, x: torch.Tensor) -> Any:
        return self.use(self.layer(x))


RECURRENT = {
    "both directions of three layers": (nn.LSTM(4, 5, 3, bidirectional=True, batch_first=True), lambda r: r),
    "a projection": (nn.LSTM(4, 5, 2, bidirectional=True, proj_size=3), lambda r: r),
    "last states of a projection": (nn.LSTM(4, 5, proj_size=3), lambda r: r[1][0]),
    "cell states": (nn.LSTM(4, 5, bidirectional=True), lambda r: r[1][1]),
    "last state of the last layer": (nn.GRU(4, 5, 2, batch_first=True), lambda r: r[1][-1]),
    "outputs at the last step": (nn.GRU(4, 5, bias=False), lambda r: r[0][-1]),
    "tanh": (nn.RNN(4, 5, 2, bidirectional=True), lambda r: r[0]),
    "relu": (nn.RNN(4, 5, nonlinearity="relu"), lambda r: r[1]),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name: str) -> None:
    """From its steps, whichever of its results is used."""
    dag = td.from_torch(Recurrent(*RECURRENT[name]).eval(), torch.rand(3, 2, 4))
    core = dag.inline()
    assert composites(core).keys() <= {"sigmoid"}  # which has a gradient of its own
    assert core.raise_(exact=True).graph == dag.graph


def test_a_step_that_is_another_is_no_recurrent_network() -> None:
    def almost(x: td.Value, w: td.Value, v: td.Value) -> td.Value:
        inputs, h, steps = td.linear(x, w), td.zeros_like(td.select(x, 0, 0)), []
        for t in range(4):
            step, more = td.select(inputs, 0, t), td.linear(h, v)
            h = td.tanh(step - more if t == 2 else step + more)
            steps.append(h)
        return td.stack(*steps, axis=0)

    dag = td.network(almost, {"x": (4, 2, 3), "w": (3, 3), "v": (3, 3)})
    assert composites(dag.inline().raise_())["rnn"] == 0


def test_a_body_that_is_almost_one_is_none() -> None:
    def biased(x: td.Value) -> td.Value:
        e = td.exp(x - td.reduce(x, "max", (1,)))
        return e / td.reduce(e, "sum", (2,))  # another axis

    up, lifted = td.network(biased, X).inline().raise_(report=True)
    assert "softmax" not in lifted.found
    assert composites(up)["softmax"] == 0
    assert "left" in str(lifted)


def test_bodies_share_values_and_arguments_may_come_in_either_order() -> None:
    def both(x: td.Value) -> tuple[td.Value, td.Value]:
        w, b = td.parameter("w", (4,)), td.parameter("b", (4,))
        return td.layer_norm(x, w), td.layer_norm(x, b)

    dag = td.network(both, X)
    assert dag.inline().raise_(exact=True).graph == dag.graph
    swapped = td.network(lambda x: td.sigmoid(x) * x, X)
    assert composites(swapped.raise_())["silu"] == 1


@pytest.mark.parametrize("name", ["rms_norm", "attention", "avg_pool", "group_norm"])
def test_what_comes_out_is_the_same(name: str) -> None:
    dag = td.network(ROUND[name], X)
    core = dag.inline()
    inputs: dict[str, Any] = random_inputs(dag.graph)
    weights: dict[str, Any] = {n: np.ones(v.shape, "f") for n, v in dag.graph.parameters.items()}
    results = [run(d.graph, inputs, weights)[0]["out"] for d in (dag, core, core.raise_())]
    assert difference(results[0], results[1]) < 1e-6
    assert difference(results[0], results[2]) < 1e-6
