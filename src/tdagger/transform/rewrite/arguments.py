"""What tests of patterns are made of: wildcards that bind, and arguments that are tested one after the other.

A test gets a value and the *bindings*, a list with a slot for every wildcard and every op of the pattern, and goes on
to the next test itself; where that fails it takes its binding back and tries what else there is: the other order of a
commutative op, another option. So a match that exists is found. Tests nest as deep as the pattern is large, never as
the graph is deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tdagger.op import Value
from tdagger.transform.rewrite.heads import is_number
from tdagger.transform.rewrite.pattern import Var
from tdagger.transform.rewrite.values import behind

#: What wildcards and ops are bound to, None where they aren't yet.
Bindings = list[Any]
Test = Callable[[Value, Bindings], bool]
Next = Callable[[Bindings], bool]
#: ``miss(bound, value, why, *of)`` hears of every test that fails, and gives False. ``why`` is a format of ``of``, so
#: that nothing is written out where nobody asks.
Miss = Callable[..., bool]


class _Absent:
    """What an optional wildcard is bound to where no argument was given."""


ABSENT = _Absent()


class Tests:
    """Makes tests of arguments; ``slots`` are the wildcards' places in the bindings, ``nodes`` those of ops."""

    def __init__(self, variables: Iterable[str], miss: Miss) -> None:
        self.slots = {name: i for i, name in enumerate(variables)}
        self.size = len(self.slots)
        self.nodes: list[int] = []
        self.only: list[int] = []
        self.miss = miss

    def slot(self) -> int:
        self.size += 1
        return self.size - 1

    def test(self, pattern: Any, then: Next) -> Test:
        """The test of a pattern, which goes on with ``then``."""
        raise NotImplementedError

    # Wildcards and constants.

    def wildcard(self, slot: int, then: Next) -> Test:
        """Binds a slot, or holds a value to what it is bound to."""
        miss = self.miss

        def test(value: Value, bound: Bindings) -> bool:
            found = bound[slot]
            if found is None:
                bound[slot] = value
                if then(bound):
                    return True
                bound[slot] = None
                return False
            if found is value:
                return then(bound)
            return miss(bound, value, "isn't {!r}, which the same wildcard stands for elsewhere", found)

        return test

    def bind(self, slot: int, found: Any, then: Next, bound: Bindings) -> bool:
        """The same for something that isn't a value: an attribute."""
        old = bound[slot]
        if old is not None:
            return type(old) is type(found) and old == found and then(bound)
        bound[slot] = found
        if then(bound):
            return True
        bound[slot] = None
        return False

    # Arguments.

    def arguments(
        self, slot: int, patterns: tuple[Any, ...], then: Next, broadcasts: bool, commutes: bool = False,
        args: int | None = None,
    ) -> Next:  # fmt: skip
        """Tests the arguments of the value in a slot, in both orders if the op commutes.

        ``args`` is a slot that has the arguments, with None for those that weren't given.
        """
        used = None
        if broadcasts and not any(p is None or is_number(p) or isinstance(p, Var) for p in patterns):
            used = self.slot()
            then = _filling(slot, used, then)
        if commutes and len(patterns) == 2 and patterns[0] is not patterns[1]:
            then = self._either_order(slot, patterns, then, broadcasts, used)
        else:
            for i in reversed(range(len(patterns))):
                then = self._argument(slot if args is None else args, i, patterns[i], then, broadcasts, used)
        return then if used is None else _starting(used, then)

    def _argument(self, slot: int, i: int, pattern: Any, then: Next, broadcasts: bool, used: int | None) -> Next:
        if pattern is None:
            return then
        test = self._operand(pattern, then, broadcasts, used)
        if not isinstance(pattern, Var) or not pattern.optional:
            return lambda bound: test(_arg(bound[slot], i), bound)
        place = self.slots[pattern.name]

        def optional(bound: Bindings) -> bool:
            arg = _arg(bound[slot], i)
            return self.bind(place, ABSENT, then, bound) if arg is None else test(arg, bound)

        return optional

    def _either_order(
        self, slot: int, patterns: tuple[Any, ...], then: Next, broadcasts: bool, used: int | None
    ) -> Next:
        order = self.slot()
        second = self._operand(patterns[1], then, broadcasts, used)
        first = self._operand(
            patterns[0], lambda bound: second(bound[slot].args[1 - bound[order]], bound), broadcasts, used
        )

        def test(bound: Bindings) -> bool:
            a, b = bound[slot].args
            bound[order] = 0
            if first(a, bound):
                return True
            bound[order] = 1
            return a is not b and first(b, bound)

        return test

    def _operand(self, pattern: Any, then: Next, broadcasts: bool, used: int | None) -> Test:
        """An argument, behind what broadcasting made of it if the function written there would broadcast it."""
        test = self.test(pattern, then)
        if not broadcasts or isinstance(pattern, Var) or is_number(pattern):
            return test

        def operand(value: Value, bound: Bindings) -> bool:
            for v in behind(value):
                if used is not None:
                    bound[used].append(v.shape)
                if test(v, bound):
                    return True
                if used is not None:
                    bound[used].pop()
            return False

        return operand


def holding(slot: int, then: Next) -> Test:
    """Goes on with the value in a slot, and takes it out again where that fails."""

    def test(value: Value, bound: Bindings) -> bool:
        bound[slot] = value
        if then(bound):
            return True
        bound[slot] = None
        return False

    return test


def _arg(held: Any, i: int) -> Any:
    """An argument of a value, or one of those listed."""
    return held.args[i] if held.__class__ is Value else held[i]


def _starting(used: int, then: Next) -> Next:
    def start(bound: Bindings) -> bool:
        bound[used] = []
        return then(bound)

    return start


def _filling(slot: int, used: int, then: Next) -> Next:
    """Goes on if broadcasting the operands' own shapes gives that of the op: else the pattern is another function."""

    def full(bound: Bindings) -> bool:
        shapes, wanted = bound[used], bound[slot].shape
        return (wanted in shapes or np.broadcast_shapes(*shapes) == wanted) and then(bound)

    return full
