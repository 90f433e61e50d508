"""Optimised networks against eager: ``dag.optimize()`` then ``to_torch()``, batch 1, one thread, processor time.

Each run times the original, what comes back without passes and what comes back optimised, one after the other; printed
are the medians of the ratios, the values before and after, and the largest error relative to the largest output.
Goal: at least 1.15 on the median of the convolutional ones (all but the last two of the list), none below 1.0.

Usage: ``python benchmarks/bench_optimize.py [--runs N] [NETWORK ...]``, names of timm or of tests/networks.py
"""

from __future__ import annotations

import statistics

import torch
from _zoo import any_network, chosen, quiet, seconds

import tdagger as td

NETWORKS = (
    "resnet18", "resnet50", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "regnety_004", "densenet121",
    "inception_v3", "ghostnet_100", "vgg11_bn", "convnext_atto", "vit_tiny_patch16_224",
)  # fmt: skip


def measure(name: str, runs: int) -> float:
    """How many times as fast as the original the optimised network is."""
    with quiet(), torch.no_grad():
        module, args, kwargs = any_network(name, 1)
        dag = td.from_torch(module, args, kwargs)
        fast = dag.optimize()
        subjects = [module, dag.to_torch().eval(), fast.to_torch().eval()]
        wanted, got = subjects[0](*args, **kwargs), subjects[2](*args, **kwargs)
        error = float((wanted - got).abs().max() / wanted.abs().max())
        subjects[1](*args, **kwargs)
        times = [[seconds(network, *args, **kwargs) for network in subjects] for _ in range(runs)]
    plain, optimised = (statistics.median(t[0] / t[i] for t in times) for i in (1, 2))
    values = f"{len(dag.graph)} -> {len(fast.graph)}"
    print(f"{name:<24} {plain:>12.2f} {optimised:>12.2f} {values:>14} {error:>9.1e}", flush=True)
    return optimised


def main() -> None:
    names, runs = chosen(__doc__, 12, NETWORKS)
    print(f"{'original / ...':<24} {'as it comes':>12} {'optimised':>12} {'values':>14} {'error':>9}")
    found = {name: measure(name, runs) for name in names}
    counted = [v for n, v in found.items() if n not in NETWORKS[-2:]]
    if counted:
        print(f"median of {len(counted)} convolutional networks {statistics.median(counted):.2f}; goal 1.15")


if __name__ == "__main__":
    main()
