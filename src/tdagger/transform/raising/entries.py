"""Guesses of what works by element, along axes, and of norms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from tdagger.composite import composites
from tdagger.graph import label
from tdagger.ops.structure import Reduce, Slice, Ungroup
from tdagger.transform.raising.cone import Cone, Guess, Guesses, guess
from tdagger.types import TensorType

# --- element by element ------------------------------------------------------------------------------------


def elementwise(*names: str, arguments: int = 1) -> Callable[[Cone], Guesses]:
    """Composites of arguments of the result's type, whose attributes are defaults or numbers that are there."""

    def make(cone: Cone) -> Guesses:
        kind = cone.value.type
        for name in names:
            floats = [k for k, v in composites[name].defaults.items() if v is None or isinstance(v, float)]
            yield guess(name, (kind,) * arguments)
            if 1 <= len(floats) <= 2:
                near = [n for n in cone.numbers if not math.isnan(n)][:4]
                for chosen in itertools.product(near, repeat=len(floats)):
                    yield guess(name, (kind,) * arguments, **dict(zip(floats, chosen, strict=True)))

    return make


def gelu(cone: Cone) -> Guesses:
    """Guesses of gelu."""
    for how in ("none", "tanh"):
        yield guess("gelu", (cone.value.type,), approximate=how)


def limits(cone: Cone) -> Guesses:
    """Guesses of limits."""
    near = cone.numbers[:2]
    for name, low, high in (("hardtanh", "low", "high"), ("clamp", "low", "high")):
        for a, b in itertools.permutations([*near, *([None] if name == "clamp" else [])], 2):
            yield guess(name, (cone.value.type,), **{low: a, high: b})


# --- along axes --------------------------------------------------------------------------------------------


def reduced(cone: Cone) -> Iterator[tuple[TensorType, tuple[int, ...]]]:
    """The types that a nearby reduction takes, in the element type of the result too, and its axes."""
    for v in cone.ops(Reduce):
        kind = v.args[0].type
        for k in dict.fromkeys((kind, kind.with_dtype(cone.value.dtype))):
            yield k, v.op.axes


def reduction(*names: str) -> Callable[[Cone], Guesses]:
    """Guesses of reduction."""

    def make(cone: Cone) -> Guesses:
        for kind, axes in reduced(cone):
            for name in names:
                for keep in (True, False):
                    yield guess(name, (kind,), axes=axes, keep=keep)
                    if name in ("variance", "std"):
                        yield guess(name, (kind,), axes=axes, keep=keep, correction=0.0)
                    if name == "vector_norm":
                        for ord_ in (1.0, math.inf):
                            yield guess(name, (kind,), axes=axes, keep=keep, ord=ord_)

    return make


def along(*names: str) -> Callable[[Cone], Guesses]:
    """Guesses of along."""

    def make(cone: Cone) -> Guesses:
        for _, axes in reduced(cone):
            if len(axes) == 1:
                for name in names:
                    yield guess(name, (cone.value.type,), axis=axes[0])

    return make


def glu(cone: Cone) -> Guesses:
    """Guesses of glu."""
    for v in cone.ops(Slice, 1):
        kind = v.args[0].type.with_dtype(cone.value.dtype)
        for axis, bounds in enumerate(v.op.bounds):
            if bounds is not None:
                yield guess("glu", (kind,), axis=axis)


def arg(cone: Cone) -> Guesses:
    """Guesses of argmax and argmin: the second reduction says the axis, and whether it is kept."""
    for v in cone.ops(Reduce, 2)[1:]:
        if v.op.kind in ("max", "min"):
            for keep in (True, False):
                yield guess(f"arg{v.op.kind}", (v.args[0].type,), axis=v.op.axes[0], keep=keep)


def stack(cone: Cone) -> Guesses:
    """Guesses of stack: each part has an axis of one entry."""
    value, parts = cone.value, cone.value.args
    if label(value.op) != "concat":
        return
    axis: int = value.op.attributes["axis"]
    kind = parts[0].type
    if all(p.type is kind for p in parts) and kind.shape[axis] == 1:
        one = kind.with_shape((*kind.shape[:axis], *kind.shape[axis + 1 :]))
        yield Guess(composites["stack"], (one,) * len(parts), {"axis": axis}, ())


def roll(cone: Cone) -> Guesses:
    """Guesses of roll: the end of an axis before its start, for each axis."""
    shifts, axes = list[int](), list[int]()
    value = cone.value
    while label(value.op) == "concat" and len(value.args) == 2 and all(isinstance(x.op, Slice) for x in value.args):
        axis: int = value.op.attributes["axis"]
        size, step = value.type.shape[axis], value.args[0].type.shape[axis]
        shifts.insert(0, step if 2 * step <= size else step - size)
        axes.insert(0, axis)
        value = value.args[0].args[0]
        yield guess("roll", (cone.value.type,), shifts=tuple(shifts), axes=tuple(axes))


def normalize(cone: Cone) -> Guesses:
    """Guesses of normalize."""
    for _, axes in reduced(cone):
        for eps in cone.numbers:
            yield guess("normalize", (cone.value.type,), axes=axes, eps=eps)


# --- norms -------------------------------------------------------------------------------------------------

_AFFINE = ((True, True), (True, False), (False, True), (False, False))


def last_axes(cone: Cone) -> Guesses:
    """layer_norm and rms_norm: their reductions say how many axes."""
    kind = cone.value.type
    for _, axes in reduced(cone):
        rank = len(axes)
        if axes != tuple(range(kind.rank - rank, kind.rank)):
            continue
        weight = TensorType(kind.shape[kind.rank - rank :], kind.dtype)
        for eps in _eps(cone):
            for w, b in _AFFINE:
                yield guess("layer_norm", (kind, weight if w else None, weight if b else None), rank=rank, eps=eps)
            for w in (True, False):
                yield guess("rms_norm", (kind, weight if w else None), rank=rank, eps=eps)


def _eps(cone: Cone) -> list[float | None]:
    return [n for n in cone.numbers if 0 < n < 0.1]


def channels(cone: Cone) -> Guesses:
    """batch_norm, group_norm and instance_norm: vectors along axis 1."""
    kind = cone.value.type
    if kind.rank < 2:
        return
    for axis in dict.fromkeys((1, kind.rank - 1)):
        vector = TensorType((kind.shape[axis],), kind.dtype)
        for eps in _eps(cone):
            for w, b in _AFFINE:
                affine = (vector if w else None, vector if b else None)
                yield guess("batch_norm", (kind, vector, vector, *affine), eps=eps, axis=axis)
                if axis != 1:
                    continue
                yield guess("instance_norm", (kind, *affine), eps=eps)
                for v in cone.ops(Ungroup, 6):
                    if len(v.op.sizes) > 1 and len(v.op.sizes[1]) == 2:
                        yield guess("group_norm", (kind, *affine), eps=eps, groups=v.op.sizes[1][0])
