"""An ``.onnx`` file as a SOURCE: imported by its sizes, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.file import ModelSource, first_line, nearby, shapes_of
from tdagger.frameworks.onnx.file.read import Model, read
from tdagger.frameworks.onnx.file.sizes import inputs_of
from tdagger.frameworks.onnx.importer import Asked, imported
from tdagger.frameworks.onnx.programs import from_onnx
from tdagger.frameworks.onnx.selection import SELECTING
from tdagger.frameworks.onnx.subgraphs import CONTROL
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class OnnxSource(ModelSource):
    """A model in a file; see :class:`tdagger.frameworks.source.Source`."""

    model: Model
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    values: dict[str, Any]

    @property
    def bound(self) -> Mapping[str, int]:
        return self.sizes

    def imported(self, external: bool) -> TensorDAG:
        return imported(self.model, Asked(self.sizes, self.shapes, self.values, external, ""))

    def as_program(self) -> Program | None:
        if not any(n.op_type in CONTROL or n.op_type in SELECTING for n in self.model.proto.graph.node):
            return None
        return from_onnx(self.model, sizes=self.sizes, inputs=self.shapes, values=self.values)

    def run_round_trip(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        """As for other files by torch, of a program by onnxruntime: as a model again."""
        if not isinstance(dag, Program):
            return super().run_round_trip(dag, inputs)
        args, kwargs = inputs
        session = self._opened(dag.to_onnx().SerializeToString())
        return self._run(session, dag.bind(args, kwargs))[: len(dag.outputs)]

    @cached_property
    def _session(self) -> Any:
        return self._opened(str(self.path))

    def _opened(self, model: Any, fused: bool = True) -> Any:
        """A session of onnxruntime; unless ``fused``, one that runs the nodes as they are."""
        try:
            import onnxruntime as runtime
        except ModuleNotFoundError as e:
            raise SourceError(f"{shown(self.path)} is run by onnxruntime: pip install onnxruntime") from e

        def opened(exact: bool) -> Any:
            options: Any = runtime.SessionOptions()
            options.log_severity_level = 4
            if exact:  # else sums of products of u8 and i8 saturate on processors without VNNI
                options.add_session_config_entry("session.x64quantprecision", "1")
            if not fused:
                options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        try:
            return opened(exact=True)
        except Exception:  # it can't always: findings/exact_products_of_shared_weights.sh
            pass
        try:
            return opened(exact=False)
        except Exception as e:  # onnxruntime's own errors share no class
            raise SourceError(f"onnxruntime can't load {shown(self.path)}: {first_line(e)}") from e

    def run_ways(self, inputs: Any) -> list[list[list[Array]]]:
        """By onnxruntime as it fuses nodes, and node by node."""
        sessions = self._session, self._opened(str(self.path), fused=False)
        near = [self.network.bind(*given) for given in nearby(inputs)]
        return [[self._run(session, given) for given in near] for session in sessions]

    def run(self, inputs: Any) -> list[Array]:
        """The outputs by onnxruntime; SourceError if it isn't there, or can't."""
        network, session = self.network, self._session
        args, kwargs = inputs
        return self._run(session, network.bind(args, kwargs))

    def _run(self, session: Any, given: Mapping[str, Array]) -> list[Array]:
        own = {i.name for i in session.get_inputs()}
        types = {i.name: i.dtype for i in inputs_of(self.model.proto.graph)}
        given = {**given, **{n: np.asarray(x, types[n].numpy) for n, x in self.values.items()}}
        try:
            found = session.run([o.name for o in session.get_outputs()], {n: a for n, a in given.items() if n in own})
        except Exception as e:  # as above
            raise SourceError(f"onnxruntime can't run {shown(self.path)}: {first_line(e)}") from e
        return list(found)


def from_file(path: Path, options: Options) -> OnnxSource:
    """The model in an ``.onnx`` file, with the sizes that the options say.

    ``--batch`` is for the first dimension of every input, where the file leaves it open; ``--shape`` for whole inputs;
    ``--resize`` and ``--at`` for sizes that have a name there.
    What a file fixes stays (InputError): ``--resize`` changes it. ``--set`` makes an input a constant.
    """
    shapes = shapes_of(path, options, ".onnx", ("--batch", "--shape", "--set"))
    model = read(path)
    sizes = _named(model, options.sizes, shapes)
    if options.batch is not None:
        sizes |= _batch(model, options.batch, shapes)
    return OnnxSource(path.stem, path, model, shapes, sizes, dict(options.settings))


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
