"""The modules that exporting makes: a tree of state, and a ``forward`` compiled from generated source."""

from __future__ import annotations

import inspect
import itertools
import linecache
import math
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch import runtime
from tdagger.names import is_attribute, is_identifier, shown


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

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Buffers that aren't saved keep their values where others lose them: on ``to("meta")`` and ``to_empty``."""
        kept: dict[str, torch.Tensor] = self.__dict__.get("_kept", {})
        before = {n: kept.get(n, self._buffers[n]) for n in self._non_persistent_buffers_set}
        super()._apply(fn, recurse)
        kept = {}
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and not old.is_meta:
                if new.is_meta:
                    kept[name] = old
                else:
                    self._buffers[name] = old.to(new)
        if kept or "_kept" in self.__dict__:
            self.__dict__["_kept"] = kept
        return self


class Source(NamedTuple):
    """The code of a ``forward``, what its names stand for, and what the class is called; no code: it has no forward.

    ``whole``: it is the network's own.
    """

    code: str
    names: dict[str, Any]
    title: str
    whole: bool = False


class GeneratedBlock(Block):
    """A module of a network whose ``forward`` is generated code."""

    _source = Source("", {}, "")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (empty_module, tuple(self._source), dict(self.__dict__))


class GeneratedModule(GeneratedBlock):
    """A network as generated code; ``print(module.code)`` shows it."""

    __jit_unused_properties__ = ("code", "fixed_axes")  # torch.jit.script compiles properties too

    @property
    def code(self) -> str:
        """The source of its class, after those of the modules in it."""
        return "\n\n".join(text for _, text in sources(self).values())

    @property
    def fixed_axes(self) -> dict[str, str]:
        """The axes of its inputs that have the size of the example, and why; none if ``to_torch`` fixed all sizes."""
        return dict(self.__dict__.get("_fixed_axes", ()))


def sources(root: nn.Module) -> dict[type, tuple[str, str]]:
    """For each generated class in a module its name and source, inner ones first."""
    kinds: dict[type, None] = {}

    def visit(module: nn.Module) -> None:
        for child in module.children():
            visit(child)
        if isinstance(module, GeneratedBlock):
            kinds.setdefault(type(module))

    visit(root)
    taken = {"Block", "F", "MODULES", "Path", "STATE", "inf", "load", "load_file", "nan", "nn", "runtime", "torch"}
    found: dict[type, tuple[str, str]] = {}
    for kind in kinds:
        name, count = kind.__name__, 2
        while name in taken:
            name, count = f"{kind.__name__}_{count}", count + 1
        taken.add(name)
        code: str = kind._source.code if issubclass(kind, GeneratedBlock) else ""
        text = (code or "pass\n").splitlines(keepends=True)
        lines = "".join(f"    {line}" if line.strip() else line for line in text)
        found[kind] = (name, f"class {name}(Block):\n{lines}")
    return found


def _traceable(signature: inspect.Signature) -> inspect.Signature:
    """What ``torch.jit.trace`` has to be told: it only takes keyword arguments that could be given by position too.

    Python itself refuses them by position, whatever is told.
    """
    kinds = inspect.Parameter
    told = [p.replace(kind=kinds.POSITIONAL_OR_KEYWORD) if p.kind is kinds.KEYWORD_ONLY else p
            for p in signature.parameters.values()]  # fmt: skip
    return signature.replace(parameters=sorted(told, key=lambda p: (p.kind, p.default is not p.empty)))


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
    if forward.__code__.co_kwonlyargcount:
        forward.__signature__ = _traceable(inspect.signature(forward))
    for table in (linecache.cache, sys.modules):
        weakref.finalize(forward, table.pop, file, None)
    return forward


#: Generated classes by what they were made of, as long as there is a module of one.
_classes: weakref.WeakValueDictionary[Any, type[GeneratedBlock]] = weakref.WeakValueDictionary()


def generated_class(source: Source) -> type[GeneratedBlock]:
    """The class of generated code: one for equal code."""
    key = (source.code, source.title, source.whole, tuple([(n, id(v)) for n, v in source.names.items()]))
    found = _classes.get(key)
    if found is None:
        members: dict[str, Any] = {"_source": source}
        if source.code:
            members["forward"] = _compiled(source)
        name = source.title if is_identifier(source.title) else "Network"
        made: Any = type(name, (GeneratedModule if source.whole else GeneratedBlock,), members)
        found = _classes[key] = made
    return cast(Any, found)


def empty_module(code: str, names: dict[str, Any], title: str, whole: bool = False) -> GeneratedBlock:
    """A module of the generated code that has no state yet."""
    kind = generated_class(Source(code, names, title, whole))
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    return module


class Entry(NamedTuple):
    """One tensor of a state: its path, the tensor, and whether it is a buffer that isn't saved."""

    path: str
    tensor: torch.Tensor
    persistent: bool = True


def assembled(parts: Mapping[str, Callable[[], nn.Module]], state: Iterable[Entry], trains: bool = False) -> Any:
    """The module of parts by their paths, those around them first, with the tensors of a state in their places.

    What a path passes and no part is at is a :class:`Block`.
    """
    made: dict[str, nn.Module] = {"": parts[""]()}

    def at(path: str) -> nn.Module:
        way = [path]
        while way[-1] not in made:
            way.append(way[-1].rpartition(".")[0])
        for inner in way[-2::-1]:
            owner, _, name = inner.rpartition(".")
            held = made[owner]._modules
            if held.get(name) is None:  # some layers have layers of their own
                held[name] = parts.get(inner, Block)()
            made[inner] = cast(nn.Module, held[name])
        return made[path]

    for path in parts:
        at(path)
    for path, tensor, persistent in state:
        owner, _, name = path.rpartition(".")
        module = at(owner)
        if not name or name in _INSTANCE or path.startswith(".") or name in module._modules:
            raise UnsupportedError(
                f"no module of torch has a weight called {shown(path)}: rename it, dag.rename({{...}})"
            )
        if name in module._parameters or name in module._buffers:
            setattr(module, name, tensor)  # a layer's own: recurrent ones keep a list of theirs
        elif isinstance(tensor, nn.Parameter):
            module._parameters[name] = tensor
        else:
            module._buffers[name] = tensor
            if not persistent:
                module._non_persistent_buffers_set.add(name)
    return made[""].train(trains)


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
