"""Every pass on random graphs and on networks: same outputs, same names, nothing more to do the second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import tdagger as td
from tdagger import passes
from tdagger.graph import op_counts
from tdagger.interpret import run
from tdagger.transform.passes.pipeline import difference, random_inputs
from tdagger.transform.passes.simplify import holds
from tdagger.types import DTYPES
from tests.graphs import graphs
from tests.networks import NETWORKS, perturb
from tests.quick import only

Pass = Callable[[td.TensorDAG], td.TensorDAG]
EVERY: dict[str, Pass] = {
    **{p.__name__: p for p in dict.fromkeys(passes.DEFAULT)},
    "sink_transposes": passes.sink_transposes,
    "decompose": passes.decompose,
    "freeze": passes.freeze,
    "optimized": passes.optimized,
}
#: Where every number stays as it is, to the bit.
EXACT = ("simplify", "drop_unused_results", "sink_transposes", "freeze")


def error(before: td.TensorDAG, after: td.TensorDAG) -> float:
    inputs = random_inputs(before.graph)
    results = [run(d.graph, inputs, d.weights) for d in (before, after)]
    return max((difference(a[n], b[n]) for a, b in zip(*results, strict=True) for n in a), default=0.0)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=40)
@given(graph=graphs())
def test_random_graphs(name: str, graph: td.Graph) -> None:
    generator = np.random.default_rng(1)
    leaves = {**graph.parameters, **graph.buffers}
    weights = {n: generator.normal(size=v.shape).astype(np.float32) for n, v in leaves.items()}
    dag = td.TensorDAG.of_graph(graph, weights)
    after = EVERY[name](dag)
    assert {n: v.type for n, v in after.graph.outputs.items()} == {n: v.type for n, v in graph.outputs.items()}
    assert list(after.graph.inputs) == list(graph.inputs)
    assert error(dag, after) <= (0 if name in EXACT else 1e-5)
    again = EVERY[name](after)
    assert again.graph == after.graph


class Mixed(nn.Module):
    """Convolutions, norms, scales, linear layers in a row, transposes, casts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, groups=8)
        self.bn2 = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.bn3 = nn.BatchNorm2d(6)
        self.gamma = nn.Parameter(torch.randn(6))
        self.first = nn.Linear(6, 4)
        self.second = nn.Linear(4, 5, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn2(self.depth(torch.relu(self.bn(self.conv(x)))))
        x = self.bn3(self.up(x)) * self.gamma.reshape(-1, 1, 1)
        x = x.transpose(1, 3).double().float().transpose(1, 3).permute(0, 2, 3, 1)
        return self.second(self.drop(self.first(x))) * 0.5


@pytest.fixture(scope="module")
def mixed() -> td.TensorDAG:
    torch.manual_seed(0)
    module = Mixed()
    perturb(module)
    return td.from_torch(module.eval(), torch.randn(2, 3, 7, 7))


@pytest.mark.parametrize("name", EVERY)
def test_a_network(name: str, mixed: td.TensorDAG) -> None:
    after = EVERY[name](mixed)
    assert error(mixed, after) <= (0 if name in EXACT else 1e-6)
    assert EVERY[name](after).graph == after.graph
    for leaf, value in after.graph.parameters.items():
        assert leaf not in mixed.graph.parameters or value.type == mixed.graph.parameters[leaf].type
        assert after.state[leaf].is_parameter
    module = after.to_torch()
    x = torch.randn(2, 3, 7, 7)
    with torch.no_grad():
        torch.testing.assert_close(module(x), mixed.to_torch()(x), rtol=1e-4, atol=1e-5)


def test_everything_that_can_be_is_merged(mixed: td.TensorDAG) -> None:
    after = mixed.optimize()
    counts = op_counts(after.values)
    assert counts["batch_norm"] == counts["dropout"] == counts["multiply"] == 0
    assert (counts["convolution"], counts["convolution_transpose"], counts["linear"]) == (2, 1, 1)
    assert counts["cast"] == 0
    assert sorted(after.graph.parameters) == [
        *("conv.bias", "conv.weight", "depth.bias", "depth.weight", "second.folded_bias"),
        *("second.folded_weight", "up.bias", "up.weight"),
    ]
    assert {o.module for v in after.values if v.op.name == "convolution" and (o := after.origins.get(v))} == {
        "bn",
        "bn2",
    }


@pytest.mark.parametrize("both", [td.max_pool_with_indices, td.adaptive_max_pool_with_indices])
def test_indices_that_nobody_uses_are_dropped(both: Any) -> None:
    x = td.input("x", (1, 2, 6, 6))
    found = both(x, **({"kernel": (2, 2)} if both is td.max_pool_with_indices else {"size": (2, 2)}))
    alone = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": found[0]}))
    names = [v.op.name for v in passes.drop_unused_results(alone).values]
    assert names == ["input", both.name.removesuffix("_with_indices")]
    whole = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": found[0], "at": found[1]}))
    assert passes.drop_unused_results(whole).graph == whole.graph


def test_batch_norm_of_rows_goes_into_the_linear_layer_before() -> None:
    random = np.random.default_rng(0)
    sizes: dict[str, tuple[int, ...]] = {"w": (4, 3), "mean": (4,), "var": (4,), "m2": (2,), "v2": (2,)}
    data = {n: random.uniform(0.5, 1.5, s).astype("f") for n, s in sizes.items()}
    x, (w, *of) = td.input("x", (2, 5, 3)), [td.parameter(n, s) for n, s in sizes.items()]
    given = random.standard_normal((2, 5, 3)).astype("f")
    for shape, (mean, var), left in (((10, 4), of[:2], 0), ((20, 2), of[2:], 1)):
        rows = td.batch_norm(td.reshape(td.linear(x, w), shape=shape), mean, var, axis=1)
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"a": rows}), data).inline("reshape")
        folded = passes.fold_batch_norm(dag)
        assert sum(v.op.name == "batch_norm" for v in folded.values) == left
        np.testing.assert_allclose(folded.run(given), dag.run(given), rtol=1e-5, atol=1e-6)


def test_batch_norm_stays_where_others_use_its_argument() -> None:
    x, w = td.input("x", (1, 2, 4, 4)), td.parameter("w", (3, 2, 1, 1))
    mean, var = td.buffer("mean", (3,)), td.buffer("var", (3,))
    y = td.convolution(x, w)
    data = {"w": np.ones((3, 2, 1, 1), "f"), "mean": np.zeros(3, "f"), "var": np.ones(3, "f")}
    both = td.Graph({"x": x}, {"a": td.batch_norm(y, mean, var), "b": y})
    assert passes.fold_batch_norm(td.TensorDAG.of_graph(both, data)).graph == both
    alone = td.Graph({"x": x}, {"a": td.batch_norm(y, mean, var)})
    assert len(passes.fold_batch_norm(td.TensorDAG.of_graph(alone, data)).graph) == 4
    # statistics that a run changes are not those of the next run; weights without data can't be merged
    moved = td.Graph({"x": x}, {"a": td.batch_norm(y, mean, var)}, {"mean": mean + 1.0})
    assert passes.fold_batch_norm(td.TensorDAG.of_graph(moved, data)).graph == moved
    assert passes.fold_batch_norm(td.TensorDAG.of_graph(alone, {})).graph == alone


def test_a_weight_that_others_use_keeps_its_data() -> None:
    x, w = td.input("x", (2, 3)), td.parameter("w", (3, 3))
    scale = td.parameter("s", (3,))
    graph = td.Graph({"x": x}, {"y": td.linear(td.exp(x), w) * scale, "z": td.linear(x, w)})
    generator = np.random.default_rng(0)
    data = {"w": generator.normal(size=(3, 3)).astype("f"), "s": generator.normal(size=3).astype("f")}
    dag = td.TensorDAG.of_graph(graph, data)
    after = passes.fold_scales(dag)
    assert error(dag, after) < 1e-6
    assert sorted(after.graph.parameters) == ["folded_w", "w"]
    np.testing.assert_array_equal(after.weights["w"], data["w"])


def test_constants_are_folded_up_to_a_size() -> None:
    dag = td.network(lambda x: x + td.exp(td.iota(10, "f32")), {"x": (10,)})
    assert op_counts(passes.fold_constants(dag).values)["exp"] == 0
    assert op_counts(passes.fold_constants(dag, limit=9).values)["exp"] == 1
    spread = td.network(lambda x: x + td.broadcast_to(td.const(2.0), (10,)), {"x": (10,)})
    assert passes.fold_constants(spread).graph == spread.graph  # entries only moved


def test_a_table_looked_up_at_pairs_is_worked_out_unless_places_are_counted() -> None:
    """Swin's position bias is larger than its table, and as fixed as its indices, a buffer; T5's would follow sizes."""
    table = td.parameter("table", (9,))
    x = td.input("x", (5, 5))
    pairs = np.arange(5)[:, None] - np.arange(5)[None] + 4
    data = {"table": np.arange(9, dtype=np.float32), "pairs": pairs}

    def biased(index: td.Value) -> td.TensorDAG:
        return td.TensorDAG.of_graph(
            td.Graph({"x": x}, {"y": x + td.squeeze(td.embedding(td.unsqueeze(table, (1,)), index), (2,))}), data
        )

    listed = biased(td.buffer("pairs", (5, 5), "i64"))
    after = passes.fold_weights(listed)
    assert [v.op.name for v in after.values if v.op.name in ("embedding", "gather")] == []
    assert error(listed, after) == 0.0
    count = td.unsqueeze(td.iota(5), (1,)) - td.iota(5)
    for places in (count + 4, td.const(pairs, "i64")):  # and as a constant, which may be what was counted
        counted = biased(places)
        assert passes.fold_weights(counted).graph == counted.graph


def test_folded_weights_are_nobody_elses() -> None:
    w = np.random.default_rng(0).normal(size=(3, 3)).astype("f")
    x, held = td.input("x", (3, 3)), td.parameter("w", (3, 3))
    same, twice = td.stop_gradient(held), held * 2.0
    ends = {"y": x + same, "z": x + twice, "again": x * td.stop_gradient(twice), "w": x - held}
    after = passes.fold_weights(td.TensorDAG.of_graph(td.Graph({"x": x}, ends), {"w": w}))
    arrays = [w, *(a for n, a in after.weights.items() if n != "w")]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    assert len(arrays) > 2


class Standardised(nn.Module):
    """A convolution whose weight is standardised at every run, as NFNets do it: by a batch norm in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.gain = nn.Parameter(torch.rand(4, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat, gain = self.weight.reshape(1, 4, -1), (self.gain * 0.3).view(-1)
        made = nn.functional.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0)
        return nn.functional.conv2d(x, made.reshape_as(self.weight))


def test_a_standardised_weight_is_the_weight() -> None:
    before = td.from_torch(Standardised().eval(), (torch.randn(1, 3, 8, 8),))
    after = passes.fold_weights(before)
    assert [v.op.name for v in after.values if v.args] == ["convolution"]
    assert list(after.state) == ["weight"]
    assert error(before, after) < 1e-6
    assert passes.fold_weights(after).graph == after.graph


def test_numbers_that_look_alike_stay() -> None:
    def kept(function: Any) -> bool:
        dag = td.network(function, {"x": (2,)})
        return passes.simplify(dag).graph == dag.graph

    assert kept(lambda x: x + 0.0)  # -0.0 + 0.0 is 0.0
    assert not kept(lambda x: x - 0.0)
    assert kept(lambda x: x * 0.0)  # of infinity it is NaN
    assert kept(lambda x: td.cast(td.cast(x, "f16"), "f32"))
    assert not kept(lambda x: td.cast(td.cast(x, "f64"), "f32"))
    assert kept(lambda x: td.reciprocal(td.reciprocal(x)))
    # -1 as u8 is 255, -1.0 is anything
    assert kept(lambda x: td.cast(td.cast(td.cast(td.cast(x, "i32"), "f64"), "u8"), "f32"))
    assert not kept(lambda x: td.cast(td.cast(td.cast(x, "i32"), "f64"), "i64"))
    assert not kept(lambda x: td.neg(td.neg(x)))


@pytest.mark.parametrize("wide", DTYPES, ids=str)
def test_what_an_element_type_holds(wide: Any) -> None:
    samples = np.array([0, 1, -1, 127, 255, 256, 257, 2049, 65504, 2**24 + 1, 2**31 - 1, 2**53 + 1, 0.1, 1e-7, 1e30])
    for narrow in DTYPES:
        if not holds(wide, narrow):
            continue
        with np.errstate(all="ignore"):
            data = samples.astype(np.int64).astype(narrow.numpy) if narrow.is_int else samples.astype(narrow.numpy)
            there = data.astype(wide.numpy).astype(narrow.numpy)
        assert data.tobytes() == there.tobytes(), (wide, narrow)


def test_another_element_type(mixed: td.TensorDAG) -> None:
    after = passes.convert_dtype(mixed, "bf16", keep=["second"])
    kinds = {n: v.dtype.name for n, v in after.graph.parameters.items()}
    assert kinds["conv.weight"] == "bf16"
    assert kinds["second.weight"] == "f32"
    assert after.graph.outputs["out"].type == mixed.graph.outputs["out"].type
    assert 0 < error(mixed, after) < 0.05
    assert passes.convert_dtype(after, "bf16", keep=["second"]).graph == after.graph
    inside = passes.convert_dtype(mixed, "f16", inputs=True)
    assert {v.dtype.name for v in (*inside.graph.inputs.values(), *inside.graph.outputs.values())} == {"f16"}
    with pytest.raises(td.AttributeValueError, match="types of floats"):
        passes.convert_dtype(mixed, "i8")


class Spectrum(nn.Module):
    """Complex numbers that are computed, that are constants, and that are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.fft.rfft(x)[..., :4] * self.turn * torch.tensor([1j, 0.5, 1.0, 2.0])
        return y, torch.fft.irfft(y, 6)


def test_complex_numbers_have_parts_of_the_new_type() -> None:
    module, x = Spectrum(), torch.randn(2, 6)
    wide = passes.convert_dtype(td.from_torch(module, x), "f64", inputs=True)
    assert [v.dtype.name for v in wide.graph.outputs.values()] == ["c128", "f64"]
    assert {v.dtype.name for v in wide.graph.values if v.dtype.is_complex} == {"c128"}
    for found, wanted in zip(wide.run(x.double().numpy()), module.double()(x.double()), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12, atol=1e-12)
    back = passes.convert_dtype(td.from_torch(module.float(), x), "f64")
    assert [v.dtype.name for v in back.graph.outputs.values()] == ["c64", "f32"]
    narrow = passes.convert_dtype(wide, "f32", source="f64", inputs=True)
    assert {v.dtype.name for v in narrow.graph.values if v.dtype.is_float or v.dtype.is_complex} == {"f32", "c64"}


class Checked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.first(x))
        if y.abs().max() > 50:
            raise ValueError("too large")
        return y.relu()


@pytest.mark.parametrize("name", [*EVERY, "convert_dtype", "rewrite", "raise"])
def test_checks_follow(name: str) -> None:
    """What the source asserts of its data is asked of what became of that, by weights that are there."""
    model = Checked().eval()
    perturb(model)
    x = torch.rand(1, 2, 3, 3)
    with pytest.warns(UserWarning, match="checks its data"):
        dag = td.from_torch(model, x)

    @td.rule
    def double(x: Any) -> Any:
        return td.relu(x)

    @double.to
    def _(x: Any) -> Any:
        return td.gelu(x)

    others: dict[str, Pass] = {
        "convert_dtype": lambda d: passes.convert_dtype(d, "f64"),
        "rewrite": lambda d: d.rewrite(double),
        "raise": lambda d: d.inline().raise_(),
    }
    after = {**EVERY, **others}[name](dag)
    (check,) = after.checks
    assert check.value is not None
    assert set(after.graph.outputs) == {"out"}
    module = after.to_torch(checks=True)
    module(x)
    with pytest.raises(Exception, match="too large"):
        module(x * 1000)


def test_weights_channels_last(mixed: td.TensorDAG) -> None:
    after = passes.channels_last_weights(mixed)
    assert after.graph == mixed.graph
    module, source = after.to_torch(), mixed.to_torch()
    assert list(module.state_dict()) == list(source.state_dict())
    for name, weight in module.named_parameters():
        assert torch.equal(weight, source.get_parameter(name)), name
        if weight.ndim == 4 and name != "up.weight":  # a transposed one
            assert weight.is_contiguous(memory_format=torch.channels_last), name
    assert source.get_parameter("conv.weight").is_contiguous()  # the source's are as they were


def test_decomposition() -> None:
    dag = td.network(lambda x: td.silu(td.layer_norm(x)), {"x": (2, 3)})
    assert op_counts(dag.inline("silu").values)["sigmoid"] == 1
    assert op_counts(dag.inline("silu").values)["layer_norm"] == 1
    assert op_counts(dag.inline("silu", deep=True).values)["sigmoid"] == 1  # which has a gradient of its own
    assert op_counts(dag.inline("silu", deep=True).inline("sigmoid").values)["sigmoid"] == 0
    known = op_counts(dag.inline(keep=["layer_norm", "sigmoid"]).values)
    assert (known["layer_norm"], known["sigmoid"], known["silu"]) == (1, 1, 0)
    core = {v.op.name for v in dag.inline().inline("sigmoid").values}
    assert core <= set(td.core_ops)
    with pytest.raises(td.AttributeValueError, match="no composite called nosuch"):
        dag.inline("nosuch")


def test_frozen_and_thawed(mixed: td.TensorDAG) -> None:
    frozen = passes.freeze(mixed, "conv", "bn")
    assert not {"conv.weight", "bn.weight", "bn.running_var"} & {*frozen.graph.parameters, *frozen.graph.buffers}
    assert "conv.weight" not in frozen.to_torch().state_dict()
    back = passes.unfreeze(frozen)
    assert error(frozen, back) == 0
    assert back.state["constant_0"].is_parameter
    with pytest.raises(td.InputError, match="no weights called nosuch"):
        passes.freeze(mixed, "nosuch")


def test_pipelines() -> None:
    dag = td.network(lambda x: td.neg(td.neg(x)) * 1.0, {"x": (2,)})

    def wrong(d: td.TensorDAG) -> td.TensorDAG:
        return d.replace("neg", td.exp)

    pipeline = td.Pipeline([passes.simplify], check=2).insert("simplify", passes.fold_constants)
    assert pipeline.names == ["fold_constants", "simplify"]
    assert len(pipeline.run(dag).graph) == 1
    assert [(s.before, s.after, s.error) for s in pipeline.steps] == [(7, 7, 0.0), (7, 1, 0.0)]
    assert "7 -> 1 nodes" in str(pipeline)
    with pytest.raises(td.GraphError, match="pass wrong changes what the network gives"):
        pipeline.insert(0, wrong).run(dag)
    assert pipeline.remove("wrong").remove("simplify").names == ["fold_constants"]
    with pytest.raises(td.AttributeValueError, match="no pass 'nosuch'; there are fold_constants"):
        pipeline.remove("nosuch")

    def other(d: td.TensorDAG) -> td.TensorDAG:
        return td.network(lambda x: td.cast(x, "f16"), {"x": (2,)})

    with pytest.raises(td.TypeMismatchError, match=r"pass other: 'out' was f32\[2\], it is f16\[2\]"):
        td.Pipeline([other], check=1).run(dag)


def test_a_checked_pass_may_round_what_cancels_otherwise() -> None:
    """What is left of numbers that cancel is off by a rounding of those."""
    dag = td.network(lambda x: td.reduce(x - td.mean(x, axes=(0,)), "sum", (0,)), {"x": (100,)})

    def otherwise(by: float) -> Callable[[td.TensorDAG], td.TensorDAG]:
        def step(d: td.TensorDAG) -> td.TensorDAG:
            del d
            return td.network(lambda x: td.reduce(x, "sum", (0,)) - 100 * td.mean(x, axes=(0,)) + by, {"x": (100,)})

        return step

    td.Pipeline([otherwise(0.0)], check=3).run(dag)
    with pytest.raises(td.GraphError, match="changes what the network gives"):
        td.Pipeline([otherwise(1e-2)], check=3).run(dag)


REAL = ("resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "GPT2LMHeadModel", "LSTM")


@pytest.mark.parametrize("name", only(REAL, "resnet50", "GPT2LMHeadModel", "LSTM"))
def test_optimized_networks(name: str) -> None:
    module, args, kwargs = NETWORKS[name](small=True, batch=1)
    dag = td.from_torch(module, args, kwargs)
    after = dag.optimize()
    assert len(after.graph) <= len(dag.graph)
    assert after.optimize().graph == after.graph
    with torch.no_grad():
        before, now = (d.to_torch()(*args, **kwargs) for d in (dag, after))
    leaves = [torch.utils._pytree.tree_leaves(r) for r in (before, now)]
    for a, b in zip(*leaves, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-5 * float(a.abs().max()))


def test_what_is_no_pass_is_refused() -> None:
    dag = td.network(lambda x: td.exp(x), {"x": (2,)})
    nothing: Any = None
    with pytest.raises(td.AttributeValueError, match="a pass is a function of a network, not None"):
        td.Pipeline([nothing])
    with pytest.raises(td.AttributeValueError, match="not 3"):
        td.Pipeline().add(3)  # type: ignore[arg-type]
    with pytest.raises(td.GraphError, match="pass <lambda> gave None, and not a network"):
        td.Pipeline([lambda d: nothing]).run(dag)


def test_what_is_kept_is_there(mixed: td.TensorDAG) -> None:
    assert passes.convert_dtype(mixed, "bf16", keep=["log_softmax"]).graph != mixed.graph  # an op that others have
    with pytest.raises(td.AttributeValueError, match="has no op or module 'secnd'; did you mean second"):
        passes.convert_dtype(mixed, "bf16", keep=["secnd"])
    with pytest.raises(td.AttributeValueError, match="has no op or module 's'"):
        passes.convert_dtype(mixed, "bf16", keep="softmax")
