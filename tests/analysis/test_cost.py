"""What networks cost, against closed forms worked out by hand: no counter checks another counter here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.analysis.cost.contractions import contractions
from tdagger.analysis.cost.report import Cost, Count, cost_of
from tdagger.analysis.cost.traffic import MODELS, fused, materialised
from tdagger.errors import AttributeValueError
from tdagger.graph import Traffic, Unit
from tdagger.ops.external import External, Slot
from tests.graphs import graphs
from tests.networks import Fn
from tests.quick import in_turn, only
from tests.samples import all_samples

UNITS: tuple[Unit, ...] = ("bytes", "elements")


def r(*shape: int) -> torch.Tensor:
    return torch.rand(*shape)


def imports(module: nn.Module, args: tuple[Any, ...]) -> dict[str, td.TensorDAG]:
    """The network by every way in."""
    module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, args, strict=False)
        script = torch.jit.trace(module, args, check_trace=False)
    return {
        "module": td.from_torch(module, args),
        "trace": td.from_torch(module, args, via="trace"),
        "program": td.from_torch(program),
        "script": td.from_torchscript(script, args),
    }


def cost_of_values(inputs: list[td.Value], *outputs: td.Value) -> Cost:
    return cost_of(td.Graph({x.op.leaf: x for x in inputs}, {str(i): y for i, y in enumerate(outputs)}))


# --- contractions: (module, inputs, multiply-adds) ---------------------------------------------------------

_mv = Fn(lambda a, v: torch.mv(a, v))
_einsum = Fn(lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k))
_chain = Fn(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c))
_attention = Fn(F.scaled_dot_product_attention)
_causal = Fn(partial(F.scaled_dot_product_attention, is_causal=True))
_grouped_query = Fn(partial(F.scaled_dot_product_attention, enable_gqa=True))
_recurrent = {"num_layers": 2, "bidirectional": True, "batch_first": True}


def _gates(gates: int, b: int, t: int, i: int, h: int) -> int:
    """Two layers in two directions; the second takes both directions of the first."""
    return 2 * t * b * gates * h * ((i + h) + (2 * h + h))


CONTRACTIONS: dict[str, tuple[nn.Module, tuple[Any, ...], int]] = {
    "conv": (nn.Conv2d(3, 8, 3, padding=1), (r(2, 3, 10, 12),), 2 * (10 * 12) * 8 * 3 * 9),
    "conv, groups and stride": (
        nn.Conv2d(4, 6, (3, 5), stride=2, groups=2), (r(2, 4, 9, 11),), 2 * (4 * 4) * 6 * (4 // 2) * 15,
    ),
    "conv, dilation": (nn.Conv2d(3, 8, 3, dilation=2), (r(1, 3, 10, 10),), (6 * 6) * 8 * 3 * 9),
    "conv, depthwise": (nn.Conv1d(6, 6, 4, groups=6), (r(2, 6, 9),), 2 * 6 * 6 * 4),
    "conv, one channel, one pixel": (nn.Conv2d(1, 1, 1), (r(1, 1, 3, 4),), 12),
    "conv3d": (nn.Conv3d(2, 3, 2), (r(1, 2, 3, 4, 5),), (2 * 3 * 4) * 3 * 2 * 8),
    "transposed conv": (nn.ConvTranspose2d(4, 6, 3, stride=2), (r(2, 4, 5, 7),), 2 * (5 * 7) * 4 * 6 * 9),
    "transposed conv, groups": (
        nn.ConvTranspose1d(4, 6, 5, stride=3, padding=2, groups=2), (r(2, 4, 5),), 2 * 5 * 4 * (6 // 2) * 5,
    ),
    "linear": (nn.Linear(7, 5), (r(2, 3, 7),), 2 * 3 * 7 * 5),
    "linear of one": (nn.Linear(1, 1), (r(1, 1),), 1),
    "linear, bf16": (nn.Linear(7, 5).bfloat16(), (r(3, 7).bfloat16(),), 3 * 7 * 5),
    "bilinear": (nn.Bilinear(3, 4, 5), (r(2, 3), r(2, 4)), 2 * 5 * 3 * 4 + 2 * 5 * 4),
    "mv": (_mv, (r(5, 7), r(7)), 5 * 7),
    "dot": (Fn(torch.dot), (r(7), r(7)), 7),
    "outer": (Fn(torch.outer), (r(7), r(5)), 0),  # nothing is summed
    "bmm": (Fn(torch.bmm), (r(4, 2, 3), r(4, 3, 5)), 4 * 2 * 3 * 5),
    "addmm": (Fn(torch.addmm), (r(2, 5), r(2, 3), r(3, 5)), 2 * 3 * 5),
    "baddbmm": (Fn(partial(torch.baddbmm, beta=0.5, alpha=2.0)), (r(4, 2, 5), r(4, 2, 3), r(4, 3, 5)), 4 * 2 * 3 * 5),
    "einsum": (_einsum, (r(2, 5, 4, 3), r(2, 6, 4, 3)), 2 * 4 * 5 * 6 * 3),
    "einsum of three": (_chain, (r(2, 3), r(3, 4), r(4, 5)), 2 * 3 * 4 + 2 * 4 * 5),
    "cdist": (Fn(torch.cdist), (r(2, 5, 3), r(2, 7, 3)), 0),  # a norm of differences: nothing is multiplied by another
    "attention": (_attention, (r(2, 4, 5, 8), r(2, 4, 6, 8), r(2, 4, 6, 3)), 2 * 4 * 5 * 6 * (8 + 3)),
    "attention, causal": (_causal, (r(2, 4, 5, 8), r(2, 4, 5, 8), r(2, 4, 5, 8)), 2 * 4 * 5 * 5 * 16),
    "attention, grouped queries": (_grouped_query, (r(2, 4, 5, 8), r(2, 2, 5, 8), r(2, 2, 5, 8)), 2 * 4 * 5 * 5 * 16),
    "multi-head attention": (
        Fn(lambda m, x: m(x, x, x, need_weights=False)[0]), (nn.MultiheadAttention(8, 2, batch_first=True), r(2, 5, 8)),
        2 * (5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8),
    ),
    "lstm": (nn.LSTM(3, 5, **_recurrent), (r(2, 7, 3),), _gates(4, 2, 7, 3, 5)),
    "gru": (nn.GRU(3, 5, **_recurrent), (r(2, 7, 3),), _gates(3, 2, 7, 3, 5)),
    "rnn": (nn.RNN(3, 5, **_recurrent), (r(2, 7, 3),), _gates(1, 2, 7, 3, 5)),
    "lstm with a projection": (
        nn.LSTM(3, 5, proj_size=2), (r(7, 4, 3),), 7 * 4 * (4 * 5 * 3 + 4 * 5 * 2 + 2 * 5),
    ),
    "embedding": (nn.Embedding(10, 4), (torch.tensor([[1, 2, 3]]),), 0),
    "layer norm": (nn.LayerNorm(6), (r(2, 3, 6),), 0),
    "batch norm": (nn.BatchNorm2d(4), (r(2, 4, 5, 5),), 0),
    "group norm": (nn.GroupNorm(2, 4), (r(2, 4, 5, 5),), 0),
    "rms norm": (nn.RMSNorm(6), (r(2, 3, 6),), 0),
    "softmax": (nn.Softmax(-1), (r(2, 6),), 0),
    "average": (nn.AvgPool2d(2), (r(2, 3, 6, 6),), 0),
    "resize": (nn.Upsample(scale_factor=2, mode="bilinear"), (r(1, 3, 6, 6),), 0),
}  # fmt: skip


class _WithModule(nn.Module):
    """A function whose first argument is a module of this one."""

    def __init__(self, function: Callable[..., Any], inner: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, *args: Any) -> Any:
        return self.function(self.inner, *args)


def _network(name: str) -> tuple[nn.Module, tuple[Any, ...], int]:
    module, args, macs = CONTRACTIONS[name]
    if isinstance(args[0], nn.Module):
        assert isinstance(module, Fn)
        return _WithModule(module.function, args[0]), args[1:], macs
    return module, args, macs


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name: str) -> None:
    module, args, macs = _network(name)
    for via, dag in imports(module, args).items():
        cost = dag.cost()
        assert (via, cost.macs, cost.contraction_flops) == (via, macs, 2 * macs)
        assert not cost.partial


def test_grouped_matmul() -> None:
    x, w, ends = td.input("x", (10, 3)), td.input("w", (4, 3, 5)), td.input("ends", (4,), "i64")
    assert cost_of_values([x, w, ends], td.grouped_matmul(x, w, ends)).macs == 10 * 3 * 5


def test_what_is_no_contraction() -> None:
    x, y = td.input("x", (4, 6)), td.input("y", (4, 6))
    product = x * y
    total = td.reduce(product, "sum", (1,))
    assert cost_of_values([x, y], total).macs == 24
    assert cost_of_values([x, y], td.reduce(td.permute(product, (1, 0)), "sum", (0,))).macs == 24
    twice = cost_of_values([x, y], total, td.reduce(product, "sum", (0,)))
    assert (twice.macs, twice.total_flops) == (24, 24 + 4 * 5 + 6 * 3)
    assert twice.elementwise_flops in (4 * 5, 6 * 3)  # the other sum is one of its own
    assert cost_of_values([x, y], total, product).macs == 0  # somebody else takes the product
    assert cost_of_values([x, y], total, td.exp(product)).macs == 0
    assert cost_of_values([x], td.reduce(x * x, "sum")).macs == 0  # the square of a norm
    assert cost_of_values([x], td.reduce(x * 0.5, "sum")).macs == 0
    assert cost_of_values([x], td.reduce(x * td.cast(td.iota(6), "f32"), "sum")).macs == 0  # weighted, by no data
    assert cost_of_values([x, y], td.reduce(product, "max")).macs == 0


def test_sums_of_a_product_are_found() -> None:
    x, y = td.input("x", (4, 6)), td.input("y", (4, 6))
    total = td.reduce(td.cast(x * y, "f64"), "sum", (1,))
    graph = td.Graph({"x": x, "y": y}, {"t": total})
    assert contractions(graph) == {x * y: total}


# --- networks ----------------------------------------------------------------------------------------------


def _resnet18(b: int, size: int, classes: int) -> int:
    """timm's resnet18: a stem, four stages of two blocks of two convolutions, a classifier."""
    n = size // 2
    macs = n * n * 64 * 3 * 49
    n //= 2
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        n //= 2 if stage else 1
        macs += n * n * width * 9 * (channels + 3 * width)
        macs += n * n * width * channels if stage else 0
        channels = width
    return b * (macs + 512 * classes)


def _vit(b: int, image: int, patch: int, d: int, depth: int, classes: int) -> int:
    patches = (image // patch) ** 2
    t = patches + 1
    block = t * d * 3 * d + 2 * t * t * d + t * d * d + 2 * t * d * 4 * d
    return b * (patches * patch * patch * 3 * d + depth * block + d * classes)


def _gpt2(b: int, s: int, d: int, layers: int, vocabulary: int) -> int:
    return b * (layers * (s * d * (3 * d + d + 8 * d) + 2 * s * s * d) + s * d * vocabulary)


def _llama(b: int, s: int, d: int, heads: int, groups: int, f: int, layers: int, vocabulary: int) -> int:
    layer = s * d * (d + 2 * groups * (d // heads) + d + 3 * f) + 2 * s * s * d
    return b * (layers * layer + s * d * vocabulary)


@pytest.mark.parametrize("size", only((32, 64, 96), 32))
def test_resnet(size: int) -> None:
    import timm

    module = timm.create_model("resnet18", pretrained=False, num_classes=10)
    for dag in imports(module, (r(2, 3, size, size),)).values():
        assert dag.cost().macs == _resnet18(2, size, 10)


@pytest.mark.parametrize("is_fused", [False, True], ids=["eager", "sdpa"])
def test_vit(is_fused: bool) -> None:
    import timm

    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, **options)
    for block in module.blocks:
        block.attn.fused_attn = is_fused
    for dag in imports(module, (r(2, 3, 32, 32),)).values():
        assert dag.cost().macs == _vit(2, 32, 8, 24, 2, 10)


@pytest.mark.parametrize(("kind", "attention"), in_turn(2, ("GPT2", "Llama"), ("eager", "sdpa")))
def test_language_models(kind: str, attention: str) -> None:
    import transformers

    if kind == "GPT2":
        config: Any = transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        module: nn.Module = transformers.GPT2LMHeadModel._from_config(config, attn_implementation=attention)
        macs = _gpt2(2, 8, 32, 2, 97)
    else:
        config = transformers.LlamaConfig(
            vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=64,
        )  # fmt: skip
        module = transformers.LlamaForCausalLM._from_config(config, attn_implementation=attention)
        macs = _llama(2, 8, 32, 4, 2, 64, 2, 97)
    module.eval()
    tokens = {"input_ids": torch.randint(0, 97, (2, 8)), "use_cache": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about itself
        dags = [td.from_torch(module, (), tokens, via=via) for via in ("export", "trace")]
        dags.append(td.from_torch(torch.export.export(module, (), tokens, strict=False)))
    assert [dag.cost().macs for dag in dags] == [macs] * 3


# --- elementwise flops and functions -----------------------------------------------------------------------


def test_layer_norm_by_hand() -> None:
    b, n = 6, 5
    x, w, c = td.input("x", (b, n)), td.parameter("w", (n,)), td.parameter("c", (n,))
    cost = cost_of_values([x], td.layer_norm(x, w, c))
    # of each row: its sum n - 1 and mean 1, centred n, squared n, their sum n - 1 and mean 1, eps 1, root 1,
    # reciprocal 1, scaled n; then times the weight n and plus the bias n
    assert cost.elementwise_flops == cost.total_flops == b * ((n - 1) + 1 + n + n + (n - 1) + 1 + 1 + 1 + 1 + n + n + n)
    assert (cost.macs, cost.transcendental) == (0, b)


def test_linear_by_hand() -> None:
    x, w, c = td.input("x", (3, 7)), td.parameter("w", (5, 7)), td.parameter("c", (5,))
    cost = cost_of_values([x], td.linear(x, w, c))
    assert (cost.macs, cost.contraction_flops, cost.elementwise_flops) == (105, 210, 15)
    assert cost.total_flops == 105 + 15 * 6 + 15  # n products and n - 1 additions each, and the bias


@pytest.mark.parametrize(
    ("function", "each"),
    [(td.exp, 1), (td.sqrt, 1), (td.tanh, 1), (td.gelu, 1), (td.sigmoid, 1), (td.relu, 0), (td.neg, 0), (td.silu, 1)],
)
def test_transcendental(function: Callable[[td.Value], td.Value], each: int) -> None:
    x = td.input("x", (3, 4))
    cost = cost_of_values([x], function(x))
    assert cost.transcendental == 12 * each
    assert cost.transcendental <= cost.elementwise_flops == cost.total_flops


def test_softmax_and_powers() -> None:
    x = td.input("x", (3, 4))
    assert cost_of_values([x], td.softmax(x, axis=1)).transcendental == 12
    assert cost_of_values([x], x**0.3).transcendental == 12
    assert cost_of_values([x], x / 2.0 - x).transcendental == 0


# --- rows, what isn't counted, printing --------------------------------------------------------------------


class _Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.GELU())
        self.last = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x)).softmax(-1)


def _columns(count: Count) -> tuple[Any, ...]:
    attention = (count.attention_flops, count.attention_flops_causal)
    others = (count.elementwise_flops, count.transcendental, count.total_flops)
    moved = [n for unit in UNITS for model in MODELS for n in count.traffic(model, unit)]
    return (count.macs, count.contraction_flops, *attention, *others, *moved)


def test_rows_add_up() -> None:
    cost = td.from_torch(_Blocks(), (r(3, 4),)).cost()
    for rows in (cost.by_value, cost.by_op):
        assert tuple(map(sum, zip(*map(_columns, rows), strict=True))) == _columns(cost)
    modules = {row.name: row for row in cost.by_module}
    assert list(modules) == ["", "first", "first.0", "first.1", "last"]
    assert _columns(modules[""]) == _columns(cost)
    inner = zip(_columns(modules["first.0"]), _columns(modules["first.1"]), strict=True)
    assert tuple(a + b for a, b in inner) == _columns(modules["first"])
    assert (modules["first"].macs, modules["last"].macs, modules["first.1"].transcendental) == (96, 48, 24)
    assert [row.name for row in cost.by_op][:2] == ["linear", "gelu"]
    assert {row.module for row in cost.by_value} == {"", "first.0", "first.1", "last"}
    assert all(row.value is not None and row.ops == 1 for row in cost.by_value)


def test_totals_are_those_of_the_graph() -> None:
    graph = td.from_torch(_Blocks(), (r(3, 4),)).graph
    cost = cost_of(graph)
    assert cost.total_flops == graph.total_flops()
    assert (cost.reads, cost.writes) == (graph.total_memory_reads(), graph.total_memory_writes())
    assert cost.memory.weight_bytes == graph.total_bytes()


def test_what_is_not_counted_is_named() -> None:
    x = td.input("x", (2, 3))
    y = External("torch", "lib.f", (Slot(0),), (), (x.type,))(x)
    cost = cost_of_values([x], td.exp(y), External("torch", "lib.f", (Slot(0),), (), (x.type,))(y))
    assert cost.partial == {"torch:lib.f": 2}
    assert cost.is_partial
    assert "PARTIAL: not counted, so that every number is a lower bound: torch:lib.f (2 times)" in str(cost)
    assert "PARTIAL" not in str(cost_of_values([x], td.exp(x)))


@td.composite
def _around_external(x: td.Value) -> td.Value:
    """An external op in a body."""
    return td.exp(External("torch", "lib.inside", (Slot(0),), (), (x.type,))(x))


def test_external_ops_in_bodies_are_named() -> None:
    x = td.input("x", (2, 3))
    cost = cost_of_values([x], _around_external(_around_external(x)))
    assert cost.partial == {"torch:lib.inside": 2}
    assert cost.total_flops == 12


#: Ops that compute nothing: they move, make or relabel data.
MOVES = {
    "bitcast", "buffer", "cast", "channel_shuffle", "circular_pad", "concat", "const", "diagonal", "dropout",
    "embedding", "filled", "gather", "group", "im2col", "input", "iota", "linspace", "max_unpool",
    "pad", "parameter", "permute", "pixel_shuffle",
    "pixel_unshuffle", "random", "reflect_pad", "repeat", "repeat_interleave", "replicate_pad", "reshape", "roll",
    "scatter set", "slice", "stack", "stop_gradient", "straight_through", "tile", "unfold", "ungroup",
}  # fmt: skip


def test_nothing_is_zero_but_what_moves() -> None:
    counted: dict[str, int] = {}
    for sample in all_samples():
        inputs = sample.inputs()
        out = sample.build(*inputs)
        outputs = {str(i): y for i, y in enumerate(out if isinstance(out, tuple) else (out,))}
        graph = td.Graph({x.op.leaf: x for x in inputs}, outputs)
        counted[sample.op] = counted.get(sample.op, 0) + graph.total_flops()
    assert {name for name, n in counted.items() if not n} == MOVES


def test_printing_names_every_number() -> None:
    text = str(td.from_torch(_Blocks(), (r(3, 4),)).cost())
    for name in ("macs", "contraction_flops", "elementwise_flops", "transcendental", "total_flops", *MODELS):
        assert name in text
    assert "peak_bytes" in text
    assert "parameters 232" in text


def test_a_long_chain_needs_no_recursion() -> None:
    x, w = td.input("x", (2, 3)), td.parameter("w", (3, 3))
    y = x
    for _ in range(2000):
        y = td.relu(td.linear(td.squeeze(td.unsqueeze(y, (0,)), (0,)), w))
    assert cost_of_values([x], y).macs == 2000 * 18


def test_nothing_at_all() -> None:
    x = td.input("x", (2, 3))
    cost = cost_of_values([x], x)
    assert _columns(cost) == (0,) * 19
    assert (cost.by_op, cost.by_value, cost.peak_bytes, cost.intensity()) == ((), (), 0, 0.0)
    assert str(cost)


# --- traffic -----------------------------------------------------------------------------------------------


def _check_bracket(graph: td.Graph) -> None:
    cost = cost_of(graph)
    assert cost.total_flops - cost.elementwise_flops <= cost.contraction_flops
    for row in cost.by_value:
        assert 0 <= row.transcendental <= row.elementwise_flops <= row.total_flops
        assert 0 <= row.attention_flops_causal <= row.attention_flops <= row.contraction_flops
        for unit in UNITS:
            most, default, least = (row.traffic(model, unit) for model in MODELS)
            assert least.reads <= default.reads <= most.reads, row
            assert least.writes <= default.writes <= most.writes, row
    for unit in UNITS:
        reads, writes = graph.total_memory_reads(unit), graph.total_memory_writes(unit)
        assert cost.traffic(unit=unit) == (reads, writes)
    assert {r.value: r.composite for r in cost.by_value} == {r.value: graph.traffic[r.value] for r in cost.by_value}


@given(graphs(size=30))
def test_the_models_bracket_one_another(graph: td.Graph) -> None:
    _check_bracket(graph)


@pytest.mark.parametrize("name", sorted({s.op for s in all_samples()}))
def test_the_models_bracket_one_another_for_every_op(name: str) -> None:
    sample = next(s for s in all_samples() if s.op == name)
    inputs = sample.inputs()
    out = sample.build(*inputs)
    outputs = out if isinstance(out, tuple) else (out,)
    _check_bracket(td.Graph({x.op.leaf: x for x in inputs}, {str(i): y for i, y in enumerate(outputs)}))


def test_fusion_by_hand() -> None:
    x, w1, w2 = td.input("x", (8, 4)), td.parameter("w1", (4, 4)), td.parameter("w2", (4, 4))
    a = td.linear(x, w1)
    b = td.relu(a + 1.0)
    c = td.linear(b, w2)
    y = td.tanh(c + b)
    found = fused(td.Graph({"x": x}, {"y": y}))
    assert found[a] == (128 + 64, 0)  # only elementwise ops take it: it stays in registers
    assert found[b.args[0]] == (4, 0)  # the 1
    assert found[b] == (0, 128)  # the next product takes it
    assert found[c] == (128 + 64, 0)
    assert found[y.args[0]] == (128, 0)  # the residual comes from memory, the product doesn't
    assert found[y] == (0, 128)


def test_movements_are_read_through() -> None:
    x, y = td.input("x", (8, 4)), td.input("y", (8, 2))
    half = td.slice_axis(td.permute(x, (1, 0)), 0, 0, 2)
    product = td.matmul(half, y)
    graph = td.Graph({"x": x, "y": y}, {"out": product})
    assert {v: t for v, t in fused(graph).items() if any(t)} == {product: (2 * 8 * 4 + 64, 16)}
    kept = td.Graph({"x": x, "y": y}, {"out": product, "half": half})
    assert fused(kept)[half] == (64, 64)  # an output is written
    assert fused(kept)[half.args[0]] == (0, 0)


def test_a_fused_group_reads_a_tensor_once() -> None:
    x = td.input("x", (10,))
    y = td.exp(x) * x
    graph = td.Graph({"x": x}, {"y": y})
    assert tuple(map(sum, zip(*fused(graph).values(), strict=True))) == (40, 40)
    assert tuple(map(sum, zip(*materialised(graph).values(), strict=True))) == (120, 80)


def test_materialised_attention_holds_the_scores() -> None:
    q, k, v = (td.input(n, (1, 2, 8, 4)) for n in "qkv")
    graph = td.Graph({"q": q, "k": k, "v": v}, {"y": td.scaled_dot_product_attention(q, k, v)})
    cost = cost_of(graph)
    scores = 2 * 8 * 8
    # k turned, two products [.. 8 8 4], their sums, the scaling, and five steps of softmax, two of them [.. 8 1]
    written = 2 * 8 * 4 + 2 * scores * 4 + scores + 2 * 8 * 4 + scores + (scores * 3 + 2 * 8 * 2)
    assert cost.materialised.writes == 4 * written
    assert cost.composite == cost.fused == (3 * 256, 256)


def test_intensity() -> None:
    x = td.input("x", (10,))
    cost = cost_of_values([x], td.exp(td.exp(x)))
    assert cost.intensity() == cost.intensity("composite") == 20 / 160
    assert cost.intensity("fused") == 20 / 80
    assert cost_of_values([], td.exp(td.broadcast_to(td.const(1.0), (5,)))).intensity("fused") == 5 / 24
    with pytest.raises(AttributeValueError, match="no model of traffic is called 'cached'"):
        cost.traffic("cached")
    nothing = Traffic(0, 0)
    assert math.isinf(Count(1, 2, 0, 0, 0, 0, 1, *[nothing] * 6).intensity())
