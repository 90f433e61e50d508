"""docs/format.md is enough to read a file, and files of every version that was released load."""

from __future__ import annotations

import ast
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

import tdagger as td
from tdagger.analysis.axes.doubts import LeftOut
from tdagger.tensordag import TensorDAG
from tests.file import reader

KEPT = Path(__file__).parent / "kept"


def network() -> TensorDAG:
    """A network of core ops: a linear layer by hand, layers repeated, constants inline and as a tensor."""
    x = value = td.input("x", (2, 3))
    table = np.arange(36, dtype="f").reshape(2, 6, 3) / 7
    for i in range(12):
        w, b = td.parameter(f"layers.{i}.w", (3, 3)), td.buffer(f"layers.{i}.b", (3,))
        spread = td.repeat(td.unsqueeze(td.permute(value, (1, 0)), (2,)), (None, None, 3))
        product = td.reduce(spread * td.repeat(td.unsqueeze(w, (1,)), (None, 2, None)), "sum", (0,))
        value = td.sin(td.reshape(product, shape=(2, 3)) + td.broadcast_to(b, (2, 3)) + 0.5)
    mixed = td.reduce(td.const(table) * td.broadcast_to(td.unsqueeze(value, (1,)), (2, 6, 3)), "sum", (2,))
    graph = td.Graph({"x": x}, {"y": value, "z": mixed})
    dag = TensorDAG.of_graph(graph).inline(deep=True)
    data = {n: np.arange(v.type.size, dtype="f").reshape(v.shape) / 10 - 0.3 for n, v in graph.parameters.items()}
    data |= {n: np.arange(v.type.size, dtype="f").reshape(v.shape) / 5 for n, v in graph.buffers.items()}
    return TensorDAG.of_graph(dag.graph, data)


def check(data: bytes, dag: TensorDAG) -> None:
    """The reader's outputs are those of numpy, up to the rounding of f32 in another order of sums."""
    x = np.arange(6, dtype="f").reshape(2, 3) / 6
    found = reader.Network(data).run([x.reshape(-1).tolist()])
    expected = dag.run(x)
    assert list(found) == ["y", "z"]
    for array, name in zip(expected, found, strict=True):
        np.testing.assert_allclose(np.array(found[name], "f").reshape(array.shape), array, rtol=2e-5)


def test_a_reader_of_json_and_struct_runs_a_network(tmp_path: Path) -> None:
    network().save(tmp_path / "m.tdag")
    data = (tmp_path / "m.tdag").read_bytes()
    assert b'"nodes' in data
    check(data, td.load(tmp_path / "m.tdag"))


def test_the_reader_imports_json_and_struct_alone() -> None:
    source = Path(reader.__file__).read_text("utf-8")
    imported = {a.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {"json", "struct", "math", "itertools"}
    assert len(source.splitlines()) < 180


def test_the_kept_program_loads(tmp_path: Path) -> None:
    from tests.program.programs import PROGRAMS

    found, (program, reference, inputs) = td.load(KEPT / "version2.tdag"), PROGRAMS["ctc_greedy"]
    assert str(found) == str(program)
    np.testing.assert_array_equal(found.run(*inputs[0]), reference(*inputs[0]))
    found.save(tmp_path / "p.tdag")
    assert (tmp_path / "p.tdag").read_bytes() == (KEPT / "version2.tdag").read_bytes()


def test_kept_files_load(tmp_path: Path) -> None:
    path = KEPT / "version1.tdag"
    dag = td.load(path)
    assert dag.graph == network().graph
    check(path.read_bytes(), dag)
    dag.save(tmp_path / "m.tdag")
    assert (tmp_path / "m.tdag").read_bytes() == path.read_bytes()  # until a newer version is written


def of_rows() -> TensorDAG:
    """As of a file that another program made at a batch of 1: it slices that, up to its one entry, and reshapes it."""
    dag = td.network(lambda x: td.reshape(td.exp(x), shape=(2, 3)) * 2.0, {"x": (1, 2, 3)})
    (x,) = dag.graph.inputs.values()
    left_out = [LeftOut(x, (0,), "is sliced up to 1, which are all at 1", keeps=True), LeftOut(x, (1,), "is asked")]
    return replace(dag, rows=True, left_out=left_out)


def test_the_kept_network_of_rows_loads(tmp_path: Path) -> None:
    path, dag = KEPT / "version3.tdag", of_rows()
    found = td.load(path)
    assert isinstance(found, TensorDAG)
    assert found.graph == dag.graph
    assert found.rows
    assert found.left_out == dag.left_out
    assert found.hash() == dag.hash() == replace(dag, rows=False).hash()
    found.save(tmp_path / "m.tdag")
    assert (tmp_path / "m.tdag").read_bytes() == path.read_bytes()


def test_every_version_is_kept() -> None:
    from tdagger.file.write import VERSION

    versions = set()
    for path in KEPT.glob("*.tdag"):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        versions.add(json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tdag"])["version"])
    assert versions == set(range(1, VERSION + 1))
