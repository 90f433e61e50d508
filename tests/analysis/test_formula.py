"""Cost formulas: equal to what the network counts at other sizes, exactly, and refused where there is none."""

import random
from typing import Any

import pytest
import sympy
import timm
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import tdagger as td
from tdagger.analysis.formulas.formula import COSTS, CostFunction, cost_function
from tdagger.errors import AxisError
from tdagger.graph import Graph
from tdagger.transform.axes.resize import resize


def counted(graph: Graph) -> list[int]:
    return [
        graph.total_flops(),
        graph.total_bytes(),
        graph.total_memory_reads(),
        graph.total_memory_writes(),
        graph.total_memory_reads("elements"),
        graph.total_memory_writes("elements"),
    ]


def said(graph: Graph, **sizes: int) -> list[int]:
    return [CostFunction(graph.costs, what)(**sizes) for what in COSTS]


def resized(graph: Graph, **sizes: int) -> Graph:
    costs = graph.costs
    return resize(costs.axes, {costs._terms[n]: k for n, k in sizes.items()}).run()


def graph_of(*inputs: td.Value, **outputs: Any) -> Graph:
    named: dict[str, Any] = {v.op.leaf: v for v in inputs}  # type: ignore[attr-defined]
    return Graph(named, outputs)


def check(graph: Graph, points: int = 12, low: int = 1, high: int = 40, seed: int = 0) -> None:
    """The formulas equal counts of resized graphs at random sizes; there is something to resize."""
    rng = random.Random(seed)
    free = CostFunction(graph.costs, "flops").names
    assert free
    assert said(graph) == counted(graph)
    for _ in range(points):
        sizes = {n: rng.randint(low, high) for n in free}
        assert said(graph, **sizes) == counted(resized(graph, **sizes)), sizes


# --- ops ----------------------------------------------------------------------------------------------------

x34 = td.input("x", (3, 4))
x = td.input("x", (2, 3, 14, 14))
w = td.parameter("w", (5, 3, 3, 3))

GRAPHS: dict[str, Graph] = {
    "softmax": graph_of(x34, y=td.softmax(x34, axis=1)),
    "convolution": graph_of(x, y=td.convolution(x, w, stride=(2, 2), padding=((1, 1), (1, 1)))),
    "dilated": graph_of(x, y=td.convolution(x, w, padding=((2, 2), (2, 2)), dilation=(2, 2))),
    "max pool": graph_of(x, y=td.max_pool(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1))),
    "avg pool": graph_of(x, y=td.avg_pool(x, kernel=(3, 3), stride=(2, 2), padding=(0, 0))),
    "argsort": graph_of(x34, y=td.argsort(x34, 1)),
    "scan": graph_of(x34, y=td.scan(x34, "sum", 1)),
    "mean": graph_of(x34, y=td.mean(x34, axes=(1,))),
    "concat and slice": graph_of(x34, y=td.concat([x34, td.slice_axis(x34, 1, 1, None)], 1)),
    "iotas": graph_of(x34, y=td.cast(td.iota_like(x34, 0) + td.iota_like(x34, 1), "f32") + x34),
    "several results": graph_of(x34, y=td.sort(x34, axis=1)[0]),
    "fold": graph_of(x34, y=td.fold(td.unfold(x34, 1, 3, 2), 1, 3, 2)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_formulas_are_what_is_counted(name: str) -> None:
    check(GRAPHS[name], low=5 if name in ("dilated", "fold", "convolution", "avg pool") else 1)


def test_fold_counts_what_meets() -> None:
    # windows of 3 that start 2 apart: each shares one place with the one before it
    graph = GRAPHS["fold"]
    f = cost_function(graph, "flops")
    assert [f(b=2, **{n: k}) for n in f.names if n != "b" for k in (3, 5, 7, 8)] == [0, 2, 4, 4]


def test_a_size_that_makes_ops_coincide() -> None:
    """At equal sizes the two iotas are one value, and a slice of all entries moves nothing."""
    graph = GRAPHS["iotas"]
    b, n = CostFunction(graph.costs, "writes").names
    for size in (3, 7):
        assert said(graph, **{b: size, n: size}) == counted(resized(graph, **{b: size, n: size}))
    y = td.slice_axis(x34, 1, 0, 1)
    graph = graph_of(x34, y=y * 2.0)
    assert said(graph, b=5) == counted(resized(graph, b=5))


def test_exported_at_size_one() -> None:
    y = td.softmax(td.convolution(td.input("x", (1, 3, 9, 9)), w), axis=1)
    graph = graph_of(td.input("x", (1, 3, 9, 9)), y=y)
    check(graph, low=3)


def test_counted_anew_where_the_function_of_a_composite_branches_on_a_size() -> None:
    """How far windows that are rounded up reach beyond the end isn't told by their axes."""
    x = td.input("x", (2, 3, 11))
    graph = graph_of(x, y=td.max_pool(x, kernel=(3,), stride=(2,), padding=(0,), ceil=True))
    (name,) = graph.costs.uneven
    assert graph.costs.free[name].size == 11
    assert said(graph, **{name: 13}) == counted(resized(graph, **{name: 13}))
    with pytest.raises(AxisError, match=r"max_pool.* can't follow"):
        said(graph, **{name: 12})
    assert said(graph, b=5) == counted(resized(graph, b=5))


def test_a_reshape_that_drops_an_axis_of_size_one_follows() -> None:
    """Counted anew, it is what its own rule makes of it: its shape holds sizes."""
    x, w = td.input("x", (2, 1, 6, 3)), td.parameter("w", (20, 3))
    y = td.reshape(td.linear(x, w), shape=(2, 6, 4, 5))
    assert y.op.name == "reshape"
    graph = graph_of(x, y=td.softmax(y, axis=3))
    six = next(n for n, symbol in graph.costs.free.items() if symbol.size == 6)
    assert not graph.costs.uneven
    assert said(graph, b=5, **{six: 9}) == counted(resized(graph, b=5, **{six: 9}))


def test_a_constant_repeated_for_two_is_repeated_once() -> None:
    """With one entry nothing has to be repeated; at other sizes there are two uses of one value."""
    x, y = td.input("x", (1, 4)), td.input("y", (1, 4))
    positions = td.repeat(td.unsqueeze(td.iota(1, dtype="f32") + td.broadcast_to(td.const(2.5), (1,)), (1,)), (None, 4))
    graph = graph_of(x, y, z=(x * positions) + td.exp(y * positions))
    names = [n for n, symbol in graph.costs.free.items() if symbol.size == 1]
    assert said(graph) == counted(graph)
    assert said(graph, **dict.fromkeys(names, 7)) == counted(resized(graph, **dict.fromkeys(names, 7)))


def test_axes_of_parameters() -> None:
    x, w = td.input("x", (2, 7, 3)), td.parameter("w", (5, 3))
    graph = graph_of(x, y=td.linear(x, w))
    shown = graph.total_flops(symbolic="all")
    assert str(shown) == "b*c2*n*(2*c - 1)"
    assert shown.subs({"b": 2, "n": 7, "c": 3, "c2": 5}) == graph.total_flops()


def test_names_that_were_given() -> None:
    module, args = network("gpt2")
    dag = td.from_torch(module, args)
    named = dag.with_axes({next(iter(dag.graph.inputs)): "batch time"})
    assert named.cost_formula("flops")(batch=3, time=5) == dag.cost_formula("flops")(b=3, s=5)


def test_shown_collected() -> None:
    x, w = td.input("x", (2, 7, 3)), td.parameter("w", (5, 3))
    q = td.linear(x, w)
    graph = graph_of(x, y=td.matmul(q, td.transpose(q, 1, 2)))
    assert str(graph.total_flops(symbolic=True)) == "b*n*(9*n + 25)"
    assert str(cost_function(graph, "flops")) == "flops(b, n) = 25*b*n + 9*b*n*n"


def test_symbolic_totals_are_sympy() -> None:
    graph = GRAPHS["convolution"]
    for total, symbolic in (
        (graph.total_flops(), graph.total_flops(symbolic=True)),
        (graph.total_bytes(), graph.total_bytes(symbolic=True)),
        (graph.total_memory_reads(), graph.total_memory_reads(symbolic=True)),
        (graph.total_memory_writes("elements"), graph.total_memory_writes("elements", symbolic=True)),
    ):
        assert isinstance(symbolic, sympy.Expr)
        assert symbolic.subs({s: {"b": 2, "h": 14, "w": 14}[s.name] for s in symbolic.free_symbols}) == total


# --- refusals -----------------------------------------------------------------------------------------------


def test_an_axis_that_is_not_free() -> None:
    f = cost_function(GRAPHS["convolution"], "flops")
    with pytest.raises(AxisError, match=r"c can't be resized; the free axes are b \(2\), h \(14\), w \(14\)"):
        f(c=8)


def test_a_size_that_leaves_nothing() -> None:
    f = cost_function(GRAPHS["avg pool"], "flops")
    with pytest.raises(AxisError, match="entries would have"):
        f(h=2)
    with pytest.raises(AxisError, match="at least 1"):
        f(b=0)


def test_a_size_that_must_be_a_multiple() -> None:
    x = td.input("x", (2, 12))
    groups = td.ungroup(x, 1, (4, 3))
    graph = graph_of(x, y=td.reduce(groups, "max", (2,)))
    f = cost_function(graph, "flops")
    name = next(n for n in f.names if n != "b")
    assert f(**{name: 18}) == 2 * 6 * 2
    with pytest.raises(AxisError, match="which must be a multiple of 3"):
        f(**{name: 13})


def test_no_such_cost() -> None:
    with pytest.raises(AxisError, match="no cost is called 'macs'; there are flops, bytes"):
        cost_function(GRAPHS["softmax"], "macs")


# --- networks -----------------------------------------------------------------------------------------------


def network(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    if name == "gpt2":
        config = GPT2Config(n_layer=2, n_embd=48, n_head=4, vocab_size=101, n_positions=512, use_cache=False,
                            bos_token_id=None, eos_token_id=None)  # fmt: skip
        return GPT2LMHeadModel(config).eval(), (torch.zeros(2, 7, dtype=torch.int64),)
    if name == "llama":
        config = LlamaConfig(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=8,
                             num_key_value_heads=2, vocab_size=101, use_cache=False)  # fmt: skip
        return LlamaForCausalLM(config).eval(), (torch.zeros(2, 7, dtype=torch.int64),)
    return timm.create_model(name).eval(), (torch.zeros(2, 3, 224, 224),)


NETWORKS = {
    "resnet50": ("b", "h", "w"),
    "vit_base_patch16_224": ("b",),
    "gpt2": ("b", "s"),
    "llama": ("b", "s"),
    "swin_tiny_patch4_window7_224": ("b",),
    "efficientnet_b0": ("b", "h", "w"),
}

RANGES = {"b": (1, 64), "s": (1, 500), "h": (33, 600), "w": (33, 600)}


def points(names: tuple[str, ...], count: int) -> list[dict[str, int]]:
    rng = random.Random(1)
    return [{n: rng.randint(*RANGES[n]) for n in names} for _ in range(count)]


def compare(name: str, count: int) -> None:
    module, args = network(name)
    dag = td.from_torch(module, args)
    f = {what: dag.cost_formula(what) for what in ("flops", "bytes", "reads", "writes")}
    assert tuple(f["flops"].names) == NETWORKS[name]
    assert said(dag.graph) == counted(dag.graph)
    for sizes in points(NETWORKS[name], count):
        other = resized(dag.graph, **sizes)
        assert {what: g(**sizes) for what, g in f.items()} == {
            "flops": other.total_flops(),
            "bytes": other.total_bytes(),
            "reads": other.total_memory_reads(),
            "writes": other.total_memory_writes(),
        }, sizes


#: Networks that take long, and are there at a thousand sizes in the slow run.
LONG = ("swin_tiny_patch4_window7_224", "efficientnet_b0", "vit_base_patch16_224")


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in LONG])
def test_formulas_of_networks(name: str) -> None:
    compare(name, 8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_formulas_of_networks_at_a_thousand_sizes(name: str) -> None:
    compare(name, 1000)


def test_formulas_are_what_an_import_at_other_sizes_counts() -> None:
    module, args = network("llama")
    dag = td.from_torch(module, args)
    for b, s in ((1, 33), (5, 5), (3, 100)):
        other = td.from_torch(module, (torch.zeros(b, s, dtype=torch.int64),))
        assert said(dag.graph, b=b, s=s) == counted(other.graph)


def test_an_axis_that_follows_a_weights_is_not_called_like_another() -> None:
    """Entries counted from the end of a weight have no name of their own."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(40, 4))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            return x + self.weight[-x.shape[1] :], y.mean()

    dag = td.from_torch(Net(), (torch.randn(2, 2, 4), torch.randn(2, 2, 4)))
    f = dag.cost_formula("flops")
    assert f(n=5) == dag.resize(n=5).graph.total_flops() == 56
