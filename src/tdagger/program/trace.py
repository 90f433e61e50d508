"""Writing a program in Python: what a function over values asks of loops and branches becomes blocks.

While a function is traced, ``while_loop`` and its like end the block that is written and begin others. What they give
are values that stand for slots; everything else is as in any function over values. Which block computes what is decided
at the end (:mod:`tdagger.program.schedule`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.doubts import OfSize
from tdagger.errors import GraphError, TypeMismatchError
from tdagger.graph import bulk, topological
from tdagger.names import shown
from tdagger.network import Origin, Signature, Weight
from tdagger.op import Array, Value
from tdagger.ops.source import Input, const
from tdagger.program.parts import End, Goto, If, Return, Slot, Switch
from tdagger.program.program import Program
from tdagger.program.schedule import Draft, named, scheduled
from tdagger.tree import Tree, flatten
from tdagger.types import DType, TensorType

_BOOL = TensorType((), "bool")


@dataclass
class _Frame:
    """A loop that is being traced: what stands for the program's state in it, by name."""

    trace: Trace
    before: str
    state: dict[str, Value] = field(default_factory=dict[str, Value])
    #: What slots that it has besides are after a turn.
    besides: dict[Value, Value] = field(default_factory=dict[Value, Value])


class Trace:
    """A program that is being written."""

    def __init__(self, name: str, mark: str = "") -> None:
        self.name = name
        #: What the names of slots end with that aren't the network's own, while it is imported.
        self.mark = mark
        self.slots: dict[str, Slot] = {}
        self.defined: dict[str, str] = {}
        self.drafts: dict[str, Draft] = {}
        self.current = ""
        self.frames: list[_Frame] = []
        #: The values of the program's state now, by the names of buffers; and the slots they are in.
        self.state: dict[str, Value] = {}
        self.state_slots: dict[str, str] = {}
        self.weights: Mapping[str, Array] = {}
        self.declared: dict[str, Weight] = {}
        self.origins: dict[Value, Origin] = {}
        self.modules: dict[str, str] = {}
        self.order: list[Value] = []
        self.left_out: tuple[OfSize, ...] = ()
        self._slot_names: set[str] = set()
        self._block_names: set[str] = set()
        #: Buffers that were read as they begin, inside of loops.
        self.read_inside: set[str] = set()
        #: The names of the weights of networks that were called, by network and own name.
        self.named: dict[tuple[int, str], str] = {}
        self.called: list[Any] = []
        self.begin(self.block("begin"))

    def kept(self) -> Callable[[], None]:
        """What brings the program back to what it is now, for a part that is tried."""
        own: dict[str, Any] = dict(self.__dict__)
        copies: dict[str, Any] = {n: copy(v) for n, v in own.items()}
        del copies["weights"]
        drafts = {n: replace(d, writes=dict(d.writes)) for n, d in self.drafts.items()}
        frames = [(f, dict(f.state), dict(f.besides)) for f in self.frames]

        def restore() -> None:
            self.__dict__.update({**own, **copies, "drafts": drafts})
            for frame, state, besides in frames:
                frame.state, frame.besides = state, besides

        return restore

    # Blocks and slots.

    def block(self, name: str) -> str:
        """A new block."""
        own = named(name, self._block_names)
        self.drafts[own] = Draft()
        return own

    def begin(self, block: str) -> None:
        """Write to a block from now on."""
        draft = self.drafts.pop(block)
        self.drafts[block] = draft  # in the order in which they are written
        self.current = block

    def end(self, end: End, asked: Value | None = None) -> None:
        """End the block that is written."""
        draft = self.drafts[self.current]
        draft.end, draft.asked = end, asked

    def slot(self, name: str, type_: TensorType, block: str, **said: Any) -> Value:
        """A new slot, whose value is known from a block on."""
        own = named(name, self._slot_names) + self.mark
        self.slots[own] = Slot(type_, **said)
        self.defined[own] = block
        return Input(own, type_)()

    def write(self, slot: Value, value: Value) -> None:
        """Let the block that is written give a value to a slot."""
        self.drafts[self.current].writes[cast(Input, slot.op).leaf] = value

    # State.

    def state_of(self, name: str) -> Value:
        """What a buffer of the program is now; it becomes state if it wasn't."""
        if name not in self.state:
            said = self.declared.get(name)
            if said is None or said.is_parameter:
                raise GraphError(f"program {shown(self.name)} has no state {shown(name)!r}: give it with state={{...}}")
            if name in self.read_inside:
                raise GraphError(
                    f"program {shown(self.name)}: buffer {shown(name)} is read in a loop before it is known to change: "
                    f"say so before the loop, td.state({name!r})"
                )
            entry = next(iter(self.drafts))
            value = self.slot(name.rpartition(".")[2], said.type, entry, buffer=name)
            self.state_slots[name] = cast(Input, value.op).leaf
            for frame in self.frames:  # it was not used before, so it goes into every loop around as it is
                value = self._carried(frame, name, value)
            self.state[name] = value
        return self.state[name]

    def _carried(self, frame: _Frame, name: str, value: Value) -> Value:
        own = frame.state[name] = self.carry(name.rpartition(".")[2], value, frame)
        return own

    def carry(self, name: str, start: Value, frame: _Frame | None = None) -> Value:
        """A further slot of a loop, of the innermost that is traced unless it is given."""
        frame = self.frames[-1] if frame is None else frame
        header = cast(Goto, self.drafts[frame.before].end).to
        own = self.slot(name, start.type, header)
        self.drafts[frame.before].writes[cast(Input, own.op).leaf] = start
        return own

    # Structures.

    def loop(self, test: Callable[..., Any], body: Callable[..., Any], start: Sequence[Value],
             names: Sequence[str], types_of: Callable[[list[Any]], list[Value]]) -> list[Value]:  # fmt: skip
        """While ``test`` of some values is true, they are what ``body`` gives."""
        before = self.current
        header = self.block("loop")
        carried = [self.slot(n, v.type, header) for n, v in zip(names, start, strict=True)]
        for slot, value in zip(carried, start, strict=True):
            self.write(slot, value)
        self.end(Goto(header))
        frame = _Frame(self, before)
        for name, value in list(self.state.items()):
            self.state[name] = self._carried(frame, name, value)
        self.frames.append(frame)
        self.begin(header)
        asked = predicate(test(*carried), "while_loop: what the condition gives")
        inside, after = self.block("body"), self.block("done")
        self.end(If("", inside, after), asked)
        at_test = dict(self.state)
        self.begin(inside)
        results = types_of(body(*carried))
        for name, slot, new in zip(names, carried, results, strict=True):
            if new.type is not slot.type:
                raise TypeMismatchError(
                    f"while_loop: {shown(name)} begins as {slot.type} and is {new.type} after a turn; it must stay"
                )
        for slot, new in zip(carried, results, strict=True):
            self.write(slot, new)
        for name, own in frame.state.items():
            self.write(own, self.state[name])
        for own, new in frame.besides.items():
            self.write(own, new)
        self.end(Goto(header))
        self.frames.pop()
        for name, own in frame.state.items():
            self.state[name] = at_test.get(name, own)
        self.begin(after)
        return carried

    def branch(self, asked: Value, functions: Sequence[Callable[[], list[Value]]], names: Sequence[str], what: str,
               ) -> list[Value]:  # fmt: skip
        """What one of several functions gives: of two by a bool, the first if it is true, else by a number."""
        found, merged = self.fork(asked, functions, names)
        kinds = [[v.type for v in results] for results in found]
        for name, kind in zip(names[1:], kinds[1:], strict=True):
            if kind != kinds[0]:
                raise TypeMismatchError(f"{what}: {names[0]} gives {kinds[0]}, {name} gives {kind}; they must be alike")
        return [merged([r[i] for r in found]) for i in range(len(kinds[0]))]

    def fork(self, asked: Value, functions: Sequence[Callable[[], Any]], names: Sequence[str],
             ) -> tuple[list[Any], Callable[[list[Value]], Value]]:  # fmt: skip
        """What each of several functions gives, one of which is run; and what makes one value of one of each."""
        blocks = [self.block(n) for n in names]
        after = self.block("after")
        self.end(If("", *blocks) if asked.type is _BOOL else Switch("", tuple(blocks)), asked)
        before = dict(self.state)
        found: list[tuple[str, Any, dict[str, Value]]] = []
        for block, function in zip(blocks, functions, strict=True):
            self.state = dict(before)
            self.begin(block)
            results = function()
            found.append((self.current, results, self.state))
            self.end(Goto(after))
            before |= self._untouched(self.state, before)
        self.state = {
            n: self._merged(after, n.rpartition(".")[2], [s.get(n, v) for _, _, s in found], [b for b, _, _ in found])
            for n, v in before.items()
        }
        self.begin(after)
        blocks = [b for b, _, _ in found]

        def merged(values: list[Value]) -> Value:
            return self._merged(after, "out", values, blocks)

        return [r for _, r, _ in found], merged

    def _untouched(self, state: Mapping[str, Value], before: Mapping[str, Value]) -> dict[str, Value]:
        """What became state in a branch, as it was before: as the loops around carry it, or as it begins."""
        found: dict[str, Value] = {}
        for name in state:
            if name not in before:
                own = [f.state[name] for f in self.frames if name in f.state]
                found[name] = own[-1] if own else Input(self.state_slots[name], self.declared[name].type)()
        return found

    def _merged(self, after: str, name: str, values: list[Value], blocks: list[str]) -> Value:
        """What is one of several values, by the block that was run."""
        if all(v is values[0] for v in values):
            return values[0]
        own = self.slot(name, values[0].type, after)
        for block, value in zip(blocks, values, strict=True):
            self.drafts[block].writes[cast(Input, own.op).leaf] = value
        return own

    def finished(self, inputs: Sequence[str], results: Sequence[Value], signature: Signature, names: Sequence[str],
                 lengths: Mapping[int, Sequence[tuple[int, Value]]] | None = None) -> Program:  # fmt: skip
        """The program: it gives ``results``."""
        outputs: list[str] = []
        states = {*self.state_slots.values()}
        bounded = {n for n, s in self.slots.items() if s.lengths}
        for i, (name, value) in enumerate(zip(names, results, strict=True)):
            if isinstance(value.op, Input) and value.op.leaf not in states | bounded and not (lengths or {}).get(i):
                outputs.append(value.op.leaf)
                continue
            own = self.slot(name, value.type, self.current)
            self.write(own, value)
            outputs.append(cast(Input, own.op).leaf)
        for i, pairs in (lengths or {}).items():
            told: list[tuple[int, str]] = []
            for dimension, value in pairs:
                own = self.slot(f"{outputs[i]}_length", value.type, self.current)
                self.write(own, value)
                told.append((dimension, cast(Input, own.op).leaf))
            self.slots[outputs[i]] = self.slots[outputs[i]]._replace(lengths=tuple(told))
        for name, value in self.state.items():
            slot = Input(self.state_slots[name], value.type)()
            if value is not slot:
                self.write(slot, value)
        self.end(Return())
        with bulk():
            blocks = scheduled(self.drafts, self.slots, self.defined, self.origins, self.order)
        slots = self._used(blocks, inputs, outputs)
        return Program(
            slots, blocks, tuple(inputs), tuple(outputs), self.weights, self.declared, signature, self.origins,
            self.modules, self.name, left_out=self.left_out,
        )  # fmt: skip

    def _used(self, blocks: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Slot]:
        used = {*inputs, *outputs, *self.state_slots.values()}
        for block in blocks.values():
            used |= {*block.reads, *block.writes} | ({block.asks} if block.asks else set())
        used |= {length for n in used if n in self.slots for _, length in self.slots[n].lengths}
        return {n: s for n, s in self.slots.items() if n in used}

    def taken(self, name: str, type_: TensorType) -> None:
        """A slot for an input of a network that was imported meanwhile, by its own name."""
        if name in self.slots:
            raise GraphError(f"program {shown(self.name)}: an input can't be called {shown(name)}")
        self.slots[name] = Slot(type_)
        self._slot_names.add(name)
        self.defined[name] = next(iter(self.drafts))


_tracing: ContextVar[Trace | None] = ContextVar("tracing", default=None)


def tracing(what: str = "") -> Trace:
    """The program that is being written; GraphError if there is none."""
    found = _tracing.get()
    if found is None:
        raise GraphError(f"{what or 'this'} is for functions that become a program: decorate it with td.program")
    return found


def is_tracing() -> bool:
    """Whether a program is being written."""
    return _tracing.get() is not None


def traced(trace: Trace, function: Callable[[], Any]) -> Any:
    """What a function gives while ``trace`` is the program that is written."""
    token = _tracing.set(trace)
    try:
        return function()
    finally:
        _tracing.reset(token)


# --- what functions call -----------------------------------------------------------------------------------


def predicate(value: Any, what: str) -> Value:
    """A bool of rank 0."""
    if isinstance(value, bool):
        return const(np.asarray(value), "bool")
    if not isinstance(value, Value) or value.type is not _BOOL:
        told = value.type if isinstance(value, Value) else repr(value)
        raise TypeMismatchError(f"{what} must be a bool of rank 0, not {told}")
    return value


def as_value(x: Any) -> Value:
    """A value: a number or an array is a constant, i64, f32 or bool for Python's numbers."""
    if isinstance(x, Value):
        return x
    if isinstance(x, bool):
        return const(np.asarray(x), "bool")
    if isinstance(x, int):
        return const(np.asarray(x, np.int64), "i64")
    if isinstance(x, float):
        return const(np.asarray(x, np.float32), "f32")
    return const(np.asarray(x), DType.of(np.asarray(x).dtype))


def is_leaf(x: Any) -> bool:
    """Whether something is one tensor of a structure."""
    return isinstance(x, Value | bool | int | float | np.ndarray | np.generic)


def values_of(x: Any) -> tuple[list[Value], Tree]:
    """The values of a structure, and how they nest."""
    leaves, tree = flatten(x, is_leaf, "a value")
    return [as_value(v) for v in leaves], tree


def parameter_names(function: Callable[..., Any], count: int, default: str = "x") -> list[str]:
    """What a function calls its arguments by place."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        found = []
    names = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names, *[f"{default}{i}" for i in range(len(names), count)]][:count]


def leaf_names(trees: Sequence[Tree], names: Sequence[str]) -> list[str]:
    """A name for every leaf of some arguments."""
    return [n for tree, name in zip(trees, names, strict=True) for n in tree.names(name)]


def with_slots(inputs: Mapping[str, Value], results: Iterable[Value]) -> dict[str, Value]:
    """The inputs of a network, and the slots that its results are made of where it is imported as a program."""
    trace = _tracing.get()
    if trace is None:
        return dict(inputs)
    found = {v.op.leaf: v for v in topological(results) if isinstance(v.op, Input) and v.op.leaf in trace.slots}
    return {**inputs, **found}
