"""Antialiased interpolation to one column, in which torch is right in channels last only (findings)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tdagger as td
from tdagger.interpret import run


@pytest.mark.parametrize(("mode", "torchs"), [("linear", "bilinear"), ("cubic", "bicubic")])
@pytest.mark.parametrize("shape", [(1, 4, 7, 3), (2, 4, 4, 2), (1, 4, 3, 3)])
def test_one_column_is_smoothed_as_any_other(mode: str, torchs: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(
        x.contiguous(memory_format=torch.channels_last), scale_factor=0.5, mode=torchs, antialias=True
    )
    value = td.input("x", shape)
    size = tuple(wanted.shape[2:])
    out = td.interpolate(value, size=size, mode=mode, antialias=True, scale=0.5)
    found, _ = run(td.Graph({"x": value}, {"y": out}), {"x": x.numpy()}, {})
    np.testing.assert_allclose(found["y"], wanted.numpy(), rtol=0, atol=1e-5)
