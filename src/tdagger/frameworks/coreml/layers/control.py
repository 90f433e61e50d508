"""Branches and loops of the older networks: layers with networks inside, which read and write the blobs around them.

Such a layer has no outputs: what its networks write is seen by all layers after it. So a branch leaves of each blob
what the network that was run made of it, and a loop carries what its turns write. In a network that is imported alone
a branch by a number that is known is that branch, another the composite ``cond``, and turns that are known are written
out; while a program is written (:mod:`tdagger.frameworks.coreml.programs`) they are its blocks.

A blob that isn't made on every way is zeros beside a bool that says whether it was made: a program raises where one is
read that wasn't. ``loopBreak`` and ``loopContinue`` are bools too: what comes after a layer in which a turn may have
ended is a branch of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tdagger import library as lib
from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.choosing import chosen
from tdagger.frameworks.coreml.layers.table import as_float, whole
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const
from tdagger.program.parts import If, Raise
from tdagger.program.trace import is_tracing, tracing
from tdagger.program.write import while_loop

if TYPE_CHECKING:
    from tdagger.frameworks.coreml.layers.network import Layers

_AS_PROGRAM = "which a TDAG doesn't have: td.Program.from_coreml imports it as blocks"
#: So many layers of turns are written out where no program is written.
_LAYERS = 1 << 16
#: What stands among the blobs for a turn that ended, and for a loop that did.
_ENDED, _LEFT = ("a turn ended",), ("a loop was left",)
_NO, _YES = (const(np.asarray(n), "bool") for n in (False, True))


#: Blobs by name, and what else is kept of them; None for one that there isn't.
Blobs = dict[Any, Any]


class Torn(NamedTuple):
    """A blob that can't be read, and why."""

    why: str


class Failing(UnsupportedError):
    """A layer takes what couldn't be imported, which is noted already."""


def networks_of(item: Any) -> list[Any]:
    """The networks inside of a layer."""
    kind = item.WhichOneof("layer")
    if kind == "branch":
        return [item.branch.ifBranch, item.branch.elseBranch]
    return [item.loop.conditionNetwork, item.loop.bodyNetwork] if kind == "loop" else []


def inside(layers: Sequence[Any]) -> Iterator[Any]:
    """Layers, and those of the networks inside of them."""
    stack = list(layers)
    while stack:
        item = stack.pop()
        yield item
        for network in networks_of(item):
            stack += network.layers


def written(layers: Sequence[Any]) -> list[str]:
    """The blobs that layers make, each once."""
    return list(dict.fromkeys(n for item in inside(layers) for n in item.output))


def reads(layers: Sequence[Any]) -> Counter[str]:
    """How often layers read each blob."""
    found: Counter[str] = Counter()
    for item in inside(layers):
        found.update(item.input)
        if item.WhichOneof("layer") == "loop":
            found[item.loop.conditionVar] += 1
    return found


def _ends(layers: Sequence[Any], kinds: tuple[str, ...]) -> bool:
    """Whether a layer of such a kind is among them, not in a loop of theirs."""
    stack = list(layers)
    while stack:
        item = stack.pop()
        kind = item.WhichOneof("layer")
        if kind in kinds:
            return True
        if kind == "branch":
            stack += [*item.branch.ifBranch.layers, *item.branch.elseBranch.layers]
    return False


def _true(x: Value, what: str) -> Value:
    """Whether a number is more than 1e-6 away from 0."""
    if x.type.size != 1:
        raise UnsupportedError(f"{what} is {x.type}, where it should be one number")
    return e.greater(e.abs_(as_float(lib.reshape(x, shape=()))), const(1e-6, "f32"))


def _known(net: Layers, x: Any) -> Any:
    """A number that is known, None for another."""
    found = net.known.array(x)
    return None if found is None else found.reshape(-1)[0].item()


def _place(name: Any) -> Any:
    """Among the blobs: whether one was made."""
    return ("made", name)


def blob(net: Layers, name: str) -> Value:
    """A blob as it is now; a program raises where it wasn't made."""
    found = net.blobs.get(name)
    if found is None:
        if name in net.failed:
            raise Failing("an input of it can't be imported")
        raise SourceError(f"its input {shown(name)} is made by nothing before it")
    if isinstance(found, Torn):
        raise UnsupportedError(f"its input {shown(name)}: {found.why}")
    made = net.blobs.get(_place(name), _YES)
    assert isinstance(made, Value)
    if made is not _YES:
        trace = tracing()
        there, gone = trace.block("there"), trace.block("gone")
        trace.end(If("", there, gone), made)
        trace.drafts[gone].end = Raise(f"{shown(name)} is read, and made by no layer before")
        trace.begin(there)
    return found


def bind(net: Layers, name: str, value: Value) -> None:
    """A blob that a layer makes, anew if it was there."""
    net.blobs[name] = value
    net.blobs.pop(_place(name), None)


def run(net: Layers, layers: Sequence[Any], path: str = "") -> None:
    """One layer after the other, as far as the turn of a loop goes that they are in."""
    for number, item in enumerate(layers):
        net.layer(number, item, path)
        rest = layers[number + 1 :]
        ended = net.blobs.get(_ENDED, _NO)
        if ended is not _NO and rest:
            if ended is not _YES:
                _rest(net, cast(Value, ended), rest, f"{path}{number}+")
            return


def _rest(net: Layers, ended: Value, layers: Sequence[Any], path: str) -> None:
    """What is run unless a turn has ended."""
    _choose(net, ended, [lambda: None, lambda: run(net, layers, path)], written(layers), ("ended", "goes_on"))


def _choose(net: Layers, asked: Value, arms: Sequence[Callable[[], None]], names: Sequence[str],
            called: tuple[str, str]) -> None:  # fmt: skip
    """One of two ways, the first if it is true: blobs are what it leaves of them."""
    keys: list[Any] = [*names, *map(_place, names), _ENDED, _LEFT]
    before = {k: net.blobs.get(k) for k in keys}

    def way(arm: Callable[[], None]) -> Callable[[], Blobs]:
        def call() -> Blobs:
            _set(net, before)
            arm()
            return {k: net.blobs.get(k) for k in keys}

        return call

    ways = [way(a) for a in arms]
    if is_tracing():
        found, merged = tracing().fork(asked, ways, called)
        _set(net, _merged(found, names, merged))
    else:
        _set(net, _conds([w() for w in ways], names, asked))


def _set(net: Layers, blobs: Mapping[Any, Any]) -> None:
    for key, value in blobs.items():
        if value is None:
            net.blobs.pop(key, None)
        else:
            net.blobs[key] = value


def _alike(values: Sequence[Value | Torn | None]) -> list[Value] | Torn | None:
    """What two ways leave of a blob, of one type: zeros where one leaves nothing, None where both do."""
    torn = [v for v in values if isinstance(v, Torn)]
    there = [v for v in values if isinstance(v, Value)]
    if torn or not there:
        return torn[0] if torn else None
    if len({v.shape for v in there}) > 1:
        return Torn(f"one branch gives {there[0].type}, the other {there[1].type}")
    if there[0] is there[-1] and len(there) == len(values):
        return there
    like = as_float(there[0])
    return [s.broadcast_to(const(0.0, like.dtype), like.shape) if v is None else as_float(cast(Value, v))
            for v in values]  # fmt: skip


def _merged(found: Sequence[Blobs], names: Sequence[str], merged: Callable[[list[Value]], Value]) -> Blobs:
    """What two ways leave, as one."""
    out: Blobs = {k: merged([_NO if w[k] is None else w[k] for w in found]) for k in (_ENDED, _LEFT)}
    for name in names:
        values = _alike([w[name] for w in found])
        if not isinstance(values, list):
            out[name], out[_place(name)] = values, None
            continue
        places = [_YES if w[_place(name)] is None else w[_place(name)] for w in found]
        made = merged([_NO if w[name] is None else there for w, there in zip(found, places, strict=True)])
        out[name], out[_place(name)] = merged(values), None if made is _YES else made
    return out


def _conds(found: Sequence[Blobs], names: Sequence[str], asked: Value) -> Blobs:
    """What two ways leave, by a ``cond``."""
    if any(found[0][k] is not found[1][k] for k in (_ENDED, _LEFT)):
        raise UnsupportedError(f"a turn of a loop ends by data, {_AS_PROGRAM}")
    out: Blobs = {}
    both: dict[str, list[Value]] = {}
    for name in names:
        values = _alike([w[name] for w in found])
        out[name] = values
        if isinstance(values, list) and any(w[name] is None for w in found):
            out[name] = Torn(f"one branch makes it alone, {_AS_PROGRAM}")
        elif isinstance(values, list):
            both[name] = values
    if both:
        results = chosen(asked, *[[values[i] for values in both.values()] for i in (0, 1)])
        out.update(zip(both, results, strict=True))
    return out


# --- layers ------------------------------------------------------------------------------------------------


def _branch(net: Layers, kind: str, p: Any, inputs: Sequence[Value], path: str) -> None:
    """One of two networks, the second of which may be empty."""
    if len(inputs) != 1:
        raise SourceError(f"it has {len(inputs)} inputs, where it should have one")
    (asked,) = inputs
    predicate = _true(asked, "what it chooses by")
    arms = [(p.ifBranch.layers, f"{path}then/"), (p.elseBranch.layers, f"{path}else/")]
    known = _known(net, predicate)
    if known is not None:
        run(net, *arms[0 if known else 1])
        return
    names = written([*p.ifBranch.layers, *p.elseBranch.layers])
    _choose(net, predicate, [lambda a=a: run(net, *a) for a in arms], names, ("then", "otherwise"))


def _leave(net: Layers, kind: str, p: Any, inputs: Sequence[Value], path: str) -> None:
    """The end of a turn, and of the loop."""
    if _ENDED not in net.blobs:
        raise SourceError("it stands in no loop")
    net.blobs[_ENDED] = _YES
    if kind == "loopBreak":
        net.blobs[_LEFT] = _YES


class _Loop(NamedTuple):
    """A loop: its networks, the blob that says whether it goes on, how many turns it has at most."""

    test: Sequence[Any]
    body: Sequence[Any]
    asked: str
    most: Value | None
    path: str

    def tested(self, net: Layers) -> Value | None:
        """Whether it goes on; None where nothing says so but the number of turns."""
        run(net, self.test, f"{self.path}test/")
        return _true(blob(net, self.asked), "what its loop goes on by") if self.asked else None

    def turn(self, net: Layers) -> Value:
        """Run a turn; gives whether it leaves the loop."""
        net.blobs[_ENDED] = net.blobs[_LEFT] = _NO
        run(net, self.body, f"{self.path}body/")
        left = net.blobs[_LEFT]
        assert isinstance(left, Value)
        return left


def _loop(net: Layers, kind: str, p: Any, inputs: Sequence[Value], path: str) -> None:
    """A network again and again: as often as a number says, or as long as a blob is true, or both."""
    if len(inputs) > 1:
        raise SourceError(f"it has {len(inputs)} inputs, where it should have one at most")
    most = inputs[0] if inputs else None
    if most is None and (p.maxLoopIterations or not p.conditionVar):
        most = const(np.asarray(p.maxLoopIterations, np.int64), "i64")
    elif most is not None:
        most = lib.reshape(whole(most), shape=()) if most.type.size == 1 else most
        if most.rank:
            raise UnsupportedError(f"it has {most.type} turns, where it should be one number")
    found = _Loop(p.conditionNetwork.layers, p.bodyNetwork.layers, p.conditionVar, most, path)
    around = {k: net.blobs.get(k) for k in (_ENDED, _LEFT)}
    if is_tracing():
        _as_block(net, found)
    else:
        _written_out(net, found)
    _set(net, around)


def _written_out(net: Layers, found: _Loop) -> None:
    """The turns one after the other, where all that says how many there are is known."""
    most = None if found.most is None else _known(net, found.most)
    if found.most is not None and most is None:
        raise UnsupportedError(f"it is a loop of as many turns as the data says, {_AS_PROGRAM}")
    turns = 0
    while most is None or turns < most:
        going = found.tested(net)
        known = True if going is None else _known(net, going)
        if known is None:
            raise UnsupportedError(f"it is a loop of as many turns as the data says, {_AS_PROGRAM}")
        if not known:
            return
        left = _known(net, found.turn(net))
        if left is None:
            raise UnsupportedError(f"it is a loop that data ends, {_AS_PROGRAM}")
        if left:
            return
        turns += 1
        net.steps += 1 + len(found.body)
        if net.steps > _LAYERS:
            raise UnsupportedError(f"its turns are more than {_LAYERS} layers, {_AS_PROGRAM}")


def _as_block(net: Layers, found: _Loop) -> None:
    """A loop of a program, which carries the blobs that its turns write."""
    layers = [*found.test, *found.body]
    names = written(layers)
    carried = [n for n in names if isinstance(net.blobs.get(n), Value)]
    elsewhere = net.reads - reads(layers)
    new = [n for n in names if n not in carried and elsewhere[n] > 0]
    start: dict[Any, Value] = {n: as_float(cast(Value, net.blobs[n])) for n in carried}
    start |= {k: v for n in carried if isinstance(v := net.blobs.get(k := _place(n)), Value)}
    if new:  # of which type they are is found by a turn that is written and left out again
        restore = (tracing().kept(), net.kept())
        after = _turns(net, found, start, new)
        for back in restore:
            back()
        start |= {n: s.broadcast_to(const(0.0, v.dtype), v.shape) for n, v in after.items()}
        start |= {_place(n): _NO for n in after}
    _turns(net, found, start, [])


def _turns(net: Layers, found: _Loop, start: dict[Any, Value], new: Sequence[str]) -> dict[str, Value]:
    """Write the loop; gives blobs as they are after a turn."""
    keys = list(start)
    layers = [*found.test, *found.body]
    all_keys: list[Any] = [k for n in written(layers) for k in (n, _place(n))]
    breaks = _ends(found.body, ("loopBreak",))
    extra: list[Value] = [_NO] if breaks else []
    extra += [const(np.asarray(0), found.most.dtype)] if found.most is not None else []
    after: Blobs = {}
    turned: dict[str, Value] = {}
    before = net.streams

    def going(*values: Value) -> Value:
        _set(net, dict(zip(keys, values, strict=False)))
        rest = list(values[len(keys) :])
        asked: list[Value] = [e.not_(rest.pop(0))] if breaks else []
        asked += [e.less(rest.pop(0), found.most)] if found.most is not None else []
        tested = found.tested(net)
        asked += [] if tested is None else [tested]
        after.update({k: net.blobs.get(k) for k in all_keys})
        out = asked[0]
        for one in asked[1:]:
            out = e.bitwise_and(out, one)
        return out

    def turn(*values: Value) -> tuple[Value, ...]:
        left = found.turn(net)
        if net.streams != before:
            raise UnsupportedError("it draws random numbers in a loop, which would be the same in each turn")
        for n in new:
            if isinstance(v := net.blobs.get(n), Value):
                turned[n] = as_float(v)
        counted = [e.add(values[-1], const(np.asarray(1), values[-1].dtype))] if found.most is not None else []
        return (*[_carried(net, k, start[k]) for k in keys], *([left] if breaks else []), *counted)

    while_loop(going, turn, (*start.values(), *extra))
    _set(net, after)
    return turned


def _carried(net: Layers, key: Any, start: Value) -> Value:
    """What a turn leaves of what the loop carries."""
    value = net.blobs.get(key)
    if isinstance(key, tuple):  # whether a blob was made
        return _YES if value is None else value
    if isinstance(value, Torn):
        raise UnsupportedError(f"{shown(key)}: {value.why}")
    if value is None:
        raise Failing("what its loop carries can't be imported")
    value = as_float(value)
    if value.type is not start.type:
        raise UnsupportedError(f"{shown(key)} begins as {start.type} and is {value.type} after a turn; it has to stay")
    return value


#: Layers with networks inside, and those that end a turn.
LAYERS: dict[str, Callable[..., None]] = {
    "branch": _branch, "loop": _loop, "loopBreak": _leave, "loopContinue": _leave,
}  # fmt: skip
