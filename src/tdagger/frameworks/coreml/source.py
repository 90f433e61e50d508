"""An ``.mlpackage`` or ``.mlmodel`` as a SOURCE. CoreML runs on macOS only, elsewhere numpy runs the network."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.coreml.asked import Asked, inputs_of
from tdagger.frameworks.coreml.importer import NETWORKS, imported
from tdagger.frameworks.coreml.programs import from_coreml
from tdagger.frameworks.coreml.read import Model, read
from tdagger.frameworks.file import ModelSource, first_line, shapes_of
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class CoreMLSource(ModelSource):
    """A model in a file; see :class:`tdagger.frameworks.source.Source`."""

    model: Model
    shapes: dict[str, tuple[int, ...]]

    def imported(self, external: bool) -> TensorDAG:
        return imported(self.model, Asked(self.shapes, None, external, self.name))

    def as_program(self) -> Program | None:
        if self.model.spec.WhichOneof("Type") not in ("mlProgram", *NETWORKS):
            return None
        return from_coreml(self.model, inputs=self.shapes, name=self.name)

    def run(self, inputs: Any) -> list[Array]:
        """The outputs by CoreML on macOS, elsewhere those of the imported network by numpy."""
        if sys.platform != "darwin":
            return self.own.run(inputs)
        return self._by_coreml(inputs)

    def _by_coreml(self, inputs: Any) -> list[Array]:
        try:
            tools: Any = importlib.import_module("coremltools")
            model = tools.models.MLModel(str(self.path))
            args, kwargs = inputs
            given = self.network.bind(args, kwargs)
            found: dict[str, Any] = model.predict({n: np.asarray(a) for n, a in given.items()})
        except Exception as e:  # CoreML's own errors share no class
            raise SourceError(f"CoreML can't run {shown(self.path)}: {first_line(e)}") from e
        outputs = self.dag(external=True).graph.outputs.items()
        return [np.asarray(found[n]).astype(v.dtype.numpy).reshape(v.shape) for n, v in outputs]


def from_file(path: Path, options: Options) -> CoreMLSource:
    """The model in a file, with the sizes that the options say where the file leaves them open.

    ``--batch`` is for the first dimension of every input, ``--shape`` for whole inputs. What a file fixes stays:
    ``--resize`` changes it.
    """
    shapes = shapes_of(path, options, "CoreML")
    try:
        model = read(path)
    except ModuleNotFoundError as e:
        raise SourceError("coremltools is not installed: pip install 'tdagger[coreml]'") from e
    if options.batch is not None:
        for name, shape in inputs_of(model).items():
            if name not in shapes and shape:
                shapes[name] = (options.batch, *shape[1:])
    return CoreMLSource(path.stem, path, model, shapes)
