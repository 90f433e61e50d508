"""Reading .pt2, .pt, .pth and .ts files without running what a stranger may have put in them.

torch itself can't be left to do that: a pickle runs code, ``torch.export.load`` unpickles custom objects,
evaluates symbolic sizes as Python, and takes any ``torch.*`` function as the target of a node. So what a file
is gets decided from its contents; a program is read only if every part of it is of the plain kind.
"""

from __future__ import annotations

import io
import logging
import math
import os
import pickletools
import re
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tdagger.errors import FileError, SourceError
from tdagger.file.container import parsed
from tdagger.file.limits import Limits
from tdagger.frameworks.torch.source.records import (
    check_json,
    check_nesting,
    check_storages,
    checked,
    is_archive,
    opened,
)
from tdagger.names import is_dotted, shown

_HOW = (
    "Write a function that builds the module and loads the weights "
    "(module.load_state_dict(torch.load(FILE, weights_only=True))), and give it as package.module:callable"
)


def load(path: Path, limits: Limits | None = None) -> Any:
    """The ScriptModule or ExportedProgram in a file; SourceError if it is neither, or not safe to read.

    FileError, which is one, for what is larger than ``limits`` has it, as far as torch's formats tell before they are
    read: records and their names, the program's JSON, its nodes, names, ranks and sizes, how deep code and JSON nest.
    """
    limits = limits or Limits()
    if not path.is_file():
        raise SourceError(f"{shown(path)}: there is no such file")
    names = _names(path, limits)
    kind = _kind(path, names)
    if kind == "pt2":
        return _load_exported(path, limits)
    if kind == "torchscript":
        return _load_script(path, limits)
    raise SourceError(f"{shown(path)} {_describe(path)}")


def _names(path: Path, limits: Limits) -> list[str]:
    """The records of a zip archive, all of them checked, without the folder they are in; none of another file."""
    return [n.partition("/")[2] if "/" in n else n for n in checked(path, limits)] if is_archive(path) else []


def _kind(path: Path, names: list[str]) -> str:
    if "archive_format" in names:
        return "pt2"
    if "serialized_exported_program.json" in names:
        raise SourceError(f"{shown(path)}: torch 2.7 or older wrote this file; save it again with torch.export.save")
    return "torchscript" if any(n.startswith("code/") for n in names) else "pickle"


# --- what can't be loaded ----------------------------------------------------------------------------------


def _describe(path: Path) -> str:
    """What a file is that holds neither a program nor TorchScript, found without running any of it."""
    with path.open("rb") as file:
        start = file.read(2)
    if not is_archive(path) and start[:1] != b"\x80":
        return "is neither a program of torch.export nor TorchScript"
    try:
        content: Any = torch.load(path, map_location="meta", weights_only=True)
    except Exception:
        found = ", ".join(_classes(path)[:3])
        return f"is a pickled object{f' (of {found})' if found else ''}, which runs code when it is loaded. {_HOW}"
    if isinstance(content, dict):
        keys = [str(k) for k in content]
        what = "a state_dict" if all(isinstance(v, torch.Tensor) for v in content.values()) else "a checkpoint"
        return f"is {what}, weights without a network ({len(keys)} entries: {', '.join(keys[:3])} ...). {_HOW}"
    return f"holds a {type(content).__name__}, not a network"


#: So much of a pickle that isn't in an archive is looked at for names of classes.
_MOST_OF_A_PICKLE = 16 * 2**20


def _classes(path: Path) -> list[str]:
    """The classes and functions a pickle names, those of torch's own storage left out."""
    found: list[str] = []
    try:
        if is_archive(path):
            with zipfile.ZipFile(path) as archive:
                data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        else:
            with path.open("rb") as file:
                data = file.read(_MOST_OF_A_PICKLE)
        stream = io.BytesIO(data)
        for _ in range(4):  # torch's old format has three pickles of its own before the object
            found += _globals(stream)
    except Exception:  # a broken pickle, or the end: what was found until then is what there is to tell
        pass
    plain = ("collections.OrderedDict", "torch._utils.", "torch.FloatStorage", "builtins.set", "__builtin__.set")
    return [n for n in dict.fromkeys(found) if not n.startswith(plain)]


def _globals(stream: io.BytesIO) -> list[str]:
    """What the pickle at the start of a stream names; the stream is left behind it."""
    found: list[str] = []
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            found.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.append(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


# --- TorchScript -------------------------------------------------------------------------------------------

#: TorchScript runs in its own interpreter, which can't call Python; these two ops touch the file system.
_FILE_OPS = re.compile(rb"\b(?:torch|ops\.aten)\.(save|from_file)\(")


def _load_script(path: Path, limits: Limits) -> torch.jit.ScriptModule:
    with opened(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".py"):
                continue
            code = archive.read(name)
            check_nesting(code, limits, f"{shown(path)}: {shown(name)}")
            found = _FILE_OPS.search(code)
            if found:
                raise SourceError(f"{shown(path)}: its code in {name} calls {found[0].decode()}), which touches files")
        check_storages(path, archive)
    try:
        return torch.jit.load(path, map_location="cpu", _restore_shapes=True)
    except Exception as e:  # of torch, json, struct ...: whatever it can't read
        raise SourceError(f"{shown(path)}: torch.jit.load can't read it: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    """What an error of another library is, and the first line of what it says."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {shown(said[:200])}".removesuffix(": ")


# --- exported programs -------------------------------------------------------------------------------------

_NAME = re.compile(r"[\w.:/ <>-]*")
_TARGET = re.compile(
    r"torch\.ops\.(?!load_library\b|import_module\b|loaded_libraries\b|__)\w+\.(?!__|from_file\b)\w+(\.(?!__)\w+)?"
    r"|torch\.sym_\w+|math\.[a-z]\w*|torch\._C\._set_grad_enabled"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|and_|or_|eq|ne|lt|le|gt|ge|not_)"
)
_SYMBOL = re.compile(r"[a-z]{1,3}\d+|\d[\d.e]*|int_oo|oo|True|False|None|Max|Min|Eq|Ne|[GL][te]|And|Or|Not|Abs|Pow")
_FUNCTIONS = {
    *["FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt"],
    *["CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "Identity"],
    *["TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat"],
}
_DECLARED = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_SPEC = re.compile(r'[\w\s\[\]{}",:.\\/<>-]*')


def _load_exported(path: Path, limits: Limits) -> torch.export.ExportedProgram:
    from torch.export.pt2_archive._package import PT2ArchiveReader

    try:
        # the same reader, and so the same view of the file, as the loader below
        reader = PT2ArchiveReader(str(path))
        records = reader.get_file_names()
        _check_records(path, records)
        for name in records:
            if name.startswith("models/"):
                _check(path, _json(path, reader, name, limits))
            elif name.endswith("_config.json"):
                folder = name.rpartition("/")[0]
                sizes = {n: reader.archive_file.get_record_size(n) for n in records if n.startswith(f"{folder}/")}
                _check_payloads(path, _json(path, reader, name, limits), folder, sizes)
            elif "sample_inputs/" in name:
                with opened(path, io.BytesIO(reader.read_bytes(name))) as inputs:
                    check_storages(path, inputs)
        with _weights_only(), _quiet():
            program: Any = torch.export.load(str(path))
        _check_state(path, program)
    except SourceError:
        raise
    except Exception as e:  # of torch, json, unicode ...: whatever it can't read
        raise SourceError(f"{shown(path)}: torch.export.load can't read it: {_first_line(e)}") from e
    program._guards_code = []  # Python source that program.module() would run; shapes are static here anyway
    return program


def _json(path: Path, reader: Any, name: str, limits: Limits) -> Any:
    """A record of JSON, bounded before and after it is parsed."""
    where = f"{shown(path)}: {shown(name)}"
    size = reader.archive_file.get_record_size(name)
    if size > limits.header:
        raise FileError(f"{where}: has {size} bytes, more than {limits.header}")
    text: bytes = reader.read_bytes(name)
    check_nesting(text, limits, where)
    found = parsed(text, where)
    check_json(found, limits, where)
    return found


def _check_records(path: Path, records: list[str]) -> None:
    if len({r.lower() for r in records}) != len(records):
        raise SourceError(f"{shown(path)}: has two records of one name")
    if any(r.startswith(("data/aotinductor/", "data/executorch/")) for r in records):
        raise SourceError(f"{shown(path)}: holds compiled machine code, not a program; save it with torch.export.save")
    models = [r for r in records if r.startswith("models/")]
    if models != ["models/model.json"]:
        raise SourceError(f"{shown(path)}: must hold one program called model, has {', '.join(models) or 'none'}")


def _check_payloads(path: Path, config: Any, folder: str, sizes: Mapping[str, int]) -> None:
    """Refuse constants that are pickles, and tensors whose data aren't in the file; ``sizes`` are those of records."""
    for name, payload in config["config"].items():
        file = payload["path_name"]
        if not file.startswith(("weight_", "tensor_")):
            raise SourceError(
                f"{shown(path)}: constant {shown(name)!r} is a pickled object ({file}), which can run code"
            )
        record = f"{folder}/{file}"
        if record not in sizes:
            raise SourceError(f"{shown(path)}: has no record {record!r}, which would hold {shown(name)!r}")
        counts = [n["as_int"] for n in (payload["tensor_meta"] or {"sizes": []})["sizes"]]
        if counts and not sizes[record] and math.prod(counts):
            raise SourceError(f"{shown(path)}: record {record!r} is empty, {shown(name)!r} would be of sizes {counts}")


def _check_state(path: Path, program: torch.export.ExportedProgram) -> None:
    """SourceError unless every weight that the program names is there, of the type it says."""
    given: dict[str, Any] = {**program.constants, **program.state_dict}
    places = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and "val" in n.meta}
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            continue
        found, place = given.get(spec.target), places.get(spec.arg.name)
        if found is None:
            raise SourceError(f"{shown(path)}: has no data for {shown(spec.target)!r}, which its program uses")
        if isinstance(place, torch.Tensor) and (found.shape, found.dtype) != (place.shape, place.dtype):
            told = [f"{t.dtype}{list(t.shape)}" for t in (found, place)]
            raise SourceError(f"{shown(path)}: {shown(spec.target)!r} is {told[0]}, and its program takes {told[1]}")


def _check(path: Path, node: Any) -> None:
    """Refuse what torch would run as Python while it builds or runs the program."""
    pending: list[tuple[str, Any]] = [("", node)]
    while pending:
        key, item = pending.pop()
        if isinstance(item, dict):
            pending += [(str(k), v) for k, v in item.items() if k != "metadata"]
            if "metadata" in item:
                _check_metadata(path, item["metadata"])
        elif isinstance(item, list):
            pending += [(key, v) for v in item]
        elif isinstance(item, str) and not _is_plain(key, item):
            raise SourceError(f"{shown(path)}: {shown(key)} {item[:80]!r} is not of the plain kind tdagger reads")


#: What torch looks up of a node's metadata, and what would end a comment in code that it writes.
_LOOKED_UP = re.compile(r"(torch|_operator|math|#)")
_ENDS_COMMENT = re.compile(r"[\x00\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")


def _check_metadata(path: Path, metadata: Any) -> None:
    """Refuse metadata that torch doesn't write. Names in it may be any: they are shown, never written as they are."""
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise SourceError(f"{shown(path)}: the metadata of a node are no strings by name")
    if _ENDS_COMMENT.search(metadata.get("stack_trace", "")):
        raise SourceError(f"{shown(path)}: a stack trace in its metadata holds control characters")
    for one in filter(None, metadata.get("source_fn_stack", "").split(";")):
        target = one.rpartition(",")[2]
        if _LOOKED_UP.match(target) and not (is_dotted(target) and "__" not in target):
            raise SourceError(f"{shown(path)}: metadata {shown(target)!r} is not of the plain kind tdagger reads")


def _is_plain(key: str, text: str) -> bool:
    if key in ("target", "as_operator"):
        return bool(_TARGET.fullmatch(text))
    if key == "expr_str":
        text = _DECLARED.sub("s0", text)
        words = re.findall(r"[\w.]+", text)
        known = all(_SYMBOL.fullmatch(w) or w in _FUNCTIONS for w in words)
        return known and not re.search(r"[^\w\s.()+*/%<>=!&|~,-]", text)
    if key in ("in_spec", "out_spec"):  # JSON in JSON, which torch reads by recursion
        check_nesting(text.encode("utf-8", "replace"), Limits(), key)
        return bool(_SPEC.fullmatch(text)) and "__enum__" not in text and "default_factory" not in text
    if key == "name" or key.endswith(("_name", "_target", "fqn")):
        return bool(_NAME.fullmatch(text))
    return True


@contextmanager
def _quiet() -> Generator[None]:
    """What torch logs of a file it can't read (all of the file, at times) isn't printed: the error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _weights_only() -> Generator[None]:
    """torch.load never unpickles more than tensors, whatever its callers ask for."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {n: os.environ.get(n) for n in names}
    os.environ[names[0]] = "1"
    os.environ.pop(names[1], None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
