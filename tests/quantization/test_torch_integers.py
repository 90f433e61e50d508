"""Quantized layers on integers by torch, beside the numpy reference. Weights of 7 bits: sums fit on every processor."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger.frameworks.torch import integers
from tdagger.quantization.integers import Integers
from tdagger.quantization.repairs.bias import means
from tests.quantization.test_integers import CASES, made

KINDS = (
    "convolution",
    "strided",
    "depthwise",
    "linear",
    "linear of sequences",
    "linear without bias",
    "product and bias",
    "product and bias",
    "residual",
    "pooled",
)


@pytest.fixture(autouse=True)
def _exact(monkeypatch: Any) -> None:
    monkeypatch.setattr(integers, "are_exact", lambda: True)


def _small(name: str) -> tuple[td.TensorDAG, list[Any]]:
    dag, data = made(CASES[name])
    return td.quantize(dag, data, "x86-avx2", correct=False, least=0), data


@pytest.mark.parametrize("name", KINDS)
def test_is_the_reference_within_a_step(name: str) -> None:
    small, data = _small(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no layer is left
        module = small.to_torch(integers=True)
    step = next((float(v.op.data) for v in reversed(small.graph.constants) if v.dtype.name == "f32"), 0.0)
    for x in data:
        for rows in (x, x[:1], x) if name != "pooled" else (x,):  # packed again for other sizes
            found, wanted = module(torch.from_numpy(rows)).numpy(), Integers(small).run(x)[: len(rows)]
            assert found.dtype == np.float32
            away = np.abs(found - wanted)
            rounded = small.graph.outputs["y"].op.name == "dequantize"
            assert away.max() <= (1.001 * step if rounded else 1e-5 * np.abs(wanted).max())
            assert np.mean(away > 1e-5 * np.abs(wanted).max()) < 0.01


def test_relu_and_rounding_are_the_kernel_s() -> None:
    small, _ = _small("pooled")
    graph, left, _ = integers.on_integers(small)
    ops = td.op_counts(graph.values)
    assert (ops["integer_convolution"], ops["quantize"], left) == (2, 2, [])  # of the input and what is pooled
    assert sorted(v.op.attributes["out_scale"] > 0 for v in graph.values if v.op.name == "integer_convolution") == [
        1,
        1,
    ]
    np.testing.assert_array_equal(graph.run(np.ones((2, 6, 10, 10), "f")), small.run(np.ones((2, 6, 10, 10), "f")))


def test_what_others_read_too_is_rounded_apart() -> None:
    dag, data = made(CASES["convolution"])
    before = dag.graph.outputs["y"].args[0]
    both = td.TensorDAG.of_graph(td.Graph(dag.graph.inputs, {**dag.graph.outputs, "z": before}), dag.weights)
    small = td.quantize(both, data, "x86-avx2", correct=False, least=0)
    found, wanted = small.to_torch(integers=True)(torch.from_numpy(data[0])), small.run(data[0])
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-5 + 1.001 * float(np.diff(np.unique(b)).min()))


def test_a_weight_that_was_changed_is_packed_again() -> None:
    small, data = _small("linear without bias")
    module, x = small.to_torch(integers=True, copy=True), torch.from_numpy(data[0])
    before = module(x)
    weight = next(b for n, b in module.named_buffers() if b.dtype == torch.int8)
    weight.neg_()
    np.testing.assert_allclose(module(x).numpy(), -before.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("linear", {"target": "xnnpack"}, "linear: what it takes isn't read from u8 with a zero point"),
        ("linear", {"target": "x86-dynamic"}, "linear: its scale isn't one that is known"),
        ("dilated 1d", {"target": "x86", "least": 0}, "convolution: it isn't a convolution of images"),
    ],
)  # fmt: skip
def test_what_is_left_is_said(name: str, how: Any, why: str) -> None:
    dag, data = made(CASES[name])
    small = td.quantize(dag, data, correct=False, **how)
    with pytest.warns(UserWarning, match=f"computed in float: {why}"):
        module = small.to_torch(integers=True)
    x = torch.from_numpy(data[0])
    assert torch.equal(module(x), small.to_torch()(x))


def test_without_exact_sums_it_is_in_float(monkeypatch: Any) -> None:
    monkeypatch.setattr(integers, "are_exact", lambda: False)
    small, data = _small("linear")
    with pytest.warns(UserWarning, match="no VNNI"):
        module = small.to_torch(integers=True)
    assert torch.equal(module(torch.from_numpy(data[0])), small.to_torch()(torch.from_numpy(data[0])))


def test_biases_are_corrected_by_runs_on_integers_too(monkeypatch: Any) -> None:
    """Weights of 7 bits: both ways give the same but for roundings that are one step apart."""
    rng = np.random.default_rng(0)
    arrays = {"v": rng.normal(size=(16, 8, 3, 3)), "w": rng.normal(size=(16, 16, 3, 3)), "b": rng.normal(size=16)}
    x, v, w, b = td.input("x", (2, 8, 12, 12)), *(td.parameter(n, a.shape) for n, a in arrays.items())
    out = td.silu(td.convolution(td.relu(td.convolution(x, v)), w, b))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), {n: a.astype("f") for n, a in arrays.items()})
    data = [rng.normal(size=x.shape).astype("f") for _ in range(4)]
    found: list[list[Any]] = []
    for exact in (True, False):
        monkeypatch.setattr(integers, "are_exact", lambda exact=exact: exact)
        prepared = td.prepare(dag, "x86-avx2").calibrate(data)
        found.append([prepared._to_correct(None)[0].graph, *prepared.correct(data).corrections.values()])
    ops = [td.op_counts(graph.values)["integer_convolution"] for graph, *_ in found]
    assert ops == [2, 0]
    assert len(found[0]) == 3
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05 * np.abs(other).max())


@pytest.mark.parametrize("sizes", [(3, 5, 4, 6), (2, 7, 1, 1), (1, 4, 3, 3)])
def test_means_are_the_same_however_channels_lie(sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=sizes).astype("f")
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(means(last, -3), means(x, -3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("groups", "inner", "outer"), [(4, 24, 64), (3, 24, 32), (2, 16, 64), (8, 4, 4)])
def test_groups_are_summed_right_on_every_processor(groups: int, inner: int, outer: int) -> None:
    """oneDNN's kernels for AMX aren't: there they are in float."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(groups * inner, groups * outer, 3, padding=1, groups=groups)
    data = [torch.randn(1, groups * inner, 9, 9) for _ in range(2)]
    small = td.quantize(td.from_torch(model.eval(), data[0]), data, "x86", correct=False, least=0)
    with warnings.catch_warnings(action="ignore"):
        found, wanted = small.to_torch(integers=True)(data[0]), small.to_torch()(data[0])
    assert float((found - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())
