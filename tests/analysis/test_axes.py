"""The axes of a graph: joining and splitting terms, lines, two views of one axis, constants, bodies, time."""

from __future__ import annotations

import gc
import time
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.terms import Axis, Line, resolve, size_of
from tdagger.transform.axes.unbatch import unbatch


def graph_of(*outputs: td.Value, **inputs: td.Value) -> td.Graph:
    return td.Graph(inputs, {f"y{i}": v for i, v in enumerate(outputs)})


# --- joining and splitting -----------------------------------------------------------------------------------


def test_an_axis_that_meets_a_product_is_split() -> None:
    x, y = td.input("x", (2, 12)), td.input("y", (2, 3, 4))
    axes = Axes(graph_of(td.add(x, td.group(y, (1, 2))), x=x, y=y))
    (b,), term = axes[x]
    assert (b,) == axes[y][0]
    assert term == axes[y][1] + axes[y][2]
    assert [a.size for a in term] == [3, 4]


def test_products_are_aligned_from_the_inside_out() -> None:
    x, y = td.input("x", (4, 6)), td.input("y", (2, 12))
    axes = Axes(graph_of(td.add(td.group(x, (2,)), td.group(y, (2,))), x=x, y=y))
    assert [a.size for t in axes[x] for a in t] == [2, 2, 6]
    assert [len(t) for t in axes[x]], [len(t) for t in axes[y]] == ([2, 1], [1, 2])
    assert sum(axes[x], ()) == sum(axes[y], ())
    assert not axes.opaque


def test_what_is_split_and_joined_again_is_itself() -> None:
    x = td.input("x", (2, 12))
    y = td.group(td.ungroup(x, 1, (3, 4)), (1, 2))
    axes = Axes(graph_of(td.add(x, y), x=x))
    assert axes[x] == axes[y] == axes.results[0]
    assert [len(t) for t in axes[x]] == [1, 2]


def test_splits_meet_in_their_common_factors() -> None:
    x = td.input("x", (24,))
    y, z = td.ungroup(x, 0, (4, 6)), td.ungroup(x, 0, (2, 12))
    axes = Axes(graph_of(y, z, x=x))
    assert [a.size for a in axes[x][0]] == [2, 2, 6]
    assert axes[y][1] == axes[z][1][1:]


def test_sizes_of_zero() -> None:
    x, y = td.input("x", (0, 3)), td.input("y", (0, 3))
    axes = Axes(
        graph_of(td.add(td.group(x, (2,)), td.group(y, (2,))), td.ungroup(td.group(x, (2,)), 0, (0, 5)), x=x, y=y)
    )
    assert axes[x] == axes[y]
    assert [size_of(t) for t in axes.results[1]] == [0, 5]


# --- axes of size 1 --------------------------------------------------------------------------------------------


def test_a_batch_of_one_is_carried_through_group_and_ungroup() -> None:
    x = td.input("x", (1, 6, 4))
    merged = td.group(x, (2, 1))
    apart = td.ungroup(merged, 0, (1, 6))
    axes = Axes(graph_of(apart, x=x))
    (b,), (s,), (d,) = axes[x]
    assert axes[merged] == ((b, s), (d,))
    assert axes[apart] == ((b,), (s,), (d,))


def test_a_batch_of_one_goes_with_windows_and_comes_back() -> None:
    """As Swin does: windows are merged into the batch, and taken out of it again."""
    x = td.input("x", (1, 4, 6))
    y = td.group(td.ungroup(x, 1, (2, 2)), (2, 1, 1))
    z = td.group(td.ungroup(td.sin(y), 0, (1, 2)), (1, 2, 1))
    axes = Axes(graph_of(z, x=x))
    assert axes[y][0] == (*axes[x][0], axes[x][1][0])
    assert axes[z] == axes[x]


def test_a_batch_of_one_beside_new_dimensions_of_one() -> None:
    x = td.input("x", (1, 5))
    y = td.unsqueeze(x, (1,))
    axes = Axes(graph_of(y, x=x))
    assert axes[y][0] == axes[x][0]
    assert [a.kind for a in axes[y][1]] == ["one"]


def test_joined_to_nothing_it_stays_and_the_other_is_not_changed() -> None:
    x, p = td.input("x", (1, 5)), td.parameter("p", (1, 5))
    y = td.add(x, p)
    axes = Axes(graph_of(y, x=x))
    assert axes[y][0] == axes[x][0] != ()
    assert axes[p][0] == ()
    assert axes.at(y, 1)[0] == axes[x][0]  # as it is taken


def test_an_entry_of_a_batch_of_one() -> None:
    x = td.input("x", (1, 5))
    y = td.select(x, 0, 0)
    graph = graph_of(y, x=x)
    assert [m.how for m in Axes(graph).marks] == ["takes one entry of"]
    assume = Axes(graph, assume_size_one=True)
    assert not assume.marks
    assert assume[x][0][0] in assume[y][0]


# --- two views -------------------------------------------------------------------------------------------------


def test_two_views_of_one_axis_are_told_and_its_neighbours_stay() -> None:
    x = td.input("x", (2, 56, 3))
    windows, grid = td.ungroup(x, 1, (8, 7)), td.ungroup(x, 1, (7, 8))
    joined = td.add(td.group(windows, (1, 2, 1)), td.group(grid, (1, 2, 1)))
    axes = Axes(graph_of(windows, grid, joined, x=x))
    assert [(o.value, size_of(o.term), size_of(o.other)) for o in axes.opaque] == [(grid, 56, 56), (joined, 56, 56)]
    for value in (windows, grid, joined):
        assert axes[value][0] == axes[x][0]
        assert axes[value][-1] == axes[x][2]
    assert [size_of(t) for t in axes[grid]] == [2, 7, 8, 3]
    assert set(axes[grid][1]).isdisjoint(axes[x][1])
    assert len(axes.equal) == len(axes.opaque)  # what resize has to hold to


def test_two_views_take_no_more_than_they_must() -> None:
    """10 x 6 as 4 x 15: no common factors until both are whole; what lies around is split as ever."""
    x = td.input("x", (5, 60))
    y = td.ungroup(td.group(td.ungroup(x, 1, (10, 6)), (1, 2)), 1, (4, 15))
    axes = Axes(graph_of(y, x=x))
    assert axes[y][0] == axes[x][0]
    assert [size_of(t) for t in axes[y]] == [5, 4, 15]
    assert len(axes.opaque) == 1


# --- lines -----------------------------------------------------------------------------------------------------


def line_of(term: Any) -> Line:
    (axis,) = resolve(term)
    (line,) = axis.lines
    return line


def test_a_slice_of_a_concatenation_is_the_part() -> None:
    x, y = td.input("x", (2, 5)), td.input("y", (2, 3))
    both = td.concat([x, y, x], 1)
    axes = Axes(graph_of(*(v := [td.slice_axis(both, 1, *b) for b in ((0, 5), (5, 8), (5, 13), (1, 4))]), x=x, y=y))
    (n,), (m,) = axes[x][1], axes[y][1]
    assert axes[v[0]][1] == (n,)
    assert axes[v[1]][1] == (m,)
    assert line_of(axes[v[2]][1]).parts == ((m,), (n,))
    assert size_of(axes[v[3]][1]) == 3
    assert axes.starts[v[1], 1] == Line(((n,),))


def test_a_slice_across_a_boundary_keeps_to_itself() -> None:
    x, y = td.input("x", (2, 5)), td.input("y", (2, 3))
    across = td.slice_axis(td.concat([x, y], 1), 1, 3, 7)
    axes = Axes(graph_of(across, x=x, y=y))
    assert [size_of(t) for t in axes[across]] == [2, 4]
    assert not set(axes[across][1]) & {*axes[x][1], *axes[y][1]}
    assert axes[across][0] == axes[x][0] == axes[y][0]


def test_the_same_line_is_the_same_axis() -> None:
    """Two branches that pad and take windows alike can be added."""
    x = td.input("x", (2, 9))
    one = td.pad(td.sin(x), [None, (1, 1)])
    two = td.pad(td.exp(x), [None, (2, 0)])
    axes = Axes(graph_of(td.concat([x, x], 1), td.concat([td.sin(x), x], 1), one, two, x=x))
    first, second, third, fourth = axes.results
    assert first == second
    assert [size_of(t) for t in (*third, *fourth)] == [2, 11, 2, 11]


def test_sums_that_are_one_have_the_same_parts() -> None:
    """Keys and values of one layer, each with a new one behind: what was there before are as many."""
    keys, values = td.input("keys", (7, 3)), td.input("values", (7, 5))
    new_key, new_value = td.input("new_key", (2, 3)), td.input("new_value", (2, 5))
    k, v = td.concat([keys, new_key], 0), td.concat([values, new_value], 0)
    new = new_key * td.slice_axis(new_value, 1, 0, 3)
    both = td.slice_axis(k, 1, 0, 1) * td.slice_axis(v, 1, 0, 1)
    axes = Axes(graph_of(new, both, keys=keys, values=values, new_key=new_key, new_value=new_value))
    assert axes[keys][0] == axes[values][0]
    assert axes[keys][0] != axes[new_key][0]


def test_sums_of_parts_in_another_order_stay_apart() -> None:
    x, y, one, two = (td.input(n, (m,)) for n, m in (("x", 4), ("y", 4), ("one", 1), ("two", 1)))
    axes = Axes(graph_of(td.concat([x, one], 0) + td.concat([two, y], 0), x=x, y=y, one=one, two=two))
    assert axes[x] != axes[y]


def test_a_floor_of_a_floor_is_one_floor() -> None:
    x = td.input("x", (16,))
    step = lambda v: td.ungroup(td.unfold(v, 0, 3, 2), 0, (-1, 3))  # noqa: E731
    halves = td.reduce(step(td.pad(x, [(1, 1)])), "sum", (1,), False)
    quarters = td.reduce(step(td.pad(halves, [(1, 1)])), "sum", (1,), False)
    axes = Axes(graph_of(halves, quarters, x=x))
    assert axes[x][0] != axes[halves][0]
    line = line_of(axes[quarters][0])
    assert line.divisor == 4
    assert line.parts == (axes[x][0],)
    assert (16 + line.offset) // 4 == quarters.shape[0] == 4


def test_what_a_step_takes_twice_over_is_whole_again() -> None:
    x = td.input("x", (6,))
    twice = td.concat([x, x], 0)
    half = td.unfold(twice, 0, 1, 2)
    axes = Axes(graph_of(half, x=x))
    assert [a for a in axes[half][0] if a.kind != "kernel"] == [*axes[x][0]]


def test_constant_entries_are_a_fill() -> None:
    x = td.input("x", (0, 3))
    y = td.pad(td.slice_axis(x, 1, 0, 0), [None, (2, 1)])
    axes = Axes(graph_of(y, x=x))
    assert size_of(axes[y][1]) == 3


# --- constants -------------------------------------------------------------------------------------------------


def test_a_constant_used_twice_has_axes_of_its_own() -> None:
    x, y = td.input("x", (2, 5)), td.input("y", (5, 2))
    numbers = td.iota(5, "f32")
    p, q = td.add(x, td.unsqueeze(numbers, (0,))), td.add(y, td.unsqueeze(numbers, (1,)))
    axes = Axes(graph_of(p, q, x=x, y=y))
    assert axes[x][1] != axes[y][0]
    shared = td.const(np.full((5,), 2.0, "f4"))
    x, y = td.input("x", (5,)), td.input("y", (5,))
    axes = Axes(graph_of(td.add(x, shared), td.add(y, shared), x=x, y=y))
    assert axes[x] != axes[y]


def test_a_constant_that_is_written_to_at_an_index_made_for_it_is_one_tensor() -> None:
    x = td.input("x", (6,), "i64")
    table = td.broadcast_to(td.const(0, "i64"), (6,))
    index = td.linear_index(table, x, axis=0, signed=(True,))
    out = td.scatter(table, index, x, axis=0)
    axes = Axes(td.Graph({"x": x}, {"y": out}))
    assert axes.at(index, 0) == axes.at(out, 0) == axes[out]


def test_what_constants_are_made_of_is_static_and_never_dynamic() -> None:
    x = td.input("x", (2, 5))
    mask = td.less(td.broadcast_to(td.iota(5), (2, 5)), td.const(np.full((2, 5), 3)))
    y = td.where(mask, x, td.neg(x))
    axes = Axes(graph_of(y, x=x))
    assert mask in axes.static
    assert not axes.is_dynamic(mask)
    assert axes.is_dynamic(y)
    assert axes.at(y, 0) == axes[x]


# --- bodies ----------------------------------------------------------------------------------------------------


def test_a_body_is_looked_at_once_for_an_op_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[td.Graph] = []
    original = Axes.__init__

    def counting(self: Axes, graph: td.Graph, assume_size_one: bool = False) -> None:
        made.append(graph)
        original(self, graph, assume_size_one)

    monkeypatch.setattr(Axes, "__init__", counting)
    x = y = td.input("x", (2, 13, 19))  # sizes that no other test has: what is known of an op lives as long as the op
    for i in range(20):
        y = td.gelu(td.layer_norm(y, td.parameter(f"w{i}", (19,)), rank=1))
    graph = graph_of(y, x=x)
    Axes(graph)
    bodies = len(made) - 1
    assert 2 <= bodies <= 8  # those of the two, and of the composites inside of them
    Axes(graph)
    assert len(made) == bodies + 2
    y = td.gelu(td.input("x", (2, 14, 19)))
    Axes(graph_of(y, x=y.args[0]))
    assert len(made) > bodies + 3  # other types


def test_what_is_known_of_a_body_goes_with_its_op() -> None:
    """A process that imports many networks doesn't grow by the bodies of each."""
    x = td.input("x", (3, 23, 8))
    y = td.layer_norm(x, rank=1, eps=0.123)
    axes = Axes(graph_of(y, x=x))
    assert unbatch(axes, axes[x][0]).run().outputs["y0"].shape == (23, 8)
    op = weakref.ref(y.op)
    del axes, y
    gc.collect()
    assert op() is None


def test_a_body_says_what_becomes_of_the_axes_outside() -> None:
    q, k, v = (td.input(n, (2, 4, s, 8)) for n, s in (("q", 5), ("k", 7), ("v", 7)))
    y = _attend(q, k, v)
    axes = Axes(graph_of(y, q=q, k=k, v=v))
    assert axes[y] == (*axes[q][:3], axes[v][3])
    assert axes[k][2] == axes[v][2] != axes[q][2]


def _attend(q: td.Value, k: td.Value, v: td.Value) -> td.Value:
    return td.matmul(td.softmax(td.matmul(q, td.transpose(k, -1, -2)), axis=-1), v)


def test_marks_of_a_body_are_the_values_own() -> None:
    x = td.input("x", (2, 5))
    y = td.softmax(x, axis=1)
    axes = Axes(graph_of(y, x=x))
    assert {m.value for m in axes.marks} == {y}
    assert {a for m in axes.marks for a in resolve(m.term)} == set(axes[x][1])


# --- size and time ---------------------------------------------------------------------------------------------


def chain(n: int) -> td.Graph:
    x = y = td.input("x", (4, 6))
    with td.bulk():
        for i in range(n // 4):
            y = td.add(y, td.parameter(f"p{i % 7}", (4, 6)))
            y = td.group(td.ungroup(td.sin(y), 1, (2, 3)), (1, 2))
        return graph_of(y, x=x)


def test_deep_graphs_and_linear_time() -> None:
    """A chain of 100,000 values: no recursion, and ten times the nodes take about ten times as long."""

    def seconds(n: int) -> float:
        graph = chain(n)
        start = time.process_time()
        axes = Axes(graph)
        took = time.process_time() - start
        assert [len(t) for t in axes.results[0]] == [1, 2]
        return took

    small = min(seconds(10_000) for _ in range(3))
    large = seconds(100_000)
    assert large < 20 * small, f"{small:.3f} s for 10,000 values, {large:.3f} s for 100,000"


def test_an_axis_found_equal_many_times_is_found_fast() -> None:
    """A hundred thousand inputs of one axis: the chains of equal axes stay short."""
    axes = [Axis(4, "input") for _ in range(100_000)]
    for a, b in pairwise(axes):
        a.root().parent = b.root() if a.root() is not b.root() else None
    assert len({a.root() for a in axes}) == 1
    assert axes[0].root() is axes[-1]
