"""Networks with fewer axes: the same entries, moved in other pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tdagger as td
from tdagger import passes
from tdagger.graph import result_types
from tdagger.interpret import run
from tdagger.transform.passes.pipeline import random_inputs
from tdagger.transform.passes.rank import permutations
from tests.graphs import layouts


def most_axes(dag: td.TensorDAG) -> int:
    return max(t.rank for v in dag.graph.values for t in result_types(v))


@settings(max_examples=300, deadline=None)
@given(layouts(exact=True), st.sampled_from([4, 5]))
def test_random_graphs(graph: td.Graph, limit: int) -> None:
    for one, other in reduced(graph, limit):
        np.testing.assert_array_equal(other, one)


@settings(max_examples=100, deadline=None)
@given(layouts(), st.sampled_from([4, 5]))
def test_random_graphs_of_functions(graph: td.Graph, limit: int) -> None:
    for one, other in reduced(graph, limit):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)


def reduced(graph: td.Graph, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a graph gives, and what it gives with fewer axes."""
    dag = td.TensorDAG.of_graph(graph, {"p": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)})
    new = passes.to_rank(dag, limit)
    assert most_axes(new) <= limit
    inputs = random_inputs(graph)
    before, after = (run(d.graph, inputs, d.weights)[0] for d in (dag, new))
    assert passes.to_rank(new, limit).graph == new.graph
    return [(array, after[name]) for name, array in before.items()]


@given(st.permutations(range(7)), st.sampled_from([4, 5]))
def test_any_permutation_in_steps(order: list[int], limit: int) -> None:
    axes = list(range(7))
    steps = permutations(tuple(order), limit)
    for blocks, moved in steps:
        assert len(blocks) <= limit
        axes = [axes[i] for m in moved for i in blocks[m]]
    assert axes == order
    assert len(steps) <= 3


def test_what_is_only_moved_together_is_one_permutation() -> None:
    for order in itertools.permutations(range(4)):
        split = tuple(2 * i + j for i in order for j in (0, 1))
        assert len(permutations(split, 4)) <= 1


def test_composites_take_grouped_axes() -> None:
    def network(x: td.Value, w: td.Value) -> td.Value:
        x = td.ungroup(td.ungroup(x, 1, (2, 3)), 3, (2, 2))  # b 2 3 2 2 d
        y = td.layer_norm(td.linear(td.softmax(x, axis=-1), w))
        y = td.scaled_dot_product_attention(y, y, y)
        y = td.relu(td.mean(y, axes=(5,), keep=True)) * y
        return td.reshape(y, shape=(2, 6, 4, 8))

    dag = td.network(network, {"x": (2, 6, 4, 8), "w": (8, 8)})
    new = passes.to_rank(dag, 4)
    kept = [{v.op.name for v in d.values} - {"reshape", "group", "ungroup", "repeat"} for d in (dag, new)]
    assert kept[0] == kept[1]
    assert most_axes(new) == 4
    inputs = random_inputs(dag.graph)
    before, after = (run(d.graph, inputs, {})[0]["out"] for d in (dag, new))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_everything_that_cannot_be_is_named_at_once() -> None:
    x, w = td.input("x", (1, 2, 4, 4, 4)), td.parameter("w", (3, 2, 3, 3, 3))
    graph = td.Graph({"x": x}, {"y": td.max_pool(td.convolution(x, w), kernel=(2, 2, 2))})
    with pytest.raises(td.UnsupportedError) as e:
        passes.to_rank(td.TensorDAG.of_graph(graph, {}), 4)
    text = str(e.value)
    assert "for 5 values" in text
    for what in ("input x", "parameter w", "convolution", "max_pool", "output 'y', which stays what it is"):
        assert what in text
    assert "dag.inline('convolution') takes it apart" in text
    assert passes.to_rank(td.TensorDAG.of_graph(graph, {}), 5).graph == graph
    with pytest.raises(td.AttributeValueError, match="fewer than 4"):
        passes.to_rank(td.TensorDAG.of_graph(graph, {}), 3)
