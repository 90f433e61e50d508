"""Language models as programs: the tokens are those of transformers' own loop."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.generation import GenerationMixin

import tdagger as td
from tdagger.interpret import run


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


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
            initializer_factor=3.0,
        )
    )  # fmt: skip


def whisper() -> Any:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=97, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20,
            max_target_positions=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
            init_std=0.5, suppress_tokens=None, begin_suppress_tokens=None,
        )
    )  # fmt: skip


def heard(model: Any, sound: torch.Tensor, count: int) -> list[int]:
    model.generation_config.eos_token_id = None
    started = {"decoder_input_ids": torch.tensor([[3]]), "max_new_tokens": count, "do_sample": False}
    return GenerationMixin.generate(model, sound, **started)[0].tolist()


def test_an_encoder_of_text() -> None:
    """T5: the encoder runs once, its keys and values are kept, prompts may be shorter."""
    torch.manual_seed(0)
    model = t5().eval()
    prefill = td.from_transformers(model, seq=9, start=1, dtype="f32")
    decode = td.from_transformers(model, past=24, dtype="f32", mask=True, source=9)
    program = td.generate_program(prefill, decode, start=[0])
    module = program.to_torch()
    for length, count in ((9, 20), (4, 20), (6, 1)):
        prompt = torch.randint(1, 97, (length,))
        wanted = generated(model, prompt, count)
        assert program.run(prompt.numpy(), np.int64(count)).tolist() == wanted
        with torch.no_grad():
            assert module(prompt, torch.tensor(count)).tolist() == wanted
    with pytest.raises(td.GraphError, match=r"begins with 1 tokens of a decoder: start=\[...\] says which"):
        td.generate_program(prefill, decode)
    with pytest.raises(td.SourceError, match="LlamaForCausalLM has no decoder that begins with 1 tokens"):
        td.from_transformers(llama().eval(), seq=4, start=1)


def test_a_decoder_whose_positions_are_numbers_is_refused() -> None:
    """BART counts positions by the size of its cache, which is one here: its texts would be others."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.5,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    prefill = td.from_transformers(model, seq=9, start=1, dtype="f32")
    decode = td.from_transformers(model, past=24, dtype="f32", mask=True, source=9)
    with pytest.raises(td.GraphError, match=r"BartForConditionalGeneration takes no decoder_position_ids, and its pos"):
        td.generate_program(prefill, decode, start=[2])


def test_an_encoder_of_sound() -> None:
    torch.manual_seed(0)
    model = whisper().eval()
    prefill = td.from_transformers(model, start=1, dtype="f32")
    decode = td.from_transformers(model, past=24, dtype="f32", mask=True)
    program = td.generate_program(prefill, decode, start=[3])
    module = program.to_torch()
    sound = torch.randn(1, 8, 40)
    wanted = heard(model, sound, 20)
    assert program.run(sound.numpy(), np.int64(20)).tolist() == wanted
    with torch.no_grad():
        assert module(sound, torch.tensor(20)).tolist() == wanted


def test_top_k() -> None:
    """A seed gives a text, others others; tokens are as often as softmax of the largest logits says."""
    torch.manual_seed(1)
    model = llama().eval()
    prefill = td.from_transformers(model, seq=4, dtype="f32")
    decode = td.from_transformers(model, past=12, dtype="f32", mask=True)
    prompt = torch.randint(1, 97, (4,))
    program = td.generate_program(prefill, decode, sampler=td.top_k(5, temperature=4.0))
    texts = [program.run(prompt.numpy(), np.int64(8), np.uint64(seed)).tolist() for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    with torch.no_grad():
        module = program.to_torch()
        assert module(prompt, torch.tensor(8), torch.tensor(2, dtype=torch.uint64)).tolist() == texts[2]
    most = td.generate_program(prefill, decode, sampler=td.top_k(1))
    assert most.run(prompt.numpy(), np.int64(8), np.uint64(3)).tolist() == generated(model, prompt, 8)
    logits = td.input("x", (6,))
    drawn = td.top_k(3, 2.0)(logits, td.input("u", (3,)))
    dag = td.Graph({"x": logits, "u": td.input("u", (3,))}, {"out": drawn})
    x, numbers = np.array([0, 3, 1, 2, -1, 2.5], "f"), np.random.default_rng(0).random((2000, 3), "f")
    counts = np.bincount([int(run(dag, {"x": x, "u": u}, {})[0]["out"]) for u in numbers], minlength=6) / 2000
    wanted = np.exp(np.array([3, 2, 2.5]) / 2) / np.exp(np.array([3, 2, 2.5]) / 2).sum()
    np.testing.assert_allclose(counts[[1, 3, 5]], wanted, atol=0.04)  # 3.6 standard deviations
    assert counts[[0, 2, 4]].sum() == 0
