"""Algebra that leaves every number as it is, to the bit: identities, casts there and back, reshapes and transposes."""

# The wildcards of a rule have no types.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from typing import Any

from tdagger.library.activation import dropout, relu, relu6
from tdagger.library.arithmetic import divide, subtract
from tdagger.library.shape import reshape, runs
from tdagger.network import N
from tdagger.op import Value
from tdagger.ops.elementwise import UNARY, Unary, cast, maximum, minimum, where
from tdagger.ops.structure import Group, Permute, Repeat, Slice, Ungroup
from tdagger.transform.rewrite import Rule, applied, either, elementwise, no, op, rule_of
from tdagger.types import DType


def simplify(dag: N) -> N:
    """The network without what changes nothing: ``x * 1``, ``x - 0``, ``-(-x)``, casts and reshapes there and back.

    Every number stays the same, bit for bit. Dropout, which does nothing in inference, goes too.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: td.transpose(td.neg(td.neg(td.transpose(x, 0, 1))) * 1.0, 0, 1), {"x": (2, 3)})
    >>> simplify(dag).graph.outputs["out"]
    <input x() -> f32[2 3]>
    """
    return _simplified(dag, RULES)


def sink_transposes(dag: N) -> N:
    """The network with transposes after elementwise ops instead of before them, so that they meet and cancel."""
    return _simplified(dag, (*RULES, *SINKING))


def _simplified(dag: N, rules: tuple[Rule, ...]) -> N:
    return applied(dag, rules)[0]


def _itself(x: Any) -> Any:
    return x


_TWICE = [k for k, r in UNARY.items() if r.inverse == "identity"]
_BACK = ("neg", "not", "conj")


def _identities() -> list[Rule]:
    """Ops that give one of their arguments. ``x + 0.0`` is none: it makes 0.0 of -0.0."""
    found = [
        rule_of("times_one", lambda x: x * 1.0, _itself, lambda x: not x.dtype.is_complex),
        rule_of("over_one", lambda x: divide(x, 1.0), _itself),
        rule_of("less_nothing", lambda x: subtract(x, 0.0), _itself),
        rule_of("plus_nothing", lambda x: x + -0.0, _itself, lambda x: x.dtype.is_float),
        rule_of("plus_zero", lambda x: x + 0, _itself, lambda x: x.dtype.is_int),
        rule_of("largest_of_one", lambda x: maximum(x, x), _itself),
        rule_of("smallest_of_one", lambda x: minimum(x, x), _itself),
        rule_of("either_way", lambda c, x: where(c, x, x), _itself),
        rule_of("dropout", lambda x, p: dropout(x, p=p), _itself),
        rule_of("relu_twice", lambda x: relu(relu(x)), lambda x: relu(x)),
        rule_of("relu_of_relu6", lambda x: relu(relu6(x)), lambda x: relu6(x)),
    ]
    for kind in _TWICE:
        found.append(_of_itself(f"{kind}_twice", Unary(kind), lambda x, kind=kind: Unary(kind)(x)))
    found += [_of_itself(f"{kind}_twice", Unary(kind), None) for kind in _BACK]
    return found


def _of_itself(name: str, f: Unary, to: Any) -> Rule:
    return rule_of(name, lambda x: f(f(x)), (lambda x: x) if to is None else (lambda x: f(x)))


# --- casts -------------------------------------------------------------------------------------------------

#: Which numbers an element type holds: bits of whole numbers (with a sign), and of the exponents of floats.
_DIGITS = {"f16": (11, 5), "bf16": (8, 8), "f32": (24, 8), "f64": (53, 11)}


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every number of an element type is one of another, so that a cast loses nothing.

    >>> from tdagger.types import DType
    >>> holds(DType.of("f32"), DType.of("bf16")), holds(DType.of("f16"), DType.of("bf16"))
    (True, False)
    """
    if wide is narrow or narrow.name == "bool":
        return True
    if wide.name == "bool" or wide.is_complex or narrow.is_complex:
        return False
    if wide.name in _DIGITS and narrow.name in _DIGITS:
        return all(w >= n for w, n in zip(_DIGITS[wide.name], _DIGITS[narrow.name], strict=True))
    if not narrow.is_int:
        return False
    bits = narrow.bytes * 8 - narrow.is_signed
    if wide.name in _DIGITS:
        return _DIGITS[wide.name][0] >= bits and wide.name != "f16"
    return wide.is_int and (wide.is_signed or not narrow.is_signed) and wide.bytes * 8 - wide.is_signed >= bits


def _loses_nothing(x: Value, between: DType, dtype: DType) -> Any:
    if between.is_float and x.dtype.is_int and dtype.is_int and not holds(dtype, x.dtype):
        return no(f"what {dtype} doesn't hold is other numbers of floats than of {x.dtype}")
    return holds(between, x.dtype) or no(f"{between} doesn't hold every {x.dtype}")


CASTS = [
    rule_of(
        "cast_of_cast",
        lambda x, between, dtype: op("cast", op("cast", x, dtype=between), dtype=dtype),
        lambda x, dtype: cast(x, dtype),
        _loses_nothing,
    ),
    rule_of(
        "cast_to_the_same",
        lambda x, dtype: op("cast", x, dtype=dtype),
        _itself,
        lambda x, dtype: x.dtype is dtype,
    ),
]

# --- reshapes and transposes -------------------------------------------------------------------------------


def _view(x: Any) -> Any:
    return either(op("group", x), op("ungroup", x), op("reshape", x))


def _two_views(x: Value, root: Value) -> Any:
    """What two reshapes make: nothing, one that moves fewer axes, or one reshape."""
    if root.shape == x.shape:
        return x
    both = reshape(x, shape=root.shape)
    if not _ones_stay(x, root, both):
        return no("of which dimension one of 1 entry is a part would be lost")
    if root.args[0].op.name == "reshape" or root.op.name == "reshape" or both.op.name != "reshape":
        return both
    return no("they stay two: a group and an ungroup")


def _ones_stay(x: Value, root: Value, both: Value) -> bool:
    """Whether dimensions of 1 entry are parts of the same ones when two reshapes are made at once."""
    if 1 not in x.shape and 1 not in root.shape:
        return True
    middle = root.args[0]
    first, second, at_once = (_parts(v) for v in (middle, root, both))
    over = [sorted({k for j in first[i] for k in second[j]}) for i in range(x.rank)]
    before, after = (
        {(i, k) for i, to in enumerate(found) for k in to if 1 in (x.shape[i], root.shape[k])}
        for found in (over, at_once)
    )
    return before == after


def _parts(value: Value) -> list[list[int]]:
    """Of a reshape, for every dimension of its argument those of its result that have a part of it."""
    old, new, op_ = value.args[0].shape, value.shape, value.op
    if isinstance(op_, Group):
        each = [(n, 1) for n in op_.counts]
    elif isinstance(op_, Ungroup):
        each = [(1, len(s)) for s in op_.sizes]
    else:
        each = runs(old, new)
    found: list[list[int]] = []
    at = 0
    for before, after in each:
        found += [list(range(at, at + after))] * before
        at += after
    return found


def _does_nothing(root: Value) -> bool:
    one = root.op
    return (
        (isinstance(one, Permute) and one.order == tuple(range(len(one.order))))
        or (isinstance(one, Group) and all(n == 1 for n in one.counts))
        or (isinstance(one, Ungroup) and all(len(s) == 1 for s in one.sizes))
        or (isinstance(one, Repeat) and root.shape == root.args[0].shape)
        or (one.name == "reshape" and root.shape == root.args[0].shape)
    )


def _permuted(x: Value, inner: tuple[int, ...], order: tuple[int, ...]) -> Value:
    both = tuple(inner[i] for i in order)
    return x if both == tuple(range(len(both))) else Permute(both)(x)


def _repeated(x: Value, inner: tuple[int | None, ...], sizes: tuple[int | None, ...]) -> Value:
    return Repeat(tuple(a if b is None else b for a, b in zip(inner, sizes, strict=True)))(x)


def _sliced(x: Value, inner: tuple[Any, ...], bounds: tuple[Any, ...]) -> Any:
    if any(a is not None and b is not None for a, b in zip(inner, bounds, strict=True)):
        return no("they slice the same axis")
    return Slice(tuple(b if a is None else a for a, b in zip(inner, bounds, strict=True)))(x)


LAYOUT = [
    rule_of("reshape_of_reshape", lambda x: _view(_view(x)), _two_views),
    rule_of(
        "moves_nothing",
        lambda x: either(*(op(n, x) for n in ("permute", "group", "ungroup", "repeat", "reshape"))),
        _itself,
        _does_nothing,
    ),
    rule_of(
        "permute_of_permute",
        lambda x, inner, order: op("permute", op("permute", x, order=inner), order=order),
        _permuted,
    ),
    rule_of(
        "slice_of_slice",
        lambda x, inner, bounds: op("slice", op("slice", x, bounds=inner), bounds=bounds),
        _sliced,
    ),
    rule_of(
        "repeat_of_repeat",
        lambda x, inner, sizes: op("repeat", op("repeat", x, sizes=inner), sizes=sizes),
        _repeated,
    ),
]
SINKING = [
    rule_of(
        "elementwise_of_permute",
        lambda x, f, order: elementwise(op("permute", x, order=order), op=f),
        lambda x, f, order: Permute(order)(f(x)),
    ),
    rule_of(
        "elementwise_of_permutes",
        lambda x, y, f, order: elementwise(op("permute", x, order=order), op("permute", y, order=order), op=f),
        lambda x, y, f, order: Permute(order)(f(x, y)),
    ),
]
RULES = (*_identities(), *CASTS, *LAYOUT)
