"""What a graph leaves open of other sizes: numbers in it that may have been computed from sizes that change.

A graph that was made with one set of sizes has what was computed from them as numbers. Two kinds of places are
doubtful when an axis gets another size: what the axes themselves had to guess (``Axes.guesses``: ``x[:, :3]`` of 6
may be the first three or the first half), and numbers that nothing ties to the axis, but that are what one gets from
its size (``1 / n``, zeros of ``n`` entries that are only summed, a window over all of it).

>>> import tdagger as td
>>> from tdagger.analysis.axes.algebra import Axes
>>> from tdagger.analysis.axes.sizes import solve
>>> x = td.input("x", (4, 12))
>>> axes = Axes(td.Graph({"x": x}, {"y": td.reduce(x, "sum", (1,)) * (1 / 12)}))
>>> for doubt in doubts(axes, solve(axes, {axes[x][1]: 24})):
...     print(doubt.value, doubt.what)
<const(...)() -> f32[]> is 1 / 12, where an axis of 12 entries has another size
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.made import WHOLE, attributes_made, because, numbers_made
from tdagger.analysis.axes.sizes import Sizes, assumed
from tdagger.analysis.axes.terms import Axis, Guess, resolve
from tdagger.graph import Graph, is_one, result_types
from tdagger.op import Term, Value
from tdagger.ops.source import Const, Iota
from tdagger.types import Sized

#: Attributes that hold numbers of entries as the source gave them.
_COUNTS = frozenset({"kernel", "widths", "shift", "shifts", "k", "window", "classes"})

#: Those that say how far from a diagonal.
_OFFSETS = frozenset({"diagonal", "offset"})

#: Those between which integers are kept.
_LIMITS = frozenset({"low", "high"})

#: Kinds of axes that nothing but constants has.
_LOOSE = frozenset({"iota", "repeated", "const", "banded", "random", "interpolated", "bins"})

#: Ops that give entries by their place.
_PLACED = frozenset({"tril", "triu"})

#: Ops whose second argument is indices.
_INDEXED = frozenset({"gather", "scatter"})

#: Of an axis of more entries, 1 and 2 as an attribute are taken as said; of one of less, what is more than it has.
_FEW = 5

#: So many integers may have been written as a list.
_LISTED = 64

#: What is said of padding.
UP_TO = "which may be up to a number"

#: What is said of what another size may do where it is the same as that of something else, or as many as a product.
BY_CHANCE = "where sizes happen to fit"

#: What is said of a dimension that is put in: an axis of 1 entry that was merged may seem to come back there.
NEW = "is a new dimension"

#: What is said of an axis that is dropped where it has 1 entry.
SQUEEZED = "is squeezed, which drops an axis of 1 entry"

#: Of so few entries the half, or all but one, is 1.
_FEWEST = 2


class LeftOut(NamedTuple):
    """Something that was done to a value and changed nothing at these sizes: of which dimensions that isn't sure.

    ``only``: where these have so many entries; None: whatever others they have. ``keeps`` as for a :class:`Guess`.
    """

    value: Value
    dimensions: tuple[int, ...]
    what: str
    only: int | None = None
    keeps: bool = False


class OfSize(NamedTuple):
    """A :class:`LeftOut` of a dimension of which no more is kept than how many entries it had.

    It outlives what values become when a network is cut into blocks; all dimensions of so many entries are doubtful.
    """

    entries: int
    what: str
    only: int | None = None
    keeps: bool = False


def of_sizes(left_out: Iterable[LeftOut]) -> tuple[OfSize, ...]:
    """What was left out, by the sizes of the dimensions."""
    told = [
        OfSize(int(value.shape[i]), what, only, keeps)
        for value, dimensions, what, only, keeps in left_out
        for i in dimensions
    ]
    return tuple(dict.fromkeys(told))


def of_values(graph: Graph, sizes: Iterable[OfSize]) -> list[LeftOut]:
    """What was left out of dimensions of so many entries, by the values of a graph that have them."""
    found: list[LeftOut] = []
    for entries, what, only, keeps in sizes:
        for value in graph.values:
            for type_ in result_types(value)[:1]:
                alike = tuple([i for i, n in enumerate(type_.shape) if n == entries])
                if alike and value.type is type_:
                    found.append(LeftOut(value, alike, f"has {entries} entries, and so has what {what}", only, keeps))
    return found


def with_sizes_left_out(axes: Axes, sizes: Iterable[OfSize]) -> Axes:
    """The axes, with what was left out of dimensions of so many entries among the guesses: each dimension once."""
    seen: set[tuple[Any, ...]] = set()
    for value, dimensions, what, only, keeps in of_values(axes.graph, sizes):
        for term in [axes[value][i] for i in dimensions]:
            key = (tuple(resolve(term)), what, only)
            if key not in seen:
                seen.add(key)
                axes.guesses.append(Guess(value, term, what, (), only, keeps))
    return axes


def with_left_out(axes: Axes, left_out: Collection[LeftOut]) -> Axes:
    """The axes, with what was left out of their graph among the guesses."""
    known = set(axes.graph.values) if left_out else set[Value]()
    # an axis that was squeezed away comes back, as far as that is sure
    dropped = [(v, i) for v, dims, what, *_ in left_out if what == SQUEEZED and v in known for i in dims]
    squeezed = {a for v, i in dropped for a in resolve(axes[v][i])}
    for value, dimensions, what, only, keeps in left_out:
        if what == NEW:  # it is one, or another axis took its place; with the value nothing is lost
            terms = [axes[value][i] for i in dimensions] if value in known else []
            merged = [tuple([a for a in resolve(t) if a.kind != "one" and a not in squeezed]) for t in terms]
            axes.guesses += [Guess(value, t, what, (), only, keeps) for t in merged if t]
            continue
        if value in known:
            axes.guesses += [Guess(value, axes[value][i], what, (), only, keeps) for i in dimensions]
            continue
        said = f"is what {value!r} is made of, which {what}"
        few = None if only is None else {value.shape[i] for i in dimensions}
        for found in _behind(value, known):  # what came of it has no entries, was written over, or nobody reads it
            dims = zip(axes[found], found.shape, strict=True)
            axes.guesses += [Guess(found, t, said, (), only, keeps) for t, n in dims if t and (few is None or n in few)]
    return axes


def _behind(value: Value, known: set[Value]) -> Iterator[Value]:
    """The first values of a graph that one which isn't in it was made of."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if value not in known:
            stack.extend(value.args)
        elif is_one(value):
            yield value


def doubts(axes: Axes, sizes: Sizes, numbers: bool = True) -> Iterator[Guess]:
    """What is doubtful where axes have these sizes: the value, the dimension, and why; nothing if all is known.

    Without ``numbers`` those in which no cost shows are left out: factors, terms of sums.
    """
    changed = {a for a in sizes.known if sizes.known[a] != a.size}
    if not changed:
        return
    guessed = assumed(axes, sizes)
    yield from guessed
    known = {g.value for g in guessed}
    of = _sizes_of(axes, changed)
    entries = {float(number): why for n in sorted(of) for number, why in _wholes(n)}
    given = {number for a in changed if a.kind == "input" for number, _ in _wholes(a.size)}
    picked = {v.args[0] for v in axes.graph.values if v.op.name == "group"}
    for value in axes.graph.values:
        why = (
            _count(axes, value, changed)
            or _listed(value, entries, given)
            or _placed(axes, value, entries)
            or _taken(axes, sizes, value, changed, entries)
            or _unpooled(axes, sizes, value)
        )
        if not why and value.op.name == "slice":
            why = _bound(axes, value, value in picked, changed, of) or _from_end(axes, value, changed, entries)
        if why and value not in known:
            yield Guess(value, (), why)
    yield from attributes_made(axes.graph.values, changed)
    if numbers:
        yield from numbers_made(axes, changed, of)
    if any(a.size <= _FEWEST for a in changed):
        yield from _single(axes, changed)
        yield from _indexed(axes, {a for a in changed if a.size == 1})
    yield from _untied(axes, sizes, {n: why for n, why in entries.items() if n > 1})


def _count(axes: Axes, value: Value, changed: set[Axis]) -> str:
    """Which attribute of an op holds a number of entries that is made of the size of one of its dimensions."""
    attributes = value.op.attributes
    if attributes.get("k", 0) > 2:  # so many of an axis, as a slice takes them: any part of it may be meant
        axis = attributes["axis"]
        if not changed.isdisjoint(resolve(axes[value.args[0]][axis])):
            return f"takes k={attributes['k']} of {value.args[0].shape[axis]} entries"
    for name in attributes.keys() & _COUNTS:
        given = {n for n in _numbers(attributes[name]) if n > 0}
        for arg in value.args if given else ():
            for terms, type_ in zip(axes.of(arg), result_types(arg), strict=True):
                windows = _windows(attributes, len(terms)) if name == "kernel" else range(len(terms))
                own = {
                    (n, i in windows)
                    for i, (t, n) in enumerate(zip(terms, type_.shape, strict=True))
                    if any(a in changed for a in t)
                }
                for n, along in own:
                    numbers = {k for k in given if k > 2 or k == n or (n <= _FEW and along)}
                    for number, why in _wholes(n):
                        if number in numbers:
                            return f"has {name}={attributes[name]}, {why}"
    return ""


def _placed(axes: Axes, value: Value, made: Mapping[float, str]) -> str:
    """Which number of entries that an op of constants, or one of places, is given is made of a size; not up to 2."""
    names = _COUNTS | _OFFSETS if value in axes.static else _OFFSETS
    if value.op.name == "clamp" and value.type.dtype.is_int:
        names |= _LIMITS  # what is limited is an index
    attributes = value.op.attributes
    for name in attributes.keys() & names:
        for n in _numbers(attributes[name]):
            if abs(n) > 2 and abs(n) in made:
                return f"has {name}={attributes[name]}, {made[abs(n)]}"
    return ""


def _taken(axes: Axes, sizes: Sizes, value: Value, changed: set[Axis], made: Mapping[float, str]) -> str:
    """How many entries of a dimension that changes are taken by constants that don't follow it; not up to 2."""
    if value.op.name not in ("gather", "embedding") or value.args[1] not in axes.static:
        return ""
    along = resolve(axes[value.args[0]][int(value.op.attributes.get("axis", 0))])
    count = value.args[1].type.size
    stays = all(sizes.of(t) == n for t, n in zip(axes.at(value, 1), value.args[1].shape, strict=True))
    if count > 2 and count in made and stays and not changed.isdisjoint(along):
        return f"takes {count} entries by constants, {made[count]}"
    return ""


def _unpooled(axes: Axes, sizes: Sizes, value: Value) -> str:
    """To how many entries as many as before are unpooled: to others only since a product has another size."""
    if value.op.name != "max_unpool":
        return ""
    dimensions = zip(axes[value.args[0]], value.args[0].shape, axes[value], value.shape, strict=True)
    other = [n for x, m, term, n in dimensions if sizes.of(x) == m and sizes.of(term) != n]
    return f"is unpooled to {other[0]} entries, which are no others of as many" if other else ""


def _windows(attributes: Mapping[str, Any], rank: int) -> range:
    """The dimensions that a kernel is for: one that is told, or the last ones."""
    kernel = attributes["kernel"]
    if isinstance(kernel, tuple):
        return range(rank - len(cast(tuple[int, ...], kernel)), rank)
    axis = int(attributes["axis"])
    return range(axis, axis + 1)


def _listed(value: Value, made: Mapping[float, str], own: set[int]) -> str:
    """Which of some integers, as an index has them, is made of a size; not of those that count on.

    Up to 2 are everywhere: of these only ``own``, that are made of the sizes of inputs.
    """
    data = value.op.data if isinstance(value.op, Const) and value.type.dtype.is_int else None
    if data is None or not 1 < data.size <= _LISTED:
        return ""
    numbers = data.reshape(-1).tolist()
    if len(numbers) > 2 and len({b - a for a, b in pairwise(numbers)}) == 1:
        return ""
    return next((f"has {n} in it, {made[n]}" for n in numbers if n in made and (n > 2 or n in own)), "")


def _wholes(n: int) -> Iterator[tuple[int, str]]:
    """The numbers of entries that Python makes of a size, and how; of few no more than it is."""
    for shown, function in WHOLE.items():
        if n > _FEW or function(n) <= n:
            yield function(n), because(shown, n)


def _bound(axes: Axes, value: Value, picked: bool, changed: set[Axis], sizes: set[int]) -> str:
    """Which bound of a slice is made of the size of another axis, that changes; those of its own are guesses.

    ``picked``: one entry is, which has guesses of its own. Up to 2 bounds are everywhere, but as ends.
    """
    (x,) = value.args
    for bounds, term, n in zip(value.op.attributes["bounds"], axes[x], x.shape, strict=True):
        start, stop, _ = bounds or (0, 0, 1)
        parts = start.parts if isinstance(start, Sized) else None
        if parts is not None and parts[1] > 2 and any(a.kind == "input" and a.size == parts[1] for a in changed):
            return f"is a part of {parts[0]}({parts[1]}), where an axis of {parts[1]} entries has another size"
        own = any(a in changed for a in resolve(term)) or (picked and stop - start == 1)
        for bound in () if own else (start, stop):
            made = sizes & ({bound, bound + 1} if bound > 2 else {bound} if bound == stop else set())
            if made and bound < n and not isinstance(bound, Sized):
                return f"takes entries from or to {bound}, where an axis of {min(made)} entries has another size"
    return ""


def _from_end(axes: Axes, value: Value, changed: set[Axis], made: Mapping[float, str]) -> str:
    """Which bound that counts from the end is made of the size of another axis."""
    for bounds, term in zip(value.op.attributes["bounds"], axes[value.args[0]], strict=True):
        own = resolve(term)
        own_changes = len(own) == 1 and own[0] in changed  # of a product a factor may be meant
        for bound in () if own_changes or bounds is None else bounds[:2]:
            if isinstance(bound, Sized) and bound.divisor == 1 and bound.plus < -2 and -bound.plus in made:
                return f"takes entries from or to {bound.plus}: {made[-bound.plus]}"
    return ""


def _sizes_of(axes: Axes, changed: set[Axis]) -> set[int]:
    """The numbers of entries of all dimensions that change."""
    found: set[int] = {a.size for a in changed}
    for value in axes.graph.values:
        for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
            for term, n in zip(terms, type_.shape, strict=True):
                if n not in found and any(a in changed for a in term):
                    found.add(n)
    return found - {0}


def _numbers(attribute: Any) -> Iterator[int]:
    """The integers in an attribute."""
    stack: list[Any] = [attribute]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(cast(tuple[Any, ...], item))
        elif isinstance(item, int) and not isinstance(item, bool | Sized):
            yield item


def _single(axes: Axes, changed: set[Axis]) -> Iterator[Guess]:
    """Constants of one entry where an axis of so few changes: there may be as many as that axis has."""
    ones: set[Value] = set()
    outputs = {*axes.graph.outputs.values(), *axes.graph.updates.values()}
    few = f"an axis of {min(a.size for a in changed)} entries"
    for value in axes.graph.values:
        # what an index is made of, beside the shape of what it goes into
        made = value.args if value in axes.static else value.args[1:] if value.op.name == "linear_index" else ()
        placed = isinstance(value.op, Const | Iota) or (value in axes.static and value.op.name in _PLACED)
        if (placed and value.rank and value.type.size == 1) or any(a in ones for a in made):
            ones.add(value)
        if value.op.attributes.get("classes") == 1:
            yield Guess(value, (), f"has 1 class, where {few} has another size")
        if value in outputs and (value in ones or (value in axes.static and 1 in value.shape)):
            yield Guess(value, (), f"is an output with a dimension of 1 entry, where {few} has another size")
        if value in axes.static or value in ones:
            continue
        for i, arg in enumerate(value.args):
            if arg not in ones:
                continue
            index = i == 1 and value.op.name in _INDEXED
            for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
                along = type_.shape == arg.shape and any(
                    n == 1 and any(a in changed for a in resolve(t)) for t, n in zip(terms, type_.shape, strict=True)
                )
                if index or along:
                    yield Guess(arg, (), f"has 1 entry, where {few} has another size")


def _indexed(axes: Axes, changed: set[Axis]) -> Iterator[Guess]:
    """What is taken by numbers of data from a dimension that an axis of 1 entry is part of: they count all of it."""
    for value in axes.graph.values if changed else ():
        if value.op.name in _INDEXED and value.args[1] not in axes.static:
            along = resolve(axes[value.args[0]][value.op.attributes["axis"]])
            if len(along) > 1 and not changed.isdisjoint(along):
                yield Guess(value, (), "takes entries by numbers of data, among which an axis of 1 entry gets more")


def _untied(axes: Axes, sizes: Sizes, made: Mapping[float, str]) -> Iterator[Guess]:
    """Dimensions that were made, of as many entries as come of a size, and that nothing ties to an axis."""
    seen: set[Axis] = set()
    used: set[Axis] = set()
    counted = _counted(axes, sizes)
    stuck = _stuck(axes, sizes)
    for (value, i), copies in axes.copies.items():
        used.update(axis.root() for axis in copies)
        for term in axes.at(value, i):
            yield from _loose(value, term, sizes, made, counted, seen)
    inner = set(_with_parts(used))
    outputs = {*axes.graph.outputs.values(), *axes.graph.updates.values()}
    of = {a.size for a, n in sizes.known.items() if n != a.size}
    whole = {float(function(n)): because(shown, n) for n in of for shown, function in WHOLE.items()}
    more = {n: why for n, why in whole.items() if n > 1}  # of what is given out whatever the inputs are
    for value in axes.graph.values:
        for axis in [a for t in axes[value] for a in resolve(t) if a in stuck] if value.op.name == "pad" else ():
            n = axis.size
            yield Guess(value, (axis,), f"has {n} entries, counted from a part of an axis of {n} that has another size")
        static = value in axes.static and value not in outputs
        if value in axes.static and value in outputs:
            for term in [t for terms in axes.of(value) for t in terms]:
                yield from _loose(value, term, sizes, more, counted, seen)
        for term in [t for terms in axes.of(value) for t in terms]:
            # what isn't used outside was summed, or picked from, among constants
            own = tuple(a for a in term if a not in inner) if static else term
            yield from _loose(value, own, sizes, made, counted, seen)
        if static:  # used outside or not: here it was summed
            yield from _loose(value, _gone(axes, value), sizes, made, counted, seen)


def _gone(axes: Axes, value: Value) -> Term:
    """The axes of the arguments of a value that it doesn't have."""
    kept = {a for terms in axes.of(value) for t in terms for a in _with_parts(t)}
    return tuple(a for arg in value.args for terms in axes.of(arg) for t in terms for a in resolve(t) if a not in kept)


def _loose(
    value: Value, term: Term, sizes: Sizes, made: Mapping[float, str], counted: _Counted, seen: set[Axis]
) -> Iterator[Guess]:
    for axis in resolve(term):
        fixed = axis.rigid and axis.kind != "const"  # a constant's are as many as its numbers, which may be made of it
        if axis in seen or fixed or sizes.known.get(axis, axis.size) != axis.size:
            continue
        of_loose = counted.get(axis)
        numbers = [axis.size] if axis.kind in _LOOSE and (axis not in sizes.told or of_loose is not None) else []
        if of_loose is not None and axis.kind == "line":
            numbers += of_loose or [axis.size]
        for n in numbers:
            why = made.get(float(n))
            if why is not None:
                seen.add(axis)
                yield Guess(value, (axis,), f"has {n} entries, and nothing ties them to an axis: {why}")
                break


def _stuck(axes: Axes, sizes: Sizes) -> set[Axis]:
    """The axes counted from a part of an axis that changes, with as many entries as that had, which don't change.

    Zeros of n entries, of which every third is written: so many thirds make as many numbers n.
    """
    changed = {a.root() for a, n in sizes.known.items() if n != a.size}
    parts = _parts(axes)
    stays = {a for a in parts if sizes.known.get(a, a.size) == a.size}
    users = _users(parts)
    found: set[Axis] = set()
    for n in {a.size for a in changed} & {a.size for a in stays}:  # a walk for each such size, of which there are few
        stack = [a for a in changed if a.size == n]
        seen = set(stack)
        while stack:
            more = [a for a in users.get(stack.pop(), ()) if a not in seen]
            seen.update(more)
            stack += more
        found |= {a for a in stays & seen if a.size == n}
    return found


def _parts(axes: Axes) -> dict[Axis, list[Axis]]:
    """The axes that are counted from others, and these."""
    return {
        axis: [a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in resolve(p)]
        for axis in dict.fromkeys(a.root() for a in axes.all)
        if axis.lines
    }


def _users(parts: Mapping[Axis, Iterable[Axis]]) -> dict[Axis, list[Axis]]:
    """By each axis the ones that are counted from it."""
    users: dict[Axis, list[Axis]] = {}
    for axis, own in parts.items():
        for part in own:
            users.setdefault(part, []).append(axis)
    return users


#: Of an axis that is counted from others, all of them loose, how many entries these have.
_Counted = dict[Axis, list[int]]


def _counted(axes: Axes, sizes: Sizes) -> _Counted:
    """The axes that are counted from loose ones alone, from numbers, or from one another."""
    parts = _parts(axes)
    users = _users(parts)
    firm = [
        axis
        for axis, own in parts.items()
        for part in own
        if (part.kind not in _LOOSE or part in sizes.told) and part not in parts
    ]
    found = {axis: [part.size for part in own] for axis, own in parts.items()}
    while firm:
        axis = firm.pop()
        if found.pop(axis, None) is not None:
            firm += users.get(axis, ())
    return found


def _with_parts(axes: Iterable[Axis]) -> Iterator[Axis]:
    """Axes, and those that they are made of."""
    seen: set[Axis] = set()
    stack = list(axes)
    while stack:
        for axis in resolve((stack.pop(),)):
            if axis not in seen:
                seen.add(axis)
                yield axis
                stack.extend(a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in p)
