"""The table of step makers: a function registers itself with how often it is taken."""

from __future__ import annotations

from collections.abc import Callable

from conformance.fuzz.build import Maker

MAKERS: list[Maker] = []
WEIGHTS: list[float] = []


def maker(weight: float = 1.0) -> Callable[[Maker], Maker]:
    """Register a function that adds a step to a builder."""

    def put(function: Maker) -> Maker:
        MAKERS.append(function)
        WEIGHTS.append(weight)
        return function

    return put
