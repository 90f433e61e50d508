"""Tensors of which so many entries count as the data says, and what operators give of them, in a program.

An operator takes all entries that there may be, and gives as many as count, where it does with each of them the same
and nothing with several: the axes of what it is made of say so, as they do for taking a batch away. Some operators know
more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.errors import AxisError, UnsupportedError
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.things import Absent, Read, Thing, Varying, blanked, plain_of, what
from tdagger.frameworks.writing import reshaped
from tdagger.graph import Graph, replayed
from tdagger.names import shown
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.elementwise import Cast
from tdagger.ops.indexing import gather
from tdagger.ops.source import Buffer, Input, Parameter, const, iota
from tdagger.ops.structure import Concat, Group, Ungroup
from tdagger.transform.axes.unbatch import unbatch

_Things = Sequence[Thing | None]


# --- what operators know of lengths ------------------------------------------------------------------------


def _shape(x: Varying, attributes: Mapping[str, Any]) -> Value:
    sizes = [x.lengths.get(i, const(n, "i64")) for i, n in enumerate(x.value.shape)]
    sizes = sizes[attributes.get("start", 0) : attributes.get("end", None)]
    return s.concat([s.unsqueeze(n, (0,)) for n in sizes], 0)


def _size(x: Varying) -> Value:
    out = const(1, "i64")
    for i, n in enumerate(x.value.shape):
        out = e.multiply(out, x.lengths.get(i, const(n, "i64")))
    return out


def _gathered(x: Varying, index: Value | Varying, axis: int) -> Thing | None:
    """Entries of an axis that varies: an index from the end is one from the last that counts, and is none beyond it."""
    count = x.lengths.get(axis)
    if count is None:
        return None
    others = {i: n for i, n in x.lengths.items() if i != axis}
    if others:
        return None
    at = e.cast(blanked(index, "indices"), "i64")
    at = e.where(at < 0, at + count, at)
    out = x.value.shape[axis]
    missing = (at < 0) | (at >= count)
    if isinstance(index, Varying):  # behind the last index nothing is asked for
        missing = missing & blanked(Varying(e.full_like(missing, True), index.lengths), "indices")
        at = blanked(Varying(at, index.lengths), "indices")
    found = gather(x.value, e.where(missing, out, at), axis)
    lengths = {axis + i: n for i, n in index.lengths.items()} if isinstance(index, Varying) else {}
    return Varying(found, lengths) if lengths else found


def _first(x: Varying, things: _Things, read: Read) -> Thing | None:
    """A Slice of the first entries along an axis that varies: no more than count."""
    bounds = [None if t is None else read(plain_of(t, "a bound")) for t in things[1:]]
    if len(bounds) < 2 or any(k is None for k, t in zip(bounds, things[1:], strict=True) if t is not None):
        return None
    starts, ends, axes, steps = ([] if k is None else k.reshape(-1).tolist() for k in [*bounds, None, None][:4])
    value, lengths = x.value, dict(x.lengths)
    for i, axis in enumerate(axes or range(len(starts))):
        axis = normal_axis(axis, value.rank)
        if axis not in lengths:
            return None
        if starts[i] or ends[i] <= 0 or (steps and steps[i] != 1):
            raise UnsupportedError(
                f"it slices {starts[i]}:{ends[i]} of {what(x)}: only the first so many entries are taken of such"
            )
        if ends[i] < value.shape[axis]:
            value = s.slice_axis(value, axis, 0, max(ends[i], 2))  # one entry alone would spread over other tensors
            lengths[axis] = e.minimum(lengths[axis], ends[i])
    return Varying(value, lengths)


def _summed(x: Varying, things: _Things, attributes: Mapping[str, Any], read: Read) -> Value | None:
    """A ReduceSum: zeros add nothing."""
    axes = attributes.get("axes")
    if len(things) > 1 and things[1] is not None:
        known = read(plain_of(things[1], "axes"))
        axes = None if known is None else known.reshape(-1).tolist()
        if axes is None:
            return None
    if not axes and attributes.get("noop_with_empty_axes", 0):
        return None
    along = {normal_axis(int(a), x.value.rank) for a in axes or range(x.value.rank)}
    if not along.issuperset(x.lengths):
        return None
    return s.reduce(blanked(x, "data"), "sum", sorted(along), keep=bool(attributes.get("keepdims", 1)))


def _padded(x: Varying, things: _Things, attributes: Mapping[str, Any], read: Read) -> Value | None:
    """A Pad by as many zeros as there are entries that may not count, as files of tdagger have it: a plain tensor."""
    fill = read(plain_of(things[2], "constant_value")) if len(things) > 2 and things[2] is not None else np.zeros(1)
    axes = len(things) > 3 and things[3] is not None
    if axes or attributes.get("mode", "constant") != "constant" or fill is None or fill.any():
        return None
    ends: list[Value | int] = []
    pads = plain_of(things[1] or Absent(), "pads")
    for piece in pads.args if isinstance(pads.op, Concat) else ():
        known = read(piece)
        if known is None and piece.type.size != 1:
            return None
        ends += [piece] if known is None else known.reshape(-1).tolist()
    rank = x.value.rank
    filled = {
        i for i, n in x.lengths.items() if len(ends) == 2 * rank and _fills(ends[rank + i], x.value.shape[i], n, read)
    }
    others = [end for i, end in enumerate(ends) if i - rank not in filled]
    if filled != {*x.lengths} or any(not isinstance(end, int) or end for end in others):
        return None
    return blanked(x, "data")


def _fills(end: Value | int, n: int, count: Value, read: Read) -> bool:
    """Whether a number is what of ``n`` entries doesn't count."""
    if isinstance(end, int):
        return False
    difference = reshaped(end)
    if difference.op.name != "subtract":
        return False
    most = read(difference.args[0])
    return most is not None and most.size == 1 and most.item() == n and reshaped(difference.args[1]) is reshaped(count)


def of_varying(op: str, things: _Things, attributes: Mapping[str, Any], read: Read) -> Thing | None:
    """What an operator gives that knows of lengths; None if it is one that doesn't."""
    x = things[0]
    if not isinstance(x, Varying):
        return None
    if op in ("Shape", "Size"):
        return _shape(x, attributes) if op == "Shape" else _size(x)
    if op == "Gather" and isinstance(things[1], Value | Varying):
        return _gathered(x, things[1], normal_axis(int(attributes.get("axis", 0)), x.value.rank))
    if op == "Slice":
        return _first(x, things, read)
    if op == "Pad":
        return _padded(x, things, attributes, read)
    return _summed(x, things, attributes, read) if op == "ReduceSum" else None


# --- the others: each entry by itself ----------------------------------------------------------------------

#: What numbers behind the last entry would disturb: a place that isn't there, a division by 0.
_BLANKS = {"Gather": 0, "GatherElements": 0, "GatherND": 0, "Div": 1, "Mod": 1}


def each(
    op: str, inputs: Mapping[str, Thing], read: Read, call: Callable[[Mapping[str, Value]], Sequence[Value]]
) -> list[Thing]:
    """What an operator gives that does the same with each entry; UnsupportedError if it doesn't.

    ``inputs`` are its inputs by name, ``call`` its results on others in their places.
    """
    inside: dict[str, Value] = {}
    real: dict[Value, Value] = {}
    for name, thing in inputs.items():
        own = blanked(thing, name, _BLANKS[op]) if op in _BLANKS and _is_whole(thing) else None
        own = own or (thing.value if isinstance(thing, Varying) else plain_of(thing, shown(name)))
        if isinstance(thing, Varying) or not (isinstance(own.op, Parameter | Buffer) or read(own) is not None):
            inside[name] = Input(str(len(real)), own.type)()
            real[inside[name]] = own
        else:
            inside[name] = own
    results = list(call(inside))
    outputs = {str(i): v for i, v in enumerate(results)}
    graph = Graph({str(i): v for i, v in enumerate(real)}, outputs)
    told = _followed(graph, inputs, inside)
    new = replayed(graph, real)
    return [Varying(new[v], told[v]) if told[v] else new[v] for v in results]


def _is_whole(thing: Thing) -> bool:
    return isinstance(thing, Varying) and thing.value.dtype.is_int


def _followed(graph: Graph, inputs: Mapping[str, Thing], inside: Mapping[str, Value]) -> dict[Value, dict[int, Value]]:
    """Along which dimensions the results of an operator vary, and how many entries count there."""
    axes = Axes(graph)
    lengths: dict[Axis, Value] = {}
    names: dict[Axis, str] = {}
    for name, thing in inputs.items():
        if not isinstance(thing, Varying) or inside[name] not in graph.values:
            continue
        for i, count in thing.lengths.items():
            term = axes[inside[name]][i]
            if len(term) != 1:
                raise UnsupportedError(f"its input {shown(name)} is {what(thing)}, which it takes apart")
            if lengths.setdefault(term[0], count) is not count:
                raise UnsupportedError(
                    f"it joins {shown(names[term[0]])} and {shown(name)}, whose lengths depend on data each by itself"
                )
            names[term[0]] = name
    try:
        unbatch(axes, lengths)
    except AxisError as error:
        name = next(iter(names.values()))
        why = str(error).splitlines()[1:2]
        raise UnsupportedError(
            f"its input {shown(name)} is {what(inputs[name])}, which it doesn't take entry by entry:{''.join(why)}"
        ) from None
    for name, value in inside.items():
        thing = inputs[name]
        for i, term in enumerate(axes[value] if value in graph.values else ()):
            own = thing.lengths if isinstance(thing, Varying) else {}
            if i not in own and any(a in lengths for a in resolve(term)):
                raise UnsupportedError(f"it joins {shown(name)}, {what(thing)}, to as many entries as the data says")
    for axis in lengths:
        if axis.rigid:
            raise UnsupportedError(f"it joins {axis.rigid} to {shown(names[axis])}, whose length depends on data")
    return {v: _lengths(axes, v, lengths) for v in graph.outputs.values()}


def _lengths(axes: Axes, value: Value, lengths: Mapping[Axis, Value]) -> dict[int, Value]:
    found: dict[int, Value] = {}
    for i, term in enumerate(axes[value]):
        own = [a for a in term if a.size != 1]
        if not any(a in lengths for a in own):
            continue
        if own[0] not in lengths or any(a in lengths for a in own[1:]):
            raise UnsupportedError("of a result only some entries between others would count")
        rest = value.shape[i] // own[0].size
        found[i] = lengths[own[0]] if rest == 1 else lengths[own[0]] * rest
    return found


# --- slices by bounds that depend on data ------------------------------------------------------------------


def sliced(things: _Things, _: Mapping[str, Any], read: Read) -> Thing | None:
    """A Slice whose bounds depend on data: the first so many entries, or as many as are known from one of them on.

    None if it is neither, so that its rule says what has to be known.
    """
    bounds = [t for t in things[1:3] if isinstance(t, Value)]
    if len(bounds) < 2 or not isinstance(things[0], Value) or all(read(b) is not None for b in bounds):
        return None
    x, (starts, ends) = things[0], (plain_of(t or Absent(), "a bound") for t in things[1:3])
    along = [*range(starts.type.size)]
    if len(things) > 3 and things[3] is not None:
        known = read(plain_of(things[3], "axes"))
        if known is None:
            return None
        along = [normal_axis(int(a), x.rank) for a in known.reshape(-1)]
    steps = read(plain_of(things[4], "steps")) if len(things) > 4 and things[4] is not None else np.ones(len(along))
    if steps is None or (steps != 1).any() or starts.type.size != len(along) or ends.type.size != len(along):
        return None
    lengths: dict[int, Value] = {}
    for i, axis in enumerate(along):
        start, end = (e.cast(s.group(s.slice_axis(v, 0, i, i + 1), [1]), "i64") for v in (starts, ends))
        start, end = (s.squeeze(v, (0,)) for v in (start, end))
        first = read(start)
        if first is not None and int(first) == 0:
            last = read(end)
            n = x.shape[axis]
            if last is not None:
                x = s.slice_axis(x, axis, 0, None if int(last) >= n else int(last))
                continue
            counted = e.where(e.less(end, const(0, "i64")), e.add(end, const(n, "i64")), end)
            lengths[axis] = e.minimum(e.maximum(counted, const(0, "i64")), const(n, "i64"))
            continue
        count = _apart(start, end)
        if count is None:
            return None
        x = _window(x, axis, start, count)
    return Varying(x, lengths) if lengths else x


def _apart(start: Value, end: Value) -> int | None:
    """How far apart two numbers are that depend on data, if they are one number and the same with a constant added."""
    (a, b), (c, d) = _with_offset(start), _with_offset(end)
    return d - b if a is c and d > b else None


def _with_offset(x: Value) -> tuple[Value, int]:
    """A number as another one and a constant that is added to it."""
    total = 0
    while True:
        if isinstance(x.op, Group | Ungroup | Cast) or (x.op.name in ("reshape", "identity") and x.args):
            x = x.args[0]
            continue
        if x.op.attributes.get("kind") == "add" and len(x.args) == 2:
            known = [number_of(a) for a in x.args]
            if isinstance(known[1], int):
                x, total = x.args[0], total + known[1]
                continue
            if isinstance(known[0], int):
                x, total = x.args[1], total + known[0]
                continue
        return x, total


def _window(x: Value, axis: int, start: Value, count: int) -> Value:
    """So many entries from one on; one that isn't there where a Slice would give fewer."""
    n = const(x.shape[axis], "i64")
    zero = const(0, "i64")
    first = e.where(e.less(start, zero), e.add(start, n), start)
    wraps = e.less(start, zero) & e.less_equal(zero, e.add(start, const(count, "i64")))
    first = e.where(wraps | e.less(first, zero), n, first)
    at = e.add(s.broadcast_to(first, (count,)), iota(count))
    return gather(x, at, axis)
