"""What differs between boxes of one kind that aren't equal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from tdagger.op import Value
from tdagger.view.expressions import attribute
from tdagger.view.fold.bodies import Bodies, Body, Entry
from tdagger.view.fold.boxes import Box, Leaf
from tdagger.view.fold.repeats import alike
from tdagger.view.fold.wires import Wires

#: So many differences are told.
_MOST = 6


def differences(bodies: Bodies, body: Body, number: int, wires: Wires) -> dict[str, Any] | None:
    """How a box differs from the last before it of its kind: which that is, and what in words; None if it doesn't."""
    box = body.entries[number].first
    if not isinstance(box, Box) or not box.is_module:
        return None
    for i in range(number - 1, max(number - 9, -1), -1):
        entry = body.entries[i]
        other = entry.first
        if isinstance(other, Box) and other.kind == box.kind and alike(other.name, box.name):
            if entry.body == body.entries[number].body:
                return None
            what = list(islice(_words(bodies, entry, body.entries[number], ""), _MOST))
            return {"from": i, "what": what} if what else None
    return None


def _words(bodies: Bodies, old: Entry, new: Entry, path: str) -> Iterator[str]:
    a, b = bodies.found[old.body], bodies.found[new.body]
    names = [[_called(e) for e in body.entries] for body in (a, b)]
    if names[0] != names[1]:
        more = [n for n in names[1] if n not in names[0]]
        less = [n for n in names[0] if n not in names[1]]
        yield from (f"{path}{n}: only here" for n in more)
        yield from (f"{path}{n}: not here" for n in less)
        if not more and not less:
            yield f"{path}{len(names[1])} parts, not {len(names[0])}"
        return
    for one, other, name in zip(a.entries, b.entries, names[0], strict=True):
        if isinstance(one.first, Leaf) and isinstance(other.first, Leaf):
            yield from _of_ops(one.first.value, other.first.value, f"{path}{name}")
        elif one.body != other.body:
            yield from _words(bodies, one, other, f"{path}{name}.")
        if one.times != other.times:
            yield f"{path}{name}: {other.times} times, not {one.times}"


def _called(entry: Entry) -> str:
    first = entry.first
    return first.name or (first.value.op.name if isinstance(first, Leaf) else first.kind)


def _of_ops(a: Value, b: Value, name: str) -> Iterator[str]:
    if a.op is not b.op and a.op.name == b.op.name:
        old = a.op.attributes
        for key, new in b.op.attributes.items():
            if old.get(key) != new:
                yield f"{name}: {key} {attribute(new)}, not {attribute(old.get(key))}"
    elif a.op is not b.op:
        yield f"{name}: {b.op.name}, not {a.op.name}"
    if a.type != b.type:
        yield f"{name}: {b.type}, not {a.type}"
