"""torch's kernels of whole numbers beside its float ones: linear layers and convolutions, u8 times i8, one thread.

For each: processor time as a part of the float kernel's, in turns, the least of several, and the largest error as a
part of the largest exact sum. Weights of 8 bits and of 7: without VNNI, processors add two products in i16, where those
of u8 and i8 don't fit.

Then whole networks (timm's, random weights, ``td.quantize(dag, data, "x86")``): by the float module, by what
``to_torch()`` writes, and by ``to_torch(integers=True)``; SQNRs are of the float module's results on another image.

Usage: ``python benchmarks/bench_torch_integers.py [NETWORK ...]``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch

import tdagger as td

#: Rows, entries and channels of linear layers; channels, size and groups of 3 x 3 convolutions.
LINEAR = ((1, 768, 768), (16, 768, 3072), (197, 768, 3072), (197, 3072, 768))
CONVOLUTION = ((64, 56, 1), (256, 14, 1), (96, 56, 96))
NETWORKS = ("resnet50", "vit_small_patch16_224", "efficientnet_b0")
TURNS, ZERO, SCALE = 7, 100, 0.02


def times(kernels: dict[str, Callable[[], Any]]) -> dict[str, float]:
    least = dict.fromkeys(kernels, float("inf"))
    for _ in range(TURNS):
        for name, kernel in kernels.items():
            start = time.process_time()
            kernel()
            least[name] = min(least[name], time.process_time() - start)
    return least


def shown(layer: str, bits: int, kernels: dict[str, Callable[[], Any]], sums: torch.Tensor) -> None:
    exact = sums * SCALE
    found = times(kernels)
    for name, kernel in kernels.items():
        error = float((kernel().double() - exact).abs().max() / exact.abs().max())
        part = found[name] / found["float"]
        print(f"| {layer} | {bits} | {name} | {found[name] * 1e3:.2f} | {part:.2f} | {error:.1e} |", flush=True)


def linear(rows: int, size: int, channels: int, bits: int) -> None:
    x = torch.randint(0, 256, (rows, size), dtype=torch.uint8)
    w = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (channels, size), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(w, [rows, size])
    per, zeros = torch.ones(channels), torch.zeros(channels, dtype=torch.int64)
    a, b = (x.float() - ZERO) * SCALE, w.float()
    moved, sums = (x.int() - 128).to(torch.int8), w.int().sum(1, dtype=torch.int32) * (128 - ZERO)
    kernels: dict[str, Callable[[], Any]] = {
        "float": lambda: torch.nn.functional.linear(a, b),
        "_int_mm": lambda: (torch._int_mm(moved, w.t()) + sums) * SCALE,
        "qlinear_pointwise": lambda: torch.ops.onednn.qlinear_pointwise(
            x, SCALE, ZERO, packed, per, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        ),
    }
    shown(f"linear {rows} x {size} x {channels}", bits, kernels, (x.double() - ZERO) @ w.double().t())


def convolution(channels: int, size: int, groups: int, bits: int) -> None:
    x = torch.randint(0, 256, (1, channels, size, size), dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (channels, channels // groups, 3, 3), dtype=torch.int8)
    per, zeros = torch.ones(channels), torch.zeros(channels, dtype=torch.int64)
    how: Any = ([1, 1], [1, 1], [1, 1], groups)
    packed = torch.ops.onednn.qconv_prepack(w, per, SCALE, ZERO, *how, list(x.shape))
    a, b = (x.float() - ZERO) * SCALE, w.float()
    kernels: dict[str, Callable[[], Any]] = {
        "float": lambda: torch.nn.functional.conv2d(a, b, None, *how),
        "qconv_pointwise": lambda: torch.ops.onednn.qconv_pointwise(
            x, SCALE, ZERO, packed, per, zeros, None, *how, 1.0, 0, torch.float32, "none", [], ""
        ),
    }
    sums = torch.nn.functional.conv2d(x.double() - ZERO, w.double(), None, *how)
    shown(f"convolution of {channels} at {size}, {groups} groups", bits, kernels, sums)


def network(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    data = [torch.randn(1, 3, 224, 224) for _ in range(4)]
    small = td.quantize(td.from_torch(model, data[0]), data[:3], "x86", correct=False)
    modules = {"float": model, "dequantized": small.to_torch(), "on integers": small.to_torch(integers=True)}
    with torch.no_grad():
        found = times({n: partial(m, data[3]) for n, m in modules.items()})
        results = {n: m(data[3]) for n, m in modules.items()}
    for n, out in results.items():
        away = (out - results["float"]).square().sum()
        quality = float(10 * torch.log10(results["float"].square().sum() / away)) if away else float("inf")
        print(f"| {name} | {n} | {quality:.1f} | {found[n] * 1e3:.1f} | {found[n] / found['float']:.2f} |", flush=True)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| layer | bits | kernel | ms | of float | error |\n|---|---:|---|---:|---:|---:|")
    for bits in (8, 7):
        for shape in LINEAR:
            linear(*shape, bits)
        for shape in CONVOLUTION:
            convolution(*shape, bits)
    print("\n| network | by | SQNR dB | ms | of float |\n|---|---|---:|---:|---:|")
    for name in sys.argv[1:] or NETWORKS:
        network(name)


if __name__ == "__main__":
    main()
