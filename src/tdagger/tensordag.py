"""TensorDAG: a graph, its weights, and where they came from."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tdagger.analysis.axes import Axes
from tdagger.analysis.backends import backend_of
from tdagger.analysis.backward import backward as gradients
from tdagger.analysis.backward import has_gradient, leaves, results
from tdagger.analysis.cost import Cost, cost_of
from tdagger.analysis.execution import trace
from tdagger.analysis.formula import CostFunction, Costs, costs_of
from tdagger.analysis.memory import peak
from tdagger.analysis.names import Given, NamedAxes
from tdagger.analysis.plan import ALIGNMENT, Plan, plan
from tdagger.analysis.profile import Profile
from tdagger.analysis.ranks import RankReport, rank_report
from tdagger.analysis.schedule import scheduled
from tdagger.analysis.timing import Device, Prediction, device_of, predict
from tdagger.errors import AttributeValueError, AxisError, GraphError, InputError
from tdagger.graph import Graph, Unit, flops, op_counts
from tdagger.interpret import run
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Leaf, Parameter
from tdagger.pickling import HoldsValues
from tdagger.transform import certain, networks
from tdagger.tree import Tree, aligned, flatten
from tdagger.types import TensorType
from tdagger.view import text


class Origin(NamedTuple):
    """Where a value came from: module path, the framework's op, and source line (``file:line``)."""

    module: str = ""
    op: str = ""
    source: str = ""


class _Kept(HoldsValues):
    """Something that holds values, for a pickle."""

    def __init__(self, held: Any) -> None:
        self.held = held


class Check(NamedTuple):
    """What a network asserts of its data: ``value`` is true, or ``message`` is raised, ``ValueError: too large``.

    ``value`` is None where it can't be computed here.
    """

    value: Value | None
    message: str
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
    those the graph doesn't use); ``origins`` tells where values came from; ``modules`` maps module paths to class
    names; ``axis_names`` has names for the dimensions of inputs (``{"x": "b c h w"}``). ``source`` is what can be
    imported again with inputs of other shapes, ``certain_dimensions`` those of inputs, by name and number, of which it
    was asked (:meth:`certain`). ``checks`` is what the source asserts of its data, which only
    ``to_torch(checks=True)`` asks. Make one with :func:`tdagger.from_torch` and its like.
    """

    graph: Graph
    weights: Mapping[str, Array]
    signature: Signature
    state: Mapping[str, Weight] = field(default_factory=dict[str, Weight])
    origins: Mapping[Value, Origin] = field(default_factory=dict[Value, Origin])
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = "network"
    axis_names: Mapping[str, str] = field(default_factory=dict[str, str])
    source: certain.Source | None = field(default=None, repr=False)
    certain_dimensions: frozenset[tuple[str, int]] = frozenset()
    checks: Sequence[Check] = ()

    def __reduce__(self) -> Any:
        """Pickled and copied without recursion, with the origins of the graph's own values, without the source."""
        places = [(i, self.origins[v]) for i, v in enumerate(self.graph.values) if v in self.origins]
        rest = (self.signature, dict(self.state), dict(self.modules), self.name, dict(self.axis_names))
        rest = (*rest, self.certain_dimensions, _Kept(tuple(self.checks)))
        return (_of_parts, (self.graph, self.weights, places, *rest))

    # Running and looking.

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Execute with numpy only; takes and returns arrays, nested as the source network's tensors were.

        InputError if the arguments don't have the structure, shapes and element types of the signature.
        """
        leaves = self._leaves(args, kwargs)
        names = list(self.graph.inputs)
        out, _ = run(self.graph, dict(zip(names, map(np.asarray, leaves), strict=True)), self.weights)
        return self.signature.outputs.unflatten(list(out.values()))

    def named_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a call by the names of the graph's inputs; InputError if there are too few or too many."""
        return dict(zip(self.graph.inputs, self._leaves(args, kwargs), strict=True))

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The arrays of a call in the order of the inputs; keyword arguments and entries of dicts go by their names."""
        leaves, tree = flatten((args, kwargs), _is_array)
        wanted = self.signature.inputs
        if tree == wanted:
            return leaves
        names = list(self.graph.inputs)
        if len(leaves) != len(names):
            expected = ", ".join(f"{shown(n)}: {v.type}" for n, v in self.graph.inputs.items())
            raise InputError(f"{shown(self.name)} takes the arrays ({expected}), got {len(leaves)} arrays")
        if kwargs and not args and all(_is_array(v) for v in kwargs.values()) and set(kwargs) == set(names):
            return [kwargs[n] for n in names]  # also those that the source takes by position
        if len(wanted.children) != 2 or (not kwargs and all(map(_is_array, args))):
            return leaves  # one by one
        return aligned(wanted, tree, leaves, "the call")

    def __str__(self) -> str:
        return text.show(self)

    def __repr__(self) -> str:
        return f"<TensorDAG {shown(self.name)}: {self.graph!r}>"

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

    # What it costs.

    def cost(self, backward: bool | str | Sequence[str] = False, outputs: Sequence[str] | None = None) -> Cost:
        """Multiply-adds, flops of each kind, bytes moved under three models, peak memory; whole and row by row.

        ``print(dag.cost())`` shows them, docs/counting.md defines them. No weights are read.

        ``backward=True`` counts the backward pass too, for the gradients of trainable parameters; ``"inputs"`` for
        those of inputs besides, and a list of names for those of these inputs, parameters and buffers only. What is
        differentiated are all outputs of floats, or ``outputs``. GraphError for a name there isn't, or without floats.
        """
        aliases = {n: w.alias_of for n, w in self.state.items() if w.alias_of}
        if backward is False:
            if outputs is not None:
                raise AttributeValueError("outputs are differentiated with cost(backward=True), there is no other use")
            return cost_of(self.graph, self.origins, aliases)
        work = gradients(self.graph, self._differentiated(backward), results(self.graph, outputs))
        return cost_of(self.graph, self.origins, aliases, work)

    def _differentiated(self, backward: bool | str | Sequence[str]) -> set[Value]:
        """The leaves that ``cost(backward)`` asks for gradients of."""
        if not isinstance(backward, bool | str):
            tied = [self.state[n].alias_of or n if n in self.state else n for n in backward]
            used = {*self.graph.inputs, *self.graph.parameters, *self.graph.buffers}
            return leaves(self.graph, [n for n in tied if n in used or n not in self.state])
        if backward not in (True, "inputs"):
            raise AttributeValueError(f'backward: True, "inputs" or a list of names, not {backward!r}')
        frozen = {n for n, w in self.state.items() if not w.trainable}
        found = [v for n, v in self.graph.parameters.items() if n not in frozen]
        found += self.graph.inputs.values() if backward == "inputs" else []
        return {v for v in found if has_gradient(v.type)}

    def schedule(self, minimize: str = "memory", backend: str | None = None) -> TensorDAG:
        """The same network in an order whose activations take less memory at their peak, never more.

        ``backend`` is whose peak is compared, see :meth:`peak_memory`. AttributeValueError if ``minimize`` is anything
        but "memory", or there is no such backend.

        >>> import tdagger as td
        >>> x = td.input("x", (100,))
        >>> a, b = td.exp(x), td.sin(x)
        >>> graph = td.Graph({"x": x}, {"y": td.reduce(a, "sum") + td.reduce(b, "sum")}, order=[a, b])
        >>> dag = TensorDAG(graph, {}, Signature(Tree("tuple"), Tree("leaf")))
        >>> dag.peak_memory(), dag.schedule().peak_memory()
        (804, 408)
        """
        if minimize != "memory":
            raise AttributeValueError(f'schedule: what can be minimized is "memory", not {minimize!r}')
        return self.with_graph(scheduled(self.graph, None if backend is None else backend_of(backend)))

    def peak_memory(self, backend: str | None = None) -> int:
        """The most bytes of activations alive at once, outputs included, weights, inputs and constants apart.

        Without a backend each op's results are as large as their types say, and kernels need nothing besides
        (``cost().peak_bytes``). ``"numpy"`` is what :meth:`run` holds, where more ops are views; ``"torch-cpu"`` what
        torch's allocator gives the module of :meth:`to_torch`, with the scratch of its kernels (docs/memory.md).
        AttributeValueError if there is no such backend.
        """
        return peak(self.graph)[0] if backend is None else trace(self.graph, backend_of(backend)).peak_bytes

    def memory_plan(self, *, in_place: bool = True, alignment: int = ALIGNMENT) -> Plan:
        """A place for every activation in one block: ``plan.size``, ``plan.offsets[buffer]``, ``print(plan)``.

        ``in_place``: elementwise ops write over an argument that nobody needs any more. ``schedule()`` before
        often makes it smaller. AttributeValueError unless ``alignment`` is positive; in bytes, as all sizes.

        >>> import tdagger as td
        >>> x = td.input("x", (16,))
        >>> graph = td.Graph({"x": x}, {"y": td.reduce(td.exp(td.sin(x)), "sum")})
        >>> dag = TensorDAG(graph, {}, Signature(Tree("tuple"), Tree("leaf")))
        >>> print(dag.memory_plan())
                offset           size   first    last  op
                     0             64       1       2  sin f32[16]
                     0             64       2       3  exp f32[16]
                    64              4       3       4  reduce f32[1]
        3 buffers in 128 bytes, 1.882 of the peak 68; all: 132
        """
        return plan(self.graph, alignment, in_place=in_place)

    # How long it takes.

    def profile(self, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any) -> Profile:
        """Run the network with torch and measure every op: ``print(dag.profile())``, ``profile.bottlenecks(5)``.

        ``args`` and ``kwargs`` are tensors as the network takes them, or nothing for random ones. See
        :func:`tdagger.frameworks.torch.profiler.profile` for the options ``threads``, ``runs``, ``device``.
        """
        return importlib.import_module("tdagger.frameworks.torch.profiler").profile(self, args, kwargs, **options)

    def predict_time(self, device: Device | str | Path) -> Prediction:
        """How many seconds the network takes on a device: ``float(found)``, ``found.by_kind``, ``print(found)``.

        ``device`` is a device file (``tdagger calibrate`` writes one), the name of one that comes with tdagger
        (:func:`tdagger.analysis.timing.devices`), or a Device. No weights are read. ``found.notices`` say what the
        number isn't. SourceError if there is no such device.
        """
        return predict(self.graph, device_of(device), self.origins)

    # What it costs, as formulas.

    def cost_formula(self, what: str, unit: Unit = "bytes", *, assume: bool = False) -> CostFunction:
        """A cost as a function of the free axes: ``f = dag.cost_formula("flops"); f(b=8, s=4096)``.

        ``what`` is flops, bytes, reads or writes, ``unit`` that of reads and writes. Sizes not given are the
        network's; AxisError says which axes are free, or which sizes it can't have and why. Free are those of which the
        source, asked at two other sizes, gives what costs as much as the graph says; without a source those that the
        graph leaves no doubt of. ``assume`` takes the graph at its word, and asks nobody. ``f.expression`` is the
        formula in sympy.
        """
        in_elements = {"reads": "elements read", "writes": "elements written"}
        kind = in_elements.get(what, what) if unit == "elements" else what
        if assume:
            return CostFunction(self._costs, kind)
        return CostFunction(self._certain_costs, kind, self._doubtful)

    @cached_property
    def _costs(self) -> Costs:
        return costs_of(self.graph, self.axes()) if self.axis_names else self.graph.costs

    @cached_property
    def _certain_costs(self) -> Costs:
        """The formulas in the axes that are certain."""
        return costs_of(self.graph, self.axes(), frozenset(self._doubtful)) if self._doubtful else self._costs

    @cached_property
    def _doubtful(self) -> dict[str, str]:
        """The axes that no formula is certain of, and why."""
        found = self._certainty
        other = "its source does with other sizes what the graph doesn't say: dag.resize(...) asks it, and counts"
        why = dict.fromkeys(found.resizable.free, other) | found.resizable.unknown | found.resizable.fixed
        return {n: w for n, w in why.items() if n not in found.counted}

    # Its axes removed, added and resized.

    def unbatch(
        self,
        name: str | None = None,
        *,
        input: str | None = None,
        axis: int | None = None,
        assume_size_one: bool = False,
    ) -> TensorDAG:
        """The network without an axis: every op loses it, and every value that carried it one dimension.

        The axis is named (``"b"`` unless told), or the dimension ``axis`` of an input. It can go if it is only carried;
        AxisError names every op that sums over it, slices it, windows it or indexes it. ``assume_size_one`` takes
        an entry of an axis of size 1 for the whole axis: ``x[0]`` of a batch of one is the batch.
        """
        named = self._named(assume_size_one)
        term = networks.term_of(named, name or ("b" if input is None else None), input, axis)
        return self.with_graph(*networks.without(named, term, self.origins))

    def batch(self, size: int, axis: int = 0, inputs: Sequence[str] | None = None) -> TensorDAG:
        """The network with a new dimension of ``size`` at ``axis``, as vmap does.

        The inputs named (all unless told) get it, and all that depends on them; every entry is computed for itself.
        """
        return self.with_graph(*networks.with_batch(self.axes().axes, size, axis, inputs, self.origins))

    def resize(
        self,
        shapes: Mapping[str, Sequence[int] | int] | None = None,
        /,
        *,
        source: Any = None,
        assume: bool = False,
        **sizes: int,
    ) -> TensorDAG:
        """The network at other sizes: ``dag.resize(b=8, h=320, w=320)``, or ``dag.resize({"x": (8, 3, 320, 320)})``.

        Every attribute that holds a size is made anew, and constants that are equal or count on along an axis. Then
        the source is asked, the model it was imported from or the one given as ``source``: it is captured again at
        these sizes, and where that isn't the same network node for node, the source's is given. Without a source
        what the graph leaves open is refused; ``assume`` takes the graph at its word, and asks nobody.

        AxisError names the parameter, constant or op that can't follow, or what isn't known of it, and the axes that
        can be resized.
        """
        asked = {**(shapes or {}), **sizes}
        by = self._asked(source)
        found = certain.resized(self.axes(), asked, self.origins, by, assume, self.confirmed, given=source is not None)
        new = self.with_graph(found.graph, found.origins) if found.network is None else self._as_in(found.network)
        return replace(new, source=by, certain_dimensions=self.certain_dimensions)

    def certain(self, source: Any = None) -> TensorDAG:
        """The network with its :attr:`confirmed` axes, which stay free without the source.

        Confirmed are those of which the source gave, at two other sizes, what the graph says. It is captured twice,
        more often only where it gave something else.
        """
        found = self._certainty if source is None else self._certainty_by(source)
        dimensions = certain.dimensions(self.axes(), found.confirmed)
        new = replace(self, certain_dimensions=dimensions)
        new.__dict__["_certainty"] = found
        return new

    @property
    def confirmed(self) -> frozenset[str]:
        """The names of axes of the inputs of which the source gave what the graph says; see :meth:`certain`."""
        return certain.confirmed(self.axes(), self.certain_dimensions)

    def _asked(self, source: Any) -> certain.Source | None:
        """Who is asked of other sizes: the model given, as a source with this network's inputs, or its own source."""
        if source is None:
            return self.source
        return importlib.import_module("tdagger.frameworks.torch.again").source_of(source, self.graph, self.signature)

    def _as_in(self, network: TensorDAG) -> TensorDAG:
        """Another network that the source gave, with this one's weights; AxisError if they don't fit."""
        needed = {**network.graph.parameters, **network.graph.buffers}
        own = {n: w.type for n, w in self.state.items()}
        for name, value in needed.items():
            if own.get(name) != value.type:
                raise AxisError(f"at these sizes the source has {name!r} as {value.type}, here it is {own.get(name)}")
        names = {n: p for n, p in self.axis_names.items() if _still_fits(self, network.graph, n, p)}
        return replace(network, weights=self.weights, state=self.state, name=self.name, axis_names=names)

    def resizable_axes(self, source: Any = None) -> networks.Resizable:
        """The named axes of the inputs that can have other sizes, why others can't, and of which that isn't known.

        Each is tried. The source, if there is one, is asked at two points where all have other sizes; without one,
        ``unknown`` has the axes of which the graph leaves open what the source would do.
        """
        return (self._certainty if source is None else self._certainty_by(source)).resizable

    def _certainty_by(self, source: Any) -> certain.Certainty:
        return certain.certainty(self.axes(), self.origins, self._asked(source), self.confirmed)

    @cached_property
    def _certainty(self) -> certain.Certainty:
        return self._certainty_by(None)

    def _named(self, assume_size_one: bool) -> NamedAxes:
        if not assume_size_one:
            return self.axes()
        return NamedAxes(Axes(self.graph, assume_size_one=True), self.axis_names, self.origins)

    def with_graph(self, graph: Graph, origins: Mapping[Value, Origin] | None = None) -> TensorDAG:
        """The same weights with another graph."""
        new = replace(self, graph=graph, origins=self.origins if origins is None else origins, source=None)
        new = replace(new, certain_dimensions=frozenset[tuple[str, int]]())
        return replace(new, axis_names={n: p for n, p in self.axis_names.items() if _still_fits(self, graph, n, p)})

    # Axes.

    def axes(self, names: Given = None) -> NamedAxes:
        """Every dimension of every value as a term over named axes: ``dag.axes().show(value)`` is ``f32[b (h d) s]``.

        ``names`` are names for the dimensions of inputs, as einops writes them: ``"b c h w"`` for the only input,
        ``{"x": "b c h w", "mask": "b _"}`` for some; ``(h d)`` for what is a product, ``_`` and ``...`` for what
        has no name, 1 for a dimension of size 1. They come before those given on import. AxisError says what
        does not fit. Found once for the same names.
        """
        key = names if names is None or isinstance(names, str) else tuple(sorted(names.items()))
        found = self._axes.get(key)
        if found is None:
            given = names if isinstance(names, str) else {**self.axis_names, **(names or {})}
            found = self._axes[key] = NamedAxes(Axes(self.graph), given, self.origins)
        return found

    @cached_property
    def _axes(self) -> dict[Any, NamedAxes]:
        return {}

    def with_axes(self, names: Given) -> TensorDAG:
        """The same network with names for the dimensions of its inputs; see :meth:`axes`."""
        if not names:
            return self
        self.axes(names)
        given = {next(iter(self.graph.inputs)): names} if isinstance(names, str) else dict(names or {})
        return replace(self, axis_names={**self.axis_names, **given})

    def rank_report(self) -> RankReport:
        """The largest rank and where, and which values have left-over dimensions of size 1, and where."""
        return rank_report(self.graph, self.origins)

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
    def from_torch(*args: Any, axes: Given = None, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_torch`."""
        return _importer("torch").from_torch(*args, **options).with_axes(axes)

    @staticmethod
    def from_torchscript(*args: Any, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_torchscript`."""
        return _importer("torch").from_torchscript(*args, **options)


def _of_parts(
    graph: Graph,
    weights: Mapping[str, Array],
    places: list[tuple[int, Origin]],
    signature: Signature,
    state: dict[str, Weight],
    modules: dict[str, str],
    name: str,
    axis_names: dict[str, str],
    certain_dimensions: frozenset[tuple[str, int]],
    checks: _Kept,
) -> TensorDAG:
    """The network that :meth:`TensorDAG.__reduce__` took apart."""
    values = graph.values
    origins = {values[i]: origin for i, origin in places}
    found = TensorDAG(graph, weights, signature, state, origins, modules, name, axis_names, checks=checks.held)
    return replace(found, certain_dimensions=certain_dimensions)


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic)


def _still_fits(dag: TensorDAG, graph: Graph, name: str, pattern: str) -> bool:
    """Whether names of an input's dimensions are still right with another graph."""
    before, now = dag.graph.inputs[name], graph.inputs.get(name)
    return now is before or (now is not None and now.rank == before.rank and "1" not in pattern.split())


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
