"""The walk over the nodes of a graph: each by its rule, names given to what they make, and what can't be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.errors import AttributeValueError, SourceError, TDaggerError, TypeMismatchError, UnsupportedError
from tdagger.frameworks.importing import Problem
from tdagger.frameworks.onnx.file.read import Model
from tdagger.frameworks.onnx.file.tensors import constant_of
from tdagger.frameworks.onnx.subgraphs import CONTROL
from tdagger.frameworks.onnx.things import Thing
from tdagger.frameworks.onnx.walk import results as made
from tdagger.frameworks.onnx.walk.calls import Call, Template
from tdagger.frameworks.onnx.walk.functions import key_of, plain, with_attributes
from tdagger.frameworks.onnx.walk.leaves import Leaves
from tdagger.frameworks.onnx.walk.origins import Modules
from tdagger.frameworks.onnx.walk.scope import Scope, in_order, place_of
from tdagger.names import shown
from tdagger.network import Origin
from tdagger.op import Value
from tdagger.program.trace import tracing

#: What stands for the name of an input that couldn't be imported, and of one that nothing made so far.
_FAILED, _LATER = "\0failed", "\0later"
_origin = tuple.__new__  # a node has one, and half the time goes into the defaults


class _AtNode(SourceError):
    """What is wrong with a node that the error names."""


class Nodes(Leaves):
    """One model as its nodes are imported."""

    def __init__(self, model: Model, external: bool, turns: Mapping[str, int] | int | None = None) -> None:
        super().__init__(model, external)
        #: How many turns loops have at most, by the names of their nodes; a number is for all.
        self.turns = turns
        self.modules = Modules()
        #: The classes of ops that made what templates may be used on.
        self.opaque: set[Any] = set()
        #: How nodes of each kind call their rules, by the versions of operator sets.
        self.calls: dict[Any, tuple[dict[Any, Call | str], dict[Any, Any]]] = {}
        self.functions = {key_of(f): f for f in model.proto.functions}
        self.bodies: dict[Any, Any] = {}
        self.depth = self.inside = 0
        self.sizes: dict[str, int] = {}
        self.left_out: list[LeftOut] = []
        #: For every problem the names that its node would have made.
        self.failing: list[set[str]] = []
        #: Of the problems, by place, those of sizes that an operator doesn't take.
        self.misfits: set[int] = set()

    def scope(
        self, imports: Any, place: str = "", module: str = "", given: Any = None, outer: Mapping[str, int] | None = None
    ) -> Scope:
        """A scope; not all bodies of ONNX say its version, which then is that around them."""
        versions = {**(outer or {}), **_versions(imports)}
        scope = Scope(versions, place, module, given)
        scope.calls, scope.quick = self.calls.setdefault(tuple(sorted(versions.items())), (scope.calls, scope.quick))
        return scope

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
                results = made.results_of(self, scope, node, op, domain, inputs, key, quick)
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

    def origin_of(self, scope: Scope, node: Any, op: str) -> Origin:
        name, place = node.name, scope.place
        module = scope.module or self.modules.of(node, name, op)
        return _origin(Origin, (module, op, place + name if place else name, (), ()))

    def _from_template(
        self, scope: Scope, node: Any, op: str, inputs: list[str], known: Mapping[Any, Template | None]
    ) -> Sequence[Value] | None:
        """The results of a node of which it is known what its rule makes of such values; None if it isn't."""
        values, tensors, opaque = scope.values, scope.tensors, self.opaque
        found: list[Any] = []
        for n in inputs:
            value = values.get(n)
            if value is None:
                own = tensors.get(n)
                if own is None:
                    return None
                value = values[n] = self._leaf(own, False)
            if value.op.__class__ not in opaque:
                return None
            found.append(value)
        args: tuple[Value, ...] = tuple(found)
        count = len(args)
        if count == 2:  # as most have; see Op.__call__
            first, second = args
            types = (first.type, second.type)
            is_twice = first is second
        else:
            types = tuple([a.type for a in args])
            is_twice = count > 1 and len(set(args)) < count
        template = None if is_twice else known.get(types)
        if template is None:
            return None
        origin, origins = self.origin_of(scope, node, op), self.origins
        if template.alone is not None:  # as of most: without a list of steps
            value = template.alone[0].made(args, template.alone[1])
            origins.setdefault(value, origin)
            self.order.append(value)
            return [value]
        results, made = template.of(args)
        for value in made:
            origins.setdefault(value, origin)
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
        if not (isinstance(error, made.InBody)):
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
            node = with_attributes(node, scope.attributes)
        self.hold(scope, name, constant_of(node))
        self.constants.add(scope.tensors[name])

    def _all_made(self, node: Any, results: Sequence[Any]) -> None:
        lost = [n for i, n in enumerate(node.output) if n and (i >= len(results) or results[i] is None)]
        if lost:
            raise UnsupportedError(f"its output {', '.join(map(shown, lost))} isn't made here")

    def inside_of(self, node: Any, inner: Scope, nodes: Sequence[Any]) -> None:
        """Import the nodes of a graph inside a node; made.InBody is raised if some can't be."""
        self.inside += len(nodes)
        if self.inside > made.MOST:
            raise UnsupportedError(f"its turns, written out one after the other, have more than {made.MOST} nodes")
        before = len(self.problems)
        self.nodes(inner, nodes)
        if len(self.problems) > before:
            raise made.InBody

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


def _versions(imports: Sequence[Any]) -> dict[str, int]:
    """The version of each operator set; of one imported several times the newest."""
    found: dict[str, int] = {}
    for o in imports:
        domain = plain(o.domain)
        found[domain] = max(found.get(domain, 0), o.version)
    return found
