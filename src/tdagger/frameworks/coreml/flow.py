"""Ops of a program that look at the walk over it: states, labels, and what has blocks inside.

A branch by a number that is known is that branch; another is the composite ``cond``. Turns of a loop that are known are
written out. While a program is written (:mod:`.programs`), branches and loops are its blocks, and states are its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from tdagger import library as lib
from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.choosing import chosen
from tdagger.frameworks.coreml import lists
from tdagger.frameworks.known import array_of_constant
from tdagger.names import shown
from tdagger.op import Value
from tdagger.program.trace import is_tracing, tracing
from tdagger.program.write import if_, while_loop

if TYPE_CHECKING:
    from tdagger.frameworks.coreml.importer import Walk

#: So many ops of turns are written out where no program is written.
_OPS = 1 << 16
_AS_PROGRAM = "which a TDAG doesn't have: td.Program.from_coreml imports it as blocks"

# --- states ------------------------------------------------------------------------------------------------


def _state_of(walk: Walk, op: Any, name: str) -> str:
    """The state that an input names."""
    found = [a.name for a in op.inputs[name].arguments]
    own = str(walk.called.get(found[0], found[0])) if len(found) == 1 else ""
    if own not in walk.states:
        raise SourceError(f"its input {shown(name)} is no state")
    return own


def _read_state(walk: Walk, op: Any) -> Sequence[Any]:
    name = _state_of(walk, op, "input")
    return [tracing().state_of(name) if is_tracing() else walk.states[name]]


def _write_state(walk: Walk, op: Any) -> Sequence[Any]:
    """A state's next value, which is what is read from here on."""
    name = _state_of(walk, op, "input" if "input" in op.inputs else "state")
    value = _one(walk, op, "data" if "data" in op.inputs else "value")
    if value.type is not walk.states[name].type:
        raise UnsupportedError(f"state {shown(name)} is {walk.states[name].type}, and gets {value.type}")
    if walk.choosing:
        raise UnsupportedError(f"a branch writes state {shown(name)}, {_AS_PROGRAM}")
    if is_tracing():
        trace = tracing()
        trace.state_of(name)
        trace.state[name] = value
    else:
        walk.states[name] = walk.updates[name] = value
    return [value] * len(op.outputs)


def _one(walk: Walk, op: Any, name: str) -> Value:
    """An input that is one value."""
    found = walk.argument(op, name) if name in op.inputs else []
    if len(found) != 1:
        raise SourceError(f"its input {shown(name)} is {len(found)} tensors, where it should be one")
    return walk.value(*found[0])


def _classify(walk: Walk, op: Any) -> Sequence[Any]:
    """The label of the most probable class and a table of probabilities: both as the probabilities."""
    value = _one(walk, op, "probabilities")
    names = ", ".join(shown(o.name) for o in op.outputs)
    walk.told.append(f"{names} (a label, and the classes' probabilities by their labels) are given as probabilities")
    return [value] * len(op.outputs)


# --- blocks ------------------------------------------------------------------------------------------------


def _blocks(op: Any) -> tuple[Any, Any]:
    if len(op.blocks) != 2:
        raise SourceError(f"it has {len(op.blocks)} blocks, where it should have two")
    return op.blocks[0], op.blocks[1]


def _draws(walk: Walk, function: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """What a function gives; refused if it draws random numbers, which would be the same in each turn."""
    before = walk.streams
    found = function()
    if walk.streams != before:
        raise UnsupportedError("it draws random numbers in a loop, which would be the same in each turn")
    return found


def _cond(walk: Walk, op: Any) -> Sequence[Any]:
    """One of two blocks, by a bool."""
    asked = _one(walk, op, "pred")
    blocks = _blocks(op)
    if asked.type.size != 1:
        raise UnsupportedError(f"it chooses by {asked.type}, where it should be one number")
    known = array_of_constant(asked)
    if known is not None:
        return walk.in_block(blocks[0 if bool(known.reshape(-1)[0]) else 1], [])
    predicate = lib.reshape(asked, shape=())
    kinds: list[Sequence[Any]] = []

    def arm(block: Any) -> tuple[Value, ...]:
        kinds.append(walk.in_block(block, []))
        return tuple(lists.plain(kinds[-1]))

    if is_tracing():
        found = cast("tuple[Value, ...]", if_(predicate, *[lambda b=b: arm(b) for b in blocks]))
        return lists.like(kinds[0], found)
    before, walk.choosing = walk.choosing, True
    try:
        then, otherwise = [arm(b) for b in blocks]
    finally:
        walk.choosing = before
    return lists.like(kinds[0], chosen(predicate, then, otherwise))


def _while_loop(walk: Walk, op: Any) -> Sequence[Any]:
    """A block again and again, as long as what another one gives is true."""
    things = [v if isinstance(v, lists.Listed) else walk.value(n, v) for n, v in walk.argument(op, "loop_vars")]
    test, body = _blocks(op)

    def asked(found: Sequence[Any]) -> Value:
        if len(found) != 1 or found[0].type.size != 1:
            raise SourceError("the condition of its loop isn't one number")
        return lib.reshape(found[0], shape=())

    if not is_tracing():
        return _written_out(walk, things, lambda given: asked(walk.in_block(test, given)), body)

    def going(*values: Value) -> Value:
        return asked(_draws(walk, lambda: walk.in_block(test, lists.like(things, values))))

    def turn(*values: Value) -> tuple[Value, ...]:
        return tuple(lists.plain(_draws(walk, lambda: walk.in_block(body, lists.like(things, values)))))

    return lists.like(things, cast("tuple[Value, ...]", while_loop(going, turn, tuple(lists.plain(things)))))


def _written_out(walk: Walk, things: Sequence[Any], going: Callable[[Sequence[Any]], Value], body: Any
                 ) -> Sequence[Any]:  # fmt: skip
    """The turns of a loop one after the other, where each condition is a number that no input is behind."""
    while True:
        asked = array_of_constant(going(things))
        if asked is None:
            raise UnsupportedError(f"it is a loop of as many turns as the data says, {_AS_PROGRAM}")
        if not bool(asked.reshape(-1)[0]):
            return things
        things = walk.in_block(body, things)
        walk.steps += 1 + len(body.operations)
        if walk.steps > _OPS:
            raise UnsupportedError(f"its turns are more than {_OPS} ops, {_AS_PROGRAM}")


#: Ops that change a state.
WRITES = ("write_state", "coreml_update_state")
#: Ops that read or change what the walk knows.
OWN: dict[str, Any] = {
    "read_state": _read_state,
    "write_state": _write_state,
    "coreml_update_state": _write_state,
    "classify": _classify,
    "cond": _cond,
    "while_loop": _while_loop,
    **lists.OPS,
}


def inside(block: Any) -> Iterator[Any]:
    """The ops of a block, those of blocks inside them too."""
    stack = [block]
    while stack:
        at = stack.pop()
        for op in at.operations:
            yield op
            stack += op.blocks


def read_by(op: Any) -> list[str]:
    """The names that an op reads, blocks inside it too."""
    found: list[str] = []
    stack = [op]
    while stack:
        at = stack.pop()
        found += [a.name for i in at.inputs.values() for a in i.arguments if a.WhichOneof("binding") == "name"]
        for block in at.blocks:
            found += block.outputs
            stack += block.operations
    return found
