"""An ``.onnx`` file as a SOURCE: imported by its sizes, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.file import ModelSource, drawn, first_line, shapes_of
from tdagger.frameworks.onnx.importer import Asked, imported
from tdagger.frameworks.onnx.programs import from_onnx
from tdagger.frameworks.onnx.read import Model, read
from tdagger.frameworks.onnx.sizes import inputs_of
from tdagger.frameworks.onnx.subgraphs import CONTROL
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class OnnxSource(ModelSource):
    """A model in a file; see :class:`tdagger.frameworks.source.Source`."""

    model: Model
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]

    def imported(self, external: bool) -> TensorDAG:
        return imported(self.model, Asked(self.sizes, self.shapes, None, external, ""))

    # A model with control flow on data is a program.

    def program(self) -> Program | None:
        """The model as a program, None if a network is all there is: all that it asks is known."""
        if not any(n.op_type in CONTROL for n in self.model.proto.graph.node):
            return None
        with self.asking():
            found = from_onnx(self.model, sizes=self.sizes, inputs=self.shapes)
        return None if len(found.blocks) == 1 and not any(s.lengths for s in found.slots.values()) else found

    def random_arrays(self, program: Program, seed: int) -> dict[str, Array]:
        """Arrays by the names of inputs, drawn as for a ``.tdag``."""
        rng = np.random.default_rng(seed)
        return {n: drawn(rng, program.slots[n].type) for n in program.inputs}

    def run_arrays(self, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of the model by onnxruntime."""
        return self._run(self._session, given)

    def run_again(self, program: Program, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of the program as a model again."""
        return self._run(self._opened(program.to_onnx().SerializeToString()), given)

    def run_program(self, program: Program, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of the program by numpy."""
        args, kwargs = program.called.inputs.unflatten([given[n] for n in program.inputs])
        count = len(program.outputs)
        outputs = Tree("tuple", tuple(range(count)), (Tree("leaf"),) * count)
        return list(replace(program, signature=replace(program.called, outputs=outputs)).run(*args, **kwargs))

    @cached_property
    def _session(self) -> Any:
        return self._opened(str(self.path))

    def _opened(self, model: Any) -> Any:
        try:
            import onnxruntime as runtime
        except ModuleNotFoundError as e:
            raise SourceError(f"{shown(self.path)} is run by onnxruntime: pip install onnxruntime") from e
        options: Any = runtime.SessionOptions()
        options.log_severity_level = 4
        try:
            return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's own errors share no class
            raise SourceError(f"onnxruntime can't load {shown(self.path)}: {first_line(e)}") from e

    def run(self, inputs: Any) -> list[Array]:
        """The outputs by onnxruntime; SourceError if it isn't there, or can't."""
        network, session = self.network, self._session
        args, kwargs = inputs
        return self._run(session, network.bind(args, kwargs))

    def _run(self, session: Any, given: Mapping[str, Array]) -> list[Array]:
        own = {i.name for i in session.get_inputs()}
        try:
            found = session.run([o.name for o in session.get_outputs()], {n: a for n, a in given.items() if n in own})
        except Exception as e:  # as above
            raise SourceError(f"onnxruntime can't run {shown(self.path)}: {first_line(e)}") from e
        return list(found)


def from_file(path: Path, options: Options) -> OnnxSource:
    """The model in an ``.onnx`` file, with the sizes that the options say.

    ``--batch`` is for the first dimension of every input, where the file leaves it open; ``--shape`` for whole inputs;
    ``--resize`` and ``--at`` for sizes that have a name there.
    What a file fixes stays (InputError): ``--resize`` changes it.
    """
    shapes = shapes_of(path, options, ".onnx")
    model = read(path)
    sizes = _named(model, options.sizes, shapes)
    if options.batch is not None:
        sizes |= _batch(model, options.batch, shapes)
    return OnnxSource(path.stem, path, model, shapes, sizes)


def _named(model: Model, sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes that the file and the shapes leave open, of those that are asked for by name."""
    inputs = inputs_of(model.proto.graph)
    by_shape = {d for own in inputs if own.name in shapes for d in own.dims or ()}
    left_open = {d for own in inputs for d in own.dims or ()} - by_shape
    return {name: size for name, size in sizes.items() if name in left_open}


def _batch(model: Model, batch: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes by which every input has a first dimension of ``batch``; SourceError if the file fixes another."""
    found: dict[str, int] = {}
    for own in inputs_of(model.proto.graph):
        if own.name in shapes or not own.dims:
            continue
        first = own.dims[0]
        if isinstance(first, str):
            found[first] = batch
        elif first != batch:
            raise SourceError(
                f"{model.name}: the first size of input {shown(own.name)} is {first} in the file, --batch can't change "
                "it (--resize can)"
            )
    return found
