"""Rules: what they match, what they give, how the driver ends, and what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

import tdagger as td
from tdagger.graph import op_counts
from tdagger.interpret import run
from tdagger.transform.rewrite import (
    Report,
    Rule,
    constant,
    either,
    elementwise,
    no,
    number,
    only,
    op,
    rewritten,
    rule,
    spread,
)
from tests.graphs import graphs

X, Y = td.input("x", (2, 3)), td.input("y", (2, 3))
W, B = td.parameter("w", (4, 3)), td.parameter("b", (4,))


def graph(*outputs: td.Value) -> td.Graph:
    return td.Graph({"x": X, "y": Y}, {f"out{i}": v for i, v in enumerate(outputs)})


def apply(rules: Rule | Sequence[Rule], *outputs: td.Value) -> tuple[list[td.Value], Report]:
    after, _, report = rewritten(graph(*outputs), rules)
    return list(after.outputs.values()), report


def make(pattern: Callable[..., Any], to: Callable[..., Any] | None = None) -> Rule:
    made = rule(pattern)
    if to is not None:
        made.to(to)
    return made


double_neg = make(lambda x: td.neg(td.neg(x)), lambda x: x)


def test_a_chain_of_matches_is_one_sweep() -> None:
    value = X
    for _ in range(5):
        value = td.neg(value)
    assert apply(double_neg, value)[0] == [td.neg(X)]


def test_matches_that_overlap_and_inputs_that_are_shared() -> None:
    a = td.neg(X)
    out, report = apply(double_neg, td.neg(a), td.exp(td.neg(a)), a)
    assert out == [X, td.exp(X), td.neg(X)]
    assert report.counts == {"<lambda>": 1}  # one value, whoever uses it


FACTOR = make(lambda x, y, z: x * y + x * z, lambda x, y, z: x * (y + z))


@pytest.mark.parametrize("order", range(8))
def test_commutative_ops_match_either_way(order: int) -> None:
    z = td.exp(Y)
    first = X * Y if order & 1 else Y * X
    second = X * z if order & 2 else z * X
    (out,), _ = apply(FACTOR, first + second if order & 4 else second + first)
    assert out in (X * (Y + z), X * (z + Y))


def test_what_does_not_commute_has_one_order() -> None:
    found = make(lambda x, y: td.pow_(td.exp(x), y))
    assert found.matches(td.pow_(td.exp(X), Y)) == {"x": X, "y": Y}
    assert found.matches(td.pow_(Y, td.exp(X))) is None


def test_backtracking_into_an_earlier_choice() -> None:
    # the first order of the inner product binds x to the wrong operand; only the outer one shows it
    found = make(lambda x, y: td.maximum(x * y, td.exp(x)))
    assert found.matches(td.maximum(td.exp(Y), X * Y)) == {"x": Y, "y": X}
    assert found.matches(td.maximum(td.exp(td.sin(X)), X * Y)) is None


def test_numbers_are_those_of_the_element_type() -> None:
    tenth = make(lambda x: x * 0.1, lambda x: x)
    for dtype in ("f16", "bf16", "f32", "f64"):
        x = td.cast(X, dtype)
        assert tenth.matches(x * 0.1) == {"x": x}
        assert tenth.matches(0.1 * x) == {"x": x}
    assert tenth.matches(X * 0.11) is None
    zero = make(lambda x: td.maximum(x, 0.0))
    assert zero.matches(td.maximum(X, -0.0)) is None
    found = make(lambda x, c: td.where(x > number(c), x, 0.0)).matches(td.where(X > 0.25, X, 0.0))
    assert found == {"x": X, "c": 0.25}


def test_attributes_bind_and_are_compared() -> None:
    softmax = make(lambda x, axis: td.softmax(x, axis=axis))
    assert softmax.matches(td.softmax(X, axis=1)) == {"x": X, "axis": 1}
    last = make(lambda x: td.softmax(x, axis=-1))
    assert last.matches(td.softmax(X, axis=-1))
    assert last.matches(td.softmax(X, axis=0)) is None
    twice = make(lambda x, a: td.softmax(td.softmax(x, axis=a), axis=a))
    assert twice.matches(td.softmax(td.softmax(X, axis=0), axis=0))
    assert twice.matches(td.softmax(td.softmax(X, axis=0), axis=1)) is None
    default = make(lambda x, w: td.layer_norm(x, w))
    weight = td.parameter("n", (3,))
    assert default.matches(td.layer_norm(X, weight)) == {"x": X, "w": weight}
    assert default.matches(td.layer_norm(X, weight, eps=1e-6)) is None
    assert default.matches(td.layer_norm(X)) is None


def test_all_attributes_bind_as_a_dict() -> None:
    image, weight = td.input("i", (1, 3, 8, 8)), td.parameter("k", (4, 3, 3, 3))
    drop_bias = make(
        lambda x, w, b, conv: td.convolution(x, w, b, **conv), lambda x, w, conv: td.convolution(x, w, **conv)
    )
    value = td.convolution(image, weight, B, padding=1, stride=2)
    found = drop_bias.matches(value)
    assert found is not None
    assert found["conv"]["stride"] == (2, 2)
    g = td.Graph({"i": image}, {"out": value})
    assert rewritten(g, drop_bias)[0].outputs["out"] == td.convolution(image, weight, padding=1, stride=2)


def test_optional_arguments() -> None:
    linear = make(lambda x, w, b=None: td.linear(x, w, b))
    assert linear.matches(td.linear(X, W)) == {"x": X, "w": W, "b": None}
    assert linear.matches(td.linear(X, W, B)) == {"x": X, "w": W, "b": B}
    assert make(lambda x, w: td.linear(x, w)).matches(td.linear(X, W, B)) is None


def test_structural_functions_count_axes_by_the_rank_of_their_argument() -> None:
    last = make(lambda x: td.reduce(x, "sum", (-1,), keep=False))
    deep = td.input("d", (2, 3, 4))
    assert last.matches(td.reduce(X, "sum", (1,), keep=False)) == {"x": X}
    assert last.matches(td.reduce(deep, "sum", (2,), keep=False)) == {"x": deep}
    assert last.matches(td.reduce(deep, "sum", (1,), keep=False)) is None
    swap = make(lambda x: td.transpose(x, -1, -2))
    assert swap.matches(td.transpose(deep, 1, 2)) == {"x": deep}
    assert swap.matches(td.transpose(deep, 0, 2)) is None
    axes = make(lambda x, axes: op("reduce", x, kind="sum", axes=axes))
    assert axes.matches(td.reduce(deep, "sum", (0, 2))) == {"x": deep, "axes": (0, 2)}


def test_a_cast_that_may_not_be_there() -> None:
    found = make(lambda x: td.exp(td.cast(x, "f32")))
    half = td.cast(X, "f16")
    assert found.matches(td.exp(X)) == {"x": X}
    assert found.matches(td.exp(td.cast(half, "f32"))) == {"x": half}
    assert found.matches(td.exp(half)) is None


def test_broadcasting_is_looked_through_where_the_function_would_broadcast() -> None:
    centred = make(lambda x: x - td.mean(x, axes=(-1,), keep=True))
    assert centred.matches(X - td.mean(X, axes=(1,), keep=True)) == {"x": X}
    assert centred.matches(X - td.mean(Y, axes=(1,), keep=True)) is None
    scaled = make(lambda x, w: td.exp(x) * spread(w))
    weight = td.parameter("n", (3,))
    assert scaled.matches(td.exp(X) * weight) == {"x": X, "w": weight}
    # both operands smaller than the result: neg(a) + neg(b) would have another shape
    both = make(lambda a, b: td.neg(a) + td.neg(b))
    row = td.broadcast_to(td.neg(weight), (2, 3))
    assert both.matches(row + row) is None
    assert both.matches(row + td.neg(X)) in ({"a": weight, "b": X}, {"a": X, "b": weight})


def test_alternatives_and_elementwise_ops() -> None:
    act = make(lambda x: either(td.relu(x), td.gelu(x)), lambda x: td.silu(x))
    assert apply(act, td.relu(X), td.gelu(td.exp(X)))[0] == [td.silu(X), td.silu(td.exp(X))]
    sink = make(
        lambda x, f: elementwise(td.transpose(x, 0, 1), op=f),
        lambda x, f: td.transpose(f(x), 0, 1),
    )
    assert apply(sink, td.gelu(td.exp(td.transpose(X, 0, 1))))[0] == [td.transpose(td.gelu(td.exp(X)), 0, 1)]
    assert apply(sink, td.softmax(td.transpose(X, 0, 1), axis=0))[1].counts == {}
    two = make(lambda x, y, f: elementwise(td.exp(x), td.exp(y), op=f), lambda x, y, f: f(y, x))
    assert apply(two, td.exp(X) - td.exp(Y))[0] == [Y - X]


def test_constants() -> None:
    found = make(lambda x, c: x + constant(c))
    table = td.const([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "f32")
    assert found.matches(X + table) == {"x": X, "c": table}
    assert found.matches(X + Y) is None


def test_only_user() -> None:
    fuse = make(lambda x: td.exp(only(td.sin(x))), lambda x: td.cos(x))
    inner = td.sin(X)
    assert apply(fuse, td.exp(inner))[0] == [td.cos(X)]
    assert apply(fuse, td.exp(inner), inner)[1].counts == {}
    assert apply(fuse, td.exp(inner), td.tan(inner))[1].counts == {}
    twice = make(lambda x: only(td.sin(x)) * only(td.sin(x)), lambda x: td.cos(x))
    assert apply(twice, inner * inner)[0] == [td.cos(X)]


def test_only_user_once_another_rule_has_taken_the_other_user() -> None:
    fuse = make(lambda x: td.exp(only(td.sin(x))), lambda x: td.cos(x))
    drop = make(lambda x: td.tan(x), lambda x: td.broadcast_to(td.const(0.0), x.shape))
    inner = td.sin(X)
    out, report = apply([fuse, drop], td.exp(inner), td.tan(inner))
    assert out[0] == td.cos(X)
    assert len(report) == 2


def test_conditions_say_why() -> None:
    r = make(lambda x: td.relu(x), lambda x: td.gelu(x))

    @r.when
    def is_large(x: td.Value) -> Any:
        return x.shape[0] > 2 or no(f"{x.type} is too small")

    assert r.why_not(td.relu(X)) == "<lambda>: f32[2 3] is too small"
    assert r.why_not(td.relu(td.transpose(X, 0, 1))) is None
    assert apply(r, td.relu(X))[1].counts == {}


def test_why_not_names_the_value() -> None:
    r = make(lambda x, y: td.exp(x) * td.sin(y))
    assert r.why_not(td.exp(X) * td.cos(Y)) == "<lambda>: <cos(f32[2 3]) -> f32[2 3]> isn't sin"
    assert r.why_not(X + Y) == "<lambda>: <add(f32[2 3], f32[2 3]) -> f32[2 3]> isn't multiply"
    same = make(lambda x: td.exp(x) * td.sin(x))
    assert "isn't <input x" in str(same.why_not(td.exp(X) * td.sin(Y)))


def test_conditions_on_users_and_weights() -> None:
    r = make(lambda x, w: td.linear(x, w), lambda x, w: td.linear(x, w * 2.0))

    @r.when
    def small(w: td.Value, graph: Any) -> bool:
        return w.op.name == "parameter" and abs(graph.weights["w"]).max() < 1 and len(graph.users(w)) == 1

    with pytest.raises(td.GraphError, match="weights=True"):
        rewritten(graph(td.linear(X, W)), r)
    low, high = ({"w": np.full((4, 3), v, np.float32)} for v in (0.5, 2.0))
    assert len(rewritten(graph(td.linear(X, W)), r, weights=low)[2]) == 1
    assert len(rewritten(graph(td.linear(X, W)), r, weights=high)[2]) == 0
    assert len(rewritten(graph(td.linear(X, W), td.exp(W)), r, weights=low)[2]) == 0


def test_several_outputs() -> None:
    def merged(x: Any, v: Any, w: Any) -> Any:
        y = td.linear(x, td.concat([v, w], 0))
        return td.slice_axis(y, -1, 0, v.shape[0]), td.slice_axis(y, -1, v.shape[0], None)

    r = make(lambda x, v, w: (td.linear(x, v), td.linear(x, w)), merged)
    v = td.parameter("v", (5, 3))
    g = graph(td.linear(X, W) + 1.0, td.exp(td.linear(X, v)))
    after, _, report = rewritten(g, r)
    assert op_counts(after.values)["linear"] == 1
    assert report.counts == {"<lambda>": 1}
    data = {"w": np.arange(12.0, dtype=np.float32).reshape(4, 3), "v": np.ones((5, 3), np.float32)}
    x = {"x": np.arange(6.0, dtype=np.float32).reshape(2, 3) / 9, "y": np.zeros((2, 3), np.float32)}
    for name, array in run(g, x, data)[0].items():
        np.testing.assert_allclose(run(after, x, data)[0][name], array, rtol=1e-6)


def test_several_outputs_with_conditions() -> None:
    def pair(condition: Any) -> Rule:
        r = make(lambda x: (td.exp(only(td.sin(x))), td.exp(td.cos(x))), lambda x: (td.tan(x), td.tanh(x)))
        r.when(condition)
        return r

    s, c = td.exp(td.sin(X)), td.exp(td.cos(X))
    assert apply(pair(lambda x: 3), s, c)[0] == [td.tan(X), td.tanh(X)]
    assert apply(pair(lambda x: 0), s, c)[0] == [s, c]
    assert apply(pair(lambda x: no("never")), s, c)[0] == [s, c]
    assert apply(pair(lambda x: True), s, c, td.sin(X))[0][:2] == [s, c]  # somebody else uses the sine
    assert apply(pair(lambda x: True), s, c, td.cos(X))[0][:2] == [td.tan(X), td.tanh(X)]
    found = td.network(lambda x: (td.exp(td.sin(x)), td.exp(td.cos(x))), {"x": (2,)}).find(pair(lambda x: True))
    assert [(str(m.root.args[0].op), m.found["x"].op.name) for m in found] == [("sin", "input")]


def test_several_outputs_of_which_one_needs_the_other() -> None:
    r = make(lambda x: (td.sin(x), td.cos(x)), lambda x: (td.exp(x), td.tan(x)))
    s = td.sin(X)
    out, _ = apply(r, s, td.cos(X))
    assert out == [td.exp(X), td.tan(X)]
    add = make(
        lambda x, y, z: (td.sin(x) + y, td.sin(x) + z), lambda x, y, z: (td.sin(x) + (y + z), td.sin(x) - (y + z))
    )
    # the second sum needs the first: replaced together they would go in a circle
    a = s + Y
    assert len(apply(add, a, s + td.cos(a))[1]) == 0


def test_several_outputs_of_which_one_stays() -> None:
    r = make(lambda x: (td.exp(x), td.exp(-x)), lambda x: (td.exp(x), 1.0 / td.exp(x)))
    out, report = apply(r, td.exp(-X) * 2.0, td.exp(X), td.exp(-Y))
    assert out == [(1.0 / td.exp(X)) * 2.0, td.exp(X), td.exp(-Y)]
    assert report.counts == {"<lambda>": 1}
    # one of what stands for them holds the other output, for which another value stands
    crossed = make(lambda x: (td.sin(x), td.cos(x)), lambda x: (td.exp(td.cos(x)), td.tan(x)))
    assert apply(crossed, td.sin(X), td.cos(X))[0] == [td.exp(td.tan(X)), td.tan(X)]


def test_several_outputs_that_hold_themselves_are_refused() -> None:
    own = make(lambda x: (td.sin(x), td.cos(x)), lambda x: (td.sin(x), td.exp(td.cos(x))))
    round_ = make(lambda x: (td.sin(x), td.cos(x)), lambda x: (td.exp(td.cos(x)), td.exp(td.sin(x))))
    for r in (own, round_):
        r.name = "twins"
        with pytest.raises(td.GraphError, match=r"rule twins goes on without an end at <sin.* holds that again"):
            apply(r, td.sin(X), td.cos(X))


def test_rules_of_several_outputs_that_undo_each_other_are_named() -> None:
    there = make(lambda x: (td.sin(x), td.cos(x)), lambda x: (td.exp(x), td.log(x)))
    back = make(lambda x: (td.exp(x), td.log(x)), lambda x: (td.sin(x), td.cos(x)))
    there.name, back.name = "there", "back"
    with pytest.raises(td.GraphError, match=r"rules there, back undo each other at <sin\(.*: leave one out"):
        apply([there, back], td.sin(X), td.cos(X))


def test_a_wildcard_that_nothing_binds_is_refused() -> None:
    with pytest.raises(td.TDaggerError, match="rule <lambda>: the wildcard 'y' is nowhere in its pattern"):
        make(lambda x, y: td.sin(x), lambda x, y: td.cos(y))
    make(lambda x, y=None: td.sin(x), lambda x, y: td.cos(x))


def test_rules_that_undo_each_other_are_named() -> None:
    a = make(lambda x: td.transpose(td.relu(x), 0, 1), lambda x: td.relu(td.transpose(x, 0, 1)))
    b = make(lambda x: td.relu(td.transpose(x, 0, 1)), lambda x: td.transpose(td.relu(x), 0, 1))
    a.name, b.name = "sink", "lift"
    with pytest.raises(td.GraphError, match=r"rules (sink, lift|lift, sink) undo each other at .*: leave one out"):
        apply([a, b], td.relu(td.transpose(X, 0, 1)))


def test_rules_that_never_end_are_named() -> None:
    grow = make(lambda x: td.tan(x), lambda x: td.tan(td.exp(x)))
    grow.name = "grow"
    with pytest.raises(td.GraphError, match=r"rule grow goes on without an end at <tan\("):
        apply(grow, td.tan(X))


class _Middle(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1.0
        return y.relu().tanh(), y.exp(), y.cos(), y.sin()


@pytest.mark.parametrize(
    ("found", "made", "told"),
    [
        (td.relu, lambda x: td.transpose(x, 0, 1), r"rule r at <relu.*must be f32\[2 3\], it is f32\[3 2\]"),
        (td.relu, lambda x: td.matmul(x, x), "rule r at <relu"),
        (td.relu, lambda x: td.relu(td.exp(x)), "rule r goes on without an end at <relu"),
        (lambda x: (td.relu(x), td.exp(x)), lambda x: (td.transpose(x, 0, 1), td.exp(x)), "rule r at <relu.*types"),
        (lambda x: (td.relu(x), td.exp(x)), lambda x: (td.exp(td.relu(x)), td.sin(x)), "rule r goes on .* at <relu"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("earlier", [False, True])
def test_what_a_rule_does_wrong_is_told_with_its_place(found: Any, made: Any, told: str, earlier: bool) -> None:
    net = torch.nn.Sequential(torch.nn.Identity(), _Middle())
    r = make(lambda x: found(x), lambda x: made(x))
    r.name = "r"
    # of another rule's that is done in an earlier sweep
    before = make(lambda x: (td.sin(x), td.cos(x)), lambda x: (td.tan(x), td.neg(x)))
    dag = td.from_torch(net, torch.rand(2, 3))
    with pytest.raises(td.TDaggerError, match=told) as e:
        dag.rewrite([before, r] if earlier else r)
    assert re.search(r"<relu[^>]*-> f32\[2 3\]> \(1, .*test_rewrite.py:\d+\)", str(e.value)), e.value


def test_a_rule_that_undoes_itself_is_told() -> None:
    swap = make(lambda x, y: x / y, lambda x, y: y / x)
    with pytest.raises(td.GraphError, match=r"rule <lambda> undoes itself at <divide\("):
        apply(swap, X / Y)


def test_another_type_is_refused() -> None:
    wrong = make(lambda x: td.relu(x), lambda x: td.transpose(x, 0, 1))
    with pytest.raises(td.TypeMismatchError, match=r"rule <lambda> at <relu.*must be f32\[2 3\], it is f32\[3 2\]"):
        apply(wrong, td.relu(X))
    with pytest.raises(td.AttributeValueError, match="starts at an op"):
        rule(lambda x: x)
    with pytest.raises(td.AttributeValueError, match="has no replacement"):
        apply(make(lambda x: td.relu(x)), X)
    with pytest.raises(td.AttributeValueError, match="'q' is no wildcard"):
        make(lambda x: td.relu(x), lambda q: q)
    dag = td.network(lambda x: td.relu(x), {"x": (2,)})
    for strange in (td.relu, [make(lambda x: td.relu(x), lambda x: x), 3]):
        with pytest.raises(td.AttributeValueError, match=r"a rule is what @td\.rule makes of a function, got"):
            dag.rewrite(strange)
        with pytest.raises(td.AttributeValueError, match=r"a rule is what @td\.rule makes of a function, got"):
            dag.find(strange)
    with pytest.raises(AttributeError, match="nothing is known of a value, so it has no shape"):
        rule(lambda x: td.reduce(x, "sum", range(len(x.shape))))
    with pytest.raises(td.AttributeValueError, match=r"write op\('reduce', x"):
        rule(lambda x, a: td.reduce(x, "sum", a))


def test_the_first_rule_wins_and_order_of_building_does_not_matter() -> None:
    a, b = make(lambda x: td.relu(x), lambda x: td.gelu(x)), make(lambda x: td.relu(x), lambda x: td.silu(x))
    assert apply([a, b], td.relu(X))[0] == [td.gelu(X)]
    assert apply([b, a], td.relu(X))[0] == [td.silu(X)]
    one = rewritten(td.Graph({"x": X, "y": Y}, {"out": X * Y + td.exp(X) * Y}), FACTOR)[0].outputs["out"]
    early = td.exp(X) * Y
    two = rewritten(td.Graph({"x": X, "y": Y}, {"out": X * Y + early}, order=[early]), FACTOR)[0].outputs["out"]
    assert one == two


def test_deep_graphs_and_long_chains_of_rewriting() -> None:
    sink = make(lambda x: td.sin(td.transpose(x, 0, 1)), lambda x: td.transpose(td.sin(x), 0, 1))
    cancel = make(lambda x: td.transpose(td.transpose(x, 0, 1), 0, 1), lambda x: x)
    value = td.transpose(X, 0, 1)
    for _ in range(3_000):
        value = td.sin(value)
    (out,), _ = apply([sink, cancel], td.transpose(value, 0, 1))
    chain = X
    for _ in range(3_000):
        chain = td.sin(chain)
    assert out == chain
    # the other way each of the replacements is a chain as long as the graph
    lift = make(lambda x: td.transpose(td.sin(x), 0, 1), lambda x: td.sin(td.transpose(x, 0, 1)))
    assert apply(lift, td.transpose(chain, 0, 1))[0] == [value]


def test_each_value_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    match = Rule.match

    def counted(self: Rule, *args: Any) -> Any:
        nonlocal tried
        tried += 1
        return match(self, *args)

    monkeypatch.setattr(Rule, "match", counted)

    def tries(nodes: int) -> int:
        nonlocal tried
        tried = 0
        value = X
        for _ in range(nodes):
            value = td.neg(td.neg(td.sin(value)))
        rewritten(graph(value), double_neg)
        return tried

    assert tries(2000) == 10 * tries(200)


@given(graphs())
def test_random_graphs_keep_their_outputs(g: td.Graph) -> None:
    rules = [
        double_neg,
        FACTOR,
        make(lambda x: td.abs_(td.abs_(x)), lambda x: td.abs_(x)),
        make(lambda x: td.maximum(td.sin(x), td.sin(x)), lambda x: td.sin(x)),
    ]
    after, _, _ = rewritten(g, rules)
    again, _, report = rewritten(after, rules)
    assert again == after
    assert len(report) == 0
    generator = np.random.default_rng(0)
    inputs = {n: generator.normal(size=v.shape).astype(np.float32) for n, v in g.inputs.items()}
    leaves = {**g.parameters, **g.buffers}
    weights = {n: generator.normal(size=v.shape).astype(np.float32) for n, v in leaves.items()}
    for before, now in zip(run(g, inputs, weights), run(after, inputs, weights), strict=True):
        assert before.keys() == now.keys()
        for name, array in before.items():
            np.testing.assert_allclose(now[name], array, rtol=1e-5, atol=1e-5)


def test_gelu_written_out() -> None:
    r = make(lambda x: x * 0.5 * (1.0 + td.erf(x / math.sqrt(2))), lambda x: td.gelu(x))
    assert apply(r, 0.5 * X * (td.erf(X / math.sqrt(2)) + 1.0))[0] == [td.gelu(X)]
