"""Sizes that a file leaves open: named, bound, asked for; the file asked again; files with fixed sizes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import tdagger as td
from tests.frameworks.onnx.small import floats, info, model, node


def _two():
    return model(
        [node("Add", "x y", "z"), node("Relu", "z", "out")], {"x": ("batch", 3), "y": ("batch", 3)}, ["out"]
    )  # fmt: skip


def test_sizes_are_bound_by_name_and_by_shape():
    for given in (
        {"sizes": {"batch": 2}}, {"inputs": {"x": (2, 3)}}, {"inputs": {"y": [2, 3]}, "sizes": {"batch": 2}},
        {"sizes": {"batch": np.int64(2)}},
    ):  # fmt: skip
        dag = td.from_onnx(_two(), **given)
        assert [v.shape for v in dag.graph.inputs.values()] == [(2, 3), (2, 3)]
        assert dag.axis_names == {"x": "batch _", "y": "batch _"}
        assert "batch" in dag.axes().sizes


def test_all_that_is_missing_is_asked_for_at_once():
    made = model(
        [node("Relu", "a", "p"), node("Relu", "b", "q"), node("Relu", "c", "r")],
        {"a": ("batch", "seq"), "b": (None, 3), "c": None}, ["p", "q", "r"],
    )  # fmt: skip
    with pytest.raises(td.InputError) as e:
        td.from_onnx(made, sizes={"seq": 4})
    assert str(e.value) == (
        "the file leaves sizes of its inputs open (a [batch seq]; b [b.0 3]; c of any rank): give "
        "sizes={'batch': ..., 'b.0': ...} and inputs={'c': (...)}"
    )
    dag = td.from_onnx(made, sizes={"seq": 4, "batch": 2, "b.0": 5}, inputs={"c": ()})
    assert [v.shape for v in dag.graph.inputs.values()] == [(2, 4), (5, 3), ()]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"sizes": {"batch": 2, "other": 3}}, "there is no size other in the model; it has batch"),
        ({"inputs": {"w": (2, 3)}}, "there is no input w in the model; it has x, y"),
        ({"inputs": {"x": (2, 3), "y": (4, 3)}}, r"batch is 2 by the shape of input x, but 4 by the shape \(4, 3\)"),
        ({"sizes": {"batch": 5}, "inputs": {"x": (2, 3)}}, "batch is 5 by sizes, but 2"),
        ({"inputs": {"x": (2, 3, 1)}}, r"input x has 2 dimensions \[batch 3\]"),
        ({"inputs": {"x": (2, 4)}}, r"input x has the shape \[batch 3\] in the file"),
        ({"sizes": {"batch": -1}}, "is a number of entries, not -1"),
        ({"sizes": {"batch": True}}, "is a number of entries, not True"),
        ({"sizes": {"batch": 1 << 50}}, "is a number of entries"),
        ({"inputs": {"x": "ab"}}, "is a shape, not 'ab'"),
    ],
)
def test_sizes_that_dont_fit(given, why):
    with pytest.raises(td.InputError, match=why):
        td.from_onnx(_two(), **given)


def test_placeholders_without_a_name():
    made = model([node("Relu", "x", "y")], {"x": ("?", -1, "?", 3)})
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    with pytest.raises(td.InputError, match=r"sizes=\{'x\.0': \.\.\., 'x\.1': \.\.\., 'x\.2': \.\.\.\}"):
        td.from_onnx(made)
    assert td.from_onnx(made, inputs={"x": (1, 2, 4, 3)}).graph.inputs["x"].shape == (1, 2, 4, 3)


def test_a_size_of_0_is_open_where_there_are_weights():
    assert td.from_onnx(model([node("Relu", "x", "y")], {"x": (0, 3)})).graph.inputs["x"].shape == (0, 3)
    made = model([node("Add", "x w", "y")], {"x": (0, 3)}, tensors={"w": floats(3)})
    with pytest.raises(td.InputError, match=r"x\.0"):
        td.from_onnx(made)
    assert td.from_onnx(made, sizes={"x.0": 2}).graph.inputs["x"].shape == (2, 3)


def test_values_make_inputs_constants():
    made = model([node("Reshape", "x shape", "y")], {"x": (2, 6), "shape": info("shape", (2,), TensorProto.INT64)})
    dag = td.from_onnx(made, values={"shape": [3, -1]})
    assert list(dag.graph.inputs) == ["x"]
    assert dag.graph.outputs["y"].shape == (3, 4)
    with pytest.raises(td.InputError, match="there is no input other"):
        td.from_onnx(made, values={"other": 1})
    with pytest.raises(td.UnsupportedError, match=r"its input shape depends on data \(shape\)"):
        td.from_onnx(made)


# --- computed shapes -----------------------------------------------------------------------------------------


def _flattened():
    """``x.reshape(x.shape[0], -1) @ w`` as exporters write it."""
    return model(
        [
            node("Shape", "x", "s"), node("Gather", "s first", "b"), node("Unsqueeze", "b zero", "bs"),
            node("Concat", "bs rest", "to", axis=0), node("Reshape", "x to", "flat"), node("MatMul", "flat w", "y"),
        ],
        {"x": ("batch", 3, 4)}, tensors={
            "first": np.int64(0), "zero": np.array([0]), "rest": np.array([-1]), "w": floats(12, 5),
        },
    )  # fmt: skip


def test_computed_shapes_are_structural_and_follow_a_resize():
    dag = td.from_onnx(_flattened(), sizes={"batch": 2})
    assert not any(v.op.name in ("gather", "const") for v in dag.graph.values)
    wide = dag.resize(batch=7)
    assert wide.graph == td.from_onnx(_flattened(), sizes={"batch": 7}).graph
    x = floats(7, 3, 4)
    np.testing.assert_allclose(wide.run(x), x.reshape(7, 12) @ floats(12, 5), rtol=1e-5)
    assert dag.source.count[0] > 0


def test_the_file_says_what_other_sizes_do():
    dag = td.from_onnx(_flattened(), sizes={"batch": 2})
    assert dag.resizable_axes().free == ("batch",)
    assert "batch" in dag.certain().confirmed
    half = model(
        [
            node("Shape", "x", "s"), node("Div", "s two", "h"), node("Slice", "x zero h", "y"),
        ],
        {"x": ("n",)}, tensors={"zero": np.array([0]), "two": np.array([2])},
    )  # fmt: skip
    dag = td.from_onnx(half, sizes={"n": 6})
    for n in (2, 7, 12):
        assert dag.resize(n=n).graph.outputs["y"].shape == (n // 2,)


def test_what_the_file_fixes_isnt_left_open_by_its_source():
    made = model([node("Add", "x h", "y")], {"x": ("batch", 3), "h": (1, 3)})
    dag = td.from_onnx(made, sizes={"batch": 4})
    assert dag.resize(batch=6).graph.outputs["y"].shape == (6, 3)
    with pytest.raises(td.InputError, match=r"h has the shape \[1 3\] in the file"):
        dag.source.at({"x": (4, 3), "h": (2, 3)})


def test_a_file_with_fixed_sizes_has_no_source():
    made = model([node("Relu", "x", "y")], {"x": (1, 3)})
    dag = td.from_onnx(made)
    assert dag.source is None
    wide = dag.resize({"x": (8, 3)})
    assert wide.graph.outputs["y"].shape == (8, 3)
    assert dag.unbatch().graph.outputs["y"].shape == (3,)


def _frozen(nodes, tensors, shape=(1, 3, 4), opset=17):
    return td.from_onnx(model(nodes, {"x": shape}, tensors=tensors, opset=opset))


def _batch_of(dag, n=8):
    first = dag.axes()[dag.graph.inputs["x"]][0]
    name = next(k for k in dag.axes().sizes if dag.axes().term(k) == first)
    return dag.resize({name: n})


X = floats(8, 3, 4)


@pytest.mark.parametrize(
    ("nodes", "tensors", "expected"),
    [
        ([node("Reshape", "x s", "y")], {"s": np.array([1, 12])}, lambda x: x.reshape(8, 12)),
        ([node("Reshape", "x s", "y")], {"s": np.array([1, -1, 2])}, lambda x: x.reshape(8, 6, 2)),
        ([node("Reshape", "x s", "y")], {"s": np.array([-1, 12])}, lambda x: x.reshape(8, 12)),
        ([node("Reshape", "x s", "y")], {"s": np.array([0, 12])}, lambda x: x.reshape(8, 12)),
        ([node("Reshape", "x s", "y")], {"s": np.array([3, 4])}, lambda x: x.reshape(-1, 4)),
        ([node("Pad", "x p", "y")], {"p": np.array([0, 0, 0, 0, 0, 3])}, lambda x: np.pad(x, ((0, 0), (0, 0), (0, 3)))),
        ([node("Flatten", "x", "y")], {}, lambda x: x.reshape(8, 12)),
        ([node("Expand", "t s", "e"), node("Concat", "e x", "y", axis=1)],
         {"t": floats(1, 1, 4), "s": np.array([1, 1, 4])},
         lambda x: np.concatenate([np.broadcast_to(floats(1, 1, 4), (8, 1, 4)), x], 1)),
        ([node("Concat", "t x", "y", axis=1)], {"t": floats(1, 1, 4)},
         lambda x: np.concatenate([np.broadcast_to(floats(1, 1, 4), (8, 1, 4)), x], 1)),
        ([node("Slice", "x a b c", "y")], {"a": np.array([1]), "b": np.array([2**63 - 1]), "c": np.array([1])},
         lambda x: x[:, 1:]),
        ([node("Slice", "x a b c", "y")], {"a": np.array([-2]), "b": np.array([-1]), "c": np.array([2])},
         lambda x: x[:, :, -2:-1]),
        ([node("Transpose", "x", "t", perm=[1, 0, 2]), node("Transpose", "t", "y", perm=[1, 2, 0])], {},
         lambda x: x.transpose(0, 2, 1)),
        ([node("Squeeze", "x a", "q"), node("Unsqueeze", "q a", "y")], {"a": np.array([0])}, lambda x: x),
        ([node("ReduceMean", "x", "y", axes=[2], keepdims=0)], {}, lambda x: x.mean(2)),
        # indices that were counted of a batch of one: arange(b)[:, None, None] * n + arange(n)
        ([node("Reshape", "x s", "f"), node("Gather", "f i", "y", axis=0)],
         {"s": np.array([-1]), "i": np.arange(12).reshape(1, 1, 12)}, lambda x: x.reshape(8, 1, 12)),
        ([node("Tile", "x r", "y")], {"r": np.array([1, 2, 1])}, lambda x: np.tile(x, (1, 2, 1))),
    ],
)  # fmt: skip
def test_a_batch_that_another_program_froze_is_resized_right(nodes, tensors, expected):
    dag = _frozen(nodes, tensors)
    wide = _batch_of(dag)
    np.testing.assert_allclose(wide.run(X), expected(X), rtol=1e-5)
    one = dag.unbatch().run(X[3])
    np.testing.assert_allclose(one.reshape(-1), dag.run(X[3:4]).reshape(-1), rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        # the first entry of a batch of one is another thing of eight
        ([node("Gather", "x i", "y", axis=0)], {"i": np.int64(0)}),
        ([node("Slice", "x a b a", "y")], {"a": np.array([0]), "b": np.array([1])}),
        ([node("Slice", "x a b a", "q"), node("Relu", "q", "y")], {"a": np.array([0]), "b": np.array([1])}),
    ],
)
def test_a_batch_that_isnt_carried_is_refused_or_not_silently_wrong(nodes, tensors):
    dag = _frozen(nodes, tensors)
    with pytest.raises(td.AxisError):
        _batch_of(dag)


def test_indices_beyond_an_axis_are_no_numbers_of_its_entries():
    """They would be if they were counted round the axis."""

    def ops(*indices):
        nodes = [node("Relu", "x", "r"), node("Gather", "r i", "y", axis=1)]
        return {v.op.name for v in _frozen(nodes, {"i": np.array(indices)}).values}

    assert "gather" in ops(3, 4, 5)
    assert "gather" not in ops(0, -2, 2)


def test_shape_computations_take_linear_time():
    """Each is worked out from what was before, not anew from the start."""
    nodes = [node("Shape", "x", "s0")]
    for i in range(600):
        nodes += [
            node("Add", f"s{i} zero", f"s{i + 1}"),
            node("Reshape", f"{'x' if not i else f'r{i - 1}'} s{i}", f"r{i}"),
        ]
    made = model(nodes, {"x": ("b", 3)}, ["r599"], {"zero": np.array([0, 0])})
    from tdagger.frameworks import known as calls

    count = 0
    before = calls.result_types

    def counted(value):
        nonlocal count
        count += 1
        return before(value)

    calls.result_types = counted
    try:
        td.from_onnx(made, sizes={"b": 2})
    finally:
        calls.result_types = before
    assert count < 4000


def test_weights_may_be_behind_numbers():
    """Sizes as some exporters compute them: scales of a Resize in floats."""
    made = model(
        [
            helper.make_node("Constant", [], ["scale"], value_floats=[2.0, 3.0]),
            node("Shape", "x", "s"), node("Cast", "s", "f", to=TensorProto.FLOAT), node("Mul", "f scale", "g"),
            node("Cast", "g", "i", to=TensorProto.INT64), node("Expand", "one i", "e"), node("Add", "e zero", "y"),
        ],
        {"x": ("b", 3)}, tensors={"one": floats(1, 1), "zero": np.float32(0)},
    )  # fmt: skip
    assert td.from_onnx(made, sizes={"b": 2}).graph.outputs["y"].shape == (4, 9)
