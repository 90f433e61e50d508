"""Every pass on thirty networks: same outputs, same names of weights, nothing more to do the second time."""

from __future__ import annotations

import warnings

import pytest
import torch

import tdagger as td
from conformance.passes import EVERY, by_numpy, examined
from tdagger.transform.passes.pipeline import random_inputs
from tests.networks import NETWORKS, perturb

#: timm's smallest of many families, at the smallest size they take; and others' from ``tests.networks``.
TIMM = dict.fromkeys((
    "resnet10t", "resnext26ts", "seresnext26ts", "skresnet18", "res2net50_14w_8s", "regnetx_002", "regnety_002",
    "mobilenetv2_050", "mobilenetv3_small_050", "mnasnet_small", "lcnet_050", "ghostnet_050", "tinynet_e", "rexnet_100",
    "dla34", "densenet121", "vovnet39a", "convnext_atto", "convnextv2_atto", "poolformer_s12", "mobilevit_xxs",
), 64) | {"deit_tiny_patch16_224": 224}  # fmt: skip
OTHERS = (
    *("swin_tiny_patch4_window7_224", "BertModel", "GPT2LMHeadModel", "LlamaForCausalLM", "T5EncoderModel"),
    *("WhisperEncoder", "CLIPModel", "MambaForCausalLM"),
)
#: Those of every run of the tests.
FEW = ("lcnet_050", "convnext_atto", "LlamaForCausalLM", "T5EncoderModel")


def imported(name: str) -> td.TensorDAG:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name not in TIMM:
            module, args, kwargs = NETWORKS[name](small=True, batch=2)
            return td.from_torch(module, args, kwargs)
        import timm

        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False)
        perturb(model)
        return td.from_torch(model.eval(), torch.randn(1, 3, TIMM[name], TIMM[name]))


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in (*TIMM, *OTHERS)])
def test_every_pass(name: str) -> None:
    dag = imported(name)
    inputs = random_inputs(dag.graph)
    found = {title: examined(dag, title, step, inputs, by_numpy) for title, step in EVERY.items()}
    wrong = [f"{title}: {why}" for title, e in found.items() for why in e.wrong]
    assert not wrong, f"{name}: {'; '.join(wrong)}"


def test_there_are_thirty() -> None:
    assert len({*TIMM, *OTHERS}) == 30
    assert set(FEW) <= {*TIMM, *OTHERS}
