"""How much the units of a group matter: small functions of what they hold.

An importance is a function of a :class:`Weighed` group that gives a number for each of its units; the least important
go first. Units of different groups are compared by the part of their group that they are, over what they free
(:mod:`tdagger.prune.choose`), whatever importances are of: those of one loss too have a level in each group that says
more of how it was measured (batches, how often a unit is used) than of what goes with all of it. Where learned masks
begin, changes of one loss (Taylor, OBD: a function with ``of_loss``) are compared as they are; training corrects that.

>>> import numpy as np
>>> def smallest_row(group):
...     return np.min([np.abs(rows).max(1) for rows in group.rows()], axis=0)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tdagger.errors import AttributeValueError, InputError
from tdagger.op import Array
from tdagger.prune.finding.groups import Group, Member


@dataclass(frozen=True)
class Weighed:
    """A group and the weights its units lie in, of the network ``weights``; read when asked for."""

    group: Group
    weights: Mapping[str, Array]

    @property
    def size(self) -> int:
        """How many units there are."""
        return self.group.size

    def data(self, member: Member) -> Array:
        """The parameter of a member; InputError if it has no data."""
        if member.name not in self.weights:
            raise InputError(
                f"importance: the parameter {member.name!r} has no data; plan with importance='random' or entries="
            )
        data = np.asarray(self.weights[member.name])
        return data.astype(np.float32) if data.dtype.itemsize < 4 else data

    def sums(self, function: Callable[[str, Array], Array]) -> Array:
        """The sum of ``function(name, data)`` over what each unit holds, all members together: f64 ``[size]``."""
        out = np.zeros(self.size)
        for member in self.group.members:
            out += member.sums(function(member.name, self.data(member)), self.size)
        return out

    def squares(self) -> Array:
        """The sum of squares of what each unit holds: f64 ``[size]``, without a copy of the weights."""
        out = np.zeros(self.size)
        for member in self.group.members:
            data = self.data(member)
            axes = list(range(data.ndim))
            out += member.each_sum(np.einsum(data, axes, data, axes, [member.axis]), self.size)
        return out

    def rows(self, axis: int | None = None) -> Iterator[Array]:
        """What each unit holds of every member (of those at dimension ``axis``) as a row: ``[size, n]``."""
        for member in self.group.members:
            if axis is None or member.axis == axis:
                found = member.rows(self.data(member), self.size)
                if found is not None:
                    yield found


#: Gives a number for each unit of a group: ``[size]``.
Importance = Callable[[Weighed], Array]


def l1(group: Weighed) -> Array:
    """The sum of absolute values of all that a unit holds."""
    return group.sums(lambda name, w: np.abs(w))


def l2(group: Weighed) -> Array:
    """The Euclidean norm of all that a unit holds."""
    return np.sqrt(group.squares())


def lamp(group: Weighed) -> Array:
    """Squares over the sum of those that are no smaller, which compares groups with each other: arXiv:2010.07611."""
    squares = group.squares()
    order = np.argsort(squares, kind="stable")
    after = np.cumsum(squares[order][::-1])[::-1]
    out = np.empty_like(squares)
    out[order] = squares[order] / np.where(after > 0, after, 1)
    return out


def fpgm(group: Weighed) -> Array:
    """How far a unit is from all others of its group, added up: arXiv:1811.00250."""
    out = np.zeros(group.size)
    for rows in group.rows(0):
        x = rows.astype(np.float64)
        squares = (x * x).sum(1)
        out += np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)).sum(1)
    return out


def scale(group: Weighed) -> Array:
    """The absolute scales of the norms a unit goes through, the one-dimensional parameters called ``weight``.

    arXiv:1708.06519. A group that has none is measured by :func:`l2`.
    """
    members = [m for m in group.group.members if m.name.endswith("weight") and group.data(m).ndim == 1]
    if not members:
        return l2(group)
    return np.sum([m.sums(np.abs(group.data(m)), group.size) for m in members], axis=0)


def random(group: Weighed) -> Array:
    """Numbers that depend on the group's name alone."""
    return np.random.default_rng(zlib.crc32(group.group.name.encode())).random(group.size)


@dataclass(frozen=True)
class OfLoss:
    """An importance that is a change of the loss: see above."""

    function: Importance
    of_loss: bool = True

    def __call__(self, group: Weighed) -> Array:
        return self.function(group)


def taylor(gradients: Mapping[str, Array] | Sequence[Mapping[str, Array]]) -> Importance:
    """How much the loss changes to first order without a unit: ``|sum of weight * gradient|``: arXiv:1906.10771.

    ``gradients`` has the gradient of the loss by the name of the parameter, of the parameter's shape. Of several
    batches, a sequence, it is the root of the mean square: where training ended, gradients of all data add up to 0.
    """
    each = [gradients] if isinstance(gradients, Mapping) else list(gradients)
    if not each:
        raise InputError("importance: taylor needs the gradients of at least one batch")

    def importance(group: Weighed) -> Array:
        sums = [group.sums(partial(_times, found)) for found in each]
        return np.sqrt(np.mean(np.square(sums), 0))

    return OfLoss(importance)


def _times(gradients: Mapping[str, Array], name: str, weight: Array) -> Array:
    return weight * _of(gradients, name, weight)


def obd(curvature: Mapping[str, Array]) -> Importance:
    """How much the loss changes to second order: ``sum of weight**2 * curvature / 2``, as Optimal Brain Damage has it.

    ``curvature`` is the diagonal of the loss's second derivative by the name of the parameter; the mean of squared
    gradients is the usual estimate.
    """

    def importance(group: Weighed) -> Array:
        return group.sums(lambda name, w: np.square(w, dtype=np.float64) * _of(curvature, name, w) / 2)

    return OfLoss(importance)


def _of(given: Mapping[str, Array], name: str, like: Array) -> Array:
    if name not in given:
        raise InputError(
            f"importance: there is nothing for the parameter {name!r}; there is {', '.join(given) or 'nothing'}"
        )
    found = np.asarray(given[name])
    if found.shape != like.shape:
        raise InputError(f"importance: {name!r} has the shape {list(like.shape)}, what is given {list(found.shape)}")
    return found


#: Those that need nothing but weights, by name.
IMPORTANCES: dict[str, Importance] = {
    "l1": l1, "l2": l2, "lamp": lamp, "fpgm": fpgm, "scale": scale, "random": random,
}  # fmt: skip


def importance_of(what: str | Importance) -> Importance:
    """The importance of a name; AttributeValueError if there is none."""
    if callable(what):
        return what
    if what not in IMPORTANCES:
        raise AttributeValueError(f"there is no importance {what!r}; there are {', '.join(IMPORTANCES)}, or a function")
    return IMPORTANCES[what]


#: What a group's numbers are divided by, where groups are to be compared by importance alone.
NORMALISE: dict[str, Callable[[Array], float]] = {
    "mean": lambda x: float(x.mean()) or 1.0,
    "max": lambda x: float(x.max()) or 1.0,
    "sum": lambda x: float(x.sum()) or 1.0,
    "none": lambda x: 1.0,
}
