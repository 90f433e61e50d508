"""Damaged files: whatever byte is wrong or missing, a file gives what it gave, or a SourceError that says where."""

import random
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tdagger.cli import main
from tdagger.errors import FileError, SourceError
from tdagger.file.limits import Limits
from tdagger.frameworks import source
from tdagger.frameworks.source import InputSpec, Options
from tdagger.frameworks.torch.source import archive as archive_source
from tdagger.frameworks.torch.source import records

FORMS = ("program.pt2", "traced.pt", "scripted.pt")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x)) * self.scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3)
    path = tmp_path_factory.mktemp("files")
    torch.export.save(torch.export.export(net, (x,)), path / "program.pt2")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deprecated", DeprecationWarning)
        torch.jit.trace(net, x).save(str(path / "traced.pt"))
        torch.jit.script(net).save(str(path / "scripted.pt"))
    return path


def outcome(path: Path):
    """The outputs of the network in a file, or the error that refuses it."""
    options = Options(shapes={"x": InputSpec((2, 3))}) if path.name.endswith("scripted.pt") else Options()
    try:
        loaded = source.load(str(path), options)
    except SourceError as e:
        return e
    return loaded.run(loaded.random_inputs(0))


def check(path: Path, intact) -> bool:
    """Whether a damaged file is refused; if not, it gives what the intact one does."""
    found = outcome(path)
    if isinstance(found, SourceError):
        assert str(path) in str(found)
        assert str(found).isprintable()
        return True
    assert len(found) == len(intact)
    assert all(np.array_equal(a, b) for a, b in zip(found, intact, strict=True))
    return False


def mutate(data: bytes, generator: random.Random) -> bytes:
    """A copy with one byte changed, a few changed, a piece missing, or its end missing."""
    at = generator.randrange(len(data))
    kind = generator.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + generator.randrange(1, 40) :]
    if kind == 2:
        piece = bytes(generator.randrange(256) for _ in range(generator.randrange(2, 9)))
        return data[:at] + piece + data[at + len(piece) :]
    return data[:at] + bytes([data[at] ^ (1 << generator.randrange(8))]) + data[at + 1 :]


def sweep(folder: Path, to: Path, name: str, count: int, seed: int) -> int:
    data = (folder / name).read_bytes()
    intact = outcome(folder / name)
    assert not isinstance(intact, SourceError)
    generator = random.Random(seed)
    path = to / name
    refused = 0
    for _ in range(count):
        path.write_bytes(mutate(data, generator))
        refused += check(path, intact)
    return refused


@pytest.mark.parametrize("name", FORMS)
def test_damaged_files(folder, tmp_path, name):
    assert sweep(folder, tmp_path, name, 60, seed=1) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_many_damaged_files(folder, tmp_path, name):
    assert sweep(folder, tmp_path, name, 2000, seed=2) > 1000


def test_every_byte_of_a_weight_counts(folder, tmp_path):
    for name in FORMS:
        data = bytearray((folder / name).read_bytes())
        start = bytes(data).index(torch.arange(1.0, 5.0).numpy().tobytes())
        data[start + 3] ^= 0x40
        (tmp_path / name).write_bytes(data)
        found = outcome(tmp_path / name)
        assert isinstance(found, SourceError)
        assert "Bad CRC-32" in str(found)
        assert "at byte" in str(found)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("command", ["inspect", "cost", "verify", "convert"])
def test_commands_end_with_2_and_one_line(folder, tmp_path, capfd, name, command):
    data = (folder / name).read_bytes()
    at = data.index(b"torch") + 3
    damaged = tmp_path / f"net[red]{name}"
    damaged.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    more = (str(tmp_path / "out.pt2"),) if command == "convert" else ()
    assert main([command, str(damaged), *more]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"tdagger: {damaged}: record '")
    assert err.count("\n") == 1


# --- archives that lie -------------------------------------------------------------------------------------


def rewritten(archive: Path, to: Path, compress: int = zipfile.ZIP_STORED, **changes: bytes | None) -> Path:
    """A copy of an archive, whole by itself, with other contents for records whose names end so; None drops one."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(to, "w", compress) as new:
        for name in old.namelist():
            key = next((k for k in changes if name.endswith(k)), None)
            data = old.read(name) if key is None else changes[key]
            if data is not None:
                new.writestr(name, data)
    return to


@pytest.mark.parametrize("name", FORMS)
def test_missing_records(folder, tmp_path, name):
    with zipfile.ZipFile(folder / name) as archive:
        names = archive.namelist()
    intact = outcome(folder / name)
    for i, missing in enumerate(names):
        path = tmp_path / f"{i}{name}"
        refused = check(rewritten(folder / name, path, **{missing: None}), intact)
        assert refused or not missing.endswith((".json", "data.pkl", "data/0", "weight_0"))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"config": 3}', b"[" * 99_999, b'{"a": NaN}', b"\x00" * 99]
)
@pytest.mark.parametrize("record", ["model.json", "weights_config.json", "model.pt", "archive_format", "weight_0"])
def test_records_that_are_not_what_they_should_be(folder, tmp_path, record, content):
    path = rewritten(folder / "program.pt2", tmp_path / "a.pt2", **{record: content})
    assert isinstance(outcome(path), SourceError)


@pytest.mark.parametrize("record", ["data.pkl", "constants.pkl", "version", "data/0", ".py"])
@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"\xff\xfe", b"x" * 15])
def test_records_of_torchscript_that_are_not_what_they_should_be(folder, tmp_path, record, content):
    intact = outcome(folder / "traced.pt")
    check(rewritten(folder / "traced.pt", tmp_path / "a.pt", **{record: content}), intact)


def patched(path: Path, name: str, offset: int, form: str, value: int) -> Path:
    """Write a number into the directory entry of a record, and where there is the same field, into its header."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = next(r for r in archive.infolist() if r.filename.endswith(name))
        entry = data.index(b"PK\1\2", archive.start_dir)
        while bytes(data[entry + 46 :]).find(record.filename.encode()) != 0:
            entry = data.index(b"PK\1\2", entry + 1)
    struct.pack_into(form, data, entry + offset, value)
    struct.pack_into(form, data, record.header_offset + offset - 2, value)
    path.write_bytes(data)
    return path


def test_sizes_that_lie(folder, tmp_path):
    for offset, words in ((24, "bytes are stored as"), (20, "bytes, and the file")):
        path = rewritten(folder / "program.pt2", tmp_path / "a.pt2")
        assert words in str(outcome(patched(path, "weight_0", offset, "<L", 0x7FFFFFFF)))
    path = rewritten(folder / "traced.pt", tmp_path / "a.pt", zipfile.ZIP_DEFLATED)
    assert "would take 2147" in str(outcome(patched(path, "data.pkl", 24, "<L", 0x7FFFFFFF)))
    path = rewritten(folder / "traced.pt", tmp_path / "b.pt", zipfile.ZIP_DEFLATED)
    assert "is damaged" in str(outcome(patched(path, "data.pkl", 24, "<L", 10_000)))


def test_what_inflates_is_bounded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "INFLATED", 2**16)
    path = rewritten(folder / "traced.pt", tmp_path / "a.pt", zipfile.ZIP_DEFLATED, **{"constants.pkl": bytes(2**20)})
    assert "its compressed records would take 105" in str(outcome(path))
    monkeypatch.setattr(records, "INFLATED", 2**21)
    assert "would take" not in str(outcome(path))


def test_compression_torch_does_not_have(folder, tmp_path):
    for compress in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        found = outcome(rewritten(folder / "program.pt2", tmp_path / "a.pt2", compress))
        assert "its compression is number" in str(found)
    path = patched(rewritten(folder / "program.pt2", tmp_path / "b.pt2"), "model.json", 8, "<H", 1)
    assert "encrypted" in str(outcome(path))


@pytest.mark.parametrize("odd", ["a\nb", "../a", "\u202e", "é"])
def test_records_of_odd_names(folder, tmp_path, odd):
    path = rewritten(folder / "program.pt2", tmp_path / "a.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"program/data/{odd}", b"")
    found = outcome(path)
    assert "which torch calls none" in str(found)
    assert str(found).isprintable()


def test_two_tables_of_contents_must_agree(folder, tmp_path):
    path = rewritten(folder / "program.pt2", tmp_path / "a.pt2")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"weight_0", b"weight_9", 1))
    assert "its header isn't what the directory" in str(outcome(path))
    path.write_bytes(b"#!" + data)
    assert isinstance(outcome(path), SourceError)


def test_records_of_one_name(folder, tmp_path):
    path = rewritten(folder / "traced.pt", tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("traced/data.pkl", b"")
    assert "two records of one name, 'traced/data.pkl'" in str(outcome(path))


def test_no_piece_of_a_checked_record_is_kept(folder, monkeypatch):
    """Content is read by pieces, and its CRC compared."""
    monkeypatch.setattr(records, "_PIECE", 7)
    assert "program/models/model.json" in records.checked(folder / "program.pt2", Limits())
    with zipfile.ZipFile(folder / "program.pt2") as archive:
        assert all(zlib.crc32(archive.read(r)) == r.CRC for r in archive.infolist())


def content_of(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith(name)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"sizes":[{"as_int":2}', b'"sizes":[{"as_int":-2}', r"sizes: a size is a number from 0 to \d+, not -2"),
        (b'"sizes":[{"as_int":2}', b'"sizes":[{"as_int":9007199254740992}', "sizes: a size is a number from 0"),
        (b'"sizes":[{"as_int":2}', b'"sizes":[{"as_int":4294967296},{"as_int":4294967296}', "more than any tensor has"),
        (b'"sizes":[{"as_int":2}', b'"sizes":[' + b'{"as_int":1},' * 99 + b'{"as_int":2}', "sizes: rank 10[01], more"),
        (b'"name":"x"', b'"name":"' + b"x" * 5000 + b'"', "name: has 5000 characters, more than 4096"),
        (b'"name":"x"', b'"name":"x","' + b"y" * 5000 + b'":1', "has a name of 5000 characters, more than 4096"),
        (b'"name":"x"', b'"name":"x","deep":' + b"[" * 600 + b"]" * 600, "is nested 6.. deep, more than 512"),
        (b'"name":"x"', b'"name":"x","name":"y"', "the key 'name' is there twice"),
    ],
)
def test_programs_beyond_the_limits(folder, tmp_path, old, new, words):
    text = content_of(folder / "program.pt2", "model.json").replace(b'": ', b'":').replace(b", ", b",")
    assert old in text
    path = rewritten(folder / "program.pt2", tmp_path / "a.pt2", **{"model.json": text.replace(old, new)})
    found = outcome(path)
    assert isinstance(found, FileError)
    assert re.search(words, str(found)), found


def test_code_beyond_the_limits(folder, tmp_path):
    """torch's parser recurses, and a stack that overflows ends the process."""
    code = content_of(folder / "traced.pt", ".py")
    for deep in (b"(" * 100_000 + b"1" + b")" * 100_000, b"[" * 600 + b"]" * 600):
        path = rewritten(folder / "traced.pt", tmp_path / "a.pt", **{".py": code + b"\n    x = " + deep})
        found = outcome(path)
        assert isinstance(found, FileError)
        assert "deep, more than 512" in str(found)
    lines = b"\n".join(b"  " * i + b"if True:" for i in range(600))
    found = outcome(rewritten(folder / "traced.pt", tmp_path / "b.pt", **{".py": code + lines}))
    assert isinstance(found, FileError)


def test_records_beyond_the_limits(folder, tmp_path):
    path = rewritten(folder / "traced.pt", tmp_path / "a.pt")
    with pytest.raises(FileError, match="records, more than 3"):
        archive_source.load(path, Limits(nodes=3))
    with pytest.raises(FileError, match=r"has a name of .* characters, more than 8"):
        archive_source.load(path, Limits(name=8))
    with pytest.raises(FileError, match=r"json: has .* bytes, more than 99"):
        archive_source.load(folder / "program.pt2", Limits(header=99))
