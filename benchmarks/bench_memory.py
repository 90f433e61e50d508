"""The memory ``td.from_torch`` and ``to_torch`` take beside the weights, against ``torch.export`` alone.

Each network and each way in a process of its own. Reported is the highest resident set while it works, less what
the process held with torch and timm loaded and no network, less the bytes of the network's weights. The modules of
torch that exporting loads are in it, for both. Goal: at most 300 MB for from_torch: weights are shared, not copied.

Usage: ``python benchmarks/bench_memory.py [NETWORK ...]``
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _zoo import network, quiet

import tdagger as td

NETWORKS = ("resnet50", "vgg11", "vit_large_patch16_224", "convnext_large", "maxvit_tiny_tf_224")


def resident(field: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def export(module: torch.nn.Module, x: torch.Tensor) -> Any:
    return torch.export.export(module, (x,), strict=False)


def back_and_forth(module: torch.nn.Module, x: torch.Tensor) -> Any:
    return td.from_torch(module, x).to_torch()


WAYS = {"torch.export": export, "from_torch": td.from_torch, "+ to_torch": back_and_forth}


def measure(name: str, way: str) -> None:
    """In a process of its own: print the bytes of the weights, and what working took beside them."""
    importlib.import_module("timm")
    with quiet():
        before = resident("VmRSS")
        module, x = network(name, 1)
        weights = sum(t.nbytes for t in module.state_dict().values())
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far becomes what it is now
        kept = WAYS[way](module, x)
        print(weights, resident("VmHWM") - before - weights)
        del kept


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
        return
    print(f"{'MB':<30} {'weights':>9} " + "".join(f"{w:>14}" for w in WAYS))
    worst = 0.0
    for name in sys.argv[1:] or NETWORKS:
        row: list[float] = []
        for way in WAYS:
            command = [sys.executable, __file__, "--measure", name, way]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            weights, more = (int(n) / 1e6 for n in out.split())
            row.append(more)
        worst = max(worst, row[1])
        print(f"{name:<30} {weights:9.1f} " + "".join(f"{m:14.1f}" for m in row), flush=True)
    print(f"worst of from_torch: {worst:.0f} MB beside the weights; goal <= 300 MB")


if __name__ == "__main__":
    main()
