"""From TFLite: a file or its bytes to a TDAG or a Program, by the rules in :mod:`tdagger.frameworks.tflite.ops`.

Which leaf a constant tensor becomes:

- a parameter: floats of rank 1 and more of more than one entry (also f16, which an operator of the file widens);
- a buffer: integers of 8 bits and less of rank 2 and more, which are quantized weights; integers of more than 65,536
  entries; what is kept from call to call (resource variables, variable tensors);
- a constant: single numbers, and all other integers and bools.

Where a rule wants numbers they are read, whatever holds them. Tensors that share data are one leaf. A tensor that is
quantized is its integers; :mod:`tdagger.frameworks.tflite.quantized` makes real numbers of them where a rule computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.errors import InputError, SourceError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.again import Again
from tdagger.frameworks.importing import Importing, Problem
from tdagger.frameworks.known import Known, as_numbers, folded, raising
from tdagger.frameworks.modules import class_of, joined
from tdagger.frameworks.sizes import Bound, Declared, axis_names, bound
from tdagger.frameworks.tflite.arguments import arguments, call_of, dtype_of, options
from tdagger.frameworks.tflite.flow import Flow
from tdagger.frameworks.tflite.left_out import FINDERS, left_out
from tdagger.frameworks.tflite.ops import RULES, WALKED, why_not
from tdagger.frameworks.tflite.ops.elementwise import activated
from tdagger.frameworks.tflite.ops.table import Call, OpRule, Parameter, Stateful
from tdagger.frameworks.tflite.quantized import blockwise, dequantized, quantized
from tdagger.frameworks.tflite.read import opened
from tdagger.frameworks.tflite.schema import (
    DTYPES,
    Model,
    Node,
    Quantization,
    SignatureDef,
    Subgraph,
    Tensor,
    is_quantized,
)
from tdagger.frameworks.tflite.state import Resource, Variables
from tdagger.frameworks.tflite.tensors import Tensors
from tdagger.graph import Graph, bulk
from tdagger.names import shown, untaken
from tdagger.network import Origin, Weight, plain_signature
from tdagger.op import Value
from tdagger.ops.external import Slot
from tdagger.ops.source import Buffer, Input, const
from tdagger.ops.source import Parameter as Learned
from tdagger.program.trace import is_tracing
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType

#: Integers of more entries are a buffer.
_MANY = 1 << 16
#: Subgraphs call each other no deeper, and have no more operators in all their calls (or than the file itself has).
_DEEPEST, _MOST = 64, 1 << 17
#: So many lies of a file are told.
_TOLD = 8

#: Operators that round at most what they are made of: on constants their result is one, where it is small.
_FOLDS = frozenset({
    "ABS", "ADD", "BROADCAST_ARGS", "CAST", "CEIL", "CONCATENATION", "DIV", "EQUAL", "EXPAND_DIMS", "FLOOR",
    "FLOOR_DIV", "FLOOR_MOD", "GATHER", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_NOT",
    "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "PACK", "POW", "REDUCE_PROD", "RESHAPE", "ROUND",
    "SELECT", "SELECT_V2", "SHAPE", "SLICE", "SPLIT", "SQRT", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "UNPACK",
})  # fmt: skip
#: Operators beside whose other argument a constant of one entry is a number.
_SPREADS = frozenset({"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "POW", "SQUARED_DIFFERENCE", "SUB"})
#: What the rules that find written-out composites call these.
_AS_ONNX = {"LOGISTIC": "Sigmoid", "MEAN": "ReduceMean", "MUL": "Mul", "RSQRT": "Sqrt", "SQRT": "Sqrt", "TANH": "Tanh"}

#: Operators whose quantized results have the integers that the input's scale gives, whatever the result's says.
_SAME_SCALE = frozenset({"AVERAGE_POOL_2D", "RESIZE_BILINEAR"})


def from_tflite(
    model: Any,
    *,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None,
    signature: str | None = None,
    external: bool = False,
    name: str = "",
) -> TensorDAG:
    """A TDAG of a TFLite model: the path of a file, or its bytes; a path may go into a bundle, ``hand.task/x.tflite``.

    Sizes that the file leaves open have what it says of them for now; ``sizes`` are others by the input and the place
    (``{"x.0": 8}``), ``inputs`` whole shapes by the names of inputs. ``signature`` is the key of the signature to
    import, the one of the first subgraph unless given. ``values`` makes inputs constants of the network. With
    ``external``, operators without a rule are kept as external ones.

    What the network keeps from call to call (resource variables, variable tensors) is in buffers that it updates.

    UnsupportedError names all operators that can't be imported; SourceError what is wrong with the file; InputError
    what is asked for and isn't there. A UserWarning names shapes that the file declares and that aren't so.
    """
    return imported(opened(model), Asked(sizes, inputs, values, signature, external, name))


class Asked(NamedTuple):
    """What :func:`from_tflite` is asked for besides the model; ``quiet``: what there is to say was said before."""

    sizes: Mapping[str, int] | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    values: Mapping[str, Any] | None = None
    signature: str | None = None
    external: bool = False
    name: str = ""
    quiet: bool = False


def imported(model: Model, asked: Asked) -> TensorDAG:
    """A model that was read, imported."""
    with bulk():
        return Walk(model, asked).network()


class Frame:
    """A subgraph as it is walked: the values of its tensors by their indices."""

    def __init__(self, graph: Subgraph, place: str = "") -> None:
        self.graph, self.place = graph, place
        self.values: dict[int, Value | Resource] = {}
        self.failed: set[int] = set()


class Walk(Importing):
    """One model as it is imported."""

    def __init__(self, model: Model, asked: Asked) -> None:
        super().__init__(asked.external)
        self.model, self.asked = model, asked
        self.tensors = Tensors(model)
        self.known = Known(self.tensors)
        self.state: dict[str, Weight] = {}
        self.leaves: dict[Any, Value] = {}
        self.modules: dict[str, str] = {}
        #: The names of all constant tensors; the paths of modules by what names of results begin with.
        self.names = {t.name for g in model.subgraphs for t in g.tensors if t.buffer and model.buffers[t.buffer][1]}
        self.prefixes: dict[str, str] = {}
        self.variables = Variables(self.tensors, self.state)
        self.flow = Flow(self)
        self.left_out: list[Any] = []
        self.lies: list[str] = []
        self.kinds: set[str] = set()
        self.failing: list[set[int] | None] = []
        self.walked, self.most = 0, max(_MOST, sum(len(g.nodes) for g in model.subgraphs))

    # The network.

    def network(self) -> TensorDAG:
        """The subgraph of the signature as a network."""
        asked = self.asked
        given, own, types, frame = self.begin()
        self.walk(frame)
        outputs = self.ended(frame)
        title = self.title(frame)
        if not asked.quiet:
            self._tell_lies()
        signature = self.with_seed(given, plain_signature(len(given), len(outputs)))
        made = Graph(given, outputs, self.variables.updates(), title, self.order)
        weights = self.tensors.part(self.state)
        names = axis_names(own, types.sizes)
        source = self._source(own) if any(i.free for i in own) else None
        found = made, weights, signature, self.state, self.origins, self.paths(), title, names, source
        dag = TensorDAG(*found, left_out=self.left_out, rows=True)
        rules = raising({_AS_ONNX[k] for k in self.kinds if k in _AS_ONNX})
        return replace(dag.rewrite(rules), source=source) if rules else dag

    def begin(self) -> tuple[dict[str, Value], list[Declared], Bound, Frame]:
        """The inputs by name, what the file says of them, their types, and the frame that has them."""
        which = signature_of(self.model, self.asked.signature)
        graph = self.model.subgraphs[which.subgraph]
        names = {i: n for n, i in which.inputs.items()}
        declared = {names.get(i, graph.tensors[i].name): i for i in graph.inputs}
        if len(declared) != len(graph.inputs):
            raise SourceError(f"{self.model.name} has two inputs called alike, or one twice: {[*declared]}")
        values = self.asked.values or {}
        odd = values.keys() - declared.keys()
        if odd:
            raise InputError(f"values: there is no input {', '.join(map(shown, sorted(odd)))} in the model")
        frame = Frame(graph)
        for name in values:
            tensor = graph.tensors[declared[name]]
            frame.values[declared[name]] = const(values[name], dtype_of(tensor))
        own = [_declared(n, graph.tensors[i]) for n, i in declared.items() if n not in values]
        types = bound(own, *_with_defaults(own, declared, graph, self.asked))
        self.at_home = all(types.types[d.name].shape == graph.tensors[declared[d.name]].shape for d in own)
        self.taken = list(types.types)
        given = {n: Input(n, t)() for n, t in types.types.items()}
        frame.values |= {declared[n]: v for n, v in given.items()}
        self.outputs = {i: n for n, i in which.outputs.items()}
        return given, own, types, frame

    def ended(self, frame: Frame) -> dict[str, Value]:
        """The results by name, after all problems were told."""
        if self.problems:
            self._without_dead(frame.graph)
        if self.problems:
            raise self.error(what="operators")
        outputs: dict[str, Value] = {}
        for i in frame.graph.outputs:
            name = self.outputs.get(i, frame.graph.tensors[i].name) or "out"
            name = untaken(name, outputs)
            found = self.find(frame, i)
            if not isinstance(found, Value):
                raise SourceError(f"the output {shown(name)} of {self.model.name} is made by nothing")
            outputs[name] = found
        if not outputs and not self.variables.changed:
            raise SourceError(f"{self.model.name} has no outputs")
        return outputs

    def title(self, frame: Frame) -> str:
        """What the network is called."""
        own = frame.graph.name if frame.graph.name not in ("", "main") else ""
        stem = Path(self.model.name).stem if self.model.name.endswith(".tflite") else ""
        return self.asked.name or own or stem or "tflite"

    def paths(self) -> dict[str, str]:
        """The modules by their paths, those around others first."""
        return {p: self.modules[p] for p in sorted(self.modules, key=lambda p: p.count(".") + bool(p))}

    def _source(self, own: Sequence[Declared]) -> Again:
        model, asked = self.model, self.asked

        def importing(shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
            return imported(model, asked._replace(sizes=None, shapes=shapes, quiet=True))

        return Again(model, own, importing)

    def _tell_lies(self) -> None:
        told = list(dict.fromkeys(self.lies)) if self.at_home else []
        if told:
            more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
            warn(f"{self.model.name} declares shapes that aren't so; they aren't used: {'; '.join(told[:_TOLD])}{more}")

    def _without_dead(self, graph: Subgraph) -> None:
        """Leave out the problems of operators that no output needs."""
        needed = set(graph.outputs)
        for node in reversed(graph.nodes):
            if not node.outputs or needed.intersection(node.outputs):
                needed.update(node.inputs)
        self.problems = [p for p, out in zip(self.problems, self.failing, strict=True) if not out or out & needed]

    # Tensors.

    def find(self, frame: Frame, index: int) -> Value | Resource | None:
        """What a tensor of a subgraph holds, as its integers if it is quantized."""
        found = frame.values.get(index)
        if found is None:
            tensor = frame.graph.tensors[index]
            if tensor.variable:
                found = self.variables.of_tensor(frame.place, index, tensor)
            elif self.model.is_constant(tensor):
                found = self.leaf(tensor)
            else:
                return None
            if not tensor.variable:
                frame.values[index] = found
        return found

    def leaf(self, tensor: Tensor) -> Value:
        """The leaf that a constant tensor is."""
        key = tensor.buffer, tensor.kind, tensor.shape
        found = self.leaves.get(key)
        if found is not None:
            return found
        type_ = TensorType(tensor.shape, dtype_of(tensor))
        dtype = type_.dtype
        learned = type_.rank > 0 and type_.size > 1 and (dtype.is_float or dtype.is_complex)
        if not learned and not (type_.size > _MANY or (dtype.is_int and dtype.bytes == 1 and type_.rank > 1)):
            found = const(self.model.array(tensor), dtype)
        else:
            name = self.tensors.named(tensor.name)
            self.tensors.held[name] = tensor
            self.state[name] = Weight(type_, learned)
            found = Learned.of(name, type_) if learned else Buffer.of(name, type_)
        self.leaves[key] = found
        return found

    def real(self, frame: Frame, value: Value, tensor: Tensor) -> Value:
        """The real numbers that a tensor stands for."""
        if tensor.blocks is not None:
            scales, zeros, block = tensor.blocks
            scale, zero = self._found(frame, scales), self._found(frame, zeros) if zeros > 0 else None
            return blockwise(value, scale, zero, block, tensor.kind)
        q = tensor.quantization
        if q is None or not is_quantized(tensor):
            return value
        return dequantized(value, q, tensor.kind)

    def _found(self, frame: Frame, index: int) -> Value:
        found = self.find(frame, index) if 0 <= index < len(frame.graph.tensors) else None
        if not isinstance(found, Value):
            raise SourceError(f"tensor {index} with the scales of blocks is made by nothing")
        return found

    def numbers(self, frame: Frame, p: Parameter, index: int) -> Any:
        """What an input that has to be numbers is."""
        assert p.number is not None
        tensor = frame.graph.tensors[index]
        if index not in frame.values and self.model.is_constant(tensor):
            return p.number(self.model.array(tensor))
        found = self.find(frame, index)
        array = self.known.array(found) if isinstance(found, Value) else None
        if array is None:
            raise UnsupportedError(
                f"its input {p.name} depends on data ({shown(tensor.name)}), and has to be known here"
            )
        return p.number(np.asarray(array))

    # Operators.

    def walk(self, frame: Frame) -> None:
        """The operators of a subgraph, one after the other."""
        self.walked += len(frame.graph.nodes)
        if self.walked > self.most:
            told = "" if is_tracing() else "; td.Program.from_tflite imports loops and branches as blocks"
            raise UnsupportedError(f"the calls of subgraphs, written out, have more than {self.most} operators{told}")
        for node in frame.graph.nodes:
            try:
                if frame.failed and frame.failed.intersection(node.inputs):
                    frame.failed.update(node.outputs)
                    continue
                results = self._called(frame, node)
                self._keep(frame, node, results)
            except (SourceError, InputError) as e:
                raise type(e)(f"{self.model.name}: {_place(frame, node)}: {e}") from e
            except Exception as e:  # a rule meets options and types that nobody wrote it for
                self._failed(frame, node, e)

    def _failed(self, frame: Frame, node: Node, error: Exception) -> None:
        """Note an operator that can't be imported, and what it makes."""
        if not isinstance(error, InSubgraph):
            why = str(error) if isinstance(error, TDaggerError | ValueError) else f"{type(error).__name__}: {error}"
            self.problems.append(Problem(node.op.removeprefix("custom:"), why, _place(frame, node)))
            self.failing.append(set(node.outputs) if not frame.place else None)
        frame.failed.update(node.outputs)

    def _keep(self, frame: Frame, node: Node, results: Sequence[Value | Resource | None]) -> None:
        """Give the results to the tensors of an operator."""
        for index, result in zip(node.outputs, results, strict=False):
            if result is None:
                frame.failed.add(index)  # what nobody reads isn't missed
                continue
            if isinstance(result, Value):
                self._agrees(frame.graph.tensors[index], result)
            frame.values[index] = result
        if len(results) < len(node.outputs):
            raise UnsupportedError(f"it has {len(node.outputs)} results, {len(results)} are made here")

    def _agrees(self, tensor: Tensor, result: Value) -> None:
        """A result has the element type that the file says; of another shape the file is told to lie."""
        if DTYPES.get(tensor.kind) is not result.dtype:
            raise UnsupportedError(
                f"its result {shown(tensor.name)} is {result.dtype}, the file says {dtype_of(tensor)}"
            )
        if -1 not in tensor.signature and tensor.shape and tensor.shape != result.shape:
            self.lies.append(f"{shown(tensor.name)} is {result.type}, not {list(tensor.shape)}")

    def origin(self, frame: Frame, node: Node) -> Origin:
        """Where a node's values come from: its module is in the name of its result, if anywhere."""
        name = frame.graph.tensors[node.outputs[0]].name if node.outputs else ""
        prefix = name.partition(";")[0].rpartition("/")[0]
        path = self.prefixes.get(prefix)
        if path is None:
            path = self.prefixes[prefix] = self._module(joined(prefix))
        return Origin(path, node.op.removeprefix("custom:"), name)

    def _module(self, path: str) -> str:
        """The path of a module, none of which is called as a constant tensor is: that has the name."""
        found = ""
        for part in path.split(".") if path else ():
            own = untaken(f"{found}.{part}" if found else part, self.names)
            self.modules.setdefault(own, class_of(own))
            found = own
        return found

    def _called(self, frame: Frame, node: Node) -> Sequence[Value | Resource | None]:
        """The results of a node: by the walk itself, by its rule, or as an external op."""
        origin = self.origin(frame, node)
        if node.op in WALKED:
            return self.flow.called(frame, node, origin)
        rule = RULES.get(node.op)
        if rule is None:
            return self._without_rule(frame, node, origin)
        self.kinds.add(node.op)
        call = call_of(frame.graph, node)
        args = arguments(self, frame, node, rule, call)
        keywords, activation = options(node, rule)
        if "node" in rule.own:
            keywords["node"] = call
        if "draw" in rule.own:
            keywords["draw"] = self.flow.draw
        if node.op in _SPREADS:
            args = as_numbers(args)
        found = rule.function(*args, **keywords)
        if isinstance(found, Stateful):
            for place, value in found.states.items():
                index = node.inputs[place]
                self.variables.set_tensor(frame.place, index, frame.graph.tensors[index], value)
            found = found.results
        results = [found] if isinstance(found, Value) else list(found)
        self.note([r for r in results if r is not None], origin)
        if node.op in FINDERS and args and isinstance(args[0], Value) and isinstance(results[0], Value):
            self.left_out += left_out(node.op, results[0], args, keywords)
        results = [r if r is None else self._finished(r, rule, call, i, activation) for i, r in enumerate(results)]
        self.note([r for r in results if r is not None], origin)
        if node.op in _FOLDS:
            results = folded(results, args, self.known) or results
        return results

    def _finished(self, x: Value, rule: OpRule, call: Call, place: int, activation: str) -> Value:
        """A result with its activation, as the integers of its tensor if that is quantized."""
        tensor = call.outputs[place] if place < len(call.outputs) else None
        q = tensor.quantization if tensor is not None and is_quantized(tensor) else None
        dtype = call.dtypes[place] if tensor is not None else x.dtype
        if tensor is None or q is None:
            return activated(x, activation)
        if rule.raw:
            if activation == "NONE" or x.dtype is not dtype:
                return x
            return quantized(activated(dequantized(x, q), activation), q, tensor, dtype)
        if not x.dtype.is_float:
            return x
        x = activated(x, activation)
        given = call.inputs[0].quantization if call.inputs and call.inputs[0] is not None else None
        same = call.node.op in _SAME_SCALE and given is not None
        return quantized(x, cast(Quantization, given) if same else q, tensor, dtype)

    def _without_rule(self, frame: Frame, node: Node, origin: Origin) -> Sequence[Value]:
        """An operator without a rule as an external one, if that is asked for."""
        if not self.external:
            raise UnsupportedError(why_not(node.op))
        tensors: list[Value] = []
        places: list[Any] = []
        for index in node.inputs:
            found = self.find(frame, index) if index >= 0 else None
            if isinstance(found, Resource):
                raise UnsupportedError(f"{why_not(node.op)}, and no external op holds a resource")
            places.append(None if found is None else Slot(len(tensors)))
            tensors += [] if found is None else [found]
        results = [TensorType(t.shape, dtype_of(t)) for t in (frame.graph.tensors[i] for i in node.outputs)]
        keywords = {**node.options, **({"custom_options": node.custom.hex()} if node.custom else {})}
        target = node.op.removeprefix("custom:")
        return self.stand_in("tflite", target, tuple(places), tuple(keywords.items()), results, tensors, origin)

    def in_subgraph(self, index: int, args: Sequence[Value | Resource], place: str) -> list[Value | Resource]:
        """What a subgraph gives on some arguments; :class:`InSubgraph` if it has operators that can't be imported."""
        if not 0 <= index < len(self.model.subgraphs):
            raise SourceError(f"it calls subgraph {index}, of {len(self.model.subgraphs)} there are")
        graph = self.model.subgraphs[index]
        if len(args) != len(graph.inputs):
            raise SourceError(f"it gives {len(args)} inputs to subgraph {index}, which takes {len(graph.inputs)}")
        if place.count("/") > _DEEPEST:
            raise SourceError(f"subgraphs call each other more than {_DEEPEST} deep")
        frame = Frame(graph, place)
        frame.values |= dict(zip(graph.inputs, args, strict=True))
        before = len(self.problems)
        self.walk(frame)
        if len(self.problems) > before:
            raise InSubgraph
        found = [self.find(frame, i) for i in graph.outputs]
        results = [v for v in found if v is not None]
        if len(results) != len(found):
            raise SourceError(f"an output of subgraph {index} is made by nothing")
        return results


class InSubgraph(UnsupportedError):
    """A node whose subgraph has operators that can't be imported, which are noted already."""


def _place(frame: Frame, node: Node) -> str:
    """Where a node stands: its subgraph, and what it makes."""
    made = shown(frame.graph.tensors[node.outputs[0]].name) if node.outputs else node.op
    return f"{frame.place}{made}"


def signature_of(model: Model, key: str | None) -> SignatureDef:
    """The signature of a key; without one the first of subgraph 0, or its tensors' own names."""
    for found in model.signatures:
        if (key is None and found.subgraph == 0) or found.key == key:
            return found
    if key is not None:
        told = ", ".join(shown(s.key) for s in model.signatures) or "none"
        raise InputError(f"{model.name} has no signature {shown(key)}; it has {told}")
    return SignatureDef("", 0, {}, {})


def _declared(name: str, tensor: Tensor) -> Declared:
    """What the file says of an input: names for the sizes that it leaves open."""
    dims = tuple([n if n >= 0 else f"{name}.{i}" for i, n in enumerate(tensor.signature)])
    return Declared(name, dtype_of(tensor), dims)


def _with_defaults(
    own: Sequence[Declared], declared: Mapping[str, int], graph: Subgraph, asked: Asked
) -> tuple[dict[str, int], Mapping[str, Sequence[int]] | None]:
    """The sizes that are asked for, and the file's own for those that it leaves open and nobody says."""
    sizes = dict(asked.sizes or {})
    for i in own:
        if i.name in (asked.shapes or {}):
            continue
        for d, n in zip(i.dims or (), graph.tensors[declared[i.name]].shape, strict=True):
            if isinstance(d, str):
                sizes.setdefault(d, n)
    return sizes, asked.shapes
