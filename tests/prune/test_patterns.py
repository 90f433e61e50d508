"""Networks of one pattern each: what is found of each, and what is left is what the network with zeros computes.

pytest tests/prune/test_patterns.py -k lstm
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.prune.check import EQUAL
from tests.prune import of_attention, of_convolutions, of_entries
from tests.prune.pattern import PATTERNS

assert of_attention and of_convolutions and of_entries  # they fill the table

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
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left(name: str, seed: int) -> None:
    """The same as with zeros, or but for what is named; and it costs what was said."""
    dag, pattern = network(name), PATTERNS[name]
    plan = dag.prune_plan(entries=some(dag, seed))
    small, check = plan.apply(), plan.check()
    assert check.passed, (str(check), plan.why)
    if pattern.verdict == "exact":
        assert check.exact and not plan.why
    else:
        assert plan.why and pattern.says in " ".join(plan.why)
        assert plan.found.why(plan.gone)[1] == (pattern.verdict == "norms")
    assert plan.before["flops"] == dag.graph.total_flops()
    assert plan.after["flops"] == small.graph.total_flops()
    assert plan.after["parameters"] == sum(
        w.type.size for w in small.state.values() if w.is_parameter and not w.alias_of
    )


@pytest.mark.parametrize("name", PRUNED)
def test_goes_everywhere(name: str, tmp_path: Any) -> None:
    """What is left is saved and loaded, runs in torch, is pruned again, and becomes others as the network does."""
    dag = network(name)
    chosen = some(dag, 0)
    small = dag.prune(entries=chosen)
    small.save(tmp_path / "small.tdag")
    assert td.load(tmp_path / "small.tdag").hash() == small.hash()
    module = small.to_torch().train(PATTERNS[name].train)
    args = PATTERNS[name].made()[1]
    with torch.no_grad():
        given = copy.deepcopy(module)(*args)
    if len(small.graph.inputs) == len(args):  # it draws no random numbers
        run = small.run(*[array_of(a) for a in args])
        (wanted,) = run.values() if isinstance(run, dict) else (run,)
        np.testing.assert_allclose(array_of(given), wanted, rtol=1e-3, atol=1e-3)
    again = some(small, 1)
    if again:
        assert small.prune_plan(entries=again).check().passed
