"""Patterns compiled to tests of values: ops, composites, structural functions, and what patterns alone can say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from tdagger.composite import CompositeFunction
from tdagger.errors import TDaggerError
from tdagger.graph import label
from tdagger.library.arithmetic import aligned
from tdagger.op import Op, Value
from tdagger.ops.elementwise import BINARY, Binary, Where
from tdagger.ops.source import Const
from tdagger.transform.rewrite.arguments import Bindings, Miss, Next, Test, Tests, holding
from tdagger.transform.rewrite.calls import counted, given_arguments, gives, made_by
from tdagger.transform.rewrite.heads import is_number
from tdagger.transform.rewrite.pattern import ALL, Node, Special, Var
from tdagger.transform.rewrite.values import behind, is_elementwise, number_in
from tdagger.types import TensorType


def check(patterns: tuple[Any, ...]) -> set[str]:
    """The names of a pattern's wildcards; TDaggerError if it holds something that can't be part of one; linear."""
    waiting, seen, names = list(patterns), set[int](), set[str]()
    while waiting:
        pattern = waiting.pop()
        if isinstance(pattern, Var):
            names.add(pattern.name)
        if id(pattern) in seen or pattern is None or is_number(pattern) or isinstance(pattern, Var | Value):
            continue
        seen.add(id(pattern))
        if isinstance(pattern, Special):
            waiting += (*pattern.parts, pattern.var)
        elif not isinstance(pattern, Node):
            raise TDaggerError(f"a pattern is made of ops, wildcards and numbers, not {pattern!r}")
        else:  # of a structural function the first argument is a pattern, the others are settings
            whole = isinstance(pattern.what, str | Op | CompositeFunction) or pattern.what.__name__ == "concat"
            waiting += pattern.args if whole else pattern.args[:1]
            waiting += _variables(tuple(pattern.attributes.values()))
    return names


def _variables(attributes: Any) -> Iterator[Var]:
    """The wildcards among attributes."""
    if isinstance(attributes, Var):
        yield attributes
    elif isinstance(attributes, tuple | list):
        for one in cast(Iterable[Any], attributes):
            yield from _variables(one)


class Compiler(Tests):
    """Makes tests of patterns."""

    def test(self, pattern: Any, then: Next) -> Test:
        """The test of a pattern, which goes on with ``then``."""
        if isinstance(pattern, Var):
            return self.wildcard(self.slots[pattern.name], then)
        if isinstance(pattern, Special):
            return getattr(self, f"_{pattern.kind}")(pattern, then)
        if is_number(pattern):
            return self._literal(pattern, then)
        if isinstance(pattern, Value):
            return self._exact(pattern, then)
        if isinstance(pattern.what, str):
            return self._named(pattern, then)
        if isinstance(pattern.what, Op):
            return self._core(pattern, then)
        if isinstance(pattern.what, CompositeFunction):
            return self._composite(pattern, then)
        return self._call(pattern, then)

    # Constants.

    def _exact(self, wanted: Value, then: Next) -> Test:
        miss = self.miss
        return lambda value, bound: then(bound) if value is wanted else miss(bound, value, "isn't {!r}", wanted)

    def _literal(self, wanted: Any, then: Next) -> Test:
        miss = self.miss

        def test(value: Value, bound: Bindings) -> bool:
            found = number_in(value)
            if found is not None:
                # as rounded to the element type: 0.1 in float16 is 0.1
                dtype = value.dtype.numpy
                with np.errstate(all="ignore"):
                    if np.asarray(wanted).astype(dtype).tobytes() == np.asarray(found).astype(dtype).tobytes():
                        return then(bound)
            return miss(bound, value, "isn't the number {!r}", wanted)

        return test

    def _number(self, pattern: Special, then: Next) -> Test:
        miss, slot = self.miss, self.slots[cast(Var, pattern.var).name]

        def test(value: Value, bound: Bindings) -> bool:
            found = number_in(value)
            if found is None:
                return miss(bound, value, "isn't a constant of one number")
            return self.bind(slot, found, then, bound)

        return test

    def _constant(self, pattern: Special, then: Next) -> Test:
        miss = self.miss
        bind = self.wildcard(self.slots[cast(Var, pattern.var).name], then)

        def test(value: Value, bound: Bindings) -> bool:
            return bind(value, bound) if isinstance(value.op, Const) else miss(bound, value, "isn't a constant")

        return test

    # What patterns alone say.

    def _either(self, pattern: Special, then: Next) -> Test:
        options = [self.test(p, then) for p in pattern.parts]
        return lambda value, bound: any(option(value, bound) for option in options)

    def _only(self, pattern: Special, then: Next) -> Test:
        slot = self.slot()
        self.only.append(slot)
        test = self.test(pattern.parts[0], then)
        return holding(slot, lambda bound: test(bound[slot], bound))

    def _spread(self, pattern: Special, then: Next) -> Test:
        test = self.test(pattern.parts[0], then)
        return lambda value, bound: any(test(v, bound) for v in reversed(behind(value)))

    def _elementwise(self, pattern: Special, then: Next) -> Test:
        miss, slot, count = self.miss, self.slot(), len(pattern.parts)
        self.nodes.append(slot)
        op = None if pattern.var is None else self.slots[pattern.var.name]
        rest = self.arguments(slot, pattern.parts, then, broadcasts=False)
        held = holding(slot, rest if op is None else lambda bound: self.bind(op, bound[slot].op, rest, bound))

        def test(value: Value, bound: Bindings) -> bool:
            if len(value.args) != count or not is_elementwise(value):
                return miss(bound, value, "isn't an elementwise op on {} arguments", count)
            return held(value, bound)

        return test

    # Ops.

    def _core(self, pattern: Node, then: Next) -> Test:
        op: Op = pattern.what
        broadcasts = isinstance(op, Binary | Where)
        commutes = isinstance(op, Binary) and BINARY[op.kind].commutes
        slot, miss = self.slot(), self.miss
        self.nodes.append(slot)
        held = holding(slot, self.arguments(slot, pattern.args, then, broadcasts, commutes))

        def test(value: Value, bound: Bindings) -> bool:
            return held(value, bound) if value.op is op else miss(bound, value, "isn't {}", op)

        return test

    def _named(self, pattern: Node, then: Next) -> Test:
        name: str = pattern.what
        slot, miss = self.slot(), self.miss
        self.nodes.append(slot)
        commutes = name in BINARY and BINARY[name].commutes
        rest = self.arguments(slot, pattern.args, then, name in BINARY or name == "where", commutes)
        held = holding(slot, self._attributes(slot, pattern.attributes, rest, frozenset(pattern.attributes)))
        count = len(pattern.args)

        def test(value: Value, bound: Bindings) -> bool:
            if label(value.op) != name or len(value.args) != count:
                return miss(bound, value, "isn't {} of {} arguments", name, count)
            return held(value, bound)

        return test

    def _attributes(self, slot: int, given: dict[str, Any], then: Next, explicit: frozenset[str]) -> Next:
        """Goes on if the attributes of the op in a slot are those given; wildcards bind."""
        miss = self.miss
        for name, wanted in reversed(given.items()):
            then = self._attribute(slot, name, wanted, then, explicit, miss)
        return then

    def _attribute(self, slot: int, name: str, wanted: Any, then: Next, explicit: frozenset[str], miss: Miss) -> Next:
        if isinstance(wanted, Var):
            place = self.slots[wanted.name]

            def bind(bound: Bindings) -> bool:
                every = bound[slot].op.attributes
                found = {k: v for k, v in every.items() if k not in explicit} if name == ALL else every[name]
                return self.bind(place, found, then, bound)

            return bind

        def same(bound: Bindings) -> bool:
            value: Value = bound[slot]
            found = value.op.attributes[name]
            rank = value.args[0].rank if value.args else 0
            if found == counted(name, wanted, rank):
                return then(bound)
            return miss(bound, value, "has {}={!r}, not {!r}", name, found, wanted)

        return same

    def _composite(self, pattern: Node, then: Next) -> Test:
        definition = cast(CompositeFunction[Any, Any], pattern.what)
        kind, slot, full = definition.op, self.slot(), self.slot()
        miss = self.miss
        self.nodes.append(slot)
        optional = [isinstance(p, Var) and p.optional for p in pattern.args]
        wanted = [p is not None for p in pattern.args]
        rest = self.arguments(slot, pattern.args, then, definition.prepare is aligned, args=full)
        rest = self._check(definition, slot, pattern.attributes, rest, miss)

        def test(value: Value, bound: Bindings) -> bool:
            if value.op.__class__ is not kind:
                return miss(bound, value, "isn't {}", definition.name)
            args = given_arguments(value)
            if len(args) != len(wanted):
                return miss(bound, value, "has {} arguments, not {}", len(args), len(wanted))
            for arg, w, o in zip(args, wanted, optional, strict=True):
                if (arg is None) is w and not o:
                    return miss(bound, value, "was given other arguments than the pattern's")
            bound[slot], bound[full] = value, args
            if rest(bound):
                return True
            bound[slot] = bound[full] = None
            return False

        return test

    def _check(
        self, definition: CompositeFunction[Any, Any], slot: int, given: dict[str, Any], then: Next, miss: Miss
    ) -> Next:  # fmt: skip
        """Goes on if a composite has the attributes that a call with those given would give it."""
        if any(isinstance(a, Var) for a in given.values()):
            missing = {} if ALL in given else {k: v for k, v in definition.defaults.items() if k not in given}
            return self._attributes(slot, {**given, **missing}, then, frozenset(given))
        known: dict[tuple[Op, tuple[TensorType, ...]], bool] = {}

        def same(bound: Bindings) -> bool:
            value: Value = bound[slot]
            key = (value.op, tuple([a.type for a in value.args]))
            found = known.get(key)
            if found is None:
                found = known[key] = made_by(definition, value, given)
            return then(bound) if found else miss(bound, value, "has other attributes than {}", given or "the defaults")

        return same

    def _call(self, pattern: Node, then: Next) -> Test:
        """A structural function: what gives exactly the value when the function is called on it."""
        function, (inner, *rest), attributes = pattern.what, pattern.args, pattern.attributes
        if function.__name__ == "concat":  # of any number of tensors: it makes nothing else
            return self._named(Node("concat", pattern.args, attributes), then)
        several = function.__name__ == "item"  # is taken of several results, and nothing else of them
        slot, between, miss = self.slot(), self.slot(), self.miss
        self.nodes += [slot, between]
        test = self.test(inner, then)
        known: dict[Any, bool] = {}  # what a function makes depends on the type of its argument

        def call(value: Value, bound: Bindings) -> bool:
            inside = value.args[0] if value.args else None
            further = inside.args[0] if inside is not None and inside.args else None
            for arg, way in ((inside, None), (further, inside), (value, None)):
                if arg is None or isinstance(cast(Any, arg.type), TensorType) is several:
                    continue
                key = (value.op, arg.type, None if way is None else way.op, arg is value)
                fits = known.get(key)
                if fits is None:
                    fits = known[key] = gives(function, arg, rest, attributes, value)
                if not fits:
                    continue
                bound[slot], bound[between] = (None if arg is value else value), way
                if test(arg, bound):
                    return True
                bound[slot] = bound[between] = None
            return miss(bound, value, "isn't {!r}", pattern)

        return call
