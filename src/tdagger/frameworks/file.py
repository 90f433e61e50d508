"""A ``.tdag`` file as a SOURCE: the network is there as it is, and no framework is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tdagger.errors import SourceError
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
