"""The graph itself against torch.fx and onnx-ir: building, walking, rewriting one node in ten.

All three do the same work in the same run, on the same graph: a chain that skips back, repeating
``a, b = a + b, sin(a)``. Times are processor time, the least of some runs: what else the machine does is not
counted.

- build: make every node. tdagger infers each type; for onnx-ir the same type and shape objects are set on
  every value (it infers nothing by itself); torch.fx gets no types at all.
- walk: visit every node once, and count its arguments.
- rewrite: every fifth sin (one node in ten) becomes a cos. tdagger is immutable, so it makes everything after
  the first change anew and types it again; torch.fx and onnx-ir edit in place.

Python's cycle collector is paused for all three, as importers and passes do with ``td.bulk()``; the last row
of each size is tdagger with the collector running.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

SMALL, LARGE = 100_000, 1_000_000
#: Runs of each size; the least time counts, so both sizes get as many.
REPEATS = 3
#: build(nodes) -> graph, walk(graph) -> arguments counted, rewrite(graph) -> (nodes changed, new graph)
Subject = tuple[Callable[[int], Any], Callable[[Any], int], Callable[[Any], tuple[int, Any]]]
WORK = ("build", "walk", "rewrite")


def tdagger_subject() -> Subject:
    import tdagger as td

    add, sin, cos = td.add, td.sin, td.cos
    sin_op = sin(td.input("x", (4, 4))).op

    def build(n: int) -> Any:
        a = b = x = td.input("x", (4, 4))
        for _ in range(n // 2):
            a, b = add(a, b), sin(a)
        return td.Graph({"x": x}, {"y": add(a, b)})

    def walk(graph: Any) -> int:
        return sum(len(value.args) for value in graph)

    def rewrite(graph: Any) -> tuple[int, Any]:
        seen = changed = 0

        def rule(value: Any) -> Any:
            nonlocal seen, changed
            if value.op is not sin_op:
                return None
            seen += 1
            if seen % 5:
                return None
            changed += 1
            return cos(value.args[0])

        result = td.rebuild(graph, rule)
        return changed, result

    return build, walk, rewrite


def fx_subject() -> Subject:
    import torch
    from torch import fx

    def build(n: int) -> Any:
        graph = fx.Graph()
        a = b = graph.placeholder("x")
        for _ in range(n // 2):
            a, b = graph.call_function(torch.add, (a, b)), graph.call_function(torch.sin, (a,))
        graph.output(graph.call_function(torch.add, (a, b)))
        return graph

    def walk(graph: Any) -> int:
        return sum(len(node.all_input_nodes) for node in graph.nodes)

    def rewrite(graph: Any) -> tuple[int, Any]:
        sins = [node for node in graph.nodes if node.target is torch.sin][4::5]
        for node in sins:
            with graph.inserting_after(node):
                new = graph.call_function(torch.cos, node.args)
            node.replace_all_uses_with(new)
            graph.erase_node(node)
        return len(sins), graph

    return build, walk, rewrite


def onnx_subject() -> Subject:
    import onnx_ir as ir

    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((4, 4))

    def node(name: str, *args: Any) -> Any:
        return ir.Node("", name, args, outputs=[ir.Value(type=kind, shape=shape)])

    def build(n: int) -> Any:
        a = b = x = ir.Value(name="x", type=kind, shape=shape)
        nodes: list[Any] = []
        for _ in range(n // 2):
            first, second = node("Add", a, b), node("Sin", a)
            nodes += (first, second)
            a, b = first.outputs[0], second.outputs[0]
        last = node("Add", a, b)
        return ir.Graph([x], list(last.outputs), nodes=[*nodes, last], opset_imports={"": 20})

    def walk(graph: Any) -> int:
        return sum(len(n.inputs) for n in graph)

    def rewrite(graph: Any) -> tuple[int, Any]:
        sins = [n for n in graph if n.op_type == "Sin"][4::5]
        for old in sins:
            new = node("Cos", *old.inputs)
            ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)
        return len(sins), graph

    return build, walk, rewrite


def measure(subject: Subject, nodes: int, repeats: int, collector: bool) -> list[float]:
    """Microseconds per node of each kind of work, the least of ``repeats`` runs on fresh graphs."""
    build, walk, rewrite = subject
    times: list[list[float]] = []
    for _ in range(repeats):
        gc.collect()
        if not collector:
            gc.disable()
        marks = [time.process_time()]
        graph = build(nodes)
        marks.append(time.process_time())
        arguments = walk(graph)
        marks.append(time.process_time())
        changed, result = rewrite(graph)
        marks.append(time.process_time())
        gc.enable()
        assert arguments >= 3 * (nodes // 2)
        assert abs(changed - nodes // 10) <= 1
        times.append([(b - a) / nodes * 1e6 for a, b in pairwise(marks)])
        del graph, result
    return [min(column) for column in zip(*times, strict=True)]


def main() -> None:
    subjects = {"tdagger": tdagger_subject(), "torch.fx": fx_subject(), "onnx-ir": onnx_subject()}
    subjects["tdagger, gc on"] = subjects["tdagger"]
    print(f"{'us per node':<22} {'nodes':>9} " + "".join(f"{w:>10}" for w in WORK))
    results: dict[tuple[str, int], list[float]] = {}
    for nodes in (SMALL, LARGE):
        for name, subject in subjects.items():
            results[name, nodes] = measure(subject, nodes, REPEATS, collector=name.endswith("gc on"))
            print(f"{name:<22} {nodes:>9} " + "".join(f"{t:>10.2f}" for t in results[name, nodes]), flush=True)
    for nodes in (SMALL, LARGE):
        for peer in ("torch.fx", "onnx-ir"):
            pairs = zip(results[peer, nodes], results["tdagger", nodes], strict=True)
            print(f"{peer + ' / tdagger':<22} {nodes:>9} " + "".join(f"{p / own:>9.1f}x" for p, own in pairs))
    for name in subjects:
        growth = zip(results[name, LARGE], results[name, SMALL], strict=True)
        print(f"{name:<22} t(1M)/t(100k)" + "".join(f"{10 * b / a:>9.1f}x" for b, a in growth)[4:])


if __name__ == "__main__":
    main()
