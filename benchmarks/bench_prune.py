"""Structured pruning of resnet152 and of ten times as many blocks against Torch-Pruning, and targets on 20 networks.

The default: what a plan and what the smaller network take, from a network that is there (imported; a module of torch's
for Torch-Pruning) to one with half the FLOPs (Torch-Pruning: a third of the channels of every layer, since it takes no
FLOPs). Processor time of the same run, in turns, the least of some. The large network is a resnet of as many bottleneck
blocks as make ten times resnet152's. "copied" is the most memory that numpy and Python hold beyond what they did, while
a plan is made: weights would be 240 MB, 2.1 GB of the large network.

``--targets``: for the 20 networks of ``_zoo.py`` the FLOPs and parameters that a plan for 70 % and 50 % meets, as the
smaller network is counted anew, and predicted time for 85 % with a device's file.

Usage: ``python benchmarks/bench_prune.py [--runs N] [--times N] | --targets [NETWORK ...]``
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from _zoo import NETWORKS, network, quiet
from timm.models.resnet import Bottleneck, ResNet

import tdagger as td
from tdagger.errors import AttributeValueError
from tdagger.prune.plan import prune_plan
from tdagger.tensordag import TensorDAG

#: resnet152, and ten times its 50 blocks; 800 blocks is what Torch-Pruning was timed on before.
LAYERS = (3, 8, 36, 3)


def resnet(times: int) -> torch.nn.Module:
    return ResNet(Bottleneck, [n * times for n in LAYERS]).eval()


def least(function: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """The least processor time of some runs, in seconds, and what the last one gave."""
    best, found = float("inf"), None
    for _ in range(runs):
        gc.collect()
        start = time.process_time()
        found = function()
        best = min(best, time.process_time() - start)
    return best, found


def by_torch_pruning(module: torch.nn.Module, x: torch.Tensor) -> None:
    """As its documentation calls it."""
    import torch_pruning as tp

    with torch.enable_grad():
        tp.pruner.BasePruner(
            module, x, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.3,
            ignored_layers=[module.fc],
        ).step()  # fmt: skip


def fresh(dag: TensorDAG) -> TensorDAG:
    """The same network without what was found of it."""
    from dataclasses import replace

    return replace(dag)


def speed(runs: int, times: tuple[int, ...]) -> None:
    x = torch.rand(1, 3, 224, 224)
    print("| | blocks | nodes | groups | plan, applied | both | Torch-Pruning | of it | copied by the plan |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    first = 0.0
    for n in times:
        module = resnet(n)
        dag = td.from_torch(module, x)
        dag.prune(flops=0.9, importance="random")  # what is imported and compiled the first time
        found_in, found = least(lambda dag=dag: _groups(fresh(dag)), runs)
        planned_in, _ = least(lambda dag=dag, found=found: prune_plan(dag, found=found, flops=0.5).apply(), runs)
        copied = _copied(dag)
        whole = found_in + planned_in
        peer = float("inf")
        if find_spec("torch_pruning") is not None:
            for _ in range(runs):  # it changes what it is given
                seconds, _ = least(lambda n=n: by_torch_pruning(resnet(n), x), 1)
                built, _ = least(lambda n=n: resnet(n), 1)
                peer = min(peer, seconds - built)
        ratio = f"{whole / peer:.3f}" if peer < float("inf") else ""
        said = f"{peer:.2f} s" if peer < float("inf") else "not installed"
        seconds = [f"{s:.2f} s" for s in (found_in, planned_in, whole)]
        cells = [f"resnet152 x {n}", n * sum(LAYERS), len(dag.graph.values), *seconds, said, ratio]
        print(f"| {' | '.join(map(str, cells))} | {copied / 1e6:.1f} MB |", flush=True)
        if first:
            print(f"\n{n} times the blocks: {whole / first:.1f} times the time")
        first = first or whole


def _groups(dag: TensorDAG) -> Any:
    found = dag.prunable()
    _ = found.groups
    return found


def _copied(dag: TensorDAG) -> int:
    """The most bytes beyond those before, while groups and a plan are made."""
    dag = fresh(dag)
    gc.collect()
    tracemalloc.start()
    prune_plan(dag, found=_groups(dag), flops=0.5)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


# --- targets -----------------------------------------------------------------------------------------------


def targets(names: list[str], device: str) -> None:
    """What is left of what was asked, counted anew of the smaller network."""
    print(f"| network | flops 70 % | flops 50 % | params 70 % | params 50 % | time 85 % ({device}) |")
    print("|---|---:|---:|---:|---:|---:|")
    worst: dict[str, float] = {}
    for name in names:
        dag = td.from_torch(*network(name, 1))
        costs: dict[str, Callable[[TensorDAG], float]] = {
            "flops": lambda d: d.graph.total_flops(),
            "params": lambda d: sum(v.type.size for v in d.graph.parameters.values()),
            "time": lambda d: d.predict_time(device).seconds,
        }
        cells: list[str] = []
        for what, left in (("flops", 0.7), ("flops", 0.5), ("params", 0.7), ("params", 0.5), ("time", 0.85)):
            try:
                small = dag.prune(**{what: left}, importance="random", device=device, least=0.1)
            except AttributeValueError as e:
                cells.append(str(e).partition(":")[2].strip().partition(";")[0])
                continue
            met = costs[what](small) / costs[what](dag)
            worst[what] = max(worst.get(what, 0), abs(met / left - 1))
            cells.append(f"{met:.1%}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\nfurthest off, of what was asked: " + ", ".join(f"{k} {v:.2%}" for k, v in worst.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="for --targets: names of timm")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--times", type=int, default=10, help="how many times resnet152's blocks the large one has")
    parser.add_argument("--targets", action="store_true")
    parser.add_argument("--device", default="epyc-zen4-core", help="for predicted time")
    options = parser.parse_args()
    with quiet():
        if options.targets:
            targets(options.networks or list(NETWORKS), options.device)
        else:
            speed(options.runs, (1, options.times) if options.times > 1 else (1,))


if __name__ == "__main__":
    main()
