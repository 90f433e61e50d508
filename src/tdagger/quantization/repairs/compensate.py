"""Weights rounded column by column, each error made up for by the columns after it: what GPTQ does.

The error of a layer's results is ``d H d.T`` for a change d of a row of its weight and the mean products H of what it
takes in. Columns are rounded from the one with the largest inputs to the smallest; the weights that are left are
changed so that the error is the least they can make it.

Frantar et al. 2022 (arXiv:2210.17323). Numbers that were found so are gone through again where that is asked for, each
moved to where the error is the least with all others as they are, the objective of Nagel et al. 2020 (AdaRound,
arXiv:2004.10568).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.errors import AttributeValueError, InputError
from tdagger.graph import label
from tdagger.library.quantized import spread_array
from tdagger.op import Array, Value
from tdagger.quantization.placement import Plan
from tdagger.quantization.quality.local import Watching
from tdagger.quantization.repairs.windows import Windows
from tdagger.quantization.scales import Affine, Weights
from tdagger.quantization.weights import nearest

if TYPE_CHECKING:
    from tdagger.quantization.prepare import Prepared

#: What is added to the diagonal of the products, as a part of its mean: few examples don't tell all.
_DAMPING = 0.2
#: So often the columns are gone through for better numbers, at most.
_PASSES = 8
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
        #: The scales of each weight for what it is multiplied with, before they grow for a bias.
        self.scales: dict[tuple[str, Weights], Affine] = {}

    def __call__(self, weight: Array, name: str, scales: Affine, how: Weights) -> Array:
        codes = nearest(weight, name, scales, how)
        kept = self.found.get((name, how))
        if kept is None:
            return codes
        same = [
            _spread(a, weight.shape, how) == _spread(b, weight.shape, how) for a, b in zip(kept[1], scales, strict=True)
        ]
        return np.where(same[0] & same[1], kept[0], codes)


class Fed(NamedTuple):
    """What weights are multiplied with: a value, and for a convolution how its windows are taken from that."""

    value: Value
    windows: Windows | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the products: groups, and twice how many numbers are summed over."""
        if self.windows is None:
            return (1, self.value.shape[-1], self.value.shape[-1])
        groups, size = self.windows.groups, self.windows.size(self.value.shape)
        return groups, size, size


def compensate(prepared: Prepared, data: Iterable[Any], budget: int = BUDGET, adaptive: bool = False) -> Compensated:
    """The rounding of a prepared network's layers; ``data`` is run once for each ``budget`` bytes of products.

    ``adaptive``: :func:`adapted` after :func:`compensated`. Nothing but the whole numbers is kept of one run when the
    next begins.
    """
    if prepared.profile.weight.grid.is_float:
        raise AttributeValueError(f"errors are made up for among whole numbers, not {prepared.profile.weight.dtype}")
    rounding = Compensated()
    conversion = prepared.conversion()
    conversion.source.given = rounding.scales
    conversion.run()
    for part in _parts(_fed(prepared), budget):
        for fed, products in _products(prepared, part, data):
            for plan in part[fed]:
                name = conversion.name(plan.leaf)
                weight = conversion.source.data(name, plan.leaf)
                rounding.scales[name, plan.how] = plan.how.scales(weight, _counts(weight, products, plan.how))
                scales = conversion.source.scales(name, plan.leaf, plan.how)
                codes = _of_groups(compensated, weight, products, scales, plan.how)
                if adaptive:
                    codes = _of_groups(adapted, weight, products, scales, plan.how, codes)
                rounding.found[name, plan.how] = (codes, scales)
    return rounding


def _fed(prepared: Prepared) -> dict[Fed, list[Plan]]:
    """The weights of linear layers and convolutions by what they are multiplied with."""
    placement = prepared.placement
    found: dict[Fed, list[Plan]] = {}
    for (value, place), plan in placement.weights.items():
        name = label(value.op)
        if name in ("linear", "matmul", "addmm") and plan.leaf.rank == 2:
            windows = None
        elif name == "convolution" and plan.order == tuple(range(plan.leaf.rank)):
            windows = Windows.of(value)
        else:
            continue
        (data,) = (value.args[i] for i in placement.rows[value].inputs if i != place)
        found.setdefault(Fed(data, windows), []).append(plan)
    return found


def _parts(found: dict[Fed, list[Plan]], budget: int) -> Iterator[dict[Fed, list[Plan]]]:
    part: dict[Fed, list[Plan]] = {}
    total = 0
    for fed, plans in found.items():
        size = 8 * math.prod(fed.shape)
        if part and total + size > budget:
            yield part
            part, total = {}, 0
        part[fed] = plans
        total += size
    if part:
        yield part


def _products(prepared: Prepared, feds: Iterable[Fed], data: Iterable[Any]) -> Iterator[tuple[Fed, Array]]:
    """The sums of products of what layers take in, f64 ``[groups i i]``, each given away when it is asked for."""
    sums = {f: np.zeros(f.shape) for f in feds}
    by_value: dict[Value, list[Fed]] = {}
    for fed in sums:
        by_value.setdefault(fed.value, []).append(fed)

    def see(value: Value, x: Array) -> None:
        x = x.astype(np.float32, copy=False)
        for fed in by_value[value]:
            rows = x.reshape(1, -1, x.shape[-1]) if fed.windows is None else fed.windows.rows(x)
            sums[fed] += rows.transpose(0, 2, 1) @ rows

    runner = Watching(prepared.dag, prepared.framework, by_value, see)
    calls = iter(prepared.calls(data))
    first = next(calls, None)
    if first is None:
        raise InputError("compensate: there is no data to see what weights are multiplied with")
    for call in chain([first], calls):
        prepared.call(runner, call)
    while sums:
        fed = next(iter(sums))
        yield fed, sums.pop(fed)


def _counts(weight: Array, products: Array, how: Weights) -> Array:
    """How much the square of each number's error counts: the mean square of what it is multiplied with, damped."""
    squares = np.stack([np.diag(p) + _damping(p) for p in products])
    moved = np.moveaxis(weight, how.channel, 0)
    each = np.repeat(squares / squares.mean(), len(moved) // len(squares), 0)
    return np.moveaxis(each.reshape(moved.shape), 0, how.channel)


def _of_groups(
    rounded: Callable[..., Array], weight: Array, products: Array, scales: Affine, how: Weights, *codes: Array
) -> Array:
    """A weight as whole numbers, found for each group of its channels as a matrix: ``[channels i]``."""
    given = [weight, *(_spread(a, weight.shape, how) for a in scales), *codes]
    moved = [np.moveaxis(a, how.channel, 0) for a in given]
    flat = [a.reshape(len(a), -1) for a in moved]
    size = len(flat[0]) // len(products)
    found: list[Array] = []
    for i, group in enumerate(products):
        w, scale, zero, *start = [a[i * size : (i + 1) * size].astype(np.float64) for a in flat]
        found.append(rounded(w, group, scale, zero, how.numbers.bounds, *start))
    whole = np.concatenate(found).reshape(moved[0].shape)
    return np.moveaxis(whole, 0, how.channel).astype(how.numbers.grid.dtype.numpy)


def compensated(w: Array, products: Array, scale: Array, zero: Array, bounds: tuple[float, float]) -> Array:
    """A matrix ``[o i]`` as whole numbers; ``products``: sums over rows of what it is applied to, ``[i i]``.

    >>> w, ones = np.array([[0.4, 0.4]]), np.ones((1, 2))
    >>> alike = np.ones((2, 2))  # both inputs are always the same: one makes up for the other
    >>> compensated(w, alike, ones, 0 * ones, (-128, 127))
    array([[0., 1.]])
    """
    diagonal = np.diag(products)
    order = np.argsort(-diagonal, kind="stable")
    upper = _factor(products[np.ix_(order, order)])
    w, scale, zero = w[:, order], scale[:, order], zero[:, order]
    codes = np.empty(w.shape)
    size = w.shape[1]
    for start in range(0, size, _COLUMNS):
        end = min(start + _COLUMNS, size)
        errors = np.empty((len(w), end - start))
        for i in range(start, end):
            codes[:, i] = np.clip(np.rint(w[:, i] / scale[:, i]) + zero[:, i], *bounds)
            error = (w[:, i] - (codes[:, i] - zero[:, i]) * scale[:, i]) / upper[i, i]
            w[:, i + 1 : end] -= np.outer(error, upper[i, i + 1 : end])
            errors[:, i - start] = error
        w[:, end:] -= errors @ upper[start:end, end:]
    out = np.empty_like(codes)
    out[:, order] = codes
    return out


def adapted(w: Array, products: Array, scale: Array, zero: Array, bounds: tuple[float, float], codes: Array) -> Array:
    """Whole numbers from which no number alone can be moved to a better one: AdaRound's objective, by coordinates.

    Each pass goes through the columns and gives each its best numbers, given all others; none makes the error larger.
    """
    damped = products + _damping(products) * np.eye(len(products))
    away = w - (codes - zero) * scale
    for _ in range(_PASSES):
        gradient = away @ damped
        moved = 0
        for start in range(0, w.shape[1], _COLUMNS):
            part = slice(start, min(start + _COLUMNS, w.shape[1]))
            before = away[:, part].copy()
            for i in range(part.start, part.stop):
                best = w[:, i] - away[:, i] + gradient[:, i] / damped[i, i]
                new = np.clip(np.rint(best / scale[:, i]) + zero[:, i], *bounds)
                moved += int(np.count_nonzero(new != codes[:, i]))
                codes[:, i] = new
                change = w[:, i] - (new - zero[:, i]) * scale[:, i] - away[:, i]
                away[:, i] += change
                gradient[:, part] += np.outer(change, damped[i, part])
            gradient[:, part.stop :] += (away[:, part] - before) @ damped[part, part.stop :]
        if not moved:
            break
    return codes


def _damping(products: Array) -> float:
    return float(_DAMPING * np.diag(products).mean()) or 1.0


def _factor(products: Array) -> Array:
    """The upper Cholesky factor of the inverse of the products, damped; inputs that are always 0 change nothing."""
    inverse = np.linalg.inv(products + _damping(products) * np.eye(len(products)))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T


def _spread(of: Array | None, shape: tuple[int, ...], how: Weights) -> Array:
    """Scales or zero points for every entry of a weight."""
    each = np.zeros(()) if of is None else spread_array(np.asarray(of), shape, how.axis, how.block)
    return np.broadcast_to(each, shape)
