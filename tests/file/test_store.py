"""Networks saved and loaded are the same networks, and the same bytes."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
import torch

import tdagger as td
from tdagger.errors import FileError, UnsupportedError
from tdagger.file.limits import Limits
from tdagger.file.rows import Row, expanded, packed
from tdagger.file.write import written
from tdagger.network import Check
from tdagger.tensordag import TensorDAG, Weight
from tests.file.sampled import of_every_op
from tests.graphs import graphs, layouts

#: What two networks must have alike; source lines lose the folders of this machine, so they are compared apart.
PARTS = ("graph", "values", "signature", "state", "modules", "name", "axis_names", "certain_dimensions")


def same(a: TensorDAG, b: TensorDAG) -> None:
    """Two networks are alike in every part."""
    for part in PARTS:
        assert getattr(a, part) == getattr(b, part), part
    assert list(a.state) == list(b.state)
    assert list(a.modules) == list(b.modules)
    for values in ("checks", "left_out"):
        assert list(getattr(a, values)) == list(getattr(b, values))
    mine = {v: o for v, o in a.origins.items() if v in set(a.values)}
    assert {v: o._replace(source="") for v, o in mine.items()} == {
        v: o._replace(source="") for v, o in b.origins.items()
    }


def reloaded(dag: TensorDAG, path: Path, **options: Any) -> TensorDAG:
    """The network saved and loaded, after that loaded one saves to the same bytes."""
    dag.save(path, **options)
    found = td.load(path)
    found.save(path.with_suffix(".again"), **options)
    assert path.with_suffix(".again").read_bytes() == path.read_bytes()
    assert found.hash() == dag.hash()
    return found


def document(path: Path) -> Any:
    """The JSON in a file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tdag"])


class Net(torch.nn.Module):
    """Tied, frozen and non-persistent state, a buffer that changes, and a name that is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 4)
        self.b = torch.nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.b.bias.requires_grad_(False)
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.register_buffer("count", torch.tensor(0, dtype=torch.int64))
        self.register_parameter("unused", torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)))
        self.add_module("odd name\n\u202e", torch.nn.Linear(4, 4))

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> dict[str, Any]:
        self.count += 1
        y = self.norm(self.b(self.a(x))) * self.scale
        return {"y": self._modules["odd name\n\u202e"](y) * mask, "more": (y, [1, None, "text", 2.5])}


@pytest.fixture
def dag() -> TensorDAG:
    found = td.from_torch(Net().train(), torch.ones(3, 4), {"mask": torch.ones(3, 4)}, axes={"x": "batch c"})
    value = found.graph.outputs[next(iter(found.graph.outputs))]
    check = td.less(td.reduce(value, "sum"), 1e9)
    return replace(
        found, checks=(Check(td.reshape(check, shape=()), "ValueError: large", "net.py:3"), Check(None, "b"))
    )


def test_every_part_comes_back(dag: TensorDAG, tmp_path: Path) -> None:
    found = reloaded(dag, tmp_path / "m.tdag")
    same(dag, found)
    assert found.state["b.weight"] == Weight(dag.state["a.weight"].type, True, alias_of="a.weight")
    assert not found.state["b.bias"].trainable
    assert not found.state["scale"].persistent
    assert found.weights["b.weight"] is found.weights["a.weight"]
    assert found.graph.updates
    assert found.axis_names == {"x": "batch c"}
    for name in dag.state:
        assert found.weights[name].tobytes() == dag.weights[name].tobytes()
        assert found.weights[name].dtype == dag.weights[name].dtype
    x, mask = torch.rand(3, 4), torch.rand(3, 4)
    ours, theirs = (d.to_torch()(x, mask=mask) for d in (found, dag))
    assert torch.equal(ours["y"], theirs["y"])
    assert torch.equal(ours["more"][0], theirs["more"][0])
    arrays = found.run(x.numpy(), mask=mask.numpy())
    assert arrays["more"][1] == [1, None, "text", 2.5]
    assert arrays["y"].tobytes() == dag.run(x.numpy(), mask=mask.numpy())["y"].tobytes()


def test_the_sources_of_values_lose_the_folders_of_this_machine(dag: TensorDAG, tmp_path: Path) -> None:
    found = reloaded(dag, tmp_path / "m.tdag")
    sources = {o.source for o in found.origins.values()}
    assert any(s.startswith("torch/nn/modules/linear.py:") for s in sources), sources
    assert any(s.startswith("test_store.py:") for s in sources), sources
    assert not any(s.startswith("/") for s in sources)


def test_every_sample_of_every_op_comes_back() -> None:
    from tdagger.file.container import parsed
    from tdagger.file.store import reduced, restored

    kept = []
    for sample in of_every_op():
        inputs = sample.inputs()
        out = sample.build(*inputs)
        outputs = {f"o{i}": v for i, v in enumerate(out if isinstance(out, tuple) else (out,))}
        graph = td.Graph({v.op.leaf: v for v in inputs}, outputs)
        text, constants, *_ = reduced(TensorDAG.of_graph(graph))
        kept.append((sample.name, text, constants))
    del out, outputs, graph, inputs
    gc.collect()  # so that types are inferred anew
    for name, text, constants in kept:
        found = restored(text, constants, {}, [])
        assert reduced(found)[0] == text, name
        assert parsed(text, name)["version"] == 1


@hypothesis.given(graphs())
def test_random_graphs_come_back(graph: td.Graph) -> None:
    dag = TensorDAG.of_graph(graph)
    found = pickle.loads(pickle.dumps(dag))
    assert found.graph == graph
    assert found.values == graph.values
    assert written(found).text == written(dag).text


@hypothesis.given(layouts())
def test_graphs_that_move_data_come_back(graph: td.Graph) -> None:
    dag = TensorDAG.of_graph(graph)
    found = copy.deepcopy(dag)
    assert found.values == graph.values
    assert written(found).text == written(dag).text


@hypothesis.given(
    hypothesis.strategies.lists(hypothesis.strategies.integers(0, 2), min_size=1, max_size=4),
    hypothesis.strategies.integers(1, 400),
    hypothesis.strategies.integers(0, 3),
)
def test_rows_come_back(body: list[int], times: int, reach: int) -> None:
    rows: list[Row] = [((9,), ())]
    for i in range(times):
        for kind in body:
            n = len(rows)
            refs = (max(n - 1 - reach, 0), 0)[:kind] if kind else ()
            rows.append(((kind, i // 300), refs))
    flat = expanded(packed(rows), 10**6, "rows")
    found: list[Row] = [((flat[0],), ())]
    at = 1
    while at < len(flat):
        kind = flat[at]
        refs = tuple(r if r >= 0 else len(found) + r for r in flat[at + 2 : at + 2 + kind])
        found.append(((kind, flat[at + 1]), refs))
        at += 2 + kind
    assert found == rows


def test_repeated_layers_are_stored_once(tmp_path: Path) -> None:
    def net(depth: int) -> TensorDAG:
        layers = [
            torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.GELU()) for _ in range(depth)
        ]
        return td.from_torch(torch.nn.Sequential(*layers), torch.ones(2, 8))

    sizes = []
    for depth in (20, 120):
        same(dag := net(depth), reloaded(dag, tmp_path / "m.tdag", weights=False))
        sizes.append((tmp_path / "m.tdag").stat().st_size)
    assert sizes[1] - sizes[0] < 3000, sizes  # a hundred layers more


def test_names_of_other_formats_are_refused(dag: TensorDAG, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"m\.onnx: that is the name .*; to_onnx\(\) writes it"):
        dag.save(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_structure_alone(dag: TensorDAG, tmp_path: Path) -> None:
    found = reloaded(dag, tmp_path / "m.tdag", weights=False)
    same(dag, found)
    assert list(found.weights) == []
    assert found.cost().total_flops == dag.cost().total_flops
    data = {n: dag.weights[n] for n, w in dag.state.items() if not w.alias_of and w.type.dtype.name != "bf16"}
    safetensors.numpy.save_file(data, tmp_path / "weights.safetensors")
    with pytest.raises(FileError, match=r"weights\.safetensors: missing are unused$"):
        td.load(tmp_path / "m.tdag", weights=tmp_path / "weights.safetensors")


def test_weights_of_another_file(tmp_path: Path) -> None:
    net = td.layers.linear(4, 3)
    net.save(tmp_path / "m.tdag", weights=False)
    data = {"weight": np.ones((3, 4), "f"), "bias": np.zeros(3, "f")}
    safetensors.numpy.save_file(data, tmp_path / "w.safetensors")
    found = td.load(tmp_path / "m.tdag", weights=tmp_path / "w.safetensors")
    assert found.run(np.ones((1, 4), "f")).tolist() == [[4.0, 4.0, 4.0]]
    safetensors.numpy.save_file({**data, "more": data["bias"]}, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="too much are more"):
        td.load(tmp_path / "m.tdag", weights=tmp_path / "w.safetensors")
    safetensors.numpy.save_file({**data, "bias": np.zeros(4, "f")}, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match=r"'bias' is F32\[4\], not F32\[3\]"):
        td.load(tmp_path / "m.tdag", weights=tmp_path / "w.safetensors")


def test_every_tool_for_safetensors_reads_the_weights(dag: TensorDAG, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    dag.save(tmp_path / "m.tdag")
    found = load_file(tmp_path / "m.tdag")
    assert set(found) == {n for n, w in dag.state.items() if not w.alias_of}
    assert torch.equal(found["a.weight"], dag.weights.tensor("a.weight"))


@pytest.mark.parametrize("dtype", [d.name for d in td.types.DTYPES])
def test_constants_and_weights_of_every_element_type(dtype: str, tmp_path: Path) -> None:
    kind = td.DType.of(dtype).numpy
    rng = np.random.default_rng(0)
    large, small = (np.frombuffer(rng.bytes(n * 16), np.uint8).copy() for n in (50, 1))
    if dtype == "bool":
        large, small = large % 2, small % 2
    large, small = large.view(kind), small.view(kind)
    x = td.input("x", large.shape, dtype)
    graph = td.Graph({"x": x}, {"a": td.const(large), "b": td.const(small), "p": td.parameter("p", (3, 2, 0), dtype)})
    graph = td.Graph(graph.inputs, {**graph.outputs, "q": td.buffer("q", (), dtype)})
    one = TensorDAG.of_graph(graph, {"p": np.zeros((3, 2, 0), kind), "q": small[:1].reshape(())})
    found = reloaded(one, tmp_path / "m.tdag")
    assert found.graph == graph
    assert found.weights["q"].tobytes() == small[:1].tobytes()
    assert found.weights["q"].shape == ()
    assert found.weights["p"].shape == (3, 2, 0)


def test_special_numbers_in_attributes(tmp_path: Path) -> None:
    x = td.input("x", (2,))
    numbers = (float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45)
    outs = {str(i): td.pad(x, [(1, 0, 0)], v) for i, v in enumerate(numbers)}
    found = reloaded(TensorDAG.of_graph(td.Graph({"x": x}, outs)), tmp_path / "m.tdag")
    assert all(found.graph.outputs[k] is v for k, v in outs.items())
    assert len(set(found.graph.outputs.values())) == 6


def test_branches_and_blocks(tmp_path: Path) -> None:
    x, p = td.input("x", (3,)), td.input("p", (), "bool")
    double, root = (td.Graph({"x": x}, {"y": y}, name=n) for n, y in (("double", x + x), ("root", td.exp(td.sqrt(x)))))
    y = td.cond(p, td.block(x, title="twice", graph=double), then=double, otherwise=root)
    dag = TensorDAG.of_graph(td.Graph({"p": p, "x": x}, {"y": y}))
    found = reloaded(dag, tmp_path / "m.tdag")
    same(dag, found)
    assert len(document(tmp_path / "m.tdag")["graphs"]) == 3
    assert found.run(np.array(True), np.ones(3, "f")).tolist() == [4.0, 4.0, 4.0]


def test_numbers_that_follow_sizes(tmp_path: Path) -> None:
    def net(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, : x.shape[1] // 2], x[:, -2:], *x.chunk(2, 1)], 1)

    from tests.networks import Fn

    dag = td.from_torch(Fn(net), torch.ones(2, 8), axes="b n")
    found = reloaded(dag, tmp_path / "m.tdag")
    same(dag, found)
    assert "sized" in json.dumps(document(tmp_path / "m.tdag"))
    assert found.resize(n=12, assume=True).graph == dag.resize(n=12, assume=True).graph


def test_external_ops_keep_constants_of_torch(tmp_path: Path) -> None:
    from tdagger.ops.external import External, Slot
    from tdagger.types import TensorType

    x = td.input("x", (2,))
    arguments = (
        Slot(0),
        torch.float16,
        torch.device("cpu"),
        torch.strided,
        torch.contiguous_format,
        ...,
        b"a",
        1j,
        2**70,
    )
    y = External("torch", "aten.made_up", arguments, (("k", None),), (TensorType((2,), "f16"),))(x)
    found = reloaded(TensorDAG.of_graph(td.Graph({"x": x}, {"y": y})), tmp_path / "m.tdag")
    assert found.graph.outputs["y"] is y
    z = External("torch", "aten.made_up", (Slot(0), object), (), (TensorType((2,), "f16"),))(x)
    with pytest.raises(UnsupportedError, match=r"external.arguments has a builtins.type, which a file can't hold"):
        TensorDAG.of_graph(td.Graph({"x": x}, {"y": z})).save(tmp_path / "m.tdag")


def test_hashes(dag: TensorDAG) -> None:
    assert len(dag.hash()) == 64
    other = dag.with_weights({"count": np.array(5)})
    assert other.hash() == dag.hash()
    assert other.hash(weights=True) != dag.hash(weights=True)
    assert replace(dag, name="b", origins={}, modules={}).hash() == dag.hash()
    assert dag.freeze("a.bias").hash() != dag.hash()


def test_sharded(dag: TensorDAG, tmp_path: Path) -> None:
    path = tmp_path / "m.tdag"
    dag.save(path, shard=100)
    index = json.loads((tmp_path / "m.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert all((tmp_path / f).is_file() for f in files)
    found = td.load(path)
    same(dag, found)
    assert all(found.weights[n].tobytes() == dag.weights[n].tobytes() for n in dag.state)
    other = dag.with_weights({"count": np.array(5)})
    other.save(path, shard=100)
    assert td.load(path).weights["count"] == 5
    assert not any((tmp_path / f).exists() for f in files)  # those of before are gone
    (tmp_path / sorted(p.name for p in tmp_path.glob("m-*"))[0]).unlink()
    with pytest.raises(FileError, match="there is no such file"):
        td.load(path)


_SAVE = """
import sys, numpy as np, tdagger as td, tdagger.file.container as c
dag = td.layers.linear(4, 3).initialise(how="ones")
import os
replace = os.replace
os.replace = lambda *a: (print("written", flush=True), sys.stdin.read(), replace(*a))
dag.save(sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.tdag"
    td.layers.linear(4, 3).save(path)
    before = path.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", _SAVE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == before


def test_a_failed_save_leaves_nothing(dag: TensorDAG, tmp_path: Path) -> None:
    class Broken(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        replace(dag, weights=Broken(dag.weights)).save(tmp_path / "m.tdag")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileError, match="there is no such folder"):
        dag.save(tmp_path / "no" / "m.tdag")
    wrong = replace(dag, weights={**dag.weights, "count": np.zeros(2, "f")})
    with pytest.raises(FileError, match=r"the weight 'count' is f32\[2\], and the network takes i64\[\]"):
        wrong.save(tmp_path / "m.tdag")


def test_writing_to_a_loaded_weight_leaves_the_file(tmp_path: Path) -> None:
    td.layers.linear(4, 3).initialise(how="ones").save(tmp_path / "m.tdag")
    before = (tmp_path / "m.tdag").read_bytes()
    found = td.load(tmp_path / "m.tdag")
    module = found.to_torch()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3)
    assert (tmp_path / "m.tdag").read_bytes() == before
    assert float(td.load(tmp_path / "m.tdag").weights["bias"].sum()) == 3


def test_pickles_of_loaded_networks_need_no_file(tmp_path: Path) -> None:
    td.layers.linear(4, 3).initialise(how="ones").save(tmp_path / "m.tdag")
    data = pickle.dumps(td.load(tmp_path / "m.tdag"))
    (tmp_path / "m.tdag").unlink()
    found = pickle.loads(data)
    assert found.run(np.ones((1, 4), "f")).tolist() == [[5.0, 5.0, 5.0]]


def test_a_class_of_a_file_is_neither_imported_nor_called(tmp_path: Path) -> None:
    from tdagger.tree import Tree

    net = td.network(lambda x: td.exp(x), {"x": (2,)})
    leaf = Tree("leaf")
    for kind, name in (("dataclass", "subprocess:Popen"), ("dict", "os:system"), ("namedtuple", "no.such:Thing")):
        outputs = Tree(kind, ("args",), (leaf,), name)
        bad = replace(net, signature=replace(net.signature, outputs=outputs))
        found = reloaded(bad, tmp_path / "m.tdag")
        assert found.signature == bad.signature
        for loaded in (found, pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
            result = loaded.run(np.zeros(2, "f"))
            assert type(result).__module__ in ("builtins", "types", "tdagger.file.trees"), type(result)
            args = result["args"] if kind == "dict" else result.args
            assert args.tolist() == [1.0, 1.0]


class Pair(dict[str, Any]):
    """A class of a result."""


def test_classes_that_the_reader_names_are_used(tmp_path: Path) -> None:
    from tests.networks import Fn

    dag = td.from_torch(Fn(lambda x: Pair(a=x + 1)), torch.ones(2))
    dag.save(tmp_path / "m.tdag")
    assert type(td.load(tmp_path / "m.tdag").run(np.zeros(2, "f"))) is dict
    assert type(td.load(tmp_path / "m.tdag", classes=[Pair]).run(np.zeros(2, "f"))) is Pair


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib, tdagger as td\n"
        "dag = td.layers.linear(4, 3) >> td.layers.linear(3, 5).rename({'': 'head'})\n"
        "dag.initialise(how=0.5).save(sys.argv[1])"
    )
    hashes = set()
    for seed in ("0", "1", "2"):
        path = tmp_path / f"{seed}.tdag"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


def chain(length: int) -> TensorDAG:
    """A chain of ops."""
    x = value = td.input("x", (3,))
    with td.bulk():
        for i in range(length):
            value = td.exp(value) if i % 3 else td.sin(value)
    return TensorDAG.of_graph(td.Graph({"x": x}, {"y": value}))


def test_a_long_chain_is_linear(tmp_path: Path) -> None:
    took = []
    for length in (20_000, 80_000):
        dag = chain(length)
        start = time.process_time()
        dag.save(tmp_path / "m.tdag")
        found = td.load(tmp_path / "m.tdag")
        took.append(time.process_time() - start)
        assert found.values == dag.values
        del dag, found
    assert took[1] < 10 * took[0], took


class Lines:
    """Counts the lines of Python that run inside, however deep; comprehensions count each turn."""

    def __enter__(self) -> Lines:
        self.count = 0
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: object, event: str, arg: object) -> Any:
        self.count += 1
        return self._trace


def irregular(count: int) -> TensorDAG:
    """Additions to values picked at random, in no order that repeats."""
    picks = np.random.default_rng(0).integers(0, 2**31, count).tolist()
    with td.bulk():
        values = [td.input("x", (3,))]
        for pick in picks:
            values.append(td.add(values[-1], values[pick % len(values)]))
    return TensorDAG.of_graph(td.Graph({"x": values[0]}, {"y": values[-1]}))


@pytest.mark.parametrize("make", [chain, irregular])
def test_ten_times_the_values_are_ten_times_the_steps(make: Callable[[int], TensorDAG], tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    for length in (500, 5_000):
        dag = make(length)
        with Lines() as saved:
            dag.save(tmp_path / "m.tdag")
        del dag
        with Lines() as loaded:
            td.load(tmp_path / "m.tdag")
        steps.append((saved.count, loaded.count))
    (save, load), (more_saved, more_loaded) = steps
    assert more_saved < 11 * save, steps
    assert more_loaded < 11 * load, steps


@pytest.mark.slow
@pytest.mark.parametrize("make", [chain, irregular])
def test_a_million_values(make: Callable[[int], TensorDAG], tmp_path: Path) -> None:
    dag = make(1_000_000)
    dag.save(tmp_path / "m.tdag")
    found = td.load(tmp_path / "m.tdag")
    assert len(found.values) == 1_000_001
    assert found.graph == dag.graph
    assert found.values == dag.values


def test_limits_can_be_raised(tmp_path: Path) -> None:
    chain(2000).save(tmp_path / "m.tdag")
    with pytest.raises(FileError, match=r"graphs\[0\]\.nodes: would be more than the 400 numbers"):
        td.load(tmp_path / "m.tdag", limits=Limits(nodes=100))
    assert len(td.load(tmp_path / "m.tdag").values) == 2001


def test_what_is_loaded_is_gone_with_its_last_reference(dag: TensorDAG, tmp_path: Path) -> None:
    dag.save(tmp_path / "m.tdag")
    gc.collect()
    gc.disable()
    try:
        found = td.load(tmp_path / "m.tdag")
        graph = weakref.ref(found.graph)
        del found
        assert graph() is None  # without a cycle that a collector has to find
    finally:
        gc.enable()
