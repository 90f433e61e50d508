"""From ONNX: a file, its bytes or a ModelProto to a TDAG, by the rules in :mod:`tdagger.frameworks.onnx.ops`.

Which leaf a tensor of the model becomes (an initializer, a sparse one, a Constant node):

- a parameter: floats and complex numbers of rank 1 and more, but for one number in a Constant node;
- a buffer: where an operator takes it as a statistic (the annotation ``Statistic`` of its rule); integers of 8 bits
  and less of rank 2 and more, which are quantized weights; integers of more than 65,536 entries;
- a constant: single numbers, and all other integers and bools, which are shapes, indices, masks, zero points.

Where a rule wants numbers (``Ints`` and the like) they are read, whatever holds them. The state has all parameters and
buffers by the names of the file, in its order, and initializers that nothing uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.errors import (
    AttributeValueError,
    InputError,
    SourceError,
    TDaggerError,
    TypeMismatchError,
    UnsupportedError,
    warn,
)
from tdagger.frameworks.again import Again
from tdagger.frameworks.importing import Importing, Problem
from tdagger.frameworks.onnx import control
from tdagger.frameworks.onnx.calls import OPAQUE, Call, Template, bind, template_of
from tdagger.frameworks.onnx.external import results_of, written
from tdagger.frameworks.onnx.functions import body_of, key_of, plain
from tdagger.frameworks.onnx.held import CARRIES, READS
from tdagger.frameworks.onnx.known import FOLDS, SPREADS, Known, as_numbers, folded, raising
from tdagger.frameworks.onnx.left_out import FINDERS, left_out
from tdagger.frameworks.onnx.limits import BOUNDED, check
from tdagger.frameworks.onnx.ops import find
from tdagger.frameworks.onnx.ops.table import NO_RULE, Parameter, why_not
from tdagger.frameworks.onnx.origins import Modules
from tdagger.frameworks.onnx.read import Model, not_text, read
from tdagger.frameworks.onnx.scope import Scope, in_order, place_of
from tdagger.frameworks.onnx.sequences import OPERATORS, of_varying, sliced
from tdagger.frameworks.onnx.sizes import inputs_of, lie
from tdagger.frameworks.onnx.subgraphs import CONTROL
from tdagger.frameworks.onnx.tensors import HELD, Tensors, attribute, constant_of, name_of
from tdagger.frameworks.onnx.things import (
    Absent,
    Listed,
    Nested,
    Thing,
    Varying,
    apart,
    list_of,
    plain_of,
    type_of,
    what,
)
from tdagger.frameworks.sizes import Declared, axis_names, bound
from tdagger.graph import Graph, bulk
from tdagger.names import shown
from tdagger.network import Signature, Weight
from tdagger.op import Value
from tdagger.ops.source import Buffer, Input, const
from tdagger.ops.source import Parameter as Learned
from tdagger.program.trace import is_tracing, tracing, with_slots
from tdagger.tensordag import Origin, TensorDAG
from tdagger.transform.axes.ones import ones_placed
from tdagger.tree import Tree
from tdagger.types import TensorType

#: Integers of more entries are a buffer.
_MANY = 1 << 16
#: Functions are nested no deeper, and have no more nodes in all their calls.
_DEEPEST, _MOST = 64, 1 << 17
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
        with bulk():
            return walk.network(asked)
    except (InputError, SourceError):
        raise
    except Exception as e:
        place = not_text(model.proto)
        if not place:
            raise
        raise SourceError(f"{model.name}: {place} isn't UTF-8") from e  # protobuf then gives bytes for a name


class Walk(Importing):
    """One model as it is imported."""

    def __init__(self, model: Model, external: bool, turns: Mapping[str, int] | int | None = None) -> None:
        graph = model.proto.graph
        super().__init__(external, [i.name for i in graph.input])
        self.model, self.graph = model, graph
        #: How many turns loops have at most, by the names of their nodes; a number is for all.
        self.turns = turns
        self.tensors = Tensors(folder=model.folder)
        self.leaves: dict[str, Value] = {}
        #: What the state says of the tensors that are leaves; which tensors were read at all.
        self.state: dict[str, Weight] = {}
        self.used: set[str] = set()
        self.constants: set[str] = set()
        self.known = Known(self.tensors)
        self.modules = Modules()
        #: The classes of ops that made what templates may be used on.
        self.opaque: set[Any] = set()
        self.weights: dict[tuple[TensorType, bool], Weight] = {}
        #: How nodes of each kind call their rules, by the versions of operator sets.
        self.calls: dict[Any, tuple[dict[Any, Call | str], dict[Any, Any]]] = {}
        self.functions = {key_of(f): f for f in model.proto.functions}
        self.bodies: dict[Any, Any] = {}
        self.depth = self.inside = 0
        self.sizes: dict[str, int] = {}
        self.left_out: list[LeftOut] = []
        #: Of outputs, by place, along which dimensions how many entries count.
        self.lengths: dict[int, tuple[tuple[int, Value], ...]] = {}
        #: The rules that raise what is written out.
        self.rules: tuple[Any, ...] = ()
        #: For every problem the names that its node would have made.
        self.failing: list[set[str]] = []
        #: Of the problems, by place, those of sizes that an operator doesn't take.
        self.misfits: set[int] = set()

    # The network.

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
        if {type(n) for n in (*given, *outputs, *self.tensors.held)} != {str}:  # what isn't text comes as bytes
            raise TypeError("a name that isn't text")
        if not asked.quiet:
            self._tell_lies(scope)
        title = asked.name or graph.name or "onnx"
        names = [i.name for i in graph.input if i.name not in self.tensors.held and i.name not in (asked.values or {})]
        signature = self.with_seed(given, Signature(nested.arguments(names), results))
        made = Graph(with_slots(given, outputs.values()), outputs, {}, title, self.order)
        state = self._state()
        weights = self.tensors.part(state)
        names = axis_names(own, types.sizes)
        source = self._source(own, asked) if any(i.free for i in own) else None
        modules = self.modules.named()
        found = made, weights, signature, state, self.origins, modules, title, names, source
        dag = TensorDAG(*found, left_out=self.left_out, rows=True)
        self.rules = raising({key[0] for kinds, _ in self.calls.values() for key in kinds})
        if is_tracing():
            return dag
        dag = ones_placed(dag)
        return replace(dag.rewrite(self.rules), source=source) if self.rules else dag

    def scope(
        self, imports: Any, place: str = "", module: str = "", given: Any = None, outer: Mapping[str, int] | None = None
    ) -> Scope:
        """A scope; not all bodies of ONNX say its version, which then is that around them."""
        versions = {**(outer or {}), **_versions(imports)}
        scope = Scope(versions, place, module, given)
        scope.calls, scope.quick = self.calls.setdefault(tuple(sorted(versions.items())), (scope.calls, scope.quick))
        return scope

    def _source(self, own: Sequence[Declared], asked: Asked) -> Again:
        model = self.model

        def importing(shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
            return imported(model, asked._replace(sizes=None, shapes=shapes, quiet=True))

        return Again(model, own, importing)

    def _initializers(self, scope: Scope) -> None:
        for proto in self.graph.initializer:
            self.hold(scope, proto.name, proto)
        for proto in self.graph.sparse_initializer:
            self.hold(scope, proto.values.name, proto)

    def hold(self, scope: Scope, name: str, held: Any) -> None:
        """Take a tensor in: what it is called in a scope is what it is called in the model, if that isn't taken."""
        if not name or scope.knows(name):
            raise SourceError(f"{self.model.name} has two tensors called {shown(name)}" if name else _UNNAMED)
        kept = scope.kept
        own = name if not scope.place or kept is not None else f"{scope.place}{name}"
        if kept is not None and name in kept:
            own = kept[name]
        else:
            while own in self.tensors.held:
                own += "_"
            self.tensors.held[own] = held
            if kept is not None:
                kept[name] = own
        scope.tensors[name] = own
        if not isinstance(held, onnx.TensorProto) or held.data_type in HELD:
            kind = self.tensors.kind(own)
            if kind:
                scope.held[name] = kind

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
            while name in outputs:
                name += "_"
            outputs[name] = value

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

    def _state(self) -> dict[str, Weight]:
        """All weights in the order of the file; initializers that nothing uses with them."""
        state, used = self.state, self.used
        if len(state) == len(self.tensors.held):
            return {n: state[n] for n in self.tensors.held}
        found: dict[str, Weight] = {}
        initial = {t.name for t in self.graph.initializer} | {t.values.name for t in self.graph.sparse_initializer}
        for name in self.tensors.held:
            weight = state.get(name)
            if weight is None and name in initial and name not in used:
                try:
                    kind = self.tensors.type(name)
                except UnsupportedError:
                    continue  # nothing uses it, and there is no type for it
                weight = Weight(kind, _is_learned(kind))
            if weight is not None:
                found[name] = weight
        return found

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

    # Leaves.

    def find(self, scope: Scope, name: str, statistic: bool = False) -> Value | None:
        """The value that a scope calls ``name``; a tensor becomes a leaf when it is first asked for."""
        found = scope.values.get(name)
        if found is None:
            own = scope.tensors.get(name)
            if own is not None:
                found = scope.values[name] = self._leaf(own, statistic)
        return found

    def _leaf(self, name: str, statistic: bool) -> Value:
        found = self.leaves.get(name)
        if found is not None:
            return found
        kind = self.tensors.type(name)
        dtype = kind.dtype
        self.used.add(name)
        learned = _is_learned(kind) and not (kind.size == 1 and name in self.constants)
        if learned and not statistic:
            found = Learned.of(name, kind)
            self.state[name] = self._weight(kind, True)
        elif learned or kind.size > _MANY or (dtype.is_int and dtype.bytes == 1 and kind.rank > 1):
            found = Buffer.of(name, kind)
            self.state[name] = self._weight(kind, False)
        else:
            found = const(self.tensors[name], dtype)
        self.leaves[name] = found
        return found

    def _weight(self, kind: TensorType, learned: bool) -> Weight:
        key = kind, learned
        found = self.weights.get(key)
        if found is None:
            found = self.weights[key] = Weight(kind, learned)
        return found

    # Nodes.

    def nodes(self, scope: Scope, nodes: Sequence[Any], is_sorted: bool = False) -> None:
        values, tensors = scope.values, scope.tensors
        quick = scope.quick if scope.attributes is None else {}
        for number, node in enumerate(nodes):
            try:
                op, domain, inputs, outputs, attributes = (
                    node.op_type, node.domain, node.input[:], node.output[:], node.attribute
                )  # fmt: skip
                given = tuple([a.SerializeToString() for a in attributes]) if attributes else ()
                key = (op, domain, len(inputs), given)
                known = quick.get(key)
                if known is not None and not scope.held:
                    results = self._from_template(scope, node, op, inputs, known)
                    if results is not None:
                        if len(outputs) == 1 and outputs[0] and outputs[0] not in values and outputs[0] not in tensors:
                            values[outputs[0]] = results[0]
                        else:
                            self._name(scope, outputs, results)
                        continue
                if op == "Constant" and not plain(domain):
                    self._constant(scope, node)
                    continue
                needs = inputs if op not in CONTROL else scope.reads(node)
                for n in needs:
                    if n not in values and n not in tensors:
                        inputs = self._resolved(scope, inputs, needs)
                        break
                if _LATER in inputs:
                    if is_sorted:
                        raise SourceError(f"its input {shown(self._unknown(scope, node))} is made by nothing")
                    taken = {*values, *tensors, *scope.missing, *scope.failed, *scope.odd}
                    return self.nodes(scope, in_order(nodes[number:], taken, scope.reads), True)
                if _FAILED in inputs:
                    scope.failed.update(n for n in outputs if n)
                    continue
                results = self._called(scope, node, op, domain, inputs, key, quick)
                if len(results) < len(outputs) or None in results:
                    self._all_made(node, results)
                self._name(scope, outputs, results)
            except _AtNode:
                raise
            except SourceError as e:
                raise _AtNode(f"node {scope.place}{place_of(node)} of {self.model.name}: {e}") from e
            except Exception as e:  # a rule meets attributes and types that nobody wrote it for
                self._failed(scope, node, e)
        return None

    def _name(self, scope: Scope, outputs: Sequence[str], results: Sequence[Thing | None]) -> None:
        """Give results the names that a node has for them."""
        values, tensors = scope.values, scope.tensors
        for out, result in zip(outputs, results, strict=False):
            if out and result is not None:
                if out in values or out in tensors or out in scope.odd:
                    raise SourceError(f"{shown(out)} is made twice, or is an input or a tensor too")
                scope.bind(out, result)

    def _origin(self, scope: Scope, node: Any, op: str) -> Origin:
        name, place = node.name, scope.place
        module = scope.module or self.modules.of(node, name, op)
        return _origin(Origin, (module, op, place + name if place else name, (), ()))

    def _from_template(
        self, scope: Scope, node: Any, op: str, inputs: list[str], known: Mapping[Any, Template | None]
    ) -> Sequence[Value] | None:
        """The results of a node of which it is known what its rule makes of such values; None if it isn't."""
        args: list[Value] = []
        values = scope.values
        for name in inputs:
            value = values.get(name)
            if value is None:
                value = self.find(scope, name)
                if value is None:
                    return None
            if value.op.__class__ not in self.opaque or value in args:
                return None
            args.append(value)
        template = known.get(tuple([a.type for a in args]))
        if template is None:
            return None
        results, made = template.of(args)
        origin, origins = self._origin(scope, node, op), self.origins
        for value in made:
            if value not in origins:
                origins[value] = origin
        self.order += results
        return results

    def _resolved(self, scope: Scope, inputs: list[str], needs: list[str]) -> list[str]:
        """The inputs of a node: "" for those left out before others, marks for those that failed or aren't made yet.

        ``needs`` are also what the graphs inside it read.
        """
        missing, failed = scope.missing, scope.failed

        def mark(n: str) -> str:
            if not n or n in missing:
                return ""
            if n in scope.values or n in scope.tensors or n in scope.odd:
                return n
            return _FAILED if n in failed else _LATER

        found = [mark(n) for n in inputs]
        while found and not found[-1]:
            found.pop()
        if needs is not inputs:
            marks = {mark(n) for n in needs}
            found += [m for m in (_LATER, _FAILED) if m in marks and m not in found]
        return found

    def _unknown(self, scope: Scope, node: Any) -> str:
        return next(n for n in scope.reads(node) if n not in scope.missing and not scope.knows(n))

    def _failed(self, scope: Scope, node: Any, error: Exception) -> None:
        """Note a node that can't be imported, and what it makes."""
        why = str(error) if isinstance(error, TDaggerError | ValueError) else f"{type(error).__name__}: {error}"
        if not (isinstance(error, InBody)):
            where = f"{shown(scope.place)}{place_of(node)}" if node.name or scope.place else place_of(node)
            domain = plain(node.domain)
            self.problems.append(Problem(f"{domain}.{node.op_type}" if domain else node.op_type, why, where))
            if isinstance(error, TypeMismatchError | AttributeValueError):
                self.misfits.add(len(self.problems) - 1)
            self.failing.append({n for n in node.output if n} if not scope.place else set())
        scope.failed.update(n for n in node.output if n)

    def _constant(self, scope: Scope, node: Any) -> None:
        if len(node.output) != 1 or not node.output[0]:
            raise SourceError("a Constant has one output")
        name = node.output[0]
        if scope.knows(name):
            raise SourceError(f"{shown(name)} is made twice, or is an input or a tensor too")
        if scope.kept is not None and name in scope.kept:
            scope.tensors[name] = scope.kept[name]
            return
        if scope.attributes is not None:
            node = _with_attributes(node, scope.attributes)
        self.hold(scope, name, constant_of(node))
        self.constants.add(scope.tensors[name])

    def _all_made(self, node: Any, results: Sequence[Any]) -> None:
        lost = [n for i, n in enumerate(node.output) if n and (i >= len(results) or results[i] is None)]
        if lost:
            raise UnsupportedError(f"its output {', '.join(map(shown, lost))} isn't made here")

    def _held(self, scope: Scope, node: Any, call: Call, inputs: Sequence[str]) -> None:
        """What has an element type held in another one: refused where its rule doesn't know that, else noted."""
        op = node.op_type
        if not call.types and op not in CARRIES and op not in READS:
            for name in inputs:
                if name in scope.held:
                    raise UnsupportedError(
                        f"{shown(name)} is of {name_of(scope.held[name])}, an element type there is none of here: only "
                        "operators that move or convert its numbers are imported"
                    )
        at = CARRIES.get(op, len(inputs))
        found = call.held or (scope.held.get(inputs[at], 0) if at < len(inputs) else 0)
        if found:
            scope.held.update((n, found) for n in node.output if n)

    def _called(
        self, scope: Scope, node: Any, op: str, domain: str, inputs: list[str], key: Any, quick: dict[Any, Any]
    ) -> Sequence[Any]:
        """The results of a node, by its rule, its function or as an external op."""
        origin = self._origin(scope, node, op)
        attributes = node.attribute
        if scope.attributes is not None and attributes:
            node = _with_attributes(node, scope.attributes)
            attributes = node.attribute
            key = (op, domain, len(inputs), tuple([a.SerializeToString() for a in attributes]))
        if (op in CONTROL or op in OPERATORS) and not plain(domain):
            for name in inputs:
                if name in scope.held:
                    raise UnsupportedError(
                        f"{shown(name)} is of {name_of(scope.held[name])}, which it isn't taken of here"
                    )
        if op in CONTROL and not plain(domain):
            things = [self.thing(scope, n) if n else None for n in inputs]
            found = control.results(self, scope, node, things, scope.inside(node))
            self.note([t for t in found if isinstance(t, Value)], origin)
            return found
        if self.functions:
            function = self.functions.get((plain(domain), op, node.overload))
            if function is not None:
                return self._function(scope, node, function, inputs, origin)
        if not plain(domain) and (op in OPERATORS or (scope.odd and any(n in scope.odd for n in inputs))):
            found = self._of_things(scope, node, op, inputs)
            if found is not None:
                self.note([t for t in found if isinstance(t, Value)], origin)
                return found
        if op == "Slice" and is_tracing() and not plain(domain):
            found = self._sliced(scope, inputs)
            if found is not None:
                self.note([found] if isinstance(found, Value) else [], origin)
                return [found]
        if "" in inputs:
            key = (*key, tuple([bool(n) for n in inputs]))
        call = scope.calls.get(key)
        if call is None:
            call = scope.calls[key] = self._bound(op, plain(domain), inputs, attributes, scope)
        if isinstance(call, str):
            return self._without_rule(scope, node, plain(domain), inputs, origin, call)
        if scope.held or call.held:
            self._held(scope, node, call, inputs)
        if call.plain:
            values = scope.values
            args: list[Any] = [values.get(n) or self.find(scope, n) for n in inputs]
            if call.templates is not None and op not in BOUNDED and "" not in inputs:
                quick[key] = call.templates
                self._learn(call, args)
        else:
            args = [
                None
                if p is None
                else self.find(scope, n, p.statistic)
                if p.number is None
                else self._numbers(scope, p, n)
                for p, n in zip(call.parameters, inputs, strict=False)
            ]
        if op in SPREADS and not domain:
            args = as_numbers(args)
        keywords = call.keywords
        if call.types:
            keywords = {**keywords, "types": [scope.held.get(n, 0) for n in inputs]}
        if call.wanted:
            keywords = {**keywords, "wanted": [bool(n) for n in node.output]}
        if op in BOUNDED:
            check(op, args, keywords)
        results = call.function(*args, **keywords)
        self.note(results, origin)
        results = (results,) if isinstance(results, Value) else results
        if op in FOLDS and not domain:
            results = folded(results, args, self.known) or results
        if op in FINDERS and not domain:
            self.left_out += left_out(op, results, args, keywords)
        return results

    def _of_things(self, scope: Scope, node: Any, op: str, inputs: list[str]) -> Sequence[Thing] | None:
        """The results of a node that takes or gives sequences, or tensors of which so many entries count."""
        things = [self.thing(scope, n) if n else None for n in inputs]
        given = {a.name: attribute(a) for a in node.attribute if a.type not in (a.TYPE_PROTO, a.GRAPH)}
        if op in OPERATORS:
            return [OPERATORS[op](things, given, self.known.array)]
        first = things[0]
        call = scope.calls.get((op, node.domain, len(inputs), tuple([a.SerializeToString() for a in node.attribute])))

        def whole() -> Value:
            assert isinstance(first, Varying)
            bound_ = call or self._bound(op, "", inputs, node.attribute, scope)
            if isinstance(bound_, str):
                raise UnsupportedError(bound_)
            return bound_.function(first.value, **bound_.keywords)

        found = of_varying(op, things, given, whole)
        if found is not None:
            return [found]
        if op == "SequenceMap":  # it has a body
            return None
        odd = next((n, t) for n, t in zip(inputs, things, strict=True) if t is not None and not isinstance(t, Value))
        raise UnsupportedError(f"its input {shown(odd[0])} is {what(odd[1])}")

    def _sliced(self, scope: Scope, inputs: list[str]) -> Thing | None:
        """A Slice of a program's values by bounds that depend on data; None if they don't."""
        things = [self.thing(scope, n) if n else None for n in inputs]
        bounds = [t for t in things[1:3] if isinstance(t, Value)]
        if len(bounds) < 2 or all(self.known.array(b) is not None for b in bounds):
            return None
        return sliced(things, self.known.array)

    # Graphs inside nodes.

    def thing(self, scope: Scope, name: str) -> Thing | None:
        """What a name stands for, also where that is no tensor of one type."""
        return scope.odd[name] if name in scope.odd else self.find(scope, name)

    def inside_of(self, node: Any, inner: Scope, nodes: Sequence[Any]) -> None:
        """Import the nodes of a graph inside a node; InBody is raised if some can't be."""
        self.inside += len(nodes)
        if self.inside > _MOST:
            raise UnsupportedError(f"its turns, written out one after the other, have more than {_MOST} nodes")
        before = len(self.problems)
        self.nodes(inner, nodes)
        if len(self.problems) > before:
            raise InBody

    def misfit(self, before: int) -> str:
        """Why what was noted since some problem can't be run at these sizes, forgotten then; "" if it isn't that."""
        new = range(before, len(self.problems))
        if not new or not self.misfits.issuperset(new):
            return ""
        why = f"{self.problems[before].where}: {self.problems[before].why}"
        del self.problems[before:], self.failing[before:]
        self.misfits.difference_update(new)
        return why

    def kept(self) -> Callable[[], None]:
        """What brings the import back to what it is now, for a part that is tried."""
        restore = tracing().kept()
        problems, failing, order = len(self.problems), len(self.failing), len(self.order)
        left_out, streams, inside = len(self.left_out), self.streams, self.inside

        def back() -> None:
            restore()
            self.misfits.difference_update(range(problems, len(self.problems)))
            del self.problems[problems:], self.failing[failing:], self.order[order:], self.left_out[left_out:]
            self.streams, self.inside = streams, inside

        return back

    def _learn(self, call: Call, args: Sequence[Value]) -> None:
        """Note what a call makes of values of these types, where nobody looks at what made them."""
        for a in args:
            if a.op.name not in OPAQUE:
                return
            self.opaque.add(a.op.__class__)
        types = tuple([a.type for a in args])
        if call.templates is not None and types not in call.templates and len(set(args)) == len(args):
            call.templates[types] = template_of(call, args)

    def _bound(self, op: str, domain: str, inputs: list[str], attributes: Sequence[Any], scope: Scope) -> Call | str:
        """How a kind of nodes calls its rule, or why it has none."""
        if domain not in scope.versions and domain == "":
            raise SourceError(f"{self.model.name} has operators of ONNX and doesn't say of which version")
        version = scope.versions.get(domain, 1)
        rule = find(domain, op, version)
        if rule is None:
            return why_not(domain, op)
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in attributes):
            return NO_RULE  # rules take no graphs; what ONNX defines the operator by may (FlexAttention)
        return bind(rule, inputs, attributes, version, self.draw, self.model.folder)

    def _numbers(self, scope: Scope, p: Parameter, name: str) -> Any:
        assert p.number is not None
        own = scope.tensors.get(name)
        if own is not None:
            self.used.add(own)
            self.tensors.type(own)
            return p.number(self.tensors[own])
        array = self.known.array(scope.values[name])
        if array is None:
            raise UnsupportedError(f"its input {p.name} depends on data ({shown(name)}), and has to be known here")
        return p.number(np.asarray(array))

    # Functions.

    def _without_rule(
        self, scope: Scope, node: Any, domain: str, inputs: list[str], origin: Origin, why: str
    ) -> Sequence[Any]:
        """What a node without a rule gives: by the function that ONNX defines it by, or as an external op."""
        version = scope.versions.get(domain, 1)
        arguments = [self.thing(scope, n) if n else None for n in inputs]
        if why == NO_RULE:
            types = tuple([None if a is None else type_of(a) for a in arguments])
            key = (node.op_type, domain, version, types, node.SerializeToString())
            if key not in self.bodies:
                self.bodies[key] = body_of(node, domain, version, types)
            if self.bodies[key] is not None:
                return self._function(scope, node, self.bodies[key], inputs, origin)
        if not self.external or any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            raise UnsupportedError(why)
        tensors_ = [None if a is None else plain_of(a, "its input") for a in arguments]
        declared_types = {i.name: i.type for i in (*self.graph.value_info, *self.graph.output)}
        results = results_of(node, domain, version, tensors_, declared_types, self.sizes)
        target, places, keywords, tensors = written(node, domain, tensors_)
        return self.stand_in("onnx", target, places, keywords, results, tensors, origin)

    def _function(self, scope: Scope, node: Any, function: Any, inputs: list[str], origin: Origin) -> Any:
        """The results of a function called by a node."""
        if self.depth >= _DEEPEST:
            raise SourceError(f"functions are nested more than {_DEEPEST} deep at {shown(function.name)}")
        self.inside += len(function.node)
        if self.inside > _MOST:
            raise SourceError(f"the calls of its functions have more than {_MOST} nodes")
        if len(inputs) > len(function.input):
            raise UnsupportedError(f"it has {len(inputs)} inputs, its function takes {len(function.input)}")
        place = f"{scope.place}{node.name or (node.output[0] if node.output else function.name)}/"
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        inner = self.scope(function.opset_import, place, origin.module, given, scope.versions)
        for formal, name in zip(function.input, [*inputs, *[""] * len(function.input)], strict=False):
            if not name:
                inner.missing.add(formal)
            elif name in scope.tensors:
                inner.tensors[formal] = scope.tensors[name]
            else:
                inner.bind(formal, scope.odd[name] if name in scope.odd else scope.values[name])
            if name in scope.held:
                inner.held[formal] = scope.held[name]
        before = len(self.problems)
        self.depth += 1
        try:
            self.nodes(inner, function.node)
        finally:
            self.depth -= 1
        if len(self.problems) > before:
            raise InBody
        results: list[Thing | None] = []
        for i, name in enumerate(function.output):
            found = self.thing(inner, name)
            if (
                found is None and i < len(node.output) and node.output[i]
            ):  # ONNX's bodies leave out what isn't asked for
                raise SourceError(f"the output {shown(name)} of its function is made by nothing")
            results.append(found)
        for out, name in zip(node.output, function.output, strict=False):
            if name in inner.held and out:
                scope.held[out] = inner.held[name]
        return tuple(results)


class _AtNode(SourceError):
    """What is wrong with a node that the error names."""


class InBody(UnsupportedError):
    """A node whose function has nodes that can't be imported, which are noted already."""


_origin = tuple.__new__  # a node has one, and half the time goes into the defaults
#: What stands for the name of an input that couldn't be imported, and of one that nothing made so far.
_FAILED, _LATER = "\0failed", "\0later"
_UNNAMED = "an input or a tensor has no name"


def _versions(imports: Sequence[Any]) -> dict[str, int]:
    """The version of each operator set; of one imported several times the newest."""
    found: dict[str, int] = {}
    for o in imports:
        domain = plain(o.domain)
        found[domain] = max(found.get(domain, 0), o.version)
    return found


def _is_learned(kind: TensorType) -> bool:
    return bool(kind.rank) and (kind.dtype.is_float or kind.dtype.is_complex)


def _with_attributes(node: Any, given: Mapping[str, Any]) -> Any:
    """A node of a function with the attributes of its call in the places where it refers to them."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    made = type(node)()
    made.CopyFrom(node)
    del made.attribute[:]
    for a in node.attribute:
        if not a.ref_attr_name:
            made.attribute.append(a)
        elif a.ref_attr_name in given:
            made.attribute.append(given[a.ref_attr_name])
            made.attribute[-1].name = a.name
    return made


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
