"""Random graphs for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

import tdagger as td

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
