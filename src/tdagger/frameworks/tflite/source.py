"""A ``.tflite`` file, or one in a bundle, as a SOURCE: imported by its sizes, run by ai-edge-litert's interpreter."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.file import ModelSource, first_line, input_types, shapes_of
from tdagger.frameworks.tflite.importer import Asked, imported, signature_of
from tdagger.frameworks.tflite.programs import from_tflite
from tdagger.frameworks.tflite.read import opened
from tdagger.frameworks.tflite.schema import Model, Tensor
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class TfliteSource(ModelSource):
    """A model in a file; see :class:`tdagger.frameworks.source.Source`."""

    model: Model
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]

    @property
    def bound(self) -> Mapping[str, int]:
        return self.sizes

    def imported(self, external: bool) -> TensorDAG:
        return imported(self.model, Asked(self.sizes, self.shapes, external=external))

    def as_program(self) -> Program | None:
        return from_tflite(self.model, sizes=self.sizes, inputs=self.shapes)

    def _interpreter(self) -> Any:
        """A new one, whose state is as it begins: nothing resets resource variables."""
        from ai_edge_litert.interpreter import Interpreter

        network = self.network
        try:
            found = Interpreter(model_content=bytes(self.model.data), num_threads=1)
            for place, type_ in zip(self._places, input_types(network), strict=True):
                found.resize_tensor_input(place, type_.shape)
            found.allocate_tensors()
        except (RuntimeError, ValueError) as e:
            raise SourceError(f"ai-edge-litert can't load {shown(self.path)}: {first_line(e)}") from e
        return found

    @cached_property
    def _places(self) -> list[int]:
        return [*self.model.subgraphs[signature_of(self.model, None).subgraph].inputs]

    def run(self, inputs: Any) -> list[Array]:
        """The outputs by ai-edge-litert, with its state as it begins; SourceError if it can't."""
        args, kwargs = inputs
        given = self.network.bind(args, kwargs)
        runner = self._interpreter()
        outputs = self.model.subgraphs[signature_of(self.model, None).subgraph].outputs
        try:
            for place, array in zip(self._places, given.values(), strict=True):
                runner.set_tensor(place, array)
            runner.invoke()
            return [np.array(runner.get_tensor(i)) for i in outputs]
        except (RuntimeError, ValueError) as e:
            raise SourceError(f"ai-edge-litert can't run {shown(self.path)}: {first_line(e)}") from e


def from_file(path: Path, options: Options) -> TfliteSource:
    """The model in a ``.tflite`` file or a ``.task`` bundle, with the sizes that the options say.

    ``--batch`` is for the first dimension of every input, where the file leaves it open; ``--shape`` for whole inputs,
    ``--resize`` and ``--at`` for sizes by the names they are asked for by, ``x.0``. What a file fixes stays
    (SourceError): ``--resize`` changes it.
    """
    shapes = shapes_of(path, options, ".tflite")
    model = opened(path)
    sizes = {n: options.sizes[n] for n in _left_open(model, shapes) if n in options.sizes}
    if options.batch is not None:
        sizes |= _batch(model, options.batch, shapes)
    return TfliteSource(path.stem, path, model, shapes, sizes)


def _inputs(model: Model, shapes: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """The inputs that are no numbers by their names, but for those whose shapes are given."""
    which = signature_of(model, None)
    graph = model.subgraphs[which.subgraph]
    names = {i: n for n, i in which.inputs.items()}
    for i in graph.inputs:
        tensor = graph.tensors[i]
        name = names.get(i, tensor.name)
        if name not in shapes and tensor.shape:
            yield name, tensor


def _left_open(model: Model, shapes: Container[str]) -> list[str]:
    """The names of the sizes that are left open."""
    return [f"{name}.{i}" for name, t in _inputs(model, shapes) for i, size in enumerate(t.signature) if size < 0]


def _batch(model: Model, batch: int, shapes: Container[str]) -> dict[str, int]:
    """The sizes by which every input has a first dimension of ``batch``; SourceError if the file fixes another."""
    found: dict[str, int] = {}
    for name, tensor in _inputs(model, shapes):
        if tensor.signature[0] < 0:
            found[f"{name}.0"] = batch
        elif tensor.shape[0] != batch:
            raise SourceError(
                f"{model.name}: the first size of input {shown(name)} is {tensor.shape[0]} in the file, --batch can't "
                "change it (--resize can)"
            )
    return found
