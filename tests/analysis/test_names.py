"""The names of axes, and dimensions as they are shown."""

import re

import pytest

import tdagger as td
from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.notation import show_line, show_term
from tdagger.analysis.axes.terms import Axis, Line
from tdagger.errors import AxisError
from tdagger.tensordag import Signature, TensorDAG
from tdagger.tree import Tree


def named(inputs, outputs, given=None):
    graph = td.Graph({v.op.leaf: v for v in inputs}, {f"y{i}": v for i, v in enumerate(outputs)})
    return NamedAxes(Axes(graph), given)


def shapes(inputs, *outputs, given=None):
    axes = named(inputs, outputs, given)
    return [axes.shape(v) for v in (*inputs, *outputs)]


X = td.input("x", (2, 6, 8))


def axis(name, size=4):
    made = Axis(size, "input")
    made.name = name
    return made


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (Line(((), "n")), "(1 + n)"),
        (Line(((), (), "n")), "(2 + n)"),
        (Line((1, "h", 1)), "(h + 2)"),
        (Line(("h",), -2), "(h - 2)"),
        (Line(("h",), 3, 4), "h/4"),
        (Line(("h",), -5, 2), "(h - 5)/2"),
        (Line(("h", "n"), 1, 2), "(h + n + 1)/2"),
        (Line(("h", "h")), "2*h"),
        (Line(("h", "n", "h")), "(h + n + h)"),
        (Line((("h", "n"),), 1, 2), "(h n)/2"),
        (Line((("h", "n"), "h")), "(h n + h)"),
        (Line((("h", "n"), ("h", "n"))), "2*(h n)"),
        (Line((3,)), ""),
    ],
)
def test_lines(line, text):
    known = {"h": axis("h"), "n": axis("n")}
    parts = [
        (known[p],)
        if isinstance(p, str)
        else tuple(known[n] for n in p)
        if p and p != 1 and not isinstance(p, int)
        else p
        for p in line.parts
    ]
    assert show_line(line._replace(parts=tuple(parts))) == text


def test_terms():
    tokens, d, one = axis("(1 + s)"), axis("d"), axis("1", 1)
    assert show_term((tokens, d)) == "((1 + s) d)"
    assert show_term((tokens,)) == "(1 + s)"
    assert show_term((one, d)) == "d"
    assert show_term((axis("(h n)/4"),)) == "(h n)/4"
    assert show_term((axis("(h - 5)/2"), axis("(w - 5)/2"))) == "((h - 5)/2 (w - 5)/2)"


def test_roles_of_inputs():
    ids, table = td.input("ids", (2, 7), "i64"), td.parameter("table", (50, 4))
    assert shapes([ids], td.gather(table, ids, 0)) == ["b s", "b s c"]
    image, weight = td.input("image", (2, 3, 8, 8)), td.parameter("w", (5, 3, 3, 3))
    same = td.convolution(image, weight, padding=((1, 1), (1, 1)))
    assert shapes([image], same) == ["b c h w", "b c2 h w"]
    wave, filters = td.input("wave", (2, 3, 16)), td.parameter("w", (5, 3, 4))
    assert shapes([wave], td.convolution(wave, filters, stride=(4,), padding=((0, 0),))) == ["b c t", "b c2 t/4"]


def test_attended_tokens_are_s():
    w = td.parameter("w", (8, 8))
    scores = td.matmul(td.linear(X, w), td.permute(X, (0, 2, 1)))
    assert shapes([X], td.softmax(scores, axis=2)) == ["b s c", "b s s"]


def test_batch_of_size_one_that_the_network_adds():
    image, weight = td.input("image", (3, 8, 8)), td.parameter("w", (5, 3, 3, 3))
    y = td.relu(td.convolution(td.unsqueeze(image, (0,)), weight, stride=(2, 2), padding=((1, 1), (1, 1))))
    axes = named([image], [y])
    assert [axes.shape(image), axes.shape(y)] == ["c h w", "b c2 h/2 w/2"]
    assert axes.sizes["b"] == 1


def test_a_constant_has_the_names_of_its_use():
    scale = td.broadcast_to(td.const([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0], "f32"), (2, 6, 8))
    axes = named([X], [X * scale])
    assert axes.shape(scale) == axes.shape(X)


def test_what_stands_for_two_things_shows_its_size():
    half, y = td.broadcast_to(td.const(0.5), (2, 6, 8)), td.input("y", (2, 6, 8))
    axes = named([X, y], [X * half, y + half])
    assert axes.shape(half) == "b 6 8"  # both inputs have one batch


def test_inputs_that_never_meet_have_one_batch():
    y = td.input("y", (2, 5))
    axes = named([X, y], [td.exp(X), td.exp(y)])
    assert axes[X][0] == axes[y][0]
    pairs = td.matmul(td.reduce(X, "sum", (1,), keep=False), td.parameter("w", (8, 5)))
    axes = named([X, y], [td.matmul(pairs, td.transpose(y, 0, 1))])
    assert axes[X][0] != axes[y][0]  # each with each: two batches


def test_given_names():
    assert shapes([X], td.exp(X), given="batch tokens width")[1] == "batch tokens width"
    assert shapes([X], td.group(X, (2, 1)), given="a b c") == ["a b c", "(a b) c"]
    assert shapes([X], given="_ ... width") == ["b n width"]
    assert shapes([X], given={"x": "..."}) == ["b n n2"]
    split = td.ungroup(X, 1, (2, 3))
    assert shapes([X], split, given="b (g c) d") == ["b (g c) d", "b g c d"]
    assert shapes([X], split, given="b t d") == ["b (t2 t3) d", "b t2 t3 d"]
    whole = named([X], [split], "b t d")
    assert (whole.sizes["t"], len(whole.term("t"))) == (6, 2)


def test_one_name_for_two_inputs_makes_them_one_axis():
    mask = td.input("mask", (2, 6))
    axes = named([X, mask], [td.exp(X), td.exp(mask)], {"x": "b s c", "mask": "b s"})
    assert axes[X][:2] == axes[mask]
    assert axes.sizes == {"b": 2, "s": 6, "c": 8}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            "b s",
            "axes 'b s' of input x, f32[2 6 8]: 2 names for 3 dimensions; name each, _ for one, ... for any others",
        ),
        ("b s 1", "axes 'b s 1' of input x, f32[2 6 8]: 1 for a dimension of 8; write _ to leave it unnamed"),
        ("b s (h d)", "axes 'b s (h d)' of input x, f32[2 6 8]: (h d) for what is one axis of 8; give it one name"),
        ("b b c", "axes 'b b c' of input x, f32[2 6 8]: b is 2 already, here it is 6; use two names"),
        ("b (s", "axes 'b (s' of input x, f32[2 6 8]: a bracket is open; write names as in einops: 'b (h d) 1 _ ...'"),
        ("b s) c", "a bracket that closes nothing"),
        ("b ((s)) c", "brackets inside brackets"),
        ("b s 3c", "'3c' is not a name"),
        ("... s ...", "... may stand once, outside of brackets"),
        ({"y": "b"}, "axes 'b': there is no input 'y'; there are x"),
    ],
)
def test_names_that_do_not_fit(given, why):
    with pytest.raises(AxisError, match=re.escape(why)):
        named([X], [td.exp(X)], given)


def test_a_string_is_for_one_input():
    with pytest.raises(AxisError, match=re.escape("2 inputs (x, y): name axes as {input: 'b s c'}")):
        named([X, td.input("y", (3,))], [X], "b s c")


def test_unknown_name():
    with pytest.raises(AxisError, match=re.escape("no axis is named 'q'; there are b=2, n=6, n2=8")):
        named([X], [td.exp(X)]).term("q")


def test_several_results():
    values, _ = td.topk(X, k=2, axis=2)
    assert named([X], [values]).show(values.args[0]).startswith("(f32[b n ")


def test_opaque_says_why_and_where():
    x = td.input("x", (2, 8, 7))
    y = td.ungroup(td.group(x, (1, 2)), 1, (28, 2))
    axes = named([x], [td.ungroup(y, 1, (7, 4))])
    (hidden,) = axes.opaque
    assert hidden.value.op.name == "ungroup"
    assert "are two views of 56 entries" in hidden.reason
    assert f"  opaque\n    {hidden}" in str(axes)


def test_opaque_inside_of_a_composite():
    @td.composite
    def windows_and_grid(x):
        return td.ungroup(td.exp(td.group(td.ungroup(x, 1, (8, 7)), (1, 2))), 1, (28, 2))

    x = td.input("x", (2, 56))
    assert len(named([x], [windows_and_grid(x)]).opaque) == 1


def test_a_padded_window_of_windows_is_one_floor():
    x, w = td.input("x", (1, 3, 64, 64)), [td.parameter(f"w{i}", (3, 3, 3, 3)) for i in range(4)]
    y = x
    for each in w:
        y = td.convolution(y, each, stride=(2, 2), padding=((1, 1), (1, 1)))
    assert shapes([x], y)[1] == "b c5 h/16 w/16"


def test_long_chains_of_slices_and_windows():
    x = y = td.input("x", (2, 3000))
    for _ in range(1000):
        y = td.slice_axis(y, 1, 1, y.shape[1])
    assert len(shapes([x], y)[1]) < 40


def test_networks_remember_names():
    dag = TensorDAG(td.Graph({"x": X}, {"y": td.exp(X)}), {}, Signature(Tree("leaf"), Tree("leaf")))
    given = dag.with_axes("b s c")
    assert given.axes().shape(X) == "b s c"
    assert given.axes({"x": "n ..."}).shape(X) == "n n2 n3"
    assert given.axes() is given.axes()
    other = td.input("x", (6, 8))
    assert given.with_graph(td.Graph({"x": other}, {"y": td.exp(other)})).axis_names == {}
    longer = td.input("x", (2, 9, 8))
    assert given.with_graph(td.Graph({"x": longer}, {"y": longer})).axes().shape(longer) == "b s c"
    with pytest.raises(AxisError, match="2 names for 3 dimensions"):
        dag.with_axes("b s")
