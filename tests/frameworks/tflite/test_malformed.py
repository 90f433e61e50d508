"""Damaged files: one typed error or a network, never a crash, memory as the file's."""

import tracemalloc
import warnings

import flatbuffers
import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as s

import tdagger as td
from tdagger.frameworks.tflite.read import opened
from tdagger.frameworks.tflite.sparse import Level, Sparsity, dense
from tests.frameworks.tflite.build import Build
from tests.frameworks.tflite.test_importer import branching, counting, looping, small, two

FILES = {
    "small": lambda: small(signature=(-1, 4)).bytes(), "two": two, "branching": lambda: branching(False),
    "counting": counting, "looping": looping,
}  # fmt: skip

#: What may become of a damaged file.
TYPED = {"SourceError", "UnsupportedError", "InputError", "GraphError", "TypeMismatchError", "AttributeValueError", ""}


def read(data: bytes) -> str:
    """What becomes of a file: its error, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            td.Program.from_tflite(data)
    except td.TDaggerError as e:
        return type(e).__name__
    return ""


@pytest.mark.parametrize("name", FILES)
def test_every_truncation(name: str) -> None:
    data = FILES[name]()
    assert read(data) == ""
    found = {read(data[:n]) for n in range(len(data))}
    assert found <= {"SourceError", "UnsupportedError", "InputError", ""}
    assert "SourceError" in found


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes(name: str) -> None:
    """Most of a file is tables; some bytes change only numbers or names."""
    data = bytearray(FILES[name]())
    rng = np.random.default_rng(0)
    found: set[str] = set()
    tracemalloc.start()
    for _ in range(200):
        at = rng.integers(len(data), size=rng.integers(1, 4))
        before = data[:]
        for i in at:
            data[i] = int(rng.integers(256))
        found.add(read(bytes(data)))
        data = before
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20
    assert found <= TYPED
    assert "SourceError" in found


@pytest.mark.slow
def test_5000_flipped_bytes() -> None:
    rng = np.random.default_rng(1)
    for k in range(5000):
        data = bytearray(list(FILES.values())[k % len(FILES)]())
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        assert read(bytes(data)) in TYPED


def test_sizes_that_are_huge_take_no_memory() -> None:
    b = Build()
    x = b.input((1, 2**20, 2**20), name="x")
    dims = b.const(np.array([2**20, 2**20], np.int32))
    one = b.const(np.float32(1))
    filled, out = b.tensor(()), b.tensor(())
    b.op("FILL", [dims, one], [filled])
    b.op("ADD", [x, filled], [out])
    b.output(out)
    tracemalloc.start()
    dag = td.from_tflite(b.bytes())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dag.graph.outputs["t4"].shape == (1, 2**20, 2**20)
    assert peak < 10 << 20


@pytest.mark.parametrize("op", ["RESIZE_BILINEAR", "RANGE"])
def test_tables_that_would_be_huge_are_refused(op: str) -> None:
    b = Build()
    out = b.tensor(())
    if op == "RANGE":
        b.input((1,))
        given = [b.const(np.int32(n)) for n in (0, 2**30, 1)]
        out = b.tensor((), "i32")
    else:
        given = [b.input((1, 2, 2, 1)), b.const(np.array([2**30, 2], np.int32))]
    b.op(op, given, [out])
    b.output(out)
    with pytest.raises(td.UnsupportedError, match="would write out 1073741824 entries"):
        td.from_tflite(b.bytes())


def test_data_of_another_length_than_its_type_takes() -> None:
    b = small()
    b.model.buffers[1].data = b.model.buffers[1].data[:-1]
    with pytest.raises(td.SourceError, match=r"net/dense/w, f32\[3, 4\], has 47 bytes of data; it takes 48"):
        td.from_tflite(b.bytes())


def test_tables_that_refer_to_each_other_over_and_over() -> None:
    """A short file can say a long thing many times: what is read is bounded by its length."""
    b = flatbuffers.Builder(1 << 16)
    name = b.CreateString("n" * 100_000)
    s.TensorStart(b)
    s.TensorAddName(b, name)
    tensor = s.TensorEnd(b)
    s.SubGraphStartTensorsVector(b, 20_000)
    for _ in range(20_000):
        b.PrependUOffsetTRelative(tensor)
    tensors = b.EndVector()
    s.SubGraphStart(b)
    s.SubGraphAddTensors(b, tensors)
    graph = s.SubGraphEnd(b)
    s.ModelStartSubgraphsVector(b, 1)
    b.PrependUOffsetTRelative(graph)
    graphs = b.EndVector()
    s.ModelStart(b)
    s.ModelAddVersion(b, 3)
    s.ModelAddSubgraphs(b, graphs)
    b.Finish(s.ModelEnd(b), b"TFL3")
    data = bytes(b.Output())
    tracemalloc.start()
    with pytest.raises(td.SourceError, match="more entries than there is room for"):
        opened(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(data)


@pytest.mark.parametrize(("what", "told"), [
    ("order", "isn't that of"), ("segments", "fewer segments|room for"), ("indices", "room for|beyond its shape"),
    ("values", "values for"),
])  # fmt: skip
def test_sparse_data_that_doesnt_fit(what: str, told: str) -> None:
    levels = [Level(4, None, None), Level(0, np.array([0, 1, 1, 2, 4]), np.array([1, 0, 2, 3]))]
    order, values = (0, 1), np.ones(4, "f")
    assert dense(values, (4, 4), Sparsity(order, (), tuple(levels))).sum() == 4
    if what == "order":
        order = (0, 0)
    elif what == "segments":
        levels[1] = levels[1]._replace(segments=np.array([0, 1]))
    elif what == "indices":
        levels[1] = levels[1]._replace(indices=np.array([1, 0, 2, 9]))
    else:
        values = values[:3]
    with pytest.raises(td.SourceError, match=told):
        dense(values, (4, 4), Sparsity(order, (), tuple(levels)))


def test_subgraphs_that_call_each_other_forever() -> None:
    b = Build()
    p, x, out = b.input((1,), "bool"), b.input((2,)), b.tensor((2,))
    b.op("IF", [p, p, x], [out], thenSubgraphIndex=0, elseSubgraphIndex=0)
    b.output(out)
    with pytest.raises(td.SourceError, match="more than 64 deep"):
        td.from_tflite(b.bytes())
