"""Results that nobody uses: composites with several of them become those that have one."""

from __future__ import annotations

from typing import Any

from tdagger.library.pool import adaptive_max_pool, adaptive_max_pool_with_indices, max_pool, max_pool_with_indices
from tdagger.network import N
from tdagger.ops.structure import item
from tdagger.transform.rewrite import Rule, applied, only, rule

#: Composites that give something besides, and those that don't.
PAIRS = ((max_pool_with_indices, max_pool), (adaptive_max_pool_with_indices, adaptive_max_pool))


def drop_unused_results(dag: N) -> N:
    """The network with ``max_pool_with_indices`` as ``max_pool`` where nobody uses the indices; adaptive ones too.

    What no output needs is never in a graph; this is about results of one op.
    """
    return applied(dag, RULES)[0]


def _without(both: Any, alone: Any) -> Rule:
    @rule
    def first(x: Any, kept: Any) -> Any:
        return item(only(both(x, **kept)), 0)

    @first.to
    def _(x: Any, kept: Any) -> Any:
        return alone(x, **kept)

    first.name = f"only_{alone.name}"
    return first


RULES = tuple(_without(both, alone) for both, alone in PAIRS)
