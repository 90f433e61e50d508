"""A quantized network has the sizes that the float network has, and asks what it came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tdagger as td


class Net(nn.Module):
    """Words with a table of positions and a mask that is expanded to the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(16, 16)
        self.out = nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(n))
        mask = torch.ones(n, n, dtype=torch.bool).tril()[None].expand(ids.shape[0], n, n)
        return self.out(nn.functional.scaled_dot_product_attention(x, x, x, mask))


@pytest.fixture(scope="module")
def dag() -> td.TensorDAG:
    torch.manual_seed(0)
    return td.from_torch(Net().eval(), torch.arange(6)[None])


IDS = np.arange(6)[None]


@pytest.mark.parametrize(
    ("target", "repairs"),
    [
        ("x86", {}),
        ("gpu-weight-only", {}),
        ("x86", {"smooth": True}),
        ("x86", {"equalize": True}),
        ("x86", {"split": True}),
        ("gpu-weight-only", {"smooth": True, "equalize": True}),
    ],
)
def test_batch_and_tokens_stay_free(dag: td.TensorDAG, target: str, repairs: dict[str, bool]) -> None:
    small = td.quantize(dag, [(IDS,)], target, **repairs)
    assert set(small.resizable_axes().free) == {"b", "s"}
    ids = np.random.default_rng(0).integers(0, 20, (3, 9))
    large = small.resize(b=3, s=9).run(ids)
    row = small.resize(b=1, s=9).run(ids[1:2])
    np.testing.assert_allclose(large[1:2], row, rtol=1e-5, atol=1e-6)
    assert small.to_torch()(torch.from_numpy(ids)).shape == (3, 9, 8)


def test_trained_ones_too(dag: td.TensorDAG) -> None:
    prepared = td.prepare(dag, "x86", train=True)
    module = prepared.to_torch().train()
    module(torch.from_numpy(IDS))
    assert set(prepared.convert().resizable_axes().free) == {"b", "s"}


def test_what_the_float_network_cant_have_is_refused(dag: td.TensorDAG) -> None:
    small = td.quantize(dag, [(IDS,)], "x86")
    with pytest.raises(td.AxisError, match="reads"):
        small.resize(s=17)  # there are 16 places


class Scaled(nn.Module):
    """A weight with a size merged into it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight / x.shape[1])


def test_a_size_that_is_merged_into_a_weight_is_fixed() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 16)
    dag = td.from_torch(Scaled().eval(), x, axes="b n c")
    small = td.quantize(dag, [x.numpy()], "x86")
    for how in ({}, {"smooth": True}, {"equalize": True}):
        with pytest.raises(td.AxisError, match=r"^resize\((?!.*resize\()[\s\S]*depends on sizes"):
            td.quantize(dag, [x.numpy()], "x86", **how).resize(n=12)
    assert small.resize(b=3).graph.outputs["out"].shape == (3, 6, 8)
    with pytest.raises(td.InputError):
        small.to_torch()(torch.randn(2, 12, 16))
