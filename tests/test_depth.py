"""Composites of composites of composites."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger.composite import composites
from tdagger.depth import nested
from tdagger.op import functions
from tdagger.tensordag import Signature, TensorDAG
from tdagger.tree import Tree

LEVELS = 300


@pytest.fixture(scope="module")
def deep() -> TensorDAG:
    def around(inner, name):
        def outer(x):
            return inner(x) + 1.0

        outer.__name__ = name
        return td.composite(outer)

    function, names = td.exp, [f"nested_{i}" for i in range(LEVELS)]
    for name in names:
        function = around(function, name)
    x = td.input("x", (3,))
    graph = td.Graph({"x": x}, {"y": function(x)})
    for name in names:
        del composites[name], functions[name]
    inputs = Tree("tuple", (0, 1), (Tree("tuple", (0,), (Tree("leaf"),)), Tree("dict")))
    return TensorDAG(graph, {}, Signature(inputs, Tree("leaf")))


def test_everything_follows_at_any_depth(deep: TensorDAG) -> None:
    assert deep.graph.total_flops() == 3 + 3 * LEVELS
    assert deep.graph.total_memory_reads() == 12
    assert deep.cost().total_flops == 3 + 3 * LEVELS
    np.testing.assert_allclose(deep.run(np.zeros(3, np.float32)), np.full(3, LEVELS + 1.0))
    assert torch.allclose(deep.to_torch()(torch.zeros(3)), torch.full((3,), LEVELS + 1.0))
    assert deep.resize({"x": (5,)}).graph.outputs["y"].shape == (5,)
    assert deep.batch(2).graph.outputs["y"].shape == (2, 3)
    assert not deep.graph.external


def test_errors_come_from_where_they_are_raised() -> None:
    @nested
    def fall(n: int) -> int:
        if n == 0:
            raise ValueError("at the bottom")
        return fall(n - 1)

    with pytest.raises(ValueError, match="at the bottom"):
        fall(5000)
