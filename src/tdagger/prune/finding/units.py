"""Units: the entries that can only go together, found of the factors of a network and the ties between them.

Every factor that isn't split has its entries numbered in one row of all entries. Ties between two entries make them one
*class* (vectorised: labels are lowered along all ties at once until nothing changes). A tie between an entry and a
product is no such thing: the entry is there if the entry of *each* factor of the product is, so it *depends* on them.
What can be removed are the classes that depend on none: removing one takes all with it that depends on it.

Where an entry depends on two different products, the smaller factor of each is kept whole until one tells: that is less
than could be removed, and never too much.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.op import Array
from tdagger.prune.finding.entries import Entries
from tdagger.prune.finding.factors import Block, Factor, Term, columns


class Units:
    """The classes of all entries: ``of[entry]``, which of them are ``fixed``, and what depends on what."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        roots = dict.fromkeys(f for factor in entries.all for f in resolve((factor,)))
        self.factors: list[Factor] = list(roots)
        self.count = 0
        for factor in self.factors:
            factor.number = self.count
            self.count += factor.size
        self.fixed: Array = np.zeros(self.count, bool)
        self.of: Array = np.arange(self.count)
        #: Rows of (class, classes it depends on), -1 where there are fewer.
        self.dependent: Array = np.zeros((0, 1), np.int64)
        self._sides = [
            (columns(resolve((t.factor,)), t.places), columns(resolve(t.term)), resolve((t.factor,)), resolve(t.term))
            for t in entries.ties
        ]
        while not self._settled():
            pass

    def _whole(self, term: Term) -> list[int]:
        """Which factors of a term may lose entries."""
        return [i for i, f in enumerate(term) if f.block is None]

    def _settled(self) -> bool:
        """Find classes and dependents; False if factors had to be kept whole to tell, and all is to be done again."""
        blocked = [f for f in self.factors if f.block is not None]
        self.fixed[:] = False
        for f in blocked:
            self.fixed[f.number : f.number + f.size] = True
        plain: list[Array] = []
        products: list[tuple[Array, Array, Term]] = []
        changed = False
        for left, right, one, other in self._sides:
            a, b = self._whole(one), self._whole(other)
            if len(a) < len(b):
                a, b, left, right, one, other = b, a, right, left, other, one
            if not b:
                self.fixed[left[:, a].reshape(-1)] = True
            elif len(a) == 1:
                plain.append(np.stack([left[:, a[0]], right[:, b[0]]], 1))
            elif len(b) == 1:
                products.append((right[:, b[0]], left[:, a], tuple([one[i] for i in a])))
            elif [one[i].size for i in a] == [other[i].size for i in b]:
                plain += [np.stack([left[:, i], right[:, j]], 1) for i, j in zip(a, b, strict=True)]
            else:
                changed |= _keep_smallest([one[i] for i in a])
                changed |= _keep_smallest([other[i] for i in b])
        if changed:
            return False
        self.of = _connected(self.count, plain)
        spread = np.zeros(self.count, bool)
        np.logical_or.at(spread, self.of, self.fixed)
        self.fixed = spread[self.of]
        return self._depend(products) and self._whole_ones()

    def _whole_ones(self) -> bool:
        """Block the factors none of whose entries can go: False if there are such."""
        settled = True
        for f in self.factors:
            if f.block is None and self.fixed[f.number : f.number + f.size].all():
                f.block = self._reason(f)
                settled = False
        return settled

    def _reason(self, factor: Factor) -> Block:
        """Why a factor's entries stay: what another factor with the same entries says."""
        classes = set(self.of[factor.number : factor.number + factor.size].tolist())
        for other in self.factors:
            if other.block is not None and not classes.isdisjoint(self.of[other.number : other.number + other.size]):
                return other.block
        return Block(None, "holds entries that are taken one by one")

    def _depend(self, products: list[tuple[Array, Array, Term]]) -> bool:
        if not products:
            self.dependent = np.zeros((0, 1), np.int64)
            return True
        width = max(p[1].shape[1] for p in products)
        rows: list[Array] = []
        owner: list[Array] = []
        for i, (entry, labels, _) in enumerate(products):
            wide = np.full((len(entry), width + 1), -1, np.int64)
            wide[:, 0] = self.of[entry]
            wide[:, 1 : 1 + labels.shape[1]] = np.sort(self.of[labels], 1)
            rows.append(wide)
            owner.append(np.full(len(entry), i))
        table, owners = np.concatenate(rows), np.concatenate(owner)
        stuck = self.fixed[table[:, 0]]
        if stuck.any():  # an entry that stays keeps all it depends on
            for i in cast(list[int], np.unique(owners[stuck]).tolist()):
                for factor in products[i][2]:
                    factor.block = factor.block or Block(None, "is of entries that stay")
            return False
        order = np.lexsort(table.T[::-1])
        table, owners = table[order], owners[order]
        new = np.ones(len(table), bool)
        new[1:] = (table[1:] != table[:-1]).any(1)
        unlike = np.zeros(len(table), bool)
        unlike[1:] = (table[1:, 0] == table[:-1, 0]) & new[1:]
        unlike[:-1] |= unlike[1:]
        unlike |= (table[:, 1:] == table[:, :1]).any(1)
        if unlike.any():
            mixed = cast(list[int], np.unique(owners[unlike]).tolist())
            found = {f for i in mixed for f in products[i][2]}
            _keep_smallest(list(found))
            return False
        self.dependent = table[new]
        return True

    # What follows from what is removed.

    @property
    def free(self) -> Array:
        """The classes that can be removed: those that aren't fixed and depend on nothing."""
        classes = np.unique(self.of[~self.fixed])
        return classes[~np.isin(classes, self.dependent[:, 0])]

    def removed(self, classes: Array) -> Array:
        """For every entry, whether it goes where these classes go."""
        gone = np.zeros(self.count + 1, bool)  # the last is that of -1: never gone
        gone[classes] = True
        while len(self.dependent):
            also = self.dependent[gone[self.dependent[:, 1:]].any(1), 0]
            if gone[also].all():
                break
            gone[also] = True
        return gone[:-1][self.of]

    def roots(self, factor: Factor) -> Array:
        """The free classes that each entry of a factor goes with: ``[n, k]``, -1 where there are fewer."""
        found = self.of[factor.number : factor.number + factor.size][:, None]
        if not len(self.dependent):
            return found
        table = self._depends
        while (deeper := table[found, 0] >= 0).any():
            new = table[found]
            new[..., 0] = np.where(deeper, new[..., 0], found)
            found = new.reshape(len(found), -1)
            found = found[:, (found >= 0).any(0)]
        return found

    @cached_property
    def _depends(self) -> Array:
        """For every class those it depends on, -1 where there are fewer, and in the last row: made once for all."""
        table = np.full((self.count + 1, self.dependent.shape[1] - 1), -1, np.int64)
        table[self.dependent[:, 0]] = self.dependent[:, 1:]
        return table

    def kept(self, term: Term, removed: Array) -> Array:
        """For every entry of a dimension, whether it stays."""
        found = np.ones(1, bool)
        for factor in resolve(term):
            if factor.number < 0:  # of a body that was looked into later, and in no dimension outside
                found = np.repeat(found, factor.size)
            else:
                own = ~removed[factor.number : factor.number + factor.size]
                found = np.logical_and.outer(found, own).reshape(-1)
        return found


def _keep_smallest(found: list[Factor]) -> bool:
    """Keep the factors of the least size whole."""
    least = min(f.size for f in found)
    for factor in found:
        if factor.size == least:
            factor.block = Block(None, "is a factor of a dimension that is taken in two ways")
    return True


def _connected(count: int, pairs: list[Array]) -> Array:
    """The least number that every one of ``count`` is connected to by pairs."""
    label = np.arange(count)
    if not pairs:
        return label
    ends = np.concatenate(pairs)
    a, b = ends[:, 0], ends[:, 1]
    while True:  # each round at least halves the length of what is still to be found
        low = np.minimum(label[a], label[b])
        new = label.copy()
        np.minimum.at(new, label[a], low)
        np.minimum.at(new, label[b], low)
        while not np.array_equal(shorter := new[new], new):
            new = shorter
        if np.array_equal(new, label):
            return cast(Any, label)
        label = new
