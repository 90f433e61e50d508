"""What people write out by hand is found, in modules of one's own and in networks of timm and transformers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tdagger as td
from tdagger.composite import Composite
from tdagger.transform.idioms import IDIOMS, conv_bn_relu, rotary, swiglu
from tests.networks import NETWORKS, Fn


def found(function: Callable[..., Any], *args: torch.Tensor, tolerance: float = 1e-5) -> list[str]:
    """The composites of a function raised; it gives what it gave."""
    module = function if isinstance(function, nn.Module) else Fn(function)
    dag = td.from_torch(module.eval(), args)
    up = dag.raise_()
    assert up.raise_().graph == up.graph
    with torch.no_grad():
        torch.testing.assert_close(up.to_torch()(*args), module(*args), rtol=tolerance, atol=tolerance)
    return [v.op.name for v in up.values if isinstance(v.op, Composite)]


class LayerNorm(nn.Module):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.function = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, self.w, self.b, x.mean(-1, keepdim=True))


NORMS: dict[str, Callable[..., Any]] = {
    "var": lambda x, w, b, m: w * (x - m) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6) + b,
    "rsqrt": lambda x, w, b, m: (x - m) * torch.rsqrt(((x - m) ** 2).mean(-1, keepdim=True) + 1e-6) * w + b,
    "sqrt": lambda x, w, b, m: w * ((x - m) / ((x - m).pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()) + b,
    "power": lambda x, w, b, m: b + w * ((x - m) * (((x - m) * (x - m)).mean(-1, keepdim=True) + 1e-6) ** -0.5),
}


@pytest.mark.parametrize("name", NORMS)
def test_layer_norm(name: str) -> None:
    assert found(LayerNorm(NORMS[name]), torch.randn(2, 5, 8)) == ["layer_norm"]


def _rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * h.to(x.dtype)


def test_rms_norm() -> None:
    x, w = torch.randn(2, 5, 8), torch.randn(8)
    assert found(_rms, x, w) == ["rms_norm"]
    assert found(_rms, x.bfloat16(), w.bfloat16(), tolerance=2e-2) == ["rms_norm"]


def test_one_over_a_root_is_a_root_below() -> None:
    """As exporters to ONNX write it."""
    dag = td.network(lambda x: x * (1.0 / td.sqrt(td.mean(x * x, axes=(-1,), keep=True) + 1e-6)), {"x": (2, 8)})
    assert [v.op.name for v in dag.raise_().values] == ["input", "rms_norm"]


ACTIVATIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "erf": ("gelu", lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "erf of a product": ("gelu", lambda x: x * (0.5 * (1 + torch.erf(x * 0.7071067811865476)))),
    "erf, halved": ("gelu", lambda x: x / 2 * (1.0 + torch.erf(x / 1.4142135623730951))),
    "tanh": ("gelu", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "tanh, factored": ("gelu", lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))),
    "sigmoid": ("silu", lambda x: x * torch.sigmoid(x)),
    "exp": ("silu", lambda x: x / (1 + torch.exp(-x))),
    "relu6": ("hard_swish", lambda x: x * F.relu6(x + 3) / 6),
    "softplus": ("mish", lambda x: x * torch.tanh(F.softplus(x))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    composite, function = ACTIVATIONS[name]
    assert found(function, torch.randn(2, 5, 8)) == [composite]


def test_another_function_is_left_alone() -> None:
    assert "gelu" not in found(lambda x: 0.5 * x * (1 + torch.erf(x / 1.5)), torch.randn(2, 3))
    assert "silu" not in found(lambda x: x * torch.sigmoid(1.702 * x), torch.randn(2, 3))
    assert "layer_norm" not in found(
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6), torch.randn(2, 3)
    )


def _attention(how: str) -> Callable[..., Any]:
    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if how == "both scaled":
            scores = (q * 8**-0.25) @ (k.transpose(-1, -2) * 8**-0.25)
        elif how == "scaled before":
            scores = (q / math.sqrt(8)) @ k.transpose(-1, -2)
        elif how == "einsum":
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * 8**-0.5
        else:
            scores = torch.matmul(q, k.permute(0, 1, 3, 2)) / math.sqrt(8)
        if how == "chosen":
            scores = scores.masked_fill(mask > 0, float("-inf"))
        elif how != "all":
            scores = scores + mask
        weights = F.softmax(scores, dim=-1)
        weights = F.dropout(weights, 0.1, False) if how == "dropout" else weights
        return torch.einsum("bhqk,bhkd->bhqd", weights, v) if how == "einsum" else weights @ v

    return forward


@pytest.mark.parametrize("how", ["scaled before", "scaled after", "chosen", "all", "both scaled", "dropout", "einsum"])
def test_attention(how: str) -> None:
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    names = found(_attention(how), q, k, v, torch.randn(2, 1, 5, 5))
    assert "scaled_dot_product_attention" in names
    assert not {"softmax", "matmul", "einsum"} & set(names)


def test_grouped_heads() -> None:
    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        b, h, s, d = k.shape
        k, v = (t[:, :, None].expand(b, h, 2, s, d).reshape(b, 2 * h, s, d) for t in (k, v))
        return torch.softmax(q @ k.transpose(2, 3) * d**-0.5, -1) @ v

    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    up = td.from_torch(Fn(forward), (q, k, v)).raise_()
    assert len(up.values) == 4
    assert up.values[-1].op.attributes["grouped"]
    torch.testing.assert_close(up.to_torch()(q, k, v), forward(q, k, v))

    def other(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (t.repeat(1, 2, 1, 1) for t in (k, v))  # heads in another order
        return torch.softmax(q @ k.transpose(2, 3) * 8**-0.5, -1) @ v

    up = td.from_torch(Fn(other), (q, k, v)).raise_()
    torch.testing.assert_close(up.to_torch()(q, k, v), other(q, k, v))


def test_blocks_in_networks() -> None:
    module, args, kwargs = NETWORKS["resnet50"](small=True)
    resnet = td.from_torch(module, args, kwargs)
    places = resnet.find(conv_bn_relu)
    assert len(places) == 13  # the stem, and two of each of 6 blocks
    assert {resnet.origins[p.root].module for p in places} >= {"act1", "layer1.0.act1"}
    module, args, kwargs = NETWORKS["LlamaForCausalLM"](small=True)
    llama = td.from_torch(module, args, kwargs)
    assert len(llama.find(rotary)) == 4  # queries and keys of two layers
    assert len(llama.find(swiglu)) == 2


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("LlamaForCausalLM", {"rms_norm": 5}),
        ("T5EncoderModel", {"rms_norm": 5}),
        ("MambaForCausalLM", {"rms_norm": 3}),
    ],
)
def test_norms_of_transformers(name: str, wanted: dict[str, int]) -> None:
    module, args, kwargs = NETWORKS[name](small=True)
    up, report = td.from_torch(module, args, kwargs).rewrite(IDIOMS, report=True)
    counts = Counter(v.op.name for v in up.values)
    assert {k: counts[k] for k in wanted} == wanted
    assert report.counts["rms_norm_written_out"] == wanted["rms_norm"]
