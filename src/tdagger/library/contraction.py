"""Einsum: products of tensors summed over named axes.

>>> import tdagger as td
>>> q, k = td.input("q", (2, 5, 4, 3)), td.input("k", (2, 6, 4, 3))
>>> td.einsum(q, k, equation="bqhd,bkhd->bhqk").type
f32[2 4 5 6]
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.composite import composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.adjoint import body_adjoint
from tdagger.library.linear import matmul, wide, wide_array
from tdagger.op import Array, Value
from tdagger.ops.elementwise import cast
from tdagger.ops.structure import (
    group,
    permute,
    reduce,
    slice_axis,
    squeeze,
    unsqueeze,
)


class Equation(NamedTuple):
    """An einsum equation at given ranks: a label per axis of each operand and of the result.

    A label is a letter, or ``(-n,)`` for the n-th axis from the right that the ellipsis stands for.
    """

    operands: tuple[tuple[Any, ...], ...]
    out: tuple[Any, ...]


def _wrong(equation: str, at: int, why: str) -> AttributeValueError:
    return AttributeValueError(f"einsum: {why}\n  {equation}\n  {' ' * at}^")


def _tokens(equation: str, start: int, stop: int) -> list[str]:
    """Letters and ellipses of one term."""
    tokens: list[str] = []
    at = start
    while at < stop:
        c = equation[at]
        if equation.startswith("...", at):
            if "..." in tokens:
                raise _wrong(equation, at, "a second ellipsis in one term")
            tokens.append("...")
            at += 3
            continue
        if c not in string.ascii_letters and c != " ":
            raise _wrong(equation, at, f"{c!r} is neither a letter nor an ellipsis")
        tokens += [] if c == " " else [c]
        at += 1
    return tokens


def parse_equation(equation: str, ranks: Sequence[int]) -> Equation:
    """The labels of every operand's axes and of the result's; AttributeValueError shows where it is wrong."""
    arrow = equation.find("->")
    end = len(equation) if arrow < 0 else arrow
    starts = [0, *(i + 1 for i in range(end) if equation[i] == ",")]
    stops = [*(s - 1 for s in starts[1:]), end]
    if len(starts) != len(ranks):
        where = stops[-1] if len(starts) < len(ranks) else starts[len(ranks)] - 1
        raise _wrong(equation, max(where, 0), f"there are {len(starts)} terms for {len(ranks)} operands")
    terms = [_tokens(equation, a, b) for a, b in zip(starts, stops, strict=True)]
    dots: list[int] = []
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        letters = len(term) - ("..." in term)
        if rank < letters or (rank > letters and "..." not in term):
            raise _wrong(equation, starts[i], f"term {i} names {letters} axes, operand {i} has {rank}")
        dots.append(rank - letters if "..." in term else 0)
    widest = max(dots, default=0)

    def expand(term: list[str], count: int) -> tuple[Any, ...]:
        ellipsis = [(-n,) for n in range(count, 0, -1)]
        return tuple(label for t in term for label in (ellipsis if t == "..." else [t]))

    operands = tuple(expand(t, n) for t, n in zip(terms, dots, strict=True))
    if arrow < 0:
        letters = sorted(c for t in terms for c in t if c != "...")
        once = [c for c in letters if letters.count(c) == 1]
        return Equation(operands, expand(["...", *once], widest))
    out = _tokens(equation, arrow + 2, len(equation))
    for i, c in enumerate(out):
        at = equation.find(c, arrow + 2)
        if c != "..." and not any(c in t for t in terms):
            raise _wrong(equation, at, f"letter {c!r} of the result is in no operand")
        if c in out[:i]:
            raise _wrong(equation, equation.find(c, at + 1), f"letter {c!r} is twice in the result")
    return Equation(operands, expand(out, widest))


def with_axes(
    equation: str, ranks: Sequence[int], operands: Sequence[Sequence[int | None]], out: Sequence[int | None]
) -> str:
    """The equation where operands of ``ranks`` and the result have other axes: of each which one it was, None if new.

    >>> with_axes("bhqd,bhkd->bhqk", [4, 4], [[1, 2, 3]] * 2, [1, 2, 3])
    'hqd,hkd->hqk'
    >>> with_axes("...i,ij->...j", [2, 2], [[None, 0, 1], [0, 1]], [None, 0, 1])
    'a...i,ij->a...j'
    """
    parsed = parse_equation(equation, ranks)
    new = next(c for c in string.ascii_letters if c not in equation)

    def term(labels: tuple[Any, ...], axes: Sequence[int | None]) -> str:
        named = [new if a is None else labels[a] for a in axes]
        letters = [label if isinstance(label, str) else "..." for label in named]
        return "".join(c for i, c in enumerate(letters) if c != "..." or c not in letters[:i])

    terms = [term(labels, axes) for labels, axes in zip(parsed.operands, operands, strict=True)]
    return f"{','.join(terms)}->{term(parsed.out, out)}"


def _check_equation(*xs: Value, equation: str) -> tuple[tuple[Value, ...], dict[str, Any]]:
    if not xs:
        raise TypeMismatchError("einsum needs at least one operand")
    parsed = parse_equation(equation, [x.rank for x in xs])
    sizes: dict[Any, int] = {}
    for i, (x, labels) in enumerate(zip(xs, parsed.operands, strict=True)):
        for axis, (label, n) in enumerate(zip(labels, x.shape, strict=True)):
            known = sizes.get(label, 1)
            repeated = label in labels[:axis] and x.shape[labels.index(label)] != n
            if repeated or (n != 1 and known not in (1, n)):
                at = 0
                for _ in range(i):
                    at = equation.index(",", at) + 1
                at = equation.find(label if isinstance(label, str) else "...", at)
                raise _wrong(equation, at, f"axis {axis} of operand {i} ({x.type}) has size {n}, not {known}")
            sizes[label] = n if known == 1 else known
    return xs, {"equation": equation.replace(" ", "")}


Labelled = tuple[Value, tuple[Any, ...]]


@composite(prepare=_check_equation)
def einsum(*xs: Value, equation: str) -> Value:
    """Einstein's sum: products of operands, summed over the letters the result doesn't name.

    Takes any equation torch or numpy do: an ellipsis (broadcast; summed if the result has none), letters
    repeated in one operand (its diagonal), an implicit result, any number of operands, sizes of 1 that
    broadcast. Operands are multiplied two at a time from the left, each sum as early as it can be.
    AttributeValueError points at the place of a wrong equation.
    """
    operands, out = parse_equation(equation, [x.rank for x in xs])
    rest = [_diagonals(x, labels) for x, labels in zip(xs, operands, strict=True)]
    done = rest.pop(0)
    while rest:
        needed = {*out, *(label for _, labels in rest[1:] for label in labels)}
        done = _contract(done, rest.pop(0), needed)
    value, labels = _keep(done, set(out))
    value = permute(value, [labels.index(label) for label in out if label in labels])
    missing = [i for i, label in enumerate(out) if label not in labels]
    return unsqueeze(value, missing) if missing else value


def _diagonals(x: Value, labels: tuple[Any, ...]) -> Labelled:
    """Repeated labels become one axis: two axes ``(n n)`` laid end to end, every (n + 1)-th entry."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            others = [a for a in range(x.rank) if a not in (i, j)]
            n = x.shape[i]
            x = group(permute(x, [i, j, *others]), [2] + [1] * len(others))
            x = slice_axis(x, 0, None, None, n + 1)
            labels = (label, *[labels[a] for a in others])
    return x, labels


def _keep(x: Labelled, needed: set[Any]) -> Labelled:
    """Sum over the labels nobody needs any more."""
    value, labels = x
    drop = [i for i, label in enumerate(labels) if label not in needed]
    if not drop:
        return x
    return cast(reduce(wide(value), "sum", drop, keep=False), value.dtype), tuple(
        label for label in labels if label in needed
    )


def _contract(x: Labelled, y: Labelled, needed: set[Any]) -> Labelled:
    """The product of two operands, summed over the labels that only they have."""
    (a, la), (b, lb) = _keep(x, needed | set(y[1])), _keep(y, needed | set(x[1]))
    batch, left, right, summed = _blocks(la, lb, needed)
    order = [*batch, *left, *right, *summed]
    if not summed:
        return _placed(a, la, order) * _placed(b, lb, order), tuple(order)
    product = _placed(wide(a), la, order) * _placed(wide(b), lb, order)
    out = reduce(product, "sum", range(-len(summed), 0), keep=False)
    return cast(out, a.dtype), (*batch, *left, *right)


def _blocks(la: tuple[Any, ...], lb: tuple[Any, ...], needed: set[Any]) -> tuple[list[Any], ...]:
    """Labels of both operands that are needed, of the first only, of the second only, and those summed over."""
    batch = [label for label in la if label in lb and label in needed]
    summed = [label for label in la if label in lb and label not in needed]
    return batch, [label for label in la if label not in lb], [label for label in lb if label not in la], summed


def _placed(x: Value, labels: tuple[Any, ...], order: list[Any]) -> Value:
    x = permute(x, [labels.index(label) for label in order if label in labels])
    return unsqueeze(x, [i for i, label in enumerate(order) if label not in labels])


einsum.adjoint(body_adjoint)


LabelledArray = tuple[Array, tuple[Any, ...]]


@einsum.numpy
def _(*xs: Array, equation: str) -> Array:
    """Every two operands as one product of matrices."""
    operands, out = parse_equation(equation, [x.ndim for x in xs])
    rest = [_array_diagonals(x, labels) for x, labels in zip(xs, operands, strict=True)]
    done = rest.pop(0)
    while rest:
        needed = {*out, *(label for _, labels in rest[1:] for label in labels)}
        done = _array_product(done, rest.pop(0), needed)
    value, labels = _array_sum(done, set(out))
    value = value.transpose([labels.index(label) for label in out if label in labels])
    return np.expand_dims(value, [i for i, label in enumerate(out) if label not in labels])


def _array_diagonals(x: Array, labels: tuple[Any, ...]) -> LabelledArray:
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            x = np.diagonal(x, 0, i, j)
            labels = (*(other for a, other in enumerate(labels) if a not in (i, j)), label)
    return x, labels


def _array_sum(x: LabelledArray, needed: set[Any]) -> LabelledArray:
    value, labels = x
    drop = tuple(i for i, label in enumerate(labels) if label not in needed)
    if not drop:
        return x
    total = wide_array(value).sum(drop, dtype=wide_array(value).dtype)
    return np.asarray(total).astype(value.dtype), tuple(label for label in labels if label in needed)


def _array_product(x: LabelledArray, y: LabelledArray, needed: set[Any]) -> LabelledArray:
    (a, la), (b, lb) = _array_sum(x, needed | set(y[1])), _array_sum(y, needed | set(x[1]))
    batch, left, right, summed = _blocks(la, lb, needed)
    sizes: dict[Any, int] = {}
    for label, n in [*zip(la, a.shape, strict=True), *zip(lb, b.shape, strict=True)]:
        sizes[label] = n if sizes.get(label, 1) == 1 else sizes[label]
    parts: list[Array] = []
    for value, labels, blocks in ((a, la, (batch, left, summed)), (b, lb, (batch, summed, right))):
        flat = [label for block in blocks for label in block]
        moved = wide_array(value).transpose([labels.index(label) for label in flat])
        full = np.broadcast_to(moved, [sizes[label] for label in flat])
        parts.append(full.reshape([math.prod(sizes[label] for label in block) for block in blocks]))
    out = np.matmul(parts[0], parts[1]) if summed else parts[0] * parts[1]
    order = (*batch, *left, *right)
    return out.reshape([sizes[label] for label in order]).astype(a.dtype, copy=False), order


@composite
def bilinear(x1: Value, x2: Value, weight: Value, bias: Value | None = None) -> Value:
    """``x1 @ weight[o] @ x2 + bias[o]``: ``[... a]``, ``[... b]``, weight ``[o a b]`` -> ``[... o]``."""
    if weight.rank != 3 or not x1.rank or not x2.rank or (x1.shape[-1], x2.shape[-1]) != weight.shape[1:]:
        raise TypeMismatchError(
            f"bilinear: x1 [... a], x2 [... b] and weight [o a b] differ: {x1.type}, {x2.type} and {weight.type}"
        )
    row = squeeze(matmul(unsqueeze(wide(x1), (-2, -3)), wide(weight)), (-2,))  # [... o b]
    out = reduce(row * unsqueeze(wide(x2), (-2,)), "sum", (-1,), keep=False)
    return cast(out if bias is None else out + wide(bias), x1.dtype)


bilinear.adjoint(body_adjoint)
