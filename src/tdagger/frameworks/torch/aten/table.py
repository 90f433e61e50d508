"""The one table of ATen rules, shared by every entrance, and the helpers the rules are written with.

A rule is a function named and shaped as the ATen op (``aten_transpose(x, dim0, dim1)``): tensors arrive as
values, everything else as Python values, and it returns a value or a tuple of them. Rules are pure: in-place
variants (``add_``) use the rule of the op without the underscore, and views are told by the op's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten.reasons import HALF_COMPLEX
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.source import scalar
from tdagger.ops.structure import broadcast_to
from tdagger.types import DType

Rule = Callable[..., Any]

#: ATen name, with or without overload (``aten.mean.dim``, ``aten.mean``), to its rule.
RULES: dict[str, Rule] = {}


class _Types(dict[torch.dtype, DType]):
    """A table of element types that refuses those it lacks."""

    def __missing__(self, dtype: torch.dtype) -> DType:
        why = HALF_COMPLEX.why if dtype is torch.complex32 else "there is no such element type here"
        raise UnsupportedError(f"tensors of {dtype} aren't imported: {why}")


#: torch dtype to ours.
DTYPES: dict[torch.dtype, DType] = _Types({
    torch.float16: DType.of("f16"),
    torch.bfloat16: DType.of("bf16"),
    torch.float32: DType.of("f32"),
    torch.float64: DType.of("f64"),
    torch.float8_e4m3fn: DType.of("f8e4m3"),
    torch.float8_e5m2: DType.of("f8e5m2"),
    torch.int8: DType.of("i8"),
    torch.int16: DType.of("i16"),
    torch.int32: DType.of("i32"),
    torch.int64: DType.of("i64"),
    torch.uint8: DType.of("u8"),
    torch.uint16: DType.of("u16"),
    torch.uint32: DType.of("u32"),
    torch.uint64: DType.of("u64"),
    torch.bool: DType.of("bool"),
    torch.complex64: DType.of("c64"),
    torch.complex128: DType.of("c128"),
})  # fmt: skip
#: ours to torch's.
TORCH_DTYPES: dict[DType, torch.dtype] = {ours: theirs for theirs, ours in DTYPES.items()}


#: The rules that draw random numbers: they are given ``draw``, which makes the seed of a new stream.
DRAWS: set[Rule] = set()


class Changed(NamedTuple):
    """What a rule returns if its op writes arguments that the op's schema doesn't say are written."""

    result: Any
    #: The new values of arguments, by the arguments' names.
    written: dict[str, Value]


def rule(*names: str, draws: bool = False) -> Callable[[Rule], Rule]:
    """Register a function as the rule of ATen ops: ``@rule("transpose", "swapaxes")``."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"aten.{name} has two rules"
            RULES[name] = function
        if draws:
            DRAWS.add(function)
        return function

    return register


@lru_cache(maxsize=4096)
def _result_type(kinds: tuple[Any, ...]) -> torch.dtype:
    """torch's promotion of (dtype, is rank 0) of tensors and Python types of numbers."""
    if len(kinds) == 1 and isinstance(kinds[0], tuple):
        return kinds[0][0]
    samples: list[Any] = [
        torch.empty(() if k[1] else (1,), dtype=k[0]) if isinstance(k, tuple) else k(1) for k in kinds
    ]
    result = torch.result_type(samples[0], samples[-1])
    for sample in samples[1:-1]:  # promotion of dtypes with equal standing is associative
        result = torch.promote_types(result, torch.result_type(samples[0], sample))
    return result


def promoted(*xs: Any) -> DType:
    """The element type torch computes with for these tensors and numbers."""
    kinds = tuple(
        [
            (TORCH_DTYPES[x.type.dtype], x.type.rank == 0) if isinstance(x, Value) else type(x)
            for x in xs
            if x is not None
        ]
    )
    return DTYPES[_result_type(kinds)]


def promote(*xs: Any) -> tuple[Any, ...]:
    """The tensors cast to the element type torch computes with; numbers stay numbers."""
    to = promoted(*xs)
    return tuple([cast(x, to) if isinstance(x, Value) else x for x in xs])


def number(value: Any, dtype: DType) -> Any:
    """A Python number as torch takes it to an element type: to integers it is cut."""
    return scalar(int(value) if dtype.is_int else value, dtype)


def joining(kind: str, dtype: DType) -> str:
    """The kind of scatter that adds (or multiplies) entries of ``dtype``: of bools it is or (and)."""
    return {"add": "max", "multiply": "min"}.get(kind, kind) if dtype.name == "bool" else kind


def floating(x: Value) -> Value:
    """``x`` as torch takes it to functions of real numbers: ints and bools become the default float."""
    return x if x.dtype.is_float or x.dtype.is_complex else cast(x, DTYPES[torch.get_default_dtype()])


def axes_of(dim: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The axes ``dim`` names: None or nothing means all; a tensor of rank 0 takes 0 and -1."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(rank))
    named = (dim,) if isinstance(dim, int) else tuple(dim)
    if rank == 0:
        return ()
    return tuple(sorted(d % rank for d in named))


def tuple_of(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for every spatial axis, or the sequence itself."""
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) * count if len(value) == 1 and count > 1 else tuple(value)


def expand(x: Value, shape: Sequence[int]) -> Value:
    """``x`` broadcast to ``shape``, where -1 keeps a size."""
    ahead = len(shape) - x.rank
    full = [x.shape[i - ahead] if n == -1 else n for i, n in enumerate(shape)]
    return broadcast_to(x, full)


def unsupported(why: str) -> UnsupportedError:
    """An error for what an ATen op can't be imported with."""
    return UnsupportedError(why)
