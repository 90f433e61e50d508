"""Files that torch.onnx froze at a batch of 1: another batch means as many rows, each computed alike."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest

import tdagger as td
from tests.networks import NETWORKS

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_base_patch16_224"])
def test_another_batch_is_as_many_rows(name: str) -> None:
    """Windows are padded, shifted and reshaped with numbers; a class token is taken by a slice of one entry."""
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


def test_a_saved_one_is_of_rows_too(tmp_path: Path) -> None:
    module, args, _ = NETWORKS["swin_tiny_patch4_window7_224"](small=True, batch=1)
    dag = frozen(module, *args)
    dag.save(tmp_path / "net.tdag")
    found = td.load(tmp_path / "net.tdag")
    assert isinstance(found, td.TensorDAG)
    assert found.confirmed == dag.confirmed
    assert "b" in found.confirmed
    check_rows(found)


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
