"""The graph of blocks: what comes before what, which blocks are on every way to one, loops, and which slots are live.

All of it is by names of nodes and a mapping from each to those that may be next, the entry first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tdagger.program.parts import Block, Return

#: The nodes that may be next, by node; the first is the entry.
Next = Mapping[str, Sequence[str]]


def next_of(blocks: Mapping[str, Block]) -> dict[str, tuple[str, ...]]:
    """What may be next after each block."""
    return {name: tuple(dict.fromkeys(block.end.targets)) for name, block in blocks.items()}


def reached(after: Next, start: str, without: Collection[str] = ()) -> list[str]:
    """The nodes on ways from ``start``, itself among them, in postorder: each after what it leads to, loops apart."""
    seen = {start, *without}
    out: list[str] = []
    stack = [(start, iter(after[start]))]
    while stack:
        node, rest = stack[-1]
        for target in rest:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(after[target])))
                break
        else:
            out.append(node)
            stack.pop()
    return out


def dominators(after: Next, start: str) -> dict[str, str]:
    """For every node that is reached the last other one that is on all ways to it; for the start itself.

    By Cooper, Harvey and Kennedy's iteration.
    """
    order = reached(after, start)
    place = {n: i for i, n in enumerate(order)}
    before: dict[str, list[str]] = {n: [] for n in order}
    for node in order:
        for target in after[node]:
            before[target].append(node)
    found = {start: start}
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            known = [p for p in before[node] if p in found]
            new = known[0]
            for other in known[1:]:
                new = _meet(found, place, new, other)
            if found.get(node) != new:
                found[node] = new
                changed = True
    return found


def _meet(found: Mapping[str, str], place: Mapping[str, int], a: str, b: str) -> str:
    while a != b:
        while place[a] < place[b]:
            a = found[a]
        while place[b] < place[a]:
            b = found[b]
    return a


@dataclass
class Loop:
    """Blocks that can be gone through again: ``header`` is where all ways into it go, ``latches`` lead back to it."""

    header: str
    latches: list[str]
    blocks: set[str]
    outer: Loop | None = field(default=None, repr=False)

    @property
    def depth(self) -> int:
        """How many loops it is in, itself counted."""
        return 1 if self.outer is None else self.outer.depth + 1


class Flow:
    """What is known of the ways through blocks."""

    def __init__(self, after: Next) -> None:
        self.after = {n: tuple(t) for n, t in after.items()}
        self.entry = next(iter(self.after))

    @cached_property
    def order(self) -> list[str]:
        """The blocks that are reached; each comes after those it is reached by, but for loops."""
        return reached(self.after, self.entry)[::-1]

    @cached_property
    def before(self) -> dict[str, list[str]]:
        """The blocks that lead to each, of those that are reached."""
        found: dict[str, list[str]] = {n: [] for n in self.order}
        for node in self.order:
            for target in self.after[node]:
                found[target].append(node)
        return found

    @cached_property
    def dominator(self) -> dict[str, str]:
        """For each block that is reached the last other one on all ways to it."""
        return dominators(self.after, self.entry)

    @cached_property
    def level(self) -> dict[str, int]:
        """How many blocks are on all ways to each."""
        found = {self.entry: 0}
        for node in self.order[1:]:
            found[node] = found[self.dominator[node]] + 1
        return found

    def dominates(self, a: str, b: str) -> bool:
        """Whether ``a`` is on all ways to ``b``, or is it."""
        while self.level[b] > self.level[a]:
            b = self.dominator[b]
        return a == b

    def common(self, nodes: Iterable[str]) -> str:
        """The last block that is on all ways to all of some."""
        first, *rest = nodes
        for other in rest:
            while first != other:
                if self.level[first] >= self.level[other]:
                    first = self.dominator[first]
                else:
                    other = self.dominator[other]
        return first

    @cached_property
    def back(self) -> list[tuple[str, str]]:
        """The edges that lead back to a block that is on all ways to where they begin."""
        return [(n, t) for n in self.order for t in self.after[n] if self.dominates(t, n)]

    @cached_property
    def is_reducible(self) -> bool:
        """Whether every loop has one block by which it is entered."""
        back = set(self.back)
        forward = {n: [t for t in self.after[n] if (n, t) not in back] for n in self.order}
        place = {n: i for i, n in enumerate(reached(forward, self.entry))}
        return all(place[t] < place[n] for n in self.order for t in forward[n])

    @cached_property
    def loops(self) -> dict[str, Loop]:
        """The loops by their headers, outer ones before inner ones."""
        found: dict[str, Loop] = {}
        for latch, header in self.back:
            loop = found.setdefault(header, Loop(header, [], {header}))
            loop.latches.append(latch)
            stack = [latch]
            while stack:
                node = stack.pop()
                if node not in loop.blocks:
                    loop.blocks.add(node)
                    stack += self.before[node]
        place = {n: i for i, n in enumerate(self.order)}
        ordered = sorted(found.values(), key=lambda loop: (-len(loop.blocks), place[loop.header]))
        for i, loop in enumerate(ordered):
            around = [o for o in ordered[:i] if loop.header in o.blocks]
            loop.outer = around[-1] if around else None
        return {loop.header: loop for loop in ordered}

    @cached_property
    def loop_of(self) -> dict[str, Loop]:
        """The innermost loop of every block that is in one."""
        return {n: loop for loop in self.loops.values() for n in loop.blocks}


def live(blocks: Mapping[str, Block], at_end: Iterable[str]) -> dict[str, set[str]]:
    """The slots that are read, at each block's begin, before they are written: by it or by those after it.

    ``at_end`` are those that are read where the program returns.
    """
    flow = Flow(next_of(blocks))
    end = set(at_end)
    found: dict[str, set[str]] = {n: set() for n in flow.order}
    changed = True
    while changed:
        changed = False
        for name in reversed(flow.order):
            new = live_after(blocks[name], found, end)
            block = blocks[name]
            asked: set[str] = {block.asks} if block.asks else set()
            new = (new | asked) - set(block.writes) | set(block.reads)
            if new != found[name]:
                found[name] = new
                changed = True
    return found


def live_after(block: Block, found: Mapping[str, set[str]], at_end: Collection[str]) -> set[str]:
    """The slots that are read after a block, but for what asks which is next."""
    return set(at_end) if isinstance(block.end, Return) else {s for t in block.end.targets for s in found[t]}
