"""Ops of a program that look at the walk over it: its states, its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tdagger.errors import SourceError, UnsupportedError
from tdagger.names import shown

if TYPE_CHECKING:
    from tdagger.frameworks.coreml.importer import Walk


def _state_of(walk: Walk, op: Any, name: str) -> str:
    """The state that an input names."""
    found = [a.name for a in op.inputs[name].arguments]
    if len(found) != 1 or found[0] not in walk.states:
        raise SourceError(f"its input {shown(name)} is no state")
    return found[0]


def _read_state(walk: Walk, op: Any) -> Sequence[Any]:
    return [walk.states[_state_of(walk, op, "input")]]


def _write_state(walk: Walk, op: Any) -> Sequence[Any]:
    """A state's next value, which is what is read from here on."""
    name = _state_of(walk, op, "input" if "input" in op.inputs else "state")
    key = "data" if "data" in op.inputs else "value"
    ((own, what),) = walk.argument(op, key)
    value = walk.value(own, what)
    if value.type is not walk.states[name].type:
        raise UnsupportedError(f"state {shown(name)} is {walk.states[name].type}, and gets {value.type}")
    walk.states[name] = walk.updates[name] = value
    return [value] * len(op.outputs)


def _classify(walk: Walk, op: Any) -> Sequence[Any]:
    """The label of the most probable class and a table of probabilities: both as the probabilities."""
    ((own, what),) = walk.argument(op, "probabilities")
    value = walk.value(own, what)
    names = ", ".join(shown(o.name) for o in op.outputs)
    walk.told.append(f"{names} (a label, and the classes' probabilities by their labels) are given as probabilities")
    return [value] * len(op.outputs)


#: Ops that change a state.
WRITES = ("write_state", "coreml_update_state")
#: Ops that read or change what the walk knows.
OWN: dict[str, Any] = {
    "read_state": _read_state,
    "write_state": _write_state,
    "coreml_update_state": _write_state,
    "classify": _classify,
}


def read_by(op: Any) -> list[str]:
    """The names that an op reads, graphs inside it too."""
    found: list[str] = []
    stack = [op]
    while stack:
        at = stack.pop()
        found += [a.name for i in at.inputs.values() for a in i.arguments if a.WhichOneof("binding") == "name"]
        for block in at.blocks:
            found += block.outputs
            stack += block.operations
    return found
