"""From ONNX: a file, its bytes or a ModelProto to a TDAG, by the rules in :mod:`tdagger.frameworks.onnx.ops`.

What is around the nodes is here: inputs, outputs, what the file says of them. :mod:`tdagger.frameworks.onnx.walk` has
the nodes and the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from tdagger.errors import InputError, SourceError, UnsupportedError, warn
from tdagger.frameworks.again import Again
from tdagger.frameworks.known import raising
from tdagger.frameworks.onnx.file.read import Model, not_text, read
from tdagger.frameworks.onnx.file.sizes import inputs_of, lie
from tdagger.frameworks.onnx.file.tensors import HELD
from tdagger.frameworks.onnx.things import Absent, Listed, Nested, Varying, apart, list_of
from tdagger.frameworks.onnx.walk.nodes import Nodes
from tdagger.frameworks.onnx.walk.scope import Scope
from tdagger.frameworks.sizes import Declared, axis_names, bound
from tdagger.graph import Graph, bulk
from tdagger.names import shown, untaken
from tdagger.network import Signature
from tdagger.op import Value
from tdagger.ops.source import Input, const
from tdagger.program.trace import is_tracing, with_slots
from tdagger.tensordag import TensorDAG
from tdagger.transform.axes.ones import ones_placed, rows_told
from tdagger.tree import Tree

#: So many lies of a file are told.
_TOLD = 8


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

    ``sizes`` are those of dimensions that the file names (``{"batch": 1}``), or doesn't (``{"x.0": 1}`` is the first of
    input x); ``inputs`` whole shapes by the names of the inputs. InputError asks for all that is missing, by name.
    ``values`` makes inputs constants of the network: those that say how it is built (``{"shape": [2, -1]}``).
    With ``external``, operators without a rule are kept as external ones, where the types of their results are known.

    Weights are read when they are asked for (``dag.weights`` is lazy), external data by a map of its file. A model with
    open sizes stays at hand (``dag.source``): ``dag.resize`` imports it again at other sizes.

    UnsupportedError names all operators that can't be imported, with the nodes; SourceError what is wrong with the
    file: the byte, the node or the tensor. A UserWarning names types that the file declares and that aren't so.
    """
    return imported(read(model), Asked(sizes, inputs, values, external, name))


class Asked(NamedTuple):
    """What :func:`from_onnx` is asked for besides the model; ``quiet``: what there is to say was said before."""

    sizes: Mapping[str, int] | None
    shapes: Mapping[str, Sequence[int]] | None
    values: Mapping[str, Any] | None
    external: bool
    name: str
    quiet: bool = False


def imported(model: Model, asked: Asked) -> TensorDAG:
    """A model that was read, imported."""
    return imported_by(Walk(model, asked.external), model, asked)


def imported_by(walk: Walk, model: Model, asked: Asked) -> TensorDAG:
    """What a walk makes of a model."""
    try:
        with bulk(acyclic=True):  # of what raises and places below not all is
            found = walk.network(asked)
        return found if is_tracing() else walk.finished(found)
    except (InputError, SourceError):
        raise
    except Exception as e:
        place = not_text(model.proto)
        if not place:
            raise
        raise SourceError(f"{model.name}: {place} isn't UTF-8") from e  # protobuf then gives bytes for a name


class Walk(Nodes):
    """One model as it is imported."""

    def __init__(self, model: Model, external: bool, turns: Mapping[str, int] | int | None = None) -> None:
        super().__init__(model, external, turns)
        #: Of outputs, by place, along which dimensions how many entries count.
        self.lengths: dict[int, tuple[tuple[int, Value], ...]] = {}
        #: The rules that raise what is written out.
        self.rules: tuple[Any, ...] = ()

    def network(self, asked: Asked) -> TensorDAG:
        graph = self.graph
        scope = self.scope(self.model.proto.opset_import)
        self._initializers(scope)
        nested, shapes = apart(graph, asked.shapes or {})
        own = self._inputs(scope, asked.values or {}, nested)
        types = bound(own, asked.sizes, shapes)
        self.sizes = types.sizes
        given = {n: Input(n, t)() for n, t in types.types.items()}
        scope.values.update((n, v) for n, v in given.items() if n not in nested.parts)
        scope.odd.update(nested.things(given))
        self.nodes(scope, graph.node)
        if self.problems:
            self._without_dead()
        if self.problems:
            raise self.error(what="nodes")
        outputs, results = self._outputs(scope)
        if {type(n) for n in (graph.name, *given, *outputs, *self.tensors.held)} != {str}:  # else bytes, if no text
            raise TypeError("a name that isn't text")
        if not asked.quiet:
            self._tell_lies(scope)
        title = asked.name or graph.name or "onnx"
        names = [i.name for i in graph.input if i.name not in self.tensors.held and i.name not in (asked.values or {})]
        signature = self.with_seed(given, Signature(nested.arguments(names), results))
        made = Graph(with_slots(given, outputs.values()), outputs, {}, title, self.order)
        state = self.whole_state()
        weights = self.tensors.part(state)
        names = axis_names(own, types.sizes)
        source = self._source(own, asked) if any(i.free for i in own) else None
        modules = self.modules.named()
        found = made, weights, signature, state, self.origins, modules, title, names, source
        dag = TensorDAG(*found, left_out=self.left_out, rows=True)
        self.rules = raising({key[0] for kinds, _ in self.calls.values() for key in kinds})
        self.calls.clear()  # those that draw random numbers know the walk: it would live until cycles are looked for
        return dag

    def finished(self, dag: TensorDAG) -> TensorDAG:
        """What the walk made, where it is no program: dimensions of 1 entry at their places, composites raised."""
        placed = rows_told(dag) if dag.source is None else ones_placed(dag)
        return replace(placed.rewrite(self.rules), source=dag.source) if self.rules else placed

    def _source(self, own: Sequence[Declared], asked: Asked) -> Again:
        model = self.model

        def importing(shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
            return imported(model, asked._replace(sizes=None, shapes=shapes, quiet=True))

        return Again(model, own, importing)

    def _initializers(self, scope: Scope) -> None:
        self.hold_all(scope, self.graph.initializer)
        for proto in self.graph.sparse_initializer:
            self.hold(scope, proto.values.name, proto)

    def _inputs(self, scope: Scope, values: Mapping[str, Any], nested: Nested) -> list[Declared]:
        """What the file says of the inputs; those with values are constants."""
        found = inputs_of(self.graph, self.tensors.held, nested.declared)
        kinds = {i.name: i.type.tensor_type.elem_type for i in self.graph.input}
        scope.held.update((i.name, kinds[i.name]) for i in found if kinds.get(i.name) in HELD)
        odd = values.keys() - {i.name for i in found}
        if odd:
            raise InputError(f"values: there is no input {', '.join(map(shown, sorted(odd)))} in the model")
        for i in found:
            if i.name in values:
                scope.values[i.name] = const(values[i.name], i.dtype)
        return [i for i in found if i.name not in values]

    def _outputs(self, scope: Scope) -> tuple[dict[str, Value], Tree]:
        """The outputs by name, and how they nest: a sequence is a list of tensors."""
        outputs: dict[str, Value] = {}
        trees: list[Tree] = []

        def add(name: str, value: Value) -> None:
            outputs[untaken(name, outputs)] = value

        for o in self.graph.output:
            found = self.thing(scope, o.name)
            if found is None:
                raise SourceError(f"the output {shown(o.name)} of {self.model.name} is made by nothing")
            if isinstance(found, Listed):
                for i, value in enumerate(found.items):
                    add(f"{o.name}.{i}", value)
                trees.append(list_of(len(found.items)))
            elif isinstance(found, Absent):
                trees.append(Tree("constant"))
            else:
                if isinstance(found, Varying):
                    self.lengths[len(outputs)] = tuple(found.lengths.items())
                add(o.name, found.value if isinstance(found, Varying) else found)
                trees.append(Tree("leaf"))
        if not trees:
            raise SourceError(f"{self.model.name} has no outputs")
        if not outputs:
            raise UnsupportedError(f"{self.model.name} gives no tensors")
        return outputs, trees[0] if len(trees) == 1 else Tree("tuple", tuple(range(len(trees))), tuple(trees))

    def _tell_lies(self, scope: Scope) -> None:
        told: list[str] = []
        graph = self.graph
        for info in (*graph.input, *graph.output, *graph.value_info):
            value = scope.values.get(info.name)
            found = "" if value is None else lie(info, value, self.sizes)
            if found:
                told.append(found)
        told = list(dict.fromkeys(told))
        if told:
            more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
            warn(f"{self.model.name} declares types that aren't so; they aren't used: {'; '.join(told[:_TOLD])}{more}")

    def _without_dead(self) -> None:
        """Leave out the problems of nodes that no output needs."""
        makers = {n: node for node in self.graph.node for n in node.output}
        needed: set[str] = set()
        stack = [o.name for o in self.graph.output]
        while stack:
            name = stack.pop()
            node = makers.get(name)
            if name in needed or node is None:
                continue
            needed.update(node.output)
            stack += node.input
            stack += _read_inside(node)
        self.problems = [p for p, out in zip(self.problems, self.failing, strict=True) if not out or out & needed]


def _read_inside(node: Any) -> list[str]:
    """The names that graphs in a node's attributes read."""
    found: list[str] = []
    stack = [a for a in node.attribute if a.type in (a.GRAPH, a.GRAPHS)]
    while stack:
        a = stack.pop()
        for graph in [a.g] if a.type == a.GRAPH else a.graphs:
            found += [o.name for o in graph.output]
            for inner in graph.node:
                found += inner.input
                stack += [b for b in inner.attribute if b.type in (b.GRAPH, b.GRAPHS)]
    return found
