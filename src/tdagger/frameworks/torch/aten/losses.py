"""ATen rules of losses that have kinks, where the derivative of torch's decomposition isn't that of its op."""

from __future__ import annotations

from typing import Any

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import promote, rule
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.indexing import iota_like, take_along
from tdagger.ops.structure import reduce, unsqueeze


def _reduced(loss: Value, reduction: int) -> Value:
    """All entries, their mean or their sum, as torch numbers it."""
    axes = tuple(range(loss.rank))
    if reduction == 0:
        return loss
    if reduction == 2:
        return reduce(loss, "sum", axes, keep=False)
    return lib.mean(loss, axes=axes) if axes else loss


@rule("binary_cross_entropy")
def _binary_cross_entropy(self: Value, target: Value, weight: Value | None = None, reduction: int = 1) -> Value:
    loss = lib.binary_cross_entropy(self, target)
    if weight is not None:
        loss = loss * e.align(weight, loss)[0]
    return _reduced(loss, reduction)


@rule("huber_loss")
def _huber_loss(self: Value, target: Value, reduction: int = 1, delta: float = 1.0) -> Value:
    x, y = promote(self, target)
    return _reduced(lib.huber_loss(x, y, delta=delta), reduction)


@rule("smooth_l1_loss")
def _smooth_l1_loss(self: Value, target: Value, reduction: int = 1, beta: float = 1.0) -> Value:
    x, y = promote(self, target)
    return _reduced(lib.smooth_l1_loss(x, y, beta=beta), reduction)


@rule("multi_margin_loss")
def _multi_margin_loss(
    self: Value, target: Value, p: Any = 1, margin: Any = 1, weight: Value | None = None, reduction: int = 1
) -> Value:
    """How much each class ``[.. c]`` comes within ``margin`` of the right one; at the margin without a gradient."""
    self = self if self.rank else unsqueeze(self, (0,))
    at = unsqueeze(target, (target.rank,)) if target.rank < self.rank else target
    lost = float(margin) - take_along(self, at, -1) + self
    lost = e.where(lost > 0.0, lost, 0.0)  # NaN comes within no margin
    lost = lost if p == 1 else lost * lost
    if weight is not None:
        rows = e.align(weight, self)[0]
        lost = lost * take_along(rows, at, -1)
    here = e.equal(*e.align(iota_like(self, self.rank - 1), at))
    return _reduced(lib.mean(e.where(here, 0.0, lost), axes=(self.rank - 1,)), reduction)
