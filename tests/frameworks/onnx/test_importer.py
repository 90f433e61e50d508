"""Importing models: leaves, names, functions, versions, errors told at once."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tdagger as td
from tdagger.frameworks.onnx.file.read import read
from tdagger.frameworks.onnx.importer import Asked, Walk
from tdagger.frameworks.onnx.ops.table import RULES
from tdagger.frameworks.onnx.walk import results
from tests.frameworks.onnx.small import floats, info, model, node


def test_it_is_imported_from_a_path_bytes_and_a_model(tmp_path):
    made = model([node("Add", "x b", "s"), node("Relu", "s", "y")], {"x": (2, 3)}, tensors={"b": floats(3)})
    onnx.save(made, tmp_path / "m.onnx")
    x = floats(2, 3)
    for given in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), made.SerializeToString(), made):
        dag = td.from_onnx(given)
        np.testing.assert_array_equal(dag.run(x), np.maximum(x + floats(3), 0))
    assert td.TensorDAG.from_onnx(made).graph == dag.graph
    assert list(dag.graph.inputs) == ["x"]
    assert list(dag.graph.outputs) == ["y"]
    assert list(dag.state) == ["b"]


def test_which_leaf_a_tensor_becomes():
    tensors = {
        "weight": floats(3), "scalar": np.float32(2), "table": np.zeros((2, 3), np.int8), "mask": np.ones(3, bool),
        "unused": floats(4), "unused_ids": np.arange(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["held"], value=numpy_helper.from_array(floats(2, 3), "other name")),
        helper.make_node("Constant", [], ["eps"], value_floats=[1e-5]),
        node("Add", "x weight", "a"), node("Add", "a scalar", "b"), node("Add", "b held", "c"),
        node("Add", "c eps", "y"),
    ]  # fmt: skip
    dag = td.from_onnx(model(nodes, {"x": (2, 3)}, tensors=tensors))
    assert list(dag.graph.parameters) == ["weight", "held"]
    assert dag.graph.buffers == {}
    assert len(dag.graph.constants) == 2
    assert {"weight", "held", "unused", "unused_ids", "table"} <= dag.state.keys()
    assert dag.state["unused"].is_parameter
    assert not dag.state["unused_ids"].is_parameter


def test_statistics_are_buffers():
    tensors = {n: np.abs(floats(3, seed=i)) for i, n in enumerate(("scale", "bias", "mean", "var"))}
    made = model([node("BatchNormalization", "x scale bias mean var", "y")], {"x": (2, 3, 4)}, tensors=tensors)
    dag = td.from_onnx(made)
    assert list(dag.graph.parameters) == ["scale", "bias"]
    assert list(dag.graph.buffers) == ["mean", "var"]


def test_the_models_own_protobuf_stays_as_it_is():
    held = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(2, 3), "d"))
    made = model([held, node("Add", "x c", "y")], {"x": (2, 3)})
    before = made.SerializeToString(deterministic=True)
    td.from_onnx(made)
    assert made.SerializeToString(deterministic=True) == before


def _function() -> onnx.FunctionProto:
    nodes = [
        node("Add", "a b", "s"),
        helper.make_node("Softmax", ["s"], ["t"]),
        node("Relu", "t", "r"),
    ]
    axis = nodes[1].attribute.add()
    axis.name, axis.ref_attr_name, axis.type = "axis", "along", onnx.AttributeProto.INT
    return helper.make_function("own", "Twice", ["a", "b"], ["r"], nodes, [helper.make_opsetid("", 17)], ["along"])


needs_softmax = pytest.mark.skipif(("", "Softmax") not in RULES, reason="there is no rule for Softmax here")


def _softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@needs_softmax
def test_functions_of_a_model_with_attributes_that_refer():
    nodes = [
        helper.make_node("Twice", ["x", "w"], ["z"], domain="own", along=0, name="first"),
        helper.make_node("Twice", ["z", "w"], ["y"], domain="own", along=1, name="second"),
    ]
    made = model(nodes, {"x": (2, 3)}, tensors={"w": floats(3)}, functions=[_function()])
    made.opset_import.append(helper.make_opsetid("own", 1))
    dag = td.from_onnx(made)
    x, w = floats(2, 3), floats(3)
    np.testing.assert_allclose(dag.run(x), _softmax(_softmax(x + w, 0) + w, 1), rtol=1e-5)
    sources = {o.source for o in dag.origins.values()}
    assert {"first/Relu r", "second/Relu r"} <= sources


def test_functions_within_themselves_are_refused():
    own = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], [helper.make_opsetid("own", 1)]
    )
    made = model([helper.make_node("F", ["x"], ["y"], domain="own")], {"x": (2,)}, functions=[own])
    made.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(td.SourceError, match="nested more than 64 deep"):
        td.from_onnx(made)


def test_functions_that_double_are_refused_in_time(monkeypatch):
    monkeypatch.setattr(results, "MOST", 1000)
    functions = []
    for i in range(40):
        inner = [helper.make_node(f"F{i + 1}", ["a"], [f"b{k}"], domain="own") for k in range(2)]
        functions.append(
            helper.make_function("own", f"F{i}", ["a"], ["b1"], inner, [helper.make_opsetid("own", 1)])
        )  # fmt: skip
    made = model([helper.make_node("F0", ["x"], ["y"], domain="own")], {"x": (2,)}, functions=functions)
    made.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(td.SourceError, match="more than"):
        td.from_onnx(made)


def test_an_operator_with_a_body_and_no_rule_is_imported_through_it(monkeypatch):
    if ("", "HardSwish") in RULES:
        monkeypatch.delitem(RULES, ("", "HardSwish"))
    if ("", "HardSigmoid") not in RULES or ("", "Mul") not in RULES:
        pytest.skip("there are no rules for what its body has")
    dag = td.from_onnx(model([node("HardSwish", "x", "y")], {"x": (3,)}))
    x = floats(3)
    np.testing.assert_allclose(dag.run(x), x * np.clip(x / 6 + 0.5, 0, 1), rtol=1e-5)


def test_a_body_made_for_the_types_of_its_node(monkeypatch):
    if ("", "Clip") in RULES:
        monkeypatch.delitem(RULES, ("", "Clip"))
    if ("", "Less") not in RULES or ("", "Where") not in RULES:
        pytest.skip("there are no rules for what its body has")
    made = model([node("Clip", "x - high", "y")], {"x": (3,)}, tensors={"high": np.float32(0.5)})
    x = floats(3)
    np.testing.assert_allclose(td.from_onnx(made).run(x), np.minimum(x, 0.5))


def test_all_that_cant_be_imported_is_told_at_once():
    nodes = [
        node("Nope", "x", "a", "one"), node("Nope", "x", "b", "two"), node("Relu", "a", "c", "after"),
        helper.make_node("TreeEnsemble", ["c"], ["d"], domain="ai.onnx.ml", name="tree"),
        helper.make_node("If", ["d"], ["e"], name="choice"), node("Odd", "x", "f", "three"), node("Add", "b e", "g"),
        node("Add", "g f", "y"), node("Dead", "x", "z"),
    ]  # fmt: skip
    with pytest.raises(td.UnsupportedError) as e:
        td.from_onnx(model(nodes, {"x": (2,)}))
    text = str(e.value)
    assert text.startswith("3 nodes of 2 ops can't be imported:")
    assert "2 x Nope: there is no rule for it (at one (Nope); two (Nope))" in text
    assert "1 x Odd: there is no rule for it (at three (Odd))" in text
    assert "after" not in text
    assert "Dead" not in text


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (helper.make_node("SequenceLength", ["x"], ["y"], name="n"), "takes a sequence"),
        (helper.make_node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", name="n"), r"ai\.onnx\.ml"),
        (helper.make_node("StringSplit", ["x"], ["y"], name="n"), "strings"),
    ],
)
def test_what_isnt_imported_is_refused_by_name(made, why):
    whole = model([made], {"x": (2,)}, opset=20)
    whole.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    with pytest.raises(td.UnsupportedError, match=rf"{why}.*at n \({made.op_type}\)"):
        td.from_onnx(whole)


def test_operators_without_a_rule_are_kept_as_external_ones():
    own = helper.make_node("Own", ["x", "", "w"], ["z"], domain="mine", factor=2.0, axes=[0, 1])
    made = model([own, node("Relu", "z", "y")], {"x": ("b", 3)}, tensors={"w": floats(3)})
    made.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(td.UnsupportedError, match="types of its results aren't known"):
        td.from_onnx(made, sizes={"b": 2}, external=True)
    made.graph.value_info.append(info("z", ("b", 4)))
    dag = td.from_onnx(made, sizes={"b": 2}, external=True)
    assert dict(dag.graph.external) == {"onnx:mine::Own": 1}
    assert dag.graph.outputs["y"].type == td.TensorType((2, 4), "f32")


def test_external_ops_of_onnx_have_the_types_that_inference_gives(monkeypatch):
    for name in [n for n in RULES if n[1] == "MaxRoiPool"]:
        monkeypatch.delitem(RULES, name)
    made = model([node("MaxRoiPool", "x r", "y", pooled_shape=[2, 2])], {"x": (1, 3, 8, 8), "r": (5, 5)})
    dag = td.from_onnx(made, external=True)
    assert dag.graph.outputs["y"].type == td.TensorType((5, 3, 2, 2), "f32")


def test_nodes_may_stand_in_any_order_but_not_in_a_circle():
    nodes = [node("Relu", "b", "y"), node("Relu", "a", "b"), node("Relu", "x", "a")]
    x = floats(3)
    np.testing.assert_array_equal(td.from_onnx(model(nodes, {"x": (3,)})).run(x), np.maximum(x, 0))
    nodes[2] = node("Add", "x b", "a")
    with pytest.raises(td.SourceError, match="cycles"):
        td.from_onnx(model(nodes, {"x": (3,)}))


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Relu", "nothing", "y")], "its input nothing is made by nothing"),
        ([node("Relu", "x", "y"), node("Relu", "x", "y")], "y is made twice"),
        ([node("Relu", "x", "w"), node("Relu", "w", "y")], "w is made twice"),
        ([node("Relu", "x", "z")], "output y of .* is made by nothing"),
    ],
)
def test_names_that_cant_be(nodes, why):
    with pytest.raises(td.SourceError, match=why):
        td.from_onnx(model(nodes, {"x": (3,)}, tensors={"w": floats(3)}))


def test_names_twice_that_can_be():
    made = model([node("Relu", "x", "a", "same"), node("Relu", "a", "y", "same")], {"x": (3,)}, ["y", "y", "x", "c"],
                 tensors={"c": floats(2)})  # fmt: skip
    made.opset_import.append(helper.make_opsetid("", 17))
    dag = td.from_onnx(made)
    assert list(dag.graph.outputs) == ["y", "y_", "x", "c"]
    x = floats(3)
    for found, wanted in zip(dag.run(x), (np.maximum(x, 0), np.maximum(x, 0), x, floats(2)), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_model_without_the_version_of_onnx():
    made = model([node("Relu", "x", "y")], {"x": (3,)})
    made.opset_import[0].domain = "other"
    with pytest.raises(td.SourceError, match="of which version"):
        td.from_onnx(made)


def test_modules_by_names_and_by_metadata():
    nodes = [
        node("Relu", "x", "a", "/layer1/layer1.0/conv1/Relu"), node("Relu", "a", "b", "encoder.layer.0.Relu"),
        node("Add", "a b", "c", "p2o.Add.3"), node("Add", "c x", "y", "plain"),
    ]  # fmt: skip
    for key, text in (
        ("name_scopes", "['', 'fc', 'fc.1', 'add']"),
        ("class_hierarchy", "['m.Net', 'n.Seq', 'n.Linear', 'add']"),
    ):
        prop = nodes[3].metadata_props.add()
        prop.key, prop.value = f"pkg.torch.onnx.{key}", text
    dag = td.from_onnx(model(nodes, {"x": (3,)}))
    found = {o.source: o.module for o in dag.origins.values()}
    assert found == {
        "/layer1/layer1.0/conv1/Relu": "layer1.0.conv1", "encoder.layer.0.Relu": "encoder.layer.0", "p2o.Add.3": "",
        "plain": "fc.1",
    }  # fmt: skip
    assert {p: dag.modules[p] for p in ("", "fc", "fc.1")} == {"": "Net", "fc": "Seq", "fc.1": "Linear"}
    assert "layer1.0" in dag.modules


def test_lies_of_a_file_are_told_and_not_believed():
    made = model([node("Relu", "x", "a"), node("Relu", "a", "y")], {"x": (2, 3)}, [info("y", (7, 3))])
    made.graph.value_info.append(info("a", (2, 3), TensorProto.INT64))
    with pytest.warns(UserWarning, match=r"y is f32\[2 3\], not \[7 3\]; a is f32\[2 3\], not INT64"):
        dag = td.from_onnx(made)
    assert dag.graph.outputs["y"].shape == (2, 3)


def test_initializers_that_are_also_inputs_are_weights():
    made = model([node("Add", "x w", "y")], {"x": (3,), "w": (3,)}, tensors={"w": floats(3)})
    made.ir_version = 3
    assert list(td.from_onnx(made).graph.inputs) == ["x"]


def test_the_walk_makes_no_cycles():
    """Else the collector would have to visit what was made when it goes on, a sixth of the time of a large model."""
    nodes = [
        node("RandomNormalLike", "x", "noise", mean=1.0), node("Add", "x noise", "a"), node("Add", "a b", "c"),
        node("Relu", "c", "r"), node("SequenceConstruct", "r a", "l"), node("ConcatFromSequence", "l", "y", axis=0),
    ]  # fmt: skip
    made = read(model(nodes, {"x": (2, 3)}, tensors={"b": floats(3)}))
    nothing = Asked(None, None, None, False, "")
    Walk(made, False).network(nothing)  # what is made once for all
    while gc.collect():  # what other tests left dies in several steps: finalizers leave cycles
        pass
    gc.disable()
    try:
        walk = Walk(made, False)
        dag, seen = walk.network(nothing), weakref.ref(walk)
        del walk
        assert seen() is None
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert dag.run(floats(2, 3), seed=np.uint64(1)).shape == (4, 3)
