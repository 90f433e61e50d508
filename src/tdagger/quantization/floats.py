"""Quantized networks back in float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import Graph, topological
from tdagger.interpret import run
from tdagger.names import shown
from tdagger.network import Weight, Weights
from tdagger.op import Array, Value
from tdagger.ops.elementwise import cast
from tdagger.ops.source import Input, Leaf, Parameter, Random, const
from tdagger.ops.structure import Item
from tdagger.quantization.weights import Made
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.edit import Edit, finished, state_of


def dequantize(dag: TensorDAG) -> TensorDAG:
    """A network of quantized values in float; see :func:`tdagger.dequantize`.

    InputError if it has none. What works on the numbers themselves (QLinearConv) stays.
    """
    floats = _Floats(dag)
    edit = Edit(dag).run(floats.rule)
    if not floats.changed:
        raise InputError(f"{shown(dag.name)} has no quantized values")
    state: dict[str, Weight] = {}
    for name, weight in state_of(dag).items():
        state[name] = floats.state.pop(name, weight)
    state |= floats.state
    own = {n: n for n in dag.weights if n not in floats.made}
    made = Made(floats.made)
    weights = Weights.of(dag.weights, own) | Weights({n: (made, n) for n in floats.made})
    return finished(dag, edit.graph(), edit.origins, weights=weights, state=state)


class _Floats:
    """What stands for quantized values."""

    def __init__(self, dag: TensorDAG) -> None:
        self.dag = dag
        self.changed = False
        self.made: dict[str, Callable[[], Array]] = {}
        self.state: dict[str, Weight] = {}
        self.taken = {**state_of(dag)}

    def rule(self, value: Value, args: tuple[Any, ...]) -> Any:
        name = value.op.name
        if name == "fake_quantize":
            self.changed = True
            return args[0]
        if name != "dequantize":
            return None
        source = value.args[0]
        rounded = source.args[0] if isinstance(source.op, Item) else source
        if rounded.op.name in ("quantize", "quantize_dynamic"):
            self.changed = True
            x = self._before(rounded, args[0])
            return x if x.dtype is value.dtype else cast(x, value.dtype)
        cone = topological([value])
        if any(isinstance(v.op, Input | Random) for v in cone):
            return None
        self.changed = True
        return self._weight(value, cone)

    def _before(self, rounded: Value, now: Value) -> Value:
        """What was rounded, as it is now: the argument of what became of the rounding."""
        made = now.args[0] if isinstance(now.op, Item) else now
        return made.args[0] if made.op.name == rounded.op.name else made

    def _weight(self, value: Value, cone: list[Value]) -> Value:
        """A weight of the name that its numbers had, worked out when it is asked for."""
        leaves = [v for v in cone if isinstance(v.op, Leaf)]
        weights = self.dag.weights

        def data() -> Array:
            return np.asarray(run(Graph({}, {"out": value}), {}, weights)[0]["out"])

        first = next((v for v in cone if isinstance(v.op, Leaf) and v.type.size == value.type.size), None)
        if not leaves or first is None:
            return const(data(), value.dtype)
        assert isinstance(first.op, Leaf)
        users = [u for u in self.dag.graph.users[first] if u is not value]
        own = first.op.leaf if first.shape == value.shape and not users else f"{first.op.leaf}_float"
        while own in self.made or (own != first.op.leaf and own in self.taken):
            own += "_"
        self.made[own] = data
        self.state[own] = Weight(value.type, True)
        return Parameter(own, value.type)()
