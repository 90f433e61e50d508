"""The ways through a script: what is known on each, and how several become one again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.script.numbers import Number, is_number, kind_of, made_of
from tdagger.frameworks.torch.script.objects import Leaf, Trail, Uninitialised, Union, Walk, described
from tdagger.op import Value
from tdagger.program.parts import Goto
from tdagger.program.structure import nothing
from tdagger.program.trace import Trace


class Plan:
    """A block of a script: its nodes with the blocks inside them, and which node uses each name last."""

    def __init__(self, block: Any) -> None:
        self.nodes: list[tuple[Any, list[Plan]]] = [(n, [Plan(b) for b in n.blocks()]) for n in block.nodes()]
        self.inputs = [v.unique() for v in block.inputs()]
        self.outputs = [v.unique() for v in block.outputs()]
        self.names = {v.unique(): v.debugName() for v in block.inputs()}
        self.last: dict[int, int] = {}
        #: What each node needs while it is done: what its blocks use, of one without blocks what it takes.
        self.inside: list[set[int]] = []
        for k, (node, inner) in enumerate(self.nodes):
            self.names |= {v.unique(): v.debugName() for v in node.outputs()}
            self.inside.append({u for p in inner for u in p.free} if inner else {v.unique() for v in node.inputs()})
            for unique in (*(v.unique() for v in node.inputs()), *(u for p in inner for u in p.free)):
                self.last[unique] = k
        self.last |= dict.fromkeys(self.outputs, len(self.nodes))
        #: The names from around.
        self.free = [u for u in self.last if u not in self.names]


class Frame:
    """A block that is run: the node it is at, the names it sees, and whether it may be run again (a loop's body)."""

    def __init__(self, plan: Plan, level: int) -> None:
        self.plan, self.level = plan, level
        self.at = -1
        #: Whether what the present node uses is needed yet: it is a loop, or its blocks aren't run yet.
        self.again = False

    def needs(self, unique: int) -> bool:
        """Whether a name is used from here on."""
        return self.plan.last.get(unique, -1) > self.at or (self.again and unique in self.plan.inside[self.at])

    def copy(self) -> Frame:
        """The same place."""
        new = Frame(self.plan, self.level)
        new.at, new.again = self.at, self.again
        return new


class Path:
    """One way through a script so far: the block of the program that it writes, and all that the script holds there."""

    def __init__(self, block: str) -> None:
        self.block = block
        self.envs: list[dict[int, Any]] = [{}]
        self.frames: list[Frame] = []
        self.weights: dict[str, Ref] = {}
        self.attributes: dict[str, Any] = {}
        #: Numbers that are known where this way was taken.
        self.known: dict[Value, Any] = {}
        #: What the block that was run last gave.
        self.outputs: list[Any] = []

    @property
    def env(self) -> dict[int, Any]:
        """The names of the graph that is run."""
        return self.envs[-1]

    def roots(self) -> list[tuple[Trail, Any]]:
        """What is needed from here on."""
        found: list[tuple[Trail, Any]] = []
        for level, env in enumerate(self.envs):
            frames = [f for f in self.frames if f.level == level]
            for unique in sorted(env):
                if any(f.needs(unique) for f in frames):
                    found.append((("env", level, unique), env[unique]))
        found += [(("weight", n), r) for n, r in sorted(self.weights.items())]
        found += [(("attribute", n), x) for n, x in sorted(self.attributes.items())]
        return [*found, *((("out", i), x) for i, x in enumerate(self.outputs))]

    def copy(self, walk: Walk, block: str) -> Path:
        """The same way with objects of its own, as a walk makes them, in a block."""
        roots = self.roots()
        new = Path(block)
        new.envs = [{} for _ in self.envs]
        new.frames = [f.copy() for f in self.frames]
        new.known = dict(self.known)
        new.outputs = list(self.outputs)
        for (where, *rest), x in zip([t for t, _ in roots], walk.all(roots), strict=True):
            if where == "env":
                new.envs[rest[0]][rest[1]] = x
            elif where == "out":
                new.outputs[rest[0]] = x
            else:
                (new.weights if where == "weight" else new.attributes)[rest[0]] = x
        return new


def same_leaf(a: Any, b: Any) -> bool:
    """Whether two leaves are one value or number."""
    if isinstance(a, Value | Number) or isinstance(b, Value | Number):
        x, y = (v.value if isinstance(v, Number) else v for v in (a, b))
        return x is y
    return type(a) is type(b) and (a == b or (a != a and b != b))


class Kinds:
    """The kinds of things that each attribute of a script was found to be, by their marks; and one of each."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[Any, Any]]] = {}
        self.grew = False

    def number(self, name: str, x: Any) -> int:
        """Which kind something is; a new one is noted."""
        marks = described([((), x)]).marks
        known = self.found.setdefault(name, [])
        for i, (other, _) in enumerate(known):
            if other == marks:
                return i
        known.append((marks, x))
        self.grew = self.grew or len(known) > 1
        return len(known) - 1

    def union(self, name: str, x: Any) -> Union:
        """An attribute as one of all kinds that it may be."""
        if isinstance(x, Union):
            known = self.found[name]
            return Union(x.tag, [*x.kinds, *[blank(other) for _, other in known[len(x.kinds) :]]])
        at = self.number(name, x)
        return Union(at, [x if i == at else blank(other) for i, (_, other) in enumerate(self.found[name])])


def _initialise(several: Sequence[Any], key: Any) -> None:
    """Where some ways have nothing yet under a name and others have something: something of that kind for all."""
    given = [x[key] for x in several if not isinstance(x, dict) or key in x]
    kind = next((x for x in given if not isinstance(x, Uninitialised)), None)
    if kind is not None and len(given) == len(several) and any(isinstance(x, Uninitialised) for x in given):
        for holder in several:
            if isinstance(holder[key], Uninitialised):
                holder[key] = blank(kind)


def blank(x: Any) -> Any:
    """A thing of a kind that holds nothing yet."""

    def leaf(found: Leaf) -> Any:
        if isinstance(found.x, Value):
            return nothing(found.type)
        return {"bool": False, "i64": 0, "f64": 0.0}[kind_of(found.x)]

    return Walk(leaf).all([((), x)])[0]


class Merging:
    """Makes several ways one, where they hold things of one kind: what differs goes through slots."""

    def __init__(self, trace: Trace, kinds: Kinds, apart: set[Any], copied: Callable[[Ref, Ref], None],
                 weight: Callable[[str], Ref], attribute: Callable[[str], Any]) -> None:  # fmt: skip
        self.trace, self.kinds, self.apart = trace, kinds, apart
        #: Whether it matters which tensors share memory.
        self.aliased = True
        self.copied, self.weight, self.attribute = copied, weight, attribute

    def merged(self, paths: Sequence[Path], key: Any, name: Callable[[Trail], str]) -> list[Path]:
        """The ways, those of one kind as one."""
        if len(paths) < 2:
            return list(paths)
        self._alike(paths)
        groups: dict[Any, list[tuple[Path, Walk]]] = {}
        for path in paths:
            walk = described(path.roots(), self.aliased)
            marks: list[Any] = list(walk.marks)
            for leaf in walk.leaves:
                if (key, leaf.trail) in self.apart and not isinstance(leaf.x, Value | Number):
                    marks.append((leaf.trail, leaf.x))
            groups.setdefault(_hashable(marks), []).append((path, walk))
        return [g[0][0] if len(g) == 1 else self._one(g, key, name) for g in groups.values()]

    def _alike(self, paths: Sequence[Path]) -> None:
        """Attributes that are of several kinds as unions, and every weight that one of them knows in all."""
        for level, env in enumerate(paths[0].envs):
            for unique in env:
                _initialise([p.envs[level] for p in paths], unique)
        for i in range(len(paths[0].outputs)):
            _initialise([p.outputs for p in paths], i)
        names = sorted({n for p in paths for n in p.weights})
        for path in paths:
            for name in names:
                if name not in path.weights:
                    path.weights[name] = self.weight(name)
        for name in sorted({n for p in paths for n in p.attributes}):
            for path in paths:
                if name not in path.attributes:
                    path.attributes[name] = self.attribute(name)
            given = [p.attributes[name] for p in paths]
            if any(isinstance(x, Union) for x in given) or len({self.kinds.number(name, x) for x in given}) > 1:
                for x in given:
                    if not isinstance(x, Union):
                        self.kinds.number(name, x)
                for path, x in zip(paths, given, strict=True):
                    path.attributes[name] = self.kinds.union(name, x)

    def _one(self, group: Sequence[tuple[Path, Walk]], key: Any, name: Callable[[Trail], str]) -> Path:
        trace = self.trace
        after = trace.block("after")
        slots: dict[int, Any] = {}
        for i, several in enumerate(zip(*[w.leaves for _, w in group], strict=True)):
            if all(same_leaf(leaf.x, several[0].x) for leaf in several[1:]):
                continue
            slot = trace.slot(name(several[0].trail), several[0].type, after)
            for (path, _), leaf in zip(group, several, strict=True):
                write(trace, path.block, slot, leaf.value)
            slots[i] = slot
            if is_number(several[0].x):
                made = made_of([leaf.x for leaf in several]) | {(key, several[0].trail)}
                known = all(not isinstance(leaf.x, Number) or leaf.x.made for leaf in several)
                slots[i] = Number(slot, made if known else frozenset())
        for path, _ in group:
            trace.drafts[path.block].end = Goto(after)
        places = iter(range(len(group[0][1].leaves)))
        first = group[0][0]
        new = first.copy(Walk(lambda leaf: slots.get(next(places), leaf.x), None, self.copied, self.aliased), after)
        new.known = {v: x for v, x in first.known.items() if all(p.known.get(v) == x for p, _ in group)}
        trace.begin(after)
        return new


def write(trace: Trace, block: str, slot: Value, value: Value) -> None:
    """Let a block give a value to a slot."""
    op: Any = slot.op
    trace.drafts[block].writes[op.leaf] = value


def _hashable(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return tuple([_hashable(v) for v in x])
    return tuple(sorted((k, _hashable(v)) for k, v in x.items())) if isinstance(x, Mapping) else x
