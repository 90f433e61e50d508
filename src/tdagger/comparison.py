"""Two versions of a network compared, whatever framework they come from; see :func:`tdagger.diff`."""

from __future__ import annotations

from typing import Any, cast

from tdagger.errors import AttributeValueError
from tdagger.later import later
from tdagger.tensordag import TensorDAG
from tdagger.transform.diff.compare import compared
from tdagger.transform.diff.measure import Measure, by_numpy
from tdagger.transform.diff.words import Diff
from tdagger.tree import flatten


def diff(a: Any, b: Any, inputs: Any, kwargs: dict[str, Any], structure: bool, runs: Any, seed: int) -> Diff:
    """See :func:`tdagger.diff`, which has the defaults."""
    args = cast(tuple[Any, ...], () if inputs is None else inputs if isinstance(inputs, tuple) else (inputs,))
    if structure and runs is not None:
        raise AttributeValueError("diff: structure=True runs nothing, so it takes no runs")
    modules = [n for n in (a, b) if not isinstance(n, TensorDAG)]
    calls: list[Any] = later("torch.in_own_types")(modules, args, kwargs) if modules else []
    one, other = (n if isinstance(n, TensorDAG) else later("torch.from_torch")(n, *calls.pop(0)) for n in (a, b))
    measures = None if runs is None else (_measure(runs[0], one), _measure(runs[1], other))
    given = None if structure or not (args or kwargs) else one.bind(*_arrays(args, kwargs))
    return Diff(one, other, compared(one, other, given, seed, run=not structure, measures=measures))


def _arrays(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with arrays in the place of tensors."""
    leaves, tree = flatten((args, kwargs), lambda x: hasattr(x, "dtype"))
    if not any(hasattr(x, "detach") for x in leaves):
        return args, kwargs
    return tree.unflatten([later("torch.array")(x) if hasattr(x, "detach") else x for x in leaves])


def _measure(run: Any, dag: TensorDAG) -> Measure:
    if run == "numpy":
        return by_numpy(dag)
    if run == "torch":
        return later("torch.by_torch")(dag)
    if callable(run):
        return later("torch.by_call")(run, dag)
    raise AttributeValueError(f'diff: a run is "numpy", "torch" or a function of tensors, not {run!r}')
