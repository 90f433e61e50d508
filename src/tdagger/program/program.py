"""Program: several graphs and the control flow between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tdagger.analysis.axes.doubts import OfSize, of_values
from tdagger.analysis.axes.names import NamedAxes
from tdagger.errors import GraphError, InputError
from tdagger.graph import Graph, replayed
from tdagger.later import later
from tdagger.names import shown
from tdagger.network import Origin, Signature, Weight, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input
from tdagger.program.check import check
from tdagger.program.cost import ProgramCost, cost_of
from tdagger.program.flow import Flow, next_of
from tdagger.program.parts import Block, Return, Slot
from tdagger.program.run import Runner
from tdagger.program.text import show
from tdagger.tensordag import TensorDAG
from tdagger.tree import aligned, flatten
from tdagger.view.views import View


@dataclass(frozen=True, eq=False)
class Program:
    """Blocks that read and write slots, and go on with each other; the first block is where it begins.

    ``slots`` are all tensors that go from one block to another, ``inputs`` and ``outputs`` those that the program takes
    and gives, in the order of ``signature``. ``left_out`` are calls that did nothing at the sizes it was imported with,
    and may at others. Inside a block nothing branches: it is a graph, and ends with a goto, an
    if, a switch or a return (:mod:`tdagger.program.parts`). Weights are shared by all blocks; what changes is a slot,
    also a buffer. It is checked when it is made: GraphError names slots and blocks that can't be.

    >>> import tdagger as td
    >>> from tdagger.program.parts import Block, Goto, If, Return, Slot
    >>> x, go = td.input("x", ()), td.input("go", (), "bool")
    >>> blocks = {
    ...     "begin": Block(td.Graph({"x": x}, {"go": x < 100.0}), If("go", "double", "end")),
    ...     "double": Block(td.Graph({"x": x}, {"x": x + x}), Goto("begin")),
    ...     "end": Block(td.Graph({}, {}), Return()),
    ... }
    >>> program = Program({"x": Slot(x.type), "go": Slot(go.type)}, blocks, ("x",), ("x",))
    >>> program.run(np.float32(3))
    array(192., dtype=float32)
    """

    slots: Mapping[str, Slot]
    blocks: Mapping[str, Block]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Array] = field(default_factory=dict[str, Array])
    state: Mapping[str, Weight] = field(default_factory=dict[str, Weight])
    signature: Signature | None = None
    origins: Mapping[Value, Origin] = field(default_factory=dict[Value, Origin])
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = "program"
    axis_names: Mapping[str, str] = field(default_factory=dict[str, str])
    left_out: tuple[OfSize, ...] = ()

    def __post_init__(self) -> None:
        check(self)
        if self.signature is None:
            object.__setattr__(self, "signature", plain_signature(len(self.inputs), len(self.outputs)))

    def __reduce__(self) -> Any:
        """Pickled and copied in the form of a file, as a :class:`TensorDAG` is."""
        return (_of_parts, later("pickled")(self))

    @property
    def called(self) -> Signature:
        """How it is called."""
        assert self.signature is not None
        return self.signature

    @property
    def entry(self) -> str:
        """The block where it begins."""
        return next(iter(self.blocks))

    @cached_property
    def flow(self) -> Flow:
        """The ways through its blocks."""
        return Flow(next_of(self.blocks))

    @cached_property
    def begins_with(self) -> dict[str, str]:
        """What is assigned at the start: inputs and their lengths, and the slots that begin as buffers."""
        taken = dict.fromkeys(self.inputs, "input")
        lengths = {n: "length" for s in self.inputs for _, n in self.slots[s].lengths if n not in taken}
        return {**taken, **lengths, **{n: "buffer" for n, s in self.slots.items() if s.buffer}}

    @cached_property
    def known(self) -> dict[str, set[str]]:
        """The slots that are assigned on every way to a block."""
        everything = set(self.slots)
        order = self.flow.order
        found = {n: set(everything) for n in order}
        found[self.entry] = set(self.begins_with)
        changed = True
        while changed:
            changed = False
            for name in order:
                ways = [found[p] | set(self.blocks[p].writes) for p in self.flow.before[name]]
                ways += [set(self.begins_with)] if name == self.entry else []
                new = in_all(ways) if ways else found[name]
                if new != found[name]:
                    found[name], changed = new, True
        return found

    @cached_property
    def known_at_end(self) -> set[str]:
        """The slots that are assigned wherever it returns."""
        ends = [
            self.known[n] | set(b.writes)
            for n, b in self.blocks.items()
            if isinstance(b.end, Return) and n in self.known
        ]
        return in_all(ends) if ends else set()

    # Running.

    def run(self, *args: Any, turns: int | None = None, **kwargs: Any) -> Any:
        """Execute with numpy; arrays as :meth:`TensorDAG.run` takes and gives them.

        Slots that begin as buffers begin as the weights say, each time; :meth:`runner` keeps them. InputError after
        ``turns`` blocks, if a number is given.
        """
        return self.runner()(*args, turns=turns, **kwargs)

    def runner(self) -> Runner:
        """What runs it again and again: it keeps the state between calls (``runner.state``).

        >>> import tdagger as td
        >>> @td.program({"x": (2,)}, state={"total": np.zeros(2, "f")})
        ... def add(x):
        ...     return td.set_state("total", td.state("total") + x)
        >>> runner = add.runner()
        >>> runner(np.ones(2, "f")), runner(np.ones(2, "f"))
        (array([1., 1.], dtype=float32), array([2., 2.], dtype=float32))
        """
        return Runner(self)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Array]:
        """The arrays of a call by the names of slots, filled up to their bounds; InputError says what doesn't fit."""
        leaves, tree = flatten((args, kwargs), lambda x: isinstance(x, np.ndarray | np.generic))
        if len(leaves) != len(self.inputs):
            takes = ", ".join(f"{shown(n)}: {self.slots[n]}" for n in self.inputs)
            raise InputError(f"{shown(self.name)} takes the arrays ({takes}), got {len(leaves)} arrays")
        if kwargs and not args and set(kwargs) == set(self.inputs):
            leaves = [kwargs[n] for n in self.inputs]
        elif tree != self.called.inputs and kwargs:
            leaves = aligned(self.called.inputs, tree, leaves, "the call")
        found: dict[str, Array] = {}
        for name, leaf in zip(self.inputs, leaves, strict=True):
            found |= self._filled(name, np.asarray(leaf), found)
        return found

    def _filled(self, name: str, array: Array, found: Mapping[str, Array]) -> dict[str, Array]:
        slot = self.slots[name]
        lengths = dict(slot.lengths)
        fits = array.ndim == slot.type.rank and array.dtype == slot.type.dtype.numpy
        sizes = zip(array.shape, slot.type.shape, strict=False)
        if not fits or any(n > m if i in lengths else n != m for i, (n, m) in enumerate(sizes)):
            raise InputError(f"input {shown(name)} is declared {slot}, got {array.dtype}{list(array.shape)}")
        own: dict[str, Array] = {}
        for dimension, length in lengths.items():
            before = {**found, **own}.get(length)
            if before is not None and int(before) != array.shape[dimension]:
                raise InputError(
                    f"input {shown(name)} has {array.shape[dimension]} entries in dimension {dimension}, "
                    f"and {shown(length)} is {int(before)}"
                )
            own[length] = np.asarray(array.shape[dimension], np.int64)
        if lengths and array.shape != slot.type.shape:
            whole = np.zeros(slot.type.shape, array.dtype)
            whole[tuple([slice(n) for n in array.shape])] = array
            array = whole
        return {**own, name: array}

    # Looking.

    def __str__(self) -> str:
        return show(self)

    def __repr__(self) -> str:
        return f"<Program {shown(self.name)}: {len(self.blocks)} blocks, {len(self.slots)} slots>"

    def view(self, other: Program | None = None, **options: Any) -> View:
        """A picture: blocks are boxes that open, between them the control flow with the slots that it carries.

        With an ``other`` program this one is A and that one is B: blocks go together by name and by what they hold.
        Options are those of :meth:`TensorDAG.view`, but for ``profile``.

        >>> import tdagger as td
        >>> @td.program({"x": ()})
        ... def doubled(x):
        ...     return td.while_loop(lambda x: x < 100.0, lambda x: x + x, x)
        >>> [item["name"] for item in doubled.view().reader.blocks()]
        ['begin', 'loop', 'body', 'done']
        """
        return later("program_view")(self, other, **options)

    def dag(self, block: str | None = None) -> TensorDAG:
        """A block as a network of its own, which takes and gives slots by name; the only one unless it is named.

        GraphError if there are several blocks and none is named, or there is no such block.
        """
        if block is None and len(self.blocks) != 1:
            raise GraphError(f"program {shown(self.name)} has {len(self.blocks)} blocks: say which one is meant")
        name = self.entry if block is None else block
        if name not in self.blocks:
            raise GraphError(
                f"program {shown(self.name)} has no block {shown(name)}; there are {', '.join(self.blocks)}"
            )
        graph = self.blocks[name].graph
        if block is None:
            return self._as_one(graph)
        used = {*graph.parameters, *graph.buffers}
        state = {n: w for n, w in self.state.items() if n in used}
        signature = plain_signature(len(graph.inputs), len(graph.outputs))
        return TensorDAG(
            graph, self.weights, signature, state, self.origins, self.modules, f"{self.name}.{name}",
            left_out=of_values(graph, self.left_out),
        )  # fmt: skip

    def _as_one(self, graph: Graph) -> TensorDAG:
        """A program of one block as a network."""
        if any(s.lengths for s in self.slots.values()):
            raise GraphError(f"program {shown(self.name)} has sizes that vary, which a network doesn't")
        given = {n: Input(n, self.slots[n].type)() for n in self.inputs}
        buffers = {n: Buffer(s.buffer, s.type)() for n, s in self.slots.items() if s.buffer}
        new = replayed(graph, {v: buffers.get(n, v) for n, v in graph.inputs.items()})
        written = {n: new[v] for n, v in graph.outputs.items()}
        outputs = {n: written.get(n) or given.get(n) or buffers[n] for n in self.outputs}
        updates = {self.slots[n].buffer: written[n] for n in buffers if n in written}
        whole = Graph(given, outputs, updates, self.name, new.values())
        return TensorDAG(
            whole, self.weights, self.called, self.state, self.origins, self.modules, self.name, self.axis_names,
            left_out=of_values(whole, self.left_out),
        )  # fmt: skip

    def with_parts(self, **parts: Any) -> Program:
        """The same with other parts, by the names of its fields."""
        return replace(self, **parts)

    def cost(self) -> ProgramCost:
        """What a turn of each block costs, and a formula of a run: :class:`tdagger.program.cost.ProgramCost`."""
        return cost_of(self)

    # What is done to it.

    def optimize(self) -> Program:
        """The program made faster for inference: every block as :meth:`TensorDAG.optimize` does, and what is between.

        Slots that are always one constant are that constant, branches that are decided go, blocks that always follow
        each other are one, and what nobody needs isn't computed. Outputs stay the same up to rounding.
        """
        return later("simplified")(later("optimized_blocks")(self))

    def simplify(self) -> Program:
        """The same without a change of rounding: constants through slots, decided branches, merged blocks."""
        return later("simplified")(self)

    def specialize(self, **values: Any) -> Program:
        """The program for known values of some inputs, which it no longer takes; simplified.

        Branches that they decide are gone. :meth:`dag` gives the one network that may be left.

        >>> import tdagger as td
        >>> @td.program({"x": (2,), "rate": td.TensorType((), "i64")})
        ... def rates(x, rate):
        ...     return td.if_(rate < 16000, lambda: td.exp(x), lambda: td.sin(x))
        >>> print(rates.specialize(rate=8000).dag().graph.outputs["out"].op)
        exp
        """
        return later("specialized")(self, values)

    def trusted(self) -> Program:
        """The program without what only refuses its inputs: that is taken as not to happen."""
        return later("trusted")(self)

    def unroll(self, turns: int, loop: str | None = None) -> Program:
        """The program with so many turns of a loop written out before it; the loop goes where it is known to be done.

        ``loop`` is the block that it begins with, if there are several.

        >>> import tdagger as td
        >>> @td.program({"xs": (3,)})
        ... def total(xs):
        ...     return td.scan(lambda c, x: (c + x, None), 0.0, xs)[0]
        >>> [len(total.unroll(n).blocks) for n in (2, 3)]
        [4, 1]
        """
        return later("unrolled")(self, turns, loop)

    # Axes.

    def axes(self, names: Any = None) -> NamedAxes:
        """Every dimension of every value of all blocks over named axes; see :meth:`TensorDAG.axes`.

        An axis has one name in all blocks: ``program.axes().show(value)``.
        """
        return later("program_axes")(self, names)

    def unbatch(self, name: str | None = None, *, slot: str | None = None, axis: int | None = None) -> Program:
        """The program without an axis, in all blocks; AxisError names what stops it. See :meth:`TensorDAG.unbatch`."""
        return later("program_unbatched")(self, name, slot, axis)

    def resize(self, sizes: Mapping[str, int] | None = None, /, *, assume: bool = False, **more: int) -> Program:
        """The program at other sizes of named axes, as the graphs of its blocks have them: there is no source to ask.

        AxisError names what can't follow: a parameter, a constant, a slot that begins as a buffer, what a loop counts,
        and what the graphs leave open, for which ``assume`` takes them at their word.
        """
        return later("program_resized")(self, {**(sizes or {}), **more}, assume)

    # Coming from a framework, and going to one.

    @staticmethod
    def from_torch(model: Any, args: Any = (), kwargs: dict[str, Any] | None = None, **options: Any) -> Program:
        """A program of a torch module, ExportedProgram or script that may have loops and branches on data.

        They are those of torch's ``cond``, ``while_loop``, ``scan`` and ``map``, and those of a script. Options are
        those of :func:`tdagger.from_torch`. UnsupportedError says what can't be.
        """
        return later("torch.program_from_torch")(model, args, kwargs, **options)

    @staticmethod
    def from_torchscript(module: Any, args: Any = (), kwargs: dict[str, Any] | None = None, **options: Any) -> Program:
        """A program of a TorchScript module, function or file, with its loops and branches on data and its state.

        ``args`` are example inputs: tensors, and numbers, which become inputs too unless ``fixed`` has their names.
        Attributes that the script sets are state: buffers of the program. Sizes are known: they may differ between
        branches, not by numbers that only the data tells. ``bound``: the most turns of a loop in which a list grows,
        if the script doesn't say. What the script raises, the program raises (InputError).

        UnsupportedError names all that can't be imported; with ``partial`` a run raises that takes such a way, which a
        UserWarning tells.
        """
        return later("torch.program_from_torchscript")(module, args, kwargs, **options)

    @staticmethod
    def from_tflite(model: Any, **options: Any) -> Program:
        """A program of a TFLite model that may have loops (WHILE), branches (IF) and variables, which are its state.

        ``model`` and options are those of :func:`tdagger.from_tflite`. UnsupportedError says what can't be imported.
        """
        return later("tflite.program_from_tflite")(model, **options)

    def to_tflite(self, path: str | Path | None = None) -> bytes | None:
        """Write the program as one TFLite file, its loops and branches as WHILE and IF; without a path, the bytes.

        State is in variables, which the file keeps from run to run. UnsupportedError for sizes that vary, and for a
        program that raises (:meth:`trusted`).
        """
        return later("tflite.program_to_tflite")(self, path)

    @staticmethod
    def from_coreml(model: Any, **options: Any) -> Program:
        """A program of a CoreML package that may have loops (while_loop), branches (cond) and states, its state.

        ``model`` and options are those of :func:`tdagger.from_coreml`. UnsupportedError says what can't be imported.
        """
        return later("coreml.program_from_coreml")(model, **options)

    def to_coreml(self, path: str | Path | None = None, **options: Any) -> Any:
        """Write the program as an ``.mlpackage``, loops and branches as while_loop and cond; without a path, the Model.

        ``minimum_target``, ``states`` and ``metadata`` are those of :meth:`TensorDAG.to_coreml`. State is outputs
        ``<name>.updated``, and begins each run as it is in the file, or states of the model. UnsupportedError for sizes
        that vary, and for a program that raises (:meth:`trusted`).
        """
        return later("coreml.program_to_coreml")(self, path, **options)

    def to_torch(self, **options: Any) -> Any:
        """A readable ``torch.nn.Module`` with Python's ``while`` and ``if``, and the program's state_dict.

        ``print(module.code)`` shows it. Sizes that vary are those of its arguments; state is in its buffers. ``copy``:
        its weights don't share memory with the program's. ``higher_order``: with ``torch.cond``, ``while_loop`` and
        ``scan`` instead of ``if`` and ``while``, so that torch.compile takes it whole.
        """
        return later("torch.program_to_torch")(self, **options)

    def to_exported_program(self, **options: Any) -> Any:
        """A ``torch.export.ExportedProgram`` with ``torch.cond``, ``while_loop`` and ``scan``.

        What the program refuses is an assertion there; sizes that vary are dynamic dimensions. UnsupportedError where
        what is refused takes more than one block to say (:meth:`trusted`).
        """
        return later("torch.program_to_exported_program")(self, **options)

    def to_torchscript(self, **options: Any) -> Any:
        """A ``torch.jit.ScriptModule`` with the same loops and branches, that saves and loads."""
        return later("torch.program_to_torchscript")(self, **options)

    @staticmethod
    def from_onnx(model: Any, **options: Any) -> Program:
        """A program of an ONNX model that may have If, Loop and Scan on data: the path of a file, bytes, a ModelProto.

        Options are those of :func:`tdagger.from_onnx`, and ``turns``: how many turns a loop has at most, by the name of
        its node, where its outputs are as long as it has turns and the model doesn't say. InputError asks for sizes,
        UnsupportedError says what can't be imported.
        """
        return later("onnx.program_from_onnx")(model, **options)

    def to_onnx(self, path: str | Path | None = None, **options: Any) -> Any:
        """Write the program as one ONNX file, its loops and branches as Loop and If; without a path, the ModelProto.

        ``opset``, ``external_data`` and ``metadata`` are those of :meth:`TensorDAG.to_onnx`. Sizes that vary are those
        of its inputs and outputs; buffers that change are outputs ``<name>.updated``. ``dynamic`` has names of axes
        (:meth:`axes`) that any size may be given for, True all that can be; AxisError says which block holds one.

        >>> import tdagger as td
        >>> @td.program({"x": (6, 4)})
        ... def halved(x):
        ...     return td.while_loop(lambda y: td.reduce(y, "sum", keep=False) > 1.5, lambda y: y * 0.5, x)
        >>> model = halved.to_onnx(dynamic=("b",))
        >>> [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        ['b', 4]
        """
        return later("onnx.program_to_onnx")(self, path, **options)

    # Files: docs/format.md.

    def save(self, path: str | Path, *, weights: bool = True, **options: Any) -> None:
        """Write the program to a ``.tdag`` file, which :func:`tdagger.load` reads; see :meth:`TensorDAG.save`."""
        later("save")(self, path, weights=weights, **options)

    def hash(self, *, weights: bool = False) -> str:
        """64 digits by the content, as :meth:`TensorDAG.hash`; names of slots and blocks count.

        >>> import tdagger as td
        >>> @td.program({"x": (3,)})
        ... def halved(x):
        ...     return td.while_loop(lambda y: td.reduce(y, "sum", keep=False) > 1.5, lambda y: y * 0.5, x)
        >>> len(halved.hash()), halved.hash() == halved.with_parts(name="other").hash()
        (64, True)
        """
        return later("hash")(self, weights)


def _of_parts(*parts: Any) -> Program:
    """The program that :meth:`Program.__reduce__` took apart."""
    return later("unpickled")(*parts)


def in_all(several: Sequence[set[str]]) -> set[str]:
    """What is in all of some sets, of which there is one at least."""
    first, *rest = several
    return {x for x in first if all(x in other for other in rest)}
