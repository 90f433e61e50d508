"""To CoreML: a TensorDAG becomes an ``.mlpackage`` with an ML program."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tdagger.errors import AttributeValueError, AxisError, UnsupportedError, warn
from tdagger.frameworks.coreml.asked import NAMES
from tdagger.frameworks.coreml.emit.core import as_type, with_shape
from tdagger.frameworks.coreml.emit.flexible import Opened, Point, opened
from tdagger.frameworks.coreml.emit.half import in_half
from tdagger.frameworks.coreml.emit.quantized import needed_opset, packed, told
from tdagger.frameworks.coreml.emit.save import empty, fill, set_type, write_package
from tdagger.frameworks.coreml.emit.target import RANK, row_of, target
from tdagger.frameworks.coreml.emit.writer import Op, Writer, reads
from tdagger.frameworks.opening import Number, Open, sizes_of
from tdagger.frameworks.writing import needed, recognised, results_of, with_weights
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer
from tdagger.tensordag import TensorDAG
from tdagger.transform.legal import legalize, narrowed, unsupported
from tdagger.transform.legal.pairs import in_pairs
from tdagger.types import DType, TensorType

#: What can be asked for: the operator set and the version of the specification.
TARGETS = {"iOS15": (15, 6), "iOS16": (16, 7), "iOS17": (17, 8), "iOS18": (18, 9)}

#: The numbers of element types of arrays that models take and give (``FeatureTypes.proto``).
_ARRAYS = {"f32": 65568, "f16": 65552, "i32": 131104}


def to_coreml(
    dag: TensorDAG,
    path: str | Path | None = None,
    *,
    minimum_target: str | None = None,
    precision: str = "f32",
    dynamic: Sequence[str] | Mapping[str, Sequence[int]] = (),
    states: bool = False,
    metadata: bool = True,
) -> Any:
    """Write a network as an ``.mlpackage``; without a path, give the protobuf Model, which has all weights inside.

    ``minimum_target`` is iOS15, iOS16, iOS17 or iOS18; unless it is given iOS16, or the first later one that has what
    quantized values need (docs/coreml.md). With ``precision="f16"`` floats are computed in f16, but for
    what doesn't fit there (docs/coreml.md); inputs and outputs stay as they are. Integers of 64 bits are of 32 here,
    refused where constants don't fit; bools go in and come out as integers. Names that CoreML doesn't take are changed,
    and the model's metadata says what they were.

    ``dynamic`` has names of axes (``dag.axes()``) of any size, or of sizes in a range or a list: ``{"b": (1, 8)}``,
    ``{"h": [224, 320, 384]}``. AxisError says why an axis can't be of any size; UnsupportedError
    names all ops that can't be written.

    Buffers that change are outputs ``<name>.updated``, and begin each run as they are; with ``states`` they are states
    of the model (iOS18), which last from run to run. These are f16, and zeros at first: a buffer of other numbers is
    refused.
    """
    opset, version = target_of(minimum_target or f"iOS{18 if states else needed_opset(dag.graph)}", path)
    if precision not in ("f32", "f16"):
        raise AttributeValueError(f"to_coreml: precision is f32 or f16, not {precision!r}")
    with_weights(dag)
    check_ends(dag.name, opset, dag.graph.inputs, dag.graph.outputs)
    if states:
        check_states(dag.name, opset, dag.graph.updates, dag.weights)

    def written(network: TensorDAG, varies: frozenset[int] | None = None) -> Made:
        network = recognised(network)
        network = in_half(in_pairs(network)) if precision == "f16" else network
        own = target(opset) if varies is None else replace(target(opset), varies=varies)
        network = legalize(network, own)
        return _made(network if varies is None else narrowed(network, own), opset, states, varies)

    allowed = _allowed(dag, dynamic)
    made = _at_points(dag, allowed, written) if allowed else written(dag)

    return finished(made, version, path, metadata)


def finished(made: Made, version: int, path: str | Path | None, metadata: bool) -> Any:
    """The package of what was written; without a path, the Model."""
    made.tell()

    def make(weights: Any) -> Any:
        return made.model(version, weights, metadata)

    if path is None:
        return make(None)
    write_package(Path(path), make)
    return None


def target_of(name: str, path: str | Path | None) -> tuple[int, int]:
    """The operator set and the version of a target; AttributeValueError for others and other kinds of files."""
    if name not in TARGETS:
        raise AttributeValueError(f"to_coreml: minimum_target is one of {', '.join(TARGETS)}, not {name!r}")
    if path is not None and Path(path).suffix.lower() != ".mlpackage":
        raise AttributeValueError(f"to_coreml writes .mlpackage, not {shown(path)}")
    return TARGETS[name]


def check_ends(name: str, opset: int, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> None:
    """Inputs and outputs have element types that arrays of CoreML have, and no more than five axes."""
    allowed = ("f32", "i32", "i64", "bool", *(("f16",) if opset >= 16 else ()))
    ends = [("input", *pair) for pair in inputs.items()] + [("output", *p) for p in outputs.items()]
    odd = [f"{what} {shown(n)} is {v.type}" for what, n, v in ends
           if v.dtype.name not in allowed or v.rank > RANK or not v.type.size]  # fmt: skip
    if odd:
        raise UnsupportedError(
            f"{shown(name)} can't go to CoreML, which takes and gives {', '.join(allowed)} of at most {RANK} axes, "
            f"with entries: {'; '.join(odd)}"
        )


def check_states(name: str, opset: int, buffers: Collection[str], weights: Mapping[str, Array]) -> None:
    """UnsupportedError for buffers that can't be states: these are floats, zeros at first, and came with iOS18."""
    if opset < 18:
        raise UnsupportedError(f"{shown(name)}: CoreML has states since iOS18 (minimum_target='iOS18')")
    begins = {n: np.asarray(weights[n]) for n in buffers}
    odd = [f"{shown(n)} {'is not zeros at first' if a.any() else f'is of {DType.of(a.dtype)}'}"
           for n, a in begins.items() if a.any() or not DType.of(a.dtype).is_float]  # fmt: skip
    if odd:
        raise UnsupportedError(
            f"{shown(name)}: states of CoreML are f16 and zeros at first: {'; '.join(odd)}. Without states=True "
            "buffers are outputs <name>.updated"
        )


#: By the name of an open axis: the least and the most entries (-1: any), or a list of those that are allowed.
Allowed = dict[str, tuple[int, int] | list[int]]


def _allowed(dag: TensorDAG, dynamic: Sequence[str] | Mapping[str, Sequence[int]]) -> Allowed:
    """What is asked of each axis; AxisError for axes that can't be open, AttributeValueError for sizes that aren't."""
    given: Any = {dynamic: ()} if isinstance(dynamic, str) else dynamic
    asked = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, ())
    found: Allowed = {}
    usual = sizes_of(dag, asked)
    for name, sizes in asked.items():
        whole = [int(n) for n in sizes]
        if any(n < 1 for n in whole) or (
            isinstance(sizes, tuple) and sizes and (len(whole) != 2 or whole[0] > whole[1])
        ):
            raise AttributeValueError(
                f"to_coreml: dynamic={{{name!r}: {sizes}}} is neither a range nor a list of sizes"
            )
        found[name] = sorted({*whole, usual[name]}) if isinstance(sizes, list) else (
            (whole[0], whole[1]) if whole else (1, -1)
        )  # fmt: skip
    if sum(isinstance(s, list) for s in found.values()) > (1 if len(found) == 1 else 0):
        raise AttributeValueError("to_coreml: a list of sizes is for one open axis alone, beside others give ranges")
    return found


def _at_points(dag: TensorDAG, allowed: Allowed, written: Callable[[TensorDAG, frozenset[int] | None], Made]) -> Made:
    """The program with open axes: written at several sizes, which have to be the same ops."""
    usual = {n: dag.axes().sizes[n] for n in allowed}
    try:
        open_ = Open.of(dag, usual)
        sizes = open_.points()
        made = [written(dag.resize(**cast(Any, s)), open_.varies(s)) for s in sizes]
        points = [Point(s, joined(m.ops), m.writer.constants, m.inputs, m.outputs)
                  for s, m in zip(sizes, made, strict=True)]  # fmt: skip
        found = opened(points, open_)
    except (AxisError, UnsupportedError) as e:
        if isinstance(e, UnsupportedError):
            written(dag, None)  # what can't be had at any size is that error
        names = ", ".join(map(shown, allowed))
        raise AxisError(f"{shown(dag.name)}: {names} can't be of any size in CoreML: {e}") from e
    return replace_with(made[0], found, usual, allowed)


def _made(dag: TensorDAG, opset: int, states: bool, varies: frozenset[int] | None) -> Made:
    """The ops of a network that is legal; ``varies``: sizes that are going to be open, where some are."""
    graph = dag.graph
    writer = Writer(graph, row_of, dag.origins, dag.weights, target(opset).held, opset, packed,
                    varies is not None, varies or ())  # fmt: skip
    made = Made(dag.name, opset, writer)
    outputs = graph.outputs if states else results_of(graph)
    ends = made.begin(graph.inputs, outputs)
    kept = graph.updates if states else {}
    for name, value in kept.items():
        made.writer.found[Buffer.of(name, value.type)] = made.state(name, value.type)
    made.writer.write([*outputs.values(), *kept.values()])
    made.end(made.writer.ops, {ends[n]: v for n, v in outputs.items()}, kept)
    return made


def replace_with(made: Made, found: Opened, usual: Mapping[str, int], allowed: Allowed) -> Made:
    """What was made, with open sizes."""
    made.ops, made.writer.constants = found.ops, found.constants
    made.open, made.usual, made.allowed = found, usual, allowed
    return made


class Made:
    """The ops of a network, and what goes in and comes out."""

    def __init__(self, name: str, opset: int, writer: Writer) -> None:
        self.name, self.opset, self.writer = name, opset, writer
        self.open: Opened | None = None
        self.usual: Mapping[str, int] = {}
        self.allowed: Allowed = {}
        self.ops: list[Op] = []
        self.inputs: dict[str, TensorType] = {}
        self.outputs: dict[str, TensorType] = {}
        #: By the names of buffers: what their states are called, and their types in the file.
        self.states: dict[str, tuple[str, TensorType]] = {}

    def begin(self, inputs: Mapping[str, Value], outputs: Iterable[str]) -> dict[str, str]:
        """Take inputs, and names for outputs."""
        names = {n: self.writer.names.new(n, kept=True) for n in inputs}
        ends = {n: self.writer.names.new(n, kept=True) for n in outputs}
        for name, value in inputs.items():
            self._input(names[name], value)
        return ends

    def state(self, buffer: str, type_: TensorType) -> str:
        """What a buffer is when a run begins, as a state keeps it."""
        w = self.writer
        own, held = w.names.new(buffer, kept=True), type_.with_dtype(DType.of("f16"))
        self.states[buffer] = own, held
        return as_type(w, w.op("read_state", held, input=own), held, type_.dtype)

    def _written(self, buffer: str, value: Value) -> Op:
        """The op that keeps a value for the next run."""
        own, held = self.states[buffer]
        data = as_type(self.writer, self.writer.ref(value), self.writer.type(value), held.dtype)
        return Op("write_state", (("data", data), ("input", own)), (), (), f"{own}_written")

    def end(self, ops: Sequence[Op], outputs: Mapping[str, Value], states: Mapping[str, Value]) -> None:
        """Give outputs their names; what nothing needs is left out. UnsupportedError for what can't be written.

        ``states`` are the buffers that become states, and what they are after a run.
        """
        if self.writer.problems:
            raise unsupported(self.name, target(self.opset).name, self.writer.problems, "written")
        whole, more = [*ops], len(self.writer.ops)
        last = [*[self._written(n, v) for n, v in states.items()], *[self._output(n, v) for n, v in outputs.items()]]
        wanted = [n for op in last for _, n in op.inputs if isinstance(n, str)]
        self.ops = [*needed([*whole, *self.writer.ops[more:]], wanted, reads), *last]

    def tell(self) -> None:
        """Warn of quantized weights that are written as floats."""
        found = told(self.writer.floats)
        if found is not None:
            warn(f"{shown(self.name)} to CoreML (iOS{self.opset}): {found}")

    def _input(self, name: str, value: Value) -> None:
        """An input as arrays are: bools are integers, a number is an array of one."""
        w = self.writer
        own = w.type(value)
        given = own if own.dtype.name != "bool" else own.with_dtype(DType.of("i32"))
        given = given if given.rank else given.with_shape((1,))
        self.inputs[name] = given
        found = as_type(w, name, given, own.dtype)
        w.found[value] = with_shape(w, found, given.with_dtype(own.dtype), own.shape)

    def _output(self, name: str, value: Value) -> Op:
        """The op that gives an output its name."""
        w = self.writer
        own = w.type(value)
        found = w.ref(value)
        if own.dtype.name == "bool":
            own = own.with_dtype(DType.of("i32"))
            found = as_type(w, found, w.type(value), own.dtype)
        self.outputs[name] = own
        return Op("identity", (("x", found),), (name,), (own,), name)

    def model(self, version: int, weights: Any, metadata: bool) -> Any:
        """The protobuf; large constants go to ``weights``."""
        model = empty(version)
        program = model.mlProgram
        program.version = 1
        function = program.functions["main"]
        function.opset = f"CoreML{self.opset - 10}"
        for name, type_ in self.inputs.items():
            set_type(function.inputs.add(name=name).type, type_, self.open and self.open.shapes[name])
            self._feature(model.description.input.add(name=name), name, type_)
        for name, type_ in self.states.values():
            set_type(function.inputs.add(name=name).type.stateType.wrappedType, type_)
            array = model.description.state.add(name=name).type.stateType.arrayType
            array.dataType = _ARRAYS[type_.dtype.name]
            array.shape.extend(type_.shape)
        block = function.block_specializations[function.opset]
        ops = joined(self.ops) if self.open is None else self.ops
        fill(block, ops, self.writer.constants, weights, self.open.shapes if self.open else {})
        block.outputs.extend(self.outputs)
        for name, type_ in self.outputs.items():
            self._feature(model.description.output.add(name=name), name, type_, ends=True)
        called: Mapping[str, str] = self.writer.names.changed
        if metadata:
            about = model.description.metadata.userDefined
            about["tdagger.name"] = self.name
            if called:
                about[NAMES] = json.dumps(called, sort_keys=True)
        return model

    def _feature(self, feature: Any, name: str, type_: TensorType, ends: bool = False) -> None:
        """The description of an input or output: its shape, and which others there may be."""
        dims = self.open.dims[name] if self.open else type_.shape
        if not any(isinstance(d, Number) for d in dims):
            _feature(feature, type_, type_.shape)
            return
        if ends:  # the shape of an output is left open
            _feature(feature, type_, ())
            return
        array = _feature(feature, type_, [d.at(self.usual) if isinstance(d, Number) else d for d in dims])
        listed = next((s for s in self.allowed.values() if isinstance(s, list)), None)
        if listed is not None:
            (axis,) = self.allowed
            for n in listed:
                shape = array.enumeratedShapes.shapes.add().shape
                shape.extend([d.at({axis: n}) if isinstance(d, Number) else d for d in dims])
            return
        for d in dims:
            size = array.shapeRange.sizeRanges.add()
            least = {n: s[0] for n, s in self.allowed.items()}
            most = {n: s[1] for n, s in self.allowed.items()}
            size.lowerBound = d.at(least) if isinstance(d, Number) else d
            unbounded = isinstance(d, Number) and any(most[a] < 0 for a in d.axes)
            size.upperBound = -1 if unbounded else d.at(most) if isinstance(d, Number) else d


def _feature(feature: Any, type_: TensorType, shape: Sequence[int]) -> Any:
    array = feature.type.multiArrayType
    array.dataType = _ARRAYS[type_.dtype.name]
    array.shape.extend([int(n) for n in shape])
    return array


def joined(ops: list[Op]) -> list[Op]:
    """Ops with the identities that name outputs taken into what they name, where that is another op's only name."""
    made = {out: i for i, op in enumerate(ops) for out in op.outputs}
    called: dict[str, str] = {}
    kept = list(ops)
    for i in range(len(ops) - 1, -1, -1):
        op = ops[i]
        if op.op != "identity" or (i < len(ops) and not isinstance(op.inputs[0][1], str)):
            continue
        source = op.inputs[0][1]
        if isinstance(source, str) and source in made and source not in called and kept[made[source]].op != "identity":
            called[source] = op.outputs[0]
            kept[i] = op._replace(op="")
    return [_renamed(op, called) for op in kept if op.op]


def _renamed(op: Op, called: Mapping[str, str]) -> Op:
    def new(name: str | tuple[str, ...]) -> Any:
        return tuple([called.get(n, n) for n in name]) if isinstance(name, tuple) else called.get(name, name)

    blocks = [
        b._replace(
            ops=tuple([_renamed(o, called) for o in b.ops]), outputs=tuple([called.get(n, n) for n in b.outputs])
        )
        for b in op.blocks
    ]
    return op._replace(
        inputs=tuple([(k, new(n)) for k, n in op.inputs]),
        outputs=tuple([called.get(n, n) for n in op.outputs]),
        blocks=tuple(blocks),
    )
