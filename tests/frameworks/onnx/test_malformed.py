"""Files that are damaged, or that lie: one typed error that names the node, the tensor or the byte; never more."""

from __future__ import annotations

import random
import resource
import time
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tdagger as td
from tests.frameworks.onnx.small import floats, info, model, node


def _whole() -> bytes:
    """A model of many kinds of nodes: windows, statistics, computed shapes, a function, constants, a recurrence."""
    own = helper.make_function("own", "F", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 17)])
    value = numpy_helper.from_array(np.array([2.0], np.float32))
    made = model(
        [
            node("Conv", "x w bias", "c", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("BatchNormalization", "c sc sc sc sc", "n"),
            helper.make_node("F", ["n"], ["f"], domain="own"),
            node("MaxPool", "f", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Shape", "p", "s"), node("Gather", "s zero", "g"), node("Unsqueeze", "g zeros", "u"),
            helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
            node("Concat", "u rest", "to", axis=0), node("Reshape", "p to", "r"),
            node("Gemm", "r fc fb", "l", transB=1), node("Softmax", "l", "y", axis=-1),
            node("Resize", "x - - sizes", "z", mode="nearest"), node("LSTM", "q W R", "h", "lstm", hidden_size=2),
            node("ConstantOfShape", "u", "k", value=value), node("Range", "zero five one_", "rg"),
            node("Slice", "z zeros one", "zz"), node("Pad", "z pads", "pp"),
        ],
        {"x": ("b", 2, 4, 4), "q": (3, 1, 2)}, ["y", "z", "h", "k", info("rg", None, TensorProto.INT64), "zz", "pp"],
        {
            "w": floats(3, 2, 3, 3), "bias": floats(3), "sc": np.ones(3, np.float32), "zero": np.int64(0),
            "zeros": np.array([0]), "one": np.array([1]), "fc": floats(2, 12), "fb": floats(2),
            "sizes": np.array([1, 2, 8, 8]), "W": floats(1, 8, 2), "R": floats(1, 8, 2), "five": np.int64(5),
            "one_": np.int64(1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        },
        functions=[own],
    )  # fmt: skip
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made.SerializeToString()


WHOLE = _whole()


def _attempt(data: bytes, write: bool = False) -> str:
    """What comes of a model, all its weights read, and of writing it again; any other error is the test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dag = td.from_onnx(data, sizes={"b": 1})
            for name in dag.weights:
                _ = dag.weights[name]
            if write:
                dag.to_onnx()
        except td.TDaggerError as e:
            return type(e).__name__ if str(e) else "an error that says nothing"
    return "ok"


def test_the_whole_one_is_imported():
    assert _attempt(WHOLE, write=True) == "ok"


def test_cut_at_every_percent():
    found = {_attempt(WHOLE[: len(WHOLE) * i // 100]) for i in range(100)}
    assert found == {"SourceError"}


def test_an_error_says_the_byte():
    with pytest.raises(td.SourceError, match=r"at byte \d+, \w+ of \w+ has \d+ bytes, \d+ are left"):
        td.from_onnx(WHOLE[: len(WHOLE) // 2])
    with pytest.raises(td.SourceError, match="it has no graph"):
        td.from_onnx(b"")


@pytest.mark.parametrize("part", [0, *[pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3)]])
def test_flipped_bytes(part):
    draw = random.Random(part)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: set[str] = set()
    longest = 0.0
    for _ in range(500):
        data = bytearray(WHOLE)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            at = draw.randrange(len(data))
            data[at] = draw.choice((data[at] ^ (1 << draw.randrange(8)), draw.randrange(256)))
        start = time.process_time()
        found.add(_attempt(bytes(data), write=part > 0))
        longest = max(longest, time.process_time() - start)
    assert {"ok", "SourceError", "UnsupportedError"} <= found
    assert longest < 5
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 1 << 20  # in units of 1024 bytes


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"the node", b"the\xffnode"), (b"Relu", b"Re\xffu"), (b"input", b"in\xffut"), (b"output", b"out\xffut"),
     (b"small", b"sm\xffll")],
)  # fmt: skip
def test_names_that_are_no_text(old, new):
    data = model([node("Relu", "input", "output", "the node")], {"input": (2,)}, ["output"]).SerializeToString()
    with pytest.raises(td.SourceError, match="UTF-8"):
        td.from_onnx(data.replace(old, new))


# --- tensors -------------------------------------------------------------------------------------------------


def _with(tensor: TensorProto) -> onnx.ModelProto:
    made = model([node("Add", "x w", "y")], {"x": (2, 3)})
    made.graph.initializer.append(tensor)
    return made


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (TensorProto(name="w", dims=[1 << 40], data_type=1, raw_data=b"1234"), "has 4 bytes; it takes 4398046511104"),
        (TensorProto(name="w", dims=[1 << 40, 1 << 40], data_type=1), "which no tensor has"),
        (TensorProto(name="w", dims=[-2, 3], data_type=1, raw_data=b""), "which no tensor has"),
        (TensorProto(name="w", dims=[1] * 100, data_type=1, raw_data=b"1234"), "which no tensor has"),
        (TensorProto(name="w", dims=[2, 3], data_type=1, float_data=[1.0]), "has 1 entries of float_data; it takes 6"),
        (TensorProto(name="w", dims=[3], data_type=10, int32_data=[1, 2]), "has 2 entries of int32_data; it takes 3"),
        (TensorProto(name="w", dims=[3], data_type=1, raw_data=b"12345678"), "has 8 bytes; it takes 12"),
    ],
)
def test_tensors_that_lie(tensor, why):
    with pytest.raises(td.SourceError, match=rf"(?s)node Add y .*tensor w.*{why}|tensor w.*{why}"):
        td.from_onnx(_with(tensor))


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (TensorProto(name="w", dims=[3], data_type=8, string_data=[b"a"] * 3), "tensor of STRING"),
        (TensorProto(name="w", dims=[3], data_type=99, raw_data=b"123"), "tensor of number 99"),
        (TensorProto(name="w", dims=[3], raw_data=b"123"), "tensor of UNDEFINED"),
    ],
)
def test_tensors_of_types_there_are_none_of(tensor, why):
    with pytest.raises(td.UnsupportedError, match=rf"w is a {why}.*at Add y \(Add\)"):
        td.from_onnx(_with(tensor))


def test_two_tensors_of_one_name():
    made = _with(numpy_helper.from_array(floats(3), "w"))
    made.graph.initializer.append(numpy_helper.from_array(floats(3), "w"))
    with pytest.raises(td.SourceError, match="two tensors called w"):
        td.from_onnx(made)


def _sparse(indices, dims=(2, 3)):
    made = model([node("Add", "x w", "y")], {"x": (2, 3)})
    values = numpy_helper.from_array(np.array([5.0, 7.0], np.float32), "w")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.asarray(indices, np.int64), "i"), dims)
    )
    return made


def test_sparse_initializers():
    for indices in ([1, 5], [[0, 1], [1, 2]]):
        dag = td.from_onnx(_sparse(indices))
        np.testing.assert_array_equal(dag.weights["w"], [[0, 5, 0], [0, 0, 7]])
    for indices in ([1, 6], [-1, 0], [[0, 3], [0, 0]]):
        with pytest.raises(td.SourceError, match="index beyond its shape"):
            td.from_onnx(_sparse(indices))
    with pytest.raises(td.UnsupportedError, match="bytes written out"):
        td.from_onnx(_sparse([0, 1], (1 << 20, 1 << 20)))


# --- what would take too much ----------------------------------------------------------------------------------


def test_types_may_be_large_and_take_no_memory():
    made = model([node("ConstantOfShape", "s", "c"), node("ReduceSum", "c", "y")], {"x": (1,)},
                 tensors={"s": np.array([1 << 20, 1 << 20])})  # fmt: skip
    assert td.from_onnx(made).graph.outputs["y"].type.size == 1


@pytest.mark.parametrize(
    ("nodes", "inputs", "tensors"),
    [
        ([node("Resize", "x - - s", "y", mode="nearest")], {"x": (1, 1, 4, 4)}, {"s": np.array([1, 1, 4, 1 << 30])}),
        ([node("LSTM", "x W R", "y", hidden_size=2)], {"x": (1 << 24, 1, 2)},
         {"W": floats(1, 8, 2), "R": floats(1, 8, 2)}),
        ([node("HannWindow", "n", "y")], {"x": (1,)}, {"n": np.int64(1 << 40)}),
    ],
)  # fmt: skip
def test_what_would_be_written_out_is_bounded(nodes, inputs, tensors):
    with pytest.raises(td.UnsupportedError, match=r"(write|written) out"):
        td.from_onnx(model(nodes, inputs, tensors=tensors))


def _field(number: int, data: bytes) -> bytes:
    length = len(data)
    size = b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def test_deep_nesting_is_refused():
    graph = b""
    for _ in range(150):  # a graph of a node with an attribute that is a graph
        graph = _field(1, _field(5, _field(6, graph)))
    with pytest.raises(td.SourceError, match="damaged"):
        td.from_onnx(_field(7, graph) + _field(8, b"\x10\x11"))


@pytest.mark.parametrize("given", [17, None, object(), ["a"]])
def test_what_is_no_model(given):
    with pytest.raises(td.InputError, match="takes a path, bytes or a ModelProto"):
        td.from_onnx(given)


def test_paths_that_are_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "no.onnx", "a\0b.onnx"):
        with pytest.raises(td.SourceError):
            td.from_onnx(path)
