"""Core ops and composites of a package outside of tdagger do everything that those inside do."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger import passes
from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError, UnsupportedError
from tdagger.op import core_ops

HERE = str(Path(__file__).parent)
TABLES = [
    ("tdagger.op", "core_ops"), ("tdagger.op", "functions"), ("tdagger.composite", "composites"),
    ("tdagger.frameworks.torch.aten.table", "RULES"), ("tdagger.frameworks.torch.emit.core", "CORE"),
    ("tdagger.frameworks.torch.emit.composites", "COMPOSITES"),
]  # fmt: skip


@pytest.fixture(scope="module")
def own() -> Iterator[ModuleType]:
    """The package, imported as a user's would be; what it registers is gone for the tests after it."""
    importlib.import_module("tdagger.frameworks.torch.importer")
    tables: list[dict[Any, Any]] = [getattr(importlib.import_module(m), name) for m, name in TABLES]
    before = [t.copy() for t in tables]
    sys.path.insert(0, HERE)
    try:
        yield importlib.import_module("own_ops")
    finally:
        sys.path.remove(HERE)
        for table, was in zip(tables, before, strict=True):
            table.clear()
            table.update(was)
        for name in [n for n in sys.modules if n.partition(".")[0] == "own_ops"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def dag(own: ModuleType) -> td.TensorDAG:
    def function(x: td.Value, weight: td.Value) -> td.Value:
        y = own.Clip(-1.0, 1.0)(own.own_sorted(td.linear(x, weight), 1))
        return own.own_spread(td.exp(y), axis=2)

    return td.network(function, {"x": (2, 5, 4)}, {"weight": np.random.default_rng(0).normal(size=(6, 4)).astype("f")})


X = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("f")


def want(x: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    y = np.exp(np.clip(np.sort(x @ weight.T, -2), -1, 1))
    return y - y.min(-1, keepdims=True)


# --- what needs no framework -------------------------------------------------------------------------------


def test_types(own: ModuleType) -> None:
    x = td.input("x", (2, 3))
    assert own.own_sorted(x).op is own.Sorted(1)
    assert own.own_spread(x).type == x.type
    with pytest.raises(TypeMismatchError, match=r"own_sorted\(axis=2\) on \(f32\[2 3\]\): there is no such axis"):
        own.Sorted(2)(x)
    with pytest.raises(AttributeValueError, match="low 2 is above high 1"):
        own.Clip(2, 1)


def test_running_text_and_pickle(dag: td.TensorDAG) -> None:
    np.testing.assert_allclose(dag.run(X), want(X, dag.weights["weight"]), rtol=1e-5, atol=1e-6)
    assert "own_sorted(%1, axis=1)" in str(dag)
    assert "own_spread(%4" in str(dag)
    assert pickle.loads(pickle.dumps(dag)).graph == dag.graph


def test_axes_unbatch_and_resize(dag: td.TensorDAG) -> None:
    named = dag.axes("b s c")
    sorted_ = next(v for v in dag.values if v.op.name == "own_sorted")
    assert named.show(sorted_).startswith("f32[b s ")
    one = dag.with_axes("b s c").unbatch("b")
    np.testing.assert_allclose(one.run(X[0]), dag.run(X)[0], rtol=1e-6)
    assert next(v for v in one.values if v.op.name == "own_sorted").op.attributes["axis"] == 0
    assert any(v.op.name == "own_spread" for v in one.values)
    with pytest.raises(AxisError, match=r"own_sorted.*sorts"):
        dag.with_axes("b s c").unbatch("s")
    bigger = dag.with_axes("b s c").resize(b=3, s=7, assume=True)
    x = np.random.default_rng(2).normal(size=(3, 7, 4)).astype("f")
    np.testing.assert_allclose(bigger.run(x), want(x, dag.weights["weight"]), rtol=1e-5, atol=1e-6)
    many = dag.batch(3)
    np.testing.assert_allclose(many.run(np.stack([X] * 3))[1], dag.run(X), rtol=1e-6)


def test_cost(dag: td.TensorDAG) -> None:
    n = 2 * 5 * 6
    cost = dag.cost()
    assert cost.macs == n * 4
    assert not cost.is_partial
    # sorted n, clip 2n, exp n; the spread sorts and subtracts
    assert dag.graph.total_flops() == n * 7 + n + 2 * n + n + (n + n)
    assert dag.with_axes("b s c").cost_formula("flops", assume=True)(b=4, s=10) == dag.graph.total_flops() * 4
    assert dag.graph.total_memory_writes() == 5 * n * 4
    assert cost.peak_bytes == dag.peak_memory() > 0
    assert dag.cost(backward=True).macs == cost.macs
    assert float(dag.predict_time("h100")) > 0
    assert dag.memory_plan().size >= dag.peak_memory()
    assert dag.peak_memory("torch-cpu") > 0


def test_surgery(own: ModuleType, dag: td.TensorDAG) -> None:
    plain = td.network(lambda x: td.relu(x), {"x": (2, 3)})
    clipped = plain.replace(td.relu, own.Clip(0.0, 6.0))
    np.testing.assert_array_equal(clipped.run(np.full((2, 3), 9, "f")), np.full((2, 3), 6, "f"))
    assert dag.replace(own.Clip, lambda x, *, high: td.minimum(x, high)).run(X).shape == (2, 5, 6)
    assert dag.unwrap(own.own_spread).graph.total_flops() == dag.graph.total_flops()
    assert len(dag.partition(supported=lambda v: not v.op.name.startswith("own_")).parts) == 4
    assert td.op_counts(dag.wrap([own.Sorted, own.Clip], "mine").values)["mine"] == 1


def test_files_and_text(dag: td.TensorDAG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag.save(tmp_path / "own.tdag")
    again = td.load(tmp_path / "own.tdag")
    assert again.graph == dag.graph
    np.testing.assert_array_equal(again.run(X), dag.run(X))
    assert td.parse(dag.text()).graph == dag.graph
    monkeypatch.delitem(core_ops, "own_sorted")  # as where nobody imported the package
    with pytest.raises(td.FileError, match="no op is called 'own_sorted'; import the module that defines it first"):
        td.load(tmp_path / "own.tdag")


def test_passes_rules_and_diff(own: ModuleType, dag: td.TensorDAG) -> None:
    for step in (passes.optimized, passes.channels_last, passes.outline, lambda d: d.inline().raise_()):
        np.testing.assert_allclose(step(dag).run(X), dag.run(X), rtol=1e-5, atol=1e-6)
    assert len(dag.find(td.rule(lambda x: own.Clip(-1.0, 1.0)(x)))) == 1
    other = dag.replace(own.Clip, own.Clip(-1.0, 0.5))
    diff = td.diff(dag, other, X)
    assert diff.verdict == "different"
    assert diff.first is not None
    assert diff.first.a is next(v for v in dag.values if v.op.name == "own_clip")


def test_other_formats_refuse_by_name(dag: td.TensorDAG) -> None:
    for form in (dag.to_onnx, dag.to_tflite, dag.to_coreml):
        with pytest.raises(
            UnsupportedError, match=r"3 ops of 2 kinds can't be[\s\S]*2 x own_sorted[\s\S]*1 x own_clip"
        ):
            form()


def test_prune_and_quantize(own: ModuleType) -> None:
    random = np.random.default_rng(3)
    weights = {"w": random.normal(size=(6, 4)).astype("f"), "v": random.normal(size=(3, 6)).astype("f")}
    data = [random.normal(size=(2, 4)).astype("f") for _ in range(4)]

    def between(function: Callable[[td.Value], td.Value]) -> td.TensorDAG:
        return td.network(lambda x, w, v: td.linear(function(td.linear(x, w)), v), {"x": (2, 4)}, weights)

    carried = between(lambda y: own.own_spread(own.Clip(0.5, 1.0)(y), axis=0))
    plan = carried.prune_plan(params=0.5)
    assert plan.check().error == 0
    assert carried.prune(params=0.5).weights["v"].shape == (3, 3)
    sorts = between(lambda y: own.own_sorted(y, 1))
    with pytest.raises(AttributeValueError, match="params can't become 21: 42 of 42 is left"):
        sorts.prune(params=0.5)
    for dag in (carried, sorts):
        small = td.quantize(dag, data, target="x86")
        assert any(v.op.name.startswith("own_") for v in small.values)
        want = dag.run(data[0])
        assert np.abs(small.run(data[0]) - want).max() < 0.05 * np.abs(want).max()


# --- torch, before it is told ------------------------------------------------------------------------------


def test_torch_without_being_told(dag: td.TensorDAG, tmp_path: Path) -> None:
    """Core ops by their numpy reference, the composite by its body; what needs more is refused by name."""
    module = dag.to_torch()
    torch.testing.assert_close(module(torch.tensor(X)).detach(), torch.tensor(dag.run(X)), rtol=1e-5, atol=1e-6)
    assert "runtime.by_numpy(own_0" in module.code
    with pytest.raises(UnsupportedError, match=r"is computed by numpy and has no derivative.*extend\.writes"):
        module(torch.tensor(X)).sum().backward()
    for form in (dag.to_torchscript, dag.to_exported_program):
        with pytest.raises(UnsupportedError, match="can't hold own_clip, own_sorted, which is computed by numpy"):
            form()
    with pytest.raises(UnsupportedError, match="a trace would hold what it gave as a constant"):
        torch.jit.trace(module, torch.tensor(X))
    again = pickle.loads(pickle.dumps(module))
    torch.testing.assert_close(again(torch.tensor(X)), module(torch.tensor(X)))


def test_half_precision_without_being_told(own: ModuleType) -> None:
    for dtype, torch_dtype in (("bf16", torch.bfloat16), ("i32", torch.int32), ("u16", torch.uint16)):
        network = td.network(lambda x: own.own_sorted(x), {"x": td.TensorType((4,), dtype)})
        x = torch.tensor([3, 1, 2, 0]).to(torch_dtype)
        assert network.to_torch()(x).to(torch.int64).tolist() == [0, 1, 2, 3]


# --- torch -------------------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.own_ops.sorted(self.fc(x), -1).clamp(-1, 1)


def test_torch_both_ways(own: ModuleType, dag: td.TensorDAG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("own_ops.torch")
    module = dag.to_torch()
    assert "by_numpy" not in module.code
    assert "torch.sort(" in module.code
    x = torch.tensor(X, requires_grad=True)
    torch.testing.assert_close(module(x).detach(), torch.tensor(dag.run(X)), rtol=1e-5, atol=1e-6)
    module(x).sum().backward()
    weight = torch.tensor(dag.weights["weight"], requires_grad=True)
    y = torch.exp(torch.sort(x.detach() @ weight.T, 1).values.clamp(-1, 1))
    (y - y.amin(2, keepdim=True)).sum().backward()
    torch.testing.assert_close(module.get_parameter("weight").grad, weight.grad, rtol=1e-4, atol=1e-5)
    traced = dag.to_torchscript()
    torch.testing.assert_close(traced(torch.tensor(X)), module(torch.tensor(X)))
    program = dag.to_exported_program().module()
    torch.testing.assert_close(program(torch.tensor(X)), module(torch.tensor(X)))

    from tdagger.frameworks.torch.emit.save import save

    save(dag, tmp_path / "written.py", ".py")
    monkeypatch.syspath_prepend(str(tmp_path))
    written = importlib.import_module("written").load()
    torch.testing.assert_close(written(torch.tensor(X)), module(torch.tensor(X)))
    del sys.modules["written"]

    model = Model().eval()
    back = td.from_torch(model, torch.tensor(X))
    assert [v.op for v in back.values if v.op.name == "own_sorted"] == [own.Sorted(2)]
    with torch.no_grad():
        torch.testing.assert_close(back.to_torch()(torch.tensor(X)), model(torch.tensor(X)))
    assert back.resize(b=3).graph.inputs["x"].shape == (3, 5, 4)
    assert back.unbatch("b").graph.inputs["x"].shape == (5, 4)


def test_said_twice_or_of_nothing(own: ModuleType) -> None:
    from tdagger.frameworks.torch.aten.extend import writes

    importlib.import_module("own_ops.torch")
    with pytest.raises(AttributeValueError, match="torch knows own_sorted already"):
        writes(own.Sorted, "x")
    with pytest.raises(AttributeValueError, match="torch knows relu already"):
        writes(td.relu, "x")
    with pytest.raises(AttributeValueError, match="give a class of core op"):
        writes(td.Op, "x")
