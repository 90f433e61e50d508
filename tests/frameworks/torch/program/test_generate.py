"""Language models as programs: the tokens are those of transformers' own loop."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import tdagger as td


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5,
        )
    )  # fmt: skip


def gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.5)
    )


def generated(model: Any, prompt: torch.Tensor, count: int, end: int | None = None) -> list[int]:
    out = model.generate(
        prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=count, do_sample=False,
        pad_token_id=0, eos_token_id=end,
    )  # fmt: skip
    return out[0].tolist()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_greedy(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    prefill = td.from_transformers(model, seq=8, dtype="f32")
    decode = td.from_transformers(model, past=30, dtype="f32", mask=True)
    program = td.generate_program(prefill, decode)
    assert set(program.state) <= set(decode.state)  # one network's weights, not two
    assert len(program.weights) == len({w.alias_of or n for n, w in program.state.items()})
    module = program.to_torch()
    for length, count in ((5, 20), (8, 20), (1, 3), (3, 1), (4, 0)):
        prompt = torch.randint(1, 97, (length,))
        wanted = generated(model, prompt, count) if count else prompt.tolist()
        assert program.run(prompt.numpy(), np.int64(count)).tolist() == wanted
        with torch.no_grad():
            assert module(prompt, torch.tensor(count)).tolist() == wanted
    assert len(set(wanted)) > 1
    with pytest.raises(td.InputError, match=r"prompt is declared i64\[prompt_length<=8\], got int64\[9\]"):
        program.run(np.ones(9, "i8"), np.int64(1))
    script = program.to_torchscript()
    prompt = torch.randint(1, 97, (6,))
    assert script(prompt, torch.tensor(20)).tolist() == generated(model, prompt, 20)


def test_the_end_of_a_text_and_samplers() -> None:
    torch.manual_seed(1)
    model = llama().eval()
    prefill = td.from_transformers(model, seq=6, dtype="f32")
    decode = td.from_transformers(model, past=20, dtype="f32", mask=True)
    prompt = torch.randint(1, 97, (4,))
    plain = generated(model, prompt, 12)
    end = plain[9]
    program = td.generate_program(prefill, decode, end=end)
    wanted = plain[: plain.index(end, 4) + 1]
    assert program.run(prompt.numpy(), np.int64(12)).tolist() == wanted == generated(model, prompt, 12, end)
    least = td.generate_program(prefill, decode, sampler=lambda logits: td.reshape(td.argmin(logits, axis=0), shape=()))
    assert least.run(prompt.numpy(), np.int64(2)).tolist()[4:] != plain[4:6]
    with pytest.raises(td.TypeMismatchError, match=r"a sampler gives a token i64\[\], not f32\[97\]"):
        td.generate_program(prefill, decode, sampler=lambda logits: logits)
    with pytest.raises(td.GraphError, match=r"has no attention_mask; it takes .*mask=True"):
        td.generate_program(prefill, td.from_transformers(model, past=20, dtype="f32"))
