"""The forward pass of ``td.from_torch(model).to_torch()`` against the original's, both eager.

Batch 1 and 8, eval mode, one thread. Each run times the original and ours back to back (in turns first), and
gives one ratio; printed is the median of the ratios. Goal: at most 1.05.

Usage: ``python benchmarks/bench_forward.py [--runs N] [NETWORK ...]``
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from _zoo import NETWORKS, chosen, quiet

import tdagger as td

BATCHES = (1, 8)
#: A small network runs in microseconds: it is called until this many seconds have passed.
ENOUGH = 0.05


def seconds(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        module(*args, **kwargs)
    return time.perf_counter() - start


def ratio(name: str, batch: int, runs: int) -> float:
    """Our time over the original's: the median of paired runs."""
    with quiet():
        network = NETWORKS[name](batch=batch)
        own = td.from_torch(*network).to_torch().eval()
        work = (network.args, network.kwargs)
        seconds(own, *work, 1)
        seconds(network.module, *work, 1)
        calls = max(1, round(ENOUGH / seconds(network.module, *work, 1)))
        ratios: list[float] = []
        for i in range(2 * runs):
            order = (network.module, own) if i % 2 else (own, network.module)
            times = {id(module): seconds(module, *work, calls) for module in order}
            ratios.append(times[id(own)] / times[id(network.module)])
    return statistics.median(ratios)


def main() -> None:
    names, runs = chosen(__doc__)
    found: list[float] = []
    print(f"{'ours / original':<30} " + "".join(f"{f'batch {b}':>9}" for b in BATCHES))
    for name in names:
        row = [ratio(name, batch, runs) for batch in BATCHES]
        found += row
        print(f"{name:<30} " + "".join(f"{r:>9.3f}" for r in row), flush=True)
    print(f"median {statistics.median(found):.3f}, worst {max(found):.3f}; goal <= 1.05")


if __name__ == "__main__":
    main()
