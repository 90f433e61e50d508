"""What the tensors of a trace are made of: inputs, or only what the network holds and constants."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tdagger.frameworks.torch.aten.aliases import storage_of
from tdagger.frameworks.torch.capture.checks import line_at
from tdagger.frameworks.torch.capture.refusals import is_own

#: What comes from the inputs, or from random numbers; and what comes from nothing but constants.
DATA = frozenset({""})
NOTHING = frozenset[str]()
RANDOM = torch.Tag.nondeterministic_seeded

_C: Any = torch._C


def is_tracing() -> bool:
    """Whether torch.jit.trace takes note now."""
    return _C._get_tracing_state() is not None


class Traced:
    """What the tensors of a trace are made of: the names of what the network holds, or data; read from its graph."""

    def __init__(self, names: Mapping[str, str], memory: Mapping[int | None, str]) -> None:
        self._names = names
        self._memory = memory
        self._found: dict[tuple[int, bool], frozenset[str]] = {}

    def of(self, t: Any) -> frozenset[str]:
        """What a tensor is made of."""
        if not isinstance(t, Tensor) or not is_tracing():
            return NOTHING
        try:
            value = _C._get_value_trace(t)
        except RuntimeError:  # a constant that can't be one: it requires a gradient
            return self._held(t)
        sources = self._sources(value, False)
        return sources if sources >= DATA else sources | self._of_writes(value)

    def _held(self, t: Tensor) -> frozenset[str]:
        """The name of what the network holds in a tensor's memory."""
        name = self._memory.get(storage_of(t))
        return NOTHING if name is None else frozenset({name})

    def _sources(self, value: Any, shape: bool) -> frozenset[str]:
        """What a value of the graph, or only its shape, is made of; writes to parts of it apart."""
        stack = [(value, shape)]
        while stack:
            value, shape = stack[-1]
            key = value.unique(), shape
            if key in self._found:
                stack.pop()
                continue
            own, behind = self._behind(value, shape)
            missing = [(v, s) for v, s in behind if (v.unique(), s) not in self._found]
            if missing and own != DATA:
                stack += missing
                continue
            found = own.union(*[self._found[v.unique(), s] for v, s in behind if (v.unique(), s) in self._found])
            self._found[key] = DATA if found >= DATA else found
            stack.pop()
        return self._found[value.unique(), shape]

    def _behind(self, value: Any, shape: bool) -> tuple[frozenset[str], list[tuple[Any, bool]]]:
        """What a value is made of by itself, and the values (or their shapes) that it is computed from."""
        node = value.node()
        kind: str = node.kind()
        inputs = list(node.inputs())
        match kind:
            case "prim::Param":
                return NOTHING if shape else DATA, []
            case "prim::TracedAttr":
                name = self._names.get(node.s("scope"))
                return NOTHING if shape or name is None else frozenset({name}), []
            case "prim::Constant":
                is_tensor = "value" in node.attributeNames() and node.kindOf("value") == "t"
                return self._held(node.t("value")) if is_tensor and not shape else NOTHING, []
            case _ if kind in _SIZES and inputs:
                return NOTHING, [(inputs[0], True), *[(v, False) for v in inputs[1:]]]
            case _ if shape:
                by_data = _is(node, torch.Tag.dynamic_output_shape) and _is_open(kind, inputs)
                return NOTHING, [(v, not by_data and v.type().kind() != "IntType") for v in inputs]
            case _:
                return DATA if _is(node, RANDOM) else NOTHING, [(v, False) for v in inputs]

    def _of_writes(self, value: Any) -> frozenset[str]:
        """What was written to the memory of what a value is made of."""
        seen: dict[int, Any] = {}
        stack = [value]
        while stack:
            one = stack.pop()
            if one.unique() not in seen and one.node().kind() not in _SIZES:
                seen[one.unique()] = one
                stack += one.node().inputs()
        if all(v.node().kind() in _NUMBERS for v in seen.values()):
            return NOTHING
        found = NOTHING
        for node in _nodes(_C._get_tracing_state().graph()):
            if not node.kind().endswith("_"):
                continue
            base = node.inputsAt(0)
            while base.unique() not in seen and base.node().inputsSize():
                base = base.node().inputsAt(0)
            if base.unique() in seen:
                found = found.union(*[self._sources(v, False) for v in node.inputs()])
        return found


def _nodes(block: Any) -> Iterator[Any]:
    """The nodes of a graph, those of modules inside it too."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


#: Nodes of a trace that give sizes, and those that sizes are computed by.
_SIZES = frozenset({"aten::size", "aten::numel", "aten::dim", "aten::len", "aten::stride", "prim::shape"})
_NUMBERS = frozenset({"prim::NumToTensor", "prim::Constant", "aten::Int", "prim::ListConstruct"}) | {
    f"aten::{n}" for n in ("add", "sub", "mul", "div", "floor_divide", "remainder", "neg", "detach", "to", "eq", "ne",
                           "lt", "le", "gt", "ge")
}  # fmt: skip


def _is(node: Any, tag: torch.Tag) -> bool:
    """Whether a node is of an op with a tag."""
    overloads = _overloads(node.kind(), tag)
    return bool(overloads) and node.schema().partition("(")[0].partition(".")[2] in overloads


@cache
def _overloads(kind: str, tag: torch.Tag) -> frozenset[str]:
    """The overloads of an op that have a tag, as schemas name them."""
    name = kind.removeprefix("aten::")
    packet = getattr(torch.ops.aten, name, None) if kind != name and name.isidentifier() else None
    names: list[str] = packet.overloads() if packet is not None else []
    return frozenset(n.removeprefix("default") for n in names if tag in getattr(packet, n).tags)


def _is_open(kind: str, inputs: Sequence[Any]) -> bool:
    """Whether the data decide the shape of a result of an op for which they may."""
    match kind:
        case "aten::index":
            indices = [v.type() for v in inputs[1].node().inputs()]
            return any(t.kind() == "TensorType" and t.scalarType() in ("Bool", "Byte") for t in indices)
        case "aten::one_hot":
            return inputs[1].toIValue() == -1
        case _:
            return True


# --- writes that get lost --------------------------------------------------------------------------------------


def lost_writes(outputs: Sequence[Tensor]) -> list[str]:
    """The writes in the graph of a trace that torch will drop, though they change what is read.

    It goes by schemas: what ``atleast_3d`` or ``einsum`` gives may be a view, and isn't said to be one.
    """
    kept = {_C._get_value_trace(t).unique() for t in outputs}
    found: list[str] = []
    for node in _nodes(_C._get_tracing_state().graph()):
        if not (node.kind().startswith("aten::") and node.kind().endswith("_") and node.inputsSize()):
            continue
        chain = [node.output()] if node.outputsSize() == 1 else []
        at, behind = node.inputsAt(0), node
        while at.node().kind().startswith("aten::") and _is_view(at.node()):
            chain.append(at)
            behind = at.node()
            at = behind.inputsAt(0)
        own = at.node()
        chain.append(at)
        within = {v.node().output().unique() for v in chain if v.node().outputsSize() == 1}
        used = any(v.unique() in kept for v in chain) or any(
            use.user.outputsSize() != 1 or use.user.output().unique() not in within for v in chain for use in v.uses()
        )
        if not used and own.schema().startswith("aten::") and _shares_memory(own):
            found.append(f"{own.kind().removeprefix('aten::')} ({_line_of(own)})")
    return found


def _line_of(node: Any) -> str:
    """The line of the network's own code that a node is from."""
    frames = [f for line in node.sourceRange().splitlines() if (f := _FRAME.match(line)) is not None]
    own = next((f for f in frames if is_own(f[1])), None)
    place = f"{own[1]}:{own[2]}" if own is not None else "source unknown"
    return f"{place}: {line_at(place)}" if own is not None else place


_FRAME = re.compile(r"(.*)\((\d+)\): ")


def _is_view(node: Any) -> bool:
    """Whether the schema of a node says that its result may be a view of its first argument."""
    return "(a)" in node.schema().partition("->")[2]


def _shares_memory(node: Any) -> bool:
    """Whether the result of a node lies in the memory of an argument: it is run on tensors without data."""
    name, _, overload = node.schema().partition("(")[0].removeprefix("aten::").partition(".")
    target = getattr(getattr(torch.ops.aten, name), overload or "default")
    given: list[Tensor] = []

    def of(value: Any) -> Any:
        inner = value.node()
        if value.type().kind() == "TensorType":
            kind = value.type()
            if kind.sizes() is None or kind.strides() is None:
                raise ValueError("a tensor of no known shape")
            given.append(torch.empty_strided(kind.sizes(), kind.strides(), dtype=kind.dtype(), device="meta"))
            return given[-1]
        return [of(v) for v in inner.inputs()] if inner.kind() == "prim::ListConstruct" else value.toIValue()

    try:
        with _disable_current_modes(), torch.no_grad():
            args = list(zip(target._schema.arguments, map(of, node.inputs()), strict=True))
            named = {a.name: x for a, x in args if a.kwarg_only}
            result = target(*[x for a, x in args if not a.kwarg_only], **named)
    except Exception:  # whatever torch raises of what it can't run without data: such an op gives a new tensor
        return False
    return isinstance(result, Tensor) and storage_of(result) in {storage_of(t) for t in given}
