"""Samples of choosing by data, and of parts that were named."""

from __future__ import annotations

from typing import Any

import numpy as np

import tdagger as td
from tests.samples import Array, Sample, numbers

_X, _Y = td.input("x", (2, 3)), td.input("y", (3,))


def _graph(*outputs: td.Value) -> td.Graph:
    return td.Graph({"x": _X, "y": _Y}, {str(i): v for i, v in enumerate(outputs)})


def _one(p: td.Value, x: td.Value, y: td.Value) -> Any:
    return td.cond(p, x, y, then=_graph(_X + 1.0), otherwise=_graph(_X * 2.0))


def _several(p: td.Value, x: td.Value, y: td.Value) -> Any:
    return td.cond(p, x, y, then=_graph(_Y, _X), otherwise=_graph(td.neg(_Y), _X * 2.0))


def _expected(several: bool) -> Any:
    def function(p: Array, x: Array, y: Array) -> Any:
        if several:
            return (y, x) if p else (-y, x * 2)
        return x + np.float32(1) if p else x * 2

    return function


def _part(results: dict[str, td.Value]) -> Any:
    """A block, with the names that its body has: those it gets when it is changed."""
    graph = td.Graph({"tensors0": _T0, "tensors1": _T1}, results, name="block")
    return lambda x, y: td.block(x, y, title="part", graph=graph)


_T0, _T1 = td.input("tensors0", (2, 3)), td.input("tensors1", (3,))
SAMPLES = [
    Sample("cond", f"{'several' if several else 'one'} {p}", _several if several else _one,
           (np.array(p), numbers((2, 3), "f32"), numbers((3,), "f32")), _expected(several))
    for several in (False, True) for p in (False, True)
]  # fmt: skip

SAMPLES += [
    Sample("block", "one result", _part({"out": _T0 * 2.0}),
           (numbers((2, 3), "f32"), numbers((3,), "f32")), lambda x, y: x * 2),
    Sample("block", "two results", _part({"0": td.neg(_T1), "1": _T0 * 2.0}),
           (numbers((2, 3), "f32"), numbers((3,), "f32")), lambda x, y: (-y, x * 2)),
]  # fmt: skip
