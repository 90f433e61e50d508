"""Writing a graph as TFLite operators: a row of the tables (:mod:`core`, :mod:`composites`) writes a value.

The graph has nothing but what the tables accept (:func:`tdagger.transform.legal.legalize`). What no input is behind is
a constant tensor, worked out when the file is written. :class:`~tdagger.frameworks.writing.Walk` is the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.schema import Quantization
from tdagger.frameworks.writing import Names, Walk, is_reshape, unbroadcast, weight_behind
from tdagger.graph import Graph, is_one, rebuild, result_types, topological
from tdagger.interpret import run
from tdagger.network import Origin
from tdagger.op import Array, Op, Value
from tdagger.ops.source import Buffer, Const, Input, Leaf, const
from tdagger.ops.structure import Concat, Item, Permute, Repeat
from tdagger.transform.axes.same import is_spread
from tdagger.transform.legal import Accepts, label
from tdagger.transform.legal.legalize import is_static
from tdagger.types import DType, TensorType, broadcast_shapes

#: Activations that operators take along, as the schema numbers them.
NONE, RELU, RELU6, RELU_N1_TO_1 = (
    getattr(s.ActivationFunctionType, n) for n in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
)


class Reduced(NamedTuple):
    """A reduction: an operator that takes a value over axes."""

    op: str
    x: Value
    axes: tuple[int, ...]


class Row(NamedTuple):
    """When an op is written, and how: ``write(writer, value)`` gives its tensor, or a list of several.

    ``reduces(value)`` is what of a value that keeps the axes it reduces: they are dropped with a reshape after it.
    """

    accepts: Accepts
    write: Callable[[Writer, Value], Any]
    reduces: Callable[[Value], Reduced | None] | None = None


class Tensor(NamedTuple):
    """A tensor of the file; ``load`` gives the data of a constant one, ``steps`` is what its integers stand for.

    ``source`` is the value that the data of a constant one is laid out of, ``signature`` the shape with -1 for sizes
    that are open, where some are. Constants of one ``key`` are the same data in all subgraphs. ``kind`` is the schema's
    number of an element type that isn't the type's.
    """

    name: str
    type: TensorType
    load: Callable[[], Array] | None = None
    steps: Quantization | None = None
    source: Value | None = None
    signature: tuple[int, ...] = ()
    key: Any = None
    kind: int | None = None


@dataclass
class Operator:
    """An operator of the file: inputs and outputs are numbers of tensors, -1 for one that isn't given."""

    name: str
    inputs: list[int]
    outputs: list[int]
    options: Any = None
    version: int = 1
    origin: Origin | None = None


@dataclass
class Part:
    """What a subgraph has."""

    tensors: list[Tensor] = field(default_factory=list[Tensor])
    operators: list[Operator] = field(default_factory=list[Operator])
    inputs: list[int] = field(default_factory=list[int])
    outputs: list[int] = field(default_factory=list[int])
    name: str = ""


def _is_empty(value: Value) -> bool:
    return is_one(value) and not value.type.size


def _inputs_of(value: Value) -> dict[str, Value]:
    return {v.op.leaf: v for v in topological([value]) if isinstance(v.op, Input)}


def _scaled(op: str, weight: Array, numbers: Array) -> Array:
    """A weight with its output channels scaled: the last axis of a depthwise one, else the first."""
    if op == "DEPTHWISE_CONV_2D":
        return weight * numbers
    return weight * numbers.reshape(-1, *(1,) * (weight.ndim - 1))


class Writer(Walk):
    """Writes the operators of one graph. Rows call :meth:`ref`, :meth:`operands`, :meth:`constant` and :meth:`op`."""

    def __init__(
        self,
        graph: Graph,
        rows: Mapping[str, Row],
        origins: Mapping[Value, Origin],
        weights: Mapping[str, Array],
        open_: bool = False,
        varies: Collection[int] = (),
    ) -> None:
        super().__init__(graph, origins, weights)
        self.rows = rows
        #: Whether sizes are going to be open: what is repeated is never one large constant.
        self.open = open_
        self.part = Part()
        #: All subgraphs of the file, this one among them.
        self.parts = [self.part]
        self.outputs = {*graph.outputs.values(), *graph.updates.values()}
        self._constants: dict[Any, int] = {}
        self._names = Names(first=1)
        self._maker: dict[int, tuple[Operator, Value]] = {}
        self._writing: Value | None = None
        self._merged: dict[Value, tuple[Operator, Value]] = {}
        changing = set(graph.updates)
        self.varies = varies
        for value in graph.values:
            if is_static(value, self.static, changing, varies):
                self.static.add(value)
        for name, value in graph.inputs.items():
            self.found[value] = self._tensor(name, value.type)

    # What rows call.

    def operands(self, values: Sequence[Value], rank: int) -> list[int]:
        """Tensors of values of one shape that broadcast to that shape: narrow ones with at most ``rank`` axes.

        Those that don't broadcast so are written out.
        """
        shape = values[0].shape
        narrow = [unbroadcast(v) for v in values]
        shapes = [v.shape for v in narrow]
        if len(shape) > rank and any(n != shape for n in shapes):
            return self._written_out(values) if rank else [self.ref(v) for v in values]
        if shape not in shapes and broadcast_shapes(*shapes) != shape:
            narrow[0] = values[0]
        return [self.ref(v) for v in narrow]

    def _written_out(self, values: Sequence[Value]) -> list[int]:
        """Written out where they don't broadcast to the whole shape; constants of one entry stay."""
        shape = values[0].shape
        whole = [v for v in values if unbroadcast(v).shape == shape]
        out: list[int] = []
        for v in values:
            small = unbroadcast(v)
            out.append(self.ref(small if small.shape == shape or (whole and small.type.size == 1) else v))
        return out

    def constant(self, array: Any, dtype: str | None = None) -> int:
        """The number of a tensor of some numbers."""
        data = np.asarray(array, None if dtype is None else DType.of(dtype).numpy)
        key = (data.dtype.str, data.shape, data.tobytes())
        if key not in self._constants:
            type_ = TensorType(data.shape, DType.of(data.dtype))
            self._constants[key] = self._tensor(f"constant_{len(self._constants)}", type_, lambda: data)
        return self._constants[key]

    def ints(self, numbers: Sequence[int]) -> int:
        """A vector of whole numbers (i32), as axes, shapes and bounds are given."""
        return self.constant([int(n) for n in numbers], "i32") if numbers else self.constant(np.zeros(0, np.int32))

    def array(self, value: Value) -> Array | None:
        """The data of a value that no input is behind; None for others."""
        return self._computed(value) if value in self.static else None

    def static_of(self, values: Sequence[Value], type_: TensorType, name: str, make: Callable[..., Array]) -> int:
        """A constant tensor made of static values when the file is written."""
        key = (name, *values)
        if key not in self._constants:
            self._constants[key] = self._tensor(
                self._static_name(values[0], name), type_, lambda: make(*map(self._computed, values)),
                source=values[0] if len(values) == 1 else None, key=key,
            )  # fmt: skip
        return self._constants[key]

    def is_static(self, value: Value) -> bool:
        """Whether a value is a constant of the file."""
        return value in self.static

    def op(
        self, name: str, inputs: Sequence[int], type_: TensorType | Sequence[TensorType], options: Any = None,
        version: int = 1,
    ) -> Any:  # fmt: skip
        """An operator; the number of its result, or a list of those of several."""
        types = [type_] if isinstance(type_, TensorType) else list(type_)
        outputs = [self._tensor(self._result_name(name), t) for t in types]
        made = Operator(name, list(inputs), outputs, options, version, self._origin)
        self.part.operators.append(made)
        if self._writing is not None:
            for number in outputs:
                self._maker[number] = (made, self._writing)
        return outputs[0] if isinstance(type_, TensorType) else outputs

    def reshape(self, number: int, old: Sequence[int], type_: TensorType) -> int:
        """A tensor in another shape; itself if that is its own."""
        if tuple(old) == type_.shape:
            return number
        return self._reshaped(number, type_)

    def copied(self, number: int, type_: TensorType) -> int:
        """A tensor once more, in memory of its own: a RESHAPE may share its input's, which subgraphs don't bear."""
        return self.op("CAST", [number], type_)

    def _reshaped(self, number: int, type_: TensorType) -> int:
        shape = [int(n) for n in type_.shape]
        options: Any = s.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        return self.op("RESHAPE", [number, self.ints(shape)], type_, options)

    def fused(self, value: Value, activation: int) -> int | None:
        """The tensor of a value with an activation, if the operator that makes it can take that along."""
        made = out = self._only(value)
        while made is not None and made.name == "RESHAPE":  # of what a row wrote itself
            before = self._maker.get(made.inputs[0])
            made = before[0] if before is not None and before[1] is value else None
        if made is None or out is None or made.name not in FUSES or made.options.fusedActivationFunction != NONE:
            return None
        made.options.fusedActivationFunction = activation
        return out.outputs[0]

    def merged(self, value: Value, other: Value, total: Value, scales: bool) -> int | None:
        """The tensor of ``total``: a value with a constant of each channel added, or multiplied (``scales``).

        That is the layer that makes the value with another bias and other weights; None if there is none.
        """
        layer, small = self._layer(value), unbroadcast(other)
        channels = value.shape[-1:]
        if layer is None or (small.type.size != 1 and small.shape[-1:] != (small.type.size,)):
            return None
        made, base = layer
        if (small.type.size,) not in ((1,), channels) or value.dtype is not small.dtype:
            return None
        weight, bias = (self.part.tensors[i] if i >= 0 else None for i in made.inputs[1:3])
        if (bias is not None and bias.load is None) or weight is None or (scales and weight.load is None):
            return None

        def numbers() -> Array:
            return np.broadcast_to(self._computed(small).reshape(-1), channels)

        if scales:
            made.inputs[1] = self._changed(weight, lambda a: _scaled(made.name, a, numbers()))
        if bias is not None:
            made.inputs[2] = self._changed(bias, lambda a: a * numbers() if scales else a + numbers())
        elif not scales:
            type_ = TensorType(channels, value.dtype)
            made.inputs[2] = self._tensor(self._static_name(small, "bias"), type_, lambda: np.array(numbers()))
        self._merged[total] = made, base
        number = made.outputs[0]
        if base.type is total.type:
            self._maker[number] = made, total
        return self.reshape(number, base.shape, total.type)

    def unscaled(self, value: Value) -> tuple[Value, Value | None]:
        """What a value is a multiple of, by a number of the file, and that number, if nothing but one layer takes it.

        The number goes into that layer's weights, and nothing takes the product any more.
        """
        views: list[Op] = []
        product = value
        while (isinstance(product.op, Permute) or is_reshape(product)) and self.is_only(product):
            views.append(product.op)
            product = product.args[0]
        if label(product) != "binary multiply" or product in self._merged or not self.is_only(product):
            return value, None
        for x, y in (product.args, product.args[::-1]):
            number = unbroadcast(y)
            if number.type.size == 1 and self.is_static(y) and not self.is_static(x) and x.type is product.type:
                factor = self._computed(number)
                for op in reversed(views):
                    x = op(x)
                return (x, number) if np.isfinite(factor).all() and factor.all() else (value, None)
        return value, None

    def _changed(self, tensor: Tensor, change: Callable[[Array], Array]) -> int:
        load = tensor.load
        assert load is not None
        return self._tensor(f"{tensor.name}.merged", tensor.type, lambda: change(load()))

    def _layer(self, value: Value) -> tuple[Operator, Value] | None:
        """The layer that makes a value, and what it makes: the value has it in another shape, but for the channels."""
        if value in self._merged and self.is_only(value):
            found = self._merged[value]
            return found if found[0].options.fusedActivationFunction == NONE else None
        base = value
        while is_reshape(base) and self.is_only(base) and base.args[0].shape[-1:] == base.shape[-1:]:
            base = base.args[0]
        made = self._only(base)
        fits = made is not None and made.name in _LAYERS and made.options.fusedActivationFunction == NONE
        return (made, base) if made is not None and fits else None

    def is_only(self, value: Value) -> bool:
        """Whether one other value takes a value, which no output is."""
        return value not in self.static and value not in self.outputs and len(self.users.get(value, ())) == 1

    def _only(self, value: Value) -> Operator | None:
        """The operator that makes a value which one other value takes, and no output is."""
        if not self.is_only(value):
            return None
        number = self.ref(value)
        made = self._maker.get(number) if isinstance(number, int) else None
        return made[0] if made is not None and made[1] is value and made[0].outputs == [number] else None

    # The walk.

    def _is_view(self, value: Value) -> bool:
        """Views, reductions that a view drops axes of, and what is laid end to end as a part of more."""
        views = isinstance(value.op, Leaf | Const | Permute) or super()._is_view(value)
        return views or self.is_part(value) or self.reduced(value) is not None

    def is_part(self, value: Value) -> bool:
        """Whether values are laid end to end for one that lays more along the same axis, and for nothing else."""
        if not isinstance(value.op, Concat) or not self.is_only(value):
            return False
        user = self.users[value][0].op
        return isinstance(user, Concat) and user.axis == value.op.axis

    def reduced(self, value: Value) -> Reduced | None:
        """The reduction that a value is, if all that takes it is one reshape that drops its axes."""
        row = self.rows.get(label(value))
        if row is None or row.reduces is None or value in self.outputs or value in self.static:
            return None
        found, last = row.reduces(value), value
        while len(self.users.get(last, [])) == 1 and is_reshape(self.users[last][0]):
            last = self.users[last][0]
        if found is None or last is value:
            return None
        rest = tuple([n for i, n in enumerate(value.shape) if i not in found.axes])
        return found if rest == last.shape else None

    def results(self, outputs: Mapping[str, Value]) -> dict[str, int]:
        """The tensors of outputs, each one of its own."""
        part, found = self.part, dict[str, int]()
        made = {n for o in part.operators for n in o.outputs}
        for name, value in outputs.items():
            number = self.ref(value)
            made |= {n for o in part.operators[-1:] for n in o.outputs}
            if number not in made or number in found.values():  # an input, a constant or another output
                number = self._reshaped(number, value.type)
            found[name] = number
        return found

    def kept(self, found: dict[str, int]) -> dict[str, int]:
        """Those tensors with the outputs' names, in a part without what nothing needs."""
        given = {n: self.found[v] for n, v in self.graph.inputs.items()}
        number = compacted(self.part, given, found)
        for name, value in self.graph.inputs.items():
            self.found[value] = number[given[name]]
        return {name: number[n] for name, n in found.items()}

    def _visit(self, value: Value) -> None:
        before, self._writing = self._writing, value
        super()._visit(value)
        self._writing = before

    def _unknown(self, value: Value, count: int) -> Any:
        types = [TensorType(t.shape, DType.of("f32")) for t in result_types(value)]
        found = [self._tensor("unknown", t) for t in types]
        return found if count else found[0]

    def _result(self, value: Value) -> Any:
        op = value.op
        repeats = is_spread(value) if self.open else isinstance(op, Repeat) and value.type.size > _SHARED
        if value in self.static and repeats:
            return self.rows[label(value)].write(self, value)
        if value in self.static or isinstance(op, Buffer):  # one that changes is what it was, its new value an output
            return self._leaf(value)
        if isinstance(op, Item):
            return self.ref(value.args[0])[op.index]
        return self.rows[label(value)].write(self, value)

    def _leaf(self, value: Value) -> Any:
        """A constant of the file."""
        if isinstance(value.op, Const) and value.type.size <= _SHARED:
            return self.constant(value.op.data)
        if len(result_types(value)) != 1 or isinstance(value.type, tuple):
            raise AssertionError(f"{value!r} has several results")
        return self._tensor(
            self._static_name(value, ""), value.type, lambda: self._computed(value), source=value, key=value
        )

    def _computed(self, value: Value) -> Array:
        empty = {v: const(np.zeros(v.shape, v.dtype.numpy)) for v in topological([value]) if _is_empty(v)}
        if empty:  # what no input is behind, but for those without entries
            _, new = rebuild(Graph(_inputs_of(value), {"value": value}), empty.get)
            value = new[value]
        return np.asarray(run(Graph({}, {"value": value}), {}, self.weights)[0]["value"])

    # Names.

    def _static_name(self, value: Value, what: str) -> str:
        """The name of a weight, or of the first that a constant is made of."""
        name = weight_behind(value) or "constant"
        if not value.args and not what:
            return name
        return f"{name}.{what or label(value).split()[-1]}"

    def _result_name(self, op: str) -> str:
        origin = self._origin
        module = origin.module if origin is not None else ""
        return f"{module}/{op.lower()}" if module else op.lower()

    def new(
        self, name: str, type_: TensorType, load: Callable[[], Array] | None = None, steps: Quantization | None = None,
        kind: int | None = None,
    ) -> int:  # fmt: skip
        """The number of a new tensor of that name, or one like it."""
        return self._tensor(name, type_, load, steps, kind=kind)

    def within(self, graph: Graph, found: Mapping[Value, int]) -> Writer:
        """A writer of another graph to the same subgraph, the tensors of whose inputs are ``found``."""
        inner = Writer(graph, self.rows, self.origins, self.weights, varies=self.varies)
        inner.part, inner._names, inner._constants = self.part, self._names, self._constants
        inner.problems, inner.parts = self.problems, self.parts
        self.static |= inner.static
        inner.found.update(found)
        return inner

    def subgraph(self, name: str) -> tuple[Writer, int]:
        """A writer of a new subgraph, which has this one's constants at hand, and its number."""
        inner = Writer(Graph({}, {}), self.rows, self.origins, self.weights, self.open, self.varies)
        inner.part.name = name
        inner.static, inner.problems, inner.parts = self.static, self.problems, self.parts
        inner._origin = self._origin
        self.parts.append(inner.part)
        return inner, len(self.parts) - 1

    def _tensor(
        self, name: str, type_: TensorType, load: Callable[[], Array] | None = None, steps: Quantization | None = None,
        source: Value | None = None, key: Any = None, kind: int | None = None,
    ) -> int:  # fmt: skip
        self.part.tensors.append(Tensor(self._names.new(name), type_, load, steps, source, (), key, kind))
        return len(self.part.tensors) - 1


def compacted(part: Part, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> dict[int, int]:
    """Leave out of a part what its outputs don't need, which get the names they are called by; new numbers by old ones.

    Operators without results are for what they do: they stay.
    """
    wanted = set(outputs.values())
    kept: list[Operator] = []
    for o in reversed(part.operators):
        if not o.outputs or not wanted.isdisjoint(o.outputs):
            kept.append(o)
            wanted.update(o.inputs)
    part.operators = kept[::-1]
    given = set(inputs.values())
    wanted |= given | {n for o in kept for n in o.outputs}
    number = {-1: -1} | {old: new for new, old in enumerate(sorted(wanted - {-1}))}
    names = {n: name for name, n in outputs.items()}
    taken = {*names.values(), *inputs}
    tensors: list[Tensor] = []
    for old in sorted(wanted - {-1}):
        tensor = part.tensors[old]
        name = names.get(old, tensor.name)
        while old not in names and old not in given and name in taken:
            name += "_"
        tensors.append(tensor._replace(name=name))
    part.tensors = tensors
    for o in part.operators:
        o.inputs, o.outputs = [number[i] for i in o.inputs], [number[i] for i in o.outputs]
    part.inputs, part.outputs = [number[n] for n in inputs.values()], [number[n] for n in outputs.values()]
    _check_order(part)
    return number


def _check_order(part: Part) -> None:
    """Each operator takes what was made before it: runtimes don't look, and take what lies there."""
    made = {-1, *part.inputs, *(i for i, t in enumerate(part.tensors) if t.load is not None)}
    for o in part.operators:
        missing = [part.tensors[i].name for i in o.inputs if i not in made]
        assert not missing, f"{o.name} takes {missing[0]}, which isn't made before it"
        made.update(o.outputs)


#: Constants of at most so many entries are one tensor wherever they are the same.
_SHARED = 1 << 10
#: Operators that take an activation along, in every runtime and kernel.
FUSES = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV",
                   "MAX_POOL_2D", "AVERAGE_POOL_2D"})  # fmt: skip
#: Those with a bias.
_LAYERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
