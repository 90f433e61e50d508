"""Looking into runs: what isn't finite first, statistics, a line for every op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tests.networks import NETWORKS
from tests.transform.surgery.conftest import ResNet, random, seeded


class Broken(nn.Module):
    """Divides by a deviation that is 0 for equal rows."""

    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(4, 4), self.Norm(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.fc(x)))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_the_first_nan_is_named_with_module_and_line(framework: str) -> None:
    module = seeded(Broken)
    with torch.no_grad():
        module.fc.weight.zero_()
        module.fc.bias.fill_(1.5)
    x = random(3, 4)
    dag = td.from_torch(module, x)
    found = td.debug.first_nonfinite(dag, x if framework == "torch" else x.numpy(), framework=framework)
    assert found is not None
    assert found.kind == "nan"
    assert found.module == "norm"
    assert found.count == 12
    assert found.index == (0, 0)
    assert found.value.op.name == "divide"
    assert "test_debug.py:" in found.source
    assert "argument 1 is from 0 to 0" in str(found)
    assert str(found).startswith("divide(f32[3 4], f32[3 4]) -> f32[3 4] (norm, ")
    assert td.debug.first_nonfinite(dag, (x * 0 + torch.arange(4)).numpy()) is not None
    module.fc.reset_parameters()
    good = td.from_torch(module, x)
    assert td.debug.first_nonfinite(good, x.numpy()) is None


def test_inside_a_composite() -> None:
    dag = td.network(lambda x: td.softmax(x, axis=1), {"x": (2, 3)})
    x = np.full((2, 3), -np.inf, "f")
    at_input = td.debug.first_nonfinite(dag, x)
    assert at_input is not None
    assert at_input.value is dag.graph.inputs["x"]
    assert at_input.kind == "inf"
    inner = td.debug.first_nonfinite(dag, x, infinities=False)
    assert inner is not None
    assert inner.value.op.name == "softmax"
    assert inner.kind == "nan"
    big = td.network(lambda x: td.layer_norm(x), {"x": (2, 4)})
    found = td.debug.first_nonfinite(big, np.full((2, 4), 3e38, "f"))
    assert found is not None
    assert found.inside == "reduce"
    assert "in its body by reduce" in str(found)


def test_masks_hold_infinities_on_purpose() -> None:
    network = NETWORKS["GPT2LMHeadModel"](small=True)
    kwargs = {"input_ids": network.kwargs["input_ids"], "use_cache": False}
    dag = td.from_torch(network.module, (), kwargs)
    assert td.debug.first_nonfinite(dag, input_ids=kwargs["input_ids"].numpy()) is None
    mask = td.const(np.array([0, -np.inf, 0], "f"))
    assert td.debug.first_nonfinite(td.network(lambda x: td.exp(x + mask), {"x": (3,)}), np.ones(3, "f")) is None


def test_weights_that_are_not_finite() -> None:
    dag = td.from_torch(seeded(ResNet), random(2, 3, 8, 8))
    bias = dag.weights["fc.bias"].copy()
    bias[3] = np.inf
    found = td.debug.first_nonfinite(dag.with_weights({"fc.bias": bias}), random(2, 3, 8, 8).numpy())
    assert found is not None
    assert str(found).startswith("parameter fc.bias: f32[10]: 1 of 10 entries is inf, the first at [3]")


def test_statistics() -> None:
    dag = td.from_torch(seeded(ResNet), random(2, 3, 8, 8))
    x = random(2, 3, 8, 8)
    rows = td.debug.statistics(dag, x.numpy())
    by_module = {r.module: r for r in rows if r.value.args}
    want = dag.with_outputs("layers.0").run(x.numpy())[1]["layers.0"]
    row = next(r for r in rows if r.module == "layers.0.act2")
    np.testing.assert_allclose(
        (row.least, row.most, row.mean, row.std, row.zeros),
        (want.min(), want.max(), want.mean(), want.std(), (want == 0).mean()), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    assert row.zeros > 0.1
    assert row.nonfinite == 0
    assert len(by_module) > 8
    torch_rows = td.debug.statistics(dag, x, framework="torch")
    np.testing.assert_allclose([r.mean for r in torch_rows], [r.mean for r in rows], rtol=1e-3, atol=1e-4)


def test_statistics_of_odd_types() -> None:
    dag = td.network(lambda x: (td.cast(x, "bf16"), td.cast(x, "i32"), x > 1.0, td.topk(x, k=1, axis=0)), {"x": (3,)})
    rows = td.debug.statistics(dag, np.array([1, np.nan, 2], "f"))
    assert next(r.nonfinite for r in rows if r.value.op.name == "cast") == 1
    assert [r.index for r in rows if r.value.op.name == "topk"] == [0, 1]


def test_trace_tells_every_op() -> None:
    dag = td.from_torch(seeded(ResNet), random(2, 3, 8, 8))
    lines: list[str] = []
    out = td.debug.trace(dag, random(2, 3, 8, 8).numpy(), tell=lines.append)
    np.testing.assert_array_equal(out, dag.run(random(2, 3, 8, 8).numpy()))
    assert lines[0].startswith("convolution ")
    assert "stem, " in lines[0]
    assert len(lines) == sum(bool(v.args) for v in dag.values)
