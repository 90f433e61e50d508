"""Graphs as text."""

import pytest

import tdagger as td
from tdagger.analysis.numbers import quantity
from tdagger.tensordag import Origin, Signature, TensorDAG
from tdagger.tree import Tree
from tdagger.view.expressions import expression

X = td.input("x", (2, 3, 4))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (td.permute(X, (2, 0, 1)), "permute(x, a b c -> c a b)"),
        (td.group(X, (1, 2)), "group(x, a b c -> a (b c))"),
        (td.ungroup(X, 2, (2, 2)), "ungroup(x, a b (c d) -> a b c d, c=2)"),
        (td.unsqueeze(X, (1,)), "ungroup(x, a b c -> a 1 b c)"),
        (td.squeeze(td.input("x", (2, 1, 4)), (1,)), "group(x, a 1 b -> a b)"),
        (td.slice_axis(X, 1, 0, 1), "x[:, :1]"),
        (td.slice_axis(X, 2, 1, 4, 2), "x[:, :, 1::2]"),
        (td.flip(X, (0,)), "x[::-1]"),
        (td.slice_axis(X, 2, 2, 0, -1), "x[:, :, 2:0:-1]"),
        (td.pad(X, [(1, 2), None, (0, 0, 1)], 1.5), "pad(x, a=(1, 2), c=(0, 0, 1), value=1.5)"),
        (td.pad(X, [None, None, (0, 1)]), "pad(x, c=(0, 1))"),
        (td.pad(X, [None, None, (0, 1)], float("nan")), "pad(x, c=(0, 1), value=nan)"),
        (td.repeat(td.input("x", (2, 1, 4)), [None, 7, None]), "repeat(x, a 1 b -> a 7 b)"),
        (td.reduce(X, "sum", (1, 2)), "sum(x, over b c of a b c)"),
        (td.unfold(X, 2, 2), "unfold(x, axis=2, kernel=2)"),
        (td.unfold(X, 2, 2, 2), "unfold(x, axis=2, kernel=2, stride=2)"),
        (td.scan(X, "sum", 1), "scan(x, sum, axis=1)"),
        (td.argsort(X, 0), "argsort(x, axis=0)"),
        (td.cast(X, "i64"), "cast(x, i64)"),
        (td.exp(X), "exp(x)"),
        (-X, "-x"),
        (td.iota(5), "iota(5)"),
        (td.const([1, 2, 3]), "const([1 2 3])"),
        (td.const(list(range(100))), "const([0 1 2 3 ... 99])"),
        (td.const([0.5] * 10, "f32"), "const(all 0.5)"),
        (td.const(2.0, "bf16"), "2.0"),
        (td.softmax(X, axis=-1), "softmax(x, axis=2)"),
    ],
)
def test_expression(value, text):
    assert expression(value, ["x"]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (X + X, "x + y"),
        (X / td.input("y", (2, 3, 4)), "x / y"),
        (X < X, "x < y"),
        (td.maximum(X, X), "max(x, y)"),
        (td.concat([X, X], 1), "concat(x, y, axis=1)"),
        (td.gather(X, td.input("i", (5,), "i64"), 1), "gather(x, y, axis=1)"),
    ],
)
def test_expression_of_two(value, text):
    assert expression(value, ["x", "y"]) == text


def test_optional_tensors_are_named():
    x, scale = td.input("x", (2, 4)), td.input("s", (4,))
    value = td.layer_norm(x, None, scale)
    assert expression(value, ["x", "s"]) == "layer_norm(x, bias=s)"


def test_one_number_for_every_axis():
    x, w = td.input("x", (1, 3, 8, 8)), td.input("w", (4, 3, 3, 3))
    same = td.convolution(x, w, stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1))
    assert expression(same, ["x", "w"]) == "convolution(x, w, stride=2)"
    other = td.convolution(x, w, stride=(2, 1), padding=((1, 0), (0, 0)), dilation=(2, 2))
    assert expression(other, ["x", "w"]) == "convolution(x, w, stride=(2, 1), padding=((1, 0), (0, 0)), dilation=2)"


def network():
    x, w, b = td.input("x", (2, 4)), td.parameter("fc.weight", (5, 4)), td.parameter("fc.bias", (5,))
    h = td.linear(x, w, b)
    a = td.relu(h)
    out = a * 2.0
    total = td.reduce(out, "sum", (0,))
    graph = td.Graph({"x": x}, {"y": out, "z": td.exp(total)}, {"count": total})
    origins = {h: Origin("block.fc"), a: Origin("block.act"), out: Origin("block")}
    outputs = Tree("dict", ("y", "z"), (Tree("leaf"), Tree("tuple", (0,), (Tree("leaf"),))), type="some.where:Result")
    signature = Signature(Tree("leaf"), outputs)
    return TensorDAG(graph, {}, signature, {}, origins, {"block": "Block"}, "Net")


TEXT = """\
Net
  in   x: f32[b=2 c=4]
  out  y: f32[b=2 c2=5]
       z: f32[1 c2=5]
  25 parameters (100 B), 5 ops, 110 FLOPs; reads 360 B, writes 200 B
  axes  b=2  c=4  c2=5

                       FLOPs

block  Block
  fc   %1  f32[b c2]      80  linear(x, fc.weight, fc.bias)
  act  %2  f32[b c2]      10  relu(%1)
       %3  f32[b c2]      10  %2 * 2.0

       %4  f32[1 c2]       5  sum(%3, over a of a b)
       %5  f32[1 c2]       5  exp(%4)

  return Result(y=%3, z=(%5,))
  count <- %4"""


def test_network():
    shown = str(network())
    header = shown.splitlines()[4]
    assert header.startswith("  25 parameters (100 B), 5 ops, ")
    # traffic and flops are other modules' to test: what is shown is what the graph says
    graph = network().graph
    assert quantity(graph.total_flops(), "FLOPs") in header
    assert quantity(graph.total_memory_reads(), "B") in header
    assert shown.splitlines()[5:] == TEXT.splitlines()[5:]


def test_sizes_instead_of_axes():
    shown = td.show(network(), axes=False).splitlines()
    assert shown[1:4] == ["  in   x: f32[2 4]", "  out  y: f32[2 5]", "       z: f32[1 5]"]
    assert not any(line.startswith("  axes") for line in shown)
    assert "  act  %2  f32[2 5]      10  relu(%1)" in shown
    assert "    fc.weight  f32[5 4]" in td.show(network(), axes=False, parameters=True).splitlines()


def test_given_names_are_shown():
    dag = network().with_axes("rows features")
    shown = str(dag).splitlines()
    assert shown[1] == "  in   x: f32[rows=2 features=4]"
    assert "  axes  rows=2  features=4  c=5" in shown
    assert td.show(dag, axes=dag.axes({"x": "n _"})).splitlines()[1] == "  in   x: f32[n=2 c=4]"


def test_parameters_and_max_lines():
    shown = td.show(network(), parameters=True, max_lines=2).splitlines()
    assert "    fc.weight  f32[c2=5 c=4]" in shown
    assert "  ... 3 more" in shown
    assert not any("%3  " in line for line in shown)


def test_number_whose_shape_nothing_shows_has_a_line():
    y = td.broadcast_to(td.const(1.0), (3, 4))
    shown = td.show(td.Graph({}, {"y": y, "z": td.permute(y, (1, 0))}))
    assert "repeat(" in shown
    assert "permute(%" in shown


def test_items_are_inline():
    x = td.input("x", (2, 4))
    values, indices = td.topk(x, k=2, axis=1)
    shown = td.show(td.Graph({"x": x}, {"v": td.exp(values), "i": indices}))
    assert "exp(%1.0)" in shown
    assert "return {v: %2, i: %1.1}" in shown


def test_long_chain():
    y = X
    with td.bulk():
        for _ in range(20_000):
            y = td.exp(y) + 1.0
    shown = td.show(td.Graph({"x": X}, {"y": y}))
    assert shown.count("\n") > 40_000


def test_quantity():
    assert [quantity(n) for n in (0, 999, 1000, 999_499, 999_500, 10**9, 10**30)] == [
        *["0", "999", "1.00 k", "999 k", "1.00 M", "1.00 G", "1000000000000 E"],
    ]


def test_values_of_one_module_are_marked():
    x = td.input("x", (2, 4))
    a = td.exp(x)
    b = td.sin(a)
    c = td.cos(b)
    signature = Signature(Tree("leaf"), Tree("leaf"))
    origins = {a: Origin("net.act"), b: Origin("net.act"), c: Origin("net")}
    shown = str(TensorDAG(td.Graph({"x": x}, {"y": c}), {}, signature, {}, origins, {}, "Net")).splitlines()
    assert [line[:8] for line in shown[9:12]] == ["  act  %", "  |    %", "       %"]
