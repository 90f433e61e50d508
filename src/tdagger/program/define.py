"""Making a program of a function, and calling networks inside of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.doubts import of_sizes
from tdagger.errors import GraphError, InputError, TypeMismatchError
from tdagger.graph import replayed
from tdagger.names import shown
from tdagger.network import Signature, Weight, declared
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, Leaf, Parameter
from tdagger.program.program import Program
from tdagger.program.trace import Trace, as_value, is_leaf, is_tracing, traced, tracing
from tdagger.tensordag import TensorDAG
from tdagger.tree import flatten
from tdagger.types import DType, TensorType


class Upto(int):
    """A size that varies from run to run: at most this."""


def upto(n: int) -> Upto:
    """In the shape of a program's input: as many entries as an array has, at most ``n``.

    Inside the program the value has ``n`` entries, of which :func:`length` count; zeros are behind them.

    >>> import tdagger as td
    >>> @td.program({"x": (td.upto(4),)})
    ... def total(x):
    ...     return td.reduce(x, "sum"), td.length(x)
    >>> total.run(np.ones(3, "f"))
    (array([3.], dtype=float32), array(3))
    """
    return Upto(n)


class Cut:
    """A result of which only so many entries count; see :func:`bounded`."""

    def __init__(self, value: Value, lengths: dict[int, Value]) -> None:
        self.value, self.lengths = value, lengths


def bounded(value: Value, length: Any, axis: int = 0) -> Cut:
    """A result of a program of which only the first ``length`` entries along an axis are given.

    >>> import tdagger as td
    >>> @td.program({"x": (4,), "n": td.TensorType((), "i64")})
    ... def first(x, n):
    ...     return td.bounded(x + x, n)
    >>> first.run(np.ones(4, "f"), np.int64(2))
    array([2., 2.], dtype=float32)
    """
    count = as_value(length)
    if count.type is not TensorType((), "i64"):
        raise TypeMismatchError(f"bounded: a length is i64[], not {count.type}")
    return Cut(value, {axis: count})


def length(x: Value, axis: int = 0) -> Value:
    """How many entries of a program's input count, where its size varies (:func:`upto`)."""
    trace = tracing("length")
    slot = trace.slots.get(x.op.leaf) if isinstance(x.op, Input) else None
    found = None if slot is None else dict(slot.lengths).get(axis)
    if found is None:
        raise GraphError(f"length: {x!r} is no input whose dimension {axis} varies (td.upto)")
    return Input(found, TensorType((), "i64"))()


Typed = TensorType | Sequence[int]


class ProgramFunction:
    """A function that becomes a program for the types of what it is given: :meth:`of`, or :meth:`run` at once.

    >>> import tdagger as td
    >>> @td.program
    ... def doubled(x):
    ...     return td.while_loop(lambda x: td.reshape(td.reduce(x, "max"), shape=()) < 8.0, lambda x: x + x, x)
    >>> doubled.run(np.array([1, 3], "f")), doubled.of((5,)).slots["x"]
    (array([ 4., 12.], dtype=float32), f32[5])
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._made: dict[Any, Program] = {}

    def of(self, *types: Typed) -> Program:
        """The program for inputs of some types, or shapes of f32."""
        names = list(inspect.signature(self.function).parameters)
        if len(types) != len(names):
            raise InputError(f"{self.__name__} takes {len(names)} inputs ({', '.join(names)}), got {len(types)}")
        key = tuple([t if isinstance(t, TensorType) else tuple([(n, type(n)) for n in t]) for t in types])
        if key not in self._made:
            self._made[key] = made(self.function, dict(zip(names, types, strict=True)), name=self.__name__)
        return self._made[key]

    def run(self, *arrays: Any, **options: Any) -> Any:
        """What the program for arrays of these types gives."""
        return self.of(*[TensorType(np.shape(a), DType.of(np.asarray(a).dtype)) for a in arrays]).run(
            *arrays, **options
        )

    def __call__(self, *args: Any) -> Any:
        """The function inside of another program."""
        tracing(self.__name__)
        return self.function(*args)


def program(
    inputs: Mapping[str, Typed] | Callable[..., Any],
    parameters: Mapping[str, Any] | None = None,
    buffers: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    name: str = "",
) -> Any:
    """Make a program of a function over values, in which td.while_loop, if_, switch and scan may be used.

    ``inputs`` have types, or shapes of f32, in which sizes may vary (:func:`upto`); ``parameters`` and ``buffers`` are
    arrays that the function gets by their names, ``state`` buffers that change (:func:`tdagger.state`). Without
    anything the function is a :class:`ProgramFunction`, which is made for the types that it is run on. Networks can
    be called as functions, their weights and state become the program's.

    >>> import tdagger as td
    >>> layer = td.layers.linear(2, 2)
    >>> @td.program({"x": (1, 2), "n": td.TensorType((), "i64")})
    ... def repeated(x, n):
    ...     return td.while_loop(lambda i, x: i < n, lambda i, x: (i + 1, layer(x)), (0, x))[1]
    >>> repeated
    <Program repeated: 4 blocks, 5 slots>
    """
    if callable(inputs):
        return ProgramFunction(inputs)
    given = dict(inputs)

    def make(function: Callable[..., Any]) -> Program:
        return made(function, given, parameters, buffers, state, name)

    return make


def made(
    function: Callable[..., Any],
    inputs: Mapping[str, Typed],
    parameters: Mapping[str, Any] | None = None,
    buffers: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    name: str = "",
    dtypes: Mapping[str, str] | None = None,
) -> Program:
    """The program of a function; see :func:`program`. ``dtypes``: of inputs that have shapes, f32 unless told."""
    trace = Trace(name or getattr(function, "__name__", "program"))
    entry = trace.current
    given: list[Value] = []
    for key, type_ in inputs.items():
        own = (
            type_
            if isinstance(type_, TensorType)
            else TensorType(tuple(map(int, type_)), (dtypes or {}).get(key, "f32"))
        )
        sizes = own.shape if isinstance(type_, TensorType) else type_
        given.append(trace.slot(key, own, entry))
        varying = [i for i, n in enumerate(sizes) if isinstance(n, Upto)]
        told = [(i, trace.slot(f"{key}_length", TensorType((), "i64"), entry)) for i in varying]
        slot = cast(Input, given[-1].op).leaf
        trace.slots[slot] = trace.slots[slot]._replace(lengths=tuple([(i, cast(Input, v.op).leaf) for i, v in told]))
    leaves: dict[str, Value] = {}
    for data, kind in ((parameters, Parameter), (buffers, Buffer), (state, None)):
        for key, array in (data or {}).items():
            given_array = np.asarray(array)
            trace.weights = {**trace.weights, key: given_array}
            own = TensorType(given_array.shape, DType.of(given_array.dtype))
            trace.declared[key] = Weight(own, kind is Parameter)
            if kind is not None:
                leaves[key] = kind(key, own)()
    result = traced(trace, lambda: function(*given, **leaves))
    found, tree = flatten(result, lambda v: isinstance(v, Cut) or is_leaf(v), "the result", result=True)
    if not found and not trace.state:
        raise GraphError(f"program {shown(trace.name)} gives no values")
    values = [v.value if isinstance(v, Cut) else as_value(v) for v in found]
    lengths = {i: list(v.lengths.items()) for i, v in enumerate(found) if isinstance(v, Cut)}
    args = flatten((tuple(inputs), {}), lambda v: isinstance(v, str))[1]
    names = tree.names("out")
    slots = [cast(Input, v.op).leaf for v in given]
    return trace.finished(slots, values, Signature(args, tree), names, lengths)


# --- networks ----------------------------------------------------------------------------------------------


def called(dag: TensorDAG, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a network gives on values, inside of a program that is being written."""
    if not is_tracing():
        raise GraphError(
            f"{shown(dag.name)} is called on values, which is for functions that become a program (td.program); "
            "run(...) takes arrays"
        )
    found = applied(dag, {n: as_value(v) for n, v in dag.bind(args, kwargs, is_leaf).items()})
    return dag.signature.outputs.unflatten(list(found.values()))


def applied(dag: TensorDAG, inputs: Mapping[str, Value]) -> dict[str, Value]:
    """The outputs of a network by name, on values by the names of its inputs, inside of a program."""
    trace = tracing()
    for name, value in dag.graph.inputs.items():
        if inputs[name].type is not value.type:
            raise TypeMismatchError(f"{shown(dag.name)} takes {name!r} as {value.type}, got {inputs[name].type}")
    start = {v: inputs[n] for n, v in dag.graph.inputs.items()}
    for leaf in (*dag.graph.parameters.values(), *dag.graph.buffers.values()):
        own = _weight(trace, dag, cast(Leaf, leaf.op).leaf)
        changes = isinstance(leaf.op, Buffer) and (cast(Leaf, leaf.op).leaf in dag.graph.updates or own in trace.state)
        start[leaf] = trace.state_of(own) if changes else type(leaf.op)(own, leaf.type)()
        if isinstance(leaf.op, Buffer) and not changes and trace.frames:
            trace.read_inside.add(own)
    for name, weight in dag.state.items():  # other names of what is used
        if weight.alias_of and trace.named.get((id(dag.weights), weight.alias_of)) == weight.alias_of:
            trace.declared.setdefault(name, weight)
    states = {n: _weight(trace, dag, n) for n in dag.graph.updates}
    for own in states.values():
        trace.state_of(own)
    new = replayed(dag.graph, start)
    for value, origin in dag.origins.items():
        if value in new:
            trace.origins.setdefault(new[value], origin)
    trace.order += [new[v] for v in dag.graph.values]
    trace.left_out = tuple(dict.fromkeys((*trace.left_out, *of_sizes(dag.left_out))))
    trace.modules |= {n: m for n, m in dag.modules.items() if n not in trace.modules}
    for name, value in dag.graph.updates.items():
        trace.state[states[name]] = new[value]
    return {n: new[v] for n, v in dag.graph.outputs.items()}


def _weight(trace: Trace, dag: TensorDAG, name: str) -> str:
    """What the weight of a network is called in the program: as it is, unless another one is called so."""
    key = (id(dag.weights), name)
    found = trace.named.get(key)
    if found is not None:
        return found
    trace.called.append(dag.weights)  # so that nothing else gets its number
    state = dag.state.get(name) or declared(dag.graph)[name]
    name = state.alias_of or name
    data = dag.weights.get(name)
    own, count = name, 1
    while own in trace.declared and not _is_same(trace, own, state, data):
        count += 1
        own = f"{dag.name}.{name}" if count == 2 else f"{dag.name}_{count - 1}.{name}"
    trace.declared[own] = Weight(state.type, state.is_parameter, state.trainable, state.persistent)
    if data is not None:
        trace.weights = {**trace.weights, own: data}
    trace.named[key] = own
    return own


def _is_same(trace: Trace, name: str, state: Weight, data: Array | None) -> bool:
    """Whether a weight of the program is this one: the same memory, or both without data."""
    said, other = trace.declared[name], trace.weights.get(name)
    if said.type is not state.type or said.is_parameter != state.is_parameter:
        return False
    if data is None or other is None:
        return data is other
    return data is other or (
        data.__array_interface__["data"] == other.__array_interface__["data"] and data.strides == other.strides
    )
