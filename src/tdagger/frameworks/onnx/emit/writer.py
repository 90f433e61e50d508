"""Writing a graph as ONNX nodes: an op's row (:mod:`core`, :mod:`composites`) makes the nodes of a value.

Values are written in the graph's order (:class:`~tdagger.frameworks.writing.Walk`), and each node once: the same
operator on the same tensors is the same node. What turns out not to be needed is left out at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError, UnsupportedError
from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.sizes import Sizes
from tdagger.frameworks.onnx.file.tensors import BITS, ONNX_DTYPES
from tdagger.frameworks.writing import Walk, is_reshape, needed, unbroadcast
from tdagger.graph import Graph
from tdagger.graph import applied as replayed
from tdagger.interpret import computed
from tdagger.names import untaken
from tdagger.network import Origin
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Item, Repeat
from tdagger.types import DType, Size, TensorType, broadcast_shapes, i64, readable

#: A row makes the nodes of a value. It gives the name of the tensor (or a tuple of them), or another value (or a tuple
#: of them) that stands for it.
Row = Callable[["Writer", Value], Any]

#: Constants of at most so many bytes are worked out here and shared.
_FOLDED = 1 << 18
#: Repeated constants of at most so many bytes are kept as they are.
_REPEATED = 1 << 12
#: What isn't worked out though it could be: random numbers, what isn't known, quantized weights.
_KEPT = frozenset({"random", "external", "dequantize"})


class Node(NamedTuple):
    """A node as it is going to be written."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    name: str
    domain: str
    origin: Origin | None


class Tensor(NamedTuple):
    """A tensor of the file: its type and where its data comes from when it is written.

    ``kind``: ONNX's number of an element type of a few bits that is held in the type's, and is packed.
    """

    type: TensorType
    load: Callable[[], Array]
    kind: int = 0

    @property
    def bytes(self) -> int:
        """How many the file has of it."""
        return -(-self.type.size * BITS[self.kind] // 8) if self.kind else self.type.bytes


class Branch(NamedTuple):
    """A graph inside an operator: its nodes, what it gives, and the types of that; what it takes, with types."""

    nodes: list[Node]
    outputs: tuple[str, ...]
    types: tuple[Any, ...]
    inputs: tuple[tuple[str, Any], ...] = ()


def has_sizes(thing: Any) -> bool:
    """Whether there is a size without a number in an attribute or a type."""
    if isinstance(thing, TensorType):
        return has_sizes(thing.shape)
    if isinstance(thing, tuple):
        return any(map(has_sizes, thing))
    return thing.__class__ is Size


class Writer(Walk):
    """Writes the nodes of one graph. Rows call :meth:`ref`, :meth:`operands` and :meth:`node`."""

    refuses = (UnsupportedError, AxisError)

    def __init__(
        self,
        graph: Graph,
        row_of: Callable[[Value, int], Row | None],
        origins: Mapping[Value, Origin],
        weights: Mapping[str, Array],
        opset: int,
        tables: Collection[str] = (),
    ) -> None:
        super().__init__(graph, origins, weights)
        self.opset = opset
        #: Buffers that no state_dict has: what is made of them is worked out as of constants.
        self.tables = tables
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        #: The data of values that depend on constants alone, as far as they are small.
        self.arrays: dict[Value, Array] = {}
        #: The tensors of values that are held in a wider element type here, in their own.
        self.held: dict[Value, str] = {}
        self.domains: set[str] = set()
        #: Of padded tensors what they are without padding, and how many entries that has.
        self.uncut: dict[str, tuple[str, str]] = {}
        self._row_of = row_of
        self._made: dict[Any, Any] = {}
        #: Of the whole model: tensors that lie in the file in another layout, and the names of weights.
        self._moved: dict[Any, str] = {}
        self._leaves: dict[str, str] = {}
        self._constants: dict[Any, str] = {}
        self._counts: dict[str, int] = {}
        kept = {*graph.updates}
        self._changing = {v for v in graph.values if isinstance(v.op, Buffer) and v.op.leaf in kept}
        #: Names that are taken: of inputs, outputs and weights, and those given since.
        self.taken: set[str] = {*graph.inputs, *graph.outputs}
        for name, value in graph.inputs.items():
            self.found[value] = name
        self.sizes = Sizes(self, graph.inputs)

    # What rows call.

    def operands(self, values: Sequence[Value]) -> list[str]:
        """Names of values of one shape that broadcast to that shape."""
        shape = values[0].type.shape
        narrow = [unbroadcast(v) for v in values]
        shapes = [v.type.shape for v in narrow]
        if shape not in shapes and broadcast_shapes(*shapes) != shape:
            narrow[0] = values[0]
        return [self.ref(v) for v in narrow]

    def node(
        self, op: str, inputs: Sequence[str], results: int = 1, domain: str = "", fresh: bool = False, **attributes: Any
    ) -> Any:
        """A node of an operator; the name of its result, or of each. An attribute that is None is left out.

        One that was written is given again, unless it has to be ``fresh``.
        """
        kept = tuple(sorted((k, v) for k, v in attributes.items() if v is not None))
        key = (op, domain, tuple(inputs), results, kept)
        try:
            found = self._made.get(key)
        except TypeError:  # a tensor or a graph among the attributes
            key, found = None, None
        if found is not None and not fresh:
            return found
        name = self._node_name(op)
        outputs = tuple([self.named(f"{name}_output_{i}") for i in range(results)])
        self.nodes.append(Node(op, tuple(inputs), outputs, kept, name, domain, self._origin))
        if domain:
            self.domains.add(domain)
        made = outputs[0] if results == 1 else outputs
        if key is not None:
            self._made[key] = made
        return made

    def typed(
        self, op: str, dtype: DType, inputs: Sequence[str], predicate: bool = False, moves: bool = False, **more: Any
    ) -> str:
        """A node whose inputs and result are of one element type, computed in one that onnxruntime takes."""
        to = computed_in(op, dtype, moves)
        out = self.node(op, [self.cast(x, dtype, to) if x else "" for x in inputs], **more)
        return out if predicate else self.cast(out, to, dtype)

    def cast(self, name: str, dtype: DType, to: DType, saturates: bool = False) -> str:
        """A tensor in another element type; ``saturates``: what is too large for f8e4m3 is its largest number."""
        if dtype is to:
            return name
        if dtype.bytes == 1 and dtype.is_float and to.name == "bool":  # of float8 its -0.0 would be True
            name, dtype = self.cast(name, dtype, DType.of("f32")), DType.of("f32")
        if to.bytes == 1 and to.is_float:
            if dtype.name != "f32":  # rounded from f32, as everything to float8 is
                name = self.cast(name, dtype, DType.of("f32"))
            return self.node("Cast", [name], to=number_of(to), saturate=int(saturates and to.name == "f8e4m3"))
        return self.node("Cast", [name], to=number_of(to))

    def const(self, array: Any, dtype: DType | str | None = None) -> str:
        """The name of a constant tensor."""
        data = np.asarray(array, None if dtype is None else DType.of(dtype).numpy)
        kind = DType.of(data.dtype)
        bits = data.tobytes() if data.nbytes <= _FOLDED else id(array)
        key = (kind, data.shape, bits)
        return self.constant_of(key, Tensor(TensorType(data.shape, kind), lambda: data))

    def constant_of(self, key: Any, tensor: Tensor) -> str:
        """The name of a tensor that is the same where its key is."""
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = self.named(f"constant_{len(self._constants)}")
            self.tensors[found] = tensor
        return found

    def scalar(self, number: Any, dtype: DType) -> str:
        """The name of a constant of rank 0."""
        return self.const(np.asarray(number).astype(dtype.numpy))

    def ints(self, numbers: Sequence[int]) -> str:
        """The name of a vector (i64) of numbers, some of which may be sizes."""
        if not any(n.__class__ is Size for n in numbers):
            return self.const(np.array([int(n) for n in numbers], np.int64))
        parts: list[str] = []
        plain: list[int] = []
        for n in [*numbers, None]:
            if n is not None and not isinstance(n, Size):
                plain.append(int(n))
                continue
            if plain:
                parts.append(self.const(np.array(plain, np.int64)))
                plain = []
            if n is not None:
                parts.append(self.sizes.vector(n.formula))
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

    def size(self, number: int, dtype: DType = i64) -> str:
        """The name of a number of rank 0, which may be a size."""
        if number.__class__ is not Size:
            return self.scalar(number, dtype)
        scalar = self.node("Squeeze", [self.ints([number]), self.ints([0])])
        return self.cast(scalar, i64, dtype)

    def array(self, value: Value) -> Array | None:
        """The data of a value that depends on constants alone and is small; None for others."""
        found = self.arrays.get(value)
        if found is not None or isinstance(value.op, Const):
            return value.op.data if found is None and isinstance(value.op, Const) else found
        if isinstance(value.op, Buffer) and value not in self._changing:  # positions, indices of tables
            whole = value.dtype.is_int or value.dtype.name == "bool" or value.op.leaf in self.tables
            return self._data(value.op.leaf) if whole and value.type.bytes <= _FOLDED else None
        repeats = isinstance(value.op, Repeat)
        if not (repeats or is_reshape(value)) or has_sizes(value.type):
            return None
        if value.type.bytes > (_REPEATED if repeats else _FOLDED):
            return None
        inner = self.array(value.args[0])
        if inner is None:
            return None
        return np.broadcast_to(inner, value.shape) if repeats else inner.reshape(value.shape)

    def weight(self, value: Value) -> Value | None:
        """The parameter or buffer that a value is; None if it isn't one, or one that the network changes."""
        op = value.op
        return value if isinstance(op, Parameter | Buffer) and value not in self._changing else None

    def is_flipped(self, weight: Value) -> bool:
        """Whether a weight, or what is read of its integers, is taken transposed alone: by layers that write MatMul."""
        return all(
            u.op.name == "linear" and u.args[0] is not weight and u.args[0].rank != 2
            for u in self.users.get(weight, ())
        )

    def moved(self, leaf: Value, name: str, change: Callable[[Array], Array], type_: TensorType) -> str:
        """A weight that is kept in the file in another layout, under a name of its own."""
        return self.combined([leaf], name, change, type_)

    def combined(
        self, leaves: Sequence[Value], name: str, change: Callable[..., Array], type_: TensorType, kind: int = 0
    ) -> str:
        """A tensor made of weights as the file is written, named after the first of them."""
        key = (*leaves, name)
        found = self._moved.get(key)
        if found is None:
            paths = [v.op.attributes["leaf"] for v in leaves]
            found = self._moved[key] = self.named(f"{paths[0]}.{name}")
            self.tensors[found] = Tensor(type_, lambda: change(*map(self._data, paths)), kind)
        return found

    def branch(self, graph: Graph, operands: Sequence[Value]) -> Branch:
        """The nodes of a graph inside an operator, which reads the operands from around it."""
        called = {v: self.ref(a) for v, a in zip(graph.inputs.values(), operands, strict=True)}
        inner = self.within(graph, called, {})
        outputs = list(graph.outputs.values())
        inner.write(outputs)
        names: list[str] = []
        made = {n for node in inner.nodes for n in node.outputs}
        for value in outputs:  # a branch gives what it makes itself, each under a name of its own
            name = inner.ref(value)
            names.append(name if name in made and name not in names else inner.node("Identity", [name]))
        return Branch(needed(inner.nodes, names, reads), tuple(names), tuple([v.type for v in outputs]))

    def within(self, graph: Graph, names: Mapping[Value, Any], origins: Mapping[Value, Origin]) -> Writer:
        """A writer of another graph of the model, whose inputs have ``names``; tensors and names are those of all."""
        inner = Writer(graph, self._row_of, origins, self.weights, self.opset, self.tables)
        inner.taken, inner.tensors, inner._constants = self.taken, self.tensors, self._constants
        inner.domains, inner.problems, inner._origin = self.domains, self.problems, self._origin
        inner.uncut = self.uncut
        inner._counts, inner._moved, inner._leaves = self._counts, self._moved, self._leaves
        inner.found = dict(names)
        inner.sizes = self.sizes
        return inner

    def body(self, value: Value) -> Any:
        """The body of a composite on its arguments: a value, or a tuple of several."""
        op = value.op
        assert isinstance(op, Composite), f"there is no row for {op}"
        try:
            body = op.body(*[a.type for a in value.args])
        except (AttributeValueError, TypeMismatchError) as e:
            own = sorted({str(n.formula) for a in value.args for n in a.type.shape if isinstance(n, Size)})
            if not own:
                raise
            why = readable(str(e)).split(";")[0]
            told = ", ".join([n for n in own if f"({n})" in why] or own)
            raise AxisError(
                f"its body has a number that can't be told without one for {told} ({why}): leave {told} out of dynamic"
            ) from e
        out = replayed(body, value.args)
        return out[0] if len(out) == 1 else out

    # The walk.

    def _stands(self, value: Value) -> bool:
        return value in self.arrays or super()._stands(value)

    def _waits(self, value: Value) -> bool:
        return self._fold(value) or super()._waits(value)

    def _is_view(self, value: Value) -> bool:
        return isinstance(value.op, Leaf | Const) or super()._is_view(value)

    def _result(self, value: Value) -> Any:
        op = value.op
        if value not in self.arrays and not isinstance(op, Leaf | Const):
            self._fold(value)
        array = None if isinstance(op, Leaf) else self.array(value)
        if array is not None and not value.dtype.is_complex:
            return self.const(array)
        if isinstance(op, Const | Input | Parameter | Buffer) and value.dtype.is_complex:
            raise UnsupportedError("onnxruntime has no complex numbers")
        if isinstance(op, Const):
            return self.const(op.data)
        if isinstance(op, Input | Parameter | Buffer):
            return self.leaf(op.leaf, op.type)
        if isinstance(op, Item):
            return self.ref(value.args[0])[op.index]
        row = self._row_of(value, self.opset)
        return self.body(value) if row is None else row(self, value)

    def leaf(self, name: str, type_: TensorType) -> str:
        """The tensor of a weight."""
        given = self._leaves.get(name)
        if given is None:
            given = self._leaves[name] = self.named(name)
            self.tensors[given] = Tensor(type_, lambda: self._data(name))
        return given

    def _data(self, name: str) -> Array:
        return self.weights[name]

    def _fold(self, value: Value) -> bool:
        """Work out a value that depends on constants alone, where that is small."""
        op = value.op
        if isinstance(op, Leaf | Const | Item | Repeat) or op.name in _KEPT or is_reshape(value):
            return False
        if not value.args and not isinstance(op, Iota | Composite):
            return False
        if isinstance(value.type, tuple) or value.type.bytes > _FOLDED or value.type.dtype.is_complex:
            return False
        arrays = [a for a in map(self.array, value.args) if a is not None]
        if len(arrays) < len(value.args) or has_sizes(value.type) or any(map(has_sizes, op.attributes.values())):
            return False
        if any(a.type.dtype.is_complex for a in value.args):
            return False
        try:
            with np.errstate(all="ignore"):  # a branch that isn't taken may take the logarithm of 0
                self.arrays[value] = np.asarray(op.run(*arrays)) if arrays else computed(value)
        except (AttributeValueError, TypeMismatchError, IndexError):
            return False
        return True

    # Names.

    def _node_name(self, op: str) -> str:
        """The module's path and the operator; of what came from an ONNX node, that node's name."""
        origin = self._origin
        name = f"/{op}"
        if origin is not None and origin.source and origin.op[:1].isupper():
            name = origin.source if origin.op == op else f"{origin.source}/{op}"
        elif origin is not None and origin.module:
            name = f"/{origin.module.replace('.', '/')}/{op}"
        count = self._counts.get(name, 0)
        own = f"{name}_{count}" if count else name
        while count and own in self._counts:  # a file has names with numbers of its own
            count += 1
            own = f"{name}_{count}"
        self._counts[name] = count + 1
        self._counts.setdefault(own, 1)
        return own

    def named(self, name: str) -> str:
        """A name like this one that nothing has yet."""
        name = untaken(name, self.taken)
        self.taken.add(name)
        return name


def reads(node: Node) -> Iterable[str]:
    """The tensors that a node takes, those that graphs inside it read among them."""
    yield from node.inputs
    for _, value in node.attributes:
        if isinstance(value, Branch):
            yield from value.outputs
            for inner in value.nodes:
                yield from reads(inner)


def number_of(dtype: DType) -> int:
    """ONNX's number of an element type."""
    return ONNX_DTYPES[dtype]
