"""Calls of the modules of a list that a person writes as a loop: each is given what the one before gave.

for layer in self.layers:
    x1 = layer(x1, mask)
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tdagger.frameworks.torch.emit.blocks import ModuleCall
from tdagger.graph import Graph
from tdagger.names import identifier, is_identifier
from tdagger.op import Value
from tdagger.ops.structure import Item


class Loop(NamedTuple):
    """The calls of all modules of the list at ``path``, in order.

    ``running`` says which argument is which result of the call before, ``starts`` what these results are at first.
    """

    path: str
    calls: tuple[Value, ...]
    running: Mapping[int, int]
    starts: Mapping[int, Value]


def loops(graph: Graph, lists: Mapping[str, int], kept: Collection[Value]) -> dict[Value, Loop]:
    """The loops of a graph, by their last calls: ``lists`` has how many modules are in each list.

    All other arguments are the same for every call, and nobody but the next call reads what one gives: neither others
    nor those who want ``kept``.
    """
    found: dict[Value, Loop] = {}
    if not lists:
        return found
    for value in graph.values:
        op = value.op
        if not isinstance(op, ModuleCall) or not op.path.endswith(".0"):
            continue
        path = op.path.removesuffix(".0")
        loop = _from(graph, value, path, lists.get(path, 0), kept)
        if loop is not None:
            found[loop.calls[-1]] = loop
    return found


def _from(graph: Graph, first: Value, path: str, count: int, kept: Collection[Value]) -> Loop | None:
    """The loop that begins with a call; None if there is none."""
    if count < 2:
        return None
    running: dict[int, int] | None = None
    calls = [first]
    for i in range(1, count):
        results = _results(graph, calls[-1])
        users = {u for v in results.values() for u in graph.users[v]}
        if len(users) != 1 or any(v in kept for v in results.values()):
            return None
        call = users.pop()
        if not _is_alike(call, first, f"{path}.{i}"):
            return None
        gives = {v: j for j, v in results.items()}
        own = {p: gives[a] for p, a in enumerate(call.args) if a in gives}
        running = own if running is None else running
        if own != running or any(a is not b for p, (a, b) in _pairs(call, first) if p not in own):
            return None
        calls.append(call)
    assert running is not None
    starts: dict[int, Value] = {}
    for p, j in running.items():
        if starts.setdefault(j, first.args[p]) is not first.args[p]:
            return None
    return Loop(path, tuple(calls), running, starts) if starts.keys() <= _results(graph, calls[-1]).keys() else None


def _pairs(call: Value, first: Value) -> list[tuple[int, tuple[Value, Value]]]:
    return list(enumerate(zip(call.args, first.args, strict=True)))


def _is_alike(call: Value, first: Value, path: str) -> bool:
    """Whether a value is the call of the module at ``path``, as the first of a list is called."""
    op, other = call.op, first.op
    if not isinstance(op, ModuleCall) or not isinstance(other, ModuleCall) or op.path != path:
        return False
    return (op.arguments, op.targets, len(call.args)) == (other.arguments, other.targets, len(first.args))


def _results(graph: Graph, call: Value) -> dict[int, Value]:
    """The results of a call that are used, by their numbers."""
    if not isinstance(call.type, tuple):
        return {0: call}
    return {u.op.index: u for u in graph.users[call] if isinstance(u.op, Item)}


#: What every forward has a use for, and the names that code gives to values.
_OTHERS = {"self", "m", "_", "torch", "F", "runtime", "inf", "nan", "result"}
_VALUE = re.compile(r"x\d+")


def variable(path: str, taken: Sequence[str] | set[str]) -> str:
    """What a module of a list is called in a loop.

    >>> variable("encoder.blocks", set()), variable("h", set()), variable("layers", {"layer"})
    ('block', 'layer', 'layer_')
    """
    name = path.rpartition(".")[2]
    one = name[:-1] if name.endswith("s") and len(name) > 2 else ""
    if not is_identifier(one) or one in _OTHERS or hasattr(builtins, one) or _VALUE.fullmatch(one):
        one = "layer"
    return identifier(one, set(taken))
