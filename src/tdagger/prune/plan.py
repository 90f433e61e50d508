"""A plan of what goes, the network without it, and the proof that it computes the same."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.analysis.time.timing import device_of, predict
from tdagger.errors import AttributeValueError, GraphError
from tdagger.op import Array
from tdagger.prune.amounts import Amount, amount_of
from tdagger.prune.choose import NEAR, Ranked, Slopes, lost, to_target
from tdagger.prune.finding.groups import Group, Prunable, prunable
from tdagger.prune.importance import NORMALISE, Importance, Weighed, importance_of
from tdagger.prune.methods.gates import costs_of
from tdagger.prune.removing.apply import without
from tdagger.prune.removing.check import Check, checked, without_what_adds_nothing
from tdagger.prune.removing.folding import Folded, folded
from tdagger.prune.removing.proof import checked_constants
from tdagger.prune.removing.removal import Removal
from tdagger.tensordag import TensorDAG

#: What a target may be of: a part of what there was (0.5, "50%"), or a number ("2G", "3 ms").
TARGETS = ("flops", "params", "bytes", "time", "ratio")


class Row(NamedTuple):
    """What becomes of a group."""

    group: Group
    removed: int

    @property
    def left(self) -> int:
        """The units that stay."""
        return self.group.size - self.removed


@dataclass(frozen=True, eq=False)
class PrunePlan:
    """What goes of a network: ``rows`` has for each group how many units, ``units`` which ones, by the group's name.

    No weight is copied before :meth:`apply`. ``before`` and ``after`` are flops, parameters and bytes; ``after`` is
    counted in the smaller network, without what ``constants="fold"`` adds.
    ``closed`` is the network with the branches that ``dag`` is without, each multiplied by 0; None if it is whole.
    """

    dag: TensorDAG
    found: Prunable
    units: Mapping[str, Array]
    keep_numbers: bool = False
    constants: str = "zero"
    closed: TensorDAG | None = None

    @cached_property
    def gone(self) -> Array:
        """For every entry there is whether it goes."""
        classes = [self.found[name].classes[units] for name, units in self.units.items()]
        return self.found.units.removed(np.concatenate(classes) if classes else np.zeros(0, np.int64))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every group, and how many of its units go."""
        return tuple([Row(g, len(self.units.get(g.name, ()))) for g in self.found.groups])

    @cached_property
    def before(self) -> dict[str, float]:
        """Flops, parameters and bytes of the network."""
        return {name: cost(self.found.sizes) for name, cost in self.found.cost.items()}

    @cached_property
    def after(self) -> dict[str, float]:
        """Flops, parameters and bytes of the smaller network."""
        small = self._zeroed[0]
        types = [w.type for w in small.state.values() if w.is_parameter and not w.alias_of]
        return {
            "flops": float(small.graph.total_flops()),
            "parameters": float(sum(t.size for t in types)),
            "bytes": float(sum(t.size * t.dtype.bytes for t in types)),
        }

    @property
    def why(self) -> tuple[str, ...]:
        """Why the smaller network isn't the one with zeros in the place of what goes; nothing if it is."""
        if self.constants == "zero":
            return self.found.why(self.gone, self.keep_numbers)[0]
        counted = self.found.why(self.gone, self.keep_numbers, constants=True)[0]
        return tuple(dict.fromkeys([*counted, *self._folded.constants.why()]))

    @cached_property
    def _network(self) -> TensorDAG:
        """The network as it was taken apart, with the weights of ``dag``: those may have been trained since."""
        network = cast(TensorDAG, self.found.dag)
        types = [{n: v.type for n, v in d.graph.parameters.items()} for d in (network, self.dag)]
        if types[0] != types[1]:
            raise GraphError(
                f"prune: what was found is of {network.name}, which isn't {self.dag.name}: other parameters"
            )
        return network if network is self.dag else replace(network, weights=self.dag.weights)

    @cached_property
    def _folded(self) -> Folded:
        return folded(self._network, self.found.units, self.gone, self.keep_numbers)

    @cached_property
    def _zeroed(self) -> tuple[TensorDAG, Removal]:
        return without(self._network, self.found.units, self.gone, self.keep_numbers)

    @property
    def _applied(self) -> tuple[TensorDAG, Removal]:
        return (self._folded.small, self._folded.removal) if self.constants == "fold" else self._zeroed

    @property
    def removal(self) -> Removal:
        """What is left of every value; makes the smaller network if it wasn't yet."""
        return self._applied[1]

    def apply(self) -> TensorDAG:
        """The smaller network."""
        return self._applied[0]

    def check(self, seed: int = 0, framework: str = "") -> Check:
        """Both networks on random inputs, in double precision: the smaller one, and this one with zeros for what goes.

        Where a norm counts what goes, it is given what is left in both, so that all else is compared: see
        :class:`Check`. ``framework`` runs them: torch if it is installed and can hold them, else numpy, the reference.
        Where branches went, the network without them is compared with the one in which they are times 0, too.
        """
        if self.constants == "fold":
            found = checked_constants(self._network, self._folded, seed, framework)
        else:
            found = checked(self._network, *self._applied, seed, framework)
        if self.closed is None:
            return found
        return without_what_adds_nothing(found, self.closed, self.dag, seed, framework)

    def __str__(self) -> str:
        lines = [f"{'group':40} {'units':>7} {'left':>7}"]
        lines += [f"{r.group.name:40} {r.group.size:7} {r.left:7}" for r in self.rows if r.removed]
        for name in self.before:
            a, b = self.before[name], self.after[name]
            lines.append(f"{name}: {a:.4g} -> {b:.4g} ({b / a - 1:+.1%})" if a else f"{name}: 0")
        lines += [f"not mask-equivalent: {w}" for w in self.why] or [
            "exact: equal to the network with zeros in their place"
        ]
        return "\n".join(lines)


def prune_plan(
    dag: TensorDAG,
    *,
    flops: float | str | None = None,
    params: float | str | None = None,
    bytes: float | str | None = None,
    time: float | str | None = None,
    device: Any = None,
    ratio: float | Mapping[str, float] | None = None,
    entries: Mapping[str, Sequence[int]] | None = None,
    importance: str | Importance = "l2",
    global_: bool = True,
    normalise: str = "",
    multiple_of: int = 1,
    least: int | float = 1,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    inexact: str = "norms",
    keep_numbers: bool = False,
    constants: str = "zero",
    found: Prunable | None = None,
) -> PrunePlan:
    """The plan; see :meth:`tdagger.TensorDAG.prune_plan`."""
    if constants not in ("zero", "fold"):
        raise AttributeValueError(f"prune: constants are 'zero' or 'fold', got {constants!r}")
    found = prunable(dag) if found is None else found
    targets = {k: v for k, v in zip(TARGETS, (flops, params, bytes, time, ratio), strict=True) if v is not None}
    if entries is not None:
        if targets:
            raise AttributeValueError(
                f"prune: entries say what goes, so there is nothing for {', '.join(targets)} to choose"
            )
        return PrunePlan(dag, found, _said(found, entries), keep_numbers, constants)
    if len(targets) != 1:
        raise AttributeValueError(
            f"prune: give one of {', '.join(TARGETS)} or entries, got {', '.join(targets) or 'none'}"
        )
    groups = allowed(found, keep, only, inexact)
    ((name, target),) = targets.items()
    ranked = _ranked(dag, found, groups, importance_of(importance), normalise, multiple_of, least)

    def planned(counts: Array) -> PrunePlan:
        units = {g.name: np.sort(o[:n]) for g, o, n in zip(groups, ranked.order, counts, strict=True) if n}
        return PrunePlan(dag, found, units, keep_numbers, constants)

    if name == "ratio":
        part = cast("float | Mapping[str, float]", target)
        _check_ratio(part, found)
        counts = ranked.stepped(np.array([round(g.size * _part(part, g)) for g in groups], np.int64))
    else:
        left = _cost(dag, found, name, device)
        whole = left(np.zeros(found.units.count, bool))
        asked = _amount(name, cast(Any, target))
        wanted = asked.number * whole if asked.is_part else asked.number
        if not whole:
            raise AttributeValueError(
                f"prune: there are no {name} that could go: a network that is quantized has constants for its weights "
                "(td.dequantize makes parameters of them)"
            )
        if not 0 < wanted <= whole:
            raise AttributeValueError(f"prune: {name}={target} of {whole:.6g} is no part of what there is")
        ranked.slopes = None if normalise else _slopes(found, groups, name, device)
        # a time is that of the network made: a few of them
        counts = to_target(ranked, left, wanted, global_, rounds=1 if name == "time" else 9)
        reached = left(ranked.gone(counts))
        # what is least is asked for only where it matters: for a time that is one more network
        if reached > wanted * 1.01 and (least_left := left(ranked.gone(ranked.stepped(ranked.sizes)))) > wanted:
            raise AttributeValueError(
                f"prune: {name} can't become {wanted:.6g}: {least_left:.6g} of {whole:.6g} is left if all goes that "
                f"may go; {_bounds(found, groups, multiple_of, least, inexact)}"
            )
        if name != "time":
            return _nearest(ranked, left, wanted, counts, global_, planned, {"params": "parameters"}.get(name, name))
    return planned(counts)


def _nearest(
    ranked: Ranked, left: Callable[[Array], float], wanted: float, counts: Array, together: bool,
    planned: Callable[[Array], PrunePlan], name: str,
) -> PrunePlan:  # fmt: skip
    """The plan whose network is nearest to the target: what nothing reads there any more is in no polynomial."""
    best = plan = planned(counts)
    near = NEAR * best.before[name]
    for _ in range(_ROUNDS):
        off = plan.after[name] - left(ranked.gone(counts))
        if abs(off) <= near or abs(best.after[name] - wanted) <= near:
            break
        counts = to_target(ranked, left, wanted - off, together)
        plan = planned(counts)
        best = min(best, plan, key=lambda p: abs(p.after[name] - wanted))
    return best


#: How often a target is looked for anew where the network made costs other than its polynomial.
_ROUNDS = 3


def _cost(dag: TensorDAG, found: Prunable, name: str, device: Any) -> Callable[[Array], float]:
    """What is left of a cost where some entries go."""
    if name == "time":
        if device is None:
            raise AttributeValueError(
                "prune: time needs the device that it is predicted for: device='a100', or a device file"
            )
        on = device_of(device)
        return lambda gone: float(predict(without(cast(TensorDAG, found.dag), found.units, gone)[0].graph, on))
    cost = found.cost[{"params": "parameters"}.get(name, name)]
    return lambda gone: cost(found.left(gone))


def _slopes(found: Prunable, groups: list[Group], name: str, device: Any) -> Slopes:
    """What one unit of each group frees of a cost, to first order; of time as the work falls."""
    costs = costs_of(found, (), device_of(device)) if name == "time" else found.cost
    cost = costs[{"params": "parameters"}.get(name, name)]
    kind = np.full(found.units.count + 1, -1, np.int64)  # the last is that of no class
    for i, g in enumerate(groups):
        kind[g.classes] = i
    nothing = np.zeros(0, np.int64)
    rows: list[tuple[Array, Array, Array]] = [(nothing, nothing, nothing)]
    for j, factor in enumerate(found.units.factors):
        if factor.block is None:
            own, entries = np.unique(kind[found.units.roots(factor)], return_counts=True)
            rows.append((own[own >= 0], np.full((own >= 0).sum(), j), entries[own >= 0]))
    group, factor, entries = map(np.concatenate, zip(*rows, strict=True))
    each = entries / np.array([g.size for g in groups])[group]

    def freed(gone: Array) -> Array:
        return np.bincount(group, each * cost.gradient(found.left(gone))[factor], len(groups))

    def left(gone: Array) -> float:
        return cost(found.left(gone))

    return Slopes(left, freed)


def _amount(name: str, target: float | str) -> Amount:
    """What a target is: of numbers those up to 1 are parts, but for whole ones; text is read as options are."""
    if isinstance(target, str):
        return amount_of(target, f"prune: {name}=", name == "time")
    return Amount(float(target), isinstance(target, float) and target <= 1)


def _check_ratio(target: float | Mapping[str, float], found: Prunable) -> None:
    """AttributeValueError for a name that no group has, and for what is no part."""
    parts = target if isinstance(target, Mapping) else {"*": target}
    for pattern, part in parts.items():
        if not any(fnmatch.fnmatchcase(g.name, pattern) for g in found.groups):
            raise AttributeValueError(f"prune: ratio={{{pattern!r}: ...}}, but no group is called that")
        if not 0 <= part < 1:
            raise AttributeValueError(f"prune: ratio is the part of units that goes, 0 to less than 1, got {part}")


def _part(target: float | Mapping[str, float], group: Group) -> float:
    if not isinstance(target, Mapping):
        return target
    return next((v for k, v in target.items() if fnmatch.fnmatchcase(group.name, k)), 0.0)


def _bounds(found: Prunable, groups: list[Group], multiple_of: int, least: float, inexact: str) -> str:
    """What a plan was held to: its steps, and the groups that were left as they are, with what an op sees in them."""
    out = [g for g in found.groups if g not in groups]
    why = {g.name: "" if g.exact or inexact == "all" else f" ({g.why[0]})" for g in out[:8]}
    more = " ..." if len(out) > 8 else ""
    can = "; with inexact='all' those with a reason may go too" if any(why.values()) else ""
    kept = ", ".join(f"{name}{reason}" for name, reason in why.items()) or "none"
    said = f"multiple_of={multiple_of}, least={least}, and these groups are kept: {kept}{more}{can}"
    stops = {s.why: s for s in reversed(found.stopped)}  # the first of each reason
    if not stops:
        return said
    return f"{said}. Other dimensions are stopped (prunable() has all): {'; '.join(map(str, [*stops.values()][:4]))}"


def _said(found: Prunable, entries: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """The units that are named, checked."""
    units: dict[str, Array] = {}
    for name, numbers in entries.items():
        group = found[name]
        own = np.unique(np.asarray(numbers, np.int64))
        if own.size and not (own[0] >= 0 and own[-1] < group.size):
            raise AttributeValueError(f"prune: {name!r} has the units 0 to {group.size - 1}, got {own[0]} to {own[-1]}")
        if own.size == group.size:
            raise AttributeValueError(f"prune: all {group.size} units of {name!r} would go; one has to stay")
        units[name] = own
    return units


def allowed(found: Prunable, keep: Sequence[str], only: Sequence[str], inexact: str) -> list[Group]:
    """The groups that may lose units."""
    if inexact not in ("none", "norms", "all"):
        raise AttributeValueError(f"prune: inexact is 'none', 'norms' or 'all', got {inexact!r}")
    for patterns, meant in ((keep, _meant), (only, _made_by)):
        for pattern in patterns:
            if not any(meant(g, pattern) for g in found.groups):
                raise AttributeValueError(f"prune: no group, parameter or module is called {pattern!r}")
    groups = [g for g in found.groups if g.size > 1 and not any(_meant(g, p) for p in keep)]
    groups = [g for g in groups if not only or any(_made_by(g, p) for p in only)]
    if inexact == "all":
        return groups
    return [g for g in groups if g.exact or (inexact == "norms" and g.only_norms)]


def _meant(group: Group, pattern: str) -> bool:
    """Whether a pattern names a group, or a parameter or module that it is in."""
    if fnmatch.fnmatchcase(group.name, pattern):
        return True
    return any(fnmatch.fnmatchcase(m.name, p) for m in group.members for p in (pattern, f"{pattern}.*"))


def _made_by(group: Group, pattern: str) -> bool:
    """Whether a pattern names a group, a parameter that it is in, or a module that makes it."""
    if any(fnmatch.fnmatchcase(n, pattern) for n in (group.name, *[m.name for m in group.members])):
        return True
    return any(fnmatch.fnmatchcase(group.module, p) for p in (pattern, f"{pattern}.*"))


def _ranked(
    dag: TensorDAG, found: Prunable, groups: list[Group], importance: Importance, normalise: str, multiple_of: int,
    least: float,
) -> Ranked:  # fmt: skip
    if normalise and normalise not in NORMALISE:
        raise AttributeValueError(f"prune: normalise is one of {', '.join(NORMALISE)}, got {normalise!r}")
    order: list[Array] = []
    scores: list[Array] = []
    for group in groups:
        score = np.asarray(importance(Weighed(group, dag.weights)), np.float64)
        if score.shape != (group.size,) or np.isnan(score).any():
            raise AttributeValueError(
                f"prune: the importance of {group.name!r} has to be {group.size} numbers, got {score.shape}"
                f"{' with NaN' if np.isnan(score).any() else ''}"
            )
        by = np.argsort(score, kind="stable")
        order.append(by)
        scores.append(score[by] / NORMALISE[normalise](score) if normalise else lost(score[by], _weights(found, group)))
    steps = [step_of(g, multiple_of) for g in groups]
    kept = [
        max(int(np.ceil(least * g.size)) if isinstance(least, float) and least < 1 else int(least), 1) for g in groups
    ]
    return Ranked(found, groups, order, scores, steps, [max(g.size - k, 0) for g, k in zip(groups, kept, strict=True)])


def _weights(found: Prunable, group: Group) -> int:
    """In how many dimensions of weights the units of a group lie."""
    return max(sum(found.dag.graph.parameters[m.name].rank > 1 for m in group.members), 1)


def step_of(group: Group, multiple_of: int) -> int:
    """How many units make ``multiple_of`` entries, where a unit is several."""
    if multiple_of == 1:
        return 1
    each = max((m.each for m in group.members), default=1)
    step = multiple_of // int(np.gcd(multiple_of, each))
    return step if group.size >= step else 1
