"""The results of a node: by its rule, the function that it calls or is defined by, or as an external op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.known import as_numbers, folded
from tdagger.frameworks.onnx import control
from tdagger.frameworks.onnx.file.tensors import attribute, name_of
from tdagger.frameworks.onnx.ops import find
from tdagger.frameworks.onnx.ops.table import NO_RULE, Parameter, why_not
from tdagger.frameworks.onnx.selection import SELECTING
from tdagger.frameworks.onnx.sequences import OPERATORS
from tdagger.frameworks.onnx.subgraphs import CONTROL
from tdagger.frameworks.onnx.things import Read, Thing, Varying, plain_of, type_of, what
from tdagger.frameworks.onnx.varying import each, of_varying
from tdagger.frameworks.onnx.walk.calls import OPAQUE, Call, bind, template_of
from tdagger.frameworks.onnx.walk.external import types_of_results, written
from tdagger.frameworks.onnx.walk.functions import body_of, plain, with_attributes
from tdagger.frameworks.onnx.walk.held import CARRIES, READS
from tdagger.frameworks.onnx.walk.left_out import FINDERS, left_out
from tdagger.frameworks.onnx.walk.limits import BOUNDED, check
from tdagger.names import shown
from tdagger.network import Origin
from tdagger.op import Value
from tdagger.program.trace import is_tracing

if TYPE_CHECKING:
    from tdagger.frameworks.onnx.walk.nodes import Nodes
    from tdagger.frameworks.onnx.walk.scope import Scope

#: Functions are nested no deeper, and have no more nodes in all their calls.
DEEPEST, MOST = 64, 1 << 17

#: Operators of shape computations: on constants their result is one, where it is small.
_FOLDS = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Greater", "Less", "Max", "Min",
    "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "ReduceProd", "ReduceSum", "Reshape", "Round", "Slice",
    "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip
#: Operators for which a number of rank 0 is the same as one of rank 1 and more, beside what has as many dimensions.
_SPREADS = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})


class InBody(UnsupportedError):
    """A node whose function has nodes that can't be imported, which are noted already."""


def results_of(
    walk: Nodes, scope: Scope, node: Any, op: str, domain: str, inputs: list[str], key: Any, quick: dict[Any, Any]
) -> Sequence[Any]:
    """The results of a node, by its rule, its function or as an external op."""
    origin = walk.origin_of(scope, node, op)
    attributes = node.attribute
    if scope.attributes is not None and attributes:
        node = with_attributes(node, scope.attributes)
        attributes = node.attribute
        key = (op, domain, len(inputs), tuple([a.SerializeToString() for a in attributes]))
    if (op in CONTROL or op in OPERATORS) and not plain(domain):
        for name in inputs:
            if name in scope.held:
                raise UnsupportedError(f"{shown(name)} is of {name_of(scope.held[name])}, which it isn't taken of here")
    if op in CONTROL and not plain(domain):
        things = [walk.thing(scope, n) if n else None for n in inputs]
        found = control.results(walk, scope, node, things, scope.inside(node))
        walk.note([t for t in found if isinstance(t, Value)], origin)
        return found
    if walk.functions:
        function = walk.functions.get((plain(domain), op, node.overload))
        if function is not None:
            return _of_function(walk, scope, node, function, inputs, origin)
    if (op in OPERATORS and not plain(domain)) or (scope.odd and any(n in scope.odd for n in inputs)):
        found = _of_things(walk, scope, node, op, domain, inputs, key)
        if found is not None:
            walk.note(_tensors(found), origin)
            return found
    if op in SELECTING and is_tracing() and not plain(domain):
        found = SELECTING[op](*_asked(walk, scope, node, inputs))
        if found is not None:
            walk.note(_tensors([found]), origin)
            return [found]
    if "" in inputs:
        key = (*key, tuple([bool(n) for n in inputs]))
    call = scope.calls.get(key)
    if call is None:
        call = scope.calls[key] = _bound(walk, op, plain(domain), inputs, attributes, scope)
    if isinstance(call, str):
        return _without_rule(walk, scope, node, plain(domain), inputs, origin, call)
    if scope.held or call.held:
        _held(scope, node, call, inputs)
    if call.plain:
        values = scope.values
        args: list[Any] = [values.get(n) or walk.find(scope, n) for n in inputs]
        if call.templates is not None and op not in BOUNDED and "" not in inputs:
            quick[key] = call.templates
            _learn(walk, call, args)
    else:
        args = [
            None
            if p is None
            else walk.find(scope, n, p.statistic)
            if p.number is None
            else _numbers(walk, scope, op, p, n)
            for p, n in zip(call.parameters, inputs, strict=False)
        ]
    if op in _SPREADS and not domain:
        args = as_numbers(args)
    keywords = call.keywords
    if call.types:
        keywords = {**keywords, "types": [scope.held.get(n, 0) for n in inputs]}
    if call.wanted:
        keywords = {**keywords, "wanted": [bool(n) for n in node.output]}
    if op in BOUNDED:
        check(op, args, keywords)
    results = call.function(*args, **keywords)
    walk.note(results, origin)
    results = (results,) if isinstance(results, Value) else results
    if op in _FOLDS and not domain:
        results = folded(results, args, walk.known) or results
    if op in FINDERS and not domain:
        walk.left_out += left_out(op, results, args, keywords)
    return results


def _asked(walk: Nodes, scope: Scope, node: Any, inputs: list[str]) -> tuple[list[Thing | None], dict[str, Any], Read]:
    """A node as operators of things are asked: its inputs, its attributes, and what reads what is known."""
    things = [walk.thing(scope, n) if n else None for n in inputs]
    given = {a.name: attribute(a) for a in node.attribute if a.type not in (a.TYPE_PROTO, a.GRAPH)}
    return things, given, walk.known.array


def _tensors(things: Sequence[Thing]) -> list[Value]:
    """The tensors of some results, all entries of those that vary in size."""
    return [t.value if isinstance(t, Varying) else t for t in things if isinstance(t, Value | Varying)]


def _of_things(
    walk: Nodes, scope: Scope, node: Any, op: str, domain: str, inputs: list[str], key: Any
) -> Sequence[Thing] | None:
    """The results of a node that takes or gives sequences, or tensors of which so many entries count."""
    things, given, read = _asked(walk, scope, node, inputs)
    if not plain(domain):
        if op in OPERATORS:
            return [OPERATORS[op](things, given, read)]
        if op == "Identity" and things[0] is not None:
            return [things[0]]
        found = of_varying(op, things, given, read)
        if found is None and op in SELECTING:
            found = SELECTING[op](things, given, read)
        if found is not None:
            return [found]
    named = {n: t for n, t in zip(inputs, things, strict=True) if t is not None}
    if all(isinstance(t, Value | Varying) for t in named.values()):

        def call(given: Mapping[str, Value]) -> Sequence[Value]:
            inner = copy(scope)
            inner.values, inner.odd = {**scope.values, **given}, {}
            noted = len(walk.order)
            found = results_of(walk, inner, node, op, domain, inputs, key, {})
            del walk.order[noted:]
            return [plain_of(t, "a result") for t in found]

        return each(op, named, read, call)
    if op == "SequenceMap":  # it has a body
        return None
    odd = next((n, t) for n, t in named.items() if not isinstance(t, Value))
    raise UnsupportedError(f"its input {shown(odd[0])} is {what(odd[1])}")


def _held(scope: Scope, node: Any, call: Call, inputs: Sequence[str]) -> None:
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


def _learn(walk: Nodes, call: Call, args: Sequence[Value]) -> None:
    """Note what a call makes of values of these types, where nobody looks at what made them."""
    for a in args:
        if a.op.name not in OPAQUE:
            return
        walk.opaque.add(a.op.__class__)
    types = tuple([a.type for a in args])
    if call.templates is not None and types not in call.templates and len(set(args)) == len(args):
        call.templates[types] = template_of(call, args)


def _bound(walk: Nodes, op: str, domain: str, inputs: list[str], attributes: Sequence[Any], scope: Scope) -> Call | str:
    """How a kind of nodes calls its rule, or why it has none."""
    if domain not in scope.versions and domain == "":
        raise SourceError(f"{walk.model.name} has operators of ONNX and doesn't say of which version")
    version = scope.versions.get(domain, 1)
    rule = find(domain, op, version)
    if rule is None:
        return why_not(domain, op)
    if any(a.type in (a.GRAPH, a.GRAPHS) for a in attributes):
        return NO_RULE  # rules take no graphs; what ONNX defines the operator by may (FlexAttention)
    return bind(rule, inputs, attributes, version, walk.draw, walk.model.folder)


def _numbers(walk: Nodes, scope: Scope, op: str, p: Parameter, name: str) -> Any:
    assert p.number is not None
    own = scope.tensors.get(name)
    if own is not None:
        walk.used.add(own)
        walk.tensors.type(own)
        return p.number(walk.tensors[own])
    array = walk.known.array(scope.values[name])
    if array is None:
        more = "; td.Program.from_onnx imports it" if op in SELECTING and op != "Slice" else ""  # a slice, not always
        raise UnsupportedError(f"its input {p.name} depends on data ({shown(name)}), and has to be known here{more}")
    return p.number(np.asarray(array))


def _without_rule(
    walk: Nodes, scope: Scope, node: Any, domain: str, inputs: list[str], origin: Origin, why: str
) -> Sequence[Any]:
    """What a node without a rule gives: by the function that ONNX defines it by, or as an external op."""
    version = scope.versions.get(domain, 1)
    arguments = [walk.thing(scope, n) if n else None for n in inputs]
    if why == NO_RULE:
        types = tuple([None if a is None else type_of(a) for a in arguments])
        key = (node.op_type, domain, version, types, node.SerializeToString())
        if key not in walk.bodies:
            walk.bodies[key] = body_of(node, domain, version, types)
        if walk.bodies[key] is not None:
            return _of_function(walk, scope, node, walk.bodies[key], inputs, origin)
    if not walk.external or any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        raise UnsupportedError(why)
    tensors_ = [None if a is None else plain_of(a, "its input") for a in arguments]
    declared_types = {i.name: i.type for i in (*walk.graph.value_info, *walk.graph.output)}
    results = types_of_results(node, domain, version, tensors_, declared_types, walk.sizes)
    target, places, keywords, tensors = written(node, domain, tensors_)
    return walk.stand_in("onnx", target, places, keywords, results, tensors, origin)


def _of_function(walk: Nodes, scope: Scope, node: Any, function: Any, inputs: list[str], origin: Origin) -> Any:
    """The results of a function called by a node."""
    if walk.depth >= DEEPEST:
        raise SourceError(f"functions are nested more than {DEEPEST} deep at {shown(function.name)}")
    walk.inside += len(function.node)
    if walk.inside > MOST:
        raise SourceError(f"the calls of its functions have more than {MOST} nodes")
    if len(inputs) > len(function.input):
        raise UnsupportedError(f"it has {len(inputs)} inputs, its function takes {len(function.input)}")
    place = f"{scope.place}{node.name or (node.output[0] if node.output else function.name)}/"
    given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
    inner = walk.scope(function.opset_import, place, origin.module, given, scope.versions)
    for formal, name in zip(function.input, [*inputs, *[""] * len(function.input)], strict=False):
        if not name:
            inner.missing.add(formal)
        elif name in scope.tensors:
            inner.tensors[formal] = scope.tensors[name]
        else:
            inner.bind(formal, scope.odd[name] if name in scope.odd else scope.values[name])
        if name in scope.held:
            inner.held[formal] = scope.held[name]
    before = len(walk.problems)
    walk.depth += 1
    try:
        walk.nodes(inner, function.node)
    finally:
        walk.depth -= 1
    if len(walk.problems) > before:
        raise InBody
    results: list[Thing | None] = []
    for i, name in enumerate(function.output):
        found = walk.thing(inner, name)
        if found is None and i < len(node.output) and node.output[i]:  # ONNX's bodies leave out what isn't asked for
            raise SourceError(f"the output {shown(name)} of its function is made by nothing")
        results.append(found)
    for out, name in zip(node.output, function.output, strict=False):
        if name in inner.held and out:
            scope.held[out] = inner.held[name]
    return tuple(results)
