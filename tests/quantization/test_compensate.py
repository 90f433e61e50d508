"""Rounding whose errors are made up for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.quantization.profile import Numbers
from tdagger.quantization.repairs.compensate import Compensated, _counts, _of_groups, adapted, compensate, compensated
from tdagger.quantization.repairs.windows import Windows
from tdagger.quantization.scales import Affine, Weights

RNG = np.random.default_rng(0)


def correlated(rows: int, size: int) -> Any:
    return (RNG.normal(size=(rows, size // 4)) @ RNG.normal(size=(size // 4, size))).astype(np.float32)


@pytest.mark.parametrize(
    ("numbers", "channel"),
    [(Numbers("i4", symmetric=True, per="block", block=32), 0), (Numbers("u4", per="channel"), 1),
     (Numbers("i8", symmetric=True, narrow=True), 0)],
)  # fmt: skip
def test_errors_of_results_are_less(numbers: Numbers, channel: int) -> None:
    x, weight = correlated(512, 160), RNG.normal(size=(24, 160)).astype(np.float32)
    weight = np.moveaxis(weight, 0, channel)
    how = Weights(numbers, channel, 1 - channel)
    scales = how.scales(weight)
    codes = _of_groups(compensated, weight, (x.T @ x)[None], scales, how)
    better = _of_groups(adapted, weight, (x.T @ x)[None], scales, how, codes)
    assert codes.dtype == numbers.grid.dtype.numpy
    assert numbers.bounds[0] <= codes.min() <= codes.max() <= numbers.bounds[1]

    def error(codes: Any) -> float:
        return float(np.square(x @ np.moveaxis(how.read(codes, scales) - weight, channel, 0).T).sum())

    assert error(codes) < 0.3 * error(how.rounded(weight, scales))
    assert numbers.bounds[0] <= better.min() <= better.max() <= numbers.bounds[1]
    assert error(better) < 0.95 * error(codes)


@pytest.mark.parametrize(("per", "block"), [("channel", 0), ("block", 32)])
@pytest.mark.parametrize("groups", [1, 2])
def test_scales_are_those_of_what_counts(per: str, block: int, groups: int) -> None:
    """The least error isn't that of all numbers alike, but of each by the size of what it is multiplied with."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(size=(groups, 96)) * 2)
    x = rng.normal(size=(512, groups, 96)).transpose(1, 0, 2) * size[:, None]
    weight = rng.normal(size=(12, 96)).astype(np.float32)
    how = Weights(Numbers("i4", symmetric=True, per=per, block=block, observer="mse"), 0, 1)
    counts = _counts(weight, x.transpose(0, 2, 1) @ x, how)
    assert counts.shape == weight.shape

    def error(scales: Affine) -> float:
        away = (how.read(how.rounded(weight, scales), scales) - weight).reshape(groups, 12 // groups, 96)
        return float(np.square(x @ away.transpose(0, 2, 1)).sum())

    assert error(how.scales(weight, counts)) < 0.95 * error(how.scales(weight))
    np.testing.assert_array_equal(how.scales(weight, 4.0).scale, how.scales(weight).scale)


def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weight = RNG.normal(size=(5, 200)).astype(np.float32)
    how = Weights(Numbers("i8", symmetric=True, per="channel"), 0, 1)
    scales = how.scales(weight)
    for products in (np.diag(np.arange(200.0)), np.zeros((200, 200))):
        codes = _of_groups(compensated, weight, products[None], scales, how)
        assert (codes == how.rounded(weight, scales)).all()
        assert (_of_groups(adapted, weight, products[None], scales, how, codes) == codes).all()


def test_in_a_network_in_parts() -> None:
    x = td.input("x", (64, 64))
    arrays = {n: RNG.normal(size=(64, 64)).astype(np.float32) for n in "ab"}
    out = td.linear(td.relu(td.linear(x, td.parameter("a", (64, 64)))), td.parameter("b", (64, 64)))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)
    data = [correlated(64, 64) for _ in range(4)]
    wanted = [dag.run(d) for d in data]
    small = [td.quantize(dag, data, "gpu-weight-only", compensate=c, correct=False) for c in (False, True)]
    away = [sum(float(np.square(s.run(d) - y).sum()) for d, y in zip(data, wanted, strict=True)) for s in small]
    assert away[1] < 0.5 * away[0]
    prepared = td.prepare(dag, "gpu-weight-only")
    each = prepared.compensate(data, budget=1).convert()  # one layer in a run
    assert all((each.weights[n] == small[1].weights[n]).all() for n in "ab")


@pytest.mark.parametrize(
    ("groups", "options"),
    [(1, {"padding": 1}), (2, {"stride": 2, "padding": ((0, 1), (2, 0))}), (8, {"dilation": 2})],
)  # fmt: skip
def test_convolutions_are_compensated_too(groups: int, options: Any) -> None:
    base = np.kron(RNG.normal(size=(2, 1, 2, 2)), np.ones((7, 7))) + 0.1 * RNG.normal(size=(2, 8, 14, 14))
    data = [(base * s).astype(np.float32) for s in (1, -0.5)]  # channels and places that are alike
    x, w = td.input("x", (2, 8, 14, 14)), td.parameter("w", (8, 8 // groups, 3, 3))
    out = td.convolution(x, w, groups=groups, **options)
    arrays = {"w": RNG.normal(size=w.shape).astype(np.float32)}
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)
    rows = Windows.of(dag.graph.outputs["y"]).rows(data[0])
    by_windows = rows @ arrays["w"].reshape(groups, 8 // groups, -1).transpose(0, 2, 1)
    wanted = np.moveaxis(dag.run(data[0]), 1, -1).reshape(-1, 8)
    np.testing.assert_allclose(by_windows.transpose(1, 0, 2).reshape(-1, 8), wanted, rtol=1e-4, atol=1e-5)
    how: dict[str, Any] = {"activation": "i16", "weight": Numbers("i4", symmetric=True, per="channel"), "least": 0}
    small = [td.quantize(dag, data, "x86", correct=False, compensate=c, **how) for c in (False, True, "adaptive")]
    away = [sum(float(np.square(s.run(d) - dag.run(d)).sum()) for d in data) for s in small]
    assert away[1] < 0.7 * away[0]
    assert away[2] < away[1]
    with pytest.raises(td.AttributeValueError, match='compensate is True, "adaptive" or False'):
        td.quantize(dag, data, compensate="gptq")


def test_channels_of_other_scales_are_rounded_to_the_nearest() -> None:
    weight = RNG.normal(size=(3, 8)).astype(np.float32)
    how = Weights(Numbers("i8", symmetric=True, per="channel"), 0, 1)
    scales = how.scales(weight)
    rounding = Compensated()
    rounding.found["w", how] = (np.full((3, 8), 5, np.int8), scales)
    other = Affine(scales.scale * np.float32([1, 2, 1]), None)
    codes = rounding(weight, "w", other, how)
    assert (codes[[0, 2]] == 5).all()
    assert (codes[1] == how.rounded(weight, other)[1]).all()
    assert (rounding(weight, "v", scales, how) == how.rounded(weight, scales)).all()


def test_what_it_cannot_do_is_said() -> None:
    dag = td.layers.linear(4, 3)
    with pytest.raises(td.AttributeValueError, match="among whole numbers, not f8e4m3"):
        compensate(td.prepare(dag, "gpu-weight-only", weight=Numbers("f8e4m3", per="channel")), [])
    with pytest.raises(td.InputError, match="compensate: there is no data"):
        compensate(td.prepare(dag, "gpu-weight-only"), [])
