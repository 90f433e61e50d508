"""torch's quantized_decomposed ops, as PT2E-converted programs have them, come in as quantized values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # pyright: ignore[reportUnusedImport]  # registers the ops

import tdagger as td

Q = torch.ops.quantized_decomposed


class Converted(torch.nn.Module):
    """A convolution and a linear layer as ``convert_pt2e`` leaves them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randint(-127, 128, (6, 3, 3, 3), dtype=torch.int8, generator=generator))
        self.register_buffer("s", torch.rand(6, generator=generator) * 0.01 + 0.001)
        self.register_buffer("z", torch.zeros(6, dtype=torch.int64))
        self.register_buffer("b", torch.randint(-99, 99, (6,), dtype=torch.int32, generator=generator))
        self.register_buffer("bs", torch.rand(6, generator=generator) * 0.001)
        self.register_buffer("v", torch.randint(-8, 8, (4, 6), dtype=torch.int8, generator=generator))
        self.register_buffer("vs", torch.rand(4, 2, generator=generator) * 0.1)

    def forward(self, x: Any) -> Any:
        x = Q.quantize_per_tensor(x, 0.0213, 117, 0, 255, torch.uint8)
        x = Q.dequantize_per_tensor(x, 0.0213, 117, 0, 255, torch.uint8)
        w = Q.dequantize_per_channel(self.w, self.s, self.z, 0, -127, 127, torch.int8)
        b = Q.dequantize_per_channel(self.b, self.bs, self.z, 0, -(2**31), 2**31 - 1, torch.int32)
        x = torch.relu(torch.nn.functional.conv2d(x, w, b)).mean((2, 3))
        scales = x.abs().amax(-1, True) / 127
        zeros = torch.zeros_like(scales, dtype=torch.int64)
        x = Q.quantize_per_token(x, scales, zeros, -128, 127, torch.int8)
        x = Q.dequantize_per_token(x, scales, zeros, -128, 127, torch.int8, torch.float32)
        v = Q.dequantize_per_channel_group(self.v, self.vs, None, -8, 7, torch.int8, 3, torch.float32)
        return torch.nn.functional.linear(x, v)


def test_converted_programs() -> None:
    module, x = Converted(), torch.randn(2, 3, 7, 7)
    dag = td.from_torch(torch.export.export(module, (x,)))
    counts = td.op_counts(dag.values)
    assert (counts["quantize"], counts["dequantize"]) == (2, 5)
    expected = module(x)
    torch.testing.assert_close(dag.to_torch()(x), expected, rtol=0, atol=0)
    np.testing.assert_allclose(dag.run(x.numpy()), expected.numpy(), rtol=1e-5, atol=1e-6)
    floats = td.dequantize(dag)
    assert "quantize" not in td.op_counts(floats.values)
    assert (floats.to_torch()(x) - expected).abs().max() < 0.05


def test_pt2e() -> None:
    """A real conversion, where torchao is installed."""
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    ).eval()  # fmt: skip
    x = (torch.randn(2, 3, 16, 16),)
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(module, x).module(), quantizer)
    prepared(*x)
    converted = convert_pt2e(prepared)
    dag = td.from_torch(torch.export.export(converted, x))
    assert td.op_counts(dag.values)["dequantize"] == 8
    torch.testing.assert_close(dag.to_torch()(*x), converted(*x), rtol=0, atol=0)
    assert (td.dequantize(dag).to_torch()(*x) - module(*x)).abs().max() < 0.01
