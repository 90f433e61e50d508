"""Which entries of scores a mask lets through, as a mask made of constants alone: an upper bound where data decide too.

A number that is added to a score masks it if it is at most ``MASKED``, and so does one that is put in its place; a
factor of 0 masks a weight. Conditions are bounded from both sides (what may be true, and what is), so that the causal
part of ``causal & data`` is known although the data aren't.
"""

from __future__ import annotations

from collections.abc import Callable

from tdagger.analysis.attention.scopes import BUFFER, INPUT, PRODUCT, WEIGHT, Place, Walk, arguments_first
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, Cast, Unary, Where, bitwise_and, bitwise_or, not_, not_equal
from tdagger.ops.source import Const, Leaf, const
from tdagger.ops.structure import Concat, Group, Pad, Permute, Repeat, Slice, Ungroup, broadcast_to
from tdagger.types import bool_

#: exp of so low a number is exactly 0 in every element type, unless scores are apart by thousands.
MASKED = -1e4

MOVES = (Permute, Group, Ungroup, Repeat, Slice)
#: What scores and weights go through.
CARRIES = (Unary, Binary, Where, Cast, *MOVES, Concat, Pad)

#: A bool tensor, or what all of it is.
Bound = Value | bool
#: A place and which bound of it. "let": entries that are not masked for certain, of what is added to scores; "keep":
#: those that are not 0 for certain, of weights. Of conditions, "may": those that may be true; "must": those that are
#: true; a number is true if it isn't 0.
_Node = tuple[Place, str]


class Bounds:
    """Bounds of masks; ``is_score`` tells what is made of the scores themselves."""

    def __init__(self, walk: Walk, is_score: Callable[[Place], bool]) -> None:
        self._walk, self._is_score = walk, is_score
        self._bounds: dict[_Node, Bound] = {}
        self._unknown: dict[_Node, frozenset[str]] = {}

    def let_through(self, scores: Place) -> tuple[Bound, frozenset[str]]:
        """The scores that aren't masked for certain, and the names of what else decides (inputs, buffers)."""
        return self._find((scores, "let"))

    def kept(self, weights: Place) -> tuple[Bound, frozenset[str]]:
        """The weights, made of exp of scores, that aren't masked for certain."""
        return self._find((weights, "keep"))

    def _find(self, start: _Node) -> tuple[Bound, frozenset[str]]:
        for node in arguments_first(start, self._needs, self._bounds):
            self._bounds[node] = self._bound(node)
        for node in arguments_first(start, self._behind, self._unknown):
            (scope, value), role = node
            unknown = role == "leaf" and scope.depends[value]  # an argument of a body may be a constant
            own = frozenset([value.op.leaf] if unknown and isinstance(value.op, Leaf) else [])
            self._unknown[node] = own.union(*[self._unknown[n] for n in self._behind(node)])
        return self._bounds[start], self._unknown[start]

    def _needs(self, node: _Node) -> list[_Node]:
        """The bounds that a bound is made of."""
        (scope, value), role = node
        op = value.op
        if not scope.depends[value] or value in scope.of_sum or not isinstance(op, CARRIES):
            return []
        args = self._walk.args(node[0])
        kind = getattr(op, "kind", "")
        if isinstance(op, MOVES):
            return [(args[0], role)]
        if isinstance(op, Concat):
            beside = role == "let" and self._is_score(node[0])
            return [(a, role) for a in args if not beside or self._is_score(a)]
        if isinstance(op, Where):
            return [(args[0], "may"), (args[0], "must"), (args[1], role), (args[2], role)]
        if role == "let":
            if isinstance(op, Cast):
                return [(args[0], "let")] if args[0][1].dtype.is_float else []
            if kind == "add":
                return [(a, "let") for a in args]
            return [(a, "let") for a in args if self._is_score(a)] if kind in ("multiply", "max", "min") else []
        if role == "keep":
            if kind == "exp":
                return [(args[0], "let")]
            if isinstance(op, Cast):
                return [(args[0], "may" if args[0][1].dtype is bool_ else "keep")]
            return [(a, "keep") for a in args] if kind == "multiply" else []
        if kind in ("equal", "not_equal"):
            opposite = "must" if role == "may" else "may"
            return [(args[0], opposite if kind == "equal" else role)] if self._is_zero(args[1]) else []
        if isinstance(op, Cast):  # of numbers, small ones may become 0
            exact = bool_ in (value.dtype, args[0][1].dtype)
            return [(args[0], role)] if exact or role == "may" else []
        if value.dtype is not bool_:
            return [(a, role) for a in args] if kind == "multiply" and role == "may" else []
        if kind == "not":
            return [(args[0], "must" if role == "may" else "may")]
        return [(a, role) for a in args] if kind in ("bitwise_and", "bitwise_or") else []

    def _bound(self, node: _Node) -> Bound:
        place, role = node
        scope, value = place
        op = value.op
        if not scope.depends[value]:
            constant = self._walk.constant(scope, value)
            if role == "let":
                return constant > MASKED if value.dtype.is_float else True
            return constant if value.dtype is bool_ else not_equal(constant, 0)
        needs = self._needs(node)
        args = [self._bounds[n] for n in needs]
        if not args:
            return role != "must"
        if isinstance(op, Concat):
            laid = dict(zip([n[0] for n in needs], args, strict=True))
            each = [laid.get(p, False) for p in self._walk.args(place)]  # what isn't made of scores is no pair
            return op(*[_whole(b, a) for b, a in zip(each, value.args, strict=True)])
        if isinstance(op, Where):
            may, must, x, y = args
            if role == "must":
                return _or(_or(_and(must, x), _and(_not(may), y)), _and(x, y))
            return _or(_and(may, x), _and(_not(must), y))
        if isinstance(op, Unary):
            return _not(args[0]) if op.kind == "not" else args[0]
        if isinstance(op, Binary):
            if op.kind in ("equal", "not_equal"):
                return _not(args[0]) if op.kind == "equal" else args[0]
            both = args if len(args) == 2 else [args[0], True]
            return _or(*both) if op.kind == "bitwise_or" else _and(*both)
        return op(args[0]) if isinstance(op, MOVES) and isinstance(args[0], Value) else args[0]

    def _is_zero(self, place: Place) -> bool:
        """Whether a place is the constant 0, repeated or not."""
        scope, value = place
        if scope.depends[value]:
            return False
        value = self._walk.constant(scope, value)
        while isinstance(value.op, Repeat | Group | Ungroup | Cast):
            value = value.args[0]
        return isinstance(value.op, Const) and value.type.size == 1 and not value.op.run().any()

    def _behind(self, node: _Node) -> list[_Node]:
        """Where to look for what a bound doesn't know."""
        (scope, value), role = node
        if role == "leaf":
            return [(p, "leaf") for p in self._walk.args(node[0])]
        needs, depends = self._needs(node), scope.depends[value]
        if needs or depends & PRODUCT or role == "keep":  # what a product makes is no mask
            return needs
        # what is learned and added to scores is a bias
        is_mask = depends & (INPUT | BUFFER) and not depends & WEIGHT if role == "let" else depends
        return [(node[0], "leaf")] if is_mask else []


def _and(x: Bound, y: Bound) -> Bound:
    if isinstance(x, Value) and isinstance(y, Value):
        return x if x is y else bitwise_and(x, y)
    known, other = (y, x) if isinstance(x, Value) else (x, y)
    return other if known else False


def _or(x: Bound, y: Bound) -> Bound:
    if isinstance(x, Value) and isinstance(y, Value):
        return x if x is y else bitwise_or(x, y)
    known, other = (y, x) if isinstance(x, Value) else (x, y)
    return True if known else other


def _not(x: Bound) -> Bound:
    return not_(x) if isinstance(x, Value) else not x


def _whole(x: Bound, like: Value) -> Value:
    return x if isinstance(x, Value) else broadcast_to(const(x, bool_), like.shape)
