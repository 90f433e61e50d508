"""Learned ranks: layers as two with a gate for every singular value, trained with the network, and what comes of it.

The network has every layer in two of full rank, of which the ranks are units as any others, with the gates of
:mod:`tdagger.frameworks.torch.prune.masks`. What it costs is counted as of two layers by ranks that are expected, over
the cost of the network as it was; in the end a layer whose rank saves nothing is one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tdagger.errors import AttributeValueError
from tdagger.frameworks.torch.prune.masks import LearnedMasks, scheduled
from tdagger.op import Array
from tdagger.prune.methods.lowrank import Layer, in_two, layers, merged, params_of
from tdagger.prune.statistics import Statistics
from tdagger.tensordag import TensorDAG


class LearnedRanks(LearnedMasks):
    """The network of :meth:`tdagger.TensorDAG.learned_ranks`, called as that is.

    ``logits`` has a number for every singular value; :meth:`low_rank` is the network of what was learned.
    """

    def __init__(
        self, dag: TensorDAG, *, data: Statistics | None = None, keep: Sequence[str] = (), only: Sequence[str] = (),
        **how: Any,
    ) -> None:  # fmt: skip
        found = [x for x in layers(dag, keep, only) if x.rank > 1]
        if not found:
            raise AttributeValueError(f"learned_ranks: no layer of {dag.name} can be two")
        two = in_two(dag, found, data)
        prunable = two.prunable()
        held = {(m.name, m.axis): g.name for g in prunable.groups for m in g.members}
        names = {x.weight: held.get((f"{x.path}.0.weight", 0)) for x in found}
        layers_of = {n: x for x in found if (n := names[x.weight]) is not None}
        how = {"importance": "l2", "gates": "straight_through", **how}
        super().__init__(two, only=list(layers_of), found=prunable, **how)
        #: The layer whose ranks each group's units are.
        self.ranked: dict[str, Layer] = layers_of
        self.whole = {"flops": float(dag.graph.total_flops()), "params": params_of(dag)}

    def ranks(self) -> list[Tensor]:
        """The rank that is expected of each layer, with gradients."""
        sizes = [g.size for g in self.tables.groups]
        return [c.sum() for c in self.chances().split(sizes)]

    def expected(self, cost: str = "flops") -> Tensor:
        """The part of the network's cost (flops, params) that layers in two of the expected ranks have, with gradients.

        At full rank that is more than 1.
        """
        if cost not in self.whole:
            raise AttributeValueError(f"learned_ranks: costs are {', '.join(self.whole)}, got {cost!r}")
        found = [self.ranked[g.name] for g in self.tables.groups]
        total = self.logits.new_tensor(self.whole[cost])
        for layer, rank in zip(found, self.ranks(), strict=True):
            total = total - layer.wholes[cost] + layer.beside[cost] + rank * layer.slopes[cost]
        return total / self.whole[cost]

    def low_rank(self, **target: float) -> TensorDAG:
        """The network with the ranks that were learned, or as many of them as meet one target: ``flops=0.5``."""
        dag = self._baked(self._settled() > 0)
        kept = {g.name: k for k, g in self._kept()}
        if target:
            ((what, part),) = target.items()
            kept = self._to(what, part * self.whole[what] if part <= 1 else part)
        gone = {g.name: np.setdiff1d(np.arange(g.size), kept[g.name]) for g in self.tables.groups}
        small = dag.prune(entries={n: u for n, u in gone.items() if len(u)}, found=self.tables.found)
        whole = [x for n, x in self.ranked.items() if not x.saves(len(kept[n]), "flops")]
        return merged(small, whole)

    def _to(self, what: str, wanted: float) -> dict[str, Array]:
        """The ranks of each group, the likeliest first, of which what all cost comes to ``wanted``."""
        scores = self.tables.of(self.chances().detach().double().cpu().numpy())
        steps = np.unique(np.concatenate(list(scores.values())))
        low, high = 0, len(steps) - 1

        def ranks(n: int) -> dict[str, Array]:
            out: dict[str, Array] = {}
            for name, own in scores.items():
                likely = np.flatnonzero(own >= steps[n])
                out[name] = likely if len(likely) else np.array([int(own.argmax())])
            return out

        def cost(n: int) -> float:
            rest = self.whole[what] - sum(x.wholes[what] for x in self.ranked.values())
            return rest + sum(
                x.cost(len(k), what) for x, k in zip(self.ranked.values(), ranks(n).values(), strict=True)
            )

        if cost(high) > wanted:
            raise AttributeValueError(f"learned_ranks: {what} can't become {wanted:.6g}: {cost(high):.6g} is left")
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if cost(middle) > wanted else (low, middle)
        return ranks(high)


def learned_ranks(dag: TensorDAG, **options: Any) -> LearnedRanks:
    """The network with gates of ranks; see :meth:`tdagger.TensorDAG.learned_ranks`."""
    return LearnedRanks(dag, **scheduled(options))
