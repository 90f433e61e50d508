"""What a file's tensors, subgraphs, signatures and variables become."""

import copy
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from flatbuffers import flexbuffers

pytest.importorskip("ai_edge_litert")

import tdagger as td
from tdagger.frameworks.tflite import importer
from tdagger.frameworks.tflite.read import opened
from tests.frameworks.tflite.build import Build
from tests.frameworks.tflite.runs import by_numpy, by_runtime, interpreter, invoked

F = np.float32


def small(name: str = "x", signature: Any = None, shape: Any = (1, 4)) -> Build:
    """A product with a bias, by rows."""
    rng = np.random.default_rng(0)
    b = Build()
    x = b.input(shape, name=name, signature=signature)
    w, bias = (
        b.const(rng.standard_normal((3, 4)), "f32", name="net/dense/w"),
        b.const(np.ones(3, F), name="net/dense/b"),
    )
    out = b.tensor(
        (*shape[:-1], 3), name="net/dense/BiasAdd", signature=None if signature is None else (*signature[:-1], 3)
    )
    b.op("FULLY_CONNECTED", [x, w, bias], [out], fusedActivationFunction=1)
    b.output(out)
    return b


def test_names_modules_and_leaves() -> None:
    dag = td.from_tflite(small().bytes())
    assert list(dag.graph.inputs) == ["x"]
    assert list(dag.graph.outputs) == ["net/dense/BiasAdd"]
    assert {n: w.is_parameter for n, w in dag.state.items()} == {"net/dense/w": True, "net/dense/b": True}
    assert dict(dag.modules) == {"net": "Net", "net.dense": "Dense"}
    assert [v.op.name for v in dag["net.dense"].values][-2:] == ["linear", "relu"]
    assert dag.origins[dag.graph.outputs["net/dense/BiasAdd"]].op == "FULLY_CONNECTED"
    x = np.arange(4, dtype=F).reshape(1, 4)
    np.testing.assert_allclose(dag.run(x), by_runtime(small().bytes(), x)[0], rtol=1e-6)


def test_a_weight_keeps_its_name_where_a_module_would_have_it() -> None:
    b = Build()
    x, out = b.input((1, 2)), b.tensor((1, 2), name="dense/MatMul")
    b.op("FULLY_CONNECTED", [x, b.const(np.eye(2, dtype=F), name="dense"), -1], [out])
    b.output(out)
    dag = td.from_tflite(b.bytes())
    assert (list(dag.state), list(dag.modules)) == (["dense"], ["dense_"])
    assert [n for n, _ in dag.to_torch().named_parameters()] == ["dense"]


def test_pickles_need_no_file(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(small().bytes())
    dag = td.from_tflite(path)
    wanted = dag.run(np.ones((1, 4), F))
    data = pickle.dumps(dag)
    path.unlink()
    found = pickle.loads(data)
    assert found.graph == dag.graph
    np.testing.assert_array_equal(found.run(np.ones((1, 4), F)), wanted)
    np.testing.assert_array_equal(copy.deepcopy(dag).run(np.ones((1, 4), F)), wanted)


def test_weights_lie_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(small().bytes())
    dag = td.from_tflite(path)
    assert dag.name == "m"
    model = opened(path)
    weight = dag.weights["net/dense/w"]
    start, length = model.buffers[1]
    at = path.read_bytes()[start : start + length]
    assert weight.tobytes() == at
    assert not weight.flags.writeable
    base = weight
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, np.memmap)


def test_tensors_that_share_data_are_one_leaf() -> None:
    b = Build()
    x = b.input((2, 2))
    w = b.const(np.eye(2, dtype=F), name="w")
    again = b.tensor((2, 2), name="again")
    b.graph.tensors[again].buffer = b.graph.tensors[w].buffer
    mid, out = b.tensor((2, 2)), b.tensor((2, 2))
    b.op("FULLY_CONNECTED", [x, w, -1], [mid])
    b.op("FULLY_CONNECTED", [mid, again, -1], [out])
    b.output(out)
    assert list(td.from_tflite(b.bytes()).state) == ["w"]


def test_buffers_behind_the_flatbuffer(tmp_path: Path) -> None:
    """As files of more than 2 GB have them: by offset and size."""
    data = small()
    arrays = [b.data for b in data.model.buffers]
    for i, buffer in enumerate(data.model.buffers[1:], 1):
        buffer.data, buffer.offset, buffer.size = None, 1 << 20, len(arrays[i])
    size = len(data.bytes())
    at = -(-size // 16) * 16
    tail = b""
    for i, buffer in enumerate(data.model.buffers[1:], 1):
        buffer.offset = at + len(tail)
        tail += arrays[i].tobytes()
    file = data.bytes()
    assert len(file) == size
    path = tmp_path / "large.tflite"
    path.write_bytes(file + b"\0" * (at - size) + tail)
    x = np.arange(4, dtype=F).reshape(1, 4)
    np.testing.assert_array_equal(td.from_tflite(path).run(x), by_numpy(small().bytes(), x)[0])
    path.write_bytes(file + b"\0" * (at - size) + tail[:-1])
    with pytest.raises(td.SourceError, match=f"buffer 2 of .* to {at + len(tail)}, the file has"):
        td.from_tflite(path)


def test_neither_onnx_nor_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules.update(onnx=None, torch=None)\n"
        "import tdagger as td; from pathlib import Path\n"
        "print(td.from_tflite(sys.stdin.buffer.read()).name)"
    )
    found = subprocess.run([sys.executable, "-c", code], input=small().bytes(), capture_output=True, check=True)
    assert found.stdout.strip() == b"tflite"


# --- sizes -------------------------------------------------------------------------------------------------


def test_open_sizes_have_what_the_file_says_and_can_be_others() -> None:
    model = small(signature=(-1, 4)).bytes()
    dag = td.from_tflite(model)
    assert dag.graph.inputs["x"].shape == (1, 4)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(F)
    for asked in ({"inputs": {"x": (5, 4)}}, {"sizes": {"x.0": 5}}):
        other = td.from_tflite(model, **asked)
        np.testing.assert_allclose(other.run(x), by_runtime(model, x)[0], rtol=1e-6)
    name = dag.axes().show(dag.graph.inputs["x"]).partition("[")[2].split()[0]
    resized = dag.resize(**{name: 5})
    np.testing.assert_allclose(resized.run(x), by_runtime(model, x)[0], rtol=1e-6)
    assert dag.source is not None
    with pytest.raises(td.InputError, match=r"there is no size x\.1"):
        td.from_tflite(model, sizes={"x.1": 3})
    with pytest.raises(td.InputError, match="isn't that"):
        td.from_tflite(model, inputs={"x": (1, 5)})


def test_a_frozen_batch_is_resized_and_removed() -> None:
    """A file that another program made for a batch of 1: as many rows, each computed as that one was."""
    rng = np.random.default_rng(1)
    b = Build()
    x = b.input((1, 6, 6, 2), name="x")
    conv, pool, flat, out = (b.tensor(s) for s in ((1, 6, 6, 3), (1, 3, 3, 3), (1, 27), (1, 5)))
    b.op("CONV_2D", [x, b.const(rng.standard_normal((3, 3, 3, 2)), "f32"), b.const(np.zeros(3, F))], [conv],
         strideW=1, strideH=1)  # fmt: skip
    b.op("MAX_POOL_2D", [conv], [pool], strideW=2, strideH=2, filterWidth=2, filterHeight=2, padding=1)
    b.op("RESHAPE", [pool, b.const(np.array([-1, 27], np.int32))], [flat])
    b.op("FULLY_CONNECTED", [flat, b.const(rng.standard_normal((5, 27)), "f32"), -1], [out])
    b.output(out)
    model = b.bytes()
    dag = td.from_tflite(model)
    eight = rng.standard_normal((8, 6, 6, 2)).astype(F)
    wanted = np.concatenate([by_runtime(model, one[None])[0] for one in eight])
    name = dag.axes().show(dag.graph.inputs["x"]).partition("[")[2].split()[0]
    np.testing.assert_allclose(dag.resize(**{name: 8}).run(eight), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dag.unbatch(name).run(eight[0]), wanted[0], rtol=1e-4, atol=1e-5)


def test_values_are_constants() -> None:
    b = Build()
    x, axis = b.input((2, 3), name="x"), b.input((1,), "i32", name="axis")
    out = b.tensor(())
    b.op("SUM", [x, axis], [out])
    b.output(out)
    with pytest.raises(td.UnsupportedError, match="axes depends on data"):
        td.from_tflite(b.bytes())
    dag = td.from_tflite(b.bytes(), values={"axis": [1]})
    np.testing.assert_array_equal(dag.run(np.ones((2, 3), F)), [3, 3])


# --- signatures, bundles -------------------------------------------------------------------------------------


def two() -> bytes:
    b = Build()
    x = b.input((2,), name="x:0")
    out = b.tensor((2,))
    b.op("NEG", [x], [out])
    b.output(out)
    b.signature("negate", {"x": x}, {"y": out})
    index = b.subgraph("second")
    x = b.input((2,), name="z:0")
    out = b.tensor((2,))
    b.op("ABS", [x], [out])
    b.output(out)
    b.signature("size", {"z": x}, {"r": out}, index)
    return b.bytes()


def test_signatures() -> None:
    dag = td.from_tflite(two())
    assert (list(dag.graph.inputs), list(dag.graph.outputs)) == (["x"], ["y"])
    dag = td.from_tflite(two(), signature="size")
    assert (list(dag.graph.inputs), list(dag.graph.outputs), dag.name) == (["z"], ["r"], "second")
    with pytest.raises(td.InputError, match="no signature other; it has negate, size"):
        td.from_tflite(two(), signature="other")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bundles(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "hand.task"
    with zipfile.ZipFile(path, "w", compression) as z:
        z.writestr("detector.tflite", small().bytes())
        z.writestr("labels.txt", "a\nb")
    x = np.arange(4, dtype=F).reshape(1, 4)
    wanted = by_numpy(small().bytes(), x)[0]
    for place in (path, path / "detector.tflite"):
        np.testing.assert_array_equal(td.from_tflite(place).run(x), wanted)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("more.tflite", small().bytes())
    with pytest.raises(td.SourceError, match=r"bundle of 2 models: give one of them \(.*hand.task/detector.tflite"):
        td.from_tflite(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(td.SourceError, match="no bundle, or is damaged"):
        td.from_tflite(path)


# --- control flow and state ----------------------------------------------------------------------------------


def branching(known: bool) -> bytes:
    """``x * 2`` or ``x + w`` by a bool."""
    b = Build()
    p = b.const(np.array([False])) if known else b.input((1,), "bool", name="p")
    x = b.input((3,), name="x")
    out = b.tensor((3,))
    b.output(out)
    main = b.graph
    for op, name in (("MUL", "twice"), ("ADD", "plus")):
        b.subgraph(name)
        own, made = b.input((3,)), b.tensor((3,))
        b.op(op, [own, b.const(np.full(3, 2, F), name=f"{name}/w")], [made])
        b.output(made)
    b.graph = main
    b.op("IF", [p, x], [out], thenSubgraphIndex=1, elseSubgraphIndex=2)
    return b.bytes()


def test_if_is_cond_in_a_network_and_blocks_in_a_program() -> None:
    model, x = branching(False), np.arange(3, dtype=F)
    dag, program = td.from_tflite(model), td.Program.from_tflite(model)
    assert [v.op.name for v in dag.values if v.op.name == "cond"] == ["cond"]
    assert len(program.blocks) > 2
    import torch

    module = dag.to_torch().eval()
    for p in (True, False):
        wanted = by_runtime(model, np.array([p]), x)[0]
        np.testing.assert_array_equal(wanted, x * 2 if p else x + 2)
        np.testing.assert_array_equal(dag.run(np.array([p]), x), wanted)
        np.testing.assert_array_equal(program.run(np.array([p]), x), wanted)
        np.testing.assert_array_equal(module(torch.tensor([p]), torch.from_numpy(x)).detach().numpy(), wanted)
    assert "cond" not in [v.op.name for v in td.from_tflite(branching(True)).values]
    np.testing.assert_array_equal(td.from_tflite(branching(True)).run(x), x + 2)


def looping() -> bytes:
    """While ``i < n``: ``i + 1, x * x``."""
    b = Build()
    n, x = b.input((1,), "i32", name="n"), b.input((2,), name="x")
    i = b.const(np.zeros(1, np.int32))
    outs = [b.tensor((1,), "i32"), b.tensor((1,), "i32"), b.tensor((2,), name="power")]
    b.output(outs[2])
    main = b.graph
    b.subgraph("cond")
    ci, cn, cx = b.input((1,), "i32"), b.input((1,), "i32"), b.input((2,))
    less = b.tensor((1,), "bool")
    b.op("LESS", [ci, cn], [less])
    b.output(less)
    b.subgraph("body")
    bi, bn, bx = b.input((1,), "i32"), b.input((1,), "i32"), b.input((2,))
    more, square = b.tensor((1,), "i32"), b.tensor((2,))
    b.op("ADD", [bi, b.const(np.ones(1, np.int32))], [more])
    b.op("MUL", [bx, bx], [square])
    b.output(more, bn, square)
    b.graph = main
    b.op("WHILE", [i, n, x], outs, condSubgraphIndex=1, bodySubgraphIndex=2)
    del cx
    return b.bytes()


def test_while_is_a_loop_of_a_program() -> None:
    model, x = looping(), np.array([2, 3], F)
    with pytest.raises(td.UnsupportedError, match=r"WHILE: it is a loop.*td\.Program\.from_tflite imports it"):
        td.from_tflite(model)
    program = td.Program.from_tflite(model)
    module = program.to_torch()
    import torch

    for n in (0, 1, 3):
        count = np.array([n], np.int32)
        wanted = by_runtime(model, count, x)[0]
        np.testing.assert_array_equal(wanted, x ** (2**n))
        np.testing.assert_array_equal(program.run(count, x), wanted)
        np.testing.assert_array_equal(module(torch.from_numpy(count), torch.from_numpy(x)).numpy(), wanted)
        known = td.from_tflite(model, values={"n": count})  # so many turns are written out
        np.testing.assert_array_equal(known.run(x), wanted)


def test_while_of_more_operators_than_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is right whose loop is too long for a graph: the program has it, and a file may have any number itself."""
    monkeypatch.setattr(importer, "_MOST", 9)
    count, x = np.array([3], np.int32), np.array([2, 3], F)
    with pytest.raises(td.UnsupportedError, match=r"WHILE: the calls.*more than 9 operators; td\.Program\.from_tflite"):
        td.from_tflite(looping(), values={"n": count})
    program = td.Program.from_tflite(looping())
    np.testing.assert_array_equal(program.run(count, x), x**8)
    b = Build()
    values = [b.input((2,), name="x")]
    for _ in range(12):
        values.append(b.tensor((2,)))
        b.op("NEG", values[-2:-1], values[-1:])
    b.output(values[-1])
    np.testing.assert_array_equal(td.from_tflite(b.bytes()).run(x), x)


def counting() -> bytes:
    """A variable that begins as 5 and gets x added in each call; what it was is given."""
    b = Build()
    x = b.input((2,), name="x")
    handle, old, new = b.tensor((), 13), b.tensor((2,), name="old"), b.tensor((2,))
    b.output(old)
    main = b.graph
    index = b.subgraph("init")
    own = b.tensor((), 13)
    b.op("VAR_HANDLE", [], [own], sharedName=b"total")
    b.op("ASSIGN_VARIABLE", [own, b.const(np.full(2, 5, F))], [])
    b.graph = main
    b.op("CALL_ONCE", [], [], initSubgraphIndex=index)
    b.op("VAR_HANDLE", [], [handle], sharedName=b"total")
    b.op("READ_VARIABLE", [handle], [old])
    b.op("ADD", [old, x], [new])
    b.op("ASSIGN_VARIABLE", [handle, new], [])
    return b.bytes()


def test_variables_are_state() -> None:
    model = counting()
    runner = interpreter(model)
    dag = td.from_tflite(model)
    assert list(dag.graph.updates) == ["total"]
    program = td.Program.from_tflite(model).runner()
    import torch

    module = dag.to_torch().eval()
    for k in range(4):
        x = np.array([k, 1], F)
        (wanted,) = invoked(runner, x)
        np.testing.assert_array_equal(program(x), wanted)
        np.testing.assert_array_equal(module(torch.from_numpy(x)).numpy(), wanted)
    np.testing.assert_array_equal(program.state["total"], [5 + 6, 5 + 4])
    np.testing.assert_array_equal(dag.run(np.ones(2, F)), [5, 5])  # each run begins anew


def test_a_variable_that_nothing_initialises_is_refused() -> None:
    b = Build()
    x = b.input((2,))
    handle, old, out = b.tensor((), 13), b.tensor((2,)), b.tensor((2,))
    b.op("VAR_HANDLE", [], [handle], sharedName=b"total")
    b.op("READ_VARIABLE", [handle], [old])
    b.op("ADD", [old, x], [out])
    b.output(out)
    with pytest.raises(td.UnsupportedError, match="variable total is read before anything is assigned"):
        td.from_tflite(b.bytes())


# --- what can't be imported ------------------------------------------------------------------------------------


def custom() -> bytes:
    b = Build()
    x = b.input((2,), name="x")
    mid, other, dead, out = b.tensor((2,)), b.tensor((2,)), b.tensor((2,)), b.tensor((2,), name="out")
    b.op("custom:Mystery", [x], [mid], b"\x01\x02")
    b.op("custom:Mystery", [mid], [other])
    b.op("custom:Unneeded", [x], [dead])
    b.op("ADD", [mid, other], [out])
    b.output(out)
    return b.bytes()


def test_what_cant_be_imported_is_told_at_once() -> None:
    with pytest.raises(td.UnsupportedError) as told:
        td.from_tflite(custom())
    assert "2 operators of 1 ops can't be imported" not in str(told.value)  # what depends on one isn't one
    assert "1 x Mystery: it is a custom operator" in str(told.value)
    assert "Unneeded" not in str(told.value)


def test_scales_of_blocks() -> None:
    """Of INT4 weights with a scale for each 32 entries of a row, in a tensor of f16."""
    from ai_edge_litert import schema_py_generated as s

    rng = np.random.default_rng(0)
    b = Build()
    x = b.input((1, 64))
    whole = rng.integers(-8, 8, (2, 64))
    raw = ((whole[:, 1::2] & 15) << 4 | (whole[:, ::2] & 15)).astype(np.uint8)
    scales = np.array([[0.5, 2], [1, 0.25]], np.float16)
    at = b.const(scales, "f16")
    w = b.const(raw, s.TensorType.INT4, shape=(2, 64))
    q, blocks = s.QuantizationParametersT(), s.BlockwiseQuantizationT()
    blocks.scales, blocks.zeroPoints, blocks.blockSize = at, -1, 32
    q.detailsType, q.details = s.QuantizationDetails.BlockwiseQuantization, blocks
    b.graph.tensors[w].quantization = q
    out = b.tensor((1, 2))
    b.op("FULLY_CONNECTED", [x, w, -1], [out])
    b.output(out)
    given = rng.integers(-126, 127, (1, 64)).astype(F)
    given[0, 0] = 127  # so that rounding it to 8 bits changes nothing
    wanted = given @ (whole * np.repeat(scales.astype(F), 32, 1)).T
    np.testing.assert_allclose(by_numpy(b.bytes(), given)[0], wanted, rtol=1e-6)


def test_custom_operators_are_external_if_asked() -> None:
    dag = td.from_tflite(custom(), external=True)
    found = [v for v in dag.values if v.op.name == "external"]
    assert [(v.op.framework, v.op.target) for v in found] == [("tflite", "Mystery")] * 2
    assert dict(found[0].op.keywords) == {"custom_options": "0102"}
    with pytest.raises(td.UnsupportedError, match="Mystery is an external op of tflite"):
        dag.run(np.ones(2, F))


def test_an_option_that_isnt_known_is_refused() -> None:
    b = Build()
    x = b.input((1, 4))
    out = b.tensor((1, 3))
    w = b.const(np.ones((3, 4), F))
    b.op("FULLY_CONNECTED", [x, w, -1], [out], weightsFormat=1)
    b.output(out)
    with pytest.raises(td.UnsupportedError, match="shuffled"):
        td.from_tflite(b.bytes())


def test_shapes_that_arent_so_are_told() -> None:
    b = Build()
    x = b.input((2, 3))
    out = b.tensor((7, 7), name="flat")
    b.op("RESHAPE", [x, b.const(np.array([6], np.int32))], [out])
    b.output(out)
    with pytest.warns(UserWarning, match=r"flat is f32\[6\], not \[7, 7\]"):
        td.from_tflite(b.bytes())


def test_a_composite_of_stablehlo_is_its_subgraph() -> None:
    b = Build()
    x = b.input((3,), name="x")
    out = b.tensor((3,))
    b.output(out)
    main = b.graph
    index = b.subgraph("gelu.impl")
    own, made = b.input((3,)), b.tensor((3,))
    b.op("GELU", [own], [made])
    b.output(made)
    b.graph = main
    b.op("STABLEHLO_COMPOSITE", [x], [out], name=b"odml.gelu", decompositionSubgraphIndex=index,
         compositeAttributes=np.frombuffer(flexbuffers.Dumps({}), np.uint8))  # fmt: skip
    x1 = np.array([-1, 0, 2], F)
    np.testing.assert_allclose(by_numpy(b.bytes(), x1)[0], by_runtime(b.bytes(), x1)[0], rtol=1e-6)


def test_metadata_is_kept() -> None:
    b = small()
    from ai_edge_litert import schema_py_generated as s

    entry, buffer = s.MetadataT(), s.BufferT()
    buffer.data = np.frombuffer(b"1.5.0", np.uint8)
    b.model.buffers.append(buffer)
    entry.name, entry.buffer = b"min_runtime_version", len(b.model.buffers) - 1
    b.model.metadata.append(entry)
    model = opened(b.bytes())
    assert {n: bytes(model.buffer(i)) for n, i in model.metadata.items()} == {"min_runtime_version": b"1.5.0"}


def test_what_is_no_file(tmp_path: Path) -> None:
    for data, what in ((b"", "no TFLite file"), (b"12345678", "TFL3"), (b"\0" * 4 + b"TFL3", "version 0|damaged")):
        with pytest.raises(td.SourceError, match=what):
            td.from_tflite(data)
    with pytest.raises(td.SourceError, match="can't be read"):
        td.from_tflite(tmp_path / "none.tflite")
    with pytest.raises(td.InputError, match="a path or bytes, not a int"):
        td.from_tflite(3)
    builder = flatbuffers.Builder(16)
    builder.StartObject(1)
    builder.Finish(builder.EndObject(), b"TFL3")
    with pytest.raises(td.SourceError, match="version 0"):
        td.from_tflite(bytes(builder.Output()))


def test_as_many_entries_as_the_data_says_are_refused() -> None:
    b = Build()
    x, places = b.input((3,), "bool", name="mask"), b.tensor((), "i64")
    b.op("WHERE", [x], [places])
    b.output(places)
    with pytest.raises(td.UnsupportedError, match=r"WHERE: its input condition depends on data \(mask\)"):
        td.from_tflite(b.bytes())
    np.testing.assert_array_equal(td.from_tflite(b.bytes(), values={"mask": [True, False, True]}).run(), [[0], [2]])
