"""If, Loop and Scan: decided by constants and written out, or blocks of the program that is imported.

In a network that is imported alone (``td.from_onnx``) what they ask has to be known: the branch that is taken is all
there is of an If, and turns of loops are written out one after the other. While a program is written they are its
branches and loops; a loop whose turns aren't alike (a sequence that grows, a slice of as many entries as turns were
made) is written out if it is known how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tdagger import library as lib
from tdagger.errors import SourceError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.onnx.subgraphs import Subgraph, constants_in, run
from tdagger.frameworks.onnx.things import Absent, Listed, Thing, Varying, kinds_of, plain_of, what
from tdagger.frameworks.onnx.walk.limits import STEPS
from tdagger.names import shown
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, scatter
from tdagger.ops.source import Input, const
from tdagger.program.structure import nothing
from tdagger.program.trace import Trace, is_tracing, tracing
from tdagger.types import TensorType

if TYPE_CHECKING:
    from tdagger.frameworks.onnx.walk.nodes import Nodes as Walk
    from tdagger.frameworks.onnx.walk.scope import Scope

_AS_PROGRAM = "which a TDAG doesn't have: td.Program.from_onnx imports it as blocks"
_I64 = TensorType((), "i64")


class Site(NamedTuple):
    """A node with graphs, and where it stands."""

    walk: Walk
    scope: Scope
    node: Any
    graphs: Mapping[str, Subgraph]

    def graph(self, name: str) -> Subgraph:
        found = self.graphs.get(name)
        if found is None:
            raise SourceError(f"it has no graph {name}")
        return found

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute that is an integer or several."""
        for a in self.node.attribute:
            if a.name == name:
                return a.i if a.type == a.INT else tuple(a.ints)
        return default

    def run(self, name: str, given: Sequence[Thing]) -> list[Thing]:
        return run(self.walk, self.scope, self.node, self.graph(name), given)

    def number(self, thing: Thing | None) -> Any:
        """The one number that something is known to be; None if it isn't known."""
        if not isinstance(thing, Value):
            return None
        if thing.type.size != 1:
            raise UnsupportedError(f"it asks for one number, not {thing.type}")
        array = self.walk.known.array(thing)
        return None if array is None else array.reshape(-1)[0].item()

    @property
    def title(self) -> str:
        return self.node.name or next((o for o in self.node.output if o), self.node.op_type)


def results(
    walk: Walk, scope: Scope, node: Any, things: list[Thing | None], graphs: Mapping[str, Subgraph]
) -> list[Any]:
    """What an If, Loop or Scan gives."""
    site = Site(walk, scope, node, graphs)
    if node.op_type == "If":
        found = _if(site, things[0] if things else None)
    elif node.op_type == "Loop":
        found = _loop(site, things)
    elif scope.versions.get("", 1) < 9:
        found = _old_scan(site, things)
    else:
        found = _scan(site, things)
    if len(found) < len(node.output):
        raise UnsupportedError(f"its graph gives {len(found)} results, and it has {len(node.output)} outputs")
    return found[: len(node.output)]


# --- branches ----------------------------------------------------------------------------------------------

_ARMS = ("then_branch", "else_branch")


def _if(site: Site, asked: Thing | None) -> list[Thing]:
    if asked is None:
        raise SourceError("it has no condition")
    for name in _ARMS:
        site.graph(name)
    known = site.number(asked)
    if known is not None:
        return site.run(_ARMS[0 if known else 1], [])
    if not is_tracing():
        raise UnsupportedError(f"it branches on data, {_AS_PROGRAM}")
    predicate = e.cast(lib.reshape(plain_of(asked, "its condition"), shape=()), "bool")
    errors: list[TDaggerError] = []
    misfits: list[str] = []

    def arm(name: str) -> Callable[[], list[Thing] | None]:
        def call() -> list[Thing] | None:
            before, failed = len(site.walk.problems), len(errors)
            found = _tried(lambda: site.run(name, []), errors)
            why = site.walk.misfit(before) if found is None else ""
            if why:
                del errors[failed:]
                misfits.append(f"{name} ({why})")
            return found

        return call

    start = tracing().current
    found, merged = tracing().fork(predicate, [arm(n) for n in _ARMS], ("then", "otherwise"))
    if len(misfits) == 2:
        raise UnsupportedError(f"its branches can't be run at these sizes: {'; '.join(misfits)}")
    if errors:
        raise errors[0]
    first, second = found
    if misfits:
        warn(
            f"node {shown(site.title)} of {site.walk.model.name}: its {misfits[0]} can't be run at these sizes: the "
            "program raises IndexError where it comes to it"
        )
        place = tracing().slot("beyond", _I64, start)  # of the two entries that there are
        where = e.where(predicate, *map(_number, (2, 0) if first is None else (0, 2)))
        tracing().drafts[start].writes[cast(Input, place.op).leaf] = where
        first = [_trap(t, place) for t in second] if first is None else first
        second = [_trap(t, place) for t in first] if second is None else second
    if len(first) != len(second):
        raise UnsupportedError(f"its branches give {len(first)} and {len(second)} results")
    return [_either(a, b, merged) for a, b in zip(first, second, strict=True)]


def _trap(thing: Thing, place: Value) -> Thing:
    """What stands for the result of a branch that can't be run: an entry that isn't there."""
    if not isinstance(thing, Value):
        raise UnsupportedError(f"of its branches only one can be run at these sizes, which gives {what(thing)}")
    return s.broadcast_to(gather(const(np.asarray([0, 1], thing.dtype.numpy), thing.dtype), place, 0), thing.shape)


def _tried(function: Callable[[], Any], errors: list[TDaggerError]) -> Any:
    """What a function gives; None if it can't, which is noted: what was begun around it is ended first."""
    try:
        return function()
    except SourceError:
        raise
    except TDaggerError as error:
        errors.append(error)
        return None


def _either(a: Thing, b: Thing, merged: Callable[[list[Value]], Value]) -> Thing:
    """What is one of two things, by the branch that is run."""
    if isinstance(a, Absent) and isinstance(b, Absent):
        return a
    if isinstance(a, Listed) and isinstance(b, Listed) and len(a.items) == len(b.items):
        items = [_either(x, y, merged) for x, y in zip(a.items, b.items, strict=True)]
        if all(isinstance(x, Value) for x in items):
            return Listed(tuple([x for x in items if isinstance(x, Value)]), a.dtype)
    if isinstance(a, Value) and isinstance(b, Value) and a.type is b.type:
        return merged([a, b])
    if isinstance(a, Value | Varying) and isinstance(b, Value | Varying):
        first, second = kinds_of(a)[0], kinds_of(b)[0]
        if first.dtype is second.dtype and first.rank == second.rank:
            return _of_either_size(a, b, merged)
    raise UnsupportedError(f"its branches give {what(a)} and {what(b)}")


def _of_either_size(a: Value | Varying, b: Value | Varying, merged: Callable[[list[Value]], Value]) -> Varying:
    """Of two tensors of several sizes the one that is run, filled up to the larger of each."""
    pair = [x if isinstance(x, Varying) else Varying(x, {}) for x in (a, b)]
    first, second = (x.value.shape for x in pair)
    sizes = [max(n, m) for n, m in zip(first, second, strict=True)]
    open_ = {i for x in pair for i in x.lengths} | {i for i in range(len(sizes)) if first[i] != second[i]}
    told = {i: merged([x.lengths.get(i) or _number(x.value.shape[i]) for x in pair]) for i in sorted(open_)}
    return Varying(merged([filled(x.value, sizes) for x in pair]), told)


def filled(x: Value, sizes: Sequence[int]) -> Value:
    """A tensor with zeros behind its entries."""
    widths = [(0, n - m) for n, m in zip(sizes, x.shape, strict=True)]
    return s.pad(x, widths) if any(w for _, w in widths) else x


def _number(n: int) -> Value:
    return const(np.asarray(n, np.int64), "i64")


# --- loops -------------------------------------------------------------------------------------------------


class Turns(NamedTuple):
    """A loop: how many turns, what is carried, and what a turn makes of it.

    ``limit`` is the most turns, ``test`` whether a turn is made; either may be left open. ``turn`` takes the number of
    the turn and what is carried, and gives whether to go on (None: as ``test`` says before all turns), what is carried
    on, and what is laid end to end, along ``axes`` and, if it is in ``reverse``, from the end. ``most`` is how many
    turns there are at most, where that has to be known.
    """

    limit: int | Value | None
    test: Value | None
    start: Sequence[Thing]
    turn: Callable[[Value, Value | None, list[Thing]], tuple[Thing | None, list[Thing], list[Thing]]]
    names: Sequence[str]
    axes: Sequence[int] = ()
    reverse: Sequence[bool] = ()
    #: Whether each turn says if there is another.
    asks: bool = False
    most: int | None = None


def repeated(site: Site, loop: Turns) -> list[Thing]:
    """What is carried after a loop, and what its turns laid end to end."""
    if not is_tracing():
        return _written_out(site, loop)
    count = loop.limit if isinstance(loop.limit, int) else None
    if count is not None and count < 2 and (loop.test is None or site.number(loop.test) is not None):
        return _written_out(site, loop)
    if not all(isinstance(x, Value) for x in loop.start):
        return _written_out(site, loop)
    walk = site.walk
    back = walk.kept()
    try:
        return _as_blocks(site, loop)
    except SourceError:
        raise
    except TDaggerError as error:
        if count is None:
            raise
        told = walk.kept()  # with the problems of the turn
        problems, failing = list(walk.problems), list(walk.failing)
        back()
        try:
            return _written_out(site, loop)
        except SourceError:
            raise
        except TDaggerError:
            told()
            walk.problems, walk.failing = problems, failing
            raise error from None


def _written_out(site: Site, loop: Turns) -> list[Thing]:
    """A loop whose turns are known, one after the other."""
    if isinstance(loop.limit, Value):
        raise _undecided("how many turns it has depends on data")
    going = True if loop.test is None else site.number(loop.test)
    if going is None:
        raise _undecided("whether it has turns depends on data")
    carried, rows = list(loop.start), list[list[Thing]]()
    i = 0
    while going and (loop.limit is None or i < loop.limit):
        if i >= STEPS:
            raise UnsupportedError(f"it has more than {STEPS} turns, which aren't written out")
        asked = const(np.asarray(True), "bool") if loop.asks else None
        again, carried, ys = loop.turn(_number(i), asked, carried)
        rows.append(ys)
        i += 1
        if loop.asks and i != loop.limit:
            going = site.number(again)
            if going is None:
                raise _undecided(f"whether it goes on after {i} turns depends on data")
    return [*carried, *_laid(loop, rows or [_of_no_turn(loop)], bool(rows))]


def _undecided(why: str) -> UnsupportedError:
    return UnsupportedError(f"{why}, {_AS_PROGRAM}" if not is_tracing() else f"{why}, and its turns aren't alike")


def _of_no_turn(loop: Turns) -> list[Thing]:
    """What a turn would give: of a loop without turns the types alone are needed."""
    if not loop.axes:
        return []
    return loop.turn(_number(0), const(np.asarray(True), "bool") if loop.asks else None, list(loop.start))[2]


def _laid(loop: Turns, rows: list[list[Thing]], are_some: bool) -> list[Value]:
    """What turns gave, end to end along a new axis."""
    out: list[Value] = []
    for j, axis in enumerate(loop.axes):
        column = [plain_of(row[j], "what a turn gives") for row in rows]
        odd = [y for y in column if y.type is not column[0].type]
        if odd:
            raise UnsupportedError(f"its turns give {column[0].type} and {odd[0].type}, which no tensor holds together")
        axis = normal_axis(axis, column[0].rank + 1)
        if not are_some:
            shape = list(column[0].shape)
            out.append(nothing(TensorType((*shape[:axis], 0, *shape[axis:]), column[0].dtype)))
            continue
        ordered = column[::-1] if loop.reverse and loop.reverse[j] else column
        out.append(s.concat([s.unsqueeze(y, (axis,)) for y in ordered], axis))
    return out


def _as_blocks(site: Site, loop: Turns) -> list[Thing]:
    """A loop of the program that is written."""
    trace, walk = tracing(), site.walk
    start = [v for v in loop.start if isinstance(v, Value)]
    count = _number(loop.limit) if isinstance(loop.limit, int) else loop.limit
    always = loop.test is None or site.number(loop.test) is True
    test = None if always else loop.test
    asks = [] if not loop.asks else [const(np.asarray(True), "bool") if test is None else test]
    errors: list[TDaggerError] = []
    made: list[Value] = []
    drawn = walk.streams

    def going(i: Value, *state: Value) -> Value:
        terms = [] if count is None else [e.less(i, count)]
        terms += [state[0]] if asks else [test] if test is not None else []
        if not terms:
            raise UnsupportedError("nothing ends it")
        return terms[0] if len(terms) == 1 else terms[0] & terms[1]

    def turn(i: Value, *state: Value) -> list[Value]:
        own = list(state[len(asks) :])
        found = _tried(lambda: loop.turn(i, state[0] if asks else None, list(own)), errors)
        if found is not None:
            found = _tried(lambda: checked(i, own, *found), errors)
        return [e.add(i, _number(1)), *(found or state)]

    def checked(i: Value, own: list[Value], again: Thing | None, new: list[Thing], ys: list[Thing]) -> list[Value]:
        for name, old, thing in zip(loop.names, own, new, strict=True):
            if not isinstance(thing, Value) or thing.type is not old.type:
                raise UnsupportedError(f"{shown(name)} is {old.type} before a turn and {what(thing)} after it")
        if walk.streams != drawn:
            raise UnsupportedError("it draws random numbers, which would be the same in each turn")
        for j, (axis, y) in enumerate(zip(loop.axes, ys, strict=True)):
            made.append(_carried_along(trace, loop, j, axis, plain_of(y, "what a turn gives"), i, site))
        flags = [lib.reshape(plain_of(again, "its condition"), shape=())] if asks and again is not None else []
        return [*flags, *[v for v in new if isinstance(v, Value)]]

    names = ["turn", *["again" for _ in asks], *loop.names]
    found = trace.loop(going, turn, [_number(0), *asks, *start], names, list)
    if errors:
        raise errors[0]
    exact = loop.limit == loop.most and isinstance(loop.limit, int) and test is None and not asks
    laid = [
        v if exact else Varying(v, {normal_axis(a, v.rank): found[0]}) for v, a in zip(made, loop.axes, strict=True)
    ]
    return [*found[1 + len(asks) :], *laid]


def _carried_along(trace: Trace, loop: Turns, j: int, axis: int, y: Value, i: Value, site: Site) -> Value:
    """A slot of as many entries as there are turns, of which each turn writes one."""
    if loop.most is None:
        raise UnsupportedError(
            "how many turns it has depends on data, and so how long what they lay end to end is: say how many there "
            f"are at most, turns={{{site.title!r}: ...}}"
        )
    axis = normal_axis(axis, y.rank + 1)
    whole = trace.carry("ys", nothing(TensorType((*y.shape[:axis], loop.most, *y.shape[axis:]), y.dtype)))
    at = _number(loop.most - 1) - i if loop.reverse and loop.reverse[j] else i
    trace.frames[-1].besides[whole] = scatter(whole, at, y, axis)
    return whole


def _loop(site: Site, things: list[Thing | None]) -> list[Thing]:
    things = [*things, None, None][: max(len(things), 2)]
    graph = site.graph("body")
    start = [x for x in things[2:] if x is not None]
    if len(start) != len(things) - 2 or len(graph.inputs) != len(start) + 2:
        raise UnsupportedError(f"it carries {len(things) - 2} values, and its graph takes {len(graph.inputs)} inputs")
    if len(graph.outputs) < len(start) + 1:
        raise UnsupportedError(f"it carries {len(start)} values, and its graph gives {len(graph.outputs)} results")
    count, most = _count_of(site, things[0])
    test = things[1]
    asked = None if test is None else lib.reshape(e.cast(plain_of(test, "its condition"), "bool"), shape=())
    asks = not _stays(graph)

    def turn(i: Value, going: Value | None, carried: list[Thing]) -> tuple[Thing | None, list[Thing], list[Thing]]:
        found = site.run("body", [i, const(np.asarray(True), "bool") if going is None else going, *carried])
        return found[0], found[1 : len(start) + 1], found[len(start) + 1 :]

    several = len(graph.outputs) - len(start) - 1
    names = graph.inputs[2:]
    return repeated(site, Turns(count, asked, start, turn, names, (0,) * several, (), asks, most))


def _count_of(site: Site, thing: Thing | None) -> tuple[int | Value | None, int | None]:
    """How many turns a Loop has at most, as a number where it is known; and a bound, the caller's if it isn't."""
    walk = site.walk
    told = walk.turns
    if told is not None and not isinstance(told, int):
        told = told.get(f"{site.scope.place}{site.title}", told.get(site.title))
    if thing is None:
        return None, told
    known = site.number(thing)
    if known is not None:
        own = max(int(known), 0)
        return own, own if own <= STEPS else told  # "as many as there are" is written as a huge number
    return lib.reshape(e.cast(plain_of(thing, "its number of turns"), "i64"), shape=()), told


def _stays(graph: Subgraph) -> bool:
    """Whether a graph gives the condition that it is given, or a constant true."""
    makers = {o: n for n in graph.nodes for o in n.output}
    constants = dict(constants_in(graph))
    name = graph.outputs[0]
    while name in makers and makers[name].op_type in ("Identity", "Cast"):
        name = makers[name].input[0]
    if name == graph.inputs[1]:
        return True
    held = constants.get(name)
    return held is not None and held.data_type == 9 and (bytes(held.raw_data) == b"\1" or list(held.int32_data) == [1])


# --- scans -------------------------------------------------------------------------------------------------


def _ints(site: Site, name: str, count: int, default: int = 0) -> list[int]:
    found = site.attribute(name, None)
    if found is None:
        return [default] * count
    if len(found) != count:
        raise UnsupportedError(f"its {name} are {len(found)} numbers, not {count}")
    return list(found)


def _scan(site: Site, things: list[Thing | None]) -> list[Thing]:
    inputs = [plain_of(x, "an input") for x in things if x is not None]
    count = int(site.attribute("num_scan_inputs", 0))
    if not 0 < count <= len(inputs) or len(inputs) != len(things):
        raise UnsupportedError(f"it has {len(things)} inputs, of which it says that {count} are scanned")
    start, xs = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    several = len(site.graph("body").outputs) - len(start)
    if several < 0:
        raise UnsupportedError(f"it carries {len(start)} values, and its graph gives {several + len(start)} results")
    axes = [normal_axis(a, x.rank) for a, x in zip(_ints(site, "scan_input_axes", count), xs, strict=True)]
    backwards = _ints(site, "scan_input_directions", count)
    outputs = _ints(site, "scan_output_axes", several), _ints(site, "scan_output_directions", several)
    return scanned(site, start, xs, axes, backwards, *outputs)


def scanned(
    site: Site, start: Sequence[Thing], xs: Sequence[Value], axes: Sequence[int], backwards: Sequence[int],
    output_axes: Sequence[int], output_backwards: Sequence[int],
) -> list[Thing]:  # fmt: skip
    """A loop over the entries of some tensors."""
    sizes = {x.shape[a] for x, a in zip(xs, axes, strict=True)}
    if len(sizes) != 1:
        raise UnsupportedError(f"it scans tensors of {' and '.join(map(str, sorted(sizes)))} entries together")
    (count,) = sizes

    def turn(i: Value, _: Value | None, carried: list[Thing]) -> tuple[Thing | None, list[Thing], list[Thing]]:
        known = site.number(i)
        parts = [_entry(x, a, i, known, bool(b)) for x, a, b in zip(xs, axes, backwards, strict=True)]
        found = site.run("body", [*carried, *parts])
        return None, found[: len(start)], found[len(start) :]

    names = site.graph("body").inputs
    return repeated(
        site,
        Turns(count, None, start, turn, names[: len(start)], output_axes, [bool(b) for b in output_backwards],
              most=count),
    )  # fmt: skip


def _entry(x: Value, axis: int, i: Value, known: int | None, backwards: bool) -> Value:
    n = x.shape[axis]
    if known is not None:
        if not n:
            return nothing(TensorType((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype))
        return s.select(x, axis, n - 1 - known if backwards else known)
    return gather(x, _number(n - 1) - i if backwards else i, axis)


def _old_scan(site: Site, things: list[Thing | None]) -> list[Thing]:
    """Scan of operator set 8: a loop over a batch around the loop over its entries."""
    lengths, *rest = things
    count = int(site.attribute("num_scan_inputs", 0))
    inputs = [plain_of(x, "an input") for x in rest if x is not None]
    if not 0 < count <= len(inputs) or len(inputs) != len(rest):
        raise UnsupportedError(f"it has {len(rest)} inputs, of which it says that {count} are scanned")
    if lengths is not None:
        known = site.walk.known.array(plain_of(lengths, "sequence_lens"))
        if known is None or (known != inputs[-1].shape[1]).any():
            raise UnsupportedError("its sequences have lengths of their own")
    backwards = _ints(site, "directions", count)
    several = len(site.graph("body").outputs) - (len(inputs) - count)
    batch = {x.shape[0] for x in inputs}
    if len(batch) != 1:
        raise UnsupportedError(f"its inputs have batches of {' and '.join(map(str, sorted(batch)))}")
    (size,) = batch

    def turn(i: Value, _: Value | None, __: list[Thing]) -> tuple[Thing | None, list[Thing], list[Thing]]:
        at = site.number(i)
        own = [_entry(x, 0, i, at, False) for x in inputs]
        states, xs = own[: len(own) - count], own[len(own) - count :]
        return None, [], scanned(site, states, xs, [0] * count, backwards, [0] * several, [0] * several)

    total = len(inputs) - count + several
    return repeated(site, Turns(size, None, (), turn, (), [0] * total, most=size))
