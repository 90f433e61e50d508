"""Huge networks from their configurations: whole texts and single steps, counted against closed forms by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers

import tdagger as td
from tdagger.errors import AttributeValueError, SourceError, UnsupportedError
from tdagger.frameworks.source import Options, load
from tdagger.types import DType
from tests.quick import in_turn

transformers.logging.set_verbosity_error()


def llama(layers: int, **more: Any) -> Any:
    """Llama-3-70B, or some of its layers."""
    return transformers.LlamaConfig(
        hidden_size=8192, num_hidden_layers=layers, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=28672, vocab_size=128256, max_position_embeddings=8192, **more,
    )  # fmt: skip


def llama_contractions(layers: int, new: int, past: int = 0) -> int:
    """q and o, k and v, three of the feed-forward; each query with each key, twice; the head."""
    weights = layers * 8192 * (2 * 8192 + 2 * 8 * 128 + 3 * 28672) + 8192 * 128256
    return 2 * new * (weights + layers * 2 * 64 * 128 * (past + new))


def deepseek(layers: int, **more: Any) -> Any:
    """DeepSeek-V3 (the defaults are its published sizes), or some of its layers."""
    return transformers.DeepseekV3Config(num_hidden_layers=layers, **more)


def deepseek_contractions(layers: int, new: int, past: int = 0) -> int:
    """Keys and values of all tokens are made anew of 512 numbers each; 8 of 256 experts and a shared one."""
    hidden, heads, dense = 7168, 128, 3
    down = hidden * (1536 + 512 + 64)
    up = 1536 * heads * (128 + 64)
    out = heads * 128 * hidden
    keys = 512 * heads * (128 + 128)
    attention = heads * (128 + 64) + heads * 128
    experts = hidden * 256 + (8 + 1) * 3 * hidden * 2048
    each = new * (down + up + out) + (past + new) * keys + new * (past + new) * attention
    forward = dense * 3 * hidden * 18432 + (layers - dense) * experts
    return 2 * (layers * each + new * forward + new * hidden * 129280)


def parameters(dag: td.TensorDAG) -> int:
    return sum(v.type.size for v in dag.graph.parameters.values())


# --- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("new", "past"), [(2048, 0), (1, 4096), (4, 100)])
def test_dense(new: int, past: int) -> None:
    dag = td.from_transformers(llama(2), seq=new, past=past)
    cost = dag.cost()
    assert cost.contraction_flops == llama_contractions(2, new, past)
    assert not cost.is_partial


@pytest.mark.parametrize(("tokens", "experts"), in_turn(2, [(2048, 0), (1, 4096)], ["grouped_mm", "batched_mm"]))
def test_experts(tokens: tuple[int, int], experts: str) -> None:
    new, past = tokens
    dag = td.from_transformers(deepseek(5), seq=new, past=past, experts_implementation=experts)
    # batched_mm weights the results of the 8 experts and adds them up in one go, which is a contraction
    weighting = 0 if experts == "grouped_mm" else 2 * 2 * new * 8 * 7168
    assert dag.cost().contraction_flops == deepseek_contractions(5, new, past) + weighting


@pytest.mark.slow
def test_llama_70b() -> None:
    dag = td.from_transformers(llama(80), seq=2048)
    assert parameters(dag) == 70_553_706_496
    assert dag.cost().contraction_flops == llama_contractions(80, 2048) == 295_674_138_591_232


@pytest.mark.slow
@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm"])
def test_deepseek_v3(experts: str) -> None:
    dag = td.from_transformers(deepseek(61), seq=2048, experts_implementation=experts)
    assert parameters(dag) == 671_026_404_352
    exact = 170_973_789_683_712
    assert deepseek_contractions(61, 2048) == exact
    assert dag.cost().contraction_flops == pytest.approx(exact, rel=1e-4)


@pytest.mark.slow
def test_memory_and_time() -> None:
    """All in all, in a process of its own: less than 1 GB, and 15 seconds of processor time."""
    code = (
        "import resource, time, transformers, tdagger as td;"
        "c = transformers.LlamaConfig(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64,"
        "num_key_value_heads=8, intermediate_size=28672, vocab_size=128256);"
        "print(td.from_transformers(c, seq=2048).cost().contraction_flops, time.process_time(),"
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    flops, seconds, kilobytes = done.stdout.split()
    assert int(flops) == 295_674_138_591_232
    assert int(kilobytes) < 1e6
    assert float(seconds) < 15


# --- one step after others ---------------------------------------------------------------------------------


def test_keys_and_values_are_inputs() -> None:
    dag = td.from_transformers(llama(2), past=100)
    names = [f"past_key_values.{i}.{which}" for i in (0, 1) for which in ("keys", "values")]
    assert list(dag.graph.inputs) == ["input_ids", *names, "position_ids"]
    assert list(dag.graph.outputs) == ["logits", *names]
    assert {dag.graph.inputs[n].type.shape for n in names} == {(1, 8, 100, 128)}
    assert {dag.graph.outputs[n].type.shape for n in names} == {(1, 8, 101, 128)}
    assert dag.axes().shape(dag.graph.outputs[names[0]]) == "b h (past + s) (d d2)"


_SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 99,
}

#: Configurations, and the axis in which the past can grow.
_ONE = {**_SMALL, "num_hidden_layers": 1}
STEPS: list[tuple[str, dict[str, Any], str]] = [
    ("LlamaConfig", {**_ONE, "num_key_value_heads": 2}, "past"),
    ("Qwen2Config", {**_ONE, "num_key_value_heads": 2}, "past"),
    ("Qwen3MoeConfig", {**_ONE, "num_key_value_heads": 2, "num_experts": 8, "moe_intermediate_size": 32}, "past"),
    ("MixtralConfig", {**_ONE, "num_key_value_heads": 2}, "past"),
    ("MistralConfig", {**_ONE, "num_key_value_heads": 2, "sliding_window": 4096}, "window"),
    ("PhiConfig", _ONE, "past"),
    ("GPTNeoXConfig", _ONE, "past"),
    ("FalconConfig", {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 99}, "past"),
    ("GPT2Config", {"n_layer": 1, "n_embd": 64, "n_head": 4, "vocab_size": 99}, "past"),
    ("T5Config", {"num_layers": 1, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4, "vocab_size": 99}, "past"),
]


#: Of these each has something that the others haven't: grouped queries, experts, a window, an encoder.
ALWAYS = ("LlamaConfig", "Qwen3MoeConfig", "MistralConfig", "T5Config")


@pytest.mark.parametrize(
    ("kind", "settings", "axis"),
    [pytest.param(*s, marks=() if s[0] in ALWAYS else pytest.mark.slow) for s in STEPS],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_formula_in_the_past(kind: str, settings: dict[str, Any], axis: str) -> None:
    """The formula of one length is right at another, for which the network is imported anew."""
    config = getattr(transformers, kind)(**settings)
    formula = td.from_transformers(config, past=40).cost_formula("flops")
    longer = td.from_transformers(config, past=77)
    assert formula(**{axis: 77}) == longer.graph.total_flops()


def test_layers_with_a_window_keep_the_last_tokens() -> None:
    config = transformers.Gemma3TextConfig(**_SMALL, head_dim=16, num_key_value_heads=2, sliding_window=12,
                                           layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    dag = td.from_transformers(config, past=40)
    assert [v.shape[2] for n, v in dag.graph.inputs.items() if n.endswith("keys")] == [11, 40]
    assert {"window", "past"} <= set(dag.cost_formula("flops").names)


def test_encoder_and_decoder() -> None:
    config = transformers.WhisperConfig(d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
                                        decoder_attention_heads=4, vocab_size=99)  # fmt: skip
    config.pad_token_id = config.bos_token_id = config.eos_token_id = config.decoder_start_token_id = 0
    dag = td.from_transformers(config, past=12)
    cached = {n.removeprefix("past_key_values."): v.shape[2] for n, v in dag.graph.inputs.items() if "values." in n}
    assert cached == {
        "self_attention_cache.0.keys": 12, "self_attention_cache.0.values": 12,
        "cross_attention_cache.0.keys": 1500, "cross_attention_cache.0.values": 1500,
    }  # fmt: skip
    assert {"past", "source"} <= set(dag.axes().sizes)


def test_a_model_that_is_there() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SMALL)).eval()
    dag = td.from_transformers(model, batch=2, past=5)
    inputs: Any = dag.signature.inputs.unflatten([v.type for v in dag.graph.inputs.values()])
    assert dag.graph.inputs["past_key_values.1.values"].type.shape == (2, 4, 5, 16)
    assert dag.graph.parameters["model.norm.weight"].dtype is DType.of("f32")
    assert type(inputs[1]["past_key_values"]).__name__ == "DynamicCache"


def test_by_source() -> None:
    settings = {**_SMALL, "num_key_value_heads": 2}
    source = load("transformers:LlamaForCausalLM", Options(settings, batch=3, dtype=DType.of("bf16"), past=9, seq=2))
    dag = source.dag()
    assert dag.graph.inputs["input_ids"].type.shape == (3, 2)
    assert str(dag.graph.inputs["past_key_values.0.keys"].type) == "bf16[3 2 9 16]"
    inputs = source.random_inputs(0)
    source.run(inputs)
    whole = load("transformers:LlamaForCausalLM", Options(settings, seq=33, meta=True)).dag()
    assert whole.graph.inputs["input_ids"].type.shape == (1, 33)


# --- what can't be -----------------------------------------------------------------------------------------


def test_experts_that_data_picks() -> None:
    config = transformers.MixtralConfig(**_SMALL, num_key_value_heads=2)
    with pytest.raises(
        UnsupportedError, match=r"experts_implementation is 'eager', a loop over those that the data"
    ) as e:
        td.from_transformers(config, seq=8, experts_implementation="eager")
    assert "set_experts_implementation('grouped_mm')" in str(e.value)


def test_errors() -> None:
    vision = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(SourceError, match=r"ViTModel keeps nothing of past tokens: it takes "):
        td.from_transformers(vision, past=3)
    with pytest.raises(SourceError, match=r"ViTModel takes no tokens, so none can be counted: pixel_values"):
        td.from_transformers(vision, seq=3)
    with pytest.raises(SourceError, match=r"transformers has no model for a "):
        td.from_transformers(transformers.PreTrainedConfig())
    with pytest.raises(AttributeValueError, match="experts_implementation: settings build a model"):
        td.from_transformers(torch.nn.Linear(2, 2), experts_implementation="eager")
    with pytest.raises(SourceError, match="timm:resnet18: --seq and --past are for transformers:CLASS"):
        load("timm:resnet18", Options(past=3))
