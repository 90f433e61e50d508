"""A ``.tdag`` file as a SOURCE: what is in it is there as it is, and no framework is needed to read it."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tdagger.errors import InputError, SourceError, UnsupportedError
from tdagger.file.store import load
from tdagger.later import later
from tdagger.names import shown
from tdagger.network import Signature
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree, flatten
from tdagger.types import TensorType

if TYPE_CHECKING:
    from tdagger.frameworks.source import Options, Source


@dataclass
class FileSource:
    """The network or program of a file; see :class:`tdagger.frameworks.source.Source`.

    It is run by numpy, and back by torch.
    """

    name: str
    network: TensorDAG | Program

    @property
    def bound(self) -> Mapping[str, int]:
        return {}

    def dag(self, external: bool = False) -> TensorDAG:
        del external
        if isinstance(self.network, Program):
            raise UnsupportedError(f"{shown(self.name)} is a program, of several networks")
        return self.network

    def program(self) -> Program | None:
        return self.network if isinstance(self.network, Program) else None

    def random_inputs(self, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        arrays = [drawn(rng, type_) for type_ in input_types(self.network)]
        return _called(self.network).inputs.unflatten(cast(list[Any], arrays))

    def run(self, inputs: Any) -> list[Array]:
        return self.run_reference(self.network, inputs)

    def run_round_trip(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        args, kwargs = inputs
        if isinstance(dag, Program):
            return later("torch.outputs")(dag.to_torch(copy=True), args, kwargs)
        found = later("torch.by_call")(dag.to_torch().eval(), dag)(dag.bind(args, kwargs))
        return [found[v] for v in dag.graph.outputs.values()]

    def run_reference(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        args, kwargs = inputs
        count = len(dag.outputs if isinstance(dag, Program) else dag.graph.outputs)
        outputs = Tree("tuple", tuple(range(count)), (Tree("leaf"),) * count)
        return list(replace(dag, signature=replace(_called(dag), outputs=outputs)).run(*args, **kwargs))


def _called(dag: TensorDAG | Program) -> Signature:
    return dag.called if isinstance(dag, Program) else dag.signature


def input_types(dag: TensorDAG | Program) -> list[TensorType]:
    """The types of what it takes; of sizes that vary the largest."""
    if isinstance(dag, Program):
        return [dag.slots[n].type for n in dag.inputs]
    return [v.type for v in dag.graph.inputs.values()]


def drawn(rng: np.random.Generator, type_: TensorType) -> Array:
    """A random array: normal numbers, integers small enough to be an index of anything."""
    dtype, shape = type_.dtype, type_.shape
    if dtype.is_float or dtype.is_complex:
        data = rng.standard_normal(shape)
        data = data + 1j * rng.standard_normal(shape) if dtype.is_complex else data
    else:
        data = rng.integers(0, 2, shape)
    return np.asarray(data).astype(dtype.numpy)


def nearby(inputs: Any) -> list[Any]:
    """Inputs, and twice the same with floats a millionth of themselves off: less than any network is told apart by."""
    leaves: list[Array]
    leaves, tree = flatten(inputs, lambda x: isinstance(x, np.ndarray))
    found = [inputs]
    for seed in range(2):
        rng: Any = np.random.default_rng(seed)
        moved: list[Any] = []
        for a in leaves:
            if a.dtype.kind in "fc":
                noise: Any = rng.standard_normal(a.shape)
                moved.append(np.asarray(a * (1 + 1e-6 * noise), a.dtype))
            else:
                moved.append(a)
        found.append(tree.unflatten(moved))
    return found


@dataclass
class ModelSource:
    """What sources of models in files share: a subclass imports the model and runs it (``run``).

    ``imported`` makes a network of it, ``as_program`` a program, where the format has control flow.
    """

    name: str
    path: Path

    @property
    def bound(self) -> Mapping[str, int]:
        return {}

    def imported(self, external: bool) -> TensorDAG:
        """The network of the file; InputError for sizes that it leaves open."""
        raise NotImplementedError

    def run(self, inputs: Any) -> list[Array]:
        """The outputs of the model by its own runtime."""
        raise NotImplementedError

    def as_program(self) -> Program | None:
        """The model as a program, None where none can be made."""
        return None

    def dag(self, external: bool = False) -> TensorDAG:
        with self._asking():
            return self.imported(external)

    def program(self) -> Program | None:
        with self._asking():
            return self.as_program()

    @contextmanager
    def _asking(self) -> Generator[None]:
        """SourceErrors that say how sizes are given on a command line in the place of InputErrors."""
        try:
            yield
        except InputError as e:
            raise SourceError(
                f"{e}; on a command line --batch 1, --shape NAME=SIZES or, of commands that have it, --resize NAME=SIZE"
            ) from e

    @cached_property
    def network(self) -> TensorDAG | Program:
        """The network or program that ``bind`` and random inputs are of."""
        return imported(self, external=True)

    @cached_property
    def own(self) -> FileSource:
        """The network or program as if it came from a ``.tdag``."""
        return FileSource(self.name, self.network)

    def random_inputs(self, seed: int) -> Any:
        """As for a ``.tdag``: normal floats, integers of 0 and 1."""
        return self.own.random_inputs(seed)

    def run_ways(self, inputs: Any) -> list[list[list[Array]]]:
        """The outputs by each way the runtime has to compute them, on inputs and on some that are as good as equal."""
        return [[self.run(near) for near in nearby(inputs)]]

    def run_round_trip(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        return self.own.run_round_trip(dag, inputs)

    def run_reference(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        return self.own.run_reference(dag, inputs)


def imported(source: Source, external: bool = False) -> TensorDAG | Program:
    """What a SOURCE is: a network if it can be one, else a program."""
    try:
        return source.dag(external)
    except UnsupportedError:
        program = source.program()
        if program is None:
            raise
        return program


def first_line(error: Exception) -> str:
    """What a runtime's error says first, as it can be shown; the name of its class if it says nothing."""
    said = str(error).strip()
    return shown(said.splitlines()[0] if said else type(error).__name__)


def shapes_of(
    path: Path, options: Options, what: str, takes: Collection[str] = ("--batch", "--shape")
) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs that options give; SourceError for options that files of this kind don't take."""
    odd = [name for name in options.given if name not in takes]
    if odd:
        raise SourceError(f"{shown(path)}: {odd[0]} isn't for {what} files")
    for name, spec in options.shapes.items():
        if spec.dtype is not None:
            raise SourceError(f"{shown(path)}: --shape {shown(name)}: the file says the element types of its inputs")
    return {name: spec.shape for name, spec in options.shapes.items()}


def from_tdag(path: Path, options: Options) -> FileSource:
    """What is in a ``.tdag`` file, with the weights of another file if the options name one."""
    fixed = [name for name in options.given if name not in ("--meta", "--weights")]
    if options.dtype is not None or fixed:
        told = (fixed or ["--dtype"])[0]
        raise SourceError(
            f"{shown(path)}: a network in a file is as it was saved, {told} can't change it (--resize can)"
        )
    return FileSource(path.stem, load(path, weights=options.weights))
