"""Networks captured again with inputs of other shapes: what a resize is compared with."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._export.utils import _compiling_state_context
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tdagger.errors import InputError, TDaggerError
from tdagger.frameworks.torch.aten import TORCH_DTYPES
from tdagger.frameworks.torch.capture import autocast
from tdagger.frameworks.torch.capture.attributes import Attributes, Looked, left_as_it_was
from tdagger.frameworks.torch.capture.compared import Notes
from tdagger.frameworks.torch.capture.draws import sources
from tdagger.frameworks.torch.capture.leaves import without_compile
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.capture.shapes import ShapesAlone
from tdagger.frameworks.torch.capture.surroundings import put_back, quiet
from tdagger.frameworks.torch.sketch import sketched
from tdagger.graph import Graph
from tdagger.library.random import SEED
from tdagger.ops.source import Input
from tdagger.tensordag import Signature, TensorDAG
from tdagger.transform.axes.sources import Noted, SizeOf, SourceRaises
from tdagger.transform.surgery.edit import Edit, finished
from tdagger.tree import Tree, flatten

#: Imports a network: of its arguments and keyword arguments.
Import = Callable[[tuple[Any, ...], dict[str, Any]], TensorDAG]

#: Gives the graph alone, of tensors on the meta device nested as a tree says; notes comparisons where that is asked.
Sketch = Callable[..., Graph | None]


@dataclass(frozen=True, repr=False)
class Again:
    """A model that can be captured again, in the way and the mode in which it was.

    ``leaves`` are the tensors of the example inputs, ``tree`` how they are nested, ``names`` what the graph calls them.
    """

    capture: Import
    model: Any
    leaves: Sequence[torch.Tensor]
    tree: Tree
    names: Sequence[str]
    #: What the modules hold, and held then, the mode of each too: a run may have left something since (a cache).
    held: tuple[Attributes, list[dict[Any, Any]]] | None = None
    gradients: bool = True
    region: autocast.Region | None = None
    #: What gives the graph alone, cheaply, of inputs without data; None where it can't.
    sketch: Sketch | None = None
    #: The number of captures and sketches that were made.
    count: list[int] = field(default_factory=lambda: [0])

    @one_at_a_time
    def raises(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """What the model raises with inputs of these shapes; nothing if it runs. It is run, not captured.

        TorchScript isn't: it would have to be given data.
        """
        if _is_scripted(self.model) or self._runs(shapes):
            return ""
        args, kwargs = self._arguments(shapes)
        with self._as_it_was():
            return _said(_raised(self.model, args, kwargs))

    @one_at_a_time
    def noted_at(self, shapes: Mapping[str, tuple[int, ...]], size_of: SizeOf) -> Noted:
        """The graph that :meth:`at` gives, and the comparisons of sizes that the model makes, as far as a sketch gets.

        A network that isn't sketched otherwise (traced, in a region of autocast) is for these; TorchScript isn't run.
        """
        notes, sketch = Notes(), self.sketch
        if sketch is None and isinstance(self.model, nn.Module) and not _is_scripted(self.model):
            sketch = partial(sketched, Looked(without_compile(self.model)), "")
        if sketch is None:
            return Noted()
        self.count[0] += 1
        found = self._made(sketch, shapes, size_of=size_of, notes=notes)
        believed = found if sketch is self.sketch and self.region is None else None
        return Noted(believed, [*notes.made.values()])

    @one_at_a_time
    def at(self, shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
        """The network with inputs of these shapes; those that aren't named keep theirs.

        SourceRaises if it isn't the capture that fails: the model is run to know.
        """
        self.count[0] += 1
        args, kwargs = self._arguments(shapes)
        with self._as_it_was():
            try:
                return self.capture(args, kwargs)
            except TDaggerError as e:
                said = _said(_raised(self.model, args, kwargs))
                if not said:
                    raise
                leaves, _ = flatten((args, kwargs), lambda x: isinstance(x, torch.Tensor))
                what = ", ".join(f"{n} of shape {tuple(t.shape)}" for n, t in zip(self.names, leaves, strict=True))
                raise SourceRaises(f"with {what} the source itself raises {said}") from e
            finally:
                gc.collect(0)  # torch's captures leave circles, and whoever asks may have paused the collector

    @one_at_a_time
    def sketch_at(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph | None:
        """The graph that :meth:`at` gives, for a part of the price; None where only that can tell."""
        found = self._sketched(shapes)
        self.count[0] += found is not None
        return found

    def _sketched(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph | None:
        return None if self.sketch is None or self.region is not None else self._made(self.sketch, shapes)

    def _made(self, sketch: Sketch, shapes: Mapping[str, tuple[int, ...]], **measuring: Any) -> Graph | None:
        try:
            with self._as_it_was():
                return sketch(self._without_data(shapes), self.tree, **measuring)
        finally:
            gc.collect(0)  # as for a capture

    def _runs(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the model is seen to run with inputs of these shapes, in the way that takes least; it may anyway."""
        if not _has_no_data(self.model):
            return self._sketched(shapes) is not None
        args, kwargs = self.tree.unflatten(self._without_data(shapes))
        with (
            self._as_it_was(), _as_before(self.model), put_back(), quiet(), _compiling_state_context(),
            suppress(Exception), ShapesAlone(),
        ):  # fmt: skip
            self.model(*args, **kwargs)
            return True
        return False  # whatever it raised: of the model, or of data that isn't there

    def _arguments(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of these shapes, with data."""
        leaves = [reshaped(t, shape) for t, shape in zip(self.leaves, self._shapes(shapes), strict=True)]
        args, kwargs = self.tree.unflatten(leaves)
        return args, kwargs

    def _without_data(self, shapes: Mapping[str, tuple[int, ...]]) -> list[torch.Tensor]:
        """Inputs of these shapes on the meta device."""
        return [
            torch.empty(shape, dtype=t.dtype, device="meta", requires_grad=t.requires_grad)
            for t, shape in zip(self.leaves, self._shapes(shapes), strict=True)
        ]

    def _shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The shapes of all inputs."""
        found = [shapes.get(n, tuple(t.shape)) for n, t in zip(self.names, self.leaves, strict=True)]
        _no_lengths(self.tree, self.leaves, found)
        return found

    @contextmanager
    def _as_it_was(self) -> Generator[None, None, None]:
        """The modules as they were when the network was captured, and no warnings."""
        with ExitStack() as stack:
            if self.held is not None:
                attributes, entries = self.held
                stack.enter_context(attributes.as_in(entries))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # what there is to say was said when it was imported
            stack.enter_context(torch.set_grad_enabled(self.gradients))
            if self.region is not None:
                stack.enter_context(self.region())
            yield


def _is_scripted(model: Any) -> bool:
    """Whether a model or a module in it is TorchScript."""
    parts = model.modules() if isinstance(model, nn.Module) else [model]
    return any(isinstance(m, torch.jit.ScriptModule | torch.jit.ScriptFunction) for m in parts)


def _has_no_data(model: Any) -> bool:
    """Whether all of a model is on the meta device: it can be run there as it is."""
    held = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return bool(held) and all(t.is_meta for t in held)


def _raised(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception | None:
    """What a model raises when it is run on inputs of these sizes; None if it runs, or if data must be there to tell.

    It is run on tensors without data, so that nothing is written to its own, and left as it was; TorchScript, whose
    interpreter reads data that isn't there and ends the process, on copies of those it would be given.
    """
    fake = None if _is_scripted(model) else FakeTensorMode(allow_non_fake_inputs=True)
    with _as_before(model), put_back(), quiet(), nullcontext() if fake is None else fake:
        leaves, tree = flatten((args, kwargs), lambda x: isinstance(x, torch.Tensor))
        own = [t.detach().clone() if fake is None else fake.from_tensor(t.detach()) for t in leaves]
        args, kwargs = tree.unflatten([o.requires_grad_(t.requires_grad) for o, t in zip(own, leaves, strict=True)])
        try:
            model(*args, **kwargs)
        except Exception as e:  # whatever the network's own code or torch raises
            return None if fake is not None and isinstance(e, _WITHOUT_DATA) else e
    return None


@contextmanager
def _as_before(model: Any) -> Generator[None, None, None]:
    """Leave what a model holds as it was, its own generators of random numbers too."""
    if not isinstance(model, nn.Module):
        yield
        return
    with left_as_it_was(model) as attributes:
        before = [(put, get()) for _, get, put in sources(attributes)]
        try:
            yield
        finally:
            for put, state in before:
                put(state)


#: What is raised where a run needs data.
_WITHOUT_DATA = (
    fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException, fake_tensor.UnsupportedOperatorException,
    fake_tensor.MetadataMismatchError, GuardOnDataDependentSymNode, NotImplementedError,
)  # fmt: skip


def _said(error: Exception | None) -> str:
    """An error's class and the first line of its words, of TorchScript's the last; nothing of none."""
    if error is None:
        return ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    script = isinstance(error, torch.jit.Error)
    return f"{type(error).__name__}: {lines[-1 if script else 0]}" if lines else type(error).__name__


def reshaped(example: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Entries of an example repeated, or left out, such that it has another shape: indices stay in their range."""
    if tuple(example.shape) == shape:
        return example
    if example.ndim != len(shape):
        raise InputError(f"an input of shape {tuple(example.shape)} can't become {shape}")
    out = example.detach()
    for axis, (old, new) in enumerate(zip(example.shape, shape, strict=True)):
        if old != new:
            if not old:
                out = torch.zeros(shape, dtype=example.dtype, device=example.device)
                break
            out = out.index_select(axis, torch.arange(new, device=out.device) % old)
    return out.requires_grad_(example.requires_grad)


def _no_lengths(tree: Tree, leaves: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]]) -> None:
    """InputError if an object among the arguments (a cache) holds the size of its tensors as a number."""
    first = 0
    stack = [tree]
    while stack:
        node = stack.pop()
        count = node.leaf_count()
        if node.kind == "object":
            own = zip(leaves[first : first + count], shapes[first : first + count], strict=True)
            changed = {a for t, shape in own for a, b in zip(t.shape, shape, strict=True) if a != b}
            held = {k for k, n in _numbers(node) if n in changed}
            if held:
                raise InputError(f"{node.type} holds a size of its tensors as a number ({', '.join(sorted(held))})")
            first += count
        elif node.kind == "leaf":
            first += 1
        else:
            stack.extend(reversed(node.children))


def _numbers(tree: Tree) -> Iterator[tuple[str, int]]:
    """The integers in an object, and the names of what holds them."""
    stack = [("", tree)]
    while stack:
        name, node = stack.pop()
        if node.kind == "constant" and isinstance(node.constant, int) and not isinstance(node.constant, bool):
            yield name, node.constant
        stack.extend((str(k), c) for k, c in zip(node.keys, node.children, strict=False))


def asked_again(
    dag: TensorDAG,
    capture: Import,
    model: Any,
    leaves: Sequence[torch.Tensor],
    tree: Tree,
    sketch: Sketch | None = None,
    held: Attributes | None = None,
) -> Again:
    """What a network that was just imported can be captured again by. ``held``: what its modules hold."""
    tensors = [*leaves, *(model.parameters() if isinstance(model, nn.Module) else ())]
    return Again(
        capture,
        model,
        tuple(leaves),
        tree,
        tuple(dag.graph.inputs)[: len(leaves)],
        None if held is None else _own(held),
        torch.is_grad_enabled(),
        autocast.surrounding(tensors),
        sketch,
    )


def source_of(model: Any, graph: Graph, signature: Signature) -> Again:
    """A model as the source of a network that didn't come from it here: a file's, one without its source.

    InputError unless it can be captured: a module or TorchScript, whose sizes aren't fixed.
    """
    if isinstance(model, Again):
        return model
    if not isinstance(model, nn.Module | torch.jit.ScriptFunction):
        raise InputError(
            f"a source is an nn.Module or a TorchScript module that can be captured at other sizes, "
            f"not a {type(model).__name__}"
        )
    args, kwargs = signature.inputs.children
    if kwargs.keys and kwargs.keys[-1].startswith(SEED) and kwargs.children[-1].kind == "leaf":
        kwargs = kwargs._replace(keys=kwargs.keys[:-1], children=kwargs.children[:-1])
    names = [n for n in graph.inputs if not n.startswith(SEED)]
    types = [graph.inputs[n].type for n in names]
    leaves = [torch.zeros(t.shape, dtype=TORCH_DTYPES[t.dtype]) for t in types]

    def capture(args: tuple[Any, ...], kwargs: dict[str, Any]) -> TensorDAG:
        return _called(TensorDAG.from_torch(model, args, kwargs, sizes="alone"), names)

    tree = signature.inputs._replace(children=(args, kwargs))
    plain = None if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction) else model
    cheap = None if plain is None else partial(sketched, Looked(without_compile(plain)), graph.name)
    held = None if plain is None else _own(Attributes(plain))
    return Again(capture, model, leaves, tree, names, held, torch.is_grad_enabled(), sketch=cheap)


def _called(dag: TensorDAG, names: Sequence[str]) -> TensorDAG:
    """A network with other names for its inputs, by their order: those of ``*args`` an ExportedProgram names itself."""
    own = [n for n in dag.graph.inputs if not n.startswith(SEED)]
    if len(own) != len(names) or own == list(names):
        return dag
    new = dict(zip(own, names, strict=True))
    edit = Edit(dag, {v: Input(new.get(n, n), v.type)() for n, v in dag.graph.inputs.items()})
    edit.run(lambda value, args: None)
    inputs = {new.get(n, n): edit.new[v] for n, v in dag.graph.inputs.items()}
    return finished(dag, edit.graph(inputs=inputs), edit.origins, checks=edit.checks())


def _own(held: Attributes) -> tuple[Attributes, list[dict[Any, Any]]]:
    """What a network's own modules hold now; of a script that is part of what it does."""
    return held, held.snapshot(held.own)
