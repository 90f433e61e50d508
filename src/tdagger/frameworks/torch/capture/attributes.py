"""What a network keeps in its attributes: found, compared and put back.

Everything that changes is a *box*: the attributes of a module or another object, a list, a dict, the cell of a
closure, a class, the globals of the module a class is from. A box has entries by key, some of them tensors.
"""

from __future__ import annotations

import functools
import operator
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tdagger.frameworks.torch.capture.reached import reached
from tdagger.frameworks.torch.capture.surroundings import random_numbers_kept
from tdagger.names import untaken

#: The attributes of a module that hold what is registered: their entries are named as the module's own.
REGISTERED = ("_parameters", "_buffers", "_modules")

#: Boxes that are written as others of their kind are.
_BOXES: dict[str, tuple[type, ...]] = {
    "dict": (dict,), "list": (list, deque), "tuple": (tuple,), "set": (set,),
    "function": (types.FunctionType,), "method": (types.MethodType,), "partial": (functools.partial,),
    "cell": (types.CellType,),
}  # fmt: skip

#: Packages whose classes hold nothing that a network computes.
OUTSIDE = sys.stdlib_module_names | {"torch", "numpy", "tdagger"}

#: What can stand in the globals of a module, or on a class, and hold what a network computed.
_HOLDING = frozenset({"tensor", "dict", "list", "set"})


@functools.cache
def kind_of(cls: type) -> str:
    """What the objects of a class are: ``tensor``, a kind of box, ``object``, or "" if nothing is looked for inside."""
    if issubclass(cls, Tensor):
        return "tensor"
    for kind, classes in _BOXES.items():
        if issubclass(cls, classes):
            return kind
    if issubclass(cls, nn.Module):
        return "" if issubclass(cls, torch.jit.ScriptModule) else "object"
    if issubclass(cls, type) or not cls.__dictoffset__ or cls.__module__.partition(".")[0] in OUTSIDE:
        return "object" if cls is types.SimpleNamespace else ""
    return "object"


def contents(box: Any, kind: str) -> dict[Any, Any]:
    """The entries of a box."""
    match kind:
        case "dict":
            return box.copy() if box.__class__ is dict else dict(dict.items(box))
        case "list" | "tuple":
            return dict(enumerate(box))
        case "set":
            return {id(x): x for x in box}
        case "class":
            return {k: v for k, v in vars(box).items() if not k.startswith("__")}
        case "function":
            cells = zip(box.__code__.co_freevars, box.__closure__ or (), strict=True)
            return {**dict(cells), "__defaults__": box.__defaults__, "__kwdefaults__": box.__kwdefaults__}
        case "method":
            return {"": box.__self__}
        case "partial":
            return {"func": box.func, "args": box.args, "keywords": box.keywords}
        case "cell":
            try:
                return {"": box.cell_contents}
            except ValueError:  # nothing was put into it yet
                return {}
        case _:
            return vars(box)


def _put(box: Any, kind: str, key: Any, value: Any) -> None:
    """Put a value in the place of an entry."""
    match kind:
        case "class":
            setattr(box, key, value)
        case "cell":
            box.cell_contents = value
        case "function":
            setattr(box, key, value)
        case "partial":
            parts = {**contents(box, kind), key: value}
            box.__setstate__((parts["func"], parts["args"], parts["keywords"], vars(box)))
        case "dict":
            (OrderedDict if isinstance(box, OrderedDict) else dict).__setitem__(box, key, value)
        case _:
            box[key] = value


def _fill(box: Any, kind: str, entries: Mapping[Any, Any]) -> None:
    """Give a box these entries and no others."""
    match kind:
        case "dict":
            base = OrderedDict if isinstance(box, OrderedDict) else dict
            base.clear(box)
            for key, value in entries.items():
                base.__setitem__(box, key, value)
        case "list" | "set":
            box.clear()
            (box.extend if kind == "list" else box.update)(entries.values())
        case "class" | "globals":
            now = contents(box, "class") if kind == "class" else dict(box)
            for key in [k for k in {**now, **entries} if now.get(k, _NOTHING) is not entries.get(k, _NOTHING)]:
                if kind == "globals" and not _holds(now.get(key)) and not _holds(entries.get(key)):
                    continue
                if key in entries:
                    _put(box, "class" if kind == "class" else "dict", key, entries[key])
                elif kind == "class":
                    delattr(box, key)
                else:
                    del box[key]
        case "cell":
            box.cell_contents = entries[""]
        case "function" | "partial":
            for key, value in contents(box, kind).items():
                if value is not entries[key]:
                    _put(box, kind, key, entries[key])
        case _:
            pass


_NOTHING: Any = object()


def _holds(value: Any) -> bool:
    return kind_of(type(value)) in _HOLDING


_DICTS = (dict, OrderedDict)

#: The entries of all boxes that have none: nobody writes to it.
_EMPTY: dict[Any, Any] = {}


#: Entries of a global that are looked through without asking who names it.
_FEW = 64


class Box(NamedTuple):
    """A box, where it is found, and what it is."""

    path: str
    of: Any
    kind: str
    #: Of globals, the names that are looked at; None for all.
    names: Collection[str] | None = None

    def now(self) -> dict[Any, Any]:
        """Its entries."""
        return dict(self.of) if self.kind == "globals" else contents(self.of, self.kind)

    def seen(self) -> Mapping[Any, Any]:
        """Its entries, to look at only: of a dict itself."""
        return self.of if self.of.__class__ in _DICTS else self.now()

    @property
    def is_empty(self) -> bool:
        """Whether it is a dict without entries, as most that torch's modules have."""
        return self.of.__class__ in _DICTS and not self.of

    def inside(self) -> Iterator[tuple[str, Any, Any]]:
        """The entries that are looked at: their paths, keys and values."""
        outer = self.kind in ("class", "globals")
        for key, value in self.now().items():
            if self.names is not None and key not in self.names:
                continue
            kind = kind_of(type(value))
            if kind and (kind in _HOLDING or not outer) and not (outer and str(key).startswith("__")):
                yield self.joined(key), key, value

    def joined(self, key: Any) -> str:
        """The path of an entry."""
        if key == "" or (key in ("args", "keywords", "__defaults__", "__kwdefaults__") and self.kind != "dict"):
            return self.path
        own = str(key).replace(".", "_")
        return f"{self.path}.{own}" if self.path else own


class Place(NamedTuple):
    """Where a tensor is held: an entry of a box; ``parents`` are the places of the box, if that can't be written."""

    path: str
    box: Box
    key: Any
    parents: tuple[Place, ...] = ()

    def get(self) -> Any:
        """What is there now."""
        return self.box.now()[self.key]

    def get_or_none(self) -> Any:
        """What is there now; None if the entry is gone."""
        return self.box.now().get(self.key)

    def put(self, value: Any) -> None:
        """Put something there."""
        if self.box.kind != "tuple":
            _put(self.box.of, self.box.kind, self.key, value)
            return
        (parent,) = self.parents
        whole = parent.get()
        items = [value if i == self.key else x for i, x in enumerate(whole)]
        parent.put(type(whole)(*items) if hasattr(whole, "_fields") else type(whole)(items))


class Attributes:
    """All that a network holds, its registered parameters and buffers apart."""

    def __init__(self, model: nn.Module) -> None:
        self.boxes: list[Box] = []
        self.places: list[Place] = []
        #: The ids of the dicts in which modules hold what is registered with them, those of the network apart.
        self.apart: set[int] = set()
        #: Where each parameter and buffer is registered, by all its names.
        self.weights: dict[str, tuple[dict[str, Any], str]] = {}
        self._caches: list[tuple[Any, int]] = []
        #: What is found of all this once, for as long as it is still what the network holds.
        self.found: dict[str, Any] = {}
        #: The classes of objects that aren't modules.
        self._classes: set[type] = set()
        self._seen: set[int] = set()
        self._paths: set[str] = set()
        named = model.named_modules(remove_duplicate=False)
        modules = [(path, m) for path, m in named if not isinstance(m, torch.jit.ScriptModule)]
        #: The ids of the dicts that hold registered parameters and buffers.
        self.registered = {id(held) for _, m in modules for held in (m._parameters, m._buffers)}
        for path, module in modules:
            for held in (module._parameters, module._buffers):
                for key in held:
                    self.weights[f"{path}.{key}" if path else key] = (held, key)
        self._seen.update(id(m) for _, m in modules)
        once = {id(m): (path, m) for path, m in reversed(modules)}
        for path, module in reversed(once.values()):
            self._look(Box(path, vars(module), "dict"), ())
        #: How many boxes are its own; those after them its classes and the files that they are in hold.
        self.own = len(self.boxes)
        self._look_beside(modules)
        #: The tensors that aren't registered where they are held, by their places.
        self.apart -= self.registered
        self.tensors = [(place, place.get()) for place in self.places]
        #: The boxes that are dicts, of which most have no entries; None for others.
        self._dicts = [box.of if box.of.__class__ in _DICTS else None for box in self.boxes]
        self._storages: dict[int, list[str]] = {}
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        """Note whose memory is whose, which a tensor may leave (``p.data = x``)."""
        self._storages.clear()
        for name in self.weights:
            tensor: Any = self.current_or_none(name)
            if tensor is not None and tensor.layout is torch.strided:
                self._storages.setdefault(tensor.untyped_storage()._cdata, []).append(name)

    def _look_beside(self, modules: Sequence[tuple[str, nn.Module]]) -> None:
        """Take up what the classes of modules hold, and the files that these are in."""
        classes = {c for _, m in modules for c in type(m).__mro__ if not _is_torchs(c)}
        scopes = {n: vars(sys.modules[n]) for n in {c.__module__ for c in classes} if n in sys.modules}
        own = [box.of for box in self.boxes if box.kind in ("function", "method", "partial")]
        tensors = {type(t) for _, m in modules for t in (*m._parameters.values(), *m._buffers.values())}
        roots = [*classes, *own, *self._classes, *tensors, *_hooks_of_all()]
        much = any(_is_much(v) for scope in scopes.values() for n, v in scope.items() if not n.startswith("__"))
        names = reached(roots, scopes.values(), OUTSIDE) if much else None  # which takes longer than to look at little
        for cls in classes:
            self._look(Box(cls.__name__, cls, "class"), ())
        for name, scope in scopes.items():
            self._look(Box(name, scope, "globals", names), ())

    def _look(self, box: Box, parents: tuple[Place, ...]) -> None:
        """Take up a box and all that is inside."""
        stack = [(box, parents)]
        while stack:
            box, parents = stack.pop()
            if id(box.of) in self._seen:
                continue
            self._seen.add(id(box.of))
            self.boxes.append(box)
            if box.kind in ("class", "globals"):
                self._caches += [(c, c.cache_info().misses) for v in box.now().values() for c in _caches_of(v)]
            for path, key, value in () if box.is_empty else box.inside():
                kind = kind_of(type(value))
                if box.kind == "dict" and key in REGISTERED:
                    path = box.path
                    self.apart.add(id(value))
                if kind == "tensor":
                    if id(box.of) not in self.registered:
                        path = untaken(path, self._paths)
                        self._paths.add(path)
                        self.places.append(Place(path, box, key, parents))
                elif kind == "object":
                    self._classes.add(type(value))
                    if id(value) not in self._seen:
                        self._seen.add(id(value))
                        stack.append((Box(path, vars(value), "dict"), ()))
                else:
                    stack.append((Box(path, value, kind), (Place(path, box, key, parents),)))

    def current(self, name: str) -> Tensor:
        """The tensor that is registered as ``name`` now."""
        held, key = self.weights[name]
        return held[key]

    def current_or_none(self, name: str) -> Any:
        """What is registered as ``name`` now; None if nothing is any more."""
        held, key = self.weights[name]
        return held.get(key)

    def sharing(self, tensor: Tensor) -> list[str]:
        """The parameters and buffers in the memory of a tensor, by their first names."""
        return self._storages.get(tensor.untyped_storage()._cdata, [])

    def snapshot(self, boxes: int | None = None) -> list[dict[Any, Any]]:
        """The entries of every box, or of the first few."""
        pairs = zip(self.boxes[:boxes], self._dicts, strict=False)
        return [_EMPTY if own is not None and not own else box.now() for box, own in pairs]

    def restore(self, snapshot: list[dict[Any, Any]]) -> None:
        """Give every box the entries it had."""
        for box, entries in self.changed(snapshot):
            _fill(box.of, box.kind, entries)
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()

    def are_still(self, snapshot: list[dict[Any, Any]]) -> bool:
        """Whether every box has the entries it had, so that this is what there is to see now."""
        if any(self.changed(snapshot)):
            return False
        self._caches = [(c, c.cache_info().misses) for c, _ in self._caches]
        self._look_at_memory()
        return True

    @contextmanager
    def as_in(self, snapshot: list[dict[Any, Any]]) -> Generator[None, None, None]:
        """Inside, the boxes of a snapshot have the entries that they had."""
        changed = [(box, entries, box.now()) for box, entries in self.changed(snapshot)]
        for box, entries, _ in changed:
            _fill(box.of, box.kind, entries)
        try:
            yield
        finally:
            for box, _, now in changed:
                _fill(box.of, box.kind, now)

    def changed(self, snapshot: list[dict[Any, Any]]) -> Iterator[tuple[Box, dict[Any, Any]]]:
        """The boxes whose entries are others than they were, and these."""
        for box, own, entries in zip(self.boxes, self._dicts, snapshot, strict=False):
            now = box.seen() if own is None else own
            if (now or entries) and not same(now, entries):
                yield box, entries


def same(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    """Whether two boxes have the same entries in the same order."""
    return len(a) == len(b) and all(map(operator.is_, a.values(), b.values())) and list(a) == list(b)


def _is_much(value: Any) -> bool:
    """Whether a global is more than a few settings: data that is better not looked through where nobody names it."""
    kind = kind_of(type(value))
    return kind == "tensor" or (kind in _HOLDING and len(value) > _FEW)


def _hooks_of_all() -> list[Any]:
    """What torch calls around every module."""
    return [hook for n, v in vars(nn.modules.module).items() if n.startswith("_global_") and v for hook in v.values()]


def _is_torchs(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names | {"torch", "builtins"}


def _caches_of(value: Any) -> list[Any]:
    """The caches of a function: itself, or those that it was wrapped around."""
    found: list[Any] = []
    seen: set[int] = set()
    stack = [value]
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, functools._lru_cache_wrapper):
            found.append(x)
        elif isinstance(x, staticmethod | classmethod):
            stack.append(x.__func__)
        elif isinstance(x, property):
            stack.append(x.fget)
        elif isinstance(x, types.FunctionType) and x.__closure__:
            cells = [Box("", c, "cell") for c in x.__closure__]
            stack += [f for c in cells for f in c.now().values() if isinstance(f, _CALLED)]
    return found


#: What a function that is around others calls.
_CALLED = (types.FunctionType, functools._lru_cache_wrapper)


def _has_data(t: Tensor) -> bool:
    """Whether a tensor has data of its own that can be compared and put back; nobody writes to an expanded one."""
    if t.is_nested or t.is_meta or t.layout is not torch.strided or isinstance(t, FakeTensor) or t.is_quantized:
        return False
    return all(n == 1 or s for n, s in zip(t.shape, t.stride(), strict=True))


def _bytes(t: Tensor) -> Tensor:
    flat = t.detach().resolve_conj().resolve_neg().reshape(-1)
    return (flat if flat.stride() == (1,) else flat.clone(memory_format=torch.contiguous_format)).view(torch.uint8)


class Looked:
    """What a network holds, for who asks it again and again: looked through anew where it isn't what it was."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._last: tuple[Attributes, list[dict[Any, Any]]] | None = None

    def now(self) -> tuple[Attributes, list[dict[Any, Any]]]:
        """All that it holds now, and the entries of every box."""
        if self._last is None or not self._last[0].are_still(self._last[1]):
            attributes = Attributes(self.model)
            self._last = attributes, attributes.snapshot()
        return self._last


@contextmanager
def left_as_it_was(
    model: nn.Module, parameters: bool = False, looked: Looked | None = None
) -> Generator[Attributes, None, None]:
    """Run or capture a network inside, and leave it, and the generators of random numbers, as they were before.

    With ``parameters`` the data of parameters too, which takes their memory once more. ``looked``: what it held before.
    """
    attributes, before = (looked or Looked(model)).now()
    owners = [(held, dict(held)) for held, _ in attributes.weights.values()]
    own = [*model.parameters(), *model.buffers()]
    flags = [(t, t.requires_grad, t.grad) for t in own if t.is_leaf]
    kept = [t for _, t in attributes.tensors] + [t for t in own if parameters or not isinstance(t, nn.Parameter)]
    known = {id(t): t for t in kept if _has_data(t)}
    data = [(t, t.detach().clone()) for t in known.values()]
    try:
        with random_numbers_kept():
            yield attributes
    finally:
        attributes.restore(before)
        for held, entries in owners:
            held.update(entries)
        for t, wanted, grad in flags:
            if t.requires_grad != wanted:
                t.requires_grad_(wanted)
            if t.grad is not grad:
                t.grad = grad
        with torch.no_grad():
            for t, was in data:
                if not torch.equal(_bytes(t), _bytes(was)):
                    t.data.copy_(was)
