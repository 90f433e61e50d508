"""What a network costs where its factors have fewer entries: polynomials in their sizes, evaluated for all at once.

Every core op's operations are a number times the entries of its dimensions, and a dimension is a product of factors,
so the flops of a network are a sum of products of sizes. Sizes that can't change are part of the number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.op import Array
from tdagger.prune.finding.factors import Factor, Terms


class Polynomial:
    """``constant + sum of coefficient * product of the sizes of factors``.

    >>> from tdagger.prune.finding.factors import Factor
    >>> a, b = Factor(4), Factor(8)
    >>> cost = Polynomial([(2, ((a,), (b,))), (1, ((a,),))], [a, b], constant=1)
    >>> cost(np.array([4, 8])), cost(np.array([2, 8]))
    (69.0, 35.0)
    """

    def __init__(self, work: Iterable[tuple[float, Terms]], factors: list[Factor], constant: float = 0) -> None:
        number = {f: i for i, f in enumerate(factors)}
        found: dict[tuple[int, ...], float] = {}
        for times, terms in work:
            key: list[int] = []
            for term in terms:
                for factor in resolve(term):
                    if factor.block is None:
                        key.append(number[factor])
                    else:
                        times *= factor.size
            index = tuple(sorted(key))
            found[index] = found.get(index, 0) + times
        self.constant = constant + found.pop((), 0)
        width = max(map(len, found), default=0)
        self.index: Array = np.full((len(found), width), len(factors), np.int64)
        for row, places in zip(self.index, found, strict=True):
            row[: len(places)] = places
        self.coefficients: Array = np.array(list(found.values()), float)

    def __call__(self, sizes: Array) -> float:
        """The cost where the factors have so many entries."""
        wide = np.append(np.asarray(sizes, float), 1.0)
        return float(self.constant + self.coefficients @ wide[self.index].prod(1))

    def gradient(self, sizes: Array) -> Array:
        """What one more entry of each factor costs."""
        wide = np.append(np.asarray(sizes, float), 1.0)
        each = wide[self.index]
        out = np.zeros(len(wide))
        for column in range(self.index.shape[1]):
            rest = np.delete(each, column, 1).prod(1)
            np.add.at(out, self.index[:, column], self.coefficients * rest)
        return cast(Any, out[:-1])
