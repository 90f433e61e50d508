"""Which globals the code of a network can get at: those that it names, and what these name in turn.

A module may hold data sets, vocabularies and other networks beside the class of a network: nothing that a run of it
could change, and too much to be looked through and kept at every capture.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

#: What gets at things by other ways than their names.
_ANYTHING = frozenset({"globals", "__globals__", "eval", "exec", "vars", "sys", "importlib", "__import__", "ops"})

_PARTS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",), classmethod: ("__func__",), property: ("fget", "fset", "fdel"),
    functools.cached_property: ("func",), functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"), functools._lru_cache_wrapper: ("__wrapped__",),
    types.MethodType: ("__func__", "__self__"),
}  # fmt: skip


def reached(roots: Iterable[Any], scopes: Collection[Mapping[str, Any]], outside: Collection[str]) -> set[str] | None:
    """The names that code says which begins at ``roots`` (classes, functions, objects) and goes on in some scopes.

    None for code that may get at anything, as what calls ``eval``. Classes of the packages ``outside`` aren't looked
    into.

    >>> sorted(reached([_said], [_said.__globals__], ()))
    ['CodeType', '_said', 'co_consts', 'co_names', 'isinstance', 'types']
    """
    own = {id(s) for s in scopes}
    names: set[str] = set()
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if type(x) is types.FunctionType and id(x.__globals__) in own:
            new = _said(x.__code__) - names
            if not new.isdisjoint(_ANYTHING):
                return None
            names |= new
            stack += [scope[n] for scope in scopes for n in new if n in scope]
        stack += _parts(x, outside)
    return names


def _said(code: types.CodeType) -> set[str]:
    """The names in code, and in what is defined inside."""
    found = {*code.co_names}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _said(inner)
    return found


def _parts(x: Any, outside: Collection[str]) -> Iterator[Any]:
    """What is inside a thing that may be code, or hold some."""
    kind = type(x)  # not isinstance, which asks a proxy what it stands for
    if kind in _PARTS:
        for name in _PARTS[kind]:
            yield getattr(x, name)
    elif kind is types.FunctionType:
        yield from x.__closure__ or ()
        yield x.__defaults__
        yield x.__kwdefaults__
        yield from vars(x).values()
    elif kind is types.CellType:
        try:
            yield x.cell_contents
        except ValueError:  # nothing was put into it yet
            return
    elif issubclass(kind, type):
        if x.__module__.partition(".")[0] not in outside:
            yield from vars(x).values()
            yield from x.__bases__
    elif issubclass(kind, dict):
        yield from dict.values(x)
    elif issubclass(kind, list | tuple | set | frozenset | deque):
        yield from x
    elif kind.__dictoffset__ and not issubclass(kind, Tensor | types.ModuleType):
        yield kind
        yield from vars(x).values()
