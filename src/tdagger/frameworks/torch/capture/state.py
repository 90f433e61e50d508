"""What a network changes when it runs: buffers given a new value, and tensors it keeps in plain attributes.

A capture notes what ``forward`` left changed (:class:`Run`), and returns the new tensors beside the results. Of those
the importer makes updates. A tensor in a plain attribute that changes is captured once more as a buffer under a name
made of its path. Everything else that Python keeps (a number, a list that grows, None that becomes a tensor) can't be
part of a graph: then the network is captured called twice in a row, and it is the same graph both times, or refused.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten.calls import type_of
from tdagger.frameworks.torch.capture.attributes import (
    REGISTERED,
    Attributes,
    Box,
    Looked,
    Place,
    contents,
    kind_of,
    left_as_it_was,
)
from tdagger.frameworks.torch.capture.decisions import Decisions
from tdagger.frameworks.torch.capture.draws import Draws
from tdagger.frameworks.torch.capture.export import Captured
from tdagger.frameworks.torch.capture.passing import Called, Steps, steps_of, version_of
from tdagger.frameworks.torch.capture.provenance import is_tracing, lost_writes
from tdagger.graph import topological
from tdagger.library import stream
from tdagger.names import untaken
from tdagger.op import Value
from tdagger.ops.source import Buffer, Input, Parameter
from tdagger.tensordag import Signature, Weight
from tdagger.tree import Tree, flatten

Program = TypeVar("Program")


class Change(NamedTuple):
    """What a run left in the place of something else; both are one tensor if that was written in place."""

    path: str
    old: Any
    new: Any

    @property
    def is_tensor(self) -> bool:
        """Whether a tensor took the place of one of the same type."""
        a, b = self.old, self.new
        both = isinstance(a, Tensor) and isinstance(b, Tensor) and a.layout is b.layout is torch.strided
        return both and a.shape == b.shape and a.dtype == b.dtype

    def __str__(self) -> str:
        return f"{self.path} (was {_shown(self.old)}, is {_shown(self.new)} after a run)"


def _shown(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    if x is _MISSING:
        return "not there"
    kind = kind_of(type(x))
    if kind in ("list", "tuple", "dict", "set"):
        return f"a {type(x).__name__} of {len(x)}"
    return repr(x) if isinstance(x, int | float | str | bool | None) else f"a {type(x).__name__}"


_MISSING: Any = object()


class Held(NamedTuple):
    """A tensor of a plain attribute that is captured as a parameter or buffer of its own, called ``name``."""

    name: str
    tensor: Tensor


def unregistered(attributes: Attributes) -> dict[str, Held]:
    """The parameters and buffers that aren't part of the network's state, by the paths where they are held.

    They are those of modules in plain lists and the like, and whatever else is trained.
    """
    registered = {id(attributes.current_or_none(n)) for n in attributes.weights}
    found = [(p, t) for p, t in attributes.tensors if id(t) not in registered]
    return held(attributes, [p.path for p, t in found if id(p.box.of) in attributes.apart or _trains(t)])


def _trains(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or (tensor.requires_grad and tensor.is_leaf)


def held(attributes: Attributes, paths: Sequence[str]) -> dict[str, Held]:
    """What is held at these paths, under names that no parameter or buffer has; one tensor has one name."""
    wanted = set(paths)
    taken = set(attributes.weights)
    names: dict[int, str] = {}
    found: dict[str, Held] = {}
    for place, tensor in attributes.tensors:
        if place.path in wanted and place.path not in found:
            name = names.get(id(tensor), "")
            if not name:
                name = untaken(place.path, taken)
                taken.add(name)
                names[id(tensor)] = name
            found[place.path] = Held(name, tensor)
    return found


class Result:
    """What a capture leaves behind; torch.export restores a module's own attributes, not those of this."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.tree: Tree | None = None
        #: What each result went through; see ``passing``.
        self.passed: list[Steps] = []
        #: How many of the outputs are the results of the first run; the weights whose new values follow.
        self.count = 0
        self.updated: list[str] = []
        #: What else changed, and the names of all weights that follow after two runs, in the order of the outputs.
        self.changes: list[Change] = []
        self.failed: Exception | None = None


class Flat(Captured):
    """A module that takes the tensors of its arguments one by one and returns those of its result, and of its state.

    With ``twice`` it takes other arguments after the first, and calls the network with these too.
    """

    def __init__(
        self, model: nn.Module, inputs: Tree, attributes: Attributes, held: Mapping[str, Held], twice: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.twice = twice
        self.result = Result()
        self.called = Called()
        self.kept = Kept(attributes, held)
        self.decisions = Decisions(self.kept.now(), model.training)
        self.draws = Draws(attributes)
        self.held = nn.Module()
        for i, (_, tensor) in enumerate(self.kept.tensors.items()):
            if _trains(tensor):
                own = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
                self.held.register_parameter(str(i), own)
            else:
                self.held.register_buffer(str(i), tensor.detach())
        self.training = model.training

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.result
        result.reset()
        count = self.inputs.leaf_count()
        with (
            self.kept.in_place(self.held) as run,
            self.draws.noted(),
            self.decisions.followed(self.kept.now(), self.kept.names),
        ):
            leaves, result.tree = self._call(tensors[:count])
            with _untraced():
                changed, result.changes = run.changes()
            result.count = len(leaves)
            result.passed = [steps_of(t) for t in leaves]
            result.updated = list(changed)
            outputs = [*leaves, *(t.clone() for t in changed.values())]
            if self.twice:
                with _untraced():
                    now = run.state()
                result.updated = list(now)
                outputs = [t.clone() for t in (*leaves, *now.values())]
                try:
                    with warnings.catch_warnings(action="ignore"):  # they were given
                        again, _ = self._call(tensors[count:])
                    with _untraced():
                        now = run.state()
                    outputs += [t.clone() for t in (*again, *now.values())]
                except Exception as e:  # whatever the network raises in the state that it is in now
                    result.failed = e
        if is_tracing() and (lost := lost_writes(outputs)):
            raise UnsupportedError(
                "torch.jit.trace loses what is written through a view that its schema doesn't say to be one: "
                f"{', '.join(lost)}. Write to the tensor itself, or through view, unsqueeze or permute; "
                "or import via='export'"
            )
        return tuple(outputs)

    def signature(self) -> Signature:
        """How the network is called and answers, once it was captured."""
        assert self.result.tree is not None
        return Signature(self.inputs, self.result.tree)

    def weights(self) -> dict[str, tuple[Weight, Tensor]]:
        """The tensors of attributes that are captured as weights: parameters themselves, of what changes a copy."""
        return {
            name: (
                Weight(type_of(t), _trains(t), _trains(t) and t.requires_grad, _trains(t)),
                t if _trains(t) else t.detach().clone(),
            )
            for name, t in self.kept.tensors.items()
        }

    def stands(self) -> dict[str, Tensor]:
        """What a capture sees of the tensors of attributes that are weights, by their names."""
        return {name: getattr(self.held, str(i)) for i, name in enumerate(self.kept.tensors)}

    def check_constant(self, name: str, tensor: Tensor) -> None:
        """UnsupportedError if a constant of the capture is a parameter or buffer, reached in a way not followed."""
        shared = [] if tensor.layout is not torch.strided else self.kept.attributes.sharing(tensor)
        if shared:
            raise UnsupportedError(
                f"the network reaches {shared[0]!r} in a way that can't be followed ({name} has its memory): use "
                f"self.{shared[0]} in forward"
            )
        if tensor.requires_grad and not tensor.is_leaf:
            raise UnsupportedError(
                f"{name} was computed of parameters before the network is called, and gradients go back to them: "
                "compute it in forward, or detach() it"
            )

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What it takes, for what the network takes."""
        return (*tensors, *(t.detach() for t in tensors)) if self.twice else tuple(tensors)

    def names_of_inputs(self, names: Sequence[str]) -> list[str]:
        """Names for what it takes, by those of what the network takes."""
        return [*names, *(f"{n} again" for n in names)] if self.twice else list(names)

    def _call(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Tree]:
        args, kwargs = self.inputs.unflatten(list(tensors))
        with _data_is_detached():
            return flatten(self.model(*args, **kwargs), lambda x: isinstance(x, Tensor), "the result", result=True)


_DATA: Any = Tensor.data
_inside = 0


def _set_data(x: Tensor, new: Tensor) -> None:
    if x.shape == new.shape and x.dtype == new.dtype:
        x.detach().copy_(new.detach())
    else:
        _DATA.__set__(x, new)


@contextmanager
def _data_is_detached() -> Generator[None, None, None]:
    """Take ``x.data`` for ``x.detach()``: captures see none of what is done to the former."""
    global _inside
    kind: Any = Tensor
    _inside += 1
    kind.data = property(lambda x: x.detach(), _set_data)
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            del kind.data


class Kept:
    """The attributes of a network with what a capture puts in their place: no module, so that torch leaves it alone."""

    def __init__(self, attributes: Attributes, held: Mapping[str, Held]) -> None:
        self.attributes = attributes
        self.held = held
        #: The tensors captured as weights of their own, by name.
        self.tensors: dict[str, Tensor] = {}
        for own in held.values():
            self.tensors.setdefault(own.name, own.tensor)
        self._numbers = {n: str(i) for i, n in enumerate(self.tensors)}
        self._views = {
            id(place): found
            for place, tensor in attributes.tensors
            if place.path not in held and (found := _of_a_weight(tensor, attributes)) is not None
        }

    @property
    def names(self) -> dict[str, str]:
        """The names of what a capture has as ``held.0`` and so on."""
        return {f"held.{i}": n for n, i in self._numbers.items()}

    def now(self) -> dict[str, Tensor]:
        """All tensors that the network has now, by name."""
        found = {n: t for n in self.attributes.weights if (t := self.attributes.current_or_none(n)) is not None}
        for place, _ in self.attributes.tensors:
            if not self.is_view(place):
                own = self.held.get(place.path)
                found[own.name if own is not None else place.path] = place.get()
        return found

    def is_view(self, place: Place) -> bool:
        """Whether a parameter or buffer, or a part of one, is held there."""
        return id(place) in self._views

    @contextmanager
    def in_place(self, own: nn.Module) -> Generator[Run, None, None]:
        """Put in the place of what is held what a capture sees for it; leave all attributes as they were."""
        before = now = self.attributes.snapshot()
        try:
            for place, _ in self.attributes.tensors:
                if place.path in self.held:
                    place.put(getattr(own, self._numbers[self.held[place.path].name]))
                elif id(place) in self._views:
                    part = self._views[id(place)]
                    place.put(part.of(self.attributes.current(part.name)))
            if self.held or self._views:
                now = self.attributes.snapshot()
            yield Run(self, now)
        finally:
            self.attributes.restore(before)


class _Part(NamedTuple):
    """What a tensor is of the parameter or buffer ``name``; ``size`` is None for the very same tensor."""

    name: str
    trains: bool
    size: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()
    start: int = 0

    def of(self, current: Tensor) -> Tensor:
        """The same part of what is captured."""
        if self.size is None:
            return current
        base = current if self.trains else current.detach()
        return base.view(-1)[self.start :].as_strided(self.size, self.stride)


def _of_a_weight(tensor: Tensor, attributes: Attributes) -> _Part | None:
    """What a tensor is of a parameter or buffer; None if it is none of any."""
    if tensor.layout is not torch.strided:
        return None
    for name in attributes.sharing(tensor):
        base = attributes.current(name)
        if base is tensor:
            return _Part(name, True)
        start = int(tensor.storage_offset()) - int(base.storage_offset())
        last = start + sum([(n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)])
        if base.dtype == tensor.dtype and base.is_contiguous() and start >= 0 and last < base.numel():
            return _Part(name, tensor.requires_grad, tuple(tensor.shape), tensor.stride(), start)
    return None


@contextmanager
def _untraced() -> Generator[None, None, None]:
    """Look at tensors without torch.jit.trace taking note of it."""
    tracer: Any = torch._C
    tracing = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        yield
    finally:
        tracer._set_tracing_state(tracing)


class Run:
    """What there was before a network runs, to tell afterwards what it changed."""

    def __init__(self, kept: Kept, before: list[dict[Any, Any]]) -> None:
        self._attributes = kept.attributes
        self._before = before
        self._entries = {id(b.of): entries for b, entries in zip(kept.attributes.boxes, self._before, strict=True)}
        self._weights: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name in kept.attributes.weights:
            tensor: Any = kept.attributes.current_or_none(name)
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                self._weights[name] = tensor
        self._held: dict[str, Place] = {}
        self._paths: dict[str, str] = {}
        for place, _ in kept.attributes.tensors:
            if place.path in kept.held:
                name = kept.held[place.path].name
                self._held.setdefault(name, place)
                self._paths[place.path] = name
        self._tensors = {name: place.get() for name, place in self._held.items()}
        plain = [p for p, _ in kept.attributes.tensors if p.path not in kept.held and not kept.is_view(p)]
        self._versions = [(p.path, t, version_of(t)) for p in plain for t in (p.get(),)]
        self._of_weights = {p.path for p, _ in kept.attributes.tensors if kept.is_view(p)}

    def changes(self) -> tuple[dict[str, Tensor], list[Change]]:
        """The new tensors of weights that were given one, by name, and all else that changed."""
        updated: dict[str, Tensor] = {}
        others: list[Change] = []
        for name, old in self._weights.items():
            new = self._attributes.current_or_none(name)
            if new is not old:
                change = Change(name, old, new)
                if change.is_tensor:
                    updated[name] = new
                else:
                    others.append(change)
        for change in self._differences():
            name = self._paths.get(change.path)
            if name is None or not change.is_tensor or updated.get(name, change.new) is not change.new:
                others.append(change)
            else:
                updated[name] = change.new
        written = [Change(path, t, t) for path, t, version in self._versions if version_of(t) != version]
        known = {c.path for c in others}
        return updated, [*others, *(c for c in written if c.path not in known)]

    def state(self) -> dict[str, Tensor]:
        """What every weight is now, by name; what it was, if no tensor of its type took its place."""
        now = {n: self._attributes.current_or_none(n) for n in self._weights}
        now |= {n: place.get_or_none() for n, place in self._held.items()}
        before = {**self._weights, **self._tensors}
        return {n: new if Change(n, before[n], new).is_tensor else before[n] for n, new in now.items()}

    def _differences(self) -> list[Change]:
        """What changed in the boxes, registered weights apart."""
        found: list[Change] = []
        for box, old in self._attributes.changed(self._before):
            new = box.seen()
            for key in {**old, **new}:
                a, b = old.get(key, _MISSING), new.get(key, _MISSING)
                if a is b or (box.kind == "globals" and not _may_hold(a) and not _may_hold(b)):
                    continue
                if key == "__warningregistry__":  # what was warned of is no state of the network
                    continue
                if id(box.of) in self._attributes.registered and a is not _MISSING:
                    continue
                self._compare(box.path if key in REGISTERED else box.joined(key), a, b, found)
        return found

    def _compare(self, path: str, a: Any, b: Any, found: list[Change]) -> None:
        """Add what differs between two entries; boxes are compared by what they hold."""
        stack = [(path, a, b)]
        while stack:
            path, a, b = stack.pop()
            if a is b:
                continue
            kind = kind_of(type(a))
            if kind in ("dict", "list", "tuple") and kind == kind_of(type(b)):
                old, new = self._entries.get(id(a)) or contents(a, kind), contents(b, kind)
                if list(old) == list(new):
                    box = Box(path, b, kind)
                    stack += [(box.joined(k), old[k], new[k]) for k in reversed(list(old))]
                    continue
            elif kind == "object" and type(a) is type(b):
                old, new = self._entries.get(id(vars(a))) or vars(a), vars(b)
                if list(old) == list(new):
                    stack += [(f"{path}.{k}", old[k], new[k]) for k in reversed(list(old))]
                    continue
            elif not kind and type(a) is type(b) and _equal(a, b):
                continue
            found.append(Change(path, a, b))


def _may_hold(x: Any) -> bool:
    return kind_of(type(x)) in ("tensor", "dict", "list", "set")


#: What is compared by what it says; of other things each is itself only.
_PLAIN = (int, float, complex, str, bytes, range, slice, frozenset, torch.dtype, torch.device, np.generic)


def _equal(a: Any, b: Any) -> bool:
    """Whether two things that are looked at no further are the same; references to what is elsewhere always are."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return isinstance(a, weakref.ReferenceType) or (isinstance(a, _PLAIN) and (a == b or (a != a and b != b)))


@dataclass
class Capture(Generic[Program]):
    """What a network was captured as, and by what."""

    flat: Flat
    program: Program


def captured(
    model: nn.Module,
    inputs: Tree,
    tensors: Sequence[Tensor],
    take: Callable[[Flat, Sequence[Tensor]], Program],
    runs: bool,
    looked: Looked | None = None,
) -> Capture[Program]:
    """What ``take`` makes of a network, with the tensors of its attributes that change as buffers.

    The network is left as it was. ``runs``: it is run on data for that. ``looked``: what it held before.
    """
    with left_as_it_was(model, runs, looked) as attributes:
        flat = Flat(model, inputs, attributes, unregistered(attributes))
        program = take(flat, flat.arguments(tensors))
        if flat.draws.drawn:  # once more, to know where
            flat.draws.watched = True
            program = take(flat, flat.arguments(tensors))
    changes = flat.result.changes
    if not changes:
        return Capture(flat, program)
    draws = flat.draws
    with left_as_it_was(model, runs, looked) as attributes:
        views = {p.path for p, _ in flat.kept.attributes.tensors if flat.kept.is_view(p)}
        own = held(attributes, [c.path for c in changes if c.is_tensor and c.path not in views])
        twice = any(c.path not in own for c in changes)
        flat = Flat(model, inputs, attributes, {**unregistered(attributes), **own}, twice)
        program = take(flat, flat.arguments(tensors))
    if flat.result.changes and not twice:
        raise refused(flat.result)
    flat.draws.drawn = draws.drawn
    return Capture(flat, program)


# --- after the capture -------------------------------------------------------------------------------------


class Twice(NamedTuple):
    """The inputs of a network that was captured called twice in a row, and how many random streams it drew."""

    first: Sequence[Value]
    second: Sequence[Value]
    streams: int


def settled(
    flat: Flat, returned: Sequence[Value], updates: Mapping[str, Value], twice: Twice | None
) -> tuple[list[Value], dict[str, Value]]:
    """The results and the new values of weights; UnsupportedError if the network does another thing the second time.

    ``returned`` is what the capture gives, ``updates`` what it wrote in place. The new values of tensors in plain
    attributes are left out if no result depends on what they were.
    """
    result, held = flat.result, flat.kept.tensors
    n = result.count
    outputs = list(returned[:n])
    now = dict(zip(result.updated, returned[n:], strict=False))
    updates = {**updates, **now} if twice is None else now
    updates = {k: v for k, v in updates.items() if not (isinstance(v.op, Parameter | Buffer) and v.op.leaf == k)}
    flat.decisions.refuse_changed(updates)
    if twice is not None:
        again = list(returned[n + len(result.updated) :])
        expected = None if result.failed else _second(outputs, list(now.values()), now, twice)
        if result.failed or expected != again:
            raise refused(result)
    kept = {k for k in updates if k not in held}
    while more := {k for k in updates if k in _leaves([*outputs, *(updates[k] for k in kept)])} - kept:
        kept |= more
    return outputs, {k: v for k, v in updates.items() if k in kept}


def _leaves(roots: Sequence[Value]) -> set[str]:
    """The names of the parameters and buffers that values are made of."""
    return {v.op.leaf for v in topological(roots) if isinstance(v.op, Parameter | Buffer)}


def _second(outputs: Sequence[Value], state: Sequence[Value], now: Mapping[str, Value], twice: Twice) -> list[Value]:
    """What the second run must give if it does as the first, from the second inputs and the state after the first."""
    inputs = dict(zip(twice.first, twice.second, strict=True))
    made: dict[Value, Value] = {}
    for value in topological([*outputs, *state]):
        op = value.op
        if isinstance(op, Input):
            made[value] = inputs.get(value, value)
        elif isinstance(op, Parameter | Buffer):
            made[value] = now.get(op.leaf, value)
        elif op.name == "stream":
            attributes: Any = op.attributes
            made[value] = stream(made[value.args[0]], number=attributes["number"] + twice.streams // 2)
        else:
            made[value] = op(*[made[a] for a in value.args])
    return [made[v] for v in (*outputs, *state)]


def refused(result: Result) -> UnsupportedError:
    """The error for a network that keeps in attributes what no graph can."""
    shown = "\n".join(f"  {change}" for change in result.changes[:8])
    more = len(result.changes) - 8
    return UnsupportedError(
        "the network keeps what it computed in attributes, and does another thing the next time it is called:\n"
        f"{shown}{f'{chr(10)}  and {more} more' if more > 0 else ''}\n"
        "What can be kept is a tensor of fixed shape and element type: register it as a buffer, or call the network "
        "once before it is imported, so that the attribute holds a tensor; or reset it where forward begins."
        + (f"\nThe second call ends in {type(result.failed).__name__}: {result.failed}" if result.failed else "")
    )
