"""The forward pass of ``td.from_torch(model).to_torch()`` against the original's and against flat code, all eager.

Batch 1 (``BATCH=8`` in the environment: 8), eval mode, one thread, processor time. Flat code is one ``forward`` of
the same graph with numbers for sizes, in which modules only hold state: what real layers and sizes cost shows there.
Each run times the three one after the other, in a turn that goes on with each, and gives two ratios; printed are the
medians of these. Goals: ours / original a median of at most 1.0, none above 1.1; ours / flat a median of at most 1.02.

Usage: ``python benchmarks/bench_forward.py [--runs N] [NETWORK ...]``, names of timm or of tests/networks.py
"""

from __future__ import annotations

import os
import statistics
import time
from typing import NamedTuple

from _zoo import any_network, chosen, quiet, seconds

import tdagger as td
from tdagger.frameworks.torch.exporter import module_of

#: A small network runs in milliseconds: it is called until this many seconds have passed.
ENOUGH = 0.1


class Ratios(NamedTuple):
    """Milliseconds of the original, our time over it, over that of flat code, and that of flat code over it."""

    base: float
    original: float
    flat: float
    flat_original: float


def ratios(name: str, runs: int, batch: int = 1) -> Ratios:
    """The medians of paired runs of one network."""
    with quiet():
        module, args, kwargs = any_network(name, batch)
        dag = td.from_torch(module, args, kwargs)
        own, flat = dag.to_torch().eval(), module_of(dag, copy=False, plain=False, flat=True).eval()
        order = [module, own, flat]
        for warm in (own, flat, module, module):
            start = time.process_time()
            warm(*args, **kwargs)
            first = time.process_time() - start
        calls = max(1, round(ENOUGH / first))
        times: dict[int, list[float]] = {id(m): [] for m in order}
        for _ in range(3 * runs):
            for each in order:
                times[id(each)].append(seconds(each, *args, calls=calls, **kwargs))
            order.append(order.pop(0))
    base, ours, plain = times[id(module)], times[id(own)], times[id(flat)]

    def over(a: list[float], b: list[float]) -> float:
        return statistics.median(x / y for x, y in zip(a, b, strict=True))

    return Ratios(1e3 * statistics.median(base), over(ours, base), over(ours, plain), over(plain, base))


def main() -> None:
    names, runs = chosen(__doc__, 5)
    batch = int(os.environ.get("BATCH", "1"))
    found: dict[str, Ratios] = {}
    print(f"{'network':<30} {'original':>10} {'ours / original':>16} {'ours / flat':>12} {'flat / original':>16}")
    for name in names:
        r = found[name] = ratios(name, runs, batch)
        print(f"{name:<30} {r.base:8.1f}ms {r.original:16.3f} {r.flat:12.3f} {r.flat_original:16.3f}", flush=True)
    worst = max(found, key=lambda n: found[n].original)
    print(f"ours / original: median {statistics.median(r.original for r in found.values()):.3f}, "
          f"worst {found[worst].original:.3f} ({worst}); goal: median <= 1.0, none above 1.1")  # fmt: skip
    worst = max(found, key=lambda n: found[n].flat)
    print(f"ours / flat: median {statistics.median(r.flat for r in found.values()):.3f}, "
          f"worst {found[worst].flat:.3f} ({worst}); goal: median <= 1.02")  # fmt: skip


if __name__ == "__main__":
    main()
