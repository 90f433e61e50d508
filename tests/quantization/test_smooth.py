"""Channels made alike: the same network in float, better in few bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.quantization.prepare import smooth
from tdagger.quantization.quality.local import decibels
from tdagger.quantization.repairs.outliers import split


def quality(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return decibels(float(np.square(a).sum()), float(np.square(a - b).sum()))


class Gated(nn.Module):
    """A pre-norm MLP as language models have it, its second layer before a product."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16)
        self.gate, self.up, self.down = nn.Linear(16, 32, False), nn.Linear(16, 32, False), nn.Linear(32, 16, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


def loud(module: nn.Module) -> nn.Module:
    """A few channels far larger than others, where norms and layers make them."""
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.LayerNorm | nn.RMSNorm):
                m.weight[:2] *= 40
            elif isinstance(m, nn.Linear):
                m.weight[:2] *= 20
    return module.eval()


NETWORKS = {
    "norm": lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24)),
    "relu": lambda: nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.1), nn.Linear(32, 8)),
    "gelu": lambda: nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)),
    "gated": Gated,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", ["x86", "gpu-weight-only"])
def test_the_network_is_the_same_in_float_and_better_in_few_bits(name: str, target: str) -> None:
    torch.manual_seed(0)
    module = loud(NETWORKS[name]())
    data = [torch.randn(32, 16) for _ in range(4)]
    dag = td.from_torch(module, data[0])
    alike = smooth(dag, data, target)
    wanted = module(data[0]).detach().numpy()
    assert alike.graph != dag.graph or any((alike.weights[n] != w).any() for n, w in dag.weights.items())
    found = alike.run(data[0].numpy())
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()
    if name != "gelu":
        assert td.op_counts(alike.values).get("multiply", 0) == td.op_counts(dag.values).get("multiply", 0)
    before, after = (
        quality(wanted, td.quantize(dag, data, target, smooth=s).to_torch()(data[0]).detach()) for s in (False, True)
    )
    assert after > before + (3 if target == "x86" else 0.5), (before, after)


@pytest.mark.parametrize("matrix", [False, True])
def test_outliers_are_apart(matrix: bool) -> None:
    """No factor can go anywhere: outliers are of the input."""
    rng = np.random.default_rng(0)
    x, w, v = td.input("x", (32, 64)), td.parameter("w", (24, 64)), td.parameter("v", (64, 8))
    b = td.parameter("b", (24,))
    arrays = {"w": rng.normal(size=w.shape), "v": rng.normal(size=v.shape), "b": rng.normal(size=b.shape)}
    out = td.matmul(x, v) if matrix else td.linear(x, w, b)
    weights = {n: a.astype("f") for n, a in arrays.items() if (n == "v") is matrix}
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), weights)
    data = [(rng.normal(size=(32, 64)) * np.where(np.arange(64) == 5, 100, 1)).astype(np.float32) for _ in range(3)]
    apart = split(td.prepare(dag, "x86"), data)
    assert apart.keep == (f"{next(n for n in weights if n != 'b')}_outliers",)
    wanted = dag.run(data[0])
    assert np.abs(apart.dag.run(data[0]) - wanted).max() <= 1e-6 * np.abs(wanted).max()
    before, after = (td.quantize(dag, data, "x86", split=s, correct=False) for s in (False, True))
    assert after.weights[apart.keep[0]].dtype == np.float32
    assert quality(wanted, after.run(data[0])) > quality(wanted, before.run(data[0])) + 6
    plain = [d / np.where(np.arange(64) == 5, 100, 1).astype("f") for d in data]
    assert td.quantize(dag, plain, split=True).graph == td.quantize(dag, plain).graph


def test_what_is_read_elsewhere_is_left() -> None:
    x = td.input("x", (8, 4))
    h = td.layer_norm(x, td.parameter("n", (4,)), td.parameter("m", (4,)))
    w = td.parameter("w", (4, 4))
    arrays = {"n": np.float32([100, 1, 1, 1]), "m": np.zeros(4, np.float32), "w": np.eye(4, dtype=np.float32)}
    data = [np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)]
    both = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(h, w), "h": h}), arrays)
    assert (smooth(both, data, products=False).weights["n"] == arrays["n"]).all()
    for a, b in zip(smooth(both, data).run(data[0]), both.run(data[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)
    tied = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(h, w), "w": w}), arrays)
    assert (smooth(tied, data).weights["w"] == arrays["w"]).all()


def test_what_has_no_factor_for_each_channel_takes_none() -> None:
    x, a, b = td.input("x", (8, 4)), td.parameter("a", (4, 4)), td.parameter("b", (1,))
    rng = np.random.default_rng(0)
    arrays = {"a": np.diag(np.float32([50, 1, 1, 1])), "b": np.float32([1]), "w": rng.normal(size=(4, 4)).astype("f")}
    data = [rng.normal(size=(8, 4)).astype(np.float32)]
    h, w = td.addmm(b, x, a), td.parameter("w", (4, 4))
    for made in (h, td.multiply(td.linear(x, a), td.linear(x, a))):
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(made, w)}), arrays)
        np.testing.assert_allclose(smooth(dag, data).run(data[0]), dag.run(data[0]), rtol=1e-5, atol=1e-4)


def test_data_is_asked_for() -> None:
    dag = td.layers.linear(4, 3)
    with pytest.raises(td.InputError, match="smooth: there is no data"):
        smooth(dag, [])
    with pytest.raises(td.InputError, match="smooth=True goes by what data shows"):
        td.quantize(dag, target="gpu-weight-only", smooth=True)
