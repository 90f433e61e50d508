"""Weights made alike across layers: the same network in float, better with one scale for each weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.quantization.prepare import equalize
from tdagger.quantization.profile import Numbers
from tests.quantization.test_smooth import quality

WHOLE = Numbers("i8", symmetric=True, narrow=True)  # one scale for each weight


def separable(act: type[nn.Module]) -> nn.Module:
    """As MobileNet has it: a depthwise convolution between two pointwise ones, channels of very different sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), act(), nn.Conv2d(16, 32, 3, padding=1, groups=16), act(),
        nn.MaxPool2d(2), nn.Conv2d(32, 8, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.Flatten(),
    )  # fmt: skip
    with torch.no_grad():
        for m in model:
            if isinstance(m, nn.BatchNorm2d | nn.Conv2d) and m.weight.shape[0] > 4:
                sizes = torch.logspace(-1.5, 1, m.weight.shape[0])[torch.randperm(m.weight.shape[0])]
                m.weight *= sizes.reshape(-1, *[1] * (m.weight.dim() - 1))
    return model.eval()


@pytest.mark.parametrize("act", [nn.ReLU, nn.Identity])
def test_the_network_is_the_same_in_float_and_better_in_few_bits(act: Any) -> None:
    model = separable(act)
    data = [torch.randn(4, 3, 12, 12) for _ in range(3)]
    dag = td.from_torch(model, data[0])
    alike = equalize(dag, "x86", weight=WHOLE, least=0)
    wanted = model(data[0]).detach().numpy()
    assert np.abs(alike.run(data[0].numpy()) - wanted).max() <= 1e-6 * np.abs(wanted).max()
    how: dict[str, Any] = {"weight": WHOLE, "activation": "i16", "correct": False, "least": 0}
    small = [td.quantize(dag, data, "x86", equalize=e, **how).to_torch()(data[0]).detach() for e in (False, True)]
    before, after = (quality(wanted, s) for s in small)
    assert after > before + 6, (before, after)


def test_a_factor_does_not_pass_a_bound() -> None:
    dag = td.from_torch(separable(nn.ReLU6), torch.randn(4, 3, 12, 12))
    alike = equalize(dag, "x86", weight=WHOLE, least=0)
    assert alike.graph == td.prepare(dag, "x86", least=0).dag.graph
    for name, array in td.prepare(dag, "x86", least=0).dag.weights.items():
        np.testing.assert_array_equal(alike.weights[name], array)


def test_what_is_read_elsewhere_or_mixed_is_left() -> None:
    x = td.input("x", (1, 4, 6, 6))
    v, w, u = td.parameter("v", (4, 4, 1, 1)), td.parameter("w", (4, 2, 1, 1)), td.parameter("u", (4, 4, 1, 1))
    rng = np.random.default_rng(0)
    arrays = {n: (rng.normal(size=p.shape) * 10.0 ** np.arange(4).reshape(-1, 1, 1, 1)).astype("f")
              for n, p in (("v", v), ("w", w), ("u", u))}  # fmt: skip
    h = td.relu(td.convolution(x, v))
    for outputs in ({"y": td.convolution(h, w, groups=2)}, {"y": td.convolution(h, u), "h": h}):
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, outputs), {n: arrays[n] for n in ("v", "w", "u")})
        alike = equalize(dag, "x86", least=0)
        assert all((alike.weights[n] == arrays[n]).all() for n in alike.weights)
