"""The records of a zip archive, checked before torch sees the file: damage is found here, and sizes are bounded.

torch's reader and Python's must see the same records, so an archive is read only if its two tables of contents (the
header in front of every record, and the directory at the end) say the same.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast

import torch

from tdagger.errors import FileError, SourceError
from tdagger.file.limits import Limits
from tdagger.names import shown

#: Compressed records (code, and what debuggers are told) may inflate to so many bytes in all, whatever the file's size,
#: and to so many more for each byte of the file.
INFLATED, INFLATED_EACH = 64 * 2**20, 8
#: A record is read in pieces of so many bytes.
_PIECE = 2**20

_HEADER = struct.Struct("<4s2B4HL2L2H")
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 1, 8, 0x800
_WIDE = 0xFFFFFFFF


@contextmanager
def opened(path: Path, content: IO[bytes] | None = None) -> Generator[zipfile.ZipFile]:
    """The archive in a file, open to be read; SourceError says where it is damaged, also in what is done with it.

    ``content`` is that of an archive in a record of the file.
    """
    try:
        with zipfile.ZipFile(path if content is None else content) as archive:
            yield archive
    except SourceError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, EOFError, ValueError, NotImplementedError) as e:
        raise SourceError(f"{shown(path)}: is a damaged zip archive: {shown(e) or type(e).__name__}") from e


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive; SourceError if it is what is left of one."""
    try:
        if zipfile.is_zipfile(path):
            return True
    except zipfile.BadZipFile as e:
        raise SourceError(f"{shown(path)}: is a damaged zip archive: {shown(e)}") from e
    with path.open("rb") as file:
        if file.read(4) == b"PK\3\4":
            raise SourceError(
                f"{shown(path)}: is a damaged zip archive: its end is missing; copy or save the file again"
            )
    return False


def checked(path: Path, limits: Limits) -> list[str]:
    """The names of an archive's records, after all of it is checked: names, places, sizes and the CRC of each record.

    SourceError names the record that is damaged, named twice, compressed in a way torch doesn't, or that would be
    larger than :data:`INFLATED` allows, FileError what ``limits`` doesn't: too many, or too long names. Nothing is kept
    in memory, so weights of any size can be checked.
    """
    with opened(path) as archive, path.open("rb") as file:
        records = archive.infolist()
        if len(records) > limits.nodes:
            raise FileError(f"{shown(path)}: has {len(records)} records, more than {limits.nodes}")
        for record in records:
            if len(record.orig_filename) > limits.name:
                told = f"{shown(path)}: record {shown(record.filename)!r}"
                raise FileError(f"{told} has a name of {len(record.orig_filename)} characters, more than {limits.name}")
        _check_sizes(path, records, path.stat().st_size)
        ends = [_check_header(path, file, record) for record in records]
        order = sorted(zip([r.header_offset for r in records], ends, records, strict=True), key=lambda one: one[0])
        if order and order[0][0] != 0:
            raise SourceError(f"{shown(path)}: is a damaged zip archive: other data stand before its first record")
        for (_, end, record), (start, _, _) in pairwise([*order, (archive.start_dir, 0, None)]):
            if end > start:
                raise _damaged(path, record, f"it ends at byte {end}, after the next begins at {start}")
        for record in records:
            _check_content(path, archive, record)
    return [r.filename for r in records]


def _damaged(path: Path, record: zipfile.ZipInfo | None, why: str) -> SourceError:
    where = f"record {shown(record.filename)!r} at byte {record.header_offset}" if record is not None else "the archive"
    return SourceError(f"{shown(path)}: {where} is damaged: {why}; copy or save the file again")


def _check_sizes(path: Path, records: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse names and sizes that can't be, before anything is read."""
    names: set[str] = set()
    inflated = 0
    for record in records:
        name = record.filename
        if name.lower() in names:
            raise SourceError(f"{shown(path)}: has two records of one name, {shown(name)!r}")
        names.add(name.lower())
        own = record.orig_filename.partition("/")[2]  # the folder is called as the file was
        if record.orig_filename != name or not own.isprintable() or not own.isascii() or ".." in name.split("/"):
            raise SourceError(
                f"{shown(path)}: a record is called {shown(record.orig_filename)!r}, which torch calls none"
            )
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _damaged(path, record, f"its compression is number {record.compress_type}, torch's are 0 and 8")
        if record.flag_bits & ~(_SIZES_FOLLOW | _UTF8):
            raise _damaged(path, record, "it is encrypted, or of a kind torch doesn't write")
        if not 0 <= record.header_offset < size:
            raise _damaged(path, record, f"the file has {size} bytes")
        if record.compress_size > size:
            raise _damaged(path, record, f"it has {record.compress_size} bytes, and the file {size}")
        if record.compress_type == zipfile.ZIP_STORED and record.compress_size != record.file_size:
            raise _damaged(path, record, f"{record.file_size} bytes are stored as {record.compress_size}")
        inflated += record.file_size if record.compress_type == zipfile.ZIP_DEFLATED else 0
    most = INFLATED + INFLATED_EACH * size
    if inflated > most:
        raise SourceError(
            f"{shown(path)}: its compressed records would take {inflated} bytes, more than the {most} allowed"
        )


def _check_header(path: Path, file: IO[bytes], record: zipfile.ZipInfo) -> int:
    """Compare the header in front of a record with the directory; where the record ends."""
    file.seek(record.header_offset)
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise _damaged(path, record, "the file ends before it")
    coding = "utf-8" if record.flag_bits & _UTF8 else "cp437"
    signature, _, _, flags, method, _, _, crc, packed, whole, name, extra = _HEADER.unpack(head)
    expected = (b"PK\3\4", record.flag_bits, record.compress_type, record.filename.encode(coding))
    if (signature, flags, method, file.read(name)) != expected:
        raise _damaged(path, record, "its header isn't what the directory of the archive says")
    told = (record.CRC, record.compress_size, record.file_size)
    wide = _WIDE in (packed, whole)  # the sizes are in the extra field then, which the directory has too
    if (
        (crc, packed, whole) != told
        and not (wide and crc in (0, record.CRC))
        and not (flags & _SIZES_FOLLOW and (crc, packed, whole) == (0, 0, 0))
    ):
        raise _damaged(path, record, "its header has another size or checksum than the directory of the archive")
    return record.header_offset + _HEADER.size + name + extra + record.compress_size


def _check_content(path: Path, archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Read a record to its end, by pieces: zipfile compares the CRC there."""
    found = 0
    try:
        with archive.open(record) as content:
            while piece := content.read(_PIECE):
                found += len(piece)
    except Exception as e:  # zlib's, zipfile's own ...: whatever stops reading is damage
        raise _damaged(path, record, shown(e) or type(e).__name__) from e
    if found != record.file_size:
        raise _damaged(path, record, f"it has {found} bytes of {record.file_size}")


# --- tensors of pickles ------------------------------------------------------------------------------------


class _Inert:
    """Stands for whatever a pickle names: it can be called, filled and built, and does nothing."""

    bytes_each = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


class _Storages(pickle.Unpickler):
    """Reads a pickle for nothing but the storages of its tensors; no class or function it names is found or called."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.found: list[tuple[str, int]] = []

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return type("Inert", (_Inert,), {"bytes_each": _BYTES_EACH.get(global_name, 0)})

    def persistent_load(self, pid: Any) -> Any:
        what, kind, key, _, count = pid
        if what != "storage" or not isinstance(key, str) or not isinstance(count, int):
            raise pickle.UnpicklingError(f"it refers to {pid!r:.80}")
        self.found.append((key, count * kind.bytes_each))
        return _Inert()


#: The bytes of an element of each class of storage.
_BYTES_EACH = {n: d.itemsize for d, n in torch.storage._dtype_to_storage_type_map().items()} | {"UntypedStorage": 1}


def check_storages(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse tensors that would be larger than their records: torch makes them so, and reads what lies behind."""
    sizes = {r.filename: r.file_size for r in archive.infolist()}
    for name in sizes:
        if not name.endswith(".pkl") or "/code/" in name or name.endswith("/traced_inputs.pkl"):
            continue  # of what it was traced on torch keeps the shapes alone, in empty records
        reader = _Storages(archive.read(name))
        try:
            reader.load()
        except Exception as e:  # whatever a damaged pickle ends in
            raise SourceError(
                f"{shown(path)}: record {name!r} is no pickle of tensors: {type(e).__name__}: {shown(e)}"
            ) from e
        for key, size in reader.found:
            record = f"{name.removesuffix('.pkl')}/{key}"
            if sizes.get(record, -1) < size:
                told = f"has {sizes[record]} bytes" if record in sizes else "is missing"
                raise SourceError(f"{shown(path)}: record {shown(record)!r} {told}, its tensor takes {size}")


# --- limits of what torch reads ----------------------------------------------------------------------------

#: JSON and code nest so many levels for each that a structure may have: torch reads both by recursion.
_LEVELS = 8
_STRINGS = re.compile(rb"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|#[^\n]*""")


def check_nesting(text: bytes, limits: Limits, where: str) -> None:
    """FileError if brackets of code or JSON (not those in strings) or its lines nest deeper than torch can read."""
    depth = deepest = 0
    for found in re.finditer(rb"[()\[\]{}]", _STRINGS.sub(b"", text)):
        depth += 1 if found[0] in b"([{" else -1
        deepest = max(deepest, depth)
    indented = max((len(line) - len(line.lstrip(b" ")) for line in text.split(b"\n")), default=0) // 2
    if max(deepest, indented) > _LEVELS * limits.depth:
        raise FileError(f"{where}: is nested {max(deepest, indented)} deep, more than {_LEVELS * limits.depth}")


def check_json(node: Any, limits: Limits, where: str) -> None:
    """FileError for a program whose lists of nodes, names, ranks or sizes are beyond what a file may have."""
    pending: list[tuple[str, Any]] = [(where, node)]
    while pending:
        at, item = pending.pop()
        if isinstance(item, dict):
            for key, inner in cast(dict[str, Any], item).items():
                if len(key) > limits.name:
                    raise FileError(f"{at}: has a name of {len(key)} characters, more than {limits.name}")
                if key == "sizes" and isinstance(inner, list):
                    _check_shape(cast(list[Any], inner), limits, f"{at}.{key}")
                if key == "name" and isinstance(inner, str) and len(inner) > limits.name:
                    raise FileError(f"{at}.{key}: has {len(inner)} characters, more than {limits.name}")
                if isinstance(inner, dict | list):
                    pending.append((f"{at}.{key}" if len(at) < limits.name else at, inner))
        else:
            every = cast(list[Any], item)
            if len(every) > limits.nodes:
                raise FileError(f"{at}: has {len(every)} entries, more than {limits.nodes}")
            pending += [(f"{at}[{i}]", inner) for i, inner in enumerate(every) if isinstance(inner, dict | list)]


def _check_shape(sizes: list[Any], limits: Limits, where: str) -> None:
    if len(sizes) > limits.rank:
        raise FileError(f"{where}: rank {len(sizes)}, more than {limits.rank}")
    known = [n["as_int"] for n in sizes if isinstance(n, dict) and "as_int" in n]
    for n in known:
        if type(n) is not int or not 0 <= n < limits.size:
            raise FileError(f"{where}: a size is a number from 0 to {limits.size - 1}, not {n!r:.40}")
    if math.prod(known) >= limits.elements:
        raise FileError(f"{where}: {math.prod(known):.3g} elements are more than any tensor has")
