"""An ``.mlpackage`` or ``.mlmodel`` as a SOURCE. CoreML runs on macOS only, elsewhere numpy runs the network."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import InputError, SourceError
from tdagger.frameworks.coreml.importer import Asked, imported, inputs_of
from tdagger.frameworks.coreml.read import Model, read
from tdagger.frameworks.file import FileSource
from tdagger.names import shown
from tdagger.op import Array
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class CoreMLSource:
    """A model in a file; see :class:`tdagger.frameworks.source.Source`."""

    name: str
    path: Path
    model: Model
    shapes: dict[str, tuple[int, ...]]

    def dag(self, external: bool = False) -> TensorDAG:
        try:
            return imported(self.model, Asked(self.shapes, None, external, self.name))
        except InputError as e:
            raise SourceError(f"{e}; on a command line --batch 1, or --shape NAME=SIZES") from e

    @cached_property
    def _network(self) -> TensorDAG:
        return self.dag(external=True)

    @cached_property
    def _file(self) -> FileSource:
        return FileSource(self.name, self._network)

    def random_inputs(self, seed: int) -> Any:
        """As for a ``.tdag``: normal floats, integers of 0 and 1."""
        return self._file.random_inputs(seed)

    def run(self, inputs: Any) -> list[Array]:
        """The outputs by CoreML on macOS, elsewhere those of the imported network by numpy."""
        if sys.platform != "darwin":
            return self._file.run(inputs)
        return self._by_coreml(inputs)

    def _by_coreml(self, inputs: Any) -> list[Array]:
        try:
            tools: Any = importlib.import_module("coremltools")
            model = tools.models.MLModel(str(self.path))
            args, kwargs = inputs
            given = self._network.bind(args, kwargs)
            found: dict[str, Any] = model.predict({n: np.asarray(a) for n, a in given.items()})
        except Exception as e:  # CoreML's own errors share no class
            raise SourceError(f"CoreML can't run {shown(self.path)}: {shown(str(e).strip().splitlines()[0])}") from e
        outputs = self._network.graph.outputs.items()
        return [np.asarray(found[n]).astype(v.dtype.numpy).reshape(v.shape) for n, v in outputs]

    def run_round_trip(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        return self._file.run_round_trip(dag, inputs)

    def run_reference(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        return self._file.run_reference(dag, inputs)


def from_file(path: Path, options: Options) -> CoreMLSource:
    """The model in a file, with the sizes that the options say where the file leaves them open.

    ``--batch`` is for the first dimension of every input, ``--shape`` for whole inputs. What a file fixes stays:
    ``--resize`` changes it.
    """
    odd = [name for name in options.given if name not in ("--batch", "--shape")]
    if odd:
        raise SourceError(f"{shown(path)}: {odd[0]} isn't for CoreML files")
    try:
        model = read(path)
    except ModuleNotFoundError as e:
        raise SourceError("coremltools is not installed: pip install 'tdagger[coreml]'") from e
    shapes: dict[str, tuple[int, ...]] = {}
    for name, spec in options.shapes.items():
        if spec.dtype is not None:
            raise SourceError(f"{shown(path)}: --shape {shown(name)}: the file says the element types of its inputs")
        shapes[name] = spec.shape
    if options.batch is not None:
        for name, shape in inputs_of(model).items():
            if name not in shapes and shape:
                shapes[name] = (options.batch, *shape[1:])
    return CoreMLSource(path.stem, path, model, shapes)
