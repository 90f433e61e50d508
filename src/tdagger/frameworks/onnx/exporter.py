"""To ONNX: a TensorDAG becomes a ModelProto, or a file of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tdagger.errors import AttributeValueError, AxisError, InputError, TypeMismatchError
from tdagger.frameworks.onnx.emit.core import row_of
from tdagger.frameworks.onnx.emit.save import node_proto, tensor_proto, value_info, write
from tdagger.frameworks.onnx.emit.writer import Branch, Node, Tensor, Writer, reads
from tdagger.frameworks.writing import needed, recognised, results_of
from tdagger.graph import Graph
from tdagger.names import shown
from tdagger.network import Weight
from tdagger.op import Value
from tdagger.tensordag import Origin, TensorDAG
from tdagger.transform.legal import unsupported
from tdagger.transform.legal.pairs import in_pairs
from tdagger.transform.networks import placed
from tdagger.transform.surgery.edit import finished
from tdagger.types import Size, readable

#: The operator set that is written unless one is asked for: what onnxruntime of today and of some years ago run whole.
OPSET = 20
OLDEST, NEWEST = 18, 26
#: The first operator set that has int4, and scales for blocks.
_WITH_BLOCKS = 21


def to_onnx(
    dag: TensorDAG,
    path: str | Path | None = None,
    *,
    opset: int | None = None,
    dynamic: Sequence[str] | bool = (),
    external_data: bool | None = None,
    metadata: bool = True,
) -> onnx.ModelProto | None:
    """Write a network as an ONNX file; without a path, give the ModelProto.

    Composites are single operators where the operator set has them, else their bodies. Inputs, outputs and weights
    keep their names; a matrix that lies transposed in the file is called ``<name>.T``, an output that is called as an
    input ``<name>_``. UnsupportedError names all that can't be written, at once. ``dynamic`` has names of axes
    (``dag.axes()``) that any size may be given for, True all that can be; AxisError says why one can't. Buffers that
    change are outputs ``<name>.updated``, a network of random numbers takes its seed as an input. ``external_data``
    puts tensors in a file ``<path>.data``, as is done anyway beyond 2 GB. ``opset`` is 20 unless it is given, 21 with
    weights in blocks or of 4 bits. ``metadata``: nodes say which module and line they came from.
    """
    if opset is None:
        opset = _opset_of(dag.graph)
    dag = dag if dynamic else in_pairs(recognised(dag))
    checked(opset, dag.name, [*dag.graph.parameters, *dag.graph.buffers], dag.weights)
    made = _dynamic(dag, opset, dynamic) if dynamic else _made(dag, dag.graph, dag.origins, opset)
    return written(dag.name, made, path, opset, external_data, metadata)


def checked(opset: int, name: str, leaves: Sequence[str], weights: Mapping[str, Any]) -> None:
    """AttributeValueError for an operator set that isn't written, InputError for a weight without data."""
    if not OLDEST <= opset <= NEWEST:
        raise AttributeValueError(f"to_onnx writes operator sets {OLDEST} to {NEWEST}, not {opset}")
    for leaf in leaves:
        if leaf not in weights:
            raise InputError(f"{shown(name)}: the weights have no {shown(leaf)}, which the graph needs")


def written(
    name: str, made: Made, path: str | Path | None, opset: int, external_data: bool | None, metadata: bool
) -> onnx.ModelProto | None:
    """The model of some nodes: a file, or without a path the ModelProto."""
    model = _model(name, made, opset, metadata)
    if path is None:
        size = sum(t.bytes for t in made.tensors.values())
        if size + model.ByteSize() >= 2**31:
            raise InputError(f"{shown(name)} has {size} bytes of weights, more than a ModelProto holds: give a path")
        model.graph.initializer.extend(tensor_proto(n, t) for n, t in made.tensors.items())
        return model
    write(model, made.tensors, Path(path), external_data)
    return None


def _opset_of(graph: Graph) -> int:
    """The operator set that is written unless one is asked for: a newer one for what it has not, int4 and blocks."""
    packed = any(
        v.op.name == "dequantize" and (v.op.attributes["of"] or v.op.attributes["block"]) for v in graph.values
    )
    return _WITH_BLOCKS if packed else OPSET


@dataclass
class Made:
    """The nodes and tensors of a network, the graph they are of, and the names of its outputs and their values."""

    graph: Graph
    nodes: list[Node]
    tensors: dict[str, Tensor]
    outputs: dict[str, Value]
    domains: set[str]
    conditions: Sequence[Any] = ()
    labels: dict[str, list[str | None]] = field(default_factory=dict[str, list[str | None]])
    updates: Sequence[str] = ()


def _made(dag: TensorDAG, graph: Graph, origins: Mapping[Value, Origin], opset: int) -> Made:
    """The nodes of a graph; UnsupportedError names what can't be written."""
    writer = Writer(graph, row_of, origins, dag.weights, opset, tables_of(dag.state))
    outputs = results_of(graph, graph.inputs)
    writer.taken |= outputs.keys()
    writer.write(outputs.values())
    if writer.problems:
        refuse(dag.name, writer)
    nodes = ended(writer.nodes, {n: writer.ref(v) for n, v in outputs.items()})
    used = {n for node in nodes for n in reads(node)}
    tensors = {n: t for n, t in writer.tensors.items() if n in used}
    return Made(graph, nodes, tensors, outputs, writer.domains)


def tables_of(state: Mapping[str, Weight]) -> set[str]:
    """The weights that no state_dict has: angles of rotary embeddings and the like."""
    return {n for n, w in state.items() if not w.persistent}


def refuse(name: str, writer: Writer) -> None:
    """UnsupportedError for all that a writer can't write, AxisError for sizes that can't be told."""
    sizes = [p for p in writer.problems if "can't be told" in p.why]
    if sizes:
        op, why, origin = sizes[0]
        raise AxisError(f"{shown(name)}: {op}{placed(origin)}: {readable(why)}")
    raise unsupported(name, "ONNX", writer.problems, "written")


def ended(nodes: list[Node], outputs: Mapping[str, str]) -> list[Node]:
    """The nodes that are needed, with the results that are outputs called as these; ``outputs`` says which they are."""
    made = {name for node in nodes for name in node.outputs}
    called: dict[str, str] = {}
    extra: list[Node] = []
    for name, own in outputs.items():
        if own in made and own not in called:
            called[own] = name
        else:
            extra.append(Node("Identity", (called.get(own, own),), (name,), (), f"/Identity/{name}", "", None))
    nodes = needed(nodes, [*called, *[n for node in extra for n in node.inputs]], reads)
    return [_renamed(node, called) for node in nodes] + extra


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    if names.keys().isdisjoint(node.outputs) and names.keys().isdisjoint(reads(node)):
        return node
    attributes = tuple([(k, _branch(v, names) if isinstance(v, Branch) else v) for k, v in node.attributes])
    return node._replace(
        inputs=tuple([names.get(n, n) for n in node.inputs]),
        outputs=tuple([names.get(n, n) for n in node.outputs]),
        attributes=attributes,
    )


def _branch(branch: Branch, names: Mapping[str, str]) -> Branch:
    outputs = tuple([names.get(n, n) for n in branch.outputs])
    return Branch([_renamed(n, names) for n in branch.nodes], outputs, branch.types, branch.inputs)


# --- models ------------------------------------------------------------------------------------------------

#: Versions of operator sets of other domains, where it isn't 1.
_VERSIONS = {"ai.onnx.ml": 3}
#: The version of the format by operator set; 10 is the first in which nodes have metadata.
_IR_VERSIONS = {18: 10, 19: 10, 20: 10, 21: 10, 22: 10, 23: 11, 24: 11, 25: 12, 26: 13}


def _model(name: str, made: Made, opset: int, metadata: bool) -> onnx.ModelProto:
    """The model without the data of its tensors."""
    model = onnx.ModelProto(ir_version=_IR_VERSIONS[opset], producer_name="tdagger")
    for domain, version in [("", opset), *[(d, _VERSIONS.get(d, 1)) for d in sorted(made.domains)]]:
        model.opset_import.add(domain=domain, version=version)
    graph = model.graph
    graph.name = name or "network"
    names = made.labels
    graph.input.extend(value_info(n, v.type, names.get(n, ())) for n, v in made.graph.inputs.items())
    graph.output.extend(value_info(n, v.type, names.get(n) or _output_labels(v)) for n, v in made.outputs.items())
    keeps = metadata
    graph.node.extend([node_proto(n, keeps) for n in made.nodes])
    told = {"tdagger.name": name}
    if made.conditions:
        told["tdagger.sizes"] = "; ".join(readable(str(c)) for c in made.conditions)
    updates = made.updates or [*made.graph.updates]
    if updates:
        told["tdagger.updates"] = ", ".join(updates)
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    return model


def _output_labels(value: Value) -> list[str | None]:
    """Names of an output's sizes that aren't numbers: the formula, where that is one axis the axis."""
    return [str(n.formula) if isinstance(n, Size) else None for n in value.shape]


# --- sizes of any number -----------------------------------------------------------------------------------


def _dynamic(dag: TensorDAG, opset: int, dynamic: Sequence[str] | bool) -> Made:
    """The nodes of a network whose axes have no numbers; AxisError says which can't be so, and why."""
    free = dag.open_axes
    if dynamic is True:
        return _all_that_can(dag, opset, list(free.names))
    names = [dynamic] if isinstance(dynamic, str) else list(dynamic or ())
    for name in names:
        if name not in free.names:
            why = free.why.get(name)
            there = ", ".join(free.names) or "none"
            told = f": {why}" if why else f"; those that can be are {there}"
            raise AxisError(f"{shown(dag.name)}: axis {shown(name)} can't be of any size{told}")
    found = _opened(dag, opset, names)
    if isinstance(found, str):
        raise AxisError(f"{shown(dag.name)}: {', '.join(map(shown, names))} can't be of any size: {found}")
    return found


def _all_that_can(dag: TensorDAG, opset: int, names: list[str]) -> Made:
    found = _opened(dag, opset, names) if names else "no axis is free"
    if isinstance(found, str):
        each = {n: _opened(dag, opset, [n]) for n in names}
        left = [n for n in names if not isinstance(each[n], str)]
        together = _opened(dag, opset, left) if len(left) > 1 else "only one is left"
        found = together if not isinstance(together, str) or not left else each[left[0]]
    return _made(dag, dag.graph, dag.origins, opset) if isinstance(found, str) else found


def _opened(dag: TensorDAG, opset: int, names: Sequence[str]) -> Made | str:
    """The nodes with some axes open, made at two points of sizes, which must be the same; else why they can't be."""
    try:
        opened = dag.open_axes.opened(dag.axes(), names, dag.origins)
        one, other = (_made(paired, paired.graph, paired.origins, opset) for paired in _paired(dag, opened))
    except (AxisError, AttributeValueError, TypeMismatchError) as e:
        return readable(str(e)).splitlines()[0].removeprefix(f"{shown(dag.name)}: ")
    why = difference(one, other)
    if why is not None:
        return why
    one.conditions = opened[0].conditions
    one.labels = {n: _output_labels(v) for n, v in one.graph.inputs.items()}
    return one


def _paired(dag: TensorDAG, points: Sequence[Any]) -> list[TensorDAG]:
    """The network at points of sizes, complex numbers as two real ones."""
    return [in_pairs(recognised(finished(dag, p.graph, p.origins))) for p in points]


def difference(a: Made, b: Made) -> str | None:
    """What differs between what was made at two points; None if nothing does."""
    for x, y in zip(a.nodes, b.nodes, strict=False):
        if _told(x) != _told(y):
            return f"node {shown(x.name)} ({x.op}) is another at other sizes"
    if len(a.nodes) != len(b.nodes):
        return "the nodes are others at other sizes"
    for (n, x), (m, y) in zip(a.tensors.items(), b.tensors.items(), strict=False):
        same = n == m and x.type is y.type
        if same and n.startswith("constant_") and x.load().tobytes() != y.load().tobytes():
            same = False
        if not same:
            users = [node.name for node in a.nodes if n in node.inputs]
            return f"a constant of {', '.join(map(shown, users[:2]))} is another at other sizes"
    return None if len(a.tensors) == len(b.tensors) else "the constants are others at other sizes"


def _told(node: Node) -> Any:
    """What two nodes must have alike."""
    attributes = [(k, list(map(_told, v.nodes)) if isinstance(v, Branch) else v) for k, v in node.attributes]
    return node.op, node.inputs, node.outputs, attributes
