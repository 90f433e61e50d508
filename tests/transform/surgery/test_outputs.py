"""Outputs added and removed, parts taken out, networks split and joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import GraphError, TypeMismatchError
from tests.networks import NETWORKS
from tests.transform.surgery.conftest import Block, Case, ResNet, random, seeded


def _hooked(case: Case, *paths: str) -> dict[str, torch.Tensor]:
    """What modules give, by torch's hooks."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        case.module.get_submodule(p).register_forward_hook(lambda m, a, y, p=p: found.__setitem__(p, y)) for p in paths
    ]
    case.outputs(case.module)
    for handle in handles:
        handle.remove()
    return found


# --- outputs -----------------------------------------------------------------------------------------------


def test_tapped_by_module_path(resnet: Case, vit: Case, gpt2: Case) -> None:
    for case, paths in ((resnet, ["layers.0", "stem"]), (vit, ["blocks.0.attn"]), (gpt2, ["transformer.h.1.mlp"])):
        dag = case.dag.with_outputs(*paths)
        y, taps = case.outputs(dag.to_torch())
        torch.testing.assert_close(y, case.outputs(case.module))
        want = _hooked(case, *paths)
        assert list(taps) == paths
        for path in paths:
            torch.testing.assert_close(taps[path], want[path], rtol=1e-5, atol=1e-5)
        assert list(dag.state) == list(case.dag.state)


def test_a_cache_that_is_returned_comes_after_what_a_layer_gives() -> None:
    network = NETWORKS["LlamaForCausalLM"](small=True)
    dag = td.from_torch(network.module, network.args, network.kwargs)
    found: list[torch.Tensor] = []
    layer = network.module.get_submodule("model.layers.0")
    handle = layer.register_forward_hook(lambda m, a, y: found.append(y[0] if isinstance(y, tuple) else y))
    with torch.no_grad():
        network.module(*network.args, **network.kwargs)
        handle.remove()
        y, taps = dag.with_outputs("model.layers.0").to_torch()(*network.args, **network.kwargs)
    torch.testing.assert_close(taps["model.layers.0"], found[0], rtol=1e-5, atol=1e-5)
    assert type(y).__name__ == "CausalLMOutputWithPast"


def test_taps_gather_in_one_dict(resnet: Case) -> None:
    dag = resnet.dag.with_outputs("stem").with_outputs(td.relu, first="layers.0")
    y, taps = dag.run(resnet.args[0].numpy())
    assert list(taps) == ["stem", "first", "act", "layers.0.act1", "layers.1.act1", "layers.1.act2"]
    assert y.shape == (2, 10)
    want = _hooked(resnet, "layers.0", "layers.1.act1")
    np.testing.assert_allclose(taps["first"], want["layers.0"].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(taps["layers.1.act1"], want["layers.1.act1"].numpy(), rtol=1e-4, atol=1e-5)
    assert dag.without_outputs(*taps).graph == resnet.dag.graph
    assert dag.without_outputs(*taps).signature == resnet.dag.signature


def test_tapped_by_value_name_and_predicate(resnet: Case) -> None:
    value = resnet.dag["layers.0.bn1"].values[0]
    for what in (value, lambda v: v.op.name == "batch_norm" and resnet.dag.origins[v].module == "layers.0.bn1"):
        assert list(resnet.dag.with_outputs(what).graph.outputs.values())[1:] == [value]
    text = str(resnet.dag).splitlines()
    line = next(t for t in text if "batch_norm" in t)
    name = next(w for w in line.split() if w.startswith("%"))
    assert list(resnet.dag.with_outputs(name).graph.outputs.values())[1] is value
    assert list(resnet.dag.with_outputs(norm=value).graph.outputs) == ["out", "norm"]
    with pytest.raises(GraphError, match=r"no module, input or output 'layer\.0'; did you mean layers\.0"):
        resnet.dag.with_outputs("layer.0")


def test_outputs_removed(recurrent: Case) -> None:
    y, h = recurrent.outputs(recurrent.module)
    only = recurrent.dag.without_outputs("1")
    torch.testing.assert_close(only.to_torch()(*recurrent.args), y)
    state = recurrent.dag.without_outputs("0")
    torch.testing.assert_close(state.to_torch()(*recurrent.args), h)
    assert "head.weight" not in state.state
    assert "head.weight" not in state.weights
    with pytest.raises(GraphError, match=r"has no output '2'; there are 0, 1"):
        recurrent.dag.without_outputs("2")
    with pytest.raises(GraphError, match="at least one output stays"):
        recurrent.dag.without_outputs("0", "1")


def test_results_that_nest() -> None:
    dag = td.network(lambda x: {"a": (x + 1.0, x * 2.0), "b": [x]}, {"x": (2,)})
    x = np.ones(2, "f")
    assert list(dag.graph.outputs) == ["out.a.0", "out.a.1", "out.b.0"]
    left = dag.without_outputs("out.a.0").run(x)
    assert list(left) == ["a", "b"]
    assert left["a"].tolist() == [2, 2]
    assert list(dag.without_outputs("out.b.0").run(x)) == ["a"]


# --- parts -------------------------------------------------------------------------------------------------


def test_a_part_with_only_its_weights(resnet: Case) -> None:
    part = resnet.dag.extract("layers.0", "fc")
    x = _hooked(resnet, "layers.0")["layers.0"]
    torch.testing.assert_close(part.to_torch()(x), resnet.outputs(resnet.module), rtol=1e-5, atol=1e-5)
    assert {n.split(".")[0] for n in part.state} == {"layers", "fc"}
    assert not any("layers.0" in n for n in part.state)
    assert list(part.state) == [n for n in resnet.dag.state if n.startswith(("layers.1", "fc"))]
    assert list(part.weights) == list(part.state)
    assert list(part.graph.inputs) == ["layers.0"]
    assert "layers.0" not in part.modules
    assert "layers.1" in part.modules
    assert part.source is None
    assert part.origins[part["fc"].values[-1]].module == "fc"
    assert part.axes().show(part.graph.inputs["layers.0"]).startswith("f32[b c")


def test_a_feature_extractor(vit: Case) -> None:
    part = vit.dag.extract(outputs=["blocks.0", "norm"])
    a, b = part.to_torch()(*vit.args)
    want = _hooked(vit, "blocks.0", "norm")
    torch.testing.assert_close(a, want["blocks.0"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(b, want["norm"], rtol=1e-5, atol=1e-5)
    assert "head.weight" not in part.state


def test_a_part_in_training_keeps_its_updates() -> None:
    dag = td.from_torch(seeded(ResNet).train(), random(2, 3, 8, 8))
    part = dag.extract("stem", "layers.0")
    assert set(part.graph.updates) == {
        f"layers.0.bn1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    module = part.to_torch()
    module(random(2, 8, 4, 4)).sum().backward()
    assert int(module.state_dict()["layers.0.bn1.num_batches_tracked"]) == 1


def test_parts_that_can_not_be(resnet: Case) -> None:
    with pytest.raises(GraphError, match=r"nothing of layers\.0 depends on .*layers\.1.*can't be an input"):
        resnet.dag.extract("layers.1", "layers.0")
    two = td.network(lambda x, y: td.exp(x) + td.sin(y), {"x": (2,), "y": (2,)})
    with pytest.raises(GraphError, match=r"input 'y' is still needed by <sin"):
        two.extract(td.exp, "out")
    assert list(two.extract([td.exp, "y"], "out").graph.inputs) == ["exp", "y"]


# --- split and joined --------------------------------------------------------------------------------------


def test_split_composes_to_the_original(resnet: Case, vit: Case, gpt2: Case, recurrent: Case) -> None:
    for case, at in (
        (resnet, "layers.0"),
        (vit, "blocks.0"),
        (gpt2, "transformer.h.0"),
        (recurrent, [lambda v: v.op.name == "item"]),
    ):
        first, second = case.dag.split(at)
        whole = first >> second
        assert whole.graph == case.dag.graph
        assert set(whole.state) == {n for n in case.dag.state if n in whole.state}
        torch.testing.assert_close(case.outputs(whole.to_torch()), case.outputs(case.module), rtol=1e-5, atol=1e-5)
        middle = case.outputs(first.to_torch())
        middle = middle if isinstance(middle, tuple) else (middle,)
        with torch.no_grad():
            torch.testing.assert_close(second.to_torch()(*middle), case.outputs(case.module), rtol=1e-5, atol=1e-5)


def test_split_in_training() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Dropout(0.5))
    dag = td.from_torch(seeded(lambda: module).train(), random(3, 4))
    first, second = dag.split("2")
    assert list(first.graph.updates)
    assert not second.graph.updates
    assert (first >> second).graph == dag.graph
    assert "seed" in first.graph.inputs
    assert "seed" in second.graph.inputs


def test_what_passes_a_split_is_named(resnet: Case) -> None:
    with pytest.raises(
        GraphError, match=r"layers\.0\.conv2 does not split ResNet.*still come from input 'x' by <convolution"
    ):
        resnet.dag.split("layers.0.conv2")
    first, second = resnet.dag.split("layers.0.conv2", "act")
    assert list(second.graph.inputs) == ["layers.0.conv2", "act"]
    assert (first >> second).graph == resnet.dag.graph


def test_one_after_the_other() -> None:
    body = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Block(4)))
    head = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    x = random(2, 3, 4, 4)
    a = td.from_torch(body, x)
    b = td.from_torch(head, torch.zeros(2, 4, 4, 4)).rename({"": "head"})
    whole = a >> b
    with torch.no_grad():
        torch.testing.assert_close(whole.to_torch()(x), head(body(x)))
    assert list(whole.state) == [*a.state, "head.1.weight", "head.1.bias"]
    assert whole["head.1"].op_counts == {"linear": 1}
    assert next(iter(whole.unbatch("b").graph.outputs.values())).shape == (5,)


def test_joins_that_do_not_fit(resnet: Case) -> None:
    a = td.from_torch(nn.Linear(4, 4), random(2, 4))
    with pytest.raises(TypeMismatchError, match=r"ResNet gives 'out': .*\(fc.*Linear takes '.*' as f32\[2 4\]"):
        _ = resnet.dag >> a
    with pytest.raises(GraphError, match=r"both have a weight 'weight', and it isn't the same: rename"):
        _ = a >> td.from_torch(nn.Linear(4, 4), random(2, 4))
    assert len((a >> a).state) == 2  # the same weights twice
    with pytest.raises(GraphError, match="gives 1 tensors"):
        _ = a >> td.network(td.add, {"x": (2, 4), "y": (2, 4)})


def test_side_by_side() -> None:
    one, two = seeded(lambda: nn.Linear(4, 3)), seeded(lambda: nn.Linear(4, 2))
    x, y = random(2, 4), random(2, 4, seed=2)
    a, b = (td.from_torch(m, x).rename({"": n}) for m, n in ((one, "one"), (two, "two")))
    both = a.beside(b)
    with torch.no_grad():
        p, q = both.to_torch()(x, y)
        torch.testing.assert_close((p, q), (one(x), two(y)))
        p, q = a.beside(b, share=True).to_torch()(x)
        torch.testing.assert_close((p, q), (one(x), two(x)))
    assert len(both.graph.inputs) == 2
    assert len(a.beside(b, share=True).graph.inputs) == 1
    with pytest.raises(TypeMismatchError, match="only what both take alike can be shared"):
        a.beside(td.from_torch(nn.ReLU(), random(5)), share=True)


def test_two_in_training_draw_other_numbers() -> None:
    def dropped(name: str) -> td.TensorDAG:
        return td.from_torch(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), random(2, 4)).rename({"": name})

    a, b = dropped("a"), dropped("b")
    for joined in (a >> b, a.beside(b, share=True)):
        numbers = [v.op.attributes["number"] for v in joined.values if v.op.name == "stream"]
        assert len(numbers) == len(set(numbers)) == 2
        assert [n for n in joined.graph.inputs if n.startswith("seed")] == ["seed"]
        joined.to_torch()(random(2, 4), seed=1)


def test_what_is_no_network_is_not_joined() -> None:
    dag = td.network(lambda x: td.exp(x), {"x": (2,)})
    other: object = nn.ReLU()
    for join in (dag.__rshift__, dag.beside):
        with pytest.raises(GraphError, match=r"can be joined with a TensorDAG, got ReLU; td.from_torch"):
            join(other)  # type: ignore[arg-type]
