"""The interpreter: one class for numpy and torch, methods for all values or for the ops of one name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import InputError
from tdagger.op import Value
from tests.networks import NETWORKS
from tests.transform.surgery.conftest import Recurrent, ResNet, random, seeded

SMALL = ["LSTM", "TransformerEncoder", "GPT2LMHeadModel"]


@pytest.mark.parametrize("name", SMALL)
def test_with_torch_it_gives_what_the_module_gives(name: str) -> None:
    network = NETWORKS[name](small=True)
    kwargs = {**network.kwargs, "use_cache": False} if name.startswith("GPT") else network.kwargs
    dag = td.from_torch(network.module, network.args, kwargs)
    with torch.no_grad():
        got = td.Interpreter(dag, "torch").run(*network.args, **kwargs)
        want = dag.to_torch()(*network.args, **kwargs)
    torch.testing.assert_close(tuple(_flat(got)), tuple(_flat(want)), rtol=1e-5, atol=1e-5)


def _flat(x: Any) -> list[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        return [x]
    return [t for part in (x.values() if hasattr(x, "values") else x) for t in _flat(part)]


def test_with_numpy_it_gives_what_run_gives() -> None:
    dag = td.from_torch(seeded(Recurrent), random(2, 5, 6))
    x = random(2, 5, 6).numpy()
    for got, want in zip(td.Interpreter(dag).run(x), dag.run(x), strict=True):
        np.testing.assert_array_equal(got, want)


class Counting(td.Interpreter):
    """Sees every value, and computes relu by itself."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[str] = []

    def run_value(self, value: Value, args: list[Any]) -> Any:
        result = super().run_value(value, args)
        self.seen.append(value.op.name)
        return result

    def run_relu(self, value: Value, args: list[Any]) -> Any:
        return args[0] * 2


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_one_class_for_both_frameworks(framework: str) -> None:
    module = seeded(ResNet)
    dag = td.from_torch(module, random(2, 3, 8, 8))
    run = Counting(dag, framework)
    x = random(2, 3, 8, 8)
    got = run.run(x if framework == "torch" else x.numpy())
    doubled = dag.replace("relu", lambda v: v * 2.0)
    want = doubled.run(x.numpy())
    np.testing.assert_allclose(got.detach().numpy() if framework == "torch" else got, want, rtol=1e-4, atol=1e-4)
    assert run.seen == [v.op.name for v in dag.values]


def test_gradients_go_through_torch() -> None:
    dag = td.from_torch(seeded(ResNet), random(2, 3, 8, 8))
    x = random(2, 3, 8, 8).requires_grad_()
    td.Interpreter(dag, "torch").run(x).sum().backward()
    y = x.detach().clone().requires_grad_()
    dag.to_torch()(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


class Inside(Counting):
    """Runs a composite's body by itself."""

    def run_softmax(self, value: Value, args: list[Any]) -> Any:
        return self.run_body(value, args)


def test_bodies() -> None:
    dag = td.network(lambda x: td.softmax(td.exp(x), axis=0), {"x": (3,)})
    x = np.arange(3, dtype="f")
    for framework, given in (("numpy", x), ("torch", torch.tensor(x))):
        run = Inside(dag, framework)
        np.testing.assert_allclose(np.asarray(run.run(given)), dag.run(x), rtol=1e-6)
        assert run.seen[-1] == "softmax"
        assert "divide" in run.seen
        assert "reduce" in run.seen


def test_updates_and_seeds() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    dag = td.from_torch(seeded(lambda: module).train(), random(3, 4))
    for framework in ("numpy", "torch"):
        run = td.Interpreter(dag, framework)
        x = random(3, 4)
        seed: Any = np.uint64(3) if framework == "numpy" else torch.tensor(3, dtype=torch.uint64)
        out = np.asarray(run.run(x.numpy() if framework == "numpy" else x, seed=seed).detach()
                         if framework == "torch" else run.run(x.numpy(), seed=seed))  # fmt: skip
        np.testing.assert_allclose(out, dag.run(x.numpy(), seed=np.uint64(3)), rtol=1e-4, atol=1e-5)
        assert list(run.updates) == list(dag.graph.updates)


def test_errors_name_the_place() -> None:
    class Failing(td.Interpreter):
        def run_relu(self, value: Value, args: list[Any]) -> Any:
            raise RuntimeError("broken")

    dag = td.from_torch(seeded(ResNet), random(2, 3, 8, 8))
    with pytest.raises(RuntimeError, match="broken") as e:
        Failing(dag).run(random(2, 3, 8, 8).numpy())
    assert "while running <relu(f32[2 8 4 4]) -> f32[2 8 4 4]> (act, " in e.value.__notes__[0]
    with pytest.raises(InputError, match="by numpy or torch, not by 'jax'"):
        td.Interpreter(dag, "jax")
    graph = td.Graph({"x": td.input("x", (2,))}, {"y": td.exp(td.input("x", (2,)))})
    with pytest.raises(InputError, match=r"input 'x' \(f32\[2\]\) was not given; there are none"):
        td.Interpreter(graph).run_graph({})
    with pytest.raises(InputError, match="run_graph"):
        td.Interpreter(graph).run(np.zeros(2))


def test_a_method_for_an_op_can_ask_for_what_the_op_gives() -> None:
    class Doubled(td.Interpreter):
        def run_exp(self, value: Value, args: list[Any]) -> Any:
            return 2 * super().run_value(value, args)

    dag = td.network(lambda x: td.exp(td.exp(x)), {"x": (2,)})
    x = np.array([0.0, 0.5], "f")
    np.testing.assert_allclose(Doubled(dag).run(x), 2 * np.exp(2 * np.exp(x)), rtol=1e-6)
    np.testing.assert_allclose(Doubled(dag, "torch").run(torch.tensor(x)), 2 * np.exp(2 * np.exp(x)), rtol=1e-6)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_method_that_gives_nothing_is_named(framework: Any) -> None:
    class Printing(td.Interpreter):
        def run_relu(self, value: Value, args: list[Any]) -> Any:
            super().run_value(value, args)

    dag = td.from_torch(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), torch.zeros(2, 3))
    x: Any = np.zeros((2, 3), np.float32) if framework == "numpy" else torch.zeros(2, 3)
    with pytest.raises(
        td.GraphError, match=r"run_relu of Printing gave None for <relu.*\(1, .*activation.py.*super\(\)\.run_value"
    ):
        Printing(dag, framework).run(x)


@pytest.mark.parametrize("title", ["value", "op", "leaf", "body", "graph"])
def test_a_block_may_have_any_title(title: str) -> None:
    dag = td.network(lambda x: td.exp(td.neg(x)), {"x": (2,)})
    x = np.array([0.0, 0.5], "f")
    wrapped = dag.wrap([v for v in dag.values if v.args], title)
    np.testing.assert_array_equal(td.Interpreter(wrapped).run(x), dag.run(x))
