"""Networks in parts: each a network, acyclic, and together the original."""

from __future__ import annotations

import itertools
import random as rng

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import GraphError
from tdagger.op import Value
from tdagger.transform.partition import Partition
from tests.transform.surgery.conftest import Recurrent, ResNet, random, seeded


@pytest.fixture(scope="module")
def resnet() -> td.TensorDAG:
    return td.from_torch(seeded(ResNet), random(2, 3, 8, 8))


def assert_parts(found: Partition[td.TensorDAG], dag: td.TensorDAG) -> None:
    """The parts are the original's values, each once, in an order in which they run, and compose to it."""
    computed = [v for v in dag.values if v.args]
    assert sorted(map(id, itertools.chain(*(p.values for p in found.parts)))) == sorted(map(id, computed))
    assert all(e.source < e.target for e in found.edges)
    assert found.joined().graph == dag.graph
    for edge in found.edges:
        assert found.parts[edge.source].network.graph.outputs[edge.name].type == edge.type
        assert found.parts[edge.target].network.graph.inputs[edge.name].type == edge.type


def test_supported_or_not(resnet: td.TensorDAG) -> None:
    found = resnet.partition(supported=[td.convolution, td.batch_norm])
    assert_parts(found, resnet)
    assert [p.supported for p in found.parts] == [True, False] * 5
    assert len(found.parts) == 10
    for part in found.parts:
        ops = {v.op.name for v in part.values}
        assert ops <= {"convolution", "batch_norm"} if part.supported else not ops & {"convolution", "batch_norm"}
    x = random(2, 3, 8, 8)
    np.testing.assert_allclose(found.run(x.numpy()), resnet.run(x.numpy()), rtol=1e-5, atol=1e-5)
    first = found.parts[0].network
    assert list(first.state) == ["stem.weight", "stem.bias"]
    assert list(first.modules) == ["", "stem"]
    known = {"x": x}
    for part in found.parts:
        with torch.no_grad():
            given = part.network.to_torch()(*[known[n] for n in part.network.graph.inputs])
        given = given if isinstance(given, tuple) else (given,)
        known.update(zip(part.network.graph.outputs, given, strict=True))
    torch.testing.assert_close(known[found.outputs[0]], resnet.to_torch()(x), rtol=1e-5, atol=1e-5)


def _alternations(values: list[Value], flags: dict[Value, bool]) -> int:
    """The most that kinds alternate on a path, plus 1."""
    most: dict[Value, int] = {}
    for value in values:
        most[value] = max((most[a] + (flags[a] != flags[value]) for a in value.args if a in most), default=1)
    return max(most.values())


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs_have_the_fewest_parts(seed: int) -> None:
    draw = rng.Random(seed)
    values = [td.input("x", (2,))]
    for _ in range(60):
        op = draw.choice([td.sin, td.exp, td.add, td.add])
        values.append(op(*draw.choices(values[-8:], k=2 if op is td.add else 1)))
    dag = td.network(lambda x: tuple(values[-3:]), {"x": (2,)})
    found = dag.partition(supported=lambda v: v.op.name == "unary")
    assert_parts(found, dag)
    computed = [v for v in dag.values if v.args]
    least = _alternations(computed, {v: v.op.name == "unary" for v in computed})
    assert least <= len(found.parts) <= least + 1
    x = np.ones(2, "f")
    np.testing.assert_array_equal(found.run(x), dag.run(x))
    for stages in (1, 2, 5):
        assert_parts(dag.partition(stages=stages, cost=lambda v: 1), dag)


def test_stages_are_balanced(resnet: td.TensorDAG) -> None:
    found = resnet.partition(stages=3, slack=0)
    assert_parts(found, resnet)
    costs = [p.cost() for p in found.parts]
    total = [0, *itertools.accumulate(td.Graph.total_flops(resnet.graph) * 0 + c for c in _flops(resnet))]
    n = len(total) - 1
    best = min(max(total[i], total[j] - total[i], total[n] - total[j]) for i in range(1, n) for j in range(i + 1, n))
    assert max(costs) == best
    assert sum(costs) == resnet.graph.total_flops()
    loose = resnet.partition(stages=3, slack=0.5)
    assert max(p.cost() for p in loose.parts) <= best * 1.5
    assert sum(e.type.bytes for e in loose.edges) <= sum(e.type.bytes for e in found.edges)
    np.testing.assert_allclose(loose.run(random(2, 3, 8, 8).numpy()), resnet.run(random(2, 3, 8, 8).numpy()), rtol=1e-5)


def _flops(dag: td.TensorDAG) -> list[int]:
    from tdagger.graph import flops

    return [flops(v) for v in dag.values if v.args]


def test_a_stage_for_every_op() -> None:
    dag = td.network(lambda x: td.exp(td.sin(td.exp(x))), {"x": (2,)})
    assert_parts(dag.partition(stages=3), dag)
    assert len(dag.partition(stages=3).parts) == 3
    for stages in (4, 0, 2.5):
        with pytest.raises(GraphError, match=f"from 1 to 3 stages, one for each value, not {stages}"):
            dag.partition(stages=stages)  # type: ignore[arg-type]


def test_by_memory(resnet: td.TensorDAG) -> None:
    whole = resnet.partition(memory=10**9)
    assert_parts(whole, resnet)
    (all_of_it,) = whole.parts
    weights = resnet.graph.total_bytes()
    assert all_of_it.memory == weights + resnet.peak_memory() + resnet.graph.inputs["x"].type.bytes
    limit = all_of_it.memory * 2 // 3
    found = resnet.partition(memory=limit)
    assert_parts(found, resnet)
    assert 1 < len(found.parts) <= 4
    assert all(p.memory <= limit for p in found.parts)
    for part in found.parts:
        own = part.network
        needed = own.graph.total_bytes() + own.peak_memory() + sum(v.type.bytes for v in own.graph.inputs.values())
        assert own.peak_memory() <= part.memory <= needed
    with pytest.raises(GraphError, match=r"convolution.*needs .* with its weights and arguments, device 0 has 1.00 kB"):
        resnet.partition(memory=1000)
    with pytest.raises(GraphError, match=r"doesn't fit on 2 devices: from .* on, \d+ values of"):
        resnet.partition(memory=[limit // 2, limit // 2])
    sizes = [limit // 2, 10**9]
    assert [p.memory <= m for p, m in zip(resnet.partition(memory=sizes).parts, sizes, strict=True)] == [True, True]


def test_several_results_and_state() -> None:
    dag = td.from_torch(seeded(Recurrent), random(2, 5, 6))
    for kw in ({"stages": 2}, {"supported": "lstm"}, {"supported": lambda v: v.op.name == "item"}, {"memory": 10**6}):
        found = dag.partition(**kw)
        assert_parts(found, dag)
        np.testing.assert_allclose(found.run(random(2, 5, 6).numpy())[0], dag.run(random(2, 5, 6).numpy())[0])


def test_in_training_updates_and_seeds_go_along() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Dropout(0.5))
    dag = td.from_torch(seeded(lambda: module).train(), random(3, 4))
    found = dag.partition(stages=3)
    assert_parts(found, dag)
    assert {n for p in found.parts for n in p.network.graph.updates} == set(dag.graph.updates)
    x = random(3, 4).numpy()
    np.testing.assert_allclose(found.run(x, seed=np.uint64(3)), dag.run(x, seed=np.uint64(3)), rtol=1e-5)


def test_leaves_as_outputs() -> None:
    dag = td.network(lambda x, w: (x, w, td.exp(x)), {"x": (2,)}, {"w": np.ones(2, "f")})
    found = dag.partition(stages=1)
    assert found.joined().graph == dag.graph
    assert [y.tolist() for y in found.run(np.zeros(2, "f"))] == [[0, 0], [1, 1], [1, 1]]


def test_one_thing_is_asked() -> None:
    dag = td.network(td.exp, {"x": (2,)})
    with pytest.raises(GraphError, match="say one of supported=, stages= or memory=, got none"):
        dag.partition()
    with pytest.raises(GraphError, match="got stages, memory"):
        dag.partition(stages=1, memory=3)
    with pytest.raises(GraphError, match='a cost is "flops"'):
        dag.partition(stages=1, cost="time")


def test_linear_in_the_graph() -> None:
    """Many parts of a long chain: names, state and modules are looked up, not searched."""

    def chain(x: Value) -> Value:
        for _ in range(10_000):
            x = td.exp(td.sin(x))
        return x

    dag = td.network(chain, {"x": (2,)})
    found = dag.partition(supported=td.sin)
    assert len(found.parts) == 20_000
    assert len({e.name for e in found.edges}) == 19_999


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(wrong: float, resnet: td.TensorDAG) -> None:
    with pytest.raises(GraphError, match=r"a cost is a number from 0 on, that of <convolution.* is"):
        resnet.partition(stages=2, cost=lambda v: wrong if v.op.name == "convolution" else 1.0)
    assert len(resnet.partition(stages=2, cost=lambda v: 0).parts) == 2
