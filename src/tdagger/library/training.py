"""What only matters when a network is trained."""

from __future__ import annotations

from tdagger.composite import composite
from tdagger.op import Value


@composite
def stop_gradient(x: Value) -> Value:
    """``x`` itself; no gradient goes back through it (torch's detach, a no_grad region)."""
    return x
