"""Random graphs for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import tdagger as td
from tdagger.ops.structure import Ungroup

UNARY = (td.neg, td.sin, td.tanh, td.abs_)
BINARY = (td.add, td.multiply, td.maximum, td.subtract)


@st.composite
def graphs(draw: st.DrawFn, size: int = 12) -> td.Graph:
    """A graph of elementwise ops, softmax and sums over tensors of one shape, with leaves of every kind."""
    shape = draw(st.sampled_from([(2, 3), (), (0, 2), (4,)]))
    values = [td.input("x", shape), td.input("y", shape), td.parameter("p", shape), td.buffer("b", shape)]
    values.append(td.broadcast_to(td.const(0.5), shape))
    inputs = {"x": values[0], "y": values[1]}
    for _ in range(draw(st.integers(0, size))):
        a, b = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        kind = draw(st.integers(0, len(UNARY) + len(BINARY) + 1))
        if kind < len(UNARY):
            values.append(UNARY[kind](a))
        elif kind < len(UNARY) + len(BINARY):
            values.append(BINARY[kind - len(UNARY)](a, b))
        elif shape:
            values.append(td.softmax(a, axis=-1) if kind % 2 else td.broadcast_to(td.reduce(a, "sum"), shape))
    picked = draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
    outputs = {f"out{i}": values[p] for i, p in enumerate(picked)}
    updates = {"b": values[-1]} if draw(st.booleans()) else {}
    return td.Graph(inputs, outputs, updates)


def _factors(n: int) -> tuple[int, int]:
    small = next((k for k in range(2, n) if n % k == 0), 1)
    return small, n // small


@st.composite
def layouts(draw: st.DrawFn, size: int = 10, exact: bool = False) -> td.Graph:
    """A graph that moves data: axes split, permuted, sliced, padded, reduced, indexed; and composites on those.

    ``exact``: of ops that every kernel rounds in one way, however the data lies.
    """
    x, p = td.input("x", (8, 12, 1, 4)), td.parameter("p", (6, 4))
    small = td.const(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 1, 2))
    values: list[td.Value] = [td.group(small, (2, 3)), p, x]
    values += [Ungroup(((2, 4), (2, 3, 2), (1,), (2, 2)))(x), Ungroup(((8,), (1, 6, 2), (1,), (4,)))(x)]
    for _ in range(draw(st.integers(1, size))):
        values += _moved(draw, values[-draw(st.integers(1, min(len(values), 5)))], exact)
    flat = [td.reshape(v, shape=(v.type.size,)) for v in values[-3:]]
    return td.Graph({"x": x}, {f"out{i}": v for i, v in enumerate(flat)})


def _moved(draw: st.DrawFn, x: td.Value, exact: bool) -> list[td.Value]:
    axis = draw(st.integers(0, x.rank - 1)) if x.rank else 0
    n = x.shape[axis] if x.rank else 1
    kind = draw(st.integers(0, 16))
    if kind <= 3 and x.rank < 7:
        return [td.ungroup(x, axis, _factors(n))] if x.rank else [td.unsqueeze(x, (0,))]
    if kind <= 6:
        return [td.permute(x, draw(st.permutations(range(x.rank))))]
    if not x.rank or x.type.size > 5000:
        return [td.neg(td.abs_(x)) if exact else td.exp(td.neg(td.abs_(x)))]
    if kind == 7:
        return [td.slice_axis(x, axis, n // 3, None), td.flip(x, (axis, draw(st.integers(0, x.rank - 1))))]
    if kind == 8:
        return [td.pad(x, [(draw(st.integers(0, 1)), 1, 0) if draw(st.booleans()) else None for _ in x.shape], 0.5)]
    if kind == 9:
        axes = [i for i in range(x.rank) if draw(st.booleans())] or [axis]
        small = td.reduce(x, draw(st.sampled_from(["max", "min"])), axes)
        return [small, td.repeat(small, [n if i in axes else None for i, n in enumerate(x.shape)]) + x]
    if kind == 10:
        return [td.concat([x, td.neg(x)], axis), td.stack(x, x, axis=axis)] if x.rank < 7 else [td.concat([x, x], axis)]
    if kind == 11:
        return [td.unfold(x, axis, 2), td.scan(x, "max", axis)] if n > 1 else [td.cast(td.argmax(x, axis=axis), "f32")]
    if kind == 12:
        index = td.const(np.array([[0, n - 1], [n // 2, 0]]))
        return [td.gather(x, index, axis)] if x.rank < 7 else [td.take_along(x, td.argsort(x, axis), axis)]
    if kind == 13:
        return [x * 0.5 if exact else td.softmax(x, axis=axis), td.roll(x, shifts=1, axes=axis)]
    if kind == 14:
        return [td.matmul(x, td.const(np.eye(x.shape[-1], 3, dtype=np.float32)))]
    return [td.maximum(x, x * 0.5 if exact else td.tanh(x)), td.relu(x)]
