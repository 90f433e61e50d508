"""Repeated parts, found by structure."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import tdagger as td
from tdagger import passes
from tdagger.interpret import run
from tdagger.transform.passes.outline import in_order
from tdagger.transform.passes.pipeline import random_inputs
from tests.graphs import graphs
from tests.networks import NETWORKS


@settings(max_examples=60)
@given(graph=graphs(40))
def test_random_graphs(graph: td.Graph) -> None:
    generator = np.random.default_rng(1)
    leaves = {**graph.parameters, **graph.buffers}
    dag = td.TensorDAG.of_graph(
        graph, {n: generator.normal(size=v.shape).astype(np.float32) for n, v in leaves.items()}
    )
    new, told = passes.outline(dag, size=2, report=True)
    inputs = random_inputs(graph)
    for before, after in zip(*(run(d.graph, inputs, d.weights) for d in (dag, new)), strict=True):
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array)
    assert passes.outline(new, size=2).graph == new.graph
    assert (new.unwrap() if told else new).graph == graph


@given(graph=graphs(40))
def test_arguments_come_first(graph: td.Graph) -> None:
    order = in_order(graph)
    place = {v: i for i, v in enumerate(order)}
    assert len(place) == len(order) == sum(bool(v.args) for v in graph.values)
    assert all(place.get(a, -1) < i for i, v in enumerate(order) for a in v.args)


def _llama(layers: int) -> td.TensorDAG:
    from transformers import LlamaConfig

    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=64, intermediate_size=96, num_attention_heads=4, vocab_size=64
    )
    return td.from_transformers(config, seq=8)


def _transformer(layers: int) -> td.TensorDAG:
    """A decoder of so many layers: rotary embedding and mask shared by all of them."""

    def network(x: td.Value, position: td.Value) -> td.Value:
        angle = td.ungroup(td.cast(position, "f32"), 0, (8, 1)) * td.iota(4, "f32")
        cos, sin = td.cos(td.concat([angle, angle], 1)), td.sin(td.concat([angle, angle], 1))

        def weight(name: str, n: int, m: int) -> td.Value:
            return td.parameter(f"{i}.{name}", (n, m))

        def turned(x: td.Value) -> td.Value:
            half = td.concat([td.neg(td.slice_axis(x, -1, 4, 8)), td.slice_axis(x, -1, 0, 4)], -1)
            return x * cos + half * sin

        def heads(y: td.Value, name: str) -> td.Value:
            return td.permute(td.ungroup(td.linear(y, weight(name, 16, 16)), 1, (2, 8)), (1, 0, 2))

        for i in range(layers):
            y = td.rms_norm(x, td.parameter(f"{i}.first", (16,)))
            q, k, v = turned(heads(y, "q")), turned(heads(y, "k")), heads(y, "v")
            mask = td.less_equal(td.unsqueeze(position, (0,)), td.unsqueeze(position, (1,)))
            y = td.scaled_dot_product_attention(q, k, v, mask)
            x = x + td.linear(td.group(td.permute(y, (1, 0, 2)), (1, 2)), weight("o", 16, 16))
            y = td.rms_norm(x, td.parameter(f"{i}.second", (16,)))
            y = td.silu(td.linear(y, weight("gate", 24, 16))) * td.linear(y, weight("up", 24, 16))
            x = x + td.linear(y, weight("down", 16, 24))
        return td.rms_norm(x)

    x, position = td.input("x", (8, 16)), td.input("position", (8,), "i64")
    return td.TensorDAG.of_graph(td.Graph({"x": x, "position": position}, {"y": network(x, position)}), {})


@pytest.mark.parametrize("layers", [2, 80])
def test_layers_are_one_composite(layers: int) -> None:
    dag = _transformer(layers)
    dag.graph.users  # noqa: B018 - what any pass needs once
    start = time.process_time()
    new, told = passes.outline(dag, report=True)
    assert time.process_time() - start < 1
    assert [(t.title, t.times) for t in told] == [("repeated", layers)]
    blocks = [v for v in new.values if v.op.name == "block"]
    assert len(blocks) == layers
    assert len({v.op for v in blocks}) == 1
    assert told[0].saved == sum(bool(v.args) for v in dag.values) - sum(bool(v.args) for v in new.values) - told[0].size
    assert new.unwrap().graph == dag.graph


def test_parts_have_the_names_of_their_modules() -> None:
    dag = _llama(3)
    new, told = passes.outline(dag, report=True)
    assert [(t.title, t.times) for t in told] == [("LlamaDecoderLayer", 3)]
    assert told[0].modules == tuple(f"model.layers.{i}" for i in range(3))
    assert str(told[0]).startswith("LlamaDecoderLayer         3 times")
    blocks = [v for v in new.values if v.op.name == "block"]
    assert [new.origins[v].module for v in blocks] == list(told[0].modules)
    back = new.unwrap("LlamaDecoderLayer")
    assert back.graph == dag.graph
    assert {v: o.module for v, o in back.origins.items()} == {
        v: o.module for v, o in dag.origins.items() if v in set(dag.values)
    }


def test_without_names_and_however_built() -> None:
    """No origins, other orders of values and of outputs: the same parts."""
    dag = _llama(4)
    bare = td.TensorDAG.of_graph(dag.graph, {})
    graph = dag.graph
    reversed_ = td.Graph(graph.inputs, graph.outputs, order=[*graph.values][::-1])
    for other in (bare, td.TensorDAG.of_graph(reversed_, {})):
        _, told = passes.outline(other, report=True)
        assert [(t.title, t.times, t.modules) for t in told] == [("repeated", 4, ("",) * 4)]


def test_layers_that_give_more_than_one_result() -> None:
    """Hidden states and caches are results of the network too: all blocks give what any of them has to."""

    def network(x: td.Value) -> tuple[td.Value, ...]:
        kept: list[td.Value] = []
        for i in range(6):
            key = td.tanh(td.linear(x, td.parameter(f"k{i}", (4, 4))))
            kept.append(key)
            x = x + td.softmax(td.sin(td.exp(key)), axis=-1)
        return x, kept[0], kept[3], kept[4]

    dag = td.network(network, {"x": (2, 4)})
    new, told = passes.outline(dag, report=True)
    assert [(t.times, t.size) for t in told] == [(6, 6)]
    assert new.unwrap().graph == dag.graph


def test_what_looks_alike_but_is_connected_otherwise() -> None:
    def network(x: td.Value) -> td.Value:
        for i in range(8):
            a, b = td.exp(x), td.sin(x)
            c = td.tanh(a) * (td.cos(b) if i % 2 else td.cos(a))
            x = td.neg(c) + b
        return x

    dag = td.network(network, {"x": (3,)})
    new, told = passes.outline(dag, report=True)
    assert sum(t.times * t.size for t in told) >= 48
    assert all(t.times == 4 for t in told)
    assert new.unwrap().graph == dag.graph
    x = np.linspace(-1, 1, 3, dtype="f")
    np.testing.assert_array_equal(new.run(x), dag.run(x))


def test_wrong_numbers() -> None:
    dag = td.network(lambda x: td.exp(x), {"x": (2,)})
    with pytest.raises(td.AttributeValueError, match="are 2 or more, got 1 and 2"):
        passes.outline(dag, size=1)


def test_it_goes_back_to_torch_and_trains() -> None:
    module, args, kwargs = NETWORKS["vit_base_patch16_224"](small=True)
    dag = td.from_torch(module, args, kwargs)
    new = passes.outline(dag)
    assert list(new.state) == list(dag.state)
    assert new.cost().macs == dag.cost().macs
    back = new.to_torch()
    assert list(back.state_dict()) == list(module.state_dict())
    out = back(*args)
    torch.testing.assert_close(out, module(*args), rtol=1e-5, atol=1e-5)
    out.sum().backward()
    assert all(p.grad is not None for p in back.parameters())
