"""The forward pass of ``td.from_torch(model).to_torch()`` against the original's, both eager.

Batch 1 (``BATCH=8`` in the environment: 8), eval mode, one thread, processor time.
Each run times the original and ours back to back (in turns first)
and gives one ratio; printed is the median of the ratios. Goal: a median of at most 1.0 over 20 timm networks, none
above 1.1.

Usage: ``python benchmarks/bench_forward.py [--runs N] [NETWORK ...]``, names of timm or of tests/networks.py
"""

from __future__ import annotations

import os
import statistics
import time

from _zoo import any_network, chosen, quiet, seconds

import tdagger as td

#: A small network runs in milliseconds: it is called until this many seconds have passed.
ENOUGH = 0.1


def ratio(name: str, runs: int, batch: int = 1) -> tuple[float, float]:
    """Milliseconds of the original, and our time over it: the median of paired runs."""
    with quiet():
        module, args, kwargs = any_network(name, batch)
        own = td.from_torch(module, args, kwargs).to_torch().eval()
        for warm in (own, module, module):
            start = time.process_time()
            warm(*args, **kwargs)
            first = time.process_time() - start
        calls = max(1, round(ENOUGH / first))
        times: dict[int, list[float]] = {id(own): [], id(module): []}
        for i in range(2 * runs):
            for each in (module, own) if i % 2 else (own, module):
                times[id(each)].append(seconds(each, *args, calls=calls, **kwargs))
    pairs: list[tuple[float, float]] = list(zip(times[id(own)], times[id(module)], strict=True))
    return 1e3 * statistics.median(times[id(module)]), statistics.median(a / b for a, b in pairs)


def main() -> None:
    names, runs = chosen(__doc__, 5)
    batch = int(os.environ.get("BATCH", "1"))
    found: dict[str, float] = {}
    print(f"{'network':<30} {'original':>10} {'ours / original':>16}")
    for name in names:
        base, found[name] = ratio(name, runs, batch)
        print(f"{name:<30} {base:8.1f}ms {found[name]:16.3f}", flush=True)
    worst = max(found, key=lambda n: found[n])
    print(f"median {statistics.median(found.values()):.3f}, worst {found[worst]:.3f} ({worst}); "
          "goal: median <= 1.0, none above 1.1")  # fmt: skip


if __name__ == "__main__":
    main()
