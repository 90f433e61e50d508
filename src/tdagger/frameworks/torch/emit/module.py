"""The modules that exporting makes: a tree of state, and a ``forward`` compiled from generated source."""

from __future__ import annotations

import itertools
import linecache
import math
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tdagger.frameworks.torch import runtime
from tdagger.names import is_attribute, shown


class Block(nn.Module):
    """A module that only holds parameters, buffers and other blocks, found by name or number."""

    def __getitem__(self, key: int | str) -> Any:
        name = str(key)
        for held in (self._modules, self._parameters, self._buffers):
            if name in held:
                return held[name]
        raise KeyError(f"there is no {name!r} here")

    def __len__(self) -> int:
        return len(self._modules)

    def __bool__(self) -> bool:
        return True


class Source(NamedTuple):
    """Generated code, what its names stand for, and what the module is called."""

    code: str
    names: dict[str, Any]
    title: str


class GeneratedModule(Block):
    """A network as generated code over its state; ``print(module.code)`` shows it."""

    _source: Source

    @property
    def code(self) -> str:
        """The source of ``forward``."""
        return self._source.code

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = dict(self.__dict__)
        state.pop("_source")
        return (empty_module, tuple(self._source), state)


_numbers = itertools.count(1)


def _compiled(source: Source) -> Callable[..., Any]:
    """``forward``, whose lines tracebacks can show."""
    file = f"<tdagger {shown(source.title)} {next(_numbers)}>"
    lines = source.code.splitlines(keepends=True)
    linecache.cache[file] = (len(source.code), None, lines, file)
    module = sys.modules[file] = ModuleType(file)  # torch.compile asks for it where it meets a function of the code
    scope = vars(module)
    scope.update({"torch": torch, "F": F, "runtime": runtime, "inf": math.inf, "nan": math.nan, **source.names})
    exec(compile(source.code, file, "exec"), scope)
    forward = scope.pop("forward")  # or the module would keep it, and it the module
    for table in (linecache.cache, sys.modules):
        weakref.finalize(forward, table.pop, file, None)
    return forward


def empty_module(code: str, names: dict[str, Any], title: str) -> GeneratedModule:
    """A module of the generated code that has no state yet."""
    source = Source(code, names, title)
    kind = type(title if title.isidentifier() else "Network", (GeneratedModule,), {"forward": _compiled(source)})
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    module.__dict__["_source"] = source
    return module


class Entry(NamedTuple):
    """One tensor of a state: its path, the tensor, and whether it is a buffer that isn't saved."""

    path: str
    tensor: torch.Tensor
    persistent: bool = True


def fill(root: Block, state: Iterable[Entry], modules: Iterable[str]) -> None:
    """Put tensors at their paths, and a block at every module path."""

    def block(path: str) -> Block:
        at = root
        for part in path.split(".") if path else ():
            inner = at._modules.get(part)
            if inner is None:
                inner = at._modules[part] = Block()
                inner.training = root.training
            assert isinstance(inner, Block)
            at = inner
        return at

    for path, tensor, persistent in state:
        owner, _, name = path.rpartition(".")
        at = block(owner)
        if isinstance(tensor, nn.Parameter):
            at._parameters[name] = tensor
        else:
            at._buffers[name] = tensor
            if not persistent:
                at._non_persistent_buffers_set.add(name)
    for path in modules:
        block(path)


def path_expression(start: str, parts: Sequence[str]) -> str:
    """``self.layer1[0].weight``; names that Python or nn.Module uses otherwise are looked up by key."""
    out = start
    for part in parts:
        if part.isdecimal() and str(int(part)) == part:
            out += f"[{part}]"
        elif is_attribute(part) and not _is_taken(part):
            out += f".{part}"
        else:
            out += f"[{part!r}]"
    return out


def _is_taken(name: str) -> bool:
    return hasattr(GeneratedModule, name) or name in _INSTANCE


_INSTANCE: Mapping[str, Any] = {**vars(nn.Module()), "_source": None}
