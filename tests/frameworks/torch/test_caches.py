"""The caches of transformers: containers of tensors as results, and as arguments made again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    xLSTMConfig,
)
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache
from transformers.models.minimax.modeling_minimax import MiniMaxCache
from transformers.models.reformer.modeling_reformer import ReformerDynamicCache
from transformers.models.xlstm.modeling_xlstm import xLSTMCache

import tdagger as td
from tests.quick import only


def _dynamic(x: torch.Tensor) -> Any:
    cache = DynamicCache()
    cache.update(x, x + 1, 0)
    return cache


def _reformer(x: torch.Tensor) -> Any:
    cache = ReformerDynamicCache()
    cache.update(x.long(), x, 0)
    return cache


def _xlstm(x: torch.Tensor) -> Any:
    config = xLSTMConfig(hidden_size=8, num_heads=2, num_hidden_layers=1, qk_dim_factor=1.0, v_dim_factor=1.0)
    cache = xLSTMCache(config, 1)
    cache.rnn_state[0] = (x, x * 2)
    return cache


def _mimi(x: torch.Tensor) -> Any:
    cache = MimiConv1dPaddingCache(1, [1], ["constant"], [2])
    cache.update(x, 0)
    return cache


def _minimax(x: torch.Tensor) -> Any:
    cache = MiniMaxCache()
    cache.set_linear_cache(1, x)  # beside its layers, which there are none of; and nothing for the first
    return cache


class _Gives(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return x - 1, self.make(x * 3)


@pytest.mark.parametrize("make", [_dynamic, _reformer, _xlstm, _mimi, _minimax])
def test_a_cache_is_a_container(make: Any) -> None:
    x = torch.randn(1, 2, 4)
    back = td.from_torch(_Gives(make), x).to_torch()
    got, cache = back(x)
    assert torch.equal(got, x - 1)
    leaves = torch.utils._pytree.tree_leaves(cache)
    assert any(isinstance(t, torch.Tensor) and torch.equal(t.flatten()[-1:], x.flatten()[-1:] * 3) for t in leaves)


_LLAMA: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 50,
}  # fmt: skip


def _text(tokens: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, tokens), generator=torch.Generator().manual_seed(tokens))


def _same(model: Any, step: dict[str, Any]) -> td.TensorDAG:
    """The network of one step, compared with the model's own; both leave the cache they are given as it is."""
    dag = td.from_torch(model, (), copy.deepcopy(step))
    with torch.no_grad():
        wanted = model(**copy.deepcopy(step))
        got = dag.to_torch()(**copy.deepcopy(step))
    torch.testing.assert_close(got.logits, wanted.logits)
    return dag


@pytest.mark.parametrize(
    "kind", only(("all", "window", "longer than the window", "static"), "longer than the window", "static")
)
def test_a_cache_is_an_argument(kind: str) -> None:
    torch.manual_seed(0)
    if "window" in kind:
        window = 16 if kind == "window" else 5
        model: Any = MistralForCausalLM(MistralConfig(**_LLAMA, sliding_window=window)).eval()
    else:
        model = LlamaForCausalLM(LlamaConfig(**_LLAMA)).eval()
    cache = (
        StaticCache(config=model.config, max_cache_len=12) if kind == "static" else DynamicCache(config=model.config)
    )
    with torch.no_grad():
        model(_text(9), past_key_values=cache)
    step = {"input_ids": _text(1), "past_key_values": cache}
    if kind == "static":
        with pytest.warns(UserWarning, match="the network writes to its inputs in place"):
            dag = _same(model, step)
        names = ["keys", "values", "cumulative_length"]
    else:
        dag = _same(model, step)
        names = ["keys", "values"]
    cached = [f"past_key_values.{i}.{n}" for i in (0, 1) for n in names]
    assert list(dag.graph.inputs)[1:] == cached
    assert [n for n in dag.graph.outputs if n != "logits"] == cached


def test_an_empty_cache_is_an_argument() -> None:
    model = LlamaForCausalLM(LlamaConfig(**_LLAMA)).eval()
    dag = _same(model, {"input_ids": _text(3), "past_key_values": DynamicCache()})
    assert list(dag.graph.inputs) == ["input_ids"]


def test_caches_of_an_encoder_and_a_decoder() -> None:
    config = T5Config(num_layers=2, d_model=32, d_kv=8, d_ff=48, num_heads=4, vocab_size=50)
    model: Any = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        out = model(input_ids=_text(7), decoder_input_ids=_text(4), use_cache=True)
    states = (out.encoder_last_hidden_state,)
    _same(model, {"decoder_input_ids": _text(1), "encoder_outputs": states, "past_key_values": out.past_key_values})


def test_states_of_a_scan() -> None:
    config = MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=50)
    model: Any = MambaForCausalLM(config).eval()
    with torch.no_grad():
        cache = model(_text(5), use_cache=True).cache_params
    with pytest.warns(UserWarning, match="the network writes to its inputs in place"):
        dag = _same(model, {"input_ids": _text(1), "cache_params": cache})
    assert list(dag.graph.inputs)[1:3] == ["cache_params.0.conv_states.0", "cache_params.0.recurrent_states.0"]
    assert "cache_params.1.recurrent_states.0" in dag.graph.outputs


def test_exported_with_a_dict_for_a_cache() -> None:
    model = LlamaForCausalLM(LlamaConfig(**_LLAMA)).eval()
    cache = DynamicCache()
    with torch.no_grad():
        model(_text(9), past_key_values=cache)
        wanted = model(input_ids=_text(1), past_key_values=copy.deepcopy(cache)).logits
    dag = td.from_torch(model, (), {"input_ids": _text(1), "past_key_values": cache})
    plain = {"layers": [{"keys": layer.keys, "values": layer.values} for layer in cache.layers]}
    program = dag.to_exported_program().module()
    torch.testing.assert_close(program(input_ids=_text(1), past_key_values=plain)["logits"], wanted)
