"""All that ``dag.cost()`` tells of a network, timed against counters that know less.

Processor time on one thread, the least of some runs, in one process. Ours is ``cost_of`` on the graph of an imported
network: multiply-adds, FLOPs of each kind, attention and its masks, reads and writes in bytes and elements under three
models of traffic, memory, for the whole, by op, by module and by value. "cold" is the first time, when nothing is known
of the bodies of composites; each later run is of a new ``Graph`` of the same values.

- counter: torch's ``FlopCounterMode`` on a forward pass of the network on the meta device: FLOPs of convolutions,
  matrix products and attention.
- shape prop: torch.fx's ``ShapeProp`` with fake tensors over the graph of ``torch.export.export``: no costs at all, but
  what one would count them from.

Goal: under 100 ms for 1,000 nodes. A composite is one node: a recurrent network's, whose body is unrolled to thousands
of values that are all counted once, takes what they take. A "-" is for what torch can't do with a network.

Usage: ``python benchmarks/bench_cost.py [--runs N] [NETWORK ...]``
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _zoo import NETWORKS, OTHERS, any_network, chosen, quiet, seconds
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import tdagger as td
from tdagger.analysis.cost.report import cost_of


class Times(NamedTuple):
    """Seconds; None for what torch can't do with the network."""

    nodes: int
    cold: float
    cost: float
    counter: float | None
    shapes: float | None


def counter(module: torch.nn.Module, args: Any, kwargs: Any) -> Callable[[], Any]:
    """torch's counter over a forward pass on the meta device."""
    module = copy.deepcopy(module).to("meta")
    args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta"), (args, kwargs))

    def count() -> None:
        with FlopCounterMode(display=False):
            module(*args, **kwargs)

    return count


def shapes(module: torch.nn.Module, args: Any, kwargs: Any) -> Callable[[], Any]:
    """ShapeProp over an exported graph, with the weights and inputs as fake tensors made beforehand."""
    graph = torch.export.export(module, args, kwargs, strict=False).graph_module
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    given = [n.meta["val"] for n in graph.graph.nodes if n.op == "placeholder"]
    with mode:
        fakes = tree_map_only(torch.Tensor, lambda x: torch.empty(tuple(x.shape), dtype=x.dtype), given)
    return lambda: ShapeProp(graph, mode).propagate(*fakes)


def peer(runs: int, make: Callable[..., Callable[[], Any]], *network: Any) -> float | None:
    try:
        function = make(*network)
        return min(seconds(function) for _ in range(runs))
    except (RuntimeError, NotImplementedError, ValueError):
        return None


def measured(name: str, runs: int) -> Times:
    with quiet():
        network = any_network(name, 1)
        graph = td.from_torch(*network).graph
        cold = seconds(cost_of, graph)
        named = graph.inputs, graph.outputs, graph.updates, graph.name, graph.values
        ours = min(seconds(cost_of, td.Graph(*named)) for _ in range(runs))
        return Times(len(graph), cold, ours, peer(runs, counter, *network), peer(min(runs, 3), shapes, *network))


def told(time: float | None, ours: float) -> str:
    return f"{'-':>12} {'':>7}" if time is None else f"{time * 1e3:10.1f}ms {time / ours:6.1f}x"


def main() -> None:
    names, runs = chosen(__doc__, 5)
    names = [*NETWORKS, *OTHERS] if names == list(NETWORKS) else names
    print(f"{'network':32} {'nodes':>6} {'cold':>9} {'cost':>9} {'per 1000 nodes':>15}", end="")
    print(f" {'counter':>12} {'/ cost':>7} {'shape prop':>12} {'/ cost':>7}")
    worst = 0.0
    for name in names:
        t = measured(name, runs)
        worst = max(worst, t.cold / t.nodes)
        line = f"{name:32} {t.nodes:>6} {t.cold * 1e3:7.1f}ms {t.cost * 1e3:7.1f}ms {t.cost / t.nodes * 1e6:13.1f}ms"
        print(f"{line} {told(t.counter, t.cost)} {told(t.shapes, t.cost)}", flush=True)
    print(f"\nat most {worst * 1e6:.0f} ms for 1,000 nodes, cold")


if __name__ == "__main__":
    main()
