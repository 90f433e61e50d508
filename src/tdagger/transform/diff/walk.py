"""A network run in float64, beside runs in which some values are rounded at random: how far rounding moves a value."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.graph import Graph, flops, result_types
from tdagger.op import Array, Value
from tdagger.ops.elementwise import Binary, Cast, Unary
from tdagger.ops.source import Const, Leaf
from tdagger.transform.diff.errors import size, spread
from tdagger.transform.diff.exact import Exact, Noise
from tdagger.transform.rewrite.values import is_elementwise

#: How often rounding is tried at random.
_TRIES = 3


class Walk:
    """A graph run in float64, and so many times more with errors added to ``noisy`` values.

    Nothing is run again whose arguments weren't moved. ``spread[value]`` is how far the runs are apart,
    ``sizes[value]`` the largest number in it. ``known`` are the values that no leaf is behind.
    """

    def __init__(
        self, exact: Exact, graph: Graph, noisy: Mapping[Value, float], leaves: Callable[[Value], Array], seed: int,
        known: Container[Value] = (),
    ) -> None:  # fmt: skip
        self.exact, self.graph, self.noisy, self.leaves, self.known = exact, graph, noisy, leaves, known
        self.noises = [Noise(seed * _TRIES + i) for i in range(_TRIES)]
        self.values: dict[Value, Any] = {}
        self.moved: dict[Value, list[Any]] = {}
        self.spread: dict[Value, float] = {}
        self.sizes: dict[Value, float] = {}

    def step(self, value: Value, known: Any = None) -> Any:
        """Work out one value, whose arguments have been; ``known`` is what it is, if that is known."""
        args = [self.values[a] for a in value.args]
        if known is None:
            known = self.leaves(value) if isinstance(value.op, Leaf) else run(self.exact, value, args)
        self.values[value] = known
        self.sizes[value] = size(known)
        relative = self.noisy.get(value, 0.0)
        if relative or any(a in self.moved for a in value.args):
            self.moved[value] = [self._moved(value, i, relative) for i in range(_TRIES)]
            self.spread[value] = max(spread(known, m) for m in self.moved[value])
        else:
            self.spread[value] = 0.0
        return known

    def _moved(self, value: Value, i: int, relative: float) -> Any:
        noise = self.noises[i]
        if isinstance(value.op, Leaf):
            return noise.of(self.values[value], relative)
        args = [self.moved[a][i] if a in self.moved else self.values[a] for a in value.args]
        if self.exact.is_lossy(value.op):  # what it rounds away stays the same: no error is made larger by a step
            return self.values[value] + (args[0] - self.values[value.args[0]])
        if not isinstance(value.op, Unary | Binary | Cast):  # sums and what else is inside: what goes in is moved too
            still = [self.moves_nothing(x) for x in value.args]
            args = [x if s else noise.of(x, relative) for x, s in zip(args, still, strict=True)]
        return noise.of(run(self.exact, value, args), relative)

    @staticmethod
    def moves_nothing(value: Value) -> bool:
        """Whether a value is a number that isn't rounded."""
        return isinstance(value.op, Const)

    def scale(self, value: Value) -> float:
        """The largest number in a value and those of its arguments that bring an error along.

        What no leaf is behind is known exactly: an op on entries rounds what it makes of them, however large they are
        (a mask's least number where nothing is masked).
        """
        known = self.known if is_elementwise(value) else ()
        return max([self.sizes[value], *[self.sizes[a] for a in value.args if a not in known]])

    def forget(self, value: Value, everything: bool) -> None:
        """Drop what a value is; ``everything``, or only what it is with errors."""
        self.moved.pop(value, None)
        if everything:
            self.values.pop(value, None)


def is_rounded(value: Value) -> bool:
    """Whether a value is computed: what is only moved, chosen and repeated is as exact as it was."""
    return isinstance(value.op, Leaf | Const | Cast) or flops(value) > 0


def run(exact: Exact, value: Value, args: list[Any]) -> Any:
    """One value in float64; errors say which it is."""
    try:
        return exact.run(value.op, tuple([a.type for a in value.args]), args)
    except UnsupportedError as e:
        raise UnsupportedError(f"{e}\nstructure=True compares networks without running them") from e
    except Exception as e:
        e.add_note(f"while running {value!r} in float64")
        raise


def tried(exact: Exact, value: Value, args: list[Any]) -> Any:
    """One value in float64 on what another network has for its arguments; NaN where it takes no such numbers."""
    try:
        return run(exact, value, args)
    except IndexError:
        found = tuple([np.full(t.shape, np.nan) for t in result_types(value)])
        return found if isinstance(value.type, tuple) else found[0]


def last_uses(graph: Graph, kept: set[Value]) -> dict[Value, list[Value]]:
    """For each value, those that nobody needs after it."""
    last: dict[Value, Value] = {}
    for value in graph.values:
        for arg in (value, *value.args):
            last[arg] = value
    found: dict[Value, list[Value]] = {}
    for value, by in last.items():
        if value not in kept:
            found.setdefault(by, []).append(value)
    return found
