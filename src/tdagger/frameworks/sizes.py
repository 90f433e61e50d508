"""The sizes of a file's inputs: what it says, what the caller says, and what is missing.

A dimension of an input has a number, or a name where the file leaves it open: its own, or one by the input and the
place, ``x.0``. One call may give sizes by these names, whole shapes by the names of inputs, or both; a shape also binds
the names in it for the other inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from tdagger.errors import InputError
from tdagger.names import is_identifier, shown
from tdagger.types import DType, TensorType

#: More entries than any dimension has.
_LONGEST = 2**40


class Declared(NamedTuple):
    """What a file says of an input: a number or a name for each dimension, None for all where it says no rank."""

    name: str
    dtype: DType
    dims: tuple[int | str, ...] | None

    @property
    def free(self) -> bool:
        """Whether it leaves a size open."""
        return self.dims is None or any(isinstance(d, str) for d in self.dims)


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
