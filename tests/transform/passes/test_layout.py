"""Channels last and first: transposes at the borders only, everything else on the axes as they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tdagger as td
from tdagger import passes
from tdagger.interpret import run
from tdagger.transform.passes.pipeline import difference, random_inputs
from tests.graphs import layouts
from tests.networks import perturb


def imported(*layers: nn.Module, shape: tuple[int, ...] = (2, 3, 16, 16)) -> td.TensorDAG:
    torch.manual_seed(0)
    module = nn.Sequential(*layers)
    perturb(module)
    return td.from_torch(module.eval(), torch.randn(shape))


def error(before: td.TensorDAG, after: td.TensorDAG) -> float:
    inputs = random_inputs(before.graph)
    results = [run(d.graph, inputs, d.weights)[0] for d in (before, after)]
    return max(difference(results[0][n], results[1][n]) for n in results[0])


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_random_graphs(graph: td.Graph) -> None:
    """The input with its channels last, and everything that follows."""
    dag = td.TensorDAG.of_graph(graph, {"p": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)})
    new = passes.channels_last(dag, ["x"])
    assert new.graph.inputs["x"].shape == (8, 1, 4, 12)
    x = random_inputs(graph)["x"]
    before = run(graph, {"x": x}, dag.weights)[0]
    after = run(new.graph, {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1))}, dag.weights)[0]
    for name, array in before.items():
        assert difference(array, after[name]) < 1e-6


def test_only_the_border_has_a_transpose() -> None:
    dag = imported(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 8),
        nn.PReLU(8), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.GELU(), nn.Upsample(scale_factor=2), nn.Softmax(1),
        nn.ReflectionPad2d(1), nn.ZeroPad2d(1), nn.Hardswish(), nn.GLU(1), nn.Dropout2d(), nn.AvgPool2d(2),
        nn.PixelUnshuffle(2), nn.InstanceNorm2d(12), nn.Conv2d(12, 4, 1, groups=2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    new = passes.channels_last(dag)
    counts = td.op_counts(new.values)
    assert counts["permute"] == 1
    assert next(v for v in new.values if v.op.name == "permute").args[0] in new.graph.inputs.values()
    blocks = {"convolution": 2, "convolution_transpose": 1, "max_pool": 1, "avg_pool": 1, "adaptive_avg_pool": 1,
              "group_norm": 1, "instance_norm": 1, "interpolate": 1, "pixel_unshuffle": 1}  # fmt: skip
    assert {n.removesuffix("_last"): k for n, k in counts.items() if n.endswith("_last")} == blocks
    assert error(dag, new) < 1e-6
    assert list(new.state) == list(dag.state)
    assert passes.channels_last(new).graph == new.graph
    assert passes.channels_first(new).graph == dag.graph
    assert passes.channels_first(dag) is dag
    by = {v.op.name: v.op.attributes for v in new.values}
    assert by["batch_norm"]["axis"] == by["softmax"]["axis"] == by["glu"]["axis"] == 3
    torch.testing.assert_close(new.to_torch()(torch.ones(2, 3, 16, 16)), dag.to_torch()(torch.ones(2, 3, 16, 16)))


def test_inputs_and_outputs_that_are_to_change() -> None:
    # whole numbers, whose sums are exact in any order: a product is laid out otherwise than before
    generator = np.random.default_rng(0)
    convolution = nn.Conv2d(3, 8, 3)
    weights = {"weight": generator.integers(-8, 9, (8, 3, 3, 3)), "bias": generator.integers(-8, 9, 8)}
    convolution.load_state_dict({n: torch.tensor(w, dtype=torch.float32) for n, w in weights.items()})
    dag = td.from_torch(nn.Sequential(convolution, nn.ReLU()).eval(), torch.randn(2, 3, 16, 16))
    (output,) = dag.graph.outputs
    assert td.op_counts(passes.channels_last(dag).values)["permute"] == 2
    new = passes.channels_last(dag, [*dag.graph.inputs, output])
    assert td.op_counts(new.values)["permute"] == 0
    (x,) = new.graph.inputs.values()
    assert x.shape == (2, 16, 16, 3)
    assert new.graph.outputs[output].shape == (2, 14, 14, 8)
    array = generator.integers(-8, 9, (2, 3, 16, 16)).astype("f")
    there = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(new.run(there).transpose(0, 3, 1, 2), dag.run(array))
    assert passes.channels_first(new, [*new.graph.inputs, output]).graph == dag.graph
    with pytest.raises(td.AttributeValueError, match="no input or output 'nosuch'; there are"):
        passes.channels_last(dag, ["nosuch"])
    flat = td.network(lambda x: td.exp(x), {"x": (2, 3)})
    with pytest.raises(td.AttributeValueError, match=r"'x', f32\[2 3\], is no image"):
        passes.channels_last(flat, ["x"])


class Residual(nn.Module):
    """Joins of several kinds, a norm of channels that are brought last, a scale, an attention of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Linear(8, 8)
        self.gamma = nn.Parameter(torch.randn(8))
        self.gate = nn.Conv2d(8, 8, 1)
        self.place = nn.Parameter(torch.randn(1, 8, 6, 6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x) + self.place
        y = self.mlp(self.norm(self.depth(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = x + y * self.gamma.reshape(1, -1, 1, 1)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.cat([x, x[:, :4].flip(2)], 1)
        return x.amax((2, 3)), x


def test_joins() -> None:
    module = Residual().eval()
    dag = td.from_torch(module, torch.randn(2, 3, 6, 6))
    new = passes.channels_last(dag)
    permutes = [v for v in new.values if v.op.name == "permute"]
    assert [v.args[0].op.name for v in permutes] == ["input", "parameter", "concat"]
    assert permutes[-1] in new.graph.outputs.values()
    assert error(dag, new) < 1e-6
    assert passes.channels_last(new).graph == new.graph
    assert error(dag, passes.channels_first(new)) < 1e-6


def test_other_numbers_of_axes() -> None:
    for layers, shape in (
        ([nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.MaxPool1d(2)], (2, 3, 12)),
        ([nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)], (2, 3, 6, 6, 6)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU()], (3, 6, 6)),
    ):
        dag = imported(*layers, shape=shape)
        new = passes.channels_last(dag)
        assert td.op_counts(new.values)["permute"] == 2
        assert error(dag, new) < 1e-6
        assert passes.channels_first(new).graph == dag.graph


def test_networks_without_images_stay() -> None:
    dag = imported(nn.AdaptiveAvgPool2d(1), nn.ReLU())
    assert passes.channels_last(dag) is dag


def test_a_pool_before_all_convolutions_has_channels_last() -> None:
    new = passes.channels_last(imported(nn.MaxPool2d(2), nn.ReLU(), nn.Upsample(scale_factor=2)))
    names = [v.op.attributes["title"] for v in new.values if v.op.name == "block"]
    assert names == ["max_pool_last", "interpolate_last"]


def test_sizes_and_names_follow() -> None:
    dag = imported(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    new = passes.channels_last(dag)
    assert new.cost().macs == dag.cost().macs
    (x,) = new.graph.inputs
    bigger = new.resize(assume=True, **{x: (4, 3, 16, 16)})
    assert passes.channels_first(bigger).graph == dag.resize(assume=True, **{x: (4, 3, 16, 16)}).graph


# --- rows, and transposes of transposes ----------------------------------------------------------------------


def test_entries_are_gathered_in_rows() -> None:
    """A transpose that brings an axis last along which entries are gathered stands after that."""
    index = td.const(np.array([[0, 1, 2], [2, 3, 4]]))

    def network(x: td.Value) -> td.Value:
        turned = td.pad(td.ungroup(td.transpose(x, 1, 2), 2, (5, 1)), (None, None, (1, 1), None))
        return td.neg(td.gather(turned, index, axis=2))

    dag = td.network(network, {"x": (2, 5, 4)})
    new = passes.channels_last(dag)
    assert [v.op.name for v in new.values if v.args] == ["ungroup", "pad", "gather", "unary", "permute"]
    assert next(v for v in new.values if v.op.name == "gather").shape == (2, 2, 3, 1, 4)
    assert error(dag, new) == 0
    rows = td.network(lambda x: td.gather(td.transpose(x, 1, 2), index, axis=1), {"x": (2, 5, 4)})
    assert passes.channels_last(rows) is rows  # of entries that are rows already


def test_a_gather_is_on_channels_last() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)[:, :, torch.tensor([[0, 2], [1, 1]])][:, torch.tensor([1, 0])]

    dag = td.from_torch(Net().eval(), torch.randn(2, 3, 8, 8))
    new = passes.channels_last(dag)
    assert error(dag, new) < 1e-6
    assert [v.shape for v in new.values if v.op.name == "gather"] == [(2, 2, 2, 6, 4), (2, 2, 2, 6, 2)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_transposes_with_reshapes_between_are_one(data: st.DataObject) -> None:
    """Chains of transposes and reshapes of random shapes, whether axes are groups of the same parts or not."""
    x = made = td.input("x", (2, 3, 4, 1, 6))
    for _ in range(data.draw(st.integers(2, 6))):
        if data.draw(st.booleans()):
            made = td.permute(made, data.draw(st.permutations(range(made.rank))))
        else:
            sizes = data.draw(st.permutations([2, 2, 2, 3, 3, 2, 1]))
            cuts = sorted(data.draw(st.sets(st.integers(1, 6), max_size=4)))
            bounds = [0, *cuts, 7]
            shape = [int(np.prod(sizes[a:b])) for a, b in itertools.pairwise(bounds)]
            made = td.reshape(made, shape=tuple(shape))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": made}))
    new = passes.join_transposes(passes.simplify(dag))
    assert new.graph.outputs["y"].shape == made.shape
    assert error(dag, new) == 0
    assert td.op_counts(new.values)["permute"] <= td.op_counts(passes.simplify(dag).values)["permute"]
