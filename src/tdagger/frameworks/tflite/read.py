"""Reading a TFLite file: its tables, checked as they are read (:mod:`.schema` has what they become).

The generated classes of ``ai_edge_litert`` know where each field lies, ``flatbuffers`` reads it. Neither checks more
than that an offset is within the file, so counts are held against the file before anything is made of them, and all
that is read of tables that refer to each other is counted (:data:`_AGAIN`): what is made takes memory as the file does.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.errors import InputError, SourceError
from tdagger.frameworks.tflite.schema import (
    Model,
    Node,
    Quantization,
    SignatureDef,
    Subgraph,
    Tensor,
    named_by,
)
from tdagger.frameworks.tflite.sparse import Level, Sparsity
from tdagger.names import shown

# --- files -------------------------------------------------------------------------------------------------


def opened(model: Any) -> Model:
    """A model from a path or bytes; SourceError if it can't be read.

    A path may go into a bundle, ``hand.task/detector.tflite``; of a bundle with one model its own is enough.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, bytes | bytearray | memoryview):
        return _read(memoryview(model).cast("B"), "the bytes")
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"from_tflite takes a path or bytes, not a {type(model).__name__}")
    path = Path(cast("str | os.PathLike[str]", model))
    bundle = next((p for p in (path, *path.parents) if p.suffix.lower() == ".task"), None)
    if bundle is None:
        return _read(_mapped(path), shown(path))
    return _read(_member(bundle, path.relative_to(bundle).as_posix()), shown(path))


def _mapped(path: Path) -> memoryview:
    """A file in memory; SourceError if it isn't one, or can't be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(f"{shown(path)} is no file")
        return memoryview(cast(Any, np.memmap(path, np.uint8, "r"))) if found.st_size else memoryview(b"")
    except OSError as e:
        raise SourceError(f"{shown(path)} can't be read: {e.strerror or e}") from e
    except ValueError as e:  # a zero in the path
        raise SourceError(f"{shown(path)} can't be read: {e}") from e


#: A compressed model in a bundle is at most so many times as long as it is there.
_COMPRESSED = 32


def _member(bundle: Path, inside: str) -> memoryview:
    """A model in a bundle, in place if it isn't compressed."""
    data = _mapped(bundle)
    try:
        with zipfile.ZipFile(bundle) as z:
            found = [i for i in z.infolist() if i.filename.endswith(".tflite") and not i.is_dir()]
            names = [i.filename for i in found]
            if (len(found) != 1) if inside == "." else (inside not in names):
                told = ", ".join(f"{shown(bundle)}/{shown(n)}" for n in names[:12]) or "none"
                raise SourceError(f"{shown(bundle)} is a bundle of {len(found)} models: give one of them ({told})")
            info = found[0 if inside == "." else names.index(inside)]
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
                start = info.header_offset + 30 + name + extra
                return data[start : start + info.file_size]
            if info.file_size > _COMPRESSED * len(data):
                raise SourceError(f"{shown(bundle)}: {shown(info.filename)} would be {info.file_size} bytes")
            return memoryview(z.read(info))
    except (zipfile.BadZipFile, struct.error, RuntimeError, NotImplementedError, OSError, ValueError, EOFError) as e:
        if isinstance(e, SourceError):
            raise
        raise SourceError(f"{shown(bundle)} is no bundle, or is damaged: {e}") from e
    except zipfile.zlib.error as e:  # pyright: ignore[reportAttributeAccessIssue]
        raise SourceError(f"{shown(bundle)} is damaged: {e}") from e


# --- tables ------------------------------------------------------------------------------------------------

#: Tables may be referred to several times: so often the file's length is read in all, and at least so many entries.
_AGAIN, _LEAST = 8, 1 << 16
#: More axes no tensor has.
_RANK = 64


class _Reading:
    """A file as it is read: what is being read, and how much was."""

    def __init__(self, data: memoryview, name: str) -> None:
        self.data, self.name = data, name
        self.left = max(_AGAIN * len(data), _LEAST)
        self.at = "the model"

    def spend(self, count: int) -> int:
        """Count entries that are read; SourceError if there are more than the file can have."""
        self.left -= count
        if count < 0 or self.left < 0:
            raise SourceError(f"{self.name} is damaged: {self.at} has more entries than there is room for")
        return count

    def each(self, count: int, get: Callable[[int], Any]) -> Iterator[Any]:
        """The tables of a vector."""
        for i in range(self.spend(count)):
            found = get(i)
            if found is None:
                raise SourceError(f"{self.name} is damaged: an entry of {self.at} isn't there")
            yield found

    def numbers(self, count: int, get: Callable[[], Any]) -> tuple[int, ...]:
        """A vector of numbers."""
        return tuple(get().tolist()) if self.spend(count) else ()

    def text(self, raw: bytes | None) -> str:
        """A string."""
        self.spend(len(raw or b""))
        try:
            return (raw or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise SourceError(f"{self.name}: a name of {self.at} isn't UTF-8 ({shown(raw)})") from None

    @contextmanager
    def place(self, at: str) -> Generator[None]:
        """While a part is read, what it is called in errors."""
        before, self.at = self.at, at
        yield
        self.at = before


def _read(data: memoryview, name: str) -> Model:
    reading = _Reading(data, name)
    if len(data) < 8 or bytes(data[4:8]) != b"TFL3":
        raise SourceError(f"{name} is no TFLite file: bytes 4 to 8 aren't TFL3")
    try:
        return _model(reading)
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, MemoryError) as e:
        if isinstance(e, SourceError):
            raise
        raise SourceError(f"{name} is damaged: {reading.at} can't be read ({e})") from e


def _model(r: _Reading) -> Model:
    root: Any = s.Model.GetRootAs(r.data, 0)
    if root.Version() != 3:
        raise SourceError(f"{r.name} is of version {root.Version()} of the schema, 3 is read")
    with r.place("the list of operators"):
        codes = [_code(r, c) for c in r.each(root.OperatorCodesLength(), root.OperatorCodes)]
    with r.place("the buffers"):
        buffers = tuple([_buffer(r, i, b) for i, b in enumerate(r.each(root.BuffersLength(), root.Buffers))])
    graphs: list[Subgraph] = []
    for i, graph in enumerate(r.each(root.SubgraphsLength(), root.Subgraphs)):
        with r.place(f"subgraph {i}"):
            graphs.append(_subgraph(r, graph, codes, len(buffers), f"subgraph {i}"))
    if not graphs:
        raise SourceError(f"{r.name} has no subgraphs")
    with r.place("the signatures"):
        signatures = [_signature(r, x, graphs) for x in r.each(root.SignatureDefsLength(), root.SignatureDefs)]
    with r.place("the metadata"):
        metadata = {
            r.text(m.Name()): int(m.Buffer())
            for m in r.each(root.MetadataLength(), root.Metadata)
            if m.Buffer() < len(buffers)
        }
        description = r.text(root.Description())
    return Model(r.name, r.data, description, tuple(graphs), tuple(signatures), metadata, buffers)


def _code(r: _Reading, code: Any) -> tuple[str, int]:
    """The name of an operator (that of a custom one with ``custom:`` before it), and its version."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == s.BuiltinOperator.CUSTOM:
        return f"custom:{r.text(code.CustomCode())}", code.Version()
    return named_by(s.BuiltinOperator).get(number, f"builtin operator {number}"), code.Version()


def _buffer(r: _Reading, index: int, buffer: Any) -> tuple[int, int]:
    """Where the data of a buffer lies: in its table, or at an offset in the file."""
    offset, size = buffer.Offset(), buffer.Size()
    if offset > 1 and size:  # 0 and 1 stand for none
        if offset + size > len(r.data):
            raise SourceError(
                f"buffer {index} of {r.name} is said to be at {offset} to {offset + size}, the file has {len(r.data)}"
            )
        return offset, size
    field = buffer._tab.Offset(4)  # pyright: ignore[reportPrivateUsage]
    if not field:
        return 0, 0
    start, length = buffer._tab.Vector(field), buffer._tab.VectorLen(field)  # pyright: ignore[reportPrivateUsage]
    if start + length > len(r.data):
        raise SourceError(f"buffer {index} of {r.name} has {length} bytes at {start}, the file has {len(r.data)}")
    return int(start), int(length)


def _subgraph(r: _Reading, graph: Any, codes: list[tuple[str, int]], buffers: int, place: str) -> Subgraph:
    name = r.text(graph.Name())
    tensors: list[Tensor] = []
    for i, t in enumerate(r.each(graph.TensorsLength(), graph.Tensors)):
        with r.place(f"tensor {i} of {place}"):
            tensors.append(_tensor(r, t, buffers))
    count = len(tensors)
    nodes: list[Node] = []
    for i, o in enumerate(r.each(graph.OperatorsLength(), graph.Operators)):
        with r.place(f"operator {i} of {place}"):
            nodes.append(_node(r, o, codes, count))
    inputs = _indices(r, r.numbers(graph.InputsLength(), graph.InputsAsNumpy), count)
    outputs = _indices(r, r.numbers(graph.OutputsLength(), graph.OutputsAsNumpy), count)
    return Subgraph(name, tuple(tensors), inputs, outputs, tuple(nodes))


def _indices(r: _Reading, found: tuple[int, ...], count: int, least: int = 0) -> tuple[int, ...]:
    """Indices of tensors, as they are."""
    for i in found:
        if not least <= i < count:
            raise SourceError(f"{r.name} is damaged: {r.at} refers to tensor {i}, of {count} there are")
    return found


def _tensor(r: _Reading, t: Any, buffers: int) -> Tensor:
    shape = r.numbers(t.ShapeLength(), t.ShapeAsNumpy)
    signature = r.numbers(t.ShapeSignatureLength(), t.ShapeSignatureAsNumpy)
    name = r.text(t.Name())
    size = math.prod(shape) if len(shape) <= _RANK else -1
    if any(n < 0 for n in shape) or not 0 <= size < 2**48:
        raise SourceError(f"{r.name}: tensor {shown(name)} has the shape {shown(shape)}, which no tensor has")
    if t.Buffer() >= max(buffers, 1):
        raise SourceError(f"{r.name}: tensor {shown(name)} has buffer {t.Buffer()}, of {buffers} there are")
    quantization, blocks = _quantization(r, t.Quantization(), name, shape)
    sparse = _sparsity(r, t.Sparsity())
    signature = signature if len(signature) == len(shape) else shape
    has_rank = bool(t.HasRank()) or bool(shape)
    return Tensor(
        name, shape, signature, t.Type(), t.Buffer(), quantization, bool(t.IsVariable()), has_rank, sparse, blocks
    )


def _sparsity(r: _Reading, p: Any) -> Sparsity | None:
    """How the data of a tensor leaves out zeros; None if it doesn't."""
    if p is None:
        return None
    levels: list[Level] = []
    for d in r.each(p.DimMetadataLength(), p.DimMetadata):
        own = s.DimensionMetadataT.InitFromObj(d)
        parts: list[Any] = [getattr(v, "values", None) for v in (own.arraySegments, own.arrayIndices)]
        if own.format == s.DimensionType.SPARSE_CSR:
            arrays = [np.asarray([] if v is None else v) for v in parts]
            r.spend(sum(a.size for a in arrays))
            levels.append(Level(int(own.denseSize), *arrays))
        else:
            levels.append(Level(int(own.denseSize), None, None))
    order = r.numbers(p.TraversalOrderLength(), p.TraversalOrderAsNumpy)
    return Sparsity(order, r.numbers(p.BlockMapLength(), p.BlockMapAsNumpy), tuple(levels))


def _quantization(
    r: _Reading, q: Any, name: str, shape: tuple[int, ...]
) -> tuple[Quantization | None, tuple[int, int, int] | None]:
    """The scales and zero points of a tensor, or the tensors that have those of its blocks."""
    if q is None:
        return None, None
    if q.DetailsType() == s.QuantizationDetails.BlockwiseQuantization:
        own: Any = s.BlockwiseQuantization()
        table = q.Details()
        own.Init(table.Bytes, table.Pos)
        return None, (int(own.Scales()), int(own.ZeroPoints()), int(own.BlockSize()))
    count = r.spend(q.ScaleLength())
    if not count:
        return None, None
    scale = q.ScaleAsNumpy()
    points = q.ZeroPointAsNumpy() if r.spend(q.ZeroPointLength()) else np.zeros(count, np.int64)
    if len(points) == 1 and count > 1:
        points = np.repeat(points, count)
    axis = q.QuantizedDimension()
    fits = count == 1 or (0 <= axis < len(shape) and shape[axis] == count)
    if len(points) != count or not fits:
        raise SourceError(
            f"{r.name}: tensor {shown(name)} of {list(shape)} has {count} scales and {len(points)} zero points along "
            f"axis {axis}"
        )
    if not scale.any():  # written where there are none
        return None, None
    return Quantization(scale, points, axis), None


def _node(r: _Reading, o: Any, codes: list[tuple[str, int]], count: int) -> Node:
    index = o.OpcodeIndex()
    if index >= len(codes):
        raise SourceError(f"{r.name} is damaged: {r.at} is of kind {index}, of {len(codes)} there are")
    op, version = codes[index]
    inputs = _indices(r, r.numbers(o.InputsLength(), o.InputsAsNumpy), count, -1)
    outputs = _indices(r, r.numbers(o.OutputsLength(), o.OutputsAsNumpy), count)
    custom = bytes(o.CustomOptionsAsNumpy().data) if r.spend(o.CustomOptionsLength()) else b""
    between = _indices(r, r.numbers(o.IntermediatesLength(), o.IntermediatesAsNumpy), count, -1)
    return Node(op, version, inputs, outputs, _options(r, o), custom, between)


def _options(r: _Reading, o: Any) -> dict[str, Any]:
    """The options of an operator by their names, ``fused_activation_function`` for fusedActivationFunction."""
    kind, kind2 = o.BuiltinOptionsType(), o.BuiltinOptions2Type()
    if kind:
        table = s.BuiltinOptionsCreator(kind, o.BuiltinOptions())
    elif kind2:
        table = s.BuiltinOptions2Creator(kind2, o.BuiltinOptions2())
    else:
        return {}
    if table is None:
        raise SourceError(f"{r.name}: the options of {r.at} are of kind {kind or kind2}, which isn't known")
    return {_snake(k): _plain(r, v) for k, v in vars(table).items()}


def _plain(r: _Reading, value: Any) -> Any:
    """An option as numbers, text, or tuples of them."""
    if isinstance(value, np.ndarray):
        r.spend(value.size)
        return tuple(value.tolist())
    if isinstance(value, bytes):
        return r.text(value)
    if isinstance(value, list):
        r.spend(len(value))
        return tuple([_plain(r, v) for v in value])
    return value


@cache
def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _signature(r: _Reading, x: Any, graphs: list[Subgraph]) -> SignatureDef:
    index = x.SubgraphIndex()
    key = r.text(x.SignatureKey())
    if index >= len(graphs):
        raise SourceError(f"{r.name}: signature {shown(key)} is of subgraph {index}, of {len(graphs)} there are")
    count = len(graphs[index].tensors)
    named: list[dict[str, int]] = []
    for length, get in ((x.InputsLength(), x.Inputs), (x.OutputsLength(), x.Outputs)):
        named.append({r.text(t.Name()): int(t.TensorIndex()) for t in r.each(length, get)})
        _indices(r, tuple(named[-1].values()), count)
    return SignatureDef(key, index, *named)
