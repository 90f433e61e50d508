"""Ops and modules replaced, put in and taken out, compared with the same change in torch."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import GraphError, TypeMismatchError
from tests.transform.surgery.conftest import Block, Case, ResNet, random, seeded


def _swap(module: nn.Module, kind: type[nn.Module], new: Any) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, new(child) if isinstance(child, kind) else _swap(child, kind, new))
    return module


# --- ops ---------------------------------------------------------------------------------------------------


def test_every_relu_to_gelu(resnet: Case) -> None:
    new = resnet.dag.replace(td.relu, td.gelu)
    resnet.assert_like(new, _swap(resnet.edited, nn.ReLU, lambda _: nn.GELU()))
    assert td.op_counts(new.values)["gelu"] == 5
    assert list(new.state) == list(resnet.dag.state)
    assert new.source is None
    assert new.confirmed == frozenset()
    assert new.axes().show(new.graph.inputs["x"]) == "f32[b c h w]"
    gelu = next(v for v in new.values if v.op.name == "gelu")
    assert new.origins[gelu].module == "act"
    assert "activation.py" in new.origins[gelu].source
    assert [v.op.name for v in new["layers.0.act1"].values] == ["gelu"]


def test_by_name_class_predicate_value_and_within(resnet: Case) -> None:
    dag = resnet.dag
    relus = [v for v in dag.values if v.op.name == "relu"]
    assert dag.replace("relu", td.gelu).graph == dag.replace(td.relu, td.gelu).graph
    assert dag.replace(td.relu.op, td.gelu).graph == dag.replace(td.relu, td.gelu).graph
    assert dag.replace(lambda v: v.op.name == "relu", td.gelu).graph == dag.replace(td.relu, td.gelu).graph
    assert td.op_counts(dag.replace([relus[0], relus[1]], td.gelu).values)["gelu"] == 2
    assert td.op_counts(dag.replace("relu", td.gelu, within="layers.1").values)["gelu"] == 2
    exported = dag.replace("relu", td.gelu, within="layers.1")
    edited = resnet.edited
    _swap(edited.layers[1], nn.ReLU, lambda _: nn.GELU())
    resnet.assert_like(exported, edited)


def test_arguments_of_a_transformers_norms(vit: Case) -> None:
    new = vit.dag.replace(
        "layer_norm", lambda x, weight, bias, *, rank, eps: td.rms_norm(x, weight, rank=rank, eps=eps)
    )
    edited = vit.edited

    def norm(old: nn.LayerNorm) -> nn.RMSNorm:
        rms = nn.RMSNorm(old.normalized_shape, old.eps)
        rms.weight = old.weight
        return rms

    vit.assert_like(new, _swap(edited, nn.LayerNorm, norm))
    assert list(new.to_torch().state_dict()) == list(edited.state_dict())


def test_attributes_of_the_same_name_are_passed() -> None:
    dag = td.network(lambda x: td.softmax(x, axis=0), {"x": (3, 4)})
    new = dag.replace(td.softmax, td.log_softmax)
    x = random(3, 4).numpy()
    np.testing.assert_allclose(new.run(x), torch.log_softmax(torch.tensor(x), 0).numpy(), rtol=1e-5)
    seen = []

    def by(x: td.Value, *, axis: int) -> td.Value:
        seen.append(axis)
        return x

    dag.replace(td.softmax, by)
    assert seen == [0]


def test_optional_arguments_come_at_their_places() -> None:
    dag = td.network(
        lambda x, mean, var, bias: td.batch_norm(x, mean, var, None, bias), {"x": (2, 3)},
        buffers={"mean": np.zeros(3, "f"), "var": np.ones(3, "f")}, parameters={"bias": np.ones(3, "f")},
    )  # fmt: skip
    new = dag.replace(td.batch_norm, lambda x, mean, var, weight, bias: td.add(x, bias) if weight is None else x)
    assert list(new.state) == ["bias"]
    assert list(new.weights) == ["bias"]
    np.testing.assert_array_equal(new.run(np.zeros((2, 3), "f")), np.ones((2, 3), "f"))


def test_several_results() -> None:
    dag = td.network(lambda x: td.topk(x, k=2, axis=1), {"x": (3, 4)})
    new = dag.replace("topk", lambda x, *, k: (td.slice_axis(x, 1, 0, k), td.cast(td.slice_axis(x, 1, 0, k), "i64")))
    a, b = new.run(np.arange(12, dtype="f").reshape(3, 4))
    assert a.tolist() == b.tolist() == [[0, 1], [4, 5], [8, 9]]
    with pytest.raises(GraphError, match="has 2 results, what is to stand for it has 1"):
        dag.replace("topk", lambda x: x)


def test_inside_others() -> None:
    """Replaced ops that are arguments of replaced ops."""
    dag = td.network(lambda x: td.relu(td.neg(td.relu(x))), {"x": (3,)})
    assert td.op_counts(dag.replace("relu", td.gelu).values) == {"input": 1, "gelu": 2, "neg": 1}


def test_nothing_meant_is_refused_with_near_names(resnet: Case) -> None:
    with pytest.raises(GraphError, match=r"ResNet has no gelu; .*relu"):
        resnet.dag.replace(td.gelu, td.relu)
    with pytest.raises(GraphError, match="no op called 'reluu'; did you mean relu"):
        resnet.dag.replace("reluu", td.gelu)
    with pytest.raises(GraphError, match=r"has no relu in layers\.7"):
        resnet.dag.replace("relu", td.gelu, within="layers.7")
    with pytest.raises(GraphError, match="a predicate of values gives True or False"):
        resnet.dag.replace(lambda v: v, td.gelu)


def test_other_types_are_refused_with_both_places(resnet: Case) -> None:
    with pytest.raises(TypeMismatchError) as e:
        resnet.dag.replace("relu", lambda x: td.slice_axis(x, 1, 0, 4), within="layers.0.act1")
    told = str(e.value)
    assert "convolution" in told
    assert "layers.0.conv2" in told
    assert "layers.0.act1" in told
    assert "was f32[2 8 4 4] and is f32[2 4 4 4]" in told


def test_a_changed_network_says_nothing_of_its_source(resnet: Case) -> None:
    new = resnet.dag.replace("relu", td.gelu)
    assert resnet.dag.source is not None
    assert new.resize(b=3).graph.inputs["x"].shape == (3, 3, 8, 8)


def test_removed(vit: Case) -> None:
    dag = td.network(lambda x: td.exp(td.dropout(x, p=0.5)), {"x": (3,)})
    assert dag.remove(td.dropout).graph == td.Graph(
        {"x": dag.graph.inputs["x"]}, {"out": td.exp(dag.graph.inputs["x"])}
    )
    with pytest.raises(GraphError, match="can't be left out: 2 of its arguments"):
        td.network(lambda x: td.exp(x) + td.sin(x), {"x": (3,)}).remove("add")
    edited = vit.edited
    _swap(edited, nn.GELU, lambda _: nn.Identity())
    vit.assert_like(vit.dag.remove("gelu"), edited)


# --- put in ------------------------------------------------------------------------------------------------


def _with_norms(case: Case) -> nn.Module:
    edited = case.edited
    edited.stem = nn.Sequential(edited.stem, nn.BatchNorm2d(8).eval())
    for block in edited.layers:
        block.conv2 = nn.Sequential(block.conv2, nn.BatchNorm2d(8).eval())
    return edited


NAMES = [f"{p}_batch_norm.{n}" for p in ("stem", "layers.0.conv2", "layers.1.conv2")
         for n in ("weight", "bias", "running_mean", "running_var")]  # fmt: skip


def test_batch_norm_after_every_convolution_without_one(resnet: Case) -> None:
    new = resnet.dag.insert_after(td.convolution, td.layers.batch_norm, unless=td.batch_norm)
    resnet.assert_like(new, _with_norms(resnet))
    assert {n for n in new.state if n not in resnet.dag.state} == set(NAMES)
    assert td.op_counts(new.values)["batch_norm"] == 5
    again = new.insert_after(td.convolution, td.layers.batch_norm, unless=td.batch_norm)
    assert again.graph == new.graph
    x = resnet.args[0].numpy()
    np.testing.assert_allclose(new.run(x), resnet.outputs(_with_norms(resnet)).numpy(), rtol=1e-4, atol=1e-4)
    assert "stem_batch_norm" in new.modules
    assert [v.op.name for v in new["stem_batch_norm"].values] == ["batch_norm"]


def test_torch_modules_put_in(resnet: Case) -> None:
    new = resnet.dag.insert_after("convolution", lambda x: nn.BatchNorm2d(x.shape[1]), unless="batch_norm", name="bn")
    resnet.assert_like(new, _with_norms(resnet))
    added = [n for n in new.state if n not in resnet.dag.state]
    assert added[:5] == [f"layers.0.conv2_bn.{n}" for n in nn.BatchNorm2d(8).state_dict()]
    module = new.to_torch()
    assert list(module.state_dict()) == list(new.state)


def test_in_training_it_trains() -> None:
    module = seeded(ResNet).train()
    dag = td.from_torch(module, random(2, 3, 8, 8))
    new = dag.insert_after("convolution", lambda x: nn.BatchNorm2d(x.shape[1]), unless="batch_norm_train", name="bn")
    assert {n for n in new.graph.updates if n not in dag.graph.updates} == {
        f"{p}_bn.{n}" for p in ("stem", "layers.0.conv2", "layers.1.conv2")
        for n in ("running_mean", "running_var", "num_batches_tracked")
    }  # fmt: skip
    exported = new.to_torch()
    assert exported.training
    exported(random(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in exported.parameters())
    moved = exported.state_dict()["stem_bn.running_mean"]
    stem = module.stem(random(2, 3, 8, 8)).mean((0, 2, 3)).detach()
    torch.testing.assert_close(moved, 0.1 * stem, rtol=1e-4, atol=1e-5)


def test_dropout_put_into_training_draws_numbers_of_its_own() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 64))).train()
    dag = td.from_torch(module, random(2, 4))
    new = dag.insert_after("linear", lambda x: nn.Dropout(0.5))
    streams = [v.op.attributes["number"] for v in new.values if v.op.name == "stream"]
    assert len(streams) == len(set(streams)) == 3
    assert list(new.graph.inputs)[-1] == "seed"
    plain = td.from_torch(nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64)).train(), random(2, 4))
    seeded_now = plain.insert_after("linear", lambda x: nn.Dropout(0.5))
    out = seeded_now.run(np.zeros((2, 4), "f"), seed=np.uint64(3))
    assert out.shape == (2, 64)


def test_before_an_argument(vit: Case) -> None:
    new = vit.dag.insert_before("gelu", td.neg)
    edited = vit.edited
    for block in edited.blocks:
        fc = block.mlp.fc1
        with torch.no_grad():
            fc.weight.neg_()
            fc.bias.neg_()
    vit.assert_like(new, edited)


def test_one_module_at_two_places_is_refused(resnet: Case) -> None:
    with pytest.raises(GraphError, match="give a function that makes a new one"):
        resnet.dag.insert_after("convolution", nn.BatchNorm2d(8), unless="batch_norm")
    new = resnet.dag.insert_after("convolution", nn.BatchNorm2d(8), within="stem", name="bn")
    assert "stem_bn.weight" in new.state


def test_put_in_what_does_not_fit(resnet: Case) -> None:
    with pytest.raises(TypeMismatchError, match=r"takes \(x: f32\[2 3 4 4\]\).*would get .*convolution.*stem"):
        resnet.dag.insert_after("convolution", td.layers.batch_norm((2, 3, 4, 4)), within="stem")
    with pytest.raises(td.UnsupportedError, match="a BatchNorm2d can't be put where it gets"):
        resnet.dag.insert_after("convolution", lambda x: nn.BatchNorm2d(5), within="stem")


# --- modules -----------------------------------------------------------------------------------------------


def test_module_by_a_torch_module(resnet: Case) -> None:
    torch.manual_seed(3)
    new_block = seeded(lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh()))
    edited = resnet.edited
    edited.layers[0] = new_block
    new = resnet.dag.replace_module("layers.0", new_block)
    resnet.assert_like(new, edited)
    assert list(new.state) == list(edited.state_dict())
    assert list(new.weights) == list(new.state)
    assert new.modules["layers.0"] == "Sequential"
    assert new.modules["layers.0.0"] == "Conv2d"
    assert "layers.0.conv1" not in new.modules
    assert new.axes().opaque == []
    assert new["layers.0"].op_counts == {"convolution": 1, "tanh": 1}
    assert new.unbatch("b") is not None
    assert new.resize(b=5).graph.outputs["out"].shape == (5, 10)


def test_module_by_a_network_a_graph_and_a_function(resnet: Case) -> None:
    edited = resnet.edited
    edited.layers[1] = nn.Tanh()
    x = td.input("x", (2, 8, 4, 4))
    for by in (
        td.tanh,
        td.network(td.tanh, {"x": (2, 8, 4, 4)}),
        td.Graph({"x": x}, {"y": td.tanh(x)}),
        lambda x: td.tanh(x),
    ):
        new = resnet.dag.replace_module("layers.1", by)
        resnet.assert_like(new, edited)
        assert list(new.state) == list(edited.state_dict())


def test_module_in_a_transformer(vit: Case, gpt2: Case) -> None:
    edited = vit.edited
    edited.blocks[1].mlp = seeded(lambda: nn.Linear(192, 192))
    vit.assert_like(vit.dag.replace_module("blocks.1.mlp", edited.blocks[1].mlp), edited)
    edited = gpt2.edited
    edited.transformer.h[0].mlp = seeded(lambda: nn.Sequential(nn.Linear(32, 16), nn.SiLU(), nn.Linear(16, 32)))
    new = gpt2.dag.replace_module("transformer.h.0.mlp", edited.transformer.h[0].mlp)
    gpt2.assert_like(new, edited)
    assert list(new.to_torch().state_dict()) == list(edited.state_dict())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.fc(self.fc(self.act(x))))


def test_a_module_called_more_than_once_is_replaced_in_each_call() -> None:
    case = Case(seeded(Shared), (random(2, 4),))
    assert [len(o.calls) for v in case.dag.values if (o := case.dag.origins.get(v))] == [0, 0, 1, 1]
    edited = case.edited
    edited.fc = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)))
    new = case.dag.replace_module("fc", edited.fc)
    case.assert_like(new, edited)
    assert list(new.state) == list(edited.state_dict())


class Nested(nn.Module):
    """A module that is called twice, and calls another twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Shared()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.inner(x))


def test_calls_of_a_module_around_others() -> None:
    case = Case(seeded(Nested), (random(2, 4),))
    edited = case.edited
    edited.inner = seeded(lambda: nn.Linear(4, 4))
    case.assert_like(case.dag.replace_module("inner", edited.inner), edited)
    edited = case.edited
    edited.inner.fc = seeded(lambda: nn.Linear(4, 4, bias=False))
    case.assert_like(case.dag.replace_module("inner.fc", edited.inner.fc), edited)


def test_tied_weights_stay_where_they_are_used(gpt2: Case) -> None:
    """The embedding of GPT-2 is also its head's weight: a new embedding leaves the head what it was."""
    edited = gpt2.edited
    old = edited.lm_head.weight
    edited.transformer.wte = seeded(lambda: nn.Embedding(97, 32))
    assert edited.lm_head.weight is old
    new = gpt2.dag.replace_module("transformer.wte", edited.transformer.wte)
    gpt2.assert_like(new, edited)
    assert "lm_head.weight" in new.graph.parameters
    assert new.state["lm_head.weight"].alias_of == ""
    edited = gpt2.edited
    edited.lm_head = seeded(lambda: nn.Linear(32, 5))
    new = gpt2.dag.replace_module("lm_head", edited.lm_head)
    gpt2.assert_like(new, edited)


def test_unknown_paths_have_near_matches(resnet: Case) -> None:
    with pytest.raises(
        GraphError, match=r"nothing came from module 'layers\.0\.con1'; did you mean .*layers\.0\.conv1"
    ):
        resnet.dag.replace_module("layers.0.con1", nn.Identity())


class TwoInputs(nn.Module):
    class Mix(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - 2 * b

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fc = self.Mix(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.fc(self.mix(y, x))


def test_several_inputs_must_be_told() -> None:
    case = Case(seeded(TwoInputs), (random(2, 4), random(2, 4, seed=2)))
    with pytest.raises(GraphError, match=r"takes 2 values .*inputs=\[\.\.\.\]"):
        case.dag.replace_module("mix", td.add)
    new = case.dag.replace_module("mix", lambda a, b: a * 3.0 - b, inputs=["x", "y"])
    want = case.module.fc(case.args[0] * 3 - case.args[1])
    torch.testing.assert_close(new.to_torch()(*case.args), want)
    with pytest.raises(GraphError, match=r"would be a cycle: .*linear.*which it takes, is made of .*which it gives"):
        case.dag.replace_module("mix", td.add, inputs=["x", "fc"])


def test_modules_whose_types_do_not_fit(resnet: Case) -> None:
    with pytest.raises(
        TypeMismatchError, match=r"(?s)layers\.1\.conv1.*was f32\[2 8 4 4\] and is f32\[2 6 4 4\].*layers\.0"
    ):
        resnet.dag.replace_module("layers.0", nn.Conv2d(8, 6, 1))
    with pytest.raises(GraphError, match=r"gives 1 values .*what stands for it gives 2"):
        resnet.dag.replace_module("layers.0", lambda x: (x, x))
    with pytest.raises(GraphError, match="of which the state says nothing"):
        resnet.dag.replace_module("layers.0", lambda x: x + td.parameter("w", (2, 8, 4, 4)))


def test_updates_of_what_is_gone_are_gone() -> None:
    dag = td.from_torch(seeded(lambda: nn.Sequential(Block(4), Block(4))).train(), random(2, 4, 4, 4))
    new = dag.replace_module("0", nn.Identity())
    assert {n.partition(".")[0] for n in dag.graph.updates} == {"0", "1"}
    assert {n.partition(".")[0] for n in new.graph.updates} == {"1"}
    assert {n.partition(".")[0] for n in new.state} == {"1"}


def test_a_weight_twice_changed_in_training_is_refused() -> None:
    dag = td.from_torch(seeded(lambda: nn.Sequential(Shared(), nn.BatchNorm1d(4))).train(), random(3, 4))
    with pytest.raises(GraphError, match="stands at several calls of one module, and changes its buffer"):
        dag.replace_module("0.act", nn.BatchNorm1d(4).train())


def test_checks_pickles_and_axis_names_follow() -> None:
    class Checked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if (x > 5).any():
                raise ValueError("too large")
            return torch.relu(x)

    with pytest.warns(UserWarning, match="takes the checks as passed"):
        dag = td.from_torch(Checked(), random(2, 4), axes="batch feature")
    new = dag.replace("relu", td.gelu)
    assert new.axis_names == {"x": "batch feature"}
    with pytest.raises(ValueError, match="too large"):
        new.to_torch(checks=True)(torch.full((2, 4), 9.0))
    again = pickle.loads(pickle.dumps(td.from_torch(nn.Linear(4, 4), random(2, 4)).with_head(3)))
    assert again.run(np.zeros((2, 4), "f")).shape == (2, 3)


def test_linear_in_the_graph() -> None:
    """Names, origins and weights are looked up, not searched, for each of many changes."""

    def chain(x: td.Value) -> td.Value:
        for _ in range(2_000):
            x = td.exp(td.sin(x))
        return x

    dag = td.network(chain, {"x": (2,)})
    assert td.op_counts(dag.replace("sin", td.cos).values)["cos"] == 2_000
    normed = dag.insert_after("sin", lambda v: td.network(lambda x, w: x * w, {"x": (2,)}, {"w": np.ones(2, "f")}))
    assert len(normed.state) == len(normed.weights) == 2_000


@pytest.mark.parametrize(
    "change",
    [
        lambda dag: dag.insert_after("sin", lambda v: td.reshape(v, shape=(-1,))),
        lambda dag: dag.replace("matmul", lambda x, w: td.matmul(x, x)),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(change: Any) -> None:
    dag = td.network(lambda x, w: td.exp(td.matmul(td.sin(x), w)), {"x": (2, 3), "w": (3, 4)})
    with pytest.raises(
        TypeMismatchError, match=r"<matmul\(f32\[2 3\], f32\[3 4\]\) -> f32\[2 4\]>.*(f32\[6\]|f32\[2 3\])"
    ):
        change(dag)


def test_a_function_that_cannot_take_values_is_refused() -> None:
    dag = td.network(lambda x: td.relu(x), {"x": (2,)})
    with pytest.raises(
        td.GraphError, match=r"tanh can't be called on the values .*\(f32\[2\]\): .*must be Tensor.* give a"
    ):
        dag.replace("relu", torch.tanh)
    with pytest.raises(td.GraphError, match=r"can't be called .* missing 1 required positional argument: 'y'"):
        dag.replace("relu", lambda x, y: x)
    with pytest.raises(td.GraphError, match="can't be called"):
        dag.insert_after("relu", lambda: None)
