"""Plans: places in one block that never overlap, proved by running a network inside of the block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tdagger as td
from tdagger.analysis.memory.activations import Buffer, buffers, memory, overwritten, peak
from tdagger.analysis.memory.plan import Plan, plan
from tdagger.errors import AttributeValueError
from tdagger.graph import is_view, result_types
from tdagger.interpret import interpret
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item
from tests.graphs import graphs
from tests.networks import NETWORKS


@st.composite
def moving(draw: st.DrawFn, size: int = 14) -> td.Graph:
    """A graph with views, moves, casts of other sizes, several results and broadcast over squares."""
    values = [td.input("x", (3, 3)), td.parameter("p", (3, 3)), td.broadcast_to(td.const(0.5), (3, 3))]
    inputs = {"x": values[0]}

    def pick() -> Value:
        return values[draw(st.integers(0, len(values) - 1))]

    for _ in range(draw(st.integers(1, size))):
        kind, a = draw(st.integers(0, 8)), pick()
        if kind == 0:
            values.append(td.ungroup(td.group(td.exp(a), (2,)), 0, (3, 3)))
        elif kind == 1:
            values.append(td.permute(a, (1, 0)))
        elif kind == 2:
            values.append(td.repeat(td.slice_axis(a, 0, 1, 2), [3, None]))
        elif kind == 3:
            values.append(td.repeat(td.reduce(a, "max", (1,)), [None, 3]))
        elif kind == 4:
            values.extend(td.topk(a, k=3, axis=1)[:1])
        elif kind == 5:
            values.append(td.cast(td.cast(a, "f64"), "f32"))
        elif kind == 6:
            values.append(td.silu(a))
        elif kind == 7:
            values.append(td.slice_axis(td.concat([pick(), a], 0), 0, 2, 5))
        else:
            values.append(td.subtract(a, pick()) * pick())
    return td.Graph(inputs, {"y": values[-1], "z": pick()})


def _data(values: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {n: np.asarray(generator.random(v.shape)).astype(v.dtype.numpy) for n, v in values.items()}


def _inside(graph: td.Graph, made: Plan, inputs: Any, weights: Any) -> dict[str, Any]:
    """Run a graph with every activation at its place in one block; what a value was is read back only from there."""
    block = np.full(made.size, 0xAB, np.uint8)
    results: dict[Value, Any] = {}
    for value in graph.values:
        op = value.op
        if isinstance(op, Leaf):
            results[value] = (inputs if op.name == "input" else weights)[op.leaf]
        elif isinstance(op, Const):
            results[value] = op.data
        elif isinstance(op, Item):
            results[value] = results[value.args[0]][op.index]
        else:
            out = op.run(*[results[a] for a in value.args])
            results[value] = out if is_view(value) else _stored(value, out, made, block)
    return {name: results[v].copy() for name, v in graph.outputs.items()}


def _apart(graph: td.Graph, inputs: Any, weights: Any) -> dict[str, Any]:
    """The outputs with every activation in memory of its own, row by row as in a plan: so numpy adds in one order."""

    def rule(value: Value, args: list[Any]) -> Any:
        if isinstance(value.op, Leaf):
            return (inputs if value.op.name == "input" else weights)[value.op.leaf]
        if isinstance(value.op, Item):
            return args[0][value.op.index]
        out = value.op.run(*args)
        if isinstance(value.op, Const) or is_view(value):
            return out
        return tuple([np.array(o, order="C") for o in out]) if isinstance(out, tuple) else np.array(out, order="C")

    return interpret(graph, rule)[0]


def _stored(value: Value, out: Any, made: Plan, block: Any) -> Any:
    types = result_types(value)
    placed: list[Any] = []
    for i, (t, array) in enumerate(zip(types, out if isinstance(out, tuple) else (out,), strict=True)):
        at = next(o for b, o in made.offsets.items() if b.value is value and b.index == i)
        place = block[at : at + t.bytes].view(t.dtype.numpy).reshape(t.shape)
        place[...] = array
        placed.append(place)
    return tuple(placed) if isinstance(value.type, tuple) else placed[0]


def _check(graph: td.Graph, made: Plan) -> None:
    weights, inputs = _data({**graph.parameters, **graph.buffers}), _data(graph.inputs)
    before = {n: a.copy() for n, a in {**weights, **inputs}.items()}
    with np.errstate(all="ignore"):
        found = _inside(graph, made, inputs, weights)
        expected = _apart(graph, inputs, weights)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    for name, array in before.items():
        np.testing.assert_array_equal({**weights, **inputs}[name], array)


def _overlap(a: Buffer, b: Buffer, offsets: Any) -> bool:
    """Whether two buffers share memory at a step; a step where one ends and the other begins is its op's own."""
    together = max(a.start, b.start) < min(a.stop, b.stop)
    return together and offsets[a] < offsets[b] + b.size and offsets[b] < offsets[a] + a.size


@pytest.mark.parametrize("over", [False, True], ids=["apart", "in place"])
@given(graph=moving())
def test_a_network_runs_inside_of_its_plan(graph: td.Graph, over: bool) -> None:
    made = plan(graph, 8, in_place=over)
    _check(graph, made)
    held, found = memory(graph), buffers(graph)
    assert set(made.offsets) == set(found)
    assert made.peak_bytes in ((held.in_place_bytes, held.peak_bytes) if over else (held.peak_bytes,))
    assert held.in_place_bytes <= made.peak_bytes <= made.size
    assert not over or made.size <= plan(graph, 8).size
    assert held.in_place_bytes <= held.peak_bytes <= held.sum_bytes == made.sum_bytes
    for i, a in enumerate(found):
        assert made.offsets[a] % 8 == 0
        assert 0 <= made.offsets[a] <= made.offsets[a] + a.size <= made.size
        assert not any(_overlap(a, b, made.offsets) for b in found[:i])


@given(graphs(size=30))
def test_graphs_of_every_kind_of_leaf_run_inside_of_their_plan(graph: td.Graph) -> None:
    for over in (False, True):
        _check(graph, plan(graph, 64, in_place=over))


@pytest.mark.parametrize("name", ["MambaForCausalLM", "CLIPModel", "GRU"])
def test_networks_run_inside_of_their_plan(name: str) -> None:
    module, args, kwargs = NETWORKS[name](small=True)
    dag = td.from_torch(module, args, kwargs)
    made = dag.memory_plan()
    weights, inputs = {n: dag.weights[n] for n in (*dag.graph.parameters, *dag.graph.buffers)}, _data(dag.graph.inputs)
    with np.errstate(all="ignore"):
        found = _inside(dag.graph, made, inputs, weights)
        expected = _apart(dag.graph, inputs, weights)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
    assert made.size <= dag.memory_plan(in_place=False).size


def _graph(output: Value, *inputs: Value) -> td.Graph:
    return td.Graph({x.op.leaf: x for x in inputs}, {"y": output})  # type: ignore[attr-defined]


def test_an_input_is_never_written_over() -> None:
    x = td.input("x", (16,))
    assert plan(_graph(td.exp(x), x), in_place=True).size == 64


def test_what_is_needed_later_is_not_written_over() -> None:
    x = td.input("x", (16,))
    a = td.exp(x)
    b = td.sin(a)
    graph = _graph(td.reduce(b, "sum") + td.reduce(a, "sum"), x)
    assert plan(graph, in_place=True).offsets.keys() == set(buffers(graph))
    assert memory(graph).in_place_bytes == memory(graph).peak_bytes


def test_an_output_is_not_written_over() -> None:
    x = td.input("x", (16,))
    a = td.exp(x)
    graph = td.Graph({"x": x}, {"a": a, "b": td.sin(a)})
    assert plan(graph, in_place=True).size == 128


def test_a_repeated_view_is_not_written_over() -> None:
    x = td.input("x", (4, 4))
    a = td.exp(x)
    row = td.repeat(td.reduce(a, "max", (0,)), [4, None])
    b = row + 1.0
    assert [b.size for b in plan(_graph(b, x), in_place=True).offsets] == [64, 16, 64]
    assert memory(_graph(b, x)).in_place_bytes == 16 + 64


def test_a_transposed_argument_is_not_written_over() -> None:
    @td.composite
    def plus_transposed(x: Value) -> Value:
        return x + td.permute(x, (1, 0))

    square = td.TensorType((3, 3), "f32")
    value = plus_transposed(td.input("x", (3, 3)))
    assert overwritten(value.op, square, (square,)) == ()
    assert overwritten(td.silu(value).op, square, (square,)) == (0,)
    assert overwritten(td.softmax(value, axis=0).op, square, (square,)) == ()


def test_an_alignment_is_positive() -> None:
    x = td.input("x", (4,))
    with pytest.raises(AttributeValueError, match="positive number of bytes, got 0"):
        plan(_graph(td.exp(x), x), 0)


def test_a_plan_is_a_table() -> None:
    x = td.input("x", (16,))
    text = str(plan(_graph(td.reduce(td.exp(x), "sum"), x)))
    assert "             0             64       1       2  exp f32[16]" in text
    assert text.endswith("2 buffers in 128 bytes, 1.882 of the peak 68; all: 68")


@pytest.mark.parametrize("few", [0, 2000], ids=["in order", "both"])
@pytest.mark.parametrize("name", ["MambaForCausalLM", "GPT2LMHeadModel"])
def test_a_plan_of_a_network_is_near_the_peak(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdagger.analysis.memory.plan._FEW", few)
    module, args, kwargs = NETWORKS[name](small=True)
    graph = td.from_torch(module, args, kwargs).graph
    assert plan(graph, 1).size <= 1.25 * peak(graph)[0]
    assert plan(graph, 1, in_place=True).size <= 1.25 * memory(graph).in_place_bytes
