"""Pipelines: passes run one after the other, timed, counted, and checked on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from tdagger.errors import AttributeValueError, GraphError, TypeMismatchError
from tdagger.graph import Graph
from tdagger.interpret import run
from tdagger.network import Network
from tdagger.op import Array
from tdagger.types import TensorType

D = TypeVar("D", bound=Network)
#: A pass: a function of a network that gives a network.
Pass = Callable[[Any], Any]


@dataclass(frozen=True)
class Step:
    """What a pass did: seconds of processor time, nodes before and after, the largest error if that was checked."""

    name: str
    seconds: float
    before: int
    after: int
    error: float | None = None

    def __str__(self) -> str:
        error = "" if self.error is None else f"  error {self.error:.1e}"
        return f"{self.name:<20} {self.seconds * 1e3:>9.1f} ms {self.before:>8} -> {self.after} nodes{error}"


@dataclass
class Pipeline:
    """Passes in order: ``Pipeline([fold_batch_norm, simplify]).run(dag)``; ``print(pipeline)`` says what they did.

    A pass is a function of a TensorDAG that gives a TensorDAG; it goes by the name of the function. ``check`` makes
    every run compare types, and what ``check`` random inputs give, with those of the network before each pass.

    >>> import tdagger as td
    >>> from tdagger.transform.passes import simplify
    >>> pipeline = Pipeline([simplify]).add(lambda dag: dag.replace("exp", td.sin), name="sines")
    >>> pipeline.names
    ['simplify', 'sines']
    >>> pipeline.run(td.network(lambda x: td.exp(x * 1.0), {"x": (2,)})).graph.outputs["out"].op
    sin
    """

    passes: Iterable[Pass] = ()
    check: int = 0
    tolerance: float = 1e-6
    #: What each pass did in the last run.
    steps: list[Step] = field(default_factory=list[Step], init=False)

    def __post_init__(self) -> None:
        self._passes = [(_name(p), _callable(p)) for p in self.passes]

    @property
    def names(self) -> list[str]:
        """The names of the passes in order."""
        return [n for n, _ in self._passes]

    def add(self, step: Pass, name: str = "") -> Pipeline:
        """Append a pass; the pipeline itself, so that calls can be chained."""
        return self.insert(len(self._passes), step, name)

    def insert(self, at: int | str, step: Pass, name: str = "") -> Pipeline:
        """Put a pass before another, by its place or name; AttributeValueError if there is no such pass."""
        self._passes.insert(at if isinstance(at, int) else self._place(at), (name or _name(step), _callable(step)))
        return self

    def remove(self, name: str) -> Pipeline:
        """Leave a pass out; AttributeValueError if there is none of that name."""
        self._passes.pop(self._place(name))
        return self

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise AttributeValueError(f"the pipeline has no pass {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def run(self, dag: D) -> D:
        """The network after all passes; with ``check`` GraphError names the pass that changed an output or a type."""
        self.steps = []
        for name, step in self._passes:
            start = time.process_time()
            after: Any = step(dag)
            if not isinstance(getattr(after, "graph", None), Graph):
                raise GraphError(f"pass {name} gave {after!r}, and not a network")
            seconds = time.process_time() - start
            error = self._checked(name, dag, after) if self.check else None
            self.steps.append(Step(name, seconds, len(dag.graph), len(after.graph), error))
            dag = after
        return dag

    def __call__(self, dag: D) -> D:
        return self.run(dag)

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps)) or f"pipeline of {', '.join(self.names) or 'nothing'}"

    def _checked(self, name: str, before: Network, after: Network) -> float:
        """The largest relative error of any output or update; GraphError if it is too large."""
        kinds = [{n: v.type for n, v in {**d.graph.outputs, **d.graph.updates}.items()} for d in (before, after)]
        for output, wanted in kinds[0].items():
            if kinds[1].get(output) != wanted:
                raise TypeMismatchError(f"pass {name}: {output!r} was {wanted}, it is {kinds[1].get(output)}")
        largest = 0.0
        for seed in range(self.check):
            inputs = random_inputs(before.graph, seed)
            results = [run(d.graph, inputs, d.weights) for d in (before, after)]
            pairs = [(n, old[n], new[n]) for old, new in zip(*results, strict=True) for n in old]
            error = max((difference(a, b) for _, a, b in pairs), default=0.0)
            if error > self.tolerance:
                least = scales(before.graph, inputs, before.weights, self.tolerance, seed)
                error = max(difference(a, b, least[n]) for n, a, b in pairs)
            largest = max(largest, error)
        if largest > self.tolerance:
            raise GraphError(f"pass {name} changes what the network gives: relative error {largest:.1e}")
        return largest


def _callable(step: Any) -> Pass:
    if not callable(step):
        raise AttributeValueError(f"a pass is a function of a network, not {step!r}")
    return step


def _name(step: Pass) -> str:
    return getattr(step, "__name__", type(step).__name__)


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Random arrays for the inputs: floats around 0, small whole numbers for the others."""
    generator = np.random.default_rng(seed)

    def array(kind: TensorType) -> Array:
        if kind.dtype.is_float or kind.dtype.is_complex:
            return generator.normal(size=kind.shape).astype(kind.dtype.numpy)
        return generator.integers(0, 2, size=kind.shape).astype(kind.dtype.numpy)

    return {n: array(v.type) for n, v in graph.inputs.items()}


def difference(before: Array, after: Array, least: float = 0.0) -> float:
    """The largest error of an array, relative to its largest entry; infinite where only one of two is finite.

    ``least`` is what it is relative to where all entries are smaller.
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    if not before.size or (before.tobytes() == after.tobytes()):
        return 0.0
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    a, b = before.astype(wide), after.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    scale = max(float(np.abs(a[finite]).max(initial=0.0)), least)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (scale or 1.0)


def scales(
    graph: Graph, inputs: Mapping[str, Array], weights: Mapping[str, Array], by: float, seed: int = 0
) -> dict[str, float]:
    """What errors of outputs and updates are relative to, where they are what larger numbers leave that cancel.

    It is how far each is off where all that ops take is off by a part ``by`` of itself, each time, over that part: the
    mean of what a layer norm gives is 0 but for the rounding of numbers around 1.
    """
    generator = np.random.default_rng(seed)

    def off(made: Any) -> Any:
        if isinstance(made, tuple):
            return tuple(map(off, cast("tuple[Any, ...]", made)))
        if made.dtype.kind not in "fc":
            return made
        return made * (1 + by * generator.choice([-1, 1], made.shape)).astype(made.dtype)

    def results(*changed: Any) -> dict[str, Array]:
        outputs, updates = run(graph, inputs, weights, *changed)
        return outputs | updates

    exact, near = results(), [results(off) for _ in range(_TIMES)]
    return {n: max(_apart(a, b[n]) for b in near) / by for n, a in exact.items()}


#: So often something is made a little wrong: of one number that is off, what it is off by may cancel too.
_TIMES = 3


def _apart(a: Array, b: Array) -> float:
    """The largest difference of what is finite in both, of floats."""
    if a.dtype.kind not in "fc":
        return 0.0
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.abs(a[both] - b[both]).max(initial=0.0))
