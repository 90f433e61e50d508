"""Reading a script whose control flow depends on the data: every way through it is followed, as blocks of a program.

What is known (sizes, settings) is followed as :mod:`tdagger.frameworks.torch.torchscript` does. An ``if`` on data ends
the block that is written, and its two ways go on each by itself until they hold things of one kind again: then they
are one block that reads slots. Numbers that differ become slots too; where it turns out that one has to be known
(a size), the script is read again with the ways kept apart there (:class:`NeedsNumber`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from tdagger.errors import TDaggerError, UnsupportedError
from tdagger.frameworks.torch import torchscript
from tdagger.frameworks.torch.aten.calls import on_meta
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.script import lists, loops, numbers
from tdagger.frameworks.torch.script.numbers import Number
from tdagger.frameworks.torch.script.objects import Growing, Trail, Union, Walk, owned
from tdagger.frameworks.torch.script.ops import PRIMS, WITH_NUMBERS, numbers_in
from tdagger.frameworks.torch.script.paths import Frame, Kinds, Merging, Path, Plan
from tdagger.names import identifier, shown
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, less
from tdagger.ops.source import Buffer, Const, Parameter, const
from tdagger.program.parts import If, Raise, Switch
from tdagger.program.trace import Trace


class NeedsNumber(Exception):
    """A number has to be known that is one of several, as it was made at some places."""

    def __init__(self, places: frozenset[Any]) -> None:
        super().__init__(places)
        self.places = places


class Refused(NamedTuple):
    """A way through a script that can't be imported, and why."""

    why: str
    where: str


class Walker(torchscript.Walker):
    """Runs the blocks of a script on all ways that the data may take."""

    def __init__(self, trace: Trace, kinds: Kinds, apart: set[Any], set_names: set[str], bound: int | None,
                 partial: bool, *args: Any) -> None:  # fmt: skip
        super().__init__(*args)
        self.trace, self.kinds, self.apart, self.set_names = trace, kinds, apart, set_names
        self.bound, self.partial = bound, partial
        self.refused: list[Refused] = []
        #: What scripts raise themselves.
        self.raised: list[str] = []
        self.path = Path(trace.current)
        self.merging = Merging(trace, kinds, apart, self.copied, self.leaf_of, lambda name: self.begun(name))
        self.plans: dict[int, tuple[Any, Plan]] = {}
        self.graphs: dict[Any, Any] = {}

    # Paths.

    def copied(self, old: Ref, new: Ref) -> None:
        """A tensor was copied: what stands for it in memory is the same."""
        if self.standing is not None:
            self.standing.alike(old, new)

    def copy(self, path: Path, block: str) -> Path:
        """A way that goes on in another block."""
        return path.copy(Walk(copied=self.copied, aliased=self.merging.aliased), block)

    def leaf_of(self, name: str) -> Ref:
        """A weight that a way hasn't met."""
        weight = self.state[name]
        return Ref((Parameter if weight.is_parameter else Buffer)(name, weight.type)())

    def enter(self, path: Path) -> None:
        """Go on with a way."""
        self.path, self.env, self.weights = path, path.env, path.weights
        self.trace.current = path.block

    def name_of(self, plan: Plan) -> Callable[[Trail], str]:
        """What a slot is called for something that stands somewhere."""

        def name(trail: Trail) -> str:
            kind, *rest = trail
            if kind == "env":
                text = plan.names.get(rest[1], "x")
            else:
                text = str(rest[0]) if kind in ("attribute", "weight") else "x"
            text = text.rpartition(".")[0] or text
            more = ".kind" if rest[-1:] == ["kind"] else ""
            own = identifier(text.rpartition(".")[2] + more, set())
            return own if own.strip("_0123456789") else "x"

        return name

    def run(self, plan: Plan, path: Path, level: int | None = None) -> list[Path]:
        """The ways at the end of a block; ``outputs`` of each are what the block gives there."""
        frame = Frame(plan, len(path.envs) - 1 if level is None else level)
        path.frames.append(frame)
        paths = [path]
        for k, (node, inner) in enumerate(plan.nodes):
            several: list[Path] = []
            for one in paths:
                one.frames[-1].at = k
                several += self.step(node, inner, one, (id(plan), k))
            merges = node.kind() in _MERGES
            paths = self.merging.merged(several, (id(plan), k), self.name_of(plan)) if merges else several
        for one in paths:
            one.outputs = [one.env[u] for u in plan.outputs]
            one.frames.pop()
        return paths

    def step(self, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
        """The ways after a node."""
        self.enter(path)
        try:
            rule = _RULES.get(node.kind())
            found = None if rule is None else rule(self, node, inner, path, key)
            if found is None:
                self._node(node)
                return [path]
            return found
        except TDaggerError as e:
            self.enter(path)
            text = self._raises(node)
            if text is None:
                self.refuse(path, str(e), node)
            else:
                self.raised.append(text)
                source = self.origin(node).source
                self.trace.drafts[path.block].end = Raise(f"{text} [{source}]" if source else text)
            return []

    def _raises(self, node: Any) -> str | None:
        """What torch raises where an op is given tensors of such types; None if it doesn't."""
        schema = node.schema()
        target = torchscript.overload(schema) if schema != "(no schema)" else None
        if target is None:
            return None
        try:
            args, kwargs = torchscript.split(target, [self.env[v.unique()] for v in node.inputs()])
        except (KeyError, ValueError):
            return None
        given = pytree.tree_leaves((args, kwargs))
        if not all(isinstance(x, Ref | int | float | str | torch.Tensor | None | torch.dtype) for x in given):
            return None
        try:
            target(*on_meta(args), **on_meta(kwargs))
        except (RuntimeError, IndexError, ValueError) as e:
            return str(e).splitlines()[0]
        return None

    def refuse(self, path: Path, why: str, node: Any) -> None:
        """End a way that can't be imported."""
        self.enter(path)
        where = shown(self.origin(node).source) or "source unknown"
        self.refused.append(Refused(why, where))
        self.trace.drafts[path.block].end = Raise(f"not imported: {why.splitlines()[0]} [{where}]")

    def fork(self, path: Path, asked: Number, names: Sequence[str]) -> list[Path]:
        """A way as several: by a bool, or by a number."""
        trace = self.trace
        blocks = [trace.block(n) for n in names]
        frame = path.frames[-1] if path.frames else None
        before = frame.again if frame is not None else False
        if frame is not None:
            frame.again = True
        several = [self.copy(path, b) for b in blocks]
        for one in several:
            if one.frames:
                one.frames[-1].again = before
        draft = trace.drafts[path.block]
        draft.end = If("", *blocks) if asked.kind == "bool" else Switch("", tuple(blocks))
        draft.asked = asked.value
        return several

    # Numbers.

    def known(self, x: Any, node: Any, what: str) -> Any:
        """A number that must be known; NeedsNumber or UnsupportedError if it isn't."""
        if not isinstance(x, Number):
            return x
        if x.value in self.path.known:
            return self.path.known[x.value]
        if x.made:
            raise NeedsNumber(x.made)
        where = shown(self.origin(node).source) or "source unknown"
        raise UnsupportedError(
            f"TorchScript {node.kind()} at {where} needs {what} that the data decides: sizes of a program are known"
        )

    def _node(self, node: Any) -> None:
        kind = node.kind()
        inputs = [] if kind in _HOLD else [self.env[v.unique()] for v in node.inputs()]
        if any(isinstance(x, Growing) for x in inputs):
            self.env[node.output().unique()] = lists.used(self, node, kind, inputs)
            return
        super()._node(node)

    def call_op(self, node: Any) -> Callable[[Any, list[Any]], Any]:
        """What calls an op of tensors for a node."""
        return lambda target, args: self.caller.call(target, args, {}, self.origin(node))

    def _operator(self, node: Any, kind: str, inputs: list[Any]) -> Any:
        if not any(isinstance(x, Number) for x in numbers_in(inputs)):
            return super()._operator(node, kind, inputs)
        inputs = [self.path.known.get(x.value, x) if isinstance(x, Number) else x for x in inputs]
        if not any(isinstance(x, Number) for x in numbers_in(inputs)):
            return super()._operator(node, kind, inputs)
        gives = node.output().type().annotation_str if node.outputsSize() == 1 else ""
        found = numbers.computed(kind, inputs, gives, self.call_op(node))
        if found is not None:
            return found
        special = WITH_NUMBERS.get(kind)
        if special is not None:
            return special(self, node, inputs)
        schema = node.schema()
        target = torchscript.overload(schema) if schema != "(no schema)" else None
        numbers_only = [x for x in inputs if isinstance(x, Number)]
        if target is not None and numbers_only and all(
            "number" in str(a.real_type) or "Scalar" in str(a.type)
            for a, x in zip(target._schema.arguments, inputs, strict=False) if isinstance(x, Number)
        ):  # fmt: skip
            where = shown(self.origin(node).source) or "source unknown"
            other, args = numbers.of_tensors(target, inputs, where)
            given, named = torchscript.split(other, args)
            return self.caller.call(other, given, named, self.origin(node))
        for x in numbers_in(inputs):
            self.known(x, node, "a size or setting")
        raise AssertionError(kind)

    def _changing(self, node: Any) -> None:
        """What attributes hold is state."""

    def attribute(self, owner: Any, name: str) -> Any:
        """An attribute of a module: what this way has set, or what the script has."""
        if name not in self.set_names or isinstance(getattr(owner.module, name), torch.nn.Module):
            return super().attribute(owner, name)
        path = self.path_of(owner, name)
        if path not in self.path.attributes:
            self.path.attributes[path] = self.begins(owner, name, path)
        return self.path.attributes[path]

    def path_of(self, owner: Any, name: str) -> str:
        """The whole name of an attribute."""
        return self.below_root(f"{owner.path}.{name}" if owner.path else name)

    #: What an attribute (of a module, its name, its whole name) is where a run begins; the same by the whole name.
    begins: Callable[[Any, str, str], Any]
    begun: Callable[[str], Any]

    def apart_at(self, place: Any) -> NeedsNumber:
        """What says that the ways have to be kept apart at a place."""
        return NeedsNumber(frozenset({place}))


# --- rules: the ways after a node, or None where it is as any other ------------------------------------------------


def _if(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
    asked = path.env[node.inputsAt(0).unique()]
    if isinstance(asked, Number):
        asked = path.known.get(asked.value, asked)
    if not isinstance(asked, Number):
        return _given(node, walker.run(inner[0 if asked else 1], path))
    then, otherwise = walker.fork(path, asked, ("then", "otherwise"))
    then.known |= {asked.value: True, **_equal(asked.value)}
    otherwise.known[asked.value] = False
    out: list[Path] = []
    for way, plan in ((then, inner[0]), (otherwise, inner[1])):
        walker.trace.begin(way.block)
        out += walker.run(plan, way)
    return _given(node, out)


def _equal(asked: Value) -> dict[Value, Any]:
    """What is known where an equality holds."""
    if not isinstance(asked.op, Binary) or asked.op.kind not in ("equal", "eq"):
        return {}
    pairs = (asked.args, asked.args[::-1])
    whole = [(a, b) for a, b in pairs if not a.dtype.is_float]  # 0.0 is equal to -0.0
    return {a: b.op.run().item() for a, b in whole if isinstance(b.op, Const) and not isinstance(a.op, Const)}


def _given(node: Any, paths: list[Path]) -> list[Path]:
    """The ways with what their blocks gave as what a node gives."""
    for path in paths:
        for value, x in zip(node.outputs(), path.outputs, strict=True):
            path.env[value.unique()] = x
        path.outputs = []
    return paths


def _get_attribute(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path] | None:
    owner = path.env[node.inputsAt(0).unique()]
    found = walker.attribute(owner, node.s("name"))
    if not isinstance(found, Union):
        return None
    name = walker.path_of(owner, node.s("name"))
    tag = path.known.get(found.tag.value) if isinstance(found.tag, Number) else found.tag
    if tag is not None:
        path.attributes[name] = found.kinds[tag]
        return None
    ways = walker.fork(path, found.tag, [f"kind{i}" for i in range(len(found.kinds))])
    for i, way in enumerate(ways):
        walker.trace.begin(way.block)
        walker.enter(way)
        way.attributes[name] = way.attributes[name].kinds[i]
        way.known[found.tag.value] = i
        walker._node(node)
    return ways


def _set_attribute(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
    owner, new = (path.env[v.unique()] for v in node.inputs())
    name = walker.path_of(owner, node.s("name"))
    if name not in path.attributes:
        walker.attribute(owner, node.s("name"))
    path.attributes[name] = new if walker.standing is not None else owned(new)
    return [path]


def _called(walker: Walker, node: Any, graph: Any, path: Path) -> list[Path]:
    """A graph whose names are its own."""
    _, plan = walker.plans.setdefault(id(graph), (graph, Plan(graph)))
    inputs = [path.env[v.unique()] for v in node.inputs()]
    path.envs.append(dict(zip(plan.inputs, inputs, strict=True)))
    paths = walker.run(plan, path)
    for one in paths:
        one.envs.pop()
        if node.outputsSize() == 1 and len(one.outputs) != 1:
            one.outputs = [tuple(one.outputs)]
    return _given(node, paths)


def _method(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
    owner = path.env[node.inputsAt(0).unique()]
    name = (owner.path, node.s("name"))
    if name not in walker.graphs:
        walker.graphs[name] = owner.module._c._get_method(node.s("name")).inlined_graph
    return _called(walker, node, walker.graphs[name], path)


def _forked(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
    if key not in walker.graphs:
        graph = node.g("Subgraph").copy()
        torch._C._jit_pass_inline(graph)
        walker.graphs[key] = graph
    return _called(walker, node, walker.graphs[key], path)


def _raise(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path]:
    given = [path.env[v.unique()] for v in node.inputs()]
    text = str(given[0]) if given else "an exception"
    if len(given) > 1 and isinstance(given[1], str) and not text.startswith(given[1]):
        text = f"{given[1].rpartition('.')[2]}: {text}"
    source = walker.origin(node).source
    walker.raised.append(text)
    walker.trace.drafts[path.block].end = Raise(f"{text} [{source}]" if source else text)
    return []


#: Nodes after which ways may be of one kind again.
_MERGES = frozenset({"prim::If", "prim::Loop", "prim::SetAttr", "prim::GetAttr", "prim::CallMethod", "prim::fork",
                     "prim::TupleUnpack", "aten::len"})  # fmt: skip


def _append(walker: Walker, node: Any, inner: list[Plan], path: Path, key: Any) -> list[Path] | None:
    """More entries than there may be are refused where a run has them."""
    x = path.env[node.inputsAt(0).unique()]
    if not isinstance(x, Growing) or not x.checked or not isinstance(x.length, Number):
        return None
    asked = Number(less(x.length.value, const(x.bound, "i64")))
    room, full = walker.fork(path, asked, ("room", "full"))
    source = walker.origin(node).source or "source unknown"
    walker.trace.begin(full.block)
    walker.trace.drafts[full.block].end = Raise(f"a list has more than its bound={x.bound} entries [{source}]")
    walker.trace.begin(room.block)
    walker.enter(room)
    walker._node(node)
    return [room]


#: Nodes that only hold what they take.
_HOLD = frozenset({"prim::ListConstruct", "prim::TupleConstruct", "prim::DictConstruct", "prim::SetAttr",
                   "prim::Constant", "prim::TupleUnpack", "prim::unchecked_cast", "prim::Print"})  # fmt: skip

_RULES: dict[str, Callable[..., list[Path] | None]] = {
    "aten::append": _append,
    "prim::If": _if,
    "prim::Loop": loops.loop,
    "prim::GetAttr": _get_attribute,
    "prim::SetAttr": _set_attribute,
    "prim::CallMethod": _method,
    "prim::fork": _forked,
    "prim::RaiseException": _raise,
}


Walker.prims = {**torchscript.PRIMS, **PRIMS}
