"""Which cases of a table are in every run of the tests; the others are slow tests, which `make test-slow` runs.

>>> [getattr(case, "marks", ()) and "slow" for case in only(("a", "b", "c"), "b")]
['slow', (), 'slow']
>>> [getattr(case, "marks", ()) and "slow" for case in one_of(2, range(5))]
[(), 'slow', (), 'slow', ()]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def only(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """Cases of which ``chosen`` are in every run: each has something that the others haven't."""
    cases = list(cases)
    unknown = [c for c in chosen if c not in cases]
    assert not unknown, f"no cases: {unknown}"
    return [c if c in chosen else _slow(c) for c in cases]


def one_of(count: int, cases: Iterable[Any], first: int = 0) -> list[Any]:
    """Cases of which, from the ``first`` on, one of ``count`` is in every run: where all are of one kind."""
    return [c if i % count == first else _slow(c) for i, c in enumerate(cases)]


def in_turn(count: int, cases: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Each case with each of the others, as two parameters: in every run one of ``count`` pairs, others in turn."""
    others = list(others)
    pairs = [(i + j, a, b) for i, a in enumerate(cases) for j, b in enumerate(others)]
    return [pytest.param(a, b, marks=() if n % count == 0 else pytest.mark.slow) for n, a, b in pairs]


def _slow(case: Any) -> Any:
    return pytest.param(case, marks=pytest.mark.slow)
