"""Rounding whose errors are made up for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.quantization.compensate import Compensated, compensate, compensated
from tdagger.quantization.profile import Numbers
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
    codes = compensated(weight, x.T @ x, scales, how)
    assert codes.dtype == numbers.grid.dtype.numpy
    assert numbers.bounds[0] <= codes.min() <= codes.max() <= numbers.bounds[1]

    def error(codes: Any) -> float:
        return float(np.square(x @ np.moveaxis(how.read(codes, scales) - weight, channel, 0).T).sum())

    assert error(codes) < 0.3 * error(how.rounded(weight, scales))


def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weight = RNG.normal(size=(5, 200)).astype(np.float32)
    how = Weights(Numbers("i8", symmetric=True, per="channel"), 0, 1)
    scales = how.scales(weight)
    for products in (np.diag(np.arange(200.0)), np.zeros((200, 200))):
        assert (compensated(weight, products, scales, how) == how.rounded(weight, scales)).all()


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
