"""Every pass on thirty networks: same outputs, same names of weights, nothing more to do the second time."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger import passes
from tdagger.graph import result_types
from tdagger.interpret import run
from tdagger.op import Array
from tdagger.transform.passes.pipeline import difference, random_inputs
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

Pass = Callable[[td.TensorDAG], td.TensorDAG]


def _to_rank(limit: int) -> Pass:
    def to_rank(dag: td.TensorDAG) -> td.TensorDAG:
        new = passes.to_rank(dag, limit)
        assert max(t.rank for v in new.graph.values for t in result_types(v)) <= limit
        return new

    return to_rank


def _outline(dag: td.TensorDAG) -> td.TensorDAG:
    new, told = passes.outline(dag, report=True)
    assert (new.unwrap() if told else new).graph == dag.graph
    return new


def _decompose(dag: td.TensorDAG) -> td.TensorDAG:
    there = td.op_counts(dag.values)
    names = [n for n in ("layer_norm", "batch_norm", "gelu", "silu", "softmax", "relu", "rms_norm") if n in there]
    return passes.decompose(dag, *names) if names else dag


EVERY: dict[str, Pass] = {
    **{p.__name__: p for p in dict.fromkeys(passes.DEFAULT)},
    "optimized": passes.optimized,
    "sink_transposes": passes.sink_transposes,
    "decompose": _decompose,
    "freeze": passes.freeze,
    "outline": _outline,
    "to_rank(4)": _to_rank(4),
    "to_rank(5)": _to_rank(5),
    "channels_last": passes.channels_last,
    "channels_first": passes.channels_first,
}
#: What gives the same numbers to the bit: the same functions on the same entries.
EXACT = {"simplify", "drop_unused_results", "freeze", "outline", "to_rank(4)", "to_rank(5)"}


SAME_STATE = {"simplify", "outline", "to_rank(4)", "to_rank(5)", "channels_last", "channels_first", "sink_transposes"}


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


def outputs(dag: td.TensorDAG, inputs: dict[str, Array]) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        out, updates = run(dag.graph, inputs, dag.weights)
    return {**out, **updates}


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in (*TIMM, *OTHERS)])
def test_every_pass(name: str) -> None:
    dag = imported(name)
    inputs = random_inputs(dag.graph)
    before = outputs(dag, inputs)
    wrong: list[str] = []
    for title, step in EVERY.items():
        new = step(dag)
        if new.graph == dag.graph:
            continue
        after = outputs(new, inputs)
        error = max((difference(before[n], after[n]) for n in before), default=0.0)
        if title not in EXACT and 1e-6 < error < 1e-5:  # rounding, if it is gone where numbers have more digits
            wide = passes.convert_dtype(dag, "f64", inputs=True)
            there = {n: a.astype(wide.graph.inputs[n].dtype.numpy) for n, a in inputs.items()}
            results = [outputs(d, there) for d in (wide, step(wide))]
            error = max(difference(results[0][n], results[1][n]) for n in before)
            error = 0.0 if error < 1e-13 else error
        if error > (0.0 if title in EXACT else 1e-6):
            wrong.append(f"{title}: error {error:.1e}")
        if step(new).graph != new.graph:
            wrong.append(f"{title}: not idempotent")
        kept = {n: v.type for n, v in {**new.graph.parameters, **new.graph.buffers}.items() if n in dag.state}
        if any(dag.state[n].type is not t for n, t in kept.items()):
            wrong.append(f"{title}: a weight has another type under its name")
        if title in SAME_STATE and [*new.state] != [*dag.state]:
            wrong.append(f"{title}: other names in the state")
    assert not wrong, f"{name}: {'; '.join(wrong)}"


def test_there_are_thirty() -> None:
    assert len({*TIMM, *OTHERS}) == 30
    assert set(FEW) <= {*TIMM, *OTHERS}
