"""Networks of one pattern each: what is found of each, and what is left is what the network with zeros computes.

pytest tests/prune/test_patterns.py -k lstm
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.interpret import run
from tdagger.prune.removing.check import zeroed
from tdagger.transform.diff.inputs import random_inputs
from tdagger.transform.passes import convert_dtype
from tests.prune import of_attention, of_convolutions, of_entries, of_models
from tests.prune.pattern import PATTERNS
from tests.quick import one_of

#: Where the table is filled.
FILES = (of_attention, of_convolutions, of_entries, of_models)

#: What is made and found of each, once.
_KNOWN: dict[str, Any] = {}


def network(name: str) -> Any:
    """The network of a pattern, imported."""
    if name not in _KNOWN:
        module, args = PATTERNS[name].made()
        _KNOWN[name] = td.from_torch(module, args)
    return _KNOWN[name]


def some(dag: Any, seed: int) -> dict[str, Any]:
    """Units of every group, at random: fewer or more with the seed."""
    rng = np.random.default_rng(seed)
    groups = [g for g in dag.prunable() if g.size > 1]
    counts = [min(max(int(g.size * rng.uniform(0.2, 0.8)), 1), g.size - 1) for g in groups]
    return {g.name: rng.choice(g.size, n, replace=False) for g, n in zip(groups, counts, strict=True)}


PRUNED = [n for n, p in PATTERNS.items() if p.verdict != "none"]
EXACT = [n for n, p in PATTERNS.items() if p.verdict == "exact"]


def test_there_are_enough() -> None:
    assert len(PATTERNS) >= 60


@pytest.mark.parametrize("name", PATTERNS)
def test_groups(name: str) -> None:
    """So many units are found: fewer would tie together, or keep, what can go; more would take apart what can't."""
    found = network(name).prunable()
    sizes: dict[str, list[int]] = {}
    for g in found:
        sizes.setdefault(g.name.split("#")[0], []).append(g.size)
    assert {k: sorted(v) for k, v in sizes.items()} == {
        k: sorted(v if isinstance(v, list) else [v]) for k, v in PATTERNS[name].groups.items()
    }
    if PATTERNS[name].verdict == "none":
        assert PATTERNS[name].says in " ".join(map(str, found.stopped))


@pytest.mark.parametrize("name", PRUNED)
@pytest.mark.parametrize("seed", [0, *[pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)]])
def test_what_is_left(name: str, seed: int) -> None:
    """The same as with zeros, or but for what is named; and it costs what was said."""
    dag, pattern = network(name), PATTERNS[name]
    before = {n: np.array(dag.weights[n]) for n in dag.weights}
    plan = dag.prune_plan(entries=some(dag, seed))
    small, check = plan.apply(), plan.check()
    assert all(np.array_equal(before[n], dag.weights[n]) for n in before)  # also buffers that a run changes
    assert check.passed, (str(check), plan.why)
    if pattern.verdict == "exact":
        assert check.exact
        assert not plan.why
    else:
        assert plan.why
        assert pattern.says in " ".join(plan.why)
        assert plan.found.why(plan.gone)[1] == (pattern.verdict == "norms")
    assert plan.before["flops"] == dag.graph.total_flops()
    assert plan.after["flops"] == small.graph.total_flops()
    assert plan.after["parameters"] == sum(
        w.type.size for w in small.state.values() if w.is_parameter and not w.alias_of
    )


def gradients(dag: Any, args: Any, train: bool) -> dict[str, torch.Tensor]:
    """Of every parameter, of a loss that tells all outputs apart, in double precision."""
    # a copy: buffers that a run changes are shared
    module = copy.deepcopy(convert_dtype(dag, "f64", inputs=True).to_torch(fixed=True)).train(train)
    (out,) = [module(*[a.double() if a.is_floating_point() else a for a in args])]
    loss = (out * torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape).cos()).sum()
    own = {n: p for n, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(own.items(), found, strict=True)}


@pytest.mark.parametrize("name", one_of(2, EXACT))
def test_trains_alike(name: str) -> None:
    """One step of what is left is one step of the network with zeros that stay zero."""
    dag, args = network(name), PATTERNS[name].made()[1]
    plan = dag.prune_plan(entries=some(dag, 1))
    small, removal = plan.apply(), plan.removal
    big = gradients(zeroed(plan.found.dag, removal), args, PATTERNS[name].train)
    top = max(float(g.abs().max()) for g in big.values())
    for n, g in gradients(small, args, PATTERNS[name].train).items():
        wanted = big[n]
        for axis, term in enumerate(removal.units.entries.scope.terms[plan.found.dag.graph.parameters[n]]):
            kept = removal.kept(term)
            if kept is not None:
                wanted = wanted.index_select(axis, torch.from_numpy(np.flatnonzero(kept)))
        assert g.shape == wanted.shape
        torch.testing.assert_close(g, wanted, rtol=1e-9, atol=1e-12 * top)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param(change, name, marks=() if (i + j) % 2 == 0 else pytest.mark.slow)
        for i, name in enumerate(PRUNED)
        for j, change in enumerate(("resize", "unbatch"))
    ],
)
def test_other_sizes(change: str, name: str) -> None:
    """Pruned and resized (unbatched) is resized and pruned; and refused where the network itself is."""
    dag, chosen = network(name), some(network(name), 2)
    small = dag.prune(entries=chosen)

    def changed(dag: Any) -> Any:
        # what is left has no source to ask
        return dag.resize(b=3, assume=True) if change == "resize" else dag.unbatch("b")

    try:
        other = changed(dag)
    except td.AxisError as e:
        pytest.skip(f"refused of the network too: {e}")
    one, two = changed(small), other.prune(entries=chosen)
    if one.graph != two.graph:  # constants may be made in other ways
        inputs = random_inputs(one.graph, two.graph, {n: n for n in one.graph.inputs}, 0)
        results = [run(d.graph, inputs, d.weights)[0].values() for d in (one, two)]
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", one_of(2, PRUNED, first=1))
def test_goes_everywhere(name: str, tmp_path: Any) -> None:
    """What is left is saved and loaded, runs in torch, is pruned again, and becomes others as the network does."""
    dag = network(name)
    chosen = some(dag, 0)
    small = dag.prune(entries=chosen)
    small.save(tmp_path / "small.tdag")
    assert td.load(tmp_path / "small.tdag").hash() == small.hash()
    module = copy.deepcopy(small.to_torch()).train(PATTERNS[name].train)
    args = PATTERNS[name].made()[1]
    with torch.no_grad():
        given = module(*args)
    if len(small.graph.inputs) == len(args):  # it draws no random numbers
        found = small.run(*[array_of(a) for a in args])
        (wanted,) = found.values() if isinstance(found, dict) else (found,)
        np.testing.assert_allclose(array_of(given), wanted, rtol=1e-3, atol=1e-3)
    again = some(small, 1)
    if again:
        assert small.prune_plan(entries=again).check().passed
