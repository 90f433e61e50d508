"""The quantized network: what :mod:`tdagger.quantization.placement` says, with the scales that data or weights gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.names import untaken
from tdagger.network import Weight
from tdagger.network import Weights as Weighed
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Leaf, const
from tdagger.ops.structure import Permute, permute
from tdagger.quantization.placement import Placement, Plan, is_view
from tdagger.quantization.profile import Numbers
from tdagger.quantization.scales import Affine, Weights
from tdagger.quantization.weights import Kept, Rounding, Source, nearest, with_tied
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.types import DType, TensorType

#: A bias in i32 stays so far within its range.
_LARGEST_BIAS = 2.0**30


class Conversion:
    """One network as it is converted. ``scales``: of the roots of a placement; ``given``: those of some weights.

    ``in_graph``: weights are rounded by the network itself, which is as it was in floats otherwise: for runs by torch.
    """

    def __init__(
        self, dag: Any, placement: Placement, scales: Mapping[Value, Affine], rounding: Rounding = nearest,
        corrections: Mapping[Value, Array] | None = None, fake: bool = False,
        given: Mapping[tuple[str, Weights], Affine] | None = None, in_graph: bool = False, kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self.dag, self.placement, self.scales, self.fake = dag, placement, scales, fake
        self.in_graph = in_graph and rounding is nearest
        self.corrections = dict(corrections or {})
        #: What became of the ops that are quantized.
        self.ops: dict[Value, Value] = {}
        self.source = Source(dag.weights, rounding, given=given or {}, kept=kept or Kept())
        self.made: dict[str, Callable[[], Array]] = {}
        self.types: dict[str, TensorType] = {}
        self.leaves: dict[Any, Value] = {}
        self.names: dict[Value, str] = {}
        #: What each new tensor stands behind in the state.
        self.after: dict[str, str] = {}
        self.reads: dict[Value, Value] = {}
        self.taken = set(state_of(dag))
        self.kept = self._floats()

    def _floats(self) -> set[Value]:
        """The leaves of weights and biases that something reads as they were."""
        p, graph = self.placement, self.dag.graph
        quantized = {*p.weights, *((v, row.bias) for v, row in p.rows.items() if row.bias is not None)}
        ends = {*graph.outputs.values(), *graph.updates.values()}

        def is_read(value: Value) -> bool:
            return value in ends or any(
                a is value and (user, i) not in quantized and not (isinstance(user.op, Permute) and not is_read(user))
                for user in graph.users[value]
                for i, a in enumerate(user.args)
            )

        return {v for v in (*graph.parameters.values(), *graph.buffers.values()) if is_read(v)}

    # The network.

    def run(self) -> Any:
        """The network in numbers of few bits."""
        edit = Edit(self.dag).run(self._rule)
        graph = edit.graph()
        behind: dict[str, list[str]] = {}
        for name, after in self.after.items():
            behind.setdefault(after, []).append(name)
        state: dict[str, Weight] = {}
        for name, weight in state_of(self.dag).items():
            state[name] = weight
            state |= {n: Weight(self.types[n], False) for n in behind.get(name, ())}
        state |= {n: Weight(t, False) for n, t in self.types.items() if n not in state}
        state, made = with_tied(state, self.made)
        weights = Weighed.of(self.dag.weights, {n: n for n in self.dag.weights if n not in made}) | made
        return finished(self.dag, graph, edit.origins, weights=weights, state=state)

    def _rule(self, value: Value, args: tuple[Any, ...]) -> Any:
        p = self.placement
        chosen = list(args)
        for i, arg in enumerate(value.args):
            if (value, i) in p.weights:
                chosen[i] = self.weight(p.weights[value, i])
            elif p.is_quantized(value, i) or value in p.moved:
                chosen[i] = self.reads.get(arg, args[i])
        row, op = p.rows.get(value), value.op
        if row is not None and row.bias is not None:
            bias = self.bias(value, row.bias)
            if bias is not None:
                op = with_bias(op)
                chosen[row.bias : row.bias + 1] = [bias]
        made = self.applied(value, op, chosen)
        if row is not None:
            self.ops[value] = made
        if value in p.points:
            if value in p.moved and is_view(value):
                self.reads[value] = made
            else:
                numbers = p.numbers[p.root(value)]
                self.reads[value] = self.activation(made, p.root(value), numbers)
            if value in p.given:
                return self.reads[value]
        return None if made is value else made

    def applied(self, value: Value, op: Any, args: list[Value]) -> Value:
        """What stands for a value, given what its op and arguments became."""
        return value if tuple(args) == value.args else op(*args)

    # What is read quantized.

    def activation(self, x: Value, root: Value, numbers: Numbers) -> Value:
        """A value rounded to its numbers, and read again."""
        if self.placement.profile.dynamic:
            return dynamic(x, numbers)
        return rounded(x, self.scale_values(root), numbers, None, 0, self.fake)

    def scale_values(self, root: Value) -> list[Value]:
        """The scale of a root and its zero point, if it has one, as constants."""
        scale, zero = self.scales[root]
        grid = self.placement.numbers[root].grid
        return [const(scale, "f32"), *([] if zero is None else [const(zero, grid.dtype)])]

    def weight(self, plan: Plan) -> Value:
        """A weight, read from its numbers."""
        leaf, order, how = plan
        name = self.name(leaf)
        grid, source, shape = how.numbers.grid, self.source, how.shape(leaf.shape)
        key = (leaf, how)

        def zero() -> Array:
            return _zero(source.scales(name, leaf, how), how.numbers, shape)

        scale_type, scale_name = TensorType(shape, "f32"), f"{name}_scale"
        parts = [self.leaf((*key, "scale"), scale_name, scale_type, lambda: source.scales(name, leaf, how).scale, name)]
        if not how.numbers.symmetric or grid.low == 0:
            parts.append(self.leaf((*key, "zero"), f"{name}_zero_point", TensorType(shape, grid.dtype), zero, name))
        if self.in_graph:
            out = rounded(leaf, parts, how.numbers, how.axis, how.block, False)
        else:
            codes_type = leaf.type.with_dtype(grid.dtype)
            codes = self.leaf((*key, "codes"), name, codes_type, lambda: source.codes(name, leaf, how), name)
            of = how.numbers.dtype if grid.bits < 8 else ""
            out = lib.dequantize(codes, *parts, axis=how.axis, block=how.block, of=of)
        return out if order == tuple(range(out.rank)) else permute(out, order)

    def bias(self, value: Value, at: int) -> Value | None:
        """What is added to an op's products; None where that stays as it is.

        It is i32, with the scale of the products, where their factors are integers of one scale for each entry.
        """
        leaf = value.args[at] if at < len(value.args) else None
        if leaf is not None and (not isinstance(leaf.op, Leaf | Const) or leaf.rank != 1 or leaf.op.name == "input"):
            return None
        f = value.op.attributes
        if (f.get("alpha", 1), f.get("beta", 1)) != (1, 1):
            return None
        change = self.corrections.get(value)
        plan = self.placement.weights.get((value, self.placement.rows[value].weight or 0))
        step = self._step(value, plan)
        if plan is None or (leaf is None and change is None) or (step is None and change is None):
            return None
        name = self.name(plan.leaf)
        own = leaf.op.leaf if leaf is not None and isinstance(leaf.op, Leaf) else _beside(name)
        key = (leaf, None if change is None else value, plan.leaf, None if step is None else step.tobytes())
        type_ = TensorType((plan.leaf.shape[plan.how.channel],), "f32") if leaf is None else leaf.type

        def numbers() -> Array:
            found = np.zeros(type_.shape, np.float32)
            if leaf is not None:
                found = np.asarray(leaf.op.data if isinstance(leaf.op, Const) else self.dag.weights[own], np.float32)
            return found if change is None else (found + change).astype(np.float32)

        if step is None:
            return self.leaf((*key, "numbers"), own, type_, numbers, own)
        return self._whole_bias(key, own, name, plan, step, numbers, type_)

    def _step(self, value: Value, plan: Plan | None) -> Array | None:
        """The scale of the numbers that a weight is multiplied with, where both are whole and known."""
        p = self.placement
        if plan is None or p.profile.dynamic or plan.how.numbers.per == "block":
            return None
        if not plan.how.numbers.symmetric or plan.how.numbers.grid.is_float:
            return None
        data = value.args[next(i for i in p.rows[value].inputs if i != p.rows[value].weight)]
        return np.asarray(self.scales[p.root(data)].scale) if data in p.points else None

    def _whole_bias(
        self, key: Any, own: str, name: str, plan: Plan, step: Array, numbers: Callable[[], Array], type_: TensorType
    ) -> Value:
        source = self.source

        def scale() -> Array:
            return np.asarray(source.scales(name, plan.leaf, plan.how).scale * step)

        def codes() -> Array:
            found = np.rint(numbers().astype(np.float64) / scale())
            return np.clip(found, -(2**31), 2**31 - 1).astype(np.int32)

        leasts = source.least.setdefault((name, plan.how), [])
        leasts.append(lambda: _least(numbers(), step, plan.how.numbers.per))
        made = self.leaf((*key, "codes"), own, type_.with_dtype(DType.of("i32")), codes, own)
        shape = plan.how.shape(plan.leaf.shape)
        each = self.leaf((*key, "scale"), f"{own}_scale", TensorType(shape, "f32"), scale, own)
        return lib.dequantize(made, each, axis=None if plan.how.numbers.per == "tensor" else 0)

    # Names.

    def name(self, leaf: Value) -> str:
        """What a weight is called; constants have names too once they are quantized."""
        if isinstance(leaf.op, Leaf):
            return leaf.op.leaf
        found = self.names.get(leaf)
        if found is None:
            found = self.names[leaf] = self.fresh(f"constant_{len(self.names)}")
        return found

    def fresh(self, name: str) -> str:
        name = untaken(name, self.taken)
        self.taken.add(name)
        return name

    def leaf(self, key: Any, name: str, type_: TensorType, make: Callable[[], Array], after: str) -> Value:
        """A buffer of numbers that are made when they are asked for; in the state it stands after ``after``."""
        found = self.leaves.get(key)
        if found is None:
            own = name if name == after and self._replaces(key[0], name) else self.fresh(name)
            self.taken.add(own)
            self.made[own], self.types[own] = make, type_
            self.after[own] = after
            found = self.leaves[key] = Buffer(own, type_)()
        return found

    def _replaces(self, leaf: Value | None, name: str) -> bool:
        """Whether a weight's numbers take its name: nobody needs it as it was, and it has no other numbers."""
        if leaf is None:
            return name not in self.taken
        return leaf not in self.kept and name not in self.made and isinstance(leaf.op, Leaf)


def with_bias(op: Any) -> Any:
    """The op of a layer that has a bias."""
    given = list(op.given)
    at = op.definition.tensors.index("bias")
    if given[at]:
        return op
    given[at] = True
    return type(op)(*op.attributes.values(), tuple(given))


def rounded(x: Value, scales: Any, numbers: Numbers, axis: int | None, block: int, fake: bool) -> Value:
    """A value on the grid of its numbers: rounded and read, or both at once with a gradient."""
    low, high = numbers.bounds
    grid = numbers.grid
    narrow: dict[str, Any] = {} if low == grid.low else {"low": int(low), "high": int(high)}
    how: dict[str, Any] = {"axis": axis, "block": block}
    if fake:
        return lib.fake_quantize(x, *scales, to=numbers.dtype, **narrow, **how)
    codes = lib.quantize(x, *scales, to=numbers.dtype, **narrow, **how)
    return lib.dequantize(codes, *scales, of=numbers.dtype if grid.bits < 8 else "", **how)


def dynamic(x: Value, numbers: Numbers) -> Value:
    """A value rounded to u8 by the range that it has."""
    codes, scale, zero = lib.quantize_dynamic(x)
    return lib.dequantize(codes, scale, zero)


def _beside(weight: str) -> str:
    """The name of a bias beside a weight's."""
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}_bias"


def _zero(scales: Affine, numbers: Numbers, shape: tuple[int, ...]) -> Array:
    if scales.zero_point is None:
        return np.zeros(shape, numbers.grid.dtype.numpy)
    return np.broadcast_to(scales.zero_point, shape).copy()


def _least(bias: Array, step: Array, per: str) -> Array:
    """The least scale of a weight with which its bias is within i32."""
    size = np.abs(bias) / (np.float64(step) * _LARGEST_BIAS)
    return (size.max() if per == "tensor" else size).astype(np.float32)
