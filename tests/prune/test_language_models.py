"""Language models: planned without weights, fewer layers, heads, width and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig

import tdagger as td
from tdagger.errors import AttributeValueError, GraphError


@pytest.fixture(scope="module")
def llama() -> Any:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return td.from_transformers(config, seq=8)


def test_a_plan_needs_no_weights(llama: Any) -> None:
    plan = llama.prune_plan(flops=0.7, importance="random")
    assert plan.after["flops"] == pytest.approx(0.7 * plan.before["flops"], rel=0.02)
    assert plan.apply().graph.total_flops() < 0.72 * llama.graph.total_flops()


def test_heads_are_a_group(llama: Any) -> None:
    alone = llama.without_outputs(*[n for n in llama.graph.outputs if n != "logits"])  # a cache's shape stays
    heads = [g for g in alone.prunable() if len(g.of) > 1 and g.place == 0 and g.size == 2]
    assert len(heads) == 3  # one of a layer: two keys with the two queries of each
    small = alone.prune(entries={heads[0].name: [0]})
    assert small.graph.parameters["model.layers.0.self_attn.k_proj.weight"].shape == (8, 32)
    assert small.graph.parameters["model.layers.0.self_attn.q_proj.weight"].shape == (16, 32)


def test_layers_are_left_out(llama: Any) -> None:
    assert [b.path for b in llama.blocks()] == [f"model.layers.{i}" for i in range(3)]
    small = llama.without_blocks("model.layers.1")
    assert not [n for n in small.graph.parameters if ".layers.1." in n]
    assert small.graph.total_flops() < 0.75 * llama.graph.total_flops()


def test_a_smaller_vocabulary_of_tied_weights(llama: Any) -> None:
    small = llama.with_vocabulary(range(0, 64, 2))
    assert small.graph.parameters["model.embed_tokens.weight"].shape == (32, 32)
    assert next(iter(small.graph.outputs.values())).shape[-1] == 32


class Words(nn.Module):
    def __init__(self, reads: bool = False, padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mid = nn.Embedding(20, 6, padding_idx=padding), nn.Linear(6, 6)
        self.head, self.reads = nn.Linear(6, 20), reads

    def forward(self, ids: Any) -> Any:
        x = self.mid(self.embed(ids))
        return self.head(x * (ids != 3)[..., None] if self.reads else x)


IDS = torch.tensor([[1, 4, 7], [7, 7, 19]])


def test_numbers_of_tokens_are_their_places() -> None:
    net, keep = Words(padding=4).eval(), [1, 4, 7, 19]
    dag = td.from_torch(net, IDS)
    small = dag.with_vocabulary(keep, "embed.weight", "head.weight")
    assert small.weights["head.bias"].shape == (4,)
    new = torch.from_numpy(np.searchsorted(keep, IDS.numpy()))
    torch.testing.assert_close(small.to_torch()(new), net(IDS)[..., keep])
    assert small.to_torch().embed.padding_idx == 1
    only_rows = dag.with_vocabulary(keep)
    torch.testing.assert_close(only_rows.to_torch()(new), net(IDS))


def test_who_else_reads_tokens_is_named() -> None:
    dag = td.from_torch(Words(reads=True).eval(), IDS)
    with pytest.raises(GraphError, match="reads the numbers of tokens too"):
        dag.with_vocabulary([1, 4, 7, 19])


@pytest.mark.parametrize("keep", [[], [1, 1], [4, 1], [19, 20], [-1, 2]])
def test_what_is_kept_is_rows_in_order(keep: list[int]) -> None:
    with pytest.raises(AttributeValueError, match="keep is"):
        td.from_torch(Words().eval(), IDS).with_vocabulary(keep)
