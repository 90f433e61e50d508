"""``torch.compile`` of ``td.from_torch(model).to_torch()`` against ``torch.compile`` of the original.

Every network is compiled with the backend ``aot_eager``, which captures it in full (``fullgraph=True``), and its
outputs are compared with the original's. With ``inductor``, which needs a C++ compiler and minutes, the networks
named after ``--inductor`` are compiled too, both ways; processor time of their forward passes at batch 1 on one
thread, in turns, the median of paired runs. Goal: all of them compile, and ours is as fast as the original
compiled (at most 1.05).

Usage: ``python benchmarks/bench_compile.py [--inductor NETWORK[,NETWORK ...]] [--runs N] [NETWORK ...]``
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from _zoo import NETWORKS, network, quiet, seconds

import tdagger as td

#: Kinds that differ for a compiler: convolutions and norms, depthwise ones, attention.
INDUCTOR = ("resnet50", "mobilenetv3_large_100", "vit_base_patch16_224")


def error(own: torch.Tensor, want: torch.Tensor) -> float:
    return float((own - want).abs().max() / want.abs().max())


def compiled(module: torch.nn.Module, backend: str) -> Any:
    torch._dynamo.reset()
    return torch.compile(module, backend=backend, fullgraph=True, dynamic=False)


def captured(name: str) -> None:
    with quiet():
        module, x = network(name, 1)
        own = compiled(td.from_torch(module, x).to_torch(), "aot_eager")
        difference = error(own(x), module(x))
    print(f"{name:<30} aot_eager, error {difference:.1e}", flush=True)
    assert difference <= 1e-5, name


def raced(name: str, runs: int) -> float:
    with quiet():
        module, x = network(name, 1)
        want = module(x)
        theirs = compiled(module, "inductor")
        theirs(x)
        own = torch.compile(td.from_torch(module, x).to_torch(), backend="inductor", fullgraph=True, dynamic=False)
        difference = error(own(x), want)
        calls = max(1, round(0.3 / seconds(theirs, x)))
        pairs: list[tuple[float, float]] = []
        for i in range(2 * runs):
            order = (own, theirs) if i % 2 else (theirs, own)
            times = {id(f): seconds(f, x, calls=calls) for f in order}
            pairs.append((times[id(own)], times[id(theirs)]))
    base = 1e3 * statistics.median(t for _, t in pairs)
    ratio = statistics.median(a / b for a, b in pairs)
    shown = f"error {difference:.1e}, original {base:.1f} ms, ours / original {ratio:.3f}"
    print(f"{name:<30} inductor, {shown}", flush=True)
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=NETWORKS, help="a name of timm")
    parser.add_argument("--inductor", default=",".join(INDUCTOR), help="names with commas; '' for none")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    for name in options.networks:
        captured(name)
    print(f"all {len(options.networks)} compile in one graph")
    ratios = [raced(name, options.runs) for name in options.inductor.split(",") if name]
    if ratios:
        print(f"inductor: median {statistics.median(ratios):.3f}, worst {max(ratios):.3f}; goal <= 1.05")


if __name__ == "__main__":
    main()
