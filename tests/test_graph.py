"""Graphs: closed and named, equal node for node, walked and rebuilt without recursion."""

import copy
import gc
import math
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given

import tdagger as td
from tdagger.errors import GraphError
from tdagger.graph import bulk, flops, label, result_types, topological
from tdagger.interpret import run
from tdagger.op import Value
from tdagger.ops.elementwise import Unary
from tdagger.ops.source import Input
from tests.graphs import graphs

DEEP = 300_000


def chain(n: int) -> td.Graph:
    """``n`` nodes one after the other."""
    y = x = td.input("x", (2,))
    with bulk():
        for i in range(n):
            y = td.sin(y) if i % 2 else td.add(y, x)
    return td.Graph({"x": x}, {"y": y})


def small() -> td.Graph:
    x, w = td.input("x", (2, 3)), td.parameter("w", (2, 3))
    b = td.buffer("b", (2, 3))
    y = td.exp(x * w) + b
    return td.Graph({"x": x}, {"y": y}, {"b": y * 0.5}, "small")


# --- what a graph is -----------------------------------------------------------------------------------------


def test_values_come_after_their_arguments() -> None:
    g = small()
    place = {v: i for i, v in enumerate(g)}
    assert len(place) == len(g) == len(g.values)
    assert all(place[a] < place[v] for v in g for a in v.args)
    assert g.values[0] is g.inputs["x"]


def test_leaves() -> None:
    g = small()
    assert list(g.inputs) == ["x"]
    assert list(g.parameters) == ["w"]
    assert list(g.buffers) == ["b"]
    assert [v.op.run().tolist() for v in g.constants] == [0.5]
    assert repr(g) == f"<Graph small: 1 inputs, 1 outputs, {len(g)} values>"


def test_an_input_nobody_uses_stays() -> None:
    x, y = td.input("x", (2,)), td.input("y", (2,))
    g = td.Graph({"x": x, "y": y}, {"out": td.exp(x)})
    assert y in g.values
    assert g.users[y] == []


def test_an_input_must_be_an_input() -> None:
    x = td.input("x", (2,))
    with pytest.raises(GraphError, match=r"graph g: input 'y' must be an input leaf of that name, got <input x\("):
        td.Graph({"y": x}, {}, name="g")
    with pytest.raises(GraphError, match=r"input 'p' must be an input leaf of that name, got <parameter p\("):
        td.Graph({"p": td.parameter("p", (2,))}, {})


@pytest.mark.parametrize("where", ["outputs", "updates"])
def test_an_input_must_be_declared(where: str) -> None:
    x, hidden = td.input("x", (2,)), td.input("hidden", (2,))
    named = {"outputs": {"out": x}, "updates": {}} | {where: {"out": x + hidden}}
    g = td.Graph({"x": x}, named["outputs"], named["updates"], "g")
    with pytest.raises(GraphError, match=r"graph g: the outputs need <input hidden\(\).*not among the inputs"):
        len(g)


def test_equality() -> None:
    g, x = small(), td.input("x", (2, 3))
    assert g == small()
    assert hash(g) == hash(small())
    assert g == td.Graph(g.inputs, g.outputs, g.updates, "another name")
    assert g != td.Graph(g.inputs, g.outputs)
    assert g != td.Graph(g.inputs, {"z": g.outputs["y"]}, g.updates)
    assert g != td.Graph(g.inputs, {"y": x}, g.updates)
    assert g != "graph"


def test_users() -> None:
    x = td.input("x", (2,))
    y = x * x
    g = td.Graph({"x": x}, {"out": y + x})
    assert g.users[x] == [y, g.outputs["out"]]  # once each, though y takes x twice
    assert g.users[y] == [g.outputs["out"]]
    assert g.users[g.outputs["out"]] == []


@given(graphs())
def test_users_are_those_who_take_it(g: td.Graph) -> None:
    pairs = {(a, v) for v in g for a in v.args}
    assert {(a, v) for a, users in g.users.items() for v in users} == pairs


# --- totals --------------------------------------------------------------------------------------------------


def test_totals_by_hand() -> None:
    g = small()
    # x * w, exp, + b: 6 each; the constant 0.5 is repeated to 2 x 3 (no flops), then 6 more
    assert g.total_flops() == 4 * 6
    # w and b: 6 floats each, and the constant
    assert g.total_bytes() == (6 + 6 + 1) * 4
    # multiply 12, exp 6, add 12, multiply 6 and the one constant: repeating it to 2 x 3 is a view
    assert g.total_memory_reads("elements") == 12 + 6 + 12 + 6 + 1
    assert g.total_memory_reads() == 4 * g.total_memory_reads("elements")
    assert g.total_memory_writes("elements") == 4 * 6
    assert g.total_memory_writes() == 4 * g.total_memory_writes("elements")


@given(graphs())
def test_totals_are_sums_of_values(g: td.Graph) -> None:
    assert g.total_flops() == sum(map(flops, g))
    assert list(g.traffic) == g.values
    assert g.total_memory_reads() == sum(t.reads for t in g.traffic.values())
    assert g.total_memory_writes() == sum(t.writes for t in g.traffic.values())


def test_several_results() -> None:
    x = td.input("x", (4,))
    several = td.sort(x, axis=0)
    value = several[0].args[0]
    assert [str(t) for t in result_types(value)] == ["f32[4]", "i64[4]"]
    g = td.Graph({"x": x}, {"y": several[0]})
    assert g.traffic[value].writes == 4 * 4 + 4 * 8
    assert g.traffic[several[0]] == (0, 0)


def test_order() -> None:
    x = td.input("x", (2,))
    a, b, c = td.exp(x), td.sin(x), td.cos(x)
    y = td.add(td.add(c, b), a)
    plain = td.Graph({"x": x}, {"y": y})
    assert [v.op.kind for v in plain.values if v.op.name == "unary"] == ["cos", "sin", "exp"]
    ordered = td.Graph({"x": x}, {"y": y}, order=[a, td.tan(x), b, c])
    assert [v.op.kind for v in ordered.values if v.op.name == "unary"] == ["exp", "sin", "cos"]
    assert ordered == plain
    tanh = td.tanh(x)
    rebuilt, _ = td.rebuild(ordered, lambda v: tanh if v is b else None)
    assert [v.op.kind for v in rebuilt.values if v.op.name == "unary"] == ["exp", "tanh", "cos"]
    assert pickle.loads(pickle.dumps(ordered)).values == ordered.values


def test_labels() -> None:
    x = td.input("x", (2,))
    assert [label(v.op) for v in (x, td.exp(x), x + x, td.relu(x))] == ["input", "exp", "add", "relu"]


# --- rebuild -------------------------------------------------------------------------------------------------


@given(graphs())
def test_rebuild_with_no_change_is_the_same(g: td.Graph) -> None:
    for rule in (lambda v: None, lambda v: v):
        again, became = td.rebuild(g, rule)
        assert again == g
        assert became == {v: v for v in g}


@given(graphs())
def test_rebuild_changes_every_use(g: td.Graph) -> None:
    sin, cos = Unary("sin"), Unary("cos")
    new, became = td.rebuild(g, lambda v: cos(*v.args) if v.op is sin else None)
    assert set(became) == set(g)
    assert not any(v.op is sin for v in new)
    assert all(became[g.outputs[k]] is v for k, v in new.outputs.items())
    assert list(new.outputs) == list(g.outputs)
    rng = np.random.default_rng(0)
    leaves = {**g.inputs, **g.parameters, **g.buffers, **new.parameters, **new.buffers}
    data = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in leaves.items()}
    for old, out in zip(_with_sin_as_cos(g, data), run(new, data, data), strict=True):
        assert old.keys() == out.keys()
        for name in old:
            np.testing.assert_array_equal(old[name], out[name])


def _with_sin_as_cos(g: td.Graph, data: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
    """Results of ``g`` with every sin computed as a cos, without a rewrite."""
    results: dict[Value, np.ndarray] = {}
    for v in g:
        args = [results[a] for a in v.args]
        op = Unary("cos") if v.op is Unary("sin") else v.op
        results[v] = data[getattr(op, "leaf")] if hasattr(op, "leaf") else op.run(*args)  # noqa: B009
    return tuple({k: results[v] for k, v in d.items()} for d in (g.outputs, g.updates))


def test_rebuild_tells_what_became_of_each() -> None:
    x = td.input("x", (2,))
    y = td.exp(td.sin(x))
    g = td.Graph({"x": x}, {"out": y}, name="g")
    new, became = td.rebuild(g, lambda v: v.args[0] if v.op is Unary("sin") else None)
    assert new.outputs["out"] is td.exp(x) is became[y]
    assert became[y.args[0]] is x
    assert new.name == "g"


def test_rebuild_sees_new_arguments() -> None:
    x = td.input("x", (2,))
    seen: list[Value] = []

    def rule(v: Value) -> Value | None:
        seen.append(v)
        return td.cos(x) if v.op is Unary("sin") else None

    td.rebuild(td.Graph({"x": x}, {"out": td.exp(td.sin(x))}), rule)
    assert seen == [x, td.sin(x), td.exp(td.cos(x))]


def test_rebuild_pauses_the_collector_and_turns_it_on_again() -> None:
    def fail(v: Value) -> None:
        assert not gc.isenabled()
        raise KeyError(str(v.type))

    with pytest.raises(KeyError):
        td.rebuild(small(), fail)
    assert gc.isenabled()
    with bulk():
        td.rebuild(small(), lambda v: None)
        assert not gc.isenabled()
    assert gc.isenabled()


# --- depth ---------------------------------------------------------------------------------------------------


def test_a_deep_chain() -> None:
    g = chain(DEEP)
    assert len(g) == DEEP + 1
    order = topological(g.outputs.values())
    assert order == g.values
    assert repr(g) == f"<Graph graph: 1 inputs, 1 outputs, {DEEP + 1} values>"
    assert repr(g.outputs["y"]) == "<sin(f32[2]) -> f32[2]>"
    assert hash(g) == hash(td.Graph(g.inputs, g.outputs))
    assert g == td.Graph(g.inputs, g.outputs)
    assert len(g.users[g.inputs["x"]]) == DEEP // 2
    assert g.total_flops() == 2 * DEEP
    cos, sin = Unary("cos"), Unary("sin")
    new, became = td.rebuild(g, lambda v: cos(*v.args) if v.op is sin else None)
    assert len(new) == len(g)
    assert new != g
    held = [weakref.ref(g.values[i]) for i in (2, DEEP // 2, DEEP)]
    del g, order, became
    assert [ref() for ref in held] == [None] * 3
    assert len(new) == DEEP + 1


def test_a_deep_chain_runs_and_is_pickled() -> None:
    g = chain(100_000)
    out, _ = run(g, {"x": np.zeros(2, np.float32)}, {})
    assert out["y"].tolist() == [0, 0]
    data = pickle.dumps(g)
    assert pickle.loads(data) == copy.deepcopy(g) == copy.copy(g) == g
    ref = weakref.ref(g.outputs["y"])
    del g
    assert ref() is None
    again = pickle.loads(data)
    assert len(again) == 100_001
    assert again == chain(100_000)


def test_a_wide_value() -> None:
    xs = [td.input(f"x{i}", (1,)) for i in range(10_000)]
    y = td.concat(xs)
    for _ in range(3):
        y = td.concat([y, *xs])
    g = td.Graph({v.op.leaf: v for v in xs if isinstance(v.op, Input)}, {"y": y})
    assert len(g) == 10_004
    assert g.outputs["y"].shape == (40_000,)


@given(graphs())
def test_pickle(g: td.Graph) -> None:
    again = pickle.loads(pickle.dumps(g))
    assert again == g
    assert again.updates == g.updates
    assert again.values == g.values


def test_doubling_depth_is_linear_in_values() -> None:
    """x + x, doubled 1000 times: 2**1000 paths, 1000 values."""
    y = x = td.input("x", ())
    for _ in range(1000):
        y = y + y
    g = td.Graph({"x": x}, {"y": y})
    assert len(g) == 1001
    out, _ = run(g, {"x": np.asarray(1.0, np.float32)}, {})
    assert math.isinf(out["y"])
