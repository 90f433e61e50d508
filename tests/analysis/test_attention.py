"""The FLOPs of attention, and those that its mask lets through, against pairs of queries and keys counted by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.analysis.cost.report import Cost, cost_of
from tests.networks import Fn

B, H, S, D = 2, 3, 10, 4
CAUSAL = S * (S + 1) // 2
INF = math.inf


def cost(function: Callable[..., Any], *args: Any) -> Cost:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return td.from_torch(Fn(function).eval(), args).cost()


def qkv(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return tuple(torch.rand(B, H, S, D, dtype=dtype) for _ in "qkv")


def eager(masked: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Attention as people write it, with something done to the scores."""

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> torch.Tensor:
        return masked(q @ k.transpose(-1, -2) / math.sqrt(D)).softmax(-1) @ v

    return function


def check(found: Cost, pairs: int, all_pairs: int = S * S, heads: int = B * H, d: int = D) -> None:
    """Two products, each a multiply-add (2 FLOPs) for every pair and every one of d features."""
    assert found.attention_flops == 2 * 2 * heads * all_pairs * d
    assert found.attention_flops_causal == 2 * 2 * heads * pairs * d
    assert found.attention_flops <= found.contraction_flops


def places() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(S)[:, None], torch.arange(S)[None]


def seen() -> torch.Tensor:
    return torch.ones(S, S, dtype=torch.bool).tril()


LOW = torch.finfo(torch.float32).min

#: What is done to scores, and how many pairs of a query and a key are left.
MASKS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "none": (lambda s: s, S * S),
    "filled": (lambda s: s.masked_fill(~seen(), -INF), CAUSAL),
    "filled with a low number": (lambda s: s.masked_fill(torch.ones(S, S).tril() == 0, -1e9), CAUSAL),
    "chosen": (lambda s: torch.where(places()[0] >= places()[1], s, LOW), CAUSAL),
    "chosen, the other way": (lambda s: torch.where(places()[0] < places()[1], -INF, s), CAUSAL),
    "added": (lambda s: s + torch.full((S, S), -INF).triu(1), CAUSAL),
    "added, min": (lambda s: s + torch.full((S, S), LOW).triu(1), CAUSAL),
    "subtracted": (lambda s: s - (1 - seen().float()) * 1e9, CAUSAL),
    "1 - mask times a low number": (lambda s: s + (1 - seen().float()) * -10000.0, CAUSAL),
    "multiplied, then added": (lambda s: s * seen().float() - 1e9 * (1 - seen().float()), CAUSAL),
    "not as low": (lambda s: s + (1 - seen().float()) * -100.0, S * S),
    "a window": (lambda s: s.masked_fill((places()[0] - places()[1]).abs() > 2, -INF), 5 * S - 6),
    "a causal window": (
        lambda s: s.masked_fill(~(seen() & (places()[0] - places()[1] < 4)), -INF), 4 * 5 // 2 + (S - 4) * 4,
    ),
    "a prefix": (lambda s: s.masked_fill(~(seen() | (places()[1] < 4)), -INF), CAUSAL + 3 * 4 // 2),
    "blocks": (lambda s: s.masked_fill(places()[0] // 5 != places()[1] // 5, -INF), 2 * 25),
    "for each head": (lambda s: s.masked_fill((~seen()).expand(H, S, S), -INF), CAUSAL),
    "a bias besides": (lambda s: s + (places()[1] - places()[0]).float() + torch.full((S, S), -INF).triu(1), CAUSAL),
    "capped before": (lambda s: torch.tanh(s / 50) * 50 + torch.full((S, S), -INF).triu(1), CAUSAL),
    "two masks": (lambda s: s.masked_fill(~seen(), -INF) + torch.full((S, S), -INF).tril(-3), 3 * S - 3),
    "not below the least": (lambda s: torch.max(s + torch.full((S, S), LOW).triu(1), torch.tensor(LOW)), CAUSAL),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    masked, pairs = MASKS[name]
    found = cost(eager(masked), *qkv())
    check(found, pairs)
    assert not found.unknown_masks


def _by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    e = torch.exp((q @ k.transpose(-1, -2)).masked_fill(~seen(), -INF))
    return (e / e.sum(-1, keepdim=True)) @ v


def _normalised_last(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    e = torch.exp((q @ k.transpose(-1, -2)).masked_fill(~seen(), -INF))
    return (e @ v) / e.sum(-1, keepdim=True)


def _einsum(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k).masked_fill(~seen(), -INF)
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)


def _folded_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(S, S).masked_fill(~seen(), -INF).expand(B * H, S, S)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return torch.bmm(F.softmax(torch.baddbmm(mask, q, k.transpose(1, 2)), -1), v)


def _keys_first(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = (k @ q.transpose(-1, -2)).masked_fill(~seen().T, -INF)
    return scores.softmax(-2).transpose(-1, -2) @ v


def _sink(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = (q @ k.transpose(-1, -2)).masked_fill(~seen(), -INF)
    return torch.cat([scores, torch.zeros(B, H, S, 1)], -1).softmax(-1)[..., :-1] @ v


def _masked_after(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return ((q @ k.transpose(-1, -2)).softmax(-1) * seen()) @ v


def _exp_times_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    e = torch.exp(q @ k.transpose(-1, -2)) * seen()
    return (e / e.sum(-1, keepdim=True)) @ v


def _in_f32(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.bfloat16() for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) + torch.full((S, S), torch.finfo(q.dtype).min, dtype=q.dtype).triu(1)
    return F.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v


_sdpa = F.scaled_dot_product_attention

#: Ways to write causal attention.
FORMS: dict[str, Callable[..., torch.Tensor]] = {
    "exp and its sum": _by_hand,
    "normalised after the product": _normalised_last,
    "einsum": _einsum,
    "heads folded into the batch": _folded_heads,
    "keys first": _keys_first,
    "a sink beside": _sink,
    "masked after softmax": _masked_after,
    "masked after exp": _exp_times_mask,
    "bf16, softmax in f32": _in_f32,
    "fused, causal": lambda q, k, v: _sdpa(q, k, v, is_causal=True),
    "fused, bools": lambda q, k, v: _sdpa(q, k, v, attn_mask=seen()),
    "fused, numbers": lambda q, k, v: _sdpa(q, k, v, attn_mask=torch.zeros(S, S).masked_fill(~seen(), -INF)),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    found = cost(FORMS[name], *qkv())
    check(found, CAUSAL)
    assert not found.unknown_masks


def test_other_sizes() -> None:
    q, k, v = torch.rand(2, 4, 5, 8), torch.rand(2, 2, 7, 8), torch.rand(2, 2, 7, 3)
    found = cost(lambda q, k, v: _sdpa(q, k, v, is_causal=True, enable_gqa=True), q, k, v)
    assert found.attention_flops == 2 * (2 * 4 * 5 * 7 * (8 + 3))
    assert found.attention_flops_causal == 2 * (2 * 4 * (5 * 6 // 2) * (8 + 3))
    assert found.attention_flops == found.contraction_flops


def test_in_training() -> None:
    q = td.input("q", (B, H, S, D))
    y = td.attention_train(q, q, q, td.input("seed", (), "u64"), p=0.1, causal=True)
    found = cost_of(td.Graph({"q": q, "seed": y.args[3]}, {"y": y}))
    check(found, CAUSAL)
    assert not found.unknown_masks


def test_both_products_in_the_rows() -> None:
    found = cost(eager(lambda s: s.masked_fill(~seen(), -INF)), *qkv())
    rows = [r for r in found.by_value if r.attention_flops]
    assert [(r.name, r.attention_flops, r.attention_flops_causal) for r in rows] == [
        ("matmul", 2 * B * H * S * S * D, 2 * B * H * CAUSAL * D)
    ] * 2
    assert all(r.attention_flops == r.contraction_flops for r in rows)
    assert {r.name: r.attention_flops for r in found.by_op if r.attention_flops} == {"matmul": found.attention_flops}
    assert found.by_module[0].attention_flops_causal == found.attention_flops_causal
    assert "attention_flops_causal" in str(found)


# --- masks that depend on data -----------------------------------------------------------------------------


def test_what_constants_mask_is_known_beside_data() -> None:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2)
        return scores.masked_fill(~(seen() & real[:, None, None]), -INF).softmax(-1) @ v

    found = cost(function, *qkv(), torch.rand(B, S) > 0.5)
    check(found, CAUSAL)
    assert found.unknown_masks == {"input3": 1}
    assert "UNKNOWN MASKS: attention_flops_causal counts what these may mask too: input3 (1 times)" in str(found)


UNKNOWN: dict[str, Callable[..., torch.Tensor]] = {
    "added": lambda s, m: s + m[:, None, None].float(),
    "chosen": lambda s, m: torch.where(m[:, None, None] & seen() | m[:, None, None], s, -INF),
    "not": lambda s, m: s.masked_fill(m[:, None, None] & ~m[:, None, :, None], -INF),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_data_mask_is_said_to_be_unknown(name: str) -> None:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return UNKNOWN[name](q @ k.transpose(-1, -2), m).softmax(-1) @ v

    found = cost(function, *qkv(), torch.rand(B, S) > 0.5)
    check(found, S * S)
    assert found.unknown_masks == {"input3": 1}


def test_a_buffer_may_mask() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", seen())

        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return (q @ q.transpose(-1, -2)).masked_fill(~self.seen, -INF).softmax(-1) @ q

    found = td.from_torch(Masked(), (qkv()[0],)).cost()
    check(found, S * S)
    assert found.unknown_masks == {"seen": 1}


def test_constants_that_an_unknown_mask_is_made_with_have_no_name() -> None:
    """As BERT does it: 1 - mask is a composite, in whose body the 1 is an argument."""

    def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-1, -2) + (1.0 - real) * -1e9).softmax(-1) @ v

    found = cost(padded, *qkv(), torch.ones(S))
    check(found, S * S)
    assert found.unknown_masks == {"input3": 1}


#: Whether a pair is hidden, of what causal attention and data let through: masks that are numbers at times.
HIDDEN: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "low numbers as bools, as MPT does it": lambda causal, real: torch.where(causal & real, 0.0, LOW).to(torch.bool),
    "low numbers aren't 0, as Doge does it": lambda causal, real: torch.where(causal & real, 0.0, LOW) != 0,
    "multiplied": lambda causal, real: ~(causal.long() * real.long()).bool(),
    "multiplied, is 0": lambda causal, real: causal.float() * real.float() == 0,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_conditions_that_were_numbers(name: str) -> None:
    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        hidden = HIDDEN[name](torch.ones(S, S, dtype=torch.bool).tril(), real)
        return (q @ k.transpose(-1, -2)).masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1) @ v

    found = cost(masked, *qkv(), seen())
    check(found, CAUSAL)
    assert found.unknown_masks == {"input3": 1}


def test_weights_times_a_condition() -> None:
    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        causal = torch.ones(S, S, dtype=torch.bool).tril()
        return ((q @ k.transpose(-1, -2)).softmax(-1) * (causal & real).to(q.dtype)) @ v

    found = cost(masked, *qkv(), seen())
    assert found.unknown_masks == {"input3": 1}
    check(found, CAUSAL)


def test_what_isnt_a_mask_isnt_unknown() -> None:
    def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2) + (q @ torch.ones(D, S) + k.sum(-1, keepdim=True))
        return scores.softmax(-1) @ v

    def largest(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2)
        return scores.masked_fill(scores < scores.topk(3, -1).values[..., -1:], -INF).softmax(-1) @ v

    assert not cost(largest, *qkv()).unknown_masks  # the scores themselves decide
    assert cost(biased, *qkv()).unknown_masks == {"input1": 1}  # who knows what an input adds


def test_what_takes_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from tdagger.analysis.attention import masks

    monkeypatch.setattr(masks, "MOST_BLOCKS", 10)
    monkeypatch.setattr(masks, "SMALL", 10)
    found = cost(eager(lambda s: s.masked_fill(~seen(), -INF)), *qkv())
    check(found, S * S)
    assert list(found.unknown_masks) == ["a mask of f32[2 3 10 10], which takes too long to count"]


# --- what is no attention ----------------------------------------------------------------------------------


def _linear_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k = q.exp(), k.exp()
    return (q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(-2)[..., None])


NONE: dict[str, Callable[..., torch.Tensor]] = {
    "sigmoid": lambda q, k, v: (q @ k.transpose(-1, -2)).sigmoid() @ v,
    "no softmax": lambda q, k, v: ((q @ k.transpose(-1, -2)) * seen()) @ v,
    "features of queries and keys": _linear_attention,
    "softmax of keys": lambda q, k, v: q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v),
    "a router": lambda q, k, v: F.linear(q, torch.ones(S, D)).softmax(-1) @ v,
    "a loss": lambda q, k, v: F.cross_entropy((q @ k.transpose(-1, -2)).flatten(0, 2), torch.zeros(60).long()),
}


@pytest.mark.parametrize("name", NONE)
def test_no_attention(name: str) -> None:
    found = cost(NONE[name], *qkv())
    assert (found.attention_flops, found.attention_flops_causal, found.unknown_masks) == (0, 0, {})


def test_a_learned_query() -> None:
    class Pool(nn.Module):
        def __init__(self, projected: bool) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.rand(2, D))
            self.project = nn.Linear(D, D) if projected else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.project(self.query) @ x.transpose(-1, -2)).softmax(-1) @ x

    found = td.from_torch(Pool(True), qkv()[:1]).cost()
    assert found.attention_flops == found.attention_flops_causal == 2 * 2 * B * H * 2 * S * D
    assert td.from_torch(Pool(False), qkv()[:1]).cost().attention_flops == 0  # scores of a linear layer


def test_of_channels() -> None:
    found = cost(lambda q, k, v: (q.transpose(-1, -2) @ k).softmax(-1) @ v.transpose(-1, -2), *qkv())
    assert found.attention_flops == 2 * 2 * B * H * D * D * S


def test_heads_that_talk() -> None:
    class Talking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Linear(H, H), nn.Linear(H, H)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            scores = self.before((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            weights = scores.masked_fill(~seen(), -INF).softmax(-1)
            return self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v

    found = td.from_torch(Talking(), qkv()).cost()
    assert found.attention_flops == 2 * 2 * B * H * S * S * D
    assert found.contraction_flops == found.attention_flops + 2 * 2 * B * S * S * H * H


def test_a_long_residual_stream_is_linear() -> None:
    x, w = td.input("x", (2, 3)), td.parameter("w", (3, 3))
    y = x
    for _ in range(3000):
        y = y + td.silu(y) + td.linear(td.softmax(y, axis=1), w)
    assert cost_of(td.Graph({"x": x}, {"y": y})).attention_flops == 0


# --- networks of transformers ------------------------------------------------------------------------------

LAYERS, WIDTH = 2, 32
_SIZES: dict[str, Any] = {"vocab_size": 97, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_MLP = {**_SIZES, "intermediate_size": 64}
_GROUPED = {**_MLP, "num_key_value_heads": 2}


def _tokens(length: int, batch: int = B) -> torch.Tensor:
    return torch.randint(2, 97, (batch, length))


def _square(n: int) -> int:
    return n * n


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _window(n: int, w: int) -> int:
    return w * (w + 1) // 2 + (n - w) * w


#: (class, configuration, inputs, pairs in all layers, those let through; each of WIDTH features, in two products)
NETWORKS: dict[str, Callable[[], tuple[str, Any, dict[str, Any], int, int]]] = {}


def network(make: Callable[[Any], tuple[str, Any, dict[str, Any], int, int]]) -> None:
    import transformers

    NETWORKS[make.__name__.strip("_")] = lambda: make(transformers)


@network
def _gpt2(t: Any) -> Any:
    config = t.GPT2Config(vocab_size=97, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=64)
    pairs = LAYERS * _square(16), LAYERS * _triangle(16)
    return "GPT2LMHeadModel", config, {"input_ids": _tokens(16), "use_cache": False}, *pairs


@network
def _llama(t: Any) -> Any:
    pairs = LAYERS * _square(16), LAYERS * _triangle(16)
    return "LlamaForCausalLM", t.LlamaConfig(**_GROUPED), {"input_ids": _tokens(16), "use_cache": False}, *pairs


@network
def _mistral(t: Any) -> Any:
    config = t.MistralConfig(**_GROUPED, sliding_window=5)
    pairs = LAYERS * _square(16), LAYERS * _window(16, 5)
    return "MistralForCausalLM", config, {"input_ids": _tokens(16), "use_cache": False}, *pairs


@network
def _qwen2(t: Any) -> Any:
    config = t.Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    pairs = LAYERS * _square(16), _triangle(16) + _window(16, 5)
    return "Qwen2ForCausalLM", config, {"input_ids": _tokens(16), "use_cache": False}, *pairs


@network
def _mixtral(t: Any) -> Any:
    config = t.MixtralConfig(**_GROUPED, num_local_experts=4, sliding_window=None)
    pairs = LAYERS * _square(16), LAYERS * _triangle(16)
    return "MixtralForCausalLM", config, {"input_ids": _tokens(16), "use_cache": False}, *pairs


@network
def _t5(t: Any) -> Any:
    config = t.T5Config(
        vocab_size=97, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=LAYERS, num_heads=4, decoder_start_token_id=0
    )
    full = LAYERS * (_square(16) + _square(12) + 12 * 16)
    inputs = {"input_ids": _tokens(16), "decoder_input_ids": _tokens(12), "use_cache": False}
    return "T5ForConditionalGeneration", config, inputs, full, full - LAYERS * (_square(12) - _triangle(12))


@network
def _bart(t: Any) -> Any:
    config = t.BartConfig(
        vocab_size=97, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
    )  # fmt: skip
    full = LAYERS * (_square(16) + _square(12) + 12 * 16)
    inputs = {"input_ids": _tokens(16), "decoder_input_ids": _tokens(12), "use_cache": False}
    return "BartForConditionalGeneration", config, inputs, full, full - LAYERS * (_square(12) - _triangle(12))


@network
def _whisper(t: Any) -> Any:
    config = t.WhisperConfig(
        vocab_size=97, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=20, num_mel_bins=8,
        max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    full = LAYERS * (_square(20) + _square(12) + 12 * 20)
    inputs = {"input_features": torch.rand(B, 8, 40), "decoder_input_ids": _tokens(12), "use_cache": False}
    return "WhisperForConditionalGeneration", config, inputs, full, full - LAYERS * (_square(12) - _triangle(12))


@network
def _bert(t: Any) -> Any:
    pairs = LAYERS * _square(16)
    return "BertModel", t.BertConfig(**_MLP), {"input_ids": _tokens(16)}, pairs, pairs


@network
def _clip(t: Any) -> Any:
    vision = {"image_size": 32, "patch_size": 8, **_MLP}
    del vision["vocab_size"]
    text = {**_MLP, "max_position_embeddings": 64, "eos_token_id": 96}
    inputs = {"input_ids": _tokens(16), "pixel_values": torch.rand(B, 3, 32, 32)}
    patches = LAYERS * _square(17)
    pairs = patches + LAYERS * _square(16), patches + LAYERS * _triangle(16)
    return "CLIPModel", t.CLIPConfig(text_config=text, vision_config=vision), inputs, *pairs


@network
def _swin(t: Any) -> Any:
    config = t.SwinConfig(image_size=32, patch_size=2, embed_dim=WIDTH, depths=[2], num_heads=[4], window_size=4)
    pairs = 2 * 16 * _square(16)  # the windows that are shifted add -100, which doesn't mask exactly
    return "SwinModel", config, {"pixel_values": torch.rand(B, 3, 32, 32)}, pairs, pairs


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        pytest.param(name, attention, marks=() if (i + j) % 2 == 0 else pytest.mark.slow)
        for i, name in enumerate(NETWORKS)
        for j, attention in enumerate(("eager", "sdpa"))
    ],
)
def test_networks(name: str, attention: str) -> None:
    import transformers

    kind, config, inputs, full, seen_pairs = NETWORKS[name]()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about itself
        module = getattr(transformers, kind)._from_config(config, attn_implementation=attention).eval()
        found = td.from_torch(module, (), inputs).cost()
    assert found.attention_flops == 2 * 2 * B * full * WIDTH
    assert found.attention_flops_causal == 2 * 2 * B * seen_pairs * WIDTH
    assert not found.unknown_masks


def test_gemma_and_deepseek() -> None:
    import transformers as t

    gemma = t.Gemma3TextConfig(**{**_GROUPED, "num_hidden_layers": 6}, sliding_window=5, head_dim=8)
    deepseek = t.DeepseekV3Config(
        **_MLP, num_key_value_heads=4, moe_intermediate_size=16, n_routed_experts=8, n_group=2, topk_group=1,
        num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=16,
        qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=6,
    )  # fmt: skip
    cases = [
        (t.Gemma3ForCausalLM, gemma, 2 * 32, 6 * _square(16), 5 * _window(16, 5) + _triangle(16)),
        (t.DeepseekV3ForCausalLM, deepseek, 4 * (12 + 6), LAYERS * _square(16), LAYERS * _triangle(16)),
    ]
    for make, config, features, full, seen_pairs in cases:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers, about itself
            module = make._from_config(config, attn_implementation="eager").eval()
            found = td.from_torch(module, (), {"input_ids": _tokens(16), "use_cache": False}).cost()
        assert found.attention_flops == 2 * B * full * features
        assert found.attention_flops_causal == 2 * B * seen_pairs * features
        assert not found.unknown_masks


def test_a_long_sequence_costs_little() -> None:
    """131072 tokens: the mask has 17 thousand million entries."""
    import transformers

    n, window = 131_072, 4096
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about itself
        config = transformers.MistralConfig(**_GROUPED, sliding_window=window)
        module = transformers.MistralForCausalLM._from_config(config, attn_implementation="sdpa").eval()
        found = td.from_torch(module, (), {"input_ids": _tokens(n, 1).to("meta"), "use_cache": False}).cost()
    assert found.attention_flops_causal == 2 * 2 * LAYERS * _window(n, window) * WIDTH
    assert not found.unknown_masks
