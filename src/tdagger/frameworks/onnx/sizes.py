"""The sizes of a model's inputs: what its file says, what the caller says, and what is missing.

A dimension of an input has a number, a name (``dim_param``), or nothing. Nothing, a negative number, and a 0 in a
model that has weights are placeholders; they go by the input and the place: ``x.0``. One call may give sizes by these
names, whole shapes by the names of inputs, or both; a shape also binds the names in it for the other inputs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, cast

from tdagger.errors import InputError, SourceError, UnsupportedError
from tdagger.frameworks.onnx.tensors import DTYPES, name_of
from tdagger.names import is_identifier, shown
from tdagger.op import Value
from tdagger.types import DType, TensorType

#: More entries than any dimension has.
_LONGEST = 2**40
#: The element types of weights: float, half, double, bfloat16.
_FLOATS = frozenset({1, 10, 11, 16})


class Declared(NamedTuple):
    """What a file says of an input: a number or a name for each dimension, None for all where it says no rank."""

    name: str
    dtype: DType
    dims: tuple[int | str, ...] | None

    @property
    def free(self) -> bool:
        """Whether it leaves a size open."""
        return self.dims is None or any(isinstance(d, str) for d in self.dims)


def declared(info: Any, zero_is_open: bool) -> Declared:
    """What a file says of an input; UnsupportedError if it is no tensor of a type there is here."""
    which = info.type.WhichOneof("value")
    if which != "tensor_type":
        raise UnsupportedError(
            f"input {shown(info.name)} is {'of no type' if which is None else which}, not a tensor: sequences, "
            "optionals, maps and sparse tensors aren't imported"
        )
    tensor = info.type.tensor_type
    if tensor.elem_type not in DTYPES:
        raise UnsupportedError(
            f"input {shown(info.name)} is a tensor of {name_of(tensor.elem_type)}: there is no such element type here"
        )
    dtype = DTYPES[tensor.elem_type]
    if not tensor.HasField("shape"):
        return Declared(info.name, dtype, None)
    dims: list[int | str] = []
    for i, d in enumerate(tensor.shape.dim):
        which = d.WhichOneof("value")
        if which == "dim_value" and (d.dim_value > 0 or (d.dim_value == 0 and not zero_is_open)):
            dims.append(d.dim_value)
        else:
            if isinstance(d.dim_param, bytes):
                raise SourceError(f"a size of input {shown(info.name)} has a name that isn't UTF-8")
            named = d.dim_param if any(c.isalpha() for c in d.dim_param) else ""  # some write "?" or "-1"
            dims.append(named or f"{info.name}.{i}")
    return Declared(info.name, dtype, tuple(dims))


def inputs_of(
    graph: Any, tensors: Container[str] | None = None, nested: Mapping[str, Sequence[str]] | None = None
) -> list[Declared]:
    """What a file says of the inputs of its graph, but for those that are its own ``tensors``.

    ``nested`` are names of the tensors in those that are sequences or optional. SourceError where two have one name, or
    one has none.
    """
    if tensors is None:
        tensors = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    zero_is_open = any(t.data_type in _FLOATS and len(t.dims) for t in graph.initializer)
    found: dict[str, Declared] = {}
    for info in graph.input:
        name = info.name
        if name in tensors:
            continue
        if not name or name in found:
            raise SourceError(f"the model has two inputs called {shown(name)}" if name else "an input has no name")
        if nested is not None and name in nested:
            found |= {n: Declared(n, _dtype_inside(info.type), None) for n in nested[name]}
        else:
            found[name] = declared(info, zero_is_open)
    return list(found.values())


def _dtype_inside(kind: Any) -> DType:
    """The element type of the tensors in a sequence, or of an optional tensor."""
    while (which := kind.WhichOneof("value")) != "tensor_type":
        kind = getattr(kind, which).elem_type
    return DTYPES[kind.tensor_type.elem_type]


class Bound(NamedTuple):
    """The types of the inputs, and what their names for sizes stand for."""

    types: dict[str, TensorType]
    sizes: dict[str, int]


def bound(inputs: Sequence[Declared], sizes: Mapping[str, Any] | None, shapes: Mapping[str, Any] | None) -> Bound:
    """The types of inputs with these sizes and shapes; InputError for all that is missing or doesn't fit."""
    by_name = {i.name: i for i in inputs}
    wanted = dict.fromkeys(d for i in inputs for d in i.dims or () if isinstance(d, str))
    given = {n: _size(s, f"sizes[{shown(n)!r}]") for n, s in (sizes or {}).items()}
    _known(given, wanted, "size", "sizes")
    told = {n: _shape(s, n) for n, s in (shapes or {}).items()}
    _known(told, by_name, "input", "inputs")
    why = dict.fromkeys(given, "sizes")
    for name, shape in told.items():
        dims = by_name[name].dims
        if dims is None:
            continue
        if len(dims) != len(shape):
            raise InputError(f"input {shown(name)} has {len(dims)} dimensions {_shown(dims)}, not {shape}")
        for d, n in zip(dims, shape, strict=True):
            if isinstance(d, int) and d != n:
                raise InputError(
                    f"input {shown(name)} has the shape {_shown(dims)} in the file, {shape} isn't that: import it as "
                    "it is, and resize it"
                )
            if isinstance(d, str) and given.setdefault(d, n) != n:
                raise InputError(
                    f"{shown(d)} is {given[d]} by {why[d]}, but {n} by the shape {shape} of input {shown(name)}"
                )
            if isinstance(d, str):
                why.setdefault(d, f"the shape of input {shown(name)}")
    _ask(
        [n for n in wanted if n not in given], [i.name for i in inputs if i.dims is None and i.name not in told], inputs
    )
    types: dict[str, TensorType] = {}
    for i in inputs:
        shape = told[i.name] if i.dims is None else tuple([given[d] if isinstance(d, str) else d for d in i.dims])
        types[i.name] = TensorType(shape, i.dtype)
    return Bound(types, given)


def _ask(sizes: list[str], shapes: list[str], inputs: Sequence[Declared]) -> None:
    """InputError that asks for sizes and shapes, if there are any to ask for."""
    asks: list[str] = []
    if sizes:
        asks.append(f"sizes={{{', '.join(f'{shown(n)!r}: ...' for n in sizes)}}}")
    if shapes:
        asks.append(f"inputs={{{', '.join(f'{shown(n)!r}: (...)' for n in shapes)}}}")
    if asks:
        own = "; ".join(f"{shown(i.name)} {_shown(i.dims)}" for i in inputs if i.free)
        raise InputError(f"the file leaves sizes of its inputs open ({own}): give {' and '.join(asks)}")


def _shown(dims: Sequence[int | str] | None) -> str:
    return "of any rank" if dims is None else f"[{' '.join(shown(d) for d in dims)}]"


def _known(given: Mapping[str, Any], known: Mapping[str, Any], what: str, argument: str) -> None:
    odd = [n for n in given if n not in known]
    if odd:
        raise InputError(
            f"{argument}: there is no {what} {', '.join(shown(n) for n in odd)} in the model; it has "
            f"{', '.join(map(shown, known)) or 'none'}"
        )


def _size(size: Any, what: str) -> int:
    if isinstance(size, bool) or not hasattr(size, "__index__") or not 0 <= int(size) < _LONGEST:
        raise InputError(f"{what} is a number of entries, not {size!r}")
    return int(size)


def _shape(shape: Any, name: str) -> tuple[int, ...]:
    if isinstance(shape, str) or not hasattr(shape, "__iter__"):
        raise InputError(f"inputs[{shown(name)!r}] is a shape, not {shape!r}")
    return tuple([_size(n, f"inputs[{shown(name)!r}]") for n in cast(Sequence[Any], shape)])


def axis_names(inputs: Sequence[Declared], sizes: Mapping[str, int]) -> dict[str, str]:
    """The names that a file has for dimensions of its inputs, as ``TensorDAG.axis_names`` has them.

    Only those that are names; where a name is written twice in one input it stands for sizes, not for an axis.
    """
    found: dict[str, str] = {}
    for i in inputs:
        dims = i.dims or ()
        names = [
            d if isinstance(d, str) and is_identifier(d) and d != "_" and dims.count(d) == 1 and sizes.get(d) else "_"
            for d in dims
        ]
        if any(n != "_" for n in names):
            found[i.name] = " ".join(names)
    return found


# --- lies ----------------------------------------------------------------------------------------------------


def lie(info: Any, value: Value, sizes: Mapping[str, int]) -> str:
    """What a file says of a value that isn't so, and what is; nothing if it is."""
    kind = info.type.tensor_type
    type_ = value.type
    if kind.elem_type and kind.elem_type in DTYPES and DTYPES[kind.elem_type] is not type_.dtype:
        return f"{shown(info.name)} is {type_}, not {name_of(kind.elem_type)}"
    if not kind.HasField("shape"):
        return ""
    dims = kind.shape.dim
    wrong = len(dims) != type_.rank
    if not wrong:
        for d, n in zip(dims, type_.shape, strict=True):
            told = d.dim_value or (sizes.get(d.dim_param) if d.dim_param else None) or 0
            if told > 0 and told != n:
                wrong = True
                break
    if not wrong:
        return ""
    said = " ".join(shown(d.dim_param or (d.dim_value if d.HasField("dim_value") else "?")) for d in dims)
    return f"{shown(info.name)} is {type_}, not [{said}]"
