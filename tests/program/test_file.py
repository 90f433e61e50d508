"""Programs in files."""

import copy
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tests.program.programs import PROGRAMS
from tests.program.test_programs import same


@pytest.mark.parametrize("name", PROGRAMS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    program, reference, inputs = PROGRAMS[name]
    program.save(tmp_path / "p.tdag")
    found = td.load(tmp_path / "p.tdag")
    assert isinstance(found, td.Program)
    assert str(found) == str(program)
    assert found.called == program.called
    same(found.run(*inputs[-1]), reference(*inputs[-1]))
    found.save(tmp_path / "again.tdag")
    assert (tmp_path / "again.tdag").read_bytes() == (tmp_path / "p.tdag").read_bytes()


@pytest.mark.parametrize("name", PROGRAMS)
def test_pickles_and_copies(name: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    for found in (pickle.loads(pickle.dumps(program)), copy.deepcopy(program)):
        assert found.hash(weights=True) == program.hash(weights=True)
        assert found.called == program.called
        same(found.run(*inputs[-1]), reference(*inputs[-1]))


def test_hashes() -> None:
    hashes = {n: (p.hash(), p.hash(weights=True)) for n, (p, _, _) in PROGRAMS.items()}
    assert len({h for h, _ in hashes.values()}) == len({h for _, h in hashes.values()}) == len(PROGRAMS)
    program = PROGRAMS["recurrent_network"][0]
    other = program.with_parts(weights={n: program.weights[n] + 1 for n in program.weights})
    assert other.hash() == program.hash()
    assert other.hash(weights=True) != program.hash(weights=True)
    renamed = program.with_parts(name="other", axis_names={}, origins={}, modules={})
    assert renamed.hash(weights=True) == program.hash(weights=True)


def test_weights_apart(tmp_path: Path) -> None:
    program, reference, inputs = PROGRAMS["recurrent_network"]
    program.save(tmp_path / "p.tdag", weights=False)
    program.save(tmp_path / "w.safetensors")
    assert not td.load(tmp_path / "p.tdag").weights
    program.save(tmp_path / "p.tdag", shard=10)
    same(td.load(tmp_path / "p.tdag").run(*inputs[0]), reference(*inputs[0]))


def changed(path: Path, change: Callable[[Any], None]) -> None:
    """Change the document of a file."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    document = json.loads(header["__metadata__"]["tdag"])
    change(document)
    header["__metadata__"]["tdag"] = json.dumps(document)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])


CASES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda d: d["program"].pop("axes"), "program: lacks axes"),
    (lambda d: d.pop("program"), "the document: lacks program"),
    (lambda d: d.update(version=1), "has unknown keys program"),
    (lambda d: d.update(version=3), "has unknown keys program"),
    (lambda d: d.update(version=4), "reads up to 3"),
    (lambda d: d["program"]["blocks"].pop(), "is of no block|must be an integer"),
    (lambda d: d["program"]["blocks"].__setitem__(1, ["loop", "goto", 1, 2]), "'loop' ends with 'goto' and 2 blocks"),
    (lambda d: d["program"]["blocks"].__setitem__(1, ["loop", "if"]), "'loop' ends with 'if' and 0 blocks"),
    (lambda d: d["program"]["blocks"][1].__setitem__(2, 99), "program: must be an integer from 0"),
    (lambda d: d["program"]["blocks"][1].__setitem__(3, 99), "program.blocks: must be an integer"),
    (lambda d: d["program"]["blocks"][1].__setitem__(0, "begin"), "program.blocks: a name is there twice"),
    (lambda d: d["program"]["blocks"].__setitem__(0, []), "a block has a name"),
    (lambda d: d["program"]["slots"][0].__setitem__(0, "n"), "program.slots: a name is there twice"),
    (lambda d: d["program"]["slots"][0].__setitem__(1, 99), "must be an integer"),
    (lambda d: d["program"]["slots"][0].__setitem__(3, "b"), "x begins as b, which is no buffer"),
    (lambda d: d["program"]["slots"].pop(0), "must be an integer|no slot"),
    (lambda d: d["program"].update(inputs=[0]), "program.takes: has 2 tensors, the program 1"),
    (lambda d: d["program"].update(outputs=[0, 1]), "program.gives: has 1 tensors, the program 2"),
    (lambda d: d["program"].update(outputs=["x"]), "must be an integer"),
    (lambda d: d["program"].update(axes={"z": "b"}), "no input 'z'"),
    (lambda d: d["program"].update(name=3), "program.name: must be a string"),
    (lambda d: d["program"]["blocks"].__setitem__(2, ["body", "goto", 2]), "nothing leads out of the loop of body"),
    (lambda d: d["program"].update(left_out=[[3, "is sliced", None]]), "program.left_out: .*4"),
    (lambda d: d["program"].update(left_out=[[-3, "is sliced", None, False]]), "program.left_out: must be an integer"),
    (lambda d: d["program"].update(left_out=[[3, "is sliced", None, 0]]), "says whether it keeps by true or false"),
]


@pytest.mark.parametrize(("change", "message"), CASES)
def test_a_strangers_file(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.tdag"
    PROGRAMS["power"].program.save(path)
    changed(path, change)
    with pytest.raises(td.FileError, match=message):
        td.load(path)


def test_odd_names(tmp_path: Path) -> None:
    """Slots and blocks may be called anything."""
    from tdagger.program.parts import Block, Goto, Return, Slot

    x = td.input("a.b", ())
    blocks = {"0.1": Block(td.Graph({"a.b": x}, {"é\n": td.exp(x)}), Goto("")), "": Block(td.Graph({}, {}), Return())}
    program = td.Program({"a.b": Slot(x.type), "é\n": Slot(x.type)}, blocks, ("a.b",), ("é\n",))
    program.save(tmp_path / "p.tdag")
    found = td.load(tmp_path / "p.tdag")
    assert list(found.blocks) == ["0.1", ""]
    assert float(found.run(np.float32(0))) == 1
    assert "é\\n <- %1" in str(found)
