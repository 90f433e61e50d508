"""TensorDAG: a graph, its weights, and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.doubts import LeftOut, with_left_out
from tdagger.analysis.axes.names import Given, NamedAxes
from tdagger.analysis.axes.ranks import RankReport, rank_report
from tdagger.analysis.cost.backward import backward as gradients
from tdagger.analysis.cost.backward import has_gradient, leaves, results
from tdagger.analysis.cost.report import Cost, cost_of
from tdagger.analysis.execution.backends import backend_of
from tdagger.analysis.execution.tracing import trace
from tdagger.analysis.formulas.formula import CostFunction, Costs, costs_of
from tdagger.analysis.memory.activations import peak
from tdagger.analysis.memory.plan import ALIGNMENT, Plan, plan
from tdagger.analysis.memory.schedule import scheduled
from tdagger.analysis.time.profile import Profile
from tdagger.analysis.time.timing import Device, Prediction, device_of, predict
from tdagger.errors import AttributeValueError, AxisError, GraphError, InputError, TDaggerError
from tdagger.graph import Graph, Unit, flops, op_counts
from tdagger.interpret import run
from tdagger.later import later
from tdagger.names import shown
from tdagger.network import Check, Origin, Signature, Weight, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Leaf, Parameter
from tdagger.transform import networks, surgery
from tdagger.transform.axes import candidates as openness
from tdagger.transform.axes import certain, sources
from tdagger.transform.axes.asking import Asking
from tdagger.transform.axes.points import elsewhere
from tdagger.transform.partition import Partition, partition
from tdagger.transform.passes import decompose, optimized
from tdagger.transform.raising import Lifted, raised
from tdagger.transform.rewrite import Match, Report, Rule, applied, found
from tdagger.tree import aligned, flatten
from tdagger.types import TensorType
from tdagger.view import text
from tdagger.view.views import View


@dataclass(frozen=True, eq=False)
class TensorDAG:
    """A network: a graph and the data of its parameters and buffers.

    ``weights`` maps names to arrays and may be lazy; ``state`` lists every tensor of the source's state (also
    those the graph doesn't use); ``origins`` tells where values came from; ``modules`` maps module paths to class
    names; ``axis_names`` has names for the dimensions of inputs (``{"x": "b c h w"}``). ``source`` is what can be
    imported again with inputs of other shapes, ``certain_dimensions`` those of inputs, by name and number, of which it
    was asked (:meth:`certain`), ``left_out`` calls that do nothing at these sizes and may at others. ``checks`` is what
    the source asserts of its data, which only ``to_torch(checks=True)`` asks. ``rows``: it comes from a file that fixes
    the sizes another program had; of an axis that is only carried other sizes mean as many rows, each computed alike.
    Make one with :func:`tdagger.from_torch` and its like.
    """

    graph: Graph
    weights: Mapping[str, Array]
    signature: Signature
    state: Mapping[str, Weight] = field(default_factory=dict[str, Weight])
    origins: Mapping[Value, Origin] = field(default_factory=dict[Value, Origin])
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = "network"
    axis_names: Mapping[str, str] = field(default_factory=dict[str, str])
    source: sources.Source | None = field(default=None, repr=False)
    certain_dimensions: frozenset[tuple[str, int]] = frozenset()
    checks: Sequence[Check] = ()
    left_out: Sequence[LeftOut] = ()
    rows: bool = False

    def __reduce__(self) -> Any:
        """Pickled and copied in the form of a file, with the origins of the graph's own values, without the source."""
        return (_of_parts, later("pickled")(self))

    @staticmethod
    def of_graph(graph: Graph, weights: Mapping[str, Array] | None = None) -> TensorDAG:
        """A network of a graph: its inputs by place, its outputs as a tensor or a tuple.

        >>> import tdagger as td
        >>> x = td.input("x", (2,))
        >>> TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.exp(x)})).run(np.zeros(2, "f"))
        array([1., 1.], dtype=float32)
        """
        return TensorDAG(graph, dict(weights or {}), plain_signature(len(graph.inputs), len(graph.outputs)))

    # Running and looking.

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Execute with numpy only; takes and returns arrays, nested as the source network's tensors were.

        InputError if the arguments don't have the structure, shapes and element types of the signature.
        """
        out, _ = run(self.graph, self.bind(args, kwargs), self.weights)
        return self.signature.outputs.unflatten(list(out.values()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives on values, inside of a function that becomes a program: see :func:`tdagger.program`.

        Its weights, and the buffers that it changes, become those of the program. GraphError anywhere else.
        """
        return later("called")(self, args, kwargs)

    def bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], is_leaf: Callable[[Any], bool] | None = None
    ) -> dict[str, Any]:
        """The arrays of a call by the names of the inputs; InputError as for :meth:`run`.

        ``is_leaf`` says what a tensor is, where they aren't arrays.
        """
        leaves = self._leaves(args, kwargs, is_leaf or _is_array)
        return dict(zip(self.graph.inputs, leaves if is_leaf else map(np.asarray, leaves), strict=True))

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any], is_leaf: Callable[[Any], bool]) -> list[Any]:
        """The arrays of a call in the order of the inputs; keyword arguments and entries of dicts go by their names."""
        leaves, tree = flatten((args, kwargs), is_leaf)
        wanted = self.signature.inputs
        if tree == wanted:
            return leaves
        names = list(self.graph.inputs)
        if len(leaves) != len(names):
            expected = ", ".join(f"{shown(n)}: {v.type}" for n, v in self.graph.inputs.items())
            raise InputError(f"{shown(self.name)} takes the arrays ({expected}), got {len(leaves)} arrays")
        if kwargs and not args and all(map(is_leaf, kwargs.values())) and set(kwargs) == set(names):
            return [kwargs[n] for n in names]  # also those that the source takes by position
        if len(wanted.children) != 2 or (not kwargs and all(map(is_leaf, args))):
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

    def view(
        self,
        other: TensorDAG | None = None,
        *,
        open: str | Sequence[str] = (),
        depth: int | None = None,
        device: Device | str | Path | None = None,
        profile: Profile | None = None,
        histograms: bool = False,
        formulas: bool = True,
        weights: bool = True,
    ) -> View:
        """A picture of the network, folded by modules or, without any, by structure; of two, what differs.

        A notebook shows it; ``view.save("net.html")`` writes a page, and as well .svg, .png, .mmd, .dot and .json.
        For what the options do see :class:`tdagger.view.views.View`; ``profile`` is what :meth:`profile` gave. With an
        ``other`` network this one is A and that one is B, matched by structure and names; ``weights=False`` leaves
        their weights unread, and unsaid whether the numbers in them are the same.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(td.sin(x)), {"x": (2, 3)})
        >>> [item["text"] for item in dag.view().document["bodies"][0]["items"]]
        ['sin(in0)', 'exp(%0)']
        """
        networks = [self] if other is None else [self, other]
        return View(
            networks,
            open=open,
            depth=depth,
            device=device,
            profiles=[profile] if profile is not None else [],
            histograms=histograms,
            formulas=formulas,
            weights=weights,
        )

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
        >>> from tdagger.tree import Tree
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
        >>> dag = td.network(lambda x: td.reduce(td.exp(td.sin(x)), "sum"), {"x": (16,)})
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
        :func:`tdagger.frameworks.torch.measure.profiler.profile` for the options ``threads``, ``runs``, ``device``.
        """
        return later("torch.profile")(self, args, kwargs, **options)

    def predict_time(self, device: Device | str | Path) -> Prediction:
        """How many seconds the network takes on a device: ``float(found)``, ``found.by_kind``, ``print(found)``.

        ``device`` is a device file (``tdagger calibrate`` writes one), the name of one that comes with tdagger
        (:func:`tdagger.analysis.time.timing.devices`), or a Device. No weights are read. ``found.notices`` say what the
        number isn't. SourceError if there is no such device.
        """
        return predict(self.graph, device_of(device), self.origins)

    # Pruning: see tdagger.prune.

    def prunable(self) -> Any:
        """What can be pruned: ``found.groups`` of units that go alone or together, ``found.stopped`` and why.

        A unit is all that can only go at once: entries of dimensions of parameters, found from the core ops. A group
        has a name, a size (in units), its ``members`` (parameter, dimension, which entries), what a unit frees
        (``flops``, ``parameters``, ``bytes``), and ``exact``: whether removing is the same as making weights zero, or
        ``why`` not. No weights are read. ``print(found)`` lists all. A :class:`tdagger.prune.finding.groups.Prunable`.

        >>> import tdagger as td
        >>> w, v = td.parameter("a.weight", (8, 3)), td.parameter("b.weight", (4, 8))
        >>> x = td.input("x", (2, 3))
        >>> dag = TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(td.relu(td.linear(x, w)), v)}))
        >>> print(dag.prunable()["a"])
        a: 8 units in a.weight[0], b.weight[1] (exact)
        """
        return self._prunable

    @cached_property
    def _prunable(self) -> Any:
        return later("prunable")(self)

    def prune_plan(self, **how: Any) -> Any:
        """What :meth:`prune` would remove, before anything is made: a :class:`tdagger.prune.plan.PrunePlan`.

        ``print(plan)`` is a table; ``plan.before`` and ``plan.after`` have flops, parameters and bytes;
        ``plan.check()`` proves it in double precision; ``plan.apply()`` is the smaller network.
        """
        return later("prune_plan")(self, **how)

    def prune(self, **how: Any) -> TensorDAG:
        """A smaller network: without the units that matter least, as many as a target needs.

        One target: ``flops``, ``params``, ``bytes`` or ``time`` (with ``device``) that are left, as a part (0.5, "50%")
        or a number ("2G", "3 ms"); ``ratio``, the part of units that goes of every group (or of those that names, with
        wildcards, are mapped to); or ``entries``, the units that go by the group's name.

        ``importance`` is l1, l2, lamp, fpgm, scale, random, or a function of a group
        (:mod:`tdagger.prune.importance`: Taylor and OBD from gradients). ``global_`` compares groups with each other:
        the part of its group that a unit is over what it frees of the target's cost, or with ``normalise`` (mean, max,
        sum, none) its importance over the group's, whatever it frees; otherwise all lose the same part.
        ``multiple_of`` entries stay in every dimension, ``least`` units (or a part below 1) in every group. ``keep``
        names groups, or parameters and modules that stay as they are, ``only`` those that alone may lose units (of a
        module, the groups it makes); with wildcards. ``inexact``: which groups may go where zeros
        aren't the same as nothing: none, norms (those that only a norm counts), all. ``keep_numbers`` leaves numbers
        made of sizes (the count of a mean) as they were also in norms, which then are no layers any more. With
        ``constants`` what goes counts as zero ("zero"), or as the constant that it is without inputs ("fold"), which is
        added to the biases of what takes it.

        AttributeValueError where a target can't be met, and what is in the way; InputError where an importance needs
        weights that aren't there.

        >>> import numpy as np, tdagger as td
        >>> w, v = td.parameter("a.weight", (8, 3)), td.parameter("b.weight", (4, 8))
        >>> x = td.input("x", (2, 3))
        >>> weights = {"a.weight": np.ones((8, 3), "f"), "b.weight": np.ones((4, 8), "f")}
        >>> dag = TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(td.relu(td.linear(x, w)), v)}), weights)
        >>> small = dag.prune(params=0.5)
        >>> small.graph.parameters["a.weight"].type, small.weights["b.weight"].shape
        (f32[4 3], (4, 4))
        """
        return self.prune_plan(**how).apply()

    def learned_masks(self, **options: Any) -> Any:
        """A torch module of the network with a trainable gate for every unit of :meth:`prunable`'s groups.

        It is called as the network is; train ``learned.parameters()`` in a loop of your own: the network's weights and
        ``learned.logits``. ``learned.penalty(flops=0.5)`` is added to the loss (also ``params``, ``bytes``),
        ``learned.advance()`` follows each step, and ``learned.plan()`` is the :class:`tdagger.prune.plan.PrunePlan`
        of what was learned: docs/pruning-learned.md.

        ``gates``: "hard_concrete" (drawn between 0 and 1, mostly exactly one of them) or "straight_through" (drawn 0 or
        1, with the gradient of what lies between). ``start``: how likely a unit is there at first, and ``importance``
        (as of :meth:`prune`) which are likelier than others. ``multiple_of``
        entries stay in every dimension: as many neighbours share a gate. ``schedule``: a dict or a
        :class:`tdagger.frameworks.torch.prune.masks.Schedule` of warm-up, ramp and temperature. ``seed`` makes gates
        drawn the same each time. ``inexact`` is "none" here: where a norm counts the units of a group, the network
        with zeros isn't the pruned one, so such groups have gates only with "norms" (or "all"), and the plan says why.
        ``least``, ``keep``, ``only``: see :meth:`prune`. ``branches``: whether :meth:`branches` have a gate each too,
        which is 0 or 1. ``device``: what ``learned.penalty(time=0.5)`` is predicted for. AttributeValueError if nothing
        may go, InputError for parameters without data.

        >>> import torch, tdagger as td
        >>> dag = td.layers.linear(4, 8).rename({"": "a"}) >> td.layers.linear(8, 3).rename({"": "b"})
        >>> learned = dag.learned_masks(seed=0)
        >>> learned(torch.ones(1, 4)).shape, round(float(learned.expected("params").detach()), 3)
        (torch.Size([1, 3]), 0.904)
        """
        return later("torch.learned_masks")(self, **options)

    def learned_ranks(self, **options: Any) -> Any:
        """A torch module of the network with a trainable gate for every singular value of its layers.

        Linear layers and convolutions are two of full rank in it (of ``data``, as in :meth:`low_rank`; ``keep`` and
        ``only`` name those that stay or alone are). It is trained as :meth:`learned_masks` is, and takes ``gates``,
        ``start``, ``schedule`` and ``seed`` as that does; ``learned.penalty(flops=0.5)`` is over the cost of this
        network, and ``learned.low_rank()`` (or ``low_rank(flops=0.5)``) the network that comes of it, in which a layer
        whose rank saves nothing is one again.
        """
        return later("torch.learned_ranks")(self, **options)

    def low_rank(self, **how: Any) -> TensorDAG:
        """The network with linear layers and convolutions as two of less rank, where that costs less.

        One target: ``flops`` or ``params`` that are left, as a part (0.5) or a number: ranks are chosen over all
        layers, by the part of its squared singular values that each keeps; ``rank`` of every layer, a number, a part
        of the full one, or those of weights or modules by name, with wildcards; ``energy``, the part of squares to
        keep in every layer. ``data``: what :meth:`measure` gave with ``products=True``; what is kept is then nearest
        on that data.
        ``keep`` and ``only`` name weights or modules. ``fc`` becomes ``fc.0`` and ``fc.1``; weights that several
        layers use and convolutions of several groups stay. AttributeValueError where a target can't be met, InputError
        for weights without data, with which ``rank`` alone can be asked.

        >>> import tdagger as td
        >>> small = td.layers.linear(64, 64).rename({"": "fc"}).low_rank(rank=8)
        >>> {n: list(w.shape) for n, w in small.weights.items()}
        {'fc.0.weight': [8, 64], 'fc.1.weight': [64, 8], 'fc.1.bias': [64]}
        """
        return later("low_rank")(self, **how)

    def measure(self, batches: Iterable[Any], *, products: bool = False) -> Any:
        """What data does to the network: :class:`tdagger.prune.statistics.Statistics`, for what prunes by it.

        A batch is what the network takes: a torch tensor, a tuple of arguments or a dict of them by name, of the
        example's shapes. Measured are the mean squares of the inputs of layers with weights
        (:func:`tdagger.prune.statistics.wanda`, ``activations``), with ``products`` the means of their products
        (:meth:`low_rank`), and how alike the in- and outputs of :meth:`blocks` are. No value is kept longer than the
        network needs it. InputError if there are no batches.

        >>> import torch, tdagger as td
        >>> dag = td.layers.linear(2, 3)
        >>> dag.measure([torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])]).layers["weight"].squares
        array([1., 2.])
        """
        return later("torch.measure")(self, batches, products)

    def gradients(self, batches: Iterable[Any], loss: Any, *, squared: bool = False) -> dict[str, Array]:
        """The mean gradient of a loss by the name of the parameter, over batches ``(input, target)``.

        For the importances :func:`tdagger.prune.importance.taylor` and, ``squared``, ``obd``. See
        :func:`tdagger.frameworks.torch.prune.data.gradients`.
        """
        return later("torch.gradients")(self, batches, loss, squared)

    def blocks(self) -> list[Any]:
        """The numbered modules that can be left out: each has a ``path``, and an ``input`` and ``output`` of one type.

        See :func:`tdagger.prune.methods.depth.blocks`.
        """
        return later("blocks")(self)

    def without_blocks(self, *paths: str) -> TensorDAG:
        """The network in which some of its :meth:`blocks` give what they take: ``dag.without_blocks("layers.3")``.

        ``dag.measure(batches).least_needed(2)`` names those that change least. Outputs that a block alone computes (the
        keys and values of its cache) go with it; inputs that only it read are still taken. GraphError for what is no
        block.
        """
        return later("without_blocks")(self, *paths)

    def branches(self) -> list[Any]:
        """The residual branches: what is added to something it is made of, with a ``name`` and its ``parameters``.

        See :func:`tdagger.prune.methods.branches.branches`.
        """
        return later("branches")(self)

    def without_branches(self, *names: str) -> TensorDAG:
        """The network in which some of its :meth:`branches` add nothing. GraphError for what is no branch."""
        return later("without_branches")(self, *names)

    def with_vocabulary(self, keep: Sequence[int], *tables: str) -> TensorDAG:
        """The network for fewer tokens: those rows of the embedding, and those classes of what is tied to it.

        ``keep`` are the numbers of tokens in rising order; token ``keep[i]`` becomes ``i``, in inputs and outputs,
        which is the caller's to do. ``tables`` name the parameters whose rows go; without them it is the one that an
        input chooses rows of, and with them also a head with weights of its own: ``"embed.weight", "head.weight"``.
        GraphError where something else reads the numbers of tokens, or takes a row that would go by its number.
        """
        return later("with_vocabulary")(self, keep, *tables)

    # What it costs, as formulas.

    def cost_formula(self, what: str, unit: Unit = "bytes", *, assume: bool = False) -> CostFunction:
        """A cost as a function of the free axes: ``f = dag.cost_formula("flops"); f(b=8, s=4096)``.

        ``what`` is flops, bytes, reads or writes, ``unit`` that of reads and writes. Sizes not given are the
        network's; AxisError says which axes are free, or which sizes it can't have and why. Free are those of which the
        source, asked at two other sizes, gives what costs as much as the graph says; without a source those that the
        graph leaves no doubt of. Where an axis has fewer entries than here, what :meth:`resize` gives is counted, once.
        ``assume`` takes the graph at its word, and asks nobody. ``f.expression`` is the formula in sympy.
        """
        in_elements = {"reads": "elements read", "writes": "elements written"}
        kind = in_elements.get(what, what) if unit == "elements" else what
        if assume:
            return CostFunction(self._costs, kind)
        return CostFunction(self._certain_costs, kind, self._doubtful)

    @cached_property
    def _costs(self) -> Costs:
        return costs_of(self.graph, self.axes(), resized=lambda shapes: self.resize(shapes, assume=True).graph)

    @cached_property
    def _certain_costs(self) -> Costs:
        """The formulas in the axes that are certain."""
        if self.source is None:
            left_out = frozenset(self._doubtful)
            return costs_of(self.graph, self.axes(), left_out, self._costs.resized) if left_out else self._costs
        return costs_of(self.graph, self.axes(), frozenset(self._doubtful), lambda shapes: self.resize(shapes).graph)

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
        these sizes, and where that isn't the same network, wherever it repeats entries, the source's is given. Without
        a source what the graph leaves open is refused; ``assume`` takes the graph at its word, and asks nobody.

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
        """The names of axes of the inputs of which the source gave what the graph says; see :meth:`certain`.

        Of files with :attr:`rows` also those that nothing but carries.
        """
        found = certain.confirmed(self.axes(), self.certain_dimensions)
        return found | self._carried if self.rows else found

    @cached_property
    def _carried(self) -> frozenset[str]:
        return certain.carried(self.axes())

    def _asked(self, source: Any) -> sources.Source | None:
        """Who is asked of other sizes: the model given, as a source with this network's inputs, or its own source."""
        if source is None:
            return self.source
        return later("torch.source_of")(source, self.graph, self.signature)

    def _as_in(self, network: TensorDAG) -> TensorDAG:
        """Another network that the source gave, with this one's weights; AxisError if they don't fit."""
        needed = {**network.graph.parameters, **network.graph.buffers}
        own = {n: w.type for n, w in self.state.items()}
        for name, value in needed.items():
            if own.get(name) != value.type:
                raise AxisError(f"at these sizes the source has {name!r} as {value.type}, here it is {own.get(name)}")
        names = {n: p for n, p in self.axis_names.items() if _still_fits(self, network.graph, n, p)}
        return replace(network, weights=self.weights, state=self.state, name=self.name, axis_names=names)

    def _with_source(self, change: Callable[[TensorDAG], TensorDAG], merges: bool = False) -> TensorDAG:
        """The network after a change, which its source, if it has one, is asked with at other sizes.

        ``merges`` says that it makes weights of weights and numbers.
        """
        new = change(self)
        if self.source is None:
            return new
        return replace(new, source=sources.Changed(self.source, change, new if merges else None))

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
        """The same weights with another graph; checks of the data are of its inputs, or without a value."""
        checks = [networks.check_on(graph, c) for c in self.checks]
        found = self.origins if origins is None else origins
        new = replace(self, graph=graph, origins=found, source=None, checks=checks)
        new = replace(new, certain_dimensions=frozenset[tuple[str, int]]())
        return replace(new, axis_names={n: p for n, p in self.axis_names.items() if _still_fits(self, graph, n, p)})

    # Rules.

    @overload
    def rewrite(
        self, rules: Iterable[Rule] | Rule, *, weights: bool = False, report: Literal[False] = False
    ) -> TensorDAG: ...
    @overload
    def rewrite(
        self, rules: Iterable[Rule] | Rule, *, weights: bool = False, report: Literal[True]
    ) -> tuple[TensorDAG, Report]: ...
    def rewrite(
        self, rules: Iterable[Rule] | Rule, *, weights: bool = False, report: bool = False
    ) -> TensorDAG | tuple[TensorDAG, Report]:
        """The network with rules applied until none applies; with ``report`` also what was applied where.

        Make rules with :func:`tdagger.rule` (docs/rewriting.md). What a rule makes comes from where the value came from
        that it stands for. ``weights`` lets rules see the weights' values. GraphError names rules that undo each other.

        >>> import tdagger as td
        >>> @td.rule
        ... def relu(x): return td.relu(x)
        >>> @relu.to
        ... def _(x): return td.gelu(x)
        >>> dag, report = td.network(lambda x: td.relu(x), {"x": (2,)}).rewrite(relu, report=True)
        >>> dag.values[-1].op, len(report)
        (gelu, 1)
        """
        dag, done = applied(self, rules, self.weights if weights else None, self.axes)
        return (dag, done) if report else dag

    def roll(self, least: int = 2) -> Any:
        """A program in which blocks that follow each other and differ in their weights alone are one in a loop.

        They are found by structure; there must be ``least`` of them at least. Their weights are stacked along a first
        axis, ``layers.0.fc.weight`` and those like it as ``layers.all.fc.weight``, when they are asked for. GraphError
        if there are no such blocks, or buffers change. :meth:`Program.unroll` is the way back.

        >>> import tdagger as td
        >>> weights = {f"{i}.w": np.full((2, 2), i + 1.0, "f") for i in range(3)}
        >>> def layers(x, **weights):
        ...     for w in weights.values():
        ...         x = td.linear(td.exp(x), w)
        ...     return x
        >>> program = td.network(layers, {"x": (1, 2)}, weights).roll()
        >>> program, list(program.state)
        (<Program network: 4 blocks, 4 slots>, ['all.w'])
        """
        return later("rolled")(self, least)

    def optimize(self, free: Iterable[str] = ()) -> TensorDAG:
        """The network made faster for inference: what depends on no input worked out, layers merged, identities gone.

        Outputs stay the same up to rounding. Weights keep their names where they survive; training doesn't bring back
        what was merged (batch norm, dropout). Masks and positions are worked out for the sizes that the network has,
        but for the axes of inputs in ``free`` (AxisError for one that can't have other sizes). It is
        ``td.Pipeline(passes.DEFAULT)`` (docs/rewriting.md).

        >>> import tdagger as td
        >>> td.network(lambda x: td.neg(td.neg(x)) * 1.0, {"x": (2,)}).optimize().graph.outputs["out"]
        <input x() -> f32[2]>
        """
        dimensions = certain.dimensions_of(self.axes(), free) if free else ()
        return self._with_source(lambda dag: optimized(dag, dimensions), merges=True)

    def inline(self, *names: str, keep: Sequence[str] | None = None, deep: bool = False) -> TensorDAG:
        """The network with bodies in the place of composites: of those named, of all, or of all but those to ``keep``.

        Gradients at a kink (relu at 0, clamp at a limit) are those of the formula until :meth:`raise_` finds it again.
        See :func:`tdagger.transform.passes.decompose`.
        """
        return self._with_source(lambda dag: decompose(dag, *names, keep=keep, deep=deep))

    @overload
    def raise_(self, *, exact: bool = False, report: Literal[False] = False) -> TensorDAG: ...
    @overload
    def raise_(self, *, exact: bool = False, report: Literal[True]) -> tuple[TensorDAG, Lifted]: ...
    def raise_(self, *, exact: bool = False, report: bool = False) -> TensorDAG | tuple[TensorDAG, Lifted]:
        """The network with composites where their bodies are found, the inverse of :meth:`inline`.

        Unless ``exact``, also where they are written out in the ways people do (``tdagger.transform.idioms``), which
        may round otherwise (and attention to no key is 0, not NaN). With ``report`` also what was found and which core
        ops are left.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.gelu(td.softmax(x, axis=1)), {"x": (2, 3)})
        >>> dag.inline().raise_().graph == dag.graph
        True
        """
        return raised(self, exact) if report else self._with_source(lambda dag: raised(dag, exact)[0])

    def find(self, rule: Rule) -> list[Match]:
        """Every place where a rule's pattern matches: ``match.root`` and ``match.found["x"]``, in order.

        >>> import tdagger as td
        >>> @td.rule
        ... def squares(x): return x * x
        >>> [m.found for m in td.network(lambda x: x * x, {"x": (2,)}).find(squares)]
        [{'x': <input x() -> f32[2]>}]
        """
        return found(self.graph, rule, self.weights)

    # Surgery: see docs/surgery.md. ``what`` is the name of an op or its function ("relu", td.relu), a class of op, a
    # value, a predicate of values, or several of these; ``by`` a function of values, a graph, a network or a torch
    # module.

    def replace(self, what: Any, by: Any, within: str = "") -> TensorDAG:
        """Every op that is meant replaced: ``dag.replace(td.relu, td.gelu)``, in module ``within`` only if told.

        ``by`` gets the op's arguments, and those of its attributes that it takes by name. What comes after takes what
        it gives, or TypeMismatchError says both types and both places. GraphError if there is no such op.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.relu(x), {"x": (2, 3)})
        >>> dag.replace(td.relu, td.gelu).graph.outputs["out"]
        <gelu(f32[2 3]) -> f32[2 3]>
        """
        return surgery.replace(self, what, by, within, _of_module)

    def remove(self, what: Any, within: str = "") -> TensorDAG:
        """Every op that is meant left out: its one argument of the same type stands for it, or GraphError says why not.

        >>> import tdagger as td
        >>> td.network(lambda x: td.exp(td.relu(x)), {"x": (2, 3)}).remove("relu").graph.outputs["out"]
        <exp(f32[2 3]) -> f32[2 3]>
        """
        return surgery.remove(self, what, within)

    def insert_after(self, what: Any, by: Any, unless: Any = None, name: str = "", within: str = "") -> TensorDAG:
        """What ``by`` makes put after every op that is meant, ``unless`` one of its users is such an op.

        ``dag.insert_after(td.convolution, td.layers.batch_norm, unless=td.batch_norm)``. New weights are called after
        the module of the op and ``name``, that of ``by`` unless told: ``conv1_batch_norm.weight``.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(x), {"x": (2, 3)})
        >>> list(dag.insert_after(td.exp, td.layers.batch_norm).weights)
        ['batch_norm.weight', 'batch_norm.bias', 'batch_norm.running_mean', 'batch_norm.running_var']
        """
        return surgery.insert(self, what, by, unless, name, None, within, _of_module)

    def insert_before(
        self, what: Any, by: Any, unless: Any = None, name: str = "", within: str = "", argument: int = 0
    ) -> TensorDAG:
        """What ``by`` makes put before an argument of every op that is meant, ``unless`` it has such an op as one.

        >>> import tdagger as td
        >>> td.network(lambda x: td.exp(x), {"x": (2, 3)}).insert_before(td.exp, td.relu).graph.values[1]
        <relu(f32[2 3]) -> f32[2 3]>
        """
        return surgery.insert(self, what, by, unless, name, argument, within, _of_module)

    def replace_module(self, path: str, by: Any, inputs: Any = None, outputs: Any = None) -> TensorDAG:
        """What module ``path`` computes replaced, in all its calls; new weights are called ``path.weight`` and so on.

        ``inputs`` are the values that the new one takes, ``outputs`` those that its results stand for (see
        :meth:`with_outputs` for how they are named): what the module takes and gives, if that is one. GraphError names
        the paths most like an unknown one, and a cycle; TypeMismatchError says both types and both places.

        >>> import tdagger as td
        >>> dag = td.layers.linear(4, 8, batch=2) >> td.layers.linear(8, 3, batch=2).rename({"": "head"})
        >>> dag.replace_module("head", td.layers.linear(8, 5, batch=2)).graph.outputs["out"].type
        f32[2 5]
        """
        return surgery.replace_module(self, path, by, inputs, outputs, _of_module)

    def with_head(self, classes: int, how: Any = "torch", seed: int = 0, output: str = "") -> TensorDAG:
        """The last linear layer or convolution of an output (the first unless told) with ``classes`` new rows.

        ``how`` they begin: see :meth:`initialise`. A tied weight becomes one of the head's own.

        >>> import tdagger as td
        >>> td.layers.linear(4, 10, batch=2).with_head(3).graph.outputs["out"].type
        f32[2 3]
        """
        return surgery.with_head(self, classes, how, seed, output)

    def wrap(self, what: Any, name: str = "") -> TensorDAG:
        """A part as one composite called ``name``: what module path ``what`` computes in each call, or some values.

        Its weights are its arguments. GraphError names what would be a cycle: something between that isn't in the part.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(td.sin(x)), {"x": (3,)})
        >>> wrapped = dag.wrap([td.sin, td.exp], "wave")
        >>> td.op_counts(wrapped.values)["wave"], wrapped.unwrap("wave").graph == dag.graph
        (1, True)
        """
        return surgery.wrap(self, what, name)

    def unwrap(self, what: Any = "block", within: str = "") -> TensorDAG:
        """Composites that are meant replaced by their bodies, one level: those that :meth:`wrap` made unless told."""
        return surgery.unwrap(self, what, within)

    def with_outputs(self, *what: Any, **named: Any) -> TensorDAG:
        """The network that gives values besides: ``y, taps = dag.with_outputs("layer3").run(x)``, ``taps["layer3"]``.

        A value is named by the path of the module that gives it, its name where the network is printed (``%12``),
        itself, or by what says of ops (``td.softmax``, a predicate): of several the second is ``name_1``. ``name=``
        names it.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(td.sin(x)), {"x": (2,)})
        >>> y, taps = dag.with_outputs(sine=td.sin).run(np.zeros(2, "f"))
        >>> y, taps
        (array([1., 1.], dtype=float32), {'sine': array([0., 0.], dtype=float32)})
        """
        return surgery.with_outputs(self, list(what) if not named else {**named, **surgery.found(self, list(what))})

    def without_outputs(self, *names: str) -> TensorDAG:
        """The network without some outputs, and without weights that only they need; GraphError for names there aren't.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: (td.exp(x), td.sin(x)), {"x": (2,)})
        >>> list(dag.graph.outputs), list(dag.without_outputs("out.0").graph.outputs)
        (['out.0', 'out.1'], ['out.1'])
        """
        return surgery.without_outputs(self, *names)

    def extract(self, inputs: Any = None, outputs: Any = None) -> TensorDAG:
        """The part from some values on to others, with only the weights it needs: ``dag.extract("layer1", "layer3")``.

        Values are named as in :meth:`with_outputs`. Inputs are taken by place, results given as a tensor or a tuple.
        Without ``inputs`` it takes those of the network that it needs, without ``outputs`` it gives the network's.
        GraphError names an input that is needed still, or one on which nothing depends.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(td.sin(td.relu(x))), {"x": (2,)})
        >>> dag.extract(td.relu, td.sin).graph
        <Graph network: 1 inputs, 1 outputs, 2 values>
        """
        return surgery.extract(self, inputs, outputs)

    def split(self, *at: Any) -> tuple[TensorDAG, TensorDAG]:
        """The network up to some values and from them on, so that ``first >> second`` is the network.

        GraphError names what goes past the values from the first part to the second.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(td.sin(x)), {"x": (2,)})
        >>> first, second = dag.split(td.sin)
        >>> (first >> second).graph == dag.graph
        True
        """
        return surgery.split(self, list(at))

    def __rshift__(self, other: TensorDAG) -> TensorDAG:
        """One network after the other: the outputs of this one are the inputs of the next, in order.

        TypeMismatchError says both types and both places. Weights that both have must be the same in memory;
        GraphError says which to rename.
        """
        return surgery.chain(self, other)

    def beside(self, other: TensorDAG, share: bool = False) -> TensorDAG:
        """Two networks side by side, a pair of results: on arguments of their own, or on the same ones (``share``).

        >>> import tdagger as td
        >>> a, b = (td.network(f, {"x": (2,)}) for f in (td.exp, td.sin))
        >>> a.beside(b, share=True).run(np.zeros(2, "f"))
        (array([1., 1.], dtype=float32), array([0., 0.], dtype=float32))
        """
        return surgery.beside(self, other, share)

    def rename(self, names: Mapping[str, str]) -> TensorDAG:
        """Weights by other names, or all below a module path by another: ``dag.rename({"fc": "head", "": "net"})``.

        The longest path that is named counts. GraphError for names there aren't, and if two would be the same.

        >>> import tdagger as td
        >>> list(td.layers.linear(4, 3).rename({"": "head", "weight": "w"}).weights)
        ['w', 'head.bias']
        """
        return surgery.rename(self, names)

    def freeze(self, *what: Any) -> TensorDAG:
        """Parameters that aren't trained: by name, by module path, by a predicate of names, all if nothing is said.

        >>> import tdagger as td
        >>> [w.trainable for w in td.layers.linear(4, 3).freeze("bias").state.values()]
        [True, False]
        """
        return surgery.trainable(self, what, False)

    def thaw(self, *what: Any) -> TensorDAG:
        """Parameters that are trained again; see :meth:`freeze`."""
        return surgery.trainable(self, what, True)

    def initialise(self, *what: Any, how: Any = "torch", seed: int = 0) -> TensorDAG:
        """Parameters with new data, named as in :meth:`freeze`; the same for the same seed.

        ``how``: "torch" (as the layers of torch.nn begin), "zeros", "ones", "normal" (0.02), "kaiming", "xavier", a
        number, or a function of name, type and a numpy generator. GraphError for a parameter of which torch's
        beginning isn't known.

        >>> import tdagger as td
        >>> float(td.layers.linear(4, 3).initialise("bias", how=2).weights["bias"].sum())
        6.0
        """
        return surgery.initialise(self, what, how, seed)

    def with_weights(self, arrays: Mapping[str, Any]) -> TensorDAG:
        """Other data for some weights, by name; TypeMismatchError if it isn't of their types."""
        return surgery.with_weights(self, arrays)

    def partition(
        self,
        *,
        supported: Any = None,
        stages: int | None = None,
        memory: int | Sequence[int] | None = None,
        cost: Any = "flops",
        slack: float = 0.05,
    ) -> Partition[TensorDAG]:
        """The network in parts that run one after the other, each a network: ``parts``, ``edges``, ``run(x)``.

        One of these is asked: ``supported`` (what says so of ops, see :meth:`replace`): as few parts as can be in which
        all ops are supported, or none is. ``stages``: so many, the most expensive as cheap as can be in the order of
        the graph, and up to ``slack`` more where fewer bytes cross then; ``cost`` is "flops", "bytes" or a function of
        values. ``memory``: the bytes that every device has, or each of some, filled in turn: weights, what comes in
        and what is alive. GraphError says what doesn't fit.

        >>> import tdagger as td
        >>> dag = td.network(lambda x: td.exp(td.sin(td.sin(x))) + td.exp(x), {"x": (2,)})
        >>> found = dag.partition(supported=td.sin)
        >>> [(p.supported, len(p.values)) for p in found.parts], found.joined().graph == dag.graph
        ([(True, 2), (False, 3)], True)
        """
        return partition(self, supported=supported, stages=stages, memory=memory, cost=cost, slack=slack)

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
            found = self._axes[key] = NamedAxes(with_left_out(Axes(self.graph), self.left_out), given, self.origins)
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

    @cached_property
    def open_axes(self) -> openness.Candidates:
        """The axes of inputs that code can leave open, and why it can't others.

        The source is asked, if there is one: once for all of them together at larger sizes, once with as few
        entries as the graph takes, where some have as few and others many, where all have as many, and at sizes that
        its code compares with; and for each of them where that isn't what the axes say. :meth:`certain` axes are
        only asked for at the last ones.
        """
        named = self.axes()
        ask = None if self.source is None else Asking(named, sources.Asked(self.source, self.graph))
        return openness.candidates(named, self.origins, self.confirmed, ask)

    @cached_property
    def freest(self) -> TensorDAG:
        """This network, or as its source gives it at sizes where more axes can be open, its own among them.

        Sizes may fit by chance (``interpolate(size=(8, 8))`` of 8 rows, a batch of 1 that goes into any dimension
        beside it): the graph says then what the source doesn't.
        """
        found, source = self.open_axes, self.source
        if not found.by_chance or not isinstance(source, sources.Sketching):
            return self
        names = found.by_chance
        for tried in dict.fromkeys((names, tuple([n for n in names if self.axes().sizes[n] == 1]))):
            freed = self._freed(source, tried) if tried else None
            if freed is not None:
                return freed
        return self

    def _freed(self, source: Any, names: Sequence[str]) -> TensorDAG | None:
        """The network imported where some axes have other sizes, if it can have its own too, and that frees some."""
        named = self.axes()
        wanted = certain.dimensions(named, frozenset({*self.open_axes.names, *names}))
        terms = {named.term(n): size for n, size in elsewhere(named, names).items()}
        try:
            shapes = sources.shapes_at(named, terms)
            sketch = source.sketch_at(shapes)
            if sketch is None:
                return None
            drawn = replace(self, graph=sketch, origins={}, left_out=(), axis_names={}, certain_dimensions=frozenset())
            if not openness.is_at(drawn.axes(), self.graph) or not drawn._opens(wanted):
                return None
            other = replace(self._as_in(source.at(shapes)), source=source)
            fits = openness.is_at(other.axes(), self.graph) and other._opens(wanted)
            return other if fits and other.open_axes.hold(other.axes(), other.origins, self.graph) else None
        except TDaggerError:
            return None

    def _opens(self, dimensions: frozenset[tuple[str, int]]) -> bool:
        """Whether these dimensions of inputs can be open together."""
        return dimensions <= certain.dimensions(self.axes(), frozenset(self.open_axes.names))

    # Going to a framework. Frameworks stand to the right of this module, so they are found by name.

    def to_torch(self, **options: Any) -> Any:
        """A readable ``torch.nn.Module`` with the source's state_dict; see ``frameworks/torch/exporter.py``."""
        return later("torch.to_torch")(self, **options)

    def to_torchscript(self, **options: Any) -> Any:
        """A ``torch.jit.ScriptModule`` that saves and loads."""
        return later("torch.to_torchscript")(self, **options)

    def to_exported_program(self, **options: Any) -> Any:
        """A ``torch.export.ExportedProgram``."""
        return later("torch.to_exported_program")(self, **options)

    def to_onnx(self, path: str | Path | None = None, **options: Any) -> Any:
        """An ONNX file at ``path``, or the ``onnx.ModelProto``; see docs/onnx.md."""
        return later("onnx.to_onnx")(self, path, **options)

    def to_tflite(self, path: str | Path | None = None, **options: Any) -> Any:
        """A TFLite file at ``path``, or its bytes; see docs/tflite.md."""
        return later("tflite.to_tflite")(self, path, **options)

    def to_coreml(self, path: str | Path | None = None, **options: Any) -> Any:
        """An ``.mlpackage`` at ``path``, or the protobuf Model; see docs/coreml.md."""
        return later("coreml.to_coreml")(self, path, **options)

    # Files: docs/format.md.

    def save(self, path: str | Path, *, weights: bool = True, **options: Any) -> None:
        """Write the network to a ``.tdag`` file, which :func:`tdagger.load` reads: its graph and its weights.

        It is a safetensors file, so every tool for those reads the weights. ``weights=False`` leaves them out.
        ``shard=N``: with more than N bytes of weights (50 GB unless told) they are put in several files beside it. The
        same network is always the same bytes. The file appears whole or not at all. UnsupportedError names what no file
        can hold.

        >>> import tempfile, tdagger as td
        >>> dag = td.layers.linear(4, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dag.save(f"{folder}/m.tdag")
        ...     td.load(f"{folder}/m.tdag").graph == dag.graph
        True
        """
        later("save")(self, path, weights=weights, **options)

    def text(self) -> str:
        """All that the network computes as text, a line for each value, of which :func:`tdagger.parse` makes it again.

        Weights' data, modules and origins aren't in it, but values are called after their modules, so that two texts
        can be compared line by line. ``str(dag)`` is the text for people.

        >>> import tdagger as td
        >>> print(td.network(lambda x: td.exp(td.sin(x)), {"x": (2,)}).text())
        tdag 1 "network"
        <BLANKLINE>
        graph "network"
          %input: f32[2] = input "x"
          %unary: f32[2] = unary {"kind":"sin"} %input
          %unary~2: f32[2] = unary {"kind":"exp"} %unary
          output "out" %unary~2
        <BLANKLINE>
        takes ["tuple",[["tuple",[["leaf"]],null,""],["dict",[],null,""]],null,""]
        gives ["leaf"]
        <BLANKLINE>
        """
        return later("text")(self)

    def hash(self, *, weights: bool = False) -> str:
        """64 digits by the content: of what is computed and how it is called, with ``weights`` of their data too.

        Names of modules, axes and source lines don't count, those of weights, inputs and outputs do.

        >>> import tdagger as td
        >>> a, b = (td.layers.linear(4, 3).initialise(how=how) for how in ("zeros", "ones"))
        >>> a.hash() == b.hash(), a.hash(weights=True) == b.hash(weights=True)
        (True, False)
        """
        return later("hash")(self, weights)

    # Coming from a framework, for those who look for it on the class.

    @staticmethod
    def from_torch(*args: Any, axes: Given = None, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_torch`."""
        return later("torch.from_torch")(*args, **options).with_axes(axes)

    @staticmethod
    def from_torchscript(*args: Any, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_torchscript`."""
        return later("torch.from_torchscript")(*args, **options)

    @staticmethod
    def from_onnx(*args: Any, axes: Given = None, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_onnx`."""
        return later("onnx.from_onnx")(*args, **options).with_axes(axes)

    @staticmethod
    def from_tflite(*args: Any, axes: Given = None, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_tflite`."""
        return later("tflite.from_tflite")(*args, **options).with_axes(axes)

    @staticmethod
    def from_coreml(*args: Any, axes: Given = None, **options: Any) -> TensorDAG:
        """See :func:`tdagger.from_coreml`."""
        return later("coreml.from_coreml")(*args, **options).with_axes(axes)


def _of_parts(*parts: Any) -> TensorDAG:
    """The network that :meth:`TensorDAG.__reduce__` took apart."""
    return later("unpickled")(*parts)


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic)


def _still_fits(dag: TensorDAG, graph: Graph, name: str, pattern: str) -> bool:
    """Whether names of an input's dimensions are still right with another graph."""
    before, now = dag.graph.inputs[name], graph.inputs.get(name)
    return now is before or (now is not None and now.rank == before.rank and "1" not in pattern.split())


def _of_module(module: Any, types: Sequence[TensorType], trains: bool) -> TensorDAG:
    """A network of a torch module, for surgery."""
    return later("torch.part_of")(module, types, trains)


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
