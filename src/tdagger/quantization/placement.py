"""Which values of a network are quantized, which of them have one scale, and which weights: before any data is seen.

What an op of the profile takes is quantized, and what it gives where the profile says so. Through ops that only move
entries the scale is one, so that they run on bytes. What else reads a value that is quantized for somebody reads it as
it was, unless the op that makes it has it in bytes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tdagger.graph import Graph, is_one, label
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Parameter, Random
from tdagger.ops.structure import Pad, Permute, Repeat, Slice
from tdagger.quantization.profile import Numbers, Profile, Row
from tdagger.quantization.scales import Weights
from tdagger.types import DType

_F32 = DType.of("f32")


class Plan(NamedTuple):
    """A weight as a leaf, in the order of axes in which an op takes it, and how it is quantized (axes of the leaf)."""

    leaf: Value
    order: tuple[int, ...]
    how: Weights

    @property
    def products(self) -> int:
        """How many products each number of a layer's result is the sum of."""
        return self.leaf.type.size // self.leaf.shape[self.how.channel]

    @property
    def bytes(self) -> int:
        """Of the numbers, packed, with their scales."""
        numbers = self.how.numbers
        zero = 0 if numbers.symmetric and numbers.grid.low != 0 else numbers.grid.dtype.bytes
        scales = math.prod(self.how.shape(self.leaf.shape))
        return -(-self.leaf.type.size * numbers.grid.bits // 8) + scales * (4 + zero)


@dataclass
class Placement:
    """What is quantized where.

    ``rows``: the ops that are. ``points``: values that are quantized, and the value whose scale they have (its
    ``root``); ``numbers`` of each root. ``given``: values that everyone reads quantized; ``ends``: those by the ops
    of ``rows`` that they are computed with. ``moved``: those whose op
    works on what is quantized already. ``joined``: roots that values of several origins have. ``weights``: by the op
    and the place of its argument.
    """

    profile: Profile
    rows: dict[Value, Row] = field(default_factory=dict[Value, Row])
    points: dict[Value, Value] = field(default_factory=dict[Value, Value])
    numbers: dict[Value, Numbers] = field(default_factory=dict[Value, Numbers])
    given: set[Value] = field(default_factory=set[Value])
    ends: dict[Value, Value] = field(default_factory=dict[Value, Value])
    moved: set[Value] = field(default_factory=set[Value])
    joined: set[Value] = field(default_factory=set[Value])
    weights: dict[tuple[Value, int], Plan] = field(default_factory=dict[tuple[Value, int], Plan])

    def root(self, value: Value) -> Value:
        """The value whose scale a value has."""
        while self.points[value] is not value:
            value = self.points[value]
        return value

    @property
    def observed(self) -> dict[Value, Value]:
        """The values whose ranges make scales, and the roots of these; what is moved has the range it had."""
        return {v: self.root(v) for v in self.points if v not in self.moved or v.op.name == "concat"}

    def is_quantized(self, value: Value, place: int) -> bool:
        """Whether an op of :attr:`rows` takes an argument quantized that isn't a weight."""
        return value in self.rows and place in self.rows[value].inputs and (value, place) not in self.weights


def place(graph: Graph, profile: Profile, keep: Callable[[Value], bool]) -> Placement:
    """What a profile quantizes of a graph; ``keep`` says of ops that they stay as they are.

    Layers that aren't worth it (:attr:`Profile.least`) stay too, then those that aren't without them, and so on.
    """
    static = without_inputs(graph)
    named = [v for v in graph.values if label(v.op) in profile.rows and is_one(v) and v.dtype is _F32 and not keep(v)]
    while True:
        found = _placed(graph, profile, named, static)
        small = {v for (v, _), plan in found.weights.items() if plan.products < profile.least and v in found.ends}
        few: set[Value] = set()
        for value in reversed(named):  # who reads others before them: a chain goes at once
            if value in small and not _is_read_quantized(found, graph, found.ends[value], few):
                few.add(value)
        if not few:
            return found
        named = [v for v in named if v not in few]


def _placed(graph: Graph, profile: Profile, named: Iterable[Value], static: set[Value]) -> Placement:
    """What is quantized of some ops that the profile names, in the graph's order."""
    found = Placement(profile)
    for value in named:
        _take(found, graph, value, profile.rows[label(value.op)], static)
    if profile.activation is not None:
        _wants(found, graph, static)
    return found


def _is_read_quantized(found: Placement, graph: Graph, value: Value, without: set[Value]) -> bool:
    """Whether somebody takes a value as integers, as it is or moved; ``without`` are layers that stay in float."""
    near = [value]
    while near:
        value = near.pop()
        for user in graph.users[value]:
            taken = user not in without and any(a is value for a in user.args)
            if taken and any(a is value and found.is_quantized(user, i) for i, a in enumerate(user.args)):
                return True
            if user in found.moved:
                near.append(user)
    return False


def without_inputs(graph: Graph) -> set[Value]:
    """What no input is behind: weights, constants, and what is made of them."""
    found: set[Value] = set()
    for value in graph.values:
        op = value.op
        changes = isinstance(op, Buffer) and op.leaf in graph.updates
        if not isinstance(op, Input | Random) and not changes and all(a in found for a in value.args):
            found.add(value)
    return found


def weight_plan(value: Value, place: int, row: Row, numbers: Numbers) -> Plan | None:
    """How an argument is quantized as a weight; None if it isn't one with two dimensions and more."""
    leaf, order = value.args[place], tuple(range(value.args[place].rank))
    while isinstance(leaf.op, Permute):
        order = tuple([leaf.op.order[i] for i in order])
        leaf = leaf.args[0]
    if not isinstance(leaf.op, Parameter | Buffer | Const) or leaf.rank < 2 or leaf.dtype is not _F32:
        return None
    if 0 in leaf.shape or leaf.rank != value.args[place].rank:
        return None
    channel, summed = (order[i] for i in (row.channel, row.summed))
    return Plan(leaf, order, Weights(numbers, channel, summed))


def _take(found: Placement, graph: Graph, value: Value, row: Row, static: set[Value]) -> None:
    """Take an op in, if what it takes can be quantized."""
    profile = found.profile
    plan = None
    if row.weight is not None and row.weight < len(value.args) and value.args[row.weight] in static:
        plan = weight_plan(value, row.weight, row, profile.weight)
        if plan is None or (isinstance(plan.leaf.op, Buffer) and plan.leaf.op.leaf in graph.updates):
            return
    data = [i for i in row.inputs if i < len(value.args) and not (plan is not None and i == row.weight)]
    if any(value.args[i] in static or value.args[i].dtype is not _F32 for i in data):
        return
    if profile.activation is None and plan is None:
        return
    if plan is None and row.weight is not None and row.second is None:
        return
    if row.follows and not all(_is_given(found, value.args[i]) for i in data):
        return
    found.rows[value] = row
    if row.output and profile.activation is not None:
        result = _result(graph, value, profile)
        found.given.add(result)
        found.ends[value] = result
        _point(found, result, row.result or profile.activation)
    if plan is not None and row.weight is not None:
        found.weights[value, row.weight] = plan


def _is_given(found: Placement, value: Value) -> bool:
    """Whether a value is in bytes alone, or moved from where it is."""
    while value not in found.given and label(value.op) in found.profile.shares and value.args:
        value = value.args[0]
    return value in found.given


def _result(graph: Graph, value: Value, profile: Profile) -> Value:
    """What comes out of an op and what is computed with it, the last that nobody else reads in between."""
    ends = {*graph.outputs.values(), *graph.updates.values()}
    while value not in ends and len(graph.users[value]) == 1:
        user = graph.users[value][0]
        if label(user.op) not in profile.fused or user.args[0] is not value or len(user.args) > 1:
            break
        value = user
    return value


def _point(found: Placement, value: Value, numbers: Numbers) -> None:
    if value not in found.points:
        found.points[value] = value
        found.numbers[value] = numbers


def _wants(found: Placement, graph: Graph, static: set[Value]) -> None:
    """What ops take quantized, from the last value to the first, so that scales go back through what moves entries."""
    activation = found.profile.activation
    assert activation is not None
    wanted: dict[Value, Numbers] = {}
    for value in reversed(graph.values):
        row = found.rows.get(value)
        if row is not None:
            for i in row.inputs:
                if i < len(value.args) and (value, i) not in found.weights:
                    second = row.second if i in row.inputs[1:] else None
                    wanted.setdefault(value.args[i], second or activation)
        if value not in wanted and value not in found.points:
            continue
        if value not in found.given and value in wanted:
            _point(found, value, wanted[value])
        if label(value.op) in found.profile.shares and value not in found.given and row is None:
            _share(found, graph, value, static, wanted)


def _share(found: Placement, graph: Graph, value: Value, static: set[Value], wanted: dict[Value, Numbers]) -> None:
    """Give a value that was moved the scale of what it was made of, if that is quantized or nobody else reads it."""
    sources = [a for a in value.args if a not in static]
    if not sources or any(s.dtype is not _F32 or _is_endless(s) for s in sources):
        return
    numbers = found.numbers[found.root(value)]
    view = isinstance(value.op, Repeat)
    for source in sources:
        alone = len(graph.users[source]) == 1 and not isinstance(value.op, Slice)
        if not (source in found.points or view or alone):
            return
    if not all(_fits(found, value, source, len(sources) == 1) for source in sources):
        return
    found.moved.add(value)
    for source in sources:
        wanted.setdefault(source, numbers)
        _point(found, source, numbers)
        mine, theirs = found.root(value), found.root(source)
        if mine is not theirs:
            kept, gone = (theirs, mine) if theirs in found.given or mine not in found.given else (mine, theirs)
            if len(sources) > 1 or gone in found.joined:
                found.joined.add(kept)
            found.points[gone] = kept
            found.numbers.pop(gone, None)


def _fits(found: Placement, value: Value, source: Value, alone: bool) -> bool:
    """Whether a value can have the scale of what it is made of: one that is fixed isn't for other values too."""
    root = found.root(value)
    mine = found.numbers[root].fixed
    theirs = found.numbers[found.root(source)].fixed if source in found.points else None
    return mine == theirs or (mine is None and alone and root not in found.joined)


def _is_endless(value: Value) -> bool:
    """Whether a value has infinities around it, as pools are padded with: no range has them."""
    return isinstance(value.op, Pad) and not np.isfinite(value.op.value)


def is_view(value: Value) -> bool:
    """Whether a moved value is never written: what broadcasting made of it."""
    return isinstance(value.op, Repeat)
