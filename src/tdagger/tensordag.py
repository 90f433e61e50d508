"""TensorDAG: a graph, its weights, and where they came from."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import GraphError, InputError
from tdagger.graph import Graph, flops, op_counts
from tdagger.interpret import run
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Leaf, Parameter
from tdagger.tree import Tree, flatten
from tdagger.types import TensorType
from tdagger.view import text


class Origin(NamedTuple):
    """Where a value came from: module path, the framework's op, and source line (``file:line``)."""

    module: str = ""
    op: str = ""
    source: str = ""


@dataclass(frozen=True)
class Weight:
    """What a network's state says of one tensor, whether or not the graph uses it.

    ``alias_of`` is the name of the weight this one is tied to: one tensor under two names.
    """

    type: TensorType
    is_parameter: bool
    trainable: bool = True
    persistent: bool = True
    alias_of: str = ""


@dataclass(frozen=True)
class Signature:
    """How a network is called: the nesting of its arguments (args, kwargs) and of its result."""

    inputs: Tree
    outputs: Tree


@dataclass(frozen=True, eq=False)
class TensorDAG:
    """A network: a graph and the data of its parameters and buffers.

    ``weights`` maps names to arrays and may be lazy; ``state`` lists every tensor of the source's state (also
    those the graph doesn't use); ``origins`` tells where values came from; ``modules`` maps module paths to
    class names. Make one with :func:`tdagger.from_torch` and its like.
    """

    graph: Graph
    weights: Mapping[str, Array]
    signature: Signature
    state: Mapping[str, Weight] = field(default_factory=dict[str, Weight])
    origins: Mapping[Value, Origin] = field(default_factory=dict[Value, Origin])
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = "network"

    # Running and looking.

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Execute with numpy only; takes and returns arrays, nested as the source network's tensors were.

        InputError if the arguments don't have the structure, shapes and element types of the signature.
        """
        leaves, tree = flatten((args, kwargs), lambda v: isinstance(v, np.ndarray | np.generic))
        names = list(self.graph.inputs)
        if len(leaves) != len(names):
            expected = ", ".join(f"{n}: {v.type}" for n, v in self.graph.inputs.items())
            raise InputError(f"{self.name} takes the arrays ({expected}), got {len(leaves)} arrays in {tree.kind}")
        out, _ = run(self.graph, dict(zip(names, map(np.asarray, leaves), strict=True)), self.weights)
        return self.signature.outputs.unflatten(list(out.values()))

    def __str__(self) -> str:
        return text.show(self)

    def __repr__(self) -> str:
        return f"<TensorDAG {self.name}: {self.graph!r}>"

    @property
    def values(self) -> list[Value]:
        """Every value of the graph, arguments first."""
        return self.graph.values

    @cached_property
    def _by_module(self) -> dict[str, list[Value]]:
        """The values of every module path, those of inner modules included."""
        found: dict[str, list[Value]] = {"": []}
        for value in self.graph.values:
            origin = self.origins.get(value)
            path = origin.module if origin else ""
            found[""].append(value)
            while path:
                found.setdefault(path, []).append(value)
                path = path.rpartition(".")[0]
        return found

    def __getitem__(self, path: str) -> Region:
        """The part of the network that module ``path`` computes; GraphError if nothing came from there."""
        values = self._by_module.get(path)
        if values is None:
            near = [p for p in self._by_module if p.startswith(path.split(".")[0])] or list(self._by_module)
            raise GraphError(f"{self.name}: nothing came from module {path!r}; there are {', '.join(near[:12])}")
        return Region(path, tuple(values), self.graph, self.modules.get(path, ""))

    def regions(self, depth: int | None = None) -> dict[str, Region]:
        """Every module path up to ``depth`` dots deep, in the order of the network, with its region."""
        paths = [p for p in self._by_module if depth is None or (p.count(".") + bool(p)) <= depth]
        return {p: self[p] for p in paths}

    def with_graph(self, graph: Graph, origins: Mapping[Value, Origin] | None = None) -> TensorDAG:
        """The same weights with another graph."""
        return replace(self, graph=graph, origins=self.origins if origins is None else origins)

    # Going to a framework. Frameworks stand to the right of this module, so they are found by name.

    def to_torch(self, **options: Any) -> Any:
        """A readable ``torch.nn.Module`` with the source's state_dict; see ``frameworks/torch/exporter.py``."""
        return _exporter("torch").to_torch(self, **options)

    def to_torchscript(self, **options: Any) -> Any:
        """A ``torch.jit.ScriptModule`` that saves and loads."""
        return _exporter("torch").to_torchscript(self, **options)

    def to_exported_program(self, **options: Any) -> Any:
        """A ``torch.export.ExportedProgram``."""
        return _exporter("torch").to_exported_program(self, **options)

    # Coming from a framework, for those who look for it on the class.

    @staticmethod
    def from_torch(*args: Any, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_torch`."""
        return _importer("torch").from_torch(*args, **options)

    @staticmethod
    def from_torchscript(*args: Any, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_torchscript`."""
        return _importer("torch").from_torchscript(*args, **options)


def _exporter(framework: str) -> Any:
    return importlib.import_module(f"tdagger.frameworks.{framework}.exporter")


def _importer(framework: str) -> Any:
    return importlib.import_module(f"tdagger.frameworks.{framework}.importer")


@dataclass(frozen=True)
class Region:
    """The values that one module computes, with totals of just those."""

    path: str
    values: tuple[Value, ...]
    graph: Graph = field(repr=False)
    type: str = ""

    @cached_property
    def inputs(self) -> list[Value]:
        """What comes in: arguments from outside that aren't parameters, buffers or constants."""
        own = set(self.values)
        args = dict.fromkeys(a for v in self.values for a in v.args if a not in own)
        return [a for a in args if not isinstance(a.op, Parameter | Buffer | Const)]

    @cached_property
    def outputs(self) -> list[Value]:
        """What goes out: values that others use or that the graph returns."""
        own = set(self.values)
        returned = {*self.graph.outputs.values(), *self.graph.updates.values()}
        return [v for v in self.values if v in returned or any(u not in own for u in self.graph.users[v])]

    @cached_property
    def parameters(self) -> dict[str, Value]:
        """The parameters used, by name."""
        used = dict.fromkeys(a for v in self.values for a in v.args)
        return {a.op.leaf: a for a in used if isinstance(a.op, Parameter)}

    @property
    def op_counts(self) -> dict[str, int]:
        """How often each op occurs, leaves left out."""
        return op_counts(v for v in self.values if not isinstance(v.op, Leaf | Const))

    def total_bytes(self) -> int:
        """Bytes of the parameters used."""
        return sum(v.type.bytes for v in self.parameters.values())

    def total_flops(self) -> int:
        """See :meth:`Graph.total_flops`."""
        return sum(map(flops, self.values))

    def total_memory_reads(self) -> int:
        """Bytes; see :meth:`Graph.total_memory_reads`."""
        return sum(self.graph.traffic[v].reads for v in self.values)

    def total_memory_writes(self) -> int:
        """Bytes; see :meth:`Graph.total_memory_writes`."""
        return sum(self.graph.traffic[v].writes for v in self.values)
