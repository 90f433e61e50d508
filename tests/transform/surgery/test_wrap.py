"""Parts as named composites, and back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger.errors import GraphError, TypeMismatchError
from tests.transform.surgery.conftest import Case


def test_a_module_as_one_composite_and_back(resnet: Case, vit: Case, gpt2: Case) -> None:
    for case, path in ((resnet, "layers.0"), (vit, "blocks.1.attn"), (gpt2, "transformer.h.0")):
        wrapped = case.dag.wrap(path, "part")
        assert td.op_counts(wrapped.values)["part"] == 1
        assert len(wrapped.values) < len(case.dag.values)
        case.assert_like(wrapped, case.module)
        assert list(wrapped.state) == list(case.dag.state)
        assert wrapped.graph.total_flops() == case.dag.graph.total_flops()
        back = wrapped.unwrap("part")
        assert back.graph == case.dag.graph
        assert {v: o.module for v, o in back.origins.items()} == {
            v: o.module for v, o in case.dag.origins.items() if v in set(case.dag.values)
        }


def test_blocks_of_one_kind_are_one_op() -> None:
    dag = td.network(lambda x: td.exp(td.sin(td.exp(td.sin(x)))), {"x": (3,)})
    a, b, c, d = dag.values[1:]
    twice = dag.wrap([c, d], "wave").wrap([a, b], "wave")
    first, second = twice.values[1:]
    assert first.op is second.op
    assert twice.graph.total_flops() == dag.graph.total_flops()
    np.testing.assert_allclose(twice.run(np.ones(3, "f")), dag.run(np.ones(3, "f")))
    assert twice.unwrap().graph == dag.graph
    assert "wave(x)" in str(twice)


def test_in_others(resnet: Case) -> None:
    """A block of blocks, and its axes, costs and sizes."""
    dag = resnet.dag.wrap("layers.0", "inner")
    outer = dag.wrap([v for v in dag.values if v.op.name in ("block", "relu")][:2], "outer")
    resnet.assert_like(outer, resnet.module)
    assert outer.unwrap("outer").graph == dag.graph
    bigger = outer.resize(b=4, assume=True)
    assert td.op_counts(bigger.values)["outer"] == 1
    assert bigger.unwrap("outer").unwrap("inner").graph == resnet.dag.resize(b=4, assume=True).graph
    x = np.concatenate([resnet.args[0].numpy()] * 2)
    np.testing.assert_allclose(bigger.run(x)[:2], resnet.outputs(resnet.module).numpy(), rtol=1e-4, atol=1e-4)
    single = outer.unbatch("b")
    np.testing.assert_allclose(single.run(x[0]), bigger.run(x)[0], rtol=1e-4, atol=1e-4)
    assert pickle.loads(pickle.dumps(outer)).graph == outer.graph
    assert outer.cost().macs == resnet.dag.cost().macs


def test_several_results() -> None:
    dag = td.network(lambda x: (td.exp(x), td.sin(td.neg(x))), {"x": (3,)})
    wrapped = dag.wrap([td.exp, td.neg], "both")
    a, b = wrapped.run(np.ones(3, "f"))
    np.testing.assert_allclose((a, b), dag.run(np.ones(3, "f")))
    assert wrapped.unwrap("both").graph == dag.graph
    y = wrapped.to_torch()(torch.ones(3))
    np.testing.assert_allclose(y[1].numpy(), b, rtol=1e-6)


def test_cycles_are_refused_with_what_is_between(resnet: Case) -> None:
    dag = td.network(lambda x: td.exp(td.sin(td.neg(x))), {"x": (3,)})
    with pytest.raises(
        GraphError, match=r"'bad' would be a cycle: <sin.*which isn't in it, is made of <neg.*goes into <exp"
    ):
        dag.wrap([td.exp, td.neg], "bad")
    with pytest.raises(GraphError, match="did you mean"):
        resnet.dag.wrap("layerz.0")
    with pytest.raises(GraphError, match="is a core op"):
        dag.unwrap("exp")


def test_blocks_take_their_types() -> None:
    x = td.input("x", (3,))
    graph = td.Graph({"x": x}, {"y": td.exp(x)})
    with pytest.raises(TypeMismatchError, match="takes"):
        td.block(td.input("y", (4,)), title="e", graph=graph)
