"""MIL's literals, and the constants of a program: arrays that are read, or decompressed, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.coreml.read import Model, kind_of
from tdagger.frameworks.coreml.types import KINDS, STRING, as_array, bytes_of
from tdagger.names import shown
from tdagger.network import Mapped
from tdagger.op import Array
from tdagger.types import TensorType

#: More entries than any dimension has.
_LONGEST = 2**40


class Constant:
    """A tensor of numbers whose data is read when it is asked for. ``kind``: MIL's number of its element type.

    ``quantized`` says of which integers it is made, if it is (:mod:`.quantized`).
    """

    __slots__ = ("array", "kind", "load", "quantized", "shape")

    def __init__(self, kind: int, shape: tuple[int, ...], load: Callable[[], Array]) -> None:
        self.kind = kind
        self.shape = shape
        self.load = load
        self.array: Array | None = None
        self.quantized: Any = None

    @property
    def type(self) -> TensorType:
        return TensorType(self.shape, KINDS[self.kind].dtype)

    @property
    def small(self) -> bool:
        return self.type.size <= 1 << 16

    def read(self) -> Array:
        """The data; small ones are kept."""
        if self.array is not None:
            return self.array
        found = self.load()
        if found.shape != self.shape or found.dtype != KINDS[self.kind].dtype.numpy:
            raise SourceError(f"a constant is {found.dtype}{list(found.shape)}, where the model says {self.type}")
        if self.small:
            self.array = found
        return found


class Tensors(Mapped):
    """The weights of a program by name, read when they are asked for."""

    def __init__(self, held: dict[str, Constant]) -> None:
        self.held = held

    def __getitem__(self, name: str) -> Array:
        return self.held[name].read()

    def part(self, names: Iterable[str]) -> Tensors:
        """Those of some names."""
        return Tensors({n: self.held[n] for n in names})

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


def dims_of(tensor: Any, what: str) -> tuple[int | None, ...]:
    """The sizes of a TensorType of MIL, None for those that it leaves open."""
    found: list[int | None] = []
    for d in tensor.dimensions:
        which = d.WhichOneof("dimension")
        if which == "constant":
            if d.constant.size > _LONGEST:
                raise SourceError(f"{what}: no dimension has {d.constant.size} entries")
            found.append(int(d.constant.size))
        elif which == "unknown" and not d.unknown.variadic:
            found.append(None)
        else:
            raise SourceError(f"{what}: a dimension is neither a number nor open")
    if tensor.rank != len(found):
        raise SourceError(f"{what}: a type of rank {tensor.rank} has {len(found)} dimensions")
    return tuple(found)


def literal(value: Any, model: Model, what: str) -> Any:
    """What a Value of MIL is: a Constant, a string, or a tuple or dict of such."""
    which = value.WhichOneof("value")
    kind = value.type.WhichOneof("type")
    if which == "blobFileValue":
        if kind != "tensorType":
            raise SourceError(f"{what}: a value of a weight file has to be a tensor")
        number, shape = _tensor_type(value.type.tensorType, what)
        blob = value.blobFileValue
        return Constant(number, shape, lambda: model.blob(blob.fileName, blob.offset, number, shape))
    if which != "immediateValue":
        raise SourceError(f"{what}: a constant without a value")
    now = value.immediateValue
    inner = now.WhichOneof("value")
    if inner == "tensor":
        return _tensor(now.tensor, value.type, what)
    if inner == "tuple":
        return tuple([literal(v, model, what) for v in now.tuple.values])
    if inner == "list":
        return tuple([literal(v, model, what) for v in now.list.values])
    if inner == "dictionary":
        return {_key(p.key, model, what): literal(p.value, model, what) for p in now.dictionary.values}
    raise SourceError(f"{what}: a constant without a value")


def _key(value: Any, model: Model, what: str) -> Any:
    found = literal(value, model, what)
    return found if isinstance(found, str) else found.read().reshape(-1).tolist()[0]


def _tensor_type(tensor: Any, what: str) -> tuple[int, tuple[int, ...]]:
    kind_of(tensor.dataType, what)
    dims = dims_of(tensor, what)
    if None in dims:
        raise SourceError(f"{what}: a constant has a size that is left open")
    return tensor.dataType, cast(tuple[int, ...], dims)


#: The fields of a literal tensor by element type, and the type that protobuf has them in.
_FIELDS: dict[int, tuple[str, Any]] = {
    1: ("bools", np.bool_), 11: ("floats", np.float32), 12: ("doubles", np.float64), 23: ("ints", np.int32),
    24: ("longInts", np.int64), 33: ("ints", np.int32), 34: ("longInts", np.int64), 21: ("ints", np.int32),
    31: ("ints", np.int32), 22: ("ints", np.int32), 32: ("ints", np.int32),
}  # fmt: skip


def _tensor(tensor: Any, declared: Any, what: str) -> Any:
    if declared.WhichOneof("type") != "tensorType":
        raise SourceError(f"{what}: a tensor of numbers that is declared as something else")
    field = tensor.WhichOneof("value")
    if declared.tensorType.dataType == STRING:
        dims_of(declared.tensorType, what)
        values = list(tensor.strings.values)
        if field != "strings" or (declared.tensorType.rank == 0 and len(values) != 1):
            raise SourceError(f"{what}: a string without a value")
        return values[0] if declared.tensorType.rank == 0 else tuple(values)
    number, shape = _tensor_type(declared.tensorType, what)
    kind = KINDS[number]
    count = 1
    for n in shape:
        count *= n
    if field == "bytes":
        data = np.frombuffer(tensor.bytes.values, np.uint8)
        if data.size != bytes_of(count, kind):
            raise SourceError(
                f"{what}: {data.size} bytes, where {kind.name} of shape {list(shape)} takes {bytes_of(count, kind)}"
            )
        return Constant(number, shape, lambda: as_array(data, count, kind).reshape(shape))
    expected = _FIELDS.get(number)
    if field is None and count == 0:
        return Constant(number, shape, lambda: np.zeros(shape, kind.dtype.numpy))
    if field is None or expected is None or expected[0] != field:
        raise SourceError(f"{what}: a tensor of {kind.name} has its numbers in the field {shown(str(field))}")
    values = getattr(tensor, field).values
    if len(values) != count:
        raise SourceError(f"{what}: {len(values)} numbers, where the shape {list(shape)} takes {count}")
    return Constant(
        number, shape, lambda: np.asarray(values, expected[1]).reshape(shape).astype(kind.dtype.numpy, copy=False)
    )
