"""Files of strangers: whatever is wrong with them is a FileError with the place, at once and in little memory."""

from __future__ import annotations

import copy
import json
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from conformance.fuzz_file import mutated, one
from tdagger.errors import FileError
from tdagger.file.write import canonical
from tdagger.tensordag import TensorDAG

Document = dict[str, Any]

#: What `make fuzz-file` found worth keeping, and began with.
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.name)
def test_what_the_fuzzer_found(path: Path) -> None:
    """Files and documents load or are refused, and what loads comes back."""
    start = time.process_time()
    one(path.read_bytes())
    assert time.process_time() - start < 5


@pytest.mark.parametrize("seed", range(40))
def test_mutations(seed: int) -> None:
    """A few of what the fuzzer makes, without its coverage."""
    for path in CORPUS:
        changed = mutated(path.read_bytes(), seed)
        if changed is not None:
            one(changed)


def header_of(data: bytes) -> tuple[Document, bytes]:
    """The header of a file and its data."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def file_of(header: Any, data: bytes = b"") -> bytes:
    """A file of a header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file with weights, a large constant, a composite, a pad and attributes."""
    path = tmp_path_factory.mktemp("files") / "m.tdag"
    x = td.input("x", (2, 3))
    y = td.softmax(td.linear(x, td.parameter("w", (4, 3)), td.parameter("b", (4,))), axis=1)
    y = td.pad(y * td.const(np.arange(40, dtype="f").reshape(2, 20)[:, :4].copy()), [(0, 0, 0), (1, 2, 0)], 0.5)
    y = td.concat([y, td.const(np.arange(80, dtype="f").reshape(2, 40))], 1)
    graph = td.Graph({"x": x}, {"y": td.permute(y, (1, 0))})
    TensorDAG.of_graph(graph, {"w": np.ones((4, 3), "f"), "b": np.zeros(4, "f")}).save(path)
    return path.read_bytes()


def refused(data: bytes, tmp_path: Path, seconds: float = 3, memory: int = 50 * 2**20) -> str:
    """What the file is refused with; in time and memory."""
    path = tmp_path / "bad.tdag"
    path.write_bytes(data)
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(FileError) as caught:
            td.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds
    assert peak < memory + 20 * len(data)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def edited(data: bytes, change: Callable[[Document], Any]) -> bytes:
    """The file with its document changed."""
    header, rest = header_of(data)
    document = json.loads(header["__metadata__"]["tdag"])
    found = change(document)
    header["__metadata__"]["tdag"] = found if isinstance(found, str) else canonical(document)
    return file_of(header, rest)


def moved(data: bytes, change: Callable[[Document], Any]) -> bytes:
    """The file with its safetensors header changed."""
    header, rest = header_of(data)
    change(header)
    return file_of(header, rest)


def test_the_file_itself_loads(small: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tdag").write_bytes(edited(small, lambda d: None))
    assert td.load(tmp_path / "m.tdag").run(np.ones((2, 3), "f")).shape == (47, 2)


def cut_anywhere(data: bytes, path: Path) -> None:
    """Each file that ends too early is refused, by one error that names it."""
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(FileError, match=re.escape(str(path))):
            td.load(path)


def test_every_truncation(small: bytes, tmp_path: Path) -> None:
    cut_anywhere(small, tmp_path / "m.tdag")


def test_every_truncation_of_a_program(tmp_path: Path) -> None:
    @td.program({"x": (), "n": td.TensorType((), "i64")})
    def power(x: Any, n: Any) -> Any:
        return td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, y * x), (0, 1.0))[1]

    path = tmp_path / "p.tdag"
    power.save(path)
    cut_anywhere(path.read_bytes(), path)


def test_every_truncation_of_weights_in_files_of_their_own(tmp_path: Path) -> None:
    """The network's file, its index, and each file of tensors."""
    w, b = (np.ones(s, "f") for s in ((4, 3), (4,)))
    x = td.input("x", (2, 3))
    y = td.linear(x, td.parameter("w", (4, 3)), td.parameter("b", (4,)))
    td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), {"w": w, "b": b}).save(tmp_path / "m.tdag", shard=1)
    files = sorted(p for p in tmp_path.iterdir() if p.is_file())
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()
        needed = path.suffix != ".json"  # the index is for other tools
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            if needed:
                with pytest.raises(FileError):
                    td.load(tmp_path / "m.tdag")
        path.write_bytes(whole)
    assert td.load(tmp_path / "m.tdag").run(np.ones((2, 3), "f")).tolist() == [[4.0] * 4] * 2


def test_bytes_changed_anywhere(small: bytes, tmp_path: Path) -> None:
    """Another network or weight, or one error: nothing else, and never a hang."""
    path = tmp_path / "m.tdag"
    rng = np.random.default_rng(0)
    (length,) = struct.unpack("<Q", small[:8])
    refusals = 0
    for _ in range(1500):
        data = bytearray(small)
        for place in rng.integers(0, 8 + length, rng.integers(1, 4)):
            data[place] = rng.integers(0, 256) if rng.integers(2) else ord(rng.choice(list('0123456789-[]{},"')))
        path.write_bytes(bytes(data))
        try:
            td.load(path)
        except FileError:
            refusals += 1
    assert refusals > 1000


_RAW: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "at byte 0: the file has 0 bytes, and its header's length alone takes 8"),
    "length 0": (lambda d: struct.pack("<Q", 0) + d[8:], "at byte 0: a header of 0 bytes; it has 2 to"),
    "beyond": (lambda d: struct.pack("<Q", len(d)) + d[8:], "at byte 0: a header of .* bytes, and the file has"),
    "2^63": (lambda d: struct.pack("<Q", 2**63) + d[8:], "at byte 0: a header of 9223372036854775808 bytes"),
    "no JSON": (lambda d: file_of(b"{]"), "the header: is no JSON at character 1"),
    "a list": (lambda d: file_of([]), "at byte 8: the header must be an object"),
    "UTF-8": (lambda d: file_of(b'{"\xff":1}'), "the header: is not UTF-8 at byte 2"),
    "UTF-16": (lambda d: file_of('{"a":1}'.encode("utf-16")), "the header: is not UTF-8"),
    "deep": (lambda d: file_of(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "the header: is nested too deep"),
    "twice": (lambda d: file_of(b'{"a":1,"a":2}'), "the key 'a' is there twice"),
    "metadata": (lambda d: file_of({"__metadata__": {"tdag": 1}}), "__metadata__: must be strings by name"),
    "no network": (lambda d: file_of({}), "__metadata__: has no 'tdag': these are weights without a network"),
    "trailing": (lambda d: d + b"\0", "the data has .* bytes, and its tensors end at"),
    "digits": (lambda d: file_of(b'{"a":' + b"9" * 5000 + b"}"), "the header: Exceeds the limit"),
    "NaN": (lambda d: file_of(b'{"a":NaN}'), "NaN is no JSON"),
}


@pytest.mark.parametrize("name", _RAW)
def test_raw(name: str, small: bytes, tmp_path: Path) -> None:
    change, why = _RAW[name]
    import re

    assert re.search(why, refused(change(small), tmp_path))


def _offsets(name: str, start: int, stop: int) -> Callable[[Document], Any]:
    return lambda h: h[name].update(data_offsets=[start, stop])


_HEADERS: dict[str, tuple[Callable[[Document], Any], str]] = {
    "overlapping": (_offsets("w", 0, 48), r"tensor 'w': begins at byte 0 of the data|'b'|'constant"),
    "reversed": (_offsets("w", 48, 0), r"tensor 'w': F32\[4, 3\] takes 48 bytes, it has 48 to 0"),
    "negative": (_offsets("w", -48, 0), "tensor 'w': data_offsets are two numbers of bytes"),
    "huge": (_offsets("w", 2**62, 2**62 + 48), "'w'"),
    "gap": (lambda h: h.pop("b"), "begins at byte .* of the data, the one before ends at|'b'|tensors end"),
    "overflow": (lambda h: h["w"].update(shape=[2**32, 2**32, 2**32]), "takes 316912650057057350374175801344 bytes"),
    "negative size": (lambda h: h["w"].update(shape=[-4, -3]), "tensor 'w': a shape is a list of sizes"),
    "bool size": (lambda h: h["w"].update(shape=[True, 12]), "tensor 'w': a shape is a list of sizes"),
    "dtype": (lambda h: h["w"].update(dtype="F31"), "no element type is called 'F31'"),
    "dtype lies": (lambda h: h["w"].update(dtype="I32"), r"'w' is I32\[4, 3\], not F32\[4, 3\]"),
    "shape lies": (lambda h: h["w"].update(shape=[3, 4]), r"'w' is F32\[3, 4\], not F32\[4, 3\]"),
    "unknown key": (lambda h: h["w"].update(more=1), "must have dtype, shape and data_offsets, and nothing else"),
    "a number": (lambda h: h.update(w=3), "tensor 'w': must have dtype"),
    "other name": (lambda h: h.update(v=h.pop("w")), "missing are w; too much are v"),
    "more": (lambda h: h.update(v={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "too much are v"),
}  # fmt: skip


@pytest.mark.parametrize("name", _HEADERS)
def test_headers(name: str, small: bytes, tmp_path: Path) -> None:
    import re

    change, why = _HEADERS[name]
    assert re.search(why, refused(moved(small, change), tmp_path))


def test_misaligned(small: bytes, tmp_path: Path) -> None:
    header, data = header_of(small)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (1 - len(text) % 4)
    bad = struct.pack("<Q", len(text)) + text + data
    assert "which isn't aligned" in refused(bad, tmp_path)


def put(*path: Any, to: Any) -> Callable[[Document], None]:
    """A change of the document at a place."""

    def change(document: Document) -> None:
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to

    return change


def _op(document: Document, name: str) -> int:
    return next(i for i, row in enumerate(document["ops"]) if row[0] == name)


def of(name: str, **attributes: Any) -> Callable[[Document], None]:
    """Other attributes of an op."""
    return lambda d: d["ops"][_op(d, name)][1].update(attributes)


def bomb(op: str, attributes: Document, argument: list[Any], result: list[Any]) -> Callable[[Document], None]:
    """A document of one op on an input."""

    def change(d: Document) -> None:
        types = [argument] if argument == result else [argument, result]
        d.update(
            strings=["x", "y"], paths=[[0, 0, 1, 0, 2, 0]], types=types,
            ops=[["input"], [op, attributes]], calls=[[0, 0], [1, len(types) - 1, 0]], constants=[],
            trees=[["leaf"], ["tuple", [0], None, ""], ["dict", [], [], ""], ["tuple", [1, 2], None, ""]],
            graphs=[{
                "name": "g", "inputs": [[1]], "nodes": [[0, 1, -1]], "size": 2, "outputs": [[2, 1]], "updates": [[]],
            }],
        )  # fmt: skip
        d["networks"][0].update(graph=0, inputs=3, outputs=0, weights=[[]], origins=[[0, 0, 0, 0]], origin_kinds=[])

    return change


_DOCUMENTS: dict[str, tuple[Callable[[Document], Any], str]] = {
    "no JSON": (lambda d: "[", r"__metadata__\.tdag: is no JSON at character 1"),
    "deep": (lambda d: "[" * 10**5 + "]" * 10**5, r"__metadata__\.tdag: is nested too deep"),
    "twice": (lambda d: canonical(d)[:-1] + ',"version":1}', "the key 'version' is there twice"),
    "format": (put("format", to="other"), "format: this is no document of tdagger"),
    "newer": (put("version", to=4), "version: the file has schema version 4, this tdagger reads up to 3"),
    "of rows": (put("version", to=3), r"networks\[0\]: lacks rows"),
    "not of rows": (
        lambda d: (put("version", to=3)(d), d["networks"][0].update(rows=1)),
        r"rows: is true, or the file",
    ),
    "version": (put("version", to=True), "version: the file has schema version True"),
    "unknown key": (put("code", to="x"), "the document: has unknown keys code"),
    "missing key": (lambda d: d.pop("types"), "the document: lacks types"),
    "unknown op": (lambda d: d["ops"].__setitem__(_op(d, "softmax"), ["os.system", {}]), "no op is called 'os.system'"),
    "bidi op": (
        lambda d: d["ops"].__setitem__(_op(d, "pad"), ["\u202e\x1b[31m", {}]),
        "no op is called",
    ),
    "attribute": (of("softmax", more=1), "has unknown keys more"),
    "attribute's type": (of("softmax", axis="1"), r"softmax|calls\["),
    "axis": (of("softmax", axis=7), "softmax"),
    "NaN": (of("softmax", axis={"float": "nan"}), r"calls\[|ops\["),
    "no such float": (of("pad", value={"float": "1e5"}), r"ops\[\d\]\.value: '1e5' is no float"),
    "infinite": (lambda d: canonical(d).replace('"value":0.5', '"value":1e999'), r"value: a number that isn't finite"),
    "unknown object": (of("pad", value={"code": "x"}), "nothing is written as 'code'"),
    "400 digits": (of("permute", order=[int("9" * 400), 0]), "must be an integer"),
    "duplicate entries": (of("permute", order=[0, 0]), "permute"),
    "negative width": (of("pad", widths=[None, [-9, -9, 0]]), "pad"),
    "deep attribute": (of("permute", order=json.loads("[" * 100 + "]" * 100)), "is nested more than 64 deep"),
    "graph of itself": (of("permute", order={"graph": 0}), r"ops\[\d\]\.order: must be an integer from 0 to -1"),
    "rank": (put("types", 0, to=["f32", *[1] * 10_000]), r"types\[0\]: rank 10000, more than 64"),
    "negative size": (put("types", 0, to=["f32", -2, 3]), r"types\[0\]: a shape is a list of sizes"),
    "2^62": (put("types", 0, to=["f32", 2**62, 2**62]), r"types\[0\]: f32"),
    "dtype": (put("types", 0, to=["f33", 2]), r"types\[0\]: no element type is called 'f33'"),
    "type lies": (
        lambda d: d["calls"][-1].__setitem__(1, 0),
        r"calls\[\d+\]: permute gives f32\[47 2\], the file says",
    ),
    "dangling call": (lambda d: d["calls"][-1].__setitem__(0, 99), r"calls\[\d+\]: must be an integer from 0"),
    "a long name": (lambda d: d["strings"].append("a" * 10**6), r"strings\[\d\]: a name of 1000000 characters"),
    "string twice": (lambda d: d["strings"].append(d["strings"][0]), "strings: one is there twice"),
    "forward": (put("graphs", 0, "nodes", to=[[0, 1, 50]]), "graphs"),
    "self": (put("graphs", 0, "nodes", to=[[0, 7, 1]]), "graphs"),
    "float": (put("graphs", 0, "nodes", to=[[0.5]]), r"graphs\[0\]\.nodes\[0\]: must be a list of integers"),
    "no stream": (put("graphs", 0, "nodes", to=[[0], 1]), r"graphs\[0\]\.nodes: must be a stream"),
    "repeats": (put("graphs", 0, "nodes", to=[[0], 1, 10**12, []]), "a repeat is taken 1 to 7 times"),
    "bomb": (put("graphs", 0, "nodes", to=[[0] * 99, 99, 7] * 4000 + [[]]), r"graphs\[0\]\.nodes: "),
    "back": (put("graphs", 0, "nodes", to=[[0], 5, 1, []]), "can't repeat 5 numbers"),
    "dead": (lambda d: d["graphs"][0]["nodes"][-1].extend([1, 1]), r"graphs\[0\]\.nodes|graphs\[0\]"),
    "outputs": (put("graphs", 0, "outputs", to=[[1, 999]]), r"graphs\[0\]\.outputs: must be an integer"),
    "structure": (put("networks", 0, "inputs", to=99), "there is no structure 99"),
    "leaves": (
        lambda d: (d["trees"].append(["tuple", [], None, ""]), d["networks"][0].update(inputs=len(d["trees"]) - 1)),
        r"networks\[0\]\.inputs: has 0 tensors, the graph 1",
    ),
    "networks": (lambda d: d["networks"].append(d["networks"][0]), "there is one, not 2"),
    "flags": (put("networks", 0, "weights", to=[[1, 0, 99, 0]]), r"networks\[0\]\.weights: row 0"),
    "tied to itself": (put("networks", 0, "weights", to=[[1, 0, 8, 1]]), "is tied to one that is tied itself"),
    "origins": (put("networks", 0, "origins", to=[[]]), r"networks\[0\]\.origins: has 0 numbers for"),
    "shared paths": (
        lambda d: d.update(trees=[["leaf"]] + [["tuple", [i, i], None, ""] for i in range(60)]),
        r"trees\[\d+\]: \d+ structures, nested \d+ deep, are more than a call has",
    ),
    "repeat of petabytes": (bomb("repeat", {"sizes": [2**52]}, ["f32", 1], ["f32", 2**52 + 1]), r"calls\[1\]"),
    "pad of petabytes": (
        bomb("pad", {"widths": [[2**52, 2**52, 0]], "value": 0}, ["f32", 1], ["f32", 3]),
        r"calls\[1\]",
    ),
    "stride 0": (
        bomb("unfold", {"axis": 0, "kernel": 1, "stride": 0, "dilation": 1}, ["f32", 4], ["f32", 4]),
        r"(ops|calls)\[1\]",
    ),
    "negative kernel": (
        bomb("unfold", {"axis": 0, "kernel": -1, "stride": 1, "dilation": 1}, ["f32", 4], ["f32", 4]),
        r"(ops|calls)\[1\]",
    ),
    "ungroup": (bomb("ungroup", {"sizes": [[5, 2]]}, ["f32", 9], ["f32", 5, 2]), r"calls\[1\]"),
    "iota": (bomb("iota", {"size": 2**60, "dtype": {"dtype": "f32"}}, ["f32", 9], ["f32", 9]), r"(ops|calls)\[1\]"),
    "block of itself": (
        bomb("block", {"title": "t", "graph": {"graph": 0}, "given": []}, ["f32", 9], ["f32", 9]),
        r"ops\[1\]\.graph: must be an integer from 0 to -1",
    ),
    "a size of a composite that is no integer": (
        bomb("adaptive_avg_pool", {"size": [1.0, 3], "given": [True]}, ["f32", 1, 4, 4], ["f32", 1, 1, 3]),
        r"ops\[1\]\.size: \(1\.0, 3\) isn't what adaptive_avg_pool takes",
    ),
    "a number for what is true": (
        bomb("relu", {"given": [1]}, ["f32", 4], ["f32", 4]),
        r"ops\[1\]\.given: \(1,\) isn't what relu takes",
    ),
    "pool of the world": (
        bomb(
            "adaptive_avg_pool",
            {"size": [2**40, 3], "given": [True]},
            ["f32", 1, 1, 2**40, 4],
            ["f32", 1, 1, 2**40, 3],
        ),
        r"calls\[1\]: adaptive_avg_pool of \d+ entries, more than",
    ),
}


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_documents(name: str, small: bytes, tmp_path: Path) -> None:
    import re

    change, why = _DOCUMENTS[name]
    message = refused(edited(small, change), tmp_path)
    assert re.search(why, message), message
    assert message.isprintable()
    assert len(message) < 2000


def test_what_is_only_described_is_not_allocated(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.tdag"
    header, _ = header_of(edited(small, bomb("repeat", {"sizes": [2**40]}, ["f32", 1], ["f32", 2**40])))
    path.write_bytes(file_of({"__metadata__": header["__metadata__"]}))
    tracemalloc.start()
    found = td.load(path)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()
    assert found.graph.outputs["y"].type.bytes == 4 * 2**40


def test_a_chain_of_two_to_the_power_is_linear(tmp_path: Path) -> None:
    """Every value is used twice: paths through it are many, values few."""
    x = value = td.input("x", (2,))
    for _ in range(5000):
        value = td.add(value, value)
    dag = TensorDAG.of_graph(td.Graph({"x": x}, {"y": value}))
    dag.save(tmp_path / "m.tdag")
    start = time.process_time()
    assert td.load(tmp_path / "m.tdag").graph.outputs["y"] is value
    assert time.process_time() - start < 3


def test_graphs_in_graphs_are_read_once_each(tmp_path: Path) -> None:
    x = td.input("x", (2,))
    graph = td.Graph({"x": x}, {"y": td.exp(x)})
    for _ in range(40):
        twice = td.block(td.block(x, title="b", graph=graph), title="b", graph=graph)
        graph = td.Graph({"x": x}, {"y": twice})
    TensorDAG.of_graph(graph).save(tmp_path / "m.tdag")
    start = time.process_time()
    assert td.load(tmp_path / "m.tdag").graph == graph
    assert time.process_time() - start < 3


def test_indices_out_of_bounds_are_found_when_it_runs(tmp_path: Path) -> None:
    x, i = td.input("x", (3, 2)), td.input("i", (4,), "i64")
    TensorDAG.of_graph(td.Graph({"x": x, "i": i}, {"y": td.gather(x, i, 0)})).save(tmp_path / "m.tdag")
    found = td.load(tmp_path / "m.tdag")
    for bad in (3, 2**40, -4):
        with pytest.raises((IndexError, td.TDaggerError)):
            found.run(np.zeros((3, 2), "f"), np.array([0, 1, 2, bad]))


def test_a_document_is_left_as_it_was(small: bytes) -> None:
    header, _ = header_of(small)
    document = json.loads(header["__metadata__"]["tdag"])
    assert canonical(copy.deepcopy(document)) == header["__metadata__"]["tdag"]


def test_steps_that_would_be_written_out(tmp_path: Path) -> None:
    x, h = td.input("x", (5, 1, 2)), td.input("h", (1, 1, 2))
    weights = [td.input(f"w{i}", (8, 2)) for i in range(2)]
    c = td.input("c", (1, 1, 2))
    out = td.lstm(x, h, c, *weights, layers=1, bidirectional=False, batch_first=False, biases=False)
    inputs = {v.op.leaf: v for v in (x, h, c, *weights)}
    TensorDAG.of_graph(td.Graph(inputs, {str(i): v for i, v in enumerate(out)})).save(tmp_path / "m.tdag")

    def longer(d: Document) -> None:
        d["types"] = [[2**30 if n == 5 else n for n in t] for t in d["types"]]

    message = refused(edited((tmp_path / "m.tdag").read_bytes(), longer), tmp_path)
    assert "lstm of 1073741824 steps, more than 16384" in message


def test_a_program_whose_end_no_way_leads_to(tmp_path: Path) -> None:
    kept = (Path(__file__).parent / "kept" / "version2.tdag").read_bytes()
    (size,) = struct.unpack("<Q", kept[:8])
    header = json.loads(kept[8 : 8 + size])
    document = json.loads(header["__metadata__"]["tdag"])
    document["program"]["blocks"][1][4] = 2  # the loop never leaves, and an output's length is set where it would
    header["__metadata__"]["tdag"] = json.dumps(document)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "m.tdag").write_bytes(struct.pack("<Q", len(text)) + text + kept[8 + size :])
    with pytest.raises(FileError, match="its length out_4_length isn't assigned where that happens"):
        td.load(tmp_path / "m.tdag")
