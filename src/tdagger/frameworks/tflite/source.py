"""A ``.tflite`` file, or one in a bundle, as a SOURCE: imported by its sizes, run by ai-edge-litert's interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import InputError, SourceError
from tdagger.frameworks.file import FileSource
from tdagger.frameworks.tflite.importer import Asked, imported, signature_of
from tdagger.frameworks.tflite.schema import Model, opened
from tdagger.names import shown
from tdagger.op import Array
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class TfliteSource:
    """A model in a file; see :class:`tdagger.frameworks.source.Source`."""

    name: str
    path: Path
    model: Model
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]

    def dag(self, external: bool = False) -> TensorDAG:
        try:
            return imported(self.model, Asked(self.sizes, self.shapes, external=external))
        except InputError as e:
            raise SourceError(f"{e}; on a command line --batch 1, or --shape NAME=SIZES for each") from e

    @cached_property
    def _network(self) -> TensorDAG:
        return self.dag(external=True)

    @cached_property
    def _file(self) -> FileSource:
        return FileSource(self.name, self._network)

    def random_inputs(self, seed: int) -> Any:
        """As for a ``.tdag``: normal floats, integers of 0 and 1."""
        return self._file.random_inputs(seed)

    def _interpreter(self) -> Any:
        """A new one, whose state is as it begins: nothing resets resource variables."""
        from ai_edge_litert.interpreter import Interpreter

        network = self._network
        try:
            found = Interpreter(model_content=bytes(self.model.data), num_threads=1)
            for place, value in zip(self._places, network.graph.inputs.values(), strict=True):
                found.resize_tensor_input(place, value.shape)
            found.allocate_tensors()
        except (RuntimeError, ValueError) as e:
            raise SourceError(f"ai-edge-litert can't load {shown(self.path)}: {_first(e)}") from e
        return found

    @cached_property
    def _places(self) -> list[int]:
        return [*self.model.subgraphs[signature_of(self.model, None).subgraph].inputs]

    def run(self, inputs: Any) -> list[Array]:
        """The outputs by ai-edge-litert, with its state as it begins; SourceError if it can't."""
        args, kwargs = inputs
        given = self._network.bind(args, kwargs)
        runner = self._interpreter()
        outputs = self.model.subgraphs[signature_of(self.model, None).subgraph].outputs
        try:
            for place, array in zip(self._places, given.values(), strict=True):
                runner.set_tensor(place, array)
            runner.invoke()
            return [np.array(runner.get_tensor(i)) for i in outputs]
        except (RuntimeError, ValueError) as e:
            raise SourceError(f"ai-edge-litert can't run {shown(self.path)}: {_first(e)}") from e

    def run_round_trip(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        return self._file.run_round_trip(dag, inputs)

    def run_reference(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        return self._file.run_reference(dag, inputs)


def _first(error: Exception) -> str:
    return shown(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)


def from_file(path: Path, options: Options) -> TfliteSource:
    """The model in a ``.tflite`` file or a ``.task`` bundle, with the sizes that the options say.

    ``--batch`` is for the first dimension of every input, where the file leaves it open; ``--shape`` for whole inputs.
    What a file fixes stays (SourceError): ``--resize`` changes it.
    """
    odd = [name for name in options.given if name not in ("--batch", "--shape")]
    if odd:
        raise SourceError(f"{shown(path)}: {odd[0]} isn't for .tflite files")
    model = opened(path)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, spec in options.shapes.items():
        if spec.dtype is not None:
            raise SourceError(f"{shown(path)}: --shape {shown(name)}: the file says the element types of its inputs")
        shapes[name] = spec.shape
    sizes = {} if options.batch is None else _batch(model, options.batch, shapes)
    return TfliteSource(path.stem, path, model, shapes, sizes)


def _batch(model: Model, batch: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes by which every input has a first dimension of ``batch``; SourceError if the file fixes another."""
    which = signature_of(model, None)
    graph = model.subgraphs[which.subgraph]
    names = {i: n for n, i in which.inputs.items()}
    found: dict[str, int] = {}
    for i in graph.inputs:
        tensor = graph.tensors[i]
        name = names.get(i, tensor.name)
        if name in shapes or not tensor.shape:
            continue
        if tensor.signature[0] < 0:
            found[f"{name}.0"] = batch
        elif tensor.shape[0] != batch:
            raise SourceError(
                f"{model.name}: the first size of input {shown(name)} is {tensor.shape[0]} in the file, --batch can't "
                "change it (--resize can)"
            )
    return found
