"""Quantized networks back in float."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import Graph, label, topological
from tdagger.interpret import run
from tdagger.library.arithmetic import clamp
from tdagger.library.quantized import GRIDS
from tdagger.names import shown
from tdagger.network import Weight, Weights
from tdagger.op import Array, Value
from tdagger.ops.elementwise import cast
from tdagger.ops.source import Input, Leaf, Parameter, Random, const
from tdagger.ops.structure import Item
from tdagger.quantization.weights import with_tied
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.edit import Edit, finished, state_of

#: What gives no number below 0, by its label.
_POSITIVE = frozenset({"relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "exp", "abs", "sqrt", "softplus"})
#: What gives some of the numbers that it takes, or their means.
_AMONG = frozenset(
    {"group", "ungroup", "permute", "slice", "repeat", "max_pool", "avg_pool", "adaptive_avg_pool", "mean",
     "dequantize"}
)  # fmt: skip
#: What gives nothing below 0 of tensors without.
_OF_ALL = frozenset({"concat", "add", "multiply", "maximum"})
_CLIPS = frozenset({"clamp", "hardtanh"})


def dequantize(dag: TensorDAG) -> TensorDAG:
    """A network of quantized values in float; see :func:`tdagger.dequantize`.

    InputError if it has none. What works on the numbers themselves (QLinearConv) stays, and so does what is read with
    another scale than it was rounded with. What is rounded to one side of 0, and may be on the other, is clipped as
    it was: quantizers leave out activations that rounding does as well.
    """
    floats = _Floats(dag)
    edit = Edit(dag).run(floats.rule)
    if not floats.changed:
        raise InputError(f"{shown(dag.name)} has no quantized values that are read in float as they were rounded")
    state: dict[str, Weight] = {}
    for name, weight in state_of(dag).items():
        state[name] = floats.state.pop(name, weight)
    state |= floats.state
    state, made = with_tied(state, floats.made)
    weights = Weights.of(dag.weights, {n: n for n in dag.weights if n not in made}) | made
    return finished(dag, edit.graph(), edit.origins, weights=weights, state=state)


class _Floats:
    """What stands for quantized values."""

    def __init__(self, dag: TensorDAG) -> None:
        self.dag = dag
        self.changed = False
        self.ends: dict[Value, tuple[float, float] | None] = {}
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
            if not self._is_same(value, rounded):
                return None
            self.changed = True
            x = self._before(rounded, args[0])
            if rounded.op.name == "quantize":
                x = self._clipped(rounded, x)
            return x if x.dtype is value.dtype else cast(x, value.dtype)
        cone = topological([value])
        if any(isinstance(v.op, Input | Random) for v in cone):
            return None
        self.changed = True
        return self._weight(value, cone)

    def _is_same(self, value: Value, rounded: Value) -> bool:
        """Whether numbers are read as they were rounded."""
        if rounded.op.name == "quantize_dynamic":
            return all(isinstance(a.op, Item) and a.args[0] is rounded for a in value.args[1:])
        if any(value.op.attributes[k] != rounded.op.attributes[k] for k in ("axis", "block")):
            return False
        pairs = zip_longest(value.args[1:], rounded.args[1:])
        return all(a is b or self._is_equal(a, b) for a, b in pairs)

    def _is_equal(self, a: Value | None, b: Value | None) -> bool:
        """Whether scales or zero points are the same, but for their element types; None is 0 everywhere."""
        x, y = (np.zeros((), np.int8) if v is None else self._known(v) for v in (a, b))
        if x is None or y is None or not (x.size == y.size or a is None or b is None):
            return False
        return bool(np.isclose(x.astype(np.float64).ravel(), y.astype(np.float64).ravel(), 1e-6, 0).all())

    def _known(self, value: Value) -> Array | None:
        """What doesn't depend on inputs."""
        if any(isinstance(v.op, Input | Random) for v in topological([value])):
            return None
        return np.asarray(run(Graph({}, {"out": value}), {}, self.dag.weights)[0]["out"])

    def _clipped(self, rounded: Value, x: Value) -> Value:
        """What was rounded, clipped at the ends of the range if 0 is one of them and it may be beyond."""
        source, ends = rounded.args[0], self._ends(rounded)
        if (
            isinstance(source.op, Input)
            or ends is None
            or 0 not in ends
            or (ends[0] == 0 and self._is_positive(source))
        ):
            return x
        return clamp(x, low=ends[0], high=ends[1])

    def _ends(self, rounded: Value) -> tuple[float, float] | None:
        """The smallest and largest number that something is rounded to with one scale; None of others."""
        if rounded not in self.ends:
            f, given = rounded.op.attributes, list(rounded.args)
            grid = GRIDS[f["to"]]
            scale, zero = (self._known(given[1]), np.zeros(1) if len(given) < 3 else self._known(given[2]))
            self.ends[rounded] = None
            if scale is not None and zero is not None and scale.size == 1 and not grid.is_float:
                bounds = [grid.low if f["low"] is None else f["low"], grid.high if f["high"] is None else f["high"]]
                low, high = ((n - float(zero.reshape(-1)[0])) * float(scale.reshape(())) for n in bounds)
                self.ends[rounded] = low, high
        return self.ends[rounded]

    def _is_positive(self, value: Value) -> bool:
        """Whether no number of a value is below 0, as far as the ops that made it say."""
        seen, near = {value}, [value]
        while near:
            v = near.pop()
            name, low = label(v.op), v.op.attributes.get("low")
            if name in _AMONG or name in _OF_ALL:
                made = [a for a in (v.args if name in _OF_ALL else v.args[:1]) if a not in seen]
                seen.update(made)
                near += made
            elif name == "quantize":
                ends = self._ends(v)
                if ends is None or ends[0] != 0:
                    return False
            elif name not in _POSITIVE and not (name in _CLIPS and isinstance(low, int | float) and low >= 0):
                return False
        return True

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
