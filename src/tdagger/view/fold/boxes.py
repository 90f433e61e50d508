"""The tree of a network: every op in the box of the module that computes it.

An op that is all a module does stands for the module; lists of modules, which compute nothing, are no boxes; of a
module that is called twice there are two.

>>> import tdagger as td
>>> from tdagger.network import Origin
>>> x = td.input("x", (2, 4))
>>> a, b = td.exp(x), td.sin(td.exp(x))
>>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": b}))
>>> found = simplified(tree(dag.with_graph(dag.graph, {a: Origin("m.e"), b: Origin("m.s")})))
>>> [(box.name, [(leaf.name, leaf.value) for leaf in box.items]) for box in found.items]
[('m', [('e', <exp(f32[2 4]) -> f32[2 4]>), ('s', <sin(f32[2 4]) -> f32[2 4]>)])]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tdagger.composite import Composite
from tdagger.graph import Graph
from tdagger.network import Network
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Parameter
from tdagger.ops.structure import Item
from tdagger.view.text import numbers

#: The ops that take scales and zero points.
_QUANTIZED = ("quantize", "dequantize", "fake_quantize")
#: Modules that are called by nobody: what they hold is their owner's.
LISTS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")


class Leaf:
    """An op: its values in the two networks that are compared (in one alone the other is None).

    ``name`` and ``kind`` are those of the module that computes nothing else. ``moves``: of two networks in different
    layouts, it only brings a value to that of its own.
    """

    __slots__ = ("box", "changes", "kind", "moves", "name", "values")

    def __init__(self, a: Value | None, b: Value | None = None) -> None:
        self.values = (a, b)
        self.name = self.kind = ""
        self.box: Box | None = None
        self.changes: list[str] = []
        self.moves = False

    @property
    def value(self) -> Value:
        """Its value in the first network that has it."""
        found = self.values[0] or self.values[1]
        assert found is not None
        return found


class Box:
    """What belongs together: a module, or what was found by structure.

    ``call`` counts calls of the module before this one. ``step``: in the next of its kind the numbers of the boxes
    inside are so much higher; ``offset``: and in this one so much higher than in the first.
    """

    __slots__ = ("box", "call", "changes", "is_module", "items", "kind", "name", "offset", "state", "step")

    def __init__(self, name: str, kind: str = "", is_module: bool = False, call: int = 0) -> None:
        self.name, self.kind, self.is_module, self.call = name, kind, is_module, call
        self.items: list[Box | Leaf] = []
        self.box: Box | None = None
        self.state = ""
        self.changes: list[str] = []
        self.step = self.offset = 0

    def leaves(self) -> Iterator[Leaf]:
        """Every op inside, in order."""
        for item in self.items:
            if isinstance(item, Leaf):
                yield item
            else:
                yield from item.leaves()

    def boxes(self) -> Iterator[Box]:
        """Every box inside, outer ones first."""
        for item in self.items:
            if isinstance(item, Box):
                yield item
                yield from item.boxes()


class Facts(NamedTuple):
    """What is an op to be shown, and what is only written in others' expressions.

    ``inline`` are numbers as text. The others are the graph's values in order.
    """

    inline: Mapping[Value, str]
    shown: list[Value]

    @classmethod
    def of(cls, network: Network) -> Facts:
        """Those of a network."""
        fitted = _fitted(network.graph)
        inline = {v: text for v, text in numbers(network.graph).items() if v not in fitted}
        hidden = Input | Parameter | Buffer | Const | Item
        return cls(inline, [v for v in network.graph.values if v not in inline and not isinstance(v.op, hidden)])


def _fitted(graph: Graph) -> set[Value]:
    """The scales and zero points of quantization: found from data as weights are, so layers are equal on whatever."""
    found: set[Value] = set()
    others: set[Value] = set()
    for value in graph.values:
        op, names = value.op, [""] * len(value.args)
        if isinstance(op, Composite) and op.name in _QUANTIZED:
            names = op.definition.argument_names(op.given, len(value.args))
        for arg, name in zip(value.args, names, strict=True):
            (found if name in ("scale", "zero_point") else others).add(arg)
    return {v for v in found - others if isinstance(v.op, Const)}


def source(value: Value) -> tuple[Value, int]:
    """The op that makes a value, and which of its results it is."""
    return (value.args[0], value.op.index) if isinstance(value.op, Item) else (value, 0)


#: A module's name in its owner, and how often it was called before.
_Step = tuple[str, int]
#: The modules around every op, from the outermost inwards.
Places = dict[Value, tuple[_Step, ...]]


def tree(
    network: Network,
    facts: Facts | None = None,
    side: int = 0,
    places: Places | None = None,
    modules: Mapping[str, str] | None = None,
) -> Box:
    """The boxes of a network, a box for every module; ``side`` is 1 for the second of two.

    ``places`` are the modules around every op and ``modules`` the class of each, those of the network unless told.
    """
    modules = network.modules if modules is None else modules
    facts = Facts.of(network) if facts is None else facts
    places = module_places(network, facts.shown) if places is None else places
    root = Box("", modules.get("", ""), True)
    boxes: dict[tuple[_Step, ...], Box] = {(): root}
    for value in facts.shown:
        box = _box(modules, boxes, places[value])
        box.items.append(Leaf(value) if side == 0 else Leaf(None, value))
    return root


def simplified(root: Box) -> Box:
    """A tree without boxes that only list others, and with ops for modules that do nothing else."""
    root.items = [_simple(item) for item in _opened(root)]
    own(root)
    return root


def own(root: Box) -> None:
    """Tell every item the box that it is in."""
    todo = [root]
    while todo:
        box = todo.pop()
        for item in box.items:
            item.box = box
            if isinstance(item, Box):
                todo.append(item)


def _box(modules: Mapping[str, str], boxes: dict[tuple[_Step, ...], Box], place: tuple[_Step, ...]) -> Box:
    missing: list[tuple[_Step, ...]] = []
    while place not in boxes:
        missing.append(place)
        place = place[:-1]
    box = boxes[place]
    for own in reversed(missing):
        name, call = own[-1]
        path = ".".join([n for n, _ in own])
        inner = boxes[own] = Box(name, modules.get(path, ""), True, call)
        box.items.append(inner)
        box = inner
    return box


def _opened(box: Box) -> list[Box | Leaf]:
    """What a box holds, with what lists hold in the place of lists."""
    out: list[Box | Leaf] = []
    for item in box.items:
        if not isinstance(item, Box) or not _is_list(item):
            out.append(item)
            continue
        for inner in _opened(item):
            inner.name = f"{item.name}.{inner.name}" if inner.name else ""
            out.append(inner)
    return out


def _is_list(box: Box) -> bool:
    if box.kind in LISTS:
        return True
    inner = [i.name for i in box.items if isinstance(i, Box)]
    return not box.kind and bool(inner) and all(map(str.isdecimal, inner))


def _simple(item: Box | Leaf) -> Box | Leaf:
    """A box without lists inside; of one thing that it holds, that thing."""
    if isinstance(item, Leaf):
        return item
    items = [_simple(inner) for inner in _opened(item)]
    if len(items) == 1 and not item.changes and not (isinstance(items[0], Box) and (items[0].call or item.call)):
        only = items[0]
        only.name = f"{item.name}.{only.name}" if only.name else item.name
        only.kind = only.kind or item.kind
        if isinstance(only, Box):
            only.call = item.call
        return only
    item.items = items
    return item


# --- which module an op is of ------------------------------------------------------------------------------


def module_places(network: Network, shown: list[Value]) -> Places:
    """The modules around every op.

    What several modules compute alike, from no parameter, is one value here, made by the first: it is no more that
    one's than the others'. It is put in the module around all of them if the first uses it too.
    """
    known: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[_Step, ...]] = {}
    own: dict[Value, tuple[_Step, ...]] = {}
    for value in shown:
        origin = network.origins.get(value)
        key = (origin.module, origin.calls) if origin is not None else ("", ())
        if key not in known:
            known[key] = _steps(*key)
        own[value] = known[key]
    trained = _trained(network)
    users: dict[Value, list[Value]] = {v: [] for v in shown}
    for value in shown:
        for arg in value.args:
            maker, _ = source(arg)
            if maker in users:
                users[maker].append(value)
    found = dict(own)
    for value in reversed(shown):
        if value not in trained and own[value]:
            found[value] = _shared(own[value], [(own[u], found[u]) for u in users[value]])
    return found


def _steps(path: str, calls: tuple[tuple[str, int], ...]) -> tuple[_Step, ...]:
    times, so_far, out = dict(calls), "", list[_Step]()
    for name in path.split(".") if path else ():
        so_far = f"{so_far}.{name}" if so_far else name
        out.append((name, times.get(so_far, 0)))
    return tuple(out)


def _trained(network: Network) -> set[Value]:
    """The values that parameters are behind."""
    found: set[Value] = set()
    for value in network.graph.values:
        if isinstance(value.op, Parameter) or any(a in found for a in value.args):
            found.add(value)
    return found


def _shared(own: tuple[_Step, ...], users: list[tuple[tuple[_Step, ...], tuple[_Step, ...]]]) -> tuple[_Step, ...]:
    """Where a value is put whose users have these modules, before and after they were put elsewhere themselves."""
    common = len(own)
    for _, place in users:
        common = next(
            (i for i, (a, b) in enumerate(zip(own[:common], place, strict=False)) if a != b), min(common, len(place))
        )
    if common == len(own):
        return own
    module = own[: common + 1]
    inside = any(place[: common + 1] == module for _, place in users)
    moved = all(before[: common + 1] == module for before, _ in users)
    return own[:common] if users and (inside or moved) else own
