"""``td.from_torch`` against ``torch.export.export(..., strict=False)`` alone, on the same networks.

from_torch exports too, so 1.0 would mean that all the rest costs nothing. Processor time on one thread, both in
one process and in turns after one run of each, at several depths of the stack; the median of each, and their
ratio. Goal: a median ratio of at most 1.15 over 20 networks.

Usage: ``python benchmarks/bench_import.py [--runs N] [NETWORK ...]``, names of timm or of tests/networks.py
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from _zoo import any_network, at_depth, chosen, quiet, seconds

import tdagger as td


def export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.export.export(module, args, kwargs, strict=False)


def main() -> None:
    names, runs = chosen(__doc__, 5)
    ratios: dict[str, float] = {}
    print(f"{'network':<30} {'export':>9} {'from_torch':>11} {'ratio':>6}")
    for name in names:
        with quiet():
            work = any_network(name, 1)
            seconds(export, *work), seconds(td.from_torch, *work)
            pairs = [
                (at_depth(7 * i, seconds, export, *work), at_depth(7 * i, seconds, td.from_torch, *work))
                for i in range(runs)
            ]
        base, own = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios[name] = own / base
        print(f"{name:<30} {base:8.3f}s {own:10.3f}s {own / base:6.2f}", flush=True)
    worst = max(ratios, key=lambda n: ratios[n])
    print(f"median {statistics.median(ratios.values()):.2f}, worst {ratios[worst]:.2f} ({worst}); goal: median <= 1.15")


if __name__ == "__main__":
    main()
