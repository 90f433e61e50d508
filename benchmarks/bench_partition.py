"""Partition of a graph into acyclic parts against torch.fx's CapabilityBasedPartitioner.

Both get the graph of ``bench_graph.py``, a chain that skips back, of which every tenth op isn't supported, and say
which parts there are: acyclic ones, each all supported or all not (fx: those that are supported). fx proposes
partitions at 1,000 and 2,000 nodes, of which it takes about the cube; tdagger partitions 100,000 and 1,000,000 by what
is supported, into 8 balanced stages, and by memory. "networks" is the time to make a network of every part besides,
which is done when it is first asked for. Processor time, the least of some runs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

FX_NODES = (1_000, 2_000)
NODES = (100_000, 1_000_000)
REPEATS = 3


def timed(function: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """The least processor time in seconds, and the result of the last run."""
    least, result = float("inf"), None
    for _ in range(repeats):
        result = None
        gc.collect()
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
    return least, result


def fx_time(nodes: int) -> tuple[float, int]:
    """Seconds that fx needs, and how many partitions it proposes."""
    import torch
    from torch import fx
    from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
    from torch.fx.passes.operator_support import OperatorSupportBase

    graph = fx.Graph()
    a = b = graph.placeholder("x")
    for _ in range(nodes // 2):
        a, b = graph.call_function(torch.add, (a, b)), graph.call_function(torch.sin, (a,))
    graph.output(graph.call_function(torch.add, (a, b)))
    module = fx.GraphModule(torch.nn.Module(), graph)
    unsupported = {n for i, n in enumerate(graph.nodes) if i % 10 == 0}

    class Support(OperatorSupportBase):
        def is_node_supported(self, submodules: Any, node: fx.Node) -> bool:
            return node.op == "call_function" and node not in unsupported

    def propose() -> Any:
        return CapabilityBasedPartitioner(module, Support(), allows_single_node_partition=True).propose_partitions()

    seconds, found = timed(propose, 1)
    return seconds, len(found)


def network(nodes: int) -> Any:
    import tdagger as td

    def chain(x: Any) -> Any:
        a = b = x
        for _ in range(nodes // 2):
            a, b = td.add(a, b), td.sin(a)
        return td.add(a, b)

    dag = td.network(chain, {"x": (4, 4)})
    dag.graph.values  # noqa: B018  # its order is known, as fx's is
    return dag


def main() -> None:
    per_node: dict[str, float] = {}
    print(f"{'':<26} {'nodes':>9} {'seconds':>9} {'parts':>7} {'us/node':>9} {'networks s':>11}")
    for nodes in FX_NODES:
        seconds, count = fx_time(nodes)
        per_node[f"fx {nodes}"] = seconds / nodes
        print(
            f"{'torch.fx, supported':<26} {nodes:>9} {seconds:>9.3f} {count:>7} {seconds / nodes * 1e6:>9.1f}",
            flush=True,
        )
    print(f"torch.fx t({FX_NODES[1]})/t({FX_NODES[0]}) {2 * per_node['fx 2000'] / per_node['fx 1000']:.1f}x")
    for nodes in NODES:
        dag = network(nodes)
        unsupported = {v for i, v in enumerate(dag.values) if i % 10 == 0}
        asked: dict[str, dict[str, Any]] = {
            "supported": {"supported": lambda v, u=unsupported: v not in u},
            "8 stages": {"stages": 8},
            "memory": {"memory": 300},
        }
        for name, kwargs in asked.items():
            seconds, found = timed(lambda dag=dag, kwargs=kwargs: dag.partition(**kwargs))
            assert all(e.source < e.target for e in found.edges)
            made, _ = timed(lambda found=found: [p.network for p in found.parts], 1)
            per_node[f"{name} {nodes}"] = seconds / nodes
            row = f"{'tdagger, ' + name:<26} {nodes:>9} {seconds:>9.3f} {len(found.parts):>7}"
            print(f"{row} {seconds / nodes * 1e6:>9.2f} {made:>11.3f}", flush=True)
            del found
    for name in ("supported", "8 stages", "memory"):
        growth = 10 * per_node[f"{name} {NODES[1]}"] / per_node[f"{name} {NODES[0]}"]
        print(f"tdagger, {name}: t(1M)/t(100k) {growth:.1f}x")
    ratio = per_node["fx 2000"] / per_node["supported 100000"]
    print(f"torch.fx at 2,000 nodes / tdagger at 100,000, per node: {ratio:.0f}x")


if __name__ == "__main__":
    main()
