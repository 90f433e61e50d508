"""Weights rounded column by column, each error made up for by the columns after it: what GPTQ does.

The error of a layer's results is ``d H d.T`` for a change d of a row of its weight and the mean products H of what it
takes in. Columns are rounded from the one with the largest inputs to the smallest; the weights that are left are
changed so that the error is the least they can make it.

Frantar et al. 2022 (arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import AttributeValueError, InputError
from tdagger.graph import label
from tdagger.library.quantized import spread_array
from tdagger.op import Array, Value
from tdagger.quantization.local import Watching
from tdagger.quantization.placement import Plan
from tdagger.quantization.scales import Affine, Weights
from tdagger.quantization.weights import nearest

if TYPE_CHECKING:
    from tdagger.quantization.prepare import Prepared

#: What is added to the diagonal of the products, as a part of its mean: few examples don't tell all.
_DAMPING = 0.2
#: Columns whose errors go to the columns after them at once.
_COLUMNS = 128
#: The products of so many bytes are summed up in one run of the data.
BUDGET = 1 << 29


class Compensated:
    """A :data:`~tdagger.quantization.weights.Rounding`: the whole numbers that were found, the nearest for others.

    Of a channel whose scale became another than they were found for, they are the nearest too.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[str, Weights], tuple[Array, Affine]] = {}

    def __call__(self, weight: Array, name: str, scales: Affine, how: Weights) -> Array:
        codes = nearest(weight, name, scales, how)
        kept = self.found.get((name, how))
        if kept is None:
            return codes
        same = [
            _spread(a, weight.shape, how) == _spread(b, weight.shape, how) for a, b in zip(kept[1], scales, strict=True)
        ]
        return np.where(same[0] & same[1], kept[0], codes)


def compensate(prepared: Prepared, data: Iterable[Any], budget: int = BUDGET) -> Compensated:
    """The rounding of a prepared network's linear layers; ``data`` is run once for each ``budget`` bytes of products.

    Nothing but the whole numbers is kept of one run when the next begins.
    """
    if prepared.profile.weight.grid.is_float:
        raise AttributeValueError(f"errors are made up for among whole numbers, not {prepared.profile.weight.dtype}")
    conversion = prepared.conversion()
    conversion.run()
    rounding = Compensated()
    for part in _parts(_inputs(prepared), budget):
        for value, products in _products(prepared, part, data):
            for plan in part[value]:
                name = conversion.name(plan.leaf)
                scales = conversion.source.scales(name, plan.leaf, plan.how)
                weight = conversion.source.data(name, plan.leaf)
                rounding.found[name, plan.how] = (compensated(weight, products, scales, plan.how), scales)
    return rounding


def _inputs(prepared: Prepared) -> dict[Value, list[Plan]]:
    """The weights of linear layers by what they are multiplied with."""
    placement = prepared.placement
    found: dict[Value, list[Plan]] = {}
    for (value, place), plan in placement.weights.items():
        if label(value.op) in ("linear", "matmul", "addmm") and plan.leaf.rank == 2:
            (data,) = (value.args[i] for i in placement.rows[value].inputs if i != place)
            found.setdefault(data, []).append(plan)
    return found


def _parts(found: dict[Value, list[Plan]], budget: int) -> Iterator[dict[Value, list[Plan]]]:
    part: dict[Value, list[Plan]] = {}
    total = 0
    for value, plans in found.items():
        size = 8 * value.shape[-1] ** 2
        if part and total + size > budget:
            yield part
            part, total = {}, 0
        part[value] = plans
        total += size
    if part:
        yield part


def _products(prepared: Prepared, values: Iterable[Value], data: Iterable[Any]) -> Iterator[tuple[Value, Array]]:
    """The sums of products of what layers take in, f64 ``[i i]``, each given away when it is asked for."""
    sums = {v: np.zeros((v.shape[-1],) * 2) for v in values}

    def see(value: Value, x: Array) -> None:
        rows = x.reshape(-1, x.shape[-1]).astype(np.float32, copy=False)
        sums[value] += rows.T @ rows

    runner = Watching(prepared.dag, prepared.framework, sums, see)
    calls = iter(prepared.calls(data))
    first = next(calls, None)
    if first is None:
        raise InputError("compensate: there is no data to see what weights are multiplied with")
    for call in chain([first], calls):
        prepared.call(runner, call)
    while sums:
        value = next(iter(sums))
        yield value, sums.pop(value)


def compensated(weight: Array, products: Array, scales: Affine, how: Weights) -> Array:
    """A weight of two dimensions as whole numbers; ``products``: sums over rows of what it is applied to, ``[i i]``.

    >>> from tdagger.quantization.profile import Numbers
    >>> how = Weights(Numbers("i8", symmetric=True, per="channel"), 0, 1)
    >>> alike = np.ones((2, 2))  # both inputs are always the same: one makes up for the other
    >>> compensated(np.float32([[0.4, 0.4]]), alike, Affine(np.float32([1]), None), how)
    array([[0, 1]], dtype=int8)
    """
    w = np.moveaxis(weight, how.channel, 0).astype(np.float64)
    scale, zero = (np.moveaxis(_spread(a, weight.shape, how), how.channel, 0) for a in scales)
    diagonal = np.diag(products)
    order = np.argsort(-diagonal, kind="stable")
    upper = _factor(products[np.ix_(order, order)])
    w, scale, zero = w[:, order], scale[:, order].astype(np.float64), zero[:, order].astype(np.float64)
    low, high = how.numbers.bounds
    codes = np.empty(w.shape)
    size = w.shape[1]
    for start in range(0, size, _COLUMNS):
        end = min(start + _COLUMNS, size)
        errors = np.empty((len(w), end - start))
        for i in range(start, end):
            codes[:, i] = np.clip(np.rint(w[:, i] / scale[:, i]) + zero[:, i], low, high)
            error = (w[:, i] - (codes[:, i] - zero[:, i]) * scale[:, i]) / upper[i, i]
            w[:, i + 1 : end] -= np.outer(error, upper[i, i + 1 : end])
            errors[:, i - start] = error
        w[:, end:] -= errors @ upper[start:end, end:]
    out = np.empty_like(codes)
    out[:, order] = codes
    return np.moveaxis(out, 0, how.channel).astype(how.numbers.grid.dtype.numpy)


def _factor(products: Array) -> Array:
    """The upper Cholesky factor of the inverse of the products, damped; inputs that are always 0 change nothing."""
    diagonal = np.diag(products)
    damping = _DAMPING * diagonal.mean() or 1.0
    inverse = np.linalg.inv(products + damping * np.eye(len(products)))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T


def _spread(of: Array | None, shape: tuple[int, ...], how: Weights) -> Array:
    """Scales or zero points for every entry of a weight."""
    each = np.zeros(()) if of is None else spread_array(np.asarray(of), shape, how.axis, how.block)
    return np.broadcast_to(each, shape)
