"""From ONNX: a file, its bytes or a ModelProto to a TDAG, by the rules in :mod:`tdagger.frameworks.onnx.ops`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tdagger.errors import InputError, TDaggerError, UnsupportedError
from tdagger.frameworks.importing import Importing, Problem
from tdagger.frameworks.known import array_of_constant
from tdagger.frameworks.onnx.ops import find
from tdagger.frameworks.onnx.ops.table import OpRule, Parameter, why_not
from tdagger.frameworks.onnx.tensors import DTYPES, HELD, Tensors, attribute
from tdagger.graph import Graph, bulk
from tdagger.names import shown
from tdagger.network import Weight, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, const
from tdagger.ops.source import Parameter as Learned
from tdagger.tensordag import Origin, TensorDAG
from tdagger.types import TensorType


def from_onnx(
    model: str | Path | bytes | onnx.ModelProto,
    *,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None,
    external: bool = False,
    name: str = "",
) -> TensorDAG:
    """A TDAG of an ONNX model: the path of a file, its bytes, or a ModelProto.

    ``sizes`` are those of dimensions that the file names (``{"batch": 1}``), ``inputs`` whole shapes by the names of
    the inputs; InputError asks for what is missing. ``values`` makes inputs constants of the network
    (``{"shape": [2, -1]}``): those that say how it is built.
    UnsupportedError names all operators that can't be imported.
    """
    proto = model if isinstance(model, onnx.ModelProto) else onnx.ModelProto.FromString(
        model if isinstance(model, bytes) else Path(model).read_bytes()
    )  # fmt: skip
    title = name or proto.graph.name or "onnx"
    with bulk():
        return _Walk(proto, dict(sizes or {}), dict(inputs or {}), dict(values or {}), external).network(title)


#: The operators that move entries of any element type, or make some of the type of an input: which input.
_CARRIES = {
    "Identity": 0, "Reshape": 0, "Flatten": 0, "Transpose": 0, "Squeeze": 0, "Unsqueeze": 0, "Pad": 0, "CastLike": 1,
    "QuantizeLinear": 2,
}  # fmt: skip


class _Walk(Importing):
    """One model as it is read: the values by the names the file gives them."""

    def __init__(
        self,
        model: onnx.ModelProto,
        sizes: dict[str, int],
        shapes: dict[str, Sequence[int]],
        fixed: dict[str, Any],
        external: bool,
    ) -> None:
        super().__init__(external, [i.name for i in model.graph.input])
        self.model, self.sizes, self.shapes, self.fixed = model, sizes, shapes, fixed
        self.versions = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self.tensors = Tensors(model.graph.initializer)
        self.values: dict[str, Value] = {}
        #: The tensors that are leaves, and what the state says of them.
        self.state: dict[str, Weight] = {}
        #: The element types of what is held in another one, by name.
        self.held: dict[str, int] = {}
        #: The arrays of values that numbers were read from, None for those that aren't known.
        self.known: dict[Value, Array | None] = {}

    def network(self, title: str) -> TensorDAG:
        graph = self.model.graph
        given: dict[str, Value] = {}
        for info in (*graph.input, *graph.value_info):
            self._is_held(info.name, info.type.tensor_type.elem_type)
        for t in graph.initializer:
            self._is_held(t.name, t.data_type)
        unknown = self.fixed.keys() - {i.name for i in graph.input}
        if unknown:
            raise InputError(f"values are given for {', '.join(map(shown, sorted(unknown)))}, which is no input")
        for i in graph.input:
            if i.name in self.fixed:
                self.values[i.name] = const(self.fixed[i.name], DTYPES[i.type.tensor_type.elem_type])
            elif i.name not in self.tensors:
                given[i.name] = self.values[i.name] = Input(i.name, self._type(i))()
        for node in graph.node:
            self._node(node)
        if self.problems and not self.external:
            raise self.error(what="nodes")
        outputs = {o.name: self.value(o.name, False) for o in graph.output}
        signature = self.with_seed(given, plain_signature(len(given), len(outputs)))
        made = Graph(given, outputs, {}, title, self.order)
        return TensorDAG(made, self.tensors.part(self.state), signature, self.state, self.origins, {}, title)

    def _type(self, info: onnx.ValueInfoProto) -> TensorType:
        t = info.type.tensor_type
        if info.name in self.shapes:
            return TensorType(tuple(self.shapes[info.name]), DTYPES[t.elem_type])
        found: list[int] = []
        for d in t.shape.dim:
            size = d.dim_value if d.HasField("dim_value") else self.sizes.get(d.dim_param)
            if size is None:
                raise InputError(f"input {shown(info.name)} has a size {shown(d.dim_param)}: give sizes={{...}}")
            found.append(size)
        return TensorType(tuple(found), DTYPES[t.elem_type])

    def _is_held(self, name: str, kind: int) -> None:
        if kind in HELD:
            self.held[name] = kind

    def value(self, name: str, statistic: bool) -> Value:
        """The value that the file calls ``name``; a weight becomes a leaf when it is first asked for."""
        found = self.values.get(name)
        if found is not None:
            return found
        if name not in self.tensors:
            raise InputError(f"{shown(name)} is used and nothing makes it")
        kind = self.tensors.type(name)
        if kind.dtype.is_float and kind.rank:
            leaf = (Buffer if statistic else Learned)(name, kind)()
            self.state[name] = Weight(kind, not statistic)
        elif kind.size > 1 << 16:
            leaf = Buffer(name, kind)()
            self.state[name] = Weight(kind, False)
        else:
            leaf = const(self.tensors[name], kind.dtype)
        self.values[name] = leaf
        return leaf

    def _node(self, node: onnx.NodeProto) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        origin = Origin("", node.op_type, node.name)
        rule = find(domain, node.op_type, self.versions.get(domain, 1))
        if node.op_type == "Constant" and not domain:
            self.tensors.add_constant(node)
            self._is_held(node.output[0], node.attribute[0].t.data_type)
            return
        try:
            if rule is None:
                raise UnsupportedError(why_not(domain, node.op_type))
            results = self._called(rule, node)
        except (TDaggerError, ValueError) as e:
            self.problems.append(Problem(node.op_type, str(e), shown(node.name)))
            return
        self.note(results, origin)
        made = results if isinstance(results, tuple) else (results,)
        for name, result in zip(node.output, made, strict=False):
            if name and result is not None:
                self.values[name] = result
                self._is_held(name, self._held_by(node))

    def _held_by(self, node: onnx.NodeProto) -> int:
        """The element type of a node's result, where that is held in another one; else 0."""
        stated = next((a.i for a in node.attribute if a.name in ("to", "output_dtype") and a.i), 0)
        at = _CARRIES.get(node.op_type, len(node.input))
        return stated or (self.held.get(node.input[at], 0) if at < len(node.input) else 0)

    def _called(self, rule: OpRule, node: onnx.NodeProto) -> Any:
        attributes = {a.name: attribute(a) for a in node.attribute}
        odd = [n for n in attributes if n not in rule.attributes]
        if odd:
            raise UnsupportedError(f"its attribute {', '.join(map(shown, odd))} isn't known to its rule")
        args: list[Any] = []
        for i, name in enumerate(node.input):
            p = rule.inputs[i] if i < len(rule.inputs) else rule.rest
            if p is None:
                raise UnsupportedError(f"it has {len(node.input)} inputs, its rule takes {len(rule.inputs)}")
            args.append(self._argument(p, name) if name else None)
        for p in rule.inputs[len(args) :]:
            if p.name in attributes:
                args.append(attributes.pop(p.name))
            elif not p.optional:
                raise UnsupportedError(f"its input {p.name} is missing")
            else:
                break
        own = {
            "version": self.versions.get(node.domain, 1),
            "wanted": [bool(n) for n in node.output],
            "draw": self.draw,
            "types": [self.held.get(n, 0) for n in node.input],
        }
        return rule.function(*args, **attributes, **{n: own[n] for n in rule.own})

    def _argument(self, p: Parameter, name: str) -> Any:
        if p.number is None:
            return self.value(name, p.statistic)
        if name in self.tensors and name not in self.values:
            return p.number(self.tensors[name])
        value = self.value(name, False)
        if value not in self.known:
            self.known[value] = array_of_constant(value)
        array = self.known[value]
        if array is None:
            raise UnsupportedError(f"its input {p.name} depends on data ({shown(name)})")
        return p.number(np.asarray(array))
