"""What executions of a network really allocate: torch's allocator, event by event, and the arrays numpy holds."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from tdagger.composite import Composite
from tdagger.graph import Graph
from tdagger.interpret import interpret
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item

_ALLOCATION = torch._C._profiler._EventType.Allocation


class Allocated(NamedTuple):
    """Bytes at most: at any moment (``peak``), and between calls of ops, without what kernels hold inside (``held``).

    ``calls`` has for each call from Python that allocates its name, the bytes before it, and the most during it.
    """

    peak: int
    held: int
    calls: list[tuple[str, int, int]]


def by_torch(run: Callable[[], Any]) -> Allocated:
    """What torch's CPU allocator gives while ``run`` runs, relative to what was held before, on this thread.

    The profiler records every allocation and every free of the allocator under the op that makes it; what the run
    frees of earlier memory isn't there, so that everything counted was allocated in it.
    """
    gc.collect()
    with torch.no_grad():
        run()  # once before, so that nothing is made for the first time
        gc.collect()
        options: dict[str, Any] = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
        with torch.profiler.profile(**options, acc_events=True) as profiler:
            kept = run()
        found: Any = profiler.profiler
        roots = found.kineto_results.experimental_event_tree()
    del kept
    live = most = held = 0
    numbers: dict[int, int] = {}  # what isn't allocated by an op: numbers that Python hands to one
    calls: list[tuple[str, int, int]] = []
    for root in sorted(roots, key=lambda e: e.start_time_ns):
        before, highest = live, live
        for _, size, place in sorted(_allocations(root)):
            live += size
            highest = max(highest, live)
            if size > 0 and root.tag == _ALLOCATION:
                numbers[place] = size
            elif size < 0:
                numbers.pop(place, None)
        most = max(most, highest)
        held = max(held, live - sum(numbers.values()))
        if highest > before:
            calls.append((root.name, before, highest))
    return Allocated(most, held, calls)


def _allocations(root: Any) -> list[tuple[int, int, int]]:
    """(time, bytes, address) of every allocation and (negative) free under an event."""
    found: list[tuple[int, int, int]] = []
    stack = [root]
    while stack:
        event = stack.pop()
        if event.tag == _ALLOCATION:
            found.append((event.start_time_ns, event.extra_fields.alloc_size, event.extra_fields.ptr))
        stack.extend(event.children)
    return found


def by_numpy(graph: Graph, inputs: Mapping[str, Any], weights: Mapping[str, Any]) -> list[tuple[Value, int]]:
    """Run a graph as ``tdagger.interpret.run`` does: after every op that isn't a leaf, the bytes of arrays it holds.

    Views count as the array they are of; arrays of the caller and constants don't count.
    """
    live: dict[int, int] = {}
    log: list[tuple[Value, int]] = []
    of_caller = {id(_owner(a)) for a in (*inputs.values(), *weights.values())}
    owners: list[Any] = []  # constants, kept so that nothing else gets their identity

    def rule(value: Value, args: list[Any]) -> Any:
        op = value.op
        if isinstance(op, Leaf):
            return (inputs if op.name == "input" else weights)[op.leaf]
        out = op.run(*args)
        if isinstance(op, Composite):  # a body keeps its constants too
            for inner in op.body(*[a.type for a in value.args]).values:
                if isinstance(inner.op, Const):
                    of_caller.add(id(_owner(inner.op.data)))
                    owners.append(_owner(inner.op.data))
        for array in out if isinstance(out, tuple) else (out,):
            owner = _owner(array)
            if isinstance(op, Const):
                of_caller.add(id(owner))
                owners.append(owner)
            elif id(owner) not in live and id(owner) not in of_caller:
                live[id(owner)] = owner.nbytes
                weakref.finalize(owner, live.pop, id(owner))
        if not isinstance(op, Const | Item):
            log.append((value, sum(live.values())))
        return out

    with np.errstate(all="ignore"):
        interpret(graph, rule)
    return log


def _owner(array: Any) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def data(values: Mapping[str, Value]) -> dict[str, Any]:
    """Random arrays for leaves, the same every time."""
    generator = np.random.default_rng(0)
    return {n: np.asarray(generator.random(v.shape)).astype(v.dtype.numpy) for n, v in values.items()}
