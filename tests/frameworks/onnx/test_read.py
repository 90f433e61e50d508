"""Tensors as they lie in files: all element types, lazily, and external data."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tdagger as td
from tdagger.frameworks.onnx.file.tensors import DTYPES, HELD, Tensors
from tests.frameworks.onnx.small import floats, model, node

DATA = np.array([[0, 1, 2], [3, 1, 0]])


@pytest.mark.parametrize("kind", sorted(DTYPES))
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_is_read(kind, raw):
    tensor = helper.make_tensor("t", kind, (2, 3), DATA.reshape(-1).astype(np.float32))
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "t")
    found = Tensors({"t": tensor})
    assert found.type("t") == td.TensorType((2, 3), DTYPES[kind])
    expected = numpy_helper.to_array(tensor)
    assert found["t"].dtype == DTYPES[kind].numpy
    expected = expected if np.iscomplexobj(expected) else expected.astype(np.float32)
    np.testing.assert_array_equal(found["t"].astype(np.complex128), expected.astype(np.complex128))
    assert found.kind("t") == (kind if kind in HELD else 0)


def test_low_bits_are_signed_and_of_odd_count():
    values = np.array([-8, 7, -1, 0, 3], ml_dtypes.int4)
    found = Tensors({"t": numpy_helper.from_array(values, "t")})
    np.testing.assert_array_equal(found["t"], [-8, 7, -1, 0, 3])
    assert found["t"].dtype == np.int8


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(floats(2, 2))}, floats(2, 2)),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"sparse_value": helper.make_sparse_tensor(numpy_helper.from_array(np.array([3.0], np.float32), "v"),
                                                    numpy_helper.from_array(np.array([1]), "i"), [2])},
         np.array([0, 3], np.float32)),
    ],
)  # fmt: skip
def test_constant_nodes_of_every_kind(attributes, expected):
    made = model([helper.make_node("Constant", [], ["c"], **attributes), node("Add", "x c", "y")], {"x": (2, 2)})
    np.testing.assert_array_equal(td.from_onnx(made).run(np.zeros((2, 2), np.float32)), np.zeros((2, 2)) + expected)


def test_constant_nodes_that_cant_be():
    for made, error in (
        (helper.make_node("Constant", [], ["c"], value_string="a"), td.UnsupportedError),
        (helper.make_node("Constant", [], ["c"], value_int=1, value_float=1.0), td.SourceError),
        (helper.make_node("Constant", [], ["c"], other=1), td.SourceError),
        (helper.make_node("Constant", [], ["c"], value=1), td.SourceError),
        (helper.make_node("Constant", [], [], value_int=1), td.SourceError),
    ):
        with pytest.raises(error):
            td.from_onnx(model([made, node("Relu", "x", "y"), node("Relu", "c", "z")], {"x": (2,)}, ["y", "z"]))


# --- external data -------------------------------------------------------------------------------------------


def _saved(folder, **external):
    made = model([node("Add", "x w", "y"), node("Mul", "y v", "z")], {"x": (2, 3)}, ["z"],
                 {"w": floats(2, 3), "v": floats(2, 3, seed=1)})  # fmt: skip
    path = folder / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="weights/m.data", size_threshold=0)
    made = onnx.load(path, load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        if entry.key in external:
            entry.value = external.pop(entry.key)
    for key, value in external.items():
        made.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").mkdir()
    return tmp_path


def test_external_data_is_mapped(folder):
    pytest.importorskip("torch")
    dag = td.from_onnx(_saved(folder))
    x = floats(2, 3, seed=5)
    np.testing.assert_array_equal(dag.run(x), (x + floats(2, 3)) * floats(2, 3, seed=1))
    assert dag.weights["w"].flags.writeable is False
    import torch

    module = dag.to_torch()
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), dag.run(x), rtol=1e-6)
    assert list(module.state_dict()) == ["w", "v"]


def test_nothing_is_read_before_it_is_asked_for(folder, monkeypatch):
    path = _saved(folder)
    dag = td.from_onnx(path)
    (folder / "weights" / "m.data").write_bytes(bytes(48))  # the same length: the file is mapped
    np.testing.assert_array_equal(dag.weights["w"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("external", "why"),
    [
        ({"location": "../m.data"}, "leaves the model's folder"),
        ({"location": "weights/../../m.data"}, "leaves the model's folder"),
        ({"location": "/etc/hostname"}, "leaves the model's folder"),
        ({"location": "C:/m.data"}, "leaves the model's folder"),
        ({"location": "..\\m.data"}, "leaves the model's folder"),
        ({"location": ""}, "leaves the model's folder"),
        ({"location": "no.data"}, "can't be read"),
        ({"location": "weights"}, "is no file"),
        ({"location": "link.data"}, "is a link"),
        ({"location": "linked/m.data"}, "is a link"),
        ({"offset": "1000000"}, r"is said to be at 1000000 to 1000024 of weights/m.data, which has 48"),
        ({"offset": "-4"}, "has the offset -4"),
        ({"offset": "4x"}, "has the offset 4x"),
        ({"offset": "9" * 40}, "has the offset"),
        ({"length": "4"}, r"has 4 bytes, its shape \(2, 3\) takes 24"),
        ({"length": "99999999"}, "has 99999999 bytes"),
    ],
)
def test_external_data_that_lies_or_leaves(folder, external, why):
    path = _saved(folder, **external)
    os.symlink(folder / "weights" / "m.data", folder / "link.data")
    os.symlink(folder / "weights", folder / "linked")
    with pytest.raises(td.SourceError, match=rf"external data of tensor w.*{why}"):
        td.from_onnx(path)


def test_external_data_of_bytes_has_no_folder(folder):
    with pytest.raises(td.SourceError, match=r"lies beside the model's file \(weights/m.data\): import it by its path"):
        td.from_onnx(_saved(folder).read_bytes())


def test_a_tensor_of_several_segments():
    tensor = numpy_helper.from_array(floats(2), "w")
    tensor.segment.begin = 0
    made = model([node("Add", "x w", "y")], {"x": (2,)})
    made.graph.initializer.append(tensor)
    with pytest.raises(td.UnsupportedError, match="segments"):
        td.from_onnx(made)


def test_what_is_held_in_another_type_goes_only_where_that_is_the_same():
    tensor = helper.make_tensor("w", TensorProto.INT4, (4,), [1, -2, 3, -8])
    made = model([node("Reshape", "w s", "r"), node("Transpose", "r", "t"), node("Cast", "t", "c", to=1),
                  node("Add", "x c", "y")], {"x": (2, 2)}, tensors={"s": np.array([2, 2])}, opset=21)  # fmt: skip
    made.graph.initializer.append(tensor)
    np.testing.assert_array_equal(td.from_onnx(made).run(np.zeros((2, 2), np.float32)), [[1, 3], [-2, -8]])
    made.graph.node[2].CopyFrom(node("Abs", "t", "c"))
    with pytest.raises(td.UnsupportedError, match="t is of INT4, an element type there is none of here"):
        td.from_onnx(made)
