"""Finding the axes of a network, and unbatch and resize with them, for more and more layers of GPT-2.

The network is transformers' GPT2LMHeadModel of a tiny width, batch 1, so that its number of nodes is what takes time.
Processor time on one thread, the least of some runs, ours and the peers' in one process:

- axes: ``Axes(graph)``, then names, then ``unbatch("b")`` and ``resize(b=3)`` of the graph that was imported. What is
  known of the bodies of composites is forgotten before the run that "cold" tells of.
- shape prop: torch.fx's ShapeProp with fake tensors over the graph of ``torch.export.export``: as inference does, it
  visits every node once and says what its shape is, in numbers. That is the fairest peer of inference alone.
- dynamic: ``torch.export.export`` with a dynamic batch (from 2, since a batch of 1 can't be dynamic) is how one gets a
  network of any batch without tdagger; with it ``from_torch`` at batch 1 and ``resize(b=3)`` together.

Goals: time in proportion to the nodes, 10,000 nodes in under 3 s.

Usage: ``python benchmarks/bench_axes.py [--runs N] [LAYERS ...]``; 200 layers have 10,000 nodes
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _zoo import quiet, seconds
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp
from transformers import GPT2Config, GPT2LMHeadModel

import tdagger as td
from tdagger.analysis.axes import algebra as axes_module
from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.transform import networks

LAYERS = (1, 4, 16, 64, 200)
#: Above so many layers export is not timed: it takes minutes, and the trend is told.
MOST_EXPORTED = 64
VOCABULARY, SEQUENCE = 97, 16


def gpt2(layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=layers, n_head=4, n_positions=64, use_cache=False,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def tokens(batch: int) -> tuple[torch.Tensor]:
    return (torch.randint(0, VOCABULARY, (batch, SEQUENCE)),)


def least(runs: int, function: Callable[..., Any], *args: Any) -> float:
    return min(seconds(function, *args) for _ in range(runs))


class Ours(NamedTuple):
    """Seconds of each kind of work."""

    nodes: int
    cold: float
    axes: float
    names: float
    unbatch: float
    resize: float


def ours(dag: td.TensorDAG, runs: int) -> Ours:
    axes_module._BODIES.clear()
    cold = seconds(Axes, dag.graph)
    warm = least(runs, Axes, dag.graph)
    naming = least(runs, lambda: NamedAxes(Axes(dag.graph))) - warm
    named = NamedAxes(Axes(dag.graph))
    without = least(runs, lambda: networks.without(named, named.term("b"), dag.origins))
    resized = least(runs, lambda: networks.at_sizes(named, {"b": 3}, dag.origins))
    return Ours(len(dag.values), cold, warm, max(naming, 0.0), without, resized)


def shape_prop(program: torch.export.ExportedProgram) -> Callable[[], Any]:
    """ShapeProp over an exported graph, with the weights and inputs as fake tensors made beforehand."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    module = program.graph_module
    values = [n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"]
    with mode:
        fakes = [torch.empty(tuple(v.shape), dtype=v.dtype) for v in values]
    return lambda: ShapeProp(module, mode).propagate(*fakes)


def dynamic(module: torch.nn.Module) -> Any:
    batch = torch.export.Dim("batch", min=2, max=64)
    return torch.export.export(module, tokens(2), dynamic_shapes={"input_ids": {0: batch}}, strict=False)


def imported_and_resized(module: torch.nn.Module) -> td.TensorDAG:
    return td.from_torch(module, tokens(1)).resize(b=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("layers", nargs="*", type=int, default=list(LAYERS), help=f"{LAYERS} by default")
    parser.add_argument("--runs", type=int, default=3, help="of each kind of work; the least time counts")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    work = ("axes", "names", "unbatch", "resize")
    print(
        f"{'layers':>6} {'nodes':>6} {'cold':>8} " + "".join(f"{w:>9}" for w in work) + "   us per node of each", end=""
    )
    print(f" {'shape prop':>12} {'its nodes':>9} {'/ axes':>7} {'dynamic':>8} {'import+resize':>14} {'ratio':>6}")
    for layers in options.layers:
        with quiet():
            module = gpt2(layers)
            dag = td.from_torch(module, tokens(1))
            found = ours(dag, options.runs)
            each = [getattr(found, w) for w in work]
            line = f"{layers:>6} {found.nodes:>6} {found.cold * 1e3:6.1f}ms " + "".join(
                f"{t * 1e3:7.1f}ms" for t in each
            )
            line += "  " + "".join(f"{t / found.nodes * 1e6:5.1f}" for t in each)
            if layers <= MOST_EXPORTED:
                program = torch.export.export(module, tokens(1), strict=False)
                prop = least(options.runs, shape_prop(program))
                exported, both = least(2, dynamic, module), least(2, imported_and_resized, module)
                nodes = len(program.graph_module.graph.nodes)
                line += f" {prop * 1e3:10.1f}ms {nodes:>9} {prop / found.axes:6.1f}x {exported:7.2f}s {both:13.2f}s"
                line += f" {both / exported:6.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
