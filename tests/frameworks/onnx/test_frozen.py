"""Files that torch.onnx froze at a batch of 1: another batch means as many rows, each computed alike."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest

import tdagger as td
from tests.networks import NETWORKS

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from tests.frameworks.onnx.small import floats, model, node  # noqa: E402


@pytest.mark.parametrize(
    "name", [pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow), "vit_base_patch16_224"]
)
def test_another_batch_is_as_many_rows(name: str) -> None:
    """Windows are padded, shifted and reshaped with numbers; a class token is taken by a slice of one entry.

    The first is run below, too, after it was saved and optimised.
    """
    module, args, _ = NETWORKS[name](small=True, batch=1)
    check_rows(frozen(module, *args))


@pytest.mark.parametrize("bias", [True, False])
def test_a_one_beside_a_weight_s_dimension(bias: bool) -> None:
    """``5 1 4 4`` made ``5 16`` is ``(s b) (h d)``: what is behind is a dimension of a weight, and as large as that."""
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, bias=bias)
    dag = frozen(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(1, 5, 16))
    linear = [v for v in dag.graph.values if v.op.name in ("linear", "matmul") and v.rank == 2]
    assert {dag.axes().show(v) for v in linear} == {"f32[(s b) c]"}
    check_rows(dag)


class _Causal(torch.nn.Module):
    """A mask among the weights, as long as there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(12, 3, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.register_buffer("mask", torch.full((5, 5), float("-inf")).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, self.mask)


def test_a_one_between_dimensions_of_weights() -> None:
    """Both the tokens and the features are dimensions of weights: it goes where rows are computed alone."""
    check_rows(frozen(_Causal(), torch.randn(1, 5, 12)))


class _Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)
        self.gru = torch.nn.GRU(10, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.lstm(x)[0])[0]


@pytest.mark.parametrize("batch", [1, 2])
def test_first_states_are_of_every_row(batch: int) -> None:
    """Zeros of the batch that it was run with are weights of a file; they stay weights."""
    dag = frozen(_Recurrent(), torch.randn(batch, 7, 6))
    states = [v for v in dag.graph.parameters.values() if v.rank == 3 and v.shape[1] == batch and v.shape[2] in (4, 5)]
    assert len(states) >= 2
    if batch == 1:
        check_rows(dag)
    else:
        x = np.random.default_rng(0).normal(size=(3, 7, 6)).astype("f")
        batch_axis = next(iter(dag.axes().sizes))
        found = dag.resize({batch_axis: 3}).run(x)
        np.testing.assert_allclose(found[1:], dag.run(x[1:]), atol=1e-6)


def test_a_weight_of_one_number_that_rows_are_summed_with_stays() -> None:
    """A layer norm of ones has the size that it has."""
    module = torch.nn.Sequential(torch.nn.LayerNorm([4, 6]), torch.nn.Linear(6, 6))
    dag = frozen(module, torch.randn(1, 4, 6))
    assert not any(v.op.name == "repeat" and "0.weight" in str(v.args) for v in dag.graph.values)
    check_rows(dag)


class _Assigned(torch.nn.Module):
    """Boxes as detectors decode them: into slices of a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.sigmoid().permute(0, 2, 3, 1).contiguous()
        y[..., 0:2] = (y[..., 0:2] * 2 - 0.5) * 8
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2
        y[:, 1:-1, ::2, 4] = 0.5
        y[:, -1] = 0
        y[:] = y + 1
        return y.view(y.shape[0], -1, 8)


def test_assignments_to_slices() -> None:
    """They are ScatterND in a file, of the numbers of all their entries: those of a batch of 1, too."""
    dag = frozen(_Assigned(), torch.randn(1, 8, 5, 6))
    assert "scatter" not in {v.op.name for v in dag.graph.values}
    check_rows(dag)


@pytest.mark.parametrize(
    ("indices", "is_slice"),
    [([[1], [2]], True), ([[0], [2]], True), ([[-3], [-2], [-1]], True), ([[2], [1]], False), ([[1], [1]], False),
     ([[0, 1], [0, 3], [2, 1], [2, 3]], True), ([[0, 1], [2, 1], [0, 3], [2, 3]], False),
     ([[0, 1], [0, 3], [1, 2]], False)],
)  # fmt: skip
def test_numbers_that_are_a_slice(indices: list[list[int]], is_slice: bool) -> None:
    data = np.arange(12, dtype="f").reshape(3, 4)
    updates = -1 - np.arange(len(indices) * (4 if len(indices[0]) == 1 else 1), dtype="f")
    updates = updates.reshape(len(indices), *data.shape[len(indices[0]) :])
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"])
    ends = [helper.make_tensor_value_info(n, 1, a.shape) for n, a in (("x", data), ("u", updates), ("y", data))]
    graph = helper.make_graph([node], "g", ends[:2], ends[2:], [numpy_helper.from_array(np.array(indices), "i")])
    dag = td.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert any(v.op.name == "scatter" for v in dag.graph.values) != is_slice
    wanted = data.copy()
    for place, row in zip(indices, updates, strict=True):
        wanted[tuple(place)] = row
    np.testing.assert_array_equal(dag.run(data, updates), wanted)


def small(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[int]]], **held: list[int]) -> td.TensorDAG:
    infos = [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()]
    tensors = [numpy_helper.from_array(np.array(numbers), n) for n, numbers in held.items()]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", 1, None)], tensors)
    return td.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_a_batch_that_is_squeezed_and_summed() -> None:
    """``for row in x`` is a Split into one part that is squeezed: a sum of that isn't one of three rows together."""
    node = helper.make_node
    squeezed = [node("Split", ["x", "one"], ["a"], axis=0), node("Squeeze", ["a", "first"], ["b"])]
    back = node("Unsqueeze", ["c", "first"], ["y"])
    held = {"one": [1], "first": [0]}
    inputs = {"x": (1, [1, 6, 4])}
    summed = small([*squeezed, node("ReduceSum", ["b", "first"], ["c"], keepdims=0), back], inputs, **held)
    with pytest.raises(td.AxisError, match="is squeezed, which drops an axis of 1 entry"):
        summed.resize({"x": (3, 6, 4)})
    carried = small([squeezed[1], node("Relu", ["b"], ["c"]), back], {"a": (1, [1, 6, 4])}, first=[0])
    assert carried.resize({"a": (3, 6, 4)}).graph.outputs["y"].shape == (3, 6, 4)


def test_rows_that_data_picks_of_a_batch_that_is_merged() -> None:
    """``x[arange(b), i]`` at a batch of 1 has 0 + i: more rows would all be taken from the first."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["rows"], axis=2),
        helper.make_node("Add", ["i", "places"], ["at"]),
        helper.make_node("Gather", ["rows", "at"], ["y"]),
    ]
    dag = small(nodes, {"x": (1, [1, 6, 4]), "i": (7, [1])}, places=[0])
    x, i = dag.graph.inputs.values()
    assert dag.axes().show(x) == "f32[n n2 n3]"
    with pytest.raises(
        td.AxisError, match="takes entries by numbers of data, among which an axis of 1 entry gets more"
    ):
        dag.resize(n=3)
    assert dag.resize({"i": (5,)}).graph.outputs["y"].shape == (5, 4), dag.axes().show(i)


def test_a_saved_one_is_of_rows_too(tmp_path: Path) -> None:
    module, args, _ = NETWORKS["swin_tiny_patch4_window7_224"](small=True, batch=1)
    dag = frozen(module, *args)
    dag.save(tmp_path / "net.tdag")
    found = td.load(tmp_path / "net.tdag")
    assert isinstance(found, td.TensorDAG)
    assert found.confirmed == dag.confirmed
    assert "b" in found.confirmed
    check_rows(found.optimize())


def frozen(module: torch.nn.Module, *args: torch.Tensor) -> td.TensorDAG:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of this exporter and of what it traces
        torch.onnx.export(module, args, file, dynamo=False, opset_version=17, training=torch.onnx.TrainingMode.PRESERVE)
    return td.from_onnx(file.getvalue())


def check_rows(dag: td.TensorDAG) -> None:
    ((x, value),) = dag.graph.inputs.items()
    rows = torch.randn(3, *value.shape[1:])
    with torch.no_grad():
        one = dag.to_torch(fixed=True)
        wanted = torch.cat([one(row[None]) for row in rows])
        torch.testing.assert_close(dag.resize({x: tuple(rows.shape)}).to_torch(fixed=True)(rows), wanted)
        torch.testing.assert_close(dag.to_torch()(rows), wanted)
        torch.testing.assert_close(dag.unbatch().to_torch(fixed=True)(rows[0]), wanted[0])


def test_the_last_of_three_is_one_entry_however_many_there_are():
    """The value of an attention of shifted windows: a slice to the end, squeezed."""
    nodes = [
        node("Reshape", "x split", "s"), node("Transpose", "s", "t", perm=[2, 0, 1, 3]),
        node("Slice", "t two open zero", "v"), node("Squeeze", "v zero", "q"),
        node("Slice", "t zero one zero", "u"), node("Squeeze", "u zero", "r"), node("Mul", "q r", "m"),
        node("Reshape", "m whole", "y"),
    ]  # fmt: skip
    tensors = {
        "split": np.array([4, 5, 3, 2]), "two": np.array([2]), "open": np.array([2**63 - 1]), "zero": np.array([0]),
        "one": np.array([1]), "whole": np.array([1, 4, 5, 2]),
    }  # fmt: skip
    tensors |= {"rows": np.array([4, 5, 6])}
    check_rows(td.from_onnx(model([node("Reshape", "i rows", "x"), *nodes], {"i": (1, 4, 5, 6)}, ["y"], tensors)))


def test_one_window_is_beside_the_batch():
    """At the last stage of windows there is one: the batch keeps the place that it has."""
    nodes = [
        node("Add", "x place", "a"), node("Reshape", "a windows", "w"),
        node("Transpose", "w", "t", perm=[0, 1, 3, 2, 4, 5]), node("Reshape", "t rows", "r"),
        node("MatMul", "r weight", "m"), node("Reshape", "m back", "b"),
        node("Transpose", "b", "c", perm=[0, 1, 3, 2, 4, 5]), node("Reshape", "c whole", "d"), node("Add", "d a", "y"),
    ]  # fmt: skip
    tensors = {
        "place": floats(7, 7, 4), "weight": floats(4, 4), "windows": np.array([1, 1, 7, 1, 7, 4]),
        "rows": np.array([1, 49, 4]), "back": np.array([1, 1, 1, 7, 7, 4]), "whole": np.array([1, 7, 7, 4]),
    }  # fmt: skip
    check_rows(td.from_onnx(model(nodes, {"x": (1, 7, 7, 4)}, ["y"], tensors)))
