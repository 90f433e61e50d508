"""Weights renamed, frozen, thawed, set and initialised; heads for other numbers of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import GraphError, TypeMismatchError
from tests.transform.surgery.conftest import Case, random, seeded


def test_renamed(resnet: Case) -> None:
    new = resnet.dag.rename({"layers": "stages", "layers.1": "last", "fc.bias": "fc.offset"})
    assert [n for n in new.state if not n.startswith(("stem", "fc"))][:2] == [
        "stages.0.conv1.weight",
        "stages.0.bn1.weight",
    ]
    assert "last.conv2.bias" in new.state
    assert "fc.offset" in new.state
    assert "fc.weight" in new.state
    assert new["last.conv2"].op_counts == {"convolution": 1}
    assert "stages.0.bn1" in new.modules
    resnet.assert_like(new, resnet.module)
    assert len(new.state) == len(resnet.dag.state)
    assert new.rename({"stages": "layers", "last": "layers.1", "fc.offset": "fc.bias"}).graph == resnet.dag.graph


def test_names_swapped_and_clashing(resnet: Case) -> None:
    new = resnet.dag.rename({"layers.0": "layers.1", "layers.1": "layers.0"})
    resnet.assert_like(new, resnet.module)
    with pytest.raises(GraphError, match=r"would both be 'layers\.1\.conv1\.weight'"):
        resnet.dag.rename({"layers.0": "layers.1"})
    with pytest.raises(GraphError, match="has nothing called 'layer' to rename; did you mean layers"):
        resnet.dag.rename({"layer": "x"})


def test_renamed_in_training_keeps_updates_and_ties(gpt2: Case) -> None:
    dag = td.from_torch(nn.Sequential(nn.BatchNorm1d(4)).train(), random(3, 4)).rename({"0": "norm"})
    assert set(dag.graph.updates) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    new = gpt2.dag.rename({"transformer": "body"})
    assert new.state["lm_head.weight"].alias_of == "body.wte.weight"
    gpt2.assert_like(new, gpt2.module)


def test_frozen_and_thawed(resnet: Case, gpt2: Case) -> None:
    frozen = resnet.dag.freeze("layers")
    module = frozen.to_torch()
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {
        "stem.weight",
        "stem.bias",
        "fc.weight",
        "fc.bias",
    }
    thawed = frozen.thaw("layers.1", "layers.0.conv1.weight").to_torch()
    assert {
        n.split(".")[1] for n, p in thawed.named_parameters() if n.startswith("layers") and not p.requires_grad
    } == {"0"}
    assert not any(p.requires_grad for p in resnet.dag.freeze().to_torch().parameters())
    biases = resnet.dag.freeze(lambda name: name.endswith("bias")).to_torch()
    assert all(p.requires_grad != n.endswith("bias") for n, p in biases.named_parameters())
    assert not gpt2.dag.freeze("lm_head").to_torch().transformer.wte.weight.requires_grad  # one tensor
    with pytest.raises(GraphError, match=r"no parameters 'layer1'; did you mean"):
        resnet.dag.freeze("layer1")
    assert frozen.source is resnet.dag.source


def test_set(resnet: Case) -> None:
    edited = resnet.edited
    with torch.no_grad():
        edited.fc.bias.fill_(2)
    new = resnet.dag.with_weights({"fc.bias": np.full(10, 2, "f")})
    resnet.assert_like(new, edited)
    with pytest.raises(TypeMismatchError, match=r"'fc\.bias' is f32\[10\], got float32\[3\]"):
        resnet.dag.with_weights({"fc.bias": np.zeros(3, "f")})
    with pytest.raises(GraphError, match=r"no weight 'fc\.biass'; did you mean fc\.bias"):
        resnet.dag.with_weights({"fc.biass": np.zeros(10, "f")})


def test_initialised(resnet: Case) -> None:
    new = resnet.dag.initialise()
    weights = new.weights
    assert np.abs(weights["fc.weight"]).max() <= 1 / np.sqrt(8)
    assert weights["fc.weight"].std() > 0.1
    assert np.abs(weights["fc.bias"]).max() <= 1 / np.sqrt(8)
    assert np.abs(weights["stem.weight"]).max() <= 1 / np.sqrt(27)
    assert weights["layers.0.bn1.weight"].tolist() == [1] * 8
    assert weights["layers.0.bn1.bias"].tolist() == [0] * 8
    torch.testing.assert_close(
        torch.tensor(weights["layers.0.bn1.running_var"]), resnet.module.layers[0].bn1.running_var
    )
    again = resnet.dag.initialise(seed=0).weights["fc.weight"]
    np.testing.assert_array_equal(again, weights["fc.weight"])
    assert (resnet.dag.initialise(seed=1).weights["fc.weight"] != again).any()
    assert resnet.dag.initialise("fc", how="zeros").weights["fc.weight"].sum() == 0
    std = resnet.dag.initialise("layers", how="kaiming").weights["layers.0.conv1.weight"].std()
    assert abs(std - np.sqrt(2 / 72)) < 0.02
    made = resnet.dag.initialise("fc.bias", how=lambda name, type_, random: np.arange(type_.size))
    assert made.weights["fc.bias"].tolist() == list(range(10))
    torch.testing.assert_close(
        resnet.outputs(new.to_torch()), torch.tensor(new.run(resnet.args[0].numpy())), rtol=1e-4, atol=1e-5
    )


def test_what_is_not_known_is_refused(vit: Case) -> None:
    with pytest.raises(GraphError, match=r"how torch starts 'cls_token', which .* takes, isn't known"):
        vit.dag.initialise("cls_token")
    with pytest.raises(GraphError, match="not as 'orthogonal'"):
        vit.dag.initialise("head", how="orthogonal")


@pytest.mark.parametrize("name", ["resnet", "vit", "recurrent"])
def test_head(name: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(name)
    new = case.dag.with_head(3)
    head = "fc" if name == "resnet" else "head"
    edited = case.edited
    old = edited.get_submodule(head)
    layer = nn.Linear(old.in_features, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(new.weights[f"{head}.weight"]))
        layer.bias.copy_(torch.tensor(new.weights[f"{head}.bias"]))
    setattr(edited, head, layer)
    case.assert_like(new, edited)
    assert list(new.state) == list(case.dag.state)
    assert new.state[f"{head}.weight"].type.shape == (3, old.in_features)
    exported = new.to_torch()
    out = exported(*case.args)
    (out if isinstance(out, torch.Tensor) else out[0]).sum().backward()
    assert all(p.grad is not None for p in exported.parameters())
    assert 0 < float(exported.state_dict()[f"{head}.bias"].abs().max()) <= old.in_features**-0.5


def test_tied_head_gets_weights_of_its_own(gpt2: Case) -> None:
    new = gpt2.dag.with_head(5)
    assert new.state["lm_head.weight"].alias_of == ""
    assert new.state["transformer.wte.weight"].type.shape == (97, 32)
    edited = gpt2.edited
    edited.lm_head = nn.Linear(32, 5, bias=False)
    with torch.no_grad():
        edited.lm_head.weight.copy_(torch.tensor(new.weights["lm_head.weight"]))
    gpt2.assert_like(new, edited)


def test_heads_that_are_not_there() -> None:
    dag = td.from_torch(seeded(lambda: nn.Sequential(nn.ReLU())), random(2, 4))
    with pytest.raises(GraphError, match="comes from no linear layer or convolution"):
        dag.with_head(3)
    with pytest.raises(TypeMismatchError, match="by what stands for <linear"):
        td.from_torch(seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))), random(2, 4)).with_head(3)
