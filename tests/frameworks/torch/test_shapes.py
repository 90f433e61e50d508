"""Ops that were called on tensors without data before give what torch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tdagger.frameworks.torch.capture.shapes import ShapesAlone


def on_other_devices(x: Tensor) -> list[Tensor]:
    """Tensors with data beside those without: neither stands for the other."""
    own = torch.arange(3.0)
    number = torch.zeros((), device="meta")
    return [own + own, own * 2, torch.add(x, torch.tensor(2.0)), torch.add(x, number), own + own]


def of_strides(x: Tensor) -> list[Tensor]:
    return [torch.relu(x), torch.relu(x.permute(0, 2, 3, 1)), torch.relu(x[:, ::2]), torch.relu(x), x.contiguous()]


def of_numbers(x: Tensor) -> list[Tensor]:
    """1, 1.0 and True are equal and give other element types."""
    whole = torch.zeros(3, dtype=torch.int64, device="meta")
    return [whole + 1, whole + 1.0, whole + True, whole * 1, whole / 1]


def of_views(x: Tensor) -> list[Tensor]:
    return [x[0], x[1], x.reshape(-1), x.view(-1), x.T.contiguous() if x.ndim == 2 else x.flatten(1)]


def several(x: Tensor) -> list[Tensor]:
    return [*torch.max(x, 1), *torch.max(x, 1), *torch.split(x, 1, 1), *F.max_pool2d(x, 2, return_indices=True)]


def written(x: Tensor) -> list[Tensor]:
    y = torch.zeros_like(x)
    y.add_(x)
    y[0] = 1
    return [y, torch.add(x, x, out=torch.empty_like(x)), y.relu_()]


def complex_ones(x: Tensor) -> list[Tensor]:
    z = torch.complex(x, x)
    return [z.conj(), z.conj() * z, z.imag, torch.view_as_real(z), z.conj().resolve_conj()]


FUNCTIONS = [on_other_devices, of_strides, of_numbers, of_views, several, written, complex_ones]


def told(tensors: list[Tensor]) -> list[Any]:
    return [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad, t.is_conj()) for t in tensors]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("gradients", [False, True])
def test_calls_of_one_kind_give_what_torch_gives(function: Any, gradients: bool) -> None:
    def run() -> list[Any]:
        x = torch.empty(2, 3, 4, 6, device="meta", requires_grad=gradients and function is not written)
        return [*told(function(x)), *told(function(x))]

    expected = run()
    with ShapesAlone():
        assert run() == expected


def test_what_raises_raises_again() -> None:
    x = torch.empty(2, 3, device="meta")
    with ShapesAlone():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="4"):
                x + torch.empty(2, 4, device="meta")
