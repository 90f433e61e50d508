"""Removed entries as the constants that they would be, and the biases of the smaller network that those go into.

A channel whose filter is zero still carries its bias, the shift of its norm, or what an activation makes of 0. With
``constants="fold"`` the network that a smaller one equals is the one in which that stays: of a unit's parameters only
those are zero that would let inputs through (a filter, the scale of a norm), and what the constants are to the
entries that stay is added to a parameter which is added there anyway, or to a new one. Found with the rules of the
core ops (:mod:`tdagger.prune.removing.known`), for any network.

Where that isn't a number that can be added (a constant that is padded with zeros differs at borders, an activation
of a sum that isn't a layer's) it is told: :attr:`Constants.inexact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import is_one, result_types
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, Leaf, Parameter
from tdagger.prune.finding.entries import is_norm
from tdagger.prune.removing.known import Known, Walk, gone_of, number, unknown
from tdagger.prune.removing.removal import Removal
from tdagger.tensordag import TensorDAG

#: Uses of parameters of which removed entries are zero: ``(value, argument)``, and along which dimensions.
Masked = dict[tuple[Value, int], tuple[int, ...]]


class Constants:
    """What removed entries are, and where that goes, of a network and what of it is removed."""

    def __init__(self, dag: TensorDAG, removal: Removal) -> None:
        missing = [n for n in dag.graph.parameters if n not in dag.weights]
        if missing:
            raise InputError(f"prune: constants can't be folded without weights: {missing[0]!r} has no data")
        self.dag, self.removal = dag, removal
        self.scope = removal.units.entries.scope
        self.users = dag.graph.users
        self.masked: Masked = {}
        #: Parameters that get other numbers, in double precision, of the size they had.
        self.weights: dict[str, Array] = {}
        #: Values to which something is added, and what they miss in any way: of their own shape or with ones.
        self.added: dict[Value, Array] = {}
        self.missed: dict[Value, Array] = {}
        #: Values that don't equal those of the network with constants, and why.
        self.inexact: dict[Value, str] = {}
        #: What became of the network's values before anything was added to them.
        self.plain: dict[Value, Any] = {}
        self.known: dict[Value, Any] = {}
        self._state: dict[Value, Any] = {}
        returned = {*dag.graph.outputs.values(), *dag.graph.updates.values()}
        for value in dag.graph.values:
            if value in self.scope.state:  # what goes of weights that weights are made of counts as zero
                own = {(value, i): self._axes(value, i) for i, a in enumerate(value.args) if _is_parameter(a)}
                self.masked |= {use: axes for use, axes in own.items() if axes}
        for value in dag.graph.values:
            if self._is_state(value) or isinstance(value.op, Leaf) or not self._touched(value):
                continue
            self._visit(value, value in returned)

    # What goes in.

    def _is_state(self, value: Value) -> bool:
        return value in self.scope.state or value not in self.scope.terms

    def keeps(self, value: Value, i: int) -> list[Array | None]:
        """Which entries of an argument's dimensions stay."""
        return [self.removal.kept(t) for t in self.scope.at(value, i)]

    def _touched(self, value: Value) -> bool:
        terms = [self.scope.at(value, i) for i, a in enumerate(value.args) if is_one(a) and self._has_terms(value, i)]
        return any(self.removal.kept(t) is not None for t in chain(*terms, *self.scope.of(value))) or any(
            k.misses for a in value.args for k in _each(self.known.get(a, ()))
        )

    def _has_terms(self, value: Value, i: int) -> bool:
        return value.args[i] in self.scope.terms or (value, i) in self.scope.uses

    def _argument(self, value: Value, i: int) -> Any:
        arg = value.args[i]
        if not is_one(arg):
            return self.known.get(arg) or tuple([unknown(t) for t in result_types(arg)])
        gone = gone_of(self.keeps(value, i)) if self._has_terms(value, i) else None
        found: Known = self._of_state(arg) if self._is_state(arg) else self.known.get(arg) or unknown(arg.type)
        return found if gone is None else replace(found, gone=gone)

    def _of_state(self, value: Value) -> Any:
        """What is made of parameters, buffers and constants alone; of leaves anew for each that takes them."""
        if isinstance(value.op, Leaf):
            return self._leaf(value)
        stack = [value]
        while stack:
            v = stack[-1]
            todo = [a for a in v.args if a not in self._state and not isinstance(a.op, Leaf)]
            if todo and v not in self._state:
                stack += todo
                continue
            stack.pop()
            if v not in self._state:
                self._state[v] = self._made(v)
        return self._state[value]

    def _made(self, value: Value) -> Any:
        args = [
            self._with_zeros(value, i, self._of_state(a), self.masked.get((value, i), ()))
            for i, a in enumerate(value.args)
        ]
        return _without_missing(Walk().after(value, args))

    def _leaf(self, value: Value) -> Known:
        op = cast(Leaf, value.op)
        if isinstance(op, Input) or op.leaf not in self.dag.weights:
            return unknown(value.type)
        keeps = [self.removal.kept(t) for t in self.scope.terms.get(value, ())]
        return number(np.asarray(self.dag.weights[op.leaf]), gone_of(keeps) if keeps else None)

    # What becomes of it.

    def _visit(self, value: Value, returned: bool) -> None:
        args = [self._argument(value, i) for i in range(len(value.args))]
        mask = self._mask(value, args)
        args = [self._with_zeros(value, i, a, mask.get(i, ())) for i, a in enumerate(args)]
        result = self._after(value, args)
        if _is_lost(result):  # where constants can't be told, they count as zero
            zero = {i: axes for i in range(len(args)) if (axes := self._axes(value, i))}
            again = [self._with_zeros(value, i, a, zero.get(i, ())) for i, a in enumerate(args)]
            other = self._after(value, again)
            if not _is_lost(other):
                args, mask, result = again, zero, other
        self.masked |= {(value, i): axes for i, axes in mask.items()}
        if _is_lost(result):
            self.inexact[value] = "takes in constants"
            result = _without_missing(result)
        elif any(k.has_borders for k in _each(result)):
            self.inexact[value] = "pads constants with another number"
        result = self.known[value] = _without_borders(result)
        if not isinstance(result, Known) or not result.misses:
            return
        self.missed[value] = result.missing
        if self._into_leaf(value, args, result.missing):
            self.known[value] = _without_missing(result)
        elif returned or not self._carries(value):
            self.added[value] = result.missing
            self.known[value] = _without_missing(result)

    def _axes(self, value: Value, i: int) -> tuple[int, ...]:
        """The dimensions of an argument that lose entries."""
        if not is_one(value.args[i]) or not self._has_terms(value, i):
            return ()
        return tuple([axis for axis, kept in enumerate(self.keeps(value, i)) if kept is not None])

    def _after(self, value: Value, args: Sequence[Any]) -> Any:
        """What is known of a value, where nothing is missing of what goes."""
        found = Walk().after(value, args)
        out: list[Known] = []
        for k, terms in zip(_each(found), self.scope.of(value), strict=True):
            gone = gone_of([self.removal.kept(t) for t in terms])
            out.append(replace(k, gone=gone, missing=np.where(gone, 0.0, k.missing) if k.misses else k.missing).flat())
        return out[0] if isinstance(found, Known) else tuple(out)

    def _mask(self, value: Value, args: Sequence[Any]) -> dict[int, tuple[int, ...]]:
        """Of which parameters removed entries are zero, and along which dimensions: as few as stop all inputs.

        A bias and the columns of a weight stay, its rows don't; none where none stops them. What goes of a weight that
        is made of weights counts as zero.
        """
        made = {i: self._axes(value, i) for i, a in enumerate(value.args) if self.scope.is_last(a, value)}
        made = {i: axes for i, axes in made.items() if axes}
        places = [
            (i, axis)
            for i, a in enumerate(value.args)
            if self.scope.state.get(a) and i not in made
            for axis in self._axes(value, i)
        ]
        if not places or not any(self.removal.kept(t) is not None for t in chain(*self.scope.of(value))):
            return made
        blind = [
            a if self._is_state(v) else unknown(v.type, a.gone) if isinstance(a, Known) else _blind(v)
            for v, a in zip(value.args, args, strict=True)
        ]
        everything = _by_argument(places)
        own = [{i: axes} for i, axes in everything.items()]
        for mask in ({}, *[_by_argument([p]) for p in places], *own, everything):
            mask = made | mask
            masked = [self._with_zeros(value, i, a, mask.get(i, ())) for i, a in enumerate(blind)]
            if all(bool((k.sure | ~k.gone).all()) for k in _each(self._after(value, masked))):
                return mask
        return made

    def _with_zeros(self, value: Value, i: int, known: Any, axes: Sequence[int]) -> Any:
        if not axes:
            return known
        gone = gone_of([k if axis in axes else None for axis, k in enumerate(self.keeps(value, i))])
        zero = np.zeros((), known.number.dtype)
        return replace(known, number=np.where(gone, zero, known.number), sure=known.sure | gone)

    def _carries(self, value: Value) -> bool:
        """Whether the one that takes a value adds a parameter into which it goes: a norm after a convolution."""
        users = self.users[value]
        if len(users) != 1 or any(a is not value and not self._is_state(a) for a in users[0].args):
            return False
        user = users[0]
        args = [self._argument(user, i) for i in range(len(user.args))]
        mask = self._mask(user, args)
        result = self._after(user, [self._with_zeros(user, i, a, mask.get(i, ())) for i, a in enumerate(args)])
        if not isinstance(result, Known) or _is_lost(result):
            return False
        return not result.misses or self._into_leaf(user, args, result.missing, try_only=True)

    def _into_leaf(self, value: Value, args: Sequence[Any], missing: Array, try_only: bool = False) -> bool:
        """Add what is missing to a vector that the op adds, if there is one that is nobody else's."""
        leaves = [i for i, a in enumerate(value.args) if isinstance(a.op, Parameter | Buffer) and a.rank == 1]
        for i in sorted(leaves, key=lambda i: isinstance(value.args[i].op, Buffer)):
            leaf = value.args[i]
            name = cast(Leaf, leaf.op).leaf
            if self.users[leaf] != [value] or name in self.dag.graph.updates or name in self.weights:
                continue
            times = response(value, args, i)
            if times is None:
                continue
            flat, kept = _along(missing, times), ~np.broadcast_to(args[i].gone, leaf.shape)
            if flat is None or ((times.reshape(-1) == 0) & (flat != 0) & kept).any():
                continue
            if not try_only:
                more = np.divide(flat, times.reshape(-1), out=np.zeros(leaf.shape), where=(flat != 0) & kept)
                self.weights[name] = np.asarray(self.dag.weights[name]).astype(np.float64) + more
            return True
        return False

    # What is said.

    def why(self) -> list[str]:
        """Where the smaller network isn't the one with constants."""
        return [f"{v.op.name} {how}{self.removal.where(v)}" for v, how in self.inexact.items() if not is_norm(v)]


def _is_parameter(value: Value) -> bool:
    return isinstance(value.op, Parameter)


def _each(known: Any) -> tuple[Known, ...]:
    return (known,) if isinstance(known, Known) else known


def _is_lost(known: Any) -> bool:
    """Whether what is missing can't be told, lies in several results, or isn't a vector along one dimension."""
    if any(k.lost for k in _each(known)):
        return True
    if not isinstance(known, Known):
        return any(k.misses for k in known)
    return known.misses and sum(n > 1 for n in known.missing.shape) > 1


def _blind(value: Value) -> tuple[Known, ...]:
    return tuple([unknown(t) for t in result_types(value)])


def _without_borders(known: Any) -> Any:
    found = [replace(k, edge=np.zeros((1,) * k.edge.ndim, bool)) for k in _each(known)]
    return found[0] if isinstance(known, Known) else tuple(found)


def _without_missing(known: Any) -> Any:
    found = [replace(k, missing=np.zeros((1,) * k.missing.ndim)) for k in _each(known)]
    return found[0] if isinstance(known, Known) else tuple(found)


def _by_argument(places: Sequence[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    out: dict[int, tuple[int, ...]] = {}
    for i, axis in places:
        out[i] = (*out.get(i, ()), axis)
    return out


def response(value: Value, args: Sequence[Any], i: int) -> Array | None:
    """How much of a vector that is an argument is added to an op's result, entry by entry: None if it isn't added."""
    if not is_one(value) or not all(isinstance(a, Known) for a in args):
        return None
    size = value.args[i].shape[0]
    found: list[Array] = []
    for seed in (1, 2):
        more = np.random.default_rng(seed).uniform(1, 2, size)
        blind = [
            replace(a, gone=np.zeros_like(a.gone), missing=np.zeros((1,) * v.rank))
            if isinstance(v.op, Leaf) and not isinstance(v.op, Input)
            else unknown(v.type)
            for v, a in zip(value.args, args, strict=True)
        ]
        blind[i] = replace(blind[i], missing=more)
        out = Walk().after(value, blind).missing
        if np.isnan(out).any() or out.size != size:
            return None
        found.append(out / more.reshape(out.shape))
    return found[0] if np.allclose(*found, rtol=1e-9, atol=0) else None


def _along(missing: Array, like: Array) -> Array | None:
    """What is missing as a vector along the dimension in which ``like`` is one; None if it has others."""
    try:
        return np.broadcast_to(missing, like.shape).reshape(-1)
    except ValueError:
        return None


def kept_of(constants: Constants, value: Value, array: Array) -> Array:
    """Of an array of a value's shape, or with ones, what stays."""
    for axis, term in enumerate(constants.scope.terms[value]):
        kept = constants.removal.kept(term)
        if kept is not None and array.shape[axis] > 1:
            array = array.compress(kept, axis)
    return array
