"""What only matters when a network is trained."""

from __future__ import annotations

from tdagger.composite import composite
from tdagger.errors import AttributeValueError
from tdagger.op import Value
from tdagger.ops.structure import concat, slice_axis, squeeze, unsqueeze


@composite(own_gradient=True)
def stop_gradient(x: Value) -> Value:
    """``x`` itself; no gradient goes back through it (torch's detach, a no_grad region)."""
    return x


@composite(own_gradient=True)
def straight_through(x: Value, new: Value) -> Value:
    """``new``, of the type of ``x``; gradients go to ``x`` as if it were that (what torch writes under no_grad)."""
    if new.type != x.type:
        raise AttributeValueError(f"straight_through: the new value of {x.type} must be of that type, got {new.type}")
    if not x.rank:
        return squeeze(straight_through(unsqueeze(x, (0,)), unsqueeze(new, (0,))), (0,))
    return concat([slice_axis(x, 0, 0, 0), stop_gradient(new)], 0)  # nothing of x, and so it depends on it
