"""``td.from_torch`` against ``torch.export.export(..., strict=False)`` alone, on the same network.

Both in one process, interleaved, after one warm-up of each; prints the median of each and the ratio. Goal: a
ratio of at most 2 on every network (from_torch exports too).

Usage: ``python benchmarks/bench_import.py [--runs N] [NETWORK ...]``
"""

from __future__ import annotations

import gc
import inspect
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _zoo import NETWORKS, chosen, quiet

import tdagger as td


def seconds(function: Callable[..., Any], *args: Any) -> float:
    gc.collect()
    start = time.perf_counter()
    result = function(*args)
    end = time.perf_counter()
    del result
    return end - start


def export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.export.export(module, args, kwargs, strict=False)


def without_cache(kwargs: dict[str, Any], module: torch.nn.Module) -> dict[str, Any]:
    """torch.export alone fails on transformers' caches, so neither side is asked for one."""
    takes = "use_cache" in inspect.signature(module.forward).parameters
    return {**kwargs, "use_cache": False} if takes else kwargs


def main() -> None:
    names, runs = chosen(__doc__)
    ratios: dict[str, float] = {}
    print(f"{'network':<30} {'export':>9} {'from_torch':>11} {'ratio':>6}")
    for name in names:
        with quiet():
            module, args, kwargs = NETWORKS[name](batch=1)
            kwargs = without_cache(kwargs, module)
            work = (module, args, kwargs)
            seconds(export, *work), seconds(td.from_torch, *work)
            pairs = [(seconds(export, *work), seconds(td.from_torch, *work)) for _ in range(runs)]
        base, own = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios[name] = own / base
        print(f"{name:<30} {base:8.3f}s {own:10.3f}s {own / base:6.2f}", flush=True)
    worst = max(ratios, key=lambda n: ratios[n])
    print(f"median {statistics.median(ratios.values()):.2f}, worst {ratios[worst]:.2f} ({worst}); goal <= 2")


if __name__ == "__main__":
    main()
