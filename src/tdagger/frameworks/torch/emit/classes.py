"""The classes of a network's modules: generated code for each structure, or a layer or container of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from tdagger.composite import Composite
from tdagger.frameworks.torch.emit.blocks import Call, Layer, ModuleCall, by_module
from tdagger.frameworks.torch.emit.codegen import Marked, Row, Writer, call_row
from tdagger.frameworks.torch.emit.composites import composite_row, is_known
from tdagger.frameworks.torch.emit.core import core_row
from tdagger.frameworks.torch.emit.layers import made_layer
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.frameworks.torch.emit.module import Block, Entry, Source, empty_module, path_expression
from tdagger.frameworks.torch.emit.sizes import Bindings, UnboundError
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy
from tdagger.names import identifier, is_attribute, is_identifier
from tdagger.op import Value
from tdagger.tensordag import TensorDAG, Weight
from tdagger.types import MARK, TensorType


class Part(NamedTuple):
    """What is at a path: generated code, or a class of torch with its settings."""

    source: Source | None
    kind: type = nn.Module
    settings: tuple[tuple[str, Any], ...] = ()

    def make(self) -> nn.Module:
        """A module of it."""
        if self.source is not None:
            return empty_module(*self.source)
        return self.kind() if self.kind in CONTAINERS else made_layer(Layer(self.kind, self.settings))


CONTAINERS = (nn.Sequential, nn.ModuleList, Block)


def used_names(names: dict[str, Any], code: str) -> dict[str, Any]:
    """Those of ``names`` that code has."""
    words = set(re.findall(r"\w+", code)) if names else ()
    return {n: v for n, v in names.items() if n in words}


class Classes:
    """The classes of a network's modules: one for each graph of calls and name of the source's class."""

    def __init__(
        self,
        dag: TensorDAG,
        state: Mapping[str, Weight],
        paths: Mapping[str, list[str]],
        trains: bool,
        writer_of: Callable[..., Writer],
        names: dict[str, Any],
    ) -> None:
        self._dag = dag
        self._state = state
        self._paths = paths
        self._trains = trains
        self._writer_of = writer_of
        self._names = names
        self._made: dict[Any, tuple[Source, Writer]] = {}
        self._tensors: dict[Value, Tensor] = {}
        #: The axes whose sizes a module's arguments don't tell, by its path.
        self.unbound: dict[str, set[str]] = {}
        self._of: dict[str, Writer] = {}
        self._lists: dict[str, dict[str, int]] | None = None
        self._inside: dict[str, list[str]] = {p: [] for p in paths}
        for name in (*state, *paths):
            owner = name
            while owner:
                owner = owner.rpartition(".")[0]
                if owner:
                    self._inside.setdefault(owner, []).append(name)

    def part(self, call: Call) -> Part:
        """What is at the path of a call."""
        layer = call.layer
        if layer is not None:
            return Part(None, layer.kind, layer.settings)
        kind = self._dag.modules[call.path]
        if kind == "Sequential" and self._is_chain(call):
            return Part(None, nn.Sequential)
        names = [n[len(call.path) + 1 :] for n in self._inside[call.path]]
        constant = "constant"
        while any(n.startswith(constant) for n in names):
            constant += "_"
        lists = self.lists(call.path)
        graph = call.graph
        key = (kind, constant, tuple(graph.inputs.values()), tuple(graph.outputs.values()), tuple(lists.items()))
        found = self._made.get(key)
        if found is None:
            try:
                found = self._made[key] = self._written(call, kind, constant, names)
            except UnboundError as e:
                self.unbound[call.path] = e.symbols
                return Part(None, Block)
        self._of[call.path] = found[1]
        return Part(found[0])

    def _is_chain(self, call: Call) -> bool:
        """Whether a call is those of its children in turn, as nn.Sequential makes them."""
        names = self._paths[call.path]
        graph = call.graph
        if not self._inside[call.path]:
            return list(graph.outputs.values()) == list(graph.inputs.values())
        plain = [str(i) for i in range(len(names))] == names
        if not names or not (plain or all(is_attribute(n) and not hasattr(nn.Sequential, n) for n in names)):
            return False
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            return False
        value = next(iter(graph.outputs.values()))
        for name in reversed(names):
            op = value.op
            if not isinstance(op, ModuleCall) or (op.path, op.arguments, op.targets) != (name, "{0}", "{0}"):
                return False
            if len(value.args) != 1:
                return False
            value = value.args[0]
        return value is next(iter(graph.inputs.values()))

    def _written(self, call: Call, kind: str, constant: str, names: Iterable[str]) -> tuple[Source, Writer]:
        graph, origins = legalize(call.graph, is_known, call.origins)
        prefix = f"{call.path}."
        near = {v: o._replace(module=f"{o.module}.".removeprefix(prefix)[:-1]) for v, o in origins.items()}
        inside = {p.removeprefix(prefix) for p in self._paths if p.startswith(prefix)}
        writer = self._writer_of(graph, row_of, near, {"", *inside})
        writer.state = set(names)
        writer.trains = self._trains
        writer.lists = self.lists(call.path)
        self._names |= writer.names
        writer.names = self._names
        writer.constant = constant
        inputs = {v: n for n, v in graph.inputs.items()}
        outputs = list(graph.outputs.values())
        body = writer.statements(outputs)
        end = [f"return {', '.join(map(writer.ref, outputs))}"]
        modules = {p.removeprefix(prefix): k for p, k in self._dag.modules.items() if p.startswith(prefix)}
        lines = writer.lines(body, end, inputs, state_path, modules, ": here, not in its module")
        lines = bound(lines, graph.inputs, {*inputs.values(), "self", "m", "_"})
        code = "".join(f"    {line}\n" for text in lines for line in text.split("\n"))
        code = f"def forward({', '.join(['self', *inputs.values()])}):\n{code}"
        return Source(code, used_names(self._names, code), class_name(kind)), writer

    def constants_of(self, call: Call) -> Iterator[Entry]:
        """The constants that the module of a call holds, as buffers that aren't saved."""
        writer = self._of.get(call.path)
        for value, name in writer.constants.items() if writer is not None else ():
            yield Entry(f"{call.path}.{name}", self.tensor(value), False)

    def guards_of(self, call: Call) -> dict[str, str]:
        """The updates that happen only when a module in that of a call trains, and the path of that module."""
        writer = self._of.get(call.path)
        found = writer.guards if writer is not None else {}
        return {f"{call.path}.{n}": f"{call.path}.{m}" if m else call.path for n, m in found.items()}

    def tensor(self, value: Value) -> Tensor:
        """A constant's tensor: one for all who hold it."""
        if value not in self._tensors:
            self._tensors[value] = from_numpy(_data(value), DTYPES[value.dtype.name]).clone()
        return self._tensors[value]

    def lists(self, around: str) -> dict[str, int]:
        """The lists of modules in a module, by their paths there, and how many modules are in each."""
        if self._lists is None:
            lists = {p: len(names) for p, names in self._paths.items() if self._is_list(p, self._kind(p), names)}
            self._lists = {"": lists, **by_module(lists)}
        return self._lists.get(around, {})

    def _kind(self, path: str) -> str:
        return self._dag.modules.get(path, "")

    def _is_list(self, path: str, kind: str, names: list[str]) -> bool:
        """Whether what nothing is called at is a list."""
        numbered = bool(names) and [str(i) for i in range(len(names))] == names
        owns = any("." not in n[len(path) + 1 :] for n in self._inside[path] if n not in self._paths)
        return kind in ("", "ModuleList") and numbered and not owns

    def holder(self, path: str, kind: str, names: list[str]) -> Part:
        """What is at a path that nothing is called at."""
        if self._is_list(path, kind, names):
            return Part(None, nn.ModuleList)
        held = {n[len(path) + 1 :]: self._state[n].type for n in self._inside[path] if n in self._state}
        if kind == "Linear" and len(held) == len(self._inside[path]) and _is_linear(held):
            bias = () if "bias" in held else (("bias", False),)
            out, into = held["weight"].shape
            return Part(None, nn.Linear, (("in_features", into), ("out_features", out), *bias))
        return Part(Source("", {}, class_name(kind))) if kind else Part(None, Block)


def _is_linear(held: Mapping[str, TensorType]) -> bool:
    """Whether these are the weights of a linear layer: all that one is made of."""
    weight, others = held.get("weight"), held.keys() - {"weight", "bias"}
    if weight is None or others or weight.rank != 2:
        return False
    return "bias" not in held or held["bias"].shape == weight.shape[:1]


def class_name(kind: str) -> str:
    """The name of the class of a module whose source's class is called ``kind``."""
    return kind if is_identifier(kind) else identifier(kind, set())


def bound(lines: list[str], arguments: Mapping[str, Value], taken: set[str]) -> list[str]:
    """Lines with names for the sizes in them, after the lines that give these names."""
    words = set(re.findall(r"\w+", MARK.sub(" ", "\n".join(lines))))
    bindings = Bindings(arguments.items(), taken | words)
    filled = [bindings.filled(line) for line in lines]
    return [*bindings.lines(), *filled]


def state_path(marked: Marked, inside: bool) -> str:
    """The expression for what is marked, in the forward of its module."""
    parts = [] if inside or not marked.owner else marked.owner.split(".")
    start = "m" if inside else "self"
    if marked.is_flag:
        return f"{path_expression(start, parts)}.training"
    return path_expression(start, [*parts, marked.name] if marked.name else parts)


def row_of(value: Value) -> Row:
    """How a value is written."""
    if isinstance(value.op, ModuleCall):
        return call_row
    return composite_row(value) if isinstance(value.op, Composite) else core_row(value)


def _data(value: Value) -> Any:
    """The array of a constant or iota."""
    op: Any = value.op
    return op.run()
