"""A ``.tdag`` file as a SOURCE: the network is there as it is, and no framework is needed to read it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tdagger.errors import InputError, SourceError
from tdagger.file.store import load
from tdagger.later import later
from tdagger.names import shown
from tdagger.op import Array
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options


@dataclass
class FileSource:
    """The network of a file; see :class:`tdagger.frameworks.source.Source`. It is run by numpy, and back by torch."""

    name: str
    network: TensorDAG

    def dag(self, external: bool = False) -> TensorDAG:
        del external
        return self.network

    def random_inputs(self, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        arrays = [drawn(rng, v.type) for v in self.network.graph.inputs.values()]
        return self.network.signature.inputs.unflatten(cast(list[Any], arrays))

    def run(self, inputs: Any) -> list[Array]:
        return self.run_reference(self.network, inputs)

    def run_round_trip(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        args, kwargs = inputs
        found = later("torch.by_call")(dag.to_torch().eval(), dag)(dag.bind(args, kwargs))
        return [found[v] for v in dag.graph.outputs.values()]

    def run_reference(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        args, kwargs = inputs
        flat = replace(dag, signature=replace(dag.signature, outputs=_as_tuple(dag)))
        return list(flat.run(*args, **kwargs))


def drawn(rng: np.random.Generator, type_: TensorType) -> Array:
    """A random array: normal numbers, integers small enough to be an index of anything."""
    dtype, shape = type_.dtype, type_.shape
    if dtype.is_float or dtype.is_complex:
        data = rng.standard_normal(shape)
        data = data + 1j * rng.standard_normal(shape) if dtype.is_complex else data
    else:
        data = rng.integers(0, 2, shape)
    return np.asarray(data).astype(dtype.numpy)


@dataclass
class ModelSource:
    """What sources of models in files share: a subclass imports the model (``imported``) and runs it (``run``)."""

    name: str
    path: Path

    def imported(self, external: bool) -> TensorDAG:
        """The network of the file; InputError for sizes that it leaves open."""
        raise NotImplementedError

    def dag(self, external: bool = False) -> TensorDAG:
        with self.asking():
            return self.imported(external)

    @contextmanager
    def asking(self) -> Generator[None]:
        """SourceErrors that say how sizes are given on a command line in the place of InputErrors."""
        try:
            yield
        except InputError as e:
            raise SourceError(
                f"{e}; on a command line --batch 1, --resize NAME=SIZE or --shape NAME=SIZES for each"
            ) from e

    @cached_property
    def network(self) -> TensorDAG:
        """The network that ``bind`` and random inputs are of."""
        return self.dag(external=True)

    @cached_property
    def own(self) -> FileSource:
        """The network as if it came from a ``.tdag``."""
        return FileSource(self.name, self.network)

    def random_inputs(self, seed: int) -> Any:
        """As for a ``.tdag``: normal floats, integers of 0 and 1."""
        return self.own.random_inputs(seed)

    def run_round_trip(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        return self.own.run_round_trip(dag, inputs)

    def run_reference(self, dag: TensorDAG, inputs: Any) -> list[Array]:
        return self.own.run_reference(dag, inputs)


def first_line(error: Exception) -> str:
    """What a runtime's error says first, as it can be shown; the name of its class if it says nothing."""
    said = str(error).strip()
    return shown(said.splitlines()[0] if said else type(error).__name__)


def shapes_of(path: Path, options: Options, what: str) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs that options give; SourceError for options that files of this kind don't take."""
    odd = [name for name in options.given if name not in ("--batch", "--shape")]
    if odd:
        raise SourceError(f"{shown(path)}: {odd[0]} isn't for {what} files")
    for name, spec in options.shapes.items():
        if spec.dtype is not None:
            raise SourceError(f"{shown(path)}: --shape {shown(name)}: the file says the element types of its inputs")
    return {name: spec.shape for name, spec in options.shapes.items()}


def _as_tuple(dag: TensorDAG) -> Any:
    from tdagger.tree import Tree

    count = len(dag.graph.outputs)
    return Tree("tuple", tuple(range(count)), (Tree("leaf"),) * count)


def from_tdag(path: Path, options: Options) -> FileSource:
    """The network in a ``.tdag`` file, with the weights of another file if the options name one."""
    fixed = [name for name in options.given if name not in ("--meta", "--weights")]
    if options.dtype is not None or fixed:
        told = (fixed or ["--dtype"])[0]
        raise SourceError(
            f"{shown(path)}: a network in a file is as it was saved, {told} can't change it (--resize can)"
        )
    found = load(path, weights=options.weights)
    if not isinstance(found, TensorDAG):
        raise SourceError(f"{shown(path)}: is a program, of several networks: td.load(path).dag(block) is one of them")
    return FileSource(path.stem, found)
