"""The caches of transformers, as results: containers of tensors like any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import xLSTMConfig
from transformers.cache_utils import DynamicCache
from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache
from transformers.models.reformer.modeling_reformer import ReformerDynamicCache
from transformers.models.xlstm.modeling_xlstm import xLSTMCache

import tdagger as td


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


class _Gives(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return x - 1, self.make(x * 3)


@pytest.mark.parametrize("make", [_dynamic, _reformer, _xlstm, _mimi])
def test_a_cache_is_a_container(make: Any) -> None:
    x = torch.randn(1, 2, 4)
    back = td.from_torch(_Gives(make), x).to_torch()
    got, cache = back(x)
    assert torch.equal(got, x - 1)
    leaves = torch.utils._pytree.tree_leaves(cache)
    assert any(isinstance(t, torch.Tensor) and torch.equal(t.flatten()[-1:], x.flatten()[-1:] * 3) for t in leaves)
