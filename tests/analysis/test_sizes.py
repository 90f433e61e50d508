"""Sizes that follow from others: products, lines, windows; what can't follow is named."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import solve
from tdagger.errors import AxisError
from tdagger.transform.networks import at_sizes


def graph_of(*outputs: td.Value, **inputs: td.Value) -> td.Graph:
    return td.Graph(inputs, {f"y{i}": v for i, v in enumerate(outputs)})


def sizes_of(graph: td.Graph, **shapes: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """The shapes of the results where inputs have others."""
    axes = Axes(graph)
    wanted = {t: n for k, shape in shapes.items() for t, n in zip(axes[graph.inputs[k]], shape, strict=True)}
    sizes = solve(axes, wanted)
    return [tuple(map(sizes.of, terms)) for terms in axes.results]


def windows(x: td.Value, axis: int, kernel: int, stride: int) -> td.Value:
    """The sum of every window along an axis."""
    apart = td.ungroup(td.unfold(x, axis, kernel, stride), axis, (-1, kernel))
    return td.reduce(apart, "sum", (axis + 1,), False)


def test_what_nobody_asks_for_stays() -> None:
    x, y = td.input("x", (2, 5)), td.input("y", (3, 7))
    assert sizes_of(graph_of(td.sin(x), td.sin(y), x=x, y=y), x=(4, 9)) == [(4, 9), (3, 7)]


def test_what_is_joined_follows() -> None:
    x, y = td.input("x", (2, 5)), td.input("y", (2, 5))
    graph = graph_of(td.add(x, y), td.concat([x, y], 1), x=x, y=y)
    assert sizes_of(graph, x=(4, 9)) == [(4, 9), (4, 18)]


def test_a_product_with_one_unknown() -> None:
    x, y = td.input("x", (24,)), td.input("y", (4,))
    graph = graph_of(td.add(td.ungroup(x, 0, (6, 4)), td.broadcast_to(y, (6, 4))), x=x, y=y)
    assert sizes_of(graph, x=(40,), y=(4,)) == [(10, 4)]
    assert sizes_of(graph, x=(40,), y=(8,)) == [(5, 8)]
    with pytest.raises(AxisError, match="6 x 4 entries, would need 42"):
        sizes_of(graph, x=(42,), y=(4,))


def test_the_inner_factor_stays_where_nothing_tells() -> None:
    """As of windows, patches and heads: more of them, not larger ones."""
    x = td.input("x", (24,))
    graph = graph_of(td.ungroup(x, 0, (6, 4)), td.ungroup(x, 0, (2, 3, 4)), x=x)
    assert sizes_of(graph, x=(48,)) == [(12, 4), (4, 3, 4)]
    with pytest.raises(AxisError):
        sizes_of(graph, x=(30,))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (2, 2), (7, 4), (4, 3)])
def test_windows_follow(kernel: int, stride: int) -> None:
    def build(n: int) -> td.Graph:
        x = td.input("x", (2, n))
        once = windows(td.pad(x, [None, (1, 1)]), 1, kernel, stride)
        return graph_of(once, windows(td.pad(once, [None, (2, 2)]), 1, kernel, stride), x=x)

    for n in range(20, 40):
        wanted = [v.shape for v in build(n).outputs.values()]
        assert sizes_of(build(31), x=(2, n)) == wanted


def test_windows_that_are_added_to_what_they_are_of() -> None:
    """A residual connection around a window of 3 with a padding of 2 says nothing new."""
    x = td.input("x", (2, 9))
    y = td.add(x, windows(td.pad(x, [None, (1, 1)]), 1, 3, 1))
    assert sizes_of(graph_of(y, x=x), x=(2, 14)) == [(2, 14)]
    halves, other = windows(td.pad(x, [None, (1, 1)]), 1, 3, 2), td.input("y", (2, 5))
    graph = graph_of(td.add(halves, other), x=x, y=other)
    assert sizes_of(graph, x=(2, 13), y=(2, 7)) == [(2, 7)]
    with pytest.raises(AxisError, match="7"):
        sizes_of(graph, x=(2, 13), y=(2, 5))


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_parameters_and_buffers_are_rigid(kind: str) -> None:
    x = td.input("x", (2, 197, 8))
    table = getattr(td, kind)("positions", (197, 8))
    graph = graph_of(td.add(x, td.broadcast_to(table, (2, 197, 8))), x=x)
    assert sizes_of(graph, x=(5, 197, 8)) == [(5, 197, 8)]
    with pytest.raises(AxisError, match="of positions has 197 entries and can't have 200"):
        sizes_of(graph, x=(2, 200, 8))


def test_a_constant_that_does_not_count_is_rigid() -> None:
    x = td.input("x", (2, 4))
    odd = td.const(np.array([3.0, 1.0, 4.0, 1.0], "f4"))
    with pytest.raises(AxisError, match=r"constant.*4 entries and can't have 6"):
        sizes_of(graph_of(td.add(x, td.broadcast_to(odd, (2, 4))), x=x), x=(2, 6))
    for good in (td.const(np.arange(4, dtype="f4")), td.const(np.full(4, 7.0, "f4")), td.iota(4, "f32")):
        assert sizes_of(graph_of(td.add(x, td.broadcast_to(good, (2, 4))), x=x), x=(2, 6)) == [(2, 6)]


def test_what_nothing_tells_of_is_known_where_lines_need_it() -> None:
    """A dimension of size 1 beside the axis, and something repeated, before what is laid end to end."""
    x = td.input("x", (2, 3))
    beside = td.group(td.unsqueeze(x, (0,)), (2, 1))
    assert sizes_of(graph_of(td.pad(beside, [(1, 2), None]), x=x), x=(5, 3)) == [(8, 3)]
    token = td.broadcast_to(td.parameter("token", ()), (4, 3))
    assert sizes_of(graph_of(td.concat([token, x], 0), x=x), x=(5, 3)) == [(9, 3)]


def test_slices_take_what_is_left() -> None:
    x = td.input("x", (2, 9))
    graph = graph_of(td.slice_axis(x, 1, 1, 9), td.slice_axis(x, 1, 0, 8), td.slice_axis(x, 1, 0, 2), x=x)
    assert sizes_of(graph, x=(2, 20)) == [(2, 19), (2, 19), (2, 2)]


def test_a_guess_gives_way_to_what_is_known() -> None:
    """A slice of fixed length that meets the axis it was cut for follows it."""
    x, table = td.input("x", (2, 5)), td.buffer("table", (64,))
    cut = td.slice_axis(table, 0, 0, 5)
    graph = graph_of(td.add(x, td.broadcast_to(cut, (2, 5))), x=x)
    assert sizes_of(graph, x=(2, 9)) == [(2, 9)]


def test_conflicts_say_what_meets_what() -> None:
    x, w = td.input("x", (2, 8)), td.parameter("w", (8, 5))
    graph = graph_of(td.matmul(x, w), x=x)
    with pytest.raises(AxisError, match="w has 8 entries and can't have 9"):
        sizes_of(graph, x=(2, 9))


def test_time_is_linear_where_factors_are_undecided() -> None:
    """Every layer splits what the one before padded, and nothing tells which factor grows."""

    def seconds(layers: int) -> float:
        x = y = td.input("x", (16,))
        for _ in range(layers):
            y = td.group(td.sin(td.ungroup(td.pad(y, [(2, 2)]), 0, (-1, 4))), (2,))
        axes = Axes(graph_of(y, x=x))
        start = time.process_time()
        sizes = solve(axes, {axes[x][0]: 40})
        took = time.process_time() - start
        assert [sizes.of(t) for t in axes.results[0]] == [40 + 4 * layers]
        return took

    small, large = (min(seconds(n) for _ in range(3)) for n in (300, 3000))
    assert large < 40 * small, f"{small:.4f} s for 300 layers, {large:.3f} s for 3000"  # a search took 100 times


def test_one_axis_cannot_have_two_sizes() -> None:
    x, y = td.input("x", (2, 5)), td.input("y", (2, 5))
    named = NamedAxes(Axes(graph_of(td.add(x, y), x=x, y=y)))
    graph, _ = at_sizes(named, {"x": (3, 7), "y": (3, 7)}, {})
    assert graph.outputs["y0"].shape == (3, 7)
    with pytest.raises(AxisError, match="can't have both 3 and 4 entries"):
        at_sizes(named, {"x": (3, 7), "y": (4, 7)}, {})
    with pytest.raises(AxisError, match=r"input x, .*2 5.*, can't become \(3,\)"):
        at_sizes(named, {"x": (3,)}, {})
