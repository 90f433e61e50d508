"""A quantized network run again and again: what is made of its weights alone is made once.

Weights in few bits are made when they are asked for (:mod:`tdagger.quantization.weights`), and an interpreter asks in
each run: rounding and reading them takes as long as the network.
"""

from __future__ import annotations

from typing import Any

from tdagger.graph import topological
from tdagger.interpreter import Executor, Interpreter
from tdagger.op import Value
from tdagger.tensordag import TensorDAG
from tdagger.transform.passes.fold import static_ends

#: So many bytes of what is made of weights are kept; what is beyond is made in each run.
KEPT = 1 << 26


class Repeated(Interpreter):
    """Runs a network whose weights stay as they are; ``like``: another one of the same network, whose numbers serve.

    >>> import numpy as np, tdagger as td
    >>> runner = Repeated(td.quantize(td.layers.linear(4, 3), target="gpu-weight-only"), "numpy")
    >>> first, again = (runner.run(np.ones((1, 4), "f")) for _ in range(2))
    >>> bool((first == again).all()), [v.op.name for v in runner.made]
    (True, ['dequantize'])
    """

    def __init__(self, network: TensorDAG, framework: str | Executor, like: Repeated | None = None) -> None:
        super().__init__(network, framework)
        self.kept, self.spared = _of_weights(network, KEPT) if like is None else (like.kept, like.spared)
        #: Roundings that are read once, as they were rounded, with what reads each: both are run together.
        self.together = _together(network)
        #: What was made of weights so far.
        self.made: dict[Value, Any] = {} if like is None else like.made

    def run_value(self, value: Value, args: list[Any]) -> Any:
        if value in self.made:
            return self.made[value]
        if value in self.spared and len(self.made) == len(self.kept):
            return None  # all that reads it is there
        if value in self.together:
            return args[0]
        out = super().run_value(value, args)
        if value in self.kept:
            self.made[value] = out
        return out

    def run_op(self, value: Value, args: list[Any]) -> Any:
        if value.args and value.args[0] in self.together:
            return self.framework.read_again(value.args[0], value, args)
        return super().run_op(value, args)


def _together(network: TensorDAG) -> set[Value]:
    """What is rounded to integers for one reader alone, which reads it with the scale and zero point it has."""
    graph = network.graph
    ends = {*graph.outputs.values(), *graph.updates.values()}
    found: set[Value] = set()
    for value in graph.values:
        if value.op.name != "dequantize" or value.args[0].op.name != "quantize" or value.args[0] in ends:
            continue
        rounded = value.args[0]
        same = all(value.op.attributes[k] == rounded.op.attributes[k] for k in ("axis", "block"))
        if same and value.args[1:] == rounded.args[1:] and graph.users[rounded] == [value]:
            found.add(rounded)
    return found


def _of_weights(network: TensorDAG, budget: int) -> tuple[set[Value], set[Value]]:
    """What is made of weights alone and read with other things, up to so many bytes, and what is read for nothing else.

    Buffers that are read with other things themselves are among the first: they may be made when they are asked for.
    """
    graph = network.graph
    kept: set[Value] = set()
    made = static_ends(network)
    behind = {*topological(made)}
    buffers = [v for name, v in graph.buffers.items() if name not in graph.updates]
    for value in (*made, *[v for v in buffers if any(u not in behind for u in graph.users[v])]):
        if value.type.bytes <= budget:
            kept.add(value)
            budget -= value.type.bytes
    ends = {*graph.outputs.values(), *graph.updates.values()}
    spared: set[Value] = set()
    for value in reversed(graph.values):
        users = graph.users[value]
        if users and value not in ends and value not in kept and all(u in kept or u in spared for u in users):
            spared.add(value)
    return kept, spared
