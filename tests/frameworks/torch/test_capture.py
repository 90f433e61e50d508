"""How ``from_torch`` captures a module: by export or by trace, and what an error says; found by the model sweeps."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td


class _Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.tied = self.inner

    def forward(self, x: torch.Tensor, more: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        y = self.tied(x) + more["y"]
        return {"out": y if x.sum() > 0 else -y, "sum": y.sum()}


def test_an_export_that_fails_says_what_to_try() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(td.UnsupportedError) as e:
        td.from_torch(_Decides(), x, {"more": {"y": x}})
    first, advice = str(e.value).splitlines()
    assert first.startswith("torch.export can't capture _Decides: it decides by the data what to do next (at ")
    assert first.endswith('return {"out": y if x.sum() > 0 else -y, "sum": y.sum()})')
    assert "via='trace'" in advice
    assert type(e.value.__cause__).__name__ == "GuardOnDataDependentSymNode"


def test_a_trace_is_called_and_answers_as_the_module() -> None:
    module, x = _Decides().eval(), torch.ones(2, 3)
    with pytest.warns(UserWarning, match=r"decides by its data.*whatever it is given: .*: return .*if x.sum\(\) > 0"):
        dag = td.from_torch(module, (x,), {"more": {"y": x}}, via="trace")
    assert list(dag.graph.inputs) == ["x", "more.y"]
    assert list(dag.graph.outputs) == ["out", "sum"]
    assert list(dag.graph.parameters) == ["inner.weight", "inner.bias"]
    assert dag.modules[""] == "_Decides"
    assert dag["inner"].op_counts == {"linear": 1}
    back = dag.to_torch()
    assert list(back.state_dict()) == list(module.state_dict())
    y = torch.randn(2, 3)
    want, got = module(x, {"y": y}), back(x, more={"y": y})
    assert list(got) == ["out", "sum"]
    torch.testing.assert_close(got, want)
    # what it decided by the data stays as it was
    torch.testing.assert_close(back(-x, more={"y": y})["out"], -module(-x, {"y": y})["out"])


def test_other_ways_to_capture_are_refused() -> None:
    way: Any = "script"
    with pytest.raises(td.InputError, match="via 'export' or 'trace', not 'script'"):
        td.from_torch(nn.Linear(2, 2), torch.ones(2), via=way)


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_module_that_fails_itself(via: Any) -> None:
    with pytest.raises(td.UnsupportedError, match=r"can't capture Linear: RuntimeError: "):
        td.from_torch(nn.Linear(2, 2), torch.ones(3), via=via)


class _Detached(nn.Module):
    """Writes to a detached tensor what has gradients, as Kosmos-2.5 does with its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 4))
        self.b = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        base = self.a * x
        detached = base.detach()
        detached += self.b  # gradients of b through it, and the base changes too, without gradients
        part = detached[1:]
        part *= self.b[1:]
        base[0] += 1.0  # and the detached one follows, without gradients
        return base * 2, detached * 3, part


def test_what_is_written_to_a_detached_tensor_has_gradients() -> None:
    module, x = _Detached(), torch.randn(3, 4)
    plain = _Detached()
    plain.load_state_dict(module.state_dict())

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Parameter(module.b.detach().clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            positions = (x * 2).detach()
            positions += self.b
            return positions * x

    first = First()
    back = td.from_torch(first, x).to_torch()
    for m in (first, back):
        m(x).sum().backward()
    torch.testing.assert_close(back.b.grad, first.b.grad)
    assert first.b.grad.abs().min() > 0

    dag = td.from_torch(module, x)
    with torch.no_grad():
        for own, theirs in zip(dag.to_torch()(x), module(x), strict=True):
            torch.testing.assert_close(own, theirs)


class _Experts(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, width, 8))

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return torch.ops.transformers.grouped_mm_fallback(x, self.weight.transpose(1, 2), offs=ends)
        return torch._grouped_mm(x, self.weight.transpose(1, 2), offs=ends)


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("width", [8, 4])
def test_grouped_products_of_experts(via: Any, width: int) -> None:
    pytest.importorskip("transformers.integrations.moe")  # registers the op that it exports experts with
    module, x = _Experts(width), torch.randn(9, 8, requires_grad=True)
    ends = torch.tensor([4, 4, 9], dtype=torch.int32)
    dag = td.from_torch(module, (x.detach(), ends), via=via)
    back = dag.to_torch()
    assert "runtime.grouped_matmul" in back.code
    exported = torch.export.export(back, (x, ends)).module()
    for other in (ends, torch.tensor([0, 8, 9], dtype=torch.int32)):
        want, got = module(x, other), back(x, other)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(exported(x, other), want)
        for g, w in zip(*(torch.autograd.grad(o.square().sum(), x) for o in (got, want)), strict=True):
            torch.testing.assert_close(g, w)
        np.testing.assert_allclose(dag.run(x.detach().numpy(), other.numpy()), want.detach().numpy(), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:the network writes to its inputs")
@pytest.mark.parametrize("via", ["export", "trace"])
def test_capturing_changes_neither_the_inputs_nor_the_buffers(via: Any) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(x.add_(1))

    net, x = Writes().train(), torch.arange(6.0).reshape(3, 2)
    dag = td.from_torch(net, x, via=via)
    assert torch.equal(x, torch.arange(6.0).reshape(3, 2))
    assert torch.equal(net.norm.running_mean, torch.zeros(2))
    assert net.norm.num_batches_tracked == 0
    np.testing.assert_allclose(dag.run(x.numpy()), net(x.clone()).detach(), atol=1e-6)


class _Inner(nn.Module):
    """Has children of the name of what a trace captures, and of one that only begins with it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"model": nn.Linear(3, 3)})
        self.modelling = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.modelling(self.model["model"](x))


def test_a_trace_of_a_network_with_a_child_called_model() -> None:
    module, x = _Inner().eval(), torch.randn(2, 3)
    traced, exported = (td.from_torch(module, x, via=via) for via in ("trace", "export"))
    assert list(traced.graph.parameters) == list(exported.graph.parameters)
    assert traced.graph.outputs["out"] is exported.graph.outputs["out"]
    assert traced.modules == {"": "_Inner", "model.model": "Linear", "model": "ModuleDict", "modelling": "BatchNorm1d"}


def test_a_trace_on_meta_has_its_convolutions() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False),
        nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1), nn.Flatten(2), nn.Conv1d(4, 2, 5, dilation=2),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 6, 7)
    own = td.from_torch(module, x, via="trace")
    module, x = module.to("meta"), x.to("meta")
    for _ in range(2):  # what torch does on meta is as before afterwards
        dag = td.from_torch(module, x, via="trace")
        assert dag.graph.outputs["out"] is own.graph.outputs["out"]
        assert module(x).shape == dag.graph.outputs["out"].shape


def test_a_number_of_repeats_that_a_trace_has_as_a_tensor() -> None:
    class Repeats(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(y.size(-1), dim=0)

    x, y = torch.randn(3, 4), torch.randn(2, 2)
    dag = td.from_torch(Repeats(), (x, y), via="trace")
    np.testing.assert_array_equal(dag.run(x.numpy(), y.numpy()), x.repeat_interleave(2, 0).numpy())

    class Data(nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(n, 0)

    with pytest.raises(td.UnsupportedError, match="the shape of its result depends on the data"):
        td.from_torch(Data(), (x, torch.tensor([1, 2, 0])), via="trace")


@pytest.mark.parametrize("bounds", [(8, 0, 7), (8, 0, 8), (3, -1, 9), (5,)])
def test_a_histogram_of_whole_numbers(bounds: tuple[int, ...]) -> None:
    class Histogram(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.histc(x, *bounds)

    x = torch.randint(-2, 12, (50,), dtype=torch.int32)
    dag = td.from_torch(Histogram(), x.to("meta"))  # torch has none for a CPU, but for other devices
    got = dag.run(x.numpy())
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, torch.histc(x.double(), *bounds).numpy())


def test_short_cuts_are_undone_and_lines_are_kept() -> None:
    """Graphs are written as Python when they run; of the stack the line is kept that is read: the innermost forward."""
    before = torch.fx.GraphModule.recompile, sys.modules["torch.fx.proxy"].__dict__["CapturedTraceback"]

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _twice(x.sin())

    def _twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    dag = td.from_torch(Net(), torch.ones(3))
    line = Net.forward.__code__.co_firstlineno + 1
    assert {o.source for o in dag.origins.values()} == {f"{__file__}:{line}"}
    assert before == (torch.fx.GraphModule.recompile, sys.modules["torch.fx.proxy"].__dict__["CapturedTraceback"])
    program = torch.export.export(Net(), (torch.ones(3),))
    assert "sin" in program.graph_module.code


class _Lengths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(x) if lengths is None else self.linear(x) * lengths


class _Tries(nn.Module):
    """Offers every layer an argument that some don't have."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            try:
                x = layer(x, lengths=x.mean())
            except TypeError:
                x = layer(x)
        return x


@pytest.mark.parametrize("via", ["export", "trace"])
def test_calls_of_modules_that_raise_what_the_network_catches(via: str) -> None:
    model = _Tries(nn.Linear(3, 3), _Lengths(), nn.ReLU(), nn.Sequential(nn.Tanh(), nn.Linear(3, 2))).eval()
    x = torch.rand(4, 3)
    dag = td.from_torch(model, x, via=via)
    assert torch.equal(dag.to_torch()(x), model(x))
    linear = [v for v in dag.values if v.op.name == "linear"]
    assert [dag.origins[v].module for v in linear] == ["layers.0", "layers.1.linear", "layers.3.1"]


def test_a_trace_that_casts_a_tensor_of_one_number() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.add(x, torch.tensor(2), alpha=2)

    x = torch.randn(3)
    torch.testing.assert_close(td.from_torch(Net(), x, via="trace").to_torch()(x), Net()(x))
