"""The integers that a network's code compares sizes with (``if n == 3``, ``assert n <= 512``): another way may begin.

They are read from the bytecode of ``forward``, of what the network has that is named there, and of functions beside it
in the file. Each costs a question; what is compared elsewhere, or with what isn't written as a number, isn't seen.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from tdagger.frameworks.torch.capture.attributes import OUTSIDE

#: What code says that asks for sizes.
_SIZES = frozenset({"shape", "size", "len", "numel"})

#: So many instructions before a comparison what is compared is loaded.
_BEFORE = 6

#: What takes a number that is loaded right before it: an index, an argument.
_TAKES = ("BINARY_SUBSCR", "PRECALL", "CALL")


def compared(model: nn.Module) -> list[int]:
    """The numbers above 1 that code of a network compares with, in which sizes are asked for.

    >>> scope = {"__name__": "net", "nn": nn}  # what is tdagger's own isn't looked at
    >>> exec('''class Net(nn.Module):
    ...     def forward(self, x):
    ...         return x if x.shape[0] == 7 or x.dim() == 4 else x + 9''', scope)
    >>> compared(scope["Net"]())
    [7]
    """
    found: set[int] = set()
    for code in _codes(model):
        if not _SIZES.isdisjoint(code.co_names) and any(type(n) in (int, tuple) for n in code.co_consts):
            found.update(n for n in _numbers(code) if n > 1)
    return sorted(found)


def _codes(model: nn.Module) -> Iterator[types.CodeType]:
    """The code that a network's ``forward`` begins with, and that of what it names."""
    kinds = {type(m) for m in model.modules()}
    by_name: dict[str, list[Any]] = {}  # what may be meant by an attribute of a module
    for scope in (*map(vars, {c for kind in kinds for c in kind.__mro__ if _is_own(c)}), *map(vars, model.modules())):
        for name, x in scope.items():
            if isinstance(x, types.FunctionType | staticmethod | classmethod | property):
                by_name.setdefault(name, []).append(x)
    files = {getattr(x, "__module__", None) for x in by_name.get("forward", ())}
    stack: list[Any] = list(by_name.get("forward", ()))
    seen: set[int] = set()
    while stack:
        x = stack.pop()
        x = getattr(x, "__func__", getattr(x, "fget", x))
        if not isinstance(x, types.FunctionType) or id(x) in seen or not _is_own(x):
            continue
        seen.add(id(x))
        codes = [x.__code__]
        for code in codes:  # grows
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
            for name in code.co_names:
                stack += by_name.get(name, ())
                other = x.__globals__.get(name)
                stack += [other] if getattr(other, "__module__", None) in files else []
        stack += [cell.cell_contents for cell in x.__closure__ or () if _is_full(cell)]
        yield from codes


def _is_own(x: Any) -> bool:
    return str(x.__module__).partition(".")[0] not in OUTSIDE


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # nothing was put into it yet
        return False


def _numbers(code: types.CodeType) -> Iterator[int]:
    """The integers that are loaded right before a comparison, but those that ranks are compared with."""
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname not in ("COMPARE_OP", "CONTAINS_OP"):
            continue
        before = steps[max(0, i - _BEFORE) : i]
        said = {s.argval for s in steps[max(0, i - 2 * _BEFORE) : i] if isinstance(s.argval, str)}
        if said & {"dim", "ndim"} or {"len", "shape"} <= said:
            continue
        for own, after in zip(before, [*before[1:], step], strict=True):
            if after.opname not in _TAKES and own.opname.startswith("LOAD_"):
                numbers = own.argval if isinstance(own.argval, tuple) else (own.argval,)
                yield from (n for n in numbers if type(n) is int)
