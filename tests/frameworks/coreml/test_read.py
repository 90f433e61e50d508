"""Packages, weight files, compressed constants, states and functions as they are read; and what is wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.frameworks.coreml import proto
from tests.frameworks.coreml.programs import program, set_type, set_value

F = "float32"


def constants(*ops: tuple[str, dict[str, Any], tuple[str, tuple[int, ...]]], opset: int = 18) -> td.TensorDAG:
    """A network that adds to x the last of some ops on constants."""
    dtype, shape = ops[-1][2]
    made = [(kind, given, [(f"c{i}", *result)]) for i, (kind, given, result) in enumerate(ops)]
    add = ("add", {"x": "=x", "y": f"=c{len(ops) - 1}"}, [("y", dtype, shape)])
    return td.from_coreml(program({"x": (dtype, shape)}, [*made, add], ["y"], opset))


def added(dag: td.TensorDAG, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(dag.run(np.zeros(shape, np.float32)))


def test_constants_are_decompressed() -> None:
    data = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8)
    affine = {"quantized_data": data, "zero_point": np.array([1, 2], np.int8), "scale": np.array([0.5, 2], np.float32),
              "axis": np.int32(0)}  # fmt: skip
    dag = constants(("constexpr_affine_dequantize", affine, (F, (2, 4))), opset=16)
    assert added(dag, (2, 4)).tolist() == [[0, 0.5, 1, 1.5], [6, 8, 10, 12]]
    assert {n: w.dtype.name for n, w in dag.weights.items()} == {
        "c0": "int8", "c0_scale": "float32", "c0_zero_point": "int8"}  # fmt: skip
    assert not dag.graph.parameters
    blocks = {
        "data": data,
        "scale": np.array([[1, 10], [2, 20]], np.float32),
        "offset": np.array([[1, 1], [1, 1]], np.int8),
    }
    dag = constants(("constexpr_blockwise_shift_scale", blocks, (F, (2, 4))))
    assert added(dag, (2, 4)).tolist() == [[0, 1, 20, 30], [8, 10, 120, 140]]
    packed = np.array([0b01101100, 0b11], np.uint8)  # of iOS16: 0, 3, 2, 1, 3
    table = {"indices": packed, "lut": np.array([1, 5, 9, 13], np.float32), "shape": np.array([5], np.int32)}
    dag = constants(("constexpr_lut_to_dense", table, (F, (5,))), opset=16)
    assert added(dag, (5,)).tolist() == [1, 13, 9, 5, 13]
    sparse = {"nonzero_data": np.array([7, 8], np.float32), "mask": np.array([0b01100], np.uint8), "shape": [5]}
    dag = constants(("constexpr_sparse_to_dense", sparse, (F, (5,))), opset=16)
    assert added(dag, (5,)).tolist() == [0, 0, 7, 8, 0]


def test_tables_of_vectors_and_numbers_of_less_than_a_byte() -> None:
    """Of the specification: two tables over the first axis, and vectors along an axis; four bits in signed order."""
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    lut = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float32).reshape(2, 1, 4, 1)
    dag = constants(("constexpr_lut_to_dense", {"indices": indices, "lut": lut}, (F, (6, 2))))
    assert added(dag, (6, 2)).tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    vectors = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 2, 3)
    given = {"indices": np.array([[0, 1]], np.uint8), "lut": vectors, "vector_axis": np.int32(0)}
    dag = constants(("constexpr_lut_to_dense", given, (F, (3, 2))))
    assert added(dag, (3, 2)).tolist() == [[1, 4], [2, 5], [3, 6]]
    from tdagger.frameworks.coreml.types import KINDS, unpacked

    assert unpacked(np.array([0x8F, 0x07], np.uint8), 3, KINDS[25]).tolist() == [-1, -8, 7]
    assert unpacked(np.array([0b11100100], np.uint8), 4, KINDS[36]).tolist() == [0, 1, 2, 3]


def test_what_is_compressed_is_checked() -> None:
    short = {"indices": np.zeros(1, np.uint8), "lut": np.zeros(4, np.float32), "shape": [5]}
    dag = constants(("constexpr_lut_to_dense", short, (F, (5,))), opset=16)
    with pytest.raises(td.SourceError, match="its indices has 1 entries, where its shape takes 2"):
        dag.weights["c0"]


def test_states_are_buffers_that_change() -> None:
    model = program({"x": (F, (2,))}, [
        ("read_state", {"input": "=total"}, [("before", F, (2,))]),
        ("add", {"x": "=before", "y": "=x"}, [("after", F, (2,))]),
        ("write_state", {"input": "=total", "data": "=after"}, []),
        ("read_state", {"input": "=total"}, [("y", F, (2,))]),
    ], ["y"], 18)  # fmt: skip
    state = model.mlProgram.functions["main"].inputs.add(name="total")
    set_type(state.type.stateType.wrappedType, F, (2,))
    dag = td.from_coreml(model)
    assert list(dag.graph.inputs) == ["x"]
    assert list(dag.graph.updates) == ["total"]
    assert dag.weights["total"].tolist() == [0, 0]
    assert dag.run(np.array([1, 2], np.float32)).tolist() == [1, 2]
    torch = pytest.importorskip("torch")
    module = dag.to_torch()
    x = torch.tensor([1.0, 2.0])
    assert [module(x).tolist() for _ in range(2)] == [[1, 2], [2, 4]]


def test_one_of_several_functions() -> None:
    model = program({"x": (F, (2,))}, [("relu", {"x": "=x"}, [("y", F, (2,))])], ["y"])
    other = program({"x": (F, (2,))}, [("abs", {"x": "=x"}, [("y", F, (2,))])], ["y"])
    model.mlProgram.functions["second"].CopyFrom(other.mlProgram.functions["main"])
    x = np.array([-1, 1], np.float32)
    assert td.from_coreml(model).run(x).tolist() == [0, 1]
    assert td.from_coreml(model, function="second").run(x).tolist() == [1, 1]
    with pytest.raises(td.InputError, match="no function third: give function=, one of main, second"):
        td.from_coreml(model, function="third")


def test_open_sizes_are_asked_for_and_followed() -> None:
    ops = [
        ("shape", {"x": "=x"}, [("s", "int32", (2,))]),
        ("gather", {"x": "=s", "indices": [0], "axis": np.int32(0)}, [("n", "int32", (1,))]),
        ("concat", {"values": ["=n", "=four"], "axis": np.int32(0)}, [("shape", "int32", (2,))]),
        ("reshape", {"x": "=x", "shape": "=shape"}, [("y", F, (None, 4))]),
    ]
    model = program({"x": (F, (None, 4))}, ops, ["y"])
    block = next(iter(model.mlProgram.functions["main"].block_specializations.values()))
    four = block.operations.add(type="const")
    four.outputs.add(name="four")
    set_value(four.attributes["val"], [4])
    block.operations.insert(0, block.operations.pop())
    dag = td.from_coreml(model)
    assert dag.graph.inputs["x"].shape == (3, 4)  # the default of the description
    assert td.from_coreml(model, inputs={"x": (7, 4)}).graph.outputs["y"].shape == (7, 4)
    assert dag.resize(b=9).run(np.zeros((9, 4), np.float32)).shape == (9, 4)
    with pytest.raises(td.InputError, match="has the shape"):
        td.from_coreml(model, inputs={"x": (7, 5)})
    with pytest.raises(td.InputError, match="no input z"):
        td.from_coreml(model, inputs={"z": (7, 5)})


def test_a_frozen_batch_is_resized_removed_and_written_again(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    ops = [
        ("conv", {"x": "=x", "weight": weight, "pad_type": "same"}, [("c", F, (1, 4, 8, 8))]),
        ("reshape", {"x": "=c", "shape": [1, 256]}, [("r", F, (1, 256))]),
        ("softmax", {"x": "=r"}, [("y", F, (1, 256))]),
    ]
    dag = td.from_coreml(program({"x": (F, (1, 3, 8, 8))}, ops, ["y"]))
    x = np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype(np.float32)
    each = np.concatenate([dag.run(a[None]) for a in x])
    eight = dag.resize(b=8)
    assert np.allclose(eight.run(x), each, atol=1e-6)
    eight.to_coreml(tmp_path / "eight.mlpackage")
    assert np.allclose(td.from_coreml(tmp_path / "eight.mlpackage").run(x), each, atol=1e-6)
    one = dag.unbatch("b")
    assert np.allclose(one.run(x[0]), each[0], atol=1e-6)
    one.to_coreml(tmp_path / "one.mlpackage")
    assert np.allclose(td.from_coreml(tmp_path / "one.mlpackage").run(x[0]), each[0], atol=1e-6)


def test_all_that_cannot_be_imported_is_named_at_once() -> None:
    ops = [
        ("non_zero", {"x": "=x"}, [("a", "int32", (None, 1))]),
        ("hologram", {"x": "=x"}, [("b", F, (2,))]),
        ("relu", {"x": "=b", "speed": np.int32(3)}, [("c", F, (2,))]),
        ("relu", {"x": "=x", "speed": np.int32(3)}, [("d", F, (2,))]),
    ]
    with pytest.raises(td.UnsupportedError) as e:
        td.from_coreml(program({"x": (F, (2,))}, ops, ["a", "c", "d"]))
    told = str(e.value)
    assert "depends on data" in told
    assert "hologram: there is no rule for it (at b)" in told
    assert "its input speed isn't known to its rule" in told
    assert told.startswith("3 ops of 3 ops can't be imported")
    kept = td.from_coreml(program({"x": (F, (2,))}, ops[1:2], ["b"]), external=True)
    assert [v.op.name for v in kept.values] == ["input", "external"]
    assert (
        kept.to_coreml().mlProgram.functions["main"].block_specializations["CoreML6"].operations[0].type == "hologram"
    )
    assert td.from_coreml(program({"x": (F, (2,))}, [*ops[:2], ("relu", {"x": "=x"}, [("y", F, (2,))])], ["y"]))


def test_every_op_of_mil_has_a_rule_or_a_reason() -> None:
    """By the names of the classes in coremltools' definitions, which aren't imported for it."""
    import ast
    import importlib.util

    from tdagger.frameworks.coreml.compressed import COMPRESSED
    from tdagger.frameworks.coreml.flow import OWN
    from tdagger.frameworks.coreml.ops import RULES
    from tdagger.frameworks.coreml.ops.table import REASONS

    found = importlib.util.find_spec("coremltools")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(next(iter(found.submodule_search_locations))) / "converters/mil/mil/ops/defs"
    names = {
        node.name
        for file in folder.glob("iOS*/*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and any("register_op" in ast.unparse(d) for d in node.decorator_list)
    }
    assert len(names) > 140
    assert not {n for n in names if n not in {*RULES, *REASONS, *COMPRESSED, *OWN, "const"} and n[0] != "_"}


def test_coremltools_itself_is_not_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys, tdagger as td; m = td.network(lambda x: td.exp(x), {'x': (2,)}).to_coreml(); td.from_coreml(m); "
        "assert 'coremltools' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- malformed files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "a.mlpackage"
    _small().to_coreml(path)
    return path


def _small() -> td.TensorDAG:
    x, w, b = td.input("x", (2, 30)), td.parameter("w", (4, 30)), td.parameter("b", (4,))
    graph = td.Graph({"x": x}, {"y": td.softmax(td.linear(x, w, b), axis=1)})
    return td.TensorDAG.of_graph(graph, {"w": np.ones((4, 30), np.float32), "b": np.ones(4, np.float32)})


def tried(path: Path) -> str:
    """What becomes of a file: it is read and runs, or one typed error."""
    try:
        dag = td.from_coreml(path)
        if sum(v.type.size for v in dag.values if isinstance(v.type, td.TensorType)) < 1 << 20:
            dag.run(*[np.zeros(v.shape, v.dtype.numpy) for v in dag.graph.inputs.values()])
    except td.TDaggerError as e:
        return type(e).__name__
    return "read"


@pytest.mark.parametrize(
    ("cuts", "flips"), [(60, 60), pytest.param(10**6, 1700, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_cut_and_changed_files_are_one_typed_error(package: Path, tmp_path: Path, cuts: int, flips: int) -> None:
    model = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
    draw = np.random.default_rng(0)
    for file in (model, model.parent / "weights" / "weight.bin", Path("Manifest.json")):
        copy = tmp_path / "copy.mlpackage"
        shutil.copytree(package, copy)
        data = (package / file).read_bytes()
        step = max(len(data) // cuts, 1)
        outcomes: list[str] = []
        for cut in range(0, len(data), step):
            (copy / file).write_bytes(data[:cut])
            outcomes.append(tried(copy))
        assert outcomes.count("read") < len(outcomes) / 2
        for _ in range(flips):
            changed = bytearray(data)
            for at in draw.integers(0, len(data), draw.integers(1, 4)):
                changed[at] ^= 1 << int(draw.integers(8))
            (copy / file).write_bytes(changed)
            tried(copy)
        shutil.rmtree(copy)


def test_paths_do_not_lead_out_of_a_package(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(package, copy)
    manifest = (copy / "Manifest.json").read_text()
    (copy / "Manifest.json").write_text(manifest.replace("com.apple.CoreML/model.mlmodel", "../../elsewhere"))
    with pytest.raises(td.SourceError, match="leads out of it"):
        td.from_coreml(copy)
    (copy / "Manifest.json").write_text(manifest)
    file = copy / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model = proto.model()
    model.ParseFromString(file.read_bytes())
    for op in model.mlProgram.functions["main"].block_specializations["CoreML6"].operations:
        if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue":
            op.attributes["val"].blobFileValue.fileName = "@model_path/../../../../etc/passwd"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(td.SourceError, match="leads out of it"):
        td.from_coreml(copy).run(np.zeros((2, 30), np.float32))


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(td.SourceError, match=r"without a Manifest\.json"):
        td.from_coreml(tmp_path)
    (tmp_path / "a.mlmodel").write_bytes(b"")
    with pytest.raises(td.SourceError, match="name no kind of model"):
        td.from_coreml(tmp_path / "a.mlmodel")
    with pytest.raises(td.SourceError, match="can't be read"):
        td.from_coreml(tmp_path / "b.mlmodel")
    with pytest.raises(td.SourceError, match="takes a path"):
        td.from_coreml(3)
