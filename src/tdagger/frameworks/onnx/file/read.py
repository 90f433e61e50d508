"""Reading a model: a path, bytes or a ModelProto, and where a file that can't be read is damaged.

Protobuf itself reads; nothing is mapped or copied besides. The data of weights stays where it lies
(:mod:`tdagger.frameworks.onnx.file.tensors`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from tdagger.errors import InputError, SourceError
from tdagger.names import shown

#: No file of protobuf can be longer.
_LONGEST = 2**31 - 1

#: The kinds of lengths on the wire: a number of varying length, 8 bytes, a counted run, 4 bytes.
_VARINT, _EIGHT, _COUNTED, _FOUR = 0, 1, 2, 5


class Model(NamedTuple):
    """A model as it was read: ``name`` for errors, ``folder`` where its external data may lie (None: it has none)."""

    proto: Any
    name: str
    folder: Path | None


def read(model: Any) -> Model:
    """A model from a path, bytes or a ModelProto; SourceError if it can't be read, with the offset."""
    if isinstance(model, onnx.ModelProto):
        return _checked(Model(model, shown(model.graph.name or "the model"), None))
    if isinstance(model, bytes | bytearray | memoryview):
        return _checked(Model(_parsed(bytes(model), "the bytes"), "the bytes", None))
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"from_onnx takes a path, bytes or a ModelProto, not a {type(model).__name__}")
    path = Path(model)
    return _checked(Model(_parsed(_bytes_of(path), shown(path)), shown(path), path.parent))


def _bytes_of(path: Path) -> bytes:
    """What a file holds; SourceError if it isn't one, can't be read, or is too long for a model."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(f"{shown(path)} is no file")
        if found.st_size > _LONGEST:
            raise SourceError(
                f"{shown(path)} has {found.st_size} bytes: a model in one file has at most {_LONGEST}, larger ones "
                "have external data"
            )
        return path.read_bytes()
    except OSError as e:
        raise SourceError(f"{shown(path)} can't be read: {e.strerror or e}") from e
    except ValueError as e:  # a zero in the path
        raise SourceError(f"{shown(path)} can't be read: {e}") from e


def _parsed(data: bytes, name: str) -> Any:
    try:
        return onnx.ModelProto.FromString(data)
    except (DecodeError, RecursionError, UnicodeDecodeError, ValueError) as e:
        where, what = damaged(data)
        raise SourceError(f"{name} is no ONNX model, or is damaged: at byte {where}, {what}") from e


def _checked(model: Model) -> Model:
    proto = model.proto
    if not proto.HasField("graph"):
        raise SourceError(f"{model.name} is no ONNX model: it has no graph")
    if not proto.opset_import:
        raise SourceError(f"{model.name} doesn't say the version of its operator set (opset_import)")
    return model


def damaged(data: bytes, descriptor: Any = onnx.ModelProto.DESCRIPTOR) -> tuple[int, str]:
    r"""Where the first field is that can't be read, and what is wrong with it.

    >>> damaged(b"\x08\x07\x12\x05abc")
    (4, 'producer_name of ModelProto has 5 bytes, 3 are left')
    """
    stack: list[tuple[int, int, Any]] = [(0, len(data), descriptor)]
    while stack:
        at, end, kind = stack.pop()
        while at < end:
            start = at
            tag, at = _varint(data, at, end)
            field = kind.fields_by_number.get(tag >> 3)
            named = f"{field.name if field is not None else f'field {tag >> 3}'} of {kind.name}"
            how = tag & 7
            if at < 0 or tag < 8 or how not in (_VARINT, _EIGHT, _COUNTED, _FOUR):
                return start, f"a field of {kind.name} begins as none can"
            size = {_EIGHT: 8, _FOUR: 4}.get(how, 0)
            if how == _VARINT:
                _, at = _varint(data, at, end)
                if at < 0:
                    return start, f"{named} is a number that doesn't end"
            elif how == _COUNTED:
                size, at = _varint(data, at, end)
                if at < 0:
                    return start, f"{named} has a length that doesn't end"
            if size > end - at:
                return at, f"{named} has {size} bytes, {end - at} are left"
            if field is not None and how == _COUNTED:
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    if len(stack) > 100:
                        return start, f"{named} is nested too deep"
                    stack.append((at + size, end, kind))
                    end, kind = at + size, field.message_type
                    continue
                if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(data[at : at + size]):
                    return at, f"{named} isn't UTF-8"
            at += size
    return len(data), "nothing is wrong with its fields one by one (one may be nested too deep)"


def not_text(proto: Any) -> str:
    """Which string in a message isn't UTF-8, by its place; protobuf gives bytes for it."""
    stack: list[tuple[str, Any]] = [("", proto)]
    while stack:
        place, message = stack.pop()
        for field, value in message.ListFields():
            several = value if field.is_repeated else [value]
            for i, one in enumerate(several):
                at = f"{place}{field.name}{f'[{i}]' if field.is_repeated else ''}"
                if field.type == FieldDescriptor.TYPE_STRING and isinstance(one, bytes):
                    return f"{at} {shown(one)}"
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    stack.append((f"{at}.", one))
                elif field.type != FieldDescriptor.TYPE_STRING:
                    break  # numbers
    return ""


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of varying length and the place after it, which is -1 if it doesn't end."""
    found = 0
    for i in range(10):
        if at + i >= end:
            return 0, -1
        found |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return found, at + i + 1
    return 0, -1


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
