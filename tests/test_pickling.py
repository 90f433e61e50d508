"""Pickling and copying what holds values: flat, and back as the same values."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import tdagger as td
from tdagger.tensordag import Signature, TensorDAG
from tdagger.tree import Tree


@pytest.fixture
def dag() -> TensorDAG:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softmax(1))
    return td.from_torch(net, torch.ones(2, 3))


def test_a_network_comes_back_with_the_same_values(dag: TensorDAG) -> None:
    for other in (pickle.loads(pickle.dumps(dag)), copy.deepcopy(dag), copy.copy(dag)):
        assert other.graph == dag.graph
        assert all(a is b for a, b in zip(other.values, dag.values, strict=True))
        assert other.origins == {v: o for v, o in dag.origins.items() if v in set(dag.values)}
        assert (other.signature, other.state, other.modules) == (dag.signature, dag.state, dag.modules)
        x = torch.ones(2, 3)
        assert torch.equal(other.to_torch()(x), dag.to_torch()(x))


def test_costs_and_axes_come_back(dag: TensorDAG) -> None:
    cost = pickle.loads(pickle.dumps(dag.cost()))
    assert cost == dag.cost()
    assert [r.value for r in cost.by_value] == [r.value for r in dag.cost().by_value]
    row = pickle.loads(pickle.dumps(cost.by_value[-1]))
    assert row == cost.by_value[-1]
    axes = pickle.loads(pickle.dumps(dag.axes("batch features")))
    value = dag.graph.outputs["out"]
    assert axes.show(value) == dag.axes("batch features").show(value) == "f32[batch c]"
    plain = pickle.loads(pickle.dumps(dag.axes().axes))
    assert plain.graph == dag.graph


def test_depth_does_not_matter() -> None:
    x = value = td.input("x", (3,))
    for _ in range(3000):
        value = td.exp(value)
    deep = TensorDAG(td.Graph({"x": x}, {"y": value}), {}, Signature(Tree("tuple"), Tree("leaf")))
    assert pickle.loads(pickle.dumps(deep)).graph.outputs["y"] is value
    assert pickle.loads(pickle.dumps(deep.cost())).total_flops == 9000
    assert copy.deepcopy(deep).graph == deep.graph
